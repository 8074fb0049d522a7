"""The decisions of a strict read over several groups (PROTOCOL 2.7), without messages or time.

Collect twice: read all keys, and when all groups have answered ask all of them again whether what was
read is still the newest. Yes everywhere: all values were current at one moment between the two rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

# Failed double collects until the read runs as a transaction with shared locks.
TRIES_MAX = 3


class Step(Enum):
    """What to do next."""

    WAIT = auto()  # for the other parts' answers
    COLLECT = auto()  # ask every part for its values
    CONFIRM = auto()  # ask every part whether ``versions(part)`` are still the newest
    DONE = auto()  # what was collected last was current everywhere at one moment
    GIVE_UP = auto()  # writers are too fast


class DoubleCollect:
    """Parts are numbered from 0, one for each group. It begins with COLLECT.

    Versions are the newest of each key of a part, tombstones included, 0 for a key never written: a
    delete between the rounds is a change like any other.
    """

    __slots__ = ("_changed", "_versions", "_waiting", "tries")

    def __init__(self, parts: int) -> None:
        self._versions: list[tuple[int, ...]] = [()] * parts
        self._waiting = set(range(parts))
        self._changed = False
        self.tries = 0  # that failed

    @property
    def clock(self) -> int:
        """The largest version read. In the second round no group may be behind it."""
        return max((max(versions, default=0) for versions in self._versions), default=0)

    def versions(self, part: int) -> tuple[int, ...]:
        """What the first round read there."""
        return self._versions[part]

    def collected(self, part: int, versions: Sequence[int]) -> Step:
        """An answer of the first round."""
        self._waiting.remove(part)
        self._versions[part] = tuple(versions)
        if self._waiting:
            return Step.WAIT
        self._waiting.update(range(len(self._versions)))
        self._changed = False
        return Step.CONFIRM

    def confirmed(self, part: int, *, unchanged: bool) -> Step:
        """An answer of the second round."""
        self._waiting.remove(part)
        self._changed |= not unchanged
        if self._waiting:
            return Step.WAIT
        if not self._changed:
            return Step.DONE
        self.tries += 1
        if self.tries >= TRIES_MAX:
            return Step.GIVE_UP
        self._waiting.update(range(len(self._versions)))
        return Step.COLLECT
