"""Writes that are applied and not yet on disk, seen by every read that comes after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import TypeVar

from overdb_node.machine.kept import is_stripped, value_bytes
from overdb_node.machine.store import Reader
from overdb_node.machine.types import Transacted, Unread, Vote

_Row = tuple[bytes, int, bytes | None]  # key, version, value or None for a tombstone

# Values in the results of one entry; one more transaction's at most.
ENTRY_ANSWER_BYTES_MAX = 8 << 20
KNOWN_BYTES_MAX = 16 << 20
_KNOWN_OVERHEAD_BYTES = 100  # of a key in memory, roughly


Answer = TypeVar("Answer", Transacted, Vote)


class Overlay:
    """The state as an entry sees it: what was read from disk, below what this batch has written.

    ``known`` are keys that may be written here and have a value, so that nothing need be read to tell. Not
    all such keys; which ones is no part of the state, and decides nothing but what an answer costs.
    """

    __slots__ = ("_known_bytes", "_newest", "_reader", "_unanswered_bytes", "known", "versions")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._newest: dict[bytes, _Row] = {}
        self.versions: list[_Row] = []
        self.known: set[bytes] = set()
        self._known_bytes = 0  # at most
        self._unanswered_bytes = 0  # of values that the entry's results may still hold

    def begin_entry(self) -> None:
        self._unanswered_bytes = ENTRY_ANSWER_BYTES_MAX

    def answered(self, result: Answer, stripped: Answer) -> Answer | Unread:
        """The result of a command as it is returned: without its values where the entry has too many.

        The values of one entry's results are in memory together, and in one message to whoever waits for it.
        """
        if stripped is result or not is_stripped(stripped):
            return result
        if self._unanswered_bytes <= 0:
            return Unread(stripped)
        self._unanswered_bytes -= value_bytes(result)
        return result

    def newest_at(self, key: bytes, version: int) -> tuple[int, bytes | None] | None:
        """Newest version of a key at or below ``version``: (version, value; None for a tombstone)."""
        newest = self._newest.get(key)
        if newest is None:
            return self._reader.newest(key, version)
        if newest[1] <= version:
            return newest[1:]
        rows = (row[1:] for row in reversed(self.versions) if row[0] == key and row[1] <= version)
        return next(rows, None) or self._reader.newest(key, version)

    def newest(self, key: bytes) -> tuple[int, bytes | None] | None:
        """Newest version of a key: (version, value; None for a tombstone)."""
        row = self._newest.get(key)
        return self._reader.newest(key) if row is None else row[1:]

    def has_value(self, key: bytes) -> bool:
        """Whether a key has a value now."""
        if key in self.known:
            return True
        newest = self.newest(key)
        return newest is not None and newest[1] is not None

    def without_value(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of the keys that have no value."""
        newest = self.newest
        # In their order, so that a reader may go on from where it is.
        return {key for key in sorted(keys) if (one := newest(key)) is None or one[1] is None}

    def write(self, key: bytes, version: int, value: bytes | None) -> None:
        self._newest[key] = row = (key, version, value)
        self.versions.append(row)
        if value is None:
            self.known.discard(key)

    def write_all(self, values: Mapping[bytes, bytes], version: int) -> None:
        """Write a value to each key, in this order. They may all be written here."""
        rows: list[_Row] = list(zip(values, repeat(version), values.values(), strict=False))
        self._newest.update(zip(values, rows, strict=True))
        self.versions += rows
        self._know(values)

    def _know(self, keys: Mapping[bytes, bytes]) -> None:
        known = self.known
        if known.issuperset(keys):
            return
        new = [key for key in keys if key not in known]
        known.update(new)
        self._known_bytes += sum(map(len, new)) + len(new) * _KNOWN_OVERHEAD_BYTES
        if self._known_bytes > KNOWN_BYTES_MAX:
            self.forget_known()

    def forget_known(self) -> None:
        """Read again whether a key has a value, and look again whether it may be written."""
        self.known.clear()
        self._known_bytes = 0

    def take(self) -> list[_Row]:
        """Return all writes since the last call, in order; the caller puts them where reads find them."""
        taken, self.versions = self.versions, []
        self._newest = {}
        return taken
