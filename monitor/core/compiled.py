"""Whether a compiled module is of the sources that lie beside it: another version would do something else."""

from __future__ import annotations

import zlib
from importlib.resources import files


def is_current(built_from: int, *sources: str) -> bool:
    """Compare what a module says it was built from with the files in `core/`, in the order of the build."""
    read = [files("monitor.core").joinpath(name).read_bytes() for name in sources]
    return zlib.crc32(b"".join(read)) == built_from
