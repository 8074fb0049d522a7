"""Workloads that know what must always hold: a bank, lists that are appended to, a ring of keys."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

import overdb

PAUSED = (overdb.Unavailable, overdb.ResourceExhausted, overdb.Aborted)


@dataclass
class Tally:
    """What was done, for the test to see that it was enough."""

    committed: int = 0
    refused: int = 0  # a compare did not hold
    unknown: int = 0
    reads: int = 0
    by_client: dict[int, int] = field(default_factory=dict)


async def settle(
    client: overdb.Client, error: overdb.OutcomeUnknown, again: dict[str, Any]
) -> overdb.TransactResult:
    """Repeat a transaction under its id until its answer is known: it runs once, whichever came first."""
    request_id = error.request_id
    for _ in range(100):
        try:
            return await client.transact(**again, request_id=request_id)
        except overdb.OutcomeUnknown:
            await asyncio.sleep(0.05)
    raise AssertionError(f"{request_id} stays unknown")


class Bank:
    """Accounts over all groups; money moves and never comes to be or goes away."""

    def __init__(self, accounts: int = 100, each: int = 1000) -> None:
        self.keys = [b"account-%03d" % number for number in range(accounts)]
        self.each = each
        self.total = accounts * each
        self.tally = Tally()

    async def open(self, client: overdb.Client) -> None:
        await client.transact(then=[overdb.Put(key, b"%d" % self.each) for key in self.keys])

    async def move(self, number: int, client: overdb.Client, random: Random) -> None:
        """One transfer: guarded by what was read, so it is refused when somebody was in between."""
        source, target = random.sample(self.keys, 2)
        try:
            before = await client.transact(then=[overdb.Get(source), overdb.Get(target)])
            has, gets = (int(result.value) for result in before.results)
            amount = random.randint(1, 20)
            done = await client.transact(
                compares=[
                    overdb.Compare.value(source, "==", b"%d" % has),
                    overdb.Compare.value(target, "==", b"%d" % gets),
                ],
                then=[
                    overdb.Put(source, b"%d" % (has - amount)),
                    overdb.Put(target, b"%d" % (gets + amount)),
                ],
            )
        except overdb.OutcomeUnknown:
            self.tally.unknown += 1
            return
        except PAUSED:
            return
        if done.succeeded:
            self.tally.committed += 1
            self.tally.by_client[number] = self.tally.by_client.get(number, 0) + 1
        else:
            self.tally.refused += 1

    async def check_strictly(self, client: overdb.Client) -> None:
        try:
            found = await client.transact(then=[overdb.Get(key) for key in self.keys])
        except (overdb.OutcomeUnknown, *PAUSED):
            return
        total = sum(int(result.value) for result in found.results)
        assert total == self.total, f"a strict read found {total}"
        self.tally.reads += 1

    async def check_snapshot(self, client: overdb.Client) -> None:
        try:
            items = [item async for item in client.scan(b"account-", b"account.")]
        except (overdb.OutcomeUnknown, *PAUSED):
            return
        total = sum(int(item.value) for item in items)
        assert (len(items), total) == (len(self.keys), self.total), f"a snapshot found {total}"
        self.tally.reads += 1


@dataclass
class Appended:
    """One transaction of the list workload: what each key held, and whether its mark was added."""

    mark: int
    began: float
    ended: float
    read: dict[bytes, tuple[int, ...]]


class Lists:
    """Each transaction reads some lists and appends its own mark to all of them."""

    def __init__(self, keys: int = 6) -> None:
        self.keys = [b"list-%d" % number for number in range(keys)]
        self.history: list[Appended] = []
        self.marks = 0
        self.tally = Tally()

    async def append(self, client: overdb.Client, random: Random) -> None:
        keys = random.sample(self.keys, random.randint(2, 3))
        self.marks += 1
        mark, began = self.marks, time.monotonic()
        try:
            seen = await client.transact(then=[overdb.Get(key) for key in keys])
            held = dict(zip(keys, seen.results, strict=True))
        except (overdb.OutcomeUnknown, *PAUSED):
            return
        append: dict[str, Any] = {
            "compares": [
                overdb.Compare.version(key, "==", result.version) for key, result in held.items()
            ],
            "then": [overdb.Put(key, one.value + b"%d " % mark) for key, one in held.items()],
        }
        try:
            done = await client.transact(**append)
        except overdb.OutcomeUnknown as error:
            self.tally.unknown += 1
            done = await settle(client, error, append)
        except PAUSED:
            return
        if done.succeeded:
            self.tally.committed += 1
            read = {key: _marks(result.value) for key, result in held.items()}
            self.history.append(Appended(mark, began, time.monotonic(), read))

    def check(self, final: dict[bytes, bytes]) -> None:
        """No cycle of ww, wr, rw and real time (G0, G1, G2), every mark once, none missing."""
        order = {key: _marks(value) for key, value in final.items()}
        for key, marks in order.items():
            assert len(marks) == len(set(marks)), f"{key!r}: a mark is there twice"
        position = {(key, m): i for key, marks in order.items() for i, m in enumerate(marks)}
        after: dict[int, set[int]] = {one.mark: set() for one in self.history}
        for one in self.history:
            for key, read in one.read.items():
                assert (key, one.mark) in position, f"{one.mark} is missing from {key!r}"
                assert order[key][: len(read)] == read, f"{one.mark} read what never was: {key!r}"
                if read and read[-1] in after:
                    after[read[-1]].add(one.mark)
                assert order[key][len(read)] == one.mark, "somebody came between read and append"
        ended = sorted(self.history, key=lambda one: one.ended)
        for one in self.history:
            for earlier in ended:
                if earlier.ended >= one.began:
                    break
                after[earlier.mark].add(one.mark)
        _check_acyclic(after)


def _marks(value: bytes) -> tuple[int, ...]:
    return tuple(int(mark) for mark in value.split())


def _check_acyclic(after: dict[int, set[int]]) -> None:
    waits = dict.fromkeys(after, 0)
    for following in after.values():
        for node in following:
            waits[node] += 1
    ready = [node for node, count in waits.items() if not count]
    seen = 0
    while ready:
        seen += 1
        for node in after[ready.pop()]:
            waits[node] -= 1
            if not waits[node]:
                ready.append(node)
    assert seen == len(after), "a cycle among the transactions"


class Ring:
    """Every key names the next one. A transaction takes a key out and puts it in elsewhere."""

    def __init__(self, size: int = 12) -> None:
        self.keys = [b"ring-%02d" % number for number in range(size)]
        self.tally = Tally()

    async def open(self, client: overdb.Client) -> None:
        following = self.keys[1:] + self.keys[:1]
        pairs = zip(self.keys, following, strict=True)
        await client.transact(then=[overdb.Put(key, to) for key, to in pairs])

    async def relink(self, client: overdb.Client, random: Random) -> None:
        """before -> moved -> behind, place -> next: becomes before -> behind, place -> moved -> next."""
        before, place = random.sample(self.keys, 2)
        try:
            moved = await self._next(client, before)
            if moved == place:
                return
            behind, following = await self._next(client, moved), await self._next(client, place)
            links = {before: moved, moved: behind, place: following}
            done = await client.transact(
                compares=[overdb.Compare.value(key, "==", to) for key, to in links.items()],
                then=[
                    overdb.Put(before, behind),
                    overdb.Put(moved, following),
                    overdb.Put(place, moved),
                ],
            )
            self.tally.committed += done.succeeded
        except overdb.OutcomeUnknown:
            self.tally.unknown += 1
        except PAUSED:
            return

    async def _next(self, client: overdb.Client, key: bytes) -> bytes:
        found = await client.get(key)
        assert found is not None
        return found.value

    async def check(self, client: overdb.Client, *, strictly: bool) -> None:
        try:
            if strictly:
                read = await client.transact(then=[overdb.Get(key) for key in self.keys])
                links = dict(zip(self.keys, (one.value for one in read.results), strict=True))
            else:
                links = {item.key: item.value async for item in client.scan(b"ring-", b"ring.")}
        except (overdb.OutcomeUnknown, *PAUSED):
            return
        key, steps = self.keys[0], 0
        while steps < len(self.keys):
            key, steps = links[key], steps + 1
            if key == self.keys[0]:
                break
        assert (key, steps) == (self.keys[0], len(self.keys)), f"the ring is broken: {links}"
        self.tally.reads += 1
