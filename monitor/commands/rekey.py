"""``rekey``: a topic of events keyed by something else, copied into one that is keyed by account."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from monitor.commands.common import ConfigOption, read_settings, tuning_of, writing_properties
from monitor.commands.progress import progress_bar
from monitor.commands.stretch import SinceOption, UntilOption, instant_of, wrong_usage
from monitor.commands.topics import names_of
from monitor.inputs.reader import reader_properties
from monitor.inputs.rekey import REASONS, Copy, Report, Whereabouts, partition_of
from monitor.inputs.topics import EVENTS_PARTITIONS, TopicAdmin
from monitor.settings import Settings, kafka_client

ACCOUNTS_SHOWN: Final = 100


def rekey(
    *,
    config: ConfigOption = None,
    source: Annotated[str, typer.Option("--from", help="The topic as it is.", metavar="TOPIC")],
    target: Annotated[str, typer.Option("--to", help="The topic keyed by account.", metavar="TOPIC")],
    create: Annotated[bool, typer.Option("--create", help="Create the target if it is not there.")] = False,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help=f"How many the target has to have; of a new one {EVENTS_PARTITIONS}.", metavar="N"
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until stopped.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Begin again, though messages were copied before: they come a second time.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be written where.")] = False,
) -> None:
    """Copy a topic of events into one in which all messages of an account are in one partition.

    Needed where a bridge keys by something else, and after partitions were added. The key becomes the account SID, as
    the monitor finds it; a message whose entries are of several accounts becomes one an entry. Headers stay, timestamps
    too where the target's are CreateTime, and so does the order within a partition; several partitions are merged by
    time, but for what comes to them at once under `--follow`. What is of no account keeps its key, and goes to the
    partition of its own number (modulo theirs). Ticks stay behind.

    A second run goes on where the first ended, however that was, and copies nothing twice: what was written and how far
    was read are one transaction, under the group (and transactional id) GROUP.rekey.FROM.TO. It ends at the end of the
    topic as it was at the start. Exit code 1: it was stopped before that. 2: a topic is not as it has to be. 3: Kafka
    is out of reach; run it again (`--follow` too: let whatever keeps it running start it anew).

    Examples:
      recording-monitor rekey --from raw-events --to twilio-events --dry-run

      recording-monitor rekey --from raw-events --to twilio-events --create --partitions 12

      recording-monitor rekey --from raw-events --to twilio-events --follow
    """
    if source == target:
        raise wrong_usage("--to", "is the topic to copy from. Name another one")
    if follow and (until is not None or dry_run):
        raise wrong_usage("--follow", "has no end: leave --until and --dry-run out")
    settings = read_settings(config)
    now = datetime.now(UTC)
    since_ms, until_ms = instant_of(since, "--since", now), instant_of(until, "--until", now)
    count = _target(settings, target, partitions, create=create, dry_run=dry_run)
    client = kafka_client(settings)
    name = f"{settings.kafka.group_id}.rekey.{source}.{target}"
    stopped = _stopping()
    copy = Copy(
        reader_properties(client, name),
        None if dry_run else writing_properties(client),
        name=name,
        source=source,
        target=target,
        target_partitions=count,
        since_ms=since_ms,
        until_ms=until_ms,
        anew=anew,
        follow=follow,
    )
    try:
        with progress_bar("messages") as progress:
            task = progress.add_task("copying", total=copy.messages)
            ended = copy.run(stopped.is_set, lambda done: progress.update(task, completed=done))
    finally:
        copy.close()
    _tell(copy.report, count, dry_run=dry_run)
    if not ended and not follow:
        typer.echo("stopped before the end: run it again, and it goes on from here", err=True)
        raise typer.Exit(1)


def _target(settings: Settings, target: str, partitions: int | None, *, create: bool, dry_run: bool) -> int:
    """How many partitions the target has, created if it may be. Raises ``WrongInput``, OutOfReach."""
    tuning = tuning_of(settings)
    names = msgspec.structs.replace(names_of(settings), events=target)
    admin = TopicAdmin(kafka_client(settings), names, window_ms=tuning.window_ms, age_max_ms=tuning.age_max_ms)
    there = admin.events_topic()
    if there is None:
        if not create:
            raise wrong_usage("--to", f"names a topic that is not there. Create {target}, or add --create")
        there = partitions or EVENTS_PARTITIONS
        if not dry_run:
            admin.create_events(there)
    if partitions is not None and there != partitions:
        raise wrong_usage("--partitions", f"says {partitions}, and {target} has {there}. Leave it out, or name another")
    return there


def _stopping() -> threading.Event:
    """What SIGTERM and Ctrl-C set; a second one ends the process at once, and what is not committed is given up."""
    stopped = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped


def _tell(report: Report, partitions: int, *, dry_run: bool) -> None:
    """What was read and what became of it, and where each account was found and goes."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    written = "would be written" if dry_run else "written"
    table = Table(
        Column("account", min_width=34), written, "keyed so before", "found in partitions", "goes to", box=None
    )
    largest = sorted(report.accounts.items(), key=lambda one: (-one[1].written, one[0]))
    for account, seen in largest[:ACCOUNTS_SHOWN]:
        goes_to = partition_of(account.encode(), partitions)
        table.add_row(account, str(seen.written), str(seen.well_keyed), _numbers(seen), str(goes_to))
    if report.accounts:
        console.print(table)
    if len(largest) > ACCOUNTS_SHOWN:
        console.print(f"and {len(largest) - ACCOUNTS_SHOWN} accounts more")
    console.print(f"{report.read} messages read, {report.written} {written}")
    for reason in REASONS:
        if report.reasons[reason]:
            console.print(f"  {report.reasons[reason]:>9}  {reason}")
    if report.gone:
        console.print(f"  {report.gone:>9}  deleted from the source before they were copied")


def _numbers(seen: Whereabouts) -> str:
    return " ".join(map(str, sorted(seen.found_in)))
