"""What goes into the commit protocol and what comes out of it (PROTOCOL 2.2-2.4).

Errors and payloads are opaque here: they are passed on to whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overdb_common.outcome import Ballot, Branch, Outcome, Part

__all__ = ["Branch", "Outcome"]


@dataclass(frozen=True, slots=True)
class Rival:
    """The transaction that was in the way, and where."""

    client_id: bytes
    number: int
    key: bytes
    group: int


# --- votes: what a participant answers to a Prepare ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """It holds all its keys. ``payload`` has the results of both branches."""

    attempt: int
    holds: bool
    version: int
    then_error: object | None = None
    otherwise_error: object | None = None
    outcome: Outcome | None = None
    payload: object = None
    sized: bool = False
    then_answer_bytes: int = 0
    otherwise_answer_bytes: int = 0

    def error(self, branch: Branch) -> object | None:
        """Why a branch cannot be carried out here, None when it can."""
        return self.then_error if branch is Branch.THEN else self.otherwise_error

    def ballot(self) -> Ballot:
        """What of it decides."""
        return Ballot(
            self.holds,
            self.version,
            Part(self.then_error is None, self.then_answer_bytes),
            Part(self.otherwise_error is None, self.otherwise_answer_bytes),
            self.sized,
            self.outcome,
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not take part in this attempt. ``again``: another attempt may go better."""

    attempt: int
    error: object
    again: bool
    rival: Rival | None = None


@dataclass(frozen=True, slots=True)
class Superseded:
    """It knows of a newer attempt, this one."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Stale:
    """The id is stale or expired there and nothing is kept under it. Not a vote."""

    attempt: int
    error: object


@dataclass(frozen=True, slots=True)
class Reused:
    """The id belongs to another request there. Not a vote."""

    attempt: int
    error: object


Vote = Prepared | Refused | Superseded | Stale | Reused


# --- verdicts: what to answer ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Committed:
    """The branch ran at ``version``; ``votes`` have the results of each group."""

    branch: Branch
    version: int
    votes: Mapping[int, Prepared]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The error of a transaction whose answer would be too large over all groups together."""

    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing was done and nothing ever will be under this id, or it is not for this request."""

    error: object


@dataclass(frozen=True, slots=True)
class Unknown:
    """Given up without a decision: it may have run or may run yet."""

    rival: Rival | None
    attempts: int
    silent: tuple[int, ...]  # groups without a vote for the last attempt


@dataclass(frozen=True, slots=True)
class NotRun:
    """Given up while the newest attempt is known to be aborted, and nobody can start another one."""

    rival: Rival | None
    attempts: int


# --- actions: what to do ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepare:
    group: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Resolve:
    group: int
    attempt: int
    branch: Branch
    version: int


@dataclass(frozen=True, slots=True)
class Forget:
    group: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Backoff:
    """Call ``wake`` after a while, a longer one the higher the number (from 0)."""

    retry: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Tell the client; once at most."""

    verdict: Committed | Failed | Unknown | NotRun


Action = Prepare | Resolve | Forget | Backoff | Verdict
