"""The embedded broker does what the demo lives on, and ends when it is told to."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from monitor.simulator.broker import PARTITIONS, EmbeddedBroker


@pytest.fixture
def embedded():
    with EmbeddedBroker() as broker:
        yield broker


def test_a_topic_has_the_promised_partitions_as_soon_as_it_is_created(embedded):
    embedded.create_topics("events", "verdicts")
    seen = Producer({"bootstrap.servers": embedded.bootstrap_servers}).list_topics(timeout=10).topics

    assert {name: len(topic.partitions) for name, topic in seen.items()} == {
        "events": PARTITIONS,
        "verdicts": PARTITIONS,
    }


def test_creating_a_topic_again_keeps_its_messages(embedded):
    embedded.create_topics("events")
    producer = Producer({"bootstrap.servers": embedded.bootstrap_servers})
    producer.produce("events", b"kept", partition=2)
    assert producer.flush(10) == 0

    embedded.create_topics("events")

    reader = Consumer({"bootstrap.servers": embedded.bootstrap_servers, "group.id": "reader"})
    assert reader.get_watermark_offsets(TopicPartition("events", 2), timeout=10) == (0, 1)
    reader.close()


def test_a_commit_keeps_its_metadata(embedded):
    embedded.create_topics("events")
    config = {"bootstrap.servers": embedded.bootstrap_servers, "group.id": "monitor"}
    owner = Consumer(config)
    owner.commit(offsets=[TopicPartition("events", 0, 7, '{"v":1}')], asynchronous=False)
    owner.close()

    heir = Consumer(config)
    (found,) = heir.committed([TopicPartition("events", 0)], timeout=10)
    heir.close()

    assert (found.offset, found.metadata) == (7, '{"v":1}')


def test_another_process_reaches_it(embedded):
    embedded.create_topics("events")
    script = (
        "import sys; from confluent_kafka import Producer\n"
        "producer = Producer({'bootstrap.servers': sys.argv[1]})\n"
        "producer.produce('events', b'from elsewhere', partition=0)\n"
        "sys.exit(producer.flush(10))\n"
    )
    subprocess.run([sys.executable, "-c", script, embedded.bootstrap_servers], check=True)

    reader = Consumer({"bootstrap.servers": embedded.bootstrap_servers, "group.id": "reader"})
    reader.assign([TopicPartition("events", 0, 0)])
    message = reader.poll(30)
    reader.close()

    assert message is not None
    assert message.value() == b"from elsewhere"


def test_two_brokers_in_one_process_know_nothing_of_each_other(embedded):
    embedded.create_topics("events")
    with EmbeddedBroker() as other:
        assert other.bootstrap_servers != embedded.bootstrap_servers
        assert Producer({"bootstrap.servers": other.bootstrap_servers}).list_topics(timeout=10).topics == {}


def test_a_closed_broker_is_gone_and_may_be_closed_again():
    broker = EmbeddedBroker()
    broker.close()
    broker.close()
    host, _, port = broker.bootstrap_servers.rpartition(":")

    with socket.socket() as client:
        assert client.connect_ex((host, int(port))) != 0


def test_it_says_nothing_on_the_terminal():
    script = (
        "from monitor.simulator.broker import EmbeddedBroker\nwith EmbeddedBroker() as b: b.create_topics('events')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert (done.stdout, done.stderr) == (b"", b"")
