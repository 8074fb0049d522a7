"""Changes of the members of groups: checked here, carried out by the group's leader (PROTOCOL 3)."""

from __future__ import annotations

import asyncio

import grpc

from overdb.internal.v1 import shard_pb2
from overdb.v1 import cluster_pb2
from overdb_common.addresses import check_reachable_address
from overdb_router import refusals
from overdb_router.exchange import BACKOFF_SECONDS_MIN
from overdb_router.leader_calls import LeaderCalls, no_leader
from overdb_router.refusals import Refusal, Refused
from overdb_router.topology import Leader

ID_MAX = 2**63 - 1
_Failure = shard_pb2.Failure


class Members(LeaderCalls):
    """Asks leaders until one has answered. Every request may be sent again: what is done is not redone."""

    # --- what is asked ------------------------------------------------------------------------------

    async def add(self, request: cluster_pb2.AddMemberRequest, seconds: float) -> None:
        """Raises Refused, as all of these do."""
        self._check_id(request.id)
        self._check_address(request.address)
        self._check_elsewhere(request)
        learner = shard_pb2.AddLearner(id=request.id, address=request.address)
        change = shard_pb2.ChangeMembersRequest(group=request.group, add=learner)
        await self._change(change, seconds)

    async def promote(self, request: cluster_pb2.PromoteMemberRequest, seconds: float) -> None:
        self._check_id(request.id)
        promotion = shard_pb2.PromoteLearner(id=request.id)
        change = shard_pb2.ChangeMembersRequest(group=request.group, promote=promotion)
        await self._change(change, seconds)

    async def remove(self, request: cluster_pb2.RemoveMemberRequest, seconds: float) -> None:
        self._check_id(request.id)
        removal = shard_pb2.RemoveReplica(id=request.id, force=request.force)
        change = shard_pb2.ChangeMembersRequest(group=request.group, remove=removal)
        await self._change(change, seconds)

    async def transfer(self, request: cluster_pb2.TransferLeadershipRequest, seconds: float) -> int:
        """Return who leads now."""
        group, core = request.group, self._core
        deadline = self._loop.time() + seconds
        while (leader := await self._leader(group, deadline)) is not None:
            try:
                answer = await core.channels.replica(leader.address).transfer(
                    group, request.to, self._remaining(deadline)
                )
            except grpc.aio.AioRpcError:
                await self._search(group)
                continue
            if not answer.HasField("failure"):
                return await self._transferred(group, request.to, leader, answer.leader_id)
            if answer.failure.reason == _Failure.REASON_INVALID:
                raise Refused(Refusal(refusals.FAILED_PRECONDITION, answer.failure.message))
            self._lost(group, leader, answer.failure)
            await self._search(group)
        raise Refused(no_leader(group))

    async def _transferred(self, group: int, to: int, before: Leader, now: int) -> int:
        if now == to or (not to and now not in (0, before.replica_id)):
            await self._search(group)
            return now
        target = f"replica {to}" if to else "no other replica"
        message = (
            f"group {group}: {target} did not take over in time; replica {now or '?'} leads: retry"
        )
        raise Refused(Refusal(refusals.UNAVAILABLE, message))

    # --- what is checked ----------------------------------------------------------------------------

    def _check_id(self, replica_id: int) -> None:
        if not 1 <= replica_id <= ID_MAX:
            raise Refused(refusals.invalid("id", f"{replica_id} is not between 1 and {ID_MAX}"))

    def _check_address(self, address: str) -> None:
        try:
            check_reachable_address(address)
        except ValueError as error:
            raise Refused(refusals.invalid("address", str(error))) from None

    def _check_elsewhere(self, request: cluster_pb2.AddMemberRequest) -> None:
        """An id, and an address, belong to one group of the cluster."""
        for view in self._core.topology.groups.values():
            for member in view.members:
                if view.group == request.group:
                    continue
                if member.replica_id == request.id or member.address == request.address:
                    raise Refused(
                        Refusal(
                            refusals.FAILED_PRECONDITION,
                            f"replica {member.replica_id} at {member.address} is a member of group "
                            f"{view.group}: take another id and another address",
                        )
                    )

    # --- asking -------------------------------------------------------------------------------------

    async def _change(self, request: shard_pb2.ChangeMembersRequest, seconds: float) -> None:
        group, core = request.group, self._core
        deadline = self._loop.time() + seconds
        begun = False
        while (leader := await self._leader(group, deadline)) is not None:
            remaining = self._remaining(deadline)
            request.wait_ms = max(1, int(remaining * 900))
            try:
                answer = await core.channels.replica(leader.address).change_members(
                    request, remaining
                )
            except grpc.aio.AioRpcError:
                begun = True  # it may have been
                await self._search(group)
                continue
            if answer.HasField("error"):
                if answer.error.code != refusals.DEADLINE_EXCEEDED:
                    raise Refused(_refusal(group, answer))
                begun = True  # and not committed in the time that the replica was given
                await asyncio.sleep(BACKOFF_SECONDS_MIN)
            elif not answer.HasField("failure"):
                await self._search(group)  # so that the next question knows the new members
                return
            elif answer.failure.reason == _Failure.REASON_OVERLOADED:
                raise Refused(
                    refusals.resource_exhausted(f"group {group}", "too much waits: retry later")
                )
            else:
                self._lost(group, leader, answer.failure)
                await self._search(group)
        raise Refused(_unknown(group) if begun else no_leader(group))


def _refusal(group: int, answer: shard_pb2.ChangeMembersResponse) -> Refusal:
    message = f"group {group}: {answer.error.message}"
    return refusals.with_reason(answer.error.code, message, answer.reason, {"group": str(group)})


def _unknown(group: int) -> Refusal:
    return Refusal(
        refusals.DEADLINE_EXCEEDED,
        f"group {group}: the change was begun and is not known to be committed; retry, it is not made twice",
    )
