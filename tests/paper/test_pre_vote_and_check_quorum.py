"""PreVote (dissertation 9.6, 4.2.3) and CheckQuorum (dissertation 6.2)."""

from __future__ import annotations

from overdb_node.raft.messages import (
    Answer,
    Append,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from overdb_node.raft.output import EventKind, Role
from tests.paper.helpers import (
    TICKS_MAX,
    TICKS_MIN,
    Node,
    acknowledge,
    all_of,
    append,
    disk_of,
    leader,
    only,
    pre_candidate,
    vote_request,
)


def test_a_timeout_first_asks_and_changes_nothing() -> None:
    """Dissertation 9.6: "a candidate only increments its term if it first learns from a majority
    of the cluster that they would be willing to grant [...] their votes"."""
    node = pre_candidate("1.1")
    assert (node.raft.term, node.raft.vote) == (1, 0)
    assert all_of(node.taken(), VoteRequest) == [vote_request(2, "1.1", pre=True)] * 2
    assert not node.disk_queue


def test_an_isolated_replica_keeps_its_term_for_ever() -> None:
    """Dissertation 9.6. FAULTS 8: it must not come back with a term that deposes the leader."""
    node = Node("1.1")
    node.tick(50 * TICKS_MAX)
    node.fsync()
    assert (node.raft.term, node.disk.hard_state.term) == (1, 1)


def test_a_majority_of_willing_voters_starts_the_campaign() -> None:
    """Dissertation 9.6."""
    node = pre_candidate("1.1", count=5)
    node.receive_settled(2, VoteAnswer(2, True, pre=True))
    node.receive_settled(2, VoteAnswer(2, True, pre=True))
    assert node.raft.role is Role.PRE_CANDIDATE
    node.receive_settled(3, VoteAnswer(2, True, pre=True))
    assert (node.raft.role, node.raft.term, node.raft.vote) == (Role.CANDIDATE, 2, 1)


def test_saying_that_it_would_vote_binds_nobody() -> None:
    """Dissertation 9.6: a PreVote is a question; term, vote and timer stay."""
    node = Node("1.1")
    timeout = node.raft.election._timeout
    node.tick(timeout - 1)
    for asker in (2, 3):
        answer = only(node.receive(asker, vote_request(2, "1.1", pre=True)), VoteAnswer)
        assert answer == VoteAnswer(2, True, pre=True)
    assert (node.raft.term, node.raft.vote) == (1, 0)
    node.tick()
    assert node.raft.role is Role.PRE_CANDIDATE


def test_nobody_is_willing_for_a_log_that_is_behind() -> None:
    """Dissertation 9.6: "if the candidate's log is sufficiently up to date"."""
    node = Node("1.1 1.2")
    answer = only(node.receive(2, vote_request(2, "1.1", pre=True)), VoteAnswer)
    assert answer == VoteAnswer(1, False, pre=True)


def test_who_hears_from_a_leader_is_not_willing_and_keeps_the_term() -> None:
    """Dissertation 4.2.3 and 9.6; FAULTS 8."""
    node = Node("1.1")
    node.receive(2, append(1, 2))
    answer = only(node.receive(3, vote_request(2, "1.9", pre=True)), VoteAnswer)
    assert not answer.granted
    assert node.receive_settled(3, vote_request(8, "1.9")) == []
    assert node.raft.term == 1


def test_who_has_not_heard_for_an_election_timeout_is_willing() -> None:
    """Dissertation 4.2.3: "within the minimum election timeout" of hearing from a leader."""
    node = Node("1.1")
    node.receive(2, append(1, 2))
    node.tick(TICKS_MIN - 1)
    assert not only(node.receive(3, vote_request(2, "1.1", pre=True)), VoteAnswer).granted
    node.tick()
    assert only(node.receive(3, vote_request(2, "1.1", pre=True)), VoteAnswer).granted


def test_a_leader_that_works_is_not_deposed_by_a_request() -> None:
    """Dissertation 4.2.3; FAULTS 8."""
    node = leader("1.1")
    assert not all_of(node.receive_settled(3, vote_request(8, "1.9")), VoteAnswer)
    answer = only(node.receive_settled(3, vote_request(8, "1.9", pre=True)), VoteAnswer)
    assert not answer.granted
    assert (node.raft.is_leader, node.raft.term) == (True, 2)


def test_a_refused_asker_with_an_old_term_learns_the_new_one() -> None:
    """Paper 5.1, so that a replica that comes back with a longer log can be elected at all."""
    node = Node("1.1", term=6)
    answer = only(node.receive(2, vote_request(3, "1.1", pre=True)), VoteAnswer)
    assert answer == VoteAnswer(6, False, pre=True)
    asker = pre_candidate("1.1")
    asker.receive_settled(2, answer)
    assert (asker.raft.role, asker.raft.term) == (Role.FOLLOWER, 6)


def test_a_willingness_of_another_term_does_not_count() -> None:
    """Dissertation 9.6 with 5.1: a late answer to an older question."""
    node = pre_candidate("1.1", term=4)
    for voter in (2, 3):
        node.receive_settled(voter, VoteAnswer(4, True, pre=True))
        node.receive_settled(voter, VoteAnswer(6, True, pre=True))
    assert node.raft.role is Role.PRE_CANDIDATE


def test_a_leaders_message_ends_the_asking() -> None:
    """Dissertation 9.6: the leader came back before the answers did."""
    node = pre_candidate("1.1")
    node.receive(2, append(1, 2))
    node.receive_settled(3, VoteAnswer(2, True, pre=True))
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 1)


# --- CheckQuorum ------------------------------------------------------------------------------------


def test_a_leader_without_a_quorum_steps_down() -> None:
    """Dissertation 6.2: "a leader steps down if an election timeout elapses without a successful
    round of heartbeats to a majority". FAULTS 6, 8."""
    node = leader("1.1")
    node.tick(2 * TICKS_MIN)
    assert (node.raft.role, node.raft.term, node.raft.vote) == (Role.FOLLOWER, 2, 1)
    assert node.happened(EventKind.STEPPED_DOWN)


def test_a_leader_that_a_quorum_answers_stays() -> None:
    """Dissertation 6.2: of five, two others are enough, and one is not."""
    for answering, stays in (([2, 3], True), ([2], False)):
        node = leader("1.1", count=5)
        for _ in range(5 * TICKS_MIN):
            node.tick()
            for follower in answering:
                if node.raft.is_leader:
                    acknowledge(node, follower, 1, node.raft.leading.round)
        assert node.raft.is_leader is stays


def test_refusals_too_show_that_a_follower_is_there() -> None:
    """Dissertation 6.2: being behind is not being away."""
    node = leader("1.1 1.2")
    for _ in range(3 * TICKS_MIN):
        node.tick()
        node.receive(2, Answer(2, node.raft.leading.round, False, 0, 0))
    assert node.raft.is_leader


def test_a_leader_sends_heartbeats_in_idle_times() -> None:
    """Paper 5.2: "periodic heartbeats [...] to all followers in order to maintain their authority"."""
    node = leader("1.1")
    node.taken()
    beats = node.tick(node.raft.settings.heartbeat_ticks)
    assert [to for to, m in beats if isinstance(m, Append) and not m.entries] == [2, 3]


def test_a_stopped_campaign_leaves_no_pending_own_vote() -> None:
    """PROTOCOL 1.0: a fsync that ends after the campaign must not elect anybody."""
    node = Node("1.1", count=1, disk=disk_of("1.1", 3))
    node.receive(2, TimeoutNow(node.raft.term))
    node.receive(3, append(node.raft.term, 2))
    node.receive(2, VoteAnswer(node.raft.term, True))
    node.fsync()
    assert node.raft.role is Role.FOLLOWER
