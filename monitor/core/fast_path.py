"""The fast path, where it is at hand: what most messages bring, folded by compiled code.

``native.pyx`` says what it does. It is optional: where it was not built (``deploy/native.py``), or from another version
of its sources, every message goes the ordinary way, and ends in the same state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.core import compacted
from monitor.core.compiled import is_current
from monitor.core.window import Window

if TYPE_CHECKING:
    from monitor.core.native import FastPath

SOURCES: Final = ("native.pyx", "scanner.pxi", "values.pxi", "compact.pxd")  # What the first is compiled from.

COMPILED = False
if compacted.COMPILED:  # It was compiled for that layout, and for no other one.
    try:
        from monitor.core import native
    except ImportError:
        pass
    else:
        COMPILED = is_current(native.BUILT_FROM, *SOURCES)


def fast_path(window: Window) -> FastPath | None:
    """The fast path into a window; None where there is none."""
    return native.FastPath(window) if COMPILED else None
