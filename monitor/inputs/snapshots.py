"""Snapshots of partitions as files: written while the partition is judged, read when it is taken over.

Two files a partition: ``<log>-<partition>.snapshot`` of the window, ``<log>-<partition>-ledger.snapshot`` of what is
published. A file is put in place only when it is whole, on the disk, and that of the window only below what the group
has committed: whatever stands there can be begun with. Any of them may be deleted at any time.
Nothing that goes wrong here does more than a log line: judging goes on, and the next takeover reads the log instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

import structlog

from monitor.core.ledger import Ledger
from monitor.core.ledger_snapshot import LedgerLoading, LedgerSaving
from monitor.core.pipeline import Checkpoint
from monitor.core.snapshot import Loading, Saving, Unusable, chunks

log = structlog.get_logger(__name__)

WALK_S: Final = 0.005  # What a turn of the loop may give to snapshots,
WALK_SHARE: Final = 0.1  # and what share of all time.
WALK_CONVERSATIONS: Final = 10
LEDGER_VERDICTS_MIN: Final = 100  # To read so few costs nothing.
LEDGER_KEPT_S: Final = 12 * 3600.0
"""A broker forgets a tombstone a day after compaction has met it (``delete.retention.ms``): what is older than half of
that would bring back what was withdrawn since."""
CLOCKS_APART_S: Final = 60.0  # Whoever keeps the files may have a clock of its own.


class Partition(NamedTuple):
    """Of what a snapshot is: a partition of a log, and of the verdict topic beside it."""

    fingerprint: str
    verdicts_id: str
    number: int


class Saved(Protocol):
    """A fold, as far as snapshots go."""

    @property
    def next_offset(self) -> int:
        """The first message that is not folded yet."""

    def save(self, log: str) -> Saving | None:
        """Begin a snapshot; None: not now."""

    def load(self, header: bytes, log: str, checkpoint: Checkpoint) -> Loading:
        """Begin with a snapshot. Raises Unusable."""


class Fences(Protocol):
    """What is on its way."""

    def fence(self) -> int:
        """Draw a line behind what has begun until now."""

    def safe(self, fence: int) -> bool:
        """Whether all before the line has arrived."""


class Taken(Protocol):
    """A snapshot being taken: of a window, or of a ledger."""

    offset: int
    broken: bool

    def walk(self, conversations_max: int) -> bool:
        """Go on for a moment; whether it is whole."""

    def take(self) -> list[bytes]:
        """What is ready to be written."""

    def give_up(self) -> None:
        """Take no more notice of what changes."""


class Fed(Protocol):
    """A snapshot being read, chunk by chunk."""

    done: bool

    def feed(self, chunk: bytes) -> None:
        """Take in the next chunk. Raises Unusable."""


class Snapshots:
    """The directory. ``version``: which monitor writes, since another one may read the same events otherwise."""

    def __init__(self, directory: Path, *, every_s: float, kept_s: float, version: str) -> None:
        self.every_s = every_s
        self._directory = directory
        self._kept_s = kept_s
        self._version = version
        self._at_work: _Keeper | None = None
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._disk.submit(self._tidy)

    def keep(self, of: Partition, ledger_from: int = 0) -> Keeper:
        """See to the snapshots of a partition judged from now on. ``ledger_from``: V of its ledger's, if any."""
        return Keeper(self, of, min(self._kept_s, LEDGER_KEPT_S) / 2, ledger_from)

    def begin(self, fold: Saved, checkpoint: Checkpoint, of: Partition) -> Restoring | None:
        """Begin a takeover with a snapshot of the window; None where there is none, or none that fits."""

        def load(header: bytes) -> tuple[Loading, int]:
            return fold.load(header, self.name_of(of), checkpoint), fold.next_offset

        return self._begin(self.path(of), of, load)

    def begin_ledger(self, ledger: Ledger, of: Partition) -> Restoring | None:
        """The same with one of the ledger: then it knows what lies below ``offset`` in the verdict topic."""
        path = self.path(of, ledger=True)

        def load(header: bytes) -> tuple[LedgerLoading, int]:
            age_s = time.time() - path.stat().st_mtime
            if age_s > LEDGER_KEPT_S:
                raise Unusable("it is too old")
            if age_s < -CLOCKS_APART_S:
                raise Unusable("the clock has gone back, and nobody knows how old it is")
            loading = LedgerLoading(ledger, header, self.name_of(of, ledger=True))
            return loading, loading.offset

        return self._begin(path, of, load)

    def _begin(self, path: Path, of: Partition, load: Callable[[bytes], tuple[Fed, int]]) -> Restoring | None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("snapshot_not_read", partition=of.number, why=error.strerror)
            return None
        read = chunks(file.read)
        try:
            loading, offset = load(next(read, b""))
        except (Unusable, OSError) as error:
            file.close()
            log.info("snapshot_not_used", partition=of.number, why=_why(error))
            return None
        return Restoring(file, read, loading, offset, of.number)

    def claim(self, keeper: _Keeper) -> bool:
        """Whether a keeper may begin: one at a time, or many would take what one was allowed."""
        if self._at_work is None:
            self._at_work = keeper
        return self._at_work is keeper

    def release(self, keeper: _Keeper) -> None:
        """The keeper has ended, for now."""
        if self._at_work is keeper:
            self._at_work = None

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Have something done that waits for the disk."""
        return self._disk.submit(work)

    def close(self) -> None:
        """Wait for nothing."""
        self._disk.shutdown(wait=False, cancel_futures=True)

    def path(self, of: Partition, *, ledger: bool = False) -> Path:
        """Where a snapshot lies."""
        return self._directory / f"{of.fingerprint}-{of.number}{'-ledger' if ledger else ''}.snapshot"

    def name_of(self, of: Partition, *, ledger: bool = False) -> str:
        """What a snapshot says it is of."""
        return "/".join((self._version, of.fingerprint, str(of.number), *([of.verdicts_id] if ledger else [])))

    def _tidy(self) -> None:
        """Remove what is older than a window, which saves nobody anything, and what was never finished."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._directory.glob("*.snapshot*"):
                if path.suffix != ".snapshot" or time.time() - path.stat().st_mtime > self._kept_s:
                    path.unlink()
        except OSError as error:
            log.warning("snapshots_not_tidied", why=error.strerror)


class Keeper:
    """Takes one snapshot of a partition after the other. Lives on the reading thread, as the fold does."""

    def __init__(self, snapshots: Snapshots, of: Partition, ledger_within_s: float, ledger_from: int) -> None:
        self._window = _Keeper(snapshots, snapshots.path(of), of.number, 0)
        self._window_name = snapshots.name_of(of)
        self._ledger = _Keeper(snapshots, snapshots.path(of, ledger=True), of.number, ledger_from)
        self._ledger_name = snapshots.name_of(of, ledger=True)
        self._ledger_within_s = ledger_within_s
        self._fence: int | None = None

    def turn(self, fold: Saved, committed: int, ledger: Ledger, read_to: int, pending: Fences) -> None:
        """Between two batches; ``committed``: what the group has, ``read_to``: how far the verdict topic was read."""
        self._window.turn(lambda: fold.save(self._window_name), lambda saving: committed >= saving.offset)
        self._ledger.turn(lambda: self._save_ledger(ledger, read_to), lambda _: self._has_arrived(pending))

    def _save_ledger(self, ledger: Ledger, read_to: int) -> LedgerSaving | None:
        """Begin a snapshot of the ledger, once reading on from the last one takes as long as it would to write it.

        Or once that is so old that it will soon be of no use, also where nothing has come since.
        """
        since = read_to - self._ledger.offset
        worth_it = since > max(LEDGER_VERDICTS_MIN, len(ledger) // 4)
        too_old = self._ledger.age_s > self._ledger_within_s and len(ledger) > 0
        if since < 0 or not (worth_it or too_old):
            return None
        self._fence = None
        return LedgerSaving(ledger, self._ledger_name, read_to)

    def _has_arrived(self, pending: Fences) -> bool:
        """Whether all has that was on its way when the ledger was whole. What was withdrawn by then it does not know:
        if the tombstone were lost with this process, nobody would know of the verdict.
        """
        if self._fence is None:
            self._fence = pending.fence()
        return pending.safe(self._fence)

    @property
    def saving(self) -> int:
        """How many files are being written."""
        return self._window.saving + self._ledger.saving

    def close(self) -> None:
        """Give up what is being written."""
        self._window.close()
        self._ledger.close()


class _Keeper:
    """Takes one snapshot of a kind after the other."""

    def __init__(self, snapshots: Snapshots, path: Path, partition: int, offset: int) -> None:
        self.offset = offset
        """Of the last snapshot that was put in place."""
        self._snapshots = snapshots
        self._path = path
        self._partition = partition
        self._after = time.monotonic() + snapshots.every_s
        self._placed_at = time.monotonic()
        self._walked = 0.0
        self._saving: Taken | None = None
        self._part = path
        self._file: BinaryIO | None = None
        self._bytes = 0
        self._whole = False
        self._placing: Future[None] | None = None
        self._began = 0.0

    @property
    def saving(self) -> bool:
        """Whether a file is being written."""
        return self._saving is not None

    @property
    def age_s(self) -> float:
        """How long ago one was put in place, or this partition was taken over."""
        return time.monotonic() - self._placed_at

    def turn(self, begin: Callable[[], Taken | None], may_be_placed: Callable[[Taken], bool]) -> None:
        """Go on for a moment: ``begin`` says what with, or None: not now."""
        try:
            if self._placing is not None:
                if self._placing.done():
                    self._placed(self._placing)
            elif self._saving is None:
                if time.monotonic() >= self._after:
                    self._begin(begin)
            elif not self._whole:
                self._walk(self._saving)
            elif may_be_placed(self._saving):
                # From here on the file is the disk thread's, whatever becomes of the partition.
                file, self._file = self._file, None
                assert file is not None
                self._placing = self._snapshots.submit(partial(_place, file, self._part, self._path))
                self._placing.add_done_callback(lambda _: file.close())
        except OSError as error:
            log.warning("snapshot_not_saved", partition=self._partition, why=error.strerror)
            self.close()

    def close(self) -> None:
        """Give up what is being written."""
        self._snapshots.release(self)
        if self._saving is not None and not self._whole:
            self._saving.give_up()
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                self._part.unlink()
        self._saving = self._file = self._placing = None
        self._after = time.monotonic() + self._snapshots.every_s

    def _begin(self, begin: Callable[[], Taken | None]) -> None:
        if not self._snapshots.claim(self):
            return
        saving = begin()
        if saving is None:
            self._snapshots.release(self)
            self._after = time.monotonic() + 1.0
            return
        self._saving, self._whole, self._bytes, self._began = saving, False, 0, time.monotonic()
        # Each in a file of its own: the disk thread may not be done with the last one, which this process gave up, and
        # in containers, which may share the directory, all processes have the same number.
        self._part = self._path.with_suffix(f".snapshot-{uuid.uuid4().hex[:8]}")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    def _walk(self, saving: Taken) -> None:
        now = time.monotonic()
        until = now + min(WALK_S, (now - self._walked) * WALK_SHARE)
        self._walked = now
        done = saving.walk(WALK_CONVERSATIONS)
        while not done and time.monotonic() < until:
            done = saving.walk(WALK_CONVERSATIONS)
        assert self._file is not None
        for chunk in saving.take():
            if self._file.write(chunk) != len(chunk):  # As a disk does that is full in the midst of it.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._bytes += len(chunk)
        if saving.broken:
            self.close()
        else:
            self._whole = done

    def _placed(self, placing: Future[None]) -> None:
        assert self._saving is not None
        placing.result()
        self.offset, self._placed_at = self._saving.offset, time.monotonic()
        log.info(
            "snapshot_saved",
            partition=self._partition,
            file=self._path.name,
            offset=self._saving.offset,
            bytes=self._bytes,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self.close()


class Restoring:
    """A snapshot being read, some of it at a time. ``offset`` is the first message that it says nothing of."""

    def __init__(self, file: BinaryIO, chunks: Iterator[bytes], loading: Fed, offset: int, partition: int) -> None:
        self.offset = offset
        self._file = file
        self._chunks = chunks
        self._loading = loading
        self._partition = partition
        self._began = time.monotonic()

    def read(self, for_s: float) -> bool:
        """Go on for so long; whether it is all there. Raises Unusable, OSError: throw away what it was read into."""
        until = time.monotonic() + for_s
        for chunk in self._chunks:
            self._loading.feed(chunk)
            if time.monotonic() >= until:
                break
        else:
            if not self._loading.done:
                raise Unusable("it ends too soon")
        if not self._loading.done:
            return False
        seconds = round(time.monotonic() - self._began, 3)
        name = Path(self._file.name).name
        log.info("snapshot_loaded", partition=self._partition, file=name, offset=self.offset, seconds=seconds)
        self.close()
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _place(file: BinaryIO, part: Path, path: Path) -> None:
    """Put a whole file where the next takeover looks. Raises OSError."""
    try:
        os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _why(error: Unusable | OSError) -> str | None:
    return error.strerror if isinstance(error, OSError) else str(error)
