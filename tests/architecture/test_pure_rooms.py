"""Pure rooms import no clock, randomness, files, network or protobuf, not even through others (DESIGN 1)."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {
    "overdb": ROOT / "services/client",
    "overdb_common": ROOT / "services/common",
    "overdb_node": ROOT / "services/raft_node",
    "overdb_router": ROOT / "services/router",
    "overdb_simulation": ROOT / "services/simulation",
    "overdb_torture": ROOT / "services/torture",
}
PURE_ROOMS = [
    "overdb_node.raft",
    "overdb_node.machine",
    "overdb_router.txn",
    "overdb_torture.checkers",
]

FORBIDDEN = frozenset(
    [
        "time",
        "datetime",
        "random",
        "secrets",
        "uuid",
        "os",
        "io",
        "pathlib",
        "tempfile",
        "shutil",
        "socket",
        "ssl",
        "select",
        "selectors",
        "grpc",
        "grpc_status",
        "threading",
        "multiprocessing",
        "concurrent",
        "subprocess",
        "signal",
        "asyncio",
        "queue",
        "uvloop",
        "google",
        "overdb.v1",
        "overdb.internal",
        "pickle",
        "google_crc32c",
        "rocksdict",
        "structlog",
        "logging",
        "prometheus_client",
        "pydantic",
        "pydantic_settings",
    ]
)
# A pure room may be *given* a source of randomness, so it may name its type.
ALLOWED_NAMES = {("random", "Random")}


def violations(room: str, services: dict[str, Path]) -> list[str]:
    """Every forbidden import of a room or of what it imports of ours: "chain of modules -> import"."""
    found: list[str] = []
    waiting = [(name, name) for name in _modules_in(room, services)]
    seen = {name for name, _ in waiting}
    while waiting:
        name, chain = waiting.pop()
        for imported, allowed in _imports(name, services):
            if _is_forbidden(imported) and not allowed:
                found.append(f"{chain} -> {imported}")
            elif imported not in seen and _file_of(imported, services) is not None:
                seen.add(imported)
                waiting.append((imported, f"{chain} -> {imported}"))
    return sorted(found)


def _is_forbidden(name: str) -> bool:
    return any(name == banned or name.startswith(banned + ".") for banned in FORBIDDEN)


def _modules_in(room: str, services: dict[str, Path]) -> list[str]:
    top = services[room.partition(".")[0]]
    folder = top / room.replace(".", "/")
    files = sorted(folder.rglob("*.py"))
    assert files, f"there is no room {room} in {folder}"
    return [".".join(f.relative_to(top).with_suffix("").parts) for f in files]


def _file_of(name: str, services: dict[str, Path]) -> Path | None:
    """The file of a module of ours; None for others' and for a name within a module."""
    top = services.get(name.partition(".")[0])
    if top is None:
        return None
    path = top / name.replace(".", "/")
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All of a module but the blocks that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from (other, *_run_nodes(other))
        else:
            yield child
            yield from _run_nodes(child)


def _imports(name: str, services: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """What a module imports, its packages' __init__ included, and whether that is allowed by name."""
    parent = name.rpartition(".")[0]
    if parent:
        yield parent, False
    file = _file_of(name, services)
    assert file is not None, name
    package = name if file.name == "__init__.py" else parent
    for node in _run_nodes(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield base, all((base, alias.name) in ALLOWED_NAMES for alias in node.names)
            for alias in node.names:
                yield f"{base}.{alias.name}", (base, alias.name) in ALLOWED_NAMES
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "__import__"
        ):
            yield "importlib", False


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_imports_nothing_impure(room: str) -> None:
    assert violations(room, SERVICES) == []


TYPES_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import io"

# --- it can fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import time", "time"),
        ("import os.path", "os.path"),
        ("from datetime import datetime", "datetime"),
        ("from random import Random, randint", "random"),
        ("import random", "random"),
        ("def f() -> None:\n    import asyncio", "asyncio"),
        ("from google.protobuf import message", "google.protobuf"),
        ("from overdb.v1 import kv_pb2", "overdb.v1"),
        ("from overdb.internal.v1 import log_pb2", "overdb.internal.v1"),
        ("from overdb_node import disk", "overdb_node.disk -> io"),
        ("from overdb_node.disk import write", "overdb_node.disk -> io"),
        ("from ..disk import write", "overdb_node.disk -> io"),
        ("from .. import disk", "overdb_node.disk -> io"),
        ("if TYPE_CHECKING:\n    import math\nelse:\n    import io", "io"),
    ],
)
def test_an_impure_import_is_caught(tmp_path: Path, source: str, caught: str) -> None:
    room = tmp_path / "overdb_node" / "room"
    room.mkdir(parents=True)
    (tmp_path / "overdb_node" / "__init__.py").touch()
    (tmp_path / "overdb_node" / "disk.py").write_text("import io\n\n\ndef write() -> None: ...\n")
    (room / "__init__.py").touch()
    (room / "rules.py").write_text(source + "\n")
    found = violations("overdb_node.room", {"overdb_node": tmp_path})
    assert any(chain.endswith("-> " + caught) or f"-> {caught}" in chain for chain in found), found


@pytest.mark.parametrize(
    "source", ["from random import Random", "import math", "from . import rules", TYPES_ONLY]
)
def test_a_pure_import_is_not(tmp_path: Path, source: str) -> None:
    room = tmp_path / "overdb_node" / "room"
    room.mkdir(parents=True)
    for name in ("overdb_node/__init__.py", "overdb_node/room/__init__.py"):
        (tmp_path / name).touch()
    (room / "rules.py").write_text(source + "\n")
    assert violations("overdb_node.room", {"overdb_node": tmp_path}) == []
