"""Judging again: which final verdicts may change, and to what, over generated histories and one by one.

What a whole monitor and the command make of it: tests/test_rejudge_run.py.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from monitor.cli import run
from monitor.core.account_settings import AccountSettings
from monitor.core.ledger import Ledger
from monitor.core.policy import Policy
from monitor.core.rejudging import Refold, Settled, Standing, Why, left_alone, look_backs_ms, read_standing, weigh
from monitor.core.verdict import (
    RESTS_ON_LOST,
    AlertLabels,
    Rejudged,
    Verdict,
    decode_verdict,
    encode_verdict,
    read_instant,
    rejudged,
    render_instant,
)
from monitor.inputs.checkpoint import resume
from monitor.outputs.alert_text import Links, render_alert
from monitor.outputs.alerts import BACKLOG
from tests.history import (
    AS_BUILT,
    FAR_AHEAD_MS,
    POLICIES,
    SIDS,
    Broker,
    Feature,
    History,
    Interrupted,
    Property,
    Straight,
    Topic,
    policy_of,
    readers_map,
)
from tests.pages import Cases
from tests.test_alerts import HOUR, MINUTE, PACE, T0, Stage, ended, firing, recording, resolved
from tests.test_pages import Asking, ask, text_of
from tests.test_pipeline import Fold

EXAMPLES = 300
LONG_AGO_MS = 1 << 50


def again(history: History, standing: dict[str, Standing], policy: Policy, low: int = 0) -> dict[str, Verdict | Why]:
    """What judging the final verdicts of a history again says of those that it does not leave unchanged."""
    broker = Broker(history.log())
    broker.low, broker.high = low, len(broker.log)
    settled = Settled(generation=1, replay_from=broker.high, before_ms=LONG_AGO_MS, low=low)
    said: dict[str, Verdict | Why | None] = {key: left_alone(one, settled) for key, one in standing.items()}
    tried = {key: standing[key] for key, why in said.items() if why is None}
    if not tried:
        return {key: why for key, why in said.items() if why is not None}
    tuning = history.tuning()
    stamp = broker.stamp(min(one.rests_from for one in tried.values()))
    assert stamp is not None

    def fold(look_back_ms: int) -> Refold:
        checkpoint = resume(
            None,
            broker,
            fingerprint="",
            start_at=stamp - look_back_ms,
            window_ms=tuning.window_ms,
            age_max_ms=tuning.age_max_ms,
            now_ms=0,
        ).checkpoint
        checkpoint = msgspec.structs.replace(checkpoint, generation=1)
        refold = Refold(tuning, policy, AccountSettings(), partition=None, checkpoint=checkpoint, standings=tried)
        for offset in range(checkpoint.offset, refold.end):
            said.update(refold.feed(offset, *broker.log[offset]))
        return refold

    near_ms, far_ms = look_backs_ms(tuning)
    refold = fold(near_ms)
    if refold.falls_short:
        refold = fold(far_ms)
    said.update(refold.finish())
    assert not refold.failures
    return {key: answer for key, answer in said.items() if answer is not None}


def finals(topic: Topic) -> dict[str, Standing]:
    verdicts = readers_map(topic).values()
    return {v.key: read_standing(encode_verdict(v)) for v in verdicts if v.final and v.kind == "recording"}


def without_settings(history: History) -> bool:
    """Whether nothing is learnt later that was true before: that may change a cause, under whatever policy."""
    return not any("flex(" in entries or "flow(" in entries for _, entries in history.messages)


def test_the_same_policy_changes_nothing_whatever_happened_to_those_who_judged():
    promise = Property("rejudge", lambda *_: None, Feature(changes=False))
    judged = 0
    for history in filter(without_settings, map(promise.example, range(EXAMPLES))):
        standing = finals(Interrupted(history).topic)
        answers = again(history, standing, policy_of(AS_BUILT, history.policy))
        assert all(isinstance(answer, Why) for answer in answers.values()), (history, answers)
        # What is stamped in the future dates what follows it, as far as it is seen.
        assert not answers or any(stamp >= FAR_AHEAD_MS for stamp, _ in history.messages), (history, answers)
        judged += len(standing)
    assert judged > 100


def test_where_something_is_open_for_long_the_fold_begins_as_early_as_it_takes():
    history = History(messages=(*((at, f"join(b,d)#{at}") for at in range(0, 60, 8)), (60, "rec(r,c)")), age_max_ms=100)
    standing = finals(Straight(history).topic)
    assert standing.keys() == {SIDS["r"]}
    assert again(history, standing, policy_of(AS_BUILT, history.policy)) == {}


def test_what_is_no_longer_all_there_stays_as_it_is():
    promise = Property("rejudge what is left", lambda *_: None, Feature(crashes=False, changes=False))
    left = 0
    for history in filter(without_settings, map(promise.example, range(EXAMPLES))):
        standing = finals(Straight(history).topic)
        for low in range(1, len(history.messages), 2):
            answers = again(history, standing, policy_of(AS_BUILT, history.policy), low)
            assert all(isinstance(answer, Why) for answer in answers.values()), (history, low, answers)
            left += len(answers)
    assert left > 100


def test_less_evidence_allows_nothing_that_more_does_not():
    promise = Property(
        "rejudge after a loss", lambda *_: None, Feature(losses=True, changes=False, small=False, truthful=True)
    )
    changed = left = 0
    for history in filter(without_settings, map(promise.example, range(EXAMPLES))):
        run = Interrupted(history)
        standing = finals(run.topic)
        for number in range(len(POLICIES)):
            policy = policy_of(AS_BUILT, number)
            some, all_ = again(history, standing, policy, run.broker.low), again(history, standing, policy)
            for key, answer in some.items():
                if isinstance(answer, Why):
                    left += 1
                elif answer.outcome == "allowed" and standing[key].outcome == "disallowed":
                    whole = all_.get(key)
                    assert getattr(whole, "outcome", whole) == "allowed", (history, number, key)
                    changed += 1
    assert changed > 20
    assert left > 100


# --------------------------------------------------------------------------- one by one

NOW = "2026-11-21T12:00:00.000Z"
OTHER = "sha256:" + "9" * 64


def standing_verdict(**changes: Any) -> Verdict:
    """A final verdict, decided by the message 40, that rests on what came from 10 on."""
    final = {"final": True, "at": (1, 40), "rests_from": 10, "decided_at": render_instant(T0 + 4 * HOUR)}
    return msgspec.structs.replace(ended(), **{**final, **changes})


def now_says(outcome: str = "allowed", **changes: Any) -> Verdict:
    """What is found by judging the same again under another policy."""
    severity, since = (None, None) if outcome == "allowed" else ("critical", render_instant(T0))
    alert = AlertLabels("dial", "critical", "voice", "main", "DialVerb") if outcome == "disallowed" else None
    said = {"outcome": outcome, "rule": "dial", "severity": severity, "disallowed_since": since, "alert": alert}
    return standing_verdict(revision=1, policy=OTHER, reason="As the new policy has it.", **{**said, **changes})


def short(verdict: Verdict) -> Standing:
    return read_standing(encode_verdict(verdict))


SETTLED = Settled(generation=1, replay_from=41, before_ms=T0 + 4 * HOUR, low=10)


@pytest.mark.parametrize(
    ("changes", "settled", "why"),
    [
        ({}, {}, None),
        ({}, None, Why.NO_POSITION),
        ({}, {"generation": 2}, Why.OTHER_LOG),
        ({}, {"replay_from": 40}, Why.YOUNG),
        ({}, {"before_ms": T0 + 4 * HOUR - 1}, Why.YOUNG),
        ({"rejudged": Rejudged(NOW, "allowed", "default", OTHER), "decided_at": NOW}, {}, None),
        ({}, {"low": 11}, Why.GONE),
        ({"rests_from": RESTS_ON_LOST}, {"low": 0}, Why.GONE),
    ],
)
def test_a_verdict_is_left_alone_while_anybody_may_come_back_to_it_or_its_events_are_gone(changes, settled, why):
    known = None if settled is None else msgspec.structs.replace(SETTLED, **settled)
    assert left_alone(short(standing_verdict(**changes)), known) is why


@pytest.mark.parametrize(
    ("found", "whole_from", "says"),
    [
        ({"outcome": "disallowed", "rule": "default"}, 0, None),
        ({"outcome": "disallowed"}, 0, "disallowed"),
        ({"outcome": "disallowed", "rule": "default", "severity": "warning"}, 0, "disallowed"),
        ({"outcome": "disallowed", "rule": "default", "cause": "record_verb"}, 0, "disallowed"),
        ({}, 10, "allowed"),
        ({}, 11, Why.PARTLY_GONE),
        ({"rests_from": 11}, 0, Why.PARTLY_GONE),
        ({"rests_from": 9}, 10, Why.PARTLY_GONE),
        ({"first_seen_at": NOW}, 0, Why.UNTIMED),
        ({"missing": ("judgement",)}, 0, Why.FAILED),
    ],
)
def test_an_answer_counts_that_rests_on_as_much_and_says_something_else(found, whole_from, says):
    answer = weigh(short(standing_verdict()), now_says(**found), whole_from)
    assert (answer.outcome if isinstance(answer, Verdict) else answer) == says


@pytest.mark.parametrize(
    ("field", "other"), [(b'"revision":2', b'"revision":%d' % (1 << 63)), (b'"reason":', b'"season":')]
)
def test_what_no_monitor_takes_for_a_verdict_is_not_judged_again(field: bytes, other: bytes):
    """It was, and could not be read once it was to be written."""
    value = encode_verdict(standing_verdict(revision=2))
    assert field in value
    with pytest.raises(msgspec.DecodeError):
        read_standing(value.replace(field, other))


def test_a_rejudged_verdict_keeps_its_place_and_says_what_it_was():
    before = standing_verdict(recording_status="deleted", found_by="verb")
    after = rejudged(before, now_says(found_by="stream", rests_from=8), NOW)

    assert (after.outcome, after.rule, after.policy, after.mode) == ("allowed", "dial", OTHER, "enforce")
    assert (after.at, after.final, after.revision, after.rests_from) == (before.at, True, before.revision + 1, 8)
    assert after.rejudged == Rejudged(NOW, "disallowed", "default", before.policy)
    assert (after.decided_at, after.backlog) == (NOW, True)
    assert [(one.revision, one.outcome) for one in after.history] == [(2, "disallowed")]
    # What was learnt of it since, late events told: the fold stopped before them.
    assert (after.recording_status, after.found_by, after.ended_at) == ("deleted", "stream", before.ended_at)
    assert decode_verdict(encode_verdict(after)) == after
    assert b"rejudged" not in encode_verdict(before)


def test_what_becomes_disallowed_is_so_since_it_was_rejudged_and_what_stays_so_keeps_its_alert():
    allowed = standing_verdict(outcome="allowed", severity=None, disallowed_since=None, alert=None)
    found = now_says("disallowed")
    new = rejudged(allowed, found, NOW)
    assert (new.disallowed_since, new.alert) == (NOW, found.alert)

    stays = rejudged(standing_verdict(), found, NOW)
    assert (stays.disallowed_since, stays.alert) == (render_instant(T0), standing_verdict().alert)

    observed = rejudged(allowed, now_says("disallowed", mode="observe", alert=None), NOW)
    assert (observed.disallowed_since, observed.alert) == (NOW, None)


# --------------------------------------------------------------------------- whoever runs meanwhile


class Run:
    """An owner whose conversation has closed, and the verdict topic as it stands."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.fold = Fold(ledger=Ledger(lambda _, place: self.values[place]), watch=lambda *_: self.judged.append(None))
        self.judged: list[None] = []
        self.feed(0, "rec(r,a,DialVerb)")
        self.feed(10)

    @property
    def last(self) -> Verdict:
        return decode_verdict(self.values[-1])

    def feed(self, stamp: int, entries: str = "tick()") -> list[Verdict]:
        verdicts = self.fold.verdicts(stamp, entries)
        for verdict in verdicts:
            self.values.append(encode_verdict(verdict))
            self.fold.ledger.placed(verdict.key, verdict.at, len(self.values) - 1)
        return verdicts

    def hear(self, verdict: Verdict) -> bytes | None:
        """Somebody else writes a verdict, and the owner reads it; what it writes back."""
        self.values.append(encode_verdict(verdict))
        return self.fold.ledger.take_in(verdict.key, verdict, len(self.values) - 1)

    def rejudge(self) -> Verdict:
        before = self.last
        found = msgspec.structs.replace(before, outcome="allowed", rule="dial", severity=None, policy=OTHER)
        return rejudged(before, found, NOW)


def test_an_owner_keeps_what_was_rejudged_and_a_late_event_changes_only_status_and_end():
    run = Run()
    assert run.last.final
    new = run.rejudge()
    assert run.hear(new) is None
    assert run.feed(11) == []
    [late] = run.feed(12, "done(r,a)")

    assert (late.outcome, late.rule, late.rejudged, late.recording_status) == (
        "allowed",
        "dial",
        new.rejudged,
        "completed",
    )
    assert late.revision == new.revision + 1
    assert late.at > new.at


def test_an_owner_writes_its_own_back_where_it_had_changed_before():
    run = Run()
    new = run.rejudge()
    [late] = run.feed(12, "done(r,a)")
    assert run.hear(new) == encode_verdict(late)


def test_whoever_takes_over_keeps_it():
    run = Run()
    run.hear(run.rejudge())
    ledger = Ledger(lambda _, place: run.values[place])
    for place, value in enumerate(run.values):
        assert ledger.take_in(SIDS["r"], decode_verdict(value), place) is None
    resumed = Fold(ledger=ledger)
    for stamp, entries in ((0, "rec(r,a,DialVerb)"), (10, "tick()"), (20, "tick()")):
        assert resumed.verdicts(stamp, entries) == []


def test_what_is_rejudged_has_no_open_conversation_judged():
    run = Run()
    new = run.rejudge()
    [open_] = run.feed(11, "rec(s,b,DialVerb)")
    run.judged.clear()
    run.hear(new)
    run.feed(12)
    assert run.judged == []
    # A verdict of an open conversation does: a former owner may have written it.
    run.hear(msgspec.structs.replace(open_, rule="another"))
    run.feed(12)
    assert run.judged


@pytest.mark.parametrize("outcome", ["allowed", "disallowed"])
@pytest.mark.parametrize("known", [True, False], ids=["over what it was", "alone"])
def test_a_rejudged_verdict_is_kept_as_long_as_any_from_then_on(outcome, known):
    day_ms = 24 * HOUR
    ledger = Ledger(allowed_kept_ms=7 * day_ms, others_kept_ms=400 * day_ms)
    allowed = standing_verdict(outcome="allowed", severity=None, disallowed_since=None, alert=None)
    new = rejudged(allowed, now_says(outcome), render_instant(T0 + 6 * day_ms))
    for place, verdict in enumerate((allowed, new) if known else (new,)):
        ledger.take_in(verdict.key, verdict, place)

    assert list(ledger.ended(T0 + 14 * day_ms)) == []
    assert list(ledger.ended(T0 + 406 * day_ms - 1)) == []
    assert list(ledger.ended(T0 + 406 * day_ms)) == [new.key]


# --------------------------------------------------------------------------- alerts and cases


def test_an_alert_that_still_fires_is_resolved_and_says_that_it_was_judged_again():
    stage = Stage()
    stage.take(standing_verdict(), now=T0)
    stage.settle(T0)
    stage.take(rejudged(standing_verdict(), now_says(), NOW), now=T0 + MINUTE)
    alerts = stage.settle(T0 + MINUTE)

    assert resolved(alerts) == [(recording(1), T0 + MINUTE, "cleared")]
    [alert] = alerts.values()
    said = render_alert(alert, stage.cases[recording(1)], count=1, links=Links(web="https://m"))
    assert said["annotations"]["reason"].startswith("Cleared by judging it again: it is allowed now.")


def test_what_becomes_disallowed_is_told_once_in_a_summary_and_pages_nobody_singly():
    stage = Stage()
    now = read_instant(NOW)
    for number in (1, 2):
        sid = {"recording_sid": recording(number)}
        before = standing_verdict(outcome="allowed", severity=None, disallowed_since=None, alert=None, **sid)
        stage.take(rejudged(before, now_says("disallowed", **sid), NOW), now=now)
    stage.settle(now)
    assert firing(stage.settle(now + PACE.summary_after_ms)) == [BACKLOG]
    stage.restart_at(now + HOUR)
    assert firing(stage.settle(now + HOUR)) == []


def test_its_case_says_when_it_was_rejudged_and_what_it_was(tmp_path):
    cases = Cases(tmp_path)
    after = rejudged(standing_verdict(), now_says(), NOW)
    cases.take(standing_verdict(), after)

    async def questions(client: Asking) -> None:
        text = text_of(await client.get(f"/cases/{after.key}"))
        was = f"was disallowed by rule default, under policy {standing_verdict().policy}"
        assert f"under policy {OTHER} ; {was}." in text
        assert f"rejudged : {was}" in text
        assert "is allowed after all" in text

    ask(cases, questions)


# --------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--since: is needed, or name recordings"),
        (("--since", "7d", "--apply"), "--apply: asks before it writes, and there is nobody to ask. Add --yes"),
        (("--since", "7d", "--outcome", "fine"), "--outcome: is one of allowed, disallowed, undetermined"),
        (("--since", "7d", "--cause", "gremlins"), "--cause: is none"),
        (("--since", "1d", "--until", "2d"), "--until: is not after --since"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(arguments, says, tmp_path, capsys):
    config = tmp_path / "monitor.yaml"
    config.write_text("kafka: {bootstrap_servers: '127.0.0.1:1'}\n")
    assert run(["rejudge", "--config", str(config), *arguments]) == 2
    assert says in capsys.readouterr().err
