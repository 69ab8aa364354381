"""Masking: nothing of people is left, everything the core reads is."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.core.twiml import recorded_conferences
from monitor.inputs.mask import Mask
from tests.conftest import GOLDEN

KEY = b"k" * 32
SAMPLES = sorted((GOLDEN.parent / "samples").glob("com.*.json"))
PERSONAL = ["+15550001234", "15550001234", "Jane Doe", "jane@example.com", "client:jane", "sip:jane@example.com"]


def masked(value: object) -> object:
    out = Mask(KEY).json(msgspec.json.encode(value))
    assert out is not None
    return msgspec.json.decode(out)


# Under these keys Twilio's own words stand, and people's numbers may not.
OURS = ["status", "id", "type"]
OTHERS = ["From", "To", "Caller", "FriendlyName", "worker_name", "anything"]
NUMBERS = [text for text in PERSONAL if text.strip("+").isdigit()]


@pytest.mark.parametrize(
    ("key", "text"),
    [(key, text) for key in OTHERS for text in PERSONAL] + [(key, text) for key in OURS for text in NUMBERS],
)
def test_nothing_of_people_is_left_under_any_key(key: str, text: str):
    assert text not in msgspec.json.encode(masked({"data": {"request": {"parameters": {key: text}}}})).decode()


@given(st.text(alphabet="+0123456789 ()-", min_size=7, max_size=20).filter(lambda t: sum(c.isdigit() for c in t) > 10))
def test_no_telephone_number_survives_inside_json_in_a_string(number: str):
    attributes = msgspec.json.encode({"from": number, "name": f"call of {number}"}).decode()
    text = msgspec.json.encode(masked({"data": {"payload": {"task_attributes": attributes}}})).decode()
    assert number.strip() not in text


def test_the_same_name_becomes_the_same_word_in_events_and_in_twiml():
    twiml = (
        '<Response><Say>Hello Jane</Say><Dial><Conference record="true" beep="x">room 7</Conference></Dial></Response>'
    )
    out = masked({"FriendlyName": "room 7", "responseBody": base64.b64encode(twiml.encode()).decode(), "Twiml": twiml})
    assert isinstance(out, dict)
    [name] = recorded_conferences(out["responseBody"])
    assert name == out["FriendlyName"] != "room 7"
    assert "Jane" not in base64.b64decode(out["responseBody"]).decode()
    assert recorded_conferences(out["Twiml"]) == (name,)


def test_another_export_has_other_words():
    assert Mask().json(b'"Jane"') != Mask().json(b'"Jane"')


def test_twiml_with_a_dtd_is_reduced_to_nothing():
    body = base64.b64encode(b'<!DOCTYPE r [<!ENTITY a "Jane">]><Response>&a;</Response>').decode()
    out = masked({"responseBody": body})
    assert isinstance(out, dict)
    assert base64.b64decode(out["responseBody"]) == b"<Response></Response>"


def test_an_address_loses_its_user_and_its_query():
    out = masked({"url": "https://jane:pw@host.example.com/calls/Jane%20Doe/x?From=%2B15550001234#f"})
    assert isinstance(out, dict)
    assert out["url"].startswith("https://host.example.com/calls/masked-")
    assert out["url"].endswith("/x")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.removesuffix(".json"))
def test_a_masked_event_is_read_as_the_same_event(path):
    data = path.read_bytes()
    out = Mask(KEY).json(data)
    assert out is not None
    before, after = decode(data), decode(out)
    assert [type(entry) for entry in before] == [type(entry) for entry in after]
    for one, other in zip(before, after, strict=True):
        if isinstance(one, Event) and isinstance(other, Event):
            assert (one.type, one.id, one.account, one.occurred_ms, one.members) == (
                other.type,
                other.id,
                other.account,
                other.occurred_ms,
                other.members,
            )


def test_what_is_not_json_cannot_be_masked():
    assert Mask(KEY).json(b"Jane +15550001234") is None
