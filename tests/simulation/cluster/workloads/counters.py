"""Counters: every add is repeated under its id until its answer is known, and counts once."""

from __future__ import annotations

import overdb
from tests.simulation.cluster.history import NO_ANSWER, Recorder, spread


class Counters:
    """Adds to one key, and to pairs of keys that must stay equal (over groups)."""

    name = "counters"

    def __init__(self, recorder: Recorder, keys: int = 4) -> None:
        self._recorder = recorder
        self.keys = spread(b"count-", keys)
        self.pairs = list(zip(spread(b"left-", 2), spread(b"right-", 2, first=1), strict=True))
        self.added = dict.fromkeys(self.keys, 0)
        self.maybe = dict.fromkeys(self.keys, 0)
        self.seen = dict.fromkeys(self.keys, 0)

    async def step(self, client: overdb.Client) -> None:
        random = self._recorder.random
        draw = random.random()
        if draw < 0.5:
            await self._add(client, random.choice(self.keys))
        elif draw < 0.75:
            await self.add_pair(client)
        else:
            await self._read_pair(client, random.choice(self.pairs))

    async def _add(self, client: overdb.Client, key: bytes) -> None:
        recorder, before = self._recorder, self.seen[key]
        try:
            result = await client.transact(then=[overdb.Add(key)])
        except overdb.OutcomeUnknown as error:
            recorder.counts["unknown"] += 1
            result = await recorder.until_known(
                error, lambda again: client.transact(then=[overdb.Add(key)], request_id=again)
            )
            if result is None:
                self.maybe[key] += 1
                return
        except NO_ANSWER:
            recorder.counts["refused"] += 1
            return
        value = int(result.results[0].value)
        assert value > before, f"{key!r}: {value} after {before} had been read"
        self.seen[key] = max(self.seen[key], value)
        self.added[key] += 1
        recorder.counts["add"] += 1

    async def add_pair(self, client: overdb.Client) -> None:
        """To both or to none, also when this client dies in the middle."""
        pair = self._recorder.random.choice(self.pairs)
        operations = [overdb.Add(key) for key in pair]
        try:
            await client.transact(then=operations)
        except overdb.OutcomeUnknown as error:
            await self._recorder.until_known(
                error, lambda again: client.transact(then=operations, request_id=again)
            )
        except NO_ANSWER:
            return
        self._recorder.counts["add to both"] += 1

    async def _read_pair(self, client: overdb.Client, pair: tuple[bytes, bytes]) -> None:
        try:
            found = await client.transact(then=[overdb.Get(key) for key in pair])
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        left, right = (result.value for result in found.results)
        assert left == right, f"half of a transaction was seen: {pair!r} are {left!r} and {right!r}"
        self._recorder.counts["read both"] += 1

    async def check(self, client: overdb.Client) -> None:
        """At the end: as many as were acknowledged, and no more than were asked for."""
        for key in self.keys:
            found = await client.get(key)
            value = int(found.value) if found else 0
            least, most = self.added[key], self.added[key] + self.maybe[key]
            assert least <= value <= most, f"{key!r} is {value}; {least} to {most} adds ran"
        for left, right in self.pairs:
            a, b = await client.get(left), await client.get(right)
            assert (a and a.value) == (b and b.value), f"{left!r} and {right!r} differ at the end"
