"""Containers that are killed, replaced, moved to other addresses, restarted: nothing is lost."""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from pathlib import Path

import pytest
from docker.models.containers import Container

import overdb
from overdb.sync import Client
from overdb_node.raft.election import HANDED_OVER
from tests.containers.stack import GROUPS, REPLICAS, Stack
from tests.integration.cluster import wait_until
from tests.integration.workload import Adders, Writers

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

KEYS = {b"kept-%d" % number: b"value-%d" % number for number in range(50)}


def put_all(stack: Stack) -> None:
    with Client(stack.endpoints) as client:
        for key, value in KEYS.items():
            client.put(key, value)


def assert_all_kept(stack: Stack) -> None:
    with Client(stack.endpoints, timeout=20.0) as client:
        for key, value in KEYS.items():
            found = client.get(key)
            assert found is not None, f"{key!r} is lost"
            assert found.value == value


def restarts(container: Container) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])


def hand_overs(stack: Stack) -> int:
    """How many campaigns were begun because a leader asked for it."""
    return sum(node.logs().count(HANDED_OVER.encode()) for node in stack.nodes())


def test_killing_the_leaders_containers_loses_no_acknowledged_write(stack: Stack) -> None:
    """FAULTS 20, 28: SIGKILL, for good until the group has another leader."""

    async def run() -> None:
        async with Writers(stack.endpoints) as writers:
            await writers.acknowledged_more(500)
            for group in range(GROUPS):
                leader = await to_thread(stack.leader, group)
                container = await to_thread(stack.node, leader)
                await to_thread(container.kill, "SIGKILL")
                await writers.acknowledged_more(500)
                await to_thread(stack.leader, group, leader)
                await writers.acknowledged_more(500)
                await to_thread(container.start)
            await writers.stop()
            found = await writers.read_back()
            assert writers.written.problems(found) == []

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


def test_replicas_that_swap_their_addresses_under_load_are_found_again(stack: Stack) -> None:
    """FAULTS: an address is no identity. The leaders of both groups come back as one another."""

    async def run() -> None:
        async with Writers(stack.endpoints) as writers:
            await writers.acknowledged_more(300)
            leaders = [await to_thread(stack.leader, group) for group in range(GROUPS)]
            pair = [await to_thread(stack.node, leader) for leader in leaders]
            before = await to_thread(stack.addresses)
            pair.sort(key=lambda c: _number(before[str(c.name)]), reverse=True)
            for container in pair:
                await to_thread(container.stop)
            await writers.acknowledged_more(300)
            for container in pair:  # the engine hands out addresses from the lowest that is free
                await to_thread(container.start)
            await to_thread(stack.wait_until_whole)
            after = await to_thread(stack.addresses)
            assert all(after[str(c.name)] != before[str(c.name)] for c in pair)
            await writers.acknowledged_more(300)
            await writers.stop()
            assert writers.written.problems(await writers.read_back()) == []

    asyncio.run(run())


def test_every_replica_may_come_back_with_another_address(stack: Stack) -> None:
    """The router keeps running, and knows only addresses that now belong to somebody else."""
    put_all(stack)
    before = stack.addresses()
    nodes = sorted(stack.nodes(), key=lambda c: _number(before[str(c.name)]), reverse=True)
    for node in nodes:
        node.stop()
    for node in nodes:
        node.start()
    after = stack.addresses()
    assert all(after[name] != address for name, address in before.items()), (before, after)
    stack.wait_until_whole()
    assert_all_kept(stack)


def test_restarting_one_replica_after_another_under_load(stack: Stack) -> None:
    """A rolling restart: no write fails, and each leader hands over before it stops."""

    async def run() -> None:
        leaders, before = 0, await to_thread(hand_overs, stack)
        async with Writers(stack.endpoints) as writers:
            for number, node in enumerate(await to_thread(stack.nodes)):
                await writers.acknowledged_more(200)
                leaders += number + 1 == await to_thread(stack.leader, number // REPLICAS)
                await to_thread(node.restart, timeout=15)
                await to_thread(stack.wait_until_whole)
            await writers.acknowledged_more(200)
            await writers.stop()
            assert writers.written.problems(await writers.read_back()) == []
        assert await to_thread(hand_overs, stack) - before >= leaders > 0

    asyncio.run(run())


def test_a_rolling_upgrade_under_load_fails_no_request(stack: Stack) -> None:
    """Every container is made anew from the image of another version, the router last; the data stays.

    Adds to both groups at once, so that a retry that ran twice, or half, would show; none of them may fail.
    """
    newer = stack.image_of_version("99.0")

    async def run() -> None:
        async with overdb.Client(stack.endpoints, timeout=30.0) as client:
            async with Adders(client, "upgraded") as adders:
                services = [f"shard{g}-replica{r}" for g in range(GROUPS) for r in range(REPLICAS)]
                for service in [*services, "router"]:
                    await adders.more(20)
                    await to_thread(stack.replace_image, service, newer)
                await adders.more(20)
            assert await adders.problems(client) == []
            assert (await client.status()).router_version == "99.0"

    try:
        asyncio.run(run())
        assert {c.attrs["Image"] for c in stack.nodes()} == {newer}
    finally:
        stack.up()  # and back again, to the image of the other tests


def test_a_lost_volume_is_replaced_under_a_new_id(stack: Stack, tmp_path: Path) -> None:
    """As the README has it: same service, same name, an empty volume, id 7 for id 3 (PROTOCOL 3.5)."""
    put_all(stack)
    service = "shard0-replica2"
    override = tmp_path / "override.yml"
    settings = '{OVERDB_NODE_ID: "7", OVERDB_JOIN: "true"}'
    override.write_text(f"services:\n  {service}:\n    environment: {settings}\n")
    stack.compose("rm", "--stop", "--force", service)
    stack.must("docker", "volume", "rm", f"{stack.project}_{service}")
    stack.compose("--file", str(override), "up", "-d", "--no-deps", service)
    with Client(stack.endpoints, timeout=40.0) as client:
        client.add_member(0, 7, f"{service}:7410")
        client.remove_member(0, 3)
        client.promote_member(0, 7, wait=True)
        (group,) = client.members(0)
        assert {member.id: member.voter for member in group.members} == {1: True, 2: True, 7: True}
        assert client.transfer_leadership(0, 7) == 7
    assert_all_kept(stack)
    try:
        # It carries the group: with one of the old ones away it makes up the majority.
        stack.node(1).stop()
        assert_all_kept(stack)
    finally:
        stack.node(1).start()
        stack.forget()  # the tests behind it know replica 3
        stack.up()


def test_two_routers_serve_side_by_side_and_one_is_enough(stack: Stack) -> None:
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
        asyncio.run(_routers_restarted_in_turn(stack))
    finally:
        stack.up(routers=1)


async def _routers_restarted_in_turn(stack: Stack) -> None:
    async with Writers(stack.endpoints) as writers:
        for number in (1, 2):
            await writers.acknowledged_more(300)
            name = f"{stack.project}-router-{number}"
            router = await to_thread(stack.engine.containers.get, name)
            await to_thread(router.kill, "SIGKILL")
            await writers.acknowledged_more(300)
            await to_thread(router.start)
            await to_thread(wait_until, lambda r=router: _is_healthy(r), f"{name} is healthy")
        await writers.stop()
        assert writers.written.problems(await writers.read_back()) == []


def _is_healthy(container: Container) -> bool:
    container.reload()
    return bool(container.attrs["State"]["Health"]["Status"] == "healthy")


def _number(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))
