"""Snapshots of partitions as files: written while the partition is judged, read when it is taken over.

One file a partition, ``<log>-<partition>.snapshot``. A file is put in place only when it is whole, on the disk, and
below what the group has committed: whatever stands there can be begun with. Any of them may be deleted at any time.
Nothing that goes wrong here does more than a log line: judging goes on, and the next takeover reads the log instead.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog

from monitor.core.pipeline import Checkpoint
from monitor.core.snapshot import Loading, Saving, Unusable, chunks

log = structlog.get_logger(__name__)

WALK_S: Final = 0.005  # What a turn of the loop may give to snapshots,
WALK_SHARE: Final = 0.1  # and what share of all time.
WALK_CONVERSATIONS: Final = 10


class Saved(Protocol):
    """A fold, as far as snapshots go."""

    @property
    def next_offset(self) -> int:
        """The first message that is not folded yet."""

    def save(self, log: str) -> Saving | None:
        """Begin a snapshot; None: not now."""

    def load(self, header: bytes, log: str, checkpoint: Checkpoint) -> Loading:
        """Begin with a snapshot. Raises Unusable."""


class Snapshots:
    """The directory. ``version``: which monitor writes, since another one may read the same events otherwise."""

    def __init__(self, directory: Path, *, every_s: float, kept_s: float, version: str) -> None:
        self.every_s = every_s
        self._directory = directory
        self._kept_s = kept_s
        self._version = version
        self._at_work: Keeper | None = None
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._disk.submit(self._tidy)

    def keep(self, fingerprint: str, partition: int) -> Keeper:
        """See to the snapshots of a partition that is judged from now on."""
        return Keeper(self, self._path(fingerprint, partition), self._log(fingerprint, partition), partition)

    def begin(self, fold: Saved, checkpoint: Checkpoint, fingerprint: str, partition: int) -> Restoring | None:
        """Begin a takeover with a snapshot; None where there is none, or none that fits."""
        try:
            file = self._path(fingerprint, partition).open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("snapshot_not_read", partition=partition, why=error.strerror)
            return None
        read = chunks(file.read)
        try:
            loading = fold.load(next(read, b""), self._log(fingerprint, partition), checkpoint)
        except (Unusable, OSError) as error:
            file.close()
            log.info("snapshot_not_used", partition=partition, why=_why(error))
            return None
        return Restoring(file, read, loading, fold.next_offset, partition)

    def claim(self, keeper: Keeper) -> bool:
        """Whether a keeper may begin: one partition at a time, or many would take what one was allowed."""
        if self._at_work is None:
            self._at_work = keeper
        return self._at_work is keeper

    def release(self, keeper: Keeper) -> None:
        """The keeper has ended, for now."""
        if self._at_work is keeper:
            self._at_work = None

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Have something done that waits for the disk."""
        return self._disk.submit(work)

    def close(self) -> None:
        """Wait for nothing."""
        self._disk.shutdown(wait=False, cancel_futures=True)

    def _path(self, fingerprint: str, partition: int) -> Path:
        return self._directory / f"{fingerprint}-{partition}.snapshot"

    def _log(self, fingerprint: str, partition: int) -> str:
        return f"{self._version}/{fingerprint}/{partition}"

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

    def __init__(self, snapshots: Snapshots, path: Path, about: str, partition: int) -> None:
        self._snapshots = snapshots
        self._path = path
        self._about = about
        self._partition = partition
        self._after = time.monotonic() + snapshots.every_s
        self._walked = 0.0
        self._saving: Saving | None = None
        self._file: BinaryIO | None = None
        self._bytes = 0
        self._whole = False
        self._placing: Future[None] | None = None
        self._began = 0.0

    def turn(self, fold: Saved, committed: int) -> None:
        """Between two batches; ``committed``: what the group has."""
        try:
            if self._placing is not None:
                if self._placing.done():
                    self._placed(self._placing)
            elif self._saving is None:
                if time.monotonic() >= self._after:
                    self._begin(fold)
            elif not self._whole:
                self._walk(self._saving)
            elif committed >= self._saving.offset:
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

    @property
    def _part(self) -> Path:
        return self._path.with_suffix(f".snapshot-{os.getpid()}")

    def _begin(self, fold: Saved) -> None:
        if not self._snapshots.claim(self):
            return
        saving = fold.save(self._about)
        if saving is None:
            self._snapshots.release(self)
            self._after = time.monotonic() + 1.0
            return
        self._saving, self._whole, self._bytes, self._began = saving, False, 0, time.monotonic()
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    def _walk(self, saving: Saving) -> None:
        now = time.monotonic()
        until = now + min(WALK_S, (now - self._walked) * WALK_SHARE)
        self._walked = now
        done = saving.walk(WALK_CONVERSATIONS)
        while not done and time.monotonic() < until:
            done = saving.walk(WALK_CONVERSATIONS)
        assert self._file is not None
        for chunk in saving.take():
            self._bytes += self._file.write(chunk)
        if saving.broken:
            self.close()
        else:
            self._whole = done

    def _placed(self, placing: Future[None]) -> None:
        assert self._saving is not None
        placing.result()
        log.info(
            "snapshot_saved",
            partition=self._partition,
            offset=self._saving.offset,
            bytes=self._bytes,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self.close()


class Restoring:
    """A snapshot being read into a fold, some of it at a time. ``offset`` is the first message to fold after it."""

    def __init__(self, file: BinaryIO, chunks: Iterator[bytes], loading: Loading, offset: int, partition: int) -> None:
        self.offset = offset
        self._file = file
        self._chunks = chunks
        self._loading = loading
        self._partition = partition
        self._began = time.monotonic()

    def read(self, for_s: float) -> bool:
        """Go on for so long; whether it is all there. Raises Unusable, OSError: then the fold is to be thrown away."""
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
        log.info("snapshot_loaded", partition=self._partition, offset=self.offset, seconds=seconds)
        self.close()
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _place(file: BinaryIO, part: Path, path: Path) -> None:
    """Put a whole file where the next takeover looks. Raises OSError."""
    os.fsync(file.fileno())
    part.replace(path)


def _why(error: Unusable | OSError) -> str | None:
    return error.strerror if isinstance(error, OSError) else str(error)
