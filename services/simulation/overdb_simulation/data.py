"""The applied state in memory, durable up to its last flush: ``storage.data.DataStore`` without RocksDB.

    NNNNNN.sst   crc32c (4) | msgpack of what changed since the file before: applied index and term,
                 rows (key, version, value) or, removed, (key, version), records
    MANIFEST     crc32c (4) | msgpack of the next file's number and the files that count, oldest first

A file counts when the MANIFEST that names it has its name: what is half written is never read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import google_crc32c
import msgpack

from overdb_node.storage import data as production
from overdb_node.storage.data import ScanPage, Swept, decode_key, decode_version, encode_version
from overdb_node.storage.digest import Canonical, ContentDigest
from overdb_node.storage.tables import Cost
from overdb_node.storage.value_cache import OVERHEAD_BYTES, ValueCache
from overdb_simulation.disk import HANDLES
from overdb_simulation.paths import SimulatedPath

FILES_MAX = 6
VALUE_CACHE_BYTES = 24 * OVERHEAD_BYTES  # so that keys leave it too
BATCHES_BETWEEN_FLUSHES = (20, 500)  # at random: a memtable is full, and nobody asked for it
_ROW_BYTES = 100  # in memory, roughly
_MANIFEST = "MANIFEST"
_CRC = struct.Struct(">I")

Version = tuple[int, bytes | None]


class SimulatedDataStore:
    """Keys with their versions, ascending. Errors are plain Exceptions, as rocksdict's are."""

    def __init__(self, directory: SimulatedPath, *, read_only: bool = False) -> None:
        self.directory = directory
        self._read_only = read_only
        self._versions: dict[bytes, list[Version]] = {}
        self._keys: list[bytes] = []  # ascending
        self._records: dict[bytes, bytes] = {}
        self._applied = (0, 0)
        self._changed_rows: list[tuple[Any, ...]] = []  # since the last flush, in order
        self._changed_records: dict[bytes, bytes | None] = {}
        self._has_changed = False
        self._files: list[str] = []
        self._files_bytes = 0
        self._next_number = 1
        self._error = ""  # a background flush failed: nothing is taken any more
        self._has_no_room = False  # for a background flush: nothing is taken until one has found it
        self._is_open = True
        self._digest: ContentDigest | None = None
        self._values = ValueCache(VALUE_CACHE_BYTES)
        self._until_flush = self._batches()
        self.tables = SimulatedTables(self)
        try:
            self._recover()
        except OSError as error:
            raise Exception(f"IO error: {error}") from None

    # --- files ------------------------------------------------------------------------------------

    def _recover(self) -> None:
        manifest = self.directory / _MANIFEST
        if not manifest.exists():
            if self._read_only or any(self.directory.glob("*.sst")):
                raise Exception(f"Corruption: {manifest} is missing")
            self.directory.mkdir(exist_ok=True)
            self._write_manifest()
            return
        self._next_number, self._files = _read(manifest)
        for name in self._files:
            self._load(*_read(self.directory / name))
            self._files_bytes += (self.directory / name).stat().st_size
        if not self._read_only:
            self._write_manifest()  # as RocksDB: what was read may be in the page cache only
            for path in (*self.directory.glob("*.sst"), *self.directory.glob("*.tmp")):
                if path.name not in self._files:
                    path.unlink()

    def _load(self, applied: list[int], rows: list[Any], records: dict[bytes, Any]) -> None:
        self._applied = (applied[0], applied[1])
        for row in rows:
            if len(row) == 3:
                self._put(*row)
            else:
                self._remove(*row)
        for name, content in records.items():
            self._put_record(name, content)

    def flush(self) -> None:
        """One more file, or one for all when there are many."""
        self._check_open()
        if not self._has_changed:
            return
        if self._error:
            raise Exception(self._error)
        try:
            self._flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                self._error = f"IO error: {error}"
            raise Exception(f"IO error: {error}") from None

    def _flush(self, *, merges: bool = False) -> None:
        merges |= self.tables.automatic and len(self._files) >= FILES_MAX
        rows: Iterable[tuple[Any, ...]] = self._changed_rows
        records: dict[bytes, bytes | None] = self._changed_records
        if merges:
            rows = [(key, *version) for key in self._keys for version in self._versions[key]]
            records = dict(self._records)
        name = f"{self._next_number:06d}.sst"
        self._next_number += 1
        path, old = self.directory / name, self._files
        try:
            size = _write(path, (self._applied, list(rows), records))
            _fsync(self.directory)
            self._files = [name] if merges else [*old, name]
            self._write_manifest()
        except OSError:
            self._files = old
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        self._files_bytes = size if merges else self._files_bytes + size
        self._changed_rows, self._changed_records, self._has_changed = [], {}, False
        for obsolete in old if merges else ():
            (self.directory / obsolete).unlink()

    def _write_manifest(self) -> None:
        temporary = self.directory / f"{_MANIFEST}.tmp"
        _write(temporary, (self._next_number, self._files))
        temporary.rename(self.directory / _MANIFEST)
        _fsync(self.directory)

    def copy_to(self, target: SimulatedPath) -> None:
        """Link the files into a new directory. Nothing of it is durable before it is fsynced."""
        self.flush()
        target.mkdir()
        for name in (*self._files, _MANIFEST):
            if name == _MANIFEST:
                (target / name).write_bytes((self.directory / name).read_bytes())
            else:
                target.disk.link(self.directory / name, target / name)

    def _batches(self) -> int:
        return self.directory.disk.random.randint(*BATCHES_BETWEEN_FLUSHES)

    def _flush_in_background(self) -> None:
        """No space: what is in memory waits for it, and no write is taken until there is (RocksDB looks
        every few seconds). Anything else: no write is taken any more."""
        self._values = ValueCache(VALUE_CACHE_BYTES)
        self._until_flush = self._batches()
        self._has_no_room = False
        try:
            self._flush()
        except OSError as error:
            self._has_no_room = error.errno == errno.ENOSPC
            if not self._has_no_room:
                self._error = f"IO error: {error}"

    def close(self) -> None:
        """As RocksDB does without its log, write what is in memory, and say nothing when that fails."""
        if self._digest is not None:
            self._digest.close()
        if self._is_open and not self._read_only and self._has_changed and not self._error:
            with contextlib.suppress(OSError):
                self._flush()
        self._is_open = False

    def release(self) -> None:
        """No iterator keeps a file here."""

    def compact(self) -> None:
        """One file in the place of all. Raises as ``flush``."""
        self._check_open()
        try:
            self._flush(merges=True)
        except OSError as error:
            raise Exception(f"IO error: {error}") from None

    @property
    def row_bytes(self) -> int:
        """Of what is live, roughly."""
        return sum(len(v) if v else 0 for key in self._keys for _, v in self._versions[key])

    def _check_open(self) -> None:
        if not self._is_open:
            raise Exception("DB already closed")

    @property
    def database(self) -> SimulatedDataStore:
        return self

    @property
    def size_bytes(self) -> int:
        return self._files_bytes + _ROW_BYTES * len(self._changed_rows)

    # --- writing ----------------------------------------------------------------------------------

    def write(
        self,
        versions: Collection[tuple[bytes, int, bytes | None]],
        records: Iterable[tuple[bytes, bytes | None]],
        applied_index: int,
        applied_term: int,
    ) -> None:
        if self._error or self._read_only or not self._is_open:
            raise Exception(self._error or "Not supported operation in read only mode or closed DB")
        if self._has_no_room:
            self._flush_in_background()
            if self._has_no_room:
                raise Exception(f"IO error: {os.strerror(errno.ENOSPC)}")
        changed = self._changed_rows
        for row in versions:
            self._put(*row)
            changed.append(row)
        for name, content in records:
            self._put_record(name, content)
            self._changed_records[name] = content
        self._applied = (applied_index, applied_term)
        self._has_changed = True
        self._values.update(versions)
        self._until_flush -= 1
        if self._until_flush <= 0:
            self._flush_in_background()

    def _put(self, key: bytes, version: int, value: bytes | None) -> None:
        found = self._versions.get(key)
        if found is None:
            self._versions[key] = [(version, value)]
            insort(self._keys, key)
        elif found[-1][0] < version:
            found.append((version, value))
        else:
            position = bisect_left(found, (version,))
            same = found[position][0] == version
            found[position : position + same] = [(version, value)]

    def _remove(self, key: bytes, version: int) -> None:
        found = self._versions.get(key, [])
        position = bisect_left(found, (version,))
        if position < len(found) and found[position][0] == version:
            del found[position]
            if not found:
                del self._versions[key]
                del self._keys[bisect_left(self._keys, key)]

    def _put_record(self, name: bytes, content: bytes | None) -> None:
        if content is None:
            self._records.pop(name, None)
        else:
            self._records[name] = content

    # --- reading ----------------------------------------------------------------------------------

    def applied(self) -> tuple[int, int]:
        return self._applied

    def newest(self, key: bytes, at: int | None = None) -> Version | None:
        found = self._versions.get(key)
        if found is None:
            return None
        last = found[-1]
        if at is None or last[0] <= at:
            return last
        position = bisect_left(found, (at + 1,))
        return found[position - 1] if position else None

    def newest_many(self, wanted: Sequence[tuple[bytes, int | None]]) -> list[Version | None]:
        return self._values.newest_many(wanted, lambda: self.newest)

    def record(self, name: bytes) -> bytes | None:
        return self._records.get(name)

    def records(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(row for row in self._records.items() if row[0].startswith(prefix)))

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
        """As the production one, without its limit of time: here none passes."""
        low = bisect_left(self._keys, start)
        high = bisect_left(self._keys, end) if end else len(self._keys)
        items: list[tuple[bytes, bytes, int]] = []
        left_bytes, left_rows = max_bytes, production.SCAN_ROWS_MAX
        for position in range(high - 1, low - 1, -1) if reverse else range(low, high):
            key = self._keys[position]
            resume = key + b"\x00" if reverse else key
            left_rows -= 1
            if left_rows < 0 or len(items) >= max_items:
                return ScanPage(items, True, resume)
            newest = self.newest(key, at)
            if newest is None or newest[1] is None:
                continue
            content = b"" if keys_only else newest[1]
            size = len(key) + len(content) + 16
            if items and size > left_bytes:
                return ScanPage(items, True, resume)
            left_bytes -= size
            items.append((key, content, newest[0]))
        return ScanPage(items, False, b"")

    def sweep(self, cursor: bytes, floor: int, rows_max: int) -> Swept:
        """As the production one; its cursors too are encoded rows."""
        doomed: list[tuple[bytes, int]] = []
        previous: bytes | None = None
        anchor: tuple[bytes, int] | None = None  # the key's newest version at or below the floor
        position: bytes | None = None
        for visited, (key, version, value) in enumerate(self._rows_from(cursor)):
            if key != previous:
                previous, anchor = key, None
            if visited >= rows_max:
                position = encode_version(*(anchor or (key, version)))
                doomed = [row for row in doomed if row != anchor]
                break
            if anchor is not None:
                doomed.append((key, version))
            elif version <= floor:
                anchor = (key, version)
                if value is None:
                    doomed.append(anchor)
        if not doomed:
            return Swept(position, 0)
        if self._has_no_room:
            raise Exception(f"IO error: {os.strerror(errno.ENOSPC)}")
        for row in doomed:
            self._remove(*row)
        self._changed_rows += doomed
        self._has_changed = True
        return Swept(position, len(doomed), encode_version(*doomed[0]), encode_version(*doomed[-1]))

    def _rows_from(self, cursor: bytes) -> Iterator[tuple[bytes, int, bytes | None]]:
        """Rows at and behind a cursor: keys ascending, of each the newest version first."""
        first, newest = (decode_key(cursor), decode_version(cursor)) if cursor else (b"", None)
        for position in range(bisect_left(self._keys, first), len(self._keys)):
            key = self._keys[position]
            for version, value in reversed(self._versions[key]):
                if newest is None or key != first or version <= newest:
                    yield key, version, value

    # --- comparison -------------------------------------------------------------------------------

    def begin_digest(self, canonical: Canonical) -> ContentDigest:
        """Production's digest, over the rows as RocksDB has them."""
        if self._digest is not None:
            self._digest.close()
        self._digest = ContentDigest(self, canonical)  # type: ignore[arg-type]
        return self._digest

    def iter(self, _: object) -> _Rows:
        records = [(b"r" + name, content) for name, content in sorted(self._records.items())]
        versions = [
            (encode_version(key, version), b"\x00" if value is None else b"\x01" + value)
            for key, version, value in self._rows_from(b"")
        ]
        return _Rows([*records, *versions])


class SimulatedTables:
    """``storage.tables.Tables`` of files that hold changes: a compaction makes one of all."""

    def __init__(self, store: SimulatedDataStore) -> None:
        self._store = store
        self.automatic = True

    @property
    def size_bytes(self) -> int:
        return self._store._files_bytes

    @property
    def memory_bytes(self) -> int:
        rows = self._store._changed_rows
        return sum(_ROW_BYTES + len(row[2] or b"") for row in rows if len(row) == 3)

    @property
    def compaction_bytes(self) -> int:
        return self.size_bytes

    @property
    def newest_files(self) -> int:
        return len(self._store._files)

    def compact_automatically(self, wanted: bool) -> None:
        self.automatic = wanted

    def cost(self, low: bytes, high: bytes) -> Cost:
        return Cost(self.size_bytes, self._store.row_bytes)

    def compact(self, low: bytes, high: bytes) -> None:
        self._store.compact()


class _Rows:
    """Stands for rocksdict's RdictIter over a moment's state."""

    def __init__(self, rows: list[tuple[bytes, bytes]]) -> None:
        self._rows = rows
        self._position = 0

    def seek(self, key: bytes) -> None:
        self._position = bisect_left(self._rows, (key,))

    def valid(self) -> bool:
        return self._position < len(self._rows)

    def key(self) -> bytes:
        return self._rows[self._position][0]

    def value(self) -> bytes:
        return self._rows[self._position][1]

    def next(self) -> None:
        self._position += 1

    def status(self) -> None:
        pass


class SimulatedCheckpoint:
    def __init__(self, database: SimulatedDataStore) -> None:
        self._store = database

    def create_checkpoint(self, path: str) -> None:
        try:
            self._store.copy_to(type(self._store.directory)(path))
        except OSError as error:
            raise Exception(f"IO error: {error}") from None


def _write(path: SimulatedPath, content: Any) -> int:
    """Write and fsync a file; return its size. Its name is not durable yet."""
    body = msgpack.packb(content)
    with path.open("wb") as file:
        size = file.write(_CRC.pack(google_crc32c.value(body)) + body)
        file.flush()
        path.disk.fsync(HANDLES[file.fileno()])
    return size


def _read(path: SimulatedPath) -> Any:
    content = path.read_bytes()
    body = content[_CRC.size :]
    if len(content) < _CRC.size or _CRC.unpack(content[: _CRC.size])[0] != google_crc32c.value(
        body
    ):
        raise Exception(f"Corruption: block checksum mismatch in {path}")
    return msgpack.unpackb(body, strict_map_key=False)


def _fsync(directory: SimulatedPath) -> None:
    handle = directory.disk.open(directory)
    try:
        directory.disk.fsync(handle)
    finally:
        directory.disk.close(handle.number)
