"""A web server with the pages of some cases behind it, without Kafka: the view is real, and so is the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import yaml

from monitor.core.policy import Policy, built_in_policy
from monitor.core.verdict import Verdict
from monitor.outputs.bundle import render_bundle
from monitor.outputs.case_events import RawEvents
from monitor.outputs.cases import ActionSeen, Case, CaseAction, CaseView, VerdictSeen, render_action
from monitor.outputs.metrics import Metrics
from monitor.settings import Address, Settings, load_settings
from monitor.web.desk import Desk
from monitor.web.pages import Pages
from monitor.web.server import Health, WebServer
from tests.test_alerts import T0

ACCOUNT = "AC" + "1" * 32


class Cases:
    """A view, and what the pages are given beside it; an action goes straight into the view, as it would come round."""

    def __init__(self, directory: Path, events: RawEvents | None = None, **web: Any) -> None:
        path = directory / "pages.yaml"
        given = {
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "accounts": [{"alias": "main", "sid": ACCOUNT}],
            "web": web,
        }
        path.write_text(yaml.safe_dump(given))
        self.settings: Settings = load_settings(path, {})
        self.now_ms = T0
        self.policy: Policy = built_in_policy()
        self.events = events or RawEvents()
        self.unseen: tuple[str, ...] = ()
        self.acted: list[CaseAction] = []
        self.reached = True
        self.view = CaseView(
            directory / "pages.sqlite3", source="", retention_ms=400 * 86_400_000, closes_ms=lambda case: case.ended_ms
        )

    def take(self, *verdicts: Verdict, seen_ms: int = T0) -> None:
        self.view.take([VerdictSeen(one.key, one, seen_ms) for one in verdicts], {})

    async def act(self, action: CaseAction) -> bool:
        if self.reached:
            self.acted.append(action)
            key, _ = render_action(action, self.now_ms + len(self.acted))
            self.view.take([ActionSeen(key, action)], {})
        return self.reached

    async def read_events(self, _verdict: Verdict) -> RawEvents:
        return self.events

    async def make_bundle(self, case: Case) -> bytes:
        return render_bundle([(case, self.events)], {}, now_ms=self.now_ms, masked=True)

    def desk(self) -> Desk:
        return Desk(
            settings=self.settings,
            view=self.view,
            policy=lambda: self.policy,
            unseen=lambda: self.unseen,
            read_events=self.read_events,
            act=self.act,
            make_bundle=self.make_bundle,
        )

    def pages(self) -> Pages:
        pages = Pages(now_ms=lambda: self.now_ms)
        pages.open(self.desk())
        return pages


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
