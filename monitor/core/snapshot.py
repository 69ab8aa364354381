"""Snapshots: what a window holds as bytes, taken while the fold goes on, so that a takeover need not read it all again.

A snapshot is a cache. It says what was open before the message at one offset S; a rebuild that begins with it folds
[S, C) instead of [R, C). Without one that fits, the rebuild is the ordinary one, and ends in the same state.

It is taken copy-on-write. From S on, whatever is about to change a conversation has it written first, as it still is,
and ``Saving.walk`` writes some of the others between two messages. So nothing waits, and each conversation is written
once, as it was at S; so is what is noted of calls, by records (``core/frozen``). What follows from the conversations
(index, books of names, births, deadlines) is not written: ``Loading`` derives it.

    A chunk is its length, its CRC-32 and msgpack. First comes the header, then notes and conversations, then their
    numbers.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from struct import Struct
from typing import Any, Final, TypeVar

import msgspec

from monitor.core.conversation import KIND, PACKED_HEAD, Birth, Conversation, Kept, NamedRoom, Seen, digest_of
from monitor.core.guests import Times
from monitor.core.nailed import Call, Execution, Known, Note, Room, Sight
from monitor.core.packing import USUAL, WINDOW_BITS
from monitor.core.parted import Parted
from monitor.core.readers import EVENT_TYPES
from monitor.core.window import Cut, Window

CHUNK_BYTES: Final = 64 * 1024
CHUNK_BYTES_MAX: Final = 64 << 20  # A longer one is no chunk of ours.
_FRAME: Final = Struct(">II")
T = TypeVar("T")
_OfKinds = tuple[Parted[Any], ...]


class Unusable(Exception):
    """These bytes are no snapshot for this rebuild. The text says why, and quotes nothing of them."""


class State(msgspec.Struct, array_like=True, gc=False):
    """A conversation as it is written."""

    account: str
    members: tuple[str, ...]
    birth: tuple[int, int, int, int]
    last_ms: int
    truncated: bool
    evidence: bytes
    kept: int
    properties: bytes
    properties_kept: int
    packed: bytes
    ids: bytes
    recordings: list[tuple[str, int, int, int]]
    suspects: list[tuple[str, int, int, int]]
    claims: list[tuple[str, int, str]] | None
    rooms: list[tuple[str, str, int, int | None]]
    called: list[str] | None
    by_name: bool
    told_late: bytes
    again: bytes
    guests: dict[str, int] | None


class _Header(msgspec.Struct, array_like=True, tag="header"):
    layout: str
    about: bytes  # For whoever writes and reads the snapshot.
    cut: Cut | None


class _Calls(msgspec.Struct, array_like=True, tag="calls"):
    """What is known of calls beside the conversations, but for ``_Noted``."""

    times: Times


class _Noted(msgspec.Struct, array_like=True, tag="noted"):
    """Some of what is noted of calls, by account."""

    known: dict[str, Known]


class _Some(msgspec.Struct, array_like=True, tag="some"):
    states: list[State]


class _Written(msgspec.Struct, array_like=True, tag="some"):
    """What ``_Some`` is read from."""

    states: list[msgspec.Raw]


class _End(msgspec.Struct, array_like=True, tag="end"):
    conversations: int
    noted: int


_OF_CALLS: Final = (Call, Sight, Note, Room, Execution, Times, _Noted, _End)


def _layout() -> str:
    """What the bytes mean, by the types they are read into and what is packed by: with others they are not read."""
    kinds = [(kind.__name__, kind.__annotations__) for kind in (*KIND, Kept, State, *_OF_CALLS)]
    packed = (USUAL, WINDOW_BITS, PACKED_HEAD.format, digest_of("EZ" + 32 * "0"), digest_of("0"))
    return hashlib.sha256(repr((EVENT_TYPES, kinds, packed)).encode()).hexdigest()[:16]


LAYOUT: Final = _layout()
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Header | _Calls | _Noted | _Some | _End).decode


class Saving:
    """A snapshot being taken of a window, as of now. ``take`` yields the bytes that are ready, in order.

    It is of what was open before ``offset``; the header keeps ``about`` as it is. Where the window closes all it has
    at once (a cut), the snapshot is given up: ``broken`` says so.
    """

    def __init__(self, window: Window, about: bytes, offset: int) -> None:
        self.offset = offset
        self.broken = False
        self._window = window
        self._epoch = window.begin_saving(self)
        self._buckets, self._next = window.filed()
        self._saved = 0
        self._ended = False
        self._states: list[msgspec.Raw] = []
        self._size = 0
        self._notes = _one_by_one(window.nailed.freeze())
        self._thaws = window.nailed.thaw()
        self._noted = 0
        self._ready: list[bytes] = [
            framed(_encode(_Header(LAYOUT, about, window.cut))),
            framed(_encode(_Calls(window.nailed.times()))),
        ]

    def before(self, conversation: Conversation) -> None:
        """Write a conversation that is about to be changed, unless it is written, or younger than the snapshot."""
        if conversation.epoch == self._epoch:
            return
        conversation.epoch = self._epoch
        state = _encode(_state_of(conversation))
        self._states.append(msgspec.Raw(state))
        self._saved += 1
        self._size += len(state)
        if self._size >= CHUNK_BYTES:
            self._pack()

    def walk(self, conversations_max: int) -> bool:
        """Write so many conversations at most, or see to twice as many records of calls; whether all are written."""
        if self._ended or self.broken:
            return True
        if self._write_notes(2 * conversations_max) or self._thaw(2 * conversations_max):
            return False
        for _ in range(conversations_max):
            while not self._next:
                if not self._buckets:
                    self._end()
                    return True
                self._next = self._window.filed_under(self._buckets.pop())
            conversation = self._next.pop()
            if conversation.open:
                self.before(conversation)
        return False

    def take(self) -> list[bytes]:
        """The bytes that are ready and have not been taken."""
        ready, self._ready = self._ready, []
        return ready

    def give_up(self) -> None:
        """Take no more notice of what changes."""
        self.broken = True
        self._window.end_saving(self)

    def _write_notes(self, most: int) -> bool:
        """Write some of what is noted of calls; whether there was any left."""
        known: dict[str, Known] = {}
        for sid, place, key, record in islice(self._notes, most):
            of_account = known.setdefault(sid, ({}, {}, {}))
            of_account[place][key] = record
            self._noted += 1
        if known:
            self._ready.append(framed(_encode(_Noted(known))))
        return bool(known)

    def _thaw(self, most: int) -> bool:
        """Put back what was copied of some records while they were written; whether there was any left."""
        return sum(1 for _ in islice(self._thaws, most)) > 0

    def _pack(self) -> None:
        self._ready.append(framed(_encode(_Written(self._states))))
        self._states, self._size = [], 0

    def _end(self) -> None:
        self._window.end_saving(self)
        self._ended = True
        if self._states:
            self._pack()
        self._ready.append(framed(_encode(_End(self._saved, self._noted))))


def _one_by_one(known: Iterable[tuple[str, _OfKinds]]) -> Iterator[tuple[str, int, str, Any]]:
    """Each record of what is known of calls: its account, which of the kinds it is, its SID."""
    for sid, kinds in known:
        for place, records in enumerate(kinds):
            for key, record in records.items():
                yield sid, place, key, record


class Loading:
    """Fills an empty window from the chunks of a snapshot, which are ``feed`` in order.

    Raises Unusable for what is no whole snapshot of this layout; then the window is to be thrown away.
    """

    def __init__(self, window: Window, log_time_ms: int, offset: int) -> None:
        self._window = window
        self._log_time_ms = log_time_ms
        self._offset = offset
        self._graces: list[tuple[int, int, int, str, str]] = []
        self._met: list[Conversation] = []  # Those that have met nailed-up calls.
        self._loaded = 0
        self._noted = 0
        self._has_times = False
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Take in one chunk after the header, without its frame."""
        read = read_by(_decode, chunk)
        if isinstance(read, _Some) and not self.done:
            for state in read.states:
                try:
                    self._add(state)
                except OverflowError:
                    raise Unusable("a number is too large") from None
            self._loaded += len(read.states)
        elif isinstance(read, _Calls) and not self._has_times:
            self._has_times = True
            self._window.nailed.load(read.times)
        elif isinstance(read, _Noted) and self._has_times and not self.done:
            for sid, known in read.known.items():
                self._window.know(sid, known)
                self._noted += sum([len(records) for records in known])
        elif isinstance(read, _End) and self._has_times and read == _End(self._loaded, self._noted):
            self._finish()
        else:
            raise Unusable("a part is missing")

    def _add(self, state: State) -> None:
        window = self._window
        account = window.account_of(state.account)
        conversation = Conversation(
            account=account.sid,
            members=state.members,
            birth=Birth(*state.birth),
            last_ms=state.last_ms,
            bucket=0,
            truncated=state.truncated,
            evidence=state.evidence,
            kept=state.kept,
            properties=state.properties,
            properties_kept=state.properties_kept,
            packed=state.packed,
            cold=bool(state.packed),
            ids=state.ids,
            recordings=tuple([Seen(*seen) for seen in state.recordings]),
            suspects=tuple([Seen(*seen) for seen in state.suspects]),
            claims=state.claims,
            rooms=tuple([NamedRoom(*room) for room in state.rooms]),
            called=state.called,
            told_late=state.told_late,
            again=state.again,
            guests=state.guests,
            conferences=sum(member.startswith("CF") for member in state.members),
        )
        if any(member in account.index for member in state.members):
            raise Unusable("one call in two conversations")
        account.index.put_all(state.members, conversation)
        if conversation.guests is not None:
            self._met.append(conversation)
        window.restore(account, conversation, self._log_time_ms, by_name=state.by_name)
        for seen in conversation.recordings:
            # Those that ended before were seen to; but for what the very last message brought.
            if seen.arrived_ms + window.grace_ms > self._log_time_ms or seen.offset == self._offset - 1:
                due_ms = seen.arrived_ms + window.grace_ms
                self._graces.append((due_ms, seen.offset, seen.index, account.sid, seen.sid))

    def _finish(self) -> None:
        if self.done:
            raise Unusable("it ends twice")
        self.done = True
        self._graces.sort()
        graces = [(due_ms, account, recording) for due_ms, _, _, account, recording in self._graces]
        self._window.restored(graces, self._met)


def about(chunk: bytes) -> tuple[bytes, Cut | None]:
    """What a snapshot's first chunk says of it: what was given to ``Saving``, and the window's cut. Raises Unusable."""
    read = read_by(_decode, chunk)
    if not isinstance(read, _Header):
        raise Unusable("it begins in the middle")
    if read.layout != LAYOUT:
        raise Unusable("it is of another layout")
    return read.about, read.cut


def chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The chunks of a snapshot, checked, without frames. ``read`` gives the next so many bytes. Raises Unusable."""
    while header := read(_FRAME.size):
        if len(header) != _FRAME.size:
            raise Unusable("it ends too soon")
        length, checksum = _FRAME.unpack(header)
        if length > CHUNK_BYTES_MAX:
            raise Unusable("its bytes have changed")
        chunk = read(length)
        if len(chunk) != length:
            raise Unusable("it ends too soon")
        if zlib.crc32(chunk) != checksum:
            raise Unusable("its bytes have changed")
        yield chunk


def framed(chunk: bytes) -> bytes:
    """A chunk as ``chunks`` reads it."""
    return _FRAME.pack(len(chunk), zlib.crc32(chunk)) + chunk


def read_by(decode: Callable[[bytes], T], chunk: bytes) -> T:
    """A chunk as a decoder reads it. Raises Unusable."""
    try:
        return decode(chunk)
    except msgspec.DecodeError:
        raise Unusable("its bytes say nothing") from None


def _sights(several: Iterable[Seen]) -> list[tuple[str, int, int, int]]:
    return [(seen.sid, seen.arrived_ms, seen.offset, seen.index) for seen in several]


def _state_of(conversation: Conversation) -> State:
    birth = conversation.birth
    return State(
        account=conversation.account,
        members=conversation.members,
        birth=(birth.offset, birth.arrived_ms, birth.beside_offset, birth.beside_ms),
        last_ms=conversation.last_ms,
        truncated=conversation.truncated,
        evidence=conversation.evidence,
        kept=conversation.kept,
        properties=conversation.properties,
        properties_kept=conversation.properties_kept,
        packed=conversation.packed,
        ids=conversation.ids,
        recordings=_sights(conversation.recordings),
        suspects=_sights(conversation.suspects),
        claims=conversation.claims,
        rooms=[(room.name, room.conference, room.first_ms, room.end_ms) for room in conversation.rooms],
        called=conversation.called,
        by_name=conversation.by_name,
        told_late=conversation.told_late,
        again=conversation.again,
        guests=conversation.guests,
    )
