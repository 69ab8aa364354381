"""The shipped rules, routes and inhibition together, in a real Prometheus and Alertmanager, as far as the receiver.

What the monitor exports is its own registry, or is written by the test; only the times of rules and routes are shorter.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from monitor.core.policy import built_in_policy
from monitor.outputs.metrics import Metrics
from tests.alerting import Alertmanager, Exporter, Prometheus, Receiver, prometheus_config, quickened, with_webhooks
from tests.monitors import until
from tests.test_alertmanager_config import shipped
from tests.test_prometheus_rules import RULES

SOON = dict.fromkeys(("15s", "1m", "2m", "3m", "5m", "10m", "15m", "30m", "1h"), "1s")


@dataclass
class Told:
    """What the monitor exports: how long ago something was, in seconds, and how many."""

    polled_s: float = 0.0
    accepted_s: float = 0.0
    refused: int = 0
    open_cases: int = 0

    def metrics(self) -> str:
        now = time.time()
        case = 'account="main",rule="default",start_source="Conference"'
        return f"""\
process_start_time_seconds {now - 90_000}
recording_monitor_last_poll_timestamp_seconds {now - self.polled_s}
recording_monitor_watermark_timestamp_seconds{{partition="0"}} {now}
recording_monitor_tick_timestamp_seconds{{partition="0"}} {now}
recording_monitor_kafka_lag_messages{{topic="twilio-events",partition="0"}} 0
recording_monitor_open_cases{{{case},severity="critical"}} {self.open_cases}
recording_monitor_open_cases{{{case},severity="warning"}} 7
recording_monitor_alert_last_success_timestamp_seconds{{alertmanager="a"}} {now - self.accepted_s}
recording_monitor_alert_sends_total{{alertmanager="a",result="failed"}} {self.refused}
"""


@dataclass
class Site:
    """One installation: what the monitor says, and who hears of it."""

    told: Told
    target: Exporter
    receiver: Receiver
    alertmanager: Alertmanager
    prometheus: Prometheus

    def pages(self) -> set[str]:
        return {alert.name for _, alert in self.receiver.alerts("pager")}


@pytest.fixture
def site(alerting, tmp_path: Path) -> Site:
    receiver = alerting.receiver()
    routes = quickened(with_webhooks(shipped(), receiver), SOON)
    routes["templates"] = []
    alertmanager = alerting.alertmanager(routes)
    told = Told()
    target = alerting.exporter()
    target.metrics = told.metrics
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(quickened(yaml.safe_load(RULES.read_text(encoding="utf-8")), SOON)))
    prometheus = alerting.prometheus(
        prometheus_config(
            targets={"recording-monitor": [target.address]},
            alertmanagers=[alertmanager.address],
            rule_files=[rules],
        )
    )
    # Before that it would be down, and after it nothing is wrong.
    until(lambda: prometheus.query("recording_monitor_last_poll_timestamp_seconds"), why=prometheus.log_tail)
    return Site(told, target, receiver, alertmanager, prometheus)


def test_a_monitor_that_is_gone_pages_once_and_holds_back_what_follows_from_it(site):
    site.receiver.wait_for("firing", "dead-man-prometheus", alertname="Watchdog")
    assert site.pages() <= {
        "RecordingMonitorDown"
    }  # Perhaps before the first scrape: its three minutes are one second.

    began = time.time()
    site.target.answers = False
    fired = site.receiver.wait_for("firing", "pager", since=began, alertname="RecordingMonitorDown")
    assert fired.annotations["runbook_url"].endswith("/RecordingMonitorDown.md")
    site.receiver.wait_for("firing", "chat", since=began, alertname="RecordingMonitorDown")
    # Nobody judges its partition either, and that is no news.
    until(
        lambda: (
            [a["status"]["state"] for a in site.alertmanager.alerts(alertname="RecordingMonitorPartitionUnowned")]
            == ["suppressed"]
        ),
        why=site.receiver.summary,
    )

    site.target.answers = True
    site.receiver.wait_for("resolved", "pager", since=began, alertname="RecordingMonitorDown")
    until(lambda: not site.prometheus.alerts(alertname="RecordingMonitorPartitionUnowned"))
    assert site.pages() == {"RecordingMonitorDown"}


def test_a_monitor_that_is_well_sets_off_nothing_but_the_watchdog(site):
    """Its real registry: a rule that misread what is exported would fire here."""
    began = time.time()
    metrics = Metrics(aliases={"AC" + "1" * 32: "main"})
    metrics.policy_loaded(built_in_policy(), began)
    metrics.assigned("twilio-events", 1)

    def at_work() -> str:
        now = time.time()
        metrics.polled(now)
        now_ms = round(now * 1000)
        metrics.partition(0, watermark_ms=now_ms, lag=0, tick_ms=now_ms, conversations=1, recordings=0)
        return generate_latest(metrics.registry).decode()

    site.target.metrics = at_work
    until(lambda: site.prometheus.query("recording_monitor_build_info"), why=site.prometheus.log_tail)
    # Five evaluations, each with a minute's patience shortened to a second.
    until(lambda: site.prometheus.query("count_over_time(recording_monitor_build_info[1m]) >= 5"))
    until(lambda: {alert["labels"]["alertname"] for alert in site.prometheus.alerts()} == {"Watchdog"})
    assert site.pages() <= {"RecordingMonitorDown"}  # Before the first scrape.


def test_a_loop_that_stands_still_pages_and_its_turning_resolves(site):
    site.told.polled_s = 120
    fired = site.receiver.wait_for("firing", "pager", alertname="RecordingMonitorStalled")
    assert fired.labels["instance"] == site.target.address
    assert "has not turned for 2m" in fired.annotations["description"]

    site.told.polled_s = 0
    resolved = site.receiver.wait_for("resolved", "pager", alertname="RecordingMonitorStalled")
    assert resolved.fingerprint == fired.fingerprint


def test_the_backstop_pages_for_open_cases_only_while_pushing_fails(site):
    site.told.open_cases = 3
    until(lambda: site.prometheus.query("recording_monitor:open_cases:max == 3"))
    site.receiver.wait_for("firing", "dead-man-prometheus", since=time.time(), alertname="Watchdog")
    assert "RecordingMonitorDisallowedRecording" not in site.pages()

    site.told.accepted_s = 300
    site.told.refused += 5
    fired = site.receiver.wait_for("firing", "pager", alertname="RecordingMonitorDisallowedRecording")
    assert {fired.labels[name] for name in ("account", "rule", "start_source")} == {"main", "default", "Conference"}
    assert fired.annotations["description"].startswith("3 open cases of account main")
    site.receiver.wait_for("firing", "pager", alertname="RecordingMonitorAlertDeliveryFailing")

    site.told.accepted_s = 0
    site.receiver.wait_for("resolved", "pager", alertname="RecordingMonitorDisallowedRecording")
    site.receiver.wait_for("resolved", "pager", alertname="RecordingMonitorAlertDeliveryFailing")


def test_the_watchdog_comes_again_and_again_and_ends_with_prometheus(site):
    for _ in range(3):
        site.receiver.wait_for("firing", "dead-man-prometheus", since=time.time(), alertname="Watchdog")

    site.prometheus.kill()
    until(lambda: not site.alertmanager.alerts(alertname="Watchdog"), why=site.receiver.summary)

    def other_dead_man_is_heard():
        now = dt.datetime.now(dt.UTC)
        heartbeat = {"alertname": "RecordingMonitorHeartbeat", "severity": "none"}
        ends = now + dt.timedelta(minutes=5)
        site.alertmanager.post(
            "/api/v2/alerts", [{"labels": heartbeat, "startsAt": now.isoformat(), "endsAt": ends.isoformat()}]
        )
        site.receiver.wait_for("firing", "dead-man-monitor", since=time.time(), **heartbeat)

    # Alertmanager itself goes on: the silence is Prometheus'. A last word may be under way with the first heartbeat.
    other_dead_man_is_heard()
    silent_since = time.time()
    other_dead_man_is_heard()
    other_dead_man_is_heard()
    # Not even that it is over.
    assert [n for n in site.receiver.notifications if n.path == "dead-man-prometheus" and n.at > silent_since] == []
