"""What an account has of Event Streams, held against what the monitor needs: what is found, and what mends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.readers import reader_of
from monitor.twilio.streams import (
    NEEDED,
    AddType,
    Comparison,
    CreateSink,
    DeleteSink,
    DeleteSubscription,
    RemoveType,
    SetVersion,
    Sink,
    Step,
    Streams,
    Subscribe,
    Subscription,
    ValidateSink,
    Wanted,
    address_of,
    compare,
)

SAMPLES = Path(__file__).parent / "samples"
OURS = "https://hooks.example.com/twilio/events"
WANTED = Wanted(destination=OURS, installation="monitor")
ALL = {each.name: each.version for each in NEEDED}
REQUIRED = {each.name: each.version for each in NEEDED if each.required}
RECORDING = "com.twilio.voice.status-callback.recording.processed"
ERRORS = "com.twilio.error-logs.error.logged"


def a_sink(number: int = 1, **said: Any) -> Sink:
    plain = {"description": WANTED.description, "kind": "webhook", "status": "active", "destination": OURS}
    return Sink(**{"sid": f"DG{number}", **plain, "batched": True, **said})


def a_subscription(number: int = 1, types: Mapping[str, int] = ALL, **said: Any) -> Subscription:
    plain = {"description": WANTED.description, "sink_sid": f"DG{number}"}
    return Subscription(**{"sid": f"DF{number}", **plain, "types": types, **said})


def an_account(*things: Sink | Subscription) -> Streams:
    return Streams(
        sinks=[thing for thing in things if isinstance(thing, Sink)],
        subscriptions=[thing for thing in things if isinstance(thing, Subscription)],
    )


def wrongs(comparison: Comparison) -> list[tuple[str, str]]:
    return [(found.level, found.about) for found in comparison.findings if found.level in ("missing", "wrong")]


# --- The table of types


@pytest.mark.parametrize("each", NEEDED, ids=lambda each: each.name.removeprefix("com.twilio."))
def test_every_type_that_is_asked_for_is_one_that_the_core_reads(each):
    assert reader_of(each.name) is not None
    assert each.blind.endswith(".")


def test_every_type_is_asked_for_in_the_version_of_the_sample():
    versions: dict[str, set[int]] = {}
    for file in sorted(SAMPLES.glob("com.twilio.*.json")):
        sample = json.loads(file.read_bytes())
        versions.setdefault(sample["type"], set()).add(int(sample["dataschema"].rpartition("/")[2].split(".")[0]))

    shown = [each for each in NEEDED if each.name in versions]
    assert len(shown) > 25
    assert [each.name for each in shown if each.version not in versions[each.name]] == []


def test_no_type_is_asked_for_twice_nor_one_that_would_feed_itself():
    assert len(ALL) == len(NEEDED)
    assert ERRORS not in ALL


def test_the_documentation_says_of_every_type_what_nobody_sees_without_it():
    page = (Path(__file__).parents[1] / "docs" / "connect-twilio.md").read_text()
    rows = []
    for each in NEEDED:
        required = " yes" if each.required else ""
        rows.append(f"| `{each.name.removeprefix('com.twilio.')}` | {each.version} |{required} | {each.blind} |")

    assert [row for row in rows if row not in page] == []
    assert page.count("\n| `") == len(rows)


# --- What is found, and what mends it


def test_an_account_that_has_everything_needs_nothing():
    comparison = compare(an_account(a_sink(), a_subscription()), WANTED)

    assert comparison.good
    assert comparison.steps == []
    assert {found.level for found in comparison.findings} == {"ok"}


def test_an_empty_account_gets_a_sink_a_validation_a_subscription_and_what_is_optional():
    comparison = compare(Streams(), WANTED)

    assert not comparison.good
    first, second, third, *rest = comparison.steps
    assert (first, second) == (CreateSink(OURS), ValidateSink(None))
    assert third == Subscribe(None, REQUIRED)
    assert {step.name for step in rest if isinstance(step, AddType) and not step.required} == set(ALL) - set(REQUIRED)
    assert len(rest) == len(ALL) - len(REQUIRED)


def test_a_missing_type_says_what_nobody_sees_without_it():
    types = {name: version for name, version in ALL.items() if name != RECORDING}
    comparison = compare(an_account(a_sink(), a_subscription(types=types)), WANTED)

    assert wrongs(comparison) == [("missing", RECORDING)]
    assert "No recording is seen" in comparison.findings[1].says
    assert comparison.steps == [AddType("DF1", RECORDING, 2, required=True)]


def test_a_type_that_is_only_useful_may_be_missing():
    optional = next(each for each in NEEDED if not each.required)
    types = {name: version for name, version in ALL.items() if name != optional.name}
    comparison = compare(an_account(a_sink(), a_subscription(types=types)), WANTED)

    assert comparison.good
    assert comparison.steps == [AddType("DF1", optional.name, optional.version, required=False)]


def test_another_schema_version_is_wrong_and_is_set():
    comparison = compare(an_account(a_sink(), a_subscription(types={**ALL, RECORDING: 1})), WANTED)

    assert wrongs(comparison) == [("wrong", RECORDING)]
    assert comparison.steps == [SetVersion("DF1", RECORDING, 1, 2)]


@pytest.mark.parametrize("status", ["initialized", "validating", "failed", "asleep"])
def test_a_sink_that_is_not_active_is_wrong_and_is_validated(status):
    comparison = compare(an_account(a_sink(status=status), a_subscription()), WANTED)

    assert wrongs(comparison) == [("wrong", "DG1")]
    assert comparison.steps == [ValidateSink("DG1")]


@pytest.mark.parametrize("badly", [{"batched": False}, {"method": "GET"}])
def test_a_sink_of_ours_that_sends_in_another_way_is_replaced_and_deleted_last(badly):
    comparison = compare(an_account(a_sink(**badly), a_subscription()), WANTED)

    assert ("wrong", "DG1") in wrongs(comparison)
    assert comparison.steps[0] == CreateSink(OURS)
    assert comparison.steps[2] == Subscribe(None, REQUIRED)
    assert comparison.steps[-2:] == [DeleteSubscription("DF1"), DeleteSink("DG1")]


def test_a_sink_made_by_hand_that_leads_to_us_is_used_as_it_is():
    by_hand = a_sink(description="Made by hand"), a_subscription(description="Made by hand", types={RECORDING: 2})
    comparison = compare(an_account(*by_hand), WANTED)

    assert [type(step) for step in comparison.steps] == [AddType] * (len(ALL) - 1)


def test_a_sink_that_carries_events_to_us_already_is_used_before_one_that_carries_none():
    theirs = a_sink(2, description="Theirs"), a_subscription(2, description="Theirs")
    comparison = compare(an_account(a_sink(), *theirs), WANTED)

    assert comparison.steps == [DeleteSink("DG1")]


def test_a_sink_made_by_hand_that_sends_singly_is_named_and_not_touched():
    by_hand = a_sink(description="Made by hand", batched=False)
    comparison = compare(an_account(by_hand, a_subscription()), WANTED)

    assert wrongs(comparison) == [("wrong", "DG1")]
    assert next(found.by_hand for found in comparison.findings if found.about == "DG1")
    assert comparison.steps == []


def test_two_subscriptions_that_carry_the_same_types_to_us_are_wrong_and_ours_is_deleted():
    comparison = compare(an_account(a_sink(), a_subscription(), a_sink(2), a_subscription(2)), WANTED)

    assert wrongs(comparison) == [("wrong", "DF2"), ("wrong", "DG2")]
    assert comparison.steps == [DeleteSubscription("DF2"), DeleteSink("DG2")]


@pytest.mark.parametrize("number", [0, 2])
def test_a_second_subscription_of_somebody_else_is_named_and_not_deleted(number):
    theirs = a_sink(number, description="Theirs"), a_subscription(number, {RECORDING: 2}, description="Theirs")
    comparison = compare(an_account(*theirs, a_sink(), a_subscription()), WANTED)

    assert wrongs(comparison) == [("wrong", f"DF{number}")]
    assert comparison.steps == []


def test_of_two_sinks_of_ours_the_one_that_twilio_sends_to_stays():
    waiting = a_sink(0, status="initialized"), a_subscription(0)
    comparison = compare(an_account(*waiting, a_sink(), a_subscription()), WANTED)

    assert comparison.steps == [DeleteSubscription("DF0"), DeleteSink("DG0")]


def test_errors_about_a_sink_that_go_to_that_sink_are_taken_out_of_what_is_ours():
    looping = a_subscription(types={**ALL, ERRORS: 2})

    assert wrongs(compare(an_account(a_sink(), looping), WANTED)) == [("wrong", ERRORS)]
    assert compare(an_account(a_sink(), looping), WANTED).steps == [RemoveType("DF1", ERRORS)]
    theirs = msgspec.structs.replace(looping, description="Theirs")
    assert compare(an_account(a_sink(), theirs), WANTED).steps == []


def test_what_is_ours_and_leads_elsewhere_is_wrong_and_deleted_only_when_that_is_asked_for():
    left = a_sink(2, destination="https://old.example.com/twilio/events"), a_subscription(2)
    there = an_account(a_sink(), a_subscription(), *left)

    assert wrongs(compare(there, WANTED)) == [("wrong", "DG2")]
    assert compare(there, WANTED).steps == []
    pruned = compare(there, msgspec.structs.replace(WANTED, prune=True))
    assert pruned.steps == [DeleteSubscription("DF2"), DeleteSink("DG2")]


def test_what_is_another_monitors_or_somebody_elses_and_leads_elsewhere_is_nothing_to_us():
    others: list[Sink | Subscription] = [
        a_sink(2, description="recording-monitor (staging)", destination="https://staging.example.com/twilio/events"),
        a_subscription(2, description="recording-monitor (staging)"),
        a_sink(3, description="Kinesis", kind="kinesis", destination=""),
        a_subscription(3, description="Kinesis"),
    ]
    prune = msgspec.structs.replace(WANTED, prune=True)

    assert compare(an_account(a_sink(), a_subscription(), *others), prune).steps == []
    assert compare(an_account(a_sink(), a_subscription(), *others), prune).good


def test_where_there_is_no_room_for_a_sink_nothing_is_begun():
    full = Streams(sinks=[a_sink(number, destination="https://x.example.com", description="") for number in range(100)])
    comparison = compare(full, WANTED)

    assert ("wrong", "sink") in wrongs(comparison)
    assert comparison.steps == []


def test_a_type_that_twilio_does_not_offer_is_not_asked_for():
    offered = frozenset(ALL) - {RECORDING}
    comparison = compare(Streams(offered=offered), WANTED)

    assert ("missing", RECORDING) in wrongs(comparison)
    assert all(RECORDING not in str(step) for step in comparison.steps)


def test_where_the_bridge_has_no_token_of_an_account_nothing_is_changed():
    comparison = compare(Streams(), WANTED, checkable=False)

    assert comparison.findings[0].about == "auth_token_file"
    assert comparison.steps == []


@pytest.mark.parametrize(
    "spelled",
    [
        "https://hooks.example.com/twilio/events/",
        "https://user:password@hooks.example.com/twilio/events",
        "https://HOOKS.example.com:443/twilio/events?bodySHA256=x",
    ],
)
def test_an_address_is_the_same_however_it_is_spelled_and_is_shown_without_its_password(spelled):
    assert address_of(spelled) == OURS


# --- Applying it mends it, wherever it is stopped

SINKS = st.builds(
    a_sink,
    st.integers(1, 4),
    description=st.sampled_from([WANTED.description, "Theirs"]),
    status=st.sampled_from(["active", "initialized", "validating", "failed"]),
    destination=st.sampled_from([OURS, "https://old.example.com/twilio/events"]),
    method=st.sampled_from(["POST", "GET"]),
    batched=st.sampled_from([True, False, None]),
)
TYPES = st.dictionaries(st.sampled_from([*ALL, ERRORS]), st.integers(1, 4))


@st.composite
def accounts(draw: st.DrawFn) -> Streams:
    sinks = draw(st.lists(SINKS, unique_by=lambda sink: sink.sid, max_size=4))
    subscriptions = []
    for sink in sinks:
        if draw(st.booleans()):
            description = draw(st.sampled_from([WANTED.description, "Theirs"]))
            number = int(sink.sid.removeprefix("DG"))
            subscriptions.append(a_subscription(number, draw(TYPES), description=description))
    return Streams(sinks=sinks, subscriptions=subscriptions)


def after(has: Streams, step: Step) -> Streams:
    """An account after a step, as Twilio would have it."""
    sinks = {sink.sid: sink for sink in has.sinks}
    subscriptions = {each.sid: each for each in has.subscriptions}
    newest = "DG9" if "DG9" in sinks else ""
    match step:
        case CreateSink(destination):
            sinks["DG9"] = a_sink(9, status="initialized", destination=destination)
        case ValidateSink(sid):
            sinks[sid or newest] = msgspec.structs.replace(sinks[sid or newest], status="active")
        case Subscribe(sid, types):
            assert sinks[sid or newest].status == "active", "Twilio takes no subscription to a sink that is not active"
            subscriptions["DF9"] = a_subscription(9, types, sink_sid=sid or newest)
        case AddType(sid, name, version, _) | SetVersion(sid, name, _, version):
            types = {**subscriptions[sid or "DF9"].types, name: version}
            subscriptions[sid or "DF9"] = msgspec.structs.replace(subscriptions[sid or "DF9"], types=types)
        case RemoveType(sid, name):
            types = {each: version for each, version in subscriptions[sid].types.items() if each != name}
            subscriptions[sid] = msgspec.structs.replace(subscriptions[sid], types=types)
        case DeleteSubscription(sid):
            del subscriptions[sid]
        case DeleteSink(sid):
            assert all(each.sink_sid != sid for each in subscriptions.values()), "Twilio deletes no sink that is in use"
            del sinks[sid]
    return Streams(sinks=list(sinks.values()), subscriptions=list(subscriptions.values()))


@given(accounts(), st.booleans(), st.integers(0, 60))
def test_all_steps_mend_all_that_is_ours_wherever_they_are_stopped_once(has, prune, stopped):
    wanted = msgspec.structs.replace(WANTED, prune=prune)
    now = has
    for step in list(compare(now, wanted).steps)[:stopped]:
        now = after(now, step)
    for step in compare(now, wanted).steps:
        now = after(now, step)

    done = compare(now, wanted)
    assert done.steps == []
    assert [found for found in done.findings if found.level in ("missing", "wrong") and not found.by_hand] == []


@given(accounts(), st.booleans())
def test_nothing_of_others_is_deleted_and_nothing_that_leads_elsewhere_changed(has, prune):
    wanted = msgspec.structs.replace(WANTED, prune=prune)
    now = has
    for step in compare(has, wanted).steps:
        now = after(now, step)

    elsewhere = {sink.sid for sink in has.sinks if sink.destination != OURS}
    assert {sink.sid for sink in has.sinks if not wanted.made(sink)} <= {sink.sid for sink in now.sinks}
    theirs = [each for each in has.subscriptions if not wanted.made(each)]
    assert {each.sid for each in theirs} <= {each.sid for each in now.subscriptions}
    for each in theirs:
        if each.sink_sid in elsewhere:
            assert each in now.subscriptions
