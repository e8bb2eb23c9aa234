"""The rooms of docs/design.md, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import herd_mcp

PACKAGE = Path(herd_mcp.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)

BASE = {"jobs", "state", "settings"}
ROOMS: dict[str, set[str]] = {
    "jobs": set(),
    "state": {"jobs"},
    "settings": {"jobs", "bridge"},
    "orders": {"jobs", "state"},
    "pipe": {"jobs"},
    "bridge": set(),
    "clock": set(),
    "builtin": set(),
    "engines": {"jobs", "pipe"},
    "node": BASE | {"pipe", "orders"},
    "serving": {"jobs"},
    "fleet": BASE | {"orders", "clock", "serving"},
    "changes": {"state"},
    "catalog": {"state"},
    "explain": {"jobs"},
    "figures": {"state", "node"},
    "health": BASE | {"node"},
    "owner": BASE | {"node", "orders", "changes", "clock"},
    "answers": BASE | {"owner", "orders"},
    "mesh": BASE | {"node", "fleet", "owner", "orders", "changes", "answers"},
    "herd": BASE
    | {"node", "fleet", "mesh", "answers", "orders", "clock", "owner", "changes", "health", "catalog", "figures"},
    "surfaces": BASE | {"herd", "clock", "explain"},
    "cli": BASE | {"explain", "node", "fleet", "herd", "surfaces", "bridge", "serving"},
    "__main__": {"cli", "bridge"},
}
"""Every room with the other rooms it may import. What is not here is refused."""

HEAVY = {"mlx", "mlx_lm", "mflux", "transformers", "tokenizers", "torch"}


def room_of(path: Path) -> str:
    """`node` for herd_mcp/node/queue.py, `jobs` for herd_mcp/jobs.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str, package: str) -> set[str]:
    """Full names of all that `source`, a module of `package`, imports anywhere, also inside functions."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            base = ".".join([*parents, *([statement.module] if statement.module else [])])
            names.update({base} | {f"{base}.{alias.name}" for alias in statement.names})
    return names


def rooms_in(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("herd_mcp.")}


def imports(path: Path) -> set[str]:
    return imports_of(path.read_text(), ".".join(["herd_mcp", *path.relative_to(PACKAGE).parts[:-1]]))


def test_imports_are_seen_in_every_form() -> None:
    source = """
import mlx.core as mx, json
from herd_mcp import jobs
from herd_mcp.node.memory import Ledger
def later():
    from . import app
    from ..fleet import placement
"""
    names = imports_of(source, "herd_mcp.surfaces")
    assert rooms_in(names) == {"jobs", "node", "surfaces", "fleet"}
    assert {"mlx.core", "json", "herd_mcp.fleet.placement", "herd_mcp.surfaces.app"} <= names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_rooms_below_its_own(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert path.read_text() == "", "herd_mcp/__init__.py stays empty: the stdio bridge imports it first"
        return
    assert room in ROOMS, f"{path} is in a room that docs/design.md does not know"
    strangers = rooms_in(imports(path)) - ROOMS[room] - {room}
    assert not strangers, f"{path.relative_to(PACKAGE)} imports {sorted(strangers)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_engines_import_the_machine_learning_libraries(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
    assert not heavy or room_of(path) == "engines", f"{path.relative_to(PACKAGE)} imports {sorted(heavy)}"


def test_the_bridge_imports_the_standard_library_only() -> None:
    foreign = {name.split(".")[0] for name in imports(PACKAGE / "bridge.py")} - sys.stdlib_module_names
    assert not foreign


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    script = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_node_process_holds_no_machine_learning_library() -> None:
    loaded = modules_after("import herd_mcp.herd, herd_mcp.surfaces.app, herd_mcp.surfaces.mcp.socket, herd_mcp.cli.up")
    assert "uvicorn" in loaded
    assert not loaded & HEAVY


def test_the_way_to_the_bridge_loads_nothing_but_the_standard_library() -> None:
    bare = modules_after("pass")
    loaded = modules_after("import herd_mcp.__main__, herd_mcp.bridge") - bare
    assert loaded - sys.stdlib_module_names <= {"herd_mcp"}
