"""Turns the bytes of a message into entries.

Its *form* is undone first: one object, an array, lines, a JSON string around any of them, CloudEvents binary mode. Then
each entry is read into one typed struct (``envelope``) and handed to the reader of its type (``readers``); where that
finds less than entries of the type usually say, it is straightened and read again. Nothing here raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from monitor.core.envelope import (
    FAULTS,
    NESTING_MAX,
    Data,
    Envelope,
    decode_any,
    decode_data,
    decode_envelope,
    decode_raws,
    straighten,
)
from monitor.core.events import Entry, Event, Ignored, Malformed
from monitor.core.readers import (
    ANSWERED,
    IGNORED,
    MEMBERLESS,
    READERS,
    REQUESTS,
    TICK,
    USUAL,
    UnreadableError,
    reader_by_prefix,
)
from monitor.core.twiml import TwimlRefusedError

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
ENTRIES_MAX: Final = 10_000


def decode(value: bytes | None, headers: Sequence[tuple[str, bytes | None]] | None = None) -> list[Entry]:
    """Read every entry of a message, in order. A message without content (a tombstone, ``[]``) has none.

    ``headers`` are Kafka's, where one may have None as its content; with ``ce_type`` among them the message is in
    CloudEvents binary mode.
    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
    """
    if value is None:
        return []
    if len(value) > MESSAGE_BYTES_MAX:
        return [Malformed("too-large", f"{len(value)} bytes", value)]
    if headers:
        attributes = {key.lower(): content for key, content in headers if content is not None}
        if "ce_type" in attributes:
            return [_binary(value, attributes)]
    if value[:1] == b"{":
        try:
            envelope = decode_envelope(value)
        except FAULTS:
            pass
        else:
            if envelope.type is not None:
                return [_entry(envelope, value)]
    return _unwrap(value, NESTING_MAX)


def _unwrap(value: bytes, nesting: int) -> list[Entry]:
    """Undo a form other than one plain object; ``nesting`` is how many more forms may lie inside."""
    text = value.strip(b" \t\r\n").removeprefix(b"\xef\xbb\xbf")
    if not text:
        return []
    first = text[:1]
    try:
        if first == b"[":
            raws = decode_raws(text)
            if len(raws) > ENTRIES_MAX:
                return [Malformed("too-many-entries", f"{len(raws)} elements", value)]
            return [_object(bytes(raw)) for raw in raws]
        if first == b'"':
            inner = msgspec.json.decode(text, type=str).encode()
            if nesting == 0:
                return [Malformed("too-deep", "a JSON string in a JSON string", value)]
            return _unwrap(inner, nesting - 1)
        if first == b"{":
            wrapped = _connect_payload(text)
            if wrapped is not None and nesting:
                return _unwrap(wrapped, nesting - 1)
    except FAULTS:
        pass  # Perhaps several values in lines; otherwise _object says what is wrong.
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and nesting and any(_is_value(line) for line in lines) and not _is_value(text):
        if len(lines) > ENTRIES_MAX:
            return [Malformed("too-many-entries", f"{len(lines)} lines", value)]
        return [entry for line in lines for entry in _unwrap(line, nesting - 1)]
    return [_object(text)]


def _is_value(text: bytes) -> bool:
    """Whether ``text`` is one whole JSON object or array, or a JSON string that begins like one.

    A brace alone on a line is none of these, nor is a word on a line of indented JSON.
    """
    try:
        value = decode_any(text)
        return isinstance(value, dict | list) or (isinstance(value, str) and value.lstrip()[:1] in ("{", "["))
    except FAULTS:
        return False


def _connect_payload(text: bytes) -> bytes | None:
    """What Kafka Connect's JSON converter put an event into: ``{"schema": …, "payload": …}``."""
    wrapper = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    if wrapper.keys() == {"schema", "payload"}:
        return bytes(wrapper["payload"])
    return None


def _binary(value: bytes, attributes: dict[str, bytes]) -> Entry:
    try:
        named = {
            name: attributes["ce_" + name].decode()
            for name in ("type", "id", "source", "time")
            if "ce_" + name in attributes
        }
        data = msgspec.Raw(value.strip() or b"null")
        decode_any(data)
        return _object(msgspec.json.encode({**named, "data": data}))
    except FAULTS as fault:
        return Malformed(_fault_reason(fault), str(fault), value)


def _object(raw: bytes) -> Entry:
    """Read one entry that has to be a JSON object."""
    try:
        envelope: Envelope | None = decode_envelope(raw)
    except FAULTS:
        envelope = None
    if envelope is None or envelope.type is None:
        try:
            value = decode_any(raw)
            if not isinstance(value, dict):
                return Malformed("not-an-object", type(value).__name__, raw)
            envelope = straighten(value)
        except FAULTS as fault:
            return Malformed(_fault_reason(fault), str(fault), raw)
    return _entry(envelope, raw)


def _fault_reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "too-deep"
    return "wrong-shape" if isinstance(fault, msgspec.ValidationError) else "not-json"


def _entry(envelope: Envelope, raw: bytes) -> Entry:
    try:
        return _interpret(envelope, raw)
    except UnreadableError as fault:
        return Malformed(fault.reason, fault.detail, raw)
    except TwimlRefusedError as fault:
        return Malformed("twiml-refused", str(fault), raw)
    except FAULTS as fault:
        return Malformed(_fault_reason(fault), str(fault), raw)


def _interpret(envelope: Envelope, raw: bytes) -> Entry:
    spelled = envelope.type
    if not isinstance(spelled, str) or not spelled:
        raise UnreadableError("no-type")
    found = READERS.get(spelled) or READERS.get(spelled.strip().lower()) or reader_by_prefix(spelled)
    if found is None:
        return Ignored(spelled, known=spelled.lower().startswith(IGNORED))
    kind, read = found
    data = envelope.data
    if isinstance(data, str):
        try:
            data = decode_data(data)
        except FAULTS:
            data = None
    entry: Entry | None = None
    if data is not None:
        entry = read(kind, envelope, data) if _fits(kind, data) else None
        if isinstance(entry, Event) and (entry.account or kind == TICK) and (entry.members or read in MEMBERLESS):
            return entry
        if isinstance(entry, Ignored):
            return entry
    # Something is missing: perhaps it is only spelled, or put, otherwise.
    value = decode_any(raw)
    straight = straighten(value) if isinstance(value, dict) else envelope
    if not isinstance(straight.data, Data):
        raise UnreadableError("no-data")
    entry = read(kind, straight, straight.data)
    if isinstance(entry, Event):
        if not entry.account and kind != TICK:
            raise UnreadableError("no-account")
        if not entry.members and read not in MEMBERLESS:
            raise UnreadableError("no-sid")
    return entry


def _fits(kind: str, data: Data) -> bool:
    """Whether ``data`` has the nested, PascalCase shape that a reader of webhook events looks into.

    Where a field is missing that events of this type usually have, it may stand elsewhere: nested first, then flat.
    """
    usual = USUAL.get(kind)
    if usual is None:
        return True
    p = data.request.parameters if data.request else None
    if p is None or (data.response is None and kind in ANSWERED):
        return False
    if kind in REQUESTS:
        return any(value is not None for value in usual(p))
    return None not in usual(p)
