"""Sets the time of a group back that is ahead of its machines' clocks: done by the leader (PROTOCOL 2.1)."""

from __future__ import annotations

import grpc

from overdb.internal.v1 import shard_pb2
from overdb.v1 import cluster_pb2
from overdb_router import refusals
from overdb_router.leader_calls import LeaderCalls, no_leader
from overdb_router.refusals import Refusal, Refused

_Failure = shard_pb2.Failure


class TimeRepair(LeaderCalls):
    """May be asked again: a time that is right already is left as it is."""

    async def run(self, group: int, seconds: float) -> cluster_pb2.RepairTimeResponse:
        """Raises Refused."""
        deadline = self._loop.time() + seconds
        while (leader := await self._leader(group, deadline)) is not None:
            replica = self._core.channels.replica(leader.address)
            try:
                answer = await replica.repair_time(group, self._remaining(deadline))
            except grpc.aio.AioRpcError:
                await self._search(group)
                continue
            if answer.HasField("error"):
                raise Refused(Refusal(answer.error.code, answer.error.message))
            if not answer.HasField("failure"):
                return cluster_pb2.RepairTimeResponse(
                    before_us=answer.before_us, after_us=answer.after_us
                )
            if answer.failure.reason == _Failure.REASON_OVERLOADED:
                raise Refused(
                    refusals.resource_exhausted(f"group {group}", "too much waits: retry later")
                )
            self._lost(group, leader, answer.failure)
            await self._search(group)
        raise Refused(no_leader(group))
