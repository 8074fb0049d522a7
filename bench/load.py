"""A closed loop of callers, and what every process spent meanwhile."""

from __future__ import annotations

import asyncio
import collections
import gc
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.figures import Sample, percentile

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """CPU seconds, resident bytes and bytes written of processes by name, read from /proc."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.cpu: dict[str, float] = {}
        self.resident: dict[str, int] = {}
        self.written: dict[str, int] = {}
        for name, pid in pids.items():
            proc = Path(f"/proc/{pid}")
            fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
            self.cpu[name] = (int(fields[11]) + int(fields[12])) / TICKS
            self.resident[name] = int((proc / "statm").read_text().split()[1]) * PAGE
            io = dict(line.split(": ") for line in (proc / "io").read_text().splitlines())
            self.written[name] = int(io["write_bytes"])


async def measure(
    row: tuple[str, str, int, int],
    items_per_call: int,
    operation: Callable[[int], Awaitable[None]],
    pids: dict[str, int],
    seconds: float,
    warm_up: float,
) -> Sample:
    """Have callers call ``operation(n)`` one after the other; calls that end after the warm-up count.

    ``row``: system, workload, callers, alternation. A call that raises is counted as an error only.
    """
    latencies: list[float] = []
    errors: collections.Counter[str] = collections.Counter()
    clock = time.perf_counter
    counter = 0
    counting = stopped = False

    async def caller() -> None:
        nonlocal counter
        while not stopped:
            counter += 1
            start = clock()
            try:
                await operation(counter)
            except Exception as error:  # shown in the table
                if counting:
                    errors[type(error).__name__] += 1
                await asyncio.sleep(0.01)  # what is refused at once must not spin
            else:
                if counting:
                    latencies.append(clock() - start)

    gc.collect()
    tasks = [asyncio.create_task(caller()) for _ in range(row[2])]
    await asyncio.sleep(warm_up)
    before, start = Usage(pids), clock()
    counting = True
    await asyncio.sleep(seconds)
    counting, stopped = False, True
    elapsed, after = clock() - start, Usage(pids)
    await asyncio.gather(*tasks)
    latencies.sort()
    return Sample(
        *row,
        items_per_call,
        len(latencies),
        elapsed,
        dict(errors),
        percentile(latencies, 0.5) * 1000,
        percentile(latencies, 0.99) * 1000,
        percentile(latencies, 0.999) * 1000,
        {name: after.cpu[name] - before.cpu[name] for name in pids},
        after.resident,
        {name: after.written[name] - before.written[name] for name in pids},
    )
