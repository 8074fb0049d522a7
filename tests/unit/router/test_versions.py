"""A message of puts is answered by their versions alone, to routers that understand it."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from tests.unit.router.fakes import BatchClient, FakeReplica, get, put, running

INTERNAL = grpc.StatusCode.INTERNAL.value[0]


def shorten(replica: FakeReplica, lose: int = 0) -> None:
    """Have it answer by versions, without the last ``lose`` of them."""

    def tamper(response: shard_pb2.ShardResponse) -> None:
        versions = [result.put.version or 1 for result in response.results]
        response.versions.extend(versions[: len(versions) - lose])
        del response.results[:]

    replica.tamper = tamper


def test_each_put_gets_its_version() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            shorten(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a"), put(1, b"b"))
            await client.receive(2)
            versions = [client.answers[tag].put.version for tag in (0, 1)]
            assert 0 < versions[0] < versions[1]

    asyncio.run(scenario())


def test_every_message_of_a_stream_says_that_it_is_understood() -> None:
    """Reads too: what the last message said counts for all answers that are under way."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            client = BatchClient(cluster)
            await client.send(put(0, b"a"), get(1, b"a"))
            await client.receive(2)
            messages = cluster.leader().messages
            assert {bool(message.commands) for message in messages} == {True, False}
            assert all(message.compact for message in messages)

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["one too few", "a delete among them"])
def test_versions_that_do_not_fit_are_no_answer(what: str) -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            shorten(cluster.leader(), lose=int(what == "one too few"))
            client = BatchClient(cluster)
            second = put(1, b"b")
            if what == "a delete among them":
                second.delete.CopyFrom(kv_pb2.DeleteRequest(key=b"b"))
            await client.send(put(0, b"a"), second)
            await client.receive(2)
            assert {client.answers[tag].error.code for tag in (0, 1)} == {INTERNAL}

    asyncio.run(scenario())
