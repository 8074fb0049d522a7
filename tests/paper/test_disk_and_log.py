"""Disk before words (PROTOCOL 1.0), and the log whose first element is a snapshot (1.1)."""

from __future__ import annotations

import pytest

from overdb_node.raft.messages import Answer, Append, VoteAnswer
from overdb_node.raft.types import HardState, Snapshot
from tests.paper.helpers import (
    Node,
    acknowledge,
    all_of,
    append,
    candidate,
    committed_leader,
    disk_of,
    entries,
    leader,
    only,
    show,
    show_disk,
    vote_request,
)
from tests.paper.host import State


def test_no_message_of_a_new_term_leaves_before_the_term_is_on_disk() -> None:
    """PROTOCOL 1.0: "before any message that depends on them leaves the node"."""
    node = Node("1.1")
    assert node.receive(2, append(2, 9)) == []
    assert node.receive(2, append(2, 1)) == []
    assert node.receive(3, append(1, 1)) == []
    assert len(all_of(node.fsync(), Answer)) == 3
    assert node.disk.hard_state.term == 2


def test_a_message_behind_a_pending_term_waits_for_the_newest_fsync() -> None:
    """PROTOCOL 1.0, with two fsyncs under way: the first one's end is not the second one's."""
    node = Node("1.1")
    node.receive(2, append(2, 1))
    node.receive(3, vote_request(3, "1.1", transfer=True))
    while node.disk.hard_state.term < 3:
        assert VoteAnswer(3, True) not in [m for _, m in node.taken()]
        assert node.disk_step()
    assert (3, VoteAnswer(3, True)) in node.fsync()


def test_a_leaders_append_leaves_only_when_its_term_is_on_disk() -> None:
    """PROTOCOL 1.0: "a new leader's Append included"."""
    node = leader("1.1", settled=False)
    assert all_of(node.taken(), Append)
    assert node.disk.hard_state == HardState(2, 1, 0)


def test_durable_follows_the_fsync_and_a_cut_lowers_it() -> None:
    """PROTOCOL 1.0: "the end of the fsynced part of the log that equals the log in memory (a cut
    lowers it)"."""
    node = Node("1.1 1.2 1.3 1.4", commit=1)
    assert node.raft.durable == 4
    node.receive(2, append(2, 2, "1.2 2.3 2.4 2.5"))
    assert (node.raft.durable, node.raft.log.last_index) == (2, 5)
    node.fsync()
    assert node.raft.durable == 5


def test_the_end_of_a_fsync_does_not_make_durable_what_was_cut_meanwhile() -> None:
    """PROTOCOL 1.0: the fsync of the old tail ends after the cut."""
    node = Node("1.1", commit=1)
    node.receive(2, append(2, 2, "2.2 2.3 2.4"))
    node.receive(3, append(3, 2, "3.2 3.3"))
    assert node.disk_step()
    assert node.raft.durable == 1
    node.fsync()
    assert node.raft.durable == 3
    assert show_disk(node.disk) == "1.1 3.2 3.3"


def test_what_is_committed_is_applied_only_when_it_is_durable() -> None:
    """PROTOCOL 1.0 (!): applied <= durable."""
    node = Node("1.1", commit=1)
    node.receive(2, append(2, 2, "2.2 2.3", commit=3))
    node.receive(2, append(2, 4, "", commit=3))
    assert node.state.index == 1
    node.fsync()
    assert node.state.index == 3


def test_the_invariants_hold_at_every_step_and_after_a_restart() -> None:
    """PROTOCOL 1.0 (!): applied <= commit_index <= agreed <= last, applied <= durable."""

    def check(node: Node) -> None:
        raft = node.raft
        assert raft.applied <= raft.commit_index <= raft.agreed <= raft.log.last_index
        assert raft.applied <= raft.durable <= raft.log.last_index

    node = Node("1.1 1.2 1.3", commit=1)
    for message in (
        append(2, 2, "2.2 2.3", commit=9),
        append(2, 9, "", commit=9),
        append(3, 4, "", commit=3),
        append(3, 3, "3.3", commit=3),
    ):
        node.receive(2, message)
        check(node)
        node.disk_step()
        check(node)
        check(node.restarted())


def test_the_commit_index_survives_a_restart_as_far_as_it_was_written() -> None:
    """PROTOCOL 1.2: "a min(commit_index, durable) written along with some log fsync"."""
    node = Node("1.1")
    node.receive_settled(2, append(2, 1, "1.1 2.2", commit=2))
    node.receive_settled(2, append(2, 3, "2.3", commit=2))
    assert node.disk.hard_state.commit_index == 2
    assert node.restarted().raft.commit_index == 2


def test_what_is_written_of_the_commit_index_is_durable() -> None:
    """PROTOCOL 1.2: the ``min`` in it; a leader commits by its followers before its own fsync."""
    node = committed_leader("1.1")
    node.propose(b"x")
    acknowledge(node, 2)
    acknowledge(node, 3)
    assert node.raft.commit_index == 3
    node.raft.become_follower(7)
    node.pump()
    node.disk_queue.rotate(1)
    assert node.disk_step()  # term and commit index, before the fsync of entry 3
    assert node.disk.hard_state == HardState(7, 0, 2)


@pytest.mark.parametrize(
    ("log", "written", "flushed", "commit"),
    [
        ("1.1 1.2 1.3", 0, 0, 0),
        ("1.1 1.2 1.3", 2, 0, 2),
        ("1.1 1.2 1.3", 1, 2, 2),
        ("1.1 1.2 1.3", 9, 0, 3),
        ("S1.4 1.5", 0, 4, 4),
        ("S1.4 1.5", 5, 4, 5),
    ],
)
def test_after_a_restart_the_commit_index_is_the_largest_that_is_known(
    log: str, written: int, flushed: int, commit: int
) -> None:
    """PROTOCOL 1.2: "the largest of: durably applied, the snapshot's index, and [what was] written"."""
    disk = disk_of(log)
    disk.hard_state = HardState(1, 0, written)
    disk.state = State(flushed)
    node = Node(disk=disk)
    assert (node.raft.commit_index, node.raft.agreed) == (commit, commit)
    assert node.state.index == commit  # what is committed and on disk is applied again


def test_a_new_replica_starts_with_the_genesis_snapshot() -> None:
    """PROTOCOL 1.1: "index 0, term 0"."""
    node = Node("")
    assert (node.raft.log.first_index, node.raft.log.last_index, node.raft.log.last_term) == (
        0,
        0,
        0,
    )
    assert node.raft.log.term_at(0) == 0
    assert node.raft.commit_index == 0


def test_a_vote_request_behind_a_snapshot_carries_the_snapshots_term() -> None:
    """PROTOCOL 1.1 (!): ``term`` is the term of the entry at ``index``; paper 7 (lastIncludedTerm)."""
    node = candidate("S3.8", term=5)
    request = node.raft.log
    assert (request.last_index, request.last_term) == (8, 3)
    assert not only(
        Node("S3.8", term=5).receive_settled(2, vote_request(6, "2.9")), VoteAnswer
    ).granted


def test_compaction_replaces_a_prefix_and_keeps_the_rest() -> None:
    """PROTOCOL 1.1, paper 7: the element has the entry's own term, the tail stays."""
    node = Node("1.1 2.2 3.3 3.4", commit=2)
    node.apply()
    assert node.compact()
    assert node.log == "S2.2 3.3 3.4"
    assert node.raft.log.slice(3, 4) == list(entries("3.3 3.4"))
    assert node.restarted().log == "S2.2 3.3 3.4"


def test_only_what_is_applied_and_durable_is_compacted() -> None:
    """PROTOCOL 1.1: "only what is applied and durable is compacted"."""
    node = Node("1.1 1.2 1.3", commit=2)
    with pytest.raises(AssertionError, match="applied and durable"):
        node.raft.compact(Snapshot(3, 1, 0, node.raft.log.members))
    assert node.log == "1.1 1.2 1.3"


def test_an_element_with_another_term_than_its_entry_is_refused() -> None:
    """PROTOCOL 1.1 (!): the term of the entry at ``index``, never a newer one."""
    node = Node("1.1 1.2", commit=2)
    with pytest.raises(AssertionError):
        node.raft.compact(Snapshot(2, 2, 0, node.raft.log.members))


def test_an_older_or_equal_element_changes_nothing() -> None:
    """FAULTS 41: two quick compactions."""
    node = Node("1.1 1.2 1.3", commit=3)
    assert node.compact()
    for index in (1, 3):
        assert not node.raft.compact(Snapshot(index, 1, 0, node.raft.log.members))
    assert node.log == "S1.3"


def test_the_first_entries_behind_a_snapshot_are_not_off_by_one() -> None:
    """FAULTS 14, on the leader and on the follower."""
    node = committed_leader("1.1 1.2")
    assert node.compact()
    sent = node.propose(b"x")
    assert [(m.first_index, len(m.entries)) for m in all_of(sent, Append, 2)] == [(4, 1)]
    node.propose(b"y")
    assert node.log == "S2.3 2.4 2.5"
    follower = Node("S2.3", replica_id=2)
    for message in (append(2, 4, "2.4"), append(2, 5, "2.5", commit=5)):
        answer = only(follower.receive_settled(1, message), Answer)
        assert (answer.ok, answer.agreed) == (True, message.first_index)
    assert (follower.log, follower.state.index) == ("S2.3 2.4 2.5", 5)


def test_no_gap_between_snapshot_and_first_entry_after_a_restart() -> None:
    """FAULTS 40."""
    node = committed_leader("1.1 1.2")
    node.compact()
    node.propose(b"x")
    node.fsync()
    again = node.restarted()
    assert again.log == "S2.3 2.4"
    assert again.raft.log.slice(4, 4)[0].payload == b"x"


def test_a_log_with_a_gap_is_refused() -> None:
    """FAULTS 40: never accepted silently."""
    with pytest.raises(AssertionError, match="gap: 3 after 1"):
        Node(disk=disk_of("1.1 1.3"))


def test_the_logs_size_follows_every_append_cut_and_new_first_element() -> None:
    """PROTOCOL 1.1: compaction is due by the bytes behind the first element (DESIGN 6)."""

    def check(node: Node) -> None:
        log = node.raft.log
        kept = log.slice(log.first_index + 1, log.last_index)
        assert log.payload_bytes == sum(len(entry.payload) for entry in kept)

    node = Node("1.1 1.2 1.3", commit=1)
    check(node)
    node.receive_settled(2, append(2, 2, "2.2 2.3 2.4 2.5", commit=3))
    check(node)
    assert node.compact()
    check(node)
    node.raft.log.begin_with(Snapshot(9, 9, 0, node.raft.log.members))
    check(node)
    assert node.raft.log.payload_bytes == 0


def test_a_log_reads_back_as_it_is_written_in_these_tests() -> None:
    """The notation itself."""
    for text in ("", "1.1 1.2 2.3", "S3.5 3.6 4.7", "S3.5"):
        assert show(Node(text).raft.log) == text
