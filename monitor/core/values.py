"""Values as they come in, made ours: text, truth, numbers, SIDs and instants. None is not said, or not readable.

Bridges turn text into numbers and truth values and back; nothing here minds, and nothing here raises.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

# A value that Twilio sends as text and that a bridge may have turned into a number or a truth value.
Text = str | int | float | bool | None


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
    """A whole number, or its digits."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=65_536)
def _is_plain(text: str) -> bool:
    # A SID comes a dozen times and more; looking at each of its letters costs more than remembering the answer.
    return text.isalnum() and text.isascii()


def is_sid(value: object, prefix: str) -> bool:
    """Whether ``value`` is shaped like a SID: the two letters, then 32 letters or digits."""
    return isinstance(value, str) and len(value) == 34 and value[:2] == prefix and _is_plain(value)


def sid_of(value: object, prefix: str) -> str | None:
    """A SID of this prefix; anything else is none."""
    # The same question as `is_sid`: five times an event, a call within the call would show.
    if isinstance(value, str) and len(value) == 34 and value[:2] == prefix and _is_plain(value):
        return value
    return None


_EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
_LATEST_MS: Final = 7_258_118_400_000  # 2200-01-01
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


DATE_LENGTH_MAX: Final = 64  # What is longer is no date, and must not fill the cache.


def instant_ms(text: str) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 or RFC 2822 date or of epoch seconds or milliseconds; else None.

    A date without an offset is UTC. The three spellings that Twilio uses most differ within a minute only in a few
    digits, and are read as a minute, which is remembered, and the rest.
    """
    length = len(text)
    if length == _ISO_MS and text[19] == "." and text[23] == "Z":
        minute_ms, seconds, millis = _minute_ms(text[:17]), text[17:19], text[20:23]
    elif length == _ISO_S and text[19] == "Z":
        minute_ms, seconds, millis = _minute_ms(text[:17]), text[17:19], "000"
    elif length == _RFC_2822 and text[25:] == " +0000":
        minute_ms, seconds, millis = _minute_ms(text[:23]), text[23:25], "000"
    else:
        return _read_instant(text)
    if minute_ms is None or not (text.isascii() and seconds.isdecimal() and millis.isdecimal() and seconds < "60"):
        return _read_instant(text)
    return _plausible(minute_ms + int(seconds) * 1000 + int(millis))


_ISO_MS: Final = len("2026-11-02T15:30:00.000Z")
_ISO_S: Final = len("2026-11-02T15:30:00Z")
_RFC_2822: Final = len("Mon, 02 Nov 2026 15:30:00 +0000")


_ISO_MINUTE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:")
_RFC_2822_MINUTE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:")


@lru_cache(maxsize=8_192)
def _minute_ms(minute: str) -> int | None:
    if _ISO_MINUTE.fullmatch(minute):
        return _read_instant(minute + "00Z")
    return _read_instant(minute + "00 +0000") if _RFC_2822_MINUTE.fullmatch(minute) else None


@lru_cache(maxsize=65_536)
def _read_instant(text: str) -> int | None:
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


def instant_of(value: Text) -> int | None:
    """An instant in milliseconds since 1970, of text or of a number."""
    if isinstance(value, str):
        return instant_ms(value) if len(value) <= DATE_LENGTH_MAX else None
    if isinstance(value, bool) or value is None:
        return None
    return instant_ms(repr(value))


def duration_of(value: Text) -> int | None:
    """Seconds as milliseconds; Twilio writes -1 where it does not know."""
    seconds = number_of(value)
    return seconds * 1000 if seconds is not None and 0 <= seconds < 10_000_000 else None
