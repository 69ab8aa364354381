"""The case view: what the topics say of cases is what it holds, and no disk, however broken, stops it."""

from __future__ import annotations

import os
import random
import sqlite3
import string
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.core.verdict import Revision, RuledOut, Shown, Verdict, render_instant
from monitor.outputs.cases import (
    VERSION,
    ActionSeen,
    Case,
    CaseAction,
    CaseView,
    Count,
    Listed,
    Seen,
    Share,
    VerdictSeen,
    ViewLost,
    Wanted,
    read_case_action,
    render_action,
    succeed,
    ulid,
    version_of,
)
from tests.full_disk import files_no_larger_than
from tests.test_alerts import HOUR, MINUTE, T0, ended, recording, verdict

DAY = 24 * HOUR
PLACES = {("verdicts", 0): 7, ("verdicts", 1): 3, ("actions", 0): 1}


def opened(path: Path, source: str = "verdicts actions", **more: object) -> CaseView:
    return CaseView(path, source=source, retention_ms=400 * DAY, **more)  # type: ignore[arg-type]


def seen(told: Verdict, seen_ms: int = T0) -> VerdictSeen:
    return VerdictSeen(told.key, told, seen_ms)


def action(kind: str = "comment", number: int = 1, **more: str) -> ActionSeen:
    done = CaseAction(kind=kind, recording_sid=recording(number), at=render_instant(T0), **more)
    key, value = render_action(done, T0)
    return ActionSeen(key, read_case_action(key, value))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cases.sqlite3"


def test_what_is_not_allowed_is_kept_whole_and_of_the_rest_next_to_nothing(path):
    view = opened(path)
    allowed = verdict(2, since=None, alert=None)
    changed = view.take([seen(verdict(1)), seen(allowed)], PLACES)

    assert [case.verdict for case in changed] == [verdict(1)]
    assert view.case(recording(1)) == changed[0]
    assert view.case(recording(2)) is None
    view.close()
    rows = sqlite3.connect(path).execute("SELECT * FROM others").fetchall()
    assert rows == [(recording(2), 1, 0, 0, 1, "2026-11-21T08")]


def test_a_view_opened_again_is_what_it_was_and_goes_on_where_it_was(path):
    view = opened(path)
    view.take([seen(verdict(1)), action("acknowledge", by="somebody"), seen(ended(1), T0 + MINUTE)], PLACES)
    before = view.case(recording(1))
    view.close()
    again = opened(path)

    assert again.trouble is None
    assert again.case(recording(1)) == before
    assert again.offsets("verdicts") == {0: 7, 1: 3}
    assert again.offsets("actions") == {0: 1}
    assert [case.key for case in again.cases()] == [recording(1)]
    assert list(again.cases(T0 + HOUR)) == []


def test_the_greatest_verdict_stands_and_of_equals_the_later(path):
    view = opened(path)
    view.take([seen(verdict(1, at=5)), seen(verdict(1, at=4, since=None))], {})
    assert [case.verdict.at for case in view.cases()] == [(0, 5)]
    view.take([seen(verdict(1, at=5, final=True)), seen(verdict(1, at=5, reason="later"))], {})
    assert [case.verdict.final for case in view.cases()] == [True]
    # What was allowed at a greater position outlives a zombie's verdict from before.
    allowed = verdict(2, at=9, since=None, alert=None)
    view.take([seen(allowed), seen(verdict(2, at=8))], {})
    assert view.case(recording(2)) is None


def test_a_case_that_was_cleared_is_still_a_case_and_when_is_told_once(path):
    view = opened(path)
    history = (Revision(1, "disallowed", "dial_verb", render_instant(T0)),)
    view.take([seen(verdict(1)), seen(verdict(1, at=2, since=None, history=history), T0 + MINUTE)], {})
    view.take([seen(verdict(1, at=3, since=None, history=history, final=True), T0 + HOUR)], {})
    case = view.case(recording(1))

    assert case is not None
    assert (case.cleared_ms, case.ended_ms) == (T0 + MINUTE, T0 + HOUR)


def test_a_tombstone_takes_the_case_and_what_was_done_about_it(path):
    view = opened(path)
    view.take([seen(verdict(1)), action(), seen(verdict(2)), action(number=2)], {})
    assert [name.partition("/")[0] for name in view.action_keys(recording(1))] == [recording(1)]
    view.take([VerdictSeen(recording(1), None, T0)], {})

    assert view.action_keys(recording(1)) == []
    assert [case.key for case in view.cases()] == [recording(2)]
    view.close()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM actions").fetchone() == (1,)


def test_cases_beyond_their_retention_are_forgotten(path):
    view = opened(path)
    view.take([seen(verdict(1), T0), seen(verdict(2), T0 + DAY), action()], {})

    assert view.forget(T0 + 400 * DAY + 1) == 1
    assert [case.key for case in view.cases()] == [recording(2)]


def test_an_action_is_read_back_and_what_is_none_of_ours_is_not():
    done = CaseAction(kind="explain", recording_sid=recording(1), at=render_instant(T0), by="me", text="A test call.")
    key, value = render_action(done, T0)

    assert read_case_action(key, value) == done
    assert read_case_action(recording(2) + "/" + ulid(T0), value) is None
    assert read_case_action(key, value.replace(b"2026", b"xxxx")) is None
    assert read_case_action(key, b"[]") is None
    assert read_case_action(key, value + b" " * 70_000) is None


def test_names_of_actions_sort_by_time_and_are_never_the_same():
    names = [ulid(T0 + number // 100) for number in range(1_000)]

    assert len(set(names)) == 1_000
    assert [name[:10] for name in names] == sorted(name[:10] for name in names)
    assert all(len(name) == 26 and set(name) <= set(string.digits + string.ascii_uppercase) for name in names)


# --- Lists


def listing(path: Path) -> CaseView:
    """Three cases: one that goes on, one that is over and explained, one of another cause and account; two allowed."""
    view = opened(path, closes_ms=lambda case: case.ended_ms)
    flow = "FW" + "7" * 32
    shown = (Shown("VW1", "step", "0:1", render_instant(T0), f"Studio flow {flow} was left"),)
    view.take(
        [
            seen(verdict(1, evidence=shown), T0 + 1),
            seen(ended(2, evidence=shown), T0 + 2),
            seen(ended(3, cause=None, account_sid="AC" + "9" * 32, outcome="undetermined"), T0 + 3),
            seen(verdict(4, since=None, alert=None)),
            seen(verdict(5, since=None, alert=None, first_seen_at="2026-11-21T09:00:00.000Z")),
            action("explain", 2, category="testing"),
        ],
        PLACES,
    )
    return view


def numbers(found: list[Listed]) -> list[int]:
    return [int(one.key[2:]) for one in found]


def test_a_list_shows_what_goes_on_first_and_then_the_last_changed(path):
    assert numbers(listing(path).page(Wanted(), T0)) == [1, 3, 2]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(open=True), [1]),
        (Wanted(open=True, sid="FW" + "7" * 32), [1]),
        (Wanted(open=True, cause="dial_verb", account="AC" + "9" * 32), []),
        (Wanted(open=False), [3, 2]),
        (Wanted(account="AC" + "9" * 32), [3]),
        (Wanted(cause="dial_verb"), [1, 2]),
        (Wanted(cause=""), [3]),
        (Wanted(outcome="undetermined"), [3]),
        (Wanted(handled="yes"), [2]),
        (Wanted(handled="no", cause="dial_verb"), [1]),
        (Wanted(sid="FW" + "7" * 32), [1, 2]),
        (Wanted(sid=recording(3)), [3]),
        (Wanted(sid="AC" + "9" * 32), [3]),
        (Wanted(sid="x' OR '1'='1"), []),
        (Wanted(rule="x' OR '1'='1"), []),
    ],
)
def test_a_list_holds_what_was_asked_for(path, wanted, found):
    assert numbers(listing(path).page(wanted, T0 + MINUTE)) == found


def test_pages_of_a_list_follow_each_other_without_gap_or_repetition(path):
    view = opened(path)
    view.take([seen(verdict(number), T0 + number // 3) for number in range(1, 8)], {})
    view.take([seen(ended(number), T0 + number // 3) for number in range(8, 15)], {})
    whole = view.page(Wanted(), T0)
    pages, after = [], None
    while page := view.page(Wanted(), T0, after=after, limit=3):
        pages += page
        after = page[-1].place

    assert (pages, len(whole)) == (whole, 14)


def test_cases_are_counted_by_what_they_have_in_common(path):
    view = listing(path)

    assert view.counts("cause", Wanted(), T0) == [Count("dial_verb", 2, 1, T0 + 2), Count("", 1, 0, T0 + 3)]
    assert view.counts("cause", Wanted(open=True), T0 + MINUTE) == [Count("dial_verb", 1, 1, T0 + 1)]


def test_what_other_cases_name_too_is_found_until_they_are_gone(path):
    view = listing(path)
    first = view.case(recording(1))
    assert first is not None
    assert ("FW" + "7" * 32, 1) in view.alike(first)
    view.take([VerdictSeen(recording(2), None, T0)], {})
    assert view.alike(first) == [("CA" + "1" * 32, 1)]
    view.take([seen(ended(3, call_sid=None, at=3))], {})
    assert view.alike(first) == []


def test_whatever_text_of_a_verdict_names_a_sid_its_case_is_found_by_it(path):
    sids = [f"{kind}{number:032x}" for number, kind in enumerate(["CA", "CF", "VW", "FW", "FN", "TK", "WK"], 100)]
    call, conference, event, *others = sids
    flow, verb, by, missing = others
    shown = Shown(event, "step", "0:1", render_instant(T0), f"Studio flow {flow} was left")
    told = verdict(
        1,
        call_sid=call,
        conference_sid=conference,
        evidence=(shown,),
        reason=f"By {verb}.",
        ruled_out=(RuledOut("dial_verb", f"by {by}"),),
        missing=(f"events of {missing}",),
    )
    view = opened(path)
    view.take([seen(told)], {})

    assert [numbers(view.page(Wanted(sid=sid), T0)) for sid in [*sids, told.account_sid]] == [[1]] * 8


def test_recordings_are_counted_by_the_hour_each_as_it_stands_now(path):
    view = listing(path)
    assert view.shares("") == [Share("2026-11-21T08", 1, 2, 1), Share("2026-11-21T09", 1, 0, 0)]
    history = (Revision(1, "disallowed", "dial_verb", render_instant(T0)),)
    view.take([seen(verdict(1, at=9, since=None, history=history)), seen(verdict(5, at=9))], {})
    assert view.shares("") == [Share("2026-11-21T08", 2, 2, 1), Share("2026-11-21T09", 0, 0, 0)]
    # What is gone because its retention is over was as it was.
    view.take([VerdictSeen(recording(4), None, T0)], {})
    assert view.shares("2026-11-21T09") == [Share("2026-11-21T09", 0, 0, 0)]
    assert view.shares("")[0].allowed == 2  # type: ignore[index]


def test_a_recording_that_is_told_twice_in_a_batch_is_counted_as_it_stands_at_the_end(path):
    view = opened(path)
    history = (Revision(1, "disallowed", "dial_verb", render_instant(T0)),)
    told = [
        seen(verdict(1)),
        seen(verdict(1, at=2, since=None, history=history)),
        seen(verdict(2)),
        seen(ended(2, at=2)),
    ]
    view.take(told, {})
    assert view.shares("") == [Share("2026-11-21T08", 1, 1, 0)]


def test_a_batch_that_failed_midway_counts_once_when_it_comes_again(path):
    view = opened(path)
    told = [seen(verdict(1)), VerdictSeen("no verdict", 7, T0)]  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        view.take(told, {})
    assert view.shares("") == []
    view.take(told[:1], {})
    assert view.shares("") == [Share("2026-11-21T08", 0, 1, 0)]


def test_a_verdict_under_a_key_that_is_not_its_own_is_about_what_it_says(path):
    view = opened(path)
    for at in (1, 2):
        view.take([VerdictSeen("another", verdict(1, at=at), T0)], {})
    assert [(case.key, case.verdict.at) for case in view.cases()] == [(recording(1), (0, 2))]
    assert view.trouble is None


def test_what_people_made_of_a_case_is_the_last_explanation_since_it_was_reopened(path):
    view = opened(path)
    view.take([seen(verdict(1))], {})
    made = []
    for number, (kind, category) in enumerate(
        [
            ("acknowledge", None),
            ("explain", "testing"),
            ("acknowledge", None),
            ("explain", "accepted"),
            ("reopen", None),
        ]
    ):
        done = CaseAction(kind=kind, recording_sid=recording(1), at=render_instant(T0), category=category)
        view.take([ActionSeen(render_action(done, T0 + number)[0], done)], {})
        made.append(view.page(Wanted(), T0)[0].handled)

    assert made == ["acknowledged", "testing", "testing", "accepted", ""]


# --- Disks


def filled(path: Path, count: int = 40) -> CaseView:
    view = opened(path)
    view.take([seen(verdict(number)) for number in range(1, count + 1)], PLACES)
    view.take([action(number=number) for number in range(1, count + 1)], PLACES)
    return view


def test_another_version_or_other_topics_are_read_anew(path):
    filled(path).close()
    other = opened(path, source="other topics")
    assert other.offsets("verdicts") == {}
    other.close()

    filled(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    view = opened(path)
    assert (view.trouble, view.offsets("verdicts"), list(view.cases())) == (None, {}, [])


def test_where_a_version_stores_one_field_more_its_file_is_of_another_version():
    grown = msgspec.defstruct("CaseAction", [("asked_by", str | None, None)], bases=(CaseAction,))
    assert version_of(Verdict, grown) != version_of(Verdict, CaseAction) == version_of(Verdict, CaseAction)


def test_a_bit_that_flips_while_nobody_looks_loses_nothing_unnoticed(path):
    view = filled(path)
    whole = {case.key: case for case in view.cases()}
    view.close()
    good, chance = path.read_bytes(), random.Random(7)
    unharmed = 0
    for _ in range(80):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        again = opened(path)
        found = {case.key: case for case in again.cases()}
        # Either all of it is there and right, or none of it, and then it says that it has read nothing.
        assert (again.trouble, found) == (None, whole if again.offsets("verdicts") else {})
        unharmed += bool(found)
        again.close()
    assert 0 < unharmed < 80


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_file_that_was_cut_is_read_anew(path, share):
    filled(path).close()
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    view = opened(path)

    assert (view.trouble, view.offsets("verdicts")) == (None, {})
    assert view.take([seen(verdict(1))], PLACES) != []


def test_a_file_that_is_no_database_is_replaced(path):
    path.parent.mkdir()
    path.write_bytes(random.Random(1).randbytes(50_000))

    assert opened(path).trouble is None


@pytest.mark.parametrize("harm", ["deleted", "replaced", "cut"])
def test_harm_to_the_file_of_a_view_at_work_is_noticed(path, harm):
    troubles: list[str] = []
    view = filled(path)
    view._on_trouble = troubles.append
    view.look()
    if harm == "cut":
        os.truncate(path, 0)
    else:
        path.unlink()
    if harm == "replaced":
        path.write_bytes(b"something else")
    with pytest.raises(ViewLost):
        view.look()

    assert (troubles, view.trouble, view.offsets("verdicts")) == (["rebuilt"], None, {})
    view.take([seen(verdict(1))], PLACES)
    assert path.stat().st_size > 0


def test_a_disk_that_is_full_leaves_the_view_in_memory(path):
    troubles: list[str] = []
    view = opened(path, on_trouble=troubles.append)
    view.take([seen(verdict(number)) for number in range(500)], PLACES)
    with files_no_larger_than(60_000), pytest.raises(ViewLost):
        view.commit()

    assert troubles == ["memory"]
    assert view.trouble
    assert view.offsets("verdicts") == {}
    view.take([seen(verdict(1)), seen(verdict(2, since=None, alert=None))], PLACES)
    assert [case.key for case in view.cases()] == [recording(1)]


def test_a_disk_that_is_full_from_the_start_leaves_the_view_in_memory(path):
    with files_no_larger_than(1_000):
        view = opened(path)

    assert view.trouble
    assert view.take([seen(verdict(1))], PLACES) != []


def test_a_place_that_nobody_may_write_to_leaves_the_view_in_memory():
    # Not even root makes files there.
    view = opened(Path("/proc/recording-monitor/cases.sqlite3"))

    assert view.trouble
    assert view.take([seen(verdict(1))], PLACES) != []


def test_a_file_that_another_process_has_is_left_to_it(path):
    mine = filled(path)
    theirs = opened(path)

    assert theirs.trouble == "another process has it open"
    assert len(list(mine.cases())) == 40
    theirs.take([seen(verdict(7, at=2))], PLACES)
    mine.close()
    assert len(list(opened(path).cases())) == 40


def test_memory_is_bounded_and_keeps_the_newest(tmp_path):
    view = opened(Path("/proc/nowhere/cases.sqlite3"), memory_cases_max=10)
    for number in range(30):
        view.take([seen(verdict(number), T0 + number)], PLACES)

    assert sorted(case.key for case in view.cases()) == [recording(number) for number in range(20, 30)]


_KILLED = """
import sys
from pathlib import Path
from tests.test_cases import opened, seen, verdict
view = opened(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    view.take([seen(verdict(number))], {("verdicts", 0): number})
    if number % 3 == 0:
        view.commit()
    print(number, flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_as_much_as_the_offsets_say(path):
    """Killed again and again, mostly between commits: all before the offset is there, nothing at or after it."""
    for kill_after in (1, 30, 200):
        for file in path.parent.glob("*"):
            file.unlink()
        process = subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        told = 0
        for _ in range(kill_after):
            told = int(process.stdout.readline())
        process.kill()
        process.wait()
        process.stdout.close()
        view = opened(path)
        read = view.offsets("verdicts").get(0, 0)

        assert read >= told - told % 3
        assert sorted(case.key for case in view.cases()) == [recording(number) for number in range(1, read + 1)]
        view.close()


# --- The view is a function of the topics


_seen = st.lists(
    st.builds(
        lambda number, at, outcome, final: seen(
            verdict(number, at=at, since=T0 if outcome == "disallowed" else None, final=final)
            if outcome != "never"
            else verdict(number, at=at, since=None, alert=None, final=final),
            T0 + at,
        ),
        st.integers(1, 3),
        st.integers(1, 6),
        st.sampled_from(["disallowed", "cleared", "never"]),
        st.booleans(),
    ),
    max_size=12,
)


@given(_seen, st.data())
@settings(max_examples=25)
def test_reading_a_part_again_changes_nothing(tmp_path_factory, stream: list[Seen], data):
    directory = tmp_path_factory.mktemp("again")
    once, twice = opened(directory / "once"), opened(directory / "twice")
    again_from = data.draw(st.integers(0, len(stream)))
    once.take(stream, {})
    twice.take(stream, {})
    twice.take(stream[again_from:], {})

    assert content(twice) == content(once)
    once.close()
    twice.close()


def content(view: CaseView) -> dict[str, Verdict]:
    return {case.key: case.verdict for case in view.cases()}


def test_a_case_remembers_when_it_was_first_over():
    first = succeed(None, ended(1), T0 + MINUTE)
    later = succeed(first, ended(1, at=3, final=True), T0 + 4 * HOUR)

    assert (first.ended_ms, later.ended_ms, later.seen_ms) == (T0 + MINUTE, T0 + MINUTE, T0 + 4 * HOUR)
    assert isinstance(later, Case)


def test_what_was_found_long_after_stays_so_until_it_begins_anew(path):
    view = opened(path)
    view.take([seen(ended(1, backlog=True)), seen(ended(1, at=3, final=True))], {})
    assert [case.backlog for case in view.cases()] == [True]
    view.take([seen(verdict(1, at=4, since=T0 + HOUR))], {})
    assert [case.backlog for case in view.cases()] == [False]
