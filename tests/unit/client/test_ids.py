"""Client ids and request numbers (PROTOCOL 2.2, 2.10)."""

from __future__ import annotations

import uuid

import pytest

from overdb.ids import STUCK_ID_SECONDS_MAX, ClientIds, Generation, uuid7


def test_uuid7_has_its_time_version_and_variant() -> None:
    made = uuid.UUID(bytes=uuid7(1_700_000_000_123, b"\xff" * 10))
    assert made.int >> 80 == 1_700_000_000_123
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert uuid7(1, b"\0" * 10) == bytes.fromhex("00000000000170008000000000000000")


def test_uuid7_keeps_the_other_random_bits() -> None:
    assert uuid7(0, bytes(range(10)))[7] == 1
    assert uuid7(0, bytes(range(10)))[9:] == bytes(range(3, 10))


def test_acknowledged_below_is_the_lowest_open_number() -> None:
    generation = Generation(b"x" * 16, 0.0, 0)
    assert generation.acknowledged_below() == 1
    assert [generation.take() for _ in range(4)] == [1, 2, 3, 4]
    generation.release(2)
    assert generation.acknowledged_below() == 1
    generation.release(1)
    assert generation.acknowledged_below() == 3
    generation.release(3)
    generation.release(4)
    generation.release(4)
    assert generation.acknowledged_below() == 5


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_id_is_renewed_by_its_age() -> None:
    clock = Clock()
    ids = ClientIds(seconds_max=1200, monotonic=clock)
    first = ids.current(clock.now)
    first.take()
    assert ids.current(clock.now + 1199) is first
    clock.now += 1200
    second = ids.current(clock.now)
    assert second.client_id != first.client_id
    assert second.take() == 1
    assert ids.current(clock.now + 1199) is second


def test_an_id_with_a_number_that_stays_open_is_renewed_soon() -> None:
    clock = Clock()
    ids = ClientIds(seconds_max=1200, monotonic=clock)
    first = ids.current(clock.now)
    first.stuck = True
    assert ids.current(clock.now + STUCK_ID_SECONDS_MAX / 2) is first
    assert ids.current(clock.now + STUCK_ID_SECONDS_MAX) is not first


@pytest.mark.parametrize(
    ("monotonic", "wall_ms", "renewed"),
    [
        (1199.0, 1_199_000, False),
        (0.0, 1_200_000, True),  # the machine was suspended: its monotonic clock stood still
        (0.0, 7_200_000, True),
        (1200.0, 0, True),  # the wall clock was set back by as much as had passed
        (5.0, -1_000, False),
        (5.0, -86_400_000, False),  # the id may be right, and the clock wrong
    ],
)
def test_the_larger_of_both_ages_counts(monotonic: float, wall_ms: int, renewed: bool) -> None:
    clock = Clock()
    wall = 1_700_000_000_000
    ids = ClientIds(seconds_max=1200, monotonic=clock, wall_ms=lambda: wall)
    first = ids.current(clock.now)
    wall += wall_ms
    clock.now += monotonic
    assert (ids.current(clock.now) is not first) is renewed
    if renewed:
        assert ids.current(clock.now).client_id[:6] == wall.to_bytes(6, "big")


def test_requests_that_were_refused_together_share_the_next_id() -> None:
    ids = ClientIds()
    first = ids.current(0.0)
    second = ids.instead_of(first)
    assert second is not first
    assert ids.instead_of(first) is second


def test_an_id_is_new_for_ten_seconds_of_the_wall_clock() -> None:
    wall = 1_700_000_000_000
    ids = ClientIds(wall_ms=lambda: wall)
    generation = ids.current(0.0)
    wall += 9_999
    assert ids.is_new(generation)
    wall += 1
    assert not ids.is_new(generation)


def test_an_id_is_from_the_future_when_the_clock_was_set_back_behind_it() -> None:
    wall = 1_700_000_000_000
    ids = ClientIds(wall_ms=lambda: wall)
    generation = ids.current(0.0)
    assert not ids.is_from_the_future(generation)
    wall -= 1_001
    assert ids.is_from_the_future(generation)
    assert not ids.is_from_the_future(ids.instead_of(generation))
