"""A real Prometheus and a real Alertmanager for tests, on loopback ports, and a receiver that keeps what it is told.

``Alerting`` makes them and ends them; `conftest.py` makes a fixture of it. Each server may be stopped, killed, paused
and started again on its data and address. `Exporter` is a real target with metrics that a test writes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import yaml

from tests.broker import ending_with_us, free_ports

WAIT_S: Final = 120.0  # What a starved machine may need; costs time only where something is wrong.
_STOP_TIMEOUT_S: Final = 30.0
_PORT_TAKEN: Final = "address already in use"

Config = Mapping[str, Any]
S = TypeVar("S", "Prometheus", "Alertmanager")


def _program(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def missing_programs() -> str | None:
    """What this machine lacks to run both servers, None where nothing is missing."""
    if _program("prometheus") is None:
        return "no prometheus found"
    if _program(*Alertmanager.PROGRAMS) is None:
        return "no prometheus-alertmanager found"
    return None


# ---- what a receiver is told ----------------------------------------------------------------------------------------


class ReceivedAlert(NamedTuple):
    """One alert of a notification, as the receiver got it; the instants as Alertmanager writes them."""

    status: str  # firing or resolved
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: str
    ends_at: str
    generator_url: str
    fingerprint: str

    @property
    def name(self) -> str:
        """Its alertname."""
        return self.labels["alertname"]


class Notification(NamedTuple):
    """One request of an Alertmanager to a receiver."""

    at: float  # time.time() when it came
    path: str  # where it was sent: the name of the receiver, in the configurations made here
    status: str  # firing while one of its alerts fires
    alerts: tuple[ReceivedAlert, ...]
    body: dict[str, Any]  # all of it: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config

    @property
    def names(self) -> set[str]:
        """The alertnames in it."""
        return {alert.name for alert in self.alerts}


class _Quiet(BaseHTTPRequestHandler):
    """A handler that keeps connections, and keeps its requests to itself."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - The name is the base class's.
        """Say nothing: a test's output is no access log."""

    def answer(self, status: int, body: bytes = b"", content_type: str = "text/plain; charset=utf-8") -> None:
        """Answer with a body that may be empty."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """One that lets go of its connections at the end, whoever still holds the other side."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed in the middle of a request: tests do that."""


class _Listening:
    """An HTTP server of a test on loopback, answering from threads until ``close``."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Receiver(_Listening):
    """Where Alertmanager sends notifications: keeps every one it accepts, in the order in which they came."""

    def __init__(self) -> None:
        self._notifications: list[Notification] = []
        self._changed = threading.Condition()
        self.answer_status = 200
        """What it answers; with 500 it accepts and keeps nothing, and Alertmanager tries again."""
        receiver = self

        class Handler(_Quiet):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = receiver.answer_status
                if status < 300:
                    receiver._take(self.path.lstrip("/"), body)
                self.answer(status)

        super().__init__(Handler)

    def url(self, path: str = "") -> str:
        """The address of one of any number of receivers in this one, told apart by ``path``."""
        return f"http://{self.address}/{path}"

    @property
    def notifications(self) -> list[Notification]:
        """All that came so far."""
        with self._changed:
            return list(self._notifications)

    def alerts(self, path: str | None = None) -> Iterator[tuple[Notification, ReceivedAlert]]:
        """Every alert of every notification so far, in order; ``path``: of those that came there."""
        for notification in self.notifications:
            if path is None or notification.path == path:
                for alert in notification.alerts:
                    yield notification, alert

    def wait_for(
        self, status: str, path: str | None = None, *, since: float = 0.0, for_s: float = WAIT_S, **labels: str
    ) -> ReceivedAlert:
        """Return the first alert with this status and these labels that came after ``since``, waiting for it."""

        def found() -> ReceivedAlert | None:
            for notification, alert in self.alerts(path):
                wanted = alert.status == status and labels.items() <= alert.labels.items()
                if wanted and notification.at > since:
                    return alert
            return None

        ends = time.monotonic() + for_s
        with self._changed:
            while (alert := found()) is None:
                remaining = ends - time.monotonic()
                assert remaining > 0, f"no {status} {labels} came; what came: {self.summary()}"
                self._changed.wait(remaining)
        return alert

    def told_twice(self) -> list[str]:
        """Alerts for which somebody was woken again: a second ``startsAt``, or firing after resolved.

        A reminder (the same alert still firing) is none. By path: what pages one person is not news to another.
        """
        seen: dict[tuple[str, str], tuple[str, bool]] = {}
        twice = []
        for notification, alert in self.alerts():
            key = (notification.path, alert.fingerprint)
            starts_at, resolved = seen.get(key, (alert.starts_at, False))
            if alert.starts_at != starts_at:
                twice.append(f"{notification.path}: {alert.labels} began {starts_at} and again {alert.starts_at}")
            elif resolved and alert.status == "firing":
                twice.append(f"{notification.path}: {alert.labels} fired again after it was resolved")
            seen[key] = (alert.starts_at, alert.status == "resolved")
        return twice

    def summary(self) -> str:
        """What came, a line a notification, for a test that has to say what it saw instead."""
        lines = [
            f"{notification.at:.3f} {notification.path} {notification.status}: "
            + ", ".join(f"{alert.status} {alert.labels}" for alert in notification.alerts[:5])
            for notification in self.notifications
        ]
        return "\n".join(lines) or "nothing"

    def _take(self, path: str, body: dict[str, Any]) -> None:
        alerts = tuple(
            ReceivedAlert(
                status=alert["status"],
                labels=alert["labels"],
                annotations=alert["annotations"],
                starts_at=alert["startsAt"],
                ends_at=alert["endsAt"],
                generator_url=alert["generatorURL"],
                fingerprint=alert["fingerprint"],
            )
            for alert in body["alerts"]
        )
        with self._changed:
            self._notifications.append(Notification(time.time(), path, body["status"], alerts, body))
            self._changed.notify_all()


class Exporter(_Listening):
    """A target for Prometheus: answers with ``metrics``, the text of the exposition format, or not at all."""

    def __init__(self, metrics: str = "") -> None:
        self.metrics: str | Callable[[], str] = metrics
        """A text, or what makes one whenever it is asked for."""
        self.answers = True
        exporter = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                told = exporter.metrics() if callable(exporter.metrics) else exporter.metrics
                if exporter.answers:
                    self.answer(200, told.encode(), "text/plain; version=0.0.4; charset=utf-8")
                else:
                    self.answer(503)

        super().__init__(Handler)


# ---- the servers ----------------------------------------------------------------------------------------------------


class _Process:
    """One server with its data in ``directory``, on a loopback port that it keeps; stopped until ``start``.

    What it says goes to ``directory/<name>.log``.
    """

    PROGRAMS: tuple[str, ...] = ()

    def __init__(self, directory: Path, config: Config, flags: Sequence[str] = ()) -> None:
        self.name = directory.name
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        self.flags = list(flags)
        self._config_file = directory / "config.yml"
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        self.write_config(config)

    @property
    def address(self) -> str:
        """Host and port, the same through every restart; known after the first start."""
        assert self._ports, f"{self.name} has no address before its first start"
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def url(self) -> str:
        """Its address as a URL."""
        return f"http://{self.address}"

    @property
    def running(self) -> bool:
        """Whether the process is there; one that is paused is."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def write_config(self, config: Config) -> None:
        """Replace its configuration; it counts from the next start, or from ``reload``."""
        self._config_file.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")

    def start(self) -> Self:
        """Start and return once it is ready; on data that an earlier start left, go on with it.

        Raises ``RuntimeError`` with the end of its log when it does not come up.
        """
        assert not self.running, f"{self.name} runs already"
        first = not self._ports
        for _ in range(5):
            if first:
                self._ports = free_ports(2)
            try:
                self._launch()
            except RuntimeError as error:
                # Only one that nobody has the address of may go elsewhere.
                if not first or _PORT_TAKEN not in str(error):
                    raise
            else:
                return self
        raise RuntimeError("no free port found in five attempts")

    def stop(self) -> None:
        """Shut down in good order (SIGTERM), by force if that takes long; nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End at once (SIGKILL), as a power failure would; nothing if it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop if it runs, and start on the same data and address."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Let it read its configuration again; raises ``urllib.error.HTTPError`` where it refuses it."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/reload", method="POST"), timeout=30).close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the process still (SIGSTOP): connections stay open and nothing is answered."""
        process = self._process
        assert process is not None, f"{self.name} does not run"
        process.send_signal(signal.SIGSTOP)
        # A busy machine takes its time; WNOWAIT leaves its end to be noticed by whoever waits for that.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)  # Does nothing to one that has ended meanwhile.

    def get(self, path: str, **query: str) -> Any:
        """Ask its API and return the JSON of the answer."""
        question = f"?{urllib.parse.urlencode(query)}" if query else ""
        with urllib.request.urlopen(f"{self.url}{path}{question}", timeout=30) as answer:
            return json.load(answer)

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines it has said, cut to 300 characters each."""
        if not self.log.exists():
            return ""
        return "\n".join(line[:300] for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _launch(self) -> None:
        program = _program(*self.PROGRAMS)
        assert program is not None, f"none of {self.PROGRAMS} is installed"
        with self.log.open("ab") as log:
            begins = log.tell()
            self._process = subprocess.Popen(
                ending_with_us([program, *self._command(), *self.flags]),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is the tests' to handle: they stop what they started.
                start_new_session=True,
            )
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._ready():
                return
            time.sleep(0.02)
        exit_code = self._process.poll()
        self.kill()
        how = "was not ready in time" if exit_code is None else f"ended with exit code {exit_code}"
        said = self.log.read_bytes()[begins:].decode(errors="replace")
        raise RuntimeError(f"{self.name} {how}; the end of {self.log}:\n{said[-4000:]}")

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        # A paused process keeps every signal but SIGKILL until it goes on.
        if self.running:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Alertmanager(_Process):
    """One Alertmanager. What it has told whom survives ``stop``, and ``kill`` up to the second before it.

    With ``peers`` it joins them: they tell each other what they have told, so that a receiver is told once.
    """

    PROGRAMS = ("prometheus-alertmanager", "alertmanager")  # As Debian names it, and as it names itself.

    def __init__(
        self, directory: Path, config: Config, flags: Sequence[str] = (), peers: Iterable[Alertmanager] | None = None
    ) -> None:
        super().__init__(directory, config, flags)
        self._peers = None if peers is None else list(peers)

    @property
    def peer_address(self) -> str:
        """Where its peers find it."""
        return f"127.0.0.1:{self._ports[1]}"

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """What it holds as firing, by its API: those with these labels."""
        held: list[dict[str, Any]] = self.get("/api/v2/alerts")
        return [alert for alert in held if labels.items() <= alert["labels"].items()]

    def post(self, path: str, body: object) -> None:
        """Send JSON to its API: alerts to ``/api/v2/alerts``, a silence to ``/api/v2/silences``.

        Raises ``urllib.error.HTTPError`` where it refuses.
        """
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30):
            pass

    def _command(self) -> list[str]:
        cluster = ["--cluster.listen-address="]
        if self._peers is not None:
            cluster = [
                f"--cluster.listen-address={self.peer_address}",
                f"--cluster.advertise-address={self.peer_address}",
                "--cluster.settle-timeout=2s",
                "--cluster.peer-timeout=8s",
                "--cluster.pushpull-interval=1s",
                "--cluster.reconnect-interval=1s",
                *(f"--cluster.peer={peer.peer_address}" for peer in self._peers),
            ]
        return [
            f"--config.file={self._config_file}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            # By default it writes what it has told once in 15 minutes; a test kills it after seconds.
            "--data.maintenance-interval=1s",
            *cluster,
        ]


class Prometheus(_Process):
    """One Prometheus, which scrapes and evaluates as its configuration says."""

    PROGRAMS = ("prometheus",)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector (or scalar, as one of no labels) of an expression now."""
        data = self.get("/api/v1/query", query=expression)["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Its own pending and firing alerts, by its API: those with these labels."""
        held: list[dict[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return [alert for alert in held if labels.items() <= alert["labels"].items()]

    def _command(self) -> list[str]:
        return [
            f"--config.file={self._config_file}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            # It repeats what fires every minute by default, and lets it lapse after four.
            "--rules.alert.resend-delay=1s",
            "--enable-feature=exemplar-storage",
            "--web.enable-lifecycle",
        ]


# ---- configurations -------------------------------------------------------------------------------------------------


def prometheus_config(
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    alertmanagers: Sequence[str] = (),
    rule_files: Sequence[Path] = (),
    interval: str = "1s",
) -> Config:
    """A configuration that scrapes and evaluates every ``interval``; ``targets`` are addresses by job."""
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
            for job, addresses in (targets or {}).items()
        ],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
    }


def alertmanager_config(receiver: Receiver, *, group_wait: str = "1s", repeat_interval: str = "4h") -> Config:
    """A configuration that sends everything to one receiver, grouped by alertname, soon."""
    return {
        "route": {
            "receiver": "all",
            "group_by": ["alertname"],
            "group_wait": group_wait,
            "group_interval": "1s",
            "repeat_interval": repeat_interval,
        },
        "receivers": [{"name": "all", "webhook_configs": [{"url": receiver.url("all"), "send_resolved": True}]}],
    }


def with_webhooks(config: Config, receiver: Receiver) -> Config:
    """The same configuration, each of its receivers a path of ``receiver`` under its own name.

    Routes, groups, inhibition and who is told of the end stay as they are; what needed a secret is gone.
    """
    return {
        **{key: value for key, value in config.items() if key != "global"},
        "global": {"resolve_timeout": config.get("global", {}).get("resolve_timeout", "5m")},
        "receivers": [_as_webhook(entry, receiver) for entry in config["receivers"]],
    }


def _as_webhook(entry: Mapping[str, Any], receiver: Receiver) -> dict[str, Any]:
    integrations = [integration for key, configs in entry.items() if key != "name" for integration in configs]
    if not integrations:
        return {"name": entry["name"]}
    ends = any(integration.get("send_resolved", True) for integration in integrations)
    webhook = {"url": receiver.url(entry["name"]), "send_resolved": ends}
    return {"name": entry["name"], "webhook_configs": [webhook]}


def quickened(value: Any, spans: Mapping[str, str]) -> Any:
    """The same rules or configuration, with spans of time replaced wherever they stand as a value of their own."""
    if isinstance(value, Mapping):
        return {key: quickened(inner, spans) for key, inner in value.items()}
    if isinstance(value, list):
        return [quickened(inner, spans) for inner in value]
    return spans.get(value, value) if isinstance(value, str) else value


# ---- all of it ------------------------------------------------------------------------------------------------------


class Alerting:
    """Makes servers and receivers of a test's own, and ends them all when it is left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ending = contextlib.ExitStack()
        self.servers: list[Prometheus | Alertmanager] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def receiver(self) -> Receiver:
        """A receiver, listening."""
        made = Receiver()
        self._ending.callback(made.close)
        return made

    def exporter(self, metrics: str = "") -> Exporter:
        """A target, listening."""
        made = Exporter(metrics)
        self._ending.callback(made.close)
        return made

    def alertmanager(
        self, config: Config, *flags: str, peers: Iterable[Alertmanager] | None = None, start: bool = True
    ) -> Alertmanager:
        """An Alertmanager; with ``peers`` (which may be none yet) it is of their cluster."""
        made = Alertmanager(self._place("alertmanager"), config, flags, peers)
        return self._keep(made, start=start)

    def prometheus(self, config: Config, *flags: str, start: bool = True) -> Prometheus:
        """A Prometheus."""
        return self._keep(Prometheus(self._place("prometheus"), config, flags), start=start)

    def _place(self, stem: str) -> Path:
        return self._directory / f"{stem}-{len(self.servers)}"

    def _keep(self, made: S, *, start: bool) -> S:
        self.servers.append(made)
        self._ending.callback(made.kill)
        if start:
            made.start()
        return made
