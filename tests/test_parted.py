"""A dictionary in parts is a dictionary, before it is divided and afterwards, compiled or not."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from monitor.core.compacted import Table
from monitor.core.parted import PARTS, WHOLE_MAX, Parted

# Usual SIDs, some of which differ in nothing but their prefix, and what is none.
USUAL = [f"{prefix}{number:032x}" for prefix in ("CA", "CF", "RE", "WT", "FN") for number in range(6)]
ODD = ["", "CA1", "XX" + "0" * 32, "CA" + "A" * 32, "CA" + "\xe9" * 32, "CA" + "0" * 33]
KEYS = st.sampled_from(USUAL + ODD)


def filling(number: int) -> str:
    return f"CA{1 << 100 | number:032x}"


class AsADictionary(RuleBasedStateMachine):
    kind: type[Parted[Any]] = Parted

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, int] = {}
        self.parted: Parted[int] = self.kind()
        self.divided = False

    @initialize(before=st.sampled_from([0, WHOLE_MAX - 3, WHOLE_MAX + 1]))
    def begin(self, before: int) -> None:
        for number in range(before):
            self.parted[filling(number)] = self.model[filling(number)] = number

    @rule(key=KEYS, value=st.integers())
    def put(self, key: str, value: int) -> None:
        self.parted[key] = self.model[key] = value

    @rule(keys=st.lists(KEYS), value=st.integers())
    def put_all(self, keys: list[str], value: int) -> None:
        self.parted.put_all(keys, value)
        self.model.update(dict.fromkeys(keys, value))

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        assert self.parted.get(key) == self.model.get(key)
        assert (key in self.parted) == (key in self.model)
        if key in self.model:
            assert self.parted[key] == self.model[key]

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        if key in self.model:
            del self.model[key]
            del self.parted[key]
        else:
            with pytest.raises(KeyError):
                del self.parted[key]
            with pytest.raises(KeyError):
                self.parted[key]

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        if key in self.model:
            assert self.parted.pop(key) == self.model.pop(key)
        else:
            with pytest.raises(KeyError):
                self.parted.pop(key)

    @invariant()
    def the_same(self) -> None:
        assert len(self.parted) == len(self.model)
        assert bool(self.parted) == bool(self.model)
        in_parts = len(self.model) if self.kind is Parted else len(self.model) - len(self.model.keys() & ODD)
        self.divided = self.divided or in_parts > WHOLE_MAX
        assert self.parted.parts_count == (PARTS if self.divided else 1)

    def teardown(self) -> None:
        assert dict(self.parted.items()) == self.model
        by_part = [self.parted.items_of(part) for part in range(self.parted.parts_count)]
        assert dict(pair for items in by_part for pair in items) == self.model
        for part, items in enumerate(by_part):
            values = [value for _, value in items]
            assert self.parted.values_of(part) == values
            if self.kind is Parted or not self.model.keys() & ODD:
                assert self.parted.newest_of(part, 3) == values[::-1][:3]
        assert sorted(self.parted) == sorted(self.model)
        assert sorted(self.parted.values()) == sorted(self.model.values())


class CompiledAsADictionary(AsADictionary):
    kind = Table


TestAsADictionary = AsADictionary.TestCase
TestAsADictionary.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestCompiledAsADictionary = CompiledAsADictionary.TestCase
TestCompiledAsADictionary.settings = TestAsADictionary.settings
pytest.mark.compiled(TestCompiledAsADictionary)


@pytest.mark.parametrize("kind", [Parted, pytest.param(Table, marks=pytest.mark.compiled)])
def test_what_comes_and_goes_in_turn_is_found_in_the_order_in_which_it_came(kind: type[Parted[Any]]):
    """As what is open does, for hours: none of it is lost, and what was taken out leaves no room taken."""
    chance = random.Random(5)
    parted: Parted[Any] = kind()
    model: dict[str, object] = {}
    sizes = []
    for _ in range(30_000):
        key = f"{chance.choice(('CA', 'CF'))}{chance.getrandbits(128):032x}"
        parted[key] = model[key] = object()
        if len(model) > 1_000:
            gone = next(iter(model)) if chance.random() < 0.9 else chance.choice(list(model)[:50])
            assert parted.pop(gone) is model.pop(gone)
        sizes.append(sys.getsizeof(parted))
    assert list(parted.items()) == list(model.items())
    assert list(parted.values()) == list(model.values())
    assert parted.newest_of(0, 5) == list(model.values())[::-1][:5]
    assert sizes[-1] <= max(sizes[:3_000])


@pytest.mark.parametrize("kind", [Parted, pytest.param(Table, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("count", [0, 100, WHOLE_MAX + 1_000])
def test_what_is_held_is_let_go_of(kind: type[Parted[Any]], count: int):
    """Whether it is emptied, or dropped with all it has."""
    value = object()
    before = sys.getrefcount(value)
    for emptied in (True, False):
        parted: Parted[Any] = kind()
        for number in range(count):
            parted[filling(number)] = value
        parted["odd"] = value
        parted.pop("odd")
        if count:
            parted[filling(7)] = value
            del parted[filling(8)]
        assert sys.getrefcount(value) == before + max(0, count - 1)
        if emptied:
            for held in parted.bulk():
                while held:
                    held.popitem()  # type: ignore[union-attr]
            assert sys.getrefcount(value) == before
            assert not parted
            parted[filling(1)] = value
            assert list(parted) == [filling(1)]
            assert parted.pop(filling(1)) is value
        del parted
        assert sys.getrefcount(value) == before


def test_whoever_goes_through_the_parts_when_they_are_divided_goes_on_with_them():
    parted: Parted[Any] = Parted()
    parts = parted.parts
    for number in range(WHOLE_MAX + 1):
        parted[str(number)] = number

    assert parts is parted.parts
    assert len(parts) == PARTS
    assert max(map(len, parts)) < 2 * WHOLE_MAX / PARTS
