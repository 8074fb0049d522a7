"""What a Put costs when it is applied: the machine is one thread for its whole group (DESIGN 4)."""

from __future__ import annotations

import time

import pytest

from overdb_node.machine.types import Put, Written
from tests.unit.machine.helpers import NOW, Group, request

ENTRIES, PUTS_PER_ENTRY = 60, 64
MICROSECONDS_MAX = 100.0  # ten times what it takes: only a cost of another order is a fault


def test_a_put_takes_microseconds(capsys: pytest.CaptureFixture[str]) -> None:
    """In processor time, batch included; without a disk. The window of unacknowledged ones moves on."""
    group = Group()
    number, spent, best = 0, 0.0, float("inf")
    for entry in range(ENTRIES):
        puts = []
        for _ in range(PUTS_PER_ENTRY):
            number += 1
            id_ = request(number, below=max(0, number - 100))
            puts.append(Put(b"key-%d" % (number % 500), b"v" * 100, id_))
        begin = time.process_time()
        results = group.machine.apply(entry + 1, 1, NOW + entry, puts)
        batch = group.machine.take_batch()
        seconds = time.process_time() - begin
        spent, best = spent + seconds, min(best, seconds)
        assert [type(result) for result in results] == [Written] * PUTS_PER_ENTRY
        group.store.write(batch)
    mean = spent / number * 1e6
    with capsys.disabled():
        print(f"\n  apply {mean:.1f} us a Put, {best / PUTS_PER_ENTRY * 1e6:.1f} us at best")
    assert best / PUTS_PER_ENTRY * 1e6 < MICROSECONDS_MAX
