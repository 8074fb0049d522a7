"""The wall clocks of simulated machines, and how far they let a group's time come (FAULTS 81)."""

from __future__ import annotations

from overdb_node.raft.group_time import HEARD_US_MAX
from overdb_simulation.cluster import Cluster, Node
from overdb_simulation.loop import Process

SECOND_US = 1_000_000
# A clock that is off by more is wrong; the sum of what drift and small jumps do to a right one is less.
WRONG_US_MIN = 20 * SECOND_US
# What a leader has heard goes on with its own clock that nobody sets, for three seconds: also when the clock
# that was heard is set back meanwhile. That may run at another rate than the wall clock: by a fifth at most.
SLACK_US = HEARD_US_MAX + SECOND_US


class Clocks:
    """Knows what every machine's clock says, whether a process runs there or not."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._latest = dict.fromkeys(range(cluster.groups), 0)
        self._wrong_until: dict[Node, float] = {}

    def true_us(self) -> int:
        """The time by which no clock is wrong."""
        world = self._cluster.world
        return (world.wall_at_start_ns + int(world.loop.time() * 1e9)) // 1000

    def offset_us(self, node: Node) -> int:
        """How far a machine's clock is ahead."""
        process = node.process
        if process is None:
            return node.clock_offset_ns // 1000
        drifted = process.clock_drift * (self._cluster.world.loop.time() - process.drift_since)
        return process.clock_offset_ns // 1000 + int(drifted * 1e6)

    def is_wrong(self, node: Node) -> bool:
        return abs(self.offset_us(node)) > WRONG_US_MIN

    def wrong_in(self, group: int) -> set[Node]:
        """Whose clocks are wrong, or were until just now: leaders may still count what they heard."""
        now = self._cluster.world.loop.time()
        nodes = self._cluster.group(group)
        return {n for n in nodes if self.is_wrong(n) or self._wrong_until.get(n, 0.0) > now}

    # --- setting them -------------------------------------------------------------------------------

    def set(self, node: Node, offset_us: int) -> None:
        """Set a machine's clock, for good."""
        self.sample()
        if self.is_wrong(node):
            self._wrong_until[node] = self._cluster.world.loop.time() + HEARD_US_MAX / 1e6 + 0.5
        difference_ns = offset_us * 1000 - node.clock_offset_ns
        node.clock_offset_ns += difference_ns
        if (
            node.process is not None
        ):  # which may be behind its machine's beside that: it was suspended
            node.process.clock_offset_ns += difference_ns
        self.sample()

    # --- what a group may take from them ---------------------------------------------------------------

    def sample(self) -> None:
        """Note how far each group's time may be by now. Called before and after a clock is set."""
        for group in self._latest:
            self._latest[group] = max(self._latest[group], self._second(group))

    def _second(self, group: int) -> int:
        """What at least two of the group's machines say. One alone must move nothing ahead."""
        offsets = sorted(self.offset_us(node) for node in self._cluster.group(group))
        return self.true_us() + offsets[-2]

    def latest_us(self, group: int) -> int:
        """The latest time that any entry of the group may have brought until now."""
        self.sample()
        return self._latest[group] + SLACK_US

    def restarted(self, group: int) -> None:
        """The group's time was set back."""
        self._latest[group] = self._second(group)


def set_process_clock(process: Process | None, offset_us: int) -> None:
    """Set the clock of a router's or a client's machine."""
    if process is not None:
        process.clock_offset_ns = offset_us * 1000
