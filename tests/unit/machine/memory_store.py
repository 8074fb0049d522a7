"""What a replica's disk is to the state machine, in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from overdb_node.machine.types import Batch


class MemoryStore:
    """Implements ``machine.store.Reader``; takes the machine's batches as RocksDB would."""

    def __init__(self) -> None:
        self.versions: dict[bytes, dict[int, bytes | None]] = {}
        self.names: dict[bytes, bytes] = {}
        self.versions_grow = True  # those of a key (PROTOCOL 2.1)

    def write(self, batch: Batch) -> None:
        for key, version, value in batch.versions:
            of_key = self.versions.setdefault(key, {})
            if self.versions_grow:
                assert not of_key or version > max(of_key), (key, version, of_key)
            of_key[version] = value
        seen = [name for name, _ in batch.records]
        assert len(seen) == len(set(seen)), "a record is written twice in one batch"
        for name, content in batch.records:
            if content is None:
                self.names.pop(name, None)
            else:
                self.names[name] = content

    def newest(self, key: bytes, at: int | None = None) -> tuple[int, bytes | None] | None:
        of_key = self.versions.get(key, {})
        below = [version for version in of_key if at is None or version <= at]
        return (max(below), of_key[max(below)]) if below else None

    def record(self, name: bytes) -> bytes | None:
        return self.names.get(name)

    def records(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        found = sorted((n, c) for n, c in self.names.items() if n.startswith(prefix))
        return iter(found)

    def copy(self) -> MemoryStore:
        """The disk as it is now: what a crash leaves, or what a snapshot carries."""
        return copy.deepcopy(self)
