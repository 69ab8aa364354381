"""One history: an installation on a broker, traffic into it, members to mistreat, and the account of what became of it.

The topic of events is stamped by its producers where a history needs windows to close: a message stamped past the
window ends it at once, and nobody waits. Where the broker stamps, as it should, the window's minute is waited for.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from monitor.commands.common import read_policy, read_settings, tuning_of
from monitor.core.account_settings import AccountSettings
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish
from monitor.core.verdict import encode_verdict
from monitor.inputs.kafka import render_tick
from monitor.simulator.scenes import SCENES
from monitor.simulator.traffic import Knobs, traffic, truth
from monitor.simulator.truth import Line, RecordingTruth, write_line
from tests.broker import produce
from tests.monitors import Monitor, Site
from tests.torture.judge import Commit, Mark, Tally, judge, read_commits
from tests.verify import Message, Verdict, read_topic

WINDOW_S = 60  # The least that settings allow.
GRACE_S = 2
REST_S = 120.0  # How long a history may take to come to rest after its last fault.
ENDS_S = 30.0
# What stamps are moved by so that a window, and the grace in it, is over for certain.
PAST_WINDOW_MS = (WINDOW_S + GRACE_S + 20) * 1000
PAST_GRACE_MS = (GRACE_S + 3) * 1000
# A group's members are given up after this; in production 15 s, the default, come in its place.
SESSION_S = 3.0


class Address(Protocol):
    """A broker as far as a site needs it."""

    @property
    def bootstrap(self) -> str: ...

    def create_topic(self, name: str, partitions: int = 1, **config: str | float) -> str: ...


class Entry(NamedTuple):
    """One message to send. ``stamp_ms`` None: now, by a clock that is ``skew_ms`` ahead."""

    account: str
    value: bytes
    stamp_ms: int | None = None
    skew_ms: int = 0


class Act:
    """Some minutes of a contact centre, sent in seconds: what is sent, and what is true of it. Ends ``ago_ms`` ago."""

    def __init__(self, seed: int, events: int, *, accounts: int = 12, ago_ms: int = 0, **knobs: Any) -> None:
        mixed: dict[str, Any] = {
            "tempo": 30.0,
            "recorded": 0.9,
            "causes": dict.fromkeys(SCENES, 1.0),
            "duplicates": 0.02,
            "retried": 0.02,
            "late": 0.02,
            "lateness_s": 20.0,
            "malformed": 0.005,
            **knobs,
        }
        made = Knobs(seed=seed, events=events, rate=100.0, accounts=accounts, **mixed)
        *_, (last_ms, _, _) = traffic(made)
        # It ends about now, so that nothing is from the future or old.
        made = msgspec.structs.replace(made, start_ms=now_ms() - ago_ms - (last_ms - made.start_ms))
        self.truth: list[Line] = list(truth(made))
        self.entries = [Entry(account, value) for _, account, value in traffic(made)]

    @property
    def recordings(self) -> frozenset[str]:
        """The keys of all verdicts there may be about it."""
        return frozenset(
            key
            for line in self.truth
            if isinstance(line, RecordingTruth)
            for key in (line.recording_sid, line.conference_sid)
            if key is not None
        )


class Feed:
    """Sends entries at a steady rate from a thread of its own, through whatever happens to the broker, in order."""

    def __init__(self, stage: Stage, entries: Sequence[Entry], for_s: float) -> None:
        self._stage = stage
        self._entries = entries
        self._for_s = for_s
        self.sent = 0
        self.failures: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": stage.direct,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.timeout.ms": 240_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether everything is on its way."""
        return not self._thread.is_alive()

    def _send(self) -> None:
        begun = time.monotonic()
        for number, entry in enumerate(self._entries):
            ahead = begun + number * self._for_s / len(self._entries) - time.monotonic()
            if ahead > 0.01:
                self._producer.poll(ahead)
            now = now_ms() + self._stage.ahead_ms + entry.skew_ms
            stamp_ms = entry.stamp_ms if entry.stamp_ms is not None else now
            topic = self._stage.site.events
            produce(self._producer, topic, entry.value, entry.account, timestamp=stamp_ms, on_delivery=self._told)
            self.sent = number + 1
        if left := self._producer.flush(240):
            self.failures.append(f"{left} messages were not acknowledged")

    def _told(self, error: object, _: object) -> None:
        if error is not None:
            self.failures.append(str(error))

    def wait(self) -> None:
        """Wait until the broker has all of it. Raises RuntimeError when it was not taken: the history is void then."""
        self._thread.join()
        if self.failures:
            raise RuntimeError(f"the load was not taken: {self.failures[0]}")


class Stage:
    """One history. Leaving the ``with`` ends its members; its directory stays until whoever made it removes it."""

    def __init__(
        self,
        broker: Address,
        directory: Path,
        seed: int,
        *,
        partitions: int = 4,
        stamped_by_broker: bool = False,
        client: dict[str, str] | None = None,
        members_bootstrap: str | None = None,
        **settings: Any,
    ) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.seed = seed
        self.chance = Random(seed)
        self.direct = broker.bootstrap
        self.ahead_ms = 0
        self.stamped_by_broker = stamped_by_broker
        self.marks: list[Mark] = []
        self.members: list[Monitor] = []
        self.truth: list[Line] = []
        self.notes: list[str] = []
        self._client = {
            "session.timeout.ms": f"{SESSION_S * 1000:.0f}",
            "heartbeat.interval.ms": "500",
            "reconnect.backoff.max.ms": "1000",
            **(client or {}),
        }
        self._bootstrap = members_bootstrap or broker.bootstrap
        self._admin = AdminClient({"bootstrap.servers": self.direct, "log_level": 0})
        self.site = Site(
            broker,  # type: ignore[arg-type]  # It asks no more of it than ``Address`` has.
            directory,
            partitions=partitions,
            stamped_by_producers=not stamped_by_broker,
            # The broker's default refuses what is stamped more than an hour ahead, and would hide our own rule for it.
            events_config={} if stamped_by_broker else {"message_timestamp_after_max_ms": str(2**63 - 1)},
            **{"window": f"{WINDOW_S}s", "grace": f"{GRACE_S}s", **settings},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self.members:
            with contextlib.suppress(ProcessLookupError):
                member.kill()

    # Members.

    def kafka(self, *, bootstrap: str | None = None, start_at: str = "earliest", **client: str) -> dict[str, Any]:
        """The section of the settings about the broker."""
        return {
            "bootstrap_servers": bootstrap or self._bootstrap,
            "group_id": self.site.name,
            "start_at": start_at,
            "client": {**self._client, **client},
        }

    def join(self, *, kafka: dict[str, Any] | None = None, **settings: Any) -> Monitor:
        """Start one more member; not waited for. ``settings`` are those of ``Site.start``, its tree too."""
        member = self.site.start(kafka=kafka or self.kafka(), **settings)
        self.members.append(member)
        return member

    def begin(self, count: int) -> list[Monitor]:
        """Start so many members and wait until each is ready and none is without work it should have."""
        members = [self.join() for _ in range(count)]
        for member in members:
            member.ready()
        return members

    def running(self) -> list[Monitor]:
        """The members that have not ended."""
        return [member for member in self.members if member.running]

    def stop_all(self) -> None:
        """Stop every member in good order. Raises AssertionError where one does not stop, or not with code 0."""
        for member in self.running():
            self.stop(member)

    def stop(self, member: Monitor) -> None:
        """Stop one member in good order, note it where it ends badly. Raises AssertionError: not in a minute."""
        code = member.stop()
        if code == -signal.SIGTERM and not member.log.read_bytes():
            return  # It was stopped before it had begun: Python was still importing.
        if code != 0:
            self.notes.append(f"a member ended with exit code {code}: {member.log.name}")

    # Traffic.

    def play(self, act: Act, for_s: float) -> Feed:
        """Begin to send an act; what is true of it is written down first."""
        self.truth += act.truth
        with (self.directory / "truth.jsonl").open("ab") as file:
            for line in act.truth:
                write_line(file, line)
        return Feed(self, act.entries, for_s)

    def close_windows(self, past_ms: int = PAST_WINDOW_MS) -> None:
        """Move log time past every window, or so far, in all partitions: what has been sent becomes final."""
        if self.stamped_by_broker:
            time.sleep(past_ms / 1000)
        else:
            self.ahead_ms += past_ms
        for partition in range(self.site.partitions):
            value = render_tick(partition, by="torture", sent_at=datetime.now(UTC))
            # Twice: one alone that is more than an hour ahead of the others would not be believed.
            self.site.send([value, value], partition, timestamp=now_ms() + self.ahead_ms)

    def mark(self) -> Mark:
        """Note that a fault ends here; how soon all is well again is counted from this moment."""
        mark = Mark(now_ms(), self.ends())
        self.marks.append(mark)
        return mark

    # What tools do, and operators by mistake.

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Set the group's offsets as a tool would, without metadata; no member may be there."""
        consumer = Consumer({"bootstrap.servers": self.direct, "group.id": self.site.name})
        where = [TopicPartition(self.site.events, partition, offset) for partition, offset in offsets.items()]
        consumer.commit(offsets=where, asynchronous=False)
        consumer.close()

    def delete_group(self) -> None:
        """Forget the group and all its commits, as the broker does in the end; no member may be there."""
        for future in self._admin.delete_consumer_groups([self.site.name], request_timeout=30).values():
            future.result(30)

    def delete_records(self, before: Mapping[int, int]) -> None:
        """Delete the messages before these offsets, as retention does."""
        where = [TopicPartition(self.site.events, partition, offset) for partition, offset in before.items()]
        for future in self._admin.delete_records(where, request_timeout=30).values():
            future.result(30)

    def make_topic_anew(self, create: Callable[[], object]) -> None:
        """Delete the topic of events and have another of its name created."""
        admin, name = self._admin, self.site.events
        admin.delete_topics([name], operation_timeout=30)[name].result(30)
        while name in admin.list_topics(timeout=10).topics:
            time.sleep(0.05)
        create()

    def add_partitions(self, count: int) -> None:
        """Give the topic of events so many partitions in all."""
        for future in self._admin.create_partitions([NewPartitions(self.site.events, count)]).values():
            future.result(30)

    # The end.

    def ends(self) -> dict[int, int]:
        """The end of each partition of the events; asked again where a leader was lost. Raises KafkaException."""
        until = time.monotonic() + ENDS_S
        while True:
            try:
                return self.site.ends()
            except KafkaException:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def commits(self) -> list[Commit]:
        """All commits the group has made."""
        return read_commits(self.direct, self.site.name, self.site.events)

    def rest(self, for_s: float = REST_S) -> None:
        """Wait until every message there is now is judged and committed; noted where that does not come to pass."""
        ends = self.ends()
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            with contextlib.suppress(KafkaException):
                committed = self.site.committed()
                if all(committed[partition] >= end for partition, end in ends.items()):
                    return
            time.sleep(0.2)
        self.notes.append(f"not at rest after {for_s:.0f} s: committed {self.site.committed()} of {ends}")

    def account(
        self,
        *,
        straight: bool = True,
        weakened: frozenset[str] = frozenset(),
        unfinished: frozenset[str] = frozenset(),
        others: bool = False,
    ) -> Tally:
        """Judge what stands on the topics; whatever is needed to look into a failure is left in the directory."""
        messages = self.site.written()
        commits = self.commits()
        events = read_topic(self.direct, self.site.events)
        tally = judge(
            messages,
            commits,
            self.truth,
            marks=self.marks,
            straight=self.uninterrupted(events) if straight else None,
            weakened=weakened,
            unfinished=unfinished,
            others=others,
        )
        tally.faults += self.notes + self.unwell()
        if not tally.passed:
            self._leave_evidence(messages, commits, events, tally)
        return tally

    def uninterrupted(self, events: Sequence[Message]) -> dict[str, Verdict]:
        """What one process that nothing happens to ends with, given the messages as they stand in the topic."""
        settings = read_settings(self.site.config(kafka=self.kafka()))
        tuning, policy = tuning_of(settings), read_policy(settings).policy
        account_settings = AccountSettings()
        pipelines: dict[int, Pipeline] = {}
        told: dict[str, Verdict] = {}
        for message in events:
            pipeline = pipelines.get(message.partition)
            if pipeline is None:
                first = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
                pipeline = pipelines[message.partition] = Pipeline(
                    tuning, policy, account_settings, partition=message.partition, checkpoint=first
                )
                pipeline.open(Ledger())
            headers = list(message.headers.items())
            for each in pipeline.feed(message.offset, message.timestamp_ms, message.value, headers or None):
                if not isinstance(each, Publish):
                    continue
                if each.verdict is None:
                    told.pop(each.key, None)
                else:
                    told[each.key] = msgspec.json.decode(encode_verdict(each.verdict))
        return told

    def unwell(self) -> list[str]:
        """What the members' logs say that no history should make them say."""
        found = []
        for member in self.members:
            for event in ("core_raised", "reading_ended"):
                found += [f"{member.log.name}: {event} {line.get('error')}" for line in member.said(event)]
            if b"Traceback (most recent call last)" in member.log.read_bytes():
                found.append(f"{member.log.name}: a traceback")
        return found

    def _leave_evidence(
        self, messages: Sequence[Message], commits: Sequence[Commit], events: Sequence[Message], tally: Tally
    ) -> None:
        for name, rows in (("verdicts", messages), ("events", events), ("commits", commits)):
            with (self.directory / f"{name}.jsonl").open("w") as file:
                for row in rows:
                    file.write(json.dumps(row._asdict(), default=_readable) + "\n")
        (self.directory / "found.json").write_bytes(msgspec.json.format(msgspec.json.encode(tally), indent=1))


def _readable(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def now_ms() -> int:
    """The wall clock, in milliseconds since 1970; the broker on this machine has the same."""
    return time.time_ns() // 1_000_000


def moments(chance: Random, feed: Feed, least_s: float, most_s: float) -> Iterator[None]:
    """Come again at random intervals for as long as the load is being sent."""
    while not feed.over:
        time.sleep(chance.uniform(least_s, most_s))
        if not feed.over:
            yield


def until(what: Callable[[], bool], for_s: float) -> bool:
    """Wait until something is so, at most so long; whether it came to pass."""
    ends = time.monotonic() + for_s
    while not what():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True
