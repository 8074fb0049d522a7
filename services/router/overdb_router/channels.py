"""Channels to replicas, one per address."""

from __future__ import annotations

import asyncio

import grpc
from overdb.internal.v1 import shard_pb2, shard_pb2_grpc
from overdb_common import grpc_options

# An address that answers nothing at all: a machine that is gone.
CONNECT_SECONDS_MAX = 1.0


class Replica:
    """The channel to one address. Connects when it is used, and again by itself after a loss."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=grpc_options.channel_options())
        self._stub = shard_pb2_grpc.ShardStub(self._channel)  # type: ignore[no-untyped-call]

    async def connected(self) -> bool:
        """Wait for the connection, CONNECT_SECONDS_MAX at most; return whether it stands.

        What is written to a call of a connected channel may reach the replica; before that nothing
        can, which is what allows to say that a request was certainly not sent.
        """
        channel = self._channel
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                state = channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    def exchange(
        self,
    ) -> grpc.aio.StreamStreamCall[shard_pb2.ShardRequest, shard_pb2.ShardResponse]:
        call: grpc.aio.StreamStreamCall[shard_pb2.ShardRequest, shard_pb2.ShardResponse]
        call = self._stub.Exchange()
        return call

    async def describe(
        self, group: int, seconds_max: float, linearizable: bool = False
    ) -> shard_pb2.DescribeResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        request = shard_pb2.DescribeRequest(group=group, linearizable=linearizable)
        answer: shard_pb2.DescribeResponse = await self._stub.Describe(request, timeout=seconds_max)
        return answer

    async def scan_page(
        self, request: shard_pb2.ScanPageRequest, seconds_max: float
    ) -> shard_pb2.ScanPageResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        answer: shard_pb2.ScanPageResponse = await self._stub.ScanPage(request, timeout=seconds_max)
        return answer

    async def close(self) -> None:
        await self._channel.close()


class Channels:
    """All channels of this router."""

    def __init__(self) -> None:
        self._replicas: dict[str, Replica] = {}

    def replica(self, address: str) -> Replica:
        """Return the channel to ``host:port``."""
        replica = self._replicas.get(address)
        if replica is None:
            replica = self._replicas[address] = Replica(address)
        return replica

    async def close(self) -> None:
        for replica in self._replicas.values():
            await replica.close()
        self._replicas.clear()
