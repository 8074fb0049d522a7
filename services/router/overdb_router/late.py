"""Requests whose answer follows later: a transaction holds a key of theirs (PROTOCOL 2.6)."""

from __future__ import annotations

from overdb_router.operations import Op

NEVER = float("inf")


class LateOps:
    """By the message they went in and their position in it. ``bytes`` is what they count in the bounds."""

    def __init__(self) -> None:
        self._by_sequence: dict[int, dict[int, Op]] = {}
        self._deadline = NEVER  # the earliest, or earlier
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._by_sequence)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._by_sequence

    @property
    def largest(self) -> int:
        """How many one message has left at most."""
        return max((len(ops) for ops in self._by_sequence.values()), default=0)

    def add(self, sequence: int, position: int, op: Op) -> None:
        self._by_sequence.setdefault(sequence, {})[position] = op
        self._deadline = min(self._deadline, op.deadline)
        self.bytes += op.size

    def take(self, sequence: int, position: int) -> Op | None:
        """Remove and return one; None when it was given up meanwhile."""
        ops = self._by_sequence.get(sequence, {})
        op = ops.pop(position, None)
        if op is None:
            return None
        self.bytes -= op.size
        if not ops:
            del self._by_sequence[sequence]
        return op

    def take_all(self) -> dict[int, list[Op]]:
        """Remove and return all, each message's in their order."""
        taken = {
            sequence: [ops[position] for position in sorted(ops)]
            for sequence, ops in self._by_sequence.items()
        }
        self._by_sequence.clear()
        self._deadline = NEVER
        self.bytes = 0
        return taken

    def expired(self, now: float) -> list[Op]:
        """Remove and return those whose deadline is at or before ``now``."""
        if self._deadline > now:
            return []
        found = [
            (sequence, position)
            for sequence, ops in self._by_sequence.items()
            for position, op in ops.items()
            if op.done or op.deadline <= now
        ]
        gone = [op for place in found if (op := self.take(*place)) is not None]
        left = (op.deadline for ops in self._by_sequence.values() for op in ops.values())
        self._deadline = min(left, default=NEVER)
        return gone
