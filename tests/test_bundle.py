"""The bundle for Twilio's support, and the picture of a case: each of the sample streams, opened and checked."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile

import msgspec
import pytest

from monitor.core.verdict import Verdict, read_instant, render_instant
from monitor.inputs.mask import Mask
from monitor.outputs.bundle import MANIFEST, render_bundle
from monitor.outputs.case_events import CALLS_MAX, RawEvent, RawEvents, picture
from monitor.outputs.cases import COMMENT, Case, CaseAction, succeed
from tests.test_alerts import SECOND, T0, ended, verdict
from tests.test_samples import ARRIVAL_MS, NAMES, final_verdicts, lines_of

NUMBERS = re.compile(rb"\+[0-9]{8,15}")


def events_of(name: str, *, masked: bool = True) -> RawEvents:
    mask = Mask()
    return RawEvents(
        events=tuple(
            RawEvent(
                position=f"0:{offset}",
                arrived_at=render_instant(ARRIVAL_MS),
                value=mask.json(line) if masked else line,
            )
            for offset, line in enumerate(lines_of(name), 1)
        )
    )


def cases_of(name: str) -> list[Case]:
    return [succeed(None, told, ARRIVAL_MS) for told in final_verdicts(lines_of(name))[0].values()]


def unpacked(packed: bytes) -> dict[str, bytes]:
    archive = zipfile.ZipFile(io.BytesIO(packed))
    assert archive.testzip() is None
    return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_of_a_stream_holds_what_support_asks_for_and_no_number(name):
    cases, events = cases_of(name), events_of(name)
    account = cases[0].verdict.account_sid
    settings = {account: [b'{"enabled": false}']}
    files = unpacked(render_bundle([(case, events) for case in cases], settings, now_ms=ARRIVAL_MS, masked=True))

    digests = dict(line.split("  ")[::-1] for line in files.pop(MANIFEST).decode().splitlines())
    assert digests == {of: hashlib.sha256(body).hexdigest() for of, body in files.items()}
    text = files["README.md"].decode()
    for case in cases:
        told = case.verdict
        assert msgspec.convert(json.loads(files[f"{case.key}/case.json"])["verdict"], Verdict) == told
        sids = (told.account_sid, told.recording_sid, told.call_sid, told.conference_sid, told.start_source)
        assert [sid for sid in sids if sid and sid not in text] == []
        assert [shown.shows for shown in told.evidence if shown.shows not in text] == []
        lines = files[f"{case.key}/events.jsonl"].splitlines()
        assert len(lines) == len(events.events)
        assert all(json.loads(line)["value"] for line in lines)
        assert {step["state"] for step in json.loads(files[f"{case.key}/checklist.json"])} <= {
            "found",
            "ruled out",
            "to check",
        }
    assert files[f"{account}.settings.jsonl"] == b'{"enabled":false}\n'
    assert NUMBERS.findall(b"".join(files.values())) == []


def test_what_people_said_to_a_case_stays_with_them():
    said = CaseAction(kind=COMMENT, recording_sid="", at=render_instant(T0), by="lovelace", text="Between us.")
    case = msgspec.structs.replace(succeed(None, verdict(1), T0), actions=(said,))
    files = unpacked(render_bundle([(case, RawEvents(why="Kafka could not be read"))], {}, now_ms=T0, masked=True))

    assert b"lovelace" not in b"".join(files.values())
    assert b"Of the events: Kafka could not be read" in files["README.md"]


# --- The picture


def test_a_picture_has_the_conference_its_calls_and_the_recording():
    name = "02_conference_twiml_record_from_start"
    [case] = cases_of(name)
    lanes = picture(case, events_of(name).events, ARRIVAL_MS).lanes

    assert [lane.kind for lane in lanes] == ["conference", "call", "call", "recording"]
    assert all(lane.start_ms is not None for lane in lanes)


def test_without_events_a_picture_shows_what_the_verdict_says():
    case = succeed(None, ended(1, conference_sid="CF" + "2" * 32), T0)
    shown = picture(case, (), T0)

    assert [(lane.kind, lane.start_ms) for lane in shown.lanes] == [
        ("conference", None),
        ("call", None),
        ("recording", T0 - SECOND),
    ]
    assert [mark.number for mark in shown.marks] == [0, 1]
    assert shown.from_ms < T0 < read_instant(case.verdict.ended_at or "") < shown.to_ms


def test_of_a_conference_of_very_many_calls_some_are_drawn_and_the_rest_counted():
    conference = "CF" + "2" * 32
    events = [
        RawEvent(
            position=f"0:{number}",
            arrived_at=render_instant(T0),
            value=msgspec.json.encode(
                {
                    "specversion": "1.0",
                    "type": "com.twilio.voice.status-callback.conference.participant.updated",
                    "source": "/x",
                    "id": f"EV{number}",
                    "time": render_instant(T0),
                    "data": {
                        "request": {
                            "parameters": {
                                "AccountSid": "AC" + "1" * 32,
                                "ConferenceSid": conference,
                                "CallSid": f"CA{number:032x}",
                                "StatusCallbackEvent": "participant-join",
                            }
                        }
                    },
                }
            ),
        )
        for number in range(100)
    ]
    shown = picture(succeed(None, verdict(1, call_sid=None, conference_sid=conference), T0), events, T0)

    assert sum(lane.kind == "call" for lane in shown.lanes) == CALLS_MAX
    assert shown.calls_left_out == 100 - CALLS_MAX
