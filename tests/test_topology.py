"""The whole of docker-compose.yml as plain processes: the same configuration files, only addresses and times replaced.

Kafka with the properties of the compose file, two monitors and the bridge, Prometheus with the shipped rules,
Alertmanager with the demo's routes, the simulator as it is started there.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerting import Alertmanager, Prometheus, Receiver, quickened
from tests.broker import RealBroker, free_ports
from tests.monitors import PROGRAM, Monitor, until
from tests.test_compose import DEPLOY, SERVICES, filled_in, told
from tests.test_dashboards import SHIPPED, VARIABLES
from tests.webhooks import dumped, event, posted

pytestmark = [pytest.mark.broker, pytest.mark.alerting]

COMPOSE = DEPLOY / "compose"
HEARTBEAT = "RecordingMonitorHeartbeat"
PARTITIONS = 6  # As the monitor makes its topics.
# What has nothing to show where nothing went wrong, and where nobody asks Twilio.
NOTHING_TO_SHOW = {
    *("Set aside", "Errors of Kafka's client"),
    *("Coverage", "Coverage, over time", "Listed and seen", "Can be asked", "Found by asking alone"),
    *("Enrichment", "Last listing", "Not as accepted", "Last audit", "Requests to Twilio", "Answers of Twilio"),
}


def kafka_properties() -> dict[str, str]:
    """The server properties of the compose file but for addresses, places and memory, which the rig has its own of."""
    environment = SERVICES["kafka"]["environment"]
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value) for name, value in environment.items()
    }
    ours = re.compile(r"node\.id|process\.roles|.*listener.*|controller\..*|log\.dirs|heap\.opts")
    return {name: value for name, value in properties.items() if not ours.fullmatch(name)}


class Topology:
    """All of it, at addresses of its own."""

    def __init__(self, broker: RealBroker, directory: Path, alerting: Any) -> None:
        self.broker = broker
        self.directory = directory
        self.receiver: Receiver = alerting.receiver()
        told("sh", COMPOSE / "secrets.sh", directory / "secrets")
        self.token = (directory / "secrets" / "twilio-auth-token").read_text()
        self.alertmanager: Alertmanager = alerting.alertmanager(self._routes())
        (directory / "policy.yaml").write_bytes((COMPOSE / "policy.yaml").read_bytes())
        self.webhooks, self.bridge_web, *self.web = free_ports(5)
        self.prometheus: Prometheus = alerting.prometheus(self._scraping())
        self.processes: list[Monitor] = []

    def _routes(self) -> Any:
        text = (COMPOSE / "alertmanager.yml").read_text(encoding="utf-8")
        config = yaml.safe_load(text.replace("http://receiver:8090/", self.receiver.url()))
        config["templates"] = [str(DEPLOY / "alertmanager" / "templates" / "*.tmpl")]
        return quickened(config, {"15s": "1s", "2m": "1s"})

    def _scraping(self) -> Any:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        ports = {"monitor": self.web, "bridge": [self.bridge_web]}
        for job in config["scrape_configs"]:
            [discovery] = job.pop("dns_sd_configs")
            [name] = discovery["names"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports[name]]}]
        config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [self.alertmanager.address]}]}]
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        return quickened(config, {"15s": "1s"})

    def _settings(self, name: str, web: int) -> Path:
        text = (COMPOSE / "monitor.yaml").read_text(encoding="utf-8")
        for shipped, here in (
            ("kafka:9092", self.broker.bootstrap),
            ("http://alertmanager:9093", self.alertmanager.url),
            ('":9464"', f'"127.0.0.1:{web}"'),
            ('":8080"', f'"127.0.0.1:{self.webhooks}"'),
            ("/run/secrets/", f"{self.directory}/secrets/"),
            ("/var/lib/recording-monitor/", f"{self.directory}/{name}/"),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        settings = yaml.safe_load(text)
        settings["ingest"]["public_url"] = filled_in(
            SERVICES["bridge"]["environment"]["RECORDING_MONITOR_INGEST__PUBLIC_URL"]
        )
        # So that nobody waits long for the partitions of one that was killed.
        settings["kafka"]["client"] = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}
        (self.directory / name).mkdir()
        path = self.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    def start(self, service: str, name: str, web: int) -> Monitor:
        """Start a service of ours as the compose file does."""
        command = SERVICES[service].get("command", ["run"])  # The image's own.
        config = self._settings(name, web)
        return self._run([*command, "--config", str(config)], name)

    def simulate(self) -> Monitor:
        """Start the simulator as the compose file does, with calls that last seconds."""
        here = {"kafka:9092": self.broker.bootstrap, "/tmp/": f"{self.directory}/"}
        command = SERVICES["simulator"]["command"]
        for shipped, replaced in here.items():
            command = [word.replace(shipped, replaced) for word in command]
        return self._run([*command, "--tempo=20", "--recorded=1"], "simulator")

    def _run(self, arguments: list[str], name: str) -> Monitor:
        process = Monitor([sys.executable, "-c", PROGRAM, *arguments], self.directory / f"{name}.log")
        self.processes.append(process)
        return process

    def webhook(self, number: int) -> int:
        """Send one signed event through the bridge, as Twilio does; the status of the answer."""
        account = yaml.safe_load((COMPOSE / "monitor.yaml").read_text(encoding="utf-8"))["accounts"][0]["sid"]
        request = posted(dumped(event(number, account)), self.token)
        url = f"http://127.0.0.1:{self.webhooks}{request.path}"
        try:
            asked = urllib.request.Request(url, request.body, request.headers)
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code

    def asked(self, expression: str) -> float:
        """The sum of what Prometheus answers; 0 for nothing."""
        return sum(value for _, value in self.prometheus.query(expression))

    def woken_twice(self) -> list[str]:
        return [said for said in self.receiver.told_twice() if HEARTBEAT not in said and "Watchdog" not in said]


@pytest.fixture
def topology(new_broker, tmp_path: Path, alerting: Any) -> Iterator[Topology]:
    made = Topology(new_broker(kafka_properties()), tmp_path, alerting)
    yield made
    for process in made.processes:
        process.kill()


def unanswered(topology: Topology) -> list[str]:
    """The queries of the dashboards to which Prometheus has no answer, by their panel."""
    empty = []
    for dashboard in SHIPPED.values():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                if panel["title"] not in NOTHING_TO_SHOW and not topology.prometheus.query(query):
                    empty.append(f"{dashboard['uid']}, {panel['title']}: {query}")
    return empty


def test_traffic_goes_in_and_dashboards_and_pages_come_out_whoever_is_killed_or_rolled_over(topology):
    monitors = [topology.start("monitor", f"monitor-{number}", topology.web[number]) for number in range(2)]
    for monitor in monitors:
        monitor.ready()
    bridge = topology.start("bridge", "bridge", topology.bridge_web)
    until(lambda: bridge.said("bridge_started"), why=bridge.tail)
    bridge.send(signal.SIGHUP)
    simulator = topology.simulate()
    numbers = itertools.count(1)
    # Until it has reached Kafka, Twilio comes again.
    until(lambda: topology.webhook(next(numbers)) == 200, why=bridge.tail)

    # Pages arrive with the pager and in the chat, from whoever owns the partition.
    for path in ("pager", "chat"):
        page = topology.receiver.wait_for("firing", path, alertname="DisallowedRecording")
        assert page.annotations["runbook_url"].endswith("/DisallowedRecording.md")
        assert page.labels["account"] in {"main", "second"}
    topology.receiver.wait_for("firing", "dead-man-monitor", alertname=HEARTBEAT)
    topology.receiver.wait_for("firing", "dead-man-prometheus", alertname="Watchdog")

    # Every panel has something to show, and the bridge says what it runs.
    until(
        lambda: topology.webhook(next(numbers)) == 200 and unanswered(topology) == [], why=lambda: unanswered(topology)
    )
    # A scrape of a busy machine may take longer than it may, and then nothing is known for a second.
    until(lambda: topology.asked('recording_monitor_build_info{job="recording-monitor-bridge"}') == 1)
    until(lambda: topology.asked("recording_monitor_ingest_events_total") >= 1)
    until(lambda: topology.asked('sum(up{job="recording-monitor"})') == 2)

    # One is killed: the other takes all, and goes on judging what came meanwhile.
    first, second = monitors
    first.kill()
    second.ready(PARTITIONS)
    judged = second.metrics()("recordings_total")
    until(lambda: second.metrics()("recordings_total") > judged, why=second.tail)
    until(lambda: topology.asked('sum(up{job="recording-monitor"})') == 1)

    # Roll-over: the next one is ready before the last one is stopped.
    third = topology.start("monitor", "monitor-2", topology.web[2]).ready()
    assert second.stop() == 0
    third.ready(PARTITIONS)
    simulator.stop(signal.SIGINT)
    until(third.caught_up, why=third.tail)
    since = time.time()
    topology.receiver.wait_for("firing", "dead-man-monitor", since=since, alertname=HEARTBEAT)
    assert topology.woken_twice() == []
    assert bridge.running
    assert bridge.stop() == 0
    assert topology.token not in json.dumps([process.log.read_text() for process in topology.processes])
