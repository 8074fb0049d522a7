"""A leader that finds its own snapshot damaged: it says so, and makes a whole one of its live data.

One real replica with its files; what a follower would say is said to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_storage
from overdb_node.raft.output import ChunkToSend, Dropped
from overdb_node.raft.types import Snapshot
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from tests.unit.storage.test_snapshot_damage import flip

CHUNK_BYTES = 4096
Lines = list[Any]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


class Leader:
    """A group of one voter, idle behind a snapshot of all that it has applied."""

    def __init__(self, directory: Path, lines: Lines) -> None:
        self._settings = NodeSettings.model_validate(
            {
                "node_id": 1,
                "groups": 1,
                "members": "1=127.0.0.1:1",
                "data": directory,
                "tick_ms": 10,
                "heartbeat_ms": 20,
                "election_ms_min": 200,
                "election_ms_max": 300,
                "chunk_bytes": CHUNK_BYTES,
            }
        )
        self._lines = lines
        self.failures: list[str] = []
        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        storage = open_storage(self._settings)
        self.replica = Replica(self._settings, storage, metrics, self.failures.append)

    async def start(self) -> None:
        raft = self.replica.raft
        self._snapshot_at(1)
        self.replica.start()
        await until(lambda: raft.is_leader and raft.log.first_index == raft.log.last_index > 1)
        self._snapshot_at(1 << 30)

    def _snapshot_at(self, log_bytes: int) -> None:
        object.__setattr__(self._settings, "snapshot_log_bytes", log_bytes)

    @property
    def snapshot(self) -> Snapshot:
        return self.replica.raft.log.snapshot

    @property
    def path(self) -> Path:
        return self._settings.data / "snapshots" / self.snapshot.checkpoint

    def refuse(self, offset: int = -1) -> None:
        """Report a follower's answer: it has dropped what it had. ``offset``: bytes sent to it, -1: all."""
        sent = self.snapshot.size if offset < 0 else offset
        self.replica.snapshotting.damaged.dropped(Dropped(2, self.snapshot, sent))

    def said(self, event: str) -> Lines:
        return [line for line in self._lines if line["event"] == event]

    async def has_settled(self) -> None:
        """Wait until the snapshot thread has done what it was asked, and some ticks could ask for more."""
        await self._thread_is_idle()
        ticks = self.replica._ticks
        await until(lambda: self.replica._ticks > ticks + 10)
        await self._thread_is_idle()

    async def _thread_is_idle(self) -> None:
        """It has one thread and keeps the order: what was asked before is done, and reported."""
        idle = asyncio.get_running_loop().create_future()
        self.replica.snapshotting._run(lambda: None, idle.set_result)
        await idle

    async def is_whole_behind(self, index: int) -> None:
        """Wait for a newer first element, which is whole on disk."""
        await until(lambda: self.snapshot.index > index)
        assert self.replica.storage.damage(self.snapshot) is None
        assert not self.replica.raft.leading.snapshots.is_withheld
        assert self.replica.problem == ""
        assert len(self.said("own_snapshot_damaged")) == 1


def run(
    directory: Path, test: Callable[[Leader], Awaitable[None]], kind: type[Leader] = Leader
) -> None:
    async def inside() -> None:
        with structlog.testing.capture_logs() as lines:
            leader = kind(directory / "node", lines)
            await leader.start()
            try:
                await test(leader)
            finally:
                await leader.replica.stop()
            assert leader.failures == []

    asyncio.run(inside())


def damage_a_file(path: Path) -> None:
    flip(next((path / "db").glob("MANIFEST*")))


def damage_the_manifest(path: Path) -> None:
    flip(path / "manifest.json")


@pytest.mark.parametrize("damage", [damage_a_file, damage_the_manifest])
def test_a_damaged_snapshot_gives_way_to_a_new_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """The group is idle, with nothing behind its snapshot."""

    async def test(leader: Leader) -> None:
        index = leader.snapshot.index
        damage(leader.path)
        leader.refuse()
        await leader.is_whole_behind(index)
        await until(lambda: not list(leader.path.parent.glob(f"{index}-*")))

    run(tmp_path, test)


def test_one_that_cannot_be_read_gives_way_too(tmp_path: Path) -> None:
    async def test(leader: Leader) -> None:
        first = leader.snapshot
        (leader.path / "db" / "CURRENT").unlink()
        chunk = ChunkToSend(2, leader.replica.raft.term, 1, first, 0, CHUNK_BYTES)
        while not leader.said("own_snapshot_damaged"):
            leader.replica.snapshotting.send_chunk(chunk)
            chunk = replace(chunk, offset=(chunk.offset + 100) % first.size)
            await asyncio.sleep(0.001)
        await leader.is_whole_behind(first.index)

    run(tmp_path, test)


def test_a_whole_snapshot_stays(tmp_path: Path) -> None:
    """The damage is the follower's, or came on the way."""

    async def test(leader: Leader) -> None:
        index = leader.snapshot.index
        leader.refuse()
        await leader.has_settled()
        assert (leader.snapshot.index, leader.replica.raft.log.last_index) == (index, index)
        assert not leader.replica.raft.leading.snapshots.is_withheld
        assert [line["replica"] for line in leader.said("snapshot_refused")] == [2]
        assert not leader.said("own_snapshot_damaged")

    run(tmp_path, test)


def test_a_follower_that_restarted_has_verified_nothing(tmp_path: Path) -> None:
    """It asks from 0 in the middle of a stream: that is no reason to read all of a large snapshot."""

    async def test(leader: Leader) -> None:
        assert leader.snapshot.size > 2 * CHUNK_BYTES
        damage_a_file(leader.path)
        leader.refuse(offset=0)
        await leader.has_settled()
        assert not leader.said("snapshot_refused")
        assert not leader.replica.raft.leading.snapshots.is_withheld

    run(tmp_path, test)


def test_damage_of_the_live_data_is_not_sealed_as_if_it_were_whole(tmp_path: Path) -> None:
    """It stays withheld and says so; to serve on is no worse than before."""

    async def test(leader: Leader) -> None:
        first, path = leader.snapshot, leader.path
        flip(min((path / "db").glob("*.sst")))
        leader.refuse()
        await until(lambda: leader.said("snapshot_not_replaced"))
        assert "the live data has the damaged" in leader.said("snapshot_not_replaced")[0]["reason"]
        await leader.has_settled()
        assert len(leader.said("snapshot_not_replaced")) == 1  # not at every tick
        assert leader.snapshot == first
        assert [one.name for one in path.parent.iterdir()] == [path.name]
        assert "its snapshot is damaged on disk" in leader.replica.problem
        assert leader.replica.raft.serves

    run(tmp_path, test)
