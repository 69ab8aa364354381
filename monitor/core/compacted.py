"""What a window holds by the hundred thousand in half the memory, where that is at hand: laid out by ``compact.pyx``.

It is optional: where it was not built (``deploy/native.py``), or from another version of its sources, the structs are
themselves, and hold the same.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from monitor.core.compiled import is_current
from monitor.core.parted import Parted

SOURCES: Final = ("compact.pyx", "compact.pxd")
T = TypeVar("T")

COMPILED = False
Table: type[Parted[Any]] = Parted  # By SIDs, of whatever values.
try:
    from monitor.core import compact
except ImportError:
    pass
else:
    if is_current(compact.BUILT_FROM, *SOURCES):
        COMPILED, Table = True, compact.Table


def compacted(struct: type[T]) -> type[T]:
    """A class decorator: the compiled twin of a struct, with its methods; the struct itself where there is none."""
    return compact.twin(struct) if COMPILED else struct
