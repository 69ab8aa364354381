"""The report: each of its parts by itself, all of it as it is filed, and made from what a real monitor wrote."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from monitor.cli import run
from monitor.core.verdict import Revision, Shown, Verdict, render_instant
from monitor.inputs.policy_file import load_policy
from monitor.outputs.cases import ACKNOWLEDGE, COMMENT, EXPLAIN, REOPEN, TOLD, CaseAction
from monitor.outputs.report import LISTED_MAX, SILENCES_MAX, BlindInterval, Counted, Judged, Listed, Report, TopicRead
from monitor.outputs.report_fold import ALLOWED_KEPT_MS, Given, ReportFold
from monitor.outputs.report_text import as_json, as_markdown
from tests.broker import RealBroker
from tests.conftest import GOLDEN, Golden
from tests.monitors import Site, until
from tests.test_alerts import HOUR, MINUTE, SECOND, T0, recording, verdict
from tests.test_samples import ARRIVAL_MS, NAMES, final_verdicts, lines_of

DAY = 24 * HOUR
ACCOUNT, OTHER = "AC" + "1" * 32, "AC" + "2" * 32
SINCE, UNTIL = T0 - DAY, T0 + DAY
GIVEN = Given(made_ms=UNTIL, aliases={ACCOUNT: "main"})


def folded(*verdicts: Verdict, since: int = SINCE, until: int = UNTIL, **more: object) -> ReportFold:
    fold = ReportFold(since, until, None, **more)  # type: ignore[arg-type]
    for told in verdicts:
        fold.take_verdict(told.key, told, T0 + DAY)
    return fold


def made(*verdicts: Verdict, given: Given = GIVEN, **more: object) -> Report:
    return folded(*verdicts, **more).report(given)  # type: ignore[arg-type]


def allowed(number: int, **more: object) -> Verdict:
    return msgspec.structs.replace(verdict(number, since=None, alert=None, final=True), **more)


def suspicion(number: int) -> Verdict:
    return verdict(
        number,
        since=None,
        kind="suspicion",
        recording_sid=None,
        conference_sid=f"CF{number:032x}",
        outcome="undetermined",
        rule="suspicion",
        started_at=None,
        missing=("recording",),
        alert=None,
    )


def undetermined(number: int, *missing: str) -> Verdict:
    return verdict(number, since=None, outcome="undetermined", rule="when_open", missing=missing, alert=None)


def said(kind: str, number: int, at: int, **more: str) -> tuple[str, CaseAction]:
    action = CaseAction(kind=kind, recording_sid=recording(number), at=render_instant(at), **more)
    return f"{recording(number)}/{at:026d}", action


def limits(report: Report) -> list[str]:
    return [limit.what for limit in report.limits]


# --- Totals


def test_totals_count_recordings_by_outcome_and_suspicions_apart():
    cleared = allowed(4, history=(Revision(1, "disallowed", None, render_instant(T0)),))
    report = made(verdict(1), allowed(2), allowed(3), cleared, undetermined(5, "studio"), suspicion(6))
    totals = report.totals

    assert (totals.recordings, totals.allowed, totals.disallowed) == (5, 3, 1)
    assert (totals.undetermined, totals.suspected, totals.cleared) == (1, 1, 1)
    assert (totals.as_expected, totals.as_expected_of) == (3 / 5, 5)
    assert [case.state for case in report.cases] == ["disallowed", "suspected", "undetermined", "cleared"]
    assert [(lack.missing, lack.recordings) for lack in report.unseen.lacks] == [("studio", 1)]


def test_a_recording_belongs_to_the_stretch_in_which_it_began():
    begins = {1: SINCE - 1, 2: SINCE, 3: UNTIL - 1, 4: UNTIL}
    report = made(*[verdict(number, started_at=render_instant(at)) for number, at in begins.items()])
    assert [case.sid for case in report.cases] == [recording(2), recording(3)]


def test_of_several_verdicts_the_greatest_holds_whatever_the_order():
    first, last = verdict(at=1), allowed(1, at=(0, 9), history=(Revision(1, "disallowed", None, render_instant(T0)),))
    for told in ([first, last], [last, first]):
        totals = made(*told).totals
        assert (totals.disallowed, totals.cleared) == (0, 1)


def test_what_is_found_to_have_begun_before_the_stretch_does_not_count():
    earlier = verdict(1, at=2, started_at=render_instant(SINCE - SECOND))
    assert made(verdict(1), earlier).totals.recordings == 0


def test_what_was_taken_back_does_not_count():
    fold = folded(verdict(1), verdict(2))
    fold.take_verdict(recording(1), None, T0)
    assert [case.sid for case in fold.report(GIVEN).cases] == [recording(2)]


def test_what_others_wrote_into_the_topic_is_passed_over():
    strange = [
        verdict(1, started_at="2026-11-21T08 or so"),
        msgspec.structs.replace(verdict(2), at=(-1, 1 << 70)),
        verdict(3, outcome="perhaps"),
        verdict(4, disallowed_since="never"),
        verdict(5, decided_at="never"),
    ]
    assert [case.sid for case in made(*strange, verdict(6)).cases] == [recording(6)]


def test_only_the_accounts_that_were_asked_for_count():
    fold = ReportFold(SINCE, UNTIL, frozenset({ACCOUNT}))
    for number, account in enumerate((ACCOUNT, OTHER)):
        fold.take_verdict(recording(number), verdict(number, account_sid=account), T0)
    report = fold.report(GIVEN)
    assert [(one.account, one.account_sid) for one in report.accounts] == [("main", ACCOUNT)]
    assert (report.totals.disallowed, report.all_accounts) == (1, False)


# --- What is not known is said


def test_before_seven_days_ago_the_share_is_not_known_and_the_report_says_so():
    old, new = T0 - 20 * DAY, T0
    told = [verdict(1, started_at=render_instant(old)), verdict(2, started_at=render_instant(new)), allowed(3)]
    report = made(*told, since=T0 - 30 * DAY)

    assert report.totals.allowed_since == render_instant(T0 + DAY - ALLOWED_KEPT_MS)
    assert (report.totals.disallowed, report.totals.as_expected, report.totals.as_expected_of) == (2, 1 / 2, 2)
    assert {"allowed_forgotten", "nothing_before"} <= set(limits(report))
    assert "| recordings | at least 3 |" in as_markdown(report)


def test_a_stretch_that_is_wholly_before_that_has_no_share_at_all():
    long_ago = verdict(1, started_at=render_instant(T0 - 20 * DAY))
    report = made(long_ago, since=T0 - 30 * DAY, until=T0 - 15 * DAY)
    assert report.totals.as_expected is None
    assert "| as expected | not known |" in as_markdown(report)


def test_what_even_disallowed_recordings_are_forgotten_of_is_said():
    given = msgspec.structs.replace(GIVEN, verdicts_kept_ms=400 * DAY)
    assert "verdicts_forgotten" in limits(made(verdict(1), since=T0 - 500 * DAY, given=given))
    assert "verdicts_forgotten" not in limits(made(verdict(1), given=given))


def test_a_report_of_nothing_says_that_nothing_follows():
    assert {"no_recordings", "no_verdicts"} <= set(limits(made()))


def test_coverage_is_not_known_unless_twilio_was_asked():
    report = made(verdict(1, found_by="listing"))
    [coverage] = report.coverage
    assert (coverage.ratio, coverage.found_by_listing) == (None, 1)
    assert "coverage_unknown" in limits(report)
    assert "| main | **unknown** |" in as_markdown(report)


def test_coverage_is_what_the_stream_told_of_what_twilio_lists_and_never_rounded_up():
    listed = Listed(listed=100_010, seen=99_999, missed=1, fresh=2, old=8)
    report = made(verdict(1), given=msgspec.structs.replace(GIVEN, listed={ACCOUNT: listed}))
    assert report.coverage[0].ratio == 99_999 / 100_000
    assert "coverage_unknown" not in limits(report)
    other = made(verdict(1, account_sid=OTHER), given=msgspec.structs.replace(GIVEN, listed={ACCOUNT: listed}))
    assert "coverage_unknown" in limits(other)
    assert "| main | 99.99 % | 100010 | 99999 | 1 | 2 | 8 |" in as_markdown(report)


def test_a_partition_that_is_behind_or_was_never_judged_is_said():
    judged = [
        Judged(partition=0, to=None, waiting=0),
        Judged(partition=1, to=render_instant(UNTIL - HOUR), waiting=7),
        Judged(partition=2, to=None, waiting=None),
        Judged(partition=3, to=render_instant(UNTIL - SECOND), waiting=1),
    ]
    report = made(verdict(1), given=msgspec.structs.replace(GIVEN, judged=judged))
    assert [limit.what for limit in report.limits if "judg" in limit.what] == ["judging_behind", "never_judged"]


def test_events_and_what_was_set_aside_that_are_gone_are_said():
    gone = render_instant(T0)
    topics = [TopicRead(topic=name, messages=1, held_since=gone) for name in ("events", "quarantine")]
    given = msgspec.structs.replace(GIVEN, topics=topics, events_topic="events", quarantine_topic="quarantine")
    fold = folded(verdict(1))
    fold.watch_events([0], T0)
    assert {"events_gone", "quarantine_gone"} <= set(limits(fold.report(given)))


def test_verdicts_that_may_change_and_a_stretch_that_is_not_over_are_said():
    assert {"not_final", "not_over"} <= set(limits(made(verdict(1), until=UNTIL + DAY)))
    listed = {ACCOUNT: Listed(listed=1, seen=1, missed=0, fresh=0, old=0)}
    assert limits(made(verdict(1, final=True), given=msgspec.structs.replace(GIVEN, listed=listed))) == [
        "events_not_read",
        "policy_not_at_hand",
    ]


# --- What could not be seen


def test_a_blind_interval_is_told_where_it_may_have_been_in_the_stretch():
    def blind(since: int | None, until: int | None, found_at: int) -> BlindInterval:
        instants = [None if at is None else render_instant(at) for at in (since, until)]
        return BlindInterval(
            topic="events",
            partition=0,
            since=instants[0],
            until=instants[1],
            messages=9,
            unjudged=3,
            found_at=render_instant(found_at),
        )

    inside, not_known = blind(T0, T0 + HOUR, T0 + DAY), blind(None, None, T0 + 9 * DAY)
    before, after = blind(SINCE - DAY, SINCE - HOUR, T0), blind(UNTIL, UNTIL + HOUR, UNTIL + DAY)
    given = msgspec.structs.replace(GIVEN, blind_intervals=[inside, before, not_known, after])
    report = made(verdict(1), given=given)
    assert list(report.unseen.blind_intervals) == [not_known, inside]
    assert "blind" in limits(report)


def test_times_without_a_tick_are_told_up_to_the_last_that_came_through_any_partition():
    fold = folded(verdict(1))
    fold.watch_events([0, 1], T0)
    for at in range(0, 10 * MINUTE, 10 * SECOND):
        fold.take_arrival(0, T0 + at, tick=True)
        if not MINUTE < at < 5 * MINUTE:
            fold.take_arrival(1, T0 + at, tick=at < 7 * MINUTE)
    silences = fold.report(GIVEN).unseen.silences
    assert silences is not None
    assert [(one.partition, one.since, one.lasted_s) for one in silences] == [
        (1, render_instant(T0 + MINUTE), 240.0),
        (1, render_instant(T0 + 7 * MINUTE - 10 * SECOND), 180.0),
    ]


def test_of_very_many_silences_the_longest_are_told_and_the_others_counted():
    fold = folded(verdict(1))
    fold.watch_events([0], SINCE)
    at = SINCE
    for number in range(SILENCES_MAX + 5):
        at += MINUTE + SECOND + (1_000 - number)
        fold.take_arrival(0, at, tick=True)
    unseen = fold.report(GIVEN).unseen
    assert unseen.silences is not None
    assert (len(unseen.silences), unseen.silences_left_out) == (SILENCES_MAX, 5)
    assert min(one.lasted_s for one in unseen.silences) > 61.0


def test_types_that_never_came_are_told_with_what_nobody_sees_without_them():
    given = msgspec.structs.replace(GIVEN, needed=[("a", True, "No a."), ("b", False, "No b.")])
    fold = folded(verdict(1))
    assert fold.report(given).unseen.missing_types is None
    fold.watch_events([], SINCE)
    fold.take_type("b")
    missing = fold.report(given).unseen.missing_types
    assert missing is not None
    assert [(one.type, one.required, one.blind) for one in missing] == [("a", True, "No a.")]


def test_what_was_set_aside_in_the_stretch_is_counted_by_why():
    fold = folded(verdict(1))
    for at in (SINCE - 1, T0, T0 + HOUR, UNTIL):
        fold.take_aside("not-json", at)
    report = fold.report(GIVEN)
    [aside] = report.unseen.set_aside
    assert (aside.reason, aside.count) == ("not-json", 2)
    assert (aside.first, aside.last) == (render_instant(T0), render_instant(T0 + HOUR))
    assert "set_aside" in limits(report)


# --- What people did, and exceptions


def test_what_people_did_is_told_in_categories_and_numbers_and_their_names_only_when_asked_for():
    actions = [
        said(ACKNOWLEDGE, 1, T0 + 1, by="lovelace"),
        said(COMMENT, 1, T0 + 2, by="hopper", text="I called +4930123456."),
        said(EXPLAIN, 1, T0 + 3, by="hopper", category="accepted", until="2026-12-31"),
    ]
    for names in (False, True):
        fold = folded(verdict(1), names=names)
        for key, action in reversed(actions):
            fold.take_action(key, action)
        report = fold.report(GIVEN)
        done = report.cases[0].handling
        assert (done.acknowledged_at, done.explained) == (render_instant(T0 + 1), "accepted")
        assert (done.accepted_until, done.comments, done.people) == ("2026-12-31", 1, 2)
        [accepted] = report.exceptions.accepted
        assert (accepted.sid, accepted.until) == (recording(1), "2026-12-31")
        for text in (as_json(report), as_markdown(report)):
            assert ("hopper" in text, "lovelace" in text) == (names, names)
            assert "4930123456" not in text


def test_a_reopened_case_is_not_explained_any_more_and_an_action_that_was_taken_back_is_none():
    fold = folded(verdict(1), verdict(2), verdict(3))
    fold.take_action(*said(EXPLAIN, 3, T0, by="hopper", category="+4930123456"))  # None that we write.
    for number in (1, 2):
        fold.take_action(*said(EXPLAIN, number, T0, by="hopper", category="testing"))
    fold.take_action(*said(REOPEN, 1, T0 + 1, by="hopper"))
    fold.take_action(said(EXPLAIN, 2, T0)[0], None)
    assert [case.handling.explained for case in fold.report(GIVEN).cases] == [None, None, None]


def test_rules_that_expire_are_told_with_how_many_recordings_they_allowed(tmp_path: Path):
    text = """
policy: moving
rules:
  - {name: for-now, outcome: allowed, when: {cause: dial_verb}, expires: 2026-12-31}
  - {name: for-good, outcome: allowed, when: {cause: record_verb}}
  - {name: not-now, outcome: disallowed, when: {cause: sip_trunk}, expires: 2026-12-31}
"""
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    policy = load_policy(path).policy
    told = [allowed(1, rule="for-now"), allowed(2, rule="for-good"), verdict(3)]
    told = [*(msgspec.structs.replace(one, policy=policy.hash) for one in told), allowed(4)]
    report = made(*told, given=msgspec.structs.replace(GIVEN, policies=[policy]))

    [used] = report.exceptions.rules
    assert (used.rule, used.expires, used.recordings) == ("for-now", "2027-01-01T00:00:00.000Z", 1)
    assert [(one.name, one.recordings, one.disallowed) for one in report.policies] == [(None, 1, 0), ("moving", 3, 1)]
    assert "policy_not_at_hand" in limits(report)


# --- How soon, by what, how many


def test_how_soon_is_told_in_ranks_that_were_measured():
    told = [verdict(n, first_seen_at=render_instant(T0 - SECOND + n * SECOND)) for n in range(1, 101)]
    fold = folded(*told)
    fold.take_action(*said(TOLD, 7, T0 + 5 * SECOND, since=render_instant(T0), alert="DisallowedRecording"))
    timing = fold.report(GIVEN).timing
    assert msgspec.structs.astuple(timing.unseen) == (100, 50.0, 99.0, 100.0)
    assert msgspec.structs.astuple(timing.detected) == (100, 1.0, 1.0, 1.0)
    assert (timing.told.count, timing.told.max_s, timing.not_told) == (1, 5.0, 99)
    assert made(verdict(1, mode="observe")).timing.not_told == 0  # Nobody was to be told.


def test_what_a_studio_flow_or_a_starter_started_is_counted_by_it():
    execution, flow = "FN" + "3" * 32, "FW" + "4" * 32
    widget = Shown(None, "t", "0:1", render_instant(T0), f"Studio execution {execution} left recording widget rec|1")
    starter = Shown(None, "t", "0:2", render_instant(T0), "Its callback address is that of starter 'booking'")
    fold = folded(
        verdict(1, evidence=(widget,)), verdict(2, evidence=(widget,)), verdict(3, evidence=(starter,)), verdict(4)
    )
    assert fold.executions == {execution}
    fold.take_flow(execution, flow)
    report = fold.report(GIVEN)
    assert [(one.flow_sid, one.widget, one.starter, one.recordings) for one in report.by_origin] == [
        (flow, "rec|1", None, 2),
        (None, None, "booking", 1),
    ]
    assert rf"| flow {flow}, widget rec\|1 | 2 |" in as_markdown(report)


def test_beyond_the_bound_cases_are_counted_and_those_told_are_the_first_disallowed_ones():
    count = 2 * LISTED_MAX + 10
    told = [verdict(n, started_at=render_instant(SINCE + n)) for n in range(count)]
    told += [undetermined(count + n, "studio") for n in range(5)]
    random.Random(1).shuffle(told)
    report = made(*told)
    assert (report.totals.disallowed, report.cases_left_out) == (count, count + 5 - LISTED_MAX)
    assert [case.sid for case in report.cases] == [recording(n) for n in range(LISTED_MAX)]
    assert "cases_left_out" in limits(report)


# --- All of it


def whole(verdicts: Iterable[Verdict]) -> Report:
    """What the sample streams come to, and something of every other kind."""
    fold = ReportFold(ARRIVAL_MS - 14 * DAY, ARRIVAL_MS + HOUR, None)
    told = list(verdicts)
    for one in told:
        fold.take_verdict(one.key, one, ARRIVAL_MS + MINUTE)
    first, second = sorted(one.key for one in told if one.outcome == "disallowed")[:2]
    at = ARRIVAL_MS + MINUTE
    since = next(one.disallowed_since for one in told if one.key == first)
    for key, kind, more in (
        (first, TOLD, {"alert": "DisallowedRecording", "since": since}),
        (first, ACKNOWLEDGE, {"by": "lovelace"}),
        (first, COMMENT, {"by": "hopper", "text": "Asked the team."}),
        (second, EXPLAIN, {"by": "hopper", "category": "accepted", "until": "2026-12-31"}),
    ):
        action = CaseAction(kind=kind, recording_sid=key, at=render_instant(at), **more)
        fold.take_action(f"{key}/{kind}", action)
    fold.take_aside("not-json", at)
    fold.watch_events([0, 1], ARRIVAL_MS - 2 * DAY)
    for partition, minutes in ((0, range(10)), (1, range(5, 10))):
        for minute in minutes:
            fold.take_arrival(partition, ARRIVAL_MS - 2 * DAY + minute * MINUTE, tick=True)
    fold.take_type("com.twilio.voice.status-callback.recording.processed")
    for execution in fold.executions:
        fold.take_flow(execution, "FW" + "5" * 32)
    account = told[0].account_sid
    hours = Counted(
        since=render_instant(ARRIVAL_MS - 2 * HOUR), until=render_instant(ARRIVAL_MS - HOUR), listed=40, seen=39
    )
    return fold.report(
        Given(
            made_ms=ARRIVAL_MS + 2 * HOUR,
            aliases={account: "main"},
            policies=[],
            needed=[
                ("com.twilio.voice.status-callback.recording.processed", True, "No recording is seen."),
                ("com.twilio.studio.flow.step.ended", True, "A widget is never told from an explicit start."),
            ],
            topics=[
                TopicRead(topic="recording-monitor.verdicts", messages=23, held_since=None),
                TopicRead(topic="twilio-events", messages=512, held_since=render_instant(ARRIVAL_MS - 7 * DAY)),
            ],
            events_topic="twilio-events",
            quarantine_topic="recording-monitor.quarantine",
            judged=[
                Judged(partition=0, to=None, waiting=0),
                Judged(partition=1, to=render_instant(ARRIVAL_MS - HOUR), waiting=42),
            ],
            blind_intervals=[
                BlindInterval(
                    topic="twilio-events",
                    partition=1,
                    since=render_instant(ARRIVAL_MS - 9 * DAY),
                    until=render_instant(ARRIVAL_MS - 8 * DAY),
                    messages=900,
                    unjudged=12,
                    found_at=render_instant(ARRIVAL_MS - 8 * DAY),
                )
            ],
            counted={account: hours},
            listed={account: Listed(listed=60, seen=54, missed=1, fresh=0, old=5)},
        )
    )


def samples() -> list[Verdict]:
    return [told for name in NAMES for told in final_verdicts(lines_of(name))[0].values()]


def test_a_report_of_the_sample_streams_reads_as_it_was_reviewed(golden: Golden):
    report = whole(samples())
    golden("report.md", as_markdown(report))
    golden("report.json", as_json(report))


def test_the_order_in_which_partitions_are_read_does_not_change_a_byte():
    told = samples()
    text = as_json(whole(told))
    random.Random(7).shuffle(told)
    assert as_json(whole(told)) == as_json(whole(sorted(told, key=lambda one: one.key)))
    assert json.loads(as_json(whole(told)))["cases"] == json.loads(text)["cases"]


def test_the_documentation_shows_what_it_looks_like_and_names_every_field():
    text = (Path(__file__).parents[1] / "docs" / "report.md").read_text()
    [example] = re.findall(r"^```markdown\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = (GOLDEN / "report.md").read_text().splitlines()
    assert [line for line in example.splitlines() if line not in (*lines, "…")] == []
    decoded = msgspec.json.decode(as_json(whole(samples())), type=Report)
    assert as_json(decoded) == as_json(whole(samples()))
    assert [name for name in names_in(msgspec.to_builtins(decoded)) if f"`{name}`" not in text] == []


def names_in(value: object) -> set[str]:
    if isinstance(value, dict):
        return {*value, *(name for part in value.values() for name in names_in(part))}
    return {name for part in value for name in names_in(part)} if isinstance(value, list | tuple) else set()


# --- Of a real monitor


@pytest.mark.broker
def test_a_report_is_made_of_what_a_monitor_left_in_the_topics(broker: RealBroker, tmp_path: Path):
    account = "AC0000000000000000000000000000aa01"
    accounts = [{"alias": "main", "sid": account}]
    site = Site(broker, tmp_path / "site", partitions=1, stamped_by_producers=True, accounts=accounts)
    [widget] = final_verdicts(lines_of("04_studio_call_recording_widget"))[0]
    [twiml] = final_verdicts(lines_of("02_conference_twiml_record_from_start"))[0]

    def send(name: str) -> int:
        return site.send(lines_of(name), timestamp=ARRIVAL_MS)[-1]

    def reported(*arguments: str) -> tuple[int, str]:
        done = site.run("report", "--since", "2026-11-01T00:00:00Z", *arguments)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, done.stdout.decode()

    send("04_studio_call_recording_widget")
    site.send([b"{"], timestamp=ARRIVAL_MS)
    with site.start() as monitor:
        until(lambda: {widget} <= set(site.verdicts()) and site.quarantined(), why=monitor.tail)
        until(lambda: site.committed()[0] >= len(lines_of("04_studio_call_recording_widget")), why=monitor.tail)
        assert monitor.stop() == 0
    # Somebody was not there, and retention went on.
    gone = send("01_explicit_api_start")
    send("02_conference_twiml_record_from_start")
    broker.delete_records(site.events, 0, gone + 1)
    with site.start() as monitor:
        until(lambda: {widget, twiml} <= set(site.verdicts()), why=monitor.tail)
        until(lambda: site.committed()[0] > gone, why=monitor.tail)
        assert monitor.stop() == 0
    key, value = said(EXPLAIN, 1, T0, by="hopper", category="testing")
    action = msgspec.json.encode(msgspec.structs.replace(value, recording_sid=widget))
    site.send([action], topic=site.settings["topics"]["case_actions"], key=key.replace(recording(1), widget))

    code, text = reported("--format", "json", "--fail-on-violations")
    report = msgspec.json.decode(text, type=Report)
    assert code == 1
    assert {case.sid: (case.account, case.cause, case.widget) for case in report.cases} == {
        widget: ("main", "studio_call_recording_widget", "call_recording_1"),
        twiml: ("main", "conference_twiml", None),
    }
    assert [case.handling.explained for case in report.cases] == [None, "testing"]
    assert (report.totals.recordings, report.totals.disallowed) == (2, 2)
    [blind] = report.unseen.blind_intervals
    assert (blind.topic, blind.partition, blind.unjudged) == (site.events, 0, len(lines_of("01_explicit_api_start")))
    assert [one.reason for one in report.unseen.set_aside] == ["not-json"]
    assert report.unseen.judged[0].waiting is not None
    never = {one.type for one in report.unseen.missing_types or ()}
    came = {json.loads(line)["type"] for line in lines_of("02_conference_twiml_record_from_start")}
    assert never
    assert not never & came
    assert {"blind", "set_aside", "events_gone", "coverage_unknown"} <= set(limits(report))
    assert {one.topic for one in report.topics} == set(site.settings["topics"].values())

    code, markdown = reported("--no-events", "--account", OTHER, "--fail-on-violations")
    assert (code, widget in markdown) == (0, False)


@pytest.mark.parametrize("wrong", [("--until", "2h"), ("--account", "nobody"), ("--since", "yesterday")])
def test_wrong_usage_is_said_before_anything_is_read(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert run(["report", "--since", "1h", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err
