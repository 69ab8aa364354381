"""deploy/alertmanager: who is told of what, and in which words; asked of Alertmanager's own tool and of itself."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from monitor.core.attribution import CAUSES
from tests.alerting import quickened, with_webhooks
from tests.monitors import until
from tests.test_prometheus_rules import ALERTS

ROOT = Path(__file__).parent.parent
DIRECTORY = ROOT / "deploy" / "alertmanager"
CONFIG = DIRECTORY / "alertmanager.yml"
TEMPLATES = DIRECTORY / "templates" / "*.tmpl"
HEX = "0123456789abcdef" * 2
RUNBOOKS = "https://runbooks.example.com/recording-monitor"

PUSHED = {
    "DisallowedRecording": "critical",
    "DisallowedRecordingFlood": "critical",
    "DisallowedRecordingBacklog": "critical",
    "RecordingMonitorTest": "critical",
    "RecordingMonitorHeartbeat": "none",
}
SEVERITIES = {**{name: rule["labels"]["severity"] for name, rule in ALERTS.items()}, **PUSHED}
RECEIVERS = {"critical": "pager,chat", "warning": "chat", "info": "nobody", "none": "nobody"}
DEAD_MEN = {"Watchdog": "dead-man-prometheus", "RecordingMonitorHeartbeat": "dead-man-monitor"}


def shipped():
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def told(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_finds_nothing_to_complain_about(amtool):
    said = told(amtool, "check-config", CONFIG)
    assert "FAILED" not in said
    assert "1 templates" in said


# ---- who ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEVERITIES)
def test_an_alert_goes_to_whom_its_severity_says(amtool, name):
    severity = SEVERITIES[name]
    receivers = DEAD_MEN.get(name, RECEIVERS[severity])
    labels = [f"alertname={name}", f"severity={severity}", "account=main", "rule=default", "start_source=Conference"]
    told(amtool, "config", "routes", "test", f"--config.file={CONFIG}", f"--verify.receivers={receivers}", *labels)


def test_disallowed_recordings_that_are_only_a_warning_wake_nobody(amtool):
    labels = ["alertname=DisallowedRecording", "severity=warning"]
    told(amtool, "config", "routes", "test", f"--config.file={CONFIG}", "--verify.receivers=chat", *labels)


def test_an_alert_without_a_severity_is_not_lost(amtool):
    told(amtool, "config", "routes", "test", f"--config.file={CONFIG}", "--verify.receivers=chat", "alertname=Unheard")


def test_only_warnings_wait_for_the_office_to_open():
    waiting = [route["matchers"] for route in shipped()["route"]["routes"] if "active_time_intervals" in route]
    assert waiting == [['severity="warning"']]


def test_times_are_those_that_the_monitor_counts_on():
    route = shipped()["route"]
    times = ("group_wait", "group_interval", "repeat_interval")
    assert [route[name] for name in times] == ["15s", "2m", "4h"]
    dead_men = [child for child in route["routes"] if child["receiver"].startswith("dead-man")]
    assert [[child[name] for name in times] for child in dead_men] == [["0s", "1m", "1m"]] * 2


def test_no_secret_stands_in_the_configuration():
    text = CONFIG.read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:routing_key|service_key|api_url|url_file|smtp_auth_password|credentials): ", text)


def inhibited(name: str) -> bool:
    """Whether RecordingMonitorDown holds an alert back, by the matchers of the rule."""
    [rule] = shipped()["inhibit_rules"]
    assert rule["source_matchers"] == ['alertname="RecordingMonitorDown"']
    [wanted, unwanted] = rule["target_matchers"]
    pattern = wanted.removeprefix("alertname=~").strip('"')
    exception = unwanted.removeprefix("alertname!~").strip('"')
    return bool(re.fullmatch(pattern, name)) and not re.fullmatch(exception, name)


def test_when_nothing_runs_only_what_is_about_the_monitor_is_held_back():
    assert {name for name in SEVERITIES if not inhibited(name)} == {
        *(name for name in PUSHED),
        "RecordingMonitorDown",
        "RecordingMonitorDisallowedRecording",
        "Watchdog",
    }


def test_what_holds_others_back_is_told_after_them():
    """Rules are judged and sent in their order: told of first, its end would let the others through."""
    assert list(ALERTS)[-2:] == ["RecordingMonitorDown", "Watchdog"]


# ---- in which words -------------------------------------------------------------------------------------------------


def recording(number: int, cause: str, step: str, status: str = "firing"):
    """An alert as the monitor pushes it, and as a template gets it."""
    sid = f"RE{number:02x}{HEX[2:]}"
    annotations = {
        "summary": f"Recording {sid} in conference CF{HEX} is not allowed.",
        "description": f"No rule allows it.\nEvidence: 2026-11-21T08:00:01Z what an event showed [0:{number}]\n"
        f"To do: {step}",
        "account_sid": f"AC{HEX}",
        "conference_sid": f"CF{HEX}",
        "cause": cause,
        "recording_started_at": "2026-11-21T08:00:00.000Z",
        "recording_status": "in-progress" if status == "firing" else "completed",
        "reason": "No rule allows it." if status == "firing" else "The recording has ended.",
        "case_url": f"https://monitor.example.com/cases/{sid}",
        "runbook_url": f"{RUNBOOKS}/DisallowedRecording.md",
        "dashboard_url": "https://grafana.example.com/d/recording-monitor-compliance",
        "silence_url": f"https://alertmanager.example.com/#/silences/new?filter=%7Brecording_sid%3D%22{sid}%22%7D",
    }
    labels = {
        "alertname": "DisallowedRecording",
        "severity": "critical",
        "account": "main",
        "rule": "no conferences",
        "start_source": "Conference",
        "recording_sid": sid,
    }
    return {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": "2026-11-21T08:00:02Z",
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-11-21T08:20:00Z",
        "generatorURL": annotations["case_url"],
        "fingerprint": f"{number:016x}",
    }


def recordings(count: int):
    """Two causes, as one rule may have them."""
    steps = {
        "conference_twiml": "Take the attribute `record` out of the TwiML.",
        "flex_stale_session": "Let all agents log out of Flex and in again.",
    }
    causes = list(steps)
    return [recording(number, cause, steps[cause]) for number in range(count) for cause in [causes[number % 2]]]


def data(alerts):
    grouped = ("alertname", "account", "rule", "start_source")

    def common(kind: str):
        first = alerts[0][kind]
        return {key: value for key, value in first.items() if all(one[kind].get(key) == value for one in alerts)}

    return {
        "receiver": "chat",
        "status": "firing" if any(one["status"] == "firing" for one in alerts) else "resolved",
        "alerts": alerts,
        "groupLabels": {name: value for name, value in alerts[0]["labels"].items() if name in grouped},
        "commonLabels": common("labels"),
        "commonAnnotations": common("annotations"),
        "externalURL": "https://alertmanager.example.com",
    }


def health():
    rule = ALERTS["RecordingMonitorDown"]
    description = rule["annotations"]["description"]
    return {
        "status": "firing",
        "labels": {"alertname": "RecordingMonitorDown", "severity": "critical"},
        "annotations": {**rule["annotations"], "description": description},
        "startsAt": "2026-11-21T08:00:02Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.com/graph",
        "fingerprint": "f" * 16,
    }


GROUPS = {
    "one": data(recordings(1)),
    "three": data(recordings(3)),
    "sixty": data(recordings(60)),
    "some-resolved": data([*recordings(2), recording(9, "conference_twiml", "", "resolved")]),
    "resolved": data([recording(1, "conference_twiml", "", "resolved")]),
    "health": data([health()]),
}


@pytest.fixture
def render(amtool, tmp_path):
    def rendered(template: str, group, type_: str = "text") -> str:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(group))
        text = f'{{{{ template "recording_monitor.{template}" . }}}}'
        options = (f"--template.glob={TEMPLATES}", f"--template.text={text}", f"--template.data={path}")
        return told(amtool, "template", "render", *options, f"--template.type={type_}")

    return rendered


@pytest.mark.parametrize("name", GROUPS)
def test_notifications_read_as_reviewed(render, golden, name):
    text = "".join(
        f"{part}\n{'-' * len(part)}\n{render(part, GROUPS[name])}\n\n" for part in ("title", "best_url", "text")
    )
    golden(f"notifications/{name}.txt", text)


@pytest.mark.parametrize("name", ["one", "three"])
def test_mails_read_as_reviewed(render, golden, name):
    golden(f"notifications/{name}.html", render("html", GROUPS[name], "html"))


def test_thousands_of_alerts_make_a_short_notification(render):
    group = data(recordings(5_000))
    text = render("text", group)
    assert "Firing: 5000, of which these are ten\n" in text
    assert len(re.findall(r"^- RE", text, re.MULTILINE)) == 10
    assert len(text) < 5_000


def test_what_to_do_is_told_once_for_each_cause_that_there_is(render):
    alerts = [recording(number, cause, f"Step for {cause}.") for number, cause in enumerate(CAUSES * 2)]
    text = render("text", data(alerts))
    assert sorted(re.findall(r"^To do \((\w+)\): Step for \1\.$", text, re.MULTILINE)) == sorted(CAUSES)


@pytest.mark.parametrize("type_", ["text", "html"])
def test_the_silence_is_filled_in_with_the_group(render, type_):
    said = render("html" if type_ == "html" else "text", GROUPS["three"], type_)
    [address] = re.findall(r'https://[^" ]+silences[^" \n]+', said)
    query = urllib.parse.unquote(address.partition("?filter=")[2])
    assert address.startswith("https://alertmanager.example.com/#/silences/new?filter=")
    assert query == ('{alertname="DisallowedRecording",account="main",rule="no conferences",start_source="Conference"}')


@pytest.mark.parametrize("type_", ["text", "html"])
def test_the_silence_of_one_recording_holds_for_no_other(render, type_):
    said = render("html" if type_ == "html" else "text", GROUPS["one"], type_)
    [address] = re.findall(r'https://[^" ]+silences[^" \n]+', said)
    sid = GROUPS["one"]["alerts"][0]["labels"]["recording_sid"]
    assert urllib.parse.unquote(address.partition("?filter=")[2]) == f'{{recording_sid="{sid}"}}'


def test_words_from_outside_do_no_harm_in_a_mail(render):
    alert = recording(1, "conference_twiml", "Step.")
    alert["annotations"]["description"] = '<script>alert("x")</script>'
    assert "<script>" not in render("html", data([alert]), "html")


# ---- the same in Alertmanager itself --------------------------------------------------------------------------------

SECRETS = "/etc/alertmanager/secrets/"
SOON = {"15s": "1s", "2m": "1s", "1m": "1s"}


class Inbox:
    """Stands for PagerDuty and Slack: accepts what comes and keeps it by path."""

    def __init__(self) -> None:
        self.came: dict[str, list[dict[str, object]]] = {}
        self.changed = threading.Condition()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format, *args):  # noqa: A002 - The name is the base class's.
                """Say nothing."""

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with inbox.changed:
                    inbox.came.setdefault(self.path, []).append(body)
                    inbox.changed.notify_all()
                answer = b'{"status": "success", "message": "", "dedup_key": ""}'
                self.send_response(202 if self.path == "/pager" else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def wait_for(self, path):
        with self.changed:
            assert self.changed.wait_for(lambda: path in self.came, timeout=120), self.came
            return self.came[path][0]

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def inbox():
    made = Inbox()
    yield made
    made.close()


def now(offset_s: float = 0.0) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=offset_s)).isoformat()


def pushed(alert):
    return {key: alert[key] for key in ("labels", "annotations", "generatorURL")} | {
        "startsAt": now(30),  # What began longer ago than group_wait would not wait for the others of its group.
        "endsAt": now(900),
    }


def test_a_page_and_a_line_in_the_chat_arrive_with_our_words(alerting, inbox, tmp_path):
    """The shipped file with its secrets, as PagerDuty and Slack get it; only addresses and times differ."""
    (tmp_path / "pagerduty-routing-key").write_text("made-up-key")
    (tmp_path / "slack-url").write_text(f"{inbox.url}/chat")
    config = quickened(yaml.safe_load(CONFIG.read_text(encoding="utf-8").replace(SECRETS, f"{tmp_path}/")), SOON)
    config["templates"] = [str(TEMPLATES)]
    [pager] = [entry for entry in config["receivers"] if entry["name"] == "pager"]
    pager["pagerduty_configs"][0]["url"] = f"{inbox.url}/pager"
    manager = alerting.alertmanager(config)

    manager.post("/api/v2/alerts", [pushed(alert) for alert in recordings(60)])
    page, line = inbox.wait_for("/pager"), inbox.wait_for("/chat")

    payload = page["payload"]
    title = "[60 firing] DisallowedRecording, account main, rule no conferences, start source Conference"
    assert payload["summary"] == title
    assert payload["severity"] == "critical"
    assert page["routing_key"] == "made-up-key"
    assert page["client_url"] == f"{RUNBOOKS}/DisallowedRecording.md"
    details = payload["custom_details"]
    assert details["num_firing"] == "60"
    assert details["firing"].startswith("Firing: 60, of which these are ten\n- RE")
    assert details["resolved"] == ""
    assert len(json.dumps(page)) < 8_000
    [attachment] = line["attachments"]
    assert attachment["title"] == title
    assert attachment["color"] == "danger"
    assert "To do (flex_stale_session): Let all agents log out of Flex and in again." in attachment["text"]
    assert "Silence: http" in attachment["text"]


def test_routes_and_inhibition_hold_in_alertmanager_itself(alerting):
    receiver = alerting.receiver()
    config = quickened(with_webhooks(shipped(), receiver), SOON)
    config["templates"] = []
    manager = alerting.alertmanager(config)

    def health_alert(name: str, **labels: str):
        return {
            "labels": {"alertname": name, "severity": SEVERITIES[name], **labels},
            "startsAt": now(-1),
            "endsAt": now(900),
        }

    manager.post("/api/v2/alerts", [health_alert("RecordingMonitorDown")])
    receiver.wait_for("firing", "pager", alertname="RecordingMonitorDown")
    receiver.wait_for("firing", "chat", alertname="RecordingMonitorDown")

    held_back = health_alert("RecordingMonitorBehind", partition="0")
    backstop = health_alert("RecordingMonitorDisallowedRecording", account="main")
    manager.post("/api/v2/alerts", [held_back, backstop, *map(health_alert, ("Watchdog", "RecordingMonitorHeartbeat"))])
    receiver.wait_for("firing", "pager", alertname="RecordingMonitorDisallowedRecording")
    receiver.wait_for("firing", "dead-man-prometheus", alertname="Watchdog")
    receiver.wait_for("firing", "dead-man-monitor", alertname="RecordingMonitorHeartbeat")
    [behind] = manager.alerts(alertname="RecordingMonitorBehind")
    assert behind["status"]["state"] == "suppressed"
    seen = {(notification.path, alert.name) for notification, alert in receiver.alerts()}
    assert ("pager", "RecordingMonitorBehind") not in seen
    assert {path for path, name in seen if name in DEAD_MEN} == set(DEAD_MEN.values())

    # A dead man's service hears from it again and again.
    since = receiver.notifications[-1].at
    receiver.wait_for("firing", "dead-man-monitor", since=since, alertname="RecordingMonitorHeartbeat")

    manager.post("/api/v2/alerts", [{**health_alert("RecordingMonitorDown"), "endsAt": now(-0.001)}])
    receiver.wait_for("resolved", "pager", alertname="RecordingMonitorDown")
    receiver.wait_for("firing", "pager", alertname="RecordingMonitorBehind")


def test_a_warning_waits_for_the_office_to_open_and_a_page_does_not(alerting):
    receiver = alerting.receiver()
    config = quickened(with_webhooks(shipped(), receiver), SOON)
    config["templates"] = []
    [office] = config["time_intervals"]
    another_day = (
        (dt.datetime.now(dt.UTC) + dt.timedelta(days=3)).strftime("%A").lower()
    )  # Whatever the zone, not today.
    office["time_intervals"] = [{"weekdays": [another_day]}]
    manager = alerting.alertmanager(config)
    waits, wakes = (
        {"labels": {"alertname": name, "severity": severity}, "startsAt": now(), "endsAt": now(900)}
        for name, severity in (("RecordingMonitorNoEvents", "warning"), ("RecordingMonitorBehind", "critical"))
    )

    manager.post("/api/v2/alerts", [waits])
    until(
        lambda: (
            [held["receivers"] for held in manager.alerts(alertname="RecordingMonitorNoEvents")] == [[{"name": "chat"}]]
        )
    )
    manager.post("/api/v2/alerts", [wakes])
    receiver.wait_for("firing", "pager", alertname="RecordingMonitorBehind")
    assert "RecordingMonitorNoEvents" not in {alert.name for _, alert in receiver.alerts()}

    office["time_intervals"] = [{"weekdays": ["sunday:saturday"]}]
    manager.write_config(config)
    manager.reload()
    receiver.wait_for("firing", "chat", alertname="RecordingMonitorNoEvents")
