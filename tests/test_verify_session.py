"""A session of test calls, without Kafka: what it sees, every reason for which it is not passed, how it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.pipeline import Tuning
from monitor.core.verdict import Verdict, encode_verdict
from monitor.proof.findings import REMEDIES, Needs, Proof, Reason, awaited, hopeless, late, reasons
from monitor.proof.report import Report, as_json, as_markdown, news
from monitor.proof.session import Listed, ListedCall, ListedRecording, Picture, Scope, Session
from tests.builders import START_MS, Json, Message, build_messages, play, read_policy, sid

OVER_S, ENDED_S = 100, 130
NUMBER = "+4930123456"
ACCOUNT = sid("AC1")
TUNING = Tuning(grace_ms=10_000)

CALL: list[Json] = [
    {"at": 1, "call_event": "initiated", "call": "CA1", "direction": "inbound", "from": NUMBER, "to": "+4989654321"},
    {"at": 3, "conference_event": "start", "conference": "CF1", "name": "night-shift"},
    {"at": 3, "participant": "join", "conference": "CF1", "name": "night-shift", "call": "CA1"},
    {"at": 5, "participant": "join", "conference": "CF1", "name": "night-shift", "call": "CA2", "label": "agent-7"},
    {"at": 60, "participant": "leave", "conference": "CF1", "name": "night-shift", "call": "CA2"},
    {"at": 61, "participant": "leave", "conference": "CF1", "name": "night-shift", "call": "CA1"},
    {"at": 61, "conference_event": "end", "conference": "CF1", "name": "night-shift"},
    {"at": 62, "call_event": "completed", "call": "CA1", "direction": "inbound", "from": NUMBER, "to": "+4989654321"},
    {"at": 90, "insights": "conference", "conference": "CF1", "begins": 3, "ends": 61, "recording_enabled": False},
]
RECORDED: Json = {"at": 20, "recording": "RE1", "status": "in-progress", "call": "CA1", "source": "DialVerb"}
ALLOWED: Json = {**RECORDED, "source": "StartCallRecordingAPI"}
NOTHING_LISTED = Listed({ACCOUNT: "main"}, (), ())
LISTED = Listed({ACCOUNT: "main"}, (ListedCall(ACCOUNT, sid("CA1"), START_MS + 1000),), ())


def tells(given_: Sequence[Json]) -> list[Json]:
    """Lines in the order of time."""
    return sorted(given_, key=lambda line: line["at"])


def without(*words: str) -> list[Json]:
    """The test call without the events of which the first word, or its value, is one of these."""
    return [line for line in CALL if not {list(line)[1], line[list(line)[1]]} & set(words)]


def messages_of(given_: Sequence[Json]) -> list[Message]:
    return build_messages(tells(given_))


class Seen:
    """A session over messages that stand in partition 0, and over the verdicts that the monitor's core makes of them.

    Partition 1 has nothing but ticks. ``silent`` are seconds between which partition 1 has none either.
    """

    def __init__(
        self,
        given_: Sequence[Json],
        scope: Scope = Scope(),  # noqa: B008 - frozen.
        *,
        ticks: bool = True,
        silent: tuple[int, int] = (0, 0),
        judged: bool = True,
        opened_s: int = 0,
        **bounds: int,
    ) -> None:
        self.session = Session(scope, (0, 1), START_MS + opened_s * 1000, **bounds)
        messages = messages_of(given_)
        for message in messages:
            self.session.event(0, message.arrives_ms, message.value)
        [tick] = build_messages([{"at": 0, "tick": True}])
        for at in range(0, ENDED_S, 10) if ticks else ():
            self.session.event(0, START_MS + at * 1000, tick.value)
            if not silent[0] <= at < silent[1]:
                self.session.event(1, START_MS + at * 1000, tick.value)
        told = play(messages_of([*given_, {"at": ENDED_S, "tick": True}]), TUNING, read_policy(None)).told
        for one in told if judged else ():
            self.session.verdict(one.key, None if one.verdict is None else encode_verdict(one.verdict))

    @property
    def picture(self) -> Picture:
        return self.session.picture(START_MS + ENDED_S * 1000, START_MS + OVER_S * 1000)

    def reasons(self, needs: Needs = Needs(), listed: Listed | None = LISTED, **proof: Any) -> tuple[Reason, ...]:  # noqa: B008
        over_ms = START_MS + OVER_S * 1000
        if listed is not None and "missed" not in proof:
            proof["missed"] = self.session.missed(listed, over_ms)
        return reasons(self.picture, needs, Proof(over_ms=over_ms, listed=listed, **proof))

    def names(self, *args: Any, **more: Any) -> set[str]:
        return {reason.name for reason in self.reasons(*args, **more)}


@pytest.mark.parametrize(
    "scope",
    [
        Scope(),
        Scope(frozenset({NUMBER})),
        Scope(frozenset({"+4989654321"})),
        Scope(tag="night-shift"),
        Scope(tag="agent-7"),
    ],
    ids=["everything", "caller", "called", "conference name", "label"],
)
@pytest.mark.parametrize("recording", [[], [ALLOWED]], ids=["not recorded", "allowed"])
def test_a_test_call_that_was_seen_whole_and_not_recorded_passes(scope, recording):
    seen = Seen([*CALL, *recording], scope)
    assert seen.reasons() == ()
    [call] = seen.picture.calls
    assert (call.call_sids, call.conference_sids, call.lacks) == ((sid("CA1"), sid("CA2")), (sid("CF1"),), ())
    assert (call.insights, seen.picture.whole, seen.picture.others) == (True, 1, 0)


SUSPECTED = [*without("insights"), {**CALL[-1], "recording_enabled": True}]
UNKNOWN = [
    *CALL,
    {"at": 20, "recording": "RE1", "status": "in-progress", "call": "CA1", "source": "StartCallRecordingAPI"},
]
UNDETERMINED = [*UNKNOWN, {"at": 10, "execution": "FN1", "call": "CA1", "flow": "FW1", "revision": 7}]
UNREADABLE: Json = {"at": 30, "bytes": '{"type": "com.twilio.voice.status-callback.recording.processed", ' + sid("CA1")}
RE1 = ListedRecording(ACCOUNT, sid("RE1"), sid("CA1"), None, START_MS + 20_000)

FAILING: Mapping[str, tuple[str, Seen, Mapping[str, Any]]] = {
    "no call at all": ("no_test_call_seen", Seen([]), {"listed": NOTHING_LISTED}),
    "calls of another number": ("no_test_call_seen", Seen(CALL, Scope(frozenset({"+493099999"}))), {}),
    "calls without the tag": ("no_test_call_seen", Seen(CALL, Scope(tag="day-shift")), {}),
    "a call from before": ("no_test_call_seen", Seen(CALL, opened_s=30), {}),
    "only the end of a call": ("no_test_call_seen", Seen(CALL[4:]), {}),
    "one call where two are needed": ("too_few_test_calls", Seen(CALL), {"needs": Needs(calls=2)}),
    "no call events": ("no_call_events", Seen(without("call_event")), {}),
    "no call of a conference": (
        "no_call_events",
        Seen(without("call_event", "participant")),
        {"listed": NOTHING_LISTED},
    ),
    "no conference events": ("no_conference_events", Seen(without("participant", "conference_event")), {}),
    "a call without an end": ("call_not_ended", Seen(without("completed")), {}),
    "a conference without an end": ("call_not_ended", Seen(without("end", "insights")), {}),
    "a disallowed recording": ("disallowed_recording", Seen([*CALL, RECORDED]), {}),
    "one that only the monitor's listing found": (
        "disallowed_recording",
        Seen([*CALL, {"at": 20, "listed": "RE1", "call": "CA2", "source": "Trunking"}]),
        {},
    ),
    "an undetermined recording": ("undetermined", Seen(UNDETERMINED), {}),
    "a suspicion": ("suspected", Seen(SUSPECTED), {}),
    "a recording without a verdict": ("no_verdict", Seen([*CALL, RECORDED], judged=False), {}),
    "an event nobody can read": ("unreadable_event", Seen([*CALL, UNREADABLE]), {}),
    "more than it keeps": ("too_much_traffic", Seen([*CALL, ALLOWED], members_max=3), {}),
    "no ticks": ("monitor_not_running", Seen(CALL, ticks=False), {}),
    "no ticks for a while": ("tick_lost", Seen(CALL, silent=(20, 90)), {}),
    "no ticks after the end": ("tick_lost", Seen(CALL, silent=(OVER_S, ENDED_S)), {}),
    "a monitor that lags": ("not_judged_to_end", Seen(CALL), {"behind": (1,)}),
    "messages gone": ("blind_interval", Seen(CALL), {"deleted": (0,)}),
    "brokers gone": ("kafka_unreachable", Seen(CALL), {"kafka": "no broker answers"}),
    "Ctrl-C": ("interrupted", Seen(CALL), {"interrupted": True}),
    "no credentials": ("rest_not_asked", Seen(CALL), {"listed": None}),
    "no credentials of this account": ("rest_not_asked", Seen(CALL), {"listed": Listed({sid("AC2"): "other"}, (), ())}),
    "Twilio is down": ("rest_unreachable", Seen(CALL), {"listed": None, "refused": "it answered 500"}),
    "a call that no event told of": (
        "missed_call",
        Seen(CALL),
        {"listed": Listed({ACCOUNT: "main"}, (ListedCall(ACCOUNT, sid("CA9"), START_MS + 5_000),), ())},
    ),
    "a recording that no event told of": (
        "missed_recording",
        Seen(CALL),
        {"listed": Listed({ACCOUNT: "main"}, (), (RE1,))},
    ),
    "silence of Voice Insights where Twilio is not asked": (
        "insights_missing",
        Seen(without("insights")),
        {"needs": Needs(rest=False), "listed": None},
    ),
}


@pytest.mark.parametrize("what", FAILING)
def test_it_fails_for(what):
    name, seen, given_ = FAILING[what]
    found = {reason.name: reason for reason in seen.reasons(**given_)}
    also = {"too_few_test_calls"} if name in ("no_call_events", "no_conference_events", "call_not_ended") else set()
    assert set(found) == {name} | also
    assert found[name].remedy


def test_every_reason_is_shown_by_a_failure():
    assert {name for name, _, _ in FAILING.values()} == set(REMEDIES)


# ---- what counts ----------------------------------------------------------------------------------------------------


def test_calls_of_others_and_their_recordings_are_none_of_a_session_for_a_number():
    others = [
        {**line, **{key: line[key][:2] + "5" + line[key][2:] for key in ("call", "conference") if key in line}}
        for line in CALL
    ]
    strangers = [{**line, **({"from": "+33123456789"} if "from" in line else {})} for line in others]
    recorded = {**RECORDED, "recording": "RE5", "call": "CA51"}
    seen = Seen([*CALL, *strangers, recorded], Scope(frozenset({NUMBER})))
    assert seen.reasons() == ()
    assert (len(seen.picture.calls), seen.picture.others, seen.picture.recordings) == (1, 2, ())
    assert Seen([*CALL, *strangers, recorded]).names() == {"disallowed_recording"}


def test_calls_of_others_make_room_and_the_test_call_stays():
    strangers: list[Json] = []
    for number in range(40):
        phone = {"call": f"CA{number + 10}", "direction": "inbound", "from": f"+49999{number:06}", "to": "+4989654321"}
        strangers += [{"at": number * 6, "call_event": "initiated", **phone}]
    # A conference that stands while its first call is forgotten, and turns out to be of a test call.
    room = {"participant": "join", "conference": "CF9", "name": "day-shift"}
    entered = [
        {"at": 1, **room, "call": "CA8"},
        {"at": 89, **room, "call": "CA9"},
        {"at": 180, **room, "participant": "hold", "call": "CA9"},
    ]
    proved = {"at": 241, "call_event": "ringing", "call": "CA9", "from": NUMBER, "to": "+4989654321"}
    session = Session(Scope(frozenset({NUMBER})), (0,), START_MS, members_max=28)
    for message in messages_of([*strangers, *CALL, *entered, proved]):
        session.event(0, message.arrives_ms, message.value)
    picture = session.picture(START_MS)
    assert (len(picture.calls), picture.whole, picture.others, picture.too_much) == (2, 1, 41, False)


def test_an_agents_call_that_stays_up_makes_no_one_call_of_those_it_meets():
    story: list[Json] = []
    for number in range(5):
        at, room, customer = number * 15, f"CF{number + 1}", f"CA{number + 10}"
        from_ = NUMBER if number == 1 else f"+4930999{number}000"
        phone = {"call": customer, "direction": "inbound", "from": from_, "to": "+4989654321"}
        story += [
            {"at": at + 1, "call_event": "initiated", **phone},
            {"at": at + 2, "participant": "join", "conference": room, "name": room, "call": customer},
            {"at": at + 3, "participant": "join", "conference": room, "name": room, "call": "CA2"},
            {"at": at + 9, "participant": "leave", "conference": room, "name": room, "call": "CA2"},
            {"at": at + 9, "participant": "leave", "conference": room, "name": room, "call": customer},
            {"at": at + 9, "conference_event": "end", "conference": room, "name": room},
            {"at": at + 10, "call_event": "completed", **phone},
        ]
    story.insert(0, {"at": 0, "call_event": "initiated", "call": "CA2", "direction": "outbound-api", "to": "+49891"})
    recorded = [{**RECORDED, "call": "CA12"}]
    assert Seen([*story, *recorded]).picture.whole == 5
    assert Seen(story).session.picture(START_MS, START_MS + 40_000).whole == 3
    seen = Seen([*story, *recorded], Scope(frozenset({NUMBER})))
    assert (seen.names(listed=NOTHING_LISTED), seen.picture.others) == (set(), 4)


def test_a_recording_of_a_call_that_nobody_knows_counts_where_every_call_does():
    stray = {**RECORDED, "call": "CA8"}
    assert Seen([*CALL, stray]).names() == {"disallowed_recording"}
    assert Seen([*CALL, stray], Scope(frozenset({NUMBER}))).names() == set()
    assert Seen([*CALL, {**stray, "started": "-2 min"}]).names() == set()


def test_a_recording_of_a_test_call_that_twilio_alone_knows_of_is_missed_whoever_is_asked_about():
    listed = msgspec.structs.replace(LISTED, recordings=(RE1,))
    for scope in (Scope(), Scope(frozenset({NUMBER})), Scope(tag="night-shift")):
        [missed] = Seen(CALL, scope).reasons(listed=listed)
        assert (missed.name, missed.sids) == ("missed_recording", (sid("RE1"),))
    assert Seen([*CALL, ALLOWED]).names(listed=listed) == set()
    stray = msgspec.structs.replace(RE1, call_sid=sid("CA9"))
    assert (
        Seen(CALL, Scope(tag="night-shift")).names(listed=msgspec.structs.replace(LISTED, recordings=(stray,))) == set()
    )


def test_a_recording_that_only_the_monitors_listing_found_is_missed_even_if_it_is_allowed():
    seen = Seen([*CALL, {"at": 20, "listed": "RE1", "call": "CA1", "source": "StartCallRecordingAPI"}])
    assert seen.picture.recordings[0].outcome == "allowed"
    assert seen.names(listed=msgspec.structs.replace(LISTED, recordings=(RE1,))) == {"missed_recording"}


def test_a_recording_of_a_call_that_no_event_told_of_is_missed_with_it():
    call = ListedCall(ACCOUNT, sid("CA9"), START_MS + 5_000)
    listed = Listed({ACCOUNT: "main"}, (call,), (msgspec.structs.replace(RE1, call_sid=sid("CA9")),))
    assert Seen(CALL, Scope(frozenset({NUMBER}))).names(listed=listed) == {"missed_call", "missed_recording"}


def test_what_twilio_made_just_before_the_session_may_have_been_told_of_before_it():
    call = ListedCall(ACCOUNT, sid("CA9"), START_MS - 1)
    listed = Listed({ACCOUNT: "main"}, (call,), (ListedRecording(ACCOUNT, sid("RE9"), sid("CA9"), None, START_MS - 1),))
    assert Seen(CALL).reasons(listed=listed) == ()


def test_where_no_call_was_seen_twilio_has_to_be_asked_all_the_same():
    assert Seen([]).names(listed=None) == {"no_test_call_seen", "rest_not_asked"}


def test_what_voice_insights_says_of_a_conference_from_before_is_no_suspicion_of_the_session():
    assert Seen([*CALL, {**CALL[-1], "conference": "CF9", "recording_enabled": True}]).reasons() == ()


def test_what_begins_after_the_last_test_call_is_none_of_the_session():
    later = [{**line, "call": "CA9", "at": OVER_S + 5} for line in (CALL[0], RECORDED)]
    seen = Seen([*CALL, *later])
    assert (seen.reasons(), len(seen.picture.calls)) == ((), 1)


def test_to_enter_a_conference_is_a_beginning():
    assert Seen(without("initiated", "start")).reasons() == ()


def test_a_suspicion_that_a_recording_ends_leaves_the_verdict_on_that_recording():
    told = {
        "at": 95,
        "recording": "RE1",
        "status": "completed",
        "conference": "CF1",
        "source": "Conference",
        "started": 4,
    }
    seen = Seen([*SUSPECTED, told])
    assert [(one.name, one.outcome) for one in seen.picture.recordings] == [(sid("RE1"), "disallowed")]


def test_the_greatest_verdict_holds_and_not_the_last():
    seen = Seen([*CALL, RECORDED])
    [verdict] = [
        one.verdict for one in play(messages_of([*CALL, RECORDED]), TUNING, read_policy(None)).told if one.verdict
    ]
    older = msgspec.structs.replace(verdict, at=(0, 0), outcome="allowed")
    seen.session.verdict(verdict.key, encode_verdict(older))
    seen.session.verdict("RE", b"no verdict")
    assert seen.names() == {"disallowed_recording"}
    newer = msgspec.structs.replace(verdict, at=(0, 99), outcome="allowed")
    seen.session.verdict(verdict.key, encode_verdict(newer))
    assert seen.names() == set()


def test_more_verdicts_than_it_keeps_are_said():
    [verdict] = [
        one.verdict for one in play(messages_of([*CALL, RECORDED]), TUNING, read_policy(None)).told if one.verdict
    ]
    session = Session(Scope(), (0,), START_MS, members_max=1)
    for key in ("RE1", "RE1", "RE2"):
        assert not session.picture(START_MS).too_much
        session.verdict(key, encode_verdict(verdict))
    assert session.picture(START_MS).too_much


def test_without_twilio_it_passes_where_voice_insights_has_told():
    assert Seen(CALL).reasons(Needs(rest=False), None) == ()
    assert Seen(without("insights")).names() == set()


def test_an_interrupted_session_says_what_it_saw_and_nothing_of_what_it_did_not_wait_for():
    unjudged = Seen([*CALL, RECORDED], judged=False, silent=(OVER_S, ENDED_S))
    assert unjudged.names(listed=None, interrupted=True) == {"interrupted"}
    assert Seen([*CALL, RECORDED]).names(listed=None, interrupted=True) == {"interrupted", "disallowed_recording"}


@pytest.mark.parametrize("form", ["array", "binary", "lines"])
def test_a_tag_is_found_in_every_form_of_a_message(form):
    session = Session(Scope(tag="night-shift"), (0,), START_MS)
    values = [message.value for message in messages_of(CALL)]
    if form == "binary":
        for value in values:
            event = json.loads(value)
            headers = [(f"ce_{key}", event[key].encode()) for key in ("type", "id", "source", "time")]
            session.event(0, START_MS, json.dumps(event["data"]).encode(), headers)
    else:
        joined = b"[" + b",".join(values) + b"]" if form == "array" else b"\n".join(values)
        session.event(0, START_MS, joined)
    assert session.picture(START_MS).whole == 1


STORY = [*SUSPECTED, RECORDED, {"at": 30, "listed": "RE2", "call": "CA1", "source": "Trunking"}]
READS: list[Message | Verdict] = [
    *messages_of(STORY),
    *(one.verdict for one in play(messages_of(STORY), TUNING, read_policy(None)).told if one.verdict is not None),
]


def read(reads: Sequence[Message | Verdict]) -> Picture:
    session = Session(Scope(tag="agent-7"), (0,), START_MS)
    for each in reads:
        if isinstance(each, Verdict):
            session.verdict(each.key, encode_verdict(each))
        else:
            session.event(0, each.arrives_ms, each.value)
    return session.picture(START_MS)


@given(st.permutations(READS))
def test_the_order_in_which_events_and_verdicts_are_read_changes_nothing(reads):
    assert read(reads) == read(READS)


# ---- what is awaited, and how it is told ----------------------------------------------------------------------------


def test_what_is_awaited_is_named():
    over_ms = START_MS + OVER_S * 1000
    whole = Seen(CALL).picture
    assert (list(awaited(whole, over_ms)), list(late(whole)), hopeless(whole)) == ([], [], False)
    lacking = Seen([*without("insights"), RECORDED], judged=False, silent=(OVER_S, ENDED_S)).picture
    assert list(awaited(lacking, over_ms)) == ["a tick in partition 1", f"the verdict on {sid('RE1')}"]
    assert list(late(lacking)) == [f"Voice Insights on {sid('CF1')}"]
    assert list(late(Seen(without("completed")).picture)) == [f"the end of {sid('CA1')}"]
    assert hopeless(Seen(CALL, ticks=False).picture)


def test_each_thing_that_is_seen_is_told_once():
    before: Picture | None = None
    lines: list[str] = []
    for length in range(len(CALL) + 2):
        now = Seen([*CALL[:length], *([RECORDED] if length > 5 else [])], judged=length > 6).picture
        lines += news(before, now)
        before = now
    call, conference, recording = sid("CA1"), sid("CF1"), sid("RE1")
    assert lines == [
        "the monitor ticks in all 2 partitions",
        f"{call}: a test call",
        f"{call}: in conference {conference}",
        f"{recording}: a recording, not judged yet",
        f"{recording}: a recording, disallowed: TwiML <Dial record> started it, which the policy does not allow.",
        f"{call}: seen whole",
        f"{call}: Voice Insights has told of its conferences",
    ]


def report_of(seen: Seen, needs: Needs = Needs(), **proof: Any) -> Report:  # noqa: B008 - frozen.
    over_ms = START_MS + OVER_S * 1000
    told = Proof(over_ms=over_ms, **proof)
    return Report(
        version="1.2.3",
        opened_ms=START_MS,
        ended_ms=START_MS + ENDED_S * 1000,
        scope=("from or to +49******56",),
        needs=needs,
        picture=seen.picture,
        proof=told,
        reasons=reasons(seen.picture, needs, told),
    )


def test_the_page_of_a_session_that_passed(golden):
    golden("verify-passed.md", as_markdown(report_of(Seen(CALL), listed=LISTED)))


def test_the_page_of_a_session_that_did_not(golden):
    failed = Seen([*without("insights", "end"), RECORDED], silent=(20, 90))
    golden("verify-not-passed.md", as_markdown(report_of(failed, Needs(2, rest=False), behind=(1,))))


def test_what_others_wrote_opens_no_line_cell_or_tag_of_the_page():
    hostile = "a|b\n# <x> __y__"
    report = report_of(Seen([*CALL, RECORDED]), listed=LISTED, kafka=hostile)
    page = as_markdown(msgspec.structs.replace(report, scope=(f"of which an event says {hostile}",)))
    lines = [line for line in page.splitlines() if "y" in line and "#" in line and line.startswith("| ")]
    assert len([line for line in lines if r"a\|b # \<x\> \_\_y\_\_" in line]) == 2, page
    assert hostile not in page
    assert "\n# <x>" not in page


def test_programs_read_the_same():
    said = json.loads(as_json(report_of(Seen([*CALL, RECORDED]), listed=LISTED)))
    assert (said["passed"], [reason["name"] for reason in said["reasons"]]) == (False, ["disallowed_recording"])
    assert (said["calls_seen_whole"], said["calls"][0]["began_at"]) == (1, "2026-11-02T09:00:01.000Z")
    assert said["recordings"][0]["cause"] == "dial_verb"
    assert said["twilio"] == {
        "accounts": {ACCOUNT: "main"},
        "calls": 1,
        "recordings": 0,
        "missed": {"calls": [], "recordings": []},
    }
    assert NUMBER not in json.dumps(said)


def test_every_reason_stands_in_the_documentation():
    page = (Path(__file__).parent.parent / "docs" / "verify.md").read_text(encoding="utf-8")
    assert {name for name in REMEDIES if f"`{name}`" not in page} == set()
