"""Records that a snapshot is taken of, while whoever changes them goes on: copied only when somebody asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, Self, TypeVar


class _Copied(Protocol):
    def copied(self) -> Self: ...


_Record = TypeVar("_Record", bound=_Copied)


class Frozen(Generic[_Record]):
    """Records by SID while a snapshot is taken of them: ``was`` holds them as they were, and does not change.

    Whoever asks for one gets a copy, which holds from then on; ``thaw`` gives a dictionary again.
    """

    __slots__ = ("_dropped", "_now", "_size", "was")

    def __init__(self, was: dict[str, _Record]) -> None:
        self.was = was
        self._now: dict[str, _Record] = {}
        self._dropped: set[str] = set()
        self._size = len(was)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        was, gone = self.was, self._dropped
        new = [sid for sid in self._now if sid not in was or sid in gone]
        return chain([sid for sid in was if sid not in gone], new)

    def __contains__(self, sid: str) -> bool:
        return sid in self._now or (sid in self.was and sid not in self._dropped)

    def __getitem__(self, sid: str) -> _Record:
        record = self.get(sid)
        if record is None:
            raise KeyError(sid)
        return record

    def __setitem__(self, sid: str, record: _Record) -> None:
        self._size += sid not in self
        self._now[sid] = record

    def __delitem__(self, sid: str) -> None:
        if sid not in self:
            raise KeyError(sid)
        self._size -= 1
        self._now.pop(sid, None)
        if sid in self.was:
            self._dropped.add(sid)

    def get(self, sid: str) -> _Record | None:
        """The record of a SID, to be read or changed; None where there is none."""
        record = self._now.get(sid)
        if record is None and sid not in self._dropped and (was := self.was.get(sid)) is not None:
            record = self._now[sid] = was.copied()
        return record

    def thaw(self) -> dict[str, _Record]:
        """What holds now, in the dictionary that it was."""
        for sid in self._dropped:
            del self.was[sid]
        self.was.update(self._now)
        return self.was


Records = dict[str, _Record] | Frozen[_Record]


def unfrozen(records: Records[_Record]) -> dict[str, _Record]:
    """The dictionary that no snapshot is being taken of."""
    assert isinstance(records, dict)
    return records


def thawed(records: Records[_Record]) -> dict[str, _Record]:
    """The dictionary to go on with, whether or not a snapshot was being taken of it."""
    return records.thaw() if isinstance(records, Frozen) else records
