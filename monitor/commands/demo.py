"""``demo``: everything on one machine: an embedded broker, a simulated contact centre, the monitor, what it says."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from monitor import clock
from monitor.commands.common import PolicyOption, read_policy
from monitor.commands.replay import render_line
from monitor.commands.run import Running, start_monitor
from monitor.core.pipeline import Publish
from monitor.core.verdict import Verdict
from monitor.log import configure
from monitor.settings import Address, Cases, Kafka, Settings, StarterSetting, Web, parse_duration
from monitor.simulator.broker import EmbeddedBroker
from monitor.simulator.compare import Comparison, compare
from monitor.simulator.delivery import TopicSink
from monitor.simulator.scenes import SCENES
from monitor.simulator.traffic import Knobs, header, traffic, truth
from monitor.simulator.truth import Line, RecordingTruth, read_truth, write_line

GRACE_S: Final = 3.0
SETTLE_S: Final = 6.0  # After the last event: the grace, a tick, and the way to the verdict topic.
PATIENCE_S: Final = 30.0
READY_S: Final = 30.0
ENDLESS_TEMPO: Final = 10.0
ROWS: Final = 14


def demo(
    *,
    for_: Annotated[
        str | None,
        typer.Option("--for", help="End by itself after about this long, and check every verdict.", metavar="SPAN"),
    ] = None,
    rate: Annotated[float, typer.Option(help="Events a second, about.")] = 200.0,
    seed: Annotated[int, typer.Option(help="Another seed is another day in the contact centre.")] = 1,
    policy: PolicyOption = None,
    truth_file: Annotated[
        Path | None,
        typer.Option("--truth", help="Where the simulator's truth goes; without it a temporary file.", metavar="FILE"),
    ] = None,
    port: Annotated[int, typer.Option(help="Where metrics answer; a free port where it is taken.")] = 9464,
) -> None:
    """The whole monitor on an embedded broker, with simulated traffic of every cause. Needs nothing else.

    Shows verdicts as they are reached: a live table on a terminal, plain lines otherwise. With --for it ends by itself
    with a summary per cause against the simulator's truth, which was written before any event was produced; the exit
    code is 0 only if they agree. The truth holds for the built-in policy: with --policy nothing is compared.

    Examples:
      recording-monitor demo

      recording-monitor demo --for 20s

      recording-monitor demo --rate 1000 --policy policy.yaml
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    for_s = _span_s(for_) if for_ is not None else None
    configure("auto", "error", stream=sys.stderr)
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory(prefix="recording-monitor-demo-") as directory:
        settings = _settings(broker, port, Path(directory) / "cases.sqlite3")
        topics = settings.topics
        broker.create_topics(
            topics.events, topics.verdicts, topics.case_actions, topics.account_settings, topics.quarantine
        )
        show = _Show(live=sys.stdout.isatty())
        running = start_monitor(
            settings, read_policy(settings, policy), on_verdict=show.take, topics=False, tick_every_s=1.0
        )
        try:
            path = truth_file or Path(tempfile.gettempdir()) / f"recording-monitor-demo-{os.getpid()}.truth.jsonl"
            show.say(
                f"pages: {running.address}/   metrics: {running.address}/metrics   health: {running.address}/-/ready"
            )
            show.say(f"truth: {path}")
            if not _until(stop, READY_S, running.ready):
                _end_where_broken(running)
            played = _play(
                settings, show, stop, path, rate=rate, seed=seed, for_s=for_s, compare_with_truth=policy is None
            )
        finally:
            running.stop()
            show.close()
        _end_where_broken(running)
    if for_s is None or not played:
        return
    comparison = _compare(path, show.verdicts) if policy is None else None
    _summary(comparison, show, path)
    if comparison is not None and not comparison.agrees:
        raise typer.Exit(1)


def _settings(broker: EmbeddedBroker, port: int, database: Path) -> Settings:
    """The monitor's settings for the embedded broker; the grace is short, so that nobody has to wait for it."""
    starters = header(Knobs(calls=1)).starters
    return Settings(
        kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, group_id="demo", start_at="earliest"),
        grace=timedelta(seconds=GRACE_S),
        cases=Cases(database=database),
        web=Web(listen=Address("127.0.0.1", port if _is_free(port) else 0)),
        starters=tuple(StarterSetting(callback_url=s.callback_url, cause="flex_plugin", name=s.name) for s in starters),
    )


def _play(
    settings: Settings,
    show: _Show,
    stop: threading.Event,
    path: Path,
    *,
    rate: float,
    seed: int,
    for_s: float | None,
    compare_with_truth: bool,
) -> bool:
    """Send the traffic and wait for its verdicts; whether it was played to its end."""
    assert settings.kafka.bootstrap_servers is not None
    sink = TopicSink({"bootstrap.servers": settings.kafka.bootstrap_servers}, settings.topics.events)
    begun = time.monotonic()
    if for_s is None:
        _play_endless(sink, show, stop, path, rate=rate, seed=seed)
    else:
        _play_bounded(sink, show, stop, path, rate=rate, seed=seed, for_s=max(1.0, for_s - SETTLE_S))
    sink.close()
    if for_s is None or stop.is_set():
        return False
    _until(stop, begun + for_s - time.monotonic(), lambda: show.pump() and False)
    if compare_with_truth:
        _until(stop, PATIENCE_S, lambda: show.pump() and _compare(path, show.verdicts).agrees)
    return not stop.is_set()


def _play_bounded(
    sink: TopicSink, show: _Show, stop: threading.Event, path: Path, *, rate: float, seed: int, for_s: float
) -> None:
    """A day's worth of causes, played faster than life and stamped in the past, so that no event is from the future."""
    knobs = _with_every_cause(
        Knobs(
            seed=seed,
            events=max(1_000, round(rate * for_s)),
            rate=rate,
            tempo=30.0,
            recorded=0.7,
            causes=dict.fromkeys(SCENES, 1.0),
        )
    )
    span_ms = max(due_ms for due_ms, _, _ in traffic(knobs)) - knobs.start_ms
    knobs = msgspec.structs.replace(knobs, start_ms=clock.now_ms() - span_ms)
    with path.open("wb") as file:
        for line in truth(knobs):
            write_line(file, line)
        file.flush()
        os.fsync(file.fileno())
    pace = for_s * 1000 / max(1, span_ms)
    _send(sink, show, stop, traffic(knobs), knobs.start_ms, pace)


def _with_every_cause(knobs: Knobs) -> Knobs:
    """The same traffic, and more of it until every cause has occurred."""
    while True:
        scripted = {
            _cause({"cause": one.cause, "kind": one.kind}) for one in truth(knobs) if isinstance(one, RecordingTruth)
        }
        if len(scripted) >= len(SCENES):
            return knobs
        knobs = msgspec.structs.replace(knobs, events=(knobs.events or 0) + 500)


def _play_endless(sink: TopicSink, show: _Show, stop: threading.Event, path: Path, *, rate: float, seed: int) -> None:
    """Calls without end, ten times faster than in life."""
    knobs = Knobs(seed=seed, start_ms=clock.now_ms(), rate=rate, tempo=ENDLESS_TEMPO, recorded=0.5)
    with path.open("wb") as file:
        write_line(file, header(knobs))

        def begin(truths: list[RecordingTruth]) -> None:
            for one in truths:
                write_line(file, one)
            file.flush()

        _send(sink, show, stop, traffic(knobs, begin), knobs.start_ms, 1.0)


def _send(
    sink: TopicSink,
    show: _Show,
    stop: threading.Event,
    entries: Iterator[tuple[int, str, bytes]],
    start_ms: int,
    pace: float,
) -> None:
    """Send each entry when it is due, ``pace`` seconds of ours for each of theirs."""
    begun = time.monotonic()
    for due_ms, account, entry in entries:
        due = begun + (due_ms - start_ms) / 1000 * pace
        while (left := due - time.monotonic()) > 0 and not stop.is_set():
            sink.pause(min(left, 0.1))
            show.pump()
        if stop.is_set():
            return
        sink.put(account, due_ms, entry)
        show.sent += 1


class _Show:
    """What the monitor says, for people: ``take`` on its thread, everything else on ours."""

    def __init__(self, *, live: bool) -> None:
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.sent = 0
        self._told: queue.SimpleQueue[Publish] = queue.SimpleQueue()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._latest: deque[Verdict] = deque(maxlen=ROWS)
        self._said: list[str] = []
        self._live = Live(console=Console(), refresh_per_second=8, get_renderable=self._render) if live else None
        if self._live is not None:
            self._live.start()

    def take(self, _partition: int, told: Publish) -> None:
        """Take in what was published; called on the monitor's thread."""
        self._told.put(told)

    def say(self, line: str) -> None:
        """Say something besides verdicts."""
        self._said.append(line)
        if self._live is None:
            typer.echo(line)

    def pump(self) -> bool:
        """Show what has come since the last time."""
        while not self._told.empty():
            told = self._told.get()
            before = self.verdicts.pop(told.key, None)
            if before is not None:
                self._outcomes[before["outcome"], _cause(before)] -= 1
            if told.verdict is None:
                continue
            verdict = msgspec.to_builtins(told.verdict)
            self.verdicts[told.key] = verdict
            self._outcomes[verdict["outcome"], _cause(verdict)] += 1
            changed = before is None or (before["outcome"], before["cause"]) != (verdict["outcome"], verdict["cause"])
            if changed:
                self._latest.append(told.verdict)
                if self._live is None:
                    typer.echo(render_line(told.verdict))
        return True

    def close(self) -> None:
        """Show the rest, and leave the terminal as it was."""
        self.pump()
        if self._live is not None:
            self._live.stop()

    def _render(self) -> Group:
        latest = Table("outcome", "cause", "recording", "why", title="Verdicts", title_justify="left", expand=True)
        # Copied, for another thread draws what ours changes.
        for verdict in tuple(self._latest):
            outcome = Text(verdict.outcome, style=_STYLES[verdict.outcome])
            what = verdict.recording_sid or f"{verdict.conference_sid} (suspicion)"
            latest.add_row(outcome, _cause({"cause": verdict.cause, "kind": verdict.kind}), what, verdict.reason)
        totals = Table("outcome", "cause", "recordings", title=f"{self.sent} events sent", title_justify="left")
        for (outcome_word, cause), number in sorted(self._outcomes.copy().items()):
            if number:
                totals.add_row(Text(outcome_word, style=_STYLES[outcome_word]), cause, str(number))
        return Group(*(Text(line) for line in self._said), latest, totals)


_STYLES: Final = {"allowed": "green", "disallowed": "bold red", "undetermined": "yellow"}


def _cause(verdict: Mapping[str, Any]) -> str:
    if verdict["kind"] == "suspicion":
        return "suspicion"
    return verdict["cause"] or "open"


def _compare(path: Path, verdicts: Mapping[str, Mapping[str, Any]]) -> Comparison:
    with path.open("rb") as file:
        lines: list[Line] = list(read_truth(file))
    return compare(lines, verdicts)


def _summary(comparison: Comparison | None, show: _Show, path: Path) -> None:
    console = Console()
    if comparison is None:
        console.print(f"{show.sent} events, {len(show.verdicts)} verdicts; not compared, since the policy is your own.")
        return
    table = Table(
        "cause", "true", "agreed", "wrong", "missing", title="Verdicts against the truth", title_justify="left"
    )
    for cause, score in sorted(comparison.scores.items()):
        table.add_row(cause, str(score.true), str(score.agreed), str(score.wrong), str(score.missing))
    console.print(table)
    for line in comparison.wrong[:20]:
        console.print(f"  {line}", soft_wrap=True)
    for key in comparison.invented[:20]:
        console.print(f"  {key}: a verdict about nothing")
    total = sum(score.true for score in comparison.scores.values())
    agreed = sum(score.agreed for score in comparison.scores.values())
    says = "all agree" if comparison.agrees else "they do NOT agree"
    typer.echo(f"{show.sent} events sent; {agreed} of {total} recordings judged as the truth says: {says}.")
    typer.echo(f"The truth: {path}")


def _until(stop: threading.Event, for_s: float, done: Any) -> bool:
    """Whether ``done`` came true within ``for_s`` seconds, and before anybody asked to stop."""
    end = time.monotonic() + for_s
    while not stop.is_set():
        if done():
            return True
        if time.monotonic() >= end:
            return False
        stop.wait(0.1)
    return False


def _end_where_broken(running: Running) -> None:
    if running.failure is not None:
        raise running.failure


def _span_s(text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
