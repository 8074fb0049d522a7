"""A ring of keys, each naming the next: transactions take one out and put it in elsewhere."""

from __future__ import annotations

import overdb
from tests.simulation.cluster.history import NO_ANSWER, Opening, Recorder, spread


class Ring:
    name = "ring"

    def __init__(self, recorder: Recorder, size: int = 6) -> None:
        self._recorder = recorder
        self.keys = spread(b"ring-", size)
        following = self.keys[1:] + self.keys[:1]
        puts: list[overdb.Put] = [
            overdb.Put(key, to) for key, to in zip(self.keys, following, strict=True)
        ]
        self._opening = Opening(recorder, puts)

    async def step(self, client: overdb.Client) -> None:
        if not self._opening.done:
            await self._opening.run(client)
        elif self._recorder.random.random() < 0.6:
            await self._relink(client)
        else:
            await self._walk(client)

    async def _relink(self, client: overdb.Client) -> None:
        """before -> moved -> behind, place -> next: becomes before -> behind, place -> moved -> next."""
        before, place = self._recorder.random.sample(self.keys, 2)

        async def move(t: overdb.Transaction) -> bool:
            moved = await self._next(t, before)
            if moved == place:
                return False
            behind, following = await self._next(t, moved), await self._next(t, place)
            t.put(before, behind)
            t.put(moved, following)
            t.put(place, moved)
            return True

        try:
            await client.run(move, timeout=3.0)
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        self._recorder.counts["relinked"] += 1

    async def _next(self, t: overdb.Transaction, key: bytes) -> bytes:
        found = await t.get(key)
        assert found is not None
        return found.value

    async def _walk(self, client: overdb.Client) -> None:
        try:
            found = await client.transact(then=[overdb.Get(key) for key in self.keys])
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        self._check({k: one.value or b"" for k, one in zip(self.keys, found.results, strict=True)})

    def _check(self, links: dict[bytes, bytes]) -> None:
        key, steps = self.keys[0], 0
        while steps < len(self.keys):
            key, steps = links[key], steps + 1
            if key == self.keys[0]:
                break
        assert (key, steps) == (self.keys[0], len(self.keys)), f"the ring is broken: {links}"
        self._recorder.counts["ring walked"] += 1

    async def check(self, client: overdb.Client) -> None:
        await self._opening.finish(client)
        found = await client.transact(then=[overdb.Get(key) for key in self.keys])
        self._check({k: one.value or b"" for k, one in zip(self.keys, found.results, strict=True)})
