"""Old versions go when nobody can ask for them any more, and nothing else does (DESIGN 5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.storage.data import DataStore
from tests.unit.storage.data_rows import WRITES, Rows, page, stored_versions


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


def sweep_all(store: DataStore, floor: int, rows_max: int = 1000) -> int:
    """A whole pass; returns what it removed."""
    cursor: bytes | None = b""
    removed = 0
    for _ in range(100_000):
        swept = store.sweep(cursor or b"", floor, rows_max)
        removed += swept.removed
        cursor = swept.cursor
        if cursor is None:
            return removed
    raise AssertionError("the pass does not end")


def shown(store: DataStore, keys: list[bytes], floor: int, last: int) -> list[object]:
    """Everything that can still be asked for: gets and scans at each version from the floor on."""
    seen: list[object] = []
    for at in range(floor, last + 1):
        for key in keys:
            found = store.newest(key, at)
            seen.append(found if found and found[1] is not None else None)
        seen.append(page(store, at=at).items)
    return seen


@settings(max_examples=150, deadline=None)
@given(WRITES, st.integers(2, 7), st.data())
def test_reads_at_or_above_the_floor_never_change_and_all_else_goes(
    shared: DataStore,
    writes: list[tuple[bytes, bytes | None]],
    rows_max: int,
    data: st.DataObject,
) -> None:
    """PROTOCOL 2.7: after each slice of a pass; at its end only what can be asked for is left."""
    rows = Rows(shared, writes)
    floor = data.draw(st.integers(0, rows.last + 1))
    before = shown(shared, rows.keys, floor, rows.last + 1)
    cursor: bytes | None = b""
    slices = 0
    while cursor is not None:
        swept = shared.sweep(cursor, floor, rows_max)
        assert swept.removed <= rows_max
        assert shown(shared, rows.keys, floor, rows.last + 1) == before
        cursor = swept.cursor
        slices += 1
        assert slices <= 2 * rows.last + 2, "it gets on with every slice"
    for key in rows.keys:
        at_floor = rows.newest(key, floor)
        kept = [v for k, v, _ in rows.versions if k == key and v > floor]
        if at_floor and at_floor[1] is not None:
            kept.insert(0, at_floor[0])
        assert stored_versions(shared, key) == kept, key
    assert sweep_all(shared, floor) == 0, "a second pass finds nothing"


@settings(max_examples=60, deadline=None)
@given(WRITES, WRITES, st.integers(2, 5), st.data())
def test_writes_between_the_slices_of_a_pass_are_safe(
    shared: DataStore,
    writes: list[tuple[bytes, bytes | None]],
    later: list[tuple[bytes, bytes | None]],
    rows_max: int,
    data: st.DataObject,
) -> None:
    rows = Rows(shared, writes)
    floor = data.draw(st.integers(0, rows.last))
    waiting = [(key, at, value) for at, (key, value) in enumerate(later, rows.last + 1)]
    cursor: bytes | None = b""
    while cursor is not None:
        cursor = shared.sweep(cursor, floor, rows_max).cursor
        if waiting:
            shared.write([waiting[0]], [], 1, 1)
            rows.versions.append(waiting.pop(0))
    for at in range(floor, rows.last + len(later) + 1):
        expected = rows.items(b"", b"", False, at)
        assert page(shared, at=at).items == expected


def test_one_key_of_many_versions_is_swept_in_bounded_slices(store: DataStore) -> None:
    store.write([(b"hot", at, b"v") for at in range(1, 5001)], [], 1, 1)
    assert store.sweep(b"", 5000, 100).removed <= 100
    assert sweep_all(store, 5000, 100) > 0
    assert stored_versions(store, b"hot") == [5000]


def test_a_deleted_key_leaves_nothing(store: DataStore) -> None:
    store.write([(b"k", 1, b"v"), (b"k", 2, None)], [], 1, 1)
    assert sweep_all(store, 1) == 0
    assert sweep_all(store, 2) == 2
    assert stored_versions(store, b"k") == []


def test_a_tombstone_outlives_what_it_hides_when_the_pass_is_interrupted(store: DataStore) -> None:
    """In the middle of a key: the value below it must not come back to life."""
    store.write([(b"k", at, b"v") for at in range(1, 20)], [], 1, 1)
    store.write([(b"k", 20, None)], [], 2, 1)
    cursor: bytes | None = b""
    while cursor is not None:
        cursor = store.sweep(cursor, 20, 3).cursor
        found = store.newest(b"k", 25)
        assert found is None or found[1] is None
    assert stored_versions(store, b"k") == []


def test_records_and_the_applied_index_are_not_swept(store: DataStore) -> None:
    store.write([(b"k", 1, b"v")], [(b"r", b"1"), (b"", b"2")], 9, 3)
    sweep_all(store, 1 << 60)
    assert dict(store.records(b"")) == {b"r": b"1", b"": b"2"}
    assert store.applied() == (9, 3)
