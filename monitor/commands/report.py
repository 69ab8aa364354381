"""``report``: what was recorded in a stretch of time, whether it was allowed, and what could not be seen.

Everything comes from the topics, so no monitor has to run: verdicts, case actions, what was set aside, the events
themselves. The fold is `outputs/report_fold`; here is only where its input comes from.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from confluent_kafka import Message
from rich.progress import Progress

from monitor.commands.common import ConfigOption, read_policy, read_settings
from monitor.commands.paging import seen_in
from monitor.commands.progress import progress_bar
from monitor.commands.reconcile import Comparison
from monitor.commands.stretch import UntilOption, account_of, instant_of, wrong_usage
from monitor.core.decode import decode
from monitor.core.events import Event, ExecutionFact, Ignored
from monitor.core.readers import TICK
from monitor.core.values import epoch_ms, span_ms
from monitor.core.verdict import render_instant
from monitor.inputs.blind import read_blind
from monitor.inputs.coverage import HOUR_MS, Reached
from monitor.inputs.reader import Questions, headers_of, key_of, reader_properties
from monitor.inputs.scan import Scan
from monitor.outputs.cases import VerdictSeen
from monitor.outputs.quarantine import read_aside
from monitor.outputs.report import BlindInterval, Counted, Judged, Listed, TopicRead
from monitor.outputs.report_fold import Given, ReportFold
from monitor.outputs.report_text import as_json, as_markdown
from monitor.settings import Settings, kafka_client
from monitor.twilio.streams import NEEDED

EXIT_VIOLATIONS: Final = 1
TOLD_EVERY: Final = 1_000
"""Messages between two movements of the bar."""


class Format(enum.StrEnum):
    """How the report is printed."""

    MARKDOWN = "markdown"
    JSON = "json"


def report(
    *,
    config: ConfigOption = None,
    since: Annotated[
        str, typer.Option("--since", help="From then on: 2026-11-01T00:00:00Z, or how long ago: 30d.", metavar="WHEN")
    ],
    until: UntilOption = None,
    account: Annotated[
        list[str] | None, typer.Option("--account", help="Of an account alone: its alias or SID; again for more.")
    ] = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            "--policy", "-p", help="The policy that judged, to tell its exceptions; again for more.", metavar="FILE"
        ),
    ] = None,
    ask_twilio: Annotated[
        bool, typer.Option("--ask-twilio", help="Ask Twilio which recordings there were: coverage is known then.")
    ] = False,
    events: Annotated[
        bool, typer.Option("--events/--no-events", help="Read the events, too: which types came, when nobody watched.")
    ] = True,
    names: Annotated[bool, typer.Option("--names", help="Say by name who did something about a case.")] = False,
    fail_on_violations: Annotated[
        bool, typer.Option("--fail-on-violations", help="Exit with 1 where a recording was disallowed.")
    ] = False,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.MARKDOWN,
) -> None:
    """Report what was recorded in a stretch of time: totals, what was not allowed and why, and what nobody could see.

    A recording belongs to the stretch in which it began. The report comes from the topics alone, so it may be made
    anywhere and again: the same topics give the same report. It begins with what it cannot say. Allowed recordings are
    forgotten after 7 days, so make it weekly where their number matters. No number of a telephone is in it, and no name
    of a person without --names.

    Exit code 1: a recording was disallowed, and --fail-on-violations was given. 3: Kafka or Twilio is out of reach.

    Examples:
      recording-monitor report --since 7d > report.md

      recording-monitor report --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z --format json

      recording-monitor report --since 7d --account main --ask-twilio --policy policy.yaml --policy last-week.yaml

      recording-monitor report --since 24h --no-events --fail-on-violations
    """
    settings = read_settings(config)
    now = datetime.now(UTC)
    since_ms, until_ms = instant_of(since, "--since", now), instant_of(until, "--until", now)
    assert since_ms is not None
    if until_ms is None:
        until_ms = epoch_ms(now)
    if until_ms <= since_ms:
        raise wrong_usage("--until", "is not after --since")
    aliases = {one.sid: one.alias for one in settings.accounts}
    accounts = frozenset(account_of(settings, each) for each in account) if account else None
    policies = [read_policy(settings, each).policy for each in policy or (None,)]
    fold = ReportFold(since_ms, until_ms, accounts, names=names)
    now_ms = epoch_ms(now)
    with progress_bar() as progress:
        topics = _Topics(settings, since_ms, until_ms, now_ms, progress)
        topics.read(fold, events=events)
        listed = _ask_twilio(settings, since_ms, until_ms, now_ms, accounts, progress) if ask_twilio else None
    made = fold.report(
        Given(
            made_ms=now_ms,
            aliases=aliases,
            policies=policies,
            needed=[(each.name, each.required, each.blind) for each in NEEDED],
            topics=topics.topics,
            events_topic=settings.topics.events,
            quarantine_topic=settings.topics.quarantine,
            judged=topics.judged,
            blind_intervals=list(topics.blind_intervals.values()),
            counted=topics.counted,
            listed=listed,
            verdicts_kept_ms=span_ms(settings.cases.retention),
        )
    )
    typer.echo(as_json(made) if format_ is Format.JSON else as_markdown(made), nl=False)
    if fail_on_violations and made.totals.disallowed:
        raise typer.Exit(EXIT_VIOLATIONS)


class _Topics:
    """The topics, read once from here to there, each into the fold; and what of them is no message: how far they go."""

    def __init__(self, settings: Settings, since_ms: int, until_ms: int, now_ms: int, progress: Progress) -> None:
        self.topics: list[TopicRead] = []
        self.judged: list[Judged] = []
        self.blind_intervals: dict[str, BlindInterval] = {}
        self.counted: dict[str, Counted] = {}
        self._settings = settings
        self._since_ms = since_ms
        self._until_ms = until_ms
        self._now_ms = now_ms
        self._progress = progress
        self._client, self._group_id = kafka_client(settings), settings.kafka.group_id
        self._questions = Questions(reader_properties(self._client, self._group_id))

    def read(self, fold: ReportFold, *, events: bool) -> None:
        """Read all of them. Raises OutOfReach."""
        names = self._settings.topics
        try:
            for topic in (names.verdicts, names.case_actions):
                for message in self._messages(topic):
                    seen = seen_in(message, names.case_actions)
                    if isinstance(seen, VerdictSeen):
                        fold.take_verdict(seen.key, seen.verdict, seen.seen_ms)
                    elif seen is not None:
                        fold.take_action(seen.key, seen.action)
            self._read_account_settings(names.account_settings)
            for message in self._messages(names.quarantine, self._held_since(names.quarantine)):
                aside = read_aside(headers_of(message) or [], message.value())
                fold.take_aside(aside.reason, message.timestamp()[1])
            self._look_how_far(names.events)
            if events:
                self._read_events(fold, names.events)
        finally:
            self._questions.close()

    def _read_account_settings(self, topic: str) -> None:
        """What the monitor remembers there of itself: what it was blind to, and what its listing counted."""
        reached = Reached()
        for message in self._messages(topic):
            key = key_of(message) or ""
            found = read_blind(key, message.value())
            if found is not None:
                self.blind_intervals[key] = BlindInterval(
                    topic=found.topic,
                    partition=found.partition,
                    since=found.since,
                    until=found.until,
                    messages=found.end - found.first,
                    unjudged=found.unjudged,
                    found_at=found.found_at,
                )
            else:
                reached.hear(key, message.value())
        for settled in reached.settled():
            whole = {at: one for at, one in settled.hours if self._since_ms <= at and at + HOUR_MS <= self._until_ms}
            if whole:
                self.counted[settled.account] = Counted(
                    since=render_instant(min(whole)),
                    until=render_instant(max(whole) + HOUR_MS),
                    listed=sum(one.known for one in whole.values()),
                    seen=sum(one.seen for one in whole.values()),
                )

    def _read_events(self, fold: ReportFold, topic: str) -> None:
        held_ms = self._held_since(topic)
        _, partitions = self._questions.describe(topic)
        fold.watch_events(partitions, self._since_ms if held_ms is None else held_ms)
        needed = {each.name for each in NEEDED}
        executions = fold.executions
        for message in self._messages(topic, held_ms, since_ms=self._since_ms, until_ms=self._until_ms):
            tick = False
            for entry in decode(message.value(), headers_of(message)):
                if isinstance(entry, Event | Ignored) and entry.type in needed:
                    fold.take_type(entry.type)
                if isinstance(entry, Event):
                    tick = tick or entry.type == TICK
                    for fact in entry.facts:
                        if isinstance(fact, ExecutionFact) and fact.flow is not None and fact.execution in executions:
                            fold.take_flow(fact.execution, fact.flow)
            fold.take_arrival(message.partition() or 0, message.timestamp()[1], tick=tick)

    def _look_how_far(self, topic: str) -> None:
        """How far the group has judged each partition, as it has committed."""
        for partition in self._questions.describe(topic)[1]:
            committed = self._questions.committed(topic, partition)
            _, end = self._questions.bounds(topic, partition)
            if committed is None or committed[0] > end:
                self.judged.append(Judged(partition=partition, to=None, waiting=None))
                continue
            offset, _ = committed
            first = self._questions.at_or_after(topic, partition, offset) if offset < end else None
            to = None if first is None else render_instant(first.timestamp()[1])
            self.judged.append(Judged(partition=partition, to=to, waiting=end - offset))

    def _held_since(self, topic: str) -> int | None:
        """From when on all of a topic is there that was ever written into it; None: nothing was deleted."""
        held_ms = None
        for partition in self._questions.describe(topic)[1]:
            low, _ = self._questions.bounds(topic, partition)
            if low > 0:
                first = self._questions.at_or_after(topic, partition, low)
                held_ms = max(held_ms or 0, self._now_ms if first is None else first.timestamp()[1])
        return held_ms

    def _messages(
        self, topic: str, held_ms: int | None = None, *, since_ms: int | None = None, until_ms: int | None = None
    ) -> Iterator[Message]:
        """Every message of a topic, or of a stretch of it, once."""
        scan = Scan(self._client, self._group_id, topic, since_ms=since_ms, until_ms=until_ms)
        task = self._progress.add_task(topic, total=scan.messages)
        count = 0
        try:
            for message in scan.read():
                count += 1
                if count % TOLD_EVERY == 0:
                    self._progress.update(task, completed=count)
                yield message
        finally:
            scan.close()
        self._progress.update(task, completed=scan.messages)
        held_since = None if held_ms is None else render_instant(held_ms)
        self.topics.append(TopicRead(topic=topic, messages=count, held_since=held_since))


def _ask_twilio(
    settings: Settings, since_ms: int, until_ms: int, now_ms: int, accounts: frozenset[str] | None, progress: Progress
) -> dict[str, Listed]:
    """What Twilio lists of each account, as `reconcile --dry-run` compares it. Raises what asking can come to."""
    found = {}
    aliases = [None] if accounts is None else [one.alias for one in settings.accounts if one.sid in accounts]
    for alias in aliases:
        comparison = Comparison(settings, since_ms, until_ms, now_ms, judge_old=False, dry_run=True)
        asyncio.run(comparison.run(alias, progress))
        for each in comparison.sums:
            found[each.account_sid] = Listed(
                listed=each.listed, seen=each.seen, missed=each.missed, fresh=each.fresh, old=each.old
            )
    return found
