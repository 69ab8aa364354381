"""Enrichment: what Twilio is asked of a recording that is not allowed, how often, and what comes of it.

Time runs sixty times as fast for whatever asks Twilio: a quarter of an hour is fifteen seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import yaml

from monitor.commands.common import read_policy, read_settings
from monitor.commands.run import Running, start_monitor
from monitor.inputs.enrichment import WANTED_MAX, Enrichment, Wanted
from monitor.settings import load_settings
from monitor.twilio.accounts import Twilio, TwilioAccount
from monitor.twilio.transport import Clock, Limits
from tests.broker import RealBroker
from tests.monitors import until
from tests.test_listing import Shop
from tests.twilio_recordings import put_call_event, put_conference
from tests.twilio_server import TwilioServer

T = TypeVar("T")
WAIT_S = 60.0  # What a starved machine may need; costs time only where something is wrong.
FAST = 60.0
HURRIED = Clock(now=lambda: time.monotonic() * FAST, sleep=lambda seconds: asyncio.sleep(seconds / FAST))
CONFERENCE, CALL = f"CF{1:032x}", f"CA{77:032x}"
RECORDS = '<Response><Dial><Conference record="record-from-start">room</Conference></Dial></Response>'


@pytest.fixture
def shop(broker: RealBroker, twilio: TwilioServer, tmp_path: Path) -> Shop:
    shop = Shop(broker, twilio, tmp_path / "site", every="2m")
    shop.site.settings["twilio"]["timeout"] = "10m"
    return shop


@contextlib.contextmanager
def hurried(shop: Shop) -> Iterator[Running]:
    settings = read_settings(shop.site.config())
    running = start_monitor(settings, read_policy(settings), clock=HURRIED, tick_every_s=0.5)
    try:
        yield running
    finally:
        assert running.stop()


def asked(shop: Shop, part: str) -> int:
    """How often something was asked for whose address holds this."""
    return sum(part in path for path in shop.twilio.paths("GET"))


@pytest.mark.broker
def test_what_the_stream_did_not_say_is_asked_once_and_tells_the_cause(shop):
    started = datetime.now(UTC) - timedelta(minutes=2)
    put_conference(shop.twilio, shop.account.sid, CONFERENCE, "room", started - timedelta(seconds=2), calls=[CALL])
    put_call_event(shop.twilio, shop.account.sid, CALL, RECORDS, started - timedelta(seconds=3))
    [sid] = shop.record(ago=timedelta(minutes=2), source="Conference", conference_sid=CONFERENCE, call_sid=None)

    with hurried(shop):
        until(lambda: shop.site.verdicts().get(sid, {}).get("cause") == "unattributed")
        until(lambda: asked(shop, f"/Conferences/{CONFERENCE}/Participants") == 1)
        until(lambda: shop.site.verdicts()[sid]["cause"] == "conference_twiml")
    verdict = shop.site.verdicts()[sid]
    assert (verdict["strength"], verdict["found_by"], verdict["conference_sid"]) == ("observed", "listing", CONFERENCE)
    assert f"call-events:{CALL}:0" in [shown["event_id"] for shown in verdict["evidence"]]

    with hurried(shop):
        listed = len(shop.listings())
        until(lambda: len(shop.listings()) > listed + 2)
    assert asked(shop, f"/Conferences/{CONFERENCE}.json") == 1
    assert asked(shop, f"/Calls/{CALL}/Events") == 1


@pytest.mark.broker
def test_while_twilio_wants_none_for_ten_minutes_it_is_asked_no_more_than_once_a_second(shop):
    first = shop.record()
    with hurried(shop) as running:
        until(lambda: shop.judged() >= set(first))
        shop.twilio.fail("/2010-04-01/.*", times=None, status=429)
        began = time.monotonic()
        then = shop.record(3)
        # Ten minutes are ten seconds here; nobody asks whether anything is on time, only how often was asked by then.
        until(lambda: time.monotonic() - began > 600 / FAST)
        assert 0 < len(shop.twilio.failed) <= (time.monotonic() - began) * FAST
        shop.twilio.faults.clear()
        until(lambda: shop.judged() >= set(then))
        assert not running.ended.is_set()


@pytest.mark.broker
def test_an_account_that_may_not_read_conferences_has_its_recordings_judged_all_the_same(shop):
    shop.twilio.fail("/.*/Conferences/.*", times=None, status=403, body=b'{"code": 20403}')
    first = shop.record(2, source="Conference", conference_sid=CONFERENCE, call_sid=None)
    with hurried(shop):
        until(lambda: shop.judged() >= set(first))
        then = shop.record()
        until(lambda: shop.judged() >= set(then))


class Open:
    """Partitions whose conversations are all open, and into which nothing has come by asking."""

    def held(self, *_: object) -> Future[set[str]]:
        return _answered(set())

    def company(self, _partition: int, _account: str, member: str) -> Future[list[str]]:
        return _answered([member])


class Owned:
    """An account that is ours, and the ids of what was written about it."""

    partition = 0

    def __init__(self, account: TwilioAccount) -> None:
        self.account = account
        self.written: list[str] = []
        self._news = asyncio.Event()

    async def write_events(self, values: Sequence[bytes]) -> None:
        self.written += [msgspec.json.decode(value)["id"] for value in values]
        self._news.set()

    async def has_written(self, count: int) -> list[str]:
        """Wait until so many were written; a test that waits in vain fails here."""
        async with asyncio.timeout(WAIT_S):
            while len(self.written) < count:
                await self._news.wait()
                self._news.clear()
        return self.written


def _answered(answer: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(answer)
    return future


def test_a_recording_that_twilio_does_not_answer_about_holds_up_no_other_and_is_asked_about_again(twilio, tmp_path):
    account = twilio.account()
    first, *others = [f"CF{number:032x}" for number in range(1, 5)]
    for conference in (first, *others):
        put_conference(twilio, account.sid, conference, "room", datetime.now(UTC))
    twilio.fail(f"/.*/Conferences/{first}.json", hang=True, times=None)
    (tmp_path / "monitor.yaml").write_text(yaml.safe_dump(twilio.settings(tmp_path, account)))

    async def asked() -> None:
        impatient = Limits(total_s=6.0, attempt_s=2.0)
        async with Twilio(load_settings(tmp_path / "monitor.yaml", {}), limits=impatient) as connected:
            [found] = await connected.accounts()
            owned = Owned(found)
            clock = Clock(now=lambda: time.monotonic() * 600, sleep=lambda seconds: asyncio.sleep(seconds / 600))
            job = Enrichment(Open(), lambda _: None, clock)
            for number, conference in enumerate((first, *others)):
                job.take(found.sid, Wanted(f"RE{number:032x}", None, conference, "Conference", False, None))
            working = asyncio.create_task(job.work(owned))  # type: ignore[arg-type]  # It keeps what is written.
            try:
                told = [f"conference:{conference}" for conference in others]
                assert await owned.has_written(len(others)) == told
                assert twilio.failed  # It was asked about first.
                twilio.faults.clear()
                assert await owned.has_written(len(others) + 1) == [*told, f"conference:{first}"]
            finally:
                working.cancel()

    asyncio.run(asked())


def test_beyond_the_bound_the_oldest_is_let_go_and_counted():
    counted: list[str] = []

    class Silent:
        def held(self, *_: object) -> None: ...
        def company(self, *_: object) -> None: ...

    job = Enrichment(Silent(), counted.append, Clock())  # type: ignore[arg-type]  # Never asked here.
    for number in range(WANTED_MAX + 3):
        job.take(f"AC{1:032x}", Wanted(f"RE{number:032x}", None, None, None, True, None))

    assert counted == ["dropped"] * 3
