"""Asking the other members of the own group for their checksums: seldom, one call each."""

from __future__ import annotations

import grpc

from overdb.internal.v1 import shard_pb2
from overdb_common import grpc_options

_CALL_SECONDS_MAX = 2.0


class MemberCalls:
    """Unary calls to other replicas by address; a channel each, opened at the first call."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def checksums(
        self, address: str, request: shard_pb2.ChecksumsRequest
    ) -> shard_pb2.ChecksumsResponse | None:
        """What the replica at ``address`` answers; None when it does not, or does not know the question."""
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=grpc_options.channel_options())
            self._channels[address] = channel
        call: grpc.aio.UnaryUnaryMultiCallable[
            shard_pb2.ChecksumsRequest, shard_pb2.ChecksumsResponse
        ]
        call = channel.unary_unary(
            "/overdb.internal.v1.Shard/Checksums",
            request_serializer=shard_pb2.ChecksumsRequest.SerializeToString,
            response_deserializer=shard_pb2.ChecksumsResponse.FromString,
        )
        try:
            return await call(request, timeout=_CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError:
            return None

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
