"""Links to the members of the group, and changes of the members (PROTOCOL 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_common.addresses import check_reachable_address
from overdb_node import codec
from overdb_node.peer_admission import PeerAdmission
from overdb_node.raft import errors
from overdb_node.raft.errors import (
    ChangeInProgress,
    MembershipRefused,
    NotCommittedInTerm,
    NotLeader,
    Overloaded,
)
from overdb_node.raft.membership import AddLearner, Change, Promote, Remove
from overdb_node.raft.types import Configuration, Member

if TYPE_CHECKING:
    from overdb_node.replica import Replica

CHANGE_SECONDS_MAX = (
    5.0  # a change waits so long for its commit, unless it is asked with another limit
)

_FAILED_PRECONDITION, _ABORTED, _NOT_FOUND = 9, 10, 5
_CODES: dict[type[Exception], tuple[int, str]] = {
    errors.ChangeInProgress: (_ABORTED, "CHANGE_IN_PROGRESS"),
    errors.NotCommittedInTerm: (_ABORTED, "NOT_COMMITTED_IN_TERM"),
    errors.IdRetired: (_FAILED_PRECONDITION, "ID_RETIRED"),
    errors.AddressConflict: (_FAILED_PRECONDITION, "ADDRESS_CONFLICT"),
    errors.DifferentSettings: (_FAILED_PRECONDITION, "DIFFERENT_SETTINGS"),
    errors.NoSuchMember: (_NOT_FOUND, "NO_SUCH_MEMBER"),
    errors.Damaged: (_FAILED_PRECONDITION, "DAMAGED"),
    errors.TooManyMembers: (_FAILED_PRECONDITION, "TOO_MANY_MEMBERS"),
    errors.NotCaughtUp: (_FAILED_PRECONDITION, "NOT_CAUGHT_UP"),
    errors.LastVoter: (_FAILED_PRECONDITION, "LAST_VOTER"),
    errors.QuorumAtRisk: (_FAILED_PRECONDITION, "QUORUM_AT_RISK"),
}


class Membership:
    """One for each replica: its links, and what a leader does to change the members."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.admission = PeerAdmission(replica)
        self._linked: tuple[Configuration, Configuration] | None = None  # newest, newest committed
        self._commits: list[tuple[int, int, asyncio.Future[bool]]] = []  # (index, term, waiter)

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        self.follow_configuration()
        self.admission.start()

    async def close(self) -> None:
        await self.admission.close()
        for _, _, waiter in self._commits:
            if not waiter.done():
                waiter.set_result(False)

    def follow_configuration(self) -> None:
        """Called at each turn: links are those of the newest configuration, waiters learn of commits."""
        raft = self._replica.raft
        newest = raft.log.configuration
        committed = raft.log.configuration_at(raft.commit_index)
        if (newest, committed) != self._linked:
            self._linked = newest, committed
            self._replica.peers.update(newest.members, committed.retired)
            self.admission.starts.forget(committed.retired)
        if self._commits:
            self._commits = [one for one in self._commits if not self._is_decided(*one)]

    @property
    def own_address(self) -> str:
        """Where the others reach this replica; "" as long as it does not know that itself."""
        own = self._replica.settings.node_id
        member = self._replica.raft.log.configuration.member(own)
        known = self._replica.settings.founding_addresses()
        return known.get(own, member.address if member is not None else "")

    # --- changes ----------------------------------------------------------------------------------

    async def change(
        self, request: shard_pb2.ChangeMembersRequest
    ) -> shard_pb2.ChangeMembersResponse:
        """Carry out a change, and answer when it is committed; or refuse it."""
        replica = self._replica
        deadline = replica.loop.time() + (request.wait_ms / 1000 or CHANGE_SECONDS_MAX)
        try:
            change = self._read(request)
            await self._refuse_newcomer(change)
        except ValueError as error:
            return shard_pb2.ChangeMembersResponse(error=kv_pb2.Error(code=3, message=str(error)))
        except MembershipRefused as refused:
            return _refused(refused)
        if self._hands_over_before(change):
            return self._failure(shard_pb2.Failure.REASON_NOT_LEADER)
        while True:
            try:
                index = replica.raft.change_members(change, codec.encode_configuration)
                break
            except (NotCommittedInTerm, ChangeInProgress) as refused:
                # A new leader learns within a round trip which changes were committed before its term.
                is_new = not replica.raft.leading.committed_in_term
                if not is_new or replica.loop.time() > deadline:
                    return _refused(refused)
                await asyncio.sleep(replica.settings.tick_seconds)
            except MembershipRefused as refused:
                return _refused(refused)
            except Overloaded:
                return self._failure(shard_pb2.Failure.REASON_OVERLOADED)
            except NotLeader:
                return self._failure(shard_pb2.Failure.REASON_NOT_LEADER)
        replica.schedule_turn()
        committed = await self._committed(index, deadline)
        if committed is None:
            message = f"the change is entry {index} and not committed yet: ask again, it is not made twice"
            return shard_pb2.ChangeMembersResponse(error=kv_pb2.Error(code=4, message=message))
        if not committed:
            return self._failure(shard_pb2.Failure.REASON_NOT_LEADER)
        return shard_pb2.ChangeMembersResponse(
            index=index, members=members_of(replica, replica.raft.log.configuration.members)
        )

    async def _refuse_newcomer(self, change: Change) -> None:
        """Raises MembershipRefused for a replica whose state is wrong, or whose settings contradict this
        group's. One that does not answer may be added (and is not promoted)."""
        replica = self._replica
        member = replica.raft.log.configuration.member(change.replica_id)
        address = ""
        if isinstance(change, AddLearner):
            address = change.address
        elif isinstance(change, Promote):
            address = member.address if member is not None and not member.voter else ""
            if change.replica_id in replica.comparing.known_diverged:
                wrong = (
                    f"the state of replica {change.replica_id} differs from the others': replace it"
                )
                raise errors.Damaged(wrong)
        difference = (
            await self.admission.others.difference(change.replica_id, address) if address else ""
        )
        if difference:
            raise errors.DifferentSettings(difference)

    def _hands_over_before(self, change: Change) -> bool:
        """Have the next leader remove this one, if there is somebody to lead.

        A leader may remove itself. But if it fails between writing the entry and the commit, its log is
        the longest and it is no voter in it: it does not campaign (PROTOCOL 3.6), and a group that needs
        its vote, since another replica is down, elects nobody else either.
        """
        replica = self._replica
        if not isinstance(change, Remove) or change.replica_id != replica.settings.node_id:
            return False
        if not replica.raft.is_voter or len(replica.raft.voters) < 2:
            return False
        if replica.raft.is_leader and replica.raft.leading.transfer_to:
            return True  # an earlier copy of the request began it: this one waits for the next leader too
        try:
            replica.raft.membership.check(change)  # no new leader for a change that is refused
            replica.transfer_to(replica.best_follower())
        except (NotLeader, ValueError, MembershipRefused):
            return False
        return True

    def _read(self, request: shard_pb2.ChangeMembersRequest) -> Change:
        """Raises ValueError for an address that cannot be one."""
        kind = request.WhichOneof("change")
        if kind == "add":
            return AddLearner(request.add.id, check_reachable_address(request.add.address))
        if kind == "promote":
            admission = self.admission
            known = {
                **admission.disks,
                **admission.founders,
                self._replica.settings.node_id: admission.incarnation,
            }
            return Promote(request.promote.id, tuple(sorted(known.items())))
        return Remove(request.remove.id, request.remove.force)

    async def _committed(self, index: int, deadline: float) -> bool | None:
        """Whether the entry was committed; False: this replica lost its office before, None: not in time."""
        replica = self._replica
        term = replica.raft.log.term_at(index)
        assert term is not None
        waiter = replica.loop.create_future()
        if not self._is_decided(index, term, waiter):
            self._commits.append((index, term, waiter))
        try:
            async with asyncio.timeout_at(deadline):
                return bool(await waiter)
        except TimeoutError:
            return None

    def _is_decided(self, index: int, term: int, waiter: asyncio.Future[bool]) -> bool:
        raft = self._replica.raft
        if waiter.done():
            return True
        there = raft.log.term_at(index)
        if raft.commit_index >= index and there in (term, None):
            waiter.set_result(True)
        elif not raft.is_leader:
            waiter.set_result(False)
        return waiter.done()

    def _failure(
        self, reason: shard_pb2.Failure.Reason.ValueType
    ) -> shard_pb2.ChangeMembersResponse:
        return shard_pb2.ChangeMembersResponse(failure=self._replica.failure(reason))


def _refused(refused: MembershipRefused) -> shard_pb2.ChangeMembersResponse:
    code, reason = _CODES[type(refused)]
    error = kv_pb2.Error(code=code, message=str(refused))
    return shard_pb2.ChangeMembersResponse(error=error, reason=reason)


def members_of(replica: Replica, members: Iterable[Member]) -> list[shard_pb2.Member]:
    """Members as they are told to routers."""
    raft = replica.raft
    progress = raft.leading.progress
    return [
        shard_pb2.Member(
            id=member.replica_id,
            address=replica.address_of(member),
            voter=member.voter,
            match_index=(progress[member.replica_id].match if member.replica_id in progress else 0),
            incarnation=member.incarnation,
        )
        for member in members
    ]
