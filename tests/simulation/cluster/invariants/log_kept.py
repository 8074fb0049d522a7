"""A leader compacts nothing that a follower lacks which answers (PROTOCOL 1.2).

A follower is sent entries, or the first element and then the entries behind it. If the first element is
replaced meanwhile, it begins again, and under steady writes for ever.
"""

from __future__ import annotations

from overdb_node.raft.core import Raft
from overdb_node.raft.output import Role
from overdb_node.raft.progress import Progress
from overdb_node.raft.types import DiskState
from tests.simulation.cluster.invariants.base import Look, Seen, Violation


class LogKept:
    """Looks at the steps in which a leader compacted. ``checked`` counts followers in them that lagged."""

    def __init__(self) -> None:
        self.checked = 0

    def check(self, seen: Seen) -> None:
        before, now = seen.before, seen.now
        if before is None or before.first == now.first or not _led_throughout(before, now):
            return
        raft = seen.replica.raft
        if raft.disk is not DiskState.FREE or raft.leading.snapshots._withheld == before.first:
            return
        for follower, progress in raft.leading.progress.items():
            if not _is_served(raft, progress, before.first):
                continue
            self.checked += progress.position < now.last
            if progress.position < now.first:
                raise Violation(
                    f"{seen.name}: compacted {before.first} to {now.first} while replica {follower} "
                    f"lacks entry {progress.position + 1}"
                )


def _led_throughout(before: Look, now: Look) -> bool:
    return before.role is Role.LEADER is now.role and before.term == now.term


def _is_served(raft: Raft, progress: Progress, first: int) -> bool:
    """Whether it answers, and takes entries of the log that begins with ``first``, or that element."""
    if progress.silent_ticks > raft.settings.keep_silent_ticks or progress.damaged:
        return False
    if progress.pursuit.rest_ticks or progress.disk != DiskState.FREE:
        return False
    transfer = progress.transfer
    streamed = transfer is not None and transfer.index == first and not transfer.rests
    return streamed or progress.position >= first
