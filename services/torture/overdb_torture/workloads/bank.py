"""Accounts over all groups: money moves, and never comes to be or goes away, whenever one looks."""

from __future__ import annotations

from dataclasses import dataclass

import overdb
from overdb_torture.history import Outcome
from overdb_torture.workloads.base import Anomaly, Checked, Worker, Workload

ACCOUNTS = 24
EACH = 100


@dataclass(frozen=True, slots=True)
class Look:
    """All balances as one read saw them. ``way``: strict or snapshot."""

    process: int
    way: str
    balances: tuple[int, ...]
    began: int
    ended: int


class Bank(Workload):
    """Transfers between two accounts, and reads of all of them."""

    name = "bank"

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix + b"bank/"
        self._keys = [self._prefix + b"%02d" % number for number in range(ACCOUNTS)]
        self.looks: list[Look] = []
        self.transfers = 0

    async def open(self, worker: Worker) -> None:
        puts = [overdb.Put(key, b"%d" % EACH) for key in self._keys]
        await worker.client.transact(then=puts, timeout=30.0)

    async def step(self, worker: Worker) -> None:
        draw = worker.random.random()
        if draw < 0.6:
            await self._transfer(worker)
        elif draw < 0.8:
            await self._look_strictly(worker)
        else:
            await self._look_at_snapshot(worker)

    async def close(self, worker: Worker) -> None:
        await self._look_strictly(worker)
        await self._look_at_snapshot(worker)

    def keys(self) -> list[bytes]:
        return list(self._keys)

    def check(self) -> Checked:
        total = ACCOUNTS * EACH
        anomalies = [
            Anomaly(
                self.name,
                f"a {look.way} read found a total of {sum(look.balances)} in {len(look.balances)} "
                f"accounts, not {total} in {ACCOUNTS}",
                (f"process {look.process}, {look.began} to {look.ended} ns: {look.balances}",),
            )
            for look in self.looks
            if sum(look.balances) != total or len(look.balances) != ACCOUNTS
        ] + [
            Anomaly(self.name, f"a {look.way} read found a negative balance", (str(look),))
            for look in self.looks
            if min(look.balances, default=0) < 0
        ]
        note = f"{len(self.looks)} reads of all accounts, {self.transfers} transfers"
        return Checked(self.name, anomalies, note)

    async def _transfer(self, worker: Worker) -> None:
        source, to = worker.random.sample(self._keys, 2)
        found = await worker.ask(self.name, worker.client.get(source), read=True)
        if found.value is None or int(found.value.value) == 0:
            return
        amount = worker.random.randint(1, int(found.value.value))
        began = worker.recorder.now_ns()
        answer = await worker.ask(
            self.name,
            worker.client.transact(
                [overdb.Compare.value(source, "==", found.value.value)],
                then=[overdb.Add(source, -amount), overdb.Add(to, amount)],
            ),
        )
        done = answer.value is not None and answer.value.succeeded
        self.transfers += done
        worker.recorder.write(
            self.name,
            process=worker.process,
            kind="transfer",
            key=source,
            argument=[to, amount],
            result=done,
            began=began,
            ended=worker.ended(answer.outcome),
            outcome=answer.outcome,
        )

    async def _look_strictly(self, worker: Worker) -> None:
        began = worker.recorder.now_ns()
        gets = [overdb.Get(key) for key in self._keys]
        answer = await worker.ask(self.name, worker.client.transact(then=gets), read=True)
        if answer.value is not None:
            values = tuple(int(one.value) for one in answer.value.results if one.found)
            self._saw(worker, "strict", values, began)

    async def _look_at_snapshot(self, worker: Worker) -> None:
        began = worker.recorder.now_ns()

        async def scan() -> tuple[int, ...]:
            end = self._prefix[:-1] + b"0"  # the byte behind the slash
            return tuple([int(i.value) async for i in worker.client.scan(self._prefix, end)])

        answer = await worker.ask(self.name, scan(), read=True)
        if isinstance(answer.error, overdb.ResourceExhausted) and "disk" in str(answer.error):
            # Whose disk is full, of all groups or of one: that is no reason to refuse a scan.
            worker.recorder.record.unexpected.append(f"{self.name}: a scan: {answer.error}")
        if answer.value is not None:
            self._saw(worker, "snapshot", answer.value, began)

    def _saw(self, worker: Worker, way: str, balances: tuple[int, ...], began: int) -> None:
        look = Look(worker.process, way, balances, began, worker.recorder.now_ns())
        self.looks.append(look)
        worker.recorder.write(
            self.name,
            process=worker.process,
            kind=f"{way} read",
            result=balances,
            began=began,
            ended=look.ended,
            outcome=Outcome.OK,
        )
