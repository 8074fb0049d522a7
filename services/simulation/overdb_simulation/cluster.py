"""A whole cluster of production processes in one simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from random import Random
from typing import Any, cast

from pydantic_settings import PydanticBaseSettingsSource

import overdb
from overdb.internal.v1 import shard_pb2_grpc
from overdb_common.errors import StartupError
from overdb_common.level import LEVEL
from overdb_node.backend import ReplicaBackend
from overdb_node.direct import DirectBackend, add_service
from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_storage
from overdb_node.raft.settings import RaftSettings
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from overdb_node.transport.peers import Sender
from overdb_node.transport.shard_service import ShardService
from overdb_router.router import Router
from overdb_router.settings import RouterSettings
from overdb_simulation.disk import PowerLoss, SimulatedDisk
from overdb_simulation.inodes import DirectoryNode
from overdb_simulation.loop import Process, current_process
from overdb_simulation.network import Server
from overdb_simulation.substitutes import World

RESTART_SECONDS = 1.0  # after which a supervisor starts a process again that has given up
ROUTER_ADDRESS = "router-%d:7400"
NODE_ADDRESS = "s%dr%d:7410"
DIRECT_ADDRESS = "s%dr%d:7420"


class _Settings(NodeSettings):
    """Settings with some numbers of the core that no operator chooses."""

    core_limits: dict[str, int] = {}  # noqa: RUF012  # pydantic copies it

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, _: object, init_settings: PydanticBaseSettingsSource, **_others: object
    ) -> tuple[PydanticBaseSettingsSource]:
        """A seed says everything: the environment is not asked."""
        return (init_settings,)

    def raft_settings(self) -> RaftSettings:
        return replace(super().raft_settings(), **self.core_limits)


class _NoMetrics:
    """Nobody looks at the metrics of a simulated replica."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*_: object) -> None:
    pass


class Node:
    """One replica's machine: its disk outlives its processes."""

    def __init__(self, cluster: Cluster, group: int, number: int) -> None:
        self.cluster = cluster
        self.group = group
        self.replica_id = group * cluster.replicas + number + 1
        self.joins = False  # its id is not one of the founders'
        self.place = group, number
        self.address = NODE_ADDRESS % self.place
        self.name = f"s{group}r{number}"
        self.disk = SimulatedDisk(Random(cluster.world.random.getrandbits(64)))
        self.slow_seconds = 0.0  # what the disk takes beside its usual time
        self.stalled = False
        self.process: Process | None = None
        self.replica: Replica | None = None
        self.refused = ""  # why it did not start
        # What was set is each node's own affair: what counts is in the log.
        random = cluster.world.random
        self.limits = {
            "client_id_seconds": random.choice((60, 3600)),
            "operations_max": random.choice((512, 1024)),
        }
        self.level_known = LEVEL  # of the program; 0: one of the release before
        self.lives = 0
        self.wipes = 0
        self.groups = cluster.groups  # OVERDB_GROUPS there
        self.clock_offset_ns = 0  # of the machine's wall clock: it outlives its processes

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def problem(self) -> str:
        """What its process says that an operator should know."""
        return self.refused or (self.replica.problem if self.replica is not None else "")

    def start(self) -> None:
        """Start the process; a directory that it refuses is noted."""
        cluster = self.cluster
        self.lives += 1
        self.process = process = Process(self.name)
        process.watched = True
        process.clock_rate = cluster.clock_rate(self)
        process.clock_offset_ns = self.clock_offset_ns
        cluster.nodes_by_process[process] = self
        self.refused = ""
        self.replica = None
        cluster.world.loop.inside(process, self._start, process)

    def _start(self, process: Process) -> None:
        world = self.cluster.world
        settings = self.cluster.node_settings(self)
        # Not what its type says, and smaller than an operator may choose.
        object.__setattr__(settings, "data", self.disk.root)
        object.__setattr__(settings, "snapshot_log_bytes", self.cluster.snapshot_log_bytes)
        object.__setattr__(settings, "chunk_bytes", self.cluster.chunk_bytes)
        for name, value in self.cluster.own_limits.items():
            object.__setattr__(settings, name, value)
        try:
            storage = open_storage(settings)
            metrics = cast("NodeMetrics", _NoMetrics())
            replica = Replica(settings, storage, metrics, self._on_fatal, self.level_known)
        except StartupError as error:
            world.note(self.name, "refused to start", problem=str(error))
            self.refused = str(error)
            process.alive = False
            self.disk.crash_process()
            return
        except PowerLoss:
            self._power_lost()
            return
        self.replica = replica
        server = Server(world.network, process)
        shard_pb2_grpc.add_ShardServicer_to_server(ShardService(ReplicaBackend(replica)), server)  # type: ignore[arg-type]
        server.add_insecure_port(self.address)
        world.loop.create_task(server.start())
        clients = Server(world.network, process)
        backend = DirectBackend(ReplicaBackend(replica), replica)
        add_service(backend, clients)  # type: ignore[arg-type]
        clients.add_insecure_port(settings.direct_listen)
        world.loop.create_task(clients.start())
        replica.direct_listen = settings.direct_listen

        async def hear_when_noted(sender: Sender, messages: list[Any]) -> None:
            if await replica.admission.note(sender):
                replica.receive(sender.replica_id, messages)

        def hear(sender: Sender, messages: list[Any]) -> None:
            if replica.admission.admit(sender):
                return
            if replica.admission.may_count(sender):
                replica.receive(sender.replica_id, messages)
            else:
                world.loop.create_task(hear_when_noted(sender, messages))

        world.network.raft[self.address] = (process, self.replica_id, hear)
        world.note(self.name, "started", last=replica.raft.log.last_index, term=replica.raft.term)
        replica.start()

    def _on_fatal(self, reason: str) -> None:
        self.cluster.on_fatal(self, reason)

    def kill(self, *, power: bool = False) -> None:
        """End the process at once; with ``power``, what was not fsynced is lost too."""
        process = self.process
        if process is not None and process.alive:
            process.alive = False
            self.cluster.world.network.process_died(process)
            self.cluster.world.note(self.name, "power lost" if power else "killed")
        self.replica = None
        if power:
            self.disk.lose_power()
        else:
            self.disk.crash_process()

    def wipe(self) -> None:
        """An empty disk, as a machine that was replaced has one. The process must be down."""
        assert not self.is_up
        self.disk.off = True
        self.disk = SimulatedDisk(Random(self.cluster.world.random.getrandbits(64)))
        self.refused = ""
        self.wipes += 1
        self.cluster.world.note(self.name, "wiped")

    def restore(self, copy: DirectoryNode) -> None:
        """Put an old copy of its disk back. The process must be down."""
        assert not self.is_up
        self.disk.restore(copy)
        self.refused = ""
        self.cluster.world.note(self.name, "restored from a copy")

    def renew(self) -> int:
        """Wipe it, and give it an id that nobody had, to join its group with; return the id."""
        self.wipe()
        self.replica_id = self.cluster.new_id()
        self.joins = True
        return self.replica_id

    def _power_lost(self) -> None:
        self.kill(power=True)


class RouterNode:
    """One router's machine."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.name = f"router{number}"
        self.address = ROUTER_ADDRESS % number
        self.process: Process | None = None
        self.router: Router | None = None

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.alive

    def start(self) -> None:
        self.process = process = Process(self.name)
        self.cluster.world.note(self.name, "started")
        self.cluster.world.loop.inside(process, self._start)

    def _start(self) -> None:
        self.router = router = Router(self.cluster.router_settings(self), asyncio.Event())
        self.cluster.world.loop.create_task(router.start())

    def kill(self) -> None:
        process = self.process
        if process is not None and process.alive:
            process.alive = False
            self.cluster.world.network.process_died(process)
            self.cluster.world.note(self.name, "killed")
        self.router = None


class Cluster:
    """Groups of replicas and routers. ``on_fatal(node, reason)`` is called when a replica gives up."""

    def __init__(
        self, world: World, groups: int = 2, replicas: int = 3, routers: int = 2, **overrides: Any
    ) -> None:
        self.world = world
        self.groups = groups
        self.replicas = replicas
        self.overrides = overrides
        self.snapshot_log_bytes = world.random.choice((4096, 16_384, 65_536))
        self.chunk_bytes = world.random.choice((512, 4096))
        self.compare_seconds = world.random.choice((0.5, 3.0))
        self.own_limits: dict[str, int] = {}  # of settings, beyond what they allow
        self.core_limits: dict[str, int] = {}  # of RaftSettings
        self.nodes_by_process: dict[Process, Node] = {}
        self.nodes = [Node(self, g, n) for g in range(groups) for n in range(replicas)]
        self._founders = {node: node.replica_id for node in self.nodes}
        self._newest_id = groups * replicas
        self.routers = [RouterNode(self, n) for n in range(routers)]
        self.fatal: Callable[[Node, str], None] = _nothing
        self.own_settings: Callable[[Node], dict[str, Any]] = lambda _: {}  # asked at each start
        self.clock_rate: Callable[[Node], float] = lambda _: 1.0
        self.clients: list[Process] = []
        self.outside = copy_context()  # of no process
        self.supervise: Callable[[Node], None] = _nothing
        world.loop.on_power_loss = self._on_power_loss

    def node_settings(self, node: Node) -> NodeSettings:
        members = ",".join(
            f"{founder}={n.address}"
            for n, founder in self._founders.items()
            if n.group == node.group
        )
        return _Settings(
            node_id=node.replica_id,
            group=node.group,
            groups=node.groups,
            members=members,
            seeds=",".join(n.address for n in self.nodes),
            listen=node.address,
            direct_listen=DIRECT_ADDRESS % node.place,
            join=node.joins,
            core_limits=self.core_limits,
            **{
                "disk_free_bytes_min": 1 << 20,
                "heartbeat_ms": 100,  # twice as many as by default
                "compare_seconds": self.compare_seconds,
                **node.limits,
                **self.overrides,
                **self.own_settings(node),
            },
        )

    def router_settings(self, router: RouterNode) -> RouterSettings:
        settings: dict[str, Any] = {
            "listen": router.address,
            "seeds": ",".join(node.address for node in self.nodes),
        }
        return RouterSettings(**settings)

    def new_id(self) -> int:
        """A replica's id that was never used."""
        self._newest_id += 1
        return self._newest_id

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for router in self.routers:
            router.start()

    def disk_seconds(self) -> float:
        """How long the running process's disk takes for one write and fsync."""
        node = self.nodes_by_process.get(current_process())  # type: ignore[arg-type]
        random = self.world.random.random()
        if node is None:
            return 0.001
        return 0.0004 + 0.001 * random + node.slow_seconds

    def on_fatal(self, node: Node, reason: str) -> None:
        """A replica gave up: its process ends, as production's does."""
        self.world.note(node.name, "gave up", reason=reason)
        process = node.process
        self.fatal(node, reason)
        if process is not None:
            self.world.loop.call_soon(node.kill, context=self.outside)
            self.world.loop.call_later(RESTART_SECONDS, self.supervise, node, context=self.outside)

    def _on_power_loss(self, process: Process) -> None:
        node = self.nodes_by_process.get(process)
        if node is not None:
            node.kill(power=True)

    def group(self, group: int) -> list[Node]:
        return [node for node in self.nodes if node.group == group]

    def leader(self, group: int) -> Node | None:
        """Who leads with the highest term."""
        leaders = [
            n for n in self.group(group) if n.is_up and n.replica and n.replica.raft.is_leader
        ]
        return max(leaders, key=lambda n: n.replica.raft.term, default=None)  # type: ignore[union-attr]

    def client(
        self, name: str, work: Callable[[overdb.Client], Any], *, direct: bool = False
    ) -> Process:
        """A process with one client that runs a coroutine; ``direct``: straight to the leaders."""
        process = Process(name)
        self.clients.append(process)
        addresses = ",".join(router.address for router in self.routers)

        def begin() -> None:
            client = overdb.Client(addresses, timeout=5.0, direct=direct)
            self.world.loop.create_task(work(client))

        self.world.loop.inside(process, begin)
        return process
