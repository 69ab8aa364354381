"""A dictionary in parts, none of which takes long to grow: what is open of an account, and what is known of its calls.

A dictionary that is full is copied as a whole. With the million and a half members of a busy account in one, that takes
70 ms in which everything waits; in parts it takes one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Final, Generic, TypeVar

from monitor.core.emptying import Container

V = TypeVar("V")

PARTS: Final = 256
WHOLE_MAX: Final = 8_192
"""So many in one part before it is divided, which takes some milliseconds. Most accounts never have as many."""


class Parted(Generic[V]):
    """Values by text. ``parts`` is one dictionary, and from ``WHOLE_MAX`` entries on ``PARTS`` of them, by hash."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[dict[str, V]] = [{}]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __bool__(self) -> bool:
        return any(self.parts)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.parts)

    def portions(self) -> Iterator[list[str]]:
        """All that is in it now, each once, some keys at a time; what comes meanwhile may be among them, or not."""
        for part in list(self.parts):  # Divided meanwhile, the same would come again, also what was dropped by then.
            yield list(part)

    def __contains__(self, key: str) -> bool:
        return key in self._part(key)

    def __getitem__(self, key: str) -> V:
        return self._part(key)[key]

    def __setitem__(self, key: str, value: V) -> None:
        part = self._part(key)
        part[key] = value
        if len(part) > WHOLE_MAX and len(self.parts) == 1:
            self.divide()

    def __delitem__(self, key: str) -> None:
        del self._part(key)[key]

    def get(self, key: str) -> V | None:
        """What is under a key; None where nothing is."""
        return self._part(key).get(key)

    def pop(self, key: str) -> V:
        """Take out what is under a key. Raises KeyError where nothing is."""
        return self._part(key).pop(key)

    def values(self) -> Iterator[V]:
        """Everything in it, in the order in which it came as long as it is in one part."""
        return chain.from_iterable([part.values() for part in self.parts])

    def items(self) -> Iterator[tuple[str, V]]:
        """Everything in it with its keys."""
        return chain.from_iterable([part.items() for part in self.parts])

    def update(self, more: Mapping[str, V]) -> None:
        """Put all of this as well."""
        for key, value in more.items():
            self[key] = value

    def put_all(self, keys: Iterable[str], value: V) -> None:
        """Put the same under several keys."""
        for key in keys:
            self[key] = value

    @property
    def parts_count(self) -> int:
        """In how many parts it lies."""
        return len(self.parts)

    def values_of(self, part: int) -> list[V]:
        """What is in one part, in the order in which it came."""
        return list(self.parts[part].values())

    def items_of(self, part: int) -> list[tuple[str, V]]:
        """The same with its keys."""
        return list(self.parts[part].items())

    def newest_of(self, part: int, most: int) -> list[V]:
        """The last that came into one part, at most so many, the newest first."""
        return list(islice(reversed(self.parts[part].values()), most))

    def bulk(self) -> Iterable[Container]:
        """What of it is to be emptied for good."""
        return self.parts

    def divide(self) -> None:
        """Go on with ``PARTS`` parts, of which each grows in a moment."""
        (whole,) = self.parts
        parts: list[dict[str, V]] = [{} for _ in range(PARTS)]
        for key, value in whole.items():
            parts[hash(key) % PARTS][key] = value
        self.parts[:] = parts  # In place: whoever goes through the list at the moment goes on with it.

    def _part(self, key: str) -> dict[str, V]:
        parts = self.parts
        return parts[0] if len(parts) == 1 else parts[hash(key) % PARTS]
