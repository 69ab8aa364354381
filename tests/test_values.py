"""Values: what is remembered is what reading it again would say, and there is a bound to it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.values import CALLS, INSTANTS, Instants, Sids, Text, _read_instant

FIRST_MS, LAST_MS = 631_152_000_000, 7_573_824_000_000  # 1990 and 2210: both ends lie beyond what is plausible.
WHENS = st.integers(FIRST_MS, LAST_MS).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
DIGITS = st.text("0123456789²٣:.-+TZ ", min_size=1, max_size=2)


def spellings(when: datetime) -> list[str]:
    return [
        when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        when.isoformat(timespec="seconds").replace("+00:00", "Z"),
        format_datetime(when),
        when.isoformat(),
    ]


@given(WHENS)
def test_the_quick_way_reads_every_spelling_of_an_instant_as_the_thorough_one_does(when: datetime):
    for text in spellings(when):
        assert INSTANTS[text] == _read_instant(text)


@given(WHENS, st.data())
def test_the_quick_way_agrees_on_text_that_is_nearly_an_instant(when: datetime, data: st.DataObject):
    text = data.draw(st.sampled_from(spellings(when)))
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(DIGITS)
    nearly = text[:at] + put + text[at + len(put) :]

    assert INSTANTS[nearly] == _read_instant(nearly)


def test_a_sid_is_the_same_object_however_often_it_is_told():
    told = ["CA" + "7" * 32 for _ in range(3)]

    assert len({id(CALLS["".join(text)]) for text in told}) == 1


@pytest.mark.parametrize("told", [None, "", "CA", "RE" + "0" * 32, "CA" + "0" * 31 + "-", True, 1, 0.5])
def test_what_is_no_sid_is_none_and_is_not_remembered(told: Text):
    sids = Sids("CA")

    assert sids[told] is None
    assert sids.keys() == {None}


def test_no_memory_grows_without_end():
    sids, instants = Sids("CA"), Instants()
    for number in range(40_000):
        assert sids[f"CA{number:032}"] == f"CA{number:032}"
        assert instants[f"{number // 3600 % 24:02}:{number} no date"] is None
        assert instants[f"2026-11-02T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"] is not None

    assert len(sids) <= 16_384
    assert len(instants) <= 8_192
    assert sids[None] is None
    assert instants[None] is None
    assert sids["CA" + "0" * 32] == "CA" + "0" * 32


def test_numbers_are_instants_and_truth_values_are_none():
    assert INSTANTS[1_793_631_600] == INSTANTS[1_793_631_600_000] == INSTANTS["1793631600000"] == 1_793_631_600_000
    assert INSTANTS[1_793_631_600.25] == 1_793_631_600_250
    assert INSTANTS[True] is INSTANTS[None] is INSTANTS["0000000000000"] is None
