"""Runs in which followers fall behind: small logs and short patience, and what is done to one (FAULTS 83).

Drawn from the seed, apart from all else, like ``leases``.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from overdb_simulation.cluster import Cluster, Node
from overdb_simulation.substitutes import World

SHARE = 0.4  # of all seeds that do not hoard
AWAY_SECONDS_MAX = 8.0
LOOK_SECONDS = 0.1


def is_drawn(seed: int) -> bool:
    """Return whether followers fall behind in this seed's run."""
    return Random(f"lagging {seed}").random() < SHARE


def make_limits_small(cluster: Cluster, seed: int) -> None:
    """Have seconds of writes be more than a leader keeps in memory, or for one that is silent.

    Times are in ticks of 100 ms.
    """
    random = Random(f"small logs {seed}")
    cluster.snapshot_log_bytes = random.choice((4096, 8192, 16_384))
    cluster.own_limits = {
        "log_memory_bytes": random.choice((3000, 8000)),
        "kept_log_bytes": random.choice((10_000, 100_000)),
        "chunk_window_bytes": random.choice((1024, 8192)),
        "append_bytes_max": random.choice((1000, 10_000)),
        "inflight_bytes_max": random.choice((4000, 40_000)),
    }
    cluster.core_limits = {
        "fetch_bytes_max": random.choice((500, 4000)),
        "unapplied_bytes_max": random.choice((10_000, 100_000)),
        "pace_bytes_min": random.choice((300, 3000)),
        "keep_silent_ticks": random.choice((10, 20)),
        "stall_ticks_max": 40,
        "slow_ticks_max": 40,
        "rest_ticks": random.choice((10, 20)),
    }


class Absence:
    """A follower that is away until its leader's log begins behind all that it has.

    ``back`` is called once, ``look`` again and again until then.
    """

    def __init__(
        self, world: World, cluster: Cluster, node: Node, last_index: int, back: Callable[[], None]
    ) -> None:
        self._world, self._cluster, self._node = world, cluster, node
        self._last_index = last_index
        self._back = back
        self._end = world.loop.time() + AWAY_SECONDS_MAX

    def look(self) -> None:
        leader = self._cluster.leader(self._node.group)
        first = leader.replica.raft.log.first_index if leader and leader.replica else 0
        if first > self._last_index or self._world.loop.time() > self._end:
            self._back()
        else:
            self._world.loop.call_later(LOOK_SECONDS, self.look)
