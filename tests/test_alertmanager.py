"""How Alertmanagers are told, against real HTTP servers on loopback; and when a view counts as fresh."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from monitor.inputs.follower import Freshness
from monitor.outputs.alertmanager import BATCH_MAX, FAILED, REFUSED, Client, Outgoing, Route, addresses_of
from monitor.outputs.alerts import Labels, Pace
from monitor.settings import Alertmanager, SecretFile

PACE = Pace(resend_ms=400, retry_ms=50, timeout_ms=500)
WAIT_S = 60.0


class Server:
    """An Alertmanager that answers as a test says, and keeps what it took."""

    def __init__(self) -> None:
        self.taken: list[list[dict[str, Any]]] = []
        self.headers: list[Mapping[str, str]] = []
        self.answer: Callable[[list[dict[str, Any]]], int] = lambda _: 200
        self.delay_s = 0.0
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, context: ssl.SSLContext | None = None) -> str:
        application = web.Application()
        application.router.add_post("/api/v2/alerts", self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        return f"{'https' if context else 'http'}://localhost:{self.port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay_s)
        alerts = msgspec.json.decode(await request.read())
        status = self.answer(alerts)
        if status == 200:
            self.taken.append(alerts)
        self.headers.append(dict(request.headers))
        return web.Response(status=status, text="what it says")

    @property
    def names(self) -> list[str]:
        return [alert["labels"]["n"] for batch in self.taken for alert in batch]


class Box:
    """What there is to be told, and what became of it."""

    def __init__(self, count: int = 0) -> None:
        self.versions = {self.labels(number): 1 for number in range(count)}
        self.results: list[tuple[str, str, int]] = []
        self.told: list[str] = []

    @staticmethod
    def labels(number: int) -> Labels:
        return (("alertname", "Test"), ("n", str(number)))

    def __call__(self, known: Mapping[Labels, int] | None) -> Iterable[Outgoing]:
        for labels, version in self.versions.items():
            if known is None or known.get(labels) != version:
                yield Outgoing(labels, version, {"labels": dict(labels)})

    def sent(self, alertmanager: str, result: str, alerts: int, seconds: float | None) -> None:  # noqa: ARG002
        self.results.append((alertmanager, result, alerts))

    def accepted(self, outgoing: Sequence[Outgoing]) -> None:
        self.told += [dict(one.labels)["n"] for one in outgoing]


async def until(what: Callable[[], object]) -> None:
    ends = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < ends, "it did not come to pass"
        await asyncio.sleep(0.01)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_everything_goes_in_batches_and_again_and_what_is_new_at_once():
    async def play() -> None:
        server, box = Server(), Box(150)
        route = Route(Alertmanager(url=await server.start()), box, box, Pace(resend_ms=3_600_000))
        route.start()
        await until(lambda: len(server.names) == 150)
        assert [len(batch) for batch in server.taken] == [BATCH_MAX, BATCH_MAX, 22]
        box.versions[Box.labels(7)] = 2
        route.wake()
        await until(lambda: len(server.names) == 151)
        assert server.names[-1] == "7"
        await route.stop()
        box.versions[Box.labels(8)] = 2
        await server.stop()

        server, box = Server(), Box(3)
        route = Route(Alertmanager(url=await server.start()), box, box, PACE)
        route.start()
        await until(lambda: len(server.names) >= 9)
        await route.stop()
        await server.stop()

    run(play())


def test_what_is_new_is_told_once_more_when_it_stops():
    async def play() -> None:
        server, box = Server(), Box(1)
        route = Route(Alertmanager(url=await server.start()), box, box, Pace(resend_ms=3_600_000))
        route.start()
        await until(lambda: box.told == ["0"])
        box.versions[Box.labels(1)] = 1
        await route.stop()
        assert server.names == ["0", "1"]
        await server.stop()

    run(play())


def test_what_was_refused_is_found_and_the_others_are_taken():
    async def play() -> None:
        server, box = Server(), Box(100)
        bad = {"13", "64"}
        server.answer = lambda alerts: 400 if any(alert["labels"]["n"] in bad for alert in alerts) else 200
        route = Route(Alertmanager(url=await server.start()), box, box, Pace(resend_ms=3_600_000))
        route.start()
        await until(lambda: len(box.told) == 98)
        await until(lambda: sum(count for _, result, count in box.results if result == REFUSED) == 2)
        assert sorted(box.told, key=int) == [str(number) for number in range(100) if str(number) not in bad]
        await route.stop()
        await server.stop()

    run(play())


def test_one_that_is_away_is_asked_again_soon_and_delays_no_other():
    async def play() -> None:
        up, hanging, box = Server(), Server(), Box(1)
        hanging.delay_s = 2.0
        patient = msgspec.structs.replace(PACE, timeout_ms=30_000)
        routes = [
            Route(Alertmanager(url=await server.start()), box, box, pace)
            for server, pace in ((up, patient), (hanging, PACE))
        ]
        gone = Server()
        url = await gone.start()
        await gone.stop()
        routes.append(Route(Alertmanager(url=url), box, box, PACE))
        for route in routes:
            route.start()
        await until(lambda: len(up.names) >= 4)
        assert hanging.names == []
        results = {(name, result) for name, result, _ in box.results}
        assert (routes[0].name, FAILED) not in results
        await until(lambda: (routes[1].name, FAILED) in {(name, result) for name, result, _ in box.results})
        await gone.start()
        await until(lambda: gone.names)
        hanging.delay_s = 0.0
        await until(lambda: hanging.names)
        for route in routes:
            await route.stop()
        for server in (up, hanging, gone):
            await server.stop()

    run(play())


def test_what_one_batch_does_to_a_server_keeps_the_others_from_nothing():
    async def play() -> None:
        server, box = Server(), Box(3 * BATCH_MAX)
        server.answer = lambda alerts: 500 if alerts[0]["labels"]["n"] == "0" else 200
        route = Route(Alertmanager(url=await server.start()), box, box, PACE)
        route.start()
        await until(lambda: len(set(server.names)) == 2 * BATCH_MAX)
        await route.stop()
        await server.stop()

    run(play())


def test_passwords_and_tokens_come_from_files_that_are_read_again(tmp_path: Path):
    async def play() -> None:
        server = Server()
        url = await server.start()
        token, password = tmp_path / "token", tmp_path / "password"
        token.write_text("first\n")
        password.write_text("pässword\n")
        client = Client(Alertmanager(url=url, bearer_token_file=SecretFile(token)), "127.0.0.1", 5.0)
        assert (await client.post([])).good
        token.write_text("another\n")
        assert (await client.post([])).good
        token.unlink()
        answer = await client.post([])
        assert answer.status is None
        assert str(tmp_path) not in answer.says
        await client.close()
        basic = Alertmanager(url=url, username="monitor", password_file=SecretFile(password))
        client = Client(basic, "127.0.0.1", 5.0)
        assert (await client.post([])).good
        await client.close()
        said = [headers["Authorization"] for headers in server.headers]
        assert said == [
            "Bearer first",
            "Bearer another",
            "Basic " + base64.b64encode("monitor:pässword".encode()).decode(),
        ]
        await server.stop()

    run(play())


def certificate(directory: Path, name: str, host: str = "localhost") -> tuple[Path, Path]:
    directory.mkdir(exist_ok=True)
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    more = ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *more], check=True, capture_output=True)
    return cert, key


def test_certificates_are_checked_by_name_against_the_ca_of_the_settings(tmp_path: Path):
    async def play() -> None:
        cert, key = certificate(tmp_path / "a", "server")
        other, _ = certificate(tmp_path / "b", "other")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        server = Server()
        url = await server.start(context)
        ca = tmp_path / "ca.pem"
        ca.write_bytes(other.read_bytes())
        client = Client(Alertmanager(url=url, ca_file=ca), "127.0.0.1", 5.0)
        answer = await client.post([])
        assert answer.status is None
        assert "ertificate" in answer.says
        ca.write_bytes(cert.read_bytes())  # A new bundle counts without a restart.
        assert (await client.post([])).good
        await client.close()
        # The name is what the certificate has to bear, whatever the address.
        client = Client(Alertmanager(url=url.replace("localhost", "alertmanager.example"), ca_file=ca), "127.0.0.1", 5)
        assert "mismatch" in (await client.post([])).says
        await client.close()
        await server.stop()

    run(play())


def test_a_name_with_several_addresses_is_all_of_them():
    async def play() -> None:
        assert await addresses_of("http://192.0.2.7:9093") == ["192.0.2.7"]
        assert await addresses_of("http://[::1]:9093") == ["::1"]
        assert await addresses_of("http://localhost:9093") == ["127.0.0.1"]
        with pytest.raises(socket.gaierror):
            await addresses_of("http://nobody.invalid:9093")

    run(play())


def test_a_redirect_is_not_followed():
    async def play() -> None:
        server = Server()
        server.answer = lambda _: 307
        client = Client(Alertmanager(url=await server.start()), "127.0.0.1", 5.0)
        assert (await client.post([])).status == 307
        await client.close()
        await server.stop()

    run(play())


# --- Freshness

A, B = ("verdicts", 0), ("actions", 0)


def fresh(now: float) -> Freshness:
    view = Freshness(30.0, 3_600.0)
    view.expect([A, B])
    view.read(A, 10, now)
    view.read(B, 0, now)
    return view


def test_a_view_is_fresh_when_all_of_it_was_at_the_end_of_late():
    view = Freshness(30.0, 3_600.0)
    assert view.mode(0.0) == "stale"
    view.expect([A, B])
    view.read(A, 10, 1.0)
    assert view.mode(2.0) == "stale"
    view.read(B, 0, 1.0)
    assert view.mode(2.0) == "fresh"
    assert view.mode(31.1) == "stale"


def test_a_quiet_topic_stays_fresh_by_asking_and_one_left_behind_does_not():
    view = fresh(0.0)
    view.asked(A, 10, 40.0)
    view.asked(B, 0, 40.0)
    assert view.mode(60.0) == "fresh"
    view.asked(A, 11, 80.0)
    view.asked(B, 0, 80.0)
    assert view.mode(80.0) == "stale"
    view.read(A, 11, None)
    view.asked(A, 11, 81.0)
    assert view.mode(81.0) == "fresh"


def test_one_that_was_fresh_when_the_brokers_went_goes_on_alone_for_a_while():
    view = fresh(0.0)
    assert view.mode(1.0) == "fresh"
    for now in (20.0, 50.0, 3_500.0):
        view.answered(all_of_them=False, now=now)
        assert view.mode(now + 5) == ("fresh" if now == 20.0 else "alone")
    view.answered(all_of_them=False, now=3_700.0)
    assert view.mode(3_700.0) == "stale"
    view.answered(all_of_them=False, now=3_710.0)
    assert view.mode(3_710.0) == "stale"  # And not alone again, without having been fresh.


def test_one_that_was_stopped_for_a_while_is_stale_whatever_it_knew_last():
    view = fresh(0.0)
    assert view.mode(1.0) == "fresh"
    assert view.mode(500.0) == "stale"
    view = fresh(0.0)
    view.answered(all_of_them=False, now=10.0)
    assert view.mode(29.0) == "fresh"
    assert view.mode(39.0) == "alone"
    assert view.mode(500.0) == "stale"  # That the brokers were away is long ago.


def test_a_new_partition_and_one_read_anew_make_it_stale():
    view = fresh(0.0)
    view.expect([A, B, ("verdicts", 1)])
    assert view.mode(1.0) == "stale"
    view = fresh(0.0)
    view.forget(A)
    assert view.mode(1.0) == "stale"
