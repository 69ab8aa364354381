"""Messages from files: JSON lines, one JSON document, gzip, standard input, or what ``export`` wrote.

A line is a message, in any of the forms a Kafka message may have. A file whose first line is not JSON by itself is read
as one document; the elements of an array are then messages of their own, numbered from 1 in place of lines.
"""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Final

import msgspec

from monitor.errors import WrongInput

DOCUMENT_BYTES_MAX: Final = 512 * 1024 * 1024
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_EXPORTED: Final = b'{"kafka":'


class InputFileError(WrongInput):
    """A file that can't be read; the message names it and says what to do."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """One message of a file. ``partition`` and ``timestamp_ms`` are Kafka's, where an export brings them."""

    number: int
    value: bytes | None
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class _Kafka(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    headers: list[tuple[str, str]] = []


class _Exported(msgspec.Struct):
    kafka: _Kafka
    value: msgspec.Raw = msgspec.Raw()
    value_base64: str | None = None


_decode_exported = msgspec.json.Decoder(_Exported).decode


class Files:
    """The messages of several files, as often as they are asked for; standard input is kept in a temporary file.

    ``read(on_bytes)`` tells how many bytes of the files have been read so far, for a progress bar.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if sum(str(path) == "-" for path in paths) > 1:
            raise InputFileError("-: standard input can be read only once. Name it once.")
        self._kept: IO[bytes] | None = None
        self._paths = list(paths)
        for path in self._paths:
            if str(path) != "-" and not path.is_file():
                what = "is a directory" if path.is_dir() else "there is no such file"
                raise InputFileError(f"{path}: {what}. Name a file of events, one JSON object a line, or - for stdin.")

    @property
    def bytes_total(self) -> int | None:
        """How many bytes there are to read; None with standard input among them."""
        if any(str(path) == "-" for path in self._paths):
            return None
        return sum(path.stat().st_size for path in self._paths)

    def read(self, on_bytes: Callable[[int], None] | None = None) -> Iterator[Line]:
        """Yield every message; numbers run on over all files. Raises ``InputFileError``."""
        number = 0
        done = 0
        for path in self._paths:
            name = "standard input" if str(path) == "-" else str(path)
            try:
                with self._open(path) as raw:
                    raw.seek(0)
                    zipped = raw.read(2) == _GZIP
                    raw.seek(0)
                    stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if zipped else raw
                    for line in _messages(stream):
                        number += 1
                        yield _line(line, number)
                        if on_bytes is not None and number % 512 == 0:
                            on_bytes(done + raw.tell())
                    done += raw.tell()
                    if on_bytes is not None:
                        on_bytes(done)
            except (OSError, EOFError, gzip.BadGzipFile) as fault:
                reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
                raise InputFileError(f"{name}: {reason}. Check the file, and that you may read it.") from fault

    def _open(self, path: Path) -> AbstractContextManager[IO[bytes]]:
        if str(path) != "-":
            return path.open("rb")
        if self._kept is None:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - it has to outlive this call.
            shutil.copyfileobj(sys.stdin.buffer, self._kept)
        return nullcontext(self._kept)  # Leaving the `with` must not close it: it may be read again.


def _messages(stream: IO[bytes]) -> Iterator[bytes]:
    first = stream.readline(LINE_BYTES_MAX)
    while first and not first.strip():
        yield first
        first = stream.readline(LINE_BYTES_MAX)
    if not first:
        return
    if first.lstrip()[:1] in (b"{", b"[") and not _is_json(first):
        document = first + stream.read(DOCUMENT_BYTES_MAX)
        if _is_json(document):
            yield from _elements(document)
            return
        # No document either: lines, of which the first is not JSON.
        lines = document.split(b"\n")
        yield from lines[:-1]
        first = lines[-1] + stream.readline(LINE_BYTES_MAX)
        if not first:
            return
    yield first
    yield from iter(lambda: stream.readline(LINE_BYTES_MAX), b"")


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _elements(document: bytes) -> Iterator[bytes]:
    if document.lstrip()[:1] != b"[":
        yield document
        return
    for element in msgspec.json.decode(document, type=list[msgspec.Raw]):
        yield bytes(element)


def _line(data: bytes, number: int) -> Line:
    data = data.rstrip(b"\r\n")
    if data.startswith(_EXPORTED):
        try:
            exported = _decode_exported(data)
            if exported.value_base64 is not None:
                value: bytes | None = base64.b64decode(exported.value_base64, validate=True)
            else:
                value = bytes(exported.value) or None
        except (msgspec.DecodeError, ValueError):
            return Line(number, data)
        kafka = exported.kafka
        headers = tuple((name, base64.b64decode(content)) for name, content in kafka.headers)
        return Line(number, value, kafka.partition, kafka.offset, kafka.timestamp_ms, headers)
    return Line(number, data)
