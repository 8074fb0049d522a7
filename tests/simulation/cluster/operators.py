"""The people who run the cluster: they replace nodes, broken and sound ones, while all else goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import overdb
from overdb_simulation.cluster import Cluster, Node

RETRY_SECONDS = 0.4


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

    def replace(self, node: Node) -> bool:
        """Begin to replace a node; False where another one of its group is being replaced."""
        if node.group in self.busy:
            return False
        self.busy[node.group] = node
        self._hired += 1

        async def work(client: overdb.Client) -> None:
            await self._replace(client, node)
            await client.close()

        self._cluster.client(f"operator{self._hired}", work)
        return True

    async def _replace(self, client: overdb.Client, node: Node) -> None:
        group, old, note = node.group, node.replica_id, self._cluster.world.note
        # Out first: it may be sound, and lead.
        await _until_done(lambda: client.remove_member(group, old))
        note(node.name, "removed", replica=old)
        self.off.add(node)
        node.kill()
        await asyncio.sleep(0.2)
        new = node.renew()
        self.off.discard(node)
        self._cluster.world.loop.call_soon(node.start, context=self._cluster.outside)
        await _until_done(lambda: client.add_member(group, new, node.address))
        note(node.name, "added", replica=new)
        await _until_done(lambda: client.promote_member(group, new, wait=True, timeout=5.0))
        note(node.name, "promoted", replica=new)
        del self.busy[group]
        self._done(node)


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
