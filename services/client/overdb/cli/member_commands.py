"""``overdb members``: who is in which group, and changes of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from overdb.cli.session import Session
    from overdb.status import GroupMembers

Group = Annotated[int, typer.Option("--group", "-g", metavar="G", min=0, help="Of this group.")]
Id = Annotated[int, typer.Option("--id", metavar="N", min=1, help="Id of the replica.")]

HELP = """Print the members of each group, or change them.

\b
Replace a replica whose disk was lost (say 3 of group 0, by 7):
  overdb members add --group 0 --id 7 --address HOST:PORT
  (start it: OVERDB_NODE_ID=7, OVERDB_JOIN=true, an empty directory)
  overdb members remove --group 0 --id 3
  overdb members promote --group 0 --id 7 --wait
Before stopping a machine: overdb members transfer --group 0
All of these may be repeated: what is done is not done twice.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


@app.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    group: Annotated[
        int | None, typer.Option("--group", "-g", metavar="G", min=0, help="Only of this group.")
    ] = None,
) -> int:
    if context.invoked_subcommand is not None:
        return 0
    session: Session = context.obj
    with session.progress(f"members of {session.endpoints}"):
        groups = session.client.members(group)
    _show(session, groups)
    return 0


@app.command("add")
def _add(
    context: typer.Context,
    group: Group,
    replica_id: Id,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the others reach it.")],
) -> int:
    """Take in a new replica as a learner, under an id that was never used.

    It follows, and counts for nothing until it is promoted. It need not run.
    """
    session: Session = context.obj
    with session.progress(f"adding replica {replica_id}"):
        members = session.client.add_member(group, replica_id, address)
    _show(session, (members,))
    return 0


@app.command("promote")
def _promote(
    context: typer.Context,
    group: Group,
    replica_id: Id,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has caught up, an hour at most.")
    ] = False,
) -> int:
    """Make a learner that has caught up a voter."""
    session: Session = context.obj
    timeout = 3600.0 if wait else None
    with session.progress(f"promoting replica {replica_id}"):
        members = session.client.promote_member(group, replica_id, wait=wait, timeout=timeout)
    _show(session, (members,))
    return 0


@app.command("remove")
def _remove(
    context: typer.Context,
    group: Group,
    replica_id: Id,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although the rest may have no majority that answers."),
    ] = False,
) -> int:
    """Take a replica out for good. Its id is never used again."""
    session: Session = context.obj
    with session.progress(f"removing replica {replica_id}"):
        members = session.client.remove_member(group, replica_id, force=force)
    _show(session, (members,))
    return 0


@app.command("transfer")
def _transfer(
    context: typer.Context,
    group: Group,
    to: Annotated[
        int, typer.Option(metavar="N", min=0, help="To this voter; 0: that lags least.")
    ] = 0,
) -> int:
    """Hand leadership of a group to another voter; prints who leads then."""
    session: Session = context.obj
    with session.progress(f"handing over group {group}"):
        leader = session.client.transfer_leadership(group, to)
    if session.console.json_lines:
        session.console.json({"group": group, "leader_id": leader})
    else:
        session.console.line(f"replica {leader} leads group {group}")
    return 0


def _show(session: Session, groups: tuple[GroupMembers, ...]) -> None:
    console = session.console
    rows = [
        (str(group.group), str(member.id), member.address, _role(member.voter, member.leader))
        for group in groups
        for member in group.members
    ]
    if console.json_lines:
        for group, replica, address, role in rows:
            fields = {"group": int(group), "id": int(replica), "address": address, "role": role}
            console.json(fields)
    elif console.terminal:
        console.table(("group", "replica", "address", "role"), rows, right=("group", "replica"))
    else:
        console.lines("\t".join(row) for row in rows)


def _role(voter: bool, leader: bool) -> str:
    return "leader" if leader else "voter" if voter else "learner"
