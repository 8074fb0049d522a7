"""Requests that wait to be proposed: all at once, or at the pace that a leader sets (PROTOCOL 1.2)."""

from __future__ import annotations

from typing import Any, cast

from overdb_node.proposal_queue import (
    PACED_BYTES_MIN,
    PACED_TICKS_MAX,
    Proposal,
    ProposalQueue,
)

BYTES_MAX = 32 << 20
NOBODY = cast("Any", None)


def filled(*sizes: int) -> ProposalQueue:
    queue = ProposalQueue(BYTES_MAX)
    for sequence, size in enumerate(sizes):
        queue.add(Proposal(bytes(size), sequence, NOBODY))
    return queue


def taken(queue: ProposalQueue) -> list[int]:
    return [proposal.sequence for proposal in queue.take()]


def test_without_a_pace_all_are_taken_in_order() -> None:
    queue = filled(5, 1, 300)
    assert queue
    assert queue.queued_bytes == 306
    assert taken(queue) == [0, 1, 2]
    assert not queue
    assert queue.queued_bytes == 0


def test_with_a_pace_a_tick_takes_its_share() -> None:
    queue = filled(*[10] * 10)
    queue.tick(30)
    assert taken(queue) == [0, 1, 2]
    assert taken(queue) == []
    queue.tick(20)
    assert taken(queue) == [3, 4]
    assert queue.queued_bytes == 50


def test_a_share_that_was_not_used_is_gone() -> None:
    queue = filled()
    for _ in range(5):
        queue.tick(30)
    for sequence in range(10):
        queue.add(Proposal(bytes(10), sequence, NOBODY))
    assert taken(queue) == [0, 1, 2]


def test_a_large_request_is_taken_and_paid_for_by_later_ticks() -> None:
    queue = filled(100, 1)
    queue.tick(30)
    assert taken(queue) == [0]
    for _ in range(3):
        queue.tick(30)
        taken_then = taken(queue)
    assert taken_then == [1]


def test_when_the_pace_ends_everything_is_taken_and_nothing_is_owed() -> None:
    queue = filled(100, 1, 1)
    queue.tick(30)
    assert taken(queue) == [0]
    queue.tick(None)
    assert taken(queue) == [1, 2]
    queue.add(Proposal(b"x", 3, NOBODY))
    queue.tick(1)
    assert taken(queue) == [3]


def test_a_replica_that_does_not_lead_any_more_has_all_of_them() -> None:
    queue = filled(10, 10, 10)
    queue.tick(1)
    assert [proposal.sequence for proposal in queue.take_all()] == [0, 1, 2]
    assert not queue


def test_more_than_fits_in_memory_is_refused() -> None:
    queue = filled(BYTES_MAX - 10)
    assert queue.why_full(10) == ""
    assert "the limit is 33554432" in queue.why_full(11)


def test_what_would_wait_too_long_at_the_pace_is_refused() -> None:
    pace = PACED_BYTES_MIN
    most = pace * PACED_TICKS_MAX
    queue = filled(most - 10)
    queue.tick(pace)
    assert queue.why_full(10) == ""
    assert "so that a replica can catch up" in queue.why_full(11)
    queue.tick(None)
    assert queue.why_full(11) == ""


def test_at_the_slowest_pace_a_message_is_taken_in_still() -> None:
    """One alone always is; several are while they are small."""
    queue = filled()
    queue.tick(1)
    assert queue.why_full(8 << 20) == ""
    queue.add(Proposal(bytes(10), 0, NOBODY))
    assert queue.why_full(PACED_BYTES_MIN - 10) == ""
    assert queue.why_full(PACED_BYTES_MIN) != ""
