"""The rig for alerting is what it says: real servers, and a receiver that misses nothing and counts right."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.alerting import (
    Notification,
    ReceivedAlert,
    Receiver,
    alertmanager_config,
    prometheus_config,
    quickened,
    with_webhooks,
)
from tests.monitors import until

WEBHOOK = {"version": "4", "groupKey": "{}", "status": "firing"}


def instant(offset_s: float = 0.0) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=offset_s)).isoformat()


def alert(starts_at: str, ends_at: str, **labels: str) -> dict[str, object]:
    return {
        "labels": {"alertname": "Probe", **labels},
        "annotations": {"summary": "A probe."},
        "startsAt": starts_at,
        "endsAt": ends_at,
        "generatorURL": "http://monitor.example.com/cases/1",
    }


def test_an_alert_is_notified_and_so_is_its_end(alerting):
    receiver = alerting.receiver()
    manager = alerting.alertmanager(alertmanager_config(receiver))
    began = instant()

    manager.post("/api/v2/alerts", [alert(began, instant(900), recording_sid="RE1")])
    fired = receiver.wait_for("firing", recording_sid="RE1")
    assert fired.annotations == {"summary": "A probe."}
    assert fired.generator_url == "http://monitor.example.com/cases/1"
    assert [held["fingerprint"] for held in manager.alerts(recording_sid="RE1")] == [fired.fingerprint]

    manager.post("/api/v2/alerts", [alert(began, instant(-0.001), recording_sid="RE1")])
    resolved = receiver.wait_for("resolved", "all", recording_sid="RE1")
    assert (resolved.fingerprint, resolved.starts_at) == (fired.fingerprint, fired.starts_at)
    assert receiver.told_twice() == []


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_was_notified_is_not_notified_again_after_a_restart(alerting, end):
    receiver = alerting.receiver()
    manager = alerting.alertmanager(alertmanager_config(receiver))
    began = instant()
    old = alert(began, instant(900), recording_sid="RE1")
    manager.post("/api/v2/alerts", [old])
    receiver.wait_for("firing", recording_sid="RE1")
    kept = manager.directory / "data" / "nflog"
    until(lambda: kept.exists() and kept.stat().st_size, why=manager.log_tail)
    address = manager.address

    getattr(manager, end)()
    assert not manager.running
    manager.start()
    assert manager.address == address
    # Its alerts were in memory only: whoever raised them sends them again.
    manager.post("/api/v2/alerts", [old])
    manager.post("/api/v2/alerts", [alert(began, instant(900), alertname="Other")])
    receiver.wait_for("firing", alertname="Other")
    until(lambda: manager.alerts(recording_sid="RE1"))
    # Its group was flushed, and found nothing to tell.
    until(lambda: "Probe" in groups_flushed(manager))

    assert [a.name for _, a in receiver.alerts()] == ["Probe", "Other"]
    assert receiver.told_twice() == []


def groups_flushed(manager, after_s=3):
    """The alertnames whose group has been looked at by now, which takes no longer than group_wait or group_interval."""
    groups = manager.get("/api/v2/alerts/groups")
    began = dt.datetime.fromtimestamp(time.time() - after_s, dt.UTC)
    return {
        group["labels"]["alertname"]
        for group in groups
        for held in group["alerts"]
        if dt.datetime.fromisoformat(held["updatedAt"]) < began
    }


def test_two_alertmanagers_of_one_cluster_notify_once(alerting):
    receiver = alerting.receiver()
    config = alertmanager_config(receiver)
    first = alerting.alertmanager(config, peers=[])
    second = alerting.alertmanager(config, peers=[first])
    until(lambda: len(second.get("/api/v2/status")["cluster"]["peers"]) == 2, why=second.log_tail)
    until(lambda: len(first.get("/api/v2/status")["cluster"]["peers"]) == 2, why=first.log_tail)
    sent = [alert(instant(), instant(900), recording_sid="RE1")]

    first.post("/api/v2/alerts", sent)
    second.post("/api/v2/alerts", sent)
    receiver.wait_for("firing", recording_sid="RE1")
    # The second waits as long as a peer may take (8 s), and then finds that it has been told.
    until(lambda: "Probe" in groups_flushed(second, after_s=12))
    assert len(receiver.notifications) == 1

    first.kill()
    second.post("/api/v2/alerts", [alert(instant(), instant(900), alertname="Other")])
    receiver.wait_for("firing", alertname="Other")


def test_a_paused_server_answers_nobody_until_it_goes_on(alerting):
    manager = alerting.alertmanager(alertmanager_config(alerting.receiver()))
    with manager.paused():
        assert "T" in Path(f"/proc/{manager.pid}/stat").read_text().split()[2].upper()
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(f"{manager.url}/-/ready", timeout=0.5)
    until(lambda: manager.get("/api/v2/status"))


def test_an_alert_without_a_name_is_refused_as_in_production(alerting):
    manager = alerting.alertmanager(alertmanager_config(alerting.receiver()))
    with pytest.raises(urllib.error.HTTPError, match="400"):
        manager.post("/api/v2/alerts", [{"labels": {}}])


def test_a_receiver_that_refuses_is_told_again(alerting):
    receiver = alerting.receiver()
    manager = alerting.alertmanager(alertmanager_config(receiver))
    receiver.answer_status = 500
    manager.post("/api/v2/alerts", [alert(instant(), instant(900), recording_sid="RE1")])
    failed = 'alertmanager_notification_requests_failed_total{integration="webhook"} '
    until(lambda: counted(manager, failed) > 0, why=manager.log_tail)
    assert receiver.notifications == []

    receiver.answer_status = 200
    receiver.wait_for("firing", recording_sid="RE1")


def counted(server, name):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_prometheus_scrapes_evaluates_and_alerts(alerting, tmp_path):
    receiver = alerting.receiver()
    manager = alerting.alertmanager(alertmanager_config(receiver))
    target = alerting.exporter("probe_value 7\n")
    rules = tmp_path / "rules.yml"
    rule = {"alert": "ProbeIsHigh", "expr": "probe_value > 5", "labels": {"severity": "critical"}}
    rules.write_text(yaml.safe_dump({"groups": [{"name": "probe", "rules": [rule]}]}))
    prometheus = alerting.prometheus(
        prometheus_config(targets={"probe": [target.address]}, alertmanagers=[manager.address], rule_files=[rules])
    )

    fired = receiver.wait_for("firing", alertname="ProbeIsHigh", severity="critical")
    assert fired.labels["instance"] == target.address
    until(lambda: [value for _, value in prometheus.query("probe_value")] == [7])
    until(lambda: prometheus.alerts(alertname="ProbeIsHigh"))

    target.metrics = "probe_value 3\n"
    receiver.wait_for("resolved", alertname="ProbeIsHigh")

    target.answers = False
    until(lambda: prometheus.query("up")[0][1] == 0)

    prometheus.write_config({"no_such_key": 1})
    with pytest.raises(urllib.error.HTTPError):
        prometheus.reload()


def test_a_server_that_cannot_start_says_why(alerting):
    with pytest.raises(RuntimeError, match=r"(?s)ended with exit code 1.*no routes provided"):
        alerting.alertmanager({"receivers": []})


def test_a_configuration_that_is_refused_is_noticed_and_the_one_before_stays(alerting):
    receiver = alerting.receiver()
    manager = alerting.alertmanager(alertmanager_config(receiver))
    manager.write_config({"receivers": []})
    with pytest.raises(urllib.error.HTTPError):
        manager.reload()
    manager.write_config(alertmanager_config(receiver))
    manager.reload()


def test_a_server_is_gone_when_its_test_is_over(alerting):
    manager = alerting.alertmanager(alertmanager_config(alerting.receiver()))
    pid = manager.pid
    alerting.__exit__()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- what needs no server -------------------------------------------------------------------------------------------


def told(receiver: Receiver, status: str, starts_at: str, path: str = "pager", fingerprint: str = "f1") -> None:
    body = {
        **WEBHOOK,
        "status": status,
        "alerts": [
            {
                "status": status,
                "labels": {"alertname": "Probe"},
                "annotations": {},
                "startsAt": starts_at,
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "",
                "fingerprint": fingerprint,
            }
        ],
    }
    request = urllib.request.Request(receiver.url(path), json.dumps(body).encode(), method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_a_reminder_and_an_end_wake_nobody_twice(receiver):
    for status in ("firing", "firing", "resolved", "resolved"):
        told(receiver, status, "10:00")
    told(receiver, "firing", "10:00", path="chat")
    told(receiver, "firing", "11:00", fingerprint="f2")
    assert receiver.told_twice() == []


def test_firing_after_the_end_is_twice(receiver):
    for status in ("firing", "resolved", "firing"):
        told(receiver, status, "10:00")
    assert len(receiver.told_twice()) == 1


def test_another_beginning_is_twice(receiver):
    told(receiver, "firing", "10:00")
    told(receiver, "firing", "10:05")
    assert "10:00 and again 10:05" in receiver.told_twice()[0]


def test_what_is_waited_for_may_be_asked_to_be_new(receiver):
    told(receiver, "firing", "10:00")
    assert isinstance(receiver.wait_for("firing", "pager", alertname="Probe"), ReceivedAlert)
    [first] = receiver.notifications
    assert isinstance(first, Notification)
    with pytest.raises(AssertionError, match=r"no firing .* came"):
        receiver.wait_for("firing", since=first.at, for_s=0.05)
    told(receiver, "firing", "10:05")
    assert receiver.wait_for("firing", since=first.at).starts_at == "10:05"


def test_webhooks_keep_routes_and_who_is_told_of_the_end(receiver):
    config = {
        "global": {"smtp_smarthost": "mail.example.com:25", "resolve_timeout": "5m"},
        "route": {"receiver": "pager"},
        "receivers": [
            {"name": "pager", "pagerduty_configs": [{"routing_key_file": "/run/secrets/pd"}]},
            {"name": "dead-man", "webhook_configs": [{"url": "https://x.example.com", "send_resolved": False}]},
            {"name": "nobody"},
        ],
    }
    made = with_webhooks(config, receiver)
    assert made["route"] == config["route"]
    assert made["global"] == {"resolve_timeout": "5m"}
    assert made["receivers"] == [
        {"name": "pager", "webhook_configs": [{"url": receiver.url("pager"), "send_resolved": True}]},
        {"name": "dead-man", "webhook_configs": [{"url": receiver.url("dead-man"), "send_resolved": False}]},
        {"name": "nobody"},
    ]


def test_spans_are_replaced_where_they_are_values_and_nowhere_else():
    config = {"route": {"group_wait": "15s", "routes": [{"group_wait": "15s"}]}, "name": "in 15s"}
    assert quickened(config, {"15s": "1s"}) == {
        "route": {"group_wait": "1s", "routes": [{"group_wait": "1s"}]},
        "name": "in 15s",
    }
