"""Leader leases on real processes and real clocks (PROTOCOL 1.3)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import grpc
import pytest

import overdb
from overdb.internal.v1 import shard_pb2, shard_pb2_grpc
from overdb_torture.links import Links
from tests.integration.cluster import (
    LocalCluster,
    Process,
    metric,
    observed,
    paused,
    wait_until,
)
from tests.integration.test_kills import in_thread

pytestmark = pytest.mark.processes
KEY = b"watched"


def read() -> shard_pb2.ShardRequest:
    return shard_pb2.ShardRequest(
        sequence=1, reads=shard_pb2.Reads(reads=[shard_pb2.Read(key=KEY)], plain=True)
    )


async def read_at(stub: shard_pb2_grpc.ShardAsyncStub) -> bytes | None:
    """What this replica says, straight from it; None if it refuses."""
    answer = await stub.Submit(read(), timeout=20)
    return None if answer.HasField("failure") else answer.contents[0]


def unread(node: Process) -> int:
    """Bytes that wait in the sockets of a node for it to read them."""
    own = f":{int(node.address.rpartition(':')[2]):04X}"
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(own))


async def started(cluster: LocalCluster, links: Links) -> None:
    """With every node reaching every other one over a link of its own."""
    where = await links.listen({})
    for node_id, node in cluster.nodes.items():
        node.environment["OVERDB_MEMBERS"] = ",".join(
            f"{other}={there.address if other == node_id else where[f'{node_id}-{other}']}"
            for other, there in cluster.nodes.items()
        )
    await in_thread(cluster.start)


def test_a_stopped_leader_wakes_up_and_does_not_answer_from_an_old_lease(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """FAULTS 24: reads are in its socket when it wakes up, and no word of the new leader's."""
    directory = tmp_path_factory.mktemp("leases")
    cluster = LocalCluster(directory, groups=1, settings={"OVERDB_READ_LEASES": "true"})
    observed(cluster)
    links = Links({node_id: node.address for node_id, node in cluster.nodes.items()})

    async def watch() -> None:
        assert all((directory / f"node-{i}" / "promise.json").exists() for i in cluster.nodes)
        async with overdb.Client(cluster.endpoints, timeout=20.0) as client:
            await client.put(KEY, b"old")
            leader = await in_thread(cluster.leader, 0)
            node = cluster.nodes[leader]
            ways = [link for name, link in links.links.items() if str(leader) in name.split("-")]
            async with grpc.aio.insecure_channel(node.address) as channel:
                stub = cast("shard_pb2_grpc.ShardAsyncStub", shard_pb2_grpc.ShardStub(channel))
                for _ in range(20):
                    assert await read_at(stub) == b"old"
                assert await in_thread(metric, node, "overdb_reads_by_lease") > 0
                with paused(node):
                    for way in ways:
                        way.open.clear()
                    await client.put(KEY, b"new")
                    reads = [asyncio.create_task(read_at(stub)) for _ in range(50)]
                    least = len(reads) * len(read().SerializeToString())
                    await in_thread(wait_until, lambda: unread(node) >= least, "they are there")
                assert set(await asyncio.gather(*reads)) == {None}
            for way in ways:
                way.open.set()
            found = await client.get(KEY)
            assert found is not None
            assert found.value == b"new"

    async def run() -> None:
        try:
            await started(cluster, links)
            await watch()
        finally:
            await links.close()

    try:
        asyncio.run(run())
    finally:
        cluster.stop()
