"""What a leader concludes from answers: PROTOCOL 1.2, the paper's 5.3."""

from __future__ import annotations

import pytest

from overdb_node.raft.messages import Answer, Append
from overdb_node.raft.output import EventKind
from tests.paper.helpers import (
    TICKS_MIN,
    Node,
    acknowledge,
    all_of,
    append,
    committed_leader,
    entries,
    leader,
    only,
    vote_request,
)


def test_answers_of_another_term_count_for_nothing() -> None:
    """PROTOCOL 1.2 (!). FAULTS 4."""
    node = leader("1.1", term=4)
    for follower in (2, 3):
        node.receive(follower, Answer(4, 9, True, 2, 5))
    assert node.raft.commit_index == 0
    assert [p.match for p in node.raft.leading.progress.values()] == [0, 0]


def test_a_refusal_does_not_count_for_match() -> None:
    """PROTOCOL 1.2: "match := max(match, a) on ok"."""
    node = leader("1.1")
    node.receive(2, Answer(2, 1, False, 1, 1))
    assert node.raft.leading.progress[2].match == 0


def test_match_never_falls() -> None:
    """PROTOCOL 1.2: "match := max(match, a)": what was once on a disk counts. FAULTS 17."""
    node = leader("1.1 1.2", count=5)
    acknowledge(node, 2, 3)
    acknowledge(node, 2, 1)
    node.receive(2, Answer(2, 1, False, 0, 0))
    assert node.raft.leading.progress[2].match == 3


@pytest.mark.parametrize("ok", [True, False])
def test_next_follows_the_answer_also_below_match(ok: bool) -> None:
    """PROTOCOL 1.2 (!): "next := a + 1 on every answer, also below match: the follower restarted"."""
    node = committed_leader("1.1 1.2")
    node.taken()
    sent = node.receive(2, Answer(2, 1, ok, 1, 1))
    assert [(m.first_index, m.entries[-1].index) for m in all_of(sent, Append, 2)] == [(2, 3)]


def test_a_late_refusal_is_not_read_as_lost_data() -> None:
    """PROTOCOL 1.2: "an answer older than the newest round heard from that follower may be ignored
    for next". FAULTS 17."""
    node = committed_leader("1.1 1.2")
    node.tick(2)
    round_ = node.raft.leading.round
    acknowledge(node, 2, 3, round_)
    sent = node.receive(2, Answer(2, round_ - 1, False, 0, 0))
    assert sent == []
    progress = node.raft.leading.progress[2]
    assert (progress.match, progress.next) == (3, 4)


def test_an_older_answer_still_counts_for_match() -> None:
    """PROTOCOL 1.2: only for ``next`` may it be ignored."""
    node = leader("1.1 1.2")
    node.tick(2)
    node.receive(2, Answer(2, node.raft.leading.round, False, 0, 0))
    acknowledge(node, 2, 3, node.raft.leading.round - 1)
    assert (node.raft.leading.progress[2].match, node.raft.commit_index) == (3, 3)


def test_a_refusal_by_an_older_term_does_not_rewind_the_new_leader() -> None:
    """PROTOCOL 1.2: "answer my term and nothing else": such an answer has no position. FAULTS 17.

    The leader of term 1 campaigns again and wins term 2; a late Append of its own term 1 reaches a
    follower that is in term 2 by then.
    """
    old_append = append(1, 4, round_=0)
    follower = Node("1.1 1.2 1.3", replica_id=2)
    follower.receive_settled(1, vote_request(2, "1.3"))
    told = only(follower.receive_settled(1, old_append), Answer)
    node = leader("1.1 1.2 1.3")
    node.taken()
    sent = node.receive(2, told)
    assert [m.first_index for m in all_of(sent, Append, 2)] in ([], [4])


def test_an_answer_that_contradicts_the_leaders_log_raises_the_alarm() -> None:
    """PROTOCOL 1.2, tripwire: "alarm, and that replica is not counted". FAULTS 31."""
    node = leader("1.1 1.2")
    node.receive(2, Answer(2, 0, True, 3, 1))
    assert node.happened(EventKind.REPLICA_DAMAGED)
    for index in (3, 3):
        acknowledge(node, 2, index)
    assert node.raft.commit_index == 0
    acknowledge(node, 3, 3)
    assert node.raft.commit_index == 3


def test_a_damaged_replica_counts_neither_for_rounds_nor_for_check_quorum() -> None:
    """PROTOCOL 1.2, tripwire: not counted, anywhere."""
    node = committed_leader("1.1")
    node.receive(2, Answer(2, 0, True, 2, 1))
    node.read("r")
    node.receive(2, Answer(2, node.raft.leading.round, True, 2, 1))
    assert node.answered == []
    for _ in range(2 * TICKS_MIN):
        node.tick()
        node.receive(2, Answer(2, node.raft.leading.round, True, 2, 1))
    assert not node.raft.is_leader


def test_an_acknowledgement_beyond_the_leaders_log_commits_nothing() -> None:
    """PROTOCOL 1.2: such a log is foreign or the leader's is damaged; it must not be believed."""
    node = leader("1.1")
    node.receive(2, Answer(2, 0, True, 9, 2))
    assert node.raft.commit_index < 3
    assert node.raft.log.last_index == 2


def test_logs_with_one_entry_in_common_have_all_before_it_in_common() -> None:
    """Paper 5.3, the Log Matching Property, over a chain of leaders and refusals."""
    node = Node("1.1 1.2 1.3", commit=1)
    node.receive_settled(2, append(3, 2, "2.2 3.3"))
    node.receive_settled(3, append(4, 2, "2.2 3.3 4.4"))
    assert node.log == "1.1 2.2 3.3 4.4"
    assert tuple(node.raft.log.slice(2, 4)) == entries("2.2 3.3 4.4")
