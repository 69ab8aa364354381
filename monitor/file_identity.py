"""Noticing that a file on disk is another one than it was."""

from __future__ import annotations

from pathlib import Path


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """What is different once the file was written or replaced; None where there is none to look at."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: no path at all, as one with a zero byte.
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
