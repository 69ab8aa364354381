"""Upgrade and rollback with the code of both versions: each takes over from the other, on one real broker.

    python -m tests.upgrade try --from a9bbcef           from that commit to this tree and back, and a table
    python -m tests.upgrade keep --from v0.1.0 0.1.0     what that version leaves, into tests/versions/0.1.0

``try`` plays histories like those of `tests.torture`, but whoever takes over is of the other version. What then stands
on the topics is judged as there: against the truth, the commits, and what either version by itself says of the very
messages (a verdict that one of them settled is the other's to leave alone). ``keep`` is for each release: what is kept
is what `tests/test_upgrade.py` tries on every change.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tests import versions
from tests.broker import RealBroker, stop_is_an_interrupt
from tests.monitors import ROOT, program
from tests.torture.judge import Tally, judge, unlike_straight
from tests.torture.stage import Act, Stage, moments
from tests.verify import Verdict, holding

Play = Callable[[Stage, Path, Path, int], None]
# One database for whoever is there; where two are, each has its own.
_CASES: Final[dict[str, Any]] = {"cases": {"database": "cases.sqlite3"}}


class Row(NamedTuple):
    """A line of the table: what is done with two versions. ``at_once``: both are there at the same time."""

    title: str
    play: Play
    at_once: bool = False


def one_then_other(stage: Stage, first: Path, second: Path, events: int) -> None:
    """One version is killed at its work, the other goes on to the end."""
    member = stage.join(tree=first, **_CASES).ready()
    stage.play(Act(stage.seed * 10, events), events / 400).wait()
    stage.close_windows()  # So that there are final verdicts, which have to stand.
    feed = stage.play(Act(stage.seed * 10 + 1, events), events / 400)
    time.sleep(stage.chance.uniform(0.3, 0.7) * events / 400)
    member.kill()
    stage.mark()
    stage.join(tree=second, **_CASES)
    feed.wait()
    stage.close_windows()


def by_turns(stage: Stage, first: Path, second: Path, events: int) -> None:
    """Killed every few seconds, also while it takes over; each time the other version comes."""
    trees = cycle((first, second))
    stage.join(tree=next(trees), **_CASES).ready()
    for number in range(2):
        feed = stage.play(Act(stage.seed * 10 + number, events), events / 200)
        for _ in moments(stage.chance, feed, 2.0, 9.0):
            stage.running()[0].kill()
            stage.mark()
            stage.join(tree=next(trees), **_CASES)
        feed.wait()
        stage.close_windows()


def side_by_side(stage: Stage, first: Path, second: Path, events: int) -> None:
    """Both in one group; one is killed and comes back, so that partitions go from the one to the other."""
    members = {tree: stage.join(tree=tree) for tree in (first, second)}
    for member in members.values():
        member.ready()
    for number in range(2):
        feed = stage.play(Act(stage.seed * 10 + number, events), events / 200)
        for _ in moments(stage.chance, feed, 2.0, 9.0):
            tree = stage.chance.choice([first, second])
            members[tree].kill()
            stage.mark()
            members[tree] = stage.join(tree=tree)
        feed.wait()
        stage.close_windows()


ROWS: Final = (
    Row("old killed, new goes on", one_then_other),
    Row("new killed, old goes on", lambda stage, old, new, events: one_then_other(stage, new, old, events)),
    Row("old and new by turns", by_turns),
    Row("old and new side by side", side_by_side, at_once=True),
)
HEAD: Final = (
    *("what happens", "histories", "kills", "takeovers", "verdicts"),
    *("lost", "different", "told again", "paged twice", "result"),
)


class Tried(msgspec.Struct, kw_only=True):
    """What became of a row.

    ``pages`` are recordings that an Alertmanager was told of as two different alerts, or of which it is written twice
    that somebody was told (which two processes that are there at once may do: it is one alert all the same).
    """

    tally: Tally = msgspec.field(default_factory=Tally)
    histories: int = 0
    takeovers: int = 0
    pages: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, changed, or told again."""
        return self.histories > 0 and self.tally.passed and not self.pages


def attempt(row: Row, tried: Tried, broker: RealBroker, directory: Path, old: Path, seed: int, events: int) -> None:
    """Play one history, and add to what became of the row. Both versions have one directory for snapshots."""
    with (
        versions.taking_alerts() as (url, alerts),
        Stage(
            broker,
            directory,
            seed,
            alertmanagers=[url],
            snapshots={"directory": str(directory / "snapshots"), "every": "1s"},
        ) as stage,
    ):
        row.play(stage, old, ROOT, events)
        stage.rest()
        stage.stop_all()
        tried.tally.add(_judged(stage, old))
        tried.pages += _paged_twice(stage, alerts, at_once=row.at_once)
        tried.takeovers += sum(len(member.said("partition_taken_over")) for member in stage.members)
        tried.tally.faults += [
            f"{member.log.name}: foreign checkpoint {said['why']}"
            for member in stage.members
            for said in member.said("foreign_checkpoint_found")
        ]
    tried.histories += 1


def _judged(stage: Stage, old: Path) -> Tally:
    """Judge it by what the old version by itself says where that is what stands, else by what this one says."""
    messages = stage.site.written()
    holds = holding(messages)
    by_old, straight = _alone(stage, old), _alone(stage, ROOT)
    for key, verdict in by_old.items():
        if key in holds and not unlike_straight({key: holds[key]}, {key: verdict}):
            straight[key] = verdict
    tally = judge(messages, stage.commits(), stage.truth, marks=stage.marks, straight=straight)
    tally.faults += stage.notes + stage.unwell()
    return tally


def _alone(stage: Stage, tree: Path) -> dict[str, Verdict]:
    """What a version by itself says of the messages in the topic."""
    config = str(stage.site.config(kafka=stage.kafka()))
    done = program(
        "replay", "--topic", "--no-end", "--format", "jsonl", "--config", config, cwd=stage.directory, tree=tree
    )
    assert done.returncode == 0, done.stderr.decode()
    said = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    return {verdict["recording_sid"] or verdict["conference_sid"]: verdict for verdict in said}


def _paged_twice(stage: Stage, alerts: Sequence[Mapping[str, Any]], *, at_once: bool) -> list[str]:
    """The recordings about which somebody was woken twice."""
    identities = versions.identities(alerts)
    twice = [f"{sid}: {len(found)} alerts" for sid, found in identities.items() if len(found) > 1]
    if at_once:
        return twice
    marks = versions.told_marks(versions.topic(stage, "case_actions"))
    return twice + [f"{sid}: told {count} times" for (sid, _), count in marks.items() if count > 1]


def try_both(ref: str, *, histories: int, events: int, seed: int, keep: Path | None) -> int:
    """Play every row and print the table; 0 when all have passed, 1 when one has not."""
    directory = keep or Path(tempfile.mkdtemp(prefix="recording-monitor-upgrade-"))
    directory.mkdir(parents=True, exist_ok=True)
    old = versions.checked_out(ref, directory / "old")
    broker = RealBroker(directory / "broker")
    stop_is_an_interrupt()
    begun, lines, failed = time.monotonic(), [], False
    try:
        broker.start()
        for number, row in enumerate(ROWS):
            tried = Tried()
            for history in range(histories):
                place = directory / f"row-{number}-{history}"
                attempt(row, tried, broker, place, old, seed + 100 * number + history, events)
            failed = failed or not tried.passed
            lines.append(_line(row, tried))
            print(" ".join(lines[-1]), *_faults(tried), sep="\n  ", file=sys.stderr, flush=True)
    finally:
        broker.kill()
        broker.remove_data()
    print(f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}", *(f"| {' | '.join(line)} |" for line in lines), sep="\n")
    print(f"\n{time.monotonic() - begun:.0f} s; from {ref} to this tree; seed {seed}")
    if failed:
        print(f"What failed can be looked into under {directory}")
    elif keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if failed else 0


def _line(row: Row, tried: Tried) -> tuple[str, ...]:
    tally = tried.tally
    counts = (tried.histories, tally.harm, tried.takeovers, tally.verdicts, len(tally.lost), len(tally.different))
    more = (len(tally.repeated), len(tried.pages))
    return (row.title, *map(str, counts + more), "as promised" if tried.passed else "**not**")


def _faults(tried: Tried) -> list[str]:
    tally = tried.tally
    return [*tally.lost, *tally.different, *tally.repeated, *tally.faults, *tried.pages]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trying = commands.add_parser("try", help="both versions by turns; exit code 1 when a promise is broken")
    keeping = commands.add_parser("keep", help="keep what a version leaves, for the tests")
    for command in (trying, keeping):
        command.add_argument("--from", dest="ref", required=True, metavar="COMMIT", help="the other version")
    trying.add_argument("--histories", type=int, default=2, metavar="N", help="how many of each row")
    trying.add_argument(
        "--events", type=int, default=4_000, metavar="N", help="Twilio's events in each part of a history"
    )
    trying.add_argument("--seed", type=int, default=1)
    trying.add_argument(
        "--keep", type=Path, metavar="DIR", help="where evidence goes; without it a temporary directory"
    )
    keeping.add_argument("name", help="under which name")
    asked = parser.parse_args(arguments)
    if asked.command == "keep":
        versions.keep(asked.ref, asked.name)
        return 0
    return try_both(asked.ref, histories=asked.histories, events=asked.events, seed=asked.seed, keep=asked.keep)


if __name__ == "__main__":
    sys.exit(main())
