"""What the cluster says of itself, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from overdb.ids import RequestId
from overdb.operations import TransactResult
from overdb.v1 import cluster_pb2, kv_pb2


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
    clock_offset_us: int = 0  # its wall clock is so far ahead of the group's time; negative: behind
    direct_address: str = (
        ""  # where clients with ``direct=True`` reach it; empty: through routers alone
    )
    disk_free_bytes: int = 0  # on the file system of its directory
    disk_reserve_bytes: int = 0  # with less than this it refuses what stores a value


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
    level: int = 0  # the rules that its log is applied by; rises when all programs know newer ones
    level_waits_for: str = ""  # which replicas hold that up; empty: none

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
    level: int = 0  # the oldest of the groups' levels
    router_clock_offset_us: int = 0  # the router's clock is so far ahead of the groups' time
    router_problem: str = ""  # empty, or what an operator should know of the router


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


@dataclass(frozen=True, slots=True)
class TimeRepair:
    """A group's time, in microseconds since the epoch, before and after it was set back."""

    group: int
    before_us: int
    after_us: int


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


class LockState(IntEnum):
    """How far an open transaction is in one group."""

    UNKNOWN = 0
    WAITING = 1  # for locks; has not voted
    PREPARED = 2  # has voted and waits for the outcome; holds its locks
    PARKED = 3  # a request inside this group that waits for locks


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that is not finished, or a write that one holds up, as one group sees it."""

    id: RequestId  # ``acknowledged_below`` says nothing here
    attempt: int
    state: LockState
    participants: tuple[int, ...]  # groups
    keys: tuple[bytes, ...]  # in this group, the first 16
    key_count: int
    waits_for: tuple[RequestId, ...]  # whose locks are in the way here
    age_us: int  # microseconds since the client began it, by the group's time


@dataclass(frozen=True, slots=True)
class GroupTransactions:
    """What is open in one group: ``transactions`` oldest first, at most 1,000 of ``count``."""

    group: int
    reachable: bool  # its leader answered
    count: int
    transactions: tuple[OpenTransaction, ...]


_LOCK_STATES = frozenset(int(state) for state in LockState)
_ROLES = frozenset(int(role) for role in Role)


def cluster_status(response: cluster_pb2.StatusResponse) -> ClusterStatus:
    """Convert the answer of ``Cluster.Status``."""
    return ClusterStatus(
        cluster=response.cluster,
        router_version=response.router_version,
        serving=response.serving,
        groups=tuple(_group_status(group) for group in response.groups),
        level=response.level,
        router_clock_offset_us=response.router_clock_offset_us,
        router_problem=response.router_problem,
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
        level=group.level,
        level_waits_for=group.level_waits_for,
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
        clock_offset_us=replica.clock_offset_us,
        direct_address=replica.direct_address,
        disk_free_bytes=replica.disk_free_bytes,
        disk_reserve_bytes=replica.disk_reserve_bytes,
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
    return tuple(members_of_group(group) for group in response.groups)


def members_of_group(group: cluster_pb2.GroupMembers) -> GroupMembers:
    """Convert the members of one group."""
    members = tuple(Member(m.id, m.address, m.voter, m.leader) for m in group.members)
    return GroupMembers(group.group, members)


def group_transactions(response: cluster_pb2.TransactionsResponse) -> tuple[GroupTransactions, ...]:
    """Convert the answer of ``Cluster.Transactions``."""
    return tuple(
        GroupTransactions(
            group.group,
            group.reachable,
            group.count,
            tuple(_open_transaction(transaction) for transaction in group.transactions),
        )
        for group in response.groups
    )


def _open_transaction(told: cluster_pb2.OpenTransaction) -> OpenTransaction:
    state = int(told.state)
    return OpenTransaction(
        id=_request_id(told.id),
        attempt=told.attempt,
        state=LockState(state) if state in _LOCK_STATES else LockState.UNKNOWN,
        participants=tuple(told.participants),
        keys=tuple(told.keys),
        key_count=told.key_count,
        waits_for=tuple(_request_id(other) for other in told.waits_for),
        age_us=told.age_us,
    )


def _request_id(told: kv_pb2.RequestId) -> RequestId:
    return RequestId(told.client_id, told.request_number, told.started_at, told.acknowledged_below)
