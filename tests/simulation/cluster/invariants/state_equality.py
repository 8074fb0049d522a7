"""Replicas that have applied the same entries are in the same state, and their clocks only grow (2.1)."""

from __future__ import annotations

from typing import Any

from tests.simulation.cluster.invariants.base import Seen, Violation

DIGEST_EVERY = 64  # steps of a group between two comparisons of all that is in memory


class StateEquality:
    def __init__(self) -> None:
        self._clocks: dict[tuple[int, int], tuple[int, int]] = {}
        self._digests: dict[tuple[int, int], str] = {}
        self.compared = 0

    def check(self, seen: Seen) -> None:
        now, before = seen.now, seen.before
        if now.installing or (before is not None and before.applied == now.applied):
            return
        machine = seen.replica.machine
        self._compare(self._clocks, seen, (machine.clock, machine.physical), "clock")
        if now.applied % DIGEST_EVERY == 0:
            self._compare(self._digests, seen, machine.digest(), "state")

    def _compare(
        self, known: dict[tuple[int, int], Any], seen: Seen, value: Any, what: str
    ) -> None:
        key = (seen.group, seen.now.applied)
        first = known.setdefault(key, value)
        if first is not value:
            self.compared += 1
            if first != value:
                raise Violation(
                    f"{seen.name}: {what} {value} after entry {seen.now.applied}; it is {first} elsewhere"
                )
