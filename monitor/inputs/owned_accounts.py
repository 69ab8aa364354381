"""Whose account is whose: the owner of the partition an account is in does all REST work for it.

An account is where its events are seen (``places``). One that was seen nowhere yet is where its events would go: they
are keyed by account SID, and Java's partitioner, which our producers and most bridges use, hashes that key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from monitor.inputs.places import Places

_MASK: Final = 0xFFFFFFFF
_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995


def partition_of_key(key: str, partitions: int) -> int:
    """Where Java's default partitioner puts a key, and librdkafka's ``murmur2_random``.

    https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
    """
    data = key.encode()
    whole = len(data) & ~3
    hashed = _SEED ^ len(data)
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK
        hashed = hashed * _MULTIPLIER & _MASK ^ word
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _MASK
    return ((hashed ^ hashed >> 15) & 0x7FFFFFFF) % partitions


class OwnedAccounts:
    """Which accounts are ours now. The reading thread says which partitions are; any thread may ask.

    ``partitions`` says how many the events topic has, None while that is not known. ``changed`` is called on the
    reading thread when a partition has come or gone.
    """

    def __init__(self, places: Places, partitions: Callable[[], int | None], changed: Callable[[], None]) -> None:
        self._places = places
        self._partitions = partitions
        self._changed = changed
        self._ours: frozenset[int] = frozenset()

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that are ours and restored."""
        return self._ours

    def took(self, partition: int) -> None:
        """A partition is ours, and restored."""
        self._set(self._ours | {partition})

    def lost(self, partition: int) -> None:
        """A partition is no longer ours."""
        self._set(self._ours - {partition})

    def partition_of(self, account: str) -> int | None:
        """The partition of ours that an account is in; None where it is in somebody else's."""
        partition = self._places.home(account)
        if partition is None:
            count = self._partitions()
            if not count:
                return None
            partition = partition_of_key(account, count)
        return partition if partition in self._ours else None

    def _set(self, ours: frozenset[int]) -> None:
        if ours != self._ours:
            self._ours = ours
            self._changed()
