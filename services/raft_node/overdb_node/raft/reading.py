"""Linearizable reads without writing to the log: ReadIndex (PROTOCOL 1.3, dissertation 6.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft


@dataclass(frozen=True, slots=True)
class _Round:
    number: int
    read_index: int
    reads: list[object]


class Reading:
    """One round of answers confirms all reads that wait at the moment when it starts."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.waiting: list[object] = []
        self._round: _Round | None = None

    def start_round(self) -> None:
        """Begin a round for what waits, unless one is under way or the term has no committed entry."""
        raft = self._raft
        if not self.waiting or self._round is not None or not raft.leading.committed_in_term:
            return
        number = raft.leading.next_round()
        self._round = _Round(number, raft.commit_index, self.waiting)
        self.waiting = []
        raft.leading.broadcast_heartbeat()
        self.on_round()

    def on_round(self) -> None:
        """Complete the round if a quorum, this leader included, has answered it or a later one."""
        current, raft = self._round, self._raft
        if current is None:
            return
        confirmed = [
            replica
            for replica, progress in raft.leading.progress.items()
            if progress.round >= current.number and not progress.damaged
        ]
        if raft.is_quorum([raft.replica_id, *confirmed]):
            raft.output.reads.extend((read, current.read_index) for read in current.reads)
            self._round = None

    def fail_all(self) -> None:
        """This replica leads no more: none of its reads may complete (others may write now)."""
        failed = self.waiting
        if self._round is not None:
            failed = [*self._round.reads, *failed]
        self._raft.output.reads_failed.extend(failed)
        self.waiting = []
        self._round = None
