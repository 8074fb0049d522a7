"""Who leads: the paper's 5.1, 5.2 and 5.4.1, with PROTOCOL 1.0."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from overdb_node.raft.messages import (
    Answer,
    Append,
    ChunkAnswer,
    Message,
    Offer,
    OfferAnswer,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from overdb_node.raft.output import Role
from overdb_node.raft.types import HardState
from tests.paper.helpers import (
    TICKS_MAX,
    TICKS_MIN,
    Node,
    all_of,
    append,
    candidate,
    leader,
    only,
    show_disk,
    vote_request,
)

NEWER: list[Message] = [
    VoteRequest(7, 9, 6),
    VoteAnswer(7, False),
    Append(7, 1, 1, (), 0),
    Answer(7, 1, False, 0, 0),
    Offer(7, 1, 9, 6, 10),
    OfferAnswer(7, 1, 0, 0, 0),
    ChunkAnswer(7, 1, 0, 0, 0),
]


ROLES: dict[Role, Callable[..., Node]] = {
    Role.FOLLOWER: Node,
    Role.CANDIDATE: candidate,
    Role.LEADER: leader,
}


def kind_of(message: Message) -> str:
    return type(message).__name__


# --- terms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", NEWER, ids=kind_of)
@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_a_newer_term_makes_everyone_a_follower_of_it(role: Role, message: Message) -> None:
    """Paper 5.1: "If a candidate or leader discovers that its term is out of date, it immediately
    reverts to follower state." PROTOCOL 1.2: "Newer: adopt it"."""
    node = ROLES[role]("1.1 1.2")
    if isinstance(message, VoteRequest):  # a leader that works adopts only what it asked for
        message = VoteRequest(7, 9, 6, transfer=True)
    if role is Role.FOLLOWER and isinstance(message, Answer | OfferAnswer | ChunkAnswer):
        assert node.raft.role is role
    node.receive_settled(3, message)
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 7)
    assert node.disk.hard_state.term == 7


@pytest.mark.parametrize(
    "message",
    [
        VoteRequest(1, 99, 1),
        VoteAnswer(1, True),
        Append(1, 9, 1, (), 2),
        Answer(1, 9, True, 2, 1),
        Offer(1, 9, 9, 1, 10),
        OfferAnswer(1, 9, 0, 0, 0),
        ChunkAnswer(1, 9, 0, 0, 5),
        TimeoutNow(1),
    ],
    ids=kind_of,
)
@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_a_message_of_an_older_term_changes_nothing(role: Role, message: Message) -> None:
    """Paper 5.1: "If a server receives a request with a stale term number, it rejects the request."
    FAULTS 4."""
    node = ROLES[role]("1.1 1.2 3.3", term=5)
    raft = node.raft

    def look() -> object:
        return (raft.term, raft.vote, raft.role, raft.commit_index, raft.agreed, node.log)

    before = look()
    node.receive_settled(3, message)
    assert look() == before


@pytest.mark.parametrize("message", [Append(1, 9, 1, (), 2), Offer(1, 9, 9, 1, 10)], ids=kind_of)
def test_an_old_leader_is_told_the_term_and_nothing_else(message: Message) -> None:
    """PROTOCOL 1.2: "Append, offer or chunk with an older term: answer my term and nothing else"."""
    node = Node("1.1 1.2 3.3", term=5, commit=2)
    answer = only(node.receive(3, message), Answer)
    assert answer == Answer(5, 0, False, 0, 0)


def test_a_newer_term_does_not_race_the_leaders_append() -> None:
    """FAULTS 7: entries proposed in the same turn in which the leader learns of a newer term must not
    leave under that term, nor be counted in it."""
    node = leader("1.1")
    node.taken()
    node.raft.propose([b"x"])
    node.raft.receive(3, VoteAnswer(9, False))
    node.pump()
    assert all_of(node.fsync(), Append) == []
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 9)
    for follower in (2, 3):
        node.receive_settled(follower, Answer(9, 1, True, 3, 2))
    assert node.raft.commit_index == 0


@pytest.mark.parametrize("term", [1, 5, 9])
def test_an_answer_is_never_answered(term: int) -> None:
    """PROTOCOL 1.2: "an Answer is never answered"."""
    node = Node("1.1", term=5)
    assert node.receive_settled(2, Answer(term, 1, False, 0, 0)) == []


# --- votes ------------------------------------------------------------------------------------------


def test_one_vote_a_term_first_come_first_served() -> None:
    """Paper 5.2: "Each server will vote for at most one candidate in a given term, on a
    first-come-first-served basis"."""
    node = Node("1.1")
    assert only(node.receive_settled(2, vote_request(2, "1.1")), VoteAnswer).granted
    assert not only(node.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted


def test_a_vote_is_on_disk_before_it_is_said() -> None:
    """PROTOCOL 1.0, paper figure 2 ("updated on stable storage before responding"). FAULTS 1."""
    node = Node("1.1")
    assert node.receive(2, vote_request(2, "1.1")) == []
    assert node.disk.hard_state.vote == 0
    assert node.disk_step()
    assert node.disk.hard_state == HardState(2, 2, 0)
    assert node.taken() == []
    assert node.fsync() == [(2, VoteAnswer(2, True))]


def test_killed_right_after_granting_it_gives_no_second_vote() -> None:
    """FAULTS 1: the vote in this term survives the restart."""
    node = Node("1.1")
    node.receive_settled(2, vote_request(2, "1.1"))
    again = node.restarted()
    assert not only(again.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted
    assert (again.raft.term, again.raft.vote) == (2, 2)


def test_killed_between_fsync_and_the_answer_it_keeps_the_vote() -> None:
    """STYLE 1: a crash between the fsync and what waits for it; PROTOCOL 1.0."""
    node = Node("1.1")
    node.receive(2, vote_request(2, "1.1"))
    assert node.disk_step()
    assert node.taken() == []
    again = node.restarted()
    assert not only(again.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted


def test_killed_before_the_fsync_nothing_was_said_and_the_vote_is_free() -> None:
    """PROTOCOL 1.0: what no message depends on may be lost."""
    node = Node("1.1")
    assert node.receive(2, vote_request(2, "1.1")) == []
    again = node.restarted()
    assert only(again.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted


def test_a_candidate_that_steps_down_in_its_own_term_keeps_its_vote() -> None:
    """FAULTS 2: its vote for itself stays, or there are two leaders in the term."""
    node = candidate("1.1")
    node.receive_settled(2, append(2, 2))
    assert (node.raft.role, node.raft.vote) == (Role.FOLLOWER, 1)
    for _ in range(TICKS_MIN):
        node.raft.tick()
    assert not only(node.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted


def test_a_lost_election_keeps_the_vote() -> None:
    """FAULTS 2, for a candidate that most have refused."""
    node = candidate("1.1")
    node.receive(2, VoteAnswer(2, False))
    node.receive(3, VoteAnswer(2, False))
    assert (node.raft.role, node.raft.vote) == (Role.FOLLOWER, 1)
    assert not only(node.receive_settled(3, vote_request(2, "1.1")), VoteAnswer).granted


def test_a_duplicated_vote_counts_once() -> None:
    """FAULTS 3: with 5 voters, one's vote three times is no majority."""
    node = candidate("1.1", count=5)
    for _ in range(3):
        node.receive(2, VoteAnswer(2, True))
    assert node.raft.role is Role.CANDIDATE
    node.receive(3, VoteAnswer(2, True))
    assert node.raft.is_leader


def test_a_duplicated_refusal_counts_once() -> None:
    """FAULTS 3, the other way: one's refusal three times does not lose an election of 5."""
    node = candidate("1.1", count=5)
    for _ in range(3):
        node.receive(2, VoteAnswer(2, False))
    assert node.raft.role is Role.CANDIDATE


def test_the_same_candidate_is_granted_again() -> None:
    """Paper figure 2 ("votedFor is null or candidateId"). FAULTS 5: its first answer was lost."""
    node = Node("1.1")
    for _ in range(2):
        assert only(node.receive_settled(2, vote_request(2, "1.1")), VoteAnswer).granted
    again = node.restarted()
    assert only(again.receive_settled(2, vote_request(2, "1.1")), VoteAnswer).granted


@pytest.mark.parametrize(
    ("mine", "last", "granted"),
    [
        ("1.1 1.2", "1.2", True),
        ("1.1 1.2", "1.3", True),
        ("1.1 1.2", "1.1", False),
        ("1.1 1.2", "2.1", True),
        ("1.1 2.2", "1.9", False),
        ("S2.5", "2.5", True),
        ("S2.5", "2.4", False),
        ("S2.5", "1.9", False),
        ("", "0.0", True),
    ],
)
def test_only_a_candidate_with_an_up_to_date_log_gets_the_vote(
    mine: str, last: str, granted: bool
) -> None:
    """Paper 5.4.1: the later last term wins; with equal terms the longer log does."""
    node = Node(mine)
    answer = only(node.receive_settled(2, vote_request(9, last)), VoteAnswer)
    assert answer == VoteAnswer(9, granted)
    assert node.raft.term == 9


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_a_majority_of_all_voters_elects_and_no_less(count: int) -> None:
    """Paper 5.2: "votes from a majority of the servers in the full cluster"."""
    node = candidate("1.1", count=count)
    votes = 1
    for voter in range(2, count + 1):
        assert node.raft.is_leader is (2 * votes > count)
        if not node.raft.is_leader:
            node.receive(voter, VoteAnswer(2, True))
            votes += 1
    assert node.raft.is_leader


def test_the_own_vote_counts_only_once_it_is_on_disk() -> None:
    """PROTOCOL 1.0 (!): vote and term are fsynced "before they are counted locally"."""
    alone = Node("1.1", count=1)
    for _ in range(TICKS_MAX):
        alone.raft.tick()
        alone.pump()
    assert alone.raft.term > 1
    assert not alone.raft.is_leader
    alone.fsync()
    assert alone.raft.is_leader


def test_with_the_own_vote_in_flight_one_other_of_three_is_no_majority() -> None:
    """PROTOCOL 1.0 (!), as in the search: the candidate loses its vote and gives it again."""
    node = Node("1.1")
    node.receive(2, TimeoutNow(1))
    node.receive(2, VoteAnswer(2, True))
    assert node.raft.role is Role.CANDIDATE
    node.fsync()
    assert node.raft.is_leader


def test_a_vote_request_leaves_after_the_fsync_of_term_vote_and_log() -> None:
    """PROTOCOL 1.0: "RequestVote [...] included, not only answers"."""
    node = Node("1.1")
    node.receive(2, append(1, 1, "1.1 1.2"))
    assert node.receive(2, TimeoutNow(1)) == []
    while not node.sent:
        assert node.disk_step()
    assert all_of(node.sent, VoteRequest) == [vote_request(2, "1.2", transfer=True)] * 2
    assert node.disk.hard_state == HardState(2, 1, 0)
    assert show_disk(node.disk) == "1.1 1.2"


def test_votes_of_another_term_do_not_count() -> None:
    """Paper 5.1 and 5.2: a late vote of an older campaign."""
    node = candidate("1.1", term=4)
    assert node.raft.term == 5
    for voter in (2, 3):
        node.receive(voter, VoteAnswer(4, True))
        node.receive(voter, VoteAnswer(5, True, pre=True))
    assert node.raft.role is Role.CANDIDATE


def test_a_vote_from_before_a_restart_does_not_count() -> None:
    """FAULTS 4, over a restart: the campaign is forgotten, its term and vote are not."""
    again = candidate("1.1").restarted()
    for voter in (2, 3):
        again.receive(voter, VoteAnswer(2, True))
    assert (again.raft.role, again.raft.term, again.raft.vote) == (Role.FOLLOWER, 2, 1)


def test_a_candidate_follows_the_leader_of_its_own_term() -> None:
    """Paper 5.2: an Append of a leader whose term is at least as large: it "returns to follower"."""
    node = candidate("1.1")
    node.receive_settled(2, append(2, 2))
    assert (node.raft.role, node.raft.leader_id, node.raft.term) == (Role.FOLLOWER, 2, 2)


def test_a_candidate_ignores_the_leader_of_an_older_term() -> None:
    """Paper 5.2: "the candidate rejects the RPC and continues in candidate state"."""
    node = candidate("1.1")
    assert only(node.receive(2, append(1, 2)), Answer).term == 2
    assert node.raft.role is Role.CANDIDATE


def test_a_vote_restarts_the_timer_and_a_refusal_does_not() -> None:
    """Paper figure 2, rules for followers: "without [...] granting vote to candidate"."""
    for last, quiet in (("1.1", True), ("0.0", False)):
        node = Node("1.1")
        timeout = node.raft.election._timeout
        node.tick(timeout - 1)
        node.receive_settled(2, vote_request(2, last))
        node.tick(1)
        assert (node.raft.role is Role.FOLLOWER) is quiet


@pytest.mark.parametrize(
    "message", [append(1, 2), append(1, 9), append(1, 9, "1.9"), Offer(1, 1, 9, 1, 10)]
)
def test_a_leaders_message_restarts_the_timer_also_when_it_is_refused(message: Message) -> None:
    """PROTOCOL 1.2: "the election timer restarts, also when what follows refuses"."""
    node = Node("1.1")
    timeout = node.raft.election._timeout
    for _ in range(5):
        node.tick(timeout - 1)
        node.receive_settled(2, message)
    assert node.raft.role is Role.FOLLOWER


def test_an_old_leaders_message_does_not_restart_the_timer() -> None:
    """Paper 5.2: only the *current* leader's Append does; FAULTS 4."""
    node = Node("1.1", term=5)
    for _ in range(TICKS_MAX):
        node.raft.tick()
        node.receive_settled(2, append(1, 2))
    assert node.raft.role is Role.PRE_CANDIDATE


def test_timeouts_are_random_within_their_bounds() -> None:
    """Paper 5.2: "election timeouts are chosen randomly from a fixed interval". FAULTS 9."""
    node, seen = Node("1.1"), set()
    for _ in range(200):
        node.raft.election.restart_timer()
        seen.add(node.raft.election._timeout)
    assert min(seen) == TICKS_MIN
    assert max(seen) == TICKS_MAX


def test_a_split_vote_is_followed_by_another_campaign_in_a_newer_term() -> None:
    """Paper 5.2: each candidate "will time out and start a new election". FAULTS 9."""
    node = candidate("1.1")
    node.receive(2, VoteAnswer(2, False))
    for _ in range(TICKS_MAX):
        node.tick()
        if node.raft.role is Role.PRE_CANDIDATE:
            break
    node.receive_settled(3, VoteAnswer(3, True, pre=True))
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 3)


def test_nobody_takes_messages_of_a_second_leader_of_a_term() -> None:
    """Paper 5.2, election safety: it cannot happen, so one of the two is forged. FAULTS 6, 87."""
    node = leader("1.1")
    node.receive(3, append(2, 1))
    assert node.raft.is_leader
    assert "replica 1 leads" in node.raft.refused[3]
    follower = Node("1.1")
    follower.receive_settled(2, append(2, 2))
    for message in (append(2, 1, "2.1 2.2"), Offer(2, 1, 5, 1, 100), TimeoutNow(2)):
        assert follower.receive(3, message) == []
    assert (follower.raft.leader_id, follower.raft.term, follower.log) == (2, 2, "1.1")
    assert "replica 2 leads" in follower.raft.refused[3]
