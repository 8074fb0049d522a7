"""A node whose disk, clock and links can be made to fail: ``python -m overdb_torture.faulty_node``.

It is the production node, and that has no hooks for this. What it calls is wrapped before it starts:
``os.fsync`` and ``os.fdatasync`` (slow), ``os.pwrite`` and ``shutil.disk_usage`` (full), ``time.time_ns``
and ``time.time`` (wrong), ``grpc.aio.insecure_channel`` (through the proxy between the nodes). RocksDB's own
writes are native code and stay as they are: what the node promises rests on the log alone.

Its settings may be others than those of its environment, from a start on.

``OVERDB_FAULTS`` names the directory of the wishes; a thread looks into it (see ``control``).
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from overdb_torture import control
from overdb_torture.control import NodeFaults

_fsync, _fdatasync, _pwrite = os.fsync, os.fdatasync, os.pwrite
_disk_usage = shutil.disk_usage
_time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
_real_time = SimpleNamespace(**vars(time))


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


class Suffering:
    """What this process suffers now, and the wrapped functions that make it so."""

    def __init__(self) -> None:
        self.faults = NodeFaults()
        self._since = _monotonic()
        self._changed = threading.Condition()

    def take(self, faults: NodeFaults) -> None:
        """From now on this; who waits in a slow fsync is let go if it is no longer slow."""
        with self._changed:
            self.faults = faults
            self._since = _monotonic()
            self._changed.notify_all()

    def fsync(self, descriptor: int) -> None:
        self._wait()
        _fsync(descriptor)

    def fdatasync(self, descriptor: int) -> None:
        self._wait()
        _fdatasync(descriptor)

    def _wait(self) -> None:
        if not self.faults.slow_fsync_seconds:
            return
        deadline = _monotonic() + self.faults.slow_fsync_seconds
        with self._changed:
            while self.faults.slow_fsync_seconds and (left := deadline - _monotonic()) > 0:
                self._changed.wait(left)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.faults.disk_refuses_writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _pwrite(descriptor, data, offset)

    def disk_usage(self, path: str | os.PathLike[str]) -> _Usage:
        found = _disk_usage(path)
        if self.faults.disk_reported_full or self.faults.disk_refuses_writes:
            return _Usage(found.total, found.total, 0)
        return _Usage(*found)

    def time_ns(self) -> int:
        return _time_ns() + int(self._ahead_seconds() * 1e9)

    def time(self) -> float:
        return _time() + self._ahead_seconds()

    def _ahead_seconds(self) -> float:
        faults = self.faults
        drift = faults.clock_drift * (_monotonic() - self._since) if faults.clock_drift else 0.0
        return faults.clock_offset_seconds + drift

    def install(self) -> None:
        """Put the wrapped functions in the places of the real ones, in this process."""
        replacements: list[tuple[Any, str, Callable[..., Any]]] = [
            (os, "fsync", self.fsync),
            (os, "fdatasync", self.fdatasync),
            (os, "pwrite", self.pwrite),
            (shutil, "disk_usage", self.disk_usage),
            (time, "time_ns", self.time_ns),
            (time, "time", self.time),
        ]
        for module, name, wrapped in replacements:
            setattr(module, name, wrapped)


def spare_grpc() -> None:
    """Leave gRPC the machine's clock. It counts deadlines by it, half of them in native code.

    On a machine whose clock is wrong, both halves agree. Here the calls of a node that is behind would end
    before they began, and those of one that is ahead never.
    """
    import grpc.aio  # noqa: F401, PLC0415  # --help needs none of it

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "grpc" and getattr(module, "time", None) is time:
            setattr(module, "time", _real_time)  # noqa: B010  # its type is fixed


def route(routes: dict[str, str]) -> None:
    """Have every channel to an address of ``routes`` opened to what stands for it there."""
    import grpc.aio  # noqa: PLC0415  # --help needs none of it

    direct = grpc.aio.insecure_channel

    def through_proxy(target: str, *arguments: Any, **options: Any) -> grpc.aio.Channel:
        return direct(routes.get(target, target), *arguments, **options)

    setattr(grpc.aio, "insecure_channel", through_proxy)  # noqa: B010  # its type is fixed


def watch(directory: Path, node_id: int, suffering: Suffering) -> None:
    """Take in what is wished now, at once, and from then on in a thread."""
    wishes = control.Watched(directory, control.node_file(node_id))

    def look() -> None:
        content = wishes.changed()
        if content is not None:
            suffering.take(NodeFaults.from_json(content))
            wishes.taken(content)

    def keep_looking() -> None:
        while True:
            time.sleep(control.POLL_SECONDS)
            look()

    look()
    threading.Thread(target=keep_looking, name="faults", daemon=True).start()


def take_settings(directory: Path, node_id: int) -> None:
    """Put the settings that are wished into the environment, before the node reads it."""
    wishes = control.Watched(directory, control.settings_file(node_id))
    content = wishes.changed()
    if content is not None:
        for name, value in content.get("settings", {}).items():
            os.environ[f"OVERDB_{name.upper()}"] = str(value)
        wishes.taken(content)


def main() -> None:
    """Run the production node, wrapped."""
    directory = Path(os.environ.pop(control.DIRECTORY_VARIABLE))
    node_id = int(os.environ["OVERDB_NODE_ID"])
    take_settings(directory, node_id)
    spare_grpc()
    suffering = Suffering()
    suffering.install()
    watch(directory, node_id, suffering)
    links = control.wait_for_links(directory)
    nodes = control.parse_nodes(os.environ.pop(control.NODES_VARIABLE))
    route({nodes[b]: links[f"{node_id}-{b}"] for b in nodes if b != node_id})

    from overdb_node.__main__ import main as run_node  # noqa: PLC0415  # behind the wrapping

    run_node()


if __name__ == "__main__":
    main()
