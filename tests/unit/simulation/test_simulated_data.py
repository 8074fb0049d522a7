"""The simulated database does what the one on RocksDB does, and loses what that may lose."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from overdb_node.storage.data import DataStore
from overdb_simulation import data
from overdb_simulation.data import SimulatedCheckpoint, SimulatedDataStore
from overdb_simulation.disk import PowerLoss, SimulatedDisk
from overdb_simulation.disk_substitutes import SimulatedOS
from tests.unit.storage.data_rows import pages_take_their_time

__all__ = ["pages_take_their_time"]  # the simulated one has no limit in time

KEYS = [b"a", b"a\0", b"a\0\0", b"a\0\xff", b"a\xff", b"aa", b"\0", b"\xff", b"b", b"b\x01"]
NAMES = [b"", b"c", b"c/\0", b"c/\x01", b"c/\xff\xff", b"d/"]
STEPS = 250


class Pair:
    """Both databases; each call goes to both and must give the same."""

    def __init__(self, directory: Path, random: Random) -> None:
        self._real_directory = directory
        self._directory = SimulatedDisk(random).root / "data-1"
        self.open()

    def open(self) -> None:
        self.stores: tuple[Any, Any] = (
            DataStore(self._real_directory),
            SimulatedDataStore(self._directory),
        )

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            real, simulated = (
                _listed(getattr(store, name)(*arguments, **named)) for store in self.stores
            )
            assert simulated == real, (name, arguments, named)
            return real

        return call


def _listed(result: Any) -> Any:
    return list(result) if hasattr(result, "__next__") else result


@pytest.mark.parametrize("seed", range(4))
def test_it_answers_as_the_production_one_does(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    pair = Pair(tmp_path / "data-1", random)
    version, cursor = 0, None
    for index in range(1, STEPS):
        rows = []
        for _ in range(random.randrange(4)):
            version += 1
            value = random.choice([None, b"", b"v" * random.randrange(30)])
            rows.append((random.choice(KEYS), version, value))
        names = random.sample(NAMES, random.randrange(3))
        records = [(name, random.choice([None, b"%d" % index])) for name in names]
        pair.write(rows, records, index, index // 10)
        _compare_reads(pair, random, version)
        if random.random() < 0.3:
            floor = random.randrange(version + 2)
            cursor = pair.sweep(cursor or b"", floor, random.randrange(2, 8)).cursor
        if random.random() < 0.1:
            pair.flush()
        if random.random() < 0.05:
            pair.close()
            pair.open()
            _compare_reads(pair, random, version)
    pair.close()


def _compare_reads(pair: Pair, random: Random, version: int) -> None:
    pair.applied()
    pair.records(random.choice([b"", b"c", b"c/"]))
    pair.record(random.choice(NAMES))
    at = [None, random.randrange(version + 3), 1 << 60]
    wanted = [(key, random.choice(at)) for key in KEYS]
    pair.newest_many(wanted)
    pair.newest(*wanted[0])
    for reverse in (False, True):
        pair.scan(
            random.choice([b"", *KEYS]),
            random.choice([b"", *KEYS]),
            reverse=reverse,
            at=random.randrange(version + 3),
            keys_only=random.random() < 0.2,
            max_items=random.choice([1, 2, 3, 1000]),
            max_bytes=random.choice([0, 20, 60, 100_000]),
        )


def test_a_version_that_is_written_again_replaces_the_first(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "data-1", Random(1))
    for rows in ([(b"k", 5, b"1"), (b"k", 3, b"2")], [(b"k", 5, None)], [(b"k", 4, b"3")]):
        pair.write(rows, [], 1, 1)
        for at in range(7):
            pair.newest(b"k", at)
    pair.close()


def made(seed: int) -> SimulatedDisk:
    """A disk with a durable directory for the database, which makes its files durable only."""
    disk = SimulatedDisk(Random(seed))
    (disk.root / "data-1").mkdir()
    descriptor = SimulatedOS().open(disk.root, 0)
    SimulatedOS().fsync(descriptor)
    return disk


def filled(disk: SimulatedDisk, batches: int) -> SimulatedDataStore:
    store = SimulatedDataStore(disk.root / "data-1")
    for index in range(1, batches + 1):
        value = b"%d" % index
        store.write([(b"k", index, value)], [(b"r", value)], index, 7)
    return store


def reopened(disk: SimulatedDisk) -> SimulatedDataStore:
    return SimulatedDataStore(disk.root / "data-1")


def test_after_a_kill_it_is_as_of_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BATCHES_BETWEEN_FLUSHES", (1000, 1000))
    disk = made(1)
    store = filled(disk, 50)
    store.flush()
    store.write([(b"k", 60, b"lost")], [], 60, 7)
    disk.crash_process()
    store = reopened(disk)
    assert store.applied() == (50, 7)
    assert store.newest(b"k") == (50, b"50")
    assert store.record(b"r") == b"50"


def test_it_flushes_by_itself_at_random() -> None:
    found = set()
    for seed in range(20):
        disk = made(seed)
        filled(disk, 600)
        disk.lose_power()
        found.add(reopened(disk).applied()[0])
    assert len(found) > 10


def test_a_power_loss_at_any_operation_leaves_data_of_one_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through flushes and merges: never before the last flush that came through."""
    monkeypatch.setattr(data, "BATCHES_BETWEEN_FLUSHES", (1000, 1000))
    for operation in range(2000):
        disk = made(operation)
        disk.operations_until_power_loss = operation
        flushed = written = 0
        try:
            store = reopened(disk)
            for written in range(1, 61):
                value = b"%d" % written
                store.write([(b"k%d" % (written % 7), written, value)], [(b"r", value)], written, 7)
                if written % 6 == 0:
                    store.flush()
                    flushed = written
        except PowerLoss:
            disk.lose_power()
        else:
            assert operation > 80
            return
        store = reopened(disk)
        index = store.applied()[0]
        assert index in (flushed, written), operation
        assert store.record(b"r") == (b"%d" % index if index else None)
        assert sorted(newest[0] for n in range(7) if (newest := store.newest(b"k%d" % n))) == list(
            range(max(1, index - 6), index + 1)
        )
    raise AssertionError("it does not end")


def test_many_flushes_leave_few_files() -> None:
    disk = made(1)
    store = filled(disk, 1)
    for index in range(2, 100):
        store.write([(b"k", index, b"v")], [], index, 1)
        store.flush()
        assert len(list((disk.root / "data-1").glob("*.sst"))) <= data.FILES_MAX
    assert store.size_bytes > 0


def test_a_damaged_file_is_refused_by_an_exception() -> None:
    for seed in range(40):
        disk = made(seed)
        filled(disk, 20).close()
        assert disk.flip_bit(Random(seed))
        with pytest.raises(Exception, match="Corruption"):
            reopened(disk)


def test_a_checkpoint_is_of_its_moment_and_shares_the_files() -> None:
    disk = made(1)
    store = filled(disk, 20)
    used = disk.used_bytes
    SimulatedCheckpoint(store.database).create_checkpoint(str(disk.root / "copy"))
    store.write([(b"k", 30, b"later")], [], 30, 7)
    store.flush()
    copy = SimulatedDataStore(disk.root / "copy", read_only=True)
    assert copy.applied() == (20, 7)
    assert copy.newest(b"k") == (20, b"20")
    assert disk.used_bytes < used + 2000
    with pytest.raises(Exception, match="read only"):
        copy.write([], [], 1, 1)


def test_without_space_a_flush_says_so_and_can_be_done_later() -> None:
    disk = made(1)
    store = filled(disk, 10)
    disk.full = True
    with pytest.raises(Exception, match="space"):
        store.flush()
    disk.full = False
    store.flush()
    disk.lose_power()
    assert reopened(disk).applied() == (10, 7)


def test_after_a_failed_fsync_nothing_is_taken_any_more() -> None:
    disk = made(1)
    store = filled(disk, 10)
    disk.fail_fsyncs = 1
    with pytest.raises(Exception, match="IO error"):
        store.flush()
    with pytest.raises(Exception, match="IO error"):
        store.write([], [], 11, 7)
