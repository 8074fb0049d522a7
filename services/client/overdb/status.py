"""What the cluster says of itself, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from overdb.operations import TransactResult
from overdb.v1 import cluster_pb2


class Role(IntEnum):
    """Role of a replica in its group."""

    UNKNOWN = 0  # it does not answer
    LEADER = 1
    FOLLOWER = 2
    CANDIDATE = 3
    LEARNER = 4


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica; the numbers are 0 where it does not answer. Indexes are of the Raft log."""

    id: int
    address: str
    reachable: bool
    role: Role
    term: int
    last_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    log_bytes: int
    data_bytes: int
    version: str
    problem: str  # empty, or what an operator should know


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One shard group. ``leader_id`` is 0 when the router reaches none."""

    group: int
    leader_id: int
    term: int
    version: int  # the group's clock: the newest version written or promised
    epoch: int  # of the slot map
    slots: int  # how many of the 4,096 it owns
    replicas: tuple[ReplicaStatus, ...]

    def lag(self, replica: ReplicaStatus) -> int:
        """Return how many committed entries a replica has still to apply."""
        committed = max((other.commit_index for other in self.replicas), default=0)
        return max(0, committed - replica.applied_index)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All groups. ``serving``: each of them has a leader that answers."""

    cluster: str
    router_version: str
    serving: bool
    groups: tuple[GroupStatus, ...]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a key lives. ``leader_id`` 0 and an empty address: not known."""

    slot: int
    group: int
    leader_id: int
    leader_address: str
    tag: bytes  # the part of the key that was hashed


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a group."""

    id: int
    address: str
    voter: bool
    leader: bool


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """The members of one group."""

    group: int
    members: tuple[Member, ...]


class TransactionState(IntEnum):
    """What became of a request id."""

    UNKNOWN = 1  # never seen, or seen and forgotten
    OPEN = 2
    COMMITTED = 3
    ABORTED = 4


@dataclass(frozen=True, slots=True)
class TransactionStatus:
    """State of a transaction; ``result`` only when it committed."""

    state: TransactionState
    result: TransactResult | None


_ROLES = frozenset(int(role) for role in Role)


def cluster_status(response: cluster_pb2.StatusResponse) -> ClusterStatus:
    """Convert the answer of ``Cluster.Status``."""
    return ClusterStatus(
        cluster=response.cluster,
        router_version=response.router_version,
        serving=response.serving,
        groups=tuple(_group_status(group) for group in response.groups),
    )


def _group_status(group: cluster_pb2.GroupStatus) -> GroupStatus:
    return GroupStatus(
        group=group.group,
        leader_id=group.leader_id,
        term=group.term,
        version=group.version,
        epoch=group.epoch,
        slots=group.slots,
        replicas=tuple(_replica_status(replica) for replica in group.replicas),
    )


def _replica_status(replica: cluster_pb2.ReplicaStatus) -> ReplicaStatus:
    return ReplicaStatus(
        id=replica.id,
        address=replica.address,
        reachable=replica.reachable,
        role=Role(int(replica.role)) if replica.role in _ROLES else Role.UNKNOWN,
        term=replica.term,
        last_index=replica.last_index,
        commit_index=replica.commit_index,
        applied_index=replica.applied_index,
        snapshot_index=replica.snapshot_index,
        log_bytes=replica.log_bytes,
        data_bytes=replica.data_bytes,
        version=replica.version,
        problem=replica.problem,
    )


def location(response: cluster_pb2.LocateResponse) -> Location:
    """Convert the answer of ``Cluster.Locate``."""
    return Location(
        slot=response.slot,
        group=response.group,
        leader_id=response.leader_id,
        leader_address=response.leader_address,
        tag=response.tag,
    )


def group_members(response: cluster_pb2.MembersResponse) -> tuple[GroupMembers, ...]:
    """Convert the answer of ``Cluster.Members``."""
    return tuple(
        GroupMembers(
            group.group,
            tuple(Member(m.id, m.address, m.voter, m.leader) for m in group.members),
        )
        for group in response.groups
    )
