"""Paths on a simulated disk, and the files that they open. They do what pathlib and io do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from overdb_simulation.inodes import DirectoryNode, FileNode

if TYPE_CHECKING:
    from overdb_simulation.disk import Handle, SimulatedDisk

_BUFFER_BYTES = 8192  # what io.BufferedWriter keeps back


class Stat(NamedTuple):
    st_size: int
    st_dev: int = 0


class SimulatedPath(PurePosixPath):
    """A path on one disk: each disk has a subclass, so that what is derived from a path stays on it."""

    __slots__ = ()
    disk: ClassVar[SimulatedDisk]

    def exists(self) -> bool:
        return self.disk.find(self) is not None

    def is_dir(self) -> bool:
        return isinstance(self.disk.find(self), DirectoryNode)

    def is_file(self) -> bool:
        return isinstance(self.disk.find(self), FileNode)

    def stat(self) -> Stat:
        node = self.disk.get(self)
        return Stat(len(node.content) if isinstance(node, FileNode) else 4096)

    def iterdir(self) -> Iterator[SimulatedPath]:
        return iter([self / name for name in self.disk.directory(self).entries])

    def glob(self, pattern: str) -> Iterator[SimulatedPath]:
        """Of one level only; nothing when there is no such directory."""
        assert "/" not in pattern, pattern
        node = self.disk.find(self)
        names = list(node.entries) if isinstance(node, DirectoryNode) else []
        return iter([self / name for name in names if fnmatchcase(name, pattern)])

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if exist_ok and self.is_dir():
            return
        if parents and not self.parent.exists():
            self.parent.mkdir(mode, parents=True, exist_ok=True)
        self.disk.mkdir(self)

    def rename(self, target: SimulatedPath) -> SimulatedPath:
        self.disk.rename(self, target)
        return target

    def unlink(self, missing_ok: bool = False) -> None:
        node = self.disk.find(self)
        if node is None and missing_ok:
            return
        if isinstance(node, DirectoryNode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(self))
        self.disk.remove(self)

    def open(self, mode: str = "r") -> SimulatedFile:
        return SimulatedFile(self, mode)

    def read_bytes(self) -> bytes:
        node = self.disk.get(self)
        if not isinstance(node, FileNode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(self))
        return bytes(node.content)

    def read_text(self, *, errors: str = "strict") -> str:
        return self.read_bytes().decode(errors=errors)

    def write_bytes(self, data: bytes) -> int:
        with self.open("wb") as file:
            return file.write(data)

    def write_text(self, data: str) -> int:
        return self.write_bytes(data.encode())


def path_class(disk: SimulatedDisk) -> type[SimulatedPath]:
    return type("SimulatedPath", (SimulatedPath,), {"disk": disk, "__slots__": ()})


class SimulatedFile:
    """An open file. What is written waits in a buffer, as in a real one, until flush, seek or close."""

    def __init__(self, path: SimulatedPath, mode: str) -> None:
        kind = mode.replace("b", "")
        assert kind in ("r", "w", "a+"), f"mode {mode} is not simulated"
        self._disk = path.disk
        self._text = "b" not in mode
        self._appends = kind == "a+"
        self._writes = kind != "r"
        self._handle: Handle = path.disk.open(path, create=self._writes, truncate=kind == "w")
        if not isinstance(self._handle.node, FileNode):
            path.disk.close(self._handle.number)
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        self._position = 0
        self._buffer = bytearray()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def fileno(self) -> int:
        self._check_open()
        return self._handle.number

    def write(self, data: Any) -> int:
        self._check_open()
        assert self._writes, "not open for writing"
        content = data.encode() if self._text else bytes(data)
        if len(self._buffer) + len(content) > _BUFFER_BYTES:
            self.flush()
            self._put(content)
        else:
            self._buffer += content
        return len(data)

    def _put(self, content: bytes) -> None:
        if self._appends:
            self._position = len(self._content)
        left = memoryview(content)
        while left:  # what fits is written, then the disk says that it is full
            written = self._disk.write(self._handle, self._position, bytes(left))
            self._position += written
            left = left[written:]

    def flush(self) -> None:
        self._check_open()
        if self._buffer:
            content = bytes(self._buffer)
            self._buffer.clear()
            self._put(content)

    @property
    def _content(self) -> bytearray:
        node = self._disk.node_of(self._handle)
        assert isinstance(node, FileNode)
        return node.content

    def read(self, size: int = -1) -> Any:
        self.flush()
        content = self._content
        end = len(content) if size < 0 else self._position + size
        found = bytes(content[self._position : end])
        self._position += len(found)
        return found.decode() if self._text else found

    def seek(self, offset: int) -> int:
        self.flush()
        self._position = offset
        return offset

    def truncate(self, size: int | None = None) -> int:
        self.flush()
        size = self._position if size is None else size
        if size != len(self._content):
            self._disk.truncate(self._handle, size)
        return size

    def close(self) -> None:
        """Write what waits; a process that is gone writes nothing."""
        if self._closed:
            return
        try:
            if not self._disk.off and self._handle.node is not None:
                self.flush()
        finally:
            self._closed = True
            self._disk.close(self._handle.number)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")

    def __enter__(self) -> SimulatedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
