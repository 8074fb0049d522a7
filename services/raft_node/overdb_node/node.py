"""The process of one replica: opens the storage, serves Raft and routers, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from overdb.internal.v1 import raft_pb2_grpc, shard_pb2_grpc
from overdb_common import grpc_options, metrics, serving
from overdb_common.careful import CarefulServer
from overdb_common.errors import StartupError
from overdb_common.version import version
from overdb_node import direct
from overdb_node.backend import ReplicaBackend
from overdb_node.founding_groups import with_founding_groups
from overdb_node.metrics import NodeMetrics
from overdb_node.raft.types import Snapshot
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from overdb_node.storage.errors import NoRoomToStart, NoSpace, StorageFailure, means_no_space
from overdb_node.storage.identity import Identity
from overdb_node.storage.replica import ReplicaStorage
from overdb_node.transport.peers import Address
from overdb_node.transport.raft_service import RaftService
from overdb_node.transport.shard_service import ShardService

_log = structlog.get_logger()
START_PART = 32  # of the reserve, to be free at a start
ROOM_SECONDS = 1.0  # between two attempts to open a directory whose disk is full


class ReplicaFailed(Exception):  # noqa: N818  # it names what happened
    """The replica met something that it must not survive; the process ends with a failure."""


async def run(settings: NodeSettings, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. Raises StartupError, ReplicaFailed."""
    registry = metrics.new_registry("node")
    settings = await with_founding_groups(settings, stop)
    if stop.is_set():
        return
    failed: list[str] = []

    def on_fatal(reason: str) -> None:
        failed.append(reason)
        stop.set()

    node_metrics = NodeMetrics(registry, settings.group, settings.node_id)
    replica = await _open_when_there_is_room(settings, node_metrics, on_fatal, stop)
    if replica is None:
        return
    register_gauges(replica)
    servers = [await _serve(settings, replica)]
    if (listener := await direct.serve(ReplicaBackend(replica), replica)) is not None:
        servers.append(listener)
    stop_metrics = metrics.start_server(registry, settings.metrics_listen)
    replica.start()
    if settings.groups > 1 and not settings.seeds:
        _log.warning(
            "no_seeds",
            problem="transactions that lose their router cannot be finished",
            set="OVERDB_SEEDS",
        )
    _log.info(
        "started",
        node=settings.node_id,
        group=settings.group,
        listen=settings.listen,
        direct_listen=replica.direct_listen,
        version=version(),
        last_index=replica.raft.log.last_index,
        applied=replica.raft.applied,
    )
    await stop.wait()
    _log.info("stopping", node=settings.node_id)
    await replica.stop()
    for _, shard_service in servers:
        shard_service.close()
    await asyncio.gather(*(server.stop(0.5) for server, _ in servers))
    stop_metrics()
    if failed:
        raise ReplicaFailed(failed[0])


async def _open_when_there_is_room(
    settings: NodeSettings,
    node_metrics: NodeMetrics,
    on_fatal: Callable[[str], None],
    stop: asyncio.Event,
) -> Replica | None:
    """Open the data directory; on a full disk, wait. None: ``stop`` was set first. Raises StartupError."""
    told = False
    while not stop.is_set():
        try:
            return open_replica(settings, node_metrics, on_fatal)
        except NoRoomToStart as error:
            if not told:
                _log.error("waits_for_disk_space", problem=str(error))
                told = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), ROOM_SECONDS)
    return None


def open_replica(
    settings: NodeSettings, node_metrics: NodeMetrics, on_fatal: Callable[[str], None]
) -> Replica:
    """Open the data directory and make its replica, which is not started yet. Raises StartupError."""
    storage = open_storage(settings)
    try:
        return Replica(settings, storage, node_metrics, on_fatal)
    except NoRoomToStart:  # a note beside the log found none
        storage.close()
        raise


def open_storage(settings: NodeSettings) -> ReplicaStorage:
    """Open or found the data directory. Raises StartupError when it is not this replica's, or damaged."""
    identity = Identity(settings.cluster, settings.group, settings.groups, settings.node_id)
    genesis = Snapshot(0, 0, 0, settings.founding_members())
    try:
        try:
            _require_room(settings)
        except NoSpace:  # what took the room may be a transfer that ended with the process
            ReplicaStorage.clear_debris(settings.data, identity)
            _require_room(settings)
        return ReplicaStorage.open(settings.data, identity, genesis, settings.log_memory_bytes)
    except (StorageFailure, NoSpace, OSError) as error:
        if isinstance(error, NoSpace) or means_no_space(error):
            raise NoRoomToStart(settings.data, error) from error
        raise StartupError(
            f"the data directory {settings.data} cannot be used ({error})",
            "free or replace the disk, or set OVERDB_DATA",
        ) from error


def _require_room(settings: NodeSettings) -> None:
    """Opening a directory writes a few small files. Raises NoSpace where they would take the last room."""
    if settings.data.exists():
        free, least = (
            shutil.disk_usage(settings.data).free,
            settings.disk_free_bytes_min // START_PART,
        )
        if free < least:
            raise NoSpace(f"{free} bytes free, a start needs {least}")


async def _serve(settings: NodeSettings, replica: Replica) -> tuple[grpc.aio.Server, ShardService]:
    server = grpc.aio.server(options=grpc_options.server_options())
    careful: Any = CarefulServer(server)
    own = Address(settings.cluster, settings.group, settings.node_id)
    raft_pb2_grpc.add_RaftServicer_to_server(
        RaftService(own, replica.receive, replica.admission), careful
    )
    shard_service = ShardService(ReplicaBackend(replica))
    shard_pb2_grpc.add_ShardServicer_to_server(shard_service, careful)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, careful)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    serving.bind(server, settings.listen)
    await server.start()
    return server, shard_service


def register_gauges(replica: Replica) -> None:
    raft, gauge = replica.raft, replica.metrics.gauge
    gauge("overdb_term", "Raft term", lambda: raft.term)
    gauge("overdb_is_leader", "1 when this replica leads its group", lambda: float(raft.is_leader))
    replica.metrics.role(lambda: raft.role)
    gauge("overdb_last_index", "End of the log", lambda: raft.log.last_index)
    gauge("overdb_commit_index", "Commit index", lambda: raft.commit_index)
    gauge("overdb_applied_index", "Applied index", lambda: raft.applied)
    gauge(
        "overdb_commit_lag_entries",
        "Entries in the log that are not committed",
        lambda: raft.log.last_index - raft.commit_index,
    )
    gauge(
        "overdb_apply_lag_entries",
        "Committed entries that are not applied",
        lambda: raft.commit_index - raft.applied,
    )
    gauge(
        "overdb_replica_diverged",
        "1 when this replica's state was found to be wrong: it serves no more",
        lambda: float(replica.comparing.diverged),
    )
    gauge(
        "overdb_reads_by_lease",
        "Strict reads since the start that asked no other replica (OVERDB_READ_LEASES)",
        lambda: raft.lease.reads,
    )
    gauge(
        "overdb_clock_offset_seconds",
        "By how much this machine's wall clock is ahead of its group's time; negative: behind",
        lambda: replica.timekeeper.offset_us / 1e6,
    )
    gauge(
        "overdb_log_bytes",
        "Bytes that the log's entries take in memory",
        lambda: raft.log.memory_bytes,
    )
    gauge(
        "overdb_log_kept_bytes",
        "Payload bytes of the log behind its snapshot, in memory or on disk",
        lambda: raft.log.payload_bytes,
    )
    gauge(
        "overdb_followers_given_up",
        "Followers that do not catch up, for which this leader keeps no log any longer",
        lambda: len(raft.leading.retention.given_up),
    )
    gauge(
        "overdb_write_pace_bytes",
        "Bytes per second that this leader takes in so that a follower can catch up; 0: as many as come",
        lambda: (raft.leading.retention.pace_bytes or 0) / replica.settings.tick_seconds,
    )
    gauge(
        "overdb_disk_free_bytes",
        "Free bytes on the file system of the data directory",
        lambda: replica.disk.free_bytes,
    )
    gauge(
        "overdb_disk_reserve_bytes",
        "Free bytes below which this replica refuses what stores a value",
        lambda: replica.disk.reserve_bytes,
    )
    gauge(
        "overdb_disk_state",
        "0: enough room; 1: what stores a value is refused; 2: nothing is stored",
        lambda: float(replica.raft.disk),
    )
    gauge(
        "overdb_snapshot_without_room_bytes",
        "Size of the snapshot that this replica needs and has no room for; 0: there is none",
        lambda: float(raft.following.needs_room_bytes),
    )
    gauge(
        "overdb_peer_queue_bytes",
        "Bytes that wait to be sent to other replicas",
        lambda: replica.peers.queued_bytes,
    )
    gauge(
        "overdb_fsync_queue_bytes",
        "Bytes that wait for the log thread",
        lambda: replica.writer.queued_bytes,
    )
