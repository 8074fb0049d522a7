"""What tests of transactions over groups share: ids, who is open how long, kills, and a checker."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import overdb
import overdb.sync
from overdb.ids import RequestId, uuid7
from overdb.status import LockState
from tests.integration.cluster import LocalCluster, wait_until

T = TypeVar("T")

# What says for certain that nothing was done, and what a reader gets while nobody serves.
NOT_RUN = (overdb.Unavailable, overdb.Aborted, overdb.ResourceExhausted)
NO_ANSWER = (*NOT_RUN, overdb.DeadlineExceeded, overdb.OutcomeUnknown)


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def fresh_id(number: int = 1, *, ahead_seconds: float = 0.0, age_seconds: float = 0.0) -> RequestId:
    """An id as a client makes one: created and started now, or as far ahead or back as told."""
    now_us = time.time_ns() // 1000
    created_ms = int(now_us / 1000 - age_seconds * 1000)
    return RequestId(
        uuid7(created_ms, os.urandom(10)), number, int(now_us + ahead_seconds * 1_000_000), 0
    )


async def keys_of_groups(
    client: overdb.Client, prefix: str, count: int, groups: int = 2
) -> list[list[bytes]]:
    """``count`` keys for each group."""
    keys: list[list[bytes]] = [[] for _ in range(groups)]
    number = 0
    while any(len(some) < count for some in keys):
        key = f"{prefix}{number:04d}".encode()
        number += 1
        some = keys[(await client.locate(key)).group]
        if len(some) < count:
            some.append(key)
    return keys


def pair_of_keys(client: overdb.sync.Client, prefix: str) -> tuple[bytes, bytes]:
    """A key of group 0 and one of group 1."""
    found: dict[int, bytes] = {}
    for number in range(200):
        key = f"{prefix}-{number}".encode()
        found.setdefault(client.locate(key).group, key)
        if len(found) == 2:
            return found[0], found[1]
    raise AssertionError("all keys are in one group")


def value_of(client: overdb.sync.Client, key: bytes) -> bytes:
    found = client.get(key)
    assert found is not None
    return found.value


def median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


async def stays_whole_until(
    ended: Awaitable[None], work: Iterable[Callable[[], Awaitable[None]]]
) -> None:
    """Repeat each piece of work until ``ended`` is over; the first that fails fails everything."""
    stopping = asyncio.Event()

    async def repeat(one: Callable[[], Awaitable[None]]) -> None:
        while not stopping.is_set():
            await one()
            await asyncio.sleep(0)

    async def until_ended() -> None:
        await ended
        stopping.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(until_ended())
        for one in work:
            tasks.create_task(repeat(one))


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, seconds_max: float
) -> float:
    """Poll a condition of this loop; return how long it took, s."""
    began = time.monotonic()
    while True:
        held = condition()
        if await held if isinstance(held, Awaitable) else held:
            return time.monotonic() - began
        assert time.monotonic() - began < seconds_max, f"not within {seconds_max} s: {what}"
        await asyncio.sleep(0.02)


class OpenWatch:
    """Looks at what is open all the time, and measures by this process's clock.

    A transaction is open from the first look that shows it prepared in a group until a look at that
    group does not show it any more; what is measured is the time between those looks, at least.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._client = overdb.Client(list(endpoints), timeout=2.0)
        self._since: dict[tuple[int, RequestId], float] = {}
        self._seen: set[tuple[int, RequestId]] = set()
        self.looks = 0
        self.longest = 0.0
        self.longest_what = ""
        self.over_half_second = 0  # transactions that were open so long: their router is dead
        self._counted: set[tuple[int, RequestId]] = set()

    @property
    def seen(self) -> int:
        return len(self._seen)

    async def look(self) -> None:
        try:
            groups = await self._client.transactions()
        except overdb.OverDBError:
            return
        now = time.monotonic()
        self.looks += 1
        for group in groups:
            if not group.reachable:
                continue
            known = {k: at for k, at in self._since.items() if k[0] == group.group}
            for one in group.transactions:
                if one.state is not LockState.PREPARED:
                    continue
                identity = one.id._replace(started_at=0, acknowledged_below=0)
                key = (group.group, identity)
                since = known.pop(key, None)
                if since is None:
                    since = self._since[key] = now
                    self._seen.add(key)
                if now - since > self.longest:
                    self.longest = now - since
                    self.longest_what = f"{one.id} attempt {one.attempt} in group {group.group}"
                if now - since > 0.5 and key not in self._counted:
                    self._counted.add(key)
                    self.over_half_second += 1
            for gone in known:
                del self._since[gone]
        await asyncio.sleep(0.05)

    async def nothing_open(self, seconds_max: float = 20.0) -> float:
        """Until nothing is open in any group, waiting and parked included; how long that took."""

        async def empty() -> bool:
            try:
                groups = await self._client.transactions()
            except overdb.OverDBError:
                return False
            return all(group.reachable and not group.count for group in groups)

        return await until(empty, "no transaction is open", seconds_max)

    async def close(self) -> None:
        await self._client.close()


class Kills:
    """Kills routers in turn, and leaders, and starts them again."""

    def __init__(self, cluster: LocalCluster, seed: int) -> None:
        self._cluster = cluster
        self.random = random.Random(seed)
        self.routers = 0
        self.leaders = 0

    async def router(self) -> None:
        """One is killed, and serves again at the return. The other one serves meanwhile."""
        number = self.routers % len(self._cluster.router_processes)
        process = self._cluster.router_processes[number]
        await in_thread(process.kill)
        self.routers += 1
        process.start()
        await in_thread(wait_until, lambda: self._cluster.status(number), f"{process.name} answers")

    async def leader(self, group: int) -> None:
        cluster = self._cluster
        victim = await in_thread(cluster.leader, group)
        await in_thread(cluster.nodes[victim].kill)
        self.leaders += 1
        await in_thread(cluster.leader, group, victim)
        cluster.nodes[victim].start()
        await in_thread(
            wait_until, lambda: cluster.describe(victim), f"node {victim} answers again"
        )


def share(counts: Sequence[int]) -> str:
    """A line on how evenly work was done."""
    return f"slowest {min(counts)}, median {median(counts)}, fastest {max(counts)}"
