"""Clusters are found, hurt and healed: processes by signals and files, containers by ``docker``."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overdb.internal.v1.shard_pb2 import DescribeResponse
from overdb_torture import control, laggards
from overdb_torture.clusters import compose
from overdb_torture.clusters.base import NotCarriedOut, Unusable
from overdb_torture.clusters.compose import ComposeCluster
from overdb_torture.clusters.local import LocalCluster
from overdb_torture.command import chosen_kinds
from overdb_torture.faults import (
    APART,
    DEAF,
    FOR_GOOD,
    JUMP,
    LAGGING,
    MUTE,
    Kind,
    Planned,
    Role,
    settings_of,
)
from tests.unit.local.supervised import wait_until


def fault(kind: Kind, way: str = "", amount: float = 0.0) -> Planned:
    return Planned(kind, 0.0, 1.0, Role.LEADER, (0,), way, amount)


class Processes:
    """Stands in for a supervisor: sleeping processes, ``cluster.json``, the held lock."""

    def __init__(self, directory: Path, *, faults: bool) -> None:
        self.directory = directory
        self.faults_directory = directory / "faults"
        self.faults_directory.mkdir()
        self._lock = (directory / "LOCK").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._faults = faults
        self.popen = {name: self._start() for name in ("node-1", "node-2", "node-3", "router-0")}
        self.write()

    def _start(self) -> subprocess.Popen[bytes]:
        code = "print(flush=True); import signal; signal.pause()"
        environment = {**os.environ, "OVERDB_PARENT_PID": str(os.getpid())}
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # its environment can be seen from here on
        return process

    def restart(self, name: str) -> None:
        self.popen[name].wait(10)
        self.popen[name] = self._start()
        self.write()

    def write(self) -> None:
        nodes = [
            {
                "node_id": n,
                "group": 0,
                "pid": self.popen[f"node-{n}"].pid,
                "address": f"node-{n}:7410",
            }
            for n in range(1, 4)
        ]
        router = {"name": "router-0", "address": "h:1", "pid": self.popen["router-0"].pid}
        where = str(self.faults_directory) if self._faults else None
        content = {"nodes": nodes, "routers": [router], "faults_directory": where}
        control.write_json(self.directory / "cluster.json", content)

    def state(self, name: str) -> str:
        return Path(f"/proc/{self.popen[name].pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    def end(self) -> None:
        for process in self.popen.values():
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._lock.close()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with contextlib.closing(_Ended(Processes(tmp_path, faults=True))) as running:
        yield running.processes


def _stranger() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


class _Ended:
    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def close(self) -> None:
        self.processes.end()


def test_no_cluster_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="make run FAULTS=1"):
        LocalCluster(tmp_path)
    # One that has been stopped is none either: nobody holds the lock.
    (tmp_path / "LOCK").touch()
    control.write_json(tmp_path / "cluster.json", {"nodes": [], "routers": []})
    with pytest.raises(Unusable, match="no cluster runs"):
        LocalCluster(tmp_path)


def test_without_faults_switched_on_only_signals_are_possible(tmp_path: Path) -> None:
    running = Processes(tmp_path, faults=False)
    try:
        cluster = LocalCluster(tmp_path)
        assert cluster.possible == {Kind.KILL, Kind.PAUSE, Kind.RESTART_ALL}
        assert "make run FAULTS=1" in cluster.why_not
        with pytest.raises(Unusable) as refused:
            chosen_kinds((Kind.KILL, Kind.SUSPEND, Kind.SETTINGS, Kind.LAG), cluster)
        assert str(refused.value) == (
            f"suspend, settings, lag: not possible on the processes of {tmp_path}; start the cluster with "
            "`make run FAULTS=1` (overdb local --faults); for lag and restore leave --data out: a cluster "
            "is started for this"
        )
    finally:
        running.end()


async def test_a_paused_process_goes_on_at_the_end_and_by_healing(processes: Processes) -> None:
    cluster = LocalCluster(processes.directory)
    victims = [cluster.processes[1]]
    for heal in (cluster.end(fault(Kind.PAUSE), victims), cluster.heal()):
        await cluster.begin(fault(Kind.PAUSE), victims)
        wait_until(lambda: processes.state("node-2") == "T", "it is stopped")
        await heal
        wait_until(lambda: processes.state("node-2") == "S", "it goes on")


async def test_killed_is_over_when_it_was_started_again(processes: Processes) -> None:
    cluster = LocalCluster(processes.directory)
    victims = [cluster.processes[0], cluster.processes[3]]
    await cluster.begin(fault(Kind.KILL), victims)
    assert processes.popen["router-0"].wait(10) == -signal.SIGKILL
    over = asyncio.create_task(cluster.end(fault(Kind.KILL), victims))
    processes.restart("router-0")
    await asyncio.sleep(0.1)
    assert not over.done()
    processes.restart("node-1")
    await asyncio.wait_for(over, 10)


async def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(processes: Processes) -> None:
    cluster = LocalCluster(processes.directory)
    stranger = _stranger()
    try:
        content = control.read_json(processes.directory / "cluster.json")
        content["nodes"][0]["pid"] = stranger.pid
        control.write_json(processes.directory / "cluster.json", content)
        with pytest.raises(NotCarriedOut, match="node-1 does not run"):
            await cluster.begin(fault(Kind.KILL), [cluster.processes[0]])
        assert stranger.poll() is None
    finally:
        stranger.communicate()


@pytest.mark.parametrize(
    ("way", "links"),
    [
        (APART, {"2-1", "2-3", "1-2", "3-2"}),
        (MUTE, {"2-1", "2-3"}),
        (DEAF, {"1-2", "3-2"}),
        (LAGGING, {"2-1", "2-3", "1-2", "3-2"}),
    ],
)
async def test_a_partition_is_asked_of_the_proxy_and_counts_once_it_is_taken(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, way: str, links: set[str]
) -> None:
    monkeypatch.setattr("overdb_torture.clusters.local._TAKEN_SECONDS_MAX", 0.2)
    cluster = LocalCluster(processes.directory)
    victims = [cluster.processes[1]]
    with pytest.raises(NotCarriedOut, match=r"nobody took links-wanted\.json"):
        await cluster.begin(fault(Kind.PARTITION, way, 0.1), victims)
    wanted = control.read_json(processes.faults_directory / "links-wanted.json")["links"]
    assert set(wanted) == links
    assert all(link["cut"] is (way != LAGGING) for link in wanted.values())
    assert all((link["delay_seconds"] > 0) is (way == LAGGING) for link in wanted.values())
    await cluster.heal()
    assert control.read_json(processes.faults_directory / "links-wanted.json")["links"] == {}


async def test_a_fault_inside_of_a_node_is_asked_of_it_alone(processes: Processes) -> None:
    cluster = LocalCluster(processes.directory)
    wishes = control.Watched(processes.faults_directory, "node-3")

    async def take() -> None:
        while not (content := wishes.changed()):
            await asyncio.sleep(0.01)
        wishes.taken(content)

    taking = asyncio.create_task(take())
    await cluster.begin(fault(Kind.SLOW_FSYNC, amount=0.3), [cluster.processes[2]])
    await taking
    asked = control.read_json(processes.faults_directory / "node-3.json")
    assert asked["slow_fsync_seconds"] == 0.3
    assert not (processes.faults_directory / "node-1.json").exists()
    await cluster.end(fault(Kind.SLOW_FSYNC, amount=0.3), [cluster.processes[2]])
    assert control.read_json(processes.faults_directory / "node-3.json")["slow_fsync_seconds"] == 0


async def test_a_clock_that_is_wrong_for_good_stays_so_until_the_next_fault_of_a_clock(
    processes: Processes,
) -> None:
    """Through other faults of its node too: nobody sets a clock because a disk is slow."""
    cluster = LocalCluster(processes.directory)

    def offset(number: int) -> float:
        asked = control.read_json(processes.faults_directory / f"node-{number}.json")
        return float(asked["clock_offset_seconds"])

    async def suffer(one: Planned, number: int) -> None:
        wishes = control.Watched(processes.faults_directory, f"node-{number}")
        wishes.changed()

        async def take() -> None:
            while not (content := wishes.changed()):
                await asyncio.sleep(0.01)
            wishes.taken(content)

        taking = asyncio.create_task(take())
        await cluster.begin(one, [cluster.processes[number - 1]])
        await taking
        await cluster.end(one, [cluster.processes[number - 1]])

    await suffer(fault(Kind.CLOCK_JUMP, FOR_GOOD, 86_400.0), 2)
    assert offset(2) == 86_400.0
    await suffer(fault(Kind.SLOW_FSYNC, amount=0.3), 2)
    assert offset(2) == 86_400.0
    await suffer(fault(Kind.CLOCK_JUMP, JUMP, -120.0), 3)
    assert (offset(2), offset(3)) == (0.0, 0.0)
    await suffer(fault(Kind.CLOCK_JUMP, FOR_GOOD, 5.0), 1)
    await cluster.heal()
    assert offset(1) == 0.0


async def test_a_machine_that_slept_is_behind_from_its_first_moment_on(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And stays so until the next fault of a clock: then one of another machine may be wrong."""
    monkeypatch.setattr("overdb_torture.clusters.local._TAKEN_SECONDS_MAX", 0.05)
    cluster = LocalCluster(processes.directory)
    slept, other = cluster.processes[1:3]
    asleep = fault(Kind.SUSPEND, amount=7200.0)
    woken_at: list[float] = []

    def offset(number: int) -> float:
        asked = control.read_json(processes.faults_directory / f"node-{number}.json")
        return float(asked["clock_offset_seconds"])

    kill = os.kill

    def spy(pid: int, number: int) -> None:
        if number == signal.SIGCONT:
            woken_at.append(offset(2))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", spy)
    with pytest.raises(NotCarriedOut, match=r"nobody took node-1\.json"):
        await cluster.begin(fault(Kind.CLOCK_JUMP, FOR_GOOD, 60.0), [cluster.processes[0]])
    await cluster.begin(asleep, [slept])
    wait_until(lambda: processes.state("node-2") == "T", "it sleeps")
    assert offset(1) == 0.0
    assert not (processes.faults_directory / "node-2.json").exists()
    with pytest.raises(NotCarriedOut, match=r"nobody took node-2\.json"):
        await cluster.end(asleep, [slept])
    assert woken_at == [-7200.0]
    wait_until(lambda: processes.state("node-2") == "S", "it is awake")

    await cluster.end(fault(Kind.SLOW_FSYNC, amount=0.3), [slept])
    assert offset(2) == -7200.0
    await cluster.begin(asleep, [other])
    assert offset(2) == 0.0
    await cluster.heal()  # in the middle of its sleep
    assert (offset(2), offset(3)) == (0.0, 0.0)
    wait_until(lambda: processes.state("node-3") == "S", "it is awake")


async def becomes(condition: Callable[[], bool]) -> None:
    """Return when it holds, and let the event loop go on until then."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_node_comes_back_with_other_settings_until_all_is_healed(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = LocalCluster(processes.directory)
    looks: list[bool] = []  # whether the node had read its settings, each time that was asked
    is_taken = control.is_taken

    def noted(directory: Path, name: str, revision: int) -> bool:
        looks.append(is_taken(directory, name, revision))
        return looks[-1]

    monkeypatch.setattr(control, "is_taken", noted)
    changed, victims = replace(fault(Kind.SETTINGS), draw=0.25), [cluster.processes[1]]
    directory = processes.faults_directory
    await cluster.begin(changed, victims)
    assert processes.popen["node-2"].wait(10) == -signal.SIGKILL
    assert control.read_json(directory / "settings-2.json")["settings"] == settings_of(changed)
    assert not (directory / "settings-1.json").exists()
    over = asyncio.create_task(cluster.end(changed, victims))
    processes.restart("node-2")
    await becomes(lambda: len(looks) >= 3)
    assert not any(looks)
    assert not over.done()  # it has not read them yet
    async with taking(directory, "settings-2"):
        await asyncio.wait_for(over, 10)
    # Through other faults of it they stay as they are.
    await cluster.begin(fault(Kind.KILL), victims)
    processes.restart("node-2")
    await cluster.end(fault(Kind.KILL), victims)
    assert (directory / "settings-2.json").exists()
    await cluster.heal()
    assert not list(directory.glob("settings-*"))


class Group:
    """What the replicas of a group say of themselves. Node 1 leads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes = {
            f"node-{n}:7410": DescribeResponse(
                role="leader" if n == 1 else "follower",
                last_index=100,
                applied_index=99,
                snapshot_index=40,
            )
            for n in range(1, 4)
        }
        self.asked: list[str] = []
        monkeypatch.setattr(laggards, "described", self._described)

    async def _described(self, address: str) -> DescribeResponse | None:
        self.asked.append(address)
        return self.nodes.get(address)

    @property
    def leader(self) -> DescribeResponse:
        return self.nodes["node-1:7410"]


@contextlib.asynccontextmanager
async def taking(directory: Path, name: str) -> AsyncIterator[None]:
    """One who takes every wish at once."""
    wishes = control.Watched(directory, name)

    async def take() -> None:
        while True:
            if content := wishes.changed():
                wishes.taken(content)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(take())
    yield
    task.cancel()


async def test_a_follower_goes_on_when_nothing_but_a_snapshot_helps_it(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, cluster = Group(monkeypatch), LocalCluster(processes.directory)
    lag, victims = fault(Kind.LAG), [cluster.processes[1]]

    def wanted() -> dict[str, Any]:
        found = control.read_json(processes.faults_directory / "links-wanted.json")["links"]
        return dict(found)

    async with taking(processes.faults_directory, "links-wanted"):
        await cluster.begin(lag, victims)
        # First nothing reaches it, then it stops: what waited for it would help it too.
        assert set(wanted()) == {"2-1", "2-3", "1-2", "3-2"}
        assert all(link["closed"] and not link["cut"] for link in wanted().values())
        wait_until(lambda: processes.state("node-2") == "T", "it is stopped")
        group.leader.snapshot_index = 100  # and it may have entry 100
        over = asyncio.create_task(cluster.end(lag, victims))
        asked = len(group.asked)
        await becomes(lambda: len(group.asked) >= asked + 6)  # the two others, three times
        assert (over.done(), processes.state("node-2")) == (False, "T")
        assert "node-2:7410" not in group.asked

        group.leader.snapshot_index, group.leader.applied_index = 101, 120
        await asyncio.to_thread(wait_until, lambda: processes.state("node-2") == "S", "it goes on")
        await becomes(lambda: group.asked.count("node-2:7410") >= 3)
        assert not over.done()
        group.nodes["node-2:7410"].applied_index = 120
        await asyncio.wait_for(over, 10)
    assert (wanted(), cluster.complaints) == ({}, [])


async def test_a_follower_that_does_not_catch_up_is_complained_of(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laggards, "CAUGHT_UP_SECONDS_MAX", 0.3)
    group, cluster = Group(monkeypatch), LocalCluster(processes.directory)
    async with taking(processes.faults_directory, "links-wanted"):
        await cluster.begin(fault(Kind.LAG), [cluster.processes[1]])
        group.leader.snapshot_index, group.leader.applied_index = 101, 120
        await cluster.end(fault(Kind.LAG), [cluster.processes[1]])
    assert cluster.complaints == ["node-2 has not caught up"]


async def test_a_leader_that_keeps_its_log_is_no_lag(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laggards, "COMPACTED_SECONDS_MAX", 0.3)
    Group(monkeypatch)
    cluster = LocalCluster(processes.directory)
    async with taking(processes.faults_directory, "links-wanted"):
        await cluster.begin(fault(Kind.LAG), [cluster.processes[1]])
        with pytest.raises(NotCarriedOut, match="needs no snapshot"):
            await cluster.end(fault(Kind.LAG), [cluster.processes[1]])
    wait_until(lambda: processes.state("node-2") == "S", "it goes on")
    assert control.read_json(processes.faults_directory / "links-wanted.json")["links"] == {}


async def test_a_group_without_a_leader_is_left_as_it_was(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laggards, "LEADER_SECONDS_MAX", 0.3)
    Group(monkeypatch).leader.role = "candidate"
    cluster = LocalCluster(processes.directory)
    async with taking(processes.faults_directory, "links-wanted"):
        with pytest.raises(NotCarriedOut, match="has no leader"):
            await cluster.begin(fault(Kind.LAG), [cluster.processes[1]])
        await cluster.end(fault(Kind.LAG), [cluster.processes[1]])
    wait_until(lambda: processes.state("node-2") == "S", "it goes on")
    assert control.read_json(processes.faults_directory / "links-wanted.json")["links"] == {}


def test_what_only_a_cluster_of_its_own_can_suffer_is_refused_in_words(
    processes: Processes,
) -> None:
    cluster = LocalCluster(processes.directory)
    assert cluster.possible == frozenset(Kind) - {Kind.RESTORE, Kind.LAG}
    assert cluster.why_not == "for lag and restore leave --data out: a cluster is started for this"


async def test_nobody_s_clock_is_set_who_did_not_sleep(processes: Processes) -> None:
    cluster = LocalCluster(processes.directory)
    processes.popen["node-1"].kill()
    processes.popen["node-1"].wait()
    asleep = fault(Kind.SUSPEND, amount=20.0)
    with pytest.raises(NotCarriedOut, match="node-1 does not run"):
        await cluster.begin(asleep, [cluster.processes[0]])
    await cluster.end(asleep, [cluster.processes[0]])
    assert not (processes.faults_directory / "node-1.json").exists()


# --- containers -------------------------------------------------------------------------------------


class Docker:
    """Pretends to be the ``docker`` command, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.networks: dict[str, dict[str, Any]] = {}
        self.paused: set[str] = set()
        self.stopped: set[str] = set()
        for name in ("shard0-replica0-1", "shard0-replica1-1", "router-1"):
            self.networks[f"overdb-{name}"] = {"overdb_default": {"Aliases": [name[:-2]]}}

    async def __call__(self, *words: str) -> str:
        self.commands.append(" ".join(words))
        if words[0] == "ps":
            return "\n".join(self.networks)
        if words[0] == "inspect":
            return json.dumps([self._inspected(name) for name in words[1:]])
        if words[0] in ("pause", "unpause"):
            change = self.paused.update if words[0] == "pause" else self.paused.difference_update
            change(words[1:])
        elif words[0] in ("kill", "start"):
            change = self.stopped.update if words[0] == "kill" else self.stopped.difference_update
            change(words[1:])
        elif words[1] == "disconnect":
            self.networks[words[3]] = {}
        elif words[1] == "connect":
            aliases = [words[i + 1] for i, word in enumerate(words) if word == "--alias"]
            self.networks[words[-1]] = {words[-2]: {"Aliases": aliases}}
        return ""

    def _inspected(self, name: str) -> dict[str, Any]:
        node = name.startswith("overdb-shard0-replica")
        number = int(name.removeprefix("overdb-shard0-replica")[0]) + 1 if node else 0
        variables = [f"OVERDB_NODE_ID={number}", "OVERDB_GROUP=0"] if node else ["A=b"]
        ports = {} if node else {"7400/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7402"}]}
        labels = {"com.docker.compose.service": name.removeprefix("overdb-")[:-2]}
        return {
            "Name": f"/{name}",
            "Config": {"Env": variables, "Labels": labels},
            "State": {"Paused": name in self.paused, "Running": name not in self.stopped},
            "NetworkSettings": {"Ports": ports, "Networks": self.networks[name]},
        }


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    fake = Docker()
    monkeypatch.setattr(compose, "docker", fake)
    return fake


async def test_containers_are_looked_up_by_their_project(docker: Docker) -> None:
    cluster = await ComposeCluster.find("overdb")
    assert docker.commands[0] == "ps -q --filter label=com.docker.compose.project=overdb"
    assert cluster.endpoints == ["127.0.0.1:7402"]
    found = [(p.name, p.node_id, p.group) for p in cluster.processes]
    assert found == [("overdb-router-1", 0, -1), ("node-1", 1, 0), ("node-2", 2, 0)]
    assert cluster.possible == {Kind.KILL, Kind.PAUSE, Kind.PARTITION, Kind.RESTART_ALL}


async def test_what_containers_cannot_suffer_is_refused_in_words(docker: Docker) -> None:
    cluster = await ComposeCluster.find("overdb")
    for kind in (Kind.SUSPEND, Kind.LAG, Kind.SETTINGS):
        with pytest.raises(
            Unusable, match="nothing can be switched on; use a cluster of `make run"
        ):
            chosen_kinds((Kind.KILL, kind), cluster)


async def test_each_fault_of_containers_is_undone_at_its_end(docker: Docker) -> None:
    cluster = await ComposeCluster.find("overdb")
    node = [cluster.processes[1]]
    before = json.dumps(docker.networks)
    commands = {
        Kind.KILL: ["kill overdb-shard0-replica0-1", "start overdb-shard0-replica0-1"],
        Kind.PAUSE: ["pause overdb-shard0-replica0-1", "unpause overdb-shard0-replica0-1"],
        Kind.PARTITION: [
            "network disconnect overdb_default overdb-shard0-replica0-1",
            "network connect --alias shard0-replica0 overdb_default overdb-shard0-replica0-1",
        ],
    }
    for kind, expected in commands.items():
        docker.commands.clear()
        await cluster.begin(fault(kind), node)
        await cluster.end(fault(kind), node)
        assert docker.commands == expected
        assert json.dumps(docker.networks) == before


async def test_a_container_is_cut_off_or_not_and_nothing_else_is_written_down(
    docker: Docker,
) -> None:
    cluster = await ComposeCluster.find("overdb")
    adapted = cluster.adapted(fault(Kind.PARTITION, LAGGING, 0.2))
    assert (adapted.way, adapted.amount) == (APART, 0.0)
    assert cluster.adapted(fault(Kind.PAUSE)) == fault(Kind.PAUSE)


async def test_healing_finds_what_is_still_wrong_and_touches_nothing_else(docker: Docker) -> None:
    cluster = await ComposeCluster.find("overdb")
    router, one, other = cluster.processes
    before = json.dumps(docker.networks)
    await cluster.begin(fault(Kind.PAUSE), [router])
    await cluster.begin(fault(Kind.KILL), [one])
    await cluster.begin(fault(Kind.PARTITION), [other])
    await cluster.heal()
    assert (docker.paused, docker.stopped, json.dumps(docker.networks)) == (set(), set(), before)
    docker.commands.clear()
    await cluster.heal()
    assert [command.split()[0] for command in docker.commands] == ["inspect"]


async def test_no_containers_and_no_docker_are_told_apart(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.networks.clear()
    with pytest.raises(Unusable, match="no container of the Compose project 'overdb' runs"):
        await ComposeCluster.find("overdb")

    async def no_engine(*_: str) -> str:
        raise NotCarriedOut("docker ps: cannot connect")

    monkeypatch.setattr(compose, "docker", no_engine)
    with pytest.raises(Unusable, match="cannot connect"):
        await ComposeCluster.find("overdb")
