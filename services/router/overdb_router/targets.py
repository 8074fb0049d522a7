"""Which replica a link talks to: the group's leader, or, for stale reads, any one."""

from __future__ import annotations

import random
from typing import Protocol

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_router.topology import Leader, Topology

_log = structlog.get_logger()


class Targets(Protocol):
    """The choice, and what becomes of it."""

    stale: bool

    def choose(self) -> Leader | None:
        """Return whom to talk to now, None while nobody is known."""

    def is_current(self, target: Leader) -> bool:
        """Whether ``target`` is still the one to talk to."""

    def answered(self) -> None:
        """The present one has answered a request."""

    def lost(self, target: Leader, failure: shard_pb2.Failure | None = None) -> None:
        """``target`` cannot be reached, or refused and may have named another one."""

    def look_around(self) -> None:
        """Find out, in the background, whether there is another one by now."""


class LeaderTarget:
    """The leader, as the topology knows it."""

    stale = False

    def __init__(self, topology: Topology, group: int) -> None:
        self._topology = topology
        self._group = group

    def choose(self) -> Leader | None:
        return self._topology.leader_of(self._group)

    def is_current(self, target: Leader) -> bool:
        """The same replica in a later term has refused what the earlier term left: no need to move."""
        leader = self._topology.leader_of(self._group)
        return leader is not None and leader[:2] == target[:2]

    def answered(self) -> None:
        self._topology.answered(self._group)

    def lost(self, target: Leader, failure: shard_pb2.Failure | None = None) -> None:
        self._topology.lost(self._group, target)
        if failure is not None:
            self._topology.hinted(self._group, failure)

    def look_around(self) -> None:
        self._topology.ask_around(self._group)


class AnyTarget:
    """A random member, another one after each loss."""

    stale = True

    def __init__(self, topology: Topology, group: int) -> None:
        self._topology = topology
        self._group = group
        self._avoided = ""

    def choose(self) -> Leader | None:
        addresses = self._topology.addresses_of(self._group)
        others = [address for address in addresses if address != self._avoided] or addresses
        return Leader(0, random.choice(others), 0) if others else None

    def is_current(self, target: Leader) -> bool:
        return target.address != self._avoided

    def answered(self) -> None:
        self._avoided = ""

    def lost(self, target: Leader, failure: shard_pb2.Failure | None = None) -> None:  # noqa: ARG002
        self._avoided = target.address

    def look_around(self) -> None:
        """Nobody else knows better. The link moves on by itself."""
