"""The shape of an entry: one typed struct with the fields we use, and how other shapes are brought into it.

``Envelope`` is what nearly every entry decodes into directly. What it can't hold as it stands (flat fields, other
spellings, unexpected types) ``straighten`` brings into its shape, so that the readers know one shape only.
https://www.twilio.com/docs/events/event-types-overview
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from monitor.core.values import Text

NESTING_MAX: Final = 3


class Parameters(msgspec.Struct, gc=False, rename="pascal"):
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
    hold: Text = None
    muted: Text = None
    status: Text = None


class Request(msgspec.Struct, gc=False):
    """What Twilio asked for, or was asked for."""

    url: Text = None
    parameters: Parameters | None = None


class Response(msgspec.Struct, gc=False, rename="camel"):
    """What was answered; the body is base64."""

    response_code: Text = None
    response_body: Text = None


class Payload(msgspec.Struct, gc=False):
    """https://www.twilio.com/docs/events/event-types/taskrouter/task."""

    account_sid: Text = None
    timestamp_ms: Text = None
    task_sid: Text = None
    task_attributes: Any = None
    task_queue_sid: Text = None
    task_queue_name: Text = None
    worker_sid: Text = None
    worker_name: Text = None


class Properties(msgspec.Struct, gc=False):
    """What Voice Insights puts one level down."""

    direction: Text = None
    recording_enabled: Text = None


class Data(msgspec.Struct, gc=False):
    """The ``data`` of every type we read, in one struct: a key that two types share means the same in both."""

    request: Request | None = None
    response: Response | None = None
    payload: Payload | str | None = None
    properties: Properties | None = None
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


class Envelope(msgspec.Struct, gc=False):
    """CloudEvents 1.0; https://www.twilio.com/docs/events/webhook-quickstart."""

    type: Text = None
    id: Text = None
    source: Text = None
    time: Text = None
    data: Data | str | None = None


decode_envelope = msgspec.json.Decoder(Envelope, strict=True).decode
decode_data = msgspec.json.Decoder(Data, strict=True).decode
decode_any = msgspec.json.Decoder(Any).decode
decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

_FLAT_FAMILIES: Final = (
    "com.twilio.voice.status-callback.",
    "com.twilio.voice.twiml.",
    "com.twilio.voice.api-request.",
)


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _canonical(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {_plain(name): name for name in struct.__struct_encode_fields__}


_PARAMETER_NAMES: Final = _canonical(Parameters)
_DATA_NAMES: Final = _canonical(Data)
_REQUEST_NAMES: Final = _canonical(Request)
_RESPONSE_NAMES: Final = _canonical(Response)
_PAYLOAD_NAMES: Final = _canonical(Payload)
_PROPERTY_NAMES: Final = _canonical(Properties)
_ENVELOPE_NAMES: Final = _canonical(Envelope)


def renamed(value: object, names: dict[str, str]) -> dict[str, Any]:
    """The fields of ``value`` that ``names`` knows, in our spelling; the exact spelling beats another one."""
    if not isinstance(value, dict):
        return {}
    renamed: dict[str, Any] = {}
    for key, content in value.items():
        name = names.get(_plain(key)) if isinstance(key, str) else None
        if name is not None and (name not in renamed or key == name):
            renamed[name] = content
    return renamed


def scalars(fields: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields that hold a single value, and those named in ``keep``: nothing else fits the struct."""
    return {name: value for name, value in fields.items() if name in keep or not isinstance(value, dict | list)}


def straighten(value: dict[str, Any]) -> Envelope:
    """Read an envelope whatever the case, the underscores and the nesting of its fields."""
    envelope = renamed(value, _ENVELOPE_NAMES)
    data = envelope.get("data")
    for _ in range(NESTING_MAX):
        if not isinstance(data, str):
            break
        data = decode_any(data)
    if not isinstance(data, dict):
        return msgspec.convert(scalars({**envelope, "data": None}), Envelope)
    fields = renamed(data, _DATA_NAMES)
    straight = scalars(fields, keep=("widgets",))
    kind = envelope.get("type")
    payload = fields.get("payload")
    if isinstance(payload, str) and isinstance(kind, str) and "taskrouter" in kind.lower():
        payload = decode_any(payload)
    straight["payload"] = None
    if isinstance(payload, dict):
        straight["payload"] = scalars(renamed(payload, _PAYLOAD_NAMES), keep=("task_attributes",))
    elif "taskrouter" in str(kind).lower():
        straight["payload"] = scalars(renamed(data, _PAYLOAD_NAMES), keep=("task_attributes",))
    straight["properties"] = scalars(renamed(fields.get("properties"), _PROPERTY_NAMES))
    if isinstance(kind, str) and (kind.lower().startswith(_FLAT_FAMILIES) or "webhook.status-callback" in kind.lower()):
        request = renamed(fields.get("request"), _REQUEST_NAMES)
        parameters = request.get("parameters")
        if isinstance(parameters, str):
            parameters = decode_any(parameters)
        nested = scalars(renamed(parameters, _PARAMETER_NAMES))
        flat = scalars(renamed(data, _PARAMETER_NAMES))
        # A REST object spells its own SID `sid`; told apart by its prefix.
        request["parameters"] = {**flat, **{name: content for name, content in nested.items() if content is not None}}
        straight["request"] = scalars(request, keep=("parameters",))
        if request.get("url") is None and isinstance(data.get("url"), str):
            request["url"] = data["url"]
        response = renamed(fields.get("response"), _RESPONSE_NAMES) or renamed(data, _RESPONSE_NAMES)
        straight["response"] = scalars(response)
    else:
        straight["request"] = straight["response"] = None
    return msgspec.convert({**scalars(envelope), "data": straight}, Envelope)
