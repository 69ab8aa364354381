"""``rejudge``: judge final verdicts again from the events that are left, under today's policy, and write what changes.

Final is final for whoever runs the monitor. Here somebody asks for it, after a policy that was wrong: partitions are
folded once more through the same core, what would change is shown, and with ``--apply`` written over what stands. What
may be written over what is decided in `core/rejudging` and `core/verdict`; how processes that run meanwhile keep it is
told in ARCHITECTURE.md.
"""

from __future__ import annotations

import enum
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import typer
from confluent_kafka import Message
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from monitor import clock
from monitor.commands.case import Written, write_all
from monitor.commands.common import ConfigOption, read_policy, read_settings, tuning_of
from monitor.commands.progress import progress_bar
from monitor.commands.replay import say_not_judged
from monitor.commands.stretch import SinceOption, UntilOption, account_of, instant_of, settings_of, wrong_usage
from monitor.commands.topics import names_of
from monitor.core.account_settings import AccountSettings
from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.core.pipeline import Checkpoint
from monitor.core.policy import OUTCOMES
from monitor.core.rejudging import (
    Answer,
    Refold,
    Settled,
    Standing,
    Why,
    left_alone,
    look_backs_ms,
    read_standing,
)
from monitor.core.values import epoch_ms
from monitor.core.verdict import decode_verdict, encode_verdict, read_instant, rejudged, render_instant
from monitor.errors import OutOfReach
from monitor.inputs.checkpoint import Committed, decode_checkpoint, fingerprint_of, resume
from monitor.inputs.policy_file import LoadedPolicy, load_policy
from monitor.inputs.reader import AskedLog, Questions, headers_of, key_of, reader_properties
from monitor.inputs.scan import Scan
from monitor.inputs.topics import TopicAdmin
from monitor.outputs.alert_text import CAUSES
from monitor.settings import Settings, kafka_client
from monitor.web.asked import UNKNOWN_CAUSE

EXIT_NO: Final = 1
SHOWN_MAX: Final = 200
"""Rows of a table; of what is beyond only the number is told. JSON holds all."""
SETTLE_S: Final = 2.0
"""So long an owner may take to read what was written; what it decided before, it writes over it."""


class Format(enum.StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which verdicts are asked about; None and empty: all of them. The interval is that of the recordings' starts."""

    since_ms: int | None = None
    until_ms: int | None = None
    account: str | None = None
    cause: str | None = None
    outcome: str | None = None
    recordings: frozenset[str] = frozenset()

    def __contains__(self, standing: Standing) -> bool:
        """Whether a verdict is one of these."""
        started_ms = read_instant(standing.started_at or standing.first_seen_at)
        return (
            standing.kind == "recording"
            and (not self.recordings or standing.recording_sid in self.recordings)
            and (self.since_ms is None or started_ms >= self.since_ms)
            and (self.until_ms is None or started_ms < self.until_ms)
            and (self.account is None or standing.account_sid == self.account)
            and (self.cause is None or (standing.cause or UNKNOWN_CAUSE) == self.cause)
            and (self.outcome is None or standing.outcome == self.outcome)
        )


class Placed(NamedTuple):
    """A verdict and where it stands on its topic, by which it is known again; ``value`` is all of it, where needed."""

    standing: Standing
    partition: int
    offset: int
    value: bytes = b""


class Change(NamedTuple):
    """A verdict that says something else today. ``found`` is what, as JSON: there may be as many as recordings."""

    was: Placed
    found: bytes


class Left(NamedTuple):
    """A verdict that stays as it is though somebody asked, and why."""

    recording_sid: str
    why: Why


class Plan:
    """What judging again comes to. About 3 kB a change (10 while it is written), and 1 kB a verdict asked about."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.left: list[Left] = []
        self.unchanged = 0
        self.not_final = 0


class Rejudging:
    """One question, from the verdicts asked about to what was written. Raises OutOfReach."""

    def __init__(self, settings: Settings, loaded: LoadedPolicy, asked: Asked, now_ms: int) -> None:
        self._settings = settings
        self._loaded = loaded
        self._asked = asked
        self._now_ms = now_ms
        self._tuning = tuning_of(settings)
        self._client = kafka_client(settings)
        self._group_id = settings.kafka.group_id

    def plan(self, progress: Progress) -> Plan:
        """Judge again what is asked about; writes nothing."""
        plan = Plan()
        placed = self._standing(self._asked)
        plan.left += [Left(sid, Why.NOTHING) for sid in self._asked.recordings - placed.keys()]
        plan.not_final = sum(not one.standing.final for one in placed.values())
        partitions: dict[int, list[Placed]] = {}
        for one in placed.values():
            if one.standing.final:
                partitions.setdefault(one.partition, []).append(one)
        accounts = {one.standing.account_sid for one in placed.values()}
        known = self._account_settings(accounts) if partitions else AccountSettings()
        questions = Questions(reader_properties(self._client, self._group_id))
        try:
            fingerprint, numbers = self._log_of(questions) if partitions else ("", [])
            for partition, standing in sorted(partitions.items()):
                settled = self._settled(questions, partition, fingerprint) if partition in numbers else None
                tried: dict[str, Placed] = {}
                for one in standing:
                    why = left_alone(one.standing, settled)
                    if why is not None:
                        plan.left.append(Left(_sid(one), why))
                    else:
                        tried[_sid(one)] = one
                if tried and settled is not None:
                    self._judge(questions, partition, settled, known, tried, plan, progress)
        finally:
            questions.close()
        return plan

    def apply(self, plan: Plan) -> list[Left]:
        """Write what the plan changes; return what was left, since it is another by now or the policy is.

        Raises OutputUnavailable where not all of it was written: asked again, the rest is.
        """
        changes = {_sid(change.was): change for change in plan.changes}
        if load_policy(self._settings.policy).policy.hash != self._loaded.policy.hash:
            return [Left(key, Why.CHANGED) for key in changes]
        asked = Asked(recordings=frozenset(changes))
        now = render_instant(clock.now_ms())
        written: list[Written] = []
        for key, stands in self._standing(asked, whole=True).items():
            was, found = changes[key]
            if stands[:3] == was[:3]:
                verdict = rejudged(decode_verdict(stands.value), decode_verdict(found), now)
                written.append((self._settings.topics.verdicts, key, encode_verdict(verdict), was.partition))
        write_all(self._settings, written)
        time.sleep(SETTLE_S if written else 0)
        stand = self._standing(asked)
        return [Left(key, Why.CHANGED) for key in changes if key not in stand or not _is_of(stand[key].standing, now)]

    # What stands on the verdict topic.

    def _standing(self, asked: Asked, *, whole: bool = False) -> dict[str, Placed]:
        """The last verdicts, as every reader takes them, of those that are asked about."""
        found: dict[str, Placed] = {}
        for message in self._verdicts():
            key, value = key_of(message) or "", message.value()
            if value is None:
                found.pop(key, None)
                continue
            try:
                standing = read_standing(value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            before = found.get(key)
            if before is not None and _rank(before.standing) > _rank(standing):
                continue
            if standing in asked:
                place = (message.partition() or 0, message.offset() or 0)
                found[key] = Placed(standing, *place, value if whole else b"")
            elif before is not None:
                del found[key]
        return found

    def _verdicts(self) -> Iterator[Message]:
        scan = Scan(self._client, self._group_id, self._settings.topics.verdicts)
        try:
            yield from scan.read()
        finally:
            scan.close()

    # The fold.

    def _log_of(self, questions: Questions) -> tuple[str, list[int]]:
        """What tells the events topic from any other, and its partitions."""
        cluster_id, numbers = questions.describe(self._settings.topics.events)
        tuning = self._tuning
        names = names_of(self._settings)
        admin = TopicAdmin(self._client, names, window_ms=tuning.window_ms, age_max_ms=tuning.age_max_ms)
        return fingerprint_of(cluster_id, admin.topic_id(names.events), len(numbers)), numbers

    def _settled(self, questions: Questions, partition: int, fingerprint: str) -> Settled | None:
        events = self._settings.topics.events
        committed = questions.committed(events, partition)
        checkpoint = None if committed is None else decode_checkpoint(Committed(*committed), fingerprint)
        if not isinstance(checkpoint, Checkpoint):
            return None
        return Settled(
            generation=checkpoint.generation,
            replay_from=checkpoint.replay_from,
            before_ms=self._now_ms - self._tuning.window_ms - self._tuning.grace_ms,
            low=questions.bounds(events, partition)[0],
        )

    def _account_settings(self, accounts: set[str]) -> AccountSettings:
        known = AccountSettings()
        for value in settings_of(self._settings, accounts):
            for entry in decode(value):
                if isinstance(entry, Event) and entry.setting is not None:
                    known.observe(entry.setting)
        return known

    def _judge(
        self,
        questions: Questions,
        partition: int,
        settled: Settled,
        known: AccountSettings,
        tried: Mapping[str, Placed],
        plan: Plan,
        progress: Progress,
    ) -> None:
        """Fold one partition, from before all that the verdicts rest on to where the last of them was decided."""
        standings = {key: one.standing for key, one in tried.items()}
        floor = min(standing.rests_from for standing in standings.values())
        look_backs = look_backs_ms(self._tuning)
        for look_back_ms in look_backs:
            begin = self._begin(questions, partition, floor, look_back_ms)
            checkpoint = msgspec.structs.replace(begin, generation=settled.generation)
            policy, tuning = self._loaded.policy, self._tuning
            refold = Refold(tuning, policy, known, partition=partition, checkpoint=checkpoint, standings=standings)
            earliest = begin.offset <= settled.low or look_back_ms == look_backs[-1]
            if self._fold(refold, partition, begin.offset, tried, plan, progress, earliest=earliest):
                break

    def _fold(
        self,
        refold: Refold,
        partition: int,
        first: int,
        tried: Mapping[str, Placed],
        plan: Plan,
        progress: Progress,
        *,
        earliest: bool,
    ) -> bool:
        """Feed a partition from an offset on, and take the answers; False: it falls short, and none has come yet."""
        task = progress.add_task(f"judging again: partition {partition}", total=refold.end - first)
        stretch = {partition: (first, refold.end)}
        scan = Scan(self._client, self._group_id, self._settings.topics.events, offsets=stretch)
        try:
            for message in scan.read():
                offset = message.offset() or 0
                answers = refold.feed(offset, message.timestamp()[1], message.value(), headers_of(message))
                if refold.falls_short and not earliest:
                    return False
                _take(answers, tried, plan)
                progress.update(task, completed=offset + 1 - first)
        finally:
            scan.close()
            progress.remove_task(task)
        _take(refold.finish(), tried, plan)
        for failure in refold.failures:
            say_not_judged(failure)
        return True

    def _begin(self, questions: Questions, partition: int, floor: int, look_back_ms: int) -> Checkpoint:
        """Where to begin: as whoever began to monitor so long before the offset ``floor``, or as early as may be."""
        log = AskedLog(questions, self._settings.topics.events, partition)
        stamp_ms = log.stamp(floor)
        if stamp_ms is None:
            raise OutOfReach(f"{self._settings.topics.events}[{partition}] holds nothing at {floor} any more")
        return resume(
            None,
            log,
            fingerprint="",
            start_at=stamp_ms - look_back_ms,
            window_ms=self._tuning.window_ms,
            age_max_ms=self._tuning.age_max_ms,
            now_ms=self._now_ms,
        ).checkpoint


def _take(answers: Iterable[Answer], tried: Mapping[str, Placed], plan: Plan) -> None:
    for key, answer in answers:
        if answer is None:
            plan.unchanged += 1
        elif isinstance(answer, Why):
            plan.left.append(Left(key, answer))
        else:
            plan.changes.append(Change(tried[key], encode_verdict(answer)))


def _sid(placed: Placed) -> str:
    sid = placed.standing.recording_sid
    assert sid is not None  # A suspicion is not asked about.
    return sid


def _is_of(standing: Standing, now: str) -> bool:
    return standing.rejudged is not None and standing.rejudged.at == now


def _rank(standing: Standing) -> tuple[tuple[int, int], bool]:
    return standing.at, standing.final


# --------------------------------------------------------------------------- the command


def rejudge(
    sids: Annotated[
        list[str] | None, typer.Argument(metavar="RE…", help="Only these recordings.", show_default=False)
    ] = None,
    *,
    config: ConfigOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    account: Annotated[str | None, typer.Option(help="Only of this account: its alias or SID.")] = None,
    cause: Annotated[str | None, typer.Option(help="Only what has this cause; `unknown` where there is none.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only what is allowed, disallowed or undetermined.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write what changes, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --apply: do not ask.")] = False,
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Without --apply: exit code 1 where something would change.")
    ] = False,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to print.")] = Format.TABLE,
) -> None:
    """Judge final verdicts again, under today's policy, from the events that are still in the topic.

    For after a policy that was wrong. --since and --until are about when the recordings began. What would change is
    shown: nothing is written without --apply. With it a new revision of each goes to the verdict topic, which says that
    it was rejudged, when, and what it was before. It can be run again at any time, and finishes what it left.

    A verdict is left as it is where its events are no longer all there, or where it became final only now; the reason
    is told. What becomes disallowed is told in one summary an account; nobody is paged for each.

    Exit code 1: with --apply, something changed meanwhile and was left, or the answer was no; with --fail-on-change,
    something would change. 3: Kafka is out of reach.

    Examples:
      recording-monitor rejudge --since 7d

      recording-monitor rejudge --since 2026-11-23T09:00:00Z --until 2026-11-24T10:00:00Z --outcome disallowed --apply

      recording-monitor rejudge RE… RE… --apply --yes

      recording-monitor rejudge --since 7d --fail-on-change --format json
    """
    if since is None and not sids:
        raise wrong_usage("--since", "is needed, or name recordings. Write --since 7d")
    if outcome is not None and outcome not in OUTCOMES:
        raise wrong_usage("--outcome", f"is one of {', '.join(OUTCOMES)}")
    if cause is not None and cause != UNKNOWN_CAUSE and cause not in CAUSES:
        raise wrong_usage("--cause", "is none. Take it from docs/causes.md, or `unknown`")
    if apply and not yes and not sys.stdin.isatty():
        raise wrong_usage("--apply", "asks before it writes, and there is nobody to ask. Add --yes")
    settings = read_settings(config)
    now = datetime.now(UTC)
    since_ms, until_ms = instant_of(since, "--since", now), instant_of(until, "--until", now)
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        raise wrong_usage("--until", "is not after --since")
    asked = Asked(
        since_ms=since_ms,
        until_ms=until_ms,
        account=None if account is None else account_of(settings, account),
        cause=cause,
        outcome=outcome,
        recordings=frozenset(sids or ()),
    )
    loaded = read_policy(settings)
    rejudging = Rejudging(settings, loaded, asked, epoch_ms(now))
    with progress_bar("messages") as progress:
        plan = rejudging.plan(progress)
    if format_ is Format.TABLE:
        _print_plan(plan, loaded)
    written, left = 0 if apply else None, []
    if apply and plan.changes:
        if not yes and not typer.confirm(f"Write {len(plan.changes)} verdicts?", err=True):
            raise typer.Exit(EXIT_NO)
        left = rejudging.apply(plan)
        written = len(plan.changes) - len(left)
    if format_ is Format.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(_document(plan, loaded, written, left)), indent=2))
    elif written is not None:
        _print_left(left)
        typer.echo(f"{written} verdicts rejudged")
    elif plan.changes:
        typer.echo("Nothing was written. --apply writes it.")
    if left or (fail_on_change and not apply and plan.changes):
        raise typer.Exit(EXIT_NO)


def _print_plan(plan: Plan, loaded: LoadedPolicy) -> None:
    console = Console(highlight=False, markup=False)
    if plan.changes:
        table = Table()
        for column in ("recording", "began", "was", "would be", "by rule", "why"):
            table.add_column(column, overflow="fold", no_wrap=column == "recording")
        for change in sorted(plan.changes, key=_by_start)[:SHOWN_MAX]:
            was, found = change.was.standing, decode_verdict(change.found)
            began = (was.started_at or was.first_seen_at)[:19] + "Z"
            cells = (found.key, began, f"{was.outcome} ({was.rule})", found.outcome, found.rule, found.reason)
            table.add_row(*map(Text, cells))
        console.print(table)
        _print_more(len(plan.changes))
        for (before, after, rule), count in sorted(_kinds(plan).items(), key=lambda kind: -kind[1]):
            console.print(f"{count} {before} would be {after} by rule {rule}")
    _print_left(plan.left)
    console.print(
        f"{len(plan.changes)} would change, {plan.unchanged} would not, {len(plan.left)} are left as they are, "
        f"{plan.not_final} are not final yet; policy {loaded.policy.name}, {loaded.policy.hash}",
        soft_wrap=True,
    )


def _print_left(left: list[Left]) -> None:
    console = Console(highlight=False, markup=False)
    for recording, why in sorted(left)[:SHOWN_MAX]:
        console.print(f"{recording}: left as it is: {why}", soft_wrap=True)
    _print_more(len(left))


def _print_more(count: int) -> None:
    if count > SHOWN_MAX:
        typer.echo(f"… and {count - SHOWN_MAX} more; --format json lists all")


def _kinds(plan: Plan) -> Counter[tuple[str, str, str]]:
    found = ((change.was.standing.outcome, decode_verdict(change.found)) for change in plan.changes)
    return Counter((before, after.outcome, after.rule) for before, after in found)


def _by_start(change: Change) -> tuple[str, str]:
    return change.was.standing.started_at or change.was.standing.first_seen_at, _sid(change.was)


def _document(plan: Plan, loaded: LoadedPolicy, written: int | None, left: list[Left]) -> dict[str, Any]:
    """What was found, for JSON; ``written`` None: nothing was to be written."""
    changes = []
    for change in sorted(plan.changes, key=_by_start):
        was, found = change.was.standing, decode_verdict(change.found)
        changes.append(
            {
                "recording_sid": found.key,
                "account_sid": found.account_sid,
                "started_at": was.started_at,
                "was": {name: getattr(was, name) for name in ("outcome", "rule", "severity", "cause", "policy")},
                "becomes": {name: getattr(found, name) for name in ("outcome", "rule", "severity", "cause", "reason")},
            }
        )
    return {
        "policy": {"name": loaded.policy.name, "mode": loaded.policy.mode, "hash": loaded.policy.hash},
        "changes": changes,
        "unchanged": plan.unchanged,
        "not_final": plan.not_final,
        "left": [
            {"recording_sid": sid, "why": why.name.lower(), "says": why} for sid, why in sorted([*plan.left, *left])
        ],
        "written": written,
    }
