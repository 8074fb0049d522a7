"""More keys: cost of a put, memory, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any

import overdb
from bench.growth.common import (
    Puts,
    Section,
    client_of,
    cluster,
    cpu_of,
    fill,
    in_words,
    key,
    lost,
    memory_of,
    put_for,
    reached,
    read_all,
    spread_of,
)
from bench.stores import by_group, error_name
from bench.workloads import STRIDE, value_of
from overdb_node.settings import NodeSettings
from tests.integration.cluster import LocalCluster, Process, wait_until

_MIB = 1 << 20
_READ_MAX = 400_000  # more than leaders remember
_GROUPS = 2  # each has half of the keys


class _Sized:
    """A cluster with a number of keys, and what its windows measured."""

    def __init__(self, running: LocalCluster, size: int) -> None:
        self.running = running
        self.size = size
        self.puts: list[Puts] = []  # to keys that are there
        self.fresh: list[Puts] = []  # to keys that are not
        self.missing = 0
        self._added = 0

    def send(self, number: int) -> None:
        for process in self.running.processes:
            process.send(number)

    async def load(self) -> None:
        async with client_of(self.running) as client:
            await fill(client, 0, self.size)

    async def overwrite(self, seconds: float) -> None:
        async with client_of(self.running) as client:
            await asyncio.gather(*(client.put(key(n), b"awake") for n in range(8)))
            processes = self.running.processes
            first = self.puts[-1].next if self.puts else 1
            window = await put_for(client, processes, seconds, 256, self.size, first=first)
            self.puts.append(window)

    async def add(self, count: int) -> None:
        first, self._added = self._added, self._added + count
        names = [self._fresh(number) for number in range(first, self._added)]
        async with client_of(self.running) as client:
            await asyncio.gather(*(client.put(key(n), b"awake") for n in range(8)))
            self.fresh.append(await _put_fresh(client, self.running.processes, names))

    def _fresh(self, number: int) -> bytes:
        """A key between those that were loaded, all over the key space."""
        return b"%s-%d" % (key(number * STRIDE % self.size), number)

    async def look(self) -> None:
        """Count those of a sample of all keys that are not there."""
        async with client_of(self.running) as client:
            names = [self._fresh(n * STRIDE % self._added) for n in range(200)]
            found = await asyncio.gather(*(client.get(name) for name in names))
            self.missing = await lost(client, self.size) + sum(one is None for one in found)

    @property
    def row(self) -> tuple[object, ...]:
        def middle(windows: list[Puts], figure: Callable[[Puts], float]) -> float:
            return statistics.median(figure(window) for window in windows)

        failed = sum(sum(w.errors.values()) for w in (*self.puts, *self.fresh))
        return (
            self.size,
            middle(self.puts, lambda w: w.rate),
            middle(self.puts, lambda w: w.quantile_ms(0.5)),
            middle(self.puts, lambda w: w.quantile_ms(0.99)),
            in_words([w.server_us for w in self.puts]),
            middle(self.fresh, lambda w: w.rate),
            in_words([w.server_us for w in self.fresh]),
            self.size + self._added,
            failed,
            self.missing,
        )


async def _put_fresh(client: overdb.Client, processes: list[Process], names: list[bytes]) -> Puts:
    """Put them all, 100 of a group in a call, 16 calls at a time."""
    puts = Puts()
    batches = iter(
        [own[at : at + 100] for own in by_group(names, _GROUPS) for at in range(0, len(own), 100)]
    )

    async def caller() -> None:
        for batch in batches:
            began = time.perf_counter()
            try:
                await client.transact(
                    then=[overdb.Put(name, value_of(at)) for at, name in enumerate(batch)]
                )
            except overdb.OverDBError as error:
                puts.errors[error_name(error)] += 1
                continue
            ended = time.perf_counter()
            puts.ended += [ended] * len(batch)
            puts.latencies += [ended - began] * len(batch)

    began, cpu = time.perf_counter(), cpu_of(processes)
    await asyncio.gather(*(caller() for _ in range(16)))
    puts.seconds = time.perf_counter() - began
    puts.server_seconds = cpu_of(processes) - cpu
    return puts


def keys(quick: bool) -> Section:
    """Cost of a put with few and with many keys: a cluster for each number, measured in turn."""
    sizes = (1000, 5000) if quick else (1000, 100_000, 2_000_000)
    windows, seconds, added = (2, 0.4, 2000) if quick else (5, 3.0, 20_000)
    with contextlib.ExitStack() as stack:
        all_sized = []
        for size in sizes:  # those there are stand still
            all_sized.append(_Sized(stack.enter_context(cluster(_GROUPS)), size))
            asyncio.run(all_sized[-1].load())
            all_sized[-1].send(signal.SIGSTOP)

        def in_turn(work: Callable[[_Sized], Coroutine[Any, Any, None]], times: int) -> None:
            for turn in range(times):
                at = turn % len(all_sized)
                for sized in (*all_sized[at:], *all_sized[:at]):
                    sized.send(signal.SIGCONT)
                    asyncio.run(work(sized))
                    sized.send(signal.SIGSTOP)

        in_turn(lambda sized: sized.overwrite(seconds), windows)
        in_turn(lambda sized: sized.add(added), windows)
        in_turn(lambda sized: sized.look(), 1)
    return Section(
        "Keys",
        (
            "keys",
            "puts/s",
            "p50 ms",
            "p99 ms",
            "server CPU us per put, least-median-greatest",
            "fresh keys/s",
            "server CPU us per fresh key, least-median-greatest",
            "keys behind them",
            "errors",
            "missing",
        ),
        [sized.row for sized in all_sized],
        f"A cluster for each number of keys; {windows} windows of each in turn, so that a machine that gets "
        "slower is slower for all. First 256 callers put keys that are there, each window others "
        "as far as there are any; then 16 put batches of 100 "
        f"keys that are not, {added:,} in a window, all over the key space. "
        f"{_differing('put', [[w.server_us for w in sized.puts] for sized in all_sized])} "
        f"{_differing('fresh key', [[w.server_us for w in sized.fresh] for sized in all_sized])}",
    )


def _differing(what: str, windows: list[list[float]]) -> str:
    """How far the medians of the sizes are apart, and the windows of one size."""
    between = spread_of([statistics.median(one) for one in windows])
    within = max(spread_of(one) for one in windows)
    return (
        f"CPU per {what} differs by {between:.0%} between the medians, by up to {within:.0%} between "
        f"windows of one size; 15 % between medians wanted: {reached(between <= 0.15)}."
    )


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
    times, seconds = (1, 0.5) if quick else (3, 2.0)
    rows: list[tuple[object, ...]] = []
    slowest = largest = 0.0
    with cluster(_GROUPS) as running:
        done = 0
        for size in sizes:
            asyncio.run(_load(running, done, size))
            done = size
            largest = _most(running, "VmRSS")
            memory = (largest, _most(running, "RssAnon"), _most(running, "VmHWM"))
            restarts: dict[signal.Signals, list[float]] = {}
            entries = 0
            for how in (signal.SIGTERM, signal.SIGKILL):
                for _ in range(times):
                    asyncio.run(_put(running, size, seconds))  # what a kill leaves to be done again
                    entries = max(entries, _entries(running))
                    restarts.setdefault(how, []).append(_restarted(running, size, how))
            slowest = max(max(some) for some in restarts.values())
            after = _most(running, "VmRSS")
            told = [in_words(some) for some in restarts.values()]
            rows.append((size, size // _GROUPS, *told, *memory, after, entries))
    limit = NodeSettings.model_fields["snapshot_log_bytes"].default // _MIB
    return Section(
        "Restart and memory against the number of keys",
        (
            "keys",
            "of them in a replica",
            "s until answers, behind SIGTERM",
            "behind SIGKILL",
            "resident MiB of a replica before",
            "of it anonymous",
            "at most until then",
            "resident MiB behind",
            "entries in the log",
        ),
        rows,
        "All seven processes are ended and started at once, right behind "
        f"{seconds:.0f} s of puts by 256 callers, and share the cores; least, median and greatest of "
        f"{times}. Memory is that of the largest replica, behind puts and a strict get of each key, "
        f"{_READ_MAX:,} at most. A snapshot is taken each {limit} MiB of log; the files are in the page "
        "cache. By the last row, "
        f"300 MiB wanted: {reached(largest <= 300)}; 5 s to answers wanted, each time: "
        f"{reached(slowest <= 5)}.",
    )


def _most(running: LocalCluster, field: str) -> float:
    """MiB of the largest replica."""
    return max(memory_of(process, field) for process in running.nodes.values()) / _MIB


def _entries(running: LocalCluster) -> int:
    """In the longest log."""
    described = [running.describe(node) for node in running.nodes]
    return max(d.last_index - d.snapshot_index for d in described if d is not None)


async def _load(running: LocalCluster, first: int, last: int) -> None:
    async with client_of(running) as client:
        await fill(client, first, last)
        # What leaders remember of reads is memory too.
        missing = await read_all(client, min(last, _READ_MAX))
    if missing:
        raise LookupError(f"{missing} keys are missing behind a load")


async def _put(running: LocalCluster, size: int, seconds: float) -> None:
    async with client_of(running) as client:
        await put_for(client, running.processes, seconds, 256, size)


def _restarted(running: LocalCluster, size: int, how: signal.Signals) -> float:
    """End all processes by a signal and start them; return the seconds until all groups answer."""
    for process in running.processes:
        if how is signal.SIGTERM:
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
    """Start against the length of the log that is to be read and applied again."""
    sizes, times = ((1, 2), 1) if quick else ((8, 32, 128), 3)
    rows: list[tuple[object, ...]] = []
    for mib in sizes:
        with cluster(_GROUPS, OVERDB_SNAPSHOT_LOG_BYTES=str(1 << 30)) as running:
            asyncio.run(_fill_log(running, mib * _MIB * _GROUPS))
            answers, caught_up = [], []
            for _ in range(times):
                answered, applied = _recovered(running)
                answers.append(answered)
                caught_up.append(applied)
            described = running.describe(_RECOVERED)
            assert described is not None
            entries = described.last_index - described.snapshot_index
            resident = running.nodes[_RECOVERED].resident_bytes() / _MIB
            told = (in_words(answers), in_words(caught_up))
            rows.append((described.log_bytes / _MIB, entries, *told, resident))
    return Section(
        "Recovery against the log",
        (
            "log MiB",
            "entries",
            "s until the replica answers questions",
            "s until it has applied all that was committed",
            "resident MiB then",
        ),
        rows,
        f"One replica is killed and started while the others serve, {times} times; least, median and "
        "greatest. The log, counted in its segments of 8 MiB, is of values of 100 bytes, thousands of them "
        "in an entry, and no snapshot shortens it; by default one is taken each 64 MiB.",
    )


_RECOVERED = 1  # the replica that is killed


async def _fill_log(running: LocalCluster, log_bytes: int) -> None:
    """Write until the logs of all groups together have about so many bytes."""
    first, step = 0, 20_000
    async with client_of(running) as client:
        while True:
            described = [running.describe(running.leader(group)) for group in range(_GROUPS)]
            if sum(one.log_bytes for one in described if one is not None) >= log_bytes:
                return
            await fill(client, first, first + step)
            first += step


def _recovered(running: LocalCluster) -> tuple[float, float]:
    """Kill the replica and start it; return the seconds until it answers, and until it has caught up."""
    node = running.nodes[_RECOVERED]
    node.kill()
    assert node.popen is not None
    node.popen.wait(30)
    leader = running.describe(running.leader(running.group_of(_RECOVERED)))
    assert leader is not None
    began = time.perf_counter()
    node.start()
    wait_until(functools.partial(running.describe, _RECOVERED), "the replica answers", 60)
    answered = time.perf_counter() - began

    def caught_up() -> bool:
        described = running.describe(_RECOVERED)
        return described is not None and described.applied_index >= leader.commit_index

    wait_until(caught_up, "the replica has applied what was committed", 120)
    return answered, time.perf_counter() - began
