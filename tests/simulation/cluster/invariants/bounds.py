"""The bounds of PROTOCOL 1.0, and what only grows: terms, and commit, agreed and applied in one life."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Look, Seen, Violation


class Bounds:
    def check(self, seen: Seen) -> None:
        now = seen.now
        if (
            not now.applied <= now.commit <= now.agreed <= now.last
            or not now.applied <= now.durable
        ):
            raise Violation(f"{seen.name}: bounds do not hold: {now}")
        if seen.before is not None:
            self._check_growth(seen.name, seen.before, now)

    def _check_growth(self, name: str, before: Look, now: Look) -> None:
        if now.term < before.term:
            raise Violation(f"{name}: term {before.term} became {now.term}")
        if now.commit < before.commit or now.applied < before.applied or now.first < before.first:
            raise Violation(f"{name}: went back from {before} to {now}")
        if now.term == before.term and before.vote and now.vote != before.vote:
            raise Violation(
                f"{name}: voted for {before.vote} and then for {now.vote} in term {now.term}"
            )
