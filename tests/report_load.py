"""What ``report`` takes for a month of a busy contact centre: ``python -m tests.report_load 1000000``.

So many recordings with a verdict are in the topic, one in a hundred of them disallowed. The command is a process of its
own, and the kernel says how much memory it had at most.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import Producer

from monitor.core.verdict import encode_verdict, render_instant
from monitor.outputs.report import Report
from tests.broker import RealBroker, produce
from tests.measured import Taken, measured, own_broker
from tests.monitors import Site
from tests.test_alerts import verdict

DISALLOWED_EVERY: Final = 100
SPAN_MS: Final = 6 * 86_400_000


def report(broker: RealBroker, directory: Path, count: int) -> Taken[Report]:
    """Report so many recordings of the last six days."""
    site = Site(broker, directory)
    broker.create_topic(site.settings["topics"]["case_actions"], 1, cleanup_policy="compact")
    producer = Producer({"bootstrap.servers": site.bootstrap, "linger.ms": 50, "compression.type": "lz4"})
    now_ms = time.time_ns() // 1_000_000
    for number in range(count):
        at_ms = now_ms - SPAN_MS + number * SPAN_MS // count
        one = verdict(number, at=number, since=None if number % DISALLOWED_EVERY else at_ms)
        at = render_instant(at_ms)
        alert = None if number % DISALLOWED_EVERY else one.alert
        one = msgspec.structs.replace(one, started_at=at, first_seen_at=at, decided_at=at, alert=alert, final=True)
        produce(producer, site.verdict_topic, encode_verdict(one), one.key, partition=number % site.partitions)
    assert producer.flush(120) == 0
    command = ("report", "--since", "7d", "--format", "json")
    return measured(site, *command, code=0, read=msgspec.json.Decoder(Report).decode)


def main() -> None:
    """Measure and say."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with own_broker() as (broker, directory):
        taken = report(broker, directory, count)
    totals = taken.report.totals
    print(f"{totals.recordings:,} recordings, {totals.disallowed:,} of them disallowed: {taken}")


if __name__ == "__main__":
    main()
