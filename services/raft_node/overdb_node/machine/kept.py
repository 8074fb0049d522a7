"""What is kept of a result for retries, in place of the values that were read (PROTOCOL 2.10).

A value that a transaction has read lies in the store, under its key and version, as long as versions of that
time are kept. So what is kept names both, and a copy of the request has the value read again. What a client
can make the group keep is then bounded by what it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overdb_node.machine.types import (
    Code,
    Operation,
    OperationKind,
    OperationResult,
    Outcome,
    Refused,
    Result,
    Transacted,
    Vote,
)

# In memory, roughly:
RESULT_BYTES = 192  # a result, with its place under its id
OPERATION_BYTES = 64  # one operation's result, beside key and value
SESSION_BYTES = 512  # a client id with nothing kept
RECORD_BYTES = (
    1024  # a transaction over several groups or a request that waits, beside its form on disk
)

SMALL_BYTES = 64  # a value up to this is kept with the result

Results = tuple[OperationResult, ...]
# Newest version of a key at or below a version: (version, value; None for a tombstone).
ReadAt = Callable[[bytes, int], tuple[int, bytes | None] | None]


def strip(operations: Sequence[Operation], results: Results, own_version: int) -> Results:
    """Return results with keys in place of the values that can be read again.

    Those are the values of gets, of versions that were there before: an own write may be replaced within the
    same transaction. Small values are kept.
    """
    if not any(result.value for result in results):
        return results  # as of writes alone, nearly always
    return tuple(
        _without_value(operation, result, own_version)
        for operation, result in zip(operations, results, strict=True)
    )


def is_small(key: bytes, value: bytes) -> bool:
    """Whether a value is not worth being read again."""
    return len(value) <= max(len(key), SMALL_BYTES)


def _without_value(
    operation: Operation, result: OperationResult, own_version: int
) -> OperationResult:
    if (
        operation.kind is not OperationKind.GET
        or result.version == own_version
        or not result.found
        or is_small(operation.key, result.value)
    ):
        return result
    return OperationResult(result.found, b"", result.version, operation.key)


def is_stripped(result: Result | int) -> bool:
    """Whether values have to be read before this can be answered."""
    if isinstance(result, Transacted):
        return _lacks_values(result.results)
    return isinstance(result, Vote) and (
        _lacks_values(result.then) or _lacks_values(result.otherwise)
    )


def _lacks_values(results: Results | Refused) -> bool:
    return not isinstance(results, Refused) and any(result.key for result in results)


def read_again(
    result: Transacted | Vote, read_at: ReadAt, floor: int
) -> Transacted | Vote | Refused:
    """Return a stripped result with its values; a refusal when they are no longer kept."""
    if isinstance(result, Transacted):
        results = _with_values(result.results, read_at) if result.version >= floor else None
        return _gone(result.version, floor) if results is None else result._replace(results=results)
    if result.outcome in (Outcome.ABORTED, Outcome.NONE):
        return result  # nobody is told of results
    # While it is open its locks keep what it read the newest, so that is there.
    version = result.commit_version
    branches = []
    for branch in (result.then, result.otherwise):
        whole = branch if isinstance(branch, Refused) else _with_values(branch, read_at)
        if whole is None or (version and version < floor):
            return _gone(version, floor)
        branches.append(whole)
    return result._replace(then=branches[0], otherwise=branches[1])


def _with_values(results: Results, read_at: ReadAt) -> Results | None:
    whole = []
    for result in results:
        if not result.key:
            whole.append(result)
            continue
        found = read_at(result.key, result.version)
        if found is None or found[1] is None or found[0] != result.version:
            return None
        whole.append(OperationResult(result.found, found[1], result.version))
    return tuple(whole)


def value_bytes(result: Transacted | Vote) -> int:
    """Return the bytes of the values in a result."""
    if isinstance(result, Transacted):
        return sum(len(one.value) for one in result.results)
    branches = (result.then, result.otherwise)
    return sum(len(one.value) for each in branches if not isinstance(each, Refused) for one in each)


def _gone(version: int, floor: int) -> Refused:
    return Refused(
        Code.FAILED_PRECONDITION,
        f"the transaction ran before, at version {version}, and what it wrote is there; the values that it "
        f"read are no longer kept: the oldest version that can be read is {floor}. This copy was not run",
    )


def size_of(result: Result | int) -> int:
    """Return what a kept result counts for beside ``RESULT_BYTES``, in bytes; a function of it alone."""
    if isinstance(result, Refused):
        return len(result.message)
    if not isinstance(result, Transacted):
        return 0
    results = result.results
    if results and results.count(results[0]) == len(
        results
    ):  # one object, as of puts nearly always
        return OPERATION_BYTES + 16 * len(results) + len(results) * len(results[0].value)
    return sum(OPERATION_BYTES + len(one.value) + len(one.key) for one in results)
