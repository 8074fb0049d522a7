"""One transaction inside a group: all compares on the state before, then one branch in order (2.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from overdb_common.outcome import ANSWER_BYTES_MAX, COUNTING_LEVEL, answer_bytes
from overdb_node.machine.overlay import Overlay
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import (
    Code,
    Compare,
    Operation,
    OperationKind,
    OperationResult,
    Operator,
    Refused,
    Target,
    Transact,
    Transacted,
)

_COUNTER_MIN, _COUNTER_MAX = -(1 << 63), (1 << 63) - 1
_Value = tuple[int, bytes | None] | None


def holds(compare: Compare, newest: _Value) -> bool:
    """Whether a compare holds on the newest version of its key.

    A missing key has version 0 and no value: EQUAL, LESS and GREATER on its value are false, NOT_EQUAL is
    true. Values compare as bytes.
    """
    version, value = (0, None) if newest is None else newest
    if compare.target is Target.EXISTS:
        return (value is not None) == (compare.operand == (compare.operator is Operator.EQUAL))
    if compare.target is Target.VERSION:
        return _compare(compare.operator, 0 if value is None else version, compare.operand)
    if value is None:
        return compare.operator is Operator.NOT_EQUAL
    return _compare(compare.operator, value, compare.operand)


def _compare(operator: Operator, left: bytes | int, right: bytes | int) -> bool:
    if operator is Operator.EQUAL:
        return left == right
    if operator is Operator.NOT_EQUAL:
        return left != right
    if operator is Operator.LESS:
        return left < right  # type: ignore[operator]  # both are of the target's type
    return left > right  # type: ignore[operator]


class Branch:
    """Runs the operations of a branch against the state; nothing is written before ``commit``."""

    def __init__(self, overlay: Overlay, version: int, settings: MachineSettings) -> None:
        self._overlay = overlay
        self._version = version
        self._settings = settings
        self._written: dict[bytes, bytes | None] = {}
        self.answer_bytes = 0  # of the results, as the answer to the transaction counts them

    def run(self, operations: Iterable[Operation]) -> list[OperationResult] | Refused:
        """Run them in order; the first refusal is the whole branch's.

        What they read is bounded like what they write, and so is the whole answer: a client has to be able to
        receive it.
        """
        results, size = [], 0
        limit, counts = self._settings.request_bytes_max, self._settings.level >= COUNTING_LEVEL
        for operation in operations:
            result = self._run(operation)
            if isinstance(result, Refused):
                return result
            size += len(result.value)
            if size > limit:
                return self._too_large(
                    operation, "the values that the transaction reads", size, limit
                )
            if counts:
                self.answer_bytes += answer_bytes(len(result.value))
                if self.answer_bytes > ANSWER_BYTES_MAX:
                    what = "the values that the transaction reads, with what is around them"
                    return self._too_large(operation, what, self.answer_bytes, ANSWER_BYTES_MAX)
            results.append(result)
        return results

    @staticmethod
    def _too_large(operation: Operation, what: str, size: int, limit: int) -> Refused:
        return Refused(
            Code.INVALID_ARGUMENT,
            f"{what}, up to key {operation.key[:64]!r}, have {size} bytes, the limit is {limit}; nothing "
            "was done: read fewer keys at a time",
        )

    def _newest(self, key: bytes) -> _Value:
        if key in self._written:
            return self._version, self._written[key]
        return self._overlay.newest(key)

    def _has_value(self, key: bytes) -> bool:
        if key in self._written:
            return self._written[key] is not None
        return self._overlay.has_value(key)

    def _run(self, operation: Operation) -> OperationResult | Refused:
        kind, key, value, delta = operation
        if kind is OperationKind.PUT or kind is OperationKind.DELETE:
            found = self._has_value(key)
            self._written[key] = value if kind is OperationKind.PUT else None
            return OperationResult(found, b"", self._version)
        newest = self._newest(key)
        before = None if newest is None else newest[1]
        found = before is not None
        if kind is OperationKind.GET:
            if newest is None or before is None:
                return OperationResult(False, b"", 0)
            return OperationResult(True, before, newest[0])
        total = _parse_counter(before)
        if total is None:
            return Refused(
                Code.INVALID_ARGUMENT,
                f"add to key {key[:64]!r}: its value {(before or b'')[:32]!r} is no decimal number "
                "of 64 bits with sign; nothing was done",
            )
        total += delta
        if not _COUNTER_MIN <= total <= _COUNTER_MAX:
            return Refused(
                Code.OUT_OF_RANGE,
                f"add to key {key[:64]!r}: {total} does not fit 64 bits with sign; nothing was done",
            )
        text = b"%d" % total
        self._written[key] = text
        return OperationResult(found, text, self._version)

    def commit(self) -> None:
        write(self._overlay, self._written, self._version)


def written_by(
    operations: Sequence[Operation], results: Sequence[OperationResult]
) -> dict[bytes, bytes | None]:
    """What a branch writes, by key, once its operations have these results; nothing need be read for it."""
    written: dict[bytes, bytes | None] = {}
    for operation, result in zip(operations, results, strict=True):
        if operation.kind is OperationKind.PUT:
            written[operation.key] = operation.value
        elif operation.kind is OperationKind.DELETE:
            written[operation.key] = None
        elif operation.kind is OperationKind.ADD:
            written[operation.key] = result.value
    return written


def write(overlay: Overlay, written: Mapping[bytes, bytes | None], version: int) -> None:
    """Write what a branch comes to, in the order in which its keys were written first."""
    for key, value in written.items():
        overlay.write(key, version, value)


def _parse_counter(value: bytes | None) -> int | None:
    """The number that a counter's value is; None when it is none. A missing value counts as 0."""
    if value is None:
        return 0
    digits = value[1:] if value[:1] in (b"-", b"+") else value
    if not digits.isdigit() or len(digits) > 19:
        return None
    number = int(value)
    return number if _COUNTER_MIN <= number <= _COUNTER_MAX else None


def run(
    request: Transact, overlay: Overlay, version: int, settings: MachineSettings
) -> tuple[Transacted | Refused, Sequence[Operation]]:
    """Run a transaction at timestamp ``version``: all of a branch, or nothing when it is refused.

    Returns the operations of the branch too.
    """
    succeeded = all(holds(c, overlay.newest(c.key)) for c in request.compares)
    branch = Branch(overlay, version, settings)
    operations = request.then if succeeded else request.otherwise
    results = branch.run(operations)
    if isinstance(results, Refused):
        return results, operations
    branch.commit()
    return Transacted(succeeded, tuple(results), version), operations
