"""The oldest birth that is open, whatever the order in which they came, and whichever have closed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitor.core.births import SPAN, OpenBirths
from monitor.core.conversation import Birth

OFFSETS = st.integers(0, 6 * SPAN)
DONE = st.one_of(OFFSETS, st.tuples(st.integers(0, 40)), st.none())


@given(st.lists(DONE, max_size=60))
def test_the_oldest_that_is_open_is_found(done: list[int | tuple[int] | None]):
    """A number: one is born there; a tuple: that one closes; None: it is asked for."""
    births: list[Birth] = []
    found = OpenBirths()
    for each in done:
        if isinstance(each, int):
            births.append(Birth(each, len(births), 0, 0))
            found.add(births[-1])
        elif each is not None and births:
            births[each[0] % len(births)].open = False
        elif each is None:
            assert found.first() == min((birth for birth in births if birth.open), default=None)
    assert found.first() == min((birth for birth in births if birth.open), default=None)
    assert sorted(birth for birth in births if birth.open) == sorted(birth for birth in found if birth.open)


def test_what_has_closed_is_dropped_though_the_oldest_never_ends():
    found = OpenBirths()
    found.add(Birth(0, 0, 0, 0))
    open_: list[Birth] = []
    for offset in range(1, 1_000 * SPAN, SPAN // 10):
        open_.append(Birth(offset, 0, 0, 0))
        found.add(open_[-1])
        if len(open_) > 200:
            open_.pop(0).open = False
        if offset % 1_000 == 0:
            assert found.first() == Birth(0, 0, 0, 0)
    assert sum(1 for _ in found) < 3 * len(open_)
