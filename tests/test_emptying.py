"""What was held of a partition is let go a little at a time: all at once, those that stay would wait for seconds."""

from __future__ import annotations

import sys
from collections import deque
from itertools import pairwise
from typing import NamedTuple

import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.compacted import COMPILED
from monitor.core.emptying import EACH, Container, emptied
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import encode_verdict
from monitor.simulator.traffic import Knobs, traffic
from tests.test_ledger import Topic, a_verdict
from tests.uncollected import uncollected

FIRST = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)


def test_containers_are_emptied_in_steps_one_after_the_other():
    numbers = range(2 * EACH + 1)
    held: list[Container] = [dict.fromkeys(numbers), set(numbers), deque(numbers), {}]
    left = [sum(map(len, held)), *(sum(map(len, held)) for _ in emptied(held))]
    assert left[-1] == 0
    assert {before - after for before, after in pairwise(left)} == {EACH, 1}


def test_little_is_left_to_be_freed_with_the_last_user():
    """However much was open: else that would take as long as to free all of it at once."""
    few, many = (freed(rate) for rate in (1.0, 6.0))  # Over the same time, of which it takes marks.
    more = many.open - few.open
    assert more > 300
    assert many.in_steps - few.in_steps > 10 * more
    assert many.at_the_end - few.at_the_end < 2 * more  # Dictionaries that are empty now, and some numbers.


@pytest.mark.parametrize(
    ("final", "placed", "blocks_each"), [(False, True, 2 - COMPILED), (True, True, 2), (False, False, 3)]
)
def test_of_what_is_published_most_is_freed_in_steps(*, final: bool, placed: bool, blocks_each: int):
    count = 1_000
    topic = Topic()
    ledger = Ledger(topic.fetch)
    for number in range(count):
        verdict = a_verdict(recording_sid=f"RE{number * 7919:032x}", final=final)
        if placed:
            topic.publish(ledger, verdict)
        else:
            ledger.publish(verdict, 1)
    before = sys.getallocatedblocks()
    for _ in ledger.dismantle():
        pass
    assert before - sys.getallocatedblocks() > 0.9 * blocks_each * count


class Freed(NamedTuple):
    """How many blocks of memory: in steps, and with the last user."""

    open: int
    in_steps: int
    at_the_end: int


def freed(rate: float) -> Freed:
    fold = Pipeline(Tuning(), built_in_policy(), AccountSettings(), partition=0, checkpoint=FIRST, sweeps=True)
    topic: list[bytes] = []
    fold.open(Ledger(lambda _, place: topic[place]))
    for offset, (due_ms, _, value) in enumerate(traffic(Knobs(seed=4, rate=rate, duration_s=4_000.0, accounts=3))):
        for told in fold.feed(offset, due_ms, value):
            if isinstance(told, Publish) and told.verdict is not None:
                fold.ledger.placed(told.key, told.verdict.at, len(topic))
                topic.append(encode_verdict(told.verdict))
    opened = fold.window.open_conversations
    with uncollected():
        blocks = [sys.getallocatedblocks()]
        for held in (fold, fold.ledger):
            for _ in held.dismantle():
                pass
        blocks.append(sys.getallocatedblocks())
        del fold, held
        blocks.append(sys.getallocatedblocks())
    before, after, end = blocks
    return Freed(opened, before - after, after - end)
