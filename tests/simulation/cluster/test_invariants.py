"""Invariants on steps whose verdict is known, where no broken build shows them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from overdb_node.raft.log import Log
from overdb_node.raft.messages import VoteAnswer, VoteRequest
from overdb_node.raft.output import Role
from overdb_node.raft.types import Configuration, Entry, EntryKind, Snapshot
from tests.simulation.cluster.invariants.base import Look, Seen, Violation
from tests.simulation.cluster.invariants.durable_votes import DurableVotes
from tests.simulation.cluster.invariants.leader_completeness import LeaderCompleteness
from tests.simulation.cluster.invariants.log_matching import LogMatching


def _log(*entries: tuple[int, bytes]) -> Log:
    made = [
        Entry(index, term, EntryKind.COMMANDS, payload)
        for index, (term, payload) in enumerate(entries, 1)
    ]
    nobody = Configuration(())
    return Log(Snapshot(0, 0, 0, ()), made, lambda _: nobody)


def _seen(
    name: str,
    log: Log,
    term: int,
    before: Look | None = None,
    *,
    commit: int = 0,
    leads: bool = False,
) -> Seen:
    last, last_term = log.last_index, log.last_term
    role = Role.LEADER if leads else Role.FOLLOWER
    now = Look(term, role, 0, commit, 0, last, last, 0, last, last_term, False, True)
    raft = SimpleNamespace(log=log, is_leader=leads, term=term)
    replica = SimpleNamespace(raft=raft)
    return Seen(name, 0, int(name[-1]) + 1, 1, cast("Any", replica), before, now)


def test_logs_are_looked_at_down_to_the_cut() -> None:
    invariant = LogMatching()
    invariant.check(_seen("s0r0", _log((1, b"a"), (2, b"b"), (2, b"c")), 2))
    log = _log((1, b"a"), (1, b"x"), (1, b"y"))
    follower = _seen("s0r1", log, 2)
    invariant.check(follower)
    # The last entry is the known one, and the one below it is not: an entry of term 2 as nobody has it.
    log.cut(2)
    log.append([Entry(2, 2, EntryKind.COMMANDS, b"z"), Entry(3, 2, EntryKind.COMMANDS, b"c")])
    with pytest.raises(Violation, match="entry 2 of term 2"):
        invariant.check(_seen("s0r1", log, 2, follower.now))


def test_a_late_leader_need_not_have_what_later_terms_committed() -> None:
    invariant = LeaderCompleteness()
    new = _log((1, b"a"), (3, b"b"), (3, b"c"))
    invariant.check(_seen("s0r0", new, 1, commit=1))
    invariant.check(_seen("s0r0", new, 3, commit=3, leads=True))
    invariant.check(_seen("s0r1", _log((1, b"a"), (2, b"x")), 2, leads=True))
    with pytest.raises(Violation, match="leads term 4"):
        invariant.check(_seen("s0r1", _log((1, b"a"), (2, b"x")), 4, leads=True))


def test_a_candidate_votes_for_itself_alone() -> None:
    invariant = DurableVotes()
    invariant.on_packet(1, 2, [VoteRequest(5, 0, 0), VoteRequest(9, 0, 0, pre=True)])
    invariant.on_packet(1, 3, [VoteAnswer(4, True), VoteAnswer(5, False)])
    with pytest.raises(Violation, match="vote of term 5 to 1 and to 3"):
        invariant.on_packet(1, 3, [VoteAnswer(5, True)])


@pytest.mark.parametrize("term", [4, 5])
def test_a_replica_comes_back_with_the_term_and_the_vote_that_it_told(term: int) -> None:
    invariant = DurableVotes()
    invariant.on_packet(1, 2, [VoteRequest(5, 0, 0)])
    with pytest.raises(Violation, match=f"started in term {term} with its vote for 0"):
        invariant.check(_seen("s0r0", _log(), term))
