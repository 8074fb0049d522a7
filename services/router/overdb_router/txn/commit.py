"""One transaction over several groups, from the first Prepare to the last Forget (PROTOCOL 2.3, 2.4).

Answers and time-outs in, messages and the verdict out. Nothing but the votes decides, so the verdict
leaves the moment the last vote is there, before any participant knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from overdb_common.outcome import Ballot, answer_bytes_of, outcome_of
from overdb_router.txn.types import (
    Action,
    Backoff,
    Branch,
    Committed,
    Failed,
    Forget,
    NotRun,
    Outcome,
    Prepare,
    Prepared,
    Refused,
    Resolve,
    Reused,
    Rival,
    Stale,
    Superseded,
    TooLarge,
    Unknown,
    Verdict,
    Vote,
)


class State(IntEnum):
    """Where the current attempt is."""

    PREPARING = 0  # votes are missing
    BACKOFF = 1  # aborted; the next attempt waits for ``wake``
    RESOLVING = 2  # committed; acknowledgements are missing
    DONE = 3  # nothing is sent any more, whatever comes in


class Commit:
    """The protocol for one transaction id, as far as this router drives it.

    ``own_id`` says that this router made up the id, so nobody else can run another attempt.
    """

    __slots__ = (
        "_acknowledged",
        "_outcome",
        "_own_id",
        "_participants",
        "_retries",
        "_rival",
        "_votes",
        "answered",
        "attempt",
        "state",
    )

    def __init__(self, participants: Iterable[int], *, own_id: bool) -> None:
        self._participants = tuple(sorted(set(participants)))
        assert len(self._participants) > 1, "one group alone needs no protocol"
        self._own_id = own_id
        self._votes: dict[int, Prepared] = {}
        self._outcome: Outcome | None = None  # a commit that a participant knows of
        self._acknowledged: set[int] = set()
        self._rival: Rival | None = None
        self._retries = 0
        self.attempt = 0
        self.state = State.PREPARING
        self.answered = False

    @property
    def done(self) -> bool:
        return self.state is State.DONE

    # --- inputs ---------------------------------------------------------------------------------

    def start(self) -> list[Action]:
        """Begin the first attempt."""
        return self._prepare(0)

    def vote(self, group: int, vote: Vote) -> list[Action]:
        """A participant answered a Prepare; only what concerns the current attempt counts (2.2)."""
        if isinstance(vote, Superseded):
            return self._superseded(vote.attempt)
        if vote.attempt != self.attempt or group not in self._participants:
            return []
        if self.state is State.PREPARING:
            return self._voted(group, vote)
        if self.state is State.BACKOFF and isinstance(vote, Refused) and not vote.again:
            return self.fail(vote.error)
        return []

    def resolved(self, group: int, attempt: int) -> list[Action]:
        """A participant acknowledged the Resolve of an attempt."""
        if self.state is not State.RESOLVING or attempt != self.attempt:
            return []
        if group in self._participants:
            self._acknowledged.add(group)
        if len(self._acknowledged) < len(self._participants):
            return []
        self.state = State.DONE
        return [Forget(one, attempt) for one in self._participants]

    def wake(self) -> list[Action]:
        """The backoff is over."""
        if self.state is not State.BACKOFF:
            return []
        return self._prepare(self.attempt + 1)

    def give_up(self) -> list[Action]:
        """There is no time left. What the votes say later is still carried out, but not answered."""
        if self.answered:
            return []
        if self.state is State.BACKOFF:
            self.state = State.DONE
            if self._own_id:
                return self._answer(NotRun(self._rival, self._retries))
            # Another router may be running the next attempt (2.3).
            return self._answer(Unknown(self._rival, self._retries, ()))
        silent = tuple(one for one in self._participants if one not in self._votes)
        return self._answer(Unknown(self._rival, self._retries + 1, silent))

    def fail(self, error: object) -> list[Action]:
        """It can never commit from here, for a reason that is no fact for anybody else."""
        if self.state not in (State.PREPARING, State.BACKOFF):
            return []
        self._stop()
        return self._answer(Failed(error))

    def abandon(self) -> None:
        """It goes on under another id, and nobody waits for an answer to this one."""
        self._stop()
        self.answered = True

    # --- votes ----------------------------------------------------------------------------------

    def _voted(self, group: int, vote: Vote) -> list[Action]:
        if isinstance(vote, Prepared):
            return self._prepared(group, vote)
        if isinstance(vote, Refused):
            self._rival = vote.rival or self._rival
            return self._aborted(None if vote.again else vote.error)
        assert isinstance(vote, Stale | Reused)
        return self.fail(vote.error)

    def _prepared(self, group: int, vote: Prepared) -> list[Action]:
        if vote.outcome is not None:
            if vote.outcome.branch is Branch.ABORTED:
                return self._aborted(None)
            self._outcome = vote.outcome
        self._votes.setdefault(group, vote)
        if len(self._votes) < len(self._participants):
            return []
        return self._committed()

    def _committed(self) -> list[Action]:
        """Every participant is prepared for this attempt: that is the commit (2.3)."""
        votes = self._votes
        ballots = [votes[group].ballot() for group in self._participants]
        outcome = self._outcome or outcome_of(ballots)
        actions: list[Action] = []
        if outcome.branch is Branch.NONE:
            actions += self._answer(Failed(self._why_none(ballots)))
        else:
            actions += self._answer(Committed(outcome.branch, outcome.version, votes))
        self.state = State.RESOLVING
        self._votes = {}
        return actions + self._resolves(outcome)

    def _why_none(self, ballots: Sequence[Ballot]) -> object | None:
        """Return the error of the first participant that has one for the branch, else the answer's size."""
        branch = Branch.THEN if all(ballot.holds for ballot in ballots) else Branch.OTHERWISE
        errors = (self._votes[group].error(branch) for group in self._participants)
        error = next((error for error in errors if error is not None), None)
        size = answer_bytes_of(ballots)
        return TooLarge(size) if error is None and size else error

    def _aborted(self, error: object | None) -> list[Action]:
        """A stored Refused aborts the attempt. With an error, another one would end the same."""
        if self._outcome is not None:
            return []  # a participant says that it committed: that is a fact, so this cannot be
        self._votes.clear()
        actions = self._resolves(Outcome(Branch.ABORTED))
        if error is not None or self.answered:
            self.state = State.DONE
            return self._answer(Failed(error)) + actions
        self.state = State.BACKOFF
        self._retries += 1
        return [*actions, Backoff(self._retries - 1)]

    def _superseded(self, attempt: int) -> list[Action]:
        """Somebody started a newer attempt, because this one is aborted: join it (2.3)."""
        if attempt <= self.attempt or self.state not in (State.PREPARING, State.BACKOFF):
            return []
        if self._outcome is not None:
            return []
        if self.answered:
            self._stop()
            return []
        return self._prepare(attempt)

    # --- outputs --------------------------------------------------------------------------------

    def _prepare(self, attempt: int) -> list[Action]:
        self.attempt = attempt
        self.state = State.PREPARING
        self._votes.clear()
        return [Prepare(group, attempt) for group in self._participants]

    def _resolves(self, outcome: Outcome) -> list[Action]:
        return [
            Resolve(group, self.attempt, outcome.branch, outcome.version)
            for group in self._participants
        ]

    def _answer(self, verdict: Committed | Failed | Unknown | NotRun) -> list[Action]:
        if self.answered:
            return []
        self.answered = True
        return [Verdict(verdict)]

    def _stop(self) -> None:
        self.state = State.DONE
        self._votes.clear()
