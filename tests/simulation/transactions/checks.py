"""What a schedule may end with: whole transactions, once each, in an order that time does not contradict."""

from __future__ import annotations

from itertools import pairwise

from overdb_node.machine.types import OperationKind
from tests.simulation.transactions.world import Request, World


def check(world: World) -> None:
    """Raises AssertionError at the first violation."""
    history = _versions(world)
    for number, request in enumerate(world.requests):
        _check_whole(number, request, history)
    _check_snapshots_cover(world)
    everything = set(range(len(world.requests)))
    # Strict serializability of all but snapshots; those fit a serial order that is not that of time (2.7).
    _check_serializable(world, history, everything - world.snapshots, real_time=True)
    _check_serializable(world, history, everything, real_time=False)


def _versions(world: World) -> dict[bytes, list[tuple[int, bytes]]]:
    """All versions of every key, oldest first. Values name the request that wrote them."""
    history = {}
    for key in world.keys:
        store = world.groups[world.owner[key]].store
        versions = []
        at = None
        while (found := store.newest(key, at)) is not None:
            assert found[1] is not None
            versions.append((found[0], found[1]))
            at = found[0] - 1
        history[key] = versions[::-1]
    return history


def _writes(request: Request) -> dict[bytes, bytes]:
    if request.results is None or not request.succeeded:
        return {}
    return {op.key: op.value for op in request.then if op.kind is OperationKind.PUT}


def _check_whole(
    number: int, request: Request, history: dict[bytes, list[tuple[int, bytes]]]
) -> None:
    """Its writes are there once each, all at its version, or there is none of them."""
    mine = b"%d" % (number + 1)
    found = [(k, v) for k, versions in history.items() for v, value in versions if value == mine]
    keys = sorted(key for key, _ in found)
    expected = sorted(_writes(request))
    answered = request.failed or request.results is not None
    assert answered, f"request {number} was never answered"
    assert keys == expected, f"request {number} wrote {keys}, not {expected}"
    for key, version in found:
        assert version == request.version, f"{key!r} at {version}, committed at {request.version}"


def _check_snapshots_cover(world: World) -> None:
    """A snapshot has everything that was acknowledged before it began (2.7)."""
    for number in world.snapshots:
        reader = world.requests[number]
        for request in world.requests:
            if request.answered is None or reader.began is None or request.answered >= reader.began:
                continue
            for key in _writes(request):
                for seen in _reads(reader, key):
                    assert seen >= request.version, f"{key!r} at {request.version} was not seen"


def _check_serializable(
    world: World,
    history: dict[bytes, list[tuple[int, bytes]]],
    among: set[int],
    *,
    real_time: bool,
) -> None:
    """No cycle of what read what, what overwrote what, and what ended before what began."""
    after: dict[int, set[int]] = {n: set() for n in range(len(world.requests))}
    readers = [(n, one) for n, one in enumerate(world.requests) if n in among]
    writer = {
        (key, version): int(value) - 1
        for key, versions in history.items()
        for version, value in versions
    }
    for key, versions in history.items():
        order = [writer[key, version] for version, _ in versions]
        for before, later in pairwise(order):
            after[before].add(later)
        at = {version: position for position, (version, _) in enumerate(versions)}
        for number, request in readers:
            for seen in _reads(request, key):
                if seen:
                    assert seen in at, f"request {number} read {key!r} at {seen}: never written"
                    if order[at[seen]] != number:
                        after[order[at[seen]]].add(number)
                following = at[seen] + 1 if seen else 0
                if following < len(order) and order[following] != number:
                    after[number].add(order[following])
    for one, first in readers if real_time else ():
        for other, second in readers:
            ended, began = first.answered, second.began
            if one != other and ended is not None and began is not None and ended < began:
                after[one].add(other)
    _check_acyclic(after)


def _reads(request: Request, key: bytes) -> list[int]:
    """Versions of the key that the request saw before its own write; 0 for none."""
    if request.results is None:
        return []
    branch = request.then if request.succeeded else request.otherwise
    return [
        result.version
        for operation, result in zip(branch, request.results, strict=True)
        if operation.key == key and operation.kind is OperationKind.GET
    ]


def _check_acyclic(after: dict[int, set[int]]) -> None:
    done: set[int] = set()
    path: list[int] = []

    def visit(node: int) -> None:
        assert node not in path, f"a cycle: {path[path.index(node) :]}"
        if node in done:
            return
        path.append(node)
        for following in after[node]:
            visit(following)
        path.pop()
        done.add(node)

    for node in after:
        visit(node)
