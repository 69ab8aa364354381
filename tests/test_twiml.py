"""TwiML: what is found in it, what is refused, and that nothing which the parser would find is hidden from it."""

from __future__ import annotations

import base64
import encodings.aliases
import json
import warnings
from collections.abc import Iterable
from xml.parsers import expat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.core import twiml
from monitor.core.decode import decode
from monitor.core.events import Event, Malformed
from monitor.core.twiml import (
    BODY_BYTES_MAX,
    DEPTH_MAX,
    OFTEN_CHARACTERS_MAX,
    TwimlRefusedError,
    recorded_conferences,
    recorded_conferences_in_xml,
    records,
)
from tests.builders import build_messages

RECORDED = '<Response><Dial><Conference record="record-from-start">support</Conference></Dial></Response>'


def base64_of(xml: str | bytes) -> str:
    return base64.b64encode(xml.encode() if isinstance(xml, str) else xml).decode()


# --------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("spelled", ["record-from-start", "true", "TRUE", " Record-From-Start "])
def test_a_conference_that_records_is_found(spelled):
    xml = f'<Response><Dial><Conference record="{spelled}">support</Conference></Dial></Response>'

    assert recorded_conferences(base64_of(xml)) == ("support",)


@pytest.mark.parametrize("spelled", ["do-not-record", "false", "", "record-from-answer", "yes", "truely"])
def test_a_conference_that_does_not_record_is_not_found(spelled):
    xml = f'<Response><Dial><Conference record="{spelled}">support</Conference></Dial></Response>'

    assert recorded_conferences(base64_of(xml)) == ()


@pytest.mark.parametrize(
    "xml",
    [
        '<Response><Dial record="record-from-answer"><Conference>support</Conference></Dial></Response>',
        "<Response><Record/></Response>",
        "<Response><Start><Recording/></Start></Response>",
        '<Response><Conference recordingStatusCallback="https://x.example.com">support</Conference></Response>',
        '<Response><conference record="true">support</conference></Response>',
        "<Response><Say>&lt;Conference record=true></Say></Response>",
        '<Response><!-- <Conference record="true">support</Conference> --></Response>',
        '<Response><Say><![CDATA[<Conference record="true">support</Conference>]]></Say></Response>',
        '<Response><Dial><Conference record="true">   </Conference></Dial></Response>',
    ],
)
def test_only_the_record_attribute_of_a_named_conference_counts(xml):
    assert recorded_conferences(base64_of(xml)) == ()
    assert recorded_conferences_in_xml(xml) == ()


def test_names_come_in_order_and_once_without_the_space_around_them():
    rooms = "".join(
        f'<Dial><Conference record="{record}">{name}</Conference></Dial>'
        for name, record in [
            (" b ", "true"),
            ("a", "true"),
            ("c", "false"),
            ("b", "record-from-start"),
            ("\n d\t", "true"),
        ]
    )

    assert recorded_conferences(base64_of(f"<Response>{rooms}</Response>")) == ("b", "a", "d")


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("Grüße &amp; Küsse", "Grüße & Küsse"),
        ("room &#49;&#x32;", "room 12"),
        ("<![CDATA[a<b]]>", "a<b"),
        ("two<!-- -->parts", "twoparts"),
        ("a <Nested>b</Nested> c", "a b c"),
    ],
)
def test_a_name_is_what_its_characters_stand_for(spelled, name):
    xml = f'<Response><Dial><Conference record="true">{spelled}</Conference></Dial></Response>'

    assert recorded_conferences(base64_of(xml)) == (name,)


@pytest.mark.parametrize("before", range(6))
def test_a_recording_attribute_is_found_at_every_place_in_base64(before):
    assert recorded_conferences(base64_of("<Response>" + " " * before + RECORDED[10:])) == ("support",)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r", " ", "\t", "\n\t "])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 60, 76])
def test_base64_broken_into_lines_hides_nothing(separator, width):
    body = base64_of(RECORDED)
    broken = separator.join(body[at : at + width] for at in range(0, len(body), width))

    assert recorded_conferences(broken) == ("support",)
    assert recorded_conferences(separator + body + separator) == ("support",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", [False, True])
def test_the_encoding_of_the_body_hides_nothing(encoding, declared):
    bom = "\ufeff" if encoding == "utf-16-be" and declared else ""
    name = "utf-16" if "16" in encoding else "utf-8"
    declaration = f'<?xml version="1.0" encoding="{name}"?>' if declared else ""

    assert recorded_conferences(base64_of((bom + declaration + RECORDED).encode(encoding))) == ("support",)


@pytest.mark.parametrize("spelled", ["windows-1252", "utf8", "latin1", "koi8-r", "bogus", "idna", "undefined", "hex"])
def test_an_encoding_that_the_parser_does_not_know_is_read_as_far_as_it_is_ascii(spelled):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xml = f'<?xml version="1.0" encoding="{spelled}"?>{RECORDED}'

        assert recorded_conferences(base64_of(xml)) == ("support",)


def test_no_encoding_that_python_knows_reaches_its_codecs():
    names = {*encodings.aliases.aliases, *encodings.aliases.aliases.values(), "unicode_escape", "punycode"}
    for spelled in sorted(name for name in names if name[0].isalpha()):  # As XML wants it.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = recorded_conferences(base64_of(f'<?xml version="1.0" encoding="{spelled}"?>{RECORDED}'))

        # A body in ASCII that calls itself UTF-16 is what expat can't read.
        assert found == (() if spelled.lower() == "utf-16" else ("support",)), spelled


def test_the_body_may_be_bare_xml():
    assert recorded_conferences(RECORDED) == ("support",)
    assert recorded_conferences("\n  " + RECORDED) == ("support",)
    assert recorded_conferences("\ufeff" + RECORDED) == ("support",)
    assert recorded_conferences_in_xml('<?xml version="1.0" encoding="UTF-16"?>' + RECORDED) == ("support",)


@pytest.mark.parametrize("body", [None, "", "   ", "%%%%", "Zm9v!", "=", "====", "ZWNvcm*ZWNvcm", "null"])
def test_what_is_no_twiml_finds_nothing(body):
    assert recorded_conferences(body) == ()


@pytest.mark.parametrize("value", [True, "true", "record-from-start", " TRUE "])
def test_values_that_turn_recording_on(value):
    assert records(value)


@pytest.mark.parametrize("value", [None, False, 1, "false", "do-not-record", "", "1", ["true"]])
def test_values_that_do_not_turn_recording_on(value):
    assert not records(value)


# --------------------------------------------------------------------------- what is cut short


def test_a_body_cut_anywhere_behind_the_conference_still_tells_it():
    end = RECORDED.index("</Conference>") + len("</Conference>")
    body = base64_of(RECORDED + "<Say>and on</Say>" * 3)
    for cut in range(len(base64_of(RECORDED[:end])) + 1, len(body) + 1):
        assert recorded_conferences(body[:cut]) == ("support",), cut


def test_a_body_cut_before_the_end_of_the_conference_tells_nothing():
    name_ends = RECORDED.index("</Conference>")
    for cut in range(len(base64_of(RECORDED[:name_ends]).rstrip("="))):
        assert recorded_conferences(base64_of(RECORDED)[:cut]) == ()


def test_what_follows_broken_markup_is_not_read():
    second = '<Conference record="true">second</Conference>'
    broken = f'<Response><Dial><Conference record="true">first</Conference></Say>{second}'

    assert recorded_conferences(base64_of(broken)) == ("first",)


# --------------------------------------------------------------------------- what is refused

BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + "".join(f'<!ENTITY lol{n + 1} "{f"&lol{n or str()};" * 10}">' for n in range(9))
    + "]><Response><Say>&lol9;</Say></Response>"
)
HIDDEN_BY_AN_ENTITY = (
    "<!DOCTYPE x [<!ENTITY room \"<Conference r&#101;cord='true'>support</Conference>\">]>"
    "<Response><Dial>&room;</Dial></Response>"
)


@pytest.mark.parametrize(
    "xml",
    [
        BILLION_LAUGHS,
        HIDDEN_BY_AN_ENTITY,
        "<!DOCTYPE Response>" + RECORDED,
        '<!DOCTYPE Response SYSTEM "file:///etc/passwd">' + RECORDED,
        '<!DOCTYPE Response [<!ENTITY x SYSTEM "http://localhost/">]>' + RECORDED,
        '<!DOCTYPE Response [<!ENTITY % x "y">]>' + RECORDED,
    ],
)
def test_a_document_type_is_refused(xml):
    assert "ecord" not in HIDDEN_BY_AN_ENTITY
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(TwimlRefusedError, match="document type"):
            recorded_conferences(base64_of(xml.encode(encoding)))
    with pytest.raises(TwimlRefusedError, match="document type"):
        recorded_conferences_in_xml(xml)


@pytest.mark.parametrize("before", range(3))
def test_a_document_type_is_refused_at_every_place_in_base64(before):
    with pytest.raises(TwimlRefusedError):
        recorded_conferences(base64_of(" " * before + BILLION_LAUGHS[21:]))


def test_a_document_may_be_nested_so_deep_and_no_deeper():
    def nested(depth: int) -> str:
        inner = '<Conference record="true">deep</Conference>'
        return "<a>" * (depth - 1) + inner + "</a>" * (depth - 1)

    assert recorded_conferences(base64_of(nested(DEPTH_MAX))) == ("deep",)
    with pytest.raises(TwimlRefusedError, match="too deeply"):
        recorded_conferences(base64_of(nested(DEPTH_MAX + 1)))


def test_a_depth_bomb_is_refused():
    with pytest.raises(TwimlRefusedError, match="too deeply"):
        recorded_conferences(base64_of('<Response record="true">' + "<a>" * 50_000))


def test_siblings_are_not_depth():
    many = "<Say>hello</Say>" * (2 * DEPTH_MAX)

    assert recorded_conferences(base64_of(f"<Response>{many}{RECORDED[10:]}")) == ("support",)


def test_a_document_may_be_so_large_and_no_larger():
    room = '<Conference record="true">large</Conference>'
    filled = f"<Response>{room}<!--{{}}--></Response>"
    fits = filled.format("x" * (BODY_BYTES_MAX - len(filled) + 2))
    assert len(fits) == BODY_BYTES_MAX

    assert recorded_conferences(base64_of(fits)) == ("large",)
    assert recorded_conferences_in_xml(fits) == ("large",)
    for refused in (recorded_conferences, recorded_conferences_in_xml):
        with pytest.raises(TwimlRefusedError, match="too large"):
            refused(base64_of(fits + " " * 4) if refused is recorded_conferences else fits + " ")


def test_the_size_of_a_document_is_that_of_its_bytes():
    xml = f'<Response><Conference record="true">{"é" * (BODY_BYTES_MAX // 2)}</Conference></Response>'
    assert len(xml) < BODY_BYTES_MAX

    with pytest.raises(TwimlRefusedError, match="too large"):
        recorded_conferences_in_xml(xml)


def test_a_large_body_that_can_hold_no_recording_attribute_is_not_refused():
    assert recorded_conferences(base64_of("<Response>" + "<Say>hello</Say>" * 50_000 + "</Response>")) == ()


def test_an_event_whose_twiml_is_refused_is_set_aside_whole():
    [message] = build_messages([{"at": 0, "twiml": "CA1", "body": BILLION_LAUGHS}])
    [entry] = decode(message.value)

    assert isinstance(entry, Malformed)
    assert entry.reason == "twiml-refused"
    assert entry.data == message.value


def test_an_event_whose_twiml_is_in_a_bogus_encoding_is_read():
    xml = f'<?xml version="1.0" encoding="bogus"?>{RECORDED}'
    [message] = build_messages([{"at": 0, "twiml": "CA1", "body": xml}])
    [entry] = decode(message.value)

    assert isinstance(entry, Event)
    assert len(entry.facts) == 1


# --------------------------------------------------------------------------- the prefilter


def found_without_prefilter(xml: bytes) -> tuple[str, ...] | str:
    """What a plain reading of the XML finds, without looking for anything beforehand; ``refused`` where it is."""
    found: list[str] = []
    names: list[list[str]] = []
    depth = 0

    class RefusedError(Exception):
        pass

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH_MAX:
            raise RefusedError
        if tag == "Conference" and attributes.get("record", "").strip().lower() in ("true", "record-from-start"):
            names[:] = [[]]

    def text(data: str) -> None:
        if names:
            names[-1].append(data)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        if tag == "Conference" and names:
            name = "".join(names.pop()).strip()
            if name:
                found.append(name)

    def refuse(*_: object) -> None:
        raise RefusedError

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except RefusedError:
        return "refused"
    except expat.ExpatError:
        pass
    return tuple(dict.fromkeys(found))


PIECES = st.sampled_from(
    [
        "<Response>",
        "</Response>",
        "<Dial>",
        "</Dial>",
        '<Conference record="true">',
        "<Conference record='record-from-start'>",
        '<Conference\nrecord\t=\n"do-not-record">',
        "<Conference>",
        "</Conference>",
        "room",
        " ",
        "é",
        "\u4e16",
        "&amp;",
        "&#114;",
        "<!-- record -->",
        "<![CDATA[record]]>",
        "<?pi record?>",
        "<!DOCTYPE x>",
        '<!DOCTYPE x [<!ENTITY e "&#60;">]>',
    ]
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])


@pytest.mark.parametrize("length", [OFTEN_CHARACTERS_MAX - 200, OFTEN_CHARACTERS_MAX + 200])
def test_a_body_says_the_same_every_time(length):
    body = base64_of(RECORDED.replace("<Dial>", "<Dial>" + " " * (length * 3 // 4 - len(RECORDED))))
    refused = base64_of("<!DOCTYPE x>" + " " * (length * 3 // 4) + RECORDED)

    for _ in range(3):
        assert recorded_conferences(body) == ("support",)
        with pytest.raises(TwimlRefusedError):
            recorded_conferences(refused)


@given(st.lists(PIECES, max_size=12), ENCODINGS, st.integers(0, 80), st.sampled_from(["", "\n", "\r\n", " ", "\t"]))
@example(['<Conference record="true">', "room", "</Conference>"], "utf-16-le", 0, "")
@example(["<!DOCTYPE x>"], "utf-16-be", 1, "")
def test_the_prefilter_hides_nothing_that_the_parser_would_find(pieces, encoding, width, separator):
    xml = "".join(pieces).encode(encoding)
    body = base64_of(xml)
    if width:
        body = separator.join(body[at : at + width] for at in range(0, len(body), width))
    try:
        found: tuple[str, ...] | str = recorded_conferences(body)
    except TwimlRefusedError:
        found = "refused"

    assert found == found_without_prefilter(xml)


@given(st.binary(max_size=200))
@example(b"\x00<\x00C")
def test_bytes_that_are_no_twiml_raise_nothing_but_a_refusal(data):
    for body in (base64_of(data), data.decode("latin-1"), "<" + data.decode("latin-1")):
        try:
            recorded_conferences(body)
        except TwimlRefusedError:
            pass


@given(st.text(max_size=200))
def test_text_that_is_no_twiml_raises_nothing_but_a_refusal(text):
    for body in (text, f"<a record='{text}'", f'<?xml version="1.0" encoding="{text}"?><a record=""/>'):
        try:
            recorded_conferences(body)
            recorded_conferences_in_xml(body)
        except TwimlRefusedError:
            pass


@given(st.sampled_from(["ecord", "<!DOCTYPE"]), st.text("abc<> /\"='é", max_size=9), st.text("abc<> /", max_size=9))
def test_a_text_stands_in_base64_in_one_of_its_three_spellings(word, before, after):
    body = base64_of(before + word + after)

    assert any(spelling in body for spelling in twiml._spellings(word.encode()))


@given(st.text("ecordxyz ", max_size=30))
def test_a_spelling_stands_in_base64_only_where_its_text_does(text):
    assert any(one in base64_of(text) for one in twiml._spellings(b"ecord")) == ("ecord" in text)


def test_bodies_of_the_samples_are_read_as_the_plain_reading_does(samples: Iterable[str]):
    bodies = [body for body in samples if body]

    assert len(bodies) > 5
    for body in bodies:
        assert recorded_conferences(body) == found_without_prefilter(base64.b64decode(body))


@pytest.fixture
def samples(request: pytest.FixtureRequest) -> list[str]:
    folder = request.path.parent / "samples" / "scenarios"
    events = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return [(event["data"].get("response") or {}).get("responseBody", "") for event in events]
