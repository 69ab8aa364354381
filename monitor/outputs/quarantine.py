"""Quarantine: what we could not read, kept where a person can look at it. Nothing is dropped silently.

A message of the quarantine topic has no key; its value is at most 256 KiB of the bytes as they came, its headers say
why it is there, where it stood, and what it was in full (length, SHA-256).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

VALUE_BYTES_MAX: Final = 256 * 1024
DETAIL_CHARS_MAX: Final = 300


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the quarantine topic, read back.

    ``index`` is the entry's place in its message; None: all of the message. ``length`` counts the bytes there were.
    """

    reason: str
    detail: str
    position: str
    index: int | None
    length: int
    sha256: str
    data: bytes

    @property
    def truncated(self) -> bool:
        """Whether ``data`` is only the beginning of the bytes."""
        return len(self.data) < self.length


def render_aside(
    reason: str, detail: str, *, partition: int, offset: int, index: int | None, data: bytes
) -> tuple[list[tuple[str, bytes]], bytes]:
    """Headers and value of a quarantine message."""
    headers = [
        ("reason", reason.encode()),
        ("detail", detail[:DETAIL_CHARS_MAX].encode(errors="replace")),
        ("position", f"{partition}:{offset}".encode()),
        ("length", str(len(data)).encode()),
        ("sha256", hashlib.sha256(data).hexdigest().encode()),
    ]
    if index is not None:
        headers.append(("index", str(index).encode()))
    return headers, data[:VALUE_BYTES_MAX]


def read_aside(headers: Sequence[tuple[str, bytes]], data: bytes | None) -> Aside:
    """The other way round; tolerant, because anybody may write to a topic."""
    said = {key: value.decode(errors="replace") for key, value in headers}
    value = data or b""
    return Aside(
        reason=said.get("reason", "unknown"),
        detail=said.get("detail", ""),
        position=said.get("position", ""),
        index=_number(said.get("index")),
        length=_number(said.get("length")) or len(value),
        sha256=said.get("sha256", ""),
        data=value,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
