"""The fold of one partition, rule by rule; what holds over whole histories is in test_checkpoint_properties.py."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence

import msgspec
import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import Attribution
from monitor.core.judging import Tuning, Watch
from monitor.core.ledger import Ledger, NotReadBack
from monitor.core.pipeline import Checkpoint, NotJudged, Pipeline, Publish, SetAside, SettingSeen, Stands, Told
from monitor.core.policy import PolicyDocument, RuleDocument, Subject, compile_policy
from monitor.core.sweep import LOOKED_AT
from monitor.core.verdict import Verdict, encode_verdict
from monitor.core.window import COLD_AFTER, Cut
from tests.history import ACCOUNTS, FAR_AHEAD_MS, GRACE_MS, LOG_BASE_MS, SIDS, WINDOW_MS, message
from tests.uncollected import uncollected

TUNING = Tuning(window_ms=WINDOW_MS, grace_ms=GRACE_MS, age_max_ms=1000, entries_max=50, recordings_too_old_ms=None)
API_ALONE = PolicyDocument(
    name="api alone",
    mode="enforce",
    rules=(RuleDocument(name="by-api", outcome="allowed", when={"cause": ("api_call_recording",)}),),
)
FLEX = ("flex_call_recording", "flex_conference", "flex_stale_session", "flex_residual_setting")
START = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
SHORT = {sid: short for short, sid in SIDS.items()}


class Fold:
    """A pipeline that is fed short forms at stamps in units; ``told`` is what the last message told."""

    def __init__(
        self,
        *,
        policy: PolicyDocument = API_ALONE,
        tuning: Tuning = TUNING,
        checkpoint: Checkpoint = START,
        ledger: Ledger | None = None,
        skip: frozenset[int] = frozenset(),
        opened: bool = True,
        watch: Watch | None = None,
        sweeps: bool = False,
    ) -> None:
        compiled = compile_policy(policy, policy.name.encode())
        settings = AccountSettings()
        self.pipeline = Pipeline(
            tuning, compiled, settings, partition=3, checkpoint=checkpoint, skip=skip, sweeps=sweeps, watch=watch
        )
        self.offset = checkpoint.replay_from
        self.ledger = Ledger() if ledger is None else ledger
        if opened:
            self.pipeline.open(self.ledger)

    def feed(self, stamp: int, entries: str = "tick()") -> Sequence[Told]:
        told = self.pipeline.feed(self.offset, LOG_BASE_MS + stamp, message(entries))
        self.offset += 1
        return told

    def sweep(self, most: int = 1) -> list[tuple[str, bool]]:
        """What is told, and whether it is of the backlog, of at most so many conversations that are judged again."""
        told = [t.verdict for t in self.pipeline.sweep(most) if isinstance(t, Publish)]
        return [(SHORT[verdict.key], verdict.backlog) for verdict in told if verdict is not None]

    def sweep_all(self) -> list[list[tuple[str, bool]]]:
        """The same to the end, one by one."""
        swept = []
        while self.pipeline.sweeping:
            swept.append(self.sweep())
        return swept

    def verdicts(self, stamp: int, entries: str = "tick()") -> list[Verdict]:
        return [t.verdict for t in self.feed(stamp, entries) if isinstance(t, Publish) and t.verdict is not None]

    @property
    def log_time(self) -> int:
        assert self.pipeline.log_time_ms is not None
        return self.pipeline.log_time_ms - LOG_BASE_MS


def outcomes(verdicts: Sequence[Verdict]) -> list[tuple[str, bool]]:
    return [(verdict.outcome, verdict.final) for verdict in verdicts]


# --------------------------------------------------------------------------- log time and deadlines


def test_log_time_never_goes_back():
    fold = Fold()
    fold.feed(5)
    fold.feed(2)
    assert fold.log_time == 5


def test_one_stamp_far_ahead_does_not_move_log_time_and_is_counted():
    fold = Fold()
    fold.feed(5)
    fold.feed(5 + FAR_AHEAD_MS)
    assert fold.log_time == 5
    assert fold.pipeline.take_counts().clamped == 1


def test_a_stamp_far_ahead_counts_when_the_message_before_it_was_stamped_so_too():
    fold = Fold()
    fold.feed(5)
    fold.feed(5 + FAR_AHEAD_MS)
    fold.feed(6 + FAR_AHEAD_MS)
    assert fold.log_time == 6 + FAR_AHEAD_MS


def test_messages_that_were_not_stamped_are_folded_until_one_was():
    """As producers of old leave them (-1), in a topic that keeps the producers' stamps."""
    fold = Fold()
    for stamp, log_time_ms in ((-1, 0), (-1, 0), (LOG_BASE_MS, 0), (LOG_BASE_MS, LOG_BASE_MS)):
        fold.feed(stamp - LOG_BASE_MS, f"rec(r,a)#{fold.offset}")
        assert fold.pipeline.log_time_ms == log_time_ms


def test_a_rebuild_that_knows_the_stamp_before_it_dates_its_first_message_as_the_first_time():
    began = Checkpoint(offset=2, generation=1, replay_from=2, log_time_ms=LOG_BASE_MS + 5)
    fold = Fold(checkpoint=began)
    fold.pipeline.prime(LOG_BASE_MS + 5 + FAR_AHEAD_MS)
    fold.feed(6 + FAR_AHEAD_MS)
    assert fold.log_time == 6 + FAR_AHEAD_MS


def test_a_conversation_closes_before_the_message_at_its_deadline_is_folded():
    fold = Fold()
    fold.feed(0, "rec(r,a)")
    closing, opening = fold.verdicts(WINDOW_MS, "rec(s,a)")
    assert (closing.recording_sid, closing.final) == (SIDS["r"], True)
    assert (opening.recording_sid, opening.final) == (SIDS["s"], False)


def test_a_grace_ends_with_the_first_message_at_its_deadline():
    fold = Fold()
    assert fold.verdicts(0, "rec(r,c)") == []
    assert fold.verdicts(GRACE_MS - 1) == []
    assert outcomes(fold.verdicts(GRACE_MS)) == [("disallowed", False)]


def test_what_is_told_is_told_in_order_of_first_appearance():
    fold = Fold()
    fold.feed(0, "rec(t,c)")
    fold.feed(0, "rec(s,d) rec(r,d)")
    keys = [verdict.recording_sid for verdict in fold.verdicts(GRACE_MS)]
    assert keys == [SIDS["t"], SIDS["s"], SIDS["r"]]


# --------------------------------------------------------------------------- what is told, and what is not


def test_a_message_tells_where_and_when_it_was_decided():
    fold = Fold()
    fold.feed(0)
    [verdict] = fold.verdicts(4, "rec(r,a)")
    assert (verdict.at, verdict.rests_from) == ((1, 1), 1)
    assert verdict.evidence[0].position == "3:1"


def test_what_says_the_same_is_told_once():
    fold = Fold()
    assert outcomes(fold.verdicts(0, "rec(r,a)")) == [("allowed", False)]
    assert fold.verdicts(1, "rec(r,a)") == []
    assert fold.verdicts(2, "rec(r,a)#1") == []


def test_a_late_event_changes_status_and_end_of_a_final_verdict_and_nothing_else():
    fold = Fold()
    fold.feed(0, "rec(r,a)")
    [final] = fold.verdicts(WINDOW_MS)
    assert fold.feed(WINDOW_MS + 5, "done(r,c)") == []  # Of a conference: open until the grace ends.
    told = fold.feed(WINDOW_MS + 5 + GRACE_MS)
    [late] = [each for each in told if isinstance(each, Publish)]
    assert late.late
    assert late.verdict is not None
    changed = {f for f in Verdict.__struct_fields__ if getattr(late.verdict, f) != getattr(final, f)}
    assert changed == {"recording_status", "ended_at", "revision", "at", "decided_at", "history"}
    assert fold.pipeline.take_counts().late == 1


def test_a_suspicion_is_withdrawn_by_a_recording_of_its_conference():
    fold = Fold()
    [suspicion] = fold.verdicts(0, "insight(c)")
    assert (suspicion.kind, suspicion.outcome) == ("suspicion", "undetermined")
    [withdrawn] = fold.feed(1, "rec(r,c)")
    assert isinstance(withdrawn, Publish)
    assert (withdrawn.key, withdrawn.verdict) == (SIDS["c"], None)


def test_a_final_verdict_gets_its_tombstone_when_it_has_been_kept_long_enough():
    fold = Fold(ledger=Ledger(allowed_kept_ms=20))
    fold.feed(0, "rec(r,a)")
    fold.feed(WINDOW_MS)
    assert fold.feed(WINDOW_MS + 19) == []
    [tombstone] = fold.feed(WINDOW_MS + 20)
    assert isinstance(tombstone, Publish)
    assert (tombstone.key, tombstone.verdict) == (SIDS["r"], None)


def test_a_recording_that_started_too_long_ago_is_late_and_not_judged():
    fold = Fold(tuning=msgspec.structs.replace(TUNING, recordings_too_old_ms=1))
    ahead = 1_000_000  # Far behind the occurrences of the short forms lies the log's base.
    fold.feed(ahead - 1)
    assert fold.verdicts(ahead, "rec(r,a)") == []
    counts = fold.pipeline.take_counts()
    assert (counts.late, counts.too_old) == (1, 1)


def test_a_new_policy_is_applied_with_the_next_message():
    fold = Fold()
    fold.feed(0, "rec(r,a)")
    nothing_allowed = PolicyDocument(name="nothing", mode="enforce")
    fold.pipeline.change_policy(compile_policy(nothing_allowed, b"nothing"))
    [verdict] = fold.verdicts(1)
    assert (verdict.outcome, verdict.policy[:7], verdict.backlog) == ("disallowed", "sha256:", False)


def test_a_policy_that_only_observes_takes_the_alert_back():
    fold = Fold(policy=PolicyDocument(name="nothing", mode="enforce"))
    [enforced] = fold.verdicts(0, "rec(r,a)")
    fold.pipeline.change_policy(compile_policy(PolicyDocument(name="nothing", mode="observe"), b"observed"))
    [observed] = fold.verdicts(1)
    assert enforced.alert is not None
    assert (observed.outcome, observed.mode, observed.alert) == ("disallowed", "observe", None)


def test_a_recording_that_has_ended_is_backlog_when_a_new_policy_judges_it():
    fold = Fold()
    fold.feed(0, "done(r,a)")
    fold.pipeline.change_policy(compile_policy(PolicyDocument(name="nothing", mode="enforce"), b"nothing"))
    [verdict] = fold.verdicts(1)
    assert verdict.backlog


NOTHING = compile_policy(PolicyDocument(name="nothing", mode="enforce"), b"nothing")


def test_what_is_open_is_judged_by_a_new_policy_a_few_at_a_time():
    fold = Fold(sweeps=True)
    fold.feed(0, "rec(r,a) done(s,b)")
    assert fold.sweep_all() == [[]]  # The message has judged all there is: nobody need do it again.
    fold.pipeline.change_policy(NOTHING)
    assert not fold.pipeline.sweeping  # The next message is the first to be judged by it.
    [new] = fold.verdicts(1, "done(t,d)")
    assert (new.key, new.backlog) == (SIDS["t"], False)
    [old] = fold.verdicts(2, "done(s,b)#1")
    assert (old.key, old.backlog) == (SIDS["s"], True)  # As if it had been swept: that is why it is told.
    assert fold.sweep_all() == [[("r", False)], []]
    assert fold.sweep(9) == []


def test_a_cold_conversation_does_not_hold_what_could_still_matter_and_is_judged_for_whatever_does():
    fold = Fold(sweeps=True, tuning=msgspec.structs.replace(TUNING, window_ms=COLD_AFTER * 1_000, age_max_ms=10_000))
    fold.feed(0, "rec(r,a)")
    [conversation] = fold.pipeline.window.conversations()
    assert (conversation.cold, conversation.focus is None) == (False, False)
    while not conversation.cold:
        fold.feed(2_000, f"done(s,b)#{fold.offset}")
    assert conversation.focus is None
    fold.pipeline.change_policy(NOTHING)
    fold.feed(2_001)
    assert any(("r", False) in swept for swept in fold.sweep_all())  # It was judged.
    assert conversation.focus is None
    ended = {verdict.key: verdict.recording_status for verdict in fold.verdicts(2_002, "done(r,a)")}
    assert ended[SIDS["r"]] == "completed"


def test_of_what_still_comes_to_a_cold_conversation_only_the_first_is_judged_for_nothing():
    judged: list[str] = []
    tuning = msgspec.structs.replace(TUNING, window_ms=COLD_AFTER * 1_000, age_max_ms=10_000)
    fold = Fold(tuning=tuning, watch=lambda attribution, _: judged.append(SHORT[attribution.recording_sid]))
    fold.feed(0, "rec(r,a)")
    [conversation] = fold.pipeline.window.conversations()
    while not conversation.cold:
        fold.feed(2_000, f"done(s,b)#{fold.offset}")
    judged.clear()
    fold.feed(2_001, "task(v,a)")
    fold.feed(2_001, "task(w,a)")
    assert conversation.cold
    assert judged == ["r"]


def test_a_sweep_waits_for_the_message_that_another_change_begins_with():
    fold = Fold(sweeps=True)
    fold.feed(0, "rec(r,a) rec(s,b)")
    fold.feed(1)
    fold.pipeline.change_policy(NOTHING)
    fold.feed(2)
    assert fold.sweep() == [("s", False)]
    fold.pipeline.change_settings(ACCOUNTS["A"])
    assert not fold.pipeline.sweeping
    assert fold.pipeline.sweep(9) == ()
    fold.feed(3)
    assert fold.sweep(9) == [("r", False)]


def test_what_ends_in_the_midst_of_a_sweep_is_judged_by_its_end():
    fold = Fold(sweeps=True)
    fold.feed(0, "rec(r,a)")
    fold.pipeline.change_policy(NOTHING)
    fold.feed(1)
    assert outcomes(fold.verdicts(1 + WINDOW_MS)) == [("disallowed", True)]
    assert fold.sweep(9) == []
    assert not fold.pipeline.sweeping


def test_what_nobody_has_read_is_told_to_stand_once_it_is_judged_after_a_takeover():
    fold = Fold(sweeps=True)
    log = ("rec(r,a)", "rec(s,b)")
    for stamp, entries in enumerate(log):
        assert len(fold.feed(stamp, entries)) == 1
    fold.ledger.restored = True  # As one that a snapshot has filled.
    successor = Fold(sweeps=True, ledger=fold.ledger, opened=False)
    successor.pipeline.committed = len(log)
    for stamp, entries in enumerate(log):
        assert successor.feed(stamp, entries) == []
    for key in ("r", "s"):
        fold.ledger.note(SIDS[key], 0)  # What it was found by is known to whoever found it.
    successor.pipeline.open(fold.ledger)

    told = list(successor.feed(2))
    while successor.pipeline.sweeping:
        told += successor.pipeline.sweep(1)
    assert [(type(each), SHORT[each.key]) for each in told if isinstance(each, Stands | Publish)] == [
        (Stands, "s"),
        (Stands, "r"),
    ]
    successor.pipeline.change_settings(ACCOUNTS["A"])
    successor.feed(3)
    for key in ("r", "s"):
        fold.ledger.note(SIDS[key], 0)
    again = successor.pipeline.sweep(9)
    assert not any(isinstance(each, Stands) for each in again)  # By now it was told.


def test_the_end_of_a_file_closes_whatever_is_open():
    fold = Fold()
    fold.feed(0, "rec(r,c)")
    fold.feed(2, "call(a)")
    told = fold.pipeline.finish()
    assert [(t.verdict.outcome, t.verdict.final) for t in told if isinstance(t, Publish) and t.verdict] == [
        ("disallowed", True)
    ]
    assert fold.log_time == 2 + WINDOW_MS


# --------------------------------------------------------------------------- the fence


class Bug:
    """Judging recording r raises, while ``there``: a bug that what is known of that recording brings out."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there

    def __call__(self, attribution: Attribution, _: Subject) -> None:
        if self.there and attribution.recording_sid == SIDS["r"]:
            raise ZeroDivisionError("a bug, and +15550001234 is a number it quotes")


WHEN_OPEN_ALLOWED = msgspec.structs.replace(API_ALONE, when_open="allowed")


def test_a_conversation_that_cannot_be_judged_is_undetermined_and_no_other_suffers():
    fold = Fold(watch=Bug(), policy=WHEN_OPEN_ALLOWED)
    told = list(fold.feed(0, "rec(r,a)"))
    assert [type(one) for one in told] == [NotJudged]  # In its grace nothing is said of it.
    assert isinstance(told[0], NotJudged)
    assert (told[0].recordings, told[0].error) == ((SIDS["r"],), "ZeroDivisionError")
    assert told[0].where.startswith("test_pipeline.py:")
    assert [v.recording_sid for v in fold.verdicts(1, "rec(s,b)")] == [SIDS["s"]]

    [open_] = fold.verdicts(GRACE_MS)
    assert (open_.recording_sid, open_.outcome, open_.rule) == (SIDS["r"], "undetermined", "when_open")
    assert (open_.missing, open_.final, open_.started_at) == (("judgement",), False, None)
    assert fold.verdicts(GRACE_MS + 1) == []

    ends = fold.verdicts(WINDOW_MS + 1)
    assert [(v.recording_sid, v.outcome, v.final) for v in ends] == [
        (SIDS["r"], "undetermined", True),
        (SIDS["s"], "allowed", True),
    ]
    assert fold.pipeline.take_counts().not_judged >= 3


@pytest.mark.parametrize(
    ("entries", "outcome", "at_the_end"),
    [("rec(r,c)", "disallowed", "disallowed"), ("rec(r,a)", "allowed", "undetermined")],
)
def test_what_was_disallowed_stays_so_where_judging_fails_and_what_was_allowed_does_not(
    entries: str, outcome: str, at_the_end: str
):
    bug = Bug(there=False)
    fold = Fold(watch=bug)
    told = [*fold.verdicts(0, entries), *fold.verdicts(GRACE_MS)][-1]
    bug.there = True
    [last] = fold.verdicts(WINDOW_MS)
    assert (told.outcome, last.outcome, last.final) == (outcome, at_the_end, True)
    assert last.cause == (told.cause if outcome == "disallowed" else None)


def test_it_is_tried_again_and_the_fault_is_forgotten_once_judging_succeeds():
    bug = Bug()
    fold = Fold(watch=bug)
    fold.feed(0, "rec(r,a)")
    assert outcomes(fold.verdicts(GRACE_MS)) == [("undetermined", False)]
    bug.there = False
    assert outcomes(fold.verdicts(WINDOW_MS)) == [("allowed", True)]


def test_a_new_policy_that_cannot_be_applied_to_a_recording_leaves_its_verdict_and_the_next_message_alone():
    bug = Bug(there=False)
    fold = Fold(watch=bug)
    fold.feed(0, "rec(r,a) rec(s,b)")
    bug.there = True
    fold.pipeline.change_policy(compile_policy(PolicyDocument(name="nothing", mode="enforce"), b"nothing"))
    assert [(v.recording_sid, v.outcome) for v in fold.verdicts(1, "tick()")] == [(SIDS["s"], "disallowed")]


def test_a_restart_ends_a_conversation_that_cannot_be_judged_as_a_long_run_does():
    messages = [(0, "rec(r,a)"), (1, "rec(s,b)"), (GRACE_MS + 1, "tick()"), (WINDOW_MS + 2, "tick()")]
    whole = Fold(watch=Bug())
    expected = [verdict for stamp, entries in messages for verdict in whole.verdicts(stamp, entries)][-2:]
    for crash in range(1, 4):
        first = Fold(watch=Bug())
        for stamp, entries in messages[:crash]:
            first.feed(stamp, entries)
        second = Fold(ledger=first.ledger, opened=False, watch=Bug())
        second.pipeline.open(first.ledger)
        ends = [verdict for stamp, entries in messages for verdict in second.verdicts(stamp, entries)]
        assert outcomes(ends[-2:]) == outcomes(expected) == [("undetermined", True), ("allowed", True)]


# --------------------------------------------------------------------------- the gate


def rebuilt(fold: Fold, ledger: Ledger, *, messages: Sequence[tuple[int, str]], checkpoint: Checkpoint) -> Fold:
    """A second process over the same messages: fed up to the commit, then opened."""
    other = Fold(checkpoint=checkpoint, ledger=ledger, opened=False)
    for stamp, entries in messages[checkpoint.replay_from : checkpoint.offset]:
        assert list(other.feed(stamp, entries)) == []
    other.pipeline.open(ledger)
    return other


def test_below_the_commit_nothing_is_told():
    fold = Fold(checkpoint=msgspec.structs.replace(START, offset=2))
    assert list(fold.feed(0, "junk() rec(r,a)")) == []
    assert list(fold.feed(0, "flow()")) == []
    assert fold.verdicts(1) != []


def test_between_commit_and_gate_only_what_is_no_verdict_is_told():
    first = Fold()
    messages = [(0, "rec(r,a)"), (1, "junk()"), (1, "flow()"), (2, "rec(s,a)"), (3, "tick()")]
    for stamp, entries in messages[:4]:
        first.feed(stamp, entries)
    second = rebuilt(first, first.ledger, messages=messages, checkpoint=START)
    assert second.pipeline.gate == 4
    told = [second.feed(stamp, entries) for stamp, entries in messages]
    assert [len(each) for each in told] == [0, 1, 1, 0, 0]
    assert isinstance(told[1][0], SetAside)
    assert isinstance(told[2][0], SettingSeen)


def test_the_checkpoint_stays_at_the_commit_until_the_gate_is_reached():
    first = Fold()
    messages = [(0, "rec(r,a)"), (1, "tick()"), (2, "rec(s,a)"), (3, "tick()")]
    for stamp, entries in messages[:3]:
        first.feed(stamp, entries)
    second = rebuilt(first, first.ledger, messages=messages, checkpoint=START)
    offsets = []
    for stamp, entries in messages:
        second.feed(stamp, entries)
        offsets.append(second.pipeline.checkpoint().offset)
    assert offsets == [0, 0, 0, 4]


def a_verdict(key: str, *, at: tuple[int, int], outcome: str = "allowed", rests_from: int = 0) -> Verdict:
    """A verdict as another process has published it."""
    fold = Fold()
    [verdict] = fold.verdicts(0, f"rec({key},a)")
    return msgspec.structs.replace(verdict, at=at, outcome=outcome, rests_from=rests_from)


def test_a_final_verdict_behind_a_later_one_is_told_once_its_position_is_reached():
    fold = Fold()
    fold.feed(0, "rec(r,a)")
    before = fold.pipeline.checkpoint()
    fold.ledger.take_in(SIDS["r"], a_verdict("r", at=(1, 3), outcome="undetermined"), 0)
    assert fold.verdicts(WINDOW_MS) == []  # Offset 1.
    assert fold.pipeline.checkpoint() == msgspec.structs.replace(before, offset=1)
    assert fold.verdicts(WINDOW_MS) == []
    assert outcomes(fold.verdicts(WINDOW_MS)) == [("allowed", True)]
    assert fold.pipeline.checkpoint().offset == 4


def test_what_somebody_else_writes_is_compared_with_the_next_message():
    fold = Fold()
    fold.feed(0, "rec(r,a)")
    fold.feed(1)
    fold.ledger.take_in(SIDS["r"], a_verdict("r", at=(1, 1), outcome="disallowed"), 0)
    assert outcomes(fold.verdicts(2)) == [("allowed", False)]


@pytest.mark.parametrize(("outcome", "ends_as"), [("disallowed", "disallowed"), ("allowed", "undetermined")])
def test_a_verdict_whose_conversation_was_lost_is_ended_and_only_a_disallowed_one_keeps_its_outcome(outcome, ends_as):
    ledger = Ledger()
    ledger.take_in(SIDS["r"], a_verdict("r", at=(1, 4), outcome=outcome), 0)
    cut = Cut(4, LOG_BASE_MS + WINDOW_MS)
    lost = Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS, cut=cut, lost=True)
    fold = Fold(checkpoint=lost, ledger=ledger)
    [verdict] = fold.verdicts(0)
    assert (verdict.outcome, verdict.final) == (ends_as, True)


def test_a_suspicion_that_was_withdrawn_is_so_again_where_what_tells_of_its_recording_closed_before_the_gate():
    first = Fold()
    messages = [(0, "insight(e)"), (WINDOW_MS, "rec(t,e)"), (2 * WINDOW_MS, "tick()")]
    for stamp, entries in messages:
        first.feed(stamp, entries)
    assert not first.ledger.knows(SIDS["e"])
    second = rebuilt(first, first.ledger, messages=messages, checkpoint=START)
    assert second.pipeline.gate == 3
    for stamp, entries in messages:
        assert list(second.feed(stamp, entries)) == []
    assert [(verdict.key, verdict.final) for verdict in second.verdicts(2 * WINDOW_MS)] == [(SIDS["e"], True)]
    assert not second.ledger.knows(SIDS["e"])


def test_where_much_was_published_those_without_a_conversation_are_ended_a_few_at_a_time():
    """Nor before the log has been caught up with, and none that is somebody's, or was decided later."""
    ledger = Ledger()
    nobodys = sorted(f"RE{number:032x}" for number in range(1, 2 * LOOKED_AT))
    verdict = a_verdict("r", at=(1, 4))
    for key in [*nobodys, SIDS["r"]]:
        ledger.take_in(key, msgspec.structs.replace(verdict, recording_sid=key), 0)
    ledger.take_in(SIDS["s"], a_verdict("s", at=(1, 9)), 0)
    taken_over = Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS, end=12)
    fold = Fold(checkpoint=taken_over, ledger=ledger, sweeps=True)
    assert fold.pipeline.gate == 10
    for stamp in range(6):
        fold.feed(stamp, "rec(r,a)" if stamp == 0 else "tick()")
        assert {key for told in fold.sweep_all() for key, _ in told} <= {"r"}
    fold.feed(6)
    assert fold.pipeline.next_offset == 12
    ended: list[str] = []
    while fold.pipeline.sweeping:
        told = [one for one in fold.pipeline.sweep(3) if isinstance(one, Publish)]
        assert len(told) <= 1
        ended += [one.key for one in told if one.verdict is not None and one.verdict.final]
    assert ended == [*nobodys, SIDS["s"]]
    assert not ledger.is_final(SIDS["r"])


def test_of_those_that_are_not_to_be_ended_a_few_are_passed_over_at_a_time():
    ledger = Ledger()
    for number in range(3 * LOOKED_AT):
        key = f"RE{number:032x}"
        ledger.take_in(key, msgspec.structs.replace(a_verdict("r", at=(2, 0)), recording_sid=key), 0)
    taken_over = Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS)
    fold = Fold(checkpoint=taken_over, ledger=ledger, sweeps=True)
    fold.feed(0, "rec(r,a)")
    fold.pipeline.change_policy(NOTHING)
    fold.feed(0)
    told = fold.sweep_all()
    assert len(told) == 4 + 2  # The last of each finds that there are no more.
    assert told.index([("r", False)]) == 1


def test_they_are_ended_also_where_one_change_follows_the_other():
    ledger = Ledger()
    ledger.take_in(SIDS["s"], a_verdict("s", at=(1, 4)), 0)
    taken_over = Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS)
    fold = Fold(checkpoint=taken_over, ledger=ledger, sweeps=True)
    for stamp, key in enumerate("rt"):
        fold.feed(stamp, f"rec({key},{'ab'[stamp]})")
    [account] = fold.pipeline.window.accounts
    for _ in range(3):
        fold.pipeline.change_settings(account)
        fold.feed(2)
        fold.sweep()
        assert fold.pipeline.sweeping
    assert ledger.is_final(SIDS["s"])


def test_where_one_of_them_can_not_be_ended_the_others_are_and_all_of_that_is_told():
    topic: dict[str, bytes] = {}
    ledger = Ledger(lambda key, _: topic[key])
    keys = [f"RE{number:032x}" for number in range(1, 6)]
    for place, key in enumerate(keys):
        verdict = msgspec.structs.replace(a_verdict("r", at=(1, 4)), recording_sid=key)
        topic[key] = encode_verdict(verdict)
        ledger.take_in(key, verdict, place)
    topic[keys[2]] = b"?"
    fold = Fold(checkpoint=Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=0), ledger=ledger, sweeps=True)
    fold.feed(0)
    ended: list[str] = []
    raised = 0
    while fold.pipeline.sweeping:
        try:
            ended += [told.key for told in fold.pipeline.sweep(4) if isinstance(told, Publish)]
        except ValueError:
            raised += 1
    assert (raised, ended) == (1, [*keys[:2], *keys[3:]])


def about_to_be_compared(broken: str, fetch: Callable[[str, int], bytes]) -> Fold:
    """Three recordings that are to be judged again; of ``broken`` what is published has to be read back for it."""
    ledger = Ledger(fetch)
    fold = Fold(policy=PolicyDocument(name="nothing", mode="enforce"), ledger=ledger, sweeps=True)
    fold.feed(0, "tick()")
    for number, short in enumerate("rst"):
        fold.feed(1, f"rec({short},a)#{number}")
    # Published as disallowed on what this fold has not seen: to be allowed now, it has to be read back.
    for short in broken:
        ledger.publish(a_verdict(short, at=(1, 2), outcome="disallowed"), 1)
    for place, short in enumerate("rst"):
        ledger.placed(SIDS[short], (1, 1 + place), place)
    for short in broken:
        ledger.placed(SIDS[short], (1, 2), 9)
    fold.pipeline.change_policy(compile_policy(API_ALONE, b"api alone"))
    fold.feed(2)
    return fold


def test_where_one_of_those_that_are_judged_again_can_not_be_compared_all_that_is_told_of_the_others_comes():
    fold = about_to_be_compared("s", lambda _key, _place: b"?")
    told: list[str] = []
    raised = 0
    while fold.pipeline.sweeping:
        try:
            told += [SHORT[each.key] for each in fold.pipeline.sweep(9) if isinstance(each, Publish)]
        except ValueError:
            raised += 1
    assert (raised, told) == (1, ["r", "t"])


def test_where_a_verdict_can_not_be_read_back_no_other_is_waited_for_and_whoever_sweeps_is_told_at_once():
    asked: list[str] = []

    def fetch(key: str, _place: int) -> bytes:
        asked.append(SHORT[key])
        if asked == ["r"]:
            return b"?"  # Of this one the core is wrong, and that is not said instead.
        raise NotReadBack

    fold = about_to_be_compared("rst", fetch)
    with pytest.raises(NotReadBack):
        fold.pipeline.sweep(9)
    assert asked == ["r", "s"]


@pytest.mark.parametrize("raised", [True, False])
def test_what_a_sweep_raised_does_not_hold_the_state(raised: bool) -> None:
    fold = about_to_be_compared("s", lambda _key, _place: b"?")
    fold.pipeline.sweep(9)
    if raised:
        with contextlib.suppress(ValueError):
            fold.pipeline.sweep(9)
    else:
        fold.pipeline.dismantle()
    gone = weakref.ref(fold.pipeline)
    with uncollected():
        del fold
        assert gone() is None


def test_where_something_was_lost_they_are_ended_at_once_for_a_successor_does_not_know_it():
    ledger = Ledger()
    verdict = a_verdict("r", at=(1, 4))
    for number in range(3 * LOOKED_AT):
        key = f"RE{number:032x}"
        ledger.take_in(key, msgspec.structs.replace(verdict, recording_sid=key), 0)
    lost = Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS, lost=True)
    assert len(Fold(checkpoint=lost, ledger=ledger, sweeps=True).verdicts(0)) == 3 * LOOKED_AT


def test_a_successor_knows_of_a_loss_until_the_log_has_been_caught_up_with():
    """Else it would take a suspicion whose evidence is gone for a former owner's late word, and withdraw it."""
    ledger = Ledger()
    suspicion = msgspec.structs.replace(
        a_verdict("r", at=(1, 4)), kind="suspicion", recording_sid=None, conference_sid=SIDS["c"]
    )
    ledger.take_in(suspicion.key, suspicion, 0)
    lost = Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS, lost=True, end=8)
    before = Fold(checkpoint=lost, ledger=ledger, sweeps=True)
    assert before.verdicts(0) == before.verdicts(0) == []
    between = before.pipeline.checkpoint()
    assert (between.offset, between.lost) == (7, True)

    successor = Fold(checkpoint=msgspec.structs.replace(between, end=8), ledger=ledger, sweeps=True)
    [ended] = successor.verdicts(0)
    assert (ended.key, ended.outcome, ended.missing) == (suspicion.key, "undetermined", ("evidence lost",))
    assert not successor.pipeline.checkpoint().lost


def test_a_verdict_without_a_conversation_is_not_ended_before_the_log_has_been_caught_up_with():
    before = Fold()
    [published] = before.verdicts(0, "rec(r,a)")
    ledger = Ledger()
    ledger.take_in(published.key, published, 0)
    stepped_back = Checkpoint(offset=0, generation=2, replay_from=0, log_time_ms=None, lost=True, end=2)
    fold = Fold(checkpoint=stepped_back, ledger=ledger)

    assert fold.verdicts(0) == []
    [found_again] = fold.verdicts(0, "rec(r,a)")
    assert (found_again.key, found_again.final) == (published.key, False)


def test_less_evidence_never_turns_disallowed_into_allowed():
    ledger = Ledger()
    ledger.take_in(SIDS["r"], a_verdict("r", at=(1, 4), outcome="disallowed", rests_from=2), 0)
    fold = Fold(checkpoint=Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS), ledger=ledger)
    fold.feed(0, "rec(r,a)")
    assert outcomes(fold.verdicts(WINDOW_MS)) == [("disallowed", True)]


def test_as_much_evidence_turns_disallowed_into_allowed():
    ledger = Ledger()
    ledger.take_in(SIDS["r"], a_verdict("r", at=(1, 4), outcome="disallowed", rests_from=6), 0)
    fold = Fold(checkpoint=Checkpoint(offset=5, generation=1, replay_from=5, log_time_ms=LOG_BASE_MS), ledger=ledger)
    assert outcomes(fold.verdicts(0, "rec(r,a)")) == [("allowed", False)]


# --------------------------------------------------------------------------- bounds, and messages left out


def test_a_conversation_that_has_become_too_old_closes_all_of_the_partition_as_lacking_evidence():
    fold = Fold(tuning=msgspec.structs.replace(TUNING, age_max_ms=8))
    fold.feed(0, "rec(r,a)")
    fold.feed(5, "B:rec(s,c)")
    told = fold.verdicts(9, "call(a)")
    assert outcomes(told) == [("undetermined", True), ("undetermined", True)]
    assert fold.pipeline.checkpoint().cut == Cut(2, LOG_BASE_MS + 9 + WINDOW_MS)
    assert fold.pipeline.take_counts().closed_by_cut == 2


def test_after_a_cut_nothing_is_allowed_by_elimination_until_a_window_has_passed():
    fold = Fold(tuning=msgspec.structs.replace(TUNING, age_max_ms=8))
    fold.feed(0, "call(a)")
    fold.feed(5, "call(a)#1")
    fold.feed(9, "call(a)#2")
    fold.feed(10, "rec(r,a)")
    fold.feed(9 + WINDOW_MS, "rec(s,b)")
    final = {verdict.recording_sid: verdict.outcome for verdict in fold.verdicts(30) if verdict.final}
    assert final == {SIDS["r"]: "undetermined", SIDS["s"]: "allowed"}


def test_a_message_of_the_skip_set_leaves_nothing():
    fold = Fold(skip=frozenset({0}))
    assert fold.feed(0, "rec(r,a)") == ()
    assert fold.pipeline.window.accounts == {}


def test_every_entry_is_counted_as_one_thing():
    fold = Fold()
    fold.feed(0, "rec(r,a) rec(r,a) amd() junk() tick()")
    fold.feed(WINDOW_MS, "done(r,a)")
    counts = fold.pipeline.take_counts()
    told_apart = (counts.events_total, counts.ignored, counts.malformed, counts.duplicate, counts.late)
    assert told_apart == (2, 1, 1, 1, 1)
    assert counts.entries == sum(told_apart)
    assert fold.pipeline.take_counts().entries == 0


def test_a_malformed_entry_is_set_aside_with_its_place_inside_the_message():
    fold = Fold()
    [aside] = fold.feed(0, "tick() junk()")
    assert isinstance(aside, SetAside)
    assert (aside.index, aside.data, aside.reason) == (1, b"17", "not-an-object")


def test_a_setting_is_copied_again_when_it_comes_again_for_its_copy_may_have_been_lost():
    fold = Fold()
    for _ in range(2):
        [copied] = fold.feed(0, "flow()")
        assert isinstance(copied, SettingSeen)
    assert fold.pipeline.take_counts().duplicate == 1


def test_a_suspicion_is_told_though_its_conversation_keeps_no_more_evidence():
    fold = Fold(tuning=msgspec.structs.replace(TUNING, entries_max=2))
    fold.feed(0, "name(c,ok) join(a,c)")
    [suspicion] = fold.verdicts(0, "insight(c)")
    assert suspicion.kind == "suspicion"


def test_a_verdict_whose_evidence_fell_to_the_bound_is_ended_when_its_conversation_closes():
    fold = Fold(tuning=msgspec.structs.replace(TUNING, entries_max=1))
    fold.feed(0, "rec(r,a) rec(r,a)#1 rec(r,a)#2 rec(r,a)#3")
    assert outcomes(fold.verdicts(0, "rec(s,b)")) == [("allowed", False)]
    fold.feed(1, "call(a,b)")
    final = {verdict.recording_sid: (verdict.outcome, verdict.missing) for verdict in fold.verdicts(1 + WINDOW_MS)}
    assert final[SIDS["s"]] == ("undetermined", ("evidence lost",))


@pytest.mark.parametrize("forbidden", ["conference_api", "flex_conference", "unattributed"])
def test_what_allows_twiml_allows_nothing_where_evidence_for_a_forbidden_cause_may_be_lost(forbidden):
    causes = ("conference_api", "conference_twiml", "unattributed", *FLEX)
    allowing = RuleDocument(
        name="some", outcome="allowed", when={"cause": tuple(cause for cause in causes if cause != forbidden)}
    )
    policy = PolicyDocument(name="some causes", mode="enforce", rules=(allowing,))
    cut = Cut(0, LOG_BASE_MS + WINDOW_MS)
    lost = Checkpoint(offset=1, generation=1, replay_from=1, log_time_ms=LOG_BASE_MS, cut=cut, lost=True)
    fold = Fold(policy=policy, checkpoint=lost)
    fold.feed(0, "join(b,c,ok) twiml(b,ok) rec(r,c)")
    assert outcomes(fold.verdicts(2 * WINDOW_MS)) == [("undetermined", True)]
