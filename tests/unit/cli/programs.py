"""Runs ``overdb`` in processes that are forked from one that has imported it: a start takes 50 ms, not 400.

Each run is a process of its own all the same, with its own arguments, environment, standard streams and exit
code. Tests of what is imported, of signals and of pipes start an interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

from overdb.cli import main

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as ``main`` does, before gRPC is imported

_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        __name__,
        "overdb.cli.app",
        "overdb.cli.cluster_commands",
        "overdb.cli.commands",
        "overdb.cli.shell",
        "overdb.cli.txn_commands",
        "overdb.client",
        "overdb.status",
        "overdb.sync",
        "rich.console",
        "rich.table",
        "typer.rich_utils",
    ]
)


def run_program(
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str],
    given: bytes = b"",
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program with ``given`` as its standard input, and return its output and exit code."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stdin, stdout, stderr = (directory / name for name in ("in", "out", "err"))
        stdin.write_bytes(given)
        stdout.touch()
        stderr.touch()
        code = run_on((stdin, stdout, stderr), arguments, environment, timeout)
        return subprocess.CompletedProcess(
            arguments, code, stdout.read_bytes(), stderr.read_bytes()
        )


def run_on(
    paths: Sequence[Path],
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str],
    timeout: float = 60.0,
) -> int:
    """Run the program with these files as its standard streams, and return its exit code."""
    names = [os.fsdecode(argument) for argument in arguments]
    process = _PROCESSES.Process(target=_run, args=(paths, names, dict(environment)))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(names, timeout)
    code = process.exitcode
    process.close()
    return code


def _run(paths: Sequence[Path], arguments: list[str], environment: dict[str, str]) -> None:
    """In the new process."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(paths):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    sys.argv = ["overdb", *arguments]
    main()
