"""``replay``: events from files through the same core as ``run``, without side effects."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from monitor.commands.common import ConfigOption, PolicyOption, read_policy, read_settings, tuning_of
from monitor.core.account_settings import AccountSettings
from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.core.judging import Watch
from monitor.core.pipeline import Checkpoint, Counts, Pipeline, Publish, Told, Tuning
from monitor.core.policy import Policy
from monitor.core.values import INSTANTS
from monitor.core.verdict import Ledger, Verdict, encode_verdict
from monitor.inputs.files import Files, Line

NO_INSTANT_MS: Final = 0


class Arrival(StrEnum):
    """When the lines of a file arrive, which carry no arrival of their own."""

    TOGETHER = "together"
    TIME = "time"


class Format(StrEnum):
    """How verdicts are printed."""

    TEXT = "text"
    JSONL = "jsonl"


class Replay:
    """Files through the core: one pipeline for lines, one for each partition of an export.

    ``watch`` is told of every recording that is judged, each time.
    """

    def __init__(
        self, tuning: Tuning, policy: Policy, *, arrival: Arrival = Arrival.TOGETHER, watch: Watch | None = None
    ) -> None:
        self._tuning = tuning
        self._policy = policy
        self._arrival = arrival
        self._watch = watch
        self._settings = AccountSettings()
        self._pipelines: dict[int | None, Pipeline] = {}
        self._now_ms: int | None = None  # The arrival of plain lines: fixed, or the running maximum of `time`.

    def run(self, files: Files, *, end: bool = True, on_bytes: Callable[[int], None] | None = None) -> Iterator[Told]:
        """Yield what is told, message by message; with ``end`` time is then taken past every window."""
        if self._arrival is Arrival.TOGETHER:
            self._now_ms = greatest_time_ms(files.read())
        waiting: list[Line] = []
        for line in files.read(on_bytes):
            if line.timestamp_ms is not None:
                yield from self._feed(line, line.timestamp_ms)
                continue
            if self._arrival is Arrival.TIME:
                time_ms = _time_ms(line)
                if time_ms is not None and (self._now_ms is None or time_ms > self._now_ms):
                    self._now_ms = time_ms
                if self._now_ms is None:
                    waiting.append(line)
                    continue
                for early in waiting:
                    yield from self._feed(early, self._now_ms)
                waiting.clear()
            yield from self._feed(line, self._now_ms or NO_INSTANT_MS)
        if end:
            for early in waiting:
                yield from self._feed(early, NO_INSTANT_MS)
            for pipeline in self._pipelines.values():
                yield from pipeline.finish()

    def counts(self) -> Counts:
        """What was counted over all pipelines since the last time."""
        total = Counts()
        for pipeline in self._pipelines.values():
            counts = pipeline.take_counts()
            for name in ("messages", "entries", "ignored", "malformed", "duplicate", "late", "too_old", "truncated"):
                setattr(total, name, getattr(total, name) + getattr(counts, name))
            for kind, number in counts.events.items():
                total.events[kind] = total.events.get(kind, 0) + number
        return total

    def pipelines(self) -> Iterable[Pipeline]:
        """The pipelines, for a look into what they hold."""
        return self._pipelines.values()

    def _feed(self, line: Line, arrived_ms: int) -> Iterable[Told]:
        pipeline = self._pipelines.get(line.partition)
        if pipeline is None:
            pipeline = self._pipelines[line.partition] = self._new(line)
        offset = line.number if line.offset is None else line.offset
        return pipeline.feed(offset, arrived_ms, line.value, line.headers or None)

    def _new(self, line: Line) -> Pipeline:
        tuning = self._tuning
        if line.timestamp_ms is None:
            tuning = msgspec.structs.replace(tuning, recordings_too_old_ms=None)
        first = line.number if line.offset is None else line.offset
        pipeline = Pipeline(
            tuning,
            self._policy,
            self._settings,
            partition=line.partition,
            checkpoint=Checkpoint(offset=first, generation=0, replay_from=first, log_time_ms=None),
            clamp=line.timestamp_ms is not None,
            watch=self._watch,
        )
        pipeline.open(Ledger())
        return pipeline


def _time_ms(line: Line) -> int | None:
    """The greatest ``time`` of Twilio's entries in a line."""
    entries = decode(line.value, line.headers)
    times = [INSTANTS[entry.time] for entry in entries if isinstance(entry, Event)]
    return max((time_ms for time_ms in times if time_ms is not None), default=None)


def greatest_time_ms(lines: Iterable[Line]) -> int | None:
    """The greatest ``time`` in the input: when all of its lines arrive. None where nothing has one."""
    times = (_time_ms(line) for line in lines if line.timestamp_ms is None)
    return max((time_ms for time_ms in times if time_ms is not None), default=None)


def replay(
    files: Annotated[list[Path], typer.Argument(help="Files with events; - reads standard input.", metavar="FILE…")],
    *,
    config: ConfigOption = None,
    policy: PolicyOption = None,
    output: Annotated[
        Format, typer.Option("--format", "-f", help="text for people, jsonl: one JSON verdict a line.")
    ] = Format.TEXT,
    revisions: Annotated[
        bool, typer.Option("--revisions", help="Print every revision as it is decided, not only the last one.")
    ] = False,
    arrival: Annotated[
        Arrival,
        typer.Option(
            help="When lines arrive: together (all at once, at the greatest time in the input), or as their time runs."
        ),
    ] = Arrival.TOGETHER,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Take time past every window at the end; or leave the windows open.")
    ] = True,
    recordings_only: Annotated[bool, typer.Option("--recordings-only", help="Leave suspicions out.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where an entry was malformed.")] = False,
) -> None:
    """Judge events from files: the same core as `run`, no Kafka, no side effects.

    A file holds one JSON event a line (or an array of them; or one JSON document), plain or gzipped; what `export`
    wrote brings Kafka's own timestamps. Verdicts go to stdout, what was counted to stderr.

    Examples:
      recording-monitor replay events.jsonl

      recording-monitor replay --format jsonl --policy policy.yaml monday.jsonl.gz tuesday.jsonl.gz

      recording-monitor export --call CA… --out call.jsonl && recording-monitor replay --revisions call.jsonl
    """
    settings = read_settings(config, secrets=False)
    loaded = read_policy(settings, policy)
    source = Files(files)
    job = Replay(tuning_of(settings), loaded.policy, arrival=arrival)
    last: dict[str, Publish] = {}
    with _progress(source) as on_bytes:
        for told in job.run(source, end=end, on_bytes=on_bytes):
            if not isinstance(told, Publish):
                continue
            if told.verdict is None:
                last.pop(told.key, None)
            elif not (recordings_only and told.verdict.kind == "suspicion"):
                if revisions:
                    _print(told.verdict, output)
                first = last.get(told.key, told)
                last[told.key] = msgspec.structs.replace(told, appeared=min(first.appeared, told.appeared))
    verdicts = [told.verdict for told in sorted(last.values(), key=_appearance) if told.verdict is not None]
    if not revisions:
        for verdict in verdicts:
            _print(verdict, output)
    counts = job.counts()
    _summary(verdicts, counts)
    if strict and counts.malformed:
        raise typer.Exit(1)


def _appearance(told: Publish) -> tuple[str, tuple[int, int]]:
    """In order of first appearance; of an export, partition by partition."""
    evidence = told.verdict.evidence if told.verdict is not None else ()
    partition = evidence[0].position.rpartition(":")[0] if evidence else ""
    return (partition, told.appeared)


class _Silent:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _Bar:
    """A progress bar on stderr, over the bytes of the files."""

    def __init__(self, total: int) -> None:
        columns = (TextColumn("replaying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("replaying", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return lambda done: self._progress.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _progress(source: Files) -> _Bar | _Silent:
    total = source.bytes_total
    if total is None or not sys.stderr.isatty() or sys.stdout.isatty():
        return _Silent()
    return _Bar(total)


def _print(verdict: Verdict, output: Format) -> None:
    if output is Format.JSONL:
        sys.stdout.buffer.write(encode_verdict(verdict) + b"\n")
        sys.stdout.buffer.flush()
    else:
        typer.echo(render_line(verdict))


def render_line(verdict: Verdict) -> str:
    """A verdict in one line for people: outcome, what, cause, why."""
    cause = "suspicion" if verdict.kind == "suspicion" else verdict.cause or "cause open"
    final = " final" if verdict.final else ""
    return f"{verdict.outcome:<12} {verdict.key}  {cause:<28} r{verdict.revision}{final}  {verdict.reason}"


def _summary(verdicts: Iterable[Verdict], counts: Counts) -> None:
    """What was read and what came of it, on stderr."""
    by_cause = Counter((v.outcome, v.cause or ("suspicion" if v.kind == "suspicion" else "open")) for v in verdicts)
    if sys.stderr.isatty() and by_cause:
        table = Table("outcome", "cause", "recordings", title="Verdicts", title_justify="left")
        for (outcome, cause), number in sorted(by_cause.items()):
            table.add_row(outcome, cause, str(number))
        Console(stderr=True).print(table)
    typer.echo(
        f"{counts.entries} entries: {counts.events_total} events, {counts.ignored} ignored, "
        f"{counts.malformed} malformed, {counts.duplicate} duplicate, {counts.late} late",
        err=True,
    )
