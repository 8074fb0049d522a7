"""Bytes that are no message end the call with INVALID_ARGUMENT and leave no traceback (FAULTS 87)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from overdb.internal.v1 import raft_pb2, raft_pb2_grpc
from overdb.v1 import kv_pb2, kv_pb2_grpc
from overdb_common.careful import CarefulServer, Unreadable, refuse

GARBAGE = b"\xff\xff\n\xff"


class KV(kv_pb2_grpc.KVServicer):
    """A method of each shape."""

    def __init__(self) -> None:
        self.ended = 0

    async def Put(self, request: kv_pb2.PutRequest, context: Any) -> kv_pb2.PutResponse:  # noqa: N802
        return kv_pb2.PutResponse(version=len(request.key))

    async def Scan(  # noqa: N802
        self,
        request: kv_pb2.ScanRequest,
        context: Any,
    ) -> AsyncIterator[kv_pb2.ScanResponse]:
        try:
            for _ in range(len(request.start)):
                yield kv_pb2.ScanResponse()
        finally:
            self.ended += 1

    async def Batch(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        while (request := await context.read()) is not grpc.aio.EOF:
            if isinstance(request, Unreadable):
                await refuse(request, context)
            await context.write(kv_pb2.BatchResponse())


class Raft(raft_pb2_grpc.RaftServicer):
    async def Deliver(  # noqa: N802
        self,
        request_iterator: AsyncIterator[raft_pb2.Packet],
        context: Any,
    ) -> AsyncIterator[raft_pb2.PacketReply]:
        async for _ in request_iterator:
            yield raft_pb2.PacketReply()


def run(scenario: Callable[[grpc.aio.Channel, KV], Awaitable[None]]) -> None:
    async def inside() -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        kv: Any = KV()  # type: ignore[abstract]
        careful: Any = CarefulServer(server)
        kv_pb2_grpc.add_KVServicer_to_server(kv, careful)
        raft_pb2_grpc.add_RaftServicer_to_server(Raft(), careful)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await scenario(channel, kv)
        await server.stop(None)

    asyncio.run(inside())


async def refused(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = caught.value.details() or ""
    assert details.startswith("the request cannot be read: ")
    assert "\n" not in details
    assert len(details) < 300


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what was logged with one. gRPC may deliver an event to an earlier test's loop: not that."""
    return [
        caplog.handler.format(record)
        for record in caplog.records
        if record.exc_info and "PollerCompletionQueue" not in record.getMessage()
    ]


@pytest.mark.parametrize("method", ["overdb.v1.KV/Put", "overdb.v1.KV/Scan"])
def test_a_call_of_one_request(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(channel: grpc.aio.Channel, _: KV) -> None:
        if method.endswith("Scan"):
            scan: Any = channel.unary_stream(f"/{method}")
            await refused(scan(GARBAGE).read())
        else:
            put: Any = channel.unary_unary(f"/{method}")
            await refused(put(GARBAGE))

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert tracebacks(caplog) == []


@pytest.mark.parametrize("method", ["overdb.v1.KV/Batch", "overdb.internal.v1.Raft/Deliver"])
def test_a_stream_whose_second_message_cannot_be_read(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(channel: grpc.aio.Channel, _: KV) -> None:
        call: Any = channel.stream_stream(f"/{method}")()
        await call.write(b"")
        assert await call.read() == b""
        await call.write(GARBAGE)
        await refused(call.read())

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert tracebacks(caplog) == []


def test_what_can_be_read_is_answered_as_before() -> None:
    async def scenario(channel: grpc.aio.Channel, kv: KV) -> None:
        stub: Any = kv_pb2_grpc.KVStub(channel)
        assert (await stub.Put(kv_pb2.PutRequest(key=b"abc"))).version == 3
        pages = [page async for page in stub.Scan(kv_pb2.ScanRequest(start=b"ab"))]
        assert len(pages) == 2
        assert kv.ended == 1

    run(scenario)
