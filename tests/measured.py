"""A command in a process of its own, with the time and the memory it took: for what is too long to be a test."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from tests.broker import RealBroker
from tests.monitors import PROGRAM, Site, environment

_T = TypeVar("_T")

# It says on stderr, last of all, the most memory it had.
_MEASURED: Final = (
    "import atexit, resource, sys\n"
    "atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))\n"
)


class Taken(NamedTuple, Generic[_T]):
    """What a run of the command took: seconds, and the most memory it had."""

    report: _T
    seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.peak_bytes / 2**20:.0f} MiB at most"


def measured(site: Site, *command: str, code: int, read: Callable[[bytes], _T]) -> Taken[_T]:
    """Run a command on a site's settings, and ``read`` what it prints; it has to end with ``code``."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED + PROGRAM, *command, "--config", str(site.config())],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    peak_kib = int(done.stderr.split()[-1])
    return Taken(read(done.stdout), time.monotonic() - began, peak_kib * 1024)


@contextlib.contextmanager
def own_broker() -> Iterator[tuple[RealBroker, Path]]:
    """A broker, and a directory for a site; both are gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        broker = RealBroker(Path(directory) / "broker")
        broker.start()
        try:
            yield broker, Path(directory) / "site"
        finally:
            broker.kill()
            broker.remove_data()
