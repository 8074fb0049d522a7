"""One machine's clock never moves a group's time ahead: two must say it (PROTOCOL 2.1; FAULTS 81)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb_node.machine.types import Acknowledged, SetTime
from tests.simulation.cluster.invariants.base import Applied, Violation

if TYPE_CHECKING:
    from tests.simulation.cluster.clocks import Clocks


class GroupTime:
    """Looks at each entry when the first replica applies it: what its leader stamped is at most so old."""

    clocks: Clocks

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}  # index applied by somebody, by group

    def check_entry(self, applied: Applied) -> None:
        group, index = applied.group, applied.index
        if index <= self._newest.get(group, 0):
            return
        self._newest[group] = index
        if was_set_back(applied):
            self.clocks.restarted(group)
        ahead = applied.machine.physical - self.clocks.latest_us(group)
        if ahead > 0:
            raise Violation(
                f"{applied.name}: the time of group {group} is {ahead / 1e6:.1f} s ahead of what two of its "
                f"machines have said, with entry {index}"
            )


def was_set_back(applied: Applied) -> bool:
    """Whether an administrator's command in the entry has set the group's time."""
    return any(
        isinstance(command, SetTime) and isinstance(result, Acknowledged)
        for command, result in zip(applied.commands, applied.results, strict=True)
    )
