"""What a Put costs when it is applied: the machine is one thread for its whole group (DESIGN 4)."""

from __future__ import annotations

from overdb_node.machine.types import Put, Written
from tests.calls import calls_of
from tests.unit.machine.helpers import NOW, Group, request

ENTRIES, PUTS_PER_ENTRY = 60, 64
CALLS_MAX = 40.0  # of functions for a Put: 26 today


def test_a_put_takes_few_steps_however_many_were_before_it() -> None:
    """With the batch; without a disk. The window of unacknowledged ones moves on."""
    group = Group()
    number = 0
    for entry in range(ENTRIES):
        puts = []
        for _ in range(PUTS_PER_ENTRY):
            number += 1
            id_ = request(number, below=max(0, number - 100))
            puts.append(Put(b"key-%d" % (number % 500), b"v" * 100, id_))
        results: list[object] = []

        def apply(entry: int = entry, puts: list[Put] = puts, out: list[object] = results) -> None:
            out += group.machine.apply(entry + 1, 1, NOW + entry, puts)
            group.store.write(group.machine.take_batch())

        calls = calls_of(apply) / PUTS_PER_ENTRY
        assert [type(result) for result in results] == [Written] * PUTS_PER_ENTRY
        assert calls < CALLS_MAX, f"entry {entry}"
