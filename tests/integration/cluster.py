"""A real cluster of processes on loopback, for tests: starts, kills, pauses, looks into it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from overdb.internal.v1 import shard_pb2, shard_pb2_grpc
from overdb.v1 import cluster_pb2, cluster_pb2_grpc
from overdb_node.raft.election import HANDED_OVER
from tests.integration.preloaded import FORKERS, Started, preloaded
from tests.ports import free_ports

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds_max: float = 120.0) -> T:
    """Poll until ``condition()`` is true and return its value; fail with ``what`` after the time."""
    deadline, pause = time.monotonic() + seconds_max, 0.02
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds_max} s: {what}")
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)  # looking takes the machine from what is looked at


@dataclass
class Process:
    """One node or router. ``start`` may be called again after it has ended."""

    name: str
    module: str
    environment: dict[str, str]
    log_file: Path
    address: str
    popen: Started | subprocess.Popen[bytes] | None = None
    is_forked: bool = True  # False: a new interpreter, which has hashes of its own

    def start(self) -> None:
        environment = {**os.environ, **self.environment}
        if self.is_forked:
            number = int(self.name.rpartition("-")[2])
            self.popen = preloaded(number % FORKERS).start(self.module, environment, self.log_file)
            return
        with self.log_file.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    @property
    def is_running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def send(self, signal_number: int) -> None:
        os.kill(self.pid, signal_number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait(10)

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.popen is not None
        if self.is_running:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
        try:
            return self.popen.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wakes(self) -> dict[str, int]:
        """Returns how often each of its threads has waited for something so far."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                status = (task / "status").read_text()
                found[task.name] = int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
        return found

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class LocalCluster:
    """``groups`` x ``replicas`` nodes and ``routers`` routers, data below ``directory``."""

    directory: Path
    groups: int = 2
    replicas: int = 3
    routers: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    nodes: dict[int, Process] = field(default_factory=dict)  # by node id
    router_processes: list[Process] = field(default_factory=list)
    joined: dict[int, int] = field(default_factory=dict)  # groups of nodes that came later

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        ports = free_ports(self.groups * self.replicas + self.routers)
        node_ports, router_ports = ports[: -self.routers], ports[-self.routers :]
        ids = range(1, self.groups * self.replicas + 1)
        direct_ports = dict(zip(ids, free_ports(len(ids)), strict=True))
        addresses = {i: f"127.0.0.1:{port}" for i, port in zip(ids, node_ports, strict=True)}
        for node_id in ids:
            group = self.group_of(node_id)
            members = [i for i in ids if self.group_of(i) == group]
            self.nodes[node_id] = Process(
                f"node-{node_id}",
                "overdb_node",
                {
                    "OVERDB_NODE_ID": str(node_id),
                    "OVERDB_GROUP": str(group),
                    "OVERDB_GROUPS": str(self.groups),
                    "OVERDB_MEMBERS": ",".join(f"{i}={addresses[i]}" for i in members),
                    "OVERDB_SEEDS": ",".join(addresses.values()),
                    "OVERDB_LISTEN": addresses[node_id],
                    "OVERDB_DIRECT_LISTEN": f"127.0.0.1:{direct_ports[node_id]}",
                    "OVERDB_DATA": str(self.directory / f"node-{node_id}"),
                    **self.settings,
                },
                self.directory / f"node-{node_id}.log",
                addresses[node_id],
            )
        for number, port in enumerate(router_ports):
            self.router_processes.append(
                Process(
                    f"router-{number}",
                    "overdb_router",
                    {
                        "OVERDB_LISTEN": f"127.0.0.1:{port}",
                        "OVERDB_SEEDS": ",".join(addresses.values()),
                    },
                    self.directory / f"router-{number}.log",
                    f"127.0.0.1:{port}",
                )
            )

    # --- life -----------------------------------------------------------------------------------

    @property
    def processes(self) -> list[Process]:
        return [*self.nodes.values(), *self.router_processes]

    def start(self) -> None:
        for process in self.processes:
            process.start()
        self.wait_until_serving()

    def stop(self) -> None:
        """Stop all of it, however far it got; whatever does not end is killed."""
        running = [p for p in self.processes if p.is_running]
        for process in running:
            process.send(signal.SIGCONT)
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + 15
        for process in running:
            assert process.popen is not None
            try:
                process.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def __enter__(self) -> LocalCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- looking into it --------------------------------------------------------------------------

    def group_of(self, node_id: int) -> int:
        return self.joined.get(node_id, (node_id - 1) // self.replicas)

    def joining(self, node_id: int, like: int, address: str = "") -> Process:
        """A new node for the group of ``like``, not started; at its address, unless another one is given."""
        old = self.nodes[like]
        address = address or old.address
        environment = {
            **old.environment,
            "OVERDB_NODE_ID": str(node_id),
            "OVERDB_JOIN": "true",
            "OVERDB_LISTEN": address,
            "OVERDB_DIRECT_LISTEN": f"127.0.0.1:{free_ports(1)[0]}",
            "OVERDB_DATA": str(self.directory / f"node-{node_id}"),
        }
        log_file = self.directory / f"node-{node_id}.log"
        node = Process(f"node-{node_id}", "overdb_node", environment, log_file, address)
        self.nodes[node_id] = node
        self.joined[node_id] = self.group_of(like)
        return node

    @property
    def endpoints(self) -> list[str]:
        return [router.address for router in self.router_processes]

    def status(self, router: int = 0) -> cluster_pb2.StatusResponse | None:
        """What a router says of the cluster; None when it does not answer."""
        with grpc.insecure_channel(self.router_processes[router].address) as channel:
            stub = cluster_pb2_grpc.ClusterStub(channel)
            try:
                answer: cluster_pb2.StatusResponse = stub.Status(
                    cluster_pb2.StatusRequest(), timeout=5
                )
            except grpc.RpcError:
                return None
            return answer

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the nodes have logged under this name, in no order."""
        return [
            line
            for log in self.directory.glob("node-*.log")
            for line in _lines(log)
            if line.get("event") == name
        ]

    def events_of(self, node: Process) -> list[dict[str, Any]]:
        """All that one node has logged, oldest first."""
        return _lines(node.log_file)

    def hand_overs(self) -> int:
        """How many campaigns were begun because a leader asked for it, not because one fell silent."""
        return sum(one.get("detail") == HANDED_OVER for one in self.events("campaign"))

    def wait_until_serving(self, seconds_max: float = 120.0) -> None:
        def serving() -> bool:
            for process in self.processes:
                if not process.is_running:
                    raise AssertionError(f"{process.name} has ended:\n{process.log_tail()}")
            status = self.status()
            return status is not None and status.serving

        wait_until(serving, "every group has a leader", seconds_max)

    def describe(self, node_id: int) -> shard_pb2.DescribeResponse | None:
        with grpc.insecure_channel(self.nodes[node_id].address) as channel:
            stub = shard_pb2_grpc.ShardStub(channel)
            try:
                answer: shard_pb2.DescribeResponse = stub.Describe(
                    shard_pb2.DescribeRequest(group=self.group_of(node_id)), timeout=1
                )
            except grpc.RpcError:
                return None
            return answer

    def leader(self, group: int, besides: int = 0) -> int:
        """Node id of a group's leader as its members see it, other than ``besides``; waits for one."""

        def found() -> int:
            for node_id in self.nodes:
                if self.group_of(node_id) != group or node_id == besides:
                    continue
                answer = self.describe(node_id) if self.nodes[node_id].is_running else None
                if answer is not None and answer.role == "leader":
                    return node_id
            return 0

        return wait_until(found, f"a leader of group {group}")


def _lines(log: Path) -> list[dict[str, Any]]:
    return list(map(_parsed, log.read_text(errors="replace").splitlines()))


def _parsed(line: str) -> dict[str, Any]:
    """A line of a log; nothing of what is none: a traceback, or a line that a kill cut."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def observed(cluster: LocalCluster) -> LocalCluster:
    """Give every node an address for its metrics."""
    ports = free_ports(len(cluster.processes) + len(cluster.nodes))[len(cluster.processes) :]
    for node, port in zip(cluster.nodes.values(), ports, strict=True):
        node.environment["OVERDB_METRICS_LISTEN"] = f"127.0.0.1:{port}"
    return cluster


def metric(node: Process, name: str) -> float:
    """The value of a metric of one replica; -1 while it does not answer."""
    url = f"http://{node.environment['OVERDB_METRICS_LISTEN']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return -1.0
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"{name} is not among the metrics of {node.name}"
    return float(found[1])


@contextlib.contextmanager
def paused(process: Process) -> Iterator[None]:
    """The process is stopped (SIGSTOP) inside and continued behind."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)
