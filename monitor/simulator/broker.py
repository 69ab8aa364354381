"""A broker inside this process, for the demo and for quick tests: librdkafka's mock cluster.

Other processes reach it too. It keeps nothing on disk and ends with the process that started it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from confluent_kafka import Producer

PARTITIONS: Final = 4
"""Partitions of every topic; librdkafka's own number, which nothing can change from outside."""

_START_TIMEOUT_S: Final = 10.0
_LOG_WARNINGS: Final = 4  # syslog's number; one up, librdkafka announces on stderr that the cluster is a mock.


class EmbeddedBroker:
    """A one-node mock cluster on a free loopback port, from construction until ``close`` or the end of ``with``.

    It can do what the monitor lives on: produce, groups, commits with metadata, rebalances, static membership, seek,
    watermarks, end of partition. It can't do what follows, so ``run`` and the tests of these things need a real broker:

    - topics come into being on first use, always with ``PARTITIONS`` partitions and never compacted;
    - admin calls (creating, describing or configuring topics) and ``offsets_for_times`` time out;
    - transactions are stubs that promise nothing;
    - a partition keeps about 5 MB: beyond that the oldest messages vanish without a word, so a long demo can't be
      replayed from its beginning.

    Raises ``RuntimeError`` when librdkafka does not bring the cluster up within 10 s.
    """

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": _LOG_WARNINGS})
        brokers = self._producer.list_topics(timeout=_START_TIMEOUT_S).brokers
        if not brokers:
            self.close()
            raise RuntimeError("librdkafka's mock cluster did not start: it names no broker")
        self._bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect: ``host:port``, plaintext."""
        return self._bootstrap_servers

    def create_topics(self, *names: str) -> None:
        """Bring topics into being before anybody subscribes, by asking for their metadata; known ones stay as they are.

        A consumer that subscribes earlier is told of an unknown topic first and learns of it minutes later. Raises
        ``KafkaException`` when the cluster is closed.
        """
        for name in names:
            self._producer.list_topics(name, timeout=_START_TIMEOUT_S)

    def close(self) -> None:
        """End the cluster and forget all its messages; a second call does nothing."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
