"""What a run says of itself: machine, versions, goals, all rows; Markdown."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bench.figures import Sample, goals, processes, table, ways
from bench.targets import Target

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
        f"Python {platform.python_version()}, {packages}"
    )


def now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def markdown(
    samples: Sequence[Sample],
    targets: Sequence[Target],
    loaded: dict[str, int],
    command: str,
    plots: Sequence[Path],
) -> str:
    """The whole page."""
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
        "etcd-spread is asked for reads and single puts only: all its writes go to the leader in the end. "
        "PySyncObj and OxideDB know neither scans nor transactions, and OxideDB is not asked with more than "
        "256 callers (for one hot key 16): with more its calls take many seconds.\n\n"
        "Figures are medians over the alternations, ratios are taken within each. A window ends with a "
        "whole number of rounds, a round being as many calls as there are callers. Where not even one round "
        "ended within the warm-up (*), all calls count, from the first one to the end of the last of those "
        "that began within the time. Errors are counted over all alternations by their name; "
        "ResourceExhausted says in brackets whose bound was full: the client's own, the stream's in the "
        "router, or a group's; Refused is a put that OxideDB says it has not done. Bytes are what the disk "
        "was given, by everybody.\n\n"
        "| system | release | server processes | keys loaded | an answered write; a read |\n"
        f"|---|---|---|---|---|\n{systems}\n\n"
        f"## Goals\n\n{goals(samples)}\n{pictures}## All rows\n\n{table(samples)}\n"
        "## Which way the calls took\n\n"
        "The router's own count of the requests it answered during the rows, against the client's count of "
        "its calls; both with the warm-up. Scans and transactions over two groups always go through the "
        "router.\n\n"
        f"{ways(samples)}\n"
        f"## Every process\n\n{processes(samples)}"
    )
