"""What concerns all that is open is judged again once each, the newest first, also in an account of many parts."""

from __future__ import annotations

import pytest

from monitor.core.conversation import Birth, Conversation, Seen
from monitor.core.parted import PARTS, WHOLE_MAX
from monitor.core.sweep import NEWEST, Sweep
from monitor.core.window import Account

MEMBERS = 3


def account_of(sid: str, conversations: int) -> Account:
    account = Account(sid)
    for number in range(conversations):
        members = tuple(f"CA{number:030x}{member:02x}" for member in range(MEMBERS))
        conversation = Conversation(sid, members, Birth(number, 0, 0, 0), 0, 0, truncated=False)
        conversation.recordings = (Seen("RE", 0, number, 0),)
        account.index.put_all(members, conversation)
    return account


def swept(sweep: Sweep, accounts: dict[str, Account], *, most: int = 4) -> list[Conversation]:
    """All that is taken, each judged at once."""
    found: list[Conversation] = []
    while sweep:
        taken = sweep.take(accounts, most)
        assert len(taken) <= most
        for conversation in taken:
            sweep.judge(conversation)
        found += taken
    return found


@pytest.mark.parametrize("conversations", [7, 20_000])
def test_each_is_taken_once_and_the_newest_first(conversations: int):
    accounts = {"AC1": account_of("AC1", conversations), "AC2": account_of("AC2", 2)}
    sweep = Sweep()
    sweep.begin(accounts, conversations, by_policy=False)
    found = swept(sweep, accounts)
    assert len({id(conversation) for conversation in found}) == len(found) == conversations + 2
    offsets = [conversation.birth.offset for conversation in found if conversation.account == "AC1"]
    if conversations < WHOLE_MAX // MEMBERS:
        assert offsets == list(range(conversations))[::-1]
    else:
        assert min(offsets[:PARTS]) > 0.85 * conversations  # The last member of each part.
        assert min(offsets[: PARTS * NEWEST // MEMBERS // 2]) > 0.3 * conversations


def test_what_was_judged_since_or_has_closed_or_holds_nothing_to_judge_is_left_out():
    accounts = {"AC1": account_of("AC1", 6)}
    judged, closed, nothing, *others = {id(c): c for c in accounts["AC1"].index.values()}.values()
    closed.open, nothing.recordings = False, ()
    sweep = Sweep()
    sweep.judge(judged)  # Before: of no account.
    sweep.begin(accounts, 9, by_policy=False)
    sweep.judge(judged)
    assert swept(sweep, accounts) == others[::-1]
    sweep.begin(["AC1"], 9, by_policy=False)
    assert swept(sweep, accounts) == [*others[::-1], judged]


def test_only_the_first_time_is_by_another_policy_and_only_of_what_was_there():
    accounts = {"AC1": account_of("AC1", 4)}
    first, second, third, young = {id(c): c for c in accounts["AC1"].index.values()}.values()
    sweep = Sweep()
    assert not sweep.judge(first)
    sweep.begin(accounts, 3, by_policy=True)
    assert sweep.judge(first)
    assert not sweep.judge(first)
    assert not sweep.judge(young)
    sweep.begin(accounts, 4, by_policy=False)  # Other settings, in the midst of it.
    assert sweep.judge(second)
    for taken in iter(lambda: sweep.take(accounts, 1), []):
        assert sweep.judge(taken[0]) == (taken[0] is third)
    assert not sweep
    sweep.begin(accounts, 9, by_policy=False)
    assert not any(sweep.judge(each) for each in (first, second, third, young))
