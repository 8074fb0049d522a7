"""Builds that break one rule of a disk without room each (PROTOCOL 1.4, 2.12)."""

from __future__ import annotations

from pytest import MonkeyPatch  # noqa: PT013  # it is the type of every argument here

from overdb_node.disk_space import DiskSpace
from overdb_node.reclaiming import Reclaiming
from overdb_node.replica import Replica
from overdb_node.sweeping import Sweeper


def room_only_with_writes(patch: MonkeyPatch) -> None:
    """2.12: nothing is compacted and no snapshot is replaced for the sake of room."""
    patch.setattr(Reclaiming, "_compact", lambda *_: None)
    patch.setattr(Reclaiming, "_replace_snapshot", lambda *_: None)


def old_versions_stay(patch: MonkeyPatch) -> None:
    """2.12: version GC waits for more writes."""
    patch.setattr(Sweeper, "tick", lambda *_, **__: None)


def scans_are_refused(patch: MonkeyPatch) -> None:
    """1.4: a group without room refuses the upkeep that other groups wait for."""

    def refuse(self: Replica, _: bytes) -> str:
        return self._disk_problem if self.disk_full else ""

    patch.setattr(Replica, "refuse_for_disk", refuse)


def transfers_keep_off_the_reserve(patch: MonkeyPatch) -> None:
    """1.4 (!): a replica that fell behind while it was full has no way back."""
    patch.setattr(
        DiskSpace,
        "snapshot_bytes_max",
        property(lambda disk: max(0, disk.free_bytes - disk.reserve_bytes) // 2),
    )
