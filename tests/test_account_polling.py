"""Account settings are asked for, and only what is new is written: Flex, flows, agents' sessions.

The jobs run as the monitor runs them, against a server that answers as Twilio's documents say; what they write is
heard again, as it would be through the topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.audit import report
from monitor.audit.starts import find_starts
from monitor.core.account_settings import AccountSettings, FlexState
from monitor.core.decode import decode
from monitor.core.events import Event, FlexSetting, Setting, WorkerSession
from monitor.core.policy import built_in_policy
from monitor.errors import WrongInput
from monitor.inputs.account import FlexRead, read_account
from monitor.inputs.account_polling import (
    FlexPolling,
    FlowPolling,
    Observed,
    WorkerPolling,
    as_message,
    flex_news,
    worker_news,
)
from monitor.inputs.daily_audit import DailyAudit
from monitor.inputs.rest_work import Job
from monitor.settings import load_settings
from monitor.twilio.accounts import Twilio, TwilioAccount
from monitor.twilio.errors import NotPermitted
from monitor.twilio.transport import Clock
from tests.twilio_server import Account, TwilioServer, set_flex, set_flow, set_trunk, set_worker

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
MINUTE = timedelta(minutes=1)
AC = "AC" + "1" * 32
FW = "FW" + "f" * 32
WK = [f"WK{number:032x}" for number in range(3)]
RECORD = {"name": "rec", "type": "record-call", "properties": {"record_call": True}}
SAY = {"name": "say", "type": "say-play", "properties": {}}


class Passing(BaseException):
    """The turns are over."""


class Turns:
    """Time in which a job takes one turn after another; before each of them something may happen."""

    def __init__(self, *before: Callable[[], object]) -> None:
        self.now = NOW
        self._before = list(before)
        self.clock = Clock(sleep=self.sleep, wall=lambda: self.now)

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        if not self._before:
            raise Passing
        self._before.pop(0)()


class Owned:
    """An account that is ours: keeps what is written, and lets it be heard."""

    def __init__(self, account: TwilioAccount, observed: Observed) -> None:
        self.account = account
        self.partition = 0
        self.written: list[dict[str, bytes]] = []
        self._observed = observed

    async def write_settings(self, values: Mapping[str, bytes]) -> None:
        if values:
            self.written.append(dict(values))
        for value in values.values():
            self._observed.hear(setting_in(value))


def play(
    twilio: TwilioServer,
    account: Account,
    directory: Path,
    make: Callable[[Observed, Clock], Job],
    *before: Callable[[], object],
    observed: Observed | None = None,
) -> list[dict[str, bytes]]:
    """Run a job for one turn, and one more after each of ``before``; what was written, by the turn's writes."""
    file = directory / "monitor.yaml"
    file.write_text(yaml.safe_dump(twilio.settings(directory, account)))
    heard = observed or Observed()
    turns = Turns(*before)

    async def run() -> list[dict[str, bytes]]:
        async with Twilio(load_settings(file, {})) as connected:
            (one,) = await connected.accounts()
            owned = Owned(one, heard)
            with pytest.raises(Passing):
                await make(heard, turns.clock).work(owned)  # type: ignore[arg-type]  # What it uses of an owned account.
            return owned.written

    return asyncio.run(run())


def keys(written: Sequence[Mapping[str, bytes]]) -> list[list[str]]:
    return [list(each) for each in written]


def setting_in(value: bytes) -> Setting:
    """The one setting that a message says."""
    (event,) = decode(value)
    assert isinstance(event, Event)
    assert event.setting is not None
    return event.setting


def settled(written: Sequence[Mapping[str, bytes]]) -> AccountSettings:
    """What the core knows once it has read all of this."""
    known = AccountSettings()
    for values in written:
        for value in values.values():
            known.observe(setting_in(value))
    return known


def flex(observed: Observed, clock: Clock) -> Job:
    return FlexPolling(observed, every_s=60, clock=clock)


def flows(observed: Observed, clock: Clock) -> Job:
    return FlowPolling(observed, every_s=60, clock=clock)


def workers(observed: Observed, clock: Clock) -> Job:
    return WorkerPolling(observed, every_s=60, clock=clock)


def nothing() -> None:
    """A turn before which nothing happens."""


# --- Flex


def test_flex_is_said_once_and_again_when_it_changes(twilio, tmp_path):
    account = twilio.account()
    set_flex(twilio, account, recording=True, updated=NOW - 90 * MINUTE)

    def switch_off() -> None:
        set_flex(twilio, account, recording=False, updated=NOW + 1.5 * MINUTE)

    written = play(twilio, account, tmp_path, flex, nothing, switch_off, nothing)
    assert keys(written) == [
        [f"{account.sid}/flex-configuration/2026-11-26T10:30:00.000Z"],
        [f"{account.sid}/flex-configuration/2026-11-26T12:01:30.000Z"],
    ]
    known = settled(written)
    assert known.flex(account.sid, NOW_MS) == FlexState(True, None)
    assert known.flex(account.sid, NOW_MS + 120_000) == FlexState(False, NOW_MS + 90_000)


def test_an_account_without_flex_is_asked_and_nothing_is_written(twilio, tmp_path):
    account = twilio.account()

    assert play(twilio, account, tmp_path, flex, nothing) == []
    assert twilio.paths() == ["GET /v1/Configuration"] * 2


@pytest.mark.parametrize(
    ("updated", "since_ms"),
    [
        (NOW - 5 * MINUTE, NOW_MS - 300_000),
        (None, None),
        (NOW + 5 * MINUTE, None),  # Its clock is ahead of ours: nobody knows.
        (NOW - 20 * MINUTE, None),  # Before what was said last, and yet it is another: nobody knows.
    ],
)
def test_since_when_flex_is_off_is_said_only_where_it_can_be_so(updated, since_ms):
    before = FlexSetting(AC, True, None, None, NOW_MS - 600_000)

    news = flex_news(AC, FlexRead(False, None, updated), before, NOW_MS)
    assert news == FlexSetting(AC, False, since_ms, True, NOW_MS)


def test_what_is_written_stands_last_though_our_clock_is_behind_what_was_said():
    before = FlexSetting(AC, True, None, None, NOW_MS + 600_000)
    news = flex_news(AC, FlexRead(False, None, NOW), before, NOW_MS)

    observed = Observed()
    assert not observed.hear(before)
    assert news is not None
    assert observed.hear(news)
    assert flex_news(AC, FlexRead(False, None, NOW), observed.flex(AC), NOW_MS) is None


def test_a_change_is_known_as_one_in_whatever_order_the_topic_is_read():
    on = FlexSetting(AC, True, NOW_MS - 7_200_000, False, NOW_MS - 7_200_000)
    off = FlexSetting(AC, False, NOW_MS - 3_600_000, True, NOW_MS - 3_600_000)

    for first, second in ((on, off), (off, on)):
        observed = Observed()
        changes = [observed.hear(first), observed.hear(second), observed.hear(off)]
        assert changes == [True, second is off, False]
        assert observed.flex_now() == [(AC, False, NOW_MS - 3_600_000)]


# --- Flows


def test_every_new_revision_of_a_flow_is_asked_for_and_said_once(twilio, tmp_path):
    account = twilio.account()
    for _ in range(5):
        set_flow(twilio, account, FW, [SAY])

    def publish_two() -> None:
        set_flow(twilio, account, FW, [RECORD])
        set_flow(twilio, account, FW, [SAY, RECORD], status="draft")

    written = play(twilio, account, tmp_path, flows, nothing, publish_two, nothing)
    assert keys(written) == [
        [f"{account.sid}/studio-flow/{FW}/{revision}" for revision in (3, 4, 5)],
        [f"{account.sid}/studio-flow/{FW}/{revision}" for revision in (6, 7)],
    ]
    assert len([path for path in twilio.paths() if "/Revisions/" in path]) == 5
    known = settled(written)
    assert known.recording_widgets(account.sid, FW, 5) == ()
    assert known.recording_widgets(account.sid, FW, 6) == ("rec",)


def test_a_process_that_takes_over_says_nothing_that_was_said(twilio, tmp_path):
    account, observed = twilio.account(), Observed()
    set_flex(twilio, account, recording=False, updated=NOW)
    set_flow(twilio, account, FW, [RECORD])
    set_worker(twilio, account, WK[0], online=True, changed=NOW)

    for make in (flex, flows, workers):
        assert len(play(twilio, account, tmp_path, make, observed=observed)) == 1
        assert play(twilio, account, tmp_path, make, observed=observed) == []


def test_a_flow_that_was_deleted_while_it_was_read_is_left_out(twilio, tmp_path):
    account = twilio.account()
    set_flow(twilio, account, FW, [RECORD])
    twilio.things(account.sid, f"revisions of {FW}").clear()

    assert play(twilio, account, tmp_path, flows, nothing) == []


# --- Sessions


def test_a_session_begins_when_a_worker_leaves_the_offline_activity_and_not_with_a_break(twilio, tmp_path):
    account, observed = twilio.account(), Observed()
    set_worker(twilio, account, WK[0], online=False, changed=NOW - 60 * MINUTE)
    set_worker(twilio, account, WK[1], online=True, changed=NOW - 30 * MINUTE)

    written = play(
        twilio,
        account,
        tmp_path,
        workers,
        lambda: set_worker(twilio, account, WK[0], online=True, changed=NOW + 0.5 * MINUTE),
        lambda: set_worker(twilio, account, WK[0], online=True, changed=NOW + 1.5 * MINUTE, activity="Break"),
        lambda: set_worker(twilio, account, WK[1], online=False, changed=NOW + 2.5 * MINUTE),
        observed=observed,
    )
    assert keys(written) == [
        [f"{account.sid}/worker-session/{worker}" for worker in (WK[0], WK[1])],
        [f"{account.sid}/worker-session/{WK[0]}"],
        [f"{account.sid}/worker-session/{WK[1]}"],
    ]
    first, second = observed.worker(account.sid, WK[0]), observed.worker(account.sid, WK[1])
    assert first is not None
    assert second is not None
    assert (first.available_since_ms, first.offline_since_ms) == (NOW_MS + 30_000, NOW_MS - 3_600_000)
    assert (second.available_since_ms, second.offline_since_ms) == (NOW_MS - 1_800_000, NOW_MS + 150_000)


def test_the_offline_activity_is_the_one_that_flex_names(twilio, tmp_path):
    account, observed = twilio.account(), Observed()
    set_flex(twilio, account, recording=False, offline_activity="WA" + "0" * 32)
    set_worker(twilio, account, WK[0], online=False, changed=NOW, activity="Feierabend")

    play(twilio, account, tmp_path, workers, observed=observed)
    session = observed.worker(account.sid, WK[0])
    assert session is not None
    assert (session.available_since_ms, session.offline_since_ms) == (None, NOW_MS)


def test_a_worker_in_the_same_state_is_no_news():
    known = WorkerSession(AC, WK[0], NOW_MS - 1, NOW_MS - 2, NOW_MS)

    assert worker_news(AC, WK[0], known, online=True, changed_ms=NOW_MS, now_ms=NOW_MS) is None
    again = worker_news(AC, WK[0], known, online=False, changed_ms=None, now_ms=NOW_MS)
    assert again == WorkerSession(AC, WK[0], NOW_MS - 1, NOW_MS, NOW_MS)


def test_what_is_written_reads_back_as_what_was_meant():
    settings = (
        FlexSetting(AC, False, NOW_MS, True, NOW_MS),
        WorkerSession(AC, WK[0], NOW_MS - 1, None, NOW_MS),
    )

    for setting in settings:
        _, value = as_message(setting, NOW_MS)
        assert setting_in(value) == setting


def test_more_workers_than_a_page_holds_are_read_page_by_page(twilio, tmp_path):
    account = twilio.account()
    twilio.page_max = 1
    for worker in WK:
        set_worker(twilio, account, worker, online=True, changed=NOW)

    (written,) = play(twilio, account, tmp_path, workers)
    assert len(written) == 3


def test_what_twilio_refuses_is_left_to_whoever_runs_the_job(twilio, tmp_path):
    account = twilio.account()
    twilio.fail("/v1/Workspaces", status=403, body=b'{"code": 20003, "message": "no", "status": 403}', times=None)

    with pytest.raises(NotPermitted):
        play(twilio, account, tmp_path, workers)


# --- The daily audit


class Told:
    """What was said of audits."""

    def __init__(self) -> None:
        self.audits: list[tuple[list[str], int, float | None]] = []
        self.gone: list[str] = []

    def audited(self, _account: str, outcomes: Any, changed: int, at: float | None) -> None:
        self.audits.append((list(outcomes), changed, at))

    def audit_gone(self, account_sid: str) -> None:
        self.gone.append(account_sid)


def accepted(twilio: TwilioServer, account: Account, directory: Path) -> Path:
    """The audit of an account as it is now, as the file that people keep."""
    settings = directory / "monitor.yaml"
    settings.write_text(yaml.safe_dump(twilio.settings(directory, account)))

    async def read() -> Any:
        async with Twilio(load_settings(settings, {})) as connected:
            (one,) = await connected.accounts()
            return find_starts([await read_account(one)], built_in_policy(), NOW)

    file = directory / "accepted.json"
    with ThreadPoolExecutor() as beside:  # A job may be running on a loop of this thread.
        report.save(beside.submit(asyncio.run, read()).result(), file)
    return file


def test_what_is_not_as_accepted_is_told_until_it_is_put_right_or_accepted(twilio, tmp_path):
    account, told = twilio.account(), Told()
    set_trunk(twilio, account, f"TK{1:032x}", "record-from-answer")
    baseline = accepted(twilio, account, tmp_path)

    def audits(_observed: Observed, clock: Clock) -> Job:
        return DailyAudit(baseline, built_in_policy, told, every_s=86_400, clock=clock)

    play(
        twilio,
        account,
        tmp_path,
        audits,
        lambda: set_flow(twilio, account, FW, [RECORD]),
        nothing,
        lambda: accepted(twilio, account, tmp_path),
        lambda: twilio.fail("/v1/Trunks", status=403, body=b'{"code": 20003, "message": "no", "status": 403}'),
    )
    day = 86_400
    began = NOW.timestamp()
    assert told.audits == [
        (["disallowed"], 0, began),
        (["disallowed"] * 2, 1, began + day),
        (["disallowed"] * 2, 1, began + 2 * day),
        (["disallowed"] * 2, 0, began + 3 * day),
        (["disallowed"], 0, None),  # What could not be asked is not gone, and the audit is not whole.
    ]


def test_a_baseline_that_is_not_there_is_said_and_nothing_is_told(twilio, tmp_path):
    account, told = twilio.account(), Told()

    with pytest.raises(WrongInput, match="audit --save"):
        play(
            twilio,
            account,
            tmp_path,
            lambda _, clock: DailyAudit(tmp_path / "no.json", built_in_policy, told, every_s=1, clock=clock),
        )
    assert told.audits == []
