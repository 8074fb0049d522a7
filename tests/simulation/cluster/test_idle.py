"""The work of an idle cluster, counted in virtual time: the same on any machine, however busy."""

from __future__ import annotations

import sys
from types import FrameType

from overdb_node.settings import NodeSettings
from overdb_simulation.cluster import Cluster
from overdb_simulation.substitutes import World, substituted

SECONDS = 5.0
CALLS_PER_SECOND_MAX = (
    31_000  # of Python functions, of the simulator's as well; 27,800, and 34,000 at 100 ms
)


def test_an_idle_cluster_makes_few_calls() -> None:
    """Six replicas and two routers without a client send heartbeats, look at disks and at each other."""
    world = World(1)
    cluster = Cluster(world)
    cluster.overrides["heartbeat_ms"] = NodeSettings.model_fields["heartbeat_ms"].default
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    with substituted(world, cluster.disk_seconds):
        cluster.start()
        world.loop.run_for(5.0)
        sys.setprofile(count)
        try:
            world.loop.run_for(SECONDS)
        finally:
            sys.setprofile(None)
        for node in cluster.nodes:
            node.disk.off = True
        world.loop.end()
    assert 1_000 < calls / SECONDS < CALLS_PER_SECOND_MAX, f"{calls / SECONDS:,.0f} calls a second"
