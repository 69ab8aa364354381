"""The HTTP server as a client sees it: over a real socket, asked by a client that is not ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from prometheus_client import Metric
from prometheus_client.registry import Collector

from monitor.core.verdict import read_instant
from monitor.errors import ListenError
from monitor.outputs.metrics import Metrics
from monitor.settings import Address
from monitor.web.server import STILL_MAX_S, Health, WebServer

LOOPBACK = Address("127.0.0.1", 0)
PATHS = ("/", "/metrics", "/-/healthy", "/-/ready")


class Clock:
    """A clock that stands where it is put, and tells when it was asked."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.asked = asyncio.Event()

    def __call__(self) -> float:
        self.asked.set()
        return self.now


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    text: str


class Site:
    """A running server, and a client for it."""

    def __init__(self, server: WebServer, health: Health, metrics: Metrics, clock: Clock) -> None:
        self.server, self.health, self.metrics, self.clock = server, health, metrics, clock

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.server.url + path, headers=headers) as answer,
        ):
            return Answer(answer.status, answer.headers, await answer.text())


@asynccontextmanager
async def site(listen: Address = LOOPBACK) -> AsyncIterator[Site]:
    clock = Clock()
    health = Health(clock.now)
    metrics = Metrics(aliases={})
    metrics.ready_when(health.ready)
    server = WebServer(listen, metrics.registry, health, clock=clock)
    await server.start()
    try:
        yield Site(server, health, metrics, clock)
    finally:
        await server.stop()


def test_port_0_takes_a_free_port_and_says_which():
    async def asked() -> None:
        async with site() as running:
            assert running.server.address.port != 0
            assert (await running.ask("/-/healthy")).status == 200

    asyncio.run(asked())


def test_every_page_answers_and_no_other_path_does():
    async def asked() -> None:
        async with site() as running:
            running.health.found("policy")
            for path in PATHS:
                assert (await running.ask(path)).status in (200, 503), path
            for path in ("/nothing", "/metrics/", "/-/", "/-/healthyz", "//", "/%2e%2e/etc/passwd", "/favicon.ico"):
                answer = await running.ask(path)
                assert (answer.status, answer.text) == (404, "404 Not Found\n"), path

    asyncio.run(asked())


def test_only_get_and_head_are_allowed():
    async def asked() -> None:
        async with site() as running:
            for path in PATHS:
                for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                    answer = await running.ask(path, method)
                    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD"), (method, path)
                answer = await running.ask(path, "HEAD")
                assert answer.text == ""
                assert answer.status in (200, 503)

    asyncio.run(asked())


def test_no_answer_names_the_server_or_may_be_kept_or_framed():
    async def asked() -> None:
        async with site() as running:
            for path in (*PATHS, "/nothing"):
                for method in ("GET", "POST"):
                    headers = (await running.ask(path, method)).headers
                    assert "Server" not in headers
                    assert headers["Cache-Control"] == "no-store"
                    assert headers["X-Content-Type-Options"] == "nosniff"
                    assert "default-src 'none'" in headers["Content-Security-Policy"]

    asyncio.run(asked())


def test_metrics_are_text_for_some_and_openmetrics_for_those_who_ask():
    async def asked() -> None:
        async with site() as running:
            plain = await running.ask("/metrics")
            assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "recording_monitor_messages_total 0.0" in plain.text
            assert "# EOF" not in plain.text
            asked_for = await running.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
            assert asked_for.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert asked_for.text.endswith("# EOF\n")

    asyncio.run(asked())


def test_metrics_are_those_of_the_registry_at_this_moment():
    async def asked() -> None:
        async with site() as running:
            running.metrics.polled(read_instant("2026-11-21T08:00:00.000Z") / 1000)
            assert "recording_monitor_last_poll_timestamp_seconds 1.795248e+09" in (await running.ask("/metrics")).text

    asyncio.run(asked())


def test_healthy_until_the_kafka_thread_stands_still_for_a_minute():
    async def asked() -> None:
        async with site() as running:
            for still_s, status in ((0.0, 200), (STILL_MAX_S - 0.1, 200), (STILL_MAX_S, 503)):
                running.clock.now = 1_000.0 + still_s
                running.health.loop_seen(running.clock.now)
                assert (await running.ask("/-/healthy")).status == status
            assert (await running.ask("/-/healthy")).text == "the Kafka thread has not moved for 60 s\n"
            running.health.poll_seen(running.clock.now)
            assert (await running.ask("/-/healthy")).text == "healthy\n"

    asyncio.run(asked())


def test_a_loop_that_stood_still_is_sick_and_says_so():
    health = Health(0.0)
    health.poll_seen(100.0)

    assert health.sick_reasons(100.0) == ("the asyncio loop has not moved for 100 s",)


def test_the_servers_own_loop_reports_that_it_turns():
    async def asked() -> None:
        async with site() as running:
            running.clock.now += 30
            running.health.poll_seen(running.clock.now)
            running.clock.asked.clear()
            async with asyncio.timeout(30):
                await running.clock.asked.wait()
            assert running.health.sick_reasons(running.clock.now + STILL_MAX_S - 0.1) == ()

    asyncio.run(asked())


def test_ready_once_every_part_is_there_and_not_before():
    async def asked() -> None:
        async with site() as running:
            running.health.missing("assignment", "partition 3 is being rebuilt")
            for part in ("policy", "account settings"):
                running.health.found(part)
            answer = await running.ask("/-/ready")
            assert (answer.status, answer.text) == (503, "assignment: partition 3 is being rebuilt\n")
            assert running.metrics.registry.get_sample_value("recording_monitor_ready") == 0
            running.health.found("assignment")
            answer = await running.ask("/-/ready")
            assert (answer.status, answer.text) == (200, "ready\n")
            assert running.metrics.registry.get_sample_value("recording_monitor_ready") == 1

    asyncio.run(asked())


def test_a_monitor_that_is_stopping_is_healthy_and_not_ready():
    async def asked() -> None:
        async with site() as running:
            for part in ("policy", "account settings", "assignment"):
                running.health.found(part)
            running.health.stopping()
            running.health.found("assignment")
            assert (await running.ask("/-/ready")).status == 503
            assert (await running.ask("/-/healthy")).status == 200

    asyncio.run(asked())


def test_an_address_that_is_taken_is_told_and_leaves_nothing_behind():
    async def asked() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = Address("127.0.0.1", taken.getsockname()[1])
            health = Health(0.0)
            server = WebServer(address, Metrics(aliases={}).registry, health)
            with pytest.raises(ListenError, match=f"{address} cannot be listened on: Address already in use"):
                await server.start()
            await server.stop()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(asked())


def test_a_stopped_server_frees_its_address_and_may_be_stopped_again():
    async def asked() -> None:
        async with site() as running:
            address = running.server.address
            await running.server.stop()
            await running.server.stop()
            async with site(address) as again:
                assert again.server.address == address

    asyncio.run(asked())


def test_what_is_not_http_is_refused_without_naming_the_server():
    async def asked() -> None:
        async with site() as running:
            address = running.server.address
            for garbage in (
                b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET /\r\nnope\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(garbage)
                async with asyncio.timeout(30):
                    told = await reader.read()
                writer.close()
                assert b"aiohttp" not in told.lower()
                assert b" 400 " in told.split(b"\r\n")[0]
            assert (await running.ask("/-/healthy")).status == 200

    asyncio.run(asked())


class Broken(Collector):
    """A collector that fails when it is asked."""

    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("told to nobody outside")


def test_a_page_that_fails_is_a_500_that_tells_nothing_of_us():
    async def asked() -> None:
        async with site() as running:
            running.metrics.registry.register(Broken())
            answer = await running.ask("/metrics", Accept="text/html")
            assert answer.status == 500
            assert "Server" not in answer.headers
            assert "told to nobody" not in answer.text
            assert (await running.ask("/-/healthy")).status == 200

    asyncio.run(asked())


def test_every_interface_is_reached_through_the_loopback():
    async def asked() -> None:
        async with site(Address("0.0.0.0", 0)) as running:
            assert running.server.url.startswith("http://127.0.0.1:")
            assert (await running.ask("/-/healthy")).status == 200

    asyncio.run(asked())
