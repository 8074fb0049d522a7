"""How often and how long ``Client.run`` tries: a deadline, a number of attempts, pauses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from overdb._endpoints import backoff_seconds
from overdb._limits import TIMEOUT_SECONDS_MAX, Limits
from overdb.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from overdb.transaction import Transaction

RUN_SECONDS = 30.0
RUN_ATTEMPTS = 1000
_EARLY_SECONDS = 0.01  # a timer may fire before its time by as much as its clock is coarse


class Tries:
    """The attempts of one run. Seconds are those of the monotonic clock."""

    def __init__(self, seconds: float, attempts: int, limits: Limits) -> None:
        """Begin. InvalidArgument for a time or a number that makes no sense."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InvalidArgument(f"timeout {seconds!r} is not a number of seconds")
        if not 0 < seconds <= TIMEOUT_SECONDS_MAX:
            raise InvalidArgument(
                f"timeout of {seconds} seconds: it must be above 0 and at most "
                f"{TIMEOUT_SECONDS_MAX:g}"
            )
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise InvalidArgument(f"attempts {attempts!r} is not a number from 1 on")
        self._limits = limits
        self._attempts = attempts
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.made = 0  # attempts that ended in a conflict

    def remaining_seconds(self) -> float:
        """Return the time that is left; below 0 when it is over."""
        return self.deadline - time.monotonic()

    def pause_seconds(self) -> float | None:
        """Count a conflict; return how long to wait before the next attempt, None if it was the last.

        The pause doubles up to the limit of the client's backoff, with jitter.
        """
        pause = self.backoff_seconds(self.made)
        self.made += 1
        if self.made >= self._attempts or pause >= self.remaining_seconds():
            return None
        return pause

    def ended_by(self, error: BaseException) -> bool:
        """Return whether this is a request that was ended because the time of the run is over."""
        return isinstance(error, DeadlineExceeded) and self.remaining_seconds() < _EARLY_SECONDS

    def backoff_seconds(self, failures: int) -> float:
        """Return how long to wait after so many failures before this one."""
        return backoff_seconds(self._limits, failures)


def outlived(transaction: Transaction, error: BaseException) -> bool:
    """Return whether a block ended because the version that it read at is no longer kept.

    Then nothing was written, and the block may run again on new reads.
    """
    return transaction.outlived and isinstance(error, FailedPrecondition)
