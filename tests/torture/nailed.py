"""Calls that stay up: an agent's leg that enters conference after conference all shift, and one that never leaves.

A ``Shift`` is a contact centre whose agents' legs are nailed up: nothing ends them, so what they connect would be one
conversation. An ``Endless`` is a call that stays in one conference for days: that is one conversation.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from monitor.simulator.truth import RecordingTruth
from tests.torture.judge import Commit
from tests.torture.stage import Entry

_HOUR_MS: Final = 3_600_000
_VOICE: Final = "com.twilio.voice."
# Behind this share of the log no rebuild may begin once the conversation was cut, two hours before the end.
_FLOOR_LEAST: Final = 0.5
_KINDS: Final = ("twiml", "api", "api_by_name", "flex", "leg", "leg", "none", "none")


class _Customer(NamedTuple):
    """A customer who was transferred: their call, the conference they wait in, and since when."""

    call: str
    conference: str
    name: str
    agent: int
    since_ms: int
    warm: bool


class Shift:
    """So many agents whose legs stay up for ``hours``, in a conference of five to ten minutes after the other.

    A share of the customers is transferred: the next agent joins them where they are, or they join the next agent's
    conference. What starts a recording: TwiML of the agent's leg, a participant request for it by the conference's SID
    or name, Flex, whose task names the agent's call, or a request for the agent's leg itself.
    """

    def __init__(self, seed: int, *, agents: int, hours: float, transferred: float = 0.05) -> None:
        self._chance = Random(f"shift:{seed}")
        self.account = self._sid("AC")
        self.truth: list[RecordingTruth] = []
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._legs = [self._sid("CA") for _ in range(agents)]
        self._waiting: list[_Customer] = []
        self._transferred = transferred
        self._numbered = 0
        end_ms = int(hours * _HOUR_MS)
        free = [(self._chance.randrange(600_000), agent) for agent in range(agents)]
        free.sort()
        for at_ms, agent in free:
            for status, after_ms in (("initiated", 0), ("answered", 4_000)):
                self._call(at_ms - 30_000 + after_ms, self._legs[agent], status, "outbound-api", f"+15550{agent:04}")
        while free:
            at_ms, agent = heappop(free)
            if at_ms >= end_ms:
                self._call(at_ms, self._legs[agent], "completed", "outbound-api", f"+15550{agent:04}")
                continue
            place = next((n for n, each in enumerate(self._waiting) if each.agent != agent), None)
            if place is not None:
                customer = self._waiting.pop(place)
                if customer.warm:
                    self._take_over(at_ms, agent, customer, free)
                else:
                    self._converse(at_ms, agent, customer.call, free)
            else:
                self._converse(at_ms, agent, None, free)

    def entries(self, start_ms: int, *, late_ms: int = 0) -> list[Entry]:
        """All of its messages, each stamped with the instant at which it happens, or up to ``late_ms`` later."""
        chance = Random(f"late:{late_ms}")
        made = [
            Entry(
                self.account,
                self._bytes(start_ms, at_ms, kind, data),
                stamp_ms=start_ms + at_ms + (chance.randrange(late_ms) if late_ms else 0),
            )
            for at_ms, kind, data in self._in_order()
        ]
        return sorted(made, key=lambda entry: entry.stamp_ms or 0)

    # ----------------------------------------------------------------- what happens

    def _converse(self, at_ms: int, agent: int, customer: str | None, free: list[tuple[int, int]]) -> None:
        """An agent's leg enters a conference of its own; the customer comes, and perhaps a recording begins."""
        chance, leg, conference = self._chance, self._legs[agent], self._sid("CF")
        kind = chance.choice(_KINDS)
        task = self._sid("WT")
        name = task if kind == "flex" else f"room-{conference[-6:]}"
        if customer is None:
            customer = self._sid("CA")
            self._call(at_ms - 20_000, customer, "initiated", "inbound", f"+1777{chance.randrange(10**6):06}")
        leave_ms = at_ms + chance.randrange(300_000, 600_000)
        if kind == "twiml":
            self._twiml(at_ms - 800, leg, name)
        elif kind in ("api", "api_by_name"):
            self._request(at_ms - 500, leg, conference if kind == "api" else None, name)
        elif kind == "flex":
            self._task(at_ms - 2_000, task, customer, leg, conference)
        self._participant(at_ms, leg, conference, name, "participant-join")
        self._participant(at_ms + 2_000, customer, conference, name, "participant-join")
        self._conference(at_ms + 2_000, conference, name, "conference-start")
        self._participant(at_ms + 90_000, customer, conference, name, "participant-hold")
        if kind == "leg":
            self._record(at_ms + 31_000, leave_ms, "StartCallRecordingAPI", "api_call_recording", conference, leg)
        elif kind != "none":
            cause = {"twiml": "conference_twiml", "flex": "flex_conference"}.get(kind, "conference_api")
            self._record(at_ms + 2_000, leave_ms, "Conference", cause, conference, None)
        if chance.random() < self._transferred:
            warm = chance.random() < 0.5
            if not warm:
                self._participant(leave_ms - 5_000, customer, conference, name, "participant-leave")
                self._end(leave_ms, leg, conference, name, agent, free)
            self._waiting.append(_Customer(customer, conference, name, agent, leave_ms, warm))
            if warm:
                heappush(free, (leave_ms + 40_000, agent))
                self._participant(leave_ms + 30_000, leg, conference, name, "participant-leave")
            return
        self._participant(leave_ms - 1_000, customer, conference, name, "participant-leave")
        self._end(leave_ms, leg, conference, name, agent, free)

    def _take_over(self, at_ms: int, agent: int, customer: _Customer, free: list[tuple[int, int]]) -> None:
        """Another agent's leg joins a customer where they are."""
        leg, conference, name = self._legs[agent], customer.conference, customer.name
        at_ms = max(at_ms, customer.since_ms + 20_000)
        leave_ms = at_ms + self._chance.randrange(300_000, 600_000)
        self._participant(at_ms, leg, conference, name, "participant-join")
        if self._chance.random() < 0.3:
            self._record(at_ms + 61_000, leave_ms, "StartCallRecordingAPI", "api_call_recording", conference, leg)
        self._participant(leave_ms - 1_000, customer.call, conference, name, "participant-leave")
        self._end(leave_ms, leg, conference, name, agent, free)

    def _end(self, at_ms: int, leg: str, conference: str, name: str, agent: int, free: list[tuple[int, int]]) -> None:
        self._participant(at_ms, leg, conference, name, "participant-leave")
        self._conference(at_ms + 200, conference, name, "conference-end")
        heappush(free, (at_ms + self._chance.randrange(3_000, 60_000), agent))

    def _record(self, at_ms: int, end_ms: int, source: str, cause: str, conference: str, leg: str | None) -> None:
        recording = self._sid("RE")
        of = {"CallSid": leg} if leg is not None else {"ConferenceSid": conference}
        self.truth.append(
            RecordingTruth(
                kind="recording",
                recording_sid=recording,
                account_sid=self.account,
                start_source=source,
                cause=cause,
                outcome="allowed" if cause == "api_call_recording" else "disallowed",
                call_sid=leg,
                conference_sid=conference,
                started_at="",
                status="completed",
                scene="nailed_up",
                untold=("started_at",),
            )
        )
        for status, told_ms in (("in-progress", at_ms + 700), ("completed", end_ms + 5_000)):
            parameters = {
                "RecordingSid": recording,
                "RecordingStatus": status,
                "RecordingSource": source,
                "RecordingStartTime": at_ms,
                **of,
            }
            if status == "completed":
                parameters["RecordingDuration"] = str((end_ms - at_ms) // 1000)
            self._webhook(told_ms, "status-callback.recording.processed", parameters)

    def _call(self, at_ms: int, call: str, status: str, direction: str, other: str) -> None:
        from_, to = ("+15559999", other) if direction == "outbound-api" else (other, "+15559999")
        parameters = {"CallSid": call, "CallStatus": status, "Direction": direction, "From": from_, "To": to}
        self._webhook(at_ms, f"status-callback.call.{status}", parameters)

    def _participant(self, at_ms: int, call: str, conference: str, name: str, event: str) -> None:
        parameters = {"CallSid": call, "ConferenceSid": conference, "FriendlyName": name, "StatusCallbackEvent": event}
        self._webhook(at_ms, "status-callback.conference.participant.updated", parameters)

    def _conference(self, at_ms: int, conference: str, name: str, event: str) -> None:
        parameters = {"ConferenceSid": conference, "FriendlyName": name, "StatusCallbackEvent": event}
        self._webhook(at_ms, "status-callback.conference.updated", parameters)

    def _twiml(self, at_ms: int, call: str, name: str) -> None:
        xml = f'<Response><Dial><Conference record="record-from-start">{name}</Conference></Dial></Response>'
        response = {"responseCode": 200, "responseBody": base64.b64encode(xml.encode()).decode()}
        self._webhook(at_ms, "twiml.call.redirected", {"CallSid": call}, response=response)

    def _request(self, at_ms: int, call: str, conference: str | None, name: str) -> None:
        url = (
            f"https://api.example.com/2010-04-01/Accounts/{self.account}/Conferences/{conference or name}/Participants"
        )
        parameters = {"ConferenceRecord": "true", "CallSid": call}
        kind = "api-request.conference-participant.created"
        self._webhook(at_ms, kind, parameters, url=url, sid=conference, response={"responseCode": 201})

    def _task(self, at_ms: int, task: str, customer: str, leg: str, conference: str) -> None:
        attributes = {"call_sid": customer, "worker_call_sid": leg, "conference": {"sid": conference}}
        for what, after_ms in (("task.created", 0), ("reservation.accepted", 1_500), ("task.updated", 1_600)):
            payload = {
                "account_sid": self.account,
                "task_sid": task,
                "task_attributes": msgspec.json.encode(
                    attributes if what != "task.created" else {"call_sid": customer}
                ).decode(),
                "timestamp": at_ms + after_ms,
            }
            self._events.append((at_ms + after_ms, f"com.twilio.taskrouter.{what}", {"payload": payload}))

    def _webhook(self, at_ms: int, kind: str, parameters: dict[str, Any], **more: Any) -> None:
        request = {"parameters": {"AccountSid": self.account, **parameters}, "url": more.pop("url", None)}
        self._events.append((at_ms, _VOICE + kind, {"request": request, **more}))

    # ----------------------------------------------------------------- as bytes

    def _sid(self, prefix: str) -> str:
        return f"{prefix}{self._chance.getrandbits(128):032x}"

    def _in_order(self) -> list[tuple[int, str, dict[str, Any]]]:
        return sorted(self._events, key=lambda event: event[0])

    def _bytes(self, start_ms: int, at_ms: int, kind: str, data: dict[str, Any]) -> bytes:
        self._numbered += 1
        when = _instant(start_ms + at_ms)
        data = {**data, "timestamp": when}
        if "payload" in data:
            data["payload"] = {**data["payload"], "timestamp": str(start_ms + data["payload"]["timestamp"])}
        elif "RecordingStartTime" in data["request"]["parameters"]:
            parameters = data["request"]["parameters"]
            started = {"RecordingStartTime": _instant(start_ms + parameters["RecordingStartTime"])}
            data["request"] = {**data["request"], "parameters": parameters | started}
        return _envelope(self.account, kind, f"shift:{self._numbered}", when, data)


class Endless:
    """One call that stays in a conference for ``hours`` and says so every ``every_s``, recorded by request every hour.

    What it can still be said to have been started by is *undetermined* once the conversation's evidence is beyond its
    bound, or *allowed*, which is the truth.
    """

    def __init__(self, seed: int, *, hours: int, every_s: int) -> None:
        chance = Random(f"endless:{seed}")
        self.account = f"AC{chance.getrandbits(128):032x}"
        self._call = f"CA{chance.getrandbits(128):032x}"
        self._room = f"CF{chance.getrandbits(128):032x}"
        self._hours = hours
        self._every_ms = every_s * 1000
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
                scene="endless",
            )
            for recording in self._recordings.values()
        ]

    @property
    def recordings(self) -> frozenset[str]:
        """The keys of its verdicts."""
        return frozenset(self._recordings.values())

    def entries(self, start_ms: int) -> list[Entry]:
        """All of its messages, each stamped with the instant at which it happens."""
        return sorted(self._made(start_ms), key=lambda entry: entry.stamp_ms or 0)

    def _made(self, start_ms: int) -> Iterator[Entry]:
        for number in range(self._hours * _HOUR_MS // self._every_ms):
            at_ms = start_ms + number * self._every_ms
            for event, after_ms in (("participant-mute", 0), ("participant-unmute", self._every_ms - 1_000)):
                yield self._entry(
                    "conference.participant.updated",
                    at_ms + after_ms,
                    StatusCallbackEvent=event if number else "participant-join",
                    ConferenceSid=self._room,
                    CallSid=self._call,
                )
        for hour, recording in self._recordings.items():
            at_ms = start_ms + hour * _HOUR_MS + 500
            yield self._entry(
                "recording.processed",
                at_ms,
                RecordingSid=recording,
                RecordingStatus="completed",
                RecordingSource="StartCallRecordingAPI",
                CallSid=self._call,
                RecordingDuration="9",
                RecordingStartTime=_instant(at_ms - 10_000),
            )

    def _entry(self, kind: str, at_ms: int, **parameters: str) -> Entry:
        request = {"url": "https://voice.example.com/c", "parameters": {"AccountSid": self.account, **parameters}}
        data = {"timestamp": _instant(at_ms), "request": request}
        kind = f"{_VOICE}status-callback.{kind}"
        value = _envelope(self.account, kind, f"{kind}:{at_ms}", _instant(at_ms), data)
        return Entry(self.account, value, stamp_ms=at_ms)

    def unbounded(self, commits: list[Commit]) -> list[str]:
        """What is wrong with the last commit of its partition (the longest one): where its rebuild would begin."""
        last = max(commits, key=lambda commit: commit.offset)
        floor = msgspec.json.decode(last.metadata)["r"]
        if floor < _FLOOR_LEAST * last.offset:
            return [f"after {self._hours} h, a rebuild of {last.offset} messages would still begin at {floor}"]
        return []


def _envelope(account: str, kind: str, id_: str, when: str, data: dict[str, Any]) -> bytes:
    event = {
        "specversion": "1.0",
        "type": kind,
        "id": id_,
        "source": f"/2010-04-01/Accounts/{account}",
        "time": when,
        "data": data,
    }
    return msgspec.json.encode(event)


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
