"""What was reported as fsynced is in the log after every restart, however that came (FAULTS 28, 30-32)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class Durability:
    def __init__(self) -> None:
        # By disk: index, and the term of its entry.
        self._durable: dict[int, tuple[int, int]] = {}

    def check(self, seen: Seen) -> None:
        now, log = seen.now, seen.replica.raft.log
        if seen.begins:
            self._check_restart(seen)
        if now.established and not now.installing:
            self._durable[_disk(seen)] = (now.durable, log.term_at(now.durable) or 0)

    def _check_restart(self, seen: Seen) -> None:
        index, term = self._durable.get(_disk(seen), (0, 0))
        found = seen.replica.raft.log.term_at(index)
        if index > seen.now.first and found != term:
            raise Violation(
                f"{seen.name} started with {seen.now.last} entries; {index} of term {term} was on its disk"
            )


def _disk(seen: Seen) -> int:
    return seen.replica.admission.incarnation
