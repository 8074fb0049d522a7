"""Keys are held by open transactions, and what waits waits for somebody (PROTOCOL 2.2, 2.3, 2.6, 2.9)."""

from __future__ import annotations

from collections.abc import Iterator

from overdb_node.machine.locks import Locker, Locks
from overdb_node.machine.participant import Participant
from tests.simulation.cluster.invariants.base import Seen, Violation


class LocksHeld:
    def check(self, seen: Seen) -> None:
        now, before = seen.now, seen.before
        if now.installing or (before is not None and before.applied == now.applied):
            return
        participant = seen.replica.machine.participant
        if not participant.locks and not participant.open and not participant.parked:
            return
        for problem in _problems(participant):
            raise Violation(f"{seen.name}: {problem}")


def _problems(participant: Participant) -> Iterator[str]:
    locks = participant.locks
    held: dict[Locker, int] = {}
    for key, queue in locks._queues.items():
        for locker in queue.held:
            held[locker] = held.get(locker, 0) + 1
            if locker not in queue.entries:
                yield f"{key!r} is held by {locker.id}, which has left its queue"
        for locker in queue.entries:
            if not _is_known(participant, locker):
                yield f"{locker.id} is in the queue of {key!r}, and neither waits nor is open"
    for one in participant.open.values():
        if held.get(one, 0) != len(one.modes):
            yield f"{one.id} is open and holds {held.get(one, 0)} of its {len(one.modes)} keys"
    for locker in dict.fromkeys(one for queue in locks._queues.values() for one in queue.entries):
        yield from _of_locker(participant, locks, locker, held.get(locker, 0))
    for parked in participant.parked.values():
        if locks.holder(parked) is None:
            yield f"{parked.id} is parked, and nobody holds a key of it"


def _is_known(participant: Participant, locker: Locker) -> bool:
    """In the queues are what is parked, transactions that wait for their vote, and open ones."""
    if locker.parked:
        return participant.parked.get(locker.id) is locker
    known = participant.find_id(locker.id)
    return known is locker and (known.vote is None or known.is_open)


def _of_locker(participant: Participant, locks: Locks, locker: Locker, holds: int) -> Iterator[str]:
    blocked = {key for key, _ in locks.ahead(locker)}
    if locker.parked:
        if holds:
            yield f"{locker.id} is parked and holds a key"
        return
    if holds != len(locker.modes) - len(blocked) or locker.missing != len(blocked):
        yield (
            f"{locker.id} holds {holds} keys and misses {locker.missing}; somebody is ahead of it on "
            f"{len(blocked)} of {len(locker.modes)}"
        )
    if not blocked and locker.id not in participant.open:
        yield f"{locker.id} holds everything, and has not voted"
