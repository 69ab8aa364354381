"""Births by offset: which is the oldest that is still open. Of the others a few are dropped at a time.

A heap would have to be built anew now and then, or what has closed would stay in its midst for good: with half a
million conversations open that takes 0.15 s, in which everything waits.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from itertools import chain
from typing import Final

from monitor.core.conversation import Birth
from monitor.core.emptying import Container

SPAN: Final = 16_384  # Offsets of which the births lie together: at a thousand messages a second some hundred births.


class OpenBirths:
    """Births, each as long as it is open.

    ``oldest`` are those of the first span, the oldest last, whether or not it has closed; it stays the same list.
    """

    __slots__ = ("_first_span", "_order", "_spans", "_turn", "oldest")

    def __init__(self) -> None:
        self.oldest: list[Birth] = []
        self._first_span = -1
        self._spans: dict[int, list[Birth]] = {}  # Those behind it.
        self._order: list[int] = []
        self._turn = 0

    def __iter__(self) -> Iterator[Birth]:
        return chain(self.oldest, chain.from_iterable(self._spans.values()))

    def bulk(self) -> Iterator[Container]:
        """All that is large in it, to be emptied for good."""
        yield self.oldest
        yield from self._spans.values()

    def add(self, birth: Birth) -> None:
        """Take in a birth, in whatever order."""
        number = birth.offset // SPAN
        if number <= self._first_span:
            insort(self.oldest, birth, key=_backwards)
            return
        span = self._spans.get(number)
        if span is None:
            self._look_at_two()
            span = self._spans[number] = []
            insort(self._order, number)
        span.append(birth)

    def first(self) -> Birth | None:
        """The oldest that is open; None where none is."""
        while True:
            while self.oldest:
                birth = self.oldest[-1]
                if birth.open:
                    return birth
                self.oldest.pop()
            if not self._order:
                return None
            self._first_span = self._order.pop(0)
            self.oldest += sorted([b for b in self._spans.pop(self._first_span) if b.open], key=_backwards)

    def _look_at_two(self) -> None:
        """Drop what has closed of two spans, the next in turn: one birth that never ends would keep all the others.

        With each new span; were it one, it would be the last new one each time.
        """
        for _ in range(2):
            if self._order:
                self._turn %= len(self._order)
                self._turn += self._look_at(self._turn)

    def _look_at(self, place: int) -> bool:
        """Drop what has closed of one span, or the span; whether any of it is left."""
        number = self._order[place]
        still = [birth for birth in self._spans[number] if birth.open]
        if still:
            self._spans[number] = still
        else:
            del self._spans[number], self._order[place]
        return bool(still)


def _backwards(birth: Birth) -> tuple[int, int]:
    return -birth.offset, -birth.arrived_ms
