"""An account in two partitions is noticed, whoever owns them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitor.core.decode import decode
from monitor.core.events import Ignored
from monitor.inputs.places import SAY_EVERY_MS, Places, Split

ONE, OTHER = "AC" + "1" * 32, "AC" + "2" * 32
LASTS_MS = 5 * 3_600_000
NOW_MS = 1_800_000_000_000


def places(topic: str = "events") -> Places:
    return Places(topic, lasts_ms=LASTS_MS)


def tell(listener: Places, speaker: Places, partition: int, account: str, now_ms: int = NOW_MS) -> None:
    """What one process says of its partition, another one hears."""
    for _, key, value in speaker.to_say(partition, [account], now_ms):
        assert listener.hear(key, value, now_ms)


def test_an_account_in_two_partitions_of_one_process_is_noticed_once():
    mine = places()
    assert list(mine.look(0, [ONE, OTHER], NOW_MS)) == []
    assert list(mine.look(2, [ONE], NOW_MS)) == [Split(ONE, (0, 2))]
    assert list(mine.look(0, [ONE, OTHER], NOW_MS)) == []


def test_two_processes_that_have_a_part_of_an_account_each_both_notice():
    mine, theirs = places(), places()
    tell(mine, theirs, 1, ONE)
    tell(theirs, mine, 0, ONE)
    assert list(mine.look(0, [ONE, OTHER], NOW_MS)) == [Split(ONE, (0, 1))]
    assert list(theirs.look(1, [ONE], NOW_MS)) == [Split(ONE, (0, 1))]


def test_a_partition_that_goes_from_one_process_to_another_is_no_split():
    mine, theirs = places(), places()
    tell(mine, theirs, 1, ONE)
    assert list(mine.look(1, [ONE], NOW_MS + 1)) == []


def test_what_was_said_long_ago_or_of_another_topic_means_nothing():
    mine, theirs, elsewhere = places(), places(), places("events-rekeyed")
    tell(mine, elsewhere, 1, ONE)
    assert list(mine.look(0, [ONE], NOW_MS)) == []
    tell(mine, theirs, 1, ONE)
    mine.forget(NOW_MS + LASTS_MS)
    assert list(mine.look(0, [ONE], NOW_MS + LASTS_MS)) == []
    [(_, key, value)] = places().to_say(1, [ONE], NOW_MS)
    assert mine.hear(key, value, NOW_MS + LASTS_MS)  # As a process that starts then reads it.
    assert list(mine.look(0, [ONE], NOW_MS + LASTS_MS)) == []


def test_a_place_is_said_once_an_hour_and_again_where_it_did_not_arrive():
    mine = places()
    assert [account for account, _, _ in mine.to_say(0, [ONE], NOW_MS)] == [ONE]
    assert list(mine.to_say(0, [ONE], NOW_MS + 1)) == []
    mine.unsaid(ONE, 0)
    assert len(list(mine.to_say(0, [ONE], NOW_MS + 2))) == 1
    assert len(list(mine.to_say(0, [ONE], NOW_MS + 2 + SAY_EVERY_MS))) == 1
    mine.leave(0)
    assert len(list(mine.to_say(0, [ONE], NOW_MS + 3 + SAY_EVERY_MS))) == 1


def test_a_place_is_no_setting_and_found_among_the_events_it_is_ignored():
    [(_, key, value)] = places().to_say(7, [ONE], NOW_MS)
    assert key == f"{ONE}/place/7"
    [entry] = decode(value)
    assert isinstance(entry, Ignored)
    assert not places().hear(f"{ONE}/studio-flow/FW1/7", value, NOW_MS)


@given(st.none() | st.binary() | st.sampled_from([b"{}", b'{"data":{}}', b"\xff", b'{"data":{"partition":"x"}}']))
def test_whatever_stands_under_the_key_of_a_place_harms_nobody(value: bytes | None):
    mine = places()
    assert mine.hear(f"{ONE}/place/7", value, NOW_MS)
    assert list(mine.look(0, [ONE], NOW_MS)) == []
