"""Holds back a transaction that conflicts with one before it behind this router (PROTOCOL 2.4).

Behind one router nothing dies by wait-die then, because no Prepare is sent while one that it would meet
has no votes yet. A ticket stands for one transaction under way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket", bound=Hashable)


class _Place:
    """A ticket in the queue of one key."""

    __slots__ = ("exclusive", "holds")

    def __init__(self, *, exclusive: bool, holds: bool) -> None:
        self.exclusive = exclusive
        self.holds = holds


class Sequencer(Generic[Ticket]):
    """One queue for each key, first in, first out; all of a ticket's queues are entered in one step.

    So each ticket only ever waits for earlier ones, and nobody waits in a circle.
    """

    def __init__(self) -> None:
        self._queues: dict[bytes, OrderedDict[Ticket, _Place]] = {}
        self._keys: dict[Ticket, tuple[bytes, ...]] = {}
        self._missing: dict[Ticket, int] = {}  # keys that a waiting ticket does not hold yet

    def __len__(self) -> int:
        """Tickets that are in, admitted or not."""
        return len(self._keys)

    @property
    def waiting(self) -> int:
        return len(self._missing)

    def enter(self, ticket: Ticket, keys: Mapping[bytes, bool]) -> bool:
        """Queue up for keys, each with whether it is exclusive; return whether it may go at once."""
        assert ticket not in self._keys
        missing = 0
        for key, exclusive in keys.items():
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = OrderedDict()
            holds = not queue or (not exclusive and _all_share(queue))
            queue[ticket] = _Place(exclusive=exclusive, holds=holds)
            missing += not holds
        self._keys[ticket] = tuple(keys)
        if missing:
            self._missing[ticket] = missing
        return not missing

    def release(self, ticket: Ticket) -> list[Ticket]:
        """Take a ticket out, admitted or not, and return those that may go now, in their order."""
        admitted: list[Ticket] = []
        self._missing.pop(ticket, None)
        for key in self._keys.pop(ticket, ()):
            queue = self._queues[key]
            place = queue.pop(ticket)
            if not queue:
                del self._queues[key]
                continue
            first = queue[next(iter(queue))]
            if place.holds and not place.exclusive and first.holds:
                continue  # others share it still, so whoever waits goes on waiting
            self._grant(queue, admitted)
        return admitted

    def _grant(self, queue: OrderedDict[Ticket, _Place], admitted: list[Ticket]) -> None:
        """Let everything hold that nothing ahead of it conflicts with."""
        for position, (ticket, place) in enumerate(queue.items()):
            if place.exclusive and position:
                return
            if not place.holds:
                place.holds = True
                self._missing[ticket] -= 1
                if not self._missing[ticket]:
                    del self._missing[ticket]
                    admitted.append(ticket)
            if place.exclusive:
                return


def _all_share(queue: OrderedDict[Ticket, _Place]) -> bool:
    """Whether a shared place behind this queue holds: the last one is shared and holds."""
    last = queue[next(reversed(queue))]
    return last.holds and not last.exclusive
