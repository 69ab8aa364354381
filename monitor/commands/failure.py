"""What becomes of a command's error: what is told on stderr, and the exit code."""

from __future__ import annotations

import errno
import traceback
from typing import Final

import typer

from monitor.errors import OutOfReach, WrongInput
from monitor.log import redact

EXIT_WRONG: Final = 2
EXIT_OUT_OF_REACH: Final = 3
EXIT_BUG: Final = 70  # EX_SOFTWARE; 1 would say "no" to a question that was never answered.

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

PROGRAM: Final = "recording-monitor"


def tell(error: Exception) -> int:
    """Tell an error on stderr, in lines that say what to do, and give its exit code."""
    if isinstance(error, WrongInput):
        # Not redacted: these errors were written not to hold secrets, and a glob in a policy may look like anything.
        typer.echo(str(error), err=True)
        return EXIT_WRONG
    if isinstance(error, OutOfReach):
        typer.echo(f"{PROGRAM}: {redact(str(error))}", err=True)
        return EXIT_OUT_OF_REACH
    if isinstance(error, OSError) and error.filename is not None:
        typer.echo(f"{PROGRAM}: {redact(str(error.filename))}: {error.strerror}", err=True)
        # A file that was named and is not there is wrong usage; a full disk or a failing one is out of reach.
        wrong = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError)
        return EXIT_WRONG if wrong else EXIT_OUT_OF_REACH
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        # Standard output has no name.
        typer.echo(f"{PROGRAM}: the output could not be written: {error.strerror}", err=True)
        return EXIT_OUT_OF_REACH
    trace = "".join(traceback.format_exception(error))
    typer.echo(f"{redact(trace)}\n{PROGRAM}: this is a bug; please report it with the lines above.", err=True)
    return EXIT_BUG
