"""A whole member on a broker, in a thread of the test: the real pipeline, the real outputs, and a list of what it said.

Shared by the tests of the partition's life. Nothing is replaced: ``Heard`` is one more listener, as the metrics are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

from monitor.core.account_settings import AccountSettings
from monitor.core.judging import Watch as JudgeWatch
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Told, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import Verdict, decode_verdict
from monitor.inputs.checkpoint import Resume, StartAt
from monitor.inputs.kafka import Member
from monitor.inputs.protocols import Fold
from monitor.inputs.snapshots import Snapshots
from monitor.inputs.takeover import Times, Topics
from monitor.outputs.delivery import Delivery, producer_properties
from monitor.outputs.verdict_topic import VerdictTopic
from tests.broker import RealBroker, produce, unique_name

WAIT_S = 180.0  # What a starved machine may need; costs time only where something is wrong.
RECORDING = "com.twilio.voice.status-callback.recording.processed"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def until(what: Callable[[], bool], for_s: float = WAIT_S) -> None:
    """Wait until something is so; a test that waits in vain fails here."""
    ends = time.monotonic() + for_s
    while True:
        asked = time.monotonic()
        if what():
            return
        answered = time.monotonic()
        assert answered < ends, "it did not come to pass"
        # Some questions take a client of their own: whoever is waited for gets the processor half the time at least.
        time.sleep(max(0.01, answered - asked))


def account_sid(number: int) -> str:
    return f"AC{number:032x}"


def recording_sid(number: int) -> str:
    return f"RE{number:032x}"


def recording_event(
    number: int,
    *,
    source: str = "DialVerb",
    status: str = "in-progress",
    account: int = 1,
    started_ms: int | None = None,
) -> bytes:
    """What Twilio sends when recording ``number`` has begun (or has another status)."""
    started = datetime.fromtimestamp((started_ms or now_ms()) / 1000, UTC)
    at = started.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    parameters = {
        "AccountSid": account_sid(account),
        "RecordingSid": recording_sid(number),
        "RecordingStatus": status,
        "RecordingSource": source,
        "CallSid": f"CA{number:032x}",
        "RecordingStartTime": at,
    }
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": RECORDING,
            "source": f"/2010-04-01/Accounts/{account_sid(account)}",
            "id": f"VW:{number}:{status}",
            "time": at,
            "data": {"request": {"url": "https://voice.example.com/r", "parameters": parameters}},
        }
    )


# ruff: noqa: ARG002 - a listener need not keep all it hears.
class Heard:
    """Listens to a member, and remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Publish, bool]] = []
        self.aside: list[tuple[int, str]] = []
        self.commits: list[str] = []
        self.rebalances: list[tuple[str, tuple[int, ...]]] = []
        self.positions: dict[int, tuple[int | None, int | None, int | None]] = {}
        self.takeovers: list[tuple[int, Resume]] = []
        self.restores: list[int] = []
        self.errors: list[str] = []
        self.settings: list[tuple[str, bytes | None]] = []
        self.read: list[tuple[int, str | None]] = []
        self.going_on: list[tuple[int, str, str, str]] = []
        self.polls = 0
        self.replayed = 0
        self.count = 0

    def polled(self) -> None:
        self.polls += 1

    def folded(self, partition: int, fold: Fold, *, replayed: bool) -> None:
        if isinstance(fold, Pipeline):
            self.replayed += fold.take_counts().replayed

    def published(self, partition: int, told: Publish, *, replay_left: bool) -> None:
        self.told.append((partition, told, replay_left))

    def quarantined(self, partition: int, reason: str) -> None:
        self.aside.append((partition, reason))

    def verdict_read(self, partition: int, key: str, verdict: Verdict | None) -> None:
        self.read.append((partition, key))

    def verdict_going_on(self, partition: int, key: str, account_sid: str, outcome: str) -> None:
        self.going_on.append((partition, key, account_sid, outcome))

    def verdict_not_read(self, partition: int) -> None:
        self.read.append((partition, None))

    def committed(self, result: str) -> None:
        self.commits.append(result)

    def rebalanced(self, event: str, partitions: Sequence[int]) -> None:
        self.rebalances.append((event, tuple(partitions)))

    def owned(self, count: int) -> None:
        self.count = count

    def position(self, partition: int, *, log_time_ms: int | None, lag: int | None, tick_ms: int | None) -> None:
        self.positions[partition] = (log_time_ms, lag, tick_ms)

    def forgotten(self, partition: int) -> None:
        self.positions.pop(partition, None)

    def taken_over(self, partition: int, resumed: Resume) -> None:
        self.takeovers.append((partition, resumed))

    def restored(self, partition: int, seconds: float) -> None:
        self.restores.append(partition)

    def kafka_error(self, kind: str) -> None:
        self.errors.append(kind)


class Desk:
    """The topics of one test and all that is run on them."""

    def __init__(self, bootstrap: str, create: Callable[..., str], partitions: int = 2, **events: str | float) -> None:
        stem = unique_name("desk")
        self.bootstrap = bootstrap
        self.group = stem
        self.partitions = partitions
        self.topics = Topics(
            events=create(f"{stem}.events", partitions, **events),
            verdicts=create(f"{stem}.verdicts", partitions, cleanup_policy="compact"),
            account_settings=create(f"{stem}.settings", 1, cleanup_policy="compact"),
        )
        self.quarantine = create(f"{stem}.quarantine", 1)
        self._producer = Producer({"bootstrap.servers": bootstrap})

    @classmethod
    def on(cls, broker: RealBroker, partitions: int = 2, **events: str | float) -> Desk:
        return cls(broker.bootstrap, broker.create_topic, partitions, **events)

    def again(self) -> Desk:
        """The same desk, with a producer that remembers nothing: the broker or a topic was made anew."""
        self._producer = Producer({"bootstrap.servers": self.bootstrap})
        return self

    def send(self, values: Iterable[bytes | None], partition: int = 0, **more: int) -> None:
        """Write messages into one partition of the events topic; returns once they are there."""
        for value in values:
            self._producer.produce(self.topics.events, value, partition=partition, **more)  # type: ignore[arg-type]
            self._producer.poll(0)
        assert self._producer.flush(WAIT_S) == 0

    def fill(self, topic: str, messages: Iterable[tuple[str, bytes | None]], partition: int = 0) -> None:
        """Write messages with keys into a partition of any topic; returns once they are there."""
        for key, value in messages:
            produce(self._producer, topic, value, key, partition=partition)
            self._producer.poll(0)
        assert self._producer.flush(WAIT_S) == 0

    def read(self, topic: str, partition: int = 0) -> list[tuple[str | None, bytes | None, dict[str, bytes]]]:
        """All that stands in a partition now: key, value, headers."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "tests",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
            }
        )
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        found: list[tuple[str | None, bytes | None, dict[str, bytes]]] = []
        ends = time.monotonic() + WAIT_S
        while time.monotonic() < ends:
            message = consumer.poll(1)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                consumer.close()
                return found
            key = message.key()
            headers = dict(message.headers() or [])
            found.append((key.decode() if key else None, message.value(), headers))  # type: ignore[arg-type]
        raise AssertionError(f"{topic}[{partition}] has no end")

    def verdicts(self, partition: int = 0) -> dict[str, Verdict]:
        """What holds: of each key the greatest verdict, as readers take it."""
        holds: dict[str, Verdict] = {}
        for key, value, _ in self.read(self.topics.verdicts, partition):
            assert key is not None
            if value is None:
                holds.pop(key, None)
                continue
            verdict = decode_verdict(value)
            known = holds.get(key)
            if known is None or (known.at, known.final) <= (verdict.at, verdict.final):
                holds[key] = verdict
        return holds

    def committed(self, partition: int = 0) -> TopicPartition:
        """The group's commit; its offset is negative where there is none."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        [found] = consumer.committed([TopicPartition(self.topics.events, partition)], timeout=WAIT_S)
        consumer.close()
        return found

    def commit(self, offset: int, metadata: str = "", partition: int = 0) -> None:
        """Commit as a tool would, while no member is there."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        at = TopicPartition(self.topics.events, partition, offset, metadata)
        consumer.commit(offsets=[at], asynchronous=False)
        consumer.close()


class Stumbling:
    """The pipeline with a bug: it raises on some messages, those that say so."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def stumbles_on(self, value: bytes | None) -> bool:
        return value is not None and b"stumble" in value

    def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
        if self.stumbles_on(value) and offset not in self._pipeline.skip:
            raise ZeroDivisionError("a bug")
        return self._pipeline.feed(offset, timestamp_ms, value, headers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


class Running:
    """A member at work in a thread. Leaving the ``with`` stops it in good order and raises what it raised."""

    def __init__(
        self,
        desk: Desk,
        *,
        client: Mapping[str, object] | None = None,
        tuning: Tuning | None = None,
        start_at: StartAt = "earliest",
        wrap: Callable[[Pipeline], Fold] = lambda pipeline: pipeline,
        watch: JudgeWatch | None = None,
        tick_every_s: float = 0.5,
        commit_every_s: float = 1.0,
        full_timeout_s: float = 20.0,
        snapshots: Path | None = None,
        topic_id: Callable[[str], str] = lambda topic: topic,
    ) -> None:
        self.heard = Heard()
        self.tuning = tuning or Tuning()
        self.settings = AccountSettings()
        properties = {"bootstrap.servers": desk.bootstrap}
        self.delivery = Delivery(
            producer_properties(properties),
            on_error=lambda error: self.heard.kafka_error(error.name()),
            full_timeout_s=full_timeout_s,
        )
        outputs = VerdictTopic(
            self.delivery,
            verdicts=desk.topics.verdicts,
            quarantine=desk.quarantine,
            account_settings=desk.topics.account_settings,
            now_ms=now_ms,
        )
        policy = built_in_policy()

        def build(partition: int, checkpoint: Checkpoint, skip: frozenset[int]) -> Fold:
            return wrap(
                Pipeline(
                    self.tuning,
                    policy,
                    self.settings,
                    partition=partition,
                    checkpoint=checkpoint,
                    skip=skip,
                    sweeps=True,
                    watch=watch,
                )
            )

        self.member = Member(
            client={**properties, **(client or {})},
            group_id=desk.group,
            topics=desk.topics,
            times=Times(window_ms=self.tuning.window_ms, age_max_ms=self.tuning.age_max_ms, start_at=start_at),
            topic_id=topic_id,
            build=build,
            ledger=Ledger,
            take_setting=self._setting,
            outputs=outputs,
            watch=self.heard,
            between_batches=lambda idle: None,  # noqa: ARG005 - nothing to do between batches here.
            tick_every_s=tick_every_s,
            commit_every_s=commit_every_s,
            snapshots=Snapshots(snapshots, every_s=0.1, kept_s=3600.0, version="1") if snapshots else None,
        )
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _setting(self, key: str, value: bytes | None) -> tuple[str, ...]:
        self.heard.settings.append((key, value))
        return ()

    def _run(self) -> None:
        try:
            self.member.run()
        except BaseException as error:
            self.failure = error

    @property
    def restored(self) -> bool:
        return self.member.settings_read and self.member.restoring() is None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def ready(self, owned: int | None = None) -> Self:
        """Wait until the assignment is restored, and of the size expected."""

        def is_so() -> bool:
            assert self.failure is None, self.failure
            return self.restored and (owned is None or self.heard.count == owned)

        until(is_so)
        return self

    def verdicts_told(self) -> list[Verdict]:
        return [told.verdict for _, told, _ in list(self.heard.told) if told.verdict is not None]

    def stop(self) -> None:
        self.member.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the member did not stop"
        self.delivery.close(1)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if self.failure is not None and kind is None:
            raise self.failure
