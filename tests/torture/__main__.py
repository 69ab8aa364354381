"""Tries every row and prints the table; exit code 1 when one has failed."""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.broker import stop_is_an_interrupt
from tests.torture.judge import Tally
from tests.torture.rows import ROWS, Bench, History, Row

HEAD = (
    ("what happens", "<"),
    ("histories", ">"),
    ("faults", ">"),
    ("verdicts", ">"),
    ("lost", ">"),
    ("different", ">"),
    ("repeated", ">"),
    ("live again s, median / max", ">"),
    ("result", "<"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 when every row has passed, 1 when one has failed."""
    asked = _arguments(arguments)
    directory = asked.keep or Path(tempfile.mkdtemp(prefix="recording-monitor-torture-"))
    directory.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if asked.row is None or row.name in asked.row]
    bench = Bench(directory, quick=asked.quick)
    begun = time.monotonic()
    failed = False
    results: dict[str, _Result] = {row.name: _Result(row) for row in rows}
    stop_is_an_interrupt()
    # One after another takes hours in which the machine mostly waits.
    pool = ThreadPoolExecutor(asked.jobs)
    try:
        bench.start()
        tried = [
            (row.name, pool.submit(_try, row, bench, asked.seed + number))
            for row in rows
            for number in range(asked.histories or (row.quick if asked.quick else row.full))
        ]
        for name, future in tried:
            results[name].add(future.result())
    except KeyboardInterrupt:
        failed = True
        print("interrupted: the histories under way are played to their end", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
        bench.close()
    lines = [result.line() for result in results.values()]
    failed = failed or not all(result.passed for result in results.values())
    print(_table(lines))
    print(f"\n{time.monotonic() - begun:.0f} s; seed {asked.seed}")
    if failed:
        print(f"What failed can be looked into under {directory}")
    elif asked.keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if failed else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--row", action="append", choices=names, metavar="NAME", help=f"one of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="every row small: some minutes in all")
    parser.add_argument("--histories", type=int, metavar="N", help="try so many of each row, whatever is usual")
    parser.add_argument(
        "--seed", type=int, default=1, help="the seed of each row's first history; the next is one more"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="where evidence goes; without it a temporary directory"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="play so many histories at a time")
    return parser.parse_args(arguments)


class _Result:
    """What became of all histories of a row."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._total = Tally()
        self._tried = 0
        self._broken = 0

    @property
    def passed(self) -> bool:
        """Whether there were any, and all went well."""
        return self._tried > 0 and not self._broken and self._total.passed

    def add(self, tally: Tally | None) -> None:
        """Take in one more; None could not be played to its end, which proves nothing and is no success."""
        self._tried += 1
        if tally is None:
            self._broken += 1
        else:
            self._total.add(tally)

    def line(self) -> tuple[str, ...]:
        """Its line of the table."""
        total = self._total
        lives = [live for live in total.live_s if live is not None]
        live = f"{statistics.median(lives):.1f} / {max(lives):.1f}" if lives else "–"
        if None in total.live_s:
            live += ", not always"
        wrong = [f"{len(total.faults)} promises broken"] if total.faults else []
        wrong += [f"{self._broken} histories broken"] if self._broken else []
        return (
            self._row.title,
            str(self._tried),
            str(total.harm),
            str(total.verdicts),
            str(len(total.lost)),
            str(len(total.different)),
            str(len(total.repeated)),
            live,
            "ok" if self.passed else "**FAILED**" + (f" ({'; '.join(wrong)})" if wrong else ""),
        )


def _try(row: Row, bench: Bench, seed: int) -> Tally | None:
    """Play one history to its end and say what came of it; None where it broke."""
    directory = bench.directory / f"{row.name}-{seed}"
    begun = time.monotonic()
    try:
        tally = row.attempt(History(bench, directory, seed))
    except Exception:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "broken.txt").write_text(traceback.format_exc())
        print(f"{row.name} seed {seed}: broken\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return None
    _say(row, seed, tally, time.monotonic() - begun)
    if tally.passed:
        shutil.rmtree(directory, ignore_errors=True)
    return tally


def _say(row: Row, seed: int, tally: Tally, seconds: float) -> None:
    """A line a history on stderr, and of what went wrong the first cases."""
    wrong = [
        *(f"broken promise: {line}" for line in tally.faults),
        *(f"lost: {line}" for line in tally.lost),
        *(f"different: {line}" for line in tally.different),
        *(f"repeated: {line}" for line in tally.repeated),
        *("never live again" for live in tally.live_s if live is None),
    ]
    print(
        f"{row.name} seed {seed}: {'ok' if tally.passed else 'FAILED'} in {seconds:.0f} s, {tally.verdicts} verdicts, "
        f"{tally.harm} faults, {tally.again} told again, {tally.superseded} written late",
        *(f"    {line}" for line in wrong[:12]),
        *([f"    … and {len(wrong) - 12} more"] if len(wrong) > 12 else []),
        sep="\n",
        file=sys.stderr,
        flush=True,
    )


def _table(lines: Sequence[tuple[str, ...]]) -> str:
    """Markdown that can be read as it is."""
    heads = tuple(name for name, _ in HEAD)
    widths = [max(len(line[n]) for line in [heads, *lines]) for n in range(len(HEAD))]
    rules = tuple(
        ("-" * (w - 1) + ":") if align == ">" else "-" * w for w, (_, align) in zip(widths, HEAD, strict=True)
    )

    def render(line: Sequence[str]) -> str:
        cells = (
            text.rjust(width) if align == ">" else text.ljust(width)
            for text, width, (_, align) in zip(line, widths, HEAD, strict=True)
        )
        return f"| {' | '.join(cells)} |"

    return "\n".join(render(line) for line in (heads, rules, *lines))


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
