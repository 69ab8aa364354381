"""Follows whole topics, all partitions, by assignment and without a group; and knows how fresh that view of them is.

A thread of its own reads, so that whoever follows neither waits for the judging nor holds it up. The ends are asked for
on a second thread with a client of its own: an end that nobody answers for must not hold the reading up either.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from monitor.errors import OutOfReach
from monitor.inputs.reader import BEGINNING, Questions, SignIn, logger, reader_properties

log = structlog.get_logger(__name__)

BATCH_MAX: Final = 2_000
POLL_S: Final = 0.1
GATHER_S: Final = 0.02
"""At most every so often is something taken in: each time costs a transaction, however much it brings. What comes after
a silence longer than this is not held up."""
AGAIN_S: Final = 1.0
SHARE: Final = 0.1
"""Of a core, no more than this while it gives way."""
PARTITIONS_EVERY_S: Final = 60.0
ASK_TIMEOUT_S: Final = 5.0

# The offset to go on from is not there: the topic was made anew, or cut.
_GONE: Final = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})

Place = tuple[str, int]
Mode = Literal["fresh", "alone", "stale"]


class Freshness:
    """How near the ends the view is. Safe from any thread; every ``now`` is of one clock that never goes back.

    ``fresh``: within ``fresh_s`` of all ends. ``alone``: it was fresh, and since then no broker answers, for at most
    ``alone_s``. ``stale``: anything else, such as a process that was stopped and goes on, or one that is behind.
    """

    def __init__(self, fresh_s: float, alone_s: float) -> None:
        self._fresh_s = fresh_s
        self._alone_s = alone_s
        self._lock = threading.Lock()
        self._expected: frozenset[Place] | None = None
        self._read_to: dict[Place, int] = {}
        self._as_of: dict[Place, float] = {}
        self._failed_at: float | None = None
        self._last: Mode = "stale"
        self._fresh_at: float | None = None

    def expect(self, places: Iterable[Place]) -> None:
        """These are all the partitions there are."""
        with self._lock:
            self._expected = frozenset(places)

    def forget(self, place: Place) -> None:
        """A partition is read from another place on: what was known of it says nothing."""
        with self._lock:
            self._read_to.pop(place, None)
            self._as_of.pop(place, None)

    def read(self, place: Place, offset: int, at_end: float | None) -> None:
        """All before ``offset`` was taken in; ``at_end`` is when the broker said that this is the end, if it did."""
        with self._lock:
            self._read_to[place] = offset
            if at_end is not None:
                self._as_of[place] = max(at_end, self._as_of.get(place, at_end))

    def asked(self, place: Place, end: int, at: float) -> None:
        """When asked at ``at``, the broker said where the end is."""
        with self._lock:
            if self._read_to.get(place, -1) >= end:
                self._as_of[place] = max(at, self._as_of.get(place, at))

    def answered(self, *, all_of_them: bool, now: float) -> None:
        """A round of asking is over."""
        with self._lock:
            self._failed_at = None if all_of_them else now

    def mode(self, now: float) -> Mode:
        """What may be done with the view."""
        with self._lock:
            self._last = self._mode(now)
            return self._last

    def _mode(self, now: float) -> Mode:
        if self._expected and all(now - self._as_of.get(place, -1e9) <= self._fresh_s for place in self._expected):
            self._fresh_at = now
            return "fresh"
        # That the brokers are away has to be known of now: a process that was stopped for an hour knows nothing.
        away = self._failed_at is not None and now - self._failed_at <= self._fresh_s
        if away and self._last != "stale" and self._fresh_at is not None and now - self._fresh_at <= self._alone_s:
            return "alone"
        return "stale"


class Takes(Protocol):
    """Who follows."""

    def offsets(self, topic: str) -> Mapping[int, int]:
        """Where to go on in each partition; from the beginning of one that is not named."""

    def take(self, messages: Sequence[Message], offsets: Mapping[Place, int]) -> bool:
        """Take in what has arrived, and up to where; False: what was taken so far is lost, begin again."""

    def turn(self) -> bool:
        """Comes between two readings, ten times a second at least; False as with ``take``."""


class TopicFollower:
    """Follows ``topics``; ``stop`` ends it. What is wrong with a broker is waited out.

    While ``gives_way`` says so, somebody else needs the core more: of it no more than ``SHARE`` is taken.
    """

    def __init__(
        self,
        client: Mapping[str, object],
        group_id: str,
        topics: Sequence[str],
        takes: Takes,
        freshness: Freshness,
        *,
        ask_every_s: float,
        gives_way: Callable[[], bool],
        on_error: Callable[[KafkaError], None],
    ) -> None:
        self._properties = reader_properties(client, group_id)
        self._sign_in = SignIn()
        self._questions = Questions(self._properties, timeout_s=ASK_TIMEOUT_S)
        self._topics = topics
        self._takes = takes
        self._freshness = freshness
        self._ask_every_s = ask_every_s
        self._gives_way = gives_way
        self._on_error = on_error
        self._stopping = threading.Event()
        self._places: dict[Place, None] = {}
        self._missed: set[str] = set()
        self._looked_at = 0.0
        self._took_at = 0.0
        self._rests_until = 0.0
        self._threads = [
            threading.Thread(target=self._follow, name="follower", daemon=True),
            threading.Thread(target=self._ask, name="ends", daemon=True),
        ]

    def start(self) -> None:
        """Begin to follow."""
        for thread in self._threads:
            thread.start()

    def stop(self, for_s: float) -> bool:
        """End it; whether it has ended within ``for_s``."""
        self._stopping.set()
        until = time.monotonic() + for_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not self._threads[0].is_alive()

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next connection on; from any thread."""
        self._properties |= {"sasl.username": username, "sasl.password": password}
        self._sign_in.change(username, password)
        self._questions.change_password(username, password)

    # Reading.

    def _follow(self) -> None:
        while not self._stopping.is_set():
            consumer = Consumer({**self._properties, "error_cb": self._on_error}, logger=logger)
            try:
                self._places.clear()
                self._looked_at = 0.0
                while not self._stopping.is_set() and self._at_its_pace(consumer):
                    pass
            except Exception:
                # The judging must not end with it, nor the paging of what is known: it begins again.
                log.exception("following_failed")
                self._stopping.wait(AGAIN_S)
            finally:
                consumer.close()

    def _at_its_pace(self, consumer: Consumer) -> bool:
        """One turn, and a rest for it: of processor time spent while giving way, nine times as much is waited."""
        began = time.thread_time()
        goes_on = self._once(consumer)
        if self._gives_way():
            rest_s = (time.thread_time() - began) * (1 / SHARE - 1)
            self._rests_until = max(self._rests_until, time.monotonic()) + rest_s
        else:
            self._rests_until = 0.0
        return goes_on

    def _once(self, consumer: Consumer) -> bool:
        """One turn; False where all is to be read anew."""
        self._sign_in.hand_on(consumer)
        if not self._takes.turn():
            return False
        rest_s = self._rests_until - time.monotonic()
        if rest_s > 0.0:
            self._stopping.wait(min(rest_s, POLL_S))
            return True
        if time.monotonic() - self._looked_at >= (PARTITIONS_EVERY_S if self._places else AGAIN_S):
            self._looked_at = time.monotonic()
            self._find(consumer)
        if not self._places:
            self._stopping.wait(POLL_S)
            return True
        # `consume(n, t)` would wait for n messages or the whole of t.
        first = consumer.poll(POLL_S)
        if first is None:
            return True
        wait_s = self._took_at + GATHER_S - time.monotonic()
        if wait_s > 0.0:
            self._stopping.wait(wait_s)
        self._took_at = time.monotonic()
        return self._tell(consumer, [first, *consumer.consume(BATCH_MAX, 0)])

    def _find(self, consumer: Consumer) -> None:
        """Find the partitions, and begin with those that are new."""
        found: list[Place] = []
        for topic in self._topics:
            try:
                described = consumer.list_topics(topic, ASK_TIMEOUT_S).topics[topic]
            except KafkaException:
                return
            if described.error is not None:
                if topic not in self._missed:
                    self._missed.add(topic)
                    log.warning("topic_not_there", topic=topic, why=described.error.name())
                return  # The view is not whole without it.
            found += [(topic, partition) for partition in described.partitions]
        new = [place for place in found if place not in self._places]
        for topic, partition in new:
            offset = self._takes.offsets(topic).get(partition, BEGINNING)
            self._begin(consumer, (topic, partition), offset)
        self._freshness.expect(self._places)

    def _begin(self, consumer: Consumer, place: Place, offset: int) -> None:
        topic, partition = place
        self._freshness.forget(place)
        if place in self._places:
            consumer.incremental_unassign([TopicPartition(topic, partition)])
        consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        self._places[place] = None
        if offset != BEGINNING:
            self._freshness.read(place, offset, None)

    def _tell(self, consumer: Consumer, batch: Sequence[Message]) -> bool:
        now = time.monotonic()
        messages: list[Message] = []
        offsets: dict[Place, int] = {}
        ends: dict[Place, float | None] = {}
        for message in batch:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if topic is None or partition is None:
                continue
            place = (topic, partition)
            error = message.error()
            if error is None and offset is not None:
                messages.append(message)
                offsets[place] = offset + 1
                ends[place] = None
            elif error is not None and error.code() == KafkaError._PARTITION_EOF:
                if offset is not None:
                    offsets[place] = offset
                ends[place] = now
            elif error is not None and error.code() in _GONE:
                log.warning("topic_read_anew", topic=topic, partition=partition, why=error.name())
                self._begin(consumer, place, BEGINNING)
        if messages and not self._takes.take(messages, offsets):
            return False
        for place, offset in offsets.items():
            self._freshness.read(place, offset, ends[place])
        return True

    # Asking.

    def _ask(self) -> None:
        questions = self._questions
        while not self._stopping.wait(self._ask_every_s):
            all_of_them = bool(self._places)
            for topic, partition in list(self._places):
                at = time.monotonic()
                try:
                    _, end = questions.bounds(topic, partition)
                except OutOfReach:
                    all_of_them = False
                    break
                self._freshness.asked((topic, partition), end, at)
            self._freshness.answered(all_of_them=all_of_them, now=time.monotonic())
        with contextlib.suppress(KafkaException):
            questions.close()
