"""``simulate``: a contact centre's events into a file or a topic, and the truth about its recordings beside them."""

from __future__ import annotations

import os
import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from monitor import clock
from monitor.commands.common import ConfigOption, read_settings
from monitor.commands.progress import progress_bar
from monitor.settings import kafka_client
from monitor.simulator.delivery import FileSink, TopicSink, deliver
from monitor.simulator.scenes import DEFAULT_CAUSES
from monitor.simulator.traffic import KnobError, Knobs
from monitor.simulator.truth import Counts

_DEFAULTS: Final = Knobs()
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def _span_s(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``1.5m``, ``2h``, ``1d`` or ``250ms``."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no span of time. Write a number and a unit: 30s, 10m, 2h")
    return float(match[1]) * _SECONDS[match[2]]


def _start_ms(text: str | None, *, live: bool) -> int:
    """The instant of the first call: ``now``, ``now-10m`` or ISO 8601; None: now if ``live``, else a fixed one."""
    now_ms = clock.now_ms()
    if text is None:
        return now_ms if live else _DEFAULTS.start_ms
    if text == "now":
        return now_ms
    if text.startswith("now-"):
        return now_ms - int(_span_s(text.removeprefix("now-")) * 1000)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r} is no start. Write now, now-10m or an instant like 2026-11-02T15:00:00Z")
    return int(instant.astimezone(UTC).timestamp() * 1000)


def _weights(causes: list[str]) -> dict[str, float]:
    """Weights of causes from ``NAME`` or ``NAME=WEIGHT``."""
    weights: dict[str, float] = {}
    for text in causes:
        name, equals, weight = text.partition("=")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise typer.BadParameter(f"{text!r}: {weight!r} is no weight. Write for example {name}=2") from None
    return weights


def simulate(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write into this file, one event a line; gzipped where it ends in .gz, - for standard output.",
            metavar="FILE",
        ),
    ] = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Send to this Kafka instead.", metavar="HOST:PORT,…")
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="The topic; must be named, so that nobody floods a real one by accident.", metavar="NAME"),
    ] = None,
    config: ConfigOption = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Where the truth goes; without it OUT.truth.jsonl or TOPIC.truth.jsonl.", metavar="FILE"),
    ] = None,
    events: Annotated[
        int | None, typer.Option(help="Begin calls until there are this many entries.", metavar="N")
    ] = None,
    calls: Annotated[int | None, typer.Option(help="Begin this many calls.", metavar="N")] = None,
    duration: Annotated[
        str | None,
        typer.Option("--for", help="Begin calls for this long; all are brought to their end.", metavar="SPAN"),
    ] = None,
    rate: Annotated[float, typer.Option(help="Entries a second, in the time of the calls.")] = _DEFAULTS.rate,
    real_time: Annotated[
        bool | None,
        typer.Option(
            "--real-time/--fast",
            help="Send each entry when it is due, or all as fast as possible. Without either: in real time into Kafka,"
            " fast into a file.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="When the first call begins: now, now-10m or an instant with its zone. Without it now for Kafka, and"
            " 2026-11-02T15:00:00Z for a file, so that the same seed gives the same bytes.",
            metavar="INSTANT",
        ),
    ] = None,
    tempo: Annotated[
        float, typer.Option(help="How many times faster than in life people wait and talk.")
    ] = _DEFAULTS.tempo,
    accounts: Annotated[
        int, typer.Option(help="Number of accounts; each has its own Flex setting.", metavar="N")
    ] = _DEFAULTS.accounts,
    recorded: Annotated[float, typer.Option(help="Share of calls that are recorded.")] = _DEFAULTS.recorded,
    cause: Annotated[
        list[str] | None,
        typer.Option(
            "--cause",
            help="A cause of recordings and its weight; may be repeated. Without it a mix as in life of: "
            + ", ".join(DEFAULT_CAUSES)
            + ".",
            metavar="NAME[=WEIGHT]",
        ),
    ] = None,
    duplicates: Annotated[
        float, typer.Option(help="Share of events that come a second time, byte for byte.")
    ] = _DEFAULTS.duplicates,
    retried: Annotated[
        float, typer.Option(help="Share of Voice callbacks that come a second time under a new id.")
    ] = _DEFAULTS.retried,
    disorder: Annotated[
        str, typer.Option(help="Deliver each event up to this long after it happened.", metavar="SPAN")
    ] = f"{_DEFAULTS.disorder_s:g}s",
    late: Annotated[float, typer.Option(help="Share of events that are delivered much later.")] = _DEFAULTS.late,
    lateness: Annotated[
        str, typer.Option(help="How much later, at most; Twilio retries for up to four hours.", metavar="SPAN")
    ] = f"{_DEFAULTS.lateness_s:g}s",
    loss: Annotated[
        float, typer.Option(help="Share of events that never come; the truth says what they leave untold.")
    ] = _DEFAULTS.loss,
    malformed: Annotated[float, typer.Option(help="Share of entries nobody can read.")] = _DEFAULTS.malformed,
    seed: Annotated[int, typer.Option(help="Same seed, options and start: the same bytes.")] = _DEFAULTS.seed,
) -> None:
    """Write realistic traffic of a contact centre, with the truth about each of its recordings beside it.

    The truth is written before the first event: what started each recording, in which call and conference, and what
    the built-in policy says to it. `replay` of the file must agree, given the `starters` in the truth's first line.

    Examples:
      recording-monitor simulate --events 100000 --out traffic.jsonl.gz

      recording-monitor simulate --calls 50 --recorded 1 --cause dial_verb --cause flex_stale_session=3 --out few.jsonl

      recording-monitor simulate --bootstrap-servers localhost:9092 --topic trial --rate 200 --start now-10m --real-time
    """
    if (out is None) == (bootstrap_servers is None and config is None):
        raise typer.BadParameter("say where to: either --out FILE, or --bootstrap-servers (or --config) and --topic")
    live = out is None
    if live and topic is None:
        raise typer.BadParameter("--topic: name the topic the traffic goes to")
    if not live and topic is not None:
        raise typer.BadParameter("--topic: a file has none; use --bootstrap-servers instead of --out")
    bounded = not (events is None and calls is None and duration is None)
    if not (bounded or live or str(out) == "-"):
        raise typer.BadParameter("a file needs an end: --events, --calls or --for")
    if real_time is None:
        real_time = live
    if truth is None:
        if str(out) == "-":
            raise typer.BadParameter("--truth: name a file for the truth, since standard output takes the events")
        truth = Path(f"{topic if out is None else out}.truth.jsonl")
    try:
        knobs = Knobs(
            seed=seed,
            start_ms=_start_ms(start, live=live),
            rate=rate,
            calls=calls,
            events=events,
            duration_s=None if duration is None else _span_s(duration),
            accounts=accounts,
            tempo=tempo,
            recorded=recorded,
            causes=_weights(cause or []),
            duplicates=duplicates,
            retried=retried,
            disorder_s=_span_s(disorder),
            late=late,
            lateness_s=_span_s(lateness),
            loss=loss,
            malformed=malformed,
        )
    except KnobError as error:
        raise typer.BadParameter(str(error)) from None
    if out is not None:
        sink: FileSink | TopicSink = FileSink(out)
    else:
        properties = {} if config is None else kafka_client(read_settings(config))
        if bootstrap_servers is not None:
            properties["bootstrap.servers"] = bootstrap_servers
        assert topic is not None
        sink = TopicSink(properties, topic)
    # A service manager's stop is an interrupt like any other: what was sent is acknowledged first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress_bar("events") as progress:
            task = progress.add_task("writing the truth" if knobs.bounded else "sending", total=None)

            def planned(counts: Counts) -> None:
                progress.update(task, description="sending", total=counts.entries)

            def sent(number: int) -> None:
                progress.update(task, completed=number)

            number = deliver(knobs, sink, truth, real_time=real_time, planned=planned, sent=sent)
    except BrokenPipeError:  # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    typer.echo(f"{number:,} entries written; the truth is in {truth}", err=True)
