"""Garbage collection is in our own hands: what is old is looked at once, and all of it when there is nothing to do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from monitor.collector import ALL_EVERY_S, EVERY_S, IDLE_S, Collector
from monitor.inputs.kafka import TICK_EVERY_S


class Ring:
    """It holds itself."""

    def __init__(self) -> None:
        self.ring = self


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(clock: Clock) -> Iterator[Collector]:
    collector = Collector(clock)
    collector.begin()
    assert not gc.isenabled()
    collector.between_batches(idle=False)
    yield collector
    collector.end()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def grown_old(collector: Collector, clock: Clock) -> weakref.ref[Ring]:
    """One that was given up after it had been looked at."""
    kept = Ring()
    clock.now_s += EVERY_S
    collector.between_batches(idle=False)
    return weakref.ref(kept)


def test_what_was_given_up_by_then_is_collected_and_what_is_left_is_not_looked_at_again(
    collector: Collector, clock: Clock
):
    given_up, kept = Ring(), Ring()
    gone, stays = weakref.ref(given_up), weakref.ref(kept)
    del given_up
    collector.between_batches(idle=False)
    assert gone() is not None  # Once a second is enough.
    clock.now_s += EVERY_S
    collector.between_batches(idle=False)
    assert gone() is None
    del kept
    for _ in range(3):
        clock.now_s += ALL_EVERY_S  # However long it takes: it is busy.
        collector.between_batches(idle=False)
        assert stays() is not None
        collector.between_batches(idle=True)


def test_all_there_is_is_looked_at_after_an_hour_when_nothing_was_to_do_for_long(collector: Collector, clock: Clock):
    stays = grown_old(collector, clock)
    clock.now_s += IDLE_S
    collector.between_batches(idle=True)
    assert stays() is not None  # Not an hour since the last time.
    clock.now_s += ALL_EVERY_S
    collector.between_batches(idle=False)
    clock.now_s += IDLE_S - 0.1
    collector.between_batches(idle=True)
    assert stays() is not None
    clock.now_s += EVERY_S
    collector.between_batches(idle=True)
    assert stays() is None


def test_the_ticks_of_some_partitions_are_nothing_to_do(collector: Collector, clock: Clock):
    stays = grown_old(collector, clock)
    clock.now_s += ALL_EVERY_S
    for turn in range(200):
        collector.between_batches(idle=turn % 17 != 0)  # Of three partitions.
        clock.now_s += TICK_EVERY_S / 51
    assert stays() is None
