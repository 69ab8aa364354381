"""A conversation that never ends: an agent's leg stays up for days and enters conference after conference."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import msgspec

from monitor.simulator.truth import RecordingTruth
from tests.torture.judge import Commit
from tests.torture.stage import Entry

_HOUR_MS: Final = 3_600_000
_VOICE: Final = "com.twilio.voice.status-callback."
# Behind this share of the log no rebuild may begin once the conversation was cut, two hours before the end.
_FLOOR_LEAST: Final = 0.5


class NailedUp:
    """One call that enters a new conference every ``every_s`` for ``hours``, and is recorded by request every hour.

    Each of its events chains all before it into the same conversation. What it can still be said to have been started
    by is *undetermined* once the conversation's evidence is beyond its bound, or *allowed*, which is the truth.
    """

    def __init__(self, seed: int, *, hours: int, every_s: int) -> None:
        chance = Random(f"nailed:{seed}")
        self.account = f"AC{chance.getrandbits(128):032x}"
        self._call = f"CA{chance.getrandbits(128):032x}"
        self._hours = hours
        self._every_ms = every_s * 1000
        self._rooms = [f"CF{chance.getrandbits(128):032x}" for _ in range(hours * 3600 // every_s)]
        self._recordings = {hour: f"RE{chance.getrandbits(128):032x}" for hour in range(1, hours)}
        self.truth = [
            RecordingTruth(
                kind="recording",
                recording_sid=recording,
                account_sid=self.account,
                start_source="StartCallRecordingAPI",
                cause="api_call_recording",
                outcome="allowed",
                call_sid=self._call,
                conference_sid=None,
                started_at="",
                status="completed",
                scene="nailed_up",
            )
            for recording in self._recordings.values()
        ]

    @property
    def recordings(self) -> frozenset[str]:
        """The keys of its verdicts."""
        return frozenset(self._recordings.values())

    def entries(self, start_ms: int) -> list[Entry]:
        """All of its messages, each stamped with the instant at which it happens."""
        made = []
        for number, room in enumerate(self._rooms):
            at_ms = start_ms + number * self._every_ms
            for event, after_ms in (("participant-join", 0), ("participant-leave", self._every_ms - 1_000)):
                made.append(
                    self._entry(
                        "conference.participant.updated",
                        at_ms + after_ms,
                        StatusCallbackEvent=event,
                        ConferenceSid=room,
                        CallSid=self._call,
                    )
                )
        for hour, recording in self._recordings.items():
            at_ms = start_ms + hour * _HOUR_MS + 500
            made.append(
                self._entry(
                    "recording.processed",
                    at_ms,
                    RecordingSid=recording,
                    RecordingStatus="completed",
                    RecordingSource="StartCallRecordingAPI",
                    CallSid=self._call,
                    RecordingDuration="9",
                    RecordingStartTime=_instant(at_ms - 10_000),
                )
            )
        return sorted(made, key=lambda entry: entry.stamp_ms or 0)

    def _entry(self, kind: str, at_ms: int, **parameters: str) -> Entry:
        data: dict[str, Any] = {
            "timestamp": _instant(at_ms),
            "request": {"url": "https://voice.example.com/c", "parameters": {"AccountSid": self.account, **parameters}},
        }
        event = {
            "specversion": "1.0",
            "type": _VOICE + kind,
            "id": f"{kind}:{at_ms}",
            "source": f"/2010-04-01/Accounts/{self.account}",
            "time": _instant(at_ms),
            "data": data,
        }
        return Entry(self.account, msgspec.json.encode(event), stamp_ms=at_ms)

    def unbounded(self, commits: list[Commit]) -> list[str]:
        """What is wrong with the last commit of its partition (the longest one): where its rebuild would begin."""
        last = max(commits, key=lambda commit: commit.offset)
        floor = msgspec.json.decode(last.metadata)["r"]
        if floor < _FLOOR_LEAST * last.offset:
            return [f"after {self._hours} h, a rebuild of {last.offset} messages would still begin at {floor}"]
        return []


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
