"""A leader whose disk hangs stops leading (FAULTS 34)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import shard_pb2
from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_storage
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from overdb_node.storage.log import DurableLog
from overdb_node.transport.shard_service import Answers


class Caught(Answers):
    """Keeps answers instead of writing them to a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[shard_pb2.ShardResponse] = []

    def send(self, response: shard_pb2.ShardResponse) -> None:
        self.caught.append(response)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_leader_whose_fsync_hangs_steps_down_and_refuses_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    free.set()
    append = DurableLog.append

    def may_hang(log: DurableLog, *request: object) -> int:
        free.wait()
        return append(log, *request)  # type: ignore[arg-type]

    monkeypatch.setattr(DurableLog, "append", may_hang)

    async def run() -> None:
        settings = NodeSettings.model_validate(
            {
                "node_id": 1,
                "groups": 1,
                "members": "1=127.0.0.1:1",
                "data": tmp_path / "node",
                "tick_ms": 10,
                "heartbeat_ms": 20,
                "election_ms_min": 200,
                "election_ms_max": 300,
            }
        )
        failures: list[str] = []
        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        replica = Replica(settings, open_storage(settings), metrics, failures.append)
        replica.start()
        try:
            await until(lambda: replica.raft.is_leader and replica.raft.applied)
            free.clear()
            answers = Caught()
            replica.propose(b"", 7, answers)
            await until(lambda: not replica.raft.is_leader)
            failure = answers.caught[0].failure
            assert answers.caught[0].sequence == 7
            assert failure.reason == shard_pb2.Failure.REASON_NOT_LEADER
            assert not failure.nothing_done, "it is in the log"
            replica.propose(b"", 8, answers)
            assert answers.caught[1].failure.nothing_done
            free.set()
            await until(lambda: replica.raft.is_leader and replica.raft.applied > 1)
        finally:
            free.set()
            await replica.stop()
        assert failures == []

    asyncio.run(run())
