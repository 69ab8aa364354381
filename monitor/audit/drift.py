"""What changed between two audits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from monitor.audit import account, starts
from monitor.audit.starts import Audit, Look, Start

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"

_PART_OF: Final = {
    starts.FLEX: (account.FLEX,),
    starts.WIDGET: (account.FLOWS,),
    starts.TRUNK: (account.TRUNKS,),
}
_LINES: Final = (account.NUMBERS, account.APPLICATIONS, account.SIP_DOMAINS, account.FLOWS)

_Key = tuple[str | None, ...]


class Change(msgspec.Struct, frozen=True):
    """One difference: ``kind`` is ``added``, ``removed`` or ``changed``; before and after are None where there is none.

    ``what`` is the start or the look as it is now, or was where it is gone.
    """

    kind: str
    what: Start | Look
    before: str | None
    after: str | None


def changes(before: Audit, now: Audit) -> tuple[Change, ...]:
    """What is new, gone or otherwise since an earlier audit.

    A new revision of a flow that does the same is no change. What could not be asked this time is not gone.
    """
    return tuple(_changes(before, now))


def _changes(before: Audit, now: Audit) -> Iterator[Change]:
    was, is_ = _by_key(before), _by_key(now)
    unread = {(each.account_sid, each.part) for each in now.unread}
    for key, what in is_.items():
        if key not in was:
            yield Change(ADDED, what, None, _said(what))
        elif _said(was[key]) != _said(what):
            yield Change(CHANGED, what, _said(was[key]), _said(what))
    for key, what in was.items():
        parts = _PART_OF.get(what.place.kind, _LINES)
        asked = what.account_sid in now.accounts and not any((what.account_sid, part) in unread for part in parts)
        if key not in is_ and asked:
            yield Change(REMOVED, what, _said(what), None)


def _by_key(audit: Audit) -> dict[_Key, Start | Look]:
    whole: tuple[Start | Look, ...] = (*audit.starts, *audit.looks)
    return {_key(what): what for what in whole}


def _key(what: Start | Look) -> _Key:
    place = what.place
    cause = what.cause if isinstance(what, Start) else None
    return (what.account_sid, place.kind, place.sid, place.widget, place.address, cause)


def _said(what: Start | Look) -> str:
    if isinstance(what, Look):
        return "look"
    return what.outcome if what.detail is None else f"{what.outcome}, {what.detail}"
