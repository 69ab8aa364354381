"""A stand-in for Twilio's REST API: a real HTTP server on loopback, with what is in an account kept in memory.

    with TwilioServer() as twilio:
        account = twilio.account()                      # SID, token; twilio.settings(account) for a monitor.yaml
        twilio.put(account.sid, "recordings", {"sid": "RE…", …})
        twilio.fail("/v1/Sinks", status=429, headers={"Retry-After": "1"}, times=2)

Whoever is asked (``events.twilio.com``) stands in the ``Host`` header, as ``twilio.api_url`` leaves it. Every request
it gets and every answer it gives is held against Twilio's own OpenAPI documents; leaving the ``with`` fails with what
did not agree. To add an endpoint, write one function under ``@endpoint``: it is called with the server and the
request, and returns an ``Answer``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from tests.twilio_contract import Contract, pattern_of

CREATED: Final = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
"""When everything was created: the stand-in has no clock."""
PAGE_SIZE: Final = 50


class Account(NamedTuple):
    """An account that the stand-in knows, and its credentials. ``parent`` is None where it has none."""

    sid: str
    token: str
    parent: str | None = None
    status: str = "active"


class Asked(NamedTuple):
    """A request as it came. ``host`` is whom it was for, ``product`` the first part of that (``events``).

    ``account`` is who asks, ``parts`` what the path template names; of a query or form key the last value is in
    ``query`` and ``form``, all values in ``form_lists``.
    """

    method: str
    host: str
    path: str
    account: Account
    parts: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    form: Mapping[str, str] = {}
    form_lists: Mapping[str, list[str]] = {}

    @property
    def product(self) -> str:
        return self.host.partition(".")[0]


class Answer(NamedTuple):
    """What is answered; ``body`` None is none."""

    body: Mapping[str, Any] | None
    status: int = 200


class Refusal(Exception):
    """An answer that is an error, in Twilio's form: https://www.twilio.com/docs/api/errors."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "code": code,
            "message": message,
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        }


class Fault(msgspec.Struct, kw_only=True):
    """What goes wrong ``times`` times (None: always) with requests of which method and path match.

    An answer of ``status`` with ``headers`` and ``body``; or ``hang`` (nothing is answered), ``drip`` (the answer comes
    a byte at a time), ``cut`` (half of the answer, then the connection is gone); ``after`` does what was asked first.
    """

    path: re.Pattern[str]
    method: str | None = None
    times: int | None = 1
    status: int | None = None
    headers: Mapping[str, str] = {}
    body: bytes = b'{"code": 20500, "message": "Internal server error", "more_info": "", "status": 500}'
    hang: bool = False
    drip: bool = False
    cut: bool = False
    after: bool = False


Handler = Callable[["TwilioServer", Asked], Answer]


class _Endpoint(NamedTuple):
    method: str
    product: str
    pattern: re.Pattern[str]
    handler: Handler


_ENDPOINTS: Final[list[_Endpoint]] = []


def endpoint(method: str, product: str, template: str) -> Callable[[Handler], Handler]:
    """Make a function answer a method and a path template of a product: ``"GET", "events", "/v1/Sinks/{Sid}"``."""

    def register(handler: Handler) -> Handler:
        _ENDPOINTS.append(_Endpoint(method, product, pattern_of(template), handler))
        return handler

    return register


class TwilioServer:
    """The stand-in. ``page_max`` bounds every page, whatever the client asks for; ``api_keys`` maps a key's SID to its
    secret and its account.

    ``deliver`` is called with a sink's destination and a test event when a sink test is asked for; without it nobody
    gets one. ``active_first`` refuses subscriptions to sinks that are not validated, as Twilio's documents say;
    ``held=False`` holds nothing against these.
    """

    def __init__(
        self,
        *,
        page_max: int = 1_000,
        deliver: Callable[[str, bytes], object] | None = None,
        active_first: bool = True,
        held: bool = True,
    ) -> None:
        self.contract: Final = Contract.find() if held else None
        self.page_max = page_max
        self.deliver = deliver
        self.active_first = active_first
        self.accounts: dict[str, Account] = {}
        self.api_keys: dict[str, tuple[str, str]] = {}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        """Every request that carried good credentials, in the order of their arrival."""
        self.failed: list[float] = []
        """When those arrived that went wrong, as ``fail`` wanted it."""
        self.breaches: list[str] = []
        """Where a request or an answer did not agree with Twilio's documents."""
        self.between: Callable[[], object] = lambda: None
        """Called after each page of a list that is not the last."""
        self.undocumented: set[str] = set()
        """Values that accounts really show and that Twilio's documents lack: their use is no breach."""
        self.lock: Final = threading.RLock()
        self.stopping: Final = threading.Event()
        self._things: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._number = 0
        self._server = _Listener(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    # What a test does with it.

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        if kind is None and self.breaches:
            raise AssertionError("\n".join(self.breaches))

    @property
    def url(self) -> str:
        """Where it listens: ``twilio.api_url``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def account(self, number: int = 1, *, parent: Account | None = None, status: str = "active") -> Account:
        """Make an account; its SID and token follow from the number."""
        made = Account(f"AC{number:032x}", f"{number:08x}{'c0ffee' * 4}", parent and parent.sid, status)
        self.accounts[made.sid] = made
        return made

    def api_key(self, account: Account, number: int = 1) -> tuple[str, str]:
        """Make an API key of an account: its SID and its secret."""
        sid, secret = f"SK{number:032x}", f"key-secret-{number}"
        self.api_keys[sid] = (secret, account.sid)
        return sid, secret

    def settings(self, directory: Path, *accounts: Account, **more: Any) -> dict[str, Any]:
        """Settings (as of monitor.yaml) that lead here; tokens go into files in ``directory``. ``more`` is laid over
        each account.
        """
        listed = []
        for number, account in enumerate(accounts):
            file = directory / f"{account.sid}.token"
            file.write_text(account.token + "\n")
            listed.append({"alias": f"a{number}", "sid": account.sid, "auth_token_file": str(file), **more})
        return {"accounts": listed, "twilio": {"api_url": self.url, "timeout": "20s"}}

    def fail(self, path: str, **fault: Any) -> None:
        """Let requests fail whose path matches this pattern, the next one if nothing else is said; see ``Fault``."""
        with self.lock:
            self.faults.append(Fault(path=re.compile(path), **fault))

    def paths(self, method: str | None = None) -> list[str]:
        """What was asked, as ``GET /v1/Sinks``."""
        return [f"{asked.method} {asked.path}" for asked in self.asked if method in (None, asked.method)]

    @property
    def changes(self) -> list[str]:
        """What was asked that changes something."""
        return [line for line in self.paths() if not line.startswith("GET ")]

    # What endpoints do with it.

    def things(self, account: str, kind: str) -> dict[str, dict[str, Any]]:
        """What an account has of a kind (``sinks``), by SID or whatever else tells one from the other."""
        return self._things.setdefault((account, kind), {})

    def put(self, account: str, kind: str, thing: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """Keep something in an account, under its SID if nothing else is said."""
        with self.lock:
            self.things(account, kind)[key or str(thing["sid"])] = thing
        return thing

    def get(self, account: str, kind: str, key: str) -> dict[str, Any]:
        """One thing, or Twilio's 404."""
        found = self.things(account, kind).get(key)
        if found is None:
            raise Refusal(404, 20404, f"The requested resource {key} was not found")
        return found

    def new_sid(self, prefix: str) -> str:
        """A SID that nothing has yet."""
        with self.lock:
            self._number += 1
            return f"{prefix}{self._number:032x}"

    # How a request is answered.

    def who(self, authorization: str) -> Account:
        """Who asks, by their credentials; or Twilio's 401."""
        with contextlib.suppress(ValueError):
            name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            if name in self.api_keys and self.api_keys[name][0] == secret:
                return self.accounts[self.api_keys[name][1]]
            if name in self.accounts and self.accounts[name].token == secret:
                return self.accounts[name]
        raise Refusal(401, 20003, "Authenticate")

    def fault_for(self, method: str, path: str) -> Fault | None:
        """What goes wrong with this request, if anything; counts it."""
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and fault.method in (None, method) and fault.path.fullmatch(path):
                    fault.times = None if fault.times is None else fault.times - 1
                    self.failed.append(time.monotonic())
                    return fault
        return None

    def answer(self, method: str, target: str, host: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for a request."""
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        form = parse_qs(body.decode(), keep_blank_values=True)
        product = host.partition(".")[0]
        try:
            with self.lock:
                asked = Asked(method, host, parts.path, self.who(authorization))
                self._hold("request", "check_request", product, method, parts.path, query, form)
                for known in _ENDPOINTS:
                    matched = known.pattern.fullmatch(parts.path)
                    if matched and (known.method, known.product) == (method, product):
                        asked = asked._replace(
                            parts=matched.groupdict(),
                            query={key: values[-1] for key, values in query.items()},
                            form={key: values[-1] for key, values in form.items()},
                            form_lists=form,
                        )
                        self.asked.append(asked)
                        answer = known.handler(self, asked)
                        self._hold("answer", "check_answer", product, method, parts.path, answer.status, answer.body)
                        return answer.status, b"" if answer.body is None else json.dumps(answer.body).encode()
                self.breaches.append(f"{product} {method} {parts.path}: the stand-in has no such endpoint")
                raise Refusal(404, 20404, f"The requested resource {parts.path} was not found")
        except Refusal as refusal:
            return refusal.status, json.dumps(refusal.body).encode()

    def _hold(self, what: str, check: str, *given: Any) -> None:
        if self.contract is not None:
            found = getattr(self.contract, check)(*given)
            excused = [f" is {value!r}, which is none of " for value in self.undocumented]
            self.breaches += [f"{what}: {line}" for line in found if not any(text in line for text in excused)]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], twilio: TwilioServer) -> None:
        self.twilio = twilio
        super().__init__(address, _Connection)

    def handle_error(self, *_: object) -> None:
        """Whoever hangs up on us does what a test is about."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, *_: object) -> None:
        pass

    def _take(self) -> None:
        twilio, target = self.server.twilio, self.path
        host = self.headers["Host"]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        given = (self.command, target, host, self.headers.get("Authorization", ""), body)
        fault = twilio.fault_for(self.command, urlsplit(target).path)
        if fault is None:
            self._send(*twilio.answer(*given))
            return
        if fault.after:
            twilio.answer(*given)
        if fault.hang:
            twilio.stopping.wait(60)
            self.close_connection = True
        elif fault.status is not None:
            self._send(fault.status, fault.body, fault.headers)
        else:
            status, whole = twilio.answer(*given)
            self._spoil(status, whole, drip=fault.drip)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def _spoil(self, status: int, body: bytes, *, drip: bool) -> None:
        """Half of an answer; or all of it, more slowly than anybody waits."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.close_connection = True
        if not drip:
            self.wfile.write(body[: len(body) // 2])
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.twilio.stopping.wait(0.05):
                return

    do_GET = do_POST = do_DELETE = _take  # noqa: N815 - http.server looks for these names.


# --- What endpoints have in common -------------------------------------------------------------------------------


def iso(instant: datetime = CREATED) -> str:
    """An instant as the newer APIs write it."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc2822(instant: datetime = CREATED) -> str:
    """An instant as the oldest API writes it."""
    return format_datetime(instant)


def page(server: TwilioServer, asked: Asked, key: str, things: Iterable[Mapping[str, Any]]) -> Answer:
    """One page of a list, in the form of the API that was asked: https://www.twilio.com/docs/usage/twilios-response."""
    whole = things if isinstance(things, Sequence) else list(things)
    size = min(int(asked.query.get("PageSize", PAGE_SIZE)), server.page_max)
    number = int(asked.query.get("Page", 0))
    assert number == 0 or asked.query.get("PageToken"), "a page beyond the first is named by its token"
    there = whole[number * size : (number + 1) * size]

    def address(of: int) -> str:
        kept = {name: value for name, value in asked.query.items() if name not in ("Page", "PageToken", "PageSize")}
        turned = {"PageToken": f"PA{of}"} if of else {}
        return f"{asked.path}?{urlencode({**kept, 'PageSize': size, 'Page': of, **turned})}"

    following = address(number + 1) if (number + 1) * size < len(whole) else None
    if following:
        server.between()
    before = address(number - 1) if number else None
    if asked.product == "api":
        start = number * size
        listed = {"first_page_uri": address(0), "next_page_uri": following, "previous_page_uri": before}
        counted = {"uri": address(number), "page": number, "page_size": size, "start": start}
        return Answer({**listed, **counted, "end": start + max(len(there) - 1, 0), key: there})
    base = f"https://{asked.host}"
    meta = {
        "first_page_url": base + address(0),
        "key": key,
        "next_page_url": following and base + following,
        "page": number,
        "page_size": size,
        "previous_page_url": before and base + before,
        "url": base + address(number),
    }
    return Answer({key: there, "meta": meta})


# --- Accounts ----------------------------------------------------------------------------------------------------


@endpoint("GET", "api", "/2010-04-01/Accounts.json")
def list_accounts(server: TwilioServer, asked: Asked) -> Answer:
    family = [each for each in server.accounts.values() if asked.account.sid in (each.sid, each.parent)]
    return page(
        server,
        asked,
        "accounts",
        [_account(each) for each in family if asked.query.get("Status", each.status) == each.status],
    )


def _account(account: Account) -> dict[str, Any]:
    return {
        "sid": account.sid,
        "auth_token": account.token,
        "owner_account_sid": account.parent or account.sid,
        "friendly_name": "Example",
        "status": account.status,
        "type": "Full",
        "date_created": rfc2822(),
        "date_updated": rfc2822(),
        "subresource_uris": {},
        "uri": f"/2010-04-01/Accounts/{account.sid}.json",
    }


# --- Event Streams: sinks and subscriptions ----------------------------------------------------------------------


@endpoint("GET", "events", "/v1/Types")
def list_event_types(server: TwilioServer, asked: Asked) -> Answer:
    """What was put under ``event-types``, as the names alone; without any, nothing is said of what is offered."""
    names = server.things(asked.account.sid, "event-types")
    return page(server, asked, "types", [{"type": name, "status": "available"} for name in names])


@endpoint("GET", "events", "/v1/Sinks")
def list_sinks(server: TwilioServer, asked: Asked) -> Answer:
    return page(server, asked, "sinks", server.things(asked.account.sid, "sinks").values())


@endpoint("POST", "events", "/v1/Sinks")
def create_sink(server: TwilioServer, asked: Asked) -> Answer:
    if len(server.things(asked.account.sid, "sinks")) >= 100:
        raise Refusal(400, 20001, "The account has as many sinks as it may have")
    form, configuration = asked.form, json.loads(asked.form["SinkConfiguration"])
    return Answer(new_sink(server, asked.account, configuration, form["Description"], kind=form["SinkType"]), 201)


@endpoint("GET", "events", "/v1/Sinks/{Sid}")
def fetch_sink(server: TwilioServer, asked: Asked) -> Answer:
    return Answer(server.get(asked.account.sid, "sinks", asked.parts["Sid"]))


@endpoint("DELETE", "events", "/v1/Sinks/{Sid}")
def delete_sink(server: TwilioServer, asked: Asked) -> Answer:
    sid = server.get(asked.account.sid, "sinks", asked.parts["Sid"])["sid"]
    if any(each["sink_sid"] == sid for each in server.things(asked.account.sid, "subscriptions").values()):
        raise Refusal(400, 20001, "The sink is in use by a subscription")
    del server.things(asked.account.sid, "sinks")[sid]
    return Answer(None, 204)


@endpoint("POST", "events", "/v1/Sinks/{Sid}/Test")
def test_sink(server: TwilioServer, asked: Asked) -> Answer:
    sink = server.get(asked.account.sid, "sinks", asked.parts["Sid"])
    test_id = f"00000000-0000-4000-8000-{len(server.asked):012d}"
    server.put(asked.account.sid, "sink-tests", {"test_id": test_id}, key=sink["sid"])
    sink["status"] = "validating"
    if server.deliver is not None:
        event = {
            "specversion": "1.0",
            "type": "com.twilio.eventstreams.test-event",
            "source": "Sink",
            "id": asked.account.sid,
            "dataschema": "https://events-schemas.twilio.com/EventStreams.TestSink/1.json",
            "datacontenttype": "application/json",
            "time": iso(),
            "data": {"test_id": test_id},
        }
        server.deliver(sink["sink_configuration"]["destination"], json.dumps([event]).encode())
    return Answer({"result": "submitted"}, 201)


@endpoint("POST", "events", "/v1/Sinks/{Sid}/Validate")
def validate_sink(server: TwilioServer, asked: Asked) -> Answer:
    sink = server.get(asked.account.sid, "sinks", asked.parts["Sid"])
    sent = server.things(asked.account.sid, "sink-tests").get(sink["sid"], {}).get("test_id")
    sink["status"] = "active" if asked.form["TestId"] == sent else "failed"
    return Answer({"result": "valid" if sink["status"] == "active" else "invalid"}, 201)


@endpoint("GET", "events", "/v1/Subscriptions")
def list_subscriptions(server: TwilioServer, asked: Asked) -> Answer:
    there = server.things(asked.account.sid, "subscriptions").values()
    sink = asked.query.get("SinkSid")
    return page(server, asked, "subscriptions", [each for each in there if sink in (None, each["sink_sid"])])


@endpoint("POST", "events", "/v1/Subscriptions")
def create_subscription(server: TwilioServer, asked: Asked) -> Answer:
    sink = server.get(asked.account.sid, "sinks", asked.form["SinkSid"])
    there = server.things(asked.account.sid, "subscriptions").values()
    if server.active_first and sink["status"] != "active":
        raise Refusal(400, 20001, "The sink is not active")
    if any(each["sink_sid"] == sink["sid"] for each in there):
        raise Refusal(409, 20409, "The sink has a subscription already")
    types = {each["type"]: each.get("schema_version", 1) for each in map(json.loads, asked.form_lists["Types"])}
    return Answer(new_subscription(server, asked.account, sink["sid"], types, asked.form["Description"]), 201)


@endpoint("DELETE", "events", "/v1/Subscriptions/{Sid}")
def delete_subscription(server: TwilioServer, asked: Asked) -> Answer:
    server.get(asked.account.sid, "subscriptions", asked.parts["Sid"])
    del server.things(asked.account.sid, "subscriptions")[asked.parts["Sid"]]
    return Answer(None, 204)


@endpoint("GET", "events", "/v1/Subscriptions/{Sid}/SubscribedEvents")
def list_subscribed_events(server: TwilioServer, asked: Asked) -> Answer:
    subscription = server.get(asked.account.sid, "subscriptions", asked.parts["Sid"])["sid"]
    there = server.things(asked.account.sid, f"types of {subscription}").values()
    return page(server, asked, "types", there)


@endpoint("POST", "events", "/v1/Subscriptions/{Sid}/SubscribedEvents")
def create_subscribed_event(server: TwilioServer, asked: Asked) -> Answer:
    subscription = server.get(asked.account.sid, "subscriptions", asked.parts["Sid"])["sid"]
    if asked.form["Type"] in server.things(asked.account.sid, f"types of {subscription}"):
        raise Refusal(409, 20409, "The type is subscribed already")
    version = int(asked.form.get("SchemaVersion", 1))
    return Answer(_subscribed(server, asked.account, subscription, asked.form["Type"], version), 201)


@endpoint("POST", "events", "/v1/Subscriptions/{Sid}/SubscribedEvents/{Type}")
def update_subscribed_event(server: TwilioServer, asked: Asked) -> Answer:
    found = server.get(asked.account.sid, f"types of {asked.parts['Sid']}", asked.parts["Type"])
    found["schema_version"] = int(asked.form["SchemaVersion"])
    return Answer(found)


@endpoint("DELETE", "events", "/v1/Subscriptions/{Sid}/SubscribedEvents/{Type}")
def delete_subscribed_event(server: TwilioServer, asked: Asked) -> Answer:
    server.get(asked.account.sid, f"types of {asked.parts['Sid']}", asked.parts["Type"])
    del server.things(asked.account.sid, f"types of {asked.parts['Sid']}")[asked.parts["Type"]]
    return Answer(None, 204)


def new_sink(
    server: TwilioServer,
    account: Account,
    configuration: Mapping[str, Any],
    description: str = "Somebody's",
    *,
    status: str = "initialized",
    kind: str = "webhook",
) -> dict[str, Any]:
    """Put a sink into an account."""
    sid = server.new_sid("DG")
    url = f"https://events.twilio.com/v1/Sinks/{sid}"
    sink = {
        "sid": sid,
        "description": description,
        "sink_type": kind,
        "sink_configuration": dict(configuration),
        "status": status,
        "date_created": iso(),
        "date_updated": iso(),
        "url": url,
        "links": {"sink_test": f"{url}/Test", "sink_validate": f"{url}/Validate"},
    }
    return server.put(account.sid, "sinks", sink)


def new_subscription(
    server: TwilioServer, account: Account, sink_sid: str, types: Mapping[str, int], description: str = "Somebody's"
) -> dict[str, Any]:
    """Put a subscription into an account: types with their schema versions."""
    sid = server.new_sid("DF")
    url = f"https://events.twilio.com/v1/Subscriptions/{sid}"
    subscription = {
        "sid": sid,
        "account_sid": account.sid,
        "sink_sid": sink_sid,
        "description": description,
        "date_created": iso(),
        "date_updated": iso(),
        "url": url,
        "links": {"subscribed_events": f"{url}/SubscribedEvents"},
    }
    for name, version in types.items():
        _subscribed(server, account, sid, name, version)
    return server.put(account.sid, "subscriptions", subscription)


def _subscribed(server: TwilioServer, account: Account, subscription: str, name: str, version: int) -> dict[str, Any]:
    event = {
        "type": name,
        "schema_version": version,
        "account_sid": account.sid,
        "subscription_sid": subscription,
        "url": f"https://events.twilio.com/v1/Subscriptions/{subscription}/SubscribedEvents/{name}",
    }
    return server.put(account.sid, f"types of {subscription}", event, key=name)


# --- What an account is set up to do -----------------------------------------------------------------------------


@endpoint("GET", "flex-api", "/v1/Configuration")
def fetch_flex_configuration(server: TwilioServer, asked: Asked) -> Answer:
    return Answer(server.get(asked.account.sid, "flex", "configuration"))


@endpoint("GET", "studio", "/v2/Flows")
def list_flows(server: TwilioServer, asked: Asked) -> Answer:
    """A list has no definitions, as Twilio's documents show it."""
    listed = server.things(asked.account.sid, "flows").values()
    return page(server, asked, "flows", [{**flow, "definition": None} for flow in listed])


@endpoint("GET", "studio", "/v2/Flows/{Sid}/Revisions/{Revision}")
def fetch_flow_revision(server: TwilioServer, asked: Asked) -> Answer:
    sid, wanted = asked.parts["Sid"], asked.parts["Revision"]
    server.get(asked.account.sid, "flows", sid)
    revisions = list(server.things(asked.account.sid, f"revisions of {sid}").values())
    if wanted == "LatestPublished":
        revisions = [each for each in revisions if each["status"] == "published"]
    elif wanted != "LatestRevision":
        revisions = [each for each in revisions if str(each["revision"]) == wanted]
    if not revisions:
        raise Refusal(404, 20404, f"The requested resource {wanted} was not found")
    return Answer(revisions[-1])


@endpoint("GET", "trunking", "/v1/Trunks")
def list_trunks(server: TwilioServer, asked: Asked) -> Answer:
    return page(server, asked, "trunks", server.things(asked.account.sid, "trunks").values())


@endpoint("GET", "trunking", "/v1/Trunks/{TrunkSid}/Recording")
def fetch_trunk_recording(server: TwilioServer, asked: Asked) -> Answer:
    return Answer(server.get(asked.account.sid, "trunks", asked.parts["TrunkSid"])["recording"])


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/IncomingPhoneNumbers.json")
def list_numbers(server: TwilioServer, asked: Asked) -> Answer:
    there = server.things(asked.account.sid, "numbers").values()
    return page(server, asked, "incoming_phone_numbers", there)


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Applications.json")
def list_applications(server: TwilioServer, asked: Asked) -> Answer:
    return page(server, asked, "applications", server.things(asked.account.sid, "applications").values())


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/SIP/Domains.json")
def list_sip_domains(server: TwilioServer, asked: Asked) -> Answer:
    return page(server, asked, "domains", server.things(asked.account.sid, "domains").values())


@endpoint("GET", "taskrouter", "/v1/Workspaces")
def list_workspaces(server: TwilioServer, asked: Asked) -> Answer:
    return page(server, asked, "workspaces", server.things(asked.account.sid, "workspaces").values())


@endpoint("GET", "taskrouter", "/v1/Workspaces/{WorkspaceSid}/Workers")
def list_workers(server: TwilioServer, asked: Asked) -> Answer:
    workspace = server.get(asked.account.sid, "workspaces", asked.parts["WorkspaceSid"])["sid"]
    workers = server.things(asked.account.sid, "workers").values()
    return page(server, asked, "workers", [each for each in workers if each["workspace_sid"] == workspace])


def set_flex(
    server: TwilioServer,
    account: Account,
    *,
    recording: bool | None,
    callback_url: str | None = None,
    updated: datetime | None = CREATED,
    offline_activity: str | None = None,
) -> None:
    """Give an account a Flex configuration, or change it."""
    configuration = {
        "account_sid": account.sid,
        "date_created": iso(),
        "date_updated": updated and iso(updated),
        "status": "ok",
        "taskrouter_offline_activity_sid": offline_activity,
        "call_recording_enabled": recording,
        "call_recording_webhook_url": callback_url,
        "url": "https://flex-api.twilio.com/v1/Configuration",
    }
    server.put(account.sid, "flex", configuration, key="configuration")


def set_flow(
    server: TwilioServer,
    account: Account,
    sid: str,
    states: Iterable[Mapping[str, Any]],
    *,
    status: str = "published",
) -> int:
    """Save a flow: its next revision, which is returned."""
    revisions = server.things(account.sid, f"revisions of {sid}")
    revision = len(revisions) + 1
    url = f"https://studio.twilio.com/v2/Flows/{sid}"
    saved = {
        "sid": sid,
        "account_sid": account.sid,
        "friendly_name": "Example",
        "definition": {"states": list(states), "initial_state": "Trigger", "flags": {"allow_concurrent_calls": True}},
        "status": status,
        "revision": revision,
        "valid": True,
        "errors": [],
        "date_created": iso(),
        "date_updated": iso(),
        "url": f"{url}/Revisions/{revision}",
    }
    server.put(account.sid, f"revisions of {sid}", saved, key=str(revision))
    server.put(account.sid, "flows", {**saved, "url": url, "warnings": [], "links": {"revisions": f"{url}/Revisions"}})
    return revision


def set_trunk(server: TwilioServer, account: Account, sid: str, mode: str) -> None:
    """Give an account a SIP trunk with this recording mode."""
    url = f"https://trunking.twilio.com/v1/Trunks/{sid}"
    recording = {"mode": mode, "trim": "do-not-trim"}
    trunk = {"sid": sid, "account_sid": account.sid, "friendly_name": "Example", "recording": recording, "url": url}
    server.put(account.sid, "trunks", trunk)


def set_number(server: TwilioServer, account: Account, sid: str, number: str, **more: Any) -> None:
    """Give an account a telephone number; ``more`` says where it leads: ``voice_url``, ``trunk_sid``, …."""
    listed = {"sid": sid, "account_sid": account.sid, "phone_number": number, "friendly_name": number}
    server.put(account.sid, "numbers", {**listed, "voice_receive_mode": "voice", "date_created": rfc2822(), **more})


def set_line(server: TwilioServer, account: Account, kind: str, sid: str, voice_url: str) -> None:
    """Give an account one of the ``applications`` or of the SIP ``domains``."""
    server.put(account.sid, kind, {"sid": sid, "account_sid": account.sid, "voice_url": voice_url})


def set_worker(
    server: TwilioServer, account: Account, sid: str, *, online: bool, changed: datetime, activity: str | None = None
) -> None:
    """Give an account a TaskRouter worker, in its one workspace; or change its activity."""
    workspace = f"WS{account.sid[2:]}"
    url = f"https://taskrouter.twilio.com/v1/Workspaces/{workspace}"
    server.put(account.sid, "workspaces", {"sid": workspace, "account_sid": account.sid, "url": url})
    worker = {
        "sid": sid,
        "account_sid": account.sid,
        "workspace_sid": workspace,
        "friendly_name": "Example",
        "activity_name": activity or ("Available" if online else "Offline"),
        "activity_sid": f"WA{int(online):032x}",
        "available": online,
        "attributes": "{}",
        "date_created": iso(),
        "date_status_changed": iso(changed),
        "date_updated": iso(changed),
        "url": f"{url}/Workers/{sid}",
    }
    server.put(account.sid, "workers", worker)
