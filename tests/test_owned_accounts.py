"""Whose account is whose: by where its events are seen, else by where its key leads."""

from __future__ import annotations

import pytest

from monitor.inputs.owned_accounts import OwnedAccounts, partition_of_key
from monitor.inputs.places import SAY_EVERY_MS, Places

HOUR_MS = 3_600_000
ACCOUNT = f"AC{1:032x}"


def owned(places: Places, *, partitions: int | None = 4, ours: tuple[int, ...] = ()) -> OwnedAccounts:
    accounts = OwnedAccounts(places, lambda: partitions, lambda: None)
    for partition in ours:
        accounts.took(partition)
    return accounts


def places() -> Places:
    return Places("events", lasts_ms=5 * HOUR_MS)


# What librdkafka's own tests expect of its murmur2, which is Java's: rdmurmur2.c, unittest_murmur2.
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("kafka", 0xD067CF64),
        ("giberish123456789", 0x8F552B0C),
        ("1234", 0x9FC97B14),
        ("234", 0xE7C009CA),
        ("34", 0x873930DA),
        ("4", 0x5A4B5CA1),
        ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x78424F1C),
        ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4A62B377),
        ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xE0E4E09E),
        ("AmbleWillBeRemoved,ThePrePartThatIs", 0x62B8B43F),
        ("", 0x106E08D9),
    ],
)
def test_a_key_goes_where_the_clients_of_kafka_put_it(key, hashed):
    assert partition_of_key(key, 1 << 31) == hashed & 0x7FFFFFFF


def test_an_account_that_nobody_has_seen_is_where_its_key_leads():
    home = partition_of_key(ACCOUNT, 4)

    assert owned(places(), ours=(home,)).partition_of(ACCOUNT) == home
    assert owned(places(), ours=tuple({0, 1, 2, 3} - {home})).partition_of(ACCOUNT) is None


def test_nothing_is_ours_before_the_partitions_are_known():
    assert owned(places(), partitions=None, ours=(0, 1, 2, 3)).partition_of(ACCOUNT) is None


def test_an_account_is_where_it_was_seen_wherever_its_key_leads():
    elsewhere = (partition_of_key(ACCOUNT, 4) + 1) % 4
    known = places()
    list(known.look(elsewhere, [ACCOUNT], HOUR_MS))

    assert owned(known, ours=(0, 1, 2, 3)).partition_of(ACCOUNT) == elsewhere


def test_another_process_that_hears_where_an_account_is_leaves_it_alone():
    elsewhere = (partition_of_key(ACCOUNT, 4) + 1) % 4
    seeing, hearing = places(), places()
    list(seeing.look(elsewhere, [ACCOUNT], HOUR_MS))
    [(_, key, value)] = seeing.to_say(elsewhere, [ACCOUNT], HOUR_MS)
    other = owned(hearing, ours=tuple({0, 1, 2, 3} - {elsewhere}))
    assert other.partition_of(ACCOUNT) is not None

    hearing.hear(key, value, HOUR_MS)

    assert other.partition_of(ACCOUNT) is None


def test_an_account_that_is_silent_for_days_stays_where_it_was_last():
    elsewhere = (partition_of_key(ACCOUNT, 4) + 1) % 4
    seeing = places()
    list(seeing.look(elsewhere, [ACCOUNT], HOUR_MS))
    [(_, key, value)] = seeing.to_say(elsewhere, [ACCOUNT], HOUR_MS)
    seeing.forget(100 * HOUR_MS)
    begun_anew = places()
    begun_anew.hear(key, value, 100 * HOUR_MS)

    for known in (seeing, begun_anew):
        assert owned(known, ours=(0, 1, 2, 3)).partition_of(ACCOUNT) == elsewhere


def test_of_an_account_in_two_partitions_the_first_is_its_home_for_everybody():
    one, other = places(), places()
    for here, partition in ((one, 3), (other, 1)):
        list(here.look(partition, [ACCOUNT], SAY_EVERY_MS))
    [(_, key_of_one, said_by_one)] = one.to_say(3, [ACCOUNT], SAY_EVERY_MS)
    [(_, key_of_other, said_by_other)] = other.to_say(1, [ACCOUNT], SAY_EVERY_MS)
    one.hear(key_of_other, said_by_other, SAY_EVERY_MS)
    other.hear(key_of_one, said_by_one, SAY_EVERY_MS)

    assert one.home(ACCOUNT) == other.home(ACCOUNT) == 1


def test_what_comes_and_goes_is_told():
    told = []
    accounts = OwnedAccounts(places(), lambda: 4, lambda: told.append(accounts.partitions))

    accounts.took(2)
    accounts.took(2)
    accounts.lost(2)

    assert told == [frozenset({2}), frozenset()]
