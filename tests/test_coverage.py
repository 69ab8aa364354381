"""Coverage: what counts as told by the stream, what as missed, and that a takeover counts each recording once."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitor.core.verdict import render_instant
from monitor.inputs.coverage import (
    COUNTED_MS,
    ENTRIES_MAX,
    HOUR_MS,
    PENDING_MS,
    SETTLE_S,
    Coverage,
    Reached,
    Settled,
    Tally,
    render_reached,
)
from monitor.outputs.coverage_metrics import CoverageMetrics

ACCOUNT = f"AC{1:032x}"
BEGIN_MS = 1_790_000_000_000 - 1_790_000_000_000 % HOUR_MS
OVERLAP_MS = 900_000


def coverage() -> Coverage:
    return Coverage(BEGIN_MS)


def taken_over(known: Coverage) -> Coverage:
    """What another process goes on with."""
    reached = Reached()
    assert reached.hear(*render_reached(ACCOUNT, known, BEGIN_MS))
    return reached.coverage(ACCOUNT, first_ms=0, oldest_ms=0)


def test_what_the_stream_told_of_counts_even_while_it_goes_on():
    known = coverage()
    known.listed("RE1", BEGIN_MS, "Trunking", over=False, now=0)
    assert known.tally() == Tally(0, 0)
    known.told("RE1")
    assert known.tally() == Tally(1, 1)
    assert not known.is_done("RE1")


def test_what_it_did_not_tell_is_missed_once_it_is_over_and_had_its_time():
    known = coverage()
    known.listed("RE1", BEGIN_MS, "Trunking", over=False, now=0)
    assert list(known.settle(OVERLAP_MS, 10 * SETTLE_S)) == []
    known.listed("RE1", BEGIN_MS, "Trunking", over=True, now=10 * SETTLE_S)
    assert list(known.settle(OVERLAP_MS, 10.9 * SETTLE_S)) == []
    assert [one.sid for one in known.settle(OVERLAP_MS, 11 * SETTLE_S)] == ["RE1"]
    assert list(known.settle(OVERLAP_MS, 12 * SETTLE_S)) == []
    assert known.tally() == Tally(1, 0)


def test_what_is_told_late_is_missed_no_more():
    known = coverage()
    known.listed("RE1", BEGIN_MS, None, over=True, now=0)
    assert len(list(known.settle(OVERLAP_MS, SETTLE_S))) == 1
    known.told("RE1")
    assert known.tally() == Tally(1, 1)


def test_what_goes_on_for_long_is_asked_for_by_itself_now_and_then():
    known = coverage()
    known.listed("RE1", BEGIN_MS, None, over=False, now=0)
    known.listed("RE2", BEGIN_MS + HOUR_MS, None, over=False, now=0)
    assert list(known.overdue(BEGIN_MS + 1, 500, 600)) == []
    assert list(known.overdue(BEGIN_MS + 1, 600, 600)) == ["RE1"]
    known.asked("RE1", over=False, now=600)
    assert list(known.overdue(BEGIN_MS + 1, 900, 600)) == []
    known.asked("RE1", over=True, now=1200)
    assert list(known.overdue(BEGIN_MS + 1, 9_000, 600)) == []


def test_what_goes_on_holds_the_floor_back_but_not_for_ever():
    known = coverage()
    known.listed("RE1", BEGIN_MS, None, over=False, now=0)
    known.listed("RE2", BEGIN_MS + HOUR_MS, None, over=True, now=0)
    known.told("RE2")
    list(known.settle(OVERLAP_MS, 0))
    assert known.floor_ms == BEGIN_MS
    known.listed("RE3", BEGIN_MS + PENDING_MS + 1, None, over=True, now=0)
    known.told("RE3")
    list(known.settle(OVERLAP_MS, 0))
    assert known.floor_ms == BEGIN_MS + PENDING_MS + 1 - OVERLAP_MS


def test_a_day_ago_counts_no_more():
    known = coverage()
    for hour in range(30):
        known.listed(f"RE{hour}", BEGIN_MS + hour * HOUR_MS, None, over=True, now=0)
        known.told(f"RE{hour}")
        list(known.settle(OVERLAP_MS, 0))
    assert known.tally() == Tally(25, 25)  # The hour that is just leaving counts as a whole.
    assert len(known.hours) <= COUNTED_MS // HOUR_MS + 1


def test_beyond_the_bound_the_oldest_are_no_longer_waited_for():
    known = coverage()
    for number in range(ENTRIES_MAX + 10):
        known.listed(f"RE{number}", BEGIN_MS + number, None, over=False, now=0)
    list(known.settle(OVERLAP_MS, 0))
    assert len(known.untold()) == ENTRIES_MAX
    assert known.floor_ms == BEGIN_MS + 10


@given(
    st.lists(st.tuples(st.integers(0, 8 * HOUR_MS), st.booleans(), st.booleans()), max_size=30),
    st.lists(st.integers(0, 30), max_size=4),
)
@example([(0, False, False), (0, True, False), (4 * HOUR_MS + 1, False, False)], [2])
def test_a_takeover_counts_each_recording_once(recordings, takeovers):
    """Listed in order, cut by takeovers: what the last one counts is what one process would have."""
    recordings = sorted(recordings)
    alone, several = coverage(), coverage()
    for number in range(len(recordings) + 1):
        for known in (alone, several):
            listed = [(at, one) for at, one in enumerate(recordings[:number]) if BEGIN_MS + one[0] >= known.floor_ms]
            for at, (created_ms, over, told) in listed:
                known.listed(f"RE{at}", BEGIN_MS + created_ms, None, over=over, now=number * SETTLE_S)
                if told:
                    known.told(f"RE{at}")
            list(known.settle(OVERLAP_MS, number * SETTLE_S))
        if number in takeovers:
            several = taken_over(several)
    for known in (alone, several):
        for at, (created_ms, over, told) in enumerate(recordings):
            if BEGIN_MS + created_ms >= known.floor_ms:
                known.listed(f"RE{at}", BEGIN_MS + created_ms, None, over=over, now=1e6)
                if told:
                    known.told(f"RE{at}")
        list(known.settle(OVERLAP_MS, 2e6))
    assert several.tally() == alone.tally()


def test_messages_of_other_kinds_are_left_to_others():
    reached = Reached()
    assert not reached.hear(f"{ACCOUNT}/place/1", b"{}")
    assert reached.hear(f"{ACCOUNT}/listing/recordings", b"no JSON")
    assert reached.hear(f"{ACCOUNT}/listing/recordings", None)
    assert reached.coverage(ACCOUNT, first_ms=5, oldest_ms=9).floor_ms == 5


def test_what_is_settled_is_told_by_the_hour_with_when_it_was_said():
    reached = Reached()
    hour_ms = BEGIN_MS - BEGIN_MS % HOUR_MS
    reached.hear(*render_reached(ACCOUNT, Coverage(BEGIN_MS, {hour_ms: Tally(12, 9)}), BEGIN_MS + 1))
    assert reached.settled() == [Settled(ACCOUNT, BEGIN_MS, render_instant(BEGIN_MS + 1), ((hour_ms, Tally(12, 9)),))]


def test_a_position_from_long_ago_is_not_gone_back_to():
    reached = Reached()
    reached.hear(*render_reached(ACCOUNT, Coverage(5), BEGIN_MS))
    assert reached.coverage(ACCOUNT, first_ms=0, oldest_ms=9).floor_ms == 9


# --- On /metrics


def shown(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"recording_monitor_{name}", labels)


def test_where_one_account_of_an_alias_is_not_known_its_coverage_is_no_number():
    registry = CollectorRegistry()
    metrics = CoverageMetrics(registry, ["main", "other"])
    assert shown(registry, "coverage_known", account="main") is None

    metrics.listed("main", "AC1", known=90, seen=89, at=20.0)
    metrics.listed("main", "AC2", known=10, seen=10, at=10.0)
    assert shown(registry, "coverage_ratio", account="main") == 0.99
    assert shown(registry, "listing_timestamp_seconds", account="main") == 10.0

    metrics.unknown("main", "AC2")
    ratio = shown(registry, "coverage_ratio", account="main")
    assert ratio is not None
    assert math.isnan(ratio)
    assert shown(registry, "coverage_known", account="main") == 0
    assert shown(registry, "listed_recordings", account="main") is None

    metrics.gone("main", "AC2")
    assert shown(registry, "coverage_known", account="main") == 1
    metrics.gone("main", "AC1")
    assert shown(registry, "coverage_known", account="main") is None


def test_an_alias_whose_accounts_nobody_tells_is_not_known():
    registry = CollectorRegistry()
    metrics = CoverageMetrics(registry, ["main"])
    metrics.accounts_found("main", found=False)
    assert shown(registry, "coverage_known", account="main") == 0
    metrics.accounts_found("main", found=True)
    assert shown(registry, "coverage_known", account="main") is None


def test_accounts_without_recordings_have_no_share():
    registry = CollectorRegistry()
    metrics = CoverageMetrics(registry, ["main"])
    metrics.listed("main", "AC1", known=0, seen=0, at=1.0)
    ratio = shown(registry, "coverage_ratio", account="main")
    assert ratio is not None
    assert math.isnan(ratio)
    assert shown(registry, "coverage_known", account="main") == 1


def test_aliases_beyond_the_bound_share_a_label():
    registry = CollectorRegistry()
    metrics = CoverageMetrics(registry, [f"a{number}" for number in range(100)])
    metrics.listed("a98", "AC1", known=1, seen=1, at=1.0)
    metrics.missed("a99", 2)
    assert shown(registry, "coverage_ratio", account="other") == 1
    assert shown(registry, "recordings_missed_total", account="other") == 2
