"""Account settings: what we know of accounts from outside the stream, looked up by the instant a recording started.

They may be observed in any order and more than once; what is known is a function of the set of observations.
"""

from __future__ import annotations

from bisect import bisect_right, insort

import msgspec

from monitor.core.events import FlexSetting, FlowSetting, Setting, WorkerSession


class _Flow(msgspec.Struct, frozen=True, gc=False):
    recording_widgets: tuple[str, ...]


class FlexState(msgspec.Struct, frozen=True, gc=False):
    """Flex call recording at an instant: ``enabled`` None is not known; ``off_since_ms`` None likewise."""

    enabled: bool | None
    off_since_ms: int | None


class AccountSettings:
    """What is known of the accounts from outside the stream, looked up by the recording's start.

    Observations of Flex may come in any order and more than once: what is known is a function of their set. Of a flow's
    revision, which Studio never changes, the observation told last stands.
    """

    def __init__(self) -> None:
        self._flex: dict[str, list[tuple[int, int, FlexSetting]]] = {}
        self._flows: dict[tuple[str, str, int], _Flow] = {}
        self._workers: dict[tuple[str, str], WorkerSession] = {}
        self._ids: set[tuple[str, str]] = set()

    def repeats(self, account: str, event_id: str | None) -> bool:
        """Whether this observation has been seen before, by its event's id; it is remembered as seen."""
        if event_id is None or (account, event_id) in self._ids:
            return event_id is not None
        self._ids.add((account, event_id))
        return False

    def observe(self, setting: Setting) -> bool:
        """Take in an observation; whether it told anything new."""
        if isinstance(setting, FlexSetting):
            valid_ms = setting.observed_ms if setting.since_ms is None else setting.since_ms
            known = self._flex.setdefault(setting.account, [])
            entry = (valid_ms, setting.observed_ms, setting)
            if any(entry[2] == other for _, _, other in known):
                return False
            insort(known, entry, key=lambda e: (e[0], e[1], e[2].enabled, str(e[2].previous)))
            return True
        if isinstance(setting, FlowSetting):
            key = (setting.account, setting.flow, setting.revision)
            flow = _Flow(tuple(sorted(setting.recording_widgets)))
            if self._flows.get(key) == flow:
                return False
            self._flows[key] = flow
            return True
        session = self._workers.get((setting.account, setting.worker))
        if session is not None and session.observed_ms >= setting.observed_ms:
            return False
        self._workers[setting.account, setting.worker] = setting
        return True

    def recording_widgets(self, account: str, flow: str | None, revision: int | None) -> tuple[str, ...] | None:
        """The names of a flow revision's widgets that record; None where the revision is not known."""
        if flow is None or revision is None:
            return None
        known = self._flows.get((account, flow, revision))
        return known.recording_widgets if known else None

    def flex(self, account: str, at_ms: int) -> FlexState:
        """The Flex setting at an instant, from the latest observation valid then, else from what a later one says."""
        known = self._flex.get(account, [])
        place = bisect_right(known, at_ms, key=lambda e: e[0])
        if place == 0:
            previous = known[0][2].previous if known else None
            return FlexState(previous, None)
        now = known[place - 1][2]
        if place < len(known):
            before_next = known[place][2].previous
            if before_next is not None and before_next != now.enabled:
                return FlexState(None, None)  # It changed in between, and nobody saw when.
        if now.enabled:
            return FlexState(True, None)
        off_since_ms: int | None = None
        for at in range(place - 1, -1, -1):
            setting = known[at][2]
            if setting.enabled:
                break
            if setting.since_ms is not None:
                off_since_ms = setting.since_ms
            if setting.previous is True:
                break  # The run of offs began here.
        return FlexState(False, off_since_ms)
