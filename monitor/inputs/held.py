"""What is known of a partition while it is in our hands."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from enum import Enum

from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint
from monitor.inputs.checkpoint import Resume
from monitor.inputs.protocols import Fold
from monitor.inputs.snapshots import Keeper, Restoring


class Stage(Enum):
    """How far a takeover has come."""

    WAITING = "waiting"  # for the next try
    ASKING = "asking"  # for the checkpoint and the ends of the log
    REBUILDING = "rebuilding"
    LIVE = "live"


class Pending:
    """Effects on their way, told apart by fences, so that a commit waits for those before it and no others."""

    def __init__(self) -> None:
        self._fence = 0
        self._open: dict[int, int] = {}

    def begin(self) -> int:
        """Count one more as on its way; return the fence to ``end`` it with."""
        self._open[self._fence] = self._open.get(self._fence, 0) + 1
        return self._fence

    def end(self, fence: int) -> None:
        """It has arrived."""
        self._open[fence] -= 1
        if not self._open[fence]:
            del self._open[fence]

    def fence(self) -> int:
        """Draw a line; what has begun until now is before it."""
        drawn = self._fence
        self._fence += 1
        return drawn

    def safe(self, fence: int) -> bool:
        """Whether all before the line is acknowledged."""
        return all(begun > fence for begun in self._open)

    def __bool__(self) -> bool:
        return bool(self._open)


class Held:
    """One partition in our hands, from one takeover to its end. A new takeover is a new one of these."""

    def __init__(
        self,
        partition: int,
        *,
        skip: frozenset[int],
        aside: set[int],
        attempt: int,
        not_before: float,
        raised: int = 0,
    ) -> None:
        self.partition = partition
        self.skip = skip
        self.aside = aside  # Of those skipped, what is safe in quarantine; shared by the takeovers of one ownership.
        self.attempt = attempt
        self.not_before = not_before
        self.raised = raised  # How often the core has raised since the state was last built from the log.
        self.by = uuid.uuid4().hex[:16]
        self.began = time.monotonic()
        self.stage = Stage.WAITING
        self.dropped = False
        self.failed: str | None = None
        self.asking: Future[Resume] | None = None
        self.resumed: Resume | None = None
        self.ledger: Ledger | None = None
        self.swept_since: float | None = None
        self.fold: Fold | None = None
        self.committed_offset = -1  # C of the takeover: from here on, messages are ours to answer for.
        self.verdicts_read = False
        self.replayed = False
        self.write_back: dict[str, bytes] = {}
        # What lies there now, and is to be weighed against what was read.
        self.come_round: list[tuple[str, bytes, int]] = []
        self.verdicts_to = 0  # How far the verdict topic was read.
        self.ledger_from = 0  # From where on, where a snapshot says what was before.
        self.ledger_restoring: Restoring | None = None
        self.saying: Iterator[None] | None = None  # What of that is told, once it is all there.
        self.restoring: Restoring | None = None
        self.without_snapshot = False
        self.snapshots: Keeper | None = None
        self.next_offset = 0
        self.gate = 0
        self.at_end = False
        self.pending = Pending()
        self.candidate: tuple[int, Checkpoint] | None = None
        self.sent: Checkpoint | None = None
        self.safe_offset = -1  # The greatest offset known to be committed.
        self.commit_after = 0.0
        self.refusals = 0
        self.heard = False  # Whether the group's consumer has told anything of it since it was resumed.
        self.wake_after = 0.0
        self.tick_after = 0.0
        self.ticks_out: list[tuple[int, int]] = []  # (offset, sent ms) of ticks acknowledged and not yet read back
        self.tick_read_ms: int | None = None
