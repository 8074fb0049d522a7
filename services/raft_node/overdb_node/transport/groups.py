"""Commands for the leaders of other groups: seldom, a few at a time, each batch one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
import structlog

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_common import grpc_options
from overdb_common.level import LEVEL
from overdb_node.transport.describing import Describer

_log = structlog.get_logger()

_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_CALL_SECONDS_MAX = 1.0
_CALLS_MAX = 8  # to find a leader


class Groups:
    """Finds the leader of each group by asking the seeds, and remembers it while it answers.

    Along with a new leader it learns who the members are: the seeds may have been replaced since. A node of
    another cluster, or of one with another number of groups, is asked for nothing (PROTOCOL 3.10): an answer
    of its group 1 would pass for one of this cluster's.
    """

    def __init__(self, seeds: Sequence[str], own: Callable[[], tuple[str, int]]) -> None:
        """``own`` returns the name of this cluster and its number of groups."""
        self._seeds = tuple(seeds)
        self._own = own
        self._known: set[str] = set()  # addresses of nodes of this cluster, as long as they answer
        self._foreign: set[str] = set()
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
            if not await self._is_of_this_cluster(address, group):
                continue
            response = await self._call(address, request)
            if response is None:
                self._known.discard(address)  # who answers there next may be another one
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

    async def _is_of_this_cluster(self, address: str, group: int) -> bool:
        if address in self._known:
            return True
        describe: grpc.aio.UnaryUnaryMultiCallable[
            shard_pb2.DescribeRequest, shard_pb2.DescribeResponse
        ]
        describe = self._channel(address).unary_unary(
            "/overdb.internal.v1.Shard/Describe",
            request_serializer=shard_pb2.DescribeRequest.SerializeToString,
            response_deserializer=shard_pb2.DescribeResponse.FromString,
        )
        try:
            request = shard_pb2.DescribeRequest(group=group)
            answer = await describe(request, timeout=_CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            return (
                error.code() not in _SILENT
            )  # one that cannot say whose it is contradicts nothing
        cluster, groups = self._own()
        if (answer.cluster, answer.groups) == (cluster, groups):
            self._known.add(address)
            return True
        if address not in self._foreign:
            self._foreign.add(address)
            _log.error(
                "foreign_seed",
                address=address,
                cluster=answer.cluster,
                groups=answer.groups,
                expected=f"{cluster}, {groups} groups",
                remedy="correct OVERDB_SEEDS",
            )
        return False

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=grpc_options.channel_options())
            self._channels[address] = channel
        return channel

    async def _call(
        self, address: str, request: shard_pb2.ShardRequest
    ) -> shard_pb2.ShardResponse | None:
        submit: grpc.aio.UnaryUnaryMultiCallable[shard_pb2.ShardRequest, shard_pb2.ShardResponse]
        submit = self._channel(address).unary_unary(
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
