"""EntryWindow against a plain list, under random operations; and the rules that a seed may miss."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from overdb_node.raft.entry_window import ENTRY_BYTES, EntryWindow
from overdb_node.raft.types import Entry, EntryKind
from tests.sizes import Sizes

EVERY_INDEX = 1 << 62  # what counts as applied while a log is replayed
STEPS = 120


def entry(index: int, term: int = 1, size: int = 10, *, configuration: bool = False) -> Entry:
    kind = EntryKind.CONFIGURATION if configuration else EntryKind.COMMANDS
    return Entry(index, term, kind, b"x" * size)


def cost(entries: list[Entry]) -> int:
    return sum(len(one.payload) + ENTRY_BYTES for one in entries)


def payload(entries: list[Entry]) -> int:
    return sum(len(one.payload) for one in entries)


@dataclass
class Modelled:
    """A window and the list that it must equal.

    ``error_bytes`` is how far ``payload_bytes`` may be off. Evicted entries are counted in batches: a batch
    that was cut in its middle, or begins below ``base``, is known to its own size.
    """

    random: Random
    base: int
    applied: int
    entries: list[Entry] = field(default_factory=list)
    batch_bytes_max: int = 0
    splits: int = 0

    def __post_init__(self) -> None:
        self.window = EntryWindow(self.base, self.applied)

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def error_bytes(self) -> int:
        return self.splits * self.batch_bytes_max

    def behind(self, index: int) -> list[Entry]:
        return self.entries[max(0, index - self.base) :]

    # --- operations -------------------------------------------------------------------------------

    def append(self) -> None:
        for _ in range(self.random.randint(1, 8)):
            term = (self.entries[-1].term if self.entries else 1) + (self.random.random() < 0.15)
            size = self.random.choice((0, 1, 40, 300))
            new = entry(self.last + 1, term, size, configuration=self.random.random() < 0.1)
            self.window.append(new)
            self.entries.append(new)

    def cut(self) -> None:
        least = max(self.base, self.window.evicted_index, min(self.applied, self.last)) + 1
        self._cut(self.random.randint(least, self.last + 1))

    def cut_anywhere(self) -> None:
        """As replaying a log on disk does."""
        index = self.random.randint(self.base + 1, self.last + 1)
        self.splits += index <= self.window.evicted_index
        self._cut(index)

    def _cut(self, index: int) -> None:
        self.window.cut(index)
        del self.entries[index - self.base - 1 :]

    def apply(self) -> None:
        index = self.random.randint(self.base, max(self.base, self.last))
        self.window.applied(index)
        self.applied = max(self.applied, index)

    def evict(self) -> None:
        before, bytes_max = self.window.evicted_index, self.random.choice((0, 500, 2000, 8000))
        cheap = self.window.memory_bytes <= bytes_max
        self.window.evict(bytes_max)
        after = self.window.evicted_index
        batch = self.entries[before - self.base : after - self.base]
        self.batch_bytes_max = max(self.batch_bytes_max, payload(batch))
        assert not (cheap and batch), "evicted although there was room"
        if not cheap and self.window.memory_bytes > bytes_max * 3 // 4:
            assert after == min(self.applied, self.last), (
                "an applied entry is kept beyond the bound"
            )

    def begin_behind(self) -> None:
        index = self.random.randint(self.base, self.last + self.random.choice((0, 0, 3)))
        self.splits += self.base < index < self.window.evicted_index
        self.window.begin_behind(index)
        self.entries = self.behind(index)
        self.base = index
        self.applied = max(self.applied, index)

    def restore(self, applied: int) -> None:
        again = self.entries[applied - self.base : max(0, self.window.evicted_index - self.base)]
        self.splits += bool(again)
        self.window.restore(again, applied)
        self.applied = applied

    # --- comparing --------------------------------------------------------------------------------

    def check(self) -> None:
        window, evicted = self.window, self.window.evicted_index
        assert (window.base, window.last_index) == (self.base, self.last)
        assert self.base <= evicted <= self.last
        assert evicted <= self.applied == window.applied_index
        terms = {one.index: one.term for one in self.entries}
        for index in range(self.base - 2, self.last + 3):
            assert window.term_at(index) == terms.get(index), f"term of entry {index}"
        assert window.in_memory == self.behind(evicted)
        gone = self.entries[: evicted - self.base]
        configurations = [one for one in gone if one.kind is EntryKind.CONFIGURATION]
        assert window.evicted_configurations == configurations
        assert window.memory_bytes == cost(window.in_memory)
        assert window.unapplied_bytes == cost(self.behind(self.applied))
        self._check_payloads()

    def _check_payloads(self) -> None:
        window = self.window
        assert abs(window.payload_bytes - payload(self.entries)) <= self.error_bytes
        more = window.payload_bytes
        for index in range(self.base, self.last + 1):
            told, exact = window.bytes_after(index), payload(self.behind(index))
            if index >= window.evicted_index:
                assert told == exact
            else:
                assert exact - self.error_bytes <= told
                assert told <= exact + self.error_bytes + self.batch_bytes_max
            assert told <= more, "more bytes are behind a later index"
            more = told


def run(modelled: Modelled, operations: tuple[str, ...], weights: tuple[int, ...]) -> None:
    for name in modelled.random.choices(operations, weights, k=STEPS):
        getattr(modelled, name)()
        modelled.check()


def test_a_running_log_is_the_list(sizes: Sizes) -> None:
    evicted = 0
    for seed in sizes.seeds(quick=30, full=1000):
        random = Random(seed)
        modelled = Modelled(random, base := random.choice((0, 7)), base)
        names = ("append", "cut", "apply", "evict", "begin_behind")
        run(modelled, names, (6, 1, 5, 3, random.choice((0, 1, 3))))
        evicted += modelled.window.evicted_index > modelled.base
    assert evicted, "no run had evicted entries at its end"


def test_a_log_that_is_replayed_and_then_restored_is_the_list(sizes: Sizes) -> None:
    again = 0
    for seed in sizes.seeds(quick=30, full=1000):
        random = Random(seed)
        modelled = Modelled(random, random.choice((0, 7)), EVERY_INDEX)
        run(modelled, ("append", "cut_anywhere", "evict"), (6, 1, 3))
        applied = random.randint(modelled.base, modelled.last)
        again += applied < modelled.window.evicted_index
        modelled.restore(applied)
        modelled.check()
        run(modelled, ("append", "cut", "apply", "evict", "begin_behind"), (6, 1, 5, 3, 1))
    assert again, "no run had to restore anything"


def test_payload_bytes_are_exact_while_whole_batches_go() -> None:
    window = EntryWindow(0)
    for index in range(1, 41):
        window.append(entry(index, size=index))
    window.applied(20)
    window.evict(0)
    window.applied(30)
    window.evict(0)
    assert window.evicted_index == 30
    assert window.payload_bytes == sum(range(41))
    assert window.bytes_after(20) == sum(range(21, 41))
    window.begin_behind(20)
    assert window.payload_bytes == sum(range(21, 41))
    window.begin_behind(35)
    assert window.payload_bytes == sum(range(36, 41))


def test_what_is_not_applied_stays_in_memory_whatever_it_costs() -> None:
    window = EntryWindow(0)
    for index in range(1, 11):
        window.append(entry(index, size=1000))
    window.applied(4)
    window.evict(0)
    assert window.evicted_index == 4
    assert window.memory_bytes == window.unapplied_bytes == 6 * (1000 + ENTRY_BYTES)


def test_an_index_that_was_applied_long_ago_changes_nothing() -> None:
    window = EntryWindow(0)
    for index in range(1, 31):
        window.append(entry(index))
    window.applied(10)
    window.evict(0)
    window.applied(4)
    assert window.applied_index == 10
    assert window.unapplied_bytes == 20 * (10 + ENTRY_BYTES)


def test_entries_without_a_gap_only() -> None:
    window = EntryWindow(3)
    with pytest.raises(AssertionError, match="gap: 5 after 3"):
        window.append(entry(5))
