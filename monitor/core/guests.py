"""How conversations meet nailed-up calls: who is left out of what joins, what is noted, and whom it concerns.

The window asks three things of it: whether a call that an event shows in a conference is nailed up (``Nailed.see``,
``Guests.leave_out``), to note what an event tells of such calls (``Guests.note``), and from where a rebuild has to look
back (``Nailed.look_back_from``). The rules are in docs/checkpoint.md; what is known of calls is kept in ``nailed``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final
from weakref import proxy

import msgspec

from monitor.core.conversation import (
    DIGEST_BYTES,
    KIND,
    PLACES,
    PROPERTIES,
    Birth,
    Conversation,
    Kept,
    encode,
    id_as_kept,
    stamp_of,
)
from monitor.core.emptying import Container
from monitor.core.events import (
    AnyFact,
    CallFact,
    ConferenceFact,
    Event,
    ExecutionFact,
    ParticipantFact,
    RequestFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.nailed import (
    NEVER,
    AllKnown,
    Call,
    Marks,
    Note,
    Notes,
    Sight,
    execution_told,
    facts_of,
    room_told,
    with_one,
)
from monitor.core.parted import Parted
from monitor.core.readers import TYPE_CODES

STEPS: Final = 400
"""Of forgetting, with each bucket: some milliseconds. A quarter of an hour is enough for 36,000 calls and places; to
look through more takes longer, and what nobody can see is kept as much longer."""
_NOBODY: Final = Conversation("", (), Birth(0, 0, 0, 0), 0, 0, False)


class Nailed:
    """What one partition knows of calls that go from conference to conference.

    Nothing of this can be derived from the conversations that are open. ``times`` holds the ``marks`` (where in the log
    each bucket begins), ``noted`` (when a call was last nailed up, which says whether a rebuild has to look back) and
    ``forget_due``; ``freeze`` gives of each account the ``Notes``: of each call where and when it was seen, what was
    noted of it, the ids of what named it alone and what fell to the bound; of conferences names and ends; of executions
    steps.
    Conversations hold the rest themselves: ``guests``, ``again``, ``told_late`` and the stamps in ``properties``. What
    follows from either is derived when it is loaded: ``conferences`` and ``notes`` of conversations, ``watched``.
    """

    def __init__(
        self,
        *,
        window_ms: int,
        conferences_max: int,
        entries_max: int,
        renewed: list[Conversation],
        truncate: Callable[[Conversation], None],
    ) -> None:
        self.conferences_max = conferences_max
        self.entries_max = entries_max
        self.renewed = renewed  # Where conversations go that are to be judged again.
        self.truncate = truncate
        self.marks = Marks(window_ms)
        self.noted = NEVER  # The last bucket in which a call was nailed up.
        self.forget_due = NEVER
        self._forgetting: Iterator[str | None] | None = None  # While it goes on.
        self._frozen: list[Notes] = []
        self.accounts: dict[str, Guests] = {}
        self.guests_type = Guests
        self.due_ms = NEVER  # A message that arrives at or after this instant begins a bucket.
        self.stamp = b""  # The present bucket.

    def mark(self, offset: int, arrived_ms: int, oldest: Birth | None) -> Iterable[str]:
        """Take down that log time has come to a new bucket; the accounts of whose calls nothing is known any more."""
        bucket = self.begin_bucket(offset, arrived_ms)
        if bucket >= self.forget_due and self._forgetting is None:
            self.forget_due = bucket + self.marks.part
            from_ms = arrived_ms if oldest is None else oldest.beside_ms
            self.marks.forget(from_ms // self.marks.bucket_ms - self.marks.window)
            self._forgetting = self._forget(self.accounts, bucket)
        if self._forgetting is None:
            return []
        # Some with each bucket: with half a million open, all at once held everything up for a third of a second.
        steps = list(islice(self._forgetting, STEPS))
        if len(steps) < STEPS:
            self._forgetting = None
        return [sid for sid in steps if sid is not None]

    @staticmethod
    def _forget(accounts: dict[str, Guests], bucket: int) -> Iterator[str | None]:
        """Drop what nobody can see any more, in steps; the accounts of whose calls nothing is known any more."""
        for sid, guests in list(accounts.items()):
            yield from guests.forget(bucket)
            if not guests.notes.size() and accounts.get(sid) is guests:
                del accounts[sid]
                yield sid

    def begin_bucket(self, offset: int, arrived_ms: int) -> int:
        """Take down that log time has come to a new bucket; the bucket."""
        bucket = self.marks.mark(offset, arrived_ms)
        self.due_ms = self.marks.due_ms
        self.stamp = stamp_of(self.marks.stamp(bucket))
        return bucket

    def open(self, account: str, index: Parted[Conversation]) -> Guests:
        """The guests of an account's conversations."""
        guests = self.accounts.get(account)
        if guests is None:
            guests = self.accounts[account] = self.guests_type(self, index, Notes(self.marks.window, self.entries_max))
        return guests

    def bulk(self) -> Iterator[Container]:
        """All that is large in it, to be emptied for good."""
        for guests in self.accounts.values():
            yield from guests.notes.bulk()

    def clear(self) -> None:
        """Forget every call: a rebuild can't see behind a cut."""
        self.accounts.clear()
        self._forgetting = None
        self.noted = NEVER

    def look_back_from(self, from_ms: int) -> tuple[int, int] | None:
        """From where a rebuild has to look at calls that opens conversations at ``from_ms``; None: from there on.

        That is one window before, if anything may have been noted since: who was nailed up is seen only so.
        """
        after = from_ms // self.marks.bucket_ms - self.marks.window
        return self.marks.first_after(after) if self.noted > after else None

    def see(
        self, guests: Guests | None, account: str, index: Parted[Conversation], event: Event, arrived_ms: int
    ) -> Guests | None:
        """Take down where an event's calls are, unless their conversation says it: most are in one for life."""
        for fact in event.facts:
            if type(fact) is ParticipantFact:
                if guests is None:
                    if not moves(index, fact.call, fact.conference):
                        continue
                    guests = self.open(account, index)
                guests.see(fact, self.marks.bucket_at(arrived_ms))
        return guests

    def tell_again(self, conversation: Conversation, event: Event, offset: int, arrived_ms: int) -> None:
        """Take down that a duplicate has arrived: a rebuild may begin behind the first, and see this one as the first.

        Only where a call was, and what is to be noted of it, depends on when it was told.
        """
        bucket = self.marks.bucket_at(arrived_ms)
        assert event.id is not None  # Else it would be no duplicate.
        conversation.arrive_again(event.id, offset, bucket, self.entries_max)
        for fact in event.facts:
            if KIND[type(fact)] & PROPERTIES:
                conversation.tell_again(encode(fact), self.stamp)

    def arrivals(self, conversation: Conversation, kept: Kept) -> list[tuple[int, int]]:
        """At which offsets, and when, an event that a conversation keeps has arrived: first, and again."""
        again = () if kept.event_id is None else conversation.arrivals_again(kept.event_id)
        return [(kept.offset, self.marks.bucket_of(kept.offset)), *again]

    # ----------------------------------------------------------------- what a snapshot takes and gives

    def times(self) -> Times:
        """What it knows besides the notes of its accounts."""
        return Times(self.marks.dump(), self.noted, self.forget_due)

    def load(self, times: Times) -> None:
        """Know this instead, and of accounts nothing yet."""
        self.marks.load(times.marks)
        self.noted, self.forget_due = times.noted, times.forget_due
        self.due_ms = self.marks.due_ms
        if self.due_ms != NEVER:
            self.stamp = stamp_of(self.marks.stamp(self.due_ms // self.marks.bucket_ms - 1))
        self.accounts.clear()
        self._forgetting = None

    def freeze(self) -> list[tuple[str, AllKnown]]:
        """What is noted of each account as of now, which does not change until ``thaw``, whatever is noted then."""
        self._frozen = [guests.notes for guests in self.accounts.values()]
        return [(sid, guests.notes.freeze()) for sid, guests in self.accounts.items()]

    def thaw(self) -> Iterator[None]:
        """Go on without ``freeze``, in steps: of half a million conversations all of it at once takes 25 ms."""
        while self._frozen:
            yield from self._frozen[-1].thaw()
            self._frozen.pop()


class Times(msgspec.Struct, array_like=True, frozen=True):
    """Where in the log each bucket begins, when a call was last nailed up, and when calls may be forgotten."""

    marks: list[tuple[int, int, int]]
    noted: int
    forget_due: int


class Guests:
    """The nailed-up calls of one account, and the open conversations (``index``, by member) that met them."""

    __slots__ = ("index", "nailed", "notes", "window")

    def __init__(self, nailed: Nailed, index: Parted[Conversation], notes: Notes) -> None:
        self.nailed: Nailed = proxy(nailed)  # It holds this: what a partition's state is made of holds no cycle.
        self.index = index
        self.notes = notes
        self.window = nailed.marks.window

    # ----------------------------------------------------------------- where calls are

    def see(self, fact: ParticipantFact, bucket: int) -> None:
        """Take down where a call is, if it has moved: where its conversation says it, nothing need be known."""
        most = self.nailed.conferences_max + 1
        known = self.notes.calls.get(fact.call)
        if known is None:
            if not moves(self.index, fact.call, fact.conference):
                return
            known = self.notes.call(fact.call)
            here = self.index[fact.call]
            for kept in here.read_evidence():
                for told in kept.facts:
                    if isinstance(told, ParticipantFact) and told.call == fact.call:
                        *_, (_, arrived) = self.nailed.arrivals(here, kept)
                        known.see(here.own(told.conference), arrived, most)
        known.see(fact.conference, bucket, most)

    def leave_out(self, members: Sequence[str], arrived_ms: int) -> tuple[list[str], list[str]]:
        """Of what an event names the calls that are nailed up, and those that are guests where it goes.

        A call that is not nailed up any more joins, and is a guest all the same while its conversation may not hold all
        that is noted.
        """
        bucket = self.nailed.marks.bucket_at(arrived_ms)
        after = bucket - self.window
        most = self.nailed.conferences_max
        left: list[str] = []
        guests: list[str] = []
        for member in members:
            call = self.notes.calls.get(member)
            if call is None:
                continue
            if len(call.seen) > most and call.conferences(after) > most:
                left.append(member)
                guests.append(member)
                self.nailed.noted = bucket
            elif call.is_noted(after):
                guests.append(member)
        return left, guests

    def leave(self, conversation: Conversation, call: str, offset: int, arrived_ms: int) -> None:
        """A call has become nailed up: its conversation keeps what it has, and has it as a guest."""
        notes, marks = self.notes, self.nailed.marks
        bucket = marks.bucket_at(arrived_ms)
        after = bucket - self.window
        sights: list[Sight] = []
        noted: list[Note] = []
        for kept in conversation.read_evidence():
            facts = facts_of(kept.facts, call)
            for told_at, arrived in self.nailed.arrivals(conversation, kept) if facts else ():
                if arrived > after:
                    one = msgspec.structs.replace(kept, facts=tuple(facts), offset=told_at)
                    sights += _sights_in(one, arrived)
                    noted += _notes_in(one, arrived)
        notes.note_late(call, sights, noted)
        self._watch_all(call, sights, noted, offset, bucket)
        for known, told in conversation.read_stamped():
            if told > after and facts_of((known,), call):
                notes.tell(call, encode(known), told)
        if not conversation.members:
            # It held the call alone: nothing to judge. Its duplicates are still known.
            ids = conversation.ids
            for at in range(0, len(ids), DIGEST_BYTES):
                notes.calls[call].tell_alone(ids[at : at + DIGEST_BYTES], bucket)
            return
        for guest in conversation.guests or ():
            record = notes.calls[guest]
            record.guests = with_one(record.guests, conversation.members[0])
        self.meet(conversation, call, bucket)

    def meet(self, conversation: Conversation, call: str, since: int) -> None:
        """Let a conversation see what is noted of a call, from a window before this bucket on."""
        if conversation.guests is None:
            conversation.guests, conversation.notes = {}, self.notes
        before = conversation.guests.get(call)
        if before is not None and before <= since:
            return
        conversation.guests[call] = since
        record = self.notes.call(call)
        record.guests = with_one(record.guests, conversation.members[0])
        self.nailed.renewed.append(conversation)
        self._lose(conversation, call, record)

    # ----------------------------------------------------------------- what is noted

    def note_alone(self, event: Event, digest: bytes, offset: int, arrived_ms: int) -> bool:
        """Note an event that names nailed-up calls only; whether it is a duplicate."""
        bucket = self.nailed.marks.bucket_at(arrived_ms)
        kept = _kept_of(event, offset, arrived_ms)
        known = False
        for member in event.members:
            if digest:
                call = self.notes.calls[member]
                known = known or call.told_alone(digest) > bucket - self.window
                known = known or any(met.has_had(digest) for met in self._met(member, call))
                call.tell_alone(digest, bucket, self.nailed.entries_max)
            self._note_of(member, kept, bucket, None)
        self._note_places(kept, bucket, None)
        return known

    def note(
        self, conversation: Conversation, event: Event, guests: Collection[str], offset: int, arrived_ms: int
    ) -> None:
        """Let the calls in ``guests`` be guests of a conversation, and note what its event tells of any guest."""
        notes, bucket = self.notes, self.nailed.marks.bucket_at(arrived_ms)
        for call in guests:
            self.meet(conversation, call, bucket)
        if event.facts:
            kept = _kept_of(event, offset, arrived_ms)
            for member in event.members:
                record = notes.calls.get(member)
                if record is not None and record.guests:
                    self._note_of(member, kept, bucket, conversation)
            self._note_places(kept, bucket, conversation)

    def look_back(self, event: Event, digest: bytes, offset: int, arrived_ms: int) -> None:
        """Note an event from before the first one that a rebuild folds: of any call, whether it is nailed up or not.

        Of those that turn out not to be, nothing that is noted here is ever seen.
        """
        notes, bucket = self.notes, self.nailed.marks.bucket_at(arrived_ms)
        for fact in event.facts:
            if isinstance(fact, ParticipantFact):
                notes.call(fact.call).see(fact.conference, bucket, self.nailed.conferences_max + 1)
            if isinstance(fact, ParticipantFact | ConferenceFact) and fact.conference not in notes.rooms:
                notes.watch_room(fact.conference, offset, bucket)
            execution = execution_told(fact)
            if execution is not None and execution not in notes.executions:
                notes.watch_execution(execution, bucket)
        kept = _kept_of(event, offset, arrived_ms)
        for member in event.members:
            if member.startswith("CA"):
                notes.call(member)
                self._note_of(member, kept, bucket, None)
                if digest:
                    notes.calls[member].tell_alone(digest, bucket)
        self._note_places(kept, bucket, None)
        self.nailed.noted = bucket

    def _note_of(self, call: str, event: Kept, bucket: int, conversation: Conversation | None) -> None:
        """Note what an event tells of one call; those that have it as a guest are to be judged where it matters."""
        facts = facts_of(event.facts, call)
        if not facts:
            return
        record = self.notes.calls[call]
        lost = record.lost
        told_at: dict[AnyFact, int] = {}
        timed: list[AnyFact] = []
        for fact in facts:
            if KIND[type(fact)] & PROPERTIES:
                before = self.notes.tell(call, encode(fact), self.nailed.marks.stamp(bucket))
                told_at[fact] = NEVER if before is None else before
            else:
                timed.append(fact)
        if timed:
            kept = msgspec.structs.replace(event, facts=tuple(timed))
            sights, noted = _sights_in(kept, bucket), _notes_in(kept, bucket)
            self.notes.note(call, sights, noted)
            self._watch_all(call, sights, noted, event.offset, bucket)
        for met in self._met(call, record):
            if record.lost > lost:
                self._lose(met, call, record)
            if met is not conversation and any(
                _is_news(met, call, fact, event.occurred_ms, told_at.get(fact, NEVER), self.window) for fact in facts
            ):
                self.nailed.renewed.append(met)

    def _note_places(self, event: Kept, bucket: int, conversation: Conversation | None) -> None:
        """Note what an event tells of conferences that such calls were in, and of executions that they started."""
        notes = self.notes
        for fact in event.facts:
            told = room_told(fact, event.occurred_ms)
            if told is not None and (room := notes.rooms.get(told[0])) is not None:
                _, name, end_ms = told
                named, ended = notes.tell_room(room, name, end_ms, bucket)
                named = named and room.since != event.offset  # Else the call is seen there for the first time itself.
                if named or ended:
                    self._renew(room.calls, fact, event.occurred_ms, conversation, PLACES if named else 0)
            place = execution_told(fact)
            if place is not None and (execution := notes.executions.get(place)) is not None:
                kept = msgspec.structs.replace(event, facts=(fact,))
                notes.step(execution, Note(bucket, event.offset, encode(kept), None))
                self._renew(execution.calls, fact, event.occurred_ms, conversation, 0)

    def _renew(
        self, calls: Iterable[str], fact: AnyFact, occurred_ms: int, conversation: Conversation | None, kinds: int
    ) -> None:
        """Something was told of where calls were: who has one as a guest is to be judged where that, or kinds, matter.

        ``conversation`` has it itself.
        """
        for call in calls:
            record = self.notes.calls.get(call)
            for met in self._met(call, record) if record is not None else ():
                assert record is not None
                self._lose(met, call, record)
                if met is not conversation and (
                    kinds & met.relevant or _is_news(met, call, fact, occurred_ms, NEVER, self.window)
                ):
                    self.nailed.renewed.append(met)

    def _watch_all(self, call: str, sights: Iterable[Sight], noted: Iterable[Note], offset: int, bucket: int) -> None:
        """From now on note what is told of conferences that a call was in, and of executions that it started."""
        for conference in {sight.conference for sight in sights}:
            self._watch_room(call, conference, offset, bucket)
        for execution in {note.execution for note in noted if note.execution is not None}:
            self._watch_execution(call, execution, bucket)

    def _watch_room(self, call: str, conference: str, offset: int, bucket: int) -> None:
        room = self.notes.rooms.get(conference)
        if room is None:
            room = self.notes.watch_room(conference, offset, bucket)
            holder = self.index.get(conference) or _NOBODY
            for kept in holder.read_evidence():
                for fact in kept.facts:
                    told = room_told(fact, kept.occurred_ms)
                    if told is not None and told[0] == conference:
                        *_, (_, arrived) = self.nailed.arrivals(holder, kept)
                        self.notes.tell_room(room, told[1], told[2], arrived)
        room.touched = bucket
        room.calls = with_one(room.calls, call)

    def _watch_execution(self, call: str, sid: str, bucket: int) -> None:
        execution = self.notes.executions.get(sid)
        if execution is None:
            execution = self.notes.watch_execution(sid, bucket)
            holder = self.index.get(sid) or _NOBODY
            for kept in holder.read_evidence():
                facts = tuple([fact for fact in kept.facts if execution_told(fact) == sid])
                for told_at, arrived in self.nailed.arrivals(holder, kept) if facts else ():
                    note = msgspec.structs.replace(kept, facts=facts, offset=told_at)
                    self.notes.step(execution, Note(arrived, told_at, encode(note), None))
        execution.touched = bucket
        execution.calls = with_one(execution.calls, call)

    # ----------------------------------------------------------------- whom it concerns

    def forget(self, bucket: int) -> Iterator[None]:
        """Drop what nobody can see any more, in steps."""
        return self.notes.forget(bucket, self._sinces)

    def _met(self, call: str, record: Call) -> list[Conversation]:
        """The open conversations that have a call as a guest."""
        found: dict[int, Conversation] = {}
        left: list[str] = []
        for member in record.guests:
            conversation = self.index.get(member)
            if conversation is not None and conversation.guests is not None and call in conversation.guests:
                found[id(conversation)] = conversation
                left.append(member)
        if len(left) < len(record.guests):
            record.guests = tuple(left)
        return list(found.values())

    def _sinces(self, call: str, record: Call) -> list[int]:
        return [met.guests[call] for met in self._met(call, record) if met.guests is not None]

    def _lose(self, conversation: Conversation, call: str, record: Call) -> None:
        """A conversation lacks what fell to the bound of a guest's notes, if it could have seen that."""
        assert conversation.guests is not None
        if record.lost > conversation.guests[call] - self.window and not conversation.truncated:
            self.nailed.truncate(conversation)


def moves(index: Parted[Conversation], call: str, conference: str) -> bool:
    """Whether a call is seen in a second conference, as far as its conversation's members can tell."""
    here = index.get(call)
    if here is None or here.conferences == 0:
        return False
    return here.conferences > 1 or index.get(conference) is not here


def _kept_of(event: Event, offset: int, arrived_ms: int) -> Kept:
    occurred_ms = event.occurred_ms if event.occurred_ms is not None else arrived_ms
    return Kept(occurred_ms, offset, id_as_kept(event.id), TYPE_CODES.get(event.type, event.type), event.facts)


def _sights_in(kept: Kept, bucket: int) -> list[Sight]:
    """Where an event, of which only what concerns one call is kept, has seen it."""
    return [
        Sight(bucket, kept.offset, kept.occurred_ms if fact.at_ms is None else fact.at_ms, fact.phase, fact.conference)
        for fact in kept.facts
        if isinstance(fact, ParticipantFact)
    ]


def _notes_in(kept: Kept, bucket: int) -> list[Note]:
    """What else such an event tells of the call, as a note; of more than one Studio execution, one of each."""
    return [
        Note(
            bucket,
            kept.offset,
            encode(msgspec.structs.replace(kept, facts=(fact,))),
            fact.execution if isinstance(fact, ExecutionFact) else None,
        )
        for fact in kept.facts
        if not isinstance(fact, ParticipantFact) and not KIND[type(fact)] & PROPERTIES
    ]


def _is_news(conversation: Conversation, call: str, fact: AnyFact, occurred_ms: int, told: int, window: int) -> bool:
    """Whether what was noted of a guest, or of where it was, can matter to what a conversation concluded.

    ``told`` is when the same was last told before.
    """
    if not (conversation.recordings or conversation.suspects) or not KIND[type(fact)] & conversation.relevant:
        return False
    if isinstance(fact, CallFact | TaskFact):
        assert conversation.guests is not None
        return told <= conversation.guests[call] - window
    focus = conversation.focus
    if focus is None or focus.everywhere:
        return True
    if isinstance(fact, ParticipantFact | ConferenceFact):
        # Names are news by themselves (``_note_places``); here only where the call was, and until when.
        at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
        return at_ms <= focus.ends_until_ms or any(
            lookout.call == call and at_ms <= lookout.until_ms for lookout in focus.calls
        )
    if isinstance(fact, TwimlFact | RequestFact) and focus.meant is not None:
        return fact.name in focus.meant
    return True
