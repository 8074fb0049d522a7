"""What the votes of all participants amount to. Nothing else decides (PROTOCOL 2.3)."""

from __future__ import annotations

from collections.abc import Iterable

from overdb_node.machine.types import Outcome, Refused, Resolve, TransactionId, Vote, VoteKind


def decide(identity: TransactionId, attempt: int, votes: Iterable[Vote | None]) -> Resolve | None:
    """The outcome as a fact, from the vote of every participant; None while one of them is missing.

    Whoever has all votes comes to the same: routers and any number of finishers.
    """
    votes = list(votes)
    if any(vote is not None and _is_refusal(vote, attempt) for vote in votes):
        return Resolve(identity, attempt, Outcome.ABORTED, 0)
    prepared = [
        vote
        for vote in votes
        if vote is not None and vote.kind is VoteKind.PREPARED and vote.attempt == attempt
    ]
    if not prepared or len(prepared) < len(votes):
        return None
    outcome = Outcome.THEN if all(vote.holds for vote in prepared) else Outcome.OTHERWISE
    if any(
        isinstance(vote.then if outcome is Outcome.THEN else vote.otherwise, Refused)
        for vote in prepared
        if vote.outcome is not Outcome.NONE
    ) or any(vote.outcome is Outcome.NONE for vote in prepared):
        outcome = Outcome.NONE
    return Resolve(identity, attempt, outcome, max(vote.version for vote in prepared))


def _is_refusal(vote: Vote, attempt: int) -> bool:
    if vote.attempt != attempt:
        return False
    return vote.kind is VoteKind.REFUSED or vote.outcome is Outcome.ABORTED
