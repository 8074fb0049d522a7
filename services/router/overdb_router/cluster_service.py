"""overdb.v1.Cluster: how the cluster is laid out and how it does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import grpc

from overdb.internal.v1 import shard_pb2
from overdb.sharding import slot_of, tag_of
from overdb.v1 import cluster_pb2, cluster_pb2_grpc
from overdb_common.version import version
from overdb_router import refusals
from overdb_router.clock import name_clocks
from overdb_router.core import RouterCore
from overdb_router.exchange import BACKOFF_SECONDS_MIN
from overdb_router.gate import Gate
from overdb_router.members import Members
from overdb_router.refusals import Refusal, Refused
from overdb_router.slots import UNKNOWN
from overdb_router.time_repair import TimeRepair
from overdb_router.topology import GroupView, Member

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

_ROLES = {
    "leader": cluster_pb2.ROLE_LEADER,
    "follower": cluster_pb2.ROLE_FOLLOWER,
    "candidate": cluster_pb2.ROLE_CANDIDATE,
    "learner": cluster_pb2.ROLE_LEARNER,
}
# Answers of replicas by address; None for one that did not answer.
_Answers = Mapping[str, shard_pb2.DescribeResponse | None]

# Of a list of open transactions: a gRPC client receives 4 MiB, if nobody configured it.
TRANSACTIONS_BYTES_MAX = 3 << 20


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """Answers from what is asked of the replicas now (Status) or known already (the rest)."""

    def __init__(self, core: RouterCore, gate: Gate) -> None:
        self._core = core
        self._gate = gate
        self._members = Members(core)
        self._time_repair = TimeRepair(core)
        self._loop = asyncio.get_running_loop()

    async def Status(  # noqa: N802
        self,
        request: cluster_pb2.StatusRequest,  # noqa: ARG002
        context: Context,
    ) -> cluster_pb2.StatusResponse:
        await self._enter(context)
        try:
            core = self._core
            views = [core.topology.groups[group] for group in sorted(core.topology.groups)]
            addresses = list(
                dict.fromkeys(member.address for view in views for member in view.members)
            )
            answers = dict(
                zip(addresses, await asyncio.gather(*map(self._describe, addresses)), strict=True)
            )
            groups = [self._group_status(view, answers) for view in views]
            name_clocks(groups, [one for one in answers.values() if one is not None])
            return cluster_pb2.StatusResponse(
                cluster=core.settings.cluster,
                router_version=version(),
                groups=groups,
                serving=core.topology.serving,
                level=min((group.level for group in groups if group.leader_id), default=0),
                router_clock_offset_us=core.clock.offset_us,
                router_problem=core.clock.problem,
            )
        finally:
            self._leave("Status")

    async def Locate(  # noqa: N802
        self, request: cluster_pb2.LocateRequest, context: Context
    ) -> cluster_pb2.LocateResponse:
        await self._enter(context)
        try:
            core = self._core
            refusal = core.validation.key(request.key)
            if refusal is not None:
                await refusals.abort(context, refusal)
            slot = slot_of(request.key)
            group = core.topology.slot_map.groups[slot]
            if group == UNKNOWN:
                await refusals.abort(context, _unknown_slot(slot))
            leader = core.topology.leader_of(group)
            return cluster_pb2.LocateResponse(
                slot=slot,
                group=group,
                leader_id=leader.replica_id if leader else 0,
                leader_address=leader.address if leader else "",
                tag=tag_of(request.key),
            )
        finally:
            self._leave("Locate")

    async def Members(  # noqa: N802
        self, request: cluster_pb2.MembersRequest, context: Context
    ) -> cluster_pb2.MembersResponse:
        await self._enter(context)
        try:
            wanted = await self._wanted(request, context)
            groups = self._core.topology.groups
            return cluster_pb2.MembersResponse(groups=[_members(groups[g]) for g in wanted])
        finally:
            self._leave("Members")

    async def Transactions(  # noqa: N802
        self, request: cluster_pb2.TransactionsRequest, context: Context
    ) -> cluster_pb2.TransactionsResponse:
        await self._enter(context)
        try:
            wanted = await self._wanted(request, context)
            groups = await asyncio.gather(*map(self._transactions, wanted))
            for group in groups:
                _shorten(group, TRANSACTIONS_BYTES_MAX // len(groups))
            return cluster_pb2.TransactionsResponse(groups=groups)
        finally:
            self._leave("Transactions")

    # --- changes of the members -----------------------------------------------------------------

    async def AddMember(  # noqa: N802
        self, request: cluster_pb2.AddMemberRequest, context: Context
    ) -> cluster_pb2.AddMemberResponse:
        work = self._members.add(request, self._seconds(context))
        await self._administer("AddMember", request.group, work, context)
        return cluster_pb2.AddMemberResponse(members=self._group_members(request.group))

    async def PromoteMember(  # noqa: N802
        self, request: cluster_pb2.PromoteMemberRequest, context: Context
    ) -> cluster_pb2.PromoteMemberResponse:
        work = self._members.promote(request, self._seconds(context))
        await self._administer("PromoteMember", request.group, work, context)
        return cluster_pb2.PromoteMemberResponse(members=self._group_members(request.group))

    async def RemoveMember(  # noqa: N802
        self, request: cluster_pb2.RemoveMemberRequest, context: Context
    ) -> cluster_pb2.RemoveMemberResponse:
        work = self._members.remove(request, self._seconds(context))
        await self._administer("RemoveMember", request.group, work, context)
        return cluster_pb2.RemoveMemberResponse(members=self._group_members(request.group))

    async def TransferLeadership(  # noqa: N802
        self, request: cluster_pb2.TransferLeadershipRequest, context: Context
    ) -> cluster_pb2.TransferLeadershipResponse:
        work = self._members.transfer(request, self._seconds(context))
        leader = await self._administer("TransferLeadership", request.group, work, context)
        return cluster_pb2.TransferLeadershipResponse(leader_id=leader)

    async def RepairTime(  # noqa: N802
        self, request: cluster_pb2.RepairTimeRequest, context: Context
    ) -> cluster_pb2.RepairTimeResponse:
        work = self._time_repair.run(request.group, self._seconds(context))
        return await self._administer("RepairTime", request.group, work, context)

    async def _administer(
        self, method: str, group: int, work: Coroutine[Any, Any, T], context: Context
    ) -> T:
        """Let the work in, do it, and end the call as it is refused."""
        try:
            await self._enter(context)
        except BaseException:
            work.close()
            raise
        try:
            known = self._core.topology.groups
            if group not in known:
                work.close()
                await refusals.abort(context, _no_group(group, known))
            return await work
        except Refused as refused:
            await refusals.abort(context, refused.refusal)
        finally:
            self._leave(method)

    def _seconds(self, context: Context) -> float:
        """How long to work on a request: less than the caller waits, so that it hears why."""
        left = context.time_remaining()
        longest = self._core.settings.request_seconds_max
        return longest if left is None else min(longest, max(0.1, left - 0.2))

    def _group_members(self, group: int) -> cluster_pb2.GroupMembers:
        return _members(self._core.topology.groups[group])

    # --- helpers --------------------------------------------------------------------------------

    async def _wanted(
        self,
        request: cluster_pb2.MembersRequest | cluster_pb2.TransactionsRequest,
        context: Context,
    ) -> list[int]:
        """Return the groups that a request is about; end the call when there is no such group."""
        groups = self._core.topology.groups
        wanted = [request.group] if request.HasField("group") else sorted(groups)
        if any(group not in groups for group in wanted):
            await refusals.abort(context, _no_group(request.group, groups))
        return wanted

    async def _transactions(self, group: int) -> cluster_pb2.GroupTransactions:
        """Ask the group's leader what it has open, the next leader too when the first one is none."""
        core = self._core
        deadline = self._loop.time() + core.settings.describe_seconds_max
        while (remaining := deadline - self._loop.time()) > 0:
            leader = core.topology.leader_of(group)
            if leader is not None:
                replica = core.channels.replica(leader.address)
                try:
                    answer = await replica.open_transactions(group, remaining)
                except grpc.aio.AioRpcError:
                    pass
                else:
                    if not answer.HasField("failure"):
                        return cluster_pb2.GroupTransactions(
                            group=group,
                            reachable=True,
                            transactions=answer.transactions,
                            count=answer.count,
                        )
                    core.topology.lost(group, leader)
                    core.topology.hinted(group, answer.failure)
            await core.topology.search(group)
            await asyncio.sleep(BACKOFF_SECONDS_MIN)
        return cluster_pb2.GroupTransactions(group=group, reachable=False)

    async def _enter(self, context: Context) -> None:
        try:
            self._gate.enter()
        except Refused as refused:
            await refusals.abort(context, refused.refusal)

    def _leave(self, method: str) -> None:
        self._gate.leave()
        self._core.metrics.count(method, 0)

    async def _describe(self, address: str) -> shard_pb2.DescribeResponse | None:
        core = self._core
        replica = core.channels.replica(address)
        try:
            answer = await replica.describe(0, core.settings.describe_seconds_max)
        except grpc.aio.AioRpcError:
            return None
        core.topology.learn(address, answer)
        return answer

    def _group_status(self, view: GroupView, answers: _Answers) -> cluster_pb2.GroupStatus:
        topology = self._core.topology
        leader = view.leader
        heard = [answers.get(member.address) for member in view.members]
        known = [answer for answer in heard if answer is not None]
        clock = max((answer.clock for answer in known), default=0)
        waits = (answer.level_waits_for for answer in known if answer.role == "leader")
        return cluster_pb2.GroupStatus(
            group=view.group,
            leader_id=leader.replica_id if leader is not None and view.reachable else 0,
            term=leader.term if leader is not None else 0,
            version=clock,
            epoch=topology.slot_map.epoch(view.group),
            slots=topology.slot_map.owned(view.group),
            replicas=[
                _replica_status(member, answer)
                for member, answer in zip(view.members, heard, strict=True)
            ],
            level=max((answer.level for answer in known), default=0),
            level_waits_for=next(waits, ""),
        )


def _replica_status(
    member: Member, answer: shard_pb2.DescribeResponse | None
) -> cluster_pb2.ReplicaStatus:
    status = cluster_pb2.ReplicaStatus(id=member.replica_id, address=member.address)
    if answer is None:
        status.problem = "does not answer"
        return status
    if answer.replica_id != member.replica_id:
        status.problem = f"replica {answer.replica_id} answers at this address"
        return status
    status.reachable = True
    status.role = _ROLES.get(answer.role, cluster_pb2.ROLE_UNSPECIFIED)
    status.term = answer.term
    status.last_index = answer.last_index
    status.commit_index = answer.commit_index
    status.applied_index = answer.applied_index
    status.snapshot_index = answer.snapshot_index
    status.log_bytes = answer.log_bytes
    status.data_bytes = answer.data_bytes
    status.version = answer.version
    status.problem = answer.problem
    status.clock_offset_us = answer.clock_offset_us
    status.direct_address = answer.direct_address
    status.disk_free_bytes = answer.disk_free_bytes
    status.disk_reserve_bytes = answer.disk_reserve_bytes
    return status


def _no_group(group: int, groups: Mapping[int, GroupView]) -> Refusal:
    known = ", ".join(str(one) for one in sorted(groups)) or "none yet"
    message = f"there is no group {group}; known groups: {known}"
    return Refusal(refusals.NOT_FOUND, message)


def _shorten(group: cluster_pb2.GroupTransactions, bytes_max: int) -> None:
    """Leave out the youngest transactions beyond a size; ``count`` has them still."""
    size = 0
    for position, one in enumerate(group.transactions):
        size += one.ByteSize() + 8
        if size > bytes_max:
            del group.transactions[position:]
            return


def _members(view: GroupView) -> cluster_pb2.GroupMembers:
    leader_id = view.leader.replica_id if view.leader is not None else 0
    return cluster_pb2.GroupMembers(
        group=view.group,
        members=[
            cluster_pb2.ClusterMember(
                id=member.replica_id,
                address=member.address,
                voter=member.voter,
                leader=member.replica_id == leader_id,
            )
            for member in view.members
        ],
    )


def _unknown_slot(slot: int) -> Refusal:
    return Refusal(
        refusals.UNAVAILABLE,
        f"no group is known to own slot {slot} yet; check that the nodes run, then retry",
    )
