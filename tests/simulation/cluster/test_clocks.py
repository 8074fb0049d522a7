"""One machine's clock is wrong by any amount, for a while and for good (PROTOCOL 2.1; FAULTS 81).

Writes, scans and transactions of all groups go on, no group's time moves by more than the truth does, and
the machine is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import overdb
from overdb_simulation.cluster import Node, RouterNode
from tests.simulation.cluster.clocks import set_process_clock
from tests.simulation.cluster.faults import JUMPS, Faults
from tests.simulation.cluster.history import NO_ANSWER, Recorder, spread
from tests.simulation.cluster.run import Run
from tests.sizes import Sizes

GAP_SECONDS_MAX = 5.0  # without an answer, in virtual time
ROLES = ("leader", "follower", "router")
CASES = list(itertools.product(ROLES, JUMPS))


class Clocked(Run):
    """A calm cluster with one machine whose clock is set wrong for 3 s, and later for good."""

    def __init__(self, seed: int, role: str, seconds: int) -> None:
        super().__init__(seed)
        self.role = role
        self.jump_us = seconds * 1_000_000
        self.answered: dict[str, list[float]] = {}
        self.status: overdb.ClusterStatus | None = None

    def _run(self) -> None:
        world, cluster = self.world, self.cluster
        self.faults = Faults(cluster, Random(self.seed), ("kill",), self.clocks)
        self.recorder = Recorder(world, Random(self.seed))
        cluster.fatal = self._on_fatal
        world.loop.step_hook = self._on_step
        cluster.start()
        self._advance(4.0)
        self._begin_load()
        self._advance(2.0)
        self.machine = self._chosen()
        self._set(self.jump_us)
        self._advance(3.0)
        self._set(0)
        self._advance(GAP_SECONDS_MAX + 1.0)
        self._set(self.jump_us)
        self._advance(GAP_SECONDS_MAX + 3.0)
        self._look()
        self.ended = world.loop.time()

    def _chosen(self) -> Node | RouterNode:
        if self.role == "router":
            return self.cluster.routers[0]
        leader = self.cluster.leader(0)
        assert leader is not None
        if self.role == "leader":
            return leader
        return next(node for node in self.cluster.group(0) if node is not leader)

    def _set(self, offset_us: int) -> None:
        if isinstance(self.machine, Node):
            self.clocks.set(self.machine, offset_us)
        else:
            set_process_clock(self.machine.process, offset_us)

    # --- the load -----------------------------------------------------------------------------------

    def _begin_load(self) -> None:
        first, second = spread(b"clocks/", 2)

        async def scan(client: overdb.Client) -> None:
            found = [item.key async for item in client.scan(b"clocks/", b"clocks0")]
            assert len(found) <= 4

        def put(key: bytes) -> Callable[[overdb.Client], Awaitable[Any]]:
            return lambda client: client.put(key, b"x")

        both = [overdb.Add(b"%s/n" % key) for key in (first, second)]
        self._repeat("group 0", put(first))
        self._repeat("group 1", put(second))
        self._repeat("scan", scan)
        self._repeat("transaction", lambda client: client.transact(then=both))

    def _repeat(self, name: str, one: Callable[[overdb.Client], Awaitable[Any]]) -> None:
        answered = self.answered[name] = [self.world.loop.time()]

        async def work(client: overdb.Client) -> None:
            async def step() -> None:
                try:
                    await one(client)
                    answered.append(self.world.loop.time())
                except (overdb.OutcomeUnknown, *NO_ANSWER):
                    pass

            await self.recorder.repeat(0.3, step)

        self.cluster.client(f"client {name}", work)

    def _look(self) -> None:
        """Ask how the cluster does. Each client asks one of the routers: until the one meant has told."""

        async def ask(client: overdb.Client) -> None:
            self.status = await client.status()

        for number in range(30):
            self.cluster.client(f"operator {number}", ask)
            self._advance(0.5)
            if self.role != "router" or (self.status is not None and self.status.router_problem):
                return

    def longest_gap(self, name: str) -> float:
        times = [*self.answered[name], self.ended]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def check(run: Clocked) -> None:
    outcome = run.run()
    assert not outcome.problem, outcome.problem
    for name in run.answered:
        assert run.longest_gap(name) <= GAP_SECONDS_MAX, name
    for node in run.cluster.nodes:
        assert node.replica is not None
        behind_us = run.clocks.true_us() - node.replica.machine.physical
        assert -1_000_000 < behind_us < 4_000_000, f"the time of {node.name}"
    status = run.status
    assert status is not None
    named = [replica.id for group in status.groups for replica in group.replicas if replica.problem]
    if isinstance(run.machine, Node):
        assert run.machine not in [run.cluster.leader(group) for group in (0, 1)]
        assert named == [run.machine.replica_id]
        assert status.router_problem == ""
    else:
        assert named == []
        assert status.router_problem


def test_all_goes_on_whichever_machine_is_wrong_and_by_how_much(sizes: Sizes) -> None:
    for seed in sizes.seeds(quick=2, full=24):
        role, seconds = CASES[seed % len(CASES)]
        try:
            check(Clocked(seed, role, seconds))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {role}, {seconds} s: {error}") from error
