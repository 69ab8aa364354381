"""What a conversation keeps, as bytes: packed or not it reads the same, and what is told again is taken down."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.conversation import (
    AGAIN_MAX,
    Birth,
    Conversation,
    Kept,
    encode,
    id_as_kept,
    merge_arrivals,
    stamp_of,
)
from monitor.core.events import CallFact, ParticipantFact
from monitor.core.packing import USUAL, pack, unpack

CALLS = tuple(CallFact(f"CA{number}", "inbound", None, None) for number in range(4))


def conversation() -> Conversation:
    """One that keeps a participant event, and that the first two calls were told at bucket 5."""
    kept = Kept(1_000, 7, id_as_kept("EV1"), "a type of its own", (ParticipantFact("CF1", "CA1", "join", None, None),))
    properties = b"".join([encode(call) + stamp_of(5) for call in CALLS[:2]])
    return Conversation("AC1", ("CA1",), Birth(7, 1_000, 7, 1_000), 1_000, 0, False, encode(kept), 1, properties, 2)


def add(known: Conversation, call: CallFact, bucket: int) -> None:
    known.properties += encode(call) + stamp_of(bucket)
    known.properties_kept += 1


def test_what_is_packed_reads_the_same_with_what_came_since_behind_it():
    packed, plain = conversation(), conversation()
    packed.pack()
    packed.members += ("CF2",)
    for one in (packed, plain):
        add(one, CALLS[2], 6)
        one.evidence += encode(Kept(2_000, 9, None, 3, ()))
        one.kept += 1
    assert packed.packed
    assert len(packed.read_evidence()) == 2
    assert packed.read_evidence() == plain.read_evidence()
    assert packed.read_stamped() == plain.read_stamped()
    packed.unpack()
    assert (packed.packed, packed.evidence, packed.properties) == (b"", plain.evidence, plain.properties)


@given(st.lists(st.tuples(st.sampled_from(CALLS), st.booleans()), max_size=12))
def test_what_is_told_again_has_its_latest_stamp_whenever_it_was_packed(told: list[tuple[CallFact, bool]]):
    known = conversation()
    latest = dict.fromkeys(CALLS[:2], 5)
    for bucket, (call, packs) in enumerate(told, 6):
        if packs:
            known.pack()
        if not known.tell_again(encode(call), stamp_of(bucket)):
            add(known, call, bucket)
        latest[call] = bucket
        assert dict(known.read_stamped()) == latest
        assert known.properties_kept == len(latest)
    known.unpack()
    assert dict(known.read_stamped()) == latest
    assert known.told_late == b""


@pytest.mark.parametrize("prefix", ["EZ", "VW", "NO", "ez", "AC", "EV", ""])
@pytest.mark.parametrize(
    "digits", ["0123456789abcdef" * 2, "0" * 32, "0123456789ABCDEF" * 2, "0" * 31, "0" * 33, "\u0660" * 32, ""]
)
def test_an_event_id_reads_as_it_was_told_and_takes_half_the_bytes_where_it_is_usual(prefix: str, digits: str):
    told = prefix + digits
    kept = encode(Kept(1_000, 7, id_as_kept(told), 3, ()))
    conversation = Conversation("AC1", (), Birth(7, 1_000, 7, 1_000), 1_000, 0, False, kept, 1)
    assert [one.event_id for one in conversation.read_evidence()] == [told]
    usual = prefix in ("EZ", "VW") and re.fullmatch("[0-9a-f]{32}", digits, re.ASCII) is not None
    assert (len(kept) < len(encode(told))) == usual


def test_usual_evidence_packs_to_little_more_than_its_digits():
    facts = (ParticipantFact("CF" + "0123456789abcdef" * 2, "CA" + "fedcba9876543210" * 2, "join", None, None),)
    evidence = encode(Kept(1_800_000_000_000, 70_000, id_as_kept("VW" + "02468ace13579bdf" * 2), 1, facts))
    assert len(pack(evidence, ())) < len(zlib.compress(evidence, 9)) - 10
    assert unpack(pack(evidence, ()), ()) == evidence
    members = ("CF" + "0123456789abcdef" * 2, "CA" + "fedcba9876543210" * 2)
    assert len(pack(evidence, members)) < len(pack(evidence, ())) - 20
    assert unpack(pack(evidence, members), members) == evidence
    assert re.search(rb"[0-9a-f]{12}", USUAL) is None  # What it refers to holds no SID.


def test_a_duplicate_is_taken_down_once_a_bucket():
    known = conversation()
    for offset, bucket in ((10, 3), (11, 3), (12, 4)):
        known.arrive_again("EV1", offset, bucket, 100)
    known.arrive_again("EV2", 13, 4, 100)
    assert known.arrivals_again("EV1") == [(10, 3), (12, 4)]
    assert known.arrivals_again("EV2") == [(13, 4)]
    assert known.arrivals_again("EV3") == []


def test_of_duplicates_beyond_the_bounds_the_last_are_kept():
    known = conversation()
    known.arrive_again("EV2", 0, 0, 100)
    for number in range(1, AGAIN_MAX + 3):
        known.arrive_again("EV1", number, number, 100)
    assert known.arrivals_again("EV1")[0] == (3, 3)
    assert len(known.arrivals_again("EV1")) == AGAIN_MAX
    assert known.arrivals_again("EV2") == [(0, 0)]  # One event does not crowd out the others.
    known.arrive_again("EV3", 99, 99, 2)
    assert known.arrivals_again("EV1") == [(AGAIN_MAX + 2, AGAIN_MAX + 2)]


def test_the_duplicates_of_two_conversations_are_in_order_of_arrival():
    one, other = conversation(), conversation()
    one.arrive_again("EV1", 10, 1, 9)
    other.arrive_again("EV1", 9, 0, 9)
    one.arrive_again("EV1", 12, 3, 9)
    other.arrive_again("EV2", 11, 2, 9)
    one.again = merge_arrivals(one.again, other.again)
    assert one.arrivals_again("EV1") == [(9, 0), (10, 1), (12, 3)]
