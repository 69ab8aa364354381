"""Makes the report: a pure fold over what the topics hold, in whatever order their partitions bring it.

Of each recording it keeps some 200 bytes (what decides which of its verdicts holds, and in which group it counts); in
full only those that are not allowed, of these at most twice ``LISTED_MAX``.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest, nsmallest
from typing import Final, NamedTuple

import msgspec

from monitor.core.policy import ALLOWED, DISALLOWED, OBSERVE, SHADOW, UNDETERMINED, Policy
from monitor.core.verdict import Verdict, read_instant, render_instant
from monitor.outputs.cases import ACCEPTED, ACKNOWLEDGE, CATEGORIES, CLOSE, EXPLAIN, REOPEN, TOLD, CaseAction, is_case
from monitor.outputs.report import (
    CLEARED,
    LISTED_MAX,
    NOT_KNOWN,
    SILENCES_MAX,
    STATES,
    SUSPECTED,
    AcceptedCase,
    AccountAsked,
    BlindInterval,
    Counted,
    Coverage,
    Exceptions,
    Handling,
    Judged,
    Lack,
    Limit,
    Listed,
    MissingType,
    Origin,
    PolicyUsed,
    Proof,
    Report,
    ReportedCase,
    RuleUsed,
    SetAside,
    Silence,
    Spread,
    Tally,
    Timing,
    TopicRead,
    Totals,
    Unseen,
)

SILENT_MS: Final = 60_000
"""Nothing proved the way through a partition for longer than this: six ticks."""
ALLOWED_KEPT_MS: Final = 7 * 86_400_000
"""An allowed verdict is taken back so long after its conversation has closed (core/verdict.py)."""
PEOPLE_MAX: Final = 20


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What is known beside the messages. ``policies`` are those whose files were at hand, ``needed`` the types that are
    to come (name, whether verdicts are wrong without it, what is not seen then). ``counted`` and ``listed`` are by SID
    of the account; ``verdicts_kept_ms`` is how long a verdict that does not allow is kept.
    """

    made_ms: int
    aliases: Mapping[str, str]
    policies: Sequence[Policy] = ()
    needed: Sequence[tuple[str, bool, str]] = ()
    topics: Sequence[TopicRead] = ()
    events_topic: str = ""
    quarantine_topic: str = ""
    judged: Sequence[Judged] = ()
    blind_intervals: Sequence[BlindInterval] = ()
    counted: Mapping[str, Counted] = {}
    listed: Mapping[str, Listed] | None = None
    verdicts_kept_ms: int = 400 * 86_400_000


class _Group(NamedTuple):
    """What recordings are counted by."""

    state: str
    account_sid: str
    cause: str | None
    start_source: str | None
    rule: str
    mode: str
    policy: str
    found_by: str | None
    final: bool
    missing: tuple[str, ...]


class _Entry(NamedTuple):
    """What is kept of a recording: which verdict holds, its group, and instants in ms; -1 where not known."""

    generation: int
    offset: int
    final: bool
    group: int
    started_ms: int
    unseen_ms: int
    since_ms: int  # Since when it is disallowed.


_ENTRY: Final = struct.Struct("<Iq?Iqqq")
_OF_WIDGET: Final = re.compile(r"Studio execution (FN[0-9a-f]{32}) (?:left|entered) recording widget (.+)").fullmatch
_OF_STARTER: Final = re.compile(r"Its callback address is that of starter '(.+)'").fullmatch
_IS_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_pack: Final = msgspec.msgpack.Encoder().encode
_read_case: Final = msgspec.msgpack.Decoder(ReportedCase).decode
_Place = tuple[int, str, str]


class ReportFold:
    """Takes in what the topics hold, then makes the report. ``accounts`` are SIDs; None: all.

    Verdicts are to come before case actions and events: only of what was not allowed are those kept.
    """

    def __init__(self, since_ms: int, until_ms: int, accounts: frozenset[str] | None, *, names: bool = False) -> None:
        self._since_ms, self._until_ms = since_ms, until_ms
        self._since, self._until = render_instant(since_ms), render_instant(until_ms)
        self._accounts = accounts
        self._names = names
        self._entries: dict[str, bytes] = {}
        self._cases: dict[str, tuple[_Place, bytes]] = {}
        self._groups: dict[_Group, int] = {}
        self._newest_ms = 0  # When the last message was written into the verdict topic.
        self._first_ms: int | None = None  # When the earliest verdict was decided.
        self._told: dict[tuple[str, str | None], str] = {}
        self._actions: dict[str, dict[str, CaseAction]] = {}  # Of each case: by the key of the message.
        self._aside: dict[str, list[int]] = {}  # Of each reason: how many, first and last.
        self._events_read = False
        self._types: set[str] = set()
        self._flows: dict[str, str] = {}
        self._ticks: dict[int, int] = {}
        self._silences: list[tuple[int, int, int]] = []  # Partition, from, to.
        self._newest_event_ms = 0

    # What is told.

    def take_verdict(self, key: str, verdict: Verdict | None, seen_ms: int) -> None:
        """A message of the verdict topic; None is a tombstone. The greatest holds, of equals the later."""
        self._newest_ms = max(self._newest_ms, seen_ms)
        if verdict is None:
            self._drop(key)
            return
        packed = self._entries.get(key)
        if packed is not None and _ENTRY.unpack(packed)[:3] > (*verdict.at, verdict.final):
            return
        try:
            first_ms = read_instant(verdict.history[0].decided_at if verdict.history else verdict.decided_at)
            entry = _ENTRY.pack(*self._entry(verdict)) if self._is_asked_for(verdict) else None
            case = _case(verdict) if entry is not None and is_case(verdict) else None
            packed_case = None if case is None else (_place(case), _pack(case))
        except (ValueError, OverflowError, struct.error):
            return  # Anybody may write into a topic: this is no verdict of ours.
        self._first_ms = first_ms if self._first_ms is None else min(first_ms, self._first_ms)
        self._drop(key)
        if entry is not None:
            self._entries[key] = entry
        if packed_case is not None:
            self._cases[key] = packed_case
            if len(self._cases) > 2 * LISTED_MAX:
                self._cases = dict(_first(self._cases))

    def take_action(self, key: str, action: CaseAction | None) -> None:
        """A message of the topic of case actions, under its key; None is a tombstone."""
        sid = key.partition("/")[0]
        if action is None:
            self._actions.get(sid, {}).pop(key, None)
        elif action.kind != TOLD:
            if sid in self._cases:
                self._actions.setdefault(sid, {})[key] = action
        elif sid in self._entries:
            for of in ((sid, action.since), (sid, None)):
                self._told[of] = min(action.at, self._told.get(of, action.at))

    def take_aside(self, reason: str, at_ms: int) -> None:
        """An entry that was set aside."""
        if self._since_ms <= at_ms < self._until_ms:
            one = self._aside.setdefault(reason, [0, at_ms, at_ms])
            one[0] += 1
            one[1], one[2] = min(one[1], at_ms), max(one[2], at_ms)

    def watch_events(self, partitions: Iterable[int], from_ms: int) -> None:
        """The events topic is about to be read: from then on it holds all."""
        self._events_read = True
        self._ticks = dict.fromkeys(partitions, max(from_ms, self._since_ms))

    @property
    def executions(self) -> frozenset[str]:
        """The Studio executions of which the report would like to know the flow."""
        found = (_read_case(packed).execution_sid for _, packed in self._cases.values())
        return frozenset(sid for sid in found if sid is not None)

    def take_type(self, name: str) -> None:
        """An entry of some type came in the stretch."""
        self._types.add(name)

    def take_flow(self, execution_sid: str, flow_sid: str) -> None:
        """An execution is one of this flow."""
        self._flows[execution_sid] = flow_sid

    def take_arrival(self, partition: int, at_ms: int, *, tick: bool) -> None:
        """A message of the events topic, in order within a partition."""
        self._newest_event_ms = max(self._newest_event_ms, at_ms)
        if tick:
            self._silent(partition, at_ms)
            self._ticks[partition] = max(at_ms, self._ticks.get(partition, at_ms))

    # What comes of it.

    def report(self, given: Given) -> Report:
        """The report; nothing is to be told after it."""
        for partition in self._ticks:
            self._silent(partition, min(self._until_ms, max(self._newest_event_ms, self._since_ms)))
        groups = list(self._groups)
        counts: Counter[_Group] = Counter()
        for number, count in Counter(entry.group for entry in self._all()).items():
            counts[groups[number]] = count
        cases = [self._finish(key, packed, given.aliases) for key, (_, packed) in _first(self._cases)]
        totals, unseen = self._totals(groups, counts), self._unseen(counts, given)
        left_out = sum(count for group, count in counts.items() if group.state != ALLOWED) - len(cases)
        accounts = self._accounts if self._accounts is not None else {*given.aliases, *(g.account_sid for g in counts)}
        coverage = tuple(_coverage(sid, counts, given) for sid in sorted(accounts))
        limits = _Limits(
            given,
            counts,
            since=self._since,
            until_ms=self._until_ms,
            newest_ms=self._newest_ms,
            first_ms=self._first_ms,
            events_read=self._events_read,
        )
        return Report(
            made_at=render_instant(given.made_ms),
            since=self._since,
            until=self._until,
            accounts=tuple(AccountAsked(given.aliases.get(sid, sid), sid) for sid in sorted(accounts)),
            all_accounts=self._accounts is None,
            limits=tuple(limits.all(totals, unseen, coverage, left_out)),
            policies=tuple(_policies(self._all(), groups, given.policies)),
            totals=totals,
            by_cause=_tallies(counts, lambda group: group.cause or NOT_KNOWN),
            by_account=_tallies(counts, lambda group: given.aliases.get(group.account_sid, group.account_sid)),
            by_start_source=_tallies(counts, lambda group: group.start_source or NOT_KNOWN),
            by_rule=_tallies(counts, lambda group: group.rule),
            by_origin=_origins(cases),
            cases=tuple(cases),
            cases_left_out=left_out,
            timing=self._timing(groups),
            coverage=coverage,
            unseen=unseen,
            exceptions=Exceptions(tuple(_rules_used(counts, given.policies)), tuple(self._accepted(cases))),
            topics=tuple(given.topics),
        )

    def _is_asked_for(self, verdict: Verdict) -> bool:
        """Whether it is of an account that was asked for, and began in the stretch."""
        if self._accounts is not None and verdict.account_sid not in self._accounts:
            return False
        return self._since <= _start(verdict) < self._until  # Instants of one spelling: they compare as they stand.

    def _all(self) -> Iterator[_Entry]:
        return map(_Entry._make, map(_ENTRY.unpack, self._entries.values()))

    def _drop(self, key: str) -> None:
        self._entries.pop(key, None)
        self._cases.pop(key, None)

    def _entry(self, verdict: Verdict) -> _Entry:
        group = _Group(
            state=_state(verdict),
            account_sid=verdict.account_sid,
            cause=verdict.cause,
            start_source=verdict.start_source,
            rule=verdict.rule,
            mode=verdict.mode,
            policy=verdict.policy,
            found_by=verdict.found_by,
            final=verdict.final,
            missing=verdict.missing if verdict.outcome == UNDETERMINED else (),
        )
        unseen_ms, since = _unseen_ms(verdict), verdict.disallowed_since
        return _Entry(
            generation=verdict.at[0],
            offset=verdict.at[1],
            final=verdict.final,
            group=self._groups.setdefault(group, len(self._groups)),
            started_ms=read_instant(_start(verdict)),
            unseen_ms=-1 if unseen_ms is None else unseen_ms,
            since_ms=-1 if since is None else read_instant(since),
        )

    def _silent(self, partition: int, until_ms: int) -> None:
        since_ms = self._ticks.get(partition, until_ms)
        if until_ms - since_ms > SILENT_MS:
            self._silences.append((partition, since_ms, until_ms))

    def _finish(self, key: str, packed: bytes, aliases: Mapping[str, str]) -> ReportedCase:
        """A case with what the other topics say of it."""
        case = _read_case(packed)
        return msgspec.structs.replace(
            case,
            account=aliases.get(case.account_sid, case.account_sid),
            flow_sid=self._flows.get(case.execution_sid or ""),
            told_at=self._told.get((key, case.disallowed_since)),
            handling=_handling(self._actions_of(key), names=self._names),
        )

    def _actions_of(self, key: str) -> list[CaseAction]:
        """In order of time: a ULID sorts by it."""
        return [action for _, action in sorted(self._actions.get(key, {}).items())]

    def _allowed_since_ms(self) -> int:
        """From when on every allowed verdict is still there; on the brokers' clock, so that it is in the topic."""
        return min(self._until_ms, max(self._since_ms, self._newest_ms - ALLOWED_KEPT_MS))

    def _totals(self, groups: Sequence[_Group], counts: Counter[_Group]) -> Totals:
        states: Counter[str] = Counter()
        for group, count in counts.items():
            states[group.state] += count
        since_ms = self._allowed_since_ms()
        lately = Counter(groups[entry.group].state for entry in self._all() if entry.started_ms >= since_ms)
        lately[SUSPECTED] = 0
        as_expected = lately[ALLOWED] + lately[CLEARED]
        allowed = states[ALLOWED] + states[CLEARED]
        return Totals(
            recordings=allowed + states[DISALLOWED] + states[UNDETERMINED],
            allowed=allowed,
            disallowed=states[DISALLOWED],
            undetermined=states[UNDETERMINED],
            suspected=states[SUSPECTED],
            cleared=states[CLEARED],
            open=sum(count for group, count in counts.items() if not group.final),
            allowed_since=render_instant(since_ms),
            as_expected=as_expected / lately.total() if lately.total() else None,
            as_expected_of=lately.total(),
        )

    def _timing(self, groups: Sequence[_Group]) -> Timing:
        unseen, detected, told = array("q"), array("q"), array("q")
        not_told = 0
        for key, packed in self._entries.items():
            entry = _Entry._make(_ENTRY.unpack(packed))
            if entry.unseen_ms >= 0:
                unseen.append(entry.unseen_ms)
            if groups[entry.group].state == DISALLOWED and entry.since_ms >= 0:
                detected.append(max(0, entry.since_ms - entry.started_ms))
                at = self._told.get((key, render_instant(entry.since_ms)))
                if at is not None:
                    told.append(max(0, read_instant(at) - entry.since_ms))
                not_told += at is None and groups[entry.group].mode != OBSERVE
        return Timing(unseen=_spread(unseen), detected=_spread(detected), told=_spread(told), not_told=not_told)

    def _unseen(self, counts: Counter[_Group], given: Given) -> Unseen:
        lacks: Counter[str] = Counter()
        for group, count in counts.items():
            if group.state == UNDETERMINED:
                lacks.update(dict.fromkeys(group.missing or (NOT_KNOWN,), count))
        longest = nlargest(SILENCES_MAX, self._silences, key=lambda each: (each[2] - each[1], each))
        return Unseen(
            blind_intervals=tuple(
                sorted(
                    (each for each in given.blind_intervals if self._overlaps(each)),
                    key=lambda each: (each.since or "", each.topic, each.partition),
                )
            ),
            judged=tuple(sorted(given.judged, key=lambda each: each.partition)),
            silences=tuple(
                Silence(
                    partition=partition,
                    since=render_instant(since_ms),
                    until=render_instant(until_ms),
                    lasted_s=(until_ms - since_ms) / 1000,
                )
                for partition, since_ms, until_ms in sorted(longest, key=lambda each: (each[1], each[0]))
            )
            if self._events_read
            else None,
            silences_left_out=len(self._silences) - len(longest),
            set_aside=tuple(
                SetAside(reason=reason, count=count, first=render_instant(first), last=render_instant(last))
                for reason, (count, first, last) in sorted(self._aside.items())
            ),
            lacks=tuple(Lack(missing, count) for missing, count in sorted(lacks.items())),
            missing_types=tuple(
                MissingType(type=name, required=required, blind=blind)
                for name, required, blind in given.needed
                if name not in self._types
            )
            if self._events_read
            else None,
        )

    def _overlaps(self, blind: BlindInterval) -> bool:
        """What is not known of when it was could have been in the stretch."""
        return (blind.since is None or blind.since < self._until) and (blind.until or blind.found_at) >= self._since

    def _accepted(self, cases: Iterable[ReportedCase]) -> Iterable[AcceptedCase]:
        for case in cases:
            if case.handling.explained == ACCEPTED:
                last = [one for one in self._actions_of(case.sid) if one.category == ACCEPTED][-1]
                by = last.by if self._names else None
                yield AcceptedCase(
                    sid=case.sid, account=case.account, until=case.handling.accepted_until, at=last.at, by=by
                )


class _Limits:
    """What the report cannot say, in the order in which it matters."""

    def __init__(
        self,
        given: Given,
        counts: Mapping[_Group, int],
        *,
        since: str,
        until_ms: int,
        newest_ms: int,
        first_ms: int | None,
        events_read: bool,
    ) -> None:
        self._given = given
        self._counts = counts
        self._since = since
        self._until_ms = until_ms
        self._newest_ms = newest_ms
        self._first_ms = first_ms
        self._events_read = events_read

    def all(self, totals: Totals, unseen: Unseen, coverage: Sequence[Coverage], left_out: int) -> Iterable[Limit]:
        """One after the other."""
        yield from self._of_verdicts(totals)
        yield from self._of_judging()
        yield from self._of_seeing(unseen)
        yield from self._of_events()
        if self._given.listed is None:
            yield Limit(
                "coverage_unknown",
                "Coverage is not known: Twilio was not asked which recordings there were. Ask with --ask-twilio.",
            )
        elif unasked := [each.account for each in coverage if each.listed is None]:
            yield Limit("coverage_unknown", f"Coverage is not known of accounts not asked: {', '.join(unasked)}.")
        at_hand = {policy.hash for policy in self._given.policies}
        unknown = sorted({group.policy for group in self._counts} - at_hand)
        if unknown:
            yield Limit(
                "policy_not_at_hand",
                f"Which of the allowed recordings were exceptions is not known of policies whose files were not at "
                f"hand: {', '.join(unknown)}. Name each with --policy FILE.",
            )
        if left_out > 0:
            yield Limit(
                "cases_left_out",
                f"Cases that are counted and not told one by one, beyond {LISTED_MAX}: {left_out}. Ask for less time, "
                "or for one --account.",
            )

    def _of_verdicts(self, totals: Totals) -> Iterable[Limit]:
        if not self._counts:
            yield Limit("no_recordings", "No recording of this time is known. That none was made does not follow.")
        kept_since = render_instant(max(0, self._newest_ms - self._given.verdicts_kept_ms))
        if self._since < kept_since:
            days = self._given.verdicts_kept_ms // 86_400_000
            yield Limit(
                "verdicts_forgotten",
                f"Verdicts are kept for {days} days after they were final: of what was before {kept_since} disallowed "
                "recordings may be gone as well.",
            )
        if totals.allowed_since > self._since:
            yield Limit(
                "allowed_forgotten",
                f"Allowed recordings are forgotten 7 days after their verdict was final: before {totals.allowed_since} "
                "their number is at least what is said here, and the share as expected is of the time since. What was "
                "not allowed is whole. For a whole count, make the report at least every 7 days.",
            )
        if self._first_ms is None:
            yield Limit("no_verdicts", "The verdict topic holds no verdict at all: nothing shows that anybody judged.")
        elif self._first_ms > read_instant(self._since) + 86_400_000:
            yield Limit(
                "nothing_before",
                f"The earliest verdict that the topic holds was decided at {render_instant(self._first_ms)}: nothing "
                "that is left shows that anybody judged before.",
            )
        if totals.open:
            yield Limit(
                "not_final",
                f"Verdicts that what is still to come may change: {totals.open}. A verdict is final when its "
                "conversation has been silent for the window.",
            )
        if self._given.made_ms < self._until_ms:
            yield Limit("not_over", "The time asked for was not over when this was made.")

    def _of_judging(self) -> Iterable[Limit]:
        for each in sorted(self._given.judged, key=lambda each: each.partition):
            if each.waiting is None:
                yield Limit(
                    "never_judged",
                    f"Nobody has ever judged what is in partition {each.partition} of the events: the group "
                    "kafka.group_id of the settings has committed nothing there.",
                )
            elif each.to is not None and read_instant(each.to) < self._until_ms - SILENT_MS:
                yield Limit(
                    "judging_behind",
                    f"Partition {each.partition} of the events is judged up to {each.to}. Recordings in what waits "
                    f"({each.waiting} messages) are not in this report.",
                )

    def _of_seeing(self, unseen: Unseen) -> Iterable[Limit]:
        if unseen.blind_intervals:
            count = sum(each.unjudged for each in unseen.blind_intervals)
            yield Limit(
                "blind",
                f"Blind intervals: {len(unseen.blind_intervals)}. Messages were gone before they were judged to the "
                f"end (before they were judged at all: {count}), and what they told of may be missing.",
            )
        if unseen.set_aside:
            count = sum(each.count for each in unseen.set_aside)
            yield Limit("set_aside", f"Entries that could not be read: {count}. What they told of may be missing.")

    def _of_events(self) -> Iterable[Limit]:
        held = {topic.topic: topic.held_since for topic in self._given.topics}
        if not self._events_read:
            yield Limit(
                "events_not_read",
                "The events were not read (--no-events): which types came, and when nothing was watched, is not known.",
            )
        else:
            since = held.get(self._given.events_topic)
            if since is not None and since > self._since:
                yield Limit(
                    "events_gone",
                    f"Of the events themselves those before {since} are gone. For that time this rests on verdicts "
                    "alone; which types came, and when nothing was watched, is not known.",
                )
        since = held.get(self._given.quarantine_topic)
        if since is not None and since > self._since:
            yield Limit(
                "quarantine_gone", f"What was set aside before {since} is gone, so that it is not counted here."
            )


# --------------------------------------------------------------------------- small answers


def _start(verdict: Verdict) -> str:
    """When a recording counts as begun: its start; where that is not known, the first that was seen of it."""
    return verdict.started_at or verdict.first_seen_at


def _state(verdict: Verdict) -> str:
    if verdict.kind == "suspicion":
        return SUSPECTED
    if verdict.outcome == ALLOWED:
        return CLEARED if is_case(verdict) else ALLOWED
    return verdict.outcome


def _span_ms(since: str | None, until: str | None) -> int | None:
    return None if since is None or until is None else max(0, read_instant(until) - read_instant(since))


def _unseen_ms(verdict: Verdict) -> int | None:
    return _span_ms(verdict.started_at, verdict.first_seen_at)


def _detected_ms(verdict: Verdict) -> int | None:
    return _span_ms(_start(verdict), verdict.disallowed_since) if verdict.outcome == DISALLOWED else None


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _case(verdict: Verdict) -> ReportedCase:
    """What the verdict says of a case."""
    execution_sid = widget = starter = None
    for shown in verdict.evidence:
        by_widget, by_starter = _OF_WIDGET(shown.shows), _OF_STARTER(shown.shows)
        if by_widget is not None:
            execution_sid, widget = by_widget.groups()
        elif by_starter is not None:
            starter = by_starter[1]
    return ReportedCase(
        sid=verdict.key,
        state=_state(verdict),
        account=verdict.account_sid,
        account_sid=verdict.account_sid,
        started_at=_start(verdict),
        ended_at=verdict.ended_at,
        lasted_s=_seconds(_span_ms(verdict.started_at, verdict.ended_at)),
        call_sid=verdict.call_sid,
        conference_sid=verdict.conference_sid,
        cause=verdict.cause,
        strength=verdict.strength,
        start_source=verdict.start_source,
        flow_sid=None,
        execution_sid=execution_sid,
        widget=widget,
        starter=starter,
        rule=verdict.rule,
        policy=verdict.policy,
        mode=verdict.mode,
        severity=verdict.severity,
        recording_status=verdict.recording_status,
        found_by=verdict.found_by,
        backlog=verdict.backlog,
        first_seen_at=verdict.first_seen_at,
        unseen_s=_seconds(_unseen_ms(verdict)),
        disallowed_since=verdict.disallowed_since,
        detected_s=_seconds(_detected_ms(verdict)),
        told_at=None,
        revision=verdict.revision,
        final=verdict.final,
        missing=verdict.missing,
        evidence=tuple(Proof(shown.position, shown.event_id, shown.type) for shown in verdict.evidence),
    )


def _place(case: ReportedCase) -> _Place:
    """Where a case stands in the list: disallowed ones first, then by start."""
    return STATES.index(case.state), case.started_at, case.sid


def _first(cases: Mapping[str, tuple[_Place, bytes]]) -> list[tuple[str, tuple[_Place, bytes]]]:
    """The first ``LISTED_MAX`` cases, in order. What is not among the first of some is not among the first of all."""
    return nsmallest(LISTED_MAX, cases.items(), key=lambda item: item[1][0])


def _handling(actions: Sequence[CaseAction], *, names: bool) -> Handling:
    """What people made of a case in the end; reopened, it is neither closed nor explained."""
    done = Handling()
    for action in actions:
        if action.kind == ACKNOWLEDGE:
            done = msgspec.structs.replace(done, acknowledged_at=done.acknowledged_at or action.at)
        elif action.kind == EXPLAIN and action.category in CATEGORIES:  # What else may stand there is not for a report.
            done = msgspec.structs.replace(done, explained=action.category, accepted_until=_day(action.until))
        elif action.kind == CLOSE:
            done = msgspec.structs.replace(done, closed_at=action.at)
        elif action.kind == REOPEN:
            done = msgspec.structs.replace(done, explained=None, accepted_until=None, closed_at=None)
    people = sorted({action.by for action in actions if action.by is not None})
    return msgspec.structs.replace(
        done,
        comments=sum(action.text is not None for action in actions),
        people=len(people),
        by=tuple(people[:PEOPLE_MAX]) if names else (),
    )


def _day(text: str | None) -> str | None:
    return text if text is not None and _IS_DAY(text) else None


def _tallies(counts: Mapping[_Group, int], name_of: Callable[[_Group], str]) -> tuple[Tally, ...]:
    """Recordings by a name, those with the most disallowed first."""
    found: dict[str, Counter[str]] = {}
    for group, count in counts.items():
        state = ALLOWED if group.state == CLEARED else group.state
        found.setdefault(name_of(group), Counter())[state] += count
    tallies = (
        Tally(
            name=name,
            allowed=states[ALLOWED],
            disallowed=states[DISALLOWED],
            undetermined=states[UNDETERMINED],
            suspected=states[SUSPECTED],
        )
        for name, states in found.items()
    )
    return tuple(sorted(tallies, key=lambda each: (-each.disallowed, each.name)))


def _origins(cases: Iterable[ReportedCase]) -> tuple[Origin, ...]:
    counts = Counter(
        (case.flow_sid, case.widget, case.starter)
        for case in cases
        if case.state == DISALLOWED and (case.widget is not None or case.starter is not None)
    )
    found = [
        Origin(flow_sid=flow_sid, widget=widget, starter=starter, recordings=count)
        for (flow_sid, widget, starter), count in counts.items()
    ]
    return tuple(sorted(found, key=lambda o: (-o.recordings, o.flow_sid or "", o.widget or "", o.starter or "")))


def _policies(entries: Iterable[_Entry], groups: Sequence[_Group], at_hand: Sequence[Policy]) -> Iterable[PolicyUsed]:
    names = {policy.hash: policy.name for policy in at_hand}
    found: dict[tuple[str, str], list[int]] = {}  # Recordings, disallowed ones, first and last start.
    for entry in entries:
        group, started_ms = groups[entry.group], entry.started_ms
        if group.state == SUSPECTED:
            continue
        one = found.setdefault((group.policy, group.mode), [0, 0, started_ms, started_ms])
        one[0] += 1
        one[1] += group.state == DISALLOWED
        one[2], one[3] = min(one[2], started_ms), max(one[3], started_ms)
    for (policy, mode), (count, disallowed, first, last) in sorted(
        found.items(), key=lambda item: (item[1][2], item[0])
    ):
        yield PolicyUsed(
            policy=policy,
            mode=mode,
            name=names.get(policy),
            recordings=count,
            disallowed=disallowed,
            first=render_instant(first),
            last=render_instant(last),
        )


def _rules_used(counts: Mapping[_Group, int], at_hand: Sequence[Policy]) -> Iterable[RuleUsed]:
    """The rules that allow until a day, of the policies at hand."""
    for policy in at_hand:
        for rule in policy.rules:
            written = rule.document
            if written.expires_ms is None or written.outcome != ALLOWED or written.mode == SHADOW:
                continue
            allowed = (
                count
                for group, count in counts.items()
                if (group.policy, group.rule) == (policy.hash, written.name) and group.state in (ALLOWED, CLEARED)
            )
            expires = render_instant(written.expires_ms)
            yield RuleUsed(rule=written.name, policy=policy.hash, expires=expires, recordings=sum(allowed))


def _coverage(sid: str, counts: Mapping[_Group, int], given: Given) -> Coverage:
    listed = None if given.listed is None else given.listed.get(sid)
    compared = 0 if listed is None else listed.seen + listed.missed
    return Coverage(
        account=given.aliases.get(sid, sid),
        account_sid=sid,
        ratio=None if listed is None or not compared else listed.seen / compared,
        listed=listed,
        counted=given.counted.get(sid),
        found_by_listing=sum(
            count for group, count in counts.items() if (group.account_sid, group.found_by) == (sid, "listing")
        ),
    )


def _spread(spans_ms: Iterable[int]) -> Spread:
    """Nearest ranks: each is a span that was measured."""
    ranked = sorted(spans_ms)
    if not ranked:
        return Spread(0, None, None, None)
    p50, p99 = (ranked[-(-len(ranked) * percent // 100) - 1] for percent in (50, 99))
    return Spread(len(ranked), p50 / 1000, p99 / 1000, ranked[-1] / 1000)
