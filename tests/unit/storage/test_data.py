"""Versions, records and the applied index in RocksDB (DESIGN 5, PROTOCOL 2.1)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rocksdict import RdictIter

from overdb_node.storage.data import (
    DataStore,
    _Rows,
    decode_key,
    decode_version,
    encode_key,
    encode_version,
)
from tests.unit.storage.data_rows import KEYS, WRITES, Rows, wal_bytes

U64 = st.integers(0, 2**64 - 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DataStore]:
    store = DataStore(tmp_path / "data-1")
    yield store
    store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataStore]:
    """One database for all examples of a property; each example wipes its keys."""
    store = DataStore(tmp_path_factory.mktemp("data") / "data-1")
    yield store
    store.close()


# --- order -----------------------------------------------------------------------------------------------

ANY_KEY = st.one_of(KEYS, st.binary(max_size=12))


@given(ANY_KEY, U64, ANY_KEY, U64)
@example(b"a", 0, b"a\0", 2**64 - 1)
@example(b"a", 2**64 - 1, b"a\0\xff", 0)
@example(b"", 0, b"\0", 0)
def test_encoded_rows_are_in_the_order_of_keys_and_newest_first(
    one: bytes, at: int, other: bytes, other_at: int
) -> None:
    in_order = (one, -at) < (other, -other_at)
    assert (encode_version(one, at) < encode_version(other, other_at)) is in_order
    assert (encode_key(one) == encode_key(other)) is (one == other)


@given(ANY_KEY, U64)
def test_a_row_gives_its_key_and_version_back(key: bytes, at: int) -> None:
    stored = encode_version(key, at)
    assert (decode_key(stored), decode_version(stored)) == (key, at)


@given(ANY_KEY, ANY_KEY)
def test_no_prefix_of_a_key_is_a_prefix_of_another_keys_rows(one: bytes, other: bytes) -> None:
    """What makes a seek to one key's rows safe."""
    assert encode_key(other).startswith(encode_key(one)) is (one == other)


# --- writing and reading ---------------------------------------------------------------------------------


def test_an_empty_database_has_applied_nothing(store: DataStore) -> None:
    assert store.applied() == (0, 0)
    assert store.newest(b"k") is None
    assert store.record(b"r") is None
    assert list(store.records(b"")) == []


@given(WRITES, st.data())
def test_the_newest_at_a_version_is_the_models(
    shared: DataStore, writes: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    """PROTOCOL 2.1: (key, timestamp) -> value; a tombstone is a version too."""
    rows = Rows(shared, writes)
    wanted = data.draw(
        st.lists(st.tuples(KEYS, st.none() | st.integers(0, rows.last + 2)), max_size=8)
    )
    expected = [rows.newest(key, rows.last if at is None else at) for key, at in wanted]
    assert [shared.newest(key, at) for key, at in wanted] == expected
    assert shared.newest_many(wanted) == expected


@given(WRITES, st.lists(KEYS, max_size=8).map(sorted))
def test_keys_in_their_order_are_found_like_others(
    shared: DataStore, writes: list[tuple[bytes, bytes | None]], wanted: list[bytes]
) -> None:
    """What was sought before is used again, and must not answer for another key."""
    rows = Rows(shared, writes)
    expected = [rows.newest(key, rows.last) for key in wanted]
    assert [shared.newest(key) for key in wanted] == expected
    assert [shared.newest(key) for key in reversed(wanted)] == expected[::-1]


def test_new_keys_in_their_order_take_one_seek(store: DataStore) -> None:
    store.write([(b"a", 1, b"v"), (b"c", 2, b"new"), (b"c", 1, b"v")], [], 1, 1)
    rows = _Counting(store.database.iter())
    newest = _Rows(rows).newest  # type: ignore[arg-type]
    assert [newest(key, None) for key in (b"b1", b"b2", b"b3")] == [None] * 3
    assert rows.seeks == 1
    assert newest(b"c", None) == (2, b"new")
    assert rows.seeks == 1
    assert newest(b"c", 1) == (1, b"v")
    assert newest(b"d", None) is newest(b"e", None) is None
    assert rows.seeks == 3
    assert newest(b"a", None) == (1, b"v")


class _Counting:
    """An iterator, and how often it was made to seek."""

    def __init__(self, rows: RdictIter) -> None:
        self._rows = rows
        self.seeks = 0

    def seek(self, row: bytes) -> None:
        self.seeks += 1
        self._rows.seek(row)

    def __getattr__(self, name: str) -> object:
        return getattr(self._rows, name)


def test_an_empty_value_is_no_tombstone(store: DataStore) -> None:
    store.write([(b"a", 1, b""), (b"b", 1, None)], [], 1, 1)
    assert store.newest(b"a") == (1, b"")
    assert store.newest(b"b") == (1, None)


def test_versions_at_the_ends_of_64_bits(store: DataStore) -> None:
    store.write([(b"k", 0, b"first"), (b"k", 2**64 - 1, b"last")], [], 1, 1)
    assert store.newest(b"k") == (2**64 - 1, b"last")
    assert store.newest(b"k", 2**64 - 2) == (0, b"first")


def test_records_are_by_prefix_in_order_and_apart_from_values(store: DataStore) -> None:
    names = [b"c/\x01", b"c/\x00", b"c", b"d/", b"", b"c/\xff\xff"]
    store.write([(b"c/\x01", 1, b"value")], [(name, b"=" + name) for name in names], 3, 2)
    assert [name for name, _ in store.records(b"c/")] == [b"c/\x00", b"c/\x01", b"c/\xff\xff"]
    assert dict(store.records(b"")) == {name: b"=" + name for name in names}
    store.write([], [(b"c", None), (b"never", None)], 4, 2)
    assert store.record(b"c") is None
    assert store.record(b"c/\x00") == b"=c/\x00"
    assert store.applied() == (4, 2)


def test_records_end_with_an_error_at_a_damaged_block(tmp_path: Path) -> None:
    """The machine must not begin with a part of what it knew (FAULTS 51)."""
    directory = tmp_path / "data-1"
    store = DataStore(directory)
    names = [b"r%05d" % number for number in range(4000)]
    store.write([], [(name, os.urandom(100)) for name in names], 1, 1)
    store.flush()
    store.close()
    (path,) = directory.glob("*.sst")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    store = DataStore(directory)
    try:
        with pytest.raises(Exception, match=r"[Cc]orruption|checksum"):
            list(store.records(b"r"))
        assert store.record(names[0]) is not None
    finally:
        store.close()


# --- one write, and no log of its own ----------------------------------------------------------------------


def test_a_write_does_not_go_to_rocksdbs_own_log(tmp_path: Path) -> None:
    """DESIGN 5: the Raft log is the log."""
    store = DataStore(tmp_path / "data-1")
    for index in range(1, 50):
        store.write([(b"k", index, bytes(1000))], [(b"r", bytes(500))], index, 1)
    assert wal_bytes(tmp_path / "data-1") == 0
    store.sweep(b"", 49, 100)
    assert wal_bytes(tmp_path / "data-1") == 0
    store.flush()
    assert wal_bytes(tmp_path / "data-1") == 0
    store.close()


_WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from overdb_node.storage.data import DataStore
store = DataStore(Path(sys.argv[1]))
for index in range(1, 201):
    store.write(
        [(b"a", index, b"%d" % index), (b"b", index, b"%d" % index)],
        [(b"r", b"%d" % index)], index, 7)
    if index == int(sys.argv[2]):
        store.flush()
os._exit(9)
"""


@pytest.mark.parametrize("flushed", [0, 1, 120])
def test_a_killed_process_leaves_data_records_and_applied_index_of_one_moment(
    tmp_path: Path, flushed: int
) -> None:
    """FAULTS 35: replay neither skips nor doubles."""
    directory = tmp_path / "data-1"
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_AND_DIE, str(directory), str(flushed)], check=False
    )
    assert done.returncode == 9
    store = DataStore(directory)
    try:
        index, term = store.applied()
        assert index == flushed
        assert term == (7 if index else 0)
        expected = (index, b"%d" % index) if index else None
        assert store.newest(b"a") == store.newest(b"b") == expected
        assert store.record(b"r") == (b"%d" % index if index else None)
    finally:
        store.close()


_WRITE_MUCH_AND_DIE = """
import os, sys, time
from pathlib import Path
from overdb_node.storage.data import DataStore
store = DataStore(Path(sys.argv[1]))
store.database.set_options({"write_buffer_size": "65536"})
for index in range(1, int(sys.argv[2]) + 1):
    value = b"%06d" % index
    store.write([(b"a", index, value + os.urandom(2000))], [(b"r", value)], index, 1)
while store.database.property_int_value("rocksdb.num-immutable-mem-table"):
    time.sleep(0.001)
os._exit(9)
"""


@pytest.mark.parametrize("writes", [100, 233, 400])
def test_what_rocksdb_flushes_by_itself_is_of_one_moment(tmp_path: Path, writes: int) -> None:
    """FAULTS 35: wherever one memtable ends and the next begins, also in the middle of entries."""
    directory = tmp_path / "data-1"
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_MUCH_AND_DIE, str(directory), str(writes)], check=False
    )
    assert done.returncode == 9
    store = DataStore(directory)
    try:
        index, _ = store.applied()
        assert 0 < index < writes, "all or nothing was flushed: the test proves nothing"
        newest = store.newest(b"a")
        assert newest is not None
        assert newest[1] is not None
        value = b"%06d" % index
        assert (newest[0], newest[1][:6], store.record(b"r")) == (index, value, value)
    finally:
        store.close()


def test_its_size_is_that_of_files_and_memory(store: DataStore) -> None:
    before = store.size_bytes
    store.write([(b"k%d" % i, 1, os.urandom(1000)) for i in range(1000)], [], 1, 1)
    assert store.size_bytes - before > 900_000
    store.flush()
    assert store.size_bytes > 900_000
