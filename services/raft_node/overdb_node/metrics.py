"""What a replica tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from overdb_node.raft.output import EventKind, Role

_FSYNC_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class NodeMetrics:
    """Counters are observed once per batch, never once per operation; gauges are read when asked."""

    def __init__(self, registry: CollectorRegistry, group: int, replica_id: int) -> None:
        self._registry = registry
        self._labels = {"group": str(group), "replica": str(replica_id)}
        self._fsync = self._histogram(
            "overdb_fsync_seconds", "Duration of one fdatasync of the log", _FSYNC_SECONDS
        )
        self._shared = self._histogram(
            "overdb_fsync_requests", "Requests that shared one fdatasync", _BATCH_SIZES
        )
        self._log_bytes = self._counter("overdb_log_written_bytes", "Bytes written to the log")
        self._entries = self._counter("overdb_entries_proposed", "Entries proposed by this leader")
        self._batch = self._histogram(
            "overdb_entries_per_turn", "Entries proposed in one turn of the loop", _BATCH_SIZES
        )
        self._elections = self._counter("overdb_elections", "Campaigns begun by this replica")
        self._events = Counter(
            "overdb_raft_events",
            "Raft events by kind",
            ["group", "replica", "kind"],
            registry=registry,
        )
        self._alarms = self._counter(
            "overdb_transaction_alarms_total",
            "Messages of transactions that contradict what is stored",
        )
        self._comparisons = self._counter(
            "overdb_replica_comparisons_total",
            "Checksums of this replica's state that were compared with another replica's",
        )
        self._differences = self._counter(
            "overdb_replica_differences_total", "Those of them that differed"
        )
        self._requests = Counter(
            "overdb_shard_requests",
            "Requests of routers and of clients that come straight here, by method and code",
            ["group", "replica", "method", "code"],
            registry=registry,
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            name, text, list(self._labels), registry=self._registry, buckets=buckets
        ).labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, list(self._labels), registry=self._registry).labels(
            **self._labels
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Register a gauge that is computed when it is scraped."""
        gauge = Gauge(name, text, list(self._labels), registry=self._registry)
        gauge.labels(**self._labels).set_function(value)

    def role(self, current: Callable[[], Role]) -> None:
        """Register ``overdb_role{role=...}``: 1 for the present role, 0 for the others."""
        gauge = Gauge(
            "overdb_role",
            "1 for the present role",
            [*self._labels, "role"],
            registry=self._registry,
        )
        for role in Role:
            is_current = partial(_is_role, current, role)
            gauge.labels(**self._labels, role=role.value).set_function(is_current)

    def fsynced(self, seconds: float, requests: int, size: int) -> None:
        self._fsync.observe(seconds)
        self._shared.observe(requests)
        self._log_bytes.inc(size)

    def proposed(self, entries: int) -> None:
        self._entries.inc(entries)
        self._batch.observe(entries)

    def happened(self, kind: EventKind) -> None:
        self._events.labels(**self._labels, kind=kind.value).inc()
        if kind is EventKind.CAMPAIGN:
            self._elections.inc()

    def alarmed(self, count: int) -> None:
        """Something about transactions that cannot happen did."""
        self._alarms.inc(count)

    def compared(self, checksums: int, differing: int) -> None:
        self._comparisons.inc(checksums)
        self._differences.inc(differing)

    def requested(self, method: str, code: str, count: int = 1) -> None:
        self._requests.labels(**self._labels, method=method, code=code).inc(count)


def _is_role(current: Callable[[], Role], role: Role) -> float:
    return float(current() is role)
