"""The group's hybrid logical clock (PROTOCOL 2.1)."""

from __future__ import annotations

import struct

_FORM = struct.Struct(">QQ")
STAMP_MAX = 1 << 62  # a stamp beyond counts as this: the clock has room to count on in its 64 bits
EXHAUSTED = (1 << 64) - (1 << 32)  # no clock comes here by counting
LEAD_US_MAX = 3_600_000_000


class Clock:
    """``value`` stamps versions; ``physical`` is what the own leaders' wall clocks have said at most."""

    __slots__ = ("_used", "physical", "stamp", "value")

    def __init__(self) -> None:
        self.value = 0
        self.physical = 0
        self.stamp = 0  # of the entry that is being applied; 0: it has none
        self._used = False

    def begin_entry(self, stamp: int) -> None:
        """Applying an entry begins with this; ``stamp`` is its leader's, 0 when it has none."""
        stamp = min(stamp, STAMP_MAX)
        if self.value >= EXHAUSTED:
            # Release 0.1.0 has applied a forged commit, and ended at every entry behind it. Only the keys of
            # that commit have versions up there; all others are not that far ahead of physical time.
            self.value = self.physical + LEAD_US_MAX
        self.value = max(self.value + 1, stamp)
        self.physical = max(self.physical, stamp)
        self.stamp = stamp
        self._used = False

    def peek(self) -> int:
        """The timestamp that ``take`` would give."""
        return self.value + 1 if self._used else self.value

    def take(self) -> int:
        """A timestamp of its own: the first of an entry is the clock as it is, each further one + 1."""
        if self._used:
            self.value += 1
        else:
            self._used = True
        return self.value

    def advance(self, version: int) -> None:
        """Raise the clock: every timestamp taken from now on is above ``version``, in this entry too."""
        self.value = max(self.value, version)
        self._used = True

    def set_back(self) -> None:
        """Set physical time back to the stamp of this entry: what it had come to was wrong (PROTOCOL 2.1).

        ``value`` stays: versions must go on growing.
        """
        self.physical = self.stamp

    def released(self) -> None:
        """Something was set free: every timestamp taken from now on is above the clock as it is."""
        self._used = True

    def pack(self) -> bytes:
        return _FORM.pack(self.value, self.physical)

    def load(self, packed: bytes | None) -> None:
        if packed is not None:
            self.value, self.physical = _FORM.unpack(packed)


def clock_of(packed: bytes) -> int:
    """The clock in what ``pack`` made: a snapshot carries it (PROTOCOL 1.1)."""
    return int(_FORM.unpack(packed)[0])
