"""Packing: the evidence of a quiet conversation compressed, by what the evidence of most conversations looks like.

A conversation's evidence is short: on its own, most of it is seen for the first time. So it is shortened by what the
conversation holds anyway (`shortening`), and compression may refer to ``USUAL``, which is nothing but usual evidence
without its SIDs; what is packed under others can't be read.
"""

from __future__ import annotations

import itertools
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
from monitor.core.readers import TYPE_CODES
from monitor.core.shortening import DIGITS, restore, shorten

_ZEROS: Final = "0" * 32  # Of a SID; those that stay are taken out again.
# In the order in which they come to be known, mostly; one that stands elsewhere costs a byte each time it is named.
_MEMBERS: Final = tuple([f"{kind}{number:032}" for number, kind in enumerate(("CA", "FN", "WT", "CA", "CF", "RE"))])
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


def digits_of(packed: bytes | memoryview) -> bytes:
    """The digits of the usual ids in what was packed, ``DIGITS`` bytes each: they stand there as they are."""
    (ids,) = _IDS.unpack_from(packed)
    return bytes(packed[_IDS.size : _IDS.size + ids * DIGITS])


def _usual() -> Iterator[bytes]:
    """What conversations are told most, as they keep it; the last ones most of all."""
    call, execution, task, agent, conference, recording = _MEMBERS
    yield _kept("twiml.call.requested", TwimlFact(call, "room"))
    yield _kept("api-request.conference-participant.created", RequestFact(None, "room", call))
    for phase in ("started", "ended"):
        flow = ExecutionFact(execution, call, "FW" + _ZEROS, 1, ended=phase == "ended")
        yield _kept(f"studio.flow.execution.{phase}", flow)
    for leaves, enters, transition in (
        ("Trigger", "welcome", "incomingCall"),
        ("call_recording_1", "welcome", "audioComplete"),
        ("welcome", "main_menu", "audioComplete"),
        ("main_menu", "send_to_flex", "keypress"),
        ("main_menu", "send_to_flex_1", "match"),
    ):
        yield _kept("studio.flow.step.ended", StepFact(execution, leaves, enters, transition))
    for source in ("OutboundAPI", "DialVerb", "RecordVerb", "StartCallRecordingAPI", "Conference"):
        of, room = (None, conference) if source == "Conference" else (call, None)
        for status, duration_ms in (("in-progress", None), ("completed", 60_000)):
            url = "https://www.example.com/webhook"
            known = RecordingFact(recording, of, room, source, status, _MS, duration_ms, url, "stream")
            yield _kept("status-callback.recording.processed", known)
    queue, worker = ("WQ" + _ZEROS, "Everyone"), ("WK" + _ZEROS, "agent")
    for happened, of_queue, of_worker in (
        ("task.created", (), ()),
        ("task.updated", queue, ()),
        ("reservation.accepted", queue, worker),
        ("reservation.wrapup", queue, worker),
    ):
        linked = TaskFact(task, conference, (call, agent), of_queue, of_worker)
        yield _kept(f"taskrouter.{happened}", linked)
        yield _encode(TaskFact(task, None, (call,), of_queue, of_worker)) + _STAMP
        yield _encode(linked) + _STAMP
    for direction in ("outbound-dial", "outbound-api", "outbound_api", "inbound"):
        yield _encode(CallFact(call, direction, "+10000000000", "+10000000000")) + _STAMP
        yield _encode(CallFact(call, direction, None, None)) + _STAMP
    seen = ConferenceFact(conference, None, "seen", None, None)
    for request in ("conference-participant.modified", "conference-participant.created", "conference.modified"):
        yield _kept(f"api-request.{request}", seen)
    for state, on in itertools.product(("partial", "complete"), (True, False)):
        start, end = (ConferenceFact(conference, task, *told) for told in (("start", _MS, on), ("end", _MS, None)))
        yield _kept(f"insights.conference-summary.{state}", start, end)
    for on in (True, False):
        came, went = (ParticipantFact(conference, call, phase, None, _MS) for phase in ("join", "leave"))
        there = ConferenceFact(conference, None, "seen", _MS, on)
        yield _kept("insights.conference-participant-summary.complete", came, went, there)
    left = ParticipantFact(conference, call, "leave", task, None)
    yield _kept("status-callback.conference.updated", ConferenceFact(conference, task, "end", None, None), left)
    for phase in ("end", "start"):
        yield _kept("status-callback.conference.updated", ConferenceFact(conference, task, phase, None, None))
    for phase in ("inside", "leave", "join"):
        for who in (agent, call):
            participant = ParticipantFact(conference, who, phase, task, None)
            yield _kept("status-callback.conference.participant.updated", participant)


def _kept(name: str, *facts: AnyFact) -> bytes:
    """An event of a type as it is kept (``conversation.Kept``), its id as zeros."""
    voice = not name.startswith(("studio.", "taskrouter."))
    type_ = f"com.twilio.voice.{name}" if voice else f"com.twilio.{name}"
    return _encode((_MS, 1 << 20, (b"V" if voice else b"E") + bytes(DIGITS), TYPE_CODES.get(type_, type_), facts))


_MS: Final = 1_800_000_000_000
_STAMP: Final = b"\xcf\x00\x00\x00"  # How what says when a property was told begins.
_encode: Final = msgspec.msgpack.Encoder().encode
USUAL: Final = shorten(b"".join(_usual()), _MEMBERS)[0].replace(_ZEROS.encode(), b"")
