"""The webhook bridge: what Twilio posts is checked, produced, and answered for once the broker has it.

The answers are for Twilio's retries (https://www.twilio.com/docs/events/event-delivery-and-duplication): 200 ends them,
429 and 5xx make it try again for four hours, any other 4xx makes it throw the event away. So what is in the way here is
always 503; 403 is for what is certainly a forgery, 413 for what can never be taken, and nothing else is ever said to an
event. What an event says is none of our business: bytes that the core can't read it sets aside, with their reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import time
import zlib
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

import structlog
from aiohttp import hdrs, web
from multidict import MultiDict

from monitor.core.decode import account_of
from monitor.core.envelope import FAULTS, decode_raws
from monitor.core.values import sid_of
from monitor.errors import ListenError
from monitor.inputs.callbacks import Called, conference_event, recording_event
from monitor.inputs.relay import IN_A_GO, FullError, Relay
from monitor.inputs.signature import Caller, SecretLines, Signatures, read_form
from monitor.inputs.sink_tests import TEST_EVENT, render_sink_test, sink_test_in
from monitor.settings import Address

EVENTS: Final = "/twilio/events"
RECORDING_STATUS: Final = "/twilio/recording-status"
CONFERENCE_STATUS: Final = "/twilio/conference-status"
CALLBACKS: Final = frozenset({RECORDING_STATUS, CONFERENCE_STATUS})
_METHODS: Final = frozenset({hdrs.METH_POST})
_CALLBACK_METHODS: Final = frozenset({hdrs.METH_POST, hdrs.METH_GET})
"""A callback comes by GET where ``recordingStatusCallbackMethod`` or ``statusCallbackMethod`` says so."""

# Twilio waits 5 s. What the broker has not acknowledged by then may still come to be, and comes again.
ANSWER_WITHIN_S: Final = 4.5
DELIVER_WITHIN_S: Final = 4.0
BODY_WITHIN_S: Final = 2.0
STOP_S: Final = 5.0
FORM_BYTES_MAX: Final = 64 * 1024
# A body larger than this is read only from somebody who has signed its address.
ANYBODY_BYTES_MAX: Final = 64 * 1024
ELEMENTS_MAX: Final = 60_000  # Of one array.
CONNECTIONS_MAX: Final = 1_000
REQUESTS_MAX: Final = 2_000
READING_BYTES_MAX: Final = 64 << 20
KEPT_ALIVE_S: Final = 75.0  # An idle connection, and one that takes so long to ask.
SAY_EVERY_S: Final = 60.0
LINGERING_S: Final = 2.0  # How long the rest of a body is read and thrown away after the answer.

SIGNATURE: Final = "X-Twilio-Signature"

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """What a request comes to: the status it is answered with, and the word for it in metrics."""

    status: int
    outcome: str


ACCEPTED: Final = Answer(200, "accepted")
FORBIDDEN: Final = Answer(403, "forbidden")
UNVERIFIED: Final = Answer(503, "unverified")
CHALLENGED: Final = Answer(401, "challenged")
TOO_LARGE: Final = Answer(413, "too_large")
TOO_SLOW: Final = Answer(503, "too_slow")
BUSY: Final = Answer(503, "busy")
NOT_DELIVERED: Final = Answer(503, "not_delivered")
MISDIRECTED: Final = Answer(503, "misdirected")
NOT_FOUND: Final = Answer(404, "not_found")
FAILED: Final = Answer(503, "failed")
OUTCOMES: Final = tuple(
    answer.outcome
    for answer in (
        *(ACCEPTED, FORBIDDEN, UNVERIFIED, CHALLENGED, TOO_LARGE, TOO_SLOW),
        *(BUSY, NOT_DELIVERED, MISDIRECTED, NOT_FOUND, FAILED),
    )
)


class Watch(Protocol):
    """Who is told how it goes; for metrics."""

    def answered(self, outcome: str) -> None:
        """A request was answered."""

    def produced(self, events: int, seconds: float) -> None:
        """So many events of a request were acknowledged, so long after they were handed over."""

    def signature_failed(self) -> None:
        """A request was not shown to be Twilio's."""

    def signature_valid(self) -> None:
        """A request was shown to be Twilio's."""


class _Sayings:
    """Warnings that anybody can cause as often as they like: each is said once a minute."""

    def __init__(self) -> None:
        self._after: dict[str, float] = {}

    def say(self, event: str, **more: object) -> None:
        """Say it, unless it was just said."""
        now = time.monotonic()
        if now >= self._after.get(event, 0.0):
            self._after[event] = now + SAY_EVERY_S
            log.warning(event, **more)


class _Refused(Exception):
    """A request comes to this, and to nothing more."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.outcome)
        self.answer = answer


class Bridge:
    """The server on one address. ``start`` and ``stop`` belong to the loop it runs on.

    ``settings_topic`` is where a sink test that came is told to whoever asked Twilio for it. ``ready`` is asked for
    ``/-/ready``, ``healthy`` for ``/-/healthy``: a balancer asks the port that it sends to.
    """

    def __init__(
        self,
        listen: Address,
        signatures: Signatures,
        caller: Caller,
        relay: Relay,
        watch: Watch,
        *,
        topic: str,
        settings_topic: str,
        body_max: int,
        credentials: SecretLines | None = None,
        ready: Callable[[], bool] = lambda: True,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self._listen = listen
        self._signatures = signatures
        self._caller = caller
        self._relay = relay
        self._watch = watch
        self._topic = topic
        self._settings_topic = settings_topic
        self._body_max = body_max
        self._credentials = credentials or SecretLines(None)
        self._health = {"/-/ready": ready, "/-/healthy": healthy}
        self._ways: Final[Mapping[str, Callable[[web.BaseRequest, str, str, float], Awaitable[Answer]]]] = {
            EVENTS: self._take_events,
            RECORDING_STATUS: self._take_callback,
            CONFERENCE_STATUS: self._take_callback,
        }
        self._many = asyncio.Lock()
        self._sayings = _Sayings()
        self.requests = 0
        """Requests under way."""
        self._reading = 0
        self._manager: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._addresses: tuple[Address, ...] = ()

    # The server.

    async def start(self) -> None:
        """Listen. Raises ``ListenError``, and then nothing is left behind."""
        loop = asyncio.get_running_loop()
        manager = web.Server(self._handle)
        try:
            self._server = await loop.create_server(
                lambda: _Connection(manager, loop), self._listen.host or None, self._listen.port, reuse_address=True
            )
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
            raise ListenError(f"{self._listen} cannot be listened on: {why}") from None
        self._manager = manager
        names = [listening.getsockname() for listening in self._server.sockets]
        self._addresses = tuple(Address(str(name[0]), int(name[1])) for name in names)
        await self._relay.start()

    async def stop(self, for_s: float = STOP_S) -> None:
        """Listen no more, answer what is under way, and let what is on its way arrive, within ``for_s``."""
        if self._server is not None:
            self._server.close()
            self._server = None
        until = time.monotonic() + for_s
        if self._manager is not None:
            await self._manager.shutdown(for_s)
            self._manager = None
            await self._relay.stop(max(0.0, until - time.monotonic()))

    async def reaches(self, within_s: float) -> bool:
        """Whether a broker answers for the events topic."""
        return await self._relay.reaches(self._topic, within_s)

    @property
    def address(self) -> Address:
        """Where it listens: the first address, with the port that was taken. Only after ``start``."""
        assert self._addresses, "not started"
        return self._addresses[0]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        asked = self._health.get(path)
        if asked is not None:
            return _text(200 if asked() else 503, "ok" if asked() else "not now")
        connection = request.protocol
        assert isinstance(connection, _Connection)
        connection.asking = True
        answer = await self._answer(request, path.removeprefix(self._caller.prefix), query)
        connection.asking = False
        self._watch.answered(answer.outcome)
        response = _text(answer.status, answer.outcome)
        if answer is CHALLENGED:
            response.headers[hdrs.WWW_AUTHENTICATE] = 'Basic realm="Recording Monitor"'
        if answer.status != 200:
            response.force_close()  # Whoever is refused shall not keep a connection.
        return response

    async def _answer(self, request: web.BaseRequest, path: str, query: str) -> Answer:
        take = self._ways.get(path)
        if take is None or request.method not in (_CALLBACK_METHODS if path in CALLBACKS else _METHODS):
            # Whoever misspelt the address in Twilio has four hours to mend it.
            return MISDIRECTED if SIGNATURE in request.headers else NOT_FOUND
        if self.requests >= REQUESTS_MAX:
            return BUSY
        self.requests += 1
        until = asyncio.get_running_loop().time() + ANSWER_WITHIN_S
        try:
            return await take(request, path, query, until)
        except _Refused as refused:
            return refused.answer
        except (ConnectionError, web.RequestPayloadError):
            return TOO_SLOW  # It went away before its end: nobody is there any more to read the answer.
        except Exception:
            log.exception("request_failed")
            return FAILED
        finally:
            self.requests -= 1

    # What is asked for.

    async def _take_events(self, request: web.BaseRequest, path: str, query: str, until: float) -> Answer:
        """Event Streams: an event, or an array of them; each is produced as it stands."""
        urls, signature = self._urls(request, path, query), self._signature(request)
        length = request.content_length
        if length is not None and length > self._body_max:
            return TOO_LARGE
        if (length is None or length > ANYBODY_BYTES_MAX) and not self._signatures.address_signed(urls, signature):
            raise self._failed(None)
        with self._room() as room:
            body = await self._read(request, self._body_max, room)
            signer = self._signatures.signer_of_body(urls, query, body, signature)
            if signer is None:
                raise self._failed(_claimed(body))
            self._expected(request)
            elements = _elements(body)
            if len(elements) > ELEMENTS_MAX:
                return TOO_LARGE
            messages = ((self._topic, account_of(raw) or signer, raw) for raw in elements)
            if len(elements) <= IN_A_GO:
                answer = await self._produce(messages, until)
            else:
                answer = await self._produce_many(messages, until)
            if answer is ACCEPTED and TEST_EVENT in body:
                await self._tell_of_tests(signer, elements, until)
            return answer

    async def _take_callback(self, request: web.BaseRequest, path: str, query: str, until: float) -> Answer:
        """A status callback: parameters, made into the event that Event Streams would have sent."""
        urls, signature = self._urls(request, path, query), self._signature(request)
        asked = request.method == hdrs.METH_GET
        with self._room() as room:
            form = read_form(query.encode() if asked else await self._read(request, FORM_BYTES_MAX, room))
            if not form:
                raise self._failed(None)  # A callback without parameters is nobody's, whatever address was signed.
            # Of a GET the parameters are part of the address, and signed with it.
            signer = self._signatures.signer_of_form(urls, MultiDict() if asked else form, signature)
            if signer is None:
                raise self._failed(form.get("AccountSid"))
            self._expected(request)
            url = urls[0].partition("?")[0] if asked else urls[0]
            called = Called(request.method, url, path, datetime.now(UTC))
            event = recording_event(form, called) if path == RECORDING_STATUS else conference_event(form, called)
            return await self._produce([(self._topic, account_of(event) or signer, event)], until)

    async def _produce(self, messages: Iterable[tuple[str, str, bytes]], until: float) -> Answer:
        given = 0

        def counted() -> Iterator[tuple[str, str, bytes]]:
            nonlocal given
            for message in messages:
                given += 1
                yield message

        began = time.monotonic()
        try:
            delivered = await self._relay.send(counted(), until=until)
        except FullError:
            return BUSY
        if delivered == "acknowledged":
            self._watch.produced(given, time.monotonic() - began)
            return ACCEPTED
        if delivered == "too_large":
            self._sayings.say("event_too_large_for_kafka", topic=self._topic)
            return TOO_LARGE
        self._sayings.say("events_not_delivered", topic=self._topic)
        return NOT_DELIVERED

    async def _produce_many(self, messages: Iterable[tuple[str, str, bytes]], until: float) -> Answer:
        """Produce what takes its time, one request after another: side by side none of them would be done in time."""
        try:
            async with asyncio.timeout_at(until), self._many:
                return await self._produce(messages, until)
        except TimeoutError:
            return BUSY

    async def _tell_of_tests(self, signer: str, elements: Sequence[bytes], until: float) -> None:
        """Say in the topic of account settings, which other processes read, which sink tests have come."""
        now = datetime.now(UTC)
        for test in (sink_test_in(raw, signer, now) for raw in elements):
            if test is None:
                continue
            log.info("sink_test_received", account_sid=test.account_sid, test_id=test.test_id)
            message = (self._settings_topic, *render_sink_test(test))
            # The test itself is in the events topic: what goes wrong here must not make Twilio send it again.
            try:
                if await self._relay.send([message], until=until) != "acknowledged":
                    log.warning("sink_test_not_told", account_sid=test.account_sid)
            except FullError:
                log.warning("sink_test_not_told", account_sid=test.account_sid)

    # Whether it is Twilio.

    def _urls(self, request: web.BaseRequest, path: str, query: str) -> tuple[str, ...]:
        """The addresses of which one was signed: with user and password, where Twilio was given them, or without."""
        origin = self._caller.origin(request.remote, request.headers)
        rest = f"{self._caller.prefix}{path}{'?' if query else ''}{query}"
        scheme, _, host = origin.partition("://")
        return (f"{origin}{rest}", *(f"{scheme}://{user}@{host}{rest}" for user in self._credentials.lines()))

    def _signature(self, request: web.BaseRequest) -> str:
        """The signature, of a request that may be Twilio's. Raises ``_Refused``."""
        if self._credentials.lines() and hdrs.AUTHORIZATION not in request.headers:
            # Twilio asks without them first: https://www.twilio.com/docs/usage/security#http-authentication.
            raise _Refused(CHALLENGED)
        signatures = request.headers.getall(SIGNATURE, ())
        if len(signatures) != 1:
            raise self._failed(None)
        return signatures[0]

    def _failed(self, claimed: str | None) -> _Refused:
        """What to raise for a request that was not signed by anybody we know; ``claimed`` is whose it says it is."""
        self._watch.signature_failed()
        if self._signatures.recently_valid(claimed):
            return _Refused(FORBIDDEN)
        self._sayings.say("signature_not_verified", account_sid=sid_of(claimed, "AC"))
        return _Refused(UNVERIFIED)

    def _expected(self, request: web.BaseRequest) -> None:
        """Raise ``_Refused`` where what was signed does not come from where it should, or with what it should.

        It is Twilio's, so that our settings may be what is wrong: it may come again.
        """
        known = self._credentials.lines()
        if known and not _authorized(request.headers[hdrs.AUTHORIZATION], known):
            what = "credentials"
        elif not self._caller.expected(request.remote, request.headers):
            what = "address"
        else:
            self._watch.signature_valid()
            return
        self._watch.signature_failed()
        self._sayings.say("caller_not_expected", what=what)
        raise _Refused(UNVERIFIED)

    # Bodies.

    @contextlib.contextmanager
    def _room(self) -> Iterator[_Room]:
        """Account for the body of one request, until it has been answered."""
        room = _Room()
        try:
            yield room
        finally:
            self._reading -= room.bytes

    async def _read(self, request: web.BaseRequest, at_most: int, room: _Room) -> bytes:
        """Read a body, and raise ``_Refused`` where it is too large, too slow, or one too many."""
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.content.is_eof():  # All of it came with its headers, as most do: there is nothing to wait for.
            return await self._gather(request, at_most, room)
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                return await self._gather(request, at_most, room)
        except TimeoutError:
            raise _Refused(TOO_SLOW) from None

    async def _gather(self, request: web.BaseRequest, at_most: int, room: _Room) -> bytes:
        """Take in a body as it comes, unpacked, no further than ``at_most``."""
        gzipped = request.headers.get(hdrs.CONTENT_ENCODING, "").lower() == "gzip"
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS) if gzipped else None
        chunks: list[bytes] = []
        async for chunk in request.content.iter_any():
            if inflate is not None:
                try:
                    chunk = inflate.decompress(chunk, at_most + 1 - room.bytes)
                except zlib.error:
                    raise self._failed(None) from None
            room.bytes += len(chunk)
            self._reading += len(chunk)
            if room.bytes > at_most:
                raise _Refused(TOO_LARGE)
            if self._reading > READING_BYTES_MAX:
                raise _Refused(BUSY)
            chunks.append(chunk)
        return b"".join(chunks)


class _Room:
    """What the body of one request takes."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class _Connection(web.RequestHandler):
    """One connection. Where there are too many, the oldest that asks nothing has to go for a new one.

    What is not HTTP gets a bare 400, and no line in the log.
    """

    __slots__ = ("_connections", "asking")

    def __init__(self, manager: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=KEPT_ALIVE_S,
            lingering_time=LINGERING_S,
            access_log=None,  # type: ignore[arg-type]  # None is what it takes for none.
            auto_decompress=False,  # What unpacks without a bound is done here, with one.
        )
        self._connections = manager
        self.asking = False
        """Whether a request of it is being answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take one in."""
        super().connection_made(transport)
        held = self._connections.connections
        if len(held) > CONNECTIONS_MAX:
            oldest = next((one for one in held if isinstance(one, _Connection) and not one.asking), self)
            oldest.asking = True  # It is held until the loop has closed it: it must not be found again.
            oldest.force_close()

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
        response = _text(status, "not HTTP")
        response.force_close()
        return response


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={hdrs.SERVER: "recording-monitor"})


def _elements(body: bytes) -> list[bytes]:
    """The elements of an array, each with its own bytes; anything else is one element, and nothing is none."""
    text = body.strip(b" \t\r\n")
    if not text:
        return []
    if text[:1] == b"[":
        with contextlib.suppress(*FAULTS):
            return [bytes(raw) for raw in decode_raws(text)]
    return [body]


def _claimed(body: bytes) -> str | None:
    """The account that the first element says it is of; of a large body it is not asked."""
    if len(body) > ANYBODY_BYTES_MAX:
        return None
    return next(map(account_of, _elements(body)[:1]), None)


def _authorized(header: str, known: Iterable[str]) -> bool:
    scheme, _, given = header.partition(" ")
    try:
        told = b64decode(given.strip(), validate=True)
    except ValueError:
        return False
    return scheme.lower() == "basic" and any(hmac.compare_digest(told, one.encode()) for one in known)
