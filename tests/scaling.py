"""How the work spreads over members, and what a given number of calls needs.

    python -m tests.scaling                        1, 2 and 4 members over 16 partitions, on a real broker
    python -m tests.scaling --members 2 --events 100000
    python -m tests.scaling --size 30 3000 15      the table of docs/sizing.md: µs CPU an event, B a conversation, and
                                                   µs to fold an event again

The members are real monitors in processes of their own, on the cores there are. On a machine with fewer cores than
members and broker need, the clock says little: what one event costs, in processor time, is then the figure to look at,
and that no member does what another does as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, TopicPartition

from monitor.simulator.traffic import Knobs, traffic
from tests.broker import RealBroker, stop_is_an_interrupt
from tests.rig import (
    EVENTS_PER_CALL,
    BenchError,
    Entry,
    MonitorProcess,
    Names,
    Positions,
    cpu_s,
    create_topics,
    environment,
    fill,
    rss_bytes,
)

PARTITIONS: Final = 16


class Measured(NamedTuple):
    """One number of members at work. ``shares``: the partitions each had; ``twice``: messages judged more than once."""

    members: int
    cores: int
    per_s: float
    cpu_us: float
    shares: tuple[int, ...]
    balanced_s: float
    twice: int
    rss: int
    verdicts: dict[str, tuple[str, str | None]]


class _Said(msgspec.Struct):
    outcome: str
    cause: str | None
    at: tuple[int, int]


def measure(broker: RealBroker, members: int, entries: list[Entry], directory: Path) -> Measured:
    """Start members, wait until the partitions are shared out, then send them everything at once."""
    names = create_topics(broker, f"scaling-{members}", PARTITIONS)
    cores = sorted(os.sched_getaffinity(0))
    used = {cores[number % len(cores)] for number in range(members)}
    monitors = [
        MonitorProcess(
            broker.bootstrap, names, directory, cores=[cores[number % len(cores)]], label=f"member-{members}-{number}"
        )
        for number in range(members)
    ]
    positions = Positions(broker.bootstrap, names, PARTITIONS)
    try:
        began = time.perf_counter()
        shares = _balanced(monitors, names)
        balanced_s = time.perf_counter() - began
        # Their ticks are in the topic too: what is counted from here on is all that is behind them.
        before_cpu = sum(cpu_s(monitor.pid) for monitor in monitors)
        judged_before = _judged(monitors)
        filled = fill(broker.bootstrap, names.events, entries)
        ends = _ends(broker.bootstrap, names.events)
        at, had = time.perf_counter(), positions.total()
        until = time.monotonic() + 1800
        while any(positions.by_partition().get(number, 0) < end for number, end in ends.items()):
            for monitor in monitors:
                monitor.check()
            if time.monotonic() > until:
                raise BenchError(f"{members} members did not reach the end in half an hour")
            time.sleep(0.05)
        took_s = time.perf_counter() - at
        cpu = sum(cpu_s(monitor.pid) for monitor in monitors) - before_cpu
        done = sum(ends.values()) - had
        judged = _judged(monitors) - judged_before
        return Measured(
            members=members,
            cores=len(used),
            per_s=done / took_s,
            cpu_us=1e6 * cpu / filled.messages,
            shares=shares,
            balanced_s=balanced_s,
            twice=max(0, judged - sum(ends.values())),
            rss=max(rss_bytes(monitor.pid) for monitor in monitors),
            verdicts=_verdicts(broker.bootstrap, names.verdicts),
        )
    finally:
        positions.close()
        for monitor in monitors:
            monitor.stop()


def _balanced(monitors: list[MonitorProcess], names: Names, for_s: float = 120.0) -> tuple[int, ...]:
    """Wait until all partitions are owned, as evenly as they can be, and restored."""
    metric = f'kafka_assigned_partitions{{topic="{names.events}"}}'
    until = time.monotonic() + for_s
    while True:
        shares = tuple(int(monitor.metrics().get(metric, 0)) for monitor in monitors)
        even = sum(shares) == PARTITIONS and max(shares) - min(shares) <= 1
        if even and all(monitor.get("/-/ready")[0] == 200 for monitor in monitors):
            return shares
        for monitor in monitors:
            monitor.check()
        if time.monotonic() > until:
            raise BenchError(f"the partitions were not shared out evenly in {for_s:g} s: {shares}")
        time.sleep(0.1)


def _judged(monitors: list[MonitorProcess]) -> int:
    return sum(int(monitor.metrics().get("messages_total", 0)) for monitor in monitors)


def _ends(bootstrap: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "scaling"})
    try:
        bounds = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), 10) for number in range(PARTITIONS)
        }
        return {number: high for number, (_, high) in bounds.items()}
    finally:
        consumer.close()


def _verdicts(bootstrap: str, topic: str) -> dict[str, tuple[str, str | None]]:
    """The last verdict of each recording, as readers of the topic take it."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "scaling",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    decode = msgspec.json.Decoder(_Said).decode
    last: dict[str, _Said] = {}
    left = PARTITIONS
    try:
        while left:
            for message in consumer.consume(1000, 1.0):
                error, key, value = message.error(), message.key(), message.value()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        left -= 1
                elif key is not None and value is not None:
                    said = decode(value)
                    name = key.decode()
                    if name not in last or said.at >= last[name].at:
                        last[name] = said
    finally:
        consumer.close()
    return {name: (said.outcome, said.cause) for name, said in last.items()}


def render(told: list[Measured]) -> str:
    """The table in Markdown. A core's share is what one core did of the whole, by processor time."""
    heads = ("members", "cores for them", "events/s", "µs CPU an event", "events/s a core", "partitions each")
    lines = [
        f"| {' | '.join(heads)} | shared out in | judged twice |",
        "|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    lines += [
        f"| {m.members} | {m.cores} | {m.per_s:,.0f} | {m.cpu_us:.1f} | {1e6 / m.cpu_us:,.0f} "
        f"| {', '.join(map(str, m.shares))} | {m.balanced_s:.1f} s | {m.twice:,} |"
        for m in told
    ]
    first, rest = told[0].verdicts, told[1:]
    for measured in rest:
        shared = first.keys() & measured.verdicts.keys()
        differ = sum(first[key] != measured.verdicts[key] for key in shared)
        lines.append(f"\n{measured.members} members: {len(shared):,} recordings judged as by one, {differ} otherwise.")
    return "\n".join(lines)


# ---- sizing ---------------------------------------------------------------------------------------------------------


class Need(NamedTuple):
    """What a number of calls a day needs, by the formulas of docs/sizing.md."""

    calls_a_day: int
    average_per_s: float
    peak_per_s: float
    cores: float
    conversations: float
    memory_gb: float
    topic_gb: float
    takeover_s: float


BUSY_HOUR: Final = 0.12
"""The share of a day's calls that the busiest hour has; 1/24 would be a day without an evening."""
LOAD_MAX: Final = 0.5
"""How busy a core may be in the busiest hour: the other half is for catching up."""
EVENT_BYTES: Final = 1_200
RETENTION_DAYS: Final = 7
REPLICAS: Final = 3
WINDOW_H: Final = 4


def need(calls_a_day: int, cpu_us: float, conversation_bytes: float, fold_us: float) -> Need:
    """What ``calls_a_day`` need where an event costs ``cpu_us``, or ``fold_us`` when it is folded again in silence."""
    events = calls_a_day * EVENTS_PER_CALL
    peak = events * BUSY_HOUR / 3600
    cores = peak * cpu_us / 1e6 / LOAD_MAX
    conversations = calls_a_day * BUSY_HOUR * WINDOW_H
    return Need(
        calls_a_day=calls_a_day,
        average_per_s=events / 86_400,
        peak_per_s=peak,
        cores=cores,
        conversations=conversations,
        memory_gb=conversations * conversation_bytes / 1e9,
        topic_gb=events * EVENT_BYTES * RETENTION_DAYS * REPLICAS / 1e9,
        # One process a core: the partitions of one that was lost are folded again by one other, at worst.
        takeover_s=peak * 3600 * WINDOW_H / max(1.0, cores) * fold_us / 1e6,
    )


def render_needs(cpu_us: float, conversation_bytes: float, fold_us: float) -> str:
    """The table of docs/sizing.md."""
    needs = [need(calls, cpu_us, conversation_bytes, fold_us) for calls in (1_000_000, 10_000_000, 100_000_000)]
    heads = ("calls a day", "events/s, average", "in the busy hour", "cores", "conversations open", "memory for them")
    lines = [
        f"| {' | '.join(heads)} | events topic, 7 d, 3 replicas | takeover of one core's share |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {n.calls_a_day:,} | {n.average_per_s:,.0f} | {n.peak_per_s:,.0f} | {n.cores:.1f} "
        f"| {n.conversations:,.0f} | {n.memory_gb:,.1f} GB | {n.topic_gb:,.0f} GB | {n.takeover_s:,.0f} s |"
        for n in needs
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure the scaling, or work out sizes."""
    parser = argparse.ArgumentParser(prog="python -m tests.scaling", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, action="append", help="how many; may be repeated (1, 2 and 4)")
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--size", type=float, nargs=3, metavar=("CPU_US", "BYTES", "FOLD_US"))
    asked = parser.parse_args()
    if asked.size:
        print(render_needs(*asked.size))
        return 0
    stop_is_an_interrupt()
    where, began = environment(), datetime.now(UTC)
    # Many accounts, so that each partition has some: an account is never spread. Recent, for what began more than a
    # week ago is not judged; and of one hour at most, for all of it arrives at once.
    start_ms = int((time.time() - 7200) * 1000)
    rate = max(500.0, asked.events / 3600)
    knobs = Knobs(seed=21, rate=rate, events=asked.events, accounts=800, recorded=1.0, start_ms=start_ms)
    entries = [Entry(*entry) for entry in traffic(knobs)]
    told = []
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        broker = RealBroker(Path(name) / "broker")
        broker.start()
        try:
            for members in asked.members or (1, 2, 4):
                told.append(measure(broker, members, entries, Path(name)))
                print(f"{datetime.now(UTC):%H:%M:%S} {members} members: {told[-1].per_s:,.0f}/s", file=sys.stderr)
        finally:
            broker.kill()
    where["date"] = f"{began:%Y-%m-%d %H:%M} UTC"
    where["command"] = " ".join(["python -m tests.scaling", *sys.argv[1:]])
    print("\n".join(f"{key}: {value}" for key, value in where.items()), end="\n\n")
    print(render(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
