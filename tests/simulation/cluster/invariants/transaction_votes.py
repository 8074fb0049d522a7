"""A vote of a participant never changes, and an outcome neither (PROTOCOL 2.3)."""

from __future__ import annotations

from typing import Any

from tests.simulation.cluster.hostile import is_made_up
from tests.simulation.cluster.invariants.base import Applied, Seen, Violation


class TransactionVotes:
    def __init__(self) -> None:
        self._votes: dict[tuple[int, Any, int], tuple[Any, ...]] = {}
        self._outcomes: dict[tuple[Any, int], tuple[Any, int]] = {}
        self.seen = 0

    def check_entry(self, applied: Applied) -> None:
        """Before the replica reports them, and forgets."""
        alarms = [one for one in applied.machine.participant.alarms if not is_made_up(one)]
        if alarms:
            raise Violation(f"{applied.name}: alarm: {alarms}")

    def check(self, seen: Seen) -> None:
        now, before = seen.now, seen.before
        if now.installing or (before is not None and before.applied == now.applied):
            return
        participant = seen.replica.machine.participant
        for transactions in (participant.open, participant.unforgotten):
            for identity, one in transactions.items():
                if one.vote is not None:
                    self._check_vote(seen, identity, one)

    def _check_vote(self, seen: Seen, identity: Any, one: Any) -> None:
        vote = one.vote
        self.seen += 1
        told = (vote.kind, vote.holds, vote.version)
        first = self._votes.setdefault((seen.group, identity, one.attempt), told)
        if first != told:
            raise Violation(f"{seen.name}: the vote of {identity} was {first} and is {told}")
        if vote.outcome is not None:
            outcome = (vote.outcome, vote.commit_version)
            decided = self._outcomes.setdefault((identity, one.attempt), outcome)
            if decided != outcome:
                raise Violation(f"{identity}: decided {decided}, and {outcome} in {seen.name}")
