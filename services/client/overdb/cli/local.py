"""``overdb local``: a whole cluster as processes of this machine, for development and for a first look."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from overdb.cli._local_layout import Layout, Refused
from overdb.cli._local_supervisor import Supervisor


def register(app: typer.Typer) -> None:
    """Add the command to the CLI."""
    app.command("local")(local)


def local(
    groups: Annotated[int, typer.Option(min=1, max=64, help="Raft groups (shards).")] = 2,
    replicas: Annotated[int, typer.Option(min=1, max=7, help="Replicas of each group.")] = 3,
    routers: Annotated[int, typer.Option(min=1, max=10, help="Routers.")] = 1,
    base_port: Annotated[
        int, typer.Option(min=1024, max=65_000, help="Port of the first router; nodes use +10 on.")
    ] = 7400,
    data: Annotated[Path, typer.Option(help="Directory that keeps everything.")] = Path(
        "overdb-data"
    ),
) -> None:
    """Run a cluster of local processes until Ctrl-C; the data survives, and a dead process comes back."""
    layout = Layout(data.absolute(), groups, replicas, routers, base_port)
    try:
        import overdb_node  # noqa: F401, PLC0415  # only asked whether it is there
    except ImportError:
        typer.echo("overdb: the servers are not installed: pip install 'overdb[server]'", err=True)
        raise typer.Exit(5) from None
    try:
        with layout.claim():
            sys.exit(asyncio.run(Supervisor(layout).run()))
    except Refused as refused:
        typer.echo(f"overdb local: {refused}", err=True)
        raise typer.Exit(5) from None
