"""The verifier under test: whole topics pass, and whatever a monitor could do wrong is found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from monitor.commands.replay import Arrival, Replay
from monitor.core.pipeline import Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.inputs.files import Files
from monitor.outputs.quarantine import render_aside
from tests.verify import (
    Aside,
    Message,
    Verdict,
    holding,
    read_quarantine,
    verdict_of,
    verify_quarantine,
    verify_verdicts,
)

STREAMS = sorted((Path(__file__).parent / "samples" / "scenarios").glob("*.jsonl"))


@pytest.fixture(scope="module")
def whole() -> list[Message]:
    """The verdict topic that the sample streams make, as one partition."""
    job = Replay(Tuning(), built_in_policy(), arrival=Arrival.TIME)
    messages: list[Message] = []
    for told in job.run(Files(STREAMS)):
        if not isinstance(told, Publish):
            continue
        value = None
        if told.verdict is not None:
            verdict = msgspec.to_builtins(told.verdict)
            for shown in verdict["evidence"]:
                shown["position"] = f"0:{shown['position']}"
            value = msgspec.json.encode(verdict)
        messages.append(Message(0, len(messages), 0, told.key, value, {}))
    return messages


def test_a_whole_topic_has_no_faults(whole: list[Message]) -> None:
    assert verify_verdicts(whole) == ([], [], [])
    assert len(holding(whole)) > 20


def changed(message: Message, change: Callable[[Verdict], object]) -> Message:
    verdict = verdict_of(message)
    assert verdict is not None
    change(verdict)
    return message._replace(value=msgspec.json.encode(verdict))


def first(messages: list[Message], such: Callable[[Verdict], bool]) -> int:
    """Where the first such verdict stands."""
    return next(n for n, message in enumerate(messages) if (verdict := verdict_of(message)) and such(verdict))


FAULTS: dict[str, tuple[Callable[[Verdict], object], str]] = {
    "a field is missing": (lambda v: v.pop("missing"), "fields missing: ['missing']"),
    "a field is new": (lambda v: v.update(colour="red"), "superfluous: ['colour']"),
    "a word is unknown": (lambda v: v.update(outcome="forbidden"), "outcome is 'forbidden'"),
    "a SID is none": (lambda v: v.update(call_sid="CA1"), "call_sid is no SID"),
    "an instant is none": (lambda v: v.update(decided_at="today"), "decided_at is no instant"),
    "it is about another": (lambda v: v.update(recording_sid="RE" + "0" * 32), "the key is not that"),
    "a severity is missing": (lambda v: v.update(severity=None), "severity None"),
    "it is disallowed since never": (lambda v: v.update(disallowed_since=None), "disallowed since never"),
    "it alerts while it only observes": (lambda v: v.update(mode="observe"), "an alert"),
    "the policy has no hash": (lambda v: v.update(policy="sha256:0"), "policy is no hash"),
    "it tells a number": (lambda v: v.update(reason="+15550100123 called"), "what is private"),
    "it tells a query string": (lambda v: v["evidence"][0].update(shows="https://x.example/?n=1"), "what is private"),
    "it rests on what comes later": (lambda v: v.update(rests_from=v["at"][1] + 1), "rests from"),
    "it has no evidence": (lambda v: v.update(evidence=[]), "no evidence"),
    "its evidence is elsewhere": (lambda v: v["evidence"][0].update(position="1:1"), "evidence at 1:1"),
    "its history is missing": (lambda v: v.update(revision=v["revision"] + 1), "without a history"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_verdict_is_found(whole: list[Message], fault: str) -> None:
    change, says = FAULTS[fault]
    at = first(whole, lambda verdict: verdict["outcome"] == "disallowed" and verdict["kind"] == "recording")
    found = verify_verdicts([*whole[:at], changed(whole[at], change), *whole[at + 1 :]])
    assert any(says in one for one in found.faults), found.faults


def test_a_final_verdict_that_becomes_another_is_found(whole: list[Message]) -> None:
    at = first(whole, lambda verdict: verdict["final"])
    later = changed(whole[at], lambda v: v.update(cause="sip_trunk", at=[0, v["at"][1] + 1]))
    assert any("final, and changed in ['cause']" in one for one in verify_verdicts([*whole, later]).faults)


def test_a_final_verdict_that_learns_how_its_recording_ended_is_no_fault(whole: list[Message]) -> None:
    at = first(whole, lambda verdict: verdict["final"])
    later = changed(whole[at], lambda v: v.update(recording_status="deleted", at=[0, v["at"][1] + 1]))
    assert verify_verdicts([*whole, later]) == ([], [], [])


def test_what_stands_there_already_and_is_written_again_is_told_apart(whole: list[Message]) -> None:
    at = first(whole, lambda verdict: verdict["final"])
    again = changed(whole[at], lambda v: v.update(at=[0, v["at"][1] + 7], decided_at="2027-01-01T00:00:00.000Z"))
    assert verify_verdicts([*whole, again]) == ([], [again], [])


def test_a_lesser_verdict_is_told_apart_and_is_a_fault_where_it_stands_last(whole: list[Message]) -> None:
    at = first(whole, lambda verdict: verdict["final"])
    lesser = changed(whole[at], lambda v: v.update(final=False, at=[0, v["at"][1] - 1], rests_from=0))
    righted = verify_verdicts([*whole, lesser, whole[at]])
    assert (righted.faults, righted.repeats, righted.regresses) == ([], [], [lesser])
    left = verify_verdicts([*whole, lesser])
    assert any("a lesser verdict stands last" in one for one in left.faults)
    # Readers do not follow it either way.
    assert holding([*whole, lesser]) == holding(whole)


def test_a_recording_or_an_account_in_two_partitions_is_found(whole: list[Message]) -> None:
    found = verify_verdicts([*whole, whole[0]._replace(partition=1)])
    assert sum("is in partition 0 as well" in one for one in found.faults) == 2


def test_of_what_may_only_grow_a_fall_is_found(whole: list[Message]) -> None:
    at = first(whole, lambda verdict: verdict["outcome"] == "disallowed" and not verdict["final"])

    def fallen(verdict: Verdict) -> None:
        generation, offset = verdict["at"]
        since = "2026-12-01T00:00:00.000Z"
        verdict.update(at=[generation, offset + 9], rests_from=offset, first_seen_at=since, disallowed_since=since)

    faults = verify_verdicts([*whole[: at + 1], changed(whole[at], fallen)]).faults
    assert [one.partition(": ")[2].partition(" ")[0] for one in faults[-3:]] == ["rested", "first", "disallowed_since"]


def aside(data: bytes, index: int | None = 0) -> Message:
    headers, value = render_aside("not-json", "", partition=2, offset=7, index=index, data=data)
    return Message(0, 0, 0, None, value, dict(headers))


def test_what_was_set_aside_rightly_is_in_order() -> None:
    asides = read_quarantine([aside(b"x"), aside(b"y" * 300_000, 1), aside(b"", None)])
    assert verify_quarantine(asides) == []
    assert asides[1] == Aside("not-json", "2:7", 1, 300_000, hashlib.sha256(b"y" * 300_000).hexdigest(), b"y" * 262_144)


def test_what_was_set_aside_wrongly_is_found() -> None:
    [good] = read_quarantine([aside(b"x")])
    faults = {
        "no reason": good._replace(reason=""),
        "no position": good._replace(position="7"),
        "bytes were kept": good._replace(length=2),
        "the SHA-256": good._replace(data=b"y"),
    }
    for says, wrong in faults.items():
        assert any(says in one for one in verify_quarantine([wrong])), says
    assert verify_quarantine([good, good]) == ["2:7 entry 0: set aside twice"]
    assert verify_quarantine([good, good], twice=True) == []
