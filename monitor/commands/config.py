"""``config print``: the settings as the monitor takes them, file and environment and defaults together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
import yaml

from monitor.commands.common import ConfigOption, read_settings
from monitor.settings import masked


def print_(
    *,
    config: ConfigOption = None,
    origins: Annotated[
        bool, typer.Option("--origins", help="Say of each key that was given where: file and line, or variable.")
    ] = False,
) -> None:
    """Print the effective settings as YAML, secrets masked.

    What is printed can be used as monitor.yaml; secrets in plain text are left as ********. Everything that is wrong
    is told at once, with exit code 2; warnings go to stderr.
    """
    settings = read_settings(config)
    for warning in settings.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if origins:
        for key, origin in sorted(settings.origins.items()):
            typer.echo(f"{key}: {origin}")
        return
    yaml.safe_dump(masked(settings), sys.stdout, sort_keys=False, allow_unicode=True, default_flow_style=False)
