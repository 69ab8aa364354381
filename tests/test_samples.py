"""The sample streams come out as their truth says, in whatever order, number and form their events arrive."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Counts, Pipeline, Told, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import Verdict
from tests.builders import last_verdicts

STREAMS: Final = Path(__file__).parent / "samples" / "scenarios"
ORDERS: Final = 500  # Random ones of each stream; of a stream of up to six events, all there are.
ARRIVAL_MS: Final = 1_793_900_000_000  # All lines arrive at one instant, after everything they tell of.
POLICY: Final = built_in_policy()
TUNING: Final = Tuning(recordings_too_old_ms=None)

Json = dict[str, Any]
Headers = Sequence[tuple[str, bytes]]


class Truth(NamedTuple):
    """What a stream's truth says of one recording; a suspicion has no source, no cause and is not allowed."""

    source: str | None
    conference: str | None
    call: str | None
    cause: str | None
    allowed: bool


@cache
def lines_of(name: str) -> tuple[bytes, ...]:
    return tuple((STREAMS / f"{name}.jsonl").read_bytes().splitlines())


@cache
def truth_of(name: str) -> dict[str, Truth]:
    """What has to come out, by recording; of a stream that has no recording, by the conference that is suspected."""
    document = json.loads((STREAMS / f"{name}.expected.json").read_text())
    truth = {
        one["recording_sid"]: Truth(
            one["source"],
            one["conference_sid"],
            one["call_sid"],
            one["cause"],
            one["allowed_by_article_policy"],
        )
        for one in document["recordings"]
    }
    if name == "19_recorded_without_recording_event":
        conference = "CF00000000000000000013000000000001"
        truth[conference] = Truth(None, conference, None, None, allowed=False)
    return truth


NAMES: Final = tuple(sorted(path.stem for path in STREAMS.glob("*.jsonl")))
each = pytest.mark.parametrize("name", NAMES)


def judge(
    messages: Iterable[bytes | None], headers: Iterable[Headers | None] = itertools.repeat(None)
) -> tuple[dict[str, Truth], Counts]:
    """What comes of messages, of which the truth speaks."""
    last, counts = final_verdicts(messages, headers)
    return {key: found(verdict) for key, verdict in last.items()}, counts


def final_verdicts(
    messages: Iterable[bytes | None], headers: Iterable[Headers | None] = itertools.repeat(None)
) -> tuple[dict[str, Verdict], Counts]:
    """What comes of messages that all arrive at one instant, once time is taken past every window."""
    checkpoint = Checkpoint(offset=1, generation=0, replay_from=1, log_time_ms=None)
    pipeline = Pipeline(TUNING, POLICY, AccountSettings(), partition=None, checkpoint=checkpoint, clamp=False)
    pipeline.open(Ledger())
    told: list[Told] = []
    for offset, (message, header) in enumerate(zip(messages, headers, strict=False), 1):
        told += pipeline.feed(offset, ARRIVAL_MS, message, header)
    told += pipeline.finish()
    last = last_verdicts(told)
    assert all(verdict.final for verdict in last.values())
    return last, pipeline.take_counts()


def found(v: Verdict) -> Truth:
    return Truth(v.start_source, v.conference_sid, v.call_sid, v.cause, v.outcome == "allowed")


def test_there_are_nineteen_streams_with_their_truth():
    assert len(NAMES) == 19
    assert sum(len(truth_of(name)) for name in NAMES) == 22


@each
def test_a_stream_comes_out_as_its_truth_says(name):
    assert judge(lines_of(name))[0] == truth_of(name)


def orders(lines: tuple[bytes, ...]) -> Iterator[Sequence[bytes]]:
    if len(lines) <= 6:
        yield from itertools.permutations(lines)
        return
    shuffled = list(lines)
    yield shuffled[::-1]
    for seed in range(ORDERS - 1):
        random.Random(seed).shuffle(shuffled)
        yield shuffled


@each
def test_the_order_of_a_stream_does_not_change_what_comes_out(name):
    truth = truth_of(name)
    wrong = [order for order in orders(lines_of(name)) if judge(order)[0] != truth]

    assert not wrong, b"\n".join(wrong[0]).decode()


@each
def test_every_event_told_three_times_in_any_order_is_told_once(name):
    lines = lines_of(name)
    once = judge(lines)[1]
    for seed in range(20):
        tripled = [line for line in lines for _ in range(3)]
        if seed:
            random.Random(seed).shuffle(tripled)
        came_out, counts = judge(tripled)

        assert came_out == truth_of(name)
        # Events without a SID of a call, conference, recording, task or execution have no place to be remembered in.
        homeless = sum(counts.events[kind] - 1 for kind in HOMELESS if kind in counts.events)
        assert counts.duplicate == 2 * len(lines) + once.duplicate - homeless


HOMELESS: Final = ("com.twilio.taskrouter.worker.activity.update",)


@each
def test_the_same_content_under_new_ids_changes_nothing(name):
    for seed in range(20):
        renewed = [*lines_of(name)]
        for line in lines_of(name):
            event = json.loads(line)
            event["id"] += "-again"
            event["data"].pop("eventSid", None)
            renewed.append(json.dumps(event).encode())
        random.Random(seed).shuffle(renewed)

        assert judge(renewed)[0] == truth_of(name)


def mixed(seed: int) -> list[bytes]:
    """All streams in one, each in its own order, as a topic would hold them: one event of a stream picked at random."""
    chance = random.Random(seed)
    waiting = [list(lines_of(name)) for name in NAMES]
    out = []
    while waiting:
        stream = chance.choice(waiting)
        out.append(stream.pop(0))
        if not stream:
            waiting.remove(stream)
    return out


@pytest.mark.parametrize("seed", range(40))
def test_streams_mixed_into_one_come_out_as_each_alone(seed):
    messages = mixed(seed)
    if seed % 2:
        random.Random(seed).shuffle(messages)
    truth = {key: value for name in NAMES for key, value in truth_of(name).items()}

    assert judge(messages)[0] == truth


# --------------------------------------------------------------------------- forms


def events_of(name: str) -> list[Json]:
    return [json.loads(line) for line in lines_of(name)]


def dumped(events: Iterable[object]) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]


def as_it_is(event: Json) -> Json:
    return event


def flat(event: Json) -> Json:
    """The parameters directly under ``data``; what was said of request and response stays."""
    data = dict(event["data"])
    if "request" not in data:
        return event
    request = dict(data["request"])
    parameters = request.pop("parameters")
    return {**event, "data": {**data, "request": request, **parameters}}


def wholly_flat(event: Json) -> Json:
    """Neither request nor response: what they held stands directly under ``data``."""
    data = dict(event["data"])
    if "request" not in data:
        return event
    request, response = data.pop("request"), data.pop("response")
    return {**event, "data": {**data, **response, **request["parameters"]}}


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def flat_and_snake(event: Json) -> Json:
    """Directly under ``data``, and every key spelt with underscores."""
    spread = wholly_flat(event)
    return {**spread, "data": {snake(key): value for key, value in spread["data"].items()}}


def data_as_text(event: Json) -> Json:
    return {**event, "data": json.dumps(event["data"])}


def data_as_text_twice(event: Json) -> Json:
    return {**event, "data": json.dumps(json.dumps(event["data"]))}


def attributes_as_object(event: Json) -> Json:
    data = dict(event["data"])
    payload = data.get("payload")
    if isinstance(payload, dict) and "task_attributes" in payload:
        data["payload"] = {**payload, "task_attributes": json.loads(payload["task_attributes"])}
    return {**event, "data": data}


def payload_as_text(event: Json) -> Json:
    data = dict(event["data"])
    if isinstance(data.get("payload"), dict):
        data["payload"] = json.dumps(data["payload"])
    return {**event, "data": data}


def with_more_besides(event: Json) -> Json:
    """Fields nobody knows, everywhere."""
    more = {"surprise": [1, {"two": None}], "another": "one"}
    data = dict(event["data"])
    for key in ("request", "response", "payload"):
        if isinstance(data.get(key), dict):
            data[key] = {**more, **data[key]}
    return {**more, **event, "data": {**more, **data}}


SHAPES: Final[tuple[Callable[[Json], Json], ...]] = (
    as_it_is,
    flat,
    wholly_flat,
    flat_and_snake,
    data_as_text,
    data_as_text_twice,
    attributes_as_object,
    payload_as_text,
    with_more_besides,
)


@pytest.mark.parametrize("shape", SHAPES)
@each
def test_the_shape_of_the_data_does_not_change_what_comes_out(name, shape):
    came_out, counts = judge(dumped(shape(event) for event in events_of(name)))

    assert came_out == truth_of(name)
    assert counts == judge(lines_of(name))[1]


def array(name: str) -> list[bytes]:
    return [b"[" + b",".join(lines_of(name)) + b"]"]


def lines(name: str) -> list[bytes]:
    return [b"\n".join(lines_of(name)) + b"\n"]


def windows_lines(name: str) -> list[bytes]:
    return [b"\r\n".join(lines_of(name))]


def text_of_each(name: str) -> list[bytes]:
    return dumped(line.decode() for line in lines_of(name))


def text_of_an_array(name: str) -> list[bytes]:
    return dumped([array(name)[0].decode()])


def text_of_lines(name: str) -> list[bytes]:
    return dumped([lines(name)[0].decode()])


def text_of_text(name: str) -> list[bytes]:
    return dumped(message.decode() for message in text_of_each(name))


def lines_of_text(name: str) -> list[bytes]:
    return [b"\n".join(text_of_each(name))]


def indented(name: str) -> list[bytes]:
    return [json.dumps(event, indent=2).encode() for event in events_of(name)]


def indented_array(name: str) -> list[bytes]:
    return [json.dumps(events_of(name), indent=1).encode()]


def after_a_byte_order_mark(name: str) -> list[bytes]:
    return [b"\xef\xbb\xbf" + line for line in lines_of(name)]


def between_blanks(name: str) -> list[bytes]:
    return [b"\r\n\t " + line + b"  \n\n" for line in lines_of(name)]


def in_a_connect_wrapper(name: str) -> list[bytes]:
    return dumped({"schema": {"type": "struct"}, "payload": event} for event in events_of(name))


def as_text_in_a_connect_wrapper(name: str) -> list[bytes]:
    return dumped({"schema": {"type": "string"}, "payload": line.decode()} for line in lines_of(name))


def escaped(name: str) -> list[bytes]:
    """Every character of every string as a number: the same JSON in other bytes."""
    return [
        b"".join(b"\\u%04x" % ord(c) if c.isalpha() and inside else c.encode() for c, inside in _in_strings(line))
        for line in lines_of(name)
    ]


def _in_strings(line: bytes) -> Iterator[tuple[str, bool]]:
    inside, after_backslash = False, False
    for character in line.decode():
        plain = not after_backslash
        after_backslash = character == "\\" and plain
        if character == '"' and plain:
            inside = not inside
        yield character, inside and plain


FORMS: Final[tuple[Callable[[str], list[bytes]], ...]] = (
    array,
    lines,
    windows_lines,
    text_of_each,
    text_of_an_array,
    text_of_lines,
    text_of_text,
    lines_of_text,
    indented,
    indented_array,
    after_a_byte_order_mark,
    between_blanks,
    in_a_connect_wrapper,
    as_text_in_a_connect_wrapper,
    escaped,
)


@pytest.mark.parametrize("form", FORMS)
@each
def test_the_form_of_the_messages_does_not_change_what_comes_out(name, form):
    came_out, counts = judge(form(name))
    plain = judge(lines_of(name))[1]

    assert came_out == truth_of(name)
    assert kinds_of(counts) == kinds_of(plain)


@pytest.mark.parametrize("data_as", [json.dumps, lambda data: json.dumps(json.dumps(data))], ids=["object", "text"])
@each
def test_binary_mode_does_not_change_what_comes_out(name, data_as):
    # https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
    events = events_of(name)
    headers = [
        [(f"ce_{key}", str(value).encode()) for key, value in event.items() if key not in ("data", "datacontenttype")]
        + [("content-type", b"application/json")]
        for event in events
    ]
    came_out, counts = judge([data_as(event["data"]).encode() for event in events], headers)

    assert came_out == truth_of(name)
    assert counts == judge(lines_of(name))[1]


GARBAGE: Final = (
    b"",
    b"garbage",
    b"null",
    b"17",
    b"[]",
    b"{}",
    b'{"type": "com.twilio.voice.status-callback.recording.processed"}',
    b'{"type": 5, "data": {}}',
    b'{"data": ' * 30_000,
    b"\xff\xfe\x00",
    b'{"type": "com.twilio.voice.status-callback.recording.processed", "data": "{\\"CallSid\\": "}',
    b'[{"type": "com.example.other"}, null, "text", [[]]]',
)


@each
def test_garbage_between_events_is_set_aside_and_changes_nothing(name):
    plain = judge(lines_of(name))[1]
    for seed in range(10):
        chance = random.Random(seed)
        messages = list(lines_of(name))
        for piece in GARBAGE:
            messages.insert(chance.randint(0, len(messages)), piece)
        came_out, counts = judge(messages)

        assert came_out == truth_of(name)
        # An empty message and an empty array are no entries; an array of four is four.
        assert counts.entries == plain.entries + 13
        assert counts.malformed == 12
        assert counts.ignored == plain.ignored + 1
        assert counts.events == plain.events


@each
def test_garbage_between_the_lines_of_one_message_changes_nothing(name):
    noisy = [piece for line in lines_of(name) for piece in (line, b"garbage", b"", b"{", b"null")]
    came_out, counts = judge([b"\n".join(noisy)])

    assert came_out == truth_of(name)
    assert counts.malformed == 3 * len(lines_of(name))


# --------------------------------------------------------------------------- conservation


class Kinds(NamedTuple):
    """How many entries are of each kind."""

    entries: int
    events: int
    ignored: int
    malformed: int
    duplicate: int
    late: int


def kinds_of(counts: Counts) -> Kinds:
    return Kinds(counts.entries, counts.events_total, counts.ignored, counts.malformed, counts.duplicate, counts.late)


EXPECTED: Final = {
    "01_explicit_api_start": Kinds(6, 6, 0, 0, 0, 0),
    "02_conference_twiml_record_from_start": Kinds(12, 12, 0, 0, 0, 0),
    "03_conference_api_record_true": Kinds(9, 9, 0, 0, 0, 0),
    "04_studio_call_recording_widget": Kinds(9, 9, 0, 0, 0, 0),
    "05_dial_verb_record": Kinds(7, 7, 0, 0, 0, 0),
    "06_record_verb_voicemail": Kinds(5, 5, 0, 0, 0, 0),
    "07_sip_trunk_recording": Kinds(2, 2, 0, 0, 0, 0),
    "08_flex_stale_agent_session": Kinds(16, 16, 0, 0, 0, 0),
    "09_call_leg_inside_conference": Kinds(9, 9, 0, 0, 0, 0),
    "10_recording_before_conference": Kinds(7, 7, 0, 0, 0, 0),
    "11_duplicates": Kinds(12, 7, 0, 0, 5, 0),
    "12_unattributed": Kinds(3, 3, 0, 0, 0, 0),
    "13_absent_and_failed": Kinds(6, 6, 0, 0, 0, 0),
    "14_pause_resume": Kinds(6, 6, 0, 0, 0, 0),
    "15_two_conferences_interleaved": Kinds(14, 14, 0, 0, 0, 0),
    "16_subaccount": Kinds(10, 10, 0, 0, 0, 0),
    "17_start_recording_twiml": Kinds(4, 4, 0, 0, 0, 0),
    "18_outbound_call_record_true": Kinds(4, 4, 0, 0, 0, 0),
    "19_recorded_without_recording_event": Kinds(7, 7, 0, 0, 0, 0),
}


def test_the_table_of_kinds_names_every_stream():
    assert sorted(EXPECTED) == list(NAMES)


@each
def test_every_entry_of_a_stream_is_counted_once_and_by_its_kind(name):
    assert kinds_of(judge(lines_of(name))[1]) == EXPECTED[name]


@each
def test_the_order_of_a_stream_does_not_change_how_its_entries_are_counted(name):
    shuffled = list(lines_of(name))
    for seed in range(20):
        random.Random(seed).shuffle(shuffled)

        assert kinds_of(judge(shuffled)[1]) == EXPECTED[name]


@each
def test_a_stream_that_comes_again_after_its_window_is_late_where_it_tells_of_its_recordings(name):
    """Everything again after the end: events about judged recordings are late, all others are events like any other."""
    checkpoint = Checkpoint(offset=1, generation=0, replay_from=1, log_time_ms=None)
    pipeline = Pipeline(TUNING, POLICY, AccountSettings(), partition=None, checkpoint=checkpoint, clamp=False)
    pipeline.open(Ledger())
    told: list[Told] = []
    for offset, line in enumerate(lines_of(name) * 2, 1):
        again = offset > len(lines_of(name))
        told += pipeline.feed(offset, ARRIVAL_MS + again * (TUNING.window_ms + 1), line)
    told += pipeline.finish()
    counts = pipeline.take_counts()
    expected = EXPECTED[name]
    recordings = sum(1 for line in set(lines_of(name)) if b'"RecordingSid"' in line or b'"RecordingUrl"' in line)
    settings = sum(1 for line in lines_of(name) if b"dev.recording-monitor" in line)

    assert counts.late == recordings
    assert counts.duplicate == 2 * expected.duplicate + settings
    assert counts.events_total == 2 * expected.events - recordings - settings
    assert {key: found(verdict) for key, verdict in last_verdicts(told).items()} == truth_of(name)
