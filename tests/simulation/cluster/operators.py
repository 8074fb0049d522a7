"""The people who run the cluster: they replace nodes, broken and sound ones, while all else goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import overdb
from overdb_node.machine.machine import TIME_WRONG_US_MIN
from overdb_simulation.cluster import Cluster, Node

RETRY_SECONDS = 0.4
MISTAKE_TRIES = 4


class Operators:
    """One for each group at a time: takes a node out, and brings it back with a new disk and a new id.

    ``done(node)`` is called when the new replica votes.
    """

    def __init__(self, cluster: Cluster, done: Callable[[Node], None]) -> None:
        self._cluster = cluster
        self._done = done
        self.busy: dict[int, Node] = {}  # by group: which node is being replaced
        self.off: set[Node] = set()  # nodes that nobody starts meanwhile
        self._hired = 0

    def replace(self, node: Node, groups: int = 0) -> bool:
        """Begin to replace a node; False where another one of its group is being replaced. ``groups``: what
        OVERDB_GROUPS is by mistake there, until that is said."""
        if node.group in self.busy:
            return False
        self.busy[node.group] = node
        self._hired += 1

        async def work(client: overdb.Client) -> None:
            await self._replace(client, node, groups)
            await client.close()

        self._cluster.client(f"operator{self._hired}", work)
        return True

    def repair_time(self, group: int, done: Callable[[], None]) -> None:
        """Set a group's time back, as soon as the clocks say so to its leader, unless it is not needed."""
        self._hired += 1

        def is_right() -> bool:
            leader, world = self._cluster.leader(group), self._cluster.world
            true_us = (world.wall_at_start_ns + int(world.loop.time() * 1e9)) // 1000
            replica = leader.replica if leader is not None else None
            return replica is not None and replica.machine.physical < true_us + TIME_WRONG_US_MIN

        async def work(client: overdb.Client) -> None:
            while True:
                try:
                    repaired = await client.repair_time(group)
                    self._cluster.world.note(f"group {group}", "repaired", after=repaired.after_us)
                    break
                except overdb.OverDBError as error:
                    if "is left as it is" in str(error) and is_right():
                        break
                    await asyncio.sleep(RETRY_SECONDS)
            await client.close()
            done()

        self._cluster.client(f"operator{self._hired}", work)

    async def _replace(self, client: overdb.Client, node: Node, groups: int) -> None:
        group, old, note = node.group, node.replica_id, self._cluster.world.note
        # Out first: it may be sound, and lead.
        await _until_done(lambda: client.remove_member(group, old))
        note(node.name, "removed", replica=old)
        self.off.add(node)
        node.kill()
        await asyncio.sleep(0.2)
        new = node.renew()
        if groups:
            await self._begin_by_mistake(client, node, groups)
        self._start(node)
        await _until_done(lambda: client.add_member(group, new, node.address))
        note(node.name, "added", replica=new)
        await _until_done(lambda: client.promote_member(group, new, wait=True, timeout=5.0))
        note(node.name, "promoted", replica=new)
        del self.busy[group]
        self._done(node)

    def _start(self, node: Node) -> None:
        self.off.discard(node)
        self._cluster.world.loop.call_soon(node.start, context=self._cluster.outside)

    async def _begin_by_mistake(self, client: overdb.Client, node: Node, groups: int) -> None:
        """Start it with another number of groups, and add it: it must never become a voter so."""
        node.groups = groups
        self._start(node)
        await asyncio.sleep(1.0)
        for _ in range(MISTAKE_TRIES):
            with contextlib.suppress(overdb.OverDBError):
                await client.add_member(node.group, node.replica_id, node.address)
                await client.promote_member(node.group, node.replica_id)
                raise AssertionError(f"{node.name} votes with OVERDB_GROUPS={groups}")
            await asyncio.sleep(RETRY_SECONDS)
        self._cluster.world.note(node.name, "corrected", problem=node.problem)
        self.off.add(node)
        node.groups = self._cluster.groups
        node.kill()
        node.wipe()


async def _until_done(change: Callable[[], Awaitable[Any]]) -> None:
    """Ask until it is done: every change may be asked for again."""
    while True:
        try:
            await change()
        except overdb.InvalidArgument:
            raise
        except overdb.OverDBError:
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return
