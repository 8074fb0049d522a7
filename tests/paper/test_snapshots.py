"""Sending the log from its first element: the paper's section 7 and the end of PROTOCOL 1.2."""

from __future__ import annotations

from typing import Any

from overdb_node.raft.messages import Answer, Append, Chunk, ChunkAnswer, Offer, OfferAnswer
from overdb_node.raft.output import EventKind
from tests.paper.helpers import (
    TICKS_MIN,
    Node,
    Sent,
    acknowledge,
    all_of,
    append,
    committed_leader,
    leader,
    only,
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
    assert all_of(lead.receive(3, again), Chunk)[0].offset == CHUNK_BYTES_MAX


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
    for _ in range(node.raft.settings.keep_silent_ticks):
        node.tick()
        acknowledge(node, 2, round_=node.raft.leading.round)
        assert not node.compact()
    node.tick(3)
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
    assert answer == OfferAnswer(3, 5, 2, 2, 0, node.raft.settings.chunk_window_bytes)
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


def test_a_restart_forgets_what_was_staged_and_the_transfer_still_ends() -> None:
    """FAULTS 42: after a crash in mid-transfer the offset is asked for again."""
    lead, node = compacted_leader(), Node("", replica_id=3)
    asked = node.receive_settled(1, all_of(behind(lead), Offer, 3)[0])
    node.receive_settled(1, all_of(lead.receive(3, only(asked, OfferAnswer)), Chunk)[0])
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
