"""A router's clock, and clocks that it names (PROTOCOL 2.1; FAULTS 81)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from overdb.internal.v1 import shard_pb2
from overdb.v1 import cluster_pb2, kv_pb2
from overdb_router import clock as clock_module
from overdb_router.clock import RouterClock, name_clocks
from overdb_router.ids import RouterIds
from tests.unit.router.fakes import running, until
from tests.unit.router.test_members import refusal

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_790_000_000 * SECOND


class Wall:
    def __init__(self) -> None:
        self.us = NOW

    def __call__(self) -> int:
        return self.us * 1000


def leader(group: int, group_us: int, offset_us: int = 0) -> shard_pb2.DescribeResponse:
    return shard_pb2.DescribeResponse(
        group=group, role="leader", wall_us=group_us + offset_us, clock_offset_us=offset_us
    )


def test_a_router_goes_by_its_own_clock_as_long_as_that_is_right() -> None:
    wall = Wall()
    clock = RouterClock(wall)
    assert clock.now_ns() == NOW * 1000
    clock.heard(leader(0, NOW - 3 * SECOND))
    assert clock.now_ns() == NOW * 1000
    assert clock.problem == ""


@pytest.mark.parametrize("wrong", [-3650 * DAY, -DAY, -120 * SECOND, 120 * SECOND, DAY, 3650 * DAY])
def test_a_router_whose_clock_is_wrong_gives_ids_of_the_groups_time(wrong: int) -> None:
    wall = Wall()
    clock = RouterClock(wall)
    wall.us += wrong
    clock.heard(leader(0, NOW))
    clock.heard(leader(1, NOW))
    assert clock.now_ns() == NOW * 1000
    assert clock.offset_us == wrong
    assert ("ahead of" if wrong > 0 else "behind") in clock.problem
    request = kv_pb2.RequestId()
    RouterIds(1200, clock.now_ns).assign(request)
    assert request.started_at == NOW
    assert int.from_bytes(request.client_id[:6], "big") == NOW // 1000
    wall.us = NOW  # set right
    clock.heard(leader(0, NOW))
    clock.heard(leader(1, NOW))
    assert clock.problem == ""
    assert clock.now_ns() == NOW * 1000


def test_a_leaders_own_wrong_clock_is_not_the_groups_time() -> None:
    clock = RouterClock(Wall())
    clock.heard(leader(0, NOW, DAY))
    assert clock.offset_us == 0


def test_one_group_whose_time_is_ahead_does_not_make_the_routers_clock_wrong() -> None:
    clock = RouterClock(Wall())
    clock.heard(leader(0, NOW + DAY))
    clock.heard(leader(1, NOW))
    assert clock.offset_us <= 0
    clock.heard(leader(2, NOW))
    assert clock.offset_us == 0


def test_a_clock_that_jumped_since_it_was_right_is_trusted_until_leaders_have_answered() -> None:
    """The machines were suspended, all of them: their clocks went on, and nobody has asked yet."""
    wall = Wall()
    clock = RouterClock(wall)
    clock.heard(leader(0, NOW))
    wall.us += 2 * 3600 * SECOND
    assert clock.now_ns() == wall()


def test_followers_and_replicas_of_an_older_release_say_nothing() -> None:
    clock = RouterClock(Wall())
    follower = leader(0, NOW + DAY)
    follower.role = "follower"
    clock.heard(follower)
    clock.heard(shard_pb2.DescribeResponse(role="leader"))
    assert clock.offset_us == 0


# --- clocks that groups cannot name themselves ---------------------------------------------------------


def status_of(walls: dict[int, int], offsets: dict[int, int]) -> list[cluster_pb2.ReplicaStatus]:
    """One replica a group."""
    groups = [
        cluster_pb2.GroupStatus(
            replicas=[cluster_pb2.ReplicaStatus(id=one, clock_offset_us=offsets.get(one, 0))]
        )
        for one in walls
    ]
    answers = [shard_pb2.DescribeResponse(replica_id=one, wall_us=at) for one, at in walls.items()]
    name_clocks(groups, answers)
    return [group.replicas[0] for group in groups]


def test_of_groups_of_one_replica_the_others_tell_whose_clock_is_wrong() -> None:
    first, second, third = status_of({1: NOW, 2: NOW - DAY, 3: NOW + SECOND}, {})
    assert (first.problem, third.problem) == ("", "")
    assert "86400 s behind" in second.problem
    assert second.clock_offset_us == -DAY


def test_of_two_machines_it_is_not_known_and_one_that_was_named_is_not_named_again() -> None:
    assert all(one.problem == "" for one in status_of({1: NOW, 2: NOW - DAY}, {}))
    walls = {1: NOW, 2: NOW - DAY, 3: NOW}
    assert all(one.problem == "" for one in status_of(walls, {2: -DAY}))


# --- over the wire ---------------------------------------------------------------------------------------


def test_status_tells_the_clocks_of_replicas_and_of_the_router(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = Wall()
    wall.us += DAY
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(time_ns=wall))

    async def scenario() -> None:
        async with running() as cluster:
            for replica in cluster.replicas:
                replica.group_time_us = NOW
            cluster.groups[0].replicas[1].clock_offset_us = -20 * SECOND
            answer: Any = None

            async def ask() -> None:
                nonlocal answer
                answer = await cluster.admin.Status(cluster_pb2.StatusRequest(), timeout=5)

            await ask()
            assert answer.router_clock_offset_us == DAY
            assert "86400 s ahead" in answer.router_problem
            offsets = [one.clock_offset_us for group in answer.groups for one in group.replicas]
            assert sorted(offsets) == [-20 * SECOND, 0, 0, 0, 0, 0]
            for replica in cluster.replicas:
                replica.group_time_us = NOW + DAY
            lonely = cluster.groups[1].replicas[2]
            lonely.group_time_us = NOW  # it says nothing of its clock, as in a group of its own
            await ask()
            assert answer.router_problem == ""
            told = {one.id: one.problem for group in answer.groups for one in group.replicas}
            assert [one for one, problem in told.items() if problem] == [lonely.replica_id]
            assert "86400 s behind those of the others" in told[lonely.replica_id]

    asyncio.run(scenario())


def test_a_repair_asks_the_leader_and_tells_both_times() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            request = cluster_pb2.RepairTimeRequest(group=1)
            answer = await cluster.admin.RepairTime(request, timeout=5)
            assert (answer.before_us, answer.after_us) == (2, 1)
            group = cluster.groups[1]
            assert [len(one.repairs) for one in group.replicas].count(1) == 1
            group.elect((group.leader + 1) % len(group.replicas))  # the router does not know it yet
            answer = await cluster.admin.RepairTime(request, timeout=5)
            assert group.replicas[group.leader].repairs == [shard_pb2.RepairTimeRequest(group=1)]

    asyncio.run(scenario())


def test_what_the_leader_refuses_and_a_group_that_does_not_exist() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            group = cluster.groups[0]
            error = kv_pb2.Error(code=9, message="the time of group 0 is 0.0 s ahead")
            group.replicas[group.leader].repair_answer = shard_pb2.RepairTimeResponse(error=error)
            status, said, _ = await refusal(
                cluster.admin.RepairTime(cluster_pb2.RepairTimeRequest(group=0), timeout=5)
            )
            assert (status, said) == (grpc.StatusCode.FAILED_PRECONDITION, error.message)
            status, said, _ = await refusal(
                cluster.admin.RepairTime(cluster_pb2.RepairTimeRequest(group=7), timeout=5)
            )
            assert status is grpc.StatusCode.NOT_FOUND
            await until(lambda: cluster.router.gate.open == 0)

    asyncio.run(scenario())
