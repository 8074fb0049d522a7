"""Who counts: PROTOCOL 3 and the paper's section 6, as far as the core carries them."""

from __future__ import annotations

from typing import Any

import pytest

from overdb_node.raft.messages import Answer, Append, Chunk, TimeoutNow, VoteAnswer, VoteRequest
from overdb_node.raft.output import Role
from overdb_node.raft.types import Entry, EntryKind, Member, Snapshot
from tests.paper.helpers import (
    TICKS_MAX,
    TICKS_MIN,
    Node,
    acknowledge,
    append,
    committed_leader,
    disk_of,
    entries,
    only,
    vote_request,
)
from tests.paper.host import (
    CHUNK_BYTES_MAX,
    Disk,
    State,
    checkpoint_stream,
    decode_members,
    encode_members,
)


def configuration(index: int, term: int, members: str) -> Entry:
    return Entry(index, term, EntryKind.CONFIGURATION, members.encode())


def with_configuration(members: str, *, before: str = "1.1", after: str = "", **how: Any) -> Node:
    """A replica whose log holds a configuration entry of term 1 between ``before`` and ``after``."""
    disk = disk_of(before)
    index = disk.snapshot.index + len(disk.entries) + 1
    disk.entries += [configuration(index, 1, members), *entries(after)]
    disk.hard_state = disk.hard_state.__class__(disk.entries[-1].term, 0, 0)
    return Node(disk=disk, **how)


def test_the_newest_configuration_in_the_log_counts_committed_or_not() -> None:
    """PROTOCOL 3.1 (!): "Never "at apply"". Paper 6: "uses that configuration for all future
    decisions [...] regardless of whether the entry is committed"."""
    node = Node("1.1", commit=1)
    assert node.raft.voters == [1, 2, 3]
    node.receive(2, Append(1, 0, 2, (configuration(2, 1, "1,2,3,4,5"),), 0))
    assert node.raft.commit_index == 1
    assert node.raft.voters == [1, 2, 3, 4, 5]


def test_a_cut_brings_the_configuration_before_it_back() -> None:
    """PROTOCOL 3.1: "computed anew after [...] cut"."""
    node = Node("1.1", commit=1)
    node.receive_settled(2, Append(1, 0, 2, (configuration(2, 1, "1,2,3,4,5"),), 0))
    node.receive_settled(3, append(2, 2, "2.2"))
    assert node.raft.voters == [1, 2, 3]


def test_a_restart_finds_the_configuration_in_the_log() -> None:
    """PROTOCOL 3.1: "computed anew after [...] restart". FAULTS 45."""
    node = Node("1.1", commit=1)
    node.receive_settled(2, Append(1, 0, 2, (configuration(2, 1, "1,2,3,4,5"),), 0))
    again = node.restarted()
    assert (again.raft.commit_index, again.raft.voters) == (1, [1, 2, 3, 4, 5])


def test_without_a_configuration_entry_the_snapshots_members_count() -> None:
    """PROTOCOL 3.1: "else log[0].members"."""
    assert Node("S1.4 1.5", count=5).raft.voters == [1, 2, 3, 4, 5]


def test_a_snapshots_members_are_those_at_its_index() -> None:
    """PROTOCOL 3.3 (!): not those of a configuration behind it."""
    disk = disk_of("1.1 1.2")
    disk.entries.append(configuration(3, 1, "1,2,3,4,5"))
    disk.hard_state = disk.hard_state.__class__(1, 0, 2)
    node = Node(disk=disk)
    assert node.compact()
    assert node.raft.log.first_index == 2
    assert len(node.raft.log.snapshot.members) == 3
    assert node.raft.voters == [1, 2, 3, 4, 5]
    assert node.restarted().raft.voters == [1, 2, 3, 4, 5]


def test_compaction_over_a_configuration_entry_keeps_its_members() -> None:
    """PROTOCOL 3.3 (!), 3.1; FAULTS 43."""
    node = with_configuration("1,2,3,4", after="1.3")
    node.receive_settled(2, append(1, 1, "", commit=0))
    node.receive_settled(
        2, Append(1, 0, 1, (*entries("1.1"), configuration(2, 1, "1,2,3,4"), *entries("1.3")), 3)
    )
    assert node.compact()
    assert (node.log, node.raft.voters) == ("S1.3", [1, 2, 3, 4])


def received(node: Node, index: int, term: int, members: tuple[Member, ...]) -> None:
    """Let leader 2 of term 3 stream an element with these members."""
    stream = checkpoint_stream(2, State(index, 7), members)
    for offset in range(0, len(stream), CHUNK_BYTES_MAX):
        data = stream[offset : offset + CHUNK_BYTES_MAX]
        node.receive_settled(2, Chunk(3, 1, index, term, offset, len(stream), data))
    assert node.raft.log.first_index == index


def test_after_an_install_the_snapshots_members_count() -> None:
    """PROTOCOL 3.3: "After an install they count"; the dropped log's configuration does not."""
    node = with_configuration("1,2,3,4,5", after="1.3 1.4")
    received(node, 4, 2, decode_members(b"1,2,3,6"))
    assert node.raft.voters == [1, 2, 3, 6]
    assert node.restarted().raft.voters == [1, 2, 3, 6]


def test_after_an_install_a_configuration_in_the_kept_tail_counts() -> None:
    """PROTOCOL 3.3: "unless the kept tail has a configuration entry"."""
    node = with_configuration("1,2,3,4,5", before="1.1 1.2 1.3")
    received(node, 2, 1, decode_members(b"1,2,3"))
    assert node.raft.voters == [1, 2, 3, 4, 5]
    assert node.restarted().raft.voters == [1, 2, 3, 4, 5]


def test_a_voter_that_is_none_any_more_does_not_elect() -> None:
    """PROTOCOL 3.4: only voters count, for votes."""
    node = with_configuration("1,2,3?,4?")
    node.receive_settled(2, TimeoutNow(1))
    for other in (3, 4, 9):
        node.receive_settled(other, VoteAnswer(2, True))
    assert node.raft.role is Role.CANDIDATE
    node.receive_settled(2, VoteAnswer(2, True))
    assert node.raft.is_leader


def led(members: str) -> Node:
    """Replica 1 leads a group with a configuration entry at index 2 and its no-op at 3."""
    node = with_configuration(members)
    node.receive_settled(2, TimeoutNow(1))
    for voter in node.raft.voters:
        if not node.raft.is_leader:
            node.receive_settled(voter, VoteAnswer(2, True))
    assert node.raft.is_leader
    return node


def test_a_learner_does_not_commit() -> None:
    """PROTOCOL 3.4: only voters count, for commit. FAULTS 46."""
    node = led("1,2,3?,4?")
    for learner in (3, 4):
        acknowledge(node, learner)
    assert node.raft.commit_index == 0
    acknowledge(node, 2)
    assert node.raft.commit_index == 3


def test_a_learner_does_not_confirm_a_read() -> None:
    """PROTOCOL 3.4: only voters count, for rounds."""
    node = led("1,2,3?,4?")
    acknowledge(node, 2)
    node.read("r")
    for learner in (3, 4):
        acknowledge(node, learner, round_=node.raft.leading.round)
    assert node.answered == []
    acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.answered == [("r", 3)]


def test_a_learner_does_not_keep_a_leader_in_office() -> None:
    """PROTOCOL 3.4: only voters count, for CheckQuorum."""
    node = led("1,2,3?,4?")
    for _ in range(2 * TICKS_MIN):
        node.tick()
        for learner in (3, 4):
            if node.raft.is_leader:
                acknowledge(node, learner, 1, node.raft.leading.round)
    assert not node.raft.is_leader


def test_a_leader_counts_itself_only_while_it_is_a_voter() -> None:
    """PROTOCOL 3.4: "a leader counts itself only while it is one"."""
    node = committed_leader("1.1")
    node.raft.leading.propose([b"2,3"], EntryKind.CONFIGURATION)
    node.pump()
    node.fsync()
    acknowledge(node, 2)
    assert node.raft.commit_index == 2
    acknowledge(node, 3)
    assert node.raft.commit_index == 3


@pytest.mark.parametrize("members", ["2,3", "1?,2,3", ""])
def test_only_a_voter_of_its_own_configuration_campaigns(members: str) -> None:
    """PROTOCOL 3.6; 3.5: a new replica starts "with no members of its own idea"."""
    node = with_configuration(members)
    assert node.tick(5 * TICKS_MAX) == []
    node.receive_settled(2, TimeoutNow(1))
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize("members", ["2,3", "1?,2,3", ""])
def test_votes_are_granted_regardless_of_the_own_configuration(members: str) -> None:
    """PROTOCOL 3.6: the asked one may not know yet that it is a voter, or that the other one is."""
    for candidate_id in (2, 9):
        node = with_configuration(members)
        answer = node.receive_settled(candidate_id, vote_request(2, "1.2"))
        assert only(answer, VoteAnswer) == VoteAnswer(2, True)


def test_a_learner_follows_and_acknowledges() -> None:
    """PROTOCOL 3.5: it "starts as a learner with no members of its own idea" and catches up."""
    disk = Disk(Snapshot(0, 0, 0, ()))
    node = Node(replica_id=4, disk=disk)
    answer = only(node.receive_settled(1, append(1, 1, "1.1 1.2", commit=2)), Answer)
    assert (answer.ok, answer.agreed, node.state.index) == (True, 2, 2)
    assert node.raft.role is Role.FOLLOWER


def test_nobody_asks_a_learner_for_its_vote() -> None:
    """PROTOCOL 3.4."""
    node = with_configuration("1,2,3,4?")
    sent = node.receive_settled(2, TimeoutNow(1))
    assert [to for to, m in sent if isinstance(m, VoteRequest)] == [2, 3]


def test_answers_of_replicas_outside_the_group_are_dropped() -> None:
    """PROTOCOL 3.5: "others are dropped", as far as the core sees it: it keeps no view of them."""
    node = committed_leader("1.1")
    node.propose(b"x")
    node.fsync()
    node.receive(9, Answer(2, 5, True, 3, 2))
    assert node.raft.commit_index == 2


def test_members_read_back_as_they_are_written_in_these_tests() -> None:
    """The notation itself."""
    for payload in (b"", b"1,2,3", b"1,2?,3"):
        assert encode_members(decode_members(payload)) == payload
