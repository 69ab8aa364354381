"""Reconciliation: the recordings of our accounts, listed from Twilio, so that one that left no event is judged as well.

Every cycle an account's recordings are listed from the newest down to an overlap with the cycle before. What the
partition does not know, or does not know to be over, is written into it as an event of ours; then it is judged like any
other. How far an account was listed is remembered only once all of it is safe in the topic, so that whoever takes over,
whenever, lists from there: nothing is lost, and what is listed twice is a duplicate.

All instants compared are Twilio's own: no clock of ours decides what is listed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Final, Protocol

import structlog

from monitor.core.pipeline import Known
from monitor.core.values import epoch_ms, span_ms
from monitor.inputs.coverage import Coverage, Missed, Reached, render_reached
from monitor.inputs.recordings import Recording, fetch, pages, render_listed
from monitor.inputs.rest_work import OwnedAccount
from monitor.settings import Reconcile
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.errors import NotThere
from monitor.twilio.transport import Clock

log = structlog.get_logger(__name__)

OLDEST: Final = timedelta(days=7)
"""What began longer ago is not judged (Tuning.recordings_too_old_ms), so it need not be listed."""
PASSES_MAX: Final = 3
"""A listing of several pages that found something is repeated so often at most: what moves while it is read, as pages
do when recordings come and go, may have been missed."""
REMEMBER_EVERY_S: Final = 600.0
"""How far an account was listed is written when something was found, and else so often: a restart lists that again."""
FETCH_EVERY_S: Final = 600.0
FETCHES_MAX: Final = 50
"""Recordings in a cycle that are asked for one by one, since they go on for longer than is listed."""
WRITTEN_MAX: Final = 100_000
"""Recordings of an account of which it is kept in mind that they were written; the fold knows of them soon."""
ASKED_MAX: Final = 200
"""Recordings that a partition is asked about at a time: 50 µs each, in which it judges nothing."""
MISSED_SAID_MAX: Final = 10


class Watch(Protocol):
    """Who is told how the listing goes: metrics."""

    def listed(self, alias: str, account_sid: str, *, known: int, seen: int, at: float) -> None:
        """An account was listed to the end at ``at`` (Unix time): recordings of the last day, and of these the seen."""

    def unknown(self, alias: str, account_sid: str) -> None:
        """An account can't be listed."""

    def missed(self, alias: str, count: int) -> None:
        """The stream did not tell of so many recordings."""

    def gone(self, alias: str, account_sid: str) -> None:
        """Somebody else lists an account."""


AskKnown = Callable[[int, str, Iterable[str]], Future[Mapping[str, Known]]]
"""Asks a partition what it knows of recordings of an account; OutOfReach where it is not restored."""


class Listing:
    """The job: lists an account's recordings for as long as it is ours."""

    name = "listing"

    def __init__(self, settings: Reconcile, reached: Reached, known: AskKnown, watch: Watch, clock: Clock) -> None:
        self._every_s = settings.every.total_seconds()
        self._overlap_ms = span_ms(settings.overlap)
        self._backfill = settings.backfill
        self._reached = reached
        self._known = known
        self._watch = watch
        self._clock = clock
        self._states: dict[str, _State] = {}

    async def work(self, owned: OwnedAccount) -> None:
        """List, and list again, on time whatever a listing takes."""
        sid = owned.account.sid
        state = self._states.get(sid)
        if state is None:
            now = self._clock.wall()
            coverage = self._reached.coverage(
                sid, first_ms=epoch_ms(now - self._backfill), oldest_ms=epoch_ms(now - OLDEST)
            )
            state = self._states[sid] = _State(coverage)
        while True:
            began = self._clock.now()
            await self._cycle(owned, state)
            await self._clock.sleep(max(0.0, began + self._every_s - self._clock.now()))

    def failed(self, account: TwilioAccount, error: Exception) -> None:  # noqa: ARG002 - logged where it is caught.
        """What cannot be asked is not known."""
        self._watch.unknown(account.alias, account.sid)

    def gone(self, account: TwilioAccount) -> None:
        """Somebody else goes on from what was remembered."""
        self._states.pop(account.sid, None)
        self._watch.gone(account.alias, account.sid)

    async def _cycle(self, owned: OwnedAccount, state: _State) -> None:
        coverage = state.coverage
        since_ms = coverage.floor_ms if state.since_ms is None else state.since_ms
        state.found = 0
        for _ in range(PASSES_MAX):
            found = state.found
            if await self._list(owned, state, since_ms) == 1 or state.found == found:
                break
        await self._look_again(owned, state)
        state.since_ms = coverage.newest_ms - self._overlap_ms
        missed = list(coverage.settle(self._overlap_ms, self._clock.now()))
        self._tell(owned.account, state, missed)
        await self._remember(owned, state)

    async def _list(self, owned: OwnedAccount, state: _State, since_ms: int) -> int:
        """List down to an instant and write what is not known; how many pages that took.

        What takes longer than a cycle (an account's first listing, one after an outage) stops each time a cycle is over
        for what has come in meanwhile.
        """
        count = 0
        due = self._clock.now() + self._every_s
        async with contextlib.aclosing(pages(owned.account, since_ms)) as listed:
            async for page in listed:
                count += 1
                await self._take(owned, state, page)
                if self._clock.now() >= due:
                    await self._list(owned, state, state.coverage.newest_ms - self._overlap_ms)
                    due = self._clock.now() + self._every_s
        return count

    async def _take(self, owned: OwnedAccount, state: _State, listed: list[Recording]) -> None:
        coverage, now = state.coverage, self._clock.now()
        for one in listed:
            coverage.listed(one.sid, one.created_ms, one.source, over=one.over, now=now)
        open_ = [one for one in listed if not coverage.is_done(one.sid)]
        known = await self._ask(owned, [one.sid for one in open_])
        news = []
        for one in open_:
            there = known.get(one.sid)
            if there is not None and there.told:
                coverage.told(one.sid)
            if (there is None or (one.over and not there.over)) and state.written.get(one.sid) != one.status:
                news.append(one)
        if not news:
            return
        now_ms = epoch_ms(self._clock.wall())
        await owned.write_events([render_listed(owned.account.sid, one, now_ms) for one in news])
        state.found += len(news)
        for one in news:
            state.written[one.sid] = one.status
        while len(state.written) > WRITTEN_MAX:
            del state.written[next(iter(state.written))]

    async def _look_again(self, owned: OwnedAccount, state: _State) -> None:
        """See what the stream has told since, and ask Twilio for what goes on for longer than is listed."""
        coverage = state.coverage
        known = await self._ask(owned, coverage.untold())
        for sid, there in known.items():
            if there.told:
                coverage.told(sid)
        before_ms = coverage.newest_ms - self._overlap_ms
        overdue = list(coverage.overdue(before_ms, self._clock.now(), FETCH_EVERY_S))[:FETCHES_MAX]
        for sid in overdue:
            try:
                one = await fetch(owned.account, sid)
            except NotThere:
                one = None
            if one is None:
                coverage.asked(sid, over=True, now=self._clock.now())  # Gone, metadata and all: nothing more will come.
            else:
                await self._take(owned, state, [one])

    async def _ask(self, owned: OwnedAccount, sids: list[str]) -> Mapping[str, Known]:
        known: dict[str, Known] = {}
        for at in range(0, len(sids), ASKED_MAX):
            some = sids[at : at + ASKED_MAX]
            there = await asyncio.wrap_future(self._known(owned.partition, owned.account.sid, some))
            known.update(there)
        return known

    def _tell(self, account: TwilioAccount, state: _State, missed: list[Missed]) -> None:
        if missed:
            self._watch.missed(account.alias, len(missed))
            log.warning(
                "stream_missed_recordings",
                account_sid=account.sid,
                recordings=[one.sid for one in missed[:MISSED_SAID_MAX]],
                count=len(missed),
            )
        if state.found:
            log.info("recordings_found_by_listing", account_sid=account.sid, count=state.found)
        known, seen = state.coverage.tally()
        at = self._clock.wall().timestamp()
        self._watch.listed(account.alias, account.sid, known=known, seen=seen, at=at)

    async def _remember(self, owned: OwnedAccount, state: _State) -> None:
        now = self._clock.now()
        if state.remembered is not None and not state.found and now - state.remembered < REMEMBER_EVERY_S:
            return
        key, value = render_reached(owned.account.sid, state.coverage, epoch_ms(self._clock.wall()))
        await owned.write_settings({key: value})
        state.remembered = now


class _State:
    """What a job keeps of an account: also over its failures, for as long as the account is ours."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage
        self.since_ms: int | None = None  # Where the next listing ends; None: where the one of another owner did.
        self.found = 0  # Events written in this cycle.
        self.written: dict[str, str | None] = {}  # And the status each recording was written with.
        self.remembered: float | None = None
