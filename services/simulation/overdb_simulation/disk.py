"""A disk in memory that fails as disks fail: power loss, torn writes, no space, failed fsyncs, bit rot.

What survives a power loss: of a file what was fsynced, and of each write since then all, nothing, or any
of its sectors; of a directory's changes since its last fsync the first so many. An fsync of a file does
not make its name durable. A failed fsync counts the file's dirty pages as clean (Linux), and leaves a
directory's changes waiting: a journal that cannot be written is not forgotten.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from random import Random

from overdb_simulation import damage
from overdb_simulation.inodes import DirectoryNode, FileNode, Node
from overdb_simulation.paths import SimulatedPath, path_class

_MOUNT = "data"
_numbers = itertools.count(1_000_000)  # never met by a real descriptor


class PowerLoss(BaseException):
    """The power goes at this operation, or has gone: whatever the process does, it does no more."""


class Handle:
    """An open descriptor. ``node`` is None once its process is gone."""

    __slots__ = ("disk", "node", "number")

    def __init__(self, disk: SimulatedDisk, node: Node, number: int) -> None:
        self.disk = disk
        self.node: Node | None = node
        self.number = number


HANDLES: dict[int, Handle] = {}


def failure(code: int, path: object = None) -> OSError:
    """The OSError subclass that the kernel's error code stands for."""
    return OSError(code, os.strerror(code), None if path is None else str(path))


class SimulatedDisk:
    """One replica's disk. Mutating operations are counted: write, fsync, create, mkdir, rename,
    link, unlink.

    ``off`` is True from a PowerLoss until ``lose_power`` or ``crash_process``; then every operation but
    close raises PowerLoss, so that a dying process's ``finally`` changes nothing. Set it before
    cancelling the tasks of a process that is killed.
    """

    def __init__(self, random: Random, capacity_bytes: int = 64 << 20) -> None:
        self.random = random
        self.capacity_bytes = capacity_bytes
        self.others_bytes = 0  # that files outside of the replica's directory take
        self.fail_fsyncs = 0
        self.operations_until_power_loss: int | None = None
        self.off = False
        self.operations = 0  # that were begun, ever
        self._open: dict[int, Handle] = {}
        self._top = DirectoryNode()
        self.used_bytes = 0
        self.root: SimulatedPath = path_class(self)(f"/{_MOUNT}")
        self.wipe()

    @property
    def free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.used_bytes - self.others_bytes)

    @property
    def full(self) -> bool:
        """Whether something else has taken all that was left. Freed bytes are free nevertheless."""
        return self.others_bytes > 0

    @full.setter
    def full(self, full: bool) -> None:
        self.others_bytes = 0
        self.others_bytes = self.free_bytes if full else 0

    # --- what happens to it -----------------------------------------------------------------------

    def lose_power(self) -> None:
        """Drop what was not durable, by the disk's random; the process is gone too."""
        self.crash_process()
        seen: set[int] = set()
        self._settle(self._top, seen)
        self._count_used_bytes()

    def _settle(self, node: Node, seen: set[int]) -> None:
        if id(node) in seen:  # hard links
            return
        seen.add(id(node))
        node.lose_power(self.random)
        if isinstance(node, DirectoryNode):
            for child in node.entries.values():
                self._settle(child, seen)

    def crash_process(self) -> None:
        """kill -9: the page cache stays; descriptors, their locks and unflushed buffers are gone."""
        for handle in self._open.values():
            if isinstance(handle.node, FileNode):
                handle.node.lock_holder = 0
            handle.node = None
            HANDLES[handle.number] = _GONE
        self._open.clear()
        self.operations_until_power_loss = None
        self.off = False

    def wipe(self) -> None:
        """An empty disk in its place."""
        self.crash_process()
        self._top = DirectoryNode()
        self._top.change(None, _MOUNT, DirectoryNode())
        self._top.sync()
        self.used_bytes = 0

    def copy(self) -> DirectoryNode:
        """All that a process sees on it, for ``restore``."""
        return self._top.copy({})

    def restore(self, copy: DirectoryNode) -> None:
        """Put back what it held when the copy was made. No process may use it."""
        self.crash_process()
        self._top = copy.copy({})
        self._count_used_bytes()

    def flip_bit(self, random: Random) -> str:
        """Flip a bit of something that counts, cached and durable; say which ("": nothing is there)."""
        return damage.flip_bit(self, random)

    def truncate_some(self, random: Random) -> str:
        """Cut the end off something that counts; say what."""
        done = damage.truncate_some(self, random)
        self._count_used_bytes()
        return done

    def files(self) -> dict[str, int]:
        """Path and size of every file."""
        return {path: len(node.content) for path, node in self.file_nodes()}

    def file_nodes(self) -> Iterator[tuple[str, FileNode]]:
        """Every file, in order of paths; a hard link is a file of its own here."""
        waiting: list[tuple[str, Node]] = [("", self._top)]
        while waiting:
            path, node = waiting.pop()
            if isinstance(node, FileNode):
                yield path, node
            else:
                names = sorted(node.entries, reverse=True)
                waiting += [(f"{path}/{name}", node.entries[name]) for name in names]

    def _count_used_bytes(self) -> None:
        nodes = {id(node): node for _, node in self.file_nodes()}
        self.used_bytes = sum(len(node.content) for node in nodes.values())

    # --- operations on descriptors ----------------------------------------------------------------

    def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Write, and return how many bytes there was room for; raises OSError when there was for none."""
        node = handle.node
        if node is None or self.off:
            raise PowerLoss
        self.operations += 1
        goes = self.operations_until_power_loss is not None and self._count_down()
        if node.__class__ is not FileNode:
            raise failure(errno.EISDIR)
        growth = offset + len(data) - len(node.content)
        if growth > 0:
            missing = growth - self.free_bytes
            if missing >= len(data):
                raise failure(errno.ENOSPC)
            if missing > 0:  # as a file system does: what fits is written
                data = data[:-missing]
                growth -= missing
            self._take_space(growth)
        node.write(offset, data)
        if goes:
            raise PowerLoss
        return len(data)

    def truncate(self, handle: Handle, size: int) -> None:
        node = self.node_of(handle)
        assert isinstance(node, FileNode)
        goes = self._begin()
        growth = size - len(node.content)
        if growth > 0:
            self._take_space(growth)
        else:
            self.used_bytes += growth
        node.truncate(size)
        self._end(goes)

    def fsync(self, handle: Handle) -> None:
        node = handle.node
        if node is None or self.off:
            raise PowerLoss
        self.operations += 1
        if self.operations_until_power_loss is not None and self._count_down():
            raise PowerLoss  # what it would have written is torn like all that waits
        if self.fail_fsyncs > 0:
            self.fail_fsyncs -= 1
            if isinstance(node, FileNode):
                node.forget()
            raise failure(errno.EIO)
        node.sync()

    def node_of(self, handle: Handle) -> Node:
        """Raises PowerLoss when the process that opened it is gone."""
        if handle.node is None or self.off:
            raise PowerLoss
        return handle.node

    def close(self, number: int) -> None:
        """Never raises PowerLoss: what a dying process closes is closed."""
        handle = HANDLES.pop(number, None)
        if handle is None:
            raise failure(errno.EBADF)
        self._open.pop(number, None)
        if isinstance(handle.node, FileNode) and handle.node.lock_holder == number:
            handle.node.lock_holder = 0
        handle.node = None

    # --- operations on paths ----------------------------------------------------------------------

    def find(self, path: SimulatedPath) -> Node | None:
        if self.off:
            raise PowerLoss
        node: Node | None = self._top
        for name in path.parts[1:]:
            if not isinstance(node, DirectoryNode):
                return None
            node = node.entries.get(name)
        return node

    def get(self, path: SimulatedPath) -> Node:
        node = self.find(path)
        if node is None:
            raise failure(errno.ENOENT, path)
        return node

    def directory(self, path: SimulatedPath) -> DirectoryNode:
        node = self.get(path)
        if not isinstance(node, DirectoryNode):
            raise failure(errno.ENOTDIR, path)
        return node

    def open(self, path: SimulatedPath, *, create: bool = False, truncate: bool = False) -> Handle:
        node = self.find(path)
        if node is None:
            if not create:
                raise failure(errno.ENOENT, path)
            parent = self.directory(path.parent)
            goes = self._begin()
            node = FileNode()
            parent.change(None, path.name, node)
            self._end(goes)
        elif create and isinstance(node, DirectoryNode):
            raise failure(errno.EISDIR, path)
        handle = Handle(self, node, next(_numbers))
        if truncate and isinstance(node, FileNode) and node.content:
            self.truncate(handle, 0)
        HANDLES[handle.number] = self._open[handle.number] = handle
        return handle

    def mkdir(self, path: SimulatedPath) -> None:
        parent = self.directory(path.parent)
        if path.name in parent.entries:
            raise failure(errno.EEXIST, path)
        goes = self._begin()
        parent.change(None, path.name, DirectoryNode())
        self._end(goes)

    def link(self, source: SimulatedPath, target: SimulatedPath) -> None:
        node, parent = self.get(source), self.directory(target.parent)
        if target.name in parent.entries:
            raise failure(errno.EEXIST, target)
        goes = self._begin()
        parent.change(None, target.name, node)
        self._end(goes)

    def rename(self, source: SimulatedPath, target: SimulatedPath) -> None:
        node = self.get(source)
        old, new = self.directory(source.parent), self.directory(target.parent)
        replaced = new.entries.get(target.name)
        if isinstance(replaced, DirectoryNode) and replaced.entries:
            raise failure(errno.ENOTEMPTY, target)
        if replaced is not None and type(replaced) is not type(node):
            raise failure(
                errno.EISDIR if isinstance(replaced, DirectoryNode) else errno.ENOTDIR, target
            )
        goes = self._begin()
        if old is new:
            old.change(source.name, target.name, node)
        else:  # two directories, two journals: a crash may leave both names or none
            new.change(None, target.name, node)
            old.change(source.name, None, node)
        self._release(replaced)
        self._end(goes)

    def remove(self, path: SimulatedPath) -> None:
        """Unlink a file, or remove an empty directory."""
        node = self.get(path)
        if isinstance(node, DirectoryNode) and node.entries:
            raise failure(errno.ENOTEMPTY, path)
        goes = self._begin()
        self.directory(path.parent).change(path.name, None, node)
        self._release(node)
        self._end(goes)

    # --- counting ---------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Count a mutating operation; True: the power goes when it is done, not yet durable."""
        if self.off:
            raise PowerLoss
        self.operations += 1
        return self.operations_until_power_loss is not None and self._count_down()

    def _end(self, goes: bool) -> None:
        if goes:
            raise PowerLoss

    def _count_down(self) -> bool:
        assert self.operations_until_power_loss is not None
        if self.operations_until_power_loss > 0:
            self.operations_until_power_loss -= 1
            return False
        self.operations_until_power_loss = None
        self.off = True
        if self.random.random() < 0.5:
            raise PowerLoss
        return True

    def _take_space(self, growth: int) -> None:
        if growth > self.free_bytes:
            raise failure(errno.ENOSPC)
        self.used_bytes += growth

    def _release(self, node: Node | None) -> None:
        """Count again after a name went: a file's bytes are free when it was the last of its names."""
        if isinstance(node, FileNode) and node.content:
            self._count_used_bytes()


# What descriptors of processes that are gone lead to; no disk is kept in memory by them.
_GONE = Handle(SimulatedDisk(Random(0)), FileNode(), 0)
_GONE.node = None
