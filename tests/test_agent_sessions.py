"""Which agents have to log out of Flex and in again: named by the verdict, listed by ``audit --sessions``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monitor.audit.sessions import agent_sessions
from monitor.cli import run
from monitor.core.account_settings import AccountSettings
from monitor.core.events import FlexSetting, Setting, WorkerSession
from monitor.core.verdict import Verdict, decode_verdict, encode_verdict
from monitor.inputs.account_polling import as_message
from tests.broker import RealBroker
from tests.monitors import Site

SCENARIO = Path(__file__).parent / "samples" / "scenarios" / "08_flex_stale_agent_session.jsonl"
ACCOUNT = "AC0000000000000000000000000000aa01"
OTHER = "AC" + "2" * 32
AGENT = "WK00000000000000000008000000000001"
WK = [f"WK{number:032x}" for number in range(1, 5)]
HOUR_MS = 3_600_000
OFF_MS = 1_793_644_200_000  # When the scenario's Flex recording went off: 2026-11-02T18:30:00Z.
NOW_MS = OFF_MS + 24 * HOUR_MS


def judged(capsys: pytest.CaptureFixture[str]) -> Verdict:
    """The verdict of the scenario's recording."""
    assert run(["replay", "--format", "jsonl", str(SCENARIO)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return decode_verdict(line.encode())


def off(account: str = ACCOUNT, since_ms: int | None = OFF_MS) -> FlexSetting:
    return FlexSetting(account, False, since_ms, True, OFF_MS)


def found(verdicts: list[Verdict], *settings: Setting) -> list[tuple[str, str, bool, int]]:
    known = AccountSettings()
    workers = {}
    for setting in settings:
        known.observe(setting)
        if isinstance(setting, WorkerSession):
            workers[setting.account, setting.worker] = setting
    sessions = agent_sessions(known, workers, verdicts, NOW_MS)
    return [(each.worker_sid, each.session, each.must_log_in, each.recordings) for each in sessions]


def test_the_verdict_of_a_stale_session_names_the_worker_whose_task_it_was(capsys):
    verdict = judged(capsys)

    assert verdict.cause == "flex_stale_session"
    (shown,) = [shown for shown in verdict.evidence if AGENT in shown.shows]
    # The first event that names both: the reservation was accepted before the task knew its conference.
    assert shown.type == "com.twilio.taskrouter.reservation.completed"
    task = "WT00000000000000000008000000000001"
    assert shown.shows == f"Task {task} of conference {verdict.conference_sid} was in the hands of worker {AGENT}"


def test_a_session_is_stale_that_began_before_the_change_and_goes_on(capsys):
    verdict = judged(capsys)

    assert found(
        [verdict, verdict],
        off(),
        WorkerSession(ACCOUNT, AGENT, OFF_MS - 1, None, OFF_MS),
        WorkerSession(ACCOUNT, WK[0], OFF_MS - HOUR_MS, OFF_MS + 1, OFF_MS + 1),
        WorkerSession(ACCOUNT, WK[1], OFF_MS, OFF_MS - 1, OFF_MS),
        WorkerSession(ACCOUNT, WK[2], OFF_MS - 5, OFF_MS - 6, OFF_MS),
    ) == [
        (AGENT, "stale", True, 2),
        (WK[2], "stale", True, 0),
        (WK[0], "offline", False, 0),
        (WK[1], "renewed", False, 0),
    ]


def test_an_agent_of_whom_only_recordings_are_known_has_to_log_in_as_far_as_anybody_knows(capsys):
    assert found([judged(capsys)], off()) == [(AGENT, "unknown", True, 1)]


def test_what_was_recorded_before_the_present_change_is_not_counted(capsys):
    again = FlexSetting(ACCOUNT, False, OFF_MS + 12 * HOUR_MS, True, OFF_MS + 12 * HOUR_MS)
    on = FlexSetting(ACCOUNT, True, OFF_MS + 6 * HOUR_MS, False, OFF_MS + 6 * HOUR_MS)
    session = WorkerSession(ACCOUNT, AGENT, OFF_MS + 13 * HOUR_MS, None, NOW_MS)

    assert found([judged(capsys)], off(), on, again, session) == [(AGENT, "renewed", False, 0)]


def test_where_recording_is_on_or_not_known_nobody_has_to_log_in(capsys):
    session = WorkerSession(ACCOUNT, AGENT, OFF_MS - 1, None, OFF_MS)

    assert found([judged(capsys)], session) == []
    assert found([judged(capsys)], FlexSetting(ACCOUNT, True, None, None, OFF_MS), session) == []


def test_since_when_is_not_known_is_no_kind_of_no():
    session = WorkerSession(ACCOUNT, AGENT, OFF_MS - 1, None, OFF_MS)

    assert found([], FlexSetting(ACCOUNT, False, None, None, OFF_MS), session) == [(AGENT, "unknown", False, 0)]


@pytest.mark.broker
def test_the_command_lists_them_from_the_topics(broker: RealBroker, tmp_path: Path, capsys):
    verdict = judged(capsys)
    site = Site(broker, tmp_path / "site", partitions=1, accounts=[{"alias": "main", "sid": ACCOUNT}])
    config = str(site.config())
    assert run(["audit", "--sessions", "--config", config]) == 0
    assert capsys.readouterr().out == "0 of 0 agents have to log out of Flex and in again; they left 0 recordings.\n"

    settings: list[Setting] = [
        off(),
        WorkerSession(ACCOUNT, AGENT, OFF_MS - HOUR_MS, None, OFF_MS - HOUR_MS),
        off(OTHER),
        WorkerSession(OTHER, WK[0], OFF_MS - 1, None, OFF_MS),
    ]
    for setting in settings:
        key, value = as_message(setting, OFF_MS)
        site.send([value], topic=site.settings_topic, key=key)
    site.send([encode_verdict(verdict)], topic=site.verdict_topic, key=verdict.recording_sid)
    site.send([b"not a verdict: flex_stale_session"], topic=site.verdict_topic, key="RE")

    assert run(["audit", "--sessions", "--config", config, "--account", "main"]) == 1
    told = capsys.readouterr().out
    assert told.splitlines()[0] == (
        f"log out and in  {ACCOUNT} {AGENT}  session stale, online since 2026-11-02T17:30:00.000Z, recording off since "
        "2026-11-02T18:30:00.000Z; 1 recordings, the last at 2026-11-02T19:00:13.000Z"
    )
    assert run(["audit", "--sessions", "--config", config, "--format", "json"]) == 1
    listed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["sessions"]
    assert [(each["worker_sid"], each["must_log_in"], each["recordings"]) for each in listed] == [
        (AGENT, True, 1),
        (WK[0], True, 0),
    ]

    site.send([None], topic=site.verdict_topic, key=verdict.recording_sid)  # Its tombstone.
    run(["audit", "--sessions", "--config", config, "--format", "json"])
    assert [each["recordings"] for each in json.loads(capsys.readouterr().out)["sessions"]] == [0, 0]
