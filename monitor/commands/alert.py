"""``alert test``: a marked page through the real route, to find out before the night whether anybody would be woken."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from monitor import clock
from monitor.commands.common import ConfigOption, read_settings
from monitor.core.verdict import render_instant
from monitor.errors import OutOfReach, WrongInput
from monitor.outputs.alert_text import TEST, Links, trial_alert
from monitor.outputs.alertmanager import Answer, Client, addresses_of
from monitor.settings import Alertmanager, Settings

TIMEOUT_S: Final = 5.0
ASK_S: Final = 3.0


class _Told(msgspec.Struct, frozen=True):
    """What one address of an Alertmanager said."""

    name: str
    address: str
    answer: Answer


def test(
    *,
    config: ConfigOption = None,
    lasts: Annotated[
        int, typer.Option("--for", min=30, max=3600, metavar="SECONDS", help="How long the test alert fires.")
    ] = 120,
    severity: Annotated[
        str, typer.Option("--severity", help="critical goes the way of a real page, warning that of a ticket.")
    ] = "critical",
) -> None:
    """Send a page that says it is a test to every Alertmanager of the settings, and say what each answered.

    It wakes whoever is on call: the labels are those of a real alert, but for its name and `account: test`. It resolves
    by itself. An Alertmanager that has taken it has not yet told anybody: look whether the page arrives.

    Exit code 1: an Alertmanager refused it. 3: one did not answer.

    Examples:
      recording-monitor alert test

      recording-monitor alert test --severity warning --for 300
    """
    if severity not in ("critical", "warning", "info"):
        raise WrongInput(f"--severity {severity}: must be one of critical, warning, info")
    settings = read_settings(config)
    if not settings.alertmanagers:
        raise WrongInput(f"{settings.where('alertmanagers')}: none is named, so nobody can be paged. Name at least one")
    told = asyncio.run(_tell(settings, lasts, severity))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for one in told:
        console.print(f"{_verdict(one.answer):<12} {one.name} ({one.address})  {_detail(one.answer)}".rstrip())
    if any(one.answer.status is not None and not one.answer.good for one in told):
        raise typer.Exit(1)
    if not all(one.answer.good for one in told):
        raise OutOfReach("not every Alertmanager answered")
    console.print(f"\nNow see whether it arrives: alert {TEST}, severity {severity}, for {lasts} s.")


async def _tell(settings: Settings, lasts_s: int, severity: str) -> list[_Told]:
    """Tell all at once; each answer in the order of the settings."""
    now_ms = clock.now_ms()
    links = Links(
        web=settings.web.external_url or "http://localhost",
        dashboard=settings.alerts.dashboard_url,
    )
    body = trial_alert(now_ms, socket.gethostname(), links)
    body["labels"]["severity"] = severity
    body["endsAt"] = render_instant(now_ms + lasts_s * 1000)
    found = await asyncio.gather(*[_tell_one(one, body) for one in settings.alertmanagers])
    return [told for answers in found for told in answers]


async def _tell_one(one: Alertmanager, body: dict[str, object]) -> list[_Told]:
    try:
        async with asyncio.timeout(ASK_S):
            addresses = await addresses_of(one.url)
    except (OSError, TimeoutError) as failure:
        return [_Told(one.name, "no address", Answer(None, str(failure) or "the name was not resolved in time"))]
    answers = []
    for address in addresses:
        client = Client(one, address, TIMEOUT_S)
        try:
            answers.append(_Told(one.name, address, await client.post([body])))
        finally:
            await client.close()
    return answers


def _verdict(answer: Answer) -> str:
    if answer.good:
        return "taken"
    return "no answer" if answer.status is None else f"refused {answer.status}"


def _detail(answer: Answer) -> str:
    return "" if answer.good else answer.says.replace("\n", " ")[:200]
