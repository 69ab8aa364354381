"""What the bridge tells Prometheus: the text others read, and what it counts."""

from __future__ import annotations

import subprocess

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from monitor.inputs.ingest import OUTCOMES
from monitor.outputs.ingest_metrics import IngestMetrics
from monitor.outputs.metrics import ERROR_KINDS_MAX


def observed() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = IngestMetrics(registry, OUTCOMES, wall_clock=lambda: 1_790_000_000.5)
    metrics.ask(messages=lambda: 7, requests=lambda: 3)
    for outcome in ("accepted", "accepted", "forbidden"):
        metrics.answered(outcome)
    metrics.produced(5, 0.02)
    metrics.signature_valid()
    metrics.signature_failed()
    metrics.kafka_error("transport")
    return registry


def test_the_metrics_read_as_reviewed(golden):
    golden("ingest-metrics.txt", generate_latest(observed()).decode())


def test_promtool_has_nothing_against_them(promtool):
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(observed()), capture_output=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_kinds_of_errors_have_a_bound():
    registry = CollectorRegistry()
    metrics = IngestMetrics(registry, OUTCOMES, wall_clock=lambda: 0.0)
    for number in range(2 * ERROR_KINDS_MAX):
        metrics.kafka_error(f"kind_{number}")

    lines = openmetrics(registry).decode().splitlines()
    assert sum(line.startswith("recording_monitor_ingest_kafka_errors_total{") for line in lines) == ERROR_KINDS_MAX + 1
