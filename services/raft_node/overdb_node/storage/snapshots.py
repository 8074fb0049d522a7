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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from rocksdict import Checkpoint

from overdb_node.raft.types import Snapshot
from overdb_node.storage import configurations
from overdb_node.storage.data import DataStore
from overdb_node.storage.errors import CorruptSnapshot
from overdb_node.storage.files import fsync_path, fsync_tree, remove, write_atomically

_LENGTH = struct.Struct(">Q")
_BLOCK_BYTES = 1 << 20
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
        except (ValueError, KeyError, TypeError) as error:
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
    """A stream that comes in, in order, chunk by chunk."""

    def __init__(self, directory: Path, index: int, term: int) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._path = directory / "incoming.tmp"
        self.key = (index, term)
        self.size = 0
        self._file = self._path.open("wb")

    def write(self, offset: int, data: bytes) -> None:
        assert offset == self.size, f"chunk at {offset} after {self.size}"
        self._file.write(data)
        self.size += len(data)

    def drop(self) -> None:
        with contextlib.suppress(OSError):  # what waits in its buffer may find no room
            self._file.close()
        self._path.unlink(missing_ok=True)

    def finish(self) -> Snapshot:
        """Verify everything, unpack it durably below the directory, return what it is.

        Raises CorruptSnapshot; what was staged is gone then.
        """
        self._file.close()
        unpacked = self._directory / "unpacking.tmp"
        remove(unpacked)
        (unpacked / "db").mkdir(parents=True)
        try:
            snapshot = replace(self._unpack(unpacked), size=self.size)
            if (snapshot.index, snapshot.term) != self.key:
                raise CorruptSnapshot(f"snapshot {snapshot.checkpoint} came for {self.key}")
        except (CorruptSnapshot, OSError):
            remove(unpacked)
            raise
        finally:
            self._path.unlink(missing_ok=True)
        fsync_tree(unpacked)
        final = self._directory / snapshot.checkpoint
        remove(final)
        unpacked.rename(final)
        fsync_path(self._directory)
        return snapshot

    def _unpack(self, target: Path) -> Snapshot:
        with self._path.open("rb") as stream:
            head = stream.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                raise CorruptSnapshot("the snapshot stream has no manifest")
            length = _LENGTH.unpack(head)[0]
            if length > MANIFEST_BYTES_MAX:
                raise CorruptSnapshot(f"the snapshot's manifest claims {length} bytes")
            content = stream.read(length)
            manifest = _Manifest.parse(content)
            for name, size, crc in manifest.files:
                self._unpack_file(stream, target / "db" / name, size, crc)
            if stream.read(1):
                raise CorruptSnapshot("the snapshot stream goes on behind its last file")
            (target / _MANIFEST).write_bytes(content)
        return manifest.snapshot

    def _unpack_file(self, stream: Any, path: Path, size: int, crc: int) -> None:
        found, left = 0, size
        with path.open("wb") as file:
            while left and (block := stream.read(min(left, _BLOCK_BYTES))):
                found = google_crc32c.extend(found, block)
                file.write(block)
                left -= len(block)
        if left or found != crc:
            raise CorruptSnapshot(
                f"file {path.name} of the snapshot has a wrong checksum or length"
            )
