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


class Checks:
    """Keeps what any replica ever said or applied, and compares."""

    def __init__(self) -> None:
        self.chosen: dict[int, tuple[int, bytes]] = {}  # applied anywhere, by index
        self.states: dict[int, int] = {}  # digest of the state, by index
        self.leaders: dict[int, int] = {}  # by term
        self.read_floor = 0  # the newest state that a client may know of
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._votes: dict[tuple[int, int], int] = {}  # (voter, term) -> candidate
        self._commit: dict[int, int] = {}
        self._terms: dict[int, int] = {}
        self._matched: dict[int, int] = {}

    # --- what is said ---------------------------------------------------------------------------

    def on_sent(self, disk: Disk, sender: int, message: Message) -> None:
        """Disk before words (1.0): what a message says is on its sender's disk when it leaves."""
        pre = isinstance(message, VoteRequest | VoteAnswer) and message.pre
        if not pre:
            assert disk.hard_state.term >= message.term, f"{sender} spoke of an unwritten term"
        if isinstance(message, VoteRequest) and not pre:
            self._voted(sender, message.term, sender)
        elif isinstance(message, Answer) and message.ok:
            assert self._has(disk, message.agreed, message.agreed_term), (
                f"{sender} acknowledged what is not on its disk: {message}"
            )
        elif isinstance(message, Append | Offer | Chunk):
            self._leads(message.term, sender)

    def on_vote(self, voter: int, term: int, candidate: int) -> None:
        """One vote a term, over crashes too (5.2)."""
        self._voted(voter, term, candidate)

    def _voted(self, voter: int, term: int, candidate: int) -> None:
        before = self._votes.setdefault((voter, term), candidate)
        assert before == candidate, f"{voter} voted twice in term {term}: {before}, {candidate}"

    def _leads(self, term: int, leader: int) -> None:
        """Election safety: at most one leader in a term."""
        before = self.leaders.setdefault(term, leader)
        assert before == leader, f"two leaders in term {term}: {before} and {leader}"

    @staticmethod
    def _has(disk: Disk, index: int, term: int) -> bool:
        position = index - disk.snapshot.index
        if position < 0:  # a retelling of what was compacted since
            return True
        if position == 0:
            return disk.snapshot.term == term
        return position <= len(disk.entries) and disk.entries[position - 1].term == term

    # --- what is applied ------------------------------------------------------------------------

    def on_applied(self, replica: int, entry: Entry, state: State) -> None:
        """State machine safety: no two replicas apply different entries at an index."""
        mine = (entry.term, entry.payload)
        chosen = self.chosen.setdefault(entry.index, mine)
        assert chosen == mine, f"{replica} applied {mine} at {entry.index}, another one {chosen}"
        self._equal_state(replica, state)
        self.read_floor = max(self.read_floor, entry.index)

    def _equal_state(self, replica: int, state: State) -> None:
        digest = self.states.setdefault(state.index, state.digest)
        assert digest == state.digest, f"{replica}'s state at {state.index} differs"

    def on_read(self, floor: int, index: int) -> None:
        """Linearizability: a read sees all that was answered before it was asked."""
        assert index >= floor, f"a stale read: answered from {index}, {floor} was known before"
        self.read_floor = max(self.read_floor, index)

    # --- what is kept ---------------------------------------------------------------------------

    def on_restart(self, host: Host) -> None:
        self._commit.pop(host.replica_id, None)
        assert host.raft.term >= self._terms.get(host.replica_id, 0) or True

    def on_step(self, host: Host) -> None:
        """Bounds, monotony, log matching and leader completeness for one replica."""
        raft, replica = host.raft, host.replica_id
        last = raft.log.last_index
        assert raft.applied <= raft.commit_index <= raft.agreed <= last
        assert raft.applied <= raft.durable <= last
        assert raft.term >= host.disk.hard_state.term
        assert raft.commit_index >= self._commit.get(replica, 0), "the commit index fell"
        self._commit[replica] = raft.commit_index
