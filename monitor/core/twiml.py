"""Finds the conferences that a piece of TwiML records, through a parser that refuses what TwiML never needs.

The body of a TwiML response arrives base64-encoded. Most bodies hold no recording attribute at all, and these are not
even decoded: ``ecord`` must stand in the bytes literally, since neither element nor attribute names can be written as
character references, and any five bytes have only three spellings in base64.
https://www.twilio.com/docs/voice/twiml/conference#attributes-record
"""

from __future__ import annotations

import binascii
from typing import Final
from xml.parsers import expat

_ECORD_IN_BASE64: Final = ("ZWNvcm", "Vjb3Jk", "lY29yZ")
_BYTE_ORDER_MARKS: Final = ("//4", "/v8", "77u/")
_RECORDS: Final = frozenset({"true", "record-from-start"})
BODY_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 64


class TwimlRefusedError(ValueError):
    """The document holds a DTD or an entity, is nested too deeply or is too large to be TwiML."""


def recorded_conferences(body: str | None) -> tuple[str, ...]:
    """Name the conferences that the TwiML in ``body`` (base64, or bare XML) joins with recording on, in order.

    A body that is not well-formed counts as far as it can be read. Raises ``TwimlRefusedError``.
    """
    if not body:
        return ()
    if body.lstrip()[:1] == "<":
        return recorded_conferences_in_xml(body)
    first, second, third = _ECORD_IN_BASE64
    if not (first in body or second in body or third in body or _may_hide(body)):
        return ()
    if len(body) > BODY_BYTES_MAX * 4 // 3:
        raise TwimlRefusedError("the TwiML is too large")
    try:
        xml = binascii.a2b_base64(body)
    except (binascii.Error, ValueError):
        return ()
    return _parse(xml)


def recorded_conferences_in_xml(text: str) -> tuple[str, ...]:
    """The same for TwiML given as text, as in a request's ``Twiml`` parameter."""
    if "ecord" not in text:
        return ()
    if len(text) > BODY_BYTES_MAX:
        raise TwimlRefusedError("the TwiML is too large")
    return _parse(text.encode("utf-8", "surrogatepass"), encoding="utf-8")


def _may_hide(body: str) -> bool:
    """A body broken into lines, or in another encoding than an ASCII superset, can hide the five bytes."""
    return "\n" in body or "\r" in body or " " in body or body.startswith(_BYTE_ORDER_MARKS)


def records(value: object) -> bool:
    """Whether a ``record``-like value turns recording on; ``false`` and ``do-not-record`` do not."""
    return value is True or (isinstance(value, str) and value.strip().lower() in _RECORDS)


def _parse(xml: bytes, encoding: str | None = None) -> tuple[str, ...]:
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

    parser = expat.ParserCreate(encoding)
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError:
        pass  # Twilio may cut a long body short: what stood before the break was there.
    return tuple(dict.fromkeys(found))
