"""The bridge when things go wrong: what was acknowledged is there, and nobody keeps it from the others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import pytest

from tests.broker import RealBroker
from tests.ingest_load import (
    Bystander,
    Outcome,
    bad_network,
    bridge_killed,
    broker_away,
    connected,
    endless_body,
    large_array,
    slow_bodies,
    slow_heads,
    together,
)
from tests.monitors import until
from tests.rig import descriptors, rss_bytes
from tests.webhooks import Ingest, Request, posted

MEMORY_MAX = 250 << 20


def nothing_lost(outcome: Outcome) -> None:
    assert outcome.acknowledged > 100
    assert outcome.lost == []
    assert outcome.refused == []  # Twilio would have thrown these away.


def test_nothing_acknowledged_is_lost_when_the_broker_is_away_for_a_while(tmp_path):
    outcome = broker_away(tmp_path, away_s=5, load_s=5, per_second=60)

    nothing_lost(outcome)
    assert outcome.again > 0


def test_nothing_acknowledged_is_lost_on_a_bad_network(tmp_path):
    outcome = bad_network(tmp_path, random.Random(1), faults=1, fault_s=5, per_second=20)

    nothing_lost(outcome)


def test_nothing_acknowledged_is_lost_when_the_bridge_is_killed(broker, tmp_path):
    outcome = bridge_killed(broker, tmp_path, kills=2, load_s=6, per_second=60)

    nothing_lost(outcome)
    assert outcome.again > 0


@pytest.fixture
def bridge(broker: RealBroker, tmp_path) -> Iterator[Ingest]:
    with Ingest(broker, tmp_path) as running:
        assert running.post(posted(b"[]")) == 200
        yield running


def test_whoever_sends_slowly_or_without_end_keeps_nobody_from_the_bridge(bridge):
    with Bystander(bridge.address) as bystander:
        answered = together(
            [
                *[partial(slow_bodies, bridge.address, 50, 4)] * 2,
                partial(slow_heads, bridge.address, 100, 4),
                *(
                    partial(endless_body, bridge.address, 100 << 20, chunked=chunked, signed=signed, packed=packed)
                    for chunked, signed, packed in [
                        (True, True, False),
                        (False, True, False),
                        (True, False, False),
                        (False, False, False),
                        (True, True, True),
                    ]
                ),
            ]
        )

    # Too large, not signed, or the line was cut: and never taken.
    assert {status for status in answered if status is not None} <= {0, 403, 413}
    assert set(bystander.statuses) == {200}
    assert len(bystander.statuses) > 20
    assert bridge.process is not None
    assert rss_bytes(bridge.process.pid) < MEMORY_MAX
    until(lambda: bridge.metrics()("ingest_in_flight_requests") == 0, why=bridge.tail)
    assert bridge.metrics().by("ingest_requests_total", "outcome").keys() >= {"too_slow", "too_large", "accepted"}


def test_whoever_holds_connections_without_asking_has_to_go_for_those_who_ask(bridge):
    held = [connected(bridge.address) for _ in range(1_100)]
    try:
        assert {bridge.post(posted(b"[]")) for _ in range(20)} == {200}
        assert bridge.process is not None
        assert descriptors(bridge.process.pid) < 1_060
        assert {bridge.get("/-/ready", metrics=False)[0] for _ in range(3)} == {200}
    finally:
        for connection in held:
            connection.close()


def test_arrays_of_fifty_thousand_elements_are_taken_whole_and_others_with_them(bridge):
    arrays: list[Request] = [large_array(50_000)] * 3

    with Bystander(bridge.address) as bystander:
        answered = together([partial(bridge.post, request) for request in arrays])

    assert set(answered) <= {200, 503}  # One after another; whoever has to wait for too long comes again.
    assert set(bystander.statuses) == {200}
    until(lambda: bridge.post(arrays[0]) == 200, why=bridge.tail)
    values = bridge.values()
    assert {b'{"n":%d}' % number for number in range(50_000)} <= set(values)
    assert bridge.process is not None
    assert rss_bytes(bridge.process.pid) < MEMORY_MAX
    assert bridge.post(large_array(60_001)) == 413


def test_what_is_on_its_way_has_a_bound_while_the_broker_does_not_answer(new_broker, tmp_path):
    broker = new_broker()
    array = large_array(50_000)
    with Ingest(broker, tmp_path) as bridge:
        assert bridge.post(posted(b"[1]")) == 200
        with broker.paused():
            assert set(together([partial(bridge.post, array)] * 4)) == {503}
        outcomes = bridge.metrics().by("ingest_requests_total", "outcome").keys()
        assert {"accepted"} < outcomes <= {"accepted", "busy", "not_delivered"}
        assert bridge.process is not None
        assert rss_bytes(bridge.process.pid) < MEMORY_MAX
        until(lambda: bridge.metrics()("ingest_in_flight_messages") == 0, why=bridge.tail)
        until(lambda: bridge.post(posted(b"[2]")) == 200, why=bridge.tail)


def test_garbage_of_every_kind_is_answered(bridge):
    chance = random.Random(3)
    garbage = [chance.randbytes(chance.randrange(1, 2000)).decode("latin-1").encode() for _ in range(40)]
    garbage += [b"[" * 100_000, b'{"a":' * 20_000, b'"' + b"\\" * 10_000, b"[[[[1,]", b"[" + b"1," * 3_000 + b"x]"]

    assert {bridge.post(posted(body)) for body in garbage} == {200}
    assert set(garbage) <= set(bridge.values())
