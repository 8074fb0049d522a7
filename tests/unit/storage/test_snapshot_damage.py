"""A sealed snapshot that is damaged on the disk of who made it: found, and not sealed once more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from overdb_node.raft.types import Snapshot
from overdb_node.storage.errors import CorruptSnapshot
from overdb_node.storage.replica import ReplicaStorage
from tests.unit.storage.replicas import apply, compacted, fill, opened

pytestmark = pytest.mark.usefixtures("small_segments")


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[ReplicaStorage]:
    with opened(tmp_path / "leader") as storage:
        fill(storage, 20, size=2000)
        yield storage


@pytest.fixture
def snapshot(leader: ReplicaStorage) -> Snapshot:
    return compacted(leader)


@pytest.fixture
def path(tmp_path: Path, snapshot: Snapshot) -> Path:
    """Where the snapshot lies."""
    return tmp_path / "leader" / "snapshots" / snapshot.checkpoint


def flip(path: Path, position: int = 10) -> None:
    """Flip one bit of a file in place: whatever has a link to it has the damage too."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


def test_a_whole_one_is_whole(leader: ReplicaStorage, snapshot: Snapshot) -> None:
    assert leader.damage(snapshot) is None


def test_any_damaged_file_is_found(leader: ReplicaStorage, snapshot: Snapshot, path: Path) -> None:
    files = [file for file in sorted((path / "db").iterdir()) if file.stat().st_size > 10]
    assert len(files) > 2
    for file in files:
        flip(file)
        found = leader.damage(snapshot)
        assert found is not None
        assert [one.name for one in found.files] == [file.name]
        assert file.name in found.reason
        flip(file)
    assert leader.damage(snapshot) is None


def test_what_is_short_or_missing_is_damaged(
    leader: ReplicaStorage, snapshot: Snapshot, path: Path
) -> None:
    first, second, *_ = sorted((path / "db").glob("[!0-9]*"))  # of the snapshot alone
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    found = leader.damage(snapshot)
    assert found is not None
    assert [one.name for one in found.files] == [first.name, second.name]


def test_without_its_manifest_nothing_is_known_of_the_files(
    leader: ReplicaStorage, snapshot: Snapshot, path: Path
) -> None:
    flip(path / "manifest.json")
    found = leader.damage(snapshot)
    assert found is not None
    assert ("manifest.json" in found.reason, found.files) == (True, ())
    (path / "manifest.json").unlink()
    assert leader.damage(snapshot) is not None


def test_damage_that_the_live_data_has_not_is_left_behind(
    leader: ReplicaStorage, snapshot: Snapshot, path: Path
) -> None:
    for file in (path / "db").glob("MANIFEST*"):
        flip(file)
    found = leader.damage(snapshot)
    assert found is not None
    apply(leader, 21, 21)
    taken = leader.take_snapshot(found.files)
    assert taken is not None
    assert taken.index == 21


def test_damage_that_the_live_data_shares_gets_no_checksum_that_fits(
    leader: ReplicaStorage, snapshot: Snapshot, path: Path
) -> None:
    """A checkpoint links the .sst of the live data: another one is made of the same bytes."""
    table = min((path / "db").glob("*.sst"))
    flip(table)
    found = leader.damage(snapshot)
    assert found is not None
    apply(leader, 21, 21)
    with pytest.raises(CorruptSnapshot, match=table.name):
        leader.take_snapshot(found.files)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
