"""Decoding: every type, spelling, nesting and date format means the same, and no bytes whatever make it raise."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.core import decode as decoding
from monitor.core.decode import ENTRIES_MAX, account_of, decode, entries_of
from monitor.core.envelope import NESTING_MAX
from monitor.core.events import (
    CallFact,
    ConferenceFact,
    Entry,
    Event,
    ExecutionFact,
    FlexSetting,
    FlowSetting,
    Ignored,
    Malformed,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
    WorkerSession,
)
from monitor.core.readers import BY_ENVELOPE, EVENT_TYPES
from monitor.core.values import DATE_LENGTH_MAX, INSTANTS, MESSAGE_BYTES_MAX, is_sid
from tests.builders import START_MS, base64_of, build_messages, conference_twiml, iso, rfc2822, scenarios, sid

SAMPLES: Final = Path(__file__).parent / "samples"
Json = dict[str, Any]


@cache
def sample_bytes() -> dict[str, bytes]:
    """One event of each sample file, by its name; a batch by name and place."""
    found = {}
    for path in sorted(SAMPLES.glob("*.json")):
        document = json.loads(path.read_bytes())
        for place, event in enumerate(document if isinstance(document, list) else [document]):
            found[f"{path.stem}.{place}" if isinstance(document, list) else path.stem] = json.dumps(event).encode()
    return found


@cache
def scenario_bytes() -> tuple[bytes, ...]:
    """Every event of the sample streams and of the scenario files."""
    streams = [
        line for path in sorted((SAMPLES / "scenarios").glob("*.jsonl")) for line in path.read_bytes().split(b"\n")
    ]
    return tuple(dict.fromkeys([*filter(None, streams), *(m.value for one in scenarios() for m in one.messages)]))


each_sample = pytest.mark.parametrize("name", sorted(sample_bytes()))


def one(message: bytes | Json, headers: list[tuple[str, bytes | None]] | None = None) -> Entry:
    [entry] = decode(message if isinstance(message, bytes) else json.dumps(message).encode(), headers)
    return entry


def event_of(message: bytes | Json) -> Event:
    entry = one(message)
    assert isinstance(entry, Event), entry
    return entry


def sample(name: str) -> Json:
    document: Json = json.loads(sample_bytes()[name])
    return document


def built(**line: Any) -> Event:
    """The event of one scenario line."""
    [message] = build_messages([{"at": 0, **line}])
    return event_of(message.value)


ACCOUNT: Final = "AC0000000000000000000000000000aa01"
CALL: Final = "CA00000000000000000064000000000001"
CONFERENCE: Final = "CF00000000000000000064000000000001"
RECORDING: Final = "RE00000000000000000064000000000001"
EXECUTION: Final = "FN00000000000000000064000000000001"
TASK: Final = "WT00000000000000000064000000000001"
FLOW: Final = "FW00000000000000000000000000000001"


def ms(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


# --------------------------------------------------------------------------- the samples, one by one

PHONE: Final = ("inbound", "+14155550101", "+14155550102")
PARTICIPANT: Final = "com.twilio.voice.status-callback.conference.participant.updated"
UPDATED: Final = "com.twilio.voice.status-callback.conference.updated"
RECORDED: Final = "com.twilio.voice.status-callback.recording.processed"
CALLBACK: Final = "https://voice.example.com/callbacks/recording"

# Of each sample: the SIDs it connects and the facts it shows; None where nobody reads it.
SHOWN: Final[dict[str, tuple[tuple[str, ...], tuple[object, ...]] | None]] = {
    "com.twilio.error-logs.error.logged": None,
    "com.twilio.eventstreams.test-event": None,
    "com.twilio.studio.flow.execution.started": (
        (EXECUTION, CALL),
        (ExecutionFact(EXECUTION, CALL, FLOW, 7, ended=False),),
    ),
    "com.twilio.studio.flow.execution.ended": (
        (EXECUTION, CALL),
        (ExecutionFact(EXECUTION, CALL, FLOW, 7, ended=True),),
    ),
    "com.twilio.studio.flow.step.ended": (
        (EXECUTION,),
        (StepFact(EXECUTION, "call_recording_1", "send_to_flex_1", "success"),),
    ),
    "com.twilio.taskrouter.worker.activity.update": ((), ()),
    "com.twilio.voice.status-callback.conference.updated.conference-start": (
        (CONFERENCE,),
        (ConferenceFact(CONFERENCE, "support-room", "start", None, None),),
    ),
    f"{PARTICIPANT}.participant-join": (
        (CONFERENCE, CALL),
        (ParticipantFact(CONFERENCE, CALL, "join", "support-room", None),),
    ),
    f"{PARTICIPANT}.participant-leave": (
        (CONFERENCE, CALL),
        (ParticipantFact(CONFERENCE, CALL, "leave", "support-room", None),),
    ),
    "com.twilio.voice.status-callback.call.answered": ((CALL,), (CallFact(CALL, *PHONE),)),
    "com.twilio.voice.twiml.call.redirected": ((CALL,), (CallFact(CALL, *PHONE),)),
    "com.twilio.voice.twiml.dial.finished": (
        (CALL, "CA00000000000000000064000000000002", RECORDING),
        (
            CallFact(CALL, *PHONE),
            RecordingFact(RECORDING, CALL, None, "DialVerb", None, None, None, None, "verb"),
        ),
    ),
    "com.twilio.voice.twiml.record.finished": (
        (CALL, RECORDING),
        (
            CallFact(CALL, *PHONE),
            RecordingFact(RECORDING, CALL, None, "RecordVerb", None, None, 18_000, None, "verb"),
        ),
    ),
    "com.twilio.voice.api-request.conference-participant.created": (
        (CONFERENCE,),
        (ConferenceFact(CONFERENCE, None, "seen", None, None), RequestFact(CONFERENCE, None, None)),
    ),
    f"{RECORDED}.call-completed": (
        (RECORDING, CALL),
        (
            RecordingFact(
                RECORDING,
                CALL,
                None,
                "StartCallRecordingAPI",
                "completed",
                ms("2026-11-04T17:00:12+00:00"),
                50_000,
                CALLBACK,
                "stream",
            ),
        ),
    ),
    "com.twilio.voice.insights.conference-summary.complete": (
        (CONFERENCE,),
        (
            ConferenceFact(CONFERENCE, "support-room", "start", ms("2026-11-04T17:00:00+00:00"), True),
            ConferenceFact(CONFERENCE, "support-room", "end", ms("2026-11-04T17:01:00+00:00"), None),
        ),
    ),
    "com.twilio.voice.insights.conference-participant-summary.complete": (
        (CONFERENCE, CALL),
        (
            ParticipantFact(CONFERENCE, CALL, "join", None, ms("2026-11-04T17:00:00+00:00")),
            ParticipantFact(CONFERENCE, CALL, "leave", None, ms("2026-11-04T17:01:00+00:00")),
            ConferenceFact(CONFERENCE, None, "seen", ms("2026-11-04T17:00:00+00:00"), True),
        ),
    ),
    "com.twilio.voice.insights.call-summary.complete": ((CALL,), (CallFact(CALL, "inbound", None, None),)),
    "com.twilio.taskrouter.reservation.accepted": (
        (TASK, CALL),
        (
            TaskFact(
                TASK,
                None,
                (CALL,),
                ("WQ00000000000000000064000000000001", "Everyone"),
                ("WK00000000000000000064000000000001", "agent.one"),
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_sample_shows_what_it_says(name):
    expected = SHOWN[name]
    entry = one(sample_bytes()[name])
    if expected is None:
        assert entry == Ignored(sample(name)["type"], known=True)
        return
    assert isinstance(entry, Event)
    members, facts = expected

    assert (entry.members, entry.facts) == (members, facts)
    assert entry.account == ACCOUNT
    assert entry.id == sample(name)["id"]


@each_sample
def test_a_sample_is_an_event_of_its_own_type_unless_nobody_reads_it(name):
    entry, event = one(sample_bytes()[name]), sample(name)
    if isinstance(entry, Ignored):
        assert name.startswith(("com.twilio.error-logs", "com.twilio.eventstreams"))
        return
    assert isinstance(entry, Event)

    assert entry.type == event["type"].replace(".webhook.", ".")
    assert entry.account == ACCOUNT
    assert INSTANTS[entry.time] == ms(event["time"])
    assert entry.occurred_ms is not None


def test_the_samples_and_the_scenarios_hold_every_type_that_is_read_but_those_tested_by_name():
    seen = {
        entry.type
        for raw in [*sample_bytes().values(), *scenario_bytes()]
        for entry in decode(raw)
        if isinstance(entry, Event)
    }
    by_name = {
        "com.twilio.voice.twiml.call.transferred",
        "com.twilio.voice.twiml.call.request.failed",
        "com.twilio.voice.twiml.gather.finished",
        "com.twilio.voice.twiml.request.failed",
        "com.twilio.voice.twiml.requested",
        "com.twilio.voice.twiml.call.redirected",
        "com.twilio.voice.api-request.call.deleted",
        "com.twilio.voice.insights.call-summary.predicted-complete",
        "com.twilio.voice.insights.conference-participant-summary.partial",
        "com.twilio.voice.insights.participant-summary.partial",
        "com.twilio.voice.insights.participant-summary.complete",
        "dev.recording-monitor.call-events.fetched",
        "dev.recording-monitor.worker-session.observed",
    }

    assert set(EVENT_TYPES) - seen <= by_name


# --------------------------------------------------------------------------- types and their aliases


def retyped(name: str, kind: str) -> Json:
    return {**sample(name), "type": kind}


CALL_REQUESTED: Final = "com.twilio.voice.twiml.call.requested"
ANSWERED: Final = "com.twilio.voice.status-callback.call.answered"
SUMMARY: Final = "com.twilio.voice.insights.conference-participant-summary.complete"
JOINED: Final = f"{PARTICIPANT}.participant-join"
CREATED: Final = "com.twilio.voice.api-request.conference-participant.created"
CALL_CREATED: Final = "com.twilio.voice.api-request.call.created"

ALIASES: Final = [
    # The prefix that was renamed in February 2024.
    *(
        (
            ANSWERED,
            f"com.twilio.voice.webhook.status-callback.call.{phase}",
            f"com.twilio.voice.status-callback.call.{phase}",
        )
        for phase in ("initiated", "ringing", "answered", "completed")
    ),
    (JOINED, "com.twilio.voice.status-callback.conference-participant.updated", PARTICIPANT),
    (JOINED, "com.twilio.voice.webhook.status-callback.conference-participant.updated", PARTICIPANT),
    (JOINED, PARTICIPANT.upper(), PARTICIPANT),
    (JOINED, f" {PARTICIPANT}\n", PARTICIPANT),
    (f"{RECORDED}.absent", "com.twilio.voice.webhook.status-callback.recording.processed", RECORDED),
]
SAME_READER: Final = [
    *(
        (CALL_REQUESTED, f"com.twilio.voice.twiml.{kind}")
        for kind in (
            "call.redirected",
            "call.transferred",
            "call.request.failed",
            "enqueue.finished",
            "gather.finished",
            "request.failed",
            "requested",
        )
    ),
    *((ANSWERED, f"com.twilio.voice.status-callback.call.{phase}") for phase in ("initiated", "ringing", "completed")),
    *((CREATED, f"com.twilio.voice.api-request.conference-participant.{verb}") for verb in ("modified", "deleted")),
    (CREATED, "com.twilio.voice.api-request.conference.modified"),
    *((CALL_CREATED, f"com.twilio.voice.api-request.call.{verb}") for verb in ("modified", "deleted")),
    (SUMMARY, "com.twilio.voice.insights.participant-summary.complete"),
    (SUMMARY, "com.twilio.voice.insights.participant-summary.partial"),
    (SUMMARY, "com.twilio.voice.insights.conference-participant-summary.partial"),
    (
        "com.twilio.voice.insights.call-summary.complete",
        "com.twilio.voice.insights.call-summary.predicted-complete",
    ),
    ("com.twilio.voice.insights.call-summary.complete", "com.twilio.voice.insights.call-summary.partial"),
    (
        "com.twilio.voice.insights.conference-summary.complete",
        "com.twilio.voice.insights.conference-summary.partial",
    ),
    *(
        ("com.twilio.taskrouter.task.created", f"com.twilio.taskrouter.{kind}")
        for kind in ("task.canceled", "task.transfer-initiated", "reservation.rejected", "reservation.wrapup")
    ),
]


@pytest.mark.parametrize(("name", "spelled", "kind"), ALIASES)
def test_another_spelling_of_a_type_is_that_type(name, spelled, kind):
    assert event_of(retyped(name, spelled)) == event_of(retyped(name, kind))
    assert event_of(retyped(name, spelled)).type == kind


@pytest.mark.parametrize("spelled", [str(envelope.__struct_config__.tag) for envelope in BY_ENVELOPE])
def test_a_type_known_by_its_whole_name_is_what_its_beginning_says(spelled):
    event = retyped("com.twilio.taskrouter.task.created", spelled)
    raw = json.dumps(event).encode()

    assert one(raw) == decoding._look_again(raw, spelled)


@pytest.mark.parametrize(("name", "kind"), SAME_READER)
def test_types_of_one_family_are_read_alike(name, kind):
    assert event_of(retyped(name, kind)) == msgspec.structs.replace(event_of(sample(name)), type=kind)


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("com.twilio.voice.status-callback.amd.detected", True),
        ("com.twilio.voice.status-callback.announcement.processed", True),
        ("com.twilio.voice.status-callback.gather.partial.captured", True),
        ("com.twilio.voice.status-callback.stream.updated", True),
        ("com.twilio.voice.status-callback.transcription.processed", True),
        ("com.twilio.voice.media.fetched", True),
        ("com.twilio.voice.insights.call-metrics.progress", True),
        ("com.twilio.voice.insights.call-event.gateway", True),
        ("com.twilio.taskrouter.task-queue.created", True),
        ("com.twilio.eventstreams.test-event", True),
        ("com.twilio.messaging.message.delivered", False),
        ("com.example.anything", False),
        ("dev.recording-monitor.unheard-of", False),
        ("com.twilio.voice.status-callback.recording.processed.v2", False),
    ],
)
def test_a_type_that_tells_nothing_is_ignored_whatever_it_holds(kind, known):
    odd: list[object] = [{}, None, "not JSON", [], {"request": 5}]
    for data in odd:
        assert one({"id": "EZ1", "type": kind, "data": data}) == Ignored(kind, known)


@pytest.mark.parametrize("code", ["93101", "93102", "93103", "93104", "91303", "91304", 93101])
def test_an_error_of_our_own_sink_is_an_event(code):
    event = sample("com.twilio.error-logs.error.logged")
    event["data"]["error_code"] = code

    assert event_of(event).type == "com.twilio.error-logs.error.logged"


@pytest.mark.parametrize("kind", [5, "", None, [], {}, True, 1.5])
def test_an_entry_without_a_type_is_malformed(kind):
    entry = one({"id": "EZ1", "type": kind, "data": {}})

    assert isinstance(entry, Malformed)
    assert entry.reason == "no-type"


# --------------------------------------------------------------------------- spellings and nestings


def webhook_names() -> list[str]:
    return [name for name in sample_bytes() if "request" in sample(name).get("data", {})]


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def camel(name: str) -> str:
    return name[:1].lower() + name[1:]


SPELLINGS: Final[list[Callable[[str], str]]] = [str, snake, camel, str.lower, str.upper]


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("name", webhook_names())
def test_the_spelling_of_parameters_plays_no_part(name, spell):
    event = sample(name)
    request = event["data"]["request"]
    request["parameters"] = {spell(key): value for key, value in request["parameters"].items()}

    assert event_of(event) == event_of(sample(name))


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("name", webhook_names())
def test_flat_parameters_say_the_same_as_nested_ones(name, spell):
    event = sample(name)
    parameters = event["data"]["request"].pop("parameters")
    event["data"] |= {spell(key): value for key, value in parameters.items()}

    assert event_of(event) == event_of(sample(name))


@pytest.mark.parametrize("name", webhook_names())
def test_each_parameter_may_stand_flat_while_the_others_are_nested(name):
    whole = event_of(sample(name))
    # Of a request any of its parameters may be absent, so nothing tells that one is missing in its place.
    requests = name.startswith("com.twilio.voice.api-request.")
    for key in sample(name)["data"]["request"]["parameters"]:
        event = sample(name)
        event["data"][key] = event["data"]["request"]["parameters"].pop(key)
        if key in OPTIONAL or (requests and key in ("From", "To", "ConferenceRecord")):
            continue

        assert event_of(event) == whole, key


# What an event may do without: where such a field is not nested, nobody looks for it elsewhere.
OPTIONAL: Final = frozenset(
    {
        "From",
        "To",
        "RecordingDuration",
        "CallSidEndingConference",
        "StatusCallbackEvent",
        "RecordingUrl",
        "ParentCallSid",
    }
)


@pytest.mark.parametrize("name", webhook_names())
def test_a_nested_parameter_beats_a_flat_one(name):
    event = sample(name)
    parameters = event["data"]["request"]["parameters"]
    event["data"] |= {key: f"not {value}" for key, value in parameters.items() if key != "AccountSid"}

    assert event_of(event) == event_of(sample(name))


@each_sample
def test_data_may_be_text(name):
    event = sample(name)
    expected = one(event)
    for _ in range(NESTING_MAX):
        event["data"] = json.dumps(event["data"])

        assert one(event) == expected


@each_sample
def test_the_spelling_of_the_envelope_and_of_the_data_plays_no_part(name):
    event = sample(name)

    assert one({key.upper(): value for key, value in event.items()} | {"TYPE": event["type"]}) == one(event)
    spelled = {**event, "data": {camel(pascal(key)): value for key, value in event["data"].items()}}
    assert one(spelled) == one(event)


def pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


@each_sample
def test_fields_that_nobody_reads_play_no_part(name):
    event = sample(name)
    event["data"] = {"zebra": [{}], **event["data"], "yak": None}

    assert one({"xylophone": {"a": [1]}, **event, "traceparent": "00-1-2-00"}) == one(event)


@each_sample
def test_the_fast_path_reads_what_the_slow_path_reads(name):
    raw = sample_bytes()[name]

    assert decoding._look_again(raw, sample(name)["type"]) == one(raw)


def test_the_fast_path_reads_what_the_slow_path_reads_in_every_scenario():
    for raw in scenario_bytes():
        try:
            value = json.loads(raw)
        except ValueError:
            continue
        if isinstance(value, dict) and value:
            assert decoding._look_again(raw, value.get("type")) == one(raw)


@each_sample
def test_numbers_and_truth_values_may_have_lost_their_quotes(name):
    event = sample(name)

    def unquoted(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: unquoted(inner) if key not in ("sid", "From", "To", "Caller", "Called") else inner
                for key, inner in value.items()
            }
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        if isinstance(value, str) and value.isdigit():
            return int(value)
        return value

    assert one({**event, "data": unquoted(event["data"])}) == one(event)


@pytest.mark.parametrize("name", [name for name in sample_bytes() if ".taskrouter." in name])
def test_task_attributes_may_be_an_object(name):
    event = sample(name)
    payload = event["data"]["payload"]
    if "task_attributes" not in payload:
        assert name.startswith("com.twilio.taskrouter.worker")
        return
    payload["task_attributes"] = json.loads(payload["task_attributes"])

    assert event_of(event) == event_of(sample(name))


@pytest.mark.parametrize("name", [name for name in sample_bytes() if ".taskrouter." in name])
def test_a_task_payload_may_be_text_or_stand_directly_in_the_data(name):
    event = sample(name)
    payload = event["data"].pop("payload")
    expected = event_of(sample(name))

    assert event_of({**event, "data": {**event["data"], "payload": json.dumps(payload)}}) == expected
    assert event_of({**event, "data": {**payload, **event["data"]}}) == expected


@pytest.mark.parametrize(
    "attributes",
    ["", "not JSON", "[]", "null", "5", '{"call_sid": {"a": 1}}', '{"conference": "CF"}', "{" * 100_000],
)
def test_task_attributes_that_nobody_can_read_tell_nothing(attributes):
    event = sample("com.twilio.taskrouter.task.created")
    event["data"]["payload"]["task_attributes"] = attributes
    fact = event_of(event).facts[0]

    assert isinstance(fact, TaskFact)
    assert (fact.conference, fact.calls) == (None, ())


def test_long_task_attributes_tell_the_same():
    event = sample("com.twilio.taskrouter.reservation.accepted")
    payload = event["data"]["payload"]
    payload["task_attributes"] = payload["task_attributes"] + " " * 10_000

    assert event_of(event) == event_of(sample("com.twilio.taskrouter.reservation.accepted"))


def test_of_many_participants_in_task_attributes_only_the_first_count():
    event = sample("com.twilio.taskrouter.task.created")
    participants = {f"p{number}": f"CA{number:032}" for number in range(40)}
    for call in ("", ["?"]):  # Read at once, and piece by piece.
        attributes = {"conference": {"sid": CONFERENCE, "participants": participants}, "call_sid": call}
        event["data"]["payload"]["task_attributes"] = json.dumps(attributes)
        fact = event_of(event).facts[0]

        assert isinstance(fact, TaskFact)
        assert fact.calls == tuple(participants.values())[:16]


def test_one_odd_task_attribute_does_not_hide_the_others():
    event = sample("com.twilio.taskrouter.task.created")
    conference = {"sid": CONFERENCE, "participants": {"customer": CALL, "worker": 5, "x": "nobody"}}
    event["data"]["payload"]["task_attributes"] = json.dumps({"call_sid": ["?"], "conference": conference})
    fact = event_of(event).facts[0]

    assert isinstance(fact, TaskFact)
    assert (fact.conference, fact.calls) == (CONFERENCE, (CALL,))


# --------------------------------------------------------------------------- the account


OTHER: Final = [f"AC{number:032x}" for number in range(1, 9)]


def test_the_account_is_taken_from_the_most_explicit_place():
    parameters_, pascal_, data_, payload_, url_, source_, recording_ = OTHER[:7]
    event = sample(f"{RECORDED}.call-completed")
    event["source"] = f"/2010-04-01/Accounts/{source_}/Calls/{CALL}.json"
    data = event["data"]
    request = data["request"]
    request["url"] = f"https://api.example.com/Accounts/{url_}/Recordings?x=1"
    request["parameters"] |= {
        "AccountSid": parameters_,
        "RecordingUrl": f"https://api.example.com/v1/{recording_}/Recordings/{RECORDING}",
    }
    data |= {"AccountSid": pascal_, "account_sid": data_, "payload": {"account_sid": payload_}}

    assert event_of(event).account == parameters_
    del request["parameters"]["AccountSid"]
    assert event_of(event).account == pascal_
    del data["AccountSid"]
    assert event_of(event).account == data_
    del data["account_sid"]
    assert event_of(event).account == payload_
    del data["payload"]
    assert event_of(event).account == url_
    request["url"] = "https://voice.example.com/callbacks"
    assert event_of(event).account == source_
    event["source"] = "anything"
    assert event_of(event).account == recording_
    request["parameters"]["RecordingUrl"] = f"https://api.example.com/Recordings/{RECORDING}"
    entry = one(event)
    assert isinstance(entry, Malformed)
    assert entry.reason == "no-account"


@pytest.mark.parametrize("kind", [f"{RECORDED}", "com.twilio.of-the-future", "com.twilio.eventstreams.test-event", 7])
def test_the_account_of_a_message_is_found_whatever_its_type(kind):
    parameters_, data_, payload_, url_, source_, recording_ = OTHER[:6]
    event = sample(f"{RECORDED}.call-completed")
    event["type"] = kind
    event["source"] = f"/2010-04-01/Accounts/{source_}/Calls/{CALL}.json"
    data, request = event["data"], event["data"]["request"]
    request["url"] = f"https://api.example.com/Accounts/{url_}/Recordings?x=1"
    request["parameters"] |= {
        "AccountSid": parameters_,
        "RecordingUrl": f"https://api.example.com/v1/{recording_}/Recordings/{RECORDING}",
    }
    data |= {"account_sid": data_, "payload": {"account_sid": payload_}}

    def found() -> str | None:
        return account_of(json.dumps(event).encode())

    assert found() == parameters_
    del request["parameters"]["AccountSid"]
    assert found() == data_
    del data["account_sid"]
    assert found() == payload_
    del data["payload"]
    assert found() == url_
    request["url"] = "https://voice.example.com/callbacks"
    assert found() == source_
    event["source"] = "anything"
    assert found() == recording_
    del request["parameters"]["RecordingUrl"]
    assert found() is None
    escaped = json.dumps({"type": kind, "data": {"account_sid": OTHER[0]}}).replace("AC", "\\u0041C")
    assert account_of(escaped.encode()) == OTHER[0]


def test_the_account_of_a_message_in_binary_mode_is_found():
    event = {"account_sid": OTHER[0]}
    headers: list[tuple[str, bytes | None]] = [("ce_type", b"com.twilio.of-the-future"), ("ce_id", b"1"), ("x", None)]
    assert account_of(json.dumps(event).encode(), headers) == OTHER[0]
    assert account_of(b"{}", [*headers, ("ce_source", f"/v1/Accounts/{OTHER[1]}".encode())]) == OTHER[1]
    assert account_of(b"no JSON", headers) is None
    assert account_of(json.dumps(event).encode()) is None


def test_the_entries_of_a_message_have_their_own_bytes_whatever_its_form():
    first, second = b'{ "type": "a" }', b'{"type":  "b"}'
    assert entries_of(first) == [first]
    assert entries_of(b"[" + first + b" , " + second + b"]") == [first, second]
    assert entries_of(first + b"\n" + second + b"\n") == [first, second]
    assert entries_of(json.dumps("[" + first.decode() + "]").encode()) == [first]
    assert entries_of(b"not one") == [b"not one"]
    assert entries_of(b"") == []


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: {"schema": {"type": "bytes"}, "payload": text}])
def test_bytes_that_kafka_connects_json_converter_has_written_are_read(wrap):
    event = sample(f"{RECORDED}.call-completed")
    for value in (event, [event, event]):
        plain = json.dumps(value).encode()
        assert decode(json.dumps(wrap(base64.b64encode(plain).decode())).encode()) == decode(plain)
    [entry] = decode(json.dumps(wrap(base64.b64encode(b"no JSON").decode())).encode())
    assert isinstance(entry, Malformed)


@pytest.mark.parametrize(
    "message", [b"", b"null", b"[]", b"7", b'"text"', b"{}", b'{"data": 7}', b"{", b"\xff", b"[[[["]
)
def test_what_is_no_event_is_of_no_account(message):
    assert account_of(message) is None


@pytest.mark.parametrize("account", ["", "AC123", "ac0000000000000000000000000000aa01", "AC" + "-" * 32, 5, None])
def test_what_is_shaped_like_no_account_is_none(account):
    event = sample(f"{RECORDED}.call-completed")
    event["source"] = "opaque"
    event["data"]["request"]["parameters"] |= {"AccountSid": account, "RecordingUrl": None}
    entry = one(event)

    assert isinstance(entry, Malformed)
    assert entry.reason == "no-account"


def test_an_account_in_a_path_ends_where_its_sid_ends():
    event = sample(CREATED)
    event["source"] = "opaque"
    event["data"]["request"]["url"] = (
        f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}f/Conferences/room/Participants"
    )

    assert isinstance(one(event), Malformed)


# --------------------------------------------------------------------------- dates

WHEN: Final = datetime(2026, 11, 4, 17, 0, 12, tzinfo=UTC)
WHEN_MS: Final = ms(WHEN.isoformat())


@pytest.mark.parametrize(
    "spelled",
    [
        "2026-11-04T17:00:12Z",
        "2026-11-04T17:00:12.000Z",
        "2026-11-04T17:00:12.000000Z",
        "2026-11-04T17:00:12.000000000Z",
        "2026-11-04T17:00:12+00:00",
        "2026-11-04T18:30:12+01:30",
        "2026-11-04T09:00:12-0800",
        "2026-11-04T17:00:12",
        "2026-11-04 17:00:12Z",
        " 2026-11-04T17:00:12Z ",
        "Wed, 04 Nov 2026 17:00:12 +0000",
        "Wed, 04 Nov 2026 17:00:12 GMT",
        "Wed, 04 Nov 2026 17:00:12 -0000",
        "Wed, 04 Nov 2026 09:00:12 -0800",
        "04 Nov 2026 17:00:12 +0000",
        "1793811612",
        "1793811612000",
        "1793811612.0",
        1793811612,
        1793811612000,
        1793811612.0,
    ],
)
def test_every_spelling_of_an_instant_is_read(spelled):
    event = sample(f"{RECORDED}.call-completed")
    event["data"]["request"]["parameters"]["RecordingStartTime"] = spelled
    fact = event_of(event).facts[0]

    assert isinstance(fact, RecordingFact)
    assert fact.started_ms == WHEN_MS


@pytest.mark.parametrize(
    "spelled",
    [
        "",
        "soon",
        "2026-13-04T17:00:12Z",
        "2026-11-04T17:00:12+99:00",
        "Wed, 99 Nov 2026 17:00:12 +0000",
        "1066-10-14T09:00:00Z",
        "9999-01-01T00:00:00Z",
        "0",
        "-5",
        "1e300",
        "nan",
        "٣٤٥٦",
        "²",
        ".",
        "1" * 20,
        "1" * 5000,
        "0" * DATE_LENGTH_MAX + "1793811612",
        True,
        1e308,
        -1,
    ],
)
def test_what_is_no_instant_of_this_age_is_none(spelled):
    event = sample(f"{RECORDED}.call-completed")
    event["data"]["request"]["parameters"]["RecordingStartTime"] = spelled
    fact = event_of(event).facts[0]

    assert isinstance(fact, RecordingFact)
    assert fact.started_ms is None


def test_fractions_of_a_millisecond_are_dropped():
    assert INSTANTS["2026-11-04T17:00:12.999999Z"] == WHEN_MS + 999


WHENS: Final = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31))  # noqa: DTZ001 - the zone is drawn.


@given(WHENS, st.integers(-14 * 60, 14 * 60))
def test_an_instant_is_read_back_as_it_was_written(when, offset_min):
    when = when.replace(microsecond=when.microsecond // 1000 * 1000, tzinfo=timezone(timedelta(minutes=offset_min)))
    whole = when.replace(microsecond=0)
    expected, expected_whole = ms(when.isoformat()), ms(whole.isoformat())
    if not 946_684_800_000 <= expected_whole <= expected <= 7_258_118_400_000:
        return

    assert INSTANTS[when.isoformat()] == expected
    assert INSTANTS[format_datetime(whole)] == expected_whole
    assert INSTANTS[str(expected)] == expected
    assert INSTANTS[str(expected_whole // 1000)] == expected_whole


@given(st.text(max_size=DATE_LENGTH_MAX))
def test_no_text_makes_a_date_raise(text):
    read_ms = INSTANTS[text]

    assert INSTANTS[text] == read_ms  # Whether or not it was remembered.


def test_the_instant_of_an_event_comes_from_the_most_exact_place():
    event = sample(JOINED)
    parameters = event["data"]["request"]["parameters"]
    parameters["Timestamp"] = rfc2822(START_MS)
    event["data"]["timestamp"] = iso(START_MS + 1)
    event["time"] = iso(START_MS + 2)

    assert event_of(event).occurred_ms == START_MS
    assert INSTANTS[event_of(event).time] == START_MS + 2
    del parameters["Timestamp"]
    assert event_of(event).occurred_ms == START_MS + 1
    del event["data"]["timestamp"]
    assert event_of(event).occurred_ms == START_MS + 2
    event["time"] = "whenever"
    assert event_of(event).occurred_ms is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("com.twilio.studio.flow.execution.started", ("date_created",)),
        ("com.twilio.studio.flow.execution.ended", ("date_updated",)),
        ("com.twilio.studio.flow.step.ended", ("date_created",)),
        ("com.twilio.voice.insights.conference-summary.complete", ("end_time",)),
        ("com.twilio.voice.insights.conference-participant-summary.complete", ("leave_time",)),
        ("com.twilio.voice.insights.call-summary.complete", ("end_time",)),
        ("com.twilio.taskrouter.task.created", ("payload", "timestamp_ms")),
        ("com.twilio.taskrouter.worker.activity.update", ("payload", "timestamp_ms")),
    ],
)
def test_a_type_with_a_date_of_its_own_occurred_then(name, path):
    event = sample(name)
    place = event["data"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = str(START_MS + 5)

    assert event_of(event).occurred_ms == START_MS + 5


def test_an_event_of_ours_has_no_time_of_twilios():
    event = built(tick=True)

    assert event.time is None
    assert event.occurred_ms == START_MS


# --------------------------------------------------------------------------- one family after another


def test_the_sid_of_a_recording_is_found_in_each_of_its_places():
    event = sample(f"{RECORDED}.call-completed")
    parameters = event["data"]["request"]["parameters"]
    expected = event_of(event)

    del parameters["RecordingSid"]
    assert event_of(event) == expected
    for url in (
        f"https://x/Recordings/{RECORDING}.json",
        f"https://x/Recordings/{RECORDING}.mp3?a=/b",
        f"https://x/{RECORDING}/#f",
    ):
        parameters["RecordingUrl"] = url
        assert event_of(event) == expected
    del parameters["RecordingUrl"]
    event["data"]["sid"] = RECORDING
    assert event_of(event) == expected
    event["data"]["sid"] = "CA1"
    entry = one(event)
    assert isinstance(entry, Malformed)
    assert entry.reason == "no-sid"


def test_the_sid_of_the_data_counts_only_where_the_parameters_name_none():
    event = sample(f"{RECORDED}.call-completed")
    event["data"]["sid"] = "CF" + "9" * 32
    assert event_of(event).members == (RECORDING, CALL)

    del event["data"]["request"]["parameters"]["CallSid"]
    assert event_of(event).members == (RECORDING, "CF" + "9" * 32)

    joined = sample(JOINED)
    joined["data"]["sid"] = "CF" + "9" * 32
    assert event_of(joined) == event_of(sample(JOINED))

    created = sample(CREATED)
    created["data"]["request"]["parameters"]["ConferenceSid"] = CONFERENCE
    created["data"]["sid"] = "CF" + "9" * 32
    assert event_of(created).members == (CONFERENCE,)


def test_a_recording_keeps_its_call_and_its_conference_where_both_are_told():
    event = sample(f"{RECORDED}.call-completed")
    event["data"]["request"]["parameters"]["ConferenceSid"] = CONFERENCE
    fact = event_of(event).facts[0]

    assert isinstance(fact, RecordingFact)
    assert (fact.call, fact.conference) == (CALL, CONFERENCE)


@pytest.mark.parametrize(
    ("spelled", "duration_ms"),
    [("50", 50_000), (50, 50_000), ("0", 0), ("-1", None), ("", None), ("fifty", None), (True, None), ("9" * 9, None)],
)
def test_a_duration_is_a_number_of_seconds_or_not_known(spelled, duration_ms):
    event = sample(f"{RECORDED}.call-completed")
    event["data"]["request"]["parameters"]["RecordingDuration"] = spelled
    fact = event_of(event).facts[0]

    assert isinstance(fact, RecordingFact)
    assert fact.duration_ms == duration_ms


def test_a_source_is_kept_as_it_came_and_a_status_in_small_letters():
    event = sample(f"{RECORDED}.call-completed")
    event["data"]["request"]["parameters"] |= {"RecordingSource": "someNewSource", "RecordingStatus": " Completed "}
    fact = event_of(event).facts[0]

    assert isinstance(fact, RecordingFact)
    assert (fact.source, fact.status) == ("someNewSource", "completed")


def test_a_recording_that_is_a_rest_object_in_the_data_is_read():
    data = {
        "sid": RECORDING,
        "account_sid": ACCOUNT,
        "call_sid": CALL,
        "source": "DialVerb",
        "status": "completed",
        "start_time": "Wed, 04 Nov 2026 17:00:12 +0000",
        "duration": "50",
    }
    fact = event_of({"id": "VW1", "type": RECORDED, "data": data}).facts[0]

    assert fact == RecordingFact(RECORDING, CALL, None, "DialVerb", "completed", WHEN_MS, 50_000, None, "stream")


@pytest.mark.parametrize(
    ("happened", "phase"),
    [
        ("participant-join", "join"),
        ("PARTICIPANT-LEAVE", "leave"),
        ("participant-mute", "inside"),
        ("participant-unhold", "inside"),
        ("participant-speech-start", "inside"),
        ("participant-modify", "inside"),
        ("something-new", "inside"),
        ("", "inside"),
    ],
)
def test_a_participant_event_says_that_the_call_joined_left_or_is_inside(happened, phase):
    event = sample(JOINED)
    event["data"]["request"]["parameters"]["StatusCallbackEvent"] = happened

    assert event_of(event).facts == (ParticipantFact(CONFERENCE, CALL, phase, "support-room", None),)


@pytest.mark.parametrize(
    ("happened", "phase"),
    [
        ("conference-start", "start"),
        ("conference-end", "end"),
        ("announcement-end", "seen"),
        ("announcement-fail", "seen"),
    ],
)
def test_a_conference_event_says_that_it_started_ended_or_exists(happened, phase):
    event = sample(f"{UPDATED}.conference-start")
    event["data"]["request"]["parameters"]["StatusCallbackEvent"] = happened

    assert event_of(event).facts == (ConferenceFact(CONFERENCE, "support-room", phase, None, None),)


def test_the_call_that_ended_a_conference_left_it_then():
    event = built(conference_event="end", conference="CF1", name="room", ended_by="CA1")

    assert event.members == (sid("CF1"), sid("CA1"))
    assert event.facts == (
        ConferenceFact(sid("CF1"), "room", "end", None, None),
        ParticipantFact(sid("CF1"), sid("CA1"), "leave", "room", None),
    )


def test_a_child_call_is_connected_with_its_parent():
    event = built(call_event="initiated", call="CA2", parent="CA1", direction="outbound-dial", to="+14155550103")

    assert event.members == (sid("CA2"), sid("CA1"))
    assert event.facts == (CallFact(sid("CA2"), "outbound-dial", None, "+14155550103"),)


@pytest.mark.parametrize(
    ("code", "runs"), [(200, True), ("200", True), (None, True), (399, True), (400, False), ("500", False), (0, True)]
)
def test_twiml_of_an_answer_below_400_was_run(code, runs):
    event = sample(CALL_REQUESTED)
    event["data"]["response"] = {"responseCode": code, "responseBody": base64_of(conference_twiml("room", "true"))}
    facts = event_of(event).facts

    assert (TwimlFact(CALL, "room") in facts) is runs


def test_twiml_answers_may_be_flat():
    event = sample(CALL_REQUESTED)
    event["data"].pop("response")
    for spelled in ("responseBody", "ResponseBody", "response_body"):
        flat = {**event, "data": {**event["data"], spelled: base64_of(conference_twiml("room", "true"))}}
        assert TwimlFact(CALL, "room") in event_of(flat).facts
        refused = {**flat, "data": {**flat["data"], "response_code": 503}}
        assert TwimlFact(CALL, "room") not in event_of(refused).facts


@pytest.mark.parametrize(
    ("url", "conference", "name", "call"),
    [
        ("/Conferences/CF1/Participants.json", "CF1", None, None),
        ("/Conferences/CF1/Participants/CA1.json", "CF1", None, "CA1"),
        ("/Conferences/my-room/Participants.json", None, "my-room", None),
        ("/Conferences/my%20room%2F7/Participants", None, "my room/7", None),
        ("/Conferences/my-room/Participants/CA1", None, "my-room", "CA1"),
        ("/Conferences/my-room.json?PageSize=5", None, "my-room", None),
        ("/Conferences/CF1.json", "CF1", None, None),
        ("/Other?next=/Conferences/my-room/Participants", None, None, None),
    ],
)
def test_a_participant_request_is_about_what_its_address_names(url, conference, name, call):
    for short in ("CF1", "CA1"):
        url = url.replace(short, sid(short))
    event = sample(CREATED)
    del event["data"]["sid"]
    event["data"]["request"]["url"] = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}{url}"
    requests = [fact for fact in event_of(event).facts if isinstance(fact, RequestFact)]
    if conference is None and name is None:
        assert requests == []
        return
    [fact] = requests

    assert fact.conference == (sid(conference) if conference else None)
    assert fact.name == name
    if call is not None:
        assert fact.call == sid(call)
    assert event_of(event).members


def test_a_request_that_names_only_its_conference_has_a_place_of_its_own():
    one_, other = (
        built(participant_request="created", name="room", record="true", id="1"),
        built(participant_request="created", name="room", record="true", id="2"),
    )

    assert len(one_.members) == len(other.members) == 1
    assert one_.members != other.members


@pytest.mark.parametrize("url", ["https://[bad", "http://", "", None, 5, "//?#", "https://api.twilio.com/%"])
def test_an_odd_address_hides_nothing_else(url):
    event = sample(CREATED)
    event["data"]["request"]["url"] = url

    assert RequestFact(CONFERENCE, None, None) in event_of(event).facts


@pytest.mark.parametrize("spelled", ["true", True, "TRUE", "record-from-start"])
def test_a_participant_request_that_records_is_one(spelled):
    event = sample(CREATED)
    event["data"]["request"]["parameters"]["ConferenceRecord"] = spelled

    assert RequestFact(CONFERENCE, None, None) in event_of(event).facts


def test_a_refused_request_without_any_sid_is_still_an_event():
    assert built(participant_request="created", name="room", record="true", code=404).facts == ()
    assert built(participant_request="created", name="room", record="true", code=404).members == ()
    assert built(call_request="created", code=400).members == ()


def test_a_call_request_finds_its_call_in_the_address_too():
    event = sample("com.twilio.voice.api-request.call.modified")
    del event["data"]["sid"]
    event["data"]["request"]["url"] = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json"

    assert event_of(event).members == (CALL,)


def test_a_participant_who_never_left_is_inside():
    event = sample(SUMMARY)
    event["data"] |= {"join_time": None, "leave_time": None}

    assert event_of(event).facts[0] == ParticipantFact(CONFERENCE, CALL, "inside", None, None)


@pytest.mark.parametrize(
    ("spelled", "revision"),
    [
        ("7", 7),
        ("seven", None),
        (str((1 << 63) - 1), (1 << 63) - 1),
        # What does not fit into 64 bits could not be kept as evidence, nor copied as a setting.
        *((number, None) for number in (1 << 63, str(1 << 63), str(-(1 << 63) - 1), 1 << 64, "9" * 5_000, 1e300)),
    ],
)
def test_an_execution_that_no_call_started_is_connected_with_none(spelled: str | float, revision: int | None):
    event = sample("com.twilio.studio.flow.execution.started")
    event["data"] |= {"started_by": "MM" + "0" * 32, "flow_revision": spelled}

    assert event_of(event).facts == (ExecutionFact(EXECUTION, None, FLOW, revision, ended=False),)


def test_a_listed_recording_is_the_rest_recording():
    event = built(listed="RE1", call="CA1", source="DialVerb", status="completed", started=-10, duration=5)

    assert event.members == (sid("RE1"), sid("CA1"))
    assert event.facts == (
        RecordingFact(sid("RE1"), sid("CA1"), None, "DialVerb", "completed", START_MS - 10_000, 5000, None, "listing"),
    )


def test_a_fetched_call_is_connected_with_what_it_names():
    data = {"account_sid": ACCOUNT, "call_sid": CALL, "conference_sid": CONFERENCE}
    event = event_of({"type": "dev.recording-monitor.call-events.fetched", "id": "x", "data": data})

    assert event.members == (CONFERENCE, CALL)


def test_settings_are_read_with_their_times():
    flex = built(flex_setting=False, since=-5, previous=True, observed=7, account="AC2")
    flow = built(flow="FW1", revision=3, widgets={"a": "record-call", "b": "say-play", "c": "record-call off"})

    assert flex.setting == FlexSetting(sid("AC2"), False, START_MS - 5000, True, START_MS + 7000)
    assert flow.setting == FlowSetting(sid("AC1"), sid("FW1"), 3, ("a",))
    assert flex.members == flow.members == ()


def test_a_worker_session_is_read_with_its_times():
    worker = sid("WK1")
    data = {"account_sid": ACCOUNT, "worker_sid": worker, "available_since": iso(START_MS), "offline_since": None}
    event = {
        "type": "dev.recording-monitor.worker-session.observed",
        "id": "x",
        "time": iso(START_MS + 9),
        "data": data,
    }

    assert event_of(event).setting == WorkerSession(ACCOUNT, worker, START_MS, None, START_MS + 9)
    assert isinstance(one({**event, "data": {**data, "worker_sid": "nobody"}}), Malformed)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("flex-configuration", {"call_recording_enabled": "perhaps", "observed_at": iso(START_MS)}),
        ("flex-configuration", {"call_recording_enabled": True}),
        ("studio-flow", {"flow_sid": FLOW, "widgets": []}),
        ("studio-flow", {"flow_sid": FLOW, "revision": 1, "widgets": "none"}),
        ("studio-flow", {"revision": 1, "widgets": []}),
    ],
)
def test_a_setting_that_lacks_what_it_is_about_is_malformed(kind, data):
    event = {"type": f"dev.recording-monitor.{kind}.observed", "data": {"account_sid": ACCOUNT, **data}}
    entry = one(event)

    assert isinstance(entry, Malformed)
    assert entry.reason == "bad-setting"


def test_a_tick_needs_no_account():
    assert event_of({"type": "dev.recording-monitor.tick", "data": {}}).account == ""


@pytest.mark.parametrize("kind", sorted(set(EVENT_TYPES) - {"com.twilio.error-logs.error.logged"}))
@pytest.mark.parametrize("data", [None, "text", [], 5, "", "[]", '"{"'])
def test_an_event_of_a_type_we_read_without_data_is_malformed(kind, data):
    entry = one({"id": "x", "type": kind, "data": data})

    assert isinstance(entry, Malformed)
    assert entry.reason in ("no-data", "not-json")


# --------------------------------------------------------------------------- SIDs


@pytest.mark.parametrize("value", ["CA" + "0" * 32, "CAabcdefABCDEF0123456789012345678x"])
def test_a_sid_is_two_letters_and_thirty_two_more(value):
    assert is_sid(value, "CA")


@pytest.mark.parametrize(
    "value", ["CA", "CA" + "0" * 31, "CA" + "0" * 33, "ca" + "0" * 32, "CA" + "é" * 32, "CA" + "-" * 32, 5, None]
)
def test_what_is_shaped_otherwise_is_no_sid(value):
    assert not is_sid(value, "CA")
    assert not is_sid("CF" + "0" * 32, "CA")


# --------------------------------------------------------------------------- forms of a message, and their bounds


@pytest.mark.parametrize("message", [None, b"", b"  \r\n\t", b"[]", b" [ ] ", b'""', b'"[]"', b"\xef\xbb\xbf"])
def test_a_message_without_content_has_no_entry(message):
    assert decode(message) == []


@pytest.mark.parametrize(
    "message", [b"null", b"5", b"true", b'"text"', b'"5"', b"nonsense", b"{", b"[", b"[1,]", b"\xff", b"{}x"]
)
def test_what_is_no_object_is_malformed_and_keeps_its_bytes(message):
    [entry] = decode(message)

    assert isinstance(entry, Malformed)
    assert entry.data == message.strip(b'"')


def test_elements_of_an_array_are_entries_each_with_its_own_bytes():
    entries = decode(b'[{"type": "com.example.a"}, null, 7, ["x"], "y", {"type": ""}]')

    assert entries[0] == Ignored("com.example.a", known=False)
    assert [entry.data for entry in entries if isinstance(entry, Malformed)] == [
        b"null",
        b"7",
        b'["x"]',
        b'"y"',
        b'{"type": ""}',
    ]


def test_a_message_may_be_so_large_and_no_larger():
    event = b'{"type": "com.example.a", "data": "%s"}'
    room = MESSAGE_BYTES_MAX - len(event % b"")

    assert decode(event % (b"x" * room)) == [Ignored("com.example.a", known=False)]
    [entry] = decode(event % (b"x" * (room + 1)))
    assert isinstance(entry, Malformed)
    assert entry.reason == "too-large"


def test_an_array_or_lines_may_hold_so_many_entries_and_no_more():
    event = b'{"type":"a"}'
    for join in (lambda n: b"[" + b",".join([event] * n) + b"]", lambda n: b"\n".join([event] * n)):
        assert len(decode(join(ENTRIES_MAX))) == ENTRIES_MAX
        [entry] = decode(join(ENTRIES_MAX + 1))
        assert isinstance(entry, Malformed)
        assert entry.reason == "too-many-entries"


def test_text_in_text_may_be_so_deep_and_no_deeper():
    text = json.dumps({"type": "com.example.a"})
    for _ in range(NESTING_MAX):
        text = json.dumps(text)
        assert decode(text.encode()) == [Ignored("com.example.a", known=False)]
    [entry] = decode(json.dumps(text).encode())
    assert isinstance(entry, Malformed)
    assert entry.reason == "too-deep"


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"type":"com.twilio.voice.status-callback.recording.processed","data":' + b'{"a":' * 100_000,
        b'{"type":"com.twilio.voice.status-callback.recording.processed","data":{"request":{"parameters":'
        + b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"type":"com.twilio.taskrouter.task.created","data":{"payload":{"task_attributes":'
        + b'{"a":' * 9_000
        + b"1"
        + b"}" * 9_003,
    ],
)
def test_a_depth_bomb_is_malformed(bomb):
    [entry] = decode(bomb)

    assert isinstance(entry, Malformed)


def test_a_line_that_is_no_json_spoils_no_other_line():
    event = b'{"type":"com.example.a"}'
    entries = decode(b"\n".join([b"garbage", event, b"{", event, b'"text"', b"", event]))

    assert [type(entry) for entry in entries] == [Malformed, Ignored, Malformed, Ignored, Malformed, Ignored]


def test_one_broken_document_over_several_lines_is_one_entry():
    document = json.dumps(sample(JOINED), indent=2).encode()
    for broken in (document[:-1], document.replace(b'"type"', b"type", 1), document[1:]):
        assert [type(entry) for entry in decode(broken)] == [Malformed]


def test_binary_mode_takes_the_attributes_from_the_headers():
    event = sample(JOINED)
    headers: list[tuple[str, bytes | None]] = [
        (f"CE_{key.upper()}", event[key].encode()) for key in ("type", "id", "source", "time")
    ]
    [entry] = decode(json.dumps(event["data"]).encode(), [*headers, ("content-type", None), ("ce_extension", None)])

    assert entry == event_of(event)


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"{", [("ce_type", JOINED.encode())], "not-json"),
        (b"{}", [("ce_type", b"\xff")], "not-json"),
        (b"{}", [("ce_type", b"")], "no-type"),
        (b"", [("ce_type", PARTICIPANT.encode())], "no-data"),
        (b"[" * 100_000, [("ce_type", PARTICIPANT.encode())], "too-deep"),
    ],
)
def test_binary_mode_that_nobody_can_read_is_malformed(value, headers, reason):
    [entry] = decode(value, headers)

    assert isinstance(entry, Malformed)
    assert entry.reason == reason


def test_a_header_without_content_is_no_header():
    assert decode(b'{"type": "com.example.a"}', [("ce_type", None)]) == [Ignored("com.example.a", known=False)]


def test_other_headers_do_not_make_binary_mode():
    assert decode(b'{"type": "com.example.a"}', [("ce_id", b"x"), ("trace", b"y")]) == [Ignored("com.example.a", False)]


# --------------------------------------------------------------------------- nothing raises

REASONS: Final = frozenset(
    {"too-large", "too-many-entries", "too-deep", "not-an-object", "wrong-shape", "not-json", "no-type", "no-data"}
    | {"no-account", "no-sid", "bad-setting", "twiml-refused"}
)


def read_all(message: bytes | None, headers: list[tuple[str, bytes | None]] | None = None) -> list[Entry]:
    """Decode, and check what holds of whatever comes out."""
    entries = decode(message, headers)
    for entry in entries:
        if isinstance(entry, Malformed):
            assert entry.reason in REASONS
        elif isinstance(entry, Event):
            assert entry.type in EVENT_TYPES or entry.type.startswith("com.twilio.taskrouter.")
            assert is_sid(entry.account, "AC") or entry.type == "dev.recording-monitor.tick"
            assert len(set(entry.members)) == len(entry.members)
            msgspec.msgpack.encode(entry)
        else:
            assert entry.type
    account = None if message is None else account_of(message, headers)
    assert account is None or is_sid(account, "AC")
    if message is not None and not headers:
        assert len(entries_of(message)) == len(entries)
    return entries


JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["CA" + "0" * 32, ACCOUNT]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=10)
            | st.sampled_from(["type", "data", "id", "request", "parameters", "CallSid", "payload", "sid"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
HEADERS: Final = st.lists(
    st.tuples(st.sampled_from(["ce_type", "ce_id", "CE_Source", "ce_time", "x"]), st.none() | st.binary(max_size=60)),
    max_size=4,
)


@given(st.binary(max_size=300), st.none() | HEADERS)
@example(b"\xed\xa0\x80", None)
@example(b'"\\ud800"', None)
@example(b'{"type":"\\ud800"}', None)
def test_no_bytes_make_decoding_raise(message, headers):
    read_all(message, headers)


@given(JSON, st.none() | HEADERS)
def test_no_json_makes_decoding_raise(value, headers):
    message = json.dumps(value).encode()
    entries = read_all(message, headers)
    if headers is None and isinstance(value, list):
        assert len(entries) == len(value)
    elif headers is None and isinstance(value, dict) and value.keys() != {"schema", "payload"}:
        assert len(entries) == 1


@given(st.sampled_from(EVENT_TYPES), JSON)
def test_no_data_of_a_type_that_is_read_makes_decoding_raise(kind, data):
    assert (
        len(read_all(json.dumps({"id": "x", "type": kind, "source": f"/Accounts/{ACCOUNT}/", "data": data}).encode()))
        == 1
    )


ODD_VALUES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.just("1" * 5000),
    st.just({}),
    st.just([]),
    st.just("{}"),
    st.just("https://["),
    st.just("\ud800"),
    st.just(base64_of("<!DOCTYPE x><a/>")),
    JSON,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


@given(st.sampled_from(sorted(sample_bytes())), st.data())
def test_no_odd_value_in_a_sample_makes_decoding_raise(name, data):
    event = sample(name)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(places(event), key=str)))
        try:
            put(event, path, data.draw(ODD_VALUES))
        except (TypeError, KeyError):
            continue  # An earlier value took its place away.

    assert len(read_all(json.dumps(event).encode())) == 1


@given(st.sampled_from(sorted(sample_bytes())), st.randoms(use_true_random=False))
def test_no_damage_to_the_bytes_of_a_sample_makes_decoding_raise(name, chance):
    message = bytearray(sample_bytes()[name])
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(message))
        what = chance.randrange(3)
        if what == 0:
            message[at] = chance.randrange(256)
        elif what == 1:
            del message[at : at + chance.randint(1, 30)]
        else:
            message[at:at] = message[at : at + chance.randint(1, 30)]
    entries = read_all(bytes(message))

    assert len(entries) >= 1


@given(st.lists(st.sampled_from(sorted(sample_bytes())), max_size=8))
def test_events_of_one_message_are_read_one_by_one_in_any_form(names):
    raws = [sample_bytes()[name] for name in names]
    alone = [one(raw) for raw in raws]

    assert decode(b"[" + b",".join(raws) + b"]") == alone
    assert decode(b"\n".join(raws)) == alone
    assert decode(json.dumps(b"\n".join(raws).decode()).encode()) == alone


def test_no_malformed_entry_tells_a_number_or_a_name_in_its_detail():
    secrets = ("+14155550101", "agent.one", "support-room")
    for name in sample_bytes():
        event = sample(name)
        for path in places(event):
            for new in ("https://[x", {"a": "+14155550101"}, ["agent.one"], "support-room", '{"support-room":', 5):
                spoilt = sample(name)
                put(spoilt, path, new)
                entry = one(spoilt)
                if isinstance(entry, Malformed):
                    assert not any(secret in entry.detail for secret in secrets), entry.detail
