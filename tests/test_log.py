"""The log: one renderer for all, every line parseable, nothing in it that must not be."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.core.verdict import AlertLabels, Shown, Verdict
from monitor.log import (
    _HARMLESS,
    HELD_MAX,
    REDACTED,
    TEXT_MAX,
    VERDICT_REACHED,
    Format,
    Level,
    _net_sid,
    _redact_all,
    configure,
    flush_verdicts,
    log_verdict,
    redact,
    verdict_fields,
)

SID = "0123456789abcdef" * 2
NUMBER = "+15550100123"


@pytest.fixture
def log():
    """Set up the log for one test, and everything back behind it."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()

    def log_(style: Format = "json", level: Level = "info", **more):
        configure(style, level, stream=stream, **more)
        return structlog.get_logger()

    log_.lines = lambda: [json.loads(line) for line in stream.getvalue().splitlines()]  # type: ignore[attr-defined]
    log_.text = stream.getvalue  # type: ignore[attr-defined]
    yield log_
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)


def a_verdict(**changes: object) -> Verdict:
    verdict = Verdict(
        kind="recording",
        recording_sid="RE" + SID,
        account_sid="AC" + SID,
        revision=2,
        final=False,
        at=(1, 1042),
        rests_from=880,
        outcome="disallowed",
        rule="default",
        severity="critical",
        mode="enforce",
        policy="sha256:" + SID * 2,
        cause="conference_twiml",
        strength="observed",
        start_source="Conference",
        call_sid=None,
        conference_sid="CF" + SID,
        recording_status="in-progress",
        started_at="2026-11-21T08:00:00.000Z",
        ended_at=None,
        first_seen_at="2026-11-21T08:00:02.000Z",
        found_by="stream",
        backlog=False,
        decided_at="2026-11-21T08:00:03.000Z",
        disallowed_since="2026-11-21T08:00:03.000Z",
        alert=AlertLabels("default", "critical", None, "main"),
        reason="TwiML of a participant records the conference.",
        evidence=(Shown(event_id="VW1", type="t", position="3:1042", occurred_at="…", shows="records"),),
        ruled_out=(),
        missing=(),
        history=(),
    )
    return msgspec.structs.replace(verdict, **changes)


def test_a_line_begins_with_when_how_grave_and_what(log):
    log().warning("verdict_reached", recording_sid="RE1", revision=2)

    (line,) = log.lines()
    assert list(line) == ["at", "level", "event", "recording_sid", "revision"]
    assert (line["level"], line["event"], line["revision"]) == ("warning", "verdict_reached", 2)


def test_a_line_is_stamped_in_utc(log):
    log().info("batch_judged")

    at = log.lines()[0]["at"]
    assert at.endswith("Z")
    assert abs(datetime.fromisoformat(at) - datetime.now(UTC)) < timedelta(hours=1)


def test_what_is_below_the_level_is_not_written(log):
    logger = log(level="warning")
    logger.info("batch_judged")
    logging.getLogger("library").info("chatter")
    logger.error("partition_lost")

    assert [line["event"] for line in log.lines()] == ["partition_lost"]


def test_a_logger_made_before_the_log_was_set_up_follows_it(log):
    early = structlog.get_logger()
    log()
    early.info("thing_done")
    log(level="error")
    early.info("thing_done")

    assert len(log.lines()) == 1


def test_libraries_and_warnings_speak_through_the_same_renderer(log):
    log()
    logging.getLogger("library").warning("cannot reach %s", "broker")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What others have left open may be collected, and be warned of, at any moment.
        warnings.simplefilter("always", DeprecationWarning)
        logging.captureWarnings(capture=True)
        warnings.warn("old call", DeprecationWarning, stacklevel=1)

    first, second = log.lines()
    assert (first["event"], first["logger"], first["message"]) == ("library_logged", "library", "cannot reach broker")
    assert (second["event"], second["level"]) == ("warning_raised", "warning")
    assert "old call" in second["message"]


def test_setting_up_twice_writes_a_librarys_line_once(log):
    log()
    log()
    logging.getLogger("library").error("broken")

    assert len(log.lines()) == 1


def test_every_line_is_counted_by_its_level(log):
    counted: list[str] = []
    logger = log(level="info", count=counted.append)
    logger.debug("not_written")
    logger.info("thing_done")
    logging.getLogger("library").critical("broken")
    try:
        raise OSError
    except OSError:
        logger.exception("thing_failed")

    assert counted == ["info", "critical", "error"]


def test_an_exception_is_told_without_the_values_of_variables(log):
    logger = log()
    number = NUMBER
    try:
        raise ValueError(f"cannot dial {number}")
    except ValueError:
        logger.exception("call_failed")

    (line,) = log.lines()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith(f"ValueError: cannot dial {REDACTED}")
    assert "exc_info" not in line


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (f"from {NUMBER} to queue", NUMBER),
        ("from=+44 20 7946 0123", "7946"),
        ("call +1 (555) 010-0123 now", "010"),
        ("/Calls?To=%2B15550100123", "15550100123"),
        ("to=%2B15550100123&x", "15550100123"),
        ("sip:alice@example.com;transport=tls", "alice"),
        ("client:agent_smith joined", "smith"),
        ("GET https://x.example.com/a?b=c&d=e HTTP/1.1", "b=c"),
        ('"POST /twiml?caller=me HTTP/1.1"', "caller=me"),
        ("https://user:hunter2@am:9093/", "hunter2"),
        ("Authorization: Bearer abcdefghijkl", "abcdefghijkl"),
        ("Basic QUM6c2VjcmV0", "QUM6c2VjcmV0"),
        ("sasl.password=hunter2 given", "hunter2"),
        ('{"auth_token": "hunter2"}', "hunter2"),
        (f"token {SID} refused", SID),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "eyJzdWIiOiIxIn0"),
    ],
)
def test_numbers_names_and_secrets_do_not_pass_the_net(text, gone):
    assert gone not in redact(text)
    assert REDACTED in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "RE" + SID,
        f"sha256:{SID * 2}",
        "2026-11-21T08:00:00+01:00",
        "partition 3 at offset 12345678901",
        "kafka-1:9092,kafka-2:9092",
        "https://x.example.com/a/b",
        "is it running? yes",
        "rdkafka-8d5d2f5c-4b3e-4d5b-9d1f-0a1b2c3d4e5f",
        "monitor.yaml:12: kafka.bootstrap_server: unknown key. Did you mean 'bootstrap_servers'?",
        "1.5e+10",
    ],
)
def test_what_is_no_secret_passes_unchanged(text):
    assert redact(text) == text


@given(st.text(max_size=300))
def test_redacting_again_changes_nothing(text):
    once = redact(text)

    assert redact(once) == once


@given(st.from_regex(_HARMLESS, fullmatch=True))
def test_what_the_net_lets_through_unlooked_at_it_would_not_have_changed(text: str):
    assert _redact_all(text) == text


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True), st.text(" ,;:=\"'()", max_size=2))
def test_no_telephone_number_passes_wherever_it_stands(number, beside):
    assert number not in redact(f"{beside}{number}{beside}")


def test_a_key_that_names_a_secret_hides_its_value_whatever_it_looks_like(log):
    log().info("thing_done", auth_token="x", nested={"sasl.password": ["y"], "count": 1}, from_twilio=True)

    (line,) = log.lines()
    assert line["auth_token"] == REDACTED
    assert line["nested"] == {"sasl.password": REDACTED, "count": 1}
    assert line["from_twilio"] is True


def test_bytes_and_values_of_ours_are_told_by_their_size_and_kind(log):
    log().info("thing_done", body=b"+15550100123", verdict=a_verdict(), numbers=[NUMBER], path={1})

    (line,) = log.lines()
    assert line["body"] == "<12 bytes>"
    assert line["verdict"] == "<Verdict>"
    assert line["numbers"] == [REDACTED]


def test_a_long_value_is_cut_and_says_how_long_it_was(log):
    log().info("thing_done", text="x" * (TEXT_MAX * 2))

    assert log.lines()[0]["text"].endswith(f"({TEXT_MAX * 2} characters)")


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=20), max_size=3))
def test_whatever_the_values_a_line_is_one_line_of_json(values):
    stream = io.StringIO()
    configure("json", stream=stream)
    try:
        structlog.get_logger().info("thing_done", **{f"k{key}": value for key, value in values.items()})
    finally:
        structlog.reset_defaults()

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert json.loads(text)["event"] == "thing_done"


def test_on_a_terminal_outsiders_text_moves_no_cursor_and_makes_no_line(log):
    log("console").info("thing_done", name="a\x1b[2Jb\nc\u202ed", other="\ud800")

    text = log.text()
    assert text.count("\n") == 1
    assert "thing_done" in text
    assert not re.search("[\x1b\u202e\ud800]", text)


def test_without_a_terminal_auto_writes_json(log):
    log("auto").info("thing_done")

    assert log.lines()[0]["event"] == "thing_done"


def test_on_a_terminal_auto_writes_for_people():
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        configure("auto", stream=terminal)
        try:
            structlog.get_logger().info("thing_done", count=3)
        finally:
            structlog.reset_defaults()
        shown = screen.read(4096).decode()

    assert "thing_done" in shown
    assert not shown.startswith("{")


def test_a_stream_that_is_gone_does_not_bring_down_what_logs():
    stream = io.StringIO()
    configure("json", stream=stream)
    stream.close()
    try:
        structlog.get_logger().info("thing_done")
    finally:
        structlog.reset_defaults()


class Slow(io.StringIO):
    """A stream that lets others have a turn in the middle of a write, as a pipe does."""

    def write(self, text: str) -> int:
        half = len(text) // 2
        written = super().write(text[:half])
        time.sleep(0)
        return written + super().write(text[half:])


def test_lines_of_many_threads_do_not_mix(log):
    log()
    stream = Slow()
    configure("json", stream=stream)
    logger = structlog.get_logger()

    def say(thread: int) -> None:
        for turn in range(100):
            logger.info("thing_done", thread=thread, turn=turn, padding="x" * 500)

    threads = [threading.Thread(target=say, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 400
    assert [line["turn"] for line in lines if line["thread"] == 2] == list(range(100))


def test_one_line_tells_a_verdicts_whole_story(log):
    log()
    log_verdict(a_verdict(), partition=3, latency_ms=12)
    flush_verdicts()

    (line,) = log.lines()
    assert line["event"] == "verdict_reached"
    assert line["level"] == "warning"
    assert (line["outcome"], line["cause"], line["rule"], line["revision"]) == (
        "disallowed",
        "conference_twiml",
        "default",
        2,
    )
    assert (line["position"], line["generation"], line["latency_ms"]) == ("3:1042", 1, 12)
    assert line["evidence"] == ["3:1042"]
    assert line["account"] == "main"
    assert "call_sid" not in line


def test_a_verdict_that_is_not_disallowed_is_no_warning(log):
    log()
    log_verdict(a_verdict(outcome="allowed", alert=None))
    log_verdict(a_verdict(outcome="undetermined", alert=None))
    flush_verdicts()

    assert [line["level"] for line in log.lines()] == ["info", "info"]


def test_every_field_of_a_verdict_is_in_its_line_or_left_out_on_purpose():
    left_out = {"at", "rests_from", "alert", "ruled_out", "history", "rejudged"}
    given_all = a_verdict(
        call_sid="CA1", ended_at="2026-11-21T08:01:00.000Z", missing=("a",), evidence=a_verdict().evidence
    )

    assert set(Verdict.__struct_fields__) - left_out <= set(verdict_fields(given_all))


_ANY_TEXT = st.text(max_size=9) | st.sampled_from([NUMBER, "RE" + SID, SID, "\ud800", "sip:alice@example.com", "a?b=c"])
_TEXTS = [
    name
    for name in Verdict.__struct_fields__
    if isinstance(getattr(a_verdict(call_sid="CA1"), name), str) and not name.endswith(("_at", "_since", "outcome"))
]


@settings(max_examples=60)
@given(st.data(), st.sampled_from([None, "allowed"]), st.none() | st.integers(0, 10**9))
def test_the_line_of_a_verdict_is_the_one_that_the_common_way_would_have_written(data, previous, latency_ms):
    texts = data.draw(st.dictionaries(st.sampled_from(_TEXTS), _ANY_TEXT))
    nothing = data.draw(st.sets(st.sampled_from(["cause", "severity", "call_sid", "started_at", "alert"])))
    missing = data.draw(st.lists(_ANY_TEXT, max_size=2))
    changes = {**texts, **dict.fromkeys(nothing), "missing": tuple(missing)}
    verdict = a_verdict(**changes)
    stream = io.StringIO()
    counted: list[str] = []
    configure("json", stream=stream, count=counted.append)
    try:
        log_verdict(verdict, partition=3, previous=previous, latency_ms=latency_ms)
        fields = verdict_fields(verdict, partition=3, previous=previous, latency_ms=latency_ms)
        structlog.get_logger().warning(VERDICT_REACHED, **fields)
    finally:
        structlog.reset_defaults()

    direct, common = (list(json.loads(line).items()) for line in stream.getvalue().split("\n")[:-1])
    assert direct[1:] == common[1:]
    assert counted == ["warning", "warning"]


@given(st.text("AZR09af+é", min_size=2, max_size=2), st.text("0123456789abcdefXYZ", min_size=32, max_size=32))
def test_what_has_the_shape_of_a_sid_holds_nothing_the_net_would_find(letters, rest):
    assert _net_sid(letters + rest) == _redact_all(letters + rest)


def test_lines_of_verdicts_stand_where_they_were_said(log):
    logger = log()
    log_verdict(a_verdict(revision=1))
    log_verdict(a_verdict(revision=2))
    assert log.text() == ""
    logger.info("stop_begun")
    log_verdict(a_verdict(revision=3))
    flush_verdicts()

    assert [line.get("revision") for line in log.lines()] == [1, 2, None, 3]


def test_verdicts_are_not_held_without_bound(log):
    log()
    for revision in range(HELD_MAX + 1):
        log_verdict(a_verdict(revision=revision))

    assert len(log.lines()) == HELD_MAX


def test_the_line_of_a_verdict_obeys_the_level(log):
    log(level="warning")
    log_verdict(a_verdict(outcome="allowed"))
    log_verdict(a_verdict())
    flush_verdicts()

    assert [line["level"] for line in log.lines()] == ["warning"]


def test_on_a_terminal_a_verdict_is_shown_as_everything_else_is(log):
    log("console")
    log_verdict(a_verdict())

    assert "verdict_reached" in log.text()
    assert "{" not in log.text()


def test_where_somebody_else_has_set_up_the_log_verdicts_go_the_way_of_all_lines(log):
    log()
    heard: list[dict[str, object]] = []

    def hear(_logger: object, _method: str, event: dict[str, object]) -> dict[str, object]:
        heard.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[hear])  # type: ignore[list-item]
    log_verdict(a_verdict())
    flush_verdicts()

    assert [event["recording_sid"] for event in heard] == ["RE" + SID]
    assert log.text() == ""
