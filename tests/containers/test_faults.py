"""Containers that are killed, moved to other addresses, restarted: nothing is lost."""

from __future__ import annotations

import asyncio
from asyncio import to_thread

import pytest
from docker.models.containers import Container

from overdb.sync import Client
from overdb_node.raft.election import HANDED_OVER
from tests.containers.load import assert_all_kept, put_all, writers
from tests.containers.stack import GROUPS, REPLICAS, Stack
from tests.integration.cluster import wait_until
from tests.sizes import Sizes

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def restarts(container: Container) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])


def hand_overs(stack: Stack) -> int:
    """How many campaigns were begun because a leader asked for it."""
    return sum(node.logs().count(HANDED_OVER.encode()) for node in stack.nodes())


def test_killing_the_leaders_containers_loses_no_acknowledged_write(
    stack: Stack, sizes: Sizes
) -> None:
    """FAULTS 20, 28: SIGKILL, for good until the group has another leader."""

    some = sizes.pick(quick=50, full=500)

    async def run() -> None:
        async with writers(stack, sizes) as load:
            await load.acknowledged_more(some)
            for group in range(GROUPS):
                leader = await to_thread(stack.leader, group)
                container = await to_thread(stack.node, leader)
                await to_thread(container.kill, "SIGKILL")
                await load.acknowledged_more(some)
                await to_thread(stack.leader, group, leader)
                await load.acknowledged_more(some)
                await to_thread(container.start)
            await load.stop()
            found = await load.read_back()
            assert load.written.problems(found) == []

    asyncio.run(run())


def test_docker_starts_a_killed_process_again(stack: Stack) -> None:
    """The restart policy, not we: a crash needs no operator."""
    put_all(stack)
    leader = stack.node(stack.leader(0))
    before = restarts(leader)
    leader.exec_run(["sh", "-c", "kill -9 $(cat /proc/1/task/1/children)"])
    wait_until(lambda: restarts(leader) > before, "the container is restarted")
    stack.wait_until_whole()
    assert_all_kept(stack)


def test_down_and_up_keeps_the_data(stack: Stack) -> None:
    put_all(stack)
    volumes = stack.volumes()
    stack.down()
    assert stack.containers() == []
    assert stack.volumes() == volumes
    stack.up()
    assert_all_kept(stack)


def test_replicas_that_swap_their_addresses_under_load_are_found_again(
    stack: Stack, sizes: Sizes
) -> None:
    """FAULTS: an address is no identity. The leaders of both groups come back as one another."""

    some = sizes.pick(quick=50, full=300)

    async def run() -> None:
        async with writers(stack, sizes) as load:
            await load.acknowledged_more(some)
            leaders = [await to_thread(stack.leader, group) for group in range(GROUPS)]
            pair = [await to_thread(stack.node, leader) for leader in leaders]
            before = await to_thread(stack.addresses)
            pair.sort(key=lambda c: _number(before[str(c.name)]), reverse=True)
            await to_thread(stack.stop, pair)
            await load.acknowledged_more(some)
            for container in pair:  # the engine hands out addresses from the lowest that is free
                await to_thread(container.start)
            await to_thread(stack.wait_until_whole)
            after = await to_thread(stack.addresses)
            assert all(after[str(c.name)] != before[str(c.name)] for c in pair)
            await load.acknowledged_more(some)
            await load.stop()
            assert load.written.problems(await load.read_back()) == []

    asyncio.run(run())


def test_every_replica_may_come_back_with_another_address(stack: Stack) -> None:
    """The router keeps running, and knows only addresses that now belong to somebody else."""
    put_all(stack)
    before = stack.addresses()
    nodes = sorted(stack.nodes(), key=lambda c: _number(before[str(c.name)]), reverse=True)
    stack.stop(nodes)
    for node in nodes:
        node.start()
    after = stack.addresses()
    assert all(after[name] != address for name, address in before.items()), (before, after)
    stack.wait_until_whole()
    assert_all_kept(stack)


def test_restarting_one_replica_after_another_under_load(stack: Stack, sizes: Sizes) -> None:
    """A rolling restart: no write fails, and each leader hands over before it stops."""

    some = sizes.pick(quick=30, full=200)
    nodes_count = REPLICAS * sizes.pick(quick=1, full=GROUPS)

    async def run() -> None:
        leaders, before = 0, await to_thread(hand_overs, stack)
        async with writers(stack, sizes) as load:
            for number, node in enumerate((await to_thread(stack.nodes))[:nodes_count]):
                await load.acknowledged_more(some)
                leaders += number + 1 == await to_thread(stack.leader, number // REPLICAS)
                await to_thread(node.restart, timeout=15)
                await to_thread(stack.wait_until_whole)
            await load.acknowledged_more(some)
            await load.stop()
            assert load.written.problems(await load.read_back()) == []
        assert await to_thread(hand_overs, stack) - before >= leaders > 0

    asyncio.run(run())


def test_two_routers_serve_side_by_side_and_one_is_enough(stack: Stack, sizes: Sizes) -> None:
    said = stack.up(routers=2)
    try:
        first, second = stack.endpoints
        assert f"{first},{second}" in said
        with Client(first) as one, Client(second) as other:
            one.put(b"shared", b"1")
            found = other.get(b"shared")
            assert found is not None
            assert found.value == b"1"
            other.put(b"shared", b"2")
            found = one.get(b"shared")
            assert found is not None
            assert found.value == b"2"
        asyncio.run(_routers_restarted_in_turn(stack, sizes))
    finally:
        stack.up(routers=1)


async def _routers_restarted_in_turn(stack: Stack, sizes: Sizes) -> None:
    some = sizes.pick(quick=50, full=300)
    async with writers(stack, sizes) as load:
        for number in (1, 2):
            await load.acknowledged_more(some)
            name = f"{stack.project}-router-{number}"
            router = await to_thread(stack.engine.containers.get, name)
            await to_thread(router.kill, "SIGKILL")
            await load.acknowledged_more(some)
            await to_thread(router.start)
            await to_thread(wait_until, lambda r=router: _is_healthy(r), f"{name} is healthy")
        await load.stop()
        assert load.written.problems(await load.read_back()) == []


def _is_healthy(container: Container) -> bool:
    container.reload()
    return bool(container.attrs["State"]["Health"]["Status"] == "healthy")


def _number(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))
