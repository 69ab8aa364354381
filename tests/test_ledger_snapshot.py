"""Snapshots of a ledger: what is read is what was there, or nothing is. That it misses nothing: P14 in history.py."""

from __future__ import annotations

import io
import os
import random
import time
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from monitor.core.ledger import ENDING_BYTES, NEVER_MS, Ledger
from monitor.core.ledger_snapshot import ENDS_AT_ONCE, LedgerSaving
from monitor.core.parted import PARTS
from monitor.core.pipeline import Pipeline
from monitor.core.snapshot import Unusable, chunks, framed
from monitor.core.verdict import Verdict, encode_verdict, read_instant
from monitor.inputs.held import Pending
from monitor.inputs.snapshots import LEDGER_KEPT_S, Keeper, Partition, Snapshots
from tests.history import known_to
from tests.member import until
from tests.test_ledger import CONFERENCE, DAY_MS, DECIDED, Topic, a_verdict
from tests.test_snapshots import damaged, fed

OF = Partition("0123456789abcdef", "verdicts", 0)
UNUSUAL = "RE" + "Z" * 32  # No hexadecimal digits: a SID all the same.


def some(chance: random.Random, count: int) -> list[Verdict]:
    """Verdicts of every kind, each of a recording of its own but for a few."""
    keys = [f"RE{chance.getrandbits(128):032x}" for _ in range(count)] + [UNUSUAL]
    recordings = [
        a_verdict(
            recording_sid=key,
            account_sid=f"AC{chance.randrange(5):032x}",
            final=chance.random() < 0.5,
            outcome=chance.choice(("allowed", "disallowed", "undetermined")),
            recording_status=chance.choice(("in-progress", "completed")),
            at=(1, at),
        )
        for at, key in enumerate(keys)
    ]
    suspicion = a_verdict(kind="suspicion", recording_sid=None, outcome="undetermined", at=(1, len(keys)))
    return [*recordings, suspicion]


def whole(count: int = 600, seed: int = 1) -> tuple[Topic, Ledger]:
    """A ledger that has published so many verdicts, and their topic."""
    topic = Topic()
    ledger = Ledger(topic.fetch)
    for verdict in some(random.Random(seed), count):
        topic.publish(ledger, verdict)
    return topic, ledger


def written(snapshots: Snapshots, ledger: Ledger, below: int) -> Path:
    return finished(snapshots, LedgerSaving(ledger, snapshots.name_of(OF, ledger=True), below))


def finished(snapshots: Snapshots, saving: LedgerSaving) -> Path:
    path = snapshots.path(OF, ledger=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    while not saving.walk(1):
        pass
    path.write_bytes(b"".join(saving.take()))
    return path


def read(snapshots: Snapshots, topic: Topic, of: Partition = OF, **kept: int) -> tuple[Ledger, int] | None:
    """A ledger as a snapshot leaves it, and from where on the topic is to be read; None: there is none that fits."""
    ledger = Ledger(topic.fetch, **kept)
    restoring = snapshots.begin_ledger(ledger, of)
    if restoring is None:
        return None
    try:
        while not restoring.read(0.001):
            pass
    finally:
        restoring.close()
    return ledger, restoring.offset


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "snapshots", every_s=0.0, kept_s=3600.0, version="1")


def test_what_is_read_is_what_was_there(snapshots: Snapshots):
    topic, ledger = whole()
    written(snapshots, ledger, len(topic.values))

    found = read(snapshots, topic)

    assert found is not None
    successor, offset = found
    assert offset == len(topic.values)
    assert known_to(successor) == known_to(ledger)
    assert len(successor) == len(ledger) == 602
    assert (successor.greatest_offset(1), successor.greatest_generation()) == (601, 1)
    assert list(successor.open_keys()) == list(ledger.open_keys())
    assert going_on(successor) == going_on(ledger)
    assert list(successor.ended(read_instant(DECIDED) + 8 * DAY_MS)) == list(
        ledger.ended(read_instant(DECIDED) + 8 * DAY_MS)
    )


@pytest.mark.parametrize("key", ["RE" + "1" * 32, "no SID"])
@pytest.mark.parametrize("final", [True, False])
def test_the_greatest_position_is_read_whatever_it_is_of(snapshots: Snapshots, key: str, *, final: bool):
    """Else a takeover would tell again what was told, in a generation that has been."""
    topic, ledger = whole()
    topic.publish(ledger, a_verdict(recording_sid=key, at=(3, 700), final=final))
    written(snapshots, ledger, len(topic.values))
    found = read(snapshots, topic)
    assert found is not None
    successor, _ = found
    assert [successor.greatest_offset(generation) for generation in (1, 2, 3)] == [601, None, 700]
    assert successor.greatest_generation() == 3


def test_what_a_verdict_says_has_the_same_digest_in_every_process():
    """Else each would be told once more after a takeover: what was loaded is compared with what is found anew."""
    assert remembered_content() == 17_859_008_540_376_971_193


def going_on(ledger: Ledger) -> list[tuple[str, str, str]]:
    return sorted(chain.from_iterable(map(ledger.going_on, range(PARTS))))


def test_what_goes_on_are_the_open_verdicts_of_recordings_that_have_not_ended():
    topic = Topic()
    ledger = Ledger(topic.fetch)
    account = "AC" + "0" * 32
    states: list[dict[str, Any]] = [
        {},
        {"recording_status": "stopped"},
        {"ended_at": DECIDED},
        {"final": True},
        {"outcome": "allowed"},
    ]
    for digit, changes in enumerate(states):
        topic.publish(ledger, a_verdict(recording_sid=f"RE{digit:032x}", **changes))
    topic.publish(ledger, a_verdict(kind="suspicion", recording_sid=None))

    assert going_on(ledger) == [
        (f"RE{0:032x}", account, "disallowed"),
        (f"RE{4:032x}", account, "allowed"),
    ]


def test_what_lies_above_or_has_not_been_placed_is_left_to_be_read(snapshots: Snapshots):
    topic, ledger = whole(3)
    topic.publish(ledger, a_verdict(recording_sid="RE" + "a" * 32))  # Above.
    ledger.publish(a_verdict(recording_sid="RE" + "b" * 32), 1)  # On its way.
    saving = LedgerSaving(ledger, snapshots.name_of(OF, ledger=True), 5)
    assert not any(saving.walk(1) for _ in range(3 * PARTS))

    ledger.placed("RE" + "b" * 32, (1, 7), 6)

    assert saving.walk(1)
    finished(snapshots, saving)
    found = read(snapshots, topic)
    assert found is not None
    successor, offset = found
    assert (len(successor), offset) == (5, 5)
    assert successor.knows(CONFERENCE)
    assert not successor.knows("RE" + "a" * 32)
    assert not successor.knows("RE" + "b" * 32)


def test_until_when_a_verdict_is_kept_is_known_only_of_what_is_in_the_file(snapshots: Snapshots):
    topic = Topic()
    ledger = Ledger(topic.fetch)
    for digit in "ab":
        topic.publish(ledger, a_verdict(recording_sid="RE" + digit * 32, final=True))
    written(snapshots, ledger, 1)

    found = read(snapshots, topic)

    assert found is not None
    assert found[0].restored
    _, ends, _ = known_to(found[0])
    assert [key for _, key in ends] == ["RE" + "a" * 32]
    [packed] = found[0].dump_ends()[0].values()
    assert len(packed) == ENDING_BYTES


def test_a_file_that_lacks_a_part_is_not_used(snapshots: Snapshots):
    topic, ledger = whole(200)
    path = written(snapshots, ledger, len(topic.values))
    parts = [framed(chunk) for chunk in chunks(io.BytesIO(path.read_bytes()).read)]
    for lacking in range(1, 6):
        path.write_bytes(b"".join(parts[:lacking] + parts[lacking + 1 :]))
        with pytest.raises(Unusable):
            read(snapshots, topic)


def test_it_is_put_in_place_only_once_what_was_on_its_way_has_arrived(snapshots: Snapshots):
    topic, ledger = whole(200)
    fold, pending, path = fed(0), Pending(), snapshots.path(OF, ledger=True)
    keeper = snapshots.keep(OF)
    placed = 0
    for _ in range(2):
        fence = pending.begin()
        for _ in range(500):
            keeper.turn(fold, 0, ledger, len(topic.values), pending)
            time.sleep(0.001)
        assert keeper._ledger._whole
        assert number_of(path) == placed
        pending.end(fence)
        until(partial(another_placed, path, placed, keeper, fold, ledger, len(topic.values), pending))
        placed = number_of(path)
        for verdict in some(random.Random(placed), 200):
            topic.publish(ledger, verdict)


def number_of(path: Path) -> int:
    """The file's own number, 0 where there is none: one that takes its place has another."""
    return path.stat().st_ino if path.exists() else 0


def another_placed(path: Path, before: int, keeper: Keeper, *seen: Any) -> bool:
    return not turned(keeper, *seen) and number_of(path) != before


def test_one_of_a_topic_in_which_nothing_comes_is_renewed_before_it_is_too_old(tmp_path: Path):
    topic, ledger = whole(200)
    snapshots = Snapshots(tmp_path / "snapshots", every_s=0.0, kept_s=0.6, version="1")
    path, keeper = snapshots.path(OF, ledger=True), snapshots.keep(OF)
    written_at: set[int] = set()
    while len(written_at) < 3:
        until(lambda: not turned(keeper, fed(0), ledger, len(topic.values), Pending()) and path.exists())
        written_at.add(path.stat().st_mtime_ns)
        assert time.time() - path.stat().st_mtime < 5.0
    empty, nothing = Snapshots(tmp_path / "empty", every_s=0.0, kept_s=0.1, version="1"), Ledger(topic.fetch)
    keeper = empty.keep(OF)
    until_s = time.monotonic() + 0.3
    while time.monotonic() < until_s:
        keeper.turn(fed(0), 0, nothing, 0, Pending())
    assert not empty.path(OF, ledger=True).exists()


def turned(keeper: Keeper, fold: Pipeline, ledger: Ledger, read_to: int, pending: Pending) -> bool:
    """Whether a snapshot is being taken after one more turn."""
    keeper.turn(fold, 0, ledger, read_to, pending)
    return keeper.saving > 0


def test_the_ends_of_an_hour_are_written_and_read_in_goes(snapshots: Snapshots):
    topic = Topic()
    ledger = Ledger(topic.fetch)
    count = 2 * ENDS_AT_ONCE + 1
    for number in range(count):
        for kind in ("RE", "re"):  # The second is no SID of Twilio's: its end is not packed.
            topic.publish(ledger, a_verdict(recording_sid=f"{kind}{number:032x}", final=True, at=(1, number)))
    saving = LedgerSaving(ledger, snapshots.name_of(OF, ledger=True), len(topic.values))
    goes = []
    while not saving.walk(1):
        goes.append(saving.take())
    goes.append(saving.take())
    ends = [sum(map(len, go)) for go in goes[PARTS:]]
    assert len(ends) == 3 + 3 + 1  # Ends of both kinds, and that it is all.
    assert max(ends) < 60 * ENDS_AT_ONCE

    path = snapshots.path(OF, ledger=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(chunk for go in goes for chunk in go))
    found = read(snapshots, topic)
    assert found is not None
    assert known_to(found[0]) == known_to(ledger)
    assert len(list(found[0].ended(NEVER_MS))) == 2 * count


@pytest.mark.parametrize("walked", [0, 3, 100, PARTS - 1])
def test_what_is_acknowledged_while_the_parts_are_copied_is_in_none_too_few(snapshots: Snapshots, walked: int):
    """The topic may be read before it is acknowledged: then what was on its way lies below, and changes its part."""
    topic = Topic()
    ledger = Ledger(topic.fetch)
    verdicts = some(random.Random(2), 300)
    for verdict in verdicts:
        ledger.publish(verdict, 1)
        topic.values.append(encode_verdict(verdict))
    saving = LedgerSaving(ledger, snapshots.name_of(OF, ledger=True), len(verdicts))
    for _ in range(walked):
        saving.walk(1)
    for place, verdict in enumerate(verdicts):
        ledger.placed(verdict.key, verdict.at, place)

    finished(snapshots, saving)
    found = read(snapshots, topic)

    assert found is not None
    assert known_to(found[0]) == known_to(ledger)


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_to_the_file_goes_unseen(snapshots: Snapshots, seed: int):
    topic, ledger = whole(200)
    path = written(snapshots, ledger, len(topic.values))
    path.write_bytes(damaged(path.read_bytes(), seed))
    try:
        assert read(snapshots, topic) is None
    except Unusable:
        pass


def test_one_that_does_not_fit_is_left_alone(snapshots: Snapshots, tmp_path: Path):
    topic, ledger = whole(10)
    path = written(snapshots, ledger, len(topic.values))
    assert read(snapshots, topic) is not None
    assert read(snapshots, topic, others_kept_ms=DAY_MS) is None  # Then other ends are set down in it.
    again = OF._replace(verdicts_id="made anew")
    assert read(snapshots, topic, again) is None
    other = Snapshots(tmp_path / "snapshots", every_s=0.0, kept_s=3600.0, version="2")
    assert read(other, topic) is None
    for directory in (snapshots, other):
        directory.submit(lambda: None).result()  # Nobody tidies any more.
    for old in (time.time() - LEDGER_KEPT_S - 1, time.time() + 3600):  # Of tomorrow: the clock has gone back since.
        os.utime(path, (old, old))
        assert read(snapshots, topic) is None
    for old in (time.time() - LEDGER_KEPT_S + 60, time.time() + 5):
        os.utime(path, (old, old))
        assert read(snapshots, topic) is not None


def remembered_content() -> int:
    """The digest of what a verdict says."""
    ledger = Ledger(lambda _key, _place: encode_verdict(a_verdict()))
    ledger.publish(a_verdict(), 1)
    ledger.placed(a_verdict().key, (1, 7), 0)
    published = ledger.last(a_verdict().key)
    assert published is not None
    return published.content
