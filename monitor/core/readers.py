"""One function a family of Twilio's event types, and the table that says which reads what.

To add a type: one function here, and its line in the table.
https://www.twilio.com/docs/events/event-types-overview
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from monitor.core.envelope import (
    FAULTS,
    Answered,
    Callback,
    Data,
    Envelope,
    Ignorable,
    Logged,
    Own,
    Parameters,
    Recorded,
    Studio,
    Summary,
    TaskRouter,
    account_in_path,
    decode_any,
    decoder_of,
    envelope_of,
)
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
    ACCOUNTS,
    CALLS,
    CONFERENCES,
    EXECUTIONS,
    INSTANTS,
    RECORDINGS,
    TASKS,
    Text,
    duration_of,
    number_of,
    sid_of,
    text_of,
    truth_of,
)

OWN: Final = "dev.recording-monitor."
TICK: Final = OWN + "tick"
TWILIO: Final = "com.twilio."
_VOICE: Final = TWILIO + "voice."
PARTICIPANT: Final = _VOICE + "status-callback.conference.participant.updated"
_SINK_ERRORS: Final = frozenset({"93101", "93102", "93103", "93104", "91303", "91304"})


class UnreadableError(Exception):
    """An entry that we should understand and don't; ``reason`` is from a closed set."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def _recording_in_url(url: Text) -> str | None:
    """The last path segment of a recording's address is its SID."""
    if not isinstance(url, str):
        return None
    segment = url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    return RECORDINGS[segment.split(".", 1)[0]]


def _event(
    kind: str,
    envelope: Envelope,
    account: str | None,
    occurred_ms: int | None,
    members: tuple[str, ...],
    facts: tuple[AnyFact, ...],
) -> Event:
    """An event of Twilio's; without an instant of its own it occurred when the envelope says."""
    event_id, time = envelope.id, envelope.time
    if not event_id or type(event_id) is not str:
        event_id = text_of(event_id)
    if not time or type(time) is not str:
        time = text_of(time)
    if occurred_ms is None:
        occurred_ms = INSTANTS[time]
    return Event(kind, event_id, account or "", occurred_ms, time, members, facts)


def _named(*members: str | None) -> tuple[str, ...]:
    """Those members that are named, each once."""
    return tuple(dict.fromkeys([member for member in members if member is not None]))


def _pair(one: str | None, other: str | None) -> tuple[str, ...]:
    """The same of two, as most events name: this is half the cost."""
    if other is None or other == one:
        return () if one is None else (one,)
    return (other,) if one is None else (one, other)


def _flat_account(data: Callback) -> str | None:
    return ACCOUNTS[data.pascal_account_sid] or ACCOUNTS[data.account_sid]


def code_refused(data: Answered) -> bool:
    """Whether the answer says that nothing came of it; no code at all is no refusal."""
    code = data.response.response_code
    if type(code) is not int:
        code = number_of(code)
    return code is not None and code >= 400


# --------------------------------------------------------------------------- one function a family

# Our name of the type, the envelope and its data. None: a field is missing that entries of this type usually have, so
# that it may stand elsewhere; never of what is straightened already, where what is missing is missing.
Reader = Callable[[str, Envelope, Any], Entry | None]


def _recording(kind: str, envelope: Envelope, data: Recorded) -> Entry | None:
    p = data.request.parameters
    source, status, started = p.recording_source, p.recording_status, p.recording_start_time
    lacking = p.recording_sid is None or source is None or status is None or started is None
    if lacking and not envelope.straightened:
        return None
    recording = RECORDINGS[p.recording_sid] or _recording_in_url(p.recording_url) or RECORDINGS[data.sid]
    call, conference = CALLS[p.call_sid], CONFERENCES[p.conference_sid]
    if call is None and conference is None:
        call, conference = CALLS[data.sid], CONFERENCES[data.sid]
    account = ACCOUNTS[p.account_sid] or _flat_account(data)
    if recording is None:
        return _event(kind, envelope, account, None, (), ())
    fact = RecordingFact(
        recording,
        call,
        conference,
        text_of(source) or text_of(data.source),
        _STATUSES.get(status) or _status(status) or _status(data.status),
        INSTANTS[started] or INSTANTS[data.start_time],
        duration_of(p.recording_duration if p.recording_duration is not None else data.duration),
        text_of(data.request.url),
        FOUND_BY_STREAM,
    )
    occurred_ms = INSTANTS[p.timestamp] or INSTANTS[data.timestamp]
    if call is None or conference is None:
        members = _pair(recording, call or conference)
    else:
        members = (recording, call, conference)
    return _event(kind, envelope, account, occurred_ms, members, (fact,))


_STATUSES: Final[dict[Text, str]] = {status: status for status in ("in-progress", "completed", "absent", "failed")}


def _status(value: Text) -> str | None:
    status = text_of(value)
    return status.strip().lower() if status else None


PHASES: Final[dict[Text, str]] = {
    "participant-join": "join",
    "participant-leave": "leave",
    "conference-start": "start",
    "conference-end": "end",
}


def _conference(kind: str, envelope: Envelope, data: Callback) -> Entry | None:
    """Conference and participant events: the same parameters, and the callback event says which of the two it is."""
    p = data.request.parameters
    name, told = p.friendly_name, p.timestamp
    lacking = p.conference_sid is None or name is None or told is None or (p.call_sid is None and kind == PARTICIPANT)
    if lacking and not envelope.straightened:
        return None
    conference = CONFERENCES[p.conference_sid] or CONFERENCES[data.sid]
    call = CALLS[p.call_sid]
    ending = CALLS[p.call_sid_ending_conference]
    account = ACCOUNTS[p.account_sid] or _flat_account(data)
    occurred_ms = INSTANTS[told] or INSTANTS[data.timestamp]
    if conference is None:
        return _event(kind, envelope, account, occurred_ms, _pair(call, None), ())
    if not name or type(name) is not str:
        name = text_of(name)
    happened = p.status_callback_event
    phase = PHASES.get(happened) or PHASES.get(_status(happened), "seen")
    fact: ParticipantFact | ConferenceFact
    if call is not None:
        members: tuple[str, ...] = (conference, call)
        fact = ParticipantFact(conference, call, phase if phase in ("join", "leave") else "inside", name, None)
    else:
        members = (conference,)
        fact = ConferenceFact(conference, name, phase if phase in ("start", "end") else "seen", None, None)
    if ending is None or ending == call:
        return _event(kind, envelope, account, occurred_ms, members, (fact,))
    left = ParticipantFact(conference, ending, "leave", name, None)
    return _event(kind, envelope, account, occurred_ms, (*members, ending), (fact, left))


def _call(kind: str, envelope: Envelope, data: Callback) -> Entry | None:
    p = data.request.parameters
    direction, told = p.direction, p.timestamp
    if (p.call_sid is None or direction is None or told is None) and not envelope.straightened:
        return None
    call = CALLS[p.call_sid] or CALLS[data.sid]
    parent = CALLS[p.parent_call_sid]
    return _event(
        kind,
        envelope,
        ACCOUNTS[p.account_sid] or _flat_account(data),
        INSTANTS[told] or INSTANTS[data.timestamp],
        _pair(call, parent),
        _call_facts(call, p),
    )


def _call_facts(call: str | None, p: Parameters) -> tuple[AnyFact, ...]:
    direction, from_, to = p.direction, p.from_, p.to
    if not (direction and from_ and to and type(direction) is type(from_) is type(to) is str):
        direction, from_, to = text_of(direction), text_of(from_), text_of(to)
    if call is None or (direction is None and from_ is None and to is None):
        return ()
    return (CallFact(call, direction, from_, to),)


def _twiml(kind: str, envelope: Envelope, data: Answered) -> Entry | None:
    """TwiML that Twilio asked for; an answer that refuses is not run."""
    p = data.request.parameters
    if (p.call_sid is None or p.direction is None) and not envelope.straightened:
        return None
    call = CALLS[p.call_sid] or CALLS[data.sid]
    facts = _call_facts(call, p)
    body = data.response.response_body
    if call is not None and isinstance(body, str) and not code_refused(data):
        for name in recorded_conferences(body):
            facts += (TwimlFact(call, name),)
    parent, dialled, conference = CALLS[p.parent_call_sid], CALLS[p.dial_call_sid], CONFERENCES[p.conference_sid]
    if dialled is None and conference is None:
        members = _pair(call, parent)
    else:
        members = _named(call, parent, dialled, conference)
    account = ACCOUNTS[p.account_sid] or _flat_account(data)
    return _event(kind, envelope, account, INSTANTS[p.timestamp] or INSTANTS[data.timestamp], members, facts)


def _verb(source: str, usual: str) -> Reader:
    """``<Record>`` and ``<Dial>`` tell of their recording when they finish, with or without a recording callback."""

    def read(kind: str, envelope: Envelope, data: Answered) -> Entry | None:
        p = data.request.parameters
        if getattr(p, usual) is None and not envelope.straightened:
            return None
        entry = _twiml(kind, envelope, data)
        recording = RECORDINGS[p.recording_sid] or _recording_in_url(p.recording_url)
        if recording is None or not isinstance(entry, Event):
            return entry
        fact = RecordingFact(
            recording,
            CALLS[p.call_sid] or CALLS[data.sid],
            None,
            text_of(p.recording_source) or source,
            _status(p.recording_status),
            INSTANTS[p.recording_start_time],
            duration_of(p.recording_duration),
            None,
            FOUND_BY_VERB,
        )
        return msgspec.structs.replace(entry, members=(*entry.members, recording), facts=(*entry.facts, fact))

    return read


_dial: Final = _verb("DialVerb", usual="dial_call_sid")
_record: Final = _verb("RecordVerb", usual="recording_url")

_CALL_IN_PATH: Final = re.compile(r"/(?:Calls|Participants)/(CA[0-9A-Za-z]{32})(?![0-9A-Za-z])")
_PARTICIPANT_IN_PATH: Final = re.compile(
    r"/Conferences/CF[0-9A-Za-z]{32}/Participants/CA[0-9A-Za-z]{32}(?![0-9A-Za-z])"
)
# A SID or a name. A name would match a SID as well, but letter by letter.
_CONFERENCE_IN_PATH: Final = re.compile(r"/Conferences/(?:(CF[0-9A-Za-z]{32})|([^/?#]+?))(?:\.json)?(?:[/?#]|$)")


def _call_request(kind: str, envelope: Envelope, data: Answered) -> Entry | None:
    p, url = data.request.parameters, data.request.url
    if p.from_ is None and p.twiml is None and not envelope.straightened:
        return None
    call = CALLS[p.call_sid] or CALLS[data.sid]
    if call is None and isinstance(url, str):
        path = _CALL_IN_PATH.search(url)
        call = path[1] if path else None
    facts = _call_facts(call, p)
    if call is not None and isinstance(p.twiml, str) and not code_refused(data):
        for name in recorded_conferences_in_xml(p.twiml):
            facts += (TwimlFact(call, name),)
    account = ACCOUNTS[p.account_sid] or _flat_account(data) or account_in_path(url)
    return _event(kind, envelope, account, INSTANTS[data.timestamp], _pair(call, None), facts)


def _conference_request(kind: str, envelope: Envelope, data: Answered) -> Entry | None:
    """https://www.twilio.com/docs/voice/api/conference-participant-resource: the conference by SID or by name."""
    p = data.request.parameters
    url = data.request.url if isinstance(data.request.url, str) else ""
    lacking = p.from_ is p.conference_record is p.hold is p.muted is p.status is None
    if lacking and kind.endswith(".deleted"):
        lacking = _PARTICIPANT_IN_PATH.search(url) is None  # Who takes somebody out asks for nothing else.
    if lacking and not envelope.straightened:
        return None
    conference, name = CONFERENCES[p.conference_sid] or CONFERENCES[data.sid], None
    if in_path := _CONFERENCE_IN_PATH.search(url.partition("?")[0]):
        named, spelled = in_path[1], in_path[2]
        if named is None:
            spelled = unquote(spelled)
            named = CONFERENCES[spelled]
            name = spelled if named is None else None
        conference = conference or named
    call = CALLS[p.call_sid]
    if call is None:
        path = _CALL_IN_PATH.search(url)
        call = path[1] if path else CALLS[data.sid]
    refused = code_refused(data)
    if conference is None and call is None and name is not None and not refused:
        # A request that only names its conference still needs a place in the window until the name binds it.
        call = f"request:{envelope.id}:{name}"
    facts: list[AnyFact] = []
    if not refused:
        if conference is not None:
            facts.append(ConferenceFact(conference, name, "seen", None, None))
        if records(p.conference_record) and (conference is not None or name is not None):
            facts.append(RequestFact(conference, name, call))
    account = ACCOUNTS[p.account_sid] or _flat_account(data) or account_in_path(url)
    return _event(kind, envelope, account, INSTANTS[data.timestamp], _pair(conference, call), tuple(facts))


def _conference_summary(kind: str, envelope: Envelope, data: Summary) -> Entry:
    """https://www.twilio.com/docs/voice/voice-insights/event-streams/conference-insights-event."""
    conference = CONFERENCES[data.conference_sid] or CONFERENCES[data.sid]
    start_ms = INSTANTS[data.start_time] or INSTANTS[data.create_time]
    end_ms = INSTANTS[data.end_time]
    occurred_ms = INSTANTS[data.timestamp] or end_ms or start_ms
    if conference is None:
        return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, (), ())
    name = text_of(data.friendly_name)
    facts: tuple[AnyFact, ...] = (
        ConferenceFact(conference, name, "start", start_ms, truth_of(data.recording_enabled)),
    )
    if end_ms is not None:
        facts += (ConferenceFact(conference, name, "end", end_ms, None),)
    return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, (conference,), facts)


def _participant_summary(kind: str, envelope: Envelope, data: Summary) -> Entry:
    conference, call = CONFERENCES[data.conference_sid], CALLS[data.call_sid]
    joined_ms, left_ms = INSTANTS[data.join_time], INSTANTS[data.leave_time]
    enabled = truth_of(data.properties.recording_enabled) if data.properties else None
    facts: list[AnyFact] = []
    if conference is not None:
        if call is not None:
            facts.append(ParticipantFact(conference, call, "join" if joined_ms else "inside", None, joined_ms))
            if left_ms is not None:
                facts.append(ParticipantFact(conference, call, "leave", None, left_ms))
        facts.append(ConferenceFact(conference, None, "seen", joined_ms, enabled))
    occurred_ms = INSTANTS[data.timestamp] or left_ms or joined_ms
    return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, _pair(conference, call), tuple(facts))


def _call_summary(kind: str, envelope: Envelope, data: Summary) -> Entry:
    call = CALLS[data.call_sid] or CALLS[data.sid]
    parent = CALLS[data.parent_call_sid]
    direction = text_of(data.properties.direction) if data.properties else None
    occurred_ms = INSTANTS[data.timestamp] or INSTANTS[data.end_time] or INSTANTS[data.start_time]
    return _event(
        kind,
        envelope,
        ACCOUNTS[data.account_sid],
        occurred_ms,
        _pair(call, parent),
        (CallFact(call, direction, None, None),) if call and direction else (),
    )


def _execution(kind: str, envelope: Envelope, data: Studio) -> Entry:
    """https://www.twilio.com/docs/events/event-types/studio/flow."""
    execution = EXECUTIONS[data.execution_sid] or EXECUTIONS[data.sid]
    call = CALLS[data.started_by] or CALLS[data.call_sid]
    ended = kind.endswith(".ended")
    own_date = (data.date_updated or data.date_created) if ended else data.date_created
    facts: tuple[AnyFact, ...] = ()
    if execution is not None:
        facts = (ExecutionFact(execution, call, text_of(data.flow_sid), number_of(data.flow_revision), ended),)
    occurred_ms = INSTANTS[data.timestamp] or INSTANTS[own_date]
    return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, _pair(execution, call), facts)


def _step(kind: str, envelope: Envelope, data: Studio) -> Entry:
    execution = EXECUTIONS[data.execution_sid]
    occurred_ms = INSTANTS[data.timestamp] or INSTANTS[data.date_created]
    if execution is None:
        return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, (), ())
    fact = StepFact(
        execution,
        text_of(data.transitioned_from),
        text_of(data.transitioned_to),
        text_of(data.name),
    )
    return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, (execution,), (fact,))


class _Listed(msgspec.Struct, gc=False):
    sid: Text = None
    participants: dict[str, Text] | None = None


class _Attributes(msgspec.Struct, gc=False):
    """What Flex writes into a task: https://www.twilio.com/docs/flex/developer/insights/enhance-integration."""

    call_sid: Text = None
    worker_call_sid: Text = None
    conference: _Listed | None = None


_decode_attributes = msgspec.json.Decoder(_Attributes).decode
_PARTICIPANTS_MAX: Final = 16


def _attributes(value: object) -> _Attributes:
    """Attributes are the customer's own JSON: what we can't read of them tells us nothing."""
    try:
        if isinstance(value, str):
            return _decode_attributes(value)
    except FAULTS:
        pass  # Perhaps only a part of it is not what we know.
    try:
        told = decode_any(value) if isinstance(value, str) else value
    except FAULTS:
        told = None
    if not isinstance(told, dict):
        return _Attributes()
    listed = None
    conference = told.get("conference")
    if isinstance(conference, dict):
        named = conference.get("participants")
        participants = list(named.items())[:_PARTICIPANTS_MAX] if isinstance(named, dict) else []
        listed = _Listed(sid_of(conference.get("sid"), "CF"), {name: sid_of(call, "CA") for name, call in participants})
    return _Attributes(sid_of(told.get("call_sid"), "CA"), sid_of(told.get("worker_call_sid"), "CA"), listed)


def _linked(value: object) -> tuple[str | None, tuple[str, ...]]:
    attributes = _attributes(value)
    calls = _pair(CALLS[attributes.call_sid], CALLS[attributes.worker_call_sid])
    listed = attributes.conference
    if listed is None:
        return None, calls
    if listed.participants:
        calls = _named(*calls, *[CALLS[call] for call in list(listed.participants.values())[:_PARTICIPANTS_MAX]])
    return CONFERENCES[listed.sid], calls


# A task's events mostly repeat its attributes; long ones must not fill the memory.
often_linked = lru_cache(maxsize=1_024)(_linked)
OFTEN_CHARACTERS_MAX: Final = 2_048


def linked(attributes: object) -> tuple[str | None, tuple[str, ...]]:
    """The conference and the calls that a task's attributes name."""
    if type(attributes) is str and len(attributes) <= OFTEN_CHARACTERS_MAX:
        return often_linked(attributes)
    return _linked(attributes)


def said(sid: Text, name: Text) -> tuple[str, ...]:
    """What is told of a queue or a worker: its SID and its name."""
    if sid and name and type(sid) is str and type(name) is str:
        return (sid, name)
    return tuple([text for text in (text_of(sid), text_of(name)) if text])


def _ignored(kind: str, _envelope: Envelope, _data: Ignorable) -> Entry:
    return Ignored(kind, known=True)


def _task(kind: str, envelope: Envelope, data: TaskRouter) -> Entry:
    payload = data.payload
    task = TASKS[payload.task_sid]
    conference, calls = linked(payload.task_attributes)
    facts: tuple[AnyFact, ...] = ()
    if task is not None:
        queue = said(payload.task_queue_sid, payload.task_queue_name)
        worker = said(payload.worker_sid, payload.worker_name)
        facts = (TaskFact(task, conference, calls, queue, worker),)
    return _event(
        kind,
        envelope,
        ACCOUNTS[data.account_sid] or ACCOUNTS[payload.account_sid],
        INSTANTS[payload.timestamp_ms] or INSTANTS[data.timestamp],
        (*_pair(task, conference), *calls),
        facts,
    )


def _worker(kind: str, envelope: Envelope, data: TaskRouter) -> Entry:
    payload = data.payload
    account = ACCOUNTS[data.account_sid] or ACCOUNTS[payload.account_sid]
    occurred_ms = INSTANTS[payload.timestamp_ms] or INSTANTS[data.timestamp]
    return _event(kind, envelope, account, occurred_ms, (), ())


def _error(kind: str, envelope: Envelope, data: Logged) -> Entry:
    """Only what Twilio says of our own sink concerns us: https://www.twilio.com/docs/events/event-types/errors/error-logs."""
    if text_of(data.error_code) not in _SINK_ERRORS:
        return Ignored(kind, known=True)
    occurred_ms = INSTANTS[data.timestamp] or INSTANTS[data.date_created]
    return _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, (), ())


# --------------------------------------------------------------------------- our own events


def _own(
    kind: str,
    envelope: Envelope,
    data: Own,
    occurred_ms: int | None,
    members: tuple[str, ...] = (),
    facts: tuple[AnyFact, ...] = (),
) -> Event:
    """An event of ours: its ``time`` is not Twilio's."""
    event = _event(kind, envelope, ACCOUNTS[data.account_sid], occurred_ms, members, facts)
    return msgspec.structs.replace(event, time=None)


def _tick(kind: str, envelope: Envelope, data: Own) -> Entry:
    return _own(kind, envelope, data, None)


def _listed(kind: str, envelope: Envelope, data: Own) -> Entry:
    recording, call, conference = RECORDINGS[data.sid], CALLS[data.call_sid], CONFERENCES[data.conference_sid]
    facts: tuple[AnyFact, ...] = ()
    if recording is not None:
        fact = RecordingFact(
            recording,
            call,
            conference,
            text_of(data.source),
            _status(data.status),
            INSTANTS[data.start_time],
            duration_of(data.duration),
            None,
            FOUND_BY_LISTING,
            truth_of(data.however_old) is True,
        )
        facts = (fact,)
    members = _named(recording, call, conference)
    return _own(kind, envelope, data, INSTANTS[data.date_created], members, facts)


def _fetched_conference(kind: str, envelope: Envelope, data: Own) -> Entry:
    """An answer to enrichment: a conference as REST knows it, and the calls that were in it then."""
    conference = CONFERENCES[data.sid] or CONFERENCES[data.conference_sid]
    call = CALLS[data.call_sid]
    if conference is None:
        return _own(kind, envelope, data, None, _pair(call, None))
    name, created_ms = text_of(data.friendly_name), INSTANTS[data.date_created]
    facts: list[AnyFact] = [ConferenceFact(conference, name, "seen", created_ms, None)]
    there = data.participants if isinstance(data.participants, list) else []
    for each in there[:_PARTICIPANTS_MAX]:
        inside = CALLS[each.get("call_sid")] if isinstance(each, dict) else None
        if inside is not None:
            facts.append(ParticipantFact(conference, inside, "join", name, INSTANTS[each.get("date_created")]))
    calls = [fact.call for fact in facts if isinstance(fact, ParticipantFact)]
    return _own(kind, envelope, data, None, _named(conference, call, *calls), tuple(facts))


def _fetched_call_events(kind: str, envelope: Envelope, data: Own) -> Entry:
    """An answer to enrichment: TwiML from the history of a call, as long after it as Twilio needs to tell of it."""
    call = CALLS[data.call_sid] or CALLS[data.sid]
    facts: tuple[AnyFact, ...] = ()
    if call is not None and isinstance(data.twiml, str):
        facts = tuple([TwimlFact(call, name) for name in recorded_conferences_in_xml(data.twiml)])
    return _own(kind, envelope, data, INSTANTS[data.timestamp], _pair(CONFERENCES[data.conference_sid], call), facts)


def _flex_setting(kind: str, envelope: Envelope, data: Own) -> Entry:
    event = _own(kind, envelope, data, INSTANTS[data.observed_at])
    enabled = truth_of(data.call_recording_enabled)
    if enabled is None or event.occurred_ms is None:
        raise UnreadableError("bad-setting", "call_recording_enabled and observed_at are needed")
    setting = FlexSetting(event.account, enabled, INSTANTS[data.since], truth_of(data.previous), event.occurred_ms)
    return msgspec.structs.replace(event, setting=setting)


def _flow_setting(kind: str, envelope: Envelope, data: Own) -> Entry:
    event = _own(kind, envelope, data, None)
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


def _worker_session(kind: str, envelope: Envelope, data: Own) -> Entry:
    event = _own(kind, envelope, data, None)
    worker = sid_of(data.worker_sid, "WK")
    if worker is None or event.occurred_ms is None:
        raise UnreadableError("bad-setting", "worker_sid and time are needed")
    available_ms, offline_ms = INSTANTS[data.available_since], INSTANTS[data.offline_since]
    setting = WorkerSession(event.account, worker, available_ms, offline_ms, event.occurred_ms)
    return msgspec.structs.replace(event, setting=setting)


# --------------------------------------------------------------------------- the table of types

_INSIGHTS: Final = _VOICE + "insights."

_BY_NAME: Final[dict[str, Reader]] = {
    _VOICE + "status-callback.recording.processed": _recording,
    _VOICE + "status-callback.conference.updated": _conference,
    PARTICIPANT: _conference,
    **{_VOICE + "status-callback.call." + phase: _call for phase in ("initiated", "ringing", "answered", "completed")},
    **{_VOICE + "twiml." + name: _twiml for name in ("call.requested", "call.redirected", "call.transferred")},
    **{
        _VOICE + "twiml." + name: _twiml
        for name in ("enqueue.finished", "gather.finished", "request.failed", "requested")
    },
    _VOICE + "twiml.call.request.failed": _twiml,
    _VOICE + "twiml.dial.finished": _dial,
    _VOICE + "twiml.record.finished": _record,
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
    OWN + "conference.fetched": _fetched_conference,
    OWN + "call-events.fetched": _fetched_call_events,
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
_SHAPES: Final[dict[Reader, type[Data]]] = {
    _recording: Recorded,
    _conference: Callback,
    _call: Callback,
    **dict.fromkeys((_twiml, _dial, _record, _call_request, _conference_request), Answered),
    **dict.fromkeys((_conference_summary, _participant_summary, _call_summary), Summary),
    **dict.fromkeys((_execution, _step), Studio),
    **dict.fromkeys((_task, _worker), TaskRouter),
    _error: Logged,
    _ignored: Ignorable,
    **dict.fromkeys((_tick, _listed, _fetched_conference, _fetched_call_events), Own),
    **dict.fromkeys((_flex_setting, _flow_setting, _worker_session), Own),
}
_TASK_PREFIXES: Final = (TWILIO + "taskrouter.task.", TWILIO + "taskrouter.reservation.")
MEMBERLESS: Final[frozenset[Reader]] = frozenset(
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
    TWILIO + "taskrouter.",
    TWILIO + "studio.",
    TWILIO + "eventstreams.test-event",
)
# Of those with a prefix, what Twilio sends today: to know a type by its whole name is three times as fast.
_TASK_EVENTS: Final = tuple(
    TWILIO + "taskrouter." + name
    for name in (
        *("task.created", "task.updated", "task.canceled", "task.completed", "task.deleted", "task.system-deleted"),
        *("task.wrapup", "task.transfer-initiated", "task.transfer-attempt-failed", "task.transfer-failed"),
        *("task.transfer-canceled", "task.transfer-completed", "reservation.created", "reservation.accepted"),
        *("reservation.rejected", "reservation.timeout", "reservation.canceled", "reservation.rescinded"),
        *("reservation.completed", "reservation.failed", "reservation.wrapup"),
    )
)
_IGNORED_EVENTS: Final = (
    _VOICE + "status-callback.amd.detected",
    _VOICE + "status-callback.announcement.processed",
    _VOICE + "status-callback.gather.partial.captured",
    _VOICE + "status-callback.stream.updated",
    _VOICE + "status-callback.transcription.processed",
    _VOICE + "media.fetched",
    _INSIGHTS + "call-metrics.gateway",
    _INSIGHTS + "call-metrics.sdk",
    TWILIO + "eventstreams.test-event",
)


def reader_of(spelled: str) -> tuple[str, Reader] | None:
    """Our name of a type, however it is spelled, and who reads it."""
    lowered = spelled.strip().lower()
    if found := READERS.get(lowered):
        return found
    # TaskRouter has a dozen task and reservation events, all of one payload; the list grows.
    return (lowered, _task) if lowered.startswith(_TASK_PREFIXES) else None


def unread(spelled: str) -> Ignored:
    """What an entry is whose type nobody reads (``reader_of``)."""
    return Ignored(spelled, known=spelled.lower().startswith(_IGNORED))


def is_ignored(read: Reader) -> bool:
    """Whether a reader finds nothing for us, whatever it reads."""
    return read is _ignored


def shape_of(read: Reader) -> type[Data]:
    """The shape of the data that a reader looks into."""
    return _SHAPES[read]


# Of every type that we know by name, the envelope it decodes into, and from there our name and the reader.
BY_ENVELOPE: Final[dict[type[Envelope], tuple[str, Reader]]] = {
    envelope_of(spelled, _SHAPES[found[1]]): found
    for spelled, found in (
        READERS | {name: (name, _task) for name in _TASK_EVENTS} | {name: (name, _ignored) for name in _IGNORED_EVENTS}
    ).items()
}
decode_envelope: Final = decoder_of(tuple(BY_ENVELOPE))
EVENT_TYPES: Final = tuple(sorted(_BY_NAME))
TYPE_CODES: Final = {name: code for code, name in enumerate(EVENT_TYPES)}
