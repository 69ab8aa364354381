"""``doctor``: is everything reachable and rightly set, hop by hop.

A check is a function of the settings that yields hops; the list of them is ``CHECKS``. None changes anything.
"""

from __future__ import annotations

import asyncio
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console

from monitor.commands.common import ConfigOption, read_settings, tuning_of
from monitor.commands.topics import names_of
from monitor.errors import OutOfReach, WrongInput
from monitor.hops import Hop, Result
from monitor.inputs import kafka_hops
from monitor.inputs.topics import Level, TopicAdmin
from monitor.log import redact
from monitor.outputs.alertmanager import Client, addresses_of
from monitor.settings import Alertmanager, SecretError, SecretFile, Settings, SettingsError, kafka_client
from monitor.twilio.accounts import Twilio
from monitor.twilio.transport import Limits

ASK_S: Final = 5.0
_MARKS: Final[dict[Result, str]] = {
    "pass": "ok",
    "warn": "warning",
    "fail": "WRONG",
    "unreachable": "NO ANSWER",
    "not asked": "-",
}
_LEVELS: Final[dict[Level, Result]] = {
    "ok": "pass",
    "created": "pass",
    "missing": "warn",
    "warning": "warn",
    "error": "fail",
    "unknown": "not asked",
}


class Format(StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


def doctor(
    *,
    config: ConfigOption = None,
    output: Annotated[Format, typer.Option("--format", help="For people, or for programs.")] = Format.TABLE,
) -> None:
    """Say hop by hop whether everything the monitor needs is reachable and rightly set, and what to do where it is not.

    Settings and secret files; to Kafka: name, port, TLS, login, topics, rights, group, what came last; Twilio's REST
    API; each Alertmanager; the webhook's public address; the directories it writes to. Nothing is changed, nothing
    written, and each hop ends within seconds. Secrets are never shown.

    Exit code 1: something is wrong. 3: something does not answer. Warnings alone: 0.

    Examples:
      recording-monitor doctor

      recording-monitor doctor --config monitor.yaml --format json | jq '.hops[] | select(.result != "pass")'
    """
    # The files of secrets are a hop of their own: one that cannot be read shall not keep the others from being asked.
    settings = read_settings(config, secrets=False)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    told: list[Hop] = []
    for check in CHECKS:
        for hop in check(settings):
            hop = Hop(hop.name, hop.result, redact(hop.says), hop.remedy)
            told.append(hop)
            if output is Format.TABLE:
                console.print(f"{_MARKS[hop.result]:<9}  {hop.name}: {hop.says}")
                if hop.remedy:
                    console.print(f"{'':<9}    {hop.remedy}")
    results = {hop.result for hop in told}
    code = 1 if "fail" in results else 3 if "unreachable" in results else 0
    if output is Format.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode({"exit_code": code, "hops": told}), indent=2))
    raise typer.Exit(code)


# --- Settings --------------------------------------------------------------------------------------------------------


def _settings(settings: Settings) -> Iterator[Hop]:
    for warning in settings.warnings:
        yield Hop("settings", "warn", warning)
    if not settings.warnings:
        yield Hop("settings", "pass", f"{len(settings.origins)} keys given")


def _secrets(settings: Settings) -> Iterator[Hop]:
    """Each file of a secret: whether it can be read, and by whom else. Its path is not told: it may be the secret."""
    for key, secret in _files_of("", settings):
        try:
            secret.read()
        except SecretError as error:
            remedy = f"{settings.where(key)}: give the path of a file that this user can read."
            yield Hop(f"secret {key}", "fail", str(error), remedy)
            continue
        if secret.path.stat().st_mode & stat.S_IROTH:
            remedy = "chmod o-r, or defaultMode: 0440 where Kubernetes mounts it."
            yield Hop(f"secret {key}", "warn", "every user of this machine can read it", remedy)
        else:
            yield Hop(f"secret {key}", "pass", "can be read")


def _files_of(name: str, value: Any) -> Iterator[tuple[str, SecretFile]]:
    if isinstance(value, SecretFile):
        yield name, value
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            if field.name not in ("origins", "warnings"):
                yield from _files_of(f"{name}.{field.name}" if name else field.name, getattr(value, field.name))
    elif isinstance(value, tuple):
        for index, one in enumerate(value):
            yield from _files_of(f"{name}[{index}]", one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key.endswith("_file"):  # Of kafka.client: only secrets are named so.
                yield f"{name}.{key}", SecretFile(Path(one))


# --- Kafka -----------------------------------------------------------------------------------------------------------


def _kafka(settings: Settings) -> Iterator[Hop]:
    """The way to Kafka; what lies behind a hop that nothing gets over is not asked."""
    try:
        client = kafka_client(settings)
    except SettingsError as error:
        yield Hop("kafka", "not asked", "; ".join(problem.message for problem in error.problems))
        return
    hops = list(kafka_hops.network(client))
    yield from hops
    if not any(hop.result in ("pass", "warn") and hop.name.endswith(" port") for hop in hops):
        yield Hop("kafka login", "not asked", "no broker can be reached")
        return
    login = kafka_hops.login(client)
    yield login
    if login.result != "pass":
        yield Hop("kafka topics", "not asked", "there is no way in")
        return
    names, tuning = names_of(settings), tuning_of(settings)
    try:
        admin = TopicAdmin(client, names, window_ms=tuning.window_ms, age_max_ms=tuning.age_max_ms)
        for finding in admin.check():
            yield Hop(f"topic {finding.topic}", _LEVELS[finding.level], finding.says)
    except OutOfReach as failure:
        yield Hop("kafka topics", "unreachable", str(failure))
        return
    yield from kafka_hops.rights(client, names, settings.kafka.group_id)
    yield from kafka_hops.events(client, names.events, settings.kafka.group_id)


# --- Twilio ----------------------------------------------------------------------------------------------------------


def _twilio(settings: Settings) -> Iterator[Hop]:
    """Whether each account can be asked. What its sinks and subscriptions lack, ``twilio check`` says."""
    asked = [one for one in settings.accounts if one.auth_token_file is not None or one.api_key_sid is not None]
    if not asked:
        yield Hop("twilio", "not asked", "no account has an auth_token_file or an API key")
    for account in asked:
        yield asyncio.run(_let_in(settings, account.alias))


async def _let_in(settings: Settings, alias: str) -> Hop:
    name = f"twilio account {alias}"
    try:
        async with Twilio(settings, limits=Limits(total_s=ASK_S, attempt_s=ASK_S)) as twilio:
            accounts = await twilio.accounts(alias=alias)
            await accounts[0].client.events.v1.sinks.list_async(limit=1)
    except WrongInput as failure:
        return Hop(name, "fail", str(failure))
    except OutOfReach as failure:
        return Hop(name, "unreachable", str(failure), "Look at the way out to *.twilio.com, and at HTTPS_PROXY.")
    below = f", {len(accounts) - 1} subaccounts" if len(accounts) > 1 else ""
    return Hop(name, "pass", f"lets us in{below}; `recording-monitor twilio check` says what it sends")


# --- The ways out, and the public way in -----------------------------------------------------------------------------


def _alertmanagers(settings: Settings) -> Iterator[Hop]:
    if not settings.alertmanagers:
        yield Hop("alertmanagers", "warn", "none is named: nobody is paged", "Name them under alertmanagers.")
    for one in settings.alertmanagers:
        yield from asyncio.run(_ask(one))


async def _ask(one: Alertmanager) -> list[Hop]:
    try:
        async with asyncio.timeout(ASK_S):
            addresses = await addresses_of(one.url)
    except (OSError, TimeoutError):
        return [Hop(f"alertmanager {one.name}", "unreachable", "its name has no address", "Mend its url.")]
    hops = []
    for address in addresses:
        name = f"alertmanager {one.name} ({address})"
        client = Client(one, address, ASK_S)
        try:
            ready, status = await client.get("/-/ready"), await client.get("/api/v2/status")
        finally:
            await client.close()
        if status.status is None:
            remedy = "Is it up, and is its url right? Look at ca_file and at the firewall."
            hops.append(Hop(name, "unreachable", status.says, remedy))
        elif status.status in (401, 403):
            remedy = "Look at username and password_file, or bearer_token_file."
            hops.append(Hop(name, "fail", f"lets us not in ({status.status})", remedy))
        elif not status.good:
            remedy = "Is its url that of an Alertmanager, with its path prefix?"
            hops.append(Hop(name, "fail", f"answers {status.status} to /api/v2/status", remedy))
        elif not ready.good:
            hops.append(Hop(name, "warn", f"is not ready ({ready.status})", "Look at its log."))
        else:
            hops.append(Hop(name, "pass", "ready"))
    return hops


def _public_url(settings: Settings) -> Iterator[Hop]:
    """Whether the webhook's public address answers from here; from outside it may be another matter."""
    url = settings.ingest.public_url
    if url is None:
        yield Hop("public address", "not asked", "ingest.public_url is not set")
        return
    name = f"public address {urlsplit(url).netloc}"
    remedy = "Look at the name, the proxy before the bridge and its certificate. From outside it may still answer."
    try:
        with urllib.request.urlopen(f"{url}/twilio/events", timeout=ASK_S) as answer:  # noqa: S310 - a checked http(s).
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield Hop(name, "warn", f"does not answer from here: {getattr(reason, 'strerror', None) or reason}", remedy)
        return
    if status >= 500:
        yield Hop(name, "warn", f"answers {status}: the proxy is there, the bridge is not", "Start the bridge.")
    else:
        yield Hop(name, "pass", f"answers ({status} to whoever does not post)")


# --- The disk --------------------------------------------------------------------------------------------------------


def _disk(settings: Settings) -> Iterator[Hop]:
    yield _writable("cases.database", settings.cases.database, settings.cases.database.parent)
    directory = settings.snapshots.directory
    if directory is None:
        yield Hop("snapshots.directory", "not asked", "not set: a restart reads the window again")
    else:
        yield _writable("snapshots.directory", directory, directory)


def _writable(key: str, path: Path, directory: Path) -> Hop:
    """Whether a file could be written there, without writing one."""
    there = next((place for place in (directory, *directory.absolute().parents) if place.exists()), Path("/"))
    places = [path, there] if path.exists() else [there]
    if not there.is_dir() or not all(os.access(place, os.W_OK) for place in places):
        return Hop(key, "fail", f"{path} can't be written to", "Let this user write there, or name another place.")
    return Hop(key, "pass", f"{path} can be written to")


CHECKS: Final[tuple[Callable[[Settings], Iterator[Hop]], ...]] = (
    _settings,
    _secrets,
    _kafka,
    _twilio,
    _alertmanagers,
    _public_url,
    _disk,
)
"""Every check, in the order in which it is told."""
