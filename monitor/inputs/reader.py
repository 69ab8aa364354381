"""Reading partitions by assignment, without a group: replays, the verdict topic, the account settings.

It is a consumer apart from the group's, so that a long replay never stands in the queue before a live message.
An end is the broker's PARTITION_EOF, never an offset compared.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from monitor.errors import OutOfReach

BEGINNING: Final[int] = OFFSET_BEGINNING
READER_FETCH_BYTES: Final = 65_536
"""Less than this a ``Reader`` is told with the next ``fetch.wait.max.ms``: what it follows live, for the most part, is
what its own process has just written, and would be fetched batch by batch."""

# Properties that make a member of a group; a reader is none, and producers warn about them.
_MEMBERSHIP: Final = frozenset(
    {
        "group.instance.id",
        "group.protocol",
        "group.protocol.type",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "session.timeout.ms",
    }
)
_CONSUMING: Final = frozenset(
    {
        "auto.commit.interval.ms",
        "auto.offset.reset",
        "check.crcs",
        "coordinator.query.interval.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "isolation.level",
        "max.partition.fetch.bytes",
        "queued.max.messages.kbytes",
        "queued.min.messages",
    }
)
_PRODUCING: Final = frozenset(
    {
        "acks",
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "delivery.timeout.ms",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "request.required.acks",
        "request.timeout.ms",
        "retries",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)

logger: Final = logging.getLogger("librdkafka")
# Where no log is set up (a command that reads a topic once), Python would print its warnings raw: dozens a second while
# a broker is away. The command says in the end what was the matter.
logger.addHandler(logging.NullHandler())


def shared_properties(client: Mapping[str, object], *, consumes: bool) -> dict[str, object]:
    """Of the settings' ``kafka.client``, what a consumer (or else a producer) understands.

    One map serves all our clients; librdkafka warns of each property that is not for the kind of client at hand.
    """
    foreign = _PRODUCING if consumes else _CONSUMING | _MEMBERSHIP
    return {key: value for key, value in client.items() if key not in foreign}


def reader_properties(client: Mapping[str, object], group_id: str) -> dict[str, object]:
    """What librdkafka is told for a consumer that only ever assigns.

    It carries the group's id because the client demands one and the group's ACL covers it, and never joins or commits.
    ``fetch.wait.max.ms``: an end is told when a fetch comes back empty, and a partition is begun when the fetch under
    way has come back; with the default of 500, each takeover took seconds.
    """
    given = {k: v for k, v in shared_properties(client, consumes=True).items() if k not in _MEMBERSHIP}
    return {
        "fetch.queue.backoff.ms": 20,
        "fetch.wait.max.ms": 25,
        "queued.max.messages.kbytes": 4096,
        **given,
        "group.id": group_id,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }


def key_of(message: Message) -> str | None:
    """The key as text; what is no UTF-8 in it is replaced, which makes it nobody's."""
    key = message.key()
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def headers_of(message: Message) -> list[tuple[str, bytes]] | None:
    """The headers that say something; None where there are none at all."""
    headers = message.headers()
    if not headers:
        return None
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, value) for name, value in pairs if isinstance(value, bytes)]


def offset_of(message: Message) -> int:
    """Where a message stands."""
    offset = message.offset()
    assert offset is not None
    return offset


def kind_of(error: KafkaException | OutOfReach) -> str:
    """What to call it in a log line: librdkafka's name where it has one."""
    first = error.args[0] if error.args else error
    return first.name() if isinstance(first, KafkaError) else str(first)


class SignIn:
    """A password that changes under the clients of one thread, which hands it to them between two of its own calls.

    Nobody else can: the call of another thread on a consumer that is polled all the time waits its turn without end
    (seen with confluent-kafka 2.16).
    """

    def __init__(self) -> None:
        self._given: tuple[str, str] | None = None
        self._handed_on: tuple[str, str] | None = None

    def change(self, username: str, password: str) -> None:
        """Come in so from the next connection on; from any thread. Clients made from now on are made so."""
        self._given = (username, password)

    def hand_on(self, client: Consumer) -> None:
        """Tell the client what has changed since the last call, on the thread that uses it."""
        given = self._given
        if given is not None and given is not self._handed_on:
            client.set_sasl_credentials(*given)
            self._handed_on = given


def describe(client: Consumer, topic: str, timeout_s: float) -> tuple[str | None, list[int]]:
    """The cluster's id and the partitions of a topic. Raises KafkaException, OutOfReach for a topic without any."""
    metadata = client.list_topics(topic, timeout_s)
    found = metadata.topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    if not found.partitions:
        raise OutOfReach(f"{topic} has no partitions")
    return metadata.cluster_id, sorted(found.partitions)


def first_at(client: Consumer, at: TopicPartition, timeout_s: float) -> int | None:
    """The first offset stamped at or after ``at.offset`` (ms), -1 if there is none. Raises KafkaException to try again.

    None: this broker can't be asked for offsets by time (librdkafka's mock cluster), and never will.
    """
    asked = TopicPartition(at.topic, at.partition, max(0, at.offset))
    try:
        [found] = client.offsets_for_times([asked], timeout_s)
    except KafkaException as failure:
        if failure.args[0].code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
            raise
        return None
    if found.error is not None:
        return None
    if found.offset >= 0:
        return found.offset
    # None; or the broker looked in a segment of which all was deleted (DeleteRecords): it is there for minutes yet.
    low, high = client.get_watermark_offsets(at, timeout_s)
    first = message_at(client, TopicPartition(at.topic, at.partition, low), timeout_s) if low < high else None
    return low if first is not None and first.timestamp()[1] >= at.offset else found.offset


def message_at(client: Consumer, at: TopicPartition, timeout_s: float) -> Message | None:
    """The first message at or after ``at``, by a client that reads nothing else; None: there is none.

    Raises KafkaException, OutOfReach where nothing comes in time.
    """
    client.assign([at])
    try:
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            message = client.poll(left)
            if message is None:
                continue
            error = message.error()
            if error is None:
                return message
            if error.code() == KafkaError._PARTITION_EOF:
                return None
            raise KafkaException(error)
    finally:
        _let_go(client)
    raise OutOfReach(f"{at.topic}[{at.partition}] could not be read at {at.offset} within {timeout_s:g} s")


def _let_go(client: Consumer) -> None:
    """Read nothing more. What was fetched ahead, some 8 MB, the client would keep until it is polled again."""
    client.unassign()
    client.poll(0)


def _place(message: Message) -> tuple[str, int, bool]:
    """Where a message is from, and whether it stands for an error there."""
    topic, partition = message.topic(), message.partition()
    return topic or "", -1 if partition is None else partition, message.error() is not None


class Follower(Protocol):
    """Who is told what stands in one partition."""

    def messages(self, run: list[Message]) -> None:
        """What has arrived, in order; never none."""

    def ended(self) -> None:
        """Everything up to the end has been told; comes again after each time the end was left behind."""

    def failed(self, error: KafkaError) -> None:
        """The partition cannot be read from where we stand (its offset is gone, the topic is not there)."""


class Reader:
    """Follows any number of partitions on the caller's thread; of each, one follower is told."""

    def __init__(self, properties: Mapping[str, object], *, on_error: Callable[[KafkaError], None]) -> None:
        self._consumer = Consumer(
            {"fetch.min.bytes": READER_FETCH_BYTES, **properties, "error_cb": on_error}, logger=logger
        )
        self._sign_in = SignIn()
        self._followers: dict[tuple[str, int], Follower] = {}
        self._known: set[str] = set()

    def follow(self, topic: str, partition: int, offset: int, follower: Follower) -> None:
        """Begin at ``offset`` (or ``BEGINNING``); one already followed begins anew."""
        self.leave(topic, partition)
        if topic not in self._known:
            # Else the client finds out by itself where the topic is, half a second later.
            with contextlib.suppress(KafkaException):
                self._consumer.list_topics(topic, 1.0)
                self._known.add(topic)
        self._consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        self._followers[topic, partition] = follower

    def leave(self, topic: str, partition: int) -> None:
        """Stop telling of this partition; what was already fetched of it is dropped."""
        if self._followers.pop((topic, partition), None) is not None:
            self._consumer.incremental_unassign([TopicPartition(topic, partition)])

    def read(self, messages_max: int, for_s: float) -> bool:
        """Tell the followers what has arrived, at most so much; return whether there may be more at once."""
        self._sign_in.hand_on(self._consumer)
        until = time.monotonic() + for_s
        told = 0
        while told < messages_max:
            batch = self._consumer.consume(min(200, messages_max - told), 0)
            if not batch:
                return False
            told += len(batch)
            self._tell(batch)
            if time.monotonic() >= until:
                break
        return True

    def _tell(self, batch: list[Message]) -> None:
        """Tell each follower its runs; one that has left in the meantime is not there any more."""
        for (topic, partition, failed), run in groupby(batch, _place):
            follower = self._followers.get((topic, partition))
            if follower is None:
                continue  # Fetched before it was left; or an error of the client at large, told to ``error_cb``.
            if not failed:
                follower.messages(list(run))
                continue
            for message in run:
                error = message.error()
                assert error is not None
                if error.code() == KafkaError._PARTITION_EOF:
                    follower.ended()
                else:
                    follower.failed(error)

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next connection on; from any thread."""
        self._sign_in.change(username, password)

    def close(self) -> None:
        """Leave everything."""
        self._followers.clear()
        self._consumer.close()


class Questions:
    """What is asked of the broker now and then, each answered before the caller goes on; from any thread.

    It has a client of its own: a call on one that another thread keeps polling waits its turn, for 20 s at times
    (seen with confluent-kafka 2.16).
    """

    def __init__(self, properties: Mapping[str, object], *, timeout_s: float = 10.0) -> None:
        self._properties: dict[str, Any] = {**properties, "fetch.wait.max.ms": 10}
        self._timeout_s = timeout_s
        self._consumer: Consumer | None = None
        self._sign_in = SignIn()
        self._lock = threading.Lock()

    def describe(self, topic: str) -> tuple[str | None, list[int]]:
        """See ``describe``, the function."""
        with self._asking(topic) as consumer:
            return describe(consumer, topic, self._timeout_s)

    def committed(self, topic: str, partition: int) -> tuple[int, str | None] | None:
        """What the group has committed: offset and metadata. None: nothing."""
        with self._asking(topic) as consumer:
            [found] = consumer.committed([TopicPartition(topic, partition)], self._timeout_s)
            if found.error is not None:
                raise KafkaException(found.error)
            return (found.offset, found.metadata) if found.offset >= 0 else None

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first retained offset, and the one that the next message will get."""
        with self._asking(topic) as consumer:
            return consumer.get_watermark_offsets(TopicPartition(topic, partition), self._timeout_s)

    def first_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """The first offset stamped at or after this instant, -1 if there is none; None: this broker can't be asked."""
        with self._asking(topic) as consumer:
            return first_at(consumer, TopicPartition(topic, partition, timestamp_ms), self._timeout_s)

    def at_or_after(self, topic: str, partition: int, offset: int) -> Message | None:
        """The first message at or after ``offset``; None: there is none."""
        with self._asking(topic) as consumer:
            return message_at(consumer, TopicPartition(topic, partition, offset), self._timeout_s)

    def run(self, topic: str, partition: int, start: int, end: int, for_s: float) -> tuple[list[Message], bool]:
        """The retained messages from ``start`` up to ``end``, exclusively; False: ``for_s`` ended it before."""
        until = time.monotonic() + for_s
        with self._asking(topic) as consumer:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), self._timeout_s)
            at, end = max(start, low), min(end, high)
            found: list[Message] = []
            if at < end:
                consumer.assign([TopicPartition(topic, partition, at)])
            while at < end and time.monotonic() < until:
                for message in consumer.consume(500, 0.1):
                    error, offset = message.error(), message.offset()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    at = at if offset is None else offset + (error is None)
                    if error is None and at <= end:
                        found.append(message)
            _let_go(consumer)
            return found, at >= end

    @contextlib.contextmanager
    def _asking(self, topic: str) -> Iterator[Consumer]:
        """The client, for one question. What goes wrong is OutOfReach: it may be asked again."""
        with self._lock:
            if self._consumer is None:
                self._consumer = Consumer(self._properties, logger=logger)
            self._sign_in.hand_on(self._consumer)
            try:
                yield self._consumer
            except KafkaException as failure:
                error = failure.args[0]
                raise OutOfReach(f"{topic}: {error.name() if isinstance(error, KafkaError) else error}") from failure

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next question on; from any thread."""
        self._properties = {**self._properties, "sasl.username": username, "sasl.password": password}
        self._sign_in.change(username, password)

    def close(self) -> None:
        """Let go of the connection, if one was ever made."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None


class AskedLog:
    """The ``checkpoint.Log`` of one partition, each question a round trip to the broker. Raises OutOfReach."""

    def __init__(self, questions: Questions, topic: str, partition: int) -> None:
        self._questions = questions
        self._where = (topic, partition)
        self.low, self.high = questions.bounds(topic, partition)

    def first_at(self, timestamp_ms: int) -> int | None:
        """The first offset stamped at or after this instant, ``high`` if there is none; None: it can't be asked."""
        found = self._questions.first_at(*self._where, timestamp_ms)
        return self.high if found is not None and found < 0 else found

    def stamp(self, offset: int) -> int | None:
        """The Kafka timestamp of the first message at or after ``offset``; None where there is no such message."""
        message = self._questions.at_or_after(*self._where, offset)
        return message.timestamp()[1] if message is not None else None
