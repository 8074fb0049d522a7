"""What stands in for ``os``, ``shutil``, ``fcntl``, RocksDB and threads in the storage's modules.

Each takes paths and descriptors of simulated disks, and hands everything else to the real thing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar

import overdb_node.disk_space
import overdb_node.node
from overdb_node.storage import files, identity, log, replica, snapshots
from overdb_node.storage.log import DurableLog
from overdb_simulation.data import SimulatedCheckpoint, SimulatedDataStore
from overdb_simulation.disk import HANDLES, Handle, PowerLoss, failure
from overdb_simulation.inodes import FileNode
from overdb_simulation.paths import SimulatedPath

Substitution = tuple[object, str, object]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

SEGMENT_BYTES = 128 << 10
PROCESS_ID = 4242


class SimulatedOS:
    random: ClassVar[Random] = Random(0)  # what urandom draws from
    O_RDONLY = os.O_RDONLY
    O_RDWR = os.O_RDWR

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if not isinstance(path, SimulatedPath):
            return os.open(path, flags, mode)
        create, cut = bool(flags & os.O_CREAT), bool(flags & os.O_TRUNC)
        return path.disk.open(path, create=create, truncate=cut).number

    def close(self, descriptor: int) -> None:
        handle = HANDLES.get(descriptor)
        if handle is None:
            os.close(descriptor)
        else:
            handle.disk.close(descriptor)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        handle = HANDLES.get(descriptor)
        if handle is None:
            return os.pwrite(descriptor, data, offset)
        return handle.disk.write(handle, offset, data)

    def fsync(self, descriptor: int) -> None:
        handle = HANDLES.get(descriptor)
        if handle is None:
            os.fsync(descriptor)
        else:
            handle.disk.fsync(handle)

    fdatasync = fsync  # the size that is needed to read the data back is part of it

    def link(self, source: Any, target: Any) -> None:
        if isinstance(source, SimulatedPath):
            source.disk.link(source, target)
        else:
            os.link(source, target)

    def walk(self, top: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
        if not isinstance(top, SimulatedPath):
            yield from os.walk(top)
            return
        children = list(top.iterdir())
        directories = [path.name for path in children if path.is_dir()]
        yield top, directories, [path.name for path in children if not path.is_dir()]
        for name in directories:
            yield from self.walk(top / name)

    def urandom(self, size: int) -> bytes:
        return SimulatedOS.random.randbytes(size)

    def getpid(self) -> int:
        return PROCESS_ID


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class SimulatedShutil:
    def __getattr__(self, name: str) -> Any:
        return getattr(shutil, name)

    def rmtree(self, path: Any) -> None:
        """As the real one it stops at any moment of a crash, with some of the tree gone."""
        if not isinstance(path, SimulatedPath):
            shutil.rmtree(path)
            return
        for child in list(path.iterdir()):
            if child.is_dir():
                self.rmtree(child)
            else:
                child.unlink()
        path.disk.remove(path)

    def copyfile(self, source: Any, target: Any) -> Any:
        if not isinstance(source, SimulatedPath):
            return shutil.copyfile(source, target)
        target.write_bytes(source.read_bytes())
        return target

    def disk_usage(self, path: Any) -> Any:
        if not isinstance(path, SimulatedPath):
            return shutil.disk_usage(path)
        disk = path.disk
        return Usage(disk.capacity_bytes, disk.used_bytes, disk.free_bytes)


class SimulatedFcntl:
    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, file: Any, operation: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        handle: Handle | None = HANDLES.get(number)
        if handle is None:
            fcntl.flock(file, operation)
            return
        node = handle.disk.node_of(handle)
        assert isinstance(node, FileNode)
        if operation & fcntl.LOCK_UN:
            node.lock_holder = 0
        elif node.lock_holder not in (0, number):
            assert operation & fcntl.LOCK_NB, "nobody can wait in a simulation"
            raise failure(errno.EWOULDBLOCK)
        else:
            node.lock_holder = number


class InlineExecutor(Executor):
    """Runs what is submitted at once. The power goes for the whole process, not for a future."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        self._is_shut = False

    def submit(
        self,
        fn: Callable[_Arguments, _Result],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> Future[_Result]:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[_Result] = Future()
        future.set_running_or_notify_cancel()
        try:
            result = fn(*args, **kwargs)
        except PowerLoss:
            raise
        except Exception as error:  # as the real one: whoever asks for the result gets it
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut = True


def _path(name: Any) -> Any:
    return name if isinstance(name, SimulatedPath) else Path(name)


def substitutions(segment_bytes: int = SEGMENT_BYTES) -> list[Substitution]:
    """(module or object, name, replacement) for the storage to run on simulated disks."""
    simulated_os, simulated_shutil = SimulatedOS(), SimulatedShutil()
    defaults = (segment_bytes,)
    return [
        *((module, "os", simulated_os) for module in (files, identity, log, replica)),
        *(
            (module, "shutil", simulated_shutil)
            for module in (files, replica, overdb_node.disk_space, overdb_node.node)
        ),
        (files, "Path", _path),
        (identity, "fcntl", SimulatedFcntl()),
        (log, "ThreadPoolExecutor", InlineExecutor),
        (replica, "DataStore", SimulatedDataStore),
        (snapshots, "DataStore", SimulatedDataStore),
        (snapshots, "Checkpoint", SimulatedCheckpoint),
        # The segments' size is a default, taken when the functions were made.
        (DurableLog.__init__, "__defaults__", defaults),
        (DurableLog.create.__func__, "__defaults__", defaults),  # type: ignore[attr-defined]
        (DurableLog.open.__func__, "__defaults__", defaults),  # type: ignore[attr-defined]
    ]


@contextmanager
def substituted(replacements: Iterable[Substitution]) -> Iterator[None]:
    """Put replacements in place, and what was there back."""
    before: list[Substitution] = []
    try:
        for owner, name, replacement in replacements:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in reversed(before):
            setattr(owner, name, original)
