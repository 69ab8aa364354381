"""The pages of whole monitors on a real broker: what one process is told, every other shows; events come from Kafka."""

from __future__ import annotations

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

pytestmark = pytest.mark.broker

PACE = {"fresh_ms": 5_000, "probe_ms": 500}


def start(site: Site, **web: Any) -> Monitor:
    return site.start_quick(
        window=timedelta(minutes=10),
        tick_every=timedelta(seconds=1),
        pace=PACE,
        web={"listen": "127.0.0.1:0", "actions": True, **web},
    )


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
        status, page = monitor.get(f"{path}/events")
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
