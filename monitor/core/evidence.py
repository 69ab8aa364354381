"""Evidence: a conversation's facts, read back and put in order, and the questions that can be asked of them.

Nothing here concludes what started a recording: it says where a call was and when, which conference a name means, and
which events show it. The order in which events arrived plays no part.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

import msgspec

from monitor.core.conversation import Conversation, Kept, read_noted, read_noted_properties
from monitor.core.events import (
    CallFact,
    ConferenceFact,
    ExecutionFact,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.values import is_sid
from monitor.core.window import CLAIM_REACH_MS

JOIN_SLACK_MS: Final = 5_000  # A call's join may be stamped this much before the TwiML that led to it.


class Proof(msgspec.Struct, frozen=True, gc=False):
    """One event that carries a conclusion, and what it shows in one line."""

    kept: Kept
    shows: str


class Stay(msgspec.Struct, gc=False):
    """A call's time inside a conference; ``enter_ms`` None: it was inside before anything was seen of it."""

    conference: str
    enter_ms: int | None
    leave_ms: int | None
    first_seen_ms: int

    def covers(self, at_ms: int) -> bool:
        """Whether the call is known to have entered by then, and not to have left."""
        return self.enter_ms is not None and self.enter_ms <= at_ms and (self.leave_ms is None or at_ms < self.leave_ms)


class _Room(msgspec.Struct):
    """A conference under one of its names, by the events that say the name."""

    first_ms: int
    end_ms: int | None


class _Conference(msgspec.Struct):
    rooms: dict[str, _Room]
    named: Proof | None
    end_ms: int | None
    in_task: Proof | None


class Evidence:
    """A conversation's evidence, read back and put in order; built once to judge all its recordings.

    Facts are sorted by kind at once, and looked into only when a question needs them: most recordings are decided by
    their start source and a few facts of one or two kinds.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.account = conversation.account
        self.truncated = conversation.truncated
        self._conversation = conversation
        self._by_kind: dict[type, list[tuple[Kept, Any]]] = {}
        self._stays: dict[str, list[Stay]] = {}
        self._known: dict[str, _Conference] = {}
        by_kind = self._by_kind
        self._view = conversation.view()
        entries: Iterable[Kept] = conversation.read_evidence()
        if self._view is not None:
            entries = each_once(entries, read_noted(self._view))
        for kept in sorted(entries, key=_BY_TIME):
            for fact in kept.facts:
                kind = type(fact)
                if kind in by_kind:
                    by_kind[kind].append((kept, fact))
                else:
                    by_kind[kind] = [(kept, fact)]
        self.recordings: dict[str, list[tuple[Kept, RecordingFact]]] = {}
        for kept, fact in by_kind.get(RecordingFact, ()):
            self.recordings.setdefault(fact.recording, []).append((kept, fact))

    @property
    def twiml(self) -> list[tuple[Kept, TwimlFact]]:
        """TwiML that records a conference, in order of time."""
        return self._by_kind.get(TwimlFact, [])

    @property
    def requests(self) -> list[tuple[Kept, RequestFact]]:
        """Participant requests that record their conference, in order of time."""
        return self._by_kind.get(RequestFact, [])

    @cached_property
    def executions(self) -> dict[str, list[tuple[Kept, ExecutionFact]]]:
        """Studio executions: what is known of each, in order of time."""
        executions: dict[str, list[tuple[Kept, ExecutionFact]]] = {}
        for kept, fact in self._by_kind.get(ExecutionFact, ()):
            executions.setdefault(fact.execution, []).append((kept, fact))
        return executions

    def steps(self, execution: str) -> list[tuple[Kept, StepFact]]:
        """The steps of a Studio execution, in order of time."""
        return [(kept, fact) for kept, fact in self._by_kind.get(StepFact, ()) if fact.execution == execution]

    @cached_property
    def suspected(self) -> dict[str, Kept]:
        """Conferences that Voice Insights says had recording on, and the first event that said so."""
        suspected: dict[str, Kept] = {}
        for kept, fact in self._by_kind.get(ConferenceFact, ()):
            if fact.recording_on:
                known = suspected.get(fact.conference)
                if known is None or kept.offset < known.offset:
                    suspected[fact.conference] = kept
        return suspected

    @cached_property
    def _properties(self) -> tuple[CallFact | TaskFact, ...]:
        own = self._conversation.read_properties()
        if self._view is None:
            return own
        return tuple(dict.fromkeys([*own, *read_noted_properties(self._view)]))

    @cached_property
    def tasks(self) -> list[TaskFact]:
        """What is known of tasks, in no order."""
        return [fact for fact in self._properties if isinstance(fact, TaskFact)]

    def calls(self, sids: Iterable[str]) -> list[CallFact]:
        """What is known of these calls, in no order."""
        wanted = set(sids)
        return [fact for fact in self._properties if isinstance(fact, CallFact) and fact.call in wanted]

    @cached_property
    def conferences(self) -> dict[str, _Conference]:
        """The conferences, by every event that names them."""
        conferences: dict[str, _Conference] = {}
        for kept, participant in self._by_kind.get(ParticipantFact, ()):
            at_ms = kept.occurred_ms if participant.at_ms is None else participant.at_ms
            _see(conferences, kept, participant.conference, participant.name, at_ms, None)
        for kept, fact in self._by_kind.get(ConferenceFact, ()):
            at_ms = kept.occurred_ms if fact.at_ms is None else fact.at_ms
            end_ms = at_ms if fact.phase == "end" else None
            conference = _see(conferences, kept, fact.conference, fact.name, at_ms, end_ms)
            if end_ms is not None and (conference.end_ms is None or end_ms > conference.end_ms):
                conference.end_ms = end_ms
        for kept, task in self._by_kind.get(TaskFact, ()):
            conference = _see(conferences, kept, task.conference, None, 0, None)
            if conference.in_task is None or kept.offset < conference.in_task.kept.offset:
                shows = f"Task {task.task} names conference {task.conference} in its attributes"
                conference.in_task = Proof(kept, shows)
        return conferences

    def conference(self, sid: str) -> _Conference | None:
        """What is known of a conference, also of one that only a guest was in; None where nothing names it."""
        if self._view is None:
            return self.conferences.get(sid)
        known = self._known.get(sid)
        if known is None:
            own, room = self.conferences.get(sid), self._view.room(sid)
            if own is None and room is None:
                return None
            rooms, end_ms = (dict(own.rooms), own.end_ms) if own is not None else ({}, None)
            names, seen_end_ms = room or ((), None)
            for name in names:
                rooms.setdefault(name, _Room(FAR, None))
            ends = [each for each in (end_ms, seen_end_ms) if each is not None]
            named, in_task = (own.named, own.in_task) if own is not None else (None, None)
            known = self._known[sid] = _Conference(rooms, named, max(ends, default=None), in_task)
        return known

    @cached_property
    def _presence(self) -> dict[str, list[tuple[int, int, str]]]:
        """Of each call the sights of it in conferences: instant, order within the instant, conference."""
        presence: dict[str, list[tuple[int, int, str]]] = {}
        for kept, fact in self._by_kind.get(ParticipantFact, ()):
            at_ms = kept.occurred_ms if fact.at_ms is None else fact.at_ms
            presence.setdefault(fact.call, []).append((at_ms, _PHASE_ORDER[fact.phase], fact.conference))
        return presence

    def _seen(self, call: str) -> Iterable[tuple[int, int, str]]:
        """The sights of one call, those of a guest too."""
        own = self._presence.get(call, ())
        if self._view is None:
            return own
        return {*own, *((each.at_ms, _PHASE_ORDER[each.phase], each.conference) for each in self._view.sights(call))}

    def entered(self, call: str) -> bool:
        """Whether any participant event of this call is known."""
        return call in self._presence or (self._view is not None and bool(self._view.sights(call)))

    def stays(self, call: str) -> list[Stay]:
        """Where a call has been, in order of the first sight of it there."""
        stays = self._stays.get(call)
        if stays is None:
            stays = self._stays[call] = self._build_stays(call)
        return stays

    def _build_stays(self, call: str) -> list[Stay]:
        stays: list[Stay] = []
        current: dict[str, Stay] = {}
        for at_ms, order, conference in sorted(self._seen(call)):
            stay = current.get(conference)
            if order == _LEAVE:
                if stay is not None:
                    stay.leave_ms = at_ms
                    del current[conference]
                elif all(known.conference != conference for known in stays):
                    stays.append(Stay(conference, None, at_ms, at_ms))  # Else the same leave, told twice.
            elif stay is None:
                stay = current[conference] = Stay(conference, at_ms, None, at_ms)
                stays.append(stay)
        for stay in stays:
            known = self.conference(stay.conference) if stay.leave_ms is None else None
            if known is not None and known.end_ms is not None and known.end_ms >= stay.first_seen_ms:
                stay.leave_ms = known.end_ms
        return stays

    def conference_of(self, call: str, at_ms: int) -> str | None:
        """The conference a call was in at an instant; else the next it entered; else the last one before."""
        inside: tuple[int, int, str] | None = None
        after: tuple[int, str] | None = None
        before: tuple[int, str] | None = None
        for stay in self.stays(call):
            enter_ms = -FAR if stay.enter_ms is None else stay.enter_ms
            if enter_ms <= at_ms and (stay.leave_ms is None or at_ms < stay.leave_ms):
                inside = max(inside or (-FAR, 0, ""), (enter_ms, 1, stay.conference))
            elif enter_ms > at_ms:
                after = min(after or (FAR, ""), (enter_ms, stay.conference))
            elif stay.leave_ms is not None:
                before = max(before or (-FAR, ""), (stay.leave_ms, stay.conference))
        if inside is not None:
            return inside[2]
        if after is not None:
            return after[1]
        if before is not None:
            return before[1]
        named = [task.conference for task in self.tasks if task.conference is not None and call in task.calls]
        return min(named) if named else None

    def conferences_of(self, call: str) -> int:
        """In how many conferences a call is known to have been."""
        return len({conference for _, _, conference in self._seen(call)})

    def calls_in(self, conference: str) -> tuple[str, ...]:
        """The calls known to have been in a conference, by SID."""
        seen = {call for call, sights in self._presence.items() if any(c == conference for _, _, c in sights)}
        if (view := self._view) is not None:
            seen.update(call for call in view.guests if any(c.conference == conference for c in view.sights(call)))
        seen.update(call for task in self.tasks if task.conference == conference for call in task.calls)
        return tuple(sorted(seen))

    def claims(self) -> Iterable[tuple[str, str, int]]:
        """TwiML and requests that name their conference: of which call, the name, and when."""
        for kept, twiml in self.twiml:
            yield twiml.call, twiml.name, kept.occurred_ms
        for kept, request in self.requests:
            if request.conference is None:
                yield request.call or "", request.name or "", kept.occurred_ms

    def inside(self, call: str, at_ms: int) -> Stay | None:
        """The stay that a call was in at an instant, where its beginning is known: nothing later changes that."""
        stays = [stay for stay in self.stays(call) if stay.covers(at_ms)]
        return max(stays, key=lambda stay: (stay.enter_ms, stay.conference)) if stays else None

    def bound_conference(self, call: str | None, name: str, at_ms: int) -> str | None:
        """The conference that a call's TwiML means by a name (design: the name alone never binds)."""
        if call is not None and self.entered(call):
            stay = self.first_joined(call, name, at_ms)
            return stay.conference if stay is not None else None
        rooms = sorted((room.first_ms, sid, room.end_ms) for sid, room in self._rooms(name))
        before = [(sid, end_ms) for first_ms, sid, end_ms in rooms if first_ms <= at_ms]
        if before:
            sid, end_ms = before[-1]  # Only one conference of a name is in progress at a time: the latest.
            if end_ms is None or end_ms >= at_ms:
                return sid
        for first_ms, sid, _ in rooms:
            if at_ms < first_ms <= at_ms + CLAIM_REACH_MS:
                return sid
        return None

    def first_joined(self, call: str, name: str, at_ms: int) -> Stay | None:
        """Where a call went first at or after an instant, of conferences of this name or of a name not known."""
        joined = [
            stay
            for stay in self.stays(call)
            if stay.first_seen_ms >= at_ms - JOIN_SLACK_MS and self.may_be(stay.conference, name)
        ]
        return min(joined, key=lambda stay: (stay.first_seen_ms, stay.conference)) if joined else None

    def may_be(self, conference: str, name: str) -> bool:
        """Whether a conference is of a name, or of a name not known."""
        known = self.conference(conference)
        return known is None or not known.rooms or name in known.rooms

    def _rooms(self, name: str) -> Iterable[tuple[str, _Room]]:
        """The rooms of a name, but for those that only guests were in: of them only the guests' part is known."""
        for sid, conference in self.conferences.items():
            if (room := conference.rooms.get(name)) is not None:
                yield sid, room


FAR: Final = 1 << 60
_BY_TIME: Final = attrgetter("occurred_ms", "offset")
BY_OFFSET: Final = attrgetter("offset")
_PHASE_ORDER: Final = {"join": 0, "inside": 1, "leave": 2}
_LEAVE: Final = _PHASE_ORDER["leave"]


def each_once(own: Iterable[Kept], beside: Iterable[Kept]) -> list[Kept]:
    """A conversation's own evidence, and what is noted of its guests, without what it has itself."""
    entries = list(own)
    known = {(kept.event_id or kept.offset, fact) for kept in entries for fact in kept.facts}
    for kept in sorted(beside, key=BY_OFFSET):
        new = [fact for fact in kept.facts if (kept.event_id or kept.offset, fact) not in known]
        if new:
            known.update((kept.event_id or kept.offset, fact) for fact in new)
            entries.append(msgspec.structs.replace(kept, facts=tuple(new)))
    return entries


def _see(
    conferences: dict[str, _Conference], kept: Kept, sid: str, name: str | None, at_ms: int, end_ms: int | None
) -> _Conference:
    """Take in a sight of a conference, under its name where the event says one."""
    conference = conferences.get(sid)
    if conference is None:
        conference = conferences[sid] = _Conference({}, None, None, None)
    if name is not None:
        room = conference.rooms.get(name)
        if room is None:
            conference.rooms[name] = _Room(at_ms, end_ms)
        else:
            room.first_ms = min(room.first_ms, at_ms)
            if end_ms is not None and (room.end_ms is None or end_ms > room.end_ms):
                room.end_ms = end_ms
        if _is_task_name(name) and (conference.named is None or kept.offset < conference.named.kept.offset):
            conference.named = Proof(kept, f"Conference {sid} is named after a Flex task")
    return conference


def _is_task_name(name: str) -> bool:
    """Flex names a conference after its task, by the task's SID; a room may be called WT-something by anybody."""
    return is_sid(name, "WT")
