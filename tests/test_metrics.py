"""Metrics: what Prometheus reads is what happened, from closed sets, within the budget."""

from __future__ import annotations

import itertools
import platform
import re
import subprocess
import sys
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from monitor import __version__
from monitor.core.pipeline import Counts, EventAges, Publish
from monitor.core.policy import PolicyDocument, RuleDocument, built_in_policy, compile_policy
from monitor.core.verdict import AlertLabels, Revision, Verdict, read_instant, render_instant
from monitor.outputs.alertmanager import RESULTS
from monitor.outputs.metrics import (
    AGE_BUCKETS_S,
    NOTICES,
    OPEN_CASES_MAX,
    PARTITIONS_MAX,
    PREFIX,
    SERIES_MAX,
    TYPES,
    Build,
    Metrics,
    _number_of,
    this_build,
    type_label,
)
from monitor.settings import ALERTMANAGERS_MAX

HEX = "0123456789abcdef" * 2
MAIN = "AC" + "1" * 32
LAB = "AC" + "2" * 32
STRANGER = "AC" + "3" * 32
T0 = "2026-11-21T08:00:00.000Z"
T0_MS = read_instant(T0)
MINUTE = 60_000
RECORDED = "com.twilio.voice.status-callback.recording.processed"

# What dashboards and alerts rest on: name without prefix and _total -> type, labels.
TABLE = {
    "messages": ("counter", ()),
    "entries": ("counter", ()),
    "replayed_messages": ("counter", ()),
    "arrival_clamped": ("counter", ()),
    "events": ("counter", ("type",)),
    "notices": ("counter", ("kind",)),
    "event_age_seconds": ("histogram", ("type",)),
    "unknown_events": ("counter", ("type",)),
    "recordings": ("counter", ("account", "start_source", "outcome")),
    "flex_call_recording_enabled": ("gauge", ("account",)),
    "flex_call_recording_changed_timestamp_seconds": ("gauge", ("account",)),
    "audit_changes": ("gauge", ("account",)),
    "audit_starts": ("gauge", ("outcome",)),
    "audit_timestamp_seconds": ("gauge", ()),
    "disallowed_recordings": ("counter", ("account", "rule", "start_source")),
    "verdict_revisions": ("counter", ("from", "to")),
    "detection_latency_seconds": ("histogram", ()),
    "recording_unseen_seconds": ("histogram", ()),
    "disallowed_recording_duration_seconds": ("histogram", ()),
    "open_cases": ("gauge", ("account", "rule", "start_source", "severity")),
    "recordings_in_progress": ("gauge", ("account", "outcome")),
    "window_entries": ("gauge", ("kind",)),
    "window_closed": ("counter", ("reason",)),
    "truncated_conversations": ("counter", ()),
    "watermark_timestamp_seconds": ("gauge", ("partition",)),
    "kafka_lag_messages": ("gauge", ("topic", "partition")),
    "kafka_assigned_partitions": ("gauge", ("topic",)),
    "kafka_rebalances": ("counter", ("event",)),
    "kafka_errors": ("counter", ("kind",)),
    "offset_commits": ("counter", ("result",)),
    "last_poll_timestamp_seconds": ("gauge", ()),
    "last_event_timestamp_seconds": ("gauge", ("type",)),
    "tick_timestamp_seconds": ("gauge", ("partition",)),
    "alerts_firing": ("gauge", ("alertname",)),
    "alert_sends": ("counter", ("alertmanager", "result")),
    "alert_send_duration_seconds": ("histogram", ("alertmanager",)),
    "alert_last_success_timestamp_seconds": ("gauge", ("alertmanager",)),
    "case_database_on_disk": ("gauge", ()),
    "case_database_troubles": ("counter", ("kind",)),
    "account_overflow": ("counter", ()),
    "checkpoint_timestamp_seconds": ("gauge", ()),
    "restore_duration_seconds": ("gauge", ()),
    "policy_last_reload_successful": ("gauge", ()),
    "policy_last_reload_success_timestamp_seconds": ("gauge", ()),
    "policy_info": ("gauge", ("hash",)),
    "build_info": ("gauge", ("version", "revision", "python")),
    "ready": ("gauge", ()),
    "log_messages": ("counter", ("level",)),
}


class Clock:
    """A wall clock that stands where it is put."""

    def __init__(self, ms: int = T0_MS) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms / 1000


def fresh(clock: Clock | None = None, *, process: bool = False) -> Metrics:
    metrics = Metrics(
        aliases={MAIN: "main", LAB: "lab"},
        build=Build("1.2.3", "abc1234", "3.11.7"),
        process=process,
        alertmanagers=["am-1:9093"],
        wall_clock=clock or Clock(),
    )
    metrics.policy_loaded(built_in_policy(), T0_MS / 1000)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(PREFIX + name, labels)


def at(ms: int) -> str:
    return render_instant(T0_MS + ms)


_BASE = Verdict(
    kind="recording",
    recording_sid="RE" + HEX,
    account_sid=MAIN,
    revision=1,
    final=False,
    at=(0, 7),
    rests_from=3,
    outcome="disallowed",
    rule="default",
    severity="critical",
    mode="enforce",
    policy="sha256:" + HEX * 2,
    cause="conference_twiml",
    strength="observed",
    start_source="Conference",
    call_sid=None,
    conference_sid="CF" + HEX,
    recording_status="in-progress",
    started_at=T0,
    ended_at=None,
    first_seen_at=at(2_000),
    found_by="stream",
    backlog=False,
    decided_at=at(3_000),
    disallowed_since=at(3_000),
    alert=None,
    reason="…",
    evidence=(),
    ruled_out=(),
    missing=(),
    history=(),
)
ALLOWED = msgspec.structs.replace(_BASE, outcome="allowed", severity=None, disallowed_since=None)
SUSPICION = msgspec.structs.replace(
    _BASE, kind="suspicion", recording_sid=None, outcome="undetermined", severity="warning", rule="suspicion"
)


def verdict(**changes: object) -> Verdict:
    return msgspec.structs.replace(_BASE, **changes)


def publish(
    metrics: Metrics,
    told: Verdict | None,
    *,
    before: str | None = None,
    took_ms: int = 100,
    late: bool = False,
    replay_left: bool = False,
    key: str = "RE" + HEX,
    partition: int = 0,
) -> None:
    metrics.verdict_published(
        partition, Publish(key, told, before, T0_MS, late), T0_MS + took_ms, replay_left=replay_left
    )


# --- The table


def test_every_metric_of_the_table_is_there_with_its_type_and_labels():
    metrics = fresh()
    play(metrics)
    found = {
        family.name.removeprefix(PREFIX): (
            family.type,
            {tuple(key for key in sample.labels if key != "le") for sample in family.samples},
        )
        for family in metrics.registry.collect()
        if family.name.startswith(PREFIX)
    }

    assert {name: (kind, {labels}) for name, (kind, labels) in TABLE.items()}.items() <= found.items()


def test_the_text_is_the_one_that_was_reviewed(golden):
    metrics = fresh()
    play(metrics)

    golden("metrics.txt", generate_latest(metrics.registry).decode())


def test_promtool_finds_nothing_to_complain_about(promtool):
    metrics = fresh(process=True)
    play(metrics)

    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(metrics.registry),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def play(metrics: Metrics) -> None:
    """A little of everything, so that every family has samples."""
    metrics.ready_when(lambda: True)
    metrics.flex_from(lambda: [(MAIN, False, T0_MS), (LAB, True, None)])
    metrics.audited(MAIN, ["disallowed", "disallowed", "allowed"], 1, T0_MS / 1000)
    metrics.polled(T0_MS / 1000)
    metrics.assigned("twilio-events", 2)
    metrics.count(
        Counts(
            messages=10,
            replayed=4,
            entries=12,
            events={RECORDED: 5, "com.twilio.taskrouter.task.created": 2},
            ignored=1,
            malformed=1,
            duplicate=2,
            late=1,
            clamped=1,
            closed_by_window=3,
            closed_by_cut=1,
            truncated=1,
            latest_event_ms={RECORDED: T0_MS},
        )
    )
    metrics.count(Counts(ages={RECORDED: EventAges((2, 1, 0, 0, 1, 1), 20000500)}))
    publish(metrics, verdict())
    publish(metrics, verdict(recording_status="completed", ended_at=at(40_000), final=True), before="disallowed")
    publish(metrics, msgspec.structs.replace(ALLOWED, account_sid=STRANGER, start_source="New"), key="RE" + "9" * 32)
    metrics.partition(0, watermark_ms=T0_MS, lag=5, tick_ms=T0_MS - 1, conversations=3, recordings=2)
    metrics.partition(1, watermark_ms=None, lag=None, tick_ms=None)
    metrics.rebalance("assigned")
    metrics.commit("ok", T0_MS / 1000)
    metrics.commit("refused", T0_MS / 1000 + 1)
    metrics.restored(1.5)
    metrics.kafka_error("_all_brokers_down")
    metrics.foreign_checkpoint("no_metadata")
    metrics.blind_interval()
    metrics.account_split()
    metrics.settings_forgotten(2)
    metrics.quarantined("core-error")
    metrics.log_message("info")
    cases = {
        metrics.case_labels(verdict()): 1,
        metrics.case_labels(verdict(account_sid=STRANGER, start_source=None)): 2,
    }
    metrics.cases_from(lambda: cases, lambda: {"DisallowedRecording": 3})
    metrics.alerts_sent("am-1:9093", "ok", 3, 0.004, T0_MS / 1000)
    metrics.alerts_sent("am-1:9093", "failed", 1, None, T0_MS / 1000 + 1)
    metrics.cases_kept(on_disk=True)
    metrics.case_trouble("rebuilt")


# --- Counting


_counts = st.builds(
    lambda events, notices: Counts(
        messages=1,
        entries=sum(events.values()) + sum(notices),
        events=events,
        **dict(zip(NOTICES, notices, strict=True)),
    ),
    st.dictionaries(st.sampled_from(TYPES) | st.text(max_size=30), st.integers(1, 50), max_size=5),
    st.tuples(*[st.integers(0, 50)] * 4),
)


@given(st.lists(_counts, max_size=6))
@settings(max_examples=100)
def test_entries_are_events_and_notices_whatever_the_types(batches):
    metrics = fresh()
    for counts in batches:
        metrics.count(counts)
    total = {"events": 0.0, "notices": 0.0}
    for family in metrics.registry.collect():
        if family.name.removeprefix(PREFIX) in total:
            total[family.name.removeprefix(PREFIX)] = sum(sample.value for sample in family.samples)

    assert value(metrics, "entries_total") == sum(total.values())
    assert value(metrics, "messages_total") == len(batches)


def test_a_recording_is_counted_once_by_its_first_outcome_and_its_changes_apart():
    metrics = fresh()
    publish(metrics, verdict())
    publish(metrics, ALLOWED, before="disallowed")

    labels = {"account": "main", "start_source": "Conference"}
    assert value(metrics, "recordings_total", **labels, outcome="disallowed") == 1
    assert value(metrics, "recordings_total", **labels, outcome="allowed") == 0
    assert value(metrics, "verdict_revisions_total", **{"from": "disallowed", "to": "allowed"}) == 1


def test_a_recording_becomes_disallowed_once_however_often_it_is_revised():
    metrics = fresh()
    history = (Revision(1, "disallowed", "unattributed", T0), Revision(2, "allowed", "api_call_recording", T0))
    publish(metrics, ALLOWED)
    publish(metrics, verdict(), before="allowed")
    publish(metrics, verdict(rule="no-media-kept"), before="disallowed")
    publish(metrics, verdict(history=history), before="allowed")

    disallowed = {"account": "main", "start_source": "Conference"}
    assert value(metrics, "disallowed_recordings_total", **disallowed, rule="default") == 1
    assert value(metrics, "disallowed_recordings_total", **disallowed, rule="no-media-kept") == 0


def test_accounts_and_sources_nobody_named_are_other_and_counted():
    metrics = fresh()
    publish(metrics, verdict(account_sid=STRANGER, start_source="Brand<New>"))
    publish(metrics, verdict(account_sid=STRANGER, start_source=None), key="RE2")

    assert value(metrics, "recordings_total", account="other", start_source="other", outcome="disallowed") == 1
    assert value(metrics, "recordings_total", account="other", start_source="none", outcome="disallowed") == 1
    assert value(metrics, "account_overflow_total") == 2


def test_a_suspicion_is_no_recording():
    metrics = fresh()
    publish(metrics, SUSPICION, key="CF" + HEX)

    total = sum(
        sample.value
        for family in metrics.registry.collect()
        if family.name == PREFIX + "recordings"
        for sample in family.samples
    )
    assert total == 0
    assert value(metrics, "detection_latency_seconds_count") == 0
    assert metrics.case_labels(SUSPICION) == ("main", "suspicion", "Conference", "warning")


@pytest.mark.parametrize(
    ("told", "how", "counted"),
    [
        (verdict(), {}, 1),
        (verdict(), {"before": "allowed"}, 1),
        (verdict(final=True), {"before": "undetermined"}, 1),
        (verdict(), {"replay_left": True}, 0),
        (verdict(final=True), {"before": "disallowed", "late": True}, 0),
        (verdict(final=True), {"before": "disallowed"}, 0),
        (None, {"before": "disallowed"}, 0),
    ],
)
def test_detection_is_measured_where_something_was_found_out(told, how, counted):
    metrics = fresh()
    publish(metrics, told, **how)

    assert value(metrics, "detection_latency_seconds_count") == counted


def test_detection_within_five_seconds_is_told_from_later():
    metrics = fresh()
    publish(metrics, verdict(), took_ms=5_000)
    publish(metrics, verdict(), took_ms=5_001, key="RE2")
    publish(metrics, verdict(), took_ms=-50, key="RE3")  # Two clocks: the broker's is ahead of ours.

    assert value(metrics, "detection_latency_seconds_bucket", le="5.0") == 2
    assert value(metrics, "detection_latency_seconds_count") == 3
    assert value(metrics, "detection_latency_seconds_sum") == pytest.approx(10.001)
    assert 'recording_monitor_detection_latency_seconds_bucket{le="5.0"}' in generate_latest(metrics.registry).decode()


def test_the_time_a_recording_ran_unseen_is_measured_at_its_first_verdict():
    metrics = fresh()
    publish(metrics, verdict())
    publish(metrics, verdict(cause="conference_api"), before="disallowed")
    publish(metrics, verdict(started_at=None), key="RE2")

    assert value(metrics, "recording_unseen_seconds_count") == 1
    assert value(metrics, "recording_unseen_seconds_sum") == 2


def test_how_long_a_disallowed_recording_ran_is_measured_once_when_final():
    metrics = fresh()
    ended = verdict(ended_at=at(90_000), recording_status="completed")
    publish(metrics, ended)
    publish(metrics, msgspec.structs.replace(ended, final=True), before="disallowed")
    publish(metrics, msgspec.structs.replace(ended, final=True), before="disallowed", late=True)
    publish(metrics, msgspec.structs.replace(ended, final=True, outcome="allowed"), before="allowed", key="RE2")

    assert value(metrics, "disallowed_recording_duration_seconds_count") == 1
    assert value(metrics, "disallowed_recording_duration_seconds_sum") == 90


def test_ages_of_a_batch_add_up_in_their_buckets():
    metrics = fresh()
    metrics.count(Counts(ages={RECORDED: EventAges((1, 0, 2, 0, 0, 1), 100000)}))
    metrics.count(Counts(ages={RECORDED: EventAges((1, 1, 0, 0, 0, 0), 3000)}))

    buckets = [
        value(metrics, "event_age_seconds_bucket", type=RECORDED, le=str(bound)) for bound in (*AGE_BUCKETS_S, "+Inf")
    ]
    assert buckets == [2, 3, 5, 5, 5, 6]
    assert value(metrics, "event_age_seconds_sum", type=RECORDED) == 103
    assert value(metrics, "event_age_seconds_count", type=RECORDED) == 6


def test_exemplars_name_the_recording_in_openmetrics_alone():
    metrics = fresh()
    publish(metrics, verdict())

    told = generate_openmetrics(metrics.registry).decode()
    with_exemplar = [line for line in told.splitlines() if f'# {{recording_sid="RE{HEX}"}}' in line]
    assert {line.split("{")[0] for line in with_exemplar} == {
        PREFIX + "disallowed_recordings_total",
        PREFIX + "detection_latency_seconds_bucket",
    }
    assert HEX not in generate_latest(metrics.registry).decode()


# --- Gauges


def test_what_is_not_known_yet_has_no_sample():
    metrics = Metrics(aliases={}, process=False)

    for name in ("last_poll_timestamp_seconds", "checkpoint_timestamp_seconds", "policy_last_reload_successful"):
        assert value(metrics, name) is None
    assert value(metrics, "ready") == 0


def test_a_refused_commit_is_no_checkpoint():
    metrics = fresh()
    metrics.commit("ok", 100.0)
    metrics.commit("refused", 200.0)

    assert value(metrics, "checkpoint_timestamp_seconds") == 100
    assert value(metrics, "offset_commits_total", result="refused") == 1


def test_a_failed_reload_keeps_the_policy_and_the_time_it_was_loaded():
    metrics = fresh()
    metrics.policy_reload_failed()

    assert value(metrics, "policy_last_reload_successful") == 0
    assert value(metrics, "policy_last_reload_success_timestamp_seconds") == T0_MS / 1000
    assert value(metrics, "policy_info", hash=built_in_policy().hash) == 1


def test_a_new_policy_takes_the_place_of_the_old_one():
    metrics = fresh()
    new = compile_policy(PolicyDocument(rules=(RuleDocument(name="no-voicemail", outcome="disallowed"),)), b"new")
    metrics.policy_loaded(new, 5.0)

    families = [family for family in metrics.registry.collect() if family.name == PREFIX + "policy_info"]
    assert [sample.labels for family in families for sample in family.samples] == [{"hash": new.hash}]
    labels = {"account": "lab", "rule": "no-voicemail", "start_source": "DialVerb"}
    assert value(metrics, "disallowed_recordings_total", **labels) == 0
    assert value(metrics, "open_cases", **labels, severity="critical") == 0


def test_a_partition_that_goes_takes_its_gauges_along():
    metrics = fresh()
    metrics.partition(3, watermark_ms=T0_MS, lag=5, tick_ms=T0_MS, conversations=2)
    publish(metrics, verdict(), partition=3)
    publish(metrics, verdict(), partition=4, key="RE2")
    metrics.partition_gone(3)

    assert value(metrics, "watermark_timestamp_seconds", partition="3") is None
    assert value(metrics, "kafka_lag_messages", topic="twilio-events", partition="3") is None
    assert value(metrics, "window_entries", kind="conversations") == 0
    assert value(metrics, "recordings_in_progress", account="main", outcome="disallowed") == 1


def test_beyond_the_bound_the_worst_partition_stands_for_the_rest():
    metrics = fresh()
    for partition in range(PARTITIONS_MAX + 3):
        metrics.partition(partition, watermark_ms=T0_MS - partition, lag=partition, tick_ms=T0_MS + partition)

    last = PARTITIONS_MAX + 2
    assert value(metrics, "watermark_timestamp_seconds", partition="other") == (T0_MS - last) / 1000
    assert value(metrics, "kafka_lag_messages", topic="twilio-events", partition="other") == last
    assert value(metrics, "tick_timestamp_seconds", partition="other") == (T0_MS + PARTITIONS_MAX) / 1000
    assert value(metrics, "watermark_timestamp_seconds", partition=str(PARTITIONS_MAX)) is None


def test_recordings_in_progress_are_those_neither_ended_nor_given_up():
    metrics = fresh()
    states = [("in-progress", None), ("paused", None), (None, None), ("completed", None), ("in-progress", at(5_000))]
    for number, (status, ended_at) in enumerate(states):
        publish(
            metrics,
            msgspec.structs.replace(ALLOWED, recording_status=status, ended_at=ended_at),
            key=f"RE{number}",
        )
    publish(metrics, msgspec.structs.replace(ALLOWED, final=True), key="RE9")

    assert value(metrics, "recordings_in_progress", account="main", outcome="allowed") == 3
    assert value(metrics, "recordings_in_progress", account="lab", outcome="allowed") == 0


def test_a_recording_of_which_a_snapshot_knows_is_in_progress_until_more_is_read():
    metrics = fresh()
    metrics.goes_on(0, "RE" + HEX, ALLOWED.account_sid, "allowed")
    assert value(metrics, "recordings_in_progress", account="main", outcome="allowed") == 1
    metrics.follow(0, "RE" + HEX, ALLOWED)
    assert value(metrics, "recordings_in_progress", account="main", outcome="allowed") == 1
    metrics.follow(0, "RE" + HEX, msgspec.structs.replace(ALLOWED, final=True))
    assert value(metrics, "recordings_in_progress", account="main", outcome="allowed") == 0


_keys = st.text(max_size=34) | st.from_regex(r"(RE|CF|CA)[0-9a-fA-F]{31,33}", fullmatch=True)


@given(st.lists(_keys, unique=True, max_size=4))
def test_every_key_has_a_number_of_its_own(keys):
    related = {other for key in keys for other in (key, key.lower(), key.swapcase(), "CF" + key[2:], "RE" + key[2:])}

    assert len({_number_of(key) for key in related}) == len(related)


def test_following_the_topic_counts_nothing():
    metrics = fresh()
    for _ in range(3):
        metrics.follow(0, "RE" + HEX, verdict())

    assert value(metrics, "recordings_in_progress", account="main", outcome="disallowed") == 1
    assert value(metrics, "recordings_total", account="main", start_source="Conference", outcome="disallowed") == 0


# --- Bounds


def _flooded() -> Metrics:
    """Metrics after more accounts, rules, sources, types, partitions and errors than anybody has."""
    aliases = {f"AC{number:032x}": f"team-{number}" for number in range(60)}
    alertmanagers = [f"alertmanager-{number}.example.com:9093" for number in range(ALERTMANAGERS_MAX)]
    metrics = Metrics(aliases=aliases, alertmanagers=alertmanagers, process=True, wall_clock=Clock())
    rules = tuple(RuleDocument(name=f"rule-{number}", outcome="disallowed") for number in range(25))
    metrics.policy_loaded(compile_policy(PolicyDocument(rules=rules), b"many"), 1.0)
    sources = ["Conference", "DialVerb", "RecordVerb", "Trunking", None, "New", "<script>"]
    combined = itertools.product(range(0, 62, 3), range(25), sources, ("critical", "warning", "info"))
    cases: dict[tuple[str, str, str, str], int] = {}
    for number, (account, rule, source, severity) in enumerate(combined):
        told = verdict(
            account_sid=f"AC{account:032x}", rule=f"rule-{rule}", start_source=source, severity=severity, alert=None
        )
        metrics.verdict_published(0, Publish(f"RE{number}", told, None, T0_MS, late=False), T0_MS)
        alert = AlertLabels(f"rule-{rule}", severity, None, "main", source)
        labels = metrics.case_labels(msgspec.structs.replace(told, alert=alert))
        cases[labels] = cases.get(labels, 0) + 1
    metrics.cases_from(lambda: cases, dict)
    for name in alertmanagers:
        for result in RESULTS:
            metrics.alerts_sent(name, result, 1, 0.01, 1.0)
    for number in range(300):
        metrics.partition(number, watermark_ms=1, lag=1, tick_ms=1)
        metrics.kafka_error(f"error_{number}")
        metrics.quarantined(f"reason {number}")
        type_ = TYPES[number] if number < len(TYPES) else f"com.twilio.new.{number}"
        metrics.count(Counts(messages=1, entries=1, events={type_: 1}, latest_event_ms={type_: 1}))
        metrics.count(Counts(ages={type_: EventAges((1, 0, 0, 0, 0, 0), 500)}))
        metrics.count(Counts(unknown={f"com.twilio.new.{'x' * (number % 80)}": 1, f"<script>{number}": 1}))
        metrics.audited(f"AC{number:032x}", ["disallowed"], 1, 1.0)
    metrics.flex_from(lambda: [(f"AC{number:032x}", True, 1) for number in range(300)])
    return metrics


def test_whatever_happens_the_series_stay_within_the_budget():
    metrics = _flooded()
    series = [sample for family in metrics.registry.collect() for sample in family.samples]

    assert 1_000 < len(series) <= SERIES_MAX
    assert (value(metrics, "series_overflow_total") or 0) > 0


def test_a_hundred_thousand_made_up_accounts_and_sources_stay_within_the_budget():
    metrics = crowded(100_000)
    series = [sample for family in metrics.registry.collect() for sample in family.samples]

    assert len(series) <= SERIES_MAX
    assert value(metrics, "account_overflow_total") == 100_000


def crowded(accounts: int) -> Metrics:
    """Metrics after as many accounts and start sources as somebody makes up, each with an open case."""
    metrics = fresh(process=True)
    cases: dict[tuple[str, str, str, str], int] = {}
    for number in range(accounts):
        told = verdict(account_sid=f"AC{number:032x}", start_source=f"Source{number}", rule=f"rule-{number % 300}")
        publish(metrics, told, key=f"RE{number:032x}")
        labels = metrics.case_labels(told)
        cases[labels] = cases.get(labels, 0) + 1
    metrics.cases_from(lambda: cases, dict)
    return metrics


def test_what_is_folded_is_counted_all_the_same():
    metrics = _flooded()
    published = 21 * 25 * 7 * 3
    total: dict[str, float] = {}
    for family in metrics.registry.collect():
        total[family.name.removeprefix(PREFIX)] = sum(
            sample.value for sample in family.samples if not sample.name.endswith("_created")
        )

    assert total["recordings"] == published
    assert total["disallowed_recordings"] == published
    assert total["open_cases"] == published
    assert total["events"] == 300
    assert total["kafka_errors"] == 300
    assert total["quarantined"] == 300


def test_open_cases_beyond_the_bound_are_folded_apart_by_severity():
    metrics = _flooded()
    (family,) = [family for family in metrics.registry.collect() if family.name == PREFIX + "open_cases"]
    folded = [sample for sample in family.samples if sample.labels["rule"] == "other"]

    assert len(family.samples) <= OPEN_CASES_MAX
    assert {sample.labels["severity"] for sample in folded} == {"critical", "warning", "info"}


def test_no_label_holds_a_sid_a_number_or_a_name():
    told = generate_latest(_flooded().registry).decode()
    values = {
        text for family in text_string_to_metric_families(told) for s in family.samples for text in s.labels.values()
    }

    assert not [text for text in values if re.search(r"\b[A-Z]{2}[0-9a-f]{32}\b|\+[0-9]{7,}|script", text)]


def test_a_type_nobody_knows_is_other_and_taskrouters_types_are_two():
    assert type_label(RECORDED) == RECORDED
    assert type_label("com.twilio.taskrouter.task.brand-new") == "com.twilio.taskrouter.task"
    assert type_label("com.twilio.taskrouter.reservation.accepted") == "com.twilio.taskrouter.reservation"
    assert type_label("com.twilio.taskrouter.tasks") == "other"
    assert type_label("") == "other"


def test_reading_while_others_write_never_fails():
    metrics = fresh()
    stop = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                generate_latest(metrics.registry)
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # Turns in the middle of everything, where there would be one in a thousand reads.
    try:
        reader.start()
        for number in range(2_000):
            publish(metrics, verdict(), key=f"RE{number}", partition=number % 7)
            metrics.partition(number % 50, watermark_ms=number, lag=number, tick_ms=number)
            metrics.count(Counts(latest_event_ms={f"com.twilio.x.{number}": number, TYPES[number % 40]: number}))
            if number % 500 == 0:
                metrics.partition_gone(number % 7)
    finally:
        stop.set()
        reader.join()
        sys.setswitchinterval(before)

    assert failed == []


def test_the_build_says_its_version_and_python():
    build = this_build()
    said = value(Metrics(aliases={}), "build_info", version=__version__, revision=build.revision, python=build.python)
    assert (build.version, build.python, said) == (__version__, platform.python_version(), 1)


def test_types_that_nobody_knows_are_counted_by_name_unless_the_name_may_be_anything():
    metrics = fresh()
    metrics.count(Counts(unknown={"com.twilio.Voice.recording.v2": 3, "com.twilio.x.+4930123456": 1, "": 2}))
    metrics.count(Counts(unknown={"com.twilio.x.4930123456": 1, "org.example": 1}))

    assert value(metrics, "unknown_events_total", type="com.twilio.voice.recording.v2") == 3
    assert value(metrics, "unknown_events_total", type="other") == 5


def test_accounts_that_share_an_alias_show_the_worst_of_them():
    metrics = Metrics(aliases={MAIN: "main", LAB: "main"}, process=False)
    metrics.flex_from(lambda: [(MAIN, False, T0_MS), (LAB, True, T0_MS - MINUTE), (STRANGER, False, None)])
    metrics.audited(MAIN, ["allowed"], 0, 100.0)
    metrics.audited(LAB, ["disallowed", "allowed"], 2, 50.0)

    assert value(metrics, "flex_call_recording_enabled", account="main") == 1
    assert value(metrics, "flex_call_recording_enabled", account="other") == 0
    assert value(metrics, "flex_call_recording_changed_timestamp_seconds", account="main") == T0_MS / 1000
    assert value(metrics, "flex_call_recording_changed_timestamp_seconds", account="other") is None
    assert value(metrics, "audit_changes", account="main") == 2
    assert value(metrics, "audit_starts", outcome="allowed") == 2
    assert value(metrics, "audit_timestamp_seconds") == 50.0


def test_an_audit_that_was_not_whole_leaves_the_instant_of_the_last_that_was():
    metrics = fresh()
    metrics.audited(MAIN, [], 0, 100.0)
    metrics.audited(MAIN, [], 3, None)
    assert value(metrics, "audit_timestamp_seconds") == 100.0
    assert value(metrics, "audit_changes", account="main") == 3

    metrics.audit_gone(MAIN)
    assert value(metrics, "audit_timestamp_seconds") is None
    assert value(metrics, "audit_changes", account="main") is None
