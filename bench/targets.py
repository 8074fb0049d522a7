"""The systems that are measured: their processes, how they are called, what they promise."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench import etcd_cluster, python_stores
from bench.stores import Etcd, KeyValue, OverDB
from bench.workloads import GROUPS, ROWS, Row
from overdb_common.version import version
from tests.integration.cluster import LocalCluster, wait_until

_PLAIN = tuple(row for row in ROWS if row[0] in {"put", "get", "mix-90-10", "hot-key"})


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

    @property
    def servers(self) -> str:
        """Who serves: targets that differ in how they are called have it in common."""
        return self.name.partition("-")[0]


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
    cluster = stack.enter_context(LocalCluster(directory / "overdb", groups=GROUPS))
    stack.callback(_show_ended, cluster)
    pids = {process.name: process.pid for process in cluster.processes}
    promise = "fsynced by a majority before the answer; linearizable"
    through_router = functools.partial(OverDB, cluster.endpoints)
    to_leaders = functools.partial(OverDB, cluster.endpoints, direct=True)
    return [
        Target("overdb", through_router, pids, version(), promise),
        Target("overdb-direct", to_leaders, pids, version(), promise),
    ]


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

    def name_pids() -> None:
        pids.update((f"etcd-{n}", popen.pid) for n, popen in enumerate(nodes.popens))

    name_pids()
    asked = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=False)
    release = asked.stdout.partition("\n")[0].rpartition(" ")[2]
    promise = "fsynced by a majority before the answer; linearizable"

    def at_leader() -> KeyValue:
        return Etcd([wait_until(lambda: nodes.leader() or "", "etcd has a leader")])

    spread = functools.partial(Etcd, nodes.endpoints)
    plain = tuple(row for row in ROWS if row[0] in {"put", "get"})
    return [
        Target("etcd-leader", at_leader, pids, release, promise, renew=renew),
        Target("etcd-spread", spread, pids, release, promise, plain, renew=renew),
    ]


def _pysyncobj(stack: contextlib.ExitStack, directory: Path) -> Target:
    nodes = stack.enter_context(python_stores.PySyncObjNodes(directory / "pysyncobj"))
    return Target(
        "pysyncobj",
        functools.partial(python_stores.PySyncObj, nodes.ports),
        {f"pysyncobj-{n}": popen.pid for n, popen in enumerate(nodes.popens)},
        metadata.version(python_stores.PYSYNCOBJ),
        "in a journal that is never fsynced; reads of the leader's memory, unconfirmed",
        _PLAIN,
        60.0,
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
        tuple(row for row in _PLAIN if row[1] <= python_stores.THREADS),
        15.0,
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
