"""What concerns everything that is open (another policy, other settings, the end of a rebuild), a few at a time.

To judge a window that is full takes a minute. Whoever reads on meanwhile tells of what arrives in time; what an event
changes is judged at once, and is not swept any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Final

from monitor.core.compacted import Table
from monitor.core.conversation import Conversation
from monitor.core.parted import Parted
from monitor.core.window import Account

LOOKED_AT: Final = 64  # For each that may be taken: to pass over one of which there is nothing to do costs little.
NEWEST: Final = 64  # Of each part of a large account, so many come before all else.
_NOTHING: Final[Parted[Conversation]] = Table()


class Sweep:
    """The conversations that are still to be judged again: those at hand, the rest of their account, other accounts.

    Changes are numbered, and a conversation knows the last one that it was judged after (``swept``).
    """

    def __init__(self) -> None:
        self._change = 0
        self._accounts: dict[str, int] = {}  # Those to come, each with the last change that concerns it.
        self._index = _NOTHING  # Of the account at hand, of which
        self._parts = 0  # so many parts are left.
        self._left: list[Conversation] = []  # At hand: each as often as it has members there.
        self._left_change = 0  # To be judged again are those that were not since this one.
        self._by_policy = 0  # The last change that was one of the policy, while that is swept.
        self._since = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._left or self._parts or self._accounts or self._by_policy)

    def begin(self, accounts: Iterable[str], since: int, *, by_policy: bool) -> None:
        """Everything of these accounts is to be judged again, and was not before message ``since``."""
        self._change += 1
        self._accounts |= dict.fromkeys(accounts, self._change)
        if by_policy:
            self._since, self._by_policy = since, self._change

    def take(self, accounts: Mapping[str, Account], most: int) -> list[Conversation]:
        """The next ones that hold something to judge, at most so many; perhaps none of them, though some are left.

        Of an account the newest come first: what a rebuild has found that nobody was told of is most likely theirs.
        """
        taken: list[Conversation] = []
        for _ in range(most * LOOKED_AT):
            if len(taken) >= most or (not self._left and not self._next(accounts)):
                break
            conversation = self._left.pop()
            holds_any = conversation.open and (conversation.recordings or conversation.suspects)
            if holds_any and conversation.swept < self._left_change and conversation not in taken:
                taken.append(conversation)
        return taken

    def _next(self, accounts: Mapping[str, Account]) -> bool:
        """Have more at hand: another part of the account, or another account; False where none is left.

        To list a large account as a whole would take some 20 ms.
        """
        while not self._left:
            if self._parts:
                self._parts -= 1
                self._left = self._index.values_of(self._parts)
                if not self._parts:
                    self._index = _NOTHING  # It is not kept from going with its account.
            elif self._accounts:
                sid = next(iter(self._accounts))
                self._left_change = self._accounts.pop(sid)
                if sid in accounts:
                    self._index = accounts[sid].index
                    self._parts = self._index.parts_count
                    if self._parts > 1:
                        self._left = _newest(self._index)
            else:
                self._by_policy = 0
                return False
        return True

    def judge(self, conversation: Conversation) -> bool:
        """Say that one is about to be judged; whether for the first time under another policy."""
        before, conversation.swept = conversation.swept, self._change
        return before < self._by_policy and conversation.birth.offset < self._since


def _newest(index: Parted[Conversation]) -> list[Conversation]:
    """Those of the last members of each part, the newest last."""
    lasts = [index.newest_of(part, NEWEST) for part in range(index.parts_count)]
    found = [conversation for row in zip_longest(*lasts) for conversation in row if conversation is not None]
    return found[::-1]
