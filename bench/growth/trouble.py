"""Snapshots, a follower that does not answer, more than a router takes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import datetime
from typing import cast

import grpc

import overdb
from bench.figures import percentile, spread
from bench.growth.common import (
    Puts,
    Section,
    client_of,
    cluster,
    key,
    lost,
    put_for,
    reached,
)
from overdb.v1 import kv_pb2, kv_pb2_grpc
from tests.integration.cluster import LocalCluster, wait_until

_MIB = 1 << 20
_AROUND = 0.1  # seconds before and behind a snapshot that count as while it was taken


def _snapshots(running: LocalCluster) -> list[tuple[float, float]]:
    """Of each replica's snapshots: when it was done (time.time()), and the seconds that it took."""
    times = []
    for node in running.nodes.values():
        for line in node.log_file.read_text(errors="replace").splitlines():
            if '"event": "snapshot"' in line:
                told = json.loads(line)
                stamp = told["timestamp"].replace("Z", "+00:00")
                times.append((datetime.fromisoformat(stamp).timestamp(), told["seconds"]))
    return times


def snapshot(quick: bool) -> Section:
    """Latency of puts while snapshots are taken, and while none is."""
    seconds, log_bytes = (4.0, 1 << 20) if quick else (40.0, 16 << 20)

    async def measure(running: LocalCluster) -> Puts:
        async with client_of(running) as client:
            return await put_for(client, running.processes, seconds, 256, 100_000)

    with cluster(OVERDB_SNAPSHOT_LOG_BYTES=str(log_bytes)) as running:
        wall = time.time() - time.perf_counter()
        puts = asyncio.run(measure(running))
        taken = [(stamp - wall, took) for stamp, took in _snapshots(running)]
    near: list[float] = []
    far: list[float] = []
    for ended, latency in zip(puts.ended, puts.latencies, strict=True):
        during = any(at - took - _AROUND < ended < at + _AROUND for at, took in taken)
        (near if during else far).append(latency)
    rows: list[tuple[object, ...]] = [
        (name, len(them), *(percentile(sorted(them), q) * 1000 for q in (0.5, 0.99, 0.999)))
        for name, them in (("a snapshot is taken", near), ("none is", far))
    ]
    enough = bool(near and far)
    ratio = float(str(rows[0][3])) / float(str(rows[1][3])) if enough else float("nan")
    return Section(
        f"Snapshots, each {log_bytes / _MIB:.0f} MiB of log, 256 callers",
        ("while", "puts", "p50 ms", "p99 ms", "p99.9 ms"),
        rows,
        f"{len(taken)} snapshots, which took {_seconds(taken)}. p99 is {ratio:.2f} times that without; "
        f"2 wanted: {reached(ratio <= 2)}. Errors: {sum(puts.errors.values())}.",
    )


def _seconds(taken: list[tuple[float, float]]) -> str:
    if not taken:
        return "no time"
    least, middle, most = spread(took for _, took in taken)
    return f"{least:.2f}, {middle:.2f}, {most:.2f} s (least, median, greatest)"


def slow_follower(quick: bool) -> Section:
    """One follower is stopped for a while."""
    seconds = 1.0 if quick else 10.0
    rows: list[tuple[object, ...]] = []

    async def measure(running: LocalCluster) -> float:
        leader = running.leader(0)
        process = running.nodes[leader]
        follower = next(n for n in running.nodes if running.group_of(n) == 0 and n != leader)
        async with client_of(running) as client:

            async def window(name: str) -> None:
                puts = await put_for(client, running.processes, seconds, 64, 10_000)
                memory = process.resident_bytes() / _MIB
                failed = sum(puts.errors.values())
                rows.append((name, puts.rate, puts.quantile_ms(0.99), memory, failed))

            await window("before")
            running.nodes[follower].send(signal.SIGSTOP)
            await window("stopped")
            running.nodes[follower].send(signal.SIGCONT)
            began = time.perf_counter()

            def caught_up() -> bool:
                mine, its = running.describe(leader), running.describe(follower)
                return (
                    mine is not None and its is not None and mine.applied_index <= its.applied_index
                )

            wait_until(caught_up, "the follower has caught up", 60)
            caught = time.perf_counter() - began
            await window("after")
        return caught

    with cluster() as running:
        caught = asyncio.run(measure(running))
    return Section(
        f"A follower stopped for {seconds:.0f} s, 64 callers",
        ("window", "puts/s", "p99 ms", "leader's resident MiB", "errors"),
        rows,
        f"It had caught up {caught:.2f} s after it went on.",
    )


async def _flood(running: LocalCluster, calls: int, stop: asyncio.Event) -> dict[str, int]:
    """Clients that send more than a router keeps, each as much as it may at once."""
    counts: dict[str, int] = {}
    limits = overdb.Limits(queued_bytes_max=1 << 30)
    value = bytes(64 << 10)
    async with overdb.Client(running.endpoints, timeout=5.0, limits=limits) as client:

        async def one(number: int) -> None:
            while not stop.is_set():
                try:
                    await client.put(key(number), value)
                    name = "answered"
                except overdb.OverDBError as error:
                    name = type(error).__name__
                counts[name] = counts.get(name, 0) + 1

        await asyncio.gather(*(one(number) for number in range(calls)))
    return counts


async def _refusals(running: LocalCluster, calls: int) -> dict[str, int]:
    """One stream without a client's patience: what the router itself answers, by code."""
    counts: dict[str, int] = {}
    value = bytes(64 << 10)
    options = [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(running.endpoints[0], options=options) as channel:
        stream = cast("kv_pb2_grpc.KVAsyncStub", kv_pb2_grpc.KVStub(channel)).Batch()
        tags = iter(range(1, calls + 1))
        sent = 0
        for tag in tags:
            request = kv_pb2.BatchRequest()
            request.entries.add(tag=tag, put=kv_pb2.PutRequest(key=key(tag), value=value))
            await stream.write(request)
            sent += 1
        answered = 0
        while answered < sent:
            response = cast("kv_pb2.BatchResponse", await stream.read())
            for entry in response.entries:
                code = entry.error.code if entry.HasField("error") else 0
                name = "OK" if not code else _NAMES.get(code, str(code))
                counts[name] = counts.get(name, 0) + 1
                answered += 1
        await stream.done_writing()
    return counts


_NAMES = {4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED", 14: "UNAVAILABLE"}


def overload(quick: bool) -> Section:
    """More than a router takes, and how it is behind that."""
    calls, seconds = (600, 1.0) if quick else (4000, 5.0)

    async def measure(running: LocalCluster) -> tuple[list[tuple[object, ...]], str]:
        router = running.router_processes[0]
        async with client_of(running) as client:
            before = await put_for(client, running.processes, seconds, 16, 1000)
            memory_before = router.resident_bytes() / _MIB
            most = 0.0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, router.resident_bytes() / _MIB)
                    await asyncio.sleep(0.05)

            watching = asyncio.create_task(watch())
            refused = await _refusals(running, calls)
            stop = asyncio.Event()
            flooding = asyncio.create_task(_flood(running, calls // 2, stop))
            await asyncio.sleep(seconds)
            stop.set()
            flooded = await flooding
            began = time.perf_counter()
            await client.put(key(0), b"again")
            first = time.perf_counter() - began
            watching.cancel()
            after = await put_for(client, running.processes, seconds, 16, 1000)
            missing = await lost(client, 1000)
        rows: list[tuple[object, ...]] = [
            (name, puts.rate, puts.quantile_ms(0.5), puts.quantile_ms(0.99), memory)
            for name, puts, memory in (
                ("before", before, memory_before),
                ("after", after, router.resident_bytes() / _MIB),
            )
        ]
        return rows, (
            f"One stream with {calls:,} puts of 64 KiB at once was answered {refused}; {calls // 2:,} "
            f"callers of a patient client: {flooded}. The router had {most:,.0f} MiB at most; the first "
            f"put behind it took {first * 1000:.0f} ms; {missing} keys are missing."
        )

    with cluster() as running:
        rows, verdict = asyncio.run(measure(running))
    return Section(
        "Overload of a router",
        ("window", "puts/s", "p50 ms", "p99 ms", "router's resident MiB"),
        rows,
        verdict,
    )
