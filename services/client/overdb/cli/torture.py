"""``overdb torture``: real faults on a real cluster under load, and a verdict on what it answered."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

HELP = """Hurt a cluster under load, record what clients saw, and judge it.

\b
Without --data, --compose or --endpoint it starts a cluster of its own, with
every fault possible, and stops it at the end.
Faults: kill, pause, partition, disk-full, slow-fsync, clock-jump, restart-all,
hostile, restore, suspend, lag, settings, all, none. In the nodes themselves
(disk-full, slow-fsync, clock-jump, hostile, suspend, settings) and between them
(partition) only on a cluster that was started for it: `make run FAULTS=1` or
`overdb local --faults`; restore and lag only on one of its own. On containers:
kill, pause, partition, restart-all.
Workloads: registers, lists, bank, counters.

\b
Exit codes:
  0  all right: load enough, every fault carried out, no anomaly
  1  an anomaly was found, or the cluster did not recover
  2  wrong usage, or there is no cluster that could be tortured
  3  no anomaly, but too little happened to mean anything
"""


def register(app: typer.Typer) -> None:
    """Add the command to the CLI."""
    app.command("torture", help=HELP)(torture)


def torture(
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long the load runs.")] = 60,
    workload: Annotated[
        str, typer.Option(metavar="NAME,...", help="What clients do.")
    ] = "registers,lists,bank,counters",
    faults: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="Default: all that are possible.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Decides which faults, when, and what clients do.")
    ] = None,
    report: Annotated[
        Path, typer.Option(metavar="DIR", help="Gets verdict.txt, index.html, history.jsonl.")
    ] = Path("torture-report"),
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Clients at once.")] = 12,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Steps a second of each client, at most.")
    ] = 25.0,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Data directory of a local cluster.")
    ] = None,
    compose: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Docker Compose project (overdb).")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="Routers: load only, no faults.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where a cluster of its own keeps data, and leaves it."),
    ] = None,
) -> None:
    missing = [name for name in ("overdb_torture",) if importlib.util.find_spec(name) is None]
    if missing:
        print("overdb: torture needs more: pip install 'overdb[torture]'", file=sys.stderr)
        raise typer.Exit(2)
    from overdb_torture.command import Choice, run  # noqa: PLC0415  # only this command needs it

    choice = Choice(
        seconds, workload, faults, seed, report, clients, rate, data, compose, endpoint, directory
    )
    raise typer.Exit(run(choice))
