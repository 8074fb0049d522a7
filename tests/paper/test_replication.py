"""Log replication without PrevLog: the paper's 5.3 and 5.4.2, and PROTOCOL 1.2."""

from __future__ import annotations

import pytest

from overdb_node.raft.errors import NotLeader, Overloaded, ProtocolViolation
from overdb_node.raft.messages import Answer, Append, VoteAnswer
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import EntryKind
from tests.paper.helpers import (
    Node,
    acknowledge,
    all_of,
    append,
    candidate,
    committed_leader,
    leader,
    only,
    show_disk,
    vote_request,
)

FIGURE_7 = {
    "a": "1.1 1.2 1.3 4.4 4.5 5.6 5.7 6.8 6.9",
    "b": "1.1 1.2 1.3 4.4",
    "c": "1.1 1.2 1.3 4.4 4.5 5.6 5.7 6.8 6.9 6.10 6.11",
    "d": "1.1 1.2 1.3 4.4 4.5 5.6 5.7 6.8 6.9 6.10 7.11 7.12",
    "e": "1.1 1.2 1.3 4.4 4.5 4.6 4.7",
    "f": "1.1 1.2 1.3 2.4 2.5 2.6 3.7 3.8 3.9 3.10 3.11",
}
FIGURE_7_LEADER = "1.1 1.2 1.3 4.4 4.5 5.6 5.7 6.8 6.9 6.10"


# --- the leader appends, sends and counts ---------------------------------------------------------


def test_a_new_leader_begins_with_a_no_op() -> None:
    """Paper 8: "each leader commit a blank no-op entry into the log at the start of its term"."""
    node = leader("1.1 1.2")
    assert node.log == "1.1 1.2 2.3"
    assert node.raft.log.slice(3, 3)[0].kind is EntryKind.NOOP


def test_a_new_leaders_view_of_its_followers_is_set_before_its_first_message() -> None:
    """Paper figure 2 (nextIndex, matchIndex), PROTOCOL 1.2 ("starts at last + 1"). FAULTS 15."""
    node = candidate("1.1 1.2")
    node.taken()
    sent = node.receive(2, VoteAnswer(2, True))
    assert [(to, m.first_index) for to, m in sent if isinstance(m, Append)] == [(2, 3), (3, 3)]
    assert [p.match for p in node.raft.leading.progress.values()] == [0, 0]


def test_a_leader_sends_beside_its_own_fsync() -> None:
    """PROTOCOL 1.0 with dissertation 10.2.1: followers and the leader's disk work in parallel."""
    node = committed_leader("1.1")
    sent = node.propose(b"x")
    assert [m.entries[-1].index for m in all_of(sent, Append)] == [3, 3]
    assert show_disk(node.disk) == "1.1 2.2"


def test_an_entry_is_committed_once_a_majority_has_it_on_disk() -> None:
    """Paper 5.3: "once the leader that created the entry has replicated it on a majority"."""
    node = committed_leader("1.1", count=5)
    node.propose(b"x")
    node.fsync()
    acknowledge(node, 2)
    assert node.raft.commit_index == 2
    acknowledge(node, 3)
    assert node.raft.commit_index == 3
    assert node.state.index == 3


def test_the_leaders_own_copy_counts_only_once_it_is_on_disk() -> None:
    """PROTOCOL 1.0 (!): the leader's own copy is fsynced before it is counted."""
    node = committed_leader("1.1")
    node.propose(b"x")
    acknowledge(node, 2)
    assert node.raft.commit_index == 2
    node.fsync()
    assert node.raft.commit_index == 3


def test_a_leader_with_a_slow_disk_commits_by_its_followers_alone() -> None:
    """Dissertation 10.2.1: "it may even commit an entry before it has been written to its own disk";
    PROTOCOL 1.0: it applies that only when it is durable."""
    node = committed_leader("1.1")
    node.propose(b"x")
    acknowledge(node, 2)
    acknowledge(node, 3)
    assert (node.raft.commit_index, node.raft.durable, node.state.index) == (3, 2, 2)
    node.fsync()
    assert node.state.index == 3


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_the_commit_index_is_the_quorums_median(count: int) -> None:
    """Paper 5.3 and figure 2: the largest N that a majority's matchIndex reaches. FAULTS 12."""
    node = leader("", count=count)
    node.propose(*[b"x"] * 20)
    node.fsync()
    claims = {1: node.raft.durable}
    for follower in range(2, count + 1):
        claims[follower] = 2 * follower
        acknowledge(node, follower, claims[follower])
        ordered = sorted(list(claims.values()) + [0] * (count - len(claims)), reverse=True)
        assert node.raft.commit_index == ordered[count // 2]


def test_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Paper 5.4.2, figure 8: "Only log entries from the leader's current term are committed by
    counting replicas". FAULTS 11."""
    node = leader("1.1 2.2", term=3)
    assert node.log == "1.1 2.2 4.3"
    acknowledge(node, 2, 2)
    acknowledge(node, 3, 2)
    assert node.raft.commit_index == 0
    acknowledge(node, 2, 3)
    assert node.raft.commit_index == 3


def test_committed_entries_are_applied_in_order_and_once() -> None:
    """Paper 5.3, state machine safety: every entry in log order."""
    node = leader("1.1 1.2")
    seen: list[int] = []
    node.on_applied = lambda _, entry, __: seen.append(entry.index)
    acknowledge(node, 2)
    node.propose(b"x")
    node.fsync()
    for _ in range(2):
        acknowledge(node, 2)
    assert seen == [1, 2, 3, 4]


def test_followers_learn_the_commit_index_from_the_next_message() -> None:
    """Paper 5.3: "includes that index in future AppendEntries RPCs (including heartbeats)"."""
    node = committed_leader("1.1")
    beats = all_of(node.tick(2), Append)
    assert [beat.leader_commit for beat in beats] == [2, 2]


def test_a_follower_that_answers_late_is_sent_what_it_misses_without_end() -> None:
    """Paper 5.3: "the leader retries [...] indefinitely"."""
    node = committed_leader("1.1", count=3)
    node.propose(b"x")
    for _ in range(5):
        node.taken()
        beat = all_of(node.tick(2), Append, 3)[0]
        assert beat.first_index == 4
        refused = node.receive(3, Answer(2, beat.round, False, 2, 2))
        assert [e.index for e in all_of(refused, Append, 3)[0].entries] == [3]


def test_only_a_leader_takes_proposals() -> None:
    """Paper 5.1 and 8: followers send clients away."""
    for node in (Node("1.1"), candidate("1.1")):
        with pytest.raises(NotLeader):
            node.propose(b"x")


def test_what_is_proposed_and_not_committed_is_bounded_in_bytes() -> None:
    """STYLE 8: every queue has a bound; a refusal did nothing."""
    node = committed_leader("1.1", settings=RaftSettings(uncommitted_bytes_max=10))
    node.propose(b"123456")
    with pytest.raises(Overloaded):
        node.propose(b"12345")
    assert node.raft.log.last_index == 3
    node.fsync()
    acknowledge(node, 2)
    node.propose(b"12345")
    assert node.raft.log.last_index == 4


def test_appends_are_bounded_in_bytes_and_a_larger_entry_goes_alone() -> None:
    """STYLE 8: ``append_bytes_max`` and ``inflight_bytes_max``."""
    settings = RaftSettings(append_bytes_max=10, inflight_bytes_max=120)
    node = committed_leader("1.1", settings=settings)
    sent = node.propose(b"1234", b"1234", b"1234", b"x" * 50, b"1", b"1", b"1", b"1")
    batches = [[e.index for e in m.entries] for m in all_of(sent, Append, 2)]
    assert batches == [[3, 4], [5], [6]]
    sent = acknowledge(node, 2, 6)
    assert [[e.index for e in m.entries] for m in all_of(sent, Append, 2)] == [[7, 8, 9, 10]]


# --- what a follower accepts ------------------------------------------------------------------------


@pytest.mark.parametrize("follower", FIGURE_7)
def test_figure_7_every_follower_is_repaired_in_one_round_trip(follower: str) -> None:
    """Paper 5.3, figure 7, with PROTOCOL 1.2: "One round trip repairs any divergence"."""
    lead = leader(FIGURE_7_LEADER, term=7)
    node = Node(FIGURE_7[follower], replica_id=2, term=7, commit=3)
    first = all_of(lead.taken(), Append, 2)[0]
    refusal = only(node.receive_settled(1, first), Answer)
    assert (refusal.ok, refusal.agreed) == (False, 3)
    repair = all_of(lead.receive(2, refusal), Append, 2)
    assert len(repair) == 1
    answer = only(node.receive_settled(1, repair[0]), Answer)
    assert (answer.ok, answer.agreed) == (True, 11)
    assert node.log == lead.log
    assert show_disk(node.disk) == lead.log


@pytest.mark.parametrize("first", [1, 2, 3])
def test_an_append_at_or_below_agreed_and_one_is_accepted(first: int) -> None:
    """PROTOCOL 1.2: "Accept if and only if first_index <= agreed + 1"."""
    node = Node("1.1 1.2 1.3", commit=2)
    text = " ".join(f"2.{i}" if i > 2 else f"1.{i}" for i in range(first, 5))
    answer = only(node.receive_settled(2, append(2, first, text)), Answer)
    assert (answer.ok, answer.agreed, answer.agreed_term) == (True, 4, 2)
    assert node.log == "1.1 1.2 2.3 2.4"


@pytest.mark.parametrize("message", [append(2, 4, "2.4", 4), append(2, 4, "", 3)])
def test_an_append_beyond_agreed_and_one_is_refused_and_changes_nothing(message: Append) -> None:
    """PROTOCOL 1.2: "Otherwise answer not ok with agreed, change nothing, and in particular do not
    move commit_index". Entry 3 is there, but not known to be the leader's."""
    node = Node("1.1 1.2 1.3", commit=2)
    assert only(node.receive_settled(2, message), Answer) == Answer(2, 0, False, 2, 1)
    assert (node.log, node.raft.commit_index, node.raft.agreed) == ("1.1 1.2 1.3", 2, 2)


def test_a_heartbeat_does_not_move_the_commit_index_of_a_log_that_does_not_match() -> None:
    """PROTOCOL 1.2: "the seed's heartbeat moved the commit index of followers whose log did not
    match: that loses data". FAULTS 16."""
    node = Node("1.1 1.2 1.3", commit=1)
    for first in (1, 2, 4):
        node.receive_settled(2, append(2, first, "", commit=3))
        assert (node.raft.commit_index, node.state.index) == (1, 1)


def test_the_commit_index_is_the_least_of_the_leaders_of_agreed_and_of_durable() -> None:
    """PROTOCOL 1.2: "max(commit_index, min(leader_commit, agreed, durable))"."""
    node = Node("1.1")
    node.receive(2, append(2, 1, "1.1 2.2 2.3 2.4", commit=3))
    assert node.raft.commit_index == 1  # what is not durable is not committed here
    node.fsync()
    assert node.raft.commit_index == 3
    node.receive_settled(2, append(2, 5, "", commit=9))
    assert node.raft.commit_index == 4
    node.receive_settled(2, append(2, 5, "", commit=2))
    assert node.raft.commit_index == 4


def test_agreed_begins_at_the_commit_index_in_every_term() -> None:
    """PROTOCOL 1.2: "if agreed_term != T then (agreed_term, agreed) := (T, commit_index)"."""
    node = Node("1.1")
    node.receive_settled(2, append(2, 1, "1.1 2.2 2.3", commit=1))
    assert (node.raft.agreed_term, node.raft.agreed) == (2, 3)
    answer = only(node.receive_settled(3, append(3, 4)), Answer)
    assert (answer.ok, answer.agreed) == (False, 1)
    assert (node.raft.agreed_term, node.raft.agreed) == (3, 1)


@pytest.mark.parametrize("adopted_by", ["vote", "refused vote", "candidacy", "answer"])
def test_agreed_is_forgotten_too_when_the_term_was_adopted_before_its_leader_spoke(
    adopted_by: str,
) -> None:
    """PROTOCOL 1.2 (!): "that includes a T adopted earlier through a vote or a candidacy"."""
    node = Node("1.1")
    node.receive_settled(2, append(2, 1, "1.1 2.2 2.3", commit=1))
    if adopted_by == "candidacy":
        from overdb_node.raft.messages import TimeoutNow

        node.receive_settled(2, TimeoutNow(2))
    elif adopted_by == "answer":
        node.receive_settled(2, VoteAnswer(3, False))
    else:
        last = "2.3" if adopted_by == "vote" else "1.1"
        node.receive_settled(3, vote_request(3, last, transfer=True))
    assert node.raft.term == 3
    answer = only(node.receive_settled(3, append(3, 4, "", commit=3)), Answer)
    assert (answer.ok, answer.agreed, node.raft.commit_index) == (False, 1, 1)


def test_a_restart_forgets_agreed() -> None:
    """PROTOCOL 1.2: "a restart forgets the pair"; the same leader's next message is refused."""
    node = Node("1.1")
    node.receive_settled(2, append(2, 1, "1.1 2.2 2.3", commit=1))
    again = node.restarted()
    assert (again.log, again.raft.agreed_term, again.raft.agreed) == ("1.1 2.2 2.3", 0, 1)
    answer = only(again.receive_settled(2, append(2, 4)), Answer)
    assert (answer.ok, answer.agreed) == (False, 1)


def test_conflicting_entries_and_all_behind_them_are_replaced() -> None:
    """Paper figure 2: "delete the existing entry and all that follow it"; PROTOCOL 1.2: "at the first
    other term [...] cut there and take all the rest"."""
    node = Node("1.1 1.2 2.3 2.4 2.5", commit=1)
    node.receive_settled(2, append(3, 2, "1.2 3.3"))
    assert node.log == "1.1 1.2 3.3"
    assert show_disk(node.disk) == "1.1 1.2 3.3"


@pytest.mark.parametrize(
    "late", [append(2, 1, "1.1"), append(2, 2, "2.2"), append(2, 1, "1.1 2.2 2.3"), append(2, 1)]
)
def test_a_delayed_shorter_append_removes_nothing(late: Append) -> None:
    """PROTOCOL 1.2 (!): "Never cut without a difference". FAULTS 13."""
    node = Node("")
    node.receive_settled(2, append(2, 1, "1.1 2.2 2.3 2.4"))
    answer = only(node.receive_settled(2, late), Answer)
    assert node.log == "1.1 2.2 2.3 2.4"
    assert (answer.ok, answer.agreed, answer.agreed_term) == (True, 4, 2)


def test_a_longer_tail_of_mine_without_a_difference_stays() -> None:
    """PROTOCOL 1.2 (!): mine has more, nothing differs, nothing is cut."""
    node = Node("1.1 1.2 1.3", commit=1)
    answer = only(node.receive_settled(2, append(2, 2, "1.2")), Answer)
    assert node.log == "1.1 1.2 1.3"
    assert answer.agreed == 2  # what lies behind is not known to be the leader's


def test_entries_at_or_below_the_commit_index_are_skipped() -> None:
    """PROTOCOL 1.2 (!): "mine has no entry there" is not a difference (they are compacted here)."""
    node = Node("S1.3 1.4 1.5", commit=4)
    answer = only(node.receive_settled(2, append(2, 1, "1.1 1.2 1.3 1.4 1.5 2.6")), Answer)
    assert (answer.ok, answer.agreed) == (True, 6)
    assert node.log == "S1.3 1.4 1.5 2.6"


def test_a_late_append_that_lies_below_the_snapshot_removes_nothing() -> None:
    """PROTOCOL 1.2 (!), FAULTS 13: all of it is compacted here."""
    node = Node("S1.5 1.6", commit=6)
    answer = only(node.receive_settled(2, append(2, 1, "1.1 1.2")), Answer)
    assert (answer.ok, answer.agreed, node.log) == (True, 6, "S1.5 1.6")


def test_a_cut_at_or_below_the_commit_index_is_fatal() -> None:
    """PROTOCOL 1.2: "A cut at or below commit_index is a fatal error: stop"."""
    node = Node("1.1 1.2", commit=2)
    for index in (1, 2):
        with pytest.raises(ProtocolViolation, match="damaged or foreign"):
            node.raft.cut_log(index)
    assert node.log == "1.1 1.2"


def test_agreed_never_falls_within_a_term() -> None:
    """PROTOCOL 1.2: "agreed := max(agreed, first_index + len(entries) - 1)"."""
    node = Node("")
    node.receive_settled(2, append(2, 1, "2.1 2.2 2.3"))
    node.receive_settled(2, append(2, 1, "2.1"))
    assert node.raft.agreed == 3


def test_the_answer_comes_once_and_after_the_fsync() -> None:
    """PROTOCOL 1.2: "one answer, after the fsync, with min(agreed, durable)"."""
    node = Node("1.1", commit=1)
    node.receive_settled(2, append(1, 2))
    assert node.receive(2, append(1, 2, "1.2 1.3", round_=4)) == []
    assert node.fsync() == [(2, Answer(1, 4, True, 3, 1))]


def test_a_heartbeats_answer_says_no_more_than_is_durable() -> None:
    """PROTOCOL 1.2 (!): "an answer to a heartbeat meanwhile says no more than that either"."""
    node = Node("1.1", commit=1)
    node.receive(2, append(1, 2, "1.2 1.3"))
    assert node.receive(2, append(1, 4)) == [(2, Answer(1, 0, True, 1, 1))]
    assert node.receive(2, append(1, 2, "1.2 1.3")) == [(2, Answer(1, 0, True, 1, 1))]
    assert only(node.fsync(), Answer).agreed == 3


def test_killed_between_the_fsync_and_the_answer_nothing_is_lost_and_nothing_was_said() -> None:
    """PROTOCOL 1.0; STYLE 1."""
    node = Node("1.1", commit=1)
    node.receive_settled(2, append(1, 2))
    assert node.receive(2, append(1, 2, "1.2")) == []
    again = node.restarted()
    assert again.log == "1.1"
    node.settle()
    assert node.restarted().log == "1.1 1.2"
