"""Brokers for histories that mistreat them: one behind a bad network, and three of which each may fail."""

from __future__ import annotations

import base64
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import RealBroker, free_ports
from tests.fault_proxy import FaultProxy

_READY_S: Final = 90.0


class ProxiedBroker(RealBroker):
    """A broker with a second listener, which it advertises as its proxy's address: clients there pass the proxy.

    ``bootstrap`` is the direct way, for whoever must not be disturbed; ``proxy.address`` the other.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.proxy = FaultProxy()
        [self._behind] = free_ports(1)
        self.proxy.target = ("127.0.0.1", self._behind)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.proxy.close()
        self.kill()
        self.remove_data()

    def _properties(self) -> dict[str, str]:
        given = super()._properties()
        return {
            **given,
            "listeners": f"{given['listeners']},PROXIED://127.0.0.1:{self._behind}",
            "advertised.listeners": f"{given['advertised.listeners']},PROXIED://{self.proxy.address}",
            "listener.security.protocol.map": f"{given['listener.security.protocol.map']},PROXIED:PLAINTEXT",
        }


class _Node(RealBroker):
    """One of several brokers, each of them a controller as well: it is not ready before most of the others are."""

    def __init__(self, directory: Path, number: int, ports: list[tuple[int, int]], cluster: str) -> None:
        super().__init__(directory)
        self._number = number
        self._all = ports
        self._cluster = cluster
        self._ports = list(ports[number])

    def format(self) -> None:
        """Make its directory a member of the cluster's."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        command = self._java("kafka.tools.StorageTool", "format", f"--cluster-id={self._cluster}", "-c", str(config))
        subprocess.run(command, capture_output=True, check=True)

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        command = self._java("kafka.Kafka", str(self.directory / "server.properties"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _properties(self) -> dict[str, str]:
        voters = ",".join(f"{n + 1}@127.0.0.1:{controller}" for n, (_, controller) in enumerate(self._all))
        copies = dict.fromkeys(
            (
                "default.replication.factor",
                "offsets.topic.replication.factor",
                "transaction.state.log.replication.factor",
                "share.coordinator.state.topic.replication.factor",
            ),
            "3",
        )
        return {
            **super()._properties(),
            "node.id": str(self._number + 1),
            "controller.quorum.voters": voters,
            # Acknowledged by two: what a client was told is safe survives any one of them.
            "min.insync.replicas": "2",
            # Defaults meant for a network; on loopback a lost broker may be noticed sooner.
            "controller.quorum.election.timeout.ms": "500",
            "controller.quorum.fetch.timeout.ms": "1000",
            **copies,
        }


class Cluster:
    """Three brokers; a topic is on each of them, and two must have a message before it counts as written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports = free_ports(6)
        pairs = [(ports[n], ports[n + 3]) for n in range(3)]
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        self.nodes = [_Node(directory / f"node-{n + 1}", n, pairs, cluster) for n in range(3)]

    @property
    def bootstrap(self) -> str:
        """Where clients connect: all three."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.format()
        for node in self.nodes:
            node.launch()
        self.whole()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()
            node.remove_data()

    def whole(self, topic: str | None = None) -> None:
        """Wait until all three serve, and have all of ``topic``. Raises RuntimeError when that takes over 90 s."""
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            try:
                seen = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=5)
                partitions = [] if topic is None else seen.topics[topic].partitions.values()
                if len(seen.brokers) == 3 and all(len(each.isrs) == 3 for each in partitions):
                    return
            except KafkaException:
                pass  # Not yet.
            time.sleep(0.2)
        raise RuntimeError(f"the three brokers were not whole in time; their logs are under {self.directory}")

    def leader(self, topic: str, partition: int = 0) -> _Node:
        """Who leads a partition now."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self.nodes[admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader - 1]

    def create_topic(self, name: str, partitions: int = 1, **config: str | float) -> str:
        """Create a topic on all three, like ``RealBroker.create_topic``."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        topic = NewTopic(name, num_partitions=partitions, replication_factor=3, config=settings)
        admin.create_topics([topic])[name].result(timeout=30)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            seen = admin.list_topics(timeout=10).topics.get(name)
            if seen is not None and seen.error is None and len(seen.partitions) == partitions:
                return name
            time.sleep(0.02)
        raise RuntimeError(f"topic {name} was created and did not appear")
