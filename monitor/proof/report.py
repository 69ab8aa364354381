"""A session of test calls as people and programs read it: line by line while it lasts, then as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from monitor.core.verdict import render_instant
from monitor.markdown import escaped, escaped_rows, markdown_table
from monitor.proof.findings import Needs, Proof, Reason
from monitor.proof.session import Listed, Picture, SeenCall, SeenRecording

FORMAT: Final = 1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is over. ``scope`` says in words, numbers masked, which calls are test calls.

    Instants are milliseconds since 1970.
    """

    version: str
    opened_ms: int
    ended_ms: int
    scope: tuple[str, ...]
    needs: Needs
    picture: Picture
    proof: Proof
    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        """Whether it proves what it was opened for."""
        return not self.reasons


def news(before: Picture | None, after: Picture) -> Iterator[str]:
    """What is new since the picture before, a line each."""
    ticking = before is not None and all(ticks.seen for ticks in before.ticks)
    if not ticking and all(ticks.seen for ticks in after.ticks):
        yield f"the monitor ticks in {_partitions(len(after.ticks))}"
    # A conference whose participants are not known yet is told of with its first call.
    known = {sid: call for call in _told(before) for sid in (*call.call_sids, *call.conference_sids)}
    for call in _told(after):
        was = next((known[sid] for sid in (*call.call_sids, *call.conference_sids) if sid in known), None)
        if was is None:
            yield f"{call.name}: a test call"
        for conference in call.conference_sids:
            if conference not in known:
                yield f"{call.name}: in conference {conference}"
        if not call.lacks and (was is None or was.lacks):
            yield f"{call.name}: seen whole"
        if call.insights and (was is None or not was.insights):
            yield f"{call.name}: Voice Insights has told of its conferences"
    told = {one.name: one for one in (before.recordings if before else ())}
    for recording in after.recordings:
        earlier = told.get(recording.name)
        if earlier is None or earlier.outcome != recording.outcome:
            yield _said(recording)


def _told(picture: Picture | None) -> list[SeenCall]:
    return [] if picture is None else [call for call in picture.calls if call.call_sids]


def _said(recording: SeenRecording) -> str:
    if recording.outcome is None:
        return f"{recording.name}: a recording, not judged yet"
    what = "a recording" if recording.recording_sid is not None else "perhaps recorded"
    return f"{recording.name}: {what}, {recording.outcome}: {recording.reason}"


def as_json(report: Report) -> str:
    """All of it, for programs."""
    picture, proof = report.picture, report.proof
    listed = proof.listed
    whole: dict[str, Any] = {
        "format": FORMAT,
        "passed": report.passed,
        "reasons": report.reasons,
        "version": report.version,
        "opened_at": render_instant(report.opened_ms),
        "watched_until": render_instant(proof.over_ms),
        "ended_at": render_instant(report.ended_ms),
        "test_calls_are": report.scope,
        "needs": report.needs,
        "calls": [_plain(call) for call in picture.calls],
        "calls_seen_whole": picture.whole,
        "other_calls": picture.others,
        "recordings": picture.recordings,
        "ticks": picture.ticks,
        "events": picture.events,
        "partitions_not_judged_to_end": proof.behind,
        "twilio": None
        if listed is None
        else {
            "accounts": listed.accounts,
            "calls": None if listed.calls is None else len(listed.calls),
            "recordings": len(listed.recordings),
            "missed": proof.missed,
        },
        "remarks": list(_remarks(report)),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def _plain(call: SeenCall) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(call)
    plain["began_at"] = render_instant(plain.pop("began_ms"))
    return {**plain, "lacks": call.lacks}


def as_markdown(report: Report) -> str:
    """The same as a page for a ticket or an audit's file."""
    picture, proof = report.picture, report.proof
    lines = [f"# Test and monitor: {'passed' if report.passed else 'NOT passed'}", "", _summary(report), ""]
    lines += markdown_table(("", ""), escaped_rows(_facts(report)))
    if report.reasons:
        lines += ["## Why it is not passed", ""]
        rows = ((f"`{reason.name}`", escaped(reason.says), reason.remedy) for reason in report.reasons)
        lines += markdown_table(("reason", "what was seen", "what to do"), rows)
    if picture.calls:
        lines += ["## Test calls", ""]
        lines += markdown_table(("began", "calls", "conferences", "lacks", "Voice Insights"), map(_row, picture.calls))
    if picture.recordings:
        lines += ["## Recordings", ""]
        head = ("recording", "outcome", "cause", "told by", "why")
        lines += markdown_table(head, escaped_rows(map(_recording_row, picture.recordings)))
    lines += ["## What shows that the monitor could see", ""]
    ticks = (
        (f"{one.partition}", f"{one.seen}", f"{one.longest_gap_ms / 1000:.0f} s", _judged(proof, one.partition))
        for one in picture.ticks
    )
    lines += markdown_table(("partition", "ticks", "longest without", "judged to the end"), ticks)
    if remarks := list(_remarks(report)):
        lines += ["## What this does not show", "", *(f"- {remark}" for remark in remarks)]
    return "\n".join(lines).rstrip() + "\n"


def _summary(report: Report) -> str:
    picture = report.picture
    calls = f"{picture.whole} test call{'' if picture.whole == 1 else 's'} from beginning to end"
    if report.passed:
        return (
            f"The monitor saw {calls}, and no recording that the policy does not allow. It is shown that it would have "
            "seen one."
        )
    return f"The monitor saw {calls}. This is no proof that nothing is recorded: see why."


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    picture, proof = report.picture, report.proof
    yield "opened", render_instant(report.opened_ms)
    yield "calls watched until", render_instant(proof.over_ms)
    yield "ended", render_instant(report.ended_ms)
    yield "test calls", "; ".join(report.scope)
    yield "seen whole", f"{picture.whole}, needed {report.needs.calls}; {picture.others} other calls"
    yield "recordings of them", f"{len(picture.recordings)}"
    listed, missed = proof.listed, proof.missed
    if listed is not None:
        calls = "not asked for" if listed.calls is None else f"{len(listed.calls)}, missed {len(missed.calls)}"
        recordings = f"{len(listed.recordings)}, missed {len(missed.recordings)}"
        yield "Twilio's own lists", f"of {_aliases(listed)}; calls: {calls}; recordings: {recordings}"
    else:
        yield "Twilio's own lists", "not asked" if proof.refused is None else "out of reach"
    yield "policy", ", ".join(sorted({one.policy for one in picture.recordings if one.policy})) or "not needed"
    yield "recording-monitor", report.version


def _aliases(listed: Listed) -> str:
    return ", ".join(sorted(set(listed.accounts.values()))) or "no account"


def _row(call: SeenCall) -> tuple[str, ...]:
    return (
        render_instant(call.began_ms),
        " ".join(call.call_sids),
        " ".join(call.conference_sids),
        ", ".join(call.lacks) or "nothing",
        "told" if call.insights else "silent",
    )


def _recording_row(recording: SeenRecording) -> tuple[str, ...]:
    return (
        recording.recording_sid or f"suspected in {recording.conference_sid}",
        recording.outcome or "no verdict",
        recording.cause or "",
        "Twilio's events" if recording.by_stream else "the monitor's listing",
        recording.reason or "",
    )


def _judged(proof: Proof, partition: int) -> str:
    if proof.interrupted or proof.kafka is not None:
        return "not asked"
    return "no" if partition in proof.behind else "yes"


def _remarks(report: Report) -> Iterator[str]:
    """What a reader must not take for granted."""
    picture = report.picture
    if not report.needs.rest:
        yield "Twilio's own lists were knowingly not asked for: a recording that leaves no event would not be known."
    elif report.proof.listed is not None and report.proof.listed.calls is None:
        yield "Twilio was not asked which calls there were, since it knows none by a tag."
    if silent := [call.name for call in picture.calls if not call.insights]:
        yield f"Voice Insights had not told of all conferences of {', '.join(silent)}; it may yet."
    if lacking := [call.name for call in picture.calls if call.lacks]:
        yield f"Not seen whole, and not counted: {', '.join(lacking)}."
    yield "Recordings made outside of Twilio leave no trace here."


def _partitions(number: int) -> str:
    return "its partition" if number == 1 else f"all {number} partitions"
