"""Attribution: from the evidence of a conversation to what started a recording, and in which conference.

Everything here is a pure function of evidence, account settings and tuning; the order in which evidence arrived plays
no part. What decides a cause is in ``attribute`` and the functions it calls, one a kind of start source. Unknown is a
third answer: a cause that may yet turn out otherwise is None.

The causes and their order: docs/causes.md. Start sources: https://www.twilio.com/docs/voice/api/recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.conversation import KIND, PLACES, Focus, Kept, Lookout
from monitor.core.events import (
    FOUND_BY_LISTING,
    FOUND_BY_STREAM,
    FOUND_BY_VERB,
    CallFact,
    ExecutionFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.evidence import FAR, JOIN_SLACK_MS, Evidence, Proof

WORKERS_SHOWN: Final = 5
PROOF_SLACK_MS: Final = 10_000  # Evidence of a start may be stamped this much after the recording's start.

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
_FLEX_CAUSES: Final = ("flex_call_recording", "flex_conference", "flex_stale_session", "flex_residual_setting")
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
OVER: Final = frozenset(status for status, rank in STATUS_RANK.items() if rank >= STATUS_RANK["completed"])
"""What a recording that has ended for good may be said to be."""
ENDED: Final = frozenset(status for status, rank in STATUS_RANK.items() if rank >= STATUS_RANK["stopped"])
"""What one that does not go on may be said to be."""
_LONG_AGO: Final = -FAR  # One number for all that is remembered.
_FOUND_BY_RANK: Final = {FOUND_BY_STREAM: 2, FOUND_BY_VERB: 1, FOUND_BY_LISTING: 0}


class Starter(msgspec.Struct, frozen=True):
    """Who may start recordings, told by the callback address they ask for: a setting."""

    callback_url: str
    cause: str
    name: str


class Attribution(msgspec.Struct, frozen=True):
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
    conference_stated: bool  # It is said of the recording itself; where its call was plays no part.
    cause_stated: bool  # Its start source, or who asked for it, says the cause by itself.
    evidence: tuple[Proof, ...]
    ruled_out: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    settled: tuple[tuple[str, int], ...]  # Studio executions, and after which instant nothing of them counts.


# --------------------------------------------------------------------------- the attribution of one recording


def _arrival(proof: Proof) -> int:
    """Of several events that prove the same, the one that came first is shown: it stays so whatever comes later."""
    return proof.kept.offset


class _Cause(msgspec.Struct, frozen=True, gc=False):
    """An answer about the cause: a name, or None while it is open; what is missing then."""

    name: str | None
    strength: str | None
    proofs: tuple[Proof, ...]
    ruled_out: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    open_to_end: bool = False
    settled: tuple[tuple[str, int], ...] = ()


class Background(msgspec.Struct, frozen=True):
    """What attribution rests on besides evidence: account settings, and what the settings file says."""

    settings: AccountSettings
    starters: tuple[tuple[Callable[[str], bool], Starter], ...]
    session_max_ms: int


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """One recording whose cause is asked for. ``absence_false``: what was not seen by now counts as not there."""

    evidence: Evidence
    background: Background
    sight: Proof
    source: str | None
    call: str | None
    conference: str | None  # Its own; else the one its call was in.
    started_ms: int
    absence_false: bool


def canonical_source(source: str | None) -> str | None:
    """A start source in Twilio's spelling; one that nobody knows stays as it came."""
    return None if source is None else _CANONICAL_SOURCE.get(source.lower(), source)


def attribute(evidence: Evidence, recording: str, background: Background, *, grace_over: bool) -> Attribution:
    """Draw the strongest conclusion the evidence allows about one recording.

    ``grace_over``: what has not been seen of it by now counts as not there, unless evidence was lost.
    """
    sights = evidence.recordings[recording]
    stated = _gather(sights)
    source, call, started_ms = stated.source, stated.call, stated.started_ms
    conference = stated.conference
    if conference is None and call is not None:
        conference = evidence.conference_of(call, started_ms)
    sight = Proof(stated.source_kept, stated.shows)
    cause = _stated_cause(stated, sight, background)
    cause_stated = cause is not None
    if cause is None:
        absence_false = grace_over and not evidence.truncated
        cause = _decide(_Asked(evidence, background, sight, source, call, conference, started_ms, absence_false))
    # In the order of the fields: by name it would cost five times as much, for every judgement.
    return Attribution(
        recording,
        call,
        conference,
        source,
        stated.status,
        stated.found_by,
        started_ms,
        None if stated.duration_ms is None else started_ms + stated.duration_ms,
        stated.urls,
        cause.name,
        cause.strength,
        cause.open_to_end,
        stated.conference is not None,
        cause_stated,
        cause.proofs,
        cause.ruled_out,
        cause.missing,
        cause.settled,
    )


class _Stated(msgspec.Struct, frozen=True, gc=False):
    """What the events of a recording say of it, taken together."""

    source: str | None
    source_kept: Kept
    call: str | None
    conference: str | None
    started_ms: int
    duration_ms: int | None
    status: str | None
    found_by: str
    urls: tuple[str, ...]

    @property
    def shows(self) -> str:
        """What its earliest event shows of how it was started."""
        if not self.source:
            return "The recording exists; no start source is stated"
        return f"Twilio states start source {self.source}"


def _gather(sights: list[tuple[Kept, RecordingFact]]) -> _Stated:
    """Take together what the events of a recording say, in one walk over them: they come in order of time.

    Of call, conference and start source stands what the earliest event says; of several within one instant the least,
    whatever came first. A source that Twilio states beats one that a verb implies, one that is known beats others. Of
    the status the highest rank stands, and of one rank the later.
    """
    source: str | None = None
    call: str | None = None
    conference: str | None = None
    status: str | None = None
    started_ms: int | None = None
    duration_ms: int | None = None
    source_rank = source_ms = call_ms = conference_ms = 0
    status_rank = (-1, 0, "")
    earliest_ms = sights[0][0].occurred_ms
    reckoned_ms = earliest_ms  # The start, where nothing states it.
    first = source_kept = sights[0][0]
    found_by = sights[0][1].found_by
    urls: set[str] = set()
    for kept, fact in sights:
        at_ms = kept.occurred_ms
        if kept.offset < first.offset:
            first = kept
        if fact.source is not None:
            canonical = _CANONICAL_SOURCE.get(fact.source.lower())
            rank = (2 if fact.found_by == FOUND_BY_VERB else 0) + (1 if canonical is None else 0)
            canonical = canonical or fact.source
            if source is None or (rank, at_ms, canonical) < (source_rank, source_ms, source):
                source, source_rank, source_ms, source_kept = canonical, rank, at_ms, kept
            elif rank == source_rank and canonical == source and kept.offset < source_kept.offset:
                source_kept = kept
        value = fact.call
        if value is not None and (call is None or (at_ms == call_ms and value < call)):
            call, call_ms = value, at_ms
        value = fact.conference
        if value is not None and (conference is None or (at_ms == conference_ms and value < conference)):
            conference, conference_ms = value, at_ms
        length_ms = fact.duration_ms
        if fact.started_ms is not None and (started_ms is None or fact.started_ms < started_ms):
            started_ms = fact.started_ms
        if length_ms is not None:
            if duration_ms is None or length_ms > duration_ms:
                duration_ms = length_ms
            if at_ms == earliest_ms:
                reckoned_ms = min(reckoned_ms, at_ms - length_ms)
        if fact.status is not None:
            ranked = (STATUS_RANK.get(fact.status, 0), at_ms, fact.status)
            if ranked > status_rank:
                status_rank, status = ranked, fact.status
        if fact.found_by != found_by and _FOUND_BY_RANK[fact.found_by] > _FOUND_BY_RANK[found_by]:
            found_by = fact.found_by
        if fact.callback_url is not None:
            urls.add(fact.callback_url)
    return _Stated(
        source,
        first if source is None else source_kept,
        call,
        conference,
        reckoned_ms if started_ms is None else started_ms,
        duration_ms,
        status,
        found_by,
        tuple(sorted(urls)) if urls else (),
    )


def _stated_cause(stated: _Stated, sight: Proof, background: Background) -> _Cause | None:
    """The cause where its start source, or who asked for it, says it; None where evidence has to be weighed."""
    source = stated.source
    cause = _CAUSE_OF_SOURCE.get(source or "")
    if cause is not None:
        return _Cause(cause, "implied", (sight,))
    if source in ("StartCallRecordingAPI", "Conference"):
        starter = _starter(stated.urls, background.starters)
        if starter is None:
            return None
        shows = f"Its callback address is that of starter {starter.name!r}"
        return _Cause(starter.cause, "observed", (Proof(sight.kept, shows),))
    return None if source is None else _Cause("unknown_source", "implied", (sight,))


def _decide(asked: _Asked) -> _Cause:
    if asked.source == "StartCallRecordingAPI":
        return _call_recording_cause(asked)
    if asked.source == "Conference":
        return _conference_cause(asked)
    return _without_evidence(asked, "start source")


def _without_evidence(asked: _Asked, missing: str, ruled_out: Iterable[tuple[str, str]] = ()) -> _Cause:
    """Nothing shows what started it: open, until what was not seen counts as not there."""
    ruled = tuple(dict.fromkeys(ruled_out))
    if asked.absence_false:
        return _Cause("unattributed", "inferred", (asked.sight,), ruled)
    return _Cause(None, None, (asked.sight,), ruled, missing=(missing,))


def other_causes(attribution: Attribution) -> tuple[str, ...]:
    """The causes that could have been found instead, if evidence is lost.

    Stronger evidence may be lost. And which conference a *name* means depends on what else is known of the call: only a
    request that names the conference by its SID proves its cause whatever there was besides.
    """
    cause, proof = attribution.cause, attribution.evidence[0].kept
    if cause in _FLEX_CAUSES:
        return ("conference_api", "conference_twiml")
    if cause == "conference_twiml":
        return ("conference_api", *_FLEX_CAUSES, "unattributed")
    if cause == "conference_api" and all(
        not isinstance(fact, RequestFact) or fact.conference is None for fact in proof.facts
    ):
        return ("conference_twiml", *_FLEX_CAUSES, "unattributed")
    return ()


def _conference_cause(asked: _Asked) -> _Cause:
    """API request over TwiML over Flex naming; open or unattributed where the evidence shows none of them."""
    evidence, conference = asked.evidence, asked.conference
    if conference is None:
        return _without_evidence(asked, "cause")
    ruled_out: list[tuple[str, str]] = []
    found: list[_Cause] = []
    requests = [
        kept
        for kept, request in evidence.requests
        if conference == request.conference
        or (
            request.conference is None
            and evidence.may_be(conference, request.name or "")
            and conference == evidence.bound_conference(request.call, request.name or "", kept.occurred_ms)
        )
    ]
    if requests:
        shows = f"An API request added a participant to conference {conference} with ConferenceRecord"
        _weigh("conference_api", [Proof(kept, shows) for kept in requests], asked, found, ruled_out)
    twiml = [
        Proof(kept, f"TwiML of call {ran.call} joined conference {conference} with recording on")
        for kept, ran in evidence.twiml
        if evidence.may_be(conference, ran.name)
        and conference == evidence.bound_conference(ran.call, ran.name, kept.occurred_ms)
    ]
    if twiml:
        _weigh("conference_twiml", twiml, asked, found, ruled_out)
    naming = evidence.naming(conference) or evidence.in_task(conference)
    if naming is not None:
        found.append(_flex_cause(asked, naming))
    if not found:
        return _without_evidence(asked, "cause", ruled_out)
    first = found[0]
    ruled_out += [(cause.name, f"{first.name} is stronger evidence") for cause in found[1:] if cause.name is not None]
    if not ruled_out:
        return first
    return msgspec.structs.replace(first, ruled_out=tuple(dict.fromkeys(ruled_out)))


def _weigh(
    cause: str, proofs: list[Proof], asked: _Asked, found: list[_Cause], ruled_out: list[tuple[str, str]]
) -> None:
    """Put a cause among those found, or those ruled out: what proves a start must not come after it."""
    latest_ms = asked.started_ms + PROOF_SLACK_MS
    in_time = [proof for proof in proofs if proof.kept.occurred_ms <= latest_ms]
    if in_time:
        found.append(_Cause(cause, "observed", (min(in_time, key=_arrival), asked.sight)))
    else:
        ruled_out.append((cause, "what would have started it came after the recording had started"))


def _flex_cause(asked: _Asked, naming: Proof) -> _Cause:
    """A Flex conference: what the Flex setting at the recording's start makes of it."""
    proofs = (naming, asked.sight)
    flex = asked.background.settings.flex(asked.evidence.account, asked.started_ms)
    if flex.enabled is None:
        return _Cause("flex_conference", "inferred", proofs, missing=("flex_setting",))
    if flex.enabled:
        return _Cause("flex_call_recording", "observed", proofs)
    assert asked.conference is not None
    workers = asked.evidence.workers_of(asked.conference)[:WORKERS_SHOWN]  # Who has to log out and in.
    if flex.off_since_ms is None:
        return _Cause("flex_stale_session", "observed", (*proofs, *workers), missing=("flex_off_since",))
    if asked.started_ms - flex.off_since_ms < asked.background.session_max_ms:
        return _Cause("flex_stale_session", "observed", (*proofs, *workers))
    return _Cause("flex_residual_setting", "observed", proofs)


def _call_recording_cause(asked: _Asked) -> _Cause:
    """``StartCallRecordingAPI``: a Studio widget or the API itself; only the evidence around them tells which."""
    evidence, sight, call = asked.evidence, asked.sight, asked.call
    ruled_out: list[tuple[str, str]] = []
    open_to_end = False
    wait = False
    settled: list[tuple[str, int]] = []
    for execution in sorted(evidence.executions):
        facts = evidence.executions[execution]
        if call is None or all(fact.call != call for _, fact in facts):
            continue
        answer, until_ms = _widget(asked, execution, facts)
        if until_ms is not None:
            settled.append((execution, until_ms))
        if isinstance(answer, Proof):
            return _Cause("studio_call_recording_widget", "observed", (answer, sight), settled=tuple(settled))
        if answer == "open":
            open_to_end = True
        elif answer == "wait" and not asked.absence_false:
            wait = True
            open_to_end = open_to_end or evidence.truncated
        else:
            ruled_out.append(
                ("studio_call_recording_widget", f"Studio execution {execution} was in no recording widget then")
            )
    name: str | None = None
    strength: str | None = None
    missing: tuple[str, ...] = ()
    if open_to_end or wait:
        missing, ruled_out = ("studio",), []
    elif evidence.truncated:
        # A Studio execution may be among what was lost: nothing may be allowed by elimination.
        missing, ruled_out, open_to_end = ("evidence lost",), [], True
    else:
        name, strength = "api_call_recording", "inferred"
    return _Cause(name, strength, (sight,), tuple(ruled_out), missing, open_to_end, tuple(settled))


def _widget(asked: _Asked, execution: str, facts: list[tuple[Kept, ExecutionFact]]) -> tuple[Proof | str, int | None]:
    """Whether a Studio execution was in a recording widget at a recording's start.

    The proof that it was; else ``open`` (nobody can tell until the end), ``wait`` (the steps around the start may still
    come) or ``no``. And after which instant nothing of the execution changes that any more; None where something may.
    """
    flow = _first((kept, fact.flow) for kept, fact in facts)
    revision = _first((kept, fact.revision) for kept, fact in facts)
    evidence, started_ms = asked.evidence, asked.started_ms
    widgets = asked.background.settings.recording_widgets(evidence.account, flow, revision)
    if widgets is None:
        return "open", None
    known_ms = None if flow is None or revision is None else facts[-1][0].occurred_ms
    if not widgets:
        return "no", known_ms
    steps = evidence.steps(execution)
    if not steps:
        return "open", None
    for kept, step in steps:
        near = abs(kept.occurred_ms - started_ms) <= PROOF_SLACK_MS
        if not near:
            continue
        if step.leaves in widgets and step.transition != "failed":
            until_ms = None if known_ms is None else max(known_ms, kept.occurred_ms)
            return Proof(kept, f"Studio execution {execution} left recording widget {step.leaves}"), until_ms
        if step.enters in widgets and not any(
            other.leaves == step.enters and at.occurred_ms >= kept.occurred_ms for at, other in steps
        ):
            # Whenever it leaves that widget, that is another proof, or none.
            return Proof(kept, f"Studio execution {execution} entered recording widget {step.enters}"), None
    ended = any(fact.ended for _, fact in facts)
    before = [(kept, step) for kept, step in steps if kept.occurred_ms <= started_ms]
    if not before:
        return "wait", None
    last_ms = before[-1][0].occurred_ms
    lasts = [(kept, step) for kept, step in before if kept.occurred_ms == last_ms]
    for kept, step in lasts:
        # Of several steps within one instant the last is the one whose widget none of the others leaves.
        if any(other.leaves == step.enters for _, other in lasts if other is not step):
            continue
        if ended or any(at.occurred_ms >= kept.occurred_ms and other.leaves == step.enters for at, other in steps):
            return "no", None if known_ms is None else max(known_ms, started_ms + PROOF_SLACK_MS)
    return "wait", None


def _starter(urls: Iterable[str], starters: tuple[tuple[Callable[[str], bool], Starter], ...]) -> Starter | None:
    return next((starter for matches, starter in starters if any(matches(url) for url in urls)), None)


def _first(stated: Iterable[tuple[Kept, T | None]]) -> T | None:
    """What the earliest event that says it says; of several within one instant the least, whatever came first."""
    known = [(kept.occurred_ms, value) for kept, value in stated if value is not None]
    return min(known)[1] if known else None


# --------------------------------------------------------------------------- what can still change a conclusion

ABOUT_CALLS: Final = frozenset({"direction", "from", "to", "queue", "worker"})


def relevance(
    evidence: Evidence, attributions: Iterable[Attribution], conditions: frozenset[str]
) -> tuple[int, Focus | None]:
    """What can still change what was concluded: kinds of facts, and of some kinds only some (None: every one).

    ``conditions`` are those the policy asks about. Exact in one direction: whatever else comes, and however much of it,
    changes nothing, so a conversation need not be judged again for it.
    """
    kinds = KIND[RecordingFact]
    everywhere = bool(conditions & ABOUT_CALLS) or "conference_name" in conditions
    if conditions & ABOUT_CALLS:
        kinds |= KIND[TaskFact] | KIND[CallFact]
    if everywhere:
        kinds |= PLACES
    own = evidence.own
    names = rooms = False
    lookouts: list[Lookout] = []
    meant: set[str] | None = set()
    ends_until_ms = _LONG_AGO
    settled: list[dict[str, int]] = []
    for attribution in attributions:
        call = None if attribution.call_sid is None else own(attribution.call_sid)
        if call is not None and not attribution.conference_stated:
            kinds |= PLACES
            lookout = _lookout(evidence, call, attribution.started_ms)
            lookouts.append(lookout)
            if not evidence.entered(call):
                kinds |= KIND[TaskFact]
            elif lookout.but_in is None:
                ends_until_ms = max(ends_until_ms, lookout.until_ms)
        if attribution.cause_stated:
            continue
        if attribution.start_source == "StartCallRecordingAPI":
            kinds |= KIND[StepFact] | KIND[ExecutionFact]
            settled.append(dict(attribution.settled))
        if attribution.start_source == "Conference":
            kinds |= KIND[TwimlFact] | KIND[RequestFact]
            if attribution.cause == "flex_stale_session":
                kinds |= KIND[TaskFact]  # Another worker may turn up.
            if attribution.conference_sid is None or evidence.naming(attribution.conference_sid) is None:
                kinds |= PLACES | KIND[TaskFact]
                names = True
            known = evidence.names(attribution.conference_sid or "")
            if not known:
                meant = None
            elif meant is not None:
                meant |= known
            for claimant, name, at_ms in evidence.claims():
                kinds |= PLACES
                names = True
                if known and name not in known:
                    continue  # It means another one, unless this one is told to have that name too: names are news.
                entered = evidence.entered(claimant)
                joined = evidence.first_joined(claimant, name, at_ms) if entered else None
                rooms = rooms or not entered
                if joined is None or name not in evidence.names(joined.conference):
                    lookouts.append(Lookout(own(claimant), FAR, None, _LONG_AGO))
                else:
                    # Another sight of it there is the same stay, unless it began before the TwiML ran.
                    before_ms = at_ms - JOIN_SLACK_MS
                    lookouts.append(Lookout(own(claimant), joined.first_seen_ms, own(joined.conference), before_ms))
    if evidence.truncated:
        return kinds, None  # What is told again of what was lost may be news.
    executions = [
        (own(execution), max(each[execution] for each in settled))
        for execution in (settled[0] if settled else ())
        if all(execution in each for each in settled)
    ]
    return kinds, Focus(
        everywhere,
        tuple(lookouts),
        ends_until_ms,
        names,
        rooms,
        tuple(map(own, evidence.recorded)),
        tuple(executions),
        None if meant is None else tuple(map(own, meant)),
    )


def _lookout(evidence: Evidence, call: str, at_ms: int) -> Lookout:
    """Which sights of a call can still change in which conference it was at an instant."""
    stays = evidence.stays(call)
    first = stays[0].conference if stays else None
    if all(stay.conference == first for stay in stays):
        # While it was seen in one conference only, it is that, whenever.
        return Lookout(call, FAR, None if first is None else evidence.own(first), _LONG_AGO)
    inside = evidence.inside(call, at_ms)
    if inside is None:
        return Lookout(call, FAR, None, _LONG_AGO)
    # One that it entered after that and has left since may yet turn out to have been left later.
    later = any(
        stay.enter_ms is not None
        and inside.enter_ms is not None
        and (inside.enter_ms, inside.conference) < (stay.enter_ms, stay.conference)
        and stay.enter_ms <= at_ms
        for stay in stays
    )
    return Lookout(call, FAR if later else at_ms, None, _LONG_AGO)
