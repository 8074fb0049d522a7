"""Version GC: removes old versions, little by little, while the loop has other things to do too."""

from __future__ import annotations

import time

from overdb_node.machine.machine import Machine
from overdb_node.storage.data import DataStore

ROWS_PER_TICK_MAX = 2000  # one or two milliseconds
RANGES_MAX = 256
_SECONDS_BETWEEN_PASSES_MAX = 600.0
_SECONDS_BETWEEN_PASSES_MIN = 0.5
_SECONDS_IN_A_HURRY = 1.0

Range = tuple[bytes, bytes]  # first and last row


class Sweeper:
    """Walks over all keys, a slice a tick. No two passes in a shorter time than a quarter of the
    retention, unless there is a hurry, and none when nothing was written since the last complete one.

    Local to each replica: what it removes cannot be asked for any more (``Machine.check_version``).

    Attributes:
        written: clock behind the newest write of a value or a tombstone.
        garbage: ranges of rows that were removed and that no compaction has dropped yet, ascending.
    """

    def __init__(self, retention_seconds: float, written: int) -> None:
        self._pause = min(
            _SECONDS_BETWEEN_PASSES_MAX, max(_SECONDS_BETWEEN_PASSES_MIN, retention_seconds / 4)
        )
        self._last_pass = time.monotonic()  # when it ended
        self._cursor: bytes | None = None  # of the pass that is under way
        self._floor = 0
        self._swept_at = -1  # floor of the last complete pass
        self.written = written
        self.garbage: list[Range] = []
        self.removed = 0

    @property
    def is_done(self) -> bool:
        """Whether a complete pass has removed all there was, and nothing was written since."""
        return self._swept_at >= self.written

    @property
    def is_between_passes(self) -> bool:
        return self._cursor is None

    def tick(self, machine: Machine, data: DataStore, *, hurries: bool = False) -> None:
        """Remove a slice. Raises RocksDB's plain Exception; the slice is then walked over again."""
        if self._cursor is None:
            pause = min(_SECONDS_IN_A_HURRY, self._pause) if hurries else self._pause
            if time.monotonic() < self._last_pass + pause:
                return
            if not self._is_worth_it(machine):
                return
            self._cursor, self._floor = b"", machine.retention_floor
        swept = data.sweep(self._cursor, self._floor, ROWS_PER_TICK_MAX)
        self.removed += swept.removed
        if swept.removed:
            self.garbage = joined(self.garbage, (swept.low, swept.high))
        self._cursor = swept.cursor
        if self._cursor is None:
            self._last_pass = time.monotonic()
            self._swept_at = self._floor

    def _is_worth_it(self, machine: Machine) -> bool:
        return not self.is_done and machine.retention_floor > self._swept_at

    def restart(self, written: int) -> None:
        """The data was replaced: what was walked over counts no more."""
        self._cursor = None
        self._swept_at = -1
        self.written = written
        self.garbage = []


def joined(ranges: list[Range], new: Range) -> list[Range]:
    """Add a range, and join what overlaps; of more than RANGES_MAX, those two that are neighbours first."""
    merged: list[Range] = []
    for low, high in sorted([*ranges, new]):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if len(merged) > RANGES_MAX:
        merged[:2] = [(merged[0][0], merged[1][1])]
    return merged
