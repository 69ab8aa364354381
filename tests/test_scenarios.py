"""The scenario files are the specification: each is played as its lines arrive, and what is told is all it expects."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from monitor.core.attribution import CAUSES
from tests.builders import (
    START_MS,
    Message,
    Played,
    Scenario,
    ScenarioError,
    build_messages,
    compare,
    last_verdicts,
    play,
    read_scenario,
    render_told,
    scenarios,
    sid,
)

ORDERS = 25


def name_of(scenario: Scenario) -> str:
    return scenario.path.stem


def played(scenario: Scenario) -> Played:
    return play(scenario.messages, scenario.tuning, scenario.policy)


each = pytest.mark.parametrize("scenario", scenarios(), ids=name_of)


@each
def test_a_scenario_tells_exactly_what_it_expects(scenario):
    result = played(scenario)
    wrong = []
    for number, (expected, told) in enumerate(zip(scenario.expect, result.told, strict=False), 1):
        wrong += [f"expectation {number}: {what}" for what in compare(expected, told, scenario.messages)]
    if len(scenario.expect) != len(result.told):
        wrong.append(f"{len(scenario.expect)} verdicts are expected and {len(result.told)} are told")

    assert not wrong, "\n".join([scenario.title, *wrong, "told:", render_told(result.told)])


@each
def test_at_the_end_every_verdict_of_a_scenario_is_final_and_otherwise_as_last_expected(scenario):
    result = played(scenario)
    expected: dict[str, dict[str, object]] = {}
    for line in [*scenario.expect, *scenario.at_the_end]:
        key = sid(next(line[word] for word in ("recording", "suspicion", "withdrawn") if word in line))
        if "withdrawn" in line:
            expected.pop(key, None)
        else:
            expected[key] = {name: value for name, value in line.items() if name not in _OF_ITS_TIME}
    last = {told.key: told for told in [*result.told, *result.at_the_end]}
    wrong = [f"{key} is not expected" for key in result.last() if key not in expected]
    for key, line in expected.items():
        if key not in last:
            wrong.append(f"{key} is expected and never told")
            continue
        wrong += [f"{key}: {what}" for what in compare({**line, "final": True}, last[key], scenario.messages)]

    assert not wrong, "\n".join([scenario.title, *wrong, "at the end:", render_told(result.at_the_end)])


# What an expectation says of its own revision, and not of the recording.
_OF_ITS_TIME = frozenset({"at", "revision", "final", "late", "history"})


@each
def test_a_scenario_counts_every_entry_once_and_by_kind(scenario):
    result = played(scenario)
    counts = result.counts
    by_kind = {
        "events": counts.events_total,
        "ignored": counts.ignored,
        "malformed": counts.malformed,
        "duplicate": counts.duplicate,
        "late": counts.late,
    }

    assert sum(by_kind.values()) == counts.entries
    assert len(result.set_aside) == counts.malformed
    by_kind |= {"truncated": counts.truncated, "entries": counts.entries, "too_old": counts.too_old}
    by_kind |= {"closed_by_cut": counts.closed_by_cut, "dropped": counts.dropped}
    assert {name: by_kind[name] for name in scenario.counts} == scenario.counts
    if scenario.conversations is not None:
        assert result.conversations == scenario.conversations


@each
def test_repeating_every_message_of_a_scenario_changes_no_verdict(scenario):
    doubled = [
        Message(2 * message.offset - 1 + again, message.arrives_ms, message.value, message.line)
        for message in scenario.messages
        for again in (0, 1)
    ]
    once, twice = played(scenario), play(doubled, scenario.tuning, scenario.policy)

    assert said(twice, doubled) == said(once, scenario.messages)


def said(result: Played, messages: list[Message]) -> list[object]:
    """Everything told, with lines of the file in place of offsets."""
    lines = {str(message.offset): message.line for message in messages}
    told: list[object] = []
    for one in [*result.told, *result.at_the_end]:
        v = one.verdict
        shown = () if v is None else tuple((lines[s.position], s.shows) for s in v.evidence)
        rest = None if v is None else (v.outcome, v.rule, v.cause, v.strength, v.conference_sid, v.recording_status)
        when = None if v is None else (v.decided_at, v.final, v.missing, v.ruled_out, v.started_at, v.ended_at)
        told.append((one.key, one.late, rest, when, shown))
    return told


@pytest.mark.parametrize(
    "scenario", [one for one in scenarios() if one.order_matters is None and len(one.messages) > 1], ids=name_of
)
def test_the_order_in_which_a_scenario_arrives_does_not_change_how_it_ends(scenario):
    arrives_ms = max(message.arrives_ms for message in scenario.messages)
    ends = set()
    for seed in range(ORDERS):
        messages = list(scenario.messages)
        if seed:
            random.Random(seed).shuffle(messages)
        shuffled = [Message(n, arrives_ms, one.value, one.line) for n, one in enumerate(messages, 1)]
        result = play(shuffled, scenario.tuning, scenario.policy)
        last = last_verdicts([*result.told, *result.at_the_end])
        ends.add(
            frozenset(
                (key, v.outcome, v.rule, v.cause, v.conference_sid, v.call_sid, v.recording_status, v.ended_at, v.final)
                for key, v in last.items()
            )
        )

    assert len(ends) == 1, ends


def test_the_scenarios_show_every_cause():
    shown = {line.get("cause") for one in scenarios() for line in [*one.expect, *one.at_the_end]}

    assert shown >= set(CAUSES)


def test_the_page_on_causes_tells_of_every_cause():
    page = (Path(__file__).parents[1] / "docs" / "causes.md").read_text(encoding="utf-8")

    assert [cause for cause in CAUSES if f"\n| `{cause}` |" not in page] == []


def test_no_two_scenarios_have_one_title():
    titles = [one.title for one in scenarios()]

    assert len(titles) == len(set(titles))
    assert len(titles) >= 60


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"at": 0, "recording": "RE1", "colour": "red"}, "colour"),
        ({"at": 0}, "nothing happens"),
        ({"at": 0, "rekording": "RE1"}, "called rekording"),
        ({"at": 0, "recording": "RE1", "twiml": "CA1"}, "nobody reads twiml"),
        ({"recording": "RE1"}, "at is missing"),
        ({"at": "soon", "recording": "RE1"}, "no span"),
        ({"at": 0, "recording": "the first"}, "no SID"),
    ],
)
def test_a_line_that_nobody_understands_is_refused(line, complaint):
    with pytest.raises(ScenarioError, match=complaint):
        build_messages([line])


def test_a_line_that_arrives_before_the_one_above_it_is_refused():
    with pytest.raises(ScenarioError, match="arrives before"):
        build_messages([{"at": 5, "tick": True}, {"at": 4, "tick": True}])


def test_a_scenario_with_a_key_that_nobody_reads_is_refused(tmp_path: Path):
    path = tmp_path / "misspelt.yaml"
    path.write_text("title: x\ngiven: [{at: 0, tick: true}]\nexpects: []\n")

    with pytest.raises(ScenarioError, match="expects"):
        read_scenario(path)


def test_times_are_seconds_since_the_start_of_a_scenario():
    [message] = build_messages([{"at": "1 h 30 s", "tick": True}])

    assert message.arrives_ms == START_MS + 3_630_000
