"""Enrichment: what the stream did not say of a recording that is not allowed is asked of Twilio, once.

A verdict says what is wanted; the answers are events of ours, so that the verdict is judged anew with them and any
replay has them too. What was asked already stands in the conversation, by the ids of those events: nothing else needs
to remember it over a restart. The participants of a conference are told only while they are in it, so these are asked
for at once; what a call ran, about 15 minutes after its end: https://www.twilio.com/docs/voice/api/call-event-resource.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol

import msgspec
import structlog

from monitor.core.values import CALLS, INSTANTS, epoch_ms
from monitor.core.verdict import Verdict, render_instant
from monitor.inputs.recordings import fetch, render_listed
from monitor.inputs.rest_work import OwnedAccount
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.errors import BadCredentials, TwilioRefused, TwilioUnavailable
from monitor.twilio.transport import Clock

log = structlog.get_logger(__name__)

CONFERENCE: Final = "dev.recording-monitor.conference.fetched"
CALL_EVENTS: Final = "dev.recording-monitor.call-events.fetched"
WANTED_MAX: Final = 10_000
"""Recordings of which something is still to be asked; beyond it some are let go, counted and said."""
EVERY_S: Final = 0.2
"""No more recordings are asked about than one in so long, of one account."""
AGAIN_S: Final = 300.0
"""How long after Twilio did not answer it is asked again about the same recording."""
LOOK_EVERY_S: Final = 60.0
TOLD_AFTER_S: Final = 900.0
"""How long after its end Twilio tells what a call ran."""
TRIES_MAX: Final = 4
"""How often that is asked for, as long apart, where there is nothing yet: a call outlasts its recordings."""
CALLS_MAX: Final = 10
"""Calls of one conversation whose history is asked for."""
BODY_CHARACTERS_MAX: Final = 256 * 1024
TWIML_MAX: Final = 20
"""Of one call, so many answers with TwiML are told of, of those that could record a conference."""
OPEN_CAUSES: Final = (None, "unattributed", "flex_conference")
"""Causes that other evidence could still replace: only then what calls ran is asked for."""


class Wanted(msgspec.Struct):
    """A recording of which more is to be known. ``due`` is on the job's clock; ``tries`` of its calls' history."""

    recording_sid: str
    call_sid: str | None
    conference_sid: str | None
    start_source: str | None
    open_cause: bool
    ended_ms: int | None
    due: float = 0.0
    begun: bool = False
    tries: int = 0

    @classmethod
    def of(cls, verdict: Verdict) -> Wanted | None:
        """What a verdict leaves to be asked; None where that is nothing: it is allowed, final or a suspicion."""
        if verdict.recording_sid is None or verdict.outcome == "allowed" or verdict.final:
            return None
        return cls(
            verdict.recording_sid,
            verdict.call_sid,
            verdict.conference_sid,
            verdict.start_source,
            verdict.cause in OPEN_CAUSES,
            INSTANTS[verdict.ended_at],
        )


class Memory(Protocol):
    """Asks a partition what its conversations hold; OutOfReach where it is not restored."""

    def held(self, partition: int, account: str, event_ids: Mapping[str, str]) -> Future[set[str]]:
        """Which of these events have come: by id, the member each is about."""

    def company(self, partition: int, account: str, member: str) -> Future[list[str]]:
        """What is in the conversation of a member; nothing once that has closed."""


class Enrichment:
    """The job: asks about an account's recordings that are not allowed. It belongs to one loop."""

    name = "enrichment"

    def __init__(self, memory: Memory, count: Callable[[str], None], clock: Clock) -> None:
        """``count`` is told what came of asking: ``answered``, ``refused`` (nothing to be had) or ``dropped``."""
        self._memory = memory
        self._count = count
        self._clock = clock
        self._wanted: dict[str, dict[str, Wanted]] = {}  # By account and recording, in order of their coming.
        self._size = 0
        self._news = asyncio.Event()

    def take(self, account_sid: str, wanted: Wanted) -> None:
        """Take in what a verdict leaves open; what was asked is not asked again for a later revision."""
        known = self._wanted.setdefault(account_sid, {}).get(wanted.recording_sid)
        if known is None:
            self._size += 1
            self._wanted[account_sid][wanted.recording_sid] = wanted
            if self._size > WANTED_MAX:
                self._drop()
        else:
            learnt = (wanted.call_sid, wanted.conference_sid) != (known.call_sid, known.conference_sid)
            known.call_sid, known.conference_sid = wanted.call_sid, wanted.conference_sid
            known.open_cause, known.ended_ms = wanted.open_cause, wanted.ended_ms
            known.begun = known.begun and not learnt
            known.due = known.due if known.begun else 0.0
        self._news.set()

    async def work(self, owned: OwnedAccount) -> None:
        """Ask about one recording after the other as they fall due."""
        while True:
            wanted = self._next(owned.account.sid)
            now = self._clock.now()
            if wanted is None or wanted.due > now:
                await self._wait(LOOK_EVERY_S if wanted is None else min(LOOK_EVERY_S, wanted.due - now))
                continue
            try:
                done = await self._ask(owned, wanted)
            except BadCredentials:
                raise
            except TwilioRefused as refusal:
                # It is gone, or not to be had with these credentials: others still may be.
                log.info("enrichment_refused", recording_sid=wanted.recording_sid, status=refusal.status)
                self._count("refused")
                done = True
            except TwilioUnavailable as error:
                # Others go on: it may be this one alone that it does not answer about.
                log.info("enrichment_put_off", recording_sid=wanted.recording_sid, why=str(error))
                wanted.due, done = self._clock.now() + AGAIN_S, False
            if done:
                self._forget(owned.account.sid, wanted.recording_sid)
            await self._clock.sleep(EVERY_S)

    async def _wait(self, for_s: float) -> None:
        """Wait so long, or until more is wanted."""
        self._news.clear()
        waiting = [asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(self._clock.sleep(for_s))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def failed(self, account: TwilioAccount, error: Exception) -> None:
        """What is wanted stays so, and is asked for when the job has begun again."""

    def gone(self, account: TwilioAccount) -> None:
        """Whoever owns the account reads the verdicts, and with them what is wanted."""
        self._size -= len(self._wanted.pop(account.sid, {}))

    def _next(self, account_sid: str) -> Wanted | None:
        return min(self._wanted.get(account_sid, {}).values(), key=lambda wanted: wanted.due, default=None)

    def _forget(self, account_sid: str, recording_sid: str) -> None:
        if self._wanted.get(account_sid, {}).pop(recording_sid, None) is not None:
            self._size -= 1

    def _drop(self) -> None:
        """Let go of the oldest of whichever account wants most: it may be one that nobody can ask about."""
        account_sid = max(self._wanted, key=lambda sid: len(self._wanted[sid]))
        self._forget(account_sid, next(iter(self._wanted[account_sid])))
        self._count("dropped")
        log.warning("enrichment_dropped", account_sid=account_sid, wanted_max=WANTED_MAX)

    async def _ask(self, owned: OwnedAccount, wanted: Wanted) -> bool:
        """Ask what is to be asked now; whether that was all."""
        members = await asyncio.wrap_future(
            self._memory.company(owned.partition, owned.account.sid, wanted.recording_sid)
        )
        if not members:
            return True  # Its conversation has closed: no answer changes anything any more.
        if not wanted.begun:
            await self._ask_at_once(owned, wanted)
            wanted.begun = True
            if not wanted.open_cause:
                return True
            wanted.due = self._told_at(wanted)
            return False
        wanted.tries += 1
        if not wanted.open_cause:
            return True  # Something else has come meanwhile.
        if await self._ask_history(owned, members, last=wanted.tries >= TRIES_MAX):
            return True
        wanted.due = self._clock.now() + TOLD_AFTER_S
        return False

    async def _ask_at_once(self, owned: OwnedAccount, wanted: Wanted) -> None:
        account = owned.account
        if wanted.start_source is None or (wanted.call_sid is None and wanted.conference_sid is None):
            recording = await fetch(account, wanted.recording_sid)
            if recording is not None:
                wanted.call_sid = wanted.call_sid or recording.call_sid
                wanted.conference_sid = wanted.conference_sid or recording.conference_sid
                await owned.write_events([render_listed(account.sid, recording, self._now_ms())])
                self._count("answered")
        conference = wanted.conference_sid
        if conference is not None:
            event_id = f"conference:{conference}"
            if not await self._held(owned, {event_id: conference}):
                await owned.write_events([await self._conference(account, conference, event_id)])
                self._count("answered")

    async def _ask_history(self, owned: OwnedAccount, members: list[str], *, last: bool) -> bool:
        """Ask what the calls among these ran; whether all of them have told."""
        account_sid = owned.account.sid
        calls = [member for member in members if CALLS[member] is not None][:CALLS_MAX]
        held = await self._held(owned, {f"call-events:{call}": call for call in calls})
        complete = True
        for call in calls:
            if f"call-events:{call}" in held:
                continue
            ran = await self._history(owned.account, call)
            complete = complete and bool(ran)
            if ran or last:
                await owned.write_events([_render_history(account_sid, call, ran, self._now_ms())])
                self._count("answered")
        return complete or last

    async def _held(self, owned: OwnedAccount, event_ids: Mapping[str, str]) -> set[str]:
        return await asyncio.wrap_future(self._memory.held(owned.partition, owned.account.sid, event_ids))

    async def _conference(self, account: TwilioAccount, sid: str, event_id: str) -> bytes:
        """A conference and who is in it now, as an event."""
        resource = account.client.conferences(sid)
        there = await resource.fetch_async()
        participants = await resource.participants.list_async(limit=50)
        data = {
            "account_sid": account.sid,
            "sid": sid,
            "friendly_name": there.friendly_name,
            "status": there.status,
            "date_created": _instant(there.date_created),
            "date_updated": _instant(there.date_updated),
            "reason_conference_ended": there.reason_conference_ended,
            "call_sid_ending_conference": there.call_sid_ending_conference,
            "participants": [
                {"call_sid": one.call_sid, "date_created": _instant(one.date_created)} for one in participants
            ],
        }
        return _render(CONFERENCE, event_id, data, self._now_ms())

    async def _history(self, account: TwilioAccount, call: str) -> list[tuple[str | None, str]]:
        """What a call ran: instants and TwiML; of what asked nothing of it, an empty text."""
        events = await account.client.calls(call).events.list_async(limit=200)
        return [ran for event in events for ran in _twiml_of(event.request or {}, event.response or {})]

    def _told_at(self, wanted: Wanted) -> float:
        ended_ms = self._now_ms() if wanted.ended_ms is None else wanted.ended_ms
        since_s = (self._now_ms() - ended_ms) / 1000
        return self._clock.now() + max(0.0, TOLD_AFTER_S - max(0.0, since_s))

    def _now_ms(self) -> int:
        return epoch_ms(self._clock.wall())


def _twiml_of(request: Mapping[str, Any], response: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """The TwiML in one event of a call: what Twilio was answered, or what an API request brought along.

    https://www.twilio.com/docs/voice/api/call-event-resource
    """
    at = response.get("date_created")
    code = response.get("response_code")
    if isinstance(code, int) and code >= 400:
        return [(at, "")]  # It was not run.
    parameters = request.get("parameters")
    brought = parameters.get("twiml") if isinstance(parameters, Mapping) else None
    bodies = [body for body in (response.get("response_body"), brought) if isinstance(body, str)]
    return [(at, body if "<" in body and "ecord" in body else "") for body in bodies] or [(at, "")]


def _render_history(account_sid: str, call: str, ran: list[tuple[str | None, str]], now_ms: int) -> bytes:
    """What a call ran as events: one that says that it was asked, one for each TwiML that may record a conference."""
    twiml = [(at, body) for at, body in ran if body and len(body) <= BODY_CHARACTERS_MAX]
    kept: list[tuple[str | None, str]] = []
    for at, body in twiml[:TWIML_MAX]:
        if sum(len(one) for _, one in kept) + len(body) <= BODY_CHARACTERS_MAX:
            kept.append((at, body))
    left_out = sum(1 for _, body in ran if body) - len(kept)
    event_id = f"call-events:{call}"
    asked = {"account_sid": account_sid, "call_sid": call, "events": len(ran), "left_out": left_out}
    events = [_render(CALL_EVENTS, event_id, asked, now_ms)]
    for number, (at, body) in enumerate(kept):
        data = {"account_sid": account_sid, "call_sid": call, "timestamp": at, "twiml": body}
        events.append(_render(CALL_EVENTS, f"{event_id}:{number}", data, now_ms))
    return b"[" + b",".join(events) + b"]"


def _render(kind: str, event_id: str, data: Mapping[str, Any], now_ms: int) -> bytes:
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": kind,
            "source": "recording-monitor",
            "id": event_id,
            "time": render_instant(now_ms),
            "datacontenttype": "application/json",
            "data": data,
        }
    )


def _instant(value: Any) -> str | None:
    return None if value is None else render_instant(epoch_ms(value))
