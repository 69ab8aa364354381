"""The webhook bridge as Twilio meets it: a process of its own, a real broker, signatures by Twilio's own package."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final

import pytest
from twilio.request_validator import (  # type: ignore[import-untyped]  # The package has no types.
    HMAC_SHA1,
    HMAC_SHA256,
    SIGNATURE_SETTINGS_HEADER,
    RequestValidator,
)

from monitor.inputs.signature import Key, Signatures
from monitor.inputs.sink_tests import SinkTest, read_sink_test
from monitor.settings import SecretFile
from tests.broker import RealBroker
from tests.forging import forge
from tests.ingest_load import forgeries
from tests.monitors import Site, program, until
from tests.verify import read_topic
from tests.webhooks import (
    ACCOUNT,
    EVENTS,
    OTHER,
    OTHER_TOKEN,
    PUBLIC,
    TOKEN,
    Ingest,
    Request,
    ask,
    dumped,
    event,
    post,
    posted,
)

SAMPLES: Final = Path(__file__).parent / "samples"
BODY: Final = dumped([event(1)])


@pytest.fixture(scope="module")
def bridge(broker: RealBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    """A bridge for tests that leave it as it is: it has seen a valid signature."""
    with Ingest(broker, tmp_path_factory.mktemp("ingest")) as running:
        assert running.post(posted(b"[]")) == 200
        yield running


def read_signatures(directory: Path, **more: list[str]) -> Signatures:
    files = []
    for account, secrets in (more or {ACCOUNT: [TOKEN]}).items():
        file = directory / account
        file.write_text("\n".join(secrets))
        files.append((Key.token(account), SecretFile(file)))
    return Signatures(files, require_body_hash=True, clock=time.monotonic)


# --- Who is let in


def test_an_event_is_produced_with_its_own_bytes_under_its_account(bridge):
    body = dumped(event(11))

    assert bridge.post(posted(body)) == 200
    assert [message.key for message in bridge.messages() if message.value == body] == [ACCOUNT]


def test_each_element_of_an_array_is_a_message_of_its_own(bridge):
    first, second = dumped(event(21)), dumped(event(22, OTHER))

    assert bridge.post(posted(b"[ " + first + b" ,\n" + second + b"]")) == 200
    found = {message.value: message.key for message in bridge.messages() if message.value in (first, second)}
    assert found == {first: ACCOUNT, second: OTHER}


def without(name: str) -> Callable[[Request], Request]:
    return lambda request: request._replace(headers={n: v for n, v in request.headers.items() if n != name})


HASH: Final = f"bodySHA256={hashlib.sha256(BODY).hexdigest()}"
FORGED: Final[dict[str, Request]] = {
    "altered body": posted(BODY)._replace(body=BODY.replace(b"StartCall", b"StartCalm")),
    "altered address": posted(BODY)._replace(path=f"{EVENTS}?{HASH}&more=1"),
    "wrong token": posted(BODY, OTHER_TOKEN),
    "no signature": without("X-Twilio-Signature")(posted(BODY)),
    "empty signature": posted(BODY)._replace(headers={"X-Twilio-Signature": ""}),
    "no hash of the body": posted(BODY, query=""),
    "two hashes": posted(BODY, query=f"{HASH}&bodySHA256={'0' * 64}"),
    "two hashes, the other way round": posted(BODY, query=f"bodySHA256={'0' * 64}&{HASH}"),
    "the hash of another body twice": posted(dumped([event(2)]), query=f"{HASH}&{HASH}"),
    "a hash, and an empty one": posted(BODY, query=f"{HASH}&bodySHA256="),
    "an empty hash": posted(BODY, query="bodySHA256="),
    "replayed with another body": posted(BODY)._replace(body=dumped([event(2)])),
    "replayed without a body": posted(BODY)._replace(body=b""),
    "replayed with a body that is no text": posted(BODY)._replace(body=b"\xff\xfe" + BODY),
    "signed for another host": posted(BODY, public="https://other.example.com"),
    "signed for the other endpoint": posted(BODY).signed_anew(f"{PUBLIC}/twilio/recording-status?{HASH}"),
    "signed for plain HTTP": posted(BODY, public="http://hooks.example.com"),
}


@pytest.mark.parametrize("request_", FORGED.values(), ids=FORGED)
def test_a_bad_signature_is_forbidden_and_produces_nothing(bridge, request_):
    assert bridge.post(request_) == 403
    assert b'"RE%032x"' % 1 not in b"".join(bridge.values())
    assert b'"RE%032x"' % 2 not in b"".join(bridge.values())


def test_the_validator_lets_the_same_event_in_when_nothing_is_altered(bridge):
    body = dumped([event(31)])

    assert bridge.post(posted(body)) == 200
    assert bridge.post(posted(body, query=f"bodySHA256={hashlib.sha256(body).hexdigest()}&a=%20b&c")) == 200


def test_an_address_that_names_the_hash_of_its_body_twice_as_some_of_twilios_do_is_taken(bridge):
    body = dumped([event(32)])
    named = f"bodySHA256={hashlib.sha256(body).hexdigest()}"

    assert bridge.post(posted(body, query=f"{named}&{named}")) == 200


def test_of_ten_thousand_forged_requests_none_is_taken_for_signed(tmp_path):
    signatures = read_signatures(tmp_path, **{ACCOUNT: [TOKEN, "a previous one"], OTHER: [OTHER_TOKEN]})
    chance = random.Random(6)
    taken = []
    for number in range(10_000):
        request = forge(chance, number)
        url, query = PUBLIC + request.path, request.path.partition("?")[2]
        signature = request.headers["X-Twilio-Signature"]
        if signatures.signer_of_body([url], query, request.body, signature) is not None:
            taken.append(request)

    assert taken == []
    whole = posted(BODY)
    signed = signatures.signer_of_body([PUBLIC + whole.path], HASH, BODY, whole.headers["X-Twilio-Signature"])
    assert signed == ACCOUNT


def test_forged_requests_over_the_wire_produce_nothing(broker, tmp_path):
    assert forgeries(broker, tmp_path, random.Random(7), 300) == []


def test_a_token_may_be_the_one_before_and_the_one_of_a_subaccount(broker, tmp_path):
    tokens = {ACCOUNT: ["the new one", TOKEN], OTHER: [OTHER_TOKEN]}
    with Ingest(broker, tmp_path, tokens=tokens) as bridge:
        for token, number in (("the new one", 1), (TOKEN, 2), (OTHER_TOKEN, 3)):
            assert bridge.post(posted(dumped(event(number)), token)) == 200
        # What does not name an account is its signer's.
        assert bridge.post(posted(b'{"type": "com.example.unknown"}', OTHER_TOKEN)) == 200

        assert [m.key for m in bridge.messages() if m.value == b'{"type": "com.example.unknown"}'] == [OTHER]


def test_a_rotated_token_is_picked_up_and_nothing_is_thrown_away_before(broker, tmp_path):
    with Ingest(broker, tmp_path) as bridge:
        assert bridge.post(posted(dumped(event(1)))) == 200
        assert bridge.post(posted(dumped(event(2)), "rotated")) == 403

        bridge.write_tokens(ACCOUNT, ["rotated"])
        until(lambda: bridge.post(posted(dumped(event(3)), "rotated")) == 200, why=bridge.tail)
        assert bridge.post(posted(dumped(event(4)))) == 403

        bridge.write_tokens(ACCOUNT, ["rotated by somebody else"])
        # No signature has been seen with what is now there: so nothing says that these are forgeries.
        until(lambda: bridge.post(posted(dumped(event(5)), "rotated")) == 503, why=bridge.tail)
        assert bridge.said("signature_not_verified")


def test_before_the_first_valid_signature_a_bad_one_may_come_again(broker, tmp_path):
    with Ingest(broker, tmp_path, tokens={ACCOUNT: [TOKEN], OTHER: [OTHER_TOKEN]}) as bridge:
        assert bridge.post(posted(dumped(event(1)), "rotated")) == 503
        metrics = bridge.metrics()
        assert metrics("ingest_signature_failures_total") == 1
        assert metrics("ingest_last_valid_signature_timestamp_seconds") == 0

        assert bridge.post(posted(dumped(event(2)))) == 200
        assert abs(bridge.metrics()("ingest_last_valid_signature_timestamp_seconds") - time.time()) < 60
        # Whose token was not seen at work may have been rotated, whatever the others say.
        assert bridge.post(posted(dumped(event(3)), "rotated")) == 403
        assert bridge.post(posted(dumped(event(3, OTHER)), "rotated")) == 503
        assert bridge.post(posted(dumped({"type": "of nobody"}), "rotated")) == 503


def test_after_fifteen_minutes_without_a_valid_signature_a_bad_one_is_no_forgery_for_certain(tmp_path):
    now = 1_000.0
    file = tmp_path / "token"
    file.write_text(TOKEN)
    signatures = Signatures([(Key.token(ACCOUNT), SecretFile(file))], require_body_hash=True, clock=lambda: now)
    whole = posted(BODY)

    assert signatures.signer_of_body([PUBLIC + whole.path], HASH, BODY, whole.headers["X-Twilio-Signature"])
    now += 899
    assert signatures.recently_valid(ACCOUNT)
    assert signatures.recently_valid(None)
    now += 2
    assert not signatures.recently_valid(ACCOUNT)
    assert not signatures.recently_valid(None)


def with_shared_key(request: Request, secret: str, algorithm: str = HMAC_SHA256) -> Request:
    """The same as an account sends it whose webhooks are signed with a shared key."""
    signature = RequestValidator(secret).compute_signature(PUBLIC + request.path, {}, algorithm)
    named = f"key=webhooks_sharedkey_1,algorithm={algorithm}"
    return request._replace(
        headers={**request.headers, "X-Twilio-Signature": signature, SIGNATURE_SETTINGS_HEADER: named}
    )


def test_a_shared_key_signs_where_the_settings_name_one_and_each_secret_only_in_its_own_way(broker, tmp_path):
    (tmp_path / "shared").write_text("a shared key\n")
    first, second = dumped(event(1)), dumped(event(2))
    with Ingest(broker, tmp_path / "without") as bridge:
        assert bridge.post(with_shared_key(posted(first), "a shared key")) == 503

    bridge = Ingest(broker, tmp_path / "with")
    bridge.settings["accounts"][0]["shared_key_file"] = str(tmp_path / "shared")
    with bridge:
        assert bridge.post(with_shared_key(posted(first), "a shared key")) == 200
        assert bridge.post(posted(second)) == 200  # While a rule is being rolled out, both ways come.
        assert bridge.post(with_shared_key(posted(first), "another key")) == 403
        assert bridge.post(with_shared_key(posted(first), "a shared key")._replace(body=second)) == 403
        # Whoever knows a secret, or the name of an algorithm, can't choose how it is used.
        assert bridge.post(with_shared_key(posted(first), "a shared key", HMAC_SHA1)) == 403
        assert bridge.post(with_shared_key(posted(first), TOKEN)) == 403
        assert bridge.values() == [first, second]


def test_a_proxy_says_which_address_was_called_only_where_it_is_trusted(broker, tmp_path):
    body = dumped(event(1))
    forwarded = posted(body, public="https://public.example.com:8443")
    forwarded = forwarded._replace(
        headers={
            **forwarded.headers,
            "X-Forwarded-Proto": "http, https",
            "X-Forwarded-Host": "evil.example.com, public.example.com:8443",
        }
    )
    with Ingest(broker, tmp_path / "trusting", trusted_proxies=["127.0.0.0/8"]) as bridge:
        assert bridge.post(forwarded) == 200
        assert bridge.post(posted(body)) == 200
    with Ingest(broker, tmp_path / "wary", trusted_proxies=["10.0.0.0/8"]) as bridge:
        assert bridge.post(posted(body)) == 200
        assert bridge.post(forwarded) == 403
        # What it says does no harm either.
        harmless = posted(body)
        assert bridge.post(harmless._replace(headers={**harmless.headers, "X-Forwarded-Host": "evil"})) == 200


@pytest.mark.parametrize("public", ["https://hooks.example.com/monitor", "https://hooks.example.com:8443"])
def test_the_public_address_may_have_a_port_and_a_path_that_a_proxy_takes_off_or_not(broker, tmp_path, public):
    with Ingest(broker, tmp_path, public_url=public) as bridge:
        taken_off = posted(dumped(event(1)), public=public)
        assert bridge.post(taken_off) == 200
        prefix = public.removeprefix("https://hooks.example.com").removeprefix(":8443")
        assert bridge.post(taken_off._replace(path=prefix + taken_off.path)) == 200


def test_a_body_without_its_hash_is_taken_only_where_that_is_allowed(broker, tmp_path):
    with Ingest(broker, tmp_path, require_body_hash=False) as bridge:
        assert bridge.post(posted(dumped(event(1)), query="")) == 200
        assert bridge.post(posted(BODY, query=f"{HASH}&{HASH}")) == 200
        assert bridge.post(posted(BODY)._replace(body=dumped([event(2)]))) == 403
        assert bridge.post(posted(BODY, OTHER_TOKEN, query="")) == 403


def test_user_and_password_are_asked_for_beside_the_signature(broker, tmp_path):
    (tmp_path / "basic").write_text("twilio:secret word\n")
    request = posted(dumped(event(1)))

    def sent(user: str | None, request: Request = request) -> int:
        header = {} if user is None else {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
        return running.post(request._replace(headers={**request.headers, **header}))

    running = Ingest(broker, tmp_path / "bridge", basic_auth_file=str(tmp_path / "basic"))
    with running:
        # Twilio asks without them first, and again when it is challenged.
        assert sent(None) == 401
        assert sent("twilio:secret word") == 200
        assert sent("twilio:secret word", posted(BODY, public="https://twilio:secret word@hooks.example.com")) == 200
        # Signed by Twilio: then what was set up here is perhaps wrong, and it may come again.
        assert sent("twilio:another") == 503
        assert sent("twilio:secret word", posted(BODY, OTHER_TOKEN)) == 403


def test_where_twilio_calls_from_is_checked_beside_the_signature(broker, tmp_path):
    request = posted(dumped(event(1)))

    def sent(way: str | None) -> int:
        return running.post(request._replace(headers={**request.headers, **({"X-Forwarded-For": way} if way else {})}))

    running = Ingest(broker, tmp_path, sources=["35.90.102.128/25"], trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    with running:
        assert sent("35.90.102.130") == 200
        assert sent("35.90.102.130, 10.1.1.1") == 200
        assert sent("35.90.102.130, 203.0.113.9") == 503
        assert sent("203.0.113.9") == 503
        assert sent(None) == 503


# --- What Twilio is told


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON at all",
        b'{"half": ',
        b"[1, null, ",
        b'"text"',
        b"null",
        b'{"type": "com.example.of-the-future", "data": 7}',
        b"\x00",
        b"\xef\xbb\xbf{}",
    ],
)
def test_whatever_a_genuine_request_says_is_produced_for_the_core_to_judge(bridge, body):
    assert bridge.post(posted(body)) == 200
    assert [m.key for m in bridge.messages() if m.value == body] == [ACCOUNT]


def test_elements_that_are_no_events_are_produced_each(bridge):
    body = b'[{"no": "event 77"}, "text 77", 77777, null, [77]]'

    assert bridge.post(posted(body)) == 200
    assert {b'{"no": "event 77"}', b'"text 77"', b"77777", b"null", b"[77]"} <= set(bridge.values())


@pytest.mark.parametrize("body", [b"", b" \n", b"[]", b" [ ] "])
def test_where_nothing_was_said_nothing_is_produced(bridge, body):
    before = len(bridge.messages())

    assert bridge.post(posted(body)) == 200
    assert len(bridge.messages()) == before


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("parameters", {"request": {"parameters": {"AccountSid": OTHER}}}),
        ("flat", {"AccountSid": OTHER}),
        ("snake", {"account_sid": OTHER}),
        ("payload", {"payload": {"account_sid": OTHER}}),
        ("url", {"request": {"url": f"https://api.twilio.com/2010-04-01/Accounts/{OTHER}/Calls.json"}}),
    ],
)
def test_an_event_of_a_type_nobody_knows_is_under_the_account_it_names(bridge, path, data):
    body = dumped({"type": "com.twilio.of-the-future", "id": path, "data": data})

    assert bridge.post(posted(body)) == 200
    assert [m.key for m in bridge.messages() if m.value == body] == [OTHER]


def test_what_is_larger_than_allowed_is_too_large(broker, tmp_path):
    with Ingest(broker, tmp_path, body_max="64KiB") as bridge:
        assert bridge.post(posted(b" " * (64 * 1024 + 1))) == 413
        assert bridge.post(posted(b"[" + b" " * (64 * 1024 - 2) + b"]")) == 200


def test_what_is_too_large_for_the_topic_is_too_large_and_the_rest_of_it_is_produced(broker, tmp_path):
    small, large = dumped(event(1)), dumped(event(2, Padding="".join(random.Random(1).choices("abcdef", k=50_000))))
    with Ingest(broker, tmp_path, topic_config={"max_message_bytes": "20000"}) as bridge:
        # Kafka's client sends both in one piece, and the broker refuses it whole.
        assert bridge.post(posted(b"[" + large + b"," + small + b"]")) == 413
        assert bridge.values() == [small]


@pytest.mark.parametrize(
    ("method", "path", "signed", "status"),
    [
        ("POST", "/twilio/event", True, 503),
        ("GET", EVENTS, True, 503),
        ("PUT", EVENTS, True, 503),
        ("POST", "/", True, 503),
        ("POST", "/twilio/event", False, 404),
        ("GET", EVENTS, False, 404),
        ("GET", "/metrics", False, 404),
    ],
)
def test_a_misspelt_address_throws_no_event_away(bridge, method, path, signed, status):
    assert ask(bridge.address, method, path, b"{}", {"X-Twilio-Signature": "x"} if signed else {})[0] == status


def test_a_gzipped_body_is_unpacked(bridge):
    body = dumped(event(41))
    request = posted(body)
    packed = request._replace(body=gzip.compress(body), headers={**request.headers, "Content-Encoding": "gzip"})

    assert bridge.post(packed) == 200
    assert body in bridge.values()
    assert bridge.post(packed._replace(body=b"no gzip")) == 403


# --- Sink tests


def test_a_sink_test_is_told_in_the_topic_that_other_processes_read(bridge):
    test = (SAMPLES / "com.twilio.eventstreams.test-event.json").read_bytes()
    sid = json.loads(test)["id"]

    assert bridge.post(posted(b"[" + test + b"]")) == 200
    until(lambda: read_topic(bridge.bootstrap, bridge.settings_topic), why=bridge.tail)
    told = read_topic(bridge.bootstrap, bridge.settings_topic)[-1]
    assert told.key == f"{sid}/sink-test/account"
    said = json.loads(told.value or b"")
    assert said["type"] == "dev.recording-monitor.sink-test.seen"
    assert said["data"]["test_id"] == "00000000-0000-4000-8000-000000000001"
    assert bridge.said("sink_test_received")[0]["test_id"] == said["data"]["test_id"]
    assert test.strip() in bridge.values()
    read = read_sink_test(told.key or "", told.value)
    assert read == SinkTest(sid, "00000000-0000-4000-8000-000000000001", said["time"])
    assert read_sink_test(f"{sid}/place/1", told.value) is None
    assert read_sink_test(told.key or "", b"{}") is None


# --- How it is set up


def test_a_bridge_without_a_public_address_or_tokens_does_not_start(tmp_path):
    config = tmp_path / "monitor.yaml"
    config.write_text(f"kafka: {{bootstrap_servers: 'x:1'}}\naccounts: [{{alias: a, sid: {ACCOUNT}}}]\n")
    done = program("ingest", "--config", str(config), cwd=tmp_path)
    assert (done.returncode, b"ingest.public_url" in done.stderr) == (2, True), done.stderr

    config.write_text(config.read_text() + f"ingest: {{public_url: '{PUBLIC}'}}\n")
    done = program("ingest", "--config", str(config), cwd=tmp_path)
    assert (done.returncode, b"none has an auth_token_file" in done.stderr) == (2, True), done.stderr


def test_run_has_a_bridge_of_its_own_where_that_is_enabled(broker, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    site = Site(
        broker,
        tmp_path / "site",
        accounts=[{"alias": "main", "sid": ACCOUNT, "auth_token_file": str(tmp_path / "token")}],
        ingest={"enabled": True, "listen": "127.0.0.1:0", "public_url": PUBLIC},
        reconcile={"enabled": False},  # It has nobody to ask.
        polling={"enabled": False},  # Nobody answers there.
    )
    with site.start() as monitor:
        until(lambda: monitor.said("bridge_started"), why=monitor.tail)
        address = monitor.said("bridge_started")[0]["address"]
        monitor.ready()
        assert post(address, posted(dumped([recent(1)]))) == 200
        until(site.verdicts, why=monitor.tail)
        assert monitor.metrics()("ingest_events_total") == 1

        assert site.verdicts()[f"RE{1:032x}"]["cause"] == "api_call_recording"
        assert monitor.stop() == 0


def recent(number: int) -> dict[str, Any]:
    """A recording that has just begun, so that it is judged."""
    started = format_datetime(datetime.now(UTC))
    return {**event(number, RecordingStartTime=started), "time": datetime.now(UTC).isoformat()}


def test_it_stops_in_good_order_and_tells_no_token(broker, tmp_path):
    with Ingest(broker, tmp_path) as bridge:
        assert bridge.post(posted(dumped(event(1)))) == 200
        assert bridge.post(posted(dumped(event(1)), OTHER_TOKEN)) == 403
        assert bridge.get("/-/healthy")[0] == 200
        assert bridge.get("/-/ready", metrics=False)[0] == 200
        metrics = bridge.get("/metrics")[1]

        assert bridge.stop() == 0
        printed = program("config", "print", "--config", str(tmp_path / "ingest.yaml"), cwd=tmp_path)
        assert b"auth_token_file" in printed.stdout, printed.stderr
        assert TOKEN not in bridge.log.read_text() + metrics + printed.stdout.decode() + printed.stderr.decode()
        assert bridge.said("bridge_stopped")
