"""The pipeline: one partition's fold from messages to what is told, and the gate that keeps a restart silent.

    message -> log time -> deadlines -> decode -> window -> attribution -> policy -> verdict

A message tells at most one verdict per recording: deadlines at or before its arrival fire first, then all its entries
are folded, then what differs from what is published is told, in order of the recordings' first appearance. Nothing
happens between messages. A partition taken over is *rebuilt*: messages below the commit are folded in silence, those
below the gate too, but what closes there is kept back to be compared. The rules are those of docs/checkpoint.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from monitor.core.attribution import (
    ABOUT_CALLS,
    AccountSettings,
    Attribution,
    Background,
    Evidence,
    Proof,
    Starter,
    attribute,
    relevant_kinds,
)
from monitor.core.decode import OWN, decode
from monitor.core.events import Event, FlexSetting, FlowSetting, Ignored, Malformed, RecordingFact, WorkerSession
from monitor.core.policy import ABSENT, OPEN, Judgement, Policy, Subject, Values, matcher
from monitor.core.verdict import (
    Finding,
    Ledger,
    RuledOut,
    Shown,
    Verdict,
    orphaned,
    render_instant,
    revise,
)
from monitor.core.window import Conversation, Cut, Kept, Seen, Window

AHEAD_MAX_MS: Final = 3_600_000
NO_ALIAS: Final = "other"


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """What the fold runs under, besides the policy: the settings that can change a verdict, and the bounds."""

    window_ms: int = 4 * 3_600_000
    grace_ms: int = 60_000
    session_max_ms: int = 24 * 3_600_000
    age_max_ms: int = 48 * 3_600_000
    entries_max: int = 2_000
    recordings_too_old_ms: int | None = 7 * 86_400_000
    starters: tuple[Starter, ...] = ()
    aliases: Mapping[str, str] = {}


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a partition goes on (``offset``, C) and from where it is rebuilt (``replay_from``, R, at log time w).

    ``lost`` says that messages below ``replay_from`` which the state rested on are gone.
    """

    offset: int
    generation: int
    replay_from: int
    log_time_ms: int | None
    cut: Cut | None = None
    lost: bool = False


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Write this verdict; None is a tombstone: withdrawn, or kept long enough.

    ``before`` is the outcome it replaces (None: the first), ``due_ms`` the log time at which it could first be told,
    ``late`` that only status, end or discovery of a final verdict changed, ``appeared`` where its subject was first
    seen (offset, place inside the message).
    """

    key: str
    verdict: Verdict | None
    before: str | None
    due_ms: int
    late: bool
    appeared: tuple[int, int] = (0, 0)


class SetAside(msgspec.Struct, frozen=True, gc=False):
    """Put this entry into quarantine; ``index`` is its place inside the message."""

    reason: str
    detail: str
    data: bytes
    index: int


class SettingSeen(msgspec.Struct, frozen=True, gc=False):
    """Copy this account setting, found among the events, to the topic it belongs in, under ``key``."""

    key: str
    data: bytes


Told = Publish | SetAside | SettingSeen
_SILENCE: Final[tuple[Told, ...]] = ()


AGE_BOUNDS_MS: Final = (1_000, 5_000, 60_000, 900_000, 14_400_000)


class EventAges(msgspec.Struct, frozen=True, gc=False):
    """How old events of a type were when they arrived: counts by ``AGE_BOUNDS_MS`` and above, and the sum."""

    counts: tuple[int, ...]
    sum_ms: int


class Counts(msgspec.Struct):
    """What was counted since the last ``take_counts``. entries = events + ignored + malformed + duplicate + late."""

    messages: int = 0
    replayed: int = 0
    entries: int = 0
    events: dict[str, int] = msgspec.field(default_factory=dict)
    ignored: int = 0
    malformed: int = 0
    duplicate: int = 0
    late: int = 0
    clamped: int = 0
    closed_by_window: int = 0
    closed_by_cut: int = 0
    truncated: int = 0
    dropped: int = 0
    too_old: int = 0
    latest_event_ms: dict[str, int] = msgspec.field(default_factory=dict)
    ages: dict[str, EventAges] = msgspec.field(default_factory=dict)

    @property
    def events_total(self) -> int:
        """How many entries were events, of whatever type."""
        return sum(self.events.values())


class _Draft(msgspec.Struct, gc=False):
    """A finding on its way out; None withdraws a suspicion. ``due_ms`` is when it could first be told."""

    key: str
    seen: Seen
    finding: Finding | None
    digest: int  # A number for what the finding says, whenever and wherever it was found.
    due_ms: int
    too_old: bool = False  # Told only where something is published already.


class Pipeline:
    """The state of one partition. It is fed messages and says what to tell; it touches nothing else.

    ``position`` is the text that stands before an offset in evidence (``"3:"``; in a file nothing). With
    ``clamp=False`` the timestamps are taken as they are: they were not stamped by a broker.
    """

    def __init__(
        self,
        tuning: Tuning,
        policy: Policy,
        settings: AccountSettings,
        *,
        partition: int | None,
        checkpoint: Checkpoint,
        skip: frozenset[int] = frozenset(),
        clamp: bool = True,
    ) -> None:
        self.tuning = tuning
        self.policy = policy
        self.settings = settings
        self.skip = skip
        self.generation = checkpoint.generation
        self.committed = checkpoint.offset
        self.log_time_ms = checkpoint.log_time_ms
        self.next_offset = checkpoint.replay_from
        self.counts = Counts()
        self._tallies: dict[str, list[int]] = {}  # Of each type: events by age, the sum of ages, the latest.
        self.window = Window(
            window_ms=tuning.window_ms,
            grace_ms=tuning.grace_ms,
            age_max_ms=tuning.age_max_ms,
            entries_max=tuning.entries_max,
            cut=checkpoint.cut,
        )
        self.ledger = Ledger()
        self.gate: int | None = None
        self._covered = checkpoint.cut.offset if checkpoint.cut is not None else -1
        self._clamp = clamp
        self._position = "" if partition is None else f"{partition}:"
        self._stamped_before_ms: int | None = None
        self._conditions = _conditions(policy)
        self._starters = tuple(
            (matcher("callback_url", [starter.callback_url]), starter) for starter in tuning.starters
        )
        self._kept_back: list[_Draft] = []  # Decided between commit and gate, to be compared once it opens.
        self._overtaken: list[_Draft] = []  # Final, but somebody has published what was decided later.
        self._all_dirty = False
        self._by_policy = False
        self._dirty_accounts: set[str] = set()
        self._unsettled: list[str] = []  # Published, not final, and perhaps nobody's: see _end_orphans.
        # What is held back is lost with this process: until it is told, the checkpoint stays where it was.
        self._safe: Checkpoint | None = checkpoint

    # ----------------------------------------------------------------- the world's side

    def prime(self, timestamp_ms: int) -> None:
        """Say how the message before the first one fed was stamped; the clamp of log time looks at it."""
        self._stamped_before_ms = timestamp_ms

    def open(self, ledger: Ledger) -> int:
        """Say what is published, at the end of a rebuild; the offset from which on verdicts are told.

        What the rebuild left different is told with the next message at or after that offset.
        """
        self.ledger = ledger
        greatest = ledger.greatest_offset(self.generation)
        self.gate = self.committed if greatest is None else max(self.committed, greatest + 1)
        self._all_dirty = True
        ledger.take_heard()
        self._unsettled = ledger.open_keys()
        return self.gate

    def change_policy(self, policy: Policy) -> None:
        """Judge by another policy from the next message on; whatever is open is judged again with it."""
        self.policy = policy
        self._conditions = _conditions(policy)
        self._all_dirty = self._by_policy = True

    def change_settings(self, account: str) -> None:
        """Judge an account's open recordings again with the next message: something is known of it that was not."""
        self._dirty_accounts.add(account)

    def take_counts(self) -> Counts:
        """What was counted since the last time."""
        counts, self.counts = self.counts, Counts()
        counts.truncated, self.window.truncated_total = self.window.truncated_total, 0
        counts.dropped, self.window.dropped_total = self.window.dropped_total, 0
        tallies, self._tallies = self._tallies, {}
        for kind, (*ages, sum_ms, latest_ms) in tallies.items():
            counts.events[kind] = sum(ages)
            counts.latest_event_ms[kind] = latest_ms
            counts.ages[kind] = EventAges(tuple(ages), sum_ms)
        return counts

    def checkpoint(self) -> Checkpoint:
        """Where to go on, and from where to rebuild: all as of after the last message fed.

        While something decided is held back (before the gate, or because what is published was decided later), it is
        as of before that: a rebuild from behind it would not decide it again.
        """
        return self._safe if self._safe is not None else self._checkpoint_at(self.next_offset)

    def _checkpoint_at(self, offset: int) -> Checkpoint:
        birth = self.window.oldest_birth()
        return Checkpoint(
            offset=offset,
            generation=self.generation,
            replay_from=offset if birth is None else birth.offset,
            log_time_ms=self.log_time_ms if birth is None else birth.arrived_ms,
            cut=self.window.cut,
        )

    # ----------------------------------------------------------------- one message

    def feed(
        self,
        offset: int,
        timestamp_ms: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> Sequence[Told]:
        """Fold one message; what is to be told, in order. Raises only where the core itself is wrong."""
        log_time_ms = self._arrive(timestamp_ms)
        self.next_offset = offset + 1
        if offset <= self._covered or offset in self.skip:
            return _SILENCE
        window = self.window
        telling = self.gate is not None and offset >= self.gate
        silent = offset < self.committed
        told: list[Told] = []
        drafts: list[_Draft] = []
        dirty: dict[int, tuple[Conversation, int]] = {}
        before: Checkpoint | None = None
        if telling:
            self.counts.messages += 1
            if self.ledger.heard:
                self._listen()
            if self._kept_back:
                drafts, self._kept_back = self._kept_back, []
            if self._overtaken:
                drafts += self._try_again(offset)
        else:
            self.counts.replayed += 1
        if log_time_ms >= window.next_due_ms():
            before = self._checkpoint_at(offset)
            closed = list(window.advance(log_time_ms))
            self.counts.closed_by_window += len(closed)
            if not silent:
                for conversation in closed:
                    drafts += self._conclude(conversation, offset, log_time_ms)
            for conversation, _, due_ms in window.graces_ended(log_time_ms):
                if conversation.waiting:
                    dirty.setdefault(id(conversation), (conversation, due_ms))
        if window.cut is not None:
            window.drop_cut_when_over(log_time_ms)
        if telling and drafts:
            told += self._publish(drafts)
            drafts = []
        aged = self._fold(offset, log_time_ms, value, headers, told, dirty, telling=telling, silent=silent)
        if aged:
            before = before or self._checkpoint_at(offset)
            drafts = self._cut(offset, log_time_ms)
            dirty.clear()
            if silent:
                return _SILENCE
        if not telling:
            self._kept_back += drafts
            return told  # No verdicts, but what else its entries tell.
        if self._all_dirty or self._dirty_accounts:
            self._mark_dirty(dirty, log_time_ms)
        drafts += self._judge_dirty(dirty, offset, log_time_ms)
        if drafts:
            told += self._publish(drafts)
        if self._unsettled:
            told += self._end_orphans(offset, log_time_ms)
        for key in self.ledger.ended(log_time_ms):
            told.append(Publish(key, None, None, log_time_ms, late=False))
        self._by_policy = False
        if not self._overtaken:
            self._safe = None
        elif self._safe is None:
            self._safe = before
        return told

    def finish(self, log_time_ms: int | None = None) -> Sequence[Told]:
        """The end of a file: one more message, at the last deadline, after which nothing is open."""
        if log_time_ms is None:
            log_time_ms = self.window.last_deadline_ms()
        if log_time_ms is None:
            return _SILENCE
        self.log_time_ms = max(log_time_ms, self.log_time_ms or log_time_ms)
        offset = self.next_offset - 1
        drafts: list[_Draft] = []
        for conversation in list(self.window.advance(self.log_time_ms)):
            drafts += self._conclude(conversation, offset, self.log_time_ms)
        return self._publish(drafts)

    def _arrive(self, timestamp_ms: int) -> int:
        """Log time: the timestamp made monotonic; one far ahead counts only if its neighbour agrees."""
        before_ms = self._stamped_before_ms
        self._stamped_before_ms = timestamp_ms
        now_ms = self.log_time_ms
        if now_ms is None:
            self.log_time_ms = timestamp_ms
            return timestamp_ms
        if timestamp_ms > now_ms:
            ahead = timestamp_ms - now_ms > AHEAD_MAX_MS
            if ahead and self._clamp and (before_ms is None or before_ms < timestamp_ms - AHEAD_MAX_MS):
                self.counts.clamped += 1
            else:
                self.log_time_ms = now_ms = timestamp_ms
        return now_ms

    def _fold(
        self,
        offset: int,
        log_time_ms: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None,
        told: list[Told],
        dirty: dict[int, tuple[Conversation, int]],
        *,
        telling: bool,
        silent: bool,
    ) -> bool:
        """Fold all entries of a message, and count them; whether a conversation is older than may be."""
        counts = self.counts
        window = self.window
        aged = False
        for index, entry in enumerate(decode(value, headers)):
            if not isinstance(entry, Event):
                if telling:
                    counts.entries += 1
                    if isinstance(entry, Ignored):
                        counts.ignored += 1
                    else:
                        counts.malformed += 1
                if isinstance(entry, Malformed) and not silent:
                    told.append(SetAside(entry.reason, entry.detail, entry.data, index))
                continue
            touched = window.fold(entry, offset, index, log_time_ms)
            conversation = touched.conversation
            if conversation is not None:
                if log_time_ms - conversation.birth.arrived_ms > self.tuning.age_max_ms:
                    aged = True
                if touched.kinds & conversation.relevant and (conversation.recordings or conversation.suspects):
                    dirty.setdefault(id(conversation), (conversation, log_time_ms))
                for renewed in touched.renewed:
                    if renewed.recordings or renewed.suspects:
                        dirty.setdefault(id(renewed), (renewed, log_time_ms))
            repeated = touched.duplicate or (
                entry.setting is not None and self._observe(entry, None if silent else told)
            )
            if telling:
                counts.entries += 1
                if repeated:
                    counts.duplicate += 1
                elif self._is_late(entry, log_time_ms):
                    counts.late += 1
                else:
                    self._tally(entry, log_time_ms)
        return aged

    def _tally(self, event: Event, log_time_ms: int) -> None:
        tally = self._tallies.get(event.type)
        if tally is None:
            tally = self._tallies[event.type] = [0] * (len(AGE_BOUNDS_MS) + 3)
        occurred_ms = log_time_ms if event.occurred_ms is None else event.occurred_ms
        age_ms = max(0, log_time_ms - occurred_ms)
        tally[0 if age_ms <= AGE_BOUNDS_MS[0] else bisect_left(AGE_BOUNDS_MS, age_ms)] += 1
        tally[-2] += age_ms
        if occurred_ms > tally[-1]:
            tally[-1] = occurred_ms

    def _is_late(self, event: Event, log_time_ms: int) -> bool:
        for fact in event.facts:
            if isinstance(fact, RecordingFact):
                if self.ledger.is_final(fact.recording):
                    return True
                too_old_ms = self.tuning.recordings_too_old_ms
                if too_old_ms is not None and not self.ledger.knows(fact.recording):
                    started_ms = fact.started_ms if fact.started_ms is not None else event.occurred_ms
                    if started_ms is not None and log_time_ms - started_ms > too_old_ms:
                        self.counts.too_old += 1
                        return True
        return False

    def _observe(self, event: Event, told: list[Told] | None) -> bool:
        """Take in an account setting that stands among the events: it means the same there. Whether it is a repeat.

        It is told again even so: this process may know it from a fold whose writes never arrived.
        """
        setting = event.setting
        assert setting is not None
        if told is not None:
            told.append(SettingSeen(setting_key(event), render_setting(event)))
        if self.settings.repeats(event.account, event.id):
            return True
        if self.settings.observe(setting):
            self.change_settings(event.account)
        return False

    def _cut(self, offset: int, log_time_ms: int) -> list[_Draft]:
        """Close every open conversation of the partition, judged as lacking evidence: one has become too old."""
        conversations = self.window.close_all()
        self.counts.closed_by_cut += len(conversations)
        self.window.cut = Cut(offset, log_time_ms + self.tuning.window_ms)
        drafts: list[_Draft] = []
        for conversation in conversations:
            conversation.truncated = True
            drafts += self._conclude(conversation, offset, log_time_ms)
        return drafts

    # ----------------------------------------------------------------- judging

    def _mark_dirty(self, dirty: dict[int, tuple[Conversation, int]], log_time_ms: int) -> None:
        for conversation in self.window.conversations():
            if (self._all_dirty or conversation.account in self._dirty_accounts) and (
                conversation.recordings or conversation.suspects
            ):
                dirty.setdefault(id(conversation), (conversation, log_time_ms))
        self._all_dirty = False
        self._dirty_accounts.clear()

    def _judge_dirty(self, dirty: dict[int, tuple[Conversation, int]], offset: int, log_time_ms: int) -> list[_Draft]:
        drafts: list[_Draft] = []
        for conversation, due_ms in dirty.values():
            if conversation.open:
                drafts += self._judge(conversation, offset, log_time_ms, due_ms, closed=False)
        return drafts

    def _conclude(self, conversation: Conversation, offset: int, log_time_ms: int) -> list[_Draft]:
        """Judge a conversation for the last time: nothing more of it is awaited."""
        if not conversation.recordings and not conversation.suspects:
            return []
        due_ms = min(conversation.last_ms + self.tuning.window_ms, log_time_ms)
        return self._judge(conversation, offset, log_time_ms, due_ms, closed=True)

    def _judge(
        self, conversation: Conversation, offset: int, log_time_ms: int, due_ms: int, *, closed: bool
    ) -> list[_Draft]:
        """What there is to say about every recording, and every suspected conference, of a conversation."""
        evidence = Evidence(conversation)
        background = Background(self.settings, self._starters, self.tuning.session_max_ms)
        at = (self.generation, offset)
        drafts: list[_Draft] = []
        attributions: list[Attribution] = []
        waiting = False
        for recording, seen in (conversation.recordings or {}).items():
            if recording not in evidence.recordings:
                continue  # Its evidence fell to the bound, far beyond which nothing is kept at all.
            grace_over = closed or log_time_ms >= seen.arrived_ms + self.tuning.grace_ms
            attribution = attribute(evidence, recording, background, grace_over=grace_over)
            attributions.append(attribution)
            judgement = self.judge(conversation, evidence, attribution, grace_over=grace_over)
            waiting = waiting or judgement is None or attribution.cause is None
            if judgement is not None:
                # hash() differs from process to process: the number never leaves this one.
                what = (closed, attribution, judgement, conversation.birth.offset, seen, conversation.truncated)
                digest = hash((what, self.policy.hash)) or 1
                if not self.ledger.unchanged(recording, digest):
                    verdict = self._verdict(conversation, seen, attribution, judgement, at, log_time_ms, closed=closed)
                    too_old = self._too_old(seen, attribution)
                    drafts.append(
                        self._draft(conversation, seen, verdict, digest, due_ms, team=judgement.team, too_old=too_old)
                    )
            stated = {fact.conference for _, fact in evidence.recordings[recording] if fact.conference is not None}
            drafts += [_Draft(conference, seen, None, 0, due_ms) for conference in sorted(stated)]
        for conference, kept in evidence.suspected.items():
            suspected = (conversation.suspects or {}).get(conference)
            if suspected is not None and not _recorded(evidence, conference):
                verdict = self._suspicion(conversation, conference, suspected, kept, at, log_time_ms, closed=closed)
                digest = hash((closed, kept, conversation.birth.offset, suspected, self.policy.hash)) or 1
                drafts.append(self._draft(conversation, suspected, verdict, digest, due_ms))
        conversation.waiting = waiting
        conversation.relevant = relevant_kinds(evidence, attributions, self._conditions)
        return drafts

    def _too_old(self, seen: Seen, attribution: Attribution) -> bool:
        too_old_ms = self.tuning.recordings_too_old_ms
        return too_old_ms is not None and seen.arrived_ms - attribution.started_ms > too_old_ms

    def judge(
        self, conversation: Conversation, evidence: Evidence, attribution: Attribution, *, grace_over: bool
    ) -> Judgement | None:
        """What the policy says; None while it is open and the grace still runs."""
        judgement = self.policy.judge(self.subject(conversation, evidence, attribution, grace_over=grace_over))
        if judgement.outcome is not None:
            return judgement
        if not grace_over:
            return None
        return msgspec.structs.replace(self.policy.settle(truncated=conversation.truncated), shadow=judgement.shadow)

    def subject(
        self, conversation: Conversation, evidence: Evidence, attribution: Attribution, *, grace_over: bool
    ) -> Subject:
        """A recording as the policy may ask about it; what is absent stays open until the grace ends."""
        complete = grace_over and not conversation.truncated
        absent = ABSENT if complete else OPEN
        started = absent if attribution.start_source is None else Values((attribution.start_source,), True)
        subject = Subject(
            account=conversation.account,
            alias=self.tuning.aliases.get(conversation.account),
            started_ms=attribution.started_ms,
            cause=Values((attribution.cause,), True) if attribution.cause is not None else OPEN,
            start_source=started,
            conference_name=OPEN,
            callback_url=Values(attribution.callback_urls, True) if attribution.callback_urls else absent,
            direction=OPEN,
            from_=OPEN,
            to=OPEN,
            queue=OPEN,
            worker=OPEN,
            status=Values((attribution.status,), True) if attribution.status is not None else absent,
            found_by=Values((attribution.found_by,), True),
        )
        conference = attribution.conference_sid
        if "conference_name" in self._conditions and conference is not None:
            known = evidence.conferences.get(conference)
            names = Values(tuple(sorted(known.rooms)), True) if known is not None and known.rooms else absent
            subject = msgspec.structs.replace(subject, conference_name=names)
        elif "conference_name" in self._conditions:
            subject = msgspec.structs.replace(subject, conference_name=absent)
        if self._conditions & ABOUT_CALLS:
            subject = self._with_calls(subject, evidence, attribution, absent)
        return subject

    def _with_calls(self, subject: Subject, evidence: Evidence, attribution: Attribution, absent: Values) -> Subject:
        """What the policy may ask about the calls a recording is of, and about the task they belong to."""
        call, conference = attribution.call_sid, attribution.conference_sid
        own = {call} if call is not None else set(evidence.calls_in(conference)) if conference is not None else set()
        calls = evidence.calls(own)
        tasks = [t for t in evidence.tasks if own.intersection(t.calls) or (conference and t.conference == conference)]
        # Of a call's own recording the call says all; a conference may yet turn out to have had other calls.
        settled = absent is ABSENT or call is not None
        return msgspec.structs.replace(
            subject,
            direction=_known((fact.direction for fact in calls), absent, complete=settled),
            from_=_known((fact.from_ for fact in calls), absent, complete=settled),
            to=_known((fact.to for fact in calls), absent, complete=settled),
            queue=_known((value for task in tasks for value in task.queue), absent, complete=absent is ABSENT),
            worker=_known((value for task in tasks for value in task.worker), absent, complete=absent is ABSENT),
        )

    def _verdict(
        self,
        conversation: Conversation,
        seen: Seen,
        attribution: Attribution,
        judgement: Judgement,
        at: tuple[int, int],
        log_time_ms: int,
        *,
        closed: bool,
    ) -> Verdict:
        assert judgement.outcome is not None
        ended_ms = attribution.ended_ms
        return Verdict(
            kind="recording",
            recording_sid=attribution.recording_sid,
            account_sid=conversation.account,
            revision=0,
            final=closed,
            at=at,
            rests_from=conversation.birth.offset,
            outcome=judgement.outcome,
            rule=judgement.rule,
            severity=judgement.severity,
            mode=self.policy.mode,
            policy=self.policy.hash,
            cause=attribution.cause,
            strength=attribution.strength,
            start_source=attribution.start_source,
            call_sid=attribution.call_sid,
            conference_sid=attribution.conference_sid,
            recording_status=attribution.status,
            started_at=render_instant(attribution.started_ms),
            ended_at=None if ended_ms is None else render_instant(ended_ms),
            first_seen_at=render_instant(seen.arrived_ms),
            found_by=attribution.found_by,
            backlog=self._by_policy and ended_ms is not None,
            decided_at=render_instant(log_time_ms),
            disallowed_since=None,
            alert=None,
            reason=judgement.reason or _reason(attribution, judgement, truncated=conversation.truncated),
            evidence=tuple(self._show(proof) for proof in attribution.evidence),
            ruled_out=tuple(RuledOut(cause, by) for cause, by in attribution.ruled_out),
            missing=attribution.missing,
            history=(),
        )

    def _suspicion(
        self,
        conversation: Conversation,
        conference: str,
        seen: Seen,
        kept: Kept,
        at: tuple[int, int],
        log_time_ms: int,
        *,
        closed: bool,
    ) -> Verdict:
        """Voice Insights says that a conference had recording on, and no recording of it is known."""
        shows = f"Voice Insights says that conference {conference} had recording on"
        return Verdict(
            kind="suspicion",
            recording_sid=None,
            account_sid=conversation.account,
            revision=0,
            final=closed,
            at=at,
            rests_from=conversation.birth.offset,
            outcome="undetermined",
            rule="suspicion",
            severity="warning",
            mode=self.policy.mode,
            policy=self.policy.hash,
            cause=None,
            strength=None,
            start_source=None,
            call_sid=None,
            conference_sid=conference,
            recording_status=None,
            started_at=None,
            ended_at=None,
            first_seen_at=render_instant(seen.arrived_ms),
            found_by="stream",
            backlog=False,
            decided_at=render_instant(log_time_ms),
            disallowed_since=None,
            alert=None,
            reason="Voice Insights says that this conference had recording on, but no recording of it has been seen.",
            evidence=(self._show(Proof(kept, shows)),),
            ruled_out=(),
            missing=("recording",),
            history=(),
        )

    def _show(self, proof: Proof) -> Shown:
        kept = proof.kept
        return Shown(
            event_id=kept.event_id,
            type=kept.type_name,
            position=f"{self._position}{kept.offset}",
            occurred_at=render_instant(kept.occurred_ms),
            shows=proof.shows,
        )

    def _draft(
        self,
        conversation: Conversation,
        seen: Seen,
        verdict: Verdict,
        digest: int,
        due_ms: int,
        *,
        team: str | None = None,
        too_old: bool = False,
    ) -> _Draft:
        account = self.tuning.aliases.get(conversation.account, NO_ALIAS)
        finding = Finding(verdict=verdict, first_offset=conversation.birth.offset, team=team, account=account)
        return _Draft(verdict.key, seen, finding, digest, due_ms, too_old)

    # ----------------------------------------------------------------- telling

    def _publish(self, drafts: Iterable[_Draft]) -> list[Told]:
        """Tell what differs from what is published, in order of first appearance."""
        told: list[Told] = []
        ledger = self.ledger
        for draft in sorted(drafts, key=_appearance):
            key, finding, digest = draft.key, draft.finding, draft.digest
            if finding is None:
                if ledger.is_suspicion(key):
                    ledger.withdraw(key)
                    told.append(Publish(key, None, None, draft.due_ms, late=False, appeared=_appearance(draft)))
                continue
            verdict = finding.verdict
            if ledger.unchanged(key, digest) or (draft.too_old and not ledger.knows(key)):
                continue
            if ledger.ahead(key, verdict.at):
                self._hold(draft)
                continue
            published = ledger.published(key)
            new = revise(published, finding)
            if new is None:
                ledger.note(key, digest)
                continue
            ledger.publish(new, digest)
            before, late = (None, False) if published is None else (published.outcome, published.final)
            told.append(Publish(key, new, before, draft.due_ms, late, _appearance(draft)))
        return told

    def _hold(self, draft: _Draft) -> None:
        """What is published was decided later than this: compare again once that position is reached."""
        assert draft.finding is not None
        if draft.finding.verdict.final:
            self._overtaken.append(draft)
        else:
            self._dirty_accounts.add(draft.finding.verdict.account_sid)

    def _try_again(self, offset: int) -> list[_Draft]:
        drafts, self._overtaken = self._overtaken, []
        for draft in drafts:
            assert draft.finding is not None
            verdict = msgspec.structs.replace(draft.finding.verdict, at=(self.generation, offset))
            draft.finding = msgspec.structs.replace(draft.finding, verdict=verdict)
        return drafts

    def _listen(self) -> None:
        """Somebody else has written a verdict over ours: judge its account again, or end it if it is nobody's."""
        for key in self.ledger.take_heard():
            published = self.ledger.published(key)
            if published is not None:
                self._dirty_accounts.add(published.account_sid)
                self._unsettled.append(key)

    def _end_orphans(self, offset: int, log_time_ms: int) -> list[Told]:
        """What is published, not final, and has no conversation any more, will never be judged again: end it.

        Its evidence was lost; or a former owner wrote it after we had ended it.
        """
        told: list[Told] = []
        at = (self.generation, offset)
        keys, self._unsettled = self._unsettled, []
        for key in keys:
            published = self.ledger.published(key)
            if published is None or published.final:
                continue
            account = self.window.accounts.get(published.account_sid)
            conversation = account.index.get(key) if account is not None else None
            if conversation is not None and (
                key in (conversation.recordings or ()) or key in (conversation.suspects or ())
            ):
                continue
            if self.ledger.ahead(key, at):
                self._unsettled.append(key)
                continue
            verdict = orphaned(published, at, render_instant(log_time_ms))
            self.ledger.publish(verdict, 0)
            told.append(Publish(key, verdict, published.outcome, log_time_ms, late=False))
        return told


def _appearance(draft: _Draft) -> tuple[int, int]:
    return (draft.seen.offset, draft.seen.index)


def _recorded(evidence: Evidence, conference: str) -> bool:
    """Whether any recording says that it is of this conference."""
    return any(fact.conference == conference for sights in evidence.recordings.values() for _, fact in sights)


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
    "allowed": "which {rule} allows",
    "disallowed": "which {rule} does not allow",
    "undetermined": "which {rule} leaves undetermined",
}


def _reason(attribution: Attribution, judgement: Judgement, *, truncated: bool) -> str:
    """One sentence for a person on call, where the rule has none of its own."""
    if attribution.cause is None:
        what = "What started it can't be told"
        if truncated:
            what += ": evidence was lost"
        elif "studio" in attribution.missing:
            what = "The API or a Studio widget started it, and the Studio flow or its steps are not known"
    else:
        what = _CAUSE_WORDS.get(attribution.cause, "Something started it")
    rule = "the policy" if judgement.rule in ("default", "when_open") else f"rule {judgement.rule!r}"
    assert judgement.outcome is not None
    return f"{what}, {_OUTCOME_WORDS[judgement.outcome].format(rule=rule)}."


def _conditions(policy: Policy) -> frozenset[str]:
    return frozenset(name for rule in policy.rules for name in rule.document.when)


def setting_key(event: Event) -> str:
    """The key of an account setting in its topic: account, kind, and flow and revision, instant or worker."""
    setting = event.setting
    kind = event.type.removeprefix(OWN).removesuffix(".observed")
    if isinstance(setting, FlowSetting):
        return f"{event.account}/{kind}/{setting.flow}/{setting.revision}"
    if isinstance(setting, FlexSetting):
        valid_ms = setting.observed_ms if setting.since_ms is None else setting.since_ms
        return f"{event.account}/{kind}/{render_instant(valid_ms)}"
    assert isinstance(setting, WorkerSession)
    return f"{event.account}/{kind}/{setting.worker}"


def render_setting(event: Event) -> bytes:
    """An account setting as the event it came in, for its own topic."""
    setting = event.setting
    data: dict[str, object] = {"account_sid": event.account}
    if isinstance(setting, FlexSetting):
        data |= {"call_recording_enabled": setting.enabled, "since": _instant_or_none(setting.since_ms)}
        data |= {"previous": setting.previous, "observed_at": render_instant(setting.observed_ms)}
    elif isinstance(setting, FlowSetting):
        widgets = [{"name": name, "type": "record-call", "records": True} for name in setting.recording_widgets]
        data |= {"flow_sid": setting.flow, "revision": setting.revision, "widgets": widgets}
    elif isinstance(setting, WorkerSession):
        data |= {"worker_sid": setting.worker, "available_since": _instant_or_none(setting.available_since_ms)}
        data |= {"offline_since": _instant_or_none(setting.offline_since_ms)}
    envelope = {
        "specversion": "1.0",
        "type": event.type,
        "source": "recording-monitor",
        "id": event.id or setting_key(event),
        "time": _instant_or_none(event.occurred_ms),
        "data": data,
    }
    return msgspec.json.encode(envelope)


def _instant_or_none(ms: int | None) -> str | None:
    return None if ms is None else render_instant(ms)
