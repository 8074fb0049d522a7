"""Linearizable reads by ReadIndex: PROTOCOL 1.3, dissertation 6.4, the paper's section 8."""

from __future__ import annotations

import pytest

from overdb_node.raft.errors import NotLeader
from overdb_node.raft.messages import Answer, Append, ChunkAnswer, OfferAnswer
from tests.paper.helpers import (
    TICKS_MIN,
    Node,
    Sent,
    acknowledge,
    all_of,
    append,
    candidate,
    committed_leader,
    leader,
    only,
)


def test_a_read_takes_one_round_and_no_entry() -> None:
    """Dissertation 6.4: the leader exchanges "a round of heartbeats with a majority"."""
    node = committed_leader("1.1")
    beats = all_of(node.read("r"), Append)
    assert [beat.entries for beat in beats] == [()], "with this leader, one more is a majority"
    assert node.answered == []
    acknowledge(node, 2, round_=beats[0].round)
    assert node.answered == [("r", 2)]
    assert node.raft.log.last_index == 2


def test_a_new_leader_serves_no_read_before_it_committed_in_its_term() -> None:
    """PROTOCOL 1.3: "only after it has committed an entry of its own term"; paper 8. FAULTS 22."""
    node = leader("1.1 1.2", commit=1)
    node.read("r")
    acknowledge(node, 2, 2, node.raft.leading.round)
    acknowledge(node, 3, 2, node.raft.leading.round)
    assert node.answered == []
    acknowledge(node, 2, 3)
    beat = all_of(node.taken() + node.tick(2), Append, 2)[-1]
    acknowledge(node, 2, 3, beat.round)
    assert node.answered == [("r", 3)]


def test_an_answer_of_an_older_round_does_not_count() -> None:
    """PROTOCOL 1.3 (!): "answers of its term with that round or a later one". FAULTS 23."""
    node = committed_leader("1.1")
    before = node.raft.leading.round
    node.read("r")
    for follower in (2, 3):
        acknowledge(node, follower, round_=before)
    assert node.answered == []


def test_an_answer_of_a_later_round_counts() -> None:
    """PROTOCOL 1.3: "or a later one"."""
    node = committed_leader("1.1")
    node.read("r")
    acknowledge(node, 2, round_=all_of(node.tick(2), Append)[-1].round)
    assert node.answered == [("r", 2)]


@pytest.mark.parametrize(
    "kind", [Answer, OfferAnswer, ChunkAnswer], ids=["refusal", "offer", "chunk"]
)
def test_not_ok_counts_too(kind: type) -> None:
    """PROTOCOL 1.3 (!): "from a quorum, itself included, ok or not"."""
    node = committed_leader("1.1")
    node.read("r")
    round_ = node.raft.leading.round
    if kind is Answer:
        node.receive(3, Answer(2, round_, False, 0, 0))
    else:
        node.receive(3, kind(2, round_, 9, 1, 0))
    assert node.answered == [("r", 2)]


def test_an_answer_of_another_term_does_not_count() -> None:
    """PROTOCOL 1.3 (!): "answers of its term"."""
    node = committed_leader("1.1", term=4)
    node.read("r")
    for follower in (2, 3):
        node.receive(follower, Answer(4, 99, True, 2, 5))
    assert node.answered == []


def test_one_followers_answers_count_once() -> None:
    """PROTOCOL 1.3: a quorum, with 5 voters, is three replicas."""
    node = committed_leader("1.1", count=5)
    node.read("r")
    for _ in range(3):
        acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.answered == []
    acknowledge(node, 3, round_=node.raft.leading.round)
    assert node.answered == [("r", 2)]


def test_one_round_serves_all_reads_that_wait() -> None:
    """PROTOCOL 1.3: "one round serves all reads that wait at that moment"."""
    node = committed_leader("1.1")
    for name in ("a", "b"):
        node.raft.read(name)
    node.pump()
    assert len(all_of(node.taken(), Append, 2)) == 1
    acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.answered == [("a", 2), ("b", 2)]


def test_a_read_that_comes_during_a_round_takes_the_next_one() -> None:
    """PROTOCOL 1.3, dissertation 6.4: the round must begin after the read did."""
    node = committed_leader("1.1")
    node.read("early")
    round_ = node.raft.leading.round
    node.read("late")
    sent = acknowledge(node, 2, round_=round_)
    assert node.answered == [("early", 2)]
    acknowledge(node, 2, round_=all_of(sent, Append, 2)[-1].round)
    assert node.answered == [("early", 2), ("late", 2)]


def test_a_read_waits_until_its_index_is_applied() -> None:
    """PROTOCOL 1.3: "Then it waits until that index is applied". FAULTS 26."""
    node = committed_leader("1.1")
    node.propose(b"x")
    acknowledge(node, 2)
    acknowledge(node, 3)
    assert (node.raft.commit_index, node.state.index) == (3, 2)
    node.read("r")
    acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.answered == []
    node.fsync()
    assert node.answered == [("r", 3)]


def test_the_read_index_is_the_commit_index_when_the_round_begins() -> None:
    """Dissertation 6.4: what is committed later need not be seen, what was before must."""
    node = committed_leader("1.1")
    node.read("r")
    round_ = node.raft.leading.round
    node.applies_at_once = False
    node.propose(b"x")
    node.fsync()
    acknowledge(node, 2, round_=round_)
    assert node.answered == [("r", 2)]


def test_a_deposed_leader_never_answers() -> None:
    """PROTOCOL 1.3, dissertation 6.4. FAULTS 21: its reads fail, waiting or in a round."""
    node = committed_leader("1.1")
    node.read("in a round")
    node.read("waiting")
    node.receive_settled(3, append(9, 1))
    assert node.failed == ["in a round", "waiting"]
    for follower in (2, 3):
        node.receive(follower, Answer(2, 99, True, 2, 2))
    assert node.answered == []


def test_a_leader_in_a_minority_never_answers() -> None:
    """FAULTS 21: cut off, it steps down, and the read fails rather than hangs."""
    node = committed_leader("1.1")
    node.read("r")
    node.tick(2 * TICKS_MIN)
    assert (node.answered, node.failed) == ([], ["r"])


def test_a_confirmation_from_before_a_leader_change_does_not_complete_a_read_after_it() -> None:
    """FAULTS 23: led, was deposed, leads again; answers to the first time's rounds come late."""
    node = committed_leader("1.1")
    node.read("first")
    late = node.raft.leading.round
    node.receive_settled(3, append(3, 3, "", commit=2))
    assert node.failed == ["first"]
    from overdb_node.raft.messages import TimeoutNow, VoteAnswer

    node.receive_settled(3, TimeoutNow(3))
    node.receive_settled(2, VoteAnswer(4, True))
    acknowledge(node, 2)
    node.read("second")
    assert node.raft.leading.round > late
    node.receive(2, Answer(2, late, True, 2, 2))
    node.receive(2, Answer(4, late, True, 3, 4))
    assert node.answered == []


def test_only_a_leader_takes_reads() -> None:
    """Dissertation 6.4: others send the client away."""
    for node in (Node("1.1"), candidate("1.1")):
        with pytest.raises(NotLeader):
            node.read("r")


def test_alone_a_read_needs_no_message() -> None:
    """PROTOCOL 1.3: the quorum includes the leader itself."""
    node = leader("1.1", count=1)
    node.read("r")
    assert node.answered == [("r", 2)]


def test_a_followers_answer_carries_the_newest_round_it_heard() -> None:
    """PROTOCOL 1.2: Answer(term, round, ...): after the fsync it confirms the rounds meanwhile too."""
    node = Node("1.1", commit=1)
    node.receive(2, append(1, 2, "1.2", round_=3))
    assert only(node.receive(2, append(1, 2, round_=5)), Answer).round == 5
    assert only(node.receive(2, append(1, 2, round_=4)), Answer).round == 5
    assert only(node.fsync(), Answer).round == 5


def test_a_new_leaders_rounds_are_not_taken_for_the_old_ones() -> None:
    """PROTOCOL 1.3: rounds belong to a term; another leader counts its own."""
    node = Node("1.1", commit=1)
    node.receive_settled(2, append(1, 2, round_=90))
    assert only(node.receive_settled(3, append(2, 2, round_=1)), Answer).round == 1


def asked(sent: Sent) -> list[int]:
    return sorted(to for to, message in sent if isinstance(message, Append))


def test_those_are_asked_that_answered_a_heartbeat_first() -> None:
    """PROTOCOL 1.3: "answers [...] from a quorum": who is not needed for one is not asked."""
    node = committed_leader("1.1", count=5)
    round_ = all_of(node.tick(2), Append)[-1].round
    for follower in (4, 3, 2, 5):
        acknowledge(node, follower, round_=round_)
    assert asked(node.read("r")) == [3, 4]
    acknowledge(node, 4, round_=node.raft.leading.round)
    assert node.answered == []
    acknowledge(node, 3, round_=node.raft.leading.round)
    assert node.answered == [("r", 2)]


def test_when_who_was_asked_is_silent_the_others_answer_the_next_heartbeat() -> None:
    """PROTOCOL 1.3: "or a later one"."""
    node = committed_leader("1.1")
    beat = all_of(node.tick(2), Append)[-1]
    acknowledge(node, 3, round_=beat.round)
    assert asked(node.read("r")) == [3]
    sent = node.tick(2)
    assert asked(sent) == [2, 3]
    acknowledge(node, 2, round_=all_of(sent, Append)[-1].round)
    assert node.answered == [("r", 2)]
    assert asked(node.read("next")) == [2]


def test_reads_do_not_put_off_the_heartbeat_to_the_others() -> None:
    """PROTOCOL 1.1: without it they would campaign."""
    node = committed_leader("1.1")
    ticks = node.raft.settings.heartbeat_ticks
    for number in range(2 * ticks):
        acknowledge(node, 3, round_=node.raft.leading.round)
        node.read(f"r{number}")
        sent = node.tick(1)
        if asked(sent) == [2, 3]:
            return
    raise AssertionError("no heartbeat to all")


@pytest.mark.parametrize(("count", "others"), [(3, [2, 3]), (5, [2, 3, 4, 5])])
def test_all_are_asked_while_too_few_of_the_quickest_count(count: int, others: list[int]) -> None:
    """PROTOCOL 1.2: a replica whose log contradicts the leader's counts no more."""
    node = committed_leader("1.1", count=count)
    round_ = all_of(node.tick(2), Append)[-1].round
    for follower in reversed(others):
        acknowledge(node, follower, round_=round_)
    node.raft.leading.progress[count].damaged = True
    assert asked(node.read("r")) == others
