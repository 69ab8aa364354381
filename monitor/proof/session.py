"""A session of test calls as a pure fold: messages of the events and of the verdicts in, a ``Picture`` of it out.

Within a partition messages come in order; in which order partitions are read changes nothing. It judges nothing: the
verdicts are those of the monitor that runs, and what it says of calls are the events that this monitor reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from monitor.core.decode import Headers, decode, entries_of
from monitor.core.events import (
    FOUND_BY_LISTING,
    CallFact,
    ConferenceFact,
    Event,
    Malformed,
    ParticipantFact,
    RecordingFact,
)
from monitor.core.pipeline import Tuning
from monitor.core.readers import TICK
from monitor.core.values import INSTANTS

MEMBERS_MAX: Final = 200_000
"""Calls, conferences, recordings, … at a time. Where no room can be made for more, the session fails."""
QUIET_MS: Final = 120_000
"""What was not heard of for so long, and is of no test call so far, makes room."""
CONFERENCES_MAX: Final = Tuning().conferences_max
"""A call that was in more of them is nailed up: an agent's that stays up from one customer to the next."""
EARLY_MS: Final = 5_000
"""So long before the session a test call may begin by Twilio's clock: clocks differ, and its dates are seconds."""
UNREADABLE_MAX: Final = 1_000
UNREADABLE_BYTES: Final = 65_536

_VOICE: Final = "com.twilio.voice."
_CALL: Final = _VOICE + "status-callback.call."
_CONFERENCE: Final = _VOICE + "status-callback.conference."
_CALL_SUMMARY: Final = _VOICE + "insights.call-summary."
_CONFERENCE_SUMMARY: Final = _VOICE + "insights.conference-summary.complete"
_BEGINS: Final = frozenset(
    {_CALL + "initiated", _CALL + "ringing", _VOICE + "twiml.call.requested", _VOICE + "api-request.call.created"}
)
_SIDS: Final = re.compile(rb"(?<![0-9A-Za-z])(?:CA|CF|RE)[0-9a-f]{32}(?![0-9A-Za-z])")

Member = tuple[str, str]
"""An account, and a call, conference, recording, … of it."""


class Scope(msgspec.Struct, frozen=True):
    """Which calls are test calls: those from or to one of ``numbers`` (E.164), and those of which an event holds
    ``tag``. Neither: every call.
    """

    numbers: frozenset[str] = frozenset()
    tag: str | None = None

    @property
    def everything(self) -> bool:
        """Whether every call is one."""
        return not self.numbers and self.tag is None


class SeenCall(msgspec.Struct, frozen=True, kw_only=True):
    """A test call: the calls and conferences that events connect, which somebody made one call of.

    ``call_events`` and ``conference_events``: status callbacks about it were seen. ``insights``: the final summary of
    each of its conferences was.
    """

    account_sid: str
    call_sids: tuple[str, ...]
    conference_sids: tuple[str, ...]
    began_ms: int
    call_events: bool
    conference_events: bool
    ended: bool
    insights: bool

    @property
    def name(self) -> str:
        """What it is called where it is told of: its first call, or where none is known its conference."""
        return (*self.call_sids, *self.conference_sids)[0]

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is missing for it to count."""
        told = {"call events": self.call_events, "conference events": self.conference_events, "its end": self.ended}
        return tuple(what for what, is_so in told.items() if not is_so)


class SeenRecording(msgspec.Struct, frozen=True, kw_only=True):
    """A recording of a test call; without ``recording_sid`` a suspicion that one of its conferences was recorded.

    ``by_stream``: one of Twilio's events told of it. ``outcome`` is that of the monitor's verdict, None without one.
    """

    account_sid: str
    recording_sid: str | None
    call_sid: str | None
    conference_sid: str | None
    by_stream: bool
    outcome: str | None = None
    cause: str | None = None
    rule: str | None = None
    policy: str | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """What it is called where it is told of."""
        return self.recording_sid or self.conference_sid or ""


class Ticks(msgspec.Struct, frozen=True, kw_only=True):
    """The monitor's ticks in a partition: how many, the newest, and the longest time without one."""

    partition: int
    seen: int
    last_ms: int | None
    longest_gap_ms: int


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What a session has seen so far.

    ``others`` counts calls that are of no test call. ``unreadable`` are the SIDs of test calls and their recordings in
    entries that nobody can read. ``too_much``: there was more than is kept.
    """

    calls: tuple[SeenCall, ...]
    others: int
    recordings: tuple[SeenRecording, ...]
    ticks: tuple[Ticks, ...]
    events: int
    unreadable: tuple[str, ...]
    too_much: bool

    @property
    def whole(self) -> int:
        """How many test calls count."""
        return sum(not call.lacks for call in self.calls)


class ListedCall(msgspec.Struct, frozen=True):
    """A call as Twilio's REST API lists it."""

    account_sid: str
    call_sid: str
    created_ms: int


class ListedRecording(msgspec.Struct, frozen=True):
    """A recording as Twilio's REST API lists it."""

    account_sid: str
    recording_sid: str
    call_sid: str | None
    conference_sid: str | None
    created_ms: int


class Listed(msgspec.Struct, frozen=True):
    """What Twilio listed of ``accounts`` (SID to alias) since the session began: recordings, and calls of the scope.

    ``calls`` is None where a tag is the scope: Twilio cannot be asked by it.
    """

    accounts: Mapping[str, str]
    calls: tuple[ListedCall, ...] | None
    recordings: tuple[ListedRecording, ...]


class Missed(msgspec.Struct, frozen=True):
    """What Twilio listed and no event told of."""

    calls: tuple[str, ...]
    recordings: tuple[str, ...]


class _Leg(msgspec.Struct):
    """A call by itself. ``inside`` says of each conference it was in whether it has left it."""

    told: bool = False
    ended: bool = False
    inside: dict[str, bool] = {}


class _Room(msgspec.Struct):
    """A conference by itself."""

    told: bool = False
    ended: bool = False
    summarised: bool = False


class _Taped(msgspec.Struct):
    """A recording as events tell of it."""

    call: str | None
    conference: str | None
    began_ms: int
    by_stream: bool = False


class _Ticking(msgspec.Struct):
    """The ticks of a partition; ``last_ms`` begins with the session."""

    last_ms: int
    seen: int = 0
    gap_ms: int = 0


class _Group(NamedTuple):
    """A test call as it lies in the fold."""

    members: set[Member]
    began_ms: int


class _Judged(msgspec.Struct, frozen=True):
    """Of a verdict, what a session needs."""

    account_sid: str
    at: tuple[int, int]
    final: bool
    outcome: str
    rule: str
    policy: str
    reason: str
    first_seen_at: str
    cause: str | None = None
    recording_sid: str | None = None
    call_sid: str | None = None
    conference_sid: str | None = None
    started_at: str | None = None
    found_by: str | None = None


_judged: Final = msgspec.json.Decoder(_Judged).decode


class Session:
    """What was read since ``opened_ms``, by the clock of the messages, from these partitions of the events topic."""

    def __init__(
        self, scope: Scope, partitions: Iterable[int], opened_ms: int, *, members_max: int = MEMBERS_MAX
    ) -> None:
        self._scope = scope
        self._members_max = members_max
        self._tag = scope.tag.encode() if scope.tag is not None else None
        self._opened_ms = opened_ms
        self._ticks = {partition: _Ticking(opened_ms) for partition in partitions}
        self._near: dict[Member, set[Member]] = {}  # What events name together.
        self._legs: dict[Member, _Leg] = {}
        self._rooms: dict[Member, _Room] = {}
        self._taped: dict[Member, _Taped] = {}
        self._began: dict[Member, int] = {}
        self._tests: set[Member] = set()
        self._verdicts: dict[str, _Judged] = {}
        self._heard: dict[Member, int] = {}
        self._forgotten = 0
        self._events = 0
        self._unreadable: set[str] = set()
        self._too_much = False

    # What comes in.

    def event(self, partition: int, arrived_ms: int, value: bytes | None, headers: Headers | None = None) -> None:
        """Take in a message of the events topic, and when it arrived there."""
        entries = decode(value, headers)
        parts = entries_of(value) if self._tag is not None and value is not None else ()
        for number, entry in enumerate(entries):
            if isinstance(entry, Malformed):
                self._set_aside(entry.data)
            elif isinstance(entry, Event) and entry.type == TICK:
                self._tick(partition, arrived_ms)
            elif isinstance(entry, Event) and entry.members:
                tagged = self._tag is not None and number < len(parts) and self._tag in parts[number]
                self._take(entry, arrived_ms, tagged=tagged)

    def verdict(self, key: str, value: bytes | None) -> None:
        """Take in a message of the verdict topic. Of several about one recording the greatest (``at``, final) holds."""
        if value is None:
            self._verdicts.pop(key, None)
            return
        try:
            judged = _judged(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # None of ours: every reader passes over it.
        held = self._verdicts.get(key)
        if held is None and len(self._verdicts) >= self._members_max:
            self._too_much = True
        elif held is None or (judged.at, judged.final) >= (held.at, held.final):
            self._verdicts[key] = judged

    # What is seen.

    def picture(self, now_ms: int, over_ms: int | None = None) -> Picture:
        """What was seen up to now; with ``over_ms``, what began later is none of the session."""
        tests = self._test_calls(over_ms)
        members = set().union(*(test.members for test in tests))
        return Picture(
            calls=tuple(sorted(map(self._call, tests), key=lambda one: (one.began_ms, one.name))),
            others=self._forgotten + len(self._legs.keys() - members),
            recordings=tuple(sorted(self._recordings(members, over_ms), key=lambda one: one.name)),
            ticks=tuple(_ticks(partition, each, now_ms) for partition, each in sorted(self._ticks.items())),
            events=self._events,
            unreadable=tuple(sorted(self._unreadable.intersection(sid for _, sid in members))),
            too_much=self._too_much,
        )

    def missed(self, listed: Listed, over_ms: int) -> Missed:
        """What Twilio listed of the test calls, and none of its events told of.

        What began just before the session may have been told of before it, so that it is not asked for.
        """
        tests = self._test_calls(over_ms)
        calls = [
            (call.account_sid, call.call_sid)
            for call in listed.calls or ()
            if self._opened_ms <= call.created_ms <= over_ms and (call.account_sid, call.call_sid) not in self._near
        ]
        known = set(calls).union(*(test.members for test in tests))
        recordings = []
        for one in listed.recordings:
            taped = self._taped.get((one.account_sid, one.recording_sid))
            names = (one.recording_sid, one.call_sid, one.conference_sid)
            if (self._scope.everything and self._opened_ms <= one.created_ms <= over_ms) or any(
                name is not None and (one.account_sid, name) in known for name in names
            ):
                recordings += [one.recording_sid] if taped is None or not taped.by_stream else []
        return Missed(tuple(sorted(sid for _, sid in calls)), tuple(sorted(recordings)))

    def _test_calls(self, over_ms: int | None) -> list[_Group]:
        tests: list[_Group] = []
        for members in self._conversations():
            began = [self._began[each] for each in members if each in self._began and not self._is_nailed_up(each)]
            began_ms = min(began, default=None)
            if began_ms is not None and self._within(began_ms, over_ms):
                tests.append(_Group(members, began_ms))
        return tests

    def _conversations(self) -> Iterator[set[Member]]:
        """What events connect with the calls of the scope.

        A call that is nailed up (``core/nailed``) is in each that it was seen in, and connects none.
        """
        begin: Iterable[Member] = self._near
        if not self._scope.everything:
            begin = [near for member in self._tests for near in (member, *self._near[member])]
        done: set[Member] = set()
        for member in begin:
            if member in done or self._is_nailed_up(member):
                continue
            members, left = {member}, [member]
            while left:
                near = self._near[left.pop()] - members
                members |= near
                left += [each for each in near if not self._is_nailed_up(each)]
            done |= members
            yield members

    def _is_nailed_up(self, member: Member) -> bool:
        leg = self._legs.get(member)
        return leg is not None and len(leg.inside) > CONFERENCES_MAX

    def _within(self, ms: int, over_ms: int | None) -> bool:
        return self._opened_ms - EARLY_MS <= ms and (over_ms is None or ms <= over_ms)

    def _call(self, group: _Group) -> SeenCall:
        members = sorted(group.members, key=lambda member: (self._began.get(member, group.began_ms), member))
        legs = {member: self._legs[member] for member in members if member in self._legs}
        rooms = {member: self._rooms[member] for member in members if member in self._rooms}
        open_ = [room for room in rooms.values() if room.told and not room.ended]
        on_line = [member for member in legs if self._is_open(member, rooms)]
        return SeenCall(
            account_sid=members[0][0],
            call_sids=tuple(sid for _, sid in legs),
            conference_sids=tuple(sid for _, sid in rooms),
            began_ms=group.began_ms,
            call_events=any(leg.told for leg in legs.values()),
            conference_events=any(room.told for room in rooms.values()),
            ended=not open_ and not on_line,
            insights=bool(rooms) and all(room.summarised for room in rooms.values()),
        )

    def _is_open(self, member: Member, rooms: Mapping[Member, _Room]) -> bool:
        """Whether a call may still go on. One nailed up, or without events of its own, does so in these conferences."""
        leg = self._legs[member]
        if leg.ended or (leg.told and not self._is_nailed_up(member)):
            return not leg.ended
        inside = [(member[0], room) for room, left in leg.inside.items() if not left]
        return any(room in rooms and not rooms[room].ended for room in inside)

    def _recordings(self, tests: set[Member], over_ms: int | None) -> Iterator[SeenRecording]:
        found: dict[Member, _Judged | None] = {}
        for member, taped in self._taped.items():
            named = {(member[0], sid) for sid in (member[1], taped.call, taped.conference) if sid is not None}
            if not named.isdisjoint(tests) or (self._scope.everything and self._within(taped.began_ms, over_ms)):
                found[member] = None
        for key, judged in self._verdicts.items():
            if self._concerns(judged, tests, over_ms):
                found[judged.account_sid, key] = judged
        for member, verdict in found.items():
            yield _recording(member, self._taped.get(member), verdict)

    def _concerns(self, judged: _Judged, tests: set[Member], over_ms: int | None) -> bool:
        names = (judged.recording_sid, judged.call_sid, judged.conference_sid)
        if any(name is not None and (judged.account_sid, name) in tests for name in names):
            return True
        # A recording of nothing that is known is of some call; a suspicion is about a conference that has to be one.
        began_ms = INSTANTS[judged.started_at] or INSTANTS[judged.first_seen_at]
        suspicion = judged.recording_sid is None
        return self._scope.everything and not suspicion and began_ms is not None and self._within(began_ms, over_ms)

    # The fold.

    def _tick(self, partition: int, arrived_ms: int) -> None:
        ticking = self._ticks.get(partition)
        if ticking is not None:
            ticking.gap_ms = max(ticking.gap_ms, arrived_ms - ticking.last_ms)
            ticking.last_ms = max(ticking.last_ms, arrived_ms)
            ticking.seen += 1

    def _set_aside(self, data: bytes) -> None:
        for sid in _SIDS.findall(data[:UNREADABLE_BYTES]):
            if len(self._unreadable) >= UNREADABLE_MAX:
                self._too_much = True
                return
            self._unreadable.add(sid.decode())

    def _take(self, event: Event, arrived_ms: int, *, tagged: bool) -> None:
        account, kind = event.account, event.type
        members = [(account, sid) for sid in event.members]
        if not self._room_for(members, arrived_ms):
            self._too_much = True
            return
        self._events += 1
        occurred_ms = arrived_ms if event.occurred_ms is None else event.occurred_ms
        self._connect(members)
        self._heard.update(dict.fromkeys(members, arrived_ms))
        if tagged:
            self._tests.update(members)
        begins = kind in _BEGINS
        for fact in event.facts:
            if isinstance(fact, CallFact):
                if fact.from_ in self._scope.numbers or fact.to in self._scope.numbers:
                    self._tests.add((account, fact.call))
            elif isinstance(fact, ParticipantFact):
                inside = self._legs[account, fact.call].inside
                inside[fact.conference] = inside.get(fact.conference, False) or fact.phase == "leave"
                begins = begins or (kind.startswith(_CONFERENCE) and fact.phase == "join")
            elif isinstance(fact, ConferenceFact):
                self._rooms[account, fact.conference].ended |= fact.phase == "end"
                begins = begins or (kind.startswith(_CONFERENCE) and fact.phase == "start")
            elif isinstance(fact, RecordingFact):
                self._tape(account, fact, occurred_ms)
        if begins:
            for member in members:
                self._began[member] = min(occurred_ms, self._began.get(member, occurred_ms))
        self._told(kind, members)

    def _told(self, kind: str, members: list[Member]) -> None:
        """What the type of an event says of the calls and conferences it names; its own call is the first of them."""
        leg, room = self._legs.get(members[0]), self._rooms.get(members[0])
        if leg is not None and kind.startswith(_CALL):
            leg.told = True
            leg.ended |= kind == _CALL + "completed"
        elif leg is not None and kind.startswith(_CALL_SUMMARY):
            leg.ended = True
        elif room is not None and kind.startswith(_CONFERENCE):
            room.told = True
        elif room is not None and kind == _CONFERENCE_SUMMARY:
            room.summarised = True

    def _tape(self, account: str, fact: RecordingFact, occurred_ms: int) -> None:
        began_ms = occurred_ms if fact.started_ms is None else fact.started_ms
        taped = self._taped.setdefault((account, fact.recording), _Taped(None, None, began_ms))
        taped.call = taped.call or fact.call
        taped.conference = taped.conference or fact.conference
        taped.began_ms = min(taped.began_ms, began_ms)
        taped.by_stream |= fact.found_by != FOUND_BY_LISTING

    def _room_for(self, members: list[Member], arrived_ms: int) -> bool:
        if len(self._near) < self._members_max or self._near.keys() >= set(members):
            return True
        if not self._too_much:
            self._forget(arrived_ms)
        return len(self._near) < self._members_max

    def _forget(self, arrived_ms: int) -> None:
        """Make room: forget what is of no test call so far, and was not heard of lately."""
        lately = {member for member, heard_ms in self._heard.items() if heard_ms >= arrived_ms - QUIET_MS}
        keep = lately.union(*self._conversations())
        self._forgotten += len(self._legs.keys() - keep)
        for known in (self._near, self._legs, self._rooms, self._taped, self._began, self._heard):
            for member in known.keys() - keep:
                del known[member]
        for near in self._near.values():
            near &= keep

    def _connect(self, members: list[Member]) -> None:
        for member in members:
            if member not in self._near:
                self._near[member] = set()
                if member[1].startswith("CA"):
                    self._legs[member] = _Leg()
                elif member[1].startswith("CF"):
                    self._rooms[member] = _Room()
            if member != members[0]:
                self._near[members[0]].add(member)
                self._near[member].add(members[0])


def _ticks(partition: int, ticking: _Ticking, now_ms: int) -> Ticks:
    return Ticks(
        partition=partition,
        seen=ticking.seen,
        last_ms=ticking.last_ms if ticking.seen else None,
        longest_gap_ms=max(ticking.gap_ms, now_ms - ticking.last_ms),
    )


def _recording(member: Member, taped: _Taped | None, judged: _Judged | None) -> SeenRecording:
    """What events and verdict say of one; the verdict knows better where it is, since it was attributed."""
    account, key = member
    call, conference = (taped.call, taped.conference) if taped is not None else (None, None)
    if judged is None:
        return SeenRecording(
            account_sid=account,
            recording_sid=key,
            call_sid=call,
            conference_sid=conference,
            by_stream=taped is not None and taped.by_stream,
        )
    return SeenRecording(
        account_sid=account,
        recording_sid=judged.recording_sid,
        call_sid=judged.call_sid or call,
        conference_sid=judged.conference_sid or conference,
        by_stream=taped.by_stream if taped is not None else judged.found_by != FOUND_BY_LISTING,
        outcome=judged.outcome,
        cause=judged.cause,
        rule=judged.rule,
        policy=judged.policy,
        reason=judged.reason,
    )
