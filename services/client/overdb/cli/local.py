"""``overdb local``: a whole cluster as processes of this machine, for development and for a first look."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from overdb.cli._local_layout import DEFAULT_PORT, Layout, Refused
from overdb.cli._local_supervisor import Supervisor, say
from overdb_common import parent

_EXIT_REFUSED = 5
_NODES_WITH_FAULTS_MAX = 20  # the proxy listens once for every ordered pair of them
_SERVERS_NEED = (
    "grpc_health",
    "prometheus_client",
    "pydantic_settings",
    "rocksdict",
    "structlog",
    "uvloop",
)


def register(app: typer.Typer) -> None:
    """Add the command to the CLI."""
    app.command("local")(local)


def local(
    groups: Annotated[int, typer.Option(min=1, max=64, help="Raft groups (shards).")] = 2,
    replicas: Annotated[int, typer.Option(min=1, max=7, help="Replicas of each group.")] = 3,
    routers: Annotated[int, typer.Option(min=1, max=10, help="Routers.")] = 1,
    base_port: Annotated[
        int, typer.Option(min=1024, max=65_000, help="Port of the first router; nodes use +10 on.")
    ] = DEFAULT_PORT,
    data: Annotated[Path, typer.Option(help="Directory that keeps everything.")] = Path(
        "overdb-data"
    ),
    faults: Annotated[
        bool,
        typer.Option(
            "--faults", help="For overdb torture: nodes with faults to switch on, a proxy between."
        ),
    ] = False,
    replace: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Node OLD lost its disk: start NEW there, to join."),
    ] = None,
) -> None:
    """Run a cluster of local processes until Ctrl-C; the data survives, and a dead process comes back."""
    missing = [name for name in _SERVERS_NEED if importlib.util.find_spec(name) is None]
    if missing:
        say(
            f"overdb local: the servers need what is not installed ({', '.join(missing)}); "
            "pip install 'overdb[cli,server]'",
            error=True,
        )
        raise typer.Exit(_EXIT_REFUSED)
    if faults and importlib.util.find_spec("overdb_torture") is None:
        say("overdb local: --faults needs more: pip install 'overdb[torture]'", error=True)
        raise typer.Exit(_EXIT_REFUSED)
    if faults and groups * replicas > _NODES_WITH_FAULTS_MAX:
        say(
            f"overdb local: --faults: {groups} x {replicas} nodes, at most {_NODES_WITH_FAULTS_MAX}",
            error=True,
        )
        raise typer.Exit(_EXIT_REFUSED)
    layout = Layout(data.absolute(), groups, replicas, routers, base_port, faults=faults)
    try:
        layout = layout.remembered().replace(replace or [])
    except Refused as refused:
        say(f"overdb local: {refused}", error=True)
        raise typer.Exit(_EXIT_REFUSED) from None
    sys.exit(run(layout))


def run(layout: Layout) -> int:
    """Run the cluster until it is told to stop and return the exit code; says what is wrong."""
    try:
        parent.end_with_parent()
        with layout.claim(say):
            _forget_faults(layout)
            return asyncio.run(Supervisor(layout).run())
    except Refused as refused:
        say(f"overdb local: {refused}", error=True)
        return _EXIT_REFUSED


def _forget_faults(layout: Layout) -> None:
    """What an earlier run had gone wrong does not go wrong again."""
    shutil.rmtree(layout.faults_directory, ignore_errors=True)
    if layout.faults:
        layout.faults_directory.mkdir()
