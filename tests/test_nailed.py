"""A shift of agents whose legs are nailed up: every cause is the truth, in any order, and nothing grows.

The full shift (20 agents, 30 h) is part of `make torture`; here is a small one of the same kind.
"""

from __future__ import annotations

import weakref
from itertools import pairwise
from typing import NamedTuple

import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.guests import STEPS, Nailed
from monitor.core.ledger import Ledger
from monitor.core.nailed import Notes
from monitor.core.parted import WHOLE_MAX, Parted
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import Verdict
from tests.torture.nailed import Shift
from tests.uncollected import uncollected

START_MS = 1_790_000_000_000
WINDOW_MS = 14_400_000
FIRST = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)


class Watched(NamedTuple):
    """What was seen of a run over a shift."""

    verdicts: dict[str, Verdict]
    open_max: int
    members_max: int
    behind_max_ms: int
    truncated: int


def run(shift: Shift, *, late_ms: int, tuning: Tuning) -> Watched:
    pipeline = Pipeline(tuning, built_in_policy(), AccountSettings(), partition=0, checkpoint=FIRST)
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


def knowing(count: int) -> tuple[Nailed, Notes]:
    """Of so many calls of one account something is known: where they were seen at the start."""
    nailed = Nailed(
        window_ms=WINDOW_MS, conferences_max=3, entries_max=9, renewed=[], truncate=lambda _: pytest.fail("truncated")
    )
    nailed.mark(0, START_MS, None)
    notes = nailed.open("AC1", Parted()).notes
    for number in range(count):
        notes.call(f"CA{number}").see("CF1", START_MS // nailed.marks.bucket_ms, 3)
    return nailed, notes


def test_what_is_known_of_calls_is_forgotten_a_few_at_a_time():
    """Also within one account: most contact centres are one. What is seen anew in the midst of it stays."""
    count = 3 * STEPS
    nailed, notes = knowing(count)
    now_ms = START_MS + 2 * WINDOW_MS
    known = [notes.size()]
    while known[-1] > 1:
        now_ms += nailed.marks.bucket_ms
        assert list(nailed.mark(len(known), now_ms, None)) == []
        known.append(notes.size())
        if len(known) == 3:
            notes.call(f"CA{count - 1}").see("CF2", now_ms // nailed.marks.bucket_ms, 3)
    assert max(before - after for before, after in pairwise(known)) <= STEPS
    assert 3 < len(known) <= count // STEPS + 3  # With each bucket it goes on.
    assert list(notes.calls) == [f"CA{count - 1}"]
    assert list(notes.watched) == [f"CA{count - 1}"]
    forgotten: list[str] = []
    while not forgotten:
        now_ms += WINDOW_MS // 8
        forgotten += nailed.mark(len(known), now_ms, None)
        assert now_ms < START_MS + 9 * WINDOW_MS
    assert forgotten == ["AC1"]
    assert nailed.accounts == {}


def test_each_call_is_forgotten_once_though_there_come_to_be_many_and_a_snapshot_is_taken():
    nailed, notes = knowing(WHOLE_MAX)
    now_ms = START_MS + 2 * WINDOW_MS
    nailed.mark(1, now_ms, None)
    assert 0 < notes.size() < WHOLE_MAX
    for number in range(2 * STEPS):
        notes.call(f"CA{WHOLE_MAX + number}").see("CF2", now_ms // nailed.marks.bucket_ms, 3)
    notes.freeze()
    for offset in range(2, WHOLE_MAX // STEPS + 4):
        now_ms += nailed.marks.bucket_ms
        nailed.mark(offset, now_ms, None)
    assert sorted(notes.calls) == sorted(f"CA{WHOLE_MAX + number}" for number in range(2 * STEPS))


def test_what_is_in_the_midst_of_forgetting_goes_with_its_last_user():
    nailed, notes = knowing(2 * STEPS)
    nailed.mark(1, START_MS + 2 * WINDOW_MS, None)
    assert 0 < notes.size() < 2 * STEPS
    gone = weakref.ref(nailed)
    with uncollected():
        del nailed
        assert gone() is None


@pytest.mark.parametrize("compiled", [True, False])
def test_the_state_of_a_partition_goes_with_its_last_user(compiled: bool):
    """Garbage collection passes over what is old: a cycle in it would keep all of a partition that has gone."""
    fold = Pipeline(Tuning(), built_in_policy(), AccountSettings(), partition=0, checkpoint=FIRST, sweeps=True)
    if not compiled:
        fold.fast_path = None
    fold.open(Ledger())
    for offset, entry in enumerate(Shift(3, agents=8, hours=3).entries(START_MS, late_ms=600_000)):
        fold.feed(offset, entry.stamp_ms or 0, entry.value)
    assert fold.window.nailed.accounts
    saving = fold.save("x")
    assert saving is not None
    saving.walk(1)
    saving.give_up()
    of_fold, of_window, of_nailed = weakref.ref(fold), weakref.ref(fold.window), weakref.ref(fold.window.nailed)
    with uncollected():
        del fold, saving
        assert (of_fold(), of_window(), of_nailed()) == (None, None, None)
