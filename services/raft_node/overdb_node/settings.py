"""Every knob of a replica. Environment variables, prefix OVERDB_; ``--help`` prints this file's content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from overdb_common.addresses import check_optional_address
from overdb_common.settings import Limits, ProcessSettings
from overdb_common.version import version
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.settings import RESULT_BYTES_MAX, RESULT_BYTES_PER_CLIENT_MAX
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import Member

_MIB = 1 << 20
# A timer of the loop counts from a time that is cut to a millisecond, by a clock that may be one behind.
TIMER_EARLY_US_MAX = 2000
# Of followers that lag (PROTOCOL 1.2).
STALL_SECONDS_MAX = 60
SLOW_SECONDS_MAX = 60
REST_SECONDS = 60


class NodeSettings(ProcessSettings, Limits):
    """Settings of one replica."""

    listen: str = Field("0.0.0.0:7410", description="address to serve on, host:port")
    direct_listen: str = Field(
        "",
        description="address to serve direct clients on, host:port: it takes puts, deletes, reads and "
        "transactions of one group, and nothing that only nodes and routers may ask; empty: direct clients "
        "go through the routers",
    )
    group: int = Field(0, ge=0, lt=4096, description="Raft group that this replica belongs to")
    groups: int = Field(
        2,
        ge=1,
        le=4096,
        description="number of groups that the cluster was founded with; with OVERDB_JOIN it is taken from "
        "the cluster, and compared if it is set",
    )
    node_id: int = Field(
        ge=1, description="id of this replica, unique in the cluster, never reused"
    )
    members: str = Field(
        "",
        description="founding members of the group, id=host:port separated by commas; with OVERDB_JOIN "
        "members to ask, if any are known",
    )
    join: bool = Field(
        False,
        description="this replica joins a group that exists, under an id that never was in it, and "
        "waits to be taken in (overdb members add)",
    )
    seeds: str = Field(
        "",
        description="addresses of the nodes of all groups, host:port separated by commas: whom a leader "
        "asks to finish a transaction over groups that lost its router. Needed with several groups",
    )
    data: Path = Field(Path("/data"), description="directory of this replica, used by it alone")

    tick_ms: int = Field(100, ge=5, le=1000, description="resolution of the Raft timers, ms")
    heartbeat_ms: int = Field(
        200,
        ge=10,
        le=1_000,  # a clock that was heard counts for three seconds (PROTOCOL 2.1)
        description="leader's heartbeat, ms; by default at most a fifth of the shortest election timeout",
    )
    election_ms_min: int = Field(
        1000, ge=50, le=60_000, description="shortest election timeout, ms"
    )
    election_ms_max: int = Field(
        2000, ge=50, le=120_000, description="longest election timeout, ms"
    )
    read_leases: bool = Field(
        False,
        description="strict reads ask no other replica while a majority has promised to elect nobody else. "
        "Trusts that the machines' clocks run at rates within 10 % of each other; to be set on all nodes",
    )
    handover_seconds_max: float = Field(
        1.0, ge=0, le=30, description="how long a stopping leader waits for another one, s"
    )
    scan_items_max: int = Field(4096, ge=1, le=1 << 20, description="items of one page of a scan")
    snapshot_log_bytes: int = Field(
        64 * _MIB,
        ge=65_536,
        le=1 << 34,
        description="log length that triggers a snapshot, bytes; each replica's first one comes earlier",
    )
    log_memory_bytes: int = Field(
        48 * _MIB,
        ge=65_536,
        le=1 << 34,
        description="what the log's entries may take in memory, bytes; older ones are read from disk",
    )
    kept_log_bytes: int = Field(
        1024 * _MIB,
        ge=1 << 20,
        le=1 << 40,
        description="log on disk that a leader keeps for a follower that lags, bytes, or as much as the "
        "snapshot if that is more; writers are slowed from half of it on",
    )
    keep_silent_seconds: int = Field(
        30,
        ge=1,
        le=86_400,
        description="how long a leader keeps the log for a follower that does not answer, s; one that was "
        "away for longer may need a snapshot",
    )
    chunk_bytes: int = Field(
        _MIB, ge=4096, le=4 * _MIB, description="snapshot bytes sent in one message"
    )
    chunk_window_bytes: int = Field(
        8 * _MIB, ge=4096, le=16 * _MIB, description="snapshot bytes under way to one follower"
    )
    append_bytes_max: int = Field(
        _MIB, ge=4096, le=8 * _MIB, description="entries sent in one Append, bytes"
    )
    inflight_bytes_max: int = Field(
        8 * _MIB, ge=65_536, le=1 << 30, description="entries under way to one follower, bytes"
    )
    uncommitted_bytes_max: int = Field(
        64 * _MIB, ge=8 * _MIB, le=1 << 32, description="entries not yet on a majority, bytes"
    )
    proposed_bytes_max: int = Field(
        32 * _MIB, ge=8 * _MIB, le=1 << 32, description="requests taken in at one turn, bytes"
    )
    retention_seconds: int = Field(
        3600, ge=1, le=10 * 365 * 86_400, description="how long old versions are kept, s"
    )
    client_id_seconds: int = Field(
        3600, ge=60, le=86_400, description="how long a client id is accepted, s"
    )
    unacknowledged_max: int = Field(
        65_536, ge=1024, le=1 << 24, description="remembered results of one client id"
    )
    result_bytes_per_client_max: int = Field(
        RESULT_BYTES_PER_CLIENT_MAX,
        ge=65_536,
        le=1 << 32,
        description="remembered results of one client id, bytes; values that were read do not count",
    )
    result_bytes_max: int = Field(
        RESULT_BYTES_MAX,
        ge=_MIB,
        le=1 << 36,
        description="remembered results of all clients and transactions that wait, bytes; beyond, requests "
        "that would be remembered are refused",
    )
    finish_seconds: float = Field(
        1.0,
        ge=0.7,  # routers show life every 0.3 s
        le=300,
        description="age at which a vote without an outcome has its transaction finished, s",
    )
    forget_seconds: float = Field(
        10.0,
        ge=0.05,
        le=3600,
        description="age at which an outcome that not all participants are known to have is told again, s",
    )
    describe_seconds_max: float = Field(
        1.0, gt=0, le=30, description="another node that does not say how it is by then is down, s"
    )
    compare_seconds: float = Field(
        600.0,
        ge=0,
        le=7 * 86_400,
        description="how often the replicas of a group compare what they store, s; 0: never",
    )
    disk_free_bytes_min: int = Field(
        128 * _MIB,
        ge=0,
        le=1 << 40,
        description="free disk space below which puts are refused, bytes; half as much more for each replica "
        "beyond two on one file system. Below a quarter of it nothing is stored. 0: never",
    )
    disk_sharers: int = Field(
        0,
        ge=0,
        le=4096,
        description="replicas whose directories are on one file system; 0: those beside this one are counted",
    )
    slow_fsync_ms: int = Field(
        200, ge=1, le=60_000, description="an fsync that takes longer is logged, ms"
    )

    @field_validator("direct_listen")
    @classmethod
    def _check_direct_listen(cls, value: str) -> str:
        return check_optional_address(value)

    @field_validator("members")
    @classmethod
    def _parse_members(cls, text: str) -> str:
        _parse(text)
        return text

    @model_validator(mode="after")
    def _fit_together(self) -> NodeSettings:
        members = self.founding_addresses()
        if not self.join and self.node_id not in members:
            raise ValueError(
                f"node_id {self.node_id} is not among members {sorted(members)}; a replica that joins a "
                "group later is started with OVERDB_JOIN=true"
            )
        if self.join and self.node_id in members:
            raise ValueError(
                f"node_id {self.node_id} is among members {sorted(members)}: a replica that joins "
                "(OVERDB_JOIN) has an id that never was in the group"
            )
        if self.group >= self.groups and (self.says_groups or not self.join):
            raise ValueError(f"group {self.group} does not exist: there are {self.groups} groups")
        if "heartbeat_ms" not in self.model_fields_set:
            # Elections that were set shorter than usual leave room for less.
            shorter = max(self.tick_ms, min(self.heartbeat_ms, self.election_ms_min // 5))
            object.__setattr__(self, "heartbeat_ms", shorter)  # the model is frozen
        if not self.tick_ms <= self.heartbeat_ms < self.election_ms_min <= self.election_ms_max:
            raise ValueError(
                "tick_ms <= heartbeat_ms < election_ms_min <= election_ms_max does not hold: "
                f"{self.tick_ms}, {self.heartbeat_ms}, {self.election_ms_min}, {self.election_ms_max}"
            )
        return self

    @property
    def says_groups(self) -> bool:
        """Whether the number of groups was set. One that joins need not know it."""
        return "groups" in self.model_fields_set

    @property
    def tick_seconds(self) -> float:
        return self.tick_ms / 1000

    @property
    def slow_fsync_seconds(self) -> float:
        return self.slow_fsync_ms / 1000

    def founding_addresses(self) -> Mapping[int, str]:
        """Where the founding members (for one who joins: those it was told of) are reached now, by id."""
        return _parse(self.members)

    def founding_members(self) -> tuple[Member, ...]:
        """The members of the genesis snapshot; nobody for a replica that joins (PROTOCOL 3.5)."""
        if self.join:
            return ()
        return tuple(Member(i, address) for i, address in sorted(self.founding_addresses().items()))

    def raft_settings(self) -> RaftSettings:
        return RaftSettings(
            heartbeat_ticks=max(1, self.heartbeat_ms // self.tick_ms),
            election_ticks_min=self.election_ms_min // self.tick_ms,
            election_ticks_max=self.election_ms_max // self.tick_ms,
            chunk_retry_ticks=self.election_ms_min // self.tick_ms,
            append_bytes_max=self.append_bytes_max,
            inflight_bytes_max=self.inflight_bytes_max,
            uncommitted_bytes_max=self.uncommitted_bytes_max,
            log_memory_bytes_max=self.log_memory_bytes,
            kept_bytes_max=self.kept_log_bytes,
            chunk_bytes_max=self.chunk_bytes,
            chunk_window_bytes=self.chunk_window_bytes,
            keep_silent_ticks=self._ticks(self.keep_silent_seconds),
            stall_ticks_max=self._ticks(STALL_SECONDS_MAX),
            slow_ticks_max=self._ticks(SLOW_SECONDS_MAX),
            rest_ticks=self._ticks(REST_SECONDS),
            promise_us=self._promise_us(),
        )

    def _ticks(self, seconds: int) -> int:
        return max(1, seconds * 1000 // self.tick_ms)

    def _promise_us(self) -> int:
        """How long the ticks of the shortest election timeout take at least: the first may come at once."""
        ticks = self.election_ms_min // self.tick_ms - 1
        least = ticks * self.tick_ms * 1000 - TIMER_EARLY_US_MAX
        return max(0, least) if self.read_leases else 0

    def machine_settings(self) -> MachineSettings:
        return MachineSettings(
            group=self.group,
            groups=self.groups,
            client_id_lifetime_us=self.client_id_seconds * 1_000_000,
            ahead_us_max=self.ahead_seconds_max * 1_000_000,
            retention_us=self.retention_seconds * 1_000_000,
            key_bytes_max=self.key_bytes_max,
            value_bytes_max=self.value_bytes_max,
            request_bytes_max=self.request_bytes_max,
            operations_max=self.operations_max,
            unacknowledged_per_client_max=self.unacknowledged_max,
            result_bytes_per_client_max=self.result_bytes_per_client_max,
            result_bytes_max=self.result_bytes_max,
            release=version(),
            level=0,
        )


@lru_cache(maxsize=64)
def _parse(text: str) -> Mapping[int, str]:
    """Parse ``1=host:port,2=host:port``. Cached, since a replica asks for each packet that it sends."""
    members: dict[int, str] = {}
    if not text.strip():
        return members
    for part in text.split(","):
        number, _, address = part.strip().partition("=")
        host, _, port = address.rpartition(":")
        if not number.isdigit() or int(number) < 1 or not host or not port.isdigit():
            raise ValueError(f"'{part.strip()}' is not of the form id=host:port")
        if int(number) in members:
            raise ValueError(f"id {number} is named twice")
        members[int(number)] = address
    return members
