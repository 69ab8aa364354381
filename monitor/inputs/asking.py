"""Questions to a broker that may be away, asked on another thread so that nobody waits for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Asking(Generic[T]):
    """One question, asked again and again: ``every_s`` after each answer."""

    def __init__(self, threads: ThreadPoolExecutor, question: Callable[[], T], *, every_s: float) -> None:
        self._threads = threads
        self._question = question
        self._every_s = every_s
        self._asked: Future[T] | None = None
        self._after = 0.0

    def answer(self) -> T | None:
        """What was found since the last call, once; None where nothing was. Raises what the question raises."""
        if self._asked is None:
            if time.monotonic() >= self._after:
                self._asked = self._threads.submit(self._question)
            return None
        if not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        self.rest()
        return asked.result()

    def forget(self) -> None:
        """Whatever was asked, its answer is of no use any more."""
        self._asked = None

    def rest(self) -> None:
        """Ask next when a while has passed."""
        self._after = time.monotonic() + self._every_s

    def hurry(self) -> None:
        """Ask next with the next call."""
        self._after = 0.0
