"""Following whole topics, on a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

import pytest
from confluent_kafka import Message, Producer

from monitor.inputs.follower import BATCH_MAX, SHARE, Freshness, Place, TopicFollower
from tests.broker import RealBroker, unique_name
from tests.member import until

pytestmark = pytest.mark.broker

MESSAGES: Final = 3 * BATCH_MAX
BURNT_S: Final = 0.05


class Busy:
    """Needs ``BURNT_S`` of processor time for what comes first; notes what had been spent when it came, and when."""

    def __init__(self) -> None:
        self.taken = 0
        self.came: list[tuple[float, float]] = []

    def offsets(self, topic: str) -> Mapping[int, int]:  # noqa: ARG002 - it has read nothing yet.
        return {}

    def take(self, messages: Sequence[Message], offsets: Mapping[Place, int]) -> bool:  # noqa: ARG002
        began = time.thread_time()
        self.came.append((began, time.monotonic()))
        while len(self.came) < 3 and time.thread_time() - began < BURNT_S:
            pass
        self.taken += len(messages)
        return True

    def turn(self) -> bool:
        return True


def test_who_gives_way_takes_a_small_part_of_the_core_and_all_that_it_needs_once_it_need_not(broker: RealBroker):
    topic = broker.create_topic(unique_name("followed"))
    producer = Producer({"bootstrap.servers": broker.bootstrap, "queue.buffering.max.messages": 2 * MESSAGES})
    for number in range(MESSAGES):
        producer.produce(topic, str(number))
    assert producer.flush(60) == 0
    gives_way = threading.Event()
    gives_way.set()
    busy = Busy()
    follower = TopicFollower(
        {"bootstrap.servers": broker.bootstrap},
        unique_name("group"),
        [topic],
        busy,
        Freshness(30.0, 60.0),
        ask_every_s=10.0,
        gives_way=gives_way.is_set,
        on_error=lambda error: None,  # noqa: ARG005
    )
    follower.start()
    try:
        until(lambda: len(busy.came) >= 3)
        (spent_before, first), (_, _), (spent, third) = busy.came[:3]
        assert spent - spent_before >= 2 * BURNT_S
        assert spent - spent_before <= 1.5 * SHARE * (third - first)  # What a turn cost is rested for after it.
        gives_way.clear()
        until(lambda: busy.taken == MESSAGES)
    finally:
        assert follower.stop(10.0)
