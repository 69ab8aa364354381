"""Every alert and every cause has a runbook of the same shape, and what a runbook says to type can be typed."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from monitor.cli import PROGRAM, _application
from monitor.core.attribution import CAUSES
from monitor.outputs.steps import STEPS
from tests.test_alertmanager_config import PUSHED
from tests.test_prometheus_rules import ALERTS

DEPLOY = Path(__file__).parent.parent / "deploy"
RUNBOOKS = DEPLOY / "runbooks"
OF_ALERTS = {name: RUNBOOKS / f"{name}.md" for name in (*ALERTS, *PUSHED)}
OF_CAUSES = {name: RUNBOOKS / "causes" / f"{name}.md" for name in CAUSES}
SHARED = {RUNBOOKS / name for name in ("README.md", "test-and-monitor.md", "sids-for-support.md")}
FILES = sorted(RUNBOOKS.rglob("*.md"))
HEADINGS = [
    "What it means",
    "Who is woken, and why",
    "The first five minutes",
    "How to find the cause",
    "How to end it",
    "How to prevent it",
    "What the monitor cannot see",
]
HEX = "0123456789abcdef" * 2
BASE = "https://runbooks.example.com/recording-monitor/"


def commands_in(text: str) -> list[str]:
    """Every command of ours that stands as code, in a block or in a line."""
    blocks = [line.strip() for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    in_lines = [
        " ".join(code.split())
        for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]
    return [command for command in blocks + in_lines if command.startswith(f"{PROGRAM} ")]


COMMANDS = sorted({command for path in FILES for command in commands_in(path.read_text(encoding="utf-8"))})


def parse(command: str, directory: Path) -> None:
    """Take a command as the command line does, up to where it would begin to work; raises where it is refused."""
    words = shlex.split(re.sub(r"\b([A-Z]{2})…", rf"\g<1>{HEX}", command))[1:]
    for word in words:
        if word.endswith((".yaml", ".jsonl")):
            (directory / word).touch()  # A file that has to be there.
    current: Any = typer.main.get_command(_application())
    context = current.make_context(PROGRAM, words[:], resilient_parsing=True)
    while hasattr(current, "resolve_command"):
        name, current, words = current.resolve_command(context, words)
        assert current is not None, f"there is no command {name}"
    current.make_context(current.name, words, parent=context)


def test_there_is_a_runbook_for_every_alert_and_every_cause_and_no_other():
    assert set(FILES) == {*OF_ALERTS.values(), *OF_CAUSES.values(), *SHARED}


@pytest.mark.parametrize("path", [*OF_ALERTS.values(), *OF_CAUSES.values()], ids=lambda path: path.stem)
def test_a_runbook_has_the_shape_that_people_know(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert all(part.strip() for part in re.split(r"^#.*$", text, flags=re.MULTILINE)[1:]), "a part is empty"


def plain(text: str) -> str:
    """Markdown without its marks, on one line."""
    return re.sub(r"[`*]", "", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", " ".join(text.split())))


@pytest.mark.parametrize("cause", OF_CAUSES)
def test_the_steps_that_the_pages_show_are_those_of_the_runbook(cause):
    parts = dict(re.findall(r"^## (.+?)\n\n(.*?)(?=^## |\Z)", OF_CAUSES[cause].read_text(), re.MULTILINE | re.DOTALL))
    first = re.findall(r"^[0-9]+\. (.*?)(?=^[0-9]+\. |\Z)", parts["The first five minutes"], re.MULTILINE | re.DOTALL)

    assert STEPS[cause] == (*map(plain, first), plain(parts["How to end it"]))


def test_every_address_of_a_runbook_leads_to_one():
    addresses = {
        address
        for path in DEPLOY.rglob("*.yml")
        for address in re.findall(r"https://runbooks\.example\.com\S*?\.md", path.read_text(encoding="utf-8"))
    }
    assert {BASE + path.name for path in OF_ALERTS.values() if path.stem in ALERTS} <= addresses
    assert [address for address in addresses if not (RUNBOOKS / address.removeprefix(BASE)).is_file()] == []


def test_every_link_between_runbooks_leads_somewhere():
    broken = [
        f"{path.name}: {target}"
        for path in FILES
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_the_list_of_runbooks_is_whole():
    text = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    listed = {RUNBOOKS / target for target in re.findall(r"\]\(([^)]+)\)", text) if target.endswith(".md")}
    assert listed == set(FILES) - {RUNBOOKS / "README.md"}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_runbook_says_to_type_is_understood(command, tmp_path):
    with contextlib.chdir(tmp_path):
        parse(command, tmp_path)


@pytest.mark.parametrize(
    "wrong", ["mend RE…", "policy mend RE…", "export --sdi RE…", "replay --format xml", "topics check RE…"]
)
def test_what_is_not_understood_is_noticed(wrong, tmp_path):
    refused = pytest.raises(Exception, match=r"(?i)no such|there is no|not one of|unexpected")
    with contextlib.chdir(tmp_path), refused:
        parse(f"{PROGRAM} {wrong}", tmp_path)
