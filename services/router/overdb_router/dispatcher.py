"""Which link each request goes to: by the slots of its keys, as the groups claim them now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

import structlog

from overdb.sharding import SLOTS
from overdb_router import refusals
from overdb_router.channels import Channels
from overdb_router.group_link import TICK_SECONDS, GroupLink
from overdb_router.operations import PARTS, Kind, Op
from overdb_router.refusals import Refusal
from overdb_router.settings import RouterSettings
from overdb_router.slots import UNKNOWN
from overdb_router.targets import AnyTarget, LeaderTarget
from overdb_router.topology import Topology

_log = structlog.get_logger()

# Between a refusal for a foreign slot and the next try, while groups do not agree on the slot yet.
REROUTE_SECONDS = 0.05


class Links(NamedTuple):
    """The two links to a group."""

    leader: GroupLink
    any: GroupLink


class Dispatcher:
    """Holds the links, and the requests whose group is not known yet.

    ``on_behind(op, group)`` is called for reads at a version that the group has not reached,
    ``on_several(op, groups)`` for transactions whose keys live in several groups.
    ``on_task(task)`` is given every background task, so that the failure of one is noticed.
    """

    def __init__(
        self,
        settings: RouterSettings,
        topology: Topology,
        channels: Channels,
        observe: Callable[[int, float, int], None],
        on_task: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._channels = channels
        self._observe = observe
        self._on_task = on_task
        self._loop = asyncio.get_running_loop()
        self.links: dict[int, Links] = {}
        # Indexed by slot; None while its group is not known. The same list for ever: callers keep it.
        self.by_slot: list[GroupLink | None] = [None] * SLOTS
        self._homeless: list[Op] = []
        self._homeless_bytes = 0
        self._ticking = False
        self._refreshing: asyncio.Task[None] | None = None
        self.on_behind: Callable[[Op, int], None] = lambda op, _: op.refuse(_no_snapshots())
        self.on_several: Callable[[Op, list[int]], None] = over_groups

    # --- requests -------------------------------------------------------------------------------

    def submit(self, op: Op) -> None:
        """Send a request to the group that owns its slots. Its sink is told, later, exactly once."""
        link = self.by_slot[op.slot]
        if op.slots:
            owners = {self.by_slot[slot] for slot in op.slots}
            if None in owners:
                link = None
            elif len(owners) > 1:
                self._over_groups(op, sorted(owner.group for owner in owners if owner))
                return
        if link is None:
            self._keep(op)
        elif op.stale:
            self.links[link.group].any.submit(op)
        else:
            link.submit(op)

    def _over_groups(self, op: Op, groups: list[int]) -> None:
        if op.kind is Kind.READ_SET:
            op.refuse(_moved_apart(groups))  # it was put together for one group
        else:
            self.on_several(op, groups)

    def wrong_group(self, op: Op, group: int) -> None:
        """A group refused the slot: learn the map anew, then try again.

        A part of a transaction stays with its group: the participants of an attempt are fixed.
        """
        if op.kind in PARTS:
            op.refuse(_moved(group))
        elif op.deadline <= self._loop.time():
            op.refuse(
                Refusal(
                    refusals.UNAVAILABLE,
                    f"group {group} gave the key's slot away and no other group has it yet; nothing "
                    "was done, retry",
                )
            )
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="refresh-slots")
            self._on_task(self._refreshing)
        if not op.done:
            self._refreshing.add_done_callback(lambda _: self.submit(op))

    def behind(self, op: Op, group: int) -> None:
        self.on_behind(op, group)

    async def _refresh(self) -> None:
        try:
            await self._topology.refresh()
            await asyncio.sleep(REROUTE_SECONDS)
        finally:
            self._refreshing = None

    # --- the map --------------------------------------------------------------------------------

    def map_changed(self) -> None:
        """Take over what the topology knows of groups and slots."""
        for group in self._topology.groups:
            if group not in self.links:
                self.links[group] = self._open(group)
        for slot, group in enumerate(self._topology.slot_map.groups):
            self.by_slot[slot] = None if group == UNKNOWN else self.links[group].leader
        homeless, self._homeless = self._homeless, []
        self._homeless_bytes = 0
        for op in homeless:
            if not op.done:
                self.submit(op)

    def leader_changed(self, group: int) -> None:
        if group in self.links:
            self.links[group].leader.leader_changed()

    def _open(self, group: int) -> Links:
        def link(targets: LeaderTarget | AnyTarget) -> GroupLink:
            opened = GroupLink(group, self._settings, targets, self._channels, self, self._observe)
            self._on_task(opened.task)
            return opened

        return Links(
            link(LeaderTarget(self._topology, group)), link(AnyTarget(self._topology, group))
        )

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
        for links in self.links.values():
            await links.leader.close()
            await links.any.close()
        for op in self._homeless:
            op.refuse(self._unknown_group(op))
        self._homeless.clear()

    # --- requests whose group is not known ----------------------------------------------------------

    def _keep(self, op: Op) -> None:
        if self._homeless_bytes + op.size > self._settings.queued_bytes_max:
            op.refuse(
                refusals.resource_exhausted(
                    "router",
                    f"{self._homeless_bytes} bytes of requests wait until the groups are known, the "
                    f"limit is {self._settings.queued_bytes_max}; retry later",
                )
            )
            return
        self._homeless.append(op)
        self._homeless_bytes += op.size
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        kept = []
        for op in self._homeless:
            if op.deadline <= now:
                op.refuse(self._unknown_group(op))
            if not op.done:
                kept.append(op)
        self._homeless = kept
        self._homeless_bytes = sum(op.size for op in kept)
        self._ticking = bool(kept)
        if kept:
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _unknown_group(self, op: Op) -> Refusal:
        slot = next(slot for slot in (*op.slots, op.slot) if self.by_slot[slot] is None)
        heard = ", ".join(str(group) for group in sorted(self.links)) or "none"
        return Refusal(
            refusals.UNAVAILABLE,
            f"no group is known to own slot {slot} (groups heard of: {heard}); nothing was done: check "
            f"that the nodes run and that OVERDB_SEEDS ({self._settings.seeds}) names some of each "
            "group, then retry",
        )


def over_groups(op: Op, groups: list[int]) -> None:
    """Refuse a transaction over several groups."""
    named = " and ".join(str(group) for group in groups)
    op.refuse(
        Refusal(
            refusals.UNIMPLEMENTED,
            f"keys live in groups {named}; a transaction over several groups is not supported: give "
            "keys that belong together the same {tag}, which puts them into one group",
        )
    )


def _moved(group: int) -> Refusal:
    return Refusal(
        refusals.UNAVAILABLE,
        f"group {group} gave a key's slot away; it did nothing of this transaction, retry",
    )


def _moved_apart(groups: list[int]) -> Refusal:
    named = " and ".join(str(group) for group in groups)
    return Refusal(
        refusals.UNAVAILABLE,
        f"keys that were read together moved to groups {named} meanwhile; a read changes nothing, retry",
    )


def _no_snapshots() -> Refusal:
    return Refusal(refusals.UNIMPLEMENTED, "reads at a version are not supported here")
