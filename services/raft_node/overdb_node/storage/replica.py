"""Everything that one replica has on disk, and the one file that says which of it counts.

    node.json          whose directory this is, and its newest start
    starts.json        how far its start number has grown since, and the starts of other replicas
    CURRENT            log[0], and which log and which data belong to it: the commit point of all changes
    log-<n>/           the durable log; a new generation when an installed snapshot drops it
    data-<n>/          RocksDB; a new one for each installed snapshot
    snapshots/         checkpoints

CURRENT is replaced by a rename. What it does not name is debris of a change that did not come to its
end, or was; it is removed at the next open.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from overdb_common.errors import StartupError
from overdb_node.machine.clock import clock_of
from overdb_node.machine.machine import CLOCK_RECORD
from overdb_node.raft.entry_window import EntryWindow
from overdb_node.raft.types import Entry, HardState, Member, Snapshot
from overdb_node.storage import configurations, snapshots, starts
from overdb_node.storage import identity as identities
from overdb_node.storage.data import DataStore
from overdb_node.storage.errors import NoSpace, Overtaken, UnreadableEntries, means_no_space
from overdb_node.storage.files import fsync_path, fsync_tree, remove, write_atomically
from overdb_node.storage.founding import REPLACE
from overdb_node.storage.identity import Identity
from overdb_node.storage.log import DurableLog
from overdb_node.storage.snapshots import Damage, FileSum, SnapshotReader, Staging, Taken
from overdb_node.storage.starts import NO_START

EVERY_INDEX = 1 << 62
_CURRENT = "CURRENT"
_SNAPSHOTS = "snapshots"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What Raft starts with; all of it is durable. ``entries`` are those of ``window`` in memory."""

    hard_state: HardState
    snapshot: Snapshot
    window: EntryWindow
    applied_index: int
    applied_term: int

    @property
    def entries(self) -> list[Entry]:
        return self.window.in_memory


_FORMAT = 1  # of CURRENT


@dataclass(frozen=True, slots=True)
class _Current:
    snapshot: Snapshot
    log: str
    data: str

    def encode(self) -> bytes:
        first = self.snapshot
        body = json.dumps(
            {
                "format": _FORMAT,
                "index": first.index,
                "term": first.term,
                "clock": first.clock,
                **configurations.to_json(first.configuration),
                "checkpoint": first.checkpoint,
                "size": first.size,
                "log": self.log,
                "data": self.data,
            }
        )
        return f"{body}\n{google_crc32c.value(body.encode()):08x}\n".encode()

    @classmethod
    def read(cls, path: Path) -> _Current:
        try:
            body, crc = path.read_text().splitlines()
            if int(crc, 16) != google_crc32c.value(body.encode()):
                raise ValueError("its checksum does not fit")
            content = json.loads(body)
            identities.refuse_newer(path, content["format"], _FORMAT)
            configuration = configurations.from_json(content)
            first = Snapshot(
                content["index"],
                content["term"],
                content["clock"],
                configuration.members,
                content["checkpoint"],
                content["size"],
                configuration.retired,
            )
            return cls(first, content["log"], content["data"])
        except (OSError, ValueError, KeyError) as error:
            raise StartupError(f"{path} is corrupt: {error}", REPLACE) from None


class ReplicaStorage:
    """The directory of one replica, open. ``recovered`` is what it held when it was opened."""

    def __init__(
        self, directory: Path, current: _Current, lock: object, memory_bytes_max: int
    ) -> None:
        self._directory = directory
        self._current = current
        self._lock = lock
        # A checkpoint and a change of the database exclude each other.
        self._data_lock = threading.Lock()
        self._staging: Staging | None = None
        self._readers: dict[str, SnapshotReader] = {}
        self.start = NO_START  # ``open`` counts one
        base = current.snapshot.index
        window = EntryWindow(
            base, EVERY_INDEX
        )  # what is applied is not known before the data is open
        self.log, _ = DurableLog.open(
            directory / current.log, base, window=window, memory_bytes_max=memory_bytes_max
        )
        try:
            self.data = DataStore(directory / current.data)
        except Exception as error:
            self.log.close()
            if means_no_space(error):
                raise NoSpace(str(error)) from error
            # rocksdict raises plain Exception for everything that RocksDB reports
            raise StartupError(f"{directory / current.data}: {error}", REPLACE) from None
        index, term = self.data.applied()
        self._restore(window, index)
        self.recovered = Recovered(self.log.hard_state, current.snapshot, window, index, term)
        self._check()

    def _restore(self, window: EntryWindow, applied: int) -> None:
        """Have in memory again what is to be applied once more."""
        again: list[Entry] = []
        while (
            applied >= window.base and (first := applied + 1 + len(again)) <= window.evicted_index
        ):
            try:
                again += self.log.read_entries(first, window.evicted_index, 1 << 62)
            except UnreadableEntries as error:
                raise StartupError(str(error), REPLACE) from error
        window.restore(again, applied)

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: Identity,
        genesis: Snapshot,
        memory_bytes_max: int = EVERY_INDEX,
    ) -> ReplicaStorage:
        """Open the directory, founding it if it is empty; applied entries may cost so much memory.

        Raises StartupError when it is somebody else's, in use, or damaged.
        """
        lock = identities.lock(directory)
        try:
            is_new = identities.claim(directory, identity)
            if not (directory / _CURRENT).exists():
                _found(directory, genesis, is_new=is_new)
            current = _Current.read(directory / _CURRENT)
            # Killed behind the rename, only the page cache has this CURRENT: it must not be lost when
            # what the one before names is.
            fsync_path(directory)
            _remove_debris(directory, current)
            storage = cls(directory, current, lock, memory_bytes_max)
            try:
                storage.start = starts.begin(directory)
            except OSError:
                storage.close()
                raise
            return storage
        except BaseException:
            lock.close()
            raise

    @staticmethod
    def clear_debris(directory: Path, identity: Identity) -> None:
        """Remove what an interrupted transfer or replacement has left; opening does so too, and needs room.

        Raises StartupError as ``open`` does.
        """
        with contextlib.closing(identities.lock(directory)):
            if (directory / _CURRENT).exists():
                identities.claim(directory, identity)
                current = _Current.read(directory / _CURRENT)
                fsync_path(directory)  # as in ``open``
                _remove_debris(directory, current)

    def _check(self) -> None:
        first, recovered = self._current.snapshot, self.recovered
        last = recovered.window.last_index
        if not first.index <= recovered.applied_index <= last:
            raise StartupError(
                f"{self._directory}: the data is at index {recovered.applied_index}, the log has "
                f"{first.index} to {last}",
                REPLACE,
            )

    def close(self) -> None:
        self.log.close()
        if self._staging is not None:
            self._staging.drop()
        with self._data_lock:
            self.data.close()
        self._lock.close()  # type: ignore[attr-defined]

    @property
    def data_path(self) -> Path:
        """Where the state lies; an installed snapshot lies elsewhere."""
        return self._directory / self._current.data

    @property
    def log_bytes(self) -> int:
        return self.log.size_bytes

    def read_entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Durable entries of the log, for any thread. Raises UnreadableEntries."""
        return self.log.read_entries(first, last, bytes_max)

    @property
    def data_bytes(self) -> int:
        return self.data.size_bytes

    # --- the first element changes ----------------------------------------------------------------

    def take_snapshot(self, damaged: Sequence[FileSum] = ()) -> Taken | None:
        """Checkpoint the state as it is; writes may go on. None when there is nothing new.

        ``damaged``: files of the present snapshot. Raises CorruptSnapshot when the state is made of them.
        """
        with self._data_lock:
            taken = snapshots.take(self.data, self._directory / _SNAPSHOTS, CLOCK_RECORD)
        if taken is not None:
            snapshots.refuse_shared(taken, damaged)
        return taken

    def seal_snapshot(
        self, taken: Taken, members: tuple[Member, ...], retired: tuple[int, ...] = ()
    ) -> Snapshot:
        """Complete a checkpoint by the members as of its index; it can be sent and compacted to now.

        Raises Overtaken when a snapshot installed meanwhile, in the log thread, has made it needless:
        then it is being released under our hands.
        """
        clock = clock_of(taken.clock_record)
        bare = Snapshot(taken.index, taken.term, clock, members, retired=retired)
        try:
            return snapshots.seal(bare, taken.path)
        except OSError as error:
            if self._current.snapshot.index >= taken.index:
                raise Overtaken from error
            remove(taken.path)  # without a manifest it is of no use
            raise

    def compact_data(self, low: bytes, high: bytes) -> None:
        """Compact a range of the data and wait for it. Not in the loop. Raises RocksDB's plain Exception."""
        with self._data_lock:
            self.data.tables.compact(low, high)

    def flush_data(self) -> None:
        """Write what the data has in memory to disk, and wait. Raises as ``compact_data``."""
        with self._data_lock:
            self.data.flush()

    def pinned_bytes(self) -> int:
        """Bytes of table files that only the snapshots keep: the live data has replaced them."""
        live = self.data_path
        files = (self._directory / _SNAPSHOTS / self._current.snapshot.checkpoint / "db").glob(
            "*.sst"
        )
        if not self._current.snapshot.checkpoint:
            return 0
        return sum(path.stat().st_size for path in files if not (live / path.name).exists())

    def compact(self, snapshot: Snapshot) -> None:
        """Make a sealed snapshot the first element, then drop the log before it. In the log thread."""
        self._switch(_Current(snapshot, self._current.log, self._current.data))
        self.log.drop_below(snapshot.index)

    def release_below(self, index: int) -> None:
        """Delete the snapshots of smaller indexes: nobody is being sent them any more."""
        for path in (self._directory / _SNAPSHOTS).glob("*-*"):
            if path.name[0].isdigit() and int(path.name.split("-")[0]) < index:
                self._readers.pop(path.name, None)
                with contextlib.suppress(
                    OSError
                ):  # one that is being sealed: gone at the next time
                    remove(path)

    def install(
        self,
        snapshot: Snapshot,
        keep_entries_after: bool,
        step: Callable[[str], object] = str,
    ) -> None:
        """Make a staged snapshot the first element and the state. In the log thread.

        Killed at any ``step``, the directory is as before or as after.
        """
        current = self._current
        data = _successor(current.data)
        with self._data_lock, contextlib.ExitStack() as opened_files:
            self._copy_checkpoint(snapshot.checkpoint, self._directory / data)
            step("data copied")
            log = self.log
            if not keep_entries_after:
                name = _successor(current.log)
                remove(self._directory / name)
                log = DurableLog.create(self._directory / name, self.log.hard_state)
                opened_files.callback(log.close)  # without room it is made anew
                step("log created")
            # Opening takes room. It comes before the switch, so that a disk without any leaves all as it was.
            opened = DataStore(self._directory / data)
            opened_files.callback(opened.close)
            self._switch(_Current(snapshot, current.log if log is self.log else name, data))
            opened_files.pop_all()
            # Adopt both before a later step can fail: memory then matches CURRENT.
            old_data, self.data = self.data, opened
            old_log, self.log = self.log, log
            step("switched")
            old_data.close()
        if old_log is log:
            log.drop_below(snapshot.index)
        else:
            old_log.close()
        _remove_replaced(self._directory, self._current)
        self.release_below(snapshot.index)

    def _copy_checkpoint(self, name: str, target: Path) -> None:
        """Link what never changes, copy the rest."""
        remove(target)
        target.mkdir()
        for path in sorted((self._directory / _SNAPSHOTS / name / "db").iterdir()):
            if path.suffix == ".sst":
                os.link(path, target / path.name)
            else:
                shutil.copyfile(path, target / path.name)
        fsync_tree(target)
        fsync_path(self._directory)

    def _switch(self, current: _Current) -> None:
        write_atomically(self._directory / _CURRENT, current.encode())
        self._current = current

    # --- streams ----------------------------------------------------------------------------------

    def read_snapshot(self, snapshot: Snapshot, offset: int, length: int) -> bytes:
        """Bytes of a sealed snapshot's stream."""
        reader = self._readers.get(snapshot.checkpoint)
        if reader is None:
            reader = SnapshotReader(self._directory / _SNAPSHOTS / snapshot.checkpoint)
            self._readers[snapshot.checkpoint] = reader
        return reader.read(offset, length)

    def damage(self, snapshot: Snapshot) -> Damage | None:
        """Read all of a sealed snapshot; None if it is whole."""
        return snapshots.damage(self._directory / _SNAPSHOTS / snapshot.checkpoint)

    def stage(
        self, index: int, term: int, offset: int, size: int, data: bytes
    ) -> tuple[int, Snapshot | None]:
        """Take in a chunk; return what is staged, and with the last chunk the verified snapshot.

        Raises CorruptSnapshot when it is not what was sent, OSError without room; nothing is staged then.
        """
        if offset == 0 or self._staging is None or self._staging.key != (index, term):
            if self._staging is not None:
                dropped, self._staging = self._staging, None
                dropped.drop()
            self._staging = Staging(self._directory / _SNAPSHOTS, index, term)
        staging = self._staging
        if offset != staging.size:
            return staging.size, None
        try:
            staging.write(offset, data)
            if staging.size < size:
                return staging.size, None
            self._staging = None
            return size, staging.finish()
        except OSError:
            self._staging = None
            staging.drop()
            raise


def _successor(name: str) -> str:
    kind, _, number = name.rpartition("-")
    return f"{kind}-{int(number) + 1}"


def _found(directory: Path, genesis: Snapshot, *, is_new: bool) -> None:
    """Make the first log, data and CURRENT; what an interrupted founding left behind goes first."""
    logs = list(directory.glob("log-*"))
    if not is_new and any(DurableLog.has_frames(path) for path in logs):
        raise StartupError(f"{directory} has a log and no {_CURRENT}", REPLACE)
    for path in (*logs, *directory.glob("data-*"), directory / _SNAPSHOTS):
        remove(path)
    DurableLog.create(directory / "log-1", HardState()).close()
    DataStore(directory / "data-1").close()
    fsync_tree(directory / "data-1")
    (directory / _SNAPSHOTS).mkdir()
    write_atomically(directory / _CURRENT, _Current(genesis, "log-1", "data-1").encode())


def _remove_replaced(directory: Path, current: _Current) -> None:
    for path in (*directory.glob("log-*"), *directory.glob("data-*")):
        if path.name not in (current.log, current.data):
            remove(path)


def _remove_debris(directory: Path, current: _Current) -> None:
    _remove_replaced(directory, current)
    for path in directory.glob("*.tmp"):  # of a replacement that was interrupted
        remove(path)
    for path in (directory / _SNAPSHOTS).glob("*"):
        if path.name != current.snapshot.checkpoint:
            remove(path)
