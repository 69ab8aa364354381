"""The monitor's core over simulated traffic: two programs that share no code must come to the same answer.

The truth is what the simulator's scripts decided; the verdicts are what the core concluded from bytes alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import Starter
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Told, Tuning
from monitor.core.verdict import Verdict
from monitor.inputs.policy_file import load_policy
from monitor.simulator.traffic import Knobs, traffic, truth
from monitor.simulator.truth import Counts, Header, RecordingTruth


def judged(knobs: Knobs, starters: tuple[Starter, ...]) -> tuple[dict[str, Verdict], dict[str, int]]:
    """The last verdicts by key, and what was counted; each entry arrives when it is due."""
    pipeline = Pipeline(
        Tuning(recordings_too_old_ms=None, starters=starters),
        load_policy(None).policy,
        AccountSettings(),
        partition=0,
        checkpoint=Checkpoint(offset=0, generation=0, replay_from=0, log_time_ms=None),
        clamp=False,
    )
    pipeline.open(Ledger())
    last: dict[str, Verdict] = {}

    def take(told: Any) -> None:
        one: Told
        for one in told:
            if isinstance(one, Publish):
                if one.verdict is None:
                    last.pop(one.key, None)
                else:
                    last[one.key] = one.verdict

    for offset, (due_ms, _, data) in enumerate(traffic(knobs)):
        take(pipeline.feed(offset, due_ms, data, None))
    take(pipeline.finish())
    counts = pipeline.take_counts()
    return last, {
        "entries": counts.entries,
        "events": sum(counts.events.values()),
        "ignored": counts.ignored,
        "malformed": counts.malformed,
        "duplicates": counts.duplicate,
        "late": counts.late,
    }


def in_words_of_the_truth(verdict: Verdict) -> dict[str, object]:
    return {
        "kind": verdict.kind,
        "recording_sid": verdict.recording_sid,
        "account_sid": verdict.account_sid,
        "start_source": verdict.start_source,
        "cause": verdict.cause,
        "outcome": verdict.outcome,
        "call_sid": verdict.call_sid,
        "conference_sid": verdict.conference_sid,
        "started_at": verdict.started_at,
        "status": verdict.recording_status,
    }


ROUGH = Knobs(
    events=12_000,
    seed=24,
    recorded=1.0,
    disorder_s=120,
    late=0.05,
    lateness_s=3000,
    duplicates=0.1,
    retried=0.05,
    malformed=0.02,
)


@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param(Knobs(events=12_000, seed=21, recorded=1.0), id="as in life"),
        pytest.param(Knobs(events=12_000, seed=22, recorded=1.0, tempo=30), id="fast"),
        pytest.param(Knobs(events=12_000, seed=23, recorded=1.0, rate=5, accounts=12), id="sparse"),
        pytest.param(ROUGH, id="rough"),
        pytest.param(Knobs(events=12_000, seed=25, recorded=1.0, loss=0.05), id="with losses"),
    ],
)
def test_the_core_finds_the_truth_and_counts_what_was_written(knobs: Knobs) -> None:
    first, *recordings, counts = truth(knobs)
    assert isinstance(first, Header)
    assert isinstance(counts, Counts)
    verdicts, counted = judged(knobs, tuple(Starter(s.callback_url, s.cause, s.name) for s in first.starters))
    wrong: Counter[tuple[str, ...]] = Counter()
    compared = 0
    for one in recordings:
        assert isinstance(one, RecordingTruth)
        key = one.recording_sid or one.conference_sid
        assert key is not None
        verdict = verdicts.pop(key, None)
        if verdict is None:
            if "recording_sid" not in one.untold:
                wrong[one.scene, str(one.cause), "no verdict"] += 1
            continue
        for name, said in in_words_of_the_truth(verdict).items():
            if name not in one.untold:
                compared += 1
                if said != getattr(one, name):
                    wrong[one.scene, str(one.cause), name, str(said)] += 1
    assert not wrong
    assert compared > 8 * 0.9 * len(recordings)
    # A conference whose recording's events were all lost is suspected; nothing else is told of that did not happen.
    lost = {
        one.conference_sid for one in recordings if isinstance(one, RecordingTruth) and "recording_sid" in one.untold
    }
    assert {verdict.conference_sid for verdict in verdicts.values()} <= lost
    assert counted == {name: getattr(counts, name) for name in counted if name != "late"} | {"late": 0}


def test_without_its_starters_the_core_says_what_the_truth_says_it_would() -> None:
    knobs = Knobs(calls=40, recorded=1.0, causes={"flex_plugin": 1})
    verdicts, _ = judged(knobs, ())
    plugins = [one for one in truth(knobs) if isinstance(one, RecordingTruth) and one.without_starters is not None]
    assert len(plugins) == 40
    for one in plugins:
        assert one.recording_sid is not None
        verdict = verdicts[one.recording_sid]
        assert (verdict.cause, verdict.outcome) == one.without_starters
