"""Twilio's own events about a case, and what they show in time: the lanes of its picture. Pure functions.

The events are masked where they are read; nothing here needs a number or a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from monitor.core.decode import decode
from monitor.core.events import ConferenceFact, Event, ParticipantFact
from monitor.core.verdict import read_instant
from monitor.outputs.cases import Case

CALLS_MAX: Final = 12
"""Calls that are drawn; a conference of more is told as such."""
AFTER_MS: Final = 30_000
BEFORE_MS: Final = 5_000


class RawEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the events topic: its ``partition:offset``, when Kafka took it, and its JSON, numbers masked.

    ``value`` is None where it is no JSON, and so cannot be shown to be harmless.
    """

    position: str
    arrived_at: str
    value: bytes | None


class RawEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The messages about a case that were found, in order; ``why`` says what may be missing, None where nothing is."""

    events: tuple[RawEvent, ...] = ()
    why: str | None = None


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the picture: ``kind`` is conference, call or recording. An end that is None was not seen."""

    kind: str
    sid: str
    start_ms: int | None
    end_ms: int | None
    deciding: bool = False
    """Whether it is what the verdict is about."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something at one instant: a piece of evidence by its number in the verdict, or the verdict itself (0)."""

    at_ms: int
    number: int
    says: str


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn of a case, between two instants."""

    lanes: tuple[Lane, ...]
    marks: tuple[Mark, ...]
    from_ms: int
    to_ms: int
    calls_left_out: int = 0


def picture(case: Case, events: Iterable[RawEvent], now_ms: int) -> Picture:
    """What is known of a case in time; without events, what the verdict says by itself."""
    verdict = case.verdict
    spans: dict[tuple[str, str], list[int | None]] = {}
    if verdict.conference_sid is not None:
        spans["conference", verdict.conference_sid] = [None, None]
    if verdict.call_sid is not None:
        spans["call", verdict.call_sid] = [None, None]
    for lane, phase, at_ms in _phases(events):
        if lane[0] == "conference" and lane[1] != verdict.conference_sid:
            continue  # Another one that a call of this one was in.
        span = spans.setdefault(lane, [None, None])
        if phase in ("start", "join"):
            span[0] = at_ms if span[0] is None else min(span[0], at_ms)
        elif phase in ("end", "leave"):
            span[1] = at_ms if span[1] is None else max(span[1], at_ms)
    if verdict.recording_sid is not None:
        start = verdict.started_at or verdict.first_seen_at
        end_ms = case.ended_ms if verdict.ended_at is None else read_instant(verdict.ended_at)
        spans["recording", verdict.recording_sid] = [read_instant(start), end_ms]
    marks = [Mark(at_ms=read_instant(verdict.disallowed_since or verdict.decided_at), number=0, says=verdict.outcome)]
    marks += [
        Mark(at_ms=read_instant(shown.occurred_at), number=number, says=shown.shows)
        for number, shown in enumerate(verdict.evidence, 1)
    ]
    instants = [at_ms for span in spans.values() for at_ms in span if at_ms is not None]
    instants += [mark.at_ms for mark in marks]
    calls = [lane for lane in spans if lane[0] == "call"]
    calls.sort(key=lambda lane: (lane[1] != verdict.call_sid, spans[lane][0] or 0))
    drawn = [lane for lane in spans if lane[0] == "conference"] + calls[:CALLS_MAX]
    drawn += [lane for lane in spans if lane[0] == "recording"]
    about = {verdict.call_sid, verdict.conference_sid, verdict.recording_sid}
    return Picture(
        lanes=tuple(
            Lane(kind=kind, sid=sid, start_ms=spans[kind, sid][0], end_ms=spans[kind, sid][1], deciding=sid in about)
            for kind, sid in drawn
        ),
        marks=tuple(marks),
        from_ms=min(instants) - BEFORE_MS,
        to_ms=min(max(instants) + AFTER_MS, max(now_ms, max(instants) + BEFORE_MS)),
        calls_left_out=len(calls[CALLS_MAX:]),
    )


def _phases(events: Iterable[RawEvent]) -> Iterator[tuple[tuple[str, str], str, int]]:
    """What began and ended when, as far as events say it: the lane, the phase, the instant."""
    for raw in events:
        for event in decode(raw.value):
            if not isinstance(event, Event):
                continue
            for fact in event.facts:
                at_ms = event.occurred_ms
                if isinstance(fact, ParticipantFact | ConferenceFact):
                    at_ms = fact.at_ms if fact.at_ms is not None else at_ms
                    lane = ("call", fact.call) if isinstance(fact, ParticipantFact) else ("conference", fact.conference)
                    if at_ms is not None:
                        yield lane, fact.phase, at_ms
