"""Leases where they are about to break: orders of events that are too rare for seeds (FAULTS 24).

A whole build passes each script, and the one that lacks the rule does not: somebody is elected while the
lease of another replica lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from overdb_node.raft import lease
from overdb_node.replica import Replica
from overdb_simulation.cluster import Node
from tests.simulation.cluster.faults import Faults
from tests.simulation.cluster.history import Recorder
from tests.simulation.cluster.leases import Leases
from tests.simulation.cluster.run import Run
from tests.sizes import Sizes
from tests.unit.raft import lease_variants as broken

SEEDS = range(12)
SLOW = 0.91  # the slowest clock that leases allow for
Script = Callable[["Scripted"], None]


class All(Leases):
    """Leases everywhere, and clocks that go slowly."""

    def settings(self, _: Node) -> dict[str, Any]:
        return {"read_leases": True}

    def clock_rate(self, _: Node) -> float:
        return SLOW


class Scripted(Run):
    """One group of three under load of nobody; what happens is told by a script."""

    def __init__(self, seed: int, script: Script) -> None:
        super().__init__(seed, groups=1, routers=1, compare_seconds=0)
        self._leases = All(seed)
        self._script = script

    def _run(self) -> None:
        world, cluster = self.world, self.cluster
        self.faults = Faults(cluster, Random(self.seed), ("kill",))
        self.recorder = Recorder(world, Random(self.seed))
        cluster.fatal = self._on_fatal
        world.loop.step_hook = self._on_step
        cluster.start()
        self._advance(4.0)
        leader = cluster.leader(0)
        assert leader is not None
        self.leader = leader
        self.follower, self.other = (node for node in cluster.nodes if node is not leader)
        self._script(self)

    def replica(self, node: Node) -> Replica:
        assert node.replica is not None
        return node.replica

    def cut(self, ways: Iterable[tuple[Node, Node]]) -> None:
        self.world.network.set_cut({(a.name, b.name) for a, b in ways})

    def wait(self, seconds: float) -> None:
        self._advance(seconds)


def leader_cut_off(run: Scripted) -> None:
    """The others elect one of them as soon as they may."""
    others = (run.follower, run.other)
    run.cut([(run.leader, o) for o in others] + [(o, run.leader) for o in others])
    run.wait(4.0)
    leaders = [n for n in others if run.replica(n).raft.is_leader]
    assert len(leaders) == 1


def promiser_restarts(run: Scripted) -> None:
    """Of two followers one hears nothing and campaigns; the other, which the lease stands on, is restarted
    right before it is asked."""
    run.wait(0.05)  # from now on its ticks fall between the leader's heartbeats
    run.follower.kill()
    run.follower.start()
    run.wait(6.0)  # what an idle leader logs for its time is in all logs by then
    run.cut([(run.leader, run.follower), (run.follower, run.leader)])
    end = run.world.loop.time() + 6.0
    due_before = False
    while run.world.loop.time() < end:
        election = run.replica(run.follower).raft.election
        run.wait(0.015)
        due = election._timeout - election._elapsed <= 1
        if due and not due_before:
            # After the leader's last heartbeat before the tick, and early enough to take part (PROTOCOL 3.9)
            run.wait(0.06)
            run.other.kill()
            run.other.start()
        due_before = due


def leader_hands_over_and_hears_nothing(run: Scripted) -> None:
    """Its successor is elected past all promises, at once."""
    run.cut([(run.follower, run.leader), (run.other, run.leader)])
    process = run.leader.process
    assert process is not None
    replica = run.replica(run.leader)
    run.world.loop.inside(process, lambda: replica.transfer_to(run.follower.replica_id))
    run.wait(0.5)
    assert run.replica(run.follower).raft.is_leader


def wide_rates(patch: pytest.MonkeyPatch) -> None:
    """1.3: nothing is taken off for clocks of another rate, and something is put on."""
    patch.setattr(lease, "RATE_PERCENT", 110)


SCRIPTS: list[tuple[Script, Callable[[pytest.MonkeyPatch], None]]] = [
    (leader_cut_off, wide_rates),
    (promiser_restarts, broken.promise_forgotten_at_a_restart),
    (leader_hands_over_and_hears_nothing, broken.lease_outlives_a_transfer),
]


@pytest.mark.parametrize(("script", "variant"), SCRIPTS, ids=[s.__name__ for s, _ in SCRIPTS])
def test_nobody_is_elected_while_a_lease_lasts(
    script: Script,
    variant: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    sizes: Sizes,
) -> None:
    whole = sizes.seeds(quick=4, full=len(SEEDS))
    problems = [Scripted(seed, script).run().problem for seed in whole]
    assert problems == [""] * len(whole)
    variant(monkeypatch)
    for seed in SEEDS:
        problem = Scripted(seed, script).run().problem
        if problem:
            assert "while the lease of" in problem
            return
    raise AssertionError("no seed noticed the broken build")
