"""How much room is kept on a disk, and what an operator is told (PROTOCOL 1.4, FAULTS 84)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from overdb_node import disk_space
from overdb_node.disk_space import DiskSpace
from overdb_node.raft.types import DiskState

MIB = 1 << 20


class Disk:
    """A disk of which a test says how much is free."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, path: Path, reserve: int = 128, sharers: int = 1
    ) -> None:
        self.free = 0
        usage = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=self.free))
        monkeypatch.setattr(disk_space, "shutil", usage)
        self.space = DiskSpace(path, reserve * MIB, sharers)

    def look(self, free_mib: float, compaction: int = 0, memory: int = 0) -> DiskState:
        self.free = int(free_mib * MIB)
        before = self.space.state
        changed = self.space.look(compaction * MIB, memory * MIB)
        assert changed == (self.space.state is not before)
        return self.space.state


def test_states_are_left_with_an_eighth_more_than_they_are_entered_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    walk = [200, 128, 127.9, 143, 144, 127, 32, 31.9, 35, 36, 143, 144]
    assert "".join(disk.look(free).name[1] for free in walk) == "RROORO" + "OUUOOR"


def test_what_is_in_memory_counts_as_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a flush no log can be cut: a replica that had no room for one never came back."""
    disk = Disk(monkeypatch, tmp_path)
    assert disk.look(150, memory=30) is DiskState.LOW
    assert disk.look(60, memory=30) is DiskState.FULL
    assert disk.space.fits(30 * MIB)


def test_replicas_on_one_file_system_keep_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for sharers, reserve in ((1, 128), (2, 128), (3, 192), (6, 384)):
        disk = Disk(monkeypatch, tmp_path, sharers=sharers)
        assert disk.space.reserve_bytes == reserve * MIB
        assert disk.look(reserve + 2 * sharers, memory=1) is DiskState.FREE
        assert disk.look(reserve, memory=1) is DiskState.LOW


def test_those_beside_a_directory_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("node-1", "node-2", "node-3", "logs"):
        (tmp_path / name).mkdir()
        if name != "logs":
            (tmp_path / name / "node.json").write_text("{}")
    assert Disk(monkeypatch, tmp_path / "node-1", sharers=0).space.reserve_bytes == 192 * MIB


def test_room_for_compactions_is_kept_before_anything_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    assert disk.look(400, compaction=100) is DiskState.FREE
    assert not disk.space.reclaims
    assert disk.look(227, compaction=100) is DiskState.FREE
    assert disk.space.reclaims


def test_a_reserve_of_nothing_never_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, tmp_path, reserve=0)
    assert disk.look(0) is DiskState.FREE
    assert not disk.space.reclaims
    assert disk.space.snapshot_bytes_max is None


def test_a_snapshot_is_taken_if_it_fits_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    disk.look(104)
    assert disk.space.snapshot_bytes_max == 50 * MIB


@pytest.mark.parametrize(
    ("free", "words"), [(100, ("Delete keys", "enlarge")), (5, ("Enlarge", "by itself"))]
)
def test_the_problem_says_what_to_do_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, words: tuple[str, ...]
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    disk.look(free)
    assert all(word in disk.space.problem for word in words)
    assert f"{free} MiB free, it keeps 128 MiB" in disk.space.problem
    assert len(disk.space.problem) < 2 * 110
    disk.look(500)
    assert disk.space.problem == ""


def test_a_snapshot_without_room_says_what_to_do_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    disk.look(150)
    problem = disk.space.problem_of_snapshot(100 * MIB)
    assert "disk full (150 MiB free)" in problem
    assert "snapshot of 100.0 MiB does not fit twice" in problem
    assert "Enlarge the disk" in problem
    assert len(problem) < 2 * 110
