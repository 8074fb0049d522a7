"""From the release before to this one, process by process, under load: nothing fails, nothing differs.

FAULTS 90. The old containers run the program of that release, started by its own Compose file.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio import to_thread
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import docker
import pytest

import overdb
import overdb.sync
from overdb.status import ClusterStatus
from overdb_common.level import LEVEL
from tests.containers.older_release import OlderRelease, older_release
from tests.containers.stack import GROUPS, REPLICAS, ROOT, UP_SECONDS_MAX, Stack
from tests.integration.cluster import wait_until
from tests.integration.workload import (
    PAUSE_SECONDS,
    QUICK_PAUSE_SECONDS,
    Adders,
    Writers,
)
from tests.ports import free_ports
from tests.sizes import Sizes

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SERVICES = [
    f"shard{group}-replica{number}" for group in range(GROUPS) for number in range(REPLICAS)
]
# Replicas compare what they store all the time. This test asks the cluster itself whether it is healthy.
OVERRIDE = "".join(
    f"  {service}:\n    healthcheck: {{disable: true}}\n"
    + ('    environment: {OVERDB_COMPARE_SECONDS: "2"}\n' if service != "router" else "")
    for service in [*SERVICES, "router"]
)


class UpgradedStack(Stack):
    """A project of its own, on whichever release ``environment['OVERDB_IMAGE']`` and ``tree`` are of."""

    def compose_nodes(self, scratch: Path, *arguments: str) -> str:
        override = scratch / "override.yml"
        override.write_text("services:\n" + OVERRIDE)
        return self.compose("--file", str(override), *arguments)


@pytest.fixture
def release(engine: docker.DockerClient, tmp_path: Path) -> OlderRelease:
    subprocess.run([ROOT / "deploy/build-image.sh"], check=True, timeout=UP_SECONDS_MAX)
    return older_release(engine, tmp_path, "overdb:latest")


@pytest.fixture
def old_stack(
    engine: docker.DockerClient, release: OlderRelease, tmp_path: Path
) -> Iterator[UpgradedStack]:
    """2 groups x 3 replicas and a router of release 0.1.0."""
    stack = UpgradedStack(
        f"overdb-upgrade-{os.getpid()}", free_ports(1)[0], engine, tree=release.tree
    )
    stack.environment["OVERDB_IMAGE"] = release.image
    try:
        stack.compose_nodes(tmp_path, "up", "--detach")
        stack.wait_until_whole()
        yield stack
    finally:
        stack.forget()


def test_a_rolling_upgrade_from_the_release_before_loses_nothing(
    old_stack: UpgradedStack, sizes: Sizes, tmp_path: Path
) -> None:
    """In an order that is drawn: the router may come first, last or in between."""
    order = [*SERVICES, "router"]
    Random(sizes.first_seed).shuffle(order)
    print("order:", *order)
    new = replace(old_stack, tree=Stack.tree)
    new.environment = {**old_stack.environment, "OVERDB_IMAGE": "overdb:latest"}

    count, pause = sizes.pick(quick=(3, QUICK_PAUSE_SECONDS), full=(6, PAUSE_SECONDS))

    async def run() -> None:
        async with (
            overdb.Client(new.endpoints, timeout=90.0) as client,
            Writers(new.endpoints, count, pause_seconds=pause) as writers,
            Adders(client, "upgraded", count=sizes.pick(quick=2, full=8)) as adders,
        ):
            for service in order:
                await adders.more(sizes.pick(quick=10, full=20))
                status = await client.status()
                assert status.level == 0, f"raised before {service} was upgraded"
                assert _problems(status) == []
                up = ("up", "--detach", "--no-deps", service)
                await to_thread(new.compose_nodes, tmp_path, *up)
                await to_thread(new.wait_until_whole)
            await to_thread(wait_until, lambda: _level(new) == LEVEL, "the level is raised", 60.0)
            await adders.more(sizes.pick(quick=20, full=40))
            await writers.acknowledged_more(100)
            await writers.stop()
            assert writers.written.problems(await writers.read_back()) == []
        async with overdb.Client(new.endpoints, timeout=90.0) as client:
            assert await adders.problems(client) == []
            assert _problems(await client.status()) == []

    asyncio.run(run())
    _refuses_the_old_program(old_stack, tmp_path)


def _refuses_the_old_program(old: UpgradedStack, scratch: Path) -> None:
    """It would apply the log by other rules. The group goes on with the other two."""
    service = SERVICES[2]
    old.compose_nodes(scratch, "up", "--detach", "--no-deps", service)

    def refused() -> bool:
        return "start a newer version of overdb" in old.compose("logs", "--no-color", service)

    wait_until(refused, f"{service} of the release before refuses the directory")
    with overdb.sync.Client(old.endpoints, timeout=20.0) as client:
        client.put(b"goes on", b"1")


def _level(stack: Stack) -> int:
    status = stack.status()
    return 0 if status is None else status.level


def _problems(status: ClusterStatus) -> list[str]:
    """What replicas report that answer: one that is restarted just now may not."""
    return [
        f"replica {replica.id}: {replica.problem}"
        for group in status.groups
        for replica in group.replicas
        if replica.reachable and replica.problem
    ]
