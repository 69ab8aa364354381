"""Wires the pages: where their cases, their policy and Twilio's events come from, and where actions go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from monitor.commands.paging import Paging
from monitor.commands.stretch import settings_of
from monitor.core.policy import Policy
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

BEHIND_S = 120.0


class PagesWork:
    """What the pages ask of Kafka, off the loop."""

    def __init__(self, settings: Settings, client: Mapping[str, object]) -> None:
        self._settings = settings
        self._events = CaseEvents(client, settings.kafka.group_id, settings.topics.events)

    def desk(self, paging: Paging, policy: Callable[[], Policy], metrics: Metrics, health: Health) -> Desk:
        """The parts of this process that the pages show."""
        return Desk(
            settings=self._settings,
            view=paging.view,
            policy=policy,
            unseen=lambda: unseen(paging, policy(), metrics, health),
            read_events=lambda verdict: asyncio.to_thread(self.read_events, verdict),
            act=paging.act,
            make_bundle=lambda case: asyncio.to_thread(self.make_bundle, case),
        )

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

    def close(self) -> None:
        """Let go of the broker."""
        self._events.close()


def positions_of(verdict: Verdict) -> list[tuple[int, int]]:
    """Where the evidence of a verdict lies: partitions and offsets."""
    places = [shown.position.partition(":") for shown in verdict.evidence]
    return [
        (int(partition), int(offset)) for partition, _, offset in places if partition.isdigit() and offset.isdigit()
    ]


def unseen(paging: Paging, policy: Policy, metrics: Metrics, health: Health) -> tuple[str, ...]:
    """What this process can't see or does not tell at the moment, a sentence each."""
    says = [f"Not ready: {reason}." for reason in health.ready_reasons()]
    says += [f"{note}." for note in health.notes()]
    says += [f"It stands still: {reason}." for reason in health.sick_reasons(time.monotonic())]
    behind_s = metrics.behind_s(time.time())
    if behind_s is not None and behind_s > BEHIND_S:
        says.append(f"It is behind: what it judges came {behind_s:.0f} s ago.")
    if paging.mode != "fresh":
        says.append(f"The cases are {paging.mode}: what other processes have judged since may be missing.")
    if policy.mode == "observe":
        says.append("Nobody is paged: the policy only observes.")
    return tuple(says)
