"""The verdict: outcome, rule and attribution for one recording, numbered by ``revision``.

A *finding* is a verdict as the fold concludes it, from evidence, account settings and policy alone. ``revise`` makes of
it the verdict to publish, given what is published (the ledger knows), or nothing. The rules of publication are those of
docs/checkpoint.md, and each is one short function here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated, Final

import msgspec

from monitor.core.attribution import ENDED, STATUS_RANK

NUMBER_MAX: Final = (1 << 63) - 1
Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=NUMBER_MAX)]
"""A number that is packed; in the verdict topic, to which others may write, there may be greater ones."""


class Shown(msgspec.Struct, frozen=True):
    """One piece of evidence: where the event is and, in one line, what it shows."""

    event_id: str | None
    type: str
    position: str
    occurred_at: str
    shows: str


class RuledOut(msgspec.Struct, frozen=True):
    """A cause that was weighed and dropped, and by what."""

    cause: str
    by: str


class Revision(msgspec.Struct, frozen=True):
    """An earlier revision of a verdict, as its history keeps it."""

    revision: Number
    outcome: str
    cause: str | None
    decided_at: str


class AlertLabels(msgspec.Struct, frozen=True):
    """The identity of the alert, fixed when the verdict first became disallowed under ``enforce``.

    The start source is part of it: learnt anew by a later event, it would make a second alert of the same recording.
    """

    rule: str
    severity: str
    team: str | None
    account: str
    start_source: str | None = None


class Rejudged(msgspec.Struct, frozen=True):
    """That somebody had a final verdict judged again: when, and what it said before, by which rule of which policy.

    What it says since, and by which policy, stands in the verdict's own fields.
    """

    at: str
    was_outcome: str
    was_rule: str
    was_policy: str


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is published about one recording (or one suspicion); the fields are those of the verdict topic."""

    kind: str
    recording_sid: str | None
    account_sid: str
    revision: Number
    final: bool
    at: tuple[Number, Number]
    rests_from: Number
    outcome: str
    rule: str
    severity: str | None
    mode: str
    policy: str
    cause: str | None
    strength: str | None
    start_source: str | None
    call_sid: str | None
    conference_sid: str | None
    recording_status: str | None
    started_at: str | None
    ended_at: str | None
    first_seen_at: str
    found_by: str | None
    backlog: bool
    decided_at: str
    disallowed_since: str | None
    alert: AlertLabels | None
    reason: str
    evidence: tuple[Shown, ...]
    ruled_out: tuple[RuledOut, ...]
    missing: tuple[str, ...]
    history: tuple[Revision, ...]
    rejudged: Rejudged | None = None  # Left out of the JSON of all the others.

    @property
    def key(self) -> str:
        """The key on the verdict topic: the recording's SID, for a suspicion its conference's."""
        key = self.recording_sid or self.conference_sid
        assert key is not None
        return key


def encode_verdict(verdict: Verdict) -> bytes:
    """Render a verdict as the JSON of the verdict topic."""
    return _encoder.encode(verdict)


def goes_on(verdict: Verdict) -> bool:
    """Whether a recording goes on, by the last verdict about it."""
    ended = verdict.ended_at is not None or verdict.recording_status in ENDED
    return not ended and not verdict.final and verdict.kind == "recording"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Verdict)


def decode_verdict(data: bytes) -> Verdict:
    """Read a verdict back. Raises ``msgspec.DecodeError`` where the bytes are none of ours."""
    return _decoder.decode(data)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_BARE: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - rendered with a Z of our own, at a fifth of the cost.


def render_instant(ms: int) -> str:
    """An instant as ISO 8601 in UTC, to the millisecond."""
    minute, rest_ms = divmod(ms, 60_000)
    seconds, millis = divmod(rest_ms, 1000)
    return _minute(minute) + _SECONDS[seconds] + _MILLIS[millis]


# Formatting three numbers took longer than all else about an instant.
_SECONDS: Final = tuple(f"{seconds:02d}." for seconds in range(60))
_MILLIS: Final = tuple(f"{millis:03d}Z" for millis in range(1000))


@lru_cache(maxsize=8_192)
def _minute(minute: int) -> str:
    # A verdict holds half a dozen instants, most of them of the same few minutes; a date takes most of the time.
    return (_EPOCH_BARE + timedelta(minutes=minute)).isoformat(timespec="minutes") + ":"


def read_instant(text: str) -> int:
    """Milliseconds since 1970 of an instant that ``render_instant`` wrote."""
    ms = _short_instant(text)
    return ms if isinstance(ms, int) else round((datetime.fromisoformat(text) - _EPOCH) / timedelta(milliseconds=1))


def _short_instant(text: str) -> int | str:
    """An instant in milliseconds, if ``render_instant`` would write it so; else the text."""
    minute_ms, second_ms, millis = _minute_ms(text[:17]), _SECOND_MS.get(text[17:20]), _MILLIS_OF.get(text[20:])
    if minute_ms is None or second_ms is None or millis is None:
        return text
    return minute_ms + second_ms + millis


_SECOND_MS: Final = {text: second * 1000 for second, text in enumerate(_SECONDS)}
_MILLIS_OF: Final = {text: millis for millis, text in enumerate(_MILLIS)}


@lru_cache(maxsize=8_192)
def _minute_ms(text: str) -> int | None:
    try:
        minute = (datetime.fromisoformat(text + "00") - _EPOCH_BARE) // timedelta(minutes=1)
    except (ValueError, TypeError):
        return None
    return minute * 60_000 if _minute(minute) == text else None


def _long_instant(instant: int | str) -> str:
    return instant if isinstance(instant, str) else render_instant(instant)


# --------------------------------------------------------------------------- from a finding to what is published

HISTORY_MAX: Final = 20  # The first revision and the latest others; the revision numbers show the gap.
_SEVERITY_RANK: Final = {"info": 0, "warning": 1, "critical": 2}
_FOUND_BY_RANK: Final = {"listing": 0, "verb": 1, "stream": 2}
# Rests on evidence whose offsets can't be compared any more: nothing can be shown to rest on as much.
RESTS_ON_LOST: Final = -1


class Finding(msgspec.Struct, frozen=True):
    """A verdict without what depends on what is published; ``team`` and ``account`` go into the alert's identity.

    ``first_offset``: of all that was looked at for it, the first; what it rests on begins there or later.
    ``failed``: judging raised, so that it says only that there is a recording.
    """

    verdict: Verdict
    first_offset: int
    team: str | None
    account: str
    failed: bool = False


class Published(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is remembered of a published verdict: all that decides what may follow it, without what it says.

    Instants are milliseconds where ``render_instant`` wrote them, else the text itself. ``content`` is a digest of what
    it says; ``history`` holds revision, outcome, cause and instant, ``alert`` the fields of ``AlertLabels``.
    """

    at: tuple[int, int]
    final: bool
    suspicion: bool
    content: int
    revision: int
    outcome: str
    cause: str | None
    rests_from: int
    decided_at: int | str
    backlog: bool
    disallowed_since: int | str | None
    alert: tuple[str, str, str | None, str, str | None] | None
    history: tuple[tuple[int, str, str | None, int | str], ...]


# Two verdicts that agree in all but these say the same.
_NO_CONTENT: Final = frozenset({"revision", "at", "decided_at", "backlog", "history"})
_content = attrgetter(*[name for name in Verdict.__struct_fields__ if name not in _NO_CONTENT])
_pack_content = msgspec.msgpack.Encoder().encode


def _digest(verdict: Verdict) -> int:
    """A number for what a verdict says, the same in every process."""
    said = blake2b(_pack_content(_content(verdict)), digest_size=8)
    return int.from_bytes(said.digest(), "little")


def remember(verdict: Verdict, over: Published | None = None) -> Published:
    """What has to be remembered of a published verdict; ``over``: which it was published over, where that is known."""
    alert, since = verdict.alert, verdict.disallowed_since
    if over is not None:
        history = _history_after(over)
    else:
        told = verdict.history
        history = tuple([(one.revision, one.outcome, one.cause, _short_instant(one.decided_at)) for one in told])
    # In the order of the fields: by name it would cost several times as much, for every verdict.
    return Published(
        verdict.at,
        verdict.final,
        verdict.kind == "suspicion",
        _digest(verdict),
        verdict.revision,
        verdict.outcome,
        verdict.cause,
        verdict.rests_from,
        _short_instant(verdict.decided_at),
        verdict.backlog,
        None if since is None else _short_instant(since),
        None if alert is None else msgspec.structs.astuple(alert),
        history,
    )


def _after(revision: int) -> int:
    """The next revision; behind the last one that can be read back, which only somebody else writes, the same again."""
    return min(revision + 1, NUMBER_MAX)


def revise(published: Published | None, finding: Finding, whole: Callable[[str], Verdict | None]) -> Verdict | None:
    """The verdict to publish over ``published``, or None where there is nothing new to say.

    ``whole`` reads the published verdict under a key; it is asked only where something of what that says is to stand.
    """
    found = finding.verdict
    if published is None:
        since, alert = _dated(None, finding)
        return msgspec.structs.replace(found, revision=1, disallowed_since=since, alert=alert)
    history = _with_history(published)
    if published.final or _stands(published, finding):
        standing = whole(found.key)
        assert standing is not None
        new = msgspec.structs.replace(
            _amended(standing, found, final=published.final or found.final),
            revision=_after(published.revision),
            at=found.at,
            decided_at=found.decided_at,
            backlog=found.backlog,
            history=history,
        )
    else:
        since, alert = _dated(published, finding)
        new = msgspec.structs.replace(
            found,
            revision=_after(published.revision),
            rests_from=_rests_from(published, found),
            disallowed_since=since,
            alert=alert,
            history=history,
        )
    return None if _digest(new) == published.content else new


def _stands(published: Published, finding: Finding) -> bool:
    """Whether what is published stands: it would be allowed on less evidence than it was disallowed on.

    Or judging failed; then it stands to the end only if nothing could lift it.
    """
    if finding.failed:
        return published.outcome == "disallowed" or not finding.verdict.final
    return (
        published.outcome == "disallowed"
        and finding.verdict.outcome == "allowed"
        and not finding.first_offset <= _published_rest(published, finding.verdict)
    )


def _published_rest(published: Published, found: Verdict) -> int:
    """The lowest offset the published verdict rested on, where offsets of the two can be compared."""
    return published.rests_from if published.at[0] == found.at[0] else RESTS_ON_LOST


def _rests_from(published: Published, found: Verdict) -> int:
    if published.suspicion or published.outcome != "disallowed":
        return found.rests_from if published.at[0] != found.at[0] else min(published.rests_from, found.rests_from)
    return min(_published_rest(published, found), found.rests_from)


def _amended(published: Verdict, found: Verdict, *, final: bool) -> Verdict:
    """The published verdict with what may still change about a settled one: status, end, and how it was found."""
    status, ended_at, found_by = published.recording_status, published.ended_at, published.found_by
    if STATUS_RANK.get(found.recording_status or "", 0) > STATUS_RANK.get(status or "", 0):
        status = found.recording_status
    if _FOUND_BY_RANK.get(found.found_by or "", -1) > _FOUND_BY_RANK.get(found_by or "", -1):
        found_by = found.found_by
    if ended_at is None:
        ended_at = found.ended_at
    return msgspec.structs.replace(
        published, recording_status=status, ended_at=ended_at, found_by=found_by, final=final
    )


def _dated(published: Published | None, finding: Finding) -> tuple[str | None, AlertLabels | None]:
    """The instant since which it is disallowed, and the alert's identity: both outlive revisions.

    A policy that only observes has no alerts, not even those of the policy before it.
    """
    new = finding.verdict
    alert: AlertLabels | None = None
    if published is not None and published.alert is not None and new.mode == "enforce":
        alert = AlertLabels(*published.alert)
    if new.outcome != "disallowed":
        return None, alert
    since = new.decided_at
    if published is not None and published.outcome == "disallowed" and published.disallowed_since is not None:
        since = _long_instant(published.disallowed_since) or since
    severity = new.severity or "critical"
    if new.mode == "enforce" and (alert is None or _SEVERITY_RANK[severity] > _SEVERITY_RANK[alert.severity]):
        alert = AlertLabels(new.rule, severity, finding.team, finding.account, new.start_source)
    return since, alert


def _with_history(published: Published) -> tuple[Revision, ...]:
    history = _history_after(published)
    return tuple([Revision(number, outcome, cause, _long_instant(at)) for number, outcome, cause, at in history])


def _history_after(published: Published) -> tuple[tuple[int, str, str | None, int | str], ...]:
    """The history of what is published over it."""
    told = (published.revision, published.outcome, published.cause, published.decided_at)
    history = (*published.history, told)
    return history if len(history) <= HISTORY_MAX else (history[0], *history[1 - HISTORY_MAX :])


def orphaned(published: Verdict, at: tuple[int, int], decided_at: str) -> Verdict:
    """The end of a verdict whose evidence was lost: what was disallowed stays so, of the rest nothing is known."""
    new = msgspec.structs.replace(published, final=True)
    if published.outcome != "disallowed":
        new = msgspec.structs.replace(
            new,
            outcome="undetermined",
            rule="when_open",
            severity="warning",
            cause=None,
            strength=None,
            reason="The evidence was lost before this recording was judged to the end.",
            missing=("evidence lost",),
        )
    return msgspec.structs.replace(
        new,
        revision=_after(published.revision),
        at=at,
        decided_at=decided_at,
        history=_with_history(remember(published)),
    )


def rejudged(published: Verdict, found: Verdict, now: str) -> Verdict:
    """What a final verdict says from ``now`` on: what was ``found`` when its conversation was judged again.

    It keeps its place in the order. Of two final verdicts with one place readers take the later; one that has been
    changed meanwhile has a greater place, and stands. It is of the backlog: nobody is paged singly for the past.
    """
    team, account = (None, "") if found.alert is None else (found.alert.team, found.alert.account)
    found = msgspec.structs.replace(found, decided_at=now)
    last = remember(published)
    since, alert = _dated(last, Finding(found, found.rests_from, team, account))
    new = msgspec.structs.replace(
        found,
        revision=_after(published.revision),
        at=published.at,
        rests_from=min(published.rests_from, found.rests_from),
        first_seen_at=published.first_seen_at,
        backlog=True,
        disallowed_since=since,
        alert=alert,
        history=_with_history(last),
        rejudged=Rejudged(now, published.outcome, published.rule, published.policy),
    )
    return _amended(new, published, final=True)
