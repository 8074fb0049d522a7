"""Directories that travel back in time, with real processes: copies that are put back, clones (FAULTS 82).

Node ``victim`` acknowledges with one other a value that the third one never sees; then its directory is an
older one. With the third one alone it would be a majority that lacks what was acknowledged.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import overdb
from overdb.sync import Client
from tests.integration.cluster import LocalCluster, wait_until
from tests.ports import free_ports

pytestmark = pytest.mark.processes
TIMES_LOOKED = 40  # 4 s: two election timeouts


@pytest.fixture
def small(tmp_path: Path) -> LocalCluster:
    """One group of three."""
    return LocalCluster(tmp_path, groups=1)


def copied(directory: Path, target: Path) -> int:
    """Copy a directory as ``cp -r`` does, also while its files change; return the start number in it."""

    def copy(source: str, to: str) -> None:
        try:
            shutil.copyfile(source, to)
        except FileNotFoundError:
            return  # removed meanwhile

    shutil.copytree(directory, target, copy_function=copy)
    return start_number(target)


def start_number(directory: Path) -> int:
    files = [directory / name for name in ("node.json", "starts.json")]
    return max(int(json.loads(file.read_text())["start_number"]) for file in files if file.exists())


def knows_a_later_start(cluster: LocalCluster, witness: int, node: int, number: int) -> bool:
    found = cluster.describe(witness)
    return found is not None and any(s.id == node and s.start_number > number for s in found.starts)


def problem_of(cluster: LocalCluster, node: int) -> str:
    found = cluster.describe(node)
    return "" if found is None else str(found.problem)


def caught_up(cluster: LocalCluster, node: int, other: int) -> bool:
    mine, theirs = cluster.describe(node), cluster.describe(other)
    return (
        mine is not None
        and theirs is not None
        and theirs.last_index == theirs.applied_index == mine.applied_index
    )


def stopped_before(cluster: LocalCluster, victim: int, copy: Path) -> int:
    """The copy is taken while the node is down, before its last start: both count up to the same number."""
    cluster.nodes[victim].stop()
    number = copied(cluster.directory / f"node-{victim}", copy)
    cluster.nodes[victim].start()
    return number


def running(cluster: LocalCluster, victim: int, copy: Path) -> int:
    """As a snapshot of a virtual machine: the node runs, and is not started again before it is put back."""
    return copied(cluster.directory / f"node-{victim}", copy)


@pytest.mark.parametrize("take_copy", [stopped_before, running])
def test_a_directory_that_is_put_back_votes_nothing_away(
    small: LocalCluster, tmp_path: Path, take_copy: Callable[[LocalCluster, int, Path], int]
) -> None:
    with small as cluster:
        with Client(cluster.endpoints, timeout=60.0) as client:
            client.put(b"balance", b"old")
            leader = cluster.leader(0)
            witness, victim = (i for i in (1, 2, 3) if i != leader)
            wait_until(lambda: caught_up(cluster, witness, leader), "all have the first value")
            number = take_copy(cluster, victim, tmp_path / "copy")
            wait_until(
                lambda: knows_a_later_start(cluster, witness, victim, number), "a follower knows"
            )
            cluster.nodes[witness].stop()
            client.put(b"balance", b"new")  # acknowledged by the leader and the victim
        directory = cluster.directory / f"node-{victim}"
        cluster.nodes[victim].kill()
        cluster.nodes[leader].kill()
        shutil.rmtree(directory)
        shutil.copytree(tmp_path / "copy", directory)
        for node in (victim, witness):
            cluster.nodes[node].start()
        for node in (victim, witness):
            wait_until(lambda n=node: cluster.describe(n), "both run")  # type: ignore[misc]
        said = f"the directory of replica {victim} is an old copy"
        wait_until(lambda: said in problem_of(cluster, victim), "it says what happened")
        for _ in range(TIMES_LOOKED):
            for node in (victim, witness):
                found = cluster.describe(node)
                assert found is None or found.role != "leader"
            signal.sigtimedwait([], 0.1)
        # It has noted that itself: also where nobody is there who knows.
        cluster.nodes[witness].kill()
        cluster.nodes[victim].kill()
        cluster.nodes[victim].start()
        wait_until(lambda: said in problem_of(cluster, victim), "it remembers")
        for node in (leader, witness):
            cluster.nodes[node].start()
        with Client(cluster.endpoints, timeout=30.0) as client:
            value = client.get(b"balance")
            assert value is not None
            assert value.value == b"new"
            (group,) = client.status().groups
            assert said in next(r.problem for r in group.replicas if r.id == victim)
            # And the way out, as the message says.
            cluster.nodes[victim].stop()
            new = cluster.joining(9, like=victim)
            new.start()
            client.remove_member(0, victim)
            client.add_member(0, 9, new.address)
            client.promote_member(0, 9, wait=True)


def test_of_a_directory_and_its_running_clone_the_clone_stays_out(
    small: LocalCluster, tmp_path: Path
) -> None:
    """A cloned volume is started twice, the second time elsewhere."""
    with small as cluster, Client(cluster.endpoints, timeout=60.0) as client:
        client.put(b"key", b"1")
        leader = cluster.leader(0)
        original = next(i for i in (1, 2, 3) if i != leader)
        number = copied(cluster.directory / f"node-{original}", tmp_path / "clone")
        for node in {1, 2, 3} - {original}:
            wait_until(
                lambda n=node: knows_a_later_start(cluster, n, original, number),  # type: ignore[misc]
                "the others know that the original went on",
            )
        clone = cluster.joining(99, like=original, address=f"127.0.0.1:{free_ports(1)[0]}")
        clone.environment.pop("OVERDB_JOIN")
        clone.environment["OVERDB_DATA"] = str(tmp_path / "clone")
        clone.environment["OVERDB_NODE_ID"] = str(original)
        clone.start()
        wait_until(lambda: "is an old copy" in problem_of(cluster, 99), "the clone says so")
        assert problem_of(cluster, original) == ""
        client.put(b"key", b"2")
        wait_until(lambda: caught_up(cluster, original, leader), "the original goes on")


def test_all_nodes_killed_at_once_come_back_without_ado(small: LocalCluster) -> None:
    """No node waits for another one that waits for it."""
    with small as cluster:
        with Client(cluster.endpoints, timeout=60.0) as client:
            client.put(b"key", b"1")
        for _ in range(2):
            for node in cluster.nodes.values():
                node.kill()
            for node in cluster.nodes.values():
                node.start()
            cluster.wait_until_serving()
            assert [problem_of(cluster, node) for node in (1, 2, 3)] == ["", "", ""]
        # And a majority is enough: the third one may be gone for good.
        for node in cluster.nodes.values():
            node.kill()
        for number in (1, 2):
            cluster.nodes[number].start()
        with Client(cluster.endpoints, timeout=30.0) as client:
            client.put(b"key", b"2")


def test_a_replica_with_another_number_of_groups_takes_part_in_nothing(
    small: LocalCluster,
) -> None:
    """FAULTS 85: it would own other slots, and answer "nothing was done" to what the others applied."""
    with small as cluster, Client(cluster.endpoints, timeout=60.0) as client:
        client.put(b"key", b"1")
        node = cluster.joining(7, like=1, address=f"127.0.0.1:{free_ports(1)[0]}")
        node.environment["OVERDB_GROUPS"] = "3"
        node.start()
        assert node.popen is not None
        assert node.popen.wait(30) != 0
        assert "has 1 groups, OVERDB_GROUPS is 3" in node.log_tail()
        assert not (cluster.directory / "node-7").exists()
        # It cannot ask when it starts, and is added all the same.
        seeds = {name: node.environment[name] for name in ("OVERDB_SEEDS", "OVERDB_MEMBERS")}
        node.environment |= dict.fromkeys(seeds, "")
        node.start()
        wait_until(lambda: cluster.describe(7), "it runs")
        with pytest.raises(overdb.FailedPrecondition, match="OVERDB_GROUPS=3, this group 1"):
            client.add_member(0, 7, node.address)
        node.stop()
        shutil.rmtree(cluster.directory / "node-7")
        node.environment |= seeds
        node.environment.pop("OVERDB_GROUPS")  # it is told by the group
        node.start()
        client.add_member(0, 7, node.address)
        client.promote_member(0, 7, wait=True)
        found = cluster.describe(7)
        assert found is not None
        assert found.groups == 1
