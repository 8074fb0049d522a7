"""Followers that lag catch up while writes go on: one that was down, one whose disk was lost."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import overdb
from bench.growth.common import Section, client_of, cluster, key, reached
from bench.workloads import STRIDE, value_of
from overdb.internal.v1 import shard_pb2
from tests.integration.cluster import LocalCluster, metric, wait_until

_MIB = 1 << 20
_VALUE_BYTES = 16 << 10
_CALLERS = 96
_LATE_SECONDS_MAX = 1.0
_LOG_MIB_MAX = 128  # what the leader's log may take in memory
_TRANSFERS_MAX = 2.0  # in step within so many times the time of the transfer
_SAMPLE_SECONDS = 0.25
_FILL_PUTS = 32  # in one transaction
_FILLERS = 8


@dataclass(frozen=True)
class _Sizes:
    fill_bytes: int
    bytes_per_second: int
    seconds_max: float  # for anything that is waited for
    settings: dict[str, str]


_FULL = _Sizes(1 << 30, 15_000_000, 900.0, {})
_QUICK = _Sizes(
    4 * _MIB,
    2_000_000,
    60.0,
    {
        "OVERDB_KEEP_SILENT_SECONDS": "1",
        "OVERDB_SNAPSHOT_LOG_BYTES": str(_MIB // 2),
        "OVERDB_LOG_MEMORY_BYTES": str(_MIB),
    },
)


class _Load:
    """Puts at a steady rate, spread over the keys. What the servers are late with is not made up for, beyond
    a second."""

    def __init__(self, client: overdb.Client, bytes_per_second: int, keys: int) -> None:
        self._client = client
        self._pause = _VALUE_BYTES / bytes_per_second
        self._keys = keys
        self._numbers = itertools.count()
        self._stopped = False
        self._next = 0.0  # when the next put is due, by the loop's clock
        self._tasks: list[asyncio.Task[None]] = []
        self.written_bytes = 0
        self.errors = 0

    async def _caller(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped:
            self._next = max(self._next + self._pause, loop.time() - _LATE_SECONDS_MAX)
            await asyncio.sleep(max(0.0, self._next - loop.time()))
            number = next(self._numbers)
            try:
                name = key(number * STRIDE % self._keys)
                await self._client.put(name, value_of(number, _VALUE_BYTES))
            except overdb.OverDBError:
                self.errors += 1
            else:
                self.written_bytes += _VALUE_BYTES

    async def __aenter__(self) -> _Load:
        self._next = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._caller()) for _ in range(_CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


class _Watch:
    """Looks at the logs in memory of all nodes. ``log_bytes_max`` is the largest since it was set to 0."""

    def __init__(self, running: LocalCluster) -> None:
        self._running = running
        self.log_bytes_max = 0.0

    async def __aenter__(self) -> _Watch:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            nodes = [node for node in self._running.nodes.values() if node.is_running]
            sizes = await asyncio.to_thread(
                lambda nodes: [metric(node, "overdb_log_bytes") for node in nodes], nodes
            )
            self.log_bytes_max = max(self.log_bytes_max, *sizes)
            await asyncio.sleep(_SAMPLE_SECONDS)


@dataclass(frozen=True)
class _CaughtUp:
    """How a replica came into step. ``snapshot_bytes``: of the last one that it was offered.

    ``transfer_seconds``: from its start until the first one was installed.
    """

    seconds: float
    transfer_seconds: float
    snapshot_bytes: int
    snapshots: int
    written_bytes: int
    log_bytes_max: float

    @property
    def transfers(self) -> float:
        return self.seconds / self.transfer_seconds

    def row(self, name: str) -> tuple[object, ...]:
        return (
            name,
            self.snapshot_bytes / _MIB,
            self.snapshots,
            self.transfer_seconds,
            self.seconds,
            self.transfers,
            self.written_bytes / self.seconds / 1e6,
            self.log_bytes_max / _MIB,
        )


class _Trial:
    """A group with data in it, followers of which go away and come back."""

    def __init__(self, running: LocalCluster, client: overdb.Client, sizes: _Sizes) -> None:
        self.running, self.client, self.sizes = running, client, sizes
        self.keys = sizes.fill_bytes // _VALUE_BYTES
        self.watch = _Watch(running)
        self.load = _Load(client, sizes.bytes_per_second, self.keys)
        self._next_id = 11

    async def fill(self) -> None:
        numbers = iter(range(0, self.keys, _FILL_PUTS))

        async def filler() -> None:
            for first in numbers:
                these = range(first, min(first + _FILL_PUTS, self.keys))
                puts = [overdb.Put(key(n), value_of(n, _VALUE_BYTES)) for n in these]
                await self.client.transact(then=puts)

        await asyncio.gather(*(filler() for _ in range(_FILLERS)))

    async def restarted(self) -> _CaughtUp:
        """A follower is down until its leader's log begins behind it; then it is started."""
        leader = await asyncio.to_thread(self.running.leader, 0)
        follower = self._follower(leader)
        node = self.running.nodes[follower]
        last = (await self._described(follower)).last_index
        node.kill()

        def compacted() -> bool:
            described = self.running.describe(leader)
            return described is not None and described.snapshot_index > last

        await self._until(compacted, "the leader has compacted what the follower lacks")
        return await self._measured(follower, self._in_step(leader, follower))

    async def replaced(self) -> _CaughtUp:
        """A follower's disk is lost: a new one joins, and is promoted."""
        leader = await asyncio.to_thread(self.running.leader, 0)
        follower, new = self._follower(leader), self._next_id
        self._next_id += 1
        old = self.running.nodes[follower]
        old.kill()
        await asyncio.to_thread(shutil.rmtree, old.environment["OVERDB_DATA"])
        await self.client.remove_member(0, follower)
        node = self.running.joining(new, like=follower)
        del self.running.nodes[follower]
        await self.client.add_member(0, new, node.address)
        limit = self.sizes.seconds_max
        return await self._measured(
            new, self.client.promote_member(0, new, wait=True, timeout=limit)
        )

    async def _measured(self, node_id: int, in_step: Awaitable[object]) -> _CaughtUp:
        """Start a node, and wait until it is in step."""
        self.watch.log_bytes_max, written = 0.0, self.load.written_bytes
        wall, began = time.time(), time.perf_counter()
        node = self.running.nodes[node_id]
        node.start()
        await in_step
        seconds = time.perf_counter() - began
        events = self.running.events_of(node)
        offers = _later(events, "snapshot_offered", wall)
        sizes = [int(str(one["detail"]).split()[-2]) for one in offers]
        installed = _later(events, "snapshot_installed", wall)
        return _CaughtUp(
            seconds,
            _stamp(installed[0]) - wall if installed else seconds,
            sizes[-1] if sizes else 0,
            len(installed),
            self.load.written_bytes - written,
            self.watch.log_bytes_max,
        )

    async def _in_step(self, leader: int, follower: int) -> None:
        def in_step() -> bool:
            mine, its = self.running.describe(leader), self.running.describe(follower)
            if mine is None or its is None:
                return False
            return its.established and its.applied_index >= mine.commit_index

        await self._until(in_step, "the follower is in step")

    def _follower(self, leader: int) -> int:
        return next(node for node in self.running.nodes if node != leader)

    async def _described(self, node: int) -> shard_pb2.DescribeResponse:
        described = await asyncio.to_thread(self.running.describe, node)
        assert described is not None, f"node {node} does not answer"
        return described

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(wait_until, condition, what, self.sizes.seconds_max)


def _later(events: list[dict[str, Any]], name: str, wall: float) -> list[dict[str, Any]]:
    """Those of this name that were logged after ``wall`` (time.time())."""
    return [one for one in events if one.get("event") == name and _stamp(one) >= wall]


def _stamp(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")).timestamp()


def catch_up(quick: bool) -> Section:
    """Seconds until a follower is in step while writes go on, against a transfer without load."""
    return _section(_QUICK if quick else _FULL)


def _section(sizes: _Sizes) -> Section:
    async def measure(running: LocalCluster) -> tuple[_CaughtUp, _CaughtUp, _CaughtUp, int]:
        async with client_of(running) as client:
            trial = _Trial(running, client, sizes)
            await trial.fill()
            async with trial.watch:
                plain = await trial.replaced()
                async with trial.load as load:
                    restarted = await trial.restarted()
                    replaced = await trial.replaced()
            return plain, restarted, replaced, load.errors

    with cluster(1, metrics=True, **sizes.settings) as running:
        plain, restarted, replaced, errors = asyncio.run(measure(running))

    loaded = (restarted, replaced)
    in_time = all(one.transfers <= _TRANSFERS_MAX and one.snapshots == 1 for one in loaded)
    most = max(one.log_bytes_max for one in loaded) / _MIB
    return Section(
        f"Catching up: {sizes.fill_bytes / _MIB:,.0f} MiB of data, {_VALUE_BYTES >> 10} KiB values, puts of "
        f"{sizes.bytes_per_second / 1e6:g} MB/s",
        (
            "replica",
            "snapshot MiB",
            "snapshots",
            "s until it is installed",
            "s until in step",
            "ratio of these",
            "MB/s written meanwhile",
            "largest log in memory MiB",
        ),
        [
            plain.row("new, without load"),
            restarted.row("was down until the leader had compacted"),
            replaced.row("new, in the place of a lost disk: promote --wait"),
        ],
        f"Seconds count from the start of its process. In step within {_TRANSFERS_MAX:g} times the transfer, "
        f"both under load, and by one snapshot: {reached(in_time)}. The log in memory of any replica, "
        f"{_LOG_MIB_MAX} MiB allowed: {reached(most <= _LOG_MIB_MAX)}. Failed puts: {errors}.",
    )
