"""Where a partition goes on and where its rebuild begins, decided without a broker."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.pipeline import Checkpoint
from monitor.core.verdict import render_instant
from monitor.core.window import Cut
from monitor.inputs.blind import read_blind, render_blind
from monitor.inputs.checkpoint import (
    Blind,
    Committed,
    Resume,
    StartAt,
    decode_checkpoint,
    encode_metadata,
    fingerprint_of,
    resume,
)

HERE = fingerprint_of("cluster", "topic", 3)
HOUR = 3_600_000
WINDOW = 4 * HOUR
AGE = 48 * HOUR
NOW = 1_800_000_000_000


class Stamps:
    """A log that holds the messages from ``low`` on, one an hour; the first offset ever was stamped 1000 h."""

    def __init__(self, low: int, high: int, *, by_time: bool = True) -> None:
        self.low = low
        self.high = high
        self._by_time = by_time

    @staticmethod
    def at(offset: int) -> int:
        return (1000 + offset) * HOUR

    def first_at(self, timestamp_ms: int) -> int | None:
        if not self._by_time:
            return None
        return min(self.high, max(self.low, -(-timestamp_ms // HOUR) - 1000))

    def stamp(self, offset: int) -> int | None:
        offset = max(offset, self.low)
        return self.at(offset) if offset < self.high else None


def own(offset: int, replay_from: int, *, cut: Cut | None = None, generation: int = 3) -> Committed:
    log_time_ms = Stamps.at(replay_from)
    checkpoint = Checkpoint(
        offset=offset, generation=generation, replay_from=replay_from, log_time_ms=log_time_ms, cut=cut
    )
    return Committed(offset, encode_metadata(checkpoint, HERE))


def resumed(committed: Committed | None, log: Stamps, start_at: StartAt = "earliest") -> Resume:
    return resume(committed, log, fingerprint=HERE, start_at=start_at, window_ms=WINDOW, age_max_ms=AGE, now_ms=NOW)


offsets = st.integers(0, 2**62)
instants = st.integers(-(2**53), 2**53)
checkpoints = st.builds(
    lambda replay_from, more, looked, generation, log_time_ms, cut, lost: Checkpoint(
        offset=replay_from + more,
        generation=generation,
        replay_from=replay_from,
        log_time_ms=log_time_ms,
        open_from=None if looked is None else replay_from + min(looked, more),
        cut=Cut(*cut) if cut is not None else None,
        lost=lost,
    ),
    offsets,
    st.integers(0, 2**60),
    st.none() | st.integers(0, 2**60),
    st.integers(0, 2**31),
    st.none() | instants,
    st.none() | st.tuples(st.integers(-1, 2**62), instants),
    st.booleans(),
)


@given(checkpoints)
def test_a_checkpoint_comes_back_from_its_commit_as_it_went(checkpoint: Checkpoint):
    committed = Committed(checkpoint.offset, encode_metadata(checkpoint, HERE))
    assert decode_checkpoint(committed, HERE) == checkpoint


@given(checkpoints)
def test_metadata_stays_far_below_what_kafka_takes(checkpoint: Checkpoint):
    assert len(encode_metadata(checkpoint, HERE)) < 256


def test_metadata_is_spelled_as_the_design_says():
    checkpoint = Checkpoint(offset=9, generation=2, replay_from=5, log_time_ms=77, cut=Cut(4, 99))
    assert encode_metadata(checkpoint, "abc") == '{"v":1,"g":2,"r":5,"w":77,"x":[4,99],"t":"abc"}'
    looked_back = msgspec.structs.replace(checkpoint, open_from=7, cut=None)
    assert encode_metadata(looked_back, "abc") == '{"v":1,"g":2,"r":5,"w":77,"x":null,"t":"abc","b":7}'
    lost = msgspec.structs.replace(checkpoint, lost=True)
    assert encode_metadata(lost, "abc") == '{"v":1,"g":2,"r":5,"w":77,"x":[4,99],"t":"abc","l":true}'


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_metadata_makes_the_decoding_raise(text: str):
    assert decode_checkpoint(Committed(5, text), HERE) in ("no_metadata", "unreadable", "other_version")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "no_metadata"),
        ("", "no_metadata"),
        ("reset by a tool", "unreadable"),
        ('{"v":2,"g":1,"r":5,"w":7,"x":null,"t":"%s"}', "other_version"),
        ('{"v":2,"g":"first","places":[5,7]}', "other_version"),
        ('{"v":"1","g":1,"r":5,"w":7,"x":null,"t":"%s"}', "unreadable"),
        ('{"v":1,"g":1,"r":-5,"w":7,"x":null,"t":"%s"}', "unreadable"),
        ('{"v":1,"g":1,"r":5,"w":7,"x":[1],"t":"%s"}', "unreadable"),
        ('{"v":1,"g":1,"r":5,"x":null,"t":"%s"}', "unreadable"),
        ('{"v":1,"g":1,"r":5,"w":7,"x":null,"t":"another"}', "other_topic"),
        ('{"v":1,"g":1,"r":31,"w":7,"x":null,"t":"%s"}', "replay_after_commit"),
        ('{"v":1,"g":1,"r":20,"w":7,"x":null,"t":"%s","b":19}', "replay_after_commit"),
        ('{"v":1,"g":1,"r":20,"w":7,"x":null,"t":"%s","b":31}', "replay_after_commit"),
        ('{"v":1,"g":1,"r":20,"w":7,"x":null,"t":"%s","b":-1}', "unreadable"),
    ],
)
def test_a_commit_that_is_not_ours_is_foreign_for_a_reason(metadata: str | None, reason: str):
    committed = Committed(30, metadata.replace("%s", HERE) if metadata else metadata)
    found = resumed(committed, Stamps(0, 50))
    assert found.foreign == reason
    assert found.raise_generation


def test_another_cluster_topic_or_partition_count_has_another_fingerprint():
    prints = {
        fingerprint_of("a", "t", 3),
        fingerprint_of("b", "t", 3),
        fingerprint_of("a", "u", 3),
        fingerprint_of("a", "t", 4),
        fingerprint_of(None, "t", 3),
        fingerprint_of("a", "t3", 3),
    }
    assert len(prints) == 6


@pytest.mark.parametrize(("low", "open_from"), [(10, 25), (22, 25), (25, None), (28, None)])
def test_what_is_left_to_look_at_before_conversations_open(low: int, open_from: int | None):
    checkpoint = Checkpoint(offset=30, generation=3, replay_from=20, log_time_ms=Stamps.at(20), open_from=25)
    found = resumed(Committed(30, encode_metadata(checkpoint, HERE)), Stamps(low, 50)).checkpoint
    assert found.open_from == open_from
    assert found.replay_from == max(20, low)
    assert found.lost == (low > 20)


def test_our_own_checkpoint_is_taken_as_it_stands():
    cut = Cut(8, Stamps.at(40))
    found = resumed(own(30, 20, cut=cut), Stamps(5, 50))
    assert found.checkpoint == Checkpoint(
        offset=30, generation=3, replay_from=20, log_time_ms=Stamps.at(20), cut=cut, lost=False, end=50
    )
    assert (found.foreign, found.blind, found.fresh, found.raise_generation) == (None, None, False, False)
    assert found.in_generation(17).generation == 3


@pytest.mark.parametrize(("low", "read_from"), [(5, 19), (19, 19), (20, 20), (25, 25)])
def test_the_message_before_the_first_is_read_only_where_it_is_still_there(low: int, read_from: int):
    assert resumed(own(30, 20), Stamps(low, 50)).read_from == read_from
    assert resumed(None, Stamps(low, 50), Stamps.at(20)).read_from == read_from


def test_a_commit_at_the_very_end_of_the_log_is_ours():
    assert resumed(own(50, 50), Stamps(5, 50)).foreign is None


def test_a_commit_beyond_the_end_begins_anew_where_the_settings_say():
    found = resumed(own(51, 20), Stamps(5, 50), start_at=Stamps.at(30))
    assert (found.foreign, found.fresh, found.checkpoint.offset) == ("beyond_end", True, 30)


def test_a_replay_below_the_first_retained_message_begins_there_under_a_cut():
    found = resumed(own(30, 10), Stamps(20, 50))
    assert found.checkpoint.offset == 30
    assert found.checkpoint.replay_from == 20
    assert found.checkpoint.cut == Cut(19, Stamps.at(20) + WINDOW)
    assert found.checkpoint.lost
    assert found.checkpoint.generation == 3
    assert found.blind is not None
    assert (found.blind.first, found.blind.end, found.blind.unjudged) == (10, 20, 0)
    assert (found.blind.since_ms, found.blind.until_ms) == (Stamps.at(10), Stamps.at(20))


def test_a_position_below_the_first_retained_message_says_how_much_was_never_judged():
    found = resumed(own(15, 10), Stamps(20, 50))
    assert (found.checkpoint.offset, found.checkpoint.replay_from) == (20, 20)
    assert found.blind is not None
    assert (found.blind.first, found.blind.end, found.blind.unjudged) == (10, 20, 5)


def test_a_cut_that_reaches_further_than_the_new_one_is_kept():
    until = Stamps.at(60)
    found = resumed(own(40, 10, cut=Cut(33, until)), Stamps(20, 50))
    assert found.checkpoint.cut == Cut(33, until)


def test_a_log_that_lost_everything_still_has_a_blind_interval_and_a_cut():
    found = resumed(own(30, 20), Stamps(50, 50))
    assert (found.checkpoint.offset, found.checkpoint.replay_from) == (50, 50)
    assert found.checkpoint.cut == Cut(49, NOW + WINDOW)
    assert found.blind is not None
    assert (found.blind.unjudged, found.blind.until_ms) == (20, None)


def test_a_foreign_position_inside_the_log_is_kept_and_folded_from_far_enough_before_it():
    found = resumed(Committed(90, ""), Stamps(5, 200))
    assert found.checkpoint.offset == 90
    assert found.checkpoint.replay_from == 90 - 48 - 4
    assert found.checkpoint.cut == Cut(37, Stamps.at(38) + WINDOW)
    assert found.checkpoint.lost
    assert not found.fresh


def test_a_foreign_position_is_folded_from_the_first_message_where_time_cannot_be_asked():
    found = resumed(Committed(90, ""), Stamps(5, 200, by_time=False))
    assert (found.checkpoint.offset, found.checkpoint.replay_from) == (90, 5)
    assert found.checkpoint.cut == Cut(4, Stamps.at(5) + WINDOW)


def test_a_foreign_position_at_the_end_is_measured_from_the_last_message():
    found = resumed(Committed(200, ""), Stamps(5, 200))
    assert (found.checkpoint.offset, found.checkpoint.replay_from) == (200, 199 - 52)


def test_a_blind_interval_is_read_back_as_it_was_found():
    blind = Blind(first=10, end=20, unjudged=5, since_ms=Stamps.at(10), until_ms=None)
    key, value = render_blind("events", 3, blind, Stamps.at(30))
    read = read_blind(key, value)
    assert read is not None
    assert (read.topic, read.partition, read.first, read.end, read.unjudged) == ("events", 3, 10, 20, 5)
    assert (read.since, read.until) == (render_instant(Stamps.at(10)), None)
    assert read.found_at == render_instant(Stamps.at(30))
    assert read_blind("AC1/listing/recordings", value) is None
    assert read_blind(key, b"{}") is None


def test_a_foreign_position_below_the_log_begins_at_the_first_message_and_is_blind():
    found = resumed(Committed(3, ""), Stamps(5, 200))
    assert (found.checkpoint.offset, found.checkpoint.replay_from) == (5, 5)
    assert found.blind is not None
    assert found.blind.unjudged == 2


@pytest.mark.parametrize(
    ("start_at", "offset"),
    [("earliest", 5), ("latest", 50), (Stamps.at(30), 30), (Stamps.at(30) - 1, 30), (0, 5), (Stamps.at(90), 50)],
)
def test_a_group_without_a_commit_begins_where_the_settings_say(start_at: StartAt, offset: int):
    found = resumed(None, Stamps(5, 50), start_at)
    assert (found.checkpoint.offset, found.checkpoint.replay_from) == (offset, offset)
    assert found.fresh
    assert found.blind is None
    assert found.checkpoint.cut is not None
    assert found.checkpoint.cut.offset == offset - 1


def test_a_group_without_a_commit_begins_at_the_first_message_where_time_cannot_be_asked():
    assert resumed(None, Stamps(5, 50, by_time=False), Stamps.at(30)).checkpoint.offset == 5


def test_a_log_that_never_lost_a_message_is_read_from_its_beginning_without_a_cut():
    assert resumed(None, Stamps(0, 50)).checkpoint.cut is None
    assert resumed(Committed(20, ""), Stamps(0, 50)).checkpoint.cut is None
    assert resumed(None, Stamps(0, 0)).checkpoint.cut is None


def test_a_start_inside_a_whole_log_is_under_a_cut():
    assert resumed(None, Stamps(0, 50), "latest").checkpoint.cut == Cut(49, NOW + WINDOW)


@pytest.mark.parametrize(("greatest", "generation"), [(None, 1), (0, 1), (1, 2), (7, 8)])
def test_a_raised_generation_is_above_all_that_is_published(greatest: int | None, generation: int):
    assert resumed(None, Stamps(0, 50)).in_generation(greatest).generation == generation
    assert resumed(Committed(20, ""), Stamps(0, 50)).in_generation(greatest).generation == generation


maybe_committed = st.none() | st.builds(
    lambda offset, metadata, back, ours: Committed(
        offset,
        own(offset, max(0, offset - back)).metadata if ours else metadata,
    ),
    st.integers(0, 120),
    st.sampled_from(["", None, "x", "{}"]),
    st.integers(0, 120),
    st.booleans(),
)
logs = st.builds(
    lambda low, more, by_time: Stamps(low, low + more, by_time=by_time),
    st.integers(0, 60),
    st.integers(0, 60),
    st.booleans(),
)
starts = st.sampled_from(["earliest", "latest"]) | st.integers(-10, 130).map(Stamps.at)


@given(maybe_committed, logs, starts)
def test_every_resumption_lies_in_the_log_and_hides_no_loss(
    committed: Committed | None, log: Stamps, start_at: StartAt
):
    found = resumed(committed, log, start_at)
    checkpoint = found.checkpoint
    assert log.low <= checkpoint.replay_from <= checkpoint.offset <= log.high
    assert found.read_from == max(log.low, checkpoint.replay_from - 1)
    # What lies below R and was there once is either known to be settled (our own checkpoint) or behind a cut.
    if found.raise_generation or found.blind is not None:
        assert checkpoint.lost
        if checkpoint.replay_from > 0:
            assert checkpoint.cut is not None
            assert checkpoint.cut.offset >= checkpoint.replay_from - 1
    if committed is not None and committed.offset < log.low:
        assert found.blind is not None
        assert found.blind.unjudged == log.low - committed.offset
    # What is taken over can be committed again, and is then ours.
    again = Committed(checkpoint.offset, encode_metadata(found.in_generation(0), HERE))
    assert msgspec.structs.replace(found.in_generation(0), end=0) == decode_checkpoint(again, HERE)
