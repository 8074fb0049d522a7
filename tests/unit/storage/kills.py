"""Kills a process before each step that changes a disk. Runs in processes forked for the purpose.

Imported by a fork server that never opens RocksDB itself: its threads would not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from overdb_node.storage.replica import ReplicaStorage
from tests.unit.storage import replicas

KILLED, THROUGH = 9, 0
STEPS_MAX = 400
_SECONDS_MAX = 60

_CHANGES: list[tuple[Any, str]] = [
    (os, "fsync"),
    (os, "fdatasync"),
    (os, "pwrite"),
    (os, "link"),
    (shutil, "copyfile"),
    (shutil, "rmtree"),
    (Path, "rename"),
    (Path, "mkdir"),
    (Path, "unlink"),
]


def _kill_before(step: int) -> None:
    """End this process, without any cleaning up, before the ``step``-th change from now on.

    Steps of other threads are not counted, so that they are the same in every run.
    """
    left = [step]
    main = threading.get_ident()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() == main:
                if left[0] == 0:
                    os._exit(KILLED)
                left[0] -= 1
            return real(*arguments, **named)

        return change

    for owner, name in _CHANGES:
        setattr(owner, name, counted(getattr(owner, name)))


def found(directory: Path, step: int) -> None:
    _kill_before(step)
    ReplicaStorage.open(directory, replicas.IDENTITY, replicas.GENESIS)


def compact(directory: Path, step: int) -> None:
    storage = ReplicaStorage.open(directory, replicas.IDENTITY, replicas.GENESIS)
    replicas.apply(storage, storage.recovered.applied_index + 1, 30)
    _kill_before(step)
    replicas.compacted(storage)


def install_keeping(directory: Path, step: int) -> None:
    _install(directory, step, True)


def install_dropping(directory: Path, step: int) -> None:
    _install(directory, step, False)


def _install(directory: Path, step: int, keep_entries_after: bool) -> None:
    storage = ReplicaStorage.open(directory, replicas.IDENTITY, replicas.GENESIS)
    stream = (directory.parent / "stream").read_bytes()
    index, term = map(int, (directory.parent / "of").read_text().split())
    half = len(stream) // 2
    storage.stage(index, term, 0, len(stream), stream[:half])
    _kill_before(step)
    _, snapshot = storage.stage(index, term, half, len(stream), stream[half:])
    assert snapshot is not None
    storage.install(snapshot, keep_entries_after)


def _run(action: Callable[[Path, int], None], directory: Path, step: int) -> None:
    replicas.use_small_segments()
    action(directory, step)
    os._exit(THROUGH)


def run_killed(action: Callable[[Path, int], None], directory: Path, step: int) -> bool:
    """Run an action in a process that is killed before a step; False: it came through before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process: ForkServerProcess = context.Process(target=_run, args=(action, directory, step))
    process.start()
    process.join(_SECONDS_MAX)
    assert process.exitcode in (KILLED, THROUGH), process.exitcode
    return process.exitcode == KILLED
