"""A first element whose files are damaged on this replica's own disk: found, told, and replaced.

Nobody looks at a sealed snapshot until a follower is sent it, and it is the follower that compares the
checksums. So a leader that is told that nothing of it was any good reads its own files. If it is those, no
follower will ever be helped by them; a new snapshot of the live data takes their place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from overdb_node.raft.errors import NotLeader
from overdb_node.raft.output import Dropped
from overdb_node.raft.types import Snapshot
from overdb_node.storage.snapshots import Damage, Taken

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()
# Between two attempts to replace it, each of which flushes and reads the data: 5 s at the default tick.
REST_TICKS = 100
# Runs something in the snapshot thread, then calls the second with its result on the loop.
Run = Callable[[Callable[[], Any], Callable[[Any], None]], None]


class DamagedElement:
    """What is known of the files of the present first element. It is forgotten with the element."""

    def __init__(self, replica: Replica, run: Run) -> None:
        self._replica = replica
        self._run = run
        self._checking = False
        self._found: tuple[Snapshot, Damage] | None = None
        self._rest_ticks = 0

    @property
    def damage(self) -> Damage | None:
        """Of the present first element, as far as it was looked at."""
        found = self._found
        if found is None or found[0].index != self._replica.raft.log.first_index:
            return None
        return found[1]

    @property
    def problem(self) -> str:
        """What an operator should know; empty when nothing is known to be damaged."""
        damage = self.damage
        return f"its snapshot is damaged on disk: {damage.reason}" if damage else ""

    # --- finding --------------------------------------------------------------------------------

    def dropped(self, dropped: Dropped) -> None:
        """A follower has nothing of the element any more. One that had all of it found it damaged."""
        had_all = dropped.offset >= dropped.snapshot.size
        if had_all:
            _log.warning("snapshot_refused", replica=dropped.replica, index=dropped.snapshot.index)
            self.check(dropped.snapshot)

    def check(self, snapshot: Snapshot) -> None:
        """Read all of it, if it is still the first element."""
        if self._checking or self.damage is not None or not self._is_first(snapshot):
            return
        self._checking = True
        storage = self._replica.storage

        def checked(damage: Damage | None) -> None:
            self._checking = False
            if damage is not None and self._is_first(snapshot):
                self._found = snapshot, damage
                self._rest_ticks = 0
                self._replica.raft.withhold(snapshot, damage.reason)
                self._replica.schedule_turn()

        self._run(lambda: storage.damage(snapshot), checked)

    def _is_first(self, snapshot: Snapshot) -> bool:
        """False for one that was released, or is being while another one is installed."""
        raft = self._replica.raft
        return raft.installing is None and snapshot.index == raft.log.first_index

    # --- replacing ------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Whether a new snapshot is to be tried now, however short the log is.

        Where nothing is behind the element, a leader logs an entry that changes nothing: a snapshot of the
        same index would have other bytes under the same name, and CURRENT has its size. Handing over would
        help too, but not a group of one voter and a learner. Without a quorum the entry is not committed
        and the follower waits: then it needs another voter as much as the group does.
        """
        self._rest_ticks = max(0, self._rest_ticks - 1)
        if self.damage is None or self._rest_ticks:
            return False
        replica, log = self._replica, self._replica.raft.log
        if replica.raft.applied > log.first_index:
            self._rest_ticks = REST_TICKS
            return True
        if replica.raft.serves and log.last_index == log.first_index:
            self._rest_ticks = REST_TICKS
            replica.repeat_limits()
        return False

    def take(self, damage: Damage) -> Taken | None:
        """In the snapshot thread: checkpoint the live data. That it fails is no reason to end, for the
        state is as good as it was."""
        try:
            return self._replica.storage.take_snapshot(damage.files)
        except Exception as error:  # rocksdict raises plain Exception
            _log.error("snapshot_not_replaced", reason=f"{type(error).__name__}: {error}")
            return None

    def taken(self, taken: Taken | None) -> None:
        """On the loop: if this replica has nothing whole to send, another one may have."""
        if taken is None:
            with contextlib.suppress(NotLeader, ValueError):  # nobody to take over
                self._replica.transfer_to(self._replica.best_follower())
