"""Sending the log from its first element: the paper's section 7 and the end of PROTOCOL 1.2."""

from __future__ import annotations

from typing import Any

import pytest
from overdb_node.raft.messages import Answer, Append, Chunk, ChunkAnswer, Offer, OfferAnswer
from overdb_node.raft.output import EventKind, Stage

from tests.paper.helpers import (
    TICKS_MAX,
    TICKS_MIN,
    Node,
    Sent,
    acknowledge,
    all_of,
    append,
    committed_leader,
    disk_of,
    leader,
    only,
    vote_request,
)
from tests.paper.host import CHUNK_BYTES_MAX


def compacted_leader(log: str = "1.1 1.2 1.3", **how: Any) -> Node:
    """A leader of term 2 whose log is nothing but its first element; follower 3 has refused at 0."""
    node = committed_leader(log, **how)
    assert node.compact()
    node.taken()
    return node


def behind(node: Node, follower: int = 3, at: int = 0) -> Sent:
    """Tell the leader that ``follower`` is at ``at``; what it sends then, with the next heartbeat."""
    term = node.raft.log.term_at(at) or 0
    sent = node.receive(follower, Answer(node.raft.term, node.raft.leading.round, False, at, term))
    return sent + node.tick(node.raft.settings.heartbeat_ticks)


def stream(sender: Node, receiver: Node, sent: Sent) -> list[object]:
    """Carry messages between the two until they are silent; return them in order."""
    trace: list[object] = []
    here, there = sender, receiver
    while True:
        mine = [m for to, m in sent if to == there.replica_id]
        if not mine:
            return trace
        trace += mine
        sent = []
        for message in mine:
            sent += there.receive_settled(here.replica_id, message)
        here, there = there, here


# --- the leader ---------------------------------------------------------------------------------------


def test_who_lags_beyond_the_log_is_offered_its_first_element() -> None:
    """PROTOCOL 1.2: "If next is at or before its first element it first *offers*"; paper 7."""
    node = compacted_leader()
    offers = all_of(behind(node), Offer, 3)
    size = node.disk.snapshot.size
    assert offers
    assert {(o.index, o.element_term, o.size) for o in offers} == {(4, 2, size)}


def test_who_lags_less_is_sent_entries() -> None:
    """PROTOCOL 1.1: "one code path for a follower that lags a little and one that lags beyond"."""
    node = compacted_leader()
    node.propose(b"x")
    sent = behind(node, at=4)
    assert all_of(sent, Offer) == []
    assert [e.index for e in all_of(sent, Append, 3)[0].entries] == [5]


def test_a_snapshot_goes_in_chunks_then_the_entries_behind_it() -> None:
    """PROTOCOL 1.2: "the snapshot follows in chunks, then the entries after it"."""
    lead = compacted_leader()
    lead.propose(b"x", b"y")
    lead.fsync()
    follower = Node("1.1", replica_id=3)
    trace = stream(lead, follower, behind(lead))
    chunks = [m for m in trace if isinstance(m, Chunk)]
    assert len(chunks) == -(-lead.disk.snapshot.size // CHUNK_BYTES_MAX) > 2
    assert [c.offset for c in chunks] == [i * CHUNK_BYTES_MAX for i in range(len(chunks))]
    assert follower.log == "S2.4 2.5 2.6"
    assert follower.restarted().log == "S2.4 2.5 2.6"
    assert follower.state.digest != 0
    assert follower.happened(EventKind.SNAPSHOT_INSTALLED)
    assert lead.raft.leading.progress[3].match == 6


def test_a_plain_refusal_does_not_restart_a_transfer() -> None:
    """PROTOCOL 1.2: "(a plain refusal never restarts a transfer)"."""
    node = compacted_leader()
    behind(node)
    node.receive(3, OfferAnswer(2, 1, 4, 2, 0))
    sent = node.receive(3, Answer(2, node.raft.leading.round, False, 0, 0))
    assert all_of(sent, Chunk) == []
    sent = node.receive(3, ChunkAnswer(2, 1, 4, 2, CHUNK_BYTES_MAX))
    assert only(sent, Chunk).offset == CHUNK_BYTES_MAX


def test_an_interrupted_transfer_goes_on_where_it_was() -> None:
    """PROTOCOL 1.2: "send from offset o"; FAULTS 42."""
    lead, follower = compacted_leader(), Node("", replica_id=3)
    offer = all_of(behind(lead), Offer, 3)[0]
    asked = follower.receive_settled(1, offer)
    first = all_of(lead.receive(3, only(asked, OfferAnswer)), Chunk)[0]
    lost = follower.receive_settled(1, first)
    assert only(lost, ChunkAnswer).next_offset == CHUNK_BYTES_MAX
    lead.tick(lead.raft.settings.chunk_retry_ticks // 2)
    acknowledge(lead, 2, round_=lead.raft.leading.round)
    lead.tick(lead.raft.settings.chunk_retry_ticks // 2 - 1)
    offer = all_of(lead.tick(1) + lead.tick(1), Offer, 3)[-1]
    again = only(follower.receive_settled(1, offer), OfferAnswer)
    assert again.send_from == CHUNK_BYTES_MAX
    assert only(lead.receive(3, again), Chunk).offset == CHUNK_BYTES_MAX


def test_heartbeats_do_not_double_a_transfer_that_goes_on() -> None:
    """Offers are heartbeats too: while a chunk is under way their answers ask for nothing."""
    node = compacted_leader()
    behind(node)
    assert only(node.receive(3, OfferAnswer(2, 1, 4, 2, 0)), Chunk).offset == 0
    for _ in range(3):
        node.tick(2)
        round_ = node.raft.leading.round
        assert all_of(node.receive(3, OfferAnswer(2, round_, 4, 2, 0)), Chunk) == []


def test_a_duplicated_chunk_answer_does_not_double_the_stream() -> None:
    """PROTOCOL 1.2 with the notation of its chunks: one is under way at a time."""
    node = compacted_leader()
    behind(node)
    node.receive(3, OfferAnswer(2, 1, 4, 2, 0))
    answer = ChunkAnswer(2, 1, 4, 2, CHUNK_BYTES_MAX)
    assert len(all_of(node.receive(3, answer), Chunk)) == 1
    assert all_of(node.receive(3, answer), Chunk) == []


def test_the_log_is_not_compacted_while_its_first_element_is_streamed() -> None:
    """PROTOCOL 1.2: "the entries after it, which the leader keeps as long as it streams"."""
    node = compacted_leader()
    node.propose(b"x")
    node.fsync()
    acknowledge(node, 2)
    behind(node)
    node.receive(3, OfferAnswer(2, 1, 4, 2, 0))
    assert not node.compact()
    acknowledge(node, 3, round_=node.raft.leading.round)
    assert node.compact()


def test_check_quorum_does_not_let_a_stream_be_compacted_away() -> None:
    """PROTOCOL 1.2, the same sentence, at the tick at which CheckQuorum counts anew."""
    node = compacted_leader()
    node.propose(b"x")
    node.fsync()
    acknowledge(node, 2)
    behind(node)
    for tick in range(2 * TICKS_MIN):
        node.receive(3, ChunkAnswer(2, node.raft.leading.round, 4, 2, CHUNK_BYTES_MAX))
        acknowledge(node, 2, round_=node.raft.leading.round)
        node.tick()
        assert not node.compact(), f"compacted at tick {tick}"


def test_a_down_follower_does_not_stop_compaction() -> None:
    """FAULTS 42: "A down follower does not stop snapshots, and always catches up"."""
    node = compacted_leader()
    node.propose(b"x")
    node.fsync()
    behind(node)
    node.receive(3, OfferAnswer(2, 1, 4, 2, 0))
    for _ in range(2 * TICKS_MIN):
        node.tick()
        acknowledge(node, 2, round_=node.raft.leading.round)
    assert node.compact()
    follower = Node("", replica_id=3)
    stream(node, follower, node.tick(2))
    assert follower.log == node.log == "S2.5"


def test_an_answer_about_another_element_moves_nothing() -> None:
    """PROTOCOL 1.2: a transfer is of one element (index, term)."""
    node = compacted_leader()
    behind(node)
    for answer in (OfferAnswer(2, 1, 3, 1, 0), ChunkAnswer(2, 1, 4, 1, 24)):
        assert all_of(node.receive(3, answer), Chunk) == []


# --- the follower: offers -----------------------------------------------------------------------------


def test_who_has_the_element_is_sent_nothing() -> None:
    """PROTOCOL 1.2: "a follower whose log has that entry sets agreed := commit_index := index and
    answers "have it", nothing is streamed"."""
    node = Node("1.1 1.2 1.3", commit=0)
    answer = only(node.receive_settled(2, Offer(2, 5, 2, 1, 100)), Answer)
    assert answer == Answer(2, 5, True, 2, 1)
    assert (node.raft.agreed, node.raft.commit_index, node.state.index) == (2, 2, 2)
    assert node.log == "1.1 1.2 1.3"


def test_the_element_of_another_term_is_not_had() -> None:
    """PROTOCOL 1.2: it is the entry, term included, that must be there."""
    node = Node("1.1 1.2 1.3", commit=0)
    answer = only(node.receive_settled(2, Offer(3, 5, 2, 2, 100)), OfferAnswer)
    assert answer == OfferAnswer(3, 5, 2, 2, 0)
    assert (node.raft.agreed, node.raft.commit_index) == (0, 0)


def test_an_element_at_or_below_agreed_is_ignored_with_ok() -> None:
    """PROTOCOL 1.2: "Ignore it if snapshot.index <= agreed (answer ok)". FAULTS 41."""
    node = Node("S1.5 1.6", commit=6)
    for index in (3, 5, 6):
        answer = only(node.receive_settled(2, Offer(1, 0, index, 1, 100)), Answer)
        assert (answer.ok, answer.agreed) == (True, 6)
        answer = only(node.receive_settled(2, Chunk(1, 0, index, 1, 0, 100, b"x")), Answer)
        assert (answer.ok, answer.agreed) == (True, 6)
    assert (node.log, node.state.index) == ("S1.5 1.6", 6)


def test_have_it_says_no_more_than_is_durable() -> None:
    """PROTOCOL 1.0 and 1.2: min(agreed, durable), also here."""
    node = Node("1.1", commit=1)
    node.receive(2, append(1, 2, "1.2 1.3"))
    answer = only(node.receive(2, Offer(1, 0, 3, 1, 100)), Answer)
    assert (answer.ok, answer.agreed) == (True, 1)
    assert node.raft.commit_index == 1


# --- the follower: chunks ---------------------------------------------------------------------------


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
    assert only(node.receive_settled(3, late), ChunkAnswer).next_offset == 0
    sent = node.receive_settled(3, other)
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
    assert node.receive(3, vote_request(9, "9.9", transfer=True)) == []
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


def test_a_restart_forgets_what_was_staged_and_the_transfer_still_ends() -> None:
    """FAULTS 42: after a crash in mid-transfer the offset is asked for again."""
    lead, node = compacted_leader(), Node("", replica_id=3)
    asked = node.receive_settled(1, all_of(behind(lead), Offer, 3)[0])
    node.receive_settled(1, only(lead.receive(3, only(asked, OfferAnswer)), Chunk))
    again = node.restarted()
    lead.receive(2, Answer(2, lead.raft.leading.round, True, 4, 2))
    for _ in range(3 * lead.raft.settings.chunk_retry_ticks):
        acknowledge(lead, 2, round_=lead.raft.leading.round)
        stream(lead, again, lead.tick())
    assert again.log == lead.log == "S2.4"


def test_a_new_leader_sends_its_own_element() -> None:
    """PROTOCOL 1.1: whoever leads sends the log from its first element."""
    node = leader("S3.8 3.9", term=4)
    node.taken()
    sent = node.receive(2, Answer(5, 1, False, 2, 1))
    assert all_of(sent, Offer, 2)[0].index == 8
