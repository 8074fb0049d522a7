"""Removing old versions, little by little, while the loop has other things to do too."""

from __future__ import annotations

import time

from overdb_node.machine.machine import Machine
from overdb_node.storage.data import DataStore

ROWS_PER_TICK_MAX = 2000  # one or two milliseconds
_SECONDS_BETWEEN_PASSES_MAX = 600.0
_SECONDS_BETWEEN_PASSES_MIN = 0.5


class Sweeper:
    """Walks over all keys, a slice a tick. No two passes in a shorter time than a quarter of the
    retention, and none when nothing was written: an idle replica does nothing.

    Local to each replica: what it removes cannot be asked for any more (``Machine.check_version``).
    """

    def __init__(self, retention_seconds: float) -> None:
        self._pause = min(
            _SECONDS_BETWEEN_PASSES_MAX, max(_SECONDS_BETWEEN_PASSES_MIN, retention_seconds / 4)
        )
        self._next_pass = time.monotonic() + self._pause
        self._cursor: bytes | None = None  # of the pass that is under way
        self._floor = 0
        self._swept_at = 0  # clock of the state when the last pass began
        self.removed = 0

    def tick(self, machine: Machine, data: DataStore) -> None:
        if self._cursor is None:
            if time.monotonic() < self._next_pass or not self._is_worth_it(machine):
                return
            self._cursor, self._floor = b"", machine.retention_floor
        swept = data.sweep(self._cursor, self._floor, ROWS_PER_TICK_MAX)
        self.removed += swept.removed
        self._cursor = swept.cursor
        if self._cursor is None:
            self._next_pass = time.monotonic() + self._pause
            self._swept_at = self._floor

    def _is_worth_it(self, machine: Machine) -> bool:
        return machine.retention_floor > self._swept_at

    def restart(self) -> None:
        """The data was replaced: what was walked over counts no more."""
        self._cursor = None
        self._swept_at = 0
