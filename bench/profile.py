"""Where the time of a put or a get goes, hop by hop: ``python -m bench.profile``, into bench/PROFILE.md.

CPU of each process is from its clock; how it divides, by library, from samples of ``perf`` (Debian:
linux-perf), and whose the Python of it is from those of ``py-spy``, in a window of its own.
Per hop it is what one operation costs where it passes: a replica sees only the operations of its group.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from bench import interpreter, report
from bench.__main__ import load, until_answering
from bench.figures import Sample
from bench.load import Disk, measure
from bench.stores import OverDB
from bench.workloads import GROUPS, ITEMS, Row, keys_of, operations, parsed_rows
from tests.integration.cluster import LocalCluster

PAGE = Path(__file__).parent / "PROFILE.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
INSTALL = "perf is missing, the division by library is left out: apt-get install linux-perf"
_PARTS = {
    "[kernel.kallsyms]": "kernel",
    "libpython": "Python",
    "python3": "Python",
    "cygrpc": "gRPC",
    "_message": "protobuf",
    "rocksdict": "RocksDB",
    "loop.cpython": "uvloop",
}
ROWS_SHOWN = "put:1,put:256,put:1024,get:256,batch-100:16,txn-two-groups:256"
OF_ALL_GROUPS = frozenset({"txn-two-groups", "scan-1000"})
_PYTHON_SECONDS = 3.0
_WARM_UP_SECONDS = 0.5
Call = Callable[[int], Awaitable[None]]
_COLUMNS = ("Python", "kernel", "gRPC", "protobuf", "RocksDB", "uvloop", "other")


def part_of(library: str) -> str:
    """The column that a library's samples count for."""
    return next((part for name, part in _PARTS.items() if library.startswith(name)), "other")


def shares(perf_report: str, process_of: dict[int, int]) -> dict[int, dict[str, float]]:
    """Of each process, how the samples of all its threads divide; they add up to 1.

    ``perf_report``: lines ``12.34%;<tid>:<command>;<library>`` (what perf calls pid is the thread).
    ``process_of``: pid by tid.
    """
    found: dict[int, dict[str, float]] = collections.defaultdict(
        lambda: collections.defaultdict(float)
    )
    for line in perf_report.splitlines():
        fields = [field.strip() for field in line.split(";")]
        if len(fields) != 3 or not fields[0].endswith("%"):
            continue
        tid = int(fields[1].partition(":")[0])
        found[process_of.get(tid, tid)][part_of(fields[2])] += float(fields[0].rstrip("%"))
    return {
        pid: {part: value / sum(parts.values()) for part, value in parts.items()}
        for pid, parts in found.items()
    }


def hops(
    sample: Sample, pids: dict[str, int], leaders: set[str], divided: dict[int, dict[str, float]]
) -> list[str]:
    """Table lines: client, router, leader, follower; microseconds of CPU for one item that passes there."""
    names = {
        "client": ["client"],
        "router": [name for name in pids if name.startswith("router")],
        "leader": sorted(leaders),
        "follower": [n for n in pids if n.startswith("node") and n not in leaders],
    }
    items = max(1, sample.calls * sample.items_per_call)
    lines = []
    for hop, members in names.items():
        # A replica sees the calls of its group, or all of them where each is for all groups.
        shared = hop in ("leader", "follower") and sample.workload not in OF_ALL_GROUPS
        seen = items / GROUPS if shared else items
        spent = [sample.cpu_seconds[name] * 1e6 / seen for name in members]
        total = sum(spent) / len(spent)
        cells = []
        for column in _COLUMNS:
            found = [divided[pids[name]] for name in members if pids[name] in divided]
            parts = [one.get(column, 0.0) for one in found]
            cells.append(f"{total * sum(parts) / len(parts):.1f}" if parts else "-")
        lines.append(f"| {hop} | {total:.1f} | " + " | ".join(cells) + " |")
    return lines


def _perf(pids: dict[str, int], output: Path, seconds: float) -> subprocess.Popen[bytes] | None:
    if shutil.which("perf") is None:
        return None
    processes = ",".join(map(str, pids.values()))
    command = ["perf", "record", "-q", "-F", "499", "-o", str(output), "-p", processes]
    delayed = ["--delay", str(round(_WARM_UP_SECONDS * 1000))]
    return subprocess.Popen([*command, *delayed, "--", "sleep", str(seconds + _WARM_UP_SECONDS)])


def _threads(pids: dict[str, int]) -> dict[int, int]:
    """The process of each thread."""
    return {
        int(task.name): pid for pid in pids.values() for task in Path(f"/proc/{pid}/task").iterdir()
    }


def _divided(output: Path, process_of: dict[int, int]) -> dict[int, dict[str, float]]:
    if not output.exists():
        return {}
    sort = ["--no-children", "--sort", "pid,dso", "-F", "overhead,pid,dso", "-t", ";"]
    command = ["perf", "report", "-i", str(output), "--stdio", *sort]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return shares(told, process_of)


async def profile(cluster: LocalCluster, rows: list[Row], seconds: float, keys: int) -> list[str]:
    """Measure all rows, through the router and straight to the leaders; return Markdown."""
    lines: list[str] = []
    known = keys_of(keys)
    for way, direct in (("through the router", False), ("straight to the leaders", True)):
        store = OverDB(cluster.endpoints, direct=direct)
        await until_answering(store, known[:8])
        if not direct:
            await load(store, known, 300)
        calls = operations(store, known)
        for row in rows:
            lines += await _profile_row(cluster, row, way, calls[row[0]], seconds)
        await store.close()
    return lines


async def _profile_row(
    cluster: LocalCluster, row: Row, way: str, call: Call, seconds: float
) -> list[str]:
    workload, callers = row
    pids = {process.name: process.pid for process in cluster.processes} | {"client": os.getpid()}
    leaders = {f"node-{cluster.leader(group)}" for group in range(GROUPS)}
    samples = cluster.directory / f"{workload}-{callers}-{way.split(maxsplit=1)[0]}.perf"
    recording = _perf(pids, samples, seconds)
    named, disk = ("overdb", workload, callers, 0), Disk(cluster.directory)
    sample = await measure(
        named, ITEMS.get(workload, 1), call, pids, disk, (seconds, _WARM_UP_SECONDS)
    )
    if recording is not None:
        await asyncio.get_running_loop().run_in_executor(None, recording.wait)
    owners = await _python(cluster, pids, leaders, row, call)
    return [
        f"### {workload}, {callers} callers, {way}: {sample.rate:,.0f}/s, p50 {sample.p50_ms:.2f} ms, "
        f"{sample.server_us_per_item:.0f} us of server CPU",
        "",
        "| hop | CPU us | " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * (len(_COLUMNS) + 2),
        *hops(sample, pids, leaders, _divided(samples, _threads(pids))),
        "",
        *owners,
    ]


async def _python(
    cluster: LocalCluster, pids: dict[str, int], leaders: set[str], row: Row, call: Call
) -> list[str]:
    """Whose the Python is, one process of each hop, in a window behind the row's own."""
    if interpreter.program() is None:
        return []
    leader = min(leaders)
    follower = next(n for n in pids if n.startswith("node") and n not in leaders)
    hops_of = {"client": "client", "router": "router-0", "leader": leader, "follower": follower}
    outputs = {hop: cluster.directory / f"{hop}.spy" for hop in hops_of}
    running = [
        interpreter.record(pids[name], outputs[hop], _PYTHON_SECONDS)
        for hop, name in hops_of.items()
    ]
    seconds = (_PYTHON_SECONDS, _WARM_UP_SECONDS)
    await measure(("overdb", *row, 0), 1, call, pids, Disk(cluster.directory), seconds)
    loop = asyncio.get_running_loop()
    for sampler in running:
        await loop.run_in_executor(None, sampler.wait)
    read = ((hop, output) for hop, output in outputs.items() if output.exists())
    found = {hop: interpreter.division(output.read_text()) for hop, output in read}
    for output in outputs.values():
        output.unlink(missing_ok=True)
    divisions = {hop: divided for hop, divided in found.items() if divided is not None}
    return [*interpreter.table(divisions), ""] if divisions else []


def main(argv: list[str]) -> int:
    """Measure, and put the tables into the page, between its marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--rows", default=ROWS_SHOWN)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    try:
        rows = parsed_rows(arguments.rows)
    except ValueError as error:
        parser.error(str(error))
    if shutil.which("perf") is None:
        print(INSTALL)
    if interpreter.program() is None:
        print(interpreter.INSTALL)
    with (
        tempfile.TemporaryDirectory(prefix="overdb-profile-", dir=Path.cwd()) as directory,
        LocalCluster(Path(directory), groups=GROUPS) as cluster,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        lines = runner.run(profile(cluster, rows, arguments.seconds, arguments.keys))
    command = f"`python -m bench.profile {' '.join(argv)}".rstrip() + "`"
    measured = "\n".join([f"{report.now()}; {report.machine()}. {command}", "", *lines])
    print(measured)
    page = (
        arguments.page.read_text() if arguments.page.exists() else f"# Profile\n\n{BEGIN}\n{END}\n"
    )
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.page.write_text(f"{before}{BEGIN}\n{measured}{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
