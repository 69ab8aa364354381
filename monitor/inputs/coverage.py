"""Coverage: of the recordings that Twilio's REST API lists, how many the stream told us of.

A recording counts once it is over for Twilio and the stream had its time to say so; that the monitor knows it from the
listing is no merit of the stream. What was counted is kept by the hour; what can still change, by the recording: all
that was created at or after ``floor_ms``, so that whoever lists from there on counts each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from monitor.core.verdict import render_instant

HOUR_MS: Final = 3_600_000
COUNTED_MS: Final = 24 * HOUR_MS
"""How far back the number goes."""
PENDING_MS: Final = 4 * HOUR_MS
"""How long a recording that is not over is waited for; it is judged either way, but counts for nothing then."""
ENTRIES_MAX: Final = 200_000
"""Recordings kept one by one, about 300 B each; beyond it the oldest are no longer waited for."""
SETTLE_S: Final = 100.0
"""How long the stream has to tell of a recording after the listing first showed it as over."""


class Tally(NamedTuple):
    """Recordings that REST knows, and of these, those that the stream told of."""

    known: int
    seen: int


class Missed(NamedTuple):
    """A recording that the stream did not tell of."""

    sid: str
    created_ms: int
    source: str | None


class _Entry(msgspec.Struct, gc=False):
    created_ms: int
    source: str | None
    over_at: float | None = None  # When it was first listed as over, on the listing's clock.
    asked_at: float = 0.0
    seen: bool = False
    missed: bool = False


class Coverage:
    """The coverage of one account. Instants are Twilio's; what is called ``now`` is the listing's monotonic clock."""

    def __init__(self, floor_ms: int, hours: Mapping[int, Tally] | None = None) -> None:
        self.floor_ms = floor_ms
        self.newest_ms = floor_ms
        self.hours: dict[int, Tally] = dict(hours or {})
        self._entries: dict[str, _Entry] = {}

    def listed(self, sid: str, created_ms: int, source: str | None, *, over: bool, now: float) -> None:
        """REST lists a recording."""
        self.newest_ms = max(self.newest_ms, created_ms)
        entry = self._entries.get(sid)
        if entry is None:
            if created_ms < self.floor_ms:
                return  # It was counted before.
            entry = self._entries[sid] = _Entry(created_ms, source)
        entry.asked_at = now
        if over and entry.over_at is None:
            entry.over_at = now

    def told(self, sid: str) -> None:
        """The stream told of a recording."""
        entry = self._entries.get(sid)
        if entry is not None:
            entry.seen = True

    def is_done(self, sid: str) -> bool:
        """Whether nothing that is said of a recording can change anything any more."""
        entry = self._entries.get(sid)
        return entry is not None and entry.seen and entry.over_at is not None

    def untold(self) -> list[str]:
        """What the stream has not told of yet."""
        return [sid for sid, entry in self._entries.items() if not entry.seen]

    def overdue(self, before_ms: int, now: float, every_s: float) -> Iterator[str]:
        """What was created before an instant, so that it is listed no more, and is not known to be over."""
        for sid, entry in self._entries.items():
            if entry.created_ms < before_ms and entry.over_at is None and now - entry.asked_at >= every_s:
                yield sid

    def asked(self, sid: str, *, over: bool, now: float) -> None:
        """REST was asked for one recording."""
        entry = self._entries.get(sid)
        if entry is not None:
            entry.asked_at = now
            entry.over_at = now if over and entry.over_at is None else entry.over_at

    def settle(self, overlap_ms: int, now: float) -> Iterator[Missed]:
        """Yield what the stream has missed, each once; let go of what is settled and move ``floor_ms`` up to the rest.

        What was created within ``overlap_ms`` of the newest is listed again, and stays.
        """
        waiting_ms = self.newest_ms
        for sid, entry in self._entries.items():
            if entry.seen and entry.over_at is not None:
                continue
            if not entry.missed and entry.over_at is not None and now - entry.over_at >= SETTLE_S:
                entry.missed = True
                yield Missed(sid, entry.created_ms, entry.source)
            # One that is over is soon seen or missed, however old it is: whoever took over begins to wait anew.
            is_open = entry.over_at is None
            if not entry.missed and not (is_open and entry.created_ms < self.newest_ms - PENDING_MS):
                waiting_ms = min(waiting_ms, entry.created_ms)
        floor_ms = waiting_ms - overlap_ms
        if len(self._entries) > ENTRIES_MAX:
            floor_ms = max(floor_ms, sorted(e.created_ms for e in self._entries.values())[-ENTRIES_MAX])
        self.floor_ms = max(self.floor_ms, floor_ms)
        for sid in [sid for sid, entry in self._entries.items() if entry.created_ms < self.floor_ms]:
            self._count(self._entries.pop(sid))
        oldest_ms = self.newest_ms - COUNTED_MS
        self.hours = {hour_ms: tally for hour_ms, tally in self.hours.items() if hour_ms + HOUR_MS > oldest_ms}

    def tally(self) -> Tally:
        """Of the last day of Twilio's: how many recordings are known, and how many of them the stream told of."""
        known = sum(tally.known for tally in self.hours.values())
        seen = sum(tally.seen for tally in self.hours.values())
        for entry in self._entries.values():
            if entry.seen or entry.missed:
                known += 1
                seen += entry.seen
        return Tally(known, seen)

    def _count(self, entry: _Entry) -> None:
        if entry.seen or entry.missed:
            hour_ms = entry.created_ms - entry.created_ms % HOUR_MS
            tally = self.hours.get(hour_ms, Tally(0, 0))
            self.hours[hour_ms] = Tally(tally.known + 1, tally.seen + entry.seen)


# --------------------------------------------------------------------------- how far an account was listed

REACHED_TYPE: Final = "dev.recording-monitor.listing.reached"
_KEY: Final = "/listing/recordings"


class _Hour(msgspec.Struct, array_like=True):
    hour_ms: int
    known: int
    seen: int


class _Data(msgspec.Struct):
    account_sid: str
    listed_from_ms: int
    hours: tuple[_Hour, ...] = ()


class _Event(msgspec.Struct):
    data: _Data
    time: str | None = None


_decode: Final = msgspec.json.Decoder(_Event).decode


class Settled(NamedTuple):
    """What is settled of an account's recordings of the last day, by the hour in which they were created.

    Of what was created at ``to_ms`` or later more may come. ``said_at``: when whoever lists the account last said so.
    """

    account: str
    to_ms: int
    said_at: str | None
    hours: tuple[tuple[int, Tally], ...]


class Reached:
    """How far each account was listed, as the topic of account settings says: heard by every process.

    The reading thread hears, any thread may ask. One small entry an account.
    """

    def __init__(self) -> None:
        self._events: dict[str, _Event] = {}

    def hear(self, key: str, value: bytes | None) -> bool:
        """Take in a message of the account settings, if it is one of these; whether it is."""
        if not key.endswith(_KEY):
            return False
        try:
            event = _decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return True
        self._events[event.data.account_sid] = event
        return True

    def settled(self) -> list[Settled]:
        """What is settled, of each account that was ever listed."""
        return [
            Settled(
                account,
                event.data.listed_from_ms,
                event.time,
                tuple((one.hour_ms, Tally(one.known, one.seen)) for one in event.data.hours),
            )
            for account, event in sorted(self._events.items())
        ]

    def coverage(self, account: str, *, first_ms: int, oldest_ms: int) -> Coverage:
        """Where to go on with an account: where it was left (not before ``oldest_ms``), else ``first_ms``."""
        event = self._events.get(account)
        if event is None:
            return Coverage(first_ms)
        data = event.data
        hours = {one.hour_ms: Tally(one.known, one.seen) for one in data.hours}
        return Coverage(max(data.listed_from_ms, oldest_ms), hours)


def render_reached(account: str, coverage: Coverage, now_ms: int) -> tuple[str, bytes]:
    """Key and value of what is to be remembered of an account's listing."""
    hours = tuple(_Hour(hour_ms, *tally) for hour_ms, tally in sorted(coverage.hours.items()))
    at = render_instant(now_ms)
    event = {
        "specversion": "1.0",
        "type": REACHED_TYPE,
        "source": "recording-monitor",
        "id": f"listing:{account}:{at}",
        "time": at,
        "data": _Data(account, coverage.floor_ms, hours),
    }
    return account + _KEY, msgspec.json.encode(event)
