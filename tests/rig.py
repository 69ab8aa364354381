"""What `bench`, `scaling` and `soak` share: traffic made once, monitors as processes of their own, what they consume.

Nothing here looks into a monitor. It is started with the command people start it with, and measured from outside: its
metrics, the positions its group commits, what the kernel says of the process, and the verdict topic.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import platform
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

import msgspec
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from monitor.inputs.topics import COMPACTED_SEGMENT_BYTES
from monitor.simulator.scenes import PLUGIN_CALLBACK
from monitor.simulator.traffic import Knobs, traffic
from tests.broker import KAFKA_VERSION, RealBroker, free_ports, produce

ROOT: Final = Path(__file__).resolve().parent.parent
METRIC: Final = "recording_monitor_"
EVENTS_PER_CALL: Final = 40
"""About how many entries the simulator writes for a call, with its repeats; what is measured is counted, not this."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_FRAME: Final = struct.Struct("<qHI")
_RUN: Final = "from monitor.cli import main; main()"  # What the console script does, of this very Python and tree.


class BenchError(Exception):
    """A measurement could not be taken; the message says why."""


# ---- cores ----------------------------------------------------------------------------------------------------------


class Cores(NamedTuple):
    """Which cores measure and which serve: the measured process is alone on ``measured``, all else on ``rest``."""

    measured: list[int]
    rest: list[int]


def divide_cores() -> Cores:
    """One core for what is measured, the others for the broker and for us. On a single core both are that one."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(cores[:1], cores[1:] or cores[:1])


def start_on(cores: Sequence[int] | None, command: Sequence[str | Path], **options: object) -> subprocess.Popen[bytes]:
    """Start a process on some cores only, with all its threads: a child inherits the mask of the thread that forks."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        return subprocess.Popen([str(part) for part in command], **options)  # type: ignore[call-overload,no-any-return]
    finally:
        os.sched_setaffinity(0, before)


# ---- processes, as the kernel sees them -----------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """Seconds of processor time a process has used, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def threads(pid: int) -> int:
    """How many threads a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


# ---- traffic --------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One simulated entry: when it is due, whose it is, its bytes."""

    due_ms: int
    account: str
    value: bytes


def write_frames(knobs: Knobs, file: IO[bytes]) -> None:
    """Render traffic as frames, for another process to read."""
    for due_ms, account, value in traffic(knobs):
        name = account.encode()
        file.write(_FRAME.pack(due_ms, len(name), len(value)) + name + value)


def read_frames(file: IO[bytes]) -> Iterator[Entry]:
    """Read frames to the end of the file."""
    while header := file.read(_FRAME.size):
        due_ms, name, size = _FRAME.unpack(header)
        yield Entry(due_ms, file.read(name).decode(), file.read(size))


@contextlib.contextmanager
def generated(knobs: Knobs, cores: Sequence[int] | None) -> Iterator[Iterator[Entry]]:
    """Traffic rendered by a process on ``cores``, so that whoever measures does not pay for it."""
    command = [sys.executable, "-m", "tests.rig", "frames"]
    process = start_on(cores, command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(knobs))
    process.stdin.close()
    try:
        yield read_frames(process.stdout)
    finally:
        process.stdout.close()
        process.terminate()
        process.wait()


class Filled(NamedTuple):
    """What went into a topic: how many messages, how many bytes of value, when the last was due."""

    messages: int
    bytes: int
    last_due_ms: int


def fill(
    bootstrap: str,
    topic: str,
    entries: Iterable[Entry],
    *,
    key: Callable[[Entry], str] = lambda entry: entry.account,
    each: Callable[[int, Entry], None] | None = None,
) -> Filled:
    """Put traffic into a topic as fast as it goes, stamped with when it was due; lz4, as a bridge would send it."""
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 50,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 200_000,
            "log_level": 3,  # A broker that has just started is asked again for a moment; that is no news.
        }
    )
    messages = size = last_ms = 0
    for entry in entries:
        produce(producer, topic, entry.value, key(entry), timestamp=entry.due_ms, on_delivery=delivered)
        if each is not None:
            each(messages, entry)
        messages += 1
        size += len(entry.value)
        last_ms = max(last_ms, entry.due_ms)
        if messages % 1000 == 0:
            producer.poll(0)
    if producer.flush(120) or failed:
        raise BenchError(f"the broker did not take the traffic: {failed[:1]}")
    return Filled(messages, size, last_ms)


# ---- a monitor ------------------------------------------------------------------------------------------------------


class Names(NamedTuple):
    """The topics and the group of one measurement."""

    events: str
    verdicts: str
    case_actions: str
    account_settings: str
    quarantine: str
    group: str


def create_topics(broker: RealBroker, stem: str, partitions: int) -> Names:
    """Create the topics of one measurement. Events keep the time they were sent with, so that four hours fit in."""
    forever = {"retention_ms": -1, "segment_bytes": 268_435_456}
    compacted = {"segment_bytes": COMPACTED_SEGMENT_BYTES}  # As `topics apply` makes it.
    return Names(
        events=broker.new_topic(f"{stem}-events", partitions, message_timestamp_type="CreateTime", **forever),
        verdicts=broker.new_topic(f"{stem}-verdicts", partitions, cleanup_policy="compact", **compacted),
        case_actions=broker.new_topic(f"{stem}-actions", 1, cleanup_policy="compact"),
        account_settings=broker.new_topic(f"{stem}-settings", 1, cleanup_policy="compact"),
        quarantine=broker.new_topic(f"{stem}-quarantine", 1),
        group=f"{stem}-group-{os.urandom(4).hex()}",
    )


class Sample(NamedTuple):
    """A monitor at one instant, seen from outside. ``position``: messages judged and committed, all partitions."""

    at: float
    cpu_s: float
    rss: int
    position: int
    conversations: int


class MonitorProcess:
    """``recording-monitor run`` in a process of its own, on ``cores``; what it says goes to ``directory``."""

    def __init__(
        self,
        bootstrap: str,
        names: Names,
        directory: Path,
        *,
        cores: Sequence[int] | None = None,
        settings: Mapping[str, object] | None = None,
        actions: bool = False,
        label: str = "monitor",
    ) -> None:
        self.port = free_ports(1)[0]
        self.log = directory / f"{label}-{self.port}.log"
        config = directory / f"{label}-{self.port}.yaml"
        chosen: dict[str, object] = {
            "kafka": {"bootstrap_servers": bootstrap, "group_id": names.group, "start_at": "earliest"},
            "topics": {name: getattr(names, name) for name in names._fields if name != "group"},
            "web": {"listen": f"127.0.0.1:{self.port}", "actions": actions},
            "cases": {"database": str(directory / f"{label}-{self.port}.sqlite3")},
            "starters": [{"callback_url": f"{PLUGIN_CALLBACK}*", "cause": "flex_plugin", "name": "plugin"}],
            "log": {"format": "json"},
        }
        for name, value in (settings or {}).items():
            known = chosen.get(name)
            chosen[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
        config.write_bytes(msgspec.json.encode(chosen))  # JSON is YAML.
        self._log = self.log.open("wb")
        self.started = time.perf_counter()
        self.process = start_on(
            cores,
            [sys.executable, "-c", _RUN, "run", "--no-topics", "--config", config],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    def get(self, path: str) -> tuple[int, str]:
        """Ask its web server; (0, "") while nobody answers."""
        return self._ask("GET", path)

    def post(self, path: str, value: object) -> tuple[int, str]:
        """Send its web server JSON; (0, "") while nobody answers."""
        return self._ask("POST", path, msgspec.json.encode(value), {"Content-Type": "application/json"})

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Its metrics, by the name and labels they are exposed under; empty while nobody answers."""
        _, text = self.get("/metrics")
        found: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith(METRIC):
                name, _, value = line.removeprefix(METRIC).rpartition(" ")
                found[name] = float(value)
        return found

    def conversations(self) -> int:
        """How many conversations are open in it."""
        return int(self.metrics().get('window_entries{kind="conversations"}', 0))

    def lines(self) -> list[dict[str, Any]]:
        """What it has said so far; what is no JSON is left out."""
        said = self.log.read_bytes().splitlines()
        return [msgspec.json.decode(line) for line in said if line.startswith(b"{") and line.endswith(b"}")]

    def check(self) -> None:
        """Raise ``BenchError`` with the end of its log when it has ended."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-1500:]
            raise BenchError(f"the monitor ended with exit code {self.process.returncode}: {tail}")

    def wait_ready(self, for_s: float = 600.0) -> float:
        """Wait until policy, settings and assignment are restored; seconds since its start."""
        until = time.perf_counter() + for_s
        while self.get("/-/ready")[0] != 200:
            self.check()
            if time.perf_counter() > until:
                raise BenchError(f"not ready after {for_s:g} s")
            time.sleep(0.02)
        return time.perf_counter() - self.started

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it: in good order, or with SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Positions:
    """What a group has committed; asking for it costs the monitor nothing."""

    def __init__(self, bootstrap: str, names: Names, partitions: int = 1) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": names.group, "log_level": 2})
        self._asked = [TopicPartition(names.events, number) for number in range(partitions)]

    def by_partition(self) -> dict[int, int]:
        """The next message of each partition, where one was ever committed."""
        return {tp.partition: tp.offset for tp in self._consumer.committed(self._asked, 10.0) if tp.offset >= 0}

    def total(self) -> int:
        """How many messages are judged and safe."""
        return sum(self.by_partition().values())

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


class Watching:
    """Samples a monitor in a thread until it is left.

    Its position comes from what it commits (once a second), since its metrics cost it time; they are asked for only
    every ``scrape_s``, as Prometheus would.
    """

    def __init__(self, monitor: MonitorProcess, positions: Positions, *, scrape_s: float = 15.0) -> None:
        self.samples: list[Sample] = []
        self.error: Exception | None = None
        self._monitor = monitor
        self._positions = positions
        self._scrape_s = scrape_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        scrape_after, conversations, rss, pid = 0.0, 0, 0, self._monitor.pid
        try:
            while not self._end.wait(0.1):
                self._monitor.check()
                position, at, cpu = self._positions.total(), time.perf_counter(), cpu_s(pid)
                if self.samples and position == self.samples[-1].position:
                    continue
                if at >= scrape_after:
                    # Of one moment: fifteen seconds later there may be a tenth more open.
                    conversations, rss = self._monitor.conversations(), rss_bytes(pid)
                    scrape_after = time.perf_counter() + self._scrape_s
                self.samples.append(Sample(at, cpu, rss, position, conversations))
        except Exception as error:
            self.error = error

    def wait_for(self, position: int, for_s: float = 3600.0) -> None:
        """Return once so much is judged. Raises ``BenchError``, or what the sampling raised."""
        until = time.monotonic() + for_s
        while not self.samples or self.samples[-1].position < position:
            if self.error is not None:
                raise self.error
            if time.monotonic() > until:
                raise BenchError(f"position {position:,} was not reached in {for_s:g} s")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


# ---- steadiness, environment ----------------------------------------------------------------------------------------


def rate_between(samples: Sequence[Sample]) -> tuple[float, float]:
    """(messages a second, microseconds of processor time a message) from the first sample to the last.

    Raises ``BenchError`` when nothing happened between them.
    """
    if len(samples) < 2 or samples[-1].position <= samples[0].position:
        raise BenchError("too few samples: the run was too short to be timed")
    first, last = samples[0], samples[-1]
    messages = last.position - first.position
    return messages / (last.at - first.at), 1e6 * (last.cpu_s - first.cpu_s) / messages


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of all lie; the nearest rank, no interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope of (seconds, value), a hour."""
    times, values = [t for t, _ in points], [v for _, v in points]
    return statistics.linear_regression(times, values).slope * 3600


class Load:
    """How busy the whole machine was, ourselves included."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle, steal = fields[3] + fields[4], fields[7]
        return sum(fields) / _TICKS, idle / _TICKS, steal / _TICKS

    def shares(self) -> tuple[float, float]:
        """(busy, stolen by other machines) since construction, each as a share of all cores."""
        total, idle, steal = (b - a for a, b in zip(self._before, self._read(), strict=True))
        return ((total - idle) / total, steal / total) if total else (0.0, 0.0)


def environment() -> dict[str, str]:
    """What a figure depends on and a reader can't guess."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("confluent-kafka", "msgspec", "prometheus-client")
    )
    return {
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions,
        "broker": f"Kafka {KAFKA_VERSION}, one node, heap 256 MB, on the same machine",
        "load": f"{os.getloadavg()[0]:.1f} before the run",
    }


if __name__ == "__main__":
    assert sys.argv[1:] == ["frames"]
    with contextlib.suppress(BrokenPipeError):
        write_frames(msgspec.json.decode(sys.stdin.buffer.read(), type=Knobs), sys.stdout.buffer)
        sys.stdout.flush()
    os._exit(0)  # Whoever reads has gone perhaps: nothing is left to flush.
