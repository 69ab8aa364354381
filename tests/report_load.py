"""What ``report`` takes for a month of a busy contact centre: ``python -m tests.report_load 1000000``.

So many recordings with a verdict are in the topic, one in a hundred of them disallowed. The command is a process of its
own, and the kernel says how much memory it had at most.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Producer

from monitor.core.verdict import encode_verdict, render_instant
from monitor.outputs.report import Report
from tests.broker import RealBroker
from tests.monitors import PROGRAM, Site, environment
from tests.reconcile_load import MEASURED
from tests.test_alerts import verdict

DISALLOWED_EVERY: Final = 100
SPAN_MS: Final = 6 * 86_400_000


class Taken(NamedTuple):
    """What a run of the command took: seconds, and the most memory it had."""

    report: Report
    seconds: float
    peak_bytes: int


def report(broker: RealBroker, directory: Path, count: int) -> Taken:
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
        while True:
            try:
                producer.produce(site.verdict_topic, encode_verdict(one), one.key, partition=number % site.partitions)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
    began = time.monotonic()
    command = ["report", "--since", "7d", "--format", "json", "--config", str(site.config())]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED + PROGRAM, *command], env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak_kib = int(done.stderr.split()[-1])
    return Taken(msgspec.json.decode(done.stdout, type=Report), time.monotonic() - began, peak_kib * 1024)


def main() -> None:
    """Measure and say."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        broker = RealBroker(Path(directory) / "broker")
        broker.start()
        try:
            taken = report(broker, Path(directory) / "site", count)
        finally:
            broker.kill()
            broker.remove_data()
    totals = taken.report.totals
    print(
        f"{totals.recordings:,} recordings, {totals.disallowed:,} of them disallowed: "
        f"{taken.seconds:.0f} s, {taken.peak_bytes / 2**20:.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
