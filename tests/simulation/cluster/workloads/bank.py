"""A bank: money moves between accounts over groups, and is never made or lost, in strict reads and scans."""

from __future__ import annotations

import overdb
from tests.simulation.cluster.history import NO_ANSWER, Opening, Recorder, spread

_PREFIX, _BEHIND = b"account-", b"account."


class Bank:
    name = "bank"

    def __init__(self, recorder: Recorder, accounts: int = 8, each: int = 100) -> None:
        self._recorder = recorder
        self.keys = spread(_PREFIX, accounts)
        self.each = each
        puts: list[overdb.Put] = [overdb.Put(key, b"%d" % self.each) for key in self.keys]
        self._opening = Opening(recorder, puts)

    async def step(self, client: overdb.Client) -> None:
        if not self._opening.done:
            await self._opening.run(client)
            return
        draw = self._recorder.random.random()
        if draw < 0.6:
            await self._move(client)
        elif draw < 0.8:
            await self._read_strictly(client)
        else:
            await self._scan(client)

    async def _move(self, client: overdb.Client) -> None:
        random = self._recorder.random
        source, target = random.sample(self.keys, 2)
        amount = random.randint(1, 5)
        try:
            await client.transact(then=[overdb.Add(source, -amount), overdb.Add(target, amount)])
        except overdb.OutcomeUnknown:
            self._recorder.counts["unknown"] += 1  # whole or not at all: the totals tell
            return
        except NO_ANSWER:
            return
        self._recorder.counts["moved"] += 1

    def _check_total(self, values: list[bytes], how: str) -> None:
        total = sum(map(int, values))
        assert (len(values), total) == (len(self.keys), len(self.keys) * self.each), (
            f"{how} found {total} in {len(values)} accounts"
        )
        self._recorder.counts[f"bank {how}"] += 1

    async def _read_strictly(self, client: overdb.Client) -> None:
        try:
            found = await client.transact(then=[overdb.Get(key) for key in self.keys])
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        self._check_total([one.value or b"0" for one in found.results], "strict read")

    async def _scan(self, client: overdb.Client) -> None:
        sleeps = self._recorder.sleeps
        try:
            items = [item async for item in client.scan(_PREFIX, _BEHIND)]
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        except overdb.FailedPrecondition:  # its version is no longer kept, when it goes on
            assert self._recorder.sleeps > sleeps, "a scan was too old although nobody slept"
            self._recorder.counts["scan outlived"] += 1
            return
        keys = [item.key for item in items]
        assert keys == sorted(keys), "a scan is not in order"
        self._check_total([item.value for item in items], "scan")

    async def check(self, client: overdb.Client) -> None:
        await self._opening.finish(client)
        found = await client.transact(then=[overdb.Get(key) for key in self.keys])
        self._check_total([one.value or b"0" for one in found.results], "strict read")
