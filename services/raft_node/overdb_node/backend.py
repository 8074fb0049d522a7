"""What a replica answers to routers and direct clients: data path, pages, descriptions, transfers."""

from __future__ import annotations

import asyncio

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_common.outcome import COUNTING_LEVEL
from overdb_common.version import version as program_version
from overdb_node import admission, codec, transaction_codec
from overdb_node.machine.machine import Machine
from overdb_node.machine.types import TransactionId
from overdb_node.membership import members_of
from overdb_node.raft.errors import NotLeader
from overdb_node.raft.output import Role
from overdb_node.replica import Replica
from overdb_node.timekeeping import wall_us
from overdb_node.transport.shard_service import Answers, OneAnswer

_log = structlog.get_logger()
_Reason = shard_pb2.Failure


class ReplicaBackend:
    """Implements ``transport.shard_service.Backend`` on one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._group = replica.settings.group

    # --- the data path --------------------------------------------------------------------------

    def exchange(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        replica = self._replica
        answers.compact = request.compact
        if request.group != self._group:
            self._refuse_group(request, answers)
            return
        try:
            if request.commands:
                self._propose(request, answers)
            else:
                admission.of_reads(request.reads)
                replica.exchange_reads(request, answers)
        except admission.Refused as refused:
            replica.refuse(
                request.sequence, answers, _Reason.REASON_INVALID, f"group {self._group}: {refused}"
            )

    def _propose(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        """Raises admission.Refused."""
        replica = self._replica
        commands, taken_out = admission.of_router(request, replica.machine.clock)
        if taken_out:
            versions = [outcome.version for outcome in taken_out]
            _log.error(
                "outcomes_refused",
                group=self._group,
                count=len(versions),
                largest_version=max(versions),
                clock=replica.machine.clock,
                remedy="the participants are asked; are the clocks of all nodes right?",
            )
            replica.finisher.hurry(
                TransactionId(outcome.id.client_id, outcome.id.request_number)
                for outcome in taken_out
            )
        replica.look_for_older_router(request)
        if request.level < COUNTING_LEVEL <= replica.machine.level and codec.takes_part(commands):
            self._refuse_older_router(request, answers)
        elif replica.raft.serves and (refusal := replica.refuse_for_disk(commands)):
            self._refuse_for_disk(request.sequence, answers, commands, refusal)
        else:
            replica.timekeeper.worked()
            replica.propose(commands, request.sequence, answers)

    def _refuse_for_disk(
        self, sequence: int, answers: Answers, commands: bytes, refusal: str
    ) -> None:
        """Refuse commands; answer those of which an earlier copy has run (PROTOCOL 1.4).

        A sender in doubt repeats them under their ids, and the disk may have filled up meanwhile.
        """
        replica = self._replica
        response = shard_pb2.ShardResponse(sequence=sequence)
        if replica.is_readable:
            for position, command in enumerate(codec.decode_commands(commands)):
                if (result := replica.machine.stored_answer(command)) is not None:
                    codec.fill_result(response.late.add(position=position).result, result)
        replica.send_failure(response, answers, replica.failure(_Reason.REASON_DISK_FULL, refusal))

    def _refuse_older_router(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        """It would decide by the rules of its own release, and another decider by others (PROTOCOL 4)."""
        self._replica.refuse(
            request.sequence,
            answers,
            _Reason.REASON_INVALID,
            f"this router is older than the cluster, which has level {self._replica.machine.level}: start "
            f"release {program_version()} or a newer one there. Nothing was done by this copy",
        )

    def _refuse_group(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        self._replica.refuse(
            request.sequence,
            answers,
            _Reason.REASON_WRONG_GROUP_ID,
            self._group_difference(request.group),
        )

    def _group_difference(self, group: int) -> str:
        return f"this replica is of group {self._group}, not of group {group}"

    async def _confirm(self) -> bool:
        """Wait until a quorum has confirmed that this replica leads, and it has applied all before."""
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def complete(value: bool) -> None:
            if not confirmed.done():
                confirmed.set_result(value)

        self._replica.read(complete)
        return await confirmed and self._replica.is_readable

    # --- scans ----------------------------------------------------------------------------------

    async def scan_page(self, request: shard_pb2.ScanPageRequest) -> shard_pb2.ScanPageResponse:
        """One page at a fixed version, from the leader; or at the clock of any replica, if stale."""
        replica = self._replica
        if request.group != self._group:
            failure = replica.failure(
                _Reason.REASON_WRONG_GROUP_ID, self._group_difference(request.group)
            )
            return shard_pb2.ScanPageResponse(failure=failure)
        if not request.stale and not await self._confirm():
            return shard_pb2.ScanPageResponse(failure=replica.failure(_Reason.REASON_NOT_LEADER))
        if replica.failed or not replica.is_readable:
            return shard_pb2.ScanPageResponse(failure=replica.failure(_Reason.REASON_NOT_LEADER))
        machine = replica.machine
        version = request.version or machine.clock
        refusal = machine.check_version(version)
        if refusal is not None:
            return codec.scan_refusal(refusal)
        limits = replica.settings
        if not request.stale:
            while _holds_up(replica.machine, request, version):
                await replica.blocked_reads.next_release()
                if not replica.raft.serves or not replica.is_readable or replica.failed:
                    failure = replica.failure(_Reason.REASON_NOT_LEADER)
                    return shard_pb2.ScanPageResponse(failure=failure)
            refusal = replica.machine.check_version(version)  # it may have waited for long
            if refusal is not None:
                return codec.scan_refusal(refusal)
        page = replica.storage.data.scan(
            request.start,
            request.end,
            reverse=request.reverse,
            at=version,
            keys_only=request.keys_only,
            max_items=min(request.max_items or limits.scan_items_max, limits.scan_items_max),
            max_bytes=min(
                request.max_bytes or limits.scan_page_bytes_max, limits.scan_page_bytes_max
            ),
        )
        return codec.scan_page(page, version)

    # --- transactions -------------------------------------------------------------------------------

    async def open_transactions(
        self, request: shard_pb2.OpenTransactionsRequest
    ) -> shard_pb2.OpenTransactionsResponse:
        replica = self._replica
        if request.group != self._group:
            failure = replica.failure(
                _Reason.REASON_WRONG_GROUP_ID, self._group_difference(request.group)
            )
        elif not await self._confirm():
            failure = replica.failure(_Reason.REASON_NOT_LEADER)
        else:
            return transaction_codec.open_transactions(replica.machine)
        return shard_pb2.OpenTransactionsResponse(failure=failure)

    # --- questions --------------------------------------------------------------------------------

    async def describe(self, request: shard_pb2.DescribeRequest) -> shard_pb2.DescribeResponse:
        replica = self._replica
        failure: shard_pb2.Failure | None = None
        peers, outdated = replica.admission, ""
        if request.HasField("introduction"):
            outdated = await peers.introduced(request.introduction)
        starts = [
            shard_pb2.Start(id=i, start_number=start.number, start_id=start.id)
            for i, start in peers.starts.heard.items()
        ]
        if request.linearizable and not (await self._confirm() and await replica.refresh_clock()):
            failure = replica.failure(_Reason.REASON_NOT_LEADER)
        raft, machine, settings = replica.raft, replica.machine, replica.settings
        role = "candidate" if raft.role is Role.PRE_CANDIDATE else raft.role.value
        if raft.role is Role.FOLLOWER and not raft.is_voter:
            role = "learner"
        return shard_pb2.DescribeResponse(
            cluster=settings.cluster,
            group=settings.group,
            groups=settings.groups,
            replica_id=settings.node_id,
            leader_id=raft.leader_id,
            term=raft.term,
            role=role,
            last_index=raft.log.last_index,
            durable_index=raft.durable,
            commit_index=raft.commit_index,
            applied_index=raft.applied,
            snapshot_index=raft.log.first_index,
            clock=machine.clock,
            epoch=machine.epoch,
            slots=machine.slots,
            members=members_of(replica, raft.log.members),
            members_index=raft.log.configuration_index,
            retired=raft.log.configuration_at(raft.commit_index).retired,
            level=machine.level,
            level_known=replica.level_known,
            level_waits_for=replica.level_waits_for,
            incarnation=peers.incarnation,
            established=peers.founded and not peers.starts.outdated,
            founders=peers.founders,
            start_number=peers.starts.own.number,
            start_id=peers.starts.own.id,
            starts=starts,
            outdated=outdated,
            log_bytes=replica.storage.log_bytes,
            data_bytes=replica.storage.data_bytes,
            disk_free_bytes=replica.disk.free_bytes,
            disk_reserve_bytes=replica.disk.reserve_bytes,
            version=program_version(),
            failure=failure,
            problem=replica.problem,
            direct_address=replica.direct_address,
            clock_offset_us=replica.timekeeper.offset_us,
            wall_us=wall_us(),
            physical=machine.physical,
        )

    async def change_members(
        self, request: shard_pb2.ChangeMembersRequest
    ) -> shard_pb2.ChangeMembersResponse:
        replica = self._replica
        if request.group != self._group:
            failure = replica.failure(
                _Reason.REASON_WRONG_GROUP_ID, self._group_difference(request.group)
            )
        elif not await self._confirm():  # a deposed leader must not say "done already"
            failure = replica.failure(_Reason.REASON_NOT_LEADER)
        else:
            return await replica.membership.change(request)
        return shard_pb2.ChangeMembersResponse(failure=failure)

    async def repair_time(
        self, request: shard_pb2.RepairTimeRequest
    ) -> shard_pb2.RepairTimeResponse:
        """Have the group's time set back by an entry that says so (PROTOCOL 2.1)."""
        replica = self._replica
        if request.group != self._group:
            failure = replica.failure(
                _Reason.REASON_WRONG_GROUP_ID, self._group_difference(request.group)
            )
        elif not await self._confirm():
            failure = replica.failure(_Reason.REASON_NOT_LEADER)
        else:
            return await self._repair_time()
        return shard_pb2.RepairTimeResponse(failure=failure)

    async def _repair_time(self) -> shard_pb2.RepairTimeResponse:
        replica, answer = self._replica, OneAnswer()
        before_us = replica.machine.physical
        try:
            replica.propose(codec.SET_TIME, 0, answer)
            response = await answer.response()
        finally:
            answer.closed = True
        if response.HasField("failure"):
            return shard_pb2.RepairTimeResponse(failure=response.failure)
        if response.results[0].HasField("error"):
            return shard_pb2.RepairTimeResponse(error=response.results[0].error)
        after_us = replica.machine.physical
        _log.warning(
            "group_time_set_back", group=self._group, seconds=(before_us - after_us) // 1_000_000
        )
        return shard_pb2.RepairTimeResponse(before_us=before_us, after_us=after_us)

    async def checksums(self, request: shard_pb2.ChecksumsRequest) -> shard_pb2.ChecksumsResponse:
        """The asker sees by cluster, group and id whether this is whom it meant."""
        del request
        return self._replica.comparing.checksums()

    async def transfer(self, request: shard_pb2.TransferRequest) -> shard_pb2.TransferResponse:
        """Begin a transfer, and wait until another replica leads or it was abandoned."""
        replica = self._replica
        if request.to == replica.settings.node_id and replica.raft.is_leader:
            return shard_pb2.TransferResponse(leader_id=request.to)  # it is done already
        try:
            replica.transfer_to(request.to or replica.best_follower())
        except NotLeader:
            return shard_pb2.TransferResponse(failure=replica.failure(_Reason.REASON_NOT_LEADER))
        except ValueError as error:
            return shard_pb2.TransferResponse(
                failure=replica.failure(_Reason.REASON_INVALID, str(error))
            )
        deadline = asyncio.get_running_loop().time() + replica.settings.election_ms_max / 1000
        while asyncio.get_running_loop().time() < deadline:
            if replica.raft.leader_id not in (0, replica.settings.node_id):
                break
            await asyncio.sleep(replica.settings.tick_seconds)
        return shard_pb2.TransferResponse(leader_id=replica.raft.leader_id)


def _holds_up(machine: Machine, request: shard_pb2.ScanPageRequest, version: int) -> bool:
    """Whether a transaction that voted at or below the version may yet write in the range (2.7)."""
    for transaction in machine.participant.open.values():
        vote = transaction.vote
        if vote is None or vote.version > version:
            continue
        for key, exclusive in transaction.modes.items():
            if exclusive and key >= request.start and (not request.end or key < request.end):
                return True
    return False
