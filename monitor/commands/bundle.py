"""``bundle``: a zip for Twilio's support, with everything that they ask for about some recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from monitor import clock
from monitor.commands.case import EXIT_NO, SidsArgument, cases_of, known
from monitor.commands.common import ConfigOption, read_settings
from monitor.commands.stretch import connected, reach_ms, select, settings_of
from monitor.core.verdict import render_instant
from monitor.inputs.mask import Mask
from monitor.inputs.scan import Scan
from monitor.outputs.bundle import render_bundle
from monitor.outputs.case_events import RawEvent, RawEvents
from monitor.outputs.cases import Case
from monitor.settings import kafka_client


def bundle(
    sids: SidsArgument,
    config: ConfigOption = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("for-support.zip"),
    unmasked: Annotated[
        bool, typer.Option("--unmasked", help="Leave numbers, names and TwiML in the events as they are.")
    ] = False,
) -> None:
    """Pack what Twilio's support asks for: SIDs, times, sources, evidence, Twilio's events, what was ruled out.

    All events of the recordings' conversations that are still in the topic are in it, and what is known of the
    accounts; README.md has a text to paste, manifest.sha256 the check sums. Numbers, names and TwiML are masked.

    Exit code 1: there is no case of one of them, and nothing was written.

    Examples:
      recording-monitor bundle RE… --out for-support.zip

      recording-monitor bundle RE… RE… --unmasked
    """
    settings = read_settings(config)
    mask = None if unmasked else Mask()
    with cases_of(settings, only=sids) as view:
        cases = known(view, sids)
    if len(cases) < len(sids):
        raise typer.Exit(EXIT_NO)
    scan = Scan(kafka_client(settings), settings.kafka.group_id, settings.topics.events)
    try:
        found = [(case, _events(scan, case, mask, reach_ms(settings))) for case in cases]
    finally:
        scan.close()
    accounts = sorted({case.verdict.account_sid for case in cases})
    known_of = {
        account: [said for value in settings_of(settings, {account}) if (said := _masked(mask, value)) is not None]
        for account in accounts
    }
    packed = render_bundle(found, known_of, now_ms=clock.now_ms(), masked=mask is not None)
    beside = out.with_name(out.name + ".part")
    beside.write_bytes(packed)
    beside.replace(out)  # All of it or nothing.
    typer.echo(f"{out}: {len(cases)} cases, {sum(len(events.events) for _, events in found)} messages")


def _events(scan: Scan, case: Case, mask: Mask | None, within_ms: int) -> RawEvents:
    wanted = connected(scan, frozenset({case.key}), case.verdict.account_sid, reach_ms=within_ms)
    return RawEvents(
        events=tuple(
            RawEvent(
                position=f"{message.partition}:{message.offset}",
                arrived_at=render_instant(message.timestamp_ms),
                value=None if message.value is None else _masked(mask, message.value),
            )
            for message in select(scan, wanted, None)
        )
    )


def _masked(mask: Mask | None, value: bytes) -> bytes | None:
    """The JSON of a message, masked if there is a mask; None where it is no single JSON document."""
    if mask is not None:
        return mask.json(value)
    try:
        return msgspec.json.format(value, indent=-1)
    except msgspec.DecodeError:
        return None
