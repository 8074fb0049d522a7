"""What the router knows of the cluster: groups, members, leaders, slots. All of it is asked for.

Everything comes from ``Shard.Describe``: first of the seeds, then of each group's members. It is kept
fresh by a cheap poll of the leaders and by a search, at once, when a leader is lost or doubted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import grpc
import structlog

from overdb.internal.v1 import shard_pb2
from overdb_router.channels import Channels, Replica
from overdb_router.settings import RouterSettings
from overdb_router.slots import SlotMap

_log = structlog.get_logger()

# How often the seeds are asked while a group has not been heard of yet.
DISCOVERY_SECONDS = 0.25
# More groups than slots cannot be; an answer that says so is damaged.
GROUPS_MAX = 4096


class Leader(NamedTuple):
    """Who leads a group, as far as is known. A higher term is newer."""

    replica_id: int
    address: str
    term: int


class Member(NamedTuple):
    replica_id: int
    address: str
    voter: bool


class GroupView:
    """What is known of one group."""

    __slots__ = ("group", "heard_at", "leader", "lost", "members", "members_index", "reachable")

    def __init__(self, group: int) -> None:
        self.group = group
        self.members: tuple[Member, ...] = ()
        self.members_index = 0  # of the log entry that made them
        self.leader: Leader | None = None
        # The leader that was lost last: others go on naming it until the next one is elected.
        self.lost: Leader | None = None
        # Whether the leader itself has answered since it became known.
        self.reachable = False
        self.heard_at = 0.0  # seconds of the loop's clock


class Topology:
    """Learns and keeps the layout. ``on_change(group)`` is called after a group's leader changed or was
    lost, ``on_map()`` after slots changed hands or a group was heard of first."""

    def __init__(
        self,
        settings: RouterSettings,
        channels: Channels,
        on_change: Callable[[int], None],
        on_map: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._channels = channels
        self._on_change = on_change
        self._on_map = on_map
        self.groups: dict[int, GroupView] = {}
        self.slot_map = SlotMap()
        self.leader_changes = 0
        self.on_answer: Callable[[shard_pb2.DescribeResponse], None] = lambda _: None
        self._group_count = 0
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._loop = asyncio.get_running_loop()
        self._foreign: set[str] = set()
        self._used: set[str] = set()  # addresses at the poll before
        self._polling: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Begin to ask; return the task that goes on asking."""
        self._polling = asyncio.create_task(self._poll(), name="topology-poll")
        return self._polling

    async def close(self) -> None:
        tasks: list[asyncio.Task[bool] | asyncio.Task[None]] = list(self._asking.values())
        if self._polling is not None:
            tasks.append(self._polling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what is known --------------------------------------------------------------------------

    @property
    def discovered(self) -> bool:
        """Whether every group and the owner of every slot is known."""
        return self.slot_map.complete and 0 < self._group_count == len(self.groups)

    @property
    def serving(self) -> bool:
        """Whether every group has a leader that answers."""
        return self.discovered and all(view.reachable for view in self.groups.values())

    def leader_of(self, group: int) -> Leader | None:
        view = self.groups.get(group)
        return None if view is None else view.leader

    def leader_replica(self, group: int) -> Replica | None:
        """Return the channel to the group's leader, None while none is known."""
        leader = self.leader_of(group)
        return None if leader is None else self._channels.replica(leader.address)

    def addresses_of(self, group: int) -> list[str]:
        """Return where the members of a group are reached; the seeds, while none is known."""
        view = self.groups.get(group)
        if view is None or not view.members:
            return list(self._settings.seed_addresses())
        return [member.address for member in view.members]

    # --- what links and calls report ------------------------------------------------------------

    def lost(self, group: int, leader: Leader) -> None:
        """The leader does not answer, or says that it does not lead."""
        view = self.groups.get(group)
        known = None if view is None else view.leader
        if view is not None and known is not None and known.replica_id == leader.replica_id:
            view.lost = known
            view.leader = None
            was_reachable, view.reachable = view.reachable, False
            if was_reachable:
                _log.warning(
                    "leader_lost", group=group, replica=leader.replica_id, term=leader.term
                )
            self._on_change(group)

    def hinted(self, group: int, failure: shard_pb2.Failure) -> None:
        """A replica refused and named the leader that it follows. No term: taken only for a lost one."""
        view = self.groups.get(group)
        if view is None or view.leader is not None or not failure.leader_id:
            return
        address = failure.leader_address or self._address(view, failure.leader_id)
        term = 0 if view.lost is None else view.lost.term
        if address and (view.lost is None or view.lost.replica_id != failure.leader_id):
            self._follow(view, Leader(failure.leader_id, address, term), confirmed=False)

    def answered(self, group: int) -> None:
        """The leader that is followed has answered a request."""
        view = self.groups[group]
        view.heard_at = self._loop.time()
        if not view.reachable and view.leader is not None:
            self._follow(view, view.leader, confirmed=True)

    # --- asking ---------------------------------------------------------------------------------

    def ask_around(self, group: int) -> list[asyncio.Task[bool]]:
        """Ask all members of a group how they are, except those that still owe an answer.

        What they say is taken in as it comes. Each task returns whether its replica leads.
        """
        return [self._ask(address, group) for address in self.addresses_of(group)]

    async def search(self, group: int) -> None:
        """Ask all members; return when one says that it leads, or all have been heard. Never raises."""
        if not await _first_true(self.ask_around(group)):
            # All members may have been replaced since they were learned: the seeds may know.
            await _first_true([self._ask(a, group) for a in self._settings.seed_addresses()])

    async def refresh(self) -> None:
        """Ask every group again, for its slots."""
        await asyncio.gather(*(self.search(group) for group in list(self.groups)))

    async def _poll(self) -> None:
        while True:
            if not self.discovered:
                for address in self._settings.seed_addresses():
                    self._ask(address, 0)
            for group in list(self.groups):
                leader = self.leader_of(group)
                if leader is None or not self.groups[group].reachable:
                    self.ask_around(group)
                    for address in self._settings.seed_addresses():
                        self._ask(address, group)
                else:
                    self._ask(leader.address, group)
            await self._channels.forget_all_but(self._in_use())
            seconds = self._settings.poll_seconds
            await asyncio.sleep(seconds if self.serving else min(DISCOVERY_SECONDS, seconds))

    def _in_use(self) -> set[str]:
        """Addresses of everybody who is known, or was just now: links may still talk to them."""
        now = {*self._settings.seed_addresses(), *self._asking}
        for view in self.groups.values():
            now.update(member.address for member in view.members)
            now.update(leader.address for leader in (view.leader, view.lost) if leader is not None)
        before, self._used = self._used, now
        return before | now

    def _ask(self, address: str, group: int) -> asyncio.Task[bool]:
        task = self._asking.get(address)
        if task is None:
            task = asyncio.create_task(self._ask_now(address, group), name=f"describe-{address}")
            self._asking[address] = task
            task.add_done_callback(lambda _: self._asking.pop(address, None))
        return task

    async def _ask_now(self, address: str, group: int) -> bool:
        seconds_max = self._settings.describe_seconds_max
        try:
            answer = await self._channels.replica(address).describe(group, seconds_max)
        except grpc.aio.AioRpcError:
            self._silent(group, address)
            return False
        return self.learn(address, answer)

    def _silent(self, group: int, address: str) -> None:
        """No answer. A leader counts as reachable as long as it answers requests, if not this question."""
        view = self.groups.get(group)
        if view is None or view.leader is None or view.leader.address != address:
            return
        silent_seconds = self._loop.time() - view.heard_at
        if view.reachable and silent_seconds > self._settings.describe_seconds_max / 2:
            view.reachable = False
            _log.warning("leader_silent", group=group, replica=view.leader.replica_id)
            self._on_change(group)
            self.ask_around(group)

    # --- learning -------------------------------------------------------------------------------

    def learn(self, address: str, answer: shard_pb2.DescribeResponse) -> bool:
        """Take in what a replica says; return whether it says that it leads its group."""
        if answer.cluster != self._settings.cluster:
            self._refuse_foreign(address, answer)
            return False
        if not 0 < answer.groups <= GROUPS_MAX or answer.group >= answer.groups:
            return False
        if self._contradicts(address, answer):
            return False
        self._group_count = answer.groups
        self.on_answer(answer)
        view = self.groups.get(answer.group)
        is_new = view is None
        if view is None:
            view = self.groups[answer.group] = GroupView(answer.group)
        self._learn_members(view, answer)
        changed = self.slot_map.learn(answer.group, answer.epoch, answer.slots)
        if changed or is_new:
            self._on_map()
        leads = answer.role == "leader"
        if leads:
            own = self._address(view, answer.replica_id) or address
            leads = self._learn_leader(view, Leader(answer.replica_id, own, answer.term))
        elif view.leader is not None and view.leader.replica_id == answer.replica_id:
            self.lost(answer.group, view.leader)
        if not leads and answer.leader_id:
            self._learn_hint(view, answer)
        return leads

    def _contradicts(self, address: str, answer: shard_pb2.DescribeResponse) -> bool:
        """Whether nothing that it says may be used: it takes no part (it may be set to another number of
        groups, own other slots by that, or have an old directory; PROTOCOL 3.9, 3.10), or contradicts those
        that were heard before."""
        if answer.start_number and not answer.established:
            return True
        if answer.groups == self._group_count or not self._group_count:
            return False
        if address not in self._foreign:
            self._foreign.add(address)
            _log.error(
                "contradictory_groups",
                address=address,
                groups=answer.groups,
                known=self._group_count,
                remedy="correct OVERDB_GROUPS there",
            )
        return True

    def _learn_members(self, view: GroupView, answer: shard_pb2.DescribeResponse) -> None:
        members = tuple(Member(m.id, m.address, m.voter) for m in answer.members)
        # The leader's list counts; while none answers a newer one of a follower, which may be cut yet.
        newer = not view.members or (
            not view.reachable and answer.members_index > view.members_index
        )
        leads = answer.role == "leader" and (view.leader is None or answer.term >= view.leader.term)
        if members and (leads or newer):
            view.members = members
            view.members_index = answer.members_index

    def _learn_leader(self, view: GroupView, leader: Leader) -> bool:
        """A leader has answered; return whether it is believed. A deposed one may not know it yet."""
        newest = max(known.term for known in (view.leader, view.lost, leader) if known is not None)
        if newest > leader.term:
            return False
        view.heard_at = self._loop.time()
        self._follow(view, leader, confirmed=True)
        return True

    def _learn_hint(self, view: GroupView, answer: shard_pb2.DescribeResponse) -> None:
        """A follower names the leader of its term."""
        known = view.leader or view.lost
        address = self._address(view, answer.leader_id)
        if address and (known is None or answer.term > known.term):
            leader = Leader(answer.leader_id, address, answer.term)
            self._follow(view, leader, confirmed=False)

    def _follow(self, view: GroupView, leader: Leader, *, confirmed: bool) -> None:
        changed = view.leader != leader
        became_reachable = confirmed and not view.reachable
        if changed:
            self.leader_changes += 1
            view.leader = leader
        view.reachable = confirmed
        if became_reachable:
            _log.info(
                "leader_found",
                group=view.group,
                replica=leader.replica_id,
                address=leader.address,
                term=leader.term,
            )
        if changed or became_reachable:
            self._on_change(view.group)

    def _address(self, view: GroupView, replica_id: int) -> str:
        return next((m.address for m in view.members if m.replica_id == replica_id), "")

    def _refuse_foreign(self, address: str, answer: shard_pb2.DescribeResponse) -> None:
        if address not in self._foreign:
            self._foreign.add(address)
            _log.error(
                "foreign_cluster",
                address=address,
                cluster=answer.cluster,
                expected=self._settings.cluster,
                remedy="correct OVERDB_SEEDS or OVERDB_CLUSTER",
            )


async def _first_true(tasks: Sequence[asyncio.Task[bool]]) -> bool:
    """Return when one of the tasks has returned True or all are done; leave the others running."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(not task.cancelled() and task.result() for task in done):
            return True
    return False
