"""A web server with the pages of some cases behind it, without Kafka: the view is real, and so is the server."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import Starter
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Tuning
from monitor.core.policy import Policy, built_in_policy
from monitor.core.verdict import Verdict, render_instant
from monitor.inputs.mask import Mask
from monitor.outputs.bundle import render_bundle
from monitor.outputs.case_events import RawEvent, RawEvents
from monitor.outputs.cases import ActionSeen, Case, CaseAction, CaseView, VerdictSeen, render_action
from monitor.outputs.metrics import Metrics
from monitor.settings import Address, Settings, load_settings
from monitor.simulator.traffic import Knobs, header, traffic
from monitor.web.desk import Covered, Desk
from monitor.web.pages import Pages
from monitor.web.server import Health, WebServer
from tests.test_alerts import T0

ACCOUNT = "AC" + "1" * 32


class Cases:
    """A view, and what the pages are given beside it; an action goes straight into the view, as it would come round."""

    def __init__(
        self, directory: Path, *, aliases: Mapping[str, str] | None = None, hold_ms: int = 0, **web: Any
    ) -> None:
        path = directory / "pages.yaml"
        given = {
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "accounts": [{"alias": alias, "sid": sid} for sid, alias in (aliases or {ACCOUNT: "main"}).items()],
            "web": web,
        }
        path.write_text(yaml.safe_dump(given))
        self.settings: Settings = load_settings(path, {})
        self.now_ms = T0
        self.policy: Policy = built_in_policy()
        self.events = RawEvents()
        self.traffic: list[RawEvent] = []
        self.unseen: tuple[str, ...] = ()
        self.coverage: tuple[Covered, ...] = ()
        self.acted: list[CaseAction] = []
        self.reached = True
        self.view = CaseView(
            directory / "pages.sqlite3",
            source="",
            retention_ms=400 * 86_400_000,
            closes_ms=lambda case: None if case.ended_ms is None else case.ended_ms + hold_ms,
        )

    def take(self, *verdicts: Verdict, seen_ms: int = T0) -> None:
        self.view.take([VerdictSeen(one.key, one, seen_ms) for one in verdicts], {})

    async def act(self, action: CaseAction) -> bool:
        if self.reached:
            self.acted.append(action)
            key, _ = render_action(action, self.now_ms + len(self.acted))
            self.view.take([ActionSeen(key, action)], {})
        return self.reached

    async def read_events(self, verdict: Verdict) -> RawEvents:
        """What there is; of simulated traffic, the messages that name what a verdict is about."""
        sids = [sid for sid in (verdict.key, verdict.call_sid, verdict.conference_sid) if sid]
        named = re.compile("|".join(sids).encode())
        found = [raw for raw in self.traffic if raw.value is not None and named.search(raw.value)]
        return RawEvents(events=(*self.events.events, *found), why=self.events.why)

    async def make_bundle(self, case: Case) -> bytes:
        return render_bundle([(case, await self.read_events(case.verdict))], {}, now_ms=self.now_ms, masked=True)

    def desk(self) -> Desk:
        return Desk(
            settings=self.settings,
            view=self.view,
            policy=lambda: self.policy,
            unseen=lambda: self.unseen,
            coverage=lambda: self.coverage,
            read_events=self.read_events,
            act=self.act,
            make_bundle=self.make_bundle,
        )

    def pages(self) -> Pages:
        pages = Pages(now_ms=lambda: self.now_ms)
        pages.open(self.desk())
        return pages


def simulated(directory: Path, *, calls: int = 150, **web: Any) -> Cases:
    """Cases in the middle of an afternoon in a simulated contact centre, with Twilio's events behind them."""
    knobs = Knobs(seed=11, calls=calls, rate=5.0, accounts=3, recorded=0.6, start_ms=T0)
    told = header(knobs)
    known = AccountSettings()
    entries = list(traffic(knobs))
    entries = entries[: len(entries) * 2 // 3]  # While calls go on.
    accounts = sorted({account for _, account, _ in entries})
    aliases = dict(zip(accounts, ("main", "support", "sales"), strict=True))
    start = Checkpoint(offset=0, generation=0, replay_from=0, log_time_ms=None)
    starters = tuple(Starter(one.callback_url, one.cause, one.name) for one in told.starters)
    tuning = Tuning(starters=starters, aliases=aliases)
    pipeline = Pipeline(tuning, built_in_policy(), known, partition=0, checkpoint=start)
    pipeline.open(Ledger())
    cases = Cases(directory, aliases=aliases, hold_ms=900_000, **web)
    for offset, (due_ms, _, value) in enumerate(entries):
        for one in pipeline.feed(offset, due_ms, value):
            if isinstance(one, Publish):
                cases.view.take([VerdictSeen(one.key, one.verdict, due_ms)], {})
    cases.now_ms = entries[-1][0]
    mask = Mask(b"always the same words")
    cases.traffic = [
        RawEvent(position=f"0:{offset}", arrived_at=render_instant(due_ms), value=mask.json(value))
        for offset, (due_ms, _, value) in enumerate(entries)
    ]
    return cases


class Served:
    """The pages on a loop of their own, for a client that blocks, such as a browser."""

    def __init__(self, cases: Cases) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server = WebServer(
            Address("127.0.0.1", 0), Metrics(aliases={}).registry, Health(0.0, needs=()), cases.pages()
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._on_loop(self._server.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._server.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @property
    def url(self) -> str:
        return self._server.url

    def _on_loop(self, work: Callable[[], Awaitable[None]]) -> None:
        async def done() -> None:
            await work()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(30)
