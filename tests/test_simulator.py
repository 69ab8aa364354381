"""What the simulator promises: real-looking traffic, the same for the same knobs, and a truth that holds of its bytes.

The events are read here by nothing but a JSON parser. Whether the monitor finds the truth is asked elsewhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import pytest

from monitor.simulator.scenes import FLEX_CAUSES, SCENES
from monitor.simulator.traffic import KnobError, Knobs, plans, traffic, truth
from monitor.simulator.truth import UNTOLD_FIELDS, Counts, Header, RecordingTruth, read_truth, write_line

T = TypeVar("T")

SAMPLES = Path(__file__).parent / "samples"
VOICE = "com.twilio.voice."
PARTICIPANT = VOICE + "status-callback.conference.participant.updated"
RECORDING = VOICE + "status-callback.recording.processed"
SID = re.compile(r"[A-Z]{2}[0-9a-f]{32}")

MANY = Knobs(events=24_000, seed=5, recorded=0.7, rate=25)
MIX = Knobs(events=12_000, seed=11)


def remembered(make: Callable[[Knobs], T]) -> Callable[[Knobs], T]:
    """Make it once for the same knobs (which are no key themselves: they hold a mapping)."""
    made: dict[str, T] = {}

    def once(knobs: Knobs) -> T:
        key = repr(knobs)
        if key not in made:
            made[key] = make(knobs)
        return made[key]

    return once


@remembered
def entries(knobs: Knobs) -> tuple[tuple[int, str, bytes], ...]:
    return tuple(traffic(knobs))


@remembered
def events(knobs: Knobs) -> tuple[dict[str, Any], ...]:
    """Every entry that can be read, in order of delivery."""
    return tuple(json.loads(data) for _, _, data in entries(knobs))


@remembered
def lines(knobs: Knobs) -> tuple[Header, tuple[RecordingTruth, ...], Counts]:
    first, *recordings, last = truth(knobs)
    assert isinstance(first, Header)
    assert isinstance(last, Counts)
    return first, tuple(one for one in recordings if isinstance(one, RecordingTruth)), last


def parameters(event: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = event["data"].get("request", {}).get("parameters", {})
    return found


def seconds(text: str) -> float:
    """An instant of Twilio's, in any of its spellings."""
    return (parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)).timestamp()


# ---- The same knobs --------------------------------------------------------------------------------------------------

_DIGEST = """
import hashlib
from monitor.simulator.traffic import Knobs, traffic, truth
from monitor.simulator.truth import write_line
class Sum:
    def __init__(self): self.sum = hashlib.sha256()
    def write(self, data): self.sum.update(data)
knobs = Knobs(calls=60, seed=9, loss=0.02, late=0.1, retried=0.1, malformed=0.05)
total = Sum()
for line in truth(knobs): write_line(total, line)
for due_ms, account, data in traffic(knobs): total.write(b"%d %s %s" % (due_ms, account.encode(), data))
print(total.sum.hexdigest())
"""


def test_the_same_knobs_give_the_same_bytes_in_every_process() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        # What depends on the hash of a string, such as the order of a set, differs between these two.
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "Asia/Kolkata" if hash_seed == "1" else "UTC"}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST], env=environment, check=True, capture_output=True, text=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_another_seed_gives_other_calls() -> None:
    one, other = (events(Knobs(calls=20, seed=seed)) for seed in (1, 2))
    assert not {event["id"] for event in one} & {event["id"] for event in other}


def test_what_happens_to_events_on_their_way_does_not_change_the_calls() -> None:
    def recordings(knobs: Knobs) -> set[str | None]:
        return {plan.recording_sid for plan in lines(knobs)[1]}

    plain = Knobs(calls=80, seed=3, disorder_s=0, duplicates=0, rate=1000)
    rough = Knobs(calls=80, seed=3, disorder_s=60, duplicates=0.3, late=0.2, rate=1000)
    assert recordings(plain) == recordings(rough)


# ---- The truth -------------------------------------------------------------------------------------------------------


def test_every_cause_occurs() -> None:
    _, recordings, _ = lines(MANY)
    found = {"suspicion" if one.kind == "suspicion" else one.cause or "undetermined" for one in recordings}
    assert found == set(SCENES)


def test_every_scene_is_met_with_a_recording() -> None:
    assert {one.scene for one in lines(MANY)[1]} == {scene.__name__ for pairs in SCENES.values() for scene, _ in pairs}


def test_as_many_calls_are_recorded_as_asked() -> None:
    for share in (0.0, 0.5, 1.0):
        recorded = [bool(plan.truths) for plan in plans(Knobs(calls=400, recorded=share)) if plan.counts.calls]
        assert sum(recorded) / len(recorded) == pytest.approx(share, abs=0.08 * (share == 0.5))


def test_a_recording_is_met_in_every_status() -> None:
    found = {one.status for one in lines(MANY)[1] if one.kind == "recording"}
    assert found == {"completed", "in-progress", "absent", "failed", None}


def test_only_an_explicit_start_is_allowed_and_only_an_unknowable_one_undetermined() -> None:
    outcomes = {(one.cause, one.outcome) for one in lines(MANY)[1]}
    assert {cause for cause, outcome in outcomes if outcome == "allowed"} == {"api_call_recording"}
    assert {cause for cause, outcome in outcomes if outcome == "undetermined"} == {None}


def test_the_shares_of_causes_are_as_asked() -> None:
    knobs = Knobs(calls=600, recorded=0.5, causes={"dial_verb": 3.0, "sip_trunk": 1.0})
    causes = Counter(one.cause for one in lines(knobs)[1])
    assert set(causes) == {"dial_verb", "sip_trunk"}
    assert 250 < causes.total() < 350
    assert 2 < causes["dial_verb"] / causes["sip_trunk"] < 4.5


def test_the_counts_are_those_of_the_bytes() -> None:
    knobs = Knobs(events=15_000, seed=2, malformed=0.03, duplicates=0.05, retried=0.02)
    counts = lines(knobs)[2]
    seen: set[bytes] = set()
    found: Counter[str] = Counter()
    for _, _, data in entries(knobs):
        assert data.strip()
        assert b"\n" not in data
        found["entries"] += 1
        try:
            event = json.loads(data)
        except ValueError:
            found["malformed"] += 1
            continue
        if not isinstance(event, dict) or not re.search(rb"AC[0-9a-f]{32}", data):
            found["malformed"] += 1
        elif of_no_interest(event["type"]):
            found["ignored"] += 1
        elif data in seen:
            found["duplicates"] += 1
        else:
            found["events"] += 1
            found["settings"] += event["type"].startswith("dev.recording-monitor.")
        seen.add(data)
    assert dict(found) == {name: getattr(counts, name) for name in found}
    assert counts.entries == counts.events + counts.ignored + counts.malformed + counts.duplicates
    assert counts.malformed / counts.entries == pytest.approx(0.03, rel=0.2)
    assert counts.duplicates / counts.events == pytest.approx(0.05, rel=0.2)
    assert counts.retried / counts.events == pytest.approx(0.02 / 2, rel=0.5)


def of_no_interest(type_: str) -> bool:
    """Whether the reference has no use for events of this type."""
    return type_.startswith(("com.twilio.messaging", "com.twilio.error-logs", "com.twilio.eventstreams")) or (
        type_
        in {
            VOICE + "media.fetched",
            VOICE + "insights.call-metrics.gateway",
            *(
                VOICE + "status-callback." + name
                for name in (
                    "amd.detected",
                    "gather.partial.captured",
                    "stream.updated",
                    "transcription.processed",
                    "announcement.processed",
                )
            ),
        }
    )


def test_a_call_recording_belongs_to_the_conference_its_call_was_in_then_to_the_next_then_to_the_last() -> None:
    inside: dict[str, list[tuple[float, float, str]]] = {}
    joined: dict[tuple[str, str], float] = {}
    left: dict[tuple[str, str], float] = {}
    for event in events(MANY):
        if event["type"] == PARTICIPANT:
            told = parameters(event)
            place = (told["CallSid"], told["ConferenceSid"])
            if told["StatusCallbackEvent"] == "participant-join":
                joined[place] = seconds(told["Timestamp"])
            elif told["StatusCallbackEvent"] == "participant-leave":
                left[place] = seconds(told["Timestamp"])
    for (call, conference), from_s in joined.items():
        inside.setdefault(call, []).append((from_s, left[call, conference], conference))
    ways: Counter[str] = Counter()
    for one in lines(MANY)[1]:
        if one.kind == "suspicion" or one.call_sid is None:
            continue
        at_s = seconds(one.started_at)
        stints = sorted(inside.get(one.call_sid, ()))
        now = [stint for stint in stints if stint[0] <= at_s <= stint[1]]
        later = [stint for stint in stints if stint[0] > at_s]
        expected, way = (
            (now[0][2], "in")
            if now
            else (later[0][2], "next")
            if later
            else (stints[-1][2], "last")
            if stints
            else (None, "none")
        )
        assert one.conference_sid == expected, one
        ways[way] += 1
    assert set(ways) == {"in", "next", "last", "none"}


def test_the_cause_of_a_flex_recording_is_what_the_account_was_set_to_when_it_started() -> None:
    observed: dict[str, list[tuple[float | None, bool]]] = {}
    for event in events(MANY):
        if event["type"] == "dev.recording-monitor.flex-configuration.observed":
            data = event["data"]
            since = None if data["since"] is None else seconds(data["since"])
            observed.setdefault(data["account_sid"], []).append((since, data["call_recording_enabled"]))
    found: Counter[str | None] = Counter()
    for one in lines(MANY)[1]:
        if one.cause not in FLEX_CAUSES or one.kind == "suspicion":
            continue
        at_s = seconds(one.started_at)
        valid = [(since, on) for since, on in observed.get(one.account_sid, ()) if since is None or since <= at_s]
        if not valid:
            expected = "flex_conference"
        elif valid[-1][1]:
            expected = "flex_call_recording"
        elif valid[-1][0] is None or at_s - valid[-1][0] < 24 * 3600:
            expected = "flex_stale_session"
        else:
            expected = "flex_residual_setting"
        assert one.cause == expected, one
        found[one.cause] += 1
    assert set(found) == set(FLEX_CAUSES)


def test_flex_recording_is_turned_off_while_calls_are_recorded() -> None:
    changed = [
        event["data"]
        for event in events(MANY)
        if event["type"] == "dev.recording-monitor.flex-configuration.observed" and event["data"]["previous"] is True
    ]
    start_s = MANY.start_ms / 1000
    meanwhile = [data for data in changed if seconds(data["since"]) > start_s]
    assert len(meanwhile) == 1
    account = meanwhile[0]["account_sid"]
    assert {one.cause for one in lines(MANY)[1] if one.account_sid == account and one.cause in FLEX_CAUSES} == {
        "flex_call_recording",
        "flex_stale_session",
    }


def test_a_suspicion_has_no_recording_and_only_insights_calls_its_conference_recorded() -> None:
    suspected = {one.conference_sid for one in lines(MANY)[1] if one.kind == "suspicion"}
    assert suspected
    summaries: dict[str, set[bool]] = {}
    for event in events(MANY):
        if event["type"] == RECORDING:
            assert parameters(event).get("ConferenceSid") not in suspected
        elif event["type"].startswith(VOICE + "insights.conference-summary"):
            summaries.setdefault(event["data"]["conference_sid"], set()).add(event["data"]["recording_enabled"])
    recorded = {one.conference_sid for one in lines(MANY)[1] if one.kind == "recording" and one.call_sid is None}
    for conference, enabled in summaries.items():
        assert enabled == {conference in suspected | recorded}


def test_a_recording_none_of_whose_events_arrived_is_untold_and_no_other_is() -> None:
    knobs = Knobs(events=20_000, seed=4, recorded=1.0, loss=0.3, duplicates=0.0)
    _, recordings, counts = lines(knobs)
    everything = b"\n".join(data for _, _, data in entries(knobs)).decode()
    told = set(re.findall(r"RE[0-9a-f]{32}", everything))
    for one in recordings:
        if one.recording_sid is not None:
            assert (one.recording_sid in told) == ("recording_sid" not in one.untold)
            if one.recording_sid not in told:
                assert one.untold == UNTOLD_FIELDS
    assert counts.lost / (counts.entries + counts.lost) == pytest.approx(0.3, abs=0.02)
    partly = {name for one in recordings for name in one.untold if len(one.untold) < 5}
    assert {"cause", "conference_sid", "status"} <= partly


def test_without_loss_nothing_is_untold_but_what_twilio_does_not_state() -> None:
    for one in lines(MANY)[1]:
        if one.kind == "recording":
            assert set(one.untold) <= {"started_at", "status"}
            assert not one.untold or one.cause in {"record_verb", "dial_verb"}


def test_the_truth_can_be_read_back(tmp_path: Path) -> None:
    knobs = Knobs(calls=40, recorded=1)
    path = tmp_path / "truth.jsonl"
    with path.open("wb") as file:
        for line in truth(knobs):
            write_line(file, line)
    with path.open("rb") as file:
        assert list(read_truth(file)) == list(truth(knobs))


# ---- The events ------------------------------------------------------------------------------------------------------


def test_a_call_brings_thirty_to_forty_events_of_some_twelve_hundred_bytes() -> None:
    counts = lines(MIX)[2]
    assert 30 < (counts.events - counts.settings + counts.ignored) / counts.calls < 40
    assert 1100 < sum(len(data) for _, _, data in entries(MIX)) / counts.entries < 1300


def sids_in(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from sids_in(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from sids_in(inner, key)
    elif isinstance(value, str) and re.search(r"(?:^s|S|_s)id$", key):
        yield key, value


def test_every_sid_is_well_formed() -> None:
    wrong: Counter[str] = Counter()
    for event in events(MIX):
        for key, sid in sids_in(event["data"]):
            if not SID.fullmatch(sid):
                # A request that is answered without a conference has nothing but the name it asked for.
                assert event["type"].endswith("conference-participant.created"), (event["type"], key, sid)
                wrong[sid] += 1
    assert wrong.total() < len(events(MIX)) / 1000


def test_ids_are_unique_but_for_duplicates_and_the_sinks_own_test() -> None:
    ids: dict[str, dict[str, Any]] = {}
    for event in events(MIX):
        if not event["type"].startswith("com.twilio.eventstreams"):
            assert ids.setdefault(event["id"], event) == event
        if event["type"].startswith(VOICE) and ".insights." not in event["type"]:
            assert event["id"] == event["data"]["eventSid"]


def paths(value: object, at: str = "") -> Iterator[str]:
    """Every place in a JSON document, and of which kind the value there is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, f"{at}.{name}")
    else:
        yield f"{at}: {'null' if value is None else type(value).__name__}"


def variant(event: dict[str, Any]) -> str:
    """The type and what else decides which fields an event has."""
    told = parameters(event)
    parts = [event["type"].replace(VOICE + "webhook.", VOICE), told.get("StatusCallbackEvent", "")]
    if "RecordingSid" in told and event["type"] == RECORDING:
        parts += ["conference" if "ConferenceSid" in told else "call", told["RecordingStatus"]]
    return " ".join(parts)


# What an event may lack of its sample: what somebody may leave out of a request, what a first step or a leg of its own
# does not have, what <Record> does not state, an unlabelled participant, a conference the API ended, a dial unrecorded.
MAY_LACK: dict[str, set[str]] = {
    "com.twilio.studio.flow.step.ended": {"parent_step_sid"},
    VOICE + "api-request.call.created": {"Record", "RecordingStatusCallback", "StatusCallback"},
    VOICE + "api-request.conference-participant.created": {
        "ConferenceRecord",
        "ConferenceStatusCallback",
        "ConferenceRecordingStatusCallback",
    },
    VOICE + "insights.call-summary.partial": {"parent_call_sid"},
    VOICE + "insights.call-summary.complete": {"parent_call_sid"},
    PARTICIPANT: {"ParticipantLabel"},
    VOICE + "status-callback.conference.updated": {"CallSidEndingConference"},
    RECORDING: {"RecordingStartTime", "RecordingTrack", "RecordingSource"},
    VOICE + "twiml.dial.finished": {"RecordingUrl"},
}
# What it may have more: things a scenario or the reference names, and a parent call where the sample has none.
MAY_ADD: dict[str, set[str]] = {
    VOICE + "api-request.call.created": {"RecordingChannels"},
    VOICE + "insights.call-summary.partial": {"parent_call_sid", "trunk_sid"},
    VOICE + "insights.call-summary.complete": {"parent_call_sid", "trunk_sid"},
    **{
        f"{VOICE}{old}status-callback.call.{what}": {"ParentCallSid"}
        for old in ("", "webhook.")
        for what in ("initiated", "ringing", "answered", "completed")
    },
}


def names(places: set[str]) -> set[str]:
    return {place.partition(":")[0].rpartition(".")[2] for place in places}


def sample_files() -> list[Path]:
    return sorted(SAMPLES.glob("com.twilio.*.json"))


@pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.stem)
def test_an_event_has_the_fields_of_the_sample_of_its_type(path: Path) -> None:
    sample = json.loads(path.read_text())
    expected = set(paths(sample))
    found = [event for event in events(MANY) if variant(event) == variant(sample)]
    met: set[str] = set()
    for event in found:
        fields = set(paths(event))
        assert names(expected - fields) <= MAY_LACK.get(sample["type"], set())
        assert names(fields - expected) <= MAY_ADD.get(sample["type"], set())
        met |= fields
    assert expected <= met


def test_every_sample_is_of_a_type_the_simulator_writes() -> None:
    samples = {variant(json.loads(path.read_text())) for path in sample_files()}
    assert len(samples) > 35
    assert samples <= {variant(event) for event in events(MANY)}


def test_twiml_is_xml_in_base64() -> None:
    verbs: Counter[str] = Counter()
    for event in events(MANY):
        body = event["data"].get("response", {}).get("responseBody")
        assert (body is None) != event["type"].startswith(VOICE + "twiml.")
        if body is not None:
            root = ET.fromstring(base64.b64decode(body, validate=True))
            assert root.tag == "Response"
            verbs.update(element.tag for element in root.iter())
    assert {"Conference", "Dial", "Record", "Recording", "Start", "Enqueue", "Gather", "Say", "Hangup"} <= set(verbs)


def test_task_attributes_are_json_in_a_string_and_learn_of_the_conference() -> None:
    known: set[bool] = set()
    for event in events(MIX):
        if event["type"].startswith("com.twilio.taskrouter.task."):
            attributes = json.loads(event["data"]["payload"]["task_attributes"])
            known.add("conference" in attributes)
            if "conference" in attributes:
                assert SID.fullmatch(attributes["conference"]["sid"])
    assert known == {True, False}


def test_no_number_is_anybodys() -> None:
    for _, _, data in islice(entries(MIX), 5_000):
        for number in re.findall(rb"\+\d+", re.sub(rb"\+0000", b"", data)):
            assert re.fullmatch(rb"\+1\d{3}55501\d\d", number)


def test_room_names_are_used_again_and_never_for_two_conferences_at_once() -> None:
    spans: dict[tuple[str, str], dict[str, list[float]]] = {}
    for event in events(MANY):
        told = parameters(event)
        if event["type"] in {PARTICIPANT, VOICE + "status-callback.conference.updated"}:
            conferences = spans.setdefault((told["AccountSid"], told["FriendlyName"]), {})
            conferences.setdefault(told["ConferenceSid"], []).append(seconds(told["Timestamp"]))
    again = 0
    for conferences in spans.values():
        ordered = sorted((min(at), max(at)) for at in conferences.values())
        again += len(ordered) - 1
        for one, other in pairwise(ordered):
            assert one[1] + 5 < other[0]
    assert again > 20


# ---- The way to the stream -------------------------------------------------------------------------------------------


def when_ms(event: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1000)


def test_delivery_never_goes_back_and_every_entry_goes_to_its_account() -> None:
    for one, other in pairwise(entries(MIX)):
        assert one[0] <= other[0]
    for _, account, data in entries(MIX):
        assert account.encode() in data


def test_without_disorder_events_come_in_the_order_in_which_they_happened() -> None:
    times = [when_ms(event) for event in events(Knobs(events=10_000, disorder_s=0, duplicates=0))]
    assert times == sorted(times)


def test_disorder_goes_as_far_as_asked_and_no_further() -> None:
    knobs = Knobs(events=10_000, disorder_s=10, duplicates=0)
    delays = [due - when_ms(event) for (due, _, _), event in zip(entries(knobs), events(knobs), strict=True)]
    assert 0 <= min(delays) <= max(delays) <= 10_000
    assert sum(delays) / len(delays) == pytest.approx(5_000, rel=0.05)
    times = [when_ms(event) for event in events(knobs)]
    assert sum(one > other for one, other in pairwise(times)) > 0.3 * len(times)


def test_as_many_events_are_late_as_asked() -> None:
    knobs = Knobs(events=20_000, disorder_s=1, duplicates=0, late=0.1, lateness_s=1000)
    delays = [due - when_ms(event) for (due, _, _), event in zip(entries(knobs), events(knobs), strict=True)]
    assert max(delays) <= 1_001_000
    assert sum(delay > 1_000 for delay in delays) / len(delays) == pytest.approx(0.1, rel=0.1)


def test_a_duplicate_follows_its_original_within_half_a_minute() -> None:
    knobs = Knobs(events=10_000, disorder_s=0, duplicates=0.2)
    first: dict[str, int] = {}
    for (due, _, _), event in zip(entries(knobs), events(knobs), strict=True):
        if event["type"].startswith("com.twilio.eventstreams"):
            continue
        assert due - first.setdefault(event["id"], due) <= 30_000
        assert when_ms(event) <= first[event["id"]]


def test_a_retried_callback_says_the_same_under_a_new_id() -> None:
    knobs = Knobs(events=10_000, duplicates=0, retried=0.2)
    said: Counter[str] = Counter()
    for event in events(knobs):
        if event["type"] == RECORDING:
            said[json.dumps(parameters(event))] += 1
    assert sum(1 for times in said.values() if times == 2) > 0.1 * len(said)


def test_the_rate_is_kept_once_the_first_calls_have_run_their_course() -> None:
    knobs = Knobs(events=60_000, rate=50, tempo=20, accounts=3)
    dues = [due for due, _, _ in entries(knobs)]
    middle = dues[len(dues) // 4 : -len(dues) // 4]
    assert len(middle) * 1000 / (middle[-1] - middle[0]) == pytest.approx(50, rel=0.1)


def test_calls_begin_for_as_long_as_asked_and_all_end() -> None:
    knobs = Knobs(duration_s=60, rate=200)
    begun = [plan.started_ms - knobs.start_ms for plan in plans(knobs) if plan.counts.calls]
    assert max(begun) < 60_000 < entries(knobs)[-1][0] - knobs.start_ms
    assert len(entries(knobs)) == lines(knobs)[2].entries


def test_endless_traffic_keeps_no_more_than_the_calls_under_way() -> None:
    tracemalloc.start()
    try:
        endless, held = traffic(Knobs(rate=20, tempo=10)), []
        for _ in range(3):
            for _ in islice(endless, 20_000):
                pass
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # 20,000 entries are 24 MB, and as deliveries that wait, 6 MB.
    assert held[-1] - held[0] < 500_000


def test_endless_traffic_tells_the_truth_of_a_call_before_its_first_event() -> None:
    told: set[str | None] = set()

    def begin(truths: list[RecordingTruth]) -> None:
        told.update(one.recording_sid for one in truths)

    met = 0
    for _, _, data in islice(traffic(Knobs(recorded=1.0), begin), 10_000):
        sids = set(re.findall(r"RE[0-9a-f]{32}", data.decode()))
        assert sids <= told
        met += len(sids)
    assert met > 100
    with pytest.raises(KnobError, match="endless traffic has no whole truth"):
        next(truth(Knobs()))


# ---- Wrong knobs, and what the simulator may not know ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"duplicates": 1.5}, "duplicates is 1.5: a share lies between 0 and 1"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"malformed": 0.9}, "malformed is 0.9"),
        ({"rate": 0}, "rate is 0"),
        ({"tempo": float("inf")}, "tempo is inf"),
        ({"events": -1}, "events is -1"),
        ({"accounts": 0}, "there must be at least one"),
        ({"lateness_s": 20_000}, "lateness_s is 20000: it lies between 0 and 12600 seconds"),
        ({"causes": {"sunshine": 1}}, "cause 'sunshine' is not known; known are flex_call_recording"),
        ({"causes": {"dial_verb": 0}}, "at least one must have a weight"),
        ({"causes": {"dial_verb": -1}}, "cause dial_verb has weight -1"),
        ({"causes": {"flex_residual_setting": 1}, "accounts": 3}, "needs at least 4 accounts"),
    ],
)
def test_a_knob_that_makes_no_sense_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(KnobError) as refused:
        Knobs(**wrong)
    assert says in str(refused.value)


def test_fewer_accounts_leave_out_the_flex_causes_they_cannot_have() -> None:
    first, recordings, _ = lines(Knobs(calls=200, accounts=1, recorded=1))
    mix = first.settings["causes"]
    assert isinstance(mix, dict)
    for causes in (mix.keys(), {one.cause for one in recordings}):
        assert causes & set(FLEX_CAUSES) == {"flex_stale_session"}


def test_the_simulator_loads_nothing_of_the_core() -> None:
    code = (
        "import sys, monitor.simulator.traffic, monitor.simulator.delivery\n"
        "print([name for name in sys.modules if name.startswith('monitor.core')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_two_accounts_share_no_sid() -> None:
    owner: dict[str, str] = {}
    for _, account, data in islice(entries(MIX), 10_000):
        for sid in set(re.findall(r"(?:CA|CF|RE|WT|FN|WK|FW)[0-9a-f]{32}", data.decode())):
            assert owner.setdefault(sid, account) == account
    assert len(set(owner.values())) == Knobs().accounts
