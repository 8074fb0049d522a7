"""Short words for the tests of single rules: a log is written like ``"1.1 1.2 2.3"``.

``2.3`` is the entry of term 2 at index 3. A log that begins with a snapshot begins with it:
``"S1.4 2.5"`` is a snapshot of entry 4, which is of term 1, and one entry behind it.
"""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

from overdb_node.raft.log import Log
from overdb_node.raft.messages import (
    Answer,
    Append,
    Message,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from overdb_node.raft.output import EventKind, Role
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import Entry, EntryKind, HardState, Snapshot
from tests.paper.host import Disk, Host, State, checkpoint_stream, members_of

MessageType = TypeVar("MessageType", bound=Message)
Sent = list[tuple[int, Message]]

TICKS_MIN = RaftSettings().election_ticks_min
TICKS_MAX = RaftSettings().election_ticks_max


def entries(text: str) -> tuple[Entry, ...]:
    """``"1.1 2.2"`` as entries."""
    found = []
    for word in text.split():
        term, index = word.split(".")
        payload = f"{word}".encode()
        found.append(Entry(int(index), int(term), EntryKind.COMMANDS, payload))
    return tuple(found)


def disk_of(text: str, count: int = 3, maker: int = 1) -> Disk:
    """A disk whose log is as written, for a group of ``count`` voters."""
    words = text.split()
    snapshot, state, checkpoints = Snapshot(0, 0, 0, members_of(count)), State(), {}
    if words and words[0].startswith("S"):
        term, index = map(int, words.pop(0)[1:].split("."))
        state = State(index, index)
        checkpoints[index] = checkpoint_stream(maker, state, members_of(count))
        snapshot = Snapshot(index, term, 0, members_of(count), "made", len(checkpoints[index]))
    return Disk(snapshot, list(entries(" ".join(words))), state=state, checkpoints=checkpoints)


def show(log: Log) -> str:
    """A log as it is written in tests."""
    first = log.snapshot
    words = [f"S{first.term}.{first.index}"] if first.index else []
    rest = log.slice(log.first_index + 1, log.last_index)
    return " ".join(words + [f"{entry.term}.{entry.index}" for entry in rest])


def show_disk(disk: Disk) -> str:
    return " ".join(f"{entry.term}.{entry.index}" for entry in disk.entries)


class Node(Host):
    """A host whose messages are collected instead of delivered."""

    def __init__(
        self,
        log: str = "",
        *,
        replica_id: int = 1,
        count: int = 3,
        term: int | None = None,
        vote: int = 0,
        commit: int = 0,
        disk: Disk | None = None,
        settings: RaftSettings | None = None,
    ) -> None:
        if disk is None:
            disk = disk_of(log, count, maker=replica_id)
            last_term = disk.entries[-1].term if disk.entries else disk.snapshot.term
            disk.hard_state = HardState(last_term if term is None else term, vote, commit)
        self.sent: Sent = []
        super().__init__(
            replica_id,
            disk,
            Random(replica_id),
            lambda _, to, message: self.sent.append((to, message)),
            settings,
        )
        self.pump()

    def taken(self) -> Sent:
        """What has left since the last look."""
        sent, self.sent = self.sent, []
        return sent

    def receive(self, sender: int, message: Message) -> Sent:
        """Deliver one message; return what left at once."""
        self.raft.receive(sender, message)
        self.pump()
        return self.taken()

    def receive_settled(self, sender: int, message: Message) -> Sent:
        """Deliver one message and let the disk finish; return all that left."""
        sent = self.receive(sender, message)
        return sent + self.fsync()

    def fsync(self) -> Sent:
        """Let the disk finish; return what left."""
        self.settle()
        return self.taken()

    def tick(self, count: int = 1) -> Sent:
        """Let time pass; return what left at once."""
        for _ in range(count):
            self.raft.tick()
            self.pump()
        return self.taken()

    def propose(self, *payloads: bytes) -> Sent:
        self.raft.propose(list(payloads))
        self.pump()
        return self.taken()

    def read(self, name: object, now_us: int = 0) -> Sent:
        self.ask(name, now_us)
        self.pump()
        return self.taken()

    def restarted(self) -> Node:
        """The replica after a crash: only its disk is left."""
        return Node(replica_id=self.replica_id, disk=self.disk, settings=self.raft.settings)

    def happened(self, kind: EventKind) -> bool:
        return any(event.kind is kind for event in self.events)

    @property
    def log(self) -> str:
        return show(self.raft.log)


def pre_candidate(log: str = "1.1", **how: Any) -> Node:
    """A replica whose election timer has run out."""
    node = Node(log, **how)
    for _ in range(TICKS_MAX):
        node.raft.tick()
        node.pump()
        if node.raft.role is Role.PRE_CANDIDATE:
            return node
    raise AssertionError("no election timeout within the largest one")


def candidate(log: str = "", **how: Any) -> Node:
    """A replica that campaigns in the term after its log's; its disk has finished."""
    node = Node(log, **how)
    node.receive(2, TimeoutNow(node.raft.term))
    node.fsync()
    assert node.raft.role is (Role.LEADER if node.raft.voters == [1] else Role.CANDIDATE)
    return node


def leader(log: str = "", *, settled: bool = True, **how: Any) -> Node:
    """A leader of the term after its log's (or after ``term``). Its first Appends are in ``sent``."""
    node = candidate(log, **how)
    for voter in node.raft.voters[1:]:
        if not node.raft.is_leader:
            node.raft.receive(voter, VoteAnswer(node.raft.term, True))
    assert node.raft.is_leader
    node.pump()
    if settled:
        node.settle()
    return node


def committed_leader(log: str = "", **how: Any) -> Node:
    """A leader whose no-op, and all before it, every follower has acknowledged."""
    node = leader(log, **how)
    for follower in node.raft.voters[1:]:
        acknowledge(node, follower)
    assert node.raft.commit_index == node.raft.log.last_index
    return node


def acknowledge(node: Node, follower: int, index: int | None = None, round_: int = 0) -> Sent:
    """Deliver ``follower``'s acknowledgement up to ``index`` (default: everything)."""
    raft = node.raft
    index = raft.log.last_index if index is None else index
    term = raft.log.term_at(index)
    assert term is not None
    return node.receive(follower, Answer(raft.term, round_, True, index, term))


def only(sent: Sent, kind: type[MessageType]) -> MessageType:
    """The one message of this kind."""
    found = [message for _, message in sent if isinstance(message, kind)]
    assert len(found) == 1, f"one {kind.__name__} expected in {sent}"
    return found[0]


def all_of(sent: Sent, kind: type[MessageType], to: int | None = None) -> list[MessageType]:
    return [m for receiver, m in sent if isinstance(m, kind) and to in (None, receiver)]


def append(term: int, first: int, text: str = "", commit: int = 0, round_: int = 0) -> Append:
    """An Append; without entries, a heartbeat."""
    return Append(term, round_, first, entries(text), commit)


def vote_request(
    term: int, last: str = "0.0", *, pre: bool = False, transfer: bool = False
) -> VoteRequest:
    """A request of a candidate whose log ends with ``last``, written like an entry."""
    last_term, last_index = map(int, last.split("."))
    return VoteRequest(term, last_index, last_term, pre, transfer)
