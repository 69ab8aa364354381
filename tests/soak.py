"""``make soak``: half an hour at a steady rate with random restarts, and what grows meanwhile.

Two members share four partitions. One is never touched, and is watched: memory, file descriptors, threads. The other
is stopped at random, in good order or by SIGKILL, and started again, so that partitions come to the first and leave it
all the time: what a takeover leaks would show there. The window is two minutes and life runs thirty times faster, so
that after the warm-up as many conversations close as begin; a case is held as much shorter, since the board of alerts
knows all that are held. What memory a member needs at most is what it needs for its longest takeover, and for eleven
minutes they become longer: each begins where the oldest open conversation does (four and a half minutes ago), or what
was open beside one that goes by a name (as long again), and looks back at one window before that. So the warm-up is
half of the run.

What is kept of a final verdict (some digests, for as long as it may be revised or retained) grows by design; the
slope is given as measured, among looks at as many partitions, and beside it what the verdicts reached in that time
explain.

    python -m tests.soak                    30 minutes at 2,000 events/s
    python -m tests.soak --recorded 0.1     the same, of which one call in ten is recorded
    python -m tests.soak --minutes 3 --rate 500
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple, Self

import msgspec
from confluent_kafka import KafkaError, Producer

from monitor.simulator.traffic import Knobs
from tests.broker import PATIENT, RealBroker, produce, stop_is_an_interrupt
from tests.rig import (
    BenchError,
    Cores,
    Entry,
    MonitorProcess,
    Names,
    Positions,
    create_topics,
    descriptors,
    divide_cores,
    environment,
    generated,
    rss_bytes,
    slope_per_hour,
    threads,
)

PARTITIONS: Final = 4
WARM_UP: Final = 1 / 2
"""The share of the run after which the slope is taken."""
WINDOW_S: Final = 120
TEMPO: Final = 30.0
HOLD_S: Final = 900 / TEMPO
SAMPLE_S: Final = 5.0
UP_S: Final = (60.0, 180.0)
"""How long the other member lives. Ended every forty seconds, the two fell behind: each time both fold two minutes
again, at a thousand events a second for ten seconds and more."""
AWAY_S: Final = (1.0, 20.0)
SLOPE_MUST_MB: Final = 1.0


class Look(NamedTuple):
    """The watched member at one instant."""

    at_s: float
    rss: int
    descriptors: int
    threads: int
    conversations: int
    verdicts: int
    partitions: int


class Sending:
    """Sends traffic at a steady rate from a thread, until it is left; never faster, and says how far behind it fell."""

    def __init__(self, bootstrap: str, topic: str, rate: int, entries: Iterator[Entry]) -> None:
        self.sent = 0
        self.behind_s = 0.0
        self.error: Exception | None = None
        self._topic = topic
        self._rate = rate
        self._entries = entries
        self._end = threading.Event()
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "compression.type": "lz4", "linger.ms": 5}
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            began = time.perf_counter()
            for entry in self._entries:
                if self._end.is_set():
                    break
                ahead = began + self.sent / self._rate - time.perf_counter()
                if ahead > 0.005:
                    self._producer.poll(0)
                    time.sleep(ahead)
                self.behind_s = max(self.behind_s, -ahead)
                # Where the broker has not answered for long, what waits is behind plan, and said to be.
                produce(self._producer, self._topic, entry.value, entry.account, on_delivery=self._delivered)
                self.sent += 1
                if self.sent % 200 == 0:
                    self._producer.poll(0)
            self._producer.flush(30)
        except Exception as error:
            self.error = error

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self.error = BenchError(f"a message was not delivered: {error.name()}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)


def look(monitor: MonitorProcess, names: Names, began: float) -> Look:
    """Look at the watched member once."""
    monitor.check()
    metrics = monitor.metrics()
    return Look(
        at_s=time.perf_counter() - began,
        rss=rss_bytes(monitor.pid),
        descriptors=descriptors(monitor.pid),
        threads=threads(monitor.pid),
        conversations=int(metrics.get('window_entries{kind="conversations"}', 0)),
        verdicts=sum(int(value) for name, value in metrics.items() if name.startswith("recordings_total{")),
        partitions=int(metrics.get(f'kafka_assigned_partitions{{topic="{names.events}"}}', 0)),
    )


def soak(
    broker: RealBroker, directory: Path, cores: Cores, *, minutes: float, rate: int, recorded: float, seed: int
) -> tuple[list[Look], list[str], str]:
    """Run it: what was seen of the watched member, when the other was ended how, and whether they kept up."""
    names = create_topics(broker, "soak", PARTITIONS)
    settings: dict[str, object] = {"window": f"{WINDOW_S}s", "grace": "10s", "cases": {"hold": f"{HOLD_S:g}s"}}
    looks: list[Look] = []
    ends: list[str] = []
    chance = random.Random(seed)
    knobs = Knobs(
        seed=seed,
        rate=float(rate),
        recorded=recorded,
        tempo=TEMPO,
        accounts=60,
        disorder_s=1.0,
        start_ms=int(time.time() * 1000),
    )
    labels = itertools.count(1)

    def other() -> MonitorProcess:
        label = f"restarted-{next(labels)}"
        return MonitorProcess(broker.bootstrap, names, directory, cores=cores.rest, settings=settings, label=label)

    positions = Positions(broker.bootstrap, names, PARTITIONS)
    watched = MonitorProcess(
        broker.bootstrap, names, directory, cores=cores.measured, settings=settings, label="watched"
    )
    restarted: MonitorProcess | None = other()
    try:
        watched.wait_ready(120)
        with (
            generated(knobs, cores.rest) as entries,
            Sending(broker.bootstrap, names.events, rate, entries) as sending,
        ):
            began = time.perf_counter()
            change_at, look_at = chance.uniform(20, 60), 0.0
            while (now := time.perf_counter() - began) < minutes * 60:
                if sending.error is not None:
                    raise sending.error
                if now >= look_at:
                    looks.append(look(watched, names, began))
                    look_at = now + SAMPLE_S
                if now >= change_at:
                    if restarted is None:
                        restarted = other()
                        change_at = now + chance.uniform(*UP_S)
                    else:
                        how = chance.choice((signal.SIGTERM, signal.SIGKILL))
                        restarted.stop(how)
                        restarted = None
                        ends.append(f"{now:.0f} s {how.name}")
                        change_at = now + chance.uniform(*AWAY_S)
                time.sleep(0.1)
        # What is left of the backlog after the last sudden end must go, and the positions must be those of the end.
        until = time.monotonic() + 60
        while (left := sending.sent - positions.total()) > 0 and time.monotonic() < until:
            time.sleep(0.5)
        looks.append(look(watched, names, began))
        kept_up = f"{sending.sent:,} sent, at most {sending.behind_s:.2f} s behind plan"
        kept_up += f"; {max(0, left):,} not judged a minute later"
        return looks, ends, kept_up
    finally:
        positions.close()
        watched.stop()
        if restarted is not None:
            restarted.stop()


def render(looks: list[Look], ends: list[str], kept_up: str, minutes: float) -> str:
    """The findings in Markdown."""
    warm = WARM_UP * minutes * 60
    after = [seen for seen in looks if seen.at_s >= warm]
    if len(after) < 3:
        raise BenchError("too short: nothing is left after the warm-up")
    first, last = after[0], after[-1]
    slope = _rss_slope(after)
    hours = (last.at_s - first.at_s) / 3600
    verdicts = (last.verdicts - first.verdicts) / hours
    of_each = slope * 2**20 / verdicts if verdicts else 0.0
    reached = "reached" if slope <= SLOPE_MUST_MB else "missed"
    lines = [
        "| what | measured |",
        "|---|---|",
        f"| RSS slope after {warm / 60:.1f} min | {slope:+.1f} MB/h (must {SLOPE_MUST_MB:g}: {reached}) |",
        f"| verdicts of the watched member | {verdicts:,.0f}/h, so {of_each:,.0f} B of slope for each |",
        f"| RSS, least to most after warm-up | {_range([s.rss / 2**20 for s in after])} MB |",
        f"| file descriptors, least to most | {_range([s.descriptors for s in after])} |",
        f"| file descriptors, slope | {slope_per_hour([(s.at_s, s.descriptors) for s in after]):+.1f}/h |",
        f"| threads, least to most | {_range([s.threads for s in after])} |",
        f"| threads, slope | {slope_per_hour([(s.at_s, s.threads) for s in after]):+.1f}/h |",
        f"| conversations open, least to most | {_range([s.conversations for s in after])} |",
        f"| partitions, least to most | {_range([s.partitions for s in after])} |",
        f"| ends of the other member | {len(ends)}: {', '.join(ends[:12])}{' …' if len(ends) > 12 else ''} |",
        f"| kept up | {kept_up} |",
    ]
    return "\n".join(lines)


def _rss_slope(seen: list[Look]) -> float:
    """In MB an hour, among looks at as many partitions: with two more it holds more, whenever that is."""
    points: list[tuple[float, float]] = []
    for count in {one.partitions for one in seen}:
        alike = [one for one in seen if one.partitions == count]
        mean_s, mean_rss = fmean([one.at_s for one in alike]), fmean([one.rss for one in alike])
        points += [(one.at_s - mean_s, (one.rss - mean_rss) / 2**20) for one in alike]
    return slope_per_hour(points)


def _range(values: list[float] | list[int]) -> str:
    return f"{min(values):,.0f} to {max(values):,.0f}"


def main() -> int:
    """Soak, print what was found, and write every look into --json."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=2_000, help="events a second")
    parser.add_argument("--recorded", type=float, default=0.35, help="the share of calls that something records")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"))
    asked = parser.parse_args()
    stop_is_an_interrupt()
    where, began = environment(), datetime.now(UTC)
    cores = divide_cores()
    os.sched_setaffinity(0, cores.rest)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        broker = RealBroker(Path(name) / "broker", PATIENT)
        broker.start()
        try:
            looks, ends, kept_up = soak(
                broker,
                Path(name),
                cores,
                minutes=asked.minutes,
                rate=asked.rate,
                recorded=asked.recorded,
                seed=asked.seed,
            )
        finally:
            broker.kill()
    where["date"] = f"{began:%Y-%m-%d %H:%M} UTC"
    where["command"] = " ".join(["python -m tests.soak", *sys.argv[1:]])
    report = {"environment": where, "looks": [seen._asdict() for seen in looks], "ends": ends}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    print("\n".join(f"{key}: {value}" for key, value in where.items()), end="\n\n")
    print(render(looks, ends, kept_up, asked.minutes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
