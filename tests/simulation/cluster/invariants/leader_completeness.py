"""What is committed is in the log of every later leader, and never changes (Raft paper, figure 3)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class LeaderCompleteness:
    """Keeps the term of every committed entry, and who can have committed it."""

    def __init__(self) -> None:
        self._committed: dict[int, dict[int, int]] = {}  # group -> index -> term
        self._newest: dict[int, int] = {}
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

    def _check_leader(self, seen: Seen) -> None:
        log = seen.replica.raft.log
        newest = self._newest.get(seen.group, 0)
        if seen.now.last < newest:
            raise Violation(
                f"{seen.name} leads term {seen.now.term} with {seen.now.last} entries; "
                f"{newest} are committed"
            )
        committed = self._committed.get(seen.group, {})
        for index in range(max(1, seen.now.first), newest + 1):
            if log.term_at(index) != committed.get(index, log.term_at(index)):
                raise Violation(
                    f"{seen.name} leads term {seen.now.term} without the committed entry {index}"
                )
