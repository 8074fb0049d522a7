"""Real processes on small file systems of their own that fill up (FAULTS 84)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from overdb import OverDBError
from overdb.sync import Client
from overdb.v1 import kv_pb2, kv_pb2_grpc
from tests.integration.cluster import LocalCluster, wait_until
from tests.integration.small_disks import MIB, SmallDisk, mounted
from tests.sizes import Sizes

pytestmark = pytest.mark.processes
VALUE = 256 << 10
SECONDS_MAX = 90.0


@contextmanager
def cluster_on(
    directory: Path, disks: list[int], size_bytes: int, settings: dict[str, str], groups: int = 2
) -> Iterator[tuple[LocalCluster, dict[int, SmallDisk]]]:
    """Groups of three; each node of ``disks`` has a file system of its own."""
    with ExitStack() as stack:
        found = {}
        cluster = LocalCluster(directory / "cluster", groups=groups, settings=settings)
        for node in disks:
            found[node] = stack.enter_context(mounted(directory / f"{node}.img", size_bytes))
            cluster.nodes[node].environment["OVERDB_DATA"] = str(found[node].path / "node")
        yield stack.enter_context(cluster), found


def keys_of(client: Client) -> list[bytes]:
    """One key of each group."""
    keys: dict[int, bytes] = {}
    for number in range(1000):
        key = b"k%d" % number
        keys.setdefault(client.locate(key).group, key)
        if len(keys) == 2:
            return [keys[0], keys[1]]
    raise AssertionError(keys)


def succeeds(call: Callable[[], object]) -> Callable[[], bool]:
    """A condition: the call raises nothing."""

    def attempt() -> bool:
        try:
            call()
        except OverDBError:
            return False
        return True

    return attempt


def put_many(client: Client, key: bytes, count: int) -> None:
    for _ in range(count):
        client.put(key, os.urandom(VALUE))


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    assert isinstance(error, grpc.Call)
    return error.code(), str(error.details())


def put_until_refused(endpoint: str, key: bytes, count: int) -> str:
    """Put until a full disk is the reason of a refusal, and return it.

    A full replica hands over to one that has room. A put that is in its log then, or on its way to it, may
    have run: its outcome is unknown while the next leader is full too. Any other is refused at once (1.4).
    """
    may_pass = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    with grpc.insecure_channel(endpoint) as channel:
        stub = kv_pb2_grpc.KVStub(channel)
        for _ in range(count):
            try:
                stub.Put(kv_pb2.PutRequest(key=key, value=os.urandom(VALUE)), timeout=20)
            except grpc.RpcError as error:
                code, details = _status(error)
                if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return details
                if code not in may_pass:
                    raise
    raise AssertionError(f"none of {count} puts was refused")


def assert_refused(endpoint: str, key: bytes) -> None:
    """By one call, which nobody repeats: the client library does so until its time is over."""
    with grpc.insecure_channel(endpoint) as channel, pytest.raises(grpc.RpcError) as refusal:
        kv_pb2_grpc.KVStub(channel).Put(kv_pb2.PutRequest(key=key, value=b"refused"), timeout=20)
    assert isinstance(refusal.value, grpc.Call)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "disk full" in refusal.value.details()


def problem(cluster: LocalCluster, node: int) -> str:
    answer = cluster.describe(node)
    return answer.problem if answer is not None else "does not answer"


def pids(cluster: LocalCluster) -> list[int]:
    assert all(process.is_running for process in cluster.processes)
    return [process.pid for process in cluster.processes]


def until_settled(cluster: LocalCluster, group: int = 0) -> None:
    """Wait until all replicas of a group have applied the same, and nothing is wrong with any."""
    nodes = [node for node in cluster.nodes if cluster.group_of(node) == group]
    seen: list[object] = []

    def settled() -> bool:
        answers = [cluster.describe(node) for node in nodes]
        seen[:] = [(a.applied_index, a.problem) if a is not None else None for a in answers]
        return len(set(seen)) == 1 and seen[0] is not None and not problem(cluster, nodes[0])

    try:
        wait_until(settled, "three sound replicas", SECONDS_MAX)
    except AssertionError as error:
        tails = "\n".join(cluster.nodes[node].log_tail() for node in nodes)
        raise AssertionError(f"{error}: {seen}\n{tails}") from None


def test_a_disk_full_of_old_versions_makes_room_when_their_time_is_over(
    tmp_path: Path, sizes: Sizes
) -> None:
    """Nothing is restarted, nothing more is written: time moves, old versions go, files shrink."""
    size = sizes.pick(quick=160 * MIB, full=320 * MIB)
    settings = {
        "OVERDB_RETENTION_SECONDS": "12",
        "OVERDB_DISK_FREE_BYTES_MIN": str(size // 5),
        "OVERDB_SNAPSHOT_LOG_BYTES": str(size // 5),
    }
    with cluster_on(tmp_path, [1, 2, 3], size, settings) as (cluster, disks):
        before = pids(cluster)
        with Client(cluster.endpoints, timeout=5) as client:
            key, other = keys_of(client)
            client.put(other, b"of the other group")
            empty = min(disk.free_bytes for disk in disks.values())
            refusal = put_until_refused(cluster.endpoints[0], key, 5000)
            assert re.match(r"group 0: replica \d: .*disks? .*full", refusal), refusal
            assert re.search(r"Delete keys|Enlarge the disk|overdb status says", refusal), refusal
            assert len(getattr(client.get(key), "value", b"")) == VALUE
            assert {item.key for item in client.scan()} == {key, other}
            client.put(other, b"goes on")
            client.delete(key)
            wait_until(
                lambda: min(disk.free_bytes for disk in disks.values()) > empty * 0.7,
                f"room on all disks, of {empty}",
                SECONDS_MAX,
            )
            wait_until(succeeds(lambda: client.put(key, b"again")), "writes again", SECONDS_MAX)
        until_settled(cluster)
        assert pids(cluster) == before


@pytest.mark.parametrize("whom", ["follower", "leader", "all"])
def test_a_disk_that_others_fill_stops_what_it_must_and_comes_back(
    tmp_path: Path, whom: str
) -> None:
    """To the last byte. Who has room goes on; scans of all groups go on; nobody ends."""
    settings = {"OVERDB_DISK_FREE_BYTES_MIN": str(64 * MIB)}
    with cluster_on(tmp_path, [1, 2, 3], 320 * MIB, settings) as (cluster, disks):
        before = pids(cluster)
        leader = cluster.leader(0)
        follower = next(node for node in disks if node != leader)
        victims = {"follower": [follower], "leader": [leader], "all": list(disks)}[whom]
        with Client(cluster.endpoints, timeout=20) as client:
            key, other = keys_of(client)
            client.put(key, b"old")
            client.put(other, b"old")
            for victim in victims:
                disks[victim].fill()
            wait_until(
                lambda: all("disk full" in problem(cluster, v) for v in victims), "they say so"
            )
            if whom == "all":
                # The read has the router find the leader: a put that went to one before may have run there.
                assert getattr(client.get(key), "value", b"") == b"old"
                assert_refused(cluster.endpoints[0], key)
            else:
                put_many(client, key, 120)  # more than the log has room for
                assert cluster.leader(0) not in victims
            client.put(other, b"new")
            assert len(list(client.scan())) == 2
            with client.transaction() as transaction:
                transaction.get(key)
                transaction.put(other, b"newer")
            for victim in victims:
                assert "disk full" in problem(cluster, victim)
                disks[victim].free()
            wait_until(succeeds(lambda: client.put(key, b"again")), "writes", SECONDS_MAX)
        until_settled(cluster)
        assert pids(cluster) == before


def test_a_start_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    """It neither ends nor prints a traceback, and goes on by itself."""
    with cluster_on(tmp_path, [1], 200 * MIB, {}, groups=1) as (cluster, disks):
        node = cluster.nodes[1]
        assert node.stop() == 0
        disks[1].fill()
        node.start()
        wait_until(
            lambda: "waits_for_disk_space" in node.log_file.read_text(), "it says that it waits"
        )
        assert node.is_running
        assert "Traceback" not in node.log_file.read_text()
        disks[1].free()
        until_settled(cluster)
        assert node.stop() == 0
        disks[1].fill()
        node.start()
        wait_until(
            lambda: node.log_file.read_text().count("waits_for_disk_space") > 1, "it waits again"
        )
        assert node.stop() == 0  # while it waits
