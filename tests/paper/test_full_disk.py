"""A disk without room (PROTOCOL 1.4): what a follower still takes, and what a leader makes of it."""

from __future__ import annotations

import pytest

from overdb_node.raft.messages import Answer, Append, Chunk, Offer, OfferAnswer
from overdb_node.raft.output import EventKind, Stage
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import DiskState, Entry, EntryKind
from tests.paper.helpers import Node, Sent, all_of, append, committed_leader, only

SMALL = RaftSettings().small_entry_bytes


def of_sizes(first: int, *sizes: int, term: int = 1, commit: int = 0) -> Append:
    """Entries from ``first`` on, of so many bytes each."""
    found = (Entry(first + i, term, EntryKind.COMMANDS, bytes(n)) for i, n in enumerate(sizes))
    return Append(term, 7, first, tuple(found), commit)


def full(log: str = "1.1", **how: object) -> Node:
    node = Node(log, **how)  # type: ignore[arg-type]
    node.raft.set_room(DiskState.FULL, None)
    return node


def test_a_full_follower_takes_what_is_before_the_first_large_entry() -> None:
    node = full(commit=1)
    answer = only(node.receive_settled(2, of_sizes(2, 9, SMALL, SMALL + 1, 9)), Answer)
    assert (answer.ok, answer.agreed, answer.disk) == (True, 3, DiskState.FULL)
    assert node.log == "1.1 1.2 1.3"
    assert node.raft.agreed == 3


def test_what_it_did_not_take_is_never_agreed_nor_committed() -> None:
    """PROTOCOL 1.4 (!): it answers as if the message had ended there."""
    node = full(commit=1)
    answer = only(node.receive_settled(2, of_sizes(2, SMALL + 1, 9, commit=3)), Answer)
    assert (answer.ok, answer.agreed) == (True, 1)
    assert node.raft.commit_index == 1
    assert node.log == "1.1"


def test_where_nothing_is_taken_nothing_is_cut() -> None:
    node = full("1.1 1.2 1.3", commit=1)
    node.receive_settled(2, of_sizes(2, SMALL + 1, term=2))
    assert node.log == "1.1 1.2 1.3"
    assert node.raft.agreed == 1


def test_a_small_entry_replaces_one_that_differs() -> None:
    node = full("1.1 1.2 1.3", commit=1)
    node.receive_settled(2, of_sizes(2, 5, SMALL + 1, term=2))
    assert node.log == "1.1 2.2"


def test_entries_that_it_has_are_no_question_of_room() -> None:
    node = Node("1.1", commit=1)
    node.receive_settled(2, of_sizes(2, SMALL + 1))
    node.raft.set_room(DiskState.FULL, None)
    answer = only(node.receive_settled(2, of_sizes(2, SMALL + 1, 9)), Answer)
    assert answer.agreed == 3


def test_a_message_beyond_a_gap_is_refused_as_ever() -> None:
    answer = only(full(commit=1).receive_settled(2, append(1, 9)), Answer)
    assert (answer.ok, answer.agreed, answer.disk) == (False, 1, DiskState.FULL)


def test_with_room_again_it_takes_everything() -> None:
    node = full(commit=1)
    node.receive_settled(2, of_sizes(2, SMALL + 1))
    node.raft.set_room(DiskState.LOW, None)
    answer = only(node.receive_settled(2, of_sizes(2, SMALL + 1)), Answer)
    assert (answer.agreed, answer.disk) == (2, DiskState.LOW)


# --- snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_that_does_not_fit_is_not_asked_for() -> None:
    node = Node("1.1", commit=1)
    node.raft.set_room(DiskState.FREE, 999)
    sent = node.receive_settled(2, Offer(1, 3, 5, 1, 1000))
    assert only(sent, Answer).ok
    assert only(sent, Answer).disk == DiskState.FULL, "it takes nothing"
    assert not all_of(sent, OfferAnswer)
    assert node.raft.following.needs_room_bytes == 1000
    assert all_of(node.receive_settled(2, Offer(1, 4, 5, 1, 999)), OfferAnswer)
    assert not node.raft.following.needs_room_bytes


def test_that_a_snapshot_does_not_fit_is_said_until_it_is_not_needed() -> None:
    node = Node("1.1", commit=1)
    node.raft.set_room(DiskState.FREE, 999)
    said = []
    for round_ in (3, 4):
        node.raft.receive(2, Offer(1, round_, 5, 1, 1000))
        said += [event.kind for event in node.raft.take_output().events]
    assert said.count(EventKind.SNAPSHOT_HAS_NO_ROOM) == 1
    node.receive_settled(2, of_sizes(2, 9))  # another leader, or one that has the entries after all
    assert not node.raft.following.needs_room_bytes


def test_one_under_way_goes_on_though_its_bytes_take_the_room() -> None:
    node = with_bytes_staged(400)
    node.raft.set_room(DiskState.FREE, 10)
    assert all_of(node.receive_settled(2, Offer(1, 4, 5, 1, 1000)), OfferAnswer)


def with_bytes_staged(count: int) -> Node:
    """A follower with so many bytes of replica 2's snapshot of 1000."""
    node = Node("1.1", commit=1)
    node.receive_settled(2, Offer(1, 3, 5, 1, 1000))
    node.raft.receive(2, Chunk(1, 3, 5, 1, 0, 1000, bytes(count)))
    node.raft.staged(only_stage(node), count, None)
    node.settle()
    return node


def only_stage(node: Node) -> Stage:
    (stage,) = node.raft.take_output().stages
    return stage


def test_bytes_of_another_leader_do_not_take_the_room_of_this_ones() -> None:
    """They go before the first bytes of the new one come."""
    node = with_bytes_staged(400)
    node.raft.set_room(DiskState.FREE, 800)
    assert only(node.receive_settled(3, Offer(2, 1, 6, 2, 1001)), Answer).disk == DiskState.FULL
    for round_ in (2, 3):  # once accepted, also while its first bytes are awaited
        assert all_of(node.receive_settled(3, Offer(2, round_, 6, 2, 1000)), OfferAnswer)
    assert all_of(node.receive_settled(3, Offer(2, 4, 7, 2, 1000)), OfferAnswer), "a newer element"


def test_bytes_that_were_dropped_count_until_the_next_look_and_not_behind_it() -> None:
    node = with_bytes_staged(900)
    node.raft.set_room(DiskState.FREE, 600)  # 1200 free beside the 900
    node.raft.receive(2, Chunk(1, 3, 5, 1, 900, 1000, bytes(100)))
    node.raft.staged(only_stage(node), 0, None)  # all of it is damaged
    node.settle()
    assert all_of(node.receive_settled(2, Offer(1, 5, 5, 1, 1000)), OfferAnswer)
    node.raft.set_room(DiskState.FREE, 999)
    assert only(node.receive_settled(2, Offer(1, 6, 5, 1, 1000)), Answer).disk == DiskState.FULL


def test_one_that_found_no_room_on_its_way_is_judged_anew() -> None:
    """Its bytes are gone, and so is what makes it go on: an operator reads what is missing."""
    node = with_bytes_staged(400)
    node.raft.receive(2, Chunk(1, 3, 5, 1, 400, 1000, bytes(100)))
    node.raft.staged(only_stage(node), 0, None)
    node.settle()
    node.raft.set_room(DiskState.FREE, 900)
    assert only(node.receive_settled(2, Offer(1, 5, 5, 1, 1000)), Answer).disk == DiskState.FULL
    assert node.raft.following.needs_room_bytes == 1000
    node.raft.set_room(DiskState.FREE, 1000)
    assert only(node.receive_settled(2, Offer(1, 6, 5, 1, 1000)), OfferAnswer).send_from == 0


# --- the leader -------------------------------------------------------------------------------------


def says(node: Node, follower: int, disk: DiskState, *, agreed: int = 1) -> Sent:
    """The newest round's answer of a follower."""
    term = node.raft.log.term_at(agreed)
    assert term is not None
    round_ = node.raft.leading.round
    return node.receive(follower, Answer(node.raft.term, round_, True, agreed, term, disk=disk))


def test_a_leader_sends_small_entries_alone_to_a_full_follower() -> None:
    node = committed_leader("1.1")
    says(node, 2, DiskState.FULL, agreed=2)
    sent = node.propose(b"small", bytes(SMALL + 1), b"small too")
    to_full = all_of(sent, Append, to=2)
    assert [len(entry.payload) for message in to_full for entry in message.entries] == [5]
    assert len(all_of(sent, Append, to=3)[0].entries) == 3
    assert not all_of(node.propose(b"behind it"), Append, to=2)


def test_it_sends_the_rest_as_soon_as_there_is_room() -> None:
    node = committed_leader("1.1")
    says(node, 2, DiskState.FULL, agreed=2)
    node.propose(bytes(SMALL + 1), b"small")
    sent = says(node, 2, DiskState.LOW, agreed=2)
    assert [len(m.entries) for m in all_of(sent, Append, to=2) if m.entries] == [2]


def test_a_full_follower_counts_for_what_it_has() -> None:
    node = committed_leader("1.1")
    says(node, 2, DiskState.FULL, agreed=2)
    node.propose(b"stamp")
    node.settle()
    assert node.raft.commit_index == 2
    says(node, 2, DiskState.FULL, agreed=3)
    assert node.raft.commit_index == 3


@pytest.mark.parametrize(
    ("own", "others", "of_majority"),
    [
        (DiskState.FREE, (DiskState.FREE, DiskState.FULL), DiskState.FREE),
        (DiskState.FREE, (DiskState.LOW, DiskState.FULL), DiskState.LOW),
        (DiskState.FREE, (DiskState.FULL, DiskState.FULL), DiskState.FULL),
        (DiskState.FULL, (DiskState.FREE, DiskState.FREE), DiskState.FREE),
    ],
)
def test_the_best_majority_counts(
    own: DiskState, others: tuple[DiskState, DiskState], of_majority: DiskState
) -> None:
    node = committed_leader("1.1")
    node.raft.set_room(own, None)
    for follower, disk in zip((2, 3), others, strict=True):
        says(node, follower, disk, agreed=2)
    assert node.raft.leading.disk_of_majority is of_majority


def test_a_follower_that_fell_silent_takes_nothing_either() -> None:
    node = committed_leader("1.1")
    says(node, 2, DiskState.FREE, agreed=2)
    says(node, 3, DiskState.LOW, agreed=2)
    before = node.raft.leading.disk_of_majority
    for _ in range(node.raft.settings.election_ticks_max + 1):
        node.tick()
        says(node, 3, DiskState.LOW, agreed=2)
    assert (before, node.raft.leading.disk_of_majority) == (DiskState.FREE, DiskState.LOW)
