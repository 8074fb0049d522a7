"""A follower that is stopped until its leader has compacted entries that it lacks: only a snapshot helps it.

Nothing that the leader sends meanwhile may wait for it in a buffer, or it would catch up by that alone. So
its connections are closed first (``LinkFaults.closed``), then it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from overdb.internal.v1.shard_pb2 import DescribeResponse
from overdb_torture.clusters.base import NotCarriedOut
from overdb_torture.old_copies import described

LEADER_SECONDS_MAX = 10.0
COMPACTED_SECONDS_MAX = 25.0
CAUGHT_UP_SECONDS_MAX = 25.0
_POLL_SECONDS = 0.1


class Laggard:
    """One follower that does not run, as seen by the other replicas of its group."""

    def __init__(self, address: str, others: Mapping[int, str]) -> None:
        """``address`` is its own; ``others`` are those of the others, by node id."""
        self._address = address
        self._others = others
        self.last_index = 0  # it has no entry beyond this one

    async def begin(self) -> None:
        """Note how far its log reaches at most. It must not run any more. Raises NotCarriedOut."""
        self.last_index = (await self._leader()).last_index

    async def until_compacted(self) -> None:
        """Return when the leader's log begins beyond what it has. Raises NotCarriedOut."""
        deadline = _now() + COMPACTED_SECONDS_MAX
        while (leader := await self._leader()).snapshot_index <= self.last_index:
            if _now() > deadline:
                raise NotCarriedOut(
                    f"the leader's log still begins at entry {leader.snapshot_index}: a follower with "
                    f"{self.last_index} entries needs no snapshot"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def catches_up(self) -> bool:
        """Return whether it applies in time what its leader has applied now. It must run again."""
        goal = (await self._leader()).applied_index
        deadline = _now() + CAUGHT_UP_SECONDS_MAX
        while _now() < deadline:
            answer = await described(self._address)
            if answer is not None and answer.applied_index >= goal:
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _leader(self) -> DescribeResponse:
        """Ask the others who leads. Raises NotCarriedOut when nobody does for a while."""
        deadline = _now() + LEADER_SECONDS_MAX
        while _now() < deadline:
            answers = await asyncio.gather(*map(described, self._others.values()))
            leading = [one for one in answers if one is not None and one.role == "leader"]
            if leading:
                return max(leading, key=lambda one: one.term)
            await asyncio.sleep(_POLL_SECONDS)
        raise NotCarriedOut("the group of the follower that was stopped has no leader")


def _now() -> float:
    return asyncio.get_running_loop().time()
