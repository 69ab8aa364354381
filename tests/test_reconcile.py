"""``reconcile``: what it says of a list of Twilio's beside what is on the verdict topic, and what it writes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor.inputs.told import Told
from tests.broker import RealBroker
from tests.monitors import Site, until
from tests.reconcile_load import reconcile
from tests.test_listing import Shop
from tests.twilio_server import TwilioServer

BROKER = pytest.mark.broker


@pytest.fixture
def shop(broker: RealBroker, twilio: TwilioServer, tmp_path: Path) -> Shop:
    return Shop(broker, twilio, tmp_path / "site", enabled=False)


def reconciled(site: Site, *arguments: str) -> tuple[int, Any]:
    done = site.run("reconcile", "--format", "json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def stream_event(shop: Shop, sid: str) -> bytes:
    there = shop.twilio.things(shop.account.sid, "recordings")[sid]
    parameters = {
        "AccountSid": shop.account.sid,
        "RecordingSid": sid,
        "CallSid": there["call_sid"],
        "RecordingStatus": "completed",
        "RecordingSource": there["source"],
        "RecordingStartTime": there["start_time"],
        "RecordingDuration": there["duration"],
    }
    return json.dumps(
        {
            "specversion": "1.0",
            "type": "com.twilio.voice.status-callback.recording.processed",
            "source": "twilio",
            "id": f"VW{sid[2:]}",
            "time": datetime.now(UTC).isoformat(),
            "data": {"sid": sid, "request": {"method": "POST", "url": "", "parameters": parameters}},
        }
    ).encode()


@BROKER
def test_it_says_what_the_stream_missed_by_hour_and_source_and_has_it_judged(shop):
    told = shop.record(3, ago=timedelta(hours=2))
    missed = shop.record(2, ago=timedelta(hours=2), source="Trunking")
    fresh = shop.record()
    old = shop.record(ago=timedelta(days=8))
    shop.site.send([stream_event(shop, sid) for sid in told], partition=1)  # Which is not where its key leads.
    with shop.site.start() as monitor:
        monitor.ready()
        until(lambda: shop.judged() == set(told))

        code, dry = reconciled(shop.site, "--since", "9d", "--dry-run")
        assert (code, shop.judged()) == (1, set(told))
        code, said = reconciled(shop.site, "--since", "9d")
        until(lambda: shop.judged() == {*told, *missed, *fresh}, why=monitor.tail)
        [account] = said["accounts"]
        assert account == {
            "account": "a0",
            "account_sid": shop.account.sid,
            "listed": 7,
            "seen": 3,
            "missed": 2,
            "found_before": 0,
            "written": 3,
            "fresh": 1,
            "old": 1,
        }
        assert dry == {**said, "since": dry["since"], "until": dry["until"], "accounts": [{**account, "written": 0}]}
        assert said["coverage"] == 3 / 5
        [gap] = said["gaps"]
        assert (gap["start_source"], gap["missed"], set(gap["recordings"])) == ("Trunking", 2, set(missed))
        assert {shop.site.verdicts()[sid]["found_by"] for sid in missed} == {"listing"}

        code, again = reconciled(shop.site, "--since", "9d")
        assert (code, again["accounts"][0]["missed"], again["accounts"][0]["found_before"]) == (1, 2, 2)
        assert again["accounts"][0]["written"] == 0
        code, _ = reconciled(shop.site, "--since", "3h", "--until", "2h30m")
        assert code == 0

        code, _ = reconciled(shop.site, "--since", "9d", "--judge-old")
        until(lambda: shop.judged() == {*told, *missed, *fresh, *old}, why=monitor.tail)
    # A report that asks Twilio says the same; of what is judged by now, nothing is called old.
    done = shop.site.run("report", "--since", "9d", "--ask-twilio", "--no-events", "--format", "json")
    [coverage] = json.loads(done.stdout)["coverage"]
    assert coverage["listed"] == {"listed": 7, "seen": 3, "missed": 3, "fresh": 1, "old": 0}
    assert (coverage["account"], coverage["ratio"], coverage["found_by_listing"]) == ("a0", 3 / 6, 4)
    assert {message.partition for message in shop.site.written()} == {1}


@BROKER
def test_a_table_names_the_gaps_and_the_coverage(shop):
    shop.record(2, ago=timedelta(hours=2))
    done = shop.site.run("reconcile", "--since", "1d", "--dry-run")
    assert done.returncode == 1
    assert b"DialVerb" in done.stdout
    assert b"coverage: 0.0000%" in done.stdout


@BROKER
@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ({"status": 500}, 3, b"it answered 500"),
        ({"status": 401, "body": b"{}"}, 2, b"auth_token_file"),
    ],
)
def test_it_says_why_twilio_could_not_be_asked(shop, fault: Mapping[str, Any], code: int, says: bytes):
    shop.twilio.fail("/.*", times=None, **fault)
    done = shop.site.run("reconcile", "--since", "1d")
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_a_recording_is_told_by_the_stream_if_anything_ever_said_so():
    told = Told()
    for number in range(10_000):
        told.add(f"RE{number:032x}", by_stream=number % 3 == 0)
        told.add(f"RE{number:032x}", by_stream=number % 5 == 0)

    assert len(told) == 10_000
    assert [told.by_stream(f"RE{number:032x}") for number in range(10_000)] == [
        number % 3 == 0 or number % 5 == 0 for number in range(10_000)
    ]
    assert {told.by_stream(f"RE{number:032x}") for number in range(10_000, 20_000)} == {None}


def test_what_is_known_of_a_recording_takes_a_few_bytes():
    tracemalloc.start()
    told = Told()
    for number in range(100_000):
        told.add(f"RE{number:032x}", by_stream=True)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000 * 24


@BROKER
def test_a_long_list_takes_little_more_memory_than_a_short_one(broker, tmp_path):
    short = reconcile(broker, tmp_path / "short", 1_000)
    long = reconcile(broker, tmp_path / "long", 30_000)

    assert long.report["accounts"][0]["missed"] == 30
    assert long.report["accounts"][0]["listed"] == 30_000
    assert long.peak_bytes < short.peak_bytes + (24 << 20)
