"""Two logs with an entry of the same index and term are equal up to it (Raft paper, figure 3)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class LogMatching:
    """By induction: (index, term) names one payload and one term before it, wherever it is seen."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int, int], tuple[int, int]] = {}

    def check(self, seen: Seen) -> None:
        before, now = seen.before, seen.now
        if before is not None and (before.last, before.last_term, before.term) == (
            now.last,
            now.last_term,
            now.term,
        ):
            return
        log = seen.replica.raft.log
        index = now.last
        while index > now.first:
            term = log.term_at(index)
            assert term is not None
            entry = log.slice(index, index)[0]
            known = (hash((entry.kind, entry.payload)), log.term_at(index - 1) or 0)
            stored = self._entries.setdefault((seen.group, index, term), known)
            if stored is known:
                index -= 1
                continue
            if stored != known:
                raise Violation(
                    f"{seen.name}: entry {index} of term {term} is not what it is elsewhere"
                )
            if before is not None and index <= before.last:
                return  # the rest was looked at when it came
            index -= 1
