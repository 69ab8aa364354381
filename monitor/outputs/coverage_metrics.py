"""Coverage as metrics: of the recordings that Twilio's REST API lists, how many the stream told us of.

Each process tells of the accounts that are its own, added up by alias. Where one of an alias' accounts cannot be asked
about, its coverage is not a number: nobody shall read 100 % where nobody has looked.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitor.outputs.metrics import ACCOUNTS_MAX, OTHER, PREFIX

ENRICHED: Final = ("answered", "refused", "dropped")


class _Standing(NamedTuple):
    known: int
    seen: int
    at: float


class CoverageMetrics(Collector):
    """Coverage by alias. ``aliases`` are those of the settings that can be asked about; beyond the bound of labels they
    are one.
    """

    def __init__(self, registry: CollectorRegistry, aliases: Sequence[str]) -> None:
        self._lock = threading.Lock()  # Prometheus may be answered on another thread.
        single = aliases[:ACCOUNTS_MAX]
        self._aliases: Final = frozenset(single if len(single) == len(aliases) else [*single, OTHER])
        self._standing: dict[str, dict[str, _Standing | None]] = {}
        self._not_found: set[str] = set()
        self._missed = Counter(
            PREFIX + "recordings_missed",
            "Recordings that Twilio lists and the stream did not tell of.",
            ("account",),
            registry=registry,
        )
        self._enriched = Counter(
            PREFIX + "enrichments",
            "Answers of Twilio's about recordings that are not allowed, by what came of asking.",
            ("result",),
            registry=registry,
        )
        for result in ENRICHED:
            self._enriched.labels(result)
        for alias in sorted(self._aliases):
            self._missed.labels(alias)
        registry.register(self)

    def listed(self, alias: str, account_sid: str, *, known: int, seen: int, at: float) -> None:
        """An account was listed to the end at ``at`` (Unix time): recordings of the last day, and of these the seen."""
        with self._lock:
            self._standing.setdefault(self._label(alias), {})[account_sid] = _Standing(known, seen, at)

    def unknown(self, alias: str, account_sid: str) -> None:
        """An account can't be listed."""
        with self._lock:
            self._standing.setdefault(self._label(alias), {})[account_sid] = None

    def gone(self, alias: str, account_sid: str) -> None:
        """Somebody else lists an account."""
        with self._lock:
            accounts = self._standing.get(self._label(alias), {})
            accounts.pop(account_sid, None)

    def missed(self, alias: str, count: int) -> None:
        """The stream did not tell of so many recordings."""
        self._missed.labels(self._label(alias)).inc(count)

    def enriched(self, result: str) -> None:
        """Twilio was asked about a recording, with one of the results of ``ENRICHED``."""
        self._enriched.labels(result).inc()

    def accounts_found(self, alias: str, *, found: bool) -> None:
        """Whether Twilio tells which accounts belong to an alias."""
        with self._lock:
            if found:
                self._not_found.discard(self._label(alias))
            else:
                self._not_found.add(self._label(alias))

    def _label(self, alias: str) -> str:
        return alias if alias in self._aliases else OTHER

    def describe(self) -> Iterable[Metric]:
        """Name the families without their values, so that registering asks nobody."""
        return [Metric(family.name, family.documentation, family.type) for family in self.collect()]

    def collect(self) -> Iterator[Metric]:
        """Read what stands now."""
        with self._lock:
            standing = {alias: list(self._standing.get(alias, {}).values()) for alias in sorted(self._aliases)}
            not_found = set(self._not_found)
        recordings = _gauge("listed_recordings", "Recordings of the last day that Twilio lists.")
        seen = _gauge("listed_recordings_seen", "Of these, those that the stream told of.")
        ratio = _gauge("coverage_ratio", "The share the stream told of; not a number where that is not known.")
        known = _gauge("coverage_known", "1 where Twilio can be asked for recordings, 0 where it can't.")
        at = _gauge("listing_timestamp_seconds", "When recordings were last listed to the end; of several, the oldest.")
        for alias, accounts in standing.items():
            if not accounts and alias not in not_found:
                continue  # Somebody else's.
            there = [one for one in accounts if one is not None]
            is_known = bool(there) and len(there) == len(accounts) and alias not in not_found
            of_these, told = sum(one.known for one in there), sum(one.seen for one in there)
            known.add_metric([alias], is_known)
            ratio.add_metric([alias], told / of_these if is_known and of_these else math.nan)
            if is_known:
                recordings.add_metric([alias], of_these)
                seen.add_metric([alias], told)
                at.add_metric([alias], min(one.at for one in there))
        yield from (recordings, seen, ratio, known, at)


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, documentation, labels=["account"])
