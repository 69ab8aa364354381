"""Markdown that shows what others wrote and obeys nothing in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

# An underscore within a word means nothing.
_SPECIAL: Final = re.compile(r"[\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str) -> str:
    """Text from elsewhere, in one line. An address in it is still a link where Markdown makes one of it."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def escaped_rows(rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Rows of which every cell is text from elsewhere."""
    return ([escaped(cell) for cell in row] for row in rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one behind it. Cells are Markdown."""
    return [
        f"| {' | '.join(head)} |",
        "|" + " --- |" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
