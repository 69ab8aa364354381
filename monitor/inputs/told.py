"""Which recordings have a verdict, and whether the stream told of them: 16 bytes each, whatever the verdicts say.

A million listed recordings are compared with as many verdicts, so neither may be kept whole. A recording is a number
here, from its SID; that two of a million are the same has a chance of one in ten million.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from confluent_kafka import Message

_EMPTY: Final = 0
_BY_STREAM: Final = 1
_FIRST_SLOTS: Final = 1 << 12


class _Verdict(msgspec.Struct):
    account_sid: str
    recording_sid: str | None = None
    found_by: str | None = None


_decode: Final = msgspec.json.Decoder(_Verdict).decode


class Told:
    """A set of numbers with a bit each, by open addressing: at most half full."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def read(self, messages: Iterable[Message], accounts: Callable[[str], bool]) -> None:
        """Take in the verdicts of some accounts; what is none of ours is passed over, and what was withdrawn stays."""
        for message in messages:
            try:
                verdict = _decode(message.value() or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if verdict.recording_sid is not None and accounts(verdict.account_sid):
                self.add(verdict.recording_sid, by_stream=verdict.found_by != "listing")

    def add(self, recording: str, *, by_stream: bool) -> None:
        """A recording has a verdict; that the stream told of it stays true, whatever came before or after."""
        number = _number(recording)
        at = self._find(number)
        if self._slots[at] == _EMPTY:
            self._size += 1
            self._slots[at] = number
            if 2 * self._size > len(self._slots):
                self._grow()
                at = self._find(number)
        if by_stream:
            self._slots[at] |= _BY_STREAM

    def by_stream(self, recording: str) -> bool | None:
        """Whether the stream told of a recording; None where it has no verdict."""
        found = self._slots[self._find(_number(recording))]
        return None if found == _EMPTY else bool(found & _BY_STREAM)

    def _find(self, number: int) -> int:
        """The slot of a number, or the one where it would go."""
        slots, mask = self._slots, len(self._slots) - 1
        at = number >> 1 & mask
        while slots[at] != _EMPTY and slots[at] & ~_BY_STREAM != number:
            at = at + 1 & mask
        return at

    def _grow(self) -> None:
        before = self._slots
        self._slots = array("Q", bytes(16 * len(before)))
        for held in before:
            if held != _EMPTY:
                self._slots[self._find(held & ~_BY_STREAM)] = held


def _number(recording: str) -> int:
    digest = hashlib.blake2b(recording.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & ~_BY_STREAM or 2
