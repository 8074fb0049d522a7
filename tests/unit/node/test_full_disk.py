"""A replica whose disk is full: what it refuses, and what it answers all the same (PROTOCOL 1.4)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_node.backend import ReplicaBackend
from overdb_node.metrics import NodeMetrics
from overdb_node.node import NoRoomToStart, open_storage, register_gauges
from overdb_node.raft.messages import Offer
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from tests.unit.node.test_disk_stall import Caught, until

MIB = 1 << 20


def message(now_us: int, *numbers: int) -> shard_pb2.ShardRequest:
    """A put for each number, which is that of its id. The client id was made at that time."""
    client = (now_us // 1000).to_bytes(6, "big") + b"\x70" + bytes(9)
    puts = [
        kv_pb2.PutRequest(
            key=b"k%d" % number,
            value=b"v",
            id=kv_pb2.RequestId(client_id=client, request_number=number, started_at=now_us),
        )
        for number in numbers
    ]
    commands = log_pb2.Commands(commands=[log_pb2.Command(put=put) for put in puts])
    return shard_pb2.ShardRequest(
        sequence=1, commands=commands.SerializeToString(), count=len(puts), compact=True, level=1
    )


@contextlib.asynccontextmanager
async def running(
    directory: Path, members: str, registry: CollectorRegistry | None = None
) -> AsyncIterator[Replica]:
    settings = NodeSettings.model_validate(
        {
            "node_id": 1,
            "groups": 1,
            "members": members,
            "data": directory / "node",
            "tick_ms": 10,
            "heartbeat_ms": 20,
            "election_ms_min": 200,
            "election_ms_max": 300,
        }
    )
    failures: list[str] = []
    metrics = NodeMetrics(registry or CollectorRegistry(), 0, 1)
    replica = Replica(settings, open_storage(settings), metrics, failures.append)
    register_gauges(replica)
    replica.start()
    try:
        yield replica
    finally:
        await replica.stop()
    assert failures == []


def without_room_bytes(registry: CollectorRegistry) -> float | None:
    name = "overdb_snapshot_without_room_bytes"
    return registry.get_sample_value(name, {"group": "0", "replica": "1"})


def test_a_full_replica_answers_the_copies_of_what_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        answers = Caught()
        async with running(tmp_path, "1=127.0.0.1:1") as replica:
            backend = ReplicaBackend(replica)
            await until(lambda: replica.raft.serves and replica.raft.applied and replica.stamp())
            now_us = replica.stamp()
            backend.exchange(message(now_us, 1), answers)
            await until(lambda: answers.caught)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
            await until(lambda: replica.disk_full)
            backend.exchange(message(now_us, 2, 1), answers)
            [written, refused] = answers.caught
            assert refused.failure.reason == shard_pb2.Failure.REASON_DISK_FULL
            [known] = refused.late
            assert known.position == 1
            assert [known.result.put.version] == list(written.versions)
            monkeypatch.undo()

    asyncio.run(run())


def test_a_follower_without_room_for_a_snapshot_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``overdb status``, which shows what Describe says, and in the metrics."""

    async def run() -> None:
        members = "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3"
        registry = CollectorRegistry()
        async with running(tmp_path, members, registry) as replica:
            backend = ReplicaBackend(replica)
            free = 300 * MIB
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
            await until(lambda: replica.disk.free_bytes == free)
            offer = Offer(1, 1, 5, 1, free)
            replica.raft.receive(2, offer)
            said = (await backend.describe(shard_pb2.DescribeRequest())).problem
            assert "snapshot of 300.0 MiB does not fit twice into 300 MiB free" in said
            assert without_room_bytes(registry) == free
            free = 1000 * MIB
            await until(lambda: replica.disk.free_bytes == free)
            replica.raft.receive(2, offer)
            assert "does not fit" not in replica.problem
            assert without_room_bytes(registry) == 0
            monkeypatch.undo()

    asyncio.run(run())


def test_a_transfer_that_ended_with_the_process_does_not_keep_the_next_one_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was filled by the snapshot that the replica was being sent: nobody else can free it."""
    asyncio.run(start_and_stop(tmp_path))
    snapshots = tmp_path / "node" / "snapshots"
    snapshots.mkdir(exist_ok=True)
    staged = snapshots / "incoming.tmp"
    staged.write_bytes(b"x")

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=0 if staged.exists() else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    asyncio.run(start_and_stop(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(NoRoomToStart, match="0 bytes free"):
        asyncio.run(start_and_stop(tmp_path))


async def start_and_stop(directory: Path) -> None:
    async with running(directory, "1=127.0.0.1:1") as replica:
        await until(lambda: replica.raft.serves)
