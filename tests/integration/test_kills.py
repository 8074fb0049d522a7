"""kill -9 loses nothing that was acknowledged, and costs an election at most."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

import pytest

import overdb
from tests.integration.cluster import LocalCluster, paused, wait_until
from tests.integration.workload import Writers
from tests.sizes import Sizes

T = TypeVar("T")
pytestmark = pytest.mark.processes


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def test_killing_one_replica_after_another_under_load_loses_no_acknowledged_write(
    cluster: LocalCluster, sizes: Sizes, writer_pause_seconds: float
) -> None:
    """FAULTS 20, 28: leaders and followers of both groups, killed in a loop and started again."""

    rounds = sizes.pick(quick=4, full=16)
    # More than the writers can send before each of them waits for the group that has no leader.
    count, writes = sizes.pick(quick=(12, 60), full=(24, 300))

    async def run() -> None:
        choice = random.Random(sizes.first_seed)
        async with Writers(cluster.endpoints, count, pause_seconds=writer_pause_seconds) as writers:
            await writers.acknowledged_more(sizes.pick(quick=60, full=500))
            for round_number in range(rounds):
                group = round_number % 2
                leader = await in_thread(cluster.leader, group)
                members = [i for i in cluster.nodes if cluster.group_of(i) == group]
                # Leaders three times out of four: they are what costs an election.
                victim = choice.choice(members) if round_number % 4 == 3 else leader
                await in_thread(cluster.nodes[victim].kill)
                await writers.acknowledged_more(writes)
                if victim == leader:
                    await in_thread(cluster.leader, group, victim)
                await writers.acknowledged_more(writes)
                cluster.nodes[victim].start()
                await in_thread(
                    wait_until, lambda v=victim: cluster.describe(v), f"node {victim} answers"
                )
            await writers.stop()
            found = await writers.read_back()
            assert writers.written.problems(found) == []
            assert writers.written.acknowledgements > 2 * writes * rounds
            # One for each leader that was killed, perhaps a split vote; and the first ones.
            assert len(cluster.events("elected")) <= 2 + 2 * rounds

    asyncio.run(run())


def test_killing_all_replicas_at_once_loses_no_acknowledged_write(
    cluster: LocalCluster, sizes: Sizes, writer_pause_seconds: float
) -> None:
    """FAULTS 28: acknowledged means on disk."""

    count, before, after = sizes.pick(quick=(12, 200, 60), full=(24, 1000, 300))

    async def run() -> None:
        async with Writers(cluster.endpoints, count, pause_seconds=writer_pause_seconds) as writers:
            for _ in range(sizes.pick(quick=2, full=10)):
                await writers.acknowledged_more(before)
                for node in cluster.nodes.values():
                    node.popen.kill()  # type: ignore[union-attr]
                for node in cluster.nodes.values():
                    await in_thread(node.kill)
                    node.start()
                await in_thread(cluster.wait_until_serving)
                await writers.acknowledged_more(after)
            await writers.stop()
            found = await writers.read_back()
            assert writers.written.problems(found) == []

    asyncio.run(run())


def test_a_paused_leader_is_replaced_and_steps_down_without_serving_a_stale_read(
    cluster: LocalCluster,
) -> None:
    """FAULTS 21, 23: a read that waits in the paused leader's queue must not see the old value."""

    async def run() -> None:
        async with overdb.Client(cluster.endpoints, timeout=60.0) as client:
            key = b"watched"
            group = (await client.locate(key)).group
            await client.put(key, b"old")
            leader = await in_thread(cluster.leader, group)
            with paused(cluster.nodes[leader]):
                # These wait at the stopped process until the router gives up on it.
                early = [asyncio.create_task(client.get(key)) for _ in range(20)]
                await asyncio.sleep(0)
                await client.put(key, b"new")
                other = await in_thread(cluster.leader, group, leader)
                assert other != leader
            late = [asyncio.create_task(client.get(key)) for _ in range(200)]
            for value in await asyncio.gather(*late):
                assert value is not None
                assert value.value == b"new"
            for value in await asyncio.gather(*early):
                assert value is not None
                assert value.value in (b"old", b"new")

    asyncio.run(run())

    def stepped_down() -> bool:
        roles = [cluster.describe(i) for i in cluster.nodes]
        leaders = [r.group for r in roles if r is not None and r.role == "leader"]
        return sorted(leaders) == [0, 1]

    wait_until(stepped_down, "one leader in each group")


def test_a_restarted_replica_catches_up_through_a_snapshot(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """FAULTS 42: the log it needs is compacted away; the state comes in chunks."""
    settings = {
        "OVERDB_SNAPSHOT_LOG_BYTES": "1000000",
        "OVERDB_CHUNK_BYTES": "65536",
        "OVERDB_KEEP_SILENT_SECONDS": "1",
    }
    directory = tmp_path_factory.mktemp("lagging")
    with LocalCluster(directory, groups=1, settings=settings) as cluster:
        leader = cluster.leader(0)
        lagging = next(i for i in cluster.nodes if i != leader)
        cluster.nodes[lagging].kill()

        async def fill() -> None:
            async with overdb.Client(cluster.endpoints) as client:
                for start in range(0, 4000, 200):
                    keys = [b"key-%d" % i for i in range(start, start + 200)]
                    await asyncio.gather(*(client.put(key, key * 60) for key in keys))

        asyncio.run(fill())

        def compacted() -> bool:
            seen = cluster.describe(leader)
            return seen is not None and seen.snapshot_index > 0

        wait_until(compacted, "the leader takes a snapshot")
        cluster.nodes[lagging].start()

        def caught_up() -> bool:
            mine, first = cluster.describe(lagging), cluster.describe(leader)
            return (
                mine is not None
                and first is not None
                and mine.snapshot_index > 0
                and mine.applied_index == first.applied_index
            )

        wait_until(caught_up, "the lagging replica has everything")
        # It must be able to lead with what it got.
        for other in cluster.nodes:
            if other not in (lagging, leader):
                cluster.nodes[other].kill()
        cluster.nodes[leader].kill()
        cluster.nodes[next(i for i in cluster.nodes if i not in (lagging, leader))].start()
        cluster.leader(0)

        async def read_all() -> None:
            async with overdb.Client(cluster.endpoints, timeout=60.0) as client:
                for start in range(0, 4000, 500):
                    keys = [b"key-%d" % i for i in range(start, start + 500)]
                    values = await asyncio.gather(*(client.get(key) for key in keys))
                    for key, value in zip(keys, values, strict=True):
                        assert value is not None
                        assert value.value == key * 60

        asyncio.run(read_all())
