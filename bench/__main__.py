"""OverDB and etcd side by side, alternating, on this machine: `make bench`.

OverDB runs as 2 groups x 3 replicas and a router, etcd as three nodes, each a process of its own; every
write is fsynced by a majority. This process is the client of all of them: a closed loop of callers. The
servers that are not measured at the moment are stopped (SIGSTOP), so that they take no CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import functools
import json
import math
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from bench import etcd_cluster
from bench.figures import Sample, chosen, goals, table
from bench.load import measure
from bench.stores import Etcd, OverDB, Store, by_group
from tests.integration.cluster import LocalCluster

KEYS = 100_000
VALUE = b"v" * 100
GROUPS = 2
KEY_LIST = [b"key-%08d" % number for number in range(KEYS)]
CALLERS = (1, 16, 64, 256, 1024)
ROWS = (
    *(("put", n) for n in CALLERS),
    *(("get", n) for n in CALLERS),
    ("mix-90-10", 256),
    ("batch-100", 16),
    ("txn-one-group", 256),
    ("txn-two-groups", 256),
    ("scan-1000", 16),
    ("hot-key", 256),
)
QUICK_ROWS = tuple((w, n) for w, n in ROWS if n in {1, 16, 256} and (w, n) != ("put", 16))
ITEMS = {"batch-100": 100}
STRIDE = 7919  # a prime that is no divisor of KEYS: neighbours in time are none in the key space


@dataclass(frozen=True)
class Target:
    """A store, who calls it, and the processes that serve it."""

    name: str
    open: Callable[[], Store]
    pids: dict[str, int]


def operations(store: Store) -> dict[str, Callable[[int], Awaitable[None]]]:
    """What one call of each workload does; the number varies the keys."""
    groups = by_group(KEY_LIST, GROUPS)

    def key(number: int) -> bytes:
        return KEY_LIST[number * STRIDE % KEYS]

    async def put(number: int) -> None:
        await store.put(key(number), VALUE)

    async def get(number: int) -> None:
        if await store.get(key(number)) is None:
            raise LookupError("a key that was loaded is missing")

    async def mix(number: int) -> None:
        await (put(number) if number % 10 == 0 else get(number))

    async def batch(number: int) -> None:
        own = groups[number % GROUPS]
        start = number * 100 % (len(own) - 100)
        await store.put_all(own[start : start + 100], VALUE)

    async def one_group(number: int) -> None:
        own, at = groups[number % GROUPS], number * STRIDE
        await store.put_all([own[at % len(own)], own[(at + 1) % len(own)]], VALUE)

    async def two_groups(number: int) -> None:
        at = number * STRIDE
        await store.put_all([own[at % len(own)] for own in groups], VALUE)

    async def scan(number: int) -> None:
        if await store.scan(KEY_LIST[number * STRIDE % (KEYS - 1000)], 1000) != 1000:
            raise LookupError("a scan came back short")

    async def hot(number: int) -> None:
        await store.put(KEY_LIST[0], VALUE + b"%d" % (number % 10))

    return {
        "put": put,
        "get": get,
        "mix-90-10": mix,
        "batch-100": batch,
        "txn-one-group": one_group,
        "txn-two-groups": two_groups,
        "scan-1000": scan,
        "hot-key": hot,
    }


def wake_only(target: Target, everybody: list[Target]) -> None:
    """Stop the processes of all others, continue those of ``target``."""
    for pid in {p for t in everybody for p in t.pids.values()} - set(target.pids.values()):
        os.kill(pid, signal.SIGSTOP)
    for pid in target.pids.values():
        os.kill(pid, signal.SIGCONT)


async def until_answering(store: Store) -> None:
    """A put and a get are answered; raises after 30 s without."""
    deadline = time.monotonic() + 30
    while True:
        try:
            await store.put(KEY_LIST[0], VALUE)
            await store.get(KEY_LIST[0])
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def load(store: Store) -> None:
    """Write all keys, 256 at a time."""
    numbers = iter(range(KEYS))

    async def caller() -> None:
        for number in numbers:
            await store.put(KEY_LIST[number], VALUE)

    await asyncio.gather(*(caller() for _ in range(256)))


async def run(targets: list[Target], arguments: argparse.Namespace) -> list[Sample]:
    """All rows of all targets, as often as wanted, target after target."""
    samples: list[Sample] = []
    loaded: set[frozenset[int]] = set()
    for alternation in range(arguments.alternations):
        for target in targets:
            wake_only(target, targets)
            store = target.open()
            await until_answering(store)
            servers = frozenset(target.pids.values())
            if servers not in loaded:
                await load(store)
                loaded.add(servers)
            calls = operations(store)
            pids = {**target.pids, "client": os.getpid()}
            for workload, callers in arguments.rows:
                if target.name == "etcd-spread" and workload not in {"put", "get"}:
                    continue
                row = (target.name, workload, callers, alternation)
                sample = await measure(
                    row,
                    ITEMS.get(workload, 1),
                    calls[workload],
                    pids,
                    arguments.seconds,
                    arguments.warm_up,
                )
                samples.append(sample)
                print(*row, f"{sample.rate:,.0f}/s p99 {sample.p99_ms:.2f} ms", flush=True)
            await store.close()
    return samples


def serve(stack: contextlib.ExitStack, directory: Path, overdb_alone: bool) -> list[Target]:
    """Start what is installed; say what is not."""
    ours = stack.enter_context(LocalCluster(directory / "overdb", groups=GROUPS))
    pids = {process.name: process.pid for process in ours.processes}
    targets = [Target("overdb", lambda: OverDB(ours.endpoints), pids)]
    if overdb_alone:
        return targets
    if etcd_cluster.program() is None:
        print(etcd_cluster.INSTALL)
        return targets
    theirs = stack.enter_context(etcd_cluster.EtcdCluster(directory / "etcd"))
    pids = {f"etcd-{n}": popen.pid for n, popen in enumerate(theirs.popens)}

    def at_leader() -> Store:
        for _ in range(100):
            leader = theirs.leader()
            if leader:
                return Etcd([leader])
            time.sleep(0.1)
        raise TimeoutError("etcd has no leader")

    targets.append(Target("etcd-leader", at_leader, pids))
    targets.append(Target("etcd-spread", functools.partial(Etcd, theirs.endpoints), pids))
    return targets


def report(samples: list[Sample]) -> str:
    """What a run says of itself, the goals, and all rows; Markdown."""
    return (
        f"# Results\n\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, "
        f"{platform.machine()} with {os.cpu_count()} cores, kernel {platform.release()}, "
        f"Python {platform.python_version()}; `python -m bench {' '.join(sys.argv[1:])}`; "
        f"{KEYS:,} keys, values of {len(VALUE)} bytes. Medians over the alternations. Every system "
        "fsyncs each write on a majority before it answers; all reads are linearizable.\n\n"
        f"## Goals\n\n{goals(samples)}\n## All rows\n\n{table(samples)}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rows, no repetition"
    )
    parser.add_argument("--overdb-alone", action="store_true", help="no other store")
    parser.add_argument("--seconds", type=float, help="for each row")
    parser.add_argument("--alternations", type=int, help="how often all systems take their turn")
    parser.add_argument("--json", type=Path, default=Path("bench/results.json"))
    parser.add_argument("--markdown", type=Path, default=Path("bench/RESULTS.md"))
    parser.add_argument("--least", type=float, default=0, help="puts/s wanted at 256 callers")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.rows = QUICK_ROWS if quick else ROWS
    arguments.seconds = arguments.seconds or (0.7 if quick else 2.0)
    arguments.warm_up = 0.2 if quick else 0.5
    arguments.alternations = arguments.alternations or (1 if quick else 5)
    return arguments


def main() -> int:
    """Run, write the results; exit code 1 when --least is given and not reached."""
    arguments = parsed()
    with (
        tempfile.TemporaryDirectory(prefix="overdb-bench-", dir=Path.cwd()) as directory,
        contextlib.ExitStack() as stack,
    ):
        targets = serve(stack, Path(directory), arguments.overdb_alone)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                samples = runner.run(run(targets, arguments))
        finally:
            for pid in {p for target in targets for p in target.pids.values()}:
                os.kill(pid, signal.SIGCONT)
    rows = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(s).items()}
        for s in samples
    ]
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    arguments.markdown.write_text(report(samples))
    print(f"\n{goals(samples)}\n{table(samples)}")
    reached = max((s.rate for s in chosen(samples, "overdb", "put", 256)), default=math.nan)
    if reached < arguments.least:
        print(f"{reached:,.0f} puts/s from 256 callers: {arguments.least:,.0f} wanted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
