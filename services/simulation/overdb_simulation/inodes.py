"""Files and directories of a simulated disk: what a process sees, and what a power loss leaves of it.

A file keeps its present content and how to undo every write since its last fsync; a directory keeps its
present and its durable entries, and the changes between the two in order.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

SECTOR_BYTES = 512  # what a disk writes whole
_FORGOTTEN_SURVIVES = 0.1  # a write whose fsync failed: some of it may have reached the disk


class Write(NamedTuple):
    """One change of a file. ``new`` is None when the file was cut at ``offset``."""

    offset: int
    old: bytes | bytearray  # what stood there
    new: bytes | None
    old_size: int


class FileNode:
    """A file's content. Hard links share one."""

    __slots__ = ("content", "lock_holder", "older", "pending")

    def __init__(self) -> None:
        self.content = bytearray()
        self.pending: list[Write] = []  # since the last fsync
        # Once an fsync has failed: every change before ``pending``, and whether it is durable.
        self.older: list[tuple[bool, Write]] = []
        self.lock_holder = 0  # descriptor that has the flock; 0: none

    def write(self, offset: int, data: bytes) -> None:
        content = self.content
        size, end = len(content), offset + len(data)
        self.pending.append(Write(offset, content[offset:end], data, size))
        if offset > size:
            content.extend(bytes(offset - size))
        content[offset:end] = data

    def truncate(self, size: int) -> None:
        content = self.content
        self.pending.append(Write(size, content[size:], None, len(content)))
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))

    def copy(self, copied: dict[int, Node]) -> FileNode:
        """A durable file of the same content. ``copied``: by id of the original, for hard links."""
        node = copied.get(id(self))
        if not isinstance(node, FileNode):
            node = copied[id(self)] = FileNode()
            node.content = bytearray(self.content)
        return node

    def sync(self) -> None:
        if self.older:
            self.older.extend((True, write) for write in self.pending)
        self.pending.clear()

    def forget(self) -> None:
        """An fsync failed: its pages count as clean, no later fsync writes them (as Linux does)."""
        self.older.extend((False, write) for write in self.pending)
        self.pending.clear()

    def lose_power(self, random: Random) -> None:
        """Each write that was not fsynced survives, or some of its sectors do, or none of it."""
        if not self.pending and not self.older:
            return
        changes = [(_SYNCED if durable else _FORGOTTEN, write) for durable, write in self.older]
        changes += [(_PENDING, write) for write in self.pending]
        for _, write in reversed(changes):
            self._undo(write)
        self.pending.clear()
        self.older.clear()
        for state, write in changes:
            self._redo(write, state, random)
        self.pending.clear()

    def _undo(self, write: Write) -> None:
        offset, old, new, old_size = write
        del self.content[old_size:]
        if new is None:
            self.content.extend(old)
        else:
            self.content[offset : offset + len(old)] = old

    def _redo(self, write: Write, state: int, random: Random) -> None:
        survival = 1.0 if state == _SYNCED else random.random()
        if state == _FORGOTTEN:
            survival *= _FORGOTTEN_SURVIVES
        if write.new is None:
            if survival >= 0.5:
                self.truncate(write.offset)
        elif survival >= 2 / 3:
            self.write(write.offset, write.new)
        elif survival >= 1 / 3:
            self._redo_some_sectors(write.offset, write.new, random)

    def _redo_some_sectors(self, offset: int, new: bytes, random: Random) -> None:
        first, end = offset // SECTOR_BYTES, offset + len(new)
        chosen = random.getrandbits((end - 1) // SECTOR_BYTES - first + 1) if new else 0
        for sector in range(chosen.bit_length()):
            if chosen >> sector & 1:
                start = max(offset, (first + sector) * SECTOR_BYTES)
                stop = min(end, (first + sector + 1) * SECTOR_BYTES)
                self.write(start, new[start - offset : stop - offset])

    def flip(self, offset: int, bit: int) -> None:
        """Damage one byte, wherever it is kept: cached, durable and in what would be undone."""
        self.content[offset] ^= 1 << bit
        self.older = [(durable, _flipped(write, offset, bit)) for durable, write in self.older]
        self.pending = [_flipped(write, offset, bit) for write in self.pending]

    def cut(self, size: int) -> None:
        """Damage: the end is gone, from the disk too."""
        del self.content[size:]
        self.pending.clear()
        self.older.clear()


_PENDING, _FORGOTTEN, _SYNCED = range(3)


def _flipped(write: Write, offset: int, bit: int) -> Write:
    def flipped(part: bytes) -> bytes:
        inside = offset - write.offset
        if not 0 <= inside < len(part):
            return part
        changed = bytearray(part)
        changed[inside] ^= 1 << bit
        return bytes(changed)

    new = None if write.new is None else flipped(write.new)
    return write._replace(old=flipped(bytes(write.old)), new=new)


class DirectoryNode:
    """A directory's entries, cached and durable. A change is (name that goes, name that comes, node)."""

    __slots__ = ("durable", "entries", "journal")

    def __init__(self) -> None:
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.journal: list[tuple[str | None, str | None, Node]] = []

    def change(self, removed: str | None, added: str | None, node: Node) -> None:
        """One step: a rename inside the directory is there wholly or not at all."""
        change = (removed, added, node)
        _apply(self.entries, change)
        self.journal.append(change)

    def copy(self, copied: dict[int, Node]) -> DirectoryNode:
        """A durable directory with copies of all that is in it."""
        node = DirectoryNode()
        node.entries = {name: child.copy(copied) for name, child in self.entries.items()}
        node.durable = dict(node.entries)
        return node

    def sync(self) -> None:
        for change in self.journal:
            _apply(self.durable, change)
        self.journal.clear()

    def lose_power(self, random: Random) -> None:
        """The first so many changes survive: a file system keeps the order inside a directory."""
        if self.journal:
            for change in self.journal[: random.randint(0, len(self.journal))]:
                _apply(self.durable, change)
            self.journal.clear()
            self.entries = dict(self.durable)


Node = FileNode | DirectoryNode


def _apply(entries: dict[str, Node], change: tuple[str | None, str | None, Node]) -> None:
    removed, added, node = change
    if removed is not None:
        entries.pop(removed, None)
    if added is not None:
        entries[added] = node
