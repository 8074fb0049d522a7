"""What must hold at every step of a random schedule (the paper's figure 3, PROTOCOL 1)."""

from __future__ import annotations

from overdb_node.raft.messages import (
    Answer,
    Append,
    Chunk,
    Message,
    Offer,
    VoteAnswer,
    VoteRequest,
)
from overdb_node.raft.types import Entry
from tests.paper.host import Disk, Host, State

TAIL_CHECKED = 4


class Checks:
    """Keeps what any replica ever said or applied, and compares."""

    def __init__(self, disks: dict[int, Disk]) -> None:
        self.disks = disks
        self.chosen: dict[int, tuple[int, bytes]] = {}  # applied anywhere, by index
        self.leaders: dict[int, int] = {}  # by term
        self.read_floor = 0  # the newest state that a client may know of
        self._states: dict[int, int] = {}  # digest of the state, by index
        self._chosen_by: list[int] = [0]  # by index: term of the replica that applied it first
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._votes: dict[tuple[int, int], int] = {}  # (voter, term) -> candidate
        self._commit: dict[int, int] = {}
        self._disk_term: dict[int, int] = {}
        self._complete: set[tuple[int, int]] = set()

    # --- what is said ---------------------------------------------------------------------------

    def on_sent(self, sender: int, to: int, message: Message) -> None:
        """Disk before words (1.0): what a message says is on its sender's disk when it leaves."""
        disk = self.disks[sender]
        if isinstance(message, VoteRequest | VoteAnswer):
            if message.pre:
                return
            if isinstance(message, VoteRequest):
                self._voted(sender, message.term, sender)
            elif message.granted:
                self._voted(sender, message.term, to)
        assert disk.hard_state.term >= message.term, f"{sender} spoke of an unwritten term"
        if isinstance(message, Answer) and message.ok:
            assert has(disk, message.agreed, message.agreed_term), (
                f"{sender} acknowledged what is not on its disk: {message}"
            )
        elif isinstance(message, Append | Offer | Chunk):
            self._leads(message.term, sender)

    def _voted(self, voter: int, term: int, candidate: int) -> None:
        """One vote a term, over crashes too (5.2), and it is on disk."""
        before = self._votes.setdefault((voter, term), candidate)
        assert before == candidate, f"{voter} voted twice in term {term}: {before}, {candidate}"
        written = self.disks[voter].hard_state
        assert written.term > term or (written.term, written.vote) == (term, candidate), (
            f"{voter} spoke of an unwritten vote for {candidate} in term {term}"
        )

    def _leads(self, term: int, leader: int) -> None:
        """Election safety: at most one leader in a term."""
        before = self.leaders.setdefault(term, leader)
        assert before == leader, f"two leaders in term {term}: {before} and {leader}"

    # --- what is applied and read ---------------------------------------------------------------

    def on_applied(self, host: Host, entry: Entry, state: State) -> None:
        """State machine safety, and that what is committed is on a majority's disks (FAULTS 28)."""
        mine = (entry.term, entry.payload)
        chosen = self.chosen.get(entry.index)
        if chosen is None:
            self._choose(host, entry)
        else:
            assert chosen == mine, f"{host.replica_id} applied {mine}, another one {chosen}"
        digest = self._states.setdefault(state.index, state.digest)
        assert digest == state.digest, f"{host.replica_id}'s state at {state.index} differs"

    def _choose(self, host: Host, entry: Entry) -> None:
        assert entry.index == len(self._chosen_by), f"entry {entry.index} is applied out of order"
        holders = [i for i, disk in self.disks.items() if has(disk, entry.index, entry.term)]
        assert 2 * len(holders) > len(self.disks), (
            f"entry {entry.index} is applied, only {holders} have it on disk"
        )
        self.chosen[entry.index] = (entry.term, entry.payload)
        self._chosen_by.append(host.raft.term)
        self.read_floor = max(self.read_floor, entry.index)

    def on_read(self, floor: int, index: int) -> None:
        """Linearizability: a read sees all that was committed before it was asked."""
        assert index >= floor, f"a stale read: answered from {index}, {floor} was known before"

    # --- what is kept ---------------------------------------------------------------------------

    def on_restart(self, host: Host) -> None:
        """The commit index may fall back over a restart; the term may not."""
        self._commit.pop(host.replica_id, None)

    def on_step(self, host: Host) -> None:
        """Bounds, monotony, log matching and leader completeness for one replica."""
        raft, replica = host.raft, host.replica_id
        last = raft.log.last_index
        assert raft.applied <= raft.commit_index <= raft.agreed <= last, "bounds of 1.0"
        assert raft.applied <= raft.durable <= last, "bounds of 1.0"
        assert raft.commit_index >= self._commit.get(replica, 0), "the commit index fell"
        self._commit[replica] = raft.commit_index
        term = host.disk.hard_state.term
        assert raft.term >= term >= self._disk_term.get(replica, 0), "the term fell"
        self._disk_term[replica] = term
        self._match(host, max(raft.log.first_index + 1, last - TAIL_CHECKED))
        if raft.is_leader and (raft.term, replica) not in self._complete:
            assert term == raft.term, f"{replica} leads in a term that is not on its disk"
            self._complete.add((raft.term, replica))
            self._leads(raft.term, replica)
            self._match(host, raft.log.first_index + 1)
            self._has_all(host)

    def _match(self, host: Host, first: int) -> None:
        """Log matching: an entry (index, term) is the same everywhere, and so is the one before."""
        log = host.raft.log
        first = max(first, log.evicted_index + 1)
        if first > log.last_index:
            return
        before = log.term_at(first - 1)
        assert before is not None
        for entry in log.slice(first, log.last_index):
            mine = (entry.payload, before)
            known = self._entries.setdefault((entry.index, entry.term), mine)
            assert known == mine, f"entry {entry.term}.{entry.index} is not the same everywhere"
            before = entry.term

    def _has_all(self, host: Host) -> None:
        """Leader completeness: a leader has every entry that was committed in an older term."""
        log, term = host.raft.log, host.raft.term
        for index in range(max(1, log.first_index), len(self._chosen_by)):
            if self._chosen_by[index] < term:
                assert log.term_at(index) == self.chosen[index][0], (
                    f"the leader of term {term} misses the committed entry {index}"
                )

    def on_end(self, hosts: list[Host]) -> None:
        """After healing: every log matches in full, and all ends are alike."""
        assert len({(h.raft.log.last_index, h.raft.log.last_term) for h in hosts}) == 1
        for host in hosts:
            self._match(host, host.raft.log.first_index + 1)


def has(disk: Disk, index: int, term: int) -> bool:
    """Whether this disk holds the entry, in its log or within its snapshot."""
    position = index - disk.snapshot.index
    if position < 0:
        return True
    if position == 0:
        return disk.snapshot.term == term
    return position <= len(disk.entries) and disk.entries[position - 1].term == term
