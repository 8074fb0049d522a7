"""Promises that are looked at after every step of a simulated run, one file each."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import EntryInvariant, Invariant
from tests.simulation.cluster.invariants.bounds import Bounds
from tests.simulation.cluster.invariants.clock_growth import ClockGrowth
from tests.simulation.cluster.invariants.durability import Durability
from tests.simulation.cluster.invariants.durable_quorum import DurableQuorum
from tests.simulation.cluster.invariants.durable_votes import DurableVotes
from tests.simulation.cluster.invariants.election_safety import ElectionSafety
from tests.simulation.cluster.invariants.exactly_once import ExactlyOnce
from tests.simulation.cluster.invariants.floors import Floors
from tests.simulation.cluster.invariants.group_time import GroupTime
from tests.simulation.cluster.invariants.leader_completeness import LeaderCompleteness
from tests.simulation.cluster.invariants.lease_safety import LeaseSafety
from tests.simulation.cluster.invariants.locks_held import LocksHeld
from tests.simulation.cluster.invariants.log_kept import LogKept
from tests.simulation.cluster.invariants.log_matching import LogMatching
from tests.simulation.cluster.invariants.log_memory import LogMemory
from tests.simulation.cluster.invariants.state_equality import StateEquality
from tests.simulation.cluster.invariants.transaction_votes import TransactionVotes


class Invariants:
    """Fresh ones, for one run."""

    def __init__(self) -> None:
        equality = StateEquality()
        votes = TransactionVotes()
        self.once = ExactlyOnce()
        self.leases = LeaseSafety()
        self.votes = DurableVotes()  # looks at packets too
        self.kept = LogKept()
        self.of_steps: list[Invariant] = [
            ElectionSafety(),
            self.leases,
            LogMatching(),
            LogMemory(),
            self.kept,
            LeaderCompleteness(),
            Bounds(),
            Durability(),
            DurableQuorum(),
            self.votes,
            equality,
            votes,
            LocksHeld(),
        ]
        self.time = GroupTime()
        self.of_entries: list[EntryInvariant] = [
            equality,
            ClockGrowth(),
            self.time,
            Floors(),
            self.once,
            votes,
        ]
