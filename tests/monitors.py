"""Whole monitors as processes of their own, as an operator starts them, and the topics and the traffic they work on.

``Site`` is one installation on a broker: topics, settings, policy. ``Monitor`` is one of its processes, which may be
stopped, killed and asked for its metrics. ``Load`` is traffic on its way into the events topic.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import msgspec
import yaml
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from monitor.commands.common import read_policy, read_settings
from monitor.commands.paging import pace_of
from monitor.commands.run import start_monitor
from monitor.simulator.delivery import TopicSink
from monitor.simulator.traffic import Knobs, header, traffic, truth
from monitor.simulator.truth import write_line
from tests.broker import RealBroker, unique_name
from tests.verify import Findings, Message, Verdict, holding, read_topic, verify_verdicts

ROOT = Path(__file__).parent.parent
WAIT_S = 180.0  # What a starved machine may need; costs time only where something is wrong.

# The kernel kills a monitor whose tests were killed (prctl's PR_SET_PDEATHSIG, SIGKILL).
_ENDS_WITH_US = "import ctypes; ctypes.CDLL(None).prctl(1, 9)\n" if sys.platform == "linux" else ""
PROGRAM = _ENDS_WITH_US + "from monitor.cli import main; main()"
_QUICK = _ENDS_WITH_US + "import sys; from tests.monitors import quick; quick(*sys.argv[1:])"

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings that somebody's shell may hold, and plain on the terminal."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RECORDING_MONITOR_")}
    return {**clean, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", **more}


def program(*arguments: str, cwd: Path, tree: Path = ROOT, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run one command of the program to its end, of the code in ``tree``."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd,
        env=environment(PYTHONPATH=str(tree)),
        capture_output=True,
        timeout=180,
        check=False,
        **more,
    )


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server of a test's own on loopback; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def until(what: Callable[[], object], for_s: float = WAIT_S, why: Callable[[], object] = lambda: "") -> None:
    """Wait until something is so; a test that waits in vain fails here and says ``why``."""
    ends = time.monotonic() + for_s
    while True:
        asked = time.monotonic()
        if what():
            return
        answered = time.monotonic()
        assert answered < ends, f"it did not come to pass: {why()}"
        # Some questions read a topic in full: whoever is waited for gets the processor half the time at least.
        time.sleep(max(0.05, answered - asked))


class Metrics:
    """What ``/metrics`` said, once."""

    def __init__(self, text: str) -> None:
        self.series: Series = {
            (sample.name.removeprefix("recording_monitor_"), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that carry these labels; 0 where there is none."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.series.items() if found == name and wanted <= has)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The series of a name that are not 0, by one of their labels."""
        found: dict[str, float] = {}
        for (series, labels), value in self.series.items():
            if series == name and value:
                of = dict(labels)[label]
                found[of] = found.get(of, 0) + value
        return found


class Monitor:
    """One ``run`` process, of the code in ``tree``. Leaving the ``with`` kills what still runs."""

    def __init__(self, command: list[str], log: Path, tree: Path = ROOT) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                cwd=tree,
                env=environment(PYTHONPATH=str(tree)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON, that is all but a traceback."""
        found = []
        for line in self.log.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event") == event]

    def tail(self) -> str:
        return "\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @property
    def address(self) -> str:
        until(lambda: self.said("monitor_started") or not self.running, why=self.tail)
        assert self.running, self.tail()
        return str(self.said("monitor_started")[0]["address"])

    def get(self, path: str) -> tuple[int, str]:
        """The status and the body of a page."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics")[1])

    def ready(self, owned: int | None = None) -> Self:
        """Wait until it is ready, and has as many partitions as expected."""

        def is_so() -> bool:
            assert self.running, self.tail()
            if self.get("/-/ready")[0] != 200:
                return False
            return owned is None or self.metrics()("kafka_assigned_partitions") == owned

        until(is_so, why=self.tail)
        return self

    def caught_up(self) -> bool:
        """Whether it knows of nothing that it has not judged."""
        seen = self.metrics()
        lags = [value for (name, _), value in seen.series.items() if name == "kafka_lag_messages"]
        return len(lags) == seen("kafka_assigned_partitions") and not any(lags)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and return its exit code once it has; killed after a minute."""
        self.send(how)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not stop: {self.tail()}") from None

    def kill(self) -> None:
        """End it as the kernel does when memory runs out: SIGKILL."""
        self._process.kill()
        self._process.wait()


class Site:
    """One installation on a broker: its topics, its settings, its policy, and whatever runs there.

    ``settings`` are over our own; ``client`` is ``kafka.client``. Topics are made with ``partitions``
    and stamped by the broker, as ``topics apply`` makes them; ``stamped_by_producers`` lets a test bring the past.
    """

    def __init__(
        self,
        broker: RealBroker,
        directory: Path,
        *,
        partitions: int = 4,
        stamped_by_producers: bool = False,
        client: Mapping[str, str] | None = None,
        events_config: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.bootstrap = broker.bootstrap
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.partitions = partitions
        self.name = unique_name("site")
        self.events = f"{self.name}.events"
        self.verdict_topic = f"{self.name}.verdicts"
        self.quarantine_topic = f"{self.name}.quarantine"
        self.settings_topic = f"{self.name}.settings"
        stamp = "CreateTime" if stamped_by_producers else "LogAppendTime"
        appended = {"message_timestamp_type": "LogAppendTime"}
        kept = {"message_timestamp_type": stamp, "retention_ms": "-1", **(events_config or {})}
        broker.create_topic(self.events, partitions, **kept)
        broker.create_topic(self.verdict_topic, partitions, cleanup_policy="compact", **appended)
        broker.create_topic(self.settings_topic, 1, cleanup_policy="compact", **appended)
        broker.create_topic(self.quarantine_topic, 1, **appended)
        self._started = 0
        self.settings: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": self.bootstrap,
                "group_id": self.name,
                "start_at": "earliest",
                # So that nobody waits long for the partitions of a killed member; but a member that gets no processor
                # for a while must not pass for dead, else it is another test.
                "client": {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500", **(client or {})},
            },
            "topics": {
                "events": self.events,
                "verdicts": self.verdict_topic,
                "case_actions": f"{self.name}.case-actions",
                "account_settings": self.settings_topic,
                "quarantine": self.quarantine_topic,
            },
            "web": {"listen": "127.0.0.1:0"},
            "starters": [msgspec.to_builtins(starter) for starter in header(Knobs(calls=1)).starters],
            **settings,
        }

    def config(self, client: Mapping[str, str | None] | None = None, **settings: Any) -> Path:
        """Write the settings into a file; a property of ``client`` that is None is left out."""
        whole = {**self.settings, **settings}
        properties = {**whole["kafka"]["client"], **(client or {})}
        kept = {name: value for name, value in properties.items() if value is not None}
        whole["kafka"] = {**whole["kafka"], "client": kept}
        self._started += 1
        whole["cases"] = {"database": f"cases-{self._started}.sqlite3", **whole.get("cases", {})}
        path = self.directory / f"monitor-{self._started}.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    def start(
        self, *arguments: str, client: Mapping[str, str | None] | None = None, tree: Path = ROOT, **settings: Any
    ) -> Monitor:
        """Start ``recording-monitor run``, of the code in ``tree``."""
        config = self.config(client, **settings)
        command = [sys.executable, "-c", PROGRAM, "run", "--config", str(config), *arguments]
        return Monitor(command, config.with_suffix(".log"), tree)

    def start_quick(
        self, *, window: timedelta, tick_every: timedelta, pace: Any = None, tree: Path = ROOT, **settings: Any
    ) -> Monitor:
        """Start the same monitor with a window shorter and ticks more frequent than the settings allow.

        ``pace`` are fields of ``Pace`` (of the alerts), in milliseconds, over what the settings say.
        """
        config = self.config(**settings)
        given = (str(window.total_seconds()), str(tick_every.total_seconds()), json.dumps(pace or {}))
        return Monitor([sys.executable, "-c", _QUICK, str(config), *given], config.with_suffix(".log"), tree)

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run another command of the program on this site."""
        return program(*arguments, "--config", str(self.config()), cwd=self.directory, **more)

    def send(
        self, values: Iterable[bytes | None], partition: int = 0, topic: str | None = None, **more: Any
    ) -> list[int]:
        """Write messages into one partition, of the events topic if no other is named; return their offsets."""
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "message.max.bytes": 100_000_000}
        )
        offsets: list[int] = []

        def placed(error: object, message: Any) -> None:
            assert error is None, error
            offsets.append(message.offset())

        for value in values:
            producer.produce(topic or self.events, value, partition=partition, on_delivery=placed, **more)
            producer.poll(0)
        assert producer.flush(WAIT_S) == 0
        return sorted(offsets)

    def written(self) -> list[Message]:
        """The verdict topic in full."""
        return read_topic(self.bootstrap, self.verdict_topic)

    def verdicts(self) -> dict[str, Verdict]:
        """What holds."""
        return holding(self.written())

    def verified(self) -> Findings:
        return verify_verdicts(self.written())

    def quarantined(self) -> list[Message]:
        return read_topic(self.bootstrap, self.quarantine_topic)

    def ends(self) -> dict[int, int]:
        """The end of each partition of the events topic.

        Where the leader has just been killed, a client that knew it may go on asking it for as long as it is let.
        """
        until_s = time.monotonic() + WAIT_S
        while True:
            try:
                with self._asking() as consumer:
                    return {
                        number: consumer.get_watermark_offsets(TopicPartition(self.events, number), timeout=10.0)[1]
                        for number in range(self.partitions)
                    }
            except KafkaException:
                if time.monotonic() > until_s:
                    raise

    def committed(self) -> dict[int, int]:
        """The group's position in each partition; 0 where it has none."""
        with self._asking() as consumer:
            asked = [TopicPartition(self.events, number) for number in range(self.partitions)]
            return {tp.partition: max(0, tp.offset) for tp in consumer.committed(asked, timeout=WAIT_S)}

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Consumer]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.name})
        try:
            yield consumer
        finally:
            consumer.close()


class Load:
    """Simulated traffic into the events topic at a steady rate, from a thread; the truth is written before it.

    The simulator's own times are left aside: what takes a contact centre minutes is sent in seconds, in its order.
    With ``hold_at`` it stays unfinished after so many, until ``finish`` has the rest sent as fast as it goes.
    Leaving the ``with`` waits until all was sent; ``sent`` may be read meanwhile.
    """

    def __init__(self, site: Site, knobs: Knobs, *, per_second: float, hold_at: int | None = None) -> None:
        self.truth = site.directory / f"load-{knobs.seed}.truth.jsonl"
        self.sent = 0
        # In the past, so that nothing is from the future when it is sent, and not so far that nobody would judge it.
        self._knobs = msgspec.structs.replace(knobs, start_ms=time.time_ns() // 1_000_000 - 2 * 3_600_000)
        self._per_second = per_second
        self._hold_at = hold_at
        self._finish = threading.Event()
        self._sink = TopicSink({"bootstrap.servers": site.bootstrap}, site.events)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._send, daemon=True)
        with self.truth.open("wb") as file:
            for line in truth(self._knobs):
                write_line(file, line)

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def _send(self) -> None:
        try:
            begun = time.monotonic()
            for due_ms, account, entry in traffic(self._knobs):
                if self.sent == self._hold_at:
                    self._finish.wait()
                ahead = begun + self.sent / self._per_second - time.monotonic()
                if ahead > 0.02 and not self._finish.is_set():
                    self._sink.pause(ahead)
                if self._stop.is_set():
                    break
                self._sink.put(account, due_ms, entry)
                self.sent += 1
            self._sink.close()
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def finish(self) -> None:
        """Send what is left, at no rate."""
        self._finish.set()

    def wait(self) -> None:
        """Wait until all was sent and acknowledged."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the load did not end"
        if self._failure is not None:
            raise self._failure

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        self._finish.set()
        self._thread.join(WAIT_S)


def quick(config: str, window_s: str, tick_every_s: str, pace: str) -> None:
    """Be a monitor with spans shorter than its settings may be: nobody can wait a minute for each window.

    Never ends by itself; SIGTERM and Ctrl-C stop it in good order.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    settings = msgspec.structs.replace(read_settings(Path(config)), window=timedelta(seconds=float(window_s)))
    running = start_monitor(
        settings,
        read_policy(settings),
        handle_log=True,
        tick_every_s=float(tick_every_s),
        pace=msgspec.structs.replace(pace_of(settings), **json.loads(pace)),
    )
    print(json.dumps({"event": "monitor_started", "address": running.address}), flush=True)
    while not asked.wait(0.2) and not running.ended.is_set():
        pass
    running.stop()
    if running.failure is not None:
        raise running.failure
