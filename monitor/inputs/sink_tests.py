"""Sink tests that came: what a bridge says of them, and how whoever asked Twilio for one reads it.

Twilio validates a sink by the id of a test that it has sent there. The bridge that gets it and the command that asked
for it are two processes; between them is the topic of account settings, compacted, one message an account.
https://www.twilio.com/docs/events/webhook-quickstart
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from monitor.core.envelope import FAULTS
from monitor.core.values import sid_of

TEST_EVENT: Final = b"com.twilio.eventstreams.test-event"
SEEN: Final = "dev.recording-monitor.sink-test.seen"
_KEY_END: Final = "/sink-test/account"


class SinkTest(msgspec.Struct, frozen=True):
    """A test that came: for whom, its id, and when (ISO 8601, UTC)."""

    account_sid: str
    test_id: str
    seen_at: str


class _Data(msgspec.Struct):
    test_id: str


class _Event(msgspec.Struct):
    type: str
    data: _Data
    id: str | None = None


class _Seen(msgspec.Struct):
    type: str
    data: SinkTest


_decode_event: Final = msgspec.json.Decoder(_Event).decode
_decode_seen: Final = msgspec.json.Decoder(_Seen).decode


def sink_test_in(raw: bytes, signer: str, seen_at: datetime) -> SinkTest | None:
    """The test that an entry of Twilio's is; ``signer`` is the account whose token signed it, if it names none."""
    if TEST_EVENT not in raw:
        return None
    try:
        event = _decode_event(raw)
    except FAULTS:
        return None
    if event.type.encode() != TEST_EVENT:
        return None
    at = seen_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return SinkTest(sid_of(event.id, "AC") or signer, event.data.test_id, at)


def render_sink_test(test: SinkTest) -> tuple[str, bytes]:
    """Key and value of what is said of it: the last one of each account."""
    value = {
        "specversion": "1.0",
        "type": SEEN,
        "source": "recording-monitor",
        "id": f"sink-test:{test.test_id}",
        "time": test.seen_at,
        "data": test,
    }
    return test.account_sid + _KEY_END, msgspec.json.encode(value)


def read_sink_test(key: str, value: bytes | None) -> SinkTest | None:
    """What a message of the account settings says of a sink test; None where it is about something else."""
    if value is None or not key.endswith(_KEY_END):
        return None
    try:
        return _decode_seen(value).data
    except FAULTS:
        return None
