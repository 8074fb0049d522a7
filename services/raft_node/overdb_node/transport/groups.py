"""Commands for the leaders of other groups: seldom, a few at a time, each batch one call."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_common import grpc_options
from overdb_common.level import LEVEL
from overdb_node.transport.describing import Describer

_CALL_SECONDS_MAX = 1.0
_CALLS_MAX = 8  # to find a leader


class Groups:
    """Finds the leader of each group by asking the seeds, and remembers it while it answers.

    Along with a new leader it learns who the members are: the seeds may have been replaced since.
    """

    def __init__(self, seeds: Sequence[str]) -> None:
        self._seeds = tuple(seeds)
        self._leaders: dict[int, str] = {}
        self._members: dict[int, tuple[str, ...]] = {}  # addresses, as the newest leader told them
        self._describer = Describer(_CALL_SECONDS_MAX)
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def submit(
        self, group: int, commands: Sequence[log_pb2.Command]
    ) -> list[shard_pb2.Result] | None:
        """The results, in order; None when no leader answered. Then the commands may be applied yet."""
        payload = log_pb2.Commands(commands=commands).SerializeToString()
        request = shard_pb2.ShardRequest(
            group=group, commands=payload, count=len(commands), level=LEVEL
        )
        known = self._leaders.pop(group, "")
        candidates = [known] if known else []
        asked: set[str] = set()
        others = [*self._members.get(group, ()), *self._seeds]
        calls_max = _CALLS_MAX + len(others)
        while (candidates or others) and len(asked) < calls_max:
            address = candidates.pop() if candidates else others.pop(0)
            if address in asked:
                continue
            asked.add(address)
            response = await self._call(address, request)
            if response is None:
                continue
            if not response.HasField("failure"):
                self._leaders[group] = address
                if address != known:
                    await self._learn_members(group, address)
                return list(response.results) if len(response.results) == len(commands) else None
            if response.failure.leader_address:
                candidates.append(response.failure.leader_address)
        return None

    async def _learn_members(self, group: int, leader: str) -> None:
        for answer in await self._describer.ask([leader], group):
            if answer.group == group and answer.members:
                self._members[group] = tuple(member.address for member in answer.members)

    async def _call(
        self, address: str, request: shard_pb2.ShardRequest
    ) -> shard_pb2.ShardResponse | None:
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=grpc_options.channel_options())
            self._channels[address] = channel
        submit: grpc.aio.UnaryUnaryMultiCallable[shard_pb2.ShardRequest, shard_pb2.ShardResponse]
        submit = channel.unary_unary(
            "/overdb.internal.v1.Shard/Submit",
            request_serializer=shard_pb2.ShardRequest.SerializeToString,
            response_deserializer=shard_pb2.ShardResponse.FromString,
        )
        try:
            return await submit(request, timeout=_CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError:
            return None

    async def close(self) -> None:
        await self._describer.close()
        for channel in self._channels.values():
            await channel.close(None)
