"""``recording-monitor twilio check | plan | apply`` as a person runs it, against a server that stands for Twilio."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from monitor.twilio.streams import NEEDED
from tests.monitors import program
from tests.twilio_server import Account, TwilioServer, new_sink, new_subscription
from tests.webhooks import PUBLIC, Ingest, posted

OURS = f"{PUBLIC}/twilio/events"
CONFIGURATION = {"destination": OURS, "method": "POST", "batch_events": True}
ALL = {each.name: each.version for each in NEEDED}
DESCRIPTION = "recording-monitor (recording-monitor)"
RECORDING = "com.twilio.voice.status-callback.recording.processed"

Run = Callable[..., "CompletedProcess[bytes]"]


@pytest.fixture
def run(twilio: TwilioServer, tmp_path: Path) -> Run:
    """Run a command with settings that lead to the stand-in."""

    def run_(*arguments: str, accounts: list[Account], over: dict[str, Any] | None = None, **more: Any) -> Any:
        settings = {**twilio.settings(tmp_path, *accounts, **more), "ingest": {"public_url": PUBLIC}, **(over or {})}
        (tmp_path / "monitor.yaml").write_text(yaml.safe_dump(settings))
        return program(*arguments, cwd=tmp_path)

    return run_


def as_needed(twilio: TwilioServer, account: Account) -> None:
    """Give an account what the monitor needs."""
    sink = new_sink(twilio, account, CONFIGURATION, DESCRIPTION, status="active")
    new_subscription(twilio, account, sink["sid"], ALL, DESCRIPTION)


def types_of(twilio: TwilioServer, account: Account) -> dict[str, int]:
    """What the one subscription of an account carries."""
    [sid] = twilio.things(account.sid, "subscriptions")
    return {name: one["schema_version"] for name, one in twilio.things(account.sid, f"types of {sid}").items()}


# --- check


def test_an_account_with_everything_is_as_needed(run, twilio):
    account = twilio.account()
    as_needed(twilio, account)
    done = run("twilio", "check", accounts=[account])

    assert (done.returncode, done.stderr) == (0, b"")
    assert f"a0 ({account.sid})" in done.stdout.decode()
    assert "Accounts as needed: 1 of 1." in done.stdout.decode()


def test_what_is_missing_is_said_of_each_account_with_what_it_blinds_us_to(run, twilio):
    good, bad = twilio.account(1), twilio.account(2)
    as_needed(twilio, good)
    sink = new_sink(twilio, bad, CONFIGURATION, DESCRIPTION, status="failed")
    types = {name: version for name, version in ALL.items() if name != RECORDING}
    new_subscription(twilio, bad, sink["sid"], types, DESCRIPTION)
    done = run("twilio", "check", accounts=[good, bad])

    said = done.stdout.decode()
    assert done.returncode == 1
    assert "wrong" in said
    assert "Twilio could not validate the sink" in said
    assert "No recording is seen" in said
    assert "Accounts as needed: 1 of 2. `recording-monitor twilio plan` shows what would mend it." in said
    assert twilio.changes == []


def test_subaccounts_are_looked_at_page_by_page_and_one_without_a_token_of_ours_is_named(run, twilio):
    twilio.page_max = 1
    parent = twilio.account(1)
    below = [twilio.account(2, parent=parent), twilio.account(3, parent=parent)]
    for account in (parent, *below):
        as_needed(twilio, account)
    done = run("twilio", "check", "--format", "json", accounts=[parent], subaccounts="all")

    assert done.returncode == 1
    told = json.loads(done.stdout)["accounts"]
    assert [one["account_sid"] for one in told] == [parent.sid, *(account.sid for account in below)]
    assert [one["good"] for one in told] == [True, False, False]
    assert [found["about"] for found in told[1]["findings"] if found["level"] == "wrong"] == ["auth_token_file"]


def test_without_a_public_address_there_is_nothing_to_compare_with(run, twilio):
    done = run("twilio", "check", accounts=[twilio.account()], over={"ingest": {}})

    assert done.returncode == 2
    assert b"ingest.public_url: missing" in done.stderr


@pytest.mark.parametrize("command", ["check", "plan", "apply"])
def test_credentials_that_twilio_does_not_know_are_wrong_settings_and_never_shown(run, twilio, tmp_path, command):
    account = twilio.account()
    unknown = account._replace(token="5ec2e75ec2e75ec2e75ec2e75ec2e75e")
    done = run("twilio", command, accounts=[unknown])

    assert done.returncode == 2
    assert b"monitor.yaml:3: accounts[0].auth_token_file: Twilio does not know these credentials" in done.stderr
    assert unknown.token.encode() not in done.stdout + done.stderr
    printed = program("config", "print", cwd=tmp_path)
    assert (printed.returncode, unknown.token.encode() in printed.stdout) == (0, False)


@pytest.mark.parametrize("fault", [{"status": 500}, {"hang": True}, {"status": 429, "headers": {"Retry-After": "60"}}])
def test_a_twilio_that_does_not_answer_is_out_of_reach(run, twilio, fault):
    account = twilio.account()
    twilio.fail("/v1/Sinks", times=None, **fault)
    done = run("twilio", "check", accounts=[account], over={"twilio": {"api_url": twilio.url, "timeout": "1s"}})

    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"recording-monitor: GET events.twilio.com/v1/Sinks: ")
    assert account.token.encode() not in done.stderr


# --- plan


def test_a_plan_shows_what_would_be_done_and_changes_nothing(run, twilio):
    account = twilio.account()
    done = run("twilio", "plan", accounts=[account])

    said = done.stdout.decode()
    assert done.returncode == 1
    assert f"+ sink to {OURS}, webhook, POST, batched" in said
    assert f"  + {RECORDING} version 2" in said
    assert "`recording-monitor twilio apply` does this." in said
    assert twilio.changes == []


def test_a_plan_for_programs_names_each_step_by_its_kind(run, twilio):
    account = twilio.account()
    as_needed(twilio, account)
    new_sink(twilio, account, {**CONFIGURATION, "destination": "https://old.example.com"}, DESCRIPTION)
    done = run("twilio", "plan", "--prune", "--format", "json", accounts=[account])

    [one] = json.loads(done.stdout)["accounts"]
    assert (done.returncode, [step["type"] for step in one["steps"]]) == (1, ["delete-sink"])
    assert twilio.changes == []


# --- apply


def test_apply_asks_and_where_nobody_can_be_asked_changes_nothing(run, twilio):
    done = run("twilio", "apply", accounts=[twilio.account()])

    assert done.returncode == 2
    assert b"give --yes" in done.stderr
    assert twilio.changes == []


def test_whoever_says_no_has_changed_nothing(twilio, tmp_path):
    (tmp_path / "monitor.yaml").write_text(
        yaml.safe_dump({**twilio.settings(tmp_path, twilio.account()), "ingest": {"public_url": PUBLIC}})
    )
    ours, theirs = os.openpty()
    os.write(ours, b"n\n")
    done = program("twilio", "apply", cwd=tmp_path, stdin=theirs)
    os.close(ours)
    os.close(theirs)

    assert done.returncode == 1
    assert f"+ sink to {OURS}" in done.stdout.decode()
    assert b"Do this? [y/N]" in done.stdout
    assert twilio.changes == []


def test_without_kafka_nothing_is_begun_for_no_test_could_be_seen(run, twilio):
    kafka = {"bootstrap_servers": "127.0.0.1:1", "client": {"socket.connection.setup.timeout.ms": "1000"}}
    done = run("twilio", "apply", "--yes", accounts=[twilio.account()], over={"kafka": kafka})

    assert done.returncode == 3
    assert b"recording-monitor.account-settings: " in done.stderr
    assert twilio.changes == []


def test_without_validation_the_sink_is_made_and_what_twilio_refuses_then_is_said(run, twilio):
    account = twilio.account()
    done = run("twilio", "apply", "--yes", "--no-validate", accounts=[account])

    assert done.returncode == 2
    assert b"refused by Twilio" in done.stderr
    assert b"The sink is not active" in done.stderr
    assert twilio.changes == ["POST /v1/Sinks", "POST /v1/Subscriptions"]

    twilio.active_first = False
    done = run("twilio", "apply", "--yes", "--no-validate", accounts=[account])
    assert done.returncode == 1  # The sink is still not validated.
    assert len(twilio.things(account.sid, "sinks")) == 1
    assert types_of(twilio, account) == ALL


def test_types_and_versions_are_mended_and_what_twilio_does_not_take_and_nobody_needs_is_left(run, twilio):
    account = twilio.account()
    optional = next(each for each in NEEDED if not each.required)
    sink = new_sink(twilio, account, CONFIGURATION, DESCRIPTION, status="active")
    types = {name: version for name, version in ALL.items() if name not in (optional.name, f"{RECORDING}x")}
    sid = new_subscription(twilio, account, sink["sid"], {**types, RECORDING: 1}, DESCRIPTION)["sid"]
    twilio.fail(f"/v1/Subscriptions/{sid}/SubscribedEvents", method="POST", status=400, body=b"{}", times=None)
    done = run("twilio", "apply", "--yes", accounts=[account])

    assert done.returncode == 0, done.stderr
    assert "not taken by Twilio, and not required" in done.stdout.decode()
    assert types_of(twilio, account) == types


def test_what_others_have_made_is_left_as_it_is(run, twilio):
    account = twilio.account()
    as_needed(twilio, account)
    theirs = new_sink(twilio, account, {"destination": "https://theirs.example.com/x"}, "Theirs", status="active")
    new_subscription(twilio, account, theirs["sid"], {RECORDING: 1}, "Theirs")
    done = run("twilio", "apply", "--yes", "--prune", accounts=[account])

    assert done.returncode == 0
    assert twilio.changes == []
    # Nor looked into: an account may have a hundred of them.
    assert len([path for path in twilio.paths() if path.endswith("/SubscribedEvents")]) == 1


# --- The whole way, with the real bridge


def test_an_empty_account_becomes_one_whose_events_arrive(broker, twilio, tmp_path):
    account, secret = twilio.account(), "user:pass/word"
    (tmp_path / "basic").write_text(secret)
    with Ingest(broker, tmp_path / "bridge", tokens={account.sid: [account.token]}) as bridge:
        destinations: list[str] = []

        def deliver(destination: str, body: bytes) -> None:
            destinations.append(destination)
            assert bridge.post(posted(body, account.token)) == 200

        settings = {
            **twilio.settings(tmp_path, account),
            "kafka": bridge.settings["kafka"],
            "topics": bridge.settings["topics"],
            "ingest": {"public_url": PUBLIC, "basic_auth_file": "basic"},
        }
        (tmp_path / "monitor.yaml").write_text(yaml.safe_dump(settings))

        # Twilio's test does not arrive: what was made stays, and the next time goes on with it.
        lost = program("twilio", "apply", "--yes", "--wait", "1", cwd=tmp_path)
        assert lost.returncode == 3
        assert b"no bridge has said that it arrived. Does `recording-monitor ingest` run" in lost.stderr

        twilio.deliver = deliver
        done = program("twilio", "apply", "--yes", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert b"the test arrived, and Twilio has validated the sink" in done.stdout
        [sink] = twilio.things(account.sid, "sinks").values()
        assert (sink["status"], sink["description"]) == ("active", DESCRIPTION)
        assert destinations == ["https://user:pass%2Fword@hooks.example.com/twilio/events"]
        assert types_of(twilio, account) == ALL

        before = len(twilio.changes)
        again = program("twilio", "apply", "--yes", cwd=tmp_path)
        assert (again.returncode, twilio.changes[before:]) == (0, [])
        check = program("twilio", "check", cwd=tmp_path)
        assert check.returncode == 0
        told = b"".join(one.stdout + one.stderr for one in (lost, done, again, check)) + bridge.log.read_bytes()
        assert account.token.encode() not in told
        assert b"pass/word" not in told
        assert b"pass%2Fword" not in told
