"""The simple job, as far as it has nothing to do with any stream processor. It imports nothing of the monitor.

Remember the conference each call was last seen in; for each event about a recording, look that up and say whether the
recording was started through the API. This is what all peers are asked to do, and far less than the monitor does.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

import msgspec

PARTICIPANT: Final = "com.twilio.voice.status-callback.conference.participant.updated"
RECORDING: Final = "com.twilio.voice.status-callback.recording.processed"


class Parameters(msgspec.Struct, gc=False, rename="pascal"):
    """The callback parameters the job reads; all others are skipped by the decoder."""

    call_sid: str | None = None
    conference_sid: str | None = None
    recording_sid: str | None = None
    recording_source: str | None = None


class Request(msgspec.Struct, gc=False):
    """What Twilio sent to the customer's callback."""

    parameters: Parameters | None = None


class Data(msgspec.Struct, gc=False):
    """The data of a voice webhook event."""

    request: Request | None = None


class Event(msgspec.Struct, gc=False):
    """An event, as far as the job reads it."""

    type: str
    data: Data


class Verdict(msgspec.Struct, gc=False):
    """What the job says of a recording, each time an event about it comes by."""

    recording_sid: str
    call_sid: str | None
    conference_sid: str | None
    outcome: str


_decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


def read(value: bytes) -> tuple[str, Parameters] | None:
    """The type and parameters of an event the job is about; None for all others."""
    try:
        event = _decode(value)
    except msgspec.DecodeError:
        return None
    if event.type not in (PARTICIPANT, RECORDING) or event.data.request is None:
        return None
    parameters = event.data.request.parameters
    return None if parameters is None else (event.type, parameters)


def judge(parameters: Parameters, conference: str | None) -> Verdict | None:
    """The verdict on a recording whose call was last seen in ``conference``."""
    if parameters.recording_sid is None:
        return None
    outcome = "allowed" if parameters.recording_source == "StartCallRecordingAPI" else "disallowed"
    return Verdict(parameters.recording_sid, parameters.call_sid, conference or parameters.conference_sid, outcome)


def step(value: bytes, conferences: MutableMapping[str, str]) -> Verdict | None:
    """The whole job for one message, on a table of calls."""
    found = read(value)
    if found is None:
        return None
    kind, parameters = found
    call = parameters.call_sid
    if kind == PARTICIPANT:
        if call is not None and parameters.conference_sid is not None:
            conferences[call] = parameters.conference_sid
        return None
    return judge(parameters, conferences.get(call) if call is not None else None)


def key_of(value: bytes) -> str | None:
    """The call an event is about, else its conference: the key its message is sent under. None: neither."""
    try:
        parameters = _decode(value).data.request
    except msgspec.DecodeError:
        return None
    if parameters is None or parameters.parameters is None:
        return None
    return parameters.parameters.call_sid or parameters.parameters.conference_sid
