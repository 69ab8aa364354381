"""Records that a snapshot is taken of, while whoever changes them goes on: copied only when somebody asks for one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain
from typing import Generic, Protocol, Self, TypeVar

from monitor.core.parted import Parted


class _Copied(Protocol):
    def copied(self) -> Self: ...


_Record = TypeVar("_Record", bound=_Copied)


class Frozen(Generic[_Record]):
    """Records by SID while a snapshot is taken of them: ``was`` holds them as they were, and does not change.

    Whoever asks for one gets a copy, which holds from then on, until ``thaw`` puts the copies where they belong.
    """

    __slots__ = ("_copies", "_dropped", "_now", "_size", "was")

    def __init__(self, was: Parted[_Record]) -> None:
        self.was = was
        self._copies = True
        self._now: dict[str, _Record] = {}
        self._dropped: set[str] = set()
        self._size = len(was)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.portions())

    def portions(self) -> Iterator[list[str]]:
        """As ``Parted.portions``."""
        was, gone = self.was, self._dropped
        # Looked for at once: by the time it is their turn they may have been thawed into any part.
        new = dict.fromkeys([sid for sid in self._now if sid not in was or sid in gone])
        for sids in was.portions():
            yield [sid for sid in sids if sid not in gone and sid not in new]
        yield list(new)

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
        if record is None and sid not in self._dropped:
            record = self.was.get(sid)
            if record is not None and self._copies:
                record = self._now[sid] = record.copied()
        return record

    def thaw(self) -> Iterator[None]:
        """Make ``was`` what holds now, a record a step, whatever is asked for in between: a microsecond each."""
        self._copies = False
        while self._dropped or self._now:
            while self._dropped:
                del self.was[self._dropped.pop()]
                yield
            for sid in list(self._now):  # In order: what is known first stands first, as if nothing had been frozen.
                if self._dropped:
                    break
                if (record := self._now.pop(sid, None)) is not None:
                    self.was[sid] = record
                    yield


Records = Parted[_Record] | Frozen[_Record]


def unfrozen(records: Records[_Record]) -> Parted[_Record]:
    """The records that no snapshot is being taken of."""
    assert isinstance(records, Parted)
    return records


def thaw(records: Records[_Record]) -> Generator[None, None, Parted[_Record]]:
    """The records to go on with, at the end of as many steps as it takes: none where no snapshot was being taken."""
    if not isinstance(records, Frozen):
        return records
    yield from records.thaw()
    return records.was
