"""REST work: what the owner of an account asks Twilio about it, for as long as the account is its own.

A *job* is one kind of that work. Of each job one task runs for each account that is ours, is cancelled when the account
goes to somebody else, and begun again when it fails. What a job finds it writes as events of ours, acknowledged; what
it has to remember it writes into the topic of account settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

from monitor.errors import OutOfReach, OutputUnavailable, WrongInput
from monitor.inputs.owned_accounts import OwnedAccounts
from monitor.inputs.relay import FullError, Relay
from monitor.settings import Settings
from monitor.twilio.accounts import Twilio, TwilioAccount
from monitor.twilio.transport import Clock, Told

log = structlog.get_logger(__name__)

ACCOUNTS_EVERY_S: Final = 600.0
"""How often subaccounts are listed anew."""
LOOK_EVERY_S: Final = 5.0
"""How often it is looked where accounts are: of one whose first event came somewhere else nobody is told."""
AGAIN_S: Final = (5.0, 15.0, 60.0, 120.0)
"""How long a job that failed waits before it begins again; the first after it went well for that long."""
WRITE_S: Final = 30.0
"""How long the brokers have to take an event. What fails then is done again by the job."""
SAID_EVERY_S: Final = 600.0
"""How often the same trouble is said."""


class Topics(NamedTuple):
    """Where REST work writes."""

    events: str
    account_settings: str


class OwnedAccount:
    """An account whose REST work is ours: who to ask, where it is, and how to write what was found.

    ``account`` is the latest client; do not keep it over a wait.
    """

    def __init__(self, account: TwilioAccount, partition: int, relay: Relay, topics: Topics) -> None:
        self.account = account
        self.partition: Final = partition
        self._relay = relay
        self._topics = topics

    async def write_events(self, values: Sequence[bytes]) -> None:
        """Write events into the partition where the account is; return once the brokers have them.

        Raises OutputUnavailable, and then some of them may be there.
        """
        messages = [(self._topics.events, self.account.sid, value) for value in values]
        await self._write(messages, self.partition)

    async def write_settings(self, values: Mapping[str, bytes]) -> None:
        """Write messages into the topic of account settings by key; return once the brokers have them.

        Raises OutputUnavailable, and then some of them may be there.
        """
        await self._write([(self._topics.account_settings, key, value) for key, value in values.items()], None)

    async def _write(self, messages: Sequence[tuple[str, str, bytes]], partition: int | None) -> None:
        until = asyncio.get_running_loop().time() + WRITE_S
        try:
            said = await self._relay.send(messages, until=until, partition=partition)
        except FullError:
            raise OutputUnavailable("too much is on its way to the brokers") from None
        if said != "acknowledged":
            raise OutputUnavailable(f"the brokers did not take what was found: {said}")


class Job(Protocol):
    """One kind of REST work."""

    @property
    def name(self) -> str:
        """What it is called in the log."""

    async def work(self, owned: OwnedAccount) -> None:
        """Do the work for one account for as long as it is ours: this is cancelled when it is no more.

        What Twilio or the brokers can come to (WrongInput, OutOfReach) may be raised: it is said, and the job begun
        again. One that returns is done for as long as the account stays ours.
        """

    def failed(self, account: TwilioAccount, error: Exception) -> None:
        """``work`` raised this, and will be begun again."""

    def gone(self, account: TwilioAccount) -> None:
        """The account is not ours any more: nothing is to be told of it from here."""


class RestWork:
    """Runs jobs for the accounts that are ours. It belongs to one loop; ``changed`` may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        owned: OwnedAccounts,
        relay: Relay,
        jobs: Sequence[Job],
        *,
        topics: Topics,
        clock: Clock = Clock(),  # noqa: B008 - a tuple of functions.
        on_accounts: Callable[[str, Exception | None], None] = lambda _alias, _error: None,
        told: Told | None = None,
    ) -> None:
        """``on_accounts`` is told of each alias whether its accounts can be listed, or why they can't; ``told`` what
        every request came to.
        """
        self._settings = settings
        self._owned = owned
        self._relay = relay
        self._jobs = jobs
        self._topics = topics
        self._clock = clock
        self._on_accounts = on_accounts
        self._told = told
        self._known: dict[str, list[TwilioAccount]] = {}  # By alias of the settings.
        self._running: dict[str, tuple[OwnedAccount, list[asyncio.Task[None]]]] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def aliases(settings: Settings) -> list[str]:
        """The accounts of the settings that can be asked about: those with credentials."""
        return [
            account.alias
            for account in settings.accounts
            if account.auth_token_file is not None or account.api_key_secret_file is not None
        ]

    async def start(self) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()
        await self._relay.start()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_say_why)

    async def stop(self, for_s: float) -> None:
        """End all work, and let what is on its way arrive within ``for_s``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._relay.stop(for_s)

    def changed(self) -> None:
        """Accounts may have come or gone."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended: so has all of this.
                self._loop.call_soon_threadsafe(self._changed.set)

    async def _run(self) -> None:
        async with Twilio(self._settings, clock=self._clock, told=self._told) as twilio:
            due = dict.fromkeys(self.aliases(self._settings), 0.0)
            try:
                while True:
                    now = self._clock.now()
                    if self._owned.partitions:  # Else nothing is ours, and nobody need be asked.
                        for alias in [alias for alias, at in due.items() if at <= now]:
                            listed = await self._list(twilio, alias)
                            due[alias] = self._clock.now() + (ACCOUNTS_EVERY_S if listed else AGAIN_S[1])
                    await self._adjust()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), LOOK_EVERY_S)
                    self._changed.clear()
            finally:
                await self._end(list(self._running))

    async def _list(self, twilio: Twilio, alias: str) -> bool:
        """Find the accounts of one alias; those that were known stay so where Twilio does not tell."""
        try:
            self._known[alias] = await twilio.accounts(alias=alias)
        except (WrongInput, OutOfReach) as error:
            self._say("accounts_not_listed", alias, error)
            self._on_accounts(alias, error)
            return False
        self._on_accounts(alias, None)
        return True

    async def _adjust(self) -> None:
        """Have jobs run for what is ours, and for nothing else."""
        accounts = {account.sid: account for known in self._known.values() for account in known}
        ours = {sid: where for sid in accounts if (where := self._owned.partition_of(sid)) is not None}
        await self._end([sid for sid, (owned, _) in self._running.items() if ours.get(sid) != owned.partition])
        for sid, partition in ours.items():
            if sid in self._running:
                self._running[sid][0].account = accounts[sid]
                continue
            owned = OwnedAccount(accounts[sid], partition, self._relay, self._topics)
            tasks = [asyncio.create_task(self._keep(job, owned)) for job in self._jobs]
            self._running[sid] = (owned, tasks)
            log.info("account_taken", account_sid=sid, partition=partition)

    async def _end(self, sids: Sequence[str]) -> None:
        ended = [(sid, *self._running.pop(sid)) for sid in sids]
        for _, _, tasks in ended:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*[task for _, _, tasks in ended for task in tasks], return_exceptions=True)
        for sid, owned, _ in ended:
            for job in self._jobs:
                job.gone(owned.account)
            log.info("account_given_up", account_sid=sid, partition=owned.partition)

    async def _keep(self, job: Job, owned: OwnedAccount) -> None:
        """Run a job for an account, again and again while it fails."""
        failures = 0
        while True:
            began = self._clock.now()
            try:
                await job.work(owned)
            except (WrongInput, OutOfReach) as error:
                self._say(f"{job.name}_failed", owned.account.sid, error)
                job.failed(owned.account, error)
            except Exception as bug:
                # One job's fault must not end the others. The error's own text may quote what Twilio said.
                where = traceback.extract_tb(bug.__traceback__)[-1]
                log.error(
                    "rest_work_raised",
                    job=job.name,
                    error=type(bug).__name__,
                    where=f"{Path(where.filename).name}:{where.lineno}",
                )
                job.failed(owned.account, bug)
            else:
                return
            failures = 0 if self._clock.now() - began > AGAIN_S[-1] else failures
            wait_s = AGAIN_S[min(failures, len(AGAIN_S) - 1)]
            failures += 1
            await self._clock.sleep(wait_s * (0.8 + 0.4 * self._clock.jitter()))

    def _say(self, event: str, about: str, error: Exception) -> None:
        now = self._clock.now()
        if now - self._said.get((event, about), -SAID_EVERY_S) >= SAID_EVERY_S:
            if len(self._said) > 10_000:
                self._said.clear()
            self._said[event, about] = now
            log.warning(event, about=about, why=str(error))


def _say_why(task: asyncio.Task[None]) -> None:
    """Work that has ended by itself is a bug of ours, and nobody lists anything any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("rest_work_ended", error=type(error).__name__)
