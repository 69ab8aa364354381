"""``audit``: everything in the accounts that can start a recording, against the policy."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from monitor import clock
from monitor.audit import report
from monitor.audit.account import AccountRead
from monitor.audit.drift import changes
from monitor.audit.sessions import agent_sessions
from monitor.audit.starts import find_starts
from monitor.commands.common import ConfigOption, PolicyOption, read_policy, read_settings
from monitor.commands.stretch import settings_of
from monitor.core.account_settings import AccountSettings
from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.core.policy import DISALLOWED
from monitor.core.verdict import Verdict, decode_verdict
from monitor.errors import OutOfReach
from monitor.inputs.account import read_account
from monitor.inputs.account_polling import Observed
from monitor.inputs.scan import Scan
from monitor.settings import Settings, kafka_client
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
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Instead: which agents have to log out of Flex and in again.")
    ] = False,
    show_numbers: Annotated[bool, typer.Option("--show-numbers", help="Print telephone numbers in full.")] = False,
) -> None:
    """Read every account over Twilio's API and print what can start a recording, judged by the policy.

    Looks at the Flex setting, the published revision of each Studio flow, the recording mode of SIP trunks, and where
    numbers, TwiML applications and SIP domains lead. What only a person can look into is listed as such. Changes
    nothing. One account that cannot be asked at all stops it.

    With --sessions it asks Kafka instead: in accounts where Flex recording is off, which agents' sessions are older
    than that, and how many recordings they left. Exit code 1: somebody has to log out and in.

    Exit code 1: something can start a recording that the policy disallows. 3: not, but not all could be read.

    Examples:
      recording-monitor audit

      recording-monitor audit --format markdown --save audit.json > audit.md

      recording-monitor audit --baseline audit.json --account main

      recording-monitor audit --sessions --format json
    """
    settings = read_settings(config)
    if sessions:
        _tell_sessions(settings, account, as_json=format_ == "json")
        return
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


def _tell_sessions(settings: Settings, alias: str | None, *, as_json: bool) -> None:
    known, observed = AccountSettings(), Observed()
    for value in settings_of(settings, None):
        for entry in decode(value):
            if isinstance(entry, Event) and entry.setting is not None:
                known.observe(entry.setting)
                observed.hear(entry.setting)
    aliases = {each.sid: each.alias for each in settings.accounts}
    found = [
        each
        for each in agent_sessions(known, observed.workers(), _verdicts(settings), clock.now_ms())
        if alias is None or aliases.get(each.account_sid) == alias
    ]
    typer.echo(report.sessions_json(found) if as_json else report.sessions_text(found), nl=False)
    if any(each.must_log_in for each in found):
        raise typer.Exit(1)


def _verdicts(settings: Settings) -> list[Verdict]:
    """The last verdict of each recording, of those that say that a session was stale."""
    scan = Scan(kafka_client(settings), settings.kafka.group_id, settings.topics.verdicts)
    last: dict[bytes | str | None, Verdict] = {}
    try:
        for message in scan.read():
            key, value = message.key(), message.value()
            last.pop(key, None)
            if value is not None and b'"flex_stale_session"' in value:
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    last[key] = decode_verdict(value)
    finally:
        scan.close()
    return list(last.values())


async def _read(settings: Settings, alias: str | None) -> list[AccountRead]:
    async with Twilio(settings) as twilio:
        return [await read_account(each) for each in await twilio.accounts(alias=alias)]
