"""What a log takes in memory is bounded, whatever is kept of it for followers that lag (PROTOCOL 1.1)."""

from __future__ import annotations

from overdb_node.raft.entry_window import ENTRY_BYTES
from tests.simulation.cluster.invariants.base import Seen, Violation


class LogMemory:
    def check(self, seen: Seen) -> None:
        raft = seen.replica.raft
        log, settings = raft.log, raft.settings
        applied = log.memory_bytes - log.unapplied_bytes
        if applied > settings.log_memory_bytes_max:
            raise Violation(
                f"{seen.name}: {applied} bytes of applied entries are in memory, "
                f"{settings.log_memory_bytes_max} may be"
            )
        # Bounded where it is taken in: each input adds no more than these allow, and one message.
        unapplied_max = 2 * settings.uncommitted_bytes_max + settings.unapplied_bytes_max
        entries = log.last_index - raft.applied
        if log.unapplied_bytes > unapplied_max + entries * ENTRY_BYTES:
            raise Violation(f"{seen.name}: {log.unapplied_bytes} bytes wait to be applied")
