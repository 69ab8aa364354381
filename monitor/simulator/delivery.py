"""Takes simulated traffic to where it goes, at its own pace or at the world's: a file, standard output, or a topic.

The truth of bounded traffic is on the disk, whole, before the first entry leaves; of endless traffic, that of each call
is, before its first entry. Everything that touches the world stands here; what is sent comes from ``traffic`` alone.
"""

from __future__ import annotations

import gzip
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Protocol, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from monitor import clock
from monitor.errors import OutOfReach
from monitor.simulator.traffic import Knobs, header, traffic, truth
from monitor.simulator.truth import Counts, RecordingTruth, write_line

_REACH_TIMEOUT_S: Final = 10.0
_FLUSH_TIMEOUT_S: Final = 60.0
_GZIP_LEVEL: Final = 5  # Half the time of the default for a tenth more bytes.
_POLL_EVERY: Final = 500
_PAUSE_MAX_S: Final = 0.5
"""Nothing sleeps longer at once, so that an interrupt and a broker's answer are heard in time."""

logger: Final = logging.getLogger("librdkafka")


class Sink(Protocol):
    """A place entries go."""

    def put(self, account_sid: str, due_ms: int, entry: bytes) -> None:
        """Send one entry. Raises ``OutOfReach`` or ``OSError`` where it can't."""

    def pause(self, seconds: float) -> None:
        """Let this much time pass; what was put is on its way meanwhile."""

    def close(self) -> None:
        """Return once all that was put is safe. Raises like ``put``."""


class FileSink:
    """One entry a line, into a file (gzipped where its name ends in ``.gz``) or standard output (``-``).

    A gzipped file carries neither name nor time of its making: same traffic, same bytes. Raises ``OSError``.
    """

    def __init__(self, path: Path) -> None:
        self._raw: IO[bytes] | None = None
        if str(path) == "-":
            self._file: IO[bytes] = sys.stdout.buffer
        elif path.suffix == ".gz":
            self._raw = path.open("wb")
            self._file = gzip.GzipFile("", "wb", _GZIP_LEVEL, self._raw, mtime=0)  # type: ignore[assignment]  # writes
        else:
            self._raw = self._file = path.open("wb")

    def put(self, account_sid: str, due_ms: int, entry: bytes) -> None:  # noqa: ARG002 - a file needs neither.
        """Append one entry as a line; none holds a line break."""
        self._file.write(entry + b"\n")

    def pause(self, seconds: float) -> None:
        """Let whoever reads along see what is written, and sleep."""
        self._file.flush()
        time.sleep(seconds)

    def close(self) -> None:
        """Write out what is buffered; a file is closed, standard output is not ours to close."""
        if self._raw is None:
            self._file.flush()
            return
        self._file.close()
        self._raw.close()


class TopicSink:
    """A Kafka topic, keyed by account and partitioned as Java does it, acknowledged by all replicas.

    ``properties`` are librdkafka's, the address among them. A message is stamped with the instant it was due, though
    never with one to come: traffic sent faster than life stays in the order of its own time. Raises ``OutOfReach``
    where no broker answers within ``timeout_s`` or the topic is refused.
    """

    def __init__(self, properties: Mapping[str, object], topic: str, *, timeout_s: float = _REACH_TIMEOUT_S) -> None:
        self._topic = topic
        self._error: KafkaError | None = None
        self._put = 0
        defaults = {"linger.ms": 20, "compression.type": "lz4", "queue.buffering.max.messages": 200_000}
        must = {"enable.idempotence": True, "acks": "all", "partitioner": "murmur2_random"}
        try:
            self._producer = Producer({**defaults, **properties, **must}, logger=logger)
            told = self._producer.list_topics(topic, timeout=timeout_s).topics[topic]
        except KafkaException as error:
            raise OutOfReach(f"no broker answers: {_name(error.args[0])}") from None
        # A broker that makes topics on first use says "unknown" this once.
        if told.error is not None and told.error.code() not in {
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError.LEADER_NOT_AVAILABLE,
        }:
            raise OutOfReach(f"topic {topic}: {_name(told.error)}")

    def put(self, account_sid: str, due_ms: int, entry: bytes) -> None:
        """Queue one message; waits while the queue is full."""
        stamp_ms = min(due_ms, clock.now_ms())
        while True:
            try:
                self._producer.produce(self._topic, entry, account_sid, on_delivery=self._delivered, timestamp=stamp_ms)
                break
            except BufferError:
                self._hear(_PAUSE_MAX_S)
                self._check()
            except KafkaException as error:
                raise OutOfReach(f"topic {self._topic}: {_name(error.args[0])}") from None
        self._put += 1
        if self._put % _POLL_EVERY == 0:
            self._hear(0)
            self._check()

    def pause(self, seconds: float) -> None:
        """Hear the broker's answers for this long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._hear(left)
        self._check()

    def close(self) -> None:
        """Wait until every message is acknowledged."""
        left = self._producer.flush(_FLUSH_TIMEOUT_S)
        self._check()
        if left:
            raise OutOfReach(
                f"topic {self._topic}: {left} messages were not acknowledged within {_FLUSH_TIMEOUT_S:g} s"
            )

    def _hear(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except SystemError as fault:
            # An interrupt that comes while the client tells us of a delivery: it loses the exception on its way.
            raise KeyboardInterrupt from fault

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._error = error

    def _check(self) -> None:
        if self._error is not None:
            raise OutOfReach(f"topic {self._topic}: a message was not delivered: {_name(self._error)}")


def _name(error: KafkaError) -> str:
    return str(error.name()).lstrip("_")


class TruthFile:
    """The truth on its way to the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def whole(self, knobs: Knobs) -> Counts:
        """Write all of it; return its last line once it is on the disk. Raises ``OSError``, ``KnobError``."""
        counts = Counts()
        for line in truth(knobs):
            write_line(self._file, line)
            if isinstance(line, Counts):
                counts = line
        self._save()
        return counts

    def begun(self, knobs: Knobs) -> None:
        """Write the header of traffic without an end."""
        write_line(self._file, header(knobs))
        self._save()

    def scene(self, truths: list[RecordingTruth]) -> None:
        """Write what is true of a call that begins now."""
        for one in truths:
            write_line(self._file, one)
        if truths:
            self._file.flush()

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def deliver(
    knobs: Knobs,
    sink: Sink,
    truth_path: Path,
    *,
    real_time: bool,
    planned: Callable[[Counts], None] | None = None,
    sent: Callable[[int], None] | None = None,
) -> int:
    """Write the truth, then send the traffic; return how many entries were sent.

    ``real_time``: an entry waits for the instant it is due (what is due in the past goes at once); else all go as fast
    as they are taken. ``planned`` is told the counts of bounded traffic before the first entry, ``sent`` now and then
    how many have gone. The sink is closed at the end, and when the caller is interrupted. Raises like the sink.
    """
    number = 0
    with TruthFile(truth_path) as file:
        begin = None
        if knobs.bounded:
            counts = file.whole(knobs)
            if planned is not None:
                planned(counts)
        else:
            file.begun(knobs)
            begin = file.scene
        try:
            for due_ms, account_sid, entry in traffic(knobs, begin):
                if real_time:
                    while (ahead_s := due_ms / 1000 - time.time()) > 0:
                        if sent is not None:
                            sent(number)
                        sink.pause(min(ahead_s, _PAUSE_MAX_S))
                sink.put(account_sid, due_ms, entry)
                number += 1
                if sent is not None and number % _POLL_EVERY == 0:
                    sent(number)
        except KeyboardInterrupt:  # The ordinary end of endless traffic: what was put still arrives.
            sink.close()
            raise
        sink.close()
    if sent is not None:
        sent(number)
    return number
