"""Handing leadership over: dissertation 3.10."""

from __future__ import annotations

import pytest

from overdb_node.raft.errors import NotLeader
from overdb_node.raft.messages import Answer, TimeoutNow, VoteAnswer, VoteRequest
from overdb_node.raft.output import EventKind, Role
from tests.paper.helpers import (
    TICKS_MIN,
    Node,
    acknowledge,
    all_of,
    append,
    committed_leader,
    only,
    vote_request,
)


def hand_over(node: Node, to: int) -> list[TimeoutNow]:
    node.raft.transfer(to)
    node.pump()
    return all_of(node.taken(), TimeoutNow, to)


def test_a_target_that_has_everything_is_told_at_once() -> None:
    """Dissertation 3.10: "the prior leader sends a TimeoutNow request to the target server"."""
    assert hand_over(committed_leader("1.1"), 3) == [TimeoutNow(2)]


def test_a_target_that_lags_is_brought_up_first() -> None:
    """Dissertation 3.10: "the prior leader fully updates the target server's log to match its own"."""
    node = committed_leader("1.1")
    node.propose(b"x")
    assert hand_over(node, 3) == []
    assert all_of(acknowledge(node, 2), TimeoutNow) == []
    assert all_of(acknowledge(node, 3), TimeoutNow, 3) == [TimeoutNow(2)]


def test_no_proposals_while_it_is_handed_over() -> None:
    """Dissertation 3.10: "the prior leader stops accepting new client requests"."""
    node = committed_leader("1.1")
    hand_over(node, 3)
    with pytest.raises(NotLeader):
        node.propose(b"x")


def test_the_target_campaigns_at_once_without_asking_first() -> None:
    """Dissertation 3.10: as if its election timer had run out; no PreVote, or it would lose."""
    node = Node("1.1")
    node.receive(2, append(1, 2))
    requests = all_of(node.receive_settled(2, TimeoutNow(1)), VoteRequest)
    assert requests == [vote_request(2, "1.1", transfer=True)] * 2
    assert node.raft.role is Role.CANDIDATE


def test_voters_grant_although_they_hear_from_the_leader() -> None:
    """Dissertation 4.2.3: a flag says that the leader asked for this election."""
    node = Node("1.1")
    node.receive(2, append(1, 2))
    assert only(node.receive_settled(3, vote_request(2, "1.1", transfer=True)), VoteAnswer).granted


def test_the_old_leader_grants_too() -> None:
    """Dissertation 3.10 with paper 5.1."""
    node = committed_leader("1.1")
    hand_over(node, 3)
    answer = only(node.receive_settled(3, vote_request(3, "2.2", transfer=True)), VoteAnswer)
    assert (answer, node.raft.role) == (VoteAnswer(3, True), Role.FOLLOWER)


def test_a_request_of_an_older_term_starts_no_campaign() -> None:
    """FAULTS 4: a late TimeoutNow."""
    node = Node("1.1", term=5)
    assert node.receive_settled(2, TimeoutNow(4)) == []
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 5)


def test_a_duplicated_request_starts_one_campaign() -> None:
    """FAULTS 9: no new term for a duplicate."""
    node = Node("1.1")
    for _ in range(2):
        node.receive_settled(2, TimeoutNow(1))
    assert node.raft.term == 2


def test_a_lost_request_is_sent_again() -> None:
    """Dissertation 3.10: until it is done or given up."""
    node = committed_leader("1.1")
    assert hand_over(node, 3)
    node.tick(2)
    assert all_of(acknowledge(node, 3, round_=node.raft.leading.round), TimeoutNow, 3)


def test_an_interrupted_transfer_leaves_a_leader_that_takes_writes() -> None:
    """Dissertation 3.10: "if leadership transfer does not complete after about an election timeout,
    the prior leader aborts the transfer and resumes accepting client requests". FAULTS 10."""
    node = committed_leader("1.1")
    node.propose(b"x")
    hand_over(node, 3)
    for _ in range(TICKS_MIN):
        node.tick()
        acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.raft.is_leader
    assert node.happened(EventKind.TRANSFER_ABANDONED)
    node.propose(b"y")
    node.fsync()
    acknowledge(node, 2)
    assert node.state.index == 4


def test_a_given_up_transfer_is_not_taken_up_by_a_late_answer() -> None:
    """FAULTS 10: afterwards the target's answers mean nothing special."""
    node = committed_leader("1.1")
    node.propose(b"x")
    hand_over(node, 3)
    for _ in range(TICKS_MIN):
        node.tick()
        acknowledge(node, 2, round_=node.raft.leading.round)
    sent = acknowledge(node, 3, round_=node.raft.leading.round)
    assert all_of(sent, TimeoutNow) == []


def test_a_leader_that_leads_again_takes_writes() -> None:
    """FAULTS 10: the transfer does not outlive the term in which it was asked for."""
    node = committed_leader("1.1")
    hand_over(node, 3)
    node.receive_settled(3, append(3, 3))
    node.receive_settled(3, TimeoutNow(3))
    node.receive_settled(2, VoteAnswer(4, True))
    node.propose(b"x")
    assert node.raft.log.last_index == 4


def test_only_to_another_voter() -> None:
    """Dissertation 3.10 and PROTOCOL 3.4: only voters lead."""
    node = committed_leader("1.1")
    for to in (1, 9):
        with pytest.raises(ValueError, match=f"replica {to} is no other voter"):
            node.raft.transfer(to)
    with pytest.raises(NotLeader):
        Node("1.1").raft.transfer(2)


def test_reads_go_on_meanwhile() -> None:
    """Dissertation 3.10 stops writes only."""
    node = committed_leader("1.1")
    hand_over(node, 3)
    node.read("r")
    node.receive(2, Answer(2, node.raft.leading.round, True, 2, 2))
    assert node.answered == [("r", 2)]
