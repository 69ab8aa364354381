"""The ledger: what is remembered of a published verdict is little, and enough to say what may follow it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.compacted import COMPILED
from monitor.core.ledger import NEVER_MS, OPEN_KEYS_EACH, Ledger, _Settled, _short
from monitor.core.verdict import (
    HISTORY_MAX,
    AlertLabels,
    Finding,
    Revision,
    Shown,
    Verdict,
    decode_verdict,
    encode_verdict,
    orphaned,
    read_instant,
    rejudged,
    remember,
    render_instant,
    revise,
)

RECORDING = "RE" + "1" * 32
CONFERENCE = "CF" + "a" * 32
DAY_MS = 86_400_000
DECIDED = "2026-11-02T15:30:00.123Z"


def a_verdict(**changes: Any) -> Verdict:
    verdict = Verdict(
        kind="recording",
        recording_sid=RECORDING,
        account_sid="AC" + "0" * 32,
        revision=1,
        final=False,
        at=(1, 7),
        rests_from=3,
        outcome="disallowed",
        rule="default",
        severity="critical",
        mode="enforce",
        policy="sha256:0",
        cause="conference_twiml",
        strength="observed",
        start_source="Conference",
        call_sid="CA" + "1" * 32,
        conference_sid=CONFERENCE,
        recording_status="in-progress",
        started_at=DECIDED,
        ended_at=None,
        first_seen_at=DECIDED,
        found_by="stream",
        backlog=False,
        decided_at=DECIDED,
        disallowed_since=DECIDED,
        alert=AlertLabels("default", "critical", None, "main"),
        reason="TwiML joined its conference with recording on, which the policy does not allow.",
        evidence=(Shown(event_id="EZ1", type="t", position="0:7", occurred_at=DECIDED, shows="It is recorded"),),
        ruled_out=(),
        missing=(),
        history=(),
    )
    return msgspec.structs.replace(verdict, **changes)


class Topic:
    """A verdict topic, and how often something was read back from it."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.fetched = 0

    def fetch(self, key: str, place: int) -> bytes:
        self.fetched += 1
        assert decode_verdict(self.values[place]).key == key
        return self.values[place]

    def publish(self, ledger: Ledger, verdict: Verdict, digest: int = 1) -> None:
        ledger.publish(verdict, digest)
        self.values.append(encode_verdict(verdict))
        ledger.placed(verdict.key, verdict.at, len(self.values) - 1)


def found(offset: int, **changes: Any) -> Finding:
    """What the fold concludes at an offset: without what depends on what is published."""
    bare = {"revision": 0, "disallowed_since": None, "alert": None, "history": (), "at": (1, offset)}
    return Finding(verdict=a_verdict(**(bare | changes)), first_offset=3, team=None, account="main")


def test_an_open_verdict_is_revised_without_reading_it_back() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    topic.publish(ledger, a_verdict())
    later = render_instant(read_instant(DECIDED) + 5_000)

    same = revise(ledger.last(RECORDING), found(8, decided_at=later), ledger.published)
    new = revise(ledger.last(RECORDING), found(8, decided_at=later, recording_status="completed"), ledger.published)

    assert same is None
    assert new is not None
    assert new == a_verdict(
        revision=2,
        at=(1, 8),
        decided_at=later,
        recording_status="completed",
        history=(Revision(1, "disallowed", "conference_twiml", DECIDED),),
    )
    assert topic.fetched == 0


def test_a_verdict_that_has_not_been_placed_is_known_whole() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.publish(a_verdict(), 1)

    assert ledger.published(RECORDING) == a_verdict()
    assert topic.fetched == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcx"), st.integers(1, 3), st.integers(0, 9), st.sampled_from(["open", "final", None])
        ),
        max_size=30,
    )
)
def test_the_greatest_position_is_that_of_what_is_published(said: list[tuple[str, int, int, str | None]]) -> None:
    """Whatever was withdrawn, or has another position since; x is no digit of a SID."""
    topic: list[bytes] = []
    ledger = Ledger(lambda _, place: topic[place])
    for letter, generation, offset, how in said:
        key = "RE" + letter * 32
        verdict = a_verdict(recording_sid=key, at=(generation, offset), final=how == "final")
        ledger.take_in(key, None if how is None else verdict, len(topic))
        topic.append(b"" if how is None else encode_verdict(verdict))
        known = [ledger.published("RE" + each * 32) for each in "abcx"]
        positions = [each.at for each in known if each is not None]
        for each in range(1, 4):
            offsets = [offset for generation, offset in positions if generation == each]
            assert ledger.greatest_offset(each) == max(offsets, default=None)
        assert ledger.greatest_generation() == max((at[0] for at in positions), default=None)


def test_what_is_open_comes_in_order_and_where_it_is_much_in_goes() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    few = [f"RE{number:032x}" for number in range(100)]
    for key in reversed(few):
        topic.publish(ledger, a_verdict(recording_sid=key, final=key == few[7]))
    assert list(ledger.open_keys()) == [key for key in few if key != few[7]]
    for number in range(100, 3 * OPEN_KEYS_EACH):
        topic.publish(ledger, a_verdict(recording_sid=f"RE{number:032x}"))
    keys = ledger.open_keys()
    first = next(keys)
    topic.publish(ledger, a_verdict(recording_sid=f"RE{1 << 64:032x}"))  # Meanwhile.
    found = [first, *keys]
    assert len(set(found)) == len(found) >= 3 * OPEN_KEYS_EACH - 1
    assert found != sorted(found)


def test_what_would_be_allowed_on_less_evidence_is_read_back_and_stands() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    topic.publish(ledger, a_verdict(rests_from=2))

    new = revise(ledger.last(RECORDING), found(8, outcome="allowed", recording_status="completed"), ledger.published)

    assert new is not None
    assert (new.outcome, new.recording_status, new.revision) == ("disallowed", "completed", 2)
    assert topic.fetched == 1


def test_a_settled_verdict_answers_all_but_what_it_says_without_reading_it_back() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    topic.publish(ledger, a_verdict(final=True), digest=5)

    assert ledger.is_final(RECORDING)
    assert ledger.knows(RECORDING)
    assert not ledger.is_suspicion(RECORDING)
    assert ledger.ahead(RECORDING, (1, 6))
    assert not ledger.ahead(RECORDING, (1, 7))
    assert ledger.unchanged(RECORDING, 5)
    ledger.note(RECORDING, 6)
    assert ledger.unchanged(RECORDING, 6)
    assert list(ledger.open_keys()) == []
    assert ledger.account_if_open(RECORDING) is None
    assert (ledger.greatest_offset(1), ledger.greatest_offset(2), ledger.greatest_generation()) == (7, None, 1)
    assert topic.fetched == 0
    assert ledger.published(RECORDING) == a_verdict(final=True)
    assert topic.fetched == 1


def test_a_late_change_of_a_settled_verdict_is_settled_again() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch, others_kept_ms=1000)
    topic.publish(ledger, a_verdict(final=True))
    end_ms = read_instant(DECIDED) + 1000

    new = revise(ledger.last(RECORDING), found(9, recording_status="completed", final=True), ledger.published)
    assert new is not None
    assert (new.recording_status, new.final, new.revision, len(new.history)) == ("completed", True, 2, 1)
    ledger.publish(new, 2)
    assert len(ledger) == 1
    assert ledger.published(RECORDING) == new
    topic.values.append(encode_verdict(new))
    ledger.placed(RECORDING, new.at, 1)

    assert ledger.published(RECORDING) == new
    assert len(ledger) == 1
    assert list(ledger.ended(end_ms)) == [RECORDING]
    assert len(ledger) == 0


@pytest.mark.parametrize("fetching", [True, False])
def test_final_verdicts_end_at_their_instant_and_in_order(fetching: bool) -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch if fetching else None, allowed_kept_ms=DAY_MS, others_kept_ms=2 * DAY_MS)
    began_ms = read_instant(DECIDED)
    unusual = "RE" + "Z" * 32  # No hexadecimal digits: a SID all the same.
    for key, after_ms, outcome in (
        (unusual, 20, "allowed"),
        ("RE" + "3" * 32, 30, "allowed"),
        ("RE" + "2" * 32, 10, "allowed"),
        ("RE" + "4" * 32, 0, "disallowed"),
    ):
        decided_at = render_instant(began_ms + after_ms)
        topic.publish(ledger, a_verdict(recording_sid=key, final=True, decided_at=decided_at, outcome=outcome))
    topic.publish(ledger, a_verdict(kind="suspicion", recording_sid=None, final=True, outcome="undetermined"))

    assert ledger.next_end_ms <= began_ms + DAY_MS + 10
    assert list(ledger.ended(began_ms + DAY_MS + 9)) == []
    assert list(ledger.ended(began_ms + DAY_MS + 20)) == ["RE" + "2" * 32, unusual]
    assert list(ledger.ended(began_ms + DAY_MS + 29)) == []
    assert list(ledger.ended(began_ms + DAY_MS + 30)) == ["RE" + "3" * 32]
    assert list(ledger.ended(began_ms + 2 * DAY_MS)) == [CONFERENCE, "RE" + "4" * 32]
    assert (len(ledger), ledger.next_end_ms) == (0, NEVER_MS)


def test_what_stands_in_front_of_ours_is_not_written_over_again() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.owned = True
    ledger.publish(a_verdict(), 1)
    lesser = a_verdict(at=(1, 6))
    assert ledger.take_in(RECORDING, lesser, 0) is None  # Ours is on its way, and can only come behind it.
    assert ledger.take_in(RECORDING, None, 1) is None
    topic.values += [encode_verdict(lesser), b"", encode_verdict(a_verdict())]
    ledger.placed(RECORDING, (1, 7), 2)
    assert ledger.take_in(RECORDING, lesser, 1) is None
    assert ledger.take_in(RECORDING, lesser, 3) == encode_verdict(a_verdict())
    assert ledger.take_in(RECORDING, None, 4) == encode_verdict(a_verdict())


def test_our_own_verdict_come_round_is_nobody_elses() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.owned = True
    topic.publish(ledger, a_verdict())

    assert ledger.take_in(RECORDING, a_verdict(), 3) is None
    assert ledger.take_heard() == []
    assert ledger.take_in(RECORDING, a_verdict(reason="Another."), 4) is None
    assert ledger.take_heard() == [(a_verdict().account_sid, RECORDING)]


def test_what_is_read_before_the_partition_is_ours_is_not_kept_as_news() -> None:
    """Else a takeover would hold an account and a key of all that was ever published."""
    ledger = Ledger(Topic().fetch)

    assert ledger.take_in(RECORDING, a_verdict(), 0) is None
    assert ledger.take_heard() == []


def test_a_lesser_verdict_and_a_tombstone_of_somebody_else_are_written_over() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.owned = True
    topic.publish(ledger, a_verdict())

    assert ledger.take_in(RECORDING, a_verdict(at=(1, 6)), 1) == encode_verdict(a_verdict())
    assert ledger.take_in(RECORDING, None, 2) == encode_verdict(a_verdict())
    assert ledger.account_if_open(RECORDING) == a_verdict().account_sid


def test_what_is_behind_ours_is_written_over_also_where_it_is_read_before_ours_is_acknowledged() -> None:
    for value in (None, a_verdict(at=(1, 6))):
        for place in (0, 2):
            ledger = Ledger(Topic().fetch)
            ledger.owned = True
            ledger.publish(a_verdict(), 1)
            assert ledger.take_in(RECORDING, value, 1) is None
            back = ledger.placed(RECORDING, (1, 7), place)
            assert back == (encode_verdict(a_verdict()) if place < 1 else None)
            assert ledger.knows(RECORDING)


def test_what_was_written_back_gives_way_to_what_was_read_in_front_of_it() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.owned = True
    topic.publish(ledger, a_verdict())
    greater = a_verdict(at=(1, 8), final=True)
    topic.values += [encode_verdict(a_verdict(at=(1, 6))), encode_verdict(greater)]
    back = ledger.take_in(RECORDING, a_verdict(at=(1, 6)), 1)
    assert back == encode_verdict(a_verdict())
    assert ledger.take_in(RECORDING, greater, 2) is None

    assert ledger.take_in(RECORDING, a_verdict(), 3) == encode_verdict(greater)  # It lies behind the greater one.
    assert ledger.take_in(RECORDING, greater, 4) is None
    topic.values += [back, encode_verdict(greater)]
    topic.values[2] = b""  # Compacted away: from now on it is read where it was written back.
    assert ledger.published(RECORDING) == greater


def test_what_is_greater_and_read_after_ours_is_acknowledged_is_put_behind_it() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.owned = True
    greater = a_verdict(at=(1, 8), final=True)
    topic.values = [encode_verdict(greater)]
    topic.publish(ledger, a_verdict())

    assert ledger.take_in(RECORDING, greater, 0) == encode_verdict(greater)
    assert ledger.take_in(RECORDING, greater, 2) is None
    assert (
        ledger.take_in(RECORDING, a_verdict(at=(1, 8), final=True, reason="Before."), 1) is None
    )  # Of equals, the later.
    topic.values.append(encode_verdict(greater))
    assert ledger.published(RECORDING) == greater


def test_what_is_greater_and_read_before_ours_is_acknowledged_stands_in_front_of_it() -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    ledger.owned = True
    ledger.publish(a_verdict(), 1)
    greater = a_verdict(at=(1, 8), final=True)
    assert ledger.take_in(RECORDING, greater, 1) is None
    topic.values = [b"", encode_verdict(greater)]

    assert ledger.placed(RECORDING, (1, 7), 2) is None
    assert ledger.stands_in_front(RECORDING, (1, 7), 2)
    assert ledger.take_in(RECORDING, a_verdict(), 2) == encode_verdict(greater)
    assert not ledger.stands_in_front(RECORDING, (1, 7), 0)
    assert not ledger.stands_in_front(RECORDING, (1, 8), 2)


def test_a_final_verdict_is_forgotten_only_where_the_tombstone_stands_behind_it() -> None:
    for place in (0, 2):
        topic = Topic()
        ledger = Ledger(topic.fetch)
        ledger.owned = True
        ledger.publish(a_verdict(final=True), 1)
        assert ledger.take_in(RECORDING, None, 1) is None  # By ``forget``: before ours, or behind?
        assert ledger.placed(RECORDING, (1, 7), place) is None
        assert ledger.knows(RECORDING) == (place > 1)
        assert ledger.take_in(RECORDING, None, 1) is None  # It stands in front of ours, if ours stands.
        assert ledger.knows(RECORDING) == (place > 1)
        assert ledger.take_in(RECORDING, None, 3) is None
        assert not ledger.knows(RECORDING)


@pytest.mark.parametrize("between", [None, a_verdict(at=(1, 8))])
def test_what_is_told_after_a_final_verdict_is_gone_is_kept_as_long_as_itself_says(between: Verdict | None) -> None:
    ended_ms = read_instant(DECIDED)
    allowed = a_verdict(final=True, outcome="allowed")
    again = a_verdict(final=True, at=(1, 9), decided_at=render_instant(ended_ms + 5_000))
    topic = Topic()
    topic.values = [encode_verdict(allowed), encode_verdict(between or allowed), encode_verdict(again)]
    ledger = Ledger(topic.fetch, allowed_kept_ms=DAY_MS, others_kept_ms=2 * DAY_MS)
    for place, verdict in enumerate((allowed, between, again)):
        ledger.take_in(RECORDING, verdict, place)

    assert list(ledger.ended(ended_ms + DAY_MS)) == []  # Until when the first would have been kept.
    assert list(ledger.ended(ended_ms + 2 * DAY_MS + 4_999)) == []
    assert list(ledger.ended(ended_ms + 2 * DAY_MS + 5_000)) == [RECORDING]
    assert (len(ledger), ledger.next_end_ms) == (0, NEVER_MS)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        (b'"at":[1,7]', b'"at":[-1,7]'),
        (b'"decided_at":"2026-11-02T15:30:00.123Z"', b'"decided_at":"yesterday"'),
        (b'"decided_at":"2026-11-02T15:30:00.123Z"', b'"decided_at":"2026-11-02T15:30:00.123"'),
    ],
)
@pytest.mark.parametrize("fetching", [True, False])
def test_a_verdict_with_a_number_or_an_instant_that_none_has_is_passed_over(
    field: bytes, other: bytes, fetching: bool
) -> None:
    final = b"decided_at" in field
    value = encode_verdict(a_verdict(final=final))
    assert field in value
    ledger = Ledger(Topic().fetch if fetching and final else None)

    assert ledger.take_in(RECORDING, decode_verdict(value.replace(field, other)), 0) is None
    assert not ledger.knows(RECORDING)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        (b'"at":[1,7]', b'"at":[1,%d]' % (1 << 63)),
        (b'"at":[1,7]', b'"at":[%d,7]' % (1 << 70)),
        (b'"rests_from":3', b'"rests_from":%d' % (1 << 64)),
        (b'"revision":1', b'"revision":%d' % -(1 << 70)),
        (b'"history":[]', b'"history":[{"revision":%d,"outcome":"x","cause":null,"decided_at":""}]' % (1 << 63)),
    ],
)
def test_a_verdict_with_a_number_that_nothing_here_can_hold_is_none_of_ours(field: bytes, other: bytes) -> None:
    """It was taken in where it was final, and failed once it was asked for."""
    value = encode_verdict(a_verdict(final=True))
    assert field in value
    decode_verdict(value)
    with pytest.raises(msgspec.ValidationError, match="`int`"):
        decode_verdict(value.replace(field, other))


def test_behind_the_last_revision_that_can_be_read_comes_one_that_can() -> None:
    """Somebody else wrote that; what follows could be read by nobody, ourselves included."""
    topic = Topic()
    ledger = Ledger(topic.fetch)
    topic.publish(ledger, a_verdict(revision=(1 << 63) - 1))
    revised = revise(ledger.last(RECORDING), found(8, recording_status="completed"), ledger.published)
    last = a_verdict(revision=(1 << 63) - 1, final=True)
    late = revise(remember(last), found(9, recording_status="completed", final=True), lambda _: last)
    for new in (revised, late, orphaned(last, (1, 9), DECIDED), rejudged(last, found(9).verdict, DECIDED)):
        assert new is not None
        assert decode_verdict(encode_verdict(new)) == new


instants = st.one_of(
    st.integers(0, 4_000_000_000_000).map(render_instant),
    st.sampled_from(["", "yesterday", "2026-11-02T15:30:00Z", "2026-11-02 15:30:00.000Z", "2026-11-02T15:30:60.000Z"]),
)


@given(instants, st.lists(instants, max_size=HISTORY_MAX + 2))
def test_what_is_remembered_gives_back_every_instant_as_it_was(since: str, told: list[str]) -> None:
    history = tuple(Revision(number, "allowed", None, at) for number, at in enumerate(told, 1))
    published = a_verdict(disallowed_since=since or DECIDED, history=history, decided_at="then")
    new = revise(remember(published), found(9, reason="New."), lambda _: None)

    assert new is not None
    assert new.disallowed_since == published.disallowed_since
    kept = (*history, Revision(1, "disallowed", "conference_twiml", "then"))
    assert new.history == (kept if len(kept) <= HISTORY_MAX else (kept[0], *kept[1 - HISTORY_MAX :]))


words = st.one_of(st.none(), st.sampled_from(["conference_twiml", "unattributed"]), st.text(max_size=3))
revisions = st.builds(Revision, st.integers(1, 9), st.sampled_from(["allowed", "disallowed"]), words, instants)


@given(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["recording", "suspicion"]),
            "account_sid": st.sampled_from(["AC" + "0" * 32, "AC" + "1" * 32]),
            "revision": st.integers(1, 9),
            "at": st.tuples(st.integers(0, 9), st.integers(0, 1 << 40)),
            "rests_from": st.integers(-1, 1 << 40),
            "outcome": st.sampled_from(["allowed", "disallowed", "undetermined"]),
            "cause": words,
            "backlog": st.booleans(),
            "disallowed_since": st.one_of(st.none(), instants),
            "alert": st.one_of(st.none(), st.builds(AlertLabels, st.text(), st.text(), words, st.text(), words)),
            "history": st.lists(revisions, max_size=3).map(tuple),
        }
    )
)
def test_what_is_remembered_of_an_open_verdict_is_all_that_may_be_asked(changes: dict[str, Any]) -> None:
    verdict = a_verdict(**changes)
    ledger = Ledger(Topic().fetch)
    ledger.publish(a_verdict(recording_sid="RE" + "2" * 32, conference_sid=None), 1)  # Says something else.
    ledger.publish(verdict, 1)

    assert ledger.last(verdict.key) == remember(verdict)
    assert ledger.account_if_open(verdict.key) == verdict.account_sid


def test_what_many_verdicts_say_in_words_is_kept_once() -> None:
    ledger = Ledger(Topic().fetch)
    for number in range(100):
        cause = ("conference_twiml", "unattributed")[number % 2]
        verdict = a_verdict(recording_sid=f"RE{number:032x}", account_sid=f"AC{number:032x}", cause=cause)
        ledger.publish(msgspec.structs.replace(verdict, at=(1, number)), 1)

    assert [said.cause for said in ledger.dump_numbered()[1]] == ["conference_twiml", "unattributed"]


def held(ledger: Ledger) -> int:
    """Bytes of what a ledger holds for each verdict, dictionaries and ends included."""
    settled = ledger._settled
    tables: Iterable[Any] = (*settled._young, settled._odd, ledger._whole, ledger._awaited)
    entries: Iterable[Any] = ledger._entries.bulk()  # Compiled, its keys lie in it.
    total = sum(sys.getsizeof(table) for table in (*entries, *tables) if table)
    total += sum(sys.getsizeof(each) for table in tables for pair in table.items() for each in pair)
    total += sum(sys.getsizeof(entry) for entry in ledger._entries.values())
    total += 0 if COMPILED else sum(sys.getsizeof(key) for key in ledger._entries)
    total += sum(sys.getsizeof(run) for run in settled._old)
    return total + sum(sys.getsizeof(filed) for filed in ledger._ends._hours.values())


@pytest.mark.parametrize(("final", "most"), [(False, 160 if COMPILED else 250), (True, 100)])
def test_a_verdict_takes_little_room(final: bool, most: int) -> None:
    topic = Topic()
    ledger = Ledger(topic.fetch)
    history = (Revision(1, "undetermined", None, DECIDED),)
    count = 20_000
    for number in range(count):
        key = f"RE{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"  # As good as random.
        verdict = a_verdict(recording_sid=key, final=final, at=(3, 5_000_000 + number), revision=2, history=history)
        topic.publish(ledger, decode_verdict(encode_verdict(verdict)), hash(key))

    assert held(ledger) / count <= most


@pytest.mark.parametrize("beginnings", ["", "00000000", "ffffffff", "abcdef01"])
@pytest.mark.parametrize("seed", range(5))
def test_settled_verdicts_are_found_however_their_sids_are_spread(beginnings: str, seed: int) -> None:
    """SIDs are random, and a search begins where one would be if they were; it must end well all the same."""
    chance = random.Random(seed)
    keys = [f"RE{chance.getrandbits(128):032x}" for _ in range(300)]
    keys += ["RE" + beginnings + f"{chance.getrandbits(128):032x}"[len(beginnings) + 2 :] + "07" for _ in range(600)]
    keys += ["RE" + "0" * 30 + "07", "RE" + "f" * 30 + "07", "CF" + "0" * 30 + "07", "CF" + "f" * 30 + "07", "RE", ""]
    settled, expected = _Settled(), dict[str, bytes]()
    for _ in range(4_000):
        key = chance.choice(keys)
        if chance.random() < 0.7:
            expected[key] = chance.choice((bytes(29), key.encode().ljust(29)[:29]))
            settled.put(_short(key), expected[key])
        else:
            settled.pop(_short(key))
            expected.pop(key, None)
    assert {key: settled.get(_short(key)) for key in keys} == {key: expected.get(key) for key in keys}
    assert settled.size == len(expected)
