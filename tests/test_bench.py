"""The measuring itself: what is counted, worked out and judged; and that the traffic measured is the traffic made."""

from __future__ import annotations

import os
from itertools import islice

import pytest

from monitor.simulator.traffic import Knobs, traffic
from tests.bench import TARGETS, Table
from tests.bench_peers.__main__ import Result, render
from tests.bench_peers.simple_job import PARTICIPANT, RECORDING, Verdict, key_of, step
from tests.rig import BenchError, Sample, generated, quantile, rate_between, slope_per_hour
from tests.scaling import need

KNOBS = Knobs(seed=3, events=400, recorded=1.0)


def event(kind: str, **parameters: str) -> bytes:
    pairs = ",".join(f'"{name}":"{value}"' for name, value in parameters.items())
    return f'{{"type":"{kind}","data":{{"request":{{"parameters":{{{pairs}}}}}}}}}'.encode()


def test_a_process_of_its_own_renders_the_very_traffic_the_simulator_makes():
    with generated(KNOBS, None) as entries:
        rendered = [tuple(entry) for entry in entries]

    assert rendered == list(traffic(KNOBS))


def test_traffic_may_be_left_before_its_end():
    with generated(KNOBS, sorted(os.sched_getaffinity(0))) as entries:
        assert len(list(islice(entries, 10))) == 10


def test_a_rate_is_what_was_judged_between_the_first_sample_and_the_last():
    samples = [Sample(10.0, 1.0, 0, 500, 0), Sample(11.0, 1.5, 0, 700, 0), Sample(14.0, 3.0, 0, 1_500, 0)]

    assert rate_between(samples) == (250.0, 2_000.0)


@pytest.mark.parametrize("samples", [[], [Sample(1.0, 1.0, 0, 5, 0)], [Sample(t, t, 0, 5, 0) for t in (1.0, 2.0)]])
def test_a_run_in_which_nothing_was_judged_has_no_rate(samples: list[Sample]):
    with pytest.raises(BenchError):
        rate_between(samples)


def test_a_quantile_is_one_of_the_values():
    values = [float(n) for n in range(100, 0, -1)]

    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]


def test_a_slope_is_told_by_the_hour():
    assert slope_per_hour([(0.0, 5.0), (1800.0, 6.0), (3600.0, 7.0)]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("whole 100", 99_999.0, "missed"),
        ("whole 100", 100_000.0, "must"),
        ("whole 100", 160_000.0, "goal"),
        ("rss", 3_001.0, "missed"),
        ("rss", 3_000.0, "must"),
        ("rss", 2_000.0, "goal"),
    ],
)
def test_a_target_is_reached_from_its_own_side(name: str, value: float, word: str):
    assert TARGETS[name].judge(value) == word


def test_figures_of_small_sizes_are_not_held_against_the_targets(capsys: pytest.CaptureFixture[str]):
    small, whole = Table(judged=False), Table(judged=True)
    for table in (small, whole):
        table.add("whole job", 1.0, "1/s", target="whole 100")

    assert "missed" not in small.render()
    assert "missed" in whole.render()
    assert "100,000/s" in small.render()
    capsys.readouterr()


def test_twice_the_calls_need_twice_the_cores_and_a_takeover_of_a_core_takes_as_long():
    one, two = (need(calls, 25.0, 3_000.0, 15.0) for calls in (100_000_000, 200_000_000))

    assert two.cores == pytest.approx(2 * one.cores)
    assert two.memory_gb == pytest.approx(2 * one.memory_gb)
    assert two.takeover_s == pytest.approx(one.takeover_s)


def test_the_simple_job_looks_up_the_conference_a_call_was_last_seen_in():
    conferences: dict[str, str] = {}
    for conference in ("CF1", "CF2"):
        assert step(event(PARTICIPANT, CallSid="CA1", ConferenceSid=conference), conferences) is None

    told = step(event(RECORDING, CallSid="CA1", RecordingSid="RE1", RecordingSource="DialVerb"), conferences)

    assert told == Verdict("RE1", "CA1", "CF2", "disallowed")


def test_the_simple_job_says_nothing_of_events_it_is_not_about():
    assert step(b"[", {}) is None
    assert step(event("com.twilio.voice.twiml.record.finished", CallSid="CA1", RecordingSid="RE1"), {}) is None


def test_a_message_of_the_simple_job_is_keyed_by_what_its_state_is_keyed_by():
    assert key_of(event(RECORDING, ConferenceSid="CF1", RecordingSid="RE1")) == "CF1"
    assert key_of(event(PARTICIPANT, CallSid="CA1", ConferenceSid="CF1")) == "CA1"


def test_the_fastest_peer_is_the_one_that_counts():
    told = {"ours": [Result(300.0, 1.0)], "quix": [Result(50.0, 1.0)], "arroyo": [Result(200.0, 1.0)]}

    assert "1.5 times (must 2, goal 3): missed" in render(told)
