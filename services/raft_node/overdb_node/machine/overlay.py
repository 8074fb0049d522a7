"""Writes that are applied and not yet on disk, seen by every read that comes after them."""

from __future__ import annotations

from overdb_node.machine.store import Reader


class Overlay:
    """The state as an entry sees it: what was read from disk, below what this batch has written."""

    __slots__ = ("_newest", "_reader", "versions")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._newest: dict[bytes, tuple[int, bytes | None]] = {}
        self.versions: list[tuple[bytes, int, bytes | None]] = []

    def newest(self, key: bytes) -> tuple[int, bytes | None] | None:
        """Newest version of a key: (version, value; None for a tombstone)."""
        return self._newest.get(key) or self._reader.newest(key)

    def write(self, key: bytes, version: int, value: bytes | None) -> None:
        self._newest[key] = (version, value)
        self.versions.append((key, version, value))

    def take(self) -> list[tuple[bytes, int, bytes | None]]:
        """Return all writes since the last call, in order; the caller puts them where reads find them."""
        taken, self.versions = self.versions, []
        self._newest = {}
        return taken
