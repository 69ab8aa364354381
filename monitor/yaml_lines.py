"""YAML in, plain values out, and for each of them the line it stands on, so that an error can point at it.

What people write by hand (settings, policies) is read strictly: one document, no tags, no duplicate keys, no merge
keys, bounded in size, depth and number of values. Scalars follow YAML 1.2 rather than PyYAML's 1.1: ``no``, ``off``,
``12:30`` and ``2026-12-31`` are text, and so are numbers with a leading plus or zero, for those are telephone numbers
and not quantities. Whoever reads the values says what they should have been.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from monitor.errors import WrongInput

BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 32
# Values after aliases are resolved: a few lines of aliases to aliases would otherwise stand for billions.
VALUES_MAX: Final = 100_000
ANCHORS_MAX: Final = 100

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}(?:[eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip

# Neither says the word itself: a password that begins with such a character and lacks its quotes ends up here.
_TAG: Final = "begins with '!', a tag, and tags are not read. Where it is meant as text, put it in quotes"
_ALIAS: Final = (
    "begins with '*', an alias, and no complete '&' of that name stands before it. "
    "Where it is meant as text, put it in quotes"
)

KeyPath = tuple[str | int, ...]
Value = Any  # None, bool, int, float, str, a list of values or a dict of text to values.


class YamlError(WrongInput):
    """The text cannot be read; ``str()`` gives ``path:line: message``. ``line`` counts from 1."""

    def __init__(self, path: str, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path = path
        self.line = line
        self.message = message


class Document:
    """A YAML document as plain values, with the line of each.

    ``value`` is None for an empty document. Keys are always text, whatever they look like. What stands behind an alias
    is the very object of its anchor: do not change values in place.
    """

    __slots__ = ("_lines", "path", "value")

    def __init__(self, path: str, value: Value, lines: dict[KeyPath, int]) -> None:
        self.path = path
        self.value = value
        self._lines = lines

    def line(self, path: KeyPath) -> int:
        """Say on which line (from 1) the value at ``path`` stands: that of its key, or of the element of a list.

        For a path that is not in the document (a key that is missing) it is the line of what should hold it.
        """
        for length in range(len(path), -1, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return 1

    def __contains__(self, path: KeyPath) -> bool:
        """Say whether the document has a value at ``path``."""
        return path in self._lines


def load(text: str, path: str) -> Document:
    """Read one YAML document. ``path`` is only the name errors give; raises ``YamlError``."""
    if len(text.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise YamlError(path, 1, f"larger than {BYTES_MAX} bytes. Is it the right file?")
    reader = _Reader(path)
    try:
        reader.document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(path, line, f"the character U+{_code(error.character):04X} may not stand in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(path, mark.line + 1 if mark else 1, f"not readable as YAML: {problem}") from None
    return Document(path, reader.value, reader.lines)


def read(path: Path) -> Document:
    """Read one YAML file. Raises ``YamlError``, and ``OSError`` where the file cannot be opened."""
    with path.open("rb") as file:
        data = file.read(BYTES_MAX + 1)  # One more than the bound: a device or a huge file must not fill the memory.
    if len(data) > BYTES_MAX:
        raise YamlError(str(path), 1, f"larger than {BYTES_MAX} bytes. Is it the right file?")
    try:
        text = data.decode()  # A byte order mark passes: PyYAML takes it off.
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(str(path), line, "not UTF-8 text. Save the file as UTF-8") from None
    return load(text, str(path))


class _Reader:
    """Builds the values from the parser's events: those come one by one, so every bound holds before memory is used."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.value: Value = None
        self.lines: dict[KeyPath, int] = {(): 1}
        self._anchors: dict[str, tuple[Value, dict[KeyPath, int]]] = {}
        self._values = 0

    def document(self, events: Iterator[yaml.Event]) -> None:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                break
        else:
            return  # Nothing but comments and white space.
        first = next(events)
        self.lines[()] = _line(first)
        self.value = self._node(first, events, ())
        next(events)  # The end of the document.
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise self._error(event, "a second document ('---') begins here. Write one document to a file")

    def _error(self, event: yaml.Event, message: str) -> YamlError:
        return YamlError(self.path, _line(event), message)

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: KeyPath) -> Value:
        self._count(event, 1)
        if len(path) > DEPTH_MAX:
            raise self._error(event, f"nested more than {DEPTH_MAX} deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            raise self._error(event, _TAG)
        if isinstance(event, yaml.ScalarEvent):
            value: Value = _plain(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(events, path)
        else:
            value = self._mapping(events, path)
        if event.anchor is not None:
            if len(self._anchors) >= ANCHORS_MAX:
                raise self._error(event, f"more than {ANCHORS_MAX} anchors")
            depth = len(path)
            inner = {key[depth:]: line for key, line in self.lines.items() if key[:depth] == path}
            self._anchors[event.anchor] = (value, inner)
        return value

    def _sequence(self, events: Iterator[yaml.Event], path: KeyPath) -> list[Value]:
        values: list[Value] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            inner = (*path, len(values))
            self.lines[inner] = _line(event)
            values.append(self._node(event, events, inner))
        return values

    def _mapping(self, events: Iterator[yaml.Event], path: KeyPath) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key must be plain text")
            if event.tag is not None:
                raise self._error(event, _TAG)
            key = event.value
            if key == "<<" and event.implicit[0]:
                raise self._error(event, "merge keys ('<<') are not read. Write the keys out")
            if key in values:
                raise self._error(
                    event, f"duplicate key {key!r}: it stands on line {self.lines[(*path, key)]} already. Remove one"
                )
            inner = (*path, key)
            self.lines[inner] = _line(event)
            values[key] = self._node(next(events), events, inner)
        return values

    def _alias(self, event: yaml.AliasEvent, path: KeyPath) -> Value:
        assert event.anchor is not None
        found = self._anchors.get(event.anchor)
        if found is None:
            raise self._error(event, _ALIAS)
        value, inner = found
        self._count(event, len(inner))
        if len(path) + max(map(len, inner)) > DEPTH_MAX:
            raise self._error(event, f"nested more than {DEPTH_MAX} deep")
        for key, line in inner.items():
            # The alias itself stands here; what is inside it stands where the anchor is.
            self.lines.setdefault((*path, *key), line)
        return value

    def _count(self, event: yaml.Event, values: int) -> None:
        self._values += values
        if self._values > VALUES_MAX:
            raise self._error(event, f"more than {VALUES_MAX} values, aliases resolved")


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # Only an event made by hand has no mark.
    return int(event.start_mark.line) + 1


def _plain(text: str) -> Value:
    """Resolve a scalar without quotes: null, true and false, integers, decimals; all else is text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text


def _code(character: str | int) -> int:
    return character if isinstance(character, int) else ord(character)
