"""The HTTP server: metrics for Prometheus, health for whoever restarts or routes to us, pages for people.

It runs on the process's asyncio loop; the Kafka loop turns in a thread of its own and reports to ``Health``. A path
that is not listed here is 404: a probe that asks the wrong one must not find everything well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from monitor.errors import ListenError
from monitor.settings import Address
from monitor.web.pages import Pages

STILL_MAX_S: Final = 60.0  # A loop that has not turned for so long does not turn any more.
LOOP_BEAT_S: Final = 1.0
SHUTDOWN_S: Final = 2.0  # What a stop leaves to answers under way; all of the stop has ten seconds.

BODY_BYTES_MAX: Final = 16 * 1024  # An action with its text.

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: with it browsers name no origin of a form either, by which we tell ours from others'.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Health:
    """What the loops report and the probes ask; safe from any thread, for each field is replaced whole.

    ``now`` and every ``monotonic`` are seconds of one clock that never goes back. ``needs`` are the parts without which
    the monitor is not ready, each missing until ``found``.
    """

    def __init__(self, now: float, needs: tuple[str, ...] = ("policy", "account settings", "assignment")) -> None:
        # Until the first turn the start counts as one: a thread that never gets to it is as dead as one that stopped.
        self._polled = now
        self._looped = now
        self._missing: dict[str, str] = dict.fromkeys(needs, "not there yet")
        self._notes: dict[str, str] = {}
        self._stopping = False

    def poll_seen(self, monotonic: float) -> None:
        """The Kafka loop has turned, whether or not Kafka is there."""
        self._polled = monotonic

    def loop_seen(self, monotonic: float) -> None:
        """The asyncio loop has turned."""
        self._looped = monotonic

    def found(self, part: str) -> None:
        """A part is there."""
        self._missing = {name: why for name, why in self._missing.items() if name != part}

    def missing(self, part: str, why: str) -> None:
        """A part is not there, or not any more; ``why`` is shown to whoever asks."""
        self._missing = {**self._missing, part: why}

    def note(self, part: str, why: str | None) -> None:
        """Something about a part that is no reason not to be ready, and that people should know; None takes it back."""
        rest = {name: said for name, said in self._notes.items() if name != part}
        self._notes = rest if why is None else {**rest, part: why}

    def notes(self) -> tuple[str, ...]:
        """What people should know, one sentence each."""
        return tuple(f"{part}: {why}" for part, why in self._notes.items())

    def stopping(self) -> None:
        """The stop has begun: not ready any more, and never again."""
        self._stopping = True

    def ready_reasons(self) -> tuple[str, ...]:
        """Why the monitor is not ready, one sentence each; empty where it is."""
        stopping = ("the monitor is stopping",) if self._stopping else ()
        return (*stopping, *(f"{part}: {why}" for part, why in self._missing.items()))

    def ready(self) -> bool:
        """Say whether everything is restored and no stop has begun."""
        return not self.ready_reasons()

    def sick_reasons(self, monotonic: float) -> tuple[str, ...]:
        """Why a restart would help, one sentence each; empty where it would not. Kafka being away is no reason."""
        reasons = []
        for name, seen in (("the Kafka thread", self._polled), ("the asyncio loop", self._looped)):
            still_s = monotonic - seen
            if still_s >= STILL_MAX_S:
                reasons.append(f"{name} has not moved for {still_s:.0f} s")
        return tuple(reasons)


class WebServer:
    """The server on one address. ``start`` and ``stop`` belong to the loop it runs on.

    ``listen`` with port 0 takes any free port; ``address`` says which. ``clock`` is the one ``health`` counts by.
    """

    def __init__(
        self,
        listen: Address,
        registry: CollectorRegistry,
        health: Health,
        pages: Pages | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pages = pages or Pages()
        self._listen = listen
        self._health = health
        self._clock = clock
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._beating: asyncio.Task[None] | None = None
        self._addresses: tuple[Address, ...] = ()

    async def start(self) -> None:
        """Listen. Raises ``ListenError``, and then nothing is left behind."""
        loop = asyncio.get_running_loop()
        runner = web.AppRunner(self._application(), shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        manager = runner.server
        assert manager is not None  # It is there once set up.
        try:
            # No host means every interface, IPv4 and IPv6.
            self._server = await loop.create_server(
                lambda: _Connection(manager, loop=loop),
                self._listen.host or None,
                self._listen.port,
                reuse_address=True,
            )
        except OSError as error:
            await runner.cleanup()
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
            raise ListenError(f"{self._listen} cannot be listened on: {why}") from None
        self._runner = runner
        names = [listening.getsockname() for listening in self._server.sockets]
        self._addresses = tuple(Address(str(name[0]), int(name[1])) for name in names)
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Close the address, give answers under way ``SHUTDOWN_S``, and return. Stopping twice does no harm."""
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating
            self._beating = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()  # Ends the connections; the server alone would leave them open.
            self._runner = None

    @property
    def address(self) -> Address:
        """Where the server listens: the first address, with the port that was taken. Only after ``start``."""
        assert self._addresses, "not started"
        return self._addresses[0]

    @property
    def url(self) -> str:
        """The address for somebody on this machine; one that means every interface becomes the loopback's."""
        address = self.address
        if address.host in ("", "0.0.0.0", "::"):  # noqa: S104 - this is read, not bound.
            address = Address("127.0.0.1" if address.host != "::" else "::1", address.port)
        return f"http://{address}"

    async def _beat(self) -> None:
        while True:
            self._health.loop_seen(self._clock())
            await asyncio.sleep(LOOP_BEAT_S)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_plain_errors], client_max_size=BODY_BYTES_MAX)
        application.on_response_prepare.append(_seal)
        application.add_routes(
            [
                *self._pages.routes(),
                web.get("/metrics", make_aiohttp_handler(self._registry)),
                web.get("/-/healthy", self._healthy),
                web.get("/-/ready", self._ready),
            ]
        )
        return application

    async def _healthy(self, _request: web.Request) -> web.Response:
        reasons = self._health.sick_reasons(self._clock())
        return _text("".join(f"{reason}\n" for reason in reasons) or "healthy\n", status=503 if reasons else 200)

    async def _ready(self, _request: web.Request) -> web.Response:
        reasons = self._health.ready_reasons()
        lines = (*(reasons or ("ready",)), *self._health.notes())
        return _text("".join(f"{line}\n" for line in lines), status=503 if reasons else 200)


class _Connection(web.RequestHandler):
    """One connection. What is not HTTP gets a bare 400: aiohttp's own names its version and logs a traceback, and
    whoever knocks on ports could fill the log with them.
    """

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what went wrong before or inside a handler."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        response = _text(f"{status} {HTTPStatus(status).phrase}\n", status=status)
        response.headers.update(_HEADERS)
        response.headers[hdrs.SERVER] = "recording-monitor"  # Left out, aiohttp would put its own.
        response.force_close()
        return response


def _text(text: str, *, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/plain", charset="utf-8")


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer what has no page in one line, and repeat nothing of what was asked."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        answer = _text(f"{error.status} {error.reason}\n", status=error.status)
        for name in (hdrs.ALLOW, hdrs.LOCATION):
            if name in error.headers:
                answer.headers[name] = error.headers[name]
        return answer


async def _seal(_request: web.Request, response: web.StreamResponse) -> None:
    """Put our headers on every answer, and take off the one that names the server's version."""
    response.headers.update(_HEADERS)
    response.headers.popall(hdrs.SERVER, None)
