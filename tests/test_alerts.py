"""Which alerts there are, given cases and instants: each rule by itself, and all of them over made-up histories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.core.attribution import CAUSES
from monitor.core.verdict import AlertLabels, Revision, Shown, Verdict, read_instant, render_instant
from monitor.outputs.alert_text import CAUSES as TEXTS
from monitor.outputs.alert_text import TEXT_MAX, Links, render_alert
from monitor.outputs.alerts import BACKLOG, FLOOD, SINGLE, Alert, Board, Labels, Pace, standing_of
from monitor.outputs.cases import CLOSE, REOPEN, TOLD, Case, CaseAction, is_case, succeed, timeline
from tests.conftest import Golden

T0 = read_instant("2026-11-21T08:00:00.000Z")
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
PACE = Pace()
HOLD = PACE.hold_ms
COUNTED = ("main", "default", "DialVerb", "critical")


def recording(number: int) -> str:
    return f"RE{number:032x}"


def verdict(
    number: int = 1, *, at: int = 1, since: int | None = T0, severity: str = "critical", **more: object
) -> Verdict:
    """A disallowed recording that goes on; ``since`` None: it is allowed."""
    base = Verdict(
        kind="recording",
        recording_sid=recording(number),
        account_sid="AC" + "1" * 32,
        revision=at,
        final=False,
        at=(0, at),
        rests_from=0,
        outcome="allowed" if since is None else "disallowed",
        rule="default",
        severity=None if since is None else severity,
        mode="enforce",
        policy="sha256:" + "0" * 64,
        cause="dial_verb",
        strength="implied",
        start_source="DialVerb",
        call_sid="CA" + "1" * 32,
        conference_sid=None,
        recording_status="in-progress",
        started_at=render_instant(T0 - SECOND),
        ended_at=None,
        first_seen_at=render_instant(T0),
        found_by="stream",
        backlog=False,
        decided_at=render_instant(since or T0),
        disallowed_since=None if since is None else render_instant(since),
        alert=AlertLabels("default", severity, None, "main", "DialVerb"),
        reason="TwiML recorded the call, which the policy does not allow.",
        evidence=(Shown("VW1", "recording", "0:1", render_instant(T0), "recording in progress, source DialVerb"),),
        ruled_out=(),
        missing=(),
        history=(),
    )
    return msgspec.structs.replace(base, **more)


def ended(number: int = 1, *, at: int = 2, end: int = T0 + MINUTE, **more: object) -> Verdict:
    return verdict(number, at=at, recording_status="completed", ended_at=render_instant(end), **more)  # type: ignore[arg-type]


class Stage:
    """A board, the cases it was told of, and what an Alertmanager that takes everything has heard of it."""

    def __init__(self, pace: Pace = PACE, *, accepting: bool = True) -> None:
        self.pace = pace
        self.accepting = accepting
        self.cases: dict[str, Case] = {}
        self.board = Board(pace)
        self.marks: list[CaseAction] = []

    def take(self, *verdicts: Verdict, now: int) -> None:
        for told in verdicts:
            self.cases[told.key] = succeed(self.cases.get(told.key), told, now)
            self._hand_over(told.key, now)

    def act(self, kind: str, number: int, *, now: int) -> None:
        key = recording(number)
        action = CaseAction(kind=kind, recording_sid=key, at=render_instant(now), by="somebody")
        self.add(action, now)

    def add(self, action: CaseAction, now: int) -> None:
        case = self.cases[action.recording_sid]
        self.cases[case.key] = msgspec.structs.replace(case, actions=(*case.actions, action))
        self._hand_over(case.key, now)

    def _hand_over(self, key: str, now: int) -> None:
        self.board.take(standing_of(self.cases[key], self.pace, COUNTED), now)

    def settle(self, now: int) -> dict[Labels, Alert]:
        """Settle, send, and have who was told come round through the topic."""
        self.board.settle(now)
        sent = {alert.labels: alert for alert in self.board.alerts()}
        if self.accepting:
            marks = [mark for alert in sent.values() for mark in self.board.accepted(alert.labels, now)]
            for mark in marks:
                self.add(mark, now)
            self.marks += marks
        return sent

    def restart_at(self, now: int) -> None:
        """Another process, with what the topics hold."""
        self.board = Board(self.pace)
        for key in self.cases:
            self._hand_over(key, now)


def firing(alerts: Mapping[Labels, Alert]) -> list[str]:
    return sorted(alert.about or alert.name for alert in alerts.values() if alert.resolved_ms is None)


def resolved(alerts: Mapping[Labels, Alert]) -> list[tuple[str, int, str]]:
    return sorted(
        (alert.about or alert.name, alert.resolved_ms, alert.why)
        for alert in alerts.values()
        if alert.resolved_ms is not None
    )


def test_an_alert_bears_the_labels_and_the_beginning_that_are_in_the_verdict():
    stage = Stage()
    stage.take(verdict(since=T0 + 5 * SECOND), now=T0 + 6 * SECOND)
    [alert] = stage.settle(T0 + 6 * SECOND).values()

    assert dict(alert.labels) == {
        "alertname": SINGLE,
        "severity": "critical",
        "account": "main",
        "rule": "default",
        "start_source": "DialVerb",
        "recording_sid": recording(1),
    }
    assert alert.starts_ms == T0 + 5 * SECOND


@pytest.mark.parametrize(
    "told",
    [
        verdict(outcome="undetermined", disallowed_since=None, alert=None, severity="warning"),
        verdict(mode="observe", alert=None),
    ],
    ids=["undetermined", "observed"],
)
def test_what_is_undetermined_or_only_observed_never_pages_and_is_a_case_all_the_same(told):
    stage = Stage()
    stage.take(told, now=T0)

    assert firing(stage.settle(T0)) == []
    assert sum(stage.board.open_cases().values()) == 1


def test_a_two_second_recording_stays_open_for_the_hold_from_when_somebody_was_told():
    stage = Stage(accepting=False)
    stage.take(verdict(), ended(end=T0 + 2 * SECOND), now=T0 + 2 * SECOND)
    assert firing(stage.settle(T0 + 2 * SECOND)) == [recording(1)]
    assert firing(stage.settle(T0 + 10 * HOLD)) == [recording(1)]  # No Alertmanager was there.

    stage.accepting = True
    stage.settle(T0 + 10 * HOLD)
    assert firing(stage.settle(T0 + 11 * HOLD - 1)) == [recording(1)]
    assert resolved(stage.settle(T0 + 11 * HOLD)) == [(recording(1), T0 + 11 * HOLD, "ended")]


def test_what_nobody_could_be_told_of_for_a_day_is_not_told_any_more():
    stage = Stage(accepting=False)
    stage.take(ended(), now=T0)
    stage.settle(T0)
    late = T0 + MINUTE + PACE.untold_max_ms

    assert firing(stage.settle(late)) == []
    stage.restart_at(late)
    assert stage.settle(late) == {}


def test_without_anybody_to_tell_the_hold_runs_from_the_beginning():
    stage = Stage(Pace(needs_telling=False), accepting=False)
    stage.take(ended(), now=T0)
    stage.settle(T0 + HOLD - 1)
    assert sum(stage.board.open_cases().values()) == 1
    stage.settle(T0 + HOLD)
    assert sum(stage.board.open_cases().values()) == 0


def test_later_evidence_that_clears_it_resolves_at_once_and_says_so():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    cleared = verdict(at=2, since=None)
    stage.take(cleared, now=T0 + MINUTE)
    alerts = stage.settle(T0 + MINUTE)

    assert resolved(alerts) == [(recording(1), T0 + MINUTE, "cleared")]
    [alert] = alerts.values()
    said = render_alert(alert, stage.cases[recording(1)], count=1, links=Links(web="https://m"))
    assert said["annotations"]["reason"].startswith("Cleared by later evidence: it is allowed now.")


def test_what_is_disallowed_again_is_another_alert_of_the_same_labels_that_began_later():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    stage.take(verdict(at=2, since=None), now=T0 + MINUTE)
    stage.settle(T0 + MINUTE)
    stage.take(verdict(at=3, since=T0 + 2 * MINUTE), now=T0 + 2 * MINUTE)
    [alert] = stage.settle(T0 + 2 * MINUTE).values()

    assert (alert.starts_ms, alert.resolved_ms) == (T0 + 2 * MINUTE, None)


def test_a_lesser_verdict_that_comes_late_changes_nothing():
    stage = Stage()
    stage.take(verdict(at=5), now=T0)
    stage.settle(T0)
    zombie = standing_of(succeed(None, verdict(at=4, since=None), T0), PACE, COUNTED)
    stage.board.take(zombie, T0 + SECOND)

    assert firing(stage.settle(T0 + SECOND)) == [recording(1)]


def test_another_rule_keeps_the_labels_and_explains_itself():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    stage.take(verdict(at=2, rule="payments-line"), now=T0 + SECOND)
    [alert] = stage.settle(T0 + SECOND).values()
    said = render_alert(alert, stage.cases[recording(1)], count=1, links=Links(web="https://m"))

    assert dict(alert.labels)["rule"] == "default"
    assert "It fired by rule default; it is rule payments-line by now." in said["annotations"]["reason"]


def test_a_graver_severity_resolves_the_alert_and_fires_another():
    stage = Stage()
    stage.take(verdict(severity="warning"), now=T0)
    stage.settle(T0)
    stage.take(verdict(at=2), now=T0 + MINUTE)
    alerts = stage.settle(T0 + MINUTE)

    assert resolved(alerts) == [(recording(1), T0 + MINUTE, "graver")]
    assert [dict(alert.labels)["severity"] for alert in alerts.values() if alert.resolved_ms is None] == ["critical"]


def test_an_end_that_was_not_seen_is_the_closing_of_the_conversation_and_the_alert_says_so():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    stage.take(verdict(at=2, final=True), now=T0 + 4 * HOUR)
    alerts = stage.settle(T0 + 4 * HOUR)
    [alert] = alerts.values()
    said = render_alert(alert, stage.cases[recording(1)], count=1, links=Links(web="https://m"))

    assert resolved(alerts) == [(recording(1), T0 + 4 * HOUR, "ended")]
    assert "Its end was not seen" in said["annotations"]["reason"]


def test_strict_cases_end_with_the_deletion_and_at_the_latest_a_day_after_the_recording():
    stage = Stage(Pace(resolve_on="deleted"))
    stage.take(ended(1), ended(2), now=T0)
    stage.settle(T0)
    deleted = verdict(2, at=3, recording_status="deleted", ended_at=render_instant(T0 + MINUTE))
    stage.take(deleted, now=T0 + HOUR)

    assert firing(stage.settle(T0 + HOUR)) == [recording(1)]
    assert firing(stage.settle(T0 + MINUTE + 24 * HOUR - 1)) == [recording(1)]
    assert firing(stage.settle(T0 + MINUTE + 24 * HOUR)) == []


def test_a_person_closes_a_case_at_once_and_may_open_it_again():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    stage.act(CLOSE, 1, now=T0 + MINUTE)
    assert resolved(stage.settle(T0 + MINUTE)) == [(recording(1), T0 + MINUTE, "closed")]
    stage.act(REOPEN, 1, now=T0 + 2 * MINUTE)
    assert firing(stage.settle(T0 + 2 * MINUTE)) == [recording(1)]


def test_a_withdrawn_case_is_gone():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    stage.board.drop(recording(1), T0 + SECOND)

    assert firing(stage.settle(T0 + SECOND)) == []
    assert sum(stage.board.open_cases().values()) == 0


def test_the_resolved_form_is_told_for_as_long_as_an_alertmanager_may_have_forgotten():
    stage = Stage()
    stage.take(verdict(), now=T0)
    stage.settle(T0)
    stage.take(verdict(at=2, since=None), now=T0 + MINUTE)
    assert resolved(stage.settle(T0 + MINUTE)) != []
    assert resolved(stage.settle(T0 + MINUTE + PACE.resolved_for_ms - 1)) != []
    assert resolved(stage.settle(T0 + MINUTE + PACE.resolved_for_ms)) == []


# --- Many


def flood(stage: Stage, count: int, *, now: int = T0) -> None:
    stage.take(*[verdict(number, since=now) for number in range(1, count + 1)], now=now)
    stage.settle(now)


def test_of_five_thousand_at_once_fifty_page_singly_and_one_alert_counts_the_rest():
    stage = Stage()
    flood(stage, 5_000)
    alerts = stage.settle(T0 + SECOND)

    assert len(firing(alerts)) == 51
    [many] = [alert for alert in alerts.values() if alert.name == FLOOD]
    assert stage.board.count(many) == 4_950
    assert dict(many.labels).keys() == {"alertname", "severity", "account", "rule", "start_source"}
    assert len(stage.marks) == 5_000
    assert sum(stage.board.open_cases().values()) == 5_000


def test_a_flood_is_over_when_few_are_left_and_what_still_records_pages_singly_then():
    stage = Stage()
    flood(stage, 60)
    over = [ended(number, end=T0 + MINUTE) for number in range(1, 37)]
    stage.take(*over, now=T0 + 2 * MINUTE)
    assert FLOOD in firing(stage.settle(T0 + HOLD - 1))
    alerts = stage.settle(T0 + HOLD)

    assert (FLOOD, T0 + HOLD, "fewer") in resolved(alerts)
    assert firing(alerts) == [recording(number) for number in range(37, 61)]


def test_a_restart_in_the_midst_of_a_flood_fires_nothing_new():
    stage = Stage()
    flood(stage, 80)
    before = stage.settle(T0 + SECOND)
    stage.restart_at(T0 + MINUTE)
    after = stage.settle(T0 + MINUTE)

    assert firing(after) == firing(before)
    assert {a.labels: a.starts_ms for a in after.values()} == {a.labels: a.starts_ms for a in before.values()}


def test_a_restart_when_a_flood_has_thinned_pages_nobody_singly_who_was_told_of_it():
    stage = Stage()
    flood(stage, 60)
    stage.take(*[verdict(number, at=2, since=None) for number in range(1, 21)], now=T0 + MINUTE)
    before = firing(stage.settle(T0 + MINUTE))
    assert (len(before), FLOOD in before) == (31, True)
    stage.restart_at(T0 + 2 * MINUTE)

    assert firing(stage.settle(T0 + 2 * MINUTE)) == before


def test_other_rules_and_accounts_are_not_drowned_by_a_flood():
    stage = Stage()
    flood(stage, 80)
    other = verdict(100, rule="payments", alert=AlertLabels("payments", "critical", None, "main", "DialVerb"))
    stage.take(other, now=T0)

    assert recording(100) in firing(stage.settle(T0))


def test_a_backlog_is_one_summary_an_account_and_what_still_records_pages_singly():
    stage = Stage()
    long_ago = T0 - 4 * HOUR
    for number in range(1, 301):
        account = f"account-{number % 3}"
        alert = AlertLabels("default", "warning" if number < 10 else "critical", None, account, "DialVerb")
        begun = verdict(number, since=long_ago + number, alert=alert)
        stage.take(begun, now=T0)
        stage.settle(T0)
        stage.take(ended(number, since=long_ago + number, end=long_ago + MINUTE, backlog=True, alert=alert), now=T0)
    stage.take(verdict(999, since=long_ago), now=T0)
    # Of each its beginning was read first, as of one that goes on.
    assert firing(stage.settle(T0)) == []
    alerts = stage.settle(T0 + PACE.summary_after_ms)
    stage.settle(T0 + PACE.behind_wait_ms - 1)
    alerts = stage.settle(T0 + PACE.behind_wait_ms)
    assert recording(999) in firing(alerts)

    summaries = [alert for alert in alerts.values() if alert.name == BACKLOG]
    assert sorted(dict(alert.labels)["account"] for alert in summaries) == ["account-0", "account-1", "account-2"]
    assert {dict(alert.labels)["severity"] for alert in summaries} == {"critical"}
    assert [stage.board.count(alert) for alert in summaries] == [100, 100, 100]
    assert len(firing(alerts)) == 4
    stage.restart_at(T0 + MINUTE)
    again = {**stage.settle(T0 + MINUTE), **stage.settle(T0 + MINUTE + PACE.summary_after_ms)}
    assert {a.labels: a.starts_ms for a in again.values()} == {a.labels: a.starts_ms for a in alerts.values()}


# --- What it says


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_every_cause_has_words_and_a_step_that_mends_it(cause):
    what, step = TEXTS[cause]

    assert what
    assert step.endswith(".")


def test_the_alert_is_the_one_that_was_reviewed(golden: Golden):
    links = Links(
        web="https://monitor.example.com",
        runbooks="https://runbooks.example.com/recordings",
        dashboard="https://grafana.example.com/d/compliance",
        alertmanager="https://alertmanager.example.com",
    )
    stage = Stage()
    stage.take(verdict(missing=("flex_off_since",), conference_sid="CF" + "1" * 32), now=T0)
    flood(stage, 60)
    alerts = sorted(stage.settle(T0).values(), key=lambda alert: alert.labels)
    shown = [next(alert for alert in alerts if alert.name == name) for name in (SINGLE, FLOOD)]
    texts = [
        render_alert(alert, stage.cases.get(alert.about or ""), count=stage.board.count(alert), links=links)
        for alert in shown
    ]

    golden("alerts.json", msgspec.json.format(msgspec.json.encode(texts), indent=2).decode() + "\n")


def test_nothing_an_alert_says_is_longer_than_a_pager_takes():
    shown = Shown("VW1", "recording", "0:1", render_instant(T0), "x" * 5_000)
    case = succeed(None, verdict(evidence=(shown,) * 30), T0)
    alert = Alert(labels=(("alertname", SINGLE),), name=SINGLE, starts_ms=T0, about=recording(1))
    said = render_alert(alert, case, count=1, links=Links(web="https://m"))

    assert max(map(len, said["annotations"].values())) == TEXT_MAX


def test_a_case_that_is_not_at_hand_is_paged_all_the_same():
    alert = Alert(labels=(("alertname", SINGLE),), name=SINGLE, starts_ms=T0, about=recording(1))
    said = render_alert(alert, None, count=1, links=Links(web="https://m"))

    assert recording(1) in said["annotations"]["summary"]


def test_the_timeline_tells_verdicts_who_was_told_and_what_people_did_in_order():
    stage = Stage()
    history = (Revision(1, "undetermined", None, render_instant(T0 + SECOND)),)
    stage.take(verdict(at=2, since=T0 + 2 * SECOND, history=history), now=T0 + 2 * SECOND)
    stage.settle(T0 + 3 * SECOND)
    stage.act("acknowledge", 1, now=T0 + MINUTE)
    stage.act("something-new", 1, now=T0 + 2 * MINUTE)

    assert [line.what for line in timeline(stage.cases[recording(1)])] == [
        "recording_started",
        "first_seen",
        "undetermined",
        "disallowed",
        TOLD,
        "acknowledge",
        "something-new",
    ]


# --- All of it, over made-up histories


class _Step(msgspec.Struct, frozen=True):
    """What happens next, and how long after the last."""

    after_ms: int
    what: str
    number: int


_WHATS = ("begin", "end", "clear", "again", "late", "final", "restart", "stale", "away", "back", "look", "close")
_steps = st.lists(
    st.builds(
        _Step,
        st.sampled_from([0, 1, SECOND, MINUTE, HOLD - 1, HOLD, HOUR]),
        st.sampled_from(_WHATS),
        st.integers(1, 6),
    ),
    max_size=30,
)
SMALL = Pace(flood_from=3, flood_until=2)


class Receiver:
    """What an Alertmanager keeps of what it is told: per alert, when it began, whether it fires, and its periods."""

    def __init__(self) -> None:
        self.state: dict[Labels, tuple[int, bool]] = {}
        self.periods: dict[Labels, list[int]] = {}
        self.first_told: dict[tuple[Labels, int], int] = {}

    def hear(self, alerts: Iterable[Alert], now: int) -> None:
        for alert in alerts:
            starts_ms, was_firing = self.state.get(alert.labels, (alert.starts_ms, False))
            fires = alert.resolved_ms is None
            if fires:
                if not was_firing or starts_ms != alert.starts_ms:
                    self.periods.setdefault(alert.labels, []).append(alert.starts_ms)
                self.first_told.setdefault((alert.labels, alert.starts_ms), now)
            self.state[alert.labels] = (alert.starts_ms, fires)


@given(_steps)
def test_whatever_happens_an_alert_fires_once_for_a_beginning_and_everything_is_told(steps):
    stage = Stage(SMALL)
    receiver = Receiver()
    now = T0
    stale = away = False
    began: dict[int, int] = {}
    closed_by_people: set[tuple[int, int]] = set()

    def tell() -> None:
        if stale:
            return
        stage.accepting = not away
        alerts = stage.settle(now)
        if not away:
            receiver.hear(alerts.values(), now)

    for at, step in enumerate(steps, 1):
        now += step.after_ms
        number = step.number
        known = stage.cases.get(recording(number))
        disallowed = known is not None and known.verdict.outcome == "disallowed"
        since = began.get(number)
        if step.what == "begin" and known is None:
            began[number] = now
            stage.take(verdict(number, at=at, since=now), now=now)
        elif step.what == "late" and known is None:
            began[number] = now - 2 * HOUR
            stage.take(ended(number, at=at, since=now - 2 * HOUR, end=now - HOUR, backlog=True), now=now)
        elif step.what in ("end", "final") and known is not None and disallowed:
            stage.take(
                ended(number, at=at, since=since, end=now, final=step.what == "final", backlog=known.verdict.backlog),
                now=now,
            )
        elif step.what == "clear" and disallowed:
            stage.take(verdict(number, at=at, since=None), now=now)
        elif step.what == "again" and known is not None and not disallowed:
            began[number] = now
            stage.take(verdict(number, at=at, since=now), now=now)
        elif step.what == "close" and disallowed:
            assert since is not None
            closed_by_people.add((number, since))
            stage.act(CLOSE, number, now=now)
        elif step.what == "restart":
            stale = False
            stage.restart_at(now)
        elif step.what == "stale":
            stale = not stale
        elif step.what in ("away", "back"):
            away = step.what == "away"
        tell()
    # Everybody is back, and nothing happens any more.
    stale = away = False
    for later in (0, SMALL.summary_after_ms, MINUTE):
        now += later
        tell()

    singles = {labels: found for labels, found in receiver.periods.items() if dict(labels)["alertname"] == SINGLE}
    for labels, periods in singles.items():
        assert len(set(periods)) == len(periods), f"{dict(labels)} fired twice for one beginning"
    told = {(mark.recording_sid, mark.since) for mark in stage.marks}
    for key, case in stage.cases.items():
        since_text = case.verdict.disallowed_since
        if since_text is not None and now - read_instant(since_text) < SMALL.untold_max_ms and case.cleared_ms is None:
            number = next(n for n in began if recording(n) == key)
            if (number, read_instant(since_text)) not in closed_by_people:
                assert (key, since_text) in told, f"{key} was never told"
    for key in stage.cases:
        until = [read_instant(mark.at) for mark in stage.marks if mark.recording_sid == key]
        for labels, alert in ((a.labels, a) for a in stage.board.alerts() if a.about == key):
            if alert.resolved_ms is not None and alert.why == "ended":
                first = receiver.first_told.get((labels, alert.starts_ms))
                assert first is None or alert.resolved_ms >= min(until) + HOLD


def test_a_verdict_is_a_case_while_it_is_not_allowed_and_ever_after():
    assert is_case(verdict())
    assert is_case(verdict(since=None))  # It bears the identity of the alert that it was.
    never = verdict(since=None, alert=None)
    assert not is_case(never)
    assert is_case(msgspec.structs.replace(never, history=(Revision(1, "undetermined", None, never.decided_at),)))
