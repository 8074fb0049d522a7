"""Nobody leads while the lease of another replica lasts (PROTOCOL 1.3). FAULTS 24.

Looked at after each step of a leader: a lease that arises behind the election is wrong too.
"""

from __future__ import annotations

from overdb_simulation.cluster import Cluster
from tests.simulation.cluster.invariants.base import Seen, Violation


class LeaseSafety:
    def __init__(self) -> None:
        self.cluster: Cluster | None = None

    def check(self, seen: Seen) -> None:
        cluster = self.cluster
        if not seen.replica.raft.is_leader or cluster is None:
            return
        for node in cluster.group(seen.group):
            other, process = node.replica, node.process
            if other is None or process is None or not process.alive or other is seen.replica:
                continue
            there = cluster.world.elapsed_us_of(process)
            raft = other.raft
            if raft.term < seen.now.term and raft.serves and raft.lease.covers(there):
                raise Violation(
                    f"{seen.name} leads in term {seen.now.term} while the lease of {node.name} in "
                    f"term {raft.term} lasts"
                )
