"""``forget``: take back what the monitor has stored about recordings: their verdicts, and what people said to them.

A tombstone in the verdict's own partition ends it for every process; the view of each drops the case, and with it what
was done about it. The owner honours one of a final verdict alone: of any other it knows better, and writes it again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

from monitor.commands.case import EXIT_NO, SidsArgument, write_all
from monitor.commands.common import ConfigOption, read_settings
from monitor.commands.paging import seen_in
from monitor.inputs.scan import Scan
from monitor.outputs.cases import VerdictSeen
from monitor.settings import Settings, kafka_client


def forget(
    sids: SidsArgument,
    config: ConfigOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would be done.")] = False,
) -> None:
    """Take back the verdicts about recordings, and what people said to them. All of them, or none.

    Only what is final can be forgotten: wait until the window has passed. Twilio's events stay until their topic drops
    them, and one that comes late may have a recording of the last seven days judged anew. The brokers drop what was
    taken back when they next compact their topics.

    Exit code 1: nothing is stored about one of them, or it is not final, or --yes was not given.

    Example: recording-monitor forget RE… --yes
    """
    settings = read_settings(config)
    verdicts, actions = _stored(settings, sids)
    refused = []
    for sid in sids:
        if sid not in verdicts:
            refused.append(f"{sid}: no verdict is stored about it")
        elif not verdicts[sid][1]:
            refused.append(f"{sid}: its verdict is not final yet. Forget it once the window has passed")
    for line in refused:
        typer.echo(line, err=True)
    if refused:
        raise typer.Exit(EXIT_NO)
    if yes:
        topics = settings.topics
        gone = [(topics.verdicts, sid, None, verdicts[sid][0]) for sid in sids]
        write_all(settings, [*gone, *((topics.case_actions, key, None, None) for key in actions)])
    did = "forgotten" if yes else "would be forgotten"
    typer.echo(f"{len(sids)} verdicts and {len(actions)} actions {did}")
    if not yes:
        raise typer.Exit(EXIT_NO)


def _stored(settings: Settings, sids: Collection[str]) -> tuple[dict[str, tuple[int, bool]], list[str]]:
    """Of each recording with a verdict its partition and whether it is final; and the keys of what was said to it."""
    verdicts: dict[str, tuple[int, bool]] = {}
    actions: dict[str, None] = {}
    for topic in (settings.topics.verdicts, settings.topics.case_actions):
        scan = Scan(kafka_client(settings), settings.kafka.group_id, topic)
        try:
            for message in scan.read():
                seen = seen_in(message, settings.topics.case_actions)
                if seen is None or seen.key.partition("/")[0] not in sids:
                    continue
                if isinstance(seen, VerdictSeen):
                    verdicts.pop(seen.key, None)
                    if seen.verdict is not None:
                        verdicts[seen.key] = (message.partition() or 0, seen.verdict.final)
                elif seen.action is None:
                    actions.pop(seen.key, None)
                else:
                    actions[seen.key] = None
        finally:
            scan.close()
    return verdicts, list(actions)
