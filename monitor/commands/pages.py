"""Wires the pages: where their cases, their policy and Twilio's events come from, and where actions go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from monitor.commands.paging import Paging
from monitor.commands.stretch import settings_of
from monitor.core.policy import OBSERVE, Policy
from monitor.core.verdict import Verdict, render_instant
from monitor.errors import OutOfReach
from monitor.inputs.case_events import CaseEvents
from monitor.inputs.mask import Mask
from monitor.outputs.bundle import render_bundle
from monitor.outputs.case_events import RawEvent, RawEvents
from monitor.outputs.cases import Case
from monitor.outputs.metrics import Metrics
from monitor.settings import Settings
from monitor.web.desk import Desk
from monitor.web.server import Health

BEHIND_S: Final = 120.0
_A = TypeVar("_A")
_T = TypeVar("_T")


class PagesWork:
    """What the pages ask of Kafka, off the loop."""

    def __init__(self, settings: Settings, client: Mapping[str, object]) -> None:
        self._settings = settings
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
            now_ms=time.time_ns() // 1_000_000,
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
        return tuple(says)

    def change_password(self, username: str, password: str) -> None:
        """Come in to Kafka so from the next connection on."""
        self._events.change_password(username, password)

    def close(self) -> None:
        """Let go of the broker. What is under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._events.close()


def positions_of(verdict: Verdict) -> list[tuple[int, int]]:
    """Where the evidence of a verdict lies: partitions and offsets."""
    places = [shown.position.partition(":") for shown in verdict.evidence]
    return [
        (int(partition), int(offset)) for partition, _, offset in places if partition.isdigit() and offset.isdigit()
    ]
