"""Counters: an add that was acknowledged counts once, one of unknown outcome is repeated under its id."""

from __future__ import annotations

import overdb
from overdb_torture.history import Operation, Outcome
from overdb_torture.workloads.base import Answer, Checked, Worker, Workload, told

KEYS = 4
_REPEATS_MAX = 20


class Counters(Workload):
    """A few counters that everybody adds to and reads."""

    name = "counters"

    def __init__(self, prefix: bytes) -> None:
        self._keys = [prefix + b"counters/%d" % number for number in range(KEYS)]
        self.operations: list[Operation] = []

    async def step(self, worker: Worker) -> None:
        key = worker.random.choice(self._keys)
        if worker.random.random() < 0.3:
            await self._read(worker, key)
        else:
            await self._add(worker, key)

    async def close(self, worker: Worker) -> None:
        for key in self._keys:
            await self._read(worker, key)

    def keys(self) -> list[bytes]:
        return list(self._keys)

    def check(self) -> Checked:
        from overdb_torture.checkers import check_counters  # noqa: PLC0415  # only here

        result = check_counters(self.operations)
        return Checked(self.name, told(self.name, result), f"{len(self.operations)} adds and reads")

    async def _read(self, worker: Worker, key: bytes) -> None:
        began = worker.recorder.now_ns()
        answer = await worker.ask(self.name, worker.client.get(key), read=True)
        number = int(answer.value.value) if answer.value is not None else 0
        result = number if answer.outcome is Outcome.OK else None
        self._record(worker, "read", key, None, result, began, answer.outcome)

    async def _add(self, worker: Worker, key: bytes) -> None:
        delta, began = worker.random.randint(1, 5), worker.recorder.now_ns()
        add = [overdb.Add(key, delta)]
        answer: Answer[overdb.TransactResult]
        answer = await worker.ask(self.name, worker.client.transact(then=add))
        for _ in range(_REPEATS_MAX):
            if not isinstance(answer.error, overdb.OutcomeUnknown):
                break
            request_id = answer.error.request_id
            again = worker.client.transact(then=add, request_id=request_id)
            answer = await worker.ask(self.name, again)
            if answer.outcome is Outcome.FAILED:
                # "Not run" is said of this copy; the first one may run yet.
                answer = Answer(
                    Outcome.MAYBE, error=overdb.OutcomeUnknown("", request_id=request_id)
                )
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
