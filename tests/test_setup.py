"""`make setup` on machines that can't do it says what is missing, and leaves nothing that a later run would trust."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """What `setup` reads of a clean checkout."""
    if shutil.which("make") is None:
        pytest.skip("no make found")
    place = tmp_path / "checkout"
    for name in (
        *("Makefile", "pyproject.toml", "requirements.lock", "monitor/__init__.py", "deploy/native.py"),
        *(
            str(path.relative_to(ROOT))
            for pattern in ("*.pyx", "*.pxi")
            for path in ROOT.glob(f"monitor/core/{pattern}")
        ),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return place


def python_that(path: Path, script: str) -> Path:
    """Write an interpreter of a poor machine: a shell script that sees what it is asked in ``$*``."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the `make test` that may have started us.
    environment = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, capture_output=True, text=True, check=False, env=environment
    )


def test_a_machine_with_too_old_a_python_is_told_which_it_needs(checkout, tmp_path):
    old = python_that(tmp_path / "python3.9", 'case "$*" in *"sys.version_info < (3, 11)"*) exit 1;; esac')
    done = make(checkout, "setup", f"PYTHON={old}")

    assert done.returncode == 2
    assert f"no Python 3.11 or newer among: {old}." in done.stderr
    assert "ensurepip" not in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_machine_without_venv_is_told_which_package_has_it(checkout, tmp_path):
    bare = python_that(
        tmp_path / "python3", 'case "$*" in *ensurepip*) exit 1;; *"%d.%d"*) echo 3.12;; *) exit 0;; esac'
    )
    done = make(checkout, "setup", f"PYTHON={bare}")

    assert done.returncode == 2
    assert f"{bare} (Python 3.12) comes without venv and ensurepip" in done.stderr
    assert "apt-get install python3.12-venv" in done.stderr


def test_an_environment_that_was_only_half_built_is_not_taken_for_one(checkout, tmp_path):
    # It makes an environment whose pip fails, as where no index can be reached.
    failing = python_that(
        tmp_path / "python3",
        'case "$*" in *"-m venv"*) mkdir -p .venv/bin; printf "#!/bin/sh\\nexit 1\\n" > .venv/bin/python;'
        " chmod +x .venv/bin/python;; *--version*) echo Python 3.12.0;; esac",
    )
    first = make(checkout, "setup", f"PYTHON={failing}")
    again = make(checkout, "setup", f"PYTHON={failing}")

    assert "Building .venv with Python 3.12.0" in first.stdout
    assert "Building .venv with Python 3.12.0" in again.stdout
    assert first.returncode == again.returncode == 2


def test_an_environment_built_for_this_place_is_left_alone(checkout):
    built = checkout / ".venv" / "bin"
    built.mkdir(parents=True)
    python_that(built / "python", "exit 0")
    (checkout / ".venv" / "ready").write_text(str(checkout))

    assert make(checkout, "setup", "PYTHON=/nonexistent").returncode == 0


def test_an_environment_built_for_another_place_is_built_anew(checkout):
    built = checkout / ".venv" / "bin"
    built.mkdir(parents=True)
    python_that(built / "python", "exit 0")
    (checkout / ".venv" / "ready").write_text("/elsewhere")

    assert "no Python 3.11 or newer" in make(checkout, "setup", "PYTHON=/nonexistent").stderr


def test_make_alone_lists_every_task(checkout):
    listed = make(checkout).stdout

    for task in ("setup", "demo", "test", "check", "bench", "torture", "screenshots", "golden", "lock", "clean"):
        assert f"make {task} " in listed
