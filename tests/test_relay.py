"""The bridge's producer: what it promises to whoever hands messages over, with nobody and somebody at the other end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from monitor.errors import WrongInput
from monitor.inputs import relay as relaying
from monitor.inputs.relay import FullError, Relay
from monitor.outputs.delivery import producer_properties
from tests.broker import free_ports, unique_name
from tests.verify import read_topic


@asynccontextmanager
async def relay(bootstrap: str | Callable[[], Mapping[str, object]], **more: Any) -> AsyncIterator[Relay]:
    given = bootstrap if callable(bootstrap) else lambda: producer_properties({"bootstrap.servers": bootstrap})
    running = Relay(given, deliver_within_s=more.pop("deliver_within_s", 60.0), **more)
    await running.start()
    try:
        yield running
    finally:
        await running.stop(10)
        assert (running.outstanding, running.bytes) == (0, 0)


def soon(s: float = 60.0) -> float:
    return asyncio.get_running_loop().time() + s


def nobody() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def test_what_nobody_takes_fails_in_its_time_and_leaves_nothing_behind():
    async def sent() -> None:
        async with relay(nobody(), deliver_within_s=0.3) as running:
            assert await running.send([("topic", "key", b"value")] * 3, until=soon()) == "failed"
            assert (running.outstanding, running.bytes) == (0, 0)

    asyncio.run(sent())


def test_whoever_waits_is_told_at_his_own_time_the_first_first():
    async def sent() -> None:
        async with relay(nobody(), deliver_within_s=5) as running:
            order = []

            async def wait(name: str, s: float) -> None:
                assert await running.send([("topic", "key", b"value")], until=soon(s)) == "failed"
                order.append(name)

            await asyncio.gather(wait("last", 0.6), wait("first", 0.1), wait("second", 0.3))
            assert order == ["first", "second", "last"]
            assert running.outstanding == 3  # Whether they arrive is another matter.

    asyncio.run(sent())


@pytest.mark.parametrize("bound", [{"messages_max": 10}, {"bytes_max": 50}])
def test_no_more_is_on_its_way_than_may_be(bound):
    async def sent() -> None:
        async with relay(nobody(), deliver_within_s=1, **bound) as running:
            waiting = asyncio.create_task(running.send([("topic", "key", b"value")] * 9, until=soon()))
            await asyncio.sleep(0)
            with pytest.raises(FullError):
                await running.send([("topic", "key", b"value")] * 9, until=soon())
            assert running.outstanding == 10
            assert await waiting == "failed"

    asyncio.run(sent())


def test_nothing_to_send_is_acknowledged_at_once():
    async def sent() -> None:
        async with relay(nobody()) as running:
            assert await running.send([], until=soon()) == "acknowledged"

    asyncio.run(sent())


def test_a_new_secret_makes_a_new_producer_and_what_was_on_its_way_arrives(broker):
    topic = broker.new_topic("relay", 1)
    given: dict[str, object] = {"bootstrap.servers": broker.bootstrap, "client.id": "one"}
    unreadable = False

    def properties() -> Mapping[str, object]:
        if unreadable:
            raise WrongInput("names a file that is empty")
        return producer_properties(given)

    async def sent() -> None:
        nonlocal unreadable
        async with relay(properties) as running:
            # Still waiting for company when the producer is replaced.
            values = [b"%d" % number for number in range(2_000)]
            sending = [asyncio.create_task(running.send([(topic, "key", v)], until=soon())) for v in values[:1_000]]
            await asyncio.sleep(0)
            given["client.id"] = "two"
            await asyncio.sleep(relaying.SECRETS_LOOK_S + 0.5)
            unreadable = True
            sending += [asyncio.create_task(running.send([(topic, "key", v)], until=soon())) for v in values[1_000:]]
            await asyncio.sleep(relaying.SECRETS_LOOK_S + 0.5)

            assert set(await asyncio.gather(*sending)) == {"acknowledged"}
            assert sorted(message.value or b"" for message in read_topic(broker.bootstrap, topic)) == sorted(values)

    asyncio.run(sent())


def test_a_producer_that_fails_for_good_is_replaced(broker):
    topic = broker.create_topic(unique_name("relay"), 1, max_message_bytes="2000")
    given = {"bootstrap.servers": broker.bootstrap, "enable.gapless.guarantee": True}

    async def sent() -> None:
        async with asyncio.timeout(60), relay(lambda: producer_properties(given)) as running:
            assert await running.send([(topic, "key", secrets.token_bytes(10_000))], until=soon(10)) != "acknowledged"
            for _ in range(3):
                assert await running.send([(topic, "key", b"value")], until=soon(20)) == "acknowledged"

    asyncio.run(sent())
