"""More groups, larger values."""

from __future__ import annotations

import asyncio
import time

import overdb
from bench.growth.common import (
    Puts,
    Section,
    client_of,
    cluster,
    cpu_of,
    key,
    put_for,
    reached,
    spread_of,
)
from bench.workloads import value_of
from tests.integration.cluster import LocalCluster

_SLICE_SECONDS = 0.005
_WAYS = (("through the router", False), ("straight to the leaders", True))


async def _at_rate(client: overdb.Client, running: LocalCluster, rate: int, seconds: float) -> Puts:
    """An open loop: puts leave at a fixed rate, whatever becomes of those before."""
    puts = Puts()
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        began = time.perf_counter()
        try:
            await client.put(key(number % 10_000), value_of(number))
        except overdb.OverDBError as error:
            puts.errors[type(error).__name__] += 1
        else:
            puts.ended.append(time.perf_counter())
            puts.latencies.append(puts.ended[-1] - began)

    began, cpu, sent = time.perf_counter(), cpu_of(running.processes), 0
    while (now := time.perf_counter()) - began < seconds:
        due = int((now - began) * rate)
        for number in range(sent, due):
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        sent = due
        await asyncio.sleep(_SLICE_SECONDS)
    await asyncio.gather(*tasks)
    puts.seconds = time.perf_counter() - began
    puts.server_seconds = cpu_of(running.processes) - cpu
    return puts


def groups(quick: bool) -> Section:
    """The same load on 1, 2 and 4 groups."""
    rate, seconds = (500, 1.0) if quick else (3000, 8.0)

    async def measure(running: LocalCluster) -> tuple[object, ...]:
        async with client_of(running) as client:
            await _at_rate(client, running, rate, seconds / 4)
            puts = await _at_rate(client, running, rate, seconds)
            cpu = cpu_of(running.processes)
            await asyncio.sleep(seconds / 2)
            idle = (cpu_of(running.processes) - cpu) / (seconds / 2)
        own = puts.server_us - idle * puts.seconds * 1e6 / max(1, len(puts.ended))
        failed = sum(puts.errors.values())
        return (puts.rate, puts.quantile_ms(0.99), puts.server_us, idle * 100, own, failed)

    rows: list[tuple[object, ...]] = []
    for count in (1, 2) if quick else (1, 2, 4):
        with cluster(count) as running:
            rows.append((count, *asyncio.run(measure(running))))
    spread = spread_of([float(str(row[3])) for row in rows])
    return Section(
        f"Groups, at {rate:,} puts/s offered",
        (
            "groups",
            "puts/s",
            "p99 ms",
            "server CPU us per put",
            "idle CPU, % of a core",
            "us per put without the idle share",
            "errors",
        ),
        rows,
        f"CPU per put differs by {spread:.0%}; 15 % wanted: {reached(spread <= 0.15)}. At a fixed load more "
        "groups mean smaller messages.",
    )


def busy_groups(quick: bool) -> Section:
    """The same callers on 1, 2 and 4 groups, as many as keep both cores busy."""
    callers, seconds, keys = (64, 0.5, 2000) if quick else (1024, 5.0, 50_000)

    async def measure(running: LocalCluster, direct: bool) -> tuple[object, ...]:
        async with client_of(running, direct=direct) as client:
            await put_for(client, running.processes, seconds / 2, callers, keys)
            windows = [
                await put_for(client, running.processes, seconds, callers, keys) for _ in range(3)
            ]
        puts = sorted(windows, key=lambda window: window.server_us)[1]
        failed = sum(sum(window.errors.values()) for window in windows)
        return (puts.rate, puts.quantile_ms(0.99), puts.server_us, failed)

    rows: list[tuple[object, ...]] = []
    for count in (1, 2) if quick else (1, 2, 4):
        with cluster(count) as running:
            for way, direct in _WAYS:
                rows.append((count, way, *asyncio.run(measure(running, direct))))
    spreads = [spread_of([float(str(row[4])) for row in rows[way::2]]) for way in (0, 1)]
    return Section(
        f"Groups, {callers:,} callers",
        ("groups", "way", "puts/s", "p99 ms", "server CPU us per put", "errors"),
        rows,
        f"The middle one of three windows. CPU per put differs by {spreads[0]:.0%} through the router: "
        f"{reached(spreads[0] <= 0.15)}; by {spreads[1]:.0%} straight to the leaders: "
        f"{reached(spreads[1] <= 0.15)}. 15 % wanted.",
    )


def large(quick: bool) -> Section:
    """Values of 64 KiB and 1 MiB, both ways."""
    seconds = 1.0 if quick else 5.0

    async def measure(running: LocalCluster, size: int, direct: bool) -> tuple[object, ...]:
        async with client_of(running, direct=direct) as client:
            puts = await put_for(client, running.processes, seconds, 16, 64, size=size)
            began, read = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                found = await asyncio.gather(*(client.get(key(n)) for n in range(16)))
                read += sum(one is not None and len(one.value) == size for one in found)
            gets = read / (time.perf_counter() - began)
        mib = size / 2**20
        failed = sum(puts.errors.values())
        return (puts.rate * mib, puts.quantile_ms(0.99), gets * mib, failed)

    with cluster() as running:
        rows: list[tuple[object, ...]] = [
            (size, way, *asyncio.run(measure(running, size, direct)))
            for size in (64 << 10, 1 << 20)
            for way, direct in _WAYS
        ]
    return Section(
        "Large values, 16 callers",
        ("bytes", "way", "put MiB/s", "put p99 ms", "get MiB/s", "errors"),
        rows,
        "Each byte put is written by three logs and three databases, on one disk.",
    )
