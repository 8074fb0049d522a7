"""The commands that ask about the cluster."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from overdb.cli.console import as_json, as_text, size_text
from overdb.cli.session import ExitCode, Session

if TYPE_CHECKING:
    from overdb.status import ClusterStatus, GroupStatus, ReplicaStatus


def status(session: Session) -> ExitCode:
    """Show groups, leaders and replicas; UNAVAILABLE when some group has no leader."""
    with session.progress(f"status of {session.endpoints}"):
        answer = session.client.status()
    if session.console.json_lines:
        _status_json(session, answer)
    elif session.console.terminal:
        _status_table(session, answer)
    else:
        _status_lines(session, answer)
    return ExitCode.OK if answer.serving else ExitCode.UNAVAILABLE


def _status_json(session: Session, answer: ClusterStatus) -> None:
    fields = asdict(answer)
    for group, told in zip(answer.groups, fields["groups"], strict=True):
        for replica, shown in zip(group.replicas, told["replicas"], strict=True):
            shown["role"] = replica.role.name.lower()
            shown["lag"] = group.lag(replica) if replica.reachable else None
    session.console.json(fields)


def _headline(answer: ClusterStatus) -> str:
    without = [str(group.group) for group in answer.groups if not group.leader_id]
    state = "serving" if answer.serving else "NOT serving"
    reason = f": no leader in group {', '.join(without)}" if without else ""
    level = f"level {answer.level}, router {answer.router_version}"
    return f"cluster {answer.cluster}, {level}: {state}{reason}"


def _status_table(session: Session, answer: ClusterStatus) -> None:
    console = session.console
    console.line(_headline(answer))
    if answer.router_problem:
        console.line(f"router: {answer.router_problem}")
    for group in answer.groups:
        leader = f"leader {group.leader_id}" if group.leader_id else "no leader"
        console.line("")
        console.line(f"group {group.group}: {leader}, term {group.term}, {group.slots} slots")
        console.table(
            ("replica", "address", "role", "lag", "applied", "log", "data"),
            [_row(group, replica) for replica in group.replicas],
            right=("replica", "lag", "applied", "log", "data"),
        )
        if group.level_waits_for:
            console.line(f"level {group.level} is not raised: {group.level_waits_for}")
        for replica in group.replicas:
            if problem := _problem(replica):
                console.line(f"replica {replica.id}: {problem}")


def _problem(replica: ReplicaStatus) -> str:
    """What is wrong with it, which is too long for a column."""
    return replica.problem or ("" if replica.reachable else "does not answer")


def _row(group: GroupStatus, replica: ReplicaStatus) -> tuple[str, ...]:
    if not replica.reachable:
        return (str(replica.id), replica.address, "-", "-", "-", "-", "-")
    return (
        str(replica.id),
        replica.address,
        replica.role.name.lower(),
        str(group.lag(replica)),
        str(replica.applied_index),
        size_text(replica.log_bytes),
        size_text(replica.data_bytes),
    )


def _status_lines(session: Session, answer: ClusterStatus) -> None:
    lines = [_headline(answer)]
    if answer.router_problem:
        lines.append(f"router\t{answer.router_problem}")
    for group in answer.groups:
        for replica in group.replicas:
            role = replica.role.name.lower() if replica.reachable else "unreachable"
            lag = str(group.lag(replica)) if replica.reachable else "-"
            fields = (f"group {group.group}", f"replica {replica.id}", replica.address, role)
            lines.append("\t".join((*fields, f"lag {lag}", replica.problem)).rstrip())
    session.console.lines(lines)


def locate(session: Session, key: str) -> ExitCode:
    """Show where a key lives."""
    name = os.fsencode(key)
    with session.progress(f"locate {as_text(name)}"):
        found = session.client.locate(name)
    console = session.console
    known = found.leader_id > 0
    if console.json_lines:
        console.json(
            {
                "key": as_json(name),
                "tag": as_json(found.tag),
                "slot": found.slot,
                "group": found.group,
                "leader_id": found.leader_id if known else None,
                "leader_address": found.leader_address if known else None,
            }
        )
        return ExitCode.OK
    leader = f"{found.leader_id} at {found.leader_address}" if known else "not known"
    fields = (
        ("key", as_text(name)),
        ("tag", as_text(found.tag)),
        ("slot", str(found.slot)),
        ("group", str(found.group)),
        ("leader", leader),
    )
    console.lines(
        f"{label:<8}{text}" if console.terminal else f"{label}\t{text}" for label, text in fields
    )
    return ExitCode.OK
