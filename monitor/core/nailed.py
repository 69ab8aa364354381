"""Nailed-up calls: they stay up while they enter conference after conference, and so they join nothing.

An agent's leg that stays up all shift would make one conversation of all that it meets, and through transfers of all
that anybody meets. So a call that has been seen in more than a few conferences within the last window is *nailed up*:
events that name it join what else they name, and it is only a *guest* there. What events tell of such a call is
*noted* apart, and whoever judges a conversation sees the notes of its guests beside the conversation's own evidence.

Everything slides: what is known of a call here is a function of the messages of the last window, so that a rebuild
that looks back one window finds the same. Arrivals are kept in *buckets* of log time; the rules, and why none of them
may be left out, are in docs/checkpoint.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import attrgetter
from struct import Struct
from typing import Any, Final, Self, TypeVar

import msgspec

from monitor.core.compacted import Table
from monitor.core.emptying import Container
from monitor.core.events import (
    AnyFact,
    CallFact,
    ConferenceFact,
    ExecutionFact,
    ParticipantFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.frozen import Frozen, Records, thaw, unfrozen
from monitor.core.parted import Parted

BUCKETS: Final = 1_440  # So many to a window, where it is long enough: one is ten seconds of four hours.
PARTS: Final = 16  # So coarsely, in parts of a window, goes what need not be looked at with each bucket.
ROOM_MAX: Final = 64  # Names, and ends, that are kept of one conference that a nailed-up call was in.
NEVER: Final = -1
TOLD_ID: Final = Struct(">6sQ")  # A digest as ``conversation`` makes it, and a bucket.
_Key = TypeVar("_Key", str, bytes)


def place_of(records: bytes, digest: bytes, size: int) -> int:
    """Where, among records of so many bytes, one begins with a digest; -1: none does. A match elsewhere is none."""
    at = records.find(digest)
    while at >= 0 and at % size:
        at = records.find(digest, at + 1)
    return at


class Marks:
    """Where in the log a bucket of log time begins: one mark a bucket, forgotten once nothing can ask for it."""

    __slots__ = ("_buckets", "_latest", "_offsets", "_times", "bucket_ms", "due_ms", "part", "window")

    def __init__(self, window_ms: int) -> None:
        self.bucket_ms = max(1, window_ms // BUCKETS)
        self.window = window_ms // self.bucket_ms  # In buckets.
        self.part = max(1, self.window // PARTS)
        self.due_ms = NEVER  # A message that arrives at or after this instant begins a bucket.
        self._latest = NEVER
        self._buckets: list[int] = []
        self._offsets: list[int] = []
        self._times: list[int] = []

    def bucket_at(self, arrived_ms: int) -> int:
        """The bucket that an instant lies in: one number for all that is told in it."""
        bucket = arrived_ms // self.bucket_ms
        if bucket != self._latest:
            self._latest = bucket
        return self._latest

    def mark(self, offset: int, arrived_ms: int) -> int:
        """Take down the first message of a bucket; the bucket."""
        bucket = self.bucket_at(arrived_ms)
        self.due_ms = (bucket + 1) * self.bucket_ms
        self._buckets.append(bucket)
        self._offsets.append(offset)
        self._times.append(arrived_ms)
        return bucket

    def stamp(self, bucket: int) -> int:
        """When something without a time was told, rounded down: what is told all the time is seldom stamped anew.

        Whoever sees it by its stamp arrived early enough to be seen, so a rebuild finds the same.
        """
        return bucket - bucket % self.part

    def bucket_of(self, offset: int) -> int:
        """When the message at an offset arrived."""
        return self._buckets[max(0, bisect_right(self._offsets, offset) - 1)]

    def first_after(self, bucket: int) -> tuple[int, int] | None:
        """Offset and log time of the first message that arrived after a bucket, as far back as marks go."""
        place = bisect_right(self._buckets, bucket)
        return (self._offsets[place], self._times[place]) if place < len(self._buckets) else None

    def forget(self, bucket: int) -> None:
        """Drop what lies at or before a bucket, but for the last mark: it says where the present bucket began."""
        place = min(bisect_right(self._buckets, bucket), len(self._buckets) - 1)
        if place > 0:
            del self._buckets[:place], self._offsets[:place], self._times[:place]

    def dump(self) -> list[tuple[int, int, int]]:
        """All marks: bucket, offset and log time."""
        return list(zip(self._buckets, self._offsets, self._times, strict=True))

    def load(self, marks: list[tuple[int, int, int]]) -> None:
        """Hold these marks instead."""
        self._buckets, self._offsets, self._times = ([mark[place] for mark in marks] for place in range(3))
        self.due_ms = (self._buckets[-1] + 1) * self.bucket_ms if marks else NEVER


class Note(msgspec.Struct, frozen=True, gc=False):
    """An event as it was kept; ``execution`` is the Studio execution that it says a call started."""

    bucket: int
    offset: int
    kept: bytes
    execution: str | None


class Sight(msgspec.Struct, frozen=True, gc=False):
    """A call was seen in a conference: what a ``ParticipantFact`` says, and when that arrived."""

    bucket: int
    offset: int
    at_ms: int
    phase: str
    conference: str


class Call(msgspec.Struct, eq=False):
    """What is known of a call that was in more than one conference: where, and what was noted of it.

    ``seen`` holds the latest arrival of any sight of it in a conference, ``properties`` and ``ids`` the latest of what
    has no time of its own. ``guests`` are members of the conversations that it is a guest of, at least one of each.
    Of most calls only ``seen`` is known, so the rest is nothing that takes room until there is something.
    """

    seen: dict[str, int] = msgspec.field(default_factory=dict)
    sights: tuple[Sight, ...] = ()
    notes: tuple[Note, ...] = ()
    properties: dict[bytes, int] | None = None
    ids: bytes = b""  # Digests, each with the latest bucket in which it was told, in the order of the first ones.
    lost: int = NEVER  # Arrival of the latest of what fell to the bound.
    guests: tuple[str, ...] = ()

    def copied(self) -> Self:
        """Another one that says the same, until either is changed."""
        properties = None if self.properties is None else dict(self.properties)
        return type(self)(dict(self.seen), self.sights, self.notes, properties, self.ids, self.lost, self.guests)

    def see(self, conference: str, bucket: int, most: int) -> None:
        """Take in a sight of it; no more of the latest are kept than can say whether there were ``most``."""
        self.seen[conference] = max(bucket, self.seen.get(conference, bucket))
        if len(self.seen) > most:
            del self.seen[min(self.seen, key=lambda at: (self.seen[at], at))]

    def tell_alone(self, digest: bytes, bucket: int, most: int | None = None) -> None:
        """Take down the id of an event that names it alone; beyond ``most`` of them the first falls."""
        told, at = TOLD_ID.pack(digest, bucket), place_of(self.ids, digest, TOLD_ID.size)
        if at >= 0:
            self.ids = self.ids[:at] + told + self.ids[at + TOLD_ID.size :]
        else:
            self.ids += told
            if most is not None and len(self.ids) > most * TOLD_ID.size:
                self.ids = self.ids[TOLD_ID.size :]

    def told_alone(self, digest: bytes) -> int:
        """The latest bucket in which an event with this digest was told."""
        at = place_of(self.ids, digest, TOLD_ID.size)
        told: int = TOLD_ID.unpack_from(self.ids, at)[1] if at >= 0 else NEVER
        return told

    def conferences(self, after: int) -> int:
        """In how many conferences it has been seen after a bucket."""
        return sum(seen > after for seen in self.seen.values())

    def is_noted(self, after: int) -> bool:
        """Whether anything was noted of it after a bucket."""
        return (
            (bool(self.sights) and self.sights[-1].bucket > after)
            or (bool(self.notes) and self.notes[-1].bucket > after)
            or any(told > after for told in (self.properties or {}).values())
        )


class Room(msgspec.Struct, eq=False):
    """What every event says of a conference that such a call was in: its names and its ends, with the latest arrival.

    ``calls`` are those that were seen there, ``since`` is the offset from which on it is known.
    """

    since: int
    touched: int
    names: dict[str, int] = msgspec.field(default_factory=dict)
    ends: dict[int, int] = msgspec.field(default_factory=dict)
    calls: tuple[str, ...] = ()

    def copied(self) -> Self:
        """Another one that says the same, until either is changed."""
        return type(self)(self.since, self.touched, dict(self.names), dict(self.ends), self.calls)


class Execution(msgspec.Struct, eq=False):
    """The steps of a Studio execution that such a call started; ``calls`` are those that did."""

    touched: int
    notes: list[Note] = msgspec.field(default_factory=list)
    calls: tuple[str, ...] = ()

    def copied(self) -> Self:
        """Another one that says the same, until either is changed."""
        return type(self)(self.touched, list(self.notes), self.calls)


Known = tuple[dict[str, Call], dict[str, Room], dict[str, Execution]]
"""What is known of an account's calls, conferences and executions, as a snapshot holds it."""

AllKnown = tuple[Parted[Call], Parted[Room], Parted[Execution]]
"""The same, all of it."""


class Notes:
    """All that is known apart from conversations, of one account; ``watched`` are the SIDs that it is known of."""

    __slots__ = ("_bound", "_window", "calls", "executions", "rooms", "watched")

    def __init__(self, window: int, bound: int) -> None:
        self._window = window
        self._bound = bound
        self.calls: Records[Call] = Parted()
        self.rooms: Records[Room] = Parted()
        self.executions: Records[Execution] = Parted()
        self.watched: Parted[None] = Table()

    def bulk(self) -> Iterator[Container]:
        """All that is large in it, to be emptied for good."""
        for held in (unfrozen(self.calls), unfrozen(self.rooms), unfrozen(self.executions), self.watched):
            yield from held.bulk()

    def know(self, more: Known) -> None:
        """Know this as well."""
        calls, rooms, executions = more
        unfrozen(self.calls).update(calls)
        unfrozen(self.rooms).update(rooms)
        unfrozen(self.executions).update(executions)
        self.watched.put_all((*calls, *rooms, *executions), None)

    def watches(self, sids: Iterable[str]) -> bool:
        """Whether anything is known of one of these."""
        watched = self.watched
        for sid in sids:  # noqa: SIM110 - with each event; a generator would take as long again
            if sid in watched:
                return True
        return False

    def freeze(self) -> AllKnown:
        """All of it as it is now, which stays so until ``thaw``, whatever is noted meanwhile."""
        calls, rooms, executions = unfrozen(self.calls), unfrozen(self.rooms), unfrozen(self.executions)
        self.calls, self.rooms, self.executions = Frozen(calls), Frozen(rooms), Frozen(executions)
        return calls, rooms, executions

    def thaw(self) -> Iterator[None]:
        """Go on without ``freeze``, if it was called: in steps, with the first of which what that gave may change."""
        self.calls = yield from thaw(self.calls)
        self.rooms = yield from thaw(self.rooms)
        self.executions = yield from thaw(self.executions)

    def call(self, sid: str) -> Call:
        """A call's record, a new one if there is none."""
        call = self.calls.get(sid)
        if call is None:
            call = self.calls[sid] = Call()
            self.watched[sid] = None
        return call

    def watch_room(self, sid: str, offset: int, bucket: int) -> Room:
        """From now on note what is told of a conference."""
        room = self.rooms[sid] = Room(offset, bucket)
        self.watched[sid] = None
        return room

    def watch_execution(self, sid: str, bucket: int) -> Execution:
        """From now on note the steps of a Studio execution."""
        execution = self.executions[sid] = Execution(bucket)
        self.watched[sid] = None
        return execution

    def note(self, sid: str, sights: Iterable[Sight], notes: Iterable[Note]) -> None:
        """Note where a call was seen, and what it was told to do, in order of arrival.

        Beyond the bound the earliest fall: the last ones are the same wherever a rebuild began.
        """
        call = self.calls[sid]
        all_sights, all_notes = (*call.sights, *sights), (*call.notes, *notes)
        fallen = [sight.bucket for sight in all_sights[: -self._bound]]
        fallen += [note.bucket for note in all_notes[: -self._bound]]
        call.lost = max([call.lost, *fallen])
        call.sights, call.notes = all_sights[-self._bound :], all_notes[-self._bound :]

    def note_late(self, sid: str, sights: Iterable[Sight], notes: Iterable[Note]) -> None:
        """Note what a call's conversation holds of it, where it was not noted when it arrived."""
        call = self.calls[sid]
        known = {each.offset for each in call.sights} | {each.offset for each in call.notes}
        all_sights = [*call.sights, *(each for each in sights if each.offset not in known)]
        all_notes = [*call.notes, *(each for each in notes if each.offset not in known)]
        call.sights = call.notes = ()
        self.note(sid, sorted(all_sights, key=_BY_OFFSET), sorted(all_notes, key=_BY_OFFSET))

    def view(self, guests: Mapping[str, int]) -> View:
        """What a conversation sees that has met these calls, each at its bucket."""
        return View(self, guests, self._window)

    def tell(self, sid: str, encoded: bytes, bucket: int) -> int | None:
        """Note what is known of a call without a time; when it was last told before."""
        call = self.calls[sid]
        if call.properties is None:
            call.properties = {}
        before = call.properties.pop(encoded, None)
        call.properties[encoded] = bucket if before is None else max(before, bucket)
        if len(call.properties) > self._bound:
            call.lost = max(call.lost, call.properties.pop(next(iter(call.properties))))
        return before

    def step(self, execution: Execution, note: Note) -> None:
        """Note a step of an execution; what falls to the bound is lost to its calls."""
        execution.notes.append(note)
        execution.touched = note.bucket
        if len(execution.notes) > self._bound:
            self._lose(execution.calls, execution.notes.pop(0).bucket)

    def tell_room(self, room: Room, name: str | None, end_ms: int | None, bucket: int) -> tuple[bool, bool]:
        """Take in what an event says of a conference; whether its name, and its end, may not have been seen yet."""
        room.touched = bucket
        named = ended = False
        if name is not None:
            named = room.names.get(name, NEVER) <= bucket - self._window
            room.names[name] = max(bucket, room.names.get(name, bucket))
        if end_ms is not None:
            ended = room.ends.get(end_ms, NEVER) <= bucket - self._window
            room.ends[end_ms] = max(bucket, room.ends.get(end_ms, bucket))
        if len(room.names) > ROOM_MAX:
            self._lose(room.calls, room.names.pop(next(iter(room.names))))
        if len(room.ends) > ROOM_MAX:
            self._lose(room.calls, room.ends.pop(next(iter(room.ends))))
        return named, ended

    def _lose(self, calls: Iterable[str], fallen: int) -> None:
        for sid in calls:
            call = self.call(sid)
            call.lost = max(call.lost, fallen)

    def size(self) -> int:
        """Of how many calls, conferences and executions anything is known."""
        return len(self.calls) + len(self.rooms) + len(self.executions)

    def forget(self, now: int, sinces: Callable[[str, Call], list[int]]) -> Iterator[None]:
        """Drop what neither a conversation that is open nor one that is still to come can see any more.

        One step after the other, each time the next is asked for; as of ``now``, whatever is noted in between.
        ``sinces`` says when the conversations met a call that have it as a guest.
        """
        floor = now
        for sid in chain.from_iterable(self.calls.portions()):
            yield
            call = self.calls[sid]  # Nothing else drops one.
            met = sinces(sid, call)
            floor = min([floor, *met])
            after = min([now, *met]) - self._window
            call.sights = call.sights[bisect_right(call.sights, after, key=_BUCKET) :]
            call.notes = call.notes[bisect_right(call.notes, after, key=_BUCKET) :]
            call.properties = _told_after(call.properties or {}, after) or None
            told = [one for one in TOLD_ID.iter_unpack(call.ids) if one[1] > now - self._window]
            if len(told) * TOLD_ID.size < len(call.ids):
                call.ids = b"".join([TOLD_ID.pack(*one) for one in told])
            call.seen = _told_after(call.seen, now - self._window)
            known = call.sights or call.notes or call.properties or call.ids or call.seen or call.lost > after
            if not known and not met:
                self._drop(self.calls, sid)
        floor -= self._window
        for place in chain.from_iterable(self.rooms.portions()):
            yield
            if self.rooms[place].touched <= floor:
                self._drop(self.rooms, place)
        for place in chain.from_iterable(self.executions.portions()):
            yield
            if self.executions[place].touched <= floor:
                self._drop(self.executions, place)

    def _drop(self, among: Records[Any], sid: str) -> None:
        del among[sid]
        if sid not in self.calls and sid not in self.rooms and sid not in self.executions:
            del self.watched[sid]


class View:
    """What a conversation sees through its guests: of each what arrived within a window before it was met, and since.

    Of a conference, or an execution, the same holds from when the guest was first seen in it.
    """

    __slots__ = ("_guests", "_met", "_notes", "_sights", "_window")

    def __init__(self, notes: Notes, guests: Mapping[str, int], window: int) -> None:
        self._notes = notes
        self._guests = guests
        self._window = window
        self._sights: dict[str, list[Sight]] = {}
        self._met: dict[str, int] | None = None

    @property
    def guests(self) -> Iterable[str]:
        """The calls that it sees."""
        return self._guests

    def kept(self) -> list[bytes]:
        """The events that were noted, but for sights: what the calls were told to do, and what executions did."""
        found: list[bytes] = []
        met: dict[str, int] = {}
        for sid, since in self._guests.items():
            call = self._notes.calls.get(sid)
            for note in call.notes if call is not None else ():
                if note.bucket > since - self._window:
                    found.append(note.kept)
                    if note.execution is not None:
                        first = max(since, note.bucket)
                        met[note.execution] = min(met.get(note.execution, first), first)
        for sid, since in met.items():
            execution = self._notes.executions.get(sid)
            if execution is not None:
                found += [note.kept for note in execution.notes if note.bucket > since - self._window]
        return found

    def properties(self) -> list[bytes]:
        """What is known of the calls without a time."""
        return [
            encoded
            for sid, since in self._guests.items()
            if (call := self._notes.calls.get(sid)) is not None
            for encoded, told in (call.properties or {}).items()
            if told > since - self._window
        ]

    def sights(self, sid: str) -> list[Sight]:
        """Where a call was seen, in order of arrival; nothing where it is no guest."""
        sights = self._sights.get(sid)
        if sights is None:
            call, since = self._notes.calls.get(sid), self._guests.get(sid)
            sights = []
            if call is not None and since is not None:
                after = since - self._window
                sights = [sight for sight in call.sights if sight.bucket > after]
            self._sights[sid] = sights
        return sights

    def room(self, conference: str) -> tuple[set[str], int | None] | None:
        """Names and latest end of a conference that a guest was in; None where none of them was."""
        if self._met is None:
            self._met = self._meet()
        since = self._met.get(conference)
        if since is None:
            return None
        room = self._notes.rooms.get(conference)
        if room is None:
            return set(), None
        after = since - self._window
        ends = [end_ms for end_ms, told in room.ends.items() if told > after]
        return {name for name, told in room.names.items() if told > after}, max(ends, default=None)

    def _meet(self) -> dict[str, int]:
        """When each conference that a guest was in was met: with the first sight there, by the first guest."""
        met: dict[str, int] = {}
        for sid, since in self._guests.items():
            for conference, first in {each.conference: each.bucket for each in reversed(self.sights(sid))}.items():
                first = max(first, since)
                met[conference] = min(met.get(conference, first), first)
        return met


def with_one(texts: tuple[str, ...], one: str) -> tuple[str, ...]:
    """These and one more, unless it is among them."""
    return texts if one in texts else (*texts, one)


def _told_after(told: dict[_Key, int], after: int) -> dict[_Key, int]:
    return {key: bucket for key, bucket in told.items() if bucket > after}


_BY_OFFSET: Final = attrgetter("offset")
_BUCKET: Final = attrgetter("bucket")


def facts_of(facts: Iterable[AnyFact], call: str) -> list[AnyFact]:
    """Those of an event's facts that tell of a call what the conversations need that have it as a guest.

    A request that names its conference by SID is evidence there, and a recording in its own conversation.
    """
    found: list[AnyFact] = []
    for fact in facts:
        if isinstance(fact, ParticipantFact | TwimlFact | ExecutionFact | CallFact):
            if fact.call == call:
                found.append(fact)
        elif isinstance(fact, RequestFact):
            if fact.call == call and fact.conference is None:
                found.append(fact)
        elif isinstance(fact, TaskFact) and call in fact.calls:
            found.append(fact)
    return found


def room_told(fact: AnyFact, occurred_ms: int) -> tuple[str, str | None, int | None] | None:
    """What a fact says of a conference itself: which, its name, when it ended; None where it says neither."""
    if isinstance(fact, ConferenceFact):
        at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
        end_ms = at_ms if fact.phase == "end" else None
        return (fact.conference, fact.name, end_ms) if fact.name is not None or end_ms is not None else None
    if isinstance(fact, ParticipantFact) and fact.name is not None:
        return fact.conference, fact.name, None
    return None


def execution_told(fact: AnyFact) -> str | None:
    """The Studio execution that a fact is about."""
    return fact.execution if isinstance(fact, StepFact | ExecutionFact) else None
