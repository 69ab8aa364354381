"""Kafka as it is run: TLS, passwords by SCRAM and PLAIN, client certificates, and secrets that change."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from tests.broker import RealBroker, SecureBroker
from tests.ingest_load import judge, steady
from tests.member import account_sid, recording_event
from tests.monitors import Site, program, serving, until
from tests.test_doctor import fill
from tests.webhooks import Ingest, Sender, dumped, event, posted


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{SecureBroker.PASSWORD}\n")
    return file


@pytest.fixture
def first_password(secure_broker: SecureBroker) -> Iterator[None]:
    """Put the password back that a test has changed."""
    yield
    secure_broker.change_password(SecureBroker.PASSWORD)


def bridge(broker: SecureBroker, directory: Path, client: dict[str, str]) -> Ingest:
    where = broker.tls_bootstrap if client["security.protocol"] == "SSL" else broker.sasl_bootstrap
    return Ingest(broker, directory / "bridge", bootstrap=where, client=client)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_the_bridge_comes_in_with_a_password(secure_broker, tmp_path, password, mechanism):
    with bridge(secure_broker, tmp_path, secure_broker.sasl_client(password, mechanism)) as running:
        assert running.post(posted(dumped(event(1)))) == 200
        assert running.values() == [dumped(event(1))]
        assert SecureBroker.PASSWORD not in running.log.read_text() + running.get("/metrics")[1]


@contextmanager
def token_server() -> Iterator[str]:
    """An OpenID provider that knows one client; the address of its token endpoint."""

    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            known = base64.b64encode(f"{SecureBroker.USER}:{SecureBroker.PASSWORD}".encode()).decode()
            good = self.headers["Authorization"] == f"Basic {known}"
            now = int(time.time())
            token = f"{part({'alg': 'none'})}.{part({'sub': SecureBroker.USER, 'iat': now, 'exp': now + 600})}."
            answer = {"access_token": token, "token_type": "Bearer"} if good else {"error": "invalid_client"}
            body = json.dumps(answer).encode()
            self.send_response(200 if good else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as address:
        yield f"{address}/token"


def oidc_client(broker: SecureBroker, secret_file: Path, endpoint: str) -> dict[str, str]:
    """The ``kafka.client`` of somebody who comes in with a token of an OpenID provider."""
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(broker.authority),
        "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": broker.USER,
        "sasl.oauthbearer.client.secret_file": str(secret_file),
        "sasl.oauthbearer.token.endpoint.url": endpoint,
    }


def test_all_come_in_with_a_token_and_a_wrong_secret_is_explained(secure_broker, tmp_path, password):
    with token_server() as endpoint:
        client = oidc_client(secure_broker, password, endpoint)
        with bridge(secure_broker, tmp_path, client) as running:
            assert running.post(posted(dumped(event(1)))) == 200
            assert SecureBroker.PASSWORD not in running.log.read_text() + running.get("/metrics")[1]
        site = Site(secure_broker, tmp_path / "site")
        kafka = {**site.settings["kafka"], "bootstrap_servers": secure_broker.sasl_bootstrap, "client": client}
        config = tmp_path / "monitor.yaml"
        config.write_text(json.dumps({**site.settings, "kafka": kafka}))
        checked = program("topics", "check", "--config", str(config), cwd=tmp_path)
        assert checked.returncode == 0, checked.stderr
        with site.start(kafka=kafka) as monitor:
            monitor.ready(site.partitions)
            examined = program("doctor", "--config", str(config), cwd=tmp_path)
        assert b"ok         kafka login OAUTHBEARER" in examined.stdout, examined.stdout

        password.write_text("wrong")
        examined = program("doctor", "--config", str(config), cwd=tmp_path)
        assert b"kafka login OAUTHBEARER: the broker refuses the token, or there is none" in examined.stdout


def test_the_bridge_comes_in_with_a_certificate(secure_broker, tmp_path):
    with bridge(secure_broker, tmp_path, secure_broker.tls_client()) as running:
        assert running.post(posted(dumped(event(1)))) == 200


def test_a_wrong_password_makes_twilio_come_again_and_the_right_one_is_picked_up(secure_broker, tmp_path, password):
    password.write_text("wrong\n")
    with bridge(secure_broker, tmp_path, secure_broker.sasl_client(password)).start_unready() as running:
        assert running.post(posted(dumped(event(1)))) == 503
        assert running.get("/-/ready")[0] == 503
        until(lambda: running.metrics()("ingest_kafka_errors_total", kind="authentication") > 0, why=running.tail)

        password.write_text(f"{SecureBroker.PASSWORD}\n")
        until(lambda: running.post(posted(dumped(event(1)))) == 200, why=running.tail)
        until(lambda: running.get("/-/ready")[0] == 200, why=running.tail)
        assert dumped(event(1)) in running.values()


def test_a_password_changed_under_load_loses_nothing(secure_broker, tmp_path, password, first_password):
    broker = secure_broker
    with bridge(broker, tmp_path, broker.sasl_client(password)) as running:
        enough = threading.Event()
        load = itertools.takewhile(lambda _: not enough.is_set(), steady(100_000, 40))
        with Sender(lambda: running.address, load, threads=4, patience_s=60) as sender:
            until(lambda: len(sender.acknowledged) > 40, why=running.tail)
            broker.change_password("second-password")
            password.write_text("second-password\n")
            until(lambda: running.said("producer_replaced"), why=running.tail)
            seen = len(sender.acknowledged)
            until(lambda: len(sender.acknowledged) > seen + 40, why=running.tail)
            enough.set()
        outcome = judge(running, sender)

        assert outcome.acknowledged == len(sender.acknowledged) * 3
        assert (outcome.lost, outcome.refused) == ([], [])
        assert "second-password" not in running.log.read_text()


def test_the_monitor_comes_in_again_with_a_password_changed_under_it(secure_broker, tmp_path, password, first_password):
    site = Site(secure_broker, tmp_path / "site")
    client = secure_broker.sasl_client(password)
    kafka = {**site.settings["kafka"], "bootstrap_servers": secure_broker.sasl_bootstrap, "client": client}
    with site.start(kafka=kafka) as monitor:
        monitor.ready(site.partitions)
        secure_broker.change_password("second-password")
        password.write_text("second-password\n")
        until(lambda: monitor.said("kafka_secret_changed"), why=monitor.tail)
        secure_broker.stop()  # Whoever was in has to come in again.
        RealBroker.start(secure_broker)
        fill(secure_broker, site.events, {account_sid(1): recording_event(1)})
        until(site.verdicts, why=monitor.tail)
        until(lambda: monitor.caught_up() and monitor.get("/-/ready")[0] == 200, why=monitor.tail)
        assert not monitor.said("following_failed")
        # One may have been refused that had not looked at the file yet. A client that never looks is refused for ever.
        refused = monitor.metrics()("kafka_errors_total", kind="authentication")
        time.sleep(4.0)
        assert monitor.metrics()("kafka_errors_total", kind="authentication") == refused
        assert "second-password" not in monitor.log.read_text()


def test_every_other_command_comes_in_the_same_way(secure_broker, tmp_path, password):
    site = Site(secure_broker, tmp_path / "site")
    client = secure_broker.sasl_client(password)
    kafka = {"bootstrap_servers": secure_broker.sasl_bootstrap, "group_id": site.name, "client": client}
    config = tmp_path / "monitor.yaml"
    config.write_text(yaml.safe_dump({**site.settings, "kafka": {**kafka, "start_at": "earliest"}}))

    done = program("topics", "check", "--config", str(config), cwd=tmp_path)
    assert site.events.encode() in done.stdout + done.stderr
    assert done.returncode in (0, 1), done.stderr
    with site.start(client=client, kafka={**site.settings["kafka"], **kafka}) as monitor:
        monitor.ready(site.partitions)
