"""Renders Twilio's events, and our own, as bytes: one function for each kind, field for field as Twilio spells it.

Each function takes the instant of the event (milliseconds since 1970, UTC), the event's id without its prefix (32
characters) and what the event tells, and returns one CloudEvents envelope as compact JSON. They are f-strings rather
than a JSON encoder, since a benchmark wants hundreds of thousands of events from one core; every value that enters one
is made by the simulator and holds nothing that JSON would have to escape (``quoted`` escapes where it must).
https://www.twilio.com/docs/events/event-types-overview
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from functools import lru_cache
from time import gmtime
from typing import Final, Literal

import msgspec

Flag = Literal["true", "false"]
"""A truth value as JSON and Twilio's parameters both spell it."""

API: Final = "https://api.twilio.com"
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SCHEMA: Final = "https://events-schemas.twilio.com/"


class Account(msgspec.Struct, frozen=True, gc=False):
    """Whose events these are: the account's SID and the addresses of the customer's own web service."""

    sid: str
    host: str
    workspace: str
    workflow: str
    old_call_types: bool
    """Whether its subscription still names the call events as they were called before February 2024."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """One leg: its SID and what every callback about it repeats."""

    account: Account
    sid: str
    parent: str | None
    direction: str
    from_: str
    to: str


class Conference(msgspec.Struct, frozen=True, gc=False):
    """One conference; ``name`` is its FriendlyName, which others may have had before it."""

    account: Account
    sid: str
    name: str


class Recording(msgspec.Struct, frozen=True, gc=False):
    """One recording, of a call or of a conference. ``started_ms`` None: Twilio states no start of this kind."""

    account: Account
    sid: str
    call: str | None
    conference: str | None
    source: str | None
    channels: int
    started_ms: int | None
    callback_url: str


class Flow(msgspec.Struct, frozen=True, gc=False):
    """A Studio flow at one revision."""

    sid: str
    revision: int


class Execution(msgspec.Struct, frozen=True, gc=False):
    """One run of a Studio flow, started by ``call``."""

    account: Account
    sid: str
    flow: Flow
    call: Call
    started_ms: int


class Worker(msgspec.Struct, frozen=True, gc=False):
    """An agent of TaskRouter."""

    sid: str
    name: str


class Task(msgspec.Struct, frozen=True, gc=False):
    """A TaskRouter task; the attributes are told with each event, since they grow while the call goes on."""

    account: Account
    sid: str
    channel: str
    queue: str
    queue_name: str
    created_ms: int


@lru_cache(maxsize=8192)
def _second(second: int) -> tuple[str, str]:
    """Spell one second in both of Twilio's ways: ``2026-11-04T17:00:06`` and ``Wed, 04 Nov 2026 17:00:06 +0000``."""
    t = gmtime(second)
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    return (
        f"{t.tm_year}-{t.tm_mon:02}-{t.tm_mday:02}T{clock}",
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} {clock} +0000",
    )


def iso(at_ms: int) -> str:
    """Spell an instant with milliseconds: ``2026-11-04T17:00:06.123Z``."""
    return f"{_second(at_ms // 1000)[0]}.{at_ms % 1000:03}Z"


def iso_seconds(at_ms: int) -> str:
    """Spell an instant in whole seconds, as Studio, TaskRouter and Insights do: ``2026-11-04T17:00:06Z``."""
    return _second(at_ms // 1000)[0] + "Z"


def rfc2822(at_ms: int) -> str:
    """Spell an instant in whole seconds as Voice callbacks do: ``Wed, 04 Nov 2026 17:00:06 +0000``."""
    return _second(at_ms // 1000)[1]


def quoted(text: str) -> str:
    """Escape a text for the inside of a JSON string."""
    return json.dumps(text)[1:-1]


def base64_text(body: str) -> str:
    """Encode a response body as Twilio does: base64 in one unbroken line."""
    return b2a_base64(body.encode(), newline=False).decode()


# ---- Voice.WebhookEvent ----------------------------------------------------------------------------------------------


def _voice(
    type_: str, account: str, path: str, sid: str, at_ms: int, id_: str, url: str, parameters: str, code: int, rest: str
) -> bytes:
    """Frame one Voice webhook event. ``parameters`` is the inside of a JSON object, ``rest`` ends the response."""
    text, date = _second(at_ms // 1000)
    instant = f"{text}.{at_ms % 1000:03}Z"
    version = "1" if type_.startswith("webhook.") else "2"
    method = "DELETE" if code == 204 else "POST"
    # How long the customer's service took: no two alike, and yet the same bytes for the same instant.
    took_ms = 20 + (at_ms * 7919 >> 4) % 180
    return (
        f'{{"specversion":"1.0","type":"com.twilio.voice.{type_}",'
        f'"source":"/2010-04-01/Accounts/{account}/{path}/{sid}.json","id":"VW{id_}",'
        f'"dataschema":"{_SCHEMA}Voice.WebhookEvent/{version}","datacontenttype":"application/json",'
        f'"time":"{instant}","data":{{"sid":"{sid}","requestDateCreated":"{date}","timestamp":"{instant}",'
        f'"eventSid":"VW{id_}","request":{{"method":"{method}","url":"{url}","parameters":{{{parameters}}}}},'
        f'"response":{{"responseCode":{code},"requestDuration":{took_ms},"dateCreated":"{date}"{rest}}}}}}}'
    ).encode()


def _of_call(call: Call, status: str) -> str:
    return (
        f'"AccountSid":"{call.account.sid}","ApiVersion":"2010-04-01","CallSid":"{call.sid}","CallStatus":"{status}",'
        f'"Direction":"{call.direction}","From":"{call.from_}","Caller":"{call.from_}",'
        f'"To":"{call.to}","Called":"{call.to}"'
    )


_CALL_EVENTS: Final = {
    "initiated": ("initiated", 0),
    "ringing": ("ringing", 1),
    "answered": ("in-progress", 2),
    "completed": ("completed", 3),
}


def call_status(at_ms: int, id_: str, call: Call, what: str, seconds: int = 0) -> bytes:
    """``initiated``, ``ringing``, ``answered`` or ``completed``; ``seconds`` is how long a completed call lasted."""
    account = call.account
    status, number = _CALL_EVENTS[what]
    parent = "" if call.parent is None else f',"ParentCallSid":"{call.parent}"'
    # ``Duration`` is the same in begun minutes, as it is billed.
    ended = f',"CallDuration":"{seconds}","Duration":"{seconds // 60 + 1}"' if what == "completed" else ""
    return _voice(
        f"webhook.status-callback.call.{what}" if account.old_call_types else f"status-callback.call.{what}",
        account.sid,
        "Calls",
        call.sid,
        at_ms,
        id_,
        f"https://{account.host}/callbacks/call-status",
        f'{_of_call(call, status)},"Timestamp":"{rfc2822(at_ms)}","SequenceNumber":"{number}",'
        f'"CallbackSource":"call-progress-events"{parent}{ended}',
        200,
        "",
    )


def conference_status(
    at_ms: int, id_: str, conference: Conference, what: str, number: int, ended_by: str = ""
) -> bytes:
    """``conference-start`` or ``conference-end``; ``number`` is the event's place in the conference's own order.

    ``ended_by`` is the call whose leaving ended it; empty where the API did.
    """
    account = conference.account
    if what != "conference-end":
        ended = ""
    elif ended_by:
        ended = (
            f',"CallSidEndingConference":"{ended_by}","ReasonConferenceEnded":"last-participant-left",'
            f'"Reason":"Participant {ended_by} left the conference"'
        )
    else:
        ended = ',"ReasonConferenceEnded":"conference-ended-via-api","Reason":"Conference ended via API"'
    return _voice(
        "status-callback.conference.updated",
        account.sid,
        "Conferences",
        conference.sid,
        at_ms,
        id_,
        f"https://{account.host}/callbacks/conference",
        f'"AccountSid":"{account.sid}","ConferenceSid":"{conference.sid}","FriendlyName":"{conference.name}",'
        f'"SequenceNumber":"{number}","Timestamp":"{rfc2822(at_ms)}","StatusCallbackEvent":"{what}"{ended}',
        200,
        "",
    )


def participant_status(
    at_ms: int, id_: str, conference: Conference, call: str, what: str, number: int, label: str, on: Flag = "false"
) -> bytes:
    """``participant-join``, ``-leave``, ``-hold``, ``-mute``, ``-modify``, …; ``label`` may be empty.

    ``on`` says whether the participant is now on hold (a hold event) or muted (a mute event).
    """
    account = conference.account
    muted = on if what == "participant-mute" else "false"
    hold = on if what == "participant-hold" else "false"
    labelled = f',"ParticipantLabel":"{label}"' if label else ""
    left = (
        ',"ReasonParticipantLeft":"participant_hung_up","ParticipantCallStatus":"completed"'
        if what == "participant-leave"
        else ""
    )
    return _voice(
        "status-callback.conference.participant.updated",
        account.sid,
        "Conferences",
        conference.sid,
        at_ms,
        id_,
        f"https://{account.host}/callbacks/conference",
        f'"AccountSid":"{account.sid}","ConferenceSid":"{conference.sid}","FriendlyName":"{conference.name}",'
        f'"SequenceNumber":"{number}","Timestamp":"{rfc2822(at_ms)}","StatusCallbackEvent":"{what}",'
        f'"CallSid":"{call}","Muted":"{muted}","Hold":"{hold}","Coaching":"false",'
        f'"EndConferenceOnExit":"{"true" if label == "customer" else "false"}","StartConferenceOnEnter":"true"'
        f"{labelled}{left}",
        200,
        "",
    )


def recording_status(
    at_ms: int, id_: str, recording: Recording, status: str, seconds: int = 0, error_code: str = "0"
) -> bytes:
    """A recording's status callback; ``seconds`` is its length, told only once it is completed."""
    account = recording.account.sid
    source = "" if recording.source is None else f',"RecordingSource":"{recording.source}"'
    started = "" if recording.started_ms is None else f',"RecordingStartTime":"{rfc2822(recording.started_ms)}"'
    if recording.call is not None:
        # <Record> states neither start nor track (https://www.twilio.com/docs/voice/twiml/record).
        track = ',"RecordingTrack":"both"' if started else ""
        path, sid, of = "Calls", recording.call, f'"CallSid":"{recording.call}"{started}{track}'
    else:
        assert recording.conference is not None
        path, sid, of = "Conferences", recording.conference, f'"ConferenceSid":"{recording.conference}"{started}'
    length = f',"RecordingDuration":"{seconds}"' if status == "completed" else ""
    return _voice(
        "status-callback.recording.processed",
        account,
        path,
        sid,
        at_ms,
        id_,
        recording.callback_url,
        f'"AccountSid":"{account}","RecordingSid":"{recording.sid}",'
        f'"RecordingUrl":"{API}/2010-04-01/Accounts/{account}/Recordings/{recording.sid}",'
        f'"RecordingStatus":"{status}","RecordingChannels":"{recording.channels}"{source},'
        f'"ErrorCode":"{error_code}",{of}{length}',
        200,
        "",
    )


def twiml(at_ms: int, id_: str, call: Call, what: str, url: str, status: str, body: str, more: str = "") -> bytes:
    """TwiML that Twilio fetched and ran: ``call.requested``, ``call.redirected``, ``dial.finished``, ….

    ``body`` is the XML; ``more`` is further parameters as the inside of a JSON object, each led by a comma.
    """
    return _voice(
        f"twiml.{what}",
        call.account.sid,
        "Calls",
        call.sid,
        at_ms,
        id_,
        url,
        _of_call(call, status) + more,
        200,
        f',"contentType":"text/xml","responseBody":"{base64_text(body)}"',
    )


_ANSWERED: Final = ',"contentType":"application/json"'


def call_created(at_ms: int, id_: str, call: Call, parameters: str) -> bytes:
    """Somebody asked the REST API for an outbound call; ``parameters``: what they sent besides From and To."""
    return _voice(
        "api-request.call.created",
        call.account.sid,
        "Calls",
        call.sid,
        at_ms,
        id_,
        f"{API}/2010-04-01/Accounts/{call.account.sid}/Calls.json",
        f'"From":"{call.from_}","To":"{call.to}"{parameters}',
        201,
        _ANSWERED,
    )


def call_modified(at_ms: int, id_: str, call: Call, parameters: str) -> bytes:
    """Somebody changed a running call through the REST API."""
    return _voice(
        "api-request.call.modified",
        call.account.sid,
        "Calls",
        call.sid,
        at_ms,
        id_,
        f"{API}/2010-04-01/Accounts/{call.account.sid}/Calls/{call.sid}.json",
        parameters,
        200,
        _ANSWERED,
    )


def participant_created(
    at_ms: int, id_: str, conference: Conference, address: str, call: Call, label: str, parameters: str
) -> bytes:
    """Somebody called ``call`` into a conference through the REST API.

    ``address`` is how the request named the conference: its SID, or its name as one must before it exists.
    """
    return _participant_requested(at_ms, id_, conference, conference.sid, address, call, label, parameters, 201)


def participant_requested(
    at_ms: int, id_: str, conference: Conference, call: Call, label: str, parameters: str, code: int
) -> bytes:
    """The same, told without the conference's SID: it is refused (``code`` from 400), or the answer leaves it out."""
    # Where no conference is known there is nothing to put in place of its SID but what was asked for.
    name = conference.name
    return _participant_requested(at_ms, id_, conference, name, name, call, label, parameters, code)


def _participant_requested(
    at_ms: int,
    id_: str,
    conference: Conference,
    sid: str,
    address: str,
    call: Call,
    label: str,
    parameters: str,
    code: int,
) -> bytes:
    account = conference.account.sid
    return _voice(
        "api-request.conference-participant.created",
        account,
        "Conferences",
        sid,
        at_ms,
        id_,
        f"{API}/2010-04-01/Accounts/{account}/Conferences/{address}/Participants.json",
        f'"From":"{call.from_}","To":"{call.to}","Label":"{label}"{parameters}',
        code,
        _ANSWERED,
    )


def participant_modified(at_ms: int, id_: str, conference: Conference, call: str, parameters: str) -> bytes:
    """Somebody changed a participant (hold, mute) through the REST API."""
    account = conference.account.sid
    return _voice(
        "api-request.conference-participant.modified",
        account,
        "Conferences",
        conference.sid,
        at_ms,
        id_,
        f"{API}/2010-04-01/Accounts/{account}/Conferences/{conference.sid}/Participants/{call}.json",
        parameters,
        200,
        _ANSWERED,
    )


def participant_deleted(at_ms: int, id_: str, conference: Conference, call: str) -> bytes:
    """Somebody put a participant out of the conference through the REST API."""
    account = conference.account.sid
    return _voice(
        "api-request.conference-participant.deleted",
        account,
        "Conferences",
        conference.sid,
        at_ms,
        id_,
        f"{API}/2010-04-01/Accounts/{account}/Conferences/{conference.sid}/Participants/{call}.json",
        "",
        204,
        _ANSWERED,
    )


def conference_modified(at_ms: int, id_: str, conference: Conference) -> bytes:
    """Somebody ended a conference through the REST API."""
    account = conference.account.sid
    return _voice(
        "api-request.conference.modified",
        account,
        "Conferences",
        conference.sid,
        at_ms,
        id_,
        f"{API}/2010-04-01/Accounts/{account}/Conferences/{conference.sid}.json",
        '"Status":"completed"',
        200,
        _ANSWERED,
    )


# ---- Voice Insights --------------------------------------------------------------------------------------------------


def _plain(type_: str, source: str, id_: str, schema: str, at_ms: int, data: str) -> bytes:
    """Frame one event of the other products, whose ids begin with EZ."""
    return (
        f'{{"specversion":"1.0","type":"com.twilio.{type_}","source":"{source}","id":"EZ{id_}",'
        f'"dataschema":"{_SCHEMA}{schema}","datacontenttype":"application/json","time":"{iso(at_ms)}",'
        f'"data":{{{data}}}}}'
    ).encode()


def conference_summary(
    at_ms: int,
    id_: str,
    conference: Conference,
    state: str,
    recording_enabled: Flag,
    start_ms: int,
    end_ms: int,
    participants: int,
) -> bytes:
    """What Voice Insights says of a conference: ``partial`` minutes later, ``complete`` after half an hour."""
    seconds = end_ms // 1000 - start_ms // 1000
    return _plain(
        f"voice.insights.conference-summary.{state}",
        f"/v1/Conferences/{conference.sid}",
        id_,
        "VoiceInsights.ConferenceSummary/2",
        at_ms,
        f'"conference_sid":"{conference.sid}","account_sid":"{conference.account.sid}",'
        f'"friendly_name":"{conference.name}","create_time":"{iso_seconds(start_ms)}",'
        f'"start_time":"{iso_seconds(start_ms)}","status":"completed","max_participants":250,'
        f'"max_concurrent_participants":{min(participants, 3)},"unique_participants":{participants},'
        f'"recording_enabled":{recording_enabled},"mixer_region":"us1",'
        '"mixer_region_requested":"us1","tags":[],"tag_info":{},'
        '"detected_issues":{"call_quality":0,"participant_behavior":0,"region_configuration":0},'
        f'"processing_state":"{state}","end_time":"{iso_seconds(end_ms)}","duration_seconds":{seconds},'
        f'"connect_duration_seconds":{seconds * 2},"end_reason":"last_participant_left"',
    )


def participant_summary(
    at_ms: int,
    id_: str,
    participant: str,
    conference: Conference,
    call: Call,
    label: str,
    recording_enabled: Flag,
    join_ms: int,
    leave_ms: int,
) -> bytes:
    """What Voice Insights says of one participant afterwards; ``participant`` is its own SID (CP…)."""
    return _plain(
        "voice.insights.conference-participant-summary.complete",
        f"/v1/Conferences/{conference.sid}/Participants/{participant}",
        id_,
        "VoiceInsights.ConferenceParticipantSummary/2",
        at_ms,
        f'"participant_sid":"{participant}","label":"{label}","conference_sid":"{conference.sid}",'
        f'"call_sid":"{call.sid}","account_sid":"{call.account.sid}",'
        f'"call_direction":"{"inbound" if call.direction == "inbound" else "outbound"}",'
        f'"from":"{call.from_}","to":"{call.to}","call_status":"completed","country_code":"US","is_moderator":false,'
        f'"join_time":"{iso_seconds(join_ms)}","leave_time":"{iso_seconds(leave_ms)}",'
        f'"duration_seconds":{leave_ms // 1000 - join_ms // 1000},'
        '"outbound_queue_length":0,"outbound_time_in_queue":0,'
        '"properties":{"start_conference_on_enter":true,"end_conference_on_exit":false,"play_early_media":true,'
        f'"recording_enabled":{recording_enabled},"trim_recording":false,'
        '"requested_region":"us1","enter_muted":false,"beep_on_enter":false,"beep_on_exit":false},'
        '"processing_state":"complete"',
    )


def call_summary(at_ms: int, id_: str, call: Call, state: str, start_ms: int, end_ms: int, trunk: str = "") -> bytes:
    """What Voice Insights says of a call afterwards; ``trunk`` is the SIP trunk that carried it, if one did."""
    parent = "null" if call.parent is None else f'"{call.parent}"'
    direction = "inbound" if call.direction == "inbound" else "outbound_api"
    properties = f'"direction":"trunking-originating","trunk_sid":"{trunk}"' if trunk else f'"direction":"{direction}"'
    connected = end_ms // 1000 - start_ms // 1000
    return _plain(
        f"voice.insights.call-summary.{state}",
        f"/v1/Voice/{call.sid}/Summary",
        id_,
        "VoiceInsights.CallSummary/7",
        at_ms,
        f'"call_sid":"{call.sid}","account_sid":"{call.account.sid}","parent_call_sid":{parent},'
        f'"parent_account_sid":null,"created_time":"{iso_seconds(start_ms - 2000)}",'
        f'"start_time":"{iso_seconds(start_ms)}","end_time":"{iso_seconds(end_ms)}","duration":{connected + 2},'
        f'"connect_duration":{connected},"call_type":"{"trunking" if trunk else "carrier"}","call_state":"completed",'
        f'"from":{{"caller":"{call.from_}","carrier":"Example Carrier","country_code":"US"}},'
        f'"to":{{"callee":"{call.to}","country_code":"US"}},"properties":{{{properties}}},'
        f'"processing_state":"{state}"',
    )


# ---- Studio and TaskRouter -------------------------------------------------------------------------------------------


def execution_started(at_ms: int, id_: str, execution: Execution) -> bytes:
    """A call entered a Studio flow."""
    return _execution(at_ms, id_, execution, "started", "active", "")


def execution_ended(at_ms: int, id_: str, execution: Execution, reason: str) -> bytes:
    """A call left its Studio flow; ``reason``: ``hangup``, ``flow-ended``, ….."""
    ended = f',"ended_reason":"{reason}","date_updated":"{iso_seconds(at_ms)}"'
    return _execution(at_ms, id_, execution, "ended", "ended", ended)


def _execution(at_ms: int, id_: str, execution: Execution, what: str, status: str, ended: str) -> bytes:
    return _plain(
        f"studio.flow.execution.{what}",
        f"/v2/Flows/{execution.flow.sid}/Executions/{execution.sid}",
        id_,
        "Studio.FlowExecutionEvent/2",
        at_ms,
        f'"execution_sid":"{execution.sid}","account_sid":"{execution.account.sid}",'
        f'"flow_sid":"{execution.flow.sid}","contact_channel_address":"{execution.call.from_}","status":"{status}",'
        f'"started_by":"{execution.call.sid}","flow_revision":{execution.flow.revision},'
        f'"date_created":"{iso_seconds(execution.started_ms)}"{ended}',
    )


def step_ended(
    at_ms: int, id_: str, execution: Execution, step: str, parent: str, transition: str, leaves: str, enters: str
) -> bytes:
    """An execution left one widget by a transition and entered the next; ``parent`` is the step before, if any."""
    account = execution.account.sid
    before = f',"parent_step_sid":"{parent}"' if parent else ""
    return _plain(
        "studio.flow.step.ended",
        f"/v2/Flows/{execution.flow.sid}/Executions/{execution.sid}/Steps/{step}",
        id_,
        "Studio.FlowStepEvent/1",
        at_ms,
        f'"account_sid":"{account}","flow_sid":"{execution.flow.sid}","execution_sid":"{execution.sid}",'
        f'"step_sid":"{step}","name":"{transition}","transitioned_from":"{leaves}","transitioned_to":"{enters}",'
        f'"date_created":"{iso_seconds(at_ms)}"{before}',
    )


def _taskrouter(at_ms: int, id_: str, account: Account, group: str, name: str, source: str, payload: str) -> bytes:
    second = at_ms // 1000
    # The event's own SID: the id again, told apart by its prefix.
    return _plain(
        f"taskrouter.{name}",
        f"/v1/Workspaces/{account.workspace}/{source}",
        id_,
        "TaskRouter.WDSEvent/4",
        at_ms,
        f'"sid":"EV{id_}","name":"{name}","account_sid":"{account.sid}",'
        f'"account_friendly_name":"Example Contact Center","timestamp":"{iso_seconds(at_ms)}","level":"INFO",'
        f'"group":"{group}","product_name":"TaskRouter","publisher":"TaskRouter",'
        f'"publisher_metadata":"/v1/Workspaces/{account.workspace}","payload_type":"application/json",'
        f'"payload":{{"sid":"EV{id_}","eventtype":"{name}","account_sid":"{account.sid}","timestamp":"{second}",'
        f'"timestamp_ms":"{at_ms}","workspace_sid":"{account.workspace}","workspace_name":"Flex Task Assignment",'
        f"{payload}}}",
    )


def _of_task(task: Task, at_ms: int, attributes: str, status: str) -> str:
    """The part of a payload that describes a task; ``attributes`` is JSON text, told as a JSON string."""
    escaped = attributes.replace('"', '\\"')
    return (
        f'"task_sid":"{task.sid}","task_attributes":"{escaped}","task_age":"{(at_ms - task.created_ms) // 1000}",'
        f'"task_date_created":"{task.created_ms // 1000}","task_priority":"0","task_assignment_status":"{status}",'
        f'"task_channel_sid":"{task.channel}","task_channel_unique_name":"voice","task_queue_sid":"{task.queue}",'
        f'"task_queue_name":"{task.queue_name}","workflow_sid":"{task.account.workflow}",'
        '"workflow_name":"Assign To Anyone"'
    )


_TASK_STATUS: Final = {"created": "pending", "updated": "assigned", "wrapup": "wrapping", "completed": "completed"}


def task_event(at_ms: int, id_: str, task: Task, what: str, attributes: str) -> bytes:
    """``created``, ``updated``, ``wrapup`` or ``completed``."""
    ended = ',"task_completed_reason":"Task Completed"' if what == "completed" else ""
    payload = _of_task(task, at_ms, attributes, _TASK_STATUS[what]) + ended
    return _taskrouter(at_ms, id_, task.account, "task", f"task.{what}", f"Tasks/{task.sid}", payload)


_RESERVATION_STATUS: Final = {
    "created": "reserved",
    "accepted": "assigned",
    "wrapup": "wrapping",
    "completed": "completed",
    "rejected": "pending",
}


def reservation_event(
    at_ms: int, id_: str, task: Task, what: str, attributes: str, worker: Worker, reservation: str
) -> bytes:
    """``created``, ``accepted``, ``rejected``, ``wrapup`` or ``completed``."""
    payload = (
        f"{_of_task(task, at_ms, attributes, _RESERVATION_STATUS[what])},"
        f'"worker_sid":"{worker.sid}","worker_name":"{worker.name}",'
        f'"worker_attributes":"{{\\"contact_uri\\": \\"client:{worker.name}\\"}}","worker_activity_name":"Available",'
        f'"reservation_sid":"{reservation}"'
    )
    return _taskrouter(at_ms, id_, task.account, "reservation", f"reservation.{what}", f"Tasks/{task.sid}", payload)


def worker_activity(at_ms: int, id_: str, account: Account, worker: Worker, before: str, now: str) -> bytes:
    """An agent changed from one activity to another. It names no call, so it belongs to no conversation."""
    payload = (
        f'"worker_sid":"{worker.sid}","worker_name":"{worker.name}",'
        f'"worker_attributes":"{{\\"contact_uri\\": \\"client:{worker.name}\\"}}",'
        f'"worker_activity_sid":"WA{account.sid[2:-1]}2","worker_activity_name":"{now}",'
        f'"worker_previous_activity_sid":"WA{account.sid[2:-1]}1","worker_previous_activity_name":"{before}",'
        '"worker_time_in_previous_activity":"1800"'
    )
    return _taskrouter(at_ms, id_, account, "worker", "worker.activity.update", f"Workers/{worker.sid}", payload)


# ---- Events that tell the monitor nothing ----------------------------------------------------------------------------


def ignored_of_call(at_ms: int, id_: str, call: Call, what: str) -> bytes:
    """A Voice event about a call that says nothing of recordings: ``amd.detected``, ``stream.updated``, …."""
    more = _OF_NO_INTEREST[what]
    return _voice(
        "media.fetched" if what == "media.fetched" else f"status-callback.{what}",
        call.account.sid,
        "Calls",
        call.sid,
        at_ms,
        id_,
        f"https://{call.account.host}/callbacks/{what.replace('.', '-')}",
        f'{_of_call(call, "in-progress")},"Timestamp":"{rfc2822(at_ms)}"{more}',
        200,
        "",
    )


_OF_NO_INTEREST: Final = {
    "amd.detected": ',"AnsweredBy":"human","MachineDetectionDuration":"2210"',
    "gather.partial.captured": ',"UnstableSpeechResult":"i would like to","Stability":"0.5","Language":"en-US"',
    "stream.updated": ',"StreamEvent":"stream-started","StreamName":"agent-assist"',
    "transcription.processed": ',"TranscriptionEvent":"transcription-content","Final":"true","LanguageCode":"en-US"',
    "announcement.processed": ',"AnnounceUrl":"https://assets.example.com/hold.mp3","Event":"announcement-end"',
    "media.fetched": ',"MediaUrl":"https://assets.example.com/welcome.mp3","CacheHit":"true"',
}
IGNORED_OF_CALL: Final = tuple(_OF_NO_INTEREST)


def call_metrics(at_ms: int, id_: str, call: Call) -> bytes:
    """Voice Insights' measurements of a call's quality."""
    return _plain(
        "voice.insights.call-metrics.gateway",
        f"/v1/Voice/{call.sid}/Metrics",
        id_,
        "VoiceInsights.CallMetrics/2",
        at_ms,
        f'"call_sid":"{call.sid}","account_sid":"{call.account.sid}","timestamp":"{iso(at_ms)}","edge":"carrier_edge",'
        '"direction":"both","carrier_edge":{"codec":4,"codec_name":"pcmu","metrics":{"inbound":{"interval":'
        '{"packets_received":499,"packets_lost":0,"packets_loss_percentage":0,"jitter":{"avg":1.47,"max":2.81}}},'
        '"outbound":{"interval":{"packets_sent":500,"bytes_sent":80000}}},"properties":{"twilio_media_ip":"192.0.2.4"}}',
    )


def error_logged(at_ms: int, id_: str, account: Account, call: str) -> bytes:
    """A webhook of the customer could not be reached: an error, but none of our own sink."""
    payload = quoted(
        f'{{"resource_sid": "{call}", "service_sid": null, "error_code": "11200", '
        '"more_info": {"Msg": "HTTP retrieval failure"}}'
    )
    return (
        '{"specversion":"1.0","type":"com.twilio.error-logs.error.logged",'
        f'"source":"/v1/Alerts/NO{id_}","id":"NO{id_}","dataschema":"{_SCHEMA}ErrorLogs.Error/2",'
        f'"datacontenttype":"application/json","time":"{iso(at_ms)}",'
        f'"data":{{"sid":"NO{id_}","account_sid":"{account.sid}","date_created":"{iso_seconds(at_ms)}",'
        f'"level":"ERROR","service_sid":null,"master_account_sid":"{account.sid}","request_sid":"RQ{id_}",'
        f'"correlation_sid":"{call}","product_name":"Programmable Voice","error_code":"11200","payload":"{payload}"}}}}'
    ).encode()


def sink_tested(at_ms: int, id_: str, account: Account) -> bytes:
    """The sink's own test event; its id is the account's SID, so it is not unique."""
    test = f"{id_[:8]}-{id_[8:12]}-4{id_[13:16]}-8{id_[17:20]}-{id_[20:32]}"
    return (
        '{"specversion":"1.0","type":"com.twilio.eventstreams.test-event","source":"Sink",'
        f'"id":"{account.sid}","dataschema":"{_SCHEMA}EventStreams.TestSink/1.json",'
        f'"datacontenttype":"application/json","time":"{iso(at_ms)}","data":{{"test_id":"{test}"}}}}'
    ).encode()


def unknown_type(at_ms: int, id_: str, account: Account, type_: str) -> bytes:
    """An event of a product that has nothing to do with calls, as a subscription to everything brings it."""
    return _plain(
        type_,
        f"/2010-04-01/Accounts/{account.sid}/Messages/SM{id_}.json",
        id_,
        "Messaging.MessageStatus/5",
        at_ms,
        f'"accountSid":"{account.sid}","messageSid":"SM{id_}","messageStatus":"DELIVERED","timestamp":"{iso(at_ms)}"',
    )


# ---- Our own observations --------------------------------------------------------------------------------------------


def _own(type_: str, id_: str, at_ms: int, data: str) -> bytes:
    return (
        f'{{"specversion":"1.0","type":"dev.recording-monitor.{type_}","source":"recording-monitor","id":"{id_}",'
        f'"datacontenttype":"application/json","time":"{iso(at_ms)}","data":{{{data}}}}}'
    ).encode()


def flex_observed(
    at_ms: int, _id: str, account: Account, enabled: Flag, since_ms: int | None, previous: Flag | None
) -> bytes:
    """What the account's Flex configuration says of call recording; ``_id`` is not used: ours say what they tell."""
    since = "null" if since_ms is None else f'"{iso(since_ms)}"'
    return _own(
        "flex-configuration.observed",
        f"flex:{account.sid}:{iso(at_ms)}",
        at_ms,
        f'"account_sid":"{account.sid}","call_recording_enabled":{enabled},"since":{since},'
        f'"previous":{previous or "null"},"observed_at":"{iso(at_ms)}"',
    )


def flow_observed(
    at_ms: int, _id: str, account: Account, flow: Flow, widgets: tuple[tuple[str, str, bool], ...]
) -> bytes:
    """What one revision of a Studio flow consists of: (name, type, whether it records) of each widget."""
    listed = ",".join(
        f'{{"name":"{name}","type":"{type_}","records":{str(records).lower()}}}' for name, type_, records in widgets
    )
    return _own(
        "studio-flow.observed",
        f"flow:{flow.sid}:{flow.revision}",
        at_ms,
        f'"account_sid":"{account.sid}","flow_sid":"{flow.sid}","revision":{flow.revision},"widgets":[{listed}]',
    )


def worker_observed(at_ms: int, _id: str, account: Account, worker: Worker, since_ms: int) -> bytes:
    """Since when an agent has been at work."""
    return _own(
        "worker-session.observed",
        f"worker:{worker.sid}:{iso(since_ms)}",
        at_ms,
        f'"account_sid":"{account.sid}","worker_sid":"{worker.sid}","available_since":"{iso(since_ms)}",'
        '"offline_since":null',
    )


# ---- What nobody can read --------------------------------------------------------------------------------------------


def garbage(at_ms: int, id_: str, account: Account, kind: str) -> bytes:
    """Bytes that are one malformed entry, never a blank line: a bridge's fault, not Twilio's.

    ``cut`` is an event cut short, ``scalar`` JSON that is no object, ``bytes`` no text at all, ``nobody`` a recording
    event that names no account.
    """
    if kind == "scalar":
        return (b"null", b"42", b'"lost the envelope"', b"true")[at_ms % 4]
    if kind == "bytes":
        return b"\xff\xfe\x00" + bytes(0x80 | ord(c) for c in id_)
    if kind == "nobody":
        return (
            '{"specversion":"1.0","type":"com.twilio.voice.status-callback.recording.processed","source":"opaque",'
            f'"id":"VW{id_}","datacontenttype":"application/json","time":"{iso(at_ms)}",'
            f'"data":{{"request":{{"parameters":{{"RecordingSid":"RE{id_}","RecordingStatus":"completed"}}}}}}}}'
        ).encode()
    whole = unknown_type(at_ms, id_, account, "voice.status-callback.call.completed")
    return whole[: len(whole) // 2]


GARBAGE_KINDS: Final = ("cut", "scalar", "bytes", "nobody")

IGNORED: Final = frozenset({ignored_of_call, call_metrics, error_logged, sink_tested, unknown_type})
"""The functions whose events a monitor has no use for."""
WITHOUT_MEMBERS: Final = frozenset(
    {worker_activity, participant_requested, flex_observed, flow_observed, worker_observed}
)
"""Those whose events name no call, conference, recording, task or execution: nobody can tell their repeats."""
SETTINGS: Final = frozenset({flex_observed, flow_observed, worker_observed})
"""Our own observations of an account."""
VOICE_CALLBACKS: Final = frozenset({call_status, conference_status, participant_status, recording_status})
"""Those that Twilio makes again, under a new id, where the customer's service did not answer."""
