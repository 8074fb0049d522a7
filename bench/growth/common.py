"""What the sections share: clusters, filling them, putting for a while."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import overdb
from bench.figures import percentile, spread
from bench.load import cpu_seconds
from bench.stores import by_group, error_name
from bench.workloads import STRIDE, VALUE_BYTES, value_of
from tests.integration.cluster import LocalCluster, Process, observed

BATCH = 500  # puts in one transaction, while filling
FILLERS = 8  # of these at a time


@dataclass(frozen=True)
class Section:
    """A table of the page, and what it says of its goal."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[object, ...]]
    verdict: str

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", "| " + " | ".join(self.header) + " |"]
        lines.append("|" + "---|" * len(self.header))
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.verdict, ""])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass
class Puts:
    """Puts of one window: when each ended (perf_counter), how long it took in seconds, what failed."""

    seconds: float = 0.0
    ended: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    server_seconds: float = 0.0  # CPU of all servers
    next: int = 1  # number that the next window goes on with

    @property
    def rate(self) -> float:
        return len(self.ended) / self.seconds

    def quantile_ms(self, share: float) -> float:
        return percentile(sorted(self.latencies), share) * 1000

    @property
    def server_us(self) -> float:
        return self.server_seconds * 1e6 / max(1, len(self.ended))


@contextlib.contextmanager
def cluster(groups: int = 2, *, metrics: bool = False, **settings: str) -> Iterator[LocalCluster]:
    """A running cluster in a directory of its own below the present one; nodes have metrics if wanted."""
    with tempfile.TemporaryDirectory(prefix="overdb-growth-", dir=Path.cwd()) as directory:
        made = LocalCluster(Path(directory), groups=groups, settings=settings)
        with observed(made) if metrics else made as running:
            yield running


def memory_of(process: Process, field: str) -> int:
    """Bytes, by a line of /proc: VmRSS, RssAnon, or VmHWM for the most that was resident."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def client_of(running: LocalCluster, *, direct: bool = False) -> overdb.Client:
    return overdb.Client(running.endpoints, timeout=60.0, direct=direct)


def key(number: int) -> bytes:
    return b"key-%08d" % number


async def fill(client: overdb.Client, first: int, last: int, groups: int = 2) -> None:
    """Write the keys of ``[first, last)``, many in a transaction of one group."""
    for start in range(first, last, 200_000):
        keys = [key(number) for number in range(start, min(last, start + 200_000))]
        batches = iter(
            [
                own[at : at + BATCH]
                for own in by_group(keys, groups)
                for at in range(0, len(own), BATCH)
            ]
        )
        await asyncio.gather(*(_filler(client, batches) for _ in range(FILLERS)))


async def _filler(client: overdb.Client, batches: Iterator[list[bytes]]) -> None:
    for number, batch in enumerate(batches):
        puts = [overdb.Put(one, value_of(number + at)) for at, one in enumerate(batch)]
        await client.transact(then=puts)


def cpu_of(processes: list[Process]) -> float:
    return sum(cpu_seconds(process.pid) for process in processes)


async def put_for(
    client: overdb.Client,
    processes: list[Process],
    seconds: float,
    callers: int,
    keys: int,
    *,
    size: int = VALUE_BYTES,
    first: int = 1,
) -> Puts:
    """A closed loop of callers for a while, half a second of warm-up before it.

    ``first`` is the number to begin with: windows that go on where the last one ended meet other keys.
    """
    puts, numbers = Puts(), itertools.count(first)
    counting = stopped = False

    async def caller() -> None:
        while not stopped:
            began, number = time.perf_counter(), next(numbers)
            try:
                await client.put(key(number * STRIDE % keys), value_of(number, size))
            except overdb.OverDBError as error:
                puts.errors[error_name(error)] += 1
                await asyncio.sleep(0.01)
                continue
            if counting:
                puts.ended.append(time.perf_counter())
                puts.latencies.append(puts.ended[-1] - began)

    tasks = [asyncio.create_task(caller()) for _ in range(callers)]
    await asyncio.sleep(min(0.5, seconds / 2))
    counting, began, cpu = True, time.perf_counter(), cpu_of(processes)
    await asyncio.sleep(seconds)
    counting, stopped = False, True
    puts.seconds = time.perf_counter() - began
    puts.server_seconds = cpu_of(processes) - cpu
    await asyncio.gather(*tasks)
    puts.next = next(numbers)
    return puts


async def read_all(client: overdb.Client, keys: int) -> int:
    """Get every key below ``keys``, 1,000 at a time; return how many are not there."""
    missing = 0
    for first in range(0, keys, 1000):
        names = [key(number) for number in range(first, min(keys, first + 1000))]
        found = await asyncio.gather(*(client.get(one) for one in names))
        missing += sum(one is None for one in found)
    return missing


async def lost(client: overdb.Client, keys: int, sample: int = 200) -> int:
    """How many of a sample of the keys below ``keys`` are not there."""
    wanted = [key(number * STRIDE % keys) for number in range(sample)]
    found = await asyncio.gather(*(client.get(one) for one in wanted))
    return sum(one is None for one in found)


def in_words(values: list[float]) -> str:
    """Least, median and greatest."""
    return "-".join(f"{value:,.1f}" for value in spread(values))


def spread_of(values: list[float]) -> float:
    """How far the largest is above the smallest, as a share of the smallest."""
    return max(values) / min(values) - 1 if min(values) else float("inf")


def reached(good: bool) -> str:
    return "reached" if good else "NOT reached"
