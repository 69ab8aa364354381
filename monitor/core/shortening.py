"""What can be said in fewer bytes before anything is compressed: whose SID it is, and an event's id.

A conversation's evidence names its members over and over; each is one of those it holds anyway, and stands here as a
number. The digits of an event's id can't be compressed: they are set apart, and make what is left smaller to look
through. A mark, which no text and no beginning of a msgpack value holds, says where either was; what follows it says
what. Both functions are compiled where that can be done (``shortener.pyx``), and then take a tenth of the time.
"""

from __future__ import annotations

import re
from typing import Final

from monitor.core.compiled import is_current

MARK: Final = b"\xc1"
ITSELF: Final = 0xFF
IDS: Final = {b"E": b"\xc1\xfe", b"V": b"\xc1\xfd"}  # By the first letter of ``Kept.id``.
DIGITS: Final = 16  # Bytes that an id's digits take.
IDS_MAX: Final = 0xFFFF
MEMBERS_MAX: Final = 0xFC

# Just what ``msgspec`` writes: an id of the usual kind, as bytes, and a SID, as text.
_TOLD: Final = re.compile(rb"\xc1|\xc4\x11([EV])(.{16})|\xd9\x22([A-Z]{2}[0-9A-Za-z]{32})", re.DOTALL)
_MARKED: Final = re.compile(rb"\xc1(.)", re.DOTALL)


def plainly_shorten(data: bytes, members: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Evidence with marks in the place of members and of ids; and the digits of these, in order."""
    numbers = {sid.encode(): number for number, sid in reversed([*enumerate(members[:MEMBERS_MAX])])}
    digits: list[bytes] = []

    def shorter(told: re.Match[bytes]) -> bytes:
        letter, id_digits, sid = told.groups()
        if letter is not None and len(digits) < IDS_MAX:
            digits.append(id_digits)
            return IDS[letter]
        number = ITSELF if sid is None else numbers.get(sid)
        if number is None:
            return told[0]
        return told[0].replace(MARK, bytes((*MARK, ITSELF))) if number == ITSELF else bytes((*MARK, number))

    return _TOLD.sub(shorter, data), b"".join(digits)


def plainly_restore(short: bytes, digits: bytes, members: tuple[str, ...]) -> bytes:
    """What was shortened, with the same members. Raises ValueError where it was with others."""
    taken = 0

    def longer(marked: re.Match[bytes]) -> bytes:
        nonlocal taken
        letter = _LETTERS.get(marked[0])
        if letter is not None:
            taken += DIGITS
            if taken > len(digits):
                raise ValueError("an id is missing")
            return b"\xc4\x11" + letter + digits[taken - DIGITS : taken]
        number = marked[1][0]
        if number == ITSELF:
            return MARK
        if number >= min(len(members), MEMBERS_MAX):
            raise ValueError("a member is missing")
        return b"\xd9\x22" + members[number].encode()

    return _MARKED.sub(longer, short)


_LETTERS: Final = {mark: letter for letter, mark in IDS.items()}

COMPILED = False
shorten, restore = plainly_shorten, plainly_restore
try:
    from monitor.core import shortener
except ImportError:
    pass
else:
    if is_current(shortener.BUILT_FROM, "shortener.pyx"):
        COMPILED, shorten, restore = True, shortener.shorten, shortener.restore
