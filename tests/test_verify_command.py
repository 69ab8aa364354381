"""``verify`` beside a real monitor: test calls on a real broker, Twilio as a server, the report and the exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.cli import run
from monitor.commands.common import read_settings
from monitor.commands.verify import Pace, watching
from monitor.proof.findings import Needs
from monitor.proof.session import Scope
from monitor.settings import Kafka, Settings
from monitor.simulator.broker import EmbeddedBroker
from tests.broker import RealBroker
from tests.builders import START_MS, Json, build_messages, sid
from tests.monitors import PROGRAM, Site, environment, program, until
from tests.test_verify_session import ACCOUNT, CALL, NUMBER, RECORDED
from tests.twilio_recordings import put_call, put_recording
from tests.twilio_server import TwilioServer

BROKER = pytest.mark.broker


class Line:
    """A site with a monitor on it, and a telephone to make test calls with."""

    def __init__(self, broker: RealBroker, twilio: TwilioServer, directory: Path) -> None:
        directory.mkdir()
        self.twilio = twilio
        account = twilio.account()
        assert account.sid == ACCOUNT
        self.site = Site(
            broker,
            directory,
            partitions=2,
            grace="1s",
            reconcile={"enabled": False},
            polling={"enabled": False},
            **twilio.settings(directory, account),
        )

    def verify(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin a session, and wait until it is open: it says that it is."""
        config = str(self.site.config())
        command = [sys.executable, "-c", PROGRAM, "verify", "--config", config, "--json", "-", *arguments]
        self.report = self.site.directory / "report.md"
        self.told = self.site.directory / "told.txt"
        with self.told.open("wb") as told:
            session = subprocess.Popen(
                [*command, "--output", str(self.report)], env=environment(), stdout=subprocess.PIPE, stderr=told
            )
        until(lambda: b"the session is open" in self.told.read_bytes(), why=self.told.read_bytes)
        return session

    def call(self, story: Sequence[Json]) -> None:
        """Make the test call of a story, all of it now; Twilio knows of it."""
        now = datetime.now(UTC)
        began_s = (now.timestamp() * 1000 - START_MS) / 1000
        moved = [{**line, **{key: began_s for key in ("at", "begins", "ends") if key in line}} for line in story]
        for line in story:
            if "call" in line:
                put_call(self.twilio, ACCOUNT, sid(line["call"]), now, from_=NUMBER, to="+4989654321")
            if "recording" in line:
                put_recording(self.twilio, ACCOUNT, sid(line["recording"]), now, call_sid=sid(line["call"]))
        self.site.send([message.value for message in build_messages(moved)], partition=1)


@pytest.fixture
def line(broker: RealBroker, twilio: TwilioServer, tmp_path: Path) -> Line:
    return Line(broker, twilio, tmp_path / "site")


def ended(session: subprocess.Popen[bytes]) -> tuple[int, Any]:
    """Its exit code, and what it printed."""
    out, _ = session.communicate(timeout=180)
    return session.returncode, json.loads(out)


def names(report: Any) -> list[str]:
    return [reason["name"] for reason in report["reasons"]]


def another(story: Sequence[Json]) -> list[Json]:
    """The same call once more: other calls, another conference."""
    return [{**line, **{key: line[key] + "b" for key in ("call", "conference") if key in line}} for line in story]


@BROKER
def test_it_passes_for_a_call_that_is_not_recorded_and_fails_for_one_that_is(line):
    with line.site.start() as monitor:
        monitor.ready(owned=2)
        passing = line.verify("--number", NUMBER, "--calls", "1")
        line.call(CALL)
        code, report = ended(passing)
        assert (code, names(report)) == (0, []), report
        assert (report["twilio"]["calls"], report["partitions_not_judged_to_end"]) == (2, [])
        assert f"{sid('CA1')}: seen whole" in line.told.read_text()
        assert line.report.read_text().startswith("# Test and monitor: passed\n")

        failing = line.verify("--number", NUMBER, "--calls", "1")
        line.call(another([*CALL, RECORDED]))
        code, report = ended(failing)
        assert (code, names(report)) == (1, ["disallowed_recording"]), report
        assert "dial_verb" in line.report.read_text()
    for told in (line.told.read_text(), line.report.read_text(), json.dumps(report)):
        assert NUMBER not in told
    assert set(line.twilio.paths()) == {
        f"GET /2010-04-01/Accounts/{ACCOUNT}/{what}.json" for what in ("Calls", "Recordings")
    }


@BROKER
def test_ctrl_c_ends_it_with_a_report_that_is_no_pass(line):
    session = line.verify()
    line.call(CALL)
    until(lambda: f"{sid('CA1')}: seen whole" in line.told.read_text(), why=line.told.read_text)
    session.send_signal(signal.SIGINT)
    code, report = ended(session)
    assert (code, names(report), report["calls_seen_whole"]) == (1, ["interrupted"], 1)


@BROKER
def test_where_nobody_judges_and_twilio_refuses_each_is_a_reason(line):
    line.twilio.fail("/.*", status=401, times=None)
    settings = read_settings(line.site.config())
    with watching(settings, Scope(), Needs(), Pace(settle_ms=500, commit_s=1.0)) as watch:
        report = watch.run(timedelta(seconds=1), timedelta(0), ends_early=False)
    expected = ["monitor_not_running", "no_test_call_seen", "not_judged_to_end", "rest_unreachable"]
    assert [reason.name for reason in report.reasons] == expected


def test_brokers_that_go_away_are_a_reason_and_what_was_seen_is_reported():
    with EmbeddedBroker() as broker:
        settings = Settings(kafka=Kafka(bootstrap_servers=broker.bootstrap_servers))
        broker.create_topics(settings.topics.events, settings.topics.verdicts)
        pace = Pace(settle_ms=0, commit_s=0.5, ask_s=1.0)
        with watching(settings, Scope(), Needs(rest=False), pace) as watch:
            broker.close()
            report = watch.run(timedelta(0), timedelta(0), ends_early=False)
    assert "kafka_unreachable" in {reason.name for reason in report.reasons}
    assert (report.proof.kafka or "").startswith("twilio-events: _")


NOWHERE = "kafka: {bootstrap_servers: 127.0.0.1:1}\n"


def test_kafka_out_of_reach_is_said_with_exit_code_3_and_what_else_is_wrong_before(tmp_path):
    (tmp_path / "monitor.yaml").write_text(NOWHERE)
    done = program("verify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"warning: no account has credentials" in done.stderr
    assert b"twilio-events: _TRANSPORT" in done.stderr


def test_wrong_credentials_are_said_before_the_session(twilio, tmp_path, capsys):
    twilio.fail("/.*", status=401, times=None)
    settings = {"kafka": {"bootstrap_servers": "127.0.0.1:1"}, **twilio.settings(tmp_path, twilio.account())}
    (tmp_path / "monitor.yaml").write_text(yaml.safe_dump(settings))
    assert run(["verify", "--config", str(tmp_path / "monitor.yaml")]) == 2
    assert "accounts[0].auth_token_file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--number", "030 123456"], "--number: is no number in E.164"),
        (["--tag", "+4930123456"], "--tag: must be 6 to 64 letters"),
        (["--for", "30"], "--for: '30' is not a span. Did you mean '30s'?"),
        (["--for", "2d"], "--for: is longer than 1d"),
        (["--wait", "5h"], "--wait: is longer than 4h"),
        (["--calls", "0"], "--calls"),
        (["--output", "nowhere/report.md"], "nowhere/report.md: No such file"),
        (["--json", "nowhere/report.json"], "nowhere/report.json: No such file"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_asked(arguments, said, tmp_path, capsys):
    (tmp_path / "monitor.yaml").write_text(NOWHERE)
    assert run(["verify", "--config", str(tmp_path / "monitor.yaml"), *arguments]) == 2
    told = capsys.readouterr()
    assert (told.out, said in told.err, "123456" in told.err) == ("", True, False)
