"""Snapshots, a follower that does not answer, more than a router takes."""

from __future__ import annotations

import asyncio
import collections
import json
import signal
import time
from datetime import datetime
from typing import Any

import grpc

import overdb
from bench.figures import percentile, spread
from bench.growth.common import (
    Puts,
    Section,
    client_of,
    cluster,
    key,
    memory_of,
    put_for,
    reached,
)
from bench.stores import error_name
from bench.workloads import value_of
from overdb.v1 import kv_pb2
from tests.integration.cluster import LocalCluster, wait_until

_MIB = 1 << 20
_AROUND = 0.02  # seconds before and behind a snapshot that count as while it was taken
# What a leader may keep for a follower that does not answer: the log until the next snapshot, once more
# while that is taken, and what is under way.
_FOLLOWER_MIB_MAX = 64 + 64 + 8


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
        f"{len(taken)} snapshots of six replicas, which took {_seconds(taken)}; a put counts as during one, "
        f"of whichever group, up to {_AROUND} s before and behind. p99 is {ratio:.2f} times that without; "
        f"2 wanted: {reached(ratio <= 2)}. Errors: {sum(puts.errors.values())}.",
    )


def _seconds(taken: list[tuple[float, float]]) -> str:
    if not taken:
        return "no time"
    least, middle, most = spread(took for _, took in taken)
    return f"{least:.2f}, {middle:.2f}, {most:.2f} s (least, median, greatest)"


def slow_follower(quick: bool) -> Section:
    """One follower is stopped for a while."""
    seconds = 0.5 if quick else 10.0
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
    grown = max(float(str(row[3])) for row in rows) - float(str(rows[0][3]))
    return Section(
        f"A follower stopped for {seconds:g} s, 64 callers",
        ("window", "puts/s", "p99 ms", "leader's resident MiB", "errors"),
        rows,
        f"It had caught up {caught:.2f} s after it went on. The leader's memory had grown by {grown:.0f} MiB "
        f"at most, {_FOLLOWER_MIB_MAX} allowed: {reached(grown <= _FOLLOWER_MIB_MAX)}.",
    )


_LARGE = 64 << 10  # bytes of a value
_MESSAGE_ENTRIES = 64  # of these in one message
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _value(number: int) -> bytes:
    """A large one that says which it is."""
    return b"%016d" % number + value_of(number, _LARGE - 16)


class _Stream:
    """One stream without a client's patience: all puts leave as fast as they can be written."""

    def __init__(self, calls: int) -> None:
        self.answers: collections.Counter[str] = collections.Counter()
        self.acknowledged: dict[bytes, int] = {}  # least value that a key must have
        self.refused: list[bytes] = []  # by RESOURCE_EXHAUSTED: nothing was done
        self._messages: list[bytes] = []
        for first in range(1, calls + 1, _MESSAGE_ENTRIES):
            request = kv_pb2.BatchRequest()
            for tag in range(first, min(first + _MESSAGE_ENTRIES, calls + 1)):
                put = kv_pb2.PutRequest(key=self._key(tag), value=_value(tag))
                request.entries.add(tag=tag, put=put)
            self._messages.append(request.SerializeToString())
        self._owed = calls

    @staticmethod
    def _key(tag: int) -> bytes:
        return b"stream-%08d" % tag

    async def run(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            answer = kv_pb2.BatchResponse.FromString
            batch: Any = channel.stream_stream("/overdb.v1.KV/Batch", response_deserializer=answer)
            stream = batch()
            reading = asyncio.create_task(self._read(stream))
            for message in self._messages:
                await stream.write(message)
            await stream.done_writing()
            await reading

    async def _read(self, stream: Any) -> None:
        while self._owed:
            response = await stream.read()
            if response is grpc.aio.EOF:
                self.answers["no answer"] += self._owed
                return
            for entry in response.entries:
                self._owed -= 1
                self._take(entry)

    def _take(self, entry: kv_pb2.BatchResponse.Entry) -> None:
        if not entry.HasField("error"):
            self.answers["OK"] += 1
            self.acknowledged[self._key(entry.tag)] = entry.tag
            return
        name = _NAMES.get(entry.error.code, str(entry.error.code))
        whose = entry.error.message.partition(":")[0]  # the bound that is full
        self.answers[f"{name} ({whose})" if name == "RESOURCE_EXHAUSTED" else name] += 1
        if name == "RESOURCE_EXHAUSTED":
            self.refused.append(self._key(entry.tag))


class _Flood:
    """Callers of a patient client, which sends again what is refused, with more than a router keeps."""

    def __init__(self, calls: int) -> None:
        self.answers: collections.Counter[str] = collections.Counter()
        self.acknowledged: dict[bytes, int] = {}
        self._calls = calls
        self._stopped = False

    async def run(self, endpoints: list[str], seconds: float) -> None:
        limits = overdb.Limits(queued_bytes_max=1 << 30)
        async with overdb.Client(endpoints, timeout=5.0, limits=limits) as client:
            callers = [asyncio.create_task(self._caller(client, n)) for n in range(self._calls)]
            await asyncio.sleep(seconds)
            self._stopped = True
            await asyncio.gather(*callers)

    async def _caller(self, client: overdb.Client, number: int) -> None:
        name, turn = b"flood-%08d" % number, 0
        while not self._stopped:
            turn += 1
            try:
                await client.put(name, _value(turn))
            except overdb.OverDBError as error:
                self.answers[error_name(error)] += 1
            else:
                self.answers["answered"] += 1
                self.acknowledged[name] = turn


async def missing_of(client: overdb.Client, acknowledged: dict[bytes, int]) -> int:
    """How many of all the keys have not the value that was acknowledged, nor a later one."""
    names = iter(acknowledged)
    missing = 0

    async def reader() -> None:
        nonlocal missing
        for name in names:
            found = await client.get(name)
            missing += found is None or int(found.value[:16]) < acknowledged[name]

    await asyncio.gather(*(reader() for _ in range(32)))
    return missing


async def _present(client: overdb.Client, names: list[bytes]) -> int:
    found = await asyncio.gather(*(client.get(name) for name in names))
    return sum(one is not None for one in found)


def _told(answers: collections.Counter[str]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in answers.most_common())


def overload(quick: bool) -> Section:
    """More than a router takes, and how it is behind that."""
    calls, seconds = (2000, 0.5) if quick else (8000, 5.0)

    async def measure(running: LocalCluster) -> tuple[list[tuple[object, ...]], str]:
        router = running.router_processes[0]
        rows: list[tuple[object, ...]] = []

        async def window(name: str, client: overdb.Client) -> None:
            puts = await put_for(client, running.processes, seconds, 16, 1000)
            figures = (puts.rate, puts.quantile_ms(0.5), puts.quantile_ms(0.99))
            resident = memory_of(router, "VmRSS") / _MIB, memory_of(router, "VmHWM") / _MIB
            rows.append((name, *figures, *resident, sum(puts.errors.values())))

        async def first_put(client: overdb.Client) -> float:
            began = time.perf_counter()
            await client.put(key(0), b"again")
            return (time.perf_counter() - began) * 1000

        stream, flood = _Stream(calls), _Flood(calls // 4)
        async with client_of(running) as client:
            await window("before", client)
            await stream.run(running.endpoints[0])
            behind_stream = await first_put(client)
            await window("behind the stream", client)
            await flood.run(running.endpoints, seconds)
            behind_flood = await first_put(client)
            await window("behind the callers", client)
            acknowledged = stream.acknowledged | flood.acknowledged
            missing = await missing_of(client, acknowledged)
            done_after_all = await _present(client, stream.refused)
        refused = len(stream.refused)
        most = max(memory_of(node, "VmHWM") for node in running.nodes.values()) / _MIB
        return rows, (
            f"One stream with {calls:,} puts of 64 KiB ({calls * _LARGE / _MIB:,.0f} MiB), written as fast "
            f"as it takes them, was answered: {_told(stream.answers)}. The router "
            f"{'refused what was too much' if refused else 'refused NOTHING'}; the next put took "
            f"{behind_stream:.0f} ms. Then {calls // 4:,} callers of a client that tries again for 5 s put "
            f"as large values: {_told(flood.answers)}; the next put took {behind_flood:.0f} ms. Of "
            f"{len(acknowledged):,} keys acknowledged {missing:,} are missing, of {refused:,} that the "
            f"router refused {done_after_all:,} are there. A replica had {most:,.0f} MiB at most."
        )

    with cluster() as running:
        rows, verdict = asyncio.run(measure(running))
    return Section(
        "Overload of a router",
        (
            "window",
            "puts/s",
            "p50 ms",
            "p99 ms",
            "router's resident MiB",
            "at most until then",
            "errors",
        ),
        rows,
        verdict,
    )
