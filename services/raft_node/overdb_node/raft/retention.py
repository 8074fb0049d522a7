"""For which followers a leader keeps log entries, and when it stops keeping them (PROTOCOL 1.2).

A follower that was sent a snapshot needs the entries that follow it next. If a newer snapshot takes their
place before it has them, it has to begin again, and under steady writes it never catches up. So the leader
compacts nothing that a follower lacks, as long as that follower answers. Two bounds make this safe: memory
does not hold those entries (``EntryWindow``), and a follower that does not come closer is given up, visibly,
and left alone for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb_node.raft.output import EventKind
from overdb_node.raft.progress import Progress
from overdb_node.raft.types import DiskState

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft


class Retention:
    """Decides what may be compacted, and how fast writers may go. A leader's; others keep for nobody."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        # Bytes that the host takes in per tick, so that a follower can catch up; None: as many as come.
        self.pace_bytes: int | None = None

    def stop(self) -> None:
        self.pace_bytes = None

    def may_compact(self, index: int) -> bool:
        """Whether every follower that the log is kept for has all entries up to ``index``."""
        followers = self._raft.leading.progress.values()
        return all(p.position >= index for p in followers if self._is_kept_for(p))

    @property
    def is_streaming(self) -> bool:
        """Whether a follower is being sent the first element: a newer one could not take its place."""
        followers = self._raft.leading.progress.values()
        return any(self._is_streamed_to(p) for p in followers if self._is_kept_for(p))

    def _is_kept_for(self, progress: Progress) -> bool:
        if progress.damaged or progress.pursuit.rest_ticks:
            return False
        if progress.silent_ticks > self._raft.settings.keep_silent_ticks:
            return False  # it is down: a snapshot is what it will need
        if progress.disk == DiskState.FULL and not _runs(progress):
            return False  # it takes nothing: for as long as that lasts nothing need be kept (1.4)
        if progress.position >= self._raft.log.first_index:
            return True
        return self._is_streamed_to(progress)

    def _is_streamed_to(self, progress: Progress) -> bool:
        """Offers that are not answered yet count too; a transfer that rests, or must not be, does not."""
        transfer = progress.transfer
        if transfer is None or transfer.rests or self._raft.leading.snapshots.is_withheld:
            return False
        if progress.disk != DiskState.FREE and not transfer.runs:
            return False  # it may have no room for this one: a newer one may be small enough (1.4)
        return transfer.index == self._raft.log.first_index

    # --- time -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at each follower: is it in step, does it come closer, does it cost too much?"""
        self.pace_bytes = None
        for replica, progress in self._raft.leading.progress.items():
            if progress.pursuit.waits_for_room and self._raft.disk is DiskState.FREE:
                progress.pursuit.waits_for_room, progress.pursuit.rest_ticks = False, 0
            if progress.position == self._raft.log.last_index or not self._is_kept_for(progress):
                progress.pursuit.stalled_ticks = 0
            if progress.position >= self._raft.log.evicted_index:
                progress.pursuit.near()
            if self._is_kept_for(progress):
                self._look(replica, progress)

    def _look(self, replica: int, progress: Progress) -> None:
        log, settings = self._raft.log, self._raft.settings
        stalled = progress.pursuit.stalled_ticks
        if stalled > settings.stall_ticks_max:
            self._give_up_if_spare(replica, f"nothing was acknowledged for {stalled} ticks")
            return
        if progress.position >= log.evicted_index:
            return
        kept = log.bytes_after(max(progress.position, log.first_index))
        if progress.pursuit.extra_bytes < 0:
            progress.pursuit.extra_bytes = (
                kept  # nothing was compacted while it rested: nobody needed that
            )
        kept -= progress.pursuit.extra_bytes
        most = max(settings.kept_bytes_max, log.snapshot.size)
        if kept > most:
            self._give_up_if_spare(
                replica, f"{kept} bytes of log were kept for it, the limit is {most}"
            )
        elif 2 * kept > most and progress.silent_ticks > settings.election_ticks_min:
            # It is down: slower writes would not bring it closer (!).
            self._give_up_if_spare(replica, f"{kept} bytes of log were kept while it was silent")
        elif 2 * kept > most:
            self._slow_writers(replica, progress)

    def _slow_writers(self, replica: int, progress: Progress) -> None:
        """Take in at most half of what the follower acknowledges, for a while."""
        pursuit, settings = progress.pursuit, self._raft.settings
        pursuit.slowing_ticks += 1
        if pursuit.slowing_ticks > settings.slow_ticks_max:
            why = f"slower writes for {settings.slow_ticks_max} ticks did not help"
            if self._give_up_if_spare(replica, why):
                return
        pace = max(settings.pace_bytes_min, pursuit.bytes_per_tick // 2)
        self.pace_bytes = pace if self.pace_bytes is None else min(pace, self.pace_bytes)

    # --- giving up --------------------------------------------------------------------------------

    def give_up(self, replica: int, why: str) -> None:
        """Keep nothing for this follower any longer, and send it no snapshot until it has rested."""
        progress = self._raft.leading.progress[replica]
        progress.pursuit.give_up(why, self._raft.settings.rest_ticks)
        progress.transfer = None
        self._raft.emit(EventKind.FOLLOWER_GIVEN_UP, replica, why)

    def give_all_up(self, why: str) -> None:
        """Keep nothing for followers that lag: the host has no room for it. They rest until it has."""
        evicted = self._raft.log.evicted_index
        for replica, progress in self._raft.leading.progress.items():
            if self._is_kept_for(progress) and progress.position < evicted:
                progress.pursuit.waits_for_room = self._give_up_if_spare(replica, why)

    def _give_up_if_spare(self, replica: int, why: str) -> bool:
        """Give a follower up, unless nothing can be committed without it: that would gain nothing (!).

        Returns whether it was.
        """
        raft, settings = self._raft, self._raft.settings
        near = [
            other
            for other, progress in raft.leading.progress.items()
            if other != replica
            and progress.position >= raft.log.evicted_index
            and progress.silent_ticks <= settings.election_ticks_min
        ]
        if replica in raft.voters and not raft.is_quorum([raft.replica_id, *near]):
            return False
        self.give_up(replica, why)
        return True

    @property
    def given_up(self) -> dict[int, str]:
        """Followers that were given up and have not been in step since, and why."""
        followers = self._raft.leading.progress.items()
        return {replica: p.pursuit.why for replica, p in followers if p.pursuit.given_up}

    @property
    def problem(self) -> str:
        """What an operator should know; empty when all followers catch up."""
        return "; ".join(
            f"replica {replica} does not catch up: {why}; it is sent a new snapshot after a rest"
            for replica, why in self.given_up.items()
        )


def _runs(progress: Progress) -> bool:
    return progress.transfer is not None and progress.transfer.runs
