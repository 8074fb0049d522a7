"""A replica's storage on a simulated disk: a scripted life, and what a start must find after its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from overdb_node.raft.types import Entry, EntryKind, HardState, Snapshot
from overdb_node.storage.replica import ReplicaStorage
from overdb_simulation.disk import SimulatedDisk
from tests.unit.storage import replicas

SEGMENT_BYTES = 2048
INSTALLED_TERM = 2


class Model(NamedTuple):
    """What counts: hard state, place of the first element, entries behind it."""

    hard_state: HardState
    first_index: int
    first_term: int
    entries: tuple[Entry, ...]

    def __repr__(self) -> str:
        behind = " ".join(f"{e.term}/{e.index}" for e in self.entries)
        return f"<{self.hard_state}, first {self.first_term}/{self.first_index}, then {behind}>"

    def appended(self, hard_state: HardState | None, entries: Sequence[Entry]) -> Model:
        kept = self.entries
        for entry in entries:
            kept = (*kept[: entry.index - self.first_index - 1], entry)
        return self._replace(hard_state=hard_state or self.hard_state, entries=kept)

    def begun_at(self, snapshot: Snapshot, *, keeps: bool = True) -> Model:
        kept = self.entries[snapshot.index - self.first_index :] if keeps else ()
        return self._replace(first_index=snapshot.index, first_term=snapshot.term, entries=kept)


FOUNDED = Model(HardState(), 0, 0, ())


def entries(first: int, last: int, term: int = 1, size: int = 60) -> list[Entry]:
    """Payloads without zero bytes: a frame that ends in one cannot be told from a torn one."""
    return [
        Entry(index, term, EntryKind.COMMANDS, b"%d/%d " % (term, index) + b"x" * size)
        for index in range(first, last + 1)
    ]


@cache
def sent_snapshot(index: int) -> tuple[Snapshot, bytes]:
    """A leader's snapshot and its stream."""
    disk = SimulatedDisk(Random(index))
    with replicas.opened(disk.root) as leader:  # type: ignore[arg-type]
        replicas.fill(leader, index, INSTALLED_TERM)
        snapshot = replicas.compacted(leader)
        return snapshot, replicas.whole_stream(leader, snapshot)


class Life:
    """``model`` is what was acknowledged; while a step is under way, ``after`` may be there as well."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.model = self.after = FOUNDED
        self.streams = [sent_snapshot(index) for index in (40, 60)]

    def run(self) -> None:
        storage = self._open()
        self._append(storage, HardState(1, 1, 0), [])
        self._append(storage, HardState(3, 2, 1), entries(1, 5))
        for index in range(6, 21):
            self._append(storage, None, entries(index, index))
        replicas.apply(storage, 1, 12)
        self._compact(storage)
        for first in range(21, 42, 4):
            self._append(storage, HardState(3, 2, first), entries(first, first + 3, size=100))
        self._append(storage, HardState(4, 0, 20), entries(38, 45, term=4))  # cuts what stood there
        replicas.apply(storage, 13, 20)
        storage.data.flush()
        replicas.apply(storage, 21, 30)
        self._compact(storage)
        self._append(storage, None, entries(46, 48, term=4, size=3000))  # larger than a segment
        self._install(storage, *self.streams[0], keeps=True)
        self._append(storage, None, entries(49, 50, term=4))
        storage.close()
        storage = self._open()
        self._append(storage, HardState(5, 3, 40), [])
        self._install(storage, *self.streams[1], keeps=False)
        self._append(storage, HardState(5, 3, 60), entries(61, 70, term=5))
        replicas.apply(storage, 61, 66, term=5)
        storage.close()

    def _open(self) -> ReplicaStorage:
        return ReplicaStorage.open(self.disk.root, replicas.IDENTITY, replicas.GENESIS)  # type: ignore[arg-type]

    def _step(self, after: Model, action: Callable[[], object]) -> None:
        self.after = after
        action()
        self.model = after

    def _append(
        self, storage: ReplicaStorage, hard_state: HardState | None, added: list[Entry]
    ) -> None:
        after = self.model.appended(hard_state, added)
        self._step(after, lambda: storage.log.append(hard_state, added))

    def _compact(self, storage: ReplicaStorage) -> None:
        taken = storage.take_snapshot()
        assert taken is not None
        snapshot = storage.seal_snapshot(taken, replicas.MEMBERS)
        self._step(self.model.begun_at(snapshot), lambda: storage.compact(snapshot))
        storage.release_below(snapshot.index)

    def _install(
        self, storage: ReplicaStorage, snapshot: Snapshot, stream: bytes, *, keeps: bool
    ) -> None:
        half = len(stream) // 2
        place = (snapshot.index, snapshot.term)
        storage.stage(*place, 0, len(stream), stream[:half])
        _, staged = storage.stage(*place, half, len(stream), stream[half:])
        assert staged is not None
        after = self.model.begun_at(snapshot, keeps=keeps)
        self._step(after, lambda: storage.install(staged, keeps))

    # --- what a start finds -----------------------------------------------------------------------

    def found(self) -> Model:
        """Open, check that the parts fit together, close."""
        storage = self._open()
        try:
            return model_of(storage)
        finally:
            storage.close()

    def check(self) -> Model:
        found = self.found()
        assert found in (self.model, self.after), f"acknowledged: {self.model}\nfound: {found}"
        return found

    def check_use(self, found: Model) -> None:
        """It takes another entry, and has it afterwards."""
        storage = self._open()
        self.model = found
        last = found.first_index + len(found.entries)
        self._append(storage, None, entries(last + 1, last + 1, term=9))
        self.disk.lose_power()
        assert self.found() == self.model, "an entry was acknowledged after the recovery"


def model_of(storage: ReplicaStorage) -> Model:
    recovered = storage.recovered
    first = recovered.snapshot
    assert storage.data.applied() == (recovered.applied_index, recovered.applied_term)
    newest = storage.data.newest(b"k")
    if recovered.applied_index:
        assert newest is not None
        assert newest[0] == replicas.clock_at(recovered.applied_index)
    else:
        assert newest is None
    if first.checkpoint:
        assert len(replicas.whole_stream(storage, first)) == first.size
    return Model(recovered.hard_state, first.index, first.term, tuple(recovered.entries))
