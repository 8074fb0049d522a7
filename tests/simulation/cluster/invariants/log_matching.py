"""Two logs with an entry of the same index and term are equal up to it (Raft paper, figure 3)."""

from __future__ import annotations

from overdb_node.raft.types import Entry
from tests.simulation.cluster.invariants.base import Seen, Violation


class LogMatching:
    """By induction: (index, term) names one payload and one term before it, wherever it is seen."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._lasts: dict[
            str, tuple[int, Entry | None]
        ] = {}  # by replica: end of its log when seen

    def check(self, seen: Seen) -> None:
        log = seen.replica.raft.log
        last = (
            log.slice(seen.now.last, seen.now.last)[0] if seen.now.last > seen.now.first else None
        )
        known = self._lasts.get(seen.name)
        self._lasts[seen.name] = (seen.now.last, last)
        before = seen.before
        same_term = before is not None and before.term == seen.now.term
        if same_term and known is not None and known[1] is last:
            return
        for index in range(seen.now.last, self._checked(seen, known), -1):
            term = log.term_at(index)
            assert term is not None
            entry = log.slice(index, index)[0]
            content = (hash((entry.kind, entry.payload)), log.term_at(index - 1) or 0)
            if self._entries.setdefault((seen.group, index, term), content) != content:
                raise Violation(
                    f"{seen.name}: entry {index} of term {term} is not what it is elsewhere"
                )

    @staticmethod
    def _checked(seen: Seen, known: tuple[int, Entry | None] | None) -> int:
        """Up to where the log is the one that was looked at before: all of it, if nothing was cut."""
        first, log = seen.now.first, seen.replica.raft.log
        if seen.before is None or known is None or seen.before.term != seen.now.term:
            return first
        index, entry = known
        if entry is None or not first < index <= seen.now.last:
            return first
        return index if log.slice(index, index)[0] is entry else first
