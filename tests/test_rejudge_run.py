"""Judging again on a real broker: shown, written under an owner that runs, kept by whoever comes after it."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.progress import Progress

from monitor.cli import run
from monitor.commands.common import read_settings
from monitor.commands.rejudge import Asked, Left, Rejudging
from monitor.core.rejudging import Why
from monitor.inputs.kafka import render_tick
from monitor.inputs.policy_file import load_policy
from tests.broker import RealBroker
from tests.member import recording_event, recording_sid
from tests.monitors import Site, until
from tests.test_pages_run import case

pytestmark = pytest.mark.broker

HOUR = timedelta(hours=1)
ALL_DISALLOWED = "policy: too-strict\nmode: enforce\ndefault: disallowed\n"
CORRECTED = ALL_DISALLOWED.replace("too-strict", "corrected") + (
    "rules:\n  - {name: dial, outcome: allowed, when: {cause: dial_verb}, reason: Our own dialler asks for consent.}\n"
)


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def yesterdays(site: Site, sources: dict[int, str]) -> None:
    """Recordings that began ten hours ago, and ticks until five hours ago: their windows are over since an hour."""
    now = datetime.now(UTC)
    begun = now - 10 * HOUR
    for number, source in sources.items():
        for status in ("in-progress", "completed"):
            event = recording_event(number, source=source, status=status, started_ms=ms(begun))
            site.send([event], timestamp=ms(begun))
    for minutes in range(30, 301, 30):
        at = begun + timedelta(minutes=minutes)
        site.send([render_tick(0, by="test", sent_at=at)], timestamp=ms(at))


def says(site: Site) -> dict[int, tuple[str, str, bool]]:
    """Of each recording outcome and rule, and whether it was rejudged."""
    verdicts = site.verdicts()
    numbers = [number for number in range(10) if recording_sid(number) in verdicts]
    told = {number: verdicts[recording_sid(number)] for number in numbers}
    return {number: (one["outcome"], one["rule"], "rejudged" in one) for number, one in told.items()}


def test_what_a_corrected_policy_changes_is_shown_written_once_and_kept_by_all(
    broker: RealBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    policy = tmp_path / "policy.yaml"
    policy.write_text(ALL_DISALLOWED)
    site = Site(broker, tmp_path / "site", partitions=1, stamped_by_producers=True, policy=str(policy))
    yesterdays(site, {1: "DialVerb", 2: "RecordVerb", 3: "DialVerb", 4: "DialVerb"})
    config = site.config()

    def rejudge(*arguments: str, code: int = 0) -> str:
        assert run(["rejudge", "--config", str(config), "--since", "1d", *arguments]) == code
        return capsys.readouterr().out

    as_judged = dict.fromkeys((1, 2, 3, 4), ("disallowed", "default", False))
    with site.start() as owner:
        last = site.ends()[0]
        until(lambda: [told["final"] for told in site.verdicts().values()] == [True] * 4, why=owner.tail)
        until(lambda: site.committed()[0] >= last, why=owner.tail)
        assert says(site) == as_judged
        assert owner.metrics()("recordings_total") == 4

        # The policy is corrected. What it would change is shown, and nothing is written.
        policy.write_text(CORRECTED)
        owner.send(signal.SIGHUP)
        written = len(site.written())
        shown = json.loads(rejudge("--fail-on-change", "--format", "json", code=1))
        becomes = [(one["recording_sid"], one["becomes"]["rule"]) for one in shown["changes"]]
        assert becomes == [(recording_sid(number), "dial") for number in (1, 3, 4)]
        assert shown["changes"][0]["was"]["outcome"] == "disallowed"
        assert (shown["unchanged"], shown["left"], shown["written"]) == (1, [], None)
        settings = read_settings(config)
        rejudging = Rejudging(settings, load_policy(policy), Asked(), ms(datetime.now(UTC)))
        plan = rejudging.plan(Progress(disable=True))
        policy.write_text(CORRECTED + "# Another one, since it was shown.\n")
        assert rejudging.apply(plan) == [Left(recording_sid(number), Why.CHANGED) for number in (1, 3, 4)]
        policy.write_text(CORRECTED)
        assert len(site.written()) == written

        # What has changed since it was shown is left. A part is written, as by one that was killed in the middle.
        del plan.changes[2]
        site.send([recording_event(3, status="deleted")], timestamp=ms(datetime.now(UTC)))
        until(lambda: site.verdicts()[recording_sid(3)]["recording_status"] == "deleted", why=owner.tail)
        assert rejudging.apply(plan) == [Left(recording_sid(3), Why.CHANGED)]
        assert says(site) == as_judged | {1: ("allowed", "dial", True)}
        # The rest is written by the next, and nothing by one more.
        assert "1 verdicts rejudged" in rejudge("--apply", "--yes")
        kept = as_judged | dict.fromkeys((1, 4), ("allowed", "dial", True))
        assert says(site) == kept
        written = len(site.written())
        assert "0 would change, 3 would not, 1 are left as they are" in rejudge("--apply", "--yes")
        assert len(site.written()) == written

        # The owner keeps it: what comes late changes the status alone.
        site.send([recording_event(1, status="deleted")], timestamp=ms(datetime.now(UTC)))
        until(lambda: site.verdicts()[recording_sid(1)]["recording_status"] == "deleted", why=owner.tail)
        assert says(site) == kept
        told = case(owner, 4)
        assert told is not None
        assert [line["what"] for line in told["timeline"]][-2:] == ["rejudged", "allowed"]
        assert told["open"] is False
        seen = owner.metrics()
        assert (seen("recordings_total"), seen("disallowed_recordings_total")) == (4, 4)
        assert owner.stop() == 0
    assert site.verified().faults == []
    # Whoever folds all of it again, from the first event, has nothing to add.
    written = len(site.written())
    other = {**site.settings["kafka"], "group_id": f"{site.name}.other"}
    with site.start(kafka=other) as another:
        another.ready(owned=1)
        until(another.caught_up, why=another.tail)
        until(lambda: case(another, 1) is not None, why=another.tail)
        assert another.metrics()("recordings_total") == 0
    assert len(site.written()) == written
    assert says(site) == kept
