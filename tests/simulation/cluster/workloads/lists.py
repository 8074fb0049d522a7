"""Lists that transactions read and append to, over groups; strictly serializable (Elle, VLDB 2020)."""

from __future__ import annotations

import contextlib
from typing import Any

import overdb
from overdb_torture.checkers import check_lists
from overdb_torture.history import Append, ListTransaction, Outcome, Read
from tests.simulation.cluster.history import NO_ANSWER, Recorder, spread


class Lists:
    name = "lists"

    def __init__(self, recorder: Recorder, keys: int = 5) -> None:
        self._recorder = recorder
        self.keys = spread(b"list-", keys)
        self.history: list[ListTransaction] = []
        self._mark = 0

    async def step(self, client: overdb.Client) -> None:
        random = self._recorder.random
        keys = random.sample(self.keys, random.randint(1, 3))
        if random.random() < 0.35:
            await self._read(client, keys)
        else:
            await self._append(client, keys)

    def _record(
        self, operations: list[Any], began: int, outcome: Outcome, timestamp: int | None = None
    ) -> None:
        ended = None if outcome is Outcome.MAYBE else self._recorder.now
        number = len(self.history) + 1
        self.history.append(
            ListTransaction(number, tuple(operations), began, ended, outcome, timestamp)
        )

    async def _read(self, client: overdb.Client, keys: list[bytes]) -> None:
        with contextlib.suppress(overdb.OutcomeUnknown, *NO_ANSWER):
            await self._read_all(client, keys)

    async def _read_all(self, client: overdb.Client, keys: list[bytes]) -> None:
        """Whoever calls it at the end asks again when there is no answer: without it nothing is shown."""
        began = self._recorder.now
        found = await client.transact(then=[overdb.Get(key) for key in keys])
        reads = [Read(key, _marks(one.value)) for key, one in zip(keys, found.results, strict=True)]
        self._record(reads, began, Outcome.OK)
        self._recorder.counts["lists read"] += 1

    async def _append(self, client: overdb.Client, keys: list[bytes]) -> None:
        """Read, then write guarded by the versions that were read: one transaction in effect."""
        recorder = self._recorder
        self._mark += 1
        mark, began = self._mark, recorder.now
        try:
            seen = await client.transact(then=[overdb.Get(key) for key in keys])
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        held = dict(zip(keys, seen.results, strict=True))
        compares = [overdb.Compare.version(key, "==", one.version) for key, one in held.items()]
        then = [overdb.Put(key, (one.value or b"") + b"%d " % mark) for key, one in held.items()]
        operations: list[Any] = []
        for key, one in held.items():
            operations += [Read(key, _marks(one.value)), Append(key, mark)]
        unknown = [Append(key, mark) for key in keys]
        try:
            done = await client.transact(compares, then=then)
        except overdb.OutcomeUnknown as error:
            recorder.counts["unknown"] += 1
            done = await recorder.until_known(
                error, lambda again: client.transact(compares, then=then, request_id=again)
            )
            if done is None:
                self._record(operations, began, Outcome.MAYBE)
                return
        except NO_ANSWER:
            self._record(unknown, began, Outcome.FAILED)
            return
        if done.succeeded:
            self._record(operations, began, Outcome.OK, done.version)
            recorder.counts["appended"] += 1
        else:
            self._record(unknown, began, Outcome.FAILED)

    async def check(self, client: overdb.Client) -> None:
        await self._read_all(client, self.keys)
        verdict = check_lists(self.history)
        assert verdict.ok, f"not strictly serializable: {verdict.anomalies[:3]}"


def _marks(value: bytes | None) -> tuple[int, ...]:
    return tuple(int(mark) for mark in (value or b"").split())
