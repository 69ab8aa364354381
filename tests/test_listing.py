"""Reconciliation: whole monitors on a real broker, and Twilio as a server that knows every recording."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from monitor.simulator.traffic import Knobs, traffic, truth
from monitor.simulator.truth import RecordingTruth
from tests.broker import RealBroker
from tests.monitors import Site, until
from tests.rig import Entry, fill
from tests.twilio_recordings import put_recording
from tests.twilio_server import Account, TwilioServer

pytestmark = pytest.mark.broker
HOUR_MS = 3_600_000


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
