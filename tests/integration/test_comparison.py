"""Replicas compare what they have; one whose state differs stops serving, and nothing else (FAULTS 31)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

import overdb
from overdb import Add, Consistency, Put
from overdb.internal.v1 import shard_pb2, shard_pb2_grpc
from overdb.sync import Client
from overdb_node.storage.data import DataStore, encode_version
from overdb_node.storage.quarantine import FILE
from tests.integration.cluster import LocalCluster, Process, metric, observed, wait_until
from tests.integration.test_kills import in_thread
from tests.integration.workload import Writers
from tests.sizes import Sizes

pytestmark = pytest.mark.processes
KEYS = [b"key-%d" % number for number in range(40)]
DIVERGED = "replace this replica"


COMPARED_AT_LEAST = 20  # checksums, of two kinds and with two others: five rounds


def comparisons(node: Process) -> float:
    return metric(node, "overdb_replica_comparisons_total")


def data_of(node: Process) -> Path:
    (data,) = Path(node.environment["OVERDB_DATA"]).glob("data-*")
    return data


def change_a_byte(node: Process, key: bytes) -> None:
    """As a bit that flips in memory before RocksDB's own checksum is made: the file itself is sound."""
    store = DataStore(data_of(node))
    found = store.newest(key)
    assert found is not None
    version, value = found
    assert value is not None
    store.database[encode_version(key, version)] = b"\x01" + bytes([value[0] ^ 1]) + value[1:]
    store.flush()
    store.close()


def fill(cluster: LocalCluster, value: bytes) -> None:
    with Client(cluster.endpoints, timeout=60) as client:
        for key in KEYS:
            client.put(key, value + b" of " + key)


def problem(cluster: LocalCluster, node_id: int) -> str:
    """What status says of a replica."""
    status = cluster.status()
    if status is None:
        return ""
    replicas = (one for group in status.groups for one in group.replicas)
    return next((one.problem for one in replicas if one.id == node_id), "")


def writing_until(
    cluster: LocalCluster, condition: Callable[[], object], what: str, seconds_max: float = 60.0
) -> None:
    """Put one key now and then, so that there is something to compare, until the condition holds."""
    with Client(cluster.endpoints, timeout=60) as client:
        deadline = time.monotonic() + seconds_max
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds_max} s: {what}"
            client.put(b"another", b"%f" % time.monotonic())
            time.sleep(0.1)  # the pace of the load, not a wait: ten writes between two comparisons


def stale_answers(cluster: LocalCluster, node_id: int) -> list[bool]:
    """Ask one replica itself: whether it answers a stale read, and a stale page of a scan."""
    with grpc.insecure_channel(cluster.nodes[node_id].address) as channel:
        stub = shard_pb2_grpc.ShardStub(channel)
        reads = shard_pb2.Reads(reads=[shard_pb2.Read(key=KEYS[0])], stale=True)
        read = stub.Submit(shard_pb2.ShardRequest(reads=reads), timeout=5)
        page = stub.ScanPage(shard_pb2.ScanPageRequest(stale=True), timeout=5)
    for failure in (one.failure for one in (read, page) if one.HasField("failure")):
        assert failure.reason == shard_pb2.Failure.REASON_NOT_LEADER
    return [not read.HasField("failure"), not page.HasField("failure")]


def test_a_replica_with_one_changed_byte_stops_serving_and_the_others_go_on(tmp_path: Path) -> None:
    """It goes on voting and storing the log: with it and one other the group has its quorum."""
    settings = {"OVERDB_COMPARE_SECONDS": "1"}
    with observed(LocalCluster(tmp_path, groups=1, settings=settings)) as cluster:
        fill(cluster, b"first")
        leader = cluster.leader(0)
        odd, sound = (i for i in cluster.nodes if i != leader)
        node = cluster.nodes[odd]
        assert stale_answers(cluster, odd) == [True, True]
        assert node.stop() == 0
        change_a_byte(node, KEYS[0])
        node.start()
        writing_until(cluster, lambda: DIVERGED in problem(cluster, odd), "status says so")
        wait_until(lambda: f"replica {odd} " in problem(cluster, leader), "the leader shows it too")
        assert metric(node, "overdb_replica_diverged") == 1
        assert metric(node, "overdb_replica_differences_total") > 0
        assert metric(cluster.nodes[leader], "overdb_replica_diverged") == 0
        assert metric(cluster.nodes[leader], "overdb_replica_comparisons_total") > 0
        assert "replica_diverged" in node.log_file.read_text()
        assert stale_answers(cluster, odd) == [False, False]
        assert stale_answers(cluster, sound) == [True, True]
        read_stale(cluster, b"first")

        node.kill()  # the mark survives
        node.start()
        wait_until(lambda: cluster.describe(odd), "it is back")
        assert stale_answers(cluster, odd) == [False, False]
        assert DIVERGED in problem(cluster, odd)

        cluster.nodes[leader].kill()  # it has to vote, and to store what is written
        assert cluster.leader(0, besides=leader) == sound
        fill(cluster, b"second")
        read_stale(cluster, b"second")
        with grpc.insecure_channel(cluster.nodes[sound].address) as channel:
            request = shard_pb2.TransferRequest(to=odd)
            shard_pb2_grpc.ShardStub(channel).Transfer(request, timeout=10)
        fill(cluster, b"third")
        assert cluster.leader(0, besides=leader) == sound


def read_stale(cluster: LocalCluster, value: bytes) -> None:
    """Through the router, as often as it takes to meet every replica that it would use."""
    with Client(cluster.endpoints, timeout=60) as client:
        for _ in range(3):
            for key in KEYS:
                found = client.get(key, consistency=Consistency.STALE)
                assert found is not None
                assert found.value == value + b" of " + key


def test_an_odd_replica_serves_again_once_a_snapshot_has_replaced_its_state(tmp_path: Path) -> None:
    """Kept away until the others' log begins behind what it has, it gets a snapshot when it comes back."""
    settings = {
        "OVERDB_COMPARE_SECONDS": "1",
        "OVERDB_SNAPSHOT_LOG_BYTES": "65536",
        "OVERDB_KEEP_SILENT_SECONDS": "1",
        "OVERDB_CHUNK_BYTES": "4096",
    }
    with observed(LocalCluster(tmp_path, groups=1, settings=settings)) as cluster:
        fill(cluster, b"first")
        leader = cluster.leader(0)
        odd = next(i for i in cluster.nodes if i != leader)
        node = cluster.nodes[odd]
        node.stop()
        change_a_byte(node, KEYS[0])
        node.start()
        writing_until(cluster, lambda: DIVERGED in problem(cluster, odd), "status says so")
        directory = Path(node.environment["OVERDB_DATA"])
        wait_until(lambda: list(directory.glob(f"data-*/{FILE}")), "the mark is on disk")
        before = cluster.describe(odd)
        assert before is not None
        node.stop()

        def compacted() -> bool:
            fill(cluster, b"x" * 500)
            seen = cluster.describe(cluster.leader(0))
            return seen is not None and seen.snapshot_index > before.last_index + len(KEYS)

        wait_until(compacted, "the leader's log begins behind the odd one's end")
        node.start()
        wait_until(lambda: stale_answers_if_up(cluster, odd) == [True, True], "it serves again")
        assert not list(directory.glob(f"data-*/{FILE}"))
        value = b"x" * 500
        writing_until(
            cluster,
            lambda: not any(problem(cluster, i) for i in cluster.nodes),
            "nobody has a problem any more",
        )
        assert metric(node, "overdb_replica_diverged") == 0
        read_stale(cluster, value)


def stale_answers_if_up(cluster: LocalCluster, node_id: int) -> list[bool]:
    return stale_answers(cluster, node_id) if cluster.describe(node_id) is not None else []


def test_sound_replicas_never_differ_whatever_is_killed_and_sent(
    tmp_path: Path, sizes: Sizes, writer_pause_seconds: float
) -> None:
    """Under load, with kills, restarts and snapshots: all is compared often, and nothing is found."""
    settings = {
        "OVERDB_COMPARE_SECONDS": "1",
        "OVERDB_SNAPSHOT_LOG_BYTES": "100000",
        "OVERDB_KEEP_SILENT_SECONDS": "1",
        "OVERDB_CHUNK_BYTES": "16384",
        "OVERDB_RETENTION_SECONDS": "1",  # old versions and tombstones go on each replica at its own time
    }

    rounds = sizes.pick(quick=2, full=10)
    # More than the others keep in their logs: few long values, or many short ones.
    count, value_bytes, writes = sizes.pick(quick=(8, 2400, 160), full=(24, 0, 2500))
    pause_seconds = sizes.pick(quick=0.1, full=0.0)

    async def run(cluster: LocalCluster) -> None:
        compared = 0.0
        async with Writers(
            cluster.endpoints, count, value_bytes=value_bytes, pause_seconds=writer_pause_seconds
        ) as writers:
            deleting = asyncio.create_task(_delete(cluster, writers, pause_seconds))
            for round_number in range(rounds):
                group = round_number % 2
                leader = await in_thread(cluster.leader, group)
                members = [i for i in cluster.nodes if cluster.group_of(i) == group]
                victim = (
                    leader if round_number % 4 == 0 else next(i for i in members if i != leader)
                )
                node = cluster.nodes[victim]
                await in_thread(node.kill if round_number % 2 else node.stop)
                await writers.acknowledged_more(writes, 30)
                node.start()
                await in_thread(
                    wait_until, lambda v=victim: cluster.describe(v), f"node {victim} answers"
                )
                await writers.acknowledged_more(sizes.pick(quick=50, full=500))
            # All replicas are up. A difference of before would be found by the next rounds of comparing.
            nodes = cluster.nodes.values()
            goals = {node.name: comparisons(node) + COMPARED_AT_LEAST for node in nodes}
            await in_thread(
                wait_until,
                lambda: all(comparisons(node) >= goals[node.name] for node in nodes),
                "each replica has compared itself several times more",
            )
            await writers.stop()
            await deleting
        for node in cluster.nodes.values():
            assert metric(node, "overdb_replica_differences_total") == 0
            assert metric(node, "overdb_replica_diverged") == 0
            assert metric(node, "overdb_replica_comparisons_total") > 0
            compared += metric(node, "overdb_replica_comparisons_total")
        assert compared > 10 * rounds
        assert [problem(cluster, i) for i in cluster.nodes] == [""] * len(cluster.nodes)
        logs = "".join(node.log_file.read_text() for node in cluster.nodes.values())
        assert "snapshot_installed" in logs
        assert "replica_differs" not in logs

    cluster = observed(LocalCluster(tmp_path, settings=settings))
    for node in cluster.nodes.values():
        node.is_forked = False  # each interpreter iterates over sets in an order of its own
    with cluster:
        asyncio.run(run(cluster))


async def _delete(cluster: LocalCluster, writers: Writers, pause_seconds: float) -> None:
    """Keys that come and go, and transactions over both groups."""
    async with overdb.Client(cluster.endpoints, timeout=60) as client:
        number = 0
        while writers.running:
            number += 1
            key = b"passing-%d" % (number % 20)
            try:
                await client.transact(then=[Put(key, b"1"), Add(b"count-%d" % (number % 7), 1)])
                await client.delete(key)
                await asyncio.sleep(pause_seconds)
            except overdb.OutcomeUnknown:
                continue
