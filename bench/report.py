"""What a run says of itself: machine, versions, goals, all rows; Markdown."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bench import etcd_cluster, python_stores
from bench.figures import CALLS_FOR_P99, CALLS_FOR_P999, Sample, processes, table, ways
from bench.goals import goals
from bench.targets import Target
from tests.integration.machine_speed import python_seconds

_HERE = Path(__file__).parent
_LEASES = (
    " overdb-leases is a cluster of its own, called straight, with OVERDB_READ_LEASES=true: a leader then "
    "answers reads without asking another replica. That is an option, off by default: it trusts that the "
    "clocks of two machines run at nearly the same rate."
)


def machine() -> str:
    """One line: processor, cores, memory, kernel, Python and what the calls go through."""
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(": ")[2]
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{p} {metadata.version(p)}" for p in ("grpcio", "protobuf", "uvloop"))
    return (
        f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, kernel {platform.release()}, "
        f"Python {platform.python_version()} (a loop of it {_loop_seconds():.2f} s), {packages}, "
        f"fdatasync {_fdatasync_ms():.2f} ms{_commit()}"
    )


def _loop_seconds() -> float:
    """The best of three runs of a loop of ordinary Python: machines and builds of Python differ."""
    return min(python_seconds(1_000_000) for _ in range(3))


def _fdatasync_ms() -> float:
    """The median of 200 on a file that has its size, below the present directory."""
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        times = []
        for number in range(200):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 200, number * 200)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _commit() -> str:
    """Which program this is, where git knows."""
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=_HERE).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f", commit {told.strip()}"


def now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def absent(targets: Sequence[Target]) -> list[str]:
    """How to install what was not measured."""
    known = {t.data for t in targets}
    lines = {
        "etcd": etcd_cluster.INSTALL,
        "pysyncobj": python_stores.INSTALL.format(python_stores.PYSYNCOBJ),
        "oxidedb": python_stores.INSTALL.format(python_stores.OXIDEDB),
    }
    return [line for name, line in lines.items() if name not in known]


def markdown(
    samples: Sequence[Sample],
    targets: Sequence[Target],
    loaded: dict[str, int],
    command: str,
    plots: Sequence[Path],
) -> str:
    """The whole page."""
    left_out = "".join(f"\n{line}\n" for line in absent(targets))
    systems = "\n".join(
        f"| {t.name} | {t.release} | {len(t.pids)} | {loaded.get(t.name, 0):,} | {t.promise} |"
        for t in targets
    )
    pictures = "".join(
        f"![{plot.stem}]({plot.parent.name}/{plot.name})\n\n"
        for plot in plots
        if plot.suffix == ".png"
    )
    return (
        f"# Results\n\n{now()}; {machine()}. `{command}`\n\n"
        "All systems and the client run on these cores; those that are not measured at the moment are "
        "stopped. One client process calls all of them, in a closed loop: OverDB by its own client, which "
        "puts what waits into one message (overdb: through the router; overdb-direct: straight to the "
        "leaders where one group answers), etcd by a unary call each; its gRPC polls as OverDB's nodes do."
        f"{_LEASES if any(t.name == 'overdb-leases' for t in targets) else ''}\n\n"
        "A turn begins with the reads, and etcd's nodes are restarted before each of theirs: a read of etcd "
        "3.4 copies a buffer that large writes leave grown, and behind batches of 100 it does half as many. "
        "The ratios are of a client that puts what waits into one message over one that does not: etcd sent "
        "100 puts a call (batch-100) is far nearer. PySyncObj and OxideDB know neither scans nor "
        "transactions; PySyncObj answers a put at its next period of 0.1 s; OxideDB is loaded for 15 s "
        "only, and not asked with more than "
        "256 callers (for one hot key 16): with more its calls take many seconds.\n\n"
        "Figures are medians over the alternations, ratios are taken within each; goals show the median, and "
        "least and greatest in brackets. "
        f"A p99 is shown where each window had {CALLS_FOR_P99:,} calls, a p99.9 where it had "
        f"{CALLS_FOR_P999:,}. Memory is that of the servers, and of the largest one. A window ends with a "
        "whole number of rounds, a round being as many calls as there are callers. Where not even one round "
        "ended within the warm-up (*), all calls count, from the first one to the end of the last of those "
        "that began within the time. Errors are counted over all alternations by their name; "
        "ResourceExhausted says in brackets whose bound was full: the client's own, the stream's in the "
        "router, or a group's; Refused is a put that OxideDB says it has not done. Bytes are what the disk "
        "was given, by everybody.\n\n"
        "| system | release | server processes | keys loaded | an answered write; a read |\n"
        f"|---|---|---|---|---|\n{systems}\n{left_out}\n"
        f"## Goals\n\n{goals(samples)}\n{pictures}## All rows\n\n{table(samples)}\n"
        "## Which way the calls took\n\n"
        "The router's own count of the requests it answered during the rows, against the client's count of "
        "its calls; both with the warm-up. Scans and transactions over two groups always go through the "
        "router.\n\n"
        f"{ways(samples)}\n"
        f"## Every process\n\n{processes(samples)}"
    )
