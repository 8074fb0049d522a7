"""The outcome of a transaction over several groups, from the votes of its participants (PROTOCOL 2.3).

Routers, the leaders that finish a transaction for a router that is gone, and ``TransactionStatus`` all decide
by this one function, so that they cannot come to different outcomes. Pure; nothing but the votes decides.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

# From this level on participants count what they read, and older routers are refused (PROTOCOL 4).
COUNTING_LEVEL = 1

# The answer to a transaction, in bytes: what a gRPC client receives at most, if nobody configured it.
ANSWER_BYTES_MAX = 4 << 20
# Of one operation's result beside its value, with its share of all that is around the results, at most.
RESULT_OVERHEAD_BYTES = 64


class Branch(IntEnum):
    """What an attempt came to; the numbers are those of the wire (log.proto) and of the records on disk."""

    ABORTED = 0
    THEN = 1
    OTHERWISE = 2
    NONE = 3  # committed without effect


class Outcome(NamedTuple):
    branch: Branch
    version: int = 0  # commit timestamp


class Part(NamedTuple):
    """What one participant says of one branch."""

    runs: bool = True  # every operation of it can be carried out
    answer_bytes: int = 0  # of its results, as ``answer_bytes`` counts them


class Ballot(NamedTuple):
    """What decides of one participant's PREPARED vote."""

    holds: bool
    version: int
    then: Part = Part()
    otherwise: Part = Part()
    sized: bool = False  # the participant has counted ``answer_bytes``; the router knows the bound
    known: Outcome | None = None  # the participant was told of this outcome; not an abort


def outcome_of(ballots: Collection[Ballot]) -> Outcome:
    """Return the outcome of an attempt for which every participant is prepared."""
    known = next((ballot.known for ballot in ballots if ballot.known is not None), None)
    if known is not None:
        return known
    branch = Branch.THEN if all(ballot.holds for ballot in ballots) else Branch.OTHERWISE
    runs = all(part.runs for part in _parts(ballots, branch))
    if not runs or answer_bytes_of(ballots) > ANSWER_BYTES_MAX:
        branch = Branch.NONE
    return Outcome(branch, max(ballot.version for ballot in ballots))


def answer_bytes_of(ballots: Collection[Ballot]) -> int:
    """Return the bytes of the answer if this is committed; 0 where the bound does not apply.

    It applies only if all votes are sized: a group of level 0 has not counted, and hears older routers.
    """
    if not all(ballot.sized for ballot in ballots):
        return 0
    branch = Branch.THEN if all(ballot.holds for ballot in ballots) else Branch.OTHERWISE
    return sum(part.answer_bytes for part in _parts(ballots, branch))


def answer_bytes(value_bytes: int) -> int:
    """Return what one operation's result counts for in the answer."""
    return value_bytes + RESULT_OVERHEAD_BYTES


def _parts(ballots: Collection[Ballot], branch: Branch) -> list[Part]:
    return [ballot.then if branch is Branch.THEN else ballot.otherwise for ballot in ballots]
