"""The demo as somebody sees it who has just cloned the repository: a process, its lines, its table, its end."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from monitor.core.attribution import CAUSES
from monitor.simulator.truth import Header, RecordingTruth, read_truth
from tests.monitors import PROGRAM, ROOT, environment, program, until

VERDICT_LINE = re.compile(rb"^(allowed|disallowed|undetermined) +(RE|CF)[0-9a-f]{32} ", re.MULTILINE)


class Demo:
    """A demo at work; what it says is read as it comes, so that it never waits for us."""

    def __init__(self, *arguments: str, terminal: bool = False) -> None:
        self.said = b""
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "demo", *arguments],
            cwd=ROOT,
            env=environment(**({"TERM": "xterm", "LINES": "50"} if terminal else {})),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        # A terminal whose other end is closed answers with an error, a pipe with nothing.
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65_536):
                self.said += data

    def until_it_says(self, pattern: str) -> re.Match[bytes]:
        """Wait for a line."""
        until(lambda: re.search(pattern.encode(), self.said) or self._process.poll() is not None)
        found = re.search(pattern.encode(), self.said)
        assert found is not None, self.said[-2000:]
        return found

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, str]:
        """How it ended, and what it said on stderr."""
        _, errors = self._process.communicate(timeout=120)
        self._reading.join(10)
        return self._process.returncode, errors.decode()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        os.close(self._ours)


@contextlib.contextmanager
def demo(*arguments: str, terminal: bool = False) -> Iterator[Demo]:
    running = Demo(*arguments, terminal=terminal)
    try:
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_bounded_demo_judges_every_cause_as_the_truth_says_and_answers_on_another_port_than_a_taken_one(
    tmp_path: Path,
) -> None:
    truth = tmp_path / "truth.jsonl"
    with taken_port() as port, demo("--for", "15s", "--port", str(port), "--truth", str(truth)) as running:
        address = running.until_it_says(r"metrics: (http://127\.0\.0\.1:(\d+)/metrics)")
        assert int(address[2]) != port
        running.until_it_says(r"(?m)^disallowed ")
        with urllib.request.urlopen(address[1].decode(), timeout=60) as answer:
            assert b"recording_monitor_recordings_total{" in answer.read()
        code, errors = running.ended()
    assert (code, errors) == (0, "")
    rows = re.findall(
        rb"\xe2\x94\x82 ([a-z_ ]+?) +\xe2\x94\x82 (\d+) +\xe2\x94\x82 (\d+) +\xe2\x94\x82 0 .*? 0 ", running.said
    )
    said = {cause.decode(): (int(true), int(agreed)) for cause, true, agreed in rows}
    assert all(true == agreed > 0 for true, agreed in said.values())
    assert said.keys() == {*CAUSES, "suspicion", "open to the end"}
    with truth.open("rb") as file:
        first, *lines = read_truth(file)
    assert isinstance(first, Header)
    recordings = [line for line in lines if isinstance(line, RecordingTruth)]
    assert (
        f"{len(recordings)} of {len(recordings)} recordings judged as the truth says: all agree.".encode()
        in running.said
    )
    # Every recording has its line, as it was reached.
    shown = {line.split()[1].decode() for line in running.said.splitlines() if VERDICT_LINE.match(line)}
    assert {one.recording_sid for one in recordings if one.kind == "recording"} <= shown


def test_ctrl_c_ends_the_endless_demo_in_good_order(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    with demo("--rate", "800", "--port", "0", "--truth", str(truth)) as running:
        until(lambda: len(VERDICT_LINE.findall(running.said)) >= 5)
        running.interrupt()
        code, errors = running.ended()
    assert (code, errors) == (0, "")
    told = truth.read_bytes()
    for line in running.said.splitlines():
        if VERDICT_LINE.match(line):
            assert line.split()[1] in told


def test_on_a_terminal_the_demo_shows_a_table_and_gives_the_cursor_back(tmp_path: Path) -> None:
    with demo("--rate", "800", "--port", "0", "--truth", str(tmp_path / "truth.jsonl"), terminal=True) as running:
        running.until_it_says(r"\d+ events sent")
        running.until_it_says(r"(disallowed|allowed)")
        running.interrupt()
        code, errors = running.ended()
    assert (code, errors) == (0, "")
    assert b"\x1b[?25l" in running.said
    assert running.said.rindex(b"\x1b[?25h") > running.said.rindex(b"\x1b[?25l")
    assert not VERDICT_LINE.search(running.said)


def test_a_demo_under_a_policy_of_ones_own_is_not_held_against_the_truth(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy: mine\ndefault: allowed\nrules: []\n")
    with demo("--for", "2s", "--port", "0", "--policy", str(policy), "--truth", str(tmp_path / "truth")) as running:
        code, errors = running.ended()
    assert (code, errors) == (0, "")
    assert b"not compared, since the policy is your own" in running.said
    assert not re.search(rb"(?m)^disallowed ", running.said)


def test_a_demo_with_a_wrong_option_ends_with_two_and_starts_nothing(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy: mine\ndefolt: allowed\n")
    for arguments in (["--for", "soon"], ["--policy", str(policy)]):
        done = program("demo", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""
