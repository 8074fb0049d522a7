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
# From level 1 on.
BYTE_LIMITS = ("result_bytes_per_client_max", "result_bytes_max")
RESULT_BYTES_PER_CLIENT_MAX = 8 << 20
RESULT_BYTES_MAX = 256 << 20
_BYTE_LIMITS = struct.Struct(f">{len(BYTE_LIMITS)}Q")
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
    result_bytes_per_client_max: int = (
        RESULT_BYTES_PER_CLIENT_MAX  # kept for the retries of a client id
    )
    result_bytes_max: int = (
        RESULT_BYTES_MAX  # kept for all, with client ids and transactions that wait
    )
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

    @property
    def byte_limits(self) -> tuple[int, ...]:
        """In the order of BYTE_LIMITS."""
        return tuple(getattr(self, name) for name in BYTE_LIMITS)

    def limit_bytes(self, limits: tuple[int, ...]) -> None:
        """Take over ``limits``, in the order of BYTE_LIMITS. 0 and what is missing changes nothing."""
        for name, value in zip(BYTE_LIMITS, limits, strict=False):
            if value:
                setattr(self, name, value)

    def reset_byte_limits(self) -> None:
        """Take the defaults, where the log has none yet: what this process was started with is its own."""
        self.result_bytes_per_client_max = RESULT_BYTES_PER_CLIENT_MAX
        self.result_bytes_max = RESULT_BYTES_MAX

    def pack(self) -> bytes:
        """The limits, then the level and more. At level 0 these are the bytes that release 0.1.0 writes."""
        packed = _LIMITS.pack(*self.limits)
        if not self.level:
            return packed
        return packed + _LEVEL.pack(self.level) + _BYTE_LIMITS.pack(*self.byte_limits)

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
        self.limit_bytes(_BYTE_LIMITS.unpack_from(packed, _LIMITS.size + _LEVEL.size))
        return packed[_LIMITS.size + _LEVEL.size + _BYTE_LIMITS.size :]
