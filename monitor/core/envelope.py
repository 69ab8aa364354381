"""The shapes of entries: typed structs with the fields we use, and how other shapes are brought into them.

The ``data`` of a family of types decodes directly into that family's shape: the fewer fields a shape has, the less it
costs to look for them. What a shape can't hold as it stands (flat fields, other spellings, unexpected types)
``straighten`` brings into it, so that the readers know one shape a family.
https://www.twilio.com/docs/events/event-types-overview
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Final, Union, cast

import msgspec

from monitor.core.values import Text, sid_of

NESTING_MAX: Final = 3


class Parameters(msgspec.Struct, gc=False, rename="pascal"):
    """Callback and request parameters: https://www.twilio.com/docs/voice/api/recording#recording-status-callback.

    In the order in which Twilio mostly writes them: then each is looked for where the last one ended.
    """

    account_sid: Text = None
    recording_sid: Text = None
    recording_url: Text = None
    recording_status: Text = None
    recording_source: Text = None
    call_sid: Text = None
    direction: Text = None
    from_: Text = msgspec.field(name="From", default=None)
    to: Text = None
    conference_sid: Text = None
    friendly_name: Text = None
    timestamp: Text = None
    status_callback_event: Text = None
    parent_call_sid: Text = None
    recording_start_time: Text = None
    recording_duration: Text = None
    call_sid_ending_conference: Text = None
    dial_call_sid: Text = None
    twiml: Text = None
    conference_record: Text = None
    hold: Text = None
    muted: Text = None
    status: Text = None


class Request(msgspec.Struct, gc=False, kw_only=True):
    """What Twilio asked for, or was asked for."""

    url: Text = None
    parameters: Parameters


class Response(msgspec.Struct, gc=False, rename="camel"):
    """What was answered; the body is base64."""

    response_code: Text = None
    response_body: Text = None


class Data(msgspec.Struct, gc=False, kw_only=True):
    """What the ``data`` of every type may say."""

    sid: Text = None
    timestamp: Text = None
    account_sid: Text = None


class Callback(Data, gc=False, kw_only=True):
    """A webhook that Twilio called: https://www.twilio.com/docs/events/event-types/voice/status-callback."""

    pascal_account_sid: Text = msgspec.field(name="AccountSid", default=None)
    request: Request


class Answered(Callback, gc=False, kw_only=True):
    """A webhook or an API request of which the answer counts."""

    response: Response


class Recorded(Callback, gc=False, kw_only=True):
    """A recording's callback; as a REST object it spells its fields this way."""

    source: Text = None
    status: Text = None
    start_time: Text = None
    duration: Text = None


class Properties(msgspec.Struct, gc=False):
    """What Voice Insights puts one level down."""

    direction: Text = None
    recording_enabled: Text = None


class Summary(Data, gc=False, kw_only=True):
    """https://www.twilio.com/docs/voice/voice-insights/event-streams."""

    conference_sid: Text = None
    call_sid: Text = None
    parent_call_sid: Text = None
    friendly_name: Text = None
    create_time: Text = None
    start_time: Text = None
    end_time: Text = None
    recording_enabled: Text = None
    join_time: Text = None
    leave_time: Text = None
    properties: Properties | None = None


class Studio(Data, gc=False, kw_only=True):
    """https://www.twilio.com/docs/events/event-types/studio/flow."""

    flow_sid: Text = None
    execution_sid: Text = None
    name: Text = None
    transitioned_from: Text = None
    transitioned_to: Text = None
    flow_revision: Text = None
    started_by: Text = None
    call_sid: Text = None
    date_created: Text = None
    date_updated: Text = None


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


class TaskRouter(Data, gc=False, kw_only=True):
    """A TaskRouter event, which says everything in its payload."""

    payload: Payload


class Logged(Data, gc=False, kw_only=True):
    """https://www.twilio.com/docs/events/event-types/errors/error-logs."""

    date_created: Text = None
    error_code: Text = None


class Ignorable(Data, gc=False, kw_only=True):
    """What tells us nothing, whatever it says."""


class Own(Data, gc=False, kw_only=True):
    """Our own events."""

    call_sid: Text = None
    conference_sid: Text = None
    friendly_name: Text = None
    source: Text = None
    status: Text = None
    start_time: Text = None
    duration: Text = None
    date_created: Text = None
    however_old: Text = None
    call_recording_enabled: Text = None
    since: Text = None
    previous: Text = None
    observed_at: Text = None
    flow_sid: Text = None
    revision: Text = None
    widgets: Any = None
    participants: Any = None
    twiml: Text = None
    worker_sid: Text = None
    available_since: Text = None
    offline_since: Text = None


class Envelope(msgspec.Struct, gc=False, kw_only=True):
    """CloudEvents 1.0; https://www.twilio.com/docs/events/webhook-quickstart."""

    straightened: ClassVar[bool] = True
    """False where it was decoded as it stands: then more may stand elsewhere in it."""
    id: Text = None
    time: Text = None
    data: Data


class Typed(msgspec.Struct, gc=False):
    """No more of an entry than what it is."""

    type: Text = None


def envelope_of(kind: str, shape: type[Data]) -> type[Envelope]:
    """The envelope of exactly this type, told from others by that while it is decoded."""
    options: Any = {"bases": (Envelope,), "tag_field": "type", "tag": kind, "gc": False, "kw_only": True}
    envelope: Any = msgspec.defstruct("Envelope", [("data", shape)], **options)
    envelope.straightened = False
    return cast("type[Envelope]", envelope)


def decoder_of(envelopes: tuple[type[Envelope], ...]) -> Callable[[bytes], Envelope]:
    """What decodes an entry that has one of these types and its shape, and raises one of ``FAULTS`` otherwise."""
    decode: Callable[[bytes], Envelope] = msgspec.json.Decoder(Union[envelopes], strict=True).decode  # noqa: UP007
    return decode


decode_typed = msgspec.json.Decoder(Typed, strict=True).decode
decode_any = msgspec.json.Decoder(Any).decode
decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


# --------------------------------------------------------------------------- other shapes


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


@cache
def _names(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The fields of a struct by their plain name, and by their own."""
    names = struct.__struct_encode_fields__
    return {_plain(name): name for name in names} | {name: name for name in names}


def renamed(value: object, names: dict[str, str]) -> dict[str, Any]:
    """The fields of ``value`` that ``names`` knows, in our spelling; the exact spelling beats another one."""
    if not isinstance(value, dict):
        return {}
    renamed: dict[str, Any] = {}
    for key, content in value.items():
        name = names.get(key) or names.get(_plain(key)) if isinstance(key, str) else None
        if name is not None and (name not in renamed or key == name):
            renamed[name] = content
    return renamed


def scalars(fields: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields that hold a single value, and those named in ``keep``: nothing else fits the struct."""
    return {name: value for name, value in fields.items() if name in keep or not isinstance(value, dict | list)}


class Loose(msgspec.Struct):
    """An envelope as it was found, whatever the case and the underscores of its fields."""

    type: Any = None
    id: Any = None
    source: Any = None
    time: Any = None
    data: Any = None


def loosen(value: dict[str, Any]) -> Loose:
    """Find the fields of an envelope; data that is text holds its own JSON, which may again be text."""
    loose = Loose(**renamed(value, _names(Loose)))
    for _ in range(NESTING_MAX):
        if not isinstance(loose.data, str):
            break
        loose.data = decode_any(loose.data)
    return loose


def straighten(loose: Loose, shape: type[Data]) -> Envelope | None:
    """Bring an entry into the shape of its type, whatever the spelling and the nesting of its fields.

    None where it has no data that could hold any.
    """
    data = loose.data
    if not isinstance(data, dict):
        return None
    fields = renamed(data, {**_ELSEWHERE, **_names(shape), "accountsid": "account_sid"})
    straight = scalars(fields, keep=("widgets", "participants"))
    payload = fields.get("payload")
    parameters: dict[str, Any] = {}
    request: dict[str, Any] = {}
    if issubclass(shape, Callback):
        request = renamed(fields.get("request"), _names(Request))
        nested = request.get("parameters")
        if isinstance(nested, str):
            nested = decode_any(nested)
        told = scalars(renamed(nested, _names(Parameters)))
        # A REST object spells its own SID `sid`; told apart by its prefix.
        parameters = scalars(renamed(data, _names(Parameters))) | {
            name: content for name, content in told.items() if content is not None
        }
        straight["request"] = {**scalars(request), "parameters": parameters}
        response = renamed(fields.get("response"), _names(Response)) or renamed(data, _names(Response))
        straight["response"] = scalars(response)
    elif issubclass(shape, TaskRouter):
        if isinstance(payload, str):
            payload = decode_any(payload)
        flat = renamed(payload if isinstance(payload, dict) else data, _names(Payload))
        straight["payload"] = scalars(flat, keep=("task_attributes",))
    elif issubclass(shape, Summary):
        straight["properties"] = scalars(renamed(fields.get("properties"), _names(Properties)))
    account = _account(straight, payload, request.get("url"), loose.source, parameters.get("RecordingUrl"))
    straightened = msgspec.convert({**straight, "account_sid": account}, shape)
    return Envelope(**scalars({"id": loose.id, "time": loose.time}), data=straightened)


_ELSEWHERE: Final = {"payload": "payload"}  # Where an account may stand even in data that has no other use for it.
_ACCOUNT_IN_PATH: Final = re.compile(r"/Accounts/(AC[0-9A-Za-z]{32})(?![0-9A-Za-z])")
_ACCOUNT_ANYWHERE: Final = re.compile(r"(?<![0-9A-Za-z])(AC[0-9A-Za-z]{32})(?![0-9A-Za-z])")


def _account(data: dict[str, Any], payload: object, url: object, source: object, recording_url: object) -> str | None:
    """The account's SID where no parameter names it, from the most explicit place to the least."""
    if account := sid_of(data.get("account_sid"), "AC"):
        return account
    if account := sid_of(renamed(payload, _names(Payload)).get("account_sid"), "AC"):
        return account
    return account_in_path(url) or account_in_path(source) or _found(_ACCOUNT_ANYWHERE, recording_url)


def account_in_path(url: object) -> str | None:
    """The account's SID in the path of an address of Twilio's API."""
    return _found(_ACCOUNT_IN_PATH, url)


def _found(pattern: re.Pattern[str], text: object) -> str | None:
    match = pattern.search(text) if isinstance(text, str) else None
    return match[1] if match else None
