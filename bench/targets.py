"""The systems that are measured: their processes, how they are called, what they promise."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench import etcd_cluster, python_stores
from bench.stores import Etcd, KeyValue, OverDB
from bench.workloads import CALLERS, GROUPS, ROWS, SLOWEST, Row
from overdb_common.version import version
from overdb_node.settings import NodeSettings
from tests.integration.cluster import LocalCluster, wait_until
from tests.ports import free_ports

_DATA_METHODS = frozenset({"Get", "Put", "Delete", "Transact", "Scan"})

LEASES = {"OVERDB_READ_LEASES": "true"}  # environment of nodes
NO_LEASES = "overdb-leases is left out: this release has no OVERDB_READ_LEASES"


def _rows(*workloads: str, callers_max: int = CALLERS[-1]) -> tuple[Row, ...]:
    return tuple((name, n) for name, n in ROWS if name in workloads and n <= callers_max)


@dataclass(frozen=True)
class Target:
    """A store, who calls it, and the processes that serve it."""

    name: str
    open: Callable[[], KeyValue]
    pids: dict[str, int]
    release: str
    promise: str  # what an answered write and a read are worth
    rows: tuple[Row, ...] = ROWS  # those that it can be asked
    load_seconds_max: float = 300.0  # so many keys as can be written until then
    renew: Callable[[], None] = lambda: None  # called before each turn, when all its processes run
    # Who serves, if not processes of its own: targets that differ in how they are called.
    servers: str = ""
    slowest: dict[str, float] = field(default_factory=lambda: SLOWEST)  # calls/s, about
    # Requests that its router has answered until now; None where there is no router.
    routed: Callable[[], int | None] = lambda: None

    @property
    def data(self) -> str:
        """Names the servers, and so what they store."""
        return self.servers or self.name


def serve(stack: contextlib.ExitStack, directory: Path, overdb_alone: bool) -> list[Target]:
    """Start what is installed; say what is not."""
    targets = _overdb(stack, directory)
    if overdb_alone:
        return targets
    if etcd_cluster.program() is None:
        print(etcd_cluster.INSTALL)
    else:
        targets += _etcd(stack, directory)
    for package, start in (
        (python_stores.PYSYNCOBJ, _pysyncobj),
        (python_stores.OXIDEDB, _oxidedb),
    ):
        if python_stores.installed(package):
            targets.append(start(stack, directory))
        else:
            print(python_stores.INSTALL.format(package))
    return targets


def _overdb(stack: contextlib.ExitStack, directory: Path) -> list[Target]:
    cluster, routed = _cluster(stack, directory / "overdb", {})
    pids = {process.name: process.pid for process in cluster.processes}
    promise = "fsynced by a majority before the answer; linearizable"
    through_router = functools.partial(OverDB, cluster.endpoints)
    to_leaders = functools.partial(OverDB, cluster.endpoints, direct=True)
    targets = [
        Target("overdb", through_router, pids, version(), promise, servers="overdb", routed=routed),
        Target(
            "overdb-direct", to_leaders, pids, version(), promise, servers="overdb", routed=routed
        ),
    ]
    if "read_leases" not in NodeSettings.model_fields:
        print(NO_LEASES)
        return targets
    leasing, routed = _cluster(stack, directory / "overdb-leases", LEASES)
    return [
        *targets,
        Target(
            "overdb-leases",
            functools.partial(OverDB, leasing.endpoints, direct=True),
            {process.name: process.pid for process in leasing.processes},
            version(),
            "fsynced by a majority before the answer; linearizable as long as clocks keep their rates",
            _rows("get", "mix-90-10"),
            routed=routed,
        ),
    ]


def _cluster(
    stack: contextlib.ExitStack, directory: Path, settings: dict[str, str]
) -> tuple[LocalCluster, Callable[[], int | None]]:
    """A running cluster, and what reads how many requests its router has answered."""
    cluster = LocalCluster(directory, groups=GROUPS, settings=settings)
    port = free_ports(len(cluster.processes) + 1)[
        -1
    ]  # the others are the cluster's, which is not started
    (router,) = cluster.router_processes
    router.environment["OVERDB_METRICS_LISTEN"] = f"127.0.0.1:{port}"
    stack.enter_context(cluster)
    stack.callback(_show_ended, cluster)
    return cluster, functools.partial(_answered_by_router, port)


def _answered_by_router(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        return data_requests(connection.getresponse().read().decode())
    finally:
        connection.close()


def data_requests(exposition: str) -> int:
    """The requests for data that a router has answered, whatever with, by its metrics."""
    return round(
        sum(
            sample.value
            for family in text_string_to_metric_families(exposition)
            for sample in family.samples
            if sample.name == "overdb_router_requests_total"
            and sample.labels["method"] in _DATA_METHODS
        )
    )


def _show_ended(cluster: LocalCluster) -> None:
    """Say why processes have ended that should not have."""
    for process in cluster.processes:
        if not process.is_running:
            code = process.popen and process.popen.returncode
            print(f"{process.name} ended with {code}:\n{process.log_tail()}")


def _etcd(stack: contextlib.ExitStack, directory: Path) -> list[Target]:
    nodes = stack.enter_context(etcd_cluster.EtcdCluster(directory / "etcd"))
    pids: dict[str, int] = {}

    def renew() -> None:
        nodes.restart()
        name_pids()

    def name_pids(leader: str = "") -> None:
        """By what they are in this turn: medians over the turns are of leaders, and of followers."""
        pids.clear()
        followers = itertools.count(1)
        for endpoint, popen in zip(nodes.endpoints, nodes.popens, strict=True):
            name = "leader" if endpoint == leader else f"follower-{next(followers)}"
            pids[name] = popen.pid

    name_pids()
    asked = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=False)
    release = asked.stdout.partition("\n")[0].rpartition(" ")[2]
    promise = "fsynced by a majority before the answer; linearizable"

    def leader() -> str:
        found = wait_until(lambda: nodes.leader() or "", "etcd has a leader")
        name_pids(found)
        return found

    def at_leader() -> KeyValue:
        return Etcd([leader()])

    def spread() -> KeyValue:
        leader()
        return Etcd(nodes.endpoints)

    slowest = {**SLOWEST, "scan-1000": 250.0}

    def target(name: str, calling: Callable[[], KeyValue], rows: tuple[Row, ...]) -> Target:
        return Target(
            name, calling, pids, release, promise, rows, 300.0, renew, "etcd", slowest=slowest
        )

    return [target("etcd-leader", at_leader, ROWS), target("etcd-spread", spread, ROWS)]


def _pysyncobj(stack: contextlib.ExitStack, directory: Path) -> Target:
    nodes = stack.enter_context(python_stores.PySyncObjNodes(directory / "pysyncobj"))
    return Target(
        "pysyncobj",
        functools.partial(python_stores.PySyncObj, nodes.ports),
        {f"pysyncobj-{n}": popen.pid for n, popen in enumerate(nodes.popens)},
        metadata.version(python_stores.PYSYNCOBJ),
        "in a journal that is never fsynced; reads of the leader's memory, unconfirmed",
        _rows("get", "mix-90-10", "put", "hot-key"),
        60.0,
        slowest={**SLOWEST, "put": 5000.0, "hot-key": 5000.0},
    )


def _oxidedb(stack: contextlib.ExitStack, directory: Path) -> Target:
    nodes = stack.enter_context(python_stores.OxideDBNodes(directory / "oxidedb"))
    return Target(
        "oxidedb",
        functools.partial(python_stores.OxideDB, nodes.addresses),
        {f"oxidedb-{n}": popen.pid for n, popen in enumerate(nodes.popens)},
        metadata.version(python_stores.OXIDEDB),
        "SQLite with synchronous=NORMAL: not fsynced before the answer, a put is a transaction in two "
        "phases; linearizable",
        # More callers make it no faster: 256 that put, of the few a second that it does, wait for seconds.
        (
            *_rows("get", "mix-90-10", "put", callers_max=python_stores.THREADS),
            *_rows("hot-key", callers_max=16),
        ),
        15.0,
        slowest={"get": 100.0, "mix-90-10": 100.0, "put": 15.0, "hot-key": 15.0},
    )


def wake_only(target: Target, everybody: list[Target]) -> None:
    """Stop the processes of all others, continue those of ``target``."""
    for pid in {p for t in everybody for p in t.pids.values()} - set(target.pids.values()):
        os.kill(pid, signal.SIGSTOP)
    for pid in target.pids.values():
        os.kill(pid, signal.SIGCONT)


def wake_all(everybody: list[Target]) -> None:
    """Continue what was stopped, so that it can end."""
    for pid in {p for target in everybody for p in target.pids.values()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
