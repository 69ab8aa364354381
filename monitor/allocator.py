"""What the C library holds of memory that is free: less of it, and given back when much has been let go.

Python's own small objects are not concerned; what is longer than 512 bytes, and all of Kafka's client, is.
Where the C library is not glibc, nothing is done: https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

_ARENA_MAX: Final = -8  # M_ARENA_MAX of malloc.h.
ARENAS: Final = 2
"""By itself glibc makes eight a core, and each keeps what its busiest hour needed."""


def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found


_trim: Final = _of_glibc("malloc_trim")
_option: Final = _of_glibc("mallopt")


def use_few_arenas() -> None:
    """Have at most ``ARENAS`` heaps; to be said before threads begin."""
    if _option is not None and _trim is not None:
        _option(_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give free pages back to the system: below a millisecond with half a gigabyte in use."""
    if _trim is not None:
        _trim(0)
