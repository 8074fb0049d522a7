"""The numbers of the core. Time is counted in ticks: the host says how long one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Defaults suit a tick of 50 ms: heartbeats of 100 ms, elections after 1 to 2 s.

    ``append_bytes_max`` bounds one Append (a single larger entry goes alone), ``inflight_bytes_max``
    what is under way to one follower, ``uncommitted_bytes_max`` what the leader takes in before a
    majority has it, ``committed_bytes_max`` what one output hands out to be applied. A learner is
    promoted when it lacks at most ``promote_lag_entries_max`` entries: what a busy leader has under way
    anyhow, caught up within a heartbeat or two, while the others still make up a majority.

    A payload of ``small_entry_bytes`` or less fits in room that the log has already: a replica without disk
    space takes no others.

    ``promise_us`` turns leases on: from any moment on, ``election_ticks_min`` ticks take at least so long by
    the host's clock. 0: this replica promises its leader nothing, and leads without a lease.
    """

    heartbeat_ticks: int = 2
    election_ticks_min: int = 20
    election_ticks_max: int = 40
    append_bytes_max: int = 1 << 20
    inflight_bytes_max: int = 8 << 20
    uncommitted_bytes_max: int = 64 << 20
    committed_bytes_max: int = 4 << 20
    chunk_retry_ticks: int = 20
    promote_lag_entries_max: int = 256
    small_entry_bytes: int = 256
    promise_us: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ticks < self.election_ticks_min <= self.election_ticks_max:
            raise ValueError(
                "0 < heartbeat_ticks < election_ticks_min <= election_ticks_max does not hold: "
                f"{self.heartbeat_ticks}, {self.election_ticks_min}, {self.election_ticks_max}"
            )
