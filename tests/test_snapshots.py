"""Snapshots: files on a real disk, and members on a real broker that begin with one. The state: P14 in history.py."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.frozen import Frozen
from monitor.core.ledger import Ledger
from monitor.core.parted import Parted
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.snapshot import Loading, Unusable
from monitor.core.verdict import Verdict
from monitor.inputs.held import Pending
from monitor.inputs.snapshots import Keeper, Partition, Snapshots
from tests.broker import RealBroker
from tests.full_disk import files_no_larger_than
from tests.history import derived_of, state_of
from tests.member import Desk, Running, Stumbling, recording_event, recording_sid, until
from tests.torture.nailed import Shift

BASE_MS = 1_790_000_000_000
OF = Partition("0123456789abcdef", "verdicts", 0)
ORDINARY = Tuning()


def pipeline(tuning: Tuning = ORDINARY, checkpoint: Checkpoint | None = None) -> Pipeline:
    start = checkpoint or Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
    return Pipeline(tuning, built_in_policy(), AccountSettings(), partition=0, checkpoint=start)


def fed(count: int) -> Pipeline:
    """A fold that has been judged live, with so many conversations open."""
    fold = pipeline()
    fold.open(Ledger())
    for number in range(count):
        fold.feed(number, BASE_MS + number, recording_event(number, source="Conference"))
    return fold


def taken_over(fold: Pipeline) -> Checkpoint:
    """Where a successor goes on that finds all of it committed."""
    return fold.checkpoint()


def turns(keeper: Keeper, fold: Pipeline, committed: int, done: Callable[[], bool], for_s: float = 20.0) -> None:
    until_s = time.monotonic() + for_s
    while not done():
        assert time.monotonic() < until_s, "no snapshot"
        keeper.turn(fold, committed, fold.ledger, 0, Pending())
        time.sleep(0.001)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "snapshots", every_s=0.0, kept_s=3600.0, version="1")


def saved(snapshots: Snapshots, fold: Pipeline) -> Path:
    """The file of a snapshot of ``fold`` as it is now."""
    keeper = snapshots.keep(OF)
    path = snapshots.path(OF)
    turns(keeper, fold, fold.next_offset, path.exists)
    keeper.close()
    return path


def loaded(snapshots: Snapshots, checkpoint: Checkpoint, tuning: Tuning = ORDINARY) -> Pipeline | None:
    """A successor's fold after its snapshot; None: it did not begin with one."""
    fold = pipeline(tuning, checkpoint)
    restoring = snapshots.begin(fold, checkpoint, OF)
    if restoring is None:
        return None
    try:
        while not restoring.read(0.001):
            pass
    finally:
        restoring.close()
    return fold


def test_what_is_read_is_what_was_there(snapshots: Snapshots):
    fold = fed(3000)
    saved(snapshots, fold)
    successor = loaded(snapshots, taken_over(fold))
    assert successor is not None
    assert state_of(successor) == state_of(fold)
    assert derived_of(successor) == derived_of(fold)
    assert len(successor.window.conversations()) == 3000


def test_it_is_put_in_place_only_once_the_group_has_committed_it(snapshots: Snapshots):
    fold = fed(10)
    keeper = snapshots.keep(OF)
    until_s = time.monotonic() + 0.3
    while time.monotonic() < until_s:
        keeper.turn(fold, 9, fold.ledger, 0, Pending())
    path = snapshots.path(OF)
    assert not path.exists()
    turns(keeper, fold, 10, path.exists)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_changes_meanwhile_is_written_as_it_was(snapshots: Snapshots):
    fold = fed(500)
    before, derived = state_of(fold), derived_of(fold)
    saving = fold.save("x")
    assert saving is not None
    for number in range(500, 1000):
        value = recording_event(number % 600, source="Conference", status="completed")
        fold.feed(number, BASE_MS + number, value)
        saving.walk(1)
    assert state_of(fold) != before
    while not saving.walk(10):
        pass
    checkpoint = Checkpoint(offset=1000, generation=1, replay_from=0, log_time_ms=BASE_MS)
    other = pipeline(checkpoint=checkpoint)
    read(saving.take(), other, checkpoint)
    assert state_of(other) == before
    assert derived_of(other) == derived


def test_what_was_copied_of_calls_while_they_were_written_is_put_back_a_little_at_a_time():
    tuning = Tuning(window_ms=1_800_000)
    entries = [(entry.stamp_ms or 0, entry.value) for entry in Shift(3, agents=8, hours=2).entries(BASE_MS)]
    fold = pipeline(tuning)
    fold.open(Ledger())
    half = len(entries) // 2
    for offset, (stamp_ms, value) in enumerate(entries[:half]):
        fold.feed(offset, stamp_ms, value)
    saving = fold.save("x")
    assert saving is not None
    for offset, (stamp_ms, value) in enumerate(entries[half:], half):
        fold.feed(offset, stamp_ms, value)
    [account] = fold.window.accounts.values()
    assert account.guests is not None
    left = []
    while isinstance(records := account.guests.notes.calls, Frozen):
        left.append(len(records._now) + len(records._dropped))
        saving.walk(1)
    assert left[0] > 8
    assert max(before - after for before, after in pairwise(left)) == 2


@pytest.mark.parametrize("each_time", [1, 40, 100_000])
def test_what_is_noted_of_nailed_up_calls_meanwhile_is_not_in_it(each_time: int):
    """Half a shift is folded before; then calls are seen, noted, told again and forgotten while it is written."""
    tuning = Tuning(window_ms=1_800_000)  # So that what is known of calls is forgotten, too.
    entries = [
        (entry.stamp_ms or 0, entry.value) for entry in Shift(3, agents=8, hours=3).entries(BASE_MS, late_ms=600_000)
    ]
    fold, untouched = (pipeline(tuning) for _ in range(2))
    for each in (fold, untouched):
        each.open(Ledger())
    half = len(entries) // 2
    for offset, (stamp_ms, value) in enumerate(entries[:half]):
        fold.feed(offset, stamp_ms, value)
        untouched.feed(offset, stamp_ms, value)
    before, derived = state_of(fold), derived_of(fold)
    saving = fold.save("x")
    assert saving is not None
    for offset, (stamp_ms, value) in enumerate(entries[half:], half):
        fold.feed(offset, stamp_ms, value)
        untouched.feed(offset, stamp_ms, value)
        if offset % 20 == 0:
            saving.walk(each_time)
    assert derived_of(fold) == derived_of(untouched)  # As if nothing were written.
    while not saving.walk(100):
        pass
    assert derived_of(fold) == derived_of(untouched)
    assert derived_of(fold)["calls"] != derived["calls"]
    checkpoint = Checkpoint(offset=len(entries), generation=1, replay_from=0, log_time_ms=BASE_MS)
    other = pipeline(tuning, checkpoint)
    read(saving.take(), other, checkpoint)
    assert state_of(other) == before
    assert derived_of(other) == derived
    saving = fold.save("x")  # Another one, which is given up in the midst of the notes.
    assert saving is not None
    assert not saving.walk(1)
    saving.give_up()
    assert derived_of(fold) == derived_of(untouched)
    assert all(isinstance(guests.notes.calls, Parted) for guests in fold.window.nailed.accounts.values())
    assert fold.save("x") is not None


def read(chunks: list[bytes], into: Pipeline, checkpoint: Checkpoint) -> None:
    """Have a fold begin with the chunks of a whole snapshot of the log ``x``."""
    header, *rest = (chunk[8:] for chunk in chunks)
    loading = into.load(header, "x", checkpoint)
    for chunk in rest:
        loading.feed(chunk)
    assert loading.done


def test_one_partition_at_a_time_is_written(snapshots: Snapshots):
    folds = [fed(5000), fed(5000)]
    two = [OF._replace(number=number) for number in range(2)]
    keepers = [snapshots.keep(of) for of in two]
    paths = [snapshots.path(of) for of in two]
    until_s = time.monotonic() + 20
    while not all(path.exists() for path in paths):
        assert time.monotonic() < until_s
        for keeper, fold in zip(keepers, folds, strict=True):
            keeper.turn(fold, fold.next_offset, fold.ledger, 0, Pending())
        assert sum(keeper.saving for keeper in keepers) <= 1


def damaged(whole: bytes, seed: int) -> bytes:
    """A file that was cut off, or of which a bit has flipped, or that has got bytes in between."""
    chance = random.Random(seed)
    at = chance.randrange(len(whole))
    if seed % 3 == 0:
        return whole[:at]
    if seed % 3 == 1:
        return whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
    return whole[:at] + chance.randbytes(chance.randint(1, 40)) + whole[at:]


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_to_the_file_goes_unseen(snapshots: Snapshots, seed: int):
    fold = fed(400)
    path = saved(snapshots, fold)
    path.write_bytes(damaged(path.read_bytes(), seed))
    try:
        assert loaded(snapshots, taken_over(fold)) is None
    except Unusable:
        pass


@pytest.mark.parametrize(
    ("change", "tuning"),
    [
        ({"generation": 2}, Tuning()),
        ({"offset": 99}, Tuning()),
        ({"replay_from": 100}, Tuning()),
        ({"lost": True}, Tuning()),
        ({}, Tuning(window_ms=3_600_000)),
        ({}, Tuning(entries_max=20)),
    ],
    ids=str,
)
def test_one_that_does_not_fit_is_left_alone(snapshots: Snapshots, change: dict[str, Any], tuning: Tuning):
    fold = fed(100)
    saved(snapshots, fold)
    checkpoint = taken_over(fold)
    fitting: dict[str, Any] = {"offset": checkpoint.offset, "generation": 1, "replay_from": 0, "log_time_ms": BASE_MS}
    assert loaded(snapshots, Checkpoint(**fitting)) is not None
    assert loaded(snapshots, Checkpoint(**fitting | change), tuning) is None


def test_another_version_of_the_monitor_leaves_it_alone(snapshots: Snapshots, tmp_path: Path):
    fold = fed(10)
    saved(snapshots, fold)
    other = Snapshots(tmp_path / "snapshots", every_s=0.0, kept_s=3600.0, version="2")
    assert loaded(snapshots, taken_over(fold)) is not None
    assert loaded(other, taken_over(fold)) is None


def test_one_that_was_taken_after_a_loss_serves_whoever_has_yet_to_settle_it(snapshots: Snapshots):
    """To catch up may take hours, and with each takeover the window would be read again."""
    [published] = [told.verdict for told in fed(0).feed(0, BASE_MS, recording_event(1)) if isinstance(told, Publish)]
    assert published is not None
    ledger = Ledger()
    ledger.take_in(published.key, published, 0)
    lost = Checkpoint(offset=100, generation=1, replay_from=100, log_time_ms=BASE_MS, lost=True, end=1_000)
    fold = pipeline(checkpoint=lost)
    fold.open(ledger)
    for number in range(100, 150):
        fold.feed(number, BASE_MS + number, recording_event(number))
    assert taken_over(fold).lost
    saved(snapshots, fold)
    successor = loaded(snapshots, taken_over(fold))
    assert successor is not None
    assert state_of(successor) == state_of(fold)


def test_none_is_begun_while_something_is_held_back():
    fold = pipeline()
    assert fold.save("x") is None
    fold.open(Ledger())
    assert fold.save("x") is None  # What the rebuild left is not told yet.
    fold.feed(0, BASE_MS, recording_event(1))
    assert fold.save("x") is not None


def test_a_directory_that_cannot_be_written_stops_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    fold = fed(10)
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        keeper = Snapshots(directory, every_s=0.0, kept_s=1.0, version="1").keep(OF)
        for _ in range(100):
            keeper.turn(fold, 10, fold.ledger, 0, Pending())
    assert len(fold.feed(10, BASE_MS + 10, recording_event(77))) == 1


@pytest.mark.parametrize("short", [1, 100_000])  # In the last chunk, and before.
def test_a_full_disk_gives_the_snapshot_up(snapshots: Snapshots, short: int):
    fold = fed(2000)
    path = saved(snapshots, fold)
    whole = path.read_bytes()
    assert len(whole) > short
    keeper = snapshots.keep(OF)
    with files_no_larger_than(len(whole) - short):
        turns(keeper, fold, 2000, lambda: keeper.saving > 0)
        turns(keeper, fold, 2000, lambda: keeper.saving == 0)
    assert fold.window._saver is None
    assert path.read_bytes() == whole  # The last one that was whole stays.
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    path.unlink()
    saved(snapshots, fold)  # The next one finds room.


def test_what_is_given_up_on_its_way_to_the_disk_is_not_written_into(snapshots: Snapshots):
    """A partition may come back before the disk is done with its last snapshot."""
    fold = fed(2000)
    keeper, path = snapshots.keep(OF), snapshots.path(OF)
    free = threading.Event()
    turns(keeper, fold, 1999, lambda: keeper._window._whole)
    snapshots.submit(lambda: assert_in_time(free))
    keeper.turn(fold, 2000, fold.ledger, 0, Pending())
    keeper.close()
    again = snapshots.keep(OF)
    turns(again, fold, 1999, lambda: again.saving > 0)
    free.set()
    snapshots.submit(lambda: None).result()
    assert loaded(snapshots, taken_over(fold)) is not None
    again.close()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def assert_in_time(event: threading.Event) -> None:
    assert event.wait(20)


def test_one_that_cannot_be_put_in_place_leaves_nothing_behind(snapshots: Snapshots):
    fold = fed(10)
    keeper, path = snapshots.keep(OF), snapshots.path(OF)
    snapshots.submit(lambda: None).result()  # The directory is there.
    (path / "in the way").mkdir(parents=True)
    turns(keeper, fold, 10, lambda: keeper.saving > 0)
    turns(keeper, fold, 10, lambda: keeper.saving == 0)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_what_nobody_can_use_any_more_is_removed(tmp_path: Path):
    directory = tmp_path / "snapshots"
    directory.mkdir()
    old, young, part, other = (directory / name for name in ("a-0.snapshot", "b-0.snapshot", "c.snapshot-17", "notes"))
    for path in (old, young, part, other):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    Snapshots(directory, every_s=1.0, kept_s=3600.0, version="1")
    until(lambda: not old.exists() and not part.exists())
    assert young.exists()
    assert other.exists()


# ------------------------------------------------------------------------------------------------- on a broker


@pytest.mark.broker
def test_a_restart_begins_with_the_snapshot_and_folds_the_rest(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    directory = tmp_path / "snapshots"
    tuning = Tuning(grace_ms=3_600_000)  # Nothing but an end decides a conference's recording here.
    with Running(desk, snapshots=directory, tuning=tuning) as first:
        first.ready(1)
        desk.send([recording_event(number, source="Conference") for number in range(300)])
        until(lambda: desk.committed().offset >= 300)
        written = time.time()
        until(lambda: any(path.stat().st_mtime > written + 0.2 for path in directory.glob("*.snapshot")))
        desk.send([recording_event(number, source="Conference") for number in range(300, 320)])
        until(lambda: desk.committed().offset > 320)
    with Running(desk, snapshots=directory, tuning=tuning) as second:
        second.ready(1)
        assert second.heard.replayed < 300
        # Conference recordings are still open: only the state can know of them when their ends come.
        desk.send(
            [recording_event(n, source="Conference", status="completed") for n in (7, 310)] + [recording_event(999)]
        )
        until(lambda: any(verdict.recording_sid == recording_sid(999) for verdict in second.verdicts_told()))
        assert {v.recording_sid for v in second.verdicts_told()} == {recording_sid(999)}
    for path in directory.glob("*.snapshot"):
        path.write_bytes(path.read_bytes()[:-20])
    with Running(desk, snapshots=directory, tuning=tuning) as third:
        third.ready(1)
        assert third.heard.replayed > 300


class BrokenSinceLoaded(Stumbling):
    """A fold that raises on every message once it has begun with a snapshot."""

    broken = False

    def stumbles_on(self, value: bytes | None) -> bool:  # noqa: ARG002 - whatever it says.
        return self.broken

    def load(self, header: bytes, log: str, checkpoint: Checkpoint) -> Loading:
        self.broken = True
        return self._pipeline.load(header, log, checkpoint)


def test_what_raises_again_is_built_from_the_log_and_not_from_a_snapshot(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    directory = tmp_path / "snapshots"
    with Running(desk, snapshots=directory) as first:
        first.ready(1)
        desk.send([recording_event(number) for number in range(20)])
        until(lambda: list(directory.glob("*-0.snapshot")) != [])
    with Running(desk, snapshots=directory, wrap=BrokenSinceLoaded) as second:
        second.ready(1)
        desk.send([recording_event(number) for number in range(20, 30)])
        until(lambda: recording_sid(29) in {v.recording_sid for v in second.verdicts_told()})
        assert len(second.heard.takeovers) <= 3
    assert len(desk.read(desk.quarantine)) <= 2  # At most one for each time that it began with the snapshot.
    assert len(desk.verdicts()) >= 28


def test_a_restart_reads_only_what_was_published_since_its_ledger_was_written(broker: RealBroker, tmp_path: Path):
    desk = Desk.on(broker, 1)
    directory = tmp_path / "snapshots"
    tuning = Tuning(window_ms=2_000, grace_ms=100)  # So that verdicts become final.
    count, more = 1_200, 450

    def finals(running: Running) -> int:
        return sum(verdict.final for verdict in running.verdicts_told())

    def late(running: Running, number: int) -> Verdict:
        """What is told when a recording is heard of again that was settled long ago."""
        desk.send([recording_event(number, status="completed")])
        until(lambda: any(v.recording_sid == recording_sid(number) for v in running.verdicts_told()))
        return next(v for v in running.verdicts_told() if v.recording_sid == recording_sid(number))

    beside = Snapshots(directory, every_s=0.1, kept_s=3600.0, version="1")
    beside.submit(lambda: None).result(20)  # By then it has tidied up: what it finds half written it would remove.

    def ledger_offset() -> int:
        of = Partition(ledger.name.partition("-")[0], desk.topics.verdicts, 0)
        restoring = beside.begin_ledger(Ledger(), of)
        assert restoring is not None
        restoring.close()
        return restoring.offset

    with Running(desk, snapshots=directory, tuning=tuning) as first:
        first.ready(1)
        desk.send([recording_event(number) for number in range(count)])
        until(lambda: finals(first) >= count)
        settled = time.time()
        # So many that it has to be written once more: a quarter of what it holds is not worth it.
        desk.send([recording_event(number) for number in range(count, count + more)])
        until(lambda: any(path.stat().st_mtime > settled for path in directory.glob("*-ledger.snapshot")))
        [ledger] = directory.glob("*-ledger.snapshot")
        until(lambda: finals(first) >= count + more)
        until(lambda: len(desk.read(desk.topics.verdicts)) - ledger_offset() <= (count + more) // 4)
    with Running(desk, snapshots=directory, tuning=tuning) as second:
        second.ready(1)
        assert len(second.heard.read) <= (count + more) // 4
        for number in (7, count + more - 1):  # As the file says, and as was read after it, unless that says it too.
            told = late(second, number)
            assert (told.final, told.revision, told.recording_status) == (True, 3, "completed")
    ledger.write_bytes(ledger.read_bytes()[:-20])
    with Running(desk, snapshots=directory, tuning=tuning) as third:
        third.ready(1)
        assert len(third.heard.read) > count
        assert late(third, 8).revision == 3
