"""The time of a group: the lower median of its voters' wall clocks, as the leader heard them (PROTOCOL 2.1).

Pure: wall clocks and the time of a clock that nobody sets come in as arguments, all in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# A clock that was not heard for longer does not count: it may have been set since.
HEARD_US_MAX = 3_000_000
WALL_US_MAX = 1 << 62  # stamps beyond this are taken as this by ``machine.clock`` too


class _Heard(NamedTuple):
    """The wall clock of one replica; ``wall_us`` 0: it answers, and says no clock (release 0.1.0)."""

    round: int
    wall_us: int
    at_us: int


def lower_median(clocks: Sequence[int]) -> int:
    """Returns the middle one, of an even number the smaller of the two in the middle."""
    return sorted(clocks)[(len(clocks) - 1) // 2]


class GroupTime:
    """What a leader has heard of the other voters' clocks. Nothing is kept from one term to the next."""

    def __init__(self, replica_id: int) -> None:
        self._replica_id = replica_id
        self._term = 0
        self._heard: dict[int, _Heard] = {}

    def heard(self, term: int, replica: int, round_: int, wall_us: int, at_us: int) -> None:
        """Take in the clock of an Answer of the leader's own ``term``, received at ``at_us``."""
        if term != self._term:
            self._term, self._heard = term, {}
        known = self._heard.get(replica)
        if known is None or round_ >= known.round:  # else it was overtaken by a newer one
            self._heard[replica] = _Heard(round_, min(wall_us, WALL_US_MAX), at_us)

    def forget(self) -> None:
        """The own clock has jumped. Where all machines slept, what was heard before is too old."""
        self._heard = {}

    def clocks(self, term: int, own_wall_us: int, now_us: int) -> dict[int, int]:
        """Returns what the clocks say at ``now_us``, by replica; 0 for one that answers without a clock."""
        said = {self._replica_id: own_wall_us}
        if term == self._term:
            for replica, (_, wall_us, at_us) in self._heard.items():
                age_us = now_us - at_us
                if 0 <= age_us <= HEARD_US_MAX:
                    said[replica] = wall_us + age_us if wall_us else 0
        return said

    def median(self, term: int, voters: Sequence[int], own_wall_us: int, now_us: int) -> int | None:
        """Returns the group's time; None while a leader of ``term`` has not heard enough clocks.

        Enough is a quorum of the voters, the leader included. Where those that answer are a quorum only with
        some that say no clock, the leader's own clock counts, as in release 0.1.0: otherwise time would stand
        still in a rolling upgrade.
        """
        clocks = self.clocks(term, own_wall_us, now_us)
        answering = [clocks[voter] for voter in voters if voter in clocks]
        said = [clock for clock in answering if clock]
        if 2 * len(said) > len(voters):
            return lower_median(said)
        if 2 * len(answering) > len(voters):
            return own_wall_us
        return None
