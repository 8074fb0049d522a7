"""Registers: puts, deletes, compare-and-set and reads of a few keys; linearizable, each by itself."""

from __future__ import annotations

import overdb
from overdb_torture.checkers import check_registers
from overdb_torture.history import Operation, Outcome
from tests.simulation.cluster.history import NO_ANSWER, Recorder, spread


class Registers:
    name = "registers"

    def __init__(self, recorder: Recorder, keys: int = 6) -> None:
        self._recorder = recorder
        self.keys = spread(b"register-", keys)
        self.history: list[Operation] = []
        self._processes = 0
        self._written = 0

    async def step(self, client: overdb.Client) -> None:
        recorder = self._recorder
        random = recorder.random
        key = random.choice(self.keys)
        self._processes += (
            1  # every operation is a process of its own: nothing is claimed of their order
        )
        process, began = self._processes, recorder.now
        self._written += 1
        value = b"%d" % self._written
        draw = random.random()
        if draw < 0.5:
            await self._read(client, process, key, began)
        elif draw < 0.9:
            await self._write(client, process, key, value, began)
        elif draw < 0.95:
            await self._delete(client, process, key, began)
        else:
            await self._compare_and_set(client, process, key, value, began)

    def _record(
        self,
        process: int,
        kind: str,
        key: bytes,
        argument: object,
        result: object,
        began: int,
        outcome: Outcome,
    ) -> None:
        ended = None if outcome is Outcome.MAYBE else self._recorder.now
        self.history.append(Operation(process, kind, key, argument, result, began, ended, outcome))
        self._recorder.counts[kind if outcome is Outcome.OK else f"{kind} {outcome.value}"] += 1

    async def _read(self, client: overdb.Client, process: int, key: bytes, began: int) -> None:
        try:
            found = await client.get(key)
        except NO_ANSWER:
            return
        self._record(process, "read", key, None, found and found.value, began, Outcome.OK)

    async def _write(
        self, client: overdb.Client, process: int, key: bytes, value: bytes, began: int
    ) -> None:
        try:
            await client.put(key, value)
        except overdb.OutcomeUnknown:
            self._record(process, "write", key, value, None, began, Outcome.MAYBE)
        except NO_ANSWER:
            self._record(process, "write", key, value, None, began, Outcome.FAILED)
        else:
            self._record(process, "write", key, value, None, began, Outcome.OK)

    async def _delete(self, client: overdb.Client, process: int, key: bytes, began: int) -> None:
        try:
            deleted = await client.delete(key)
        except overdb.OutcomeUnknown:
            self._record(process, "delete", key, None, None, began, Outcome.MAYBE)
        except NO_ANSWER:
            self._record(process, "delete", key, None, None, began, Outcome.FAILED)
        else:
            self._record(process, "delete", key, None, deleted.existed, began, Outcome.OK)

    async def _compare_and_set(
        self, client: overdb.Client, process: int, key: bytes, value: bytes, began: int
    ) -> None:
        try:
            found = await client.get(key)
            if found is None:
                return
            began = self._recorder.now
            argument = (found.value, value)
            done = await client.transact(
                [overdb.Compare.value(key, "==", found.value)], then=[overdb.Put(key, value)]
            )
        except overdb.OutcomeUnknown:
            self._record(process, "compare_and_set", key, argument, None, began, Outcome.MAYBE)
        except NO_ANSWER:
            return
        else:
            self._record(
                process, "compare_and_set", key, argument, done.succeeded, began, Outcome.OK
            )

    async def check(self, client: overdb.Client) -> None:
        for key in self.keys:
            self._processes += 1
            began = self._recorder.now
            found = await client.get(key)
            self._record(
                self._processes, "read", key, None, found and found.value, began, Outcome.OK
            )
        verdict = check_registers(self.history)
        assert verdict.ok is not False, f"not linearizable: {verdict.failures}"
        self._recorder.counts["registers checked"] += verdict.keys
        self._recorder.counts["registers undecided"] += len(verdict.undecided)
