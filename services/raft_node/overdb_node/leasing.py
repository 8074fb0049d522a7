"""A host's part in leases: the clock, and the promises of the life before this one (PROTOCOL 1.3)."""

from __future__ import annotations

import time
from pathlib import Path

from overdb_common.errors import StartupError
from overdb_node.raft.settings import RaftSettings
from overdb_node.settings import TIMER_EARLY_US_MAX
from overdb_node.storage import promises
from overdb_node.storage.errors import NoRoomToStart, means_no_space

# On Linux the one that also counts while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_us() -> int:
    """Microseconds of a clock that nobody sets, asked at this very moment.

    Not the time of the event loop: that is of the loop's turn, and a process may stand still within one.
    """
    return time.clock_gettime_ns(_CLOCK) // 1000


class Promises:
    """Keeps the note on disk. Made before anything is promised; ``tick`` goes with those of Raft."""

    def __init__(self, directory: Path, settings: RaftSettings, tick_us: int) -> None:
        """Raises StartupError when the note is damaged or cannot be written, NoRoomToStart on a full disk."""
        self._directory = directory
        self._own = settings.promise_us
        self._noted = promises.read(directory)
        # One more: the first tick may come at once, and all of them a little early.
        least = self._noted + TIMER_EARLY_US_MAX
        self.hold_back_ticks = -(-least // tick_us) + 1 if self._noted else 0
        self._left = self.hold_back_ticks
        if self._own > self._noted:
            try:
                self._note()
            except OSError as error:
                if means_no_space(error):
                    raise NoRoomToStart(directory, error) from error
                raise StartupError(
                    f"the data directory {directory} cannot be used ({error})",
                    "free or replace the disk, or set OVERDB_DATA",
                ) from error

    def _note(self) -> None:
        promises.write(self._directory, self._own)
        self._noted = self._own

    def tick(self) -> None:
        """When the promises of the earlier life are over, the note says what this life promises."""
        if self._left:
            self._left -= 1
            if not self._left and self._noted != self._own:
                try:
                    self._note()
                except OSError:
                    # A full disk, say. A note that is too long binds for longer, no more: try again.
                    self._left = 1
