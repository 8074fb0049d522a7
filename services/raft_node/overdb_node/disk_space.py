"""Room on the file system of a replica's directory, and how much of it is kept (PROTOCOL 1.4).

    free >= reserve + what compactions may take    FREE
    free >= reserve                                FREE, and ``reclaims``: old versions and logs go at once
    free >= reserve / 4                            LOW: nothing that stores a value is taken; deletes are
    less                                           FULL: only small entries are appended: time goes on

The reserve is for what is written without being asked for: memory of RocksDB that is flushed, log segments,
a compaction. Replicas that share a file system see the same free bytes, and each of them needs its part.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from overdb_node.raft.types import DiskState

_MIB = 1 << 20
_HYSTERESIS = 8  # a state is left with an eighth more than it is entered with
_FULL_PART = 4  # of the reserve
_LAST_PART = 32  # of the reserve: left by what makes room, for small entries meanwhile


class DiskSpace:
    """The last look at the file system. ``state`` and ``reclaims`` change in ``look`` alone.

    ``reserve_bytes`` is of one or two replicas; each further one on the same file system adds half of it.
    """

    def __init__(self, directory: Path, reserve_bytes: int, sharers: int) -> None:
        self._directory = directory
        self._reserve_of_two = reserve_bytes
        self._sharers_set = sharers  # 0: those beside this directory are counted
        self._sharers = max(1, sharers)
        self.free_bytes = 0
        self._taken_bytes = 0
        self.state = DiskState.FREE
        self.reclaims = False  # room is made without being asked for
        self.count_sharers()

    @property
    def reserve_bytes(self) -> int:
        """With less than this nothing that stores a value is taken."""
        return self._reserve_of_two * max(2, self._sharers) // 2

    @property
    def full_bytes(self) -> int:
        """With less than this only small entries are appended."""
        return self.reserve_bytes // _FULL_PART

    def count_sharers(self) -> None:
        """Count the replicas on this file system, as far as their directories lie beside each other."""
        if not self._sharers_set:
            self._sharers = max(1, _replicas_beside(self._directory))

    def look(self, compaction_bytes: int, memory_bytes: int) -> bool:
        """Look at the file system; return whether ``state`` has changed.

        ``compaction_bytes``: room that a compaction of this replica may take while it runs.
        ``memory_bytes``: what its data has in memory. It takes that much when it is flushed, and without a
        flush no log can go: so it counts as taken already, and as much of each sharer.
        """
        self.free_bytes = shutil.disk_usage(self._directory).free
        self._taken_bytes = memory_bytes * self._sharers
        before = self.state
        self.state = DiskState.FREE
        if self._is_below(self.full_bytes, before is DiskState.FULL):
            self.state = DiskState.FULL
        elif self._is_below(self.reserve_bytes, before is not DiskState.FREE):
            self.state = DiskState.LOW
        wanted = self.reserve_bytes + compaction_bytes * self._sharers if self.reserve_bytes else 0
        self.reclaims = self._is_below(wanted, self.reclaims)
        return self.state is not before

    def _is_below(self, limit: int, was_below: bool) -> bool:
        return self.free_bytes - self._taken_bytes < limit + (
            limit // _HYSTERESIS if was_below else 0
        )

    def fits(self, size: int) -> bool:
        """Whether so many bytes leave something for small entries."""
        return self.free_bytes - size >= self.reserve_bytes // _LAST_PART

    @property
    def snapshot_bytes_max(self) -> int | None:
        """The largest snapshot that can be taken from the leader: it is unpacked beside what is here.

        Half of what is free: installing it takes room too, for a new log, copies and what RocksDB writes
        when it opens. It may use the reserve: it takes the place of all that is here, which goes at the end.
        """
        if not self.reserve_bytes:
            return None
        return max(0, self.free_bytes - self.reserve_bytes // _LAST_PART) // 2

    @property
    def problem(self) -> str:
        """What an operator should know and do; empty when there is room."""
        if self.state is DiskState.FREE:
            return ""
        numbers = f"{self.free_bytes // _MIB} MiB free, it keeps {self.reserve_bytes // _MIB} MiB"
        if self.state is DiskState.LOW:
            return (
                f"disk nearly full ({numbers}): puts are refused, deletes are taken. "
                "Delete keys, which makes room after OVERDB_RETENTION_SECONDS, or enlarge the disk"
            )
        return (
            f"disk full ({numbers}): it stores nothing, and goes on by itself when there is room. "
            "Enlarge the disk, or remove other files from it"
        )

    def problem_of_snapshot(self, size: int) -> str:
        """What an operator should know and do while a snapshot of that size is needed and does not fit."""
        return (
            f"disk full ({self.free_bytes // _MIB} MiB free): it has fallen behind, and the leader's "
            f"snapshot of {size / _MIB:.1f} MiB does not fit twice. "
            "Enlarge the disk, or remove other files from it"
        )


def _replicas_beside(directory: Path) -> int:
    """How many directories of replicas lie beside this one, on its file system; 0 where it cannot be seen."""
    try:
        device = directory.stat().st_dev
        others = (other for other in directory.parent.iterdir() if (other / "node.json").exists())
        return sum(other.stat().st_dev == device for other in others)
    except OSError:
        return 0
