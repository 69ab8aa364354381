"""Records that are frozen for a snapshot: they stay as they were, and what is asked for goes on as if nothing were."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitor.core.frozen import Frozen
from monitor.core.nailed import Call, Execution, Note, Notes, Room
from monitor.core.parted import Parted

SIDS = st.sampled_from([f"CA{number}" for number in range(6)])
BUCKETS = st.integers(0, 9)


def plain(records: Any) -> dict[str, Any]:
    return {sid: msgspec.to_builtins(records[sid]) for sid in records}


class FrozenForAWhile(RuleBasedStateMachine):
    """Beside it a ``Notes`` that is never frozen is told the same."""

    def __init__(self) -> None:
        super().__init__()
        self.notes, self.model = Notes(100, 3), Notes(100, 3)
        self.was: list[dict[str, Any]] = []
        self.frozen: Any = None
        self.thawing: Iterator[None] | None = None

    def both(self) -> tuple[Notes, Notes]:
        return self.notes, self.model

    @rule(sid=SIDS, bucket=BUCKETS)
    def see(self, sid: str, bucket: int) -> None:
        for notes in self.both():
            notes.call(sid).see(f"CF{bucket % 3}", bucket, 2)

    @rule(sid=SIDS, bucket=BUCKETS)
    def tell(self, sid: str, bucket: int) -> None:
        for notes in self.both():
            notes.call(sid).tell_alone(b"digest", bucket)
            notes.tell(sid, b"fact", bucket)
            notes.note(sid, (), [Note(bucket, bucket, b"kept", None)])

    @rule(sid=SIDS, bucket=BUCKETS)
    def places(self, sid: str, bucket: int) -> None:
        for notes in self.both():
            room = notes.rooms.get(sid) or notes.watch_room(sid, 0, bucket)
            notes.tell_room(room, "name", bucket, bucket)
            execution = notes.executions.get(sid) or notes.watch_execution(sid, bucket)
            notes.step(execution, Note(bucket, bucket, b"step", sid))

    @rule(now=st.integers(100, 120))
    def forget(self, now: int) -> None:
        for notes in self.both():
            for _ in notes.forget(now, lambda _sid, _call: []):
                pass

    @precondition(lambda self: self.frozen is None and self.thawing is None)
    @rule()
    def freeze(self) -> None:
        self.was = [plain(records) for records in (self.notes.calls, self.notes.rooms, self.notes.executions)]
        self.frozen = self.notes.freeze()

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def begin_to_thaw(self) -> None:
        self.frozen, self.thawing = None, self.notes.thaw()

    @precondition(lambda self: self.thawing is not None)
    @rule(steps=st.integers(1, 4))
    def thaw(self, steps: int) -> None:
        assert self.thawing is not None
        if len(list(islice(self.thawing, steps))) < steps:
            self.thawing = None
            assert isinstance(self.notes.calls, Parted)

    @invariant()
    def the_same(self) -> None:
        for name in ("calls", "rooms", "executions"):
            records, model = getattr(self.notes, name), getattr(self.model, name)
            assert sorted(records) == sorted(model)
            assert len(records) == len(model)
            assert all((sid in records) == (sid in model) for sid in ("CA0", "CA1", "CA2", "nobody"))
        assert sorted(self.notes.watched) == sorted(self.model.watched)
        if self.frozen is not None:
            assert [plain(records) for records in self.frozen] == self.was

    def teardown(self) -> None:
        for _ in self.notes.thaw():
            pass
        for name in ("calls", "rooms", "executions"):
            assert plain(getattr(self.notes, name)) == plain(getattr(self.model, name))


TestFrozenForAWhile = FrozenForAWhile.TestCase
TestFrozenForAWhile.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("record", [Call({"CF1": 1}, ids=bytes(14)), Room(0, 1, {"name": 1}), Execution(1)], ids=repr)
def test_what_is_not_there_is_not_found(record: Any):
    records: Parted[Any] = Parted()
    records["CA1"] = record
    frozen = Frozen(records)

    with pytest.raises(KeyError):
        del frozen["CA2"]
    with pytest.raises(KeyError):
        frozen["CA2"]
    del frozen["CA1"]
    with pytest.raises(KeyError):
        del frozen["CA1"]
    assert frozen.get("CA1") is None
    frozen["CA1"] = record
    assert len(list(frozen.thaw())) == 2
    assert dict(frozen.was.items()) == {"CA1": record}


def test_all_that_is_there_is_gone_through_though_it_thaws_meanwhile():
    records: Parted[Any] = Parted()
    records.divide()
    records.put_all([f"CA{number}" for number in range(500)], Room(0, 1))
    frozen = Frozen(records)
    for number in range(250, 750):
        frozen[f"CA{number}"] = Room(0, 1)
    for number in range(10):
        del frozen[f"CA{number}"]

    portions, thawing = frozen.portions(), frozen.thaw()
    gone_through: list[str] = []
    for sids in portions:
        gone_through += sids
        list(islice(thawing, 20))
    assert not list(thawing)
    assert sorted(gone_through) == sorted(f"CA{number}" for number in range(10, 750))
