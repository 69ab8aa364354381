"""Finds the conferences that a piece of TwiML records, through a parser that refuses what TwiML never needs.

The body of a TwiML response arrives base64-encoded. Most bodies hold no recording attribute at all, and these are not
even decoded: ``ecord`` must stand in the bytes literally, since neither element nor attribute names can be written as
character references (only entities could hide them, and those need a document type), and any text has only three
spellings in base64.
https://www.twilio.com/docs/voice/twiml/conference#attributes-record
"""

from __future__ import annotations

import binascii
from functools import lru_cache
from typing import Final
from xml.parsers import expat


def _spellings(text: bytes) -> tuple[str, str, str]:
    """How ``text`` looks inside base64, by where it begins in a group of three bytes: the characters all its own."""
    whole = []
    for before in range(3):
        encoded = binascii.b2a_base64(b"\0" * before + text, newline=False).decode()
        whole.append(encoded[-(-before * 8 // 6) : (before + len(text)) * 8 // 6])
    one, two, three = whole
    return one, two, three


_RECORD_1, _RECORD_2, _RECORD_3 = _spellings(b"ecord")
_DOCTYPE_1, _DOCTYPE_2, _DOCTYPE_3 = _spellings(b"<!DOCTYPE")
# UTF-16, by its byte order mark or by the zero byte beside its first `<`: every other byte of it is zero.
_UTF_16: Final = ("//4", "/v8", "ADw", "PAA", "PAB", "PAC", "PAD")
_WHITESPACE: Final = dict.fromkeys(map(ord, " \t\r\n"))
_RECORDS: Final = frozenset({"true", "record-from-start"})
# What expat reads by itself. It would look any other name up among Python's codecs, some of which raise or warn.
_ENCODINGS: Final = frozenset({"utf-8", "utf-16", "us-ascii", "iso-8859-1"})
BODY_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 64
OFTEN_CHARACTERS_MAX: Final = 2_048


class TwimlRefusedError(ValueError):
    """The document holds a DTD or an entity, is nested too deeply or is too large to be TwiML."""


class _OtherEncodingError(Exception):
    """The document says that it is in an encoding which expat does not know."""


def recorded_conferences(body: str | None) -> tuple[str, ...]:
    """Name the conferences that the TwiML in ``body`` (base64, or bare XML) joins with recording on, in order.

    A body that is not well-formed, or was cut short, counts as far as it can be read. Raises ``TwimlRefusedError``.
    """
    if not body:
        return ()
    return _often_read(body) if len(body) <= OFTEN_CHARACTERS_MAX else _read(body)


def _read(body: str) -> tuple[str, ...]:
    bare = body.lstrip("\ufeff \t\r\n")
    if bare[:1] == "<":
        return recorded_conferences_in_xml(bare)
    if not _may_record(body):
        return ()
    if len(body) > BODY_BYTES_MAX * 4 // 3 + 4:
        raise TwimlRefusedError("the TwiML is too large")
    text = (body.translate(_WHITESPACE) if _is_broken(body) else body).rstrip("=")
    if len(text) % 4 == 1:
        text = text[:-1]  # Cut in the middle of a byte.
    try:
        xml = binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return ()  # No base64: nothing that Twilio ran.
    return _parse(xml)


# An application answers many calls with the same few words; longer ones must not fill the memory.
_often_read = lru_cache(maxsize=2_048)(_read)


def recorded_conferences_in_xml(text: str) -> tuple[str, ...]:
    """The same for TwiML given as text, as in a request's ``Twiml`` parameter."""
    if "ecord" not in text and "<!DOCTYPE" not in text:
        return ()
    if len(text) > BODY_BYTES_MAX:
        raise TwimlRefusedError("the TwiML is too large")
    return _parse(text.encode("utf-8", "surrogatepass"), encoding="utf-8")


def _may_record(body: str) -> bool:
    """Whether base64 can hold a recording attribute, or a document type, which can hide one behind an entity.

    A body broken by white space, or in an encoding without ASCII's bytes, can hide both.
    """
    return (
        _RECORD_1 in body
        or _RECORD_2 in body
        or _RECORD_3 in body
        or _DOCTYPE_1 in body
        or _DOCTYPE_2 in body
        or _DOCTYPE_3 in body
        or _is_broken(body)
        or body.startswith(_UTF_16)
    )


def _is_broken(body: str) -> bool:
    """Whether white space stands in base64; to search for each costs a tenth of taking them out."""
    return "\n" in body or "\r" in body or " " in body or "\t" in body


def records(value: object) -> bool:
    """Whether a ``record``-like value turns recording on; ``false`` and ``do-not-record`` do not."""
    return value is True or (isinstance(value, str) and value.strip().lower() in _RECORDS)


def _parse(xml: bytes, encoding: str | None = None) -> tuple[str, ...]:
    """Read the names; ``encoding`` None: the document's own, as it says."""
    if len(xml) > BODY_BYTES_MAX:
        raise TwimlRefusedError("the TwiML is too large")
    found: list[str] = []
    name: list[str] | None = None
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal name, depth
        depth += 1
        if depth > DEPTH_MAX:
            raise TwimlRefusedError("the TwiML is nested too deeply")
        if tag == "Conference" and records(attributes.get("record")):
            name = []

    def text(data: str) -> None:
        if name is not None:
            name.append(data)

    def end(tag: str) -> None:
        nonlocal name, depth
        depth -= 1
        if tag == "Conference" and name is not None:
            spelled = "".join(name).strip()
            if spelled:
                found.append(spelled)
            name = None

    def refuse(*_: object) -> None:
        raise TwimlRefusedError("the TwiML declares a document type or an entity")

    def declare(_version: str, spelled: str | None, _standalone: int) -> None:
        if encoding is None and spelled is not None and spelled.lower() not in _ENCODINGS:
            raise _OtherEncodingError

    parser = expat.ParserCreate(encoding)
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.XmlDeclHandler = declare
    try:
        parser.Parse(xml, True)
    except _OtherEncodingError:
        return _parse(xml, "iso-8859-1")  # Its ASCII is right, and no byte is wrong in it.
    except expat.ExpatError:
        pass  # A long body may have been cut short: what stood before the break was there.
    return tuple(dict.fromkeys(found))
