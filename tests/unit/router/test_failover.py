"""Leaders come and go: the same requests, with the same ids, reach the next one (PROTOCOL 2.2, FAULTS 51)."""

from __future__ import annotations

import asyncio

import pytest

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from tests.unit.router.fakes import BatchClient, FakeReplica, get, put, running, until


def ids_of(replica: FakeReplica) -> list[tuple[bytes, int]]:
    """The request ids in everything that a replica was sent, in order."""
    commands = [
        command
        for message in replica.messages
        for command in log_pb2.Commands.FromString(message.commands).commands
    ]
    return [(c.put.id.client_id, c.put.id.request_number) for c in commands]


@pytest.mark.parametrize("hints", [True, False])
def test_a_deposed_leader_refuses_and_the_next_one_is_found(hints: bool) -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.stop_polling()
            for replica in cluster.replicas:
                replica.hints = hints
            cluster.groups[0].elect(2)
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"), timeout=3)
            assert ids_of(cluster.replicas[0]) == ids_of(cluster.replicas[2])
            assert cluster.groups[0].state.runs == 1

    asyncio.run(scenario())


def test_a_lost_answer_is_asked_for_again_with_the_same_id_and_runs_once() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            leader = cluster.leader()
            leader.drops = 1  # applied, but the stream breaks before the answer
            client = BatchClient(cluster)
            await client.send(*(put(n, b"k%d" % n) for n in range(20)))
            await client.receive(20)
            sent = ids_of(leader)
            assert len(sent) == 40
            assert sent[:20] == sent[20:]
            assert cluster.groups[0].state.runs == 20
            assert all(entry.HasField("put") for entry in client.answers.values())

    asyncio.run(scenario())


def test_requests_keep_their_order_over_a_failover() -> None:
    async def scenario() -> None:
        async with running(groups=1, messages_in_flight_max=4) as cluster:
            old = cluster.leader()
            old.awake.clear()
            client = BatchClient(cluster)
            for message in range(8):
                await client.send(
                    *(put(message * 5 + n, b"%03d" % (message * 5 + n)) for n in range(5))
                )
            await until(lambda: len(old.messages) > 0)
            cluster.groups[0].elect(1)
            await client.receive(40)
            assert cluster.groups[0].state.order == [b"%03d" % n for n in range(40)]

    asyncio.run(scenario())


def test_a_stopped_leader_is_left_when_others_follow_a_newer_one() -> None:
    """A SIGSTOPped leader keeps its connections: it is found out by the answers that it owes."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.stop_polling()
            old = cluster.leader()
            old.awake.clear()
            client = BatchClient(cluster)
            await client.send(put(1, b"a"), get(2, b"b"))
            await until(lambda: len(old.messages) > 0)
            cluster.groups[0].elect(1)
            await client.receive(2, seconds_max=3)
            assert client.answers[1].HasField("put")
            assert client.answers[2].HasField("get")

    asyncio.run(scenario())


def test_a_slow_leader_is_kept_while_nobody_else_leads() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.leader().delay_seconds = 0.5  # several times the stall limit
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            assert len(cluster.leader().messages) == 1

    asyncio.run(scenario())


def test_a_killed_leader_is_replaced_and_one_that_comes_back_is_used() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            await cluster.leader().kill()
            put_later = asyncio.create_task(_put(cluster.kv, b"b"))
            await until(lambda: not cluster.router.core.topology.serving)
            cluster.groups[0].elect(1)
            await put_later
            await cluster.replicas[0].start()
            cluster.groups[0].elect(0)
            await _put(cluster.kv, b"c")
            assert cluster.groups[0].state.order == [b"a", b"b", b"c"]

    asyncio.run(scenario())


def test_a_leader_without_knowing_that_it_was_deposed_is_not_believed() -> None:
    """Its term is older than that of the leader that was known already."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.replicas[0].claims_leadership = True
            cluster.groups[0].elect(1)
            topology = cluster.router.core.topology
            topology.ask_around(0)
            await until(lambda: (leader := topology.leader_of(0)) is not None and leader.term == 2)
            deposed = cluster.replicas[0]
            says = await deposed.Describe(shard_pb2.DescribeRequest(), None)
            assert says.role == "leader"
            assert not topology.learn(deposed.address, says)
            leader = topology.leader_of(0)
            assert leader is not None
            assert leader.replica_id == cluster.replicas[1].replica_id

    asyncio.run(scenario())


def test_all_replicas_restarted_at_once_are_found_again() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            for replica in cluster.replicas:
                await replica.kill()
            await until(lambda: not cluster.router.core.topology.serving)
            for replica in cluster.replicas:
                await replica.start()
            await cluster.serving()
            await _put(cluster.kv, b"a")

    asyncio.run(scenario())


def test_two_leaders_that_name_each_other_are_not_asked_in_a_hurry() -> None:
    """Refusals with wrong hints must not become a busy loop."""

    async def scenario() -> None:
        async with running(groups=1, replicas=2, request_seconds_max=1.0) as cluster:
            first, second = cluster.replicas
            for replica, other in ((first, second), (second, first)):
                replica.failure = shard_pb2.Failure(
                    reason=shard_pb2.Failure.REASON_NOT_LEADER,
                    leader_id=other.replica_id,
                    leader_address=other.address,
                )
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await client.receive(1)
            assert client.answers[1].HasField("error")
            assert len(first.messages) + len(second.messages) < 40

    asyncio.run(scenario())


async def _put(kv: object, key: bytes) -> None:
    await kv.Put(kv_pb2.PutRequest(key=key, value=b"v"), timeout=4)  # type: ignore[attr-defined]
