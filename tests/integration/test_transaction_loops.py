"""Transactions over groups while leaders and routers die (PROTOCOL 2.8, 2.9; FAULTS 53-56)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import overdb
from tests.integration.cluster import LocalCluster, wait_until
from tests.integration.ledgers import PAUSED, Bank, Lists, Ring, settle
from tests.integration.test_kills import in_thread
from tests.sizes import Sizes

pytestmark = pytest.mark.processes

# How often in a row a transaction is seen open, by looks that are 50 ms apart or more. A group finishes what
# a dead router began after about a second.
OPEN_LOOKS_MAX = 60
Work = Callable[[], Coroutine[Any, Any, None]]


class Killer:
    """Kills routers in turn, and leaders now and then, and starts them again."""

    def __init__(self, cluster: LocalCluster, *, leaders: bool) -> None:
        self._cluster = cluster
        self._leaders = leaders
        self._random = random.Random(3)
        self.kills = 0

    async def once(self) -> None:
        cluster = self._cluster
        router = cluster.router_processes[self.kills % len(cluster.router_processes)]
        await in_thread(router.kill)
        router.start()
        number = self.kills % len(cluster.router_processes)
        await in_thread(wait_until, lambda: cluster.status(number), "the router answers")
        if self._leaders and self.kills % 2 == 1:
            victim = await in_thread(cluster.leader, self._random.randrange(2))
            await in_thread(cluster.nodes[victim].kill)
            cluster.nodes[victim].start()
            await in_thread(wait_until, lambda: cluster.describe(victim), "the node answers")
        self.kills += 1


async def under_load(
    work: list[Work], during: Coroutine[Any, Any, None], pause_seconds: float
) -> None:
    """Repeat every piece of work, each on its own with pauses, until ``during`` has ended."""
    stopping = False

    async def repeat(one: Work) -> None:
        while not stopping:
            await one()
            await asyncio.sleep(pause_seconds)

    tasks = [asyncio.create_task(repeat(one)) for one in work]
    try:
        await during
        stopping = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_bank_a_ring_and_lists_stay_whole_while_leaders_and_routers_die(
    tmp_path: Path, sizes: Sizes
) -> None:
    with LocalCluster(tmp_path, routers=2) as cluster:
        asyncio.run(_stay_whole(cluster, sizes))


async def _stay_whole(cluster: LocalCluster, sizes: Sizes) -> None:
    bank, ring, lists, choice = Bank(), Ring(), Lists(), random.Random(sizes.first_seed)
    clients = [overdb.Client(cluster.endpoints, timeout=60.0) for _ in range(4)]
    await bank.open(clients[0])
    await ring.open(clients[0])
    work: list[Work] = []
    for number in range(16):
        client = clients[number % 4]
        work.append(partial(bank.move, number, client, choice))
    for client in clients:
        work.append(partial(ring.relink, client, choice))
        work.append(partial(lists.append, client, choice))
    work.append(lambda: bank.check_strictly(clients[0]))
    work.append(lambda: bank.check_snapshot(clients[1]))
    work.append(lambda: ring.check(clients[2], strictly=True))
    work.append(lambda: ring.check(clients[3], strictly=False))
    killer = Killer(cluster, leaders=True)
    kills = sizes.pick(quick=6, full=24)

    def enough() -> bool:
        """Enough was committed and read for the checks to mean something."""
        return (
            bank.tally.committed > 200
            and bank.tally.reads > 20
            and ring.tally.committed > 20
            and ring.tally.reads > 20
            and lists.tally.committed > 20
        )

    async def kill() -> None:
        # Every second router that dies dies beside a leader.
        for _ in range(kills):
            await asyncio.sleep(1.0)  # the load runs for so long between two kills
            await killer.once()
        while not enough():  # the test's own time limit ends it
            await asyncio.sleep(0.1)

    began = time.monotonic()
    await under_load(work, kill(), sizes.pick(quick=0.1, full=0.02))
    await _nothing_open(clients[0])
    for strictly in (True, False):
        await ring.check(clients[0], strictly=strictly)
    await bank.check_strictly(clients[0])
    await bank.check_snapshot(clients[0])
    final = {}
    for key in lists.keys:
        value = await clients[0].get(key)
        final[key] = b"" if value is None else value.value
    lists.check(final)
    for client in clients:
        await client.close()
    print(
        f"\n  {killer.kills} router kills, {killer.kills // 2} leader kills in "
        f"{time.monotonic() - began:.0f} s: transfers {bank.tally}, ring {ring.tally}, "
        f"lists {lists.tally}"
    )


async def _nothing_open(client: overdb.Client, seconds_max: float = 10.0) -> None:
    deadline = time.monotonic() + seconds_max
    while any(group.transactions for group in await client.transactions()):
        assert time.monotonic() < deadline, "transactions stay open"
        await asyncio.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_router_killed_at_any_point_leaves_nothing_open_halved_or_doubled(
    tmp_path: Path, sizes: Sizes
) -> None:
    """2.5, 2.9; FAULTS 55."""
    with LocalCluster(tmp_path, routers=2) as cluster:
        asyncio.run(_router_kills(cluster, sizes))


async def _router_kills(cluster: LocalCluster, sizes: Sizes) -> None:
    kills = sizes.pick(quick=8, full=50)
    clients = [overdb.Client(cluster.endpoints, timeout=60.0) for _ in range(4)]
    done = {"committed": 0, "unknown": 0}
    pairs = [(b"left-%d" % n, b"right-%d" % (n + 100)) for n in range(16)]
    expected = dict.fromkeys(pairs, 0)
    longest = 0
    seen: dict[str, int] = {}

    async def count_up(pair: tuple[bytes, bytes], client: overdb.Client) -> None:
        adding: dict[str, Any] = {"then": [overdb.Add(key, 1) for key in pair]}
        try:
            await client.transact(**adding)
        except overdb.OutcomeUnknown as error:
            done["unknown"] += 1
            await settle(client, error, adding)
        except PAUSED:
            return
        done["committed"] += 1
        expected[pair] += 1

    async def watch() -> None:
        nonlocal longest, seen
        try:
            groups = await clients[0].transactions()
        except overdb.OverDBError:
            return
        before, seen = seen, {}
        for group in groups:
            for one in group.transactions:
                name = f"{group.group} {one.id} {one.attempt} {one.state}"
                seen[name] = before.get(name, 0) + 1
                longest = max(longest, seen[name])
        await asyncio.sleep(0.05)

    killer = Killer(cluster, leaders=False)

    async def kill() -> None:
        while killer.kills < kills:
            await asyncio.sleep(random.random() * 0.2)  # at any point
            await killer.once()

    work: list[Work] = [partial(count_up, pair, clients[n % 4]) for n, pair in enumerate(pairs)]
    began = time.monotonic()
    await under_load([*work, watch], kill(), sizes.pick(quick=0.05, full=0.02))
    await _nothing_open(clients[0])
    for pair, count in expected.items():
        found = await clients[0].transact(then=[overdb.Get(key) for key in pair])
        values = [int(result.value or b"0") for result in found.results]
        assert values == [count, count], f"{pair}: {values}, {count} were counted"
    for client in clients:
        await client.close()
    print(
        f"\n  {killer.kills} kills in {time.monotonic() - began:.0f} s, {done}, longest open "
        f"for {longest} looks"
    )
    assert done["committed"] > killer.kills * 10
    assert longest < OPEN_LOOKS_MAX
