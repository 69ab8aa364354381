"""Account settings: what we know of accounts from outside the stream, looked up by the instant a recording started.

They may be observed in any order and more than once; what is known is a function of the set of observations. It is
also the same whether the topic they are kept in has been compacted or not: of observations that share a key there, one
is kept here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import Final

import msgspec

from monitor.core.events import FlexSetting, FlowSetting, Setting

# Instants of a Flex change kept for one account, the latest ones. A recording that started before them has a Flex
# setting as far as the first one kept says what it had been; and a run of offs may seem to begin with the first kept.
FLEX_KEPT_MAX: Final = 1_000
# Ids of observations remembered, at least. Nothing that is known rests on them: a repeat that comes after so many
# others is counted as an event instead of a duplicate, and says nothing new all the same. So it needs no counter.
IDS_KEPT: Final = 20_000

_VALID: Final = itemgetter(0)


class _Flow(msgspec.Struct, frozen=True, gc=False):
    recording_widgets: tuple[str, ...]


class FlexState(msgspec.Struct, frozen=True, gc=False):
    """Flex call recording at an instant: ``enabled`` None is not known; ``off_since_ms`` None likewise."""

    enabled: bool | None
    off_since_ms: int | None


class AccountSettings:
    """What is known of the accounts from outside the stream, looked up by the recording's start.

    Observations of Flex may come in any order and more than once: what is known is a function of their set. Of those
    valid since one instant the latest stands. Of a flow's revision, which Studio never changes, the observation told
    last stands. There is one entry a flow's revision: as many as the accounts have. Of Flex there is one an instant, at
    most ``FLEX_KEPT_MAX`` an account; ``forgotten`` counts what fell to that bound.
    """

    def __init__(self, *, flex_kept_max: int = FLEX_KEPT_MAX, ids_kept: int = IDS_KEPT) -> None:
        self.forgotten = 0
        self._flex_kept_max = flex_kept_max
        self._ids_kept = ids_kept
        self._flex: dict[str, list[tuple[int, FlexSetting]]] = {}
        self._flows: dict[tuple[str, str, int], _Flow] = {}
        self._ids: set[tuple[str, str]] = set()
        self._older_ids: set[tuple[str, str]] = set()

    def repeats(self, account: str, event_id: str | None) -> bool:
        """Whether this observation has been seen before, by its event's id; it is remembered as seen.

        This is for counting only: what repeats an id is to be observed all the same.
        """
        if event_id is None:
            return False
        seen = (account, event_id)
        if seen in self._ids:
            return True
        repeated = seen in self._older_ids
        if len(self._ids) >= self._ids_kept:
            self._older_ids, self._ids = self._ids, set()
        self._ids.add(seen)
        return repeated

    def observe(self, setting: Setting) -> bool:
        """Take in an observation; whether it told anything new."""
        if isinstance(setting, FlexSetting):
            return self._observe_flex(setting)
        if isinstance(setting, FlowSetting):
            key = (setting.account, setting.flow, setting.revision)
            flow = _Flow(tuple(sorted(setting.recording_widgets)))
            if self._flows.get(key) == flow:
                return False
            self._flows[key] = flow
            return True
        return False  # No verdict rests on when agents log in: each login would have its whole account judged anew.

    def _observe_flex(self, setting: FlexSetting) -> bool:
        known = self._flex.setdefault(setting.account, [])
        valid_ms = setting.observed_ms if setting.since_ms is None else setting.since_ms
        place = bisect_left(known, valid_ms, key=_VALID)
        if place < len(known) and known[place][0] == valid_ms:
            other = known[place][1]
            if _rank(setting) <= _rank(other):
                return False
            known[place] = (valid_ms, setting)
            return _said(setting) != _said(other)
        known.insert(place, (valid_ms, setting))
        if len(known) <= self._flex_kept_max:
            return True
        self.forgotten += 1
        del known[0]  # Always the earliest: which are kept does not depend on the order they came in.
        return place > 0

    def recording_widgets(self, account: str, flow: str | None, revision: int | None) -> tuple[str, ...] | None:
        """The names of a flow revision's widgets that record; None where the revision is not known."""
        if flow is None or revision is None:
            return None
        known = self._flows.get((account, flow, revision))
        return known.recording_widgets if known else None

    def flex(self, account: str, at_ms: int) -> FlexState:
        """The Flex setting at an instant, from the latest observation valid then, else from what a later one says."""
        known = self._flex.get(account, [])
        place = bisect_right(known, at_ms, key=_VALID)
        if place == 0:
            previous = known[0][1].previous if known else None
            return FlexState(previous, None)
        now = known[place - 1][1]
        if place < len(known):
            before_next = known[place][1].previous
            if before_next is not None and before_next != now.enabled:
                return FlexState(None, None)  # It changed in between, and nobody saw when.
        if now.enabled:
            return FlexState(True, None)
        off_since_ms: int | None = None
        for at in range(place - 1, -1, -1):
            setting = known[at][1]
            if setting.enabled:
                break
            if setting.since_ms is not None:
                off_since_ms = setting.since_ms
            if setting.previous is True:
                break  # The run of offs began here.
        return FlexState(False, off_since_ms)


def _rank(setting: FlexSetting) -> tuple[int, bool, bool, str]:
    """Of observations valid since one instant the greatest stands: the latest, and of equals always the same one."""
    return setting.observed_ms, setting.enabled, setting.since_ms is not None, str(setting.previous)


def _said(setting: FlexSetting) -> tuple[bool, int | None, bool | None]:
    """What an observation says; when it was made is no part of that."""
    return setting.enabled, setting.since_ms, setting.previous
