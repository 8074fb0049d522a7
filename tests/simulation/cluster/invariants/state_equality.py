"""Replicas that have applied the same entries are in the same state (PROTOCOL 2.1).

After every entry by the running checksum of all that was written; what is in memory beside is made anew
from that at every start, so it is compared as a whole too, now and then.
"""

from __future__ import annotations

from typing import Any

from tests.simulation.cluster.invariants.base import Applied, Seen, Violation

DIGEST_EVERY = 64  # entries of a group between two comparisons of all that is in memory


class StateEquality:
    def __init__(self) -> None:
        self._clocks: dict[tuple[int, int], tuple[int, int]] = {}
        self._checksums: dict[tuple[int, int], tuple[int, int]] = {}
        self._digests: dict[tuple[int, int], str] = {}
        self.compared = 0

    def check_entry(self, applied: Applied) -> None:
        """All replicas run one release and none skips an entry: their chains begin at the same entries."""
        chain = applied.machine.chain
        checksum = (chain.begin, chain.checksum)
        self._compare(
            self._checksums, applied.name, (applied.group, applied.index), checksum, "checksum"
        )

    def check(self, seen: Seen) -> None:
        now, before = seen.now, seen.before
        if now.installing or not now.established:
            return  # as long as it takes no part, it may be set to another number of groups
        if not seen.begins and before is not None and before.applied == now.applied:
            return
        machine = seen.replica.machine
        key = (seen.group, now.applied)
        self._compare(self._clocks, seen.name, key, (machine.clock, machine.physical), "clock")
        # Of what was made anew from the disk at once.
        if now.applied % DIGEST_EVERY == 0 or seen.begins or before is None or before.installing:
            self._compare(self._digests, seen.name, key, machine.digest(), "state")

    def _compare(
        self,
        known: dict[tuple[int, int], Any],
        name: str,
        key: tuple[int, int],
        value: Any,
        what: str,
    ) -> None:
        first = known.setdefault(key, value)
        if first is not value:
            self.compared += 1
            if first != value:
                raise Violation(
                    f"{name}: {what} {value} after entry {key[1]}; it is {first} elsewhere"
                )
