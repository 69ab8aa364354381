"""The bar that commands show while something long is under way."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(unit: str = "", *, in_bytes: bool = False, shown: bool = True) -> Progress:
    """A bar a task on stderr, gone at its end: how much of what (``unit``), for how long and for how long yet.

    Where stderr is no terminal, or not ``shown``, it says nothing.
    """
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    columns.append(DownloadColumn() if in_bytes else MofNCompleteColumn())
    if unit:
        columns.append(TextColumn(unit))
    columns += [TimeElapsedColumn(), TimeRemainingColumn()]
    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # What is printed meanwhile goes where it was sent, which may be a file.
        disable=not shown or not sys.stderr.isatty(),
    )
