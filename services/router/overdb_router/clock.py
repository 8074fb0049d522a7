"""The groups' time, for what the router stamps itself: ids of requests that come without one (PROTOCOL 2.1).

A router's wall clock may be as wrong as any other. Each leader says its group's time whenever it is asked how
it is, so the router knows how far its own clock is off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from overdb.internal.v1 import shard_pb2
from overdb.v1 import cluster_pb2

OFFSET_US_MAX = 10_000_000  # by which a clock may differ
MACHINES_MIN = 3  # of fewer it is not known which one is wrong
_REMEDY = "set it, and see that NTP runs"


def name_clocks(
    groups: Iterable[cluster_pb2.GroupStatus], answers: Sequence[shard_pb2.DescribeResponse]
) -> None:
    """Name replicas in ``groups`` whose clocks differ from those of all machines, where none was named.

    A group of one replica, and one of two, cannot say by itself whose clock is wrong. All answers were given
    at about the same time.
    """
    walls = {one.replica_id: one.wall_us for one in answers if one.wall_us}
    if len(walls) < MACHINES_MIN:
        return
    middle_us = sorted(walls.values())[(len(walls) - 1) // 2]
    for replica in (one for group in groups for one in group.replicas):
        wall_us = walls.get(replica.id, middle_us)
        if (
            abs(wall_us - middle_us) <= OFFSET_US_MAX
            or abs(replica.clock_offset_us) > OFFSET_US_MAX
        ):
            continue
        replica.clock_offset_us = wall_us - middle_us
        found = f"the clock of this machine is {_way(wall_us - middle_us)} those of the others: {_REMEDY}"
        replica.problem = "; ".join(filter(None, (replica.problem, found)))


def _way(offset_us: int) -> str:
    return f"{abs(offset_us) / 1e6:.0f} s {'ahead of' if offset_us > 0 else 'behind'}"


class RouterClock:
    """The wall clock, corrected by what the leaders said last where it was wrong then."""

    def __init__(self, wall_ns: Callable[[], int] | None = None) -> None:
        self._wall_ns = wall_ns or time.time_ns
        self._offsets: dict[int, int] = {}  # group -> how far the wall clock was ahead of its time

    def heard(self, answer: shard_pb2.DescribeResponse) -> None:
        """Take in the group's time as its leader has just said it."""
        if answer.role == "leader" and answer.wall_us:
            group_us = answer.wall_us - answer.clock_offset_us
            self._offsets[answer.group] = self._wall_ns() // 1000 - group_us

    @property
    def offset_us(self) -> int:
        """How far the wall clock was ahead of the groups' time, the lower median of all; negative: behind."""
        if not self._offsets:
            return 0
        return sorted(self._offsets.values())[(len(self._offsets) - 1) // 2]

    @property
    def problem(self) -> str:
        """What an operator should know; empty when the clock is right."""
        offset_us = self.offset_us
        if abs(offset_us) <= OFFSET_US_MAX:
            return ""
        return (
            f"the clock of this router's machine is {_way(offset_us)} the groups' time: {_REMEDY}"
        )

    def now_ns(self) -> int:
        """Returns the time for ids, in nanoseconds.

        A wall clock that was right when leaders answered last is trusted, also where it has jumped since: the
        machines may have been suspended. The next answer, within ``poll_seconds``, tells.
        """
        offset_us = self.offset_us
        return self._wall_ns() - (offset_us * 1000 if abs(offset_us) > OFFSET_US_MAX else 0)
