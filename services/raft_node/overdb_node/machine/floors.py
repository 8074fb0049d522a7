"""Two promises that end with time: how old a client id and a version that is read may be (PROTOCOL 2.10).

A floor only rises. It follows the group's physical time at the distance that a limit gives, and stays where
it is when the limit grows: a request that was forgotten is never run again, and a version that may have been
removed is never read again. Between two changes of the limits a floor follows from physical time alone, so
the record of the limits has the floors as they were at the last change, and hardly any entry writes them.

Versions may be far ahead of physical time: after a repair of a group's time, or where another group's was
wrong. Then *marks* say which version the clock had come to at which physical time, and the floor of versions
follows these. Otherwise nothing would be removed until time has caught up with the versions, in years maybe.
"""

from __future__ import annotations

import struct

from overdb_node.machine.settings import MachineSettings

_FORM = struct.Struct(">QQ")
MARKS = 8  # in the time for which old versions are kept


class Floors:
    """Both floors, in microseconds of physical time.

    Invariant at level 1 and above: ``ids`` and ``versions`` never decrease, except in ``set_back``.
    """

    __slots__ = ("_settings", "changed", "held", "ids", "marks", "versions")

    def __init__(self, settings: MachineSettings) -> None:
        self._settings = settings
        self.ids = 0  # a client id that was created before this has expired
        self.versions = 0  # versions below this may be gone where newer ones have replaced them
        self.held = (0, 0)  # both, as of the last change of the limits
        self.marks: list[tuple[int, int]] = []  # (physical time, version), ascending
        self.changed = False  # whether the record is to be written

    def follow(self, physical: int, version: int) -> None:
        """Move both floors after physical time. Called at the beginning of each entry.

        ``version`` is the group's clock.
        """
        if self._settings.level >= 1:
            self._mark(physical, version)
        self._rise(physical)

    def _mark(self, physical: int, version: int) -> None:
        """Where versions are far ahead of time, note now and then where they are."""
        marks, retention_us = self.marks, self._settings.retention_us
        if version - physical <= self._settings.ahead_us_max:
            if marks:
                self.marks = []
                self.hold()
            return
        if not marks or physical - marks[-1][0] >= retention_us // MARKS:
            marks.append((physical, version))
            self.changed = True
        while len(marks) > 1 and marks[1][0] <= physical - retention_us:
            marks.pop(0)
            self.changed = True  # or what is stored would depend on where a replica writes (!)

    def _rise(self, physical: int) -> None:
        settings = self._settings
        ids = physical - settings.client_id_lifetime_us
        versions = physical - settings.retention_us
        if settings.level < 1:  # release 0.1.0 has no memory of its floors
            self.ids, self.versions = max(ids, 0), max(versions, 0)
            return
        if self.marks and self.marks[0][0] <= versions:
            versions = self.marks[0][1]
        self.ids = max(self.ids, ids)
        self.versions = max(self.versions, versions)

    def hold(self) -> None:
        """Keep the floors where they are. Called before a limit changes."""
        self.held = (self.ids, self.versions)
        self.changed = True

    def reset(self) -> None:
        """Forget both floors. Called at the first limits of a log, before which nothing has run."""
        self.ids = self.versions = 0
        self.marks = []
        self.hold()

    def set_back(self, physical: int) -> None:
        """Physical time is set back to ``physical``, because it was wrong: an administrator's repair.

        Versions that were removed meanwhile stay removed, so that floor stays. Ids that were created up to
        ``physical``, by clients whose clocks are ahead too, may have run and been forgotten: they have
        expired for good. Later ones, of clients whose clocks are as wrong as the time was, may run again when
        time has come to them (PROTOCOL 2.1): otherwise all new ids would be refused until then.
        """
        self.ids = min(self.ids, physical + self._settings.ahead_us_max)
        self.marks = []  # of the wrong time
        self.hold()

    def pack(self) -> bytes:
        """At level 0 nothing, as release 0.1.0 writes it."""
        if not self._settings.level:
            return b""
        return b"".join(_FORM.pack(*pair) for pair in (self.held, *self.marks))

    def load(self, packed: bytes, physical: int) -> None:
        """Take over what ``pack`` wrote. Marks are made by entries alone: a start makes none (!)."""
        pairs = list(_FORM.iter_unpack(packed)) if packed else [(0, 0)]
        self.held, self.marks = pairs[0], pairs[1:]
        self.ids, self.versions = self.held
        self._rise(physical)
        self.changed = False
