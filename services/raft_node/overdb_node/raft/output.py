"""What the core asks of its host. One value, taken whole; the order of handling it is part of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from overdb_node.raft.messages import Message
from overdb_node.raft.types import Entry, HardState, Snapshot


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Persist:
    """To be fsynced, in the order of tokens. An entry at an index that the disk has already replaces it
    and everything behind it. Report with ``Raft.persisted(token)``."""

    token: int
    hard_state: HardState
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class ChunkToSend:
    """Read ``length`` bytes of the snapshot stream from ``offset`` on and send them as a ``Chunk``.

    Those for one follower are sent in the order in which they were asked for.
    """

    to: int
    term: int
    round: int
    snapshot: Snapshot
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read entries of the log on disk, from ``first`` on, at least one and within ``bytes_max`` of payload.

    None behind ``last``. All of them are committed and durable. Report with ``Raft.fetched``.
    """

    to: int
    term: int
    first: int
    last: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A follower has nothing of the first element any more; chunks up to ``offset`` had been sent to it.

    If that is all of it, the follower has found the whole damaged. Look at the own bytes then, and if
    it is those, say so with ``Raft.withhold``. Otherwise nothing is to be done: the stream begins again.
    """

    replica: int
    snapshot: Snapshot
    offset: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Write received snapshot bytes, in the order of the stages. Report each with ``Raft.staged``."""

    term: int
    leader: int
    index: int
    element_term: int
    offset: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Install:
    """Make a staged snapshot the first element and the state, atomically.

    Report with ``Raft.installed``.

    Until then the core answers nothing and does not campaign.
    """

    snapshot: Snapshot
    keep_entries_after: bool


class EventKind(Enum):
    CAMPAIGN = "campaign"
    ELECTED = "elected"
    STEPPED_DOWN = "stepped_down"
    NEW_LEADER = "new_leader"
    SNAPSHOT_HAS_NO_ROOM = "snapshot_has_no_room"
    SNAPSHOT_OFFERED = "snapshot_offered"
    SNAPSHOT_INSTALLED = "snapshot_installed"
    OWN_SNAPSHOT_DAMAGED = "own_snapshot_damaged"
    REPLICA_DAMAGED = "replica_damaged"
    FOLLOWER_GIVEN_UP = "follower_given_up"
    TRANSFER_ABANDONED = "transfer_abandoned"
    MEMBERS_CHANGING = "members_changing"
    MESSAGE_REFUSED = "message_refused"


@dataclass(frozen=True, slots=True)
class Event:
    """For the log and the metrics; nothing depends on it."""

    kind: EventKind
    term: int
    replica: int = 0
    detail: str = ""


@dataclass(slots=True)
class Output:
    """Everything since the last ``take_output``.

    ``send_now`` may leave at once. ``send_after_persist`` may leave only when every ``Persist`` handed
    out so far, this one included, has been fsynced (PROTOCOL 1.0). ``committed`` is to be applied in
    order. Of ``reads``, each ``(read, index)`` may be answered once ``index`` is applied; those in
    ``reads_failed`` never (this replica does not lead any more).
    """

    persist: Persist | None = None
    send_now: list[tuple[int, Message]] = field(default_factory=list)
    send_after_persist: list[tuple[int, Message]] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[tuple[object, int]] = field(default_factory=list)
    reads_failed: list[object] = field(default_factory=list)
    chunks: list[ChunkToSend] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    install: Install | None = None
    events: list[Event] = field(default_factory=list)
