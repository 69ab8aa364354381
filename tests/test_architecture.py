"""The promises that hold between the parts: who may import whom, and what the core can't touch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "monitor"

# The core reads left to right: a module imports only what stands before it.
CORE_ORDER: Final = (
    "events",
    "values",
    "twiml",
    "envelope",
    "readers",
    "decode",
    "emptying",
    "parted",
    "compiled",
    "compact",
    "compacted",
    "frozen",
    "nailed",
    "shortener",
    "shortening",
    "packing",
    "conversation",
    "births",
    "guests",
    "window",
    "native",
    "fast_path",
    "snapshot",
    "account_settings",
    "evidence",
    "attribution",
    "verdict",
    "ledger",
    "ledger_snapshot",
    "policy",
    "judging",
    "sweep",
    "pipeline",
    "rejudging",
)

# What the core may take from outside: types and pure functions over values. None: all of the module. No clock,
# randomness, environment, files, logging, threads or network can come in by an import that is not named here.
PURE: Final[dict[str, frozenset[str] | None]] = {
    "__future__": None,
    "abc": None,
    "base64": None,
    "binascii": None,
    "bisect": None,
    "calendar": frozenset({"timegm"}),
    "collections": None,
    "collections.abc": None,
    "dataclasses": None,
    "datetime": None,  # Its clock is looked for below.
    "email.utils": frozenset({"parsedate_to_datetime", "parsedate_tz", "mktime_tz"}),
    "enum": None,
    "fnmatch": frozenset({"fnmatchcase", "translate"}),
    "functools": None,
    "hashlib": None,
    "heapq": None,
    "itertools": None,
    "json": frozenset({"dumps", "loads", "JSONDecodeError"}),
    "math": None,
    "msgspec": None,
    "operator": None,
    "re": None,
    "string": None,
    "struct": None,
    "types": None,
    "typing": None,
    "urllib.parse": None,
    "weakref": frozenset({"proxy"}),  # Of these, what anything tells does not depend on when something goes.
    "zlib": None,
}
PURE_IN_ONE: Final[dict[str, dict[str, frozenset[str] | None]]] = {
    "twiml": {"xml.parsers": frozenset({"expat"}), "xml.parsers.expat": None},  # Hardened there, and only there.
    "compiled": {"importlib.resources": frozenset({"files"})},  # The core's own sources, as they are imported.
}
# Built-in functions that reach the world, or code that nobody can read beforehand.
IMPURE_CALLS: Final = frozenset({"open", "print", "input", "exec", "eval", "compile", "breakpoint", "__import__"})
CLOCKS: Final = frozenset({"now", "utcnow", "today"})

# Who may import whom among the packages; `.` stands for the modules directly in the package, which all may use.
MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "core": frozenset({"core"}),
    ".": frozenset({".", "core"}),
    "audit": frozenset({"audit", "core", "."}),
    "proof": frozenset({"proof", "audit", "core", "."}),
    "twilio": frozenset({"twilio", "core", "."}),
    "inputs": frozenset({"inputs", "audit", "twilio", "core", "."}),
    "outputs": frozenset({"outputs", "core", "."}),
    "web": frozenset({"web", "outputs", "core", "."}),
    "simulator": frozenset({"simulator", "."}),
    "commands": frozenset(
        {"commands", "audit", "proof", "inputs", "outputs", "web", "simulator", "twilio", "core", "."}
    ),
    "cli": frozenset({"commands", "."}),
}


class Import(NamedTuple):
    """One imported module, and the name taken from it (None: the module itself)."""

    module: str
    name: str | None
    line: int


def imports_of(path: Path) -> Iterator[Import]:
    """Yield every import of a file, those inside functions too; ``from monitor.core import x`` as monitor.core.x."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it leads"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                if is_module(whole):
                    yield Import(whole, None, node.lineno)
                else:
                    yield Import(module, alias.name, node.lineno)


def is_module(dotted: str) -> bool:
    """Whether a dotted name is a module or package of ours."""
    path = ROOT.joinpath(*dotted.split("."))
    sources = (path.with_suffix(".py"), path.with_suffix(".pyx"), path / "__init__.py")
    return dotted.startswith("monitor") and any(source.exists() for source in sources)


def part_of(dotted: str) -> str:
    """Name the part of the monitor a module belongs to: its package, ``cli``, or ``.``."""
    names = dotted.split(".")[1:]
    if not names:
        return "."
    if names[0] == "cli":
        return "cli"
    return names[0] if (PACKAGE / names[0]).is_dir() else "."


def dotted_name(path: Path) -> str:
    """Return the name under which a file of the package is imported."""
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES: Final = sorted(PACKAGE.rglob("*.py"))
CORE: Final = sorted(path for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_the_parts_it_may_know(path):
    here = part_of(dotted_name(path))
    strangers = [
        f"{path.relative_to(ROOT)}:{found.line}: {here} imports {found.module}"
        for found in imports_of(path)
        if found.module.split(".")[0] == "monitor" and part_of(found.module) not in MAY_IMPORT[here]
    ]

    assert strangers == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_one_part_speaks_to_twilio(path):
    # Its package beside that checks signatures and speaks to nobody.
    if path.is_relative_to(PACKAGE / "twilio") or path == PACKAGE / "inputs" / "signature.py":
        return
    assert [found for found in imports_of(path) if found.module.split(".")[0] == "twilio"] == []


def test_the_core_holds_no_module_without_a_place_in_the_order():
    # Nothing lies deeper either: a package inside the core would escape the order.
    assert sorted(path for path in (PACKAGE / "core").rglob("*.py") if path.stem != "__init__") == CORE
    assert [path.stem for path in CORE if path.stem not in CORE_ORDER] == []


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_a_core_module_imports_only_what_stands_to_its_left(path):
    before = CORE_ORDER[: CORE_ORDER.index(path.stem)]
    to_the_right = [
        f"{path.relative_to(ROOT)}:{found.line}: {path.stem} imports {found.module}"
        for found in imports_of(path)
        if found.module.startswith("monitor") and found.module.removeprefix("monitor.core.") not in before
    ]

    assert to_the_right == []


def test_the_compiled_module_imports_what_a_module_in_its_place_may():
    before = CORE_ORDER[: CORE_ORDER.index("native")]
    sources = [*(PACKAGE / "core").glob("*.pyx"), *(PACKAGE / "core").glob("*.pxi")]
    text = "".join([path.read_text() for path in sources])
    imported = re.findall(r"^(?:from|import|cimport) ([\w.]+)", text, re.MULTILINE)

    ours = {name.removeprefix("monitor.core.") for name in imported if name.startswith("monitor")}
    assert ours
    assert ours <= set(before)
    assert {name for name in imported if not name.startswith("monitor")} <= {
        *("msgspec", "types", "typing", "cython", "cpython.bytes", "cpython.object", "cpython.ref"),
        *("libc.stdint", "libc.stdlib", "libc.string"),
    }


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_a_core_module_imports_nothing_that_could_touch_the_world(path):
    allowed = PURE | PURE_IN_ONE.get(path.stem, {})
    impure = [
        f"{path.relative_to(ROOT)}:{found.line}: {found.module}{'.' + found.name if found.name else ''}"
        for found in imports_of(path)
        if not found.module.startswith("monitor") and not is_pure(found, allowed)
    ]

    assert impure == []


def is_pure(found: Import, allowed: dict[str, frozenset[str] | None]) -> bool:
    if found.module not in allowed:
        return False
    names = allowed[found.module]
    return names is None or found.name in names


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_a_core_module_reads_no_clock_and_calls_nothing_that_reaches_the_world(path):
    reached = []
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            reached.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.func.id}()")
        # The name is enough, called or not: `clock = datetime.now` would read it later.
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and ast.unparse(node.value) in DATE_TYPES:
            reached.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")

    assert reached == []


DATE_TYPES: Final = frozenset({"datetime", "date", "datetime.datetime", "datetime.date"})


def modules_after_importing(part: str) -> set[str]:
    """Import every module of a part in a process of its own, and return all that was loaded with it."""
    names = [dotted_name(path) for path in sorted((PACKAGE / part).rglob("*.py"))]
    script = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def foreign_packages(loaded: set[str]) -> set[str]:
    return {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"__main__"}


def test_the_core_loads_nothing_from_outside_but_msgspec():
    loaded = modules_after_importing("core")
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, msgspec; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()

    # What an interpreter with msgspec loads anyway (site-packages may bring hooks) is not the core's doing.
    # Compiled code brings a module of its own that holds its names.
    foreign = {name for name in foreign_packages(loaded) if not name.startswith(("cython_runtime", "_cython_"))}
    assert foreign - foreign_packages(set(bare)) == {"monitor"}
    assert {name for name in loaded if name.startswith("monitor.") and not name.startswith("monitor.core")} == set()


@pytest.mark.parametrize(
    ("part", "never"),
    [("simulator", "monitor.core"), ("inputs", "monitor.outputs"), ("outputs", "monitor.inputs")],
)
def test_a_part_does_not_reach_what_it_must_not_know_through_others(part, never):
    reached = {name for name in modules_after_importing(part) if name == never or name.startswith(f"{never}.")}

    assert reached == set()


# Which index packages come from, and where this checkout lies, is the machine's business.
NOT_OURS: Final = re.compile(
    r"--(?:extra-)?index-url|--find[-]links|--trusted[-]host|" + re.escape(str(ROOT)) + r"(?![\w-])"
)


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing tells which files are tracked")
    # The checkout may belong to another user than the one who runs the tests.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_the_lock_names_packages_and_hashes_and_no_address():
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_no_tracked_file_names_an_index_or_the_place_where_it_lies():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {hit[0]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (hit := NOT_OURS.search(line))
    ]

    assert found == []


def test_tests_replace_nothing_of_ours():
    replaced = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        replaced += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {node.arg}"
            for node in ast.walk(ast.parse(path.read_bytes(), str(path)))
            if isinstance(node, ast.arg) and node.arg in {"monkeypatch", "mocker"}
        ]
        replaced += [
            f"{path.relative_to(ROOT)}:{found.line}: {found.module}"
            for found in imports_of(path)
            if found.module in {"mock", "unittest.mock"} or (found.module, found.name) == ("unittest", "mock")
        ]

    assert replaced == []


LOCKED: Final = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def test_the_lock_pins_every_requirement_of_the_project_by_hash():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["build-system"]["requires"],
    ]
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-").replace(".", "-") for line in wanted}
    locked = {match[1] for match in LOCKED.finditer((ROOT / "requirements.lock").read_text())}

    assert names - locked == set(), "run `make lock`"


def test_the_lock_holds_nothing_without_a_hash():
    lock = (ROOT / "requirements.lock").read_text()
    rest = LOCKED.sub("", lock)

    assert [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
