"""How much of a core a digest of the content takes: little, and more when the next one is near."""

from __future__ import annotations

import types
from typing import cast

import pytest

from overdb_node import comparing
from overdb_node.storage.digest import ContentDigest


class Slow:
    """A digest of portions that take a second each, by a clock of its own."""

    def __init__(self, portions: int) -> None:
        self.now = 0.0
        self.left = portions
        self.rests: list[tuple[float, float]] = []  # when, how long
        self.closed = 0

    def advance(self) -> bool:
        self.now += 1
        self.left -= 1
        return self.left > 0

    def close(self) -> int:
        self.closed += 1
        return 42

    def sleep(self, seconds: float) -> None:
        self.rests.append((self.now, seconds))
        self.now += seconds


def test_it_rests_much_until_half_of_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = Slow(portions=6)
    clock = types.SimpleNamespace(monotonic=lambda: digest.now, sleep=digest.sleep)
    monkeypatch.setattr(comparing, "time", clock)
    assert comparing._run(cast("ContentDigest", digest), 40.0) == 42
    assert digest.rests == [(1, 15), (17, 15), (33, 15), (49, 3), (53, 3)]
    assert digest.closed == 2  # for its value, and for good: the second does nothing
