"""What the owner of a partition asks of the fold, of the outputs, and of who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Publish, SetAside, SettingSeen, Told
from monitor.core.verdict import Verdict
from monitor.inputs.checkpoint import Resume
from monitor.inputs.snapshots import Saved


class Fold(Saved, Protocol):
    """One partition's pipeline, as far as its owner needs it; `core/pipeline` has the real one."""

    @property
    def log_time_ms(self) -> int | None:
        """Log time now; None before the first message."""

    def dismantle(self) -> Iterator[None]:
        """Let go of all it holds, a little with each step; nothing may be asked of it any more."""

    def prime(self, timestamp_ms: int) -> None:
        """Take the Kafka timestamp of the message before the first one fed."""

    def feed(
        self,
        offset: int,
        timestamp_ms: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> Sequence[Told]:
        """Fold one message and tell what it changes; raises only on a bug, or OutputUnavailable from the ledger."""

    def open(self, ledger: Ledger) -> int:
        """End the rebuild: from now on, what differs from ``ledger`` is told. Returns the first offset that tells."""

    @property
    def sweeping(self) -> bool:
        """Whether ``sweep`` has anything to do."""

    def sweep(self, most: int) -> Sequence[Told]:
        """Judge again, of what the rebuild, a policy or settings leave to be judged, so many conversations at most."""

    def checkpoint(self) -> Checkpoint:
        """Where to go on and where to replay from, as of the last message fed."""

    def change_settings(self, account_sid: str) -> None:
        """The settings of this account are others than before; what follows is told from the next message on."""


class Outputs(Protocol):
    """Where what a fold tells goes. ``done`` is called by ``poll`` with the offset there, or None: not delivered."""

    @property
    def outstanding(self) -> int:
        """How many messages are on their way."""

    def as_written(self, told: Publish, *, log_time_ms: int) -> Publish:
        """A verdict as it is to be written, and as the watch is to hear of it."""

    def publish(self, partition: int, told: Publish, *, by: str, done: Callable[[int | None], None]) -> None:
        """Write a verdict or a tombstone into ``partition`` of the verdict topic."""

    def write_back(
        self, partition: int, key: str, value: bytes | None, *, by: str, done: Callable[[int | None], None]
    ) -> None:
        """Write what holds for ``key`` over a lesser verdict."""

    def set_aside(self, partition: int, offset: int, told: SetAside, *, done: Callable[[int | None], None]) -> None:
        """Quarantine one entry."""

    def quarantine(
        self,
        partition: int,
        offset: int,
        reason: str,
        detail: str,
        index: int | None,
        data: bytes,
        *,
        done: Callable[[int | None], None],
    ) -> None:
        """Quarantine bytes; ``index`` None: a whole message."""

    def setting(self, partition: int, offset: int, told: SettingSeen, *, done: Callable[[int | None], None]) -> None:
        """Copy an account setting to its own topic."""

    def tick(self, topic: str, partition: int, value: bytes, *, done: Callable[[int | None], None]) -> None:
        """Write a tick into one partition of the events topic."""

    def poll(self) -> None:
        """Take in what was acknowledged."""


class Watch(Protocol):
    """Who is told how the reading goes: metrics, health, the log of verdicts. Called on the reading thread."""

    def polled(self) -> None:
        """The loop has turned."""

    def folded(self, partition: int, fold: Fold, *, replayed: bool) -> None:
        """A batch or a slice went into the fold: its counts may be taken."""

    def published(self, partition: int, told: Publish, *, replay_left: bool) -> None:
        """A verdict is safe on its topic. ``replay_left``: the rebuild left it to be told, so its age says nothing."""

    def quarantined(self, partition: int, reason: str) -> None:
        """Bytes are safe in quarantine."""

    def verdict_read(self, partition: int, key: str, verdict: Verdict | None) -> None:
        """What stands on the verdict topic, where this owner did not write it; None: a tombstone."""

    def verdict_going_on(self, partition: int, key: str, account_sid: str, outcome: str) -> None:
        """The same, of a verdict that is known from a snapshot: its recording goes on, and no more is known of it."""

    def verdict_not_read(self, partition: int) -> None:
        """On the verdict topic stands what is no verdict, or one of a newer version."""

    def committed(self, result: str) -> None:
        """A commit ended: ``ok``, ``refused`` or ``failed``."""

    def rebalanced(self, event: str, partitions: Sequence[int]) -> None:
        """``assigned``, ``revoked`` or ``lost``."""

    def owned(self, count: int) -> None:
        """How many partitions this process has now."""

    def position(self, partition: int, *, log_time_ms: int | None, lag: int | None, tick_ms: int | None) -> None:
        """About once a second. ``tick_ms``: when the newest tick that came back was sent."""

    def forgotten(self, partition: int) -> None:
        """The partition is no longer ours: its gauges go."""

    def taken_over(self, partition: int, resumed: Resume) -> None:
        """How a partition is taken over: whether the commit was foreign, and what can't be seen again."""

    def restored(self, partition: int, seconds: float) -> None:
        """The gate of a partition opened, so long after it was assigned."""

    def kafka_error(self, kind: str) -> None:
        """The client reported an error; ``kind`` is its name in librdkafka, in lower case."""
