"""Whom a leader asks to finish a transaction: nodes of its own cluster alone (PROTOCOL 3.10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from overdb.internal.v1 import log_pb2, shard_pb2, shard_pb2_grpc
from overdb_node.transport.groups import Groups


class Node(shard_pb2_grpc.ShardServicer):
    """Says of itself what a test says, and counts what it was asked to do."""

    def __init__(self, cluster: str, groups: int) -> None:
        self.cluster, self.groups = cluster, groups
        self.described = 0
        self.submitted = 0

    async def Describe(self, request: shard_pb2.DescribeRequest, context: Any) -> Any:  # noqa: N802
        del context
        self.described += 1
        return shard_pb2.DescribeResponse(
            cluster=self.cluster, groups=self.groups, group=request.group
        )

    async def Submit(self, request: shard_pb2.ShardRequest, context: Any) -> Any:  # noqa: N802
        del context
        self.submitted += 1
        return shard_pb2.ShardResponse(results=[shard_pb2.Result()] * request.count)


def node(cluster: str, groups: int) -> Node:
    kind: Any = Node  # all that is not asked for here is left out
    made: Node = kind(cluster, groups)
    return made


@asynccontextmanager
async def serving(node: Node) -> AsyncIterator[str]:
    server = grpc.aio.server()
    shard_pb2_grpc.add_ShardServicer_to_server(node, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("cluster", "groups"), [("other", 2), ("mine", 3)], ids=["cluster", "groups"]
)
def test_a_seed_of_another_cluster_is_asked_for_nothing(cluster: str, groups: int) -> None:
    """What its group 1 says of a transaction would pass for this cluster's group 1."""

    async def run() -> None:
        foreign, own = node(cluster, groups), node("mine", 2)
        async with serving(foreign) as wrong, serving(own) as right:
            asked = Groups([wrong, right], lambda: ("mine", 2))
            results = await asked.submit(1, [log_pb2.Command()])
            assert results is not None
            assert (foreign.submitted, own.submitted) == (0, 1)
            await asked.close()

    asyncio.run(run())


def test_a_leader_that_answers_is_not_asked_again_who_it_is() -> None:
    async def run() -> None:
        there = node("mine", 2)
        async with serving(there) as address:
            asked = Groups([address], lambda: ("mine", 2))
            for _ in range(3):
                assert await asked.submit(1, [log_pb2.Command()]) is not None
            assert there.submitted == 3
            assert there.described == 2  # whose it is, and its members
            await asked.close()

    asyncio.run(run())
