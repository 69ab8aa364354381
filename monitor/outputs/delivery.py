"""The one producer of a process: idempotent, acknowledged by all replicas, and told of each message's end.

Delivery is at least once. Whoever sends a message is told where it was placed, or that it was not; nobody waits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from monitor.errors import OutputUnavailable
from monitor.producer import Writer, failed_for_good

log = structlog.get_logger(__name__)

Headers = list[tuple[str, bytes]]
Done = Callable[[int | None], None]
"""Called on the polling thread with the offset the message was placed at; None: it was not delivered."""

FLYING_MAX: Final = 5
"""With so many messages of a partition on their way, an idempotent librdkafka sends no more of it. What is handed to it
all the same, it does not wait with: once ``linger.ms`` is over its thread polls until the broker has answered."""
WAITING_MAX: Final = 1_000
"""Messages of a partition that are held back for that; beyond it, librdkafka's own queue says when it is full."""
LOOK_EVERY_S: Final = 0.02
"""At most so long, while more is sent, it goes unseen that something has arrived."""


class _Message(NamedTuple):
    topic: str
    value: bytes | None
    partition: int | None
    key: str | None
    headers: Headers | None
    done: Done


class _Lane:
    """The messages of one partition: how many are on their way, since when a batch fills, and what waits behind it."""

    def __init__(self) -> None:
        self.flying = 0
        self.filling_since = 0.0
        self.waiting: list[_Message] = []


def producer_properties(client: Mapping[str, object]) -> dict[str, object]:
    """What librdkafka is told for our producers. ``client`` holds the address and what only producers understand.

    The partitioner is what Java does (librdkafka's default is another), for whatever is not sent to a partition by
    number.
    """
    return {"linger.ms": 2, "compression.type": "lz4", **client} | {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
    }


class Delivery:
    """Sends messages, and knows how many are on their way. One thread only."""

    def __init__(
        self,
        properties: Mapping[str, object],
        *,
        on_error: Callable[[KafkaError], None],
        full_timeout_s: float = 20.0,
    ) -> None:
        """``full_timeout_s``: how long ``send`` waits for room in a full queue before it gives up."""
        self._properties = dict(properties)
        self._on_error = on_error
        self._full_timeout_s = full_timeout_s
        self._linger_s = float(str(properties.get("linger.ms", 0))) / 1000
        self._broken = False
        self._lanes: defaultdict[tuple[str, int | None], _Lane] = defaultdict(_Lane)
        self._held_up: list[_Lane] = []
        self._looked_at = 0.0
        self.outstanding = 0
        self._producer = Writer(self._properties, on_error=self._error)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int | None = None,
        key: str | None = None,
        headers: Headers | None = None,
        done: Done,
    ) -> None:
        """Queue one message; without ``partition``, the key chooses it.

        Raises OutputUnavailable when the queue stays full or the client refuses the message; ``done`` is not called.
        """
        message = _Message(topic, value, partition, key, headers, done)
        lane = self._lanes[topic, partition]
        now = time.monotonic()
        if lane.waiting or now - lane.filling_since >= self._linger_s:
            if lane.waiting or lane.flying >= FLYING_MAX:
                self._hold(lane, message, now)
                return
            lane.filling_since = now
        self._produce(lane, message)
        self.outstanding += 1

    def _hold(self, lane: _Lane, message: _Message, now: float) -> None:
        if not lane.waiting:
            self._held_up.append(lane)
        lane.waiting.append(message)
        self.outstanding += 1
        if len(lane.waiting) >= WAITING_MAX:
            self._release(lane, now)
        elif now - self._looked_at >= LOOK_EVERY_S:
            self.poll()

    def _release(self, lane: _Lane, now: float) -> None:
        """Hand over what was held back; what is refused then, and all that comes after it, is told as not delivered."""
        waiting, lane.waiting = lane.waiting, []
        self._held_up.remove(lane)
        lane.filling_since = now
        for number, message in enumerate(waiting):
            try:
                self._produce(lane, message)
            except OutputUnavailable as why:
                log.warning("message_not_delivered", topic=message.topic, partition=message.partition, why=str(why))
                self.outstanding -= len(waiting) - number
                for lost in waiting[number:]:
                    lost.done(None)
                return

    def _produce(self, lane: _Lane, message: _Message) -> None:
        if self._broken:
            self._reopen()
        delivered = partial(self._delivered, lane, message.done)
        until: float | None = None
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    partition=-1 if message.partition is None else message.partition,  # -1: as the partitioner says.
                    headers=message.headers,  # type: ignore[arg-type]  # Its types want one that may hold None and text.
                    on_delivery=delivered,
                )
                break
            except BufferError:
                # The broker is slower than we are, or away: wait for room here, which holds the reading back too.
                until = until or time.monotonic() + self._full_timeout_s
                self._producer.poll(0.1)
                if time.monotonic() > until:
                    raise OutputUnavailable(f"{message.topic}: the queue of messages to send stayed full") from None
            except KafkaException as failure:
                error = failure.args[0]
                self._look_whether_broken(error)
                raise OutputUnavailable(f"{message.topic}: {error.name()}") from failure
        lane.flying += 1

    def _delivered(self, lane: _Lane, done: Done, error: KafkaError | None, message: Message) -> None:
        self.outstanding -= 1
        lane.flying -= 1
        if error is None:
            done(message.offset())
            return
        self._look_whether_broken(error)
        log.warning("message_not_delivered", topic=message.topic(), partition=message.partition(), kind=error.name())
        done(None)

    def _error(self, error: KafkaError) -> None:
        self._look_whether_broken(error)
        self._on_error(error)

    def _look_whether_broken(self, error: KafkaError) -> None:
        self._broken = self._broken or failed_for_good(error)  # Then another takes its place.

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next connection on; from any thread."""
        self._properties |= {"sasl.username": username, "sasl.password": password}
        self._producer.set_sasl_credentials(username, password)

    def poll(self, for_s: float = 0.0) -> None:
        """Tell the senders what has been acknowledged, or refused, since."""
        self._producer.poll(for_s)
        if self._held_up:
            self._looked_at = now = time.monotonic()
            for lane in [lane for lane in self._held_up if lane.flying < FLYING_MAX]:
                self._release(lane, now)

    def flush(self, for_s: float) -> None:
        """Return once nothing is on its way; raises OutputUnavailable when that takes longer than ``for_s``."""
        self._release_all()
        left = self._producer.flush(for_s)
        if left:
            raise OutputUnavailable(f"{left} messages were not acknowledged within {for_s:g} s")

    def close(self, for_s: float) -> None:
        """Send what can be sent within ``for_s``, and give up the rest (each is told)."""
        self._full_timeout_s = 0.0  # Nobody waits for room any more.
        self._release_all()
        self._producer.flush(for_s)
        self._producer.purge()
        self._producer.poll(0)

    def _release_all(self) -> None:
        now = time.monotonic()
        for lane in list(self._held_up):
            self._release(lane, now)

    def _reopen(self) -> None:
        """Replace a producer that has failed for good. What it still held is told as not delivered."""
        self._producer.purge()
        self._producer.flush(1)
        log.warning("producer_replaced")
        self._producer = Writer(self._properties, on_error=self._error)
        self._broken = False
