"""``quarantine list | show | export``: the messages that were set aside, for a person to look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from monitor.commands.common import ConfigOption, read_settings
from monitor.inputs.reader import headers_of
from monitor.inputs.scan import Scan
from monitor.log import redact
from monitor.outputs.quarantine import Aside, read_aside
from monitor.settings import Problem, Settings, SettingsError, kafka_client

SHOWN_BYTES: Final = 4096

Reason = Annotated[str | None, typer.Option("--reason", help="Only those set aside for this reason.")]


class Kept(Aside, frozen=True, kw_only=True):
    """A message of the quarantine topic and where it lies there: ``place`` is ``partition:offset``."""

    place: str
    at: datetime


def list_(*, config: ConfigOption = None, reason: Reason = None) -> None:
    """List what was set aside: its place in quarantine, when, why, and where it stood. Exit code 1: there is none."""
    table = Table("place", "set aside", "reason", "position", "entry", "bytes", "detail", box=None)
    count = 0
    for kept in _read(read_settings(config), reason):
        count += 1
        entry = "whole message" if kept.index is None else str(kept.index)
        table.add_row(
            kept.place, _instant(kept.at), kept.reason, kept.position, entry, str(kept.length), redact(kept.detail)
        )
    if not count:
        typer.echo("Nothing was set aside.", err=True)
        raise typer.Exit(1)
    Console(highlight=False, markup=False).print(table)


def show(
    place: Annotated[str, typer.Argument(help="Its place in quarantine, as `list` says it: partition:offset.")],
    *,
    config: ConfigOption = None,
) -> None:
    """Show one of them: why it is there, and its first 4 KiB, control characters escaped.

    It is shown as it came: it may hold telephone numbers and names. Exit code 1: there is no such message.
    """
    partition, offset = _place(place)
    for kept in _read(read_settings(config), None, partition):
        if kept.place == f"{partition}:{offset}":
            _show(kept)
            return
    typer.echo(f"Nothing lies at {place}: it may have been kept long enough, or never was.", err=True)
    raise typer.Exit(1)


def export(
    directory: Annotated[Path, typer.Argument(help="Where to write; it is made if it is not there.", metavar="DIR")],
    *,
    config: ConfigOption = None,
    reason: Reason = None,
) -> None:
    """Write the bytes of each into a file of its own, named by place and reason.

    At most 256 KiB of a message were kept; its length and SHA-256 are those of all of it. Exit code 1: there is none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for kept in _read(read_settings(config), reason):
        word = re.sub(r"[^a-z0-9-]+", "-", kept.reason.lower()).strip("-") or "unknown"
        (directory / f"{kept.place.replace(':', '-')}.{word}").write_bytes(kept.data)
        count += 1
    typer.echo(f"{count} written to {directory}", err=True)
    if not count:
        raise typer.Exit(1)


def _read(settings: Settings, reason: str | None, partition: int | None = None) -> Iterator[Kept]:
    only = None if partition is None else [partition]
    scan = Scan(kafka_client(settings), settings.kafka.group_id, settings.topics.quarantine, partitions=only)
    try:
        for message in scan.read():
            aside = read_aside(headers_of(message) or [], message.value())
            if reason is None or aside.reason == reason:
                at = datetime.fromtimestamp(max(0, message.timestamp()[1]) / 1000, UTC)
                yield Kept(
                    reason=aside.reason,
                    detail=aside.detail,
                    position=aside.position,
                    index=aside.index,
                    length=aside.length,
                    sha256=aside.sha256,
                    data=aside.data,
                    place=f"{message.partition()}:{message.offset()}",
                    at=at,
                )
    finally:
        scan.close()


def _show(kept: Kept) -> None:
    typer.echo(f"place     {kept.place}, set aside {_instant(kept.at)}")
    typer.echo(f"reason    {kept.reason}" + (f" ({kept.detail})" if kept.detail else ""))
    entry = "the whole message" if kept.index is None else f"entry {kept.index} of the message"
    typer.echo(f"position  {kept.position} of the events topic, {entry}")
    typer.echo(f"length    {kept.length} bytes" + (f", of which {len(kept.data)} were kept" if kept.truncated else ""))
    typer.echo(f"sha256    {kept.sha256}")
    typer.echo("")
    typer.echo(_printable(kept.data[:SHOWN_BYTES]))
    if len(kept.data) > SHOWN_BYTES:
        typer.echo(f"… and {len(kept.data) - SHOWN_BYTES} bytes more: `quarantine export` writes them all.")


def _printable(data: bytes) -> str:
    """Bytes as text a terminal may be given: it must not obey what strangers wrote."""
    text = data.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _place(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,18})", text)
    if match is None:
        raise SettingsError([Problem("quarantine show", 0, "PLACE", "is not partition:offset, such as 0:17")])
    return int(match[1]), int(match[2])


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
