"""Garbage collection is in our own hands: what is old is looked at once, and all of it again when nothing is to do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from monitor.commands.run import _Collector


class Ring:
    """It holds itself."""

    def __init__(self) -> None:
        self.ring = self


@pytest.fixture
def collector() -> Iterator[_Collector]:
    collector = _Collector()
    collector.begin()
    yield collector
    collector.end()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_was_given_up_by_then_is_collected_and_what_is_left_is_not_looked_at_again(collector: _Collector):
    given_up, kept = Ring(), Ring()
    gone, stays = weakref.ref(given_up), weakref.ref(kept)
    del given_up
    collector.collect_old()
    assert gone() is None
    assert gc.get_freeze_count() > 0
    del kept
    collector.collect_old()
    assert stays() is not None


def test_what_a_rebuild_leaves_is_not_looked_at_again(collector: _Collector):
    kept = Ring()
    stays = weakref.ref(kept)
    collector.restored()
    del kept
    gc.collect()
    assert stays() is not None
    gc.unfreeze()
    gc.collect()
    assert stays() is None
