"""Receiving a snapshot in chunks and installing it: the end of PROTOCOL 1.2, paper 7."""

from __future__ import annotations

import pytest

from overdb_node.raft.messages import Answer, Chunk, ChunkAnswer
from overdb_node.raft.output import EventKind, Stage
from tests.paper.helpers import (
    TICKS_MAX,
    Node,
    all_of,
    append,
    disk_of,
    only,
    vote_request,
)
from tests.paper.host import CHUNK_BYTES_MAX


def element(index: int = 6, term: int = 2, maker: int = 2) -> tuple[bytes, int, int]:
    """The stream of an element as leader 2 makes it."""
    return disk_of(f"S{term}.{index}", maker=maker).checkpoints[index], index, term


def chunks(term: int = 3, *, index: int = 6, element_term: int = 2, maker: int = 2) -> list[Chunk]:
    data, index, element_term = element(index, element_term, maker)
    return [
        Chunk(term, 1, index, element_term, o, len(data), data[o : o + CHUNK_BYTES_MAX])
        for o in range(0, len(data), CHUNK_BYTES_MAX)
    ]


def test_over_a_conflicting_log_the_snapshot_drops_it() -> None:
    """PROTOCOL 1.2: "otherwise drop the whole log"; paper 7 ("discard the entire log"). FAULTS 39."""
    node = Node("1.1 1.2 1.3 1.4 1.5 1.6 1.7 1.8", commit=1)
    for chunk in chunks():
        sent = node.receive_settled(2, chunk)
    assert only(sent, Answer) == Answer(3, 1, True, 6, 2)
    assert (node.log, node.state.index) == ("S2.6", 6)
    assert (node.raft.agreed, node.raft.commit_index, node.raft.durable) == (6, 6, 6)
    assert node.restarted().log == "S2.6"


def test_over_a_matching_log_the_snapshot_keeps_the_tail() -> None:
    """PROTOCOL 1.2: "keep the entries after it"; paper 7. FAULTS 39."""
    node = Node("1.1 1.2 1.3 1.4 2.5 2.6 2.7 2.8", commit=1)
    for chunk in chunks():
        sent = node.receive_settled(2, chunk)
    assert only(sent, Answer) == Answer(
        3, 1, True, 6, 2
    )  # the tail is not known to be the leader's
    assert (node.log, node.raft.agreed, node.raft.durable) == ("S2.6 2.7 2.8", 6, 8)
    assert node.restarted().log == "S2.6 2.7 2.8"


def test_it_is_tested_again_when_the_last_chunk_is_in() -> None:
    """PROTOCOL 1.2: "tested again when the last chunk is in": the log has grown past it. FAULTS 41."""
    node = Node("1.1", commit=1)
    *first, last = chunks()
    for chunk in first:
        node.receive_settled(2, chunk)
    node.receive(2, last)
    node.receive(2, append(3, 2, "2.2 2.3 2.4 2.5 2.6 3.7", commit=7))
    sent = node.fsync()
    assert (node.log, node.state.index) == ("1.1 2.2 2.3 2.4 2.5 2.6 3.7", 7)
    assert all(answer.ok for answer in all_of(sent, Answer))
    assert not node.happened(EventKind.SNAPSHOT_INSTALLED)


def test_a_chunk_is_answered_once_it_is_staged_on_disk() -> None:
    """PROTOCOL 1.0 for chunks: the answer says what would survive."""
    node = Node("", term=3)
    assert node.receive(2, chunks()[0]) == []
    assert only(node.fsync(), ChunkAnswer).next_offset == CHUNK_BYTES_MAX


def test_a_chunk_that_is_not_the_next_one_is_answered_with_the_offset_that_is() -> None:
    """PROTOCOL 1.2: "send from offset o"; loss, duplication and reordering of chunks."""
    node = Node("", term=3)
    first, second, *_ = chunks()
    assert only(node.receive_settled(2, second), ChunkAnswer).next_offset == 0
    for chunk in (first, first):
        assert only(node.receive_settled(2, chunk), ChunkAnswer).next_offset == CHUNK_BYTES_MAX
    assert only(node.receive_settled(2, second), ChunkAnswer).next_offset == 2 * CHUNK_BYTES_MAX


def test_a_duplicate_of_the_chunk_that_is_being_written_is_dropped() -> None:
    """FAULTS 41."""
    node = Node("", term=3)
    node.receive(2, chunks()[0])
    assert node.receive(2, chunks()[0]) == []
    assert len([work for work in node.disk_queue if isinstance(work, Stage)]) == 1


@pytest.mark.parametrize(
    "other",
    [
        chunks(term=4)[0],
        chunks(index=7)[0],
        chunks(element_term=3)[0],
    ],
    ids=["term", "index", "term of entry"],
)
def test_what_is_staged_is_dropped_when_any_part_of_its_name_changes(other: Chunk) -> None:
    """PROTOCOL 1.2: "Chunks carry (term, leader, index, term of entry, offset); what is staged is
    dropped when any of them changes"."""
    node = Node("", term=3)
    for chunk in chunks()[:2]:
        node.receive_settled(2, chunk)
    late = Chunk(
        other.term, 1, other.index, other.element_term, CHUNK_BYTES_MAX, other.size, b"x" * 24
    )
    leader = 2 if other.term == 3 else 3  # a term has one
    assert only(node.receive_settled(leader, late), ChunkAnswer).next_offset == 0
    sent = node.receive_settled(leader, other)
    assert only(sent, ChunkAnswer).next_offset == CHUNK_BYTES_MAX


def test_a_damaged_stream_is_begun_again() -> None:
    """Output.Stage: 0 is reported when the verified bytes were wrong; FAULTS 31."""
    node = Node("", term=3)
    good = chunks()
    bad = good[0]
    damaged = Chunk(bad.term, 1, bad.index, bad.element_term, 0, bad.size, b"?" * len(bad.data))
    for chunk in [damaged, *good[1:]]:
        sent = node.receive_settled(2, chunk)
    assert only(sent, ChunkAnswer).next_offset == 0
    assert node.log == ""
    for chunk in good:
        node.receive_settled(2, chunk)
    assert node.log == "S2.6"


def test_the_end_of_an_old_stage_is_not_taken_for_the_new_leaders_one() -> None:
    """PROTOCOL 1.2: "dropped when any of them changes"; term and leader belong to the name.

    Leader 2's second chunk is still being written when leader 3 of the next term begins to stream
    the same element, whose bytes are other ones (a checkpoint's files differ between replicas).
    """
    node = Node("", term=3)
    old, new = chunks(term=3, maker=2), chunks(term=4, maker=3)
    node.receive_settled(2, old[0])
    node.receive(2, old[1])
    sent = node.receive(3, new[0])
    while not all_of(sent, ChunkAnswer):
        assert node.disk_step()
        sent += node.taken()
    assert only(sent, ChunkAnswer).next_offset == CHUNK_BYTES_MAX


def test_while_it_installs_it_says_nothing_and_does_not_campaign() -> None:
    """PROTOCOL 1.2: "all of it atomic on disk"; Output.Install."""
    node = Node("", term=3)
    *first, last = chunks()
    for chunk in first:
        node.receive_settled(2, chunk)
    node.receive(2, last)
    while node.raft.installing is None:
        assert node.disk_step()
    node.taken()
    assert node.receive(3, vote_request(9, "8.9", transfer=True)) == []
    assert node.receive(2, append(3, 1, "1.1")) == []
    assert node.tick(3 * TICKS_MAX) == []
    assert node.restarted().log == ""
    assert only(node.fsync(), Answer).agreed == 6
    assert (node.log, node.raft.term) == ("S2.6", 3)


def test_killed_before_the_install_the_old_log_is_there_and_after_it_the_new_one() -> None:
    """PROTOCOL 1.2: "all of it atomic on disk"."""
    node = Node("1.1 1.2", commit=1, term=3)
    for chunk in chunks():
        node.receive(2, chunk)
        while node.disk_step():
            again = node.restarted()
            assert again.log in ("1.1 1.2", "S2.6")
            assert again.state.index == {"1.1 1.2": 1, "S2.6": 6}[again.log]
    assert node.log == "S2.6"


def test_a_second_snapshot_of_the_same_element_is_harmless() -> None:
    """FAULTS 41."""
    node = Node("", term=3)
    for chunk in chunks() * 2:
        sent = node.receive_settled(2, chunk)
    assert (only(sent, Answer).ok, node.log, node.state.index) == (True, "S2.6", 6)


def test_an_older_element_never_moves_the_state_back() -> None:
    """FAULTS 41."""
    node = Node("", term=3)
    for chunk in chunks() + chunks(index=4):
        node.receive_settled(2, chunk)
    assert (node.log, node.state.index) == ("S2.6", 6)
