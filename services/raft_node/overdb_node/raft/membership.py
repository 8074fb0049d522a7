"""Changing who is a member: what may be asked for when, and a leader that removed itself (PROTOCOL 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overdb_node.raft.errors import (
    AddressConflict,
    ChangeInProgress,
    Damaged,
    IdRetired,
    LastVoter,
    NoSuchMember,
    NotCaughtUp,
    NotCommittedInTerm,
    NotLeader,
    QuorumAtRisk,
    TooManyMembers,
)
from overdb_node.raft.messages import TimeoutNow
from overdb_node.raft.output import EventKind
from overdb_node.raft.types import Configuration, EntryKind, Member

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft

MEMBERS_MAX = 16

Encode = Callable[[Configuration], bytes]


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Take in a new replica. It follows, and counts for nothing until it is promoted (PROTOCOL 3.4, 3.5)."""

    replica_id: int
    address: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a learner a voter. ``incarnations`` notes the directories behind the ids, its own included,
    so that from this entry on a disk that was lost is recognised by whoever counts votes."""

    replica_id: int
    incarnations: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a replica out for good. ``forced``: although the others may lack a majority that answers."""

    replica_id: int
    forced: bool = False


Change = AddLearner | Promote | Remove


class Membership:
    """A leader's part in a change. The configuration itself is in the log, and counts from there."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.removed = False  # told so by the group; what the own log says does not matter then

    def change(self, change: Change, encode: Encode) -> int:
        raft = self._raft
        before = raft.log.configuration
        after = self.check(change)
        if after is before:
            return raft.log.configuration_index
        index = raft.leading.propose([encode(after)], EntryKind.CONFIGURATION)
        raft.emit(EventKind.MEMBERS_CHANGING, change.replica_id, describe(before, after))
        return index

    def check(self, change: Change) -> Configuration:
        """What the configuration would be: the present one where it is in force. Raises as ``change``."""
        raft = self._raft
        if not raft.serves:
            raise NotLeader
        before = raft.log.configuration
        if _is_in_force(before, change):
            return before
        self._refuse_out_of_turn(before)
        if isinstance(change, AddLearner):
            return self._with_learner(before, change)
        if isinstance(change, Promote):
            return self._with_voter(before, change)
        return self._without(before, change)

    def _refuse_out_of_turn(self, present: Configuration) -> None:
        """One change at a time, in a term that has committed something, not while another takes over."""
        raft, log = self._raft, self._raft.log
        if raft.leading.transfer_to:
            raise ChangeInProgress(
                f"leadership is being handed over to replica {raft.leading.transfer_to}: retry"
            )
        at = log.configuration_index
        if at > raft.commit_index:
            before = log.configuration_at(at - 1)
            raise ChangeInProgress(
                f"another change is not committed yet (entry {at}: {describe(before, present)})"
            )
        if not raft.leading.committed_in_term:
            raise NotCommittedInTerm(
                f"the leader has not committed an entry of its term {raft.term} yet: retry"
            )

    # --- one change each --------------------------------------------------------------------------

    def _with_learner(self, before: Configuration, change: AddLearner) -> Configuration:
        new = change.replica_id
        if new in before.retired:
            raise IdRetired(
                f"id {new} was a member of this group and was removed: ids are never used twice, take a "
                "new one"
            )
        for member in before.members:
            if member.replica_id == new:
                raise AddressConflict(f"replica {new} is a member already, at {member.address}")
            if member.address == change.address and self._answers(member.replica_id):
                raise AddressConflict(
                    f"replica {member.replica_id} answers at {change.address}: stop it first, or give "
                    f"replica {new} an address of its own"
                )
        if len(before.members) >= MEMBERS_MAX:
            raise TooManyMembers(
                f"the group has {len(before.members)} members, the limit is {MEMBERS_MAX}"
            )
        learner = Member(new, change.address, voter=False)
        return replace(before, members=(*before.members, learner))

    def _with_voter(self, before: Configuration, change: Promote) -> Configuration:
        new = change.replica_id
        if before.member(new) is None:
            raise NoSuchMember(_unknown(before, new))
        self._refuse_unless_caught_up(new)
        noted = dict(change.incarnations)
        members = tuple(
            replace(
                member,
                voter=member.voter or member.replica_id == new,
                # Once noted it stays: another number is another disk (PROTOCOL 3.5).
                incarnation=member.incarnation or noted.get(member.replica_id, 0),
            )
            for member in before.members
        )
        return replace(before, members=members)

    def _refuse_unless_caught_up(self, learner: int) -> None:
        """PROTOCOL 3.5: its match is near the leader's last, and it is alive to keep it there.

        Near is counted in entries for a quiet group, and in time for a busy one, whose followers always lack
        what is under way. One that the first element is still on its way to is not near, however short the
        log behind that is.
        """
        raft = self._raft
        progress = raft.leading.progress[learner]
        lag = raft.log.last_index - progress.match
        lag_max = raft.settings.promote_lag_entries_max
        if progress.damaged:
            raise Damaged(f"the log of replica {learner} contradicts the leader's: replace it")
        if not self._answers(learner):
            raise NotCaughtUp(
                f"replica {learner} does not answer the leader: how far it lags is not known"
            )
        if progress.match < max(1, raft.log.first_index):
            raise NotCaughtUp(
                f"replica {learner} lags by {lag} entries, and is being sent a snapshot: wait, then retry"
            )
        if lag > lag_max and progress.laps.longest() > raft.settings.election_ticks_min:
            raise NotCaughtUp(
                f"replica {learner} lags by {lag} entries, promoted is at a lag of {lag_max} or less, or of "
                "an election timeout: wait, then retry"
            )

    def _without(self, before: Configuration, change: Remove) -> Configuration:
        gone = change.replica_id
        leaving = before.member(gone)
        if leaving is None:
            raise NoSuchMember(_unknown(before, gone))
        left = [voter for voter in before.voters if voter != gone]
        if not left:
            raise LastVoter(
                f"replica {gone} is the last voter of this group: add another one first"
            )
        if leaving.voter and not change.forced:
            silent = [voter for voter in left if not self._answers(voter)]
            if 2 * (len(left) - len(silent)) <= len(left):
                raise QuorumAtRisk(
                    f"without replica {gone} the voters are {_names(left)}, of which {_names(silent)} "
                    "do not answer: no majority would be left; start them, or force it"
                )
        return Configuration(
            tuple(member for member in before.members if member.replica_id != gone),
            tuple(sorted({*before.retired, gone})),
        )

    def _answers(self, replica_id: int) -> bool:
        """Whether it was heard within an election timeout: strictly, not "was not missed yet"."""
        raft = self._raft
        if replica_id == raft.replica_id:
            return True
        progress = raft.leading.progress.get(replica_id)
        return (
            progress is not None
            and not progress.damaged
            and progress.silent_ticks < raft.settings.election_ticks_min
        )

    # --- a leader that is no member any more --------------------------------------------------------

    def on_committed(self) -> None:
        """The commit index has risen. A leader that removed itself has led until now (PROTOCOL 3.4): it
        tells the voter that has most to take over at once, and steps down."""
        raft, log = self._raft, self._raft.log
        if raft.replica_id in raft.voters or log.configuration_index > raft.commit_index:
            return
        heirs = [
            (progress.match, -voter)
            for voter, progress in raft.leading.progress.items()
            if voter in raft.voters and not progress.damaged
        ]
        if heirs:
            raft.send(-max(heirs)[1], TimeoutNow(raft.term))
        raft.become_follower(raft.term)


def _is_in_force(configuration: Configuration, change: Change) -> bool:
    """Whether it was done before: a request that comes again must not fail."""
    member = configuration.member(change.replica_id)
    if isinstance(change, AddLearner):
        return member is not None and member.address == change.address
    if isinstance(change, Promote):
        return member is not None and member.voter
    return change.replica_id in configuration.retired


def describe(before: Configuration, after: Configuration) -> str:
    """What a change does, in words."""
    old, new = ({m.replica_id: m for m in c.members} for c in (before, after))
    said = [f"replica {i} added as a learner at {new[i].address}" for i in new if i not in old]
    said += [f"replica {i} removed" for i in old if i not in new]
    said += [f"replica {i} promoted" for i in new if i in old and new[i].voter > old[i].voter]
    return ", ".join(said) or "no difference"


def _unknown(configuration: Configuration, replica_id: int) -> str:
    if replica_id in configuration.retired:
        return f"replica {replica_id} was removed from this group: ids are never used twice"
    members = _names([member.replica_id for member in configuration.members])
    return f"replica {replica_id} is no member of this group; members: {members}"


def _names(replicas: list[int]) -> str:
    return ", ".join(map(str, replicas)) or "none"
