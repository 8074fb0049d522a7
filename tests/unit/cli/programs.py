"""Runs ``overdb`` in processes that are forked from one that has imported it: a start takes 50 ms, not 400.

Each run is a process of its own all the same, with its own arguments, environment, standard streams and exit
code. Tests of what is imported, of signals and of pipes start an interpreter.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from overdb.cli import main

Codecs = Sequence[tuple[str, str]]  # encoding and error handler of each standard stream

_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.unit.cli.preload", __name__])
_STREAMS = ("stdin", "stdout", "stderr")
_SAY_STREAMS = """
import sys
for stream in sys.stdin, sys.stdout, sys.stderr: print(stream.encoding, stream.errors)
"""


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
    process = _PROCESSES.Process(
        target=_run, args=(paths, names, dict(environment), _codecs_at_a_start(environment))
    )
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(names, timeout)
    code = process.exitcode
    process.close()
    return code


def _codecs_at_a_start(environment: Mapping[str, str]) -> Codecs:
    """Return encoding and error handler of the standard streams: what an interpreter has by itself."""
    deciding = ("LC_", "LANG", "PYTHON", "LD_")
    return _asked_codecs(
        frozenset(one for one in environment.items() if one[0].startswith(deciding))
    )


@cache
def _asked_codecs(environment: frozenset[tuple[str, str]]) -> Codecs:
    said = subprocess.run(
        [sys.executable, "-S", "-c", _SAY_STREAMS],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stdout.decode()
    words = said.split()
    return list(zip(words[::2], words[1::2], strict=True))


def _run(
    paths: Sequence[Path], arguments: list[str], environment: dict[str, str], codecs: Codecs
) -> None:
    """In the new process."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(paths):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    for number, (name, (encoding, errors)) in enumerate(zip(_STREAMS, codecs, strict=True)):
        file = os.fdopen(number, "wb" if number else "rb", closefd=False)
        lines = number == 2 or file.isatty()  # what is buffered up to the end of a line only
        stream = io.TextIOWrapper(file, encoding, errors, newline="\n", line_buffering=lines)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["overdb", *arguments]
    main()
