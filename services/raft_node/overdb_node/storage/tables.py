"""RocksDB's table files: how many bytes a compaction of a range reads, and the compaction itself.

RocksDB compacts as a by-product of writes, and whenever it likes to. A replica that runs out of disk does
neither: it turns the automatic compactions off, and compacts what holds garbage, piece by piece.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from rocksdict import Rdict

# What one compaction writes at most before it may delete what it has read: all of level 0 and of level 1, or
# a file of a deeper level with those below it.
COMPACTION_BYTES_MAX = 384 << 20


class Cost(NamedTuple):
    """What a compaction of a range reads, and about how much of it is still there afterwards."""

    read_bytes: int
    kept_bytes: int


class Tables:
    """The table files of one database. Sizes may be asked for at any time, by any thread.

    The log thread closes a database that an installed snapshot has replaced, while the loop looks at the disk
    or answers a status. RocksDB's object takes no call during that (!): from ``close`` on numbers are the
    last ones that were read, and nothing is changed any more.
    """

    def __init__(self, database: Rdict) -> None:
        self._database = database
        self._automatic = True
        self._lock = threading.Lock()  # held during short calls only
        self._closed = False
        self._numbers: dict[str, int] = {}  # by the name of the property, as read last

    def close(self) -> None:
        """Called before the database is closed."""
        with self._lock:
            self._closed = True

    def _number(self, name: str) -> int:
        with self._lock:
            if not self._closed:
                self._numbers[name] = int(self._database.property_value(name) or 0)
            return self._numbers.get(name, 0)

    @property
    def size_bytes(self) -> int:
        return self._number("rocksdb.total-sst-files-size")

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory that a flush writes to disk."""
        return self._number("rocksdb.cur-size-all-mem-tables")

    @property
    def compaction_bytes(self) -> int:
        """Room that a compaction of RocksDB's own choice may take while it runs."""
        return min(self.size_bytes, COMPACTION_BYTES_MAX)

    @property
    def newest_files(self) -> int:
        """Files of level 0: each read looks into all of them."""
        return self._number("rocksdb.num-files-at-level0")

    def compact_automatically(self, wanted: bool) -> None:
        """Let RocksDB compact by itself, or not. What is under way ends."""
        with self._lock:
            if wanted != self._automatic and not self._closed:
                self._database.set_options({"disable_auto_compactions": str(not wanted).lower()})
                self._automatic = wanted

    def cost(self, low: bytes, high: bytes) -> Cost:
        """Of compacting ``[low, high]``. An estimate by numbers of rows: values are of different sizes."""
        with self._lock:
            files: list[dict[str, Any]] = [] if self._closed else self._database.live_files()
        touched = [f for f in files if f["start_key"] <= high and f["end_key"] >= low]
        if any(
            file["level"] == 0 for file in touched
        ):  # those overlap each other, and all of level 1
            touched += [f for f in files if f["level"] <= 1 and f not in touched]
        read = sum(file["size"] for file in touched)
        rows = sum(file["num_entries"] for file in touched)
        removed = sum(file["num_deletions"] for file in touched)
        if not rows:
            return Cost(read, 0)
        return Cost(
            read, read * max(0, rows - 2 * removed) // rows
        )  # a deletion, and what it deletes

    def compact(self, low: bytes, high: bytes) -> None:
        """Compact ``[low, high]`` and wait for it. Raises a plain Exception, as without room."""
        self._database.compact_range(low, high)
