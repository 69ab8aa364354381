"""What a request asks for: the list that an address names, and the action that a form or a document describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Final
from urllib.parse import urlencode

import msgspec

from monitor.core.policy import OUTCOMES
from monitor.core.verdict import render_instant
from monitor.outputs.cases import (
    ACCEPTED,
    ACKNOWLEDGE,
    CATEGORIES,
    CLOSE,
    COMMENT,
    EXPLAIN,
    REOPEN,
    CaseAction,
    Listed,
    Wanted,
)

TEXT_MAX: Final = 2_000
KINDS: Final = (ACKNOWLEDGE, EXPLAIN, CLOSE, REOPEN, COMMENT)
STATES: Final = ("open", "past", "all")
KEY: Final = r"[A-Z]{2}[0-9A-Za-z]{1,64}"
_AFTER: Final = re.compile(rf"([01])-([0-9]{{1,15}})-({KEY})")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A list of cases as its address names it."""

    state: str = "open"
    account: str = ""
    cause: str = ""
    rule: str = ""
    outcome: str = ""
    handled: str = ""
    q: str = ""
    after: str = ""

    def wanted(self, accounts: Mapping[str, str]) -> Wanted:
        """What is asked of the view; ``accounts`` are SIDs by alias."""
        return Wanted(
            # Who searches for a SID wants it wherever it is.
            open=None if self.q else {"open": True, "past": False}.get(self.state),
            account=accounts.get(self.account, self.account) or None,
            cause=None if not self.cause else "" if self.cause == UNKNOWN_CAUSE else self.cause,
            rule=self.rule or None,
            outcome=self.outcome or None,
            handled=self.handled or None,
            sid=self.q or None,
        )

    def place(self) -> tuple[bool, int, str] | None:
        """After which case the page begins."""
        found = _AFTER.fullmatch(self.after)
        return None if found is None else (found[1] == "1", int(found[2]), found[3])

    def query(self, **changes: str) -> str:
        """The query of the same list, or of one that differs in something; what is as usual is left out."""
        values = {**msgspec.structs.asdict(self), **changes}
        usual = msgspec.structs.asdict(Asked())
        return urlencode({name: value for name, value in values.items() if value != usual[name]})


UNKNOWN_CAUSE: Final = "unknown"
"""How an address names cases without a cause."""


def read_asked(query: Mapping[str, str]) -> Asked:
    """Read the query of an address; what is none of ours is passed over."""
    given = {name: query[name].strip()[:200] for name in Asked.__struct_fields__ if name in query}
    if given.get("state", "open") not in STATES:
        del given["state"]
    if given.get("outcome", "") not in ("", *OUTCOMES):
        del given["outcome"]
    if given.get("handled", "") not in ("", "yes", "no"):
        del given["handled"]
    return Asked(**given)


def place_after(last: Listed) -> str:
    """How an address names the place behind a case of a list."""
    return f"{last.live:d}-{last.changed_ms}-{last.key}"


class WrongAction(Exception):
    """What is wrong with an action, in a sentence that says what to do."""


def read_action(key: str, given: Mapping[str, object], by: str | None, now_ms: int) -> CaseAction:
    """The action that a form, a document or a command line describes. Raises ``WrongAction``."""
    kind, category = _word(given, "kind"), _word(given, "category")
    text, until = _word(given, "text"), _word(given, "until")
    if kind not in KINDS:
        raise WrongAction(f"Say what to do: one of {', '.join(KINDS)}.")
    if len(text) > TEXT_MAX:
        raise WrongAction(f"The text is too long: at most {TEXT_MAX} characters.")
    if kind == COMMENT and not text:
        raise WrongAction("A comment needs a text.")
    if kind == EXPLAIN and category not in CATEGORIES:
        raise WrongAction(f"Say what explains it: one of {', '.join(CATEGORIES)}.")
    accepts = kind == EXPLAIN and category == ACCEPTED
    if accepts and not _is_day(until):
        raise WrongAction("Say until which day it is accepted: 2026-12-31.")
    return CaseAction(
        kind=kind,
        recording_sid=key,
        at=render_instant(now_ms),
        by=by,
        text=text or None,
        category=category if kind == EXPLAIN else None,
        until=until if accepts else None,
    )


def _word(given: Mapping[str, object], name: str) -> str:
    value = given.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
