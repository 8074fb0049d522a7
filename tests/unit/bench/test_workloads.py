"""Rows as they are asked for, and what one call of each does."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

import pytest

from bench.targets import data_requests
from bench.workloads import (
    CALLERS,
    QUICK_ROWS,
    ROWS,
    SLOWEST,
    WORKLOADS,
    chosen_rows,
    estimated_seconds,
    keys_of,
    operations,
    parsed_rows,
    value_of,
)


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


class Reading(Plain):
    """One that notes what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[bytes] = set()

    async def get(self, key: bytes) -> bytes | None:
        self.read.add(key)
        return await super().get(key)


class Full(Plain):
    async def put_all(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        self.data.update(puts)

    async def scan(self, start: bytes, end: bytes, limit: int) -> int:
        return len(sorted(key for key in self.data if start <= key < end)[:limit])


def test_rows_are_parsed_and_what_is_unknown_is_named() -> None:
    assert parsed_rows("put:256,get:1") == [("put", 256), ("get", 1)]
    for wrong in ("putt:1", "put", "put:x", "put:0", ""):
        with pytest.raises(ValueError, match="WORKLOAD:CALLERS of get, scan-1000"):
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


def test_the_mix_reads_what_it_writes() -> None:
    store = Reading()
    store.data = dict.fromkeys(keys_of(2000), b"")
    mix = operations(store, keys_of(2000))["mix-90-10"]

    async def ask() -> None:
        for number in range(2000):
            await mix(number)

    asyncio.run(ask())
    written = {key for key, value in store.data.items() if value}
    assert len(written) == 200
    assert len(store.read) == 1800
    assert len(written & store.read) > 150


def test_values_do_not_compress() -> None:
    values = [value_of(number) for number in range(1000)]
    assert {len(value) for value in values} == {100}
    assert len(zlib.compress(b"".join(values))) > 99_000
    assert len(value_of(7, 65_536)) == 65_536


def test_a_plain_store_is_asked_for_single_keys_only() -> None:
    calls = operations(Plain(), keys_of(2000))
    assert set(calls) == {"put", "get", "mix-90-10", "hot-key"}

    async def ask() -> None:
        await calls["get"](1)

    with pytest.raises(LookupError):
        asyncio.run(ask())


def test_every_workload_has_every_number_of_callers() -> None:
    assert set(ROWS) == {(workload, n) for workload in WORKLOADS for n in (1, 16, 64, 256, 1024)}
    assert CALLERS == (1, 16, 64, 256, 1024)
    assert parsed_rows(",".join(f"{workload}:{n}" for workload, n in ROWS)) == list(ROWS)
    assert set(QUICK_ROWS) <= set(ROWS)


def test_a_turn_reads_before_it_writes_and_ends_with_the_batches() -> None:
    order = [workload for workload, _ in ROWS]
    firsts = [order.index(w) for w in ("get", "scan-1000", "mix-90-10", "put", "batch-100")]
    assert firsts == sorted(firsts)
    assert order[-1] == "batch-100"


def test_a_system_is_asked_what_it_can_and_other_callers_go_by_the_workload() -> None:
    can = (("get", 1), ("get", 16))
    assert chosen_rows(ROWS, can) == list(can)
    assert chosen_rows([("get", 7), ("get", 64), ("put", 7)], can) == [("get", 7)]


def test_the_estimate_has_a_call_of_each_caller_where_that_is_longer() -> None:
    assert estimated_seconds([("get", 1)], (1.0, 0.25), {"get": 100.0}) == pytest.approx(1.4)
    assert estimated_seconds([("get", 1000)], (1.0, 0.25), {"get": 100.0}) == pytest.approx(10.15)
    assert set(SLOWEST) == set(WORKLOADS)


def test_a_router_s_count_is_of_requests_for_data_whatever_the_answer() -> None:
    exposition = """# TYPE overdb_router_requests counter
overdb_router_requests_total{code="OK",method="Put"} 41
overdb_router_requests_total{code="RESOURCE_EXHAUSTED",method="Put"} 1
overdb_router_requests_total{code="OK",method="Scan"} 1
overdb_router_requests_total{code="OK",method="Status"} 100
# TYPE other counter
other_total{method="Put"} 7
"""
    assert data_requests(exposition) == 43
