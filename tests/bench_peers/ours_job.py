"""The simple job on our own client code: the monitor's consumer and producer properties, loop and commits.

A table in memory; as in the monitor, the events topic is the state, so nothing else is written. One commit a second,
of what the broker has acknowledged.
"""

from __future__ import annotations

import os
import sys
import time

from confluent_kafka import Consumer, KafkaError, TopicPartition

from monitor.inputs.kafka import BATCH_MESSAGES_MAX, member_properties
from monitor.outputs.delivery import Delivery, producer_properties
from tests.bench_peers.simple_job import encode, step


def run(bootstrap: str, source: str, target: str) -> None:
    """Do the job until killed."""
    client: dict[str, object] = {"bootstrap.servers": bootstrap}
    properties = member_properties(client, f"ours-{os.getpid()}") | {"auto.offset.reset": "earliest"}
    consumer = Consumer(properties)
    consumer.subscribe([source])
    failed: list[KafkaError] = []
    delivery = Delivery(producer_properties(client), on_error=failed.append)
    conferences: dict[str, str] = {}
    next_offset, commit_after = 0, time.monotonic() + 1

    def done(place: int | None) -> None:
        if place is None:
            os._exit(3)

    while True:
        first = consumer.poll(0.2)
        if first is not None:
            for message in [first, *consumer.consume(BATCH_MESSAGES_MAX - 1, 0)]:
                value = message.value()
                if message.error() is not None or value is None:
                    continue
                verdict = step(value, conferences)
                next_offset = (message.offset() or 0) + 1
                if verdict is not None:
                    delivery.send(target, encode(verdict), key=verdict.recording_sid, done=done)
        delivery.poll()
        if next_offset and time.monotonic() >= commit_after:
            delivery.flush(30)
            consumer.commit(offsets=[TopicPartition(source, 0, next_offset)], asynchronous=True)
            commit_after = time.monotonic() + 1


if __name__ == "__main__":
    run(*sys.argv[1:4])
