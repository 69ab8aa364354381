"""An audit as people and programs read it: a table, Markdown, JSON; and as a file for the next one to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from monitor.audit.drift import Change
from monitor.audit.sessions import AgentSession
from monitor.audit.starts import BEYOND, Audit, Entrance, Look, Start
from monitor.core.policy import ALLOWED, DISALLOWED, UNDETERMINED
from monitor.errors import WrongInput
from monitor.markdown import escaped_rows, markdown_table

FORMAT: Final = 1
ENTRANCES_SHOWN: Final = 5
_ORDER: Final = (DISALLOWED, UNDETERMINED, ALLOWED)


class _Saved(msgspec.Struct, frozen=True):
    format: int
    audit: Audit


def masked(audit: Audit) -> Audit:
    """The same with telephone numbers of which country and last two digits are left."""

    def hide(what: Any) -> Any:
        hidden = tuple(
            msgspec.structs.replace(each, number=None if each.number is None else mask_number(each.number))
            for each in what.reached_from
        )
        return msgspec.structs.replace(what, reached_from=hidden)

    return msgspec.structs.replace(audit, starts=tuple(map(hide, audit.starts)), looks=tuple(map(hide, audit.looks)))


def mask_number(number: str) -> str:
    """``+4930123456`` as ``+49*****56``: enough to find it again, not enough to call it."""
    return f"{number[:3]}{'*' * max(0, len(number) - 5)}{number[-2:]}" if len(number) > 7 else "*" * len(number)


def summary(audit: Audit) -> str:
    """One line: how many of what."""
    return (
        f"{len(audit.starts)} can start recordings: {audit.of(DISALLOWED)} of them disallowed, "
        f"{audit.of(ALLOWED)} allowed, {audit.of(UNDETERMINED)} as the call may be. "
        f"{len(audit.looks)} to look at yourself. {len(audit.unread)} parts not read."
    )


def rows(audit: Audit) -> Iterator[tuple[str, str, str, str]]:
    """What was found, the worst first: outcome, cause, where, reached from."""
    for start in sorted(audit.starts, key=lambda each: _ORDER.index(each.outcome)):
        where = f"{start.place}: {start.detail}" if start.detail else str(start.place)
        outcome = start.outcome + (f" (by {', '.join(start.depends_on)})" if start.depends_on else "")
        yield outcome, start.cause, f"{start.account_sid}: {where}", entrances(start.reached_from)
    for look in audit.looks:
        yield "look here yourself", "", f"{look.account_sid}: {look.place}. {look.why}", entrances(look.reached_from)
    for unread in audit.unread:
        yield "not read", "", f"{unread.account_sid}: {unread.part}: {unread.why}", ""


def change_rows(changed: Iterable[Change]) -> Iterator[tuple[str, str, str, str]]:
    """What changed: how, where, before, after."""
    for change in changed:
        where = f"{change.what.account_sid}: {change.what.place}"
        yield change.kind, where, change.before or "", change.after or ""


def entrances(reached_from: Sequence[Entrance]) -> str:
    """The first lines from which calls get somewhere, and how many more there are."""
    shown = [f"{each.sid} {each.number or ''}".strip() for each in reached_from[:ENTRANCES_SHOWN]]
    more = len(reached_from) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def as_text(audit: Audit, changed: Sequence[Change] | None) -> str:
    """All of it for a terminal: a block each, since SIDs that are broken over lines help nobody."""
    lines: list[str] = []
    for outcome, cause, where, reached_from in rows(audit):
        lines += [f"{outcome}  {cause}".rstrip(), f"    {where}"]
        lines += [f"    reached from {reached_from}"] if reached_from else []
    lines += [*([""] if lines else []), summary(audit)]
    if changed is not None:
        lines += ["", "Changed since the baseline:" if changed else "Nothing changed since the baseline."]
        for kind, where, before, now in change_rows(changed):
            lines += [f"{kind}  {' -> '.join(said for said in (before, now) if said)}", f"    {where}"]
    lines += ["", "Not read, since no API shows it:", *(f"    {line}" for line in BEYOND)]
    return "\n".join(lines) + "\n"


def as_json(audit: Audit, changed: Sequence[Change] | None) -> str:
    """All of it, for programs; ``changes`` is null where there was nothing to compare with."""
    whole = {
        "format": FORMAT,
        "audit": audit,
        "beyond": BEYOND,
        "changes": None if changed is None else [_plain(change) for change in changed],
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def _plain(change: Change) -> dict[str, Any]:
    what: Start | Look = change.what
    return {
        "kind": change.kind,
        "account_sid": what.account_sid,
        "place": what.place,
        "before": change.before,
        "after": change.after,
    }


def as_markdown(audit: Audit, changed: Sequence[Change] | None) -> str:
    """The same as a page for a ticket or a repository."""
    lines = [f"# What can start a recording, {audit.read_at}", "", summary(audit), ""]
    lines += markdown_table(("outcome", "cause", "where", "reached from"), escaped_rows(rows(audit)))
    if changed is not None:
        lines += ["## What changed", ""]
        table = markdown_table(("change", "where", "before", "now"), escaped_rows(change_rows(changed)))
        lines += table if changed else ["Nothing.", ""]
    lines += ["## What no audit can read", "", *(f"- {line}" for line in BEYOND)]
    return "\n".join(lines) + "\n"


def sessions_text(found: Sequence[AgentSession]) -> str:
    """Agents' sessions, a line each, and who has to log out and in."""
    lines = [
        f"{'log out and in' if each.must_log_in else 'nothing to do':<15} {each.account_sid} {each.worker_sid}  "
        f"session {each.session}, online since {each.online_since or 'nobody knows when'}, recording off since "
        f"{each.off_since or 'nobody knows when'}; {each.recordings} recordings"
        + (f", the last at {each.last_recording_at}" if each.last_recording_at else "")
        for each in found
    ]
    must = sum(each.must_log_in for each in found)
    left = sum(each.recordings for each in found if each.must_log_in)
    lines.append(f"{must} of {len(found)} agents have to log out of Flex and in again; they left {left} recordings.")
    return "\n".join(lines) + "\n"


def sessions_json(found: Sequence[AgentSession]) -> str:
    """The same for programs."""
    plain = [{**msgspec.to_builtins(each), "must_log_in": each.must_log_in} for each in found]
    return msgspec.json.format(msgspec.json.encode({"format": FORMAT, "sessions": plain}), indent=2).decode() + "\n"


def save(audit: Audit, path: Path) -> None:
    """Write an audit for a later one to be compared with; telephone numbers are masked. Raises ``WrongInput``."""
    try:
        path.write_text(as_json(masked(audit), None), encoding="utf-8")
    except OSError as error:
        raise WrongInput(f"{path}: cannot be written: {error.strerror}. Name another file with --save") from None


def load(path: Path) -> Audit:
    """Read what ``save`` wrote. Raises ``WrongInput``."""
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except OSError as error:
        raise WrongInput(f"{path}: cannot be read: {error.strerror}. Write one with `audit --save FILE`") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongInput(f"{path}: is no saved audit ({error}). Write one with `audit --save FILE`") from None
    if saved.format != FORMAT:
        raise WrongInput(f"{path}: was saved by another version (format {saved.format}). Write it anew with --save")
    return saved.audit
