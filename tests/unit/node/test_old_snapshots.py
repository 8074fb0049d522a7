"""A snapshot that had to wait, and is old when it may become the first element (PROTOCOL 1.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overdb_node.raft.types import Snapshot
from overdb_node.replica import Replica
from overdb_node.snapshotting import Snapshotting

LOG_BYTES = 100


class Waiting:
    """A leader with a sealed snapshot, ``behind`` bytes of log after it, and the followers' positions."""

    def __init__(self, behind: int, followers: list[int]) -> None:
        self.compacted: list[int] = []
        self.may_compact = True
        raft = SimpleNamespace(
            log=SimpleNamespace(first_index=1, term_at=lambda _: 1, bytes_after=lambda _: behind),
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
        )
        self.snapshotting = Snapshotting(cast(Replica, replica))
        self.snapshotting._share = 1.0

    def _compact(self, snapshot: Snapshot) -> bool:
        self.compacted.append(snapshot.index)
        return True

    def sealed(self, index: int) -> None:
        """A snapshot of this index is on disk; look whether it may become the first element."""
        snapshotting = self.snapshotting
        snapshotting._wanted, snapshotting._taking = False, True
        snapshotting._sealed_snapshot = Snapshot(index, 1, 0, (), f"{index}-1")
        snapshotting._compact()

    @property
    def wants_a_new_one(self) -> bool:
        snapshotting = self.snapshotting
        gone = snapshotting._sealed_snapshot is None and not snapshotting._taking
        return snapshotting._wanted and gone


def run(test: Callable[[], None]) -> None:
    async def inside() -> None:
        test()

    asyncio.run(inside())


def test_a_new_one_takes_its_place_once_and_not_twice_in_a_row() -> None:
    def scenario() -> None:
        waiting = Waiting(behind=LOG_BYTES, followers=[3, 400])
        for old, new in ((10, 50), (90, 130)):
            waiting.sealed(old)
            assert waiting.compacted[-1:] != [old]
            assert waiting.wants_a_new_one
            waiting.sealed(new)  # the log after it has grown as long meanwhile
            assert waiting.compacted[-1:] == [new]
            assert not waiting.wants_a_new_one

    run(scenario)


@pytest.mark.parametrize(
    ("behind", "followers"),
    [(LOG_BYTES - 1, [3, 400]), (10 * LOG_BYTES, [10, 400]), (10 * LOG_BYTES, [])],
    ids=["little was written since", "nobody lacks it", "no leader"],
)
def test_one_that_nobody_will_be_sent_or_that_is_new_is_used(
    behind: int, followers: list[int]
) -> None:
    def scenario() -> None:
        waiting = Waiting(behind, followers)
        waiting.sealed(10)
        assert waiting.compacted == [10]

    run(scenario)


def test_while_a_follower_needs_what_is_before_it_it_waits() -> None:
    def scenario() -> None:
        waiting = Waiting(behind=LOG_BYTES, followers=[3])
        waiting.may_compact = False
        waiting.sealed(10)
        assert waiting.compacted == []
        assert not waiting.wants_a_new_one

    run(scenario)
