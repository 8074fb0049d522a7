"""A snapshot that had to wait, and is old when it becomes the first element (PROTOCOL 1.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overdb_node.raft.types import DiskState, Snapshot
from overdb_node.replica import Replica
from overdb_node.snapshotting import Snapshotting

LOG_BYTES = 100


class Leader:
    """Takes snapshots; ``log_bytes`` of log follow them, and ``followers`` have come to these positions."""

    def __init__(self, followers: list[int], disk: DiskState = DiskState.FREE) -> None:
        self.compacted: list[int] = []
        self.may_compact = True
        self.log_bytes = 10
        raft = SimpleNamespace(
            log=SimpleNamespace(
                first_index=1, term_at=lambda _: 1, bytes_after=lambda _: self.log_bytes
            ),
            leading=SimpleNamespace(
                progress={n: SimpleNamespace(position=at) for n, at in enumerate(followers, 2)}
            ),
            installing=None,
            may_compact=lambda _: self.may_compact,
            compact=self._compact,
        )
        replica: Any = SimpleNamespace(
            raft=raft,
            settings=SimpleNamespace(node_id=1, snapshot_log_bytes=LOG_BYTES),
            writer=SimpleNamespace(submit_job=lambda *_: None),
            storage=None,
            disk=SimpleNamespace(state=disk),
        )
        self.snapshotting = Snapshotting(cast(Replica, replica))

    def _compact(self, snapshot: Snapshot) -> bool:
        if self.may_compact:
            self.compacted.append(snapshot.index)
        return self.may_compact

    def take(self, index: int, grown_bytes: int) -> bool:
        """Seal a snapshot that waits while the log grows; return whether a new one is wanted at once."""
        self.snapshotting._begin()
        self.may_compact = grown_bytes == 0
        self.snapshotting._sealed(Snapshot(index, 1, 0, (), f"{index}-1"))
        self.log_bytes += grown_bytes
        self.may_compact = True
        if grown_bytes:
            assert self.compacted[-1:] != [index]
            self.snapshotting._compact()
        return self.snapshotting._wanted


def run(test: Callable[[], None]) -> None:
    async def inside() -> None:
        test()

    asyncio.run(inside())


def test_a_new_one_takes_the_place_of_an_old_one_and_is_not_replaced_again() -> None:
    def scenario() -> None:
        leader = Leader(followers=[3, 400])
        for old, new in ((10, 50), (90, 130)):
            assert leader.take(old, grown_bytes=LOG_BYTES)
            assert not leader.take(new, grown_bytes=LOG_BYTES)
            assert leader.compacted[-1] == new
        assert leader.compacted == [50, 130]

    run(scenario)


@pytest.mark.parametrize("disk", [DiskState.LOW, DiskState.FULL])
def test_an_old_one_that_gives_a_full_disk_room_is_used_first(disk: DiskState) -> None:
    def scenario() -> None:
        leader = Leader([3, 400], disk)
        assert leader.take(10, grown_bytes=LOG_BYTES)
        assert leader.compacted == [10]
        assert not leader.take(50, grown_bytes=LOG_BYTES)
        assert leader.compacted == [10, 50]

    run(scenario)


@pytest.mark.parametrize(
    ("grown_bytes", "followers"),
    [(LOG_BYTES - 1, [3, 400]), (10 * LOG_BYTES, [10, 400]), (10 * LOG_BYTES, [])],
    ids=["little was written since", "all followers have it", "no leader"],
)
def test_one_that_is_not_old_or_is_sent_to_no_follower_is_enough(
    grown_bytes: int, followers: list[int]
) -> None:
    def scenario() -> None:
        leader = Leader(followers)
        assert not leader.take(10, grown_bytes)
        assert leader.compacted == [10]

    run(scenario)


def test_one_that_did_not_wait_is_enough_however_long_it_took() -> None:
    def scenario() -> None:
        leader = Leader(followers=[3])
        leader.log_bytes = 10 * LOG_BYTES  # written while it was sealed
        assert not leader.take(10, grown_bytes=0)
        assert leader.compacted == [10]

    run(scenario)
