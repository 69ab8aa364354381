"""``replay``: events from files, or from the topic, through the same core as ``run``, without side effects."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from monitor.commands.common import ConfigOption, PolicyOption, read_policy, read_settings, tuning_of
from monitor.commands.failure import EXIT_BUG
from monitor.commands.progress import progress_bar
from monitor.commands.stretch import SinceOption, UntilOption, stretch_of, wrong_usage
from monitor.core.account_settings import AccountSettings
from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.core.judging import Watch
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Counts, NotJudged, Pipeline, Publish, Told, Tuning
from monitor.core.policy import Policy
from monitor.core.values import INSTANTS
from monitor.core.verdict import Verdict, encode_verdict
from monitor.inputs.files import Files, Line
from monitor.settings import Settings

NO_INSTANT_MS: Final = 0


class Arrival(StrEnum):
    """When the lines of a file arrive, which carry no arrival of their own."""

    TOGETHER = "together"
    TIME = "time"


class Format(StrEnum):
    """How verdicts are printed."""

    TEXT = "text"
    JSONL = "jsonl"


class Source(Protocol):
    """Where lines come from; it may be read more than once."""

    def read(self, on_bytes: Callable[[int], None] | None = None) -> Iterator[Line]:
        """Yield every line; ``on_bytes`` is told how many bytes have been read."""


class Replay:
    """Lines through the core: one pipeline for plain lines, one for each partition of a topic or an export.

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

    def run(self, source: Source, *, end: bool = True, on_bytes: Callable[[int], None] | None = None) -> Iterator[Told]:
        """Yield what is told, message by message; with ``end`` time is then taken past every window."""
        if self._arrival is Arrival.TOGETHER:
            self._now_ms = greatest_time_ms(source.read())
        waiting: list[Line] = []
        for line in source.read(on_bytes):
            time_ms = line.timestamp_ms
            if time_ms is None and self._arrival is Arrival.TIME:
                time_ms = _time_ms(line)
                if time_ms is not None and (self._now_ms is None or time_ms > self._now_ms):
                    self._now_ms = time_ms
                time_ms = self._now_ms
                if time_ms is None:
                    waiting.append(line)
                    continue
            for early in waiting:
                yield from self._feed(early, time_ms or NO_INSTANT_MS)
            waiting.clear()
            yield from self._feed(line, self._now_ms or NO_INSTANT_MS if time_ms is None else time_ms)
        for early in waiting:
            told = self._feed(early, NO_INSTANT_MS)
            if end:  # Else it is counted and no more: had there been a line with a time, it would have arrived with it.
                yield from told
        if end:
            for pipeline in self._pipelines.values():
                yield from pipeline.finish()

    def counts(self) -> Counts:
        """What was counted over all pipelines since the last time."""
        total = Counts()
        for pipeline in self._pipelines.values():
            counts = pipeline.take_counts()
            for name in (
                "messages",
                "entries",
                "ignored",
                "malformed",
                "duplicate",
                "late",
                "too_old",
                "truncated",
                "not_judged",
            ):
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
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files with events; - reads standard input.", metavar="FILE…")
    ] = None,
    *,
    topic: Annotated[bool, typer.Option("--topic", help="Read the events topic of the settings, not files.")] = False,
    since: SinceOption = None,
    until: UntilOption = None,
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
    """Judge events from files, or from the topic: the same core as `run`, no side effects.

    A file holds one JSON event a line (or an array of them; or one JSON document), plain or gzipped; what `export`
    wrote, and the topic, bring Kafka's own timestamps. Verdicts go to stdout, what was counted to stderr.

    Examples:
      recording-monitor replay events.jsonl

      recording-monitor replay --format jsonl --policy policy.yaml monday.jsonl.gz tuesday.jsonl.gz

      recording-monitor export --call CA… --out call.jsonl && recording-monitor replay --revisions call.jsonl

      recording-monitor replay --topic --since 24h --policy stricter.yaml
    """
    settings = read_settings(config, secrets=topic)
    loaded = read_policy(settings, policy)
    job = Replay(tuning_of(settings), loaded.policy, arrival=Arrival.TIME if topic else arrival)
    last: dict[str, Publish] = {}
    with _source(settings, files, since, until, topic=topic) as source, _progress(source) as progress:
        [task] = progress.task_ids
        for told in job.run(source, end=end, on_bytes=lambda done: progress.update(task, completed=done)):
            if isinstance(told, NotJudged):
                say_not_judged(told)
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
    if counts.not_judged:
        raise typer.Exit(EXIT_BUG)
    if strict and counts.malformed:
        raise typer.Exit(1)


def _appearance(told: Publish) -> tuple[str, tuple[int, int]]:
    """In order of first appearance; of an export, partition by partition."""
    evidence = told.verdict.evidence if told.verdict is not None else ()
    partition = evidence[0].position.rpartition(":")[0] if evidence else ""
    return (partition, told.appeared)


@contextlib.contextmanager
def _source(
    settings: Settings, files: list[Path] | None, since: str | None, until: str | None, *, topic: bool
) -> Iterator[Source]:
    if topic and not files:
        with stretch_of(settings, since=since, until=until) as stretch:
            yield stretch
        return
    if topic or not files:
        raise wrong_usage("", "name files of events, or --topic for what is in Kafka; one of them")
    if since is not None or until is not None:
        raise wrong_usage("--since" if until is None else "--until", "is for --topic: a file is read whole")
    yield Files(files)


def _progress(source: Source) -> Progress:
    """Over the bytes of files; verdicts on the same terminal are progress enough."""
    total = source.bytes_total if isinstance(source, Files) else None
    progress = progress_bar(in_bytes=True, shown=total is not None and not sys.stdout.isatty())
    progress.add_task("replaying", total=total)
    return progress


def _print(verdict: Verdict, output: Format) -> None:
    if output is Format.JSONL:
        sys.stdout.buffer.write(encode_verdict(verdict) + b"\n")
        sys.stdout.buffer.flush()
    else:
        typer.echo(render_line(verdict))


def say_not_judged(told: NotJudged) -> None:
    """Say on stderr that judging a conversation failed, and where."""
    what = ", ".join(told.recordings) or told.account
    typer.echo(f"{what}: judging failed ({told.error} at {told.where}); this is a bug, please report it", err=True)


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
