"""Raises the level of a group: the rules that its log is applied by (PROTOCOL 4).

Replicas that run programs of different releases share a group during a rolling upgrade. A rule of a newer
release may be applied only when no replica of any group runs a program that does not know it. The leader
finds that out by ``Shard.Describe``, then writes the level into its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_common.level import LEVEL
from overdb_node.transport.describing import Describer

_log = structlog.get_logger()

OLDER_ROUTER_TICKS = (
    100  # for which the level is not raised after a router with an older program was heard
)
ASK_TICKS = 5  # between two rounds of questions of a leader; half a second, at the default tick


@dataclass(frozen=True, slots=True)
class Replied:
    """What one replica reports.

    ``level_known``: the newest that its program knows; ``level``: the one in force in its group, as far as it
    has applied the log; ``members``: ids of its group by the entry at ``members_index``.
    """

    group: int
    replica_id: int
    level_known: int
    level: int
    members: frozenset[int]
    members_index: int


def common_level(
    replies: Iterable[Replied], group: int, members: Collection[int], groups: int
) -> int:
    """Return the newest level that ``group`` may be raised to; 0 when something is not known.

    Every member of this group must know the level, and every member of every other one of ``groups`` groups.
    A level that is in force anywhere proves the second for itself: it was raised when all replicas knew it.
    """
    by_group: dict[int, list[Replied]] = {}
    for reply in replies:
        by_group.setdefault(reply.group, []).append(reply)
    own = _least(members, by_group.get(group, ()))
    others = [known_in(by_group.get(other, ())) for other in range(groups) if other != group]
    in_force = max((reply.level for all_of in by_group.values() for reply in all_of), default=0)
    return min(own, max(min(others, default=own), in_force))


def known_in(replies: Sequence[Replied]) -> int:
    """Return the newest level that all members of another group know, going by its newest member list."""
    newest = max(replies, key=lambda reply: reply.members_index, default=None)
    return 0 if newest is None else _least(newest.members, replies)


def _least(members: Collection[int], replies: Iterable[Replied]) -> int:
    known = {reply.replica_id: reply.level_known for reply in replies}
    return min((known.get(member, 0) for member in members), default=0)


class LevelRaiser:
    """Asks all nodes while its replica leads a group whose level is older than the program.

    Args:
        group, groups: this group's number, and how many there are.
        describe_seconds_max: a node that has not answered by then is taken as down, and nothing is raised.
        addresses: where to ask: nodes of all groups, members of this one.
        members: ids of the newest configuration of this group, this replica's included.
        own: what this replica would reply.
        raise_level: called when the level may be raised to its argument.
    """

    def __init__(
        self,
        group: int,
        groups: int,
        describe_seconds_max: float,
        addresses: Callable[[], Iterable[str]],
        members: Callable[[], Collection[int]],
        own: Callable[[], Replied],
        raise_level: Callable[[int], None],
    ) -> None:
        self._group = group
        self._groups = groups
        self._addresses = addresses
        self._members = members
        self._own = own
        self._raise = raise_level
        self._describer = Describer(describe_seconds_max)
        self._learned: frozenset[str] = frozenset()  # addresses of members, from the last replies
        self._task: asyncio.Task[None] | None = None
        self._ticks = 0
        self._older_router_ticks = 0  # until the last one that was heard does not count any more
        self.waits_for = (
            ""  # why the level is not raised; empty when it is, or nothing was asked yet
        )

    def tick(self, level: int, *, leads: bool) -> None:
        """Called at every tick of the replica with the level in force."""
        self._older_router_ticks = max(0, self._older_router_ticks - 1)
        if not leads or level >= self._own().level_known:
            self.waits_for = ""
            self._ticks = 0
            return
        if self._older_router_ticks:
            self.waits_for = "a router runs an older program"
        elif self._ticks % ASK_TICKS == 0 and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._ask(level), name="level")
        self._ticks += 1

    def heard_older_router(self) -> None:
        """A router that decides transactions by older rules is in use (PROTOCOL 4.2)."""
        self._older_router_ticks = OLDER_ROUTER_TICKS

    async def _ask(self, level: int) -> None:
        addresses = sorted({*self._addresses(), *self._learned})
        answers = await self._describer.ask(addresses, self._group)
        self._learned = frozenset(m.address for answer in answers for m in answer.members)
        replies = [_replied(answer) for answer in answers]
        own = self._own()
        replies = [reply for reply in replies if reply.replica_id != own.replica_id]
        common = common_level([*replies, own], self._group, self._members(), self._groups)
        if common > level and not self._older_router_ticks:
            _log.info("level_raised", group=self._group, cluster_level=common)
            self._raise(common)
        else:
            self.waits_for = _missing([*replies, own], self._groups)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._describer.close()


def _replied(answer: shard_pb2.DescribeResponse) -> Replied:
    return Replied(
        answer.group,
        answer.replica_id,
        answer.level_known,
        answer.level,
        frozenset(member.id for member in answer.members),
        answer.members_index,
    )


def _missing(replies: Sequence[Replied], groups: int) -> str:
    """Name the replicas that hold a raise up, for an operator."""
    known = {reply.replica_id: reply.level_known for reply in replies}
    members = set().union(*(reply.members for reply in replies))
    old = [i for i in sorted(members) if known.get(i, LEVEL) < LEVEL]
    silent = [i for i in sorted(members) if i not in known]
    unheard = [g for g in range(groups) if all(reply.group != g for reply in replies)]
    parts = [
        f"replicas {_names(old)} run an older program" if old else "",
        f"replicas {_names(silent)} do not answer" if silent else "",
        f"groups {_names(unheard)} do not answer" if unheard else "",
    ]
    return "; ".join(filter(None, parts))


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
