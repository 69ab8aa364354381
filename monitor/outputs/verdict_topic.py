"""The verdict topic: the last verdict of each recording, in the partition its events came from.

Levels, not edges: a message states what holds now, and sending it again changes nothing. With the verdicts go the two
other topics an owner writes on behalf of the fold: quarantine and account settings. Only these hold a commit back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from monitor.core.pipeline import Publish, SetAside, SettingSeen
from monitor.core.verdict import Verdict, encode_verdict
from monitor.outputs.delivery import Delivery, Done, Headers
from monitor.outputs.quarantine import render_aside

# Who wrote a verdict: an owner passes over its own writes when it follows its partition, and over nobody else's.
BY_HEADER: Final = "by"

# A setting larger than this would be refused by a broker with default limits, and hold the partition up for ever.
SETTING_BYTES_MAX: Final = 900_000

BACKLOG_AFTER_MS: Final = 600_000


@lru_cache(maxsize=256)  # An owner is one takeover of one partition; it writes many.
def _written_by(by: str) -> Headers:
    return [(BY_HEADER, by.encode())]


def mark_backlog(verdict: Verdict, *, log_time_ms: int, now_ms: int) -> Verdict:
    """Mark what pages no person singly: decided long after, about a recording that has ended.

    Long after: log time is more than 10 minutes behind the wall clock.
    """
    if verdict.backlog or verdict.ended_at is None or now_ms - log_time_ms <= BACKLOG_AFTER_MS:
        return verdict
    return msgspec.structs.replace(verdict, backlog=True)


class VerdictTopic:
    """Sends what the fold tells, each thing to its topic. ``done`` gets the offset there, or None: not delivered."""

    def __init__(
        self,
        delivery: Delivery,
        *,
        verdicts: str,
        quarantine: str,
        account_settings: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._delivery = delivery
        self._verdicts = verdicts
        self._quarantine = quarantine
        self._account_settings = account_settings
        self._now_ms = now_ms

    @property
    def outstanding(self) -> int:
        """How many messages are on their way."""
        return self._delivery.outstanding

    def as_written(self, told: Publish, *, log_time_ms: int) -> Publish:
        """A verdict as it is to be written: marked where it comes long after, for metrics and log as for readers."""
        if told.verdict is None:
            return told
        verdict = mark_backlog(told.verdict, log_time_ms=log_time_ms, now_ms=self._now_ms())
        return told if verdict is told.verdict else msgspec.structs.replace(told, verdict=verdict)

    def publish(self, partition: int, told: Publish, *, by: str, done: Done) -> None:
        """Write one verdict, or the tombstone of one that is withdrawn or has had its time."""
        value = None if told.verdict is None else encode_verdict(told.verdict)
        self.write_back(partition, told.key, value, by=by, done=done)

    def write_back(self, partition: int, key: str, value: bytes | None, *, by: str, done: Done) -> None:
        """Write the bytes that hold for ``key``, over a lesser verdict that somebody else wrote."""
        self._delivery.send(self._verdicts, value, partition=partition, key=key, headers=_written_by(by), done=done)

    def set_aside(self, partition: int, offset: int, told: SetAside, *, done: Done) -> None:
        """Put one entry of a message into quarantine."""
        self.quarantine(partition, offset, told.reason, told.detail, told.index, told.data, done=done)

    def quarantine(
        self, partition: int, offset: int, reason: str, detail: str, index: int | None, data: bytes, *, done: Done
    ) -> None:
        """Put bytes into quarantine: an entry, or with ``index`` None a whole message."""
        headers, value = render_aside(reason, detail, partition=partition, offset=offset, index=index, data=data)
        self._delivery.send(self._quarantine, value, headers=headers, done=done)

    def setting(self, partition: int, offset: int, told: SettingSeen, *, done: Done) -> None:
        """Copy an account setting that stood in the events topic to where all processes read them."""
        if len(told.data) > SETTING_BYTES_MAX:
            self.quarantine(partition, offset, "setting_too_large", "", None, told.data, done=done)
        else:
            self._delivery.send(self._account_settings, told.data, key=told.key, done=done)

    def tick(self, topic: str, partition: int, value: bytes, *, done: Done) -> None:
        """Write a tick into one partition of the events topic."""
        self._delivery.send(topic, value, partition=partition, done=done)

    def poll(self) -> None:
        """Take in what was acknowledged."""
        self._delivery.poll()

    def flush(self, for_s: float) -> None:
        """Return once all is acknowledged; raises OutputUnavailable otherwise."""
        self._delivery.flush(for_s)
