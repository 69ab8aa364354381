"""Values: the quick way to read an instant agrees with the thorough one, whatever the text."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from monitor.core.values import _read_instant, instant_ms

FIRST_MS, LAST_MS = 631_152_000_000, 7_573_824_000_000  # 1990 and 2210: both ends lie beyond what is plausible.
INSTANTS = st.integers(FIRST_MS, LAST_MS).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
DIGITS = st.text("0123456789²٣:.-+TZ ", min_size=1, max_size=2)


def spellings(when: datetime) -> list[str]:
    return [
        when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        when.isoformat(timespec="seconds").replace("+00:00", "Z"),
        format_datetime(when),
        when.isoformat(),
    ]


@given(INSTANTS)
def test_the_quick_way_reads_every_spelling_of_an_instant_as_the_thorough_one_does(when: datetime):
    for text in spellings(when):
        assert instant_ms(text) == _read_instant(text)


@given(INSTANTS, st.data())
def test_the_quick_way_agrees_on_text_that_is_nearly_an_instant(when: datetime, data: st.DataObject):
    text = data.draw(st.sampled_from(spellings(when)))
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(DIGITS)
    nearly = text[:at] + put + text[at + len(put) :]

    assert instant_ms(nearly) == _read_instant(nearly)
