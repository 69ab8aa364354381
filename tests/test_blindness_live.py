"""The monitor knows when it is blind: the shipped rules and routes in a real Prometheus and Alertmanager.

Twilio's events go through the real core into the real metrics; a day of the rules is ``DAY_S`` here.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from monitor.core.account_settings import AccountSettings
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Tuning
from monitor.core.policy import built_in_policy
from monitor.inputs.ingest import OUTCOMES
from monitor.outputs.ingest_metrics import IngestMetrics
from monitor.outputs.metrics import Metrics
from tests.alerting import Exporter, Prometheus, ReceivedAlert, Receiver, prometheus_config, quickened, with_webhooks
from tests.monitors import until
from tests.test_alertmanager_config import shipped
from tests.test_prometheus_rules import RULES
from tests.test_prometheus_rules_live import SOON

SAMPLES = Path(__file__).parent / "samples"
RECORDED = "com.twilio.voice.status-callback.recording.processed"
CALLED = "com.twilio.voice.status-callback.call.completed"
JOINED = "com.twilio.voice.status-callback.conference.participant.updated"
SINK_ERROR = "com.twilio.error-logs.error.logged"
SAMPLE_OF = {
    RECORDED: f"{RECORDED}.call-completed.json",
    CALLED: f"{CALLED}.json",
    JOINED: f"{JOINED}.participant-join.json",
    SINK_ERROR: f"{SINK_ERROR}.json",
}
DAY_S = 20
SPANS = {"15m": "3s", "30m": "5s", "3h": "10s", "1d": f"{DAY_S}s", "3d": f"{2 * DAY_S}s", "1w": "1h"}
PER_SECOND = 15.0
_SIDS = re.compile(r"\b(RE|CA|CF)[0-9a-f]{32}\b")
BLIND = ("StreamStopped", "TypeSilent", "SinkFailing", "BridgeDown", "TickLost")


class Stream:
    """A stream of Twilio's events and the monitor that judges it. ``rates`` are events a second, by type."""

    def __init__(self) -> None:
        self.rates = dict.fromkeys((RECORDED, CALLED, JOINED), PER_SECOND)
        self.spelled: dict[str, str] = {}
        self.kafka_answers = True
        self.metrics = Metrics(aliases={}, process=False)
        start = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
        self._pipeline = Pipeline(
            Tuning(recordings_too_old_ms=None),
            built_in_policy(),
            AccountSettings(),
            partition=0,
            checkpoint=start,
            skip=frozenset(),
        )
        self._pipeline.open(Ledger())
        self._samples = {type_: (SAMPLES / name).read_text(encoding="utf-8") for type_, name in SAMPLE_OF.items()}
        self._lock = threading.RLock()  # Prometheus asks from one thread, the test sends from another.
        self._offset = 0
        self._owed: dict[str, float] = {}
        self._at = time.time()
        self._tick_ms = 0

    def send(self, type_: str, count: int = 1) -> None:
        """Events of a type, as Twilio spells it just now."""
        with self._lock:
            for _ in range(count):
                # Each of another recording, call and conference.
                text = _SIDS.sub(lambda sid: f"{sid[1]}{self._offset:032x}", self._samples[type_])
                event = {**json.loads(text), "id": f"EZ{self._offset:032x}", "type": self.spelled.get(type_, type_)}
                if type_ == SINK_ERROR:
                    event["data"] = {**event["data"], "error_code": "91304"}
                self._pipeline.feed(self._offset, round(time.time() * 1000), json.dumps(event).encode())
                self._offset += 1

    def export(self) -> str:
        """What has come since Prometheus last asked, and what the monitor then says."""
        with self._lock:
            now = time.time()
            for type_, rate in list(self.rates.items()):
                owed = self._owed.get(type_, 0.0) + rate * (now - self._at)
                self.send(type_, int(owed))
                self._owed[type_] = owed - int(owed)
            self._at = now
            self.metrics.count(self._pipeline.take_counts())
            self.metrics.polled(now)
            if self.kafka_answers:
                self._tick_ms = round(now * 1000)
            # What a minute is to the rule is none here: a tick that is lost has been lost for long.
            lost_ms = 0 if self.kafka_answers else 600_000
            self.metrics.partition(0, watermark_ms=round(now * 1000), lag=0, tick_ms=self._tick_ms - lost_ms)
            return f"process_start_time_seconds {now - 90_000}\n" + generate_latest(self.metrics.registry).decode()


class Site:
    """One installation: a stream, a bridge, and who hears of them."""

    def __init__(self, alerting, directory: Path) -> None:
        self.receiver: Receiver = alerting.receiver()
        routes = quickened(with_webhooks(shipped(), self.receiver), SOON)
        routes["templates"] = []
        alertmanager = alerting.alertmanager(routes)
        self.stream = Stream()
        monitor: Exporter = alerting.exporter()
        monitor.metrics = self.stream.export
        self.bridge: Exporter = alerting.exporter()
        bridging = Metrics(aliases={}, process=False)
        IngestMetrics(bridging.registry, OUTCOMES, wall_clock=time.time)
        ingested = [line for line in generate_latest(bridging.registry).decode().splitlines() if "ingest" in line]
        self.bridge.metrics = lambda: "\n".join(ingested) + "\n"
        rules = directory / "rules.yml"
        rules.write_text(yaml.safe_dump(scaled(quickened(yaml.safe_load(RULES.read_text(encoding="utf-8")), SOON))))
        self.prometheus: Prometheus = alerting.prometheus(
            prometheus_config(
                targets={"recording-monitor": [monitor.address], "bridge": [self.bridge.address]},
                alertmanagers=[alertmanager.address],
                rule_files=[rules],
                interval="500ms",
            )
        )
        until(lambda: self.prometheus.query("recording_monitor_build_info"), why=self.prometheus.log_tail)

    def days(self, count: float) -> None:
        """Wait until the rules have seen so many days."""
        wanted = f"count_over_time(recording_monitor:events:total15m[10m]) >= {count * DAY_S * 2}"
        until(lambda: self.prometheus.query(wanted), why=self.prometheus.log_tail)

    def paged(self, name: str, since: float) -> dict[str, str]:
        """Wait for a page, and return its labels."""
        found: ReceivedAlert = self.receiver.wait_for(
            "firing", "pager", since=since, alertname=f"RecordingMonitor{name}"
        )
        return found.labels

    def blind(self) -> set[str]:
        """The pages so far that say that the monitor is blind."""
        told = {alert.name.removeprefix("RecordingMonitor") for _, alert in self.receiver.alerts("pager")}
        return told & set(BLIND)


def scaled(rules):
    """The same rules with other spans inside their expressions."""
    span = re.compile(r"(?<=\[)(\d+[mhdw])(?=\])|(?<=offset )(\d+[mhdw])\b")
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = span.sub(lambda found: SPANS.get(found[0], found[0]), rule["expr"])
    return rules


@pytest.fixture
def site(alerting, tmp_path: Path) -> Site:
    return Site(alerting, tmp_path)


def test_every_way_to_go_blind_pages_and_ends_when_it_is_mended(site: Site) -> None:
    site.days(1.2)
    assert site.blind() == set()

    def blinded(name: str, go_blind: Callable[[], object], mend: Callable[[], object]) -> dict[str, str]:
        began = time.time()
        go_blind()
        labels = site.paged(name, began)
        mend()
        site.receiver.wait_for("resolved", "pager", since=began, alertname=f"RecordingMonitor{name}")
        return labels

    rates, stream = dict(site.stream.rates), site.stream

    # Twilio renames a type: it comes, and nobody knows it.
    renamed = "com.twilio.voice.status-callback.recording.finished"
    silent = blinded(
        "TypeSilent", lambda: stream.spelled.update({RECORDED: renamed}), lambda: stream.spelled.pop(RECORDED)
    )
    assert silent["type"] == RECORDED
    assert site.prometheus.query(f'recording_monitor_unknown_events_total{{type="{renamed}"}} > 20')

    # A type is taken out of the subscription.
    silent = blinded("TypeSilent", lambda: stream.rates.pop(JOINED), lambda: stream.rates.update(rates))
    assert silent["type"] == JOINED

    # The subscription is removed, or the stream stops some other way: nothing comes.
    blinded("StreamStopped", stream.rates.clear, lambda: stream.rates.update(rates))

    # Twilio says that it cannot deliver.
    blinded("SinkFailing", lambda: stream.send(SINK_ERROR, 2), lambda: None)

    def let_the_bridge(answer: bool) -> None:
        site.bridge.answers = answer

    blinded("BridgeDown", lambda: let_the_bridge(False), lambda: let_the_bridge(True))

    def let_kafka(answer: bool) -> None:
        stream.kafka_answers = answer

    # Kafka is away: what is written does not come back.
    blinded("TickLost", lambda: let_kafka(False), lambda: let_kafka(True))
    assert site.blind() == set(BLIND)


def test_nights_and_a_holiday_wake_nobody(site: Site) -> None:
    stream, rates = site.stream, dict(site.stream.rates)
    for day in ("work", "work", "holiday"):
        if day == "work":
            stream.rates.update(rates)
            time.sleep(DAY_S * 0.45)
            stream.rates.update(dict.fromkeys(rates, 1.0))  # The evening grows thin,
            time.sleep(DAY_S * 0.2)
        stream.rates.update(dict.fromkeys(rates, 0.0))  # and the night is silent.
        time.sleep(DAY_S * (0.35 if day == "work" else 1.0))
    site.days(2.5)
    assert site.blind() == set()
