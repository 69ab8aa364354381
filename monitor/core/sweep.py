"""What concerns everything that is open (another policy, other settings, the end of a rebuild), a few at a time.

To judge a window that is full takes a minute. Whoever reads on meanwhile tells of what arrives in time; what an event
changes is judged at once all the same, and what is swept after that finds nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from monitor.core.conversation import Conversation
from monitor.core.window import Account

LOOKED_AT: Final = 64  # For each that may be taken: to pass over one that holds nothing to judge costs next to nothing.


class Sweep:
    """The conversations that are still to be judged again: those of the present account, and accounts to come."""

    def __init__(self) -> None:
        self._accounts: dict[str, None] = {}
        self._left: list[Conversation] = []  # Each as often as it has members.
        self._taken: set[int] = set()  # Of these, by identity.
        self._since = 0
        self._by_policy = False
        self._judged: set[int] = set()

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._left or self._accounts)

    def begin(self, accounts: Iterable[str], since: int, *, by_policy: bool) -> None:
        """Everything of these accounts is to be judged again, and was not before message ``since``."""
        self._accounts |= dict.fromkeys(accounts)
        if by_policy:
            self._since, self._by_policy = since, True
            self._judged.clear()

    def take(self, accounts: Mapping[str, Account], most: int) -> list[Conversation]:
        """The next ones that hold something to judge, at most so many; perhaps none of them, though some are left.

        Of an account the newest come first: what a rebuild has found that nobody was told of is most likely theirs.
        """
        taken: list[Conversation] = []
        for _ in range(most * LOOKED_AT):
            if len(taken) >= most or (not self._left and not self._next_account(accounts)):
                break
            conversation = self._left.pop()
            holds_any = conversation.open and (conversation.recordings or conversation.suspects)
            if holds_any and id(conversation) not in self._taken:
                self._taken.add(id(conversation))
                taken.append(conversation)
        return taken

    def _next_account(self, accounts: Mapping[str, Account]) -> bool:
        self._taken.clear()
        while self._accounts:
            sid = next(iter(self._accounts))
            del self._accounts[sid]
            if sid in accounts and accounts[sid].index:
                self._left = list(accounts[sid].index.values())
                return True
        self._by_policy = False
        self._judged.clear()
        return False

    def by_policy(self, conversation: Conversation) -> bool:
        """Whether one that is about to be judged is so for the first time under another policy: it counts as judged."""
        if not self._by_policy or conversation.birth.offset >= self._since or id(conversation) in self._judged:
            return False
        self._judged.add(id(conversation))
        return True
