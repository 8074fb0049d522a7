"""Channels to replicas, one per address."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import cast

import grpc

from overdb.internal.v1 import shard_pb2, shard_pb2_grpc
from overdb_common import grpc_options

ExchangeCall = grpc.aio.StreamStreamCall[shard_pb2.ShardRequest, shard_pb2.ShardResponse]

# An address that answers nothing at all: a machine that is gone.
CONNECT_SECONDS_MAX = 1.0


class Replica:
    """The channel to one address. Connects when it is used, and again by itself after a loss."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=grpc_options.channel_options())
        # One class for both kinds of channel at run time; the types tell them apart.
        stub = shard_pb2_grpc.ShardStub(self._channel)
        self._stub = cast("shard_pb2_grpc.ShardAsyncStub", stub)

    async def connected(self) -> bool:
        """Return whether the connection stands; wait, CONNECT_SECONDS_MAX at most, if it is being made.

        What is written to a call of a connected channel may reach the replica; before that nothing
        can, which is what allows to say that a request was certainly not sent.
        """
        channel = self._channel
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                while True:
                    state = channel.get_state(try_to_connect=True)
                    if state is grpc.ChannelConnectivity.READY:
                        return True
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        return False  # refused just now; gRPC tries again by itself
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            return False

    def exchange(self) -> ExchangeCall:
        """Open the data path."""
        return self._stub.Exchange()

    async def describe(
        self, group: int, seconds_max: float, linearizable: bool = False
    ) -> shard_pb2.DescribeResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        request = shard_pb2.DescribeRequest(group=group, linearizable=linearizable)
        return await self._stub.Describe(request, timeout=seconds_max)

    async def scan_page(
        self, request: shard_pb2.ScanPageRequest, seconds_max: float
    ) -> shard_pb2.ScanPageResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        return await self._stub.ScanPage(request, timeout=seconds_max)

    async def open_transactions(
        self, group: int, seconds_max: float
    ) -> shard_pb2.OpenTransactionsResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        request = shard_pb2.OpenTransactionsRequest(group=group)
        return await self._stub.OpenTransactions(request, timeout=seconds_max)

    async def change_members(
        self, request: shard_pb2.ChangeMembersRequest, seconds_max: float
    ) -> shard_pb2.ChangeMembersResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        return await self._stub.ChangeMembers(request, timeout=seconds_max)

    async def transfer(self, group: int, to: int, seconds_max: float) -> shard_pb2.TransferResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        request = shard_pb2.TransferRequest(group=group, to=to)
        return await self._stub.Transfer(request, timeout=seconds_max)

    async def repair_time(self, group: int, seconds_max: float) -> shard_pb2.RepairTimeResponse:
        """Raises grpc.aio.AioRpcError when the replica does not answer in time."""
        request = shard_pb2.RepairTimeRequest(group=group)
        return await self._stub.RepairTime(request, timeout=seconds_max)

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

    async def forget_all_but(self, addresses: Collection[str]) -> None:
        """Close the channels to addresses that nobody has any more."""
        for address in [known for known in self._replicas if known not in addresses]:
            await self._replicas.pop(address).close()

    async def close(self) -> None:
        for replica in self._replicas.values():
            await replica.close()
        self._replicas.clear()
