"""Which alerts there are to be, given the cases and the instant: a pure fold, with no clock, disk or network.

A case says what is known of a recording. ``standing_of`` makes of it what decides about alerts, and the ``Board`` holds
those that are open and says which alerts fire and which are resolved. What Alertmanager is told is a level: the same
alert again and again, with the same labels and the same beginning, which are in the verdict or in what was told.

The rules, each of which some history would break otherwise:

- An alert is open until the recording has ended *and* somebody could be told for as long as the hold. Who was told is
  an action in the topic, so that neither a restart nor an Alertmanager that was away leaves a recording untold, and a
  case that was told and is over is never told again.
- A case is paged singly until so many of its group are open; the next are one alert together. What was found long after
  it happened is one alert an account. How a case was first told it stays, whoever tells it.
- While the view is not fresh nothing is decided: nothing begins and nothing is resolved.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from monitor.core.policy import DISALLOWED
from monitor.core.verdict import Verdict, read_instant, render_instant
from monitor.outputs.cases import CLOSE, REOPEN, TOLD, Case, CaseAction, told_of

SINGLE: Final = "DisallowedRecording"
FLOOD: Final = "DisallowedRecordingFlood"
BACKLOG: Final = "DisallowedRecordingBacklog"
HEARTBEAT: Final = "RecordingMonitorHeartbeat"
ALERT_NAMES: Final = (SINGLE, FLOOD, BACKLOG, HEARTBEAT)

OPEN_MAX: Final = 200_000
"""Cases on the board at once; what is beyond is counted and not paged. Some 100 MB."""
DAY_MS: Final = 86_400_000
_SEVERITIES: Final = ("info", "warning", "critical")


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long; only tests set anything but the hold and ``resolve_on``. All in milliseconds."""

    hold_ms: int = 15 * 60_000
    resolve_on: str = "ended"
    needs_telling: bool = True
    """Whether there is anybody to tell; else the hold runs from the beginning."""
    lease_ms: int = 15 * 60_000
    heartbeat_lease_ms: int = 3 * 60_000
    resend_ms: int = 60_000
    retry_ms: int = 10_000
    timeout_ms: int = 5_000
    resolved_for_ms: int = 15 * 60_000
    untold_max_ms: int = DAY_MS
    """What nobody could be told for so long after its end is not told any more."""
    flood_from: int = 50
    flood_until: int = 25
    behind_ms: int = 10 * 60_000
    behind_wait_ms: int = 60_000
    """A verdict that was decided so far behind the clock on the wall waits so long before it pages singly: what seemed
    to be going on has mostly ended a moment later in what is read at full speed, and belongs into the summary."""
    summary_after_ms: int = 10_000
    """A backlog is summed up once this much time went by since its first case: one page, with a count that says
    something."""
    fresh_ms: int = 30_000
    probe_ms: int = 10_000
    alone_ms: int = DAY_MS
    """How long what fires is kept firing while the brokers are away."""


class Group(NamedTuple):
    """What alerts of one kind have in common: their labels without the recording."""

    severity: str
    team: str | None
    account: str
    rule: str
    start_source: str | None


class Told(NamedTuple):
    """Since when somebody has known of a case, by which alert, and when that began."""

    at_ms: int
    alert: str
    starts_ms: int


class Standing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What decides about the alerts of one case. ``group`` None: it never pages."""

    key: str
    at: tuple[int, int, bool]
    revision: int
    counted: tuple[str, str, str, str]
    """The labels under which it counts among the open cases: account, rule, start source, severity."""
    group: Group | None
    starts_ms: int
    ended_ms: int | None
    """When what it is about was over; None while it goes on."""
    over_ms: int | None
    """When it was cleared by evidence or closed by a person: at once, whatever the hold."""
    backlog: bool
    behind: bool
    """Decided long after it happened, and not known to be over: perhaps it only seems to go on."""
    seen_ms: int
    told: Told | None


def standing_of(case: Case, pace: Pace, counted: tuple[str, str, str, str]) -> Standing:
    """What decides about the alerts of a case, which counts as ``counted``."""
    verdict = case.verdict
    pages = verdict.alert is not None
    since = verdict.disallowed_since or verdict.decided_at
    group = None
    if verdict.alert is not None:
        alert = verdict.alert
        group = Group(alert.severity, alert.team, alert.account, alert.rule, alert.start_source)
    return Standing(
        key=case.key,
        at=(*verdict.at, verdict.final),
        revision=verdict.revision,
        counted=counted,
        group=group,
        starts_ms=read_instant(since),
        ended_ms=_ended_ms(case, pace.resolve_on),
        over_ms=_over_ms(case),
        backlog=case.backlog,
        behind=case.ended_ms is None and case.seen_ms - read_instant(verdict.decided_at) > pace.behind_ms,
        seen_ms=case.seen_ms,
        told=_told(case) if pages else None,
    )


def severity_of_case(verdict: Verdict) -> str:
    """How grave a case is: what nobody may be paged for under a policy that only observes is ``info``."""
    if verdict.outcome != DISALLOWED:
        return "warning"
    return "info" if verdict.alert is None else verdict.alert.severity


def _ended_ms(case: Case, resolve_on: str) -> int | None:
    """When what the case is about was over, as the settings say what that means."""
    verdict = case.verdict
    if case.ended_ms is None:
        return None
    seen_ms = case.ended_ms if verdict.ended_at is None else read_instant(verdict.ended_at)
    if resolve_on == "deleted" and verdict.recording_status != "deleted":
        # However strict: a day after, somebody must have seen it.
        return max(seen_ms, read_instant(verdict.disallowed_since or verdict.decided_at)) + DAY_MS
    return case.ended_ms if resolve_on == "deleted" else seen_ms


def _over_ms(case: Case) -> int | None:
    # What was closed, and then became disallowed anew, is open again.
    since_ms = read_instant(case.verdict.disallowed_since or case.verdict.decided_at)
    moved = [done for done in case.actions if done.kind in (CLOSE, REOPEN) and read_instant(done.at) >= since_ms]
    closed_ms = read_instant(moved[-1].at) if moved and moved[-1].kind == CLOSE else None
    return min((at for at in (case.cleared_ms, closed_ms) if at is not None), default=None)


def _told(case: Case) -> Told | None:
    """Since when somebody has known of it. One who knows of something graver than was told knows nothing yet."""
    alert = case.verdict.alert
    marks = [
        Told(read_instant(mark.at), mark.alert, read_instant(mark.starts_at))
        for mark in told_of(case)
        if mark.alert is not None and mark.starts_at is not None and alert is not None
        if mark.severity == alert.severity
    ]
    return Told(min(mark.at_ms for mark in marks), *marks[-1][1:]) if marks else None


def closes_ms(standing: Standing, pace: Pace) -> int | None:
    """When a case closes; None while that is not known."""
    if standing.over_ms is not None:
        return standing.over_ms
    if standing.ended_ms is None:
        return None
    if standing.group is None or not pace.needs_telling:
        return max(standing.ended_ms, standing.starts_ms + pace.hold_ms)
    if standing.told is None:
        return max(standing.ended_ms, standing.starts_ms) + pace.untold_max_ms
    return max(standing.ended_ms, standing.starts_ms + pace.hold_ms, standing.told.at_ms + pace.hold_ms)


# --------------------------------------------------------------------------- alerts

Labels = tuple[tuple[str, str], ...]
"""The identity of an alert, sorted by name."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What Alertmanager is to be told of one alert. ``version`` is another whenever it says something else.

    ``about`` is the case it is about, or None where it is about several. ``resolved_ms`` None: it fires.
    """

    labels: Labels
    name: str
    starts_ms: int
    resolved_ms: int | None = None
    version: int = 0
    about: str | None = None
    why: str = ""
    """Why it is resolved: ``ended``, ``cleared``, ``closed``, ``graver`` or ``fewer``."""
    told_until_ms: int = 0
    """Until when it is told that it is resolved."""


def labels_of(name: str, group: Group, recording_sid: str | None = None) -> Labels:
    """The labels of an alert about a group, or of a recording in it."""
    labels = {
        "alertname": name,
        "severity": group.severity,
        "account": group.account,
        "rule": group.rule,
        "start_source": group.start_source or "none",
    }
    if group.team is not None:
        labels["team"] = group.team
    if recording_sid is not None:
        labels["recording_sid"] = recording_sid
    return tuple(sorted(labels.items()))


def _backlog_labels(account: str, severity: str) -> Labels:
    return tuple(sorted({"alertname": BACKLOG, "severity": severity, "account": account}.items()))


_Key = TypeVar("_Key")
How = Literal["single", "flood", "backlog"]
_HOW: Final[Mapping[str, How]] = {SINGLE: "single", FLOOD: "flood", BACKLOG: "backlog"}


class Board:
    """The open cases and the alerts about them. ``take`` what is known, ``settle`` what is due, read ``alerts``.

    Time is an argument, in milliseconds since 1970. Nothing begins and nothing is resolved by time but in ``settle``.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._open: dict[str, Standing] = {}
        self._how: dict[str, How] = {}
        self._undecided: set[str] = set()
        self._groups: dict[Group, set[str]] = {}
        self._backlogs: dict[str, set[str]] = {}
        self._floods: dict[Group, Labels] = {}
        self._summaries: dict[str, Labels] = {}
        self._pending: dict[str, int] = {}
        self._closing: list[tuple[int, str]] = []
        self._waiting: list[tuple[int, str]] = []
        self._alerts: dict[Labels, Alert] = {}
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._version = 0
        self._now_ms = 0
        self.refused = 0
        """Cases that found no room."""

    # What is known.

    def take(self, standing: Standing, now_ms: int) -> None:
        """Take in what is known of a case; a lesser revision than the one known changes nothing."""
        self._now_ms = now_ms
        before = self._open.get(standing.key)
        if before is not None and before.at > standing.at:
            return
        if before is not None and standing.told is None and before.told is not None and _same_page(before, standing):
            standing = msgspec.structs.replace(standing, told=before.told)  # Our own mark, not come round yet.
        until_ms = closes_ms(standing, self._pace)
        if until_ms is not None and until_ms <= now_ms:
            if before is not None:
                self._close(before, standing, until_ms)
            else:
                self._recall(standing, until_ms, now_ms)
            return
        if before is None and len(self._open) >= OPEN_MAX:
            self.refused += 1
            return
        self._place(before, standing)
        if until_ms is not None:
            heapq.heappush(self._closing, (until_ms, standing.key))

    def drop(self, key: str, now_ms: int) -> None:
        """A case is not there any more: a suspicion that was withdrawn, or one whose retention is over."""
        self._now_ms = now_ms
        standing = self._open.get(key)
        if standing is not None:
            self._close(standing, standing, now_ms)

    def accepted(self, labels: Labels, now_ms: int) -> list[CaseAction]:
        """An Alertmanager has taken a firing alert: what there is to tell the others of it."""
        alert = self._alerts.get(labels)
        if alert is None or alert.resolved_ms is not None:
            return []
        marks = []
        for key in self._members(alert):
            standing = self._open[key]
            if standing.told is not None and standing.told.alert == alert.name:
                continue
            at_ms = now_ms if standing.told is None else standing.told.at_ms
            told = msgspec.structs.replace(standing, told=Told(at_ms, alert.name, alert.starts_ms))
            self._open[key] = told
            until_ms = closes_ms(told, self._pace)
            if until_ms is not None:
                heapq.heappush(self._closing, (until_ms, key))
            assert standing.group is not None
            marks.append(
                CaseAction(
                    kind=TOLD,
                    recording_sid=key,
                    at=render_instant(now_ms),
                    alert=alert.name,
                    starts_at=render_instant(alert.starts_ms),
                    since=render_instant(standing.starts_ms),
                    severity=standing.group.severity,
                )
            )
        return marks

    # What is due.

    def settle(self, now_ms: int) -> None:
        """Close what is due and decide how what is new is paged. To be called only while the view is fresh."""
        self._now_ms = now_ms
        self._close_due(now_ms)
        self._decide(now_ms)
        for group in [group for group in self._floods if self._is_over(group)]:
            self._end_flood(group, now_ms)
        for account in [account for account in self._summaries if account not in self._backlogs]:
            self._resolve(self._summaries.pop(account), now_ms, "ended")
        for account in [account for account, due_ms in self._pending.items() if due_ms <= now_ms]:
            self._sum_up(account)
        for labels in [
            a.labels for a in self._alerts.values() if a.resolved_ms is not None and a.told_until_ms <= now_ms
        ]:
            del self._alerts[labels]

    def next_ms(self) -> int | None:
        """When there is next something to settle."""
        due = [heap[0][0] for heap in (self._closing, self._waiting) if heap]
        return min((*due, *self._pending.values()), default=None)

    # What is asked.

    @property
    def version(self) -> int:
        """Another whenever an alert says something else."""
        return self._version

    def alerts(self) -> Iterable[Alert]:
        """The alerts that fire, and those that are resolved and still told so."""
        return self._alerts.values()

    def alert(self, labels: Labels) -> Alert | None:
        """One of them."""
        return self._alerts.get(labels)

    def open_cases(self) -> Mapping[tuple[str, str, str, str], int]:
        """How many cases are open, by ``Standing.counted``."""
        return self._counts

    def firing(self) -> Counter[str]:
        """How many alerts fire, by name."""
        return Counter(alert.name for alert in self._alerts.values() if alert.resolved_ms is None)

    # One case.

    def _place(self, before: Standing | None, standing: Standing) -> None:
        """Put an open case in its place, and take it out of where it was."""
        key = standing.key
        if before is not None:
            self._counts[before.counted] -= 1
            if not self._counts[before.counted]:
                del self._counts[before.counted]
            if before.group != standing.group or before.starts_ms != standing.starts_ms:
                self._leave(before, self._now_ms, "graver")
        self._open[key] = standing
        self._counts[standing.counted] += 1
        if standing.group is None:
            return
        if key not in self._how:
            self._undecided.discard(key)
            if standing.behind and standing.told is None:
                heapq.heappush(self._waiting, (standing.seen_ms + self._pace.behind_wait_ms, key))
            else:
                self._undecided.add(key)
        elif self._how[key] == "single":
            self._again(labels_of(SINGLE, standing.group, key))

    def _close(self, before: Standing, standing: Standing, at_ms: int) -> None:
        del self._open[before.key]
        self._counts[before.counted] -= 1
        if not self._counts[before.counted]:
            del self._counts[before.counted]
        why = "ended"
        if standing.over_ms is not None:
            same = (standing.group, standing.at, standing.revision) == (before.group, before.at, before.revision)
            why = "closed" if same else "cleared"
        self._leave(before, at_ms, why)

    def _leave(self, standing: Standing, at_ms: int, why: str) -> None:
        """Take a case out of what it was paged in; its own alert is resolved."""
        key = standing.key
        self._undecided.discard(key)
        how = self._how.pop(key, None)
        if standing.group is None or how is None:
            return
        if how == "backlog":
            _take_out(self._backlogs, standing.group.account, key)
            return
        _take_out(self._groups, standing.group, key)
        if how == "single":
            self._resolve(labels_of(SINGLE, standing.group, key), at_ms, why)

    def _recall(self, standing: Standing, until_ms: int, now_ms: int) -> None:
        """A case that is over already. Who was told of it singly is told that it is, for as long as others would."""
        told = standing.told
        if told is None or told.alert != SINGLE or standing.group is None:
            return
        if until_ms <= now_ms - self._pace.resolved_for_ms:
            return
        labels = labels_of(SINGLE, standing.group, standing.key)
        if labels not in self._alerts:
            self._fire(labels, SINGLE, told.starts_ms, about=standing.key)
            self._resolve(labels, until_ms, "ended" if standing.over_ms is None else "cleared")

    def _close_due(self, now_ms: int) -> None:
        while self._closing and self._closing[0][0] <= now_ms:
            _, key = heapq.heappop(self._closing)
            standing = self._open.get(key)
            if standing is None:
                continue
            until_ms = closes_ms(standing, self._pace)
            if until_ms is not None and until_ms <= now_ms:
                self._close(standing, standing, until_ms)

    # How a case is paged.

    def _decide(self, now_ms: int) -> None:
        while self._waiting and self._waiting[0][0] <= now_ms:
            _, key = heapq.heappop(self._waiting)
            if key in self._open and key not in self._how:
                self._undecided.add(key)
        for standing in sorted((self._open[key] for key in self._undecided), key=_by_age):
            assert standing.group is not None
            how = self._how_of(standing, standing.group)
            self._how[standing.key] = how
            if how == "backlog":
                account = standing.group.account
                self._backlogs.setdefault(account, set()).add(standing.key)
                self._pending.setdefault(account, now_ms + self._pace.summary_after_ms)
                continue
            self._groups.setdefault(standing.group, set()).add(standing.key)
            if how == "single":
                self._page(standing, standing.group)
            elif standing.group not in self._floods:
                starts_ms = standing.starts_ms if standing.told is None else standing.told.starts_ms
                labels = labels_of(FLOOD, standing.group)
                self._floods[standing.group] = labels
                self._fire(labels, FLOOD, starts_ms)
        self._undecided.clear()

    def _how_of(self, standing: Standing, group: Group) -> How:
        if standing.told is not None:
            return _HOW.get(standing.told.alert, "single")
        if standing.backlog:
            return "backlog"
        crowded = group in self._floods or len(self._groups.get(group, ())) >= self._pace.flood_from
        return "flood" if crowded else "single"

    def _page(self, standing: Standing, group: Group) -> None:
        labels = labels_of(SINGLE, group, standing.key)
        self._fire(labels, SINGLE, standing.starts_ms, about=standing.key)

    def _is_over(self, group: Group) -> bool:
        return len(self._groups.get(group, ())) < self._pace.flood_until

    def _end_flood(self, group: Group, now_ms: int) -> None:
        """Resolve a flood. What is still being recorded pages singly from now on; what has ended was told of."""
        self._resolve(self._floods.pop(group), now_ms, "fewer")
        for key in sorted(self._groups.get(group, ())):
            standing = self._open[key]
            if self._how[key] == "flood" and (standing.ended_ms is None or standing.told is None):
                self._how[key] = "single"
                self._page(standing, group)

    def _sum_up(self, account: str) -> None:
        """Make one alert of an account's backlog, or make it say how many there are by now."""
        del self._pending[account]
        members = [self._open[key] for key in self._backlogs.get(account, ())]
        if not members:
            return
        severity = max((standing.group.severity for standing in members if standing.group), key=_SEVERITIES.index)
        known = self._summaries.get(account)
        if known is not None and _severity(known) >= _SEVERITIES.index(severity):
            self._again(known)
            return
        if known is not None:
            self._resolve(known, self._now_ms, "graver")
        told = [standing.told.starts_ms for standing in members if standing.told is not None]
        starts_ms = min(told or [standing.starts_ms for standing in members])
        self._summaries[account] = _backlog_labels(account, severity)
        self._fire(self._summaries[account], BACKLOG, starts_ms)

    # Alerts.

    def _members(self, alert: Alert) -> list[str]:
        """The open cases that an alert tells of."""
        if alert.about is not None:
            return [alert.about] if alert.about in self._open else []
        if alert.name == BACKLOG:
            return [
                key
                for account in self._backlogs
                if self._summaries.get(account) == alert.labels
                for key in self._backlogs[account]
            ]
        return [
            key
            for group, labels in self._floods.items()
            if labels == alert.labels
            for key in self._groups[group]
            if self._how[key] == "flood"
        ]

    def count(self, alert: Alert) -> int:
        """How many recordings an alert is about."""
        return len(self._members(alert))

    def _fire(self, labels: Labels, name: str, starts_ms: int, *, about: str | None = None) -> None:
        self._version += 1
        self._alerts[labels] = Alert(labels=labels, name=name, starts_ms=starts_ms, version=self._version, about=about)

    def _again(self, labels: Labels) -> None:
        alert = self._alerts.get(labels)
        if alert is not None and alert.resolved_ms is None:
            self._version += 1
            self._alerts[labels] = msgspec.structs.replace(alert, version=self._version)

    def _resolve(self, labels: Labels, at_ms: int, why: str) -> None:
        alert = self._alerts.get(labels)
        if alert is None or alert.resolved_ms is not None:
            return
        self._version += 1
        self._alerts[labels] = msgspec.structs.replace(
            alert,
            version=self._version,
            resolved_ms=max(at_ms, alert.starts_ms),
            why=why,
            # Not from the end on: that may have been long ago, while the brokers were away.
            told_until_ms=self._now_ms + self._pace.resolved_for_ms,
        )


def _same_page(before: Standing, after: Standing) -> bool:
    """Whether who was told of the one knows of the other."""
    same = before.starts_ms == after.starts_ms
    return same and (before.group and before.group.severity) == (after.group and after.group.severity)


def _by_age(standing: Standing) -> tuple[bool, int, str]:
    """What was told comes first: it has its place already."""
    return standing.told is None, standing.starts_ms, standing.key


def _take_out(sets: dict[_Key, set[str]], of: _Key, key: str) -> None:
    sets[of].discard(key)
    if not sets[of]:
        del sets[of]


def _severity(labels: Labels) -> int:
    return _SEVERITIES.index(dict(labels)["severity"])
