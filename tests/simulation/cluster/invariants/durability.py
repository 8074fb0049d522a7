"""What was reported as fsynced is in the log after every restart, however that came (FAULTS 28, 30-32)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class Durability:
    def __init__(self) -> None:
        self._durable: dict[
            str, tuple[int, int]
        ] = {}  # by replica: index, and the term of its entry

    def check(self, seen: Seen) -> None:
        now, log = seen.now, seen.replica.raft.log
        if seen.before is None:
            self._check_restart(seen)
        if not now.installing:
            self._durable[seen.name] = (now.durable, log.term_at(now.durable) or 0)

    def _check_restart(self, seen: Seen) -> None:
        index, term = self._durable.get(seen.name, (0, 0))
        found = seen.replica.raft.log.term_at(index)
        if index > seen.now.first and found != term:
            raise Violation(
                f"{seen.name} started with {seen.now.last} entries; {index} of term {term} was on its disk"
            )
