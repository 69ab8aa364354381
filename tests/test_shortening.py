"""Evidence in fewer bytes, and back: compiled or not, the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core import shortening
from monitor.core.conversation import Kept, encode, id_as_kept
from monitor.core.events import ParticipantFact
from monitor.core.shortening import IDS_MAX, plainly_restore, plainly_shorten, restore, shorten

CALL, CONFERENCE, OTHER = "CA" + "0" * 32, "CF" + "9a" * 16, "CA" + "f" * 32
# Of members some are no SIDs: a stand-in for a call that nobody named, one of the length of a SID, one beyond ASCII.
MEMBERS = (CALL, CONFERENCE, "request:1", "CA" + "-" * 32, "\xe9" * 17, "RE" + "Z" * 32)

pieces = st.one_of(
    st.sampled_from(
        [b"\xc1", b"\xc4", b"\xc4\x11", b"\xc4\x11E", b"\xc4\x11V", b"\xd9", b'\xd9"', b"\xff", b"\x00", b"\xfe"]
    ),
    st.sampled_from([encode(sid) for sid in (*MEMBERS, OTHER)]),
    st.sampled_from([encode(sid)[:-1] for sid in MEMBERS]),
    st.builds(
        lambda letter, digits: b"\xc4\x11" + letter + digits,
        st.sampled_from([b"E", b"V", b"="]),
        st.binary(max_size=16),
    ),
    st.binary(max_size=24),
)
evidence = st.lists(pieces, max_size=30).map(b"".join)
members = st.lists(st.sampled_from(MEMBERS), max_size=8).map(tuple)


@given(evidence, members)
def test_what_was_shortened_is_restored(data: bytes, members: tuple[str, ...]):
    assert plainly_restore(*plainly_shorten(data, members), members) == data


@pytest.mark.compiled
@given(evidence, members, st.binary(max_size=48))
def test_compiled_it_is_the_same_byte_for_byte(data: bytes, members: tuple[str, ...], digits: bytes):
    assert shorten is not plainly_shorten
    short = shorten(data, members)
    assert short == plainly_shorten(data, members)
    assert restore(*short, members) == data
    assert outcome(restore, data, digits, members) == outcome(plainly_restore, data, digits, members)


def outcome(way: object, *told: object) -> object:
    """What it returns, or that it raises."""
    try:
        return way(*told)  # type: ignore[operator]
    except ValueError as error:
        return str(error)


def test_usual_evidence_loses_what_is_known_and_what_cannot_be_compressed():
    fact = ParticipantFact(CONFERENCE, CALL, "join", None, None)
    kept = encode(Kept(1_800_000_000_000, 70_000, id_as_kept("EZ" + "02468ace13579bdf" * 2), 1, (fact,)))
    short, digits = shorten(kept, MEMBERS)
    assert digits == bytes.fromhex("02468ace13579bdf" * 2)
    assert len(short) == len(kept) - 2 * 34 - 17
    assert restore(short, digits, MEMBERS) == kept


@pytest.mark.parametrize("shorten", [shortening.shorten, plainly_shorten])
def test_of_more_ids_than_can_be_counted_the_rest_stays_where_it_is(shorten: object):
    ids = [b"\xc4\x11E" + number.to_bytes(3, "big") + b"\xc1" * 13 for number in range(IDS_MAX + 3)]
    short, digits = shorten(b"".join(ids), ())  # type: ignore[operator]
    assert len(digits) == IDS_MAX * 16
    assert restore(short, digits, ()) == b"".join(ids)


def test_members_beyond_those_that_have_a_number_are_told_as_they_are():
    many = tuple([f"CA{number:032x}" for number in range(300)])
    told = b"".join([encode(member) for member in many])
    short, digits = shorten(told, many)
    assert len(short) == 252 * 2 + 48 * 36
    assert restore(short, digits, many) == told


@pytest.mark.parametrize("restore", [shortening.restore, plainly_restore])
def test_with_other_members_or_ids_it_says_so(restore: object):
    short, digits = shorten(encode(CONFERENCE) + b"\xc4\x11E" + bytes(16), MEMBERS)
    with pytest.raises(ValueError, match="a member is missing"):
        restore(short, digits, MEMBERS[:1])  # type: ignore[operator]
    with pytest.raises(ValueError, match="an id is missing"):
        restore(short, digits[:-1], MEMBERS)  # type: ignore[operator]
