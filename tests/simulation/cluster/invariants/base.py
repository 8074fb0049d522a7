"""What an invariant sees: one replica, before and after a step in which something of it changed, or one
entry that a replica has applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from overdb_node.machine.machine import Machine
from overdb_node.machine.types import Command, Refused, Result
from overdb_node.raft.output import Role
from overdb_node.replica import Replica


class Violation(AssertionError):  # noqa: N818
    """A promise is broken; the message says which, where and by whom."""


@dataclass(frozen=True, slots=True)
class Look:
    """A replica at one moment."""

    term: int
    role: Role
    vote: int
    commit: int
    applied: int
    agreed: int
    durable: int
    first: int
    last: int
    last_term: int
    installing: bool
    established: bool  # it takes part: until then, what is on its disk binds nobody


def look(replica: Replica) -> Look:
    raft = replica.raft
    log = raft.log
    return Look(
        raft.term,
        raft.role,
        raft.vote,
        raft.commit_index,
        raft.applied,
        raft.agreed,
        raft.durable,
        log.first_index,
        log.last_index,
        log.last_term,
        raft.installing is not None,
        replica.admission.established,
    )


@dataclass(slots=True)
class Seen:
    """A step of a replica. ``life`` grows with each start of its process."""

    name: str
    group: int
    replica_id: int
    life: int
    replica: Replica
    before: Look | None  # None: its first step
    now: Look

    @property
    def begins(self) -> bool:
        """Whether this is the step with which it begins to take part."""
        return self.now.established and (self.before is None or not self.before.established)


@dataclass(slots=True)
class Applied:
    """An entry that a replica's machine has applied, and what it wrote: (key, version, value or None)."""

    name: str
    group: int
    machine: Machine
    index: int
    commands: Sequence[Command | Refused]
    results: list[Result]
    versions: Sequence[tuple[bytes, int, bytes | None]]


class Invariant(Protocol):
    """One promise, looked at after every step that changed a replica."""

    def check(self, seen: Seen) -> None:
        """Raises Violation."""
        ...


class EntryInvariant(Protocol):
    """One promise, looked at whenever a replica has applied an entry."""

    def check_entry(self, applied: Applied) -> None:
        """Raises Violation."""
        ...
