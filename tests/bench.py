"""``make bench``: what an event costs, in one table from one run on a real broker, beside the targets.

What is measured is alone on one core; the broker and whoever makes the traffic have the others. The whole job is
``recording-monitor run`` itself, in a process of its own. Ratios are between rows of the same run, so that they stay
true on a machine that is slower or busier than another. Throughput is given twice: by the clock on the wall, which is
what a user gets, and by processor time, which other work on the machine disturbs less.

    python -m tests.bench                 all of it, at the sizes of the targets (about an hour)
    python -m tests.bench --quick         everything once at small sizes (some minutes): does it work, roughly how fast
    python -m tests.bench --only latency  one part: kafka, takeover, core, pauses, latency, paging, pages, ingest
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage
from typing import Any, Final

import msgspec
from aiohttp import web
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from prometheus_client import generate_latest

from monitor.collector import Collector
from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import CAUSES
from monitor.core.decode import decode
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.readers import decode_envelope
from monitor.core.snapshot import Saving
from monitor.core.verdict import Verdict, encode_verdict, render_instant
from monitor.inputs.kafka import BATCH_MESSAGES_MAX, SWEEP_CONVERSATIONS, member_properties
from monitor.simulator.traffic import Knobs, traffic
from tests import webhook_load
from tests.broker import PATIENT, RealBroker, stop_is_an_interrupt
from tests.rig import (
    EVENTS_PER_CALL,
    ROOT,
    BenchError,
    Cores,
    Entry,
    Load,
    MonitorProcess,
    Names,
    Positions,
    Watching,
    cpu_s,
    create_topics,
    divide_cores,
    environment,
    fill,
    generated,
    quantile,
    rate_between,
    rss_bytes,
    start_on,
)
from tests.test_alerts import ended, recording
from tests.test_metrics import crowded

WINDOW_S: Final = 4 * 3600
PARTS: Final = ("kafka", "takeover", "core", "pauses", "latency", "paging", "pages", "ingest")


HOLD: Final = "15s"
"""Hours of events go by in minutes, but a case is held by the wall. Where every call is recorded some 7,000 are held in
life, for 15 minutes each, beside 100,000 open conversations; at 17,000 events/s as many are for so many seconds."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything. ``open`` conversations are those of the throughput rows, reached by folding."""

    open: int
    accounts: int
    repetitions: int
    takeover_events: int
    stage_events: int
    pauses_at: tuple[int, ...]
    latency_at: tuple[tuple[int, float], ...]
    """Events a second, and which share of the calls is recorded."""
    pages_at: tuple[tuple[int, float], ...]
    """The same, while pages are asked for."""
    latency_s: float
    scrape_s: float
    ingest_events: int
    cases: int
    beyond: float
    """How much longer than a window the traffic lasts: the part in which as many calls close as begin."""


FULL: Final = Sizes(
    open=100_000,
    accounts=400,
    repetitions=3,
    takeover_events=1_000_000,
    stage_events=100_000,
    pauses_at=(150_000, 500_000),
    latency_at=((1_000, 1.0), (10_000, 0.1), (10_000, 1.0)),
    pages_at=((1_000, 1.0), (10_000, 0.1)),
    latency_s=60.0,
    scrape_s=15.0,
    ingest_events=60_000,
    cases=100_000,
    beyond=0.25,
)
QUICK: Final = Sizes(
    open=2_500,
    accounts=40,
    repetitions=2,
    takeover_events=50_000,
    stage_events=20_000,
    pauses_at=(2_000, 4_000),
    latency_at=((1_000, 1.0),),
    pages_at=((1_000, 1.0),),
    latency_s=10.0,
    scrape_s=0.5,
    ingest_events=6_000,
    cases=2_000,
    beyond=2.0,
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. ``reached``: what the target says to it; None where there is no target."""

    name: str
    value: float
    shown: str
    must: str = ""
    goal: str = ""
    reached: str | None = None
    note: str = ""


class Target(msgspec.Struct, frozen=True):
    """Two bounds, from below (``least``) or from above."""

    must: float
    goal: float
    least: bool
    form: str

    def judge(self, value: float) -> str:
        """``goal``, ``must`` or ``missed``."""
        for word, bound in (("goal", self.goal), ("must", self.must)):
            if value >= bound if self.least else value <= bound:
                return word
        return "missed"


TARGETS: Final = {
    "whole 100": Target(100_000, 160_000, True, "{:,.0f}/s"),
    "whole 10": Target(100_000, 200_000, True, "{:,.0f}/s"),
    "ratio": Target(0.10, 0.20, True, "{:.3f}"),
    "rss": Target(3_000, 2_000, False, "{:,.0f} B"),
    "p99 1000": Target(25, 10, False, "{:.1f} ms"),
    "scrape": Target(250, 100, False, "{:.0f} ms"),
    "paged 1000": Target(250, 100, False, "{:.1f} ms"),
    "page": Target(100, 50, False, "{:.0f} ms"),
    "page cost": Target(5, 2, False, "{:.1f} %"),
    "shown": Target(1_000, 1_000, False, "{:.0f} ms"),
    "pause 500k": Target(50, 20, False, "{:.1f} ms"),
    "ingest": Target(2_000, 10_000, True, "{:,.0f}/s"),
    "ingest p99": Target(500, 500, False, "{:.0f} ms"),
    "takeover": Target(10, 5, False, "{:.1f} s"),
    "takeover 4h": Target(30, 30, False, "{:.0f} s"),
}


class Table:
    """The rows, in the order in which they were measured; shown as they come."""

    def __init__(self, *, judged: bool) -> None:
        """``judged`` False: the sizes are not those the targets speak of, so they are shown and nothing is judged."""
        self.rows: list[Row] = []
        self._judged = judged

    def add(self, name: str, value: float, shown: str, *, target: str | None = None, note: str = "") -> None:
        """Add a row, judged by a target where it has one."""
        must = goal = ""
        reached = None
        if target is not None:
            held = TARGETS[target]
            must, goal = held.form.format(held.must), held.form.format(held.goal)
            reached = held.judge(value) if self._judged else None
        self.rows.append(Row(name=name, value=value, shown=shown, must=must, goal=goal, reached=reached, note=note))
        print(f"  {name:<58} {shown:>16}  {reached or '':<7} {note}", file=sys.stderr, flush=True)

    def render(self) -> str:
        """The table in Markdown."""
        lines = ["| what | measured | must | goal | reached | |", "|---|---:|---:|---:|---|---|"]
        lines += [f"| {r.name} | {r.shown} | {r.must} | {r.goal} | {r.reached or ''} | {r.note} |" for r in self.rows]
        return "\n".join(lines)


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


# ---- parts that run in a process of their own, alone on the measured core --------------------------------------------


def part(name: str, cores: Cores, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run one of ``IN_PROCESS`` on the measured core and return what it found."""
    command = [sys.executable, "-m", "tests.bench", "--part", name]
    process = start_on(cores.measured, command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    told, _ = process.communicate(json.dumps(parameters).encode())
    if process.returncode:
        raise BenchError(f"{name} ended with exit code {process.returncode}")
    found: dict[str, Any] = json.loads(told)
    return found


def consume(parameters: dict[str, Any]) -> dict[str, Any]:
    """Read a topic to its end with the monitor's own client properties: bare, or decoding each message.

    Only the queue is longer: as short as the monitor's, it would hold up who reads half a million messages a second.
    The first tenth is left out of the timing: connecting and the first fetches are no throughput.
    """
    properties = member_properties({"bootstrap.servers": parameters["bootstrap"]}, f"bench-{os.getpid()}")
    consumer = Consumer({**properties, "queued.max.messages.kbytes": 16384, "enable.partition.eof": True})
    consumer.assign([TopicPartition(parameters["topic"], 0, 0)])
    messages, skipped, decoding = int(parameters["messages"]), int(parameters["messages"]) // 10, parameters["decode"]
    gc.collect()
    gc.freeze()
    gc.disable()
    seen = 0
    began, began_cpu, first = 0.0, 0.0, 0
    until = time.monotonic() + 600
    while seen < messages:
        if time.monotonic() > until:
            raise BenchError(f"{seen} of {messages} messages read in 600 s")
        for message in consumer.consume(BATCH_MESSAGES_MAX, 0.2):
            if message.error() is None:
                seen += 1
                if decoding:
                    decode(message.value(), None)
        if not first and seen >= skipped:
            first, began, began_cpu = seen, time.perf_counter(), time.process_time()
    wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    consumer.close()
    return {"per_s": (seen - first) / wall, "cpu_us": 1e6 * cpu / (seen - first)}


def _pipeline(committed: int = 0) -> Pipeline:
    """A partition from its beginning; ``committed`` above 0 keeps it silent below, as a takeover does."""
    start = Checkpoint(offset=committed, generation=0, replay_from=0, log_time_ms=None)
    return Pipeline(Tuning(), built_in_policy(), AccountSettings(), partition=0, checkpoint=start, sweeps=True)


def _swept(pipeline: Pipeline, after: Callable[[], object] = lambda: None) -> tuple[int, float, float]:
    """Judge again all that is to be, as ``run`` does. Returns (verdicts told, seconds in all, the longest go).

    ``after`` is what is done after each.
    """
    told, whole, longest = 0, 0.0, 0.0
    while pipeline.sweeping:
        began = time.thread_time()
        told += len(pipeline.sweep(SWEEP_CONVERSATIONS))
        after()
        took = time.thread_time() - began
        whole, longest = whole + took, max(longest, took)
    return told, whole, longest


def _knobs(open_: int, accounts: int, recorded: float, *, beyond: float = 0.25) -> Knobs:
    """Traffic that has ``open_`` conversations open when the first window ends, and goes on for a while beyond.

    From then on as many close as begin: the state is steady. Retries, repeats and late events as a real sink has them.
    """
    rate = 1.1 * open_ * EVENTS_PER_CALL / WINDOW_S
    duration_s = WINDOW_S * (1 + beyond)
    return Knobs(
        seed=4,
        rate=rate,
        duration_s=duration_s,
        accounts=accounts,
        recorded=recorded,
        late=0.02,
        start_ms=int((time.time() - duration_s - 7200) * 1000),
    )


def core(parameters: dict[str, Any]) -> dict[str, Any]:
    """What each stage of the core costs, in microseconds of processor time an event, Kafka left out.

    The window is filled first, in silence, as in a takeover; then a stretch is decoded, a stretch folded in silence,
    the gate opened (everything open is judged once), and a stretch folded as live messages are. Each stage is measured
    on events of its own, after as many others that warm it up.
    """
    knobs = msgspec.convert(parameters["knobs"], Knobs)
    stage, open_ = int(parameters["events"]), int(parameters["open"])
    with generated(knobs, parameters["rest"]) as entries:
        folded = 0
        pipeline = _pipeline(committed=1 << 62)
        gc.disable()
        while pipeline.window.open_conversations < open_:
            batch = list(islice(entries, 2_000))
            if not batch:
                raise BenchError(f"only {pipeline.window.open_conversations} conversations were open at once")
            for entry in batch:
                pipeline.feed(folded, entry.due_ms, entry.value)
                folded += 1
        sample = list(islice(entries, 2 * stage))
        live = list(islice(entries, 2 * stage))
    gc.collect()
    gc.freeze()
    values = [entry.value for entry in sample]
    found: dict[str, Any] = {"open": pipeline.window.open_conversations, "bytes": statistics.fmean(map(len, values))}

    def typed() -> None:
        for value in values:
            try:
                decode_envelope(value)
            except msgspec.DecodeError:
                pass  # An array or a spelling of its own: it takes the slow path, which is not this stage.

    def decoded() -> None:
        for value in values:
            decode(value, None)

    for name, what in (("typed", typed), ("decode", decoded)):
        times = []
        for _ in range(3):
            began = time.process_time()
            what()
            times.append(time.process_time() - began)
        found[name] = 1e6 * min(times) / len(values)

    def feed(entries: Sequence[Entry], offset: int) -> tuple[float, list[Publish]]:
        published: list[Publish] = []
        began = time.process_time()
        for entry in entries:
            told = pipeline.feed(offset, entry.due_ms, entry.value)
            published += [each for each in told if isinstance(each, Publish)]
            offset += 1
        return 1e6 * (time.process_time() - began) / len(entries), published

    feed(sample[:stage], folded)
    found["fold"], _ = feed(sample[stage:], folded + stage)
    at = folded + 2 * stage
    pipeline.committed = at
    began = time.process_time()
    pipeline.open(Ledger())
    first, _ = feed(live[:1], at)
    found["opening_ms"] = 1e3 * (time.process_time() - began)
    found["swept_verdicts"], found["swept_s"], longest = _swept(pipeline)
    found["swept_ms"] = 1e3 * longest
    feed(live[1:stage], at + 1)
    found["pipeline"], published = feed(live[stage:], at + stage)
    found["verdicts"] = len(published) / (len(live) - stage)
    began = time.process_time()
    for told in published:
        if told.verdict is not None:
            encode_verdict(told.verdict)
    found["encode"] = 1e6 * (time.process_time() - began) / (len(live) - stage)
    del first
    return found


def pauses(parameters: dict[str, Any]) -> dict[str, Any]:
    """The longest that one message, and a batch of 500 with what comes after it, hold everything up.

    On the wall and in processor time: the difference is the machine doing something else. Live from the first message;
    after a batch garbage is collected, and a snapshot gone on with, as `run` does it. All is of one account.
    """
    knobs = msgspec.convert(parameters["knobs"], Knobs)
    milestones = [int(at) for at in parameters["at"]]
    stage = int(parameters["events"])
    pipeline = _pipeline()
    topic: list[bytes] = []
    pipeline.open(Ledger(lambda _, place: topic[place]))
    saving: Saving | None = None
    collector = Collector()
    collector.begin()
    wall, thread = time.perf_counter, time.thread_time
    found: dict[str, Any] = {}
    kernel_ms, faults = 0.0, 0  # Of the longest one: what grows meets each new page for the first time.
    longest = longest_cpu = longest_batch = longest_batch_cpu = 0.0
    longest_at = 0  # The same traffic comes each time: what the monitor does itself, it does at the same message again.
    batches: list[float] = []
    offset = 0
    with generated(knobs, parameters["rest"]) as entries:
        while milestones:
            batch = list(islice(entries, 500))
            if not batch:
                raise BenchError(f"only {pipeline.window.open_conversations} conversations were open at once")
            at_batch, cpu_batch = wall(), thread()
            for entry in batch:
                used = getrusage(RUSAGE_THREAD)
                at, cpu = wall(), thread()
                published = pipeline.feed(offset, entry.due_ms, entry.value)
                longest_cpu = max(longest_cpu, thread() - cpu)
                if wall() - at > longest:
                    longest, longest_at = wall() - at, offset
                    after = getrusage(RUSAGE_THREAD)
                    kernel_ms, faults = 1e3 * (after.ru_stime - used.ru_stime), after.ru_minflt - used.ru_minflt
                offset += 1
                for told in published:
                    if isinstance(told, Publish) and told.verdict is not None:
                        pipeline.ledger.placed(told.key, told.verdict.at, len(topic))
                        topic.append(encode_verdict(told.verdict))
            pipeline.take_counts()
            collector.between_batches(idle=False)
            saving = saving or pipeline.save("pauses")
            if saving is not None:
                ended = saving.walk(100)  # Some tenth of the time, as `run` has it.
                saving.take()
                saving = None if ended else saving
            batches.append(wall() - at_batch)
            longest_batch = max(longest_batch, batches[-1])
            longest_batch_cpu = max(longest_batch_cpu, thread() - cpu_batch)
            if pipeline.window.open_conversations >= milestones[0]:
                tail = batches[-max(1, stage // 500) :]
                pipeline.change_policy(built_in_policy())
                at = wall()
                pipeline.feed(offset, entry.due_ms, None)
                offset += 1
                changed = wall() - at
                _, _, swept = _swept(pipeline, lambda: collector.between_batches(idle=False))
                found[str(milestones.pop(0))] = {
                    "message_ms": 1e3 * longest,
                    "message_cpu_ms": 1e3 * longest_cpu,
                    "message_at": longest_at,
                    "message_kernel_ms": kernel_ms,
                    "message_faults": faults,
                    "batch_ms": 1e3 * longest_batch,
                    "batch_cpu_ms": 1e3 * longest_batch_cpu,
                    "batch_p99_ms": 1e3 * quantile(tail, 0.99),
                    "batch_p50_ms": 1e3 * quantile(tail, 0.5),
                    "reload_ms": 1e3 * max(changed, swept),
                    "events": offset,
                }
    return found


IN_PROCESS: Final = {"consume": consume, "core": core, "pauses": pauses, "produce": webhook_load.produce_raw}

# ---- on Kafka -------------------------------------------------------------------------------------------------------


def bench_kafka(table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path) -> None:
    """Raw consume, decode, the whole job, memory and takeover, on one topic for each share of recorded calls."""
    for recorded in (1.0, 0.1):
        share = f"{100 * recorded:.0f} %"
        knobs = _knobs(sizes.open, sizes.accounts, recorded, beyond=sizes.beyond)
        names = create_topics(broker, f"bench-{100 * recorded:.0f}", 1)
        _say(f"filling the topic: {share} of calls recorded")
        began = time.perf_counter()
        filled = fill(broker.bootstrap, names.events, _entries(knobs))
        _say(f"{filled.messages:,} messages, {filled.bytes / 1e9:.1f} GB in {time.perf_counter() - began:.0f} s")
        told: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for _ in range(sizes.repetitions):
            for decoding in (False, True):  # In turn: what disturbs the machine for a while disturbs both.
                given = {"bootstrap": broker.bootstrap, "topic": names.events, "decode": decoding}
                told[decoding].append(part("consume", cores, {**given, "messages": min(filled.messages, 2_000_000)}))
        raw = statistics.median(found["per_s"] for found in told[False])
        raw_cpu = statistics.median(found["cpu_us"] for found in told[False])
        for decoding, name in ((False, "raw consume(2000)"), (True, "consume and decode")):
            per_s = [found["per_s"] for found in told[decoding]]
            cpu = statistics.median(found["cpu_us"] for found in told[decoding])
            note = f"{cpu:.2f} µs CPU; {len(per_s)} runs, {min(per_s):,.0f} to {max(per_s):,.0f}/s"
            median = statistics.median(per_s)
            if decoding:
                note += f"; {median / raw:.2f} of raw"
            table.add(f"{name}, {share} recorded", median, f"{median:,.0f}/s", note=note)
        bench_whole(table, broker, cores, sizes, directory, names, filled.messages, recorded, raw, raw_cpu)


def _entries(knobs: Knobs) -> Iterator[Entry]:
    return (Entry(*entry) for entry in traffic(knobs))


def bench_whole(
    table: Table,
    broker: RealBroker,
    cores: Cores,
    sizes: Sizes,
    directory: Path,
    names: Names,
    messages: int,
    recorded: float,
    raw: float,
    raw_cpu: float,
) -> None:
    """``recording-monitor run`` over the topic, from its beginning to its end."""
    share = f"{100 * recorded:.0f} % recorded"
    positions = Positions(broker.bootstrap, names)
    scrape_s = sizes.scrape_s
    settings = {"cases": {"database": str(directory / f"{names.group}.sqlite3"), "hold": HOLD}}
    with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=settings) as monitor:
        monitor.wait_ready()
        idle = rss_bytes(monitor.pid)
        with Watching(monitor, positions, scrape_s=scrape_s) as watching:
            watching.wait_for(messages)
        # The last samples are those of the end, where there is less to do than there was.
        full = [s for s in watching.samples if s.conversations >= sizes.open and s.position <= messages]
        per_s, cpu_us = rate_between(full)
        least, most = min(s.conversations for s in full), max(s.conversations for s in full)
        note = f"{cpu_us:.1f} µs CPU an event; {least:,} to {most:,} conversations open"
        target = "whole 100" if recorded == 1.0 else "whole 10"
        table.add(f"whole job, {share}", per_s, f"{per_s:,.0f}/s", target=target, note=note)
        ratio = per_s / raw
        note = f"by CPU time {raw_cpu / cpu_us:.3f}"
        table.add(f"whole job, part of raw consume, {share}", ratio, f"{ratio:.3f}", target="ratio", note=note)
        # Where fewer are open than a moment before, what they took is not given back at once.
        fullest = max(full, key=lambda sample: sample.conversations)
        per_open = (fullest.rss - idle) / fullest.conversations
        note = f"{fullest.rss / 2**20:,.0f} MiB, {idle / 2**20:,.0f} MiB when idle; {fullest.conversations:,} open"
        name = f"RSS per open conversation, {share}"
        table.add(name, per_open, f"{per_open:,.0f} B", target="rss", note=note)
    if recorded == 1.0:
        with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=settings) as monitor:
            replayed, took_s = _takeover(table, monitor, positions, f"takeover of a full window, {share}")
            four_hours = took_s * WINDOW_S * 1000 / replayed
            note = f"extrapolated from {replayed:,} events"
            name = "takeover of 4 h at 1,000 events/s"
            table.add(name, four_hours, f"{four_hours:,.0f} s", note=note)
        bench_snapshot(table, broker, cores, directory, names, positions, settings)
    positions.close()


def bench_snapshot(
    table: Table,
    broker: RealBroker,
    cores: Cores,
    directory: Path,
    names: Names,
    positions: Positions,
    settings: dict[str, Any],
) -> None:
    """Takeover of a full window by a process that ended a while after a snapshot of it was written."""
    place = directory / "snapshots"
    settings = {**settings, "snapshots": {"directory": str(place), "every": "5s"}}
    with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=settings) as monitor:
        monitor.wait_ready(3600)
        while not list(place.glob("*.snapshot")):
            monitor.check()
            time.sleep(0.1)
    size = sum(path.stat().st_size for path in place.glob("*.snapshot"))
    with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=settings) as monitor:
        _, took_s = _takeover(table, monitor, positions, "takeover of a full window with a snapshot")
        conversations = monitor.conversations()
        loaded = [line for line in monitor.lines() if line.get("event") == "snapshot_loaded"]
        load_s = sum(line["seconds"] for line in loaded)
    # Only the loading grows with the conversations: the process's own start does not.
    open_then = WINDOW_S * 1000 / EVENTS_PER_CALL
    four_hours = took_s + load_s * (open_then / conversations - 1)
    note = f"{load_s:.2f} s of it to load {conversations:,} conversations, {size / conversations:,.0f} B each on disk"
    name = "takeover of 4 h at 1,000 events/s with a snapshot"
    table.add(name, four_hours, f"{four_hours:,.0f} s", target="takeover 4h", note=note)


def bench_takeover(table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path) -> None:
    """Takeover of a partition with so many events in its window: without a snapshot, with one of two minutes before.

    The snapshots are those of a process that has read all the events; the next one judges another two minutes' worth,
    at 1,000 events a second, and writes none.
    """
    since = min(SNAPSHOT_EVERY_S * 1000, sizes.takeover_events // 8)
    for recorded in (1.0, 0.1):
        share = f"{100 * recorded:.0f} % recorded"
        names = create_topics(broker, f"bench-takeover-{100 * recorded:.0f}", 1)
        knobs = _knobs(sizes.open, sizes.accounts, recorded, beyond=sizes.beyond)
        # Up to now: the monitor's ticks are stamped by the wall, and a window that has passed by then would be closed.
        began_s = time.time() - (sizes.takeover_events + since) / knobs.rate - 60
        entries = _entries(msgspec.structs.replace(knobs, start_ms=int(1000 * began_s)))
        _say(f"takeover of {sizes.takeover_events:,} events, {share}")
        fill(broker.bootstrap, names.events, islice(entries, sizes.takeover_events))
        positions = Positions(broker.bootstrap, names)
        place = directory / names.group
        settings: dict[str, Any] = {"cases": {"database": str(directory / f"{names.group}.sqlite3"), "hold": HOLD}}
        often, seldom = ({**settings, "snapshots": {"directory": str(place), "every": every}} for every in ("5s", "1h"))
        with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=often) as monitor:
            while not _whole_snapshots(monitor, sizes.takeover_events):
                monitor.check()
                time.sleep(3.0)  # Its log has a line for every verdict.
        fill(broker.bootstrap, names.events, islice(entries, since))
        with (
            MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=seldom) as monitor,
            Watching(monitor, positions, scrape_s=sizes.scrape_s) as watching,
        ):
            watching.wait_for(sizes.takeover_events + since)
        with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=seldom) as monitor:
            _takeover(table, monitor, positions, f"takeover with a snapshot, {share}", target="takeover")
        with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=settings) as monitor:
            _takeover(table, monitor, positions, f"takeover, {share}", target="takeover")
        positions.close()


SNAPSHOT_EVERY_S: Final = 120  # As the settings have it where they say nothing.


def _whole_snapshots(monitor: MonitorProcess, offset: int) -> bool:
    """Whether a snapshot was written of all up to ``offset``, and one of the ledger after it."""
    saved = [line for line in monitor.lines() if line.get("event") == "snapshot_saved"]
    window = [at for at, line in enumerate(saved) if "-ledger" not in line["file"] and line["offset"] >= offset]
    return bool(window) and any("-ledger" in line["file"] for line in saved)


def _takeover(
    table: Table, monitor: MonitorProcess, positions: Positions, name: str, *, target: str | None = None
) -> tuple[int, float]:
    """How long a monitor that has just been started takes to be live. Returns (messages folded again, seconds).

    Live: its partition is rebuilt, and the next message is judged and committed.
    """
    before = positions.total()
    ready_s = monitor.wait_ready(3600)
    while positions.total() <= before:
        monitor.check()
        time.sleep(0.02)
    took_s = time.perf_counter() - monitor.started
    metrics = monitor.metrics()
    replayed = int(metrics.get("replayed_messages_total", 0))
    restored_s = metrics.get("restore_duration_seconds", 0.0)
    note = (
        f"{replayed:,} events folded again; gate open {restored_s:.1f} s after assignment, ready after {ready_s:.1f} s"
    )
    table.add(f"{name}: start to next commit", took_s, f"{took_s:.1f} s", target=target, note=note)
    return replayed, took_s


# ---- latency --------------------------------------------------------------------------------------------------------


def bench_latency(table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path) -> None:
    """How long after the message that decides it was sent a verdict can be read, at steady rates."""
    for rate, recorded in sizes.latency_at:
        at = _load(rate, recorded)
        names = create_topics(broker, f"bench-latency-{rate}-{recorded}", 1)
        _say(f"latency at {at}")
        with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured) as monitor:
            monitor.wait_ready()
            told = measure_latency(broker.bootstrap, names, rate, sizes, recorded)
        lags = told["ms"]
        if len(lags) < 20:
            raise BenchError(f"only {len(lags)} verdicts at {at}: nothing can be said of a p99")
        p50, p99, longest = (quantile(lags, share) for share in (0.5, 0.99, 1.0))
        note = f"{len(lags):,} verdicts; sent {told['per_s']:,.0f}/s, {told['behind_ms']:.0f} ms behind plan at most"
        read = f"produce → verdict read, {at}"
        table.add(f"{read}, p50", p50, f"{p50:.1f} ms", note=note)
        table.add(f"{read}, p99", p99, f"{p99:.1f} ms", target="p99 1000" if rate == 1_000 else None)
        table.add(f"{read}, max", longest, f"{longest:.1f} ms")
        p50, p99 = (quantile(told["acknowledged_ms"], share) for share in (0.5, 0.99))
        note = "the broker alone, for comparison"
        table.add(f"produce → acknowledged, {at}, p99", p99, f"{p99:.1f} ms", note=f"p50 {p50:.1f} ms; {note}")


class _VerdictReader:
    """Reads the verdict topic in a thread as it is written: when each verdict came, and the offset that decided it."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"bench-{os.getpid()}",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 2,
                "fetch.wait.max.ms": 100,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self.read: list[tuple[float, int]] = []
        self.disallowed: dict[str, tuple[float, int]] = {}
        """Of each recording that was ever disallowed, when that verdict was read, and the offset that decided it."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        decoder = msgspec.json.Decoder(_At)
        while not self._end.is_set():
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None and message.value() is not None:
                at = time.perf_counter()
                told = decoder.decode(message.value() or b"")
                self.read.append((at, told.at[1]))
                if told.outcome == "disallowed" and told.recording_sid is not None:
                    self.disallowed.setdefault(told.recording_sid, (at, told.at[1]))

    def close(self) -> None:
        """Stop reading."""
        self._end.set()
        self._thread.join()
        self._consumer.close()


class _At(msgspec.Struct):
    at: tuple[int, int]
    outcome: str
    recording_sid: str | None


LEAD_S: Final = 30.0
WARM_S: Final = 5.0


def _load(rate: int, recorded: float) -> str:
    return f"{rate:,} events/s, {'every call' if recorded == 1.0 else f'{recorded:.0%}'} recorded"


def latency_knobs(rate: int, sizes: Sizes, recorded: float = 1.0) -> Knobs:
    """The traffic of ``measure_latency``."""
    return Knobs(
        seed=9,
        rate=rate,
        duration_s=LEAD_S + WARM_S + sizes.latency_s,
        tempo=20.0,
        accounts=sizes.accounts,
        recorded=recorded,
        start_ms=int((time.time() - LEAD_S) * 1000),
    )


def measure_latency(bootstrap: str, names: Names, rate: int, sizes: Sizes, recorded: float = 1.0) -> dict[str, Any]:
    """Send traffic at a rate and time the verdicts. Life runs 20 times faster, so that calls come to an end soon.

    What stands before is sent as fast as it goes: from it come the calls under way. The first seconds at the rate count
    for nothing: a producer's first messages wait for its connections, and a broker's for its compiler.
    """
    knobs = latency_knobs(rate, sizes, recorded)
    entries = [
        entry for entry in _entries(knobs) if entry.due_ms < knobs.start_ms + (LEAD_S + WARM_S + sizes.latency_s) * 1000
    ]
    sent: dict[int, float] = {}
    acknowledged: list[float] = []

    def sent_at(at: float) -> Callable[[KafkaError | None, Message], None]:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None and at >= counted_from and (offset := message.offset()) is not None:
                sent[offset] = at
                acknowledged.append(1e3 * (time.perf_counter() - at))

        return delivered

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "linger.ms": 1,
            "queue.buffering.max.messages": 500_000,
            "log_level": 3,
        }
    )
    reader = _VerdictReader(bootstrap, names.verdicts)
    lead = [entry for entry in entries if entry.due_ms < knobs.start_ms + LEAD_S * 1000]
    fill(bootstrap, names.events, lead)
    positions = Positions(bootstrap, names)
    until = time.monotonic() + 120
    while positions.total() < len(lead) and time.monotonic() < until:
        time.sleep(0.1)
    positions.close()
    live = entries[len(lead) :]
    began, behind_s = time.perf_counter(), 0.0
    counted_from = began + WARM_S
    for number, entry in enumerate(live):
        due = began + number / rate
        if (ahead_s := due - time.perf_counter()) > 0:
            producer.poll(0)
            time.sleep(ahead_s)  # Not poll: below a millisecond it returns at once, and spinning starves the broker.
        at = time.perf_counter()
        behind_s = max(behind_s, at - due)
        producer.produce(names.events, entry.value, entry.account, on_delivery=sent_at(at))
        if number % 50 == 0:
            producer.poll(0)
    took_s = time.perf_counter() - began
    producer.flush(30)
    time.sleep(3)
    reader.close()
    lags = [1e3 * (read - sent[offset]) for read, offset in reader.read if offset in sent]
    return {
        "ms": lags,
        "acknowledged_ms": acknowledged,
        "per_s": len(live) / took_s,
        "behind_ms": 1e3 * behind_s,
        "sent": sent,
        "disallowed": reader.disallowed,
    }


# ---- paging ---------------------------------------------------------------------------------------------------------


class _Alertmanager:
    """A server that takes alerts as Alertmanager does, and notes when it first had each recording's."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)

    async def _start(self) -> str:
        application = web.Application()
        application.router.add_post("/api/v2/alerts", self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _take(self, request: web.Request) -> web.Response:
        alerts = msgspec.json.decode(await request.read(), type=list[_Alert])
        at = time.perf_counter()
        for alert in alerts:
            self.taken.setdefault(alert.labels.get("recording_sid", ""), at)
        return web.Response()

    def close(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Alert(msgspec.Struct):
    labels: dict[str, str]


def bench_paging(table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path) -> None:
    """How long after the message that decides it was sent an Alertmanager has the alert."""
    rate = 1_000
    names = create_topics(broker, "bench-paging", 1)
    _say(f"paging at {rate:,} events/s")
    alertmanager = _Alertmanager()
    accounts = sorted({entry.account for entry in islice(_entries(latency_knobs(rate, sizes)), 20_000)})
    settings: dict[str, object] = {
        "alertmanagers": [alertmanager.url],
        # Aliases and a short hold, so that what is measured is single pages and not a flood of one account.
        "accounts": [{"alias": f"account-{number}", "sid": sid} for number, sid in enumerate(accounts)],
        "cases": {"database": str(directory / "paging.sqlite3"), "hold": "1s"},
    }
    try:
        with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, settings=settings) as monitor:
            monitor.wait_ready()
            before_s = cpu_s(monitor.pid)
            told = measure_latency(broker.bootstrap, names, rate, sizes)
            cpu = cpu_s(monitor.pid) - before_s
    finally:
        alertmanager.close()
    metrics = crowded(100_000)
    began = time.perf_counter()
    text = generate_latest(metrics.registry)
    scrape_ms = 1e3 * (time.perf_counter() - began)
    note = f"{sum(not line.startswith(b'#') for line in text.splitlines()):,} series"
    name = "a scrape after 100,000 made-up accounts and sources"
    table.add(name, scrape_ms, f"{scrape_ms:.0f} ms", target="scrape", note=note)
    sent, taken = told["sent"], alertmanager.taken
    decided = {sid: (read, offset) for sid, (read, offset) in told["disallowed"].items() if offset in sent}
    lags = [1e3 * (taken[sid] - sent[offset]) for sid, (_, offset) in decided.items() if sid in taken]
    after = [1e3 * (taken[sid] - read) for sid, (read, _) in decided.items() if sid in taken]
    if len(lags) < 20:
        raise BenchError(f"only {len(lags)} of {len(decided)} recordings were paged: nothing can be said of a p99")
    p50, p99, longest = (quantile(lags, share) for share in (0.5, 0.99, 1.0))
    at = f"produce → alert accepted, {rate:,} events/s"
    note = f"{len(lags):,} of {len(decided):,} paged singly; sent {told['per_s']:,.0f}/s; {cpu:.1f} s of processor time"
    table.add(f"{at}, p50", p50, f"{p50:.1f} ms", note=note)
    broker_ms = quantile(told["acknowledged_ms"], 0.99)
    note_of_broker = f"the broker alone acknowledged within {broker_ms:.1f} ms"
    table.add(f"{at}, p99", p99, f"{p99:.1f} ms", target="paged 1000", note=note_of_broker)
    p50, p99 = (quantile(after, share) for share in (0.5, 0.99))
    name, note = "verdict read → alert accepted, 1,000 events/s, p99", f"p50 {p50:.1f} ms; what paging adds"
    table.add(name, p99, f"{p99:.1f} ms", note=note)
    table.add(f"{at}, max", longest, f"{longest:.1f} ms")


# ---- pages ----------------------------------------------------------------------------------------------------------

PAGES_PER_S: Final = 10


class _Visitor:
    """Asks for one page after the other, ten a second, in a thread; ``ms`` is how long each took."""

    def __init__(self, monitor: MonitorProcess, paths: Sequence[str]) -> None:
        self.ms: dict[str, list[float]] = {path: [] for path in paths}
        self._monitor = monitor
        self._refused: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for path in itertools.cycle(self.ms):
            if self._end.wait(1 / PAGES_PER_S):
                return
            began = time.perf_counter()
            status, _ = self._monitor.get(path)
            self.ms[path].append(1e3 * (time.perf_counter() - began))
            if status not in (200, 303):
                self._refused = f"{path} answered {status}"

    def close(self) -> None:
        """Leave. Raises BenchError where a page was not there."""
        self._end.set()
        self._thread.join()
        if self._refused is not None:
            raise BenchError(self._refused)


def _old_cases(count: int) -> Iterator[Verdict]:
    """Cases of the last weeks, the newest still open: of a few accounts, of every cause, about calls of their own."""
    now_ms = time.time_ns() // 1_000_000
    causes = sorted(CAUSES)
    for number in range(count):
        at = render_instant(now_ms - (count - number) * 20_000)
        told = ended(number, cause=causes[number % len(causes)], account_sid=f"AC{number % 7:032x}", final=True)
        names = {"call_sid": f"CA{number:032x}", "conference_sid": f"CF{number % 5_000:032x}"}
        yield msgspec.structs.replace(told, **names, decided_at=at, disallowed_since=at, first_seen_at=at, ended_at=at)


def bench_pages(table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path) -> None:
    """How long pages take with many cases, while the monitor judges; and what they take from the judging."""
    for rate, recorded in sizes.pages_at:
        bench_pages_at(rate, recorded, table, broker, cores, sizes, directory)
    bench_actions(table, broker, cores, directory)


def bench_actions(table: Table, broker: RealBroker, cores: Cores, directory: Path) -> None:
    """How soon what somebody did in one process is shown by another of its group."""
    _say("actions, from one process to another")
    names = create_topics(broker, "bench-actions", 2)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for old in _old_cases(50):
        producer.produce(names.verdicts, encode_verdict(old), old.key)
    producer.flush(60)
    case = f"/cases/{recording(5)}"
    done_ms: list[float] = []
    shown_ms: list[float] = []
    started = partial(MonitorProcess, broker.bootstrap, names, directory, actions=True)
    with started(cores=cores.measured, label="one") as one, started(cores=cores.rest, label="other") as other:
        for process in (one, other):
            process.wait_ready()
        for number in range(100):
            text = f"number {number:03}"
            began = time.perf_counter()
            status, said = one.post(f"/api/v1{case}/actions", {"kind": "comment", "text": text})
            if status != 201:
                raise BenchError(f"an action was answered {status}: {said}")
            done_ms.append(1e3 * (time.perf_counter() - began))
            while text not in other.get(case)[1]:
                if time.perf_counter() > began + 60:
                    raise BenchError("an action was not shown by the other process within a minute")
            shown_ms.append(1e3 * (time.perf_counter() - began))
    p50, p99 = quantile(shown_ms, 0.5), quantile(shown_ms, 0.99)
    note = (
        f"p50 {p50:.0f} ms, max {max(shown_ms):.0f} ms; answered by the first within {quantile(done_ms, 0.99):.0f} ms"
    )
    table.add("an action → shown by another process, p99", p99, f"{p99:.0f} ms", target="shown", note=note)


def bench_pages_at(
    rate: int, recorded: float, table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path
) -> None:
    """The same at one rate."""
    names = create_topics(broker, f"bench-pages-{rate}-{recorded}", 1)
    load = _load(rate, recorded)
    _say(f"pages with {sizes.cases:,} cases at {load}")
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 50})
    for old in _old_cases(sizes.cases):
        producer.produce(names.verdicts, encode_verdict(old), old.key)
        producer.poll(0)
    producer.flush(60)
    key = recording(sizes.cases - 5)
    paths = (
        "/",
        "/cases",
        "/cases?state=all&cause=dial_verb",
        "/cases?state=all&rule=nothing-has-this",
        f"/cases/{key}",
        f"/cases?q=CF{7:032x}",
        "/causes/conference_twiml?state=all",
        "/policy",
        f"/api/v1/cases/{key}",
    )
    with MonitorProcess(broker.bootstrap, names, directory, cores=cores.measured, label="pages") as monitor:
        monitor.wait_ready()
        visitor = _Visitor(monitor, paths)
        told = measure_latency(broker.bootstrap, names, rate, sizes, recorded)
        visitor.close()
        while any(lag for name, lag in monitor.metrics().items() if name.startswith("kafka_lag_messages")):
            time.sleep(0.5)
        before_s, count = cpu_s(monitor.pid), 20 * len(paths)
        for path in itertools.islice(itertools.cycle(paths), count):
            monitor.get(path)
        page_ms = 1e3 * (cpu_s(monitor.pid) - before_s) / count
    all_ms = sorted(itertools.chain.from_iterable(visitor.ms.values()))
    worst = max(visitor.ms, key=lambda path: quantile(visitor.ms[path], 0.5))
    at = f"a page, {sizes.cases:,} cases, {load}"
    p50, p99 = quantile(all_ms, 0.5), quantile(all_ms, 0.99)
    note = f"p50 {p50:.0f} ms; {len(all_ms)} pages, slowest {worst.partition('?')[0]}; sent {told['per_s']:,.0f}/s"
    table.add(f"{at}, p99", p99, f"{p99:.0f} ms", target="page", note=note)
    verdict_ms = quantile(told["ms"], 0.99)
    share = page_ms * PAGES_PER_S / 10
    note = f"{page_ms:.1f} ms of processor time a page; verdicts came within {verdict_ms:.0f} ms (p99) meanwhile"
    table.add(
        f"{PAGES_PER_S} pages/s take of one core, {load}",
        share,
        f"{share:.1f} %",
        target="page cost",
        note=note,
    )


# ---- the core alone -------------------------------------------------------------------------------------------------


def bench_ingest(table: Table, broker: RealBroker, cores: Cores, sizes: Sizes, directory: Path) -> None:
    """What the webhook bridge takes: as fast as it goes, and at the rate it has to."""
    topic = broker.new_topic("bench-ingest", 1)
    given = {"bootstrap": broker.bootstrap, "topic": topic, "events": sizes.ingest_events}
    raw = part("produce", cores, given)
    table.add("raw produce", raw["per_s"], f"{raw['per_s']:,.0f}/s", note=f"{raw['cpu_us']:.1f} µs CPU")
    bridge = webhook_load.Bridge(broker, directory / "ingest", cores.measured)
    try:
        bridge.load(webhook_load.signed(1_000, 1), 1)  # Connections, first use of everything.
        for batch in (1, 10):
            requests = webhook_load.signed(sizes.ingest_events, batch)
            told = bridge.load(requests, batch)
            name = f"webhook, {batch} event{'s' * (batch > 1)} a request"
            note = f"{told.cpu_us:.0f} µs CPU an event; {told.per_s / raw['per_s']:.3f} of raw; RSS {told.rss >> 20} MB"
            table.add(f"{name}, acknowledged", told.per_s, f"{told.per_s:,.0f}/s", target="ingest", note=note)
            p50, p99 = quantile(told.ms, 0.5), quantile(told.ms, 0.99)
            table.add(f"{name}, answer p99", p99, f"{p99:.1f} ms", target="ingest p99", note=f"p50 {p50:.1f} ms")
        requests = webhook_load.signed(sizes.ingest_events, 1)
        told = bridge.load(requests, 1, per_second=2_000)
        p50, p99 = quantile(told.ms, 0.5), quantile(told.ms, 0.99)
        note = f"p50 {p50:.1f} ms; {told.per_s:,.0f}/s"
        table.add("webhook at 2,000 events/s, answer p99", p99, f"{p99:.1f} ms", target="ingest p99", note=note)
        ms = bridge.beside_attacks()
        p50, p99 = quantile(ms, 0.5), quantile(ms, 0.99)
        note = f"{len(ms)} requests, p50 {p50:.1f} ms: beside 300 slow ones, four of 100 MB, an array of 50,000"
        table.add("webhook, genuine requests beside attacks, p99", p99, f"{p99:.1f} ms", target="ingest p99", note=note)
    finally:
        bridge.close()


def bench_core(table: Table, cores: Cores, sizes: Sizes) -> None:
    """What an event costs in the core by stage, with the window full."""
    for recorded in (1.0, 0.1):
        share = f"{100 * recorded:.0f} % recorded"
        _say(f"the core by stage, {share}")
        knobs = msgspec.to_builtins(_knobs(sizes.open, sizes.accounts, recorded, beyond=max(0.5, sizes.beyond)))
        found = part(
            "core", cores, {"knobs": knobs, "open": sizes.open, "events": sizes.stage_events, "rest": cores.rest}
        )
        about = f"{found['open']:,} open, {found['bytes']:,.0f} B an event"
        for name, key in (
            ("typed JSON", "typed"),
            ("decode: JSON, TwiML, facts", "decode"),
            ("decode and window, silent (replay)", "fold"),
            ("whole core: and attribution, policy, verdict", "pipeline"),
            ("verdicts as JSON", "encode"),
        ):
            table.add(f"core, {share}: {name}", found[key], f"{found[key]:.2f} µs", note=about)
            about = ""
        note = f"{found['verdicts']:.3f} verdicts an event"
        table.add(f"core, {share}: whole core", 1e6 / found["pipeline"], f"{1e6 / found['pipeline']:,.0f}/s", note=note)
        note = f"{found['swept_verdicts']:,} verdicts, at most {found['swept_ms']:.1f} ms in a go; "
        note += f"the first message takes {found['opening_ms']:.1f} ms"
        name = f"core, {share}: all that is open judged after a takeover"
        table.add(name, found["swept_s"], f"{found['swept_s']:.2f} s", note=note)


def bench_pauses(table: Table, cores: Cores, sizes: Sizes) -> None:
    """How long one message, and a batch of 500, hold everything up."""
    most = max(sizes.pauses_at)
    _say(f"pauses up to {most:,} open conversations")
    knobs = msgspec.to_builtins(_knobs(most, 1, 1.0))
    found = part(
        "pauses", cores, {"knobs": knobs, "at": sizes.pauses_at, "events": sizes.stage_events, "rest": cores.rest}
    )
    for at, told in found.items():
        target = "pause 500k" if int(at) == 500_000 else None
        note = f"{told['message_cpu_ms']:.1f} ms CPU, {told['message_kernel_ms']:.1f} of it in the kernel, "
        note += f"{told['message_faults']:,} page faults; message {told['message_at']:,} of {told['events']:,}"
        name = f"longest pause, {int(at):,} open"
        table.add(f"{name}, one message", told["message_ms"], f"{told['message_ms']:.1f} ms", target=target, note=note)
        note = f"{told['batch_cpu_ms']:.1f} ms CPU; p50 {told['batch_p50_ms']:.1f}, p99 {told['batch_p99_ms']:.1f} ms"
        table.add(f"{name}, batch of 500", told["batch_ms"], f"{told['batch_ms']:.1f} ms", target=target, note=note)
        note = "the first message under it, or a go of judging again by it what is open"
        name = f"longest pause, {int(at):,} open, another policy"
        table.add(name, told["reload_ms"], f"{told['reload_ms']:.1f} ms", target=target, note=note)


# ---- the run --------------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure, print the table on standard output, and write it with its figures where --json says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, some minutes: no figure to quote")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part; may be repeated")
    parser.add_argument("--open", type=int, help="conversations open in the throughput rows")
    parser.add_argument(
        "--json", type=Path, default=Path("build/bench.json"), help="where the figures go (build/bench.json)"
    )
    parser.add_argument("--part", choices=IN_PROCESS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        found = IN_PROCESS[asked.part](json.load(sys.stdin))
        json.dump(found, sys.stdout)
        return 0
    sizes = QUICK if asked.quick else FULL
    if asked.open:
        sizes = msgspec.structs.replace(sizes, open=asked.open)
    parts = asked.only or PARTS
    where, load, table = environment(), Load(), Table(judged=sizes.open >= FULL.open)
    cores = divide_cores()
    os.sched_setaffinity(0, cores.rest)
    stop_is_an_interrupt()
    began = datetime.now(UTC)
    if len(cores.rest) == 1 and cores.rest == cores.measured:
        where["warning"] = "one core only: the broker competes with what is measured"
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        if {"kafka", "takeover", "latency", "paging", "pages", "ingest"}.intersection(parts):
            broker = RealBroker(directory / "broker", PATIENT)
            broker.start()
            try:
                if "latency" in parts:
                    bench_latency(table, broker, cores, sizes, directory)
                if "paging" in parts:
                    bench_paging(table, broker, cores, sizes, directory)
                if "pages" in parts:
                    bench_pages(table, broker, cores, sizes, directory)
                if "ingest" in parts:
                    bench_ingest(table, broker, cores, sizes, directory)
                if "takeover" in parts:
                    bench_takeover(table, broker, cores, sizes, directory)
                if "kafka" in parts:
                    bench_kafka(table, broker, cores, sizes, directory)
            finally:
                broker.kill()
        if "core" in parts:
            bench_core(table, cores, sizes)
        if "pauses" in parts:
            bench_pauses(table, cores, sizes)
    busy, stolen = load.shares()
    where["date"] = f"{began:%Y-%m-%d %H:%M} UTC, {(datetime.now(UTC) - began).total_seconds() / 60:.0f} minutes"
    where["command"] = " ".join(["python -m tests.bench", *sys.argv[1:]])
    where["machine busy"] = f"{busy:.0%} of all cores during the run, {stolen:.1%} taken by other machines"
    if asked.quick:
        where["sizes"] = "QUICK: too small for figures to quote"
    report = {"environment": where, "sizes": msgspec.to_builtins(sizes), "rows": msgspec.to_builtins(table.rows)}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    print("\n".join(f"{key}: {value}" for key, value in where.items()), end="\n\n")
    print(table.render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
