"""How the state of a partition comes about: from its assignment until its gate may open.

Asked for, on another thread: what the group has committed, and where the log and the verdict topic begin and end. Then
side by side, in slices between two batches: the ledger, from a snapshot or the verdict topic's beginning, and the fold,
from a snapshot or the messages since R. The rules are those of docs/checkpoint.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from monitor import clock
from monitor.core.ledger import Ledger, NotReadBack
from monitor.core.parted import PARTS
from monitor.core.pipeline import Checkpoint
from monitor.core.snapshot import Unusable
from monitor.core.verdict import decode_verdict
from monitor.errors import OutOfReach, OutputUnavailable
from monitor.inputs.asking import Asking
from monitor.inputs.checkpoint import Committed, Resume, StartAt, fingerprint_of, resume
from monitor.inputs.effects import Effects
from monitor.inputs.held import Held, Stage
from monitor.inputs.protocols import Fold, Watch
from monitor.inputs.reader import BEGINNING, AskedLog, Questions, Reader, key_of, kind_of, offset_of
from monitor.inputs.snapshots import Partition, Restoring, Snapshots

log = structlog.get_logger(__name__)

BY_HEADER: Final = "by"
SLICE_S: Final = 0.025  # What may be read again in a turn: of topics, and as much of snapshots.
TOPIC_LOOK_EVERY_S: Final = 5.0


class VerdictUnavailable(OutputUnavailable, NotReadBack):
    """A verdict can't be read back from its topic now: the state that needs it is dropped, and built anew."""


class Topics(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the topics the reading touches."""

    events: str
    verdicts: str
    account_settings: str


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What a takeover has to know of the tuning."""

    window_ms: int
    age_max_ms: int
    start_at: StartAt


class Owner(Protocol):
    """Who holds the partitions; called on its own thread."""

    def feed(self, held: Held, run: Iterator[Message], offset: int, end: int) -> KafkaError | None:
        """Feed messages from ``offset`` to before ``end`` into the fold; the error that stands among them."""

    def drop(self, held: Held, why: str, *, at_once: bool = False) -> None:
        """Forget the state of a partition, and take it over anew."""

    def free(self, state: Fold | Ledger | None) -> None:
        """Free a state that nothing is asked of any more."""


class _Replay:
    """Feeds [R, C), or what a snapshot left of it, into a fold with the gate shut."""

    def __init__(self, takeovers: Takeovers, held: Held, begin: int, end: int) -> None:
        self._takeovers = takeovers
        self._held = held
        self._from = begin
        self._end = end

    def messages(self, run: list[Message]) -> None:
        if self._held.replayed or self._held.dropped:
            return
        held = self._held
        assert held.fold is not None
        while run and offset_of(run[0]) < self._from:
            held.fold.prime(run.pop(0).timestamp()[1])
        if run:
            self._takeovers.owner.feed(held, iter(run), self._from, self._end)
            if not held.dropped and offset_of(run[-1]) >= self._end - 1:
                self._takeovers.replayed(held)

    def ended(self) -> None:
        if not self._held.replayed and not self._held.dropped:
            self._takeovers.replayed(self._held)

    def failed(self, error: KafkaError) -> None:
        self._takeovers.owner.drop(self._held, f"replay: {error.name()}")


class _Verdicts:
    """Keeps the ledger of one partition in step with the verdict topic, to its end and onwards."""

    def __init__(self, takeovers: Takeovers, held: Held) -> None:
        self._takeovers = takeovers
        self._held = held
        self._own = [(BY_HEADER, held.by.encode())]

    def messages(self, run: list[Message]) -> None:
        own = self._own
        for message in run:
            if message.headers() != own:  # Else it is ours, and its acknowledgement places it.
                self._message(message)
        self._held.verdicts_to = offset_of(run[-1]) + 1

    def _message(self, message: Message) -> None:
        text = key_of(message)
        if text is None:
            return
        value = message.value()
        try:
            verdict = None if value is None else decode_verdict(value)
        except (ValueError, UnicodeDecodeError):
            self._takeovers.watch.verdict_not_read(self._held.partition)
            return
        self._takeovers.effects.take_in(self._held, text, verdict, offset_of(message))

    def ended(self) -> None:
        self._held.verdicts_read = True

    def failed(self, error: KafkaError) -> None:
        self._takeovers.owner.drop(self._held, f"verdicts: {error.name()}")


class Takeovers:
    """Takes partitions over, as many at a time as there are; lives on the thread of their owner.

    ``topic_id``: what names a topic for good; it may raise OutOfReach. ``build`` makes the fold of a partition,
    ``ledger`` its ledger, given what reads one of the partition's verdicts back.
    """

    def __init__(
        self,
        owner: Owner,
        reader: Reader,
        questions: Questions,
        askers: ThreadPoolExecutor,
        *,
        topics: Topics,
        times: Times,
        topic_id: Callable[[str], str],
        build: Callable[[int, Checkpoint, frozenset[int]], Fold],
        ledger: Callable[[Callable[[str, int], bytes]], Ledger],
        snapshots: Snapshots | None,
        effects: Effects,
        watch: Watch,
    ) -> None:
        self.owner = owner
        self.effects = effects
        self.watch = watch
        self._reader = reader
        self._questions = questions
        self._askers = askers
        # By itself: a takeover shall not wait for a question to a broker that has gone.
        self._lookers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka-topic")
        self._looking = Asking(self._lookers, lambda: topic_id(topics.events), every_s=TOPIC_LOOK_EVERY_S)
        self._topics = topics
        self._times = times
        self._topic_id = topic_id
        self._build = build
        self._ledger = ledger
        self._snapshots = snapshots
        self._fingerprint: str | None = None
        self._events_id = self._verdicts_id = ""  # Known with the fingerprint.
        self._restoring_until = 0.0
        self.partitions: int | None = None
        """How many the events topic has; None before the first takeover."""

    @property
    def fingerprint(self) -> str:
        """Of the log that is read; known since the first takeover."""
        assert self._fingerprint is not None
        return self._fingerprint

    def turn(self, held: Collection[Held]) -> None:
        """Begin a turn of the loop, before any of its partitions is advanced: all that is restored shares one slice."""
        self._look_at_topic(held)
        self._restoring_until = time.monotonic() + SLICE_S

    def advance(self, held: Held) -> bool:
        """Do what is next for a partition that is not live, if it is time; whether its gate may open."""
        if held.stage is Stage.REBUILDING:
            return self._rebuild(held)
        if held.stage is Stage.WAITING:
            if time.monotonic() >= held.not_before:
                held.asking = self._askers.submit(self._ask, held.partition)
                held.stage = Stage.ASKING
        elif held.asking is not None and held.asking.done():
            self._asked(held, held.asking)
        return False

    def close(self) -> None:
        """Wait for nothing."""
        self._lookers.shutdown(wait=False, cancel_futures=True)

    def _ask(self, partition: int) -> Resume:
        """Find out how to take over a partition; on the asking thread, because each question is a round trip."""
        events = self._topics.events
        if self._fingerprint is None:
            self._fingerprint = self._ask_fingerprint()
        found = self._questions.committed(events, partition)
        return resume(
            Committed(*found) if found is not None else None,
            AskedLog(self._questions, events, partition),
            fingerprint=self._fingerprint,
            start_at=self._times.start_at,
            window_ms=self._times.window_ms,
            age_max_ms=self._times.age_max_ms,
            now_ms=clock.now_ms(),
        )

    def _ask_fingerprint(self) -> str:
        cluster_id, partitions = self._questions.describe(self._topics.events)
        _, verdicts = self._questions.describe(self._topics.verdicts)
        if len(verdicts) < len(partitions):
            raise OutOfReach(f"{self._topics.verdicts} has fewer partitions than {self._topics.events}")
        self.partitions = len(partitions)
        self._verdicts_id = self._topic_id(self._topics.verdicts)
        self._events_id = self._topic_id(self._topics.events)
        return fingerprint_of(cluster_id, self._events_id, len(partitions))

    def _look_at_topic(self, held: Collection[Held]) -> None:
        """Now and then, whether the events topic is still the one that what is held was read from.

        One that was made anew may have grown beyond our positions before they are asked for again. Then no error says
        so, and what lies before them in the new one would never be read.
        """
        if not self._events_id or not held:
            self._looking.forget()  # What is under way would be an answer of before.
            return
        try:
            found = self._looking.answer()
        except (KafkaException, OutOfReach):
            return  # The broker is away, or the topic is being made.
        if found is not None and found != self._events_id:
            self._fingerprint, self._events_id = None, ""  # Whoever takes over asks again.
            for each in list(held):
                self.owner.drop(each, "the topic was made anew", at_once=True)

    def look_soon(self) -> None:
        """A position is out of range: if the topic was made anew, others may have been grown beyond already."""
        self._looking.hurry()

    def _asked(self, held: Held, asking: Future[Resume]) -> None:
        try:
            resumed = asking.result()
        except (KafkaException, OutOfReach) as error:
            self.owner.drop(held, kind_of(error))
            return
        held.resumed = resumed
        held.stage = Stage.REBUILDING
        self.watch.taken_over(held.partition, resumed)
        _say_takeover(held.partition, resumed)
        held.ledger = self._new_ledger(held.partition)
        # Where a takeover has failed, the ledger may have been at fault: something it knew of was compacted away.
        if self._snapshots is not None and not held.attempt:
            held.ledger_restoring = self._snapshots.begin_ledger(held.ledger, self.snapshots_of(held.partition))
        if held.ledger_restoring is None:
            self._follow_verdicts(held, BEGINNING)

    def _new_ledger(self, partition: int) -> Ledger:
        return self._ledger(lambda key, place: self._fetch_verdict(partition, key, place))

    def snapshots_of(self, partition: int) -> Partition:
        """What a snapshot of a partition says it is of."""
        return Partition(self.fingerprint, self._verdicts_id, partition)

    def _follow_verdicts(self, held: Held, offset: int) -> None:
        self._reader.follow(self._topics.verdicts, held.partition, offset, _Verdicts(self, held))

    def _restore_ledger(self, held: Held, restoring: Restoring) -> None:
        """Read on in the snapshot of a ledger; once it is all there, read what came after it."""
        assert held.ledger is not None
        try:
            if held.saying is None:
                if not self._read_on(restoring):
                    return
                held.saying = self._say_going_on(held.partition, held.ledger)
            for _ in held.saying:
                if time.monotonic() >= self._restoring_until:
                    return
        except (Unusable, OSError) as error:
            log.warning("snapshot_not_used", partition=held.partition, why=str(error))
            restoring.close()
            self.owner.free(held.ledger)
            held.ledger = self._new_ledger(held.partition)
            self._follow_verdicts(held, BEGINNING)
        else:
            held.verdicts_to = held.ledger_from = restoring.offset
            self._follow_verdicts(held, restoring.offset)
        held.ledger_restoring = held.saying = None

    def _say_going_on(self, partition: int, ledger: Ledger) -> Iterator[None]:
        """Tell of the verdicts that nobody has read, a part of them with each step."""
        for part in range(PARTS):
            for key, account, outcome in ledger.going_on(part):
                self.watch.verdict_going_on(partition, key, account, outcome)
            yield

    def _fetch_verdict(self, partition: int, key: str, place: int) -> bytes:
        try:
            message = self._questions.at_or_after(self._topics.verdicts, partition, place)
        except OutOfReach as error:
            raise VerdictUnavailable(str(error)) from error
        found = message is not None and message.offset() == place and key_of(message) == key
        value = message.value() if message is not None and found else None
        if value is None:
            # Compacted away since: then the ledger has been told of what replaced it, or will be in a moment. Or the
            # topic's end was lost with its leader, and another verdict stands there: then all of it is read anew.
            raise VerdictUnavailable(f"the verdict at {partition}:{place} is no longer there")
        return value

    def _rebuild(self, held: Held) -> bool:
        if held.ledger_restoring is not None:
            self._restore_ledger(held, held.ledger_restoring)
        resumed, ledger = held.resumed, held.ledger
        assert resumed is not None
        assert ledger is not None
        if held.fold is None:
            if resumed.raise_generation and not held.verdicts_read:
                return False  # The generation to begin in is not known before.
            self._begin_replay(held, resumed.in_generation(ledger.greatest_generation()), resumed.read_from)
        if held.restoring is not None:
            self._restore(held, held.restoring)
        return held.replayed and held.verdicts_read

    def _begin_replay(self, held: Held, checkpoint: Checkpoint, read_from: int) -> None:
        held.committed_offset = held.next_offset = checkpoint.offset
        held.fold = self._build(held.partition, checkpoint, held.skip)
        # Where the core raises again, what it went on with may be at fault: each time would cost one more message.
        held.without_snapshot = held.without_snapshot or held.raised > 1
        if held.without_snapshot:
            held.raised = 0
        elif self._snapshots is not None:
            held.restoring = self._snapshots.begin(held.fold, checkpoint, self.snapshots_of(held.partition))
            if held.restoring is not None:
                return
        self._replay(held, read_from, checkpoint.replay_from)

    def _read_on(self, restoring: Restoring) -> bool:
        """Read on in a snapshot, in the slice of this turn that all of them share: whoever is live waits for it."""
        left_s = self._restoring_until - time.monotonic()
        return left_s > 0.0 and restoring.read(left_s)

    def _restore(self, held: Held, restoring: Restoring) -> None:
        """Read on in a snapshot; once it is all there, fold what came after it."""
        try:
            if not self._read_on(restoring):
                return
        except (Unusable, OSError) as error:
            log.warning("snapshot_not_used", partition=held.partition, why=str(error))
            self.owner.free(held.fold)
            held.without_snapshot, held.fold = True, None  # Half a state is none: from R, as ever.
        restoring.close()
        held.restoring = None
        if held.fold is not None:
            self._replay(held, restoring.offset, restoring.offset)

    def _replay(self, held: Held, read_from: int, begin: int) -> None:
        if read_from >= held.committed_offset:
            held.replayed = True
            return
        replay = _Replay(self, held, begin, held.committed_offset)
        self._reader.follow(self._topics.events, held.partition, read_from, replay)

    def replayed(self, held: Held) -> None:
        """All of [R, C) was folded."""
        held.replayed = True
        held.next_offset = held.committed_offset
        self._reader.leave(self._topics.events, held.partition)


def _say_takeover(partition: int, resumed: Resume) -> None:
    checkpoint = resumed.checkpoint
    said = {"partition": partition, "offset": checkpoint.offset, "replay_from": checkpoint.replay_from}
    if resumed.foreign is not None:
        log.warning("foreign_checkpoint_found", why=resumed.foreign, **said)
    elif resumed.fresh:
        log.info("partition_begun", **said)
    else:
        log.info("partition_taken_over", **said)
    if resumed.blind is not None:
        blind = resumed.blind
        log.error(
            "blind_interval_found",
            partition=partition,
            first=blind.first,
            end=blind.end,
            unjudged=blind.unjudged,
            since_ms=blind.since_ms,
            until_ms=blind.until_ms,
        )
