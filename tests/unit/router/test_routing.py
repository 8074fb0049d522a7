"""Requests reach the leader of the group that owns their key, in few messages (DESIGN 3, 4)."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from overdb.internal.v1 import shard_pb2
from overdb.v1 import cluster_pb2, kv_pb2
from tests.unit.router.fakes import BatchClient, get, put, running, until


def test_each_key_goes_to_its_group_and_reads_see_writes() -> None:
    async def scenario() -> None:
        async with running(groups=3) as cluster:
            for group in range(3):
                key = cluster.key_of(group)
                written = await cluster.kv.Put(kv_pb2.PutRequest(key=key, value=b"%d" % group))
                read = await cluster.kv.Get(kv_pb2.GetRequest(key=key))
                assert (read.found, read.value) == (True, b"%d" % group)
                assert read.version == written.version
                assert cluster.groups[group].state.order == [key]

    asyncio.run(scenario())


def test_delete_says_whether_there_was_something() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            assert (await cluster.kv.Delete(kv_pb2.DeleteRequest(key=b"a"))).existed
            assert not (await cluster.kv.Delete(kv_pb2.DeleteRequest(key=b"a"))).existed
            assert not (await cluster.kv.Get(kv_pb2.GetRequest(key=b"a"))).found

    asyncio.run(scenario())


def test_what_waits_together_travels_together() -> None:
    """DESIGN 4: every hop carries all that is waiting."""

    async def scenario() -> None:
        async with running() as cluster:
            client = BatchClient(cluster)
            await client.send(*(put(n, b"key-%d" % n) for n in range(256)))
            await client.receive(256)
            assert all(entry.HasField("put") for entry in client.answers.values())
            sent = sum(len(cluster.leader(group).messages) for group in (0, 1))
            assert sent == 2
            assert client.messages <= 4

    asyncio.run(scenario())


def test_single_calls_share_messages_too() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            leader = cluster.leader()
            leader.delay_seconds = 0.02
            calls = [
                cluster.kv.Put(kv_pb2.PutRequest(key=b"key-%d" % n, value=b"v")) for n in range(256)
            ]
            await asyncio.gather(*calls)
            assert len(leader.messages) < 100
            assert cluster.groups[0].state.runs == 256

    asyncio.run(scenario())


def test_a_message_is_bounded_in_bytes_and_a_large_request_travels_alone() -> None:
    async def scenario() -> None:
        async with running(groups=1, message_bytes_max=4096) as cluster:
            client = BatchClient(cluster)
            values = [b"x" * 1000] * 12 + [b"y" * 500_000]
            await client.send(*(put(n, b"k%d" % n, value) for n, value in enumerate(values)))
            await client.receive(13)
            sizes = [len(message.commands) for message in cluster.leader().messages]
            assert max(sizes[:-1]) <= 4096
            assert sizes[-1] > 500_000
            assert cluster.leader().messages[-1].count == 1

    asyncio.run(scenario())


def test_reads_and_writes_of_one_turn_keep_their_own_order() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            client = BatchClient(cluster)
            await client.send(*(put(n, b"k%03d" % n) for n in range(50)), get(99, b"k001"))
            await client.receive(51)
            assert cluster.groups[0].state.order == [b"k%03d" % n for n in range(50)]
            assert client.answers[99].HasField("get")

    asyncio.run(scenario())


def test_get_of_a_missing_key_is_an_answer_and_no_error() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            client = BatchClient(cluster)
            await client.send(get(7, b"nothing"))
            await client.receive(1)
            assert client.answers[7].WhichOneof("response") == "get"
            assert not client.answers[7].get.found

    asyncio.run(scenario())


def test_a_slot_that_moved_is_followed() -> None:
    """DESIGN 3: WrongGroup makes the router ask the groups for their slots."""

    async def scenario() -> None:
        async with running() as cluster:
            await cluster.stop_polling()
            key = cluster.key_of(0)
            old, new = cluster.groups
            old.epoch = new.epoch = 2
            new.slots = b"\xff" * 512
            old.slots = bytes(512)
            await cluster.kv.Put(kv_pb2.PutRequest(key=key, value=b"moved"))
            assert new.state.order == [key]
            assert old.state.order == []
            client = BatchClient(cluster)
            await client.send(get(1, key))
            await client.receive(1)
            assert client.answers[1].get.value == b"moved"

    asyncio.run(scenario())


def test_a_slot_nobody_owns_is_unavailable() -> None:
    async def scenario() -> None:
        async with running(request_seconds_max=0.3) as cluster:
            key = cluster.key_of(0)
            cluster.groups[0].slots = bytes(512)
            cluster.groups[0].epoch = 2
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Get(kv_pb2.GetRequest(key=key))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_a_transaction_inside_a_group_is_one_command() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            inside = [cluster.key_of(1, n) for n in range(3)]
            request = kv_pb2.TransactRequest()
            for key in inside:
                request.then.add().put.CopyFrom(kv_pb2.Operation.Put(key=key, value=b"t"))
            assert (await cluster.kv.Transact(request)).succeeded
            assert cluster.groups[1].state.order == inside
            assert len(cluster.leader(1).messages) == 1

    asyncio.run(scenario())


def test_stale_reads_are_answered_by_followers_alone() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            cluster.groups[0].leader = -1  # nobody leads any more
            stale = kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_STALE)
            read = await cluster.kv.Get(kv_pb2.GetRequest(key=b"a", read=stale), timeout=2)
            assert read.value == b"1"

    asyncio.run(scenario())


def test_stale_reads_go_on_past_a_replica_that_hangs() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            for replica in cluster.replicas[1:]:
                replica.awake.clear()
            stale = kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_STALE)
            for _ in range(3):
                read = await cluster.kv.Get(kv_pb2.GetRequest(key=b"a", read=stale), timeout=4)
                assert read.value == b"1"

    asyncio.run(scenario())


def test_locate_members_and_status() -> None:
    async def scenario() -> None:
        # All but the one that sleeps have so long to answer, on a machine that stands still for seconds too.
        async with running(describe_seconds_max=6.0) as cluster:
            located = await cluster.admin.Locate(cluster_pb2.LocateRequest(key=b"x{t}y"))
            assert located.tag == b"t"
            leader = cluster.leader(located.group)
            assert (located.leader_id, located.leader_address) == (
                leader.replica_id,
                leader.address,
            )

            members = await cluster.admin.Members(cluster_pb2.MembersRequest())
            assert [len(group.members) for group in members.groups] == [3, 3]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.admin.Members(cluster_pb2.MembersRequest(group=9))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert "no group 9" in str(refused.value.details())

            cluster.replicas[2].awake.clear()
            status = await cluster.admin.Status(cluster_pb2.StatusRequest())
            assert status.serving
            assert [group.slots for group in status.groups] == [2048, 2048]
            reachable = [r.reachable for group in status.groups for r in group.replicas]
            assert reachable == [True, True, False, True, True, True]

    asyncio.run(scenario())


def test_a_foreign_cluster_is_not_served() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            topology = cluster.router.core.topology
            answer = await cluster.replicas[0].Describe(shard_pb2.DescribeRequest(), None)
            answer.cluster = "other"
            answer.term = 9
            answer.replica_id = 99
            assert not topology.learn("127.0.0.1:1", answer)
            leader = topology.leader_of(0)
            assert leader is not None
            assert leader.replica_id == cluster.leader().replica_id

    asyncio.run(scenario())


@pytest.mark.parametrize("takes_part", [False, True])
def test_a_replica_that_is_set_to_another_number_of_groups_is_not_heard(takes_part: bool) -> None:
    """PROTOCOL 3.10: as the first one that answers too, if it takes no part yet."""

    async def scenario() -> None:
        async with running(groups=2) as cluster:
            topology = cluster.router.core.topology
            if not takes_part:
                topology._group_count = 0
            answer = await cluster.replicas[0].Describe(shard_pb2.DescribeRequest(), None)
            answer.groups, answer.start_number, answer.established = 3, 1, takes_part
            answer.replica_id, answer.term, answer.epoch = 99, 99, 99
            assert not topology.learn("127.0.0.1:1", answer)
            assert topology._group_count == (2 if takes_part else 0)
            leader = topology.leader_of(0)
            assert leader is not None
            assert leader.replica_id == cluster.leader().replica_id

    asyncio.run(scenario())


def test_an_idle_router_asks_its_leaders_and_nobody_else() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            before = [replica.describes for replica in cluster.replicas]
            await until(lambda: cluster.leader(0).describes >= before[0] + 3)
            asked = [r.describes - b for r, b in zip(cluster.replicas, before, strict=True)]
            assert asked[1] <= 1
            assert asked[2] <= 1
            assert asked[4] <= 1

    asyncio.run(scenario())
