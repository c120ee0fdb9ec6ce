"""The rules that hold the tree together: who imports whom, what stays pure, how long a module may grow."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400  # A ratchet: it may come down, it never goes up.

# Where each part stands. A module imports from parts below its own and from its own part, never upwards.
RANKS = {
    "exo_dl.errors": 0,
    "exo_dl.rpc": 0,
    "exo_dl.core": 1,
    "exo_dl.locations": 1,
    "exo_dl.formats": 2,
    "exo_dl.hubs": 2,
    "exo_dl.store": 2,
    "exo_dl.net": 2,
    "exo_dl.sim": 2,
    "exo_dl.secretfile": 3,
    "exo_dl.types": 3,
    "exo_dl.connection": 4,
    "exo_dl.access": 4,
    "exo_dl.client": 4,
    "exo_dl": 5,
    "exo_dl.cli": 6,
    "exo_dld": 6,
}

# What the pure core may use of the standard library: nothing here has a clock, a file, a socket or a thread.
PURE = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "fnmatch", "fractions", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "struct", "types",
    "typing", "unicodedata",
}  # fmt: skip

PUBLIC = {
    "exo_dl": {
        "Client",
        "ClusterLimits",
        "Departure",
        "ExoDlError",
        "FileCheck",
        "LoopLag",
        "Model",
        "NodeLease",
        "NodeLimits",
        "NodeMetrics",
        "NodePlan",
        "NodePull",
        "NodeState",
        "Peer",
        "PeerState",
        "Placement",
        "Pull",
        "PullPlan",
        "PullState",
        "StartedPull",
        "__version__",
    },
    "exo_dl.errors": {
        "AccessError",
        "AlreadyRunningError",
        "CancelledPullError",
        "DaemonUnavailableError",
        "ExoDlError",
        "FormatError",
        "HubBusyError",
        "HubError",
        "IntegrityError",
        "NoRoomError",
        "NotFoundError",
        "PlacementError",
        "ProtocolError",
        "PullFailedError",
        "StorageError",
        "UnknownStructureError",
        "UsageError",
        "error_for_status",
    },
}


@cache
def modules() -> dict[str, Path]:
    """Every hand-written module that the wheel ships, by its name."""
    found: dict[str, Path] = {}
    for base, top in ((ROOT, "exo_dl"), (ROOT / "daemon", "exo_dld")):
        for path in sorted((base / top).rglob("*.py")):
            if "_pb2" not in path.name:
                parts = path.relative_to(base).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[str]:
    """All that a module imports, wherever it does so: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules() or "_pb2" in alias.name else base


def ours(name: str) -> Iterator[str]:
    return (used for used in imports(name) if used.split(".")[0] in ("exo_dl", "exo_dld"))


def part(name: str) -> str:
    """The part that a module belongs to. `exo_dl` itself is the facade on top of the library and holds no others."""
    found = name
    while found not in RANKS:
        found = found.rpartition(".")[0]
        assert found, f"{name} belongs to no part: give it a place in RANKS"
    assert found != "exo_dl" or name == "exo_dl", f"{name} belongs to no part: give it a place in RANKS"
    return found


@pytest.mark.parametrize("name", modules())
def test_imports_run_one_way(name: str) -> None:
    mine = part(name)
    for used in ours(name):
        other = part(used)
        assert other == mine or RANKS[other] <= RANKS[mine], f"{name} imports {used} from above"
        assert {mine, other} != {"exo_dl.cli", "exo_dld"}, f"{name} imports {used}: they meet over the socket alone"
        assert mine not in ("exo_dl.errors", "exo_dl.core") or other in ("exo_dl.errors", "exo_dl.core")


def test_no_module_takes_part_in_an_import_circle() -> None:
    graph = {name: {used for used in ours(name) if used in modules()} - {name} for name in modules()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("exo_dl.core.")])
def test_core_is_pure(name: str) -> None:
    for used in imports(name):
        top = used.split(".")[0]
        assert top == "exo_dl" or top in PURE, f"{name} imports {used}: core has no clock, files, sockets or threads"
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "exec", "eval"), f"{name} calls {node.func.id}()"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{name} uses random.{node.attr}: randomness comes in as a random.Random"
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            assert {alias.name for alias in node.names} == {"Random"}


def test_no_module_grows_too_long() -> None:
    long = {}
    for folder in ("exo_dl", "daemon", "tests", "bench", "proto"):
        for path in (ROOT / folder).rglob("*.py"):
            with path.open(encoding="utf-8") as lines:
                count = sum(1 for _ in lines)
            if "_pb2" not in path.name and count > MAX_LINES:
                long[str(path.relative_to(ROOT))] = count
    assert not long, f"split these, none may pass {MAX_LINES} lines: {long}"


@pytest.mark.parametrize("name", [name for name, path in modules().items() if path.stat().st_size])
def test_every_module_says_what_it_is_and_what_it_offers(name: str) -> None:
    assert ast.get_docstring(tree(name)), f"{name} has no docstring"
    for node in tree(name).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            names = ast.literal_eval(node.value)
            assert len(names) == len(set(names)), f"{name}.__all__ names something twice"
            return
    pytest.fail(f"{name} has no __all__")


@pytest.mark.parametrize("name", modules())
def test_every_module_imports_cold(name: str) -> None:
    """Alone, in a fresh interpreter, with warnings as errors, and everything in its ``__all__`` exists."""
    script = (
        "import sys, importlib; m = importlib.import_module(sys.argv[1]); "
        "missing = [n for n in getattr(m, '__all__', ()) if not hasattr(m, n)]; "
        "sys.exit(f'missing: {missing}' if missing else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "daemon")))}
    command = [sys.executable, "-W", "error", "-c", script, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_these(name: str) -> None:
    assert set(importlib.import_module(name).__all__) == PUBLIC[name]


def test_the_folder_daemon_is_no_package() -> None:
    # The name `daemon` belongs to another distribution; the wheel ships daemon/exo_dld as `exo_dld`.
    assert not (ROOT / "daemon" / "__init__.py").exists()


_RUNS_DATA = {"eval", "exec", "compile", "__import__"}
_UNSAFE_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "jsonpickle", "yaml"}


@pytest.mark.parametrize("name", modules())
def test_no_data_becomes_code(name: str) -> None:
    """No eval, no pickle, no shell: also where a comment would tell the linter to look away."""
    assert not {used.split(".")[0] for used in imports(name)} & _UNSAFE_MODULES
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in _RUNS_DATA), f"{name}:{node.lineno}"
            assert not (isinstance(node.func, ast.Attribute) and node.func.attr in ("system", "popen")), (
                f"{name}:{node.lineno}"
            )
            for word in node.keywords:
                harmless = isinstance(word.value, ast.Constant) and word.value.value is False
                assert word.arg != "shell" or harmless, f"{name}:{node.lineno}"
