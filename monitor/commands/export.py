"""``export``: events of the topic into a file, as ``replay`` reads them.

A file holds JSON lines. A message is one line, ``{"kafka": …, "value": …}``; ``value`` is its JSON as it stood, byte
for byte. One that is not a single JSON value on a single line has ``value_base64`` in its place, a tombstone neither.
``kafka`` is ``{"topic": …, "partition": …, "offset": …, "timestamp_ms": …, "headers": [[name, base64], …]}``: a replay
has the arrivals that the monitor had. The account settings that were in force stand before them, as bare events.
"""

from __future__ import annotations

import base64
import contextlib
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
import typer

from monitor.commands.common import ConfigOption, read_settings
from monitor.commands.stretch import (
    SinceOption,
    TopicMessage,
    UntilOption,
    account_of,
    accounts_of,
    connected,
    instant_of,
    reach_ms,
    select,
    settings_of,
    wrong_usage,
)
from monitor.inputs.mask import Mask
from monitor.inputs.scan import Scan
from monitor.settings import kafka_client

_SID: Final = re.compile(r"[A-Z]{2}[0-9a-f]{32}")


def export(
    *,
    config: ConfigOption = None,
    sid: Annotated[
        list[str] | None,
        typer.Option(
            "--sid",
            "--call",
            "--recording",
            "--conference",
            help="A recording, call, conference, task or execution; with all that is connected to it. Repeatable.",
            metavar="SID",
        ),
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="All of an account, by SID or by its alias in the settings.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Only messages that name the SID itself, not what is connected to it.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; without it stdout.")] = None,
    mask: Annotated[
        bool, typer.Option("--mask", help="Replace numbers, names and TwiML, for a bug report. SIDs stay.")
    ] = False,
    settings_too: Annotated[
        bool, typer.Option("--settings/--no-settings", help="Put the account settings before the events.")
    ] = True,
) -> None:
    """Write events of the topic into a file for `replay`. At least one of SID, account and time has to be given.

    Without --mask the file holds what Twilio sent: telephone numbers, names, TwiML. Exit code 1: nothing was found.

    Examples:
      recording-monitor export --sid RE… --out recording.jsonl && recording-monitor replay --revisions recording.jsonl

      recording-monitor export --account main --since 24h --mask --out day.jsonl
    """
    settings = read_settings(config)
    now = datetime.now(UTC)
    wanted = frozenset(_checked_sid(each) for each in sid or ())
    account_sid = None if account is None else account_of(settings, account)
    since_ms, until_ms = instant_of(since, "--since", now), instant_of(until, "--until", now)
    if not wanted and account_sid is None and since_ms is None and until_ms is None:
        raise wrong_usage("", "say what to export: --sid, --account, --since or --until")
    scan = Scan(
        kafka_client(settings), settings.kafka.group_id, settings.topics.events, since_ms=since_ms, until_ms=until_ms
    )
    writer = Writer(Mask() if mask else None)
    try:
        if wanted and not alone:
            wanted = connected(scan, wanted, account_sid, reach_ms=reach_ms(settings))
        with _opened(out) as file:
            if settings_too:
                for value in settings_of(settings, accounts_of(scan, wanted, account_sid)):
                    writer.bare(file, value)
            for message in select(scan, wanted, account_sid):
                writer.message(file, message)
    finally:
        scan.close()
    typer.echo(writer.summary(), err=True)
    if not writer.written:
        raise typer.Exit(1)


class Writer:
    """Writes lines, masked if there is a mask, and counts them."""

    def __init__(self, mask: Mask | None) -> None:
        self._mask = mask
        self.written = 0
        self.settings = 0
        self.left_out = 0

    def bare(self, file: IO[bytes], value: bytes) -> None:
        """An account setting: no arrival, it holds by its own instants."""
        line = self._mask.json(value) if self._mask is not None else _compact(value)
        if line is None:
            self.left_out += 1
            return
        file.write(line + b"\n")
        self.settings += 1

    def message(self, file: IO[bytes], message: TopicMessage) -> None:
        """One message with its place and its arrival."""
        line = render(message) if self._mask is None else self._masked(message, self._mask)
        if line is None:
            self.left_out += 1
            return
        file.write(line + b"\n")
        self.written += 1

    def summary(self) -> str:
        """What was written, in a line."""
        said = f"{self.written} messages and {self.settings} account settings written"
        return said + (f"; {self.left_out} left out, which are not JSON" if self.left_out else "")

    @staticmethod
    def _masked(message: TopicMessage, mask: Mask) -> bytes | None:
        value = message.value
        if value is not None:
            lines = [line for line in value.splitlines() if line.strip()]
            # One document, or several on lines of their own.
            whole = mask.json(value)
            parts = [whole] if whole is not None else [mask.json(line) for line in lines]
            if any(part is None for part in parts):
                return None
            value = b"\n".join(part for part in parts if part is not None)
        headers = tuple(mask.headers(list(message.headers)))
        return render(msgspec.structs.replace(message, value=value, headers=headers))


def render(message: TopicMessage) -> bytes:
    """One line of the file, without its end."""
    kafka = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp_ms": message.timestamp_ms,
        "headers": [(name, base64.b64encode(value).decode()) for name, value in message.headers],
    }
    head = b'{"kafka":' + msgspec.json.encode(kafka)
    if message.value is None:
        return head + b"}"
    plain = _one_line(message.value)
    if plain is not None:
        return head + b',"value":' + plain + b"}"
    return head + b',"value_base64":"' + base64.b64encode(message.value) + b'"}'


def _compact(value: bytes) -> bytes | None:
    """JSON on one line, however many it stood on; None where it is none."""
    try:
        return msgspec.json.format(value, indent=-1)
    except msgspec.DecodeError:
        return None


def _one_line(value: bytes) -> bytes | None:
    """The bytes, where they are one JSON value that fits on a line as it stands."""
    if b"\n" in value or b"\r" in value:
        return None
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
        value.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return value


def _checked_sid(text: str) -> str:
    if _SID.fullmatch(text) is None:
        raise wrong_usage("--sid", "is not a SID: two letters and 32 digits of 0-9 a-f")
    return text


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as file:
        yield file
