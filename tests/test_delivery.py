"""The producer of a process: what it holds back, what it tells of each message, and in which order things arrive."""

from __future__ import annotations

import contextlib
import secrets
import time

import pytest
from confluent_kafka import KafkaError

from monitor.errors import OutputUnavailable
from monitor.outputs.delivery import FLYING_MAX, WAITING_MAX, Delivery, producer_properties
from tests.broker import RealBroker
from tests.member import WAIT_S, Desk


def delivery_to(broker: RealBroker, **more: object) -> Delivery:
    return Delivery(
        {**producer_properties({"bootstrap.servers": broker.bootstrap}), **more},
        on_error=lambda _: None,
        full_timeout_s=0.2,
    )


def send(delivery: Delivery, desk: Desk, numbers: range, placed: list[int | None], partition: int = 0) -> None:
    for number in numbers:
        delivery.send(desk.topics.events, b"%d" % number, partition=partition, done=placed.append)


def await_all(delivery: Delivery) -> None:
    until = time.monotonic() + WAIT_S
    while delivery.outstanding and time.monotonic() < until:
        delivery.poll(0.05)


def test_behind_messages_that_are_not_acknowledged_none_is_polled_for_and_all_arrive_in_order(broker: RealBroker):
    desk, placed = Desk.on(broker, 2), list[int | None]()
    delivery = delivery_to(broker)
    send(delivery, desk, range(1), placed)
    await_all(delivery)  # It is connected, and knows the topic.
    with broker.paused():
        send(delivery, desk, range(1, 1 + FLYING_MAX), placed)
        time.sleep(0.05)  # Longer than its linger: they are on their way.
        began, began_cpu = time.monotonic(), time.process_time()
        send(delivery, desk, range(1 + FLYING_MAX, 40), placed)
        time.sleep(0.5)
        # A thread that polls takes all it is given; a busy machine gives it less, never more.
        assert time.process_time() - began_cpu < (time.monotonic() - began) / 4
        assert delivery.outstanding == 39
        assert placed == [0]
    await_all(delivery)
    assert placed == list(range(40))
    assert [value for _, value, _ in desk.read(desk.topics.events)] == [b"%d" % number for number in range(40)]
    delivery.close(1)


def test_a_partition_does_not_wait_for_another(broker: RealBroker):
    desk, here, there = Desk.on(broker, 2), list[int | None](), list[int | None]()
    delivery = delivery_to(broker, **{"linger.ms": 0})
    send(delivery, desk, range(3 * FLYING_MAX), here)
    send(delivery, desk, range(2), there, partition=1)
    delivery.flush(WAIT_S)
    assert (here, there) == (list(range(3 * FLYING_MAX)), [0, 1])
    delivery.close(1)


def test_what_is_held_back_is_bounded_and_told_when_it_is_refused(broker: RealBroker):
    desk, placed = Desk.on(broker), list[int | None]()
    delivery = delivery_to(broker, **{"queue.buffering.max.messages": 100, "linger.ms": 0})
    with broker.paused():
        send(delivery, desk, range(FLYING_MAX + WAITING_MAX), placed)
        assert delivery.outstanding == 100
        assert placed == [None] * (FLYING_MAX + WAITING_MAX - 100)
        send(delivery, desk, range(10), placed)  # Held back again; where it is not, who sends is told.
        with pytest.raises(OutputUnavailable):
            delivery.send(desk.topics.events, b"", done=placed.append)
    delivery.flush(WAIT_S)
    assert delivery.outstanding == 0
    delivery.close(1)


def test_a_producer_that_fails_for_good_is_heard_of_and_another_takes_its_place(broker: RealBroker):
    """What librdkafka gives up after, the client raises out of whatever is asked next: nobody who polls may fail."""
    desk, placed, heard = Desk.on(broker, 2, max_message_bytes="2000"), list[int | None](), list[KafkaError]()
    properties = producer_properties({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    delivery = Delivery({**properties, "enable.gapless.guarantee": True}, on_error=heard.append)
    send(delivery, desk, range(1), placed)
    await_all(delivery)
    too_large = secrets.token_bytes(10_000)
    for ask in (await_all, lambda delivery: delivery.flush(WAIT_S)):  # By polls, and by waiting for all.
        placed.clear()
        heard.clear()
        delivery.send(desk.topics.events, too_large, partition=0, done=placed.append)
        with contextlib.suppress(OutputUnavailable):  # A broker that is quick has refused it by now.
            send(delivery, desk, range(3), placed, partition=1)
        ask(delivery)
        assert any(error.fatal() for error in heard)
        with contextlib.suppress(OutputUnavailable):  # The one that finds out.
            send(delivery, desk, range(1), [])
        placed.clear()
        send(delivery, desk, range(3), placed)
        await_all(delivery)
        assert None not in placed
        assert len(placed) == 3
    delivery.close(1)


def test_what_is_on_its_way_as_a_producer_fails_for_good_is_told_of_each(broker: RealBroker):
    """An acknowledgement nobody hears of holds up its partition's commits for good."""
    desk, placed, heard = Desk.on(broker, 2, max_message_bytes="2000"), list[int | None](), list[KafkaError]()
    properties = producer_properties({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    delivery = Delivery({**properties, "enable.gapless.guarantee": True}, on_error=heard.append)
    too_large = secrets.token_bytes(10_000)
    for _ in range(12):  # In which order things come is the broker's affair: one was not told of in one of five rounds.
        with contextlib.suppress(OutputUnavailable):  # Where another took its place only just now.
            send(delivery, desk, range(1), [])
        await_all(delivery)
        placed.clear()
        heard.clear()
        sent = 0
        with contextlib.suppress(OutputUnavailable):
            for message, partition in ((too_large, 0), (b"1", 1), (b"2", 1), (b"3", 1)):
                delivery.send(desk.topics.events, message, partition=partition, done=placed.append)
                sent += 1
        delivery.flush(WAIT_S)
        assert len(placed) == sent
        assert {error.name() for error in heard} == {"_GAPLESS_GUARANTEE"}
    delivery.close(1)
