"""Reading a stretch of a topic once, from here to there: what ``export`` and ``quarantine`` look through.

Not a member of any group, and it commits nothing: looking changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from monitor.errors import OutOfReach
from monitor.inputs.reader import describe, first_at, logger, reader_properties

TIMEOUT_S: Final = 15.0


class Scan:
    """One topic as it stands when the scan is made: what comes later is not read.

    ``since_ms`` and ``until_ms`` bound the Kafka timestamps; where the broker can't look up offsets by time, all is
    read and passed over. ``offsets`` names partitions with their first offset and the one to stop before, instead.
    Raises OutOfReach when nobody answers or the topic is not there.
    """

    def __init__(
        self,
        client: Mapping[str, object],
        group_id: str,
        topic: str,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        partitions: Sequence[int] | None = None,
        offsets: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        properties: dict[str, Any] = {**reader_properties(client, group_id), "fetch.wait.max.ms": 10}
        self._consumer = Consumer(properties, logger=logger)
        self._topic = topic
        self._since_ms = since_ms
        self._until_ms = until_ms
        try:
            self._bounds = self._ask(partitions if offsets is None else list(offsets))
        except KafkaException as failure:
            self._consumer.close()
            name = _name(failure)
            silent = name in ("_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN")
            raise OutOfReach(f"{topic}: {'no broker answers: ' if silent else ''}{name}") from failure
        for partition, (first, end) in (offsets or {}).items():
            low, high = self._bounds[partition]
            self._bounds[partition] = (max(first, low), min(end, high))

    @property
    def messages(self) -> int:
        """How many offsets lie in the stretch; with gaps it holds fewer messages."""
        return sum(end - start for start, end in self._bounds.values())

    def read(self) -> Iterator[Message]:
        """Every message of the stretch; in order within a partition. May be called again. Raises OutOfReach."""
        left = {partition: end for partition, (start, end) in self._bounds.items() if start < end}
        if not left:
            return
        self._consumer.assign([TopicPartition(self._topic, p, self._bounds[p][0]) for p in left])
        heard = time.monotonic()
        while left:
            batch = self._consumer.consume(2000, 0.2)
            if batch:
                heard = time.monotonic()
            elif time.monotonic() - heard > TIMEOUT_S:
                raise OutOfReach(f"{self._topic}: the broker has fallen silent")
            for message in batch:
                partition, error = message.partition(), message.error()
                if partition not in left:
                    continue
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        del left[partition]
                        continue
                    raise OutOfReach(f"{self._topic}[{partition}]: {error.name()}")
                offset = message.offset()
                assert offset is not None
                if offset < left[partition] and self._in_time(message.timestamp()[1]):
                    yield message
                if offset >= left[partition] - 1:
                    del left[partition]
        self._consumer.unassign()

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _ask(self, only: Sequence[int] | None) -> dict[int, tuple[int, int]]:
        _, there = describe(self._consumer, self._topic, TIMEOUT_S)
        numbers = there if only is None else [number for number in only if number in there]
        bounds = {}
        for number in numbers:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), TIMEOUT_S)
            start = self._first_at(number, self._since_ms, low, high)
            bounds[number] = (low if start is None else start, high)
        return bounds

    def _first_at(self, number: int, timestamp_ms: int | None, low: int, high: int) -> int | None:
        if timestamp_ms is None:
            return None
        offset = first_at(self._consumer, TopicPartition(self._topic, number, timestamp_ms), TIMEOUT_S)
        if offset is None:
            return None
        return min(max(offset, low), high) if offset >= 0 else high

    def _in_time(self, timestamp_ms: int) -> bool:
        return (self._since_ms is None or timestamp_ms >= self._since_ms) and (
            self._until_ms is None or timestamp_ms < self._until_ms
        )


def _name(failure: KafkaException) -> str:
    error = failure.args[0] if failure.args else failure
    return error.name() if isinstance(error, KafkaError) else str(error)
