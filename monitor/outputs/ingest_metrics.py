"""Metrics of the webhook bridge, in the registry of its process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from monitor.outputs.metrics import ERROR_KINDS_MAX, OTHER, PREFIX

PRODUCE_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class IngestMetrics:
    """What the bridge tells of itself. ``outcomes`` are all there are; ``wall_clock`` gives seconds since 1970."""

    def __init__(
        self, registry: CollectorRegistry, outcomes: Sequence[str], *, wall_clock: Callable[[], float]
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # A series more for each of ours, and read by nobody.
        self._wall_clock = wall_clock
        self._requests = {
            outcome: counter
            for made in [
                Counter(
                    f"{PREFIX}ingest_requests",
                    "Requests to the webhook bridge, by what they came to.",
                    ["outcome"],
                    registry=registry,
                )
            ]
            for outcome in outcomes
            for counter in [made.labels(outcome)]
        }
        self._events = Counter(
            f"{PREFIX}ingest_events", "Events the broker has acknowledged to the webhook bridge.", registry=registry
        )
        self._failures = Counter(
            f"{PREFIX}ingest_signature_failures",
            "Requests that were not shown to be Twilio's.",
            registry=registry,
        )
        self._last_valid = Gauge(
            f"{PREFIX}ingest_last_valid_signature_timestamp_seconds",
            "When a request was last shown to be Twilio's; 0 where none was since the start.",
            registry=registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}ingest_produce_duration_seconds",
            "From handing the events of a request to Kafka's client until the broker had acknowledged all of them.",
            buckets=PRODUCE_BUCKETS_S,
            registry=registry,
        )
        self._in_flight = Gauge(
            f"{PREFIX}ingest_in_flight_messages", "Messages on their way to the broker.", registry=registry
        )
        self._under_way = Gauge(
            f"{PREFIX}ingest_in_flight_requests", "Requests that are not answered yet.", registry=registry
        )
        self._errors = Counter(
            f"{PREFIX}ingest_kafka_errors",
            "Errors that the bridge's Kafka client reported, by kind.",
            ["kind"],
            registry=registry,
        )
        self._kinds: set[str] = set()

    def ask(self, *, messages: Callable[[], int], requests: Callable[[], int]) -> None:
        """Ask these whenever Prometheus reads."""
        self._in_flight.set_function(messages)
        self._under_way.set_function(requests)

    def answered(self, outcome: str) -> None:
        """A request was answered."""
        self._requests[outcome].inc()

    def produced(self, events: int, seconds: float) -> None:
        """So many events of a request were acknowledged, so long after they were handed over."""
        self._events.inc(events)
        self._seconds.observe(seconds)

    def signature_failed(self) -> None:
        """A request was not shown to be Twilio's."""
        self._failures.inc()

    def signature_valid(self) -> None:
        """A request was shown to be Twilio's."""
        self._last_valid.set(self._wall_clock())

    def kafka_error(self, kind: str) -> None:
        """The client reported an error; beyond a bound of kinds it is ``other``."""
        if kind not in self._kinds and len(self._kinds) >= ERROR_KINDS_MAX:
            kind = OTHER
        self._kinds.add(kind)
        self._errors.labels(kind).inc()
