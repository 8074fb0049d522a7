"""A replica with an empty disk takes part in nothing until it knows that it is new (FAULTS 37, 38).

A member that lost its disk has forgotten what it voted and what it acknowledged. Started again under its
old id it would vote committed entries away (PROTOCOL 3.5). It looks like a founding member that starts for
the first time, so whoever is *fresh* (has an empty disk) asks the others before it hears, votes or campaigns:

- Somebody has noted this very disk for my id: go on. (A founder that was killed in its first start.)
- Somebody has noted another disk for my id, or takes part and noted none: mine was lost. Stay out, say so.
- A founder, and *all* other founders are fresh, in two rounds with the same disks, the second one begun when
  the first was over: the group is new. Note everybody's disk durably, and begin. (Two rounds, because
  between two answers of one round somebody could begin with my predecessor, who then loses its disk.)
- One who joins, and somebody of the group answers and knows nothing against it: go on. What a learner says
  counts for nothing, and the entry that promotes it notes its disk.

So the first start of a group needs all of its founders, every later one a majority.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from overdb.internal.v1 import shard_pb2

Answers = Mapping[int, shard_pb2.DescribeResponse]


class Verdict(Enum):
    WAIT = "wait"
    NEW = "new"  # begin; ``Finding.founders`` are to be noted
    LOST = "lost"  # this id had another disk; ``Finding.reason`` says who knows


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    founders: Mapping[int, int]
    reason: str = ""


class Founding:
    """Judges rounds of answers. ``others``: ids of the other founders, empty for a replica that joins."""

    def __init__(
        self, replica_id: int, incarnation: int, others: set[int], *, joins: bool, groups: int = 0
    ) -> None:
        """``groups``: how many the cluster has, by this replica's settings; 0: not compared."""
        self._own = replica_id
        self._incarnation = incarnation
        self._others = others
        self._joins = joins
        self._groups = groups
        self._before: dict[int, int] | None = None  # disks in the round before, if all were fresh

    def judge(self, answers: Answers) -> Finding:
        """What one round of answers of this group's replicas, by id, comes to."""
        evidence = self._evidence(answers)
        if evidence is not None:
            self._before = None
            return evidence
        difference = self._difference(answers)
        if difference:
            self._before = None
            return Finding(Verdict.WAIT, {}, difference)
        if self._joins:
            return Finding(
                Verdict.NEW if answers else Verdict.WAIT, {}, "no replica of the group answers"
            )
        missing = sorted(self._others - answers.keys())
        if missing:
            self._before = None
            names = _names(set(missing))
            return Finding(
                Verdict.WAIT, {}, f"replicas {names} do not answer; the first start needs all"
            )
        disks = {other: answers[other].incarnation for other in sorted(self._others)}
        disks[self._own] = self._incarnation
        before, self._before = self._before, disks
        return Finding(Verdict.NEW if disks == before or not self._others else Verdict.WAIT, disks)

    def _difference(self, answers: Answers) -> str:
        """What of the settings of this replica contradicts what the others have: it begins nothing so."""
        for other, answer in sorted(answers.items()):
            if self._groups and answer.groups not in (0, self._groups):
                return (
                    f"replica {other} has OVERDB_GROUPS={answer.groups}, this one {self._groups}: correct it "
                    "where it is wrong, and start that replica again with an empty directory"
                )
            mine, theirs = self._others | {self._own}, {member.id for member in answer.members}
            if self._joins or answer.established or not theirs or mine == theirs:
                continue
            return (
                f"replica {other} has OVERDB_MEMBERS {_names(theirs)}, this one {_names(mine)}: correct it "
                "where it is wrong, and start that replica again with an empty directory"
            )
        return ""

    def _evidence(self, answers: Answers) -> Finding | None:
        """What answers prove by themselves; None: these replicas are as fresh as this one, or cannot know."""
        vouched: Finding | None = None
        unknown: Finding | None = None
        for other, answer in sorted(answers.items()):
            if self._own in answer.retired:
                reason = f"replica {other} knows that id {self._own} was removed"
                return Finding(Verdict.LOST, {}, reason)
            noted = {member.id: member.incarnation for member in answer.members}
            mine = noted.get(self._own) or answer.founders.get(self._own, 0)
            if mine not in (0, self._incarnation):
                return self._lost(other, answer)
            if mine:
                vouched = Finding(Verdict.NEW, dict(answer.founders))
            is_voter = any(member.id == self._own and member.voter for member in answer.members)
            takes_part = answer.established or answer.last_index > 0 or answer.term > 0
            if takes_part and (is_voter or not self._joins):
                unknown = self._lost(other, answer)
        return vouched or unknown

    def _lost(self, other: int, answer: shard_pb2.DescribeResponse) -> Finding:
        return Finding(
            Verdict.LOST,
            {},
            f"replica {other}, whose log ends at entry {answer.last_index} in term {answer.term}, knows "
            f"replica {self._own} with another disk",
        )


def _names(replicas: set[int]) -> str:
    return ", ".join(map(str, sorted(replicas)))
