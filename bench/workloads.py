"""What one call of each workload does, on any store."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

from bench.stores import KeyValue, Store, by_group

VALUE_BYTES = 100
_POOL = random.Random(1).randbytes(4 << 20)  # what values are cut from: nothing compresses them
GROUPS = 2
CALLERS = (1, 16, 64, 256, 1024)
Row = tuple[str, int]  # workload, callers
# In the order in which a turn asks them: reads, then writes, the heaviest last. A read of etcd 3.4 copies a
# buffer that large writes leave grown.
WORKLOADS = (
    "get",
    "scan-1000",
    "mix-90-10",
    "put",
    "hot-key",
    "txn-one-group",
    "txn-two-groups",
    "batch-100",
)
ROWS: tuple[Row, ...] = tuple((workload, n) for workload in WORKLOADS for n in CALLERS)
QUICK_ROWS: tuple[Row, ...] = (
    ("get", 1),
    ("get", 16),
    ("get", 256),
    ("scan-1000", 16),
    ("mix-90-10", 256),
    ("put", 1),
    ("put", 256),
    ("hot-key", 256),
    ("txn-one-group", 256),
    ("txn-two-groups", 256),
    ("batch-100", 16),
)
# Calls a second of the slowest that is asked, about: how long a row with many callers takes at least.
SLOWEST = {
    "get": 5000.0,
    "scan-1000": 65.0,
    "mix-90-10": 5000.0,
    "put": 2000.0,
    "hot-key": 2000.0,
    "txn-one-group": 1500.0,
    "txn-two-groups": 1500.0,
    "batch-100": 500.0,
}
ITEMS = {"batch-100": 100}  # of one call, where it is not 1
SCANNED = 1000
PAUSE_SECONDS = 0.15  # between two rows: calls that end, garbage, what processes have used
# A prime: neighbours in time are none in the key space. No divisor of the number of keys.
STRIDE = 7919


def value_of(number: int, size: int = VALUE_BYTES) -> bytes:
    """A value that compresses to nothing less, and differs from those of the numbers around."""
    at = number * 131 % (len(_POOL) - size)
    return _POOL[at : at + size]


def keys_of(count: int) -> list[bytes]:
    """All keys of a run, ascending."""
    return [b"key-%08d" % number for number in range(count)]


def parsed_rows(text: str) -> list[Row]:
    """Rows given as ``put:256,get:1``. Raises ValueError that says what is known."""
    rows = []
    for part in text.split(","):
        workload, _, callers = part.partition(":")
        if workload not in WORKLOADS or not callers.isdigit() or not 0 < int(callers) <= 65536:
            raise ValueError(f"{part!r}: rows are WORKLOAD:CALLERS of {', '.join(WORKLOADS)}")
        rows.append((workload, int(callers)))
    return rows


def chosen_rows(asked: Sequence[Row], can: Sequence[Row]) -> list[Row]:
    """Those of the rows asked for that a system can do; other numbers of callers go by its workloads."""
    workloads = {workload for workload, _ in can}
    return [row for row in asked if row in can or (row not in ROWS and row[0] in workloads)]


def estimated_seconds(
    rows: Sequence[Row], times: tuple[float, float], slowest: dict[str, float]
) -> float:
    """How long the rows of one turn take: the window and the warm-up, or a call of each caller."""
    return sum(
        max(sum(times), callers / slowest[workload]) + PAUSE_SECONDS for workload, callers in rows
    )


def operations(store: KeyValue, keys: list[bytes]) -> dict[str, Callable[[int], Awaitable[None]]]:
    """What one call of each workload does; the number varies the keys, all of which are loaded."""
    groups = by_group(keys, GROUPS)
    count = len(keys)

    def key(number: int) -> bytes:
        return keys[number * STRIDE % count]

    async def put(number: int) -> None:
        await store.put(key(number), value_of(number))

    async def get(number: int) -> None:
        if await store.get(key(number)) is None:
            raise LookupError("a key that was loaded is missing")

    async def mix(number: int) -> None:
        # Puts go by a sequence of their own, or no key that is written would ever be read.
        await (put(number // 10) if number % 10 == 0 else get(number))

    async def hot(number: int) -> None:
        await store.put(keys[0], value_of(number))

    calls: dict[str, Callable[[int], Awaitable[None]]] = {
        "put": put,
        "get": get,
        "mix-90-10": mix,
        "hot-key": hot,
    }
    if isinstance(store, Store):
        calls |= _of_several_keys(store, keys, groups)
    return calls


def _of_several_keys(
    store: Store, keys: list[bytes], groups: list[list[bytes]]
) -> dict[str, Callable[[int], Awaitable[None]]]:
    scanned = min(SCANNED, len(keys) // 2)

    async def batch(number: int) -> None:
        own = groups[number % GROUPS]
        start = number * 100 % (len(own) - 100)
        some = own[start : start + 100]
        await store.put_all([(one, value_of(number + at)) for at, one in enumerate(some)])

    async def one_group(number: int) -> None:
        own, at = groups[number % GROUPS], number * STRIDE
        value = value_of(number)
        await store.put_all([(own[at % len(own)], value), (own[(at + 1) % len(own)], value)])

    async def two_groups(number: int) -> None:
        at = number * STRIDE
        value = value_of(number)
        await store.put_all([(own[at % len(own)], value) for own in groups])

    async def scan(number: int) -> None:
        first = number * STRIDE % (len(keys) - scanned)
        if await store.scan(keys[first], keys[first + scanned], scanned) != scanned:
            raise LookupError("a scan came back short")

    return {
        "batch-100": batch,
        "txn-one-group": one_group,
        "txn-two-groups": two_groups,
        "scan-1000": scan,
    }
