"""grpc.health.v1, reflection and metrics, as operators and grpcurl see them."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import generate_latest

from overdb.v1 import kv_pb2
from tests.unit.router.fakes import BatchClient, FakeCluster, put, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def becomes(cluster: FakeCluster, service: str, status: int) -> None:
    """Wait until the health service says so."""
    stub = health_pb2_grpc.HealthStub(cluster.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
    async with asyncio.timeout(5):
        async for answer in watch:
            if answer.status == status:
                break
    watch.cancel()


def test_health_follows_each_group_and_the_whole() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            for name in ("", "overdb.v1.KV", "group-0", "group-1"):
                await becomes(cluster, name, SERVING)
            for replica in cluster.groups[1].replicas:
                await replica.kill()
            await becomes(cluster, "group-1", NOT_SERVING)
            await becomes(cluster, "", NOT_SERVING)
            await becomes(cluster, "overdb.v1.KV", NOT_SERVING)
            await becomes(cluster, "group-0", SERVING)
            await cluster.replicas[3].start()
            await becomes(cluster, "", SERVING)

    asyncio.run(scenario())


def test_a_leader_that_hangs_while_nothing_is_asked_is_noticed() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            cluster.leader(1).awake.clear()
            await becomes(cluster, "group-1", NOT_SERVING)
            cluster.leader(1).awake.set()
            await becomes(cluster, "group-1", SERVING)

    asyncio.run(scenario())


def test_a_group_that_does_not_exist_is_not_found() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            stub = health_pb2_grpc.HealthStub(cluster.channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Check(health_pb2.HealthCheckRequest(service="group-7"))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())


def test_reflection_lists_the_services() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            stub = reflection_pb2_grpc.ServerReflectionStub(cluster.channel)
            call = stub.ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert {"overdb.v1.KV", "overdb.v1.Cluster", "grpc.health.v1.Health"} <= names
            call.cancel()

    asyncio.run(scenario())


def test_metrics_count_requests_by_method_and_code() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            client = BatchClient(cluster)
            await client.send(*(put(n, b"k%d" % n) for n in range(5)), put(9, b""))
            await client.receive(6)
            await cluster.kv.Get(kv_pb2.GetRequest(key=b"a"))
            text = generate_latest(cluster.router.registry).decode()
            for line in (
                'overdb_router_requests_total{code="OK",method="Put"} 5.0',
                'overdb_router_requests_total{code="OK",method="Get"} 1.0',
                'overdb_router_requests_total{code="INVALID_ARGUMENT",method="Batch"} 1.0',
                "overdb_router_serving 1.0",
                "overdb_router_queue_bytes 0.0",
                'overdb_router_exchange_requests_sum{group="0"} 6.0',
            ):
                assert line in text

    asyncio.run(scenario())
