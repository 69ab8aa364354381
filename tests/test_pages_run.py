"""The pages of whole monitors on a real broker: what one process is told, every other shows; events come from Kafka."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.request
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.broker import RealBroker
from tests.member import recording_event, recording_sid
from tests.monitors import WAIT_S, Monitor, Site, until
from tests.verify import read_topic

pytestmark = pytest.mark.broker

PACE = {"fresh_ms": 5_000, "probe_ms": 500}


def start(site: Site, **web: Any) -> Monitor:
    return site.start_quick(
        window=timedelta(minutes=10),
        tick_every=timedelta(seconds=1),
        pace=PACE,
        web={"listen": "127.0.0.1:0", "actions": True, **web},
    )


def settled(site: Site) -> Monitor:
    """A monitor in which everything is over, and final, after seconds."""
    return site.start_quick(window=timedelta(seconds=3), tick_every=timedelta(milliseconds=500), pace=PACE, grace="1s")


def case(monitor: Monitor, number: int) -> dict[str, Any] | None:
    status, text = monitor.get(f"/api/v1/cases/{recording_sid(number)}")
    return json.loads(text) if status == 200 else None


def act(monitor: Monitor, number: int, **given: str) -> int:
    request = urllib.request.Request(
        f"{monitor.address}/api/v1/cases/{recording_sid(number)}/actions",
        json.dumps(given).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return int(answer.status)


def kinds(monitor: Monitor, number: int) -> list[str]:
    found = case(monitor, number)
    return [] if found is None else [line["what"] for line in found["timeline"]]


def test_what_is_done_in_one_process_every_other_shows_and_one_that_starts_later_too(
    broker: RealBroker, tmp_path: Path
):
    site = Site(broker, tmp_path / "site", partitions=2)
    with start(site) as first, start(site) as second:
        for monitor in (first, second):
            monitor.ready()
        site.send([recording_event(1)])
        site.send([recording_event(2)], partition=1)
        # Whoever judged it: both show it.
        until(lambda: all(case(monitor, number) for monitor in (first, second) for number in (1, 2)), why=first.tail)
        assert act(first, 1, kind="explain", category="testing", text="Our own call.") == 201
        assert kinds(first, 1)[-1] == "explain"
        until(lambda: "explain" in kinds(second, 1), why=second.tail)
        assert act(second, 1, kind="close") == 201
        until(lambda: case(first, 1)["open"] is False, why=first.tail)  # type: ignore[index]
        assert case(second, 2)["open"] is True  # type: ignore[index]
    with start(site) as third:
        until(lambda: kinds(third, 1)[-2:] == ["explain", "close"], why=third.tail)
        assert case(third, 1)["handled"] == "testing"  # type: ignore[index]


def test_a_case_shows_the_events_that_lie_in_kafka_and_packs_them(broker: RealBroker, tmp_path: Path):
    site = Site(broker, tmp_path / "site", partitions=1)
    site.send([recording_event(number) for number in range(10, 60)])
    event = json.loads(recording_event(1))
    event["data"]["request"]["parameters"]["From"] = "+14155550100"
    site.send([json.dumps(event).encode(), recording_event(1, status="completed")])
    with start(site) as monitor:
        until(lambda: case(monitor.ready(), 1), why=monitor.tail)
        path = f"/cases/{recording_sid(1)}"

        status, page = 0, ""

        def is_whole() -> bool:
            nonlocal status, page
            status, page = monitor.get(f"{path}/events")
            return page.count("<article>") == 2

        until(is_whole, why=lambda: page)  # A page waits for Kafka for a moment alone.
        assert status == 200
        assert (page.count("<article>"), "VW:1:completed" in page, "VW:10:" in page) == (2, True, False)
        assert "masked-" in page
        assert "4155550100" not in page
        assert "recording RE" in monitor.get(f"{path}/timeline.svg")[1]
        with urllib.request.urlopen(f"{monitor.address}{path}/bundle.zip", timeout=WAIT_S) as answer:
            packed = zipfile.ZipFile(io.BytesIO(answer.read()))
        lines = packed.read(f"{recording_sid(1)}/events.jsonl").splitlines()
        assert [json.loads(line)["value"]["id"] for line in lines] == ["VW:1:in-progress", "VW:1:completed"]
        assert b"4155550100" not in b"".join(packed.read(name) for name in packed.namelist())


def test_the_command_line_says_and_shows_the_same(broker: RealBroker, tmp_path: Path):
    site = Site(broker, tmp_path / "site", partitions=1)
    event = json.loads(recording_event(1))
    event["data"]["request"]["parameters"]["From"] = "+14155550100"
    site.send([json.dumps(event).encode(), recording_event(2)])
    re1, re2, nobody = recording_sid(1), recording_sid(2), recording_sid(9)

    def run(*arguments: str, code: int = 0) -> str:
        done = site.run(*arguments)
        assert done.returncode == code, done.stderr
        return done.stdout.decode()

    with start(site) as monitor:
        until(lambda: case(monitor.ready(), 2), why=monitor.tail)
        # All of them or none.
        run("case", "close", re1, nobody, code=1)
        explained = ("case", "explain", re1, "--as", "accepted", "--until", "2099-12-31", "--by", "lovelace")
        assert run(*explained) == f"{re1}: explain\n"
        until(lambda: case(monitor, 1)["handled"] == "accepted", why=monitor.tail)  # type: ignore[index]
        assert kinds(monitor, 1).count("close") == 0
        run("case", "explain", re1, "--as", "boredom", code=2)
        run("case", "close", re2)
        until(lambda: case(monitor, 2)["open"] is False, why=monitor.tail)  # type: ignore[index]
    assert [json.loads(line)["key"] for line in run("case", "list", "--format", "json").splitlines()] == [re1]
    assert "explain by lovelace: accepted: until 2099-12-31" in run("case", "show", re1)
    assert run("bundle", re1, re2, "--out", "all.zip").startswith("all.zip: 2 cases, 2 messages")
    run("bundle", re1, nobody, "--out", "none.zip", code=1)
    assert not (site.directory / "none.zip").exists()
    run("bundle", re1, "--unmasked", "--out", "open.zip")
    texts = []
    for name in ("all.zip", "open.zip"):
        packed = zipfile.ZipFile(site.directory / name)
        for line in packed.read("manifest.sha256").decode().splitlines():
            digest, _, of = line.partition("  ")
            assert hashlib.sha256(packed.read(of)).hexdigest() == digest, of
        texts.append(b"".join(packed.read(of) for of in packed.namelist()))
    assert [b"+14155550100" in text for text in texts] == [False, True]
    assert b"lovelace" not in texts[0]


def test_what_is_forgotten_is_gone_from_every_topic_and_stays_so(broker: RealBroker, tmp_path: Path):
    site = Site(broker, tmp_path / "site", partitions=2)
    site.send([recording_event(1, status="completed"), recording_event(2, status="completed")], partition=1)
    re1, re2 = recording_sid(1), recording_sid(2)
    with settled(site) as monitor:
        until(lambda: all(told["final"] for told in site.verdicts().values()) and len(site.verdicts()) == 2)
        assert site.run("case", "comment", re1, "--text", "Ask somebody about it.").returncode == 0
        until(lambda: "comment" in kinds(monitor, 1), why=monitor.tail)
        # Said before it is done, and all of them or none.
        assert site.run("forget", re1).stdout == b"1 verdicts and 1 actions would be forgotten\n"
        assert site.run("forget", re1, recording_sid(9), "--yes").returncode == 1
        assert case(monitor, 1) is not None
        done = site.run("forget", re1, "--yes")
        assert (done.returncode, done.stdout) == (0, b"1 verdicts and 1 actions forgotten\n"), done.stderr
        until(lambda: case(monitor, 1) is None, why=monitor.tail)
    assert set(site.verdicts()) == {re2}
    left = read_topic(site.bootstrap, site.settings["topics"]["case_actions"])
    assert left[-1].value is None
    # A process that takes over, and one that reads all anew, know nothing of it.
    with settled(site) as monitor:
        until(lambda: case(monitor.ready(), 2), why=monitor.tail)
        assert case(monitor, 1) is None
    assert set(site.verdicts()) == {re2}


def test_what_is_not_final_is_not_forgotten(broker: RealBroker, tmp_path: Path):
    site = Site(broker, tmp_path / "site", partitions=1)
    site.send([recording_event(1)])
    with start(site) as monitor:
        until(lambda: case(monitor.ready(), 1), why=monitor.tail)
    refused = site.run("forget", recording_sid(1), "--yes")
    assert (refused.returncode, b"is not final yet" in refused.stderr) == (1, True)
    assert set(site.verdicts()) == {recording_sid(1)}
