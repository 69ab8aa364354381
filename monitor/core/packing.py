"""Packing: the evidence of a quiet conversation compressed, by what the evidence of most conversations looks like.

A conversation's evidence is short: on its own, most of it is seen for the first time. So it is shortened by what the
conversation holds anyway (`shortening`), and compression may refer to ``USUAL``, which is nothing but usual evidence
without its SIDs; what is packed under others can't be read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import Final

import msgspec

from monitor.core.events import (
    AnyFact,
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
from monitor.core.shortening import DIGITS, restore, shorten

_ZEROS: Final = "0" * 32  # Of a SID; those that stay are taken out again.
_MEMBERS: Final = tuple([kind + _ZEROS for kind in ("CA", "WT", "CF", "FN", "RE")])
WINDOW_BITS: Final = -13  # Raw, as nothing else reads it; 8 kB back are two whole conversations.
_MEMORY: Final = 5  # 48 kB to work in each time; by default it is a quarter of a megabyte.
_LEVEL: Final = 4  # 3 makes 20 B more of it in 6 % less time, 6 makes 25 B less in a third more.


_IDS: Final = Struct(">H")  # How many ids there are, whose digits come first.


def pack(data: bytes, members: tuple[str, ...]) -> bytes:
    """Compress evidence, properties, or both, of a conversation with these members."""
    short, digits = shorten(data, members)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, WINDOW_BITS, _MEMORY, zlib.Z_DEFAULT_STRATEGY, USUAL)
    return _IDS.pack(len(digits) // DIGITS) + digits + packer.compress(short) + packer.flush()


def unpack(packed: bytes | memoryview, members: tuple[str, ...]) -> bytes:
    """What was packed, of the same members. Raises zlib.error or ValueError where it was not."""
    (ids,) = _IDS.unpack_from(packed)
    border = _IDS.size + ids * DIGITS
    short = zlib.decompressobj(WINDOW_BITS, zdict=USUAL).decompress(packed[border:])
    return restore(short, bytes(packed[_IDS.size : border]), members)


def _usual() -> Iterator[tuple[bytes, AnyFact]]:
    """Facts as they are told most, and the first letter of their events' ids; the last ones most of all."""
    call, task, conference, execution, recording = _MEMBERS
    queue, worker = ("WQ" + _ZEROS, "Everyone"), ("WK" + _ZEROS, "agent")
    yield b"E", TwimlFact(call, "room")
    yield b"V", RequestFact(None, "room", call)
    yield b"E", ExecutionFact(execution, call, "FW" + _ZEROS, 1, ended=True)
    yield b"E", StepFact(execution, "main_menu", "send_to_flex", "keypress")
    yield b"E", StepFact(execution, "Trigger", "welcome", "incomingCall")
    yield b"E", StepFact(execution, "call_recording_1", "welcome", "audioComplete")
    for source in ("OutboundAPI", "DialVerb", "RecordVerb", "StartCallRecordingAPI", "Conference"):
        for status in ("in-progress", "completed"):
            url = "https://www.example.com/webhook"
            of, room = (None, conference) if source == "Conference" else (call, None)
            yield b"V", RecordingFact(recording, of, room, source, status, _MS, 60_000, url, "stream")
    for queue_said, worker_said in (((), ()), (queue, ()), (queue, worker)):
        yield b"E", TaskFact(task, None, (call,), queue_said, worker_said)
        yield b"E", TaskFact(task, conference, (call, call), queue_said, worker_said)
    for direction in ("outbound_api", "outbound-dial", "outbound-api", "inbound"):
        yield b"E", CallFact(call, direction, "+10000000000", "+10000000000")
        yield b"E", CallFact(call, direction, None, None)
    yield b"E", ConferenceFact(conference, None, "seen", None, None)
    for said in (False, True):
        yield b"E", ConferenceFact(conference, task, "start", _MS, said)
        yield b"E", ConferenceFact(conference, task, "end", _MS, None)
        yield b"E", ParticipantFact(conference, call, "join", None, _MS)
        yield b"E", ParticipantFact(conference, call, "leave", None, _MS)
        yield b"E", ConferenceFact(conference, None, "seen", _MS, said)
    for phase in ("start", "end"):
        yield b"V", ConferenceFact(conference, task, phase, None, None)
    for phase in ("inside", "leave", "join"):
        yield b"V", ParticipantFact(conference, call, phase, task, None)


_MS: Final = 1_800_000_000_000
_encode: Final = msgspec.msgpack.Encoder().encode
USUAL: Final = shorten(
    b"".join([_encode((_MS, 1 << 24, letter + bytes(DIGITS), 1, (fact,))) for letter, fact in _usual()]), _MEMBERS
)[0].replace(_ZEROS.encode(), b"")
