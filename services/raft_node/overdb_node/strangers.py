"""Replicas that write and are no members by this replica's log: heard when a member vouches for them.

A replica that lags, or joins, meets leaders and candidates that it does not know yet. Anybody else could
write to it too. So it asks, at addresses that it was told of before, whether such an id is a member there.
Until then its packets count as lost (PROTOCOL 3.8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from overdb.internal.v1 import shard_pb2

_log = structlog.get_logger()

ASK_SECONDS = 0.5  # between two rounds of questions about those who go on writing
# Rounds without an answer of anybody who knows a leader, after which everybody is heard: all members that
# this replica knows may have been replaced.
SILENT_ROUNDS_MAX = 10
STRANGERS_MAX = 32

Answers = Mapping[int, shard_pb2.DescribeResponse]
Ask = Callable[[], Awaitable[Answers]]


class Strangers:
    """``ask`` returns what replicas of this group say at known addresses, by their ids.
    ``on_known(id, address)`` is called when one is heard from now on."""

    def __init__(self, ask: Ask, on_known: Callable[[int, str], None]) -> None:
        self._ask = ask
        self._on_known = on_known
        self._waiting: dict[
            int, str
        ] = {}  # ids that wrote since the last round -> address, if one was named
        self._addresses: dict[
            int, str
        ] = {}  # a packet names it at the beginning of its stream alone
        self._heard: dict[int, None] = {}
        self._reported: set[int] = set()
        self._silent_rounds = 0
        self._task: asyncio.Task[None] | None = None

    def hears(self, replica_id: int, address: str) -> bool:
        """Whether packets of an id that is no member here count; if it is not known, have it asked."""
        if replica_id in self._heard:
            return True
        if address and len(self._addresses) < STRANGERS_MAX:
            self._addresses[replica_id] = address
        if len(self._waiting) < STRANGERS_MAX:
            self._waiting[replica_id] = ""
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._run(), name="strangers")
        return False

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            answers = await self._ask()
            asked, self._waiting = self._waiting, {}
            if any(answer.leader_id for answer in answers.values()):
                self._silent_rounds = 0
            else:
                self._silent_rounds += 1
            for replica_id in asked:
                if vouched(replica_id, answers) or self._silent_rounds >= SILENT_ROUNDS_MAX:
                    self._hear(replica_id)
                elif replica_id not in self._reported and len(self._reported) < STRANGERS_MAX:
                    self._reported.add(replica_id)
                    _log.warning(
                        "stranger_not_heard", replica=replica_id, members_asked=sorted(answers)
                    )
            await asyncio.sleep(ASK_SECONDS)

    def _hear(self, replica_id: int) -> None:
        while len(self._heard) >= STRANGERS_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[replica_id] = None
        self._on_known(replica_id, self._addresses.pop(replica_id, ""))


def vouched(replica_id: int, answers: Answers) -> bool:
    """Whether somebody who was asked is this replica, or has it among the members."""
    if replica_id in answers:
        return True
    return any(member.id == replica_id for answer in answers.values() for member in answer.members)
