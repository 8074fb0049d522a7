"""At most one leader a term (Raft paper, figure 3)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class ElectionSafety:
    def __init__(self) -> None:
        self._leaders: dict[tuple[int, int], int] = {}

    def check(self, seen: Seen) -> None:
        if not seen.replica.raft.is_leader:
            return
        first = self._leaders.setdefault((seen.group, seen.now.term), seen.replica_id)
        if first != seen.replica_id:
            raise Violation(
                f"group {seen.group}, term {seen.now.term}: replicas {first} and "
                f"{seen.replica_id} both lead"
            )
