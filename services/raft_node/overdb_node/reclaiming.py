"""Makes room on disk without being asked: moves time, removes old versions, compacts, replaces the snapshot.

Space must not come back only as a by-product of more writes. So an idle group finishes: its time goes on
(PROTOCOL 2.1). Once everything that was written is older than the retention, each replica makes a last pass
of version GC, compacts what that removed, and replaces a snapshot that keeps table files which the data does
not need any more. After that nothing happens until the next write.

A replica that runs out of disk does the same at once, and moves time itself where it leads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from overdb_node.storage.errors import means_no_space
from overdb_node.sweeping import Range, Sweeper, joined

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()
STAMP_SECONDS = 1.0  # between two entries without commands, at least
RETRY_SECONDS = 5.0
SECONDS_BETWEEN_SNAPSHOTS = 10.0
SECONDS_BETWEEN_RISKS = 60.0  # compactions that may not fit
RECORDS: Range = (b"r", b"s")  # of the state machine; removed by it, not by version GC
SECONDS_BETWEEN_LOOKS = 10.0  # at the files that the snapshot keeps, while there is no garbage
NEWEST_FILES_MAX = 12  # of level 0, before RocksDB may compact with little room
_PINNED_PART = 8  # a snapshot that keeps an eighth of the data's bytes is replaced


class Reclaiming:
    """Runs on the loop; compactions run in a thread. ``tick`` is called at every tick of the replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "compaction")
        self.sweeper = Sweeper(replica.settings.retention_seconds, replica.machine.clock)
        self._compacting = False
        self._next_compaction = 0.0
        self._next_risk = 0.0
        self._next_snapshot = 0.0
        self._next_stamp = 0.0
        self._next_look = 0.0
        self._had_sessions = False
        self._pinned_bytes = 0  # by the snapshot, when it was last looked at

    async def close(self) -> None:
        await self._loop.run_in_executor(None, self._thread.shutdown)

    def restart(self) -> None:
        """The data was replaced by an installed snapshot."""
        self.sweeper.restart(self._replica.machine.clock)

    def tick(self) -> None:
        replica = self._replica
        if replica.raft.installing is not None or replica.is_stuck:
            return
        reclaims = replica.disk.reclaims
        self._note_changes()
        with _no_space_suppressed():
            self.sweeper.tick(replica.machine, replica.storage.data, hurries=reclaims)
        self._move_time(reclaims)
        self._compact(reclaims)
        self._replace_snapshot(reclaims)

    def _note_changes(self) -> None:
        sweeper, machine = self.sweeper, self._replica.machine
        sweeper.written = max(sweeper.written, self._replica.newest_write)
        if self._had_sessions and not machine.sessions_open:
            sweeper.garbage = joined(sweeper.garbage, RECORDS)
        self._had_sessions = machine.sessions_open > 0

    def allow_compaction(self) -> None:
        """Let RocksDB compact by itself where there is room for what it chooses."""
        disk, tables = self._replica.disk, self._replica.storage.data.tables
        room = disk.free_bytes >= disk.reserve_bytes + tables.compaction_bytes
        needed = room and tables.newest_files >= NEWEST_FILES_MAX
        with _no_space_suppressed():
            tables.compact_automatically(not disk.reclaims or needed)

    # --- time -------------------------------------------------------------------------------------

    def _move_time(self, reclaims: bool) -> None:
        """Propose an entry without commands where its stamp lets old versions go (PROTOCOL 2.12)."""
        replica, now = self._replica, self._loop.time()
        if replica.raft.serves and now >= self._next_stamp and self._needs_entry(reclaims):
            self._next_stamp = now + STAMP_SECONDS
            replica.propose_stamp()

    def _needs_entry(self, reclaims: bool) -> bool:
        replica, log = self._replica, self._replica.raft.log
        if reclaims and not self.sweeper.is_done:
            moves = replica.stamp() > replica.machine.physical + STAMP_SECONDS * 1e6
            if moves and replica.machine.retention_floor < self.sweeper.written:
                return True
        # Nothing was applied behind the snapshot: a newer one needs an entry.
        return self._wants_snapshot(reclaims) and log.last_index == log.first_index

    # --- compaction -------------------------------------------------------------------------------

    def _compact(self, reclaims: bool) -> None:
        """Compact what version GC has removed: when a pass is complete, or nothing is left to be removed."""
        sweeper, now = self.sweeper, self._loop.time()
        due = sweeper.is_between_passes if reclaims else sweeper.is_done
        if self._compacting or now < self._next_compaction:
            return
        if not (due and sweeper.garbage) and not (reclaims and now >= self._next_look):
            return
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        garbage: list[Range] = []
        if due and sweeper.garbage:
            garbage, sweeper.garbage = joined(sweeper.garbage, RECORDS), []
        risks = reclaims and now >= self._next_risk
        if risks:
            self._next_risk = now + SECONDS_BETWEEN_RISKS
        self._compacting = True
        running = self._loop.run_in_executor(self._thread, self._run, garbage, risks)
        running.add_done_callback(self._compacted)

    def _run(self, garbage: Sequence[Range], risks: bool) -> tuple[list[Range], int]:
        """In the thread: compact piece by piece; return what was left out, and what the snapshot pins."""
        storage, disk = self._replica.storage, self._replica.disk
        left: list[Range] = []
        with _no_space_suppressed():
            if garbage and disk.fits(storage.data.tables.memory_bytes):
                storage.flush_data()
        for low, high in garbage:
            cost = storage.data.tables.cost(low, high)
            if not disk.fits(cost.kept_bytes) and not risks:
                left.append((low, high))
                continue
            try:
                storage.compact_data(low, high)
            except Exception as error:
                if not means_no_space(error):
                    raise
                left.append((low, high))
        return left, storage.pinned_bytes()

    def _compacted(self, running: asyncio.Future[tuple[list[Range], int]]) -> None:
        self._compacting = False
        self._next_compaction = self._loop.time() + RETRY_SECONDS
        replica = self._replica
        if replica.failed or running.cancelled():
            return
        if (error := running.exception()) is not None:
            # Closed or replaced meanwhile: its garbage is gone. Damage is found by whoever reads it.
            _log.warning("compaction_failed", reason=f"{type(error).__name__}: {error}")
            return
        left, self._pinned_bytes = running.result()
        for piece in left:
            self.sweeper.garbage = joined(self.sweeper.garbage, piece)
        replica.storage.data.release()

    # --- the snapshot -----------------------------------------------------------------------------

    def _replace_snapshot(self, reclaims: bool) -> None:
        now = self._loop.time()
        if now < self._next_snapshot or self._compacting:
            return
        if self._wants_snapshot(reclaims) and self._replica.snapshotting.begin_early():
            self._next_snapshot = now + SECONDS_BETWEEN_SNAPSHOTS
            self._pinned_bytes = 0

    def _wants_snapshot(self, reclaims: bool) -> bool:
        """Whether a newer snapshot would free more than it costs."""
        replica = self._replica
        if reclaims:
            worth = max(1, replica.disk.reserve_bytes // 16)
            return replica.raft.log.payload_bytes + self._pinned_bytes >= worth
        worth = max(replica.storage.data_bytes // _PINNED_PART, replica.disk.reserve_bytes // 128)
        return self._pinned_bytes > worth


class _no_space_suppressed(contextlib.AbstractContextManager[None]):  # noqa: N801
    """Swallows errors that say that the disk is full: what failed is tried again later."""

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        return error is not None and means_no_space(error)
