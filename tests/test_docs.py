"""The documentation is true where a machine can tell: links lead somewhere, commands are understood, examples hold."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import yaml

from docs.__main__ import MEANS, PAGE, keys, render
from monitor.cli import COMMANDS, GROUPS
from monitor.inputs.policy_file import load_policy
from monitor.settings import Settings, _all_keys, _is_section, _keys, load_settings
from tests.test_prometheus_rules import ALERTS
from tests.test_runbooks import parse

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page that say they are in this language, without the indentation of a list."""
    return [
        re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
        for indent, said, body in FENCED.findall(text_of(page))
        if said == language
    ]


# ---- links ----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    prose = re.sub(r"`[^`\n]*`", "", FENCED.sub("", text_of(page)))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        if not leads_to.exists() or (anchor and anchor not in anchors(leads_to)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_a_link_to_nowhere_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One thing\n[a](#one-thing) [b](#another) [c](nothing.md) [d](https://example.com)\n")
    assert broken_links(page) == ["#another", "nothing.md"]


def test_every_page_of_the_documentation_is_listed():
    index = ROOT / "docs" / "README.md"
    listed = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text_of(index))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {index.name} <= listed


def test_every_alert_that_wakes_somebody_stands_in_the_page_about_alerts():
    text = text_of(ROOT / "docs" / "alerts.md")
    woken = {name for name, rule in ALERTS.items() if rule["labels"]["severity"] == "critical"}
    assert {name for name in woken if f"runbooks/{name}.md" not in text} == set()


# ---- commands -------------------------------------------------------------------------------------------------------


def typed(page: Path) -> list[str]:
    """The lines of a page's blocks, comments cut off."""
    lines = [line.partition(" #")[0].strip() for block in blocks(page) for line in block.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines]


def named(page: Path) -> list[str]:
    """What is named in a line of prose."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text_of(page)))]


def ours(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"recording-monitor [a-z]", line)]


TYPED = sorted({line for page in PAGES for line in ours(typed(page))})
# With something left out, or a word to be replaced, it is a name and nothing to type as it stands.
NAMED = sorted({line for page in PAGES for line in ours(named(page))})
WHOLE = [line for line in NAMED if not re.search(r"[|\[]|(?<![A-Z]{2})…|\b[A-Z]+\b(?!…)", line) and " --" in line]
TASKS = sorted({task for page in PAGES for line in typed(page) for task in re.findall(r"^make ([a-z-]+)", line)})


@pytest.mark.parametrize("command", sorted({*TYPED, *WHOLE}))
def test_a_command_of_ours_is_understood(command, tmp_path):
    with contextlib.chdir(tmp_path):
        parse(command, tmp_path)


@pytest.mark.parametrize("command", sorted(set(NAMED) - set(WHOLE)))
def test_a_command_that_is_named_is_there(command):
    words = command.split()[1:]
    known = {*COMMANDS, *(f"{group} {inner}" for group, (_, inners) in GROUPS.items() for inner in inners), *GROUPS}
    assert {words[0], " ".join(words[:2])} & known


@pytest.mark.parametrize("task", TASKS)
def test_a_task_of_make_is_one(task):
    assert re.search(rf"^{task}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_files_that_commands_name_are_there():
    files = {word for page in PAGES for line in typed(page) for word in re.findall(r"(?<!\S)deploy/[\w./-]+", line)}
    assert [file for file in sorted(files) if not (ROOT / file).exists()] == []


# ---- examples -------------------------------------------------------------------------------------------------------

EXAMPLES = [
    pytest.param(block, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "yaml"))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_settings_or_policy_holds(example, tmp_path):
    given = yaml.safe_load(example)
    path = tmp_path / "example.yaml"
    path.write_text(example)
    if "rules" in given:
        assert load_policy(path).warnings == ()
    else:
        assert set(given) <= set(_keys(Settings))
        load_settings(path, {"RECORDING_MONITOR_WEB__LISTEN": ":9464"}, secrets=False)


# ---- the reference --------------------------------------------------------------------------------------------------


def test_the_reference_is_the_one_the_types_make():
    assert text_of(PAGE) == render(), "run `make docs`, and review the difference"


def test_every_key_has_its_sentence_and_no_sentence_is_left_over():
    sections = {name for name, kind in _keys(Settings).items() if _is_section(kind)}
    assert {key.path for key in keys()} == set(MEANS)
    assert set(_all_keys()) - set(MEANS) == sections
