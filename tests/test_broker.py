"""The real broker keeps what tests rely on: an address through restarts, its data, and that it ends with its test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.broker import BrokerUnavailableError, free_ports, java, unique_name


def produce(bootstrap: str, topic: str, *values: bytes, **config: object) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 60_000, **config})
    failures: list[KafkaError] = []
    for value in values:
        producer.produce(
            topic, value, partition=0, on_delivery=lambda error, _: failures.append(error) if error else None
        )
    assert producer.flush(60) == 0
    assert failures == []


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": unique_name("reader")})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages: list[Message] = []
    deadline = time.monotonic() + 60
    while len(messages) < count and time.monotonic() < deadline:
        messages += [message for message in consumer.consume(count, 0.5) if message.error() is None]
    consumer.close()
    return [message.value() or b"" for message in messages]


def test_a_produced_message_is_consumed(broker):
    topic = broker.new_topic("hello")
    produce(broker.bootstrap, topic, b"one", b"two")

    assert consume(broker.bootstrap, topic, 2) == [b"one", b"two"]


def test_a_topic_has_the_partitions_and_settings_it_was_given(broker):
    topic = broker.new_topic("settings", 3, cleanup_policy="compact", message_timestamp_type="LogAppendTime")
    client = Producer({"bootstrap.servers": broker.bootstrap})

    assert len(client.list_topics(topic, timeout=10).topics[topic].partitions) == 3
    with pytest.raises(KafkaException, match="INVALID_RECORD"):
        _produce_without_key(broker.bootstrap, topic)


def _produce_without_key(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    outcome: list[KafkaError | None] = []
    producer.produce(
        topic, b"no key, which a compacted topic refuses", on_delivery=lambda error, _: outcome.append(error)
    )
    producer.flush(60)
    if outcome[0] is not None:
        raise KafkaException(outcome[0])


def test_a_topic_nobody_created_does_not_come_into_being(broker):
    client = Producer({"bootstrap.servers": broker.bootstrap})
    misspelt = client.list_topics(unique_name("misspelt"), timeout=10).topics.popitem()[1]

    assert misspelt.error is not None
    assert misspelt.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_what_was_acknowledged_survives_a_kill_at_the_same_address(new_broker):
    broker = new_broker()
    topic = broker.new_topic("kept")
    produce(broker.bootstrap, topic, b"before", acks="all")
    address = broker.bootstrap

    broker.kill()
    assert not broker.running
    broker.start()
    produce(broker.bootstrap, topic, b"after")

    assert broker.bootstrap == address
    assert consume(address, topic, 2) == [b"before", b"after"]


def test_what_was_acknowledged_survives_a_restart_in_good_order(new_broker):
    broker = new_broker()
    topic = broker.new_topic("kept")
    produce(broker.bootstrap, topic, b"before")

    broker.restart()

    assert consume(broker.bootstrap, topic, 1) == [b"before"]


def test_a_server_property_holds(new_broker):
    small = new_broker({"message.max.bytes": "2000"})
    topic = small.new_topic("small")
    producer = Producer({"bootstrap.servers": small.bootstrap})
    outcome: list[KafkaError | None] = []
    producer.produce(topic, b"x" * 3000, on_delivery=lambda error, _: outcome.append(error))
    producer.flush(60)

    assert [error.code() for error in outcome if error] == [KafkaError.MSG_SIZE_TOO_LARGE]


def test_a_paused_broker_answers_nothing_until_it_goes_on(new_broker):
    broker = new_broker()
    topic = broker.new_topic("paused")
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    with broker.paused():
        producer.produce(topic, b"waits")
        assert producer.flush(0.5) == 1
        with socket.create_connection(("127.0.0.1", int(broker.bootstrap.rpartition(":")[2])), timeout=5):
            pass  # The kernel still accepts: it is silent, not gone.

    assert producer.flush(60) == 0


def test_a_paused_broker_can_be_stopped_in_good_order(new_broker):
    broker = new_broker()
    with broker.paused():
        broker.stop()

        assert not broker.running
    assert "Shutdown completed" in broker.log_tail()


def test_a_broker_that_can_not_start_says_why(new_broker):
    with pytest.raises(RuntimeError, match=r"process\.roles"):
        new_broker({"process.roles": "dishwasher"})


@pytest.mark.broker
def test_a_killed_test_run_leaves_no_broker_behind(tmp_path):
    script = (
        "import pathlib, sys, time; from tests.broker import RealBroker\n"
        "broker = RealBroker(pathlib.Path(sys.argv[1])); broker.start()\n"
        "print(broker.bootstrap, flush=True); time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with run:
        assert run.stdout is not None
        port = int(run.stdout.readline().rpartition(":")[2])
        assert _listens(port)
        os.kill(run.pid, signal.SIGKILL)

    deadline = time.monotonic() + 60
    while _listens(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_free_ports_are_distinct_and_can_be_bound():
    ports = free_ports(20)

    assert len(set(ports)) == 20
    for port in ports[:3]:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_a_machine_without_java_is_told_what_to_install(tmp_path):
    told = _in_a_poor_machine(tmp_path, "from tests.broker import java; java()")

    assert "a JDK of version 17 or newer is needed" in told


def test_a_machine_with_an_old_java_is_told_what_to_install(tmp_path):
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    told = _in_a_poor_machine(tmp_path, "from tests.broker import java; java()")

    assert "java is version 11; version 17 or newer is needed" in told


def test_a_machine_without_maven_and_jars_is_told_what_to_install(tmp_path):
    told = _in_a_poor_machine(tmp_path, "from tests.broker import jars; jars()")

    assert "no mvn found" in told


def test_jars_that_can_not_be_fetched_leave_no_half_cache(tmp_path):
    broken = tmp_path / "mvn"
    broken.write_text("#!/bin/sh\necho '[ERROR] the network is down'\nexit 1\n")
    broken.chmod(0o755)
    told = _in_a_poor_machine(tmp_path, "from tests.broker import jars; jars()")

    assert "mvn could not fetch the broker's jars: [ERROR] the network is down" in told
    assert not [path for path in (tmp_path / "recording-monitor").iterdir() if path.is_dir()]


def test_a_test_that_needs_a_broker_is_skipped_aloud_on_a_poor_machine(tmp_path):
    told = _pytest_in_a_poor_machine(tmp_path, ci="")

    assert "NOT TESTED: 2 tests against a real Kafka broker were skipped: no java found" in told
    assert "2 skipped" in told


def test_a_test_that_needs_a_broker_fails_on_a_poor_machine_in_ci(tmp_path):
    told = _pytest_in_a_poor_machine(tmp_path, ci="true")

    assert "CI=true, and this test can't run: no java found" in told
    assert "2 errors" in told


def _pytest_in_a_poor_machine(tmp_path: Path, *, ci: str) -> str:
    names = "test_a_produced_message_is_consumed or test_a_paused_broker_can_be_stopped_in_good_order"
    return _run(tmp_path, ["-m", "pytest", "-p", "no:cacheprovider", "-n", "2", __file__, "-k", names], {"CI": ci})


def _in_a_poor_machine(tmp_path: Path, script: str) -> str:
    return _run(tmp_path, ["-c", script], {})


def _run(tmp_path: Path, arguments: list[str], extra: dict[str, str]) -> str:
    """Run Python where PATH and the cache hold nothing but ``tmp_path``, and return what it says."""
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), **extra}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    return done.stdout + done.stderr


@pytest.mark.broker
def test_java_on_this_machine_is_found():
    try:
        assert Path(java()).name == "java"
    except BrokerUnavailableError as unavailable:  # The marker has looked before.
        pytest.fail(str(unavailable))
