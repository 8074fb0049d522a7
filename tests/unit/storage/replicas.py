"""A replica's directory: founded, filled, sent to another one, looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from overdb_node.machine.clock import Clock
from overdb_node.machine.machine import CLOCK_RECORD
from overdb_node.raft.types import Entry, HardState, Member, Snapshot
from overdb_node.storage.identity import Identity
from overdb_node.storage.log import DurableLog
from overdb_node.storage.replica import ReplicaStorage
from tests.unit.storage.log_files import entries

SEGMENT_BYTES = 4096
MEMBERS = (Member(1, "a:1"), Member(2, "b:2"), Member(3, "c:3", voter=False))
GENESIS = Snapshot(0, 0, 0, MEMBERS)
IDENTITY = Identity("test", 0, 2, 1)
HARD_STATE = HardState(3, 2, 1)


def use_small_segments() -> None:
    """The real size costs 16 MiB of zeros for each log: too much for hundreds of them."""
    for function in (DurableLog.__init__, DurableLog.create.__func__, DurableLog.open.__func__):  # type: ignore[attr-defined]
        function.__defaults__ = (SEGMENT_BYTES,)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (DurableLog.__init__, DurableLog.create.__func__, DurableLog.open.__func__):  # type: ignore[attr-defined]
        monkeypatch.setattr(function, "__defaults__", (SEGMENT_BYTES,))


@contextmanager
def opened(directory: Path) -> Iterator[ReplicaStorage]:
    storage = ReplicaStorage.open(directory, IDENTITY, GENESIS)
    try:
        yield storage
    finally:
        storage.close()


def clock_at(index: int) -> int:
    return 1000 + index


def apply(storage: ReplicaStorage, first: int, last: int, term: int = 1, size: int = 8) -> None:
    """What applying the entries ``[first..last]`` writes; the value says up to where and who."""
    for index in range(first, last + 1):
        clock = Clock()
        clock.value = clock_at(index)
        storage.data.write(
            [(b"k", clock_at(index), b"%d/%d" % (term, index) + bytes(size))],
            [(CLOCK_RECORD, clock.pack())],
            index,
            term,
        )


def fill(storage: ReplicaStorage, last: int, term: int = 1, size: int = 8) -> None:
    """Log and apply ``[1..last]``, all of one term."""
    storage.log.append(HARD_STATE, entries(1, last, term))
    apply(storage, 1, last, term, size)


def compacted(storage: ReplicaStorage) -> Snapshot:
    """Take, seal and compact to what is applied."""
    taken = storage.take_snapshot()
    assert taken is not None
    snapshot = storage.seal_snapshot(taken, MEMBERS)
    storage.compact(snapshot)
    return snapshot


def whole_stream(storage: ReplicaStorage, snapshot: Snapshot, chunk_bytes: int = 1 << 20) -> bytes:
    parts = []
    for offset in range(0, snapshot.size, chunk_bytes):
        parts.append(storage.read_snapshot(snapshot, offset, chunk_bytes))
    return b"".join(parts)


class State(NamedTuple):
    """Everything that counts in a replica's directory."""

    hard_state: HardState
    snapshot: Snapshot
    entries: list[Entry]
    applied: tuple[int, int]
    value: bytes | None

    @property
    def indexes(self) -> list[int]:
        return [entry.index for entry in self.entries]


def state_of(directory: Path) -> State:
    with opened(directory) as storage:
        recovered = storage.recovered
        newest = storage.data.newest(b"k")
        value = None if newest is None or newest[1] is None else newest[1].rstrip(b"\0")
        applied = (recovered.applied_index, recovered.applied_term)
        assert storage.data.applied() == applied
        return State(recovered.hard_state, recovered.snapshot, recovered.entries, applied, value)


def debris(directory: Path) -> Sequence[str]:
    """What is in a directory beyond one log, one data and the snapshot that CURRENT names."""
    names = sorted(path.name for path in directory.iterdir())
    kinds = sorted(name.partition("-")[0] for name in names)
    expected = ["CURRENT", "LOCK", "data", "log", "node.json", "snapshots"]
    found = [] if kinds == expected else names
    kept = [path.name for path in (directory / "snapshots").iterdir()]
    return found + (kept if len(kept) > 1 or "tmp" in "".join(kept) else [])
