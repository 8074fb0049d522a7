"""Lists that transactions over groups read and append to: from what they saw follows who came before whom."""

from __future__ import annotations

import overdb
from overdb_torture.history import Append, ListTransaction, Outcome, Read
from overdb_torture.workloads.base import Checked, Worker, Workload, told

KEYS_AT_ONCE = 6
APPENDS_PER_KEY_MAX = 150  # then a fresh key takes its place: a list is read as a whole each time


class Lists(Workload):
    """A value is the numbers that were appended, in order, as text. No number is used twice."""

    name = "lists"

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self.transactions: list[ListTransaction] = []
        self._appends = [0] * KEYS_AT_ONCE
        self._numbers = 0

    async def step(self, worker: Worker) -> None:
        chosen = worker.random.sample(range(KEYS_AT_ONCE), worker.random.randint(1, 3))
        keys = [self._key(n, self._appends[n] // APPENDS_PER_KEY_MAX) for n in chosen]
        held = await self._read(worker, keys)
        if held is None or worker.random.random() < 0.25:
            return
        # Reads of all, appends to some.
        count = worker.random.randint(1, len(keys))
        for number in chosen[:count]:
            self._appends[number] += 1
        await self._append(worker, held, keys[:count])

    async def close(self, worker: Worker) -> None:
        keys = self.keys()
        for first in range(0, len(keys), 8):
            await self._read(worker, keys[first : first + 8])

    def keys(self) -> list[bytes]:
        return [
            self._key(number, generation)
            for number, appends in enumerate(self._appends)
            for generation in range(appends // APPENDS_PER_KEY_MAX + 1)
        ]

    def check(self) -> Checked:
        from overdb_torture.checkers import check_lists  # noqa: PLC0415  # only here

        result = check_lists(self.transactions, strict=True)
        return Checked(
            self.name,
            told(self.name, result),
            f"{len(self.transactions)} transactions",
        )

    def _key(self, number: int, generation: int) -> bytes:
        return self._prefix + b"lists/%d-%d" % (number, generation)

    async def _read(
        self, worker: Worker, keys: list[bytes]
    ) -> dict[bytes, overdb.OperationResult] | None:
        """A strict read of all keys at one moment; None when there was no answer."""
        began = worker.recorder.now_ns()
        gets = [overdb.Get(key) for key in keys]
        answer = await worker.ask(self.name, worker.client.transact(then=gets), read=True)
        results = () if answer.value is None else answer.value.results
        held = dict(zip(keys, results, strict=False))
        reads = tuple(Read(key, _numbers(held[key].value) if held else None) for key in keys)
        # A read of unknown outcome changed nothing: nobody has to think of it as running on.
        outcome = Outcome.OK if answer.outcome is Outcome.OK else Outcome.FAILED
        self._record(worker, reads, began, outcome, None)
        return held or None

    async def _append(
        self, worker: Worker, held: dict[bytes, overdb.OperationResult], to: list[bytes]
    ) -> None:
        self._numbers += 1
        mark, began = self._numbers, worker.recorder.now_ns()
        # A key that is as it was read is, for the transaction, read at the moment of its commit.
        compares = [overdb.Compare.version(key, "==", found.version) for key, found in held.items()]
        puts = [overdb.Put(key, held[key].value + b"%d " % mark) for key in to]
        answer = await worker.ask(self.name, worker.client.transact(compares, then=puts))
        done = answer.value
        if done is not None and not done.succeeded:
            return  # somebody was faster: it did nothing, and saw nothing
        operations: list[Append | Read] = [
            *(Read(key, _numbers(found.value)) for key, found in held.items()),
            *(Append(key, mark) for key in to),
        ]
        version = None if done is None else done.version
        self._record(worker, tuple(operations), began, answer.outcome, version)

    def _record(
        self,
        worker: Worker,
        operations: tuple[Append | Read, ...],
        began: int,
        outcome: Outcome,
        version: int | None,
    ) -> None:
        process = worker.process
        ended = worker.ended(outcome)
        transaction = ListTransaction(process, operations, began, ended, outcome, version)
        self.transactions.append(transaction)
        worker.recorder.write(
            self.name,
            process=process,
            operations=[
                ["append", one.key, one.value]
                if isinstance(one, Append)
                else ["read", one.key, one.values]
                for one in operations
            ],
            began=began,
            ended=ended,
            outcome=outcome,
            timestamp=version,
        )


def _numbers(value: bytes) -> tuple[int, ...]:
    return tuple(int(number) for number in value.split())
