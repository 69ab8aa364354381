"""The life of a partition on a real broker: taken over, rebuilt, judged, committed, given up."""

from __future__ import annotations

import pytest

from tests.broker import RealBroker
from tests.member import Desk, Running, recording_event, recording_sid, until

pytestmark = pytest.mark.broker


def test_a_recording_is_judged_published_in_its_partition_and_the_position_committed(broker: RealBroker):
    desk = Desk.on(broker)
    with Running(desk) as running:
        running.ready(2)
        desk.send([recording_event(1)], partition=1)
        until(lambda: len(running.verdicts_told()) == 1)
        until(lambda: desk.committed(1).offset >= 2)
    assert desk.verdicts(0) == {}
    verdict = desk.verdicts(1)[recording_sid(1)]
    assert (verdict.outcome, verdict.cause) == ("disallowed", "dial_verb")
