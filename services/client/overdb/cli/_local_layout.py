"""Where the processes of ``overdb local`` listen and what they keep where."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LOG_BYTES_MAX = 16 << 20  # a longer log file is put aside when its process starts
LEFTOVER_SECONDS_MAX = 15.0  # how long processes of a supervisor that was killed may take to end
HOST = "127.0.0.1"
DEFAULT_PORT = 7400
_NODE_OFFSET = 10
_DIRECT_OFFSET = 50
_METRICS_OFFSET = 100
_LAST_LINE_BYTES_MAX = 4096
_PORT_MAX = 65_535


class Refused(Exception):  # noqa: N818  # it is told to the user as it is
    """The cluster cannot be started like this; says why and what to do."""


@dataclass
class ProcessPlan:
    """One process: what it runs, with which settings, where it writes."""

    name: str
    module: str
    address: str
    metrics_address: str
    environment: dict[str, str]
    log_file: Path
    entry: dict[str, object]  # what cluster.json says of it, without the pid
    pid: int | None = None

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module]

    def open_log(self) -> int:
        """Open the log file for appending; put a long one aside first."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES_MAX:
            self.log_file.rename(self.log_file.with_suffix(".log.1"))
        return os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def last_line(self) -> str:
        """The last line that the process wrote; empty if none."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_LINE_BYTES_MAX))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""


@dataclass
class Layout:
    """The shape of a local cluster. Ports follow from the base port, ids from group and replica.

    A node whose disk was lost is ``replaced`` by one with a new id at the same place.
    """

    directory: Path
    groups: int
    replicas: int
    routers: int
    base_port: int
    cluster: str = "overdb"
    faults: bool = False  # nodes that can be hurt on purpose, and a proxy between them
    replaced: dict[int, int] = field(default_factory=dict)  # id of a node -> id that took its place
    nodes: list[ProcessPlan] = field(init=False)
    router_plans: list[ProcessPlan] = field(init=False)
    helper_plans: list[ProcessPlan] = field(init=False)

    def __post_init__(self) -> None:
        # More than 40 nodes would reach into the ports for direct clients, and these into those of the
        # metrics: both move up then.
        nodes_end = _NODE_OFFSET + self.groups * self.replicas
        self._direct_offset = -(-nodes_end // _DIRECT_OFFSET) * _DIRECT_OFFSET
        direct_end = self._direct_offset + self.groups * self.replicas
        self._metrics_offset = -(-direct_end // _METRICS_OFFSET) * _METRICS_OFFSET
        addresses = {
            self._node_id(group, replica): self._address(_NODE_OFFSET + self._rank(group, replica))
            for group in range(self.groups)
            for replica in range(self.replicas)
        }
        self.nodes = [
            self._node(group, replica, addresses)
            for group in range(self.groups)
            for replica in range(self.replicas)
        ]
        self.router_plans = [
            self._router(number, list(addresses.values())) for number in range(self.routers)
        ]
        self.helper_plans = [self._links(addresses)] if self.faults else []

    @property
    def plans(self) -> list[ProcessPlan]:
        return [*self.helper_plans, *self.nodes, *self.router_plans]

    @property
    def file(self) -> Path:
        return self.directory / "cluster.json"

    @property
    def faults_directory(self) -> Path:
        """Where nodes and proxy find what is to go wrong; see overdb_torture.control."""
        return self.directory / "faults"

    def _rank(self, group: int, replica: int) -> int:
        return group * self.replicas + replica

    def _node_id(self, group: int, replica: int) -> int:
        return self._rank(group, replica) + 1

    def _address(self, offset: int) -> str:
        return f"{HOST}:{self.base_port + offset}"

    def _present_id(self, founding_id: int) -> int:
        """Who is at a founder's place now."""
        node_id = founding_id
        while node_id in self.replaced:
            node_id = self.replaced[node_id]
        return node_id

    def replace(self, pairs: list[str]) -> Layout:
        """This layout with more nodes replaced, ``OLD=NEW`` each. Raises Refused."""
        replaced = dict(self.replaced)
        for pair in pairs:
            old, _, new = pair.partition("=")
            if not (old.isdigit() and new.isdigit()):
                raise Refused(f"--replace {pair}: expected OLD=NEW, two ids, as in 3=7")
            if replaced.get(int(old)) == int(new):
                continue  # said before; it was remembered
            founding = range(1, self.groups * self.replicas + 1)
            used = {*founding, *replaced, *replaced.values()}
            if int(new) in used or int(new) < 1:
                raise Refused(
                    f"--replace {pair}: id {new} was used already; take one that never was"
                )
            if int(old) not in used or int(old) in replaced:
                raise Refused(f"--replace {pair}: there is no node {old} here")
            replaced[int(old)] = int(new)
        return dataclasses.replace(self, replaced=replaced)

    def remembered(self) -> Layout:
        """This layout with the nodes that were replaced at earlier starts."""
        try:
            told = json.loads(self.file.read_text()).get("replaced", {})
            replaced = {int(old): int(new) for old, new in told.items()}
        except (OSError, ValueError, AttributeError):
            return self  # new, or damaged: ``claim`` tells
        return dataclasses.replace(self, replaced=replaced)

    def _node(self, group: int, replica: int, addresses: dict[int, str]) -> ProcessPlan:
        founder, offset = self._node_id(group, replica), _NODE_OFFSET + self._rank(group, replica)
        direct = self._address(self._direct_offset + self._rank(group, replica))
        node_id = self._present_id(founder)
        members = (self._node_id(group, r) for r in range(self.replicas))
        data = self.directory / f"node-{node_id}"
        log_file = self.directory / "logs" / f"node-{node_id}.log"
        return ProcessPlan(
            f"node-{node_id}",
            "overdb_torture.faulty_node" if self.faults else "overdb_node",
            addresses[founder],
            self._address(self._metrics_offset + offset),
            {
                "OVERDB_NODE_ID": str(node_id),
                "OVERDB_DIRECT_LISTEN": direct,
                "OVERDB_GROUP": str(group),
                "OVERDB_GROUPS": str(self.groups),
                "OVERDB_MEMBERS": ",".join(f"{i}={addresses[i]}" for i in members),
                "OVERDB_SEEDS": ",".join(addresses.values()),
                "OVERDB_DATA": str(data),
                **(self._faults_environment(addresses) if self.faults else {}),
                **({"OVERDB_JOIN": "true"} if node_id != founder else {}),
            },
            log_file,
            {
                "node_id": node_id,
                "group": group,
                "replica": replica,
                "direct_address": direct,
                "data_directory": str(data),
            },
        )

    def _router(self, number: int, seeds: list[str]) -> ProcessPlan:
        return ProcessPlan(
            f"router-{number}",
            "overdb_router",
            self._address(number),
            self._address(self._metrics_offset + number),
            {"OVERDB_SEEDS": ",".join(seeds)},
            self.directory / "logs" / f"router-{number}.log",
            {"name": f"router-{number}"},
        )

    def _links(self, addresses: dict[int, str]) -> ProcessPlan:
        """The proxy between the nodes: it listens where the kernel says, and writes down where."""
        return ProcessPlan(
            "links",
            "overdb_torture.links",
            "",
            "",
            self._faults_environment(addresses),
            self.directory / "logs" / "links.log",
            {"name": "links"},
        )

    def _faults_environment(self, addresses: dict[int, str]) -> dict[str, str]:
        return {
            "OVERDB_FAULTS": str(self.faults_directory),
            "OVERDB_FAULTS_NODES": ",".join(
                f"{self._present_id(i)}={a}" for i, a in addresses.items()
            ),
        }

    # --- the directory ----------------------------------------------------------------------------

    def _refuse_foreign(self) -> None:
        """A directory with files and without ours is somebody else's."""
        found = sorted(path.name for path in self.directory.iterdir() if path.name != "lost+found")
        if found and not {"LOCK", self.file.name} & set(found):
            raise Refused(
                f"{self.directory} has files of something else ({', '.join(found[:3])}); choose an "
                "empty directory for --data"
            )

    @contextlib.contextmanager
    def claim(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Hold the directory. Raises Refused: in use, founded with another shape, a port is taken.

        ``tell`` is called with what takes longer than a second.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            lock = (self.directory / "LOCK").open("a+")
        except OSError as error:
            raise Refused(
                f"cannot use {self.directory} ({error.strerror}); choose another --data"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise Refused(
                    f"{self.directory} is in use by the cluster of process {lock.read().strip()}; "
                    "stop it, or choose another --data"
                ) from None
            lock.seek(0)
            lock.truncate()
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            self._check_shape()
            self._wait_for_leftovers(tell)
            self._check_ports()
            yield

    def _check_shape(self) -> None:
        if not self.file.exists():
            return
        try:
            founded = json.loads(self.file.read_text())["founded"]
            shape = int(founded["groups"]), int(founded["replicas"])
        except (OSError, ValueError, KeyError, TypeError):
            raise Refused(f"{self.file} cannot be read; choose another --data") from None
        if shape != (self.groups, self.replicas):
            raise Refused(
                f"{self.directory} was founded with {shape[0]} groups x {shape[1]} replicas, not "
                f"{self.groups} x {self.replicas}; use --groups {shape[0]} --replicas {shape[1]}, or "
                "another --data"
            )

    def _wait_for_leftovers(self, tell: Callable[[str], None]) -> None:
        """A supervisor that was killed leaves processes that are just ending; they hold ports and data."""
        if not self.file.exists():
            return
        content = json.loads(self.file.read_text())
        processes = {
            entry["pid"]: entry["name"] if "name" in entry else f"node-{entry['node_id']}"
            for kind in ("helpers", "routers", "nodes")
            for entry in content.get(kind, [])
            if entry.get("pid")
        }
        start, told = time.monotonic(), False
        while left := [(pid, name) for pid, name in processes.items() if _is_ours(pid)]:
            waited = time.monotonic() - start
            if waited > 1 and not told:
                told = True
                tell(f"Waiting for {left[0][1]} of an earlier start to end")
            if waited > LEFTOVER_SECONDS_MAX:
                pid, name = left[0]
                raise Refused(
                    f"{name} of an earlier start still runs as process {pid}; end it, or choose "
                    "another --data"
                )
            time.sleep(0.1)

    def _check_ports(self) -> None:
        wanted = {
            int(address.rsplit(":", 1)[1]): plan.name
            for plan in [*self.nodes, *self.router_plans]
            for address in (
                plan.address,
                plan.metrics_address,
                plan.environment.get("OVERDB_DIRECT_LISTEN"),
            )
            if address
        }
        beyond = max(wanted) - _PORT_MAX
        if beyond > 0:
            raise Refused(
                f"ports up to {max(wanted)} would be needed, and {_PORT_MAX} is the last; use a "
                f"--base-port of at most {self.base_port - beyond}"
            )
        used = [f"{port} ({name})" for port, name in sorted(wanted.items()) if _is_used(port)]
        if used:
            several = len(used) > 1
            raise Refused(
                f"port{'s' * several} {', '.join(used)} {'are' if several else 'is'} in use; stop "
                f"what uses {'them' if several else 'it'}, or choose another --base-port"
            )

    def write(self) -> None:
        """Write ``cluster.json``: what runs where, with which pid. Atomic."""

        def entry(plan: ProcessPlan) -> dict[str, object]:
            return {
                **plan.entry,
                "address": plan.address,
                "metrics": f"http://{plan.metrics_address}/metrics",
                "pid": plan.pid,
                "log_file": str(plan.log_file),
            }

        content = {
            "cluster": self.cluster,
            "founded": {"groups": self.groups, "replicas": self.replicas},
            "replaced": {str(old): new for old, new in self.replaced.items()},
            "supervisor_pid": os.getpid(),
            "routers": [entry(plan) for plan in self.router_plans],
            "nodes": [entry(plan) for plan in self.nodes],
            "helpers": [{"name": plan.name, "pid": plan.pid} for plan in self.helper_plans],
            "faults_directory": str(self.faults_directory) if self.faults else None,
        }
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.rename(self.file)


def _is_used(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _is_ours(pid: int) -> bool:
    """Whether the process runs and is one that a supervisor started; pids are used again."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, of another user, or no Linux
        return False
    return b"OVERDB_PARENT_PID=" in environment
