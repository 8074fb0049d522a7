"""What is committed is in the log of every later leader, and never changes (Raft paper, figure 3)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class LeaderCompleteness:
    """Keeps the term of every committed entry, and in which term at the latest it was committed."""

    def __init__(self) -> None:
        self._committed: dict[int, dict[int, int]] = {}  # group -> index -> term
        self._newest: dict[int, int] = {}
        self._newest_in: dict[
            int, dict[int, int]
        ] = {}  # group -> term -> what was committed by then
        self._checked: set[tuple[int, int]] = set()

    def check(self, seen: Seen) -> None:
        self._check_commit(seen)
        raft = seen.replica.raft
        if raft.is_leader and (seen.group, seen.now.term) not in self._checked:
            self._checked.add((seen.group, seen.now.term))
            self._check_leader(seen)

    def _check_commit(self, seen: Seen) -> None:
        now, before = seen.now, seen.before
        if before is not None and before.commit == now.commit:
            return
        log = seen.replica.raft.log
        committed = self._committed.setdefault(seen.group, {})
        newest = self._newest.get(seen.group, 0)
        start = now.first if before is None else max(now.first, before.commit + 1)
        for index in range(max(1, start), now.commit + 1):
            term = log.term_at(index)
            assert term is not None
            if index > newest and index not in committed:
                committed[index] = term
            elif committed.get(index, term) != term:
                raise Violation(
                    f"{seen.name} commits entry {index} of term {term}; "
                    f"that of term {committed[index]} was committed there before"
                )
        self._newest[seen.group] = max(newest, now.commit)
        in_term = self._newest_in.setdefault(seen.group, {})
        in_term[now.term] = max(in_term.get(now.term, 0), now.commit)

    def _check_leader(self, seen: Seen) -> None:
        """Of what was committed in lower terms: one that learns late of its election, when others have
        led since, need not have what they committed."""
        log, now = seen.replica.raft.log, seen.now
        in_term = self._newest_in.get(seen.group, {})
        newest = max((index for term, index in in_term.items() if term < now.term), default=0)
        if now.last < newest:
            raise Violation(
                f"{seen.name} leads term {now.term} with {now.last} entries; {newest} are committed"
            )
        committed = self._committed.get(seen.group, {})
        for index in range(max(1, now.first), newest + 1):
            if log.term_at(index) != committed.get(index, log.term_at(index)):
                raise Violation(
                    f"{seen.name} leads term {now.term} without the committed entry {index}"
                )
