"""The command line as a shell sees it: output, errors, exit codes."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from monitor import __version__
from monitor.cli import COMMANDS, GROUPS, run
from monitor.commands.failure import tell
from monitor.errors import OutOfReach, OutputUnavailable
from monitor.inputs.policy_file import PolicyError
from monitor.settings import Problem, SettingsError
from monitor.yaml_lines import YamlError

ROOT = Path(__file__).parent.parent
PLAIN = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", "PYTHONWARNINGS": "error"}


@pytest.fixture
def shell(tmp_path):
    """Run the program in an empty directory."""

    def shell_(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in PLAIN.items() if not name.startswith("RECORDING_MONITOR_")}
        return subprocess.run(
            [sys.executable, "-c", "from monitor.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return shell_


def test_the_version_is_that_of_the_package(shell):
    done = shell("--version")

    assert (done.returncode, done.stdout) == (0, f"recording-monitor {__version__}\n")


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"] == {"path": "monitor/__init__.py"}
    # Manifests name an image, which nobody can compute: `tests/test_kubernetes.py` holds them to it.
    code = [path for path in (ROOT / "monitor").rglob("*.py") if f'"{__version__}"' in path.read_text()]
    assert code == [ROOT / "monitor" / "__init__.py"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_in_the_order_of_the_table(shell, flag):
    done = shell(flag)

    assert done.returncode == 0
    listed = [words[1] for line in done.stdout.splitlines() if len(words := line.split()) > 2]
    commands = [word for word in listed if word in {*COMMANDS, *GROUPS}]
    assert commands == [*COMMANDS, *GROUPS]


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_group_lists_its_commands(shell, group):
    done = shell(group, "--help")

    assert done.returncode == 0
    for name in GROUPS[group][1]:
        assert f" {name} " in done.stdout


def test_help_does_not_wait_for_kafka_or_the_web_server():
    heavy = {"confluent_kafka", "aiohttp", "prometheus_client", "yaml", "twilio", "structlog"}
    program = (
        "import sys\nfrom monitor.cli import run\nassert run(['--help']) == 0\n"
        f"imported = {heavy} & set(sys.modules)\nsys.exit(f'imported: {{imported}}' if imported else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=PLAIN, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("group", "name"),
    [(None, name) for name in COMMANDS] + [(group, name) for group in GROUPS for name in GROUPS[group][1]],
)
def test_every_command_listed_has_its_function(group, name):
    found = importlib.util.find_spec(f"monitor.commands.{group or name}")
    assert found is not None, "no such module"
    assert found.origin is not None
    functions = {
        node.name for node in ast.parse(Path(found.origin).read_text()).body if isinstance(node, ast.FunctionDef)
    }

    assert functions & {name, f"{name}_"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["polcy"], "Did you mean 'policy'?"),
        (["config", "prnt"], "Did you mean 'print'?"),
        (["config", "print", "--confg", "x"], "--config"),
        (["config", "print", "superfluous"], "unexpected extra argument"),
        (["config", "print", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file"),
    ],
)
def test_wrong_usage_is_said_on_stderr_with_exit_code_2(shell, arguments, said):
    done = shell(*arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_config_print_prints_every_setting_and_hides_secrets(shell, tmp_path):
    (tmp_path / "monitor.yaml").write_text("window: 90m\nkafka: {client: {sasl.password: hunter2}}\n")
    done = shell("config", "print", RECORDING_MONITOR_GRACE="30s")

    printed = yaml.safe_load(done.stdout)
    assert done.returncode == 0
    assert (printed["window"], printed["grace"]) == ("1h30m", "30s")
    assert "hunter2" not in done.stdout + done.stderr
    assert "warning: monitor.yaml:2: kafka.client.sasl.password: a secret in plain text" in done.stderr


def test_config_print_says_where_each_key_was_given(shell, tmp_path):
    (tmp_path / "monitor.yaml").write_text("log:\n  level: debug\n")
    done = shell("config", "print", "--origins", RECORDING_MONITOR_GRACE="30s")

    assert "log.level: monitor.yaml:2\n" in done.stdout
    assert "grace: RECORDING_MONITOR_GRACE\n" in done.stdout


def test_config_print_says_all_that_is_wrong_with_exit_code_2(shell, tmp_path):
    (tmp_path / "monitor.yaml").write_text("window: 4\ngrac: 1s\n")
    done = shell("config", "print")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "monitor.yaml:1: window: '4' is not a span. Did you mean '4s'?",
        "monitor.yaml:2: grac: unknown key. Did you mean 'grace'?",
    ]


def test_an_output_that_is_closed_early_is_no_error_of_ours(tmp_path):
    (tmp_path / "monitor.yaml").write_text("window: 90m\n")
    line = f"{sys.executable} -c 'from monitor.cli import main; main()' config print | head -n 1"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        env={**PLAIN, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_interrupted_is_exit_code_130(tmp_path):
    # Settings that come through a pipe nobody writes into: the command waits for them until it is interrupted.
    pipe = tmp_path / "settings"
    os.mkfifo(pipe)
    # As on a terminal: what a shell starts in the background is born deaf to this signal, and so are its children.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from monitor.cli import main; main()"
    with (
        subprocess.Popen(
            [sys.executable, "-c", program, "config", "print", "--config", str(pipe)],
            cwd=ROOT,
            env={**PLAIN, "PYTHONWARNINGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        pipe.open("wb"),  # Opens once the other end does: then the command is at work.
    ):
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)

    assert process.returncode == 130
    assert b"Traceback" not in told


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError([Problem("monitor.yaml", 3, "window", "is wrong")]), 2, "monitor.yaml:3: window: is wrong\n"),
        (PolicyError([]), 2, "\n"),
        (YamlError("p.yaml", 7, "is wrong"), 2, "p.yaml:7: is wrong\n"),
        (OutputUnavailable("no broker"), 3, "recording-monitor: no broker\n"),
        (OutOfReach("http://u:hunter2@am is away"), 3, "recording-monitor: http://[redacted]@am is away\n"),
        (FileNotFoundError(2, "No such file", "a.jsonl"), 2, "recording-monitor: a.jsonl: No such file\n"),
        (OSError(28, "No space left", "out"), 3, "recording-monitor: out: No space left\n"),
    ],
)
def test_an_error_becomes_a_line_and_an_exit_code(capsys, error, code, said):
    assert tell(error) == code
    assert capsys.readouterr() == ("", said)


def test_a_bug_is_told_as_one_and_is_no_answer(capsys):
    assert tell(ValueError("at +15550100123")) == 70
    told = capsys.readouterr().err
    assert "ValueError: at [redacted]" in told
    assert told.endswith("please report it with the lines above.\n")


def test_run_gives_the_exit_code_instead_of_leaving(capsys):
    assert run(["--version"]) == 0
    assert run(["nothing"]) == 2
    assert "No such command" in capsys.readouterr().err
