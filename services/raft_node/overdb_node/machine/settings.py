"""The numbers of the state machine.

The group's number belongs to the process. The limits and the level belong to the log (``Configure``): a new
leader writes its own limits there before anything else, so that all replicas apply an entry by the same ones,
however each was started.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from overdb_common.level import LEVEL

LIMITS = (
    "client_id_lifetime_us",
    "ahead_us_max",
    "retention_us",
    "key_bytes_max",
    "value_bytes_max",
    "request_bytes_max",
    "operations_max",
    "unacknowledged_per_client_max",
    "parked_keys_max",
)
_LIMITS = struct.Struct(f">{len(LIMITS)}Q")
_LEVEL = struct.Struct(">Q")


@dataclass(slots=True)
class MachineSettings:
    """Times in microseconds, sizes in bytes."""

    group: int = 0
    groups: int = 1
    client_id_lifetime_us: int = 3_600_000_000
    ahead_us_max: int = 60_000_000
    retention_us: int = 3_600_000_000
    key_bytes_max: int = 4096
    value_bytes_max: int = 1 << 20
    request_bytes_max: int = 4 << 20
    operations_max: int = 1024
    unacknowledged_per_client_max: int = 65_536
    release: str = ""  # of the program; replicas of different ones do not compare running checksums
    parked_keys_max: int = 8192  # of all requests that wait for locks
    # The rules in force. A process starts with 0, since its log may begin before the level was raised.
    level: int = LEVEL
    level_known: int = LEVEL  # the newest that the program knows

    @property
    def limits(self) -> tuple[int, ...]:
        """In the order of LIMITS."""
        return tuple(getattr(self, name) for name in LIMITS)

    def limit(self, limits: tuple[int, ...]) -> None:
        """Take over ``limits``, in the order of LIMITS."""
        for name, value in zip(LIMITS, limits, strict=True):
            setattr(self, name, value)

    def pack(self) -> bytes:
        """The limits, then the level. At level 0 these are the bytes that release 0.1.0 writes."""
        level = _LEVEL.pack(self.level) if self.level else b""
        return _LIMITS.pack(*self.limits) + level

    def load(self, packed: bytes | None) -> bytes:
        """Take over what ``pack`` wrote; ``None`` leaves everything as the process was started.

        Returns what follows it in the record.
        """
        if packed is None:
            return b""
        self.limit(_LIMITS.unpack_from(packed))
        if len(packed) == _LIMITS.size:
            self.level = 0
            return b""
        (self.level,) = _LEVEL.unpack_from(packed, _LIMITS.size)
        return packed[_LIMITS.size + _LEVEL.size :]
