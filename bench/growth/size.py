"""More keys: cost of a put, memory, restarts."""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path

from bench.growth.common import (
    Section,
    client_of,
    cluster,
    fill,
    key,
    lost,
    put_for,
    reached,
    spread_of,
)
from tests.integration.cluster import LocalCluster, Process, wait_until

_MIB = 1 << 20
_READ_MAX = 400_000  # more than leaders remember
_GROUPS = 2  # of the cluster whose restarts are measured: each has half of the keys


def keys(quick: bool) -> Section:
    """Cost of a put with few and with many keys."""
    sizes = (1000, 5000) if quick else (1000, 100_000, 2_000_000)
    seconds = 1.0 if quick else 5.0

    async def measure(running: LocalCluster) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        async with client_of(running) as client:
            done = 0
            for size in sizes:
                await fill(client, done, size)
                done = size
                # A few windows: a compaction that follows the filling is in the first of them.
                windows = [
                    await put_for(client, running.processes, seconds, 256, size) for _ in range(3)
                ]
                puts = sorted(windows, key=lambda window: window.server_us)[1]
                failed = sum(sum(window.errors.values()) for window in windows)
                missing = await lost(client, size)
                figures = (puts.rate, puts.quantile_ms(0.5), puts.quantile_ms(0.99), puts.server_us)
                rows.append((size, *figures, failed, missing))
        return rows

    with cluster() as running:
        rows = asyncio.run(measure(running))
    spread = spread_of([float(str(row[4])) for row in rows])
    return Section(
        "Keys",
        ("keys", "puts/s", "p50 ms", "p99 ms", "server CPU us per put", "errors", "missing"),
        rows,
        f"256 callers; the middle one of three windows. CPU per put differs by {spread:.0%}; "
        f"15 % wanted: {reached(spread <= 0.15)}.",
    )


def _memory(process: Process, field: str) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


async def _answers(running: LocalCluster, size: int) -> float:
    """Wait until a put and a strict get in each group are answered; return the seconds."""
    began = time.perf_counter()
    async with client_of(running) as client:
        await asyncio.gather(*(client.put(key(n), b"again") for n in range(8)))
        await asyncio.gather(*(client.get(key(n)) for n in range(8)))
        missing = await lost(client, size)
    if missing:
        raise LookupError(f"{missing} keys are missing behind a restart")
    return time.perf_counter() - began


def restart(quick: bool) -> Section:
    """Memory with more and more keys, and how long until they are served again."""
    sizes = (1000, 5000) if quick else (10_000, 100_000, 1_000_000, 2_000_000)
    rows: list[tuple[object, ...]] = []
    with cluster(_GROUPS) as running:
        done = 0
        for size in sizes:
            asyncio.run(_load(running, done, size, 1.0 if quick else 5.0))
            done = size
            resident = max(_memory(p, "VmRSS") for p in running.nodes.values()) / _MIB
            anonymous = max(_memory(p, "RssAnon") for p in running.nodes.values()) / _MIB
            described = [running.describe(node) for node in running.nodes]
            entries = max(d.last_index - d.snapshot_index for d in described if d is not None)
            seconds = [_restarted(running, size, how) for how in (15, 9)]
            after = max(_memory(p, "VmRSS") for p in running.nodes.values()) / _MIB
            rows.append((size, size // _GROUPS, *seconds, resident, anonymous, after, entries))
    slowest = max(float(str(s)) for s in rows[-1][2:4])
    return Section(
        "Restart and memory against the number of keys",
        (
            "keys",
            "of them in a replica",
            "s until answers, behind SIGTERM",
            "behind SIGKILL",
            "resident MiB of a replica before",
            "of it anonymous",
            "resident MiB behind",
            "entries in the log",
        ),
        rows,
        "All seven processes are started at once and share the cores; what is largest of the replicas, "
        f"behind puts and {_READ_MAX:,} gets at most. The "
        "log is short, a snapshot being taken each 16 MiB, and the files are in the page cache. "
        f"By the last row, 300 MiB wanted: {reached(float(str(rows[-1][4])) <= 300)}; 5 s to answers wanted: "
        f"{reached(slowest <= 5)}.",
    )


async def _load(running: LocalCluster, first: int, last: int, seconds: float) -> None:
    async with client_of(running) as client:
        await fill(client, first, last)
        await put_for(client, running.processes, seconds, 256, last)
        await lost(client, min(last, _READ_MAX))  # what leaders remember of reads is memory too


def _restarted(running: LocalCluster, size: int, how: int) -> float:
    """End all processes by a signal and start them; return the seconds until all groups answer."""
    for process in running.processes:
        if how == 15:
            process.send(how)
        else:
            process.kill()
    for process in running.processes:
        assert process.popen is not None
        process.popen.wait(30)
    began = time.perf_counter()
    for process in running.processes:
        process.start()
    asyncio.run(_answers(running, size))
    return time.perf_counter() - began


def recovery(quick: bool) -> Section:
    """Start against the length of the log that is to be read."""
    sizes = (1, 2) if quick else (8, 32, 128)
    rows: list[tuple[object, ...]] = []
    for mib in sizes:
        with cluster(OVERDB_SNAPSHOT_LOG_BYTES=str(1 << 30)) as running:

            async def write(running: LocalCluster = running, mib: int = mib) -> None:
                value = b"v" * 50_000
                async with client_of(running) as client:
                    for at in range(0, mib * 2, 1):  # half of it goes to each group
                        names = [b"%d-%d" % (at, n) for n in range(20)]
                        await asyncio.gather(*(client.put(name, value) for name in names))

            asyncio.run(write())
            node = running.nodes[1]
            node.kill()
            began = time.perf_counter()
            node.start()
            wait_until(functools.partial(running.describe, 1), "the replica answers", 60)
            rows.append((mib, time.perf_counter() - began, node.resident_bytes() / _MIB))
    return Section(
        "Recovery against the log",
        ("log MiB, about", "seconds until a replica answers", "resident MiB then"),
        rows,
        "One replica is killed and started while the others serve. A log is cut at 64 MiB by default.",
    )
