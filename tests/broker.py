"""A real Kafka broker for tests: one node, KRaft, on free loopback ports, ready in about two seconds.

Maven fetches the broker's jars once into a cache outside the tree. `conftest.py` makes fixtures of what is here.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import (  # What `confluent_kafka.admin` has but does not export.
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic  # `confluent_kafka.admin` has it too, but does not export it by its types.

KAFKA_VERSION: Final = "4.3.1"  # 4.4.0's artifacts were incomplete.
JAVA_MAJOR_MIN: Final = 17  # What Kafka 4 runs on.

# slf4j-simple: without a binding a broker that can't start dies without a word.
_POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>recording-monitor</groupId>
  <artifactId>broker-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>{{artifact}}</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
_COPY_JARS: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_MAVEN_TIMEOUT_S: Final = 600.0
_START_TIMEOUT_S: Final = 180.0  # Two seconds on an idle machine; a loaded one must not fail a test for being slow.
_STOP_TIMEOUT_S: Final = 60.0
_JVM: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_STARTED: Final = "Kafka Server started"
_PORT_TAKEN: Final = "Address already in use"


def stop_is_an_interrupt() -> None:
    """Let SIGTERM end a program as Ctrl-C does: else brokers, and monitors, would be left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class BrokerUnavailableError(Exception):
    """No real broker can run here; the message says what is missing."""


def java() -> str:
    """Find a Java that is new enough, in ``JAVA_HOME`` or on PATH; raise ``BrokerUnavailableError`` if none is."""
    home = os.environ.get("JAVA_HOME")
    candidate = (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java")
    if candidate is None:
        raise BrokerUnavailableError(f"no java found (a JDK of version {JAVA_MAJOR_MIN} or newer is needed)")
    told = subprocess.run([candidate, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if version is None or int(version[1]) < JAVA_MAJOR_MIN:
        found = f"version {version[1]}" if version else "one that does not tell its version"
        raise BrokerUnavailableError(f"java is {found}; version {JAVA_MAJOR_MIN} or newer is needed")
    return candidate


def jars(artifact: str = "kafka_2.13", name: str = "kafka") -> Path:
    """Return the directory of the jars of one of Kafka's artifacts, fetched by Maven the first time.

    It lies in the user's cache directory, so a clean checkout fetches nothing twice. Any number of processes may call
    this at once: one fetches, the others wait for its lock; a directory under its final name is always whole.
    Raises ``BrokerUnavailableError`` when the jars are not there and can't be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recording-monitor"
    final = cache / f"{name}-{KAFKA_VERSION}"
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}-{KAFKA_VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.is_dir():
            _fetch_jars(final, artifact)
    return final


def _fetch_jars(final: Path, artifact: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerUnavailableError("no mvn found (Maven fetches the broker's jars once)")
    fetched = final.with_name(f"{final.name}.{os.getpid()}.partial")
    shutil.rmtree(fetched, ignore_errors=True)
    fetched.mkdir()
    pom = final.with_name(f"{final.name}.pom.xml")
    pom.write_text(_POM.format(artifact=artifact))
    command = [maven, "-q", "-B", "-f", str(pom), _COPY_JARS, "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MAVEN_TIMEOUT_S)
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if "ERROR" in line] or done.stderr.splitlines() or ["?"]
            raise BrokerUnavailableError(f"mvn could not fetch the broker's jars: {errors[0][:300]}")
        fetched.rename(final)
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailableError(f"mvn did not fetch the broker's jars within {_MAVEN_TIMEOUT_S:.0f} s") from error
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Find loopback ports nobody listens on, outside the range from which the kernel gives ports to clients.

    A port from inside that range may be given away to some connection while its broker is down between ``kill`` and
    ``restart``. Another process may still take one before it is used: the caller has to survive that.
    """
    chooser = random.SystemRandom()
    found: set[int] = set()
    while len(found) < count:
        port = chooser.randrange(15_000, _first_client_port())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def _first_client_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 32_768  # Linux's default.
    return first if first > 16_000 else 65_536  # A kernel set up to use them all leaves us no choice.


# Runs in place of a program for a moment: has the kernel kill it with the thread that started it (prctl's
# PR_SET_PDEATHSIG, SIGKILL), then becomes it. So a test run that is killed leaves nothing behind.
_ENDS_WITH_US: Final = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def ending_with_us(command: list[str]) -> list[str]:
    """The same command, of a process that the kernel kills once this one is gone; its program by its full path."""
    # Not from another thread: the process would end with that one.
    if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
        return [sys.executable, "-I", "-S", "-c", _ENDS_WITH_US, *command]
    return command


def unique_name(stem: str) -> str:
    """Name a topic or a group as nobody else does, in this run or another."""
    return f"{stem}-{uuid.uuid4().hex[:12]}"


def produce(producer: Producer, topic: str, value: bytes | None, key: str | None = None, **more: Any) -> None:
    """Hand over a message; where the client's queue is full, once there is room."""
    while True:
        try:
            producer.produce(topic, value, key, **more)
            return
        except BufferError:
            producer.poll(0.1)


PATIENT: Final = {"broker.session.timeout.ms": "9000", "broker.heartbeat.interval.ms": "2000"}
"""Kafka's own, for who measures: after three seconds without a processor a test's broker is given up."""


class RealBroker:
    """One Kafka node with its data in ``directory``; stopped until ``start``.

    Its heap is 256 MB. ``properties`` are server properties over those of ``_properties`` (``message.max.bytes``,
    ``log.retention.ms``, …). Topics are not created by being used: a misspelt name is an error, as in production.
    Everything it says goes to ``directory/broker.log``, which stays when the data is removed.
    """

    def __init__(self, directory: Path, properties: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory / "broker.log"
        self._extra = dict(properties or {})
        self._data = directory / "data"
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients connect, the same through every restart; ``start`` must have been called once."""
        assert self._ports, "the broker has no address before its first start"
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def running(self) -> bool:
        """Whether the process is there; one that is paused is."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return once clients are served; on data that an earlier start left, go on with it.

        Raises ``BrokerUnavailableError`` when Java or the jars are missing, ``RuntimeError`` with the end of the log
        when the broker does not come up.
        """
        assert not self.running, "the broker runs already"
        first = not self._ports
        for _ in range(5):
            if first:
                self._ports = free_ports(2)
                self._format()
            try:
                self._launch()
            except RuntimeError as error:
                # Only a broker nobody has the address of may go elsewhere.
                if not first or _PORT_TAKEN not in str(error):
                    raise
            else:
                return
        raise RuntimeError("no free port found in five attempts")

    def stop(self) -> None:
        """Shut down in good order (SIGTERM), by force if that takes over a minute; nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End at once (SIGKILL), as a power failure would; nothing if it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop if it runs, and start on the same data and address."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the process still: connections stay open and nothing is answered, as with a broker out of reach."""
        process = self._process
        assert process is not None, "the broker does not run"
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)  # Does nothing to one that has ended meanwhile.

    def create_topic(self, name: str, partitions: int = 1, **config: str | float) -> str:
        """Create a topic and return its name once clients can use it.

        ``config`` are topic settings with underscores for dots: ``cleanup_policy="compact"``. Raises
        ``KafkaException`` when the broker refuses (it exists, a setting is unknown).
        """
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([topic])[name].result(timeout=60)
        # The controller has it; the broker's metadata follow some milliseconds later.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            seen = admin.list_topics(timeout=10).topics.get(name)
            if seen is not None and seen.error is None and len(seen.partitions) == partitions:
                return name
            time.sleep(0.01)
        raise RuntimeError(f"topic {name} was created and did not appear")

    def new_topic(self, stem: str = "topic", partitions: int = 1, **config: str | float) -> str:
        """Create a topic under a name of its own and return that name; otherwise like ``create_topic``."""
        return self.create_topic(unique_name(stem), partitions, **config)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete the messages of a partition before an offset (``OFFSET_END``: all), as a tool or retention would."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        [deleted] = admin.delete_records([TopicPartition(topic, partition, before)]).values()
        deleted.result(30)

    def remove_data(self) -> None:
        """Remove the messages and keep the log; the broker must not run."""
        assert not self.running, "the broker still runs"
        shutil.rmtree(self._data, ignore_errors=True)

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines the broker has said, cut to 300 characters each."""
        if not self.log.exists():
            return ""
        return "\n".join(line[:300] for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def _properties(self) -> dict[str, str]:
        client, controller = self._ports
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._data),
            "auto.create.topics.enable": "false",
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            # A killed broker may register again only when the controller has given it up: 9 s by default. One that gets
            # no processor for so long is given up too, and for a moment its partitions have no leader.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "200",
            # A test waits for its group, not for members that might still come.
            "group.initial.rebalance.delay.ms": "0",
            # Tests of lost members can't wait for production's 6 s and 45 s.
            "group.min.session.timeout.ms": "500",
            "group.consumer.min.session.timeout.ms": "500",
            "group.consumer.min.heartbeat.interval.ms": "100",
            # Small, for a small heap and a small disk; the cleaner's default buffer alone is 128 MB.
            "log.cleaner.dedupe.buffer.size": "2097152",
            "log.index.size.max.bytes": "1048576",
            "num.network.threads": "2",
            "num.io.threads": "2",
            **self._extra,
        }

    def _java(self, name: str, *arguments: str) -> list[str]:
        # The binding writes to stderr; with a time of day its lines can be laid beside those of a test.
        logging = ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
        return [java(), *_JVM, *logging, "-cp", f"{jars()}/*", name, *arguments]

    def _format(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.remove_data()
        config = self.directory / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # With an equals sign: one identifier in 64 begins with a dash.
        command = self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(config))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the broker's storage could not be formatted: {(done.stderr or done.stdout)[-2000:]}")

    def _launch(self) -> None:
        command = ending_with_us(self._java("kafka.Kafka", str(self.directory / "server.properties")))
        with self.log.open("ab") as log:
            begins = log.tell()
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is the tests' to handle: they stop their broker.
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if _STARTED in self._said_since(begins) and self._serves():
                return
            time.sleep(0.02)
        exit_code = self._process.poll()
        self.kill()
        how = "was not ready in time" if exit_code is None else f"ended with exit code {exit_code}"
        raise RuntimeError(f"the broker {how}; the end of {self.log}:\n{self._said_since(begins)[-4000:]}")

    def _said_since(self, position: int) -> str:
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def _serves(self) -> bool:
        try:
            return bool(AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=5).brokers)
        except KafkaException:
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


class SecureBroker(RealBroker):
    """A broker that also listens with TLS: with SCRAM or PLAIN on ``sasl_bootstrap``, and with client certificates
    on ``tls_bootstrap``. Its certificate is made for it and trusted by nobody: clients name ``authority``.

    ``bootstrap`` is as open as any other's, for whoever sets things up. ``USER`` has ``PASSWORD`` until
    ``change_password``; with PLAIN it has that for good.
    """

    USER: Final = "monitor"
    PASSWORD: Final = "first-password"

    def __init__(self, directory: Path, properties: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, properties)
        self._sasl, self._tls = free_ports(2)
        self.authority = directory / "broker.crt"
        self.certificate = directory / "client.crt"
        """That of a client, and the key to it in ``key``."""
        self.key = directory / "client.key"

    @property
    def sasl_bootstrap(self) -> str:
        """Where clients come in with user and password."""
        return f"127.0.0.1:{self._sasl}"

    @property
    def tls_bootstrap(self) -> str:
        """Where clients come in with a certificate."""
        return f"127.0.0.1:{self._tls}"

    def start(self) -> None:
        """Start, and set the password."""
        super().start()
        self.change_password(self.PASSWORD)

    def change_password(self, password: str) -> None:
        """Give ``USER`` another password for SCRAM-SHA-512; who is connected stays so."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(self.USER, info, password.encode())
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result(timeout=60)

    def sasl_client(self, password_file: Path, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """The ``kafka.client`` of somebody who comes in with a password."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority),
            "sasl.mechanisms": mechanism,
            "sasl.username": self.USER,
            "sasl.password_file": str(password_file),
        }

    def tls_client(self) -> dict[str, str]:
        """The ``kafka.client`` of somebody who comes in with a certificate."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.authority),
            "ssl.certificate.location": str(self.certificate),
            "ssl.key.location": str(self.key),
        }

    def _format(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        key = self.directory / "broker.key"
        make_certificate(self.authority, key)
        make_certificate(self.certificate, self.key)
        (self.directory / "broker.pem").write_text(key.read_text() + self.authority.read_text())
        super()._format()

    def _properties(self) -> dict[str, str]:
        given = super()._properties()
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{self.USER}="{self.PASSWORD}";'
        oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
        ours = f"SASL://{self.sasl_bootstrap},TLS://{self.tls_bootstrap}"
        protocols = "SASL:SASL_SSL,TLS:SSL"
        return {
            **given,
            "listeners": f"{given['listeners']},{ours}",
            "advertised.listeners": f"{given['advertised.listeners']},{ours}",
            "listener.security.protocol.map": f"{given['listener.security.protocol.map']},{protocols}",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.directory / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificate),
            "listener.name.tls.ssl.client.auth": "required",
            "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            # It takes tokens that nobody has signed: what is tested is that ours arrive.
            "listener.name.sasl.oauthbearer.sasl.jaas.config": f"{oauth} required;",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl.plain.sasl.jaas.config": plain,
        }


def make_certificate(
    certificate: Path, key: Path, *, name: str = "IP:127.0.0.1", days: int = 2, expired: bool = False
) -> None:
    """Make a certificate that vouches for itself."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "a test that needs openssl is not run without it"
    subject = ["-subj", "/CN=kafka", "-addext", f"subjectAltName={name}", "-days", str(days)]
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *subject, *made], capture_output=True, check=True)
    if expired:
        again = ["-in", str(certificate), "-signkey", str(key), "-days", "-1", "-out", str(certificate)]
        subprocess.run([openssl, "x509", *again], capture_output=True, check=True)
