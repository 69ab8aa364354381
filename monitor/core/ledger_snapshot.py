"""Snapshots of a ledger: what is published, as bytes, so that a takeover need not read all of the verdict topic.

Like that of a window, this is a cache, and taken while everything goes on; unlike it, it is not of one instant. It says
what is known of verdicts that lie below one offset V of their topic, each as of when its part was copied, and leaves
out what lies at V or above by then: whoever begins with it reads the topic from V on, and finds that there. Of two
messages under a key the greater holds, in whatever order they are met, so that both end with the same; tombstones,
which have no position, come in the order of the topic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from monitor.core.ledger import ENDING_BYTES, ENDING_FORMAT, ENTRY_FORMAT, SETTLED_BYTES, Ledger, Rest, Words
from monitor.core.parted import PARTS
from monitor.core.snapshot import Unusable, framed, read_by


class _Header(msgspec.Struct, array_like=True, tag="ledger"):
    layout: str
    log: str  # What tells this partition's verdict topic from any other, for whoever writes and reads the snapshot.
    below: int
    kept_ms: tuple[int, int]


class _Part(msgspec.Struct, array_like=True, tag="part"):
    whole: list[tuple[str, bytes]]
    settled: bytes


class _Hour(msgspec.Struct, array_like=True, tag="hour"):
    hour: int
    endings: bytes


class _Due(msgspec.Struct, array_like=True, tag="due"):
    due: list[tuple[int, str]]


class _End(msgspec.Struct, array_like=True, tag="end"):
    names: list[str]
    words: list[Words]
    verdicts: int


def _layout() -> str:
    kinds = [(kind.__name__, kind.__annotations__) for kind in (Rest, Words, _Header, _Part, _Hour, _Due, _End)]
    packed = (PARTS, SETTLED_BYTES, ENTRY_FORMAT, ENDING_FORMAT)
    return hashlib.sha256(repr((kinds, packed)).encode()).hexdigest()[:16]


LAYOUT: Final = _layout()
ENDS_AT_ONCE: Final = 1_000
"""So many ends are written, and read, in a go, which takes 15 ms then: an hour may bring a hundred thousand."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Header | _Part | _Hour | _Due | _End).decode


class LedgerSaving:
    """A snapshot being taken of a ledger: of what lies below ``below`` in the verdict topic, read up to there.

    To be begun and gone on with between two messages. ``take`` yields the bytes that are ready, in order.
    """

    broken = False

    def __init__(self, ledger: Ledger, log: str, below: int) -> None:
        self.offset = below
        self._ledger = ledger
        self._part = 0
        # These may lie below all the same: the topic may be read before it is acknowledged where they lie. What is
        # published from now on lies above.
        self._unplaced = ledger.unplaced()
        self._verdicts = 0
        self._ended = False
        # What ends later was published later. An hour that comes meanwhile is written all the same: the end of what has
        # been withdrawn already is passed over.
        self._ends = _ends(*ledger.dump_ends())
        self._ready = [framed(_encode(_Header(LAYOUT, log, below, ledger.kept_ms)))]

    def walk(self, conversations_max: int) -> bool:  # noqa: ARG002 - a part is little enough.
        """Write one more part; whether all is written. What we have written ourselves must be acknowledged first."""
        if self._ended:
            return True
        if self._part < PARTS:
            whole, settled = self._ledger.dump_part(self._part, self.offset)
            self._part += 1
            self._write(whole, settled)
            return False
        whole, unplaced = [], []
        for key in self._unplaced:
            placed, entry = self._ledger.dump_placed(key, self.offset)
            if not placed:
                unplaced.append(key)
            elif entry is not None:
                whole.append((key, entry))
        self._unplaced = unplaced
        self._write(whole, b"")
        if unplaced:
            return False
        ends = next(self._ends, None)
        self._ended = ends is None
        part = _End(*self._ledger.dump_numbered(), self._verdicts) if ends is None else ends
        self._ready.append(framed(_encode(part)))
        return self._ended

    def take(self) -> list[bytes]:
        """The bytes that are ready and have not been taken."""
        ready, self._ready = self._ready, []
        return ready

    def give_up(self) -> None:
        """Nothing waits for it."""

    def _write(self, whole: list[tuple[str, bytes]], settled: bytes) -> None:
        if whole or settled:
            self._verdicts += len(whole) + len(settled) // SETTLED_BYTES
            self._ready.append(framed(_encode(_Part(whole, settled))))


def _ends(hours: dict[int, bytearray], due: list[tuple[int, str]]) -> Iterator[_Hour | _Due]:
    for hour, endings in hours.items():
        for at in range(0, len(endings), ENDS_AT_ONCE * ENDING_BYTES):
            yield _Hour(hour, bytes(endings[at : at + ENDS_AT_ONCE * ENDING_BYTES]))
    for at in range(0, len(due), ENDS_AT_ONCE):
        yield _Due(due[at : at + ENDS_AT_ONCE])


class LedgerLoading:
    """Fills an empty ledger from the chunks of a snapshot, which are ``feed`` in order, from the header on.

    Raises Unusable for what is no whole snapshot of this topic and layout; then the ledger is to be thrown away.
    """

    def __init__(self, ledger: Ledger, header: bytes, log: str) -> None:
        read = read_by(_decode, header)
        if not isinstance(read, _Header):
            raise Unusable("it begins in the middle")
        if read.layout != LAYOUT:
            raise Unusable("it is of another layout")
        if read.log != log:
            raise Unusable("it is of another topic")
        if read.kept_ms != ledger.kept_ms:
            raise Unusable("final verdicts were kept for another time")
        self.offset = read.below
        self.done = False
        self._ledger = ledger
        self._loaded = 0

    def feed(self, chunk: bytes) -> None:
        """Take in one chunk after the header, without its frame."""
        read = read_by(_decode, chunk)
        if self.done:
            raise Unusable("it ends twice")
        if isinstance(read, _Part):
            self._loaded += self._ledger.load(read.whole, read.settled)
        elif isinstance(read, _Hour):
            self._ledger.load_ends([(read.hour, read.endings)], ())
        elif isinstance(read, _Due):
            self._ledger.load_ends((), read.due)
        elif isinstance(read, _End) and read.verdicts == self._loaded:
            self._ledger.load_numbered(read.names, read.words)
            self.done = True
        else:
            raise Unusable("a part is missing")
