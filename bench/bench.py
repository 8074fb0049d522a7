"""Puts and gets a second, with p50 and p99, through the client library: `make bench`.

Starts 2 groups x 3 replicas and a router as processes in a fresh directory, drives them from this one
process, prints a table, stops them. Every put is on the disks of a majority before it counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

import overdb
from tests.integration.cluster import LocalCluster

KEYS = 100_000
VALUE = b"v" * 100


@dataclass(frozen=True)
class Measurement:
    """One workload at one number of concurrent callers. Latencies in milliseconds."""

    workload: str
    callers: int
    operations_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_operation: float


async def measure(
    workload: str,
    callers: int,
    seconds: float,
    operation: Callable[[int], Awaitable[object]],
    cpu_seconds: Callable[[], float],
) -> Measurement:
    """Have ``callers`` tasks call ``operation(n)`` one after the other for ``seconds``."""
    latencies: list[float] = []
    clock = time.perf_counter
    counter = 0
    end = clock() + seconds

    async def caller() -> None:
        nonlocal counter
        while True:
            start = clock()
            if start >= end:
                return
            counter += 1
            await operation(counter)
            latencies.append(clock() - start)

    gc.collect()
    cpu, start = cpu_seconds(), clock()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed, cpu = clock() - start, cpu_seconds() - cpu
    latencies.sort()
    count = len(latencies)
    return Measurement(
        workload,
        callers,
        count / elapsed,
        latencies[count // 2] * 1000,
        latencies[min(count - 1, count * 99 // 100)] * 1000,
        cpu / count * 1e6,
    )


async def run(
    endpoints: list[str], seconds: float, callers: list[int], cpu_seconds: Callable[[], float]
) -> list[Measurement]:
    """Measure puts and gets at each number of callers; prints a row as soon as it is known."""
    measurements = []
    keys = [b"key-%08d" % (number * 7919 % KEYS) for number in range(KEYS)]
    async with overdb.Client(endpoints, timeout=30.0) as client:
        for start in range(0, KEYS, 2000):
            await asyncio.gather(*(client.put(key, VALUE) for key in keys[start : start + 2000]))

        async def put(number: int) -> object:
            return await client.put(keys[number % KEYS], VALUE)

        async def get(number: int) -> object:
            return await client.get(keys[number % KEYS])

        print(f"{'':9}{'callers':>8}{'ops/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/op':>11}")
        for workload, operation in (("put", put), ("get", get)):
            for count in callers:
                row = await measure(workload, count, seconds, operation, cpu_seconds)
                measurements.append(row)
                print(
                    f"{row.workload:9}{row.callers:8}{row.operations_per_second:10,.0f}"
                    f"{row.p50_ms:9.2f}{row.p99_ms:9.2f}{row.cpu_us_per_operation:11.0f}",
                    flush=True,
                )
    return measurements


def main() -> int:
    """Parse flags, run, print; exit code 1 when --least is given and not reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--least", type=float, default=0, help="puts/s wanted at the most callers")
    arguments = parser.parse_args()
    print(
        f"OverDB on {platform.machine()}, Python {platform.python_version()}: 2 groups x 3 replicas, "
        f"1 router, 1 client process;\n{KEYS:,} keys, values of {len(VALUE)} bytes"
    )
    with (
        tempfile.TemporaryDirectory(prefix="overdb-bench-", dir=Path.cwd()) as directory,
        LocalCluster(Path(directory)) as cluster,
    ):

        def cpu_seconds() -> float:
            return sum(p.cpu_seconds() for p in cluster.processes) + time.process_time()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measurements = runner.run(
                run(cluster.endpoints, arguments.seconds, arguments.callers, cpu_seconds)
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(m) for m in measurements], indent=1) + "\n")
    puts = [m for m in measurements if m.workload == "put"]
    reached = puts[-1].operations_per_second
    if reached < arguments.least:
        print(
            f"{reached:,.0f} puts/s from {puts[-1].callers} callers: {arguments.least:,.0f} wanted"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
