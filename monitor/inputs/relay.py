"""A producer on the asyncio loop: whoever hands messages over is told when the broker has all of them, or has not.

What is on its way has a bound, in messages and in bytes; beyond it nothing is taken. Everything here runs on the loop's
thread, but for librdkafka's own threads, which do the sending.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from monitor.errors import WrongInput
from monitor.producer import Writer, failed_for_good

log = structlog.get_logger(__name__)

MESSAGES_MAX: Final = 120_000
BYTES_MAX: Final = 64 << 20
# Of messages handed over in one go; then others have their turn on the loop: about 2 ms.
IN_A_GO: Final = 500
# How often acknowledgements are asked for while something is on its way, and how often otherwise (errors come so).
POLL_S: Final = 0.002
IDLE_S: Final = 0.25
SECRETS_LOOK_S: Final = 2.0

Delivered = Literal["acknowledged", "too_large", "failed"]
Properties = Callable[[], Mapping[str, object]]


class FullError(Exception):
    """As much is on its way as may be; nothing was taken."""


class _Message(NamedTuple):
    """What is handed over: it goes into ``partition``, or where its key says."""

    topic: str
    key: str
    value: bytes
    partition: int | None


class _Batch:
    """Messages handed over together; ``left`` are those of which nothing is known yet."""

    __slots__ = ("done", "failed", "left", "too_large")

    def __init__(self, done: asyncio.Future[Delivered]) -> None:
        self.done = done
        self.left = 1  # Itself, until all are handed over.
        self.failed = False
        self.too_large = False

    def settle(self) -> None:
        """One less to wait for; the last one tells."""
        self.left -= 1
        if self.left == 0 and not self.done.done():
            # What failed may go well next time; what is too large never will.
            self.done.set_result("failed" if self.failed else "too_large" if self.too_large else "acknowledged")


class _Client:
    """One librdkafka producer and what is on its way in it."""

    def __init__(self, properties: Mapping[str, object], on_error: Callable[[KafkaError], None]) -> None:
        self.producer = Writer(properties, on_error=on_error)
        self.outstanding = 0


class Relay:
    """Produces. ``start`` and ``stop`` belong to the loop it runs on.

    ``properties`` are asked for now and then: when a secret's file has another content, a new producer takes over, and
    what the old one still has on its way comes to its own end. ``turned`` is called each time the loop has turned.
    """

    def __init__(
        self,
        properties: Properties,
        *,
        deliver_within_s: float,
        on_error: Callable[[KafkaError], None] = lambda _: None,
        turned: Callable[[], None] = lambda: None,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._properties = properties
        self._on_error = on_error
        self._turned = turned
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        # One that is given up late would come in beside its own repetition; one given up is told as failed at once.
        self._ours: dict[str, object] = {
            "message.timeout.ms": round(deliver_within_s * 1000),
            "queue.buffering.max.messages": 2 * messages_max,
            "queue.buffering.max.kbytes": 2 * bytes_max // 1024 + 1,
        }
        self.outstanding = 0
        """Messages on their way."""
        self.bytes = 0
        """What their values take."""
        self._given = self._read()
        self._client = _Client({**self._given, **self._ours}, self._error)
        self._single: _Client | None = None
        self._leaving: list[_Client] = []
        self._waiting: list[tuple[float, int, _Batch]] = []  # A heap, the first to be given up in front.
        self._numbers = itertools.count()
        self._broken = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to ask for acknowledgements, and to look after secrets."""
        self._tasks = [asyncio.create_task(self._poll()), asyncio.create_task(self._look_at_secrets())]

    async def reaches(self, topic: str, within_s: float) -> bool:
        """Whether a broker answers and knows the topic."""
        try:
            seen = await asyncio.to_thread(self._client.producer.list_topics, topic, within_s)
        except KafkaException:
            return False
        return seen.topics[topic].error is None

    async def stop(self, for_s: float) -> None:
        """Wait until nothing is on its way, at most so long, and give up the rest: each is told."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), for_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients():
            client.producer.purge()
            client.producer.poll(0)

    async def send(
        self, messages: Iterable[tuple[str, str, bytes]], *, until: float, partition: int | None = None
    ) -> Delivered:
        """Hand over messages (topic, key, value); return once each is acknowledged, or is known not to be.

        They go where their keys say, or all into ``partition``.
        At ``until`` (of the loop's clock) what is not acknowledged counts as failed, though it may still come to be.
        Raises FullError where too much is on its way already; what of them was handed over until then still goes its
        way.
        """
        if self._broken:
            self._replace("producer_failed")
        client = self._client
        loop = asyncio.get_running_loop()
        batch = _Batch(loop.create_future())
        heapq.heappush(self._waiting, (until, next(self._numbers), batch))
        handed = 0
        try:
            for topic, key, value in messages:
                if self.outstanding >= self._messages_max or self.bytes + len(value) > self._bytes_max:
                    raise FullError
                self._hand_over(client, batch, _Message(topic, key, value, partition))
                handed += 1
                if handed % IN_A_GO == 0:
                    self._wake.set()
                    await asyncio.sleep(0)
                    if loop.time() > until:
                        batch.failed = True
                        break
        finally:
            batch.settle()
            self._wake.set()
        return await batch.done

    def _hand_over(self, client: _Client, batch: _Batch, message: _Message) -> None:
        size = len(message.value)

        def delivered(error: KafkaError | None, _: Message) -> None:
            client.outstanding -= 1
            self.outstanding -= 1
            self.bytes -= size
            if not self.outstanding:
                self._idle.set()
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and client is not self._single:
                self._hand_over_singly(batch, message)
            elif error is not None:
                self._refused(client, batch, error)
            batch.settle()

        try:
            client.producer.produce(
                message.topic,
                message.value,
                message.key,
                partition=-1 if message.partition is None else message.partition,  # -1: as the partitioner says.
                on_delivery=delivered,
            )
        except BufferError:
            raise FullError from None
        except KafkaException as failure:
            self._refused(client, batch, failure.args[0])
            return
        batch.left += 1
        client.outstanding += 1
        self.outstanding += 1
        self._idle.clear()
        self.bytes += size

    def _hand_over_singly(self, batch: _Batch, message: _Message) -> None:
        """Hand over a message that the broker refused with all that was sent in one piece with it: perhaps one of the
        others is too large.
        """
        try:
            if self._single is None:
                self._single = _Client({**self._given, **self._ours, "batch.num.messages": 1}, self._error)
            self._hand_over(self._single, batch, message)
        except (FullError, KafkaException):
            batch.failed = True

    def _clients(self) -> list[_Client]:
        return [*self._leaving, self._client, *([self._single] if self._single else [])]

    def _refused(self, client: _Client, batch: _Batch, error: KafkaError) -> None:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            batch.too_large = True
            return
        batch.failed = True
        if client in (self._client, self._single):
            self._look_whether_broken(error)

    def _look_whether_broken(self, error: KafkaError) -> None:
        self._broken = self._broken or failed_for_good(error)  # Then another takes its place.

    def _error(self, error: KafkaError) -> None:
        self._look_whether_broken(error)
        self._on_error(error)

    async def _poll(self) -> None:
        while True:
            if not self.outstanding:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE_S)
            for client in self._clients():
                client.producer.poll(0)
            for client in [client for client in self._leaving if not client.outstanding]:
                self._leaving.remove(client)
                # In a thread: it waits for librdkafka's own.
                await asyncio.to_thread(client.producer.close)
            self._give_up()
            self._turned()
            await asyncio.sleep(POLL_S)

    def _give_up(self) -> None:
        """Tell those whose time has come. To look at the first costs next to nothing beside a timer for each."""
        now = asyncio.get_running_loop().time()
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][2].done.done()):
            batch = heapq.heappop(self._waiting)[2]
            if not batch.done.done():
                batch.done.set_result("failed")

    async def _look_at_secrets(self) -> None:
        while True:
            await asyncio.sleep(SECRETS_LOOK_S)
            try:
                given = self._read()
            except WrongInput:
                log.warning("kafka_secret_not_readable")  # In the midst of being changed, or gone: what was, counts on.
                continue
            if given != self._given:
                self._given = given
                self._replace("kafka_secret_changed")

    def _read(self) -> dict[str, object]:
        # A broker that is back is noticed soon: while it is not, every event is refused.
        return {"reconnect.backoff.max.ms": 1000, **self._properties()}

    def _replace(self, why: str) -> None:
        """Put a new producer in place. What the old one has on its way is acknowledged, or given up in its time."""
        try:
            client = _Client({**self._given, **self._ours}, self._error)
        except KafkaException as failure:
            log.error("producer_not_replaced", why=why, kind=failure.args[0].name())
            return
        log.info("producer_replaced", why=why)
        self._leaving += [self._client, *([self._single] if self._single else [])]
        self._client, self._single = client, None
        self._broken = False
