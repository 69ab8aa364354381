"""How a request travels to Twilio and back: deadlines, repetitions, pace, bounds; errors that tell no secret.

``Transport`` is what Twilio's package calls an HTTP client. It belongs to one asyncio loop, for nothing else ends an
answer that trickles in, and lets go of everything at once when the monitor stops.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from twilio.http import AsyncHttpClient  # type: ignore[import-untyped]  # The package has no types.
from twilio.http.response import Response  # type: ignore[import-untyped]

from monitor.log import redact
from monitor.settings import SecretError
from monitor.twilio.errors import BadCredentials, NotPermitted, NotThere, TwilioRefused, TwilioUnavailable

SLOW_S: Final = 60.0
"""How long after an answer of 429 an account is asked no more than once a second."""
HOST_ENDS: Final = ".twilio.com"
HARMLESS: Final = ("GET", "DELETE")
"""What may be asked twice."""
AT_ONCE_MAX: Final = 4
"""Requests of one account that are on their way side by side."""
WAIT_MAX_S: Final = 8.0
"""The longest of the growing waits between two attempts; what Twilio itself asks for may be longer."""


Told = Callable[[str, str, float], None]
"""Is told of every attempt: of which API (``api``, ``studio``), what it came to (the status of HTTP, ``timeout`` or
``no_connection``), and how many seconds that took.
"""


class Limits(NamedTuple):
    """How long and how often one request is tried, and how much of an answer is read.

    ``total_s`` holds for all attempts with the waits between them, ``attempt_s`` for one, connecting included.
    """

    total_s: float = 60.0
    attempt_s: float = 20.0
    connect_s: float = 5.0
    attempts: int = 5
    answer_bytes_max: int = 8 << 20


class Clock(NamedTuple):
    """Time and chance, so that a test can bring its own. ``wall`` is what a date in an answer is compared with."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    jitter: Callable[[], float] = random.random


class Caller(NamedTuple):
    """Who asks, for Twilio and for people.

    ``secret`` is called for every request, so that a rotated token is taken up; it may raise ``SecretError``.
    ``setting`` names where it was set (``monitor.yaml:12: accounts[0].auth_token_file``) and ``remedy`` what to do
    there when Twilio does not know it.
    """

    account_sid: str
    username: str
    secret: Callable[[], str]
    setting: str
    remedy: str


class Pace:
    """When an account may be asked: as soon as one likes, until Twilio says that it was too much (429).

    From then on not before the instant it named, and for a minute no more than once a second.
    https://www.twilio.com/docs/api/errors/20429
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 0.0
        self._slow_until = 0.0
        self.at_once: Final = asyncio.Semaphore(AT_ONCE_MAX)

    def too_much(self, wait_s: float) -> None:
        """Twilio wants nothing more for so long."""
        now = self._clock.now()
        self._slow_until = max(self._slow_until, now + wait_s + SLOW_S)
        self._next = max(self._next, now + max(wait_s, 1.0))

    async def turn(self, deadline: float) -> bool:
        """Wait until it is this request's turn; False, and at once, where that would be after the deadline."""
        while (now := self._clock.now()) < self._slow_until:
            if now >= self._next:
                self._next = now + 1.0
                return True
            if self._next >= deadline:
                return False
            await self._clock.sleep(self._next - now)
        return True


class _Again(Exception):
    """An attempt failed, and another may be better: why, and whether Twilio may have done what was asked."""

    def __init__(self, why: str, *, done: bool = True, too_much: bool = False) -> None:
        super().__init__(why)
        self.done = done
        self.too_much = too_much


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str


class Transport(AsyncHttpClient):  # type: ignore[misc]  # The package has no types.
    """Takes the requests of Twilio's package for one caller, and answers them or raises what ``errors`` lists.

    A request is repeated after a time-out, a cut connection or an answer of 5xx where asking twice does no harm, and
    always after a 429 or where no connection came about. ``api_url`` takes the place of scheme, host and port of every
    address; the ``Host`` header goes on saying which of Twilio's APIs is meant.
    """

    def __init__(
        self,
        caller: Caller,
        session: aiohttp.ClientSession,
        pace: Pace,
        *,
        limits: Limits = Limits(),  # noqa: B008 - a tuple of numbers.
        clock: Clock = Clock(),  # noqa: B008 - a tuple of functions.
        api_url: str | None = None,
        told: Told | None = None,
    ) -> None:
        super().__init__(logging.getLogger("twilio.http_client"), is_async=True)
        self._caller = caller
        self._session = session
        self._pace = pace
        self._limits = limits
        self._clock = clock
        self._api_url = api_url
        self._told = told

    async def request(
        self,
        method: str,
        uri: str,
        params: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: object = None,  # noqa: ARG002 - ours are read anew for every request.
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - nor do callers set time-outs of their own.
        allow_redirects: bool = False,  # noqa: ARG002, FBT001, FBT002 - an API has no business redirecting.
    ) -> Response:
        """Ask Twilio; called by its package. Raises ``TwilioRefused``, ``TwilioUnavailable``, or ``SecretError``."""
        asked = _Asked.of(method.upper(), uri, params, data, headers or {})
        if not asked.host.endswith(HOST_ENDS):
            # The address of a next page is out of an answer: credentials go nowhere but to Twilio.
            raise self._unavailable(asked, "an answer of Twilio's leads to a host that is not Twilio's")
        async with self._pace.at_once:
            # Counted from here: to wait for requests of our own is nothing that Twilio has done.
            return await self._ask(asked, self._clock.now() + self._limits.total_s)

    async def _ask(self, asked: _Asked, deadline: float) -> Response:
        attempt = 0
        while True:
            attempt += 1
            if not await self._pace.turn(deadline):
                raise self._unavailable(asked, "too many requests (429), and it wants none for longer than we may wait")
            try:
                answer = await self._attempt(asked, deadline)
            except _Again as failure:
                if asked.method not in HARMLESS and failure.done:
                    raise self._unavailable(asked, f"{failure}; whether it was done is not known") from None
                wait_s = self._backoff_s(attempt, too_much=failure.too_much)
                if attempt >= self._limits.attempts or self._clock.now() + wait_s >= deadline:
                    raise self._unavailable(asked, f"{failure}, at the last of {attempt} attempts") from None
                if wait_s:
                    await self._clock.sleep(wait_s)
                continue
            if answer.status == 404 and asked.method == "DELETE" and attempt > 1:
                return Response(204, "", answer.headers)  # The attempt before has done it.
            if answer.status >= 400:
                raise self._refusal(asked, answer)
            return Response(answer.status, answer.text, answer.headers)

    async def _attempt(self, asked: _Asked, deadline: float) -> _Answer:
        try:
            secret = self._caller.secret()
        except SecretError as error:
            raise SecretError(f"{self._caller.setting}: {error}") from None
        credentials = base64.b64encode(f"{self._caller.username}:{secret}".encode()).decode()
        began = self._clock.now()
        within_s = min(self._limits.attempt_s, deadline - began)
        code = "no_connection"
        try:
            async with (
                asyncio.timeout(max(within_s, 0.0)),
                self._session.request(
                    asked.method,
                    self._address(asked),
                    data=asked.body,
                    headers={**asked.headers, "Host": asked.host, "Authorization": f"Basic {credentials}"},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s),
                ) as answer,
            ):
                code = str(answer.status)
                status, text = answer.status, await self._read(asked, answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failure:
            raise _Again(f"no connection ({_in_short(failure)})", done=False) from None
        except TimeoutError:
            code = "timeout"
            raise _Again(f"no answer within {within_s:.3g} s") from None
        except (aiohttp.ClientError, OSError) as failure:
            raise _Again(f"the connection broke ({type(failure).__name__})") from None
        finally:
            if self._told is not None:
                self._told(asked.host.partition(".")[0], code, self._clock.now() - began)
        if status == 429:
            self._pace.too_much(_retry_after_s(answer.headers, self._clock.wall()))
            raise _Again("too many requests (429)", done=False, too_much=True)
        if status >= 500 or 300 <= status < 400:  # No API redirects; what stands in between may.
            raise _Again(f"it answered {status}")
        if status < 400 and asked.method != "DELETE" and not _is_json(text):
            raise _Again("the answer was no JSON: is something else than Twilio in between?")
        return _Answer(status, answer.headers, text)

    async def _read(self, asked: _Asked, answer: aiohttp.ClientResponse) -> str:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._limits.answer_bytes_max:
                answer.close()
                raise self._unavailable(asked, f"its answer is larger than {self._limits.answer_bytes_max} bytes")
        return body.decode(errors="replace")

    def _address(self, asked: _Asked) -> str:
        return f"{self._api_url or f'https://{asked.host}'}{asked.path}{'?' if asked.query else ''}{asked.query}"

    def _backoff_s(self, attempt: int, *, too_much: bool) -> float:
        """Growing, and never twice the same for two who began together; after a 429 the pace knows better."""
        if too_much:
            return 0.0
        longest = min(WAIT_MAX_S, 0.5 * 2.0 ** (attempt - 1))
        return longest * (0.5 + self._clock.jitter() / 2)

    def _unavailable(self, asked: _Asked, why: str) -> TwilioUnavailable:
        return TwilioUnavailable(f"{asked}: {redact(why)} (account {self._caller.account_sid})")

    def _refusal(self, asked: _Asked, answer: _Answer) -> TwilioRefused:
        caller, error = self._caller, _error_in(answer.text)
        number = f"{answer.status}" if error.code is None else f"{answer.status}, error {error.code}"
        if answer.status == 401:
            message = (
                f"{caller.setting}: Twilio does not know these credentials for {caller.account_sid} ({number}: {asked})"
                f". {caller.remedy}"
            )
            return BadCredentials(message, answer.status, error.code)
        if answer.status == 403:
            message = (
                f"{caller.setting}: these credentials do not permit {asked} ({number}) in {caller.account_sid}. "
                "Give the account's auth token, or an API key that may do this"
            )
            return NotPermitted(message, answer.status, error.code)
        if answer.status == 404:
            message = f"{asked}: there is none in {caller.account_sid} ({number}). Is it of another account or region?"
            return NotThere(message, answer.status, error.code)
        says = f": {error.message}" if error.message else ""
        seen = f". See https://www.twilio.com/docs/api/errors/{error.code}" if error.code is not None else ""
        return TwilioRefused(
            f"{asked}: refused by Twilio in {caller.account_sid} ({number}){says}{seen}", answer.status, error.code
        )


class _Asked(NamedTuple):
    """A request as it goes over the wire. As text it tells no query and no body: numbers and tokens travel there."""

    method: str
    host: str
    path: str
    query: str
    body: bytes | None
    headers: dict[str, str]

    @classmethod
    def of(
        cls,
        method: str,
        uri: str,
        params: Mapping[str, object] | None,
        data: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> _Asked:
        parts = urlsplit(uri)
        query = "&".join(part for part in (parts.query, urlencode(params or {}, doseq=True)) if part)
        body: bytes | None = None
        if data:
            as_json = headers.get("Content-Type") == "application/json"
            body = msgspec.json.encode(data) if as_json else urlencode(data, doseq=True).encode()
        return cls(method, parts.netloc, parts.path, query, body, dict(headers))

    def __str__(self) -> str:
        return f"{self.method} {self.host}{redact(self.path)}"


class _Error(msgspec.Struct):
    """What Twilio says of an error; both are missing where somebody else answered."""

    code: int | None = None
    message: str = ""


_NUMBER: Final = re.compile(r"\+?[0-9]{7,}")
_SAID_MAX: Final = 200


def _error_in(text: str) -> _Error:
    try:
        error = msgspec.json.decode(text, type=_Error)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _Error()
    said = _NUMBER.sub("…", redact(error.message[: 4 * _SAID_MAX]))[:_SAID_MAX]
    return _Error(error.code, said if said.isprintable() else repr(said))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)  # As Twilio's package will, which knows no error for what is none.
    except ValueError:
        return False
    return True


def _retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """What ``Retry-After`` asks for: seconds, or a date. https://www.rfc-editor.org/rfc/rfc9110#name-retry-after."""
    said = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", said):
        return float(said)
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def _in_short(failure: Exception) -> str:
    os_error = getattr(failure, "os_error", None)
    return (os_error and os_error.strerror) or type(failure).__name__
