"""How the processes start, refuse to start, stop, and what they cost when nobody asks for anything."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.integration.cluster import LocalCluster, Process
from tests.ports import free_ports

pytestmark = pytest.mark.processes
EXIT_CONFIG = 78
WAKES_PER_SECOND_MAX = 1_200  # of seven processes that are idle; usually 700


def refused(process: Process, **changes: str) -> str:
    """Start a process that must refuse, and return its one line."""
    result = subprocess.run(
        [sys.executable, "-m", process.module],
        env={**process.environment, **changes, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = result.stderr.strip().splitlines()
    assert result.returncode == EXIT_CONFIG, result.stderr
    assert "Traceback" not in result.stderr
    assert lines, "nothing was said"
    return lines[-1]


def test_a_foreign_directory_a_second_process_and_a_used_port_are_refused_in_one_line(
    shared_cluster: LocalCluster,
) -> None:
    """FAULTS 38 and the list of bad inputs: each names the thing and says what to do."""
    node = shared_cluster.nodes[1]
    spare = f"127.0.0.1:{free_ports(1)[0]}"
    second = refused(node, OVERDB_LISTEN=spare)
    assert str(node.pid) in second
    assert node.environment["OVERDB_DATA"] in second
    port = node.address.rsplit(":", 1)[1]
    other = str(Path(node.environment["OVERDB_DATA"]).parent / "fresh")
    used = refused(node, OVERDB_DATA=other)
    assert port in used
    assert refused(shared_cluster.router_processes[0]).count(":") > 1


def test_a_data_directory_of_another_node_or_cluster_is_refused(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, groups=1, replicas=1) as cluster:
        node = cluster.nodes[1]
    members = f"1={node.address},2={node.address}"
    line = refused(node, OVERDB_NODE_ID="2", OVERDB_MEMBERS=members)
    assert "node 1" in line
    assert "node 2" in line
    line = refused(node, OVERDB_CLUSTER="elsewhere")
    assert "elsewhere" in line
    assert "overdb" in line
    assert "group" in refused(node, OVERDB_GROUPS="3")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OVERDB_NODE_ID", "seven", "OVERDB_NODE_ID"),
        ("OVERDB_NODE_ID", "9", "9"),
        ("OVERDB_GROUP", "5", "5"),
        ("OVERDB_MEMBERS", "1", "id=host:port"),
        ("OVERDB_LISTEN", "nowhere", "nowhere"),
        ("OVERDB_ELECTION_MS_MIN", "10", "OVERDB_ELECTION_MS_MIN"),
        ("OVERDB_HEARTBEAT_MS", "1000", "heartbeat_ms"),
        ("OVERDB_HEARTBEAT_MS", "5000", "1000"),
        ("OVERDB_NODEID", "1", "OVERDB_NODE_ID"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, variable: str, value: str, said: str) -> None:
    cluster = LocalCluster(tmp_path, groups=1, replicas=1)
    assert said in refused(cluster.nodes[1], **{variable: value})


def test_a_corrupt_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    """FAULTS 30, 31: a bad checksum in the middle is an error, never a cut."""
    with LocalCluster(tmp_path, groups=1, replicas=1) as cluster:
        node = cluster.nodes[1]
    data = Path(node.environment["OVERDB_DATA"])
    segment = max(data.rglob("*.seg"), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[45] ^= 0x10  # in the first frame: the vote; the no-op follows in the second
    segment.write_bytes(content)
    line = refused(node)
    assert segment.name in line
    assert segment.read_bytes() == bytes(content)


def test_processes_stop_in_order_when_asked(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, groups=1) as cluster:
        for process in cluster.processes:
            assert process.stop() == 0, process.log_tail()
            assert "Traceback" not in process.log_file.read_text()


def test_seven_idle_processes_rarely_wake_and_take_100_mib_each(cluster: LocalCluster) -> None:
    """The simulator counts the calls of each wake in virtual time (simulation/cluster, ``test_idle.py``)."""
    for group in range(2):
        cluster.leader(group)
    idle = [_idle(cluster, seconds=2.0) for _ in range(3)]
    resident = {p.name: p.resident_bytes() / 2**20 for p in cluster.processes}
    print(f"idle: wakes a second and shares of a core {idle}, MiB resident: {resident}")
    assert min(wakes for wakes, _ in idle) < WAKES_PER_SECOND_MAX
    # One that never waits takes a whole one, or all that a busy machine gives it; all seven take a fifth.
    assert min(share for _, share in idle) < 0.5
    assert max(resident.values()) < 100


def _idle(cluster: LocalCluster, seconds: float) -> tuple[float, float]:
    """Returns how often all processes wake in a second, and their share of a core."""
    before = [(process.wakes(), process.cpu_seconds()) for process in cluster.processes]
    time.sleep(seconds)  # the thing measured is time passing
    wakes = spent = 0.0
    for process, (woken, cpu) in zip(cluster.processes, before, strict=True):
        wakes += sum(count - woken.get(task, 0) for task, count in process.wakes().items())
        spent += process.cpu_seconds() - cpu
    return wakes / seconds, spent / seconds


def test_metrics_are_served_by_each_process(tmp_path: Path) -> None:
    port = free_ports(40)[-1]
    settings = {"OVERDB_METRICS_LISTEN": f"127.0.0.1:{port}"}
    with LocalCluster(tmp_path, groups=1, replicas=1, settings=settings):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
    for name in (
        "overdb_term",
        "overdb_role",
        "overdb_commit_lag_entries",
        "overdb_apply_lag_entries",
        "overdb_fsync_seconds_bucket",
        "overdb_fsync_requests_bucket",
        "overdb_entries_per_turn_bucket",
        "overdb_shard_requests_total",
        "overdb_peer_queue_bytes",
        "overdb_elections_total",
    ):
        assert name in text
