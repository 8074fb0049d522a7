"""Locks: one FIFO queue a key, shared or exclusive; who may wait and who has to die (PROTOCOL 2.2, 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from overdb_node.machine.types import Compare, Operation, OperationKind, TransactionId


class Age(NamedTuple):
    """Part of the request, so it is the same in every copy; smaller is older (PROTOCOL 2.2)."""

    started_at: int
    client_id: bytes
    request_number: int


class Locker:
    """Something with a place in the queues of its keys, in all of them or in none.

    A ``parked`` one is in the way of what comes behind it, and never holds anything (PROTOCOL 2.6).
    """

    __slots__ = ("age", "id", "missing", "modes", "parked", "ticket")

    def __init__(
        self, identity: TransactionId, age: Age, modes: Mapping[bytes, bool], *, parked: bool
    ) -> None:
        self.id = identity
        self.age = age
        self.modes = modes  # key -> exclusive
        self.parked = parked
        self.ticket = 0  # when it entered the queues; 0: it is in none
        self.missing = len(modes)  # keys that it does not hold

    @property
    def holds_all(self) -> bool:
        return not self.missing


class _Queue:
    __slots__ = ("entries", "held")

    def __init__(self) -> None:
        self.entries: list[Locker] = []
        self.held: list[Locker] = []  # who was let in; a part of the entries


class Locks:
    """All queues. Who holds what changes only in ``enter``, ``leave`` and ``promote``."""

    def __init__(self) -> None:
        self._queues: dict[bytes, _Queue] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def rival(self, locker: Locker) -> tuple[bytes, Locker] | None:
        """A conflicting entry, ahead of the locker, that it is not older than: it must not wait."""
        for key, other in self.ahead(locker):
            if other.age <= locker.age:
                return key, other
        return None

    def ahead(self, locker: Locker) -> Iterator[tuple[bytes, Locker]]:
        """Every conflicting entry ahead of the locker; of all entries, if it is in no queue yet."""
        for key, exclusive in locker.modes.items():
            queue = self._queues.get(key)
            if queue is None:
                continue
            for other in queue.entries:
                if other is locker:
                    break
                if exclusive or other.modes[key]:
                    yield key, other

    def holder(self, locker: Locker) -> Locker | None:
        """Somebody else who holds one of its keys in a conflicting mode."""
        for key, exclusive in locker.modes.items():
            queue = self._queues.get(key)
            if queue is None:
                continue
            for other in queue.held:
                if other is not locker and (exclusive or other.modes[key]):
                    return other
        return None

    def is_held(self, key: bytes) -> bool:
        """Whether anybody holds the key, in any mode."""
        queue = self._queues.get(key)
        return queue is not None and bool(queue.held)

    def exclusive_holder(self, key: bytes) -> Locker | None:
        """Who holds the key exclusively."""
        queue = self._queues.get(key)
        if queue is None or not queue.held or not queue.held[0].modes[key]:
            return None
        return queue.held[0]

    def enter(self, locker: Locker, ticket: int) -> None:
        """Put it at the end of all its queues. It holds a key at once where nothing ahead conflicts."""
        locker.ticket = ticket
        locker.missing = len(locker.modes)
        for key, exclusive in locker.modes.items():
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = _Queue()
            free = not any(exclusive or other.modes[key] for other in queue.entries)
            queue.entries.append(locker)
            if free and not locker.parked:
                queue.held.append(locker)
                locker.missing -= 1

    def leave(self, locker: Locker) -> None:
        """Take it out of all its queues. What stood behind it holds nothing more before ``promote``."""
        if not locker.ticket:
            return
        locker.ticket = 0
        for key in locker.modes:
            queue = self._queues[key]
            queue.entries.remove(locker)
            if locker in queue.held:
                queue.held.remove(locker)
            if not queue.entries:
                del self._queues[key]

    def promote(self, keys: Iterable[bytes]) -> list[Locker]:
        """Let in, on these keys, whoever has nothing conflicting ahead. Strictly first in, first out.

        Return those that hold everything by it, in the order in which they entered.
        """
        granted = []
        for key in keys:
            queue = self._queues.get(key)
            if queue is None:
                continue
            for position, locker in enumerate(queue.entries):
                exclusive = locker.modes[key]
                if not locker.parked and locker not in queue.held and not (exclusive and position):
                    queue.held.append(locker)
                    locker.missing -= 1
                    if not locker.missing:
                        granted.append(locker)
                if exclusive:
                    break
        granted.sort(key=lambda locker: locker.ticket)
        return granted


def modes_of(compares: Iterable[Compare], *branches: Iterable[Operation]) -> dict[bytes, bool]:
    """Every key with its mode: exclusive where an operation writes it, shared where all only read it."""
    modes = {compare.key: False for compare in compares}
    for branch in branches:
        for operation in branch:
            writes = operation.kind is not OperationKind.GET
            modes[operation.key] = modes.get(operation.key, False) or writes
    return modes
