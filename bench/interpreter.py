"""Whose Python it is: the time under the interpreter's lock, by the function that ran (``py-spy``).

perf sees libraries, and the interpreter is one: which code it runs only a profiler of Python tells. What a
function calls that is not Python (protobuf, RocksDB, gRPC's writes and the system calls in them) is that
function's, as long as it holds the lock.
"""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INSTALL = "py-spy is missing, the division of Python is left out: scripts/setup.sh bench"
COLUMNS = ("our code", "grpc.aio", "asyncio", "metrics", "other")
_OURS = ("overdb/", "overdb_node/", "overdb_router/", "overdb_common/")
_OWNERS = {"grpc/": "grpc.aio", "asyncio/": "asyncio", "prometheus_client/": "metrics"}
_SAMPLES_A_SECOND = 200
_FUNCTIONS_SHOWN = 4


@dataclass(frozen=True)
class Division:
    """Of one process's samples: shares by owner, which add up to 1, and of the largest functions of ours."""

    shares: Mapping[str, float]
    functions: Mapping[str, float]


def program() -> str | None:
    """Where py-spy is: beside this interpreter, or on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def record(pid: int, output: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Begin to sample a process; it ends by itself."""
    command = [program() or "py-spy", "record", "--gil", "--nonblocking", "--function"]
    command += ["--format", "raw", "--rate", str(_SAMPLES_A_SECOND), "--duration"]
    command += [str(max(1, round(seconds))), "--output", str(output), "--pid", str(pid)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def owner_of(file: str) -> str:
    """The column that a function counts for, by its file."""
    if file.startswith(_OURS):
        return "our code"
    return next((owner for start, owner in _OWNERS.items() if file.startswith(start)), "other")


def division(raw: str) -> Division | None:
    """Read py-spy's lines ``frame;frame;function (file) count``; None of no samples."""
    owners: collections.Counter[str] = collections.Counter()
    functions: collections.Counter[str] = collections.Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not count.isdigit():
            continue
        name, _, place = stack.rpartition(";")[2].partition(" (")
        file = place.rstrip(")").partition(":")[0]
        owner = owner_of(file)
        owners[owner] += int(count)
        if owner == "our code":
            functions[name] += int(count)
    total = owners.total()
    if not total:
        return None
    largest = functions.most_common(_FUNCTIONS_SHOWN)
    return Division(
        {column: owners[column] / total for column in COLUMNS},
        {name: number / total for name, number in largest},
    )


def table(divisions: Mapping[str, Division]) -> list[str]:
    """Table lines, a line for each hop: per cent of its time under the lock."""
    lines = [
        "| of the time under the interpreter's lock, % | "
        + " | ".join(COLUMNS)
        + " | most of ours |",
        "|" + "---|" * (len(COLUMNS) + 2),
    ]
    for hop, divided in divisions.items():
        cells = [f"{100 * divided.shares[column]:.0f}" for column in COLUMNS]
        named = (f"`{name}` {100 * share:.0f}" for name, share in divided.functions.items())
        lines.append(f"| {hop} | {' | '.join(cells)} | {', '.join(named)} |")
    return lines
