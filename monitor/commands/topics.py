"""``topics check`` and ``topics apply``: the topics the monitor needs, and the rights it needs on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from monitor.commands.common import ConfigOption, read_settings, tuning_of
from monitor.errors import OutOfReach
from monitor.inputs.topics import EVENTS_PARTITIONS, Finding, Names, TopicAdmin, acls
from monitor.settings import Settings, kafka_client

_MARKS = {
    "ok": "ok",
    "created": "created",
    "missing": "missing",
    "warning": "warning",
    "error": "wrong",
    "unknown": "?",
}


def check(
    *,
    config: ConfigOption = None,
    rights: Annotated[bool, typer.Option("--acls/--no-acls", help="List the rights the monitor's user needs.")] = True,
) -> None:
    """Say what is wrong with the topics, and list the rights needed. Changes nothing.

    Exit code 1: something is wrong that `run` would not start on. 3: nobody could be asked.
    """
    settings = read_settings(config)
    _tell(settings, _admin(settings).check(), rights=rights)


def apply(
    *,
    config: ConfigOption = None,
    partitions: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Partitions of the events topic, if it has to be created. They can't be changed without `rekey`; an "
            "account is always in one, so more than accounts or processes are no use.",
        ),
    ] = EVENTS_PARTITIONS,
) -> None:
    """Create the topics that are missing, and say what is wrong with the others. What is there is not changed.

    Exit code 1: something is wrong that `run` would not start on. 3: nobody could be asked.
    """
    settings = read_settings(config)
    _tell(settings, _admin(settings).apply(partitions=partitions), rights=False)


def names_of(settings: Settings) -> Names:
    """The names of the five topics."""
    return Names(
        events=settings.topics.events,
        verdicts=settings.topics.verdicts,
        case_actions=settings.topics.case_actions,
        account_settings=settings.topics.account_settings,
        quarantine=settings.topics.quarantine,
    )


def _admin(settings: Settings) -> TopicAdmin:
    tuning = tuning_of(settings)
    return TopicAdmin(
        kafka_client(settings), names_of(settings), window_ms=tuning.window_ms, age_max_ms=tuning.age_max_ms
    )


def _tell(settings: Settings, findings: Sequence[Finding], *, rights: bool) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for finding in findings:
        topic = "" if finding.topic == "*" else f"{finding.topic}: "
        console.print(f"{_MARKS[finding.level]:<8} {topic}{finding.says}")
    if rights:
        console.print("\nRights the monitor's user needs:")
        for line in acls(names_of(settings), settings.kafka.group_id):
            console.print(f"  {line}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
    if any(finding.topic == "*" for finding in findings):
        raise OutOfReach("this cluster answers no admin calls: nothing was checked, nothing created")
