"""A replica whose state is wrong leads no more; its log is sound, so it votes and stores on."""

from __future__ import annotations

import pytest

from overdb_node.raft.errors import NotLeader
from overdb_node.raft.messages import Answer, TimeoutNow, VoteAnswer, VoteRequest
from overdb_node.raft.output import EventKind, Role
from tests.paper.helpers import (
    TICKS_MAX,
    Node,
    all_of,
    append,
    candidate,
    committed_leader,
    only,
    pre_candidate,
    vote_request,
)


def test_a_leader_steps_down_and_its_reads_fail() -> None:
    node = committed_leader("1.1")
    node.read("r")
    node.raft.stand_aside()
    node.pump()
    assert node.raft.role is Role.FOLLOWER
    assert node.happened(EventKind.STEPPED_DOWN)
    with pytest.raises(NotLeader):
        node.propose(b"x")


def test_it_never_campaigns() -> None:
    """Neither by its timer nor when it is told to."""
    node = Node("1.1")
    node.raft.stand_aside()
    assert all_of(node.tick(5 * TICKS_MAX), VoteRequest) == []
    assert all_of(node.receive_settled(2, TimeoutNow(1)), VoteRequest) == []
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize("make", [pre_candidate, candidate])
def test_a_campaign_that_is_under_way_is_not_won(make: type[Node]) -> None:
    node = make("1.1")
    term, pre = node.raft.term, node.raft.role is Role.PRE_CANDIDATE
    node.raft.stand_aside()
    for voter in (2, 3):
        node.receive_settled(voter, VoteAnswer(term + pre, True, pre))
    assert node.raft.role is Role.FOLLOWER


def test_it_votes_and_stores() -> None:
    node = Node("1.1")
    node.raft.stand_aside()
    node.tick(TICKS_MAX)
    assert only(node.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted
    answer = only(node.receive_settled(3, append(2, 1, "1.1 2.2", commit=1)), Answer)
    assert (answer.ok, answer.agreed) == (True, 2)


def test_a_transfer_to_it_is_abandoned_and_the_leader_goes_on() -> None:
    node = committed_leader("1.1")
    node.raft.may_lead = True  # of itself nothing has changed: only the target stands aside
    other = Node("1.1", replica_id=2)
    other.raft.stand_aside()
    node.raft.transfer(2)
    node.pump()
    (told,) = all_of(node.taken(), TimeoutNow, 2)
    assert all_of(other.receive_settled(1, told), VoteRequest) == []
    assert node.raft.is_leader


def test_it_leads_again_when_it_may() -> None:
    node = Node("1.1")
    node.raft.stand_aside()
    node.tick(TICKS_MAX)
    node.raft.may_lead = True
    assert all_of(node.tick(TICKS_MAX), VoteRequest)
