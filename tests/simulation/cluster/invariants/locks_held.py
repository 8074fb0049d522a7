"""Keys are held only by open transactions, and queues have no entry without a record (PROTOCOL 2.2, 2.9)."""

from __future__ import annotations

from collections.abc import Iterator

from overdb_node.machine.locks import Locker, Locks
from tests.simulation.cluster.invariants.base import Seen, Violation


class LocksHeld:
    def check(self, seen: Seen) -> None:
        now, before = seen.now, seen.before
        if now.installing or (before is not None and before.applied == now.applied):
            return
        participant = seen.replica.machine.participant
        if not participant.locks:
            if participant.open:
                raise Violation(
                    f"{seen.name}: {len(participant.open)} open transactions hold nothing"
                )
            return
        for key, holder in _holders(participant.locks):
            known = participant.find_id(holder.id)
            if known is not holder or (known.vote is not None and known.vote.outcome is not None):
                raise Violation(f"{seen.name}: {key!r} is held by {holder.id}, which is not open")


def _holders(locks: Locks) -> Iterator[tuple[bytes, Locker]]:
    for key, queue in locks._queues.items():
        for locker in queue.held:
            yield key, locker
