"""What clients saw, for the checkers, and the clients' habits that all workloads share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import overdb
from overdb.sharding import slot_of
from overdb_simulation.loop import VirtualLoop
from overdb_simulation.substitutes import World

T = TypeVar("T")

# Certainly not run.
NOT_RUN = (
    overdb.Unavailable,
    overdb.ResourceExhausted,
    overdb.Aborted,
    overdb.TransactionConflict,
)
# No answer to a read, or a write that was never sent.
NO_ANSWER = (*NOT_RUN, overdb.DeadlineExceeded)

GROUPS = 2  # of the simulated cluster


def spread(prefix: bytes, count: int, first: int = 0) -> list[bytes]:
    """Keys in the groups ``first``, ``first + 1``, ... in turn: what is to meet over groups must not be left
    to how names happen to hash."""
    keys = []
    for number in range(count):
        names = (prefix + b"%02d%c" % (number, letter) for letter in range(ord("a"), ord("z") + 1))
        group = (first + number) % GROUPS
        keys.append(next(name for name in names if slot_of(name) % GROUPS == group))
    return keys


class Opening:
    """What a workload writes once before its load, in one transaction."""

    def __init__(self, recorder: Recorder, puts: list[overdb.Put]) -> None:
        self._recorder = recorder
        self._puts = puts
        self._running = False
        self.done = False

    async def run(self, client: overdb.Client) -> None:
        """Try, unless another client does."""
        if self._running:
            return
        self._running = True
        try:
            await client.transact(then=self._puts)
            self.done = True
        except overdb.OutcomeUnknown as error:
            # If that stays unknown, nobody tries under another id: the first may come late, over the load's.
            self.done = await self._recorder.until_known(error, self._again(client)) is not None
        except NO_ANSWER:
            self._running = False

    def _again(self, client: overdb.Client) -> Callable[[overdb.RequestId], Awaitable[Any]]:
        return lambda request_id: client.transact(then=self._puts, request_id=request_id)

    async def finish(self, client: overdb.Client) -> None:
        """At the end, when nothing is wrong any more: a run in which it never came to be is told."""
        if not self.done:
            self._recorder.counts["opened at the end only"] += 1
            await client.transact(then=self._puts)
            self.done = True


class Recorder:
    """Shared by the workloads of one run: time, randomness, pace, and what was done."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self.loop: VirtualLoop = world.loop
        self.random = random
        self.counts: Counter[str] = Counter()
        self.stopping = False
        self.running = 0
        self.problems: list[str] = []  # what a workload saw that must not be

    @property
    def now(self) -> int:
        """Virtual nanoseconds."""
        return int(self.loop.time() * 1e9)

    @property
    def wall_us(self) -> int:
        """The wall clock of the client that asks."""
        return self._world.wall_ns() // 1000

    @property
    def sleeps(self) -> int:
        """How often all machines were suspended. What a scan has begun may be too old after it."""
        return self._world.sleeps

    async def repeat(self, pause: float, one: Callable[[], Awaitable[None]]) -> None:
        """Do one thing again and again until the run ends; what it raises fails the run."""
        self.running += 1
        try:
            while not self.stopping:
                await one()
                await asyncio.sleep(pause * (0.5 + self.random.random()))
        except Exception as error:  # nobody awaits this task: it must not end quietly
            self.problems.append(f"a client saw: {error!r}")
        finally:
            self.running -= 1

    async def until_known(
        self, error: overdb.OutcomeUnknown, again: Callable[[overdb.RequestId], Awaitable[Any]]
    ) -> Any:
        """Repeat a write under its id until its answer is known: it runs once, whichever came first.

        None when that can no longer be known: the id has expired or its result is forgotten.
        """
        for _ in range(40):
            try:
                return await again(error.request_id)
            except (overdb.OutcomeUnknown, *NO_ANSWER):
                await asyncio.sleep(0.2)
            except overdb.FailedPrecondition:
                return None
        return None
