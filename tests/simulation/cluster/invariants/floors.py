"""What was said to be over stays over: floors of ids and versions never go back (PROTOCOL 2.10; FAULTS 85).

And no request runs under an id that its group has refused as expired.
"""

from __future__ import annotations

from overdb_node.machine.types import (
    Code,
    Delete,
    Deleted,
    Put,
    Puts,
    SetTime,
    Transact,
    Transacted,
    Untimely,
    Written,
)
from tests.simulation.cluster.invariants.base import Applied, Violation


class Floors:
    def __init__(self) -> None:
        self._floors: dict[tuple[int, int], tuple[int, int]] = {}  # behind each entry of each group
        self._expired: dict[tuple[int, bytes], int] = {}  # by client id: index of the refusal

    def check_entry(self, applied: Applied) -> None:
        machine, key = applied.machine, (applied.group, applied.index)
        if machine.level < 1 or any(isinstance(one, SetTime) for one in applied.commands):
            return
        now = machine.id_floor, machine.retention_floor
        before = self._floors.get((applied.group, applied.index - 1), (0, 0))
        if now[0] < before[0] or now[1] < before[1]:
            raise Violation(
                f"{applied.name}: the floors of ids and versions went from {before} to {now} with entry "
                f"{applied.index}"
            )
        if self._floors.setdefault(key, now) is now:
            self._check_ids(applied)

    def _check_ids(self, applied: Applied) -> None:
        """Once for each entry: the other replicas are compared with the first."""
        for command, result in zip(applied.commands, applied.results, strict=True):
            if not isinstance(command, Put | Delete | Transact | Puts):
                continue
            client = (applied.group, command.id.client_id)
            if isinstance(result, Untimely) and result.code is Code.FAILED_PRECONDITION:
                self._expired.setdefault(client, applied.index)
            elif client in self._expired and isinstance(result, Written | Deleted | Transacted):
                raise Violation(
                    f"{applied.name}: {command.id.client_id.hex()} was refused as expired by entry "
                    f"{self._expired[client]}, and runs with entry {applied.index}"
                )
