"""Account settings, asked for again and again: Flex, Studio flows, agents' sessions. Only what changed is written.

Twilio sends no event when somebody switches Flex recording off or publishes a flow. So the owner of an account asks,
and what it finds that nobody has said yet goes into the topic of account settings, which every process follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from monitor.audit.account import Flow
from monitor.audit.studio import RECORD_CALL
from monitor.core.events import Event, FlexSetting, FlowSetting, Setting, WorkerSession
from monitor.core.pipeline import render_setting, setting_key
from monitor.core.readers import OWN
from monitor.core.values import epoch_ms
from monitor.inputs.account import FlexRead, read_flex, read_flow, read_list, read_workers
from monitor.inputs.rest_work import OwnedAccount
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.transport import Clock

REVISIONS_MAX: Final = 3
"""Of a flow that was not known, the latest so many: older ones run for calls that began long ago, if for any."""
WRITTEN_AT_ONCE: Final = 200
_KINDS: Final[Mapping[type[Setting], str]] = {
    FlexSetting: "flex-configuration",
    FlowSetting: "studio-flow",
    WorkerSession: "worker-session",
}


class Observed:
    """What the topic of account settings says now, so that nothing is written twice.

    The reading thread tells; any thread may ask. One entry an account, a flow's revision and a worker.
    """

    def __init__(self) -> None:
        self._flex: dict[str, FlexSetting] = {}
        self._changed_ms: dict[str, int] = {}
        self._flows: set[tuple[str, str, int]] = set()
        self._workers: dict[tuple[str, str], WorkerSession] = {}

    def hear(self, setting: Setting) -> bool:
        """Take in a setting; whether it says that an account's Flex recording is another one than it was."""
        if isinstance(setting, FlowSetting):
            self._flows.add((setting.account, setting.flow, setting.revision))
            return False
        if isinstance(setting, WorkerSession):
            known = self._workers.get((setting.account, setting.worker))
            if known is None or known.observed_ms <= setting.observed_ms:
                self._workers[setting.account, setting.worker] = setting
            return False
        latest, account, at_ms = self._flex.get(setting.account), setting.account, valid_ms(setting)
        if latest is None or valid_ms(latest) < at_ms:
            self._flex[account] = setting
        if setting.previous is None or setting.previous == setting.enabled or at_ms <= self._changed_ms.get(account, 0):
            return False
        self._changed_ms[account] = at_ms
        return True

    def flex(self, account: str) -> FlexSetting | None:
        """The latest that was said of an account's Flex recording."""
        return self._flex.get(account)

    def flex_now(self) -> list[tuple[str, bool, int | None]]:
        """Of each account with Flex whether recording is on, and when that last changed (ms), as far as known."""
        return [(account, said.enabled, self._changed_ms.get(account)) for account, said in list(self._flex.items())]

    def knows_flow(self, account: str, flow: str, revision: int) -> bool:
        """Whether this revision's widgets have been said."""
        return (account, flow, revision) in self._flows

    def worker(self, account: str, worker: str) -> WorkerSession | None:
        """The latest that was said of a worker."""
        return self._workers.get((account, worker))

    def workers(self) -> dict[tuple[str, str], WorkerSession]:
        """The latest that was said of every worker, by account and worker."""
        return dict(self._workers)


def valid_ms(setting: FlexSetting) -> int:
    """From when on a Flex setting is known to hold."""
    return setting.observed_ms if setting.since_ms is None else setting.since_ms


# --- What is new ---------------------------------------------------------------------------------------------------


def flex_news(account: str, told: FlexRead, latest: FlexSetting | None, now_ms: int) -> FlexSetting | None:
    """What there is to say of Flex recording; None: nothing new.

    It has been what it is since the configuration was last changed in any way, perhaps for longer.
    """
    enabled = told.recording_enabled
    if enabled is None or (latest is not None and latest.enabled == enabled):
        return None
    updated_ms, after_ms = _ms(told.updated_at), -1 if latest is None else valid_ms(latest)
    since_ms = updated_ms if updated_ms is not None and after_ms < updated_ms <= now_ms else None
    return FlexSetting(
        account, enabled, since_ms, None if latest is None else latest.enabled, max(now_ms, after_ms + 1)
    )


def flow_news(account: str, flow: Flow) -> FlowSetting:
    """What there is to say of a flow's revision."""
    recording = tuple(widget.name for widget in flow.widgets if widget.type == RECORD_CALL and widget.records)
    return FlowSetting(account, flow.sid, flow.revision, recording)


def worker_news(
    account: str, worker: str, known: WorkerSession | None, *, online: bool, changed_ms: int | None, now_ms: int
) -> WorkerSession | None:
    """What there is to say of a worker who is online or not, in an activity since ``changed_ms``; None: nothing new.

    Of one who was not known the session may have begun earlier: from one activity to another nobody logs in.
    """
    at_ms = now_ms if changed_ms is None else changed_ms
    available_ms = None if known is None else known.available_since_ms
    offline_ms = None if known is None else known.offline_since_ms
    was_online = available_ms is not None and (offline_ms is None or available_ms > offline_ms)
    if known is not None and was_online == online:
        return None
    if online:
        return WorkerSession(account, worker, at_ms, offline_ms, now_ms)
    return WorkerSession(account, worker, available_ms, at_ms, now_ms)


def as_message(setting: Setting, now_ms: int) -> tuple[str, bytes]:
    """Key and value of a setting in its topic."""
    type_ = f"{OWN}{_KINDS[type(setting)]}.observed"
    event = Event(type_, None, setting.account, now_ms, None, (), (), setting)
    return setting_key(event), render_setting(event)


def _ms(instant: datetime | None) -> int | None:
    return None if instant is None else epoch_ms(instant)


# --- Who asks ------------------------------------------------------------------------------------------------------


class _Polling:
    """A job that asks every ``every_s`` seconds, as long as the account is ours."""

    name: str

    def __init__(self, observed: Observed, *, every_s: float, clock: Clock = Clock()) -> None:  # noqa: B008 - a tuple of functions.
        self._observed = observed
        self._every_s = every_s
        self._clock = clock

    async def work(self, owned: OwnedAccount) -> None:
        """Ask and write, again and again."""
        ask = self._begin()
        while True:
            await ask(owned)
            await self._clock.sleep(self._every_s)

    def _begin(self) -> Callable[[OwnedAccount], Any]:
        """What is asked each time; it may keep in mind what it saw."""
        raise NotImplementedError

    def failed(self, account: TwilioAccount, error: Exception) -> None:
        """It is said by whoever runs us."""

    def gone(self, account: TwilioAccount) -> None:
        """There is nothing to clear."""

    def _now_ms(self) -> int:
        return epoch_ms(self._clock.wall())

    async def _write(self, owned: OwnedAccount, settings: Iterable[Setting]) -> None:
        now_ms = self._now_ms()
        messages = [as_message(setting, now_ms) for setting in settings]
        for at in range(0, len(messages), WRITTEN_AT_ONCE):
            await owned.write_settings(dict(messages[at : at + WRITTEN_AT_ONCE]))


class FlexPolling(_Polling):
    """Whether Flex call recording is on."""

    name = "flex_polling"

    def _begin(self) -> Callable[[OwnedAccount], Any]:
        return self._ask

    async def _ask(self, owned: OwnedAccount) -> None:
        told = await read_flex(owned.account.client)
        if told is None:
            return
        sid = owned.account.sid
        news = flex_news(sid, told, self._observed.flex(sid), self._now_ms())
        await self._write(owned, [] if news is None else [news])


class FlowPolling(_Polling):
    """Which widgets of Studio flows record: each revision is asked for once."""

    name = "flow_polling"

    def _begin(self) -> Callable[[OwnedAccount], Any]:
        latest: dict[str, int] = {}

        async def ask(owned: OwnedAccount) -> None:
            client, sid = owned.account.client, owned.account.sid
            missing: list[tuple[str, int]] = []
            for flow in await read_list(client.studio.v2.flows):
                first = max(1, flow.revision - REVISIONS_MAX + 1, latest.get(flow.sid, 0) + 1)
                missing += [
                    (flow.sid, revision)
                    for revision in range(first, flow.revision + 1)
                    if not self._observed.knows_flow(sid, flow.sid, revision)
                ]
            for at in range(0, len(missing), WRITTEN_AT_ONCE):
                asked = missing[at : at + WRITTEN_AT_ONCE]
                read = await asyncio.gather(*(read_flow(client, flow, revision) for flow, revision in asked))
                await self._write(owned, [flow_news(sid, flow) for flow in read if flow is not None])
                latest.update(asked)

        return ask


class WorkerPolling(_Polling):
    """When agents came online and went offline."""

    name = "worker_polling"

    def _begin(self) -> Callable[[OwnedAccount], Any]:
        return self._ask

    async def _ask(self, owned: OwnedAccount) -> None:
        sid, now_ms = owned.account.sid, self._now_ms()
        news = [
            worker_news(
                sid,
                worker.sid,
                self._observed.worker(sid, worker.sid),
                online=worker.online,
                changed_ms=_ms(worker.changed_at),
                now_ms=now_ms,
            )
            for worker in await read_workers(owned.account.client)
        ]
        await self._write(owned, [each for each in news if each is not None])
