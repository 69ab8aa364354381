"""Reconciliation: whole monitors on a real broker, and Twilio as a server that knows every recording."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.inputs.owned_accounts import partition_of_key
from monitor.simulator.traffic import Knobs, traffic, truth
from monitor.simulator.truth import RecordingTruth
from tests.broker import RealBroker
from tests.monitors import Monitor, Site, until
from tests.rig import Entry, fill
from tests.twilio_recordings import put_recording
from tests.twilio_server import Account, TwilioServer
from tests.verify import read_topic

pytestmark = pytest.mark.broker
HOUR_MS = 3_600_000
JUST_NOW = timedelta(seconds=5)


class Day:
    """A simulated day: what happened, all of it known to Twilio's REST API, and what of it reached the stream.

    A tenth of the recordings the stream never mentions; of all other events it loses ``loss``.
    """

    def __init__(self, server: TwilioServer, *, calls: int, loss: float = 0.0, seed: int = 1) -> None:
        # Callbacks and public integrations have shown these; and there may be sources that nobody has seen.
        server.undocumented |= {"StartCallRecordingTwiML", "StartRoomRecordingAPI", "failed"}
        begin_ms = time.time_ns() // 1_000_000 - 23 * HOUR_MS
        self._knobs = Knobs(seed=seed, calls=calls, start_ms=begin_ms, rate=calls * 40 / (22 * 3600.0), loss=loss)
        self.recordings = {
            line.recording_sid: line
            for line in truth(self._knobs)
            if isinstance(line, RecordingTruth) and line.recording_sid is not None
        }
        self.unmentioned = {sid for sid in self.recordings if int(sid[-4:], 16) % 10 == 0}
        for sid in {line.account_sid for line in self.recordings.values()}:
            server.accounts[sid] = Account(sid, "token-of-" + sid[-4:], None, "active")
        for sid, line in self.recordings.items():
            put_recording(
                server,
                line.account_sid,
                sid,
                datetime.fromisoformat(line.started_at),
                source=line.start_source or "Conference",
                status=line.status or "completed",
                call_sid=line.call_sid if line.start_source != "Conference" else None,
                conference_sid=line.conference_sid if line.start_source == "Conference" else None,
            )
        self.accounts = [server.accounts[sid] for sid in sorted(server.accounts)]

    def stream(self) -> Iterator[Entry]:
        unmentioned = [sid.encode() for sid in self.unmentioned]
        for due_ms, account, value in traffic(self._knobs):
            if not any(sid in value for sid in unmentioned):
                yield Entry(due_ms, account, value)


def site_with(twilio: TwilioServer, broker: RealBroker, directory: Path, *accounts: Account, **reconcile: Any) -> Site:
    directory.mkdir(exist_ok=True)
    settings = twilio.settings(directory, *accounts)
    return Site(broker, directory, grace="1s", reconcile={"every": "2s", "overlap": "1m", **reconcile}, **settings)


def covered(monitor: Monitor) -> list[dict[str, Any]]:
    """What it says of how much of each account the stream told of."""
    accounts: list[dict[str, Any]] = msgspec.json.decode(monitor.get("/api/v1/coverage")[1])["accounts"]
    return accounts


@pytest.mark.parametrize("loss", [0.0, 0.001, 0.05])
def test_every_recording_of_a_day_is_judged_once_whatever_the_stream_lost(broker, twilio, tmp_path, loss):
    day = Day(twilio, calls=150, loss=loss, seed=7)
    site = site_with(twilio, broker, tmp_path / "site", *day.accounts)
    fill(site.bootstrap, site.events, day.stream())
    assert day.unmentioned
    with site.start() as monitor:
        monitor.ready()
        until(lambda: day.recordings.keys() <= site.verdicts().keys())
        until(monitor.caught_up)
        until(lambda: all(one["said_at"] for one in covered(monitor)))
        assert {one["account_sid"] for one in covered(monitor)} == {account.sid for account in day.accounts}
    verdicts = site.verdicts()
    for sid in day.unmentioned:
        assert verdicts[sid]["found_by"] == "listing"
    assert site.verified().faults == []
    wrong = []
    for sid, line in day.recordings.items():
        if "cause" in line.untold:
            continue
        cause, outcome = line.cause, line.outcome
        if sid in day.unmentioned and line.without_starters is not None:
            cause, outcome = line.without_starters[1], line.without_starters[0]
        if (verdicts[sid]["cause"], verdicts[sid]["outcome"]) != (cause, outcome):
            wrong.append((sid, verdicts[sid]["cause"], line))
    assert wrong == []


# --- What goes wrong at Twilio's


class Shop:
    """One account, a monitor's site, and recordings that no event tells of."""

    def __init__(self, broker: RealBroker, twilio: TwilioServer, directory: Path, **reconcile: Any) -> None:
        self.twilio = twilio
        self.account = twilio.account()
        self.site = site_with(twilio, broker, directory, self.account, **reconcile)
        self.number = 0

    def record(self, count: int = 1, *, ago: timedelta = JUST_NOW, **more: Any) -> list[str]:
        """Let recordings begin that leave no event; the SIDs."""
        made = []
        for _ in range(count):
            self.number += 1
            sid = f"RE{self.number:032x}"
            given = {"call_sid": f"CA{self.number:032x}", **more}
            put_recording(self.twilio, self.account.sid, sid, datetime.now(UTC) - ago, **given)
            made.append(sid)
        return made

    def judged(self) -> set[str]:
        return set(self.site.verdicts())

    def listings(self) -> list[str]:
        """How recordings were asked for."""
        return [path for path in self.twilio.paths("GET") if path.endswith("/Recordings.json")]

    def written(self) -> list[str]:
        """The ids of our own events about recordings, as often as they were written."""
        return [
            event["id"]
            for message in read_topic(self.site.bootstrap, self.site.events)
            if message.value is not None
            and (event := msgspec.json.decode(message.value))["type"] == "dev.recording-monitor.recording.listed"
        ]


@pytest.fixture
def shop(broker: RealBroker, twilio: TwilioServer, tmp_path: Path) -> Shop:
    return Shop(broker, twilio, tmp_path / "site")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"cut": True},
        {"status": 401, "body": b'{"code": 20003, "message": "Authenticate", "more_info": "", "status": 401}'},
    ],
    ids=["500", "429", "cut", "401"],
)
def test_what_began_while_twilio_could_not_be_asked_is_judged_when_it_can(shop, fault):
    with shop.site.start() as monitor:
        monitor.ready()
        first = shop.record()
        until(lambda: shop.judged() >= set(first), why=monitor.tail)
        until(lambda: monitor.metrics()("coverage_known", account="a0") == 1)
        shop.twilio.fail("/2010-04-01/.*", times=None, **fault)
        shop.record(3)
        until(lambda: monitor.metrics()("coverage_known", account="a0") == 0, why=monitor.tail)
        assert math.isnan(monitor.metrics()("coverage_ratio", account="a0"))
        shop.twilio.faults.clear()
        until(lambda: len(shop.judged()) == 4, why=monitor.tail)
        until(lambda: monitor.metrics()("coverage_known", account="a0") == 1)
        assert monitor.stop() == 0
    assert len(shop.written()) == 4


def test_nothing_is_judged_twice_and_a_week_later_nothing_changes(shop):
    shop.record(5, ago=timedelta(minutes=3))
    shop.record(2, ago=timedelta(days=6), status="absent")
    with shop.site.start(reconcile={"every": "1s", "overlap": "1m", "backfill": "7d"}) as monitor:
        monitor.ready()
        until(lambda: len(shop.judged()) == 7, why=monitor.tail)
        asked = len(shop.listings())
        until(lambda: len(shop.listings()) > asked + 3)
        assert monitor.stop() == 0
    written, verdicts = shop.written(), shop.site.written()
    assert len(written) == len(set(written)) == 7
    # The position is lost, as if everything were listed for the first time: a week again, and nothing to say.
    forgotten = f"{shop.account.sid}/listing/recordings".encode()
    shop.site.send([None], topic=shop.site.settings_topic, key=forgotten)
    asked = len(shop.listings())
    with shop.site.start(reconcile={"every": "1s", "overlap": "1m", "backfill": "7d"}) as monitor:
        monitor.ready()
        until(lambda: len(shop.listings()) > asked + 3)
        assert monitor.stop() == 0
    assert shop.written() == written
    assert [message.value for message in shop.site.written()] == [message.value for message in verdicts]


def test_a_listing_that_moves_while_it_is_read_leaves_nothing_out(shop):
    shop.twilio.page_max = 3
    # Two minutes apart, the overlap being one: what is left out once will not be listed again.
    made = [sid for minutes in range(60, 20, -2) for sid in shop.record(ago=timedelta(minutes=minutes))]
    newest = iter(made[:-4:-1])

    def move() -> None:
        # What was read on the first page is gone, metadata and all, so that what follows moves up by one.
        shop.twilio.things(shop.account.sid, "recordings").pop(next(newest, None), None)

    shop.twilio.between = move
    with shop.site.start() as monitor:
        monitor.ready()
        until(lambda: shop.judged() >= shop.twilio.things(shop.account.sid, "recordings").keys(), why=monitor.tail)


@pytest.mark.parametrize("off", [timedelta(hours=-3), timedelta(hours=3)], ids=["behind", "ahead"])
def test_it_does_not_matter_what_time_twilio_thinks_it_is(shop, off):
    with shop.site.start() as monitor:
        monitor.ready()
        first = shop.record(ago=-off)
        until(lambda: shop.judged() >= set(first), why=monitor.tail)
        then = shop.record(2, ago=-off - timedelta(seconds=2))
        until(lambda: shop.judged() >= set(then), why=monitor.tail)


# --- Whose work it is


def test_an_account_is_listed_by_one_process_and_by_the_other_when_that_dies(shop):
    with shop.site.start() as one, shop.site.start() as other:
        one.ready(2)
        other.ready(2)
        first = shop.record()
        until(lambda: shop.judged() >= set(first), why=one.tail)
        until(lambda: len(one.said("account_taken")) + len(other.said("account_taken")) >= 1)
        owner, heir = (one, other) if holds_account(one) else (other, one)
        assert not holds_account(heir)
        owner.kill()
        then = shop.record(2)
        until(lambda: shop.judged() >= set(then), why=heir.tail)
        assert holds_account(heir)
    written = shop.written()
    assert len(written) == len(set(written)) == 3


def longer(shop: Shop, before: int) -> bool:
    return len(shop.written()) > before


def holds_account(monitor: Monitor) -> bool:
    """Whether a process lists the account."""
    return len(monitor.said("account_taken")) > len(monitor.said("account_given_up"))


def test_a_kill_between_listing_and_judging_loses_nothing(shop):
    shop.record(200)
    for _ in range(3):
        before = len(shop.written())
        with shop.site.start() as monitor:
            # Killed as soon as something was written, whatever became of it.
            until(partial(longer, shop, before), why=monitor.tail)
            monitor.kill()
        shop.record(40)
    with shop.site.start() as monitor:
        monitor.ready()
        until(lambda: len(shop.judged()) == shop.number, why=monitor.tail)
    assert shop.site.verified().faults == []


# --- What is only suspected


def test_a_suspicion_is_withdrawn_by_the_recording_that_a_listing_finds(shop):
    conference = f"CF{5:032x}"
    began, ended = (datetime.now(UTC) - timedelta(minutes=minutes) for minutes in (10, 5))
    summary = {
        "specversion": "1.0",
        "type": "com.twilio.voice.insights.conference-summary.complete",
        "source": "insights",
        "id": "EZ1",
        "time": ended.isoformat(),
        "data": {
            "account_sid": shop.account.sid,
            "conference_sid": conference,
            "friendly_name": "room",
            "recording_enabled": True,
            "start_time": began.isoformat(),
            "end_time": ended.isoformat(),
        },
    }
    with shop.site.start() as monitor:
        monitor.ready()
        shop.site.send([msgspec.json.encode(summary)], key=shop.account.sid, partition=home(shop))
        until(lambda: shop.judged() == {conference}, why=monitor.tail)
        suspicion = shop.site.verdicts()[conference]
        assert (suspicion["kind"], suspicion["severity"], suspicion["recording_sid"]) == ("suspicion", "warning", None)
        until(lambda: monitor.metrics()("open_cases", severity="warning") == 1)
        [found] = shop.record(source="Conference", conference_sid=conference, call_sid=None)
        until(lambda: shop.judged() == {found}, why=monitor.tail)
        until(lambda: monitor.metrics()("open_cases", severity="warning") == 0)


def home(shop: Shop) -> int:
    """Where events of the account go."""
    return partition_of_key(shop.account.sid, shop.site.partitions)
