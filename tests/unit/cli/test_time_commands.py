"""``overdb time``: clocks, and the repair of a group's time."""

from __future__ import annotations

import json

from overdb.v1 import cluster_pb2
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_router import RouterThread


def test_clocks_are_listed_for_people_and_for_programs(
    run: Run, router_thread: RouterThread
) -> None:
    router_thread.router.status = cluster_pb2.StatusResponse(
        cluster="overdb",
        serving=True,
        router_clock_offset_us=-12_000_000,
        router_problem="the clock of this router's machine is 12 s behind",
        groups=[
            cluster_pb2.GroupStatus(
                group=0,
                leader_id=1,
                replicas=[
                    cluster_pb2.ReplicaStatus(id=1, reachable=True, clock_offset_us=1500),
                    cluster_pb2.ReplicaStatus(id=2, reachable=True, clock_offset_us=86_400_000_000),
                    cluster_pb2.ReplicaStatus(id=3),
                ],
            )
        ],
    )
    assert run("time").stdout.splitlines() == [
        b"-\trouter\t-12.000 s\tthe clock of this router's machine is 12 s behind",
        b"0\t1\t+0.002 s",
        b"0\t2\t+86400.000 s",
    ]
    router, first, _ = map(json.loads, run("time", "--json").stdout.splitlines())
    assert router == {"router": True, "clock_offset_us": -12_000_000}
    assert first == {"group": 0, "id": 1, "clock_offset_us": 1500, "problem": ""}
    assert b"router\tthe clock of this router" in run("status").stdout


def test_a_repair_says_both_times(run: Run) -> None:
    done = run("time", "repair", "--group", "0", "--yes")
    assert done.returncode == 0
    told = b"group 0: its time was 2026-09-22 14:13:20 UTC and is 2026-09-21 14:13:20 UTC\n"
    assert done.stdout == told
    done = run("--json", "time", "repair", "--group", "0", "--yes")
    assert json.loads(done.stdout) == {
        "group": 0,
        "before_us": 1_790_086_400_000_000,
        "after_us": 1_790_000_000_000_000,
    }


def test_a_repair_is_not_done_where_nobody_can_be_asked(run: Run) -> None:
    done = run("time", "repair", "--group", "0")
    assert done.returncode == 2
    assert b"--yes" in done.stderr
    assert done.stdout == b""
