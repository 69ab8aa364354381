"""One installation that pages: a site on a broker, real Alertmanagers, a receiver; and what a kill owes them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.alerting import Alerting, ReceivedAlert, alertmanager_config
from tests.broker import RealBroker
from tests.member import recording_event, recording_sid
from tests.monitors import Monitor, Site
from tests.verify import read_topic

SINGLE = "DisallowedRecording"
FLOOD = "DisallowedRecordingFlood"
BACKLOG = "DisallowedRecordingBacklog"
HEARTBEAT = "RecordingMonitorHeartbeat"
HOUR_MS = 3_600_000
# A tenth or so of what production has; the lease outlives every wait of a test but the one that is about it.
PACE: dict[str, int] = {
    "hold_ms": 2_500,
    "lease_ms": 60_000,
    "heartbeat_lease_ms": 3_000,
    "resend_ms": 1_000,
    "retry_ms": 300,
    "timeout_ms": 2_000,
    "resolved_for_ms": 4_000,
    "summary_after_ms": 1_500,
    "behind_wait_ms": 5_000,
    "fresh_ms": 5_000,
    "probe_ms": 500,
}


class Scene:
    """One installation that pages: a site, its Alertmanagers, who is told."""

    def __init__(
        self,
        broker: RealBroker,
        directory: Path,
        alerting: Alerting,
        *,
        alertmanagers: int = 1,
        stamped_by_producers: bool = False,
    ) -> None:
        self.receiver = alerting.receiver()
        config = alertmanager_config(self.receiver, group_wait="500ms")
        # A page for each recording, so that what one is told of and how often is plain to see.
        config["route"]["group_by"] = ["alertname", "recording_sid"]
        self.alertmanagers = [alerting.alertmanager(config) for _ in range(alertmanagers)]
        self.site = Site(broker, directory, partitions=2, stamped_by_producers=stamped_by_producers)

    def monitor(self, pace: Any = None, **settings: Any) -> Monitor:
        given = {
            "alertmanagers": [one.url for one in self.alertmanagers],
            "web": {"listen": "127.0.0.1:0", "external_url": "https://monitor.example.com"},
            **settings,
        }
        return self.site.start_quick(
            window=timedelta(minutes=10), tick_every=timedelta(seconds=1), pace={**PACE, **(pace or {})}, **given
        )

    def begin(self, number: int, **more: Any) -> None:
        """A recording that is not allowed begins."""
        self.site.send([recording_event(number, **more)])

    def end(self, number: int, **more: Any) -> None:
        self.site.send([recording_event(number, status="completed", **more)])

    def told(self, number: int, status: str = "firing", **more: Any) -> ReceivedAlert:
        return self.receiver.wait_for(status, alertname=SINGLE, recording_sid=recording_sid(number), **more)

    def notified(self, status: str = "firing", name: str = SINGLE) -> set[str]:
        """Of which recordings (or, for other alerts, accounts) somebody was told."""
        label = "recording_sid" if name == SINGLE else "account"
        return {a.labels[label] for _, a in self.receiver.alerts() if a.name == name and a.status == status}

    def marked(self) -> set[str]:
        """Of which recordings it is written that somebody was told."""
        actions = read_topic(self.site.bootstrap, self.site.settings["topics"]["case_actions"])
        return {str(message.key).partition("/")[0] for message in actions if message.value is not None}

    def told_twice(self) -> list[str]:
        """For what somebody was woken again. The heartbeat is meant to begin again, with each monitor."""
        return [said for said in self.receiver.told_twice() if HEARTBEAT not in said]


def kill_at_random(scene: Scene, numbers: Iterable[int], chance: random.Random, **settings: Any) -> None:
    """One recording after the other begins, and the monitor is killed at any moment from the message on.

    That is: before it is judged, written, read back, sent, answered, or marked as told.
    """
    for number in numbers:
        with scene.monitor(**settings) as monitor:
            monitor.ready()
            scene.begin(number)
            time.sleep(chance.choice([0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3]))
            monitor.kill()
