"""The producer of every part of ours: librdkafka's, whose failure for good is told to ``error_cb`` as any other error.

confluent-kafka raises it out of ``poll`` and ``flush`` instead of calling ``error_cb``; where a delivery was told of
after it in the same call, it raises a SystemError without a word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

logger: Final = logging.getLogger("librdkafka")


def failed_for_good(error: KafkaError) -> bool:
    """Whether a producer does nothing any more: one that lost its sequence refuses all that follows."""
    return error.fatal() or error.code() == KafkaError._FATAL


class Writer(Producer):
    """A producer that is given up by whoever hears of its failure, not by whoever happens to poll it."""

    def __init__(self, properties: Mapping[str, object], *, on_error: Callable[[KafkaError], None]) -> None:
        """``properties`` are librdkafka's; ``on_error`` is its ``error_cb``. Raises KafkaException for what it refuses
        of them.
        """
        given: dict[str, Any] = {**properties, "error_cb": on_error}
        super().__init__(given, logger=logger)
        self._on_error = on_error

    def poll(self, timeout: float = 0.0) -> int:
        """Tell what there is to tell; how many were told."""
        return self._told(super().poll, timeout)

    def flush(self, timeout: float = -1) -> int:
        """Wait until nothing is on its way; how many still are."""
        self._told(super().flush, timeout)
        return len(self)

    def _told(self, ask: Callable[[float], int], timeout_s: float) -> int:
        try:
            return ask(timeout_s)
        except KafkaException as failure:
            self._on_error(failure.args[0])
        except SystemError:
            self._on_error(KafkaError(KafkaError._FATAL, fatal=True))
        return 0
