"""A cluster of which only the routers are known: load and checks, no faults."""

from __future__ import annotations

from collections.abc import Sequence

from overdb_torture.clusters.base import Cluster, NotCarriedOut, Process
from overdb_torture.faults import Kind, Planned


class EndpointCluster(Cluster):
    """Whatever answers at some addresses."""

    possible: frozenset[Kind] = frozenset()
    why_not = "name the cluster by --data or --compose, so that its processes can be reached"

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.description = "the cluster at " + ",".join(endpoints)
        self.endpoints = list(endpoints)
        self.processes: list[Process] = []

    async def begin(self, fault: Planned, victims: Sequence[Process]) -> None:
        raise NotCarriedOut(
            f"{fault.kind} of {victims}: only the routers of this cluster are known"
        )

    async def end(self, fault: Planned, victims: Sequence[Process]) -> None:
        raise NotCarriedOut(
            f"{fault.kind} of {victims}: only the routers of this cluster are known"
        )

    async def heal(self) -> None:
        return
