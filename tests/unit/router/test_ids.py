"""Ids that the router makes (PROTOCOL 2.2, 2.10)."""

from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overdb.v1 import kv_pb2
from overdb_router.ids import Numbers, OwnId, RouterIds, uuid7


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_uuid7_carries_time_version_and_variant(milliseconds: int, random: bytes) -> None:
    made = uuid.UUID(bytes=uuid7(milliseconds, random))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == milliseconds


@given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
def test_acknowledged_below_is_the_smallest_open_number(opens: list[bool], random: object) -> None:
    numbers = Numbers(b"x")
    open_ones: set[int] = set()
    newest = 0
    for opening in opens:
        if opening or not open_ones:
            newest = numbers.open()
            open_ones.add(newest)
        else:
            number = random.choice(sorted(open_ones))  # type: ignore[attr-defined]
            open_ones.remove(number)
            numbers.close(number)
        assert numbers.acknowledged_below == min(open_ones, default=newest + 1)
        assert numbers.open_count == len(open_ones)


class Clock:
    def __init__(self) -> None:
        self.ns = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        return self.ns


def make(ids: RouterIds) -> tuple[kv_pb2.RequestId, OwnId]:
    request_id = kv_pb2.RequestId()
    return request_id, ids.assign(request_id)


def test_ids_are_complete_and_ascend() -> None:
    clock = Clock()
    ids = RouterIds(1200, clock, lambda n: b"r" * n, Clock())
    first, own = make(ids)
    second, _ = make(ids)
    assert (first.request_number, second.request_number) == (1, 2)
    assert first.client_id == second.client_id
    assert uuid.UUID(bytes=first.client_id).version == 7
    assert first.started_at == clock.ns // 1000
    assert second.acknowledged_below == 1
    own.close()
    third, _ = make(ids)
    assert third.acknowledged_below == 2


def test_a_client_id_is_renewed_and_open_requests_keep_theirs() -> None:
    clock = Clock()
    made = iter([b"a" * 10, b"b" * 10])
    ids = RouterIds(1200, clock, lambda _: next(made), Clock())
    first, own = make(ids)
    clock.ns += 1200 * 10**9
    second, _ = make(ids)
    assert second.client_id != first.client_id
    assert second.request_number == 1
    own.close()  # counts for the old id only
    third, _ = make(ids)
    assert third.acknowledged_below == 1


@pytest.mark.parametrize(
    ("monotonic_seconds", "wall_seconds", "renewed"),
    [
        (1199, 1199, False),
        (0, 1200, True),  # the machine was suspended: its monotonic clock stood still
        (1200, 0, True),
        (5, -86_400, False),  # the id may be right, and the clock wrong
    ],
)
def test_the_larger_of_both_ages_counts(
    monotonic_seconds: int, wall_seconds: int, renewed: bool
) -> None:
    wall, monotonic = Clock(), Clock()
    ids = RouterIds(1200, wall, os.urandom, monotonic)
    first, _ = make(ids)
    wall.ns += wall_seconds * 10**9
    monotonic.ns += monotonic_seconds * 10**9
    second, _ = make(ids)
    assert (second.client_id != first.client_id) is renewed


def test_requests_that_were_refused_together_share_the_next_id() -> None:
    ids = RouterIds(1200)
    (first, own_first), (second, own_second) = make(ids), make(ids)
    refused = first.client_id
    own_first.renew(first)
    own_second.renew(second)
    assert first.client_id == second.client_id != refused
    assert (first.request_number, second.request_number) == (1, 2)
    own_first.close()
    third, _ = make(ids)
    assert third.acknowledged_below == 2
