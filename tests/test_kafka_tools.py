"""What people use beside the monitor: topics, quarantine, export; on a real broker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from monitor.inputs.files import Files
from monitor.inputs.scan import Scan
from monitor.inputs.topics import Finding, Names, TopicAdmin, acls
from tests.broker import RealBroker, unique_name
from tests.member import Desk, Running, account_sid, recording_event, recording_sid, until

pytestmark = pytest.mark.broker


def command(tmp_path: Path, desk: Desk | None, broker: RealBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``recording-monitor`` as a person would, with the topics of ``desk`` in its settings."""
    topics = {}
    if desk is not None:
        topics = {
            "events": desk.topics.events,
            "verdicts": desk.topics.verdicts,
            "account_settings": desk.topics.account_settings,
            "quarantine": desk.quarantine,
        }
    config = tmp_path / "monitor.yaml"
    config.write_text(json.dumps({"kafka": {"bootstrap_servers": broker.bootstrap}, "topics": topics}))
    return subprocess.run(
        [sys.executable, "-c", "from monitor.cli import main; main()", *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def names() -> Names:
    stem = unique_name("tools")
    return Names(
        events=f"{stem}.events",
        verdicts=f"{stem}.verdicts",
        case_actions=f"{stem}.actions",
        account_settings=f"{stem}.settings",
        quarantine=f"{stem}.quarantine",
    )


def admin(broker: RealBroker, topics: Names) -> TopicAdmin:
    return TopicAdmin(
        {"bootstrap.servers": broker.bootstrap}, topics, window_ms=4 * 3_600_000, age_max_ms=48 * 3_600_000
    )


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.topic.rpartition(".")[2]: finding.level for finding in findings}


# ------------------------------------------------------------------------------------------------- topics


def test_apply_creates_all_five_topics_and_check_then_has_nothing_to_say(broker: RealBroker):
    topics = names()
    asked = admin(broker, topics)
    assert levels(asked.check())["events"] == "error"
    assert [finding.level for finding in asked.apply(partitions=3)] == ["created"] * 5 + ["ok"] * 5
    assert set(levels(admin(broker, topics).check()).values()) == {"ok"}
    there = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
    assert [len(there[name].partitions) for name in msgspec.structs.astuple(topics)] == [3, 3, 1, 1, 1]


def test_what_apply_has_just_created_it_never_calls_missing(broker: RealBroker):
    # The broker shows a topic milliseconds after the controller has created it: too late one time in four.
    for _ in range(20):
        said = admin(broker, names()).apply(partitions=3)
        assert [finding.level for finding in said] == ["created"] * 5 + ["ok"] * 5


def test_those_who_apply_at_once_create_each_topic_once_and_nobody_finds_it_missing(broker: RealBroker):
    for _ in range(5):
        topics = names()
        begin = threading.Barrier(3)

        def apply(partitions: int) -> list[Finding]:
            asked = admin(broker, topics)  # noqa: B023 - used only in this round.
            begin.wait(60)  # noqa: B023
            return asked.apply(partitions=partitions)

        with ThreadPoolExecutor(3) as at_once:
            said = [finding for findings in at_once.map(apply, (2, 3, 4)) for finding in findings]
        assert Counter(finding.level for finding in said)["created"] == 5
        assert {finding.level for finding in said} == {"created", "ok"}


def test_a_second_apply_creates_nothing(broker: RealBroker):
    topics = names()
    admin(broker, topics).apply(partitions=2)
    assert set(levels(admin(broker, topics).check()).values()) == {"ok"}
    assert {finding.level for finding in admin(broker, topics).apply(partitions=7)} == {"ok"}


def test_verdicts_get_as_many_partitions_as_the_events_topic_has_already(broker: RealBroker):
    topics = names()
    broker.create_topic(topics.events, 5, retention_ms=604_800_000, message_timestamp_type="LogAppendTime")
    admin(broker, topics).apply(partitions=2)
    assert set(levels(admin(broker, topics).check()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("config", "level", "remedy"),
    [
        ({"cleanup_policy": "compact"}, "error", "cleanup.policy=delete"),
        ({"retention_ms": 3_600_000}, "warning", "retention.ms="),
        ({"retention_bytes": 1_000_000}, "warning", "retention.bytes"),
        ({"message_timestamp_type": "CreateTime"}, "warning", "LogAppendTime"),
    ],
)
def test_an_events_topic_that_would_lose_evidence_is_noticed(
    broker: RealBroker, config: dict[str, str | float], level: str, remedy: str
):
    topics = names()
    broker.create_topic(topics.events, 2, **{"message_timestamp_type": "LogAppendTime", **config})
    found = [finding for finding in admin(broker, topics).apply() if finding.topic == topics.events]
    assert [(finding.level, remedy in finding.says) for finding in found] == [(level, True)]


def test_fewer_verdict_partitions_than_event_partitions_are_refused(broker: RealBroker):
    topics = names()
    broker.create_topic(topics.events, 3, message_timestamp_type="LogAppendTime")
    broker.create_topic(topics.verdicts, 2, cleanup_policy="compact")
    found = admin(broker, topics).apply()
    assert levels(found)["verdicts"] == "error"
    remedy = f"`recording-monitor rekey --from {topics.events} --to NEW --create --partitions 3`"
    assert [remedy in finding.says for finding in found if finding.level == "error"] == [True]


def test_the_topic_id_changes_when_a_topic_is_made_anew(broker: RealBroker):
    topics = names()
    broker.create_topic(topics.events, 1)
    first = admin(broker, topics).topic_id(topics.events)
    client = AdminClient({"bootstrap.servers": broker.bootstrap})
    client.delete_topics([topics.events], operation_timeout=30)[topics.events].result(30)
    until(lambda: topics.events not in client.list_topics(timeout=10).topics)
    broker.create_topic(topics.events, 1)
    assert admin(broker, topics).topic_id(topics.events) not in (first, topics.events)


def test_the_rights_are_listed_for_every_topic_and_the_group(broker: RealBroker):
    topics = names()
    said = "\n".join(acls(topics, "the-group"))
    assert all(name in said for name in (*msgspec.structs.astuple(topics), "the-group"))


def test_topics_check_exits_with_1_where_run_would_not_start(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 2, cleanup_policy="compact")
    done = command(tmp_path, desk, broker, "topics", "check")
    assert (done.returncode, "cleanup.policy=delete" in done.stdout) == (1, True), done.stderr


# ------------------------------------------------------------------------------------------------- quarantine, export


def test_a_stretch_holds_what_is_left_where_records_were_deleted(broker: RealBroker):
    # For minutes their segment is still there: the broker looks for the first message since an instant in that alone.
    desk = Desk.on(broker, 1, segment_ms=1_000)
    at_ms = time.time_ns() // 1_000_000 - 60_000
    desk.send([b"1"], timestamp=at_ms + 10_000)
    desk.send([b"2", b"3"], timestamp=at_ms + 20_000)
    broker.delete_records(desk.topics.events, 0, 1)

    def read(since_ms: int) -> list[bytes | None]:
        scan = Scan({"bootstrap.servers": broker.bootstrap}, desk.group, desk.topics.events, since_ms=since_ms)
        try:
            return [message.value() for message in scan.read()]
        finally:
            scan.close()

    assert read(at_ms) == [b"2", b"3"]
    assert read(at_ms + 20_001) == []


def test_what_was_set_aside_can_be_listed_shown_and_exported(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    assert command(tmp_path, desk, broker, "quarantine", "list").returncode == 1
    with Running(desk) as running:
        running.ready(1)
        desk.send([b"\x1b[31m\xffpoison"])
        until(lambda: len(running.heard.aside) == 1)
    listed = command(tmp_path, desk, broker, "quarantine", "list")
    assert listed.returncode == 0, listed.stderr
    assert "0:0" in listed.stdout
    shown = command(tmp_path, desk, broker, "quarantine", "show", "0:0")
    assert "poison" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert command(tmp_path, desk, broker, "quarantine", "show", "0:99").returncode == 1
    out = tmp_path / "out"
    assert command(tmp_path, desk, broker, "quarantine", "export", str(out)).returncode == 0
    assert [path.read_bytes() for path in out.iterdir()] == [b"\x1b[31m\xffpoison"]


def participant(call: int, conference: int, number: str = "+15550001234") -> bytes:
    parameters = {
        "AccountSid": account_sid(1),
        "CallSid": f"CA{call:032x}",
        "ConferenceSid": f"CF{conference:032x}",
        "FriendlyName": "Jane Doe's room",
        "From": number,
        "StatusCallbackEvent": "participant-join",
    }
    kind = "com.twilio.voice.status-callback.conference.participant.updated"
    data = {"request": {"parameters": parameters}}
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": kind,
            "id": f"VW{call}-{conference}",
            "time": "2026-11-21T08:00:00Z",
            "data": data,
        }
    )


def test_an_export_of_a_recording_brings_what_is_connected_to_it_and_nothing_else(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 2)
    binary = b"\xff\x00"
    desk.send([recording_event(1), participant(1, 7), recording_event(2), binary, participant(3, 7)], partition=0)
    desk.send([recording_event(3), recording_event(4), None], partition=1)
    out = tmp_path / "out.jsonl"
    done = command(tmp_path, desk, broker, "export", "--sid", recording_sid(1), "--out", str(out))
    assert done.returncode == 0, done.stderr
    lines = list(Files([out]).read())
    # Recording 1 is on call 1, which is in conference 7, which call 3 is in, on which recording 3 is.
    assert sorted((line.partition, line.offset) for line in lines) == [(0, 0), (0, 1), (0, 4), (1, 0)]
    [first] = [line.value for line in lines if (line.partition, line.offset) == (0, 0)]
    assert first == desk.read(desk.topics.events, 0)[0][1]
    assert all(line.timestamp_ms for line in lines)
    alone = command(tmp_path, desk, broker, "export", "--sid", recording_sid(1), "--alone", "--out", str(out))
    assert (alone.returncode, len(list(Files([out]).read()))) == (0, 1)


def test_an_export_of_everything_keeps_bytes_that_are_not_json(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    values = [b"\xff\x00", b"{}\n{}", recording_event(1), None, b'  {"a": 1}  ']
    desk.send(values)
    out = tmp_path / "out.jsonl"
    done = command(tmp_path, desk, broker, "export", "--since", "1h", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert [line.value for line in Files([out]).read()] == [*values[:4], b'{"a": 1}']


def test_a_masked_export_holds_no_number_and_no_name(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    desk.send([recording_event(1), participant(1, 7), b"Jane +15550001234"])
    out = tmp_path / "out.jsonl"
    done = command(tmp_path, desk, broker, "export", "--since", "1h", "--mask", "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert "Jane" not in text
    assert "5550001234" not in text
    assert recording_sid(1) in text
    assert "1 left out" in done.stderr


# ------------------------------------------------------------------------------------------------- replay, explain


# The sample streams are of one day, and what began 7 days before it arrives is not judged.
THEIR_DAY = {"timestamp": 1_793_640_669_000}


def scenario(number: int) -> list[bytes]:
    [path] = (Path(__file__).parent / "samples" / "scenarios").glob(f"{number:02}_*.jsonl")
    return path.read_bytes().splitlines()


def test_a_verdict_is_explained_from_the_topic_with_the_account_settings_and_the_windows_left_open(
    broker: RealBroker, tmp_path: Path
):
    desk = Desk.on(broker, 2, retention_ms=-1)
    events = scenario(8)
    setting = events.pop(1)
    desk.send([recording_event(1), *events, recording_event(2)], partition=1, **THEIR_DAY)
    desk.fill(desk.topics.account_settings, [("flex", setting)])
    [recording] = {sid.decode() for sid in re.findall(rb"RE[0-9a-f]{32}", b"".join(events))}
    told = command(tmp_path, desk, broker, "policy", "explain", recording, "--format", "json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    verdict = answer["verdict"]
    assert (verdict["cause"], verdict["final"]) == ("flex_stale_session", False)
    assert {shown["position"].partition(":")[0] for shown in verdict["evidence"]} == {"1"}
    assert [rule["rule"] for rule in answer["rules"]] == ["explicit-api-start", "no-media-kept"]
    ended = command(tmp_path, desk, broker, "policy", "explain", recording, "--format", "json", "--end")
    assert json.loads(ended.stdout)["verdict"]["final"]
    nowhere = command(tmp_path, desk, broker, "policy", "explain", recording_sid(99))
    assert (nowhere.returncode, "not in the topic" in nowhere.stderr) == (1, True)


@pytest.mark.parametrize("told_of", ["export", "explain"])
def test_what_only_the_name_of_a_conference_connects_belongs_to_it_too(
    broker: RealBroker, tmp_path: Path, told_of: str
):
    """The TwiML of a call whose participant events were never seen is bound to its conference by name alone."""
    desk = Desk.on(broker, 1, retention_ms=-1)
    events = [line for line in scenario(2) if not re.search(rb"CF[0-9a-f]{32}", line) or b"CA0" not in line]
    desk.send([recording_event(1), *events], **THEIR_DAY)
    [recording] = {sid.decode() for sid in re.findall(rb"RE[0-9a-f]{32}", b"".join(events))}
    if told_of == "export":
        out = tmp_path / "out.jsonl"
        assert command(tmp_path, desk, broker, "export", "--sid", recording, "--out", str(out)).returncode == 0
        told = command(tmp_path, desk, broker, "replay", "--format", "jsonl", str(out))
        verdict = json.loads(told.stdout)
    else:
        told = command(tmp_path, desk, broker, "policy", "explain", recording, "--format", "json")
        verdict = json.loads(told.stdout)["verdict"]
    assert (verdict["recording_sid"], verdict["cause"]) == (recording, "conference_twiml")


def test_the_topic_replayed_tells_what_an_export_of_it_tells(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 2, retention_ms=-1)
    desk.send([*scenario(1), b"\xff", *scenario(4)[1:]], partition=0, **THEIR_DAY)
    desk.send(scenario(15), partition=1, **THEIR_DAY)
    desk.fill(desk.topics.account_settings, [("flow", scenario(4)[0])])
    out = tmp_path / "out.jsonl"
    assert (
        command(tmp_path, desk, broker, "export", "--since", "2026-11-01T00:00:00Z", "--out", str(out)).returncode == 0
    )
    from_file = command(tmp_path, desk, broker, "replay", "--format", "jsonl", str(out))
    from_topic = command(tmp_path, desk, broker, "replay", "--format", "jsonl", "--topic")
    assert from_topic.returncode == 0, from_topic.stderr
    assert len(from_topic.stdout.splitlines()) == 4
    assert sorted(from_topic.stdout.splitlines()) == sorted(from_file.stdout.splitlines())


def test_an_export_that_finds_nothing_exits_with_1(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    assert command(tmp_path, desk, broker, "export", "--sid", recording_sid(1)).returncode == 1


def test_an_export_of_no_sid_account_or_time_is_wrong_usage(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    done = command(tmp_path, desk, broker, "export")
    assert (done.returncode, "--sid" in done.stderr) == (2, True)


def test_a_broker_out_of_reach_is_exit_code_3(broker: RealBroker, tmp_path: Path):
    config = tmp_path / "monitor.yaml"
    config.write_text('{"kafka": {"bootstrap_servers": "127.0.0.1:1"}}')
    call = [sys.executable, "-c", "from monitor.cli import main; main()", "topics", "check", "--config", str(config)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3
