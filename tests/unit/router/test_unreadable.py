"""Every method of a router ends a call that it cannot read with INVALID_ARGUMENT (kv.proto; FAULTS 87)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

from overdb.v1 import cluster_pb2, kv_pb2
from tests.unit.router.fakes import BatchClient, put, running, until

METHODS = [
    method
    for module, name in ((kv_pb2, "KV"), (cluster_pb2, "Cluster"))
    for method in module.DESCRIPTOR.services_by_name[name].methods
]


def test_garbage_is_refused_by_every_method_and_the_router_serves_on() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            async with grpc.aio.insecure_channel(cluster.address) as channel:
                for method in METHODS:
                    path = f"/{method.containing_service.full_name}/{method.name}"
                    call: Any = channel.stream_stream(path)()
                    await call.write(b"\xff\xff\xff")
                    await call.done_writing()
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        assert await call.read() is grpc.aio.EOF
                    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT, path
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await client.receive(1)
            client.cancel()
            await until(lambda: cluster.router.gate.open == 0)

    asyncio.run(scenario())
