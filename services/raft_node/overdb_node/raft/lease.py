"""Leader leases: reads without a round while a quorum's promises last (PROTOCOL 1.3; dissertation 6.4.1).

The follower's half, the promise itself, is in ``election``. Times are microseconds of the host's clock, which
the host tells (``Raft.observe``, ``Raft.read``). Only differences of them count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb_node.raft.messages import Answer

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft

# What a leader takes of a promise: clocks may run at rates that differ by so much.
RATE_PERCENT = 90
# The times of so many rounds, spread over the length of a promise, are remembered. A round between two of
# them counts as the one before.
MARKS = 16
NEVER = 1 << 62


class Lease:
    """What a leader was promised. Empty while another replica leads, and where leases are off."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._now = 0  # the newest time that the host has told
        # (round, a time at or before which nothing of that round or a later one was sent), ascending
        self._begun: list[tuple[int, int]] = []
        self._promised: dict[int, int] = {}  # until when, by replica
        self._until = 0
        self._void = False  # for the rest of the term
        self.reads = 0  # that needed no round

    # --- beginning and end ------------------------------------------------------------------------

    def start(self) -> None:
        """A term of this leader begins."""
        self._void = False
        self.restart()

    def restart(self) -> None:
        """Count only the rounds that begin from now on: the configuration is another one."""
        self._begun = []
        self._promised = {}
        self._until = 0

    def end(self) -> None:
        """No lease any more in this term: leadership may be handed over, past all promises, or is lost."""
        self._void = True
        self.restart()

    # --- time -------------------------------------------------------------------------------------

    def observe(self, now_us: int) -> None:
        """It is ``now_us`` or later."""
        self._now = max(self._now, now_us)

    def round_begins(self, number: int) -> None:
        """Nothing of this round was sent yet. An older time than the true one shortens the lease."""
        promise = self._raft.settings.promise_us
        if not promise or self._void:
            return
        begun = self._begun
        if begun and self._now - begun[-1][1] < promise // MARKS:
            return
        while begun and begun[0][1] + promise <= self._now:
            begun.pop(0)
        begun.append((number, self._now))

    # --- counting ---------------------------------------------------------------------------------

    def answered(self, replica: int, answer: Answer) -> None:
        """A follower has heard this round, or a later one, of this term, and says what it promised then."""
        if not answer.promise_us:
            return
        for number, begun in reversed(self._begun):
            if number <= answer.round:
                until = begun + answer.promise_us * RATE_PERCENT // 100
                if until > self._promised.get(replica, 0):
                    self._promised[replica] = until
                    self.count()
                return

    def count(self) -> None:
        """The lease lasts as long as a quorum of the voters, this leader included, elects nobody else."""
        raft = self._raft
        if self._void or not raft.settings.promise_us:
            return
        promised = [self._promised_by(voter) for voter in raft.voters]
        promised.sort(reverse=True)
        self._until = promised[len(promised) // 2]

    def _promised_by(self, voter: int) -> int:
        raft = self._raft
        if voter == raft.replica_id:
            return NEVER  # as long as it leads, which is as long as anything here counts
        progress = raft.leading.progress.get(voter)
        return 0 if progress is None or progress.damaged else self._promised.get(voter, 0)

    def covers(self, now_us: int) -> bool:
        """Whether nobody else can lead at ``now_us``, which is a time of this very moment."""
        return now_us < self._until and self._raft.leading.committed_in_term
