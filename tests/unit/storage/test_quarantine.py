"""The mark of a wrong state."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overdb_node.storage import quarantine
from overdb_node.storage.data import DataStore


def test_it_is_read_as_written_and_rocksdb_takes_no_notice(tmp_path: Path) -> None:
    data = tmp_path / "data-1"
    store = DataStore(data)
    assert quarantine.read(data) == ""
    quarantine.write(data, "it differs at index 7")
    store.write([(b"k", 1, b"v")], [], 1, 1)
    store.flush()
    store.close()
    store = DataStore(data)
    assert store.newest(b"k") == (1, b"v")
    store.close()
    assert quarantine.read(data) == "it differs at index 7"


def test_an_empty_or_damaged_mark_is_a_mark(tmp_path: Path) -> None:
    (tmp_path / quarantine.FILE).write_bytes(b"")
    assert quarantine.read(tmp_path)
    (tmp_path / quarantine.FILE).write_bytes(b"\xff\xfe")
    assert quarantine.read(tmp_path)


def test_it_is_durable_before_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: the file, then the directory."""
    synced: list[str] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    quarantine.write(tmp_path, "why")
    assert synced == [str(tmp_path / (quarantine.FILE + ".tmp")), str(tmp_path)]
