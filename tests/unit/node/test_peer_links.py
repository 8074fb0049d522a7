"""Outgoing links: how often a peer that refuses is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from overdb.internal.v1 import raft_pb2_grpc
from overdb_node.raft.messages import TimeoutNow
from overdb_node.raft.types import Member
from overdb_node.transport import peers
from overdb_node.transport.peers import Address, Peer


class Refuses(raft_pb2_grpc.RaftServicer):
    """Takes every stream, and ends it at the first packet."""

    def __init__(self) -> None:
        self.streams = 0

    async def Deliver(self, request_iterator: AsyncIterator[Any], context: Any) -> None:  # type: ignore[override]  # noqa: N802
        self.streams += 1
        async for _ in request_iterator:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "another disk")


def test_one_that_takes_the_stream_and_refuses_is_left_in_peace() -> None:
    """Again at growing intervals, and told once."""

    async def run() -> None:
        server, service = grpc.aio.server(), Refuses()
        raft_pb2_grpc.add_RaftServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with structlog.testing.capture_logs() as lines:
            member = Member(2, f"127.0.0.1:{port}")
            peer = Peer(Address("overdb", 0, 1), member, lambda: "127.0.0.1:1")
            began = asyncio.get_running_loop().time()
            while service.streams < 6:
                peer.send(TimeoutNow(1))
                await asyncio.sleep(0.01)
            seconds = asyncio.get_running_loop().time() - began
            await peer.close()
        await server.stop(0)
        # 50, 100, 200, 400 and 500 ms; with a backoff that begins anew each time it would be a third of it.
        assert seconds > 1.0
        assert sum(line["event"] == "peer_refused_us" for line in lines) == 1

    asyncio.run(run())
    assert peers.RECONNECT_SECONDS_MAX < peers.LIVED_SECONDS
