"""The digest of what can be read: equal for equal content however it lies there, another for any other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.storage import digest as digests
from overdb_node.storage.data import DataStore, encode_version
from overdb_node.storage.digest import ContentDigest
from tests.unit.storage.data_rows import WRITES, clear

Versions = list[tuple[bytes, int, bytes | None]]


def begin(store: DataStore) -> ContentDigest:
    return store.begin_digest(lambda name, content: None if name == b"own" else content)


def finish(digest: ContentDigest) -> int:
    while digest.advance():
        pass
    found = digest.close()
    assert found is not None
    return found


def digest_of(store: DataStore) -> int:
    return finish(begin(store))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DataStore]:
    opened = DataStore(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DataStore, DataStore]]:
    pair = (
        DataStore(tmp_path_factory.mktemp("one") / "data"),
        DataStore(tmp_path_factory.mktemp("other") / "data"),
    )
    yield pair
    for opened in pair:
        opened.close()


@settings(max_examples=150, deadline=None)
@given(WRITES, st.integers(0, 40), st.integers(2, 9), st.integers(0, 12), st.booleans())
def test_sweeps_flushes_and_portions_make_no_difference(
    stores: tuple[DataStore, DataStore],
    writes: list[tuple[bytes, bytes | None]],
    floor: int,
    rows: int,
    sweeps: int,
    flush: bool,
) -> None:
    """Any number of steps of a sweep, so also in the middle of one."""
    versions: Versions = [(key, i, value) for i, (key, value) in enumerate(writes, 1)]
    one, other = stores
    for store in stores:
        clear(store)
    one.write(versions, [(b"r", b"x")], 7, 1)
    for version in versions:
        other.write([version], [(b"own", b"%d" % version[1])], 7, 1)
    other.write([], [(b"r", b"x"), (b"gone", b"")], 7, 1)
    other.write([], [(b"gone", None)], 9, 2)
    if flush:
        other.flush()
    cursor: bytes | None = b""
    for _ in range(sweeps):
        if cursor is None:
            break
        cursor = other.sweep(cursor, floor, rows).cursor
    assert digest_of(one) == digest_of(other)


def test_every_bit_of_what_can_be_read_is_in_it(store: DataStore) -> None:
    store.write([(b"k", 5, b"old"), (b"k", 7, b"value"), (b"l", 8, b"")], [(b"name", b"c")], 3, 1)
    plain = digest_of(store)
    assert digest_of(store) == plain
    seen = {plain}
    row = encode_version(b"k", 7)
    for changed in (b"\x01walue", b"\x01valu", b"\x01", b"\x00"):
        store.database[row] = changed
        seen.add(digest_of(store))
    store.database[row] = b"\x01value"
    assert digest_of(store) == plain
    for versions, records in (
        ([(b"m", 9, b"")], []),
        ([(b"k", 10, b"value")], []),
        ([(b"m", 11, None)], []),
        ([], [(b"name", b"d")]),
        ([], [(b"nam", b"ed")]),
        ([], [(b"name", None)]),
    ):
        store.write(versions, records, 4, 1)
        seen.add(digest_of(store))
    assert len(seen) == 1 + 4 + 6


def test_the_boundaries_between_rows_are_in_it(store: DataStore) -> None:
    store.write([], [(b"a", b"bc"), (b"d", b"")], 1, 1)
    one = digest_of(store)
    store.write([], [(b"a", b"b"), (b"d", None), (b"cd", b"")], 2, 1)
    assert digest_of(store) != one


def test_it_is_of_the_moment_when_it_began(
    store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes, sweeps and flushes go on meanwhile."""
    monkeypatch.setattr(digests, "PORTION_ROWS", 3)
    store.write([(b"%03d" % i, i, b"v") for i in range(1, 100)], [(b"a", b"1")], 1, 1)
    plain = digest_of(store)
    digest = begin(store)
    store.write([(b"%03d" % i, 200 + i, b"w") for i in range(1, 100)], [(b"a", b"2")], 2, 1)
    assert digest.advance()
    store.write([(b"%03d" % i, 400 + i, None) for i in range(1, 100)], [(b"b", b"2")], 3, 1)
    store.flush()
    store.sweep(b"", 1000, 1000)
    store.database.compact_range(None, None)
    assert finish(digest) == plain
    assert digest_of(store) != plain


def test_large_values_are_taken_in_portions(store: DataStore) -> None:
    store.write([(b"%d" % i, i, bytes(1 << 20)) for i in range(1, 6)], [], 1, 1)
    digest = begin(store)
    portions = 0
    while digest.advance():
        portions += 1
    assert portions >= 5
    assert digest.close() is not None


def test_closing_the_store_ends_it_and_keeps_nothing_open(tmp_path: Path) -> None:
    store = DataStore(tmp_path / "data")
    store.write([(b"%05d" % i, i, b"v") for i in range(1, 5000)], [], 1, 1)
    digest = begin(store)
    assert digest.advance()
    store.close()
    DataStore(tmp_path / "data").close()  # nobody holds its lock
    assert not digest.advance()
    assert digest.close() is None


def test_the_store_may_be_closed_while_a_thread_works_on_it(tmp_path: Path) -> None:
    store = DataStore(tmp_path / "data")
    store.write([(b"%05d" % i, i, b"v") for i in range(1, 5000)], [], 1, 1)
    digest = begin(store)
    results: list[int | None] = []
    advanced = threading.Event()

    def run() -> None:
        while digest.advance():
            advanced.set()
        results.append(digest.close())

    thread = threading.Thread(target=run)
    assert digest.advance()
    thread.start()
    advanced.wait(5)
    store.close()
    thread.join(5)
    assert not thread.is_alive()
    assert not digest.advance()
    DataStore(tmp_path / "data").close()  # nobody holds its lock
    assert len(results) == 1


def test_another_one_ends_the_one_before(store: DataStore) -> None:
    store.write([(b"k", 1, b"v")], [], 1, 1)
    first = begin(store)
    second = begin(store)
    assert not first.advance()
    assert first.close() is None
    assert finish(second) == digest_of(store)
