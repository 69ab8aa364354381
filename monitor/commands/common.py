"""What several commands do first: settings and policy from files and environment, and what the fold takes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from monitor.core.attribution import Starter
from monitor.core.pipeline import Tuning
from monitor.inputs.policy_file import LoadedPolicy, load_policy
from monitor.inputs.reader import shared_properties
from monitor.outputs.delivery import producer_properties
from monitor.settings import Settings, load_settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file; without it monitor.yaml, if there is one.", metavar="FILE"),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", "-p", help="Policy file; without it that of the settings.", metavar="FILE"),
]


def read_settings(config: Path | None, *, secrets: bool = True) -> Settings:
    """The settings, as every command reads them. Raises ``SettingsError``."""
    return load_settings(config, os.environ, secrets=secrets)


def read_policy(settings: Settings, policy: Path | None = None) -> LoadedPolicy:
    """The policy of the command line, else of the settings, else the built-in one. Raises ``PolicyError``.

    What is doubtful in it goes to stderr, a line each.
    """
    loaded = load_policy(policy or settings.policy)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return loaded


def writing_properties(client: Mapping[str, object]) -> dict[str, object]:
    """Librdkafka's properties for a producer of ours, of those that the settings give (``kafka_client``)."""
    return producer_properties(shared_properties(client, consumes=False))


def tuning_of(settings: Settings) -> Tuning:
    """The part of the settings that the fold runs under."""
    return Tuning(
        window_ms=round(settings.window.total_seconds() * 1000),
        grace_ms=round(settings.grace.total_seconds() * 1000),
        session_max_ms=round(settings.flex.session_max.total_seconds() * 1000),
        starters=tuple(Starter(s.callback_url, s.cause, s.name) for s in settings.starters),
        aliases={account.sid: account.alias for account in settings.accounts},
    )
