"""Values and records in RocksDB. Its own write-ahead log is off: the Raft log is the log.

    v | key, escaped | 0 0 | 2**64 - 1 - version      1 value, or 0 for a tombstone
    r | name                                          a record of the state machine
    m                                                 applied index and term

All in one column family, so that a flush, and with it a checkpoint, is one moment: data, records and
the applied index fit together always (a WriteBatch is atomic, and one memtable follows another).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteOptions,
)

from overdb_node.storage.digest import Canonical, ContentDigest
from overdb_node.storage.errors import means_no_space
from overdb_node.storage.tables import Tables
from overdb_node.storage.value_cache import ValueCache

_VERSION = struct.Struct(">Q")
_APPLIED = struct.Struct(">QQ")
_VERSIONS, _RECORDS, _META = b"v", b"r", b"m"
_ESCAPED, _END = b"\x00\xff", b"\x00\x00"  # a 0 in a key; what stands behind a key
_BEHIND_ALL = b"\xff"  # no row is
_NEWEST = (1 << 64) - 1
_TOMBSTONE = b"\x00"
_VALUE = b"\x01"

WRITE_BUFFER_BYTES = 32 << 20
TABLE_BYTES = 32 << 20  # of level 1 and below: small, so that a compaction needs little room
CACHE_BYTES = 32 << 20  # of blocks
VALUE_CACHE_BYTES = 64 << 20
SCAN_ROWS_MAX = 50_000  # rows visited for one page: a range of deleted keys must not hold the loop

SCAN_SECONDS_MAX = 0.02  # nor may slow reads: heartbeats wait behind a page
_ROWS_BETWEEN_CLOCKS = 16
_STEPS_BEFORE_SEEK_MAX = 8


class ScanPage(NamedTuple):
    items: list[tuple[bytes, bytes, int]]  # key, value, version
    more: bool
    resume: bytes  # where to go on: the next `start`, or in reverse the next `end`


class Swept(NamedTuple):
    cursor: bytes | None  # where to go on; None: the pass is through
    removed: int
    low: bytes = b""  # the first and the last row that were removed
    high: bytes = b""


def encode_key(key: bytes) -> bytes:
    """The prefix that all versions of a key share; keeps the order of keys."""
    if 0 in key:
        key = key.replace(b"\x00", _ESCAPED)
    return _VERSIONS + key + _END


def encode_version(key: bytes, version: int) -> bytes:
    """Where one version lies: newer ones first."""
    return encode_key(key) + _VERSION.pack(_NEWEST - version)


def decode_key(stored: bytes) -> bytes:
    key = stored[1:-10]
    return key.replace(b"\x00\xff", b"\x00") if 0 in key else key


def decode_version(stored: bytes) -> int:
    return _NEWEST - int(_VERSION.unpack(stored[-8:])[0])


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    # A write must not wait for a flush or a compaction: the loop makes it, and heartbeats with it.
    options.set_max_write_buffer_number(6)
    options.set_level_zero_file_num_compaction_trigger(4)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    options.set_target_file_size_base(TABLE_BYTES)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(1 << 20)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_max_open_files(512)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_block_size(8 << 10)
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options.set_block_based_table_factory(table)
    return options


class DataStore:
    """The applied state. Implements ``machine.store.Reader``. Written by one thread."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        access = AccessType.read_only(False) if read_only else AccessType.read_write()
        self._db = Rdict(str(directory), _options(), access_type=access)
        self._no_wal = WriteOptions()
        self._no_wal.disable_wal = True  # type: ignore[method-assign, assignment]  # a property
        self._digest: ContentDigest | None = None
        # What ``newest`` reads with: to make one costs more than to read. Shows the state behind the last
        # write, and goes with the next.
        self._rows: _Rows | None = None
        self._values = ValueCache(VALUE_CACHE_BYTES)
        self.tables = Tables(self._db)

    def close(self) -> None:
        """Iterators end here at the latest, and so does a digest, unfinished: so nothing keeps the database
        open behind this."""
        self._rows = None
        if self._digest is not None:
            self._digest.close()
        self.tables.close()
        try:
            self._db.close()
        except Exception as error:
            # RocksDB flushes its memtables before it closes. If the disk is full it closes without the flush.
            # Nothing is lost: the log, or the snapshot that replaces this database, has the same writes.
            if not means_no_space(error):
                raise

    def flush(self) -> None:
        """Write what is in memory to disk and wait for it. Other threads go on meanwhile."""
        self._db.flush(True)

    def release(self) -> None:
        """Let go of table files that are not needed any more: an iterator keeps those that it has seen."""
        self._rows = None

    @property
    def database(self) -> Rdict:
        return self._db

    # --- writing --------------------------------------------------------------------------------

    def write(
        self,
        versions: Collection[tuple[bytes, int, bytes | None]],
        records: Iterable[tuple[bytes, bytes | None]],
        applied_index: int,
        applied_term: int,
    ) -> None:
        """One atomic batch: versions (key, version, value or None), records, and how far it got."""
        self._rows = None
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        last, end = -1, b""
        for key, version, value in versions:
            if version != last:  # those of a transaction have the same
                last, end = version, _END + _VERSION.pack(_NEWEST - version)
            escaped = key.replace(b"\x00", _ESCAPED) if 0 in key else key  # as encode_key does
            put(_VERSIONS + escaped + end, _TOMBSTONE if value is None else _VALUE + value)
        for name, content in records:
            if content is None:
                batch.delete(_RECORDS + name)
            else:
                put(_RECORDS + name, content)
        put(_META, _APPLIED.pack(applied_index, applied_term))
        self._db.write(batch, self._no_wal)
        self._values.update(versions)

    # --- reading --------------------------------------------------------------------------------

    def applied(self) -> tuple[int, int]:
        """Index and term of the last entry whose effects are here; (0, 0) before the first."""
        packed = self._db.get(_META)
        return (0, 0) if packed is None else _APPLIED.unpack(packed)

    def newest(self, key: bytes, at: int | None = None) -> tuple[int, bytes | None] | None:
        """Newest version of a key at or below ``at``: (version, value; None for a tombstone)."""
        if self._rows is None:
            self._rows = _Rows(self._db.iter())
        return self._rows.newest(key, at)

    def newest_many(
        self, wanted: Sequence[tuple[bytes, int | None]]
    ) -> list[tuple[int, bytes | None] | None]:
        """As ``newest`` for each (key, at), all from one state."""
        return self._values.newest_many(wanted, lambda: _Rows(self._db.iter()).newest)

    def begin_digest(self, canonical: Canonical) -> ContentDigest:
        """A digest of the state as it is now; one before it that is under way ends."""
        if self._digest is not None:
            self._digest.close()
        self._digest = ContentDigest(self._db, canonical)
        return self._digest

    def record(self, name: bytes) -> bytes | None:
        found: bytes | None = self._db.get(_RECORDS + name)
        return found

    def records(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Records whose name begins with ``prefix``, ascending; one at a time is in memory."""
        start = _RECORDS + prefix
        rows = self._db.iter()
        rows.seek(start)
        while rows.valid() and rows.key().startswith(start):
            yield rows.key()[1:], rows.value()
            rows.next()
        rows.status()  # raises when it ended because of a damaged file

    def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool,
        at: int,
        keys_only: bool,
        max_items: int,
        max_bytes: int,
    ) -> ScanPage:
        """A page of ``[start, end)`` (empty end: none) as of version ``at``; at least one item if any."""
        page = _Page(at, keys_only, max_items, max_bytes)
        low = encode_key(start)[:-2] if start else _VERSIONS
        high = encode_key(end)[:-2] if end else bytes([_VERSIONS[0] + 1])
        rows = self._db.iter()
        if reverse:
            return page.backward(rows, low, high)
        return page.forward(rows, low, high)

    # --- old versions ---------------------------------------------------------------------------

    def sweep(self, cursor: bytes, floor: int, rows_max: int) -> Swept:
        """Remove versions that nobody can ask for any more: those behind a newer one at or below
        ``floor``, and a tombstone that is the newest at or below it. Visits ``rows_max`` rows at most
        (2 or more), also of one key.
        """
        self._rows = None  # it shows what is removed here
        rows = self._db.iter()
        rows.seek(cursor or _VERSIONS)
        doomed: list[bytes] = []
        previous, anchor = b"", b""  # anchor: the key's newest version at or below the floor
        visited = 0
        position: bytes | None = None
        while rows.valid() and rows.key()[:1] == _VERSIONS:
            stored = rows.key()
            if stored[:-8] != previous:
                previous, anchor = stored[:-8], b""
            if visited >= rows_max:
                # A tombstone stays until all that it hides is gone; the next call begins with it.
                position = anchor or stored
                doomed = [row for row in doomed if row != anchor]
                break
            visited += 1
            if anchor:
                doomed.append(stored)
            elif decode_version(stored) <= floor:
                anchor = stored
                if rows.value() == _TOMBSTONE:
                    doomed.append(stored)
            rows.next()
        rows.status()
        if doomed:
            batch = WriteBatch(raw_mode=True)
            # From the oldest to the newest: a tombstone must not go before what it hides.
            for stored in reversed(doomed):
                batch.delete(stored)
            self._db.write(batch, self._no_wal)
            return Swept(position, len(doomed), doomed[0], doomed[-1])
        return Swept(position, 0)

    @property
    def size_bytes(self) -> int:
        """Bytes of the files on disk and of what is still in memory, roughly."""
        return self.tables.size_bytes + self.tables.memory_bytes


class _Rows:
    """Newest versions of keys, all from one state, by one iterator.

    It stands on the first row at or behind the one that was sought last. What is asked for and lies between
    the two has the same answer: keys that come in their order and are new are found so with one seek.
    """

    __slots__ = ("_found", "_rows", "_sought")

    def __init__(self, rows: RdictIter) -> None:
        self._rows = rows
        self._sought, self._found = _BEHIND_ALL, b""  # nothing lies between them

    def newest(self, key: bytes, at: int | None) -> tuple[int, bytes | None] | None:
        prefix = encode_key(key)
        wanted = prefix if at is None else prefix + _VERSION.pack(_NEWEST - at)
        if not self._sought <= wanted <= self._found:
            self._seek(wanted)
        stored = self._found
        if len(stored) != len(prefix) + 8 or not stored.startswith(prefix):
            return None
        value = self._rows.value()
        version = _NEWEST - int.from_bytes(stored[-8:], "big")
        return version, None if value[0] == 0 else value[1:]

    def _seek(self, wanted: bytes) -> None:
        rows = self._rows
        self._found = b""
        rows.seek(wanted)
        self._sought = wanted
        if rows.valid():
            self._found = rows.key()
        else:
            rows.status()  # raises when it ended because of a damaged file
            self._found = _BEHIND_ALL


class _Page:
    """Collects items up to the limits of a page."""

    def __init__(self, at: int, keys_only: bool, max_items: int, max_bytes: int) -> None:
        self._at = at
        self._keys_only = keys_only
        self._max_items = max_items
        self._left_bytes = max_bytes
        self._left_rows = SCAN_ROWS_MAX
        self._deadline = time.monotonic() + SCAN_SECONDS_MAX
        self._items: list[tuple[bytes, bytes, int]] = []

    def forward(self, rows: RdictIter, low: bytes, high: bytes) -> ScanPage:
        rows.seek(low)
        while rows.valid() and rows.key() < high:
            stored = rows.key()
            prefix = stored[:-8]
            if not self._has_room:
                return ScanPage(self._items, True, decode_key(stored))
            if decode_version(stored) > self._at:
                rows.seek(prefix + _VERSION.pack(_NEWEST - self._at))
                if not rows.valid() or rows.key()[:-8] != prefix:
                    continue
                stored = rows.key()
            if not self._add(stored, rows.value()):
                return ScanPage(self._items, True, decode_key(stored))
            rows.next()
            if rows.valid() and rows.key()[:-8] == prefix:
                rows.seek(prefix + b"\xff" * 8 + b"\x00")
        rows.status()
        return ScanPage(self._items, False, b"")

    def backward(self, rows: RdictIter, low: bytes, high: bytes) -> ScanPage:
        rows.seek_for_prev(high)
        if rows.valid() and rows.key() == high:
            rows.prev()
        while rows.valid() and rows.key() >= low:
            key = decode_key(rows.key())
            if not self._has_room:
                return ScanPage(self._items, True, key + b"\x00")
            found = self._newest_backward(rows, rows.key()[:-8])
            if found is not None and not self._add(*found):
                return ScanPage(self._items, True, key + b"\x00")
        rows.status()
        return ScanPage(self._items, False, b"")

    def _newest_backward(self, rows: RdictIter, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The newest version at or below ``at`` of the key that ``rows`` stands on the oldest version of.

        Leaves ``rows`` before the key. Backwards, versions come oldest first. Steps are cheap and seeks
        are not (each looks into every file), so only a key of many versions is jumped over.
        """
        found: tuple[bytes, bytes] | None = None
        for _ in range(_STEPS_BEFORE_SEEK_MAX):
            stored = rows.key()
            if decode_version(stored) <= self._at:
                found = (stored, rows.value())
            rows.prev()
            if not rows.valid() or rows.key()[:-8] != prefix:
                return found
        rows.seek(prefix + _VERSION.pack(_NEWEST - self._at))
        if not rows.valid():
            rows.status()  # the next seek would forget that a file is damaged
        elif rows.key()[:-8] == prefix:
            found = (rows.key(), rows.value())
        rows.seek_for_prev(prefix)
        return found

    @property
    def _has_room(self) -> bool:
        """Whether another key may be looked at; at least one always may, so that a scan gets on."""
        self._left_rows -= 1
        if self._left_rows < 0 or len(self._items) >= self._max_items:
            return False
        late = self._left_rows % _ROWS_BETWEEN_CLOCKS == 0 and time.monotonic() > self._deadline
        return not late

    def _add(self, stored: bytes, value: bytes) -> bool:
        """Take a version in, unless it is a tombstone; False when the page is full before it."""
        if value[0] == 0:
            return True
        key = decode_key(stored)
        content = b"" if self._keys_only else value[1:]
        size = len(key) + len(content) + 16
        if self._items and size > self._left_bytes:
            return False
        self._left_bytes -= size
        self._items.append((key, content, decode_version(stored)))
        return True
