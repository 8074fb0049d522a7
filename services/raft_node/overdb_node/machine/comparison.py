"""Whose state is wrong? What a replica concludes from the checksums of the others.

A replica judges itself and nobody else. It is *odd* if at some point more than half of all voters, itself
not among them, agree on one value that is not its own. For one point there is at most one such value, so
those that are odd by it are fewer than half: the rest goes on serving. Where values differ and no such
majority exists, nobody can tell who is right: that is an alarm, and all serve on.

Only voters are believed, and to find out who is odd none of those that have found themselves odd: two states
that are wrong prove nothing against a third.
Checksums are compared at equal points alone; what makes a point is in ``Point``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    CHAIN = 1  # of what applying the entries behind ``begin`` up to ``at`` has done
    CONTENT = 2  # of what is stored as of ``at``; ``begin`` is 0


class Point(NamedTuple):
    """What a checksum is of. Two sound replicas have equal values at equal points."""

    at: int  # index of the entry that it is as of
    kind: Kind
    release: str  # of the program, or of the form of the content
    begin: int


Values = Mapping[Point, int]


class Report(NamedTuple):
    """What a replica says of itself."""

    values: Values
    diverged: bool  # it has found itself odd


class Verdict(NamedTuple):
    odd_at: Point | None  # first point at which I am odd
    differing: dict[int, Point]  # voters that differ from me -> first point at which they do
    points: int  # pairs of values that were compared


def judge(me: int, voters: Collection[int], own: Values, reports: Mapping[int, Report]) -> Verdict:
    """Compare the own values with those of the others; ``voters`` by the newest configuration."""
    others = {r: report for r, report in reports.items() if r in voters and r != me}
    odd_at: Point | None = None
    differing: dict[int, Point] = {}
    points = 0
    for point, mine in sorted(own.items()):
        told = {r: one.values[point] for r, one in others.items() if point in one.values}
        points += len(told)
        for replica, value in told.items():
            if value != mine:
                differing.setdefault(replica, point)
        believed = Counter(value for r, value in told.items() if not others[r].diverged)
        value, agreeing = believed.most_common(1)[0] if believed else (mine, 0)
        if odd_at is None and value != mine and 2 * agreeing > len(voters):
            odd_at = point
    return Verdict(odd_at, differing, points)


class Differences:
    """Which replicas differ from this one, remembered until it is known that they do not any more."""

    def __init__(self) -> None:
        self.since: dict[int, Point] = {}  # replica -> where it was seen
        self.diverged: set[int] = set()  # members that have found themselves odd
        self._compared: set[tuple[int, Point, int, int]] = set()
        self.compared = 0  # pairs of values, each counted once
        self.differences = 0  # of them

    def learn(
        self, members: Collection[int], own: Values, reports: Mapping[int, Report], verdict: Verdict
    ) -> dict[int, Point]:
        """Take in a round; return the replicas that were not known to differ before it.

        Equal chains say nothing about what was there before them, equal content does.
        """
        self._count(own, reports)
        fresh = {r: p for r, p in verdict.differing.items() if r not in self.since}
        self.since.update(fresh)
        for replica, point in list(self.since.items()):
            if replica not in members or self._agrees_since(point, own, reports.get(replica)):
                del self.since[replica]
        told = {replica for replica, report in reports.items() if report.diverged}
        silent = self.diverged - reports.keys()  # as it was, until it says otherwise
        self.diverged = (told | silent) & set(members)
        return {replica: point for replica, point in fresh.items() if replica in self.since}

    @property
    def others(self) -> dict[int, Point | None]:
        """Replicas that are not as this one, ascending; None: it says so itself, where is not known."""
        return {r: self.since.get(r) for r in sorted(self.since.keys() | self.diverged)}

    def clear(self) -> None:
        """The own state was replaced."""
        self.since.clear()

    @staticmethod
    def _agrees_since(point: Point, own: Values, report: Report | None) -> bool:
        """Whether all content behind the point is equal, and there is some."""
        if report is None or report.diverged:
            return False
        later = [
            report.values[p] == value
            for p, value in own.items()
            if p.kind is Kind.CONTENT and p.at > point.at and p in report.values
        ]
        return bool(later) and all(later)

    def _count(self, own: Values, reports: Mapping[int, Report]) -> None:
        seen = {
            (replica, point, mine, report.values[point])
            for replica, report in reports.items()
            for point, mine in own.items()
            if point in report.values
        }
        fresh = seen - self._compared
        self._compared = seen
        self.compared += len(fresh)
        self.differences += sum(mine != theirs for _, _, mine, theirs in fresh)
