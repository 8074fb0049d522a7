"""The process of one router: the one place where its rooms meet."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from overdb.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from overdb_common import grpc_options, metrics, serving
from overdb_common.careful import CarefulServer
from overdb_common.version import version
from overdb_router.channels import Channels
from overdb_router.clock import RouterClock
from overdb_router.cluster_service import ClusterService
from overdb_router.coordinator import Coordinator
from overdb_router.core import RouterCore
from overdb_router.dispatcher import Dispatcher
from overdb_router.gate import Gate
from overdb_router.health import Health
from overdb_router.ids import RouterIds
from overdb_router.kv_service import KVService
from overdb_router.metrics import RouterMetrics
from overdb_router.reflected import MethodsToo
from overdb_router.settings import RouterSettings
from overdb_router.snapshots import Snapshots
from overdb_router.strict_reads import StrictReads
from overdb_router.topology import Topology
from overdb_router.validation import Validation

_log = structlog.get_logger()


async def run(settings: RouterSettings, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. Raises StartupError; anything else that it raises is a bug."""
    router = Router(settings, stop)
    stop_metrics = metrics.start_server(router.registry, settings.metrics_listen)
    port = await router.start()
    _log.info(
        "started",
        listen=settings.listen,
        port=port,
        cluster=settings.cluster,
        seeds=settings.seeds,
        version=version(),
    )
    await stop.wait()
    _log.info("stopping", open_calls=router.gate.open)
    await router.stop()
    stop_metrics()
    _log.info("stopped")
    if router.failure is not None:
        raise router.failure


class Router:
    """A router that can be started and stopped inside a running loop.

    ``stop`` is set by the router itself when one of its tasks fails; ``failure`` then says why.
    """

    def __init__(self, settings: RouterSettings, stop: asyncio.Event) -> None:
        self._stop = stop
        self.failure: BaseException | None = None
        self.registry = metrics.new_registry("router")
        router_metrics = RouterMetrics(self.registry)
        channels = Channels()
        topology = Topology(settings, channels, self._leader_changed, self._map_changed)
        self.clock = RouterClock()
        topology.on_answer = self.clock.heard
        dispatcher = Dispatcher(settings, topology, channels, router_metrics.exchanged, self._watch)
        self.coordinator = Coordinator(settings, dispatcher)
        submit = self.coordinator.submit
        self._strict_reads = StrictReads(dispatcher, settings.request_bytes_max, submit)
        dispatcher.on_several = self._strict_reads.submit
        self.core = RouterCore(
            settings=settings,
            validation=Validation(settings),
            ids=RouterIds(settings.client_id_seconds, self.clock.now_ns),
            clock=self.clock,
            channels=channels,
            topology=topology,
            dispatcher=dispatcher,
            snapshots=Snapshots(settings, topology, dispatcher, self._watch),
            metrics=router_metrics,
        )
        self.gate = Gate(settings.unary_calls_max)
        self._health = Health(topology)
        self._kv = KVService(self.core, self.gate)
        self._server = self._make_server()
        self._telling: asyncio.Task[None] | None = None
        self._register_gauges()

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> int:
        """Begin to serve and return the port. Raises StartupError when the address is taken."""
        port = serving.bind(self._server, self.core.settings.listen)
        self._watch(self.core.topology.start())
        self._telling = asyncio.create_task(self._health.run(), name="health")
        self._watch(self._telling)
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Take nothing new, finish what there is (``stop_seconds_max`` at most), close everything.

        Batch streams are ended here: a stopping server would wait for them, and they last for ever.
        """
        await self._health.stop()
        self._kv.end_streams()
        await self.gate.close(self.core.settings.stop_seconds_max)
        await self._server.stop(0.2)
        if self._telling is not None:
            self._telling.cancel()
        await self.core.snapshots.close()
        await self.coordinator.drain(min(1.0, self.core.settings.stop_seconds_max))
        await self.core.dispatcher.close()
        await self.core.topology.close()
        await self.core.channels.close()

    def _make_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=grpc_options.server_options())
        careful: Any = CarefulServer(server)
        kv_pb2_grpc.add_KVServicer_to_server(self._kv, careful)
        cluster = ClusterService(self.core, self.gate)
        cluster_pb2_grpc.add_ClusterServicer_to_server(cluster, careful)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, careful)
        services = (
            kv_pb2.DESCRIPTOR.services_by_name["KV"].full_name,
            cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(services, server, MethodsToo())
        return server

    # --- what the rooms report ------------------------------------------------------------------

    def _leader_changed(self, group: int) -> None:
        self.core.dispatcher.leader_changed(group)
        self._health.changed()

    def _map_changed(self) -> None:
        self.core.dispatcher.map_changed()
        self._health.changed()

    def _watch(self, task: asyncio.Task[None]) -> None:
        """A background task that fails takes the router down: half a router is worse than none."""
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None:
            self.failure = self.failure or failure
            self._stop.set()

    def _register_gauges(self) -> None:
        gauge, core = self.core.metrics.gauge, self.core
        links = core.dispatcher.links
        gauge(
            "overdb_router_queue_bytes",
            "Requests that have no answer yet, bytes",
            lambda: sum(
                pair.leader.waiting_bytes + pair.any.waiting_bytes for pair in links.values()
            ),
        )
        gauge(
            "overdb_router_messages_in_flight",
            "Messages to groups that wait for their answer",
            lambda: sum(pair.leader.messages_in_flight for pair in links.values()),
        )
        gauge("overdb_router_open_calls", "Calls that are worked on", lambda: self.gate.open)
        gauge(
            "overdb_router_open_transactions",
            "Transactions over several groups that have no answer yet",
            lambda: self.coordinator.open,
        )
        gauge(
            "overdb_router_aborted_attempts",
            "Attempts of transactions over several groups that met a rival, since the start",
            lambda: self.coordinator.attempts_aborted,
        )
        gauge("overdb_router_streams", "Open Batch streams", lambda: self._kv.stream_count)
        gauge(
            "overdb_router_leader_changes",
            "Times that a group was found to have another leader",
            lambda: core.topology.leader_changes,
        )
        gauge(
            "overdb_router_strict_reads",
            "Double collects begun for transactions over several groups that only read",
            lambda: self._strict_reads.collects,
        )
        gauge(
            "overdb_router_strict_reads_given_up",
            "Of these transactions, those that had to run with locks, because writers were too fast",
            lambda: self._strict_reads.fallbacks,
        )
        gauge(
            "overdb_router_clock_offset_seconds",
            "By how much this machine's wall clock is ahead of the groups' time; negative: behind",
            lambda: self.clock.offset_us / 1e6,
        )
        gauge(
            "overdb_router_serving",
            "1 when every group has a leader that answers",
            lambda: float(core.topology.serving),
        )
