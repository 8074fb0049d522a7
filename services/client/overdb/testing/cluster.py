"""``overdb.testing.Cluster``: what a test can do to a cluster, and ask it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import SystemRandom
from typing import Self

import overdb
import overdb.sync
from overdb.status import ClusterStatus
from overdb_simulation.cluster import Node, RouterNode
from overdb_simulation.embedded import Embedded
from overdb_simulation.gateway import Gateway
from overdb_simulation.loop import Process

CLIENT = "client"  # the test's own clients, as a place in the network
START_SECONDS_MAX = 30.0  # of virtual time
HEAL_SECONDS_MAX = 60.0
# Milliseconds: elections take a quarter of a second instead of two.
_TIMES = {
    "tick_ms": 20,
    "heartbeat_ms": 40,
    "election_ms_min": 200,
    "election_ms_max": 400,
    "compare_seconds": 0.0,
}


class NotHealed(AssertionError):  # noqa: N818  # it names what happened
    """Everything is up and connected, and still not every group serves. The message says what is missing."""


class Cluster:
    """``groups`` groups of ``replicas`` replicas and some ``routers``. Any thread may use it.

    Nodes are named ``s0r2`` (group 0, replica 2), routers ``router0``; a node's replica id will do as well.
    What is drawn at random (timeouts, delays) is drawn from ``seed``. Only one is open in a process at a
    time (RuntimeError).
    """

    def __init__(
        self, groups: int = 2, replicas: int = 3, routers: int = 1, *, seed: int | None = None
    ) -> None:
        for name, value in (("groups", groups), ("replicas", replicas), ("routers", routers)):
            if not 1 <= value <= 16:
                raise ValueError(f"{name}={value} is not between 1 and 16")
        self.seed = SystemRandom().getrandbits(32) if seed is None else seed
        began = time.perf_counter()
        self._embedded = embedded = Embedded(
            self.seed, groups=groups, replicas=replicas, routers=routers, **_TIMES
        )
        self._cut: set[tuple[str, str]] = set()
        self._gateways: list[Gateway] = []
        self._closed = False
        try:
            if not embedded.start(self._serves, START_SECONDS_MAX):
                raise NotHealed(self._missing())
            client = Process(CLIENT)
            self._gateways = [
                Gateway(embedded, router.address, client) for router in embedded.cluster.routers
            ]
        except BaseException:
            self.close()
            raise
        self.started_in_seconds = time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all of it. Clients that are open get Unavailable."""
        if not self._closed:
            self._closed = True
            for gateway in self._gateways:
                gateway.close()
            self._embedded.close()

    # --- talking to it ------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The first router's, ``host:port``: for a Client, for stubs of your own, for grpcurl."""
        return self._gateways[0].address

    @property
    def addresses(self) -> list[str]:
        """All routers'."""
        return [gateway.address for gateway in self._gateways]

    def client(self, timeout: float = 10.0) -> overdb.sync.Client:
        """A client for threads; close it, or use it in a ``with``."""
        return overdb.sync.Client(self.addresses, timeout=timeout)

    def async_client(self, timeout: float = 10.0) -> overdb.Client:
        """A client for asyncio; use it in an ``async with`` on your loop."""
        return overdb.Client(self.addresses, timeout=timeout)

    def status(self) -> ClusterStatus:
        """What ``overdb status`` shows."""
        with self.client() as client:
            return client.status()

    # --- looking into it ----------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes."""
        return tuple(node.name for node in self._embedded.cluster.nodes)

    @property
    def routers(self) -> tuple[str, ...]:
        """Names of all routers."""
        return tuple(router.name for router in self._embedded.cluster.routers)

    def group(self, group: int) -> tuple[str, ...]:
        """Names of a group's nodes. Raises ValueError for a group that is not there."""
        self._check_group(group)
        return tuple(node.name for node in self._embedded.cluster.group(group))

    def leader(self, group: int) -> str:
        """Who leads a group; waits for one that has a majority. Raises NotHealed when there is none."""
        self._check_group(group)

        def leads() -> bool:
            return self._leader(group) is not None

        if not self._embedded.run_ahead_until(leads, START_SECONDS_MAX):
            raise NotHealed(f"group {group} has no leader: {self._missing()}")
        node = self._embedded.call(lambda: self._leader(group))
        return node.name if node is not None else self.leader(group)

    def timeline(self, last: int = 100) -> list[str]:
        """The newest things that happened: elections, restarts, what was done to it; one a line."""
        entries = self._embedded.world.timeline[-last:]
        return [
            " ".join(
                [f"{at - 1000:9.3f} s  {who:8} {event}", *(f"{k}={v}" for k, v in told.items())]
            )
            for at, who, event, told in entries
        ]

    # --- hurting it ---------------------------------------------------------------------------------

    def kill(self, name: str | int) -> None:
        """End a node's or a router's process at once. What it has fsynced is there when it restarts."""
        self._do(name, "kill", lambda machine: machine.kill())

    def kill_leader(self, group: int) -> str:
        """Kill a group's leader, and return which node that was; another one is elected soon."""
        name = self.leader(group)
        self.kill(name)
        return name

    def restart(self, name: str | int) -> None:
        """Start what was killed; kill and start what runs."""

        def again(machine: Node | RouterNode) -> None:
            if machine.is_up:
                machine.kill()
            machine.start()

        self._do(name, "restart", again)

    def lose_power(self, name: str | int) -> None:
        """Kill a node, with everything that it has not fsynced."""
        machine = self._machine(name)
        if not isinstance(machine, Node):
            raise ValueError(f"{name} is a router, which stores nothing: kill it")
        self._do(name, "power loss", lambda _: machine.kill(power=True))

    def pause(self, name: str | int) -> None:
        """Stop a process where it is (SIGSTOP): it misses heartbeats, and finds out later."""

        def stop(machine: Node | RouterNode) -> None:
            if machine.process is not None:
                machine.process.paused = True

        self._do(name, "pause", stop)

    def resume(self, name: str | int) -> None:
        """Let what is paused go on."""
        self._do(name, "resume", self._resume)

    def partition(self, *sides: Iterable[str | int] | str | int) -> None:
        """Cut all links between these sides, both ways; a side is a name or several.

        Who is on no side still reaches everybody. ``client`` names the test's own clients.

            cluster.partition(cluster.leader(0), ["s0r1", "s0r2"])
        """
        if len(sides) < 2:
            raise ValueError("a partition has two sides at least; isolate() cuts one off from all")
        names = [self._names(side) for side in sides]
        links = {
            (a, b)
            for one in names
            for other in names
            if one is not other
            for a in one
            for b in other
        }
        self._cut_more("partition", links)

    def cut(self, sender: str | int, receiver: str | int) -> None:
        """Lose what the one sends to the other; the way back stays."""
        (one,), (other,) = self._names(sender), self._names(receiver)
        self._cut_more("cut", {(one, other)})

    def isolate(self, name: str | int, *, routers_too: bool = True) -> None:
        """Cut one node or router off from all others; not from the routers, if you like."""
        (one,) = self._names(name)
        others = {*self.nodes, CLIENT, *(self.routers if routers_too else ())} - {one}
        self._cut_more("isolate", {(one, o) for o in others} | {(o, one) for o in others})

    def heal(self) -> None:
        """Undo everything: links whole, everybody up and awake; returns when every group serves and all
        replicas have caught up. Raises NotHealed when that does not come to be."""

        def mend() -> None:
            self._embedded.world.note("-", "heal")
            self._cut.clear()
            self._embedded.world.network.set_cut(())
            for machine in self._machines():
                self._resume(machine)
                if not machine.is_up:
                    machine.start()

        self._embedded.call(mend)
        whole = self._embedded.run_ahead_until(
            lambda: self._serves() and self._caught_up(), HEAL_SECONDS_MAX
        )
        if not whole:
            raise NotHealed(self._embedded.call(self._missing))

    # --- inside -------------------------------------------------------------------------------------

    def _check_group(self, group: int) -> None:
        groups = self._embedded.cluster.groups
        if not 0 <= group < groups:
            raise ValueError(f"there is no group {group}: they are numbered from 0 to {groups - 1}")

    def _machines(self) -> list[Node | RouterNode]:
        return [*self._embedded.cluster.nodes, *self._embedded.cluster.routers]

    def _machine(self, name: str | int) -> Node | RouterNode:
        for machine in self._machines():
            if name in (machine.name, getattr(machine, "replica_id", None)):
                return machine
        known = ", ".join((*self.nodes, *self.routers))
        raise ValueError(f"there is no {name!r}: {known}")

    def _names(self, side: Iterable[str | int] | str | int) -> list[str]:
        members = [side] if isinstance(side, str | int) else list(side)
        return [CLIENT if one == CLIENT else self._machine(one).name for one in members]

    def _do(self, name: str | int, what: str, act: Callable[[Node | RouterNode], None]) -> None:
        machine = self._machine(name)

        def run() -> None:
            self._embedded.world.note(machine.name, what)
            act(machine)

        self._embedded.call(run)

    def _resume(self, machine: Node | RouterNode) -> None:
        process = machine.process
        if process is not None and process.paused:
            self._embedded.world.loop.resume(process)

    def _cut_more(self, what: str, links: set[tuple[str, str]]) -> None:
        def run() -> None:
            self._cut |= links
            self._embedded.world.note("-", what, links=len(links))
            self._embedded.world.network.set_cut(self._cut)

        self._embedded.call(run)

    def _leader(self, group: int) -> Node | None:
        """Who leads and has committed in its term, and still hears a majority as far as it knows."""
        node = self._embedded.cluster.leader(group)
        if node is None or node.replica is None or node.process is None or node.process.paused:
            return None
        return node if node.replica.raft.leading.committed_in_term else None

    def _serves(self) -> bool:
        """Whether every group leads, and every router knows it."""
        cluster = self._embedded.cluster
        leaders = [self._leader(group) for group in range(cluster.groups)]
        if None in leaders:
            return False
        for router in cluster.routers:
            views = router.router.core.topology.groups if router.router is not None else {}
            for group, leader in enumerate(leaders):
                view = views.get(group)
                known = view.leader.replica_id if view and view.reachable and view.leader else 0
                if leader is None or known != leader.replica_id:
                    return False
        return True

    def _caught_up(self) -> bool:
        for group in range(self._embedded.cluster.groups):
            leader = self._leader(group)
            if leader is None or leader.replica is None:
                return False
            last = leader.replica.raft.log.last_index
            for node in self._embedded.cluster.group(group):
                if node.replica is None or node.replica.raft.applied < last:
                    return False
        return True

    def _missing(self) -> str:
        cluster = self._embedded.cluster
        without = [group for group in range(cluster.groups) if self._leader(group) is None]
        down = [machine.name for machine in self._machines() if not machine.is_up]
        return f"groups without a leader: {without}, down: {down}, links cut: {len(self._cut)}"
