"""What a closed loop counts: no call that is slow is left out, no round half counted."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import overdb
from bench.figures import Sample
from bench.load import Disk, cpu_seconds, measure
from bench.stores import error_name

NO_METADATA = grpc.aio.Metadata()


def _measured(
    operation: Callable[[int], Awaitable[None]],
    tmp_path: Path,
    callers: int,
    times: tuple[float, float],
) -> Sample:
    row = ("x", "get", callers, 0)
    pids = {"client": os.getpid()}
    return asyncio.run(measure(row, 1, operation, pids, Disk(tmp_path), times))


def test_calls_that_take_longer_than_the_window_all_count(tmp_path: Path) -> None:
    """A store that does 50 calls a second, all of a round at once: a window shows none of 20, or all."""
    turn = asyncio.Lock()
    turns: list[tuple[float, float]] = []  # on a busy machine they are longer than asked for

    async def slow(_: int) -> None:
        async with turn:
            began = time.perf_counter()
            await asyncio.sleep(0.02)
            turns.append((began, time.perf_counter()))

    sample = _measured(slow, tmp_path, 20, (0.1, 0.05))
    assert sample.from_start
    assert sample.calls >= 20
    assert sample.errors == {}
    assert sample.calls == sample.begun
    assert sample.seconds >= 0.02 * sample.calls
    took = turns[-1][1] - turns[0][0]
    assert sample.rate == pytest.approx(len(turns) / took, rel=0.2)


def test_a_window_ends_with_a_whole_round(tmp_path: Path) -> None:
    """A store that does 400 calls a second: 20 callers make two and a half rounds in 130 ms.

    However slow it really is, the warm-up has a round, and the window hardly ends with one by itself.
    """
    turn = asyncio.Lock()

    async def fair(_: int) -> None:
        async with turn:
            await asyncio.sleep(0.0025)

    sample = _measured(fair, tmp_path, 20, (0.13, 1.0))
    assert not sample.from_start
    assert sample.calls > 0
    assert sample.calls % 20 == 0
    assert sample.begun > sample.calls, "the warm-up does not count"


def test_an_error_is_counted_by_its_name_and_no_call(tmp_path: Path) -> None:
    async def refuse(number: int) -> None:
        if number % 2:
            await asyncio.sleep(0.2)  # no call's latency, whatever a machine makes of the others'
            raise overdb.Unavailable("no leader")
        await asyncio.sleep(0.001)

    sample = _measured(refuse, tmp_path, 4, (0.2, 0.05))
    assert sample.errors.keys() == {"Unavailable"}
    assert sample.calls > 0
    assert sample.p50_ms < 150


def test_calls_that_never_end_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.load.ROUND_SECONDS_MAX", 1.0)

    async def stuck(number: int) -> None:
        if number == 1:
            await asyncio.Event().wait()  # for ever
        await asyncio.sleep(0.3)  # what a call takes

    sample = _measured(stuck, tmp_path, 2, (0.2, 0.1))
    assert sample.errors["unfinished"] == 1


def test_first_calls_are_left_out_of_percentiles_where_there_is_a_round_of_others(
    tmp_path: Path,
) -> None:
    """The first of 10 are answered one after the other, from then on all take 0.4 s."""

    async def ramp(number: int) -> None:
        await asyncio.sleep(0.02 * number if number <= 10 else 0.4)

    sample = _measured(ramp, tmp_path, 10, (0.3, 0.1))
    assert sample.from_start
    assert sample.calls > 15
    assert sample.p50_ms >= 390
    alone = _measured(ramp, tmp_path, 10, (0.15, 0.1))
    assert alone.calls >= 10
    assert alone.p50_ms > 0


def test_errors_say_whose_bound_is_full() -> None:
    assert error_name(overdb.Unavailable("x")) == "Unavailable"
    assert error_name(overdb.ResourceExhausted("x")) == "ResourceExhausted (client)"
    error_details_pb2: Any = import_module("google.rpc.error_details_pb2")  # it has no type stubs
    violation = error_details_pb2.QuotaFailure.Violation(subject="stream", description="x")
    detail = error_details_pb2.QuotaFailure(violations=[violation])
    refused = overdb.ResourceExhausted("x", details=[detail])
    assert error_name(refused) == "ResourceExhausted (stream)"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_name(grpc.aio.AioRpcError(code, NO_METADATA, NO_METADATA)) == code.name
    assert error_name(LookupError("x")) == "LookupError"


def test_cpu_is_that_of_the_process() -> None:
    before = cpu_seconds(os.getpid())
    while time.process_time() < before + 0.02:
        pass
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.005)
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_seconds(2**22 + 1)
