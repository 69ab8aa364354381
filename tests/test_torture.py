"""The torture run's judge sees what an interruption must not do: else its table of noughts would say nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import Starter
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import encode_verdict
from tests.broker import RealBroker
from tests.monitors import Site
from tests.torture.fuzz import Mutator, through_core
from tests.torture.judge import Commit, Mark, Tally, judge, live_again, read_commits
from tests.torture.nailed import Endless
from tests.torture.stage import Act
from tests.verify import Message, Verdict

PAST_MS = 5 * 3_600_000


class Told:
    """A verdict topic as one uninterrupted member would have written it, to be spoilt."""

    def __init__(self, act: Act) -> None:
        starters = AccountSettings()
        tuning = Tuning(starters=_starters(act))
        first = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
        pipeline = Pipeline(tuning, built_in_policy(), starters, partition=0, checkpoint=first)
        pipeline.open(Ledger())
        self.messages: list[Message] = []
        begun = 1_790_000_000_000
        values = [entry.value for entry in act.entries]
        for offset, value in enumerate([*values, b"{}", b"{}"]):
            at_ms = begun + offset if offset < len(values) else begun + PAST_MS
            for told in pipeline.feed(offset, at_ms, value):
                if isinstance(told, Publish):
                    self.add(told.key, None if told.verdict is None else encode_verdict(told.verdict), at_ms)
        self.end = len(values) + 2

    def add(self, key: str, value: bytes | None, at_ms: int, by: bytes = b"one") -> None:
        self.messages.append(Message(0, len(self.messages), at_ms, key, value, {"by": by}))

    def last(self, **wanted: Any) -> Message:
        """The last verdict that is so."""
        for message in reversed(self.messages):
            if message.value is not None and wanted.items() <= msgspec.json.decode(message.value).items():
                return message
        raise AssertionError(f"nothing told is {wanted}")

    def without(self, key: str | None) -> list[Message]:
        return [message for message in self.messages if message.key != key]

    def changed(self, message: Message, **fields: Any) -> list[Message]:
        spoilt = msgspec.json.encode({**msgspec.json.decode(message.value or b""), **fields})
        return [m if m is not message else m._replace(value=spoilt) for m in self.messages]


def _starters(act: Act) -> Any:
    return tuple(Starter(s.callback_url, s.cause, s.name) for s in act.truth[0].starters)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def act() -> Act:
    return Act(7, 1_500, malformed=0.0)


@pytest.fixture
def told(act: Act) -> Told:
    return Told(act)


def judged(act: Act, messages: Iterable[Message], commits: Iterable[Commit] = (), **more: Any) -> Tally:
    return judge(list(messages), list(commits), act.truth, **more)


def metadata(generation: int = 1) -> str:
    return msgspec.json.encode({"v": 1, "g": generation, "r": 0, "w": 0, "x": None, "t": "t"}).decode()


def test_a_run_to_which_nothing_happened_passes(act, told):
    tally = judged(act, told.messages)

    assert tally.passed, (tally.lost, tally.different, tally.repeated, tally.faults)
    assert tally.verdicts > 10


def test_a_verdict_that_is_not_there_is_lost(act, told):
    tally = judged(act, told.without(told.last(kind="recording").key))

    assert (len(tally.lost), len(tally.different)) == (1, 0)
    assert not tally.passed


def test_a_verdict_that_never_became_final_is_lost(act, told):
    tally = judged(act, [message for message in told.messages if message is not told.last(final=True)])

    assert len(tally.lost) == 1


def test_another_outcome_than_the_true_one_is_different(act, told):
    tally = judged(act, told.changed(told.last(outcome="disallowed"), outcome="undetermined"))

    assert (len(tally.lost), len(tally.different)) == (0, 1)


def test_a_verdict_about_a_recording_that_never_was_is_different(act, told):
    told.add("RE" + "e" * 32, told.last(kind="recording").value, 1)

    assert any("nobody recorded it" in line for line in judged(act, told.messages).different)
    assert not judged(act, told.messages, others=True).different


def test_other_evidence_than_that_of_an_uninterrupted_run_is_different(act, told):
    straight = {m.key: msgspec.json.decode(m.value or b"") for m in told.messages if m.key is not None}
    spoilt = told.changed(told.last(final=True), reason="Another sentence.")

    assert judged(act, told.messages, straight=straight).passed
    assert len(judged(act, spoilt, straight=straight).different) == 1


def test_when_it_was_first_disallowed_may_differ_from_an_uninterrupted_run(act, told):
    straight: dict[str, Verdict] = {m.key or "": msgspec.json.decode(m.value or b"") for m in told.messages}
    last = told.last(final=True, outcome="disallowed")
    straight[last.key or ""]["disallowed_since"] = "2026-11-01T00:00:00.000Z"

    assert judged(act, told.messages, straight=straight).passed


def repeated(told: Told, *, by: bytes = b"two", later_ms: int = 60_000) -> tuple[Message, int]:
    """Write the last verdict again, as another owner, and say where it was decided."""
    last = told.messages[-1]
    told.add(last.key or "", last.value, last.timestamp_ms + later_ms, by)
    return last, msgspec.json.decode(last.value or b"")["at"][1]


def test_a_verdict_told_again_although_it_was_committed_is_repeated(act, told):
    last, at = repeated(told)

    tally = judged(act, told.messages, [Commit(0, at + 1, metadata(), last.timestamp_ms + 1)])

    assert (len(tally.repeated), tally.again) == (1, 0)
    assert not tally.passed


@pytest.mark.parametrize(
    ("offset", "after_ms", "generation"),
    [(0, 1, 1), (1, 60_001, 1), (1, 1, 2)],
    ids=["committed before it", "committed later", "committed in another log"],
)
def test_a_verdict_told_again_that_no_commit_covered_is_allowed(act, told, offset, after_ms, generation):
    last, at = repeated(told)

    tally = judged(act, told.messages, [Commit(0, at + offset, metadata(generation), last.timestamp_ms + after_ms)])

    assert (len(tally.repeated), tally.again) == (0, 1)
    assert tally.passed


def test_what_a_superseded_owner_writes_late_is_counted_apart(act, told):
    last, at = repeated(told, by=b"two")
    told.add(last.key or "", last.value, last.timestamp_ms + 120_000, b"one")

    tally = judged(act, told.messages, [Commit(0, at + 1, metadata(), last.timestamp_ms + 100_000)])

    assert (tally.superseded, tally.repeated) == (1, [])


def test_an_owner_stopped_before_its_first_verdict_is_known_by_the_one_that_goes_on(act, told):
    half = len(told.messages) // 2
    before, after = told.messages[:half], told.messages[half:]
    at = msgspec.json.decode(before[-1].value or b"")["at"][1]
    commit = Commit(0, at + 1, metadata(), before[-1].timestamp_ms - 1)
    late = before[-1]._replace(headers={"by": b"stopped"}, offset=len(told.messages))

    tally = judged(act, [*before, late, *after], [commit])
    assert (tally.superseded, tally.repeated) == (1, [])

    tally = judged(act, [*before, late], [commit])
    assert (tally.superseded, len(tally.repeated)) == (0, 1)


def test_an_owner_that_puts_its_verdict_over_a_late_one_repeats_nothing(act, told):
    last, at = repeated(told, by=b"two")
    commit = Commit(0, at + 1, metadata(), last.timestamp_ms + 100_000)
    for by in (b"one", b"one", b"two", b"two"):
        told.add(last.key or "", last.value, last.timestamp_ms + 120_000, by)

    assert judged(act, told.messages, [commit]).passed

    told.add(last.key or "", last.value, last.timestamp_ms + 140_000, b"two")
    assert len(judged(act, told.messages, [commit]).repeated) == 1


def test_with_evidence_gone_undetermined_is_right_and_silence_is_not(act, told):
    last = told.last(kind="recording", outcome="disallowed")
    unsure = told.changed(last, outcome="undetermined", cause=None, missing=["evidence lost"])

    assert not judged(act, unsure).passed
    assert judged(act, unsure, weakened=act.recordings).passed
    assert judged(act, told.without(last.key), weakened=act.recordings).lost
    assert judged(act, told.without(last.key), weakened=act.recordings, unfinished=act.recordings).passed


def test_with_evidence_gone_what_is_disallowed_must_not_be_allowed(act, told):
    wrong = told.changed(told.last(kind="recording", outcome="disallowed"), outcome="allowed", severity=None)

    assert judged(act, wrong, weakened=act.recordings).different


def test_life_is_back_when_the_last_partition_has_judged_what_stood_in_it(told):
    last = told.messages[-1]
    decided = msgspec.json.decode(last.value or b"")["at"][1]
    mark = Mark(last.timestamp_ms - 2_000, {0: decided + 1, 1: 9})
    other = Commit(1, 9, metadata(), last.timestamp_ms + 1_000)

    assert live_again(told.messages, [other], mark) == 3.0
    assert live_again(told.messages, [other._replace(offset=8)], mark) is None
    assert live_again(told.messages, [other._replace(timestamp_ms=mark.at_ms - 1)], mark) is None


def test_commits_are_read_from_the_broker_as_they_were_made(broker: RealBroker, tmp_path: Path):
    site = Site(broker, tmp_path, partitions=2)
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": site.name})
    for offset, said in ((3, metadata()), (5, "")):
        consumer.commit(offsets=[TopicPartition(site.events, 1, offset, said)], asynchronous=False)
    consumer.close()

    found = read_commits(broker.bootstrap, site.name, site.events)

    assert [(c.partition, c.offset, c.metadata, c.generation) for c in found] == [
        (1, 3, metadata(), 1),
        (1, 5, "", None),
    ]
    assert read_commits(broker.bootstrap, "somebody else", site.events) == []


def test_spoilt_samples_neither_stop_the_core_nor_get_past_its_counters(tmp_path):
    tally = through_core(3, 1_000_000, tmp_path)

    assert tally.faults == []
    assert tally.harm > 200


def test_the_same_seed_spoils_samples_in_the_same_way():
    one, same, other = Mutator(1), Mutator(1), Mutator(2)
    spoilt = [one.next() for _ in range(50)]

    assert spoilt == [same.next() for _ in range(50)]
    assert spoilt != [other.next() for _ in range(50)]


def test_a_call_that_never_ends_never_rests_for_long():
    call = Endless(1, hours=3, every_s=60)
    stamps = [entry.stamp_ms or 0 for entry in call.entries(1_790_000_000_000)]

    assert len(stamps) == 2 * 180 + 2
    assert stamps == sorted(stamps)
    assert max(later - earlier for earlier, later in pairwise(stamps)) <= 60_000


def test_a_floor_that_stays_behind_is_said():
    call = Endless(1, hours=3, every_s=60)

    assert call.unbounded([Commit(0, 100, metadata(), 0)])
    assert call.unbounded([Commit(0, 100, metadata().replace('"r":0', '"r":90'), 0)]) == []
