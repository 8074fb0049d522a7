"""Snapshots on disk: RocksDB checkpoints, and the byte stream in which one replica sends them to another.

snapshots/<index>-<term>/db/...          the checkpoint
snapshots/<index>-<term>/manifest.json   what it is, and name, size and crc32c of each file; a line with
                                         the crc32c of all that
stream = length of manifest (8) | manifest | the files, in the manifest's order
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import google_crc32c
from rocksdict import Checkpoint

from overdb_node.raft.types import Snapshot
from overdb_node.storage import configurations
from overdb_node.storage.data import DataStore
from overdb_node.storage.errors import CorruptSnapshot
from overdb_node.storage.files import fsync_path, fsync_tree, remove, write_atomically

_LENGTH = struct.Struct(">Q")
_BLOCK_BYTES = 1 << 20
_FLUSHED_BYTES = 8 << 20  # of a file that comes in, at once
_MANIFEST = "manifest.json"
# All of RocksDB's, and none that leads out of a directory.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
MANIFEST_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """A checkpoint whose place in the log is known from itself."""

    index: int
    term: int
    clock_record: bytes  # the machine's record of its clock, as of ``index``
    path: Path


def take(data: DataStore, directory: Path, clock_record: bytes) -> Taken | None:
    """Make a checkpoint below ``directory`` while writes go on; None when there is one of this index.

    What it holds, and up to which index, is read from the checkpoint itself.
    """
    directory.mkdir(exist_ok=True)
    temporary = directory / "taking.tmp"
    remove(temporary)
    temporary.mkdir()
    data.flush()  # what is left to flush for the checkpoint, which stops other threads, is little
    try:
        Checkpoint(data.database).create_checkpoint(str(temporary / "db"))
        copy = DataStore(temporary / "db", read_only=True)
        try:
            index, term = copy.applied()
            clock = copy.record(clock_record) or b""
        finally:
            copy.close()
        path = directory / f"{index}-{term}"
        if path.exists():
            remove(temporary)
            return None
        fsync_tree(temporary)
    except Exception:
        remove(temporary)  # its links keep files that the data may not need for long
        raise
    temporary.rename(path)
    fsync_path(directory)
    return Taken(index, term, clock, path)


def seal(snapshot: Snapshot, path: Path) -> Snapshot:
    """Write the manifest of a checkpoint and return the snapshot with its name and stream size."""
    files = sorted(p for p in (path / "db").iterdir() if p.is_file())
    body = json.dumps(
        {
            "index": snapshot.index,
            "term": snapshot.term,
            "clock": snapshot.clock,
            **configurations.to_json(snapshot.configuration),
            "files": [[p.name, p.stat().st_size, _crc32c(p)] for p in files],
        }
    )
    content = f"{body}\n{google_crc32c.value(body.encode()):08x}\n".encode()
    write_atomically(path / _MANIFEST, content)
    size = _LENGTH.size + len(content) + sum(p.stat().st_size for p in files)
    return replace(snapshot, checkpoint=path.name, size=size)


def _crc32c(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = google_crc32c.extend(crc, block)
    return crc


class FileSum(NamedTuple):
    """A file of a checkpoint as it was when it was sealed."""

    name: str
    size: int
    crc: int

    def fits(self, directory: Path) -> bool:
        """Whether the file is there, can be read, and is as it was."""
        path = directory / self.name
        try:
            return path.stat().st_size == self.size and _crc32c(path) == self.crc
        except OSError:
            return False


class Damage(NamedTuple):
    """What is wrong with a sealed snapshot; ``files`` are those that differ, as they should be."""

    reason: str
    files: tuple[FileSum, ...] = ()


def damage(path: Path) -> Damage | None:
    """Read all of a sealed snapshot; None if it is as it was sealed."""
    try:
        manifest = _Manifest.parse((path / _MANIFEST).read_bytes())
    except (OSError, CorruptSnapshot) as error:
        return Damage(f"{path / _MANIFEST}: {error}")
    files = tuple(file for file in manifest.files if not file.fits(path / "db"))
    if not files:
        return None
    names = ", ".join(file.name for file in files)
    return Damage(f"{path / 'db'}: wrong checksum or length of {names}", files)


def refuse_shared(taken: Taken, damaged: Iterable[FileSum]) -> None:
    """Remove a checkpoint that has a damaged file of another one; CorruptSnapshot then.

    RocksDB never changes an .sst and never uses its name again, and a checkpoint links those of the live
    data. Sealed anew, the damage would have a checksum that fits.
    """
    for file in damaged:
        path = taken.path / "db" / file.name
        if path.suffix == ".sst" and path.exists() and not file.fits(path.parent):
            remove(taken.path)
            raise CorruptSnapshot(f"the live data has the damaged {file.name} too")


class _Manifest(NamedTuple):
    snapshot: Snapshot  # without its stream's size, which the manifest is a part of
    files: list[FileSum]

    @classmethod
    def parse(cls, content: bytes) -> _Manifest:
        """Raises CorruptSnapshot for what ``seal`` has not written."""
        try:
            body, crc = content.decode().splitlines()
            if int(crc, 16) != google_crc32c.value(body.encode()):
                raise ValueError("its checksum does not fit")
            fields = json.loads(body)
            index, term = int(fields["index"]), int(fields["term"])
            configuration = configurations.from_json(fields)
            files = [FileSum(str(n), int(s), int(c)) for n, s, c in fields["files"]]
            snapshot = Snapshot(
                index,
                term,
                int(fields["clock"]),
                configuration.members,
                f"{index}-{term}",
                retired=configuration.retired,
            )
            names = {file.name for file in files}
            if len(names) < len(files) or any(file.size < 0 for file in files):
                raise ValueError("a size below 0, or a name twice")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CorruptSnapshot(f"the snapshot's manifest cannot be read: {error}") from None
        for name, _, _ in files:
            if not _FILE_NAME.fullmatch(name):
                raise CorruptSnapshot(f"the snapshot has a file named {name!r}")
        return cls(snapshot, files)


class SnapshotReader:
    """Random access to the stream of a sealed snapshot.

    Raises CorruptSnapshot when its manifest is damaged or one of its files is short.
    """

    def __init__(self, path: Path) -> None:
        manifest = (path / _MANIFEST).read_bytes()
        self._head = _LENGTH.pack(len(manifest)) + manifest
        self._starts = [0]
        self._paths: list[Path] = []
        offset = len(self._head)
        for name, size, _ in _Manifest.parse(manifest).files:
            self._starts.append(offset)
            self._paths.append(path / "db" / name)
            offset += size
        self.size = offset

    def read(self, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)`` of the stream; fewer at its end."""
        parts = []
        end = min(self.size, offset + length)
        while offset < end:
            part = self._read_part(offset, end - offset)
            if not part:
                raise CorruptSnapshot(f"a file of snapshot {self._paths[0].parent.parent} is short")
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _read_part(self, offset: int, length: int) -> bytes:
        if offset < len(self._head):
            return self._head[offset : offset + length]
        # The first start that is above the offset belongs to the file behind (empty files included).
        position = bisect_right(self._starts, offset) - 1
        with self._paths[position - 1].open("rb") as file:
            file.seek(offset - self._starts[position])
            return file.read(length)


class Staging:
    """A stream that comes in, in order, chunk by chunk. Its files are written where they stay.

    Each chunk is verified and unpacked when it comes. What was written is flushed every few megabytes: all
    of it at the end would hold up the fsyncs of other replicas on the same disk for seconds.
    """

    def __init__(self, directory: Path, index: int, term: int) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._path = directory / "incoming.tmp"
        remove(self._path)
        (self._path / "db").mkdir(parents=True)
        self.key = (index, term)
        self.size = 0
        self._head = b""  # the length of the manifest and the manifest, as far as they have come
        self._snapshot: Snapshot | None = None  # once the manifest is whole
        self._files: Iterator[FileSum] = iter(())  # those that have not begun
        self._file: _IncomingFile | None = None  # the one that is being written
        # The first thing that is wrong. Nothing is written from then on, and ``finish`` says it: a leader
        # takes the refusal of all bytes for damage, and one in the middle for a chunk that was lost.
        self._wrong = ""

    def write(self, offset: int, data: bytes) -> None:
        """Take in the next chunk. Raises OSError; ``finish`` says what is wrong with the bytes."""
        assert offset == self.size, f"chunk at {offset} after {self.size}"
        self.size += len(data)
        if self._wrong:
            return
        try:
            self._unpack(data if self._snapshot is not None else self._after_head(data))
        except CorruptSnapshot as error:
            self._wrong = str(error)

    def drop(self) -> None:
        """Forget all of it. May be called again."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what waits in its buffer may find no room
                self._file.close()
        remove(self._path)

    def finish(self) -> Snapshot:
        """Make the whole stream a durable snapshot below the directory, and return what it is.

        Raises CorruptSnapshot; what was staged is gone then.
        """
        snapshot = self._snapshot
        if snapshot is None:
            self._wrong = self._wrong or "the snapshot stream has no manifest"
        elif self._file is not None:
            self._wrong = self._wrong or self._file.problem
        elif (snapshot.index, snapshot.term) != self.key:
            self._wrong = self._wrong or f"snapshot {snapshot.checkpoint} came for {self.key}"
        if self._wrong or snapshot is None:
            self.drop()
            raise CorruptSnapshot(self._wrong)
        (self._path / _MANIFEST).write_bytes(self._head[_LENGTH.size :])
        fsync_tree(self._path)
        final = self._directory / snapshot.checkpoint
        remove(final)
        self._path.rename(final)
        fsync_path(self._directory)
        return replace(snapshot, size=self.size)

    def _after_head(self, data: bytes) -> bytes:
        """Take what belongs to the manifest; return what follows it."""
        self._head += data
        if len(self._head) < _LENGTH.size:
            return b""
        length = _LENGTH.unpack_from(self._head)[0]
        if length > MANIFEST_BYTES_MAX:
            raise CorruptSnapshot(f"the snapshot's manifest claims {length} bytes")
        end = _LENGTH.size + length
        if len(self._head) < end:
            return b""
        self._head, rest = self._head[:end], self._head[end:]
        manifest = _Manifest.parse(self._head[_LENGTH.size :])
        self._snapshot, self._files = manifest.snapshot, iter(manifest.files)
        self._begin_next()
        return rest

    def _unpack(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            if self._file is None:
                raise CorruptSnapshot("the snapshot stream goes on behind its last file")
            start += self._file.write(data, start)
            self._begin_next()

    def _begin_next(self) -> None:
        """Go on to the next file that has bytes, when the present one has all of its own."""
        while self._file is None or self._file.is_whole:
            if self._file is not None:
                self._file.finish()
            following = next(self._files, None)
            self._file = following and _IncomingFile(self._path / "db" / following.name, following)
            if following is None:
                return


class _IncomingFile:
    """A file that is being received. Verifies its size and crc32c; ``finish`` makes it durable."""

    def __init__(self, path: Path, wanted: FileSum) -> None:
        self._wanted = wanted
        self._path = path
        self._file = path.open("wb")
        self._size = 0
        self._crc = 0
        self._unflushed_bytes = 0

    @property
    def is_whole(self) -> bool:
        return self._size == self._wanted.size

    @property
    def problem(self) -> str:
        return f"file {self._wanted.name} of the snapshot has a wrong checksum or length"

    def write(self, data: bytes, start: int) -> int:
        """Write the bytes from ``start`` on that belong to this file; return how many they are."""
        part = data[start : start + self._wanted.size - self._size]
        self._file.write(part)
        self._crc = google_crc32c.extend(self._crc, part)
        self._size += len(part)
        self._unflushed_bytes += len(part)
        if self._unflushed_bytes >= _FLUSHED_BYTES:
            self._flush()
        return len(part)

    def finish(self) -> None:
        """Raises CorruptSnapshot when it is not what was sent."""
        self._flush()
        self._file.close()
        if self._crc != self._wanted.crc:
            raise CorruptSnapshot(self.problem)

    def close(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        fsync_path(self._path)
        self._unflushed_bytes = 0
