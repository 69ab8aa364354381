"""Upgrade and rollback: what other versions left is read, and what we leave can be read by them.

`tests/versions` holds what versions before this one left behind, killed at their work. The proof with the code of both
versions running is `python -m tests.upgrade` (docs/upgrade-and-rollback.md).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # It brings no types.
import msgspec
import pytest

from monitor.core.decode import decode
from monitor.core.events import Event, Ignored
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint
from monitor.core.snapshot import LAYOUT, Unusable, about, chunks
from monitor.core.verdict import Verdict, decode_verdict
from monitor.inputs.checkpoint import Committed, decode_checkpoint
from monitor.outputs.cases import VERSION, is_case, read_case_action
from monitor.outputs.quarantine import read_aside
from tests import versions
from tests.broker import RealBroker
from tests.monitors import until
from tests.torture.judge import judge
from tests.torture.stage import Stage
from tests.verify import Message, holding

KEPT = versions.kept()
UNREADABLE = "REffffffffffffffffffffffffffffffff"


def due(stage: Stage) -> Counter[str]:
    """The cases there have to be, each once."""
    ours = [message for message in stage.site.written() if message.key != UNREADABLE]
    verdicts = {key: msgspec.convert(verdict, Verdict) for key, verdict in holding(ours).items()}
    return Counter(key for key, verdict in verdicts.items() if is_case(verdict))


@pytest.mark.broker
@pytest.mark.parametrize("commits", ["as it wrote them", "as a later one may"])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_version_left_is_taken_up_where_it_stood_and_what_is_written_then_it_can_read(
    name: str, commits: str, broker: RealBroker, tmp_path: Path
):
    left = versions.read(name)
    later = commits == "as a later one may"
    if later:
        changed = [(partition, offset, '{"v":2,"open":[{"from":7}]}') for partition, offset, _ in left.commits]
        left = msgspec.structs.replace(left, commits=changed)
    with (
        versions.taking_alerts() as (url, alerts),
        Stage(
            broker,
            tmp_path / "stage",
            versions.SEED,
            partitions=versions.PARTITIONS,
            alertmanagers=[url],
            snapshots={"directory": str(tmp_path / "snapshots"), "every": "1h"},
            cases={"database": str(tmp_path / "cases.sqlite3")},
        ) as stage,
    ):
        versions.put_back(left, stage)
        stage.site.send([b'{"kind": "recording", "of": "a day to come"}'], 0, stage.site.verdict_topic, key=UNREADABLE)
        monitor = versions.start(stage).ready(versions.PARTITIONS)
        versions.send_later(left, stage)
        stage.rest()

        def listed() -> list[Any]:
            cases: list[Any] = msgspec.json.decode(monitor.get("/api/v1/cases?state=all")[1])["cases"]
            return cases

        # The cases follow the topic of verdicts, a moment behind.
        until(lambda: Counter(case["key"] for case in listed()) == due(stage), why=monitor.tail)
        cases = listed()
        known = versions.identities(left.alerts)
        until(lambda: known.keys() & versions.identities(alerts).keys(), why=monitor.tail)
        stage.stop_all()

        # It went on from the very commits; of what they say it believes nothing where that is of another version.
        places = {(partition, offset) for partition, offset, _ in left.commits}
        foreign = monitor.said("foreign_checkpoint_found")
        begun = foreign if later else monitor.said("partition_taken_over")
        assert {(said["partition"], said["offset"]) for said in begun} == places
        assert {said["why"] for said in foreign} == ({"other_version"} if later else set())
        # Snapshots of another layout are left alone, and the case database of another version is begun anew.
        if left.formats.snapshot_layout != LAYOUT and not later:
            assert {said["why"] for said in monitor.said("snapshot_not_used")} == {"it is of another layout"}
            assert not monitor.said("snapshot_loaded")
        if left.formats.case_database != VERSION:
            assert [said["why"] for said in monitor.said("case_database_rebuilt")] == [
                "another version of the monitor wrote it"
            ]

        # Nothing lost, nothing told again; what was final stands, all else ends as if nothing had happened.
        written = stage.site.written()
        ours = [message for message in written if message.key != UNREADABLE]
        stood = {key: message.value for key, message in left.last_verdicts().items() if _is_final(message)}
        straight = stage.uninterrupted(versions.topic(stage, "events"))
        straight |= {key: msgspec.json.decode(value) for key, value in stood.items() if value is not None}
        tally = judge(ours, stage.commits(), stage.truth, straight=straight)
        assert tally.passed, msgspec.structs.asdict(tally)
        assert len(stood) > 3
        assert {
            key: message.value for key in stood for message in ours if message.key == key and message.value
        } == stood
        # What cannot be read is said, and nobody's to change.
        assert len(monitor.said("verdict_not_read")) == 1
        assert sum(message.key == UNREADABLE for message in written) == 1

        # A case for each of them, and whoever was told is told of the same alert, which is no other page.
        assert Counter(case["key"] for case in cases) == due(stage)
        marks = versions.told_marks(versions.topic(stage, "case_actions"))
        assert set(marks.values()) == {1}
        heard = versions.identities(alerts)
        assert {sid: heard[sid] for sid in known.keys() & heard.keys()} == {
            sid: known[sid] for sid in known.keys() & heard.keys()
        }

        # And back: all that was written is what that version reads.
        reads = {kind: jsonschema.Draft202012Validator(schema) for kind, schema in left.formats.reads.items()}
        places = {(message.partition, message.offset) for message in left.topics["verdicts"]}
        new: dict[str, list[Any]] = {
            "verdict": [message.value for message in ours if (message.partition, message.offset) not in places],
            "case_action": [message.value for message in versions.topic(stage, "case_actions")],
            "checkpoint": [commit.metadata for commit in stage.commits()[len(left.commits) :]],
        }
        for kind, values in new.items():
            assert values
            for value in filter(None, values):
                reads[kind].validate(msgspec.json.decode(value))


def _is_final(message: Message) -> bool:
    return message.value is not None and decode_verdict(message.value).final


# ------------------------------------------------------------------------------------------------- without a broker


@pytest.mark.parametrize("name", KEPT)
def test_all_that_a_version_wrote_is_read(name: str):
    left = versions.read(name)
    for message in left.topics["verdicts"]:
        assert message.value is None or decode_verdict(message.value).key == message.key
    for message in left.topics["case_actions"]:
        assert read_case_action(message.key or "", message.value or b"") is not None
    for message in left.topics["account_settings"]:
        # Settings are events; where an account is, its owner says in a shape of its own.
        assert "/place/" in str(message.key) or isinstance(next(iter(decode(message.value))), Event)
    for message in left.topics["quarantine"]:
        aside = read_aside(list(message.headers.items()), message.value)
        assert aside.reason != "unknown"
        assert aside.length == len(aside.data)
    for _, offset, metadata in left.commits:
        assert isinstance(decode_checkpoint(Committed(offset, metadata), left.fingerprint), Checkpoint)


@pytest.mark.parametrize("name", KEPT)
def test_a_snapshot_of_another_layout_is_known_by_its_first_chunk(name: str):
    left = versions.read(name)
    for path in left.directory.glob("*.snapshot"):
        with path.open("rb") as file:
            first = next(chunks(file.read))
        if left.formats.snapshot_layout == LAYOUT:
            about(first)
        else:
            with pytest.raises(Unusable, match="another layout"):
                about(first)


def test_a_snapshot_that_does_not_even_begin_like_ours_is_not_read():
    with pytest.raises(Unusable, match="say nothing"):
        about(msgspec.msgpack.encode(["begins", {"layout": LAYOUT}]))


def grown(value: bytes) -> bytes:
    """A document as a later version may write it, with fields that nobody knows yet."""
    return msgspec.json.encode(msgspec.json.decode(value) | {"known_later": {"some": ["thing"]}})


@pytest.mark.parametrize("name", KEPT)
def test_a_field_that_nobody_knows_is_passed_over(name: str):
    left = versions.read(name)
    ledger = Ledger()
    for message in left.topics["verdicts"]:
        assert message.value is not None
        later = grown(message.value)
        verdict = decode_verdict(later)
        assert verdict == decode_verdict(message.value)
        assert ledger.take_in(str(message.key), verdict, message.offset) is None
        assert ledger.knows(str(message.key))
    [action, *_] = [message for message in left.topics["case_actions"] if message.value is not None]
    assert action.value is not None
    known = read_case_action(str(action.key), action.value)
    assert read_case_action(str(action.key), grown(action.value)) == known
    [(_, offset, metadata), *_] = left.commits
    assert decode_checkpoint(Committed(offset, grown(metadata.encode()).decode()), left.fingerprint) == (
        decode_checkpoint(Committed(offset, metadata), left.fingerprint)
    )
    for message in left.topics["account_settings"]:
        assert message.value is not None
        [setting] = decode(message.value)
        if isinstance(setting, Event):
            [same] = decode(grown(message.value))
            assert isinstance(same, Event)
            assert same.facts == setting.facts
    [aside, *_] = left.topics["quarantine"]
    headers = [*aside.headers.items()]
    assert read_aside([*headers, ("known-later", b"1")], aside.value) == read_aside(headers, aside.value)


def test_an_action_of_a_kind_that_nobody_knows_stands_in_the_timeline():
    sid = "RE" + "a" * 32
    told = {"kind": "delegate", "recording_sid": sid, "at": "2027-01-01T00:00:00.000Z", "to": "the other team"}
    action = read_case_action(f"{sid}/01", msgspec.json.encode(told))
    assert action is not None
    assert action.kind == "delegate"


def test_an_event_of_ours_of_a_type_that_nobody_knows_is_ignored_and_counted():
    event = {"type": "dev.recording-monitor.known.later", "id": "1", "data": {"account_sid": "AC" + "a" * 32}}
    [entry] = decode(msgspec.json.encode(event))
    assert isinstance(entry, Ignored)
