"""The bar of long commands: on a terminal, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitors import ROOT, environment

STREAM = Path(__file__).parent / "samples" / "scenarios"


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end somebody looks at, and the end of the program."""
    screen, inside = pty.openpty()
    yield screen, inside
    os.close(screen)


def replay(out: Path, stderr: int) -> None:
    [stream] = STREAM.glob("08_*.jsonl")
    command = [sys.executable, "-c", "from monitor.cli import main; main()", "replay", "--revisions", str(stream)]
    with out.open("wb") as stdout:
        env = {**environment(), "TERM": "xterm"}
        subprocess.run(command, cwd=ROOT, env=env, stdout=stdout, stderr=stderr, check=True, timeout=120)


def everything(screen: int) -> str:
    shown = b""
    with contextlib.suppress(OSError):  # How Linux says that nobody is inside any more.
        while some := os.read(screen, 1 << 16):
            shown += some
    return shown.decode()


def test_what_is_printed_beside_the_bar_goes_where_it_was_sent(tmp_path, terminal):
    screen, inside = terminal
    replay(tmp_path / "with", inside)
    os.close(inside)
    shown = everything(screen)
    replay(tmp_path / "without", subprocess.DEVNULL)

    assert "replaying" in shown
    assert "r1" in (tmp_path / "with").read_text()
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


def test_where_there_is_no_terminal_nothing_of_it_is_said(tmp_path):
    with (tmp_path / "said").open("wb") as said:
        replay(tmp_path / "out", said.fileno())

    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == 1, lines
    assert "entries" in lines[0]
