"""Agents whose Flex sessions may be older than the change of the setting: who has to log out and in, and what they did.

Flex reads the setting when an agent's session begins, so that whoever was logged in when recording was switched off
goes on recording. https://support.twilio.com/hc/en-us/articles/46867407476891
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.events import WorkerSession
from monitor.core.verdict import Verdict, read_instant, render_instant

STALE: Final = "stale"  # Began before the change, and goes on.
UNKNOWN: Final = "unknown"
RENEWED: Final = "renewed"  # Began after the change.
OFFLINE: Final = "offline"

_WORKER: Final = re.compile(r"\bWK[0-9a-f]{32}\b")


class AgentSession(msgspec.Struct, frozen=True):
    """A worker of an account where Flex recording is off. ``session`` is one of the words above.

    ``off_since`` and ``online_since`` None: not known. ``recordings``: those of stale sessions, since recording is
    off, in whose tasks the worker had a hand; ``last_recording_at`` is when the last of them started.
    """

    account_sid: str
    worker_sid: str
    session: str
    off_since: str | None
    online_since: str | None
    recordings: int
    last_recording_at: str | None

    @property
    def must_log_in(self) -> bool:
        """Whether this agent has to log out of Flex and in again, as far as anybody knows."""
        return self.session == STALE or (self.session == UNKNOWN and self.recordings > 0)


def agent_sessions(
    settings: AccountSettings,
    workers: Mapping[tuple[str, str], WorkerSession],
    verdicts: Iterable[Verdict],
    now_ms: int,
) -> list[AgentSession]:
    """The workers of accounts where Flex recording is off, those who must log in first, then by what they left.

    ``workers`` holds what was said of them last, by account and worker; of others the verdicts tell.
    """
    started: dict[tuple[str, str], list[int]] = {}
    for verdict in verdicts:
        if verdict.cause != "flex_stale_session" or verdict.started_at is None:
            continue
        for worker in {worker for shown in verdict.evidence for worker in _WORKER.findall(shown.shows)}:
            started.setdefault((verdict.account_sid, worker), []).append(read_instant(verdict.started_at))
    found: list[AgentSession] = []
    for account, worker in dict.fromkeys((*workers, *started)):
        flex = settings.flex(account, now_ms)
        if flex.enabled is not False:
            continue
        off_ms, session = flex.off_since_ms, workers.get((account, worker))
        since = sorted(at_ms for at_ms in started.get((account, worker), ()) if off_ms is None or at_ms >= off_ms)
        online_ms = None if session is None else session.available_since_ms
        found.append(
            AgentSession(
                account,
                worker,
                _session(session, off_ms),
                _instant(off_ms),
                _instant(online_ms),
                len(since),
                _instant(since[-1] if since else None),
            )
        )
    return sorted(found, key=lambda each: (not each.must_log_in, -each.recordings, each.account_sid, each.worker_sid))


def _session(session: WorkerSession | None, off_ms: int | None) -> str:
    if session is None:
        return UNKNOWN
    online_ms, offline_ms = session.available_since_ms, session.offline_since_ms
    if offline_ms is not None and (online_ms is None or offline_ms >= online_ms):
        return OFFLINE
    if online_ms is None or off_ms is None:
        return UNKNOWN
    return STALE if online_ms < off_ms else RENEWED


def _instant(ms: int | None) -> str | None:
    return None if ms is None else render_instant(ms)
