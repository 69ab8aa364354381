"""``reconcile``: what the stream missed between two instants, from Twilio's own list; and have it judged.

Twilio's list is read page by page and compared with what the verdict topic says of each recording, which is kept in a
few bytes each (`inputs/told`): memory does not grow with the list. What has no verdict becomes an event of ours in the
events topic, as the monitor would write it, and is judged by whoever owns its partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from monitor.commands.common import ConfigOption, read_settings, tuning_of, writing_properties
from monitor.commands.progress import progress_bar
from monitor.commands.stretch import UntilOption, instant_of, wrong_usage
from monitor.core.values import epoch_ms
from monitor.core.verdict import render_instant
from monitor.inputs.coverage import HOUR_MS
from monitor.inputs.owned_accounts import partition_of_key
from monitor.inputs.places import SAY_EVERY_MS, Places
from monitor.inputs.reader import Questions, key_of, reader_properties
from monitor.inputs.recordings import Recording, pages, render_listed
from monitor.inputs.relay import Relay
from monitor.inputs.rest_work import WRITE_S, OwnedAccount, RestWork, Topics
from monitor.inputs.scan import Scan
from monitor.inputs.told import Told
from monitor.settings import Settings, kafka_client
from monitor.twilio.accounts import Twilio, TwilioAccount

FRESH_MS: Final = 5 * 60_000
"""Of a recording that began less than this ago nobody can say yet that the stream missed it."""
SIDS_SHOWN: Final = 10


class Format(Enum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


class Gap(msgspec.Struct):
    """What the stream missed in one hour, of one account and start source; ``recordings`` are the first of them."""

    account: str
    hour: str
    start_source: str | None
    missed: int = 0
    recordings: list[str] = []


class Sum(msgspec.Struct):
    """An account in numbers. ``listed`` = ``seen`` + ``missed`` + ``fresh`` + ``old``.

    ``found_before`` of those missed have a verdict, since the monitor's own listing found them; ``written`` became
    events now. ``old`` have no verdict and began more than 7 days ago: what was allowed is forgotten by then.
    """

    account: str
    account_sid: str
    listed: int = 0
    seen: int = 0
    missed: int = 0
    found_before: int = 0
    written: int = 0
    fresh: int = 0
    old: int = 0


def reconcile(
    *,
    config: ConfigOption = None,
    since: Annotated[
        str, typer.Option("--since", help="From then on: 2026-11-21T08:00:00Z, or how long ago: 24h.", metavar="WHEN")
    ],
    until: UntilOption = None,
    account: Annotated[str | None, typer.Option(help="Only this account, by its alias in the settings.")] = None,
    judge_old: Annotated[
        bool, typer.Option("--judge-old", help="Have those judged, too, that began more than 7 days ago.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing: only say what was missed.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """List recordings from Twilio, say which the stream missed, and have those judged that have no verdict.

    The monitor does the same by itself every two minutes (`reconcile` in the settings); this is for the time before it
    ran, and for a number to show. Whoever runs the monitor judges what is written; nothing that has a verdict changes.

    Exit code 1: the stream missed something. 3: Twilio or Kafka is out of reach.

    Examples:
      recording-monitor reconcile --since 24h

      recording-monitor reconcile --since 2026-11-01T00:00:00Z --until 2026-11-08T00:00:00Z --dry-run --format json

      recording-monitor reconcile --since 30d --judge-old --account main
    """
    settings = read_settings(config)
    now = datetime.now(UTC)
    since_ms, until_ms = instant_of(since, "--since", now), instant_of(until, "--until", now)
    assert since_ms is not None
    if until_ms is not None and until_ms <= since_ms:
        raise wrong_usage("--until", "is not after --since")
    work = Comparison(settings, since_ms, until_ms, epoch_ms(now), judge_old=judge_old, dry_run=dry_run)
    with progress_bar("hours") as progress:
        asyncio.run(work.run(account, progress))
    if format_ is Format.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(work.report()), indent=2))
    else:
        _print(work)
    if any(each.missed for each in work.sums):
        raise typer.Exit(1)


class Comparison:
    """Twilio's list of a stretch of time, against the verdicts: what the stream missed; and has that judged."""

    def __init__(
        self, settings: Settings, since_ms: int, until_ms: int | None, now_ms: int, *, judge_old: bool, dry_run: bool
    ) -> None:
        self.since_ms = since_ms
        self.until_ms = until_ms
        self.sums: list[Sum] = []
        self.gaps: dict[tuple[str, int, str | None], Gap] = {}
        self._settings = settings
        self._now_ms = now_ms
        too_old_ms = tuning_of(settings).recordings_too_old_ms
        self._old_ms = 0 if too_old_ms is None else now_ms - too_old_ms
        self._judge_old = judge_old
        self._dry_run = dry_run
        self._told = Told()

    async def run(self, alias: str | None, progress: Progress) -> None:
        """Compare account by account. Raises what asking Twilio and Kafka can come to."""
        async with Twilio(self._settings) as twilio:
            accounts: list[TwilioAccount] = []
            for each in (alias,) if alias is not None else RestWork.aliases(self._settings) or (None,):
                accounts += await twilio.accounts(alias=each)
            await asyncio.to_thread(self._read_verdicts, {account.sid for account in accounts})
            async with self._writing(accounts) as owned:
                for account, written in zip(accounts, owned, strict=True):
                    await self._compare(account, written, progress)

    def report(self) -> dict[str, Any]:
        """What was found, for JSON."""
        compared = sum(each.seen + each.missed for each in self.sums)
        return {
            "since": render_instant(self.since_ms),
            "until": render_instant(self._now_ms if self.until_ms is None else self.until_ms),
            "coverage": sum(each.seen for each in self.sums) / compared if compared else None,
            "accounts": self.sums,
            "gaps": [self.gaps[key] for key in sorted(self.gaps, key=lambda key: (key[0], key[1], key[2] or ""))],
        }

    def _read_verdicts(self, accounts: set[str]) -> None:
        scan = Scan(kafka_client(self._settings), self._settings.kafka.group_id, self._settings.topics.verdicts)
        try:
            self._told.read(scan.read(), accounts.__contains__)
        finally:
            scan.close()

    @contextlib.asynccontextmanager
    async def _writing(self, accounts: list[TwilioAccount]) -> AsyncIterator[list[OwnedAccount]]:
        """What writes into the partition each account is in."""
        topics = Topics(self._settings.topics.events, self._settings.topics.account_settings)
        partitions = await asyncio.to_thread(self._partitions, [account.sid for account in accounts])
        relay = Relay(
            lambda: writing_properties(kafka_client(self._settings)),
            deliver_within_s=WRITE_S,
        )
        await relay.start()
        try:
            yield [OwnedAccount(account, partitions[account.sid], relay, topics) for account in accounts]
        finally:
            await relay.stop(WRITE_S)

    def _partitions(self, accounts: list[str]) -> dict[str, int]:
        client, group_id = kafka_client(self._settings), self._settings.kafka.group_id
        topics = self._settings.topics
        questions = Questions(reader_properties(client, group_id))
        try:
            count = len(questions.describe(topics.events)[1])
        finally:
            questions.close()
        places = Places(topics.events, lasts_ms=tuning_of(self._settings).window_ms + SAY_EVERY_MS)
        scan = Scan(client, group_id, topics.account_settings)
        try:
            for message in scan.read():
                key = key_of(message)
                if key is not None:
                    places.hear(key, message.value(), self._now_ms)
        finally:
            scan.close()
        return {
            account: partition_of_key(account, count) if (home := places.home(account)) is None else home
            for account in accounts
        }

    async def _compare(self, account: TwilioAccount, owned: OwnedAccount, progress: Progress) -> None:
        total = Sum(account.alias, account.sid)
        self.sums.append(total)
        end_ms = self._now_ms if self.until_ms is None else self.until_ms
        task = progress.add_task(account.alias, total=max(1, (end_ms - self.since_ms) // HOUR_MS))
        last: str | None = None
        async with contextlib.aclosing(pages(account, self.since_ms, self.until_ms)) as listed:
            async for page in listed:
                # What came in front while this was read shows the end of the page before again.
                again = next((at + 1 for at, one in enumerate(page) if one.sid == last), 0)
                news = [one for one in page[again:] if self._count(total, one)]
                if news and not self._dry_run:
                    await owned.write_events(
                        [render_listed(account.sid, one, self._now_ms, however_old=self._judge_old) for one in news]
                    )
                    total.written += len(news)
                if page:
                    last = page[-1].sid
                    progress.update(task, completed=(end_ms - page[-1].created_ms) // HOUR_MS)
        progress.update(task, completed=max(1, (end_ms - self.since_ms) // HOUR_MS))

    def _count(self, total: Sum, one: Recording) -> bool:
        """Count a recording; whether it is to be judged."""
        total.listed += 1
        by_stream = self._told.by_stream(one.sid)
        old = (one.started_ms or one.created_ms) < self._old_ms
        if by_stream:
            total.seen += 1
            return False
        if by_stream is None and old and not self._judge_old:
            total.old += 1
            return False
        if one.created_ms > self._now_ms - FRESH_MS:
            total.fresh += 1
            return by_stream is None
        total.missed += 1
        total.found_before += by_stream is not None
        hour_ms = one.created_ms - one.created_ms % HOUR_MS
        key = (total.account, hour_ms, one.source)
        gap = self.gaps.get(key)
        if gap is None:
            gap = self.gaps[key] = Gap(total.account, render_instant(hour_ms), one.source)
        gap.missed += 1
        if len(gap.recordings) < SIDS_SHOWN:
            gap.recordings.append(one.sid)
        return by_stream is None


def _print(work: Comparison) -> None:
    console = Console(highlight=False, markup=False)
    report = work.report()
    if report["gaps"]:
        table = Table("account", "hour", "start source", "missed", "recordings", box=None)
        for gap in report["gaps"]:
            more = " …" if gap.missed > 1 else ""
            table.add_row(
                gap.account, gap.hour[:13] + "h", gap.start_source or "-", f"{gap.missed}", gap.recordings[0] + more
            )
        console.print(table)
        console.print()
    table = Table("account", "listed", "seen", "missed", "found before", "written", "fresh", "old", box=None)
    for each in work.sums:
        numbers = (each.listed, each.seen, each.missed, each.found_before, each.written, each.fresh, each.old)
        table.add_row(each.account, *map(str, numbers))
    console.print(table)
    coverage = report["coverage"]
    console.print("coverage: " + ("unknown, there was nothing to compare" if coverage is None else f"{coverage:.4%}"))
