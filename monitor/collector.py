"""Garbage collection and what is free, in our own hands: what is done about memory between two batches."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

from monitor import allocator

EVERY_S: Final = 1.0
IDLE_S: Final = 2.0  # Less than from tick to tick of some partitions, each of which has one every ten seconds.
ALL_EVERY_S: Final = 3600.0
GIVE_BACK_EVERY_S: Final = 10.0


class Collector:
    """Takes Python's garbage collection into our own hands.

    Left to itself it looks at all there is, when it likes: with half a million conversations open that holds everything
    up for a second. None of them is ever garbage: the state of a partition holds no cycle, and goes with its last user.
    So each second what has come since the last one is looked at, and what is left of that never again, but for all
    there is, once an hour, if there has been nothing to do for two seconds: connections of the web server, of two
    kilobytes each, that were open in such a moment. Of one who is never idle they stay.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self._clock = clock
        self._next_at = self._all_at = self._busy_at = self._give_back_at = clock()
        self._was_on = gc.isenabled()

    def begin(self) -> None:
        """From here on nothing is collected but here; what was imported is not looked at again."""
        gc.disable()
        gc.collect()
        gc.freeze()

    def end(self) -> None:
        """Leave it to Python again, if it was."""
        gc.unfreeze()
        if self._was_on:
            gc.enable()

    def between_batches(self, *, idle: bool) -> None:
        """Do what is due; ``idle`` says that there was nothing to do."""
        now = self._clock()
        if not idle:
            self._busy_at = now
        if now < self._next_at:
            return
        self._next_at = now + EVERY_S
        if now - self._busy_at >= IDLE_S and now - self._all_at >= ALL_EVERY_S:
            self._all_at = now
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        if now >= self._give_back_at:
            self._give_back_at = now + GIVE_BACK_EVERY_S
            allocator.give_back()  # Else what a takeover needed for a moment is kept for good.
