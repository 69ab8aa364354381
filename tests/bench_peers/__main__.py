"""The same simple job in other stream processors and on our own client code, on one broker, in one run.

Each job gets a core of its own, one partition and the same messages, and is timed by what anybody can see: the times
at which the broker took its verdicts. The first third of them is left out, so that starting, and warming up a virtual
machine, count for nobody. All must say the same, verdict for verdict. Processor time is that of the whole process,
from its start to its last verdict.

    python -m tests.bench_peers                   a million messages, three rounds
    python -m tests.bench_peers --messages 100000 --rounds 1 --only ours --only arroyo
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Consumer, TopicPartition

from monitor.simulator.traffic import Knobs, traffic
from tests.bench_peers.simple_job import Verdict, key_of, step
from tests.broker import RealBroker, java, stop_is_an_interrupt
from tests.rig import ROOT, BenchError, Cores, Entry, cpu_s, divide_cores, environment, fill, start_on

HERE: Final = Path(__file__).resolve().parent
PYTHON_PEERS: Final = ("quix", "arroyo")
JOBS: Final = ("ours", "arroyo", "quix", "quix-no-changelog", "streams", "streams-no-changelog")
OURS: Final = "ours"
MUST: Final = 2.0
GOAL: Final = 3.0
_COPY_JARS: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def cache() -> Path:
    """Where the peers' environments lie: outside the tree, under what they are made of."""
    made_of = sorted([*HERE.glob("requirements-*.txt"), *HERE.glob("streams/*")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in made_of) + sys.version.encode()).hexdigest()[:12]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recording-monitor"
    return base / f"peers-{digest}"


def set_up() -> Path:
    """Build the peers' environments once: two virtual environments, and the jars and class of Kafka Streams."""
    final = cache()
    final.parent.mkdir(parents=True, exist_ok=True)
    with final.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (final / "whole").exists():
            return final
        # In place, since a virtual environment can't be moved; the last file written says that it is whole.
        shutil.rmtree(final, ignore_errors=True)
        for peer in PYTHON_PEERS:
            _run(sys.executable, "-m", "venv", final / peer)
            pip = (final / peer / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
            _run(*pip, "install", "--quiet", "--no-deps", "-r", HERE / f"requirements-{peer}.txt")
        maven = ("mvn", "-q", "-B", "-f", HERE / "streams" / "pom.xml", _COPY_JARS)
        _run(*maven, "-DincludeScope=runtime", f"-DoutputDirectory={final / 'streams'}")
        _run("javac", "-cp", f"{final / 'streams'}/*", "-d", final / "streams", HERE / "streams" / "SimpleJob.java")
        (final / "whole").touch()
    return final


def _run(*command: str | Path) -> None:
    told = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if told.returncode:
        raise BenchError(f"{command[0]} failed: {(told.stderr or told.stdout)[-2000:]}")


def command_of(job: str, built: Path, bootstrap: str, source: str, target: str) -> list[str | Path]:
    """How a job is started."""
    changelog = "none" if job.endswith("-no-changelog") else "changelog"
    given: list[str | Path] = [bootstrap, source, target, changelog]
    peer = job.removesuffix("-no-changelog")
    if job == OURS:
        return [sys.executable, "-m", "tests.bench_peers.ours_job", *given]
    if peer == "streams":
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return [java(), "-Xmx2g", quiet, "-cp", f"{built / 'streams'}/*:{built / 'streams'}", "SimpleJob", *given]
    return [built / peer / "bin" / "python", HERE / f"{peer}_job.py", *given]


class Result(NamedTuple):
    """One run of one job: messages a second in its steady part, and processor time a message over all of it."""

    per_s: float
    cpu_us: float


def measure(
    job: str,
    built: Path,
    broker: RealBroker,
    source: str,
    expected: list[tuple[int, Verdict]],
    messages: int,
    cores: Cores,
) -> Result:
    """Run one job over the whole topic. Raises ``BenchError`` when it ends, is too slow, or says anything else."""
    target = broker.new_topic(f"verdicts-{job}", 1, message_timestamp_type="LogAppendTime")
    with tempfile.TemporaryFile() as log:
        command = command_of(job, built, broker.bootstrap, source, target)
        process = start_on(cores.measured, command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            read, used = _read_verdicts(broker.bootstrap, target, len(expected), process)
        except BenchError as error:
            log.seek(0)
            output = log.read()[-2000:].decode(errors="replace")
            raise BenchError(f"{job}: {error}\nIt said: {output}\nThe broker: {broker.log_tail(15)}") from None
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for number, ((_, verdict), (_, said)) in enumerate(zip(expected, read, strict=True)):
        if said != verdict:
            raise BenchError(f"{job}: verdict {number} is another than that of the other jobs")
    third = len(expected) // 3
    seconds = (read[-1][0] - read[third][0]) / 1000
    if seconds <= 0:
        raise BenchError(f"{job}: too few messages to be timed")
    return Result((expected[-1][0] - expected[third][0]) / seconds, 1e6 * used / messages)


def _read_verdicts(
    bootstrap: str, topic: str, number: int, process: subprocess.Popen[bytes], silent_s: float = 60.0
) -> tuple[list[tuple[int, Verdict]], float]:
    """Read so many verdicts: when the broker took each (ms), and what it says; and what the process had used then."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-peers",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    decode = msgspec.json.Decoder(Verdict).decode
    read: list[tuple[int, Verdict]] = []
    until = time.monotonic() + silent_s
    try:
        while len(read) < number:
            before = len(read)
            for message in consumer.consume(1000, 0.5):
                value = message.value()
                if message.error() is None and value is not None:
                    read.append((message.timestamp()[1], decode(value)))
            if process.poll() is not None:
                raise BenchError(f"ended with exit code {process.returncode}")
            if len(read) > before:
                until = time.monotonic() + silent_s
            elif time.monotonic() > until:
                written = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)[1]
                raise BenchError(
                    f"{len(read)} of {number} verdicts read, {written} written, no other for {silent_s:g} s"
                )
        return read[:number], cpu_s(process.pid)
    finally:
        consumer.close()


def main() -> int:
    """Run all jobs in turn and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=JOBS)
    parser.add_argument("--json", type=Path, default=Path("build/bench-peers.json"))
    asked = parser.parse_args()
    jobs = [job for job in JOBS if not asked.only or job in asked.only]
    stop_is_an_interrupt()
    where, began = environment(), datetime.now(UTC)
    cores = divide_cores()
    os.sched_setaffinity(0, cores.rest)
    built = set_up()
    results: dict[str, list[Result]] = {job: [] for job in jobs}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        broker = RealBroker(Path(name) / "broker")
        broker.start()
        try:
            # For ever: the simulator's events lie in the past, and a broker deletes what is a week old in mid-run.
            source = broker.new_topic("events", 1, message_timestamp_type="CreateTime", retention_ms=-1)
            knobs = Knobs(seed=11, rate=500, events=asked.messages, recorded=1.0, accounts=50)
            expected: list[tuple[int, Verdict]] = []
            conferences: dict[str, str] = {}

            def expect(offset: int, entry: Entry) -> None:
                if (verdict := step(entry.value, conferences)) is not None:
                    expected.append((offset, verdict))

            entries = (Entry(*entry) for entry in islice(traffic(knobs), asked.messages))
            filled = fill(broker.bootstrap, source, entries, key=lambda e: key_of(e.value) or e.account, each=expect)
            for number in range(asked.rounds):
                for job in jobs:
                    result = measure(job, built, broker, source, expected, filled.messages, cores)
                    results[job].append(result)
                    told = f"{job:<22} {result.per_s:>10,.0f}/s {result.cpu_us:>7.2f} µs CPU"
                    print(f"{datetime.now(UTC):%H:%M:%S} round {number + 1}: {told}", file=sys.stderr, flush=True)
        finally:
            broker.kill()
    where["date"] = f"{began:%Y-%m-%d %H:%M} UTC"
    where["command"] = " ".join(["python -m tests.bench_peers", *sys.argv[1:]])
    where["messages"] = f"{filled.messages:,} of {filled.bytes / filled.messages:,.0f} B, {len(expected):,} verdicts"
    report = {"environment": where, "jobs": {job: [r._asdict() for r in told] for job, told in results.items()}}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    print("\n".join(f"{key}: {value}" for key, value in where.items()), end="\n\n")
    print(render(results))
    return 0


def render(results: dict[str, list[Result]]) -> str:
    """The table in Markdown, with what the fastest peer reaches beside our own."""
    ours = statistics.median(r.per_s for r in results[OURS]) if results.get(OURS) else None
    lines = [
        "| job | events/s, median | least to most | µs CPU an event | ours is faster by |",
        "|---|---:|---:|---:|---:|",
    ]
    fastest = 0.0
    for job, told in results.items():
        rates = [r.per_s for r in told]
        median = statistics.median(rates)
        by = f"{ours / median:.1f}" if ours is not None and job != OURS else ""
        cpu = statistics.median(r.cpu_us for r in told)
        lines.append(f"| {job} | {median:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {cpu:.2f} | {by} |")
        if job != OURS:
            fastest = max(fastest, median)
    if ours is not None and fastest:
        ratio = ours / fastest
        reached = "goal" if ratio >= GOAL else "must" if ratio >= MUST else "missed"
        lines.append(f"\nAgainst the fastest peer: {ratio:.1f} times (must {MUST:g}, goal {GOAL:g}): {reached}.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
