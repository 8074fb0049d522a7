"""Version GC: when it walks, when it is done, and which ranges it leaves behind for a compaction."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from overdb_node import sweeping
from overdb_node.storage.data import Swept
from overdb_node.sweeping import RANGES_MAX, Sweeper, joined


class World:
    """A clock, a floor, and a store that is walked over in two slices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, retention: float = 40.0) -> None:
        self.now = 0.0
        monkeypatch.setattr(sweeping, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.machine: Any = SimpleNamespace(retention_floor=0)
        self.passes: list[int] = []  # their floors
        self.sweeper = Sweeper(retention, written=5)
        self.store: Any = SimpleNamespace(sweep=self._sweep)

    def _sweep(self, cursor: bytes, floor: int, _: int) -> Swept:
        if not cursor:
            self.passes.append(floor)
            return Swept(b"middle", 1, b"a", b"b")
        return Swept(None, 0)

    def tick(self, seconds: float, floor: int, *, hurries: bool = False) -> list[int]:
        self.now += seconds
        self.machine.retention_floor = floor
        for _ in range(2):
            self.sweeper.tick(self.machine, self.store, hurries=hurries)
        return self.passes


def test_it_rests_when_a_pass_has_seen_all_that_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An idle replica does nothing, however time goes on."""
    world = World(monkeypatch)
    assert world.tick(10, 3) == [3]
    assert not world.sweeper.is_done
    assert world.tick(10, 6) == [3, 6]
    assert world.sweeper.is_done
    for floor in range(7, 50):
        assert world.tick(10, floor) == [3, 6]
    world.sweeper.written = 60
    assert world.tick(10, 61) == [3, 6, 61]


def test_passes_keep_their_distance_unless_there_is_a_hurry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.sweeper.written = 1000
    assert world.tick(10, 1) == [1]
    assert world.tick(9, 2) == [1]
    assert world.tick(0.1, 3, hurries=True) == [1, 3]
    assert world.tick(0.9, 4, hurries=True) == [1, 3]
    assert world.tick(0.2, 5, hurries=True) == [1, 3, 5]


def test_a_slice_that_found_no_room_is_walked_over_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    def full(*_: object) -> Swept:
        raise Exception("IO error: No space left on device")

    whole, world.store.sweep = world.store.sweep, full
    with pytest.raises(Exception, match="No space"):
        world.tick(10, 6)
    world.store.sweep = whole
    assert world.tick(0, 6) == [6]
    assert world.sweeper.is_done
    assert world.sweeper.garbage == [(b"a", b"b")]


def test_ranges_join_where_they_overlap_and_stay_few() -> None:
    assert joined([(b"a", b"c")], (b"b", b"d")) == [(b"a", b"d")]
    assert joined([(b"a", b"b")], (b"x", b"y")) == [(b"a", b"b"), (b"x", b"y")]
    ranges: list[tuple[bytes, bytes]] = []
    for number in range(2 * RANGES_MAX):
        key = b"%06d" % number
        ranges = joined(ranges, (key + b"a", key + b"b"))
    assert len(ranges) == RANGES_MAX
    assert ranges[0][0] == b"000000a"
    assert ranges == sorted(ranges)
