"""The topics: what they must be like, whether they are, and creating what is missing.

The broker's admin calls are behind this. Where they cannot be asked (librdkafka's mock cluster answers none) it is
said aloud: then nobody has checked anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource  # What `confluent_kafka.admin` has but does not export.
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.cimpl import NewTopic

from monitor.errors import OutOfReach, WrongInput
from monitor.inputs.reader import logger, shared_properties

TIMEOUT_S: Final = 15.0
# How long a topic may take from its creation until the brokers show it, and how often they are asked meanwhile.
SHOWN_WITHIN_S: Final = 30.0
ASK_AGAIN_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DAY_MS: Final = 86_400_000
EVENTS_PARTITIONS: Final = 6
EVENTS_KEPT_MS: Final = 7 * DAY_MS
QUARANTINE_KEPT_MS: Final = 14 * DAY_MS
# The longest outage after which nothing may be lost; what was open before it must still be there after it.
OUTAGE_MS: Final = DAY_MS

_MOCK_CLUSTER: Final = "mockCluster"

Level = Literal["ok", "missing", "created", "warning", "error", "unknown"]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The five topics by name."""

    events: str
    verdicts: str
    case_actions: str
    account_settings: str
    quarantine: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic is created as. ``partitions`` None: as many as the events topic has."""

    name: str
    partitions: int | None
    config: dict[str, str]


# The segment that is written to is never compacted. It is by default one of a gigabyte, kept open for a week: 700,000
# verdicts that a takeover reads, most of them replaced long since; and what was deleted stands in it as long.
COMPACTED_SEGMENT_BYTES: Final = 64 << 20
COMPACTED_SEGMENT_MS: Final = 86_400_000


class Finding(msgspec.Struct, frozen=True):
    """One thing found out about a topic, in a sentence that says what to do where something is to be done.

    ``error`` is what ``run`` refuses to start on; ``unknown`` means that it could not be asked.
    """

    level: Level
    topic: str
    says: str


def wanted(names: Names, *, partitions: int = EVENTS_PARTITIONS) -> tuple[Wanted, ...]:
    """The topics as ``apply`` creates them; ``partitions`` are those of the events topic, if that has to be created.

    LogAppendTime everywhere: the broker's clock is the only one that log time should run on.
    """
    stamped = {"message.timestamp.type": "LogAppendTime"}
    compacted = {
        **stamped,
        "cleanup.policy": "compact",
        "segment.bytes": str(COMPACTED_SEGMENT_BYTES),
        "segment.ms": str(COMPACTED_SEGMENT_MS),
    }
    deleted = {**stamped, "cleanup.policy": "delete"}
    return (
        Wanted(name=names.events, partitions=partitions, config={**deleted, "retention.ms": str(EVENTS_KEPT_MS)}),
        Wanted(name=names.verdicts, partitions=None, config=compacted),
        Wanted(name=names.case_actions, partitions=1, config=compacted),
        Wanted(name=names.account_settings, partitions=1, config=compacted),
        Wanted(name=names.quarantine, partitions=1, config={**deleted, "retention.ms": str(QUARANTINE_KEPT_MS)}),
    )


def judge_events(name: str, config: Mapping[str, str], *, needed_ms: int) -> list[Finding]:
    """What is wrong with the configuration of the events topic, given how long its messages are needed."""
    found = []
    if "compact" in config.get("cleanup.policy", ""):
        found.append(
            Finding(
                "error",
                name,
                "is compacted: older events of an account vanish, and with them the evidence. "
                "Set cleanup.policy=delete.",
            )
        )
    kept_ms = int(config.get("retention.ms", "-1"))
    if 0 <= kept_ms < needed_ms:
        found.append(
            Finding(
                "warning",
                name,
                f"keeps its messages for {_hours(kept_ms)} h, and {_hours(needed_ms)} h are needed for a rebuild after "
                f"an outage of {_hours(OUTAGE_MS)} h. Set retention.ms={needed_ms} or more.",
            )
        )
    if int(config.get("retention.bytes", "-1")) >= 0:
        found.append(
            Finding(
                "warning",
                name,
                "is bounded by size (retention.bytes): in busy times it may lose messages that are still needed. "
                "Bound it by time alone.",
            )
        )
    if config.get("message.timestamp.type") == "CreateTime":
        found.append(
            Finding(
                "warning",
                name,
                "is stamped by its producers (CreateTime): a wrong clock there moves graces and windows here. "
                "Set message.timestamp.type=LogAppendTime.",
            )
        )
    return found


def judge_verdicts(
    name: str, config: Mapping[str, str], partitions: int, events: str, events_partitions: int
) -> list[Finding]:
    """What is wrong with the verdict topic, given the name and the partitions of the events topic."""
    found = []
    if "delete" in config.get("cleanup.policy", ""):
        found.append(
            Finding("error", name, "deletes by age: verdicts that still hold would vanish. Set cleanup.policy=compact.")
        )
    if partitions < events_partitions:
        found.append(
            Finding(
                "error",
                name,
                f"has {partitions} partitions and the events topic {events_partitions}: a verdict stands in the "
                "partition of its events. If partitions were added to the events topic, accounts have moved: copy it "
                f"by `recording-monitor rekey --from {events} --to NEW --create --partitions {events_partitions}`, "
                "name NEW as topics.events and another one as topics.verdicts, and run `recording-monitor topics "
                "apply`.",
            )
        )
    return found


def judge_compacted(name: str, config: Mapping[str, str]) -> list[Finding]:
    """What is wrong with a topic whose last message of a key must stay."""
    if "delete" not in config.get("cleanup.policy", ""):
        return []
    return [Finding("warning", name, "deletes by age what is still needed. Set cleanup.policy=compact.")]


def acls(names: Names, group_id: str) -> tuple[str, ...]:
    """The rights the monitor's user needs, a line each."""
    return (
        f"group {group_id}: Read",
        f"topic {names.events}: Read, Write (ticks), DescribeConfigs",
        f"topic {names.verdicts}: Read, Write, DescribeConfigs",
        f"topic {names.case_actions}: Read, Write, DescribeConfigs",
        f"topic {names.account_settings}: Read, Write, DescribeConfigs",
        f"topic {names.quarantine}: Write, DescribeConfigs (Read for `recording-monitor quarantine`)",
        "cluster: Create (only to let `topics apply` create what is missing); IdempotentWrite on brokers before 3.0",
    )


class TopicAdmin:
    """Asks and creates, through the broker's admin calls."""

    def __init__(self, client: Mapping[str, object], names: Names, *, window_ms: int, age_max_ms: int) -> None:
        properties: dict[str, Any] = shared_properties(client, consumes=False)
        self._admin = AdminClient(properties, logger=logger)
        self._names = names
        self._needed_ms = age_max_ms + window_ms + OUTAGE_MS
        self._can_ask: bool | None = None

    def change_password(self, username: str, password: str) -> None:
        """Come in so from the next connection on."""
        self._admin.set_sasl_credentials(username, password)

    def can_be_asked(self) -> bool:
        """Whether this cluster answers admin calls. Raises OutOfReach when no broker answers at all."""
        if self._can_ask is None:
            self._can_ask = not str(self._metadata().cluster_id).startswith(_MOCK_CLUSTER)
        return self._can_ask

    def topic_id(self, topic: str) -> str:
        """What names a topic for good: its id, or its name where the cluster has no ids. Raises OutOfReach.

        Only a lasting reason makes it the name: an answer that changed with the weather would make each checkpoint a
        foreign one.
        """
        if not self.can_be_asked():
            return topic
        try:
            asked = self._admin.describe_topics(TopicCollection([topic]), request_timeout=TIMEOUT_S)
            described = asked[topic].result(TIMEOUT_S)
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() in (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE):
                return topic
            raise OutOfReach(f"{topic}: {error.name()}") from failure
        except TimeoutError:
            raise OutOfReach(f"{topic} was not described in time") from None
        identity = described.topic_id
        bits = (identity.get_most_significant_bits(), identity.get_least_significant_bits())
        return str(identity) if any(bits) else topic

    def check(self) -> list[Finding]:
        """What there is to say about each topic. Raises OutOfReach when no broker answers."""
        if not self.can_be_asked():
            return [self._not_asked()]
        return self._judge(*self._look())

    def apply(self, *, partitions: int = EVENTS_PARTITIONS) -> list[Finding]:
        """Create what is missing, change nothing that is there, and check what is there now. Raises OutOfReach."""
        if not self.can_be_asked():
            return [self._not_asked()]
        there = self._partitions()
        said: list[Finding] = []
        new: dict[str, int] = {}
        for topic in wanted(self._names, partitions=partitions):
            if topic.name in there:
                continue
            count = topic.partitions or there.get(self._names.events, partitions)
            made = self._create(topic, count)
            said.append(made)
            if made.level == "created":
                new[topic.name] = count
            elif made.level == "ok":
                # Somebody else made it, with as many partitions as it has: the verdicts need as many.
                new[topic.name] = 1
                there, _ = self._shown(new)
        return said + self._judge(*self._shown(new))

    def events_topic(self) -> int | None:
        """How many partitions the events topic has; None: it is not there. Raises OutOfReach, and WrongInput for one
        that would lose what is written to it.
        """
        events = self._names.events
        partitions = self._partitions().get(events)
        config = (self._configs([events]) if partitions else {}).get(events) or {}
        for finding in judge_events(events, config, needed_ms=self._needed_ms):
            if finding.level == "error":
                raise WrongInput(f"{events} {finding.says}")
        return partitions

    def create_events(self, partitions: int) -> None:
        """Create the events topic alone, as ``apply`` would. Raises OutOfReach, WrongInput where that is refused."""
        made = self._create(wanted(self._names)[0], partitions)
        if made.level == "error":
            raise WrongInput(f"{made.topic} {made.says}")
        self._shown({self._names.events: partitions})

    def _shown(self, new: Mapping[str, int]) -> tuple[dict[str, int], dict[str, dict[str, str] | None]]:
        """What there is once the brokers show what is new, with as many partitions at least. Raises OutOfReach.

        The controller answers a creation before the brokers know of it, and each learns of it in its own time: one may
        tell the partitions of a topic of which the next has never heard.
        """
        ends = time.monotonic() + SHOWN_WITHIN_S
        tries = 0
        while True:
            there, configs = self._look()
            hidden = [name for name, count in new.items() if there.get(name, 0) < count or name not in configs]
            if not hidden:
                return there, configs
            if time.monotonic() >= ends:
                raise OutOfReach(f"created, but not shown by the brokers yet: {', '.join(hidden)}")
            time.sleep(ASK_AGAIN_S[min(tries, len(ASK_AGAIN_S) - 1)])
            tries += 1

    def _look(self) -> tuple[dict[str, int], dict[str, dict[str, str] | None]]:
        """Of those of our topics that are there, the partitions and the configuration."""
        there = self._partitions()
        return there, self._configs(sorted(there))

    def _create(self, topic: Wanted, partitions: int) -> Finding:
        new = NewTopic(topic.name, num_partitions=partitions, replication_factor=-1, config=topic.config)
        try:
            made = self._admin.create_topics([new], operation_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S)
            made[topic.name].result(2 * TIMEOUT_S)
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return Finding("ok", topic.name, "was created by somebody else just now.")
            if error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
                raise OutOfReach(f"{topic.name}: {error.name()}") from failure
            return Finding("error", topic.name, f"could not be created ({error.name()}). Create it, or grant Create.")
        except TimeoutError:
            raise OutOfReach(f"{topic.name} was not created in time") from None
        return Finding("created", topic.name, f"created with {partitions} partitions, {_written(topic.config)}.")

    def _judge(self, partitions: Mapping[str, int], configs: Mapping[str, Mapping[str, str] | None]) -> list[Finding]:
        names = self._names
        found: list[Finding] = []
        for topic in wanted(names):
            name = topic.name
            if name not in partitions or name not in configs:
                level: Level = "error" if name != names.case_actions else "missing"
                found.append(Finding(level, name, "is not there. `recording-monitor topics apply` creates it."))
                continue
            config = configs[name]
            if config is None:
                found.append(Finding("unknown", name, "does not tell its configuration. Grant DescribeConfigs."))
                continue
            if name == names.events:
                about = judge_events(name, config, needed_ms=self._needed_ms)
            elif name == names.verdicts:
                about = judge_verdicts(name, config, partitions[name], names.events, partitions.get(names.events, 0))
            elif name == names.quarantine:
                about = []
            else:
                about = judge_compacted(name, config)
            found += about or [Finding("ok", name, f"{partitions[name]} partitions, as it should be.")]
        return found

    def _metadata(self) -> ClusterMetadata:
        try:
            return self._admin.list_topics(timeout=TIMEOUT_S)
        except KafkaException as failure:
            raise OutOfReach(f"no broker answers: {failure.args[0].name()}") from failure

    def _partitions(self) -> dict[str, int]:
        """Of those of our topics that are there, how many partitions they have."""
        ours = {topic.name for topic in wanted(self._names)}
        return {name: len(topic.partitions) for name, topic in self._metadata().topics.items() if name in ours}

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str] | None]:
        """The configuration of each topic; None where we may not see it, and nothing where the broker has no topic."""
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        if not resources:
            return {}
        read: dict[str, dict[str, str] | None] = {}
        for resource, future in self._admin.describe_configs(resources, request_timeout=TIMEOUT_S).items():
            try:
                entries = future.result(TIMEOUT_S)
                read[resource.name] = {key: entry.value for key, entry in entries.items() if entry.value is not None}
            except KafkaException as failure:
                error = failure.args[0]
                if error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
                    raise OutOfReach(f"{resource.name}: {error.name()}") from failure
                if error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    read[resource.name] = None
            except TimeoutError:
                raise OutOfReach(f"{resource.name} was not described in time") from None
        return read

    def _not_asked(self) -> Finding:
        return Finding(
            "unknown",
            "*",
            "this is librdkafka's mock cluster, which answers no admin calls: topics come into being when they are "
            "used, and nobody has checked retention, compaction or rights.",
        )


def _hours(ms: int) -> str:
    return f"{ms / 3_600_000:g}"


def _written(config: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())
