"""The numbers of the core. Time is counted in ticks: the host says how long one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Defaults suit a tick of 50 ms: heartbeats of 100 ms, elections after 1 to 2 s (not those of a node).

    ``append_bytes_max`` bounds one Append (a single larger entry goes alone), ``inflight_bytes_max``
    what is under way to one follower, ``uncommitted_bytes_max`` what the leader takes in before a
    majority has it, ``committed_bytes_max`` what one output hands out to be applied. A learner is
    promoted when it lacks at most ``promote_lag_entries_max`` entries, or needs at most a shortest election
    timeout to reach what was the leader's last entry: what a busy leader has under way anyhow, while the
    others still make up a majority.

    Memory: ``log_memory_bytes_max`` is what entries may cost before applied ones are evicted, and
    ``unapplied_bytes_max`` what a follower takes in without having applied it. ``fetch_bytes_max`` bounds the
    entries that are read from disk at once, ``chunk_bytes_max`` one piece of a snapshot, and
    ``chunk_window_bytes`` those under way to one follower.

    Followers that lag (PROTOCOL 1.2): the log is kept for one that was heard within ``keep_silent_ticks``, up
    to ``kept_bytes_max`` or the size of the snapshot, whichever is more. Behind half of that writers are
    slowed, to no less than ``pace_bytes_min`` a tick and for ``slow_ticks_max`` at most. It is given up when
    that does not help, or when nothing was acknowledged for ``stall_ticks_max``, and then left alone for
    ``rest_ticks``.

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
    small_entry_bytes: int = 1024
    log_memory_bytes_max: int = 48 << 20
    unapplied_bytes_max: int = 64 << 20
    fetch_bytes_max: int = 4 << 20
    chunk_bytes_max: int = 1 << 20
    chunk_window_bytes: int = 8 << 20
    kept_bytes_max: int = 1 << 30
    keep_silent_ticks: int = 300
    stall_ticks_max: int = 600
    slow_ticks_max: int = 600
    rest_ticks: int = 600
    pace_bytes_min: int = 64 << 10
    promise_us: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ticks < self.election_ticks_min <= self.election_ticks_max:
            raise ValueError(
                "0 < heartbeat_ticks < election_ticks_min <= election_ticks_max does not hold: "
                f"{self.heartbeat_ticks}, {self.election_ticks_min}, {self.election_ticks_max}"
            )
