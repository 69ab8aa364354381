"""Turns the bytes of a message into entries: one function a family of Twilio event types, and the table of types.

The way of a message: its *form* is undone first (one object, an array, lines, a JSON string around any of them,
CloudEvents binary mode), then each entry is read into ``_Envelope``, one typed struct that holds only the fields we
use. What the struct can't hold as it stands (flat fields, other spellings, unexpected types) is brought into its shape
by ``_straighten`` and read again, so that the functions below know one shape only. Nothing here raises.

Field names and types: https://www.twilio.com/docs/events/event-types-overview
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from monitor.core.events import (
    FOUND_BY_LISTING,
    FOUND_BY_STREAM,
    FOUND_BY_VERB,
    AnyFact,
    CallFact,
    ConferenceFact,
    Entry,
    Event,
    ExecutionFact,
    FlexSetting,
    FlowSetting,
    Ignored,
    Malformed,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
    WorkerSession,
)
from monitor.core.twiml import TwimlRefusedError, recorded_conferences, recorded_conferences_in_xml, records

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
NESTING_MAX: Final = 3
ENTRIES_MAX: Final = 10_000

OWN: Final = "dev.recording-monitor."
TICK: Final = OWN + "tick"
_TWILIO: Final = "com.twilio."
_SINK_ERRORS: Final = frozenset({"93101", "93102", "93103", "93104", "91303", "91304"})

# A value that Twilio sends as text and that a bridge may have turned into a number or a truth value.
Text = str | int | float | bool | None


class _Parameters(msgspec.Struct, gc=False, rename="pascal"):
    """Callback and request parameters: https://www.twilio.com/docs/voice/api/recording#recording-status-callback."""

    account_sid: Text = None
    call_sid: Text = None
    parent_call_sid: Text = None
    dial_call_sid: Text = None
    conference_sid: Text = None
    call_sid_ending_conference: Text = None
    recording_sid: Text = None
    recording_url: Text = None
    recording_status: Text = None
    recording_source: Text = None
    recording_start_time: Text = None
    recording_duration: Text = None
    friendly_name: Text = None
    status_callback_event: Text = None
    timestamp: Text = None
    direction: Text = None
    from_: Text = msgspec.field(name="From", default=None)
    to: Text = None
    twiml: Text = None
    conference_record: Text = None
    status: Text = None


class _Request(msgspec.Struct, gc=False):
    url: Text = None
    parameters: _Parameters | None = None


class _Response(msgspec.Struct, gc=False, rename="camel"):
    response_code: Text = None
    response_body: Text = None


class _Payload(msgspec.Struct, gc=False):
    """https://www.twilio.com/docs/events/event-types/taskrouter/task."""

    account_sid: Text = None
    timestamp_ms: Text = None
    task_sid: Text = None
    task_attributes: Any = None
    task_queue_sid: Text = None
    task_queue_name: Text = None
    worker_sid: Text = None
    worker_name: Text = None


class _Properties(msgspec.Struct, gc=False):
    direction: Text = None
    recording_enabled: Text = None


class _Data(msgspec.Struct, gc=False):
    """The ``data`` of every type we read, in one struct: a key that two types share means the same in both."""

    request: _Request | None = None
    response: _Response | None = None
    payload: _Payload | str | None = None
    properties: _Properties | None = None
    sid: Text = None
    pascal_account_sid: Text = msgspec.field(name="AccountSid", default=None)
    account_sid: Text = None
    timestamp: Text = None
    call_sid: Text = None
    parent_call_sid: Text = None
    conference_sid: Text = None
    friendly_name: Text = None
    recording_enabled: Text = None
    create_time: Text = None
    start_time: Text = None
    end_time: Text = None
    join_time: Text = None
    leave_time: Text = None
    execution_sid: Text = None
    flow_sid: Text = None
    flow_revision: Text = None
    started_by: Text = None
    date_created: Text = None
    date_updated: Text = None
    name: Text = None
    transitioned_from: Text = None
    transitioned_to: Text = None
    error_code: Text = None
    # Our own events.
    source: Text = None
    status: Text = None
    duration: Text = None
    call_recording_enabled: Text = None
    since: Text = None
    previous: Text = None
    observed_at: Text = None
    revision: Text = None
    widgets: Any = None
    worker_sid: Text = None
    available_since: Text = None
    offline_since: Text = None


class _Envelope(msgspec.Struct, gc=False):
    """CloudEvents 1.0; https://www.twilio.com/docs/events/webhook-quickstart."""

    type: Text = None
    id: Text = None
    source: Text = None
    time: Text = None
    data: _Data | str | None = None


class _UnreadableError(Exception):
    """An entry that we should understand and don't; ``reason`` is from a closed set."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


_decode_envelope = msgspec.json.Decoder(_Envelope, strict=True).decode
_decode_data = msgspec.json.Decoder(_Data, strict=True).decode
_decode_any = msgspec.json.Decoder(Any).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

# --------------------------------------------------------------------------- the forms of a message


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
            envelope = _decode_envelope(value)
        except _FAULTS:
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
            raws = _decode_raws(text)
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
    except _FAULTS:
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
        value = _decode_any(text)
        return isinstance(value, dict | list) or (isinstance(value, str) and value.lstrip()[:1] in ("{", "["))
    except _FAULTS:
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
        _decode_any(data)
        return _object(msgspec.json.encode({**named, "data": data}))
    except _FAULTS as fault:
        return Malformed(_fault_reason(fault), str(fault), value)


def _object(raw: bytes) -> Entry:
    """Read one entry that has to be a JSON object."""
    try:
        envelope: _Envelope | None = _decode_envelope(raw)
    except _FAULTS:
        envelope = None
    if envelope is None or envelope.type is None:
        try:
            value = _decode_any(raw)
            if not isinstance(value, dict):
                return Malformed("not-an-object", type(value).__name__, raw)
            envelope = _straighten(value)
        except _FAULTS as fault:
            return Malformed(_fault_reason(fault), str(fault), raw)
    return _entry(envelope, raw)


def _fault_reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "too-deep"
    return "wrong-shape" if isinstance(fault, msgspec.ValidationError) else "not-json"


def _entry(envelope: _Envelope, raw: bytes) -> Entry:
    try:
        return _interpret(envelope, raw)
    except _UnreadableError as fault:
        return Malformed(fault.reason, fault.detail, raw)
    except TwimlRefusedError as fault:
        return Malformed("twiml-refused", str(fault), raw)
    except _FAULTS as fault:
        return Malformed(_fault_reason(fault), str(fault), raw)


def _interpret(envelope: _Envelope, raw: bytes) -> Entry:
    spelled = envelope.type
    if not isinstance(spelled, str) or not spelled:
        raise _UnreadableError("no-type")
    found = _READERS.get(spelled) or _READERS.get(spelled.strip().lower()) or _by_prefix(spelled)
    if found is None:
        return Ignored(spelled, known=spelled.lower().startswith(_IGNORED))
    kind, read = found
    data = envelope.data
    if isinstance(data, str):
        try:
            data = _decode_data(data)
        except _FAULTS:
            data = None
    entry: Entry | None = None
    if data is not None:
        entry = read(kind, envelope, data) if _fits(kind, data) else None
        if isinstance(entry, Event) and (entry.account or kind == TICK) and (entry.members or read in _MEMBERLESS):
            return entry
        if isinstance(entry, Ignored):
            return entry
    # Something is missing: perhaps it is only spelled, or put, otherwise.
    value = _decode_any(raw)
    straight = _straighten(value) if isinstance(value, dict) else envelope
    if not isinstance(straight.data, _Data):
        raise _UnreadableError("no-data")
    entry = read(kind, straight, straight.data)
    if isinstance(entry, Event):
        if not entry.account and kind != TICK:
            raise _UnreadableError("no-account")
        if not entry.members and read not in _MEMBERLESS:
            raise _UnreadableError("no-sid")
    return entry


# --------------------------------------------------------------------------- other shapes, brought into ours


def _fits(kind: str, data: _Data) -> bool:
    """Whether ``data`` has the nested, PascalCase shape that a reader of webhook events looks into.

    Where a field is missing that events of this type usually have, it may stand elsewhere: nested first, then flat.
    """
    usual = _USUAL.get(kind)
    if usual is None:
        return True
    p = data.request.parameters if data.request else None
    if p is None or (data.response is None and kind in _ANSWERED):
        return False
    if kind in _REQUESTS:
        return any(value is not None for value in usual(p))
    return None not in usual(p)


_FLAT_FAMILIES: Final = (
    "com.twilio.voice.status-callback.",
    "com.twilio.voice.twiml.",
    "com.twilio.voice.api-request.",
)


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _canonical(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {_plain(name): name for name in struct.__struct_encode_fields__}


_PARAMETER_NAMES: Final = _canonical(_Parameters)
_DATA_NAMES: Final = _canonical(_Data)
_REQUEST_NAMES: Final = _canonical(_Request)
_RESPONSE_NAMES: Final = _canonical(_Response)
_PAYLOAD_NAMES: Final = _canonical(_Payload)
_PROPERTY_NAMES: Final = _canonical(_Properties)
_ENVELOPE_NAMES: Final = _canonical(_Envelope)


def _renamed(value: object, names: dict[str, str]) -> dict[str, Any]:
    """The fields of ``value`` that ``names`` knows, in our spelling; the exact spelling beats another one."""
    if not isinstance(value, dict):
        return {}
    renamed: dict[str, Any] = {}
    for key, content in value.items():
        name = names.get(_plain(key)) if isinstance(key, str) else None
        if name is not None and (name not in renamed or key == name):
            renamed[name] = content
    return renamed


def _scalars(fields: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in keep or not isinstance(value, dict | list)}


def _straighten(value: dict[str, Any]) -> _Envelope:
    """Read an envelope whatever the case, the underscores and the nesting of its fields."""
    envelope = _renamed(value, _ENVELOPE_NAMES)
    data = envelope.get("data")
    for _ in range(NESTING_MAX):
        if not isinstance(data, str):
            break
        data = _decode_any(data)
    if not isinstance(data, dict):
        return msgspec.convert(_scalars({**envelope, "data": None}), _Envelope)
    fields = _renamed(data, _DATA_NAMES)
    straight = _scalars(fields, keep=("widgets",))
    kind = envelope.get("type")
    payload = fields.get("payload")
    if isinstance(payload, str) and isinstance(kind, str) and "taskrouter" in kind.lower():
        payload = _decode_any(payload)
    straight["payload"] = None
    if isinstance(payload, dict):
        straight["payload"] = _scalars(_renamed(payload, _PAYLOAD_NAMES), keep=("task_attributes",))
    elif "taskrouter" in str(kind).lower():
        straight["payload"] = _scalars(_renamed(data, _PAYLOAD_NAMES), keep=("task_attributes",))
    straight["properties"] = _scalars(_renamed(fields.get("properties"), _PROPERTY_NAMES))
    if isinstance(kind, str) and (kind.lower().startswith(_FLAT_FAMILIES) or "webhook.status-callback" in kind.lower()):
        request = _renamed(fields.get("request"), _REQUEST_NAMES)
        parameters = request.get("parameters")
        if isinstance(parameters, str):
            parameters = _decode_any(parameters)
        nested = _scalars(_renamed(parameters, _PARAMETER_NAMES))
        flat = _scalars(_renamed(data, _PARAMETER_NAMES))
        # A REST object spells its own SID `sid`; told apart by its prefix.
        request["parameters"] = {**flat, **{name: content for name, content in nested.items() if content is not None}}
        straight["request"] = _scalars(request, keep=("parameters",))
        if request.get("url") is None and isinstance(data.get("url"), str):
            request["url"] = data["url"]
        response = _renamed(fields.get("response"), _RESPONSE_NAMES) or _renamed(data, _RESPONSE_NAMES)
        straight["response"] = _scalars(response)
    else:
        straight["request"] = straight["response"] = None
    return msgspec.convert({**_scalars(envelope), "data": straight}, _Envelope)


# --------------------------------------------------------------------------- values


def _text(value: Text) -> str | None:
    """A value as text; None and the empty string are not said."""
    if isinstance(value, str):
        return value or None
    if value is None or isinstance(value, bool):
        return None
    return str(value)


def _truth(value: Text) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return None


def _number(value: Text) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def is_sid(value: object, prefix: str) -> bool:
    """Whether ``value`` is shaped like a SID: the two letters, then 32 letters or digits."""
    return (
        isinstance(value, str) and len(value) == 34 and value.startswith(prefix) and value.isalnum() and value.isascii()
    )


def _sid(value: object, prefix: str) -> str | None:
    if isinstance(value, str) and len(value) == 34 and value.startswith(prefix) and value.isalnum() and value.isascii():
        return value
    return None


_EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
_LATEST_MS: Final = 7_258_118_400_000  # 2200-01-01
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


DATE_LENGTH_MAX: Final = 64  # What is longer is no date, and must not fill the cache.


@lru_cache(maxsize=65_536)
def instant_ms(text: str) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 or RFC 2822 date or of epoch seconds or milliseconds; else None.

    A date without an offset is UTC. The cache pays: a second of traffic shares a few dozen spellings.
    """
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


def _instant(value: Text) -> int | None:
    if isinstance(value, str):
        return instant_ms(value) if len(value) <= DATE_LENGTH_MAX else None
    if isinstance(value, bool) or value is None:
        return None
    return instant_ms(repr(value))


def _duration_ms(value: Text) -> int | None:
    """Seconds as milliseconds; Twilio writes -1 where it does not know."""
    seconds = _number(value)
    return seconds * 1000 if seconds is not None and 0 <= seconds < 10_000_000 else None


_ACCOUNT_IN_PATH: Final = re.compile(r"/Accounts/(AC[0-9A-Za-z]{32})(?![0-9A-Za-z])")
_ACCOUNT_ANYWHERE: Final = re.compile(r"(?<![0-9A-Za-z])(AC[0-9A-Za-z]{32})(?![0-9A-Za-z])")


def _account(envelope: _Envelope, data: _Data) -> str:
    """The account's SID, from the most explicit place to the least; empty where there is none."""
    request = data.request
    parameters = request.parameters if request else None
    if parameters is not None and (account := _sid(parameters.account_sid, "AC")):
        return account
    if account := _sid(data.pascal_account_sid, "AC") or _sid(data.account_sid, "AC"):
        return account
    if isinstance(data.payload, _Payload) and (account := _sid(data.payload.account_sid, "AC")):
        return account
    for url in (request.url if request else None, envelope.source):
        if isinstance(url, str) and (match := _ACCOUNT_IN_PATH.search(url)):
            return match[1]
    if parameters is not None and isinstance(parameters.recording_url, str):
        match = _ACCOUNT_ANYWHERE.search(parameters.recording_url)
        if match:
            return match[1]
    return ""


def _recording_in_url(url: Text) -> str | None:
    """The last path segment of a recording's address is its SID."""
    if not isinstance(url, str):
        return None
    segment = url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    return _sid(segment.split(".", 1)[0], "RE")


def _event(
    kind: str,
    envelope: _Envelope,
    data: _Data,
    occurred_ms: int | None,
    members: tuple[str | None, ...],
    facts: tuple[AnyFact, ...],
) -> Event:
    time_ms = _instant(envelope.time) if kind.startswith(_TWILIO) else None
    if occurred_ms is None:
        occurred_ms = time_ms if kind.startswith(_TWILIO) else _instant(envelope.time)
    return Event(
        kind,
        _text(envelope.id),
        _account(envelope, data),
        occurred_ms,
        time_ms,
        tuple(dict.fromkeys([member for member in members if member is not None])),
        facts,
    )


def _code_refused(data: _Data) -> bool:
    """Whether the answer says that nothing came of it; no code at all is no refusal."""
    code = _number(data.response.response_code) if data.response else None
    return code is not None and code >= 400


_NO_PARAMETERS: Final = _Parameters()


def _parameters(data: _Data) -> _Parameters:
    request = data.request
    return (request.parameters if request else None) or _NO_PARAMETERS


# --------------------------------------------------------------------------- one function a family

Reader = Callable[[str, _Envelope, _Data], Entry]


def _recording(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    p = _parameters(data)
    recording = _sid(p.recording_sid, "RE") or _recording_in_url(p.recording_url) or _sid(data.sid, "RE")
    call = _sid(p.call_sid, "CA")
    conference = _sid(p.conference_sid, "CF")
    if call is None and conference is None:
        call, conference = _sid(data.sid, "CA"), _sid(data.sid, "CF")
    if recording is None:
        return _event(kind, envelope, data, None, (), ())
    occurred_ms = _instant(p.timestamp) or _instant(data.timestamp)
    fact = RecordingFact(
        recording,
        call,
        conference,
        _text(p.recording_source) or _text(data.source),
        _status(p.recording_status) or _status(data.status),
        _instant(p.recording_start_time) or _instant(data.start_time),
        _duration_ms(p.recording_duration if p.recording_duration is not None else data.duration),
        _text(data.request.url) if data.request else None,
        FOUND_BY_STREAM,
    )
    return _event(kind, envelope, data, occurred_ms, (recording, call, conference), (fact,))


def _status(value: Text) -> str | None:
    status = _text(value)
    return status.strip().lower() if status else None


_PHASES: Final = {
    "participant-join": "join",
    "participant-leave": "leave",
    "conference-start": "start",
    "conference-end": "end",
}


def _conference(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """Conference and participant events: the same parameters, and the callback event says which of the two it is."""
    p = _parameters(data)
    conference = _sid(p.conference_sid, "CF") or _sid(data.sid, "CF")
    call = _sid(p.call_sid, "CA")
    ending = _sid(p.call_sid_ending_conference, "CA")
    occurred_ms = _instant(p.timestamp) or _instant(data.timestamp)
    if conference is None:
        return _event(kind, envelope, data, occurred_ms, (call,), ())
    name = _text(p.friendly_name)
    happened = _text(p.status_callback_event)
    phase = _PHASES.get(happened.strip().lower() if happened else "", "seen")
    facts: list[AnyFact] = []
    if call is not None:
        inside = phase if phase in ("join", "leave") else "inside"
        facts.append(ParticipantFact(conference, call, inside, name, None))
    else:
        facts.append(ConferenceFact(conference, name, phase if phase in ("start", "end") else "seen", None, None))
    if ending is not None and ending != call:
        facts.append(ParticipantFact(conference, ending, "leave", name, None))
    return _event(kind, envelope, data, occurred_ms, (conference, call, ending), tuple(facts))


def _call(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    p = _parameters(data)
    call = _sid(p.call_sid, "CA") or _sid(data.sid, "CA")
    parent = _sid(p.parent_call_sid, "CA")
    return _event(
        kind, envelope, data, _instant(p.timestamp) or _instant(data.timestamp), (call, parent), _call_facts(call, p)
    )


def _call_facts(call: str | None, p: _Parameters) -> tuple[AnyFact, ...]:
    direction, from_, to = _text(p.direction), _text(p.from_), _text(p.to)
    if call is None or (direction is None and from_ is None and to is None):
        return ()
    return (CallFact(call, direction, from_, to),)


def _twiml(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """TwiML that Twilio asked for; an answer that refuses is not run."""
    p = _parameters(data)
    call = _sid(p.call_sid, "CA") or _sid(data.sid, "CA")
    facts = _call_facts(call, p)
    body = data.response.response_body if data.response else None
    if call is not None and isinstance(body, str) and not _code_refused(data):
        facts += tuple(TwimlFact(call, name) for name in recorded_conferences(body))
    members = (call, _sid(p.parent_call_sid, "CA"), _sid(p.dial_call_sid, "CA"), _sid(p.conference_sid, "CF"))
    return _event(kind, envelope, data, _instant(p.timestamp) or _instant(data.timestamp), members, facts)


def _verb(source: str) -> Reader:
    """``<Record>`` and ``<Dial>`` tell of their recording when they finish, with or without a recording callback."""

    def read(kind: str, envelope: _Envelope, data: _Data) -> Entry:
        entry = _twiml(kind, envelope, data)
        p = _parameters(data)
        recording = _sid(p.recording_sid, "RE") or _recording_in_url(p.recording_url)
        if recording is None or not isinstance(entry, Event):
            return entry
        fact = RecordingFact(
            recording,
            _sid(p.call_sid, "CA") or _sid(data.sid, "CA"),
            None,
            _text(p.recording_source) or source,
            _status(p.recording_status),
            _instant(p.recording_start_time),
            _duration_ms(p.recording_duration),
            None,
            FOUND_BY_VERB,
        )
        return msgspec.structs.replace(entry, members=(*entry.members, recording), facts=(*entry.facts, fact))

    return read


_CALL_IN_PATH: Final = re.compile(r"/(?:Calls|Participants)/(CA[0-9A-Za-z]{32})(?![0-9A-Za-z])")
_CONFERENCE_IN_PATH: Final = re.compile(r"/Conferences/([^/?#]+?)(?:\.json)?(?:[/?#]|$)")


def _call_request(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    p = _parameters(data)
    url = data.request.url if data.request else None
    path = _CALL_IN_PATH.search(url) if isinstance(url, str) else None
    call = _sid(p.call_sid, "CA") or _sid(data.sid, "CA") or (path[1] if path else None)
    facts = _call_facts(call, p)
    if call is not None and isinstance(p.twiml, str) and not _code_refused(data):
        facts += tuple(TwimlFact(call, name) for name in recorded_conferences_in_xml(p.twiml))
    return _event(kind, envelope, data, _instant(data.timestamp), (call,), facts)


def _conference_request(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """https://www.twilio.com/docs/voice/api/conference-participant-resource: the conference by SID or by name."""
    p = _parameters(data)
    url = data.request.url if data.request else None
    url = url if isinstance(url, str) else ""
    in_path = _CONFERENCE_IN_PATH.search(url.partition("?")[0])
    spelled = unquote(in_path[1]) if in_path else None
    conference = _sid(p.conference_sid, "CF") or _sid(data.sid, "CF") or _sid(spelled, "CF")
    name = spelled if spelled is not None and not is_sid(spelled, "CF") else None
    path = _CALL_IN_PATH.search(url)
    call = _sid(p.call_sid, "CA") or (path[1] if path else None) or _sid(data.sid, "CA")
    refused = _code_refused(data)
    if conference is None and call is None and name is not None and not refused:
        # A request that only names its conference still needs a place in the window until the name binds it.
        call = f"request:{envelope.id}:{name}"
    facts: list[AnyFact] = []
    if not refused:
        if conference is not None:
            facts.append(ConferenceFact(conference, name, "seen", None, None))
        if records(p.conference_record) and (conference is not None or name is not None):
            facts.append(RequestFact(conference, name, call))
    return _event(kind, envelope, data, _instant(data.timestamp), (conference, call), tuple(facts))


def _conference_summary(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """https://www.twilio.com/docs/voice/voice-insights/event-streams/conference-insights-event."""
    conference = _sid(data.conference_sid, "CF") or _sid(data.sid, "CF")
    start_ms = _instant(data.start_time) or _instant(data.create_time)
    end_ms = _instant(data.end_time)
    facts: list[AnyFact] = []
    if conference is not None:
        name = _text(data.friendly_name)
        facts.append(ConferenceFact(conference, name, "start", start_ms, _truth(data.recording_enabled)))
        if end_ms is not None:
            facts.append(ConferenceFact(conference, name, "end", end_ms, None))
    occurred_ms = _instant(data.timestamp) or end_ms or start_ms
    return _event(kind, envelope, data, occurred_ms, (conference,), tuple(facts))


def _participant_summary(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    conference, call = _sid(data.conference_sid, "CF"), _sid(data.call_sid, "CA")
    joined_ms, left_ms = _instant(data.join_time), _instant(data.leave_time)
    enabled = _truth(data.properties.recording_enabled) if data.properties else None
    facts: list[AnyFact] = []
    if conference is not None:
        if call is not None:
            facts.append(ParticipantFact(conference, call, "join" if joined_ms else "inside", None, joined_ms))
            if left_ms is not None:
                facts.append(ParticipantFact(conference, call, "leave", None, left_ms))
        facts.append(ConferenceFact(conference, None, "seen", joined_ms, enabled))
    occurred_ms = _instant(data.timestamp) or left_ms or joined_ms
    return _event(kind, envelope, data, occurred_ms, (conference, call), tuple(facts))


def _call_summary(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    call = _sid(data.call_sid, "CA") or _sid(data.sid, "CA")
    direction = _text(data.properties.direction) if data.properties else None
    facts: tuple[AnyFact, ...] = (CallFact(call, direction, None, None),) if call and direction else ()
    occurred_ms = _instant(data.timestamp) or _instant(data.end_time) or _instant(data.start_time)
    return _event(kind, envelope, data, occurred_ms, (call, _sid(data.parent_call_sid, "CA")), facts)


def _execution(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """https://www.twilio.com/docs/events/event-types/studio/flow."""
    execution = _sid(data.execution_sid, "FN") or _sid(data.sid, "FN")
    call = _sid(data.started_by, "CA") or _sid(data.call_sid, "CA")
    ended = kind.endswith(".ended")
    own_date = (data.date_updated or data.date_created) if ended else data.date_created
    facts: tuple[AnyFact, ...] = ()
    if execution is not None:
        facts = (ExecutionFact(execution, call, _text(data.flow_sid), _number(data.flow_revision), ended),)
    return _event(kind, envelope, data, _instant(data.timestamp) or _instant(own_date), (execution, call), facts)


def _step(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    execution = _sid(data.execution_sid, "FN")
    facts: tuple[AnyFact, ...] = ()
    if execution is not None:
        facts = (StepFact(execution, _text(data.transitioned_from), _text(data.transitioned_to), _text(data.name)),)
    return _event(kind, envelope, data, _instant(data.timestamp) or _instant(data.date_created), (execution,), facts)


class _Attributes(msgspec.Struct, gc=False):
    """What Flex writes into a task: https://www.twilio.com/docs/flex/developer/insights/enhance-integration."""

    call_sid: Any = None
    worker_call_sid: Any = None
    conference: Any = None


_decode_attributes = msgspec.json.Decoder(_Attributes).decode
_NO_ATTRIBUTES: Final = _Attributes()


def _attributes(value: object) -> _Attributes:
    try:
        if isinstance(value, str):
            return _decode_attributes(value)
        if isinstance(value, dict):
            return msgspec.convert(value, _Attributes)
    except _FAULTS:
        pass  # Attributes are the customer's own JSON: what we can't read tells us nothing.
    return _NO_ATTRIBUTES


def _task(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    payload = data.payload
    if not isinstance(payload, _Payload):
        return _event(kind, envelope, data, None, (), ())
    task = _sid(payload.task_sid, "WT")
    attributes = _attributes(payload.task_attributes)
    listed = attributes.conference if isinstance(attributes.conference, dict) else {}
    conference = _sid(listed.get("sid"), "CF")
    named = [attributes.call_sid, attributes.worker_call_sid]
    participants = listed.get("participants")
    if isinstance(participants, dict):
        named += list(participants.values())[:16]
    calls = tuple(dict.fromkeys([call for value in named if (call := _sid(value, "CA")) is not None]))
    facts: tuple[AnyFact, ...] = ()
    if task is not None:
        queue = tuple(v for v in (_text(payload.task_queue_sid), _text(payload.task_queue_name)) if v)
        worker = tuple(v for v in (_text(payload.worker_sid), _text(payload.worker_name)) if v)
        facts = (TaskFact(task, conference, calls, queue, worker),)
    occurred_ms = _instant(payload.timestamp_ms) or _instant(data.timestamp)
    return _event(kind, envelope, data, occurred_ms, (task, conference, *calls), facts)


def _worker(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    payload = data.payload
    occurred_ms = _instant(payload.timestamp_ms) if isinstance(payload, _Payload) else None
    return _event(kind, envelope, data, occurred_ms or _instant(data.timestamp), (), ())


def _error(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """Only what Twilio says of our own sink concerns us: https://www.twilio.com/docs/events/event-types/errors/error-logs."""
    if _text(data.error_code) not in _SINK_ERRORS:
        return Ignored(kind, known=True)
    return _event(kind, envelope, data, _instant(data.timestamp) or _instant(data.date_created), (), ())


# --------------------------------------------------------------------------- our own events


def _tick(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    return _event(kind, envelope, data, None, (), ())


def _listed(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    recording, call, conference = _sid(data.sid, "RE"), _sid(data.call_sid, "CA"), _sid(data.conference_sid, "CF")
    facts: tuple[AnyFact, ...] = ()
    if recording is not None:
        fact = RecordingFact(
            recording,
            call,
            conference,
            _text(data.source),
            _status(data.status),
            _instant(data.start_time),
            _duration_ms(data.duration),
            None,
            FOUND_BY_LISTING,
        )
        facts = (fact,)
    return _event(kind, envelope, data, _instant(data.date_created), (recording, call, conference), facts)


def _fetched(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    """An answer to enrichment: the REST fields of a conference, or of the events of a call."""
    conference = _sid(data.sid, "CF") or _sid(data.conference_sid, "CF")
    call = _sid(data.call_sid, "CA") or _sid(data.sid, "CA")
    facts: tuple[AnyFact, ...] = ()
    if conference is not None:
        facts = (ConferenceFact(conference, _text(data.friendly_name), "seen", _instant(data.date_created), None),)
    return _event(kind, envelope, data, None, (conference, call), facts)


def _flex_setting(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    event = _event(kind, envelope, data, _instant(data.observed_at), (), ())
    enabled = _truth(data.call_recording_enabled)
    if enabled is None or event.occurred_ms is None:
        raise _UnreadableError("bad-setting", "call_recording_enabled and observed_at are needed")
    setting = FlexSetting(event.account, enabled, _instant(data.since), _truth(data.previous), event.occurred_ms)
    return msgspec.structs.replace(event, setting=setting)


def _flow_setting(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    event = _event(kind, envelope, data, None, (), ())
    flow, revision = _text(data.flow_sid), _number(data.revision)
    if flow is None or revision is None or not isinstance(data.widgets, list):
        raise _UnreadableError("bad-setting", "flow_sid, revision and widgets are needed")
    recording = [
        widget["name"]
        for widget in data.widgets
        if isinstance(widget, dict)
        and widget.get("type") == "record-call"
        and _truth(widget.get("records"))
        and isinstance(widget.get("name"), str)
    ]
    return msgspec.structs.replace(event, setting=FlowSetting(event.account, flow, revision, tuple(recording)))


def _worker_session(kind: str, envelope: _Envelope, data: _Data) -> Entry:
    event = _event(kind, envelope, data, None, (), ())
    worker = _sid(data.worker_sid, "WK")
    if worker is None or event.occurred_ms is None:
        raise _UnreadableError("bad-setting", "worker_sid and time are needed")
    available_ms, offline_ms = _instant(data.available_since), _instant(data.offline_since)
    setting = WorkerSession(event.account, worker, available_ms, offline_ms, event.occurred_ms)
    return msgspec.structs.replace(event, setting=setting)


# --------------------------------------------------------------------------- the table of types

_VOICE: Final = _TWILIO + "voice."
_INSIGHTS: Final = _VOICE + "insights."

_BY_NAME: Final[dict[str, Reader]] = {
    _VOICE + "status-callback.recording.processed": _recording,
    _VOICE + "status-callback.conference.updated": _conference,
    _VOICE + "status-callback.conference.participant.updated": _conference,
    **{_VOICE + "status-callback.call." + phase: _call for phase in ("initiated", "ringing", "answered", "completed")},
    **{_VOICE + "twiml." + name: _twiml for name in ("call.requested", "call.redirected", "call.transferred")},
    **{
        _VOICE + "twiml." + name: _twiml
        for name in ("enqueue.finished", "gather.finished", "request.failed", "requested")
    },
    _VOICE + "twiml.call.request.failed": _twiml,
    _VOICE + "twiml.dial.finished": _verb("DialVerb"),
    _VOICE + "twiml.record.finished": _verb("RecordVerb"),
    **{_VOICE + "api-request.call." + verb: _call_request for verb in ("created", "modified", "deleted")},
    **{
        _VOICE + "api-request.conference-participant." + verb: _conference_request
        for verb in ("created", "modified", "deleted")
    },
    _VOICE + "api-request.conference.modified": _conference_request,
    **{_INSIGHTS + "conference-summary." + state: _conference_summary for state in ("partial", "complete")},
    **{
        _INSIGHTS + name + "-summary." + state: _participant_summary
        for name in ("conference-participant", "participant")
        for state in ("partial", "complete")
    },
    **{_INSIGHTS + "call-summary." + state: _call_summary for state in ("partial", "predicted-complete", "complete")},
    **{_TWILIO + "studio.flow.execution." + phase: _execution for phase in ("started", "ended")},
    _TWILIO + "studio.flow.step.ended": _step,
    _TWILIO + "taskrouter.worker.activity.update": _worker,
    _TWILIO + "error-logs.error.logged": _error,
    TICK: _tick,
    OWN + "recording.listed": _listed,
    OWN + "conference.fetched": _fetched,
    OWN + "call-events.fetched": _fetched,
    OWN + "flex-configuration.observed": _flex_setting,
    OWN + "studio-flow.observed": _flow_setting,
    OWN + "worker-session.observed": _worker_session,
}

# Spelling as found -> (our name, reader). The second prefix was renamed in February 2024 and can still be subscribed.
_READERS: Final[dict[str, tuple[str, Reader]]] = {name: (name, read) for name, read in _BY_NAME.items()} | {
    spelled: (name, _BY_NAME[name])
    for name in _BY_NAME
    for participant in (name, name.replace("conference.participant.updated", "conference-participant.updated"))
    for spelled in (participant, participant.replace("voice.status-callback.", "voice.webhook.status-callback."))
    if spelled != name
}

# What events of a type usually say in their parameters; of requests one of these is enough.
_USUAL_OF: Final[dict[Reader, tuple[str, ...]]] = {
    _recording: ("recording_sid", "recording_source", "recording_status", "recording_start_time"),
    _conference: ("conference_sid", "friendly_name", "timestamp"),
    _call: ("call_sid", "direction", "timestamp"),
    _twiml: ("call_sid", "direction"),
    _call_request: ("from_", "twiml"),
    _conference_request: ("from_", "conference_record"),
}
_USUAL: Final[dict[str, Callable[[_Parameters], tuple[Text, ...]]]] = {
    name: attrgetter(*_USUAL_OF[read]) for name, read in _BY_NAME.items() if read in _USUAL_OF
} | {
    _VOICE + "status-callback.conference.participant.updated": attrgetter(
        "call_sid", "conference_sid", "friendly_name", "timestamp"
    ),
    _VOICE + "twiml.dial.finished": attrgetter("call_sid", "direction", "dial_call_sid"),
    _VOICE + "twiml.record.finished": attrgetter("call_sid", "direction", "recording_url"),
}
_REQUESTS: Final = frozenset(name for name in _BY_NAME if name.startswith(_VOICE + "api-request."))
# Of these the answer counts: a refusal takes back what the parameters say.
_ANSWERED: Final = _REQUESTS | frozenset(name for name in _BY_NAME if name.startswith(_VOICE + "twiml."))
_TASK_PREFIXES: Final = (_TWILIO + "taskrouter.task.", _TWILIO + "taskrouter.reservation.")
_MEMBERLESS: Final[frozenset[Reader]] = frozenset(
    {_worker, _error, _tick, _flex_setting, _flow_setting, _worker_session, _call_request, _conference_request}
)
_IGNORED: Final = (
    _VOICE + "status-callback.amd.",
    _VOICE + "status-callback.announcement.",
    _VOICE + "status-callback.gather.",
    _VOICE + "status-callback.stream.",
    _VOICE + "status-callback.transcription.",
    _VOICE + "media.",
    _INSIGHTS + "call-metrics.",
    _INSIGHTS + "call-event.",
    _TWILIO + "taskrouter.",
    _TWILIO + "studio.",
    _TWILIO + "eventstreams.test-event",
)


def _by_prefix(spelled: str) -> tuple[str, Reader] | None:
    """TaskRouter has a dozen task and reservation events, all of one payload; the list grows."""
    lowered = spelled.strip().lower()
    return (lowered, _task) if lowered.startswith(_TASK_PREFIXES) else None


EVENT_TYPES: Final = tuple(sorted(_BY_NAME))
