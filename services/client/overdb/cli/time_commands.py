"""``overdb time``: the clocks of the machines, and a group's time that is wrong."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from overdb.cli.session import Session

HELP = """Print how far each machine's clock is off, or repair a group's time.

\b
A group's time is the middle one of its replicas' clocks, so one clock that is
wrong is only to be set right (NTP). When most clocks of a group were ahead, its
time is too, and status says so: set the clocks, look here that they agree, then
  overdb time repair --group 0
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
_QUESTION = (
    "This sets the time of group {group} back to its machines' clocks. Ids and old versions that\n"
    "the wrong time had expire stay expired, and new requests may be refused for a minute.\n"
    "Are the clocks right now (overdb time)?"
)


@app.callback(invoke_without_command=True)
def _list(context: typer.Context) -> int:
    if context.invoked_subcommand is not None:
        return 0
    session: Session = context.obj
    with session.progress(f"clocks of {session.endpoints}"):
        status = session.client.status()
    replicas = [
        (group.group, replica)
        for group in status.groups
        for replica in group.replicas
        if replica.reachable
    ]
    console = session.console
    if console.json_lines:
        console.json({"router": True, "clock_offset_us": status.router_clock_offset_us})
        for group, replica in replicas:
            fields = {"group": group, "id": replica.id, "clock_offset_us": replica.clock_offset_us}
            console.json({**fields, "problem": replica.problem})
        return 0
    rows = [("-", "router", _seconds(status.router_clock_offset_us), status.router_problem)]
    rows += [
        (str(group), str(replica.id), _seconds(replica.clock_offset_us), replica.problem)
        for group, replica in replicas
    ]
    if console.terminal:
        console.table(("group", "replica", "clock", "problem"), rows, right=("clock",))
    else:
        console.lines("\t".join(row).rstrip() for row in rows)
    return 0


def _seconds(offset_us: int) -> str:
    return f"{offset_us / 1e6:+.3f} s"


@app.command("repair")
def _repair(
    context: typer.Context,
    group: Annotated[int, typer.Option("--group", "-g", metavar="G", min=0, help="This group.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> int:
    """Set a group's time that is ahead of its machines' clocks back to them."""
    session: Session = context.obj
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("give --yes where nobody can be asked", param_hint="--yes")
        typer.confirm(_QUESTION.format(group=group), abort=True, err=True)
    with session.progress(f"repairing the time of group {group}"):
        repaired = session.client.repair_time(group)
    if session.console.json_lines:
        fields = {"before_us": repaired.before_us, "after_us": repaired.after_us}
        session.console.json({"group": group, **fields})
    else:
        session.console.line(
            f"group {group}: its time was {_time(repaired.before_us)} and is {_time(repaired.after_us)}"
        )
    return 0


def _time(time_us: int) -> str:
    """Returns a time as people read it; only seconds where no calendar reaches."""
    try:
        moment = datetime.datetime.fromtimestamp(time_us // 1_000_000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_us // 1_000_000} s after 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
