"""Changes of the members of groups: what the clients' methods for it send and wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from overdb._unary import Attempts, ask
from overdb.errors import FailedPrecondition, InvalidArgument, OverDBError
from overdb.status import GroupMembers, TimeRepair, members_of_group
from overdb.v1 import cluster_pb2

if TYPE_CHECKING:
    from overdb._batch import Batcher

_ID_MAX = 2**63 - 1
_GROUP_MAX = 2**32 - 1
WAIT_SECONDS = 0.2  # between two tries to promote a learner that lags


class Administration:
    """The methods of :class:`overdb.Client` that change who is a member of a group.

    Every one of them may be called again: what is done is not done twice, and is answered the same. So where
    the outcome is not known (``Unavailable`` or ``DeadlineExceeded`` after it was sent), call it again.
    Raises also ``Aborted`` (another change is under way: try again), ``FailedPrecondition`` (the message
    says what is in the way), ``NotFound`` and ``InvalidArgument``.
    """

    def _ready(self) -> Batcher:
        raise NotImplementedError

    def _attempts(self, timeout: float | None) -> Attempts:
        raise NotImplementedError

    async def add_member(
        self, group: int, replica_id: int, address: str, *, timeout: float | None = None
    ) -> GroupMembers:
        """Take a new replica into a group, as a learner: it follows, and counts for nothing yet.

        ``replica_id`` is one that was never used in the cluster; ``address`` is where the other replicas
        and the routers reach it. It need not run yet; it is started with OVERDB_JOIN=true. Returns the
        members.
        """
        request = cluster_pb2.AddMemberRequest(
            group=_group(group), id=_id(replica_id), address=address
        )
        return await self._administer("AddMember", request, timeout)

    async def promote_member(
        self,
        group: int,
        replica_id: int,
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> GroupMembers:
        """Make a learner a voter. FailedPrecondition while it lags too far, unless ``wait``: then it is tried
        again until it has caught up or ``timeout`` is over. Returns the members."""
        request = cluster_pb2.PromoteMemberRequest(group=_group(group), id=_id(replica_id))
        loop = asyncio.get_running_loop()
        batcher = self._ready()
        attempts = self._attempts(timeout)
        deadline = loop.time() + attempts.remaining_seconds()
        while True:
            try:
                answer = await ask(
                    attempts,
                    batcher.unreachable,
                    lambda router: router.cluster.PromoteMember,
                    request,
                )
            except FailedPrecondition as error:
                lags = wait and reason_of(error) == "NOT_CAUGHT_UP"
                if not lags or loop.time() + WAIT_SECONDS >= deadline:
                    raise
                await asyncio.sleep(WAIT_SECONDS)
            else:
                return members_of_group(answer.members)

    async def remove_member(
        self, group: int, replica_id: int, *, force: bool = False, timeout: float | None = None
    ) -> GroupMembers:
        """Take a replica out of a group, for good: its id is never used again. Returns the members.

        FailedPrecondition where the voters that are left have no majority that answers, unless ``force``:
        the group then takes no writes until enough of them are back. FailedPrecondition for the last voter.
        """
        request = cluster_pb2.RemoveMemberRequest(
            group=_group(group), id=_id(replica_id), force=force
        )
        return await self._administer("RemoveMember", request, timeout)

    async def transfer_leadership(
        self, group: int, to: int = 0, *, timeout: float | None = None
    ) -> int:
        """Hand leadership of a group to a voter (0: the one that lags least); return who leads then.

        As before stopping a machine: no request fails, a few wait for the next leader. FailedPrecondition for
        a replica that is no voter, Unavailable when it did not take over in time.
        """
        batcher = self._ready()
        answer = await ask(
            self._attempts(timeout),
            batcher.unreachable,
            lambda router: router.cluster.TransferLeadership,
            cluster_pb2.TransferLeadershipRequest(group=_group(group), to=_id(to, least=0)),
        )
        return answer.leader_id

    async def repair_time(self, group: int, *, timeout: float | None = None) -> TimeRepair:
        """Set the time of a group back to its machines' clocks, after a majority of them was wrong.

        ``status()`` says when that is needed. Requests with new ids are refused for up to a minute
        afterwards. FailedPrecondition where the group's time is not ahead of the clocks.
        """
        batcher = self._ready()
        answer = await ask(
            self._attempts(timeout),
            batcher.unreachable,
            lambda router: router.cluster.RepairTime,
            cluster_pb2.RepairTimeRequest(group=_group(group)),
        )
        return TimeRepair(group, answer.before_us, answer.after_us)

    async def _administer(self, method: str, request: Any, timeout: float | None) -> GroupMembers:
        batcher = self._ready()
        answer: Any = await ask(
            self._attempts(timeout),
            batcher.unreachable,
            lambda router: getattr(router.cluster, method),
            request,
        )
        return members_of_group(answer.members)


def reason_of(error: OverDBError) -> str:
    """The reason in an error's ``google.rpc.ErrorInfo``; "" if it has none."""
    reasons = (getattr(detail, "reason", "") for detail in error.details)
    return next((str(reason) for reason in reasons if reason), "")


def _group(group: int) -> int:
    if not 0 <= group <= _GROUP_MAX:
        raise InvalidArgument(f"group: {group} is not between 0 and {_GROUP_MAX}; not sent")
    return group


def _id(replica_id: int, least: int = 1) -> int:
    if not least <= replica_id <= _ID_MAX:
        raise InvalidArgument(
            f"replica_id: {replica_id} is not between {least} and {_ID_MAX}; not sent"
        )
    return replica_id
