"""``rekey`` on a real broker: what becomes of a badly keyed topic, and that nothing is lost or copied twice."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from monitor.inputs.rekey import Merge, partition_of, pieces_of
from tests.broker import RealBroker, unique_name
from tests.member import account_sid, now_ms, recording_event, until
from tests.monitors import ROOT, environment
from tests.verify import Message, read_topic

pytestmark = pytest.mark.broker

ACCOUNTS = 5
START_MS = now_ms() - 3_600_000  # Young enough that no broker deletes them.
TICK = json.dumps(
    {"type": "dev.recording-monitor.tick", "id": "t", "data": {"sent_at": "2026-11-04T17:01:03Z"}}
).encode()


class Bench:
    """A source and a target, and the command between them."""

    def __init__(self, broker: RealBroker, directory: Path, *, partitions: int = 4, **target: str) -> None:
        self.broker = broker
        self.directory = directory
        self.source = broker.create_topic(unique_name("raw"), 3)
        self.target = broker.create_topic(unique_name("keyed"), partitions, **target)
        self.config = directory / "monitor.yaml"
        group = unique_name("group")
        self.config.write_text(json.dumps({"kafka": {"bootstrap_servers": broker.bootstrap, "group_id": group}}))

    def fill(self, messages: Iterable[dict[str, Any]]) -> None:
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "acks": "all"})
        for message in messages:
            producer.produce(self.source, **message)
        assert producer.flush(60) == 0

    def command(self, *more: str, to: str | None = None) -> list[str]:
        between = ["--from", self.source, "--to", to or self.target, "--config", str(self.config)]
        return [sys.executable, "-c", "from monitor.cli import main; main()", "rekey", *between, *more]

    def rekey(self, *more: str, code: int = 0, to: str | None = None) -> str:
        done = subprocess.run(
            self.command(*more, to=to), capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def started(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command while it runs, as a process to stop or to kill."""
        pipe = subprocess.PIPE
        with subprocess.Popen(self.command(*more), cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe) as process:
            try:
                yield process
            finally:
                process.kill()

    def read(self) -> list[Message]:
        return read_topic(self.broker.bootstrap, self.target)


def events(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Events of some accounts, keyed by nothing and spread over the partitions, each a millisecond after the last."""
    return [
        {
            "value": recording_event(number, account=number % ACCOUNTS + 1, started_ms=START_MS),
            "partition": number % 3,
            "timestamp": START_MS + number,
            "headers": [("content-type", b"application/json"), ("n", None)],
        }
        for number in range(first, first + count)
    ]


def by_account(messages: Iterable[Message]) -> dict[str, list[bytes]]:
    found = defaultdict(list)
    for message in messages:
        assert message.key is not None
        assert message.value is not None
        found[message.key].append(message.value)
    return found


def expected(given: Iterable[dict[str, Any]]) -> dict[str, list[bytes]]:
    found = defaultdict(list)
    for number, message in enumerate(given):
        found[account_sid(number % ACCOUNTS + 1)].append(message["value"])
    return found


def in_order_of_its_partition(copied: Iterable[Message], given: Sequence[dict[str, Any]]) -> bool:
    """Whether all that was given was copied, once, and each account's in the order of the partition it came from. While
    following no more can be asked: what comes to several partitions at once is read in any order of these.
    """
    origin = {message["value"]: message["partition"] for message in given}

    def sorted_out(accounts: dict[str, list[bytes]]) -> dict[tuple[str, int], list[bytes]]:
        found = defaultdict(list)
        for account, values in accounts.items():
            for value in values:
                found[account, origin[value]].append(value)
        return found

    return sorted_out(by_account(copied)) == sorted_out(expected(given))


def test_every_account_ends_in_one_partition_in_order_of_time_with_headers_and_timestamps(broker, tmp_path):
    bench = Bench(broker, tmp_path, message_timestamp_type="CreateTime")
    given = events(600)
    bench.fill(given)

    said = bench.rekey()

    found = bench.read()
    assert by_account(found) == expected(given)
    for account in by_account(found):
        partitions = {message.partition for message in found if message.key == account}
        assert partitions == {partition_of(account.encode(), 4)}
    assert {message.timestamp_ms for message in found} == {message["timestamp"] for message in given}
    assert all(message.headers == {"content-type": b"application/json", "n": None} for message in found)
    assert "600 messages read, 600 written" in said
    row = next(line.split() for line in said.splitlines() if account_sid(1) in line)
    assert row == [account_sid(1), "120", "0", "0", "1", "2", str(partition_of(account_sid(1).encode(), 4))]


def test_a_second_run_copies_only_what_came_since_and_anew_copies_all_again(broker, tmp_path):
    bench = Bench(broker, tmp_path)
    bench.fill(events(30))
    bench.rekey()
    assert "0 messages read, 0 written" in bench.rekey()
    bench.fill(events(20, first=30))
    assert "20 messages read, 20 written" in bench.rekey()
    assert by_account(bench.read()) == expected(events(50))
    assert "50 messages read, 50 written" in bench.rekey("--anew")
    assert len(bench.read()) == 100


def test_a_copy_that_is_killed_again_and_again_loses_nothing_and_copies_nothing_twice(broker, tmp_path):
    bench = Bench(broker, tmp_path)
    given = events(60_000)
    bench.fill(given)
    killed = 0
    for share in (0.02, 0.3, 0.6):
        with bench.started() as process:
            until(lambda: len(bench.read()) > share * len(given) or process.poll() is not None)  # noqa: B023
            killed += process.poll() is None
    bench.rekey()
    assert killed
    assert by_account(bench.read()) == expected(given)


def test_following_copies_what_comes_and_ends_well_when_stopped(broker, tmp_path):
    bench = Bench(broker, tmp_path)
    bench.fill(events(10))
    with bench.started("--follow") as process:
        until(lambda: len(bench.read()) == 10)
        assert by_account(bench.read()) == expected(events(10))  # What was there at the start is in order of time.
        bench.fill(events(10, first=10))
        until(lambda: len(bench.read()) == 20)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"20 messages read, 20 written" in said
    assert in_order_of_its_partition(bench.read(), events(20))


@pytest.mark.parametrize("while_it_fills", [False, True])
def test_two_at_once_are_not_possible_the_first_ends(broker, tmp_path, while_it_fills):
    bench = Bench(broker, tmp_path)
    bench.fill(events(10))
    with bench.started("--follow") as first:
        until(lambda: len(bench.read()) == 10)
        assert by_account(bench.read()) == expected(events(10))  # What was there at the start is in order of time.
        # The second has begun once it has copied something: it is the first's turn to notice.
        first.send_signal(signal.SIGSTOP)
        with bench.started("--follow") as second:
            bench.fill(events(10, first=10))
            until(lambda: len(bench.read()) == 20)
            bench.fill(events(10, first=20))
            first.send_signal(signal.SIGCONT)
            filled = 30
            # It may notice when it commits, or, where more comes in meanwhile, when it writes the next message.
            while while_it_fills and first.poll() is None and filled < 2_000:
                bench.fill(events(1, first=filled))
                filled += 1
                time.sleep(0.01)
            _, said = first.communicate(timeout=120)
            assert (first.returncode, b"another rekey" in said) == (2, True), said
            until(lambda: len(bench.read()) == filled)
            assert second.poll() is None
    assert in_order_of_its_partition(bench.read(), events(filled))


def test_what_is_of_several_accounts_of_none_or_ours_goes_by_the_rule_and_is_counted(broker, tmp_path):
    bench = Bench(broker, tmp_path, partitions=2)
    one, two, three = (recording_event(number, account=number) for number in (1, 2, 3))
    same = b"[" + one + b" ," + recording_event(4, account=1) + b"]"
    binary = json.dumps({"account_sid": account_sid(3)}).encode()
    bench.fill(
        [
            {"value": b"[" + one + b",\n" + two + b"]", "key": "wrong", "partition": 0},
            {"value": same, "key": account_sid(1), "partition": 0},
            {"value": b"no event", "key": "its own", "partition": 2},
            {"value": None, "key": "deleted", "partition": 1},
            {"value": binary, "headers": [("ce_type", b"com.twilio.of-the-future")], "partition": 1},
            {"value": TICK, "partition": 1},
            {"value": three, "partition": 2},
        ]
    )

    said = bench.rekey("--dry-run")
    assert bench.read() == []
    assert "7 messages read, 7 would be written" in said
    for line in ("3  copied whole", "1  taken apart", "2  no account found", "1  tick of ours"):
        assert line in said
    assert "7 messages read, 7 written" in bench.rekey()

    found = {(message.key, message.value): message.partition for message in bench.read()}
    assert set(found) == {
        *((account_sid(1), value) for value in (one, same)),
        (account_sid(2), two),
        *((account_sid(3), value) for value in (binary, three)),
        ("its own", b"no event"),
        ("deleted", None),
    }
    assert (found["its own", b"no event"], found["deleted", None]) == (0, 1)


def test_a_stretch_is_copied_and_what_follows_it_later(broker, tmp_path):
    bench = Bench(broker, tmp_path)
    bench.fill(events(100))
    first, last = (datetime.fromtimestamp((START_MS + ms) / 1000, UTC).isoformat() for ms in (10, 60))
    assert "50 messages read" in bench.rekey("--since", first, "--until", last)
    assert "40 messages read" in bench.rekey()


def test_of_a_stretch_what_is_left_is_copied_where_records_were_deleted(broker, tmp_path):
    # For minutes their segment is still there: the broker looks for the first message since an instant in that alone.
    bench = Bench(broker, tmp_path)
    bench.source = broker.create_topic(unique_name("raw"), 1, segment_ms=1_000)
    for at_ms, number in ((10_000, 1), (20_000, 2)):
        bench.fill([{"value": recording_event(number), "timestamp": START_MS + at_ms}])
    broker.delete_records(bench.source, 0, 1)
    since = datetime.fromtimestamp(START_MS / 1000, UTC).isoformat()
    assert "1 messages read" in bench.rekey("--since", since)


def test_a_target_is_created_as_it_has_to_be_or_has_to_be_there(broker, tmp_path):
    bench = Bench(broker, tmp_path)
    bench.fill(events(10))
    new = unique_name("new")
    assert "add --create" in bench.rekey(to=new, code=2)
    bench.rekey("--create", "--partitions", "7", to=new)
    assert len(read_topic(broker.bootstrap, new)) == 10
    assert "has 7" in bench.rekey("--partitions", "8", to=new, code=2)
    compacted = broker.create_topic(unique_name("compacted"), 2, cleanup_policy="compact")
    assert "cleanup.policy=delete" in bench.rekey(to=compacted, code=2)
    assert "copy from" in bench.rekey(to=bench.source, code=2)
    bench.source = unique_name("missing")
    assert "no such topic" in bench.rekey(code=2)


def test_a_target_that_takes_less_than_the_source_is_named_with_the_message_and_nothing_is_lost(broker, tmp_path):
    bench = Bench(broker, tmp_path, max_message_bytes="2000")
    noise = json.dumps(random.Random(1).randbytes(4000).hex()).encode()  # What can't be compressed.
    large = {"value": b"[" + recording_event(0) + b"," + noise + b"]", "partition": 0}
    bench.fill([*events(3), large])
    assert "too large, 0:0 or one soon after it" in bench.rekey(code=2)
    assert bench.read() == []


class TestPure:
    """What needs no broker."""

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60), st.data())
    def test_merging_keeps_the_order_within_partitions_and_takes_the_earliest_that_is_known(self, messages, data):
        merge = Merge[int](range(4))
        taken: list[tuple[int, int]] = []
        left: dict[int, list[tuple[int, int]]] = {
            p: [(at, n) for n, (q, at) in enumerate(messages) if p == q] for p in range(4)
        }
        while left:
            partition = data.draw(st.sampled_from(sorted(left)))
            if left[partition]:
                at, number = left[partition].pop(0)
                merge.put(partition, at, number)
            else:
                merge.end(partition)
                del left[partition]
            while (one := merge.take()) is not None:
                taken.append(one)
        assert merge.empty
        assert sorted(number for _, number in taken) == list(range(len(messages)))
        for partition in range(4):
            own = [number for p, number in taken if p == partition]
            assert own == sorted(own)
        rising = [at for _, at in messages]
        if rising == sorted(rising):
            assert [messages[number][1] for _, number in taken] == rising

    def test_entries_that_are_of_no_account_stay_with_the_others_of_their_message(self):
        one = recording_event(1)
        value = b"[" + one + b", 7]"
        assert pieces_of(value, None) == [(account_sid(1), value)]
