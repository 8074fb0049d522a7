"""Rows as they are asked for, and what one call of each does."""

from __future__ import annotations

import asyncio

import pytest

from bench.workloads import ROWS, keys_of, operations, parsed_rows


class Plain:
    """A store without transactions."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    async def put(self, key: bytes, value: bytes) -> None:
        self.data[key] = value

    async def get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    async def close(self) -> None:
        pass


class Full(Plain):
    async def put_all(self, keys: list[bytes], value: bytes) -> None:
        self.data.update(dict.fromkeys(keys, value))

    async def scan(self, start: bytes, limit: int) -> int:
        return len(sorted(key for key in self.data if key >= start)[:limit])


def test_rows_are_parsed_and_what_is_unknown_is_named() -> None:
    assert parsed_rows("put:256,get:1") == [("put", 256), ("get", 1)]
    for wrong in ("putt:1", "put", "put:x", "put:0", ""):
        with pytest.raises(ValueError, match="WORKLOAD:CALLERS of get, put"):
            parsed_rows(wrong)


def test_a_full_store_can_be_asked_everything() -> None:
    store, keys = Full(), keys_of(2000)
    store.data = dict.fromkeys(keys, b"")
    calls = operations(store, keys)
    assert set(calls) == {workload for workload, _ in ROWS}

    async def ask() -> None:
        for number in range(25):
            for call in calls.values():
                await call(number)

    asyncio.run(ask())


def test_a_plain_store_is_asked_for_single_keys_only() -> None:
    calls = operations(Plain(), keys_of(2000))
    assert set(calls) == {"put", "get", "mix-90-10", "hot-key"}

    async def ask() -> None:
        await calls["get"](1)

    with pytest.raises(LookupError):
        asyncio.run(ask())
