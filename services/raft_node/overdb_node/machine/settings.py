"""The numbers of the state machine.

Which group it is, is of the process. The limits are of the log (``Configure``): a new leader has its own put
there before anything else, so that all replicas apply an entry by the same ones, however each was started.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

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

    @property
    def limits(self) -> tuple[int, ...]:
        """In the order of LIMITS."""
        return tuple(getattr(self, name) for name in LIMITS)

    def limit(self, limits: tuple[int, ...]) -> None:
        """Take over ``limits``, in the order of LIMITS."""
        for name, value in zip(LIMITS, limits, strict=True):
            setattr(self, name, value)

    def pack(self) -> bytes:
        return _LIMITS.pack(*self.limits)

    def load(self, packed: bytes | None) -> None:
        if packed is not None:
            self.limit(_LIMITS.unpack(packed))
