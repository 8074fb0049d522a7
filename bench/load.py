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
SECTOR = 512
END_SECONDS_MAX = 5.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """CPU seconds and resident bytes of processes by name, read from /proc."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.cpu: dict[str, float] = {}
        self.resident: dict[str, int] = {}
        for name, pid in pids.items():
            proc = Path(f"/proc/{pid}")
            fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
            if fields[0] == "Z":  # it would count as one that costs nothing
                raise ChildProcessError(f"{name} has ended")
            self.cpu[name] = (int(fields[11]) + int(fields[12])) / TICKS
            self.resident[name] = int((proc / "statm").read_text().split()[1]) * PAGE


class Disk:
    """What the disk below a directory was given to write, from /proc/diskstats.

    Not the ``write_bytes`` of processes: that counts whole pieces of the page cache, up to a megabyte for an
    append of a few bytes.
    """

    def __init__(self, directory: Path) -> None:
        device = directory.stat().st_dev
        self._device = [str(os.major(device)), str(os.minor(device))]

    def written(self) -> int | None:
        """Bytes since the machine started; None for what is no disk."""
        for line in Path("/proc/diskstats").read_text().splitlines():
            fields = line.split()
            if fields[:2] == self._device:
                return int(fields[9]) * SECTOR
        return None


async def measure(
    row: tuple[str, str, int, int],
    items_per_call: int,
    operation: Callable[[int], Awaitable[None]],
    pids: dict[str, int],
    disk: Disk,
    times: tuple[float, float],
) -> Sample:
    """Have callers call ``operation(n)`` one after the other; calls that end after the warm-up count.

    ``row``: system, workload, callers, alternation; ``times``: how long to measure and, before, to warm up,
    in seconds. A call that raises is counted as an error only.
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

    seconds, warm_up = times
    gc.collect()
    tasks = [asyncio.create_task(caller()) for _ in range(row[2])]
    await asyncio.sleep(warm_up)
    before, written, start = Usage(pids), disk.written(), clock()
    counting = True
    await asyncio.sleep(seconds)
    counting, stopped = False, True
    elapsed, after, now_written = clock() - start, Usage(pids), disk.written()
    if unfinished := await _end(tasks):
        errors["unfinished"] += unfinished
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
        None if written is None or now_written is None else now_written - written,
    )


async def _end(tasks: list[asyncio.Task[None]]) -> int:
    """Let the calls that are under way end; return how many did not, and were given up."""
    _, pending = await asyncio.wait(tasks, timeout=END_SECONDS_MAX)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return len(pending)
