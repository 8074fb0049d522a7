"""Directories that are exchanged by old copies of themselves, and given back (FAULTS 82)."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from overdb_torture import old_copies
from overdb_torture.faults import Kind, plan_faults
from overdb_torture.old_copies import OldCopy


def content(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


@pytest.fixture
def node(tmp_path: Path) -> Path:
    directory = tmp_path / "node-1"
    (directory / "log-1").mkdir(parents=True)
    (directory / "LOCK").touch()
    (directory / "log-1" / "1.seg").write_text("old")
    (directory / "node.json").write_text(json.dumps({"start_number": 3}))
    (directory / "starts.json").write_text(json.dumps({"start_number": 7}))
    return directory


def test_the_copy_takes_the_place_and_the_own_directory_comes_back(node: Path) -> None:
    old = content(node)
    copy = OldCopy(node, node.parent / "store")
    assert copy.start_number == 7
    (node / "log-1" / "1.seg").write_text("old and new")
    (node / "log-1" / "2.seg").write_text("newer")
    newest = content(node)
    copy.put_back()
    assert content(node) == old
    (node / "starts.json").write_text(json.dumps({"start_number": 9}))  # its life there
    copy.undo()
    assert content(node) == newest
    assert (node / "LOCK").exists()


def test_a_directory_that_is_in_use_is_left_alone(node: Path) -> None:
    copy = OldCopy(node, node.parent / "store")
    before = content(node)
    with (node / "LOCK").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            copy.put_back()
    assert content(node) == before


def test_what_a_snapshot_changes_meanwhile_is_copied_again(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of half a snapshot is damaged: the node would not get as far as to ask the others."""
    copyfile, copied = shutil.copyfile, 0

    def copy_while_it_runs(source: str, target: str) -> str:
        nonlocal copied
        copied += 1
        if copied == 2:
            (node / "log-1" / "2.seg").write_text("the next segment")
        if copied == 6:
            (node / "log-1" / "1.seg").unlink(missing_ok=True)
        return str(copyfile(source, target))

    monkeypatch.setattr(shutil, "copyfile", copy_while_it_runs)
    copy = OldCopy(node, node.parent / "store")
    copy.put_back()
    assert set(content(node)) == {"log-1/2.seg", "node.json", "starts.json"}

    monkeypatch.setattr(old_copies, "_copied", lambda *_: False)
    with pytest.raises(FileNotFoundError, match="changes while it is copied"):
        OldCopy(node, node.parent / "store")


def test_one_node_at_a_time_gets_an_old_directory() -> None:
    for seed in range(30):
        for fault in plan_faults((Kind.RESTORE,), 60, 2, seed):
            assert len(fault.groups) == 1
