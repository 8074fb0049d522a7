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
    """One round of answers confirms all reads that wait at the moment when it starts.

    Asked are no more replicas than it takes: those whose answers made up a quorum first when all were asked
    last. All are asked by each heartbeat. So when one of them goes silent, its round is completed by the
    others behind the next heartbeat, and they are the ones to ask from then on.
    """

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.waiting: list[object] = []
        self._round: _Round | None = None
        self._asked_all = 0  # the newest round in which all were
        self._answered: list[int] = []  # who has answered that or a later one, the first first
        self._quickest: list[int] = []  # the first of them that made up a quorum with this leader

    def start(self) -> None:
        """A term of this leader begins: nobody has answered anything in it."""
        self._asked_all = 0
        self._answered = []
        self._quickest = []

    def asked_all(self, number: int) -> None:
        """All others were sent this round."""
        self._asked_all = number
        self._answered = []

    def start_round(self) -> None:
        """Begin a round for what waits, unless one is under way or the term has no committed entry."""
        raft = self._raft
        if not self.waiting or self._round is not None or not raft.leading.committed_in_term:
            return
        number = raft.leading.next_round()
        self._round = _Round(number, raft.commit_index, self.waiting)
        self.waiting = []
        asked = [r for r in self._quickest if self._counts(r)]
        if self._suffice(asked):
            raft.leading.send_heartbeats(asked)
        else:
            raft.leading.broadcast_heartbeat()
        self.on_round()

    def _counts(self, replica: int) -> bool:
        progress = self._raft.leading.progress.get(replica)
        return replica in self._raft.voters and progress is not None and not progress.damaged

    def _suffice(self, replicas: list[int]) -> bool:
        return self._raft.is_quorum([self._raft.replica_id, *replicas])

    def answered(self, replica: int, number: int) -> None:
        """A replica has answered this round; the reads that waited for no more than that are confirmed."""
        if number >= self._asked_all and replica not in self._answered:
            before, self._answered = self._answered, [*self._answered, replica]
            if self._suffice(self._answered) and not self._suffice(before):
                self._quickest = self._answered
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
        if self._suffice(confirmed):
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
