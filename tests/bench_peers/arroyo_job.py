"""The simple job in Arroyo: RunTask with a table in memory, Produce, CommitOffsets once a second.

Arroyo has no state of its own, so the table is a dict, as in our job. Its futures are the simple ones, which are the
faster of its two kinds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from arroyo.backends.kafka import KafkaConsumer, KafkaPayload, KafkaProducer  # type: ignore[import-not-found]
from arroyo.backends.kafka.configuration import (  # type: ignore[import-not-found]
    build_kafka_configuration,
    build_kafka_consumer_configuration,
)
from arroyo.processing import StreamProcessor  # type: ignore[import-not-found]
from arroyo.processing.strategies import CommitOffsets, Produce, RunTask  # type: ignore[import-not-found]
from arroyo.processing.strategies.abstract import ProcessingStrategyFactory  # type: ignore[import-not-found]
from arroyo.types import FilteredPayload, Topic  # type: ignore[import-not-found]
from simple_job import encode, step  # type: ignore[import-not-found]  # On the path of its own environment.


class Job(ProcessingStrategyFactory):  # type: ignore[misc]  # Arroyo is not in this environment.
    """Builds the chain of strategies."""

    def __init__(self, producer: KafkaProducer, target: str) -> None:
        self._producer = producer
        self._target = Topic(target)
        self._conferences: dict[str, str] = {}

    def create_with_partitions(self, commit: Any, _partitions: Mapping[Any, int]) -> Any:
        """Called when partitions are assigned."""
        conferences = self._conferences

        def judged(message: Any) -> Any:
            verdict = step(message.payload.value, conferences)
            if verdict is None:
                return FilteredPayload()
            return KafkaPayload(verdict.recording_sid.encode(), encode(verdict), [])

        return RunTask(judged, Produce(self._producer, self._target, CommitOffsets(commit)))


def run(bootstrap: str, source: str, target: str) -> None:
    """Do the job until killed."""
    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            {},
            group_id=f"arroyo-{os.getpid()}",
            auto_offset_reset="earliest",
            bootstrap_servers=[bootstrap],
            enable_auto_commit=False,
            override_params={"fetch.queue.backoff.ms": 2},
        )
    )
    settings = {"linger.ms": 5, "compression.type": "lz4"}
    producer = KafkaProducer(
        build_kafka_configuration(settings, bootstrap_servers=[bootstrap]), use_simple_futures=True
    )
    StreamProcessor(consumer, Topic(source), Job(producer, target)).run()


if __name__ == "__main__":
    run(*sys.argv[1:4])
