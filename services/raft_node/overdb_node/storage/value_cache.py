"""Newest values of keys that are read often: a read that finds its key here asks no RocksDB."""

from __future__ import annotations

from collections.abc import Callable, Iterable

_Version = tuple[int, bytes | None]
_Newest = Callable[[bytes, int | None], _Version | None]  # key, version at most
_Row = tuple[bytes, int, bytes | None]  # key, version, value or None for a tombstone

OVERHEAD_BYTES = (
    280  # of an entry in memory beside key and value: five objects and a place in a dict
)


class ValueCache:
    """Key -> (version, value) of its newest version, for some keys that have a value.

    Two generations of ``bytes_max / 2`` each stand in for an order of use: what is found in the older one
    moves to the younger, and when that is full the older one goes as a whole. Keys come in by reads alone,
    so a replica that serves none keeps nothing; writes keep what is here up to date. Absence and tombstones
    are never here: a sweep may remove a tombstone, and has nothing to tell this then.
    """

    __slots__ = ("_bytes", "_half", "_old", "_young")

    def __init__(self, bytes_max: int) -> None:
        self._half = bytes_max // 2
        self._young: dict[bytes, tuple[int, bytes]] = {}
        self._old: dict[bytes, tuple[int, bytes]] = {}
        self._bytes = 0  # of the younger generation

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        """(version, value) of a key's newest version; None: ask the database."""
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.pop(key, None)
            if found is not None:
                self.add(key, found)
        return found

    def add(self, key: bytes, newest: tuple[int, bytes]) -> None:
        """Take in what was read: a key's newest version, which has a value."""
        size = len(key) + len(newest[1]) + OVERHEAD_BYTES
        if size > self._half // 4:
            return  # it would drive out too many others
        self._bytes += size
        if self._bytes > self._half:
            self._old, self._young, self._bytes = self._young, {}, size
        self._young[key] = newest

    def update(self, versions: Iterable[_Row]) -> None:
        """Follow writes, each of a version above all that its key has: what is here stays the newest, or
        goes."""
        young, old = self._young, self._old
        if not young and not old:
            return
        for key, version, value in versions:
            before = young.get(key)
            if before is None:
                if key in old:
                    del old[key]
            elif value is not None and len(value) <= len(before[1]):
                young[key] = (version, value)
            else:  # read again, it finds its room again
                del young[key]
                self._bytes -= len(key) + len(before[1]) + OVERHEAD_BYTES

    def newest_many(
        self, wanted: Iterable[tuple[bytes, int | None]], open_reader: Callable[[], _Newest]
    ) -> list[_Version | None]:
        """As ``DataStore.newest_many``, asking a reader only for what is not here."""
        newest: _Newest | None = None
        found: list[_Version | None] = []
        for key, at in wanted:
            one: _Version | None = self.get(key) if at is None else None
            if one is None:
                newest = newest or open_reader()
                one = newest(key, at)
                if at is None and one is not None and one[1] is not None:
                    self.add(key, (one[0], one[1]))
            found.append(one)
        return found

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
