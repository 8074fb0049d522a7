"""Machines that are suspended while processes live on: monotonic clocks stand still, wall clocks do not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from overdb_simulation.cluster import Cluster
from overdb_simulation.loop import Process
from overdb_simulation.substitutes import World

# Shorter than anything, longer than the ids of some clusters live, than clients keep ids, than retention
# and the ids of all clusters last.
SECONDS = (20.0, 90.0, 1_500.0, 7_200.0, 26 * 3_600.0, 40 * 86_400.0)
# A client's clock may be behind by less than the shortest life of an id, or it cannot write at all.
BEHIND_SECONDS_MAX = 20.0
Note = Callable[..., None]


def suspend_all_machines(world: World, random: Random, note: Note) -> None:
    """Have all wall clocks jump together, as after a sleep of the host of everything."""
    seconds = random.choice(SECONDS)
    counted = random.random() < 0.5
    note("suspended machines", seconds=seconds, counted=counted)
    world.sleep_through(seconds, counted=counted)


def suspend_a_machine(cluster: Cluster, random: Random, note: Note) -> None:
    """Pause one process; when it goes on its wall clock is behind, until somebody sets it."""
    servers = [*(n.process for n in cluster.nodes), *(r.process for r in cluster.routers)]
    process = random.choice([*servers, *cluster.clients])
    if process is None or process.paused or not process.alive:
        return
    behind = random.choice(SECONDS)
    if process in cluster.clients:
        behind = min(behind, BEHIND_SECONDS_MAX)
    note("suspended machine", process.name, seconds=behind)
    process.paused = True
    asleep = random.uniform(0.2, 3.0)
    loop = cluster.world.loop
    loop.call_later(asleep, _wake, cluster, process, behind, context=cluster.outside)
    awake = asleep + random.uniform(0.0, 3.0)
    loop.call_later(awake, _set_clock, process, behind, context=cluster.outside)


def _wake(cluster: Cluster, process: Process, behind: float) -> None:
    process.clock_offset_ns -= int(behind * 1e9)
    if process.alive and process.paused:
        cluster.world.loop.resume(process)


def _set_clock(process: Process, behind: float) -> None:
    process.clock_offset_ns += int(behind * 1e9)
