"""``recording-monitor run`` as a process: started, asked, told to stop, killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from monitor.commands.run import start_monitor
from monitor.inputs.policy_file import load_policy
from monitor.settings import Address, Cases, Kafka, Settings, SettingsError, Web
from monitor.simulator.broker import EmbeddedBroker
from tests.broker import RealBroker, unique_name
from tests.conftest import BrokerMaker
from tests.member import WAIT_S, Desk, account_sid, recording_event, recording_sid, until

BROKER = pytest.mark.broker
TOPICS = (
    "twilio-events",
    "recording-monitor.verdicts",
    "recording-monitor.case-actions",
    "recording-monitor.account-settings",
)


class Process:
    """A monitor in a process of its own; leaving the ``with`` ends it by force if it still runs."""

    def __init__(
        self, directory: Path, desk: Desk, *arguments: str, client: dict[str, object] | None = None, **settings: Any
    ) -> None:
        config = directory / "monitor.yaml"
        topics = {
            "events": desk.topics.events,
            "verdicts": desk.topics.verdicts,
            "account_settings": desk.topics.account_settings,
            "quarantine": desk.quarantine,
            "case_actions": f"{desk.group}.actions",
        }
        kafka = {
            "bootstrap_servers": desk.bootstrap,
            "group_id": desk.group,
            "start_at": "earliest",
            "client": client or {},
        }
        own = {"web": {"listen": "127.0.0.1:0"}, "cases": {"database": f"{unique_name('cases')}.sqlite3"}}
        told = {"kafka": kafka, "topics": topics, **own, **settings}
        config.write_text(json.dumps(told))
        self._log = directory / f"{unique_name('monitor')}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from monitor.cli import main; main()",
                    "run",
                    "--config",
                    str(config),
                    *arguments,
                ],
                stdout=log,
                stderr=log,
            )

    def said(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def get(self, path: str) -> tuple[int, str]:
        """What it answers."""
        [*_, started] = [line for line in self.said() if line["event"] == "monitor_started"]
        try:
            with urllib.request.urlopen(started["address"] + path, timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> Self:
        def is_so() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            return any(line["event"] == "monitor_started" for line in self.said()) and self.get("/-/ready")[0] == 200

        until(is_so)
        return self

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        return self._process.wait(WAIT_S)

    def text(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def owns(monitor: Process, partitions: int) -> bool:
    """Whether it owns so many partitions, as its metrics say."""
    line = r"^recording_monitor_kafka_assigned_partitions{.*} (.*)$"
    return [float(value) for value in re.findall(line, monitor.get("/metrics")[1], re.MULTILINE)] == [partitions]


def splits(monitor: Process) -> list[tuple[str, list[int]]]:
    return [(said["account_sid"], said["partitions"]) for said in monitor.said() if said["event"] == "account_split"]


@BROKER
def test_an_account_of_which_two_processes_have_a_part_each_is_noticed_by_both(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 2)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with Process(tmp_path / "one", desk) as one, Process(tmp_path / "two", desk) as two:
        one.ready()
        two.ready()
        until(lambda: owns(one, 1) and owns(two, 1))
        desk.send([recording_event(1)], partition=0)
        desk.send([recording_event(2)], partition=1)
        until(lambda: splits(one) == splits(two) == [(account_sid(1), [0, 1])])


@BROKER
def test_sigterm_under_load_ends_with_0_and_a_committed_position(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 2)
    with Process(tmp_path, desk) as monitor:
        monitor.ready()
        desk.send((recording_event(n) for n in range(20_000)), partition=0)
        until(lambda: desk.committed(0).offset > 100)
        monitor.signal(signal.SIGTERM)
        assert monitor.exit_code() == 0
    [stopped] = [line for line in monitor.said() if line["event"] == "monitor_stopped"]
    assert stopped["in_time"] is True
    judged = desk.committed(0).offset
    # Every recording below the commit has its verdict, and what was not judged has none that is committed.
    events = desk.read(desk.topics.events, 0)[:judged]
    below = {value for _, value, _ in events if value is not None and b"recording.processed" in value}
    assert len(desk.verdicts(0)) >= len(below)


@BROKER
def test_a_killed_monitor_loses_no_verdict_and_the_next_one_repeats_none_differently(
    broker: RealBroker, tmp_path: Path
):
    desk = Desk.on(broker, 1)
    count = 6_000
    client: dict[str, object] = {"session.timeout.ms": 6000}  # How long the successor of a killed one waits.
    with Process(tmp_path, desk, client=client) as monitor:
        monitor.ready()
        desk.send(recording_event(n) for n in range(count))
        until(lambda: desk.committed().offset > 100)
        monitor.signal(signal.SIGKILL)
        monitor.exit_code()
    with Process(tmp_path, desk, client=client) as monitor:
        monitor.ready()
        until(lambda: len(desk.verdicts()) == count)
        monitor.signal(signal.SIGTERM)
        assert monitor.exit_code() == 0
    assert set(desk.verdicts()) == {recording_sid(n) for n in range(count)}
    assert {verdict.revision for verdict in desk.verdicts().values()} == {1}


@BROKER
def test_run_creates_its_topics_and_answers_for_its_health(new_broker: BrokerMaker, tmp_path: Path):
    broker = new_broker()
    desk = Desk.on(broker, 1)
    with Process(tmp_path, desk) as monitor:
        monitor.ready()
        assert [line["topic"] for line in monitor.said() if line["event"] == "topic_created"] == [
            f"{desk.group}.actions"
        ]
        desk.send([recording_event(1)])
        until(lambda: "recording_monitor_recordings_total{" in monitor.get("/metrics")[1])
        until(lambda: 'outcome="disallowed",start_source="DialVerb"} 1.0' in monitor.get("/metrics")[1])
        desk.send([recording_event(2)])
        until(lambda: recording_sid(2) in monitor.text())
        broker.kill()  # With a position that is not committed yet.
        assert monitor.get("/-/healthy")[0] == 200
        monitor.signal(signal.SIGTERM)
        assert monitor.exit_code() == 0
    [stopped] = [line for line in monitor.said() if line["event"] == "monitor_stopped"]
    assert stopped["in_time"] is True


@BROKER
def test_no_number_and_no_name_reaches_the_log(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    event = recording_event(1).replace(b'"CallSid"', b'"From": "+15550001234", "FriendlyName": "Jane Doe", "CallSid"')
    with Process(tmp_path, desk) as monitor:
        monitor.ready()
        desk.send([event, b"Jane Doe +15550001234"])
        until(lambda: "verdict_reached" in monitor.text() and "entry_quarantined" in monitor.text())
        metrics = monitor.get("/metrics")[1]
    for text in (monitor.text(), metrics):
        assert "Jane" not in text
        assert "5550001234" not in text


@BROKER
def test_a_compacted_events_topic_is_refused_with_exit_code_2(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1, cleanup_policy="compact")
    with Process(tmp_path, desk) as monitor:
        assert monitor.exit_code() == 2
        assert "cleanup.policy=delete" in monitor.text()


@BROKER
def test_a_policy_that_changes_is_taken_up_and_a_broken_one_is_not(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy: a\nmode: observe\ndefault: disallowed\nrules: []\n")
    with Process(tmp_path, desk, policy=str(policy)) as monitor:
        monitor.ready()
        desk.send([recording_event(1)])
        until(lambda: recording_sid(1) in desk.verdicts())
        policy.write_text("policy: a\nmode: observe\ndefault: allowed\nrules: []\n")
        monitor.signal(signal.SIGHUP)
        until(lambda: desk.verdicts()[recording_sid(1)].outcome == "allowed")
        policy.write_text("policy: a\ndefualt: allowed\n")
        monitor.signal(signal.SIGHUP)
        until(lambda: "recording_monitor_policy_last_reload_successful 0.0" in monitor.get("/metrics")[1])
        desk.send([recording_event(2)])
        until(lambda: recording_sid(2) in desk.verdicts())
        assert desk.verdicts()[recording_sid(2)].outcome == "allowed"
        settings = tmp_path / "monitor.yaml"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "window": "2h"}))
        monitor.signal(signal.SIGHUP)
        until(lambda: [line["keys"] for line in monitor.said() if line["event"] == "restart_needed"] == [["window"]])


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        broker.create_topics(*TOPICS)
        yield broker


def settings_for(broker: EmbeddedBroker, directory: Path, **client: str) -> Settings:
    return Settings(
        cases=Cases(database=directory / "cases.sqlite3"),
        kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, start_at="earliest", client=client),
        web=Web(listen=Address("127.0.0.1", 0)),
    )


def test_the_monitor_runs_inside_another_program_on_the_embedded_broker(embedded: EmbeddedBroker, tmp_path: Path):
    from confluent_kafka import Producer

    told: list[str] = []
    running = start_monitor(
        settings_for(embedded, tmp_path),
        load_policy(None),
        on_verdict=lambda _partition, published: told.append(published.key),
    )
    address = running.address
    try:
        until(running.ready)
        producer = Producer({"bootstrap.servers": embedded.bootstrap_servers})
        producer.produce("twilio-events", recording_event(1), partition=2)
        assert producer.flush(WAIT_S) == 0
        until(lambda: told == [recording_sid(1)])
    finally:
        assert running.stop()
    assert running.failure is None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=WAIT_S)


def test_a_property_that_kafkas_client_refuses_is_a_wrong_setting(embedded: EmbeddedBroker, tmp_path: Path):
    with pytest.raises(SettingsError, match=r"no\.such\.property"):
        start_monitor(settings_for(embedded, tmp_path, **{"no.such.property": "1"}), load_policy(None))
