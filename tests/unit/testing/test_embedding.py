"""A cluster in the process leaves everything else in the process alone, and nothing behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

import grpc
import pytest
import structlog

from overdb.testing import Cluster
from overdb_node import applying


def test_many_in_a_row_leave_nothing_behind() -> None:
    with Cluster(groups=1):
        pass  # gRPC keeps threads and descriptors of its own from the first one on
    before = _replaceable()
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(20):
        with Cluster(groups=1) as cluster, cluster.client() as client:
            client.put(b"a", b"1")
    assert _replaceable() == before
    deadline = time.monotonic() + 30.0  # gRPC takes its time to let go
    while threading.active_count() > threads + 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= threads + 4
    assert _descriptors() <= descriptors + 20


def _replaceable() -> tuple[object, ...]:
    """Some of what is replaced while a cluster is there."""
    return vars(applying)["time"], grpc.aio.insecure_channel, structlog.get_config()["processors"]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_everybody_else_has_the_real_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random.seed(5)
    expected = [random.random() for _ in range(3)]
    with Cluster() as cluster, cluster.client() as client:
        client.put(b"a", b"1")
        random.seed(5)  # behind the client, which chooses a router
        client.put(b"b", b"1")
        assert [random.random() for _ in range(3)] == expected
        path = tmp_path / "file"
        path.write_text("real")
        assert path.stat().st_size == 4
        before, now = time.clock_gettime(time.CLOCK_REALTIME), time.time()
        assert before <= now <= time.clock_gettime(time.CLOCK_REALTIME)

        async def run() -> float:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.sleep(0.05)
            server = grpc.aio.server()
            assert server.add_insecure_port("127.0.0.1:0") > 0
            await server.stop(0)
            return loop.time() - began

        assert asyncio.run(run()) >= 0.05
        structlog.get_logger().info("mine")
        cluster.kill_leader(0)
        client.put(b"a", b"2")
    said = capsys.readouterr().out
    assert "mine" in said
    assert "elected" not in said


def test_a_second_one_at_the_same_time_is_refused_and_the_first_goes_on() -> None:
    with Cluster(groups=1) as cluster:
        with pytest.raises(RuntimeError, match="a cluster in this process already"):
            Cluster()
        with cluster.client() as client:
            client.put(b"a", b"1")


def test_one_that_is_closed_says_so() -> None:
    cluster = Cluster(groups=1)
    cluster.close()
    cluster.close()
    with pytest.raises(RuntimeError, match="closed"):
        cluster.kill("s0r0")


def test_versions_are_of_the_real_clock() -> None:
    before = time.time()
    with Cluster(groups=1) as cluster, cluster.client() as client:
        version = client.put(b"a", b"1") / 1e6
        assert before - 10.0 < version < time.time() + 10.0
        cluster.kill_leader(0)
        cluster.heal()
        assert version < client.put(b"a", b"2") / 1e6 < time.time() + 60.0
