"""Values as they come in, made ours: text, truth, numbers, SIDs and instants. None is not said, or not readable.

Bridges turn text into numbers and truth values and back; nothing here minds, and nothing here raises.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

# A value that Twilio sends as text and that a bridge may have turned into a number or a truth value.
Text = str | int | float | bool | None
_Known = TypeVar("_Known")

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
AHEAD_MAX_MS: Final = 3_600_000  # What is stamped further ahead of log time counts only if its neighbour agrees.
_LEAST: Final = -(1 << 63)
_GREATEST: Final = (1 << 63) - 1
AGE_BOUNDS_MS: Final = (1_000, 5_000, 60_000, 900_000, 14_400_000)  # By which events are counted when they arrive.


def epoch_ms(instant: datetime) -> int:
    """An instant, with its time zone, as the milliseconds since 1970 that all of ours are."""
    return round(instant.timestamp() * 1000)


def span_ms(span: timedelta) -> int:
    """A span of time as whole milliseconds."""
    return span // timedelta(milliseconds=1)


def text_of(value: Text) -> str | None:
    """A value as text; None and the empty string are not said."""
    if isinstance(value, str):
        return value or None
    if value is None or isinstance(value, bool):
        return None
    return str(value)


def truth_of(value: Text) -> bool | None:
    """A truth value, or the word for one."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return None


def number_of(value: Text) -> int | None:
    """A whole number, or its digits; one that takes more than 64 bits could not be kept, and is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if _LEAST <= number <= _GREATEST else None


def is_sid(value: object, prefix: str) -> bool:
    """Whether ``value`` is shaped like a SID: the two letters, then 32 letters or digits."""
    return isinstance(value, str) and len(value) == 34 and value[:2] == prefix and value.isalnum() and value.isascii()


def sid_of(value: object, prefix: str) -> str | None:
    """A SID of this prefix; anything else is none."""
    return value if isinstance(value, str) and is_sid(value, prefix) else None


class _Memory(dict[Text, _Known]):
    """What was once read, by what was told; a value that is not there is read, and mostly remembered.

    Nearly all that is told was told before: to find it here costs a fifth of reading it. Whoever keeps a SID that came
    from here keeps the same object.
    """

    def __init__(self, of_none: _Known, size_max: int) -> None:
        super().__init__({None: of_none})
        self._of_none = of_none
        self._size_max = size_max

    def remember(self, told: Text, known: _Known) -> _Known:
        """Keep what ``told`` says; when there is too much, all else is forgotten, and read again."""
        if len(self) >= self._size_max:
            self.clear()
            self[None] = self._of_none
        self[told] = known
        return known


class Sids(_Memory[str | None]):
    """The SIDs of one prefix: ``CALLS[value]`` is the SID in ``value``, or None where that is none."""

    def __init__(self, prefix: str) -> None:
        super().__init__(None, size_max=4_096)
        self._prefix = prefix

    def __missing__(self, told: Text) -> str | None:
        return self.remember(told, told) if isinstance(told, str) and is_sid(told, self._prefix) else None


ACCOUNTS: Final = Sids("AC")
CALLS: Final = Sids("CA")
CONFERENCES: Final = Sids("CF")
EXECUTIONS: Final = Sids("FN")
RECORDINGS: Final = Sids("RE")
TASKS: Final = Sids("WT")


_EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
_LATEST_MS: Final = 7_258_118_400_000  # 2200-01-01
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


DATE_LENGTH_MAX: Final = 64  # What is longer is no date, and must not fill the memory.


class Instants(_Memory[int | None]):
    """Instants in milliseconds since 1970: ``INSTANTS[value]``, of a date or a number; None where it is neither.

    Most dates are whole seconds, which many events share. The two spellings that Twilio uses most are read as a
    beginning, which many dates share, and a rest, of which there are few.
    """

    def __init__(self) -> None:
        super().__init__(None, size_max=8_192)

    def __missing__(self, told: Text) -> int | None:
        if not isinstance(told, str):
            return None if isinstance(told, bool) else _read_instant(repr(told))
        rest_ms = _MILLISECONDS.get(told[19:])
        if rest_ms is not None:
            second_ms = _BEGINNINGS[told[:19]]
            if second_ms is not None:
                return _plausible(second_ms + rest_ms)  # Not worth remembering: hardly one of them comes again.
        rest_ms = _SECONDS.get(told[23:])
        if rest_ms is not None:
            minute_ms = _BEGINNINGS[told[:23]]
            if minute_ms is not None:
                return self.remember(told, _plausible(minute_ms + rest_ms))
        if len(told) == _EPOCH_MS and told.isdecimal() and told.isascii() and told[0] != "0":
            return _plausible(int(told))
        return self.remember(told, _read_instant(told)) if len(told) <= DATE_LENGTH_MAX else None


class _Beginnings(_Memory[int | None]):
    """Whole seconds by the first 19 letters of an ISO 8601 date, whole minutes by the first 23 of an RFC 2822 date."""

    def __init__(self) -> None:
        super().__init__(None, size_max=8_192)

    def __missing__(self, told: str) -> int | None:
        if _ISO_SECOND.fullmatch(told):
            return self.remember(told, _read_instant(told + "Z"))
        return self.remember(told, _read_instant(told + "00 +0000")) if _RFC_2822_MINUTE.fullmatch(told) else None


INSTANTS: Final = Instants()
_BEGINNINGS: Final = _Beginnings()
_EPOCH_MS: Final = len("1793631601019")
_ISO_SECOND: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_RFC_2822_MINUTE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:")
_MILLISECONDS: Final = {f".{millis:03}Z": millis for millis in range(1000)}
_SECONDS: Final = {f"{second:02} +0000": second * 1000 for second in range(60)}


def _read_instant(text: str) -> int | None:
    """Read an ISO 8601 or RFC 2822 date, UTC where it has no offset, or epoch seconds or milliseconds."""
    spelled = text.strip()
    try:
        if spelled[:4].isdigit() and len(spelled) > 7 and spelled[4] == "-":
            when = datetime.fromisoformat(spelled)
        elif spelled.replace(".", "", 1).isdigit() and len(spelled) <= 20:
            number = float(spelled)
            return _plausible(round(number if number >= 100_000_000_000 else number * 1000))
        else:
            when = parsedate_to_datetime(spelled)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        since = when - _EPOCH
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return _plausible((since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000)


def _plausible(ms: int) -> int | None:
    return ms if _EARLIEST_MS <= ms <= _LATEST_MS else None


def duration_of(value: Text) -> int | None:
    """Seconds as milliseconds; Twilio writes -1 where it does not know."""
    seconds = number_of(value)
    return seconds * 1000 if seconds is not None and 0 <= seconds < 10_000_000 else None
