"""Databases with versions in them, and a model of what reads of them must give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import strategies as st
from rocksdict import WriteBatch

from overdb_node.storage.data import DataStore, ScanPage, encode_key
from overdb_node.storage.value_cache import ValueCache

Version = tuple[bytes, int, bytes | None]
Item = tuple[bytes, bytes, int]

NO_LIMIT = 1 << 40
# Zero bytes, prefixes of each other and 255s: where an order of encoded keys goes wrong.
KEYS = st.one_of(
    st.sampled_from([b"a", b"a\0", b"a\0\0", b"a\0\xff", b"a\xff", b"aa", b"\0", b"\xff", b"b"]),
    st.text("a\0\xff", min_size=1, max_size=4).map(lambda text: text.encode("latin-1")),
)
BOUNDS = st.one_of(st.just(b""), KEYS)
# Versions are given by position, as the clock would: strictly growing.
WRITES = st.lists(
    st.tuples(KEYS, st.one_of(st.none(), st.just(b""), st.binary(max_size=8))), max_size=30
)


@pytest.fixture(autouse=True, scope="module")
def pages_take_their_time() -> Iterator[None]:
    """On a slow machine a page of a scan would end at another row each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("overdb_node.storage.data.SCAN_SECONDS_MAX", 3600.0)
        yield


class Rows:
    """The same versions in a database and in a plain list."""

    def __init__(self, store: DataStore, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        clear(store)
        self.store = store
        self.versions: list[Version] = [(key, i, v) for i, (key, v) in enumerate(writes, 1)]
        store.write(self.versions, [], 1, 1)
        self.last = len(writes)

    @property
    def keys(self) -> list[bytes]:
        return sorted({key for key, _, _ in self.versions})

    def newest(self, key: bytes, at: int) -> tuple[int, bytes | None] | None:
        below = [(v, value) for k, v, value in self.versions if k == key and v <= at]
        return max(below, default=None, key=lambda found: found[0])

    def items(self, start: bytes, end: bytes, reverse: bool, at: int) -> list[Item]:
        found: list[Item] = []
        for key in self.keys:
            newest = self.newest(key, at)
            if key >= start and (not end or key < end) and newest and newest[1] is not None:
                found.append((key, newest[1], newest[0]))
        return found[::-1] if reverse else found


def page(
    store: DataStore,
    start: bytes = b"",
    end: bytes = b"",
    *,
    reverse: bool = False,
    at: int = NO_LIMIT,
    keys_only: bool = False,
    max_items: int = NO_LIMIT,
    max_bytes: int = NO_LIMIT,
) -> ScanPage:
    return store.scan(
        start,
        end,
        reverse=reverse,
        at=at,
        keys_only=keys_only,
        max_items=max_items,
        max_bytes=max_bytes,
    )


def stored_versions(store: DataStore, key: bytes) -> list[int]:
    """Every version of a key that is in the database, oldest first."""
    prefix = encode_key(key)
    rows = store.database.iter()
    rows.seek(prefix)
    found = []
    while rows.valid() and rows.key()[:-8] == prefix:
        found.append(2**64 - 1 - int.from_bytes(rows.key()[-8:], "big"))
        rows.next()
    return found[::-1]


def clear(store: DataStore) -> None:
    """Remove all versions, so that the examples of a property can share one database."""
    rows = store.database.iter()
    rows.seek(b"v")
    batch = WriteBatch(raw_mode=True)
    while rows.valid() and rows.key()[:1] == b"v":
        batch.delete(rows.key())
        rows.next()
    store.database.write(batch)
    store._values = ValueCache(1 << 20)  # it knows of writes through the store alone


def wal_bytes(directory: Path) -> int:
    """What RocksDB's own log holds."""
    return sum(path.stat().st_size for path in directory.glob("*.log"))
