"""What the votes of all participants amount to. Nothing else decides (PROTOCOL 2.3)."""

from __future__ import annotations

from collections.abc import Iterable

from overdb_common import outcome
from overdb_common.outcome import Ballot, Part, outcome_of
from overdb_node.machine.types import (
    OperationResult,
    Outcome,
    Refused,
    Resolve,
    TransactionId,
    Vote,
    VoteKind,
)


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
    branch, version = outcome_of(list(map(_ballot, prepared)))
    return Resolve(identity, attempt, Outcome(branch), version)


def _ballot(vote: Vote) -> Ballot:
    known = None
    if vote.outcome is not None:
        known = outcome.Outcome(outcome.Branch(vote.outcome), vote.commit_version)
    return Ballot(
        vote.holds,
        vote.version,
        _part(vote.then, vote.then_answer_bytes),
        _part(vote.otherwise, vote.otherwise_answer_bytes),
        vote.sized,
        known,
    )


def _part(results: tuple[OperationResult, ...] | Refused, answer_bytes: int) -> Part:
    return Part(not isinstance(results, Refused), answer_bytes)


def _is_refusal(vote: Vote, attempt: int) -> bool:
    if vote.attempt != attempt:
        return False
    return vote.kind is VoteKind.REFUSED or vote.outcome is Outcome.ABORTED
