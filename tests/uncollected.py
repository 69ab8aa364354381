"""What goes without garbage collection, as `run` passes over whatever is old."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected meanwhile."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
