"""What ``reconcile`` takes for a list as long as a busy day's: ``python -m tests.reconcile_load 1000000``.

Twilio lists so many recordings, all but one in a thousand of them with a verdict; the command is a process of its own,
and the kernel says how much memory it had at most.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import Producer

from tests.broker import RealBroker, produce
from tests.measured import Taken, measured, own_broker
from tests.monitors import Site
from tests.twilio_recordings import put_many
from tests.twilio_server import TwilioServer

MISSED_EVERY: Final = 1000


def reconcile(broker: RealBroker, directory: Path, count: int) -> Taken[dict[str, Any]]:
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
                produce(producer, site.verdict_topic, msgspec.json.encode(said), sid)
        assert producer.flush(120) == 0
        command = ("reconcile", "--since", f"{count + 3600}s", "--dry-run", "--format", "json")
        return measured(site, *command, code=1, read=json.loads)


def main() -> None:
    """Measure and say."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with own_broker() as (broker, directory):
        taken = reconcile(broker, directory, count)
    [account] = taken.report["accounts"]
    print(
        f"{account['listed']:,} listed, {account['missed']:,} missed, coverage {taken.report['coverage']:.4%}: {taken}"
    )


if __name__ == "__main__":
    main()
