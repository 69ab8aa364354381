"""The window: what belongs together is together, closes at its time, costs no more than it may, and leaves nothing."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.compacted import COMPILED
from monitor.core.conversation import Conversation, digest_of, holds
from monitor.core.events import (
    AnyFact,
    CallFact,
    ConferenceFact,
    Event,
    ParticipantFact,
    RecordingFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.window import BUCKET_MS, RECORDINGS_KEPT_FACTOR, Cut, Window, book_of

ACCOUNTS: Final = ("AC1", "AC2")
WINDOW_MS: Final = 100_000
GRACE_MS: Final = 7_000
NOW_MS: Final = 1_000_000


def window_of(*, entries_max: int = 1_000, cut: Cut | None = None) -> Window:
    return Window(
        window_ms=WINDOW_MS,
        grace_ms=GRACE_MS,
        age_max_ms=1 << 50,
        entries_max=entries_max,
        conferences_max=3,
        cut=cut,
    )


def event(
    *members: str, id_: str | None = None, account: str = "AC1", at_ms: int = NOW_MS, facts: tuple[AnyFact, ...] = ()
) -> Event:
    return Event("com.example", id_, account, at_ms, None, members, facts)


def recording(name: str, call: str) -> Event:
    fact = RecordingFact(name, call, None, "DialVerb", None, None, None, None, "stream")
    return event(name, call, facts=(fact,))


def members_of(window: Window) -> set[tuple[str, frozenset[str]]]:
    return {(c.account, frozenset(c.members)) for c in window.conversations()}


# --------------------------------------------------------------------------- against a plain model


class Modelled(NamedTuple):
    """A conversation of the model: what belongs to it, the ids it has had, where it began, its last arrival."""

    account: str
    members: frozenset[str]
    ids: frozenset[str]
    first: int
    last_ms: int


class Model:
    """The window as one would write it without a thought of speed: a list, looked through for every event."""

    def __init__(self) -> None:
        self.open: list[Modelled] = []

    def advance(self, now_ms: int) -> list[frozenset[str]]:
        closed = [one for one in self.open if one.last_ms + WINDOW_MS <= now_ms]
        self.open = [one for one in self.open if one.last_ms + WINDOW_MS > now_ms]
        return [one.members for one in sorted(closed, key=lambda one: one.last_ms)]

    def fold(self, one: Event, offset: int, now_ms: int) -> bool:
        """Whether it is a duplicate."""
        touched = [c for c in self.open if c.account == one.account and c.members & set(one.members)]
        others = [c for c in self.open if c not in touched]
        for member in one.members:
            for conversation in touched:
                if member in conversation.members and one.id in conversation.ids:
                    others += [c for c in touched if c is not conversation]
                    self.open = [*others, conversation._replace(last_ms=now_ms)]
                    return True
        ids = {id_ for c in touched for id_ in c.ids} | ({one.id} if one.id is not None else set())
        members = {member for c in touched for member in c.members} | set(one.members)
        first = min([c.first for c in touched], default=offset)
        self.open = [*others, Modelled(one.account, frozenset(members), frozenset(ids), first, now_ms)]
        return False


MEMBERS: Final = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True)
STEPS: Final = st.sampled_from([0, 0, 1, 4_999, BUCKET_MS, 60_000, WINDOW_MS - 1, WINDOW_MS, WINDOW_MS + 1])


@given(
    st.lists(
        st.tuples(MEMBERS, st.sampled_from(ACCOUNTS), st.none() | st.sampled_from("123"), STEPS),
        min_size=1,
        max_size=25,
    )
)
def test_conversations_are_what_a_plain_model_says(arrivals):
    window, model, now_ms = window_of(), Model(), NOW_MS
    for offset, (members, account, id_, step_ms) in enumerate(arrivals):
        now_ms += step_ms
        due_ms = window.due_ms
        closed = [frozenset(conversation.members) for conversation in window.advance(now_ms)]
        expected = model.advance(now_ms)
        # Of those that end at one instant the order is free; nothing is due before the window says so.
        assert sorted(map(sorted, closed)) == sorted(map(sorted, expected))
        assert not expected or due_ms <= now_ms
        one = event(*members, id_=id_, account=account)
        assert window.fold(one, offset, 0, now_ms).duplicate == model.fold(one, offset, now_ms)

        assert members_of(window) == {(c.account, c.members) for c in model.open}
        assert window.open_conversations == len(model.open)
        birth = window.oldest_birth()
        assert birth is not None
        assert birth.offset == min(c.first for c in model.open)


@given(st.lists(st.tuples(MEMBERS, st.integers(0, 3 * BUCKET_MS)), min_size=1, max_size=12))
def test_conversations_close_in_order_of_their_deadlines(arrivals):
    window, now_ms = window_of(), NOW_MS
    for offset, (members, step_ms) in enumerate(arrivals):
        now_ms += step_ms
        list(window.advance(now_ms))
        window.fold(event(*members), offset, 0, now_ms)
    deadlines = [conversation.last_ms for conversation in window.advance(now_ms + 2 * WINDOW_MS)]

    assert deadlines == sorted(deadlines)


NAMES: Final = st.sampled_from(["room", "hall"])
CALLS: Final = st.sampled_from(["CA1", "CA2", "CA3"])
CONFERENCES: Final = st.sampled_from(["CF1", "CF2", "CF3"])


@st.composite
def named(draw: st.DrawFn) -> Event:
    """An event that may bind by a conference's name."""
    at_ms = NOW_MS + draw(st.sampled_from([-150_000, -120_000, -5_000, 0, 1_000, 60_000]))
    call, conference, name = draw(CALLS), draw(CONFERENCES), draw(NAMES)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return event(call, at_ms=at_ms, facts=(TwimlFact(call, name),))
    if kind == 1:
        phase = draw(st.sampled_from(["join", "leave"]))
        return event(conference, call, at_ms=at_ms, facts=(ParticipantFact(conference, call, phase, name, None),))
    if kind == 2:
        return recording("RE1", call)
    phase = draw(st.sampled_from(["start", "end", "seen"]))
    return event(conference, at_ms=at_ms, facts=(ConferenceFact(conference, name, phase, None, draw(st.booleans())),))


@given(st.lists(st.tuples(named(), STEPS), max_size=20))
def test_when_all_is_closed_nothing_is_left(arrivals):
    window, now_ms = window_of(), NOW_MS
    for offset, (one, step_ms) in enumerate(arrivals):
        now_ms += step_ms
        list(window.advance(now_ms))
        window.fold(one, offset, 0, now_ms)
        assert_sound(window)
    list(window.advance(now_ms + WINDOW_MS))
    list(window.graces_ended(now_ms + WINDOW_MS))
    window.fold(event(), len(arrivals), 0, now_ms + 2 * WINDOW_MS)  # A tick: where calls were is forgotten with it.

    assert window.accounts == {}
    assert (window.open_conversations, window.open_recordings) == (0, 0)
    assert window.oldest_birth() is None
    assert window.last_deadline_ms() is None


def assert_sound(window: Window) -> None:
    """Whatever the indexes of a window say of one another has to agree."""
    conversations = window.conversations()
    for account in window.accounts.values():
        for member, conversation in account.index.items():
            assert conversation.open
            assert member in conversation.members
        for name in account.books:
            book = book_of(account, name)
            for room in book.rooms:
                assert room.name == name
                assert room in account.index[room.conference].rooms
            for at_ms, member in book.claims or ():
                assert (name, at_ms, member) in (account.index[member].claims or ())
            assert book.rooms == sorted(book.rooms, key=lambda room: (room.first_ms, room.conference))
            assert (book.claims or []) == sorted(book.claims or [])
    assert window.open_conversations == len(conversations)
    assert window.open_recordings == sum(len(c.recordings) for c in conversations)
    members = [(c.account, member) for c in conversations for member in c.members]
    assert len(members) == len(set(members))
    births = [id(c.birth) for c in conversations]
    assert len(births) == len(set(births))
    assert all(c.birth.open for c in conversations)


# --------------------------------------------------------------------------- arrivals


def test_of_what_was_poured_into_others_no_birth_is_left_after_a_while():
    window = window_of()
    names = [f"a{number}" for number in range(9)]
    for offset, name in enumerate(names):
        window.fold(event(name), offset, 0, NOW_MS)
    window.fold(event(*names), 9, 0, NOW_MS)
    window.fold(event("b"), 10, 0, NOW_MS + WINDOW_MS // 2)

    assert [(birth.offset, birth.open) for birth in (*window.births, *window.young)] == [(0, True), (10, True)]


def test_a_conference_named_after_a_task_holds_the_tasks_own_text():
    window = window_of()
    task, name = "WT" + "1" * 32, "WT" + "".join(["1"] * 32)
    window.fold(event(task), 0, 0, NOW_MS)
    window.fold(event("CF1", facts=(ConferenceFact("CF1", name, "start", None, None),)), 1, 0, NOW_MS)

    (room,) = window.accounts["AC1"].index["CF1"].rooms
    assert room.name == task
    assert COMPILED or room.name is task  # Compiled, neither is held as a text.


def test_a_conversation_closes_one_window_after_its_last_arrival():
    window = window_of()
    window.fold(event("a"), 0, 0, NOW_MS)
    window.fold(event("a"), 1, 0, NOW_MS + 3)

    assert list(window.advance(NOW_MS + 3 + WINDOW_MS - 1)) == []
    assert [c.members for c in window.advance(NOW_MS + 3 + WINDOW_MS)] == [("a",)]


def test_a_duplicate_is_an_arrival_and_no_evidence():
    window = window_of()
    first = event("CA1", id_="one", facts=(CallFact("CA1", "inbound", None, None),))
    window.fold(first, 0, 0, NOW_MS)
    touched = window.fold(first, 1, 0, NOW_MS + 50_000)

    assert touched.duplicate
    assert touched.kinds == 0
    assert touched.conversation is not None
    assert touched.conversation.properties_kept == 1
    assert list(window.advance(NOW_MS + WINDOW_MS)) == []
    assert len(list(window.advance(NOW_MS + 50_000 + WINDOW_MS))) == 1


def test_an_id_is_remembered_as_long_as_its_conversation_and_no_longer():
    window = window_of()
    window.fold(event("a", id_="one"), 0, 0, NOW_MS)
    list(window.advance(NOW_MS + WINDOW_MS))

    assert not window.fold(event("a", id_="one"), 1, 0, NOW_MS + WINDOW_MS).duplicate


def test_the_ids_of_both_parts_are_remembered_when_conversations_merge():
    window = window_of()
    window.fold(event("a", id_="one"), 0, 0, NOW_MS)
    window.fold(event("b", id_="two"), 1, 0, NOW_MS)
    window.fold(event("a", "b", id_="three"), 2, 0, NOW_MS)

    assert all(window.fold(event("a", id_=id_), 3, 0, NOW_MS).duplicate for id_ in ("one", "two", "three"))
    assert not window.fold(event("a", id_="four"), 4, 0, NOW_MS).duplicate


def test_an_event_without_an_id_is_never_a_duplicate():
    window = window_of()

    assert not any(window.fold(event("a"), offset, 0, NOW_MS).duplicate for offset in range(3))


def test_an_id_in_another_conversation_is_no_duplicate():
    window = window_of()
    window.fold(event("a", id_="one"), 0, 0, NOW_MS)

    assert not window.fold(event("b", id_="one"), 1, 0, NOW_MS).duplicate
    assert not window.fold(event("a", id_="one", account="AC2"), 2, 0, NOW_MS).duplicate


def test_ten_thousand_ids_of_one_conversation_are_told_apart():
    window = window_of()
    duplicates = [window.fold(event("a", id_=f"id{n}"), n, 0, NOW_MS).duplicate for n in range(10_000)]

    assert not any(duplicates)
    assert all(window.fold(event("a", id_=f"id{n}"), n, 0, NOW_MS).duplicate for n in range(10_000))


def test_an_event_that_names_nothing_leaves_nothing():
    window = window_of()
    touched = window.fold(event(id_="one"), 0, 0, NOW_MS)

    assert touched.conversation is None
    assert not touched.duplicate
    assert window.accounts == {}


def test_a_merged_conversation_began_where_the_older_part_began():
    window = window_of()
    window.fold(event("a"), 5, 0, NOW_MS)
    for offset, member in enumerate("bcde", 6):
        window.fold(event("b", member), offset, 0, NOW_MS + 1)
    window.fold(event("a", "b"), 20, 0, NOW_MS + 2)
    [conversation] = window.conversations()

    assert (conversation.birth.offset, conversation.birth.arrived_ms) == (5, NOW_MS)
    assert conversation.last_ms == NOW_MS + 2


# --------------------------------------------------------------------------- graces


def test_a_grace_ends_once_and_at_its_instant():
    window = window_of()
    window.fold(recording("RE1", "CA1"), 0, 0, NOW_MS)
    window.fold(recording("RE1", "CA1"), 1, 0, NOW_MS + 1_000)

    assert window.due_ms <= NOW_MS + GRACE_MS
    assert list(window.graces_ended(NOW_MS + GRACE_MS - 1)) == []
    assert [(r, due_ms) for _, r, due_ms in window.graces_ended(NOW_MS + GRACE_MS)] == [("RE1", NOW_MS + GRACE_MS)]
    assert list(window.graces_ended(NOW_MS + 10 * GRACE_MS)) == []


def test_a_merge_keeps_the_earlier_sight_of_a_recording():
    window = window_of()
    window.fold(recording("RE1", "CA1"), 3, 0, NOW_MS)
    window.fold(event("CA2"), 4, 0, NOW_MS)
    window.fold(event("CA1", "CA2"), 5, 0, NOW_MS + 5)
    [conversation] = window.conversations()

    assert [(seen.sid, seen.offset) for seen in conversation.recordings] == [("RE1", 3)]


def test_a_packed_conversation_that_a_nailed_up_call_leaves_can_still_be_read():
    window = window_of()
    seen = [ParticipantFact(f"CF{number}", "CA1", "join", None, None) for number in range(4)]
    for offset, fact in enumerate(seen[:3]):
        window.fold(event(fact.call, fact.conference, facts=(fact,)), offset, 0, NOW_MS)
    [conversation] = window.conversations()
    conversation.cool()
    window.fold(event("CA1", "CF3", facts=(seen[3],)), 3, 0, NOW_MS)

    assert conversation.members == ("CF0", "CF1", "CF2")
    assert [kept.facts for kept in conversation.read_evidence()] == [(fact,) for fact in seen[:3]]


# --------------------------------------------------------------------------- bounds


def evidence_of(window: Window) -> tuple[Conversation, int]:
    [conversation] = window.conversations()
    return conversation, len(conversation.read_evidence())


def inside(number: int) -> Event:
    return event("CF1", "CA1", id_=f"e{number}", facts=(ParticipantFact("CF1", "CA1", "inside", None, None),))


def test_evidence_beyond_the_bound_is_counted_and_not_kept():
    window = window_of(entries_max=5)
    for number in range(8):
        window.fold(inside(number), number, 0, NOW_MS)
    conversation, kept = evidence_of(window)

    assert kept == conversation.kept == 5
    assert conversation.truncated
    assert window.dropped_total == 3
    assert window.truncated_total == 1


def test_evidence_up_to_the_bound_truncates_nothing():
    window = window_of(entries_max=5)
    for number in range(5):
        window.fold(inside(number), number, 0, NOW_MS)

    assert not evidence_of(window)[0].truncated


def test_a_duplicate_does_not_count_to_the_bound():
    window = window_of(entries_max=1)
    for _ in range(5):
        window.fold(inside(1), 0, 0, NOW_MS)

    assert not evidence_of(window)[0].truncated


def test_a_recording_is_kept_beyond_the_bound_and_in_the_end_bounded_too():
    window = window_of(entries_max=5)
    for number in range(100):
        window.fold(recording(f"RE{number}", "CA1"), number, 0, NOW_MS)
    conversation, kept = evidence_of(window)

    assert kept == 5 * RECORDINGS_KEPT_FACTOR
    assert conversation.truncated
    assert window.dropped_total == 100 - kept


def test_what_is_known_of_calls_and_tasks_is_bounded_and_kept_once():
    window = window_of(entries_max=5)
    fact = CallFact("CA1", "inbound", None, None)
    for number in range(20):
        window.fold(event("CA1", facts=(fact,)), number, 0, NOW_MS)
    [conversation] = window.conversations()
    assert (conversation.properties_kept, conversation.truncated) == (1, False)

    for number in range(20):
        window.fold(event("CA1", facts=(CallFact("CA1", f"way{number}", None, None),)), number, 0, NOW_MS)
    [conversation] = window.conversations()
    assert (conversation.properties_kept, conversation.truncated) == (5, True)
    assert len(conversation.read_properties()) == 5


def test_a_task_that_names_its_conference_is_kept_with_its_place():
    window = window_of()
    fact = TaskFact("WT1", "CF1", ("CA1",), (), ())
    window.fold(event("WT1", "CF1", "CA1", id_="one", facts=(fact,)), 7, 0, NOW_MS)
    conversation, _ = evidence_of(window)
    [kept] = conversation.read_evidence()

    assert (kept.offset, kept.event_id, kept.facts) == (7, "one", (fact,))
    assert conversation.read_properties() == (fact,)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.integers(0, 2)), max_size=40),
    st.integers(1, 6),
)
def test_no_conversation_ever_keeps_more_than_its_bounds(arrivals, entries_max):
    window = window_of(entries_max=entries_max)
    for offset, (one, other, kind) in enumerate(arrivals):
        facts: tuple[AnyFact, ...] = (ParticipantFact(one, other, "inside", None, None),)
        if kind == 1:
            facts = (RecordingFact(f"RE{offset}", one, other, None, None, None, None, None, "stream"),)
        elif kind == 2:
            facts = (CallFact(one, f"way{offset}", None, None),)
        window.fold(event(*dict.fromkeys((one, other)), facts=facts), offset, 0, NOW_MS)
        for conversation in window.conversations():
            assert conversation.kept <= entries_max * RECORDINGS_KEPT_FACTOR
            assert conversation.properties_kept <= entries_max
            assert len(conversation.read_evidence()) == conversation.kept
            assert len(conversation.read_properties()) == conversation.properties_kept


# --------------------------------------------------------------------------- cuts


def test_what_is_born_before_the_end_of_a_cut_lacks_evidence():
    window = window_of(cut=Cut(10, NOW_MS + 5))
    window.fold(event("a"), 11, 0, NOW_MS + 4)
    window.fold(event("b"), 12, 0, NOW_MS + 5)

    assert [(c.members, c.truncated) for c in window.conversations()] == [(("a",), True), (("b",), False)]
    window.fold(event("a", "b"), 13, 0, NOW_MS + 6)
    assert [c.truncated for c in window.conversations()] == [True]
    assert window.truncated_total == 1


@pytest.mark.parametrize(
    ("births", "now_ms", "kept"),
    [
        ([], NOW_MS + 4, True),
        ([], NOW_MS + 5, False),
        ([(11, NOW_MS + 4)], NOW_MS + 5, True),
        ([(11, NOW_MS + 5)], NOW_MS + 5, False),
    ],
)
def test_a_cut_is_forgotten_once_nothing_can_rest_on_what_it_lost(births, now_ms, kept):
    window = window_of(cut=Cut(10, NOW_MS + 5))
    for offset, arrived_ms in births:
        window.fold(event(f"m{offset}"), offset, 0, arrived_ms)
    window.drop_cut_when_over(now_ms)

    assert (window.cut is not None) is kept


def test_closing_all_leaves_nothing_behind():
    window = window_of()
    for offset, one in enumerate([recording("RE1", "CA1"), event("b"), event("c", account="AC2")]):
        window.fold(one, offset, 0, NOW_MS)
    closed = window.close_all()

    assert [c.birth.offset for c in closed] == [0, 1, 2]
    assert not any(c.open for c in closed)
    assert window.accounts == {}
    assert list(window.advance(NOW_MS + 10 * WINDOW_MS)) == []
    assert list(window.graces_ended(NOW_MS + 10 * WINDOW_MS)) == []
    assert (window.open_conversations, window.open_recordings) == (0, 0)


def test_an_id_is_found_only_where_one_begins():
    assert holds(b"abcdefghijkl", b"ghijkl")
    assert not holds(b"abcdefghijkl", b"efghij")
    assert holds(b"abcdefghijabefghij", b"efghij")


def test_ids_that_hardly_differ_have_other_digests():
    ids = {f"EZ{number:032x}" for number in range(20_000)} | {str(number) for number in range(20_000)}
    ids |= {f"{number:032x}" + "0" * at for number in range(100) for at in range(40)}
    assert len({digest_of(event_id) for event_id in ids}) == len(ids)
    # The same in every process and version: snapshots hold it.
    assert digest_of("EZ0123456789abcdef0123456789abcdef").hex() == "67e86628e585"
