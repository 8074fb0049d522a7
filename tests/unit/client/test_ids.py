"""Client ids and request numbers (PROTOCOL 2.2, 2.10)."""

from __future__ import annotations

import uuid

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
    generation = Generation(b"x" * 16, 0.0)
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
