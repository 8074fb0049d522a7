"""A closed loop of callers, and what every process spent meanwhile."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.figures import Sample, percentile
from bench.stores import error_name

SECTOR = 512
END_SECONDS_MAX = 5.0  # for calls that are under way behind the window
ROUND_SECONDS_MAX = 40.0  # for those of a row whose calls all count
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process that is there, of all its threads; to the nanosecond, where /proc has 10 ms.

    Linux makes the number of such a clock of the process's id (clock_getcpuclockid).
    """
    return time.clock_gettime(~pid << 3 | 2)


class Usage:
    """CPU seconds and resident bytes of processes by name."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.cpu: dict[str, float] = {}
        self.resident: dict[str, int] = {}
        for name, pid in pids.items():
            proc = Path(f"/proc/{pid}")
            fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
            if fields[0] == "Z":  # it would count as one that costs nothing
                raise ChildProcessError(f"{name} has ended")
            self.cpu[name] = cpu_seconds(pid)
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
    """Have callers call ``operation(n)`` one after the other; say what ended in a window behind a warm-up.

    ``row``: system, workload, callers, alternation; ``times``: how long to measure at least and, before, to
    warm up, in seconds. A call that raises is counted as an error only.

    The window ends with a whole number of rounds, a round being as many calls as there are callers: where
    all are answered at once, one answer more or less would be a round more or less. Where not even one round
    has ended within the warm-up, a window behind it would show the quick calls only: then all calls count,
    from the first to the end of the last of those that began within the time.
    """
    callers = _Callers(operation, row[2])
    seconds, warm_up = times
    gc.collect()
    before, written, start = Usage(pids), disk.written(), time.perf_counter()
    callers.start()
    await asyncio.sleep(warm_up)
    from_start = callers.ended < row[2]
    if from_start:
        await asyncio.sleep(seconds - warm_up)
        unfinished = await callers.end(ROUND_SECONDS_MAX)
    else:
        callers.forget()
        before, written, start = Usage(pids), disk.written(), time.perf_counter()
        await asyncio.sleep(seconds)
        await callers.end_of_round(END_SECONDS_MAX)
    elapsed, after, now_written = time.perf_counter() - start, Usage(pids), disk.written()
    latencies, errors = sorted(callers.latencies), collections.Counter(callers.errors)
    calls = callers.succeeded
    if not from_start:
        unfinished = await callers.end(END_SECONDS_MAX)
    if unfinished:
        errors["unfinished"] += unfinished
    return Sample(
        *row,
        items_per_call,
        calls,
        elapsed,
        dict(errors),
        percentile(latencies, 0.5) * 1000,
        percentile(latencies, 0.99) * 1000,
        percentile(latencies, 0.999) * 1000,
        {name: after.cpu[name] - before.cpu[name] for name in pids},
        after.resident,
        None if written is None or now_written is None else now_written - written,
        from_start,
        callers.begun,
    )


class _Callers:
    """A closed loop, and what became of the calls since it began or was told to forget."""

    def __init__(self, operation: Callable[[int], Awaitable[None]], number: int) -> None:
        self._operation = operation
        self._number = number
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._firsts: list[float] = []  # latencies of the callers' first calls
        self._others: list[float] = []
        self._failed = 0
        self._target = float("inf")  # number of ended calls to wait for
        self._reached = asyncio.Event()
        self.begun = 0
        self.errors: collections.Counter[str] = collections.Counter()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._caller()) for _ in range(self._number)]

    async def _caller(self) -> None:
        clock = time.perf_counter
        latencies = self._firsts
        while not self._stopped:
            self.begun += 1
            start = clock()
            try:
                await self._operation(self.begun)
            except Exception as error:  # shown in the table
                self._failed += 1
                self.errors[error_name(error)] += 1
                await asyncio.sleep(0.01)  # what is refused at once must not spin
            else:
                latencies.append(clock() - start)
            latencies = self._others
            if self.ended >= self._target:
                self._reached.set()

    @property
    def succeeded(self) -> int:
        return len(self._firsts) + len(self._others)

    @property
    def ended(self) -> int:
        return len(self._firsts) + len(self._others) + self._failed

    @property
    def latencies(self) -> list[float]:
        """Without the callers' first calls, where there is a round of others.

        The first calls of all come at once to a store that does nothing else.
        """
        if len(self._others) >= self._number:
            return self._others
        return self._firsts + self._others

    def forget(self) -> None:
        """What has ended until now does not count."""
        self._firsts.clear()
        self._others.clear()
        self.errors.clear()
        self._failed = 0

    async def end_of_round(self, seconds_max: float) -> None:
        """Wait until a whole number of rounds has ended, one at least."""
        rounds = max(1, math.ceil(self.ended / self._number))
        if self.ended < rounds * self._number:
            self._target = rounds * self._number
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reached.wait(), seconds_max)

    async def end(self, seconds_max: float) -> int:
        """Begin no more calls, let those under way end; return how many did not, and were given up."""
        self._stopped = True
        _, pending = await asyncio.wait(self._tasks, timeout=seconds_max)
        for task in pending:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return len(pending)
