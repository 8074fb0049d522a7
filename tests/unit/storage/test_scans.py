"""Pages of a range, as of a version, in both directions (kv.proto, PROTOCOL 2.7)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.storage import data as data_module
from overdb_node.storage.data import DataStore
from tests.unit.storage.data_rows import BOUNDS, KEYS, NO_LIMIT, WRITES, Item, Rows, clear, page


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DataStore]:
    store = DataStore(tmp_path / "data-1")
    yield store
    store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataStore]:
    store = DataStore(tmp_path_factory.mktemp("data") / "data-1")
    yield store
    store.close()


def in_pages(
    store: DataStore,
    start: bytes,
    end: bytes,
    *,
    reverse: bool,
    at: int = NO_LIMIT,
    max_items: int = NO_LIMIT,
    max_bytes: int = NO_LIMIT,
) -> tuple[list[Item], int]:
    """Everything in the range by following ``resume``, and how many pages it took."""
    found: list[Item] = []
    for pages in range(1, 10_000):
        got = page(
            store, start, end, reverse=reverse, at=at, max_items=max_items, max_bytes=max_bytes
        )
        assert len(got.items) <= max_items
        found += got.items
        if not got.more:
            return found, pages
        assert got.resume
        if reverse:
            assert not end or got.resume <= end
            end = got.resume
        else:
            assert got.resume >= start
            start = got.resume
    raise AssertionError("the pages do not end")


@settings(max_examples=200, deadline=None)
@given(WRITES, BOUNDS, BOUNDS, st.booleans(), st.data())
def test_a_scan_is_the_models(
    shared: DataStore,
    writes: list[tuple[bytes, bytes | None]],
    start: bytes,
    end: bytes,
    reverse: bool,
    data: st.DataObject,
) -> None:
    """One page; small pages with resume; and pages of few visited rows give the same items."""
    rows = Rows(shared, writes)
    at = data.draw(st.integers(0, rows.last + 1))
    expected = rows.items(start, end, reverse, at)
    whole = page(shared, start, end, reverse=reverse, at=at)
    assert (whole.items, whole.more) == (expected, False)
    bare = page(shared, start, end, reverse=reverse, at=at, keys_only=True)
    assert bare.items == [(key, b"", version) for key, _, version in expected]
    limit = data.draw(st.integers(1, 4))
    assert in_pages(shared, start, end, reverse=reverse, at=at, max_items=limit)[0] == expected
    size = data.draw(st.integers(1, 60))
    assert in_pages(shared, start, end, reverse=reverse, at=at, max_bytes=size)[0] == expected


@settings(max_examples=100, deadline=None)
@given(WRITES, BOUNDS, BOUNDS, st.booleans(), st.integers(1, 3))
def test_a_scan_that_visits_few_rows_a_page_gives_the_same(
    shared: DataStore,
    writes: list[tuple[bytes, bytes | None]],
    start: bytes,
    end: bytes,
    reverse: bool,
    rows_max: int,
) -> None:
    """An empty page with ``more`` has seen nothing but deleted keys."""
    rows = Rows(shared, writes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_module, "SCAN_ROWS_MAX", rows_max)
        found, _ = in_pages(shared, start, end, reverse=reverse, at=rows.last)
    assert found == rows.items(start, end, reverse, rows.last)


@pytest.mark.parametrize("reverse", [False, True])
def test_bounds_hold_the_start_and_not_the_end(store: DataStore, reverse: bool) -> None:
    rows = Rows(store, [(key, b"v") for key in (b"a", b"a\0", b"b", b"b\0", b"c")])
    got = page(store, b"a\0", b"b\0", reverse=reverse)
    assert [item[0] for item in got.items] == ([b"b", b"a\0"] if reverse else [b"a\0", b"b"])
    assert len(rows.keys) == 5


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "end"), [(b"b", b"b"), (b"c", b"a"), (b"x", b"")])
def test_an_empty_range_is_an_empty_page(
    store: DataStore, reverse: bool, start: bytes, end: bytes
) -> None:
    Rows(store, [(key, b"v") for key in (b"a", b"b", b"c")])
    assert page(store, start, end, reverse=reverse) == ([], False, b"")


@pytest.mark.parametrize("reverse", [False, True])
def test_records_and_the_applied_index_are_in_no_scan(store: DataStore, reverse: bool) -> None:
    """They lie on both sides of the values."""
    store.write([(b"\xff\xff", 1, b"v")], [(b"\xff", b"record"), (b"", b"record")], 1, 1)
    assert [item[0] for item in page(store, reverse=reverse).items] == [b"\xff\xff"]


@pytest.mark.parametrize("reverse", [False, True])
def test_an_item_larger_than_a_page_is_a_page(store: DataStore, reverse: bool) -> None:
    """At least one item if there is any: a scan always gets on."""
    rows = Rows(store, [(b"a", bytes(1000)), (b"b", bytes(1000)), (b"c", b"")])
    found, pages = in_pages(store, b"", b"", reverse=reverse, max_bytes=10)
    assert found == rows.items(b"", b"", reverse, rows.last)
    assert pages == 3


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_ends_before_its_bytes_do(store: DataStore, reverse: bool) -> None:
    Rows(store, [(b"k%02d" % number, bytes(100)) for number in range(50)])
    got = page(store, reverse=reverse, max_bytes=1000)
    sizes = sum(len(key) + len(value) for key, value, _ in got.items)
    assert 700 < sizes <= 1000
    assert got.more


@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_of_deleted_keys_does_not_hold_up_the_loop(store: DataStore, reverse: bool) -> None:
    """A page visits so many rows and no more; the next goes on where it ended."""
    count = data_module.SCAN_ROWS_MAX + 1000
    store.write([(b"d%06d" % number, 1, None) for number in range(count)], [], 1, 1)
    store.write([(b"a", 1, b"first"), (b"z", 1, b"last")], [], 2, 1)
    first = page(store, reverse=reverse)
    assert first.more
    assert len(first.items) == 1
    found, pages = in_pages(store, b"", b"", reverse=reverse)
    assert [item[0] for item in found] == ([b"z", b"a"] if reverse else [b"a", b"z"])
    assert pages >= 2


@pytest.mark.parametrize("reverse", [False, True])
def test_a_key_with_many_versions_is_one_step(store: DataStore, reverse: bool) -> None:
    """Old and too new versions are jumped over, not walked."""
    count = data_module.SCAN_ROWS_MAX + 10
    store.write([(b"hot", at, b"v") for at in range(1, count)], [], 1, 1)
    store.write([(b"a", 1, b""), (b"z", 1, b"")], [], 2, 1)
    for at in (1, count // 2, NO_LIMIT):
        got = page(store, reverse=reverse, at=at)
        assert [item[0] for item in got.items] == (
            [b"z", b"hot", b"a"] if reverse else [b"a", b"hot", b"z"]
        )
        assert got.items[1][2] == min(at, count - 1)
        assert not got.more


@given(KEYS, st.booleans())
def test_a_page_is_as_of_its_version_while_writes_go_on(
    shared: DataStore, key: bytes, reverse: bool
) -> None:
    """PROTOCOL 2.7: two snapshots at the same version are equal."""
    clear(shared)
    shared.write([(key, 5, b"old"), (b"other", 5, None)], [], 1, 1)
    before = page(shared, reverse=reverse, at=5)
    shared.write([(key, 6, None), (b"other", 7, b"new"), (b"a-new-one", 6, b"")], [], 2, 1)
    assert page(shared, reverse=reverse, at=5) == before


class CountedSeeks:
    """An iterator that counts how often it was positioned anew: each time it looks into every file."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.seeks = 0

    def seek(self, key: bytes) -> None:
        self.seeks += 1
        self._rows.seek(key)

    def seek_for_prev(self, key: bytes) -> None:
        self.seeks += 1
        self._rows.seek_for_prev(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


def test_a_reverse_scan_steps_over_keys_and_seeks_only_past_many_versions(store: DataStore) -> None:
    """Two seeks a key, beside large values, once held the loop for seconds and cost the leader."""
    store.write([(b"k%04d" % n, 1, b"v") for n in range(500)], [], 1, 1)
    store.write([(b"k%04d" % n, 2, None) for n in range(500)], [], 2, 1)
    rows = CountedSeeks(store.database.iter())
    scan = data_module._Page(NO_LIMIT, False, NO_LIMIT, NO_LIMIT)
    assert scan.backward(rows, b"v", b"w").items == []  # type: ignore[arg-type]
    assert rows.seeks <= 2
    del rows


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("versions", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("at", [0, 1, 5, 8, 9, 30, NO_LIMIT])
def test_keys_of_many_versions_are_read_as_of_any(
    store: DataStore, reverse: bool, versions: int, at: int
) -> None:
    keys = [b"a", b"b\0", b"b\0c", b"d"]
    store.write(
        [(key, v, b"%d" % v) for v in range(1, versions + 1) for key in keys], [], versions, 1
    )
    newest = min(at, versions)
    expected = [(key, b"%d" % newest, newest) for key in keys] if newest else []
    found, _ = in_pages(store, b"", b"", reverse=reverse, at=at)
    assert found == (expected[::-1] if reverse else expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_ends_when_its_time_is_over_and_the_next_goes_on(
    store: DataStore, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk too, heartbeats must not wait behind a page."""
    ticking = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticking) * 0.01)
    monkeypatch.setattr("overdb_node.storage.data.time", clock)
    monkeypatch.setattr("overdb_node.storage.data.SCAN_SECONDS_MAX", 0.02)
    keys = [b"k%04d" % number for number in range(300)]
    store.write([(key, 1, key) for key in keys], [], 1, 1)
    first = page(store, reverse=reverse)
    assert 0 < len(first.items) < 100
    assert first.more
    found, pages = in_pages(store, b"", b"", reverse=reverse)
    assert [item[0] for item in found] == (keys[::-1] if reverse else keys)
    assert pages > 3
