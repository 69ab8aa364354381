"""What a window holds, laid out by compiled code: the same fields with the same values, and the same fold with them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core import conversation as core
from monitor.core.account_settings import AccountSettings
from monitor.core.conversation import DIGEST_BYTES, Birth, Conversation, NamedRoom, Seen, digest_of
from monitor.core.judging import Tuning
from monitor.core.ledger import Ledger
from monitor.core.packing import digits_of
from monitor.core.pipeline import Checkpoint, Pipeline
from monitor.core.policy import built_in_policy
from monitor.core.shortening import DIGITS
from monitor.simulator.traffic import Knobs, traffic
from tests.history import derived_of, state_of

ROOT = Path(__file__).parents[1]

SIDS = st.sampled_from(
    [f"{prefix}{number:032x}" for prefix in ("CA", "CF", "RE", "WT", "FN") for number in (0, 1, 1 << 127)]
)
TEXTS = st.one_of(SIDS, st.sampled_from(["", "a", "CA1", "room", "XX" + "0" * 32, "CA" + "F" * 32, "\xe9" * 34]))
WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)
COUNT = st.integers(0, (1 << 31) - 1)
SEEN = st.builds(Seen, TEXTS, WHOLE, WHOLE, COUNT)
ROOM = st.builds(NamedRoom, TEXTS, TEXTS, WHOLE, st.none() | st.integers(-(1 << 63) + 1, (1 << 63) - 1))
BYTES = st.binary(max_size=40)

# Of each field of a conversation, what it may be.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "account": TEXTS,
    "members": st.lists(TEXTS, max_size=5).map(tuple),
    "birth": st.builds(Birth, WHOLE, WHOLE, WHOLE, WHOLE, st.booleans()),
    **dict.fromkeys(("last_ms", "bucket"), WHOLE),
    **dict.fromkeys(("kept", "properties_kept", "epoch", "conferences", "place", "swept"), COUNT),
    **dict.fromkeys(("truncated", "cold", "by_name", "waiting", "open"), st.booleans()),
    **dict.fromkeys(("evidence", "properties", "told_late", "packed", "ids", "again"), BYTES),
    **dict.fromkeys(("recordings", "suspects"), st.lists(SEEN, max_size=3).map(tuple)),
    "rooms": st.lists(ROOM, max_size=3).map(tuple),
    "claims": st.none() | st.lists(st.tuples(TEXTS, WHOLE, TEXTS), min_size=1, max_size=2),
    "called": st.none() | st.lists(TEXTS, min_size=1, max_size=2),
    "relevant": st.integers(0, core.EVERY_KIND),
    "focus": st.none() | st.just(core.Focus(False, (), 7, False, False, (), ())),
    "guests": st.none() | st.dictionaries(TEXTS, COUNT, min_size=1),
    "notes": st.none(),
}
CHANGES = st.lists(st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), FIELDS[name])))


@pytest.mark.compiled
@given(first=st.fixed_dictionaries(FIELDS), changes=CHANGES)
def test_a_conversation_holds_what_its_struct_holds(first: dict[str, Any], changes: list[tuple[str, Any]]):
    plain: Any = Conversation.struct  # type: ignore[attr-defined]
    assert plain is not Conversation
    assert set(FIELDS) == set(plain.__struct_fields__)
    twins = Conversation(**first), plain(**first)
    for name, value in changes:
        for twin in twins:
            setattr(twin, name, value)
    told, struct = ([getattr(twin, name) for name in FIELDS] for twin in twins)
    assert told == struct
    assert [type(value) for value in told] == [type(value) for value in struct]


@pytest.mark.compiled
def test_what_is_not_set_is_what_it_is_in_the_struct():
    plain: Any = Conversation.struct  # type: ignore[attr-defined]
    twins = (kind("AC", (), Birth(1, 2, 3, 4), 5, 6, truncated=False) for kind in (Conversation, plain))
    told, struct = ([getattr(twin, name) for name in FIELDS if name != "birth"] for twin in twins)
    assert told == struct


@pytest.mark.compiled
@given(sid=TEXTS, name=TEXTS, at=st.tuples(WHOLE, WHOLE), index=COUNT, end_ms=st.none() | COUNT)
def test_sights_rooms_and_births_are_their_structs(
    sid: str, name: str, at: tuple[int, int], index: int, end_ms: int | None
):
    for kind, values in (
        (Seen, (sid, *at, index)),
        (NamedRoom, (name, sid, at[0], end_ms)),
        (Birth, (*at, *at, False)),
        (Birth, (*at, *at)),
    ):
        made: Any = kind
        struct = made.struct
        told, plain = made(*values), struct(*values)
        assert [getattr(told, field) for field in struct.__struct_fields__] == list(msgspec.structs.astuple(plain))
        if kind is not NamedRoom:  # Of which each is another one.
            assert told == made(*values)
            assert kind is Seen or told != made(at[0] ^ 1, *values[1:])


@pytest.mark.compiled
def test_what_is_no_text_and_what_is_too_large_is_refused_and_nothing_has_changed():
    seen, conversation = Seen("a", 1, 2, 3), Conversation("AC", ("CA",), Birth(1, 2, 3, 4), 5, 6, truncated=False)
    with pytest.raises(TypeError):
        Seen(None, 1, 2, 3)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        Seen("a", 1 << 63, 2, 3)
    with pytest.raises(AttributeError):
        seen.sid = "b"  # type: ignore[misc]
    with pytest.raises(OverflowError):
        conversation.last_ms = 1 << 63
    with pytest.raises(TypeError):
        conversation.evidence = None  # type: ignore[assignment]
    assert (seen.sid, conversation.last_ms, conversation.evidence) == ("a", 5, b"")


@pytest.mark.compiled
@given(digits=st.binary(max_size=6 * DIGITS), ids=BYTES, gone=BYTES)
def test_digests_are_those_of_ordinary_code(digits: bytes, ids: bytes, gone: bytes):
    digits = digits[: len(digits) // DIGITS * DIGITS]
    assert core.digests_of(digits) == core.plainly_digests_of(digits)
    # Of three that differ, so that many are there more than once.
    some = [bytes([byte % 3]) * DIGEST_BYTES for byte in ids]
    less = b"".join([bytes([byte % 3]) * DIGEST_BYTES for byte in gone])
    assert core.without(b"".join(some), less) == core.plainly_without(b"".join(some), less)


def state() -> str:
    """What a fold tells of some traffic, and where it ends, as a digest."""
    tuning = msgspec.structs.replace(Tuning(), window_ms=30 * 60_000, entries_max=40)
    start = Checkpoint(offset=0, generation=0, replay_from=0, log_time_ms=None)
    fold = Pipeline(tuning, built_in_policy(), AccountSettings(), partition=0, checkpoint=start)
    fold.open(Ledger())
    told = hashlib.sha256()
    knobs = Knobs(seed=5, rate=4.0, duration_s=3_600.0, accounts=3, recorded=0.5, late=0.05, duplicates=0.05)
    for offset, (due_ms, _, value) in enumerate(traffic(knobs)):
        for one in fold.feed(offset, due_ms, value):
            told.update(repr(one).encode())
        if offset % 2_000 == 0:
            derived = derived_of(fold)
            derived["books"] = sorted(derived["books"].items())  # Among these, what is no SID has an order of its own.
            told.update(repr((state_of(fold), derived)).encode())
    assert any(conversation.cold for conversation in fold.window.conversations())
    assert any(conversation.guests for conversation in fold.window.conversations())
    return told.hexdigest()


@pytest.mark.compiled
def test_a_fold_ends_where_one_with_the_structs_does():
    """That one in a process of its own, in which there is no compiled layout, and so no fast path either."""
    tell = "from tests.test_compact import state; print(state())"
    without = "import sys; sys.modules['monitor.core.compact'] = None; from monitor.core import compacted, fast_path; "
    without += "assert not (compacted.COMPILED or fast_path.COMPILED); "
    env = {**os.environ, "PYTHONHASHSEED": "0"}  # Else what is a set is in another order in each process.
    told = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env=env)
        for script in (tell, without + tell)
    ]
    assert told[0].stdout == told[1].stdout != ""


def test_an_event_is_known_again_whether_or_not_it_is_packed():
    chance = random.Random(3)
    ids = [f"EZ{chance.getrandbits(128):032x}" for _ in range(8)] + ["odd", "VW" + "F" * 32]
    kept = [core.encode(core.Kept(1, at, core.id_as_kept(each), 3, ())) for at, each in enumerate(ids) if at % 2]
    conversation = Conversation("AC", ("CA1",), Birth(0, 0, 0, 0), 0, 0, truncated=False)
    conversation.evidence, conversation.kept = b"".join(kept), len(kept)
    conversation.ids = b"".join(map(digest_of, ids))
    before = conversation.ids
    conversation.pack()
    # Of every other one of the eight the id is packed, and no digest is held; those of the others stand before it.
    assert len(digits_of(conversation.packed[conversation._packed_from() :])) == 4 * DIGITS
    assert conversation._packed_from() - core.PACKED_HEAD.size == len(before) - 4 * DIGEST_BYTES
    assert conversation.ids == b""
    assert all(conversation.has_had(digest_of(each)) for each in ids)
    assert not conversation.has_had(digest_of("EZ" + "0" * 32))
    assert not conversation.has_had(b"")
    assert sorted(core._each_digest(conversation.all_ids())) == sorted(core._each_digest(before))
    conversation.unpack()
    assert sorted(core._each_digest(conversation.ids)) == sorted(core._each_digest(before))
