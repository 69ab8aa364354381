"""Judging: from a conversation to what there is to say about each of its recordings.

Attribution says what the evidence supports, the policy what is allowed; here the two become findings. Pure: the same
conversation, settings and policy give the same findings, wherever and whenever. What is published plays no part, but
for one thing: what would say the same again is not rendered at all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import ABOUT_CALLS, Attribution, Background, Starter, attribute, other_causes, relevance
from monitor.core.conversation import EVERY_KIND, Conversation, Seen
from monitor.core.evidence import Evidence, Proof
from monitor.core.ledger import Ledger
from monitor.core.policy import ABSENT, ALLOWED, OPEN, Judgement, Policy, Subject, Values, matcher
from monitor.core.verdict import Finding, RuledOut, Shown, Verdict, render_instant

NO_ALIAS: Final = "other"
_AboutCalls = tuple[Values, Values, Values, Values, Values]

Watch = Callable[[Attribution, Subject], None]


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """What the fold runs under, besides the policy: the settings that can change a verdict, and the bounds."""

    window_ms: int = 4 * 3_600_000
    grace_ms: int = 60_000
    session_max_ms: int = 24 * 3_600_000
    age_max_ms: int = 48 * 3_600_000
    entries_max: int = 2_000
    conferences_max: int = 3  # A call seen in more of them within a window is nailed up: see ``nailed``.
    recordings_too_old_ms: int | None = 7 * 86_400_000
    starters: tuple[Starter, ...] = ()
    aliases: Mapping[str, str] = {}


class Draft(msgspec.Struct, gc=False):
    """A finding on its way out; None withdraws a suspicion. ``due_ms`` is when it could first be told."""

    key: str
    seen: Seen
    finding: Finding | None
    digest: int  # A number for what the finding says, whenever and wherever it was found.
    due_ms: int
    too_old: bool = False  # Told only where something is published already.

    @property
    def appearance(self) -> tuple[int, int]:
        """Where its subject was first seen: what is told is told in this order."""
        return (self.seen.offset, self.seen.index)


class Moment(msgspec.Struct, frozen=True, gc=False):
    """At which message something is judged: generation and offset, and its log time."""

    at: tuple[int, int]
    log_time_ms: int
    by_policy: bool = False  # Only because the policy has changed.


class Judge:
    """Judges conversations under one policy. ``position`` is the text that stands before an offset in evidence.

    ``watch`` is told of every recording that is judged, for those who want to know why.
    """

    def __init__(
        self, tuning: Tuning, policy: Policy, settings: AccountSettings, *, position: str, watch: Watch | None = None
    ) -> None:
        self.policy = policy
        self._tuning = tuning
        self._position = position
        self._watch = watch
        self._conditions = frozenset(name for rule in policy.rules for name in rule.document.when)
        self._asks_names = "conference_name" in self._conditions
        self._asks_about_calls = bool(self._conditions & ABOUT_CALLS)
        starters = tuple((matcher("callback_url", [starter.callback_url]), starter) for starter in tuning.starters)
        self._background = Background(settings, starters, tuning.session_max_ms)

    def under(self, policy: Policy) -> Judge:
        """The same under another policy."""
        settings = self._background.settings
        return Judge(self._tuning, policy, settings, position=self._position, watch=self._watch)

    def findings(
        self, conversation: Conversation, moment: Moment, due_ms: int, ledger: Ledger, *, closed: bool
    ) -> list[Draft]:
        """What there is to say about every recording, and every suspected conference, of a conversation.

        What led to what is published, as ``ledger`` knows it, is left out. ``due_ms`` is when it could first be said.
        """
        evidence = Evidence(conversation)
        account = self._alias(conversation.account)
        drafts: list[Draft] = []
        attributions: list[Attribution] = []
        waiting = False
        for seen in conversation.recordings:
            recording = seen.sid
            if recording not in evidence.recordings:
                continue  # Its evidence fell to the bound, far beyond which nothing is kept at all.
            grace_over = closed or moment.log_time_ms >= seen.arrived_ms + self._tuning.grace_ms
            attribution = attribute(evidence, recording, self._background, grace_over=grace_over)
            attributions.append(attribution)
            judgement = self.judgement(conversation, evidence, attribution, grace_over=grace_over)
            waiting = waiting or judgement is None or attribution.cause is None
            if judgement is not None:
                digest = _digest(conversation, seen, self.policy, attribution, judgement, closed=closed)
                if not ledger.unchanged(recording, digest):
                    verdict = self._verdict(conversation, seen, attribution, judgement, moment, closed=closed)
                    finding = Finding(verdict, evidence.first_offset, judgement.team, account)
                    too_old = self._too_old(seen, attribution, evidence)
                    drafts.append(Draft(recording, seen, finding, digest, due_ms, too_old))
            if attribution.conference_stated:
                # Most are published nothing of: whether this very recording states them is asked of the others. What
                # has closed may be kept back for the gate, with the suspicion, which nobody knows of yet.
                drafts += [
                    Draft(conference, seen, None, 0, due_ms)
                    for conference in sorted(evidence.recorded)
                    if closed or not ledger.owned or ledger.is_suspicion(conference)
                    if any(fact.conference == conference for _, fact in evidence.recordings[recording])
                ]
        if conversation.suspects:
            suspects = {seen.sid: seen for seen in conversation.suspects}
            for conference, kept in evidence.suspected().items():
                suspected = suspects.get(conference)
                if suspected is None or conference in evidence.recorded:
                    continue
                proof = Proof(kept, f"Voice Insights says that conference {conference} had recording on")
                digest = _digest(conversation, suspected, self.policy, proof, closed=closed)
                if not ledger.unchanged(conference, digest):
                    verdict = self._suspicion(conversation, suspected, proof, moment, closed=closed)
                    finding = Finding(verdict, evidence.first_offset, None, account)
                    drafts.append(Draft(conference, suspected, finding, digest, due_ms))
        if not closed:  # Else nothing more is looked at.
            conversation.waiting = waiting
            conversation.relevant, conversation.focus = relevance(evidence, attributions, self._conditions)
            if conversation.cold and not (conversation.evidence or conversation.properties):
                conversation.lose_focus()  # But of what still comes only the first is judged for nothing.
        return drafts

    def failed(self, conversation: Conversation, moment: Moment, due_ms: int, *, closed: bool) -> list[Draft]:
        """What there is to say of a conversation on which ``findings`` raised: open to the end, whatever was lost.

        Of recordings in their grace, nothing yet. Whatever happens to the conversation next, it is judged anew.
        """
        conversation.waiting, conversation.relevant, conversation.focus = True, EVERY_KIND, None
        judgement = self.policy.settle(truncated=True)
        drafts: list[Draft] = []
        for seen in conversation.recordings:
            if closed or moment.log_time_ms >= seen.arrived_ms + self._tuning.grace_ms:
                verdict = self._failure(conversation, seen, judgement, moment, closed=closed)
                digest = hash(("failed", closed, conversation.birth.offset, seen, self.policy.hash)) or 1
                account = self._alias(conversation.account)
                finding = Finding(verdict, conversation.birth.offset, None, account, failed=True)
                drafts.append(Draft(verdict.key, seen, finding, digest, due_ms))
        return drafts

    def _too_old(self, seen: Seen, attribution: Attribution, evidence: Evidence) -> bool:
        too_old_ms = self._tuning.recordings_too_old_ms
        if too_old_ms is None or seen.arrived_ms - attribution.started_ms <= too_old_ms:
            return False
        return not any(fact.however_old for _, fact in evidence.recordings[attribution.recording_sid])

    def judgement(
        self, conversation: Conversation, evidence: Evidence, attribution: Attribution, *, grace_over: bool
    ) -> Judgement | None:
        """What the policy says; None while it is open and the grace still runs."""
        subject = self.subject(conversation, evidence, attribution, grace_over=grace_over)
        if self._watch is not None:
            self._watch(attribution, subject)
        judgement = self.policy.judge(subject)
        if judgement.outcome == ALLOWED and conversation.truncated:
            judgement = self._unless_worse(subject, attribution, judgement)
        if judgement.outcome is not None:
            return judgement
        if not grace_over:
            return None
        return msgspec.structs.replace(self.policy.settle(truncated=conversation.truncated), shadow=judgement.shadow)

    def _unless_worse(self, subject: Subject, attribution: Attribution, judgement: Judgement) -> Judgement:
        """What allows a recording on truncated evidence; but open where what was lost could have forbidden it.

        Evidence for another cause may be lost, and that a call was in another conference when its recording began.
        """
        if attribution.call_sid is not None:
            subject = msgspec.structs.replace(subject, conference_name=OPEN)
        causes = [subject.cause, *(Values((cause,), True) for cause in other_causes(attribution))]
        others = [self.policy.judge(msgspec.structs.replace(subject, cause=cause)) for cause in causes]
        if all(other.outcome == ALLOWED for other in others):
            return judgement
        return msgspec.structs.replace(judgement, outcome=None)

    def subject(
        self, conversation: Conversation, evidence: Evidence, attribution: Attribution, *, grace_over: bool
    ) -> Subject:
        """A recording as the policy may ask about it; what is absent stays open until the grace ends."""
        complete = grace_over and not conversation.truncated
        absent = ABSENT if complete else OPEN
        about = self._about_calls(evidence, attribution, absent) if self._asks_about_calls else _NOTHING_ASKED
        urls = attribution.callback_urls
        # In the order of the fields: by name it would cost three times as much, for every judgement.
        return Subject(
            conversation.account,
            self._tuning.aliases.get(conversation.account),
            attribution.started_ms,
            _one(attribution.cause, OPEN),
            _one(attribution.start_source, absent),
            self._names(evidence, attribution.conference_sid, absent) if self._asks_names else OPEN,
            Values(urls, True) if urls else absent,
            *about,
            _one(attribution.status, absent),
            _one(attribution.found_by, OPEN),
        )

    @staticmethod
    def _names(evidence: Evidence, conference: str | None, absent: Values) -> Values:
        names = () if conference is None else evidence.names(conference)
        return Values(tuple(sorted(names)), True) if names else absent

    def _about_calls(self, evidence: Evidence, attribution: Attribution, absent: Values) -> _AboutCalls:
        """What the policy may ask about the calls a recording is of, and about the task they belong to.

        Direction, from, to, queue and worker.
        """
        call, conference = attribution.call_sid, attribution.conference_sid
        own = {call} if call is not None else set(evidence.calls_in(conference)) if conference is not None else set()
        calls = evidence.calls(own)
        # A call that goes from conference to conference has been in many tasks, most of them of other conferences.
        ties = {each for each in own if evidence.conferences_of(each) <= self._tuning.conferences_max}
        tasks = [t for t in evidence.tasks if ties.intersection(t.calls) or (conference and t.conference == conference)]
        # Of a call's own recording the call says all; a conference may yet turn out to have had other calls.
        settled = absent is ABSENT or call is not None
        return (
            _known((fact.direction for fact in calls), absent, complete=settled),
            _known((fact.from_ for fact in calls), absent, complete=settled),
            _known((fact.to for fact in calls), absent, complete=settled),
            _known((value for task in tasks for value in task.queue), absent, complete=absent is ABSENT),
            _known((value for task in tasks for value in task.worker), absent, complete=absent is ABSENT),
        )

    def _verdict(
        self,
        conversation: Conversation,
        seen: Seen,
        attribution: Attribution,
        judgement: Judgement,
        moment: Moment,
        *,
        closed: bool,
    ) -> Verdict:
        assert judgement.outcome is not None
        ended_ms = attribution.ended_ms
        reason = judgement.reason or _reason(
            attribution.cause,
            judgement.outcome,
            judgement.rule,
            studio="studio" in attribution.missing,
            truncated=conversation.truncated,
        )
        # In the order of the fields: by name it would cost three times as much, for every verdict.
        return Verdict(
            "recording",
            attribution.recording_sid,
            conversation.account,
            0,  # The revision, which what is published decides; so do ``disallowed_since``, the alert and the history.
            closed,
            moment.at,
            _rests_from(conversation, attribution.evidence),
            judgement.outcome,
            judgement.rule,
            judgement.severity,
            self.policy.mode,
            self.policy.hash,
            attribution.cause,
            attribution.strength,
            attribution.start_source,
            attribution.call_sid,
            attribution.conference_sid,
            attribution.status,
            render_instant(attribution.started_ms),
            None if ended_ms is None else render_instant(ended_ms),
            render_instant(seen.arrived_ms),
            attribution.found_by,
            moment.by_policy and ended_ms is not None,
            render_instant(moment.log_time_ms),
            None,
            None,
            reason,
            tuple([self._show(proof) for proof in attribution.evidence]),
            tuple([RuledOut(cause, by) for cause, by in attribution.ruled_out]) if attribution.ruled_out else (),
            attribution.missing,
            (),
        )

    def _failure(
        self,
        conversation: Conversation,
        seen: Seen,
        judgement: Judgement,
        moment: Moment,
        *,
        closed: bool,
    ) -> Verdict:
        """A recording of which nothing is known but that it is there: judging it raised."""
        assert judgement.outcome is not None
        return Verdict(
            kind="recording",
            recording_sid=seen.sid,
            account_sid=conversation.account,
            revision=0,
            final=closed,
            at=moment.at,
            rests_from=conversation.birth.offset,
            outcome=judgement.outcome,
            rule=judgement.rule,
            severity=judgement.severity,
            mode=self.policy.mode,
            policy=self.policy.hash,
            cause=None,
            strength=None,
            start_source=None,
            call_sid=None,
            conference_sid=None,
            recording_status=None,
            started_at=None,
            ended_at=None,
            first_seen_at=render_instant(seen.arrived_ms),
            found_by=None,
            backlog=False,
            decided_at=render_instant(moment.log_time_ms),
            disallowed_since=None,
            alert=None,
            reason="The monitor failed to judge it, by a fault of its own; its log says where.",
            evidence=(),
            ruled_out=(),
            missing=("judgement",),
            history=(),
        )

    def _suspicion(
        self,
        conversation: Conversation,
        seen: Seen,
        proof: Proof,
        moment: Moment,
        *,
        closed: bool,
    ) -> Verdict:
        """Voice Insights says that a conference had recording on, and no recording of it is known."""
        return Verdict(
            kind="suspicion",
            recording_sid=None,
            account_sid=conversation.account,
            revision=0,
            final=closed,
            at=moment.at,
            rests_from=_rests_from(conversation, (proof,)),
            outcome="undetermined",
            rule="suspicion",
            severity="warning",
            mode=self.policy.mode,
            policy=self.policy.hash,
            cause=None,
            strength=None,
            start_source=None,
            call_sid=None,
            conference_sid=seen.sid,
            recording_status=None,
            started_at=None,
            ended_at=None,
            first_seen_at=render_instant(seen.arrived_ms),
            found_by="stream",
            backlog=False,
            decided_at=render_instant(moment.log_time_ms),
            disallowed_since=None,
            alert=None,
            reason="Voice Insights says that this conference had recording on, but no recording of it has been seen.",
            evidence=(self._show(proof),),
            ruled_out=(),
            missing=("recording",),
            history=(),
        )

    def _show(self, proof: Proof) -> Shown:
        kept = proof.kept
        position = f"{self._position}{kept.offset}"
        return Shown(kept.event_id, kept.type_name, position, render_instant(kept.occurred_ms), proof.shows)

    def _alias(self, account: str) -> str:
        return self._tuning.aliases.get(account, NO_ALIAS)


def _rests_from(conversation: Conversation, proofs: Iterable[Proof]) -> int:
    """The first offset that a verdict rests on: what a guest did may have been told before the conversation began."""
    return min([conversation.birth.offset, *[proof.kept.offset for proof in proofs]])


def _digest(conversation: Conversation, seen: Seen, policy: Policy, *said: Hashable, closed: bool) -> int:
    """A number for all that a verdict is made of, but the moment of its making; never 0.

    ``hash()`` differs from process to process: the number never leaves this one.
    """
    return hash((closed, conversation.truncated, conversation.birth.offset, seen, policy.hash, said)) or 1


@lru_cache(maxsize=1024)
def _value(value: str) -> Values:
    return Values((value,), True)


def _one(value: str | None, absent: Values) -> Values:
    """An attribute that has one value, from a small set: such are not built anew for every recording."""
    return absent if value is None else _value(value)


_NOTHING_ASKED: Final = (OPEN, OPEN, OPEN, OPEN, OPEN)


def _known(values: Iterable[str | None], absent: Values, *, complete: bool) -> Values:
    """What is known of an attribute of which several calls or tasks may speak."""
    known = tuple(dict.fromkeys([value for value in values if value is not None]))
    return Values(known, complete) if known else absent


_CAUSE_WORDS: Final = {
    "api_call_recording": "An explicit request to the recordings API started it",
    "studio_call_recording_widget": "A Call Recording widget of a Studio flow started it",
    "flex_plugin": "A Flex plugin started it",
    "conference_api": "An API request created or joined its conference with ConferenceRecord",
    "conference_twiml": "TwiML joined its conference with recording on",
    "flex_call_recording": "Flex started it: call recording was on in the Flex settings",
    "flex_conference": "Flex started its conference; the Flex recording setting at that time is not known",
    "flex_stale_session": "Flex started it from an agent's session that began before call recording was switched off",
    "flex_residual_setting": "Flex started it although call recording had been off for longer than any session lasts",
    "dial_verb": "TwiML <Dial record> started it",
    "record_verb": "TwiML <Record> started it",
    "sip_trunk": "The recording setting of an Elastic SIP trunk started it",
    "outbound_call_api": "An API request made the call with Record",
    "start_recording_twiml": "TwiML <Start><Recording> started it",
    "conference_recording_api": "A request to the conference recordings API started it",
    "unknown_source": "Twilio names a start source that is not known to this monitor",
    "unattributed": "Nothing that was seen says what started it",
}
_OUTCOME_WORDS: Final = {
    "allowed": "allows",
    "disallowed": "does not allow",
    "undetermined": "leaves undetermined",
}


@lru_cache(maxsize=1024)
def _reason(cause: str | None, outcome: str, rule: str, *, studio: bool, truncated: bool) -> str:
    """One sentence for a person on call, where the rule has none of its own; ``studio``: what is missing is that."""
    if cause is None:
        what = "What started it can't be told"
        if truncated:
            what += ": evidence was lost"
        elif studio:
            what = "The API or a Studio widget started it, and the Studio flow or its steps are not known"
    else:
        what = _CAUSE_WORDS.get(cause, "Something started it")
    decided = "the policy" if rule in ("default", "when_open") else f"rule {rule!r}"
    return f"{what}, which {decided} {_OUTCOME_WORDS[outcome]}."
