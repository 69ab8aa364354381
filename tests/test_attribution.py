"""Attribution is a function of what is known: of facts and their times, never of the order in which they came."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import (
    CAUSES,
    PROOF_SLACK_MS,
    START_SOURCES,
    STATUS_RANK,
    STATUSES,
    Attribution,
    Background,
    attribute,
    canonical_source,
    relevance,
)
from monitor.core.conversation import KIND, Conversation
from monitor.core.events import (
    AnyFact,
    ConferenceFact,
    Event,
    ExecutionFact,
    FlexSetting,
    FlowSetting,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.evidence import JOIN_SLACK_MS, Evidence
from monitor.core.window import CLAIM_REACH_MS, Window

ACCOUNT: Final = "AC" + "0" * 32
FLOW: Final = "FW" + "0" * 32
DAY_MS: Final = 86_400_000
NOW_MS: Final = 10_000_000_000
# For properties that are quick to fail: a fault shows within a few dozen examples.
few = settings(max_examples=settings().max_examples // 4)


def sid(name: str) -> str:
    return name[:2] + name[2:].rjust(32, "0")


def event(at_s: float, *facts: AnyFact, members: tuple[str, ...] = ()) -> Event:
    """An event that shows these facts, and connects what they name."""
    named: list[str | None] = list(members)
    for fact in facts:
        if isinstance(fact, RecordingFact):
            named += [fact.recording, fact.call, fact.conference]
        elif isinstance(fact, ParticipantFact | RequestFact):
            named += [fact.conference, fact.call]
        elif isinstance(fact, ConferenceFact):
            named.append(fact.conference)
        elif isinstance(fact, TwimlFact):
            named.append(fact.call)
        elif isinstance(fact, TaskFact):
            named += [fact.task, fact.conference, *fact.calls]
        elif isinstance(fact, ExecutionFact):
            named += [fact.execution, fact.call]
        elif isinstance(fact, StepFact):
            named.append(fact.execution)
    present = tuple(dict.fromkeys([member for member in named if member is not None]))
    return Event("com.example", None, ACCOUNT, NOW_MS + round(at_s * 1000), None, present, facts)


def fold(events: list[Event], *, entries_max: int = 10_000) -> Window:
    """A window into which events have come in this order, all at one instant."""
    window = Window(window_ms=DAY_MS, grace_ms=60_000, age_max_ms=DAY_MS, entries_max=entries_max, conferences_max=3)
    for offset, one in enumerate(events):
        window.fold(one, offset, 0, NOW_MS)
    return window


def conversation_of(window: Window, member: str) -> Conversation:
    return window.accounts[ACCOUNT].index[member]


def background(*flows: FlowSetting) -> Background:
    settings = AccountSettings()
    for flow in flows:
        settings.observe(flow)
    settings.observe(FlexSetting(ACCOUNT, enabled=False, since_ms=NOW_MS, previous=True, observed_ms=NOW_MS))
    return Background(settings, (), DAY_MS)


KNOWN_FLOW: Final = background(FlowSetting(ACCOUNT, FLOW, 1, ("rec",)))


def judge(window: Window, recording: str, *, grace_over: bool = True, settings: Background = KNOWN_FLOW) -> Attribution:
    return attribute(Evidence(conversation_of(window, recording)), recording, settings, grace_over=grace_over)


# --------------------------------------------------------------------------- what a few facts may be

SECONDS: Final = st.sampled_from([-300, -120, -119, -6, -5, -1, 0, 0, 1, 5, 6, 10, 11, 50, 60, 120, 121, 300])
CALLS: Final = st.sampled_from([sid("CA1"), sid("CA2"), sid("CA3")])
NAME_OF: Final = {sid("CF1"): "room", sid("CF2"): "room", sid("CF3"): "hall", sid("CF4"): "WT" + "5" * 32}
CONFERENCES: Final = st.sampled_from(sorted(NAME_OF))
RECORDINGS: Final = st.sampled_from([sid("RE1"), sid("RE2")])
EXECUTIONS: Final = st.sampled_from([sid("FN1"), sid("FN2")])
WIDGETS: Final = st.sampled_from(["Trigger", "say", "rec", "flex", None])


@st.composite
def participants(draw: st.DrawFn) -> Event:
    conference = draw(CONFERENCES)
    at_s = draw(SECONDS)
    told_ms = NOW_MS + at_s * 1000 if draw(st.booleans()) else None  # A summary tells it later.
    name = NAME_OF[conference] if draw(st.booleans()) else None
    phase = draw(st.sampled_from(["join", "leave", "inside"]))
    fact = ParticipantFact(conference, draw(CALLS), phase, name, told_ms)
    return event(at_s if told_ms is None else 1800, fact)


@st.composite
def conferences(draw: st.DrawFn) -> Event:
    conference = draw(CONFERENCES)
    name = NAME_OF[conference] if draw(st.booleans()) else None
    return event(
        draw(SECONDS), ConferenceFact(conference, name, draw(st.sampled_from(["start", "end", "seen"])), None, None)
    )


@st.composite
def twiml(draw: st.DrawFn) -> Event:
    return event(draw(SECONDS), TwimlFact(draw(CALLS), draw(st.sampled_from(["room", "hall"]))))


@st.composite
def requests(draw: st.DrawFn) -> Event:
    conference = draw(st.none() | CONFERENCES)
    name = draw(st.sampled_from(["room", "hall"])) if conference is None else None
    call = draw(CALLS if conference is None and draw(st.booleans()) else st.none())
    if conference is None and call is None:
        call = f"request:{draw(st.integers(1, 3))}:{name}"
    return event(draw(SECONDS), RequestFact(conference, name, call))


@st.composite
def recordings(draw: st.DrawFn) -> Event:
    call = draw(st.none() | CALLS)
    conference = draw(CONFERENCES) if call is None or draw(st.booleans()) else None
    source = draw(st.sampled_from(["Conference", "StartCallRecordingAPI", "DialVerb", "newSource", None]))
    found_by = draw(st.sampled_from(["stream", "verb", "listing"]))
    started = draw(st.none() | SECONDS)
    fact = RecordingFact(
        draw(RECORDINGS),
        call,
        conference,
        source,
        draw(st.sampled_from([*STATUSES, None])),
        None if started is None else NOW_MS + started * 1000,
        draw(st.none() | st.sampled_from([0, 5000])),
        None,
        found_by,
    )
    return event(draw(SECONDS), fact)


@st.composite
def studio(draw: st.DrawFn) -> Event:
    execution = draw(EXECUTIONS)
    if draw(st.booleans()):
        revision = draw(st.sampled_from([1, 1, 2, None]))
        return event(
            draw(SECONDS), ExecutionFact(execution, draw(st.none() | CALLS), FLOW, revision, draw(st.booleans()))
        )
    by = draw(st.sampled_from(["success", "failed", None]))
    return event(draw(SECONDS), StepFact(execution, draw(WIDGETS), draw(WIDGETS), by))


@st.composite
def tasks(draw: st.DrawFn) -> Event:
    calls = tuple(draw(st.lists(CALLS, max_size=2, unique=True)))
    worker = draw(st.sampled_from([(), ("WK" + "a" * 32, "somebody"), ("WK" + "b" * 32,), ("nobody's SID",)]))
    return event(draw(SECONDS), TaskFact(sid("WT1"), draw(st.none() | CONFERENCES), calls, (), worker))


EVENTS: Final = st.lists(
    st.one_of(recordings(), recordings(), participants(), conferences(), twiml(), requests(), studio(), tasks()),
    max_size=12,
)


def conclusion(found: Attribution) -> tuple[object, ...]:
    """All that an attribution concludes; which of several equal events shows it may depend on which came first."""
    return (
        found.call_sid,
        found.conference_sid,
        found.start_source,
        found.status,
        found.found_by,
        found.started_ms,
        found.ended_ms,
        found.cause,
        found.strength,
        found.open_to_end,
        found.missing,
        frozenset(cause for cause, _ in found.ruled_out),
        frozenset(proof.shows for proof in found.evidence if "worker" in proof.shows),
    )


def conclusions(window: Window) -> dict[tuple[str, bool], tuple[object, ...]]:
    known = {seen.sid for c in window.conversations() for seen in c.recordings}
    return {
        (recording, over): conclusion(judge(window, recording, grace_over=over))
        for recording in known
        for over in (False, True)
    }


@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_in_which_facts_arrive_changes_no_conclusion(events, chance):
    shuffled = list(events)
    chance.shuffle(shuffled)

    assert conclusions(fold(shuffled)) == conclusions(fold(events))


@few
@given(EVENTS, st.data())
def test_a_fact_told_again_changes_no_conclusion(events, data):
    again = events + (data.draw(st.lists(st.sampled_from(events), max_size=4)) if events else [])

    assert conclusions(fold(again)) == conclusions(fold(events))


@few
@given(EVENTS)
def test_conclusions_keep_to_the_words(events):
    for (_, over), found in conclusions(fold(events)).items():
        cause, strength, open_to_end = found[7], found[8], found[9]
        assert cause is None or cause in CAUSES
        assert (cause is None) == (strength is None)
        assert strength in (None, "observed", "implied", "inferred")
        # Once the grace is over, only incomplete evidence holds a cause open.
        assert not over or cause is not None or open_to_end


@few
@given(EVENTS)
def test_the_end_of_the_grace_takes_no_cause_back(events):
    window = fold(events)
    for recording in {seen.sid for c in window.conversations() for seen in c.recordings}:
        before, after = judge(window, recording, grace_over=False), judge(window, recording)
        if before.cause is not None:
            assert conclusion(after) == conclusion(before)


@few
@given(EVENTS, st.integers(0, 6))
def test_lost_evidence_never_gives_a_cause_by_elimination(events, entries_max):
    window = fold(events, entries_max=entries_max)
    for conversation in window.conversations():
        for recording in [seen.sid for seen in conversation.recordings]:
            evidence = Evidence(conversation)
            if not conversation.truncated or recording not in evidence.recordings:
                continue
            found = attribute(evidence, recording, KNOWN_FLOW, grace_over=True)
            assert found.cause not in ("api_call_recording", "unattributed")


@few
@given(EVENTS)
def test_evidence_shown_is_evidence_that_was_kept(events):
    window = fold(events)
    for conversation in window.conversations():
        kept = conversation.read_evidence()
        for recording in [seen.sid for seen in conversation.recordings]:
            found = judge(window, recording)
            assert found.evidence
            assert all(proof.kept in kept for proof in found.evidence)


# --------------------------------------------------------------------------- what can still change a conclusion


def judged(events: list[Event]) -> Window:
    """A window whose conversations know what can still change what is concluded from them."""
    window = fold(events)
    for conversation in window.conversations():
        evidence = Evidence(conversation)
        if conversation.recordings:
            found = [
                attribute(evidence, seen.sid, KNOWN_FLOW, grace_over=over)
                for seen in conversation.recordings
                for over in (False, True)
            ]
            conversation.relevant, conversation.focus = relevance(evidence, found, frozenset())
    return window


def is_news(window: Window, one_more: Event, offset: int) -> bool:
    """Fold one more event; whether its conversation is to be judged again."""
    result = window.fold(one_more, offset, 0, NOW_MS)
    assert result.conversation is not None
    return bool(result.renewed or result.kinds & result.conversation.relevant)


MORE: Final = st.lists(
    st.one_of(participants(), conferences(), twiml(), requests(), studio(), tasks()), min_size=1, max_size=4
)


@given(EVENTS, MORE)
def test_facts_that_are_no_news_change_no_conclusion_however_many_come(events, more):
    window = judged(events)
    before = conclusions(window)
    for number, one_more in enumerate(more):
        if is_news(window, one_more, len(events) + number):
            break  # Then it is judged again.

        assert conclusions(window) == before


def recorded(source: str, call: str | None = None, conference: str | None = None) -> Event:
    fact = RecordingFact(sid("RE1"), call, conference, source, "completed", NOW_MS, None, None, "stream")
    return event(0, fact, members=(sid("CA1"), sid("CA2"), sid("CF1"), sid("CF2")))


def sight(at_s: float, call: str, phase: str, conference: str, name: str | None = None) -> Event:
    return event(at_s, ParticipantFact(sid(conference), sid(call), phase, name, None))


def end(at_s: float, conference: str) -> Event:
    return event(at_s, ConferenceFact(sid(conference), None, "end", None, None))


def suspicion(conference: str) -> Event:
    return event(90, ConferenceFact(sid(conference), None, "seen", None, True))


def step(at_s: float, execution: str, leaves: str) -> Event:
    return event(at_s, StepFact(sid(execution), leaves, "say", "success"), members=(sid("CA1"),))


def execution(at_s: float, name: str, *, ended: bool) -> Event:
    return event(at_s, ExecutionFact(sid(name), sid("CA1"), FLOW, 1, ended))


def task(conference: str | None) -> Event:
    return event(20, TaskFact(sid("WT1"), conference, (sid("CA1"),), (), ()))


OF_A_CALL: Final = recorded("StartCallRecordingAPI", call=sid("CA1"))
IN_ONE: Final = [OF_A_CALL, sight(-5, "CA1", "join", "CF1")]
IN_TWO: Final = [
    OF_A_CALL,
    sight(-99, "CA1", "join", "CF1"),
    sight(-90, "CA1", "leave", "CF1"),
    sight(-5, "CA1", "join", "CF2"),
]
IN_TWO_ONE_ENDED: Final = [
    OF_A_CALL,
    sight(-20, "CA1", "join", "CF1"),
    sight(-10, "CA1", "join", "CF2"),
    end(-5, "CF2"),
]
BY_TWIML: Final = [
    recorded("Conference", conference=sid("CF1")),
    event(0, TwimlFact(sid("CA1"), "room")),
    sight(5, "CA1", "join", "CF1", "room"),
]
OF_STALE_SESSION: Final = [
    recorded("Conference", conference=sid("CF4")),
    sight(-5, "CA1", "join", "CF4", NAME_OF[sid("CF4")]),
]
BY_WIDGET: Final = [*IN_ONE, execution(-9, "FN1", ended=False), step(1, "FN1", "rec")]


@pytest.mark.parametrize(
    ("events", "one_more", "news"),
    [
        # Of a call that was in one conference only another one matters.
        (IN_ONE, sight(50, "CA1", "inside", "CF1"), False),
        (IN_ONE, sight(-9, "CA1", "join", "CF1"), False),
        (IN_ONE, sight(-1, "CA1", "leave", "CF1"), False),
        (IN_ONE, sight(50, "CA1", "join", "CF2"), True),
        (IN_ONE, sight(-1, "CA2", "join", "CF2"), False),
        (IN_ONE, end(-1, "CF1"), False),
        # Of one that was in several, what was before the recording's start.
        (IN_TWO, sight(-2, "CA1", "inside", "CF1"), True),
        (IN_TWO, sight(50, "CA1", "join", "CF1"), False),
        (IN_TWO, end(-1, "CF2"), True),
        (IN_TWO, end(50, "CF2"), False),
        # It left the second when that ended, unless it is seen to leave it later, or that ends again.
        (IN_TWO_ONE_ENDED, sight(5, "CA1", "leave", "CF2"), True),
        (IN_TWO_ONE_ENDED, end(5, "CF2"), True),
        # Until a call is seen anywhere, its task may name its conference.
        ([OF_A_CALL], sight(50, "CA1", "join", "CF1"), True),
        ([OF_A_CALL], task(sid("CF1")), True),
        ([OF_A_CALL], task(None), False),
        # TwiML means the conference that its call enters first from then on.
        (BY_TWIML, sight(2, "CA1", "inside", "CF1", "room"), False),
        (BY_TWIML, sight(-6, "CA1", "inside", "CF1", "room"), True),
        (BY_TWIML, sight(2, "CA1", "join", "CF2", "room"), True),
        (BY_TWIML, sight(50, "CA1", "leave", "CF1", "room"), False),
        (BY_TWIML, sight(50, "CA2", "join", "CF1", "hall"), True),
        (BY_TWIML, end(50, "CF1"), False),
        # Of an execution that left a recording widget, only what was before.
        (BY_WIDGET, step(50, "FN1", "say"), False),
        (BY_WIDGET, step(0, "FN1", "rec"), True),
        (BY_WIDGET, step(0, "FN2", "rec"), True),
        (BY_WIDGET, execution(50, "FN1", ended=True), False),
        (BY_WIDGET, execution(50, "FN2", ended=False), True),
        # Whose session was stale a task says that names the conference.
        (OF_STALE_SESSION, task(sid("CF4")), True),
        (OF_STALE_SESSION, task(None), False),
        (OF_STALE_SESSION, end(50, "CF4"), False),
        # A conference is only suspected while no recording of it is known.
        (BY_TWIML, suspicion("CF1"), False),
        (BY_TWIML, suspicion("CF2"), True),
    ],
)
def test_what_is_news_to_what_was_concluded(events, one_more, news):
    assert is_news(judged(events), one_more, len(events)) is news


# --------------------------------------------------------------------------- what the window joins, and what it means


def whole(events: list[Event]) -> Evidence:
    """The evidence of all events together, as if every one of them named one more thing."""
    linked = [msgspec.structs.replace(one, members=(*one.members, "link")) for one in events]
    return Evidence(conversation_of(fold([event(0, members=("link",)), *linked]), "link"))


NAMED: Final = st.lists(st.one_of(participants(), conferences(), twiml(), requests()), max_size=10)


def apart(evidence: Evidence, name: str, at_ms: int) -> bool:
    """Whether, of the conferences of a name that had begun, only the last could be in progress, as Twilio has it.

    Where an earlier one is not known to have ended before a later one that has ended too, a call may have been joined
    with the earlier one before the later one was seen; its conversation then knows nothing of the later one.
    """
    rooms = [names[name] for names in evidence._all_rooms().values() if name in names and names[name].first_ms <= at_ms]
    latest = max((room.first_ms for room in rooms), default=at_ms)
    return sum(room.end_ms is None or room.end_ms >= at_ms or room.first_ms == latest for room in rooms) <= 1


@given(NAMED)
@example([event(0, TwimlFact(sid("CA1"), "room")), event(120, ConferenceFact(sid("CF1"), "room", "start", None, None))])
def test_what_is_bound_by_a_name_is_in_one_conversation(events):
    """The window sees all conferences of an account, attribution those of one conversation: they mean the same one."""
    window, everything = fold(events), whole(events)
    for call, name, at_ms in everything.claims():
        if not everything.entered(call) and not apart(everything, name, at_ms):
            continue
        if call not in window.accounts[ACCOUNT].index:
            continue  # It is nailed up by now, and in no conversation.
        meant = everything.bound_conference(call, name, at_ms)
        evidence = Evidence(conversation_of(window, call))

        assert evidence.bound_conference(call, name, at_ms) == meant
        if meant is not None:
            assert conversation_of(window, call) is conversation_of(window, meant)


@few
@given(NAMED)
def test_twiml_binds_only_as_the_name_the_time_and_the_call_allow(events):
    evidence = whole(events)
    for call, name, at_ms in evidence.claims():
        conference = evidence.bound_conference(call, name, at_ms)
        if conference is None:
            continue
        names = evidence.names(conference)
        assert not names or name in names
        if evidence.entered(call):
            assert any(
                stay.conference == conference and stay.first_seen_ms >= at_ms - JOIN_SLACK_MS
                for stay in evidence.stays(call)
            )
        else:
            assert evidence.rooms(conference)[name].first_ms <= at_ms + CLAIM_REACH_MS


# --------------------------------------------------------------------------- the conference of a call


def presence(*stays: tuple[str, int | None, int | None]) -> Evidence:
    """One call's joins and leaves, as events: conference, entered, left."""
    call = sid("CA1")
    events = [event(0, members=(call,))]
    for conference, entered, left in stays:
        if entered is not None:
            events.append(event(entered, ParticipantFact(sid(conference), call, "join", None, None)))
        if left is not None:
            events.append(event(left, ParticipantFact(sid(conference), call, "leave", None, None)))
    return Evidence(conversation_of(fold(events), call))


@pytest.mark.parametrize(
    ("at", "conference"),
    [(-1, "CF1"), (0, "CF1"), (9, "CF1"), (10, "CF2"), (15, "CF2"), (20, "CF2"), (29, "CF2"), (30, "CF2"), (99, "CF2")],
)
def test_a_call_is_where_it_was_else_where_it_went_next_else_where_it_was_last(at, conference):
    evidence = presence(("CF1", 0, 10), ("CF2", 20, 30))

    assert evidence.conference_of(sid("CA1"), NOW_MS + at * 1000) == sid(conference)


def test_a_call_that_nobody_saw_in_a_conference_was_in_none():
    assert presence().conference_of(sid("CA1"), NOW_MS) is None
    assert presence(("CF1", 0, 10)).conference_of(sid("CA2"), NOW_MS) is None


def test_of_two_stays_at_one_time_the_later_begun_counts():
    assert presence(("CF1", 0, None), ("CF2", 10, 20)).conference_of(sid("CA1"), NOW_MS + 15_000) == sid("CF2")
    assert presence(("CF1", 0, None), ("CF2", 10, 20)).conference_of(sid("CA1"), NOW_MS + 25_000) == sid("CF1")


def test_an_end_that_is_stamped_before_a_call_was_seen_does_not_end_its_stay():
    call, held = sid("CA1"), sid("CF1")
    events = [
        event(30, ConferenceFact(held, None, "end", None, None)),
        event(40, ParticipantFact(held, call, "inside", None, None)),
        event(50, ParticipantFact(sid("CF2"), call, "join", None, None)),
    ]
    evidence = Evidence(conversation_of(fold(events), call))

    assert evidence.conference_of(call, NOW_MS + 45_000) == held


def test_a_leave_told_twice_is_one_leave():
    evidence = presence(("CF1", 0, 10), ("CF1", None, 11), ("CF2", 20, None))

    assert [(stay.enter_ms, stay.leave_ms) for stay in evidence.stays(sid("CA1"))] == [
        (NOW_MS, NOW_MS + 10_000),
        (NOW_MS + 20_000, None),
    ]


@few
@given(
    st.lists(
        st.tuples(st.sampled_from(["CF1", "CF2"]), st.none() | st.integers(0, 40), st.none() | st.integers(0, 40)),
        max_size=5,
    ),
    st.integers(-5, 45),
)
def test_the_conference_of_a_call_is_one_it_was_seen_in(stays, at):
    seen = {sid(name) for name, entered, left in stays if entered is not None or left is not None}
    found = presence(*stays).conference_of(sid("CA1"), NOW_MS + at * 1000)

    assert (found in seen) if seen else found is None


# --------------------------------------------------------------------------- the words


def test_the_two_slacks_and_the_reach_are_those_of_the_documents():
    assert (PROOF_SLACK_MS, JOIN_SLACK_MS, CLAIM_REACH_MS) == (10_000, 5_000, 120_000)


@pytest.mark.parametrize("source", START_SOURCES)
def test_a_source_is_known_in_any_case(source):
    for spelled in (source, source.lower(), source.upper()):
        assert canonical_source(spelled) == source


def test_a_source_that_nobody_knows_stays_as_it_came():
    assert canonical_source("someNewSource") == "someNewSource"
    assert canonical_source(None) is None


def test_every_status_has_a_rank():
    assert set(STATUS_RANK) == set(STATUSES)
    assert sorted(STATUSES, key=STATUS_RANK.__getitem__) == list(STATUSES)


def test_every_kind_of_fact_has_a_bit_of_its_own():
    bits: list[Any] = list(KIND.values())

    assert len(set(bits)) == len(bits) == 9
    assert all(bit.bit_count() == 1 for bit in bits)
