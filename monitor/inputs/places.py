"""Where accounts are: in which partitions of the events topic. One that is in two is judged twice, each time by halves.

A process sees only the partitions it owns. So that two processes notice an account that each has a part of, an owner
says in the topic of account settings, which every process follows, where it sees an account: one small message an
account and partition, said again hourly. No verdict rests on it; but it says who asks Twilio about an account.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

PLACE_TYPE: Final = "dev.recording-monitor.account.seen"
SAY_EVERY_MS: Final = 3_600_000

_KEY: Final = re.compile("/place/[0-9]+$")


class _Data(msgspec.Struct):
    account_sid: str
    topic: str
    partition: int
    seen_at_ms: int


class _Event(msgspec.Struct):
    data: _Data


_decode: Final = msgspec.json.Decoder(_Event).decode


class Split(msgspec.Struct, frozen=True):
    """An account that is in two partitions."""

    account: str
    partitions: tuple[int, int]


class Places:
    """The places of accounts in one events topic: our own, and what other owners have said within ``lasts_ms``.

    It grows by one entry an account and partition, and forgets what is older than ``lasts_ms`` (but for where each
    account was last).
    """

    def __init__(self, topic: str, *, lasts_ms: int) -> None:
        self._topic = topic
        self._lasts_ms = lasts_ms
        self._seen: dict[str, dict[int, int]] = {}  # Of each account: partition, and when it was last seen there.
        self._said: dict[tuple[str, int], int] = {}
        self._split: set[str] = set()
        self._home: dict[str, tuple[int, int]] = {}  # Of each account: when it was last seen, and in which partition.

    def home(self, account: str) -> int | None:
        """The partition an account was last seen in, however long ago; None: in none yet. May be asked by any thread.

        Of one that is in two partitions it is the first, for everybody.
        """
        home = self._home.get(account)
        return None if home is None else home[1]

    def hear(self, key: str, value: bytes | None, now_ms: int) -> bool:
        """Take in a message of the account settings, if it is one of a place; whether it is."""
        if _KEY.search(key) is None:
            return False
        try:
            place = _decode(value or b"").data
        except (msgspec.DecodeError, UnicodeDecodeError):
            return True
        if place.topic != self._topic:
            return True
        if place.seen_at_ms > now_ms - self._lasts_ms:
            self._see(place.account_sid, place.partition, min(place.seen_at_ms, now_ms))
        elif place.seen_at_ms >= self._home.get(place.account_sid, (0, 0))[0]:
            self._home[place.account_sid] = (place.seen_at_ms, place.partition)
        return True

    def look(self, partition: int, accounts: Iterable[str], now_ms: int) -> Iterator[Split]:
        """Note which accounts are in a partition of ours; yield those that are in another one too, each once."""
        for account in accounts:
            seen = self._see(account, partition, now_ms)
            if len(seen) > 1 and account not in self._split:
                for other, at_ms in list(seen.items()):
                    if at_ms <= now_ms - self._lasts_ms:
                        del seen[other]
                    elif other != partition:
                        self._split.add(account)
                        first, second = sorted((other, partition))
                        yield Split(account, (first, second))
                        break

    def to_say(self, partition: int, accounts: Iterable[str], now_ms: int) -> Iterator[tuple[str, str, bytes]]:
        """Yield account, key and value of what is to be said anew; ``unsaid`` takes it back if it did not arrive."""
        for account in accounts:
            if now_ms - self._said.get((account, partition), -SAY_EVERY_MS) >= SAY_EVERY_MS:
                self._said[account, partition] = now_ms
                yield account, f"{account}/place/{partition}", self._render(account, partition, now_ms)

    def unsaid(self, account: str, partition: int) -> None:
        """What was to be said of it was not delivered."""
        self._said.pop((account, partition), None)

    def leave(self, partition: int) -> None:
        """A partition is no longer ours: who has it says what is in it, and what we said will have had its time."""
        self._said = {place: at_ms for place, at_ms in self._said.items() if place[1] != partition}

    def forget(self, now_ms: int) -> None:
        """Forget what was seen too long ago to mean anything."""
        before_ms = now_ms - self._lasts_ms
        for account, seen in list(self._seen.items()):
            for partition in [partition for partition, at_ms in seen.items() if at_ms <= before_ms]:
                del seen[partition]
            if not seen:
                del self._seen[account]
        self._said = {place: at_ms for place, at_ms in self._said.items() if at_ms > now_ms - SAY_EVERY_MS}

    def _see(self, account: str, partition: int, at_ms: int) -> dict[int, int]:
        seen = self._seen.setdefault(account, {})
        seen[partition] = max(at_ms, seen.get(partition, at_ms))
        self._home[account] = (max(seen.values()), min(seen))
        return seen

    def _render(self, account: str, partition: int, now_ms: int) -> bytes:
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "type": PLACE_TYPE,
                "source": "recording-monitor",
                "id": f"place:{account}:{self._topic}:{partition}:{now_ms}",
                "data": _Data(account, self._topic, partition, now_ms),
            }
        )
