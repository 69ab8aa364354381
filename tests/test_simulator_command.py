"""Simulated traffic on its way out: files, standard output, a topic, the truth beside them, and the command itself."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from monitor.cli import run
from monitor.errors import OutOfReach
from monitor.simulator.broker import PARTITIONS, EmbeddedBroker
from monitor.simulator.delivery import FileSink, TopicSink, deliver
from monitor.simulator.traffic import Knobs, traffic
from monitor.simulator.truth import Counts, Header, RecordingTruth, read_truth

FEW = Knobs(calls=30, recorded=1.0, seed=6)


class Looking:
    """A place that looks at the truth on the disk with each entry it is given."""

    def __init__(self, truth: Path) -> None:
        self._truth = truth
        self.seen: list[tuple[bytes, bytes]] = []
        self.paused_s = 0.0
        self.closed = False

    def put(self, account_sid: str, due_ms: int, entry: bytes) -> None:
        assert account_sid in entry.decode()
        assert due_ms > 0
        self.seen.append((entry, self._truth.read_bytes()))

    def pause(self, seconds: float) -> None:
        self.paused_s += seconds
        time.sleep(seconds)

    def close(self) -> None:
        self.closed = True


def murmur2(key: bytes) -> int:
    """Kafka's own hash of a key, after which Java's producers choose the partition (as its documents describe it)."""
    mask, m, length = 0xFFFFFFFF, 0x5BD1E995, len(key)
    h = (0x9747B28C ^ length) & mask
    for at in range(0, length - length % 4, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if length % 4:
        h = (h ^ int.from_bytes(key[length - length % 4 :], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


@pytest.fixture(scope="module")
def mock() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


# ---- Delivery --------------------------------------------------------------------------------------------------------


def test_the_whole_truth_is_on_the_disk_before_the_first_entry(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    looking = Looking(path)
    assert deliver(FEW, looking, path, real_time=False) == len(looking.seen) > 500
    first, *recordings, last = read_truth(looking.seen[0][1].splitlines())
    assert isinstance(first, Header)
    assert isinstance(last, Counts)
    assert last.entries == len(looking.seen)
    assert all(isinstance(one, RecordingTruth) for one in recordings)
    assert looking.seen[0][1] == path.read_bytes()
    assert looking.closed


def test_the_truth_of_endless_traffic_is_on_the_disk_before_each_calls_first_entry(tmp_path: Path) -> None:
    path = tmp_path / "truth"

    class Enough(Looking):
        def put(self, account_sid: str, due_ms: int, entry: bytes) -> None:
            super().put(account_sid, due_ms, entry)
            if len(self.seen) == 1500:
                raise KeyboardInterrupt

    enough = Enough(path)
    with pytest.raises(KeyboardInterrupt):
        deliver(Knobs(recorded=1.0), enough, path, real_time=False)
    assert enough.closed  # What was sent before the interrupt is safe.
    met = 0
    for entry, truth in enough.seen:
        for sid in set(re.findall(rb"RE[0-9a-f]{32}", entry)):
            assert sid in truth
            met += 1
    assert met > 10


def test_in_real_time_no_entry_leaves_before_it_is_due(tmp_path: Path) -> None:
    def knobs(start_ms: int) -> Knobs:
        return Knobs(calls=5, tempo=1000, rate=500, start_ms=start_ms)

    now_ms = time.time_ns() // 1_000_000
    # All but the last entries are due in the past: what is waited for is short.
    start_ms = now_ms - (max(due for due, _, _ in traffic(knobs(now_ms))) - now_ms) + 5_000

    class Clock(Looking):
        early = 0

        def put(self, account_sid: str, due_ms: int, entry: bytes) -> None:
            super().put(account_sid, due_ms, entry)
            self.early += time.time() * 1000 < due_ms

    clock = Clock(tmp_path / "truth")
    assert deliver(knobs(start_ms), clock, tmp_path / "truth", real_time=True) == len(clock.seen)
    assert clock.early == 0
    assert clock.paused_s > 0


def test_an_interrupt_while_the_client_tells_of_a_delivery_is_one_like_any_other(mock: EmbeddedBroker) -> None:
    class AtTheWorstMoment(TopicSink):
        def _delivered(self, error: KafkaError | None, message: Message) -> None:
            super()._delivered(error, message)
            signal.raise_signal(signal.SIGINT)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sink = AtTheWorstMoment({"bootstrap.servers": mock.bootstrap_servers}, "interrupted")
        sink.put("AC1", 0, b"{}")
        with pytest.raises(KeyboardInterrupt):
            sink.pause(60.0)
    finally:
        signal.signal(signal.SIGINT, usual)


def test_traffic_of_the_past_is_caught_up_with_at_once(tmp_path: Path) -> None:
    knobs = Knobs(calls=3, start_ms=time.time_ns() // 1_000_000 - 7200_000)
    looking = Looking(tmp_path / "truth")
    deliver(knobs, looking, tmp_path / "truth", real_time=True)
    assert looking.paused_s == 0


def test_a_gzipped_file_holds_the_same_lines_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("plain.jsonl", "one.jsonl.gz", "two.jsonl.gz"):
        deliver(FEW, FileSink(tmp_path / name), tmp_path / "truth", real_time=False)
    zipped = (tmp_path / "one.jsonl.gz").read_bytes()
    assert zipped == (tmp_path / "two.jsonl.gz").read_bytes()
    assert zipped[3:8] == bytes(5)  # Neither a name nor the time of its making.
    plain = (tmp_path / "plain.jsonl").read_bytes()
    assert gzip.decompress(zipped) == plain
    assert plain.splitlines() == [data for _, _, data in traffic(FEW)]


def test_a_topic_gets_every_entry_in_the_partition_java_would_choose_for_its_account(
    tmp_path: Path, mock: EmbeddedBroker
) -> None:
    knobs = Knobs(calls=40, accounts=9)
    sink = TopicSink({"bootstrap.servers": mock.bootstrap_servers}, "traffic")
    sent = deliver(knobs, sink, tmp_path / "truth", real_time=False)
    consumer = Consumer({"bootstrap.servers": mock.bootstrap_servers, "group.id": "test", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition("traffic", n, 0) for n in range(PARTITIONS)])
        got: dict[int, list[tuple[str, bytes]]] = {n: [] for n in range(PARTITIONS)}
        while sum(map(len, got.values())) < sent:
            messages = consumer.consume(500, 0.5)
            for message in messages:
                assert message.error() is None
                key, value, partition = message.key(), message.value(), message.partition()
                assert isinstance(key, bytes)
                assert value is not None
                assert partition == murmur2(key) % PARTITIONS
                got[partition].append((key.decode(), value))
    finally:
        consumer.close()
    for partition, messages_there in got.items():
        expected = [(a, data) for _, a, data in traffic(knobs) if murmur2(a.encode()) % PARTITIONS == partition]
        assert messages_there == expected
    assert sum(1 for there in got.values() if there) > 1


def test_a_broker_that_does_not_answer_is_out_of_reach() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OutOfReach, match="no broker answers"):
            TopicSink({"bootstrap.servers": address, "log_level": 0}, "traffic", timeout_s=0.5)


# ---- The command -----------------------------------------------------------------------------------------------------


def test_the_truth_lies_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "traffic.jsonl"
    assert run(["simulate", "--calls", "20", "--seed", "4", "--out", str(out)]) == 0
    truth = tmp_path / "traffic.jsonl.truth.jsonl"
    written = out.read_bytes().splitlines()
    assert written == [data for _, _, data in traffic(Knobs(calls=20, seed=4))]
    *_, counts = read_truth(truth.read_bytes().splitlines())
    assert isinstance(counts, Counts)
    assert counts.entries == len(written)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"{len(written):,} entries written; the truth is in {truth}\n"


def test_options_reach_the_knobs(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    options = (
        "--events 300 --rate 7 --tempo 3 --accounts 8 --recorded 0.5 --cause dial_verb=2 --cause sip_trunk"
        " --duplicates 0.1 --retried 0.2 --disorder 1m --late 0.3 --lateness 2h --loss 0.05 --malformed 0.06 --seed 77"
        " --for 1.5h --start 2026-03-01T10:00:00+01:00"
    )
    assert run(["simulate", *options.split(), "--out", str(tmp_path / "x"), "--truth", str(truth)]) == 0
    header = json.loads(truth.read_bytes().splitlines()[0])
    assert header["settings"] == {
        "seed": 77,
        "start_ms": 1772355600000,
        "rate": 7.0,
        "calls": None,
        "events": 300,
        "duration_s": 5400.0,
        "accounts": 8,
        "tempo": 3.0,
        "recorded": 0.5,
        "causes": {"dial_verb": 2.0, "sip_trunk": 1.0},
        "duplicates": 0.1,
        "retried": 0.2,
        "disorder_s": 60.0,
        "late": 0.3,
        "lateness_s": 7200.0,
        "loss": 0.05,
        "malformed": 0.06,
    }


def test_a_start_can_be_told_as_so_long_ago(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    before_ms = time.time_ns() // 1_000_000
    arguments = ["simulate", "--calls", "1", "--start", "now-10m", "--out", str(tmp_path / "x"), "--truth", str(truth)]
    assert run(arguments) == 0
    start_ms = json.loads(truth.read_bytes().splitlines()[0])["settings"]["start_ms"]
    assert before_ms - 600_000 <= start_ms <= time.time_ns() // 1_000_000 - 600_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--calls 3", "say where to"),
        ("--calls 3 --out x --bootstrap-servers localhost:1", "say where to"),
        ("--calls 3 --bootstrap-servers localhost:1", "name the topic"),
        ("--calls 3 --out x --topic y", "a file has none"),
        ("--out x", "a file needs an end"),
        ("--calls 3 --out -", "name a file for the truth"),
        ("--calls 3 --out x --cause sunshine", "cause 'sunshine' is not known"),
        ("--calls 3 --out x --cause dial_verb=lots", "'lots' is no weight"),
        ("--calls 3 --out x --disorder soon", "'soon' is no span of time"),
        ("--calls 3 --out x --start yesterday", "'yesterday' is no start"),
        ("--calls 3 --out x --start 2026-11-02T15:00:00", "is no start"),
        ("--calls 3 --out x --loss 2", "a share lies between 0 and 1"),
        ("--calls 3 --out nowhere/x", "nowhere/x: No such file or directory"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_would_be_right(
    arguments: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = re.sub(r"(?<= )(x|nowhere/x)(?= |$)", lambda found: str(tmp_path / found[0]), arguments)
    assert run(["simulate", *arguments.split()]) == 2
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    # A message may be broken anywhere where a path stands in it.
    assert says.replace(" ", "") in told.replace(" ", "")
    assert not list(tmp_path.iterdir())


def test_endless_traffic_stops_in_good_order_when_asked_to(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "from monitor.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "simulate",
        "--out",
        "-",
        "--truth",
        str(tmp_path / "truth"),
        "--recorded",
        "1",
    ]
    with out.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE) as process:
        try:
            while out.stat().st_size < 1_000_000:
                assert process.poll() is None
                time.sleep(0.02)
        finally:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 130
    # Nothing is cut short: each line can be read, and what it tells of is in the truth.
    truth = (tmp_path / "truth").read_bytes()
    for line in out.read_bytes().splitlines():
        json.loads(line)
        for sid in re.findall(rb"RE[0-9a-f]{32}", line):
            assert sid in truth


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    code = "from monitor.cli import main; main()"
    command = [sys.executable, "-c", code, "simulate", "--out", "-", "--truth", str(tmp_path / "truth")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
