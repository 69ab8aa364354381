"""Asking Twilio: who asks, what is tried again and for how long, and what an error tells. Twilio is a server of ours
that answers as Twilio's own OpenAPI documents say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from monitor.errors import OutOfReach, WrongInput
from monitor.outputs.twilio_metrics import TwilioMetrics
from monitor.settings import SecretError, Settings, SettingsError, load_settings
from monitor.twilio.accounts import Twilio, TwilioAccount
from monitor.twilio.errors import BadCredentials, NotPermitted, NotThere, TwilioRefused, TwilioUnavailable
from monitor.twilio.transport import Clock, Limits, Told
from tests.twilio_contract import Contract
from tests.twilio_server import TwilioServer, new_sink

SINK = {"destination": "https://hooks.example.com/twilio/events", "method": "POST", "batch_events": True}
REQUESTS = "recording_monitor_twilio_requests_total"
QUICK = Limits(total_s=30.0, attempt_s=5.0)


class FakeTime:
    """Time that passes only while somebody sleeps, and what was slept."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []
        self.clock = Clock(now=lambda: self.now, sleep=self.sleep, jitter=lambda: 1.0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def read(directory: Path, settings: dict[str, Any]) -> Settings:
    file = directory / "monitor.yaml"
    file.write_text(yaml.safe_dump(settings))
    return load_settings(file, {})


def ask(
    settings: Settings,
    question: Callable[[list[TwilioAccount]], Awaitable[Any]],
    *,
    limits: Limits = QUICK,
    clock: Clock = Clock(),  # noqa: B008 - a tuple of functions.
    told: Told | None = None,
) -> Any:
    """Connect, and ask something of the accounts that are found."""

    async def asked() -> Any:
        async with Twilio(settings, limits=limits, clock=clock, told=told) as twilio:
            return await question(await twilio.accounts())

    return asyncio.run(asked())


async def sids(accounts: list[TwilioAccount]) -> list[str]:
    return [account.sid for account in accounts]


async def sinks(accounts: list[TwilioAccount]) -> list[Any]:
    return [sink.sid for account in accounts for sink in await account.client.events.v1.sinks.list_async()]


async def create(accounts: list[TwilioAccount]) -> Any:
    return await accounts[0].client.events.v1.sinks.create_async(
        description="One", sink_type="webhook", sink_configuration=SINK
    )


# --- Who asks


def test_an_auth_token_asks_as_its_account_and_sees_all_pages(twilio, tmp_path):
    account = twilio.account()
    twilio.page_max = 2
    there = [new_sink(twilio, account, SINK)["sid"] for _ in range(5)]

    assert ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks) == there
    assert twilio.paths() == ["GET /v1/Sinks"] * 3


def test_only_the_first_line_of_a_token_file_is_the_present_token_and_it_is_read_again(twilio, tmp_path):
    account = twilio.account()
    settings = read(tmp_path, twilio.settings(tmp_path, account))
    file = tmp_path / f"{account.sid}.token"
    file.write_text(f"{'0' * 32}\n{account.token}\n")

    async def twice(accounts: list[TwilioAccount]) -> Any:
        with pytest.raises(BadCredentials):
            await sinks(accounts)
        file.write_text(f"{account.token}\n{'0' * 32}\n")
        return await sinks(accounts)

    assert ask(settings, twice) == []


def test_an_api_key_asks_in_place_of_the_token(twilio, tmp_path):
    account = twilio.account()
    new_sink(twilio, account, SINK)
    sid, secret = twilio.api_key(account)
    (tmp_path / "key").write_text(secret)
    key = {"alias": "main", "sid": account.sid, "api_key_sid": sid, "api_key_secret_file": "key"}
    settings = read(tmp_path, {**twilio.settings(tmp_path, account), "accounts": [key]})

    assert len(ask(settings, sinks)) == 1


def test_all_subaccounts_that_are_active_are_asked_each_with_its_own_token(twilio, tmp_path):
    twilio.page_max = 2
    parent = twilio.account(1)
    below = [twilio.account(number, parent=parent) for number in range(2, 6)]
    twilio.account(9, parent=parent, status="suspended")
    for account in below:
        new_sink(twilio, account, SINK)
    settings = read(tmp_path, twilio.settings(tmp_path, parent, subaccounts="all"))

    assert ask(settings, sids) == [parent.sid, *(account.sid for account in below)]
    assert len(ask(settings, sinks)) == 4


def test_a_subaccount_of_the_settings_is_asked_once(twilio, tmp_path):
    parent = twilio.account(1)
    below = twilio.account(2, parent=parent)
    settings = twilio.settings(tmp_path, parent, below)
    settings["accounts"][0]["subaccounts"] = "all"

    assert ask(read(tmp_path, settings), sids) == [parent.sid, below.sid]


@pytest.mark.parametrize(
    ("place", "host"),
    [
        ({}, "events.twilio.com"),
        ({"region": "ie1"}, "events.ie1.twilio.com"),
        ({"edge": "dublin"}, "events.dublin.us1.twilio.com"),
        ({"region": "ie1", "edge": "dublin"}, "events.dublin.ie1.twilio.com"),
    ],
)
def test_region_and_edge_say_which_host_is_asked(twilio, tmp_path, place, host):
    account = twilio.account()

    ask(read(tmp_path, twilio.settings(tmp_path, account, **place)), sinks)

    assert [asked.host for asked in twilio.asked] == [host]


@pytest.mark.parametrize(
    ("accounts", "says"),
    [
        ([], "accounts: names no account"),
        ([{"alias": "main", "sid": "AC" + "1" * 32}], "accounts[0]: has no credentials. Give auth_token_file"),
    ],
)
def test_an_account_that_cannot_be_asked_is_wrong_settings(tmp_path, accounts, says):
    with pytest.raises(SettingsError) as wrong:
        ask(read(tmp_path, {"accounts": accounts}), sids)

    assert says in str(wrong.value)


def test_a_token_file_that_vanished_is_named_by_its_setting(twilio, tmp_path):
    account = twilio.account()
    settings = read(tmp_path, twilio.settings(tmp_path, account))
    (tmp_path / f"{account.sid}.token").unlink()

    with pytest.raises(SecretError, match=r"monitor.yaml:\d+: accounts\[0\].auth_token_file: names a file that cannot"):
        ask(settings, sinks)


def test_credentials_go_to_no_other_machine_in_the_clear(tmp_path):
    with pytest.raises(SettingsError, match="would send credentials in the clear"):
        read(tmp_path, {"twilio": {"api_url": "http://gateway.example.com"}})


# --- What is no


def test_credentials_that_twilio_does_not_know_are_named_by_their_setting_and_never_shown(twilio, tmp_path):
    account = twilio.account()
    settings = read(tmp_path, twilio.settings(tmp_path, account))
    (tmp_path / f"{account.sid}.token").write_text("feedfacefeedfacefeedfacefeedface")

    with pytest.raises(BadCredentials) as refused:
        ask(settings, sinks)

    says = str(refused.value)
    assert (refused.value.status, refused.value.code) == (401, 20003)
    assert "accounts[0].auth_token_file: Twilio does not know these credentials" in says
    assert "Put the account's present auth token into the first line of that file" in says
    assert "feedface" not in says
    assert isinstance(refused.value, WrongInput)


def test_what_is_not_permitted_says_who_may(twilio, tmp_path):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=403, body=b'{"code": 20403, "message": "Forbidden", "status": 403}')

    with pytest.raises(NotPermitted, match=r"do not permit GET events.twilio.com/v1/Sinks \(403, error 20403\)"):
        ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks)


def test_what_is_not_there_is_an_answer_of_its_own(twilio, tmp_path):
    account = twilio.account()

    async def fetch(accounts: list[TwilioAccount]) -> Any:
        return await accounts[0].client.events.v1.sinks("DG" + "9" * 32).fetch_async()

    with pytest.raises(NotThere, match=r"GET events.twilio.com/v1/Sinks/DG9{32}: there is none in AC0+1"):
        ask(read(tmp_path, twilio.settings(tmp_path, account)), fetch)


def test_a_refusal_says_what_twilio_says_without_numbers_and_tokens(twilio, tmp_path):
    account = twilio.account()
    body = b'{"code": 21211, "message": "+14155550123 or 14155550123 and deadbeefdeadbeefdeadbeefdeadbeef are wrong"}'
    twilio.fail("/v1/Sinks", status=400, body=body)

    with pytest.raises(TwilioRefused) as refused:
        ask(read(tmp_path, twilio.settings(tmp_path, account)), create)

    says = str(refused.value)
    assert "refused by Twilio" in says
    assert "are wrong. See https://www.twilio.com/docs/api/errors/21211" in says
    assert "4155550123" not in says
    assert "deadbeef" not in says
    assert len(twilio.paths()) == 0


def test_credentials_go_to_no_host_but_twilios_whatever_an_answer_says(twilio, tmp_path):
    account = twilio.account()
    meta = b'{"next_page_url": "https://events.twilio.com.example.com/v1/Sinks?Page=1", "key": "sinks"}'
    twilio.fail("/v1/Sinks", status=200, body=b'{"sinks": [], "meta": ' + meta + b"}")

    with pytest.raises(TwilioUnavailable, match="leads to a host that is not Twilio's"):
        ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks)

    assert twilio.asked == []


# --- What is tried again


def test_what_only_asks_is_asked_again_after_5xx_and_a_cut_connection(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=500)
    twilio.fail("/v1/Sinks", cut=True)
    twilio.fail("/v1/Sinks", status=200, body=b"<html>Welcome to our proxy")
    twilio.fail("/v1/Sinks", status=200, body=b"")
    twilio.fail("/v1/Sinks", status=302, headers={"Location": "https://login.example.com"}, body=b"")

    settings = read(tmp_path, twilio.settings(tmp_path, account))
    assert ask(settings, sinks, limits=QUICK._replace(attempts=6), clock=time.clock) == []
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_what_changes_something_is_not_asked_again_when_it_may_have_been_done(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", method="POST", status=503, after=True)

    with pytest.raises(TwilioUnavailable, match="it answered 503; whether it was done is not known"):
        ask(read(tmp_path, twilio.settings(tmp_path, account)), create, clock=time.clock)

    assert twilio.changes == ["POST /v1/Sinks"]
    assert time.slept == []


def test_what_was_deleted_by_an_attempt_before_is_deleted(twilio, tmp_path, time):
    account = twilio.account()
    sid = new_sink(twilio, account, SINK)["sid"]
    twilio.fail("/v1/Sinks/.*", method="DELETE", status=502, after=True)

    async def delete(accounts: list[TwilioAccount]) -> Any:
        return await accounts[0].client.events.v1.sinks(sid).delete_async()

    assert ask(read(tmp_path, twilio.settings(tmp_path, account)), delete, clock=time.clock) is True


def test_it_gives_up_after_some_attempts_and_says_what_the_last_came_to(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=500, times=None)

    with pytest.raises(TwilioUnavailable) as gone:
        ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks, clock=time.clock)

    assert isinstance(gone.value, OutOfReach)
    assert str(gone.value) == (
        f"GET events.twilio.com/v1/Sinks: it answered 500, at the last of 5 attempts (account {account.sid})"
    )
    assert time.slept == [0.5, 1.0, 2.0, 4.0]


def test_nobody_listening_is_out_of_reach(tmp_path, time):
    gone = TwilioServer()
    with gone:
        settings = read(tmp_path, gone.settings(tmp_path, gone.account()))

    with pytest.raises(TwilioUnavailable, match=r"no connection \(.+\), at the last of 5 attempts"):
        ask(settings, create, clock=time.clock)


@pytest.mark.parametrize("fault", [{"hang": True}, {"drip": True}])
def test_an_answer_that_does_not_come_to_an_end_is_waited_for_no_longer_than_was_said(twilio, tmp_path, fault):
    account = twilio.account()
    for number in range(20):
        new_sink(twilio, account, SINK, f"Number {number}")
    twilio.fail("/v1/Sinks", times=None, **fault)

    with pytest.raises(TwilioUnavailable, match=r"no answer within 0.2 s, at the last of 2 attempts"):
        ask(
            read(tmp_path, twilio.settings(tmp_path, account)),
            sinks,
            limits=Limits(attempt_s=0.2, total_s=30.0, attempts=2),
        )


def test_all_attempts_together_take_no_longer_than_was_said(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=500, times=None)

    with pytest.raises(TwilioUnavailable, match="the last of 3 attempts"):
        ask(
            read(tmp_path, twilio.settings(tmp_path, account)),
            sinks,
            limits=Limits(total_s=3.0, attempts=100),
            clock=time.clock,
        )
    assert sum(time.slept) <= 3.0


def test_an_answer_without_end_is_not_read_to_its_end(twilio, tmp_path):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=200, body=b'"' + b"x" * 100_000 + b'"')

    with pytest.raises(TwilioUnavailable, match="larger than 50000 bytes"):
        ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks, limits=Limits(answer_bytes_max=50_000))


# --- Too many requests


def test_what_every_attempt_came_to_is_told_and_counted(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=503)
    twilio.fail("/v1/Sinks", status=429)
    registry = CollectorRegistry()

    ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks, clock=time.clock, told=TwilioMetrics(registry).asked)

    codes = {
        code: registry.get_sample_value(REQUESTS, {"api": "events", "code": code}) for code in ("503", "429", "200")
    }
    assert codes == {"503": 1, "429": 1, "200": 1}
    assert registry.get_sample_value("recording_monitor_twilio_request_duration_seconds_count", {"api": "events"}) == 3


def test_that_nobody_answered_is_told_too(tmp_path, twilio):
    account = twilio.account()
    settings = twilio.settings(tmp_path, account)
    twilio.fail("/v1/Sinks", hang=True)
    told: list[tuple[str, str]] = []

    with pytest.raises(TwilioUnavailable):
        ask(
            read(tmp_path, settings),
            sinks,
            limits=Limits(total_s=0.5, attempt_s=0.3, attempts=1),
            told=lambda api, code, _: told.append((api, code)),
        )

    assert told == [("events", "timeout")]


def test_after_429_an_account_waits_as_long_as_it_is_asked_to_and_then_asks_once_a_second(twilio, tmp_path, time):
    account, other = twilio.account(1), twilio.account(2)
    twilio.fail("/v1/Sinks", status=429, headers={"Retry-After": "7"})
    arrived: list[float] = []

    async def several(accounts: list[TwilioAccount]) -> None:
        for _ in range(3):
            await sinks(accounts[:1])
            arrived.append(time.now)
        await sinks(accounts[1:])
        arrived.append(time.now)

    ask(read(tmp_path, twilio.settings(tmp_path, account, other)), several, clock=time.clock)

    # The other account was told nothing, and does not wait.
    assert [at - 1_000.0 for at in arrived] == [7.0, 8.0, 9.0, 9.0]


def test_the_pace_of_an_account_is_that_of_all_who_ask_for_it(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=429, headers={"Retry-After": "2"})

    async def at_once() -> None:
        settings = read(tmp_path, twilio.settings(tmp_path, account))
        async with Twilio(settings, limits=QUICK, clock=time.clock) as asked:
            await sinks(await asked.accounts())
            # Others who find the account by themselves have the same pace.
            await asyncio.gather(*[sinks(await asked.accounts()) for _ in range(3)])

    asyncio.run(at_once())

    assert time.now - 1_000.0 >= 2.0 + 3.0


def test_what_changes_something_is_asked_again_after_429_for_it_was_not_done(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", method="POST", status=429, headers={"Retry-After": "Wed, 25 Nov 2015 07:28:00 GMT"})

    assert ask(read(tmp_path, twilio.settings(tmp_path, account)), create, clock=time.clock).status == "initialized"
    assert time.slept == [1.0]


def test_a_wait_longer_than_we_have_is_not_begun(twilio, tmp_path, time):
    account = twilio.account()
    twilio.fail("/v1/Sinks", status=429, headers={"Retry-After": "3600"})

    with pytest.raises(TwilioUnavailable, match=r"too many requests \(429\), and it wants none for longer"):
        ask(read(tmp_path, twilio.settings(tmp_path, account)), sinks, clock=time.clock)

    assert time.slept == []


# --- The stand-in is held against Twilio's own documents


@pytest.mark.parametrize(
    ("method", "path", "query", "form", "says"),
    [
        ("GET", "/v1/Sinks", {"PageSize": ["5"]}, {}, None),
        ("GET", "/v1/Sink", {}, {}, "events has no GET /v1/Sink"),
        ("GET", "/v1/Sinks", {"PageSize": ["5000"]}, {}, "query: PageSize is 5000, which is out of range"),
        ("GET", "/v1/Sinks", {"PageSize": ["many"]}, {}, "query: PageSize is 'many', which is no integer"),
        ("GET", "/v1/Sinks", {"Color": ["red"]}, {}, "query: Color is nothing that is known there"),
        ("GET", "/v1/Sinks/DG12", {}, {}, "path: Sid is 'DG12', which does not match ^DG[0-9a-fA-F]{32}$"),
        ("POST", "/v1/Sinks", {}, {"SinkType": ["kafka"]}, "form: SinkType is 'kafka', which is none of"),
        ("POST", "/v1/Sinks", {}, {}, "form: Description is missing"),
    ],
)
def test_a_request_that_twilio_would_not_take_is_found(contract: Contract, method, path, query, form, says):
    found = contract.check_request("events", method, path, query, form)

    assert found == [] if says is None else any(says in line for line in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"status": "asleep"}, "answer.status is 'asleep', which is none of"),
        ({"sid": 7}, "answer.sid is 7, which is no string"),
        ({"date_created": "yesterday"}, "answer.date_created is 'yesterday', which is no date-time"),
        ({"colour": "red"}, "answer.colour is nothing that is known there"),
        ({"status": None}, "answer.status is null"),
    ],
)
def test_an_answer_that_twilio_would_not_give_is_found(contract: Contract, change, says):
    server = TwilioServer()
    with server:
        sink = new_sink(server, server.account(), SINK)
    found = contract.check_answer("events", "GET", f"/v1/Sinks/{sink['sid']}", 200, {**sink, **change})

    assert found == [] if says is None else any(says in line for line in found)


def test_the_stand_in_fails_a_test_that_asked_it_for_what_twilio_does_not_have(contract: Contract, tmp_path):
    server = TwilioServer()

    async def colours(accounts: list[TwilioAccount]) -> None:
        await accounts[0].client.request_async("GET", "https://events.twilio.com/v1/Colours")

    with pytest.raises(AssertionError, match="events has no GET /v1/Colours"), server, pytest.raises(NotThere):
        ask(read(tmp_path, server.settings(tmp_path, server.account())), colours)
