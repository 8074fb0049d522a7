"""A replica whose state is wrong leads no more; its log is sound, so it votes and stores on."""

from __future__ import annotations

import pytest

from overdb_node.raft.election import LAST_RESORT_TIMEOUTS
from overdb_node.raft.errors import NotLeader
from overdb_node.raft.membership import Remove
from overdb_node.raft.messages import Answer, Message, TimeoutNow, VoteAnswer, VoteRequest
from overdb_node.raft.output import Role
from tests.paper.helpers import (
    TICKS_MAX,
    TICKS_MIN,
    Node,
    acknowledge,
    all_of,
    append,
    candidate,
    committed_leader,
    only,
    pre_candidate,
    vote_request,
)
from tests.paper.host import encode_configuration


def test_a_leader_serves_no_more_and_hands_over() -> None:
    """It keeps its office until then: its log may have what the others lack."""
    node = committed_leader("1.1")
    node.read("r")
    node.raft.stand_aside()
    node.pump()
    assert (node.raft.is_leader, node.raft.serves) == (True, False)
    assert node.failed == ["r"]
    with pytest.raises(NotLeader):
        node.propose(b"x")
    with pytest.raises(NotLeader):
        node.read("s")
    with pytest.raises(NotLeader):
        node.raft.change_members(Remove(3), encode_configuration)
    node.raft.transfer(2)
    node.pump()
    assert all_of(node.taken() + acknowledge(node, 2), TimeoutNow, 2)


def test_it_campaigns_only_where_nobody_else_is_elected() -> None:
    """Two timeouts are for the others; it is not told to either."""
    node = Node("1.1")
    node.raft.stand_aside()
    assert all_of(node.tick(2 * TICKS_MIN), VoteRequest) == []
    assert all_of(node.receive_settled(2, TimeoutNow(1)), VoteRequest) == []
    for _ in range(20):
        assert all_of(node.tick(TICKS_MIN), VoteRequest) == []
        node.receive_settled(2, append(1, 1, "1.1"))
    assert all_of(node.tick(LAST_RESORT_TIMEOUTS * TICKS_MAX), VoteRequest)


def test_a_log_that_only_it_has_costs_no_majority_its_leader() -> None:
    """Entry 3 is committed on it and on one that died: it must lead for as long as the third one lacks it."""
    nodes = {
        2: Node("1.1 1.2", replica_id=2, commit=2),
        3: Node("1.1 1.2 1.3", replica_id=3, commit=3),
    }
    odd = nodes[3].raft
    odd.stand_aside()
    wire: list[tuple[int, int, Message]] = []
    for _ in range(40 * TICKS_MAX):
        for replica_id, node in nodes.items():
            wire += [(replica_id, to, message) for to, message in node.tick()]
        while wire:
            sender, to, message = wire.pop(0)
            if to in nodes:
                wire += [(to, on, m) for on, m in nodes[to].receive_settled(sender, message)]
        if odd.is_leader and not odd.leading.transfer_to:
            odd.transfer(2)  # what the host does
            wire += [(3, to, message) for to, message in nodes[3].taken()]
        if nodes[2].raft.is_leader and nodes[2].raft.leading.committed_in_term:
            break
    assert nodes[2].raft.is_leader
    assert nodes[2].raft.commit_index > 3
    assert not odd.may_lead


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
