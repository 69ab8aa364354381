"""``twilio check | plan | apply``: Event Streams as the monitor needs them, in every account of the settings."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from textwrap import indent
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from monitor.commands.common import ConfigOption, read_settings
from monitor.errors import WrongInput
from monitor.inputs.ingest import EVENTS
from monitor.inputs.sink_tests import SinkTests
from monitor.settings import Problem, Settings, SettingsError, kafka_client
from monitor.twilio.accounts import Twilio, TwilioAccount
from monitor.twilio.sinks import Changes, read_streams
from monitor.twilio.streams import Comparison, Finding, Step, ValidateSink, Wanted, address_of, compare

Format = Literal["text", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="text is for people, json for programs.")]
AccountOption = Annotated[
    str | None,
    typer.Option("--account", metavar="ALIAS", help="Only this account of the settings, and those below it."),
]
PruneOption = Annotated[
    bool, typer.Option("--prune", help="Delete also what bears our name and leads to another address.")
]
_LOOK_S: Final = 0.5


class _Looked(NamedTuple):
    """An account, and what was found there."""

    account: TwilioAccount
    comparison: Comparison


def check(*, config: ConfigOption = None, account: AccountOption = None, output: FormatOption = "text") -> None:
    """Say of every account what is missing or wrong in its Event Streams, and what that blinds us to.

    Looked for are a sink of type webhook that leads to `ingest.public_url`/twilio/events and is validated, and one
    subscription with every type in the schema version that the monitor reads. Changes nothing.

    Exit code 1: something is missing or wrong. 2: Twilio does not know the credentials, or does not permit this.
    3: Twilio could not be asked.

    Examples:
      recording-monitor twilio check

      recording-monitor twilio check --account main --format json
    """
    settings = read_settings(config)
    looked = asyncio.run(_look(settings, _wanted(settings, prune=False), account))
    if output == "json":
        _print_json(looked)
    else:
        _print_findings(looked)
    _answer(looked)


def plan(
    *,
    config: ConfigOption = None,
    account: AccountOption = None,
    prune: PruneOption = False,
    output: FormatOption = "text",
) -> None:
    """Show what `apply` would change, account by account, and what it would leave to you. Changes nothing.

    Exit code 1: something is missing or wrong. 2 and 3 as for `check`.

    Examples:
      recording-monitor twilio plan

      recording-monitor twilio plan --prune --format json
    """
    settings = read_settings(config)
    looked = asyncio.run(_look(settings, _wanted(settings, prune=prune), account))
    if output == "json":
        _print_json(looked)
    else:
        _print_plan(looked)
        if any(one.comparison.steps for one in looked):
            typer.echo("\n`recording-monitor twilio apply` does this.")
    _answer(looked)


def apply(
    *,
    config: ConfigOption = None,
    account: AccountOption = None,
    prune: PruneOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate/--no-validate", help="Test a new sink, and validate it with what arrives.")
    ] = True,
    wait_s: Annotated[
        int, typer.Option("--wait", min=1, max=3600, metavar="SECONDS", help="How long a test may take to arrive.")
    ] = 60,
    output: FormatOption = "text",
) -> None:
    """Show what is to be changed, ask, and do it; then look again.

    A new sink is tested: Twilio sends an event to the bridge, the bridge writes its id into the topic of account
    settings, and with that id the sink is validated. So `ingest` has to run, and Kafka to be reachable from here.
    What others have made is never changed or deleted; where it is in the way, it is named. Twice is the same as once,
    and after a failure the next `apply` goes on.

    Exit code 1: something is missing or wrong that `apply` does not touch, or the answer was no. 2: Twilio does not
    permit it. 3: Twilio or Kafka could not be reached, or the test did not arrive.

    Examples:
      recording-monitor twilio apply

      recording-monitor twilio apply --yes --wait 120
    """
    settings = read_settings(config)
    if output == "json" and not yes:
        raise WrongInput("--format json asks nobody: give --yes with it")
    wanted = _wanted(settings, prune=prune)
    looked = asyncio.run(_look(settings, wanted, account))
    if any(one.comparison.steps for one in looked):
        if not yes:
            _print_plan(looked)
            _ask()
        looked = asyncio.run(
            _change(settings, wanted, account, validate=validate, wait_s=wait_s, quiet=output == "json")
        )
    if output == "json":
        _print_json(looked)
    else:
        _print_findings(looked, lambda finding: finding.level != "optional")
    _answer(looked)


def _wanted(settings: Settings, *, prune: bool) -> Wanted:
    public_url = settings.ingest.public_url
    if public_url is None:
        message = "missing. Name the address under which Twilio reaches `recording-monitor ingest`"
        raise SettingsError([Problem("settings", 0, settings.where("ingest.public_url"), message)])
    return Wanted(destination=address_of(public_url + EVENTS), installation=settings.kafka.group_id, prune=prune)


async def _look(settings: Settings, wanted: Wanted, alias: str | None) -> list[_Looked]:
    async with Twilio(settings) as twilio:
        return [await _look_at(settings, wanted, one) for one in await twilio.accounts(alias=alias)]


async def _look_at(settings: Settings, wanted: Wanted, account: TwilioAccount) -> _Looked:
    checkable = any(one.sid == account.sid and one.auth_token_file is not None for one in settings.accounts)
    has = await read_streams(account, wanted.destination)
    return _Looked(account, compare(has, wanted, checkable=checkable))


async def _change(
    settings: Settings, wanted: Wanted, alias: str | None, *, validate: bool, wait_s: int, quiet: bool
) -> list[_Looked]:
    """Look, change, and look again: what was asked about a while ago may have changed since."""
    console = _console(quiet=quiet)
    secret = settings.ingest.basic_auth_file
    userinfo = None if secret is None else secret.lines()[0]
    async with Twilio(settings) as twilio:
        accounts = await twilio.accounts(alias=alias)
        for account in accounts:
            steps = (await _look_at(settings, wanted, account)).comparison.steps
            if not steps:
                continue
            console.print(f"\n{_title(account)}")
            tests = validate and any(isinstance(step, ValidateSink) for step in steps)
            # Listens before anything is changed: without Kafka nothing is begun.
            with _listen(settings) if tests else nullcontext() as listening:
                arrived = None if listening is None else _arrivals(listening, account.sid, wait_s)
                changes = Changes(account, wanted, userinfo=userinfo, arrived=arrived)
                await _carry_out(changes, steps, console)
        return [await _look_at(settings, wanted, account) for account in accounts]


async def _carry_out(changes: Changes, steps: Sequence[Step], console: Console) -> None:
    progress = Console(stderr=True)
    for step in steps:
        console.print(indent(str(step), "  "))
        # On a terminal something moves while a test is waited for.
        with progress.status("waiting for Twilio's test …") if isinstance(step, ValidateSink) else nullcontext():
            told = await changes.carry_out(step)
        if told is not None:
            console.print(f"    {told}")


def _listen(settings: Settings) -> AbstractContextManager[SinkTests]:
    return closing(SinkTests(kafka_client(settings), settings.kafka.group_id, settings.topics.account_settings))


def _arrivals(listening: SinkTests, account_sid: str, wait_s: int) -> Callable[[], Awaitable[str | None]]:
    """The ids of the tests that arrive; the waiting begins with the first question."""
    until: float | None = None

    async def arrived() -> str | None:
        nonlocal until
        until = time.monotonic() + wait_s if until is None else until
        while time.monotonic() < until:
            # By halves of a second, so that Ctrl-C is not made to wait for a thread.
            seen = await asyncio.to_thread(listening.next, account_sid, _LOOK_S)
            if seen is not None:
                return seen.test_id
        return None

    return arrived


def _ask() -> None:
    if not sys.stdin.isatty():
        raise WrongInput("nobody can be asked here: give --yes to have this done")
    if not typer.confirm("\nDo this?"):
        raise typer.Exit(1)


# --- What is shown -----------------------------------------------------------------------------------------------


def _console(*, quiet: bool = False) -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False, quiet=quiet)


def _title(account: TwilioAccount) -> str:
    below = f", below {account.parent_sid}" if account.parent_sid else ""
    return f"{account.alias} ({account.sid}{below})"


def _print_findings(looked: Sequence[_Looked], only: Callable[[Finding], bool] = lambda _: True) -> None:
    console = Console(highlight=False, markup=False)
    for account, comparison in looked:
        console.print(_title(account))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for no_wrap in (True, True, False):
            table.add_column(no_wrap=no_wrap)
        for finding in filter(only, comparison.findings):
            table.add_row(f"  {finding.level}", finding.about.removeprefix("com.twilio."), _said(finding))
        console.print(table)
        console.print()
    good = sum(one.comparison.good for one in looked)
    mend = "" if good == len(looked) else " `recording-monitor twilio plan` shows what would mend it."
    console.print(f"Accounts as needed: {good} of {len(looked)}.{mend}", soft_wrap=True)


def _print_plan(looked: Sequence[_Looked]) -> None:
    console = _console()
    for account, comparison in looked:
        console.print(_title(account))
        for step in comparison.steps:
            console.print(indent(str(step), "  "))
        for finding in comparison.findings:
            if finding.by_hand:
                console.print(f"  ! {finding.about}: {_said(finding)}")
        if not comparison.steps:
            console.print("  nothing to change")


def _said(finding: Finding) -> str:
    return f"{finding.says} `apply` leaves it as it is." if finding.by_hand else finding.says


def _print_json(looked: Sequence[_Looked]) -> None:
    accounts = [
        {
            "account_sid": account.sid,
            "alias": account.alias,
            "parent_sid": account.parent_sid,
            "good": comparison.good,
            "findings": comparison.findings,
            "steps": comparison.steps,
        }
        for account, comparison in looked
    ]
    built: Any = {"accounts": accounts}
    typer.echo(msgspec.json.format(msgspec.json.encode(built), indent=2).decode())


def _answer(looked: Sequence[_Looked]) -> None:
    if not all(one.comparison.good for one in looked):
        raise typer.Exit(1)
