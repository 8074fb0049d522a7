"""What is committed is on the disks of a majority of the voters (PROTOCOL 1.0; FAULTS 28)."""

from __future__ import annotations

from tests.simulation.cluster.invariants.base import Seen, Violation


class DurableQuorum:
    """Looks at the disks themselves, where Raft goes by what the others have said of theirs."""

    def __init__(self) -> None:
        # (group, index, term) -> who has had the entry on its disk; nobody cuts it once it may be committed
        self._holders: dict[tuple[int, int, int], set[int]] = {}
        self._durable: dict[tuple[str, int], int] = {}  # by replica and life
        self._committed: dict[int, int] = {}

    def check(self, seen: Seen) -> None:
        now = seen.now
        if now.installing:
            return
        self._note(seen)
        if now.commit <= self._committed.get(seen.group, 0):
            return
        self._committed[seen.group] = now.commit
        term = seen.replica.raft.log.term_at(now.commit)
        if now.commit == now.first or term is None:
            return
        holders = self._holders.get((seen.group, now.commit, term), set())
        voters = set(seen.replica.raft.voters)
        if 2 * len(holders & voters) <= len(voters):
            raise Violation(
                f"{seen.name}: entry {now.commit} of term {term} is committed and on the disks of "
                f"{sorted(holders)}; the voters are {sorted(voters)}"
            )

    def _note(self, seen: Seen) -> None:
        now, log = seen.now, seen.replica.raft.log
        before = seen.before
        known = self._durable.get((seen.name, seen.life), 0)
        self._durable[seen.name, seen.life] = now.durable
        same = before is not None and before.durable == now.durable and before.term == now.term
        if same:
            return
        # Another leader may have put other entries where some were cut.
        start = known if before is not None and before.term == now.term else 0
        for index in range(max(start, now.first) + 1, now.durable + 1):
            term = log.term_at(index)
            assert term is not None
            self._holders.setdefault((seen.group, index, term), set()).add(seen.replica_id)
