"""Promises that are looked at after every step of a simulated run, one file each."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Invariant
from tests.simulation.cluster.invariants.bounds import Bounds
from tests.simulation.cluster.invariants.durability import Durability
from tests.simulation.cluster.invariants.election_safety import ElectionSafety
from tests.simulation.cluster.invariants.leader_completeness import LeaderCompleteness
from tests.simulation.cluster.invariants.locks_held import LocksHeld
from tests.simulation.cluster.invariants.log_matching import LogMatching
from tests.simulation.cluster.invariants.state_equality import StateEquality
from tests.simulation.cluster.invariants.transaction_votes import TransactionVotes


def all_of_them() -> list[Invariant]:
    """Fresh ones, for one run. ``DurableVotes`` looks at packets and is put in place by the run."""
    return [
        ElectionSafety(),
        LogMatching(),
        LeaderCompleteness(),
        Bounds(),
        Durability(),
        StateEquality(),
        TransactionVotes(),
        LocksHeld(),
    ]
