"""Evidence: a conversation's facts, read back and put in order, and the questions that can be asked of them.

Nothing here concludes what started a recording: it says where a call was and when, which conference a name means, and
which events show it. The order in which events arrived plays no part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
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
    told: Kept  # The first that came.


_Facts = list[tuple[Kept, Any]]
_NO_ROOMS: Final[Mapping[str, _Room]] = {}


class Evidence:
    """A conversation's evidence, read back and put in order; built once to judge all its recordings.

    Facts are sorted by kind at once, and looked into only when a question needs them: most recordings are decided by
    their start source and a few facts of one or two kinds. What was asked once is kept.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.account = conversation.account
        self.truncated = conversation.truncated
        self._conversation = conversation
        self._stays: dict[str, list[Stay]] = {}
        self._ends: dict[str, int] | None = None
        self._rooms: dict[str, dict[str, _Room]] | None = None
        self._properties: tuple[CallFact | TaskFact, ...] | None = None
        self._executions: dict[str, list[tuple[Kept, ExecutionFact]]] | None = None
        self._members: dict[str, str] | None = None
        by_kind: defaultdict[type, _Facts] = defaultdict(list)
        self._view = conversation.view()
        self.first_offset = conversation.birth.offset  # Of all that is looked at.
        entries: Iterable[Kept] = conversation.read_evidence()
        if self._view is not None:
            noted = read_noted(self._view)
            self.first_offset = min([self.first_offset, *[kept.offset for kept in noted]])
            entries = each_once(entries, noted)
        for kept in sorted(entries, key=_BY_TIME):
            for fact in kept.facts:
                by_kind[type(fact)].append((kept, fact))
        self._by_kind = by_kind
        self.recordings: dict[str, list[tuple[Kept, RecordingFact]]] = {}
        conferences: dict[str, None] = {}
        for kept, fact in by_kind[RecordingFact]:
            if fact.recording in self.recordings:
                self.recordings[fact.recording].append((kept, fact))
            else:
                self.recordings[fact.recording] = [(kept, fact)]
            if fact.conference is not None:
                conferences[fact.conference] = None
        self.recorded = tuple(conferences)  # The conferences that recordings say they are of.

    def own(self, text: str) -> str:
        """The text that the conversation holds already for one of its members; for what outlives the evidence."""
        if self._members is None:
            members = self._conversation.members
            self._members = dict(zip(members, members, strict=True))
        return self._members.get(text, text)

    @property
    def twiml(self) -> list[tuple[Kept, TwimlFact]]:
        """TwiML that records a conference, in order of time."""
        return self._by_kind[TwimlFact]

    @property
    def requests(self) -> list[tuple[Kept, RequestFact]]:
        """Participant requests that record their conference, in order of time."""
        return self._by_kind[RequestFact]

    @property
    def executions(self) -> dict[str, list[tuple[Kept, ExecutionFact]]]:
        """Studio executions: what is known of each, in order of time."""
        if self._executions is None:
            self._executions = {}
            for kept, fact in self._by_kind[ExecutionFact]:
                self._executions.setdefault(fact.execution, []).append((kept, fact))
        return self._executions

    def steps(self, execution: str) -> list[tuple[Kept, StepFact]]:
        """The steps of a Studio execution, in order of time."""
        return [(kept, fact) for kept, fact in self._by_kind[StepFact] if fact.execution == execution]

    def suspected(self) -> dict[str, Kept]:
        """Conferences that Voice Insights says had recording on, and the first event that said so."""
        suspected: dict[str, Kept] = {}
        for kept, fact in self._by_kind[ConferenceFact]:
            if fact.recording_on:
                known = suspected.get(fact.conference)
                if known is None or kept.offset < known.offset:
                    suspected[fact.conference] = kept
        return suspected

    def properties(self) -> tuple[CallFact | TaskFact, ...]:
        """What is known of calls and tasks without a time, in no order."""
        if self._properties is None:
            self._properties = self._conversation.read_properties()
            if self._view is not None:
                noted = read_noted_properties(self._view)
                self._properties = tuple(dict.fromkeys([*self._properties, *noted]))
        return self._properties

    @property
    def tasks(self) -> list[TaskFact]:
        """What is known of tasks, in no order."""
        return [fact for fact in self.properties() if isinstance(fact, TaskFact)]

    def calls(self, sids: Iterable[str]) -> list[CallFact]:
        """What is known of these calls, in no order."""
        wanted = set(sids)
        return [fact for fact in self.properties() if isinstance(fact, CallFact) and fact.call in wanted]

    def rooms(self, conference: str) -> Mapping[str, _Room]:
        """A conference by its names; of one that only a guest was in, none."""
        return self._all_rooms().get(conference, _NO_ROOMS)

    def names(self, conference: str) -> AbstractSet[str]:
        """The names of a conference; also of one that only a guest was in."""
        own = self.rooms(conference).keys()
        seen = None if self._view is None else self._view.room(conference)
        return own if seen is None else own | set(seen[0])

    def may_be(self, conference: str, name: str) -> bool:
        """Whether a conference is of a name, or of a name not known."""
        names = self.names(conference)
        return not names or name in names

    def _all_rooms(self) -> dict[str, dict[str, _Room]]:
        """The conferences that have names, by every event that says one."""
        rooms = self._rooms
        if rooms is None:
            rooms = self._rooms = {}
            for kept, fact in (*self._by_kind[ParticipantFact], *self._by_kind[ConferenceFact]):
                name = fact.name
                if name is None:
                    continue
                at_ms = kept.occurred_ms if fact.at_ms is None else fact.at_ms
                end_ms = at_ms if fact.phase == "end" else None
                names = rooms.setdefault(fact.conference, {})
                room = names.get(name)
                if room is None:
                    names[name] = _Room(at_ms, end_ms, kept)
                    continue
                if at_ms < room.first_ms:
                    room.first_ms = at_ms
                if end_ms is not None and (room.end_ms is None or end_ms > room.end_ms):
                    room.end_ms = end_ms
                if kept.offset < room.told.offset:
                    room.told = kept
        return rooms

    def naming(self, conference: str) -> Proof | None:
        """What shows that Flex named a conference, after a task: the first event that says the name."""
        named = [room.told for name, room in self.rooms(conference).items() if _is_task_name(name)]
        return (
            Proof(min(named, key=BY_OFFSET), f"Conference {conference} is named after a Flex task") if named else None
        )

    def in_task(self, conference: str) -> Proof | None:
        """What shows that a task names a conference in its attributes: the first event that does."""
        named = [(kept, fact) for kept, fact in self._by_kind[TaskFact] if fact.conference == conference]
        if not named:
            return None
        kept, task = min(named, key=lambda one: one[0].offset)
        return Proof(kept, f"Task {task.task} names conference {conference} in its attributes")

    def workers_of(self, conference: str) -> list[Proof]:
        """Whose hands the tasks that name a conference were in: of each worker the first event that shows it.

        A task names its conference once it was accepted; whom it was offered before is not among them.
        """
        firsts: dict[str, tuple[Kept, str]] = {}
        for kept, fact in self._by_kind[TaskFact]:
            worker = next((said for said in fact.worker if is_sid(said, "WK")), None)
            if worker is None or fact.conference != conference:
                continue
            if worker not in firsts or kept.offset < firsts[worker][0].offset:
                firsts[worker] = (kept, fact.task)
        return [
            Proof(kept, f"Task {task} of conference {conference} was in the hands of worker {worker}")
            for worker, (kept, task) in sorted(firsts.items(), key=lambda one: (one[1][0].offset, one[0]))
        ]

    def entered(self, call: str) -> bool:
        """Whether any participant event of this call is known."""
        return bool(self.stays(call))

    def stays(self, call: str) -> list[Stay]:
        """Where a call has been, in order of the first sight of it there."""
        stays = self._stays.get(call)
        if stays is None:
            stays = self._stays[call] = self._build_stays(call)
        return stays

    def _sights(self, call: str) -> list[tuple[int, int, str]]:
        """The sights of a call in conferences, those of a guest too: instant, order within it, conference; sorted."""
        sights = [
            (kept.occurred_ms if fact.at_ms is None else fact.at_ms, _PHASE_ORDER[fact.phase], fact.conference)
            for kept, fact in self._by_kind[ParticipantFact]
            if fact.call == call
        ]
        if self._view is not None:
            noted = {(each.at_ms, _PHASE_ORDER[each.phase], each.conference) for each in self._view.sights(call)}
            sights += noted.difference(sights)
        sights.sort()
        return sights

    def _build_stays(self, call: str) -> list[Stay]:
        stays: list[Stay] = []
        current: dict[str, Stay] = {}
        for at_ms, order, conference in self._sights(call):
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
            if stay.leave_ms is None:
                end_ms = self._end_of(stay.conference)
                if end_ms is not None and end_ms >= stay.first_seen_ms:
                    stay.leave_ms = end_ms
        return stays

    def _end_of(self, conference: str) -> int | None:
        """When a conference ended; of several ends the last."""
        ends = self._ends
        if ends is None:
            ends = self._ends = {}
            for kept, fact in self._by_kind[ConferenceFact]:
                if fact.phase == "end":
                    at_ms = kept.occurred_ms if fact.at_ms is None else fact.at_ms
                    ends[fact.conference] = max(at_ms, ends.get(fact.conference, at_ms))
        own = ends.get(conference)
        seen = None if self._view is None else self._view.room(conference)
        if seen is None or seen[1] is None:
            return own
        return seen[1] if own is None else max(own, seen[1])

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
        return len({conference for _, _, conference in self._sights(call)})

    def calls_in(self, conference: str) -> tuple[str, ...]:
        """The calls known to have been in a conference, by SID."""
        seen = {fact.call for _, fact in self._by_kind[ParticipantFact] if fact.conference == conference}
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
        # Not those that only guests were in: of them only the guests' part is known.
        named = ((sid, names.get(name)) for sid, names in self._all_rooms().items())
        rooms = sorted((room.first_ms, sid, room.end_ms) for sid, room in named if room is not None)
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


FAR: Final = 1 << 60
_BY_TIME: Final = attrgetter("occurred_ms", "offset")
BY_OFFSET: Final = attrgetter("offset")
_PHASE_ORDER: Final = {"join": 0, "inside": 1, "leave": 2}
_LEAVE: Final = _PHASE_ORDER["leave"]


def each_once(own: Iterable[Kept], beside: Iterable[Kept]) -> list[Kept]:
    """A conversation's own evidence, and what is noted of its guests, without what it has itself."""
    entries = list(own)
    known = {(kept.id or kept.offset, fact) for kept in entries for fact in kept.facts}
    for kept in sorted(beside, key=BY_OFFSET):
        new = [fact for fact in kept.facts if (kept.id or kept.offset, fact) not in known]
        if new:
            known.update((kept.id or kept.offset, fact) for fact in new)
            entries.append(msgspec.structs.replace(kept, facts=tuple(new)))
    return entries


def _is_task_name(name: str) -> bool:
    """Flex names a conference after its task, by the task's SID; a room may be called WT-something by anybody."""
    return is_sid(name, "WT")
