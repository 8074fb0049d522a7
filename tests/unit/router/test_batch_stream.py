"""The Batch stream: its bounds, its end, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from overdb.v1 import kv_pb2
from tests.unit.router.fakes import BatchClient, get, put, running, until


def test_the_stream_ends_after_its_last_answer() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.leader().delay_seconds = 0.1
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await client.done()
            await client.receive(1)
            assert not await client.receive_one()

    asyncio.run(scenario())


def test_writes_of_a_client_that_left_run_to_their_end() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            leader = cluster.leader()
            leader.awake.clear()
            client = BatchClient(cluster)
            await client.send(*(put(n, b"k%d" % n) for n in range(10)))
            await until(lambda: len(leader.messages) > 0)
            client.cancel()
            await until(lambda: cluster.router.gate.open == 0)
            leader.awake.set()
            await until(lambda: cluster.groups[0].state.runs == 10)

    asyncio.run(scenario())


def test_unanswered_requests_of_one_stream_are_bounded_in_bytes() -> None:
    async def scenario() -> None:
        async with running(groups=1, stream_bytes_max=1 << 20) as cluster:
            cluster.leader().awake.clear()
            client = BatchClient(cluster)
            await client.send(*(put(n, b"k", b"x" * 300_000, timeout_ms=500) for n in range(5)))
            await client.receive(2)
            error = client.answers[4].error
            assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert "limit is 1048576" in error.message
            await client.receive(5)

    asyncio.run(scenario())


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Its answers are bounded; other clients do not notice."""

    async def scenario() -> None:
        async with running(groups=1, answer_bytes_max=1 << 20) as cluster:
            value = b"x" * 500_000
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=value))
            client = BatchClient(cluster)

            def reads() -> int:
                return sum(len(message.reads.reads) for message in cluster.leader().messages)

            # Their answers are more than it may leave; what came in a burst with them would be taken too.
            for n in range(10):
                await client.send(get(n, b"a"))
            assert 0 < await _settled(reads) <= 10

            async def send_more() -> None:
                for n in range(10, 60):
                    await client.send(get(n, b"a"))

            sending = asyncio.create_task(send_more())
            assert await _settled(reads) <= 10 + 2  # one message may be under way to either loop
            other = BatchClient(cluster)
            await other.send(get(1, b"b"))
            await other.receive(1)
            await client.receive(60)
            await sending
            assert all(entry.get.value == value for entry in client.answers.values())

    asyncio.run(scenario())


def test_bad_entries_are_refused_one_by_one_with_details() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            client = BatchClient(cluster)
            await client.send(
                put(1, b""),
                put(2, b"k" * 5000),
                put(3, b"k", b"v" * ((1 << 20) + 1)),
                kv_pb2.BatchRequest.Entry(tag=4),
                put(5, b"good"),
            )
            await client.receive(5)
            assert client.answers[5].HasField("put")
            for tag in (1, 2, 3, 4):
                assert client.answers[tag].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
                assert len(client.answers[tag].error.details) == 1
            assert "5000 bytes; the limit of a key is 4096" in client.answers[2].error.message
            assert len(cluster.leader().messages) == 1

    asyncio.run(scenario())


def test_stopping_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            leader = cluster.leader()
            leader.awake.clear()
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await until(lambda: len(leader.messages) > 0)
            stopping = asyncio.create_task(cluster.router.stop())
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Get(kv_pb2.GetRequest(key=b"a"), timeout=2)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "stopping" in str(refused.value.details())
            leader.awake.set()
            await client.receive(1)
            assert client.answers[1].HasField("put")
            assert not await client.receive_one()
            await stopping

    asyncio.run(scenario())


def test_stopping_does_not_wait_for_ever() -> None:
    async def scenario() -> None:
        async with running(groups=1, stop_seconds_max=0.2) as cluster:
            cluster.leader().awake.clear()
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await until(lambda: len(cluster.leader().messages) > 0)
            async with asyncio.timeout(3):
                await cluster.router.stop()

    asyncio.run(scenario())


def test_single_calls_are_bounded() -> None:
    async def scenario() -> None:
        async with running(groups=1, unary_calls_max=2) as cluster:
            cluster.leader().awake.clear()
            calls = [
                asyncio.ensure_future(cluster.kv.Get(kv_pb2.GetRequest(key=b"a"))) for _ in range(2)
            ]
            await until(lambda: cluster.router.gate.open == 2)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Get(kv_pb2.GetRequest(key=b"a"))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "limit is 2" in str(refused.value.details())
            cluster.leader().awake.set()
            await asyncio.gather(*calls)

    asyncio.run(scenario())


async def _settled(count: Callable[[], int]) -> int:
    """Wait until a count has stayed the same, above zero, for a while; return it."""
    last, unchanged = 0, 0
    while unchanged < 10:
        await asyncio.sleep(0.05)
        now = count()
        unchanged = unchanged + 1 if now == last and now else 0
        last = now
    return last
