"""The numbers of the state machine. All replicas of a group must have the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
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
