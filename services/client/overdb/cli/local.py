"""``overdb local``: a whole cluster as processes of this machine, for development and for a first look."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from overdb.cli._local_layout import DEFAULT_PORT, Layout, Refused
from overdb.cli._local_supervisor import Supervisor, say

_EXIT_REFUSED = 5
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
    layout = Layout(data.absolute(), groups, replicas, routers, base_port)
    try:
        layout = layout.remembered().replace(replace or [])
    except Refused as refused:
        say(f"overdb local: {refused}", error=True)
        raise typer.Exit(_EXIT_REFUSED) from None
    sys.exit(run(layout))


def run(layout: Layout) -> int:
    """Run the cluster until it is told to stop and return the exit code; says what is wrong."""
    try:
        with layout.claim(say):
            return asyncio.run(Supervisor(layout).run())
    except Refused as refused:
        say(f"overdb local: {refused}", error=True)
        return _EXIT_REFUSED
