"""Writers that remember what was acknowledged, to be compared with what the store has afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import overdb

# Between two requests of one writer: a load, not one that takes the machine from what is looked at.
PAUSE_SECONDS = 0.03
QUICK_PAUSE_SECONDS = 0.1  # of the quick size on this machine's processes
READ_AT_ONCE = 16
ADD_PAUSE_SECONDS = 0.15  # an add over two groups costs as much as five puts


@dataclass
class Written:
    """What one run of writers knows. Every writer has keys of its own and counts them up."""

    acknowledged: dict[bytes, int] = field(
        default_factory=dict
    )  # key -> largest value acknowledged
    attempted: dict[bytes, int] = field(default_factory=dict)  # key -> largest value ever sent
    acknowledgements: int = 0
    unknown: int = 0
    longest_gap_seconds: float = 0.0

    def problems(self, found: dict[bytes, int | None]) -> list[str]:
        """Acknowledged writes that are missing, and values that nobody can have written."""
        problems = []
        for key, least in self.acknowledged.items():
            value = found[key]
            if value is None or value < least:
                problems.append(f"{key!r}: acknowledged {least}, found {value}")
            elif value > self.attempted[key]:
                problems.append(f"{key!r}: found {value}, only {self.attempted[key]} was tried")
        return problems


class Writers:
    """``count`` concurrent writers over as many clients as ``clients``, until ``stop``.

    Every other client sends directly to the leaders. Values are at least ``value_bytes`` long: few of them
    fill a log. Each writer pauses for ``pause_seconds`` after a write.
    """

    def __init__(
        self,
        endpoints: list[str],
        count: int = 24,
        clients: int = 3,
        value_bytes: int = 0,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._endpoints = endpoints
        self._pause_seconds = pause_seconds
        self._value_bytes = value_bytes
        self._count = count
        self._clients_count = clients
        self._clients: list[overdb.Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._last = 0.0
        self.written = Written()

    async def __aenter__(self) -> Writers:
        self._clients = [
            overdb.Client(self._endpoints, timeout=60.0, direct=number % 2 == 0)
            for number in range(self._clients_count)
        ]
        self._last = asyncio.get_running_loop().time()
        for number in range(self._count):
            client = self._clients[number % self._clients_count]
            self._tasks.append(asyncio.create_task(self._write(number, client)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        for client in self._clients:
            await client.close()

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    @property
    def running(self) -> bool:
        return not self._stopping

    async def _write(self, number: int, client: overdb.Client) -> None:
        """Overwrite four keys, on all groups, and make a new one every second time.

        What was lost in the middle of a run is written over later, but for the keys that are written once.
        """
        written = self.written
        counter = 0
        while not self._stopping:
            counter += 1
            name = f"{counter // 2 % 4}" if counter % 2 else f"once-{counter}"
            key = f"writer-{number}-{name}".encode()
            written.attempted[key] = counter
            try:
                await client.put(key, str(counter).encode().ljust(self._value_bytes))
            except overdb.OutcomeUnknown:
                written.unknown += 1
                continue
            now = asyncio.get_running_loop().time()
            written.longest_gap_seconds = max(written.longest_gap_seconds, now - self._last)
            self._last = now
            written.acknowledged[key] = counter
            written.acknowledgements += 1
            await asyncio.sleep(self._pause_seconds)

    async def acknowledged_more(self, count: int, seconds_max: float = 120.0) -> None:
        """Return when ``count`` more writes were acknowledged; fail when it takes too long."""
        goal = self.written.acknowledgements + count
        deadline = asyncio.get_running_loop().time() + seconds_max
        while self.written.acknowledgements < goal:
            if asyncio.get_running_loop().time() > deadline:
                missing = goal - self.written.acknowledgements
                raise AssertionError(
                    f"not within {seconds_max} s: {missing} of {count} more writes"
                )
            await asyncio.sleep(0.02)

    async def read_back(self) -> dict[bytes, int | None]:
        """What the store has for every key that was tried."""
        async with overdb.Client(self._endpoints, timeout=60.0) as client:
            keys = list(self.written.attempted)
            values = [
                value
                for first in range(0, len(keys), READ_AT_ONCE)
                for value in await asyncio.gather(
                    *map(client.get, keys[first : first + READ_AT_ONCE])
                )
            ]
        return {
            key: None if value is None else int(value.value)
            for key, value in zip(keys, values, strict=True)
        }


class Adders:
    """Callers that add to counters in two groups at once, each one retry after the other under the same id.

    What they were told to have run must have run once, and nothing may fail: ``problems`` is for the end.
    """

    def __init__(self, client: overdb.Client, prefix: str, count: int = 8) -> None:
        self._client = client
        self._pairs = [
            (b"%s-a-%d" % (prefix.encode(), n), b"%s-b-%d" % (prefix.encode(), n))
            for n in range(count)
        ]
        self.done = [0] * count
        self.unknown = 0
        self.longest_seconds = 0.0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Adders:
        self._tasks = [asyncio.create_task(self._add(n)) for n in range(len(self._pairs))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _add(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        operations = [overdb.Add(key) for key in self._pairs[number]]
        while not self._stopping:
            began = loop.time()
            request_id: overdb.RequestId | None = None
            while True:
                try:
                    await self._client.transact(then=operations, request_id=request_id)
                    break
                except overdb.OutcomeUnknown as error:
                    self.unknown += 1
                    request_id = error.request_id
            self.done[number] += 1
            self.longest_seconds = max(self.longest_seconds, loop.time() - began)
            await asyncio.sleep(ADD_PAUSE_SECONDS)

    async def more(self, count: int, seconds_max: float = 120.0) -> None:
        """Return when ``count`` more adds are done."""
        goal = sum(self.done) + count
        async with asyncio.timeout(seconds_max):
            while sum(self.done) < goal:
                for task in self._tasks:
                    if task.done():
                        task.result()  # what it failed with
                await asyncio.sleep(0.02)

    async def problems(self, client: overdb.Client) -> list[str]:
        """Counters that are not what was acknowledged."""
        found = []
        for number, pair in enumerate(self._pairs):
            values = [await client.get(key) for key in pair]
            counts = [int(value.value) if value else 0 for value in values]
            if counts != [self.done[number]] * 2:
                found.append(f"{pair}: {counts}, acknowledged {self.done[number]}")
        return found
