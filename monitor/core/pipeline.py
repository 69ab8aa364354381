"""The pipeline: one partition's fold from messages to what is told, and the gate that keeps a restart silent.

    message -> log time -> deadlines -> decode -> window -> attribution -> policy -> verdict

A message tells at most one verdict per recording: deadlines at or before its arrival fire first, then all its entries
are folded, then what differs from what is published is told, in order of the recordings' first appearance. Nothing
happens between messages. A partition taken over is *rebuilt*: messages below the commit are folded in silence, those
below the gate too, but what closes there is kept back to be compared. The rules are those of docs/checkpoint.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import OVER
from monitor.core.conversation import KIND, Conversation, digest_of, has_seen
from monitor.core.decode import decode
from monitor.core.emptying import emptied
from monitor.core.events import (
    FOUND_BY_LISTING,
    Entry,
    Event,
    FlexSetting,
    FlowSetting,
    Ignored,
    Malformed,
    RecordingFact,
    WorkerSession,
)
from monitor.core.fast_path import fast_path
from monitor.core.judging import Draft, Judge, Moment, Tuning, Watch
from monitor.core.ledger import Ledger, NotReadBack
from monitor.core.policy import Policy
from monitor.core.readers import OWN
from monitor.core.snapshot import Loading, Saving, Unusable, about
from monitor.core.sweep import LOOKED_AT, Sweep
from monitor.core.values import AGE_BOUNDS_MS, AHEAD_MAX_MS
from monitor.core.verdict import Published, Verdict, orphaned, render_instant, revise
from monitor.core.window import Cut, Window


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a partition goes on (``offset``, C) and from where it is rebuilt (``replay_from``, R, at log time w).

    Messages below ``open_from`` (None: there are none) are only looked at for where calls were; no conversation that is
    open at C rests on them. ``lost`` says that messages below ``replay_from`` which the state rested on are gone, and
    that what this left without evidence has not been ended. ``end`` is the end of the log when it was taken over: what
    has no conversation before that may yet find one.
    """

    offset: int
    generation: int
    replay_from: int
    log_time_ms: int | None
    open_from: int | None = None
    cut: Cut | None = None
    lost: bool = False
    end: int = 0


class _Taken(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot says of itself: of which log, as of before which message, and what the fold ran under.

    ``lost`` is as in the checkpoint: whoever goes on from there has seen that evidence was lost before.
    """

    log: str
    generation: int
    offset: int
    log_time_ms: int
    stamped_before_ms: int | None
    bounds: tuple[int, int, int, int, int]
    lost: bool


class Known(msgspec.Struct, frozen=True, gc=False):
    """What a partition knows of a recording: whether anybody but a listing told of it, and that it is over."""

    told: bool
    over: bool


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


class Stands(msgspec.Struct, frozen=True, gc=False):
    """A verdict that is published and stands, as a finding says it. Told after a takeover that has not read it."""

    key: str
    verdict: Verdict


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


class NotJudged(msgspec.Struct, frozen=True, gc=False):
    """Judging a conversation raised, which is a bug of ours: the error's type, the place it was raised at, whose it is.

    The error's own text may quote numbers and names. What is told of the recordings stands in their verdicts.
    """

    account: str
    recordings: tuple[str, ...]
    error: str
    where: str


Told = Publish | Stands | SetAside | SettingSeen | NotJudged
_NOTHING_KNOWN: Final = Known(told=False, over=False)
_SILENCE: Final[tuple[Told, ...]] = ()
_APPEARANCE: Final = attrgetter("appearance")
_RECORDING: Final = KIND[RecordingFact]
# Conversations to judge by identity, and when what is said of each could first be said.
_Dirty = dict[int, tuple[Conversation, int]]


class _Begun(msgspec.Struct):
    """What fell due with a message: what is to be told of it, what to judge, and the checkpoint before it."""

    told: list[Told] = []
    dirty: _Dirty = {}
    before: Checkpoint | None = None


UNKNOWN_TYPES_MAX: Final = 50


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
    unknown: dict[str, int] = msgspec.field(default_factory=dict)  # Of the ignored, those of types nobody knows.
    malformed: int = 0
    duplicate: int = 0
    late: int = 0
    clamped: int = 0
    closed_by_window: int = 0
    closed_by_cut: int = 0
    truncated: int = 0
    dropped: int = 0
    too_old: int = 0
    not_judged: int = 0
    latest_event_ms: dict[str, int] = msgspec.field(default_factory=dict)
    ages: dict[str, EventAges] = msgspec.field(default_factory=dict)

    @property
    def events_total(self) -> int:
        """How many entries were events, of whatever type."""
        return sum(self.events.values())

    def see_unknown(self, kind: str) -> None:
        """Count an entry of a type that nobody knows; beyond ``UNKNOWN_TYPES_MAX`` names they have none."""
        name = kind if kind in self.unknown or len(self.unknown) < UNKNOWN_TYPES_MAX else ""
        self.unknown[name] = self.unknown.get(name, 0) + 1


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
        sweeps: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.tuning = tuning
        self.settings = settings
        self.skip = skip
        self.generation = checkpoint.generation
        self.committed = checkpoint.offset
        self.log_time_ms = checkpoint.log_time_ms
        self.next_offset = checkpoint.replay_from
        self.counts = Counts()
        self.tallies: dict[str, list[int]] = {}  # Of each type: events by age, the sum of ages, the latest.
        self.window = Window(
            window_ms=tuning.window_ms,
            grace_ms=tuning.grace_ms,
            age_max_ms=tuning.age_max_ms,
            entries_max=tuning.entries_max,
            conferences_max=tuning.conferences_max,
            cut=checkpoint.cut,
        )
        self.fast_path = fast_path(self.window)
        self.ledger = Ledger()
        self.gate: int | None = None
        self._open_from = checkpoint.replay_from if checkpoint.open_from is None else checkpoint.open_from
        self._covered = checkpoint.cut.offset if checkpoint.cut is not None else -1
        self._clamp = clamp
        position = "" if partition is None else f"{partition}:"
        self.judge = Judge(tuning, policy, settings, position=position, watch=watch)
        self.stamped_before_ms: int | None = None
        self._kept_back: list[Draft] = []  # Decided between commit and gate, to be compared once it opens.
        self._begun: _Begun | None = None  # Of the message at hand, if it has been begun and not ended.
        self._failures: list[Told] = []  # To be told with the message at hand.
        self._overtaken: list[Draft] = []  # Final, but somebody has published what was decided later.
        self._all_dirty = False
        self._by_policy = False
        self._dirty_accounts: set[str] = set()
        self._sweep = Sweep() if sweeps else None
        self._says_standing = False  # Whether what is found to be published already is told, until it all was judged.
        self._changed_accounts: set[str] = set()  # To be swept, from the next message on.
        self._end = checkpoint.end
        self._unsettled: list[str] = []  # Published, not final, and perhaps nobody's: see _end_orphans.
        self._inherited: Iterator[str] | None = None  # The same, of what was published before: for ``sweep``.
        self._inherited_next = False  # Whether it is their turn.
        self._raised: Exception | None = None  # By the sweep, once what it has told beside that is out.
        self._bereft: set[str] = set()  # Of these, what has closed with nothing left to conclude it from.
        self._whole = not checkpoint.lost and checkpoint.cut is None
        self._lost = False  # Whether what is published has yet to be looked at for what a loss left without evidence.
        # What is held back is lost with this process: until it is told, the checkpoint stays where it was.
        self._safe: Checkpoint | None = checkpoint

    # ----------------------------------------------------------------- the world's side

    def dismantle(self) -> Iterator[None]:
        """Let go of all it holds, a little with each step; nothing may be asked of it any more."""
        self._raised = None  # It holds, by its traceback, what holds it.
        return emptied(self.window.bulk())

    def prime(self, timestamp_ms: int) -> None:
        """Say how the message before the first one fed was stamped; the clamp of log time looks at it."""
        self.stamped_before_ms = timestamp_ms

    def open(self, ledger: Ledger) -> int:
        """Say what is published, at the end of a rebuild; the offset from which on verdicts are told.

        What the rebuild left different is told with the next message at or after that offset.
        """
        self.ledger = ledger
        greatest = ledger.greatest_offset(self.generation)
        self.gate = self.committed if greatest is None else max(self.committed, greatest + 1)
        self._all_dirty = True
        ledger.take_heard()
        ledger.owned = True
        if self._sweep is None or not self._whole:  # Whoever takes over from here does not know what was lost before.
            self._unsettled = list(ledger.open_keys())
            self._lost = not self._whole and bool(self._unsettled)
        elif len(ledger):
            self._inherited = ledger.open_keys()
        self._says_standing = ledger.restored and self._sweep is not None
        return self.gate

    def change_policy(self, policy: Policy) -> None:
        """Judge by another policy from the next message on; whatever is open is judged again with it."""
        self.judge = self.judge.under(policy)
        self._all_dirty = self._by_policy = True

    def change_settings(self, account: str) -> None:
        """Judge an account's open recordings again with the next message: something is known of it that was not."""
        (self._dirty_accounts if self._sweep is None else self._changed_accounts).add(account)

    @property
    def sweeping(self) -> bool:
        """Whether ``sweep`` has anything to do: not what the next message has to bring first."""
        waits = self._all_dirty or self._changed_accounts
        return self._raised is not None or (not waits and (bool(self._sweep) or self._ends_inherited))

    @property
    def _ends_inherited(self) -> bool:
        return self._inherited is not None and self.next_offset >= self._end

    def sweep(self, most: int) -> Sequence[Told]:
        """Judge again, of what concerns everything that is open, at most so many conversations; what is to be told.

        It counts as decided with the last message that was fed: call it until ``sweeping`` is over, between messages.
        What was published before has every other turn: where changes follow each other, the rest may never be over.

        Where the core is wrong about one of them, it raises once what there was to tell of the others has been given.
        Where a verdict can not be read back, at once: whoever has no broker drops this, and each would wait as long.
        """
        if self._raised is not None:
            raised, self._raised = self._raised, None
            try:
                raise raised
            finally:
                del raised  # Its traceback holds this frame, and with it the state.
        if self._sweep is None or not self.sweeping or self.log_time_ms is None:
            return _SILENCE
        self._inherited_next = self._ends_inherited and (not self._inherited_next or not self._sweep)
        if self._inherited_next:
            return self._end_inherited(most, self.next_offset - 1, self.log_time_ms)
        taken = self._sweep.take(self.window.accounts, most)
        dirty = {id(conversation): (conversation, self.log_time_ms) for conversation in taken}
        told: list[Told] = []
        for draft in sorted(self._judge_dirty(dirty, self.next_offset - 1, self.log_time_ms), key=_APPEARANCE):
            try:
                told += self._publish([draft])
            except NotReadBack:
                raise
            except Exception as error:  # The ledger takes each for told as it comes: none must be lost for another.
                self._raised = self._raised or error
        self._says_standing = self._says_standing and bool(self._sweep)
        return told + self._take_failures() if self._failures else told

    def _end_inherited(self, most: int, offset: int, log_time_ms: int) -> list[Told]:
        """End one of the verdicts that were there before and nobody will ever judge again, if it is among the next few.

        To look at all of them at once takes two seconds of half a million, and each is read back. And only one: where
        that raises, nothing is lost of what was to be told.
        """
        assert self._inherited is not None
        for _ in range(most * LOOKED_AT):
            key = next(self._inherited, None)
            if key is None:
                self._inherited = None
                break
            told = self._end_orphans([key], offset, log_time_ms)
            if told:
                return told
        return []

    def known(self, account: str, recordings: Iterable[str]) -> dict[str, Known]:
        """What is known of these recordings of an account; of one that is left out, nothing.

        Of one whose conversation has closed no more than that a verdict is published, which is taken for all there is.
        """
        found = self.window.accounts.get(account)
        known: dict[str, Known] = {}
        open_: dict[int, Conversation] = {}
        for recording in recordings:
            conversation = None if found is None else found.index.get(recording)
            if conversation is not None:
                open_[id(conversation)] = conversation
            elif self.ledger.knows(recording):
                known[recording] = Known(told=True, over=True)
        for conversation in open_.values():
            for kept in conversation.read_evidence():
                for fact in kept.facts:
                    if isinstance(fact, RecordingFact):
                        before = known.get(fact.recording, _NOTHING_KNOWN)
                        known[fact.recording] = Known(
                            told=before.told or fact.found_by != FOUND_BY_LISTING,
                            over=before.over or fact.status in OVER,
                        )
        return known

    def holds(self, account: str, event_ids: Mapping[str, str]) -> set[str]:
        """Which of these events have come: by id, the member of an open conversation that each would be found in."""
        found = self.window.accounts.get(account)
        if found is None:
            return set()
        return {
            event_id
            for event_id, member in event_ids.items()
            if (conversation := found.index.get(member)) is not None and conversation.has_had(digest_of(event_id))
        }

    def company(self, account: str, member: str) -> list[str]:
        """What is in the same open conversation as a recording, call or conference, itself included."""
        found = self.window.accounts.get(account)
        conversation = None if found is None else found.index.get(member)
        return [] if conversation is None else list(conversation.members)

    def take_counts(self) -> Counts:
        """What was counted since the last time."""
        counts, self.counts = self.counts, Counts()
        counts.truncated, self.window.truncated_total = self.window.truncated_total, 0
        counts.dropped, self.window.dropped_total = self.window.dropped_total, 0
        tallies, self.tallies = self.tallies, {}
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
        open_from, log_time_ms = self.window.rebuild_from() or (offset, self.log_time_ms)
        replay_from = open_from
        looked = None if log_time_ms is None else self.window.nailed.look_back_from(log_time_ms)
        if looked is not None and looked[0] < open_from:
            replay_from, log_time_ms = looked
        return Checkpoint(
            offset=offset,
            generation=self.generation,
            replay_from=replay_from,
            log_time_ms=log_time_ms,
            open_from=open_from if replay_from < open_from else None,
            cut=self.window.cut,
            lost=self._lost,
        )

    # ----------------------------------------------------------------- snapshots

    def save(self, log: str) -> Saving | None:
        """Begin a snapshot of the state after the last message fed; ``log`` tells this partition's log from any other.

        None while that state is not the whole of it: before the gate, or while something is held back.
        """
        if self.gate is None or self.next_offset < self.gate or self._safe is not None or self.log_time_ms is None:
            return None
        taken = _Taken(
            log=log,
            generation=self.generation,
            offset=self.next_offset,
            log_time_ms=self.log_time_ms,
            stamped_before_ms=self.stamped_before_ms,
            bounds=self._bounds(),
            lost=self._lost,
        )
        return Saving(self.window, msgspec.msgpack.encode(taken), self.next_offset)

    def load(self, header: bytes, log: str, checkpoint: Checkpoint) -> Loading:
        """Begin with a snapshot instead of at R, before anything is fed; ``header`` is its first chunk.

        When the chunks that follow have been fed to what is returned, ``next_offset`` is the first message to fold.
        Raises Unusable for a snapshot of another log, of other bounds, or that saves nothing.
        """
        said, cut = about(header)
        try:
            taken = msgspec.msgpack.decode(said, type=_Taken)
        except msgspec.DecodeError:
            raise Unusable("its header says nothing") from None
        if taken.log != log or taken.generation != checkpoint.generation:
            raise Unusable("it is of another log")
        if taken.bounds != self._bounds():
            raise Unusable("the window's settings were others")
        if not checkpoint.replay_from < taken.offset <= checkpoint.offset:
            raise Unusable("the checkpoint is too far from it")
        if (checkpoint.lost and not taken.lost) or (checkpoint.cut is not None and checkpoint.cut != cut):
            raise Unusable("evidence was lost since")
        self.window.cut = cut
        self.log_time_ms, self.stamped_before_ms = taken.log_time_ms, taken.stamped_before_ms
        self.next_offset = self._open_from = taken.offset  # It holds what was known of calls by then.
        return Loading(self.window, taken.log_time_ms, taken.offset)

    def _bounds(self) -> tuple[int, int, int, int, int]:
        tuning = self.tuning
        return tuning.window_ms, tuning.grace_ms, tuning.age_max_ms, tuning.entries_max, tuning.conferences_max

    # ----------------------------------------------------------------- one message

    def feed(
        self,
        offset: int,
        timestamp_ms: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> Sequence[Told]:
        """Fold one message; what is to be told, in order. Raises only where the core itself is wrong."""
        if self.fast_path is not None:
            told = self.fast_path.feed(self, offset, timestamp_ms, value, headers)
            if told is not None:
                return told
        log_time_ms = self._arrive(timestamp_ms)
        self.next_offset = offset + 1
        if offset <= self._covered or offset in self.skip:
            return _SILENCE
        entries = decode(value, headers)
        if offset < self._open_from:
            return self._look_back(offset, log_time_ms, entries)
        if self.gate is not None and offset >= self.gate:
            return self._tell(offset, log_time_ms, entries)
        return self._rebuild(offset, log_time_ms, entries)

    # ----------------------------------------------------------------- what the fast path asks

    def begin(self, offset: int, log_time_ms: int, *, telling: bool) -> None:
        """Do what falls due with a message before it is folded, whichever way it goes then."""
        if telling:
            self._begun = _Begun()
            self._fall_due(self._begun, offset, log_time_ms)
        else:
            self._fall_due_silently(offset, log_time_ms)

    def tell_of(
        self, conversation: Conversation | None, offset: int, log_time_ms: int, *, aged: bool
    ) -> Sequence[Told]:
        """What is to be told after a message that may have changed what follows from ``conversation``."""
        begun, self._begun = self._begun or _Begun(), None
        dirty = begun.dirty
        if conversation is not None:
            dirty.setdefault(id(conversation), (conversation, log_time_ms))
        for renewed in self.window.renewed:
            if renewed.open and (renewed.recordings or renewed.suspects):
                dirty.setdefault(id(renewed), (renewed, log_time_ms))
        return self._tell_after(begun.told, dirty, begun.before, offset, log_time_ms, aged=aged)

    def is_late(self, recording: str, started_ms: int | None, log_time_ms: int) -> bool:
        """Whether a recording is settled, or too old to be judged for the first time (None: it never is)."""
        if self.ledger.is_final(recording):
            return True
        too_old_ms = self.tuning.recordings_too_old_ms
        if too_old_ms is None or started_ms is None or self.ledger.knows(recording):
            return False
        too_old = log_time_ms - started_ms > too_old_ms
        self.counts.too_old += too_old
        return too_old

    def rebuilt_too_old(self, offset: int, log_time_ms: int) -> Sequence[Told]:
        """A message of a rebuild has found a conversation older than may be."""
        drafts = self._cut(offset, log_time_ms)
        if offset >= self.committed:
            self._kept_back += drafts
        return self._take_failures()

    # ----------------------------------------------------------------- the ordinary way

    def _look_back(self, offset: int, log_time_ms: int, entries: list[Entry]) -> Sequence[Told]:
        """Look at a message that nothing open rests on, for where calls were before."""
        self.counts.replayed += 1
        self.window.drop_cut_when_over(log_time_ms)
        for entry in entries:
            if isinstance(entry, Event):
                if entry.setting is not None:
                    self._observe(entry, None)
                self.window.look_back(entry, offset, log_time_ms)
        return _SILENCE

    def _rebuild(self, offset: int, log_time_ms: int, entries: list[Entry]) -> Sequence[Told]:
        """Fold a message whose verdicts were told before; from the commit on, keep back what closes to be compared."""
        self.counts.replayed += 1
        safe = offset < self.committed  # All effects of the message are known to have arrived.
        told: list[Told] = []
        if log_time_ms >= self.window.due_ms:
            self._fall_due_silently(offset, log_time_ms)
        self.window.drop_cut_when_over(log_time_ms)
        aged = False
        for index, entry in enumerate(entries):
            if isinstance(entry, Event):
                folded = self.window.fold(entry, offset, index, log_time_ms).conversation
                if folded is not None:
                    aged = aged or self._is_aged(folded, log_time_ms)
                elif entry.setting is not None:
                    self._observe(entry, None if safe else told)
            elif isinstance(entry, Malformed) and not safe:
                told.append(SetAside(entry.reason, entry.detail, entry.data, index))
        if aged:
            return [*told, *self.rebuilt_too_old(offset, log_time_ms)]
        return told + self._take_failures()  # No verdicts, but what else its entries tell.

    def _tell(self, offset: int, log_time_ms: int, entries: list[Entry]) -> Sequence[Told]:
        """Fold a message and tell what differs from what is published after it."""
        window, counts = self.window, self.counts
        counts.messages += 1
        begun, self._begun = self._begun or _Begun(), None
        told, dirty = begun.told, begun.dirty
        if self._kept_back or self._overtaken or self.ledger.heard:
            told += self._publish(self._left_over(offset))
        if log_time_ms >= window.due_ms:
            self._fall_due(begun, offset, log_time_ms)
        if window.cut is not None:
            window.drop_cut_when_over(log_time_ms)
        aged = False
        too_old_ms = log_time_ms - self.tuning.age_max_ms
        counts.entries += len(entries)
        for index, entry in enumerate(entries):
            if not isinstance(entry, Event):
                if isinstance(entry, Ignored):
                    counts.ignored += 1
                    if not entry.known:
                        counts.see_unknown(entry.type)
                else:
                    counts.malformed += 1
                    told.append(SetAside(entry.reason, entry.detail, entry.data, index))
                continue
            touched = window.fold(entry, offset, index, log_time_ms)
            conversation = touched.conversation
            kinds = touched.kinds
            duplicate = touched.duplicate
            if conversation is not None:
                if kinds & conversation.relevant and (conversation.recordings or conversation.suspects):
                    dirty.setdefault(id(conversation), (conversation, log_time_ms))
                if conversation.birth.arrived_ms < too_old_ms:
                    aged = True
            elif entry.setting is not None:
                duplicate = self._observe(entry, told)
            for renewed in touched.renewed:
                if renewed.recordings or renewed.suspects:
                    dirty.setdefault(id(renewed), (renewed, log_time_ms))
            if duplicate:
                counts.duplicate += 1
            elif kinds & _RECORDING and self._is_late(entry, log_time_ms):
                counts.late += 1
            else:
                occurred_ms = log_time_ms if entry.occurred_ms is None else entry.occurred_ms
                self.tally(entry.type, occurred_ms, log_time_ms)
        return self._tell_after(told, dirty, begun.before, offset, log_time_ms, aged=aged)

    def _fall_due(self, begun: _Begun, offset: int, log_time_ms: int) -> None:
        """Close what falls due with a message, and judge it."""
        window = self.window
        begun.before = self._checkpoint_at(offset)
        closed = list(window.advance(log_time_ms))
        self.counts.closed_by_window += len(closed)
        for waited, _, due_ms in window.graces_ended(log_time_ms):
            if waited.waiting:
                begun.dirty.setdefault(id(waited), (waited, due_ms))
        begun.told += self._publish(self._conclude(closed, offset, log_time_ms))

    def _fall_due_silently(self, offset: int, log_time_ms: int) -> None:
        """The same in a rebuild: what is still open is judged when the gate opens."""
        closed = list(self.window.advance(log_time_ms))
        for _ in self.window.graces_ended(log_time_ms):
            pass
        if offset >= self.committed:
            self._kept_back += self._conclude(closed, offset, log_time_ms)

    def _tell_after(
        self, told: list[Told], dirty: _Dirty, before: Checkpoint | None, offset: int, log_time_ms: int, *, aged: bool
    ) -> Sequence[Told]:
        """What is to be told once all entries of a message are folded; ``before`` is the checkpoint it began with."""
        if aged:
            before = before or self._checkpoint_at(offset)
            told += self._publish(self._cut(offset, log_time_ms))
        else:
            if self._sweep is not None and (self._all_dirty or self._changed_accounts):
                self._begin_sweep(self._sweep, offset)
            if self._all_dirty or self._dirty_accounts:
                self._mark_dirty(dirty, log_time_ms)
        if dirty and not aged:
            told += self._publish(self._judge_dirty(dirty, offset, log_time_ms))
        if self._unsettled and self.next_offset >= self._end:
            keys, self._unsettled = self._unsettled, []
            told += self._end_orphans(keys, offset, log_time_ms)
            self._lost = self._lost and bool(self._unsettled)
        if log_time_ms >= self.ledger.next_end_ms:
            told += [Publish(key, None, None, log_time_ms, late=False) for key in self.ledger.ended(log_time_ms)]
        if self._overtaken or self._safe is not None:
            self._safe = None if not self._overtaken else self._safe or before
        return told + self._take_failures() if self._failures else told

    def _left_over(self, offset: int) -> list[Draft]:
        """What was kept back until now, and what somebody else's writes make necessary."""
        if self.ledger.heard:
            self._listen()
        drafts, self._kept_back = self._kept_back, []
        return drafts + self._try_again(offset)

    def finish(self, log_time_ms: int | None = None) -> Sequence[Told]:
        """The end of a file: one more message, at the last deadline, after which nothing is open."""
        if log_time_ms is None:
            log_time_ms = self.window.last_deadline_ms()
        if log_time_ms is None:
            return _SILENCE
        self.log_time_ms = max(log_time_ms, self.log_time_ms or log_time_ms)
        closed = list(self.window.advance(self.log_time_ms))
        told = self._publish(self._conclude(closed, self.next_offset - 1, self.log_time_ms))
        return told + self._take_failures()

    def _arrive(self, timestamp_ms: int) -> int:
        """Log time: the timestamp made monotonic; one far ahead counts only if its neighbour agrees."""
        before_ms = self.stamped_before_ms
        self.stamped_before_ms = timestamp_ms
        now_ms = self.log_time_ms
        if now_ms is None:
            self.log_time_ms = now_ms = max(0, timestamp_ms)  # -1 says that it was not stamped at all.
            return now_ms
        if timestamp_ms <= now_ms:
            return now_ms
        ahead = timestamp_ms - now_ms > AHEAD_MAX_MS
        if ahead and self._clamp and (before_ms is None or before_ms < timestamp_ms - AHEAD_MAX_MS):
            self.counts.clamped += 1
            return now_ms
        self.log_time_ms = timestamp_ms
        return timestamp_ms

    def _is_aged(self, conversation: Conversation, log_time_ms: int) -> bool:
        """Whether a conversation is older than may be."""
        return log_time_ms - conversation.birth.arrived_ms > self.tuning.age_max_ms

    def tally(self, kind: str, occurred_ms: int, log_time_ms: int) -> None:
        """Count an event of a type by its age when it arrived."""
        tally = self.tallies.get(kind)
        if tally is None:
            tally = self.tallies[kind] = [0] * (len(AGE_BOUNDS_MS) + 3)
        age_ms = log_time_ms - occurred_ms
        if age_ms <= AGE_BOUNDS_MS[0]:
            tally[0] += 1
            if age_ms > 0:
                tally[-2] += age_ms
        else:
            tally[bisect_left(AGE_BOUNDS_MS, age_ms)] += 1
            tally[-2] += age_ms
        if occurred_ms > tally[-1]:
            tally[-1] = occurred_ms

    def _is_late(self, event: Event, log_time_ms: int) -> bool:
        """Whether the event names a recording that is settled, or too old to be judged for the first time."""
        for fact in event.facts:
            if isinstance(fact, RecordingFact):
                started_ms = fact.started_ms if fact.started_ms is not None else event.occurred_ms
                if self.is_late(fact.recording, None if fact.however_old else started_ms, log_time_ms):
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
        if self.settings.observe(setting):
            self.change_settings(event.account)
        return self.settings.repeats(event.account, event.id)

    def _cut(self, offset: int, log_time_ms: int) -> list[Draft]:
        """Close every open conversation of the partition, judged as lacking evidence: one has become too old."""
        conversations = self.window.close_all()
        self.counts.closed_by_cut += len(conversations)
        self.window.cut = Cut(offset, log_time_ms + self.tuning.window_ms)
        for conversation in conversations:
            conversation.truncated = True
        return self._conclude(conversations, offset, log_time_ms)

    # ----------------------------------------------------------------- judging

    def _mark_dirty(self, dirty: _Dirty, log_time_ms: int) -> None:
        for conversation in self.window.conversations(None if self._all_dirty else self._dirty_accounts):
            if conversation.recordings or conversation.suspects:
                dirty.setdefault(id(conversation), (conversation, log_time_ms))
        self._all_dirty = False
        self._dirty_accounts.clear()

    def _begin_sweep(self, sweep: Sweep, offset: int) -> None:
        accounts = self.window.accounts if self._all_dirty else self._changed_accounts
        sweep.begin(accounts, offset, by_policy=self._by_policy)
        self._all_dirty = self._by_policy = False
        self._changed_accounts.clear()

    def _judge_dirty(self, dirty: _Dirty, offset: int, log_time_ms: int) -> list[Draft]:
        at = self.generation, offset
        moment, by_policy = Moment(at, log_time_ms, self._by_policy), Moment(at, log_time_ms, by_policy=True)
        self._by_policy = False
        sweep = self._sweep
        drafts: list[Draft] = []
        for conversation, due_ms in dirty.values():
            if conversation.open:
                swept = sweep is not None and sweep.judge(conversation)
                drafts += self._judge(conversation, by_policy if swept else moment, due_ms, closed=False)
        return drafts

    def _judge(self, conversation: Conversation, moment: Moment, due_ms: int, *, closed: bool) -> list[Draft]:
        """What there is to say of a conversation. A fence: where judging it raises, it alone is not judged.

        It need not be the message at hand that is at fault: judged is also what a deadline, another policy or another
        setting concerns, and to leave out one message after the other would help nobody. It is tried again whenever
        the conversation is to be judged, so that how it ends follows from what it holds and from nothing before.
        """
        try:
            return self.judge.findings(conversation, moment, due_ms, self.ledger, closed=closed)
        except Exception as error:
            self.counts.not_judged += 1
            recordings = tuple([seen.sid for seen in conversation.recordings])
            self._failures.append(NotJudged(conversation.account, recordings, type(error).__name__, _place(error)))
            return self.judge.failed(conversation, moment, due_ms, closed=closed)

    def _take_failures(self) -> list[Told]:
        failures, self._failures = self._failures, []
        return failures

    def _conclude(self, conversations: Iterable[Conversation], offset: int, log_time_ms: int) -> list[Draft]:
        """Judge conversations that have closed for the last time: nothing more of them is awaited."""
        moment = Moment((self.generation, offset), log_time_ms)
        drafts: list[Draft] = []
        for conversation in conversations:
            if conversation.recordings or conversation.suspects:
                due_ms = min(conversation.last_ms + self.tuning.window_ms, log_time_ms)
                conversation.unpack()  # Once: to be judged, what is packed is read twice.
                found = self._judge(conversation, moment, due_ms, closed=True)
                concluded = {draft.key for draft in found}
                # Nothing is left to conclude the others from: what is published of them ends as it would after a loss.
                bereft = {seen.sid for seen in (*conversation.recordings, *conversation.suspects)} - concluded
                self._unsettled += sorted(bereft)
                if conversation.truncated:
                    self._bereft |= bereft
                drafts += found
        return drafts

    # ----------------------------------------------------------------- telling

    def _publish(self, drafts: Iterable[Draft]) -> list[Told]:
        """Tell what differs from what is published, in order of first appearance."""
        told: list[Told] = []
        ledger = self.ledger
        for draft in sorted(drafts, key=_APPEARANCE):
            key, finding, digest = draft.key, draft.finding, draft.digest
            if finding is None:
                if ledger.is_suspicion(key):
                    ledger.withdraw(key)
                    told.append(Publish(key, None, None, draft.due_ms, late=False, appeared=draft.appearance))
                continue
            verdict = finding.verdict
            published: Published | None = None
            if not ledger.knows(key):
                if draft.too_old:
                    continue
            elif ledger.unchanged(key, digest):
                continue
            elif ledger.ahead(key, verdict.at):
                self._hold(draft)
                continue
            else:
                published = ledger.last(key)
            new = revise(published, finding, ledger.published)
            if new is None:
                ledger.note(key, digest)
                if self._says_standing and not verdict.final:
                    told.append(Stands(key, verdict))
                continue
            ledger.publish(new, digest, published)
            before, late = (None, False) if published is None else (published.outcome, published.final)
            told.append(Publish(key, new, before, draft.due_ms, late, draft.appearance))
        return told

    def _hold(self, draft: Draft) -> None:
        """What is published was decided later than this: compare again once that position is reached."""
        assert draft.finding is not None
        if draft.finding.verdict.final:
            self._overtaken.append(draft)
        else:
            self._dirty_accounts.add(draft.finding.verdict.account_sid)

    def _try_again(self, offset: int) -> list[Draft]:
        drafts, self._overtaken = self._overtaken, []
        for draft in drafts:
            assert draft.finding is not None
            verdict = msgspec.structs.replace(draft.finding.verdict, at=(self.generation, offset))
            draft.finding = msgspec.structs.replace(draft.finding, verdict=verdict)
        return drafts

    def _listen(self) -> None:
        """Somebody else has written a verdict over ours: judge its account again, or end it if it is nobody's.

        Of what has no open conversation nothing can be judged: a rejudgement of a day does not stop the judging.
        """
        for account, key in self.ledger.take_heard():
            found = self.window.accounts.get(account)
            if found is not None and key in found.index:
                self._dirty_accounts.add(account)
            self._unsettled.append(key)

    def _end_orphans(self, keys: Iterable[str], offset: int, log_time_ms: int) -> list[Told]:
        """What is published, not final, and has no conversation any more, will never be judged again: end it.

        Its evidence was lost; or a former owner wrote it after we had ended it. Where nothing was lost, a suspicion can
        only be such a late word: one that stood when its conversation closed would be final. It is withdrawn.
        """
        told: list[Told] = []
        at = (self.generation, offset)
        for key in keys:
            bereft = key in self._bereft
            self._bereft.discard(key)
            account_sid = self.ledger.account_if_open(key)
            if account_sid is None:
                continue
            account = self.window.accounts.get(account_sid)
            conversation = account.index.get(key) if account is not None else None
            if conversation is not None and (
                has_seen(conversation.recordings, key) or has_seen(conversation.suspects, key)
            ):
                continue
            if self.ledger.ahead(key, at):
                self._unsettled.append(key)
                if bereft:
                    self._bereft.add(key)
                continue
            if self._whole and self.window.cut is None and not bereft and self.ledger.is_suspicion(key):
                self.ledger.withdraw(key)
                told.append(Publish(key, None, None, log_time_ms, late=False))
                continue
            published = self.ledger.published(key)
            assert published is not None
            verdict = orphaned(published, at, render_instant(log_time_ms))
            self.ledger.publish(verdict, 0)
            told.append(Publish(key, verdict, published.outcome, log_time_ms, late=False))
        return told


def _place(error: Exception) -> str:
    """Where an error was raised: file and line."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


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


__all__ = [
    "AGE_BOUNDS_MS",
    "Checkpoint",
    "Counts",
    "Cut",
    "EventAges",
    "Known",
    "NotJudged",
    "Pipeline",
    "Publish",
    "SetAside",
    "SettingSeen",
    "Stands",
    "Told",
    "Tuning",
    "render_setting",
    "setting_key",
]
