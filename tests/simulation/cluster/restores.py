"""Directories that travel back in time: a copy of a disk, taken earlier, is put back (FAULTS 82)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from overdb_node.starts import RENEWAL_SECONDS
from overdb_simulation.cluster import Cluster, Node
from overdb_simulation.inodes import DirectoryNode

LOOK_SECONDS = 0.05
# Another replica has heard a new life, and noted it, when the two have been linked for so long; ...
HEARD_SECONDS = 0.5
# ... and a renewal within a life, which it asks for with its own renewal, and writes with the next one.
RENEWED_SECONDS = 3 * RENEWAL_SECONDS + HEARD_SECONDS
GIVEN_UP_SECONDS = 9.0


class Restore:
    """One copy of one node's disk, and whether every other replica of its group can tell it from the node.

    Where all that have heard a later start are down, nothing can tell a restored directory from a restarted
    one (PROTOCOL 3.9): such a copy is not put back.
    """

    def __init__(
        self,
        cluster: Cluster,
        node: Node,
        *,
        restarts: bool,
        told: Callable[[], None],
        given_up: Callable[[], None],
    ) -> None:
        """``restarts``: the node is started again after the copy. Calls ``told`` or ``given_up``, once."""
        self.node = node
        self.copy: DirectoryNode = node.disk.copy()
        self._disk = node.disk
        self._cluster = cluster
        self._told, self._given_up = told, given_up
        self._seconds = HEARD_SECONDS if restarts else RENEWED_SECONDS
        self._life = node.lives + restarts
        self._linked: dict[Node, tuple[int, float]] = {}  # other -> its life, and since when
        self._has_heard: set[Node] = set()
        self._end = self._now + GIVEN_UP_SECONDS
        self._look()

    @property
    def _now(self) -> float:
        return self._cluster.world.loop.time()

    @property
    def is_possible(self) -> bool:
        """Whether the node has the disk still that was copied."""
        return self.node.disk is self._disk

    def _look(self) -> None:
        others = [one for one in self._cluster.group(self.node.group) if one is not self.node]
        for other in others:
            since = self._linked.get(other)
            if not self._is_linked(other):
                self._linked.pop(other, None)
            elif since is None or since[0] != other.lives:
                self._linked[other] = other.lives, self._now
            elif self._now - since[1] >= self._seconds:
                self._has_heard.add(other)
        if not self.is_possible or self._now > self._end:
            self._given_up()
        elif self._has_heard >= set(others):
            self._told()
        else:
            self._cluster.world.loop.call_later(LOOK_SECONDS, self._look)

    def _is_linked(self, other: Node) -> bool:
        """Whether both run and take part, and each reaches the other."""
        network, world = self._cluster.world.network, self._cluster.world
        a, b = self.node, other
        if a.lives < self._life or world.network.weather.loss > 0.05:
            return False
        for one in (a, b):
            process, replica = one.process, one.replica
            if process is None or not process.alive or process.paused or replica is None:
                return False
            if not replica.admission.established or one.disk.full or one.slow_seconds:
                return False
        assert a.process is not None
        assert b.process is not None
        return network.carries(a.process, b.process) and network.carries(b.process, a.process)


def seconds_until_put_back(random: Random) -> float:
    """Sometimes at once, before the number has grown once more: then only the id tells."""
    return random.choice((0.0, random.uniform(0.0, 1.0), random.uniform(0.0, 4.0)))
