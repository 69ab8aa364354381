"""The policy judges by what is known, says when that is not enough, and never takes back what it said."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from monitor.commands.policy import Format, explain
from monitor.commands.replay import Format as ReplayFormat
from monitor.commands.replay import replay
from monitor.core.policy import (
    ABSENT,
    ALLOWED,
    BUILT_IN_DOCUMENT,
    BUILT_IN_POLICY,
    CONDITIONS,
    DISALLOWED,
    OPEN,
    OUTCOMES,
    UNDETERMINED,
    Answer,
    Hours,
    Policy,
    PolicyDocument,
    RuleDocument,
    Subject,
    Values,
    all_of,
    built_in_policy,
    compile_policy,
    covers,
    matcher,
)
from monitor.core.verdict import Verdict, decode_verdict
from monitor.inputs.policy_file import parse_policy

ACCOUNT = "AC0000000000000000000000000000aa01"
NOON = int(datetime(2026, 11, 4, 12, tzinfo=UTC).timestamp() * 1000)  # A Wednesday.
VIENNA = ZoneInfo("Europe/Vienna")
ATTRIBUTES = tuple(name for name in Subject.__struct_fields__ if name not in {"account", "alias", "started_ms"})


def known(*values: str) -> Values:
    return Values(values, complete=True)


def subject(**attributes: Values) -> Subject:
    return about({}, attributes)


def about(fixed: Mapping[str, object], attributes: Mapping[str, Values]) -> Subject:
    values: dict[str, object] = {"account": ACCOUNT, "alias": "main", "started_ms": NOON}
    values |= dict.fromkeys(ATTRIBUTES, ABSENT)
    return msgspec.convert(values | dict(fixed) | dict(attributes), Subject)


def policy(*rules: RuleDocument, default: str = DISALLOWED, when_open: str = UNDETERMINED) -> Policy:
    return compile_policy(PolicyDocument(rules=rules, default=default, when_open=when_open), b"")


def allow(name: str = "allowing", **when: tuple[str, ...]) -> RuleDocument:
    return RuleDocument(name=name, outcome=ALLOWED, when=_spelt(when))


def forbid(name: str = "forbidding", **when: tuple[str, ...]) -> RuleDocument:
    return RuleDocument(name=name, outcome=DISALLOWED, when=_spelt(when))


def _spelt(when: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name.rstrip("_"): values for name, values in when.items()}


# --- Judging ----------------------------------------------------------------------------------------------------------


def test_the_first_true_rule_decides() -> None:
    judged = policy(allow("first", cause=("dial_verb",)), forbid("second", cause=("dial_verb",))).judge(
        subject(cause=known("dial_verb"))
    )
    assert (judged.outcome, judged.rule) == (ALLOWED, "first")


def test_an_open_rule_with_another_outcome_keeps_a_later_true_one_from_deciding() -> None:
    rules = forbid(conference_name=("payments-*",)), allow(cause=("api_call_recording",))
    seen = {"cause": known("api_call_recording")}
    assert policy(*rules).judge(subject(conference_name=OPEN, **seen)).outcome is None
    assert policy(*rules).judge(subject(conference_name=ABSENT, **seen)).outcome == ALLOWED
    assert policy(*rules).judge(subject(conference_name=known("payments-7"), **seen)).outcome == DISALLOWED


def test_an_open_rule_with_the_same_outcome_delays_nothing_and_the_certain_rule_gives_its_name() -> None:
    rules = forbid("perhaps", queue=("vip",)), forbid("surely", cause=("sip_trunk",))
    judged = policy(*rules, default=ALLOWED).judge(subject(queue=OPEN, cause=known("sip_trunk")))
    assert (judged.outcome, judged.rule) == (DISALLOWED, "surely")
    judged = policy(rules[0]).judge(subject(queue=OPEN))
    assert (judged.outcome, judged.rule) == (DISALLOWED, "default")


def test_a_later_rule_that_is_open_does_not_matter_to_an_earlier_true_one() -> None:
    rules = allow(cause=("dial_verb",)), forbid(queue=("vip",))
    assert policy(*rules).judge(subject(cause=known("dial_verb"), queue=OPEN)).outcome == ALLOWED


def test_a_known_value_that_matches_is_certain_although_more_may_come() -> None:
    rule = policy(allow(queue=("support",)))
    assert rule.judge(subject(queue=Values(("sales", "support"), complete=False))).outcome == ALLOWED
    assert rule.judge(subject(queue=Values(("sales",), complete=False))).outcome is None
    assert rule.judge(subject(queue=Values(("sales",), complete=True))).outcome == DISALLOWED


def test_a_rule_asks_for_all_its_conditions_and_one_false_settles_it() -> None:
    rule = policy(allow(cause=("dial_verb",), queue=("support",)))
    assert rule.judge(subject(cause=known("dial_verb"), queue=known("sales"))).outcome == DISALLOWED
    assert rule.judge(subject(cause=OPEN, queue=known("sales"))).outcome == DISALLOWED
    assert rule.judge(subject(cause=known("dial_verb"), queue=OPEN)).outcome is None


def test_a_rule_without_conditions_is_true_of_everything() -> None:
    assert policy(allow()).judge(subject(cause=OPEN)).rule == "allowing"


def test_a_shadow_rule_is_named_and_never_decides() -> None:
    shadow = msgspec.structs.replace(allow("shadow", cause=("dial_verb",)), mode="shadow")
    judged = policy(shadow).judge(subject(cause=known("dial_verb")))
    assert (judged.outcome, judged.rule, judged.shadow) == (DISALLOWED, "default", ("shadow",))
    judged = policy(shadow).judge(subject(cause=OPEN))
    assert (judged.outcome, judged.shadow) == (DISALLOWED, ())


def test_severity_is_the_rules_for_disallowed_a_warning_for_undetermined_and_none_for_allowed() -> None:
    mild = msgspec.structs.replace(forbid(), severity="info")
    unsure = RuleDocument(name="unsure", outcome=UNDETERMINED)
    severities = [policy(rule).judge(subject()).severity for rule in (forbid(), mild, unsure, allow())]
    assert severities == ["critical", "info", "warning", None]


def test_the_deciding_rule_gives_reason_team_and_runbook() -> None:
    rule = RuleDocument(
        name="r", outcome=DISALLOWED, reason="So.", team="voice", runbook_url="https://runbooks.example.com/r"
    )
    judged = policy(rule).judge(subject())
    assert (judged.reason, judged.team, judged.runbook_url) == ("So.", "voice", "https://runbooks.example.com/r")


@pytest.mark.parametrize(
    ("when_open", "truncated", "outcome", "severity"),
    [
        (UNDETERMINED, False, UNDETERMINED, "warning"),
        (ALLOWED, False, ALLOWED, None),
        (DISALLOWED, True, DISALLOWED, "critical"),
        (ALLOWED, True, UNDETERMINED, "warning"),
    ],
)
def test_what_stays_open_is_what_the_policy_says_but_never_allowed_on_truncated_evidence(
    when_open: str, truncated: bool, outcome: str, severity: str | None
) -> None:
    settled = policy(when_open=when_open).settle(truncated=truncated)
    assert (settled.outcome, settled.rule, settled.severity) == (outcome, "when_open", severity)


# --- Conditions -------------------------------------------------------------------------------------------------------


def test_every_condition_reads_the_attribute_of_its_name() -> None:
    """Closed words are compared as such, so each condition is tried with one of its own."""
    for name, condition in CONDITIONS.items():
        value = condition.words[0] if condition.words else "https://a.test/x" if condition.url else "a-word"
        field = {"account": "alias", "from": "from_"}.get(name, name)
        filled: dict[str, object] = {field: value if field == "alias" else known(value)}
        rule = policy(RuleDocument(name="r", outcome=ALLOWED, when={name: (value,)}))
        assert rule.judge(about(filled, {})).outcome == ALLOWED, name
        assert rule.judge(about({"alias": None}, {})).outcome == DISALLOWED, name


@pytest.mark.parametrize("value", [ACCOUNT, ACCOUNT.replace("aa01", "AA01"), "main", "ma*"])
def test_an_account_is_named_by_its_sid_in_any_case_or_by_its_alias(value: str) -> None:
    assert policy(allow(account=(value,))).judge(subject()).outcome == ALLOWED


def test_an_alias_differs_by_case() -> None:
    assert policy(allow(account=("Main",))).judge(subject()).outcome == DISALLOWED


def test_the_case_of_a_start_source_is_ignored() -> None:
    assert matcher("start_source", ["startcallrecordingapi"])("StartCallRecordingAPI")


def test_outbound_stands_for_both_ways_of_being_outbound_in_either_spelling() -> None:
    matches = matcher("direction", ["outbound"])
    assert all(map(matches, ["outbound", "outbound-api", "outbound-dial", "outbound_dial"]))
    assert not matches("inbound")
    assert not matcher("direction", ["outbound-api"])("outbound-dial")


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("payments-*", "payments-7", True),
        ("payments-*", "payments-", True),
        ("payments-*", "Payments-7", False),
        ("payments-*", "my payments-7", False),
        ("*-vienna", "support-vienna", True),
        ("*-vienna", "support-vienna-2", False),
        ("a*b*c", "a--b--b--c", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("*", "", True),
        ("a**b", "ab", True),
        ("room.1", "room-1", False),
        ("room[1]", "room[1]", True),
        ("room?", "room1", False),
        ("two\nlines*", "two\nlines and\nmore", True),
        ("exact", "exact\n", False),
        ("start*", "start\nand more", True),
    ],
)
def test_a_star_stands_for_any_text_and_nothing_else_is_special(pattern: str, text: str, answer: bool) -> None:
    assert matcher("conference_name", [pattern])(text) is answer


@pytest.mark.parametrize(
    ("pattern", "url", "answer"),
    [
        ("https://calls.example.com/*", "https://calls.example.com/booking?token=1", True),
        ("https://calls.example.com/booking", "https://calls.example.com/booking?token=1", True),
        ("https://calls.example.com/booking?token=1", "https://calls.example.com/booking?token=1", True),
        ("https://calls.example.com/booking?token=1", "https://calls.example.com/booking", False),
        ("https://calls.example.com/booking", "https://calls.example.com/booking/2", False),
        ("https://Calls.Example.com/*", "HTTPS://calls.example.COM/a", True),
        ("https://calls.example.com/Booking", "https://calls.example.com/booking", False),
        ("https://calls.example.com/*", "https://calls.example.com.elsewhere.test/", False),
        ("https://*.example.com/*", "https://a.b.example.com/x", True),
        ("https://*.example.com/*", "https://elsewhere.test/.example.com/x", False),
        ("https://*.example.com/*", "https://elsewhere.test?.example.com/x", False),
        ("https://*.example.com/*", "https://elsewhere.test#.example.com/x", False),
        ("https://Calls.Example.com*", "https://calls.example.com/x", True),
        ("*://calls.example.com/*", "http://calls.example.com/x", True),
        ("*://calls.example.com/*", "http://elsewhere.test/://calls.example.com/x", False),
        ("*/hooks/recording", "https://anything.test/hooks/recording?x=/y", True),
    ],
)
def test_a_callback_url_matches_with_and_without_its_query_and_its_host_cannot_be_feigned(
    pattern: str, url: str, answer: bool
) -> None:
    assert matcher("callback_url", [pattern])(url) is answer


def naive(pattern: str, text: str) -> bool:
    """What a glob means, said as plainly as can be."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive(pattern[1:], text[place:]) for place in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and naive(pattern[1:], text[1:])


GLOBS = st.text("ab*", max_size=7)


@given(st.lists(GLOBS, min_size=1, max_size=3), st.text("ab\n", max_size=9))
def test_a_compiled_glob_is_a_glob(patterns: list[str], text: str) -> None:
    assert matcher("conference_name", patterns)(text) is any(naive(pattern, text) for pattern in patterns)


def test_a_glob_of_many_stars_gives_up_on_a_long_text() -> None:
    """With ``.*`` for each star this would try 2,000 to the power of 40 places: it ends, or it never does."""
    text = "a" * 2_000
    assert not matcher("conference_name", ["*a" * 40 + "*b"])(text)
    assert not matcher("callback_url", ["https://" + "*a" * 40 + "*b/*" + "c*" * 40 + "d"])(
        "https://" + text + "/" + text
    )


# --- Times ------------------------------------------------------------------------------------------------------------


def in_hours(hours: Iterable[Hours], local: datetime) -> bool:
    rule = RuleDocument(name="r", outcome=ALLOWED, hours=tuple(hours))
    start = int(local.timestamp() * 1000)
    return policy(rule).judge(about({"started_ms": start}, {})).outcome == ALLOWED


@pytest.mark.parametrize(
    ("day", "hour", "minute", "answer"),
    [(2, 7, 59, False), (2, 8, 0, True), (2, 17, 59, True), (2, 18, 0, False), (6, 12, 0, True), (7, 12, 0, False)],
)
def test_hours_hold_from_their_first_minute_to_before_their_last_on_their_days(
    day: int, hour: int, minute: int, answer: bool
) -> None:
    office = Hours((0, 1, 2, 3, 4), 8 * 60, 18 * 60, VIENNA)  # 2026-11-02 was a Monday.
    assert in_hours([office], datetime(2026, 11, day, hour, minute, tzinfo=VIENNA)) is answer


@pytest.mark.parametrize(
    ("day", "hour", "answer"),
    [(8, 21, False), (8, 22, True), (9, 5, True), (9, 6, False), (9, 22, False), (10, 5, False)],
)
def test_hours_past_midnight_belong_to_the_day_they_begin_on_even_from_sunday_to_monday(
    day: int, hour: int, answer: bool
) -> None:
    night = Hours((6,), 22 * 60, 6 * 60, VIENNA)  # 2026-11-08 was a Sunday.
    assert in_hours([night], datetime(2026, 11, day, hour, tzinfo=VIENNA)) is answer


def test_hours_are_those_of_the_wall_clock_before_and_after_it_is_changed() -> None:
    """In Vienna the clock went from 02:00 to 03:00 on 2026-03-29 and back from 03:00 to 02:00 on 2026-10-25."""
    morning = [Hours((6,), 2 * 60, 3 * 60, VIENNA)]
    assert in_hours(morning, datetime(2026, 10, 25, 0, 30, tzinfo=UTC))  # 02:30, for the first time.
    assert in_hours(morning, datetime(2026, 10, 25, 1, 30, tzinfo=UTC))  # 02:30, for the second.
    assert not in_hours(morning, datetime(2026, 10, 25, 2, 30, tzinfo=UTC))
    assert not in_hours(morning, datetime(2026, 3, 29, 0, 59, tzinfo=UTC))  # 01:59, and a minute later it is 03:00.
    assert not in_hours(morning, datetime(2026, 3, 29, 1, 0, tzinfo=UTC))
    office = [Hours((2,), 8 * 60, 9 * 60, VIENNA)]
    assert in_hours(office, datetime(2026, 7, 1, 6, 0, tzinfo=UTC))
    assert in_hours(office, datetime(2026, 12, 2, 7, 0, tzinfo=UTC))
    assert not in_hours(office, datetime(2026, 12, 2, 6, 0, tzinfo=UTC))


def test_several_hours_in_several_zones_are_any_of_them() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    hours = [
        Hours((2,), 8 * 60, 9 * 60, VIENNA),
        Hours((2,), 8 * 60, 9 * 60, tokyo),
        Hours((2,), 20 * 60, 1440, VIENNA),
    ]
    for local in (datetime(2026, 11, 4, 8, 30, tzinfo=VIENNA), datetime(2026, 11, 4, 8, 30, tzinfo=tokyo)):
        assert in_hours(hours, local)
    assert in_hours(hours, datetime(2026, 11, 4, 23, 59, tzinfo=VIENNA))
    assert not in_hours(hours, datetime(2026, 11, 4, 12, 0, tzinfo=VIENNA))


@pytest.mark.parametrize("started_ms", [-(10**18), 10**18])
def test_a_start_beyond_every_calendar_is_judged_all_the_same(started_ms: int) -> None:
    rule = RuleDocument(name="r", outcome=ALLOWED, hours=(Hours((0,), 0, 1440, ZoneInfo("Pacific/Kiritimati")),))
    assert policy(rule).judge(about({"started_ms": started_ms}, {})).outcome in OUTCOMES


def test_a_rule_expires_by_the_start_of_the_recording() -> None:
    rule = RuleDocument(name="r", outcome=ALLOWED, expires_ms=NOON)
    assert policy(rule).judge(about({"started_ms": NOON - 1}, {})).outcome == ALLOWED
    assert policy(rule).judge(about({"started_ms": NOON}, {})).outcome == DISALLOWED


# --- The built-in policy ----------------------------------------------------------------------------------------------


def test_the_built_in_policy_is_the_text_its_hash_is_of() -> None:
    document, warnings = parse_policy(BUILT_IN_POLICY.encode(), "built-in", now=datetime(2026, 11, 21, tzinfo=UTC))
    assert document == BUILT_IN_DOCUMENT
    assert warnings == ()
    assert built_in_policy().hash == compile_policy(document, BUILT_IN_POLICY.encode()).hash


@pytest.mark.parametrize(
    ("cause", "status", "outcome", "rule", "severity"),
    [
        (known("api_call_recording"), "completed", ALLOWED, "explicit-api-start", None),
        (known("api_call_recording"), "absent", ALLOWED, "explicit-api-start", None),
        (known("dial_verb"), "completed", DISALLOWED, "default", "critical"),
        (known("dial_verb"), "absent", DISALLOWED, "no-media-kept", "warning"),
        (known("conference_api"), "failed", DISALLOWED, "no-media-kept", "warning"),
        (OPEN, "absent", None, "when_open", None),
        (OPEN, "completed", None, "when_open", None),
    ],
)
def test_the_built_in_policy_allows_explicit_starts_alone_and_only_warns_of_what_left_no_media(
    cause: Values, status: str, outcome: str | None, rule: str, severity: str | None
) -> None:
    judged = built_in_policy().judge(subject(cause=cause, status=known(status)))
    assert (judged.outcome, judged.rule, judged.severity) == (outcome, rule, severity)


# --- Properties -------------------------------------------------------------------------------------------------------

# Few values, so that rules and recordings meet.
UNIVERSE = ("a", "b", "ab")
FREE = ("conference_name", "queue", "to")
DAYS = st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days)))
HOURS = st.builds(
    Hours, DAYS, st.sampled_from([0, 480, 1200]), st.sampled_from([360, 1080, 1440]), st.sampled_from([VIENNA, UTC])
)


@st.composite
def rules(draw: st.DrawFn, name: str, *, names: tuple[str, ...] = FREE) -> RuleDocument:
    conditions = draw(st.sets(st.sampled_from(names), max_size=2)) if names else set()
    patterns = st.lists(st.text("ab*", min_size=1, max_size=3), min_size=1, max_size=2).map(tuple)
    return RuleDocument(
        name=name,
        outcome=draw(st.sampled_from(OUTCOMES)),
        when={condition: draw(patterns) for condition in sorted(conditions)},
        hours=tuple(draw(st.lists(HOURS, max_size=1))),
        expires_ms=draw(st.sampled_from([None, None, NOON, NOON + 86_400_000])),
        mode=draw(st.sampled_from(["enforce", "enforce", "enforce", "shadow"])),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    documents = tuple(draw(rules(f"r{index}")) for index in range(draw(st.integers(0, 4))))
    return policy(*documents, default=draw(st.sampled_from(OUTCOMES)))


VALUES = st.builds(
    lambda values, complete: Values(tuple(sorted(values)), complete=complete),
    st.sets(st.sampled_from(UNIVERSE), max_size=2),
    st.booleans(),
)


@st.composite
def subjects(draw: st.DrawFn) -> Subject:
    start = NOON + 3_600_000 * draw(st.integers(-30, 30))
    return about({"started_ms": start}, {name: draw(VALUES) for name in FREE})


def completions(one: Subject) -> Iterable[Subject]:
    """Every way in which the open values may turn out: what is known, and any more of all there is."""
    choices = []
    for name in FREE:
        values: Values = getattr(one, name)
        more = [] if values.complete else [value for value in UNIVERSE if value not in values.known]
        sets = [chosen for size in range(len(more) + 1) for chosen in itertools.combinations(more, size)]
        choices.append([Values(values.known + chosen, complete=True) for chosen in sets])
    for combination in itertools.product(*choices):
        yield msgspec.structs.replace(one, **dict(zip(FREE, combination, strict=True)))


def possible_outcomes(answers: Iterable[Answer], default: str) -> set[str]:
    """The outcomes that first-true-decides gives when every open answer is tried both ways."""
    outcomes = {default}
    for answer in reversed([answer for answer in answers if answer.mode != "shadow"]):
        if answer.answer:
            outcomes = {answer.outcome}
        elif answer.answer is None:
            outcomes |= {answer.outcome}
    return outcomes


@given(policies(), subjects())
def test_filling_in_what_is_open_never_changes_a_decided_outcome(one: Policy, recording: Subject) -> None:
    outcome = one.judge(recording).outcome
    outcomes = {one.judge(complete).outcome for complete in completions(recording)}
    assert None not in outcomes
    if outcome is not None:
        assert outcomes == {outcome}


@given(policies(), subjects())
def test_an_outcome_is_decided_exactly_when_no_open_rule_could_change_it(one: Policy, recording: Subject) -> None:
    possible = possible_outcomes(one.explain(recording), one.default)
    outcome = one.judge(recording).outcome
    assert outcome == (possible.pop() if len(possible) == 1 else None)


@given(st.data(), subjects())
def test_where_each_rule_asks_for_something_else_open_means_that_it_can_turn_out_two_ways(
    data: st.DataObject, recording: Subject
) -> None:
    """Rules that share an attribute may hang together, which is not looked for: then *open* is the careful answer."""
    patterns = st.sampled_from([("a",), ("b",), ("a", "b")])
    documents = [
        RuleDocument(name=name, outcome=data.draw(st.sampled_from(OUTCOMES)), when={name: data.draw(patterns)})
        for name in data.draw(st.permutations(FREE))
    ]
    one = policy(*documents, default=data.draw(st.sampled_from(OUTCOMES)))
    outcomes = {one.judge(complete).outcome for complete in completions(recording)}
    assert one.judge(recording).outcome == (outcomes.pop() if len(outcomes) == 1 else None)


@given(policies(), subjects())
def test_explaining_gives_for_each_rule_what_all_its_conditions_give(one: Policy, recording: Subject) -> None:
    for answer, rule in zip(one.explain(recording), one.rules, strict=True):
        assert answer.answer is rule.answer(recording)
        assert answer.answer is all_of(condition for _, condition in answer.conditions)


@given(rules("earlier"), rules("later"), subjects())
def test_a_rule_said_to_cover_another_is_true_wherever_that_one_is(
    earlier: RuleDocument, later: RuleDocument, recording: Subject
) -> None:
    if covers(earlier, later):
        one, other = policy(earlier, later).rules
        for complete in completions(recording):
            assert one.answer(complete) or not other.answer(complete)


@given(GLOBS.filter(bool), GLOBS.filter(bool))
def test_one_glob_covers_another_exactly_when_no_text_tells_them_apart(earlier: str, later: str) -> None:
    """A third letter stands for all that neither pattern has; short texts suffice for short patterns."""
    wide, narrow = matcher("queue", [earlier]), matcher("queue", [later])
    texts = (later.replace("*", filling) for filling in ("", "a", "b", "c", "cc", "ab", "ba"))
    told_apart = any(narrow(text) and not wide(text) for text in texts)
    assert covers(allow(queue=(earlier,)), allow(queue=(later,))) is not told_apart


URL_PARTS = st.lists(st.sampled_from(["a", "*", "/", "?", "."]), max_size=5).map("".join)


@given(URL_PARTS, URL_PARTS, st.lists(URL_PARTS.map(lambda text: text.replace("*", "b")), min_size=5, max_size=5))
def test_one_url_pattern_said_to_cover_another_matches_all_it_matches(
    earlier: str, later: str, urls: list[str]
) -> None:
    earlier, later = "https://" + earlier, "https://" + later
    if covers(allow(callback_url=(earlier,)), allow(callback_url=(later,))):
        wide, narrow = matcher("callback_url", [earlier]), matcher("callback_url", [later])
        for filling in ("", "a", "b?", "?b", "a/", ".a"):
            urls = [*urls, later.removeprefix("https://").replace("*", filling)]
        for url in urls:
            assert wide("https://" + url) or not narrow("https://" + url)


def test_a_url_pattern_whose_star_may_hold_the_query_is_not_covered_by_its_part_before_the_query() -> None:
    wide, narrow, url = "https://a.test/*b", "https://a.test/*b?c", "https://a.test/x?b?c"
    assert matcher("callback_url", [narrow])(url)
    assert not matcher("callback_url", [wide])(url)
    assert not covers(allow(callback_url=(wide,)), allow(callback_url=(narrow,)))
    assert covers(allow(callback_url=("https://a.test/b",)), allow(callback_url=("https://a.test/b?c*",)))


def test_outbound_covers_each_way_of_being_outbound_and_neither_covers_it() -> None:
    assert covers(allow(direction=("outbound",)), allow(direction=("outbound-api", "outbound_dial")))
    assert not covers(allow(direction=("outbound-api", "outbound-dial")), allow(direction=("outbound",)))


def test_hours_of_one_zone_cover_those_within_them_and_a_whole_week_covers_every_zone() -> None:
    def at(*hours: Hours) -> RuleDocument:
        return RuleDocument(name="r", outcome=ALLOWED, hours=hours)

    office, noon = Hours((0, 1, 2, 3, 4), 480, 1080, VIENNA), Hours((2,), 720, 780, VIENNA)
    assert covers(at(office), at(noon))
    assert not covers(at(noon), at(office))
    assert not covers(at(office), at(Hours((2,), 720, 780, UTC)))
    assert not covers(at(office), at())
    assert covers(at(Hours(tuple(range(7)), 0, 1440, UTC)), at(noon))
    assert covers(at(), at(noon))


def test_a_rule_that_expires_covers_only_what_expires_no_later() -> None:
    def until(expires_ms: int | None) -> RuleDocument:
        return RuleDocument(name="r", outcome=ALLOWED, expires_ms=expires_ms)

    assert covers(until(NOON), until(NOON))
    assert covers(until(None), until(NOON))
    assert not covers(until(NOON), until(None))
    assert not covers(until(NOON), until(NOON + 1))


# --- The command ------------------------------------------------------------------------------------------------------

SCENARIOS = sorted((Path(__file__).parent / "samples" / "scenarios").glob("*.jsonl"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_explaining_judges_every_sample_recording_as_replay_does(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay([path], output=ReplayFormat.JSONL)
    verdicts = list(map(decode_verdict, capsys.readouterr().out.encode().splitlines()))
    assert verdicts
    explain([verdict.key for verdict in verdicts], [path], format_=Format.JSON)
    for verdict, line in zip(verdicts, capsys.readouterr().out.splitlines(), strict=True):
        told = msgspec.json.decode(line)
        assert msgspec.convert(told["verdict"], Verdict) == verdict
        if verdict.kind == "suspicion":
            assert told["rules"] == []
        else:
            assert (told["outcome"], told["rule"]) in [(verdict.outcome, verdict.rule), (None, "when_open")]
            assert [rule["rule"] for rule in told["rules"]] == ["explicit-api-start", "no-media-kept"]


def test_explaining_shows_what_was_open_while_the_window_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    [scenario] = [path for path in SCENARIOS if path.stem.startswith("12_")]
    lines = [line for line in scenario.read_text().splitlines() if ".recording.processed" in line]
    path.write_text(lines[0] + "\n")
    recording = msgspec.json.decode(lines[0])["data"]["request"]["parameters"]["RecordingSid"]
    policy_path = tmp_path / "policy.yaml"
    policy_path.write_text(
        "rules:\n"
        '  - {name: payments, outcome: disallowed, when: {conference_name: "payments-*"}}\n'
        "  - {name: others, outcome: allowed}\n"
    )
    explain([recording], [path], None, policy_path, end=False)
    told = capsys.readouterr().out
    assert "conference_name: open (none yet)" in told
    assert "A rule that is open could still change the outcome" in told
    explain([recording], [path], None, policy_path)
    told = capsys.readouterr().out
    assert "conference_name: false (none)" in told
    assert "Rule 'others' decides: allowed." in told


def test_explaining_a_recording_that_is_not_there_is_a_no_and_a_file_in_place_of_a_sid_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit) as exited:
        explain(["RE0"], SCENARIOS[:1])
    assert exited.value.exit_code == 1
    with pytest.raises(typer.Exit) as exited:
        explain(["events.jsonl"], SCENARIOS[:1])
    assert exited.value.exit_code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "RE0: not in the files" in told.err
    assert "Give --from before each file" in told.err
