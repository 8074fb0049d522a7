"""What the state machine reads: the durable state, as its host keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Reader(Protocol):
    """The state as of the last batch that was written. Never changes while an entry is applied."""

    def newest(self, key: bytes, at: int | None = None) -> tuple[int, bytes | None] | None:
        """Newest version of a key at or below ``at``: (version, value; None for a tombstone)."""
        ...

    def record(self, name: bytes) -> bytes | None:
        """Content of one of the machine's own records."""
        ...

    def records(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All records whose name begins with ``prefix``, ascending by name: (name, content)."""
        ...
