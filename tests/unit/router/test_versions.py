"""Short answers, to routers that understand them: versions of puts, contents of plain gets."""

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


def test_plain_gets_are_answered_by_contents() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            client = BatchClient(cluster)
            await client.send(put(0, b"a", b"one"), put(1, b"empty", b""))
            await client.receive(2)
            versions = [client.answers[tag].put.version for tag in (0, 1)]
            await client.send(get(2, b"a"), get(3, b"empty"), get(4, b"nothing"))
            await client.receive(5)
            found = [client.answers[tag].get for tag in (2, 3, 4)]
            assert [(g.found, g.value, g.version) for g in found] == [
                (True, b"one", versions[0]),
                (True, b"", versions[1]),
                (False, b"", 0),
            ]
            alone = await cluster.kv.Get(kv_pb2.GetRequest(key=b"a"))
            assert (alone.found, alone.value, alone.version) == (True, b"one", versions[0])
            assert not (await cluster.kv.Get(kv_pb2.GetRequest(key=b"nothing"))).found
            asked = [message.reads for message in cluster.leader().messages if message.reads.reads]
            assert all(reads.plain for reads in asked)

    asyncio.run(scenario())


def test_an_older_replica_answers_each_get_by_itself() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.leader().shortens = False
            client = BatchClient(cluster)
            await client.send(put(0, b"a"))
            await client.receive(1)
            await client.send(get(1, b"a"), get(2, b"nothing"))
            await client.receive(3)
            assert client.answers[1].get.value == b"v"
            assert not client.answers[2].get.found

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["a content too few", "a version too few"])
def test_contents_that_do_not_fit_are_no_answer(what: str) -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:

            def tamper(response: shard_pb2.ShardResponse) -> None:
                lost = (
                    response.contents if what == "a content too few" else response.content_versions
                )
                del lost[-1:]

            cluster.leader().tamper = tamper
            client = BatchClient(cluster)
            await client.send(get(0, b"a"), get(1, b"b"))
            await client.receive(2)
            assert {client.answers[tag].error.code for tag in (0, 1)} == {INTERNAL}

    asyncio.run(scenario())


def test_contents_are_no_answer_to_a_read_at_a_version() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            client = BatchClient(cluster)
            await client.send(put(0, b"a"))
            await client.receive(1)
            read = get(1, b"a")
            read.get.read.consistency = kv_pb2.CONSISTENCY_SNAPSHOT
            read.get.read.version = client.answers[0].put.version
            cluster.leader().tamper = _as_contents
            await client.send(read)
            await client.receive(2)
            assert client.answers[1].error.code == INTERNAL
            assert not cluster.leader().messages[-1].reads.plain

    asyncio.run(scenario())


def _as_contents(response: shard_pb2.ShardResponse) -> None:
    response.contents.extend(value.value for value in response.values)
    response.content_versions.extend(value.version for value in response.values)
    del response.values[:]
