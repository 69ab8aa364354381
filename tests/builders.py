"""Turns the short lines of a scenario file into the bytes Twilio would send, and plays them through the pipeline.

tests/scenarios/README.md tells how a scenario file reads. Names like ``CA1`` become SIDs, times are seconds since the
start of the scenario (or ``90 s``, ``2 min``, ``23 h``, ``8 d``). Field names, spellings and date formats are those of
the sample events, so that decoding is tested with every scenario. A key that a line may not have is an error.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import yaml

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import Starter
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Counts, NotJudged, Pipeline, Publish, SetAside, SettingSeen, Told, Tuning
from monitor.core.policy import Policy, compile_policy
from monitor.core.verdict import Verdict, read_instant
from monitor.inputs.policy_file import load_policy, parse_policy

SCENARIOS: Final = Path(__file__).parent / "scenarios"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
START: Final = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)  # What `at: 0` means; a Monday.
START_MS: Final = (START - EPOCH) // timedelta(milliseconds=1)

Json = dict[str, Any]


class ScenarioError(Exception):
    """A scenario file that does not say what its author thinks; the message names the place."""


# --------------------------------------------------------------------------- values

_UNITS_MS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)")


def span_ms(value: object) -> int:
    """Milliseconds of a span: a number of seconds, or text such as ``23 h 59 min`` or ``-8 d``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(value * 1000)
    if isinstance(value, str):
        text = value.strip()
        sign = -1 if text.startswith("-") else 1
        parts = _SPAN.findall(text)
        if parts and not _SPAN.sub("", text.lstrip("-")).strip():
            return sign * sum(round(float(number) * _UNITS_MS[unit]) for number, unit in parts)
    raise ScenarioError(f"{value!r} is no span: write seconds, or for example 23 h 59 min")


def sid(name: str) -> str:
    """The SID that a short name stands for: ``CA1`` is CA and thirty-two digits."""
    if re.fullmatch(r"[A-Z]{2}[0-9a-f]{1,32}", name):
        return name[:2] + name[2:].rjust(32, "0")
    raise ScenarioError(f"{name!r} is no SID: write two capitals and a number, as in CA1")


def iso(ms: int) -> str:
    """An instant as Twilio's envelopes write it: ISO 8601 with milliseconds."""
    when = EPOCH + timedelta(milliseconds=ms)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def iso_seconds(ms: int) -> str:
    """An instant as Insights and Studio write it; milliseconds only where there are some."""
    return iso(ms) if ms % 1000 else (EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc2822(ms: int) -> str:
    """An instant as callback parameters write it; they have no milliseconds, so those need the other format."""
    return iso(ms) if ms % 1000 else format_datetime(EPOCH + timedelta(milliseconds=ms))


def base64_of(body: str) -> str:
    return base64.b64encode(body.encode()).decode()


def conference_twiml(name: str, record: str | None) -> str:
    """TwiML that puts a call into a conference; ``record`` None leaves the attribute out."""
    attribute = "" if record is None else f" record={quoteattr(record)}"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Response><Dial><Conference{attribute}>{escape(name)}</Conference></Dial></Response>"
    )


# --------------------------------------------------------------------------- one line of `given`


class Line:
    """One line of ``given``. Keys are ticked off as they are read: what is left over was misspelt."""

    def __init__(self, number: int, fields: Mapping[str, Any], starts: dict[str, int]) -> None:
        self.number = number
        self.fields = dict(fields)
        self.starts = starts  # Of each recording, when the first line about it says it started.
        self.at_ms = START_MS + span_ms(self.take("at"))
        arrives = self.take("arrives", None)
        self.arrives_ms = self.at_ms if arrives is None else START_MS + span_ms(arrives)
        self.account = sid(self.take("account", "AC1"))
        self.times = int(self.take("times", 1))
        self.named_id = self.take("id", "")
        self.turn = 0

    def take(self, key: str, *default: Any) -> Any:
        """The value of a key; without a default it has to be there."""
        if key not in self.fields:
            if default:
                return default[0]
            raise ScenarioError(f"line {self.number} of `given`: {key} is missing")
        return self.fields.pop(key)

    def text(self, key: str) -> str | None:
        """An optional text; a number is taken as it is written."""
        value = self.take(key, None)
        return None if value is None else str(value)

    def sid(self, key: str) -> str | None:
        """An optional SID."""
        value = self.take(key, None)
        return None if value is None else sid(value)

    def instant(self, key: str) -> int | None:
        """An optional instant, in milliseconds."""
        value = self.take(key, None)
        return None if value is None else START_MS + span_ms(value)

    def event_id(self, prefix: str) -> str | None:
        """The id of the event: its own for each line and turn, unless the line names one; None for ``id: none``."""
        if self.named_id == "none":
            return None
        if self.named_id:
            return f"{prefix}{self.named_id}"
        return f"{prefix}{self.number:016x}{self.turn:016x}"


def _without_none(fields: Json) -> Json:
    return {key: value for key, value in fields.items() if value is not None}


def _envelope(line: Line, kind: str, source: str, id_: str | None, data: object) -> Json:
    return _without_none(
        {
            "specversion": "1.0",
            "type": kind,
            "source": source,
            "id": id_,
            "dataschema": "https://events-schemas.twilio.com/Voice.WebhookEvent/2",
            "datacontenttype": "application/json",
            "time": iso(line.at_ms),
            "data": data,
        }
    )


def _webhook(
    line: Line,
    kind: str,
    resource: str | None,
    parameters: Json,
    *,
    url: str = "https://voice.example.com/callbacks",
    body: str | None = None,
    code: int = 200,
    account: bool = True,
) -> Json:
    """An event of the ``Voice.WebhookEvent`` family about ``resource``: a SID, or None where nothing came of it."""
    id_ = line.event_id("VW")
    family = {"RE": "Recordings", "CF": "Conferences", "CA": "Calls"}
    path = f"/2010-04-01/Accounts/{line.account}" + (f"/{family[resource[:2]]}/{resource}.json" if resource else "")
    response = {
        "responseCode": code,
        "requestDuration": 84,
        "dateCreated": rfc2822(line.at_ms - line.at_ms % 1000),
        "contentType": None if body is None else "text/xml",
        "responseBody": body,
    }
    data = {
        "sid": resource,
        "requestDateCreated": rfc2822(line.at_ms - line.at_ms % 1000),
        "timestamp": iso(line.at_ms),
        "eventSid": id_,
        "request": {
            "method": "POST",
            "url": url,
            "parameters": _without_none({"AccountSid": line.account if account else None, **parameters}),
        },
        "response": _without_none(response),
    }
    return _envelope(line, "com.twilio.voice." + kind, path, id_, _without_none(data))


def _body(line: Line) -> str | None:
    """The TwiML a line speaks of: ``body``, or a conference that it ``joins`` with ``record``."""
    joins, record = line.text("joins"), line.text("record")
    body = line.text("body")
    return conference_twiml(joins, record) if body is None and joins is not None else body


def _phone(line: Line) -> Json:
    return {"Direction": line.text("direction"), "From": line.text("from"), "To": line.text("to")}


# --------------------------------------------------------------------------- what happened, one function a word


def _recording(line: Line, name: str) -> Json:
    recording, call, conference = sid(name), line.sid("call"), line.sid("conference")
    duration = line.take("duration", None)
    started_ms = line.starts.setdefault(recording, line.at_ms)
    if "started" in line.fields:
        started = line.take("started")
        stated = None if started == "none" else START_MS + span_ms(started)
        line.starts[recording] = started_ms if stated is None else stated
    else:
        stated = started_ms
    resource = f"https://api.twilio.com/2010-04-01/Accounts/{line.account}/Recordings/{recording}"
    parameters = {
        "RecordingSid": recording,
        "RecordingUrl": resource,
        "RecordingStatus": line.text("status"),
        "RecordingChannels": "2",
        "RecordingSource": line.text("source"),
        "ErrorCode": "0",
        "CallSid": call,
        "ConferenceSid": conference,
        "RecordingStartTime": None if stated is None else rfc2822(stated),
        "RecordingDuration": None if duration is None else str(duration),
    }
    url = line.take("callback", "https://voice.example.com/callbacks/recording")
    return _webhook(line, "status-callback.recording.processed", call or conference or recording, parameters, url=url)


def _participant(line: Line, what: str) -> Json:
    conference = line.sid("conference")
    parameters = {
        "ConferenceSid": conference,
        "FriendlyName": line.text("name"),
        "SequenceNumber": "1",
        "Timestamp": rfc2822(line.at_ms),
        "StatusCallbackEvent": f"participant-{what}",
        "CallSid": line.sid("call"),
        "Muted": "false",
        "Hold": "false",
        "ParticipantLabel": line.text("label"),
    }
    return _webhook(line, "status-callback.conference.participant.updated", conference, parameters)


def _conference_event(line: Line, what: str) -> Json:
    conference, ended_by = line.sid("conference"), line.sid("ended_by")
    parameters = {
        "ConferenceSid": conference,
        "FriendlyName": line.text("name"),
        "SequenceNumber": "2",
        "Timestamp": rfc2822(line.at_ms),
        "StatusCallbackEvent": f"conference-{what}",
        "CallSidEndingConference": ended_by,
        "ReasonConferenceEnded": "last-participant-left" if what == "end" else None,
    }
    return _webhook(line, "status-callback.conference.updated", conference, parameters)


def _call_event(line: Line, what: str) -> Json:
    call = line.sid("call")
    parameters = {
        "CallSid": call,
        "ParentCallSid": line.sid("parent"),
        "CallStatus": {"answered": "in-progress"}.get(what, what),
        **_phone(line),
        "Timestamp": rfc2822(line.at_ms),
        "SequenceNumber": "0",
    }
    return _webhook(line, f"status-callback.call.{what}", call, parameters)


def _twiml(line: Line, name: str) -> Json:
    call, body = sid(name), _body(line)
    encoded = None if body is None else base64_of(body)
    cut = line.take("cut", None)
    if encoded is not None and cut is not None:
        encoded = encoded[: int(cut)]
    kind = f"twiml.call.{line.take('runs', 'requested')}"
    parameters = {"CallSid": call, "CallStatus": "in-progress", **_phone(line)}
    code = int(line.take("code", 200))
    return _webhook(line, kind, call, parameters, url="https://voice.example.com/twiml", body=encoded, code=code)


def _verb_finished(line: Line, verb: str) -> Json:
    call, recording, body = line.sid("call"), line.sid("recording"), _body(line)
    duration = line.take("duration", None)
    url = f"https://api.twilio.com/2010-04-01/Accounts/{line.account}/Recordings/{recording}" if recording else None
    parameters = {
        "CallSid": call,
        "DialCallSid": line.sid("child"),
        "RecordingSid": recording if verb == "record" else None,
        "RecordingUrl": url,
        "RecordingDuration": None if duration is None else str(duration),
    }
    encoded = base64_of(body if body is not None else "<Response><Hangup/></Response>")
    return _webhook(line, f"twiml.{verb}.finished", call, parameters, body=encoded)


def _participant_request(line: Line, verb: str) -> Json:
    """An API request about a participant. Without ``conference`` its answer carries no SID, as when it is refused."""
    conference, name, call = line.sid("conference"), line.text("name"), line.sid("call")
    account = f"https://api.twilio.com/2010-04-01/Accounts/{line.account}"
    url = f"{account}/Conferences/{name or conference}/Participants" + (f"/{call}.json" if call else ".json")
    parameters = {"Label": "agent", "ConferenceRecord": line.text("record")}
    code = int(line.take("code", 201))
    kind = f"api-request.conference-participant.{verb}"
    return _webhook(line, kind, conference, parameters, url=url, code=code, account=False)


def _call_request(line: Line, verb: str) -> Json:
    call = line.sid("call")
    url = f"https://api.twilio.com/2010-04-01/Accounts/{line.account}/Calls.json"
    phone = _phone(line)
    parameters = {"From": phone["From"] or "+14155550102", "To": phone["To"] or "+14155550103", "Twiml": _body(line)}
    code = int(line.take("code", 201))
    return _webhook(line, f"api-request.call.{verb}", call, parameters, url=url, code=code, account=False)


def _insights(line: Line, what: str) -> Json:
    """A Voice Insights summary of a conference, a participant or a call; it tells of times gone by."""
    call, conference = line.sid("call"), line.sid("conference")
    begins, ends = line.instant("begins"), line.instant("ends")
    begin, end = (None if ms is None else iso_seconds(ms) for ms in (begins, ends))
    enabled = line.take("recording_enabled", None)
    data: Json = {"account_sid": line.account, "conference_sid": conference, "call_sid": call}
    state = line.take("state", "complete")
    if what == "conference":
        kind = f"conference-summary.{state}"
        data |= {"friendly_name": line.text("name"), "create_time": begin, "start_time": begin, "end_time": end}
        data |= {"recording_enabled": enabled, "processing_state": state}
    elif what == "participant":
        kind = f"conference-participant-summary.{state}"
        data |= {"join_time": begin, "leave_time": end, "label": "customer"}
        data |= {"properties": {"recording_enabled": enabled}, "processing_state": state}
    else:
        kind = f"call-summary.{state}"
        data |= {"parent_call_sid": line.sid("parent"), "start_time": begin, "end_time": end}
        data |= {"properties": {"direction": line.text("direction")}, "call_state": "completed"}
    id_ = line.event_id("EZ")
    return _envelope(line, f"com.twilio.voice.insights.{kind}", "/v1/Summary", id_, _without_none(data))


def _execution(line: Line, name: str) -> Json:
    phase = "ended" if line.take("ended", False) else "started"
    data = {
        "execution_sid": sid(name),
        "account_sid": line.account,
        "flow_sid": line.sid("flow"),
        "flow_revision": line.take("revision", None),
        "started_by": line.sid("call"),
        "status": "ended" if phase == "ended" else "active",
        "date_created": iso_seconds(line.at_ms),
        "date_updated": iso_seconds(line.at_ms) if phase == "ended" else None,
    }
    kind = f"com.twilio.studio.flow.execution.{phase}"
    return _envelope(line, kind, "/v2/Flows", line.event_id("EZ"), _without_none(data))


def _step(line: Line, name: str) -> Json:
    data = {
        "execution_sid": sid(name),
        "account_sid": line.account,
        "flow_sid": line.sid("flow"),
        "step_sid": f"FT{line.number:032x}",
        "name": line.text("by"),
        "transitioned_from": line.text("leaves"),
        "transitioned_to": line.text("enters"),
        "date_created": iso_seconds(line.at_ms),
    }
    id_ = line.event_id("EZ")
    return _envelope(line, "com.twilio.studio.flow.step.ended", "/v2/Flows", id_, _without_none(data))


def _task(line: Line, name: str) -> Json:
    task, conference = sid(name), line.sid("conference")
    customer, agent = line.sid("call"), line.sid("worker_call")
    attributes: Json = _without_none({"call_sid": customer, "direction": "inbound"})
    if conference is not None:
        participants = _without_none({"customer": customer, "worker": agent})
        attributes["conference"] = {"sid": conference, "participants": participants}
    what = line.take("event", "reservation.accepted")
    payload = {
        "account_sid": line.account,
        "eventtype": what,
        "timestamp": str(line.at_ms // 1000),
        "timestamp_ms": str(line.at_ms),
        "task_sid": task,
        "task_attributes": json.dumps(attributes),
        "task_queue_sid": line.sid("queue_sid"),
        "task_queue_name": line.text("queue"),
        "worker_sid": line.sid("worker_sid"),
        "worker_name": line.text("worker"),
    }
    data = {
        "account_sid": line.account,
        "name": what,
        "timestamp": iso_seconds(line.at_ms),
        "payload": _without_none(payload),
    }
    return _envelope(line, f"com.twilio.taskrouter.{what}", "/v1/Workspaces", line.event_id("EZ"), data)


def _ours(line: Line, kind: str, data: Json) -> Json:
    id_ = line.event_id("rm-")
    return _envelope(
        line, "dev.recording-monitor." + kind, "recording-monitor", id_, {"account_sid": line.account} | data
    )


def _flex_setting(line: Line, enabled: object) -> Json:
    """``since`` is when the setting came to be so, where that was seen; ``observed`` when it was asked for."""
    since, observed = line.instant("since"), line.instant("observed")
    data = {
        "call_recording_enabled": _switch(enabled),
        "since": None if since is None else iso(since),
        "previous": _switch(line.take("previous", None)),
        "observed_at": iso(line.at_ms if observed is None else observed),
    }
    return _ours(line, "flex-configuration.observed", data)


def _switch(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ScenarioError(f"{value!r} is neither on nor off")


def _flow(line: Line, name: str) -> Json:
    """``widgets`` gives the type of each: ``record-call`` starts a recording, ``record-call off`` ends one."""
    widgets = [
        {"name": widget, "type": kind.removesuffix(" off"), "records": kind == "record-call"}
        for widget, kind in line.take("widgets").items()
    ]
    data = {"flow_sid": sid(name), "revision": line.take("revision"), "widgets": widgets}
    return _ours(line, "studio-flow.observed", data)


def _listed(line: Line, name: str) -> Json:
    started, duration = line.instant("started"), line.take("duration", None)
    data = {
        "sid": sid(name),
        "call_sid": line.sid("call"),
        "conference_sid": line.sid("conference"),
        "source": line.text("source"),
        "status": line.text("status"),
        "start_time": None if started is None else iso_seconds(started),
        "date_created": iso_seconds(line.at_ms if started is None else started),
        "duration": None if duration is None else str(duration),
    }
    return _ours(line, "recording.listed", data)


def _fetched(line: Line, name: str) -> Json:
    created = line.instant("created")
    data = {"sid": sid(name), "friendly_name": line.text("name"), "status": "completed"}
    return _ours(line, "conference.fetched", data | {"date_created": None if created is None else iso_seconds(created)})


def _tick(line: Line, _: object) -> Json:
    return _ours(line, "tick", {"sent_at": iso(line.at_ms), "by": "scenario"})


def _event(line: Line, kind: str) -> Json:
    data = {"account_sid": line.account, **line.take("data", {})}
    return _envelope(line, kind, "/", line.event_id("EZ"), data)


_WORDS: Final[dict[str, Callable[[Line, Any], Json]]] = {
    "recording": _recording,
    "participant": _participant,
    "conference_event": _conference_event,
    "call_event": _call_event,
    "twiml": _twiml,
    "verb_finished": _verb_finished,
    "participant_request": _participant_request,
    "call_request": _call_request,
    "insights": _insights,
    "execution": _execution,
    "step": _step,
    "task": _task,
    "flex_setting": _flex_setting,
    "flow": _flow,
    "listed": _listed,
    "fetched": _fetched,
    "tick": _tick,
    "event": _event,
}


class Message(NamedTuple):
    """Bytes at a place in the log, the instant of their arrival, and the line of the file they come from."""

    offset: int
    arrives_ms: int
    value: bytes
    line: int


def build_messages(given: Iterable[Mapping[str, Any]]) -> list[Message]:
    """The messages of a scenario, in order of arrival. Raises ``ScenarioError``, naming the line."""
    messages: list[Message] = []
    by_line: dict[int, bytes] = {}
    starts: dict[str, int] = {}
    for number, fields in enumerate(given, 1):
        line = Line(number, fields, starts)
        if messages and line.arrives_ms < messages[-1].arrives_ms:
            raise ScenarioError(f"line {number} of `given` arrives before the line above it: give it `arrives`")
        kept = dict(line.fields)
        for turn in range(line.times):
            line.turn = turn
            line.fields = dict(kept)
            value = by_line[number] = _bytes_of(line, by_line)
            messages.append(Message(len(messages) + 1, line.arrives_ms, value, number))
    return messages


def _bytes_of(line: Line, by_line: Mapping[int, bytes]) -> bytes:
    if "again" in line.fields:
        value = by_line[line.take("again")]
    elif "bytes" in line.fields:
        value = str(line.take("bytes")).encode()
    else:
        word = next(iter(line.fields), None)  # The first word says what happened; the others tell more of it.
        if word not in _WORDS:
            raise ScenarioError(f"line {line.number} of `given`: nothing happens that is called {word}")
        value = json.dumps(_WORDS[word](line, line.take(word))).encode()
    if line.fields:
        raise ScenarioError(f"line {line.number} of `given`: nobody reads {', '.join(line.fields)}")
    return value


# --------------------------------------------------------------------------- scenarios


class Scenario(NamedTuple):
    """A scenario file, read. ``order_matters`` says why the order of arrival may change the end; None: it may not."""

    path: Path
    title: str
    policy: Policy
    tuning: Tuning
    messages: list[Message]
    expect: list[Json]
    at_the_end: list[Json]
    counts: Json
    conversations: int | None
    order_matters: str | None


_KEYS: Final = frozenset(
    {"title", "about", "policy", "settings", "given", "expect", "finally", "counts", "conversations", "order_matters"}
)
_SPANS: Final = {
    "window": "window_ms",
    "grace": "grace_ms",
    "session_max": "session_max_ms",
    "age_max": "age_max_ms",
    "recordings_too_old": "recordings_too_old_ms",
}


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises ``ScenarioError`` where it holds what nobody reads."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if unknown := document.keys() - _KEYS:
        raise ScenarioError(f"{path.name}: nobody reads {', '.join(sorted(unknown))}")
    try:
        messages = build_messages(document["given"])
        tuning = read_tuning(document.get("settings", {}))
    except ScenarioError as error:
        raise ScenarioError(f"{path.name}: {error}") from None
    return Scenario(
        path,
        document["title"],
        read_policy(document.get("policy")),
        tuning,
        messages,
        document.get("expect") or [],
        document.get("finally") or [],
        document.get("counts") or {},
        document.get("conversations"),
        document.get("order_matters"),
    )


def read_policy(document: Mapping[str, Any] | None) -> Policy:
    """The policy of a scenario: what a policy file may hold, or the built-in one."""
    if document is None:
        return load_policy(None).policy
    text = yaml.safe_dump({"policy": "scenario", **document}).encode()
    parsed, _ = parse_policy(text, "scenario", now=START)
    return compile_policy(parsed, text)


def read_tuning(document: Mapping[str, Any]) -> Tuning:
    """What the fold runs under, from the settings of a scenario; spans as everywhere in it."""
    fields: Json = {}
    for key, value in document.items():
        if key in _SPANS:
            fields[_SPANS[key]] = span_ms(value)
        elif key == "entries_max":
            fields[key] = int(value)
        elif key == "starters":
            fields[key] = tuple(Starter(**starter) for starter in value)
        elif key == "aliases":
            fields[key] = {sid(account): alias for account, alias in value.items()}
        else:
            raise ScenarioError(f"settings: nobody reads {key}")
    return Tuning(**fields)


class Played(NamedTuple):
    """What a scenario told: before the end, at the end; and the pipeline, and what was counted."""

    told: list[Publish]
    at_the_end: list[Publish]
    set_aside: list[SetAside]
    settings_seen: list[SettingSeen]
    counts: Counts
    conversations: int

    def last(self) -> dict[str, Verdict]:
        """The last verdict of each recording, and of each suspicion that stands."""
        return last_verdicts([*self.told, *self.at_the_end])


def last_verdicts(told: Iterable[Told]) -> dict[str, Verdict]:
    """The last verdict under each key; a tombstone leaves none."""
    last: dict[str, Verdict] = {}
    for one in told:
        if isinstance(one, Publish):
            if one.verdict is None:
                last.pop(one.key, None)
            else:
                last[one.key] = one.verdict
    return last


def play(messages: Sequence[Message], tuning: Tuning, policy: Policy) -> Played:
    """Feed messages to a pipeline of one partition; then take time past every window."""
    checkpoint = Checkpoint(offset=1, generation=0, replay_from=1, log_time_ms=None)
    pipeline = Pipeline(tuning, policy, AccountSettings(), partition=None, checkpoint=checkpoint, clamp=False)
    pipeline.open(Ledger())
    told: list[Told] = []
    for message in messages:
        told += pipeline.feed(message.offset, message.arrives_ms, message.value)
    conversations = pipeline.window.open_conversations
    at_the_end = pipeline.finish()
    failures = [one for one in [*told, *at_the_end] if isinstance(one, NotJudged)]
    assert not failures, failures
    return Played(
        [one for one in told if isinstance(one, Publish)],
        [one for one in at_the_end if isinstance(one, Publish)],
        [one for one in told if isinstance(one, SetAside)],
        [one for one in told if isinstance(one, SettingSeen)],
        pipeline.take_counts(),
        conversations,
    )


# --------------------------------------------------------------------------- what is expected


def _evidence(verdict: Verdict, messages: Sequence[Message]) -> list[int]:
    lines = {str(message.offset): message.line for message in messages}
    return sorted({lines[shown.position] for shown in verdict.evidence})


def _since_start(text: str | None) -> int | None:
    return None if text is None else read_instant(text) - START_MS


_SHOWN: Final[dict[str, Callable[[Verdict], object]]] = {
    "outcome": lambda v: v.outcome,
    "rule": lambda v: v.rule,
    "severity": lambda v: v.severity,
    "cause": lambda v: v.cause,
    "strength": lambda v: v.strength,
    "source": lambda v: v.start_source,
    "call": lambda v: v.call_sid,
    "conference": lambda v: v.conference_sid,
    "status": lambda v: v.recording_status,
    "found_by": lambda v: v.found_by,
    "revision": lambda v: v.revision,
    "final": lambda v: v.final,
    "missing": lambda v: list(v.missing),
    "ruled_out": lambda v: [ruled.cause for ruled in v.ruled_out],
    "account": lambda v: v.account_sid,
    "mode": lambda v: v.mode,
    "history": lambda v: [(told.revision, told.outcome, told.cause) for told in v.history],
    "started": lambda v: _since_start(v.started_at),
    "ended": lambda v: _since_start(v.ended_at),
    "first_seen": lambda v: _since_start(v.first_seen_at),
    "disallowed_since": lambda v: _since_start(v.disallowed_since),
    "decided": lambda v: _since_start(v.decided_at),
}
_SID_KEYS: Final = frozenset({"call", "conference", "account"})
_SPAN_KEYS: Final = frozenset({"started", "ended", "first_seen", "disallowed_since", "decided"})


def compare(expected: Mapping[str, Any], told: Publish, messages: Sequence[Message]) -> list[str]:
    """What of one expectation does not hold of what was told, a sentence each."""
    fields = dict(expected)
    wrong = []
    at = fields.pop("at", None)
    if at is not None:
        # A tombstone bears no instant of its own; that of a verdict is the arrival of the message that told it.
        fields["decided"] = at
    key_word = next((word for word in ("recording", "suspicion", "withdrawn") if word in fields), None)
    if key_word is None:
        raise ScenarioError(f"an expectation speaks of no recording, suspicion or withdrawal: {expected}")
    key = sid(fields.pop(key_word))
    if told.key != key:
        wrong.append(f"it is about {told.key}, not {key}")
    verdict = told.verdict
    if key_word == "withdrawn":
        return wrong if verdict is None else [*wrong, "it is not withdrawn"]
    if verdict is None:
        return [*wrong, "it is withdrawn"]
    if verdict.kind != key_word:
        wrong.append(f"it is a {verdict.kind}")
    late = fields.pop("late", None)
    if late is not None and late is not told.late:
        wrong.append(f"late is {told.late}")
    shown_by = fields.pop("shown_by", None)
    if shown_by is not None and (lines := _evidence(verdict, messages)) != sorted(shown_by):
        wrong.append(f"it is shown by lines {lines}, not {sorted(shown_by)}")
    for name, value in fields.items():
        if name not in _SHOWN:
            raise ScenarioError(f"nobody compares {name}: {expected}")
        actual = _SHOWN[name](verdict)
        if value is not None and name in _SID_KEYS:
            value = sid(value)
        if value is not None and name in _SPAN_KEYS:
            value = span_ms(value)
        if name == "history":
            value = [tuple(entry) for entry in value]
        if actual != value:
            wrong.append(f"{name} is {actual!r}, not {value!r}")
    return wrong


def render_told(told: Iterable[Publish]) -> str:
    """What was told, a line each, for a message about what was not expected."""
    lines = []
    for one in told:
        verdict = one.verdict
        if verdict is None:
            lines.append(f"  withdrawn {one.key}")
            continue
        at = (read_instant(verdict.decided_at) - START_MS) / 1000
        what = f"{verdict.outcome} ({verdict.rule}) cause {verdict.cause} r{verdict.revision}"
        where = f"conference {verdict.conference_sid} missing {list(verdict.missing)}"
        lines.append(f"  at {at:g}: {one.key} {what}{' final' if verdict.final else ''} {where}")
    return "\n".join(lines) or "  nothing"


@cache
def scenarios() -> tuple[Scenario, ...]:
    """All scenario files, by name."""
    return tuple(read_scenario(path) for path in sorted(SCENARIOS.glob("*.yaml")))
