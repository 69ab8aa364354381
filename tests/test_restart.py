"""What has changed since the start and needs a restart is said, once, and nothing of a secret with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import yaml

from monitor.commands.restart import Restart
from monitor.settings import load_settings


class Desk:
    """A settings file and a secret that change, and a process that started before."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "monitor.yaml"
        self.secret = directory / "password"
        self.secret.write_text("first-of-all")
        self.policy = directory / "policy.yaml"
        self.policy.write_text("policy: a\nmode: observe\ndefault: disallowed\nrules: []\n")
        self.write()
        self.restart = Restart(self.read(), self.read)

    def write(self, **changes):
        client = {"sasl.username": "monitor", "sasl.password_file": "password", **changes.pop("client", {})}
        whole = {"kafka": {"bootstrap_servers": "kafka:9092", "client": client}, "policy": "policy.yaml", **changes}
        self.file.write_text(yaml.safe_dump(whole))

    def read(self):
        return load_settings(self.file, {})

    def look(self):
        with structlog.testing.capture_logs() as said:
            self.restart.look()
        return [(line.pop("event"), line.pop("log_level"), line) for line in said]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def needed(*keys: str):
    return [("restart_needed", "warning", {"keys": list(keys)})]


def test_what_has_not_changed_needs_no_word(desk):
    assert desk.look() == []
    desk.write()
    desk.policy.write_text("policy: another\nmode: observe\ndefault: allowed\nrules: []\n")
    assert desk.look() == [], "a policy is taken up without a restart"


def test_a_change_is_told_by_its_keys_and_once(desk):
    desk.write(window="2h", client={"security.protocol": "SSL"}, cases={"hold": "5m"})
    assert desk.look() == needed("cases.hold", "kafka.client", "window")
    assert desk.look() == []
    desk.write(window="2h")
    assert desk.look() == needed("window")


def test_a_change_that_is_taken_back_is_told_too(desk):
    desk.write(grace="30s")
    desk.look()
    desk.write()
    assert desk.look() == [("restart_no_longer_needed", "info", {})]
    assert desk.look() == []


def test_a_secret_that_changes_in_its_file_is_no_business_of_the_settings(desk):
    desk.secret.write_text("second-to-none")
    assert desk.look() == []


def test_settings_that_a_start_would_refuse_are_told_with_line_and_remedy(desk):
    desk.write(windw="2h")
    [(event, level, said)] = desk.look()
    assert (event, level) == ("settings_reload_failed", "error")
    assert "Did you mean 'window'?" in said["problems"][0]
    assert desk.look() == []
    desk.write()
    assert desk.look() == [("restart_no_longer_needed", "info", {})]


def test_a_secret_that_is_gone_is_told_before_the_next_start_finds_out(desk):
    desk.secret.unlink()
    [(event, _, said)] = desk.look()
    assert event == "settings_reload_failed"
    assert "sasl.password_file" in said["problems"][0]
