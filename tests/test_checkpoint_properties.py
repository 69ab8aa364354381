"""The promises of docs/checkpoint.md over generated histories, and the counterexamples to the rules that were refuted.

What a history is, how it is run and which property asks what: tests/history.py. Here each property is tried on its
first examples, always the same ones; the long run is ``python -m tests.history``. Of each refuted rule the
counterexample that the long run found is kept, shrunk: by it the refuted rule breaks its property, and ours keeps it.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.history import (
    AS_BUILT,
    PROPERTIES,
    REFUTED,
    SIDS,
    AFewAtATime,
    AsInLongWindows,
    Change,
    Crash,
    DumpedAndLoaded,
    History,
    Interrupted,
    Property,
    Rules,
    Straight,
    fault_of,
    property_named,
    readers_map,
    shrink,
)

EXAMPLES = 500


@pytest.mark.parametrize("promise", PROPERTIES, ids=lambda promise: promise.name)
def test_property_holds(promise: Property):
    for number in range(EXAMPLES):
        history = promise.example(number)
        fault = fault_of(history, promise, AS_BUILT)
        if fault is not None:
            smaller = shrink(history, lambda other: fault_of(other, promise, AS_BUILT) is not None)
            pytest.fail(f"example {number}: {fault}\n{smaller!r}\n{fault_of(smaller, promise, AS_BUILT)}")


@pytest.mark.parametrize("name", ["P4", "P11", "P14"])
def test_what_has_no_time_may_be_stamped_coarsely(name: str):
    promise = property_named(name)
    for number in range(EXAMPLES):
        assert fault_of(promise.example(number), promise, AsInLongWindows()) is None


@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P5", "P7", "P8", "P14"])
def test_what_concerns_all_that_is_open_may_be_judged_a_few_at_a_time(name: str):
    promise = property_named(name)
    for number in range(EXAMPLES):
        assert fault_of(promise.example(number), promise, AFewAtATime()) is None


def test_what_is_known_of_calls_can_be_dumped_and_loaded_at_any_time():
    moved = 0
    for number in range(EXAMPLES):
        history = property_named("P12").example(number)
        loaded = Straight(history, DumpedAndLoaded())
        assert loaded.topic == Straight(history).topic
        moved += loaded.pipeline.window.nailed.noted >= 0
    assert moved > 20


def test_generated_histories_hold_all_that_may_happen():
    histories = [promise.example(number) for promise in PROPERTIES for number in range(200)]
    crashes = [crash for history in histories for crash in history.crashes]
    entries = " ".join(text for history in histories for _, text in history.messages)
    assert all(what in entries for what in ("rec(", "listed(", "twiml(", "request(", "insight(", "junk(", "B:", "#2"))
    assert {crash.unwritten for crash in crashes} >= {0, 1, 2, 3}
    assert {crash.back for crash in crashes} >= {0, 1, 2, 3}
    assert any(crash.stale for crash in crashes)
    assert any(crash.low for crash in crashes)
    assert {crash.arrives for crash in crashes if crash.zombie is not None} >= {-1, 0, 1, 2}
    assert any(len(history.crashes) == 3 for history in histories)
    assert any(now < before for history in histories for (before, _), (now, _) in pairwise(history.messages))
    assert any(stamp > 3_600_000 for history in histories for stamp, _ in history.messages)
    assert any(history.changes for history in histories)
    taken_over = [[takeover.offset for takeover in Interrupted(history).takeovers] for history in histories[:200]]
    assert any(later <= earlier for offsets in taken_over for earlier, later in pairwise(offsets[1:]))
    snapshots = [Interrupted(property_named("P14").example(number)) for number in range(200)]
    assert sum(run.loaded for run in snapshots) >= 40
    assert sum(run.ledgers_loaded for run in snapshots) >= 40
    cuts = [Straight(history).pipeline.take_counts() for history in histories[:400]]
    assert sum(counts.closed_by_cut for counts in cuts) > 10
    assert sum(counts.dropped for counts in cuts) > 10


COUNTEREXAMPLES = {
    "no log time at R": History(messages=((1, "tick()"), (0, "rec(s,b,DialVerb)")), crashes=(Crash(after=1),)),
    "R, w of now with C held back": History(
        messages=((0, "rec(t,c)"), (10, "tick()")), crashes=(Crash(after=1, unwritten=3),)
    ),
    "R sees no conference names": History(
        messages=((0, "join(a,d,flex)"), (0, "twiml(a,ok) name(c,ok)#1"), (7, "request(b,ok)")),
        crashes=(Crash(after=5),),
    ),
    "a duplicate does not extend the window": History(
        messages=((0, "request(b,pay)#2"), (1, "end(c,ok)"), (0, "request(b,pay)#2"), (10, "rec(s,b,DialVerb)")),
        crashes=(Crash(after=3),),
    ),
    "duplicate memory for the partition": History(
        messages=((0, "api(d)#1"), (10, "tick()"), (0, "api(d)#1"), (0, "insight(d)")), crashes=(Crash(after=1),)
    ),
    "expiry from the first arrival": History(
        messages=((0, "request(b,pay)"), (1, "end(c,ok)"), (0, "request(b,pay)"), (10, "rec(s,b,DialVerb)")),
        crashes=(Crash(after=3),),
    ),
    "the bound closes only the long conversation": History(
        messages=((0, "rec(r,a)"), (4, "join(a,d)"), (13, "insight(c)@2 twiml(a,pay)@200")),
        crashes=(Crash(after=3),),
        age_max_ms=12,
    ),
    "cuts not in the checkpoint": History(
        messages=((0, "rec(r,d)"), (4, "tick()"), (0, "done(r,a)"), (13, "api(d)"), (0, "rec(s,d)")),
        crashes=(Crash(after=5),),
        age_max_ms=12,
    ),
    "cut dropped at until": History(
        messages=((0, "join(b,d)"), (4, "join(a,d)"), (13, "call(a)"), (14, "rec(r,b,DialVerb)"), (23, "tick()")),
        crashes=(Crash(after=5),),
        age_max_ms=12,
    ),
    "final may be replaced": History(messages=((0, "rec(r,b)"), (1, "tick()")), crashes=(Crash(after=4),)),
    "no position rule": History(
        messages=((0, "rec(t,d)"), (3, "rec(r,b)"), (6, "name(d,flex)")), crashes=(Crash(after=2, unwritten=1, back=1),)
    ),
    "suppressed verdicts not compared again": History(
        messages=((0, "rec(r,d)"), (0, "rec(t,a)"), (3, "tick()"), (0, "tick()"), (0, "rec(r,a)")),
        crashes=(Crash(after=4, unwritten=3),),
    ),
    "commit before the gate": History(
        messages=((0, "listed(r,c)"), (0, "insight(d)"), (10, "tick()")),
        crashes=(Crash(after=2, unwritten=1), Crash(after=8, unwritten=1)),
    ),
    "what others write is not compared": History(
        messages=((0, "B:done(s,c)"), (3, "tick()")),
        crashes=(Crash(after=0, zombie=1, arrives=5),),
        changes=(Change(before=1, what="policy:2"),),
        policy=4,
    ),
    "last writer wins": History(
        messages=((0, "name(c,ok)"), (0, "rec(r,c)"), (0, "tick()"), (10, "rec(s,d)")),
        crashes=(Crash(after=1, unwritten=1, zombie=2, arrives=2), Crash(after=6, unwritten=1)),
    ),
    "no rests_from rule": History(
        messages=((0, "end(c,pay)"), (0, "name(c,ok)@1 rec(r,c)@4")), crashes=(Crash(after=1, low=1),)
    ),
    "when_open may allow on truncated evidence": History(
        messages=((0, "name(c,pay)"), (0, "rec(s,c)")), crashes=(Crash(after=0, low=1),)
    ),
    "no closing of orphans": History(messages=((0, "insight(c)"),), crashes=(Crash(after=3, low=1),)),
    "a late suspicion ends as a loss": History(
        messages=((0, "insight(c)"), (3, "tick()"), (4, "rec(r,c)"), (15, "tick()#a"), (26, "tick()#b")),
        crashes=(Crash(after=1, unwritten=1, zombie=0, arrives=4),),
    ),
    "quarantine waits for the gate": History(
        messages=((0, "junk()"), (0, "rec(r,a,DialVerb)"), (10, "tick()")),
        crashes=(Crash(after=2, unwritten=1),),
        policy=3,
    ),
    "each entry judged by itself": History(messages=((0, "rec(r,a)"), (3, "rec(r,b)@1 studio(b)@200"))),
    "a batch ends what is dirty": History(
        messages=((0, "name(d,flex)"), (0, "rec(r,d)")), changes=(Change(before=2, what="flex(off)@4"),)
    ),
    "names bind on arrival only": History(messages=((0, "rec(t,c)"), (36, "end(c,pay)"), (42, "twiml(a,pay)@1"))),
    "no duplicate is known": History(messages=((0, "join(b,c)"),)),
    "a merge is not judged": History(messages=((0, "listed(s,a)"), (3, "done(s,c)"), (0, "join(a,d)")), entries_max=2),
    "a merge is past the bounds": History(
        messages=((0, "request(a,flex)"), (0, "twiml(a,flex)"), (0, "name(d,ok)"), (0, "name(d,flex)")), entries_max=3
    ),
    "an open rule is false": History(messages=((0, "rec(r,c)"), (0, "api(c)")), policy=4),
    "guests tell nothing": History(messages=((0, "leave(a,c)"), (0, "rec(t,a,DialVerb)"), (0, "leave(a,d)"))),
    "what a call leaves behind is not noted": History(messages=((0, "join(a,c)"), (0, "rec(t,a)"), (0, "leave(a,d)"))),
    "where guests were is not noted": History(messages=((0, "rec(t,a)"), (0, "leave(a,d)"), (0, "join(a,c,pay)"))),
    "steps of guests are not noted": History(
        messages=(
            *((0, "flow()"), (0, "rec(r,a)"), (0, "step(say,)"), (0, "join(a,e)"), (0, "join(a,c)")),
            (0, "studio(a)"),
        ),
    ),
    "no window before the oldest birth": History(
        messages=((2, "join(a,d)"), (11, "join(a,c)")), crashes=(Crash(after=3),), conferences_max=1
    ),
    "B not in the checkpoint": History(
        messages=((0, "join(a,c)"), (0, "join(a,d)"), (1, "call(a)"), (10, "tick()")),
        crashes=(Crash(after=3),),
        conferences_max=1,
    ),
    "a look back notes nailed-up calls alone": History(
        messages=((2, "join(a,d)"), (11, "join(a,c)")), crashes=(Crash(after=3),), conferences_max=1
    ),
    "once nailed up, always nailed up": History(
        messages=((0, "join(a,c)"), (0, "join(a,d)"), (10, "join(a,e)")),
        crashes=(Crash(after=2),),
        conferences_max=1,
    ),
    "a duplicate is no sight": History(
        messages=((0, "call(a)"), (1, "call(a)"), (0, "join(a,e)"), (0, "leave(a,c)"), (10, "rec(t,a)")),
        crashes=(Crash(after=6),),
        conferences_max=1,
    ),
    "guests show all that is noted": History(
        messages=((0, "join(a,d)"), (1, "join(a,e)"), (10, "join(a,f)"), (11, "tick()")),
        crashes=(Crash(after=3),),
        conferences_max=1,
    ),
    "guests bring no news": History(
        messages=((0, "join(a,c,pay)"), (0, "join(a,d,ok)"), (0, "rec(r,d)"), (0, "twiml(a,ok)")), conferences_max=1
    ),
    "a snapshot of what has changed": History(
        messages=((0, "tick()"), (0, "tick()"), (0, "tick()"), (0, "tick()"), (14, "join(a,d)")),
        crashes=(Crash(after=6),),
        snapshots=(2, 1),
    ),
    "a snapshot from before a loss": History(
        messages=((0, "studio(b)"), (0, "request(a,pay)"), (0, "tick()")),
        crashes=(Crash(after=2, low=1), Crash(after=3)),
        snapshots=(2, 9),
    ),
    "a ledger that knows what was not delivered": History(
        messages=((0, "insight(d)"), (0, "rec(t,d)"), (0, "tick()")),
        crashes=(Crash(after=0), Crash(after=3, unwritten=2)),
        snapshots=(2, 2),
    ),
}


@pytest.mark.parametrize("rules", REFUTED, ids=lambda rules: rules.name)
def test_a_refuted_rule_breaks_its_property_where_ours_keeps_it(rules: Rules):
    history = COUNTEREXAMPLES[rules.name]
    promise = property_named(rules.refuted_by)
    assert fault_of(history, promise, rules) is not None
    assert fault_of(history, promise, AS_BUILT) is None


def test_every_counterexample_is_of_a_rule_that_is_tried():
    assert COUNTEREXAMPLES.keys() == {rules.name for rules in REFUTED}


# --------------------------------------------------------------------------- what was found on the way


FOUND = {
    "a final verdict held back at the gate outlives another crash": (
        "P1",
        History(
            messages=((0, "rec(r,a,DialVerb)"), (0, "done(s,a)"), (10, "tick()")),
            crashes=(Crash(after=3, unwritten=1), Crash(after=7, unwritten=1)),
        ),
    ),
    "a verdict that a former owner writes after its conversation was lost is ended": (
        "P5",
        History(
            messages=((0, "rec(s,c)"), (3, "tick()")),
            crashes=(Crash(after=1, unwritten=3, zombie=0, arrives=1, low=2),),
        ),
    ),
    "a suspicion is ended though its conference is in an open conversation": (
        "P5",
        History(messages=((0, "insight(d)"), (0, "end(d,ok)")), crashes=(Crash(after=0, low=1),)),
    ),
    "a suspicion whose event fell to the bound by a merge is ended": (
        "P1",
        History(
            messages=((0, "insight(d)"), (0, "join(a,c)"), (0, "rec(r,a)"), (0, "join(a,d,ok)")),
            crashes=(Crash(after=8),),
            entries_max=2,
        ),
    ),
    "a conversation that becomes truncated is told at once and not only after a restart": (
        "P2",
        History(
            messages=((0, "rec(s,c)"), (0, "rec(t,c)"), (0, "end(c,pay)"), (0, "name(c,pay)")),
            crashes=(Crash(after=3),),
            entries_max=3,
        ),
    ),
    "what the size bound drops binds by name all the same": (
        "P4",
        History(
            messages=(
                *((0, "request(b,pay)"), (7, "twiml(a,pay)"), (0, "leave(b,c)"), (0, "end(c,pay)")),
                (16, "rec(s,a,DialVerb)"),
            ),
            crashes=(Crash(after=6),),
            entries_max=2,
        ),
    ),
    "a room whose first sight moves back loses its claims to the room between": (
        "P9",
        History(
            messages=(
                *((0, "request(a,ok)"), (0, "name(c,ok)"), (0, "join(b,d,ok)@3"), (0, "name(c,ok)@3")),
                (11, "rec(t,d)"),
            ),
        ),
    ),
    "a rebuild binds by name as the run before it though another room of the name has closed since": (
        "P1",
        History(
            messages=(
                *((0, "name(c,ok)@1"), (1, "name(d,ok)@3"), (2, "name(c,ok)@5#2"), (3, "twiml(a,ok)@6")),
                *((11, "call(a)"), (13, "rec(r,d)")),
            ),
            crashes=(Crash(after=5),),
            policy=2,
        ),
    ),
    "a rebuild knows that a call had entered a conference though that one has closed since": (
        "P1",
        History(
            messages=((0, "join(a,c)"), (1, "name(d,ok)@1"), (2, "twiml(a,ok)"), (9, "rec(r,d)"), (13, "tick()")),
            crashes=(Crash(after=4),),
            policy=2,
        ),
    ),
    "a late change decided with its final verdict is not told again after a crash": (
        "P2",
        History(
            messages=((0, "listed(s,d)"), (10, "rec(s,b)"), (20, "rec(r,b)")),
            crashes=(Crash(after=2, unwritten=1),),
            policy=3,
        ),
    ),
    "an owner's suspicion outlives the tombstone of a former owner, and is withdrawn in its turn": (
        "P5",
        History(
            messages=(
                *((0, "insight(c)"), (0, "tick()"), (0, "tick()"), (0, "tick()"), (0, "insight(c)"), (0, "tick()")),
                (0, "rec(s,c)"),
            ),
            crashes=(Crash(after=2, unwritten=2, zombie=4, arrives=5, low=1),),
        ),
    ),
    "Flex is not allowed where the TwiML that forbids it may be lost": (
        "P5",
        History(
            messages=((0, "join(b,c)"), (0, "twiml(b,flex)"), (0, "name(c,flex)"), (0, "rec(r,c)")),
            crashes=(Crash(after=2, low=2),),
            policy=2,
        ),
    ),
    "a request by name allows nothing where an earlier join of its call may be lost": (
        "P5",
        History(
            messages=((0, "join(b,c,flex)"), (0, "rec(s,d)"), (0, "request(b,ok)"), (0, "name(d,ok)")),
            crashes=(Crash(after=0, low=1),),
            policy=3,
        ),
    ),
    "a call's conference allows nothing where the one it was in before may be lost": (
        "P5",
        History(
            messages=((0, "join(a,c,pay)@3"), (0, "tick()"), (0, "join(a,d,ok)@9"), (0, "rec(r,a)")),
            crashes=(Crash(after=1, low=1),),
        ),
    ),
    "a rebuild knows that a call had entered a conference before a room of the name was seen": (
        "P4",
        History(
            messages=(
                *((0, "join(a,c)"), (1, "call(b)"), (2, "twiml(a,ok)"), (3, "join(b,d,ok)"), (9, "rec(r,d)")),
                (13, "tick()"),
            ),
            crashes=(Crash(after=5),),
        ),
    ),
    "a rebuild knows it still when the room's conversation has been merged with an older one": (
        "P4",
        History(
            messages=(
                *((0, "join(a,c)"), (1, "call(b)"), (2, "name(d,ok)"), (3, "twiml(a,ok)"), (4, "join(b,d)")),
                *((9, "rec(r,d)"), (14, "tick()")),
            ),
            crashes=(Crash(after=6),),
        ),
    ),
    "a malformed entry below the gate is set aside though its first owner died before": (
        "P8",
        History(messages=((0, "rec(r,a)"), (1, "junk()"), (1, "rec(s,a)")), crashes=(Crash(after=2, unwritten=1),)),
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_once_wrong(what: str):
    name, history = FOUND[what]
    assert fault_of(history, property_named(name), AS_BUILT) is None


def test_the_known_hole_is_where_the_documentation_says_and_not_larger():
    # The conference's name and the call in it are lost; the call stays busy beyond the end of what the cut marks, the
    # conference is silent for longer than a window: nothing tells that the two belong together.
    history = History(
        messages=(
            *((0, "name(c,pay)"), (0, "join(a,c)"), (1, "call(a)"), (8, "call(a)#1"), (16, "call(a)#2")),
            *((24, "call(a)#3"), (25, "rec(r,c)")),
        ),
        crashes=(Crash(after=2, low=2),),
    )
    key = SIDS["r"]
    assert readers_map(Straight(history).topic)[key].outcome == "disallowed"
    assert readers_map(Interrupted(history).topic)[key].outcome == "allowed"
    # One event that names both while the cut still marks what is born is enough to close it.
    closed = history._replace(messages=(*history.messages[:3], (8, "join(a,c)#1"), *history.messages[4:]))
    assert readers_map(Interrupted(closed).topic)[key].outcome != "allowed"
