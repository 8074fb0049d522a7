"""A replica whose disk is full: what it refuses, and what it answers all the same (PROTOCOL 1.4)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_node import comparing, peer_admission
from overdb_node.backend import ReplicaBackend
from overdb_node.machine.comparison import Kind, Point
from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_replica, register_gauges
from overdb_node.raft.messages import Offer
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from overdb_node.storage import founding, identity, promises, quarantine, starts
from overdb_node.storage.errors import NoRoomToStart
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


def settings_of(directory: Path, members: str, **more: object) -> NodeSettings:
    return NodeSettings.model_validate(
        {
            "node_id": 1,
            "groups": 1,
            "members": members,
            "data": directory / "node",
            "tick_ms": 10,
            "heartbeat_ms": 20,
            "election_ms_min": 200,
            "election_ms_max": 300,
            **more,
        }
    )


@contextlib.asynccontextmanager
async def running(
    directory: Path, members: str, registry: CollectorRegistry | None = None
) -> AsyncIterator[Replica]:
    settings = settings_of(directory, members)
    failures: list[str] = []
    metrics = NodeMetrics(registry or CollectorRegistry(), 0, 1)
    replica = open_replica(settings, metrics, failures.append)
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
            assert "snapshot of 300.0 MiB does not fit twice" in said
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
    staged = snapshots / "incoming.tmp"
    (staged / "db").mkdir(parents=True)
    (staged / "db" / "000001.sst").write_bytes(b"x")

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


class NoRoom:
    """Takes the place of a function that writes a note: while ``full``, the disk has no room for it."""

    def __init__(self, write: Callable[..., object]) -> None:
        self._write = write
        self.full = True
        self.refused = 0

    def __call__(self, *arguments: object) -> object:
        if self.full:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(*arguments)


def test_a_level_that_cannot_be_noted_holds_up_all_answers_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older program must refuse the directory before anything is answered by the rules of that level."""
    note = NoRoom(identity.note_level)
    monkeypatch.setattr("overdb_node.replica.note_level", note)

    async def run() -> None:
        async with running(tmp_path, "1=127.0.0.1:1") as replica:
            await until(lambda: replica.machine.level and note.refused > 2)
            answers = Caught()
            replica.read(answers.caught.append)  # type: ignore[arg-type]
            assert not replica.is_readable
            assert answers.caught == [False]
            assert "disk full" in replica.problem
            assert level_noted(tmp_path) == 0
            note.full = False
            await until(lambda: replica.raft.serves and replica.is_readable)
            assert level_noted(tmp_path) == replica.machine.level
            assert not replica.problem
            backend = ReplicaBackend(replica)
            backend.exchange(message(replica.stamp(), 1), answers)
            await until(lambda: len(answers.caught) == 2)
            assert answers.caught[1].versions

    asyncio.run(run())


def level_noted(directory: Path) -> int:
    content = json.loads((directory / "node" / "node.json").read_text())
    return int(content["format"]) - 1


def test_a_start_without_room_to_note_its_promises_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the log can take the last room; the directory is left as it can be opened again."""
    note = NoRoom(promises.write)
    monkeypatch.setattr(promises, "write", note)
    settings = settings_of(tmp_path, "1=127.0.0.1:1", read_leases=True)
    metrics = NodeMetrics(CollectorRegistry(), 0, 1)

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(NoRoomToStart, match="enlarge the disk"):
                open_replica(settings, metrics, pytest.fail)
        note.full = False
        replica = open_replica(settings, metrics, pytest.fail)
        replica.start()
        await until(lambda: replica.raft.serves)
        await replica.stop()

    asyncio.run(run())
    assert note.refused == 2


def test_a_replica_without_room_to_note_the_founders_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = NoRoom(founding.write_founders)
    monkeypatch.setattr(founding, "write_founders", note)

    async def run() -> None:
        async with running(tmp_path, "1=127.0.0.1:1") as replica:
            await until(lambda: note.refused > 2)
            assert not replica.admission.established
            assert "no room to note the founding members" in replica.problem
            note.full = False
            await until(lambda: replica.raft.serves)
            assert not replica.problem

    asyncio.run(run())


def test_a_diverged_state_is_marked_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves nothing meanwhile. A process that ended here would serve again, started anew."""
    note = NoRoom(quarantine.write)
    monkeypatch.setattr(quarantine, "write", note)
    monkeypatch.setattr(comparing, "MARK_RETRY_SECONDS", 0.01)

    async def run() -> None:
        async with running(tmp_path, "1=127.0.0.1:1") as replica:
            await until(lambda: replica.raft.serves)
            marking = asyncio.create_task(
                replica.comparing._stop_serving(Point(7, Kind.CHAIN, "1", 0))
            )
            await until(lambda: note.refused > 2)
            assert not replica.is_readable
            assert not quarantine.read(replica.storage.data_path)
            note.full = False
            await marking
            assert "index 7" in quarantine.read(replica.storage.data_path)

    asyncio.run(run())


def test_an_old_copy_is_noted_as_such_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = NoRoom(starts.write)
    note.full = False
    monkeypatch.setattr(starts, "write", note)
    monkeypatch.setattr(peer_admission, "RENEWAL_SECONDS", 0.01)

    async def run() -> None:
        async with running(tmp_path, "1=127.0.0.1:1") as replica:
            await until(lambda: replica.raft.serves)
            note.full = True
            marking = asyncio.create_task(replica.admission._stay_out("replica 2 knows better"))
            await until(lambda: note.refused > 2)
            note.full = False
            await marking
            assert starts.read(tmp_path / "node").outdated == "replica 2 knows better"

    asyncio.run(run())
