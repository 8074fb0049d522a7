"""Containers that are made anew: from another image, and with an empty volume. Nothing is lost.

The tests of this file come last on the shared cluster, since it is not what it was afterwards.
"""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from pathlib import Path

import pytest

import overdb
from overdb.sync import Client
from tests.containers.load import assert_all_kept, put_all
from tests.containers.stack import GROUPS, REPLICAS, Stack
from tests.integration.workload import Adders
from tests.sizes import Sizes

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def test_a_rolling_upgrade_under_load_fails_no_request(stack: Stack, sizes: Sizes) -> None:
    """Containers are made anew from the image of another version, the router last; the data stays.

    Adds to both groups at once, so that a retry that ran twice, or half, would show; none of them may fail.
    The cluster stays with that image: the tests after this one pass with it as well.
    """
    groups = range(sizes.pick(quick=1, full=GROUPS))  # test_upgrade.py replaces those of all groups
    services = [f"shard{group}-replica{replica}" for group in groups for replica in range(REPLICAS)]
    newer = stack.image_of_version("99.0")
    stack.use_image(newer)

    async def run() -> None:
        async with overdb.Client(stack.endpoints, timeout=90.0) as client:
            async with Adders(client, "upgraded", count=sizes.pick(quick=4, full=8)) as adders:
                for service in [*services, "router"]:
                    await adders.more(20)
                    await to_thread(stack.replace, service)
                await adders.more(20)
            assert await adders.problems(client) == []
            assert (await client.status()).router_version == "99.0"

    asyncio.run(run())
    replaced = stack.nodes()[: len(services)]
    assert {container.attrs["Image"] for container in replaced} == {newer}


def test_a_lost_volume_is_replaced_under_a_new_id(stack: Stack, tmp_path: Path) -> None:
    """The README's steps: same service and name, an empty volume, id 7 instead of id 3 (PROTOCOL 3.5)."""
    put_all(stack)
    stack.altered = True  # the other tests know replica 3
    service = "shard0-replica2"
    override = tmp_path / "override.yml"
    settings = '{OVERDB_NODE_ID: "7", OVERDB_JOIN: "true"}'
    override.write_text(f"services:\n  {service}:\n    environment: {settings}\n")
    stack.compose("rm", "--stop", "--force", service)
    stack.must("docker", "volume", "rm", f"{stack.project}_{service}")
    stack.compose("--file", str(override), "up", "-d", "--no-deps", service)
    with Client(stack.endpoints, timeout=90.0) as client:
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
