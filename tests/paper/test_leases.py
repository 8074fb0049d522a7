"""Leader leases: PROTOCOL 1.3, dissertation 6.4.1. FAULTS 24."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from overdb_node.raft.errors import NotLeader
from overdb_node.raft.membership import AddLearner, Promote
from overdb_node.raft.messages import Answer, Append, TimeoutNow, VoteAnswer, VoteRequest
from overdb_node.raft.output import Role
from overdb_node.raft.settings import RaftSettings
from tests.paper.helpers import (
    TICKS_MIN,
    Node,
    acknowledge,
    all_of,
    append,
    committed_leader,
    leader,
    only,
    vote_request,
)
from tests.paper.host import encode_configuration

SECOND = 1_000_000
START = 50 * SECOND  # a clock begins anywhere
PROMISE = SECOND  # of every follower
LEASE = PROMISE * 9 // 10  # what a leader takes of it
ON = RaftSettings(promise_us=PROMISE)
OFF = RaftSettings()


def beat(node: Node, now: int) -> int:
    """A heartbeat that begins at ``now``; its round."""
    node.raft.observe(now)
    return all_of(node.tick(node.raft.settings.heartbeat_ticks), Append)[-1].round


def promise(node: Node, follower: int, round_: int, length: int = PROMISE) -> None:
    """An answer with all that the leader has, and a promise."""
    log, term = node.raft.log, node.raft.term
    node.receive(follower, Answer(term, round_, True, log.last_index, log.last_term, length))


def leased(**how: Any) -> Node:
    """A leader to which one follower of three answered, at once, a heartbeat begun at START."""
    node = committed_leader("1.1", **{"settings": ON, **how})
    promise(node, 2, beat(node, START))
    return node


def by_lease(node: Node, now: int) -> bool:
    """Whether a read at ``now`` is answered without a word to anybody."""
    answered = len(node.answered)
    sent = node.read(f"at {now}", now)
    if len(node.answered) == answered:
        return False  # it waits for a round
    assert sent == []
    return True


def promised(**how: Any) -> Node:
    """A follower, with leases on, that has just answered a leader of term 1."""
    node = Node("1.1", commit=1, settings=ON, **how)
    assert only(node.receive_settled(2, append(1, 2, round_=3)), Answer).promise_us == PROMISE
    return node


# --- the leader -----------------------------------------------------------------------------------


def test_with_a_lease_a_read_needs_no_message() -> None:
    """Dissertation 6.4.1: "the leader can reply to read-only queries during this period without additional
    communication"."""
    node = leased()
    assert by_lease(node, START + LEASE - 1)
    assert node.answered[-1][1] == node.raft.commit_index


def test_a_leader_that_stood_still_does_not_answer_from_an_old_lease() -> None:
    """FAULTS 24: whatever it did before, the time that counts is the one at which the read is looked at."""
    node = leased()
    assert by_lease(node, START + 1)
    assert not by_lease(node, START + LEASE)
    assert not by_lease(node, START + 3 * SECOND)


def test_the_lease_begins_when_the_round_was_begun_not_when_it_was_answered() -> None:
    """PROTOCOL 1.3 (!): a leader that stood still finds answers that are as old as its pause."""
    node = committed_leader("1.1", settings=ON)
    round_ = beat(node, START)
    node.raft.observe(START + 3 * SECOND)
    promise(node, 2, round_)
    assert not by_lease(node, START + 3 * SECOND)


def test_an_answer_proves_no_more_than_the_round_it_names() -> None:
    """PROTOCOL 1.3 (!): an acknowledgement after a slow fsync is about the round that was heard before it."""
    node = committed_leader("1.1", settings=ON)
    first = beat(node, START)
    beat(node, START + SECOND // 2)
    promise(node, 2, first)
    assert by_lease(node, START + LEASE - 1)
    assert not by_lease(node, START + LEASE)


def test_a_round_of_before_the_leader_knew_the_time_proves_nothing() -> None:
    """PROTOCOL 1.3: the Appends of a term's beginning carry a round that began in another one."""
    node = committed_leader("1.1", settings=ON)
    round_ = node.raft.leading.round
    node.raft.observe(START)
    promise(node, 2, round_)
    assert not by_lease(node, START + 1)


def test_heartbeats_renew_the_lease() -> None:
    """PROTOCOL 1.3: also when no read needs a round."""
    node = leased()
    for number in range(1, 40):
        now = START + number * SECOND // 10
        promise(node, 2 + number % 2, beat(node, now))
        assert by_lease(node, now + 1)
    assert len(node.raft.lease._begun) < 20, "what is remembered of rounds is bounded"


def test_rounds_without_end_and_without_promises_are_not_all_remembered() -> None:
    node = committed_leader("1.1", settings=ON)
    for number in range(3000):
        node.raft.observe(START + number * 1000)
        node.raft.leading.next_round()
    assert len(node.raft.lease._begun) < 20


@pytest.mark.parametrize(("count", "needed"), [(3, 1), (5, 2)])
def test_a_lease_takes_a_quorum_of_promises(count: int, needed: int) -> None:
    """Dissertation 6.4.1: "acknowledged by a majority of the cluster"."""
    node = committed_leader("1.1", settings=ON, count=count)
    round_ = beat(node, START)
    for follower in range(2, 2 + needed):
        assert not by_lease(node, START + 1)
        promise(node, follower, round_)
    assert by_lease(node, START + 1)


def test_the_quorum_lasts_as_long_as_its_shortest_promise() -> None:
    """PROTOCOL 1.3: the replicas' election timeouts need not be the same."""
    node = committed_leader("1.1", settings=ON, count=5)
    round_ = beat(node, START)
    promise(node, 2, round_, PROMISE // 2)
    promise(node, 3, round_, PROMISE * 4)
    assert by_lease(node, START + LEASE // 2 - 1)
    assert not by_lease(node, START + LEASE // 2)


def test_who_promises_nothing_does_not_count() -> None:
    """PROTOCOL 1.3 (!): in a group where some have leases off, or run an older program."""
    node = committed_leader("1.1", settings=ON)
    round_ = beat(node, START)
    promise(node, 2, round_, 0)
    acknowledge(node, 3, round_=round_)
    assert not by_lease(node, START + 1)
    acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.answered != [], "ReadIndex as ever"


def test_a_leader_with_leases_off_uses_no_promise() -> None:
    node = committed_leader("1.1", settings=OFF)
    promise(node, 2, beat(node, START))
    promise(node, 3, node.raft.leading.round)
    assert not by_lease(node, START + 1)


def test_with_leases_off_nothing_is_promised() -> None:
    node = Node("1.1", commit=1, settings=OFF)
    assert only(node.receive_settled(2, append(1, 2, round_=3)), Answer).promise_us == 0


def test_no_lease_before_the_own_term_has_committed() -> None:
    """PROTOCOL 1.3, paper 8. FAULTS 22: what an older leader committed may not be known as committed yet."""
    node = leader("1.1 1.2", commit=1, settings=ON)
    node.raft.observe(START)
    round_ = all_of(node.taken() + node.tick(2), Append)[-1].round
    for follower in (2, 3):
        node.receive(follower, Answer(2, round_, True, 2, 1, PROMISE))
    assert node.raft.commit_index == 1
    assert not by_lease(node, START + 1)
    acknowledge(node, 2, 3)
    assert by_lease(node, START + 1)


def test_a_read_by_lease_waits_until_its_index_is_applied() -> None:
    """PROTOCOL 1.3. FAULTS 26."""
    node = leased()
    node.propose(b"x")
    for follower in (2, 3):
        acknowledge(node, follower)
    assert (node.raft.commit_index, node.state.index) == (3, 2)
    node.read("r", START + 1)
    assert node.answered == []
    node.fsync()
    assert node.answered == [("r", 3)]


def test_a_replica_that_contradicts_the_log_does_not_count() -> None:
    """PROTOCOL 1.2: the tripwire."""
    node = leased()
    node.receive(2, Answer(2, node.raft.leading.round, True, 2, 1, PROMISE))
    assert node.raft.leading.progress[2].damaged
    assert not by_lease(node, START + 1)


def test_a_transfer_ends_the_lease_for_the_rest_of_the_term() -> None:
    """PROTOCOL 1.3 (!): TimeoutNow lets its receiver campaign past all promises, and may come late: after the
    transfer was given up too. Dissertation 6.4.1: "must also expire its lease" when it transfers."""
    node = leased()
    node.raft.transfer(3)
    assert not by_lease(node, START + 1)
    for number in range(1, 2 * TICKS_MIN):
        promise(node, 2, beat(node, START + number * SECOND // 10))
    assert node.raft.is_leader
    assert not node.raft.leading.transfer_to, "it was given up"
    assert not by_lease(node, START + 2 * TICKS_MIN * SECOND // 10)


def test_who_leads_no_more_has_no_lease() -> None:
    """FAULTS 21."""
    node = leased()
    node.receive_settled(3, append(9, 1))
    with pytest.raises(NotLeader):
        node.read("r", START + 1)


def test_a_lease_does_not_outlive_its_term() -> None:
    """PROTOCOL 1.3: whoever leads again begins with nothing, and late answers are of the old term."""
    node = leased()
    late = node.raft.leading.round
    node.receive_settled(3, append(3, 2, "3.2 3.3", commit=3))
    node.receive_settled(3, TimeoutNow(3))
    node.receive_settled(2, VoteAnswer(4, True))
    acknowledge(node, 2)
    assert node.raft.leading.committed_in_term
    assert not by_lease(node, START + 1)
    node.receive(2, Answer(2, late, True, 2, 2, PROMISE))
    promise(node, 2, late)
    assert not by_lease(node, START + 1)


def test_who_stands_aside_has_no_lease() -> None:
    node = leased()
    node.raft.stand_aside()
    with pytest.raises(NotLeader):
        node.read("r", START + 1)
    node.raft.may_lead = True
    assert not by_lease(node, START + 1)


def test_a_change_of_the_members_ends_the_lease_until_a_round_behind_it() -> None:
    """PROTOCOL 1.3: two configurations further on, a quorum need not meet the one that has promised."""
    node = leased()
    node.raft.change_members(AddLearner(4, "replica-4"), encode_configuration)
    node.pump()
    assert not by_lease(node, START + 1)
    promise(node, 2, node.raft.leading.round - 1)
    assert not by_lease(node, START + 1)
    promise(node, 2, beat(node, START + SECOND))
    assert by_lease(node, START + SECOND + 1)


def test_a_learners_promise_does_not_count_and_a_new_voters_does() -> None:
    """PROTOCOL 3.4: of the voters, by the newest configuration."""
    node = leased()
    node.raft.change_members(AddLearner(4, "replica-4"), encode_configuration)
    node.pump()
    node.settle()
    for follower in (2, 3):
        acknowledge(node, follower)
    round_ = beat(node, START + SECOND)
    promise(node, 4, round_)
    assert not by_lease(node, START + SECOND + 1)
    node.raft.change_members(Promote(4), encode_configuration)
    node.pump()
    node.settle()
    round_ = beat(node, START + 2 * SECOND)
    promise(node, 4, round_)
    assert not by_lease(node, START + 2 * SECOND + 1), "two of four are no majority"
    promise(node, 3, round_)
    assert by_lease(node, START + 2 * SECOND + 1)


# --- the follower's promise -------------------------------------------------------------------------


def elects(node: Node, term: int, *, pre: bool = False) -> bool:
    sent = node.receive_settled(3, vote_request(term, "1.9", pre=pre))
    return any(answer.granted for answer in all_of(sent, VoteAnswer))


def test_who_has_promised_elects_nobody_for_an_election_timeout() -> None:
    """Dissertation 6.4.1, 4.2.3: no vote, no pre-vote, no newer term, no campaign."""
    node = promised()
    for _ in range(TICKS_MIN - 1):
        assert all_of(node.tick(), VoteRequest) == []
        assert not elects(node, 5)
        assert not elects(node, 5, pre=True)
        assert node.raft.term == 1
    node.tick()
    assert elects(node, 5)


def test_a_newer_term_takes_no_promise_back() -> None:
    """PROTOCOL 1.3 (!): a term that came in another way makes the leader unknown, and binds all the same."""
    node = promised()
    node.receive_settled(3, VoteAnswer(7, False))
    assert (node.raft.term, node.raft.leader_id) == (7, 0)
    node.tick(TICKS_MIN - 1)
    assert not elects(node, 8)
    assert not elects(node, 8, pre=True)
    node.tick()
    assert elects(node, 8)


def test_a_vote_that_was_refused_restarts_no_promise_and_a_granted_one_ends_none() -> None:
    """PROTOCOL 1.3: it counts from the leader's message, and from nothing else."""
    node = promised()
    node.tick(TICKS_MIN - 1)
    assert not elects(node, 2)
    node.tick()
    assert elects(node, 2)


def test_a_transfer_passes_the_promises() -> None:
    """Dissertation 3.10: the leader has asked for it, and has no lease any more."""
    node = promised()
    sent = node.receive_settled(3, vote_request(2, "1.9", transfer=True))
    assert only(sent, VoteAnswer).granted


def test_a_restart_takes_no_promise_back() -> None:
    """PROTOCOL 1.3 (!): what it promised is not known after a restart, so it has promised all."""
    node = promised().restarted()
    node.tick(TICKS_MIN - 1)
    assert not elects(node, 5)
    assert not elects(node, 5, pre=True)
    node.tick()
    assert elects(node, 5)


def test_a_restart_with_leases_off_keeps_the_promise_of_the_life_before() -> None:
    """PROTOCOL 1.3 (!): the host says for how long, from its note on disk."""
    before = promised()
    before.disk.hold_back_ticks = TICKS_MIN + 1
    node = Node(replica_id=1, disk=before.disk, settings=OFF)
    node.tick(TICKS_MIN)
    assert not elects(node, 5)
    node.tick()
    assert elects(node, 5)


def test_who_has_promised_does_not_campaign_even_if_its_timer_says_so() -> None:
    """PROTOCOL 1.3: a promise of an earlier life may be longer than the election timeout of this one."""
    before = promised()
    before.disk.hold_back_ticks = 5 * TICKS_MIN
    node = Node(replica_id=1, disk=before.disk, settings=replace(OFF, election_ticks_max=TICKS_MIN))
    assert all_of(node.tick(5 * TICKS_MIN - 1), VoteRequest) == []
    assert node.raft.role is Role.FOLLOWER
    assert all_of(node.tick(TICKS_MIN), VoteRequest) != []


def test_the_promise_is_of_the_newest_round_heard_and_counts_from_it() -> None:
    """PROTOCOL 1.3: an answer that waited for its fsync names what was heard meanwhile."""
    node = Node("1.1", commit=1, settings=ON)
    node.receive(2, append(1, 2, "1.2", round_=3))
    node.tick(TICKS_MIN // 2)
    node.receive(2, append(1, 3, round_=5))
    answer = only(node.fsync(), Answer)
    assert (answer.round, answer.promise_us) == (5, PROMISE)
    node.tick(TICKS_MIN - 1)
    assert not elects(node, 2)
