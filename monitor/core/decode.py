"""Turns the bytes of a message into entries.

Its *form* is undone first: one object, an array, lines, a JSON string around any of them, CloudEvents binary mode. Then
each entry is read into one typed struct (``envelope``) and handed to the reader of its type (``readers``); where that
finds less than entries of the type usually say, it is straightened and read again. Nothing here raises.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Final

import msgspec

from monitor.core.envelope import (
    FAULTS,
    NESTING_MAX,
    Callback,
    Envelope,
    decode_any,
    decode_raws,
    decode_typed,
    loosen,
    straighten,
)
from monitor.core.events import Entry, Event, Malformed
from monitor.core.readers import (
    BY_ENVELOPE,
    MEMBERLESS,
    TICK,
    Reader,
    UnreadableError,
    decode_envelope,
    reader_of,
    shape_of,
    unread,
)
from monitor.core.twiml import TwimlRefusedError
from monitor.core.values import MESSAGE_BYTES_MAX, Text, sid_of

ENTRIES_MAX: Final = 10_000


Headers = Sequence[tuple[str, bytes | None]]


def decode(value: bytes | None, headers: Headers | None = None) -> list[Entry]:
    """Read every entry of a message, in order. A message without content (a tombstone, ``[]``) has none.

    ``headers`` are Kafka's, where one may have None as its content; with ``ce_type`` among them the message is in
    CloudEvents binary mode.
    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
    """
    if value is None:
        return []
    if len(value) > MESSAGE_BYTES_MAX:
        return [Malformed("too-large", f"{len(value)} bytes", value)]
    attributes = _attributes(headers)
    if attributes:
        return [_binary(value, attributes)]
    try:
        envelope = decode_envelope(value)
    except FAULTS:
        spelled = _type_of(value) if value[:1] == b"{" else None
        if spelled is not None:
            return [_look_again(value, spelled)]
        return [part if isinstance(part, Malformed) else _object(part) for part in _unwrap(value, NESTING_MAX)]
    return [entry_of(envelope, value)]


def entries_of(value: bytes) -> list[bytes]:
    """The entries of a message that is not in binary mode, each with its own bytes; what hides them is one entry."""
    return [part.data if isinstance(part, Malformed) else part for part in _unwrap(value, NESTING_MAX)]


def account_of(value: bytes, headers: Headers | None = None) -> str | None:
    """The account that a message of one entry is of, whether or not it is of a type we read; None: it does not say."""
    attributes = _attributes(headers)
    if attributes:
        try:
            value = _structured(value, attributes)
        except FAULTS:
            return None
    if b"AC" not in value and b"\\u" not in value:
        return None  # No SID stands in it, not even spelled in escapes: tens of thousands of such are told at once.
    for entry in decode(value):
        if isinstance(entry, Event) and entry.account:
            return entry.account
    try:
        raw = decode_any(value)
        envelope = straighten(loosen(raw), Callback) if isinstance(raw, dict) else None
    except FAULTS:
        return None
    if envelope is None:
        return None
    assert isinstance(envelope.data, Callback)
    return sid_of(envelope.data.request.parameters.account_sid, "AC") or sid_of(envelope.data.account_sid, "AC")


def _type_of(raw: bytes) -> Text:
    """What an object says that it is, in the spelling of CloudEvents."""
    try:
        return decode_typed(raw).type
    except FAULTS:
        return None


def _attributes(headers: Headers | None) -> dict[str, bytes]:
    """The headers of a message in binary mode; empty for any other."""
    attributes = {key.lower(): content for key, content in headers or () if content is not None}
    return attributes if "ce_type" in attributes else {}


def _unwrap(value: bytes, nesting: int) -> list[bytes | Malformed]:
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
            return [bytes(raw) for raw in raws]
        if first == b'"':
            inner = msgspec.json.decode(text, type=str).encode()
            if nesting == 0:
                return [Malformed("too-deep", "a JSON string in a JSON string", value)]
            return _unwrap(_from_base64(inner), nesting - 1)
        if first == b"{":
            wrapped = _connect_payload(text)
            if wrapped is not None and nesting:
                return _unwrap(wrapped, nesting - 1)
    except FAULTS:
        pass  # Perhaps several values in lines; otherwise it is one that nobody can read.
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and nesting and any(_is_value(line) for line in lines) and not _is_value(text):
        if len(lines) > ENTRIES_MAX:
            return [Malformed("too-many-entries", f"{len(lines)} lines", value)]
        return [part for line in lines for part in _unwrap(line, nesting - 1)]
    return [text]


def _from_base64(text: bytes) -> bytes:
    """What a JSON string holds that is base64, as Kafka Connect's JSON converter writes bytes; else the text itself."""
    try:
        inner = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return text
    return inner if inner.lstrip()[:1] in (b"{", b"[") else text


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
        return _object(_structured(value, attributes))
    except FAULTS as fault:
        return Malformed(_fault_reason(fault), str(fault), value)


def _structured(value: bytes, attributes: dict[str, bytes]) -> bytes:
    """A message in binary mode as one object. Raises FAULTS."""
    named = {
        name: attributes["ce_" + name].decode()
        for name in ("type", "id", "source", "time")
        if "ce_" + name in attributes
    }
    data = msgspec.Raw(value.strip() or b"null")
    decode_any(data)
    return msgspec.json.encode({**named, "data": data})


def _object(raw: bytes) -> Entry:
    """Read one entry that has to be a JSON object."""
    try:
        envelope = decode_envelope(raw)
    except FAULTS:
        return _look_again(raw, _type_of(raw))
    return entry_of(envelope, raw)


def entry_of(envelope: Envelope, raw: bytes) -> Entry:
    """Read an entry that has the shape of its type. Where it says too little, it is perhaps only put otherwise."""
    kind, read = BY_ENVELOPE[type(envelope)]
    try:
        entry = read(kind, envelope, envelope.data)
    except _UNREADABLE as fault:
        return _malformed(fault, raw)
    if isinstance(entry, Event):
        if (entry.account and entry.members) or _lacking(entry, read) is None:
            return entry
    elif entry is not None:
        return entry
    return _look_again(raw, kind)


def _lacking(event: Event, read: Reader) -> str | None:
    """What an event lacks to be of any use, as the reason of its quarantine."""
    if not event.account and event.type != TICK:
        return "no-account"
    return "no-sid" if not event.members and read not in MEMBERLESS else None


def _look_again(raw: bytes, spelled: Text) -> Entry:
    """Read an entry whatever its spelling and its nesting; ``spelled`` is its type as far as it is known."""
    if isinstance(spelled, str) and spelled and reader_of(spelled) is None:
        return unread(spelled)
    try:
        return _straightened(raw)
    except _UNREADABLE as fault:
        return _malformed(fault, raw)


def _straightened(raw: bytes) -> Entry:
    value = decode_any(raw)
    if not isinstance(value, dict):
        raise UnreadableError("not-an-object", type(value).__name__)
    loose = loosen(value)
    if not isinstance(loose.type, str) or not loose.type:
        raise UnreadableError("no-type")
    found = reader_of(loose.type)
    if found is None:
        return unread(loose.type)
    kind, read = found
    envelope = straighten(loose, shape_of(read))
    if envelope is None:
        raise UnreadableError("no-data")
    entry = read(kind, envelope, envelope.data)
    assert entry is not None, "a straightened entry is read whatever it lacks"
    lacking = _lacking(entry, read) if isinstance(entry, Event) else None
    if lacking is not None:
        raise UnreadableError(lacking)
    return entry


_UNREADABLE: Final = (UnreadableError, *FAULTS)  # TwimlRefusedError is a ValueError, and so among the faults.


def _malformed(fault: Exception, raw: bytes) -> Malformed:
    if isinstance(fault, UnreadableError):
        return Malformed(fault.reason, fault.detail, raw)
    return Malformed(_fault_reason(fault), str(fault), raw)


def _fault_reason(fault: Exception) -> str:
    if isinstance(fault, TwimlRefusedError):
        return "twiml-refused"
    if isinstance(fault, RecursionError):
        return "too-deep"
    return "wrong-shape" if isinstance(fault, msgspec.ValidationError) else "not-json"
