"""For which followers the log is kept, and when it is not any longer: PROTOCOL 1.2, FAULTS 36, 41, 42, 83."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from overdb_node.raft.entry_window import ENTRY_BYTES
from overdb_node.raft.errors import NotCaughtUp, Overloaded
from overdb_node.raft.membership import AddLearner, Promote
from overdb_node.raft.messages import (
    Answer,
    Append,
    Chunk,
    ChunkAnswer,
    Message,
    Offer,
    OfferAnswer,
)
from overdb_node.raft.output import EventKind
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import DiskState
from tests.paper.helpers import (
    TICKS_MIN,
    Node,
    acknowledge,
    all_of,
    append,
    committed_leader,
    only,
)
from tests.paper.host import encode_configuration
from tests.paper.test_snapshots import behind, compacted_leader

# An entry of these tests costs little more than ENTRY_BYTES.
SMALL = RaftSettings(
    log_memory_bytes_max=8 * ENTRY_BYTES,
    unapplied_bytes_max=4 * ENTRY_BYTES,
    fetch_bytes_max=4,
    kept_bytes_max=100,
    keep_silent_ticks=50,
    stall_ticks_max=30,
    slow_ticks_max=20,
    rest_ticks=15,
    pace_bytes_min=3,
)


def hear(lead: Node, sender: int, message: Message) -> None:
    """Deliver a message; what it makes ``lead`` send stays in ``lead.sent``."""
    lead.raft.receive(sender, message)
    lead.pump()


def write(lead: Node, count: int = 1, payload: bytes = b"x") -> None:
    """Have entries committed with the help of replica 2, and applied."""
    for _ in range(count):
        lead.raft.propose([payload])
        lead.pump()
    lead.settle()
    last = lead.raft.log.last_index
    hear(lead, 2, Answer(lead.raft.term, lead.raft.leading.round, True, last, lead.raft.term))
    assert lead.raft.applied == last


def deliver(sender: Node, receiver: Node) -> None:
    """Carry what ``sender`` has sent to ``receiver``; its disk finishes."""
    for to, message in sender.taken():
        if to == receiver.replica_id:
            receiver.raft.receive(sender.replica_id, message)
            receiver.pump()
    receiver.settle()


def pass_time(lead: Node, ticks: int, answer: Any = None) -> None:
    """Ticks in which replica 2 answers and replica 3, if ``answer`` is given, says that."""
    for _ in range(ticks):
        lead.raft.tick()
        lead.pump()
        match, round_ = lead.raft.leading.progress[2].match, lead.raft.leading.round
        hear(
            lead, 2, Answer(lead.raft.term, round_, True, match, lead.raft.log.term_at(match) or 0)
        )
        if answer is not None:
            hear(lead, 3, answer(round_))


def refuses(lead: Node, at: int) -> Any:
    """What a follower says that is alive and stays where it is."""
    term = lead.raft.log.term_at(at) or 0
    return lambda round_: Answer(lead.raft.term, round_, True, at, term)


# --- catching up while writes go on --------------------------------------------------------------------


def test_one_snapshot_is_enough_however_much_is_written_meanwhile() -> None:
    """The hole of the paper's InstallSnapshot under load: what the follower needs next must not be dropped.

    At every step something is written, and the leader would like to compact.
    """
    lead = compacted_leader(settings=SMALL)
    follower = Node("", replica_id=3, settings=SMALL)
    lead.sent += behind(lead)
    for _ in range(200):
        write(lead)
        lead.compact()
        deliver(lead, follower)
        deliver(follower, lead)
        lead.settle()
        assert lead.raft.log.memory_bytes <= SMALL.log_memory_bytes_max + 2 * ENTRY_BYTES
        if follower.raft.log.last_index >= lead.raft.log.last_index - 2:
            break
    else:
        raise AssertionError(f"at {follower.log} after 200 writes, the leader at {lead.log}")
    installed = [e for e in follower.events if e.kind is EventKind.SNAPSHOT_INSTALLED]
    assert len(installed) == 1
    assert lead.raft.log.first_index == 4, "compacted what the follower needed"
    for _ in range(6):
        deliver(lead, follower)
        deliver(follower, lead)
        lead.settle()
    assert lead.compact()
    assert follower.state == lead.state


def test_a_follower_that_lags_within_the_log_is_kept_for_too() -> None:
    """It never needed a snapshot; a compaction would make it need one."""
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 3)
    assert not lead.compact()
    acknowledge(lead, 3, 4)
    assert not lead.compact()
    acknowledge(lead, 3)
    assert lead.compact()


def test_the_log_is_kept_over_a_restart_and_an_installation() -> None:
    """A follower that installs answers nothing for longer than an election timeout; so does a restart."""
    lead = committed_leader("1.1", settings=replace(SMALL, stall_ticks_max=100))
    write(lead, 3)
    pass_time(lead, 2 * TICKS_MIN)
    assert not lead.compact()
    pass_time(lead, SMALL.keep_silent_ticks)
    assert lead.compact()


def test_one_whose_log_is_damaged_is_kept_nothing_for() -> None:
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 3)
    lead.receive(3, Answer(2, lead.raft.leading.round, True, 2, 1))
    assert lead.raft.leading.progress[3].damaged
    assert lead.compact()


# --- memory -------------------------------------------------------------------------------------------


def test_entries_that_are_applied_leave_memory_and_are_read_back() -> None:
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 40)
    log = lead.raft.log
    assert log.memory_bytes <= SMALL.log_memory_bytes_max
    assert (log.first_index, log.evicted_index > 30) == (0, True)
    assert [log.term_at(i) for i in (0, 1, 2, log.evicted_index, log.last_index)] == [0, 1, 2, 2, 2]
    follower = Node("1.1", replica_id=3, settings=SMALL)
    lead.taken()
    hear(lead, 3, Answer(2, lead.raft.leading.round, False, 1, 1))
    for _ in range(60):
        deliver(lead, follower)
        deliver(follower, lead)
        lead.settle()
    assert follower.raft.log.last_index == log.last_index
    assert follower.raft.log.memory_bytes <= SMALL.log_memory_bytes_max
    assert lead.raft.leading.progress[3].match == log.last_index


def test_while_entries_are_read_nothing_later_is_sent() -> None:
    """It would be refused, and everything would be sent again."""
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 40)
    lead.taken()
    hear(lead, 3, Answer(2, lead.raft.leading.round, False, 1, 1))
    lead.raft.propose([b"y"])
    lead.pump()
    assert [m for m in all_of(lead.sent, Append, 3) if m.entries] == []
    lead.settle()
    firsts = [m.first_index for m in all_of(lead.taken(), Append, 3) if m.entries]
    assert firsts
    assert firsts == sorted(firsts)
    assert firsts[0] == 2


def test_what_was_read_for_a_follower_that_has_asked_for_something_else_is_not_sent() -> None:
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 40)
    lead.taken()
    hear(lead, 3, Answer(2, lead.raft.leading.round, False, 1, 1))
    hear(lead, 3, Answer(2, lead.raft.leading.round, True, 20, 2))
    lead.settle()
    sent = [m for m in all_of(lead.taken(), Append, 3) if m.entries]
    assert sent[0].first_index == 21


def test_what_cannot_be_read_has_the_follower_given_up() -> None:
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 40)
    lead.raft.receive(3, Answer(2, lead.raft.leading.round, False, 1, 1))
    fetch = lead.raft.take_output().fetches[0]
    lead.raft.fetched(fetch, ())
    assert "entry 2 of the log cannot be read" in lead.raft.leading.retention.problem
    assert lead.raft.take_output().fetches == []
    assert lead.compact()


def test_a_leader_that_is_behind_in_applying_takes_in_no_more() -> None:
    settings = RaftSettings(uncommitted_bytes_max=5 * ENTRY_BYTES)
    lead = committed_leader("1.1", settings=settings)
    lead.applies_at_once = False
    for _ in range(5):
        lead.propose(b"x")
        lead.settle()
        acknowledge(lead, 2)
    with pytest.raises(Overloaded):
        lead.propose(b"x")
    lead.apply()
    lead.propose(b"x")


def test_a_follower_that_is_behind_in_applying_acknowledges_no_more_than_is_committed() -> None:
    """Its memory is bounded by that: the leader's window for it stays full."""
    node = Node("1.1", commit=1, settings=SMALL)
    node.applies_at_once = False
    node.receive_settled(2, append(1, 2, "1.2 1.3 1.4", commit=4))
    sent = node.receive_settled(2, append(1, 5, "1.5 1.6 1.7", commit=4))
    assert only(sent, Answer).agreed == 4
    node.apply()
    node.pump()
    assert only(node.taken(), Answer).agreed == 7


def test_what_is_not_committed_holds_no_acknowledgement_back() -> None:
    """PROTOCOL 1.1 (!): its commit may wait for that one. Nothing would ever move again."""
    node = Node("1.1", commit=1, settings=SMALL)
    sent = node.receive_settled(2, append(1, 2, "1.2 1.3 1.4 1.5 1.6 1.7 1.8", commit=1))
    assert only(sent, Answer).agreed == 8


# --- giving up ----------------------------------------------------------------------------------------


def lagging_leader() -> Node:
    """Its follower 3 answers, lacks entries that are not in memory, and does not move."""
    lead = committed_leader("1.1", settings=SMALL)
    write(lead, 20)
    pass_time(lead, 2, refuses(lead, 2))
    return lead


def given_up(lead: Node) -> list[str]:
    return [e.detail for e in lead.events if e.kind is EventKind.FOLLOWER_GIVEN_UP]


def test_one_that_does_not_move_is_given_up() -> None:
    lead = lagging_leader()
    pass_time(lead, SMALL.stall_ticks_max - 3, refuses(lead, 2))
    assert not given_up(lead)
    assert not lead.compact()
    pass_time(lead, 3, refuses(lead, 2))
    assert given_up(lead) == ["nothing was acknowledged for 31 ticks"]
    assert lead.raft.leading.retention.given_up == {3: "nothing was acknowledged for 31 ticks"}
    assert lead.compact()


def test_one_without_which_nothing_is_committed_is_not_given_up() -> None:
    """PROTOCOL 1.2 (!): its rest would be the group's. The other follower is down."""
    lead = lagging_leader()
    position = lead.raft.leading.progress[3].match
    answer = refuses(lead, 2)
    for _ in range(SMALL.stall_ticks_max + 2):
        lead.raft.tick()
        lead.pump()
        hear(lead, 3, answer(lead.raft.leading.round))
    assert lead.raft.leading.progress[2].silent_ticks > TICKS_MIN
    lead.raft.leading.retention.give_all_up("the leader's disk is nearly full")
    lead.pump()
    assert not given_up(lead)
    assert lead.raft.leading.progress[3].match == position
    pass_time(lead, 1, answer)  # the other one is back
    assert lead.raft.leading.progress[2].silent_ticks <= 1
    lead.raft.leading.retention.give_all_up("the leader's disk is nearly full")
    lead.pump()
    assert given_up(lead)


def test_an_idle_group_gives_nobody_up() -> None:
    lead = committed_leader("1.1", settings=SMALL)
    pass_time(lead, 10 * SMALL.stall_ticks_max, refuses(lead, 2))
    assert not given_up(lead)


def test_one_that_rests_is_sent_nothing_and_then_begins_again() -> None:
    lead = lagging_leader()
    pass_time(lead, SMALL.stall_ticks_max, refuses(lead, 2))
    assert given_up(lead)
    assert lead.compact()
    element = lead.raft.log.snapshot
    lead.taken()

    def asks(round_: int) -> OfferAnswer:
        return OfferAnswer(2, round_, element.index, element.term, 0, 64)

    lead.receive(3, Answer(2, lead.raft.leading.round, False, 2, 2))
    pass_time(lead, SMALL.rest_ticks - 2, asks)
    assert all_of(lead.taken(), Chunk, 3) == []
    pass_time(lead, 4, asks)
    assert lead.raft.leading.progress[3].transfer is not None
    assert not lead.compact()


def test_too_much_log_has_it_given_up_and_before_that_writers_are_slowed() -> None:
    lead = lagging_leader()
    retention = lead.raft.leading.retention
    assert retention.pace_bytes is None
    at = 2
    while retention.pace_bytes is None and not given_up(lead):
        write(lead, 4)
        at += 1
        pass_time(lead, 1, refuses(lead, at))
    kept = lead.raft.log.bytes_after(at)
    assert SMALL.kept_bytes_max // 2 < kept <= SMALL.kept_bytes_max
    assert (retention.pace_bytes or 0) >= SMALL.pace_bytes_min
    while not given_up(lead):
        write(lead, 20)
        at += 1
        pass_time(lead, 1, refuses(lead, at))
    assert "bytes of log were kept for it, the limit is 100" in given_up(lead)[0]
    pass_time(lead, 1)
    assert retention.pace_bytes is None
    assert lead.compact()


def test_nobody_writes_slower_for_one_that_is_silent() -> None:
    """PROTOCOL 1.2 (!): a follower that was killed would hold up all writers until its log is not kept."""
    lead = lagging_leader()
    write(lead, 70)  # more than half of what may be kept
    kept = lead.raft.log.bytes_after(lead.raft.leading.progress[3].match)
    assert SMALL.kept_bytes_max // 2 < kept <= SMALL.kept_bytes_max
    for _ in range(TICKS_MIN + 5):
        pass_time(lead, 1)
        silent = lead.raft.leading.progress[3].silent_ticks
        if silent > TICKS_MIN:
            assert lead.raft.leading.retention.pace_bytes is None
    assert "while it was silent" in given_up(lead)[0]


def test_slower_writes_that_do_not_help_end() -> None:
    lead = lagging_leader()
    write(lead, 50)
    at = 2
    for _ in range(SMALL.slow_ticks_max + 1):
        at += 1
        write(lead)
        pass_time(lead, 1, refuses(lead, at))
    assert given_up(lead) == ["slower writes for 20 ticks did not help"]


def test_the_pace_is_half_of_what_the_follower_acknowledges() -> None:
    lead = lagging_leader()
    write(lead, 60)
    at, paces = 2, []
    for _ in range(12):
        at += 3
        acknowledge(lead, 3, at, lead.raft.leading.round)
        lead.raft.leading.progress[3].pursuit.acknowledged_bytes = 40
        pass_time(lead, 1)
        paces.append(lead.raft.leading.retention.pace_bytes)
    assert max(pace for pace in paces if pace is not None) in (18, 19, 20)


def test_after_a_rest_what_it_lacks_already_is_not_held_against_it() -> None:
    """PROTOCOL 1.2 (!): nobody compacts in an idle group, and it would be given up again at once."""
    lead = lagging_leader()
    write(lead, 200)
    pass_time(lead, 1, refuses(lead, 2))
    assert len(given_up(lead)) == 1
    follower = Node("1.1 2.2", replica_id=3, settings=SMALL)
    pass_time(lead, SMALL.rest_ticks + 1, refuses(lead, 2))
    lead.taken()
    for _ in range(400):
        pass_time(lead, 1)
        deliver(lead, follower)
        deliver(follower, lead)
        lead.settle()
    assert len(given_up(lead)) == 1
    assert follower.raft.log.last_index == lead.raft.log.last_index
    assert lead.raft.leading.retention.problem == ""


def test_a_full_disk_gives_up_those_that_lag() -> None:
    lead = lagging_leader()
    lead.raft.leading.retention.give_all_up("the leader's disk is nearly full")
    lead.pump()
    assert given_up(lead) == ["the leader's disk is nearly full"]
    assert lead.raft.leading.progress[2].pursuit.given_up == 0
    assert lead.compact()


def test_those_that_were_given_up_for_room_rest_no_longer_than_there_is_none() -> None:
    lead = lagging_leader()
    lead.raft.set_room(DiskState.LOW, None)
    lead.raft.leading.retention.give_all_up("the leader's disk is nearly full")
    pursuit = lead.raft.leading.progress[3].pursuit
    pass_time(lead, 2, refuses(lead, 2))
    assert pursuit.rest_ticks == SMALL.rest_ticks - 2
    lead.raft.set_room(DiskState.FREE, None)
    pass_time(lead, 1, refuses(lead, 2))
    assert pursuit.rest_ticks == 0
    assert not lead.compact()


# --- several chunks under way -------------------------------------------------------------------------


def streaming(window: int = 48) -> Node:
    """A leader whose follower 3 has asked for its first element."""
    lead = compacted_leader(settings=RaftSettings(chunk_window_bytes=window))
    behind(lead)
    return lead


def offsets(sent: Any) -> list[int]:
    return [chunk.offset for chunk in all_of(sent, Chunk, 3)]


def test_chunks_fill_the_window_of_either_side() -> None:
    assert offsets(streaming(48).receive(3, OfferAnswer(2, 1, 4, 2, 0, 1000))) == [0, 24]
    assert offsets(streaming(1000).receive(3, OfferAnswer(2, 1, 4, 2, 0, 48))) == [0, 24]
    assert offsets(streaming(1000).receive(3, OfferAnswer(2, 1, 4, 2, 0, 10))) == [0]


def test_a_follower_that_does_not_know_windows_is_sent_one_chunk_at_a_time() -> None:
    lead = streaming(1000)
    assert offsets(lead.receive(3, OfferAnswer(2, 1, 4, 2, 0))) == [0]
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 24))) == [24]
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 24))) == []
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 0))) == []
    assert [dropped.offset for dropped in lead.dropped] == [48]


def test_a_refused_chunk_has_the_leader_go_back_once() -> None:
    lead = streaming()
    lead.receive(3, OfferAnswer(2, 1, 4, 2, 0, 48))
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 0, 48))) == [0, 24]
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 0, 48))) == []
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 24, 48))) == [48]


def test_a_small_element_that_was_damaged_is_not_taken_for_a_lost_chunk() -> None:
    lead = streaming()
    lead.receive(3, OfferAnswer(2, 1, 4, 2, 0, 48))
    assert offsets(lead.receive(3, ChunkAnswer(2, 1, 4, 2, 0, 48, dropped=True))) == []
    assert len(lead.dropped) == 1


def chunk(offset: int, size: int = 96) -> Chunk:
    return Chunk(3, 1, 6, 2, offset, size, b"x" * 24)


def test_a_follower_stages_chunks_in_order_without_waiting_for_its_disk() -> None:
    node = Node("", term=3, settings=RaftSettings(chunk_window_bytes=48))
    assert node.receive(2, chunk(0)) == []
    assert node.receive(2, chunk(24)) == []
    assert node.receive(2, chunk(48)) == []  # beyond its window: it will come again
    answers = all_of(node.fsync(), ChunkAnswer)
    assert [(a.next_offset, a.window_bytes) for a in answers] == [(24, 48), (48, 48)]


def test_a_chunk_behind_a_gap_is_refused_and_a_duplicate_is_not() -> None:
    node = Node("", term=3, settings=RaftSettings(chunk_window_bytes=72))
    node.receive(2, chunk(0))
    assert only(node.receive(2, chunk(48)), ChunkAnswer).next_offset == 0
    assert node.receive(2, chunk(0)) == []
    assert [a.next_offset for a in all_of(node.fsync(), ChunkAnswer)] == [24]
    assert only(node.receive(2, chunk(0)), ChunkAnswer).next_offset == 24


def test_a_transfer_that_goes_on_asks_for_what_was_not_handed_to_the_disk() -> None:
    """While the disk works on the last chunks, offers must not have them sent again."""
    node = Node("", term=3, settings=RaftSettings(chunk_window_bytes=48))
    node.receive(2, chunk(0))
    node.receive(2, chunk(24))
    assert only(node.receive(2, Offer(3, 1, 6, 2, 96)), OfferAnswer).send_from == 48


def test_what_was_staged_in_full_is_installed_although_the_leader_is_silent_by_then() -> None:
    lead = compacted_leader()
    node = Node("", replica_id=3, term=2)
    stream = lead.disk.checkpoints[4]
    for at in range(0, len(stream), 24):
        node.receive(1, Chunk(2, 1, 4, 2, at, len(stream), stream[at : at + 24]))
    node.raft.leader_id = 0
    node.settle()
    assert node.log == "S2.4"


# --- promoting under load -----------------------------------------------------------------------------


def test_a_learner_is_promoted_under_steady_writes() -> None:
    """More than 256 entries are under way at any time: in entries it is never near."""
    lead = committed_leader("1.1")
    lead.raft.change_members(AddLearner(4, "replica-4"), encode_configuration)
    lead.pump()
    lead.settle()
    acknowledge(lead, 2)
    acknowledge(lead, 4)
    busy(lead, ticks=2, lag_ticks=2)
    with pytest.raises(NotCaughtUp):
        lead.raft.change_members(Promote(4), encode_configuration)
    busy(lead, ticks=8, lag_ticks=2)
    lead.raft.change_members(Promote(4), encode_configuration)
    assert 4 in lead.raft.voters


def test_a_learner_that_takes_longer_than_an_election_timeout_is_not_promoted() -> None:
    lead = committed_leader("1.1")
    lead.raft.change_members(AddLearner(4, "replica-4"), encode_configuration)
    lead.pump()
    lead.settle()
    acknowledge(lead, 2)
    acknowledge(lead, 4)
    busy(lead, ticks=4 * TICKS_MIN, lag_ticks=TICKS_MIN + 1)
    with pytest.raises(NotCaughtUp, match="or of an election timeout"):
        lead.raft.change_members(Promote(4), encode_configuration)


def busy(lead: Node, ticks: int, lag_ticks: int) -> None:
    """300 entries for each tick of lag are under way to the learner 4, always."""
    per_tick = 600 // lag_ticks + 1
    last = lead.raft.log.last_index
    for tick in range(ticks):
        lead.raft.propose([b""] * per_tick)
        lead.raft.tick()
        lead.pump()
        lead.settle()
        for voter in (2, 3):
            acknowledge(lead, voter, round_=lead.raft.leading.round)
        known = last + max(0, tick - lag_ticks) * per_tick
        acknowledge(lead, 4, known, lead.raft.leading.round)
