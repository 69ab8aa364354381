"""The events topic, and the life of a partition: assigned, taken over (`takeover`), judged, committed, given up.

One thread runs it all. The group's consumer reads only what is judged at once; whatever has to be read again (a
replay, the verdicts published, the account settings) comes through a second consumer in slices between two batches, so
that a partition that stays put does not wait for one that arrives.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint
from monitor.errors import OutOfReach, OutputUnavailable
from monitor.inputs.checkpoint import encode_metadata
from monitor.inputs.effects import Effects
from monitor.inputs.held import Held, Stage
from monitor.inputs.protocols import Fold, Outputs, Watch
from monitor.inputs.reader import (
    Questions,
    Reader,
    SignIn,
    headers_of,
    kind_of,
    logger,
    reader_properties,
    shared_properties,
)
from monitor.inputs.settings_reader import SettingsReader
from monitor.inputs.snapshots import Snapshots
from monitor.inputs.sometimes import Sometimes
from monitor.inputs.takeover import SLICE_S, Takeovers, Times, Topics

log = structlog.get_logger(__name__)

T = TypeVar("T")

TICK_TYPE: Final = "dev.recording-monitor.tick"

BATCH_MESSAGES_MAX: Final = 2000
SLICE_MESSAGES_MAX: Final = 2000
SWEEP_CONVERSATIONS: Final = 4  # Judged in a go: a millisecond.
SWEEP_S: Final = 0.02  # In each turn of the loop, for all partitions.
LET_GO_S: Final = 0.005  # The same.
_DONE: Final = object()
SWEEP_OUTSTANDING_MAX: Final = 5_000  # With more than that on its way, what is swept has time.
COMMIT_EVERY_S: Final = 1.0
TICK_EVERY_S: Final = 10.0
REPORT_EVERY_S: Final = 1.0
WAKE_EVERY_S: Final = 0.05
WAKE_TIMEOUT_S: Final = 0.05
IDLE_POLL_S: Final = 0.2
BUSY_POLL_S: Final = 0.005
FINISH_S: Final = 4.0
CLOSE_S: Final = 2.0
RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A commit may be refused once because a rebalance was under way, and the partition still be ours when it is over.
REFUSALS_MAX: Final = 2

_NO_END: Final = 1 << 62

_REFUSED: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
    }
)

_FIXED: Final[dict[str, object]] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
}
_REFUSED_BY_CONSUMER_PROTOCOL: Final = ("session.timeout.ms", "partition.assignment.strategy")


def member_properties(client: Mapping[str, object], group_id: str) -> dict[str, object]:
    """What librdkafka is told for the group's consumer; ``client`` (the address and what the user set) goes first.

    Only what the promises rest on can't be set: there is one offset commit, ours, and no reset but by decision.
    ``fetch.queue.backoff.ms``: with the default 1000 a full queue is empty before the next fetch; with 2 the client's
    thread looks five hundred times a second whether it still is full.
    ``fetch.wait.max.ms``: a restored partition is read from when the fetch under way has come back (default 500).
    ``queued.max.messages.kbytes``: what is queued is judged before what comes, so the queue bounds a live message's
    wait while another partition catches up (4 MiB: a third of a second of judging), and it is memory for every client.
    """
    defaults: dict[str, object] = {
        "fetch.queue.backoff.ms": 20,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 4096,
        "session.timeout.ms": 15000,
        "partition.assignment.strategy": "cooperative-sticky",
    }
    if str(client.get("group.protocol")).lower() == "consumer":
        for key in _REFUSED_BY_CONSUMER_PROTOCOL:
            del defaults[key]
    return {**defaults, **shared_properties(client, consumes=True), **_FIXED, "group.id": group_id}


def hands_over_incrementally(properties: Mapping[str, object]) -> bool:
    """Whether rebalances name what comes and goes (cooperative), or take everything and give it anew (eager)."""
    if str(properties.get("group.protocol")).lower() == "consumer":
        return True
    return "cooperative" in str(properties.get("partition.assignment.strategy", ""))


def render_tick(partition: int, *, by: str, sent_at: datetime) -> bytes:
    """Our own event that moves log time in silence and proves the way through."""
    at = sent_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": TICK_TYPE,
            "source": "recording-monitor",
            "id": f"tick:{partition}:{by}:{at}",
            "time": at,
            "datacontenttype": "application/json",
            "data": {"sent_at": at, "by": by},
        }
    )


class Member:
    """A member of the consumer group, and the owner of the partitions it is given.

    ``run`` is the thread's whole life; ``stop`` may be called from any thread or signal handler.
    """

    def __init__(
        self,
        *,
        client: Mapping[str, object],
        group_id: str,
        topics: Topics,
        times: Times,
        topic_id: Callable[[str], str],
        build: Callable[[int, Checkpoint, frozenset[int]], Fold],
        ledger: Callable[[Callable[[str, int], bytes]], Ledger],
        take_setting: Callable[[str, bytes | None], Iterable[str]],
        outputs: Outputs,
        watch: Watch,
        between_batches: Callable[[bool], None],
        tick_every_s: float = TICK_EVERY_S,
        commit_every_s: float = COMMIT_EVERY_S,
        snapshots: Snapshots | None = None,
    ) -> None:
        """``client``: librdkafka properties, with the address. ``topic_id``: what names a topic for good (its name
        where the broker can't tell); it may raise OutOfReach. ``build`` makes the fold of a partition,
        ``ledger`` its ledger, given what reads one of the partition's verdicts back.
        ``take_setting`` takes one message of the account settings and returns the accounts it concerns.
        ``between_batches`` is called once a turn, with whether nothing was to be done.
        """
        properties = member_properties(client, group_id)
        self._incremental = hands_over_incrementally(properties)
        self._topics = topics
        self._take_setting = take_setting
        self._outputs = outputs
        self._watch = watch
        self._between_batches = between_batches
        self._tick_every_s = tick_every_s
        self._commit_every_s = commit_every_s
        self._snapshots = snapshots
        self._name = f"{platform.node() or 'monitor'}/{os.getpid()}"
        self._stopping = threading.Event()
        self._changes: queue.SimpleQueue[Callable[[Fold], None]] = queue.SimpleQueue()
        self._asked_of: queue.SimpleQueue[tuple[int, Callable[[Fold | None], None]]] = queue.SimpleQueue()
        self._held: dict[int, Held] = {}
        self._leaving: deque[Iterator[None]] = deque()  # What was held of partitions, to be freed.
        self._joined = False
        self._report_after = 0.0
        self._sometimes = Sometimes()
        self._consumer = Consumer(
            {**properties, "error_cb": self._client_error, "on_commit": self._commit_ended}, logger=logger
        )
        self._sign_in = SignIn()
        reading = reader_properties(client, group_id)
        self._reader = Reader(reading, on_error=self._client_error)
        self._questions = Questions(reading)
        self._askers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka-questions")
        self._effects = Effects(outputs, watch, self._sometimes, self.drop)
        self._takeovers = Takeovers(
            self,
            self._reader,
            self._questions,
            self._askers,
            topics=topics,
            times=times,
            topic_id=topic_id,
            build=build,
            ledger=ledger,
            snapshots=snapshots,
            effects=self._effects,
            watch=watch,
        )
        self._settings = SettingsReader(
            self._reader,
            self._questions,
            self._askers,
            topic=topics.account_settings,
            take=self._take_in_setting,
            sometimes=self._sometimes,
        )

    # What others may ask, from any thread.

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next connection on."""
        self._sign_in.change(username, password)
        self._reader.change_password(username, password)
        self._questions.change_password(username, password)

    def stop(self) -> None:
        """End ``run`` soon: the batch at hand is finished, its effects are awaited, and the position is committed."""
        self._stopping.set()

    def for_each_fold(self, change: Callable[[Fold], None]) -> None:
        """Have ``change`` called with each fold between two batches; what is built later, ``build`` gets right."""
        self._changes.put(change)

    def ask(self, partition: int, question: Callable[[Fold], T]) -> Future[T]:
        """Have the fold of a partition asked between two batches, on the reading thread. It must not be changed.

        The answer is OutOfReach where the partition is not ours, or not restored.
        """
        answer: Future[T] = Future()
        self._asked_of.put((partition, partial(_answer, question, answer)))
        return answer

    @property
    def settings_read(self) -> bool:
        """Whether the account settings were read to their end."""
        return self._settings.read

    @property
    def partitions(self) -> int | None:
        """How many the events topic has; None before the first takeover."""
        return self._takeovers.partitions

    def restoring(self) -> str | None:
        """Why the assignment, possibly empty, is not restored yet; None once it is."""
        if not self._joined:
            return "none from the consumer group yet"
        left = sorted(number for number, held in list(self._held.items()) if held.stage is not Stage.LIVE)
        return f"partitions not restored yet: {', '.join(map(str, left))}" if left else None

    def rebuilding(self) -> bool:
        """Whether a partition is being rebuilt, so that whoever has the same core should leave it to us."""
        return any(held.stage is Stage.REBUILDING for held in list(self._held.values()))

    # The loop.

    def run(self) -> None:
        """Read, judge, publish and commit until ``stop``. Raises KafkaException on what the client can't survive."""
        self._consumer.subscribe(
            [self._topics.events], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        busy = False
        try:
            while not self._stopping.is_set():
                busy = self._turn(busy=busy)
        finally:
            self._end()

    def _turn(self, *, busy: bool) -> bool:
        self._sign_in.hand_on(self._consumer)
        first = self._consumer.poll(self._patience(busy=busy))
        self._watch.polled()
        if first is not None:
            self._take([first, *self._consumer.consume(BATCH_MESSAGES_MAX - 1, 0)])
        self._change()
        self._answer()
        more = self._reader.read(SLICE_MESSAGES_MAX, SLICE_S)
        for held in self._held.values():
            if held.stage is Stage.REBUILDING and held.fold is not None:
                self._watch.folded(held.partition, held.fold, replayed=True)
        self._outputs.poll()
        self._settings.turn()
        self._takeovers.turn(self._held.values())
        for held in list(self._held.values()):
            self._advance(held)
        swept = self._sweep()
        self._let_go()
        self._commit()
        self._report()
        self._between_batches(first is None and not more and not swept)
        return more or swept

    def _sweep(self) -> bool:
        """Have judged, for a moment, what is to be judged again although nothing of it has come; whether any was."""
        if self._outputs.outstanding > SWEEP_OUTSTANDING_MAX:
            return False
        left = [held for held in self._held.values() if held.stage is Stage.LIVE and held.fold and held.fold.sweeping]
        swept, now = bool(left), time.monotonic()
        until = now + SWEEP_S
        while left and now < until:
            held = left.pop(0)
            held.swept_since = held.swept_since or now
            if self._sweep_one(held):
                left.append(held)
            now = time.monotonic()
        return swept

    def _sweep_one(self, held: Held) -> bool:
        """Have a few conversations of one partition judged; whether there are more."""
        fold = held.fold
        assert fold is not None
        try:
            told = fold.sweep(SWEEP_CONVERSATIONS)
            self._effects.emit(held, held.next_offset - 1, told, fold.log_time_ms, swept=True)
        except OutputUnavailable as why:
            self.drop(held, str(why))
            return False
        except Exception as bug:  # No message is at fault: a rebuild would sweep, and raise, again.
            self._say_raised(held, held.next_offset - 1, bug)
        if fold.sweeping:
            return True
        assert held.swept_since is not None
        seconds = round(time.monotonic() - held.swept_since, 3)
        log.info("open_conversations_judged_again", partition=held.partition, seconds=seconds)
        held.swept_since = None
        return False

    def _change(self) -> None:
        while True:
            try:
                change = self._changes.get_nowait()
            except queue.Empty:
                return
            for held in self._held.values():
                if held.fold is not None:
                    change(held.fold)

    def _take_in_setting(self, key: str, value: bytes | None) -> None:
        for account in self._take_setting(key, value):
            for held in self._held.values():
                if held.fold is not None:
                    held.fold.change_settings(account)

    def _answer(self) -> None:
        while True:
            try:
                partition, answer = self._asked_of.get_nowait()
            except queue.Empty:
                return
            held = self._live(partition)
            answer(None if held is None else held.fold)

    def _patience(self, *, busy: bool) -> float:
        """How long the loop may wait for a live message. An acknowledgement or a rebuild must not wait for one."""
        if busy:
            return 0.0
        waits = any(h.stage is not Stage.LIVE or not h.heard for h in self._held.values())
        if waits or self._leaving or self._outputs.outstanding:
            return BUSY_POLL_S
        return IDLE_POLL_S

    def _take(self, batch: list[Message]) -> None:
        runs = groupby(batch, Message.partition)
        fed = {partition for partition, run in runs if self._take_run(partition, run)}
        for partition in fed:
            held = self._live(partition)
            if held is not None and held.fold is not None:
                self._watch.folded(held.partition, held.fold, replayed=False)

    def _take_run(self, partition: int | None, run: Iterator[Message]) -> bool:
        """Take in messages and errors of one partition, or errors of none; whether any message was fed."""
        fed = False
        while (held := self._live(partition)) is not None:
            before = held.next_offset
            error = self.feed(held, run, before)
            if held.next_offset != before:
                held.heard = fed = True
                held.at_end = False
            if error is None:
                break
            self._read_error(partition, error)
        # Of a partition that is not read from, or not any more, only errors are news: the messages were fetched before
        # a pause or a seek, and come again when it is their turn.
        for message in run:
            error = message.error()
            if error is not None:
                self._read_error(partition, error)
        return fed

    def _live(self, partition: int | None) -> Held | None:
        held = self._held.get(partition) if partition is not None else None
        return held if held is not None and held.stage is Stage.LIVE else None

    def feed(self, held: Held, run: Iterator[Message], offset: int, end: int = _NO_END) -> KafkaError | None:
        """Feed messages of one partition from ``offset`` to before ``end``, live or replayed; send what they tell.

        Stops at an error among them and returns it; stops where the state had to be dropped. All that the process does
        a message outside the core is in this loop, so it asks nothing twice.
        """
        fold = held.fold
        assert fold is not None
        feed, skip = fold.feed, held.skip
        for message in run:
            error = message.error()
            if error is not None:
                return error
            here = message.offset()
            if here is None or not offset <= here < end:
                continue
            headers = headers_of(message) if message.headers() else None
            try:
                told = feed(here, message.timestamp()[1], message.value(), headers)
                if told:
                    self._effects.emit(held, here, told, fold.log_time_ms)
                if skip and here in skip and here >= held.committed_offset and here not in held.aside:
                    self._effects.quarantine(held, message)
            except OutputUnavailable as why:
                self.drop(held, str(why))
                return None
            except Exception as bug:
                self._raised(held, here, bug)
                return None
            held.next_offset = offset = here + 1
        return None

    def _raised(self, held: Held, offset: int, error: Exception) -> None:
        """The core raised: a bug of ours. The message is left out, and the state, which may be broken, is rebuilt."""
        self._say_raised(held, offset, error)
        held.raised += 1
        self.drop(held, "core_raised", skip=held.skip | {offset}, at_once=True)

    @staticmethod
    def _say_raised(held: Held, offset: int, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        # The error's own text may quote the message, and with it numbers and names: its type and place must do.
        log.error(
            "core_raised",
            position=f"{held.partition}:{offset}",
            error=type(error).__name__,
            where=f"{Path(where.filename).name}:{where.lineno}",
            below_checkpoint=offset < held.committed_offset,
        )

    # The life of a partition.

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """New partitions are paused where they stand; each is read from C once it is rebuilt."""
        self._joined = True
        where = [TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in partitions]
        if self._incremental:
            consumer.incremental_assign(where)
        else:
            consumer.assign(where)
        if where:
            consumer.pause(where)
        for tp in partitions:
            self._held[tp.partition] = Held(tp.partition, skip=frozenset(), aside=set(), attempt=0, not_before=0.0)
        numbers = sorted(tp.partition for tp in partitions)
        log.info("partitions_assigned", partitions=numbers)
        self._watch.rebalanced("assigned", numbers)
        self._watch.owned(len(self._held))

    def _start_fetching(self, partition: int) -> None:
        """Have the client fetch a partition again whose position it had to give up: until then it refuses another."""

        def stand(held: Held) -> TopicPartition:
            live = held.stage is Stage.LIVE and held.partition != partition
            return TopicPartition(self._topics.events, held.partition, held.next_offset if live else OFFSET_BEGINNING)

        if self._incremental:
            where = [stand(self._held[partition])]
            self._consumer.incremental_unassign(where)
            self._consumer.incremental_assign(where)
        else:  # All or none of it: the others go on where they are.
            where = [stand(held) for held in self._held.values()]
            self._consumer.assign(where)
        self._consumer.pause([at for at in where if at.offset == OFFSET_BEGINNING])

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Finish what was begun and commit it, while the partitions are still ours."""
        self._finish([tp.partition for tp in partitions], self._commit_and_wait)
        self._gone("revoked", partitions)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Somebody else has them already: nothing may be committed.

        What of ours is still on its way, the new owner's ledger will weigh.
        """
        self._gone("lost", partitions)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _gone(self, event: str, partitions: list[TopicPartition]) -> None:
        numbers = sorted(tp.partition for tp in partitions)
        for number in numbers:
            held = self._held.pop(number, None)
            if held is not None:
                self._abandon(held)
                self._watch.forgotten(number)
        log.info("partitions_gone", how=event, partitions=numbers)
        self._watch.rebalanced(event, numbers)
        self._watch.owned(len(self._held))

    def _abandon(self, held: Held) -> None:
        held.dropped = True
        for restoring in (held.restoring, held.ledger_restoring):
            if restoring is not None:
                restoring.close()
        if held.snapshots is not None:
            held.snapshots.close()
        self._reader.leave(self._topics.events, held.partition)
        self._reader.leave(self._topics.verdicts, held.partition)
        self.free(held.fold)
        self.free(held.ledger)

    def free(self, state: Fold | Ledger | None) -> None:
        """Nothing is asked of it any more: it is freed by and by."""
        if state is not None:
            self._leaving.append(state.dismantle())

    def _let_go(self) -> None:
        """Free some of what is not ours any more: all at once, the partitions that stay would wait for seconds."""
        until = time.monotonic() + LET_GO_S
        while self._leaving and time.monotonic() < until:
            if next(self._leaving[0], _DONE) is _DONE:
                self._leaving.popleft()

    def drop(self, held: Held, why: str, *, skip: frozenset[int] | None = None, at_once: bool = False) -> None:
        """Forget the state of a partition that is still ours, and take it over anew."""
        if held.dropped or self._held.get(held.partition) is not held:
            return
        self._abandon(held)
        delay = 0.0 if at_once else RETRY_S[min(held.attempt, len(RETRY_S) - 1)]
        log.warning("partition_state_dropped", partition=held.partition, why=why, again_in_s=delay)
        self._held[held.partition] = Held(
            held.partition,
            skip=held.skip if skip is None else skip,
            aside=held.aside,
            attempt=held.attempt if at_once else held.attempt + 1,
            not_before=time.monotonic() + delay,
            raised=held.raised,
        )
        with contextlib.suppress(KafkaException):
            self._consumer.pause([TopicPartition(self._topics.events, held.partition)])

    def _advance(self, held: Held) -> None:
        """Do what is next in the life of a partition, if it is time."""
        if held.failed is not None and not held.dropped:
            self.drop(held, held.failed)
        elif held.stage is Stage.LIVE:
            self._attend(held)
        elif held.stage is Stage.WAITING and self._stopping.is_set():
            return  # Nothing is asked any more: whoever stops would wait for the answer.
        elif self._takeovers.advance(held) and self._settings.read:
            self._open(held)

    def _open(self, held: Held) -> None:
        fold, ledger = held.fold, held.ledger
        assert fold is not None
        assert ledger is not None
        at = TopicPartition(self._topics.events, held.partition, held.committed_offset)
        try:
            self._consumer.seek(at)
            held.gate = fold.open(ledger)
            self._consumer.resume([at])
        except KafkaException as failure:
            # Straight after an assignment the client may not be there yet.
            self._sometimes.warn("seek_refused", partition=held.partition, kind=kind_of(failure))
            return
        except OutputUnavailable as error:
            self.drop(held, str(error))
            return
        held.stage = Stage.LIVE
        held.attempt = 0
        if self._snapshots is not None:
            held.snapshots = self._snapshots.keep(self._takeovers.snapshots_of(held.partition), held.ledger_from)
        # A generation that was raised is committed at once: or the next takeover would raise it again.
        settled = held.resumed is None or not held.resumed.raise_generation
        held.commit_after = time.monotonic() + (self._commit_every_s if settled else 0.0)
        self._effects.write_back(held)
        if held.dropped:
            return
        self._tick(held)
        seconds = time.monotonic() - held.began
        log.info("partition_restored", partition=held.partition, seconds=round(seconds, 3), gate=held.gate)
        self._watch.restored(held.partition, seconds)

    def _attend(self, held: Held) -> None:
        """See to a live partition: its tick, its snapshot; and right after the resumption, that it is read from."""
        now = time.monotonic()
        if held.write_back or held.come_round:
            self._effects.write_back(held)
            if held.dropped:
                return
        if now >= held.tick_after:
            self._tick(held)
        if held.snapshots is not None and held.fold is not None and held.ledger is not None:
            held.snapshots.turn(held.fold, held.safe_offset, held.ledger, held.verdicts_to, held.pending)
        if not held.heard and now >= held.wake_after:
            held.wake_after = now + WAKE_EVERY_S
            self._wake(TopicPartition(self._topics.events, held.partition))

    def _wake(self, at: TopicPartition) -> None:
        """Ask the partition's leader anything at all.

        A resumed partition is fetched from when the client's thread for that broker next wakes up, which takes up to a
        second by itself and 4 ms by a request; but one that overtakes the resumption is no use.
        """
        with contextlib.suppress(KafkaException):
            self._consumer.get_watermark_offsets(at, WAKE_TIMEOUT_S)

    def _tick(self, held: Held) -> None:
        held.tick_after = time.monotonic() + self._tick_every_s
        now = datetime.now(UTC)
        sent_ms = int(now.timestamp() * 1000)

        def done(place: int | None) -> None:
            if place is not None:
                held.ticks_out.append((place, sent_ms))

        try:
            value = render_tick(held.partition, by=self._name, sent_at=now)
            self._outputs.tick(self._topics.events, held.partition, value, done=done)
        except OutputUnavailable as error:
            self._sometimes.warn("tick_not_sent", partition=held.partition, why=str(error))

    # Commits.

    def _commit(self) -> None:
        now = time.monotonic()
        for held in self._held.values():
            if held.stage is not Stage.LIVE or held.fold is None or held.sent is not None:
                continue
            if held.candidate is None:
                if now < held.commit_after or held.next_offset <= held.safe_offset:
                    continue
                # All of it as of now, after the last batch; it waits only for the effects of what is behind it.
                checkpoint = held.fold.checkpoint()
                if checkpoint.offset <= held.safe_offset:
                    held.commit_after = now + self._commit_every_s
                    continue  # The fold holds something back that it has still to tell.
                held.candidate = (held.pending.fence(), checkpoint)
            fence, checkpoint = held.candidate
            if held.pending.safe(fence):
                held.candidate = None
                held.commit_after = now + self._commit_every_s
                self._send_commit(held, checkpoint)

    def _send_commit(self, held: Held, checkpoint: Checkpoint) -> None:
        held.sent = checkpoint
        try:
            self._consumer.commit(offsets=[self._offset_of(held, checkpoint)], asynchronous=True)
        except KafkaException as failure:
            self._commit_result(held, failure.args[0])

    def _offset_of(self, held: Held, checkpoint: Checkpoint) -> TopicPartition:
        metadata = encode_metadata(checkpoint, self._takeovers.fingerprint)
        return TopicPartition(self._topics.events, held.partition, checkpoint.offset, metadata)

    def _commit_ended(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for tp in partitions:
            held = self._held.get(tp.partition)
            if held is not None and held.sent is not None and held.sent.offset == tp.offset:
                self._commit_result(held, tp.error or error)

    def _commit_result(self, held: Held, error: KafkaError | None) -> None:
        checkpoint, held.sent = held.sent, None
        assert checkpoint is not None
        if error is None:
            held.safe_offset = checkpoint.offset
            held.refusals = 0
            self._watch.committed("ok")
            return
        refused = error.code() in _REFUSED
        self._watch.committed("refused" if refused else "failed")
        self._sometimes.warn("commit_not_taken", partition=held.partition, kind=error.name())
        # A rebalance under way says nothing of whose the partition is: its end does, however long it takes.
        if refused and error.code() != KafkaError.REBALANCE_IN_PROGRESS:
            held.refusals += 1
            if held.refusals >= REFUSALS_MAX:
                self.drop(held, f"commit refused: {error.name()}")

    def _commit_and_wait(self, offsets: list[TopicPartition]) -> None:
        self._consumer.commit(offsets=offsets, asynchronous=False)

    def _finish(self, numbers: list[int], commit: Callable[[list[TopicPartition]], None]) -> None:
        """Await the effects of some partitions, at most so long, and commit what is safe with them."""
        live = [h for n in numbers if (h := self._held.get(n)) is not None and h.stage is Stage.LIVE]
        until = time.monotonic() + FINISH_S
        try:
            while any(h.pending for h in live) and time.monotonic() < until:
                self._outputs.poll()
                time.sleep(0.001)
        except OutputUnavailable as error:
            log.warning("effects_not_acknowledged", why=str(error))
        offsets = []
        for held in live:
            if held.pending or held.failed or held.fold is None:
                log.warning("partition_left_uncommitted", partition=held.partition)
            elif (checkpoint := held.fold.checkpoint()).offset > held.safe_offset:
                offsets.append(self._offset_of(held, checkpoint))
        if not offsets:
            return
        try:
            commit(offsets)
            self._watch.committed("ok")
        except (KafkaException, OutOfReach) as error:
            # Normal for a process that has lost them: whoever has them now begins at the commit before.
            self._watch.committed("refused")
            log.info("last_commit_not_taken", kind=kind_of(error))

    # Saying how it goes.

    def _read_error(self, partition: int | None, error: KafkaError) -> None:
        code = error.code()
        held = self._held.get(partition) if partition is not None else None
        if code == KafkaError._PARTITION_EOF:
            if held is not None and held.stage is Stage.LIVE:
                held.heard = held.at_end = True
            return
        if error.fatal() or code == KafkaError._FATAL:
            raise KafkaException(error)
        self._client_error(error)
        if held is not None and code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            # Retention has passed us by, or the topic was made anew: the takeover finds out which.
            self._takeovers.look_soon()
            self._start_fetching(held.partition)
            if held.stage is Stage.LIVE:
                self.drop(held, error.name(), at_once=True)

    def _client_error(self, error: KafkaError) -> None:
        """From any of our clients, on this thread: the broker is away, refuses us, or misses a topic.

        It is tried again for as long as it takes.
        """
        self._watch.kafka_error(error.name().lower().lstrip("_"))
        self._sometimes.warn("kafka_trouble", kind=error.name())

    def _report(self) -> None:
        now = time.monotonic()
        if now < self._report_after:
            return
        self._report_after = now + REPORT_EVERY_S
        for held in self._held.values():
            if held.stage is not Stage.LIVE or held.fold is None:
                continue
            while held.ticks_out and held.ticks_out[0][0] < held.next_offset:
                held.tick_read_ms = held.ticks_out.pop(0)[1]
            self._watch.position(
                held.partition, log_time_ms=held.fold.log_time_ms, lag=self._lag(held), tick_ms=held.tick_read_ms
            )

    def _lag(self, held: Held) -> int | None:
        """Messages not judged yet; 0 only where the broker said that this is the end."""
        if held.at_end:
            return 0
        try:
            bounds = self._consumer.get_watermark_offsets(
                TopicPartition(self._topics.events, held.partition), cached=True
            )
        except KafkaException:
            return None
        return max(1, bounds[1] - held.next_offset) if bounds[1] >= 0 else None

    def _end(self) -> None:
        """Finish, commit and leave the group; bounded in time, for the broker may be away."""
        self._finish(list(self._held), self._commit_or_give_up)
        for held in self._held.values():
            self._abandon(held)
        self._held.clear()
        if self._snapshots is not None:
            self._snapshots.close()
        self._askers.shutdown(wait=False, cancel_futures=True)
        self._takeovers.close()
        if not _in_time(self._close, CLOSE_S):
            log.warning("group_not_left_in_time")

    def _close(self) -> None:
        self._consumer.close()
        self._reader.close()
        self._questions.close()

    def _commit_or_give_up(self, offsets: list[TopicPartition]) -> None:
        if not _in_time(lambda: self._commit_and_wait(offsets), CLOSE_S):
            raise OutOfReach("the last commit was not answered")


def _answer(question: Callable[[Fold], T], answer: Future[T], fold: Fold | None) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    if fold is None:
        answer.set_exception(OutOfReach("the partition is not ours, or not restored yet"))
        return
    try:
        answer.set_result(question(fold))
    except Exception as error:
        answer.set_exception(error)


def _in_time(work: Callable[[], None], for_s: float) -> bool:
    """Do something that may wait for a broker for as long as it is away; whether it was done in time.

    If not, it goes on in a thread that ends with the process. Raises what ``work`` raises.
    """
    outcome: Future[None] = Future()

    def do() -> None:
        try:
            work()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=do, daemon=True, name="kafka-last-words").start()
    try:
        outcome.result(for_s)
    except TimeoutError:
        return False
    return True
