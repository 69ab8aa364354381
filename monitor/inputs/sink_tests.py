"""Sink tests that came: what a bridge says of them, and how whoever asked Twilio for one reads it.

Twilio validates a sink by the id of a test that it has sent there. The bridge that gets it and the command that asked
for it are two processes; between them is the topic of account settings, compacted, one message an account.
https://www.twilio.com/docs/events/webhook-quickstart
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from monitor.core.envelope import FAULTS
from monitor.core.values import sid_of
from monitor.errors import OutOfReach
from monitor.inputs.reader import describe, logger, reader_properties

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


class SinkTests:
    """The tests that arrive from now on: made before Twilio is asked for one, so that none is missed.

    Raises OutOfReach when nobody answers or the topic is not there.
    """

    def __init__(self, client: Mapping[str, object], group_id: str, topic: str, *, timeout_s: float = 10.0) -> None:
        properties: dict[str, Any] = reader_properties(client, group_id)
        self._consumer = Consumer(properties, logger=logger)
        try:
            _, partitions = describe(self._consumer, topic, timeout_s)
            places = [TopicPartition(topic, partition) for partition in partitions]
            for place in places:
                _, place.offset = self._consumer.get_watermark_offsets(place, timeout_s)
            self._consumer.assign(places)
        except KafkaException as failure:
            self._consumer.close()
            raise OutOfReach(f"{topic}: {failure.args[0].name()}. Tests of sinks are told there") from failure

    def next(self, account_sid: str, for_s: float) -> SinkTest | None:
        """The next test that arrived for an account; None: none within so many seconds."""
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            message = self._consumer.poll(min(left, 0.5))
            key = None if message is None or message.error() else message.key()
            if message is None or key is None:
                continue
            seen = read_sink_test(key.decode(errors="replace"), message.value())
            if seen is not None and seen.account_sid == account_sid:
                return seen
        return None

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()
