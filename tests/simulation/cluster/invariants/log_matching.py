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
        log, now = seen.replica.raft.log, seen.now
        last = log.slice(now.last, now.last)[0] if now.last > log.evicted_index else None
        known = self._lasts.get(seen.name)
        self._lasts[seen.name] = (now.last, last)
        before = seen.before
        same_term = before is not None and before.term == now.term
        if same_term and known is not None and known[0] == now.last and known[1] is last:
            return
        for index in range(now.last, self._checked(seen, known), -1):
            self._check_entry(seen, index)

    def _check_entry(self, seen: Seen, index: int) -> None:
        """Of an entry that is not in memory any more, only the terms are known here."""
        log = seen.replica.raft.log
        term, term_before = log.term_at(index), log.term_at(index - 1) or 0
        assert term is not None
        key = (seen.group, index, term)
        if index > log.evicted_index:
            entry = log.slice(index, index)[0]
            content = (hash((entry.kind, entry.payload)), term_before)
            good = self._entries.setdefault(key, content) == content
        else:
            good = key not in self._entries or self._entries[key][1] == term_before
        if not good:
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
        if not first < index <= seen.now.last:
            return first
        if index <= log.evicted_index:
            return index  # it was applied: nothing up to it is cut
        return index if log.slice(index, index)[0] is entry else first
