"""Kafka as it is run: TLS, passwords by SCRAM and PLAIN, client certificates, and secrets that change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.broker import SecureBroker
from tests.ingest_load import judge, steady
from tests.monitors import Site, program, until
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


def test_the_bridge_comes_in_with_a_certificate(secure_broker, tmp_path):
    with bridge(secure_broker, tmp_path, secure_broker.tls_client()) as running:
        assert running.post(posted(dumped(event(1)))) == 200


def test_a_wrong_password_makes_twilio_come_again_and_the_right_one_is_picked_up(secure_broker, tmp_path, password):
    password.write_text("wrong\n")
    with bridge(secure_broker, tmp_path, secure_broker.sasl_client(password)).start_unready() as running:
        assert running.post(posted(dumped(event(1)))) == 503
        assert running.get("/-/ready")[0] == 503
        assert running.metrics()("ingest_kafka_errors_total", kind="authentication") > 0

        password.write_text(f"{SecureBroker.PASSWORD}\n")
        until(lambda: running.post(posted(dumped(event(1)))) == 200, why=running.tail)
        until(lambda: running.get("/-/ready")[0] == 200, why=running.tail)
        assert dumped(event(1)) in running.values()


def test_a_password_changed_under_load_loses_nothing(secure_broker, tmp_path, password, first_password):
    broker = secure_broker
    with bridge(broker, tmp_path, broker.sasl_client(password)) as running:
        with Sender(lambda: running.address, steady(240, 40), threads=4, patience_s=60) as sender:
            until(lambda: len(sender.acknowledged) > 40, why=running.tail)
            broker.change_password("second-password")
            password.write_text("second-password\n")
            until(lambda: running.said("producer_replaced"), why=running.tail)
            seen = len(sender.acknowledged)
            until(lambda: len(sender.acknowledged) > seen + 40, why=running.tail)
        outcome = judge(running, sender)

        assert outcome.acknowledged == 240 * 3
        assert (outcome.lost, outcome.refused) == ([], [])
        assert "second-password" not in running.log.read_text()


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
