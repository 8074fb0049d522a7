"""What the simulator found in the storage, each as a test of its own."""

from __future__ import annotations

from random import Random

import pytest

from overdb_node.raft.types import Entry, EntryKind, HardState, Snapshot
from overdb_node.storage.files import fsync_path
from overdb_node.storage.identity import Identity
from overdb_node.storage.log import DurableLog
from overdb_node.storage.replica import ReplicaStorage
from overdb_simulation.disk import SimulatedDisk
from overdb_simulation.disk_substitutes import substituted, substitutions

IDENTITY = Identity("overdb", 0, 1, 1)
GENESIS = Snapshot(0, 0, 0, ())


@pytest.mark.parametrize("seed", range(20))
def test_a_new_data_directory_is_there_after_a_power_loss(seed: int) -> None:
    """FAULTS 29: also those above it that were made for it."""
    disk = SimulatedDisk(Random(seed))
    directory = disk.root / "node-1" / "data"
    with substituted(substitutions()):
        storage = ReplicaStorage.open(directory, IDENTITY, GENESIS)  # type: ignore[arg-type]
        storage.log.append(HardState(3, 2, 0), ())
        disk.lose_power()
        storage = ReplicaStorage.open(directory, IDENTITY, GENESIS)  # type: ignore[arg-type]
        assert storage.recovered.hard_state.vote == 2


@pytest.mark.parametrize("seed", range(10))
def test_a_directory_made_by_somebody_else_is_fsynced_when_it_is_claimed(seed: int) -> None:
    """FAULTS 29: a supervisor made it, and did not fsync its entry."""
    disk = SimulatedDisk(Random(seed))
    directory = disk.root / "node-1"
    with substituted(substitutions()):
        disk.root.mkdir(parents=True, exist_ok=True)
        fsync_path(disk.root.parent)  # type: ignore[arg-type]
        directory.mkdir()
        storage = ReplicaStorage.open(directory, IDENTITY, GENESIS)  # type: ignore[arg-type]
        storage.log.append(HardState(3, 2, 0), ())
        disk.lose_power()
        storage = ReplicaStorage.open(directory, IDENTITY, GENESIS)  # type: ignore[arg-type]
        assert storage.recovered.hard_state.vote == 2


def test_a_log_goes_on_when_a_full_disk_has_space_again() -> None:
    """FAULTS 33: the next segment could not be prepared while it was full."""
    disk = SimulatedDisk(Random(1))
    with substituted(substitutions(8192)):
        disk.root.mkdir(parents=True, exist_ok=True)
        log = DurableLog.create(disk.root / "log-1", HardState())  # type: ignore[arg-type]
        disk.full = True
        index = 0
        for _ in range(12):  # into the second segment, behind which no third one fits
            index += 1
            log.append(None, [Entry(index, 1, EntryKind.COMMANDS, b"x" * 1000)])
        disk.full = False
        for _ in range(12):
            index += 1
            log.append(None, [Entry(index, 1, EntryKind.COMMANDS, b"x" * 1000)])
        disk.lose_power()
        _, entries = DurableLog.open(disk.root / "log-1", 0)  # type: ignore[arg-type]
        assert [entry.index for entry in entries] == list(range(1, index + 1))
