"""A group's clock only grows, entry by entry, over restarts too, and so do versions (PROTOCOL 2.1).

Versions of one key grow. What an entry acknowledges has a version above all that were acknowledged before,
except for a transaction over several groups: its version is above its vote's.
"""

from __future__ import annotations

from overdb_node.machine.types import Resolve
from tests.simulation.cluster.invariants.base import Applied, Violation
from tests.simulation.cluster.invariants.group_time import was_set_back


class ClockGrowth:
    def __init__(self) -> None:
        self._clocks: dict[tuple[int, int], tuple[int, int]] = {}  # behind each entry of each group
        self._newest: dict[tuple[int, bytes], int] = {}  # version of each key

    def check_entry(self, applied: Applied) -> None:
        machine, group, index = applied.machine, applied.group, applied.index
        clock = (machine.clock, machine.physical)
        # By the group's sequence, not the replica's: one that has restarted goes on where it is known to be.
        before = self._clocks.get((group, index - 1), (0, 0))
        if clock[0] <= before[0] or (clock[1] < before[1] and not was_set_back(applied)):
            raise Violation(
                f"{applied.name}: the clock went from {before} to {clock} with entry {index}"
            )
        if self._clocks.setdefault((group, index), clock) is clock:
            self._check_versions(applied, before[0], clock[0])

    def _check_versions(self, applied: Applied, before: int, clock: int) -> None:
        """Once for each entry: the other replicas are compared with the first."""
        if not applied.versions:
            return
        commits = {one.version for one in applied.commands if type(one) is Resolve}
        own: set[bytes] = set()
        for key, version, _ in applied.versions:
            newest = self._newest.get((applied.group, key), 0)
            if version < newest or (version == newest and key not in own):
                raise Violation(
                    f"{applied.name}: {key!r} gets version {version} behind {newest} "
                    f"with entry {applied.index}"
                )
            if not before < version <= clock and version not in commits:
                raise Violation(
                    f"{applied.name}: {key!r} gets version {version} with entry {applied.index}, "
                    f"whose clock went from {before} to {clock}"
                )
            own.add(key)
            self._newest[applied.group, key] = version
