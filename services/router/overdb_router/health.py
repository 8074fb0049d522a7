"""grpc.health.v1: SERVING only when requests can be served."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from overdb_router.topology import Topology

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WHOLE = ("", "overdb.v1.KV")


class Health:
    """Names "" and "overdb.v1.KV" (every group has a leader that answers) and "group-N" for each."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._changed = asyncio.Event()
        self._told: dict[str, int] = {}
        self.servicer = health_aio.HealthServicer()

    def changed(self) -> None:
        """Something about groups or leaders changed."""
        self._changed.set()

    async def run(self) -> None:
        """Tell the servicer, whenever something changed."""
        while True:
            self._changed.clear()
            await self._tell_all()
            await self._changed.wait()

    async def stop(self) -> None:
        """NOT_SERVING from now on, so that clients and balancers go elsewhere."""
        await self.servicer.enter_graceful_shutdown()

    async def _tell_all(self) -> None:
        for name in WHOLE:
            await self._tell(name, self._topology.serving)
        for group, view in sorted(self._topology.groups.items()):
            await self._tell(f"group-{group}", view.reachable)

    async def _tell(self, name: str, serving: bool) -> None:
        status = _SERVING if serving else _NOT_SERVING
        if self._told.get(name) != status:
            self._told[name] = status
            await self.servicer.set(name, status)
