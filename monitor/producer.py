"""The producer of every part of ours: librdkafka's, whose failure for good is told to ``error_cb`` as any other error.

confluent-kafka raises it out of ``poll`` and ``flush`` instead of calling ``error_cb``. Its own ``flush`` then goes on
to tell of deliveries, with the exception pending: what is told so breaks off midway, at the first call of code in C
(seen with 2.16). So nothing here waits by that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

logger: Final = logging.getLogger("librdkafka")

# How long a flush polls at a time. Each ends with the first that is told, and is asked again.
_TURN_S: Final = 0.1


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
        try:
            return super().poll(timeout)
        except KafkaException as failure:
            self._on_error(failure.args[0])
        return 0

    def flush(self, timeout: float) -> int:  # type: ignore[override]  # Nobody here waits for ever.
        """Wait until nothing is on its way, ``timeout`` s at most, however long it lingers; how many still are."""
        until = time.monotonic() + timeout
        while len(self) and (left_s := until - time.monotonic()) > 0.0:
            self.poll(min(left_s, _TURN_S))
        return len(self)
