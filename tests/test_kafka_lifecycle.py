"""The life of a partition on a real broker: taken over, rebuilt, judged, committed, given up."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import OFFSET_END, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from monitor.core.attribution import Attribution
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Pipeline, Told, Tuning
from monitor.core.policy import Subject
from monitor.core.verdict import encode_verdict
from monitor.core.window import Window
from tests.broker import RealBroker
from tests.conftest import BrokerMaker
from tests.member import WAIT_S, Desk, Running, Stumbling, now_ms, recording_event, recording_sid, until
from tests.test_kafka_tools import admin as topic_admin
from tests.test_kafka_tools import names
from tests.uncollected import uncollected

pytestmark = pytest.mark.broker

GROUPS: list[dict[str, object]] = [
    {},
    {"group.protocol": "consumer"},
    {"partition.assignment.strategy": "range"},
    {"group.instance.id": "the-one"},
    {"group.protocol": "consumer", "group.instance.id": "the-one"},
]


@pytest.mark.parametrize("client", GROUPS, ids=str)
def test_a_recording_is_judged_and_its_verdict_stands_in_its_partition(broker: RealBroker, client: dict[str, object]):
    desk = Desk.on(broker)
    with Running(desk, client=client) as running:
        running.ready(2)
        desk.send([recording_event(1)], partition=1)
        until(lambda: len(running.verdicts_told()) == 1)
    assert desk.verdicts(0) == {}
    verdict = desk.verdicts(1)[recording_sid(1)]
    assert (verdict.outcome, verdict.cause) == ("disallowed", "dial_verb")
    assert verdict.evidence[0].position.startswith("1:")


@pytest.mark.parametrize("client", GROUPS, ids=str)
def test_a_restart_says_nothing_twice_and_forgets_nothing(broker: RealBroker, client: dict[str, object]):
    desk = Desk.on(broker, 1)
    with Running(desk, client=client) as first:
        first.ready(1)
        desk.send([recording_event(1, source="Conference"), recording_event(2)])
        until(lambda: len(first.verdicts_told()) == 1)
    at = desk.committed()
    assert at.metadata is not None
    assert msgspec.json.decode(at.metadata)["r"] < at.offset
    written = desk.read(desk.topics.verdicts)
    with Running(desk, client=client) as second:
        second.ready(1)
        [(_, resumed)] = second.heard.takeovers
        assert (resumed.foreign, resumed.fresh) == (None, False)
        # The conference recording is still open: only a rebuild can know of it when its end comes.
        desk.send([recording_event(1, source="Conference", status="completed"), recording_event(3)])
        until(lambda: any(verdict.recording_sid == recording_sid(3) for verdict in second.verdicts_told()))
        assert second.heard.replayed > 0
        assert {v.recording_sid for v in second.verdicts_told()} == {recording_sid(3)}
    assert desk.read(desk.topics.verdicts)[: len(written)] == written
    assert {key for key, _, _ in desk.read(desk.topics.verdicts)[len(written) :]} == {recording_sid(3)}


def test_a_silent_partition_still_ends_graces_and_windows(broker: RealBroker):
    desk = Desk.on(broker, 1)
    tuning = Tuning(grace_ms=1000, window_ms=8000)  # So far apart that a tick comes between, however busy it is.
    with Running(desk, tuning=tuning, tick_every_s=0.2) as running:
        running.ready(1)
        desk.send([recording_event(1, source="Conference")])
        until(lambda: len(running.verdicts_told()) == 2)
    assert [(v.cause, v.final) for v in running.verdicts_told()] == [("unattributed", False), ("unattributed", True)]


def test_ticks_come_back_and_log_time_follows_them(broker: RealBroker):
    desk = Desk.on(broker, 2)
    begun = now_ms()
    with Running(desk, tick_every_s=0.2) as running:
        running.ready(2)
        until(lambda: all((running.heard.positions.get(p) or (0, 0, None))[2] for p in (0, 1)))
        until(lambda: all(running.heard.positions[p][1] == 0 for p in (0, 1)))
        log_time_ms, _, tick_ms = running.heard.positions[1]
    assert tick_ms is not None
    assert tick_ms >= begun
    assert log_time_ms is not None
    assert log_time_ms >= begun


def test_a_position_is_committed_only_with_metadata_that_makes_it_our_own(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as running:
        running.ready(1)
        desk.send([recording_event(1)])
        until(lambda: "ok" in running.heard.commits)
        until(lambda: desk.committed().offset >= 2)
    at = desk.committed()
    metadata = msgspec.json.decode(at.metadata or "")
    assert set(metadata) == {"v", "g", "r", "w", "x", "t"}
    assert metadata["g"] == 1
    assert metadata["r"] <= 1 < at.offset


# ------------------------------------------------------------------------------------------------- rebalances


def test_a_member_that_joins_takes_partitions_and_those_that_stay_are_not_rebuilt(broker: RealBroker):
    desk = Desk.on(broker, 4)
    with Running(desk) as first:
        first.ready(4)
        for partition in range(4):
            desk.send([recording_event(partition)], partition=partition)
        until(lambda: len(first.verdicts_told()) == 4)
        with Running(desk) as second:
            second.ready(2)
            first.ready(2)
            for partition in range(4):
                desk.send([recording_event(10 + partition)], partition=partition)
            until(lambda: len(first.verdicts_told()) + len(second.verdicts_told()) == 8)
            assert sorted(first.heard.restores) == [0, 1, 2, 3]
            assert len(second.heard.restores) == 2
            assert {r.fresh for _, r in second.heard.takeovers} == {False}
        first.ready(4)
        until(lambda: len(first.heard.restores) == 6)
    told = [v.recording_sid for v in first.verdicts_told() + second.verdicts_told()]
    assert len(told) == len(set(told)) == 8


def test_nothing_is_kept_of_a_partition_that_has_gone(broker: RealBroker, tmp_path: Path):
    """Nor is it left to the garbage collection, which looks at what is old only when nothing is to do."""
    desk = Desk.on(broker, 2)
    states: list[weakref.ref[Window]] = []

    def known(pipeline: Pipeline) -> Pipeline:
        states.append(weakref.ref(pipeline.window))
        return pipeline

    with uncollected(), Running(desk, wrap=known, snapshots=tmp_path) as first:
        first.ready(2)
        for partition in range(2):
            desk.send((recording_event(n, source="Conference") for n in range(50)), partition=partition)
        until(lambda: all(desk.committed(p).offset > 50 for p in range(2)))
        assert len([one for one in states if one() is not None]) == 2
        with Running(desk) as second:
            second.ready(1)
            first.ready(1)
            until(lambda: len([one for one in states if one() is not None]) == 1)


def test_a_partition_that_stays_is_judged_while_another_is_rebuilt(broker: RealBroker):
    desk = Desk.on(broker, 2)
    Crawling.begun.clear()
    Crawling.hurry.clear()
    with Running(desk, wrap=Crawling) as stays:
        stays.ready(2)
        # What has to be folded again is long: the first of these conversations, still open, holds R at the beginning.
        for partition in range(2):
            desk.send((recording_event(1 + n, source="Conference") for n in range(3_000)), partition=partition)
        until(lambda: all(desk.committed(p).offset > 3_000 for p in range(2)))
        with Running(desk) as goes:
            goes.ready(1)
            stays.ready(1)
            until(lambda: goes.heard.restores != [])  # It is told of a moment after it is so.
            [taken] = set(goes.heard.restores)
        assert Crawling.begun.wait(WAIT_S)
        desk.send([recording_event(90_000)], partition=1 - taken)
        until(lambda: any(v.recording_sid == recording_sid(90_000) for v in stays.verdicts_told()))
        assert stays.member.restoring() == f"partitions not restored yet: {taken}"
        assert stays.member.rebuilding()
        Crawling.hurry.set()
        stays.ready(2)
        assert not stays.member.rebuilding()
        until(lambda: stays.heard.restores[2:] == [taken])


class Crawling:
    """The pipeline, but its rebuild slows down as it goes, until told to hurry: 3,000 messages take 90 s."""

    begun = threading.Event()
    hurry = threading.Event()

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._rebuilding = True

    def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
        if self._rebuilding:
            self.begun.set()
            self.hurry.wait(offset / 50_000)
        return self._pipeline.feed(offset, timestamp_ms, value, headers)

    def open(self, ledger: Ledger) -> int:
        self._rebuilding = False
        return self._pipeline.open(ledger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


def test_a_frozen_member_that_wakes_up_loses_its_partitions_and_goes_on(broker: RealBroker):
    desk = Desk.on(broker, 1)
    client: dict[str, object] = {"session.timeout.ms": 1000, "heartbeat.interval.ms": 200, "max.poll.interval.ms": 1500}
    Freezing.frozen.clear()
    Freezing.awake.clear()
    with Running(desk, client=client, wrap=Freezing) as first:
        first.ready(1)
        desk.send([recording_event(1)])
        until(lambda: len(first.verdicts_told()) == 1)
        desk.send([b'"freeze"'])
        assert Freezing.frozen.wait(WAIT_S)
        # Not frozen: it folds the same message, and takes its time where the machine is busy.
        with Running(desk) as second:
            second.ready(1)
            desk.send([recording_event(2)])
            until(lambda: any(v.recording_sid == recording_sid(2) for v in second.verdicts_told()))
            Freezing.awake.set()
            until(lambda: any(event in ("lost", "revoked") for event, _ in first.heard.rebalances))
            assert first.alive
        first.ready(1)
        desk.send([recording_event(3)])
        until(lambda: any(v.recording_sid == recording_sid(3) for v in first.verdicts_told()))
    assert set(desk.verdicts()) == {recording_sid(n) for n in (1, 2, 3)}


class Freezing:
    """The pipeline, but it stops at a certain message until it is woken: a process that gets no processor."""

    frozen = threading.Event()
    awake = threading.Event()

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
        if value == b'"freeze"':
            self.frozen.set()
            self.awake.wait(2 * WAIT_S)
        return self._pipeline.feed(offset, timestamp_ms, value, headers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


# ------------------------------------------------------------------------------------------------- foreign, blind


def test_an_offset_reset_by_a_tool_is_foreign_and_raises_the_generation(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as first:
        first.ready(1)
        desk.send([recording_event(1), recording_event(2)])
        until(lambda: len(first.verdicts_told()) == 2)
    desk.commit(1)
    with Running(desk) as second:
        second.ready(1)
        [(_, resumed)] = second.heard.takeovers
        assert resumed.foreign == "no_metadata"
        desk.send([recording_event(3)])
        until(lambda: any(v.recording_sid == recording_sid(3) for v in second.verdicts_told()))
    verdicts = desk.verdicts()
    assert set(verdicts) == {recording_sid(n) for n in (1, 2, 3)}
    assert {verdict.outcome for verdict in verdicts.values()} == {"disallowed"}
    assert verdicts[recording_sid(3)].at[0] == 2
    assert msgspec.json.decode(desk.committed().metadata or "")["g"] == 2


def test_a_topic_made_anew_is_read_from_where_the_settings_say(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as first:
        first.ready(1)
        desk.send([recording_event(n) for n in range(5)])
        until(lambda: len(first.verdicts_told()) == 5)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.delete_topics([desk.topics.events], operation_timeout=30)[desk.topics.events].result(30)
    until(lambda: desk.topics.events not in admin.list_topics(timeout=10).topics)
    broker.create_topic(desk.topics.events, 1)
    desk = desk.again()
    desk.send([recording_event(9)])
    with Running(desk) as second:
        second.ready(1)
        until(lambda: any(v.recording_sid == recording_sid(9) for v in second.verdicts_told()))
        assert second.heard.takeovers[0][1].foreign is not None or second.heard.takeovers[0][1].fresh
    assert desk.verdicts()[recording_sid(9)].at[0] == 2


def test_a_topic_made_anew_that_has_grown_beyond_a_position_is_read_from_its_beginning(broker: RealBroker):
    """No error says so: to whoever asks for the message at that position, there is one."""
    desk = Desk.on(broker, 1)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    with Running(desk, topic_id=topic_admin(broker, names()).topic_id, tick_every_s=60) as member:
        member.ready(1)
        desk.send([recording_event(n) for n in range(2)])
        until(lambda: len(member.verdicts_told()) == 2 and desk.committed().offset >= 2)
        admin.delete_topics([desk.topics.events], operation_timeout=30)[desk.topics.events].result(30)
        until(lambda: desk.topics.events not in admin.list_topics(timeout=10).topics)
        broker.create_topic(desk.topics.events, 1)
        desk = desk.again()
        desk.send([recording_event(n) for n in range(10, 20)])
        told = {recording_sid(n) for n in range(10, 20)}
        until(lambda: told <= {verdict.recording_sid for verdict in member.verdicts_told()}, for_s=30.0)
    assert set(desk.verdicts()) == {recording_sid(n) for n in range(2)} | told


def test_messages_that_retention_took_unread_are_a_blind_interval(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk, tick_every_s=60) as first:  # No tick comes back behind its last commit.
        first.ready(1)
        desk.send([recording_event(1, source="Conference")])
        until(lambda: desk.committed().offset >= 2)
    stopped_at = desk.committed().offset
    desk.send([recording_event(2), recording_event(3)])
    broker.delete_records(desk.topics.events, 0, stopped_at + 1)
    with Running(desk) as second:
        second.ready(1)
        [(_, resumed)] = second.heard.takeovers
        until(lambda: any(v.recording_sid == recording_sid(3) for v in second.verdicts_told()))
        until(lambda: desk.committed().offset > stopped_at + 2)
    assert resumed.blind is not None
    assert (resumed.blind.end, resumed.blind.unjudged) == (stopped_at + 1, 1)
    assert recording_sid(2) not in desk.verdicts()
    # The cut is part of the position: whoever takes over next is as careful.
    assert msgspec.json.decode(desk.committed().metadata or "")["x"][0] == stopped_at


def test_a_group_that_starts_at_an_instant_reads_what_is_left_where_records_were_deleted(broker: RealBroker):
    # For minutes their segment is still there: the broker looks for the first message since an instant in that alone.
    desk = Desk.on(broker, 1, segment_ms=1_000)
    at_ms = now_ms() - 60_000
    desk.send([recording_event(1)], timestamp=at_ms + 10_000)
    desk.send([recording_event(2)], timestamp=at_ms + 20_000)
    broker.delete_records(desk.topics.events, 0, 1)
    with Running(desk, start_at=at_ms) as running:
        running.ready(1)
        until(lambda: [v.recording_sid for v in running.verdicts_told()] == [recording_sid(2)])


class Waiting:
    """The pipeline, held up by one message until it is let go."""

    def __init__(self, pipeline: Pipeline, reached: threading.Event, let_go: threading.Event) -> None:
        self._pipeline = pipeline
        self._reached = reached
        self._let_go = let_go

    def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
        if value == b'"wait"':
            self._reached.set()
            assert self._let_go.wait(WAIT_S)
        return self._pipeline.feed(offset, timestamp_ms, value, headers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


@pytest.mark.parametrize("client", GROUPS[:3], ids=str)
def test_a_member_that_retention_overtakes_goes_on_behind_it(broker: RealBroker, client: dict[str, object]):
    desk = Desk.on(broker, 2)
    reached, let_go = threading.Event(), threading.Event()
    small = {"queued.max.messages.kbytes": 1, "fetch.message.max.bytes": 2_000, "fetch.queue.backoff.ms": 10}
    with Running(desk, client={**client, **small}, wrap=lambda pipeline: Waiting(pipeline, reached, let_go)) as running:
        running.ready(2)
        desk.send([recording_event(4, source="Conference")], partition=1)
        desk.send([recording_event(1), b'"wait"'])
        assert reached.wait(WAIT_S)
        for _ in range(20):  # One a batch: a batch is fetched whole.
            desk.send([b'{"padding":"%s"}' % (b"x" * 2_000)])
        broker.delete_records(desk.topics.events, 0, OFFSET_END)
        desk.send([recording_event(2)])
        let_go.set()
        until(lambda: any(v.recording_sid == recording_sid(2) for v in running.verdicts_told()))
        # The other partition was not touched: what it knew of an open recording it still knows.
        desk.send([recording_event(4, source="Conference", status="completed"), recording_event(5)], partition=1)
        until(lambda: any(v.recording_sid == recording_sid(5) for v in running.verdicts_told()))
        taken_over = [partition for partition, _ in running.heard.takeovers]
    assert sorted(taken_over) == [0, 0, 1]
    assert running.heard.takeovers[-1][1].blind is not None


# ------------------------------------------------------------------------------------------------- faults of ours


def test_a_message_on_which_the_core_raises_is_quarantined_and_blocks_nobody(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk, wrap=Stumbling) as running:
        running.ready(1)
        until(lambda: "ok" in running.heard.commits)
        desk.send([recording_event(1), b'"stumble"', recording_event(2), b'"stumble too"', recording_event(3)])
        until(lambda: len({v.recording_sid for v in running.verdicts_told()}) == 3)
        until(lambda: desk.committed().offset >= 6)
    aside = [(value, headers["reason"]) for _, value, headers in desk.read(desk.quarantine)]
    assert aside == [(b'"stumble"', b"core-error"), (b'"stumble too"', b"core-error")]
    assert set(desk.verdicts()) == {recording_sid(n) for n in (1, 2, 3)}
    told = [v.recording_sid for v in running.verdicts_told()]
    assert len(told) == len(set(told))


class StumblingOnce(Stumbling):
    """A bug in what is judged again when the gate is open."""

    stumbled = 0

    def sweep(self, most: int) -> Sequence[Told]:
        if not self.stumbled:
            self.stumbled += 1
            raise ZeroDivisionError("a bug")
        return self._pipeline.sweep(most)


def test_a_sweep_on_which_the_core_raises_goes_on_and_costs_no_message(broker: RealBroker):
    desk = Desk.on(broker, 1)
    desk.send([recording_event(1)])
    with Running(desk, wrap=StumblingOnce) as running:
        running.ready(1)
        desk.send([recording_event(2)])
        until(lambda: {v.recording_sid for v in running.verdicts_told()} == {*map(recording_sid, (1, 2))})
        until(lambda: not running.member.ask(0, lambda fold: fold.sweeping).result())
        assert len(running.heard.takeovers) == 1
    assert desk.read(desk.quarantine) == []


def test_a_deadline_on_which_the_core_raises_costs_its_own_recording_a_verdict_and_no_message(broker: RealBroker):
    desk = Desk.on(broker, 1)

    def bug(attribution: Attribution, _: Subject) -> None:
        if attribution.recording_sid == recording_sid(2):
            raise ZeroDivisionError("a bug")

    with Running(desk, watch=bug, tuning=Tuning(grace_ms=500, window_ms=3_000)) as running:
        running.ready(1)
        by_api = [recording_event(number, source="StartCallRecordingAPI") for number in (1, 2)]
        desk.send([*by_api, recording_event(3, source="Conference")])
        until(lambda: {v.recording_sid for v in running.verdicts_told() if v.final} == {*map(recording_sid, (1, 2, 3))})
        assert len(running.heard.takeovers) == 1
    assert desk.read(desk.quarantine) == []
    assert [desk.verdicts()[recording_sid(n)].outcome for n in (1, 2, 3)] == ["allowed", "undetermined", "disallowed"]


def test_what_is_heard_of_a_verdict_is_what_was_written_backlog_and_all(broker: RealBroker):
    desk = Desk.on(broker, 1)
    hour_ago_ms = now_ms() - 3_600_000
    ended = recording_event(1, started_ms=hour_ago_ms).replace(
        b'"RecordingStatus"', b'"RecordingDuration":"5","RecordingStatus"'
    )
    desk.send([ended, recording_event(2, started_ms=hour_ago_ms)], timestamp=hour_ago_ms)
    with Running(desk) as running:
        running.ready(1)
        until(lambda: len(running.verdicts_told()) == 2)
    written = desk.verdicts()
    assert {verdict.recording_sid: verdict for verdict in running.verdicts_told()} == written
    assert [written[recording_sid(number)].backlog for number in (1, 2)] == [True, False]


def test_a_raised_generation_is_committed_before_anything_is_judged_in_it(broker: RealBroker):
    desk = Desk.on(broker, 1)
    desk.send([b"null"])
    desk.commit(1)
    with Running(desk, tick_every_s=3600) as running:
        running.ready(1)
        until(lambda: "ok" in running.heard.commits)
        assert msgspec.json.decode(desk.committed().metadata or "")["g"] == 1


def test_a_message_below_the_checkpoint_on_which_the_core_raises_is_only_skipped(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as first:
        first.ready(1)
        desk.send([recording_event(1, source="Conference"), b'"stumble"'])
        until(lambda: desk.committed().offset >= 3)
    before = len(desk.read(desk.quarantine))
    with Running(desk, wrap=Stumbling) as second:
        second.ready(1)
        desk.send([recording_event(2)])
        until(lambda: len(second.verdicts_told()) == 1)
        assert len(second.heard.takeovers) == 2
    assert len(desk.read(desk.quarantine)) == before


def test_poison_is_quarantined_with_what_is_needed_to_find_it_again(broker: RealBroker):
    desk = Desk.on(broker, 1)
    poison = [b"\xff\xfe not json", b"[" * 100_000, b'{"specversion": "1.0"}', b"null", b"\x00" * 300_000]
    with Running(desk) as running:
        running.ready(1)
        desk.send([*poison, recording_event(1)])
        until(lambda: len(running.verdicts_told()) == 1)
        until(lambda: len(running.heard.aside) == len(poison))
    kept = desk.read(desk.quarantine)
    assert [int(headers["length"]) for _, _, headers in kept] == [len(data) for data in poison]
    assert [value for _, value, _ in kept] == [data[: 256 * 1024] for data in poison]
    assert all(headers["position"].startswith(b"0:") and len(headers["sha256"]) == 64 for _, _, headers in kept)


# ------------------------------------------------------------------------------------------------- zombies, outputs


def test_a_lesser_verdict_of_a_former_owner_is_overwritten_with_what_holds(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as running:
        running.ready(1)
        desk.send([b"null", recording_event(1)])
        until(lambda: len(running.verdicts_told()) == 1)
        [held] = running.verdicts_told()
        stale = msgspec.structs.replace(held, at=(1, 0), outcome="allowed", reason="stale")
        desk.fill(desk.topics.verdicts, [(recording_sid(1), encode_verdict(stale))])
        until(lambda: len(desk.read(desk.topics.verdicts)) == 3)
    _, last, _ = desk.read(desk.topics.verdicts)[-1]
    assert last == encode_verdict(held)


def test_a_lesser_verdict_that_came_last_while_nobody_ran_is_overwritten_at_the_takeover(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as first:
        first.ready(1)
        desk.send([b"null", recording_event(1)])
        until(lambda: len(first.verdicts_told()) == 1)
    [held] = first.verdicts_told()
    stale = msgspec.structs.replace(held, at=(1, 0), outcome="allowed", reason="stale")
    desk.fill(desk.topics.verdicts, [(recording_sid(1), encode_verdict(stale))])
    with Running(desk) as second:
        second.ready(1)
        until(lambda: len(desk.read(desk.topics.verdicts)) == 3)
    assert desk.read(desk.topics.verdicts)[-1][1] == encode_verdict(held)


def test_our_own_writes_are_never_written_again(broker: RealBroker):
    desk = Desk.on(broker, 1)
    with Running(desk) as running:
        running.ready(1)
        for n in range(200):
            desk.send([recording_event(n), recording_event(n, status="completed")])
        until(lambda: len(running.verdicts_told()) >= 400)
        desk.send([recording_event(999)])
        until(lambda: any(v.recording_sid == recording_sid(999) for v in running.verdicts_told()))
    assert len(desk.read(desk.topics.verdicts)) == len(running.verdicts_told())


def limit(broker: RealBroker, topic: str, bytes_max: int) -> None:
    """Say how large a message of the topic may be."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    entry = ConfigEntry("max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    # It is the controller that knows now; the broker that takes messages follows.
    producer = Producer({"bootstrap.servers": broker.bootstrap})

    def holds() -> bool:
        refused: list[bool] = []
        padding: list[tuple[str, str | bytes | None]] = [("padding", b"x" * 300)]
        producer.produce(topic, None, "probe", 0, lambda error, _: refused.append(error is not None), headers=padding)
        assert producer.flush(30) == 0
        return refused == [bytes_max < 300]

    until(holds)


def test_what_cannot_be_published_is_not_committed_and_comes_when_it_can_be(broker: RealBroker):
    desk = Desk.on(broker, 1)
    event = recording_event(1)
    # A commit after each turn of the loop: one that does not wait for what it covers gets ahead of it.
    with Running(desk, commit_every_s=0.0) as running:
        running.ready(1)
        limit(broker, desk.topics.verdicts, 100)
        desk.send([event])
        until(lambda: len(running.heard.takeovers) >= 3)
        assert running.verdicts_told() == []
        place = [value for _, value, _ in desk.read(desk.topics.events)].index(event)
        assert desk.committed().offset <= place
        limit(broker, desk.topics.verdicts, 1_000_000)
        until(lambda: len(running.verdicts_told()) == 1)
        until(lambda: desk.committed().offset > place)
    assert set(desk.verdicts()) == {recording_sid(1)}


class Opening:
    """The pipeline, and how many account settings were known when its gate opened."""

    known: Callable[[], int]
    at_opening: list[int]

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def open(self, ledger: Ledger) -> int:
        self.at_opening.append(self.known())
        return self._pipeline.open(ledger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


def test_account_settings_are_read_to_their_end_before_a_gate_opens_and_followed_after(broker: RealBroker):
    desk = Desk.on(broker, 1)
    desk.fill(desk.topics.account_settings, ((f"a/flex/{n}", b"{}") for n in range(200_000)))
    running = Running(desk, wrap=Opening)
    Opening.known, Opening.at_opening = staticmethod(lambda: len(running.heard.settings)), []
    with running:
        running.ready(1)
        desk.fill(desk.topics.account_settings, [("a/flex/0", None)])
        until(lambda: running.heard.settings[200_000:] == [("a/flex/0", None)])
    assert Opening.at_opening == [200_000]


# ------------------------------------------------------------------------------------------------- the broker goes


def test_a_broker_that_goes_and_comes_back_costs_no_verdict(new_broker: BrokerMaker):
    broker = new_broker()
    desk = Desk.on(broker, 1)
    with Running(desk) as running:
        running.ready(1)
        desk.send([recording_event(1)])
        until(lambda: len(running.verdicts_told()) == 1)
        broker.kill()
        polls = running.heard.polls
        until(lambda: running.heard.errors != [])
        until(lambda: running.heard.polls > polls + 5)
        assert running.alive
        broker.start()
        desk = desk.again()
        desk.send([recording_event(2)])
        until(lambda: any(v.recording_sid == recording_sid(2) for v in running.verdicts_told()))
    assert set(desk.verdicts()) == {recording_sid(1), recording_sid(2)}


def test_a_member_started_before_its_broker_waits_for_it(new_broker: BrokerMaker):
    broker = new_broker()
    desk = Desk.on(broker, 1)
    broker.stop()
    with Running(desk) as running:
        until(lambda: running.heard.errors != [])
        assert running.alive
        assert not running.restored
        broker.start()
        running.ready(1)


def test_a_member_stops_while_its_broker_is_away(new_broker: BrokerMaker):
    broker = new_broker()
    desk = Desk.on(broker, 1)
    with Running(desk) as running:
        running.ready(1)
        desk.send([recording_event(1)])
        until(lambda: len(running.verdicts_told()) == 1)
        broker.kill()
        running.stop()
    assert not running.alive
