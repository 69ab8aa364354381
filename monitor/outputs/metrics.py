"""Metrics: what Prometheus reads. Counters take plain-int deltas, a batch at a time; gauges are read when asked for.

Every label comes from a closed set and every set has a bound, so that all of it stays below ``SERIES_MAX`` series
whatever the stream says: an account without an alias is ``other``, and so is a start source nobody knows; what would
go beyond a bound is folded into ``other`` and counted. Never a SID, a number or a name: exemplars alone carry a
recording's SID. The methods may be called from any thread.
"""

from __future__ import annotations

import itertools
import json
import platform
import re
import threading
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Final, NamedTuple

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from monitor import __version__
from monitor.core.attribution import START_SOURCES
from monitor.core.pipeline import AGE_BOUNDS_MS, Counts, Publish
from monitor.core.policy import DISALLOWED, RULE_DEFAULT, RULE_WHEN_OPEN, SHADOW, Policy, severity_of
from monitor.core.readers import EVENT_TYPES
from monitor.core.verdict import Verdict, goes_on, read_instant
from monitor.outputs.alertmanager import OK, RESULTS
from monitor.outputs.alerts import ALERT_NAMES, severity_of_case
from monitor.settings import ALERTMANAGERS_MAX

PREFIX: Final = "recording_monitor_"
OTHER: Final = "other"
NONE: Final = "none"  # The start source of a recording of which no source is known.

SERIES_MAX: Final = 2_000
# How the budget is shared out: label sets of each family, histograms at buckets + 3 apiece.
ACCOUNTS_MAX: Final = 32
RECORDINGS_MAX: Final = 330
DISALLOWED_MAX: Final = 320
OPEN_CASES_MAX: Final = 210
PARTITIONS_MAX: Final = 40
ERROR_KINDS_MAX: Final = 30
QUARANTINE_REASONS_MAX: Final = 20
UNKNOWN_TYPES_MAX: Final = 15
# Recordings followed for the gauges; more than that in progress or open at once is not ours to hold.
FOLLOWED_MAX: Final = 200_000

OUTCOMES: Final = ("allowed", "disallowed", "undetermined")
_COMMON_SOURCES: Final = ("StartCallRecordingAPI", "Conference")
SOURCES: Final = (*_COMMON_SOURCES, *(source for source in START_SOURCES if source not in _COMMON_SOURCES), NONE, OTHER)
NOTICES: Final = ("ignored", "malformed", "duplicate", "late")
REBALANCES: Final = ("assigned", "revoked", "lost")
COMMITS: Final = ("ok", "refused", "failed")
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
CASE_TROUBLES: Final = ("rebuilt", "memory")
FOREIGN_REASONS: Final = (
    "no_metadata",
    "unreadable",
    "other_version",
    "other_topic",
    "replay_after_commit",
    "beyond_end",
)

_TASKS: Final = "com.twilio.taskrouter.task"
_RESERVATIONS: Final = "com.twilio.taskrouter.reservation"
TYPES: Final = (*EVENT_TYPES, _TASKS, _RESERVATIONS, OTHER)

DETECTION_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
UNSEEN_BUCKETS_S: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
DURATION_BUCKETS_S: Final = (5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0)
SEND_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
AGE_BUCKETS_S: Final = tuple(bound_ms / 1000 for bound_ms in AGE_BOUNDS_MS)
"""Upper bounds of ``event_age_seconds``: those by which the pipeline counts."""

# The instants of one verdict are mostly the same two, and those of the next are near.
_ms: Final = lru_cache(maxsize=1_024)(read_instant)


def type_label(type_: str) -> str:
    """The label of an event type: itself where we know it, one word for each family TaskRouter keeps adding to."""
    if type_ in _KNOWN_TYPES:
        return type_
    for family in (_TASKS, _RESERVATIONS):
        if type_.startswith(family + "."):
            return family
    return OTHER


_KNOWN_TYPES: Final = frozenset(TYPES)
_KNOWN_SOURCES: Final = frozenset(SOURCES)


_TYPE: Final = re.compile(r"com\.twilio\.[a-z][a-z0-9._-]{0,79}")
_LONG_NUMBER: Final = re.compile(r"[0-9]{6}")


def unknown_label(type_: str) -> str:
    """The label of an event type that nobody knows: its name, where it could be one of Twilio's."""
    spelled = type_.lower()
    return spelled if _TYPE.fullmatch(spelled) and not _LONG_NUMBER.search(spelled) else OTHER


def source_label(start_source: str | None) -> str:
    """The label of a start source: itself in Twilio's spelling, ``other`` where nobody knows it, ``none`` for None."""
    if start_source is None:
        return NONE
    return start_source if start_source in _KNOWN_SOURCES and start_source != NONE else OTHER


class Build(msgspec.Struct, frozen=True):
    """What runs here."""

    version: str
    revision: str
    python: str


def this_build() -> Build:
    """The build that runs: its version, the commit it was installed from where the installer kept it, and Python's."""
    revision = "unknown"
    try:
        # What pip writes for an installation from version control; https://peps.python.org/pep-0610/.
        found = json.loads(metadata.distribution("recording-monitor").read_text("direct_url.json") or "{}")
        revision = str(found.get("vcs_info", {}).get("commit_id", revision))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        pass  # Run from a checkout, or the file is not what the standard says: then it is not known.
    return Build(__version__, revision, platform.python_version())


class BuildInfo(Collector):
    """The build as a metric, for processes that are no monitor; a monitor's ``Metrics`` have it."""

    def __init__(self, build: Build) -> None:
        self._build = build

    def collect(self) -> Iterator[Metric]:
        """One series, which never changes."""
        build = _gauge("build_info", "What runs here.", "version", "revision", "python")
        build.add_metric([self._build.version, self._build.revision, self._build.python], 1)
        yield build


class _Labelled(Collector):
    """A counter with labels: plain ints, at most ``bound`` label sets; what is beyond goes to ``fold``.

    ``fold`` gives for a label set the coarser ones to try in turn; the last of them may always be made. The library's
    own counter makes an object a label set and takes a microsecond an increment, five with an exemplar.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bound: int,
        fold: Callable[[tuple[str, ...]], tuple[tuple[str, ...], ...]],
        overflowed: Callable[[], None],
    ) -> None:
        self._about = (name, documentation, labels)
        self._bound = bound
        self._fold = fold
        self._overflowed = overflowed
        self._counts: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[tuple[str, ...], _Seen] = {}
        self._lock = threading.Lock()

    def initialise(self, label_sets: Iterable[tuple[str, ...]], *, share: float = 1.0) -> None:
        """Make these at 0, in order, until ``share`` of the bound is used: a stop leaves room for what turns up."""
        with self._lock:
            for labels in label_sets:
                if len(self._counts) >= self._bound * share:
                    return
                self._counts.setdefault(labels, 0)

    def add(self, labels: tuple[str, ...], amount: float = 1, seen: _Seen | None = None) -> None:
        """Count; ``seen`` is an example of what was counted."""
        with self._lock:
            if labels not in self._counts:
                labels = self._make_room(labels)
            self._counts[labels] += amount
            if seen is not None:
                self._exemplars[labels] = seen

    def _make_room(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        made = labels
        if len(self._counts) >= self._bound:
            self._overflowed()
            coarser = self._fold(labels)
            made = next((candidate for candidate in coarser if candidate in self._counts), coarser[-1])
        self._counts.setdefault(made, 0)
        return made

    def describe(self) -> Iterable[Metric]:
        """Name the family without its values."""
        return [CounterMetricFamily(*self._about[:2], labels=self._about[2])]

    def collect(self) -> Iterator[Metric]:
        """Read the counts now."""
        name, documentation, names = self._about
        family = CounterMetricFamily(name, documentation, labels=names)
        with self._lock:
            for labels, count in self._counts.items():
                seen = self._exemplars.get(labels)
                family.add_metric(labels, count, exemplar=None if seen is None else seen.exemplar(1.0))
        yield family


class _Seen(NamedTuple):
    """A recording that something was counted for, and when, in seconds since 1970."""

    recording_sid: str
    at: float

    def exemplar(self, value: float) -> Exemplar:
        """As the library wants it."""
        return Exemplar({"recording_sid": self.recording_sid}, value, self.at)


class _Position(msgspec.Struct):
    """Where a partition stands; instants in milliseconds since 1970, None where not known."""

    watermark_ms: int | None = None
    lag: int | None = None
    tick_ms: int | None = None
    conversations: int = 0
    recordings: int = 0


class _State(NamedTuple):
    """What the gauges need of one published verdict whose recording goes on."""

    account: str
    outcome: str


class _Audited(NamedTuple):
    """What the last audit of an account found; ``at`` is that of the last one that was whole."""

    outcomes: Tally[str]
    changed: int
    at: float | None


class _InProgress:
    """The published verdicts whose recordings are in progress, by partition and key.

    Of each it keeps the number of its SID and the state it is in: about 60 bytes. How many are in each state is counted
    as they change, since Prometheus must not wait for a walk through a hundred thousand.
    """

    def __init__(self, overflowed: Callable[[], None]) -> None:
        self._overflowed = overflowed
        self._partitions: dict[int, dict[int, _State]] = {}
        self._known: dict[_State, _State] = {}  # So that equal ones are one: all of it comes from closed sets.
        self._counts: Tally[_State] = Tally()
        self.followed = 0
        self._lock = threading.Lock()

    def follow(self, partition: int, key: str, state: _State | None) -> None:
        """Take in what the last verdict of a key says; None: not that its recording goes on."""
        sid = _number_of(key)
        with self._lock:
            verdicts = self._partitions.setdefault(partition, {})
            before = verdicts.pop(sid, None)
            if before is not None:
                self._counts[before] -= 1
                self.followed -= 1
            if state is None:
                return
            if self.followed >= FOLLOWED_MAX:
                self._overflowed()
                return
            verdicts[sid] = self._known.setdefault(state, state)
            self._counts[state] += 1
            self.followed += 1

    def leave(self, partition: int) -> None:
        """Forget a partition: somebody else tells of it now."""
        with self._lock:
            verdicts = self._partitions.pop(partition, {})
            self._counts.subtract(verdicts.values())
            self.followed -= len(verdicts)

    def counts(self) -> list[tuple[_State, int]]:
        """How many are in each state."""
        with self._lock:
            return list(self._counts.items())


_SID: Final = re.compile(r"(?:RE|CF)[0-9a-f]{32}")


def _number_of(key: str) -> int:
    """A key as a number: a SID's takes 48 bytes where its text takes 96. Whatever is none gets one below 0."""
    if _SID.fullmatch(key) is None:
        return -int.from_bytes(b"\x01" + key.encode(errors="surrogatepass"))
    return int(key[2:], 16) << 1 | (key[0] == "C")  # noqa: FURB166 - what is cut off is no "0x".


class _Histogram(Collector):
    """A histogram of plain ints, one list a label, or a single list without a label.

    It takes single values, or whole batches that were counted elsewhere.
    """

    def __init__(self, name: str, documentation: str, bounds_s: Sequence[float], label: str | None = None) -> None:
        self._about = (name, documentation, () if label is None else (label,))
        self._bounds_s = bounds_s
        self._les = [*map(str, bounds_s), "+Inf"]
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._exemplars: dict[int, tuple[float, _Seen]] = {}
        self._lock = threading.Lock()
        if label is None:
            self.add("", [0] * len(self._les), 0.0)

    def observe(self, value_s: float, seen: _Seen | None = None) -> None:
        """Take in one value; ``seen`` is an example of its bucket. Only without a label."""
        index = bisect_left(self._bounds_s, value_s)
        with self._lock:
            self._counts[""][index] += 1
            self._sums[""] += value_s
            if seen is not None:
                self._exemplars[index] = (value_s, seen)

    def add(self, label: str, counts: Sequence[int], sum_s: float) -> None:
        """Add what fell into each bucket (one count more than there are bounds), and the sum of the values."""
        assert len(counts) == len(self._les)
        with self._lock:
            held = self._counts.setdefault(label, [0] * len(counts))
            for index, count in enumerate(counts):
                held[index] += count
            self._sums[label] = self._sums.get(label, 0.0) + sum_s

    def describe(self) -> Iterable[Metric]:
        """Name the family without its values."""
        return [HistogramMetricFamily(*self._about[:2], labels=self._about[2])]

    def collect(self) -> Iterator[Metric]:
        """Read the counts now."""
        name, documentation, labels = self._about
        family = HistogramMetricFamily(name, documentation, labels=labels)
        with self._lock:
            for label, counts in self._counts.items():
                buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
                for index, count in enumerate(itertools.accumulate(counts)):
                    bucket = (self._les[index], float(count))
                    if index in self._exemplars:
                        value_s, seen = self._exemplars[index]
                        buckets.append((*bucket, seen.exemplar(value_s)))
                    else:
                        buckets.append(bucket)
                family.add_metric([label] if labels else [], buckets, self._sums[label])
        yield family


class Metrics(Collector):
    """All metrics of one process, in ``registry``.

    ``aliases`` gives each account SID of the settings its label; ``alertmanagers`` are the names of those that are told
    of alerts. ``process=False`` leaves out the collectors of the process and of Python. ``wall_clock`` gives
    seconds since 1970 and is asked when Prometheus reads.
    """

    def __init__(
        self,
        *,
        aliases: Mapping[str, str],
        events_topic: str = "twilio-events",
        alertmanagers: Sequence[str] = (),
        build: Build | None = None,
        process: bool = True,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # A series more for each of ours, and read by nobody.
        self.registry: Final = CollectorRegistry()
        self._wall_clock = wall_clock
        self._events_topic = events_topic
        labelled = list(dict.fromkeys(aliases.values()))[:ACCOUNTS_MAX]
        self._accounts = (*labelled, OTHER)
        self._aliases = {sid: alias for sid, alias in aliases.items() if alias in set(labelled)}
        self._build = build or this_build()
        self._rules: dict[str, str] = {}  # Those that can disallow, and how grave that is.
        self._policy_hash: str | None = None
        self._reload_successful: bool | None = None
        self._reloaded_at: float | None = None
        self._positions: dict[int, _Position] = {}
        self._assigned: dict[str, int] = {events_topic: 0}
        self._last_event_s: dict[str, float] = {}
        self._polled_at: float | None = None
        self._checkpoint_at: float | None = None
        self._restore_s: float | None = None
        self._ready: Callable[[], bool] = lambda: False
        self._flex: Callable[[], Sequence[tuple[str, bool, int | None]]] = tuple
        self._audits: dict[str, _Audited] = {}

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, documentation, labels, registry=self.registry)

        def histogram(name: str, documentation: str, buckets: Sequence[float]) -> _Histogram:
            made = _Histogram(PREFIX + name, documentation, buckets)
            self.registry.register(made)
            return made

        self._overflow = counter(
            "series_overflow",
            "Times something was folded into 'other' or not followed, because a bound of the metrics was reached.",
        )
        self._verdicts = _InProgress(self._overflow.inc)
        self._open_cases: Callable[[], Mapping[tuple[str, str, str, str], int]] = dict
        self._alerts_firing: Callable[[], Mapping[str, int]] = dict
        self._cases_on_disk: bool | None = None
        self._accepted_at: dict[str, float] = {}

        def labelled_counter(
            name: str, documentation: str, *labels: str, bound: int, keep: tuple[int, ...] = ()
        ) -> _Labelled:
            """Fold first the account (the first label), then every label but those at ``keep``."""

            def fold(given: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
                kept = tuple(label if index in keep else OTHER for index, label in enumerate(given))
                return ((OTHER, *given[1:]), kept)

            made = _Labelled(PREFIX + name, documentation, labels, bound, fold, self._overflow.inc)
            self.registry.register(made)
            return made

        self._account_overflow = labelled_counter(
            "account_overflow",
            "Verdicts about accounts without an alias in the settings; their account is 'other'.",
            bound=1,
        )
        self._messages = counter("messages", "Messages read from the events topic and judged.")
        self._entries = counter("entries", "Entries in those messages: events and notices, always.")
        self._replayed = counter("replayed_messages", "Messages read again to rebuild a partition's state.")
        self._clamped = counter("arrival_clamped", "Messages whose Kafka timestamp was too far ahead to be believed.")
        self._events = labelled_counter("events", "Entries that were events, by type.", "type", bound=len(TYPES) + 1)
        self._notices = labelled_counter(
            "notices", "Entries reported but not judged, by kind.", "kind", bound=len(NOTICES)
        )
        self._unknown = labelled_counter(
            "unknown_events",
            "Entries of types nobody knows, by type: a type that was renamed turns up here.",
            "type",
            bound=UNKNOWN_TYPES_MAX,
        )
        self._recordings = labelled_counter(
            "recordings",
            "Recordings with a verdict, by the outcome of their first; verdict_revisions tells how it changed.",
            "account",
            "start_source",
            "outcome",
            bound=RECORDINGS_MAX,
            keep=(2,),
        )
        self._disallowed = labelled_counter(
            "disallowed_recordings",
            "Recordings that became disallowed, each once.",
            "account",
            "rule",
            "start_source",
            bound=DISALLOWED_MAX,
        )
        self._revisions = labelled_counter(
            "verdict_revisions",
            "Verdicts that replaced one, by outcome before and after.",
            "from",
            "to",
            bound=len(OUTCOMES) ** 2,
        )
        self._detection = histogram(
            "detection_latency_seconds",
            "From the arrival of the message that decided (or the end of the grace) to the acknowledged verdict.",
            DETECTION_BUCKETS_S,
        )
        self._unseen = histogram(
            "recording_unseen_seconds", "From the start of a recording to the first we saw of it.", UNSEEN_BUCKETS_S
        )
        self._duration = histogram(
            "disallowed_recording_duration_seconds",
            "How long disallowed recordings ran, told when their verdict is final.",
            DURATION_BUCKETS_S,
        )
        self._ages = _Histogram(
            PREFIX + "event_age_seconds",
            "From the occurrence of an event to its arrival in Kafka, by type.",
            AGE_BUCKETS_S,
            "type",
        )
        self._closed = labelled_counter(
            "window_closed", "Conversations closed, by what closed them.", "reason", bound=2
        )
        self._truncated = counter("truncated_conversations", "Conversations of which not all evidence is kept.")
        self._dropped = counter("evidence_dropped", "Events beyond a conversation's size bound: counted, not kept.")
        self._too_old = counter("recordings_too_old", "Recordings not judged, since they began too long ago.")
        self._not_judged = counter("conversations_not_judged", "Times judging a conversation failed: a bug.")
        self._rebalances = labelled_counter(
            "kafka_rebalances", "Changes of the assignment.", "event", bound=len(REBALANCES)
        )
        self._errors = labelled_counter(
            "kafka_errors", "Errors the Kafka client reported.", "kind", bound=ERROR_KINDS_MAX
        )
        self._commits = labelled_counter("offset_commits", "Checkpoints committed.", "result", bound=len(COMMITS))
        self._foreign = labelled_counter(
            "foreign_checkpoints",
            "Commits that could not be taken as they stood.",
            "reason",
            bound=len(FOREIGN_REASONS),
        )
        self._blind = counter("blind_intervals", "Takeovers at which messages still needed were gone from the log.")
        self._splits = counter("account_splits", "Times an account was found in a second partition.")
        self._forgotten = counter("account_settings_forgotten", "Changes of Flex beyond those kept for an account.")
        self._quarantined = labelled_counter(
            "quarantined",
            "Messages and entries set aside in the quarantine topic.",
            "reason",
            bound=QUARANTINE_REASONS_MAX,
        )
        self._sends = labelled_counter(
            "alert_sends",
            "Alerts sent to an Alertmanager: taken, refused, or not delivered.",
            "alertmanager",
            "result",
            bound=len(RESULTS) * ALERTMANAGERS_MAX,
        )
        self._send_durations = _Histogram(
            PREFIX + "alert_send_duration_seconds",
            "How long an Alertmanager took to answer a batch of alerts.",
            SEND_BUCKETS_S,
            "alertmanager",
        )
        self._case_troubles = labelled_counter(
            "case_database_troubles",
            "Times the case database was begun anew, or given up for memory.",
            "kind",
            bound=len(CASE_TROUBLES),
        )
        self._log_messages = labelled_counter("log_messages", "Lines logged, by level.", "level", bound=len(LEVELS))

        for family, values in (
            (self._events, TYPES),
            (self._notices, NOTICES),
            (self._closed, ("window", "cut")),
            (self._rebalances, REBALANCES),
            (self._commits, COMMITS),
            (self._foreign, FOREIGN_REASONS),
            (self._log_messages, LEVELS),
            (self._case_troubles, CASE_TROUBLES),
        ):
            family.initialise((value,) for value in values)
        self._account_overflow.initialise([()])
        self._unknown.initialise([(OTHER,)])
        self._sends.initialise(itertools.product(alertmanagers, RESULTS))
        for name in alertmanagers:
            self._send_durations.add(name, [0] * (len(SEND_BUCKETS_S) + 1), 0.0)
        self._revisions.initialise(itertools.product(OUTCOMES, OUTCOMES))
        # Sources before accounts: where not all fits, every account has those that matter most.
        self._recordings.initialise(
            (
                (account, source, outcome)
                for source, account, outcome in itertools.product(SOURCES, self._accounts, OUTCOMES)
            ),
            share=0.8,
        )
        self.registry.register(self)
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    # What the lifecycle of a partition tells.

    def polled(self, now: float) -> None:
        """The Kafka loop has turned; ``now`` in seconds since 1970."""
        self._polled_at = now

    def count(self, counts: Counts) -> None:
        """Add what a batch counted; entries = events + notices afterwards as before."""
        self._messages.inc(counts.messages)
        self._entries.inc(counts.entries)
        self._replayed.inc(counts.replayed)
        self._clamped.inc(counts.clamped)
        for type_, events in counts.events.items():
            self._events.add((type_label(type_),), events)
        for kind, notices in zip(
            NOTICES, (counts.ignored, counts.malformed, counts.duplicate, counts.late), strict=True
        ):
            if notices:
                self._notices.add((kind,), notices)
        for type_, entries in counts.unknown.items():
            self._unknown.add((unknown_label(type_),), entries)
        for reason, closed in (("window", counts.closed_by_window), ("cut", counts.closed_by_cut)):
            if closed:
                self._closed.add((reason,), closed)
        self._truncated.inc(counts.truncated)
        self._dropped.inc(counts.dropped)
        self._too_old.inc(counts.too_old)
        self._not_judged.inc(counts.not_judged)
        for type_, latest_ms in counts.latest_event_ms.items():
            label = type_label(type_)
            self._last_event_s[label] = max(self._last_event_s.get(label, 0.0), latest_ms / 1000)
        for type_, ages in counts.ages.items():
            self._ages.add(type_label(type_), ages.counts, ages.sum_ms / 1000)

    def verdict_published(
        self, partition: int, told: Publish, published_at_ms: int, *, replay_left: bool = False
    ) -> None:
        """A verdict (or tombstone) is acknowledged by the broker.

        ``replay_left``: the rebuild left it to be told, so how long it took says nothing about detection.
        """
        verdict = told.verdict
        self.follow(partition, told.key, verdict)
        if verdict is None or verdict.kind != "recording":
            return
        account = self._account(verdict.account_sid)
        if account == OTHER:
            self._account_overflow.add(())
        source = source_label(verdict.start_source)
        seen = _Seen(verdict.recording_sid, published_at_ms / 1000) if verdict.recording_sid else None
        if told.before is None:
            self._recordings.add((account, source, verdict.outcome))
            if verdict.started_at is not None:
                unseen_ms = _ms(verdict.first_seen_at) - _ms(verdict.started_at)
                self._unseen.observe(max(0, unseen_ms) / 1000)
        else:
            self._revisions.add((told.before, verdict.outcome))
        if _first_disallowed(told.before, verdict):
            self._disallowed.add((account, verdict.rule, source), 1, seen)
        # A window that closes, or a late change, finds nothing out: it would only make the figure look better.
        if not replay_left and not told.late and not (verdict.final and told.before == verdict.outcome):
            self._detection.observe(max(0, published_at_ms - told.due_ms) / 1000, seen)
        if (
            verdict.final
            and not told.late
            and verdict.outcome == DISALLOWED
            and verdict.started_at is not None
            and verdict.ended_at is not None
        ):
            lasted_ms = _ms(verdict.ended_at) - _ms(verdict.started_at)
            self._duration.observe(max(0, lasted_ms) / 1000)

    def follow(self, partition: int, key: str, verdict: Verdict | None) -> None:
        """Take in what stands on the verdict topic, for a gauge alone; None is a tombstone. Repeats do no harm."""
        state = None
        if verdict is not None and goes_on(verdict):
            state = _State(self._account(verdict.account_sid), verdict.outcome)
        self._verdicts.follow(partition, key, state)

    def goes_on(self, partition: int, key: str, account_sid: str, outcome: str) -> None:
        """The same of a verdict of which no more is known than that its recording goes on."""
        self._verdicts.follow(partition, key, _State(self._account(account_sid), outcome))

    @property
    def verdicts_followed(self) -> int:
        """How many verdicts are kept in mind for the gauge of recordings in progress."""
        return self._verdicts.followed

    def behind_s(self, now: float) -> float | None:
        """How old the log time of the partition furthest behind is; None without a partition, or one without any."""
        times_ms = [position.watermark_ms for position in self._positions.values()]
        known = [time_ms for time_ms in times_ms if time_ms is not None]
        return now - min(known) / 1000 if known and len(known) == len(times_ms) else None

    # What the cases and the alerts tell.

    def cases_from(
        self, open_cases: Callable[[], Mapping[tuple[str, str, str, str], int]], firing: Callable[[], Mapping[str, int]]
    ) -> None:
        """Ask these whenever Prometheus reads: open cases by ``case_labels``, and firing alerts by name."""
        self._open_cases, self._alerts_firing = open_cases, firing

    def case_labels(self, verdict: Verdict) -> tuple[str, str, str, str]:
        """The labels of a case among the open ones: account, rule, start source, severity."""
        source = source_label(verdict.start_source)
        return self._account(verdict.account_sid), verdict.rule, source, severity_of_case(verdict)

    def alerts_sent(self, alertmanager: str, result: str, alerts: int, seconds: float | None, now: float) -> None:
        """Alerts were sent, with one of ``RESULTS``; ``seconds`` is how long the answer took."""
        self._sends.add((alertmanager, result), alerts)
        if seconds is not None:
            counts = [0] * (len(SEND_BUCKETS_S) + 1)
            counts[bisect_left(SEND_BUCKETS_S, seconds)] = 1
            self._send_durations.add(alertmanager, counts, seconds)
        if result == OK:
            self._accepted_at[alertmanager] = now

    def cases_kept(self, *, on_disk: bool) -> None:
        """Where the cases are kept."""
        self._cases_on_disk = on_disk

    def case_trouble(self, kind: str) -> None:
        """Something is wrong with the case database: one of ``CASE_TROUBLES``."""
        self._case_troubles.add((kind,))

    def quarantined(self, reason: str) -> None:
        """Bytes are safe in quarantine; ``reason`` is that of the core, or ``core-error``."""
        self._quarantined.add((reason,))

    def partition(
        self,
        partition: int,
        *,
        watermark_ms: int | None,
        lag: int | None,
        tick_ms: int | None,
        conversations: int = 0,
        recordings: int = 0,
    ) -> None:
        """Where an owned partition stands: its log time, the messages still to read, when its newest tick was sent."""
        self._positions[partition] = _Position(watermark_ms, lag, tick_ms, conversations, recordings)

    def partition_gone(self, partition: int) -> None:
        """The partition is no longer ours: its gauges go, and its verdicts are somebody else's to show."""
        self._positions.pop(partition, None)
        self._verdicts.leave(partition)

    def assigned(self, topic: str, partitions: int) -> None:
        """How many partitions of a topic this process owns."""
        self._assigned[topic] = partitions

    def rebalance(self, event: str) -> None:
        """The assignment changed: ``assigned``, ``revoked`` or ``lost``."""
        self._rebalances.add((event,))

    def commit(self, result: str, now: float) -> None:
        """A commit ended: ``ok``, ``refused`` or ``failed``; ``now`` in seconds since 1970."""
        self._commits.add((result,))
        if result == "ok":
            self._checkpoint_at = now

    def foreign_checkpoint(self, reason: str) -> None:
        """A commit could not be taken as it stood, for one of ``FOREIGN_REASONS``."""
        self._foreign.add((reason,))

    def blind_interval(self) -> None:
        """Messages that were still needed are gone from the log."""
        self._blind.inc()

    def account_split(self) -> None:
        """An account was found in a second partition."""
        self._splits.inc()

    def settings_forgotten(self, number: int) -> None:
        """So many changes of Flex were more than are kept for an account."""
        self._forgotten.inc(number)

    def restored(self, seconds: float) -> None:
        """A partition was rebuilt, so long after it was assigned."""
        self._restore_s = seconds

    def kafka_error(self, kind: str) -> None:
        """The client reported an error, by librdkafka's name for it in lower case."""
        self._errors.add((kind,))

    # What is known of the accounts.

    def flex_from(self, flex: Callable[[], Sequence[tuple[str, bool, int | None]]]) -> None:
        """Ask for Flex call recording whenever Prometheus reads: account, whether it is on, when it changed (ms)."""
        self._flex = flex

    def audited(self, account_sid: str, outcomes: Iterable[str], changed: int, at: float | None) -> None:
        """An account was audited: the outcomes of what can start a recording there, and how much is not as accepted.

        ``at`` in seconds since 1970; None where not all of it could be read.
        """
        before = self._audits.get(account_sid)
        at = at if at is not None or before is None else before.at
        self._audits[account_sid] = _Audited(Tally(outcomes), changed, at)

    def audit_gone(self, account_sid: str) -> None:
        """Somebody else audits the account now."""
        self._audits.pop(account_sid, None)

    # What the rest of the process tells.

    def policy_loaded(self, policy: Policy, now: float) -> None:
        """A policy is in force; ``now`` in seconds since 1970. Makes the label sets of its rules, at 0."""
        self._policy_hash = policy.hash
        self._reload_successful = True
        self._reloaded_at = now
        rules = {
            rule.document.name: severity_of(DISALLOWED, rule.document.severity)
            for rule in policy.rules
            if rule.document.outcome == DISALLOWED and rule.document.mode != SHADOW
        }
        for name, outcome in ((RULE_DEFAULT, policy.default), (RULE_WHEN_OPEN, policy.when_open)):
            if outcome == DISALLOWED:
                rules[name] = severity_of(DISALLOWED)
        self._rules = {name: severity or NONE for name, severity in rules.items()}
        self._disallowed.initialise(
            (
                (account, rule, source)
                for source, rule, account in itertools.product(SOURCES, self._rules, self._accounts)
            ),
            share=0.8,
        )

    def policy_reload_failed(self) -> None:
        """A new policy was refused; the last good one stays in force."""
        self._reload_successful = False

    def ready_when(self, ready: Callable[[], bool]) -> None:
        """Ask ``ready`` whenever Prometheus reads."""
        self._ready = ready

    def log_message(self, level: str) -> None:
        """A line was logged."""
        self._log_messages.add((level,))

    # What Prometheus asks.

    def describe(self) -> Iterable[Metric]:
        """Name the families without their values, so that registering asks nobody."""
        return [Metric(family.name, family.documentation, family.type) for family in self.collect()]

    def collect(self) -> Iterator[Metric]:
        """Read the gauges now."""
        yield from self._positions_now()
        yield from self._verdicts_now()
        yield from self._accounts_now()
        yield from self._ages.collect()
        yield from self._send_durations.collect()
        firing = _gauge("alerts_firing", "Alerts that fire, by name.", "alertname")
        found = self._alerts_firing()
        for name in ALERT_NAMES:
            firing.add_metric([name], found.get(name, 0))
        yield firing
        accepted = _gauge("alert_last_success_timestamp_seconds", "When alerts were last taken.", "alertmanager")
        for name, at in sorted(self._accepted_at.items()):
            accepted.add_metric([name], at)
        yield accepted
        last_event = _gauge("last_event_timestamp_seconds", "When the newest event of a type occurred.", "type")
        for type_, latest_s in sorted(self._last_event_s.items()):
            last_event.add_metric([type_], latest_s)
        yield last_event
        assigned = _gauge("kafka_assigned_partitions", "Partitions this process owns.", "topic")
        for topic, partitions in sorted(self._assigned.items()):
            assigned.add_metric([topic], partitions)
        yield assigned
        policy = _gauge("policy_info", "The policy in force, by the hash of its text.", "hash")
        if self._policy_hash is not None:
            policy.add_metric([self._policy_hash], 1)
        yield policy
        yield from BuildInfo(self._build).collect()
        yield _single("ready", "1 once everything is restored, and until the stop begins.", float(self._ready()))
        for name, documentation, value in (
            ("last_poll_timestamp_seconds", "When the Kafka loop last turned.", self._polled_at),
            ("checkpoint_timestamp_seconds", "When a checkpoint was last committed.", self._checkpoint_at),
            (
                "case_database_on_disk",
                "1 where cases are kept on disk, 0 in memory, since the disk gave out.",
                None if self._cases_on_disk is None else float(self._cases_on_disk),
            ),
            ("restore_duration_seconds", "How long the last rebuild of a partition took.", self._restore_s),
            (
                "policy_last_reload_successful",
                "1 where the last attempt to load the policy succeeded.",
                None if self._reload_successful is None else float(self._reload_successful),
            ),
            ("policy_last_reload_success_timestamp_seconds", "When a policy was last loaded.", self._reloaded_at),
        ):
            yield _single(name, documentation, value)

    def _account(self, account_sid: str) -> str:
        return self._aliases.get(account_sid, OTHER)

    def _positions_now(self) -> Iterator[Metric]:
        positions = sorted(self._positions.items())
        single, rest = positions[:PARTITIONS_MAX], positions[PARTITIONS_MAX:]
        watermark = _gauge("watermark_timestamp_seconds", "The log time of a partition.", "partition")
        tick = _gauge("tick_timestamp_seconds", "When the newest tick that came back was sent.", "partition")
        lag = _gauge("kafka_lag_messages", "Messages of a partition that are not judged yet.", "topic", "partition")
        for partition, position in single:
            _add(watermark, (str(partition),), _seconds(position.watermark_ms))
            _add(tick, (str(partition),), _seconds(position.tick_ms))
            _add(lag, (self._events_topic, str(partition)), position.lag)
        # Beyond the bound the worst of the rest stands for all of it, so that no alert misses it.
        _add(watermark, (OTHER,), _seconds(_least(position.watermark_ms for _, position in rest)))
        _add(tick, (OTHER,), _seconds(_least(position.tick_ms for _, position in rest)))
        _add(lag, (self._events_topic, OTHER), max((p.lag for _, p in rest if p.lag is not None), default=None))
        yield watermark
        yield tick
        yield lag
        window = _gauge("window_entries", "What the windows hold: open conversations and open recordings.", "kind")
        window.add_metric(["conversations"], sum(position.conversations for _, position in positions))
        window.add_metric(["recordings"], sum(position.recordings for _, position in positions))
        yield window

    def _accounts_now(self) -> Iterator[Metric]:
        """Of accounts that share an alias, the worst: one with recording on, the latest change, the oldest audit."""
        on: dict[str, int] = {}
        changed_ms: dict[str, int] = {}
        for account_sid, enabled, at_ms in self._flex():
            account = self._account(account_sid)
            on[account] = max(on.get(account, 0), int(enabled))
            if at_ms is not None:
                changed_ms[account] = max(changed_ms.get(account, 0), at_ms)
        enabled_now = _gauge("flex_call_recording_enabled", "1 where Flex call recording is on.", "account")
        for account, value in sorted(on.items()):
            enabled_now.add_metric([account], value)
        yield enabled_now
        changed = _gauge(
            "flex_call_recording_changed_timestamp_seconds",
            "When Flex call recording was last switched on or off.",
            "account",
        )
        for account, at_ms in sorted(changed_ms.items()):
            changed.add_metric([account], at_ms / 1000)
        yield changed
        audits = list(self._audits.items())
        drift: Tally[str] = Tally()
        for account_sid, audited in audits:
            drift[self._account(account_sid)] += audited.changed
        changes = _gauge("audit_changes", "What is not as in the audit that was accepted.", "account")
        for account, count in sorted(drift.items()):
            changes.add_metric([account], count)
        yield changes
        starts = _gauge("audit_starts", "What in the audited accounts can start recordings, by outcome.", "outcome")
        for outcome in OUTCOMES if audits else ():
            starts.add_metric([outcome], sum(audited.outcomes[outcome] for _, audited in audits))
        yield starts
        whole = [audited.at for _, audited in audits]
        oldest = min((at for at in whole if at is not None), default=None)
        yield _single("audit_timestamp_seconds", "When the account audited longest ago was audited whole.", oldest)

    def _verdicts_now(self) -> Iterator[Metric]:
        open_cases: dict[tuple[str, ...], int] = {}
        rules = self._rules.items()
        wanted = [
            (a, rule, s, severity) for a, (rule, severity), s in itertools.product(self._accounts, rules, SOURCES)
        ]
        if len(wanted) <= OPEN_CASES_MAX * 0.8:
            open_cases = dict.fromkeys(wanted, 0)
        in_progress = dict.fromkeys(itertools.product(self._accounts, OUTCOMES), 0)
        for case, count in self._open_cases().items():
            open_cases[case] = open_cases.get(case, 0) + count
        for state, count in self._verdicts.counts():
            in_progress[state] += count
        cases = _gauge("open_cases", "Recordings with an open case.", "account", "rule", "start_source", "severity")
        for labels, count in sorted(_within(open_cases, OPEN_CASES_MAX).items()):
            cases.add_metric(labels, count)
        yield cases
        progress = _gauge(
            "recordings_in_progress", "Recordings under way, by their outcome so far.", "account", "outcome"
        )
        for going_on, count in in_progress.items():
            progress.add_metric(going_on, count)
        yield progress


def _first_disallowed(before: str | None, verdict: Verdict) -> bool:
    """Whether this verdict is the first of its recording to be disallowed."""
    if verdict.outcome != DISALLOWED or before == DISALLOWED:
        return False
    return not verdict.history or all(earlier.outcome != DISALLOWED for earlier in verdict.history)


def _within(counts: Mapping[tuple[str, ...], int], bound: int) -> dict[tuple[str, ...], int]:
    """At most ``bound`` label sets: the smallest are added up under ``other``, apart by severity (the last label)."""
    if len(counts) <= bound:
        return dict(counts)
    by_size = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(by_size[: bound - 4])  # Room for one of each severity.
    for labels, count in by_size[bound - 4 :]:
        folded = (*(OTHER for _ in labels[1:]), labels[-1])
        kept[folded] = kept.get(folded, 0) + count
    return kept


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, documentation, labels=labels)


def _single(name: str, documentation: str, value: float | None) -> GaugeMetricFamily:
    """A gauge without labels; without a sample where the value is not known, for 0 would be a date in 1970."""
    family = _gauge(name, documentation)
    _add(family, (), value)
    return family


def _add(family: GaugeMetricFamily, labels: Sequence[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
