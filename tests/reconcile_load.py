"""What ``reconcile`` takes for a list as long as a busy day's: ``python -m tests.reconcile_load 1000000``.

Twilio lists so many recordings, all but one in a thousand of them with a verdict; the command is a process of its own,
and the kernel says how much memory it had at most.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from confluent_kafka import Producer

from tests.broker import RealBroker
from tests.monitors import PROGRAM, Site, environment
from tests.twilio_recordings import put_many
from tests.twilio_server import TwilioServer

MISSED_EVERY: Final = 1000


class Taken(NamedTuple):
    """What a run of the command took: seconds, and the most memory it had."""

    report: dict[str, Any]
    seconds: float
    peak_bytes: int


def reconcile(broker: RealBroker, directory: Path, count: int) -> Taken:
    """Reconcile so many recordings, a second apart, without writing anything."""
    with TwilioServer(held=False) as twilio:
        account = twilio.account()
        put_many(twilio, account.sid, count, datetime.now(UTC) - timedelta(minutes=10))
        directory.mkdir(parents=True, exist_ok=True)
        site = Site(broker, directory, **twilio.settings(directory, account))
        producer = Producer({"bootstrap.servers": site.bootstrap, "linger.ms": 50, "compression.type": "lz4"})
        for number in range(count):
            if number % MISSED_EVERY:
                sid = f"RE{number:032x}"
                said = {"account_sid": account.sid, "recording_sid": sid, "found_by": "stream", "reason": "x" * 100}
                while True:
                    try:
                        producer.produce(site.verdict_topic, msgspec.json.encode(said), sid)
                        break
                    except BufferError:
                        producer.poll(0.1)
        assert producer.flush(120) == 0
        command = ["reconcile", "--since", f"{count + 3600}s", "--dry-run", "--format", "json"]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", MEASURED + PROGRAM, *command, "--config", str(site.config())],
            env=environment(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        peak_kib = int(done.stderr.split()[-1])
        return Taken(json.loads(done.stdout), time.monotonic() - began, peak_kib * 1024)


# It says on stderr, last of all, the most memory it had.
MEASURED: Final = (
    "import atexit, resource, sys\n"
    "atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))\n"
)


def main() -> None:
    """Measure and say."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        broker = RealBroker(Path(directory) / "broker")
        broker.start()
        try:
            taken = reconcile(broker, Path(directory) / "site", count)
        finally:
            broker.kill()
            broker.remove_data()
    [account] = taken.report["accounts"]
    print(
        f"{account['listed']:,} listed, {account['missed']:,} missed, coverage {taken.report['coverage']:.4%}: "
        f"{taken.seconds:.0f} s, {taken.peak_bytes / 2**20:.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
