"""A follower that has found the streamed element damaged, and what its leader does (PROTOCOL 1.2)."""

from __future__ import annotations

from overdb_node.raft.messages import Chunk, ChunkAnswer, Offer, OfferAnswer
from overdb_node.raft.output import Dropped, EventKind
from tests.paper.helpers import Node, acknowledge, all_of, only
from tests.paper.host import CHUNK_BYTES_MAX
from tests.paper.test_snapshots import behind, compacted_leader, stream

INDEX, TERM = 4, 2  # of the first element, in the term of its leader


def drops(lead: Node) -> Node:
    """Replica 3 of a leader: what came of the stream was damaged, and the next time it will not be."""
    good = lead.disk.checkpoints[INDEX]
    lead.disk.checkpoints[INDEX] = good[:-1] + b"?"
    follower = Node("", replica_id=3)
    offsets = offsets_of(stream(lead, follower, behind(lead)))
    assert offsets == list(range(0, len(good), CHUNK_BYTES_MAX))
    assert follower.log == ""
    lead.disk.checkpoints[INDEX] = good
    return follower


def offsets_of(trace: list[object]) -> list[int]:
    return [message.offset for message in trace if isinstance(message, Chunk)]


def leader_with_more() -> Node:
    """One that has applied an entry behind its first element."""
    lead = compacted_leader()
    lead.propose(b"x")
    lead.fsync()
    acknowledge(lead, 2)
    return lead


def pass_time(lead: Node, ticks: int, follower: Node | None = None) -> list[object]:
    """Let time pass for a leader that replica 2 answers, and replica 3; return what went between them."""
    trace: list[object] = []
    for _ in range(ticks):
        sent = lead.tick()
        acknowledge(lead, 2, round_=lead.raft.leading.round)
        if follower is not None:
            trace += stream(lead, follower, sent)
    return trace


def test_the_host_is_told_once_and_with_the_place() -> None:
    """The offset says whether the follower had all of it, or has only restarted."""
    lead = compacted_leader()
    drops(lead)
    assert lead.dropped == [Dropped(3, lead.raft.log.snapshot, lead.disk.snapshot.size)]


def test_a_dropped_element_is_sent_again_and_not_at_once() -> None:
    lead = compacted_leader()
    follower = drops(lead)
    assert not offsets_of(pass_time(lead, lead.raft.settings.chunk_retry_ticks - 1, follower))
    late = ChunkAnswer(2, lead.raft.leading.round, INDEX, TERM, 0)
    assert all_of(lead.receive(3, late), Chunk) == []
    assert len(lead.dropped) == 1
    assert offsets_of(pass_time(lead, 3, follower))[0] == 0
    assert follower.log == lead.log


def test_an_element_of_one_chunk_is_no_exception() -> None:
    """There the answer that all of it was dropped looks like one that was heard before."""
    lead = compacted_leader()
    behind(lead)
    answer = OfferAnswer(2, lead.raft.leading.round, INDEX, TERM, 0)
    assert only(lead.receive(3, answer), Chunk).offset == 0
    lead.receive(3, ChunkAnswer(2, lead.raft.leading.round, INDEX, TERM, 0))
    assert [d.offset for d in lead.dropped] == [CHUNK_BYTES_MAX]


def test_who_has_something_after_all_is_sent_the_rest_of_it_at_once() -> None:
    """A late copy of the answer, when the stream has begun again: the chunk under way is answered too."""
    lead = compacted_leader()
    drops(lead)
    answer = ChunkAnswer(2, lead.raft.leading.round, INDEX, TERM, CHUNK_BYTES_MAX)
    assert only(lead.receive(3, answer), Chunk).offset == CHUNK_BYTES_MAX
    assert not lead.compact()


def test_a_dropped_element_does_not_stop_compaction() -> None:
    """Whatever is wrong with it, a newer one is what the follower is offered then."""
    lead = leader_with_more()
    follower = drops(lead)
    assert lead.compact()
    pass_time(lead, 3, follower)
    assert follower.log == lead.log == "S2.5"


def test_what_is_damaged_here_is_not_sent_any_more() -> None:
    lead = compacted_leader()
    follower = drops(lead)
    lead.raft.withhold(lead.raft.log.snapshot, "a file is damaged")
    lead.raft.withhold(lead.raft.log.snapshot, "a file is damaged")
    trace = pass_time(lead, 5 * lead.raft.settings.chunk_retry_ticks, follower)
    assert {type(m) for m in trace} == {Offer, OfferAnswer}  # heartbeats, and that it lives
    damaged = [e.detail for e in lead.events if e.kind is EventKind.OWN_SNAPSHOT_DAMAGED]
    assert damaged == ["index 4: a file is damaged"]
    assert lead.raft.is_leader


def test_what_is_damaged_here_gives_way_while_another_follower_is_being_sent_it() -> None:
    lead = leader_with_more()
    other = drops(lead)
    behind(lead, 2)
    chunks = all_of(lead.receive(2, OfferAnswer(2, lead.raft.leading.round, INDEX, TERM, 0)), Chunk)
    assert chunks
    assert not lead.compact()
    lead.raft.withhold(lead.raft.log.snapshot, "a file is damaged")
    assert lead.compact()
    pass_time(lead, 3, other)
    assert other.log == "S2.5"
    late = ChunkAnswer(2, lead.raft.leading.round, INDEX, TERM, CHUNK_BYTES_MAX)
    assert all_of(lead.receive(2, late), Chunk) == []
    follower = Node("", replica_id=2)
    stream(lead, follower, lead.tick(2))
    assert follower.log == "S2.5"


def test_another_element_is_not_withheld() -> None:
    """The host has looked at one that is not the first any more."""
    lead = leader_with_more()
    acknowledge(lead, 3)
    old = lead.raft.log.snapshot
    assert lead.compact()
    lead.raft.withhold(old, "a file is damaged")
    follower = Node("", replica_id=3)
    stream(lead, follower, behind(lead))
    assert follower.log == "S2.5"
    assert not lead.happened(EventKind.OWN_SNAPSHOT_DAMAGED)
