"""Twilio as the bridge sees it: requests signed by Twilio's own package, sent as Twilio sends them, and sent again.

``Ingest`` is a bridge as a process of its own, as an operator starts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import yaml
from multidict import MultiDict
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # The package has no types.

from tests.broker import RealBroker, free_ports, unique_name
from tests.monitors import PROGRAM, ROOT, Metrics, environment, until
from tests.verify import Message, read_topic

ACCOUNT: Final = "AC" + "a" * 32
OTHER: Final = "AC" + "b" * 32
TOKEN: Final = "0123456789abcdef0123456789abcdef"
OTHER_TOKEN: Final = "fedcba9876543210fedcba9876543210"
PUBLIC: Final = "https://hooks.example.com"
EVENTS: Final = "/twilio/events"
ANSWER_WITHIN_S: Final = 5.0  # What Twilio waits.


class Request(NamedTuple):
    """What is sent: the path with its query, the headers, the body."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    def signed_anew(self, url: str, token: str = TOKEN) -> Request:
        """The same with the signature of another address."""
        signature = RequestValidator(token).compute_signature(url, {})
        return self._replace(headers={**self.headers, "X-Twilio-Signature": signature})


def posted(
    body: bytes, token: str = TOKEN, *, public: str = PUBLIC, path: str = EVENTS, query: str | None = None
) -> Request:
    """A JSON request as Twilio makes it: the hash of the body in the address, and the address signed."""
    query = f"bodySHA256={hashlib.sha256(body).hexdigest()}" if query is None else query
    whole = f"{path}?{query}" if query else path
    headers = {"Content-Type": "application/json", "I-Twilio-Idempotency-Token": "x"}
    return Request(whole, headers, body).signed_anew(public + whole, token)


def posted_form(path: str, form: Mapping[str, str], token: str = TOKEN, *, public: str = PUBLIC) -> Request:
    """A status callback as Twilio makes it: address and sorted parameters signed."""
    signature = RequestValidator(token).compute_signature(public + path, MultiDict(form))
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8", "X-Twilio-Signature": signature}
    return Request(path, headers, urlencode(form).encode())


def asked_form(path: str, form: Mapping[str, str], token: str = TOKEN) -> Request:
    """A status callback by GET, as Twilio makes it: the parameters are in the address, which is signed."""
    whole = f"{path}?{urlencode(form)}"
    return Request(whole, {}, b"", "GET").signed_anew(PUBLIC + whole, token)


def event(number: int, account: str = ACCOUNT, **parameters: str) -> dict[str, Any]:
    """A recording event of Twilio's, different for each number."""
    return {
        "specversion": "1.0",
        "type": "com.twilio.voice.status-callback.recording.processed",
        "source": f"/2010-04-01/Accounts/{account}/Recordings",
        "id": f"VW{number:032x}",
        "time": "2026-11-04T17:01:03.000Z",
        "data": {
            "request": {
                "method": "POST",
                "url": "https://voice.example.com/callbacks/recording",
                "parameters": {
                    "AccountSid": account,
                    "RecordingSid": f"RE{number:032x}",
                    "CallSid": f"CA{number:032x}",
                    "RecordingSource": "StartCallRecordingAPI",
                    "RecordingStatus": "in-progress",
                    "RecordingStartTime": "Wed, 04 Nov 2026 17:00:12 +0000",
                    **parameters,
                },
            }
        },
    }


def dumped(value: object) -> bytes:
    """JSON with spaces of its own: who writes it anew would be found out."""
    return json.dumps(value, indent=1).encode()


class Ingest:
    """One ``ingest`` process, and what its topic holds. Leaving the ``with`` kills what still runs."""

    def __init__(
        self,
        broker: RealBroker,
        directory: Path,
        *,
        partitions: int = 4,
        tokens: Mapping[str, Sequence[str]] | None = None,
        client: Mapping[str, str] | None = None,
        bootstrap: str | None = None,
        topic_config: Mapping[str, str] | None = None,
        **ingest: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.bootstrap = broker.bootstrap
        self.directory = directory
        name = unique_name("ingest")
        self.topic = broker.create_topic(f"{name}.events", partitions, **(topic_config or {}))
        self.settings_topic = broker.create_topic(f"{name}.settings", cleanup_policy="compact")
        accounts = []
        for number, (account, secrets) in enumerate((tokens or {ACCOUNT: [TOKEN]}).items()):
            self.write_tokens(account, secrets)
            accounts.append({"alias": f"a{number}", "sid": account, "auth_token_file": str(self._file(account))})
        self.settings: dict[str, Any] = {
            "kafka": {"bootstrap_servers": bootstrap or self.bootstrap, "client": dict(client or {})},
            "topics": {"events": self.topic, "account_settings": self.settings_topic},
            "accounts": accounts,
            "web": {"listen": "127.0.0.1:0"},
            "ingest": {"listen": f"127.0.0.1:{free_ports(1)[0]}", "public_url": PUBLIC, **ingest},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "ingest.log"
        self._address: tuple[str, str] | None = None
        self._from = 0

    def _file(self, account: str) -> Path:
        return self.directory / f"{account}.token"

    def write_tokens(self, account: str, secrets: Sequence[str]) -> None:
        """Put an account's tokens into its file, as a rotation does: another file in the place of the one before."""
        fresh = self._file(account).with_suffix(".new")
        fresh.write_text("".join(f"{secret}\n" for secret in secrets))
        fresh.replace(self._file(account))

    def start(self) -> Self:
        """Start it, and wait until it is ready; again on the same address."""
        self.start_unready()
        until(lambda: self.get("/-/ready")[0] == 200, why=self.tail)
        return self

    def start_unready(self) -> Self:
        """Start it, and wait until it listens."""
        config = self.directory / "ingest.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        with self.log.open("ab") as out:
            self._from = out.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "ingest", "--config", str(config)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        until(lambda: self.said("bridge_started") or not self.running, why=self.tail)
        assert self.running, self.tail()
        started = self.said("bridge_started")[0]
        self._address = (started["address"], started["metrics"])
        return self

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def address(self) -> str:
        assert self._address is not None, "not started"
        return self._address[0]

    def kill(self) -> None:
        """End it as the kernel does when memory runs out: SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def lines(self) -> list[dict[str, Any]]:
        """What it has said since it was started."""
        found = []
        for line in self.log.read_bytes()[self._from :].splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def said(self, what: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event") == what]

    def tail(self) -> str:
        return "\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def get(self, path: str, *, metrics: bool = True) -> tuple[int, str]:
        """Ask the address of the metrics, or that of the webhooks."""
        assert self._address is not None, "not started"
        return ask(self._address[metrics], "GET", path)

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics")[1])

    def post(self, request: Request) -> int:
        """Send a request on a connection of its own; the status of its answer."""
        return post(self.address, request)

    def messages(self) -> list[Message]:
        """All of the events topic."""
        return read_topic(self.bootstrap, self.topic)

    def values(self) -> list[bytes]:
        """What is in the events topic, in no particular order over partitions."""
        return [message.value or b"" for message in self.messages()]


def ask(
    address: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Send something on a connection of its own; status and text of the answer."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as connection:
        connection.request(method, path, body, dict(headers or {}))
        with connection.getresponse() as answer:
            return answer.status, answer.read().decode()


def post(address: str, request: Request) -> int:
    """Send a request on a connection of its own; the status of its answer."""
    return ask(address, request.method, request.path, request.body or None, request.headers)[0]


class Sender:
    """Twilio under load: requests one after another on several connections, each sent again until it is answered 200.

    It waits as long as Twilio does for an answer, and takes a broken connection for one to be retried, as it does a
    5xx; any other answer is noted in ``refused`` and not sent again, as Twilio throws it away. Twilio waits longer
    from time to time; nobody here has four hours.
    """

    def __init__(
        self,
        address: Callable[[], str],
        requests: Iterable[Request],
        *,
        threads: int = 4,
        again_s: float = 0.25,
        patience_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._address = address
        self._requests = iter(requests)
        self._again_s = again_s
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self.acknowledged: list[Request] = []
        self.refused: list[tuple[int, Request]] = []
        self.again = 0
        self.unanswered = 0
        """How often nothing was said in time."""
        self.seconds: list[float] = []
        """How long each answer took."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        self.wait()

    def wait(self) -> None:
        """Wait until every request has been answered for good."""
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        line = _Line(self._address, self._patience_s)
        with contextlib.closing(line):
            while not self._stop.is_set():
                with self._lock:
                    request = next(self._requests, None)
                if request is None:
                    return
                while not self._stop.is_set() and not self._settled(line, request):
                    self.again += 1
                    time.sleep(self._again_s)

    def _settled(self, line: _Line, request: Request) -> bool:
        """Send it once; whether that was the last time."""
        began = time.monotonic()
        status = None
        try:
            status = line.post(request)
        except TimeoutError:
            self.unanswered += 1
        except (OSError, http.client.HTTPException):
            pass  # Nobody there, or not any more.
        self.seconds.append(time.monotonic() - began)
        if status == 200:
            self.acknowledged.append(request)
        elif status is not None and status < 500 and status != 429:
            self.refused.append((status, request))
        else:
            return False
        return True


class _Line:
    """A connection that is kept, and made anew where it was cut."""

    def __init__(self, address: Callable[[], str], patience_s: float) -> None:
        self._address = address
        self._patience_s = patience_s
        self._connection: http.client.HTTPConnection | None = None

    def post(self, request: Request) -> int:
        """Send a request; the status of its answer. Raises what was in the way."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(urlsplit(self._address()).netloc, timeout=self._patience_s)
        try:
            self._connection.request("POST", request.path, request.body, request.headers)
            answer = self._connection.getresponse()
            answer.read()
        except BaseException:
            self.close()
            raise
        if answer.will_close:
            self.close()
        return answer.status

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
