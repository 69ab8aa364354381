"""The window: conversations, which it joins, bounds and closes; nothing in it concludes anything.

A *conversation* is the connected set of calls, conferences, recordings, tasks and Studio executions of one account.
``Window.fold`` puts an event into it, ``Window.advance`` says what falls due. What a conversation keeps, and how, is in
``conversation``; a call that goes from conference to conference joins nothing: see ``nailed`` and ``guests``.

The rules, and the histories that refuted others, are in docs/checkpoint.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from operator import attrgetter
from typing import Final, Protocol
from weakref import proxy

import msgspec

from monitor.core.births import OpenBirths
from monitor.core.compacted import Table
from monitor.core.conversation import (
    EVERY_KIND,
    IN_FOCUS,
    KIND,
    PROPERTIES,
    Birth,
    Conversation,
    Focus,
    Kept,
    NamedRoom,
    Seen,
    digest_of,
    earliest,
    encode,
    has_seen,
    id_as_kept,
    merge_arrivals,
    shows_recording,
    stamp_of,
)
from monitor.core.emptying import Container
from monitor.core.events import (
    AnyFact,
    ConferenceFact,
    Event,
    ExecutionFact,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.guests import Guests, Nailed
from monitor.core.nailed import Known
from monitor.core.parted import Parted
from monitor.core.readers import TYPE_CODES

BUCKET_MS: Final = 10_000
CLAIM_REACH_MS: Final = (
    120_000  # How long after TwiML ran a conference of its name may be first seen and still be meant.
)
RECORDINGS_KEPT_FACTOR: Final = 4  # What says that there was a recording is kept up to this many times the bound.
# A conversation is cold when nothing arrived for this part of the window: thirteen minutes of four hours. What Voice
# Insights says of a call comes ten minutes after what came before it: packed sooner, many are packed twice.
COLD_AFTER: Final = 18
LOOK_EVERY: Final = 4  # So many messages: to look at a conversation that has nothing to do with them costs as they do.
COLD_TAIL_BYTES: Final = 512  # What a cold conversation may take in before it is packed again.


class _Book(msgspec.Struct, gc=False):
    """All that goes by one conference name in one account: rooms by time, and TwiML that waits for its room."""

    callers: int = 0  # Open conversations that have called the name, whether or not their call still waits.
    rooms: list[NamedRoom] = []  # By first sight.
    claims: list[tuple[int, str]] | None = None  # (instant, member), sorted.

    def add(self, room: NamedRoom) -> Sequence[tuple[int, str]]:
        """Take in a room; the claims whose room may be another one now."""
        insort(self.rooms, room, key=_BY_SIGHT)
        return self._claims_near(room, room.first_ms)

    def move(self, room: NamedRoom, first_ms: int, end_ms: int | None) -> Sequence[tuple[int, str]]:
        """Take in another sight of a room; the claims whose room may be another one now."""
        stood_ms = room.first_ms
        moves = first_ms < stood_ms
        if moves:
            self.forget(room)
        changed = room.see(first_ms, end_ms)
        if moves:
            insort(self.rooms, room, key=_BY_SIGHT)
        return self._claims_near(room, stood_ms) if changed else ()

    def forget(self, room: NamedRoom) -> None:
        del self.rooms[bisect_left(self.rooms, _BY_SIGHT(room), key=_BY_SIGHT)]

    def claim(self, claim: tuple[int, str]) -> bool:
        """Let TwiML wait for its room; whether it did not yet."""
        if self.claims is None:
            self.claims = []
        place = bisect_left(self.claims, claim)
        if place < len(self.claims) and self.claims[place] == claim:
            return False
        self.claims.insert(place, claim)
        return True

    def unclaim(self, claim: tuple[int, str]) -> None:
        claims = self.claims or []
        at = bisect_left(claims, claim)
        if at < len(claims) and claims[at] == claim:
            del claims[at]
        self.claims = claims or None

    def meant(self, at_ms: int) -> str | None:
        """The room in progress at an instant, else the nearest first seen soon after it."""
        rooms = self.rooms
        place = bisect_right(rooms, (at_ms, "\x7f"), key=_BY_SIGHT)
        if place:
            room = rooms[place - 1]
            if room.end_ms is None or room.end_ms >= at_ms:
                return room.conference
        if place < len(rooms) and rooms[place].first_ms <= at_ms + CLAIM_REACH_MS:
            return rooms[place].conference
        return None

    def _claims_near(self, room: NamedRoom, stood_ms: int) -> Sequence[tuple[int, str]]:
        """The claims that a change of this room can concern: from its reach before it to the start of the next room.

        Where its first sight has moved back, the next room is the one after ``stood_ms``, its first sight till then.
        """
        claims = self.claims
        if not claims:
            return ()
        low = bisect_left(claims, (room.first_ms - CLAIM_REACH_MS, ""))
        place = bisect_right(self.rooms, (stood_ms, room.conference), key=_BY_SIGHT)
        high = len(claims)
        if place < len(self.rooms):
            high = bisect_right(claims, (self.rooms[place].first_ms, "\x7f"))
        return claims[low:high]


_BY_SIGHT: Final = attrgetter("first_ms", "conference")


class Account:
    """The open conversations of one account, by member, its conference names, and its calls that join nothing."""

    __slots__ = ("books", "guests", "index", "sid")

    def __init__(self, sid: str) -> None:
        self.sid = sid  # One text for all its conversations.
        self.index: Parted[Conversation] = Table()
        # Most names are those of tasks, and have one room and nothing else: such a room stands there itself.
        self.books: Parted[_Book | NamedRoom] = Table()
        self.guests: Guests | None = None  # None as long as no call was seen in a second conference.


class Cut(msgspec.Struct, frozen=True, gc=False):
    """Evidence at or below ``offset`` is gone; a conversation born before ``until_ms`` may lack some of it."""

    offset: int
    until_ms: int


class Touched(msgspec.Struct, frozen=True, gc=False):
    """What an event did: to which conversation (None: it names no member), and whether it was a duplicate.

    ``kinds`` are those of the facts that were new, 0 of a duplicate; ``renewed`` the conversations that others were
    poured into, or that have just become truncated.
    """

    conversation: Conversation | None
    duplicate: bool
    kinds: int
    renewed: Sequence[Conversation]


class Saver(Protocol):
    """Who takes a snapshot (`core/snapshot`), and is told before a conversation changes."""

    def before(self, conversation: Conversation) -> None:
        """The conversation is about to change, or to close."""

    def give_up(self) -> None:
        """So much is about to change that it is not worth it."""


class Window:
    """The open conversations of one partition. All instants come in from outside; nothing here has a clock."""

    def __init__(
        self,
        *,
        window_ms: int,
        grace_ms: int,
        age_max_ms: int,
        entries_max: int,
        conferences_max: int,
        cut: Cut | None = None,
    ) -> None:
        self.window_ms = window_ms
        self.grace_ms = grace_ms
        self.age_max_ms = age_max_ms
        self.entries_max = entries_max
        self.cut = cut
        self.accounts: dict[str, Account] = {}
        self.open_conversations = 0
        self.open_recordings = 0
        self.truncated_total = 0
        self.dropped_total = 0
        self.due_ms = _NEVER  # No deadline lies before this instant.
        self.births = OpenBirths()
        self.young: deque[Birth] = deque()  # Those behind them, most of which end soon.
        self._by_name = OpenBirths()  # Each was ``beside`` no less than those of older ones.
        self._graces: deque[tuple[int, str, str]] = deque()
        self._buckets: dict[int, list[Conversation]] = {}  # Each knows its place: what is merged away leaves at once.
        self._bucket_order: list[int] = []
        self._bucket = 0  # The last one that anything was filed under.
        self._due: list[tuple[int, int, int, Conversation]] = []
        self._filed = 0
        self.renewed: list[Conversation] = []
        self.cold_after_ms = window_ms // COLD_AFTER
        self._saver: Saver | None = None
        self._epoch = 0
        self._warm: deque[Conversation] = deque()  # Those not cold, each once, looked at in turn.
        me = proxy(self)  # Held by what it holds, the state of a partition would not go with its last user.
        self.nailed = Nailed(
            window_ms=window_ms,
            conferences_max=conferences_max,
            entries_max=entries_max,
            renewed=self.renewed,
            truncate=lambda conversation: me._truncate(conversation),  # noqa: PLW0108 - the method would hold it
        )

    def bulk(self) -> Iterator[Container]:
        """All that is large in it, to be emptied for good: nothing may be asked of it any more."""
        yield from (self._warm, self._graces, self._buckets, self.young)
        yield from self.births.bulk()
        yield from self._by_name.bulk()
        yield from self.nailed.bulk()
        for account in self.accounts.values():
            yield from account.books.bulk()
            yield from account.index.bulk()

    # ----------------------------------------------------------------- what falls due

    def _look_at_deadlines(self) -> None:
        due = self._graces[0][0] if self._graces else _NEVER
        if self._due:
            due = min(due, self._due[0][0])
        if self._bucket_order:
            due = min(due, self._bucket_order[0] * BUCKET_MS)
        self.due_ms = due

    def last_deadline_ms(self) -> int | None:
        """The deadline after which nothing is open any more, if nothing else arrives."""
        lasts = [c.last_ms for a in self.accounts.values() for c in a.index.values()]
        deadlines = [last + self.window_ms for last in lasts] + [due for due, _, _ in self._graces]
        return max(deadlines, default=None)

    def advance(self, log_time_ms: int) -> Iterator[Conversation]:
        """Yield, closed, the conversations whose window ends at or before ``log_time_ms``, in order of deadline."""
        while self._bucket_order and self._bucket_order[0] * BUCKET_MS <= log_time_ms:
            bucket = heappop(self._bucket_order)
            for conversation in self._buckets.pop(bucket):
                self._file_again(conversation, log_time_ms)
        while self._due and self._due[0][0] <= log_time_ms:
            _, _, _, conversation = heappop(self._due)
            if not conversation.open:
                continue
            if conversation.last_ms + self.window_ms <= log_time_ms:
                self._close(conversation)
                yield conversation
            else:
                self._file_again(conversation, log_time_ms)
        self._look_at_deadlines()

    def graces_ended(self, log_time_ms: int) -> Iterator[tuple[Conversation, str, int]]:
        """Yield the recordings whose grace ends at or before ``log_time_ms``, while their conversation is open."""
        while self._graces and self._graces[0][0] <= log_time_ms:
            due_ms, account, recording = self._graces.popleft()
            found = self.accounts.get(account)
            conversation = found.index.get(recording) if found else None
            if conversation is not None and has_seen(conversation.recordings, recording):
                yield conversation, recording, due_ms
        self._look_at_deadlines()

    def _file_again(self, conversation: Conversation, log_time_ms: int) -> None:
        """Put a conversation under its true deadline: into a bucket, or among the due ones of the present bucket."""
        if not conversation.open:
            return
        if self._saver is not None:
            self._saver.before(conversation)  # It may move to where the snapshot has been.
        due_ms = conversation.last_ms + self.window_ms
        bucket = due_ms // BUCKET_MS
        if bucket == self._bucket:
            bucket = self._bucket  # One number for all that are filed under it.
        self._bucket = conversation.bucket = bucket
        if bucket * BUCKET_MS <= log_time_ms:
            self._filed += 1
            heappush(self._due, (due_ms, conversation.birth.offset, self._filed, conversation))
            self.due_ms = min(self.due_ms, due_ms)
            return
        filed = self._buckets.get(bucket)
        if filed is None:
            filed = self._buckets[bucket] = []
            heappush(self._bucket_order, bucket)
            self.due_ms = min(self.due_ms, bucket * BUCKET_MS)
        conversation.place = len(filed)
        filed.append(conversation)

    def _take_from_file(self, conversation: Conversation) -> None:
        """Take a conversation out of its bucket, if it is in one; the last one comes into its place."""
        filed, place = self._buckets.get(conversation.bucket, []), conversation.place
        if place < len(filed) and filed[place] is conversation:
            last = filed.pop()
            if last is not conversation:
                filed[place] = last
                last.place = place

    def _close(self, conversation: Conversation) -> None:
        if self._saver is not None:
            self._saver.before(conversation)
        account = self.accounts[conversation.account]
        for member in conversation.members:
            del account.index[member]
        for room in conversation.rooms:
            if account.books[room.name] is room:
                del account.books[room.name]
            else:
                _book(account, room.name).forget(room)
                self._drop_if_empty(account, room.name)
        for name, at_ms, member in conversation.claims or ():
            if name in account.books:
                _book(account, name).unclaim((at_ms, member))
                self._drop_if_empty(account, name)
        for name in conversation.called or ():
            if name in account.books:
                _book(account, name).callers -= 1
                self._drop_if_empty(account, name)
        self._drop_if_over(account)
        conversation.open = False
        conversation.birth.open = False
        self.open_conversations -= 1
        self.open_recordings -= len(conversation.recordings)

    def _drop_if_over(self, account: Account) -> None:
        if not account.index and account.guests is None:
            del self.accounts[account.sid]

    @staticmethod
    def _drop_if_empty(account: Account, name: str) -> None:
        book = account.books.get(name)
        if isinstance(book, _Book) and not book.rooms and not book.claims and not book.callers:
            del account.books[name]

    def close_all(self) -> list[Conversation]:
        """Close every open conversation of the partition (a cut), in order of birth; of calls nothing is known then."""
        if self._saver is not None:
            self._saver.give_up()
        conversations = self.conversations()
        self._forget_calls(list(self.accounts))
        self.nailed.clear()
        for conversation in conversations:
            self._close(conversation)
        self._due.clear()
        self._buckets.clear()
        self._bucket_order.clear()
        return conversations

    def conversations(self, accounts: Iterable[str] | None = None) -> list[Conversation]:
        """What is open of these accounts, or of all, in order of birth."""
        wanted = (
            self.accounts.values() if accounts is None else [self.accounts[a] for a in accounts if a in self.accounts]
        )
        found = {id(c): c for account in wanted for c in account.index.values()}
        return sorted(found.values(), key=lambda c: (c.birth.offset, c.members[0]))

    # ----------------------------------------------------------------- where a rebuild has to begin

    def oldest_birth(self) -> Birth | None:
        """The birth of the oldest open conversation: the first message that anything open rests on."""
        birth = self.births.first()
        if birth is not None:
            return birth
        while self.young and not self.young[0].open:
            self.young.popleft()
        return self.young[0] if self.young else None

    def rebuild_from(self) -> tuple[int, int] | None:
        """Offset and log time of the first message that anything open rests on; None where nothing is open.

        That is the oldest birth, but for conversations that a conference name may have joined, or kept apart: which
        room a name meant is seen rightly only if all that was open beside them is seen from its beginning.
        """
        birth = self.oldest_birth()
        if birth is None:
            return None
        by_name = self._by_name.first()
        if by_name is not None and by_name.beside_offset < birth.offset:
            return by_name.beside_offset, by_name.beside_ms
        return birth.offset, birth.arrived_ms

    def drop_cut_when_over(self, log_time_ms: int) -> None:
        """Forget the cut once nothing can rest on what it lost."""
        cut = self.cut
        if cut is None or log_time_ms < cut.until_ms:
            return
        birth = self.oldest_birth()
        if birth is None or (birth.offset > cut.offset and birth.arrived_ms >= cut.until_ms):
            self.cut = None

    # ----------------------------------------------------------------- snapshots

    def begin_saving(self, saver: Saver) -> int:
        """Tell ``saver`` of each conversation that is about to change; the epoch that those born from now on have."""
        if self._saver is not None:
            self._saver.give_up()
        self._saver = saver
        self._epoch += 1
        return self._epoch

    def end_saving(self, saver: Saver) -> None:
        """Tell ``saver`` nothing more."""
        if self._saver is saver:
            self._saver = None
            for _ in self.nailed.thaw():  # It was done before, unless what was saved is given up.
                pass

    def filed(self) -> tuple[list[int], list[Conversation]]:
        """Every open conversation: by the buckets that hold them, and those that are due within the present one."""
        return list(self._buckets), [conversation for _, _, _, conversation in self._due]

    def filed_under(self, bucket: int) -> list[Conversation]:
        """What a bucket holds now."""
        return list(self._buckets.get(bucket, ()))

    def restore(
        self,
        account: Account,
        conversation: Conversation,
        log_time_ms: int,
        *,
        by_name: bool,
    ) -> None:
        """Take in a conversation of a snapshot whose members are in the index: books, deadlines, counts."""
        for room in conversation.rooms:
            _add_room(account, room)
        for name, at_ms, member in conversation.claims or ():
            _book(account, name).claim((at_ms, member))
        for name in conversation.called or ():
            _book(account, name).callers += 1
        if by_name:
            self._rest_on_names(conversation)
        self._file_again(conversation, log_time_ms)
        if not conversation.cold:
            self._warm.append(conversation)
        self.births.add(conversation.birth)
        self.open_conversations += 1
        self.open_recordings += len(conversation.recordings)

    def restored(self, graces: Iterable[tuple[int, str, str]], met: Iterable[Conversation]) -> None:
        """The snapshot is all there. The graces to come are in order of time.

        ``met`` are the conversations that have met nailed-up calls.
        """
        for conversation in met:
            conversation.notes = self._guests_of(conversation.account).notes
        self._graces.extend(graces)
        self._look_at_deadlines()

    # ----------------------------------------------------------------- folding

    def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
        """Put one event where it belongs: join what it connects, keep what it shows, move the window on."""
        if arrived_ms >= self.nailed.due_ms:
            self._mark(offset, arrived_ms)
        members = event.members
        if not members:
            return _NOWHERE
        account = self.account_of(event.account)
        renewed = self.renewed
        if renewed:
            renewed.clear()
        get = account.index.get
        # All members are known; and all that are known are in one conversation. Most events name one or two.
        conversation = get(members[0])
        complete = conversation is not None
        joined = True
        if len(members) > 1:
            for member in members[1:]:
                found = get(member)
                if found is None:
                    complete = False
                elif conversation is None:
                    conversation = found
                elif found is not conversation:
                    joined = False
        if self._saver is not None and conversation is not None:
            for member in members:
                if (found := get(member)) is not None:
                    self._saver.before(found)
        digest = b"" if event.id is None else digest_of(event.id)  # Without an id it is never a duplicate.
        guests = account.guests
        if (
            not joined
            or (conversation is not None and conversation.conferences > complete)
            or (guests is not None and guests.notes.watches(members))
        ):
            # Nothing else can show a call in a second conference: of its first it is a member, or that is new.
            guests = account.guests = self.nailed.see(guests, account.sid, account.index, event, arrived_ms)
            if guests is not None and guests.notes.watches(members):
                return self._fold_beside(account, guests, event, digest, offset, index, arrived_ms)
        if conversation is None:
            conversation = self._begin(account.sid, offset, arrived_ms)
        else:
            if digest:
                told = conversation if conversation.has_had(digest) else None
                if told is None and not joined:
                    told = _told_of(account, members, digest)
                if told is not None:
                    told.last_ms = arrived_ms
                    if event.facts:
                        self.nailed.tell_again(told, event, offset, arrived_ms)
                    return Touched(told, True, 0, ())
            if not joined:
                conversation = self._gather(account, members) or conversation
        if not complete:
            self._add_members(account, conversation, members)
        return self._take_in(account, conversation, event, members, digest, offset, index, arrived_ms)

    def _fold_beside(
        self, account: Account, guests: Guests, event: Event, digest: bytes, offset: int, index: int, arrived_ms: int
    ) -> Touched:
        """As ``fold``, where calls of the account have moved: one that is nailed up joins nothing, and is noted."""
        left, met = guests.leave_out(event.members, arrived_ms)
        for call in left:
            if call in account.index:
                self._take_out(account, guests, call, offset, arrived_ms)
        members = tuple([member for member in event.members if member not in left]) if left else event.members
        if not members:
            known = guests.note_alone(event, digest, offset, arrived_ms)
            return Touched(None, known, 0, self._open_renewed())
        told = _told_of(account, members, digest) if digest else None
        if told is not None:
            told.last_ms = arrived_ms
            if event.facts:
                self.nailed.tell_again(told, event, offset, arrived_ms)
            guests.note(told, event, met, offset, arrived_ms)
            return Touched(told, True, 0, self._open_renewed())
        conversation = self._gather(account, members) or self._begin(account.sid, offset, arrived_ms)
        self._add_members(account, conversation, members)
        guests.note(conversation, event, met, offset, arrived_ms)
        return self._take_in(account, conversation, event, members, digest, offset, index, arrived_ms)

    def _take_in(
        self,
        account: Account,
        conversation: Conversation,
        event: Event,
        members: tuple[str, ...],
        digest: bytes,
        offset: int,
        index: int,
        arrived_ms: int,
    ) -> Touched:
        """Keep an event in its conversation; ``members`` are those of the event's that are in it."""
        conversation.ids += digest
        conversation.last_ms = arrived_ms
        if offset % LOOK_EVERY == 0:
            self.look_for_cold(arrived_ms)
        kinds = self._keep(account, conversation, event, members, offset, index, arrived_ms) if event.facts else 0
        if not self.renewed:
            return Touched(conversation, False, kinds, ())
        # A binding may have poured it into another one.
        return Touched(account.index[members[0]], False, kinds, self._open_renewed())

    def _open_renewed(self) -> list[Conversation]:
        return [conversation for conversation in self.renewed if conversation.open]

    def _take_out(self, account: Account, guests: Guests, call: str, offset: int, arrived_ms: int) -> None:
        """A call that has become nailed up leaves its conversation; nothing is left of one that it was alone in."""
        conversation = account.index.pop(call)
        conversation.unpack()
        if conversation.cold:
            self._warm_up(conversation)
        conversation.members = tuple([member for member in conversation.members if member != call])
        self._release(account, conversation, call)
        guests.leave(conversation, call, offset, arrived_ms)
        if not conversation.members:
            self._close(conversation)

    def _mark(self, offset: int, arrived_ms: int) -> None:
        """Log time has come to a new bucket with this message."""
        self._forget_calls(self.nailed.mark(offset, arrived_ms, self.oldest_birth()))

    def _forget_calls(self, accounts: Iterable[str]) -> None:
        """Of the calls of these accounts nothing is known any more."""
        for sid in accounts:
            account = self.accounts[sid]
            account.guests = None
            self._drop_if_over(account)

    def look_back(self, event: Event, offset: int, arrived_ms: int) -> None:
        """Note an event from before the first one that a rebuild folds."""
        if arrived_ms >= self.nailed.due_ms:
            self.nailed.begin_bucket(offset, arrived_ms)  # It looks back one window: nothing can be forgotten yet.
        if event.members:
            digest = b"" if event.id is None else digest_of(event.id)
            self._guests_of(event.account).look_back(event, digest, offset, arrived_ms)

    def know(self, account_sid: str, known: Known) -> None:
        """Know this of calls of an account, which a snapshot holds beside the conversations."""
        self._guests_of(account_sid).notes.know(known)

    def account_of(self, sid: str) -> Account:
        """An account, a new one if nothing was known of it."""
        account = self.accounts.get(sid)
        if account is None:
            account = self.accounts[sid] = Account(sid)
        return account

    def _guests_of(self, account_sid: str) -> Guests:
        """What is known of an account's calls, from now on if nothing was."""
        account = self.account_of(account_sid)
        guests = account.guests = self.nailed.open(account.sid, account.index)
        return guests

    def _begin(self, account_sid: str, offset: int, arrived_ms: int) -> Conversation:
        """A new conversation, without members yet."""
        truncated = self.cut is not None and arrived_ms < self.cut.until_ms
        oldest = self.oldest_birth()
        beside = (offset, arrived_ms) if oldest is None else (oldest.offset, oldest.arrived_ms)
        birth = Birth(offset, arrived_ms, *beside)
        conversation = Conversation(account_sid, (), birth, arrived_ms, 0, truncated)
        conversation.epoch = self._epoch
        self.truncated_total += truncated
        self.young.append(birth)
        while self.young and self.young[0].arrived_ms <= arrived_ms - self.cold_after_ms:
            # By now it is seen which were poured into others: more than are left.
            grown = self.young.popleft()
            if grown.open:
                self.births.add(grown)
        self.open_conversations += 1
        self._file_again(conversation, arrived_ms)
        self._warm.append(conversation)
        return conversation

    def _gather(self, account: Account, members: tuple[str, ...]) -> Conversation | None:
        """The one conversation of all known ``members``, merged where they are in several; None: none is known."""
        conversation: Conversation | None = None
        for member in members:
            found = account.index.get(member)
            if found is not None and found is not conversation:
                conversation = found if conversation is None else self._merge(account, conversation, found)
        return conversation

    @staticmethod
    def _add_members(account: Account, conversation: Conversation, members: tuple[str, ...]) -> None:
        index = account.index
        for member in members:
            if member not in index:
                index[member] = conversation
                conversation.add_member(member)
                if member.startswith("CF"):
                    conversation.conferences += 1

    def look_for_cold(self, arrived_ms: int) -> None:
        """Look at one conversation, the next in turn, and pack it if it is cold: never more than one a message."""
        warm = self._warm
        if not warm:
            return
        if warm[0].open and arrived_ms - warm[0].last_ms < self.cold_after_ms:
            warm.rotate(-1)
            return
        conversation = warm.popleft()
        if conversation.open:
            conversation.cool()

    def _warm_up(self, conversation: Conversation) -> None:
        """A cold conversation has taken in so much that it is to be packed again."""
        conversation.cold = False
        self._warm.append(conversation)

    def _merge(self, account: Account, one: Conversation, other: Conversation) -> Conversation:
        """Join two conversations for good; the smaller is poured into the larger."""
        if self._saver is not None:
            self._saver.before(one)
            self._saver.before(other)
        if len(one.members) < len(other.members):
            one, other = other, one
        for member in other.members:
            account.index[member] = one
        one.members += other.members
        one.conferences += other.conferences
        if other.again:
            one.again = merge_arrivals(one.again, other.again)
        if other.birth.offset < one.birth.offset:
            one.birth, other.birth = other.birth, one.birth
        other.birth.open = False
        one.last_ms = max(one.last_ms, other.last_ms)
        one.truncated = one.truncated or other.truncated
        one.relevant, one.focus, one.waiting = EVERY_KIND, None, True
        self._pour(one, other)
        if one.cold:
            self._warm_up(one)
        one.ids += other.ids
        one.recordings = earliest(one.recordings, other.recordings)
        one.suspects = earliest(one.suspects, other.suspects)
        if other.claims:
            one.claims = (one.claims or []) + other.claims
        one.rooms += other.rooms
        for name in other.called or ():
            if name in (one.called or ()):
                _book(account, name).callers -= 1
            else:
                one.called = [*(one.called or ()), name]
        for call, since in (other.guests or {}).items():
            assert account.guests is not None
            account.guests.meet(one, call, since)
        if one.by_name or other.by_name:
            one.by_name = False  # Its birth may be another one now.
            self._rest_on_names(one)
        other.open = False
        self._take_from_file(other)
        other.members, other.evidence, other.properties, other.ids = (), b"", b"", b""
        other.claims = other.called = None
        other.recordings = other.suspects = other.rooms = ()
        self.open_conversations -= 1
        self.renewed.append(one)
        return one

    def _pour(self, one: Conversation, other: Conversation) -> None:
        """Put the evidence of two conversations together, within the bounds of one."""
        one.unpack()
        other.unpack()
        if one.kept + other.kept <= self.entries_max:
            one.evidence += other.evidence
            one.kept += other.kept
        else:
            # Of the one that has less, what finds room: the work is never more than what is poured.
            more, less = (one, other) if one.kept >= other.kept else (other, one)
            pieces, kept = [more.evidence], more.kept
            for entry in less.read_evidence():
                precious = any(shows_recording(fact) for fact in entry.facts)
                if kept < self.entries_max * (RECORDINGS_KEPT_FACTOR if precious else 1):
                    pieces.append(encode(entry))
                    kept += 1
                else:
                    self._truncate(one)
            one.evidence, one.kept = b"".join(pieces), kept
        left = self.entries_max - one.properties_kept
        if other.properties_kept <= left:
            one.properties += other.properties
            one.properties_kept += other.properties_kept
        else:
            stamped = other.read_stamped()[:left]
            one.properties += b"".join([encode(fact) + stamp_of(told) for fact, told in stamped])
            one.properties_kept += left
            self._truncate(one)

    def _keep(
        self,
        account: Account,
        conversation: Conversation,
        event: Event,
        members: tuple[str, ...],
        offset: int,
        index: int,
        arrived_ms: int,
    ) -> int:
        """Keep what an event shows; the kinds of what is new."""
        new = 0
        occurred_ms = event.occurred_ms if event.occurred_ms is not None else arrived_ms
        timed: list[AnyFact] = []
        dropped: list[AnyFact] = []
        for fact in event.facts:
            kind = KIND[type(fact)]
            if kind & PROPERTIES:
                encoded = encode(fact)
                if not conversation.tell_again(encoded, self.nailed.stamp):
                    if conversation.properties_kept >= self.entries_max:
                        self._truncate(conversation)
                        continue
                    conversation.properties += encoded + self.nailed.stamp
                    conversation.properties_kept += 1
                    if conversation.focus is None or is_news(account, conversation.focus, fact, occurred_ms):
                        new |= kind
                    if (
                        isinstance(fact, TaskFact)
                        and fact.conference is not None
                        and conversation.kept < self.entries_max
                    ):
                        timed.append(fact)  # It shows a Flex conference: worth its position.
                continue
            if isinstance(fact, RecordingFact):
                self._see_recording(conversation, fact.recording, arrived_ms, offset, index)
            elif conversation.kept >= self.entries_max and not shows_recording(fact):
                self._truncate(conversation)
                dropped.append(fact)
                continue
            timed.append(fact)
            if (
                not kind & IN_FOCUS
                or conversation.focus is None
                or is_news(account, conversation.focus, fact, occurred_ms)
            ):
                new |= kind
        if not timed and not dropped:
            return new
        if conversation.kept >= self.entries_max * RECORDINGS_KEPT_FACTOR:
            self._truncate(conversation)
        elif timed:
            self._write(conversation, event, occurred_ms, offset, timed)
        for fact in (*timed, *dropped) if dropped else timed:
            # What is not kept binds all the same: a rebuild that begins later in the log may have room for it.
            self._bind(account, conversation, fact, occurred_ms, arrived_ms, offset, index)
            conversation = account.index[members[0]]  # A binding may have poured it into another one.
        return new

    def _write(
        self, conversation: Conversation, event: Event, occurred_ms: int, offset: int, facts: Sequence[AnyFact]
    ) -> None:
        kept = Kept(occurred_ms, offset, id_as_kept(event.id), TYPE_CODES.get(event.type, event.type), tuple(facts))
        conversation.evidence += encode(kept)
        conversation.kept += 1
        if conversation.cold and len(conversation.evidence) > COLD_TAIL_BYTES:
            self._warm_up(conversation)

    def _truncate(self, conversation: Conversation) -> None:
        self.dropped_total += 1
        if not conversation.truncated:
            if self._saver is not None:
                self._saver.before(conversation)
            conversation.truncated = True
            self.renewed.append(conversation)
            self.truncated_total += 1

    def _see_recording(
        self, conversation: Conversation, recording: str, arrived_ms: int, offset: int, index: int
    ) -> None:
        if not has_seen(conversation.recordings, recording):
            recording = conversation.own(recording)
            conversation.recordings += (Seen(recording, arrived_ms, offset, index),)
            conversation.waiting = True
            self.open_recordings += 1
            self._graces.append((arrived_ms + self.grace_ms, conversation.account, recording))
            self.due_ms = min(self.due_ms, self._graces[0][0])

    # ----------------------------------------------------------------- bindings by conference name

    def _bind(
        self,
        account: Account,
        conversation: Conversation,
        fact: AnyFact,
        occurred_ms: int,
        arrived_ms: int,
        offset: int,
        index: int,
    ) -> None:
        """Join a call's TwiML with the conference it means, where only the conference's name connects the two.

        A call that is seen in a conference needs no such thing: its own events connect it.
        """
        if isinstance(fact, ParticipantFact):
            if conversation.claims:
                self._release(account, conversation, fact.call)
            if fact.name:
                at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
                self._see_room(account, conversation, fact.name, fact.conference, at_ms, None)
        elif isinstance(fact, ConferenceFact):
            at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
            if fact.recording_on and not has_seen(conversation.suspects, fact.conference):
                conversation.suspects += (Seen(conversation.own(fact.conference), arrived_ms, offset, index),)
                if conversation.focus is None or fact.conference not in conversation.focus.recorded:
                    self.renewed.append(conversation)
            if fact.name:
                end_ms = at_ms if fact.phase == "end" else None
                self._see_room(account, conversation, fact.name, fact.conference, at_ms, end_ms)
        elif isinstance(fact, TwimlFact) or (isinstance(fact, RequestFact) and fact.conference is None):
            self._call_name(account, conversation, fact.name, occurred_ms, fact.call)

    def _call_name(
        self, account: Account, conversation: Conversation, name: str | None, at_ms: int, member: str | None
    ) -> None:
        """A call is to be joined with the conference of a name."""
        if name is None or member is None or member not in account.index:
            return  # One that is nailed up was seen in conferences: it means none by its name alone.
        book = _book(account, name)
        if name not in (conversation.called or ()):
            conversation.called = [*(conversation.called or ()), name]
            book.callers += 1
            if book.callers == 1:
                for room in book.rooms:
                    self._rest_on_names(account.index[room.conference])
        self._rest_on_names(conversation)
        if not _entered(conversation, member):
            self._claim(account, book, conversation, name, at_ms, member)

    def _rest_on_names(self, conversation: Conversation) -> None:
        if not conversation.by_name:
            if self._saver is not None:
                self._saver.before(conversation)
            conversation.by_name = True
            self._by_name.add(conversation.birth)

    def _see_room(
        self,
        account: Account,
        conversation: Conversation,
        name: str,
        conference: str,
        first_ms: int,
        end_ms: int | None,
    ) -> None:
        room = conversation.room(name, conference)
        if room is not None and first_ms >= room.first_ms and end_ms is None:
            return  # As most sights of a room: it has been seen before, and nothing follows.
        book = account.books.get(name)
        if isinstance(book, _Book) and book.callers:
            self._rest_on_names(conversation)
        if room is None:
            # One text for a room and for the members that it goes by.
            if (task := account.index.get(name)) is not None:
                name = task.own(name)
            room = NamedRoom(name, conversation.own(conference), first_ms, end_ms)
            conversation.rooms += (room,)
            concerned = _add_room(account, room)
        elif book is room:
            room.see(first_ms, end_ms)
            return
        else:
            concerned = _book(account, name).move(room, first_ms, end_ms)
        for at_ms, member in concerned:
            self._join_by_name(account, _book(account, name), at_ms, member)

    def _claim(
        self, account: Account, book: _Book, conversation: Conversation, name: str, at_ms: int, member: str
    ) -> None:
        if book.claim((at_ms, member)):
            conversation.claims = [*(conversation.claims or ()), (name, at_ms, member)]
        self._join_by_name(account, book, at_ms, member)

    def _release(self, account: Account, conversation: Conversation, call: str) -> None:
        """A call seen in a conference binds nothing by name any more."""
        left = []
        for name, at_ms, member in conversation.claims or ():
            if member == call:
                if name in account.books:
                    _book(account, name).unclaim((at_ms, member))
                    self._drop_if_empty(account, name)
            else:
                left.append((name, at_ms, member))
        conversation.claims = left or None

    def _join_by_name(self, account: Account, book: _Book, at_ms: int, member: str) -> None:
        conference = book.meant(at_ms)
        if conference is None:
            return
        one, other = account.index.get(member), account.index.get(conference)
        if one is not None and other is not None and one is not other:
            self._merge(account, one, other)


def book_of(account: Account, name: str) -> _Book:
    """All that goes by a name in an account."""
    book = account.books.get(name)
    return book if isinstance(book, _Book) else _Book(rooms=[] if book is None else [book])


def _book(account: Account, name: str) -> _Book:
    """The book of a name, which is opened now if there is none."""
    book = account.books[name] = book_of(account, name)
    return book


def _add_room(account: Account, room: NamedRoom) -> Sequence[tuple[int, str]]:
    """Take in a room; the claims whose room may be another one now."""
    if room.name in account.books:
        return _book(account, room.name).add(room)
    account.books[room.name] = room
    return ()


_NEVER: Final = 1 << 62
_NOWHERE: Final = Touched(None, False, 0, ())


def _told_of(account: Account, members: tuple[str, ...], digest: bytes) -> Conversation | None:
    """The conversation of one of ``members`` that has had this event before."""
    for member in members:
        conversation = account.index.get(member)
        if conversation is not None and conversation.has_had(digest):
            return conversation
    return None


def is_news(account: Account, focus: Focus, fact: AnyFact, occurred_ms: int) -> bool:
    """Whether a fact of a kind that is relevant can matter, given what its conversation's conclusions rest on."""
    if isinstance(fact, ParticipantFact):
        at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
        for lookout in focus.calls:
            elsewhere = fact.conference != lookout.but_in
            if fact.call == lookout.call and at_ms <= lookout.until_ms and (elsewhere or at_ms < lookout.before_ms):
                return True
        return focus.everywhere or (focus.names and _moves_room(account, focus, fact, at_ms, ends=False))
    if isinstance(fact, ConferenceFact):
        at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
        ends = fact.phase == "end"
        if focus.everywhere or (ends and at_ms <= focus.ends_until_ms):
            return True
        return focus.names and _moves_room(account, focus, fact, at_ms, ends=ends)
    if isinstance(fact, ExecutionFact | StepFact):
        return all(fact.execution != execution or occurred_ms <= until_ms for execution, until_ms in focus.executions)
    return focus.everywhere or not isinstance(fact, TaskFact) or fact.conference is not None


def _moves_room(
    account: Account, focus: Focus, fact: ParticipantFact | ConferenceFact, at_ms: int, *, ends: bool
) -> bool:
    """Whether a sight of a conference changes what is known of it under its name: as most do not."""
    if fact.name is None:
        return False
    here = account.index.get(fact.conference)
    room = here.room(fact.name, fact.conference) if here is not None else None
    if room is None:
        return True
    return focus.rooms and (at_ms < room.first_ms or (ends and (room.end_ms is None or at_ms > room.end_ms)))


def _entered(conversation: Conversation, call: str) -> bool:
    """Whether any participant event of this call is known."""
    return any(
        isinstance(fact, ParticipantFact) and fact.call == call
        for kept in conversation.read_evidence()
        for fact in kept.facts
    )
