"""The values that the Raft core works on: entries, the snapshot element, members, hard state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class EntryKind(IntEnum):
    """What an entry's payload is. The numbers are on disk: never change one, never use one again."""

    NOOP = 1
    COMMANDS = 2
    CONFIGURATION = 3


class DiskState(IntEnum):
    """Room on a replica's disk, as its host sees it and as its answers say (PROTOCOL 1.4)."""

    FREE = 0
    LOW = 1  # it appends everything; nothing that stores a value should be proposed
    FULL = 2  # it appends small entries only


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of the log. ``payload`` is opaque to Raft, except for CONFIGURATION entries."""

    index: int
    term: int
    kind: EntryKind
    payload: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A replica of the group. Ids are never used twice (PROTOCOL 3.5).

    ``incarnation`` is the number of the directory that has this id, drawn when it was founded; 0 where the
    group has not noted it (yet). A process with the id and another number has lost its disk: nothing that
    it says counts.
    """

    replica_id: int
    address: str
    voter: bool = True
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a CONFIGURATION entry says: the members from it on, and the ids that were members once.

    ``retired`` is ascending; no id in it is ever used again (PROTOCOL 3.5).
    """

    members: tuple[Member, ...] = ()
    retired: tuple[int, ...] = ()

    def member(self, replica_id: int) -> Member | None:
        for member in self.members:
            if member.replica_id == replica_id:
                return member
        return None

    @property
    def voters(self) -> list[int]:
        return [member.replica_id for member in self.members if member.voter]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The first element of every log (PROTOCOL 1.1): the state after applying ``index``.

    ``term`` is the term of the entry at ``index``; ``clock`` and ``members`` are those after applying
    it, never newer ones. ``checkpoint`` names the directory that holds the state ("" for the genesis
    snapshot, index 0 and term 0, whose state is empty). ``size`` is the length of its byte stream.
    ``retired`` belongs to ``members``: the ids that must not be used again.
    """

    index: int
    term: int
    clock: int
    members: tuple[Member, ...]
    checkpoint: str = ""
    size: int = 0
    retired: tuple[int, ...] = ()

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.members, self.retired)


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be on disk before any message that depends on it leaves (PROTOCOL 1.0).

    ``vote`` is the replica voted for in ``term``, 0 for none. ``commit_index`` rides along with some
    log fsync: an old value is safe (PROTOCOL 1.2, after a restart).
    """

    term: int = 0
    vote: int = 0
    commit_index: int = 0
