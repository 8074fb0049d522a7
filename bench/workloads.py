"""What one call of each workload does, on any store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.stores import KeyValue, Store, by_group

VALUE = b"v" * 100
GROUPS = 2
CALLERS = (1, 16, 64, 256, 1024)
Row = tuple[str, int]  # workload, callers
ROWS: tuple[Row, ...] = (
    *(("get", n) for n in CALLERS),
    *(("put", n) for n in CALLERS),
    ("mix-90-10", 256),
    ("batch-100", 16),
    ("txn-one-group", 256),
    ("txn-two-groups", 256),
    ("scan-1000", 16),
    ("hot-key", 256),
)
QUICK_ROWS = tuple((w, n) for w, n in ROWS if n in {1, 16, 256} and (w, n) != ("put", 16))
ITEMS = {"batch-100": 100}  # of one call, where it is not 1
SCANNED = 1000
STRIDE = (
    7919  # a prime: neighbours in time are none in the key space; no divisor of the number of keys
)


def keys_of(count: int) -> list[bytes]:
    """All keys of a run, ascending."""
    return [b"key-%08d" % number for number in range(count)]


def parsed_rows(text: str) -> list[Row]:
    """Rows given as ``put:256,get:1``. Raises ValueError that says what is known."""
    workloads = list(dict.fromkeys(workload for workload, _ in ROWS))
    rows = []
    for part in text.split(","):
        workload, _, callers = part.partition(":")
        if workload not in workloads or not callers.isdigit() or not 0 < int(callers) <= 65536:
            raise ValueError(f"{part!r}: rows are WORKLOAD:CALLERS of {', '.join(workloads)}")
        rows.append((workload, int(callers)))
    return rows


def operations(store: KeyValue, keys: list[bytes]) -> dict[str, Callable[[int], Awaitable[None]]]:
    """What one call of each workload does; the number varies the keys, all of which are loaded."""
    groups = by_group(keys, GROUPS)
    count = len(keys)

    def key(number: int) -> bytes:
        return keys[number * STRIDE % count]

    async def put(number: int) -> None:
        await store.put(key(number), VALUE)

    async def get(number: int) -> None:
        if await store.get(key(number)) is None:
            raise LookupError("a key that was loaded is missing")

    async def mix(number: int) -> None:
        await (put(number) if number % 10 == 0 else get(number))

    async def hot(number: int) -> None:
        await store.put(keys[0], VALUE + b"%d" % (number % 10))

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
        await store.put_all(own[start : start + 100], VALUE)

    async def one_group(number: int) -> None:
        own, at = groups[number % GROUPS], number * STRIDE
        await store.put_all([own[at % len(own)], own[(at + 1) % len(own)]], VALUE)

    async def two_groups(number: int) -> None:
        at = number * STRIDE
        await store.put_all([own[at % len(own)] for own in groups], VALUE)

    async def scan(number: int) -> None:
        first = keys[number * STRIDE % (len(keys) - scanned)]
        if await store.scan(first, scanned) != scanned:
            raise LookupError("a scan came back short")

    return {
        "batch-100": batch,
        "txn-one-group": one_group,
        "txn-two-groups": two_groups,
        "scan-1000": scan,
    }
