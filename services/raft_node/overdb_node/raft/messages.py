"""What replicas of one group say to each other (PROTOCOL 1.2). ``transport`` converts to the wire.

Every message carries the sender's term. The sender's and receiver's ids travel beside the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from overdb_node.raft.types import Entry


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """Ask for a vote (Raft paper 5.2, 5.4.1).

    With ``pre`` it is only a question (dissertation 9.6): ``term`` is then the term that the sender
    would campaign in. With ``transfer`` the present leader asked for this election (dissertation
    3.10), so that a voter grants although it hears from a leader.
    """

    term: int
    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteAnswer:
    term: int
    granted: bool
    pre: bool = False


@dataclass(frozen=True, slots=True)
class Append:
    """Entries from ``first_index`` on; without entries, a heartbeat. There is no previous index.

    ``group_time_us`` is filled in by the host, in heartbeats: the group's time (PROTOCOL 2.1), 0: not known.
    """

    term: int
    round: int
    first_index: int
    entries: tuple[Entry, ...]
    leader_commit: int
    group_time_us: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """To an Append, an offer or an installed snapshot: ``agreed`` is min(agreed, durable).

    ``promise_us``: for so long, by its own clock and from when it heard that round, the sender elects nobody
    else (PROTOCOL 1.3). 0: it promises nothing. ``wall_us`` is filled in by the host: the sender's wall clock
    (PROTOCOL 2.1), 0: a replica of release 0.1.0.
    ``disk``: how the sender's disk is (``DiskState``, PROTOCOL 1.4).
    """

    term: int
    round: int
    ok: bool
    agreed: int
    agreed_term: int
    promise_us: int = 0
    wall_us: int = 0
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The leader's log begins with a snapshot of entry (``index``, ``element_term``)."""

    term: int
    round: int
    index: int
    element_term: int
    size: int


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """The entry is not here: send the snapshot's bytes from ``send_from`` on.

    ``window_bytes``: what the follower takes beyond what it has staged. 0: one chunk at a time, as followers
    do that do not know windows.
    """

    term: int
    round: int
    index: int
    element_term: int
    send_from: int
    window_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes ``[offset, offset + len(data))`` of a snapshot stream of ``size`` bytes."""

    term: int
    round: int
    index: int
    element_term: int
    offset: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """Everything below ``next_offset`` is staged on disk. The same again refuses a chunk behind a gap.

    ``dropped``: all of it had arrived, was damaged, and is gone. ``window_bytes`` as in OfferAnswer.
    """

    term: int
    round: int
    index: int
    element_term: int
    next_offset: int
    window_bytes: int = 0
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Campaign at once (dissertation 3.10)."""

    term: int


Message = (
    VoteRequest
    | VoteAnswer
    | Append
    | Answer
    | Offer
    | OfferAnswer
    | Chunk
    | ChunkAnswer
    | TimeoutNow
)
