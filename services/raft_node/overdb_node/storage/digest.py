"""A digest of everything that can be read in a state, taken beside the work, little by little.

It finds what a checksum of the writes cannot: bits that have changed since. RocksDB checks its blocks against
checksums of its own when it reads them, which tells damage of a disk but none that was written as it is.

Covered are the newest version of each key, unless it is a tombstone, and the records of the state machine.
Older versions and tombstones are not: when they are removed is each replica's own affair (``sweeping.py``).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from rocksdict import Rdict, RdictIter, ReadOptions
from xxhash import xxh3_64

PORTION_ROWS = (
    256  # some tenths of a millisecond in which the loop may have to wait for this thread
)
PORTION_BYTES = 1 << 20

_LENGTHS = struct.Struct(">QQ")
_VERSIONS, _RECORDS = b"v", b"r"
_TOMBSTONE = b"\x00"
# What of a record's content is compared; None: nothing of it, not even that it is there.
Canonical = Callable[[bytes, bytes], bytes | None]


class ContentDigest:
    """Of the state at the moment of construction. One thread advances it, any one may close it.

    Keeps the database open as long as it is not closed.
    """

    def __init__(self, database: Rdict, canonical: Canonical) -> None:
        self._canonical = canonical
        options = ReadOptions()
        # What routers read stays in the cache.
        options.fill_cache(False)  # type: ignore[call-arg]  # the stub forgets it
        # An iterator sees the state of the moment when it was made. (That of rocksdict's Snapshot does not:
        # it sees the present one.)
        self._rows: RdictIter | None = database.iter(options)
        self._rows.seek(_RECORDS)
        self._kind = _RECORDS
        self._previous = b""  # key of the row before, with all but the version
        self._digest = xxh3_64()
        self._lock = threading.Lock()
        self.rows = 0

    def advance(self) -> bool:
        """Take in a portion; whether there is more. Raises what RocksDB raises for a damaged file."""
        with self._lock:
            return False if self._rows is None else self._advance(self._rows)

    def _advance(self, rows: RdictIter) -> bool:
        parts: list[bytes] = []
        size = 0
        for _ in range(PORTION_ROWS):
            if not rows.valid() or rows.key()[:1] != self._kind:
                rows.status()  # raises when it ended because of a damaged file
                self._digest.update(b"".join(parts))
                return self._go_on(rows)
            stored = rows.key()
            content = self._content(stored, rows)
            if content is not None:
                parts += (_LENGTHS.pack(len(stored), len(content)), stored, content)
                size += len(content)
            self.rows += 1
            rows.next()
            if size >= PORTION_BYTES:
                break
        self._digest.update(b"".join(parts))
        return True

    def _content(self, stored: bytes, rows: RdictIter) -> bytes | None:
        if self._kind == _RECORDS:
            return self._canonical(stored[1:], rows.value())
        key = stored[:-8]
        if key == self._previous:
            return None  # newer versions come first
        self._previous = key
        value: bytes = rows.value()
        return None if value == _TOMBSTONE else value

    def _go_on(self, rows: RdictIter) -> bool:
        if self._kind == _VERSIONS:
            return False
        self._kind = _VERSIONS
        rows.seek(_VERSIONS)
        return True

    def close(self) -> int | None:
        """Let go of the state; the digest, unless it was closed before."""
        with self._lock:
            if self._rows is None:
                return None
            self._rows = None
            return int(self._digest.intdigest())
