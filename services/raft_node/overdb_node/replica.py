"""One replica: the one place where the pure cores meet disk, network and time.

Everything here runs on the event loop, except for the log thread (``storage.group_commit``) and
checkpoints. An input (tick, packet, request, fsync done) changes the core and schedules one ``_turn``
at the end of the loop's turn; the turn takes the core's output and carries it out. So everything that
arrives in one turn of the loop leaves in one message per peer and waits for one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_common.level import LEVEL
from overdb_node import codec
from overdb_node.applying import Applier, Deferred, Waiting
from overdb_node.cluster_level import LevelRaiser, Replied
from overdb_node.comparing import Comparing
from overdb_node.direct import address_told
from overdb_node.disk_space import DiskSpace
from overdb_node.entry_reader import EntryReader
from overdb_node.finishing import Finisher
from overdb_node.leasing import Promises, elapsed_us
from overdb_node.machine.machine import Machine
from overdb_node.membership import Membership
from overdb_node.metrics import NodeMetrics
from overdb_node.peer_admission import PeerAdmission
from overdb_node.proposal_queue import Proposal, ProposalQueue
from overdb_node.raft.core import Raft
from overdb_node.raft.errors import NotLeader, Overloaded
from overdb_node.raft.log import Log
from overdb_node.raft.messages import Message
from overdb_node.raft.output import Event, EventKind, Output
from overdb_node.raft.types import DiskState, Member
from overdb_node.reads import BlockedReads, PendingRead, Reads, answer_reads
from overdb_node.reclaiming import Reclaiming
from overdb_node.settings import NodeSettings
from overdb_node.snapshotting import Snapshotting
from overdb_node.storage.errors import means_no_space
from overdb_node.storage.group_commit import GroupCommit, PersistRequest
from overdb_node.storage.identity import note_level
from overdb_node.storage.replica import ReplicaStorage
from overdb_node.timekeeping import Timekeeper
from overdb_node.transport.peers import Address, Peers
from overdb_node.transport.shard_service import Answers, OneAnswer

_log = structlog.get_logger()
DISK_CHECK_TICKS = 10  # a second, at the default tick
SHARERS_TICKS = 600
ENVELOPE_BYTES = 32  # of an entry, around its commands, at most
_NOT_LEADER = shard_pb2.Failure.REASON_NOT_LEADER
_NOTHING = b""  # commands of an entry that has none
_DAMAGES = (
    EventKind.REPLICA_DAMAGED,
    EventKind.OWN_SNAPSHOT_DAMAGED,
    EventKind.FOLLOWER_GIVEN_UP,
    EventKind.MESSAGE_REFUSED,
)


class Replica:
    """Runs Raft, the state machine and the storage of one group member.

    ``on_fatal`` is called once, with the reason, when this replica must not go on: a failed fsync, a
    damaged log. The process then ends; what is on disk stays as it is.
    """

    def __init__(
        self,
        settings: NodeSettings,
        storage: ReplicaStorage,
        metrics: NodeMetrics,
        on_fatal: Callable[[str], None],
        level_known: int = LEVEL,
    ) -> None:
        self.settings = settings
        self.storage = storage
        self.metrics = metrics
        self._on_fatal = on_fatal
        self.level_known = (
            level_known  # the newest level of the program; simulated ones may be older
        )
        self._loop = asyncio.get_running_loop()
        recovered = storage.recovered
        raft_settings = settings.raft_settings()
        self._promises = Promises(settings.data, raft_settings, settings.tick_ms * 1000)
        self.raft = Raft(
            settings.node_id,
            raft_settings,
            Random(),
            Log(recovered.snapshot, recovered.window, codec.decode_configuration),
            recovered.hard_state,
            recovered.applied_index,
            self._promises.hold_back_ticks,
        )
        self.timekeeper = Timekeeper(self.raft, settings.group)
        machine = self._machine()
        machine.load()
        self._waiting = Waiting()
        self._deferred = Deferred()
        self._applier = Applier(machine, storage.data, self._waiting, self._deferred, metrics)
        self._reads = Reads()
        self.blocked_reads = BlockedReads()
        self.membership = Membership(self)
        own = Address(
            settings.cluster,
            settings.group,
            settings.node_id,
            self.admission.incarnation,
            level_known,
            groups=settings.groups,
            start=lambda: self.admission.starts.own,
        )
        self.peers = Peers(own, self.address_of, lambda: self.membership.own_address)
        self.writer = GroupCommit(
            lambda: storage.log,
            notify=self._notify,
            on_failure=self._log_failed,
        )
        self.snapshotting = Snapshotting(self)
        self.reclaiming = Reclaiming(self)
        self.entry_reader = EntryReader(self)
        self.finisher = Finisher(self)
        self.comparing = Comparing(self)
        self._proposals = ProposalQueue(settings.proposed_bytes_max)
        self._level_agreed = 0  # that all replicas of all groups were found to know
        self._level_noted = 0  # in the directory, for older programs to refuse it
        self._level_raiser = LevelRaiser(
            settings.group,
            settings.groups,
            settings.describe_seconds_max,
            lambda: self.admission.others.addresses(everybody=True),
            lambda: [member.replica_id for member in self.raft.log.members],
            self._own_reply,
            self._raise_level,
        )
        self._limited_term = 0  # the last in which they were proposed
        self._newest_token = 0
        self._persisting_since: float | None = None  # an fsync is waited for; None: nothing is
        self._after_persist: deque[tuple[int, list[tuple[int, Message]]]] = deque()
        self._turn_scheduled = False
        self._stopping = False
        self._failed = False
        self._ticker: asyncio.TimerHandle | None = None
        self.direct_listen = ""  # where direct clients are served, once they are
        self._stopped_by = ("", "")  # why the log and the data wait for room; empty: they do not
        self.disk = DiskSpace(settings.data, settings.disk_free_bytes_min, settings.disk_sharers)
        self._ticks = 0

    # --- life -----------------------------------------------------------------------------------

    def _machine(self) -> Machine:
        settings = replace(self.settings.machine_settings(), level_known=self.level_known)
        return Machine(self.storage.data, settings)

    def start(self) -> None:
        self._note_level()
        self.membership.start()
        self._schedule_tick()
        self.schedule_turn()

    async def stop(self) -> None:
        """Hand leadership over if there is someone to take it, then end."""
        self._stopping = True
        await self._hand_over(self.settings.handover_seconds_max)
        if self._ticker is not None:
            self._ticker.cancel()
        self._failed = True  # nothing is taken in any more
        await self.finisher.close()
        await self.membership.close()
        await self._level_raiser.close()
        await self.comparing.close()
        await self.peers.close()
        await self.snapshotting.close()
        await self.reclaiming.close()
        await self.entry_reader.close()
        await self._loop.run_in_executor(None, self.writer.close)
        self._fail_waiting()
        await self._loop.run_in_executor(None, self.storage.close)

    async def _hand_over(self, seconds_max: float) -> None:
        if self._failed:
            return
        try:
            self.transfer_to(self.best_follower())
        except (NotLeader, ValueError):
            return
        deadline = self._loop.time() + seconds_max
        while self.raft.is_leader and self._loop.time() < deadline:  # noqa: ASYNC110  # once in a life
            await asyncio.sleep(0.01)
        if self.raft.is_leader:
            _log.warning("stops_as_leader", group=self.settings.group, seconds=seconds_max)
        else:
            _log.info("handed_over", group=self.settings.group)

    def transfer_to(self, to: int) -> None:
        """Begin to hand leadership over. Raises NotLeader, ValueError."""
        self.raft.transfer(to)
        self.schedule_turn()

    def best_follower(self) -> int:
        """The voter that lags least of those that answer. Raises NotLeader, ValueError if none does."""
        if not self.raft.is_leader:
            raise NotLeader
        progress = self.raft.leading.progress
        wrong, differs = self.comparing.known_diverged, self.comparing.others_diverged
        voters = [
            r for r in self.raft.voters if r in progress and progress[r].active and r not in wrong
        ]
        if not voters:
            raise ValueError("no other voter of this group answers")
        right = self.timekeeper.clocks_that_are_right()
        # Of two that differ it is not known which one is wrong: better than nobody.
        return max(
            voters,
            key=lambda r: (r not in differs, -progress[r].disk, r in right, progress[r].match),
        )

    def stand_aside(self) -> None:
        """Serve no more; another one takes over as soon as it can."""
        self.raft.stand_aside()
        self._fail_waiting()
        self._make_way()

    def _make_way(self) -> None:
        """Hand over what this replica leads and must not serve."""
        if self.raft.is_leader and not self.raft.may_lead and not self.raft.leading.transfer_to:
            with contextlib.suppress(NotLeader, ValueError):  # nobody answers: at the next tick
                self.transfer_to(self.best_follower())
        self.schedule_turn()

    @property
    def machine(self) -> Machine:
        return self._applier.machine

    @property
    def admission(self) -> PeerAdmission:
        return self.membership.admission

    @property
    def failed(self) -> bool:
        return self._failed

    @property
    def direct_address(self) -> str:
        """Where direct clients reach this replica; "": nowhere, or not known yet."""
        return address_told(self.direct_listen, self.membership.own_address)

    @property
    def problem(self) -> str:
        """What an operator should know; empty when all is well."""
        damaged = [r for r, p in self.raft.leading.progress.items() if p.damaged]
        if damaged:
            return (
                f"the logs of replica {damaged[0]} and of this one contradict each other: one of the two is "
                "wrong, and it is not known which one. Delete neither directory before it is"
            )
        problems = (
            self.comparing.problem,
            self.admission.problem,
            self.snapshotting.damaged.problem,
            self._disk_problem,
            self.raft.leading.retention.problem,
            self.timekeeper.problem,
            self.timekeeper.group_problem(self.machine),
        )
        return "; ".join(filter(None, problems))

    @property
    def level_waits_for(self) -> str:
        """Which replicas hold up raising the group's level; empty when none does."""
        return self._level_raiser.waits_for

    @property
    def _disk_problem(self) -> str:
        if self.writer.no_space:
            return f"disk full ({self.writer.no_space}): it stores nothing until there is room"
        if self.is_stuck:
            return "disk full (the data cannot be written): it answers nothing until there is room"
        if self._waits_for_note:
            return "disk full (the group's level cannot be noted): it answers nothing until there is room"
        raft = self.raft
        if self.disk.state is DiskState.FREE and raft.is_leader and self.disk_full:
            taken = "deletes are taken" if self.disk_state is DiskState.LOW else "deletes too"
            return (
                f"the disks of most replicas of group {self.settings.group} are full: puts are refused, "
                f"{taken}. overdb status says which, and what to do"
            )
        if (size := raft.following.needs_room_bytes) and not raft.is_leader:
            return self.disk.problem_of_snapshot(size)
        return self.disk.problem

    @property
    def is_stuck(self) -> bool:
        """Whether the state in memory is ahead of the data on disk: nothing can be read until it is not."""
        return self._applier.is_stuck

    @property
    def newest_write(self) -> int:
        """Clock behind the newest write of a value or a tombstone since the start; 0: none."""
        return self._applier.newest_write

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def address_of(self, member: Member) -> str:
        """Settings know where members are reached now; the log knows where they were."""
        return self.settings.founding_addresses().get(member.replica_id, member.address)

    def fatal(self, reason: str) -> None:
        """Stop taking anything in, and have the process ended."""
        if not self._failed:
            self._failed = True
            _log.critical("replica_failed", reason=reason)
            self._on_fatal(reason)

    # --- inputs ---------------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        self._ticker = self._loop.call_later(self.settings.tick_seconds, self._tick)

    def _tick(self) -> None:
        if self._failed:
            return
        self._schedule_tick()
        try:
            self._run_tick()
        except Exception as violation:  # RocksDB's errors are plain Exceptions
            self.fatal(f"{type(violation).__name__}: {violation}")

    def _run_tick(self) -> None:
        self._ticks += 1
        self._check_disk()
        self._check_stall()
        if self.admission.established:
            if self.settings.read_leases:
                self.raft.observe(elapsed_us())
            self.raft.tick()
            self._proposals.tick(self.raft.leading.retention.pace_bytes)
            self._promises.tick()
        self._keep_time()
        self.snapshotting.tick()
        self.finisher.tick()
        self.comparing.tick()
        self._level_raiser.tick(self.machine.level, leads=self.raft.serves)
        self._make_way()
        self.reclaiming.tick()
        if self.raft.installing is None:
            if self.is_stuck:
                self._applied(self._applier.try_again())
            self._note_level()
        self.schedule_turn()

    def _keep_time(self) -> None:
        """Let one lead whose clock is right, and have an idle group's time go on (PROTOCOL 2.1)."""
        self.timekeeper.tick()
        ready = self.raft.installing is None and not self._proposals
        if ready and self.timekeeper.should_move_time(self.machine):
            self.propose_stamp()
        if self.timekeeper.should_hand_over():
            with contextlib.suppress(NotLeader, ValueError):  # nobody answers: at a later tick
                best = self.best_follower()
                if best in self.timekeeper.clocks_that_are_right():
                    self.timekeeper.hands_over()
                    self.transfer_to(best)

    async def refresh_clock(self) -> bool:
        """Have the group's time applied before a version is chosen from its clock (PROTOCOL 2.7).

        A group that was idle for longer than it keeps old versions would otherwise give one that is out of
        date by the time it is read at. Returns False when this replica does not lead any more.
        """
        if not self.timekeeper.is_stale(self.machine):
            return True
        answer = OneAnswer()
        try:
            self.propose(_NOTHING, 0, answer)
            return not (await answer.response()).HasField("failure")
        finally:
            answer.closed = True

    def _check_stall(self) -> None:
        """A leader whose disk hangs commits by its followers and can apply nothing: let another lead."""
        since, limit = self._persisting_since, self.settings.election_ms_max / 1000
        if since is not None and self.raft.is_leader and self._loop.time() - since > limit:
            _log.error("disk_stalled", seconds=round(self._loop.time() - since, 1))
            self.raft.step_down()

    @property
    def disk_full(self) -> bool:
        """Whether this group has no room for anything that stores a value."""
        return self.disk_state is not DiskState.FREE

    @property
    def disk_state(self) -> DiskState:
        """Of this replica or, where that is worse, of the best majority of the voters (PROTOCOL 1.4)."""
        raft = self.raft
        return max(raft.disk, raft.leading.disk_of_majority) if raft.is_leader else raft.disk

    def refuse_for_disk(self, commands: bytes) -> str:
        """Returns why commands cannot be taken as the disks are (PROTOCOL 1.4); empty: they can."""
        state = self.disk_state
        if state is DiskState.FREE:
            return ""
        need = codec.need_of(commands)
        if state is DiskState.FULL:
            small = len(commands) <= self.raft.settings.small_entry_bytes - ENVELOPE_BYTES
            takes = need is codec.Need.UPKEEP and small
        else:
            takes = need is not codec.Need.STORES
        return "" if takes else f"replica {self.settings.node_id}: {self._disk_problem}"

    def _check_disk(self) -> None:
        """Refuse writes before the disk is full; take them again when there is space."""
        disk, raft = self.disk, self.raft
        if self._ticks % SHARERS_TICKS == 0:
            disk.count_sharers()
        tables = self.storage.data.tables
        if disk.look(tables.compaction_bytes, tables.memory_bytes):
            _log.warning(
                "disk_space",
                state=disk.state.name.lower(),
                free_bytes=disk.free_bytes,
                reserve_bytes=disk.reserve_bytes,
            )
        raft.set_room(disk.state, disk.snapshot_bytes_max)
        stops = (self.writer.no_space, "no room to write the data" if self.is_stuck else "")
        if stops != self._stopped_by:
            self._stopped_by = stops
            if any(stops):
                _log.error("disk_full", log=stops[0], data=stops[1])
        if self._ticks % DISK_CHECK_TICKS == 0:
            self.reclaiming.allow_compaction()
            if disk.state is not DiskState.FREE:
                raft.leading.retention.give_all_up("the leader's disk is nearly full")
                self._leave_to_one_with_room()

    def _leave_to_one_with_room(self) -> None:
        raft = self.raft
        if raft.is_leader and not raft.leading.transfer_to:
            with contextlib.suppress(NotLeader, ValueError):  # nobody to take over: stay, refuse
                best = self.best_follower()
                if raft.leading.progress[best].disk < raft.disk:
                    self.transfer_to(best)

    def receive(self, sender: int, messages: list[Message]) -> None:
        """Take in a packet of another replica."""
        if self._failed or not self.admission.established:
            return
        try:
            for message in messages:
                self.raft.receive(sender, message)
                self.timekeeper.received(sender, message)
        except Exception as violation:  # RocksDB's errors are plain Exceptions
            self.fatal(f"{type(violation).__name__}: {violation}")
            return
        self.schedule_turn()

    def propose(self, commands: bytes, sequence: int, answers: Answers) -> None:
        """Take in a router's commands; they become one entry at the end of this turn."""
        if not self.raft.serves:
            self._refuse_unproposed(sequence, answers)
            return
        full = self._proposals.why_full(len(commands))
        if full:
            reason = shard_pb2.Failure.REASON_OVERLOADED
            self.refuse(sequence, answers, reason, f"group {self.settings.group}: {full}")
            return
        self._proposals.add(Proposal(commands, sequence, answers))
        self.schedule_turn()

    def read(self, complete: Callable[[bool], None]) -> None:
        """Call ``complete(True)`` when a linearizable read may be answered, or ``complete(False)``."""
        by_lease = self.settings.read_leases and not self._failed
        read = PendingRead(complete)
        try:
            index = self.raft.read(read, elapsed_us() if by_lease else 0)
        except NotLeader:
            complete(False)
            return
        if index is None:
            self.schedule_turn()
        elif index > self.raft.applied:
            self._reads.add(read, index)  # the turn that applies it is on its way
        else:
            self._complete_now(read)

    def _complete_now(self, read: PendingRead) -> None:
        try:
            read.complete(True)
        except Exception as violation:  # RocksDB's errors are plain Exceptions
            self.fatal(f"{type(violation).__name__}: {violation}")

    def exchange_reads(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        """Answer a batch of point reads, at once if they may be stale."""

        def complete(confirmed: bool) -> None:
            if confirmed and self.is_readable:
                self.metrics.requested("reads", "OK", len(request.reads.reads))
                answer_reads(self.machine, self.storage.data, request, answers, self.blocked_reads)
            else:
                self.refuse(request.sequence, answers, _NOT_LEADER)

        if request.reads.stale:
            complete(True)
        else:
            self.read(complete)

    @property
    def is_readable(self) -> bool:
        """Whether the data here is what was applied, right, and not that of an old copy of the directory."""
        wrong = self.comparing.diverged or self.admission.starts.outdated
        return not (self.raft.installing or self.is_stuck or self._waits_for_note or wrong)

    def refuse(
        self,
        sequence: int,
        answers: Answers,
        reason: shard_pb2.Failure.Reason.ValueType,
        message: str = "",
    ) -> None:
        response = shard_pb2.ShardResponse(sequence=sequence)
        self.send_failure(response, answers, self.failure(reason, message))

    def _refuse_unproposed(self, sequence: int, answers: Answers) -> None:
        """Refuse commands that are not in the log: the sender knows for certain that this copy never runs."""
        failure = self.failure(_NOT_LEADER)
        failure.nothing_done = True
        self.send_failure(shard_pb2.ShardResponse(sequence=sequence), answers, failure)

    def send_failure(
        self, response: shard_pb2.ShardResponse, answers: Answers, failure: shard_pb2.Failure
    ) -> None:
        """Send a response with the failure of its whole message."""
        code = shard_pb2.Failure.Reason.Name(failure.reason).removeprefix("REASON_")
        self.metrics.requested("exchange", code)
        response.failure.CopyFrom(failure)
        answers.send(response)

    def failure(
        self, reason: shard_pb2.Failure.Reason.ValueType, message: str = ""
    ) -> shard_pb2.Failure:
        """A failure that names the leader as far as this replica knows it."""
        leaves = self.raft.is_leader and (self._stopping or not self.raft.may_lead)
        leader = 0 if leaves else self.raft.leader_id
        addresses = {member.replica_id: self.address_of(member) for member in self.raft.log.members}
        return shard_pb2.Failure(
            reason=reason,
            message=message,
            leader_id=leader,
            leader_address=addresses.get(leader, ""),
        )

    def _notify(self, token: int, seconds: float, requests: int, size: int) -> None:
        """Called in the log thread."""
        self._loop.call_soon_threadsafe(self._persisted, token, seconds, requests, size)

    def _log_failed(self, error: Exception) -> None:
        """Called in the log thread."""
        self._loop.call_soon_threadsafe(self.fatal, str(error))

    def _persisted(self, token: int, seconds: float, requests: int, size: int) -> None:
        if self._failed:
            return
        self.metrics.fsynced(seconds, requests, size)
        if seconds > self.settings.slow_fsync_seconds:
            _log.warning("slow_fsync", seconds=round(seconds, 3), bytes=size)
        self._persisting_since = None if token == self._newest_token else self._loop.time()
        try:
            self.raft.persisted(token)
            while self._after_persist and self._after_persist[0][0] <= token:
                for to, message in self._after_persist.popleft()[1]:
                    self.peers.send(to, self.timekeeper.outgoing(message))
        except Exception as violation:
            self.fatal(f"{type(violation).__name__}: {violation}")
            return
        self._turn()

    # --- the turn -------------------------------------------------------------------------------

    def schedule_turn(self) -> None:
        """Have the core's output carried out at the end of this turn of the loop."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self._failed:
            return
        try:
            self._propose_waiting()
            output = self.raft.take_output()
            self.membership.follow_configuration()  # first: messages to a new member need its link
            self._carry_out(output)
            self._apply()
        except Exception as violation:  # RocksDB's errors are plain Exceptions
            self.fatal(f"{type(violation).__name__}: {violation}")

    def _begins_term(self) -> bool:
        """Whether the limits are still to be put into the log, before anything else of this leader."""
        return self.raft.serves and self._limited_term != self.raft.term

    def _own_reply(self) -> Replied:
        members = frozenset(member.replica_id for member in self.raft.log.members)
        index = self.raft.log.configuration_index
        settings, level = self.settings, self.machine.level
        return Replied(settings.group, settings.node_id, self.level_known, level, members, index)

    def _raise_level(self, level: int) -> None:
        self._level_agreed = level
        self.repeat_limits()

    def look_for_older_router(self, request: shard_pb2.ShardRequest) -> None:
        """Hold up the raise of the level while a router of an older release runs transactions here."""
        if (
            request.level < LEVEL
            and self.machine.level < LEVEL
            and codec.takes_part(request.commands)
        ):
            self._level_raiser.heard_older_router()

    @property
    def _waits_for_note(self) -> bool:
        """Whether the level was raised and the directory does not say so yet, for want of room."""
        return self.machine.level > self._level_noted

    def _note_level(self) -> None:
        """Note a raised level in the directory before anything more is applied or answered.

        Without room for it this replica does not lead, and tries again at each tick (PROTOCOL 1.4).
        """
        if not self._waits_for_note:
            return
        try:
            note_level(self.settings.data, self.machine.level)
        except OSError as error:
            if not means_no_space(error):
                raise
            self.raft.step_down()
        else:
            self._level_noted = self.machine.level
            self.schedule_turn()

    def repeat_limits(self) -> None:
        """Have the limits put into the log once more if this replica leads. They change nothing."""
        self._limited_term = 0
        self.schedule_turn()

    def stamp(self) -> int:
        """Returns what an entry is stamped with now: microseconds since the epoch; 0: not known."""
        return self.timekeeper.group_time_us() or 0

    def _stamp_of(self, commands: bytes, stamp: int) -> int:
        """Returns the stamp of one entry: none for a repair of the time while the clocks disagree (!)."""
        if commands == codec.SET_TIME and not self.timekeeper.clocks_agree:
            return 0
        return stamp

    def propose_stamp(self) -> None:
        """Have an entry without commands put into the log: its stamp moves the group's time."""
        unread = Answers()
        unread.closed = True
        self.propose(_NOTHING, 0, unread)

    def _propose_waiting(self) -> None:
        begins = self._begins_term()
        if not self._proposals and not begins:
            return
        # Without the group's time the limits are stamped 0, and requests wait. They could not be committed
        # either: whoever acknowledges an entry says its clock (PROTOCOL 2.1).
        stamp = self.stamp()
        proposals: list[Proposal] = []
        if not self.raft.serves:
            proposals = self._proposals.take_all()
        elif stamp:
            proposals = self._proposals.take()
        if not proposals and not begins:
            return
        waiting = [commands for commands, _, _ in proposals]
        if begins:  # before anything else in this term
            limits = self.settings.machine_settings()
            waiting.insert(0, codec.encode_limits(limits, self._level_agreed))
        try:
            index = self.raft.propose(
                [
                    codec.encode_envelope(self._stamp_of(commands, stamp), commands)
                    for commands in waiting
                ]
            )
        except NotLeader:
            for _, sequence, answers in proposals:
                self._refuse_unproposed(sequence, answers)
            return
        except Overloaded:
            message = (
                f"group {self.settings.group}: more than {self.settings.uncommitted_bytes_max} bytes "
                "are not yet on a majority of its replicas, or not yet applied; retry later"
            )
            for _, sequence, answers in proposals:
                self.refuse(sequence, answers, shard_pb2.Failure.REASON_OVERLOADED, message)
            return
        self.metrics.proposed(len(proposals))
        term = self.raft.term
        self._limited_term = term
        for offset, (_, sequence, answers) in enumerate(proposals, start=int(begins)):
            self._waiting.add(index + offset, term, sequence, answers)

    def _carry_out(self, output: Output) -> None:
        if output.persist is not None:
            persist = output.persist
            self._newest_token = persist.token
            if self._persisting_since is None:
                self._persisting_since = self._loop.time()
            self.writer.submit(PersistRequest(persist.hard_state, persist.entries, persist.token))
        for to, message in output.send_now:
            self.peers.send(to, self.timekeeper.outgoing(message))
        if output.send_after_persist:
            self._after_persist.append((self._newest_token, output.send_after_persist))
        for event in output.events:
            self._on_event(event)
        for read in output.reads_failed:
            assert isinstance(read, PendingRead)
            read.complete(False)
        for read, index in output.reads:
            self._reads.add(read, index)
        self._applier.extend(output.committed)
        for fetch in output.fetches:
            self.entry_reader.fetch(fetch)
        self.snapshotting.carry_out(output)
        if output.install is not None:
            self._applier.clear()  # the snapshot is of a later index than all of it
            self.snapshotting.install(output.install)

    def _apply(self) -> None:
        if self._waits_for_note:
            return
        installs = self.raft.installing is not None
        if self._applier.has_work and not installs:
            self._applied(self._applier.run_slice())
        self._reads.run(self.raft.applied)
        # While a snapshot is installed nothing is applied: the turn that goes on comes when it is (!).
        if not installs and (self._applier.has_work or self.raft.has_committed_to_hand_out):
            self.schedule_turn()

    def _applied(self, index: int | None) -> None:
        """Entries are applied and written up to ``index``; None: there is no room to write them (1.4)."""
        if index is None:
            self.raft.step_down()
            return
        self.raft.applied_to(index)
        self._note_level()
        if self.machine.compared == index:
            self.comparing.applied()
        self.blocked_reads.run(self.machine, self.storage.data)
        self._report_alarms()

    def _report_alarms(self) -> None:
        alarms = self.machine.participant.alarms
        if alarms:
            for alarm in alarms:
                _log.error("transaction_alarm", group=self.settings.group, detail=alarm)
            self.metrics.alarmed(len(alarms))
            alarms.clear()

    def _fail_waiting(self) -> None:
        for waiting in (self._waiting, self._deferred, self.blocked_reads):
            for sequence, answers in waiting.take_all():
                self.refuse(sequence, answers, _NOT_LEADER)
        self._reads.fail_all()

    def _on_event(self, event: Event) -> None:
        kind = event.kind
        self.metrics.happened(kind)
        if kind is EventKind.STEPPED_DOWN:
            self._fail_waiting()
        level = _log.error if kind in _DAMAGES else _log.info
        details = {"replica": event.replica} if event.replica else {}
        if event.detail:
            details["detail"] = event.detail  # type: ignore[assignment]
        level(kind.value, group=self.settings.group, term=event.term, **details)

    # --- snapshots --------------------------------------------------------------------------------

    def installed(self) -> None:
        """The disk is at an installed snapshot: the state machine begins anew from it."""
        machine = self._machine()
        machine.load()
        self._applier = Applier(
            machine, self.storage.data, self._waiting, self._deferred, self.metrics
        )
        self._note_level()
        self.reclaiming.restart()
        self.comparing.restart()
        self.raft.installed()
        self.schedule_turn()
