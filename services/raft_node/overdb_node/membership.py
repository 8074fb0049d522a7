"""A replica among the others: whom it knows, whether it takes part, changes of the members (PROTOCOL 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_common.addresses import check_reachable_address, split_addresses
from overdb_common.version import version
from overdb_node import codec
from overdb_node.founding import Founding, Verdict
from overdb_node.raft import errors
from overdb_node.raft.errors import MembershipRefused, NotCommittedInTerm, NotLeader, Overloaded
from overdb_node.raft.membership import AddLearner, Change, Promote, Remove
from overdb_node.raft.types import Configuration, Member
from overdb_node.storage import founding as disk
from overdb_node.strangers import Strangers
from overdb_node.transport.describing import Describer
from overdb_node.transport.raft_service import UNHEARD, Sender

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()

FOUNDING_SECONDS = 0.1  # between two rounds of questions of a fresh replica
LONELY_SECONDS = 2.0  # between two of one that hears of no leader
CHANGE_SECONDS_MAX = (
    5.0  # a change waits so long for its commit, unless it is asked with another limit
)
WAITING_LOGGED_ROUNDS = 30
_README = "see 'Changing members' in the README"

_FAILED_PRECONDITION, _ABORTED, _NOT_FOUND = 9, 10, 5
_CODES: dict[type[Exception], tuple[int, str]] = {
    errors.ChangeInProgress: (_ABORTED, "CHANGE_IN_PROGRESS"),
    errors.NotCommittedInTerm: (_ABORTED, "NOT_COMMITTED_IN_TERM"),
    errors.IdRetired: (_FAILED_PRECONDITION, "ID_RETIRED"),
    errors.AddressConflict: (_FAILED_PRECONDITION, "ADDRESS_CONFLICT"),
    errors.NoSuchMember: (_NOT_FOUND, "NO_SUCH_MEMBER"),
    errors.Damaged: (_FAILED_PRECONDITION, "DAMAGED"),
    errors.TooManyMembers: (_FAILED_PRECONDITION, "TOO_MANY_MEMBERS"),
    errors.NotCaughtUp: (_FAILED_PRECONDITION, "NOT_CAUGHT_UP"),
    errors.LastVoter: (_FAILED_PRECONDITION, "LAST_VOTER"),
    errors.QuorumAtRisk: (_FAILED_PRECONDITION, "QUORUM_AT_RISK"),
}


class Membership:
    """One for each replica. Until ``established`` nothing that others say is taken in, and time stands still
    for Raft: no vote, no campaign, no acknowledgement."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        settings = replica.settings
        found = disk.read(settings.data)
        self.incarnation = found.incarnation
        self.founders: dict[int, int] = dict(found.founders or {})
        self.established = found.founders is not None
        self.problem = ""
        self.removed = False
        self._linked: tuple[Configuration, Configuration] | None = None  # newest, newest committed
        self._disks: dict[int, int] = {}  # incarnations heard of, by id
        self._describer = Describer(settings.describe_seconds_max)
        self._strangers = Strangers(self._ask_members, self._meet)
        self._task: asyncio.Task[None] | None = None
        self._commits: list[tuple[int, int, asyncio.Future[bool]]] = []  # (index, term, waiter)

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        self.follow_configuration()
        self._task = asyncio.create_task(self._run(), name="membership")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, _, waiter in self._commits:
            if not waiter.done():
                waiter.set_result(False)
        await self._strangers.close()
        await self._describer.close()

    def follow_configuration(self) -> None:
        """Called at each turn: links are those of the newest configuration, waiters learn of commits."""
        raft = self._replica.raft
        newest = raft.log.configuration
        committed = raft.log.configuration_at(raft.commit_index)
        if (newest, committed) != self._linked:
            self._linked = newest, committed
            self._replica.peers.update(newest.members, committed.retired)
        if self._commits:
            self._commits = [one for one in self._commits if not self._is_decided(*one)]

    @property
    def own_address(self) -> str:
        """Where the others reach this replica; "" as long as it does not know that itself."""
        own = self._replica.settings.node_id
        member = self._replica.raft.log.configuration.member(own)
        known = self._replica.settings.founding_addresses()
        return known.get(own, member.address if member is not None else "")

    # --- who is heard -----------------------------------------------------------------------------

    def admit(self, packet: Sender) -> str:
        """Why packets of a sender do not count here; "" when they do (PROTOCOL 3.5, 4)."""
        raft, group = self._replica.raft, self._replica.settings.group
        sender, incarnation, address = packet.replica_id, packet.incarnation, packet.address
        if packet.level < (level := self._replica.machine.level):
            return (
                f"replica {sender} runs a program that knows level {packet.level}, group {group} is at "
                f"level {level}: start release {version()} or a newer one there"
            )
        if sender in raft.log.configuration_at(raft.commit_index).retired:
            return f"replica {sender} was removed from group {group}"
        member = raft.log.configuration.member(sender)
        noted = (member.incarnation if member is not None else 0) or self.founders.get(sender, 0)
        noted = noted or self._disks.get(sender, 0)
        if noted and noted != incarnation:
            return (
                f"replica {sender} of group {group} lost its disk (directory {incarnation:x} took the "
                f"place of {noted:x}): remove it and add a new id; {_README}"
            )
        if member is None:
            if not self._hears_stranger(sender, address):
                return UNHEARD
            if address:
                self._meet(sender, address)
        if incarnation:
            self._disks[sender] = incarnation
        return ""

    def _hears_stranger(self, sender: int, address: str) -> bool:
        """Whether one that is no member by the own log is heard (PROTOCOL 3.8)."""
        raft = self._replica.raft
        if raft.is_leader or raft.voters == [raft.replica_id]:
            return False  # every change of the members is made here
        # One that joins and was told of nobody has nobody to ask.
        return not self.known_addresses() or self._strangers.hears(sender, address)

    def _meet(self, stranger: int, address: str) -> None:
        """Have a link back to a stranger that is heard."""
        known = self._replica.settings.founding_addresses().get(stranger, address)
        if known:
            self._replica.peers.meet(stranger, known)

    # --- whether it takes part --------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._establish()
            while True:
                await asyncio.sleep(LONELY_SECONDS)
                if self._replica.raft.leader_id == 0 or not self._replica.raft.is_voter:
                    await self._look_whether_removed()
        except Exception as error:
            self._replica.fatal(f"membership: {type(error).__name__}: {error}")

    async def _establish(self) -> None:
        settings = self._replica.settings
        others = set() if settings.join else set(settings.founding_addresses()) - {settings.node_id}
        judge = Founding(settings.node_id, self.incarnation, others, joins=settings.join)
        rounds = 0
        while not self.established:
            finding = judge.judge(await self._ask_around())
            if settings.join and not self.known_addresses():
                finding = finding.__class__(Verdict.NEW, {})
            if finding.verdict is Verdict.LOST:
                self.problem = (
                    f"replica {settings.node_id} has lost its disk: {finding.reason}. It takes part in "
                    f"nothing. Remove id {settings.node_id} and join under a new id; {_README}"
                )
                _log.error("disk_lost", group=settings.group, problem=self.problem)
                return
            if finding.verdict is Verdict.NEW:
                await asyncio.to_thread(disk.write_founders, settings.data, finding.founders)
                self.founders = dict(finding.founders)
                self.established = True
                self.problem = ""
                return
            self.problem = (
                f"waits to be sure that the group is new: {finding.reason}"
                if finding.reason
                else ""
            )
            rounds += 1
            if self.problem and rounds % WAITING_LOGGED_ROUNDS == 0:
                _log.warning("founding_waits", group=settings.group, problem=self.problem)
            await asyncio.sleep(FOUNDING_SECONDS)

    async def _look_whether_removed(self) -> None:
        """One that hears of no leader may have been removed: the others do not write to it any more."""
        own, raft = self._replica.settings.node_id, self._replica.raft
        if self.removed or self.problem:
            return
        retired = set(raft.log.configuration_at(raft.commit_index).retired)
        if own not in retired:
            for answer in (await self._ask_around()).values():
                retired |= set(answer.retired)
        if own in retired:
            self.removed = True
            self.problem = (
                f"replica {own} was removed from group {self._replica.settings.group}: it takes part in "
                "nothing any more, stop it and delete its directory"
            )
            _log.error("removed", group=self._replica.settings.group, problem=self.problem)
            raft.removed()

    def known_addresses(self) -> list[str]:
        """Of all who may know of the group: members by settings and by the log, and seeds."""
        replica = self._replica
        settings = replica.settings
        own = settings.node_id
        addresses = [a for i, a in settings.founding_addresses().items() if i != own]
        members = replica.raft.log.members
        addresses += [replica.address_of(m) for m in members if m.replica_id != own]
        return list(dict.fromkeys([*addresses, *split_addresses(settings.seeds)]))

    async def _ask_around(self) -> dict[int, shard_pb2.DescribeResponse]:
        """What the other replicas of this group say of themselves, by id."""
        settings = self._replica.settings
        found = {}
        for answer in await self._describer.ask(self.known_addresses(), settings.group):
            same = answer.cluster == settings.cluster and answer.group == settings.group
            if same and answer.replica_id != settings.node_id:
                found[answer.replica_id] = answer
        return found

    async def _ask_members(self) -> dict[int, shard_pb2.DescribeResponse]:
        """As ``_ask_around``, but without replicas that take part in nothing: what they know is old."""
        answers = await self._ask_around()
        retired = {one for answer in answers.values() for one in answer.retired}
        return {
            i: answer for i, answer in answers.items() if answer.established and i not in retired
        }

    # --- changes ----------------------------------------------------------------------------------

    async def change(
        self, request: shard_pb2.ChangeMembersRequest
    ) -> shard_pb2.ChangeMembersResponse:
        """Carry out a change, and answer when it is committed; or refuse it."""
        replica = self._replica
        deadline = replica.loop.time() + (request.wait_ms / 1000 or CHANGE_SECONDS_MAX)
        try:
            change = self._read(request)
        except ValueError as error:
            return shard_pb2.ChangeMembersResponse(error=kv_pb2.Error(code=3, message=str(error)))
        if change.replica_id in replica.comparing.known_diverged and isinstance(change, Promote):
            wrong = f"the state of replica {change.replica_id} differs from the others': replace it"
            return _refused(errors.Damaged(wrong))
        if self._hands_over_before(change):
            return self._failure(shard_pb2.Failure.REASON_NOT_LEADER)
        while True:
            try:
                index = replica.raft.change_members(change, codec.encode_configuration)
                break
            except NotCommittedInTerm as refused:  # a matter of one round trip
                if replica.loop.time() > deadline:
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
            known = {
                **self._disks,
                **self.founders,
                self._replica.settings.node_id: self.incarnation,
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
