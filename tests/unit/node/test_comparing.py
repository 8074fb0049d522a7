"""Replicas of one group in one process: what becomes of a wrong state (FAULTS 31)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_common.level import LEVEL
from overdb_node import codec
from overdb_node.applying import Applier, Deferred, Waiting
from overdb_node.backend import ReplicaBackend
from overdb_node.machine.machine import Machine, MachineSettings
from overdb_node.metrics import NodeMetrics
from overdb_node.node import _serve, open_storage
from overdb_node.raft.types import Entry, EntryKind, Member
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from overdb_node.storage.data import DataStore, encode_version
from overdb_node.storage.digest import ContentDigest
from overdb_node.storage.quarantine import FILE
from tests.ports import free_ports
from tests.unit.machine.helpers import NOW, request
from tests.unit.node.test_disk_stall import Caught, until

COMPARE = log_pb2.Command(compare=log_pb2.CompareReplicas())


def put(key: bytes, number: int, now: int = NOW) -> log_pb2.Command:
    id_ = request(number, created=now)
    wire = kv_pb2.RequestId(client_id=id_.client_id, request_number=number, started_at=now)
    return log_pb2.Command(put=kv_pb2.PutRequest(key=key, value=b"v", id=wire))


def entry(index: int, *commands: log_pb2.Command) -> Entry:
    wire = log_pb2.Commands(commands=commands).SerializeToString()
    return Entry(index, 1, EntryKind.COMMANDS, codec.encode_envelope(NOW, wire))


class Running:
    """The replicas of one group, each with its server."""

    def __init__(self, replicas: dict[int, Replica], failures: list[str]) -> None:
        self.replicas = replicas
        self.failures = failures
        self.number = 0
        self._began = time.time_ns() // 1000

    @property
    def leader(self) -> Replica | None:
        return next((one for one in self.replicas.values() if one.raft.serves), None)

    async def led(self) -> Replica:
        await until(lambda: self.leader and self.leader.raft.leading.committed_in_term)
        assert self.leader is not None
        return self.leader

    async def put(self, key: bytes) -> None:
        """Have a put applied by all that are up."""
        self.number += 1
        wire = log_pb2.Commands(commands=[put(key, self.number, self._began)]).SerializeToString()
        while True:
            leader = await self.led()
            answers = Caught()
            leader.propose(wire, 1, answers)
            while not answers.caught:
                await asyncio.sleep(0.002)
            if not answers.caught[0].HasField("failure"):
                break
        assert answers.caught[0].results[0].HasField("put")
        await until(
            lambda: all(one.raft.applied >= leader.raft.applied for one in self.replicas.values())
        )

    async def writing_until(self, condition: Any) -> None:
        """Write now and then, as without any change nothing is compared."""
        async with asyncio.timeout(20):
            while not condition():
                await self.put(b"another")
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def group(directory: Path, count: int, **changes: Any) -> AsyncIterator[Running]:
    ports = dict(enumerate(free_ports(count), 1))
    failures: list[str] = []
    running = Running({}, failures)
    servers: list[Any] = []
    for number, port in ports.items():
        settings = NodeSettings.model_validate(
            {
                "node_id": number,
                "groups": 1,
                "listen": f"127.0.0.1:{port}",
                "members": ",".join(f"{i}=127.0.0.1:{p}" for i, p in ports.items()),
                "data": directory / str(number),
                "tick_ms": 10,
                "heartbeat_ms": 20,
                "election_ms_min": 200,
                "election_ms_max": 400,
                "compare_seconds": 0.1,
                **changes,
            }
        )
        metrics = NodeMetrics(CollectorRegistry(), 0, number)
        replica = Replica(settings, open_storage(settings), metrics, failures.append)
        running.replicas[number] = replica
        servers.append((await _serve(settings, replica))[0])
    for replica in running.replicas.values():
        replica.start()
    try:
        yield running
    finally:
        await asyncio.gather(*(replica.stop() for replica in running.replicas.values()))
        await asyncio.gather(*(server.stop(0.1) for server in servers))


def change_a_byte(replica: Replica, key: bytes) -> None:
    found = replica.storage.data.newest(key)
    assert found is not None
    replica.storage.data.database[encode_version(key, found[0])] = b"\x01w"


async def refuses(replica: Replica) -> bool:
    """Whether it answers nothing of all that it can be asked for; False if it answers all of it."""
    backend, answers = ReplicaBackend(replica), Caught()
    read = shard_pb2.Reads(reads=[shard_pb2.Read(key=b"k")], stale=True)
    backend.exchange(shard_pb2.ShardRequest(reads=read), answers)
    page = await backend.scan_page(shard_pb2.ScanPageRequest(stale=True))
    refused = {answers.caught[0].HasField("failure"), page.HasField("failure")}
    assert len(refused) == 1
    return refused.pop()


def test_an_odd_leader_hands_over_and_never_leads_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with group(tmp_path, 3) as running:
            await running.put(b"k")
            odd = await running.led()
            assert not await refuses(odd)
            change_a_byte(odd, b"k")
            await running.writing_until(lambda: odd.comparing.diverged)
            assert not odd.raft.may_lead
            others = [one for one in running.replicas.values() if one is not odd]
            await running.writing_until(lambda: running.leader in others)
            me = odd.settings.node_id
            await until(lambda: all(f"replica {me} " in one.problem for one in others))
            assert "replace this replica" in odd.problem
            assert list((tmp_path / str(me)).glob(f"data-*/{FILE}"))
            assert await refuses(odd)
            for one in others:
                assert not await refuses(one)
                assert one.comparing.others_diverged == {me}
            leader = await running.led()
            assert leader.best_follower() != me
            answers = Caught()
            odd.propose(b"", 9, answers)
            assert answers.caught[0].failure.reason == shard_pb2.Failure.REASON_NOT_LEADER
            assert running.failures == []

    asyncio.run(run())


def test_of_two_that_differ_none_is_odd_and_both_say_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with group(tmp_path, 2) as running:
            await running.put(b"k")
            change_a_byte(running.replicas[2], b"k")
            one, two = running.replicas[1], running.replicas[2]
            await running.writing_until(lambda: one.problem and two.problem)
            assert "the state of replica 2 differs from this one's at index" in one.problem
            assert "the state of replica 1 differs from this one's at index" in two.problem
            for replica in (one, two):
                assert not replica.comparing.diverged
                assert not await refuses(replica)
            await running.put(b"k")  # the same value again, everywhere
            await running.writing_until(lambda: not one.problem and not two.problem)

    asyncio.run(run())


def test_an_idle_group_writes_no_compares(tmp_path: Path) -> None:
    async def run() -> None:
        async with group(tmp_path, 1, compare_seconds=0.02) as running:
            replica = await running.led()
            await until(lambda: replica.machine.level == LEVEL)  # an entry of its own
            await until(lambda: replica.machine.compared == replica.raft.log.last_index)
            last = replica.raft.log.last_index
            ticks = replica._ticks
            await until(lambda: replica._ticks > ticks + 20)  # ten times compare_seconds
            assert replica.raft.log.last_index == last
            await running.put(b"k")
            await until(lambda: replica.machine.compared == last + 2)

    asyncio.run(run())


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    async def run() -> None:
        async with group(tmp_path, 1, compare_seconds=0) as running:
            replica = await running.led()
            answers = Caught()
            wire = log_pb2.Commands(commands=[COMPARE]).SerializeToString()
            replica.propose(wire, 1, answers)
            await until(lambda: answers.caught)
            compared = (
                replica.machine.compared
            )  # other entries may follow it, of a new level for example
            assert 0 < compared <= replica.raft.applied
            ticks = replica._ticks
            await until(lambda: replica._ticks > ticks + 10)
            assert replica.machine.compared == compared, "nobody has asked for another one"
            assert not replica.comparing._digesting
            assert replica.comparing._asking is None
            kinds = [one.kind for one in replica.comparing.checksums().checksums]
            assert kinds == [shard_pb2.Checksum.KIND_CHAIN]

    asyncio.run(run())


def test_a_damaged_file_that_the_digest_meets_is_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ContentDigest) -> bool:
        raise Exception("Corruption: block checksum mismatch")  # as rocksdict does

    monkeypatch.setattr(ContentDigest, "advance", fail)

    async def run() -> None:
        async with group(tmp_path, 1) as running:
            await until(lambda: running.failures)
            assert "block checksum mismatch" in running.failures[0]

    asyncio.run(run())


def test_an_answer_of_somebody_else_at_the_address_is_no_report(tmp_path: Path) -> None:
    async def run() -> None:
        async with group(tmp_path, 1) as running:
            comparing = running.replicas[1].comparing
            answer = comparing.checksums()
            member = Member(1, "127.0.0.1:1")
            assert comparing._report(member, answer) is not None
            assert comparing._report(member, None) is None
            for field, value in (("cluster", "x"), ("group", 3), ("replica_id", 2)):
                other = shard_pb2.ChecksumsResponse()
                other.CopyFrom(answer)
                setattr(other, field, value)
                assert comparing._report(member, other) is None

    asyncio.run(run())


def test_a_slice_ends_with_a_compare(tmp_path: Path) -> None:
    """So that what is on disk then is the state as of that entry, on every replica."""
    data = DataStore(tmp_path / "data")
    machine = Machine(data, MachineSettings())
    machine.load()
    metrics = NodeMetrics(CollectorRegistry(), 0, 1)
    applier = Applier(machine, data, Waiting(), Deferred(), metrics)
    applier.extend([entry(1, put(b"a", 1)), entry(2, put(b"b", 2), COMPARE, put(b"c", 3))])
    applier.extend([entry(3, put(b"d", 4)), entry(4, put(b"e", 5))])
    assert applier.run_slice() == 2
    assert data.applied() == (2, 1)
    assert data.newest(b"c") is not None
    assert data.newest(b"d") is None
    assert machine.compared == 2
    assert applier.run_slice() == 4
    assert machine.compared == 2
    data.close()


def test_a_program_that_does_not_know_compare_refuses_it_and_goes_on() -> None:
    """An older one sees a command without any field that it knows; so does this one a later one's."""
    unknown = b"\xfa\x01\x00"  # field 31, empty
    assert log_pb2.Command.FromString(unknown).WhichOneof("command") is None
    wire = b"\x0a" + bytes([len(unknown)]) + unknown
    stamp, (command,) = codec.decode_envelope(codec.encode_envelope(NOW, wire))
    assert (stamp, type(command).__name__) == (NOW, "Refused")
