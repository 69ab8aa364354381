"""``audit``: everything in the accounts that can start a recording, against the policy."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from monitor.audit import report
from monitor.audit.account import AccountRead
from monitor.audit.drift import changes
from monitor.audit.starts import find_starts
from monitor.commands.common import ConfigOption, PolicyOption, read_policy, read_settings
from monitor.core.policy import DISALLOWED
from monitor.errors import OutOfReach
from monitor.inputs.account import read_account
from monitor.settings import Settings
from monitor.twilio.accounts import Twilio


def audit(
    *,
    config: ConfigOption = None,
    policy: PolicyOption = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Only the account of this alias, with its subaccounts.")
    ] = None,
    format_: Annotated[Literal["text", "json", "markdown"], typer.Option("--format", help="How to print it.")] = "text",
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Say too what changed since this saved audit.", metavar="FILE")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Keep this audit as a baseline; numbers in it are masked.", metavar="FILE"),
    ] = None,
    show_numbers: Annotated[bool, typer.Option("--show-numbers", help="Print telephone numbers in full.")] = False,
) -> None:
    """Read every account over Twilio's API and print what can start a recording, judged by the policy.

    Looks at the Flex setting, the published revision of each Studio flow, the recording mode of SIP trunks, and where
    numbers, TwiML applications and SIP domains lead. What only a person can look into is listed as such. Changes
    nothing. One account that cannot be asked at all stops it.

    Exit code 1: something can start a recording that the policy disallows. 3: not, but not all could be read.

    Examples:
      recording-monitor audit

      recording-monitor audit --format markdown --save audit.json > audit.md

      recording-monitor audit --baseline audit.json --account main
    """
    settings = read_settings(config)
    loaded = read_policy(settings, policy)
    before = None if baseline is None else report.load(baseline)
    found = find_starts(asyncio.run(_read(settings, account)), loaded.policy, datetime.now(UTC))
    changed = None if before is None else changes(before, found)
    if save is not None:
        report.save(found, save)
    shown = found if show_numbers else report.masked(found)
    render = {"text": report.as_text, "json": report.as_json, "markdown": report.as_markdown}[format_]
    typer.echo(render(shown, changed), nl=False)
    if found.of(DISALLOWED):
        raise typer.Exit(1)
    if found.unread:
        raise OutOfReach(f"{len(found.unread)} parts could not be read, so the answer is not whole")


async def _read(settings: Settings, alias: str | None) -> list[AccountRead]:
    async with Twilio(settings) as twilio:
        return [await read_account(each) for each in await twilio.accounts(alias=alias)]
