"""OverDB and other stores side by side, alternating, on this machine: `make bench`.

OverDB runs as 2 groups x 3 replicas and a router (and once more with read leases, for its reads), the others
as three nodes, each a process of its own. This process is the client of all of them: a closed loop of
callers. The servers that are not measured at the moment are stopped (SIGSTOP), so that they take no CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import uvloop

from bench import plots, report
from bench.figures import Sample, chosen, table
from bench.goals import goals
from bench.load import Disk, measure
from bench.stores import KeyValue
from bench.targets import Target, serve, wake_all, wake_only
from bench.workloads import (
    ITEMS,
    QUICK_ROWS,
    ROWS,
    STRIDE,
    chosen_rows,
    estimated_seconds,
    keys_of,
    operations,
    parsed_rows,
    value_of,
)

TURN_SECONDS = 3.0  # until those whose turn it is answer again, about
LOADED_PER_SECOND = 8000.0  # keys, at the start, about


async def until_answering(store: KeyValue, keys: list[bytes]) -> None:
    """A put and a get of each key are answered; raises after 30 s without."""
    deadline = time.monotonic() + 30
    while True:
        try:
            for key in keys:
                await store.put(key, value_of(0))
                await store.get(key)
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def load(store: KeyValue, keys: list[bytes], seconds_max: float) -> list[bytes]:
    """Write keys, 256 at a time, all or those there is time for; return those that were taken."""
    deadline = time.monotonic() + seconds_max
    waiting = iter(keys)
    written: list[bytes] = []

    async def caller() -> None:
        for key in waiting:
            with contextlib.suppress(Exception):  # the page says how many there are
                await store.put(key, value_of(len(written)))
                written.append(key)
            if time.monotonic() > deadline:
                return

    await asyncio.gather(*(caller() for _ in range(256)))
    return sorted(written)


class Run:
    """All rows of all targets, as often as wanted, each time another target first."""

    def __init__(self, targets: list[Target], arguments: argparse.Namespace, disk: Disk) -> None:
        self._targets = targets
        self._arguments = arguments
        self._disk = disk
        self._keys: dict[str, list[bytes]] = {}  # by who serves
        self.samples: list[Sample] = []

    def estimate(self) -> float:
        """How many seconds this will take, about."""
        arguments = self._arguments
        times = (arguments.seconds, arguments.warm_up)
        turns = sum(
            estimated_seconds(chosen_rows(arguments.rows, t.rows), times, t.slowest) + TURN_SECONDS
            for t in self._targets
        )
        loading: dict[str, float] = {
            t.data: min(t.load_seconds_max, arguments.keys / LOADED_PER_SECOND)
            for t in self._targets
        }
        alternations: int = arguments.alternations
        return turns * alternations + sum(loading.values())

    async def run(self) -> None:
        for alternation in range(self._arguments.alternations):
            first = alternation % len(self._targets)
            for target in (*self._targets[first:], *self._targets[:first]):
                await self._take_turn(target, alternation)

    @property
    def loaded(self) -> dict[str, int]:
        """How many keys each target has, by its name."""
        return {t.name: len(self._keys.get(t.data, ())) for t in self._targets}

    async def _take_turn(self, target: Target, alternation: int) -> None:
        wake_only(target, self._targets)
        target.renew()
        store = target.open()
        keys = keys_of(self._arguments.keys)
        await until_answering(store, keys[:8])  # of all groups
        if target.data not in self._keys:
            self._keys[target.data] = await load(store, keys, target.load_seconds_max)
        calls = operations(store, self._keys[target.data])
        pids = {**target.pids, "client": os.getpid()}
        os.sync()  # what one system left unwritten is not the next one's time
        arguments = self._arguments
        for workload, callers in chosen_rows(arguments.rows, target.rows):
            row = (target.name, workload, callers, alternation)
            call, items = calls[workload], ITEMS.get(workload, 1)
            times = (arguments.seconds, arguments.warm_up)
            routed = target.routed()
            sample = await measure(row, items, call, pids, self._disk, times)
            if routed is not None:
                sample = replace(sample, routed=(target.routed() or 0) - routed)
            self.samples.append(sample)
            errors = "".join(f", {number} {name}" for name, number in sample.errors.items())
            print(*row, f"{sample.rate:,.0f}/s p99 {sample.p99_ms:.2f} ms{errors}", flush=True)
        await store.close()
        self._arguments.json.write_text(
            raw(self.samples)
        )  # what is measured outlives what fails later


def raw(samples: list[Sample]) -> str:
    """The samples as JSON."""
    rows = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(s).items()}
        for s in samples
    ]
    return json.dumps(rows, indent=1) + "\n"


def parsed(argv: list[str]) -> argparse.Namespace:
    """The command line, defaults filled in; ends the process with code 2 for what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rows, no repetition")
    parser.add_argument("--overdb-alone", action="store_true", help="no other store")
    parser.add_argument("--rows", help="WORKLOAD:CALLERS,... instead of all", default="")
    parser.add_argument("--keys", type=int, default=100_000, help="to load (default 100,000)")
    parser.add_argument("--seconds", type=float, help="for each row, at least")
    parser.add_argument("--alternations", type=int, help="how often all take their turn")
    parser.add_argument("--json", type=Path, help="raw results (default: bench/results.json)")
    parser.add_argument(
        "--markdown", type=Path, help="page (default: bench/RESULTS.md of a whole run, else none)"
    )
    parser.add_argument("--plots", type=Path, help="directory (default: results, by the page)")
    parser.add_argument(
        "--least", type=float, default=0, help="median puts/s wanted at 256 callers"
    )
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    try:
        rows = parsed_rows(arguments.rows) if arguments.rows else None
    except ValueError as error:
        parser.error(str(error))
    if arguments.keys < 1000 or arguments.keys % STRIDE == 0:
        parser.error(f"--keys {arguments.keys}: at least 1000, and no multiple of {STRIDE}")
    arguments.rows = rows or (QUICK_ROWS if quick else ROWS)
    arguments.seconds = arguments.seconds or (0.7 if quick else 1.0)
    arguments.warm_up = 0.2 if quick else 0.3
    arguments.alternations = arguments.alternations or (1 if quick else 5)
    arguments.json = arguments.json or Path("bench/results.json")
    if not (arguments.markdown or quick or rows or arguments.overdb_alone):
        arguments.markdown = Path("bench/RESULTS.md")
    if arguments.markdown and not arguments.plots:
        arguments.plots = arguments.markdown.parent / "results"
    return arguments


def measured(arguments: argparse.Namespace) -> tuple[list[Sample], list[Target], dict[str, int]]:
    """Start the systems, measure, end them."""
    with (
        tempfile.TemporaryDirectory(prefix="overdb-bench-", dir=Path.cwd()) as directory,
        contextlib.ExitStack() as stack,
    ):
        targets = serve(stack, Path(directory), arguments.overdb_alone)
        stack.callback(wake_all, targets)
        run = Run(targets, arguments, Disk(Path(directory)))
        print(f"this takes about {math.ceil(run.estimate() / 60)} min", flush=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run.run())
        return run.samples, targets, run.loaded


def median_puts(samples: list[Sample]) -> float:
    """Puts/s of 256 callers through the router, what --least is about."""
    rates = [s.rate for s in chosen(samples, "overdb", "put", 256)]
    return statistics.median(rates) if rates else 0.0


def main(argv: list[str]) -> int:
    """Run, write the results; exit code 1 when --least is given and not reached, 130 for Ctrl-C."""
    arguments = parsed(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        samples, targets, loaded = measured(arguments)
    except KeyboardInterrupt:
        print(f"stopped: no page was written, {arguments.json} has the turns that were complete")
        return 130
    arguments.json.write_text(raw(samples))
    command = f"python -m bench {' '.join(argv)}".strip()
    drawn = plots.draw(samples, arguments.plots) if arguments.plots else []
    if (
        arguments.markdown
        and not any(t.data == "etcd" for t in targets)
        and not arguments.overdb_alone
    ):
        print(f"without etcd there is nothing to compare: {arguments.markdown} stays as it is")
    elif arguments.markdown:
        page = report.markdown(samples, targets, loaded, command, drawn)
        arguments.markdown.write_text(page)
    print(f"\n{goals(samples)}\n{table(samples)}")
    reached = median_puts(samples)
    if reached < arguments.least:
        print(f"{reached:,.0f} puts/s from 256 callers: {arguments.least:,.0f} wanted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
