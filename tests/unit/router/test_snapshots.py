"""Reads at a version: Behind, Advance, and versions that nobody has issued (PROTOCOL 2.7)."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from overdb.v1 import kv_pb2
from tests.unit.router.fakes import BatchClient, FakeCluster, get, running, until


def at(version: int) -> kv_pb2.ReadOptions:
    return kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_SNAPSHOT, version=version)


def advances(cluster: FakeCluster, group: int) -> int:
    return sum(b"\x22" in message.commands[:4] for message in cluster.leader(group).messages)


def test_an_old_version_is_read_as_it_was() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            first = await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"2"))
            read = await cluster.kv.Get(kv_pb2.GetRequest(key=b"a", read=at(first.version)))
            assert read.value == b"1"
            newest = await cluster.kv.Get(kv_pb2.GetRequest(key=b"a", read=at(0)))
            assert newest.value == b"2"

    asyncio.run(scenario())


def test_a_group_that_is_behind_is_brought_to_the_version_once_for_all_who_wait() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            ahead, behind = cluster.groups
            ahead.state.clock = 9000
            key = cluster.key_of(1)
            await cluster.kv.Put(kv_pb2.PutRequest(key=key, value=b"1"))
            client = BatchClient(cluster)
            entries = [get(n, key) for n in range(50)]
            for entry in entries:
                entry.get.read.CopyFrom(at(9000))
            await client.send(*entries)
            await client.receive(50)
            assert all(entry.get.value == b"1" for entry in client.answers.values())
            assert behind.state.clock == 9000
            assert advances(cluster, 1) == 1

    asyncio.run(scenario())


def test_a_version_from_the_future_is_refused_and_moves_no_clock() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            cluster.groups[1].state.clock = 5000
            key = cluster.key_of(0)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Get(kv_pb2.GetRequest(key=key, read=at(5001)))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "5001 is in the future, the newest is 5000" in str(refused.value.details())
            assert cluster.groups[0].state.clock == 1000

    asyncio.run(scenario())


def test_clocks_are_asked_of_the_new_leader_after_a_change() -> None:
    async def scenario() -> None:
        async with running(poll_seconds=60.0) as cluster:
            cluster.groups[0].elect(2)
            cluster.groups[1].state.clock = 5000
            loop = asyncio.get_running_loop()
            assert await cluster.router.core.snapshots.newest(loop.time() + 3) == 5000

    asyncio.run(scenario())


def test_without_a_leader_the_clock_is_unavailable() -> None:
    async def scenario() -> None:
        # The router's limit is the shorter one by far: its answer comes while the client still waits.
        async with running(request_seconds_max=1.0) as cluster:
            cluster.groups[0].leader = -1
            key = cluster.key_of(1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Get(kv_pb2.GetRequest(key=key, read=at(7000)), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_a_version_that_is_not_kept_any_more_says_so() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            key = cluster.key_of(0)
            cluster.groups[0].state.clock = cluster.groups[0].state.oldest = 8000
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Get(kv_pb2.GetRequest(key=key, read=at(7999)))
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "the oldest is 8000" in str(refused.value.details())
            assert not (await cluster.kv.Get(kv_pb2.GetRequest(key=key, read=at(8000)))).found

    asyncio.run(scenario())


def test_a_group_that_is_behind_reads_at_the_version_of_another_groups_write() -> None:
    """The key's value of before the version is found, whatever is written after it."""

    async def scenario() -> None:
        async with running() as cluster:
            ahead, behind = cluster.key_of(0), cluster.key_of(1)
            await cluster.kv.Put(kv_pb2.PutRequest(key=behind, value=b"before"))
            cluster.groups[0].state.clock = 9000
            written = await cluster.kv.Put(kv_pb2.PutRequest(key=ahead, value=b"x"))
            read = kv_pb2.GetRequest(key=behind, read=at(written.version))
            assert (await cluster.kv.Get(read)).value == b"before"
            later = await cluster.kv.Put(kv_pb2.PutRequest(key=behind, value=b"after"))
            assert later.version > written.version
            assert (await cluster.kv.Get(read)).value == b"before"

    asyncio.run(scenario())


def test_a_short_deadline_among_those_who_wait_is_its_own_matter() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            cluster.groups[0].state.clock = 9000
            key = cluster.key_of(1)
            leader = cluster.leader(1)
            leader.tamper = lambda response: leader.awake.clear() if response.values else None
            client = BatchClient(cluster)
            entries = [get(1, key, timeout_ms=300), get(2, key)]
            for entry in entries:
                entry.get.read.CopyFrom(at(9000))
            await client.send(*entries)
            await client.receive(1)
            assert client.answers[1].error.code == grpc.StatusCode.UNAVAILABLE.value[0]
            leader.tamper = None
            leader.awake.set()
            await client.receive(2)
            assert client.answers[2].HasField("get")

    asyncio.run(scenario())


async def until_asked(cluster: FakeCluster, count: int) -> None:
    """Return when group 0's leader has been asked for its clock ``count`` times more than before."""
    leader = cluster.leader(0)
    wanted = leader.describes + count
    async with asyncio.timeout(5):
        while leader.describes < wanted:
            await asyncio.sleep(0)


def test_a_scan_does_not_get_clocks_that_were_asked_for_before_it_began() -> None:
    """PROTOCOL 2.7: what was acknowledged before a scan is in it, also beside one that began earlier."""

    async def scenario() -> None:
        async with running(poll_seconds=60.0) as cluster:
            await scanned(cluster)
            slow, quick = cluster.leader(1), cluster.leader(0)
            slow.awake.clear()  # the first question is held up at one group, the other has answered
            asked = asyncio.create_task(until_asked(cluster, 1))
            first = asyncio.create_task(scanned(cluster))
            await asked
            quick.group.state.clock = 7000
            second = asyncio.create_task(scanned(cluster))
            await asyncio.sleep(
                0.05
            )  # it has been taken in; nothing that can be waited for shows it
            slow.awake.set()
            assert await first < 7000
            assert await second == 7000

    asyncio.run(scenario())


def test_a_scan_whose_version_was_chosen_here_does_not_ask_whether_it_was_issued() -> None:
    async def scenario() -> None:
        async with running(poll_seconds=60.0) as cluster:
            await scanned(cluster)
            cluster.groups[0].state.clock = 8000  # the other one is behind
            before = cluster.leader(0).describes
            assert await scanned(cluster) == 8000
            assert cluster.leader(0).describes - before == 1
            assert cluster.groups[1].state.clock == 8000

    asyncio.run(scenario())


def test_a_group_that_leaves_the_topology_while_it_is_asked_is_asked_again() -> None:
    """Closing a channel cancels the calls on it: that is a failure of theirs, not of who waits."""

    async def scenario() -> None:
        async with running(poll_seconds=60.0) as cluster:
            await scanned(cluster)
            leader = cluster.leader(1)
            leader.awake.clear()
            asked = leader.describes
            scanning = asyncio.create_task(scanned(cluster))
            await until(lambda: leader.describes > asked)
            await cluster.router.core.channels.forget_all_but(
                [replica.address for replica in cluster.replicas if replica is not leader]
            )
            leader.awake.set()
            assert await scanning >= 1000

    asyncio.run(scenario())


async def scanned(cluster: FakeCluster) -> int:
    """The version that a scan of everything reads at."""
    pages = [page async for page in cluster.kv.Scan(kv_pb2.ScanRequest())]
    return pages[0].version
