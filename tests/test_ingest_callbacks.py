"""Plain status callbacks through the bridge say the same as their twins of Event Streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from monitor.core.decode import decode
from monitor.core.events import Event
from tests.broker import RealBroker
from tests.webhooks import ACCOUNT, OTHER_TOKEN, PUBLIC, Ingest, Request, asked_form, posted, posted_form

SAMPLES: Final = Path(__file__).parent / "samples"
VOICE: Final = "com.twilio.voice.status-callback."
TWINS: Final = {
    VOICE + "recording.processed.call-in-progress": "/twilio/recording-status",
    VOICE + "recording.processed.call-completed": "/twilio/recording-status",
    VOICE + "recording.processed.conference-in-progress": "/twilio/recording-status",
    VOICE + "recording.processed.conference-completed": "/twilio/recording-status",
    VOICE + "recording.processed.absent": "/twilio/recording-status",
    VOICE + "conference.updated.conference-start": "/twilio/conference-status",
    VOICE + "conference.updated.conference-end": "/twilio/conference-status",
    VOICE + "conference.participant.updated.participant-join": "/twilio/conference-status",
    VOICE + "conference.participant.updated.participant-leave": "/twilio/conference-status",
}


@pytest.fixture(scope="module")
def bridge(broker: RealBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    with Ingest(broker, tmp_path_factory.mktemp("callbacks")) as running:
        yield running


def twin(name: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_bytes())
    return sample


def newest(bridge: Ingest, before: int) -> Event:
    """The event that has come to the topic since it held so many."""
    known = bridge.messages()
    assert len(known) == before + 1
    [entry] = decode(max(known, key=lambda message: (message.timestamp_ms, message.offset)).value)
    assert isinstance(entry, Event)
    return entry


@pytest.mark.parametrize(("name", "path"), TWINS.items(), ids=TWINS)
def test_a_callback_says_what_its_twin_of_event_streams_says(bridge, name, path):
    sample = twin(name)
    request = sample["data"]["request"]
    before = len(bridge.messages())

    assert bridge.post(posted_form(path, request["parameters"])) == 200
    told = newest(bridge, before)

    # What Twilio calls is the bridge, and when that was is the time of an event that names no time of its own.
    request["url"] = PUBLIC + path
    [known] = decode(json.dumps(sample).encode())
    assert isinstance(known, Event)
    assert known.facts
    assert (told.type, told.account, told.members, told.facts) == (
        known.type,
        known.account,
        known.members,
        known.facts,
    )
    if "Timestamp" in request["parameters"]:
        assert told.occurred_ms == known.occurred_ms


def test_what_twilio_sends_again_is_the_same_event_and_anything_else_is_another(bridge):
    form = twin(VOICE + "recording.processed.call-completed")["data"]["request"]["parameters"]
    ids = []
    for sent in (form, dict(reversed(form.items())), {**form, "RecordingDuration": "51"}):
        before = len(bridge.messages())
        assert bridge.post(posted_form("/twilio/recording-status", sent)) == 200
        ids.append(newest(bridge, before).id)

    assert ids[0] == ids[1] != ids[2]


def test_a_callback_by_get_is_the_same_event_as_one_by_post(bridge):
    form = twin(VOICE + "recording.processed.call-completed")["data"]["request"]["parameters"] | {"Extra": "a b&c=1"}
    told = []
    for request in (posted_form("/twilio/recording-status", form), asked_form("/twilio/recording-status", form)):
        before = len(bridge.messages())
        assert bridge.post(request) == 200
        told.append(newest(bridge, before))

    assert told[0].id == told[1].id
    assert told[0].facts == told[1].facts


def test_a_get_that_nobody_signed_produces_nothing(bridge):
    form = {"AccountSid": ACCOUNT, "RecordingSid": "RE" + "6" * 32}
    signed = asked_form("/twilio/recording-status", form)
    assert bridge.post(signed) == 200
    before = len(bridge.messages())

    forged = [
        asked_form("/twilio/recording-status", form, OTHER_TOKEN),
        signed._replace(path=signed.path + "&RecordingStatus=absent"),
        signed._replace(path=signed.path.replace("6666", "6667", 1)),
        signed._replace(method="POST"),
        posted_form("/twilio/recording-status", form)._replace(method="GET"),
    ]
    assert [bridge.post(request) for request in forged] == [403] * len(forged)
    assert bridge.post(posted(b"{}")._replace(method="GET")) == 503  # Events are posted: the address is misspelt.
    assert len(bridge.messages()) == before


def altered(request: Request, body: bytes) -> Request:
    return request._replace(body=body)


def test_a_form_nobody_signed_produces_nothing(bridge):
    form = {"AccountSid": ACCOUNT, "RecordingSid": "RE" + "7" * 32, "ErrorCode": ""}
    signed = posted_form("/twilio/recording-status", form)
    assert bridge.post(signed) == 200
    before = len(bridge.messages())

    forged = [
        posted_form("/twilio/recording-status", form, OTHER_TOKEN),
        signed._replace(path="/twilio/conference-status"),
        signed._replace(path="/twilio/recording-status?more"),
        signed._replace(headers={}),
        altered(signed, signed.body + b"&CallSid=CA1"),
        altered(signed, signed.body + b"&ErrorCode=1"),
        altered(signed, signed.body.replace(b"7777", b"7778", 1)),
        altered(signed, signed.body.replace(b"&ErrorCode=", b"")),
        altered(signed, b""),
        altered(signed, b"\xff=\xfe"),
        altered(signed, json.dumps(form).encode()),
    ]
    assert [bridge.post(request) for request in forged] == [403] * len(forged)
    assert len(bridge.messages()) == before


def test_a_form_in_other_alphabets_is_taken_as_it_is(bridge):
    form = {"AccountSid": ACCOUNT, "ConferenceSid": "CF" + "8" * 32, "FriendlyName": "Büro & 会議 + 1=2"}
    before = len(bridge.messages())

    assert bridge.post(posted_form("/twilio/conference-status", form)) == 200
    [fact] = newest(bridge, before).facts
    assert msgspec.to_builtins(fact)[2] == "Büro & 会議 + 1=2"


def test_a_form_that_is_too_large_is_too_large(bridge):
    form = {"AccountSid": ACCOUNT, "Padding": "x" * 70_000}

    assert bridge.post(posted_form("/twilio/recording-status", form)) == 413
