"""A policy file is read as it is meant, or refused with everything that is wrong, each with its line and a remedy."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from monitor.commands.policy import Format, check
from monitor.core.policy import CONDITIONS, Hours, PolicyDocument, RuleDocument, built_in_policy
from monitor.inputs.policy_file import PolicyError, load_policy, parse_policy

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ACCOUNT = "AC0000000000000000000000000000aa01"
EXAMPLE = Path(__file__).parents[1] / "deploy" / "policy.example.yaml"


def read(text: str) -> PolicyDocument:
    document, warnings = parse_policy(textwrap.dedent(text).encode(), "policy.yaml", now=NOW)
    assert not warnings
    return document


def warned(text: str) -> list[str]:
    _, warnings = parse_policy(textwrap.dedent(text).encode(), "policy.yaml", now=NOW)
    return list(map(str, warnings))


def refused(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(textwrap.dedent(text).encode(), "policy.yaml", now=NOW)
    assert str(caught.value).splitlines() == list(map(str, caught.value.problems))
    return list(map(str, caught.value.problems))


def one_rule(when: str, *more: str) -> str:
    """A policy of one rule, its conditions on line 4 and what else it has from line 5."""
    lines = ["rules:", "  - name: r", "    outcome: allowed", f"    when: {when}", *(f"    {line}" for line in more)]
    return "\n".join(lines)


def condition(when: str) -> RuleDocument:
    [rule] = read(one_rule(when)).rules
    return rule


# --- What is read -----------------------------------------------------------------------------------------------------


def test_the_example_policy_is_read_without_a_warning() -> None:
    document, warnings = parse_policy(EXAMPLE.read_bytes(), "policy.example.yaml", now=NOW)
    assert warnings == ()
    assert (document.name, document.mode) == ("contact-centre", "observe")


def test_without_a_file_the_built_in_policy_holds() -> None:
    loaded = load_policy(None)
    assert (loaded.policy.hash, loaded.policy.mode, loaded.warnings) == (built_in_policy().hash, "enforce", ())


def test_the_hash_is_of_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"policy: p\n")
    first = load_policy(path).policy
    assert first.hash == "sha256:d38191fc72f6ebc185f7ede3301060b66474443b41d8790804842fdde3ccc9d8"
    path.write_bytes(b"policy: p\r\n")
    assert load_policy(path).policy.hash != first.hash


def test_what_a_policy_leaves_out_is_enforced_disallowed_and_undetermined() -> None:
    document = read("policy: p")
    assert (document.mode, document.default, document.when_open) == ("enforce", "disallowed", "undetermined")
    assert document.rules == ()


def test_every_key_of_a_rule_is_read() -> None:
    [rule] = read("""
        rules:
          - name: r
            outcome: disallowed
            when: {cause: [dial_verb, record_verb], from: "+4312*", account: main}
            severity: info
            reason: Over
              two lines.
            team: voice
            runbook_url: https://runbooks.example.com/r
            expires: 2027-01-31
            mode: shadow
    """).rules
    assert rule == RuleDocument(
        name="r",
        outcome="disallowed",
        when={"cause": ("dial_verb", "record_verb"), "from": ("+4312*",), "account": ("main",)},
        severity="info",
        reason="Over two lines.",
        team="voice",
        runbook_url="https://runbooks.example.com/r",
        expires_ms=int(datetime(2027, 2, 1, tzinfo=UTC).timestamp() * 1000),
        mode="shadow",
    )


def test_every_condition_can_be_written() -> None:
    for name, known in CONDITIONS.items():
        value = known.words[0] if known.words else known.usual[0] if known.usual else "https://a.test/*"
        assert condition(f'{{{name}: "{value}"}}').when == {name: (value,)}, name


def test_a_number_stands_for_its_digits_where_text_is_free() -> None:
    assert condition("{conference_name: 1234, to: [+431234567, 5550]}").when == {
        "conference_name": ("1234",),
        "to": ("+431234567", "5550"),
    }


@pytest.mark.parametrize(
    ("written", "until"),
    [
        ("2027-12-31", datetime(2028, 1, 1, tzinfo=UTC)),
        ('"2027-12-31"', datetime(2028, 1, 1, tzinfo=UTC)),
        ("2027-12-31T18:00:00Z", datetime(2027, 12, 31, 18, tzinfo=UTC)),
        ("2027-12-31 18:00:00+01:00", datetime(2027, 12, 31, 17, tzinfo=UTC)),
    ],
)
def test_a_date_counts_to_its_end_and_an_instant_to_itself(written: str, until: datetime) -> None:
    [rule] = read(one_rule("{cause: dial_verb}", f"expires: {written}")).rules
    assert rule.expires_ms == int(until.timestamp() * 1000)


@pytest.mark.parametrize(
    ("written", "hours"),
    [
        ('{days: [mon-fri], from: "08:00", to: "18:00", zone: Europe/Vienna}', (range(5), 480, 1080)),
        ("{days: sat, from: 8:00, to: 18:00, zone: Europe/Vienna}", ([5], 480, 1080)),
        ("{days: [Sat-mon, wednesday], zone: Europe/Vienna}", ([0, 2, 5, 6], 0, 1440)),
        ("{from: 22:00, to: 06:00, zone: Europe/Vienna}", (range(7), 1320, 360)),
        ("{from: 22:00, zone: Europe/Vienna}", (range(7), 1320, 1440)),
    ],
)
def test_hours_are_read_as_days_and_minutes(written: str, hours: tuple[list[int], int, int]) -> None:
    days, begin, end = hours
    expected = Hours(tuple(days), begin, end, ZoneInfo("Europe/Vienna"))
    assert condition(f"{{hours: {written}}}").hours == (expected,)
    assert condition(f"{{hours: [{written}]}}").hours == (expected,)


# --- What is refused --------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    assert refused("""\
        polcy: p
        mode: warn
        rules:
          - name: a
            outcome: allow
            when: {cuase: dial_verb}
          - outcome: allowed
            when: {cause: dail_verb}
    """) == [
        "policy.yaml:1: unknown key 'polcy'. Did you mean 'policy'?",
        "policy.yaml:2: 'mode' cannot be 'warn'. Known are enforce and observe",
        "policy.yaml:5: rule 'a': 'outcome' cannot be 'allow'. Did you mean 'allowed'?",
        "policy.yaml:6: rule 'a': unknown key 'cuase'. Did you mean 'cause'?",
        "policy.yaml:7: rule 'number 2': it has no name. Add 'name:'; verdicts, metrics and alerts show it",
        "policy.yaml:8: rule 'number 2': 'dail_verb' is no known cause. Did you mean 'dial_verb'?",
    ]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "the file is empty"),
        ("- a", 1, "a policy is a mapping, not a list"),
        ("a: [", 1, "not readable as YAML"),
        ("rules: {a: b}", 1, "'rules' is a list, not a mapping"),
        ("rules:\n  - r", 2, "a rule is a mapping, not text"),
        ("policy: 7", 1, "'policy' takes text, not a number. Put it in quotes"),
        ("default: no", 1, "'default' cannot be 'no'"),
        ("rules:\n  - name: default\n    outcome: allowed", 2, "the name is taken"),
        ("rules:\n  - name: when_open\n    outcome: allowed", 2, "the name is taken"),
        ("rules:\n  - name: suspicion\n    outcome: allowed", 2, "the name is taken"),
        ("rules:\n  - name: a b\n    outcome: allowed", 2, "not fit for a label"),
        ("rules:\n  - name: from-436641234567\n    outcome: allowed", 2, "holds a long number"),
        ("rules:\n  - name: r", 2, "it has no outcome"),
        ("rules:\n  - {name: r, outcome: allowed, cause: dial_verb}", 2, "It belongs under 'when'"),
        (one_rule("{cause: dial_verb, team: x}"), 4, "It belongs to the rule itself"),
        (one_rule("dial_verb"), 4, "'when' is a mapping of conditions, not text"),
        (one_rule("{cause: []}"), 4, "an empty list, which matches nothing"),
        (one_rule("{queue: ''}"), 4, "an empty value"),
        (one_rule("{queue: true}"), 4, "takes text, not true or false. Put it in quotes"),
        (one_rule("{queue: [[a]]}"), 4, "takes text, not a list"),
        (one_rule("{queue: ~}"), 4, "takes text, not nothing"),
        (one_rule(f"{{queue: {'x' * 501}}}"), 4, "more than 500"),
        (one_rule("{status: complete}"), 4, "Did you mean 'completed'?"),
        (one_rule("{cause: API-call-recording}"), 4, "Did you mean 'api_call_recording'?"),
        (one_rule("{found_by: webhook}"), 4, "Known are stream, verb and listing"),
        (one_rule('{cause: "flex_c*"}'), 4, "takes words, not patterns. Write [flex_call_recording, flex_conference]"),
        (one_rule("{account: AC00000000000000000000}"), 4, "the SID is not whole: 20 digits"),
        (one_rule(f"{{queue: {ACCOUNT}}}"), 4, "The SID of a queue begins with WQ"),
        (one_rule("{callback_url: calls.example.com/*}"), 4, "can never match: a URL begins with http"),
        (one_rule("{cause: dial_verb}", "severity: high"), 5, "'severity' cannot be 'high'"),
        (one_rule("{cause: dial_verb}", "mode: observe"), 5, "Known are enforce and shadow"),
        (one_rule("{cause: dial_verb}", "expires: 2026-02-30"), 5, "'2026-02-30' is no date"),
        (one_rule("{cause: dial_verb}", "expires: 9999-12-31"), 5, "'9999-12-31' is no date"),
        (one_rule("{cause: dial_verb}", "expires: 20271231"), 5, "a number is no date"),
        (one_rule("{cause: dial_verb}", "expires: 2027-12-31T18:00:00"), 5, "no offset from UTC"),
        (one_rule("{cause: dial_verb}", "runbook_url: runbooks/r"), 5, "no address"),
        (one_rule("{cause: dial_verb}", "runbook_url: https://u:p@a.example.com/r"), 5, "no address"),
        (one_rule("{cause: dial_verb}", "reason: Ask +43 1 234 56 78."), 5, "holds a telephone number"),
        (one_rule("{hours: office}"), 4, "'hours' is a mapping, not text"),
        (one_rule("{hours: {days: mon}}"), 4, "have no time zone"),
        (one_rule("{hours: {zone: UTC}}"), 4, "neither days nor times"),
        (one_rule("{hours: {days: mon, zone: Europe/Wien}}"), 4, "Did you mean 'Europe/Vienna'?"),
        (one_rule("{hours: {days: mon, zone: Europe}}"), 4, "is no time zone"),
        (one_rule("{hours: {days: mon, zone: ../etc/passwd}}"), 4, "is no time zone"),
        (one_rule("{hours: {days: mon, zone: localtime}}"), 4, "is no time zone"),
        (one_rule("{hours: {days: mo-fr, zone: UTC}}"), 4, "'mo-fr' is no day"),
        (one_rule("{hours: {days: [], zone: UTC}}"), 4, "an empty list"),
        (one_rule('{hours: {from: "24:01", zone: UTC}}'), 4, "'24:01' is no time of day"),
        (one_rule("{hours: {from: 8, to: 18, zone: UTC}}"), 4, "8 is no time of day"),
        (one_rule('{hours: {from: "08:00", to: "08:00", zone: UTC}}'), 4, "end when they begin"),
        (one_rule('{hours: {from: "24:00", to: "08:00", zone: UTC}}'), 4, "cannot begin at 24:00"),
        (one_rule("{cause: dial_verb, start_source: RecordVerb}"), 4, "it can never apply: no cause of it"),
        (one_rule("{cause: unknown_source, start_source: [dialverb]}"), 4, "it can never apply: no cause of it"),
    ],
)
def test_what_is_wrong_is_refused_on_its_line(text: str, line: int, says: str) -> None:
    problems = refused(text)
    assert any(problem.startswith(f"policy.yaml:{line}: ") and says in problem for problem in problems), problems


def test_problems_come_in_the_order_of_their_lines_in_whatever_order_the_conditions_are_asked() -> None:
    problems = refused(one_rule("", "  status: x", "  cause: x", "severity: x", "reason: 7"))
    assert [problem.split(":")[1] for problem in problems] == ["5", "6", "7", "8"]


def test_a_rule_name_used_twice_is_refused_with_the_line_of_the_first() -> None:
    [problem] = refused("""\
        rules:
          - {name: a, outcome: allowed, when: {cause: dial_verb}}
          - {name: a, outcome: allowed, when: {cause: record_verb}}
    """)
    assert problem.startswith("policy.yaml:3: rule 'a': the rule on line 2 has the same name")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("{}", "{cause: dial_verb}"),
        ('{account: "*"}', "{cause: dial_verb}"),
        ("{cause: [dial_verb, record_verb]}", "{cause: dial_verb, queue: support}"),
        ('{conference_name: "pay*"}', '{conference_name: ["payments-*", pay]}'),
        ("{start_source: dialverb}", "{start_source: DialVerb}"),
        ('{callback_url: "https://a.test/*"}', '{callback_url: "https://A.test/x?y=*"}'),
        ("{hours: {days: mon-fri, zone: UTC}}", "{hours: {days: tue, from: 08:00, to: 09:00, zone: UTC}}"),
    ],
)
def test_a_rule_that_an_earlier_one_leaves_nothing_to_is_refused_and_the_other_way_round_is_not(
    earlier: str, later: str
) -> None:
    def ordered(first: str, second: str) -> str:
        rules = [f"  - {{name: {name}, outcome: {outcome}, when: {when}}}"
                 for name, outcome, when in (("a", "allowed", first), ("b", "disallowed", second))]  # fmt: skip
        return "\n".join(["rules:", *rules])

    [problem] = refused(ordered(earlier, later))
    assert problem.startswith("policy.yaml:3: rule 'b': it can never apply: 'a' already matches all")
    if earlier != "{start_source: dialverb}":
        read(ordered(later, earlier))


def test_a_rule_whose_every_value_goes_to_some_earlier_rule_is_refused() -> None:
    text = """\
        rules:
          - {name: a, outcome: allowed, when: {cause: dial_verb}}
          - {name: b, outcome: allowed, when: {cause: record_verb}}
          - {name: c, outcome: disallowed, when: {cause: [dial_verb, record_verb%s], queue: support}}
    """
    [problem] = refused(text % "")
    assert "policy.yaml:4: rule 'c': it can never apply: 'a' and 'b' together already match all" in problem
    read(text % ", sip_trunk")


def test_a_rule_in_shadow_mode_takes_nothing_from_others_and_loses_nothing_to_them() -> None:
    read("""
        rules:
          - {name: a, outcome: allowed, mode: shadow}
          - {name: b, outcome: disallowed}
          - {name: c, outcome: allowed, mode: shadow, when: {cause: dial_verb}}
    """)


def test_a_rule_that_expires_leaves_the_rest_to_a_later_one() -> None:
    read("""
        rules:
          - {name: a, outcome: allowed, when: {cause: dial_verb}, expires: 2027-01-01}
          - {name: b, outcome: disallowed, when: {cause: dial_verb}}
    """)


def test_too_many_rules_values_and_patterns_are_refused() -> None:
    rules = "rules:\n" + "".join(f"  - {{name: r{n}, outcome: allowed, when: {{queue: q{n}}}}}\n" for n in range(301))
    assert "301 rules, at most 300" in refused(rules)[0]
    assert "at most 10000" in refused(one_rule(f"{{queue: [{', '.join(map(str, range(10_001)))}]}}"))[0]
    assert "at most 100" in refused(one_rule(f"{{queue: [{', '.join(f'{n}*' for n in range(101))}]}}"))[0]


# --- What is only doubtful --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (one_rule("{start_source: StartCallRecording}"), 4, "Did you mean 'StartCallRecordingAPI'?"),
        (one_rule("{direction: incoming}"), 4, "no direction seen so far fits 'incoming'"),
        (one_rule("{from: +43 1 2345678}"), 4, "separators"),
        (one_rule("{from: 4312345678}"), 4, "without its leading '+'"),
        (one_rule("{queue: [a, a]}"), 4, "the same value twice"),
        (one_rule('{callback_url: "https://calls.example.com*"}'), 4, "Write a '/' after the host"),
        (one_rule("{cause: dial_verb}", "severity: info"), 5, "Remove 'severity'"),
        (one_rule("{cause: dial_verb}", "expires: 2026-11-20"), 5, "it has expired"),
    ],
)
def test_what_is_doubtful_is_a_warning_on_its_line(text: str, line: int, says: str) -> None:
    [warning] = warned(text)
    assert warning.startswith(f"policy.yaml:{line}: rule 'r': ")
    assert says in warning


def test_a_rule_that_expires_today_is_not_yet_doubtful() -> None:
    assert warned(one_rule("{cause: dial_verb}", "expires: 2026-11-21")) == []


# --- Whatever the file is ---------------------------------------------------------------------------------------------


def test_no_message_repeats_a_telephone_number_or_a_name() -> None:
    text = """\
        rules:
          - name: r
            outcome: allowed
            when:
              from: ["+43 664 1234567", "+43 664 1234567", ""]
              to: [436641234567, 436641234567, {"+436641234567": x}]
              worker: [Jane Roe, Jane Roe, ~]
              status: ["+436641234567", N436641234567]
              cause: 436641234567
            reason: Jane Roe, +43 664 1234567
            team: Jane Roe
    """
    with pytest.raises(PolicyError) as caught:
        parse_policy(textwrap.dedent(text).encode(), "policy.yaml", now=NOW)
    said = "\n".join(map(str, (*caught.value.problems, *caught.value.warnings)))
    assert "1234567" not in said
    assert "Roe" not in said
    assert len(caught.value.problems) >= 7


def test_a_file_that_is_not_there_or_not_text_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"absent\.yaml: cannot be read: No such file"):
        load_policy(tmp_path / "absent.yaml")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        load_policy(tmp_path)
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"policy: p\nrules: \xff\n")
    with pytest.raises(PolicyError, match=r"policy\.yaml:2: not UTF-8 text"):
        load_policy(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(PolicyError, match="larger than"):
        load_policy(path)


WORDS = st.sampled_from(
    ["policy", "mode", "rules", "name", "outcome", "allowed", "when", "cause", "hours", "expires", "dial_verb", "*"]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | WORDS
)
KEYS = WORDS | st.sampled_from([*CONDITIONS, "days", "from", "to", "zone", "severity", "team", "runbook_url", "reason"])
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6))
RULES = st.fixed_dictionaries({"name": WORDS | SCALARS, "outcome": WORDS}, optional={"when": TREES, "expires": SCALARS})


@given(TREES | st.fixed_dictionaries({"rules": st.lists(RULES | TREES, max_size=4)}))
def test_every_yaml_is_a_policy_or_refused_with_a_place_and_a_remedy(tree: object) -> None:
    data = msgspec.json.encode(tree)  # JSON is YAML.
    try:
        document, said = parse_policy(data, "policy.yaml", now=NOW)
    except PolicyError as error:
        document, said = None, error.problems
    assert document is not None or said
    assert all(one.line is not None and str(one).startswith("policy.yaml:") for one in said)


# --- The command ------------------------------------------------------------------------------------------------------


def test_check_says_what_a_policy_says_in_words_and_counts_what_is_private(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        one_rule(
            '{cause: [dial_verb, record_verb], queue: "sales*", from: ["+431234567", "+431234568"], worker: Jane Roe,'
            ' hours: {days: [mon-fri, sun], from: "08:00", zone: UTC}}',
            "expires: 2027-12-31",
        )
    )
    check([path], Format.JSON)
    [rule] = msgspec.json.decode(capsys.readouterr().out)["rules"]
    assert rule["when"] == (
        "when its cause is dial_verb or record_verb, and its caller is one of 2 given, and its queue is like sales*, "
        "and its worker is the one given, and it starts on mon-fri, sun from 08:00 to 24:00 UTC, "
        "and it starts before 2028-01-01T00:00Z"
    )


def test_check_prints_every_rule_and_what_holds_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    check([EXAMPLE])
    told = capsys.readouterr()
    document = parse_policy(EXAMPLE.read_bytes(), "", now=NOW)[0]
    assert told.err == ""
    assert told.out.startswith(f"{EXAMPLE}: OK\npolicy contact-centre, mode observe, sha256:")
    assert [rule.name for rule in document.rules if rule.name not in told.out] == []
    assert "default" in told.out


def test_check_refuses_with_every_problem_on_stderr_and_code_2_even_if_another_file_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("mode: warn\nwhen_open: maybe\n")
    with pytest.raises(typer.Exit) as exited:
        check([path, EXAMPLE, tmp_path / "absent.yaml"])
    assert exited.value.exit_code == 2
    told = capsys.readouterr()
    assert f"{path}:1: 'mode' cannot be 'warn'" in told.err
    assert f"{path}:2: 'when_open' cannot be 'maybe'" in told.err
    assert "absent.yaml: cannot be read" in told.err
    assert f"{EXAMPLE}: OK" in told.out


def test_check_passes_a_doubtful_policy_with_its_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(one_rule("{queue: [a, a]}"))
    check([path])
    told = capsys.readouterr()
    assert f"warning: {path}:4: rule 'r': 'queue' names the same value twice" in told.err
    assert f"{path}: OK, 1 warning\n" in told.out
