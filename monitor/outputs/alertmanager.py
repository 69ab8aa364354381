"""Tells Alertmanagers what is firing: each of them everything, each at its own pace.

``Route`` is one configured Alertmanager; of a name with several addresses it tells each of them, over its own
connection. What is told is a level: at once what changed, every minute all of it. One that does not answer is asked
again soon, and delays no other. All of it belongs to one asyncio loop.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult

from monitor.file_identity import file_identity
from monitor.outputs.alerts import Labels, Pace
from monitor.settings import Alertmanager, SecretError

log = structlog.get_logger(__name__)

BATCH_MAX: Final = 64
ADDRESSES_MAX: Final = 16
"""Of a name with more, the first are told."""
RESOLVE_EVERY_S: Final = 30.0
API: Final = "/api/v2/alerts"
SAID_BYTES: Final = 500  # Of an answer, for people.

OK: Final = "ok"
REFUSED: Final = "refused"
FAILED: Final = "failed"
RESULTS: Final = (OK, REFUSED, FAILED)


class Outgoing(NamedTuple):
    """An alert as it is sent now. ``version`` is another whenever it says something new."""

    labels: Labels
    version: int
    body: dict[str, Any]


class Watch(Protocol):
    """Who is told what became of it."""

    def sent(self, alertmanager: str, result: str, alerts: int, seconds: float | None) -> None:
        """So many alerts were sent, with one of ``RESULTS``; ``seconds`` is what a request took, if it was one."""

    def accepted(self, outgoing: Sequence[Outgoing]) -> None:
        """An Alertmanager has taken these."""


Outbox = Callable[[Mapping[Labels, int] | None], Iterable[Outgoing]]
"""What there is to be told now: all of it, or but what differs from the versions that are known already."""


class Answer(NamedTuple):
    """What an Alertmanager said: an HTTP status, or None and what was the matter."""

    status: int | None
    says: str

    @property
    def good(self) -> bool:
        """Whether it has taken what it was sent."""
        return self.status is not None and 200 <= self.status < 300


async def addresses_of(url: str) -> list[str]:
    """The addresses behind the host of a URL, sorted. Raises OSError."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = sorted({str(info[4][0]) for info in found})
    if host == "localhost" and len(addresses) > 1:
        return [address for address in addresses if ":" not in address]  # Two names of one place.
    return addresses[:ADDRESSES_MAX]


class _Fixed(AbstractResolver):
    """Resolves any host to one address, so that certificates and the Host header still go by the name."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host, host=self._address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        pass


class Client:
    """The way to one address of an Alertmanager. Secrets and certificates are read again when their files change."""

    def __init__(self, settings: Alertmanager, address: str, timeout_s: float) -> None:
        self._settings = settings
        self._address = address
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._seen: object = None

    async def post(self, alerts: Sequence[dict[str, Any]]) -> Answer:
        """Send alerts; what goes wrong is an answer too."""
        return await self._ask("POST", API, msgspec.json.encode(alerts))

    async def get(self, path: str) -> Answer:
        """Ask for what stands at a path, of which the first part is told; what goes wrong is an answer too."""
        return await self._ask("GET", path, None)

    async def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        try:
            # The whole of it, with connecting and reading: an answer that trickles in is none.
            async with asyncio.timeout(self._timeout_s):
                session = await self._open()
                async with session.request(
                    method,
                    self._settings.url + path,
                    data=body,
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as answer:
                    said = await answer.content.read(SAID_BYTES)
                    return Answer(answer.status, said.decode(errors="replace").strip())
        except TimeoutError:
            return Answer(None, f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as failure:
            return Answer(None, f"{type(failure).__name__}: {failure}")
        except SecretError as failure:
            return Answer(None, f"a secret of its settings {failure}")
        except ValueError:
            return Answer(None, "a secret of its settings holds what no header may")

    async def close(self) -> None:
        """Let go of the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self) -> aiohttp.ClientSession:
        settings = self._settings
        secrets = (settings.password_file, settings.bearer_token_file, settings.key_file)
        paths = [secret.path for secret in secrets if secret] + [p for p in (settings.ca_file, settings.cert_file) if p]
        seen = [file_identity(path) for path in paths]
        if self._session is not None and seen == self._seen:
            return self._session
        await self.close()
        headers = {}
        if settings.bearer_token_file is not None:
            headers["Authorization"] = f"Bearer {settings.bearer_token_file.read()}"
        if settings.username is not None and settings.password_file is not None:
            credentials = f"{settings.username}:{settings.password_file.read()}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
        connector = aiohttp.TCPConnector(
            resolver=_Fixed(self._address), ssl=_tls(settings), limit=4, keepalive_timeout=300
        )
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False)
        self._seen = seen
        return self._session


def _tls(settings: Alertmanager) -> ssl.SSLContext | bool:
    if not settings.url.startswith("https:"):
        return True
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.cert_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file.path if settings.key_file else None)
    return context


class Route:
    """Tells one configured Alertmanager, at every address it has."""

    def __init__(self, settings: Alertmanager, outbox: Outbox, watch: Watch, pace: Pace) -> None:
        self.name = settings.name
        self._settings = settings
        self._outbox = outbox
        self._watch = watch
        self._pace = pace
        self._teller: dict[str, _Teller] = {}
        self._resolving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell; belongs to a running loop."""
        self._resolving = asyncio.create_task(self._resolve())

    def wake(self) -> None:
        """Something has changed."""
        for teller in self._teller.values():
            teller.changed.set()

    async def stop(self) -> None:
        """Tell once more what is new, and end."""
        if self._resolving is not None:
            self._resolving.cancel()
        await asyncio.gather(*[teller.stop() for teller in self._teller.values()])
        self._teller.clear()

    async def _resolve(self) -> None:
        while True:
            try:
                await self._look_up()
            except OSError as failure:
                # Those known so far may still be there.
                log.warning("alertmanager_not_resolved", alertmanager=self.name, why=str(failure))
                self._watch.sent(self.name, FAILED, 0 if self._teller else 1, None)
            await asyncio.sleep(RESOLVE_EVERY_S if self._teller else self._pace.retry_ms / 1000)

    async def _look_up(self) -> None:
        found = await addresses_of(self._settings.url)
        for address in [address for address in self._teller if address not in found]:
            await self._teller.pop(address).stop()
        for address in found:
            if address not in self._teller:
                client = Client(self._settings, address, self._pace.timeout_ms / 1000)
                self._teller[address] = _Teller(
                    self.name, client.post, client.close, self._outbox, self._watch, self._pace
                )


class _Teller:
    """Keeps one address up to date."""

    def __init__(
        self,
        name: str,
        post: Callable[[Sequence[dict[str, Any]]], Awaitable[Answer]],
        close: Callable[[], Awaitable[None]],
        outbox: Outbox,
        watch: Watch,
        pace: Pace,
    ) -> None:
        self.changed = asyncio.Event()
        self._name = name
        self._post = post
        self._close = close
        self._outbox = outbox
        self._watch = watch
        self._pace = pace
        self._knows: dict[Labels, int] = {}
        self._failing = False
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if not self._failing:
            await self._tell(all_of_it=False)
        await self._close()

    async def _run(self) -> None:
        resend_s, retry_s = self._pace.resend_ms / 1000, self._pace.retry_ms / 1000
        due = time.monotonic()
        while True:
            self.changed.clear()
            whole = time.monotonic() >= due
            await self._tell(all_of_it=whole)
            if whole:
                due = time.monotonic() + resend_s
            wait_s = max(0.0, due - time.monotonic())
            if self._failing:
                # What is new waits too: whatever is in the way of the old is in the way of the new.
                await asyncio.sleep(min(retry_s, wait_s) if wait_s else retry_s)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.changed.wait()

    async def _tell(self, *, all_of_it: bool) -> None:
        """Send what this address does not know, or everything, in batches; the first that fails ends it."""
        outgoing = list(self._outbox(None if all_of_it else self._knows))
        if all_of_it:
            there = {one.labels for one in outgoing}
            self._knows = {labels: version for labels, version in self._knows.items() if labels in there}
        self._failing = False
        for first in range(0, len(outgoing), BATCH_MAX):
            if not await self._send(outgoing[first : first + BATCH_MAX]):
                return

    async def _send(self, batch: Sequence[Outgoing]) -> bool:
        """Send one batch; whether there is anybody at all. What is refused is found by halving."""
        began = time.monotonic()
        answer = await self._post([one.body for one in batch])
        took_s = time.monotonic() - began
        if answer.good:
            self._knows.update({one.labels: one.version for one in batch})
            self._watch.sent(self._name, OK, len(batch), took_s)
            self._watch.accepted(batch)
            return True
        if answer.status != 400:
            self._watch.sent(self._name, FAILED, len(batch), took_s)
            log.warning(
                "alerts_not_sent", alertmanager=self._name, status=answer.status, why=answer.says, alerts=len(batch)
            )
            self._failing = True
            return answer.status is not None  # What it cannot digest must not keep the rest from it.
        if len(batch) > 1:
            # Some were refused and the others taken: it does not say which.
            half = len(batch) // 2
            return await self._send(batch[:half]) and await self._send(batch[half:])
        self._watch.sent(self._name, REFUSED, 1, took_s)
        log.error("alert_refused", alertmanager=self._name, why=answer.says, alert=dict(batch[0].labels))
        self._knows[batch[0].labels] = batch[0].version
        return True
