"""``doctor``: each thing that can be wrong is made wrong, and it names the hop and the remedy."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import (  # What `confluent_kafka.admin` has but does not export.
    AclBinding,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._resource import ResourcePatternType
from confluent_kafka.admin._resource import ResourceType as Kind

from tests.broker import RealBroker, SecureBroker, free_ports, make_certificate, unique_name
from tests.member import account_sid, recording_event
from tests.monitors import Site, program, serving

pytestmark = [pytest.mark.broker, pytest.mark.openssl]

SECRET: Final = "a-password-nobody-may-see"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker that asks for rights, where what no rule is about is free."""
    made = SecureBroker(
        tmp_path_factory.mktemp("guarded"),
        {
            "broker.session.timeout.ms": "60000",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
        },
    )
    made.start()
    yield made
    made.kill()
    made.remove_data()


class Practice:
    """Settings of a monitor, and what doctor says of them."""

    def __init__(self, broker: RealBroker, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.site = Site(broker, directory / "site")
        self.settings = {**self.site.settings, **settings}

    def reach(self, bootstrap: str, client: Mapping[str, str] | None = None) -> None:
        """Have the monitor reach Kafka so."""
        kafka = self.settings["kafka"]
        self.settings["kafka"] = {**kafka, "bootstrap_servers": bootstrap, "client": dict(client or {})}

    def examine(self, code: int) -> dict[str, dict[str, str]]:
        """What it says, by hop; the exit code has to be this one, and no secret is in it."""
        config = self.directory / "monitor.yaml"
        config.write_text(json.dumps(self.settings))
        done = program("doctor", "--format", "json", "--config", str(config), cwd=self.directory)
        assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
        for secret in (SECRET, SecureBroker.PASSWORD):
            assert secret.encode() not in done.stdout + done.stderr
        said = json.loads(done.stdout)
        assert said["exit_code"] == code
        return {hop["name"]: hop for hop in said["hops"]}

    def only(self, part: str, code: int) -> dict[str, str]:
        """The one hop of that name, which is the first that something is wrong with."""
        hops = self.examine(code)
        bad = [name for name, hop in hops.items() if hop["result"] in ("fail", "unreachable")]
        assert part in bad[0], hops
        return hops[bad[0]]


@pytest.fixture
def practice(guarded: SecureBroker, tmp_path: Path) -> Practice:
    made = Practice(guarded, tmp_path)
    password = tmp_path / "password"
    password.write_text(SecureBroker.PASSWORD)
    password.chmod(0o600)
    made.reach(guarded.sasl_bootstrap, guarded.sasl_client(password))
    return made


# --- All is well


def test_where_all_is_well_every_hop_says_so(guarded, practice):
    broker, site = guarded, practice.site
    with answering({"/-/ready": 200, "/api/v2/status": 200, "/twilio/events": 404}) as address:
        practice.settings |= {
            "alertmanagers": [address],
            "ingest": {"public_url": address},
            "snapshots": {"directory": str(practice.directory)},
        }
        with site.start() as monitor:
            monitor.ready(site.partitions)
            fill(broker, site.events, {account_sid(1): recording_event(1)})
            hops = practice.examine(0)
    where = broker.sasl_bootstrap
    # Its certificate is made for two days.
    assert {name for name, hop in hops.items() if hop["result"] not in ("pass", "not asked")} == {f"kafka {where} tls"}
    assert "expires in 2.0 days" in hops[f"kafka {where} tls"]["says"]
    assert hops[f"kafka {where} name"]["says"] == "127.0.0.1"
    for hop in ("kafka login SCRAM-SHA-512", f"topic {site.events}", f"rights on {site.events}"):
        assert hops[hop]["result"] == "pass"
    assert "1 processes" in hops[f"group {site.name}"]["says"]
    for hop in (f"events in {site.events}", f"keys in {site.events}", f"ticks in {site.events}", "clocks"):
        assert hops[hop]["result"] == "pass", hops[hop]
    assert any(name.startswith("alertmanager 127.0.0.1") for name in hops)


def test_people_get_lines_with_a_remedy_below(practice):
    practice.settings["kafka"]["client"]["sasl.password_file"] = str(practice.directory / "not-there")
    config = practice.directory / "monitor.yaml"
    config.write_text(json.dumps(practice.settings))
    done = program("doctor", "--config", str(config), cwd=practice.directory)
    assert done.returncode == 1
    assert b"WRONG      secret kafka.client.sasl.password_file: names a file that cannot be read" in done.stdout
    assert b"             " + str(config).encode() in done.stdout


# --- On the way to Kafka


def test_a_secret_that_cannot_be_read_or_that_everybody_can_is_named_by_its_key(practice):
    password = Path(practice.settings["kafka"]["client"]["sasl.password_file"])
    password.chmod(0o644)
    assert practice.examine(0)["secret kafka.client.sasl.password_file"]["result"] == "warn"
    practice.settings["kafka"]["client"]["sasl.password_file"] = SECRET
    assert practice.only("secret kafka.client.sasl.password_file", 1)["remedy"].startswith(str(practice.directory))


def test_a_name_that_nobody_knows(practice):
    practice.reach("kafka.invalid:9092")
    assert "kafka.invalid has no address" in practice.only("kafka.invalid:9092 name", 3)["says"]


def test_a_port_that_is_closed(practice):
    [port] = free_ports(1)
    practice.reach(f"127.0.0.1:{port}")
    assert practice.only(f"127.0.0.1:{port} port", 3)["says"] == "connection refused"


def test_a_port_behind_which_nothing_answers(practice):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole:
        port = hole.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:  # They fill the queue of those who wait to be let in; the next finds no answer at all.
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        practice.reach(f"127.0.0.1:{port}")
        assert "nothing answers within 5 s" in practice.only(f"127.0.0.1:{port} port", 3)["says"]
        for one in crowd:
            one.close()


def test_a_port_that_takes_a_connection_and_says_nothing(guarded, practice):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        practice.reach(where)
        assert "no broker answers" in practice.only("kafka protocol", 3)["says"]
        practice.reach(where, guarded.tls_client())
        assert "no handshake within 5 s" in practice.only(f"{where} tls", 3)["says"]


def test_an_authority_that_did_not_sign(guarded, practice):
    make_certificate(practice.directory / "other.crt", practice.directory / "other.key")
    practice.settings["kafka"]["client"]["ssl.ca.location"] = str(practice.directory / "other.crt")
    hop = practice.only(f"{guarded.sasl_bootstrap} tls", 1)
    assert (hop["says"], "ssl.ca.location" in hop["remedy"]) == (
        "nobody we trust has signed the broker's certificate",
        True,
    )


@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        ({"expired": True}, "the broker's certificate has expired"),
        ({"name": "DNS:kafka.example.com"}, "the broker's certificate is for another name than 127.0.0.1"),
    ],
)
def test_a_certificate_that_has_expired_or_is_for_another_name(practice, certificate, says):
    crt, key = practice.directory / "server.crt", practice.directory / "server.key"
    make_certificate(crt, key, **certificate)
    with tls_server(crt, key) as where:
        practice.reach(where, {"security.protocol": "SSL", "ssl.ca.location": str(crt)})
        assert practice.only(f"{where} tls", 1)["says"] == says


def test_a_listener_without_tls(guarded, practice):
    practice.reach(guarded.bootstrap, practice.settings["kafka"]["client"])
    assert "no handshake" in practice.only(f"{guarded.bootstrap} tls", 1)["says"]


def test_a_wrong_password_is_told_from_a_mechanism_that_the_broker_does_not_know(practice):
    client = practice.settings["kafka"]["client"]
    Path(client["sasl.password_file"]).write_text(SECRET)
    hop = practice.only("kafka login SCRAM-SHA-512", 1)
    assert hop["says"] == "the broker refuses the user or password"
    client["sasl.mechanisms"] = "SCRAM-SHA-256"
    hop = practice.only("kafka login SCRAM-SHA-256", 1)
    assert "does not know the mechanism SCRAM-SHA-256: it knows" in hop["says"]
    assert "SCRAM-SHA-512" in hop["says"]


def test_a_client_certificate_that_is_missing_or_that_the_broker_does_not_trust(guarded, practice):
    client = guarded.tls_client()
    practice.reach(guarded.tls_bootstrap, client)
    practice.examine(0)
    make_certificate(practice.directory / "mine.crt", practice.directory / "mine.key")
    stranger = {"ssl.certificate.location": "mine.crt", "ssl.key.location": "mine.key"}
    practice.reach(
        guarded.tls_bootstrap, {**client, **{key: str(practice.directory / name) for key, name in stranger.items()}}
    )
    assert practice.only("kafka", 1)["says"] == "the broker refuses our certificate"
    practice.reach(guarded.tls_bootstrap, {key: client[key] for key in ("security.protocol", "ssl.ca.location")})
    assert practice.only("kafka", 1)["says"] == "the broker refuses our certificate"


# --- In the cluster


def test_a_topic_that_is_missing_or_compacted(guarded, practice):
    config = {"cleanup_policy": "compact", "message_timestamp_type": "LogAppendTime"}
    events = guarded.create_topic(unique_name("compacted"), 1, **config)
    practice.settings["topics"] = {**practice.settings["topics"], "events": events, "quarantine": "not-there"}
    hops = practice.examine(1)
    assert "cleanup.policy=delete" in hops[f"topic {events}"]["says"]
    assert "topics apply" in hops["topic not-there"]["says"]


def test_a_right_that_is_missing_is_named_without_trying_it(guarded, practice):
    events, user = practice.site.events, f"User:{SecureBroker.USER}"
    # Whatever one rule is about is no longer free: this one grants reading and nothing else.
    grant(guarded, Kind.TOPIC, events, user, AclOperation.READ)
    hop = practice.only(f"rights on {events}", 1)
    assert hop["says"] == "the user lacks Write, DescribeConfigs"
    assert f"Grant Write, DescribeConfigs on topic {events}" in hop["remedy"]
    grant(guarded, Kind.GROUP, practice.site.name, user, AclOperation.DESCRIBE)
    assert practice.examine(1)[f"group {practice.site.name}"]["says"] == "the user lacks Read"


def test_a_topic_that_is_keyed_by_something_else_leads_to_rekey(guarded, practice):
    events = practice.site.events
    fill(guarded, events, {"conference-1": recording_event(1), "conference-2": recording_event(2)}, spread=True)
    hop = practice.only(f"keys in {events}", 1)
    assert "1 of 1 accounts are in several partitions" in hop["says"]
    assert f"rekey --from {events}" in hop["remedy"]


def test_a_monitor_that_is_not_running_is_a_warning(practice):
    hops = practice.examine(0)
    assert hops[f"group {practice.site.name}"]["result"] == "warn"
    assert hops[f"ticks in {practice.site.events}"]["result"] == "warn"


# --- Ways out, and the disk


def test_an_account_that_twilio_lets_in_refuses_or_does_not_answer_for(practice, twilio):
    account = twilio.account()
    practice.settings |= twilio.settings(practice.directory, account)
    [alias] = [one["alias"] for one in practice.settings["accounts"]]
    name = f"twilio account {alias}"
    assert practice.examine(0)[name]["result"] == "pass"

    twilio.fail("/v1/Sinks", status=403)
    assert practice.only(name, 1)["result"] == "fail"

    twilio.fail("/v1/Sinks", hang=True)
    assert practice.only(name, 3)["remedy"]

    for file in practice.directory.glob("**/*token*"):
        file.write_text("another-token")
    refused = practice.only(name, 1)
    assert "auth_token_file" in refused["says"]
    assert "another-token" not in str(refused)


def test_alertmanagers_that_do_not_answer_let_nobody_in_or_are_something_else(practice):
    [port] = free_ports(1)
    with answering({"/api/v2/status": 401}) as locked, answering({}) as other:
        practice.settings["alertmanagers"] = [f"http://127.0.0.1:{port}", locked, other]
        hops = [hop for name, hop in practice.examine(1).items() if name.startswith("alertmanager ")]
    assert [hop["result"] for hop in hops] == ["unreachable", "fail", "fail"]
    assert "401" in hops[1]["says"]


def test_a_public_address_that_does_not_answer_is_a_warning(practice):
    [port] = free_ports(1)
    practice.settings["ingest"] = {"public_url": f"http://127.0.0.1:{port}"}
    assert practice.examine(0)[f"public address 127.0.0.1:{port}"]["result"] == "warn"
    with answering({"/twilio/events": 502}) as proxy:
        practice.settings["ingest"] = {"public_url": proxy}
        assert "the bridge is not" in practice.examine(0)[f"public address {proxy[7:]}"]["says"]


def test_a_place_that_cannot_be_written_to(practice):
    (practice.directory / "file").write_text("")
    practice.settings["cases"] = {"database": str(practice.directory / "file" / "cases.sqlite3")}
    assert practice.only("cases.database", 1)["remedy"]


# --- What stands there


@contextmanager
def answering(statuses: Mapping[str, int]) -> Iterator[str]:
    """An HTTP server that answers so, and 404 to all else; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as address:
        yield address


@contextmanager
def tls_server(certificate: Path, key: Path) -> Iterator[str]:
    """A port with this certificate; its address. It ends with whoever comes while it is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    plain, _ = listening.accept()
                    with plain:
                        context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    continue

        listening.settimeout(0.2)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def fill(broker: RealBroker, topic: str, messages: Mapping[str, bytes], *, spread: bool = False) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random"})
    for number, (key, value) in enumerate(messages.items()):
        producer.produce(topic, value, key, partition=number if spread else -1)
    assert producer.flush(60) == 0


def grant(broker: RealBroker, kind: Kind, name: str, user: str, operation: AclOperation) -> None:
    rule = AclBinding(kind, name, ResourcePatternType.LITERAL, user, "*", operation, AclPermissionType.ALLOW)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.create_acls([rule]).values():
        future.result(60)
