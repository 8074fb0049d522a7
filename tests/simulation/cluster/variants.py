"""Builds that are broken in one way each, beside those of the core and of transactions: storage and host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch  # noqa: PT013  # it is the type of every argument here

from overdb_common.level import LEVEL
from overdb_node import admission, cluster_level, peer_admission, starts
from overdb_node.applying import Applier
from overdb_node.founding import Finding, Founding, Verdict
from overdb_node.machine import bounds
from overdb_node.machine.clock import Clock
from overdb_node.machine.floors import Floors
from overdb_node.machine.locks import Locks
from overdb_node.machine.machine import Machine
from overdb_node.machine.sessions import Sessions
from overdb_node.machine.types import Advance, Code, Refused
from overdb_node.peer_admission import PeerAdmission
from overdb_node.raft import core, group_time
from overdb_node.raft.group_time import GroupTime
from overdb_node.raft.types import HardState
from overdb_node.replica import Replica
from overdb_node.starts import Starts
from overdb_node.storage.log import DurableLog
from overdb_node.storage.starts import Start
from overdb_node.transport.peers import Sender
from overdb_router.txn.commit import Commit, State
from overdb_router.txn.types import Action, Branch, Prepared, Resolve
from overdb_simulation.data import SimulatedDataStore
from overdb_simulation.disk import Handle, SimulatedDisk
from overdb_simulation.inodes import FileNode
from overdb_simulation.loop import current_process
from tests.unit.raft import variants as of_raft


def fsync_off(patch: MonkeyPatch) -> None:
    """FAULTS 28: fsync of a file returns, and nothing is on the disk."""
    whole = SimulatedDisk.fsync

    def fsync(disk: SimulatedDisk, handle: Handle) -> None:
        if not isinstance(handle.node, FileNode):
            whole(disk, handle)

    patch.setattr(SimulatedDisk, "fsync", fsync)


def directories_not_fsynced(patch: MonkeyPatch) -> None:
    """FAULTS 29: creates and renames are not made durable."""
    whole = SimulatedDisk.fsync

    def fsync(disk: SimulatedDisk, handle: Handle) -> None:
        if isinstance(handle.node, FileNode):
            whole(disk, handle)

    patch.setattr(SimulatedDisk, "fsync", fsync)


def failed_fsync_ignored(patch: MonkeyPatch) -> None:
    """FAULTS 32: an fsync that fails is taken for one that did its work."""
    whole = DurableLog.append

    def append(self: DurableLog, hard_state: HardState | None, entries: Sequence[Any]) -> int:
        try:
            return whole(self, hard_state, entries)
        except Exception:
            self._failure = None
            return 0

    patch.setattr(DurableLog, "append", append)


def middle_corruption_cut(patch: MonkeyPatch) -> None:
    """FAULTS 30: whatever is damaged in the log is taken for its torn end."""
    patch.setattr(DurableLog, "_is_last", lambda *_: True)


def applied_index_first(patch: MonkeyPatch) -> None:
    """FAULTS 35: the applied index and the data are two writes: a flush may come between them."""
    whole = SimulatedDataStore.write

    def write(self: Any, versions: Any, records: Any, index: int, term: int) -> None:
        whole(self, (), (), index, term)
        whole(self, versions, records, index, term)

    patch.setattr(SimulatedDataStore, "write", write)


def answers_before_the_quorum(patch: MonkeyPatch) -> None:
    """FAULTS 28: the leader commits what it has alone."""

    def advance(self: Any) -> None:
        raft = self._raft
        if raft.log.term_at(raft.durable) == raft.term:
            raft.commit_index = max(raft.commit_index, raft.durable)

    from overdb_node.raft.leading import Leading

    patch.setattr(Leading, "advance_commit", advance)


def reads_without_a_round(patch: MonkeyPatch) -> None:
    """FAULTS 21: a leader answers reads without asking whether it leads still."""

    def read(self: Replica, complete: Any) -> None:
        complete(self.raft.is_leader)

    patch.setattr(Replica, "read", read)


def clock_of_the_wall(patch: MonkeyPatch) -> None:
    """FAULTS 57: the clock follows the leader's wall clock, back too."""

    whole = Clock.begin_entry

    def begin(self: Clock, stamp: int) -> None:
        whole(self, stamp)
        if 0 < stamp < self.physical:
            self.value = self.physical = stamp

    patch.setattr(Clock, "begin_entry", begin)


def results_not_kept(patch: MonkeyPatch) -> None:
    """FAULTS 51: exactly-once is off inside a group."""
    patch.setattr(Sessions, "find", lambda *_: None)


def commit_at_the_first_vote(patch: MonkeyPatch) -> None:
    """PROTOCOL 2.3: the first participant that votes is told of a commit at once."""
    whole = Commit._prepared

    def prepared(self: Commit, group: int, vote: Prepared) -> list[Action]:
        actions = whole(self, group, vote)
        if self.state is State.PREPARING and len(self._votes) == 1:
            return [Resolve(group, self.attempt, Branch.THEN, vote.version), *actions]
        return actions

    patch.setattr(Commit, "_prepared", prepared)


def waiters_forgotten(patch: MonkeyPatch) -> None:
    """PROTOCOL 2.3: nobody is let in when keys are set free."""
    patch.setattr(Locks, "promote", lambda *_: [])


def state_of_its_own(patch: MonkeyPatch) -> None:
    """A replica that applies what the others do not: the comparison of replicas must see it."""
    whole = Applier.run_slice

    def run(self: Applier) -> int | None:
        index = whole(self)
        process = current_process()
        if index and index % 97 == 0 and process is not None and process.name.endswith("r0"):
            self.machine._clock.value += 1
        return index

    patch.setattr(Applier, "run_slice", run)


def snapshot_forgets_the_vote(patch: MonkeyPatch) -> None:
    """PROTOCOL 1.0: a log that begins anew with an installed snapshot begins without term and vote."""
    whole = DurableLog.create.__func__  # type: ignore[attr-defined]

    def create(cls: Any, directory: Any, hard_state: HardState, *rest: Any) -> DurableLog:
        log: DurableLog = whole(cls, directory, HardState(), *rest)
        return log

    patch.setattr(DurableLog, "create", classmethod(create))


def no_entry_of_the_own_term(patch: MonkeyPatch) -> None:
    """Paper 8: a new leader appends nothing, the limits of its state machine neither."""
    of_raft.no_no_op(patch)
    patch.setattr(Replica, "_begins_term", lambda _: False)


def another_disk_takes_part(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.5: a replica that lost its disk votes and acknowledges on, under the id that it had."""
    whole = PeerAdmission.refusal

    def refusal(self: PeerAdmission, sender: Sender) -> str:
        self.founders.clear()
        self.disks.clear()
        whole(self, sender)
        return ""

    patch.setattr(PeerAdmission, "refusal", refusal)
    new = Finding(Verdict.NEW, {})
    patch.setattr(Founding, "judge", lambda *_: new)
    _starts_tell_nothing(patch)


def level_raised_alone(patch: MonkeyPatch) -> None:
    """PROTOCOL 4.2: the level is raised as soon as the leader's own program knows it."""
    patch.setattr(cluster_level, "common_level", lambda *_: LEVEL)


def implausible_messages_count(patch: MonkeyPatch) -> None:
    """What no member can have sent is taken for what it says (PROTOCOL 1.5)."""
    patch.setattr(core, "implausible", lambda *_: "")


def strangers_are_heard(patch: MonkeyPatch) -> None:
    """Nobody asks whether an unknown id is a member (PROTOCOL 3.8)."""

    def hears(self: PeerAdmission, sender: int, address: str) -> bool:
        self._meet(sender, address)
        return True

    patch.setattr(PeerAdmission, "_hears_stranger", hears)


def commands_without_bounds(patch: MonkeyPatch) -> None:
    """What others say is proposed and applied as it is (PROTOCOL 2.11)."""
    patch.setattr(admission, "of_router", lambda request, _: (request.commands, []))
    patch.setattr(bounds, "refuse_limits", lambda *_: None)
    patch.setattr(bounds, "version_max", lambda _: (1 << 64) - 1)


def starts_not_noted(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.9: nobody notes the starts of the others."""
    patch.setattr(Starts, "learn", lambda *_: None)
    patch.setattr(Starts, "may_count", lambda *_: True)
    patch.setattr(PeerAdmission, "_has_noted", lambda _, answer: answer.established)


def start_ids_ignored(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.9: of two starts with the same number, both are heard."""

    def objection(self: Starts, replica_id: int, start: Start, *_: object) -> str:
        known = self.heard.get(replica_id)
        return "old" if known is not None and start.number < known.number else ""

    patch.setattr(Starts, "objection", objection)
    patch.setattr(Starts, "may_count", lambda *_: True)
    patch.setattr(PeerAdmission, "_has_noted", lambda _, answer: answer.established)
    smaller = lambda own, asked, known, *_: known.number > max(own.number, asked.number)  # noqa: E731
    patch.setattr(peer_admission, "contradiction", smaller)


def lives_not_compared(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.9: a start counts when its number is larger than the noted one, whatever lives it had."""
    patch.setattr(starts, "could_be_of", lambda *_: True)


def nobody_is_asked_back(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.9: what a packet says of its sender's start is noted."""
    patch.setattr(Starts, "may_count", _learning(Starts.may_count))

    async def start_of(_: PeerAdmission, sender: Sender) -> Start:
        return sender.start

    patch.setattr(PeerAdmission, "_start_of", start_of)


def _learning(whole: Callable[[Starts, int, Start], bool]) -> Callable[[Starts, int, Start], bool]:
    def may_count(self: Starts, replica_id: int, start: Start) -> bool:
        counts = whole(self, replica_id, start)
        if counts:
            self.learn(replica_id, start)
        return counts

    return may_count


def older_lives_count(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.9: a start takes part before anybody else has heard of it, and whatever it says counts."""
    _starts_tell_nothing(patch)
    patch.setattr(PeerAdmission, "_is_confirmed", lambda *_: True)


def _starts_tell_nothing(patch: MonkeyPatch) -> None:
    patch.setattr(Starts, "objection", lambda *_: "")
    patch.setattr(Starts, "may_count", lambda *_: True)

    async def never(*_: Any) -> bool:
        return False

    patch.setattr(PeerAdmission, "_is_outdated", never)


def other_groups_take_part(patch: MonkeyPatch) -> None:
    """PROTOCOL 3.10: a replica takes part with another number of groups than its cluster has."""
    patch.setattr(Founding, "_difference", lambda *_: "")
    whole = PeerAdmission.refusal

    def refusal(self: PeerAdmission, sender: Sender) -> str:
        return whole(self, replace(sender, founding_groups=0))

    patch.setattr(PeerAdmission, "refusal", refusal)


def floors_of_the_settings(patch: MonkeyPatch) -> None:
    """PROTOCOL 2.10: what has expired and what is kept follows from the limits in force alone."""
    whole = Floors.follow

    def follow(self: Floors, physical: int, version: int) -> None:
        self.ids = self.versions = 0
        whole(self, physical, version)

    patch.setattr(Floors, "follow", follow)


def time_of_the_leader_alone(patch: MonkeyPatch) -> None:
    """FAULTS 81: the leader stamps entries with its own clock, as release 0.1.0 did."""
    patch.setattr(GroupTime, "median", lambda *arguments: arguments[3])


def time_of_the_clock_that_is_ahead(patch: MonkeyPatch) -> None:
    """FAULTS 81: the largest clock counts, so that time does not stand still."""
    patch.setattr(group_time, "lower_median", max)


def clocks_heard_long_ago_count(patch: MonkeyPatch) -> None:
    """FAULTS 81 (!): what a replica said before it was cut off goes on counting."""
    patch.setattr(group_time, "HEARD_US_MAX", 1 << 40)


def advance_bounded_by_the_own_time(patch: MonkeyPatch) -> None:
    """FAULTS 81: a group refuses a version that another group, whose time ran ahead, has issued."""
    whole = Machine._advance

    def advance(self: Machine, command: Advance) -> Any:
        latest = self.physical + 60_000_000
        if command.version > latest:
            return Refused(Code.INVALID_ARGUMENT, f"version {command.version} is too far ahead")
        return whole(self, command)

    patch.setattr(Machine, "_advance", advance)
