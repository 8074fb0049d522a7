"""Questions of an administrator to a group's leader: asked again until some leader has answered."""

from __future__ import annotations

import asyncio

from overdb.internal.v1 import shard_pb2
from overdb_router import refusals
from overdb_router.core import RouterCore
from overdb_router.exchange import BACKOFF_SECONDS_MIN
from overdb_router.refusals import Refusal
from overdb_router.topology import Leader

ATTEMPT_SECONDS_MAX = 3.0  # of one question to one replica, which may die under it


class LeaderCalls:
    """Finds the leader of a group, and another one when the first does not answer."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()

    async def _leader(self, group: int, deadline: float) -> Leader | None:
        """The leader as far as is known; waits for one until the deadline."""
        topology = self._core.topology
        while self._loop.time() < deadline:
            leader = topology.leader_of(group)
            if leader is not None:
                return leader
            await self._search(group)
        return None

    async def _search(self, group: int) -> None:
        await self._core.topology.search(group)
        await asyncio.sleep(BACKOFF_SECONDS_MIN)

    def _remaining(self, deadline: float) -> float:
        return min(ATTEMPT_SECONDS_MAX, max(0.01, deadline - self._loop.time()))

    def _lost(self, group: int, leader: Leader, failure: shard_pb2.Failure) -> None:
        self._core.topology.lost(group, leader)
        self._core.topology.hinted(group, failure)


def no_leader(group: int) -> Refusal:
    message = f"group {group} has no leader that answers; nothing was done, retry"
    return Refusal(refusals.UNAVAILABLE, message)
