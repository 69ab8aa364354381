"""A dictionary in parts is a dictionary, before it is divided and afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from monitor.core.parted import PARTS, WHOLE_MAX, Parted

KEYS = st.sampled_from([f"CA{number}" for number in range(40)])


class AsADictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, int] = {}
        self.parted: Parted[int] = Parted()
        self.divided = False

    @initialize(before=st.sampled_from([0, WHOLE_MAX - 3, WHOLE_MAX + 1]))
    def begin(self, before: int) -> None:
        for number in range(before):
            self.parted[f"CF{number}"] = self.model[f"CF{number}"] = number

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
        self.divided = self.divided or len(self.model) > WHOLE_MAX
        assert len(self.parted.parts) == (PARTS if self.divided else 1)

    def teardown(self) -> None:
        assert dict(self.parted.items()) == self.model
        assert sorted(self.parted) == sorted(self.model)
        assert sorted(self.parted.values()) == sorted(self.model.values())


TestAsADictionary = AsADictionary.TestCase
TestAsADictionary.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_whoever_goes_through_the_parts_when_they_are_divided_goes_on_with_them():
    parted: Parted[Any] = Parted()
    parts = parted.parts
    for number in range(WHOLE_MAX + 1):
        parted[str(number)] = number

    assert parts is parted.parts
    assert len(parts) == PARTS
    assert max(map(len, parts)) < 2 * WHOLE_MAX / PARTS
