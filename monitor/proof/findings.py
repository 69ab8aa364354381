"""What a session of test calls proves: what is still awaited, and every reason why it is not passed.

A session passes only if the monitor shows that it could see; that nothing was seen proves nothing by itself. Reasons
have stable names, with which people and programs may reckon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from monitor.core.policy import DISALLOWED, UNDETERMINED
from monitor.core.values import span_ms
from monitor.proof.session import Listed, Missed, Picture, SeenRecording, Ticks

TICK_GAP_MAX: Final = timedelta(seconds=60)
"""The owner of a partition writes a tick every 10 s; a takeover may take as long as six of them."""
_TICK_GAP_MAX_MS: Final = span_ms(TICK_GAP_MAX)
NAMED_MAX: Final = 20

REMEDIES: Final = {
    "interrupted": "Open a session again, and let it come to its end.",
    "kafka_unreachable": "See that the brokers answer: `recording-monitor doctor`.",
    "monitor_not_running": "Start the monitor, see that it is ready, and look at `recording-monitor doctor`.",
    "tick_lost": "See who owns the partition and whether it is stopped or restarting: `recording-monitor doctor`.",
    "not_judged_to_end": "The monitor is behind: wait until its lag is gone, then test again.",
    "blind_interval": "Lengthen the retention of the events topic, then test again.",
    "too_much_traffic": "Say which calls are test calls: --number or --tag.",
    "no_test_call_seen": "Do calls reach Twilio, and their events the topic? `recording-monitor twilio check` says so.",
    "too_few_test_calls": "Make as many calls as --calls says, or give them more time with --for.",
    "no_call_events": "Subscribe to call status events, and have the calls ask for status callbacks.",
    "no_conference_events": "Subscribe to conference events, and have the conferences ask for status callbacks.",
    "call_not_ended": "Hang up, and subscribe to `status-callback.call.completed`.",
    "disallowed_recording": "Look at its case: what started it, and what to do now.",
    "undetermined": "Look at its case: the verdict says under `missing` what would have settled it.",
    "suspected": "Look in Twilio's console whether this conference has a recording.",
    "no_verdict": "Is the monitor behind, or stopped? `recording-monitor policy explain` says what it would say.",
    "missed_call": "Its events are not subscribed to, not asked for, or lost: `recording-monitor twilio check`.",
    "missed_recording": "Have whoever starts it ask for a recording status callback; the monitor's listing judges it.",
    "rest_not_asked": "Give the accounts credentials, or accept it with --without-rest.",
    "rest_unreachable": "See that Twilio answers: `recording-monitor doctor`.",
    "insights_missing": "Wait longer (--wait), subscribe to conference summaries, or have Twilio asked.",
    "unreadable_event": "See what it was: `recording-monitor quarantine list`.",
}
"""Every reason there is, and what to do about it."""


class Needs(msgspec.Struct, frozen=True):
    """What a session has to bring: so many test calls; and with ``rest`` Twilio's own lists."""

    calls: int = 1
    rest: bool = True


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out at the end, beside the messages. ``over_ms`` is when calls were no longer watched.

    ``behind`` are the partitions of which the monitor had not judged all that came before the end; ``deleted`` those
    that lost messages of the session. ``listed`` is None where Twilio was not asked, or did not answer: ``refused`` is
    why. ``kafka`` says why the brokers could not be asked.
    """

    over_ms: int
    interrupted: bool = False
    kafka: str | None = None
    behind: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()
    listed: Listed | None = None
    refused: str | None = None
    missed: Missed = Missed((), ())


class Reason(msgspec.Struct, frozen=True):
    """Why a session is not passed. ``name`` is one of ``REMEDIES``; ``sids`` are all it is about."""

    name: str
    says: str
    remedy: str
    sids: tuple[str, ...] = ()


def awaited(picture: Picture, over_ms: int) -> Iterator[str]:
    """What has to come: a tick of each partition after the end of watching, and a verdict on each recording."""
    if silent := [f"{ticks.partition}" for ticks in picture.ticks if not _ticked_after(ticks, over_ms)]:
        yield f"a tick in partition {', '.join(silent)}"
    for recording in picture.recordings:
        if recording.outcome is None:
            yield f"the verdict on {recording.name}"


def late(picture: Picture) -> Iterator[str]:
    """What may still come, and is waited for only so long: the end of calls, and the summaries of Voice Insights."""
    for call in picture.calls:
        if not call.ended:
            yield f"the end of {call.name}"
        elif not call.insights and call.conference_sids:
            yield f"Voice Insights on {', '.join(call.conference_sids)}"


def hopeless(picture: Picture) -> bool:
    """Whether no tick at all has come for so long that nothing can be proved any more."""
    return all(not ticks.seen and ticks.longest_gap_ms > _TICK_GAP_MAX_MS for ticks in picture.ticks)


def reasons(picture: Picture, needs: Needs, proof: Proof) -> tuple[Reason, ...]:
    """Every reason why the session is not passed; none: it is."""
    found = [*_ended(proof), *_ticking(picture, proof), *_calls(picture, needs), *_recordings(picture, proof)]
    if not proof.interrupted:
        found += _outside(picture, needs, proof)
    return tuple(found)


def _reason(name: str, says: str, sids: Sequence[str] = ()) -> Reason:
    more = f" and {len(sids) - NAMED_MAX} more" if len(sids) > NAMED_MAX else ""
    named = f": {', '.join(sids[:NAMED_MAX])}{more}" if sids else ""
    return Reason(name, f"{says}{named}.", REMEDIES[name], tuple(sids))


def _ended(proof: Proof) -> Iterator[Reason]:
    if proof.interrupted:
        yield _reason("interrupted", "The session was interrupted before its end")
    if proof.kafka is not None:
        yield _reason("kafka_unreachable", f"Kafka could not be asked at the end: {proof.kafka}")
    if proof.deleted:
        numbers = ", ".join(map(str, proof.deleted))
        yield _reason("blind_interval", f"Messages of the session were gone before its end, in partition {numbers}")


def _ticked_after(ticks: Ticks, over_ms: int) -> bool:
    return ticks.last_ms is not None and ticks.last_ms >= over_ms


def _ticking(picture: Picture, proof: Proof) -> Iterator[Reason]:
    if picture.too_much:
        yield _reason("too_much_traffic", "More was going on than a session keeps in mind, so that a part was not seen")
    gaps = [
        ticks
        for ticks in picture.ticks
        if ticks.longest_gap_ms > _TICK_GAP_MAX_MS or not (proof.interrupted or _ticked_after(ticks, proof.over_ms))
    ]
    if gaps and not any(ticks.seen for ticks in picture.ticks):
        yield _reason("monitor_not_running", "No tick of the monitor was seen in any partition")
    elif gaps:
        told = ", ".join(f"{ticks.partition} for {ticks.longest_gap_ms // 1000} s" for ticks in gaps)
        yield _reason("tick_lost", f"No tick of the monitor was seen in partition {told}")


def _calls(picture: Picture, needs: Needs) -> Iterator[Reason]:
    if not picture.calls:
        others = f"; {picture.others} calls that are none were" if picture.others else ""
        yield _reason("no_test_call_seen", f"No test call was seen from its beginning{others}")
    elif picture.whole < needs.calls:
        whole = f"{picture.whole} of {needs.calls} test calls {'was' if picture.whole == 1 else 'were'} seen whole"
        yield _reason("too_few_test_calls", whole)
        for name, says, lacking in (
            ("no_call_events", "No events of the calls themselves were seen of", "call events"),
            ("no_conference_events", "No conference events were seen of", "conference events"),
            ("call_not_ended", "No end was seen of", "its end"),
        ):
            if concerned := [call.name for call in picture.calls if lacking in call.lacks]:
                yield _reason(name, says, concerned)


def _recordings(picture: Picture, proof: Proof) -> Iterator[Reason]:
    def of(outcome: str | None, *, suspicion: bool = False) -> list[str]:
        return [one.name for one in picture.recordings if _is(one, outcome, suspicion=suspicion)]

    if disallowed := of(DISALLOWED):
        yield _reason("disallowed_recording", "The policy does not allow", disallowed)
    if undetermined := of(UNDETERMINED):
        yield _reason("undetermined", "Nobody can say whether the policy allows", undetermined)
    if suspected := of(UNDETERMINED, suspicion=True):
        yield _reason(
            "suspected", "Voice Insights says that recording was on, and no recording was seen, in", suspected
        )
    if picture.unreadable:
        yield _reason("unreadable_event", "An event that nobody can read names", picture.unreadable)
    if not proof.interrupted and (unjudged := of(None)):
        yield _reason("no_verdict", "The monitor has published no verdict on", unjudged)


def _is(recording: SeenRecording, outcome: str | None, *, suspicion: bool) -> bool:
    return recording.outcome == outcome and (recording.recording_sid is None) == suspicion


def _outside(picture: Picture, needs: Needs, proof: Proof) -> Iterator[Reason]:
    """What only the end can show, so that an interrupted session says nothing of it."""
    if proof.behind:
        numbers = ", ".join(map(str, proof.behind))
        yield _reason("not_judged_to_end", f"The monitor had not judged all of the session in partition {numbers}")
    if not needs.rest:
        if silent := [call.name for call in picture.calls if not call.lacks and not call.insights]:
            yield _reason("insights_missing", "Neither Twilio nor Voice Insights was heard about", silent)
        return
    if proof.refused is not None:
        yield _reason("rest_unreachable", f"Twilio could not be asked: {proof.refused}")
        return
    asked = proof.listed.accounts if proof.listed is not None else {}
    unasked = sorted({call.account_sid for call in picture.calls} - asked.keys())
    if unasked or not asked:
        yield _reason("rest_not_asked", "Twilio's own list of recordings was not asked for", unasked)
    if proof.missed.calls:
        yield _reason("missed_call", "Twilio lists calls that no event told of", proof.missed.calls)
    if proof.missed.recordings:
        yield _reason(
            "missed_recording", "Twilio lists recordings that its events did not tell of", proof.missed.recordings
        )
