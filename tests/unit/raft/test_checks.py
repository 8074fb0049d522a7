"""Each check of the random schedules catches a violation made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from overdb_node.raft.messages import Answer, Append, VoteAnswer, VoteRequest
from overdb_node.raft.types import HardState
from tests.paper.helpers import Node, disk_of, entries
from tests.paper.host import Disk, State
from tests.unit.raft.checks import Checks


def three() -> tuple[Checks, dict[int, Disk]]:
    disks = {i: disk_of("1.1 1.2") for i in (1, 2, 3)}
    for disk in disks.values():
        disk.hard_state = HardState(1, 2, 0)
    return Checks(disks), disks


def two_votes(checks: Checks, disks: dict[int, Disk]) -> None:
    checks.on_sent(1, 2, VoteAnswer(1, True))
    disks[1].hard_state = HardState(1, 3, 0)
    checks.on_sent(1, 3, VoteAnswer(1, True))


def two_leaders(checks: Checks, _: dict[int, Disk]) -> None:
    checks.on_sent(1, 2, Append(1, 0, 1, (), 0))
    checks.on_sent(2, 3, Append(1, 0, 1, (), 0))


def unwritten_term(checks: Checks, _: dict[int, Disk]) -> None:
    checks.on_sent(1, 2, Answer(2, 0, False, 0, 0))


def unwritten_vote(checks: Checks, _: dict[int, Disk]) -> None:
    checks.on_sent(1, 2, VoteRequest(1, 2, 1))


def unwritten_entry(checks: Checks, _: dict[int, Disk]) -> None:
    checks.on_sent(1, 2, Answer(1, 0, True, 3, 1))


def not_on_a_majority(checks: Checks, disks: dict[int, Disk]) -> None:
    disks[2].entries.clear()
    disks[3].entries.clear()
    entry = entries("1.1")[0]
    checks.on_applied(Node("1.1"), entry, State().after(entry))


def two_values(checks: Checks, _: dict[int, Disk]) -> None:
    node = Node("1.1")
    for entry in (entries("1.1")[0], entries("2.1")[0]):
        checks.on_applied(node, entry, State().after(entry))


def two_states(checks: Checks, _: dict[int, Disk]) -> None:
    node, entry = Node("1.1"), entries("1.1")[0]
    checks.on_applied(node, entry, State(1, 1))
    checks.on_applied(node, entry, State(1, 2))


def stale_read(checks: Checks, _: dict[int, Disk]) -> None:
    checks.on_read(5, 4)


def out_of_bounds(checks: Checks, _: dict[int, Disk]) -> None:
    node = Node("1.1")
    node.raft.commit_index = 2
    checks.on_step(node)


def commit_falls(checks: Checks, _: dict[int, Disk]) -> None:
    node = Node("1.1 1.2", commit=2)
    checks.on_step(node)
    node.raft.commit_index = node.raft.applied = 1
    checks.on_step(node)


def term_falls(checks: Checks, _: dict[int, Disk]) -> None:
    node = Node("1.1", term=3)
    checks.on_step(node)
    node.disk.hard_state = HardState(2, 0, 0)
    checks.on_step(node)


def logs_differ(checks: Checks, _: dict[int, Disk]) -> None:
    checks.on_step(Node("1.1 2.2"))
    checks.on_step(Node("2.1 2.2"))


def leader_misses(checks: Checks, _: dict[int, Disk]) -> None:
    entry = entries("1.1")[0]
    checks.on_applied(Node("1.1"), entry, State().after(entry))
    from tests.paper.helpers import leader

    checks.on_step(leader("", term=4))


@pytest.mark.parametrize(
    ("violate", "message"),
    [
        (two_votes, "voted twice in term 1"),
        (two_leaders, "two leaders in term 1"),
        (unwritten_term, "unwritten term"),
        (unwritten_vote, "unwritten vote"),
        (unwritten_entry, "acknowledged what is not on its disk"),
        (not_on_a_majority, r"only \[1\] have it on disk"),
        (two_values, "applied"),
        (two_states, "state at 1 differs"),
        (stale_read, "a stale read"),
        (out_of_bounds, "bounds of 1.0"),
        (commit_falls, "the commit index fell"),
        (term_falls, "the term fell"),
        (logs_differ, "is not the same everywhere"),
        (leader_misses, "misses the committed entry 1"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_violation_made_by_hand_is_caught(
    violate: Callable[[Checks, dict[int, Disk]], None], message: str
) -> None:
    checks, disks = three()
    with pytest.raises(AssertionError, match=message):
        violate(checks, disks)
