"""Load for the webhook bridge's rows of ``make bench``: requests signed beforehand, on connections that are kept."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from confluent_kafka import Producer

from monitor.outputs.delivery import producer_properties
from tests.broker import RealBroker
from tests.ingest_load import Bystander, endless_body, large_array, slow_bodies, slow_heads, together
from tests.rig import BenchError, cpu_s, rss_bytes
from tests.webhooks import ACCOUNT, Ingest, dumped, event, post, posted

CONNECTIONS: Final = 64
_DONE: Final = b"accepted\n"
_HEAD: Final = b"\r\n\r\n"


class Posted(NamedTuple):
    """What a load came to: events a second, how long each answer took, and what the bridge spent."""

    per_s: float
    ms: list[float]
    cpu_us: float
    rss: int


def signed(events: int, batch: int, *, first: int = 0) -> list[bytes]:
    """Requests of ``batch`` events each, as they go over the wire."""
    requests = []
    for number in range(first, first + events, batch):
        values = [event(number + n) for n in range(batch)]
        request = posted(dumped(values if batch > 1 else values[0]))
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        head = f"POST {request.path} HTTP/1.1\r\nHost: hooks.example.com\r\nContent-Length: {len(request.body)}\r\n"
        requests.append(f"{head}{headers}\r\n".encode() + request.body)
    return requests


def values(events: int) -> Iterator[bytes]:
    """The events of ``signed``, for whoever produces them without a bridge."""
    return (dumped(event(number)) for number in range(events))


class Bridge:
    """A bridge on some cores only, with all its threads."""

    def __init__(self, broker: RealBroker, directory: Path, cores: Sequence[int]) -> None:
        self._ingest = Ingest(broker, directory)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            self._ingest.start()
        finally:
            os.sched_setaffinity(0, before)
        assert self._ingest.process is not None
        self.pid = self._ingest.process.pid
        host, _, port = self._ingest.address.removeprefix("http://").rpartition(":")
        self._where = (host, int(port))

    def beside_attacks(self) -> list[float]:
        """Milliseconds that genuine requests took while others sent slowly, without end, and arrays of 50,000."""
        address = self._ingest.address
        endless = partial(endless_body, address, 100 << 20)
        with Bystander(address) as bystander:
            together(
                [
                    *[partial(slow_bodies, address, 50, 8)] * 2,
                    partial(slow_heads, address, 200, 8),
                    partial(endless, chunked=True, signed=True),
                    partial(endless, chunked=False, signed=True),
                    partial(endless, chunked=True, signed=False),
                    partial(endless, chunked=True, signed=True, packed=True),
                    partial(post, address, large_array(50_000)),
                ]
            )
        if set(bystander.statuses) != {200}:
            raise BenchError(f"genuine requests were answered {set(bystander.statuses)}")
        return [1000 * seconds for seconds in bystander.seconds]

    def load(self, requests: list[bytes], batch: int, *, per_second: float | None = None) -> Posted:
        """Post all of it: each connection the next as soon as it is answered, or at a steady rate of events."""
        began_cpu = cpu_s(self.pid)
        began = time.perf_counter()
        ms = asyncio.run(self._post(requests, None if per_second is None else per_second / batch))
        seconds = time.perf_counter() - began
        events = len(requests) * batch
        return Posted(events / seconds, ms, 1e6 * (cpu_s(self.pid) - began_cpu) / events, rss_bytes(self.pid))

    async def _post(self, requests: list[bytes], per_second: float | None) -> list[float]:
        waiting = iter(enumerate(requests))
        began = time.perf_counter()
        ms: list[float] = []

        async def post() -> None:
            reader, writer = await asyncio.open_connection(*self._where)
            for number, request in waiting:
                due = time.perf_counter() if per_second is None else began + number / per_second
                ahead = due - time.perf_counter()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                writer.write(request)
                head = await reader.readuntil(_HEAD)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise BenchError(f"the bridge answered {head[:40]!r}")
                await reader.readexactly(len(_DONE))
                # From when it was due: whoever is late because another was slow counts as slow too.
                ms.append(1000 * (time.perf_counter() - due))
            writer.close()

        await asyncio.gather(*(post() for _ in range(CONNECTIONS)))
        return ms

    def close(self) -> None:
        """End it."""
        self._ingest.kill()


def produce_raw(parameters: dict[str, Any]) -> dict[str, Any]:
    """Produce the same events with the bridge's own client properties and nothing else."""
    producer = Producer(producer_properties({"bootstrap.servers": parameters["bootstrap"]}))
    made = list(values(int(parameters["events"])))
    topic, failed = parameters["topic"], []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    producer.list_topics(topic, 30)
    began, began_cpu = time.perf_counter(), time.process_time()
    for number, value in enumerate(made):
        producer.produce(topic, value, ACCOUNT, on_delivery=delivered)
        if number % 500 == 0:
            producer.poll(0)
    if producer.flush(120) or failed:
        raise BenchError("the broker did not take the events")
    wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {"per_s": len(made) / wall, "cpu_us": 1e6 * cpu / len(made)}
