"""Attribution: from the evidence of a conversation to what started a recording, and in which conference.

Everything here is a pure function of evidence, account settings and tuning; the order in which evidence arrived plays
no part. What decides a cause is in ``attribute`` and the functions it calls, one a kind of start source. Unknown is a
third answer: a cause that may yet turn out otherwise is None.

The causes and their order: docs/causes.md. Start sources: https://www.twilio.com/docs/voice/api/recording.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec

from monitor.core.events import (
    FOUND_BY_LISTING,
    FOUND_BY_STREAM,
    FOUND_BY_VERB,
    CallFact,
    ConferenceFact,
    ExecutionFact,
    FlexSetting,
    FlowSetting,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    Setting,
    StepFact,
    TaskFact,
    TwimlFact,
    WorkerSession,
)
from monitor.core.values import is_sid
from monitor.core.window import CLAIM_REACH_MS, KIND, PLACES, Conversation, Focus, Kept

PROOF_SLACK_MS: Final = 10_000  # Evidence of a start may be stamped this much after the recording's start.
JOIN_SLACK_MS: Final = 5_000  # A call's join may be stamped this much before the TwiML that led to it.

T = TypeVar("T", str, int)

START_SOURCES: Final = (
    "DialVerb",
    "Conference",
    "OutboundAPI",
    "Trunking",
    "RecordVerb",
    "StartCallRecordingAPI",
    "StartConferenceRecordingAPI",
    "StartCallRecordingTwiML",
)
_CANONICAL_SOURCE: Final = {source.lower(): source for source in START_SOURCES}

_CAUSE_OF_SOURCE: Final = {
    "DialVerb": "dial_verb",
    "RecordVerb": "record_verb",
    "Trunking": "sip_trunk",
    "OutboundAPI": "outbound_call_api",
    "StartCallRecordingTwiML": "start_recording_twiml",
    "StartConferenceRecordingAPI": "conference_recording_api",
}
CAUSES: Final = (
    "api_call_recording",
    "studio_call_recording_widget",
    "flex_plugin",
    "conference_api",
    "conference_twiml",
    "flex_call_recording",
    "flex_conference",
    "flex_stale_session",
    "flex_residual_setting",
    *_CAUSE_OF_SOURCE.values(),
    "unknown_source",
    "unattributed",
)
STATUSES: Final = ("in-progress", "paused", "stopped", "processing", "completed", "absent", "failed", "deleted")
STATUS_RANK: Final = {
    "in-progress": 1,
    "paused": 1,
    "stopped": 2,
    "processing": 3,
    "completed": 4,
    "absent": 4,
    "failed": 4,
    "deleted": 5,
}
_FOUND_BY_RANK: Final = {FOUND_BY_STREAM: 2, FOUND_BY_VERB: 1, FOUND_BY_LISTING: 0}


class Starter(msgspec.Struct, frozen=True):
    """Who may start recordings, told by the callback address they ask for: a setting."""

    callback_url: str
    cause: str
    name: str


class Proof(msgspec.Struct, frozen=True, gc=False):
    """One event that carries a conclusion, and what it shows in one line."""

    kept: Kept
    shows: str


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence supports about one recording. ``None`` means not known, never "does not apply"."""

    recording_sid: str
    call_sid: str | None
    conference_sid: str | None
    start_source: str | None
    status: str | None
    found_by: str
    started_ms: int
    ended_ms: int | None
    callback_urls: tuple[str, ...]
    cause: str | None
    strength: str | None
    open_to_end: bool  # The cause is held open by evidence that is incomplete, whatever the grace says.
    evidence: tuple[Proof, ...]
    ruled_out: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


# --------------------------------------------------------------------------- account settings


class _Flow(msgspec.Struct, frozen=True, gc=False):
    recording_widgets: tuple[str, ...]


class FlexState(msgspec.Struct, frozen=True, gc=False):
    """Flex call recording at an instant: ``enabled`` None is not known; ``off_since_ms`` None likewise."""

    enabled: bool | None
    off_since_ms: int | None


class AccountSettings:
    """What is known of the accounts from outside the stream, looked up by the recording's start.

    Observations of Flex may come in any order and more than once: what is known is a function of their set. Of a flow's
    revision, which Studio never changes, the observation told last stands.
    """

    def __init__(self) -> None:
        self._flex: dict[str, list[tuple[int, int, FlexSetting]]] = {}
        self._flows: dict[tuple[str, str, int], _Flow] = {}
        self._workers: dict[tuple[str, str], WorkerSession] = {}
        self._ids: set[tuple[str, str]] = set()

    def repeats(self, account: str, event_id: str | None) -> bool:
        """Whether this observation has been seen before, by its event's id; it is remembered as seen."""
        if event_id is None or (account, event_id) in self._ids:
            return event_id is not None
        self._ids.add((account, event_id))
        return False

    def observe(self, setting: Setting) -> bool:
        """Take in an observation; whether it told anything new."""
        if isinstance(setting, FlexSetting):
            valid_ms = setting.observed_ms if setting.since_ms is None else setting.since_ms
            known = self._flex.setdefault(setting.account, [])
            entry = (valid_ms, setting.observed_ms, setting)
            if any(entry[2] == other for _, _, other in known):
                return False
            insort(known, entry, key=lambda e: (e[0], e[1], e[2].enabled, str(e[2].previous)))
            return True
        if isinstance(setting, FlowSetting):
            key = (setting.account, setting.flow, setting.revision)
            flow = _Flow(tuple(sorted(setting.recording_widgets)))
            if self._flows.get(key) == flow:
                return False
            self._flows[key] = flow
            return True
        session = self._workers.get((setting.account, setting.worker))
        if session is not None and session.observed_ms >= setting.observed_ms:
            return False
        self._workers[setting.account, setting.worker] = setting
        return True

    def recording_widgets(self, account: str, flow: str | None, revision: int | None) -> tuple[str, ...] | None:
        """The names of a flow revision's widgets that record; None where the revision is not known."""
        if flow is None or revision is None:
            return None
        known = self._flows.get((account, flow, revision))
        return known.recording_widgets if known else None

    def flex(self, account: str, at_ms: int) -> FlexState:
        """The Flex setting at an instant, from the latest observation valid then, else from what a later one says."""
        known = self._flex.get(account, [])
        place = bisect_right(known, at_ms, key=lambda e: e[0])
        if place == 0:
            previous = known[0][2].previous if known else None
            return FlexState(previous, None)
        now = known[place - 1][2]
        if place < len(known):
            before_next = known[place][2].previous
            if before_next is not None and before_next != now.enabled:
                return FlexState(None, None)  # It changed in between, and nobody saw when.
        if now.enabled:
            return FlexState(True, None)
        off_since_ms: int | None = None
        for at in range(place - 1, -1, -1):
            setting = known[at][2]
            if setting.enabled:
                break
            if setting.since_ms is not None:
                off_since_ms = setting.since_ms
            if setting.previous is True:
                break  # The run of offs began here.
        return FlexState(False, off_since_ms)


# --------------------------------------------------------------------------- evidence, sorted by what it is about


class Stay(msgspec.Struct, gc=False):
    """A call's time inside a conference; ``enter_ms`` None: it was inside before anything was seen of it."""

    conference: str
    enter_ms: int | None
    leave_ms: int | None
    first_seen_ms: int

    def covers(self, at_ms: int) -> bool:
        """Whether the call is known to have entered by then, and not to have left."""
        return self.enter_ms is not None and self.enter_ms <= at_ms and (self.leave_ms is None or at_ms < self.leave_ms)


class _Room(msgspec.Struct):
    """A conference under one of its names, by the events that say the name."""

    first_ms: int
    end_ms: int | None


class _Conference(msgspec.Struct):
    rooms: dict[str, _Room]
    named: Proof | None
    end_ms: int | None
    in_task: Proof | None


class Evidence:
    """A conversation's evidence, read back and put in order; built once to judge all its recordings.

    Facts are sorted by kind at once, and looked into only when a question needs them: most recordings are decided by
    their start source and a few facts of one or two kinds.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.account = conversation.account
        self.truncated = conversation.truncated
        self._conversation = conversation
        self._by_kind: dict[type, list[tuple[Kept, Any]]] = {}
        self._stays: dict[str, list[Stay]] = {}
        by_kind = self._by_kind
        for kept in sorted(conversation.read_evidence(), key=_BY_TIME):
            for fact in kept.facts:
                kind = type(fact)
                if kind in by_kind:
                    by_kind[kind].append((kept, fact))
                else:
                    by_kind[kind] = [(kept, fact)]
        self.recordings: dict[str, list[tuple[Kept, RecordingFact]]] = {}
        for kept, fact in by_kind.get(RecordingFact, ()):
            self.recordings.setdefault(fact.recording, []).append((kept, fact))

    @property
    def twiml(self) -> list[tuple[Kept, TwimlFact]]:
        """TwiML that records a conference, in order of time."""
        return self._by_kind.get(TwimlFact, [])

    @property
    def requests(self) -> list[tuple[Kept, RequestFact]]:
        """Participant requests that record their conference, in order of time."""
        return self._by_kind.get(RequestFact, [])

    @cached_property
    def executions(self) -> dict[str, list[tuple[Kept, ExecutionFact]]]:
        """Studio executions: what is known of each, in order of time."""
        executions: dict[str, list[tuple[Kept, ExecutionFact]]] = {}
        for kept, fact in self._by_kind.get(ExecutionFact, ()):
            executions.setdefault(fact.execution, []).append((kept, fact))
        return executions

    def steps(self, execution: str) -> list[tuple[Kept, StepFact]]:
        """The steps of a Studio execution, in order of time."""
        return [(kept, fact) for kept, fact in self._by_kind.get(StepFact, ()) if fact.execution == execution]

    @cached_property
    def suspected(self) -> dict[str, Kept]:
        """Conferences that Voice Insights says had recording on, and the first event that said so."""
        suspected: dict[str, Kept] = {}
        for kept, fact in self._by_kind.get(ConferenceFact, ()):
            if fact.recording_on:
                known = suspected.get(fact.conference)
                if known is None or kept.offset < known.offset:
                    suspected[fact.conference] = kept
        return suspected

    @cached_property
    def _properties(self) -> tuple[CallFact | TaskFact, ...]:
        return self._conversation.read_properties()

    @cached_property
    def tasks(self) -> list[TaskFact]:
        """What is known of tasks, in no order."""
        return [fact for fact in self._properties if isinstance(fact, TaskFact)]

    def calls(self, sids: Iterable[str]) -> list[CallFact]:
        """What is known of these calls, in no order."""
        wanted = set(sids)
        return [fact for fact in self._properties if isinstance(fact, CallFact) and fact.call in wanted]

    @cached_property
    def conferences(self) -> dict[str, _Conference]:
        """The conferences, by every event that names them."""
        conferences: dict[str, _Conference] = {}
        for kept, participant in self._by_kind.get(ParticipantFact, ()):
            at_ms = kept.occurred_ms if participant.at_ms is None else participant.at_ms
            _see(conferences, kept, participant.conference, participant.name, at_ms, None)
        for kept, fact in self._by_kind.get(ConferenceFact, ()):
            at_ms = kept.occurred_ms if fact.at_ms is None else fact.at_ms
            end_ms = at_ms if fact.phase == "end" else None
            conference = _see(conferences, kept, fact.conference, fact.name, at_ms, end_ms)
            if end_ms is not None and (conference.end_ms is None or end_ms > conference.end_ms):
                conference.end_ms = end_ms
        for kept, task in self._by_kind.get(TaskFact, ()):
            conference = _see(conferences, kept, task.conference, None, 0, None)
            if conference.in_task is None or kept.offset < conference.in_task.kept.offset:
                shows = f"Task {task.task} names conference {task.conference} in its attributes"
                conference.in_task = Proof(kept, shows)
        return conferences

    @cached_property
    def _presence(self) -> dict[str, list[tuple[int, int, str]]]:
        """Of each call the sights of it in conferences: instant, order within the instant, conference."""
        presence: dict[str, list[tuple[int, int, str]]] = {}
        for kept, fact in self._by_kind.get(ParticipantFact, ()):
            at_ms = kept.occurred_ms if fact.at_ms is None else fact.at_ms
            presence.setdefault(fact.call, []).append((at_ms, _PHASE_ORDER[fact.phase], fact.conference))
        return presence

    def entered(self, call: str) -> bool:
        """Whether any participant event of this call is known."""
        return call in self._presence

    def stays(self, call: str) -> list[Stay]:
        """Where a call has been, in order of the first sight of it there."""
        stays = self._stays.get(call)
        if stays is None:
            stays = self._stays[call] = self._build_stays(call)
        return stays

    def _build_stays(self, call: str) -> list[Stay]:
        stays: list[Stay] = []
        current: dict[str, Stay] = {}
        for at_ms, order, conference in sorted(self._presence.get(call, ())):
            stay = current.get(conference)
            if order == _LEAVE:
                if stay is not None:
                    stay.leave_ms = at_ms
                    del current[conference]
                elif all(known.conference != conference for known in stays):
                    stays.append(Stay(conference, None, at_ms, at_ms))  # Else the same leave, told twice.
            elif stay is None:
                stay = current[conference] = Stay(conference, at_ms, None, at_ms)
                stays.append(stay)
        for stay in stays:
            end_ms = self.conferences[stay.conference].end_ms
            if stay.leave_ms is None and end_ms is not None and end_ms >= stay.first_seen_ms:
                stay.leave_ms = end_ms
        return stays

    def conference_of(self, call: str, at_ms: int) -> str | None:
        """The conference a call was in at an instant; else the next it entered; else the last one before."""
        inside: tuple[int, int, str] | None = None
        after: tuple[int, str] | None = None
        before: tuple[int, str] | None = None
        for stay in self.stays(call):
            enter_ms = -_FAR if stay.enter_ms is None else stay.enter_ms
            if enter_ms <= at_ms and (stay.leave_ms is None or at_ms < stay.leave_ms):
                inside = max(inside or (-_FAR, 0, ""), (enter_ms, 1, stay.conference))
            elif enter_ms > at_ms:
                after = min(after or (_FAR, ""), (enter_ms, stay.conference))
            elif stay.leave_ms is not None:
                before = max(before or (-_FAR, ""), (stay.leave_ms, stay.conference))
        if inside is not None:
            return inside[2]
        if after is not None:
            return after[1]
        if before is not None:
            return before[1]
        named = [task.conference for task in self.tasks if task.conference is not None and call in task.calls]
        return min(named) if named else None

    def calls_in(self, conference: str) -> tuple[str, ...]:
        """The calls known to have been in a conference, by SID."""
        seen = {call for call, sights in self._presence.items() if any(c == conference for _, _, c in sights)}
        seen.update(call for task in self.tasks if task.conference == conference for call in task.calls)
        return tuple(sorted(seen))

    def claims(self) -> Iterable[tuple[str, str, int]]:
        """TwiML and requests that name their conference: of which call, the name, and when."""
        for kept, twiml in self.twiml:
            yield twiml.call, twiml.name, kept.occurred_ms
        for kept, request in self.requests:
            if request.conference is None:
                yield request.call or "", request.name or "", kept.occurred_ms

    def inside(self, call: str, at_ms: int) -> Stay | None:
        """The stay that a call was in at an instant, where its beginning is known: nothing later changes that."""
        stays = [stay for stay in self.stays(call) if stay.covers(at_ms)]
        return max(stays, key=lambda stay: (stay.enter_ms, stay.conference)) if stays else None

    def bound_conference(self, call: str | None, name: str, at_ms: int) -> str | None:
        """The conference that a call's TwiML means by a name (design: the name alone never binds)."""
        if call is not None and self.entered(call):
            stay = self.first_joined(call, name, at_ms)
            return stay.conference if stay is not None else None
        rooms = sorted((room.first_ms, sid, room.end_ms) for sid, room in self._rooms(name))
        before = [(sid, end_ms) for first_ms, sid, end_ms in rooms if first_ms <= at_ms]
        if before:
            sid, end_ms = before[-1]  # Only one conference of a name is in progress at a time: the latest.
            if end_ms is None or end_ms >= at_ms:
                return sid
        for first_ms, sid, _ in rooms:
            if at_ms < first_ms <= at_ms + CLAIM_REACH_MS:
                return sid
        return None

    def first_joined(self, call: str, name: str, at_ms: int) -> Stay | None:
        """Where a call went first at or after an instant, of conferences of this name or of a name not known."""
        joined = [
            stay
            for stay in self.stays(call)
            if stay.first_seen_ms >= at_ms - JOIN_SLACK_MS
            and (not self.conferences[stay.conference].rooms or name in self.conferences[stay.conference].rooms)
        ]
        return min(joined, key=lambda stay: (stay.first_seen_ms, stay.conference)) if joined else None

    def _rooms(self, name: str) -> Iterable[tuple[str, _Room]]:
        for sid, conference in self.conferences.items():
            if (room := conference.rooms.get(name)) is not None:
                yield sid, room


_FAR: Final = 1 << 60
_BY_TIME: Final = attrgetter("occurred_ms", "offset")
_OFFSET: Final = attrgetter("offset")
_PHASE_ORDER: Final = {"join": 0, "inside": 1, "leave": 2}
_LEAVE: Final = _PHASE_ORDER["leave"]


def _see(
    conferences: dict[str, _Conference], kept: Kept, sid: str, name: str | None, at_ms: int, end_ms: int | None
) -> _Conference:
    """Take in a sight of a conference, under its name where the event says one."""
    conference = conferences.get(sid)
    if conference is None:
        conference = conferences[sid] = _Conference({}, None, None, None)
    if name is not None:
        room = conference.rooms.get(name)
        if room is None:
            conference.rooms[name] = _Room(at_ms, end_ms)
        else:
            room.first_ms = min(room.first_ms, at_ms)
            if end_ms is not None and (room.end_ms is None or end_ms > room.end_ms):
                room.end_ms = end_ms
        if _is_task_name(name) and (conference.named is None or kept.offset < conference.named.kept.offset):
            conference.named = Proof(kept, f"Conference {sid} is named after a Flex task")
    return conference


def _arrival(proof: Proof) -> int:
    """Of several events that prove the same, the one that came first is shown: it stays so whatever comes later."""
    return proof.kept.offset


def _is_task_name(name: str) -> bool:
    """Flex names a conference after its task, by the task's SID; a room may be called WT-something by anybody."""
    return is_sid(name, "WT")


# --------------------------------------------------------------------------- the attribution of one recording


class _Cause(msgspec.Struct, frozen=True):
    """An answer about the cause: a name, or None while ``wait`` says how long it stays open."""

    name: str | None
    strength: str | None
    proofs: tuple[Proof, ...] = ()
    ruled_out: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    open_to_end: bool = False


class Background(msgspec.Struct, frozen=True):
    """What attribution rests on besides evidence: account settings, and what the settings file says."""

    settings: AccountSettings
    starters: tuple[tuple[Callable[[str], bool], Starter], ...]
    session_max_ms: int


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One recording whose cause is asked for. ``absence_false``: what was not seen by now counts as not there."""

    evidence: Evidence
    background: Background
    sight: Proof
    source: str | None
    call: str | None
    conference: str | None  # Its own; else the one its call was in.
    started_ms: int
    urls: tuple[str, ...]
    absence_false: bool


def canonical_source(source: str | None) -> str | None:
    """A start source in Twilio's spelling; one that nobody knows stays as it came."""
    return None if source is None else _CANONICAL_SOURCE.get(source.lower(), source)


def attribute(evidence: Evidence, recording: str, background: Background, *, grace_over: bool) -> Attribution:
    """Draw the strongest conclusion the evidence allows about one recording.

    ``grace_over``: what has not been seen of it by now counts as not there, unless evidence was lost.
    """
    sights = evidence.recordings[recording]
    source, source_kept = _source(sights)
    call = _first((kept, fact.call) for kept, fact in sights)
    own_conference = _first((kept, fact.conference) for kept, fact in sights)
    started_ms = _started_ms(sights)
    duration_ms = max((fact.duration_ms for _, fact in sights if fact.duration_ms is not None), default=None)
    urls = tuple(sorted({fact.callback_url for _, fact in sights if fact.callback_url is not None}))
    conference = own_conference or (evidence.conference_of(call, started_ms) if call is not None else None)
    stated = f"Twilio states start source {source}" if source else "The recording exists; no start source is stated"
    sight = Proof(source_kept, stated)
    cause = _decide(
        _Asked(
            evidence=evidence,
            background=background,
            sight=sight,
            source=source,
            call=call,
            conference=conference,
            started_ms=started_ms,
            urls=urls,
            absence_false=grace_over and not evidence.truncated,
        )
    )
    return Attribution(
        recording_sid=recording,
        call_sid=call,
        conference_sid=conference,
        start_source=source,
        status=_merged_status(sights),
        found_by=max((fact.found_by for _, fact in sights), key=lambda found_by: _FOUND_BY_RANK[found_by]),
        started_ms=started_ms,
        ended_ms=None if duration_ms is None else started_ms + duration_ms,
        callback_urls=urls,
        cause=cause.name,
        strength=cause.strength,
        open_to_end=cause.open_to_end,
        evidence=cause.proofs or (sight,),
        ruled_out=cause.ruled_out,
        missing=cause.missing,
    )


def _decide(asked: _Asked) -> _Cause:
    source, sight = asked.source, asked.sight
    if source in _CAUSE_OF_SOURCE:
        return _Cause(_CAUSE_OF_SOURCE[source], "implied", (sight,))
    if source in ("StartCallRecordingAPI", "Conference"):
        starter = _starter(asked.urls, asked.background.starters)
        if starter is not None:
            shows = f"Its callback address is that of starter {starter.name!r}"
            return _Cause(starter.cause, "observed", (Proof(sight.kept, shows),))
    if source == "StartCallRecordingAPI":
        return _call_recording_cause(asked)
    if source == "Conference":
        return _conference_cause(asked)
    if source is not None:
        return _Cause("unknown_source", "implied", (sight,))
    return _without_evidence(asked, "start source")


def _without_evidence(asked: _Asked, missing: str, ruled_out: Iterable[tuple[str, str]] = ()) -> _Cause:
    """Nothing shows what started it: open, until what was not seen counts as not there."""
    ruled = tuple(dict.fromkeys(ruled_out))
    if asked.absence_false:
        return _Cause("unattributed", "inferred", (asked.sight,), ruled)
    return _Cause(None, None, (asked.sight,), ruled, missing=(missing,))


def _conference_cause(asked: _Asked) -> _Cause:
    """API request over TwiML over Flex naming; open or unattributed where the evidence shows none of them."""
    evidence, conference, sight = asked.evidence, asked.conference, asked.sight
    if conference is None:
        return _without_evidence(asked, "cause")
    latest_ms = asked.started_ms + PROOF_SLACK_MS
    ruled_out: list[tuple[str, str]] = []
    found: list[_Cause] = []
    requests = [
        Proof(kept, f"An API request added a participant to conference {conference} with ConferenceRecord")
        for kept, request in evidence.requests
        if conference
        == (request.conference or evidence.bound_conference(request.call, request.name or "", kept.occurred_ms))
    ]
    twiml = [
        Proof(kept, f"TwiML of call {ran.call} joined conference {conference} with recording on")
        for kept, ran in evidence.twiml
        if conference == evidence.bound_conference(ran.call, ran.name, kept.occurred_ms)
    ]
    for cause, proofs in (("conference_api", requests), ("conference_twiml", twiml)):
        in_time = [proof for proof in proofs if proof.kept.occurred_ms <= latest_ms]
        if in_time:
            found.append(_Cause(cause, "observed", (min(in_time, key=_arrival), sight)))
        elif proofs:
            ruled_out.append((cause, "what would have started it came after the recording had started"))
    known = evidence.conferences.get(conference)
    naming = (known.named or known.in_task) if known else None
    if naming is not None:
        found.append(_flex_cause(asked, naming))
    if not found:
        return _without_evidence(asked, "cause", ruled_out)
    first = found[0]
    beaten = [(cause.name, f"{first.name} is stronger evidence") for cause in found[1:] if cause.name is not None]
    return msgspec.structs.replace(first, ruled_out=tuple(dict.fromkeys([*ruled_out, *beaten])))


def _flex_cause(asked: _Asked, naming: Proof) -> _Cause:
    """A Flex conference: what the Flex setting at the recording's start makes of it."""
    proofs = (naming, asked.sight)
    flex = asked.background.settings.flex(asked.evidence.account, asked.started_ms)
    if flex.enabled is None:
        return _Cause("flex_conference", "inferred", proofs, missing=("flex_setting",))
    if flex.enabled:
        return _Cause("flex_call_recording", "observed", proofs)
    if flex.off_since_ms is None:
        return _Cause("flex_stale_session", "observed", proofs, missing=("flex_off_since",))
    stale = asked.started_ms - flex.off_since_ms < asked.background.session_max_ms
    return _Cause("flex_stale_session" if stale else "flex_residual_setting", "observed", proofs)


def _call_recording_cause(asked: _Asked) -> _Cause:
    """``StartCallRecordingAPI``: a Studio widget or the API itself; only the evidence around them tells which."""
    evidence, sight, call = asked.evidence, asked.sight, asked.call
    ruled_out: list[tuple[str, str]] = []
    open_to_end = False
    wait = False
    for execution in sorted(evidence.executions):
        facts = evidence.executions[execution]
        if call is None or all(fact.call != call for _, fact in facts):
            continue
        answer = _widget(asked, execution, facts)
        if isinstance(answer, Proof):
            return _Cause("studio_call_recording_widget", "observed", (answer, sight))
        if answer == "open":
            open_to_end = True
        elif answer == "wait" and not asked.absence_false:
            wait = True
            open_to_end = open_to_end or evidence.truncated
        else:
            ruled_out.append(
                ("studio_call_recording_widget", f"Studio execution {execution} was in no recording widget then")
            )
    if open_to_end or wait:
        return _Cause(None, None, (sight,), missing=("studio",), open_to_end=open_to_end)
    if evidence.truncated:
        # A Studio execution may be among what was lost: nothing may be allowed by elimination.
        return _Cause(None, None, (sight,), missing=("evidence lost",), open_to_end=True)
    return _Cause("api_call_recording", "inferred", (sight,), tuple(ruled_out))


def _widget(asked: _Asked, execution: str, facts: list[tuple[Kept, ExecutionFact]]) -> Proof | str:
    """Whether a Studio execution was in a recording widget at a recording's start.

    The proof that it was; else ``open`` (nobody can tell until the end), ``wait`` (the steps around the start may still
    come) or ``no``.
    """
    flow = _first((kept, fact.flow) for kept, fact in facts)
    revision = _first((kept, fact.revision) for kept, fact in facts)
    evidence, started_ms = asked.evidence, asked.started_ms
    widgets = asked.background.settings.recording_widgets(evidence.account, flow, revision)
    if widgets is None:
        return "open"
    if not widgets:
        return "no"
    steps = evidence.steps(execution)
    if not steps:
        return "open"
    for kept, step in steps:
        near = abs(kept.occurred_ms - started_ms) <= PROOF_SLACK_MS
        if not near:
            continue
        if step.leaves in widgets and step.transition != "failed":
            return Proof(kept, f"Studio execution {execution} left recording widget {step.leaves}")
        if step.enters in widgets and not any(
            other.leaves == step.enters and at.occurred_ms >= kept.occurred_ms for at, other in steps
        ):
            return Proof(kept, f"Studio execution {execution} entered recording widget {step.enters}")
    ended = any(fact.ended for _, fact in facts)
    before = [(kept, step) for kept, step in steps if kept.occurred_ms <= started_ms]
    if not before:
        return "wait"
    last_ms = before[-1][0].occurred_ms
    lasts = [(kept, step) for kept, step in before if kept.occurred_ms == last_ms]
    for kept, step in lasts:
        # Of several steps within one instant the last is the one whose widget none of the others leaves.
        if any(other.leaves == step.enters for _, other in lasts if other is not step):
            continue
        if ended or any(at.occurred_ms >= kept.occurred_ms and other.leaves == step.enters for at, other in steps):
            return "no"
    return "wait"


def _starter(urls: Iterable[str], starters: tuple[tuple[Callable[[str], bool], Starter], ...]) -> Starter | None:
    return next((starter for matches, starter in starters if any(matches(url) for url in urls)), None)


def _first(stated: Iterable[tuple[Kept, T | None]]) -> T | None:
    """What the earliest event that says it says; of several within one instant the least, whatever came first."""
    known = [(kept.occurred_ms, value) for kept, value in stated if value is not None]
    return min(known)[1] if known else None


def _source(sights: list[tuple[Kept, RecordingFact]]) -> tuple[str | None, Kept]:
    """The start source and the event that says so; one that Twilio states beats one that a verb implies."""
    for implied in (False, True):
        for known in (True, False):
            stating = [
                (kept, canonical_source(fact.source))
                for kept, fact in sights
                if fact.source is not None
                and (fact.found_by == FOUND_BY_VERB) is implied
                and (fact.source.lower() in _CANONICAL_SOURCE) is known
            ]
            source = _first(stating)
            if source is not None:
                return source, min((kept for kept, stated in stating if stated == source), key=_OFFSET)
    return None, min((kept for kept, _ in sights), key=_OFFSET)


def _started_ms(sights: list[tuple[Kept, RecordingFact]]) -> int:
    """The start that is stated; else the earliest event less its duration."""
    stated = [fact.started_ms for _, fact in sights if fact.started_ms is not None]
    if stated:
        return min(stated)
    earliest_ms = sights[0][0].occurred_ms
    return min(kept.occurred_ms - (fact.duration_ms or 0) for kept, fact in sights if kept.occurred_ms == earliest_ms)


def _merged_status(sights: list[tuple[Kept, RecordingFact]]) -> str | None:
    """The status of the highest rank; of one rank the later stands."""
    stated = [
        (STATUS_RANK.get(fact.status, 0), kept.occurred_ms, fact.status)
        for kept, fact in sights
        if fact.status is not None
    ]
    return max(stated)[2] if stated else None


# --------------------------------------------------------------------------- what can still change a conclusion

ABOUT_CALLS: Final = frozenset({"direction", "from", "to", "queue", "worker"})


def relevance(
    evidence: Evidence, attributions: Iterable[Attribution], conditions: frozenset[str]
) -> tuple[int, Focus | None]:
    """What can still change what was concluded: kinds of facts, and of where calls were only some (None: all).

    ``conditions`` are those the policy asks about. Exact in one direction: any other fact changes nothing, so a
    conversation need not be judged again for it.
    """
    kinds = KIND[RecordingFact]
    calls: set[str] = set()
    until_ms = -_FAR
    everywhere = bool(conditions & ABOUT_CALLS) or "conference_name" in conditions
    if conditions & ABOUT_CALLS:
        kinds |= KIND[TaskFact] | KIND[CallFact]
    if everywhere:
        kinds |= PLACES
    for attribution in attributions:
        call = attribution.call_sid
        if call is not None:
            kinds |= PLACES
            calls.add(call)
            stay = evidence.inside(call, attribution.started_ms)
            until_ms = max(until_ms, _FAR if stay is None else attribution.started_ms)
            if not evidence.entered(call):
                kinds |= KIND[TaskFact]
        if attribution.start_source == "StartCallRecordingAPI":
            kinds |= KIND[StepFact] | KIND[ExecutionFact]
        if attribution.start_source == "Conference":
            kinds |= KIND[TwimlFact] | KIND[RequestFact]
            conference = evidence.conferences.get(attribution.conference_sid or "")
            if conference is None or conference.named is None:
                kinds |= PLACES | KIND[TaskFact]
                everywhere = everywhere or attribution.cause not in ("conference_api", "conference_twiml")
            for claimant, name, at_ms in evidence.claims():
                kinds |= PLACES
                joined = evidence.first_joined(claimant, name, at_ms) if evidence.entered(claimant) else None
                if joined is None or name not in evidence.conferences[joined.conference].rooms:
                    everywhere = True
                else:
                    calls.add(claimant)
                    until_ms = max(until_ms, joined.first_seen_ms)
    return kinds, None if everywhere else Focus(frozenset(calls), until_ms)
