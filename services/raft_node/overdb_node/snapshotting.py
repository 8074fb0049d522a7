"""Snapshots in the life of a replica: taking them, sending them, receiving and installing them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import structlog

from overdb_node.damaged_element import DamagedElement
from overdb_node.raft.messages import Chunk
from overdb_node.raft.output import ChunkToSend, Install, Output, Stage
from overdb_node.raft.types import DiskState, Snapshot
from overdb_node.storage.errors import CorruptSnapshot, Overtaken, means_no_space
from overdb_node.storage.snapshots import Damage, Taken

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()
T = TypeVar("T")
NO_ROOM_SECONDS = 5.0  # until a snapshot is tried again that the disk had no room for
_GOLDEN = (math.sqrt(5) - 1) / 2


def first_share(node_id: int) -> float:
    """The part of ``snapshot_log_bytes`` at which a replica takes its first snapshot, within (0, 1).

    The replicas of a group have the same log. Would each begin at the same length, all of them would take
    all their snapshots in the same moments, and nobody were left to answer quickly. The first one puts each
    in a place of its own; all that follow are a whole length apart. Multiples of the golden ratio keep
    neighbouring numbers far from each other, however many there are.
    """
    return node_id * _GOLDEN % 1


class Snapshotting:
    """Runs what takes long in a thread of its own; what must keep its place among log writes goes
    through the log thread."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "snapshots")
        self._taking = False
        self._began = 0.0  # by the loop's clock
        self._took_seconds = 0.0  # the last one, until it was on disk
        self._share = first_share(replica.settings.node_id)
        self._sealed_snapshot: Snapshot | None = None  # on disk, and not yet the first element
        self._sealed_log_bytes = 0  # log bytes after the sealed snapshot at the time it was sealed
        self._is_second = False  # the snapshot in the making replaces an old one
        self._wanted = False  # however short the log is
        self._rests_until = 0.0  # by the loop's clock: the disk had no room for one
        self.damaged = DamagedElement(replica, self._run)

    async def close(self) -> None:
        await self._loop.run_in_executor(None, self._thread.shutdown)

    # --- taking one -------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take a snapshot when the log behind the first element has grown long enough, or when that
        element is damaged."""
        replica = self._replica
        raft = replica.raft
        if self._sealed_snapshot is not None:
            self._compact()
            return
        if self._taking or raft.installing or raft.leading.retention.is_streaming:
            return
        damage = self.damaged.damage
        if damage is not None:
            self._replace(damage)
            return
        if raft.log.payload_bytes >= self.log_bytes_max or self._wanted:
            self.begin_early()

    def begin_early(self) -> bool:
        """Take a snapshot, however short the log is; False when none can be taken now."""
        replica, raft = self._replica, self._replica.raft
        if (
            self._taking
            or self._sealed_snapshot is not None
            or self._loop.time() < self._rests_until
        ):
            return False
        is_streaming = raft.leading.retention.is_streaming
        if raft.installing or is_streaming or raft.applied <= raft.log.first_index:
            return False
        if replica.is_stuck or not replica.disk.fits(replica.storage.data.tables.memory_bytes):
            return False  # it begins with a flush
        self._begin()
        self._run(self._take, self._taken)
        return True

    def take_soon(self) -> None:
        """Take a snapshot at the next tick: the log behind the first element cannot be used."""
        self._wanted = True

    @property
    def log_bytes_max(self) -> float:
        """The length of the log at which the next snapshot is taken."""
        return self._replica.settings.snapshot_log_bytes * self._share

    def _begin(self) -> None:
        self._taking, self._wanted = True, False
        self._began = self._loop.time()

    def _take(self) -> Taken | None:
        return self._replica.storage.take_snapshot()

    def _replace(self, damage: Damage) -> None:
        def taken(taken: Taken | None) -> None:
            self.damaged.taken(taken)
            self._taken(taken)

        if self.damaged.tick():
            self._begin()
            self._run(lambda: self.damaged.take(damage), taken)

    def _taken(self, taken: Taken | None) -> None:
        """The checkpoint is on disk, of an index that it told itself. Give it the members of then."""
        log = self._replica.raft.log
        if taken is None or self._is_overtaken(taken.index, taken.term):
            self._taking = False
            return
        then = log.configuration_at(taken.index)
        if not then.members:
            # A replica that joins, and has not yet reached the entry that took it in, does not know who the
            # members were: its snapshot would say nobody (PROTOCOL 3.3).
            self._taking = False
            return
        storage = self._replica.storage

        def seal() -> Snapshot | None:
            try:
                return storage.seal_snapshot(taken, then.members, then.retired)
            except Overtaken:
                return None

        self._run(seal, self._sealed)

    def _is_overtaken(self, index: int, term: int) -> bool:
        """Whether a snapshot that was installed meanwhile has put the log beyond this one."""
        raft = self._replica.raft
        return (
            raft.installing is not None
            or index <= raft.log.first_index
            or raft.log.term_at(index) != term
        )

    def _sealed(self, snapshot: Snapshot | None) -> None:
        """It is whole on disk: from now on it may become the log's first element."""
        if snapshot is None or self._is_overtaken(snapshot.index, snapshot.term):
            self._taking = False
            return
        self._share = 1.0
        self._took_seconds = round(self._loop.time() - self._began, 3)
        self._sealed_snapshot = snapshot
        self._sealed_log_bytes = self._replica.raft.log.bytes_after(snapshot.index)
        self._compact()

    def _compact(self) -> None:
        """Make it the first element as soon as no follower needs an entry that would go (PROTOCOL 1.2).

        In memory first: entries that are not on disk any more must not be asked for. On disk it is a rename,
        in its place among the log's writes; a crash before it finds the log as it was, which is longer.
        """
        snapshot, raft = self._sealed_snapshot, self._replica.raft
        assert snapshot is not None
        if self._is_overtaken(snapshot.index, snapshot.term):
            self._sealed_snapshot, self._taking = None, False
            return
        again = not self._is_second and self._is_old(snapshot)
        if again and self._can_do_without and raft.may_compact(snapshot.index):
            self._sealed_snapshot, self._taking = None, False
            self._wanted = self._is_second = True
            return
        if not raft.compact(snapshot):
            return
        self._sealed_snapshot = None
        self._wanted, self._is_second = self._wanted or again, again
        storage = self._replica.storage
        self._replica.writer.submit_job(
            lambda: storage.compact(snapshot), lambda _: self._soon(self._compacted, snapshot)
        )

    def _is_old(self, snapshot: Snapshot) -> bool:
        """Returns true if a follower lacks it and the log grew by ``log_bytes_max`` since it was sealed.

        The follower was down or given up. A newer snapshot leaves it fewer entries to read.
        """
        raft = self._replica.raft
        lags = any(p.position < snapshot.index for p in raft.leading.progress.values())
        grown = raft.log.bytes_after(snapshot.index) - self._sealed_log_bytes
        return lags and grown >= self.log_bytes_max

    @property
    def _can_do_without(self) -> bool:
        """Returns true if a sealed snapshot may be dropped: no full disk and no damaged one needs it."""
        return self._replica.disk.state is DiskState.FREE and self.damaged.damage is None

    def _compacted(self, snapshot: Snapshot) -> None:
        self._taking = False
        took = self._took_seconds
        _log.info("snapshot", index=snapshot.index, bytes=snapshot.size, seconds=took)
        self._replica.storage.release_below(self._replica.raft.log.first_index)

    # --- what the core asks for -------------------------------------------------------------------

    def carry_out(self, output: Output) -> None:
        for chunk in output.chunks:
            self.send_chunk(chunk)
        for dropped in output.dropped:
            self.damaged.dropped(dropped)
        for stage in output.stages:
            self.stage(stage)

    # --- sending one ------------------------------------------------------------------------------

    def send_chunk(self, chunk: ChunkToSend) -> None:
        storage, peers = self._replica.storage, self._replica.peers

        def read() -> bytes | None:
            try:
                return storage.read_snapshot(chunk.snapshot, chunk.offset, chunk.length)
            except (OSError, CorruptSnapshot):
                return None

        def send(data: bytes | None) -> None:
            if data is None:  # damaged, or released meanwhile: the next offer is of a newer one
                self.damaged.check(chunk.snapshot)
                return
            first = chunk.snapshot
            peers.send(
                chunk.to,
                Chunk(
                    chunk.term, chunk.round, first.index, first.term, chunk.offset, first.size, data
                ),
            )

        self._run(read, send)

    # --- receiving one ----------------------------------------------------------------------------

    def stage(self, stage: Stage) -> None:
        def write() -> tuple[int, Snapshot | None]:
            try:
                return self._replica.storage.stage(
                    stage.index, stage.element_term, stage.offset, stage.size, stage.data
                )
            except CorruptSnapshot as error:
                _log.error("snapshot_damaged", reason=str(error))
                return 0, None
            except OSError as error:
                if not means_no_space(error):
                    raise
                _log.warning("snapshot_has_no_room", bytes=stage.size)
                return 0, None

        def done(result: tuple[int, Snapshot | None]) -> None:
            self._replica.raft.staged(stage, *result)
            self._replica.schedule_turn()

        self._run(write, done)

    def install(self, install: Install) -> None:
        replica = self._replica

        def switch() -> None:
            replica.storage.install(install.snapshot, install.keep_entries_after)

        replica.writer.submit_job(
            switch,
            lambda _: self._soon(lambda _: replica.installed(), None),
        )

    # --- threads ----------------------------------------------------------------------------------

    def _run(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Work in the snapshot thread, then call ``done`` on the loop. A failure ends the replica."""

        def finished(future: Future[T]) -> None:
            error = future.exception()
            if error is None:
                self._soon(done, future.result())
            else:
                self._loop.call_soon_threadsafe(self._failed, error)

        self._thread.submit(work).add_done_callback(finished)

    def _soon(self, done: Callable[[T], None], result: T) -> None:
        """Call ``done(result)`` on the loop, unless the replica has failed by then."""
        self._loop.call_soon_threadsafe(self._unless_failed, done, result)

    def _unless_failed(self, done: Callable[[T], None], result: T) -> None:
        if self._replica.failed:
            return
        try:
            done(result)
        except Exception as error:  # a half-done install must not leave a replica that says nothing
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if means_no_space(error) and self._taking:  # taking one leaves everything as it was
            self._taking = False
            self._rests_until = self._loop.time() + NO_ROOM_SECONDS
            _log.warning("snapshot_not_taken", reason=str(error))
            return
        self._replica.fatal(f"{type(error).__name__}: {error}")
