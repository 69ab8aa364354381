"""The audit that ``run`` makes once a day: what changed in an account since the audit that was accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import structlog

from monitor.audit import report
from monitor.audit.drift import Change, changes
from monitor.audit.starts import find_starts
from monitor.core.policy import Policy
from monitor.inputs.account import read_account
from monitor.inputs.rest_work import OwnedAccount
from monitor.twilio.accounts import TwilioAccount
from monitor.twilio.transport import Clock

log = structlog.get_logger(__name__)

LOGGED_MAX: Final = 50
"""Changes of one account that are named in the log; a number says how many there were."""


class Watch(Protocol):
    """Who is told what an audit found."""

    def audited(self, account_sid: str, outcomes: Iterable[str], changed: int, at: float | None) -> None:
        """An account was audited: outcomes of all starts, and how much is otherwise than in the baseline.

        ``at`` in seconds since 1970; None where not all of it could be read.
        """

    def audit_gone(self, account_sid: str) -> None:
        """Somebody else audits this account now."""


class DailyAudit:
    """A job: audits an account every ``every_s`` seconds, against a baseline that people keep (``audit --save``)."""

    name = "audit"

    def __init__(
        self,
        baseline: Path,
        policy: Callable[[], Policy],
        watch: Watch,
        *,
        every_s: float,
        clock: Clock = Clock(),  # noqa: B008 - a tuple of functions.
    ) -> None:
        self._baseline = baseline
        self._policy = policy
        self._watch = watch
        self._every_s = every_s
        self._clock = clock

    async def work(self, owned: OwnedAccount) -> None:
        """Audit, again and again. Raises ``WrongInput`` where the baseline is none, and what asking can come to."""
        while True:
            before = report.load(self._baseline)
            now = self._clock.wall()
            found = find_starts([await read_account(owned.account)], self._policy(), now)
            changed = changes(before, found)
            for unread in found.unread:
                log.warning("audit_part_not_read", account_sid=unread.account_sid, part=unread.part, why=unread.why)
            for change in changed[:LOGGED_MAX]:
                log.warning("audit_found_change", **_said(change))
            log.info("audit_done", account_sid=owned.account.sid, starts=len(found.starts), changes=len(changed))
            outcomes = [start.outcome for start in found.starts]
            at = None if found.unread else now.timestamp()
            self._watch.audited(owned.account.sid, outcomes, len(changed), at)
            await self._clock.sleep(self._every_s)

    def failed(self, account: TwilioAccount, error: Exception) -> None:
        """It is said by whoever runs us; the instant of the last audit grows old, which is an alert."""

    def gone(self, account: TwilioAccount) -> None:
        """Somebody else tells of it now."""
        self._watch.audit_gone(account.sid)


def _said(change: Change) -> dict[str, str | None]:
    place = str(change.what.place)
    return {
        "account_sid": change.what.account_sid,
        "change": change.kind,
        "place": place,
        "before": change.before,
        "after": change.after,
    }
