"""``run`` asks Twilio about its accounts: one of two processes does, the other when that one dies; both know."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.broker import RealBroker
from tests.monitors import Metrics, Monitor, Site, until
from tests.twilio_server import CREATED, TwilioServer, set_flex, set_flow
from tests.verify import read_topic

RECORD = {"name": "rec", "type": "record-call", "properties": {"record_call": True}}
FW = f"FW{1:032x}"

pytestmark = pytest.mark.broker


def settings_of(site: Site) -> list[str]:
    """The keys of the account settings that say something of Flex or of flows, each time they were written."""
    keys = [message.key or "" for message in read_topic(site.bootstrap, site.settings_topic)]
    return [key for key in keys if "/place/" not in key]


def recording_is_on(monitor: Monitor) -> bool:
    return monitor.metrics()("flex_call_recording_enabled", account="a0") == 1


def owner(*monitors: Monitor) -> Monitor:
    """The one that has the account."""
    [one] = [each for each in monitors if len(each.said("account_taken")) > len(each.said("account_given_up"))]
    return one


def test_each_account_is_polled_by_one_process_and_taken_over_when_that_dies(
    broker: RealBroker, twilio: TwilioServer, tmp_path: Path
):
    account = twilio.account()
    set_flex(twilio, account, recording=True)
    set_flow(twilio, account, FW, [RECORD])
    asked = twilio.settings(tmp_path, account)
    site = Site(broker, tmp_path / "site", partitions=2, polling={"every": "1s"}, reconcile={"enabled": False}, **asked)
    with site.start() as one, site.start() as two:
        for monitor in (one, two):
            monitor.ready(1)
        for monitor in (one, two):
            until(partial(recording_is_on, monitor))
        flex, flow = f"{account.sid}/flex-configuration/", f"{account.sid}/studio-flow/{FW}/1"
        until(lambda: len(settings_of(site)) == 2)
        assert sorted(key.partition("2026")[0] for key in settings_of(site)) == sorted([flex, flow])

        set_flex(twilio, account, recording=False, updated=CREATED + timedelta(hours=1))
        for monitor in (one, two):
            until(partial(monitor.said, "flex_call_recording_changed"))
            [changed] = monitor.said("flex_call_recording_changed")
            assert (changed["account_sid"], changed["enabled"]) == (account.sid, False)
            assert changed["since"] == "2026-11-01T13:00:00.000Z"
            metrics: Metrics = monitor.metrics()
            assert metrics("flex_call_recording_enabled", account="a0") == 0
            at = (CREATED + timedelta(hours=1)).timestamp()
            assert metrics("flex_call_recording_changed_timestamp_seconds", account="a0") == at

        first = owner(one, two)
        first.kill()
        set_flow(twilio, account, FW, [])
        until(lambda: f"{account.sid}/studio-flow/{FW}/2" in settings_of(site))
        assert len(settings_of(site)) == 4  # Nothing was said twice.
