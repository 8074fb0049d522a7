"""Two promises that end with time: how old a client id and a version that is read may be (PROTOCOL 2.10).

A floor only rises. It follows the group's physical time at the distance that a limit gives, and stays where
it is when the limit grows: a request that was forgotten is never run again, and a version that may have been
removed is never read again. Between two changes of the limits a floor follows from physical time alone, so
the record of the limits has the floors as they were at the last change, and no entry writes them.
"""

from __future__ import annotations

import struct

from overdb_node.machine.settings import MachineSettings

_FORM = struct.Struct(">QQ")


class Floors:
    """Both floors, in microseconds of physical time.

    Invariant at level 1 and above: ``ids`` and ``versions`` never decrease, except in ``set_back``.
    """

    __slots__ = ("_settings", "held", "ids", "versions")

    def __init__(self, settings: MachineSettings) -> None:
        self._settings = settings
        self.ids = 0  # a client id that was created before this has expired
        self.versions = 0  # versions below this may be gone where newer ones have replaced them
        self.held = (0, 0)  # both, as of the last change of the limits

    def follow(self, physical: int) -> None:
        """Move both floors after physical time. Called at the beginning of each entry."""
        settings = self._settings
        ids = physical - settings.client_id_lifetime_us
        versions = physical - settings.retention_us
        if settings.level < 1:  # release 0.1.0 has no memory of its floors
            self.ids, self.versions = max(ids, 0), max(versions, 0)
            return
        self.ids = max(self.ids, ids)
        self.versions = max(self.versions, versions)

    def hold(self) -> None:
        """Keep the floors where they are. Called before a limit changes."""
        self.held = (self.ids, self.versions)

    def reset(self) -> None:
        """Forget both floors. Called at the first limits of a log, before which nothing has run."""
        self.ids = self.versions = 0
        self.hold()

    def set_back(self, physical: int) -> None:
        """Physical time is set back to ``physical``, because it was wrong: an administrator's repair.

        Versions that were removed meanwhile stay removed, so that floor stays. Ids that were created up to
        ``physical``, by clients whose clocks are ahead too, may have run and been forgotten: they have
        expired for good. Later ones cannot have run, and would otherwise be refused until time has caught up.
        """
        self.ids = min(self.ids, physical + self._settings.ahead_us_max)
        self.hold()

    def pack(self) -> bytes:
        """At level 0 nothing, as release 0.1.0 writes it."""
        return _FORM.pack(*self.held) if self._settings.level else b""

    def load(self, packed: bytes, physical: int) -> None:
        """Take over what ``pack`` wrote."""
        self.held = _FORM.unpack(packed) if packed else (0, 0)
        self.ids, self.versions = self.held
        self.follow(physical)
