"""Wires the pages: where their cases, their policy and Twilio's events come from, and where actions go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from monitor import clock
from monitor.commands.paging import Paging
from monitor.commands.stretch import settings_of
from monitor.core.policy import OBSERVE, Policy
from monitor.core.values import INSTANTS
from monitor.core.verdict import Verdict, render_instant
from monitor.errors import OutOfReach
from monitor.inputs.case_events import CaseEvents
from monitor.inputs.coverage import Reached, Settled
from monitor.inputs.mask import Mask
from monitor.outputs.bundle import render_bundle
from monitor.outputs.case_events import RawEvent, RawEvents
from monitor.outputs.cases import Case
from monitor.outputs.metrics import Metrics
from monitor.settings import Settings
from monitor.web.desk import Covered, Desk, Gap
from monitor.web.server import Health

BEHIND_S: Final = 120.0
SILENT_MS: Final = 30 * 60_000
"""Whoever lists an account says so every ten minutes; of one of which nobody did for so long, nothing is known."""
_A = TypeVar("_A")
_T = TypeVar("_T")


class PagesWork:
    """What the pages ask of Kafka, off the loop."""

    def __init__(self, settings: Settings, client: Mapping[str, object], reached: Reached) -> None:
        self._settings = settings
        self._reached = reached
        # One thread: Kafka is asked one thing after the other, and who waits for it keeps no page waiting.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="case-events")
        self._events = CaseEvents(client, settings.kafka.group_id, settings.topics.events)

    def desk(self, paging: Paging, policy: Callable[[], Policy], metrics: Metrics, health: Health) -> Desk:
        """The parts of this process that the pages show."""
        return Desk(
            settings=self._settings,
            view=paging.view,
            policy=policy,
            unseen=lambda: self.unseen(paging, policy(), metrics, health),
            coverage=self.coverage,
            read_events=lambda verdict: self._off_the_loop(self.read_events, verdict),
            act=paging.act,
            make_bundle=lambda case: self._off_the_loop(self.make_bundle, case),
        )

    def _off_the_loop(self, work: Callable[[_A], _T], about: _A) -> Awaitable[_T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work, about)

    def read_events(self, verdict: Verdict) -> RawEvents:
        """Twilio's events about a verdict, masked; what is out of reach is said."""
        positions = positions_of(verdict)
        if not positions:
            return RawEvents(why="The verdict names no position in the events topic.")
        sids = [sid for sid in (verdict.recording_sid, verdict.call_sid, verdict.conference_sid) if sid]
        try:
            found, whole = self._events.read(positions, verdict.rests_from, sids)
        except OutOfReach as error:
            return RawEvents(why=f"Kafka could not be read: {error}")
        return RawEvents(
            events=tuple(
                RawEvent(
                    position=f"{one.partition}:{one.offset}",
                    arrived_at=render_instant(one.timestamp_ms),
                    value=one.value,
                )
                for one in found
            ),
            why=None if whole else "Not all of the stretch was looked through; `recording-monitor export` does.",
        )

    def make_bundle(self, case: Case) -> bytes:
        """What Twilio's support asks for about one case, masked."""
        account = case.verdict.account_sid
        mask = Mask()
        try:
            known = [masked for value in settings_of(self._settings, {account}) if (masked := mask.json(value))]
        except OutOfReach:
            known = []
        return render_bundle(
            [(case, self.read_events(case.verdict))],
            {account: known},
            now_ms=clock.now_ms(),
            masked=True,
        )

    def unseen(self, paging: Paging, policy: Policy, metrics: Metrics, health: Health) -> tuple[str, ...]:
        """What this process can't see or does not tell at the moment, a sentence each."""
        says = [f"Not ready: {reason}." for reason in health.ready_reasons()]
        says += [f"{note}." for note in health.notes()]
        says += [f"It stands still: {reason}." for reason in health.sick_reasons(time.monotonic())]
        behind_s = metrics.behind_s(time.time())
        if behind_s is not None and behind_s > BEHIND_S:
            says.append(f"It is behind: what it judges came {behind_s:.0f} s ago.")
        if paging.mode != "fresh":
            says.append(f"The cases are {paging.mode}: what other processes have judged since may be missing.")
        if policy.mode == OBSERVE:
            says.append("Nobody is paged: the policy only observes.")
        elif not self._settings.alertmanagers:
            says.append("Nobody is paged: the settings name no Alertmanager.")
        return (*says, *missed_of(self.coverage()))

    def coverage(self) -> tuple[Covered, ...]:
        """How much of each account's recordings the stream told of."""
        aliases = {account.sid: account.alias for account in self._settings.accounts}
        return coverage_of(self._reached.settled(), aliases, clock.now_ms())

    def change_password(self, username: str, password: str) -> None:
        """Come in to Kafka so from the next connection on."""
        self._events.change_password(username, password)

    def close(self) -> None:
        """Let go of the broker. What is under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._events.close()


def coverage_of(settled: Sequence[Settled], aliases: Mapping[str, str], now_ms: int) -> tuple[Covered, ...]:
    """What is settled as people read it; of accounts in the settings that nobody ever listed, that nothing is known."""
    found = []
    for one in settled:
        known, seen = sum(tally.known for _, tally in one.hours), sum(tally.seen for _, tally in one.hours)
        said_ms = INSTANTS[one.said_at]
        is_of_late = said_ms is not None and now_ms - said_ms <= SILENT_MS
        gaps = [
            Gap(hour=render_instant(hour_ms), known=tally.known, missed=tally.known - tally.seen)
            for hour_ms, tally in one.hours
            if tally.seen < tally.known
        ]
        found.append(
            Covered(
                account_sid=one.account,
                alias=aliases.get(one.account),
                known=known if is_of_late else None,
                seen=seen if is_of_late else None,
                ratio=seen / known if is_of_late and known else None,
                settled_to=render_instant(one.to_ms),
                said_at=one.said_at,
                gaps=tuple(gaps),
            )
        )
    listed = {one.account_sid for one in found}
    for sid, alias in aliases.items():
        if sid not in listed:
            nothing: dict[str, None] = dict.fromkeys(("known", "seen", "ratio", "settled_to", "said_at"))
            found.append(Covered(account_sid=sid, alias=alias, gaps=(), **nothing))
    return tuple(found)


def missed_of(coverage: Iterable[Covered]) -> Iterator[str]:
    """What the stream missed in the last day, a sentence for each account of which that is known."""
    for one in coverage:
        if one.known is not None and one.seen is not None and one.seen < one.known:
            missed, name = one.known - one.seen, one.alias or one.account_sid
            yield f"The stream did not tell of {missed} of {one.known} recordings of {name} in the last day."


def positions_of(verdict: Verdict) -> list[tuple[int, int]]:
    """Where the evidence of a verdict lies: partitions and offsets."""
    places = [shown.position.partition(":") for shown in verdict.evidence]
    return [
        (int(partition), int(offset)) for partition, _, offset in places if partition.isdigit() and offset.isdigit()
    ]
