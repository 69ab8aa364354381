"""A shift of agents whose legs are nailed up: every cause is the truth, in any order, and nothing grows.

The full shift (20 agents, 30 h) is part of `make torture`; here is a small one of the same kind.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import Verdict
from tests.torture.nailed import Shift

START_MS = 1_790_000_000_000


class Watched(NamedTuple):
    """What was seen of a run over a shift."""

    verdicts: dict[str, Verdict]
    open_max: int
    members_max: int
    behind_max_ms: int
    truncated: int


def run(shift: Shift, *, late_ms: int, tuning: Tuning) -> Watched:
    first = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
    pipeline = Pipeline(tuning, built_in_policy(), AccountSettings(), partition=0, checkpoint=first)
    pipeline.open(Ledger())
    verdicts: dict[str, Verdict] = {}
    stamps: list[int] = []
    open_max = members_max = behind_max_ms = 0
    truncated = 0
    for offset, entry in enumerate(shift.entries(START_MS, late_ms=late_ms)):
        stamp_ms = entry.stamp_ms or 0
        stamps.append(stamp_ms)
        for told in pipeline.feed(offset, stamp_ms, entry.value):
            if isinstance(told, Publish) and told.verdict is not None:
                verdicts[told.key] = told.verdict
        if offset % 500 == 0:
            window = pipeline.window
            open_max = max(open_max, window.open_conversations)
            members_max = max([members_max, *(len(each.members) for each in window.conversations())])
            behind_max_ms = max(behind_max_ms, stamp_ms - stamps[min(pipeline.checkpoint().replay_from, offset)])
            truncated += pipeline.take_counts().truncated
    for told in pipeline.finish():
        if isinstance(told, Publish) and told.verdict is not None:
            verdicts[told.key] = told.verdict
    truncated += pipeline.take_counts().truncated
    return Watched(verdicts, open_max, members_max, behind_max_ms, truncated)


@pytest.mark.parametrize("late_min", [0, 10, 60])
def test_every_cause_of_a_shift_is_the_truth_in_any_order(late_min):
    tuning = Tuning()
    shift = Shift(1, agents=6, hours=8)

    watched = run(shift, late_ms=late_min * 60_000, tuning=tuning)

    truth = {str(each.recording_sid): (each.cause, each.conference_sid, each.call_sid) for each in shift.truth}
    found = {
        key: (verdict.cause, verdict.conference_sid, verdict.call_sid) for key, verdict in watched.verdicts.items()
    }
    assert found == truth
    for verdict in watched.verdicts.values():
        assert all(int(shown.position.partition(":")[2]) >= verdict.rests_from for shown in verdict.evidence)
    assert watched.truncated == 0
    assert watched.members_max < 100
    assert watched.behind_max_ms < 3 * tuning.window_ms
