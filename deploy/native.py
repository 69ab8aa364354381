"""Builds the compiled modules of the core while the package is built, where that can be done.

Wanted are Cython, a C compiler and Python's headers. Without them the package is pure Python and does the same, slower;
``RECORDING_MONITOR_PURE=1`` asks for that.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CORE = Path("monitor/core")
MODULES = {  # What each is built from; the first of its files includes the others.
    "compact": ("compact.pyx", "compact.pxd"),
    "native": ("native.pyx", "scanner.pxi", "values.pxi", "compact.pxd"),
    "shortener": ("shortener.pyx",),
}


class CannotBuild(Exception):
    """Something is missing; the text says what."""


class NativeHook(BuildHookInterface):
    """Puts each compiled module beside its source; the wheel takes them along, and is of one platform then."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, or say why not."""
        del version  # An editable installation wants it in place as well.
        try:
            built = build(Path(self.root))
        except CannotBuild as missing:
            self.app.display_warning(f"Without what is compiled: {missing}")
            return
        build_data["artifacts"] += map(str, built)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def build(root: Path) -> list[Path]:
    """Compile the modules in place; their paths below ``root``. Raises CannotBuild."""
    targets = {name: CORE / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}" for name in MODULES}
    for target in targets.values():
        (root / target).unlink(missing_ok=True)
    if os.environ.get("RECORDING_MONITOR_PURE"):
        raise CannotBuild("RECORDING_MONITOR_PURE is set")
    if find_spec("Cython") is None:
        raise CannotBuild("Cython is not installed")
    with tempfile.TemporaryDirectory() as directory:
        built = [(_compiled(root, name, Path(directory)), target) for name, target in targets.items()]
        for module, target in built:  # All of them or none.
            shutil.copy(module, root / target)
    return list(targets.values())


def _compiled(root: Path, name: str, directory: Path) -> Path:
    sources = [CORE / source for source in MODULES[name]]
    c_file, module = directory / f"{name}.c", directory / f"{name}.so"
    _run(root, [sys.executable, "-m", "cython", "-3", str(sources[0]), "-o", str(c_file)])
    headers = f"-I{sysconfig.get_paths()['include']}"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    # What it was built from: beside another version of its sources it is not used.
    built_from = zlib.crc32(b"".join([(root / source).read_bytes() for source in sources]))
    options = ["-shared", "-fPIC", "-O2", "-fno-strict-overflow", "-w", f"-DBUILT_FROM={built_from}u", headers]
    _run(root, [*compiler, *options, str(c_file), "-o", str(module)])
    return module


def _run(root: Path, command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603 - our own.
    except OSError as error:
        raise CannotBuild(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise CannotBuild(f"{command[0]} failed: {done.stderr.strip()[-1000:]}")
