"""A replica's directory: founding, the commit point, compaction, installs (DESIGN 5, PROTOCOL 1.1, 1.2)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overdb_common.errors import StartupError
from overdb_node.raft.types import HardState, Member, Snapshot
from overdb_node.storage import files, replica
from overdb_node.storage.errors import Overtaken
from overdb_node.storage.replica import ReplicaStorage
from tests.unit.storage.log_files import entries, entry
from tests.unit.storage.replicas import (
    GENESIS,
    HARD_STATE,
    IDENTITY,
    MEMBERS,
    apply,
    clock_at,
    compacted,
    debris,
    fill,
    opened,
    state_of,
    whole_stream,
)

pytestmark = pytest.mark.usefixtures("small_segments")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Closed; 10 entries, all applied and flushed."""
    with opened(tmp_path / "node") as storage:
        fill(storage, 10)
        storage.data.flush()
    return tmp_path / "node"


def refused(directory: Path, *words: str) -> None:
    """A start is refused in one line that names all of these words, and changes no file that counts."""
    before = contents(directory)
    with pytest.raises(StartupError) as caught:
        ReplicaStorage.open(directory, IDENTITY, GENESIS)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert contents(directory) == before


def contents(directory: Path) -> dict[str, bytes]:
    """All but what RocksDB writes by itself when it is opened."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and path.name not in ("LOCK", "next.tmp")
        and not path.relative_to(directory).parts[0].startswith("data-")
    }


# --- founding and opening --------------------------------------------------------------------------


def test_a_new_directory_begins_with_the_genesis_snapshot(tmp_path: Path) -> None:
    """PROTOCOL 1.1."""
    state = state_of(tmp_path / "new" / "node")
    assert state == (HardState(), GENESIS, [], (0, 0), None)
    assert state_of(tmp_path / "new" / "node") == state


def test_the_genesis_of_a_later_start_does_not_count(directory: Path) -> None:
    """PROTOCOL 3.1: members come from the log and its first element, never from settings again."""
    other = Snapshot(0, 0, 0, (Member(9, "z:9"),))
    storage = ReplicaStorage.open(directory, IDENTITY, other)
    storage.close()
    assert storage.recovered.snapshot == GENESIS


def test_everything_is_there_after_a_restart(directory: Path) -> None:
    state = state_of(directory)
    assert state == (HARD_STATE, GENESIS, entries(1, 10), (10, 1), b"1/10")
    assert debris(directory) == []


def test_debris_of_interrupted_changes_goes_at_a_start(directory: Path) -> None:
    for name in ("log-7", "data-9", "snapshots/5-1", "snapshots/taking.tmp"):
        (directory / name).mkdir()
        (directory / name / "file").write_bytes(b"x")
    for name in ("CURRENT.tmp", "node.json.tmp", "snapshots/incoming.tmp"):
        (directory / name).write_bytes(b"half")
    assert state_of(directory).indexes == list(range(1, 11))
    assert debris(directory) == []


def test_a_missing_current_over_a_log_that_was_used_is_refused(directory: Path) -> None:
    """FAULTS 1, 38: founding anew would forget a vote and what was acknowledged."""
    (directory / "CURRENT").unlink()
    refused(directory, "has a log and no CURRENT")


def test_a_missing_current_over_a_log_with_a_vote_alone_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "node") as storage:
        storage.log.append(HardState(1, 1, 0), ())
    (tmp_path / "node" / "CURRENT").unlink()
    refused(tmp_path / "node", "has a log and no CURRENT")


def test_a_flipped_bit_anywhere_in_current_is_refused(directory: Path) -> None:
    path = directory / "CURRENT"
    content = path.read_bytes()
    own = state_of(directory)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 7
        path.write_bytes(damaged)
        if damaged.decode("latin-1").upper().split() == content.decode().upper().split():
            continue  # another letter or line break of the checksum itself: nothing is lost
        with pytest.raises(StartupError, match="CURRENT is corrupt"):
            ReplicaStorage.open(directory, IDENTITY, GENESIS)
    path.write_bytes(content)
    assert state_of(directory) == own


@pytest.mark.parametrize(
    "content", [b"", b"{}\n00000000\n", b"\xff\xfe\n", b"a\nb\nc\n", b"x\ny\n"]
)
def test_a_current_of_another_form_is_refused(directory: Path, content: bytes) -> None:
    (directory / "CURRENT").write_bytes(content)
    refused(directory, "CURRENT is corrupt", "replace this replica")


def test_a_start_that_is_refused_gives_the_directory_back(directory: Path) -> None:
    content = (directory / "CURRENT").read_bytes()
    (directory / "CURRENT").write_bytes(b"x")
    refused(directory)
    (directory / "CURRENT").write_bytes(content)
    assert state_of(directory).applied == (10, 1), "neither locked nor changed"


@pytest.mark.parametrize("lost", ["log-1", "data-1"])
def test_a_directory_that_lost_its_log_or_its_data_is_refused(directory: Path, lost: str) -> None:
    """FAULTS 25, 38: it does not begin again with what is left."""
    with opened(directory) as storage:
        apply(storage, 10, 10)
        compacted(storage)
    shutil.rmtree(directory / lost)
    with pytest.raises(StartupError) as caught:
        ReplicaStorage.open(directory, IDENTITY, GENESIS)
    assert "\n" not in str(caught.value)


def test_data_that_is_ahead_of_the_log_is_refused(tmp_path: Path) -> None:
    """PROTOCOL 1.0: applied <= last. A log that lost its end must not be followed by its own data."""
    with opened(tmp_path / "node") as storage:
        storage.log.append(HARD_STATE, entries(1, 5))
        apply(storage, 1, 7)
        storage.data.flush()
    refused(tmp_path / "node", "index 7", "0 to 5")


def test_data_that_cannot_be_opened_is_refused(directory: Path) -> None:
    for path in (directory / "data-1").glob("MANIFEST-*"):
        path.write_bytes(b"x" * 50)
    with pytest.raises(StartupError, match="data-1") as caught:
        ReplicaStorage.open(directory, IDENTITY, GENESIS)
    assert "\n" not in str(caught.value)


def test_a_damaged_log_is_refused_and_everything_else_let_go(directory: Path) -> None:
    (path,) = (directory / "log-1").glob("*.seg")
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    refused(directory, path.name)
    content[60] ^= 1
    path.write_bytes(content)
    assert state_of(directory).applied == (10, 1)


# --- compaction ------------------------------------------------------------------------------------


def test_after_compaction_there_is_no_gap(directory: Path) -> None:
    """FAULTS 14, 40; the hard state outlives the segments that it was written in."""
    with opened(directory) as storage:
        storage.log.append(None, [entry(index, 1, bytes(800)) for index in range(11, 14)])
        storage.log.append(None, [entry(index, 1, bytes(800)) for index in range(14, 18)])
        apply(storage, 11, 14)
        before = storage.log_bytes
        snapshot = compacted(storage)
        assert storage.log_bytes <= before
    state = state_of(directory)
    assert (
        state.snapshot == snapshot == Snapshot(14, 1, clock_at(14), MEMBERS, "14-1", snapshot.size)
    )
    assert (state.hard_state, state.indexes, state.applied) == (HARD_STATE, [15, 16, 17], (14, 1))
    assert state.value == b"1/14"


def test_compaction_drops_the_segments_that_nobody_needs(tmp_path: Path) -> None:
    with opened(tmp_path / "node") as storage:
        storage.log.append(HARD_STATE, ())
        for index in range(1, 31):
            storage.log.append(None, [entry(index, 1, bytes(900))])
        apply(storage, 1, 28)
        before = storage.log_bytes
        compacted(storage)
        assert storage.log_bytes < before / 3
    state = state_of(tmp_path / "node")
    assert (state.hard_state, state.indexes) == (HARD_STATE, [29, 30])


def test_snapshots_are_kept_until_they_are_released(directory: Path) -> None:
    """A follower may still be streaming the one before."""
    with opened(directory) as storage:
        apply(storage, 10, 10)
        old = compacted(storage)
        stream = whole_stream(storage, old)
        storage.log.append(None, [entry(11)])
        apply(storage, 11, 11)
        new = compacted(storage)
        assert whole_stream(storage, old) == stream
        storage.release_below(new.index)
        assert len(whole_stream(storage, new)) == new.size
        assert sorted(path.name for path in (directory / "snapshots").iterdir()) == ["11-1"]


# --- installing ------------------------------------------------------------------------------------


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[ReplicaStorage]:
    with opened(tmp_path / "leader") as storage:
        fill(storage, 30, term=2)
        yield storage


def sent(leader: ReplicaStorage, follower: ReplicaStorage) -> Snapshot:
    snapshot = compacted(leader)
    stream = whole_stream(leader, snapshot)
    size, received = follower.stage(snapshot.index, snapshot.term, 0, snapshot.size, stream)
    assert (size, received) == (snapshot.size, snapshot)
    return snapshot


def test_an_install_over_another_log_drops_it(directory: Path, leader: ReplicaStorage) -> None:
    """PROTOCOL 1.2, FAULTS 39: and keeps term and vote."""
    with opened(directory) as storage:
        snapshot = sent(leader, storage)
        storage.install(snapshot, keep_entries_after=False)
        assert storage.data.newest(b"k") == leader.data.newest(b"k")
        storage.log.append(HardState(4, 1, 30), [entry(31, 4)])
    state = state_of(directory)
    assert (state.hard_state, state.snapshot) == (HardState(4, 1, 30), snapshot)
    assert (state.entries, state.applied, state.value) == ([entry(31, 4)], (30, 2), b"2/30")
    assert debris(directory) == []


def test_an_install_over_a_log_that_has_the_entry_keeps_what_is_behind(
    directory: Path, leader: ReplicaStorage
) -> None:
    """PROTOCOL 1.2, FAULTS 39."""
    with opened(directory) as storage:
        storage.log.append(None, entries(11, 35, term=2))
        snapshot = sent(leader, storage)
        storage.install(snapshot, keep_entries_after=True)
        storage.log.append(None, [entry(36, 2)])
    state = state_of(directory)
    assert (state.hard_state, state.snapshot) == (HARD_STATE, snapshot)
    assert state.entries == entries(31, 36, term=2)
    assert (state.applied, state.value) == ((30, 2), b"2/30")


class ClosesWithoutRoom:
    """A database that cannot write what it has in memory, as RocksDB tells it: it closes all the same."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def close(self) -> None:
        self._database.close()
        raise Exception(  # what rocksdict raises
            "IO error: No space left on device: While appending to file: data-1/000020.sst"
        )


@pytest.mark.parametrize("keep", [True, False])
def test_an_install_makes_room_where_the_old_data_has_none_to_close(
    directory: Path, leader: ReplicaStorage, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replaced database is not needed. With two copies the disk would stay full until a restart."""
    with opened(directory) as storage:
        storage.log.append(None, entries(11, 30, term=2))
        apply(storage, 11, 20, 2)
        snapshot = sent(leader, storage)
        monkeypatch.setattr(storage.data, "_db", ClosesWithoutRoom(storage.data.database))
        storage.install(snapshot, keep)
        assert storage.data.newest(b"k") == leader.data.newest(b"k")
        assert debris(directory) == []
        storage.log.append(None, [entry(31, 2)])
        apply(storage, 31, 31, 2)
        monkeypatch.setattr(storage.data, "_db", ClosesWithoutRoom(storage.data.database))
    state = state_of(directory)
    assert (state.snapshot, state.entries) == (snapshot, [entry(31, 2)])


@pytest.mark.parametrize("keep", [True, False])
def test_an_install_that_fails_behind_the_switch_has_switched(
    directory: Path, leader: ReplicaStorage, keep: bool
) -> None:
    """Memory matches CURRENT even if a later step fails. The installation can be repeated."""

    class FailedError(Exception):
        pass

    def step(name: str) -> None:
        if name == "switched":
            raise FailedError

    with opened(directory) as storage:
        storage.log.append(None, entries(11, 30, term=2))
        snapshot = sent(leader, storage)
        with pytest.raises(FailedError):
            storage.install(snapshot, keep, step)
        assert storage.data_path.name == "data-2"
        assert storage.data.applied() == (30, 2)
        storage.install(snapshot, keep)
        assert debris(directory) == []
        storage.log.append(None, [entry(31, 2)])
    state = state_of(directory)
    assert (state.snapshot, state.entries, state.applied) == (snapshot, [entry(31, 2)], (30, 2))
    assert debris(directory) == []


@pytest.mark.parametrize("keep", [True, False])
def test_an_installed_snapshot_can_be_sent_on_and_replaced(
    tmp_path: Path, directory: Path, leader: ReplicaStorage, keep: bool
) -> None:
    """The checkpoint is not the database that is written to."""
    with opened(directory) as storage:
        storage.log.append(None, entries(11, 30, term=2))
        first = sent(leader, storage)
        storage.install(first, keep)
        stream = whole_stream(storage, first)
        storage.log.append(None, [entry(31, 2)])
        apply(storage, 31, 31, 2, 5000)
        storage.data.flush()
        storage.data.database.compact_range(None, None)
        assert whole_stream(storage, first) == stream == whole_stream(leader, first)
        leader.log.append(None, [entry(31, 2), entry(32, 2)])
        apply(leader, 31, 32, 2)
        second = sent(leader, storage)
        storage.install(second, keep)
    state = state_of(directory)
    assert (state.snapshot, state.entries, state.value) == (second, [], b"2/32")
    with opened(tmp_path / "third") as third:
        with opened(directory) as storage:
            third.stage(32, 2, 0, second.size, whole_stream(storage, second))
        third.install(second, False)
        assert third.data.applied() == (32, 2)


def test_a_snapshot_that_an_install_overtakes_is_given_up(
    directory: Path, leader: ReplicaStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread completes it while the other one installs a newer one and releases what is older."""
    with opened(directory) as storage:
        taken = storage.take_snapshot()
        assert taken is not None
        snapshot = sent(leader, storage)
        assert snapshot.index > taken.index
        storage.install(snapshot, keep_entries_after=False)
        assert not taken.path.exists()
        with pytest.raises(Overtaken):
            storage.seal_snapshot(taken, ())


def test_a_checkpoint_that_vanished_by_itself_is_an_error(directory: Path) -> None:
    with opened(directory) as storage:
        taken = storage.take_snapshot()
        assert taken is not None
        shutil.rmtree(taken.path)
        with pytest.raises(FileNotFoundError):
            storage.seal_snapshot(taken, ())


def test_the_steps_of_an_install_have_their_order(directory: Path, leader: ReplicaStorage) -> None:
    """Data and log are complete before CURRENT names them."""
    seen = []
    with opened(directory) as storage:
        snapshot = sent(leader, storage)

        def step(name: str) -> None:
            current = (directory / "CURRENT").read_text()
            seen.append((name, '"data-2"' in current, '"log-2"' in current))

        storage.install(snapshot, False, step)
    assert seen == [
        ("data copied", False, False),
        ("log created", False, False),
        ("switched", True, True),
    ]


def test_current_is_durable_before_what_another_one_names_is_removed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rename and its fsync: then a start, and then the power goes."""
    (directory / "data-7").mkdir()
    done: list[str] = []
    real_fsync, real_remove = files.fsync_path, files.remove

    def fsync(path: Path) -> None:
        done.append(f"fsync {path.name}")
        real_fsync(path)

    def remove(path: Path) -> None:
        done.append(f"remove {path.name}")
        real_remove(path)

    monkeypatch.setattr(replica, "fsync_path", fsync)
    monkeypatch.setattr(replica, "remove", remove)
    with opened(directory):
        assert done == [f"fsync {directory.name}", "remove data-7"]
