"""What is found in memory is what the database would say, and no more of it than was given room for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overdb_node.storage import data as data_module
from overdb_node.storage.data import DataStore
from overdb_node.storage.value_cache import OVERHEAD_BYTES, ValueCache

KEYS = st.sampled_from([b"%d" % number for number in range(10)])
VALUES = st.one_of(st.none(), st.binary(max_size=3), st.just(b"x" * 400))
Step = tuple[list[bytes], list[tuple[bytes, bytes | None]]]  # keys to read; then what to write
STEPS = st.lists(
    st.tuples(st.lists(KEYS, max_size=4), st.lists(st.tuples(KEYS, VALUES), max_size=2)),
    max_size=40,
)


@given(steps=STEPS, entries=st.integers(8, 14))
def test_reads_find_what_was_written_last(steps: list[Step], entries: int) -> None:
    cache = ValueCache(entries * (OVERHEAD_BYTES + 4))
    stored: dict[bytes, tuple[int, bytes | None]] = {}
    version = 0

    def newest(key: bytes, _: int | None) -> tuple[int, bytes | None] | None:
        return stored.get(key)

    for keys, writes in steps:
        found = cache.newest_many([(key, None) for key in keys], lambda: newest)
        assert found == [stored.get(key) for key in keys]
        rows = []
        for key, value in writes:
            version += 1
            stored[key] = (version, value)
            rows.append((key, version, value))
        cache.update(rows)
        assert len(cache) <= entries


def test_a_write_reaches_what_has_grown_old() -> None:
    cache = ValueCache(8 * (OVERHEAD_BYTES + 2))  # four in each generation
    stored: dict[bytes, tuple[int, bytes | None]] = {b"%d" % n: (1, b"v") for n in range(6)}

    def newest(key: bytes, _: int | None) -> tuple[int, bytes | None]:
        return stored[key]

    cache.newest_many([(key, None) for key in sorted(stored)], lambda: newest)
    assert len(cache) == 6
    cache.update([(b"0", 2, b"w")])
    stored[b"0"] = (2, b"w")
    assert cache.newest_many([(b"0", None)], lambda: newest) == [(2, b"w")]


def test_what_is_read_again_stays_while_others_come_and_go() -> None:
    cache = ValueCache(20 * (OVERHEAD_BYTES + 4))
    asked: list[bytes] = []

    def read(key: bytes, _: int | None) -> tuple[int, bytes | None]:
        asked.append(key)
        return 1, b"v"

    for number in range(100):
        cache.newest_many([(b"hot", None), (b"%03d" % number, None)], lambda: read)
    assert asked.count(b"hot") == 1
    assert len(asked) == 101
    assert len(cache) <= 20


def test_a_read_at_a_version_asks_the_database() -> None:
    cache = ValueCache(1 << 20)
    cache.newest_many([(b"a", None)], lambda: lambda *_: (5, b"new"))
    found = cache.newest_many([(b"a", 4)], lambda: lambda *_: (3, b"old"))
    assert found == [(3, b"old")]


def test_a_value_too_large_for_its_share_is_not_kept() -> None:
    cache = ValueCache(1 << 20)
    cache.newest_many([(b"a", None)], lambda: lambda *_: (1, b"x" * (1 << 19)))
    assert len(cache) == 0


def test_a_store_reads_what_it_was_given_and_asks_its_files_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DataStore(tmp_path / "data")
    store.write([(b"a", 1, b"one"), (b"b", 1, None)], [], 1, 1)
    wanted = [(b"a", None), (b"b", None), (b"c", None)]
    first: list[tuple[int, bytes | None] | None] = [(1, b"one"), (1, None), None]
    assert store.newest_many(wanted) == first

    def no_rows(_: object) -> None:
        raise AssertionError("it asked its files")

    monkeypatch.setattr(data_module, "_Rows", no_rows)
    assert store.newest_many(wanted[:1]) == first[:1]
    store.write([(b"a", 2, b"2")], [], 2, 1)
    assert store.newest_many(wanted[:1]) == [(2, b"2")]
    with pytest.raises(AssertionError, match="asked its files"):
        store.newest_many(wanted[1:])  # what has no value is not remembered
    store.write([(b"a", 3, None)], [], 3, 1)
    monkeypatch.undo()
    assert store.newest_many(wanted[:1]) == [(3, None)]
    store.close()
