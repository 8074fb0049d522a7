"""Single keys that are read, written, deleted, compared and added to: each must be linearizable."""

from __future__ import annotations

import overdb
from overdb_torture.history import Operation, Outcome
from overdb_torture.workloads.base import Checked, Worker, Workload, told

KEYS_AT_ONCE = 8
# A key is given up for a fresh one after so many: how long checking one takes grows with its history.
OPERATIONS_PER_KEY_MAX = 300


class Registers(Workload):
    """A few keys at a time, so that clients meet on them."""

    name = "registers"

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self.operations: list[Operation] = []
        self._uses = [0] * KEYS_AT_ONCE
        self._values = 0
        self._seen: dict[bytes, int | None] = {}

    async def step(self, worker: Worker) -> None:
        key = self._pick(worker)
        draw = worker.random.random()
        if draw < 0.4:
            await self._read(worker, key)
        elif draw < 0.65:
            await self._write(worker, key)
        elif draw < 0.72:
            await self._delete(worker, key)
        elif draw < 0.9:
            await self._compare_and_set(worker, key)
        else:
            await self._add(worker, key)

    async def close(self, worker: Worker) -> None:
        for key in self.keys():
            await self._read(worker, key)

    def keys(self) -> list[bytes]:
        return [
            self._key(number, generation)
            for number, uses in enumerate(self._uses)
            for generation in range(uses // OPERATIONS_PER_KEY_MAX + 1)
        ]

    def check(self) -> Checked:
        from overdb_torture.checkers import check_registers  # noqa: PLC0415  # only here

        result = check_registers(self.operations)
        return Checked(
            self.name,
            told(self.name, result),
            f"{len(self.operations)} operations on {len(self._seen)} keys",
            undecided=result.ok is None,
        )

    # --- one operation each -----------------------------------------------------------------------

    def _key(self, number: int, generation: int) -> bytes:
        return self._prefix + b"registers/%d-%d" % (number, generation)

    def _pick(self, worker: Worker) -> bytes:
        number = worker.random.randrange(KEYS_AT_ONCE)
        key = self._key(number, self._uses[number] // OPERATIONS_PER_KEY_MAX)
        self._uses[number] += 1
        self._seen.setdefault(key, None)
        return key

    def _fresh(self) -> int:
        self._values += 1
        return self._values * 1000  # adds of one to nine never meet another value

    async def _read(self, worker: Worker, key: bytes) -> None:
        began = worker.recorder.now_ns()
        answer = await worker.ask(self.name, worker.client.get(key), read=True)
        number = None if answer.value is None else int(answer.value.value)
        if answer.outcome is Outcome.OK:
            self._seen[key] = number
        self._record(worker, "read", key, None, number, began, answer.outcome)

    async def _write(self, worker: Worker, key: bytes) -> None:
        value, began = self._fresh(), worker.recorder.now_ns()
        answer = await worker.ask(self.name, worker.client.put(key, b"%d" % value))
        self._record(worker, "write", key, value, None, began, answer.outcome)

    async def _delete(self, worker: Worker, key: bytes) -> None:
        began = worker.recorder.now_ns()
        answer = await worker.ask(self.name, worker.client.delete(key))
        existed = None if answer.value is None else answer.value.existed
        self._record(worker, "delete", key, None, existed, began, answer.outcome)

    async def _compare_and_set(self, worker: Worker, key: bytes) -> None:
        expected, value = self._seen[key], self._fresh()
        compare = (
            overdb.Compare.missing(key)
            if expected is None
            else overdb.Compare.value(key, "==", b"%d" % expected)
        )
        began = worker.recorder.now_ns()
        answer = await worker.ask(
            self.name,
            worker.client.transact([compare], then=[overdb.Put(key, b"%d" % value)]),
        )
        done = None if answer.value is None else answer.value.succeeded
        argument = (expected, value)
        self._record(worker, "compare_and_set", key, argument, done, began, answer.outcome)

    async def _add(self, worker: Worker, key: bytes) -> None:
        began = worker.recorder.now_ns()
        delta = worker.random.randint(1, 9)
        answer = await worker.ask(self.name, worker.client.transact(then=[overdb.Add(key, delta)]))
        total = None if answer.value is None else int(answer.value.results[0].value)
        self._record(worker, "add", key, delta, total, began, answer.outcome)

    def _record(
        self,
        worker: Worker,
        kind: str,
        key: bytes,
        argument: object,
        result: object,
        began: int,
        outcome: Outcome,
    ) -> None:
        process = worker.process
        ended = worker.ended(outcome)
        operation = Operation(process, kind, key, argument, result, began, ended, outcome)
        self.operations.append(operation)
        worker.recorder.write_operation(self.name, operation)
