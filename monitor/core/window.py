"""The window: conversations, which it joins, bounds and closes; nothing in it concludes anything.

A *conversation* is the connected set of calls, conferences, recordings, tasks and Studio executions of one account.
``Window.fold`` puts an event into it, ``Window.advance`` says what falls due. Evidence is kept as one bytes object a
conversation, appended to and read back only to judge, so that a quiet conversation costs bytes and not objects.

The rules, and the histories that refuted others, are in docs/checkpoint.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from struct import Struct
from typing import Final

import msgspec

from monitor.core.events import (
    AnyFact,
    CallFact,
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
from monitor.core.nailed import (
    NEVER,
    Call,
    Execution,
    Marks,
    Note,
    Notes,
    Room,
    Sight,
    View,
    execution_told,
    facts_of,
    room_told,
)
from monitor.core.readers import EVENT_TYPES

BUCKET_MS: Final = 10_000
CLAIM_REACH_MS: Final = (
    120_000  # How long after TwiML ran a conference of its name may be first seen and still be meant.
)
RECORDINGS_KEPT_FACTOR: Final = 4  # What says that there was a recording is kept up to this many times the bound.

_TYPE_CODES: Final = {name: code for code, name in enumerate(EVENT_TYPES)}


# One bit a kind of fact; what may change a conclusion is a set of kinds.
KIND: Final[dict[type, int]] = {
    kind: 1 << place
    for place, kind in enumerate(
        (
            RecordingFact,
            ParticipantFact,
            ConferenceFact,
            TwimlFact,
            RequestFact,
            TaskFact,
            ExecutionFact,
            StepFact,
            CallFact,
        )
    )
}
EVERY_KIND: Final = (1 << len(KIND)) - 1
PLACES: Final = KIND[ParticipantFact] | KIND[ConferenceFact]
PROPERTIES: Final = KIND[CallFact] | KIND[TaskFact]  # Known without a time.


class Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An event as the window keeps it; ``type`` is a number where it is in the table of types."""

    occurred_ms: int
    offset: int
    event_id: str | None
    type: int | str
    facts: tuple[AnyFact, ...]

    @property
    def type_name(self) -> str:
        """The event's type, in our spelling."""
        return self.type if isinstance(self.type, str) else EVENT_TYPES[self.type]


_encode = msgspec.msgpack.Encoder().encode
_pack_digest = Struct("q").pack
_decode_kept = msgspec.msgpack.Decoder(tuple[Kept, ...]).decode
_decode_kept_one = msgspec.msgpack.Decoder(Kept).decode
_decode_properties = msgspec.msgpack.Decoder(tuple[CallFact | TaskFact | int, ...]).decode
_decode_property = msgspec.msgpack.Decoder(CallFact | TaskFact).decode


def _stamp(bucket: int) -> bytes:
    """A bucket as it stands behind each property: msgpack's eight bytes, whatever the number."""
    return b"\xcf" + bucket.to_bytes(8, "big")


def _array(blob: bytes, count: int) -> bytes:
    """Concatenated msgpack values as one msgpack array."""
    return b"\xdd" + count.to_bytes(4, "big") + blob


class Birth(msgspec.Struct, gc=False):
    """Where and when a conversation began; it stays true while one that holds it is open.

    ``beside_offset`` and ``beside_ms`` are those of the oldest birth that was open then: whatever the conversation can
    ever have met began no earlier.
    """

    offset: int
    arrived_ms: int
    beside_offset: int
    beside_ms: int
    open: bool = True


class Seen(msgspec.Struct, frozen=True, gc=False):
    """When a recording was first seen: its arrival, and its order of appearance (offset, place inside the message)."""

    arrived_ms: int
    offset: int
    index: int

    def before(self, other: Seen) -> bool:
        """Whether this is the earlier sight of the two."""
        return (self.offset, self.index) < (other.offset, other.index)


class Focus(msgspec.Struct, frozen=True, gc=False):
    """Of where calls were, only this can still change a conclusion: these calls, up to this instant."""

    calls: frozenset[str]
    until_ms: int


class Conversation(msgspec.Struct, gc=False, eq=False):
    """What belongs together. ``members`` are its SIDs; ``ids`` holds eight bytes of each event id seen."""

    account: str
    members: list[str]
    birth: Birth
    last_ms: int
    due_ms: int  # The deadline it is filed under; the true one is ``last_ms`` + window.
    truncated: bool
    evidence: bytes = b""
    kept: int = 0
    properties: bytes = b""
    properties_kept: int = 0
    ids: bytes = b""
    recordings: dict[str, Seen] | None = None
    suspects: dict[str, Seen] | None = None  # Conferences that Insights says had recording on.
    claims: list[tuple[str, int, str]] | None = None  # TwiML that waits for its conference: name, instant, member.
    rooms: list[tuple[str, str]] | None = None  # Conferences with a name: name, conference.
    called: list[str] | None = None  # Conference names that TwiML of its calls, or requests for them, hold.
    by_name: bool = False  # What it is joined with may rest on the names that other conversations hold.
    relevant: int = EVERY_KIND  # The kinds of facts that can still change what was last concluded from it.
    focus: Focus | None = None  # Of participants and conferences only this; None: everything.
    meant: frozenset[str] | None = None  # Of TwiML and requests only those for these names; None: all.
    waiting: bool = True  # The end of a grace can change what was last concluded.
    open: bool = True
    again: dict[str, list[tuple[int, int]]] | None = None  # Of duplicates by event id: offset and arrival (a bucket).
    conferences: int = 0  # Of its members, so many are conferences.
    guests: dict[str, int] | None = None  # Calls it has met that join nothing, and since when (a bucket).
    notes: Notes | None = None  # Where these are noted.

    def read_evidence(self) -> tuple[Kept, ...]:
        """Everything kept with a time, in order of arrival within each merged part."""
        return _decode_kept(_array(self.evidence, self.kept))

    def read_properties(self) -> tuple[CallFact | TaskFact, ...]:
        """What is known without a time: of calls and of tasks."""
        return tuple(fact for fact, _ in self.read_stamped())

    def read_stamped(self) -> list[tuple[CallFact | TaskFact, int]]:
        """What is known without a time, and when it was last told (a bucket)."""
        stamped = iter(_decode_properties(_array(self.properties, 2 * self.properties_kept)))
        return [(fact, told) for fact, told in zip(stamped, stamped, strict=True) if not isinstance(fact, int)]  # type: ignore[misc]

    def view(self) -> View | None:
        """What it sees through its guests; None where it has none."""
        return None if self.guests is None or self.notes is None else self.notes.view(self.guests)

    @staticmethod
    def read_noted(view: View) -> tuple[Kept, ...]:
        """The events that it sees through its guests."""
        kept = view.kept()
        return _decode_kept(_array(b"".join(kept), len(kept)))

    @staticmethod
    def read_noted_properties(view: View) -> tuple[CallFact | TaskFact, ...]:
        """What it sees through its guests that is known without a time."""
        return tuple(map(_decode_property, view.properties()))


class _Room(msgspec.Struct, gc=False):
    """A conference by its name: when it was first seen, and when it ended as far as is known."""

    first_ms: int
    end_ms: int | None


class _Book:
    """All that goes by one conference name in one account: rooms by time, and TwiML that waits for its room."""

    __slots__ = ("callers", "claims", "order", "rooms")

    def __init__(self) -> None:
        self.callers = 0  # Open conversations that have called the name, whether or not their call still waits.
        self.rooms: dict[str, _Room] = {}
        self.order: list[tuple[int, str]] = []  # (first seen, conference), sorted.
        self.claims: list[tuple[int, str]] = []  # (instant, member), sorted.

    def see(self, conference: str, first_ms: int, end_ms: int | None) -> Sequence[tuple[int, str]]:
        """Take in a sight of a room; the claims whose room may be another one now."""
        room = self.rooms.get(conference)
        if room is None:
            self.rooms[conference] = _Room(first_ms, end_ms)
            insort(self.order, (first_ms, conference))
            return self._claims_near(conference, first_ms)
        changed = False
        stood_ms = room.first_ms
        if first_ms < room.first_ms:
            self.order.remove((room.first_ms, conference))
            insort(self.order, (first_ms, conference))
            room.first_ms = first_ms
            changed = True
        if end_ms is not None and (room.end_ms is None or end_ms > room.end_ms):
            room.end_ms = end_ms
            changed = True
        return self._claims_near(conference, stood_ms) if changed else ()

    def forget(self, conference: str) -> None:
        room = self.rooms.pop(conference, None)
        if room is not None:
            self.order.remove((room.first_ms, conference))

    def unclaim(self, claim: tuple[int, str]) -> None:
        at = bisect_left(self.claims, claim)
        if at < len(self.claims) and self.claims[at] == claim:
            del self.claims[at]

    def meant(self, at_ms: int) -> str | None:
        """The room in progress at an instant, else the nearest first seen soon after it."""
        place = bisect_right(self.order, (at_ms, "\x7f"))
        if place:
            _, conference = self.order[place - 1]
            end_ms = self.rooms[conference].end_ms
            if end_ms is None or end_ms >= at_ms:
                return conference
        if place < len(self.order) and self.order[place][0] <= at_ms + CLAIM_REACH_MS:
            return self.order[place][1]
        return None

    def _claims_near(self, conference: str, stood_ms: int) -> list[tuple[int, str]]:
        """The claims that a change of this room can concern: from its reach before it to the start of the next room.

        Where its first sight has moved back, the next room is the one after ``stood_ms``, its first sight till then.
        """
        room = self.rooms[conference]
        low = bisect_left(self.claims, (room.first_ms - CLAIM_REACH_MS, ""))
        place = bisect_right(self.order, (stood_ms, conference))
        high = len(self.claims)
        if place < len(self.order):
            high = bisect_right(self.claims, (self.order[place][0], "\x7f"))
        return self.claims[low:high]


class Account:
    """The open conversations of one account, by member, its conference names, and notes of calls that join nothing."""

    __slots__ = ("books", "index", "notes")

    def __init__(self) -> None:
        self.index: dict[str, Conversation] = {}
        self.books: dict[str, _Book] = {}
        self.notes: Notes | None = None


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
        self.conferences_max = conferences_max
        self.cut = cut
        self.marks = Marks(window_ms)
        self.accounts: dict[str, Account] = {}
        self.open_conversations = 0
        self.open_recordings = 0
        self.truncated_total = 0
        self.dropped_total = 0
        self.due_ms = _NEVER  # No deadline lies before this instant.
        self._births: deque[Birth] = deque()
        self._by_name: list[tuple[int, int, int, Birth]] = []
        self._graces: deque[tuple[int, str, str]] = deque()
        self._buckets: dict[int, list[Conversation]] = {}
        self._bucket_order: list[int] = []
        self._due: list[tuple[int, int, int, Conversation]] = []
        self._filed = 0
        self._renewed: list[Conversation] = []
        self._noted = NEVER  # The last bucket in which a call was nailed up.
        self._forget_due = NEVER

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
            if conversation is not None and conversation.recordings and recording in conversation.recordings:
                yield conversation, recording, due_ms
        self._look_at_deadlines()

    def _file_again(self, conversation: Conversation, log_time_ms: int) -> None:
        """Put a conversation under its true deadline: into a bucket, or among the due ones of the present bucket."""
        if not conversation.open:
            return
        due_ms = conversation.due_ms = conversation.last_ms + self.window_ms
        bucket = due_ms // BUCKET_MS
        if bucket * BUCKET_MS <= log_time_ms:
            self._filed += 1
            heappush(self._due, (due_ms, conversation.birth.offset, self._filed, conversation))
            self.due_ms = min(self.due_ms, due_ms)
        elif bucket in self._buckets:
            self._buckets[bucket].append(conversation)
        else:
            self._buckets[bucket] = [conversation]
            heappush(self._bucket_order, bucket)
            self.due_ms = min(self.due_ms, bucket * BUCKET_MS)

    def _close(self, conversation: Conversation) -> None:
        account = self.accounts[conversation.account]
        for member in conversation.members:
            del account.index[member]
        for name, conference in conversation.rooms or ():
            if (book := account.books.get(name)) is not None:
                book.forget(conference)
                self._drop_if_empty(account, name)
        for name, at_ms, member in conversation.claims or ():
            if (book := account.books.get(name)) is not None:
                book.unclaim((at_ms, member))
                self._drop_if_empty(account, name)
        for name in conversation.called or ():
            if (book := account.books.get(name)) is not None:
                book.callers -= 1
                self._drop_if_empty(account, name)
        if not account.index and account.notes is None:
            del self.accounts[conversation.account]
        conversation.open = False
        conversation.birth.open = False
        self.open_conversations -= 1
        self.open_recordings -= len(conversation.recordings or ())

    @staticmethod
    def _drop_if_empty(account: Account, name: str) -> None:
        book = account.books.get(name)
        if book is not None and not book.rooms and not book.claims and not book.callers:
            del account.books[name]

    def close_all(self) -> list[Conversation]:
        """Close every open conversation of the partition (a cut), in order of birth; of calls nothing is known then."""
        conversations = self.conversations()
        for sid, account in list(self.accounts.items()):
            account.notes = None
            if not account.index:
                del self.accounts[sid]
        self._noted = NEVER
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
        births = self._births
        while births and not births[0].open:
            births.popleft()
        return births[0] if births else None

    def rebuild_from(self) -> tuple[int, int] | None:
        """Offset and log time of the first message that anything open rests on; None where nothing is open.

        That is the oldest birth, but for conversations that a conference name may have joined, or kept apart: which
        room a name meant is seen rightly only if all that was open beside them is seen from its beginning.
        """
        birth = self.oldest_birth()
        if birth is None:
            return None
        by_name = self._by_name
        while by_name and not by_name[0][3].open:
            heappop(by_name)
        if by_name and by_name[0][0] < birth.offset:
            return by_name[0][:2]
        return birth.offset, birth.arrived_ms

    def drop_cut_when_over(self, log_time_ms: int) -> None:
        """Forget the cut once nothing can rest on what it lost."""
        cut = self.cut
        if cut is None or log_time_ms < cut.until_ms:
            return
        birth = self.oldest_birth()
        if birth is None or (birth.offset > cut.offset and birth.arrived_ms >= cut.until_ms):
            self.cut = None

    # ----------------------------------------------------------------- folding

    def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
        """Put one event where it belongs: join what it connects, keep what it shows, move the window on."""
        if arrived_ms >= self.marks.due_ms:
            self._mark(offset, arrived_ms)
        members = event.members
        if not members:
            return _NOWHERE
        account = self.accounts.get(event.account)
        if account is None:
            account = self.accounts[event.account] = Account()
        if self._renewed:
            self._renewed.clear()
        for fact in event.facts:
            if type(fact) is ParticipantFact:
                self._see(account, fact.call, fact.conference, arrived_ms)
        guests: list[str] = []
        if account.notes is not None:
            members, guests = self._leave_out(account, account.notes, members, offset, arrived_ms)
        digest = _pack_digest(hash(event.id)) if event.id is not None else None
        if not members:
            known = self._note_alone(account, event, offset, arrived_ms, digest)
            return Touched(None, known, 0, [c for c in self._renewed if c.open])
        if digest is not None:
            duplicate = self._find(account, members, digest)
            if duplicate is not None:
                duplicate.last_ms = arrived_ms
                if event.facts:
                    self._tell_again(duplicate, event, offset, arrived_ms)
                if account.notes is not None:
                    self._note(account, duplicate, event, guests, offset, arrived_ms)
                return Touched(duplicate, True, 0, [c for c in self._renewed if c.open])
        conversation = self._gather(account, event.account, members, offset, arrived_ms)
        if digest is not None:
            conversation.ids += digest
        conversation.last_ms = arrived_ms
        if account.notes is not None:
            self._note(account, conversation, event, guests, offset, arrived_ms)
        kinds = 0
        if event.facts:
            kinds = self._keep(account, conversation, event, members, offset, index, arrived_ms)
        if self._renewed:
            conversation = account.index[members[0]]  # A binding may have poured it into another one.
            return Touched(conversation, False, kinds, [c for c in self._renewed if c.open])
        return Touched(conversation, False, kinds, ())

    @staticmethod
    def _find(account: Account, members: tuple[str, ...], digest: bytes) -> Conversation | None:
        """The conversation of one of ``members`` that has had this event before."""
        get = account.index.get
        previous = None
        for member in members:
            conversation = get(member)
            if conversation is None or conversation is previous:
                continue
            previous = conversation
            if digest in conversation.ids and _holds(conversation.ids, digest):
                return conversation
        return None

    def _gather(
        self, account: Account, account_sid: str, members: tuple[str, ...], offset: int, arrived_ms: int
    ) -> Conversation:
        """The one conversation of all ``members``: found, merged or new."""
        index = account.index
        conversation: Conversation | None = None
        complete = True
        for member in members:
            found = index.get(member)
            if found is None:
                complete = False
            elif found is not conversation:
                conversation = found if conversation is None else self._merge(account, conversation, found)
        if conversation is None:
            truncated = self.cut is not None and arrived_ms < self.cut.until_ms
            oldest = self.oldest_birth()
            beside = (offset, arrived_ms) if oldest is None else (oldest.offset, oldest.arrived_ms)
            birth = Birth(offset, arrived_ms, *beside)
            conversation = Conversation(account_sid, [], birth, arrived_ms, arrived_ms + self.window_ms, truncated)
            self.truncated_total += truncated
            self._births.append(conversation.birth)
            self.open_conversations += 1
            self._file_again(conversation, arrived_ms)
        if not complete:
            for member in members:
                if member not in index:
                    index[member] = conversation
                    conversation.members.append(member)
                    if member.startswith("CF"):
                        conversation.conferences += 1
        return conversation

    def _merge(self, account: Account, one: Conversation, other: Conversation) -> Conversation:
        """Join two conversations for good; the smaller is poured into the larger."""
        if len(one.members) < len(other.members):
            one, other = other, one
        for member in other.members:
            account.index[member] = one
        one.members += other.members
        one.conferences += other.conferences
        if other.again:
            one.again = _all_told(one.again or {}, other.again)
        if other.birth.offset < one.birth.offset:
            one.birth, other.birth = other.birth, one.birth
        other.birth.open = False
        one.last_ms = max(one.last_ms, other.last_ms)
        one.truncated = one.truncated or other.truncated
        one.relevant, one.focus, one.meant, one.waiting = EVERY_KIND, None, None, True
        self._pour(one, other)
        one.ids += other.ids
        one.recordings = _earliest(one.recordings, other.recordings)
        one.suspects = _earliest(one.suspects, other.suspects)
        if other.claims:
            one.claims = (one.claims or []) + other.claims
        if other.rooms:
            one.rooms = (one.rooms or []) + other.rooms
        for name in other.called or ():
            if name in (one.called or ()):
                account.books[name].callers -= 1
            else:
                one.called = [*(one.called or ()), name]
        for call, since in (other.guests or {}).items():
            self._meet(account, one, call, since)
        if one.by_name or other.by_name:
            one.by_name = False  # Its birth may be another one now.
            self._rest_on_names(one)
        other.open = False
        other.members, other.evidence, other.properties, other.ids = [], b"", b"", b""
        other.recordings = other.suspects = other.claims = other.rooms = other.called = None
        self.open_conversations -= 1
        self._renewed.append(one)
        return one

    def _pour(self, one: Conversation, other: Conversation) -> None:
        """Put the evidence of two conversations together, within the bounds of one."""
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
                    pieces.append(_encode(entry))
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
            one.properties += b"".join(_encode(fact) + _stamp(told) for fact, told in stamped)
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
        stamp = b""
        occurred_ms = event.occurred_ms if event.occurred_ms is not None else arrived_ms
        timed: list[AnyFact] = []
        dropped: list[AnyFact] = []
        for fact in event.facts:
            kind = KIND[type(fact)]
            if kind & PROPERTIES:
                encoded = _encode(fact)
                stamp = stamp or _stamp(arrived_ms // self.marks.bucket_ms)
                if not _renew_property(conversation, encoded, stamp):
                    if conversation.properties_kept >= self.entries_max:
                        self._truncate(conversation)
                        continue
                    conversation.properties += encoded + stamp
                    conversation.properties_kept += 1
                    new |= kind
                    if (
                        isinstance(fact, TaskFact)
                        and fact.conference is not None
                        and conversation.kept < self.entries_max
                    ):
                        timed.append(fact)  # It shows a Flex conference: worth its position.
                continue
            if isinstance(fact, RecordingFact):
                self._see_recording(conversation, fact.recording, Seen(arrived_ms, offset, index))
            elif conversation.kept >= self.entries_max and not shows_recording(fact):
                self._truncate(conversation)
                dropped.append(fact)
                continue
            timed.append(fact)
            if not kind & PLACES or conversation.focus is None or _is_news(account, conversation, fact, occurred_ms):
                new |= kind
        if not timed and not dropped:
            return new
        seen = Seen(arrived_ms, offset, index)
        if conversation.kept >= self.entries_max * RECORDINGS_KEPT_FACTOR:
            self._truncate(conversation)
        elif timed:
            self._write(conversation, event, occurred_ms, offset, timed)
        for fact in (*timed, *dropped) if dropped else timed:
            # What is not kept binds all the same: a rebuild that begins later in the log may have room for it.
            self._bind(account, conversation, fact, occurred_ms, seen)
            conversation = account.index[members[0]]  # A binding may have poured it into another one.
        return new

    @staticmethod
    def _write(
        conversation: Conversation, event: Event, occurred_ms: int, offset: int, facts: Sequence[AnyFact]
    ) -> None:
        kept = Kept(occurred_ms, offset, event.id, _TYPE_CODES.get(event.type, event.type), tuple(facts))
        conversation.evidence += _encode(kept)
        conversation.kept += 1

    def _truncate(self, conversation: Conversation) -> None:
        self.dropped_total += 1
        if not conversation.truncated:
            conversation.truncated = True
            self._renewed.append(conversation)
            self.truncated_total += 1

    def _see_recording(self, conversation: Conversation, recording: str, seen: Seen) -> None:
        if conversation.recordings is None:
            conversation.recordings = {}
        if recording not in conversation.recordings:
            conversation.recordings[recording] = seen
            conversation.waiting = True
            self.open_recordings += 1
            self._graces.append((seen.arrived_ms + self.grace_ms, conversation.account, recording))
            self.due_ms = min(self.due_ms, self._graces[0][0])

    # ----------------------------------------------------------------- nailed-up calls

    def _mark(self, offset: int, arrived_ms: int) -> None:
        """Take down that log time has come to a new bucket with this message; forget what nobody can ask for."""
        bucket = self.marks.mark(offset, arrived_ms)
        if bucket < self._forget_due:
            return
        self._forget_due = bucket + max(1, self.marks.window // 16)
        oldest = self.oldest_birth()
        from_ms = arrived_ms if oldest is None else oldest.beside_ms
        self.marks.forget(from_ms // self.marks.bucket_ms - self.marks.window)
        for sid, account in list(self.accounts.items()):
            if account.notes is not None:
                account.notes.forget(bucket, partial(self._sinces, account))
                if not account.notes.calls and not account.notes.rooms and not account.notes.executions:
                    account.notes = None
                    if not account.index:
                        del self.accounts[sid]

    def look_back_from(self, from_ms: int) -> tuple[int, int] | None:
        """From where a rebuild has to look at calls that opens conversations at ``from_ms``; None: from there on.

        That is one window before, if anything may have been noted since: who was nailed up is seen only so.
        """
        after = from_ms // self.marks.bucket_ms - self.marks.window
        return self.marks.first_after(after) if self._noted > after else None

    def look_back(self, event: Event, offset: int, arrived_ms: int) -> None:
        """Note an event from before the first one that a rebuild folds: of any call, whether it is nailed up or not.

        Of those that turn out not to be, nothing that is noted here is ever seen.
        """
        if arrived_ms >= self.marks.due_ms:
            self._mark(offset, arrived_ms)
        if not event.members:
            return
        account = self.accounts.get(event.account)
        if account is None:
            account = self.accounts[event.account] = Account()
        if account.notes is None:
            account.notes = Notes(self.marks.window, self.entries_max)
        notes, bucket = account.notes, arrived_ms // self.marks.bucket_ms
        for fact in event.facts:
            if isinstance(fact, ParticipantFact):
                notes.call(fact.call).see(fact.conference, bucket, self.conferences_max + 1)
            if isinstance(fact, ParticipantFact | ConferenceFact) and fact.conference not in notes.rooms:
                notes.rooms[fact.conference] = Room(offset, bucket)
            execution = execution_told(fact)
            if execution is not None and execution not in notes.executions:
                notes.executions[execution] = Execution(bucket)
        for member in event.members:
            if member.startswith("CA"):
                notes.call(member)
                self._note_of(account, notes, member, event, offset, arrived_ms)
                if event.id is not None:
                    notes.calls[member].ids[_pack_digest(hash(event.id))] = bucket
        self._note_places(account, notes, None, event, offset, arrived_ms)
        self._noted = bucket

    def _see(self, account: Account, call: str, conference: str, arrived_ms: int) -> None:
        """Take down where a call is, unless its conversation says it: most calls are in one conference for life."""
        known = account.notes.calls.get(call) if account.notes is not None else None
        if known is None:
            here = account.index.get(call)
            if here is None:
                return
            if here.conferences == 0 or (here.conferences == 1 and account.index.get(conference) is here):
                return
            if account.notes is None:
                account.notes = Notes(self.marks.window, self.entries_max)
            known = account.notes.call(call)
            for kept in here.read_evidence():
                for fact in kept.facts:
                    if isinstance(fact, ParticipantFact) and fact.call == call:
                        *_, (_, bucket) = self._arrivals(here, kept)
                        known.see(fact.conference, bucket, self.conferences_max + 1)
        known.see(conference, arrived_ms // self.marks.bucket_ms, self.conferences_max + 1)

    def _arrivals(self, conversation: Conversation, kept: Kept) -> list[tuple[int, int]]:
        """At which offsets, and when, an event that a conversation keeps has arrived: first, and again."""
        again = (conversation.again or {}).get(kept.event_id or "", ())
        return [(kept.offset, self.marks.bucket_of(kept.offset)), *again]

    def _tell_again(self, conversation: Conversation, event: Event, offset: int, arrived_ms: int) -> None:
        """Take down that a duplicate has arrived: a rebuild may begin behind the first, and see this one as the first.

        Only where a call was, and what is to be noted of it, depends on when it was told.
        """
        bucket = arrived_ms // self.marks.bucket_ms
        if conversation.again is None:
            conversation.again = {}
        told = conversation.again.setdefault(event.id or "", [])
        told.append((offset, bucket))
        for fact in event.facts:
            if KIND[type(fact)] & PROPERTIES:
                _renew_property(conversation, _encode(fact), _stamp(bucket))

    def _leave_out(
        self, account: Account, notes: Notes, members: tuple[str, ...], offset: int, arrived_ms: int
    ) -> tuple[tuple[str, ...], list[str]]:
        """What an event joins of what it names, and the calls that are guests where it goes.

        A call that is not nailed up any more is both, as long as its conversation may not hold all that is noted.
        """
        bucket = arrived_ms // self.marks.bucket_ms
        after = bucket - self.marks.window
        left: list[str] = []
        guests: list[str] = []
        for member in members:
            call = notes.calls.get(member)
            if call is None:
                continue
            if call.conferences(after) > self.conferences_max:
                left.append(member)
                guests.append(member)
                if member in account.index:
                    self._take_out(account, notes, member, offset, bucket)
            elif call.is_noted(after):
                guests.append(member)
        if left:
            self._noted = bucket
            members = tuple([member for member in members if member not in left])
        return members, guests

    def _take_out(self, account: Account, notes: Notes, call: str, offset: int, bucket: int) -> None:
        """A call has become nailed up: it leaves its conversation, which keeps what it has and has it as a guest."""
        conversation = account.index.pop(call)
        conversation.members.remove(call)
        after = bucket - self.marks.window
        sights: list[Sight] = []
        noted: list[Note] = []
        for kept in conversation.read_evidence():
            facts = facts_of(kept.facts, call)
            for told_at, arrived in self._arrivals(conversation, kept) if facts else ():
                if arrived > after:
                    one = msgspec.structs.replace(kept, facts=tuple(facts), offset=told_at)
                    sights += _sights_in(one, arrived)
                    noted += _notes_in(one, arrived)
        notes.note_late(call, sights, noted)
        for place in {sight.conference for sight in sights} | {each.execution for each in noted}:
            self._watch(account, notes, call, place, offset, bucket)
        for known, stamp in conversation.read_stamped():
            if stamp > after and facts_of((known,), call):
                notes.tell(call, _encode(known), stamp)
        self._release(account, conversation, call)
        if not conversation.members:
            # It held the call alone: nothing to judge. Its duplicates are still known.
            ids = conversation.ids
            notes.calls[call].ids |= {ids[at : at + 8]: bucket for at in range(0, len(ids), 8)}
            self._close(conversation)
            return
        for guest in conversation.guests or ():
            notes.calls[guest].guests.add(conversation.members[0])
        self._meet(account, conversation, call, bucket)

    def _meet(self, account: Account, conversation: Conversation, call: str, since: int) -> None:
        """Let a conversation see what is noted of a call."""
        notes = account.notes
        assert notes is not None
        if conversation.guests is None:
            conversation.guests, conversation.notes = {}, notes
        before = conversation.guests.get(call)
        if before is not None and before <= since:
            return
        conversation.guests[call] = since
        record = notes.call(call)
        record.guests.add(conversation.members[0])
        self._renewed.append(conversation)
        if record.lost > since - self.marks.window and not conversation.truncated:
            conversation.truncated = True
            self.truncated_total += 1

    def _note_alone(self, account: Account, event: Event, offset: int, arrived_ms: int, digest: bytes | None) -> bool:
        """Note an event that names nailed-up calls only; whether it is a duplicate."""
        notes = account.notes
        assert notes is not None
        bucket = arrived_ms // self.marks.bucket_ms
        known = False
        for member in event.members:
            if digest is not None:
                call = notes.calls[member]
                known = known or call.ids.get(digest, NEVER) > bucket - self.marks.window
                known = known or any(_holds(met.ids, digest) for met in self._met(account, member, call))
                call.ids[digest] = bucket
                if len(call.ids) > self.entries_max:
                    del call.ids[next(iter(call.ids))]
            self._note_of(account, notes, member, event, offset, arrived_ms)
        self._note_places(account, notes, None, event, offset, arrived_ms)
        return known

    def _note(
        self,
        account: Account,
        conversation: Conversation,
        event: Event,
        guests: list[str],
        offset: int,
        arrived_ms: int,
    ) -> None:
        """Let the calls in ``guests`` be guests of a conversation, and note what its event tells of any guest."""
        notes = account.notes
        assert notes is not None
        for call in guests:
            self._meet(account, conversation, call, arrived_ms // self.marks.bucket_ms)
        for member in event.members:
            call_record = notes.calls.get(member)
            if call_record is not None and call_record.guests:
                self._note_of(account, notes, member, event, offset, arrived_ms, conversation)
        self._note_places(account, notes, conversation, event, offset, arrived_ms)

    def _note_of(
        self,
        account: Account,
        notes: Notes,
        call: str,
        event: Event,
        offset: int,
        arrived_ms: int,
        conversation: Conversation | None = None,
    ) -> None:
        """Note what an event tells of one call; those that have it as a guest are to be judged where it matters."""
        facts = facts_of(event.facts, call)
        if not facts:
            return
        bucket = arrived_ms // self.marks.bucket_ms
        occurred_ms = event.occurred_ms if event.occurred_ms is not None else arrived_ms
        before = notes.calls[call].lost
        told_at: dict[AnyFact, int] = {}
        timed: list[AnyFact] = []
        for fact in facts:
            if KIND[type(fact)] & PROPERTIES:
                before_ms = notes.tell(call, _encode(fact), bucket)
                told_at[fact] = NEVER if before_ms is None else before_ms
            else:
                timed.append(fact)
        if timed:
            kept = Kept(occurred_ms, offset, event.id, _TYPE_CODES.get(event.type, event.type), tuple(timed))
            sights, noted = _sights_in(kept, bucket), _notes_in(kept, bucket)
            notes.note(call, sights, noted)
            for place in {sight.conference for sight in sights} | {each.execution for each in noted}:
                self._watch(account, notes, call, place, offset, bucket)
        record = notes.calls[call]
        for met in self._met(account, call, record):
            if record.lost > before:
                self._lose(met, call, record)
            if met is not conversation and any(
                _is_news_beside(met, call, fact, occurred_ms, told_at.get(fact, NEVER), self.marks.window)
                for fact in facts
            ):
                self._renewed.append(met)

    def _note_places(
        self,
        account: Account,
        notes: Notes,
        conversation: Conversation | None,
        event: Event,
        offset: int,
        arrived_ms: int,
    ) -> None:
        """Note what an event tells of conferences that such calls were in, and of executions that they started."""
        bucket = arrived_ms // self.marks.bucket_ms
        occurred_ms = event.occurred_ms if event.occurred_ms is not None else arrived_ms
        for fact in event.facts:
            told = room_told(fact, occurred_ms)
            if told is not None and (room := notes.rooms.get(told[0])) is not None:
                _, name, end_ms = told
                named, ended = notes.tell_room(room, name, end_ms, bucket)
                named = named and room.since != offset  # Else the call is seen there for the first time itself.
                if named or ended:
                    for call in room.calls:
                        self._renew_guests_of(account, notes, call, conversation, fact, occurred_ms, named=named)
            place = execution_told(fact)
            if place is not None and (execution := notes.executions.get(place)) is not None:
                kept = Kept(occurred_ms, offset, event.id, _TYPE_CODES.get(event.type, event.type), (fact,))
                notes.step(execution, Note(bucket, offset, _encode(kept), None))
                for call in execution.calls:
                    self._renew_guests_of(account, notes, call, conversation, fact, occurred_ms)

    def _renew_guests_of(
        self,
        account: Account,
        notes: Notes,
        call: str,
        conversation: Conversation | None,
        fact: AnyFact,
        occurred_ms: int,
        *,
        named: bool = False,
    ) -> None:
        """Something was told of where a call was: those that have it as a guest are to be judged where it matters."""
        record = notes.calls.get(call)
        if record is None:
            return
        for met in self._met(account, call, record):
            self._lose(met, call, record)
            if met is conversation:
                continue
            if (named and PLACES & met.relevant) or _is_news_beside(
                met, call, fact, occurred_ms, NEVER, self.marks.window
            ):
                self._renewed.append(met)

    def _lose(self, conversation: Conversation, call: str, record: Call) -> None:
        """A conversation lacks what fell to the bound of a guest's notes, if it could have seen that."""
        assert conversation.guests is not None
        if record.lost > conversation.guests[call] - self.marks.window and not conversation.truncated:
            self._truncate(conversation)

    def _watch(self, account: Account, notes: Notes, call: str, place: str | None, offset: int, bucket: int) -> None:
        """From now on note what is told of a conference that a call was in, or of an execution that it started."""
        if place is None:
            return
        holder = account.index.get(place)
        if holder is None:
            holder = _NOBODY
        kept = holder.read_evidence()
        if place.startswith("CF"):
            room = notes.rooms.get(place)
            if room is None:
                room = notes.rooms[place] = Room(offset, bucket)
                for one in kept:
                    for fact in one.facts:
                        told = room_told(fact, one.occurred_ms)
                        if told is not None and told[0] == place:
                            *_, (_, arrived) = self._arrivals(holder, one)
                            notes.tell_room(room, told[1], told[2], arrived)
            room.touched = bucket
            room.calls.add(call)
            return
        execution = notes.executions.get(place)
        if execution is None:
            execution = notes.executions[place] = Execution(bucket)
            for one in kept:
                facts = tuple([fact for fact in one.facts if execution_told(fact) == place])
                for told_at, arrived in self._arrivals(holder, one) if facts else ():
                    note = msgspec.structs.replace(one, facts=facts, offset=told_at)
                    notes.step(execution, Note(arrived, told_at, _encode(note), None))
        execution.touched = bucket
        execution.calls.add(call)

    @staticmethod
    def _met(account: Account, call: str, record: Call) -> list[Conversation]:
        """The open conversations that have a call as a guest."""
        found: dict[int, Conversation] = {}
        for member in list(record.guests):
            conversation = account.index.get(member)
            if conversation is None or conversation.guests is None or call not in conversation.guests:
                record.guests.discard(member)
            else:
                found[id(conversation)] = conversation
        return list(found.values())

    def _sinces(self, account: Account, call: str, record: Call) -> list[int]:
        return [met.guests[call] for met in self._met(account, call, record) if met.guests is not None]

    # ----------------------------------------------------------------- bindings by conference name

    def _bind(self, account: Account, conversation: Conversation, fact: AnyFact, occurred_ms: int, seen: Seen) -> None:
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
            if fact.recording_on:
                if conversation.suspects is None:
                    conversation.suspects = {}
                if fact.conference not in conversation.suspects:
                    conversation.suspects[fact.conference] = seen
                    self._renewed.append(conversation)
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
        book = account.books.get(name)
        if book is None:
            book = account.books[name] = _Book()
        if name not in (conversation.called or ()):
            conversation.called = [*(conversation.called or ()), name]
            book.callers += 1
            if book.callers == 1:
                for conference in book.rooms:
                    self._rest_on_names(account.index[conference])
        self._rest_on_names(conversation)
        if not _entered(conversation, member):
            self._claim(account, book, conversation, name, at_ms, member)

    def _rest_on_names(self, conversation: Conversation) -> None:
        if not conversation.by_name:
            conversation.by_name = True
            birth = conversation.birth
            self._filed += 1
            heappush(self._by_name, (birth.beside_offset, birth.beside_ms, self._filed, birth))

    def _see_room(
        self,
        account: Account,
        conversation: Conversation,
        name: str,
        conference: str,
        first_ms: int,
        end_ms: int | None,
    ) -> None:
        book = account.books.get(name)
        if book is None:
            book = account.books[name] = _Book()
        if conference not in book.rooms:
            conversation.rooms = [*(conversation.rooms or ()), (name, conference)]
        if book.callers:
            self._rest_on_names(conversation)
        for at_ms, member in book.see(conference, first_ms, end_ms):
            self._join_by_name(account, book, at_ms, member)

    def _claim(
        self, account: Account, book: _Book, conversation: Conversation, name: str, at_ms: int, member: str
    ) -> None:
        claim = (at_ms, member)
        place = bisect_left(book.claims, claim)
        if place == len(book.claims) or book.claims[place] != claim:
            book.claims.insert(place, claim)
            conversation.claims = [*(conversation.claims or ()), (name, at_ms, member)]
        self._join_by_name(account, book, at_ms, member)

    def _release(self, account: Account, conversation: Conversation, call: str) -> None:
        """A call seen in a conference binds nothing by name any more."""
        left = []
        for name, at_ms, member in conversation.claims or ():
            if member == call:
                if (book := account.books.get(name)) is not None:
                    book.unclaim((at_ms, member))
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


_NEVER: Final = 1 << 62
_NOBODY: Final = Conversation("", [], Birth(0, 0, 0, 0), 0, 0, False)
_NOWHERE: Final = Touched(None, False, 0, ())


def shows_recording(fact: AnyFact) -> bool:
    """Whether a fact says that something was recorded: such are kept beyond the bound."""
    return isinstance(fact, RecordingFact) or (isinstance(fact, ConferenceFact) and fact.recording_on is True)


def _holds(ids: bytes, digest: bytes) -> bool:
    """Whether one of the eight-byte digests in ``ids`` is ``digest``; a match across a border is none."""
    at = ids.find(digest)
    while at >= 0 and at % 8:
        at = ids.find(digest, at + 1)
    return at >= 0


def _is_news(account: Account, conversation: Conversation, fact: AnyFact, occurred_ms: int) -> bool:
    """Whether where a call was, or a conference, can matter, given what the conversation's conclusions rest on."""
    assert isinstance(fact, ParticipantFact | ConferenceFact)
    focus = conversation.focus
    assert focus is not None
    if fact.name is not None and (fact.name, fact.conference) not in (conversation.rooms or ()):
        return True
    at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
    if isinstance(fact, ParticipantFact):
        return at_ms <= focus.until_ms and fact.call in focus.calls
    if fact.phase != "end":
        return False
    book = account.books.get(fact.name) if fact.name is not None else None
    room = book.rooms.get(fact.conference) if book is not None else None
    return room is None or room.end_ms is None or at_ms > room.end_ms


def _sights_in(kept: Kept, bucket: int) -> list[Sight]:
    """Where an event, of which only what concerns one call is kept, has seen it."""
    return [
        Sight(bucket, kept.offset, kept.occurred_ms if fact.at_ms is None else fact.at_ms, fact.phase, fact.conference)
        for fact in kept.facts
        if isinstance(fact, ParticipantFact)
    ]


def _notes_in(kept: Kept, bucket: int) -> list[Note]:
    """What else such an event tells of the call, as a note; of more than one Studio execution, one of each."""
    others = [fact for fact in kept.facts if not isinstance(fact, ParticipantFact)]
    return [
        Note(
            bucket,
            kept.offset,
            _encode(msgspec.structs.replace(kept, facts=(fact,))),
            fact.execution if isinstance(fact, ExecutionFact) else None,
        )
        for fact in others
        if not KIND[type(fact)] & PROPERTIES
    ]


def _renew_property(conversation: Conversation, encoded: bytes, stamp: bytes) -> bool:
    """Take down that something known without a time was told again; whether it is known at all."""
    told = conversation.properties
    place = told.find(encoded)
    if place < 0:
        return False
    end = place + len(encoded)
    if told[end : end + len(stamp)] != stamp:
        conversation.properties = told[:end] + stamp + told[end + len(stamp) :]
    return True


def _all_told(
    one: dict[str, list[tuple[int, int]]], other: dict[str, list[tuple[int, int]]]
) -> dict[str, list[tuple[int, int]]]:
    return one | {event_id: sorted([*one.get(event_id, ()), *told]) for event_id, told in other.items()}


def _is_news_beside(
    conversation: Conversation, call: str, fact: AnyFact, occurred_ms: int, told: int, window: int
) -> bool:
    """Whether what was noted of a guest, or of where it was, can matter to what a conversation concluded.

    ``told`` is when the same was last told before.
    """
    if not (conversation.recordings or conversation.suspects) or not KIND[type(fact)] & conversation.relevant:
        return False
    focus = conversation.focus
    if isinstance(fact, CallFact | TaskFact):
        assert conversation.guests is not None
        return told <= conversation.guests[call] - window
    if isinstance(fact, ParticipantFact | ConferenceFact) and focus is not None:
        at_ms = occurred_ms if fact.at_ms is None else fact.at_ms
        return at_ms <= focus.until_ms and call in focus.calls
    if isinstance(fact, TwimlFact | RequestFact) and conversation.meant is not None:
        return fact.name in conversation.meant
    return True


def _earliest(one: dict[str, Seen] | None, other: dict[str, Seen] | None) -> dict[str, Seen] | None:
    if not one or not other:
        return one or other
    merged = dict(one)
    for key, seen in other.items():
        mine = merged.get(key)
        if mine is None or seen.before(mine):
            merged[key] = seen
    return merged


def _entered(conversation: Conversation, call: str) -> bool:
    """Whether any participant event of this call is known."""
    return any(
        isinstance(fact, ParticipantFact) and fact.call == call
        for kept in conversation.read_evidence()
        for fact in kept.facts
    )
