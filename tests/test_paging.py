"""From a message in Kafka to a notification: whole monitors, a real broker, a real Alertmanager, a receiver.

What is waited for minutes in production is waited for seconds here; the same code reads the spans from `Pace`.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from confluent_kafka import Producer

from monitor.core.verdict import read_instant
from tests.alerting import Alerting, alertmanager_config, prometheus_config, quickened
from tests.broker import RealBroker, free_ports
from tests.member import account_sid, recording_event, recording_sid
from tests.monitors import PROGRAM, environment, until
from tests.paging import BACKLOG, FLOOD, HEARTBEAT, HOUR_MS, PACE, SINGLE, Scene, kill_at_random
from tests.test_prometheus_rules import RULES
from tests.verify import read_topic

pytestmark = [pytest.mark.broker, pytest.mark.alerting]


@pytest.fixture
def scene(broker: RealBroker, tmp_path: Path, alerting: Alerting) -> Scene:
    return Scene(broker, tmp_path / "site", alerting)


def test_a_disallowed_recording_pages_once_with_what_is_needed_and_resolves_when_it_is_over(scene: Scene):
    with scene.monitor() as monitor:
        monitor.ready()
        scene.begin(1)
        fired = scene.told(1)
        assert fired.labels == {
            "alertname": SINGLE,
            "severity": "critical",
            "account": "other",
            "rule": "default",
            "start_source": "DialVerb",
            "recording_sid": recording_sid(1),
        }
        said = fired.annotations
        assert said["case_url"] == f"https://monitor.example.com/cases/{recording_sid(1)}" == fired.generator_url
        assert said["account_sid"] == account_sid(1)
        assert said["cause"] == "dial_verb"
        assert "To do: Take the attribute `record` out of the TwiML." in said["description"]
        assert "/#/silences/new?filter=" in said["silence_url"]
        [verdict] = scene.site.verdicts().values()
        # Alertmanager writes instants without the zeros at their end.
        assert read_instant(fired.starts_at) == read_instant(verdict["disallowed_since"])

        until(lambda: monitor.metrics()("alert_sends_total", result="ok") >= 4)
        assert scene.notified("resolved") == set()
        assert monitor.metrics()("open_cases", severity="critical") == 1
        assert monitor.metrics()("alerts_firing", alertname=SINGLE) == 1
        scene.end(1)
        resolved = scene.told(1, "resolved")
        assert resolved.starts_at == fired.starts_at
        assert monitor.stop() == 0
    assert scene.told_twice() == []


def test_a_recording_of_two_seconds_notifies_and_stays_for_the_hold(scene: Scene):
    with scene.monitor({"hold_ms": 8_000}) as monitor:
        monitor.ready()
        scene.site.send([recording_event(1), recording_event(1, status="completed")])
        fired, ended = scene.told(1), scene.told(1, "resolved")
    assert read_instant(ended.ends_at) - read_instant(fired.starts_at) >= 8_000
    assert scene.told_twice() == []


def verb_event(number: int) -> bytes:
    """A <Record> verb has ended; Twilio's own word on what started the recording comes later."""
    event = msgspec.json.decode(recording_event(number))
    event["type"] = "com.twilio.voice.twiml.record.finished"
    event["id"] = f"VW:verb:{number}"
    parameters = event["data"]["request"]["parameters"]
    del parameters["RecordingSource"], parameters["RecordingStatus"], parameters["RecordingStartTime"]
    parameters["RecordingDuration"] = "3"
    return msgspec.json.encode(event)


def test_later_evidence_that_clears_it_resolves_at_once_and_says_so(scene: Scene):
    with scene.monitor({"hold_ms": 600_000}) as monitor:
        monitor.ready()
        scene.site.send([verb_event(1)])
        fired = scene.told(1)
        assert fired.labels["start_source"] == "RecordVerb"
        scene.site.send([recording_event(1, source="StartCallRecordingAPI")])
        cleared = scene.told(1, "resolved")
        assert cleared.annotations["reason"].startswith("Cleared by later evidence: it is allowed now.")
        assert cleared.labels == fired.labels
    assert scene.told_twice() == []


def test_an_alertmanager_that_is_restarted_in_the_midst_of_it_tells_nobody_again(scene: Scene):
    with scene.monitor() as monitor:
        monitor.ready()
        scene.begin(1)
        scene.told(1)
        [alertmanager] = scene.alertmanagers
        alertmanager.restart()
        until(lambda: alertmanager.alerts(alertname=SINGLE))  # It had forgotten, and was told again.
        scene.end(1)
        scene.told(1, "resolved")
    assert scene.told_twice() == []


def test_of_two_alertmanagers_the_one_that_is_down_delays_nothing(
    broker: RealBroker, tmp_path: Path, alerting: Alerting
):
    scene = Scene(broker, tmp_path / "site", alerting, alertmanagers=2)
    up, down = scene.alertmanagers
    with down.paused(), scene.monitor() as monitor:
        monitor.ready()
        scene.begin(1)
        scene.told(1)
        seen = monitor.metrics()
        assert seen("alert_sends_total", alertmanager=up.address, result="ok") >= 1
        assert seen("alert_sends_total", alertmanager=down.address, result="ok") == 0
        until(lambda: monitor.metrics()("alert_sends_total", alertmanager=down.address, result="failed") >= 1)
    assert seen("alert_last_success_timestamp_seconds", alertmanager=up.address) > time.time() - 60


def test_what_happened_while_the_alertmanager_was_away_is_told_when_it_is_back(scene: Scene):
    [alertmanager] = scene.alertmanagers
    hold_s = 8
    with scene.monitor({"flood_from": 1_000, "hold_ms": hold_s * 1_000}) as monitor:
        monitor.ready()
        alertmanager.stop()
        numbers = range(1, 501)
        scene.site.send([recording_event(number) for number in numbers])
        # Most of it is over, hold and all, before anybody could be told.
        scene.site.send([recording_event(number, status="completed") for number in range(1, 401)])
        until(lambda: monitor.metrics()("open_cases") == 500)
        time.sleep(hold_s)
        alertmanager.start()
        back = time.time()
        until(lambda: len(scene.notified()) == 500, 60.0, lambda: len(scene.notified()))
        assert time.time() - back <= 60.0
        until(lambda: len(scene.notified("resolved")) == 400)
    assert scene.told_twice() == []


def test_a_flood_is_fifty_pages_and_one_that_counts(scene: Scene):
    with scene.monitor() as monitor:
        monitor.ready()
        scene.site.send([recording_event(number) for number in range(1, 301)])
        many = scene.receiver.wait_for("firing", alertname=FLOOD)
        assert int(many.annotations["count"]) >= 1
        until(lambda: len(scene.notified()) == 50, why=lambda: len(scene.notified()))
        [held] = scene.alertmanagers[0].alerts(alertname=FLOOD)
        until(lambda: scene.alertmanagers[0].alerts(alertname=FLOOD)[0]["annotations"]["count"] == "250")
        until(lambda: monitor.metrics()("alerts_firing", alertname=SINGLE) == 50)
        until(lambda: monitor.metrics()("open_cases") == 300)
        monitor.kill()
        with scene.monitor() as again:
            again.ready()
            until(lambda: again.metrics()("alerts_firing", alertname=FLOOD) == 1)
            until(lambda: again.metrics()("alerts_firing", alertname=SINGLE) == 50)
            assert scene.alertmanagers[0].alerts(alertname=FLOOD)[0]["startsAt"] == held["startsAt"]
            # Who was not told of a recording yet would be, now that the flood is over: singly.
            until(lambda: len(scene.marked()) == 300, why=lambda: len(scene.marked()))
            single = [number for number in range(1, 301) if recording_sid(number) in scene.notified()]
            counted = [number for number in range(1, 301) if number not in single]
            scene.site.send([recording_event(number, status="completed") for number in counted])
            # It closes what it knows to have been told alone: so it has read the marks back from the topic.
            until(lambda: again.metrics()("open_cases") == 50)
            scene.site.send([recording_event(number, status="completed") for number in single])
            scene.receiver.wait_for("resolved", alertname=FLOOD)
    assert len(scene.notified()) == 50
    assert scene.told_twice() == []


def test_the_heartbeat_stops_with_the_loop_and_beats_again(scene: Scene):
    [alertmanager] = scene.alertmanagers
    with scene.monitor() as monitor:
        monitor.ready()
        until(lambda: alertmanager.alerts(alertname=HEARTBEAT))
        monitor.send(signal.SIGSTOP)
        until(lambda: not alertmanager.alerts(alertname=HEARTBEAT))
        monitor.send(signal.SIGCONT)
        until(lambda: alertmanager.alerts(alertname=HEARTBEAT))


def test_hours_of_backlog_are_one_summary_an_account_and_what_still_records_is_a_page(
    broker: RealBroker, tmp_path: Path, alerting: Alerting
):
    scene = Scene(broker, tmp_path / "site", alerting, stamped_by_producers=True)
    begun = time.time_ns() // 1_000_000 - 4 * HOUR_MS
    producer = Producer({"bootstrap.servers": scene.site.bootstrap})
    for number in range(1, 601):
        account, at = number % 3 + 1, begun + number * 20_000
        happened: dict[str, Any] = {"account": account, "started_ms": at}
        ended = recording_event(number, status="completed", **happened).replace(
            b'"RecordingSource"', b'"RecordingDuration":"9","RecordingSource"'
        )
        for value, when in ((recording_event(number, **happened), at), (ended, at + 9_000)):
            producer.produce(scene.site.events, value, partition=account % 2, timestamp=when)
    at = begun + 12_000_000
    producer.produce(scene.site.events, recording_event(999, started_ms=at), partition=0, timestamp=at)
    assert producer.flush(60) == 0
    with scene.monitor({"hold_ms": 30_000}) as monitor:
        monitor.ready()
        [alertmanager] = scene.alertmanagers
        summary = scene.receiver.wait_for("firing", alertname=BACKLOG)

        def counts() -> list[str]:
            return [alert["annotations"]["count"] for alert in alertmanager.alerts(alertname=BACKLOG)]

        until(lambda: counts() == ["600"], why=counts)
        scene.told(999)
        assert scene.notified() == {recording_sid(999)}
        assert summary.labels["account"] == "other"
    assert scene.told_twice() == []


def test_prometheus_may_be_away_while_it_happens_and_the_monitor_restarts(
    scene: Scene, alerting: Alerting, tmp_path: Path
):
    [alertmanager] = scene.alertmanagers
    rules = tmp_path / "rules.yml"
    spans = dict.fromkeys(("15s", "1m", "2m", "3m", "5m", "10m", "15m", "30m", "1h"), "1s")
    rules.write_text(yaml.safe_dump(quickened(yaml.safe_load(RULES.read_text(encoding="utf-8")), spans)))
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    web = {"listen": listen, "external_url": "https://monitor.example.com"}
    config = prometheus_config(
        targets={"recording-monitor": [listen]}, alertmanagers=[alertmanager.address], rule_files=[rules]
    )
    with scene.monitor(web=web) as monitor:
        monitor.ready()
        prometheus = alerting.prometheus(config)
        until(lambda: prometheus.query("recording_monitor_build_info"), why=prometheus.log_tail)
        prometheus.stop()
        scene.begin(1)
        fired = scene.told(1)
        monitor.kill()
    with scene.monitor(web=web) as monitor:
        monitor.ready()
        until(lambda: monitor.metrics()("alert_sends_total", result="ok") >= 1)
        prometheus.start()
        # It is told of the case, and keeps silent: the page has gone out by the other way.
        until(lambda: prometheus.query("recording_monitor:open_cases:max == 1"), why=prometheus.log_tail)
        until(lambda: prometheus.query("count_over_time(recording_monitor:open_cases:max[1m]) >= 5"))
        assert prometheus.alerts(alertname="RecordingMonitorDisallowedRecording") == []
        scene.end(1)
        assert scene.told(1, "resolved").starts_at == fired.starts_at
        until(lambda: not prometheus.query("recording_monitor:open_cases:max > 0"))
    assert [said for said in scene.told_twice() if "Disallowed" in said] == []
    assert scene.notified(name="RecordingMonitorDisallowedRecording") == set()


def test_of_two_processes_the_one_with_a_stale_view_fires_nothing_again(scene: Scene):
    with scene.monitor() as first, scene.monitor() as second:
        first.ready()
        second.ready()
        scene.begin(1)
        scene.told(1)
        # Whichever has the partition judges; the other has the view, and sends as well.
        until(lambda: first.metrics()("alerts_firing", alertname=SINGLE) == 1)
        until(lambda: second.metrics()("alerts_firing", alertname=SINGLE) == 1)
        owner, other = (first, second)
        other.send(signal.SIGSTOP)
        until(lambda: owner.metrics()("kafka_assigned_partitions") == 2)
        scene.end(1)
        scene.told(1, "resolved")
        time.sleep(PACE["fresh_ms"] / 1000)  # Long enough for what it knew to be stale.
        other.send(signal.SIGCONT)
        until(lambda: other.metrics()("open_cases") == 0)
        scene.begin(2)
        scene.told(2)
    assert scene.told_twice() == []


def test_a_monitor_killed_between_decision_and_notification_leaves_nobody_untold_and_tells_nobody_twice(scene: Scene):
    chance = random.Random(5)
    [alertmanager] = scene.alertmanagers
    database: dict[str, Any] = {"cases": {"database": "cases.sqlite3"}}

    # Decided and written, and nobody there to be told.
    alertmanager.stop()
    with scene.monitor(**database) as monitor:
        monitor.ready()
        scene.begin(1)
        scene.end(1)
        until(lambda: monitor.metrics()("open_cases") == 1)
    alertmanager.start()
    # Told, while the Alertmanager does not say whether it has heard.
    with scene.monitor(**database) as monitor:
        monitor.ready()
        scene.told(1)
        with alertmanager.paused():
            scene.begin(2)
            until(lambda: monitor.metrics()("open_cases") >= 1)
            monitor.kill()
    kill_at_random(scene, range(3, 7), chance, **database)
    with scene.monitor(**database) as monitor:
        monitor.ready()
        until(lambda: scene.notified() == {recording_sid(number) for number in range(1, 7)}, why=scene.receiver.summary)
        for number in range(2, 7):
            scene.end(number)
        until(lambda: len(scene.notified("resolved")) == 6, why=scene.receiver.summary)
        assert monitor.stop() == 0
    assert scene.told_twice() == []


@pytest.mark.parametrize("harm", ["deleted", "cut", "flipped", "unwritable"])
def test_no_harm_to_the_case_database_stops_a_page(scene: Scene, harm: str):
    database = scene.site.directory / "cases.sqlite3"
    with scene.monitor(cases={"database": str(database)}) as monitor:
        monitor.ready()
        scene.begin(1)
        scene.told(1)
        if harm == "deleted":
            database.unlink()
        elif harm == "cut":
            database.write_bytes(b"")
        scene.begin(2)
        scene.told(2)
        monitor.kill()
    if harm == "flipped":
        data = bytearray(database.read_bytes())
        for place in range(100, len(data), 997):
            data[place] ^= 0x10
        database.write_bytes(data)
    elif harm == "unwritable":
        database = Path("/proc/recording-monitor/cases.sqlite3")  # Not even root makes files there.
    with scene.monitor(cases={"database": str(database)}) as monitor:
        monitor.ready()
        scene.begin(3)
        scene.told(3)
        assert monitor.metrics()("open_cases") == 3
        assert monitor.metrics()("case_database_on_disk") == (harm != "unwritable")
        assert ("cases: kept in memory" in monitor.get("/-/ready")[1]) == (harm == "unwritable")
        scene.end(1)
        scene.told(1, "resolved")
    assert scene.told_twice() == []


def test_with_a_verdict_that_has_had_its_time_goes_what_was_done_about_it(scene: Scene):
    actions = scene.site.settings["topics"]["case_actions"]
    database: dict[str, Any] = {"cases": {"database": "cases.sqlite3"}}

    def standing() -> set[str]:
        return {str(m.key) for m in read_topic(scene.site.bootstrap, actions) if m.value is not None} - {
            str(m.key) for m in read_topic(scene.site.bootstrap, actions) if m.value is None
        }

    with scene.monitor(**database) as monitor:
        monitor.ready()
        scene.begin(1)
        until(lambda: len(standing()) == 1)
        monitor.stop()
    scene.site.send([None], 0, scene.site.verdict_topic, key=recording_sid(1))
    with scene.monitor(**database) as monitor:
        until(lambda: standing() == set())


def alert_test(tmp_path: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "monitor.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", PROGRAM, "alert", "test", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)


def test_the_test_alert_goes_the_real_way_to_every_alertmanager(tmp_path: Path, alerting: Alerting):
    receiver = alerting.receiver()
    first, second = (alerting.alertmanager(alertmanager_config(receiver)) for _ in range(2))
    done = alert_test(tmp_path, alertmanagers=[first.url, second.url])

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [
        ["taken", first.address],
        ["taken", second.address],
    ]
    page = receiver.wait_for("firing", alertname="RecordingMonitorTest")
    assert page.labels["severity"] == "critical"
    assert page.annotations["summary"].startswith("TEST, nothing to do")

    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    done = alert_test(tmp_path, alertmanagers=[first.url, f"http://{nobody}"])
    assert done.returncode == 3
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["taken", "no"]
    assert alert_test(tmp_path, alertmanagers=[f"{first.url}/nowhere"]).returncode == 1
    assert alert_test(tmp_path).returncode == 2
