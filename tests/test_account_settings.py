"""What is known of an account from outside the stream: looked up by time, and the same however it was learnt."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monitor.core.account_settings import AccountSettings, FlexState
from monitor.core.decode import decode
from monitor.core.events import Event, FlexSetting, FlowSetting, WorkerSession
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, SettingSeen
from monitor.core.policy import built_in_policy
from tests.builders import Message, build_messages, play, read_tuning, sid

ACCOUNT: Final = sid("AC1")
OTHER: Final = sid("AC2")
FLOW: Final = sid("FW1")


def seen(enabled: bool, since: int | None, previous: bool | None = None, observed: int | None = None) -> FlexSetting:
    """An observation; where nothing says when it was made, it was made when the setting came to be so."""
    observed_ms = observed if observed is not None else since
    assert observed_ms is not None
    return FlexSetting(ACCOUNT, enabled, since, previous, observed_ms)


def state(*observations: FlexSetting, at: int) -> FlexState:
    settings = AccountSettings()
    for observation in observations:
        settings.observe(observation)
    return settings.flex(ACCOUNT, at)


UNKNOWN: Final = FlexState(None, None)
ON: Final = FlexState(True, None)


@pytest.mark.parametrize(
    ("observations", "at", "expected"),
    [
        ((), 5, UNKNOWN),
        # The latest observation that was valid then.
        ((seen(True, 10),), 10, ON),
        ((seen(True, 10),), 9, UNKNOWN),
        ((seen(False, 10),), 10, FlexState(False, 10)),
        ((seen(True, 0), seen(False, 10), seen(True, 20)), 15, FlexState(False, 10)),
        ((seen(True, 0), seen(False, 10), seen(True, 20)), 25, ON),
        # It is valid since `since`; where that is not known, since it was observed.
        ((seen(False, None, observed=10),), 9, UNKNOWN),
        ((seen(False, None, observed=10),), 10, FlexState(False, None)),
        ((seen(False, 10, observed=99),), 10, FlexState(False, 10)),
        # Before the first observation: what that one says it had been.
        ((seen(False, 10, True),), 9, ON),
        ((seen(True, 10, False),), 9, FlexState(False, None)),
        ((seen(False, 10, True), seen(True, 20, False)), 5, ON),
        # Where an observation contradicts the one before, the time between them is not known.
        ((seen(True, 0), seen(True, 10, False)), 5, UNKNOWN),
        ((seen(True, 0), seen(True, 10, False)), 0, UNKNOWN),
        ((seen(True, 0), seen(True, 10, False)), 10, ON),
        ((seen(True, 0), seen(True, 10, False), seen(False, 20, True)), 25, FlexState(False, 20)),
        ((seen(True, 0), seen(False, 10, True)), 5, ON),
        ((seen(False, 0), seen(False, 10, False)), 5, FlexState(False, 0)),
        # Off since the earliest instant of an unbroken run of offs.
        ((seen(False, 0), seen(False, 10)), 15, FlexState(False, 0)),
        ((seen(False, 0), seen(True, 5), seen(False, 10)), 15, FlexState(False, 10)),
        ((seen(False, 0), seen(False, 10, True)), 15, FlexState(False, 10)),
        ((seen(False, 0), seen(False, None, False, observed=10)), 15, FlexState(False, 0)),
        ((seen(False, 0), seen(False, None, True, observed=10)), 15, FlexState(False, None)),
        ((seen(False, None, observed=0), seen(False, 10, False)), 15, FlexState(False, 10)),
        # An off that comes later has no part in what was before.
        ((seen(False, 0), seen(False, 10)), 5, FlexState(False, 0)),
    ],
)
def test_the_flex_setting_at_an_instant_follows_from_the_observations(observations, at, expected):
    assert state(*observations, at=at) == expected
    assert state(*reversed(observations), at=at) == expected


OBSERVATIONS: Final = st.lists(
    st.builds(
        seen,
        st.booleans(),
        st.none() | st.integers(0, 6),
        st.sampled_from([None, True, False]),
        st.integers(0, 6),
    ),
    max_size=6,
)


@given(OBSERVATIONS, st.randoms(use_true_random=False), st.integers(-1, 7))
def test_the_order_and_the_number_of_observations_play_no_part(observations, chance, at):
    shuffled = [*observations, *observations[:2]]
    chance.shuffle(shuffled)

    assert state(*shuffled, at=at) == state(*observations, at=at)


@pytest.mark.parametrize("at", [-1, 0, 1])
def test_of_two_observations_of_one_instant_that_differ_only_in_what_was_before_none_is_first(at):
    one, other = seen(False, 0, None), seen(False, 0, True)

    assert state(one, other, at=at) == state(other, one, at=at)


@given(OBSERVATIONS, st.integers(-1, 7))
def test_what_is_known_at_an_instant_rests_on_observations(observations, at):
    found = state(*observations, at=at)
    said = {o.enabled for o in observations} | {o.previous for o in observations}

    assert found.enabled is None or found.enabled in said
    assert found.off_since_ms is None or (
        found.enabled is False and found.off_since_ms <= at and found.off_since_ms in {o.since_ms for o in observations}
    )


@given(OBSERVATIONS, st.integers(-1, 7), st.integers(1, 5), st.booleans())
def test_a_later_observation_that_does_not_look_back_changes_nothing_before_it(observations, at, later, enabled):
    known = any((o.observed_ms if o.since_ms is None else o.since_ms) <= at for o in observations)
    before = state(*observations, at=at)
    after = state(*observations, seen(enabled, 7 + later), at=at)

    assert after == before
    assert known or before.enabled is None or any(o.previous is not None for o in observations)


def test_the_setting_of_one_account_is_not_that_of_another():
    settings = AccountSettings()
    settings.observe(seen(True, 0))

    assert settings.flex(OTHER, 5) == UNKNOWN


def test_an_observation_told_twice_tells_nothing_new():
    settings = AccountSettings()

    assert settings.observe(seen(True, 0, observed=3))
    assert not settings.observe(seen(True, 0, observed=3))
    assert not settings.observe(seen(True, 0, observed=4))  # Seen later, but it says the same.
    assert settings.observe(seen(True, 0, True, observed=5))


@given(OBSERVATIONS, st.integers(-1, 7))
def test_a_compacted_topic_tells_what_the_whole_topic_tells(observations, at):
    told = sorted(observations, key=lambda o: o.observed_ms)
    assume(
        len({o.observed_ms for o in told}) == len(told)
    )  # No two written at one instant: which of them came last, their set can't tell.

    compacted = {o.observed_ms if o.since_ms is None else o.since_ms: o for o in told}

    assert state(*told, at=at) == state(*compacted.values(), at=at)


def test_the_latest_changes_of_flex_are_kept_in_whatever_order_they_come():
    changes = [seen(False, 0), seen(False, 10), seen(True, 20, False), seen(False, 30, True), seen(False, 40)]
    for order in permutations(changes):
        settings = AccountSettings(flex_kept_max=3)
        for observation in order:
            settings.observe(observation)

        assert settings.forgotten == 2
        assert settings.flex(ACCOUNT, 45) == FlexState(False, 30)
        assert settings.flex(ACCOUNT, 25) == ON
        assert settings.flex(ACCOUNT, 15) == FlexState(False, None)  # As the first one kept says; since when is lost.


def test_an_observation_before_all_that_are_kept_tells_nothing_new():
    settings = AccountSettings(flex_kept_max=1)

    assert settings.observe(seen(False, 10))
    assert not settings.observe(seen(True, 0))
    assert settings.observe(seen(True, 20))


def test_widgets_are_looked_up_by_account_flow_and_revision():
    settings = AccountSettings()
    assert settings.observe(FlowSetting(ACCOUNT, FLOW, 7, ("b", "a")))
    assert not settings.observe(FlowSetting(ACCOUNT, FLOW, 7, ("a", "b")))
    assert settings.observe(FlowSetting(ACCOUNT, FLOW, 8, ()))

    assert settings.recording_widgets(ACCOUNT, FLOW, 7) == ("a", "b")
    assert settings.recording_widgets(ACCOUNT, FLOW, 8) == ()
    assert settings.recording_widgets(ACCOUNT, FLOW, 9) is None
    assert settings.recording_widgets(OTHER, FLOW, 7) is None
    assert settings.recording_widgets(ACCOUNT, None, 7) is None
    assert settings.recording_widgets(ACCOUNT, FLOW, None) is None


def test_of_two_observations_of_one_revision_the_last_told_stands():
    settings = AccountSettings()
    settings.observe(FlowSetting(ACCOUNT, FLOW, 7, ("a",)))

    assert settings.observe(FlowSetting(ACCOUNT, FLOW, 7, ("b",)))
    assert settings.recording_widgets(ACCOUNT, FLOW, 7) == ("b",)


def test_no_verdict_rests_on_when_an_agent_logs_in():
    assert not AccountSettings().observe(WorkerSession(ACCOUNT, sid("WK1"), 5, None, 10))


def test_an_event_seen_again_is_known_by_its_id_and_account():
    settings = AccountSettings()

    assert not settings.repeats(ACCOUNT, "one")
    assert settings.repeats(ACCOUNT, "one")
    assert not settings.repeats(OTHER, "one")
    assert not settings.repeats(ACCOUNT, None)
    assert not settings.repeats(ACCOUNT, None)


def test_so_many_ids_are_remembered_and_at_most_twice_as_many():
    settings = AccountSettings(ids_kept=10)
    ids = [str(number) for number in range(100)]
    for event_id in ids:
        assert not settings.repeats(ACCOUNT, event_id)

    assert all(settings.repeats(ACCOUNT, event_id) for event_id in ids[-10:])
    assert not any(settings.repeats(ACCOUNT, event_id) for event_id in ids[:80])


def test_what_is_known_does_not_rest_on_the_memory_of_ids():
    """A restart remembers no ids: what repeats one, but says something else, counts as repeated and is heard."""
    lines = (
        {"at": 0, "flow": "FW1", "revision": 7, "widgets": {"a": "record-call"}, "id": "same"},
        {"at": 1, "flow": "FW1", "revision": 7, "widgets": {"b": "record-call"}, "id": "same"},
    )
    settings = AccountSettings()
    start = Checkpoint(offset=0, generation=0, replay_from=0, log_time_ms=None)
    pipeline = Pipeline(read_tuning({}), built_in_policy(), settings, partition=None, checkpoint=start)
    pipeline.open(Ledger())
    for message in build_messages(lines):
        pipeline.feed(message.offset, message.arrives_ms, message.value)

    assert pipeline.take_counts().duplicate == 1
    assert settings.recording_widgets(ACCOUNT, FLOW, 7) == ("b",)


# --------------------------------------------------------------------------- settings among the events


def told(*lines: dict[str, object]) -> list[SettingSeen]:
    return play(build_messages(lines), read_tuning({}), built_in_policy()).settings_seen


def test_a_setting_among_the_events_is_copied_to_its_topic_under_its_own_key():
    copies = told(
        {"at": 0, "flex_setting": False, "since": -60, "previous": True},
        {"at": 1, "flex_setting": True},
        {"at": 2, "flow": "FW1", "revision": 7, "widgets": {"a": "record-call"}},
    )

    assert [copy.key for copy in copies] == [
        f"{ACCOUNT}/flex-configuration/2026-11-02T08:59:00.000Z",
        f"{ACCOUNT}/flex-configuration/2026-11-02T09:00:01.000Z",
        f"{ACCOUNT}/studio-flow/{FLOW}/7",
    ]


def test_a_copied_setting_means_what_the_event_meant():
    messages = build_messages(
        [
            {"at": 0, "flex_setting": False, "since": -60, "previous": True, "observed": 3},
            {"at": 1, "flex_setting": True},
            {"at": 2, "flow": "FW1", "revision": 7, "widgets": {"a": "record-call", "b": "say-play"}},
        ]
    )
    copies = play(messages, read_tuning({}), built_in_policy()).settings_seen
    for message, copy in zip(messages, copies, strict=True):
        [original], [again] = decode(message.value), decode(copy.data)
        assert isinstance(original, Event)
        assert isinstance(again, Event)
        assert (again.setting, again.account, again.id) == (original.setting, original.account, original.id)


def test_a_copied_worker_session_means_what_the_event_meant():
    data = {"account_sid": ACCOUNT, "worker_sid": sid("WK1"), "available_since": "2026-11-02T09:00:00.000Z"}
    event = {
        "type": "dev.recording-monitor.worker-session.observed",
        "id": "one",
        "time": "2026-11-02T09:00:05.000Z",
        "data": data,
    }
    value = json.dumps(event).encode()
    [copy] = play([Message(1, 0, value, 1)], read_tuning({}), built_in_policy()).settings_seen
    [original], [again] = decode(value), decode(copy.data)
    assert isinstance(original, Event)
    assert isinstance(again, Event)

    assert copy.key == f"{ACCOUNT}/worker-session/{sid('WK1')}"
    assert again.setting == original.setting


def test_a_setting_is_copied_each_time_it_is_told():
    """It may be known from a fold whose writes never arrived; the topic keeps one copy under a key anyway."""
    line: dict[str, object] = {"at": 0, "flex_setting": True, "since": -60, "observed": 0}
    copies = told(line, {"at": 1, "again": 1}, {**line, "at": 2, "arrives": 2, "id": "anew"})

    assert len(copies) == 3
    assert len({copy.key for copy in copies}) == 1
