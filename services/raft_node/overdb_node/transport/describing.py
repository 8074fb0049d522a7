"""Asks other nodes how they are: seldom, all at once, whoever does not answer in time is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from overdb.internal.v1 import shard_pb2
from overdb_common import grpc_options


class Describer:
    """Keeps one channel an address. ``ask`` never raises."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def ask(
        self,
        addresses: Sequence[str],
        group: int,
        introduction: shard_pb2.Introduction | None = None,
    ) -> list[shard_pb2.DescribeResponse]:
        """The answers that came in time, in the order of the addresses."""
        request = shard_pb2.DescribeRequest(group=group, introduction=introduction)
        for address in [known for known in self._channels if known not in addresses]:
            await self._channels.pop(address).close(None)
        answers = await asyncio.gather(*(self._ask(address, request) for address in addresses))
        return [answer for answer in answers if answer is not None]

    async def _ask(
        self, address: str, request: shard_pb2.DescribeRequest
    ) -> shard_pb2.DescribeResponse | None:
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=grpc_options.channel_options())
            self._channels[address] = channel
        describe: grpc.aio.UnaryUnaryMultiCallable[
            shard_pb2.DescribeRequest, shard_pb2.DescribeResponse
        ]
        describe = channel.unary_unary(
            "/overdb.internal.v1.Shard/Describe",
            request_serializer=shard_pb2.DescribeRequest.SerializeToString,
            response_deserializer=shard_pb2.DescribeResponse.FromString,
        )
        try:
            return await describe(request, timeout=self._seconds_max)
        except grpc.aio.AioRpcError:
            return None

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()
