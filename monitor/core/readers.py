"""One function a family of Twilio's event types, and the table that says which reads what.

To add a type: one function here, and its line in the table.
https://www.twilio.com/docs/events/event-types-overview
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from monitor.core.envelope import FAULTS, Data, Envelope, Parameters, Payload
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
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
    WorkerSession,
)
from monitor.core.twiml import recorded_conferences, recorded_conferences_in_xml, records
from monitor.core.values import (
    Text,
    duration_of,
    instant_of,
    is_sid,
    number_of,
    sid_of,
    text_of,
    truth_of,
)

OWN: Final = "dev.recording-monitor."
TICK: Final = OWN + "tick"
TWILIO: Final = "com.twilio."
_SINK_ERRORS: Final = frozenset({"93101", "93102", "93103", "93104", "91303", "91304"})


class UnreadableError(Exception):
    """An entry that we should understand and don't; ``reason`` is from a closed set."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


_ACCOUNT_IN_PATH: Final = re.compile(r"/Accounts/(AC[0-9A-Za-z]{32})(?![0-9A-Za-z])")
_ACCOUNT_ANYWHERE: Final = re.compile(r"(?<![0-9A-Za-z])(AC[0-9A-Za-z]{32})(?![0-9A-Za-z])")


def _account(envelope: Envelope, data: Data) -> str:
    """The account's SID, from the most explicit place to the least; empty where there is none."""
    request = data.request
    parameters = request.parameters if request else None
    if parameters is not None and (account := sid_of(parameters.account_sid, "AC")):
        return account
    if account := sid_of(data.pascal_account_sid, "AC") or sid_of(data.account_sid, "AC"):
        return account
    if isinstance(data.payload, Payload) and (account := sid_of(data.payload.account_sid, "AC")):
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
    return sid_of(segment.split(".", 1)[0], "RE")


def _event(
    kind: str,
    envelope: Envelope,
    data: Data,
    occurred_ms: int | None,
    members: tuple[str | None, ...],
    facts: tuple[AnyFact, ...],
) -> Event:
    time = text_of(envelope.time)
    if occurred_ms is None:
        occurred_ms = instant_of(time)
    first = members[0] if members else None
    if len(members) == 1 or (len(members) == 2 and (members[1] is None or members[1] == first)):
        named: tuple[str, ...] = () if first is None else (first,)
    else:
        named = tuple(dict.fromkeys([member for member in members if member is not None]))
    event_id = envelope.id
    return Event(
        kind,
        event_id if type(event_id) is str and event_id else text_of(event_id),
        _account(envelope, data),
        occurred_ms,
        time if kind.startswith(TWILIO) else None,
        named,
        facts,
    )


def _code_refused(data: Data) -> bool:
    """Whether the answer says that nothing came of it; no code at all is no refusal."""
    code = number_of(data.response.response_code) if data.response else None
    return code is not None and code >= 400


_NO_PARAMETERS: Final = Parameters()


def _parameters(data: Data) -> Parameters:
    request = data.request
    return (request.parameters if request else None) or _NO_PARAMETERS


# --------------------------------------------------------------------------- one function a family

Reader = Callable[[str, Envelope, Data], Entry]


def _recording(kind: str, envelope: Envelope, data: Data) -> Entry:
    p = _parameters(data)
    recording = sid_of(p.recording_sid, "RE") or _recording_in_url(p.recording_url) or sid_of(data.sid, "RE")
    call = sid_of(p.call_sid, "CA")
    conference = sid_of(p.conference_sid, "CF")
    if call is None and conference is None:
        call, conference = sid_of(data.sid, "CA"), sid_of(data.sid, "CF")
    if recording is None:
        return _event(kind, envelope, data, None, (), ())
    occurred_ms = instant_of(p.timestamp) or instant_of(data.timestamp)
    fact = RecordingFact(
        recording,
        call,
        conference,
        text_of(p.recording_source) or text_of(data.source),
        _status(p.recording_status) or _status(data.status),
        instant_of(p.recording_start_time) or instant_of(data.start_time),
        duration_of(p.recording_duration if p.recording_duration is not None else data.duration),
        text_of(data.request.url) if data.request else None,
        FOUND_BY_STREAM,
    )
    return _event(kind, envelope, data, occurred_ms, (recording, call, conference), (fact,))


def _status(value: Text) -> str | None:
    status = text_of(value)
    return status.strip().lower() if status else None


_PHASES: Final = {
    "participant-join": "join",
    "participant-leave": "leave",
    "conference-start": "start",
    "conference-end": "end",
}


def _conference(kind: str, envelope: Envelope, data: Data) -> Entry:
    """Conference and participant events: the same parameters, and the callback event says which of the two it is."""
    p = _parameters(data)
    conference = sid_of(p.conference_sid, "CF") or sid_of(data.sid, "CF")
    call = sid_of(p.call_sid, "CA")
    ending = sid_of(p.call_sid_ending_conference, "CA")
    occurred_ms = instant_of(p.timestamp) or instant_of(data.timestamp)
    if conference is None:
        return _event(kind, envelope, data, occurred_ms, (call,), ())
    name = text_of(p.friendly_name)
    happened = text_of(p.status_callback_event)
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


def _call(kind: str, envelope: Envelope, data: Data) -> Entry:
    p = _parameters(data)
    call = sid_of(p.call_sid, "CA") or sid_of(data.sid, "CA")
    parent = sid_of(p.parent_call_sid, "CA")
    return _event(
        kind,
        envelope,
        data,
        instant_of(p.timestamp) or instant_of(data.timestamp),
        (call, parent),
        _call_facts(call, p),
    )


def _call_facts(call: str | None, p: Parameters) -> tuple[AnyFact, ...]:
    direction, from_, to = text_of(p.direction), text_of(p.from_), text_of(p.to)
    if call is None or (direction is None and from_ is None and to is None):
        return ()
    return (CallFact(call, direction, from_, to),)


def _twiml(kind: str, envelope: Envelope, data: Data) -> Entry:
    """TwiML that Twilio asked for; an answer that refuses is not run."""
    p = _parameters(data)
    call = sid_of(p.call_sid, "CA") or sid_of(data.sid, "CA")
    facts = _call_facts(call, p)
    body = data.response.response_body if data.response else None
    if call is not None and isinstance(body, str) and not _code_refused(data):
        facts += tuple(TwimlFact(call, name) for name in recorded_conferences(body))
    members = (
        call,
        sid_of(p.parent_call_sid, "CA"),
        sid_of(p.dial_call_sid, "CA"),
        sid_of(p.conference_sid, "CF"),
    )
    return _event(kind, envelope, data, instant_of(p.timestamp) or instant_of(data.timestamp), members, facts)


def _verb(source: str) -> Reader:
    """``<Record>`` and ``<Dial>`` tell of their recording when they finish, with or without a recording callback."""

    def read(kind: str, envelope: Envelope, data: Data) -> Entry:
        entry = _twiml(kind, envelope, data)
        p = _parameters(data)
        recording = sid_of(p.recording_sid, "RE") or _recording_in_url(p.recording_url)
        if recording is None or not isinstance(entry, Event):
            return entry
        fact = RecordingFact(
            recording,
            sid_of(p.call_sid, "CA") or sid_of(data.sid, "CA"),
            None,
            text_of(p.recording_source) or source,
            _status(p.recording_status),
            instant_of(p.recording_start_time),
            duration_of(p.recording_duration),
            None,
            FOUND_BY_VERB,
        )
        return msgspec.structs.replace(entry, members=(*entry.members, recording), facts=(*entry.facts, fact))

    return read


_CALL_IN_PATH: Final = re.compile(r"/(?:Calls|Participants)/(CA[0-9A-Za-z]{32})(?![0-9A-Za-z])")
_CONFERENCE_IN_PATH: Final = re.compile(r"/Conferences/([^/?#]+?)(?:\.json)?(?:[/?#]|$)")


def _call_request(kind: str, envelope: Envelope, data: Data) -> Entry:
    p = _parameters(data)
    url = data.request.url if data.request else None
    path = _CALL_IN_PATH.search(url) if isinstance(url, str) else None
    call = sid_of(p.call_sid, "CA") or sid_of(data.sid, "CA") or (path[1] if path else None)
    facts = _call_facts(call, p)
    if call is not None and isinstance(p.twiml, str) and not _code_refused(data):
        facts += tuple(TwimlFact(call, name) for name in recorded_conferences_in_xml(p.twiml))
    return _event(kind, envelope, data, instant_of(data.timestamp), (call,), facts)


def _conference_request(kind: str, envelope: Envelope, data: Data) -> Entry:
    """https://www.twilio.com/docs/voice/api/conference-participant-resource: the conference by SID or by name."""
    p = _parameters(data)
    url = data.request.url if data.request else None
    url = url if isinstance(url, str) else ""
    in_path = _CONFERENCE_IN_PATH.search(url.partition("?")[0])
    spelled = unquote(in_path[1]) if in_path else None
    conference = sid_of(p.conference_sid, "CF") or sid_of(data.sid, "CF") or sid_of(spelled, "CF")
    name = spelled if spelled is not None and not is_sid(spelled, "CF") else None
    path = _CALL_IN_PATH.search(url)
    call = sid_of(p.call_sid, "CA") or (path[1] if path else None) or sid_of(data.sid, "CA")
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
    return _event(kind, envelope, data, instant_of(data.timestamp), (conference, call), tuple(facts))


def _conference_summary(kind: str, envelope: Envelope, data: Data) -> Entry:
    """https://www.twilio.com/docs/voice/voice-insights/event-streams/conference-insights-event."""
    conference = sid_of(data.conference_sid, "CF") or sid_of(data.sid, "CF")
    start_ms = instant_of(data.start_time) or instant_of(data.create_time)
    end_ms = instant_of(data.end_time)
    facts: list[AnyFact] = []
    if conference is not None:
        name = text_of(data.friendly_name)
        facts.append(ConferenceFact(conference, name, "start", start_ms, truth_of(data.recording_enabled)))
        if end_ms is not None:
            facts.append(ConferenceFact(conference, name, "end", end_ms, None))
    occurred_ms = instant_of(data.timestamp) or end_ms or start_ms
    return _event(kind, envelope, data, occurred_ms, (conference,), tuple(facts))


def _participant_summary(kind: str, envelope: Envelope, data: Data) -> Entry:
    conference, call = sid_of(data.conference_sid, "CF"), sid_of(data.call_sid, "CA")
    joined_ms, left_ms = instant_of(data.join_time), instant_of(data.leave_time)
    enabled = truth_of(data.properties.recording_enabled) if data.properties else None
    facts: list[AnyFact] = []
    if conference is not None:
        if call is not None:
            facts.append(ParticipantFact(conference, call, "join" if joined_ms else "inside", None, joined_ms))
            if left_ms is not None:
                facts.append(ParticipantFact(conference, call, "leave", None, left_ms))
        facts.append(ConferenceFact(conference, None, "seen", joined_ms, enabled))
    occurred_ms = instant_of(data.timestamp) or left_ms or joined_ms
    return _event(kind, envelope, data, occurred_ms, (conference, call), tuple(facts))


def _call_summary(kind: str, envelope: Envelope, data: Data) -> Entry:
    call = sid_of(data.call_sid, "CA") or sid_of(data.sid, "CA")
    direction = text_of(data.properties.direction) if data.properties else None
    facts: tuple[AnyFact, ...] = (CallFact(call, direction, None, None),) if call and direction else ()
    occurred_ms = instant_of(data.timestamp) or instant_of(data.end_time) or instant_of(data.start_time)
    return _event(kind, envelope, data, occurred_ms, (call, sid_of(data.parent_call_sid, "CA")), facts)


def _execution(kind: str, envelope: Envelope, data: Data) -> Entry:
    """https://www.twilio.com/docs/events/event-types/studio/flow."""
    execution = sid_of(data.execution_sid, "FN") or sid_of(data.sid, "FN")
    call = sid_of(data.started_by, "CA") or sid_of(data.call_sid, "CA")
    ended = kind.endswith(".ended")
    own_date = (data.date_updated or data.date_created) if ended else data.date_created
    facts: tuple[AnyFact, ...] = ()
    if execution is not None:
        facts = (ExecutionFact(execution, call, text_of(data.flow_sid), number_of(data.flow_revision), ended),)
    return _event(kind, envelope, data, instant_of(data.timestamp) or instant_of(own_date), (execution, call), facts)


def _step(kind: str, envelope: Envelope, data: Data) -> Entry:
    execution = sid_of(data.execution_sid, "FN")
    facts: tuple[AnyFact, ...] = ()
    if execution is not None:
        facts = (
            StepFact(
                execution,
                text_of(data.transitioned_from),
                text_of(data.transitioned_to),
                text_of(data.name),
            ),
        )
    return _event(
        kind, envelope, data, instant_of(data.timestamp) or instant_of(data.date_created), (execution,), facts
    )


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
    except FAULTS:
        pass  # Attributes are the customer's own JSON: what we can't read tells us nothing.
    return _NO_ATTRIBUTES


def _task(kind: str, envelope: Envelope, data: Data) -> Entry:
    payload = data.payload
    if not isinstance(payload, Payload):
        return _event(kind, envelope, data, None, (), ())
    task = sid_of(payload.task_sid, "WT")
    attributes = _attributes(payload.task_attributes)
    listed = attributes.conference if isinstance(attributes.conference, dict) else {}
    conference = sid_of(listed.get("sid"), "CF")
    named = [attributes.call_sid, attributes.worker_call_sid]
    participants = listed.get("participants")
    if isinstance(participants, dict):
        named += list(participants.values())[:16]
    calls = tuple(dict.fromkeys([call for value in named if (call := sid_of(value, "CA")) is not None]))
    facts: tuple[AnyFact, ...] = ()
    if task is not None:
        queue = tuple(v for v in (text_of(payload.task_queue_sid), text_of(payload.task_queue_name)) if v)
        worker = tuple(v for v in (text_of(payload.worker_sid), text_of(payload.worker_name)) if v)
        facts = (TaskFact(task, conference, calls, queue, worker),)
    occurred_ms = instant_of(payload.timestamp_ms) or instant_of(data.timestamp)
    return _event(kind, envelope, data, occurred_ms, (task, conference, *calls), facts)


def _worker(kind: str, envelope: Envelope, data: Data) -> Entry:
    payload = data.payload
    occurred_ms = instant_of(payload.timestamp_ms) if isinstance(payload, Payload) else None
    return _event(kind, envelope, data, occurred_ms or instant_of(data.timestamp), (), ())


def _error(kind: str, envelope: Envelope, data: Data) -> Entry:
    """Only what Twilio says of our own sink concerns us: https://www.twilio.com/docs/events/event-types/errors/error-logs."""
    if text_of(data.error_code) not in _SINK_ERRORS:
        return Ignored(kind, known=True)
    return _event(kind, envelope, data, instant_of(data.timestamp) or instant_of(data.date_created), (), ())


# --------------------------------------------------------------------------- our own events


def _tick(kind: str, envelope: Envelope, data: Data) -> Entry:
    return _event(kind, envelope, data, None, (), ())


def _listed(kind: str, envelope: Envelope, data: Data) -> Entry:
    recording, call, conference = (
        sid_of(data.sid, "RE"),
        sid_of(data.call_sid, "CA"),
        sid_of(data.conference_sid, "CF"),
    )
    facts: tuple[AnyFact, ...] = ()
    if recording is not None:
        fact = RecordingFact(
            recording,
            call,
            conference,
            text_of(data.source),
            _status(data.status),
            instant_of(data.start_time),
            duration_of(data.duration),
            None,
            FOUND_BY_LISTING,
        )
        facts = (fact,)
    return _event(kind, envelope, data, instant_of(data.date_created), (recording, call, conference), facts)


def _fetched(kind: str, envelope: Envelope, data: Data) -> Entry:
    """An answer to enrichment: the REST fields of a conference, or of the events of a call."""
    conference = sid_of(data.sid, "CF") or sid_of(data.conference_sid, "CF")
    call = sid_of(data.call_sid, "CA") or sid_of(data.sid, "CA")
    facts: tuple[AnyFact, ...] = ()
    if conference is not None:
        facts = (ConferenceFact(conference, text_of(data.friendly_name), "seen", instant_of(data.date_created), None),)
    return _event(kind, envelope, data, None, (conference, call), facts)


def _flex_setting(kind: str, envelope: Envelope, data: Data) -> Entry:
    event = _event(kind, envelope, data, instant_of(data.observed_at), (), ())
    enabled = truth_of(data.call_recording_enabled)
    if enabled is None or event.occurred_ms is None:
        raise UnreadableError("bad-setting", "call_recording_enabled and observed_at are needed")
    setting = FlexSetting(event.account, enabled, instant_of(data.since), truth_of(data.previous), event.occurred_ms)
    return msgspec.structs.replace(event, setting=setting)


def _flow_setting(kind: str, envelope: Envelope, data: Data) -> Entry:
    event = _event(kind, envelope, data, None, (), ())
    flow, revision = text_of(data.flow_sid), number_of(data.revision)
    if flow is None or revision is None or not isinstance(data.widgets, list):
        raise UnreadableError("bad-setting", "flow_sid, revision and widgets are needed")
    recording = [
        widget["name"]
        for widget in data.widgets
        if isinstance(widget, dict)
        and widget.get("type") == "record-call"
        and truth_of(widget.get("records"))
        and isinstance(widget.get("name"), str)
    ]
    return msgspec.structs.replace(event, setting=FlowSetting(event.account, flow, revision, tuple(recording)))


def _worker_session(kind: str, envelope: Envelope, data: Data) -> Entry:
    event = _event(kind, envelope, data, None, (), ())
    worker = sid_of(data.worker_sid, "WK")
    if worker is None or event.occurred_ms is None:
        raise UnreadableError("bad-setting", "worker_sid and time are needed")
    available_ms, offline_ms = instant_of(data.available_since), instant_of(data.offline_since)
    setting = WorkerSession(event.account, worker, available_ms, offline_ms, event.occurred_ms)
    return msgspec.structs.replace(event, setting=setting)


# --------------------------------------------------------------------------- the table of types

_VOICE: Final = TWILIO + "voice."
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
    **{TWILIO + "studio.flow.execution." + phase: _execution for phase in ("started", "ended")},
    TWILIO + "studio.flow.step.ended": _step,
    TWILIO + "taskrouter.worker.activity.update": _worker,
    TWILIO + "error-logs.error.logged": _error,
    TICK: _tick,
    OWN + "recording.listed": _listed,
    OWN + "conference.fetched": _fetched,
    OWN + "call-events.fetched": _fetched,
    OWN + "flex-configuration.observed": _flex_setting,
    OWN + "studio-flow.observed": _flow_setting,
    OWN + "worker-session.observed": _worker_session,
}

# Spelling as found -> (our name, reader). The second prefix was renamed in February 2024 and can still be subscribed.
READERS: Final[dict[str, tuple[str, Reader]]] = {name: (name, read) for name, read in _BY_NAME.items()} | {
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
    _conference_request: ("from_", "conference_record", "hold", "muted", "status"),
}
USUAL: Final[dict[str, Callable[[Parameters], tuple[Text, ...]]]] = {
    name: attrgetter(*_USUAL_OF[read]) for name, read in _BY_NAME.items() if read in _USUAL_OF
} | {
    _VOICE + "status-callback.conference.participant.updated": attrgetter(
        "call_sid", "conference_sid", "friendly_name", "timestamp"
    ),
    _VOICE + "twiml.dial.finished": attrgetter("call_sid", "direction", "dial_call_sid"),
    _VOICE + "twiml.record.finished": attrgetter("call_sid", "direction", "recording_url"),
}
REQUESTS: Final = frozenset(name for name in _BY_NAME if name.startswith(_VOICE + "api-request."))
# Of these the answer counts: a refusal takes back what the parameters say.
ANSWERED: Final = REQUESTS | frozenset(name for name in _BY_NAME if name.startswith(_VOICE + "twiml."))
_TASK_PREFIXES: Final = (TWILIO + "taskrouter.task.", TWILIO + "taskrouter.reservation.")
MEMBERLESS: Final[frozenset[Reader]] = frozenset(
    {_worker, _error, _tick, _flex_setting, _flow_setting, _worker_session, _call_request, _conference_request}
)
IGNORED: Final = (
    _VOICE + "status-callback.amd.",
    _VOICE + "status-callback.announcement.",
    _VOICE + "status-callback.gather.",
    _VOICE + "status-callback.stream.",
    _VOICE + "status-callback.transcription.",
    _VOICE + "media.",
    _INSIGHTS + "call-metrics.",
    _INSIGHTS + "call-event.",
    TWILIO + "taskrouter.",
    TWILIO + "studio.",
    TWILIO + "eventstreams.test-event",
)


def reader_by_prefix(spelled: str) -> tuple[str, Reader] | None:
    """TaskRouter has a dozen task and reservation events, all of one payload; the list grows."""
    lowered = spelled.strip().lower()
    return (lowered, _task) if lowered.startswith(_TASK_PREFIXES) else None


EVENT_TYPES: Final = tuple(sorted(_BY_NAME))
