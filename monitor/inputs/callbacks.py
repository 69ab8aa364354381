"""Plain status callbacks, made into the events that Event Streams would have sent: so there is one way to read them.

https://www.twilio.com/docs/voice/api/recording#recording-status-callback,
https://www.twilio.com/docs/voice/twiml/conference#attributes-statusCallback
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

RECORDING_PROCESSED: Final = "com.twilio.voice.status-callback.recording.processed"
CONFERENCE_UPDATED: Final = "com.twilio.voice.status-callback.conference.updated"
PARTICIPANT_UPDATED: Final = "com.twilio.voice.status-callback.conference.participant.updated"


class Called(NamedTuple):
    """How Twilio called: by which method, which address, which endpoint of ours, and when."""

    method: str
    url: str
    path: str
    at: datetime


def recording_event(form: Mapping[str, str], called: Called) -> bytes:
    """The event of a ``recordingStatusCallback``."""
    return _event(RECORDING_PROCESSED, form.get("CallSid") or form.get("ConferenceSid"), form, called)


def conference_event(form: Mapping[str, str], called: Called) -> bytes:
    """The event of a conference's ``statusCallback``: of a participant where it names a call."""
    kind = PARTICIPANT_UPDATED if form.get("CallSid") else CONFERENCE_UPDATED
    return _event(kind, form.get("ConferenceSid"), form, called)


def _event(kind: str, subject: str | None, form: Mapping[str, str], called: Called) -> bytes:
    at = called.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    parameters = dict(form)
    # What Twilio sends again says the same again: its event is the same, and thereby a duplicate.
    said = msgspec.json.encode([called.path, sorted(parameters.items())])
    event_id = f"callback:{hashlib.sha256(said).hexdigest()[:32]}"
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": kind,
            "source": called.path,
            "id": event_id,
            "dataschema": "https://events-schemas.twilio.com/Voice.WebhookEvent/2",
            "datacontenttype": "application/json",
            "time": at,
            "data": {
                "sid": subject,
                "timestamp": at,
                "eventSid": event_id,
                "request": {"method": called.method, "url": called.url, "parameters": parameters},
            },
        }
    )
