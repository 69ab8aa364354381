"""Copying a topic of events into one that is keyed by account, each message exactly once.

What was copied and how far the source was read are committed in one Kafka transaction: a copy that is killed, or run
again, goes on where it was. Messages of one partition keep their order; several partitions are merged by timestamps,
but for what comes to them at once while it follows.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from monitor.core.decode import Headers, account_of, decode, entries_of
from monitor.core.events import Event
from monitor.core.readers import TICK
from monitor.errors import OutOfReach, WrongInput
from monitor.inputs.reader import describe, first_at, logger
from monitor.producer import Writer

TIMEOUT_S: Final = 30.0
COMMIT_EVERY_S: Final = 0.5
COMMIT_MESSAGES: Final = 5_000
# Of one partition, read ahead of the others; beyond it the partition waits.
AHEAD_BYTES_MAX: Final = 4 << 20
# A transaction that a killed copy leaves open holds readers up for so long; the next copy ends it at once.
TRANSACTION_TIMEOUT_MS: Final = 30_000
MESSAGE_BYTES_MAX: Final = 100 << 20

COPIED: Final = "copied whole"
SPLIT: Final = "taken apart: entries of several accounts"
HOMELESS: Final = "no account found: own key, partition as before"
TICKS: Final = "tick of ours: not copied"
REASONS: Final = (COPIED, SPLIT, HOMELESS, TICKS)


_FENCED: Final = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)

T = TypeVar("T")


class Piece(NamedTuple):
    """What is written for a message, or for one entry of it; ``account`` None: it does not say whose it is."""

    account: str | None
    value: bytes | None


def pieces_of(value: bytes | None, headers: Headers | None) -> list[Piece]:
    """What becomes of a message: itself, where its entries are of one account; else one piece an entry, as the webhook
    bridge writes them. A tick becomes nothing: it is about the partition it was written to.
    """
    if value is None:
        return [Piece(None, None)]
    if headers and any(name.lower() == "ce_type" for name, _ in headers):
        return [Piece(account_of(value, headers), value)]
    if _is_tick(value):
        return []
    pieces = [Piece(account_of(entry), entry) for entry in entries_of(value)]
    accounts = {piece.account for piece in pieces if piece.account is not None}
    return pieces if len(accounts) > 1 else [Piece(next(iter(accounts), None), value)]


def _is_tick(value: bytes) -> bool:
    if TICK.encode() not in value:
        return False
    return all(isinstance(entry, Event) and entry.type == TICK for entry in decode(value))


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that our producers, as Java's, choose for a key: murmur2, without its sign."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) - len(key) % 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


class Merge(Generic[T]):
    """Puts what several partitions hold in order of time, as far as it is known: a partition that is not at its end and
    of which nothing is there yet holds the others back. The order within a partition stays, whatever its timestamps.
    """

    def __init__(self, partitions: Iterable[int]) -> None:
        self._waiting: dict[int, deque[tuple[int, T]]] = {partition: deque() for partition in partitions}
        self._heads: list[tuple[int, int]] = []
        self._unknown = set(self._waiting)
        self._ended: set[int] = set()

    def put(self, partition: int, timestamp_ms: int, what: T) -> None:
        """Take in the next of a partition."""
        self._ended.discard(partition)
        waiting = self._waiting[partition]
        if not waiting:
            heapq.heappush(self._heads, (timestamp_ms, partition))
            self._unknown.discard(partition)
        waiting.append((timestamp_ms, what))

    def end(self, partition: int) -> None:
        """All that the partition holds for now has been put."""
        self._ended.add(partition)
        self._unknown.discard(partition)

    def take(self) -> tuple[int, T] | None:
        """The earliest, and its partition; None while it is not known."""
        if self._unknown or not self._heads:
            return None
        _, partition = heapq.heappop(self._heads)
        waiting = self._waiting[partition]
        _, what = waiting.popleft()
        if waiting:
            heapq.heappush(self._heads, (waiting[0][0], partition))
        elif partition not in self._ended:
            self._unknown.add(partition)
        return partition, what

    @property
    def empty(self) -> bool:
        """Whether all that was put has been taken."""
        return not self._heads


def _weight(message: Message) -> int:
    """About what a message takes while it waits, in bytes."""
    return len(message.value() or b"") + 200


class Whereabouts:
    """Where the messages of one account were found, and how many are written for it."""

    __slots__ = ("found_in", "well_keyed", "written")

    def __init__(self) -> None:
        self.written = 0
        self.found_in: set[int] = set()
        self.well_keyed = 0
        """Of those written, how many had the account for their key already."""


class Report:
    """What was read, and what became of it. It grows with the number of accounts."""

    def __init__(self) -> None:
        self.read = 0
        self.written = 0
        self.reasons: Counter[str] = Counter()
        """Of the messages read: how many, by each of ``REASONS``."""
        self.accounts: dict[str, Whereabouts] = {}
        self.gone = 0
        """Offsets that the source had deleted before they were copied."""

    def take_in(self, partition: int, key: bytes | None, pieces: list[Piece]) -> None:
        """Count one message."""
        self.read += 1
        self.written += len(pieces)
        homeless = len(pieces) == 1 and pieces[0].account is None
        reason = TICKS if not pieces else SPLIT if len(pieces) > 1 else HOMELESS if homeless else COPIED
        self.reasons[reason] += 1
        for account, _ in pieces:
            if account is not None:
                seen = self.accounts.setdefault(account, Whereabouts())
                seen.written += 1
                seen.found_in.add(partition)
                seen.well_keyed += key == account.encode()


class Bounds(NamedTuple):
    """The stretch of a partition that is copied; ``end`` None: there is none."""

    start: int
    end: int | None


class Copy:
    """One copy from ``source`` to ``target``, whose partitions are counted; None: nothing is written (a dry run).

    ``consuming`` and ``producing`` are librdkafka's properties for a reader and for a producer of ours, ``name`` is the
    group that remembers how far the source was copied, and the transactional id. ``since_ms`` and ``until_ms`` bound
    the stretch by Kafka's timestamps; of a partition that was begun already, the beginning is where it was left, but
    with ``anew``. ``follow``: there is no end. Raises OutOfReach, and WrongInput for a source that is not there.
    """

    def __init__(
        self,
        consuming: Mapping[str, object],
        producing: Mapping[str, object] | None,
        *,
        name: str,
        source: str,
        target: str,
        target_partitions: int,
        since_ms: int | None = None,
        until_ms: int | None = None,
        anew: bool = False,
        follow: bool = False,
    ) -> None:
        self.report = Report()
        self._source = source
        self._target = target
        self._target_partitions = target_partitions
        self._follow = follow
        self._refused: tuple[str, KafkaError] | None = None
        properties: dict[str, Any] = {**consuming, "group.id": name}
        self._consumer = Consumer(properties, logger=logger)
        self._writer = None if producing is None else self._open(producing, name)
        try:
            self._bounds = self._ask(since_ms, until_ms, anew=anew or producing is None)
        except KafkaException as failure:
            raise self._reach(failure) from failure
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()
        self._ahead: Counter[int] = Counter()  # Bytes of each partition that are read and not yet passed on.
        self._begun = False
        self._in_transaction = 0

    @property
    def messages(self) -> int | None:
        """How many offsets lie in the stretch; None: it has no end."""
        if self._follow:
            return None
        return sum(max(0, end - start) for start, end in self._bounds.values() if end is not None)

    def run(self, stopped: Callable[[], bool], progress: Callable[[int], None] = lambda _: None) -> bool:
        """Copy until the end, or until ``stopped`` says so; return whether the end was reached.

        ``progress`` is told how many messages were read. Raises OutOfReach, and then what was not committed is not in
        the target either; WrongInput where the target refuses a message for good.
        """
        left = {p: end for p, (start, end) in self._bounds.items() if end is None or start < end}
        merge = Merge[Message](left)
        self._consumer.assign([TopicPartition(self._source, p, self._bounds[p].start) for p in left])
        try:
            committed = heard = time.monotonic()
            while (left or not merge.empty) and not stopped():
                batch = self._consumer.consume(2000, 0.1) if left else []
                heard = time.monotonic() if batch or self._follow else heard
                if left and time.monotonic() - heard > TIMEOUT_S:
                    raise OutOfReach(f"{self._source}: the broker has fallen silent")
                for message in batch:
                    self._take_in(merge, left, message)
                while (taken := merge.take()) is not None:
                    self._pass_on(*taken)
                    if self._in_transaction >= COMMIT_MESSAGES:
                        self._commit()
                        progress(self.report.read)
                if time.monotonic() - committed > COMMIT_EVERY_S:
                    self._commit()
                    committed = time.monotonic()
                    progress(self.report.read)
            self._commit()
        except KafkaException as failure:
            raise self._reach(failure) from failure
        return not left and merge.empty

    def close(self) -> None:
        """Let go of the broker. What is in an open transaction is given up."""
        if self._writer is not None:
            with contextlib.suppress(KafkaException):  # Else it ends by itself, or by the next copy.
                if self._begun:
                    self._writer.abort_transaction(5)
            with contextlib.suppress(KafkaException):  # One that was fenced off is asked nothing any more.
                self._writer.purge()
                self._writer.flush(1)
        self._consumer.close()

    # Reading.

    def _ask(self, since_ms: int | None, until_ms: int | None, *, anew: bool) -> dict[int, Bounds]:
        try:
            _, partitions = describe(self._consumer, self._source, TIMEOUT_S)
        except KafkaException as failure:
            if failure.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise WrongInput(f"--from {self._source}: there is no such topic") from None
            raise
        bounds = {}
        for partition in partitions:
            place = TopicPartition(self._source, partition)
            low, high = self._consumer.get_watermark_offsets(place, TIMEOUT_S)
            start = self._at(partition, since_ms, low, high)
            [known] = [place] if anew else self._consumer.committed([place], TIMEOUT_S)
            if known.error is not None:
                raise KafkaException(known.error)
            if known.offset >= 0:
                start = known.offset
                self.report.gone += max(0, low - start)
            end = high if until_ms is None else self._at(partition, until_ms, high, high)
            bounds[partition] = Bounds(max(start, low), None if self._follow else end)
        return bounds

    def _at(self, partition: int, timestamp_ms: int | None, otherwise: int, high: int) -> int:
        if timestamp_ms is None:
            return otherwise
        offset = first_at(self._consumer, TopicPartition(self._source, partition, timestamp_ms), TIMEOUT_S)
        if offset is None:
            raise WrongInput("--since, --until: this broker can't be asked for offsets by time")
        return offset if offset >= 0 else high

    def _take_in(self, merge: Merge[Message], left: dict[int, int | None], message: Message) -> None:
        partition, error = message.partition(), message.error()
        if partition is None or partition not in left:
            return
        end = left[partition]
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            merge.end(partition)
            if end is not None:
                del left[partition]
            return
        offset = message.offset()
        assert offset is not None
        if end is None or offset < end:
            merge.put(partition, message.timestamp()[1], message)
            self._ahead[partition] += _weight(message)
            if self._ahead[partition] > AHEAD_BYTES_MAX and partition not in self._paused:
                self._paused.add(partition)
                self._consumer.pause([TopicPartition(self._source, partition)])
        if end is not None and offset >= end - 1:
            del left[partition]
            merge.end(partition)

    def _passed(self, partition: int, message: Message) -> None:
        offset = message.offset()
        assert offset is not None
        self._next[partition] = offset + 1
        self._ahead[partition] -= _weight(message)
        if partition in self._paused and self._ahead[partition] < AHEAD_BYTES_MAX // 2:
            self._paused.discard(partition)
            self._consumer.resume([TopicPartition(self._source, partition)])

    # Writing.

    @staticmethod
    def _open(producing: Mapping[str, object], name: str) -> Writer:
        ours = {
            "transactional.id": name,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "message.max.bytes": MESSAGE_BYTES_MAX,
        }
        writer = Writer({**producing, **ours}, on_error=lambda _: None)  # Whatever is asked of it next says so.
        try:
            writer.init_transactions(TIMEOUT_S)
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                raise WrongInput(f"the user may not write as transactional id {name}. Grant Write on it") from None
            raise OutOfReach(f"no transaction can be begun: {error.name()}") from failure
        return writer

    def _pass_on(self, partition: int, message: Message) -> None:
        """Write what becomes of one message."""
        headers: Any = message.headers()
        key: Any = message.key()
        pieces = pieces_of(message.value(), headers)
        self.report.take_in(partition, key, pieces)
        self._passed(partition, message)
        self._in_transaction += 1
        if self._writer is None:
            return
        if not self._begun:
            self._writer.begin_transaction()
            self._begun = True
        at = f"{partition}:{message.offset()}"
        kind, timestamp_ms = message.timestamp()
        for account, value in pieces:
            self._produce(
                at,
                value=value,
                key=key if account is None else account.encode(),
                partition=partition % self._target_partitions if account is None else -1,
                timestamp=timestamp_ms if kind else 0,
                headers=headers,
            )

    def _produce(self, at: str, **message: Any) -> None:
        def told(error: KafkaError | None, _: Message) -> None:
            if error is not None and self._refused is None:
                self._refused = at, error

        assert self._writer is not None
        while True:
            try:
                self._writer.produce(self._target, on_delivery=told, **message)
            except BufferError:
                self._writer.poll(0.1)
            else:
                self._writer.poll(0)
                return

    def _commit(self) -> None:
        """Make what was written since the last time hold, together with how far the source was read."""
        self._in_transaction = 0
        if self._writer is None or not self._begun:
            return
        self._writer.flush(TIMEOUT_S)  # It tells what was refused; the transaction itself only that something was.
        read = [TopicPartition(self._source, partition, offset) for partition, offset in self._next.items()]
        self._writer.send_offsets_to_transaction(read, self._consumer.consumer_group_metadata(), TIMEOUT_S)
        while True:
            try:
                self._writer.commit_transaction(TIMEOUT_S)
            except KafkaException as failure:
                if not failure.args[0].retriable():
                    raise
            else:
                self._begun = False
                self._next.clear()
                return

    def _reach(self, failure: KafkaException) -> OutOfReach | WrongInput:
        """What a failure of the client means for whoever started the copy."""
        error = failure.args[0]
        if error.code() == KafkaError._FATAL and self._writer is not None:
            try:  # Where it fails between two calls, only those of transactions say what of.
                self._writer.begin_transaction()
            except KafkaException as named:
                error = named.args[0]
        if error.code() in _FENCED:
            return WrongInput(
                f"another rekey from {self._source} to {self._target} has begun: it goes on, this one ends"
            )
        if self._refused is not None:
            at, refusal = self._refused
            if refusal.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                remedy = "Let it take what the source took: max.message.bytes"
                # Brokers refuse a batch whole, and do not say which of it is too large.
                return WrongInput(
                    f"{self._target} refuses a message of {self._source} as too large, {at} or one soon after it. "
                    f"{remedy}"
                )
            if refusal.code() in (KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_RECORD):
                remedy = "Set message.timestamp.before.max.ms, or message.timestamp.type=LogAppendTime"
                return WrongInput(f"{self._target} refuses message {at} of {self._source}: too old. {remedy}")
            return OutOfReach(f"{self._target}: message {at} of {self._source} was not taken: {refusal.name()}")
        return OutOfReach(f"{self._source}: {error.name()}")
