"""What the state machine should do, said as simply as it can be: no batches, no records, no speed."""

from __future__ import annotations

from overdb_node.machine.types import (
    Command,
    Compare,
    Delete,
    Deleted,
    Operation,
    OperationKind,
    OperationResult,
    Operator,
    Put,
    RequestId,
    Target,
    Transact,
    Transacted,
    Written,
)
from tests.unit.machine.helpers import HOUR, SECOND

KEPT, REUSED, GONE = "kept", "reused", "gone"  # why a request does not run
Outcome = Written | Deleted | Transacted | str  # a str: did nothing, for this reason


class Model:
    """Keeps everything for ever; what the machine may forget it must refuse, never run again."""

    def __init__(self) -> None:
        self.clock = 0
        self.physical = 0
        self.used = False
        self.versions: dict[bytes, dict[int, bytes | None]] = {}
        self.ran: dict[tuple[bytes, int], tuple[Command, Outcome]] = {}
        self.acknowledged: dict[bytes, int] = {}

    def begin(self, stamp: int) -> None:
        self.clock = max(self.clock + 1, stamp)
        self.physical = max(self.physical, stamp)
        self.used = False

    def take(self) -> int:
        self.clock += self.used
        self.used = True
        return self.clock

    def newest(self, key: bytes) -> tuple[int, bytes | None]:
        of_key = self.versions.get(key)
        return (max(of_key), of_key[max(of_key)]) if of_key else (0, None)

    def admits(self, request: RequestId) -> str | None:
        """Why a request that has not run may not: "gone" (stale or expired) or "ahead"."""
        created = int.from_bytes(request.client_id[:6], "big") * 1000
        if request.request_number < self.acknowledged.get(request.client_id, 0):
            return GONE
        if created + HOUR < self.physical:
            return GONE
        if max(created, request.started_at) > self.physical + 60 * SECOND:
            return "ahead"
        return None

    def acknowledge(self, request: RequestId) -> None:
        before = self.acknowledged.get(request.client_id, 0)
        self.acknowledged[request.client_id] = max(before, request.acknowledged_below)

    def run(self, command: Put | Delete | Transact) -> Outcome:
        if isinstance(command, Put):
            at = self.take()
            self.versions.setdefault(command.key, {})[at] = command.value
            return Written(at)
        if isinstance(command, Delete):
            existed = self.newest(command.key)[1] is not None
            at = self.take()
            self.versions.setdefault(command.key, {})[at] = None
            return Deleted(at, existed)
        held = all(map(self.holds, command.compares))
        at = self.clock + self.used
        state = {key: self.newest(key) for key in self.versions}
        before = dict(state)
        results = []
        for operation in command.then if held else command.otherwise:
            result = _step(state, operation, at)
            if result is None:
                return "state"
            results.append(result)
        self.take()
        for key, found in state.items():
            if found != before.get(key):
                self.versions.setdefault(key, {})[at] = found[1]
        return Transacted(held, tuple(results), at)

    def holds(self, compare: Compare) -> bool:
        version, value = self.newest(compare.key)
        there = value is not None
        if compare.target is Target.EXISTS:
            return (there is compare.operand) is (compare.operator is Operator.EQUAL)
        if compare.target is Target.VALUE and not there:
            return compare.operator is Operator.NOT_EQUAL
        left = value if compare.target is Target.VALUE else version if there else 0
        order = (left > compare.operand) - (left < compare.operand)  # type: ignore[operator]
        return {
            Operator.EQUAL: order == 0,
            Operator.NOT_EQUAL: order != 0,
            Operator.LESS: order < 0,
            Operator.GREATER: order > 0,
        }[compare.operator]


def _step(
    state: dict[bytes, tuple[int, bytes | None]], operation: Operation, at: int
) -> OperationResult | None:
    version, value = state.get(operation.key, (0, None))
    found = value is not None
    if operation.kind is OperationKind.GET:
        return OperationResult(found, value or b"", version if found else 0)
    if operation.kind is OperationKind.PUT:
        state[operation.key] = (at, operation.value)
        return OperationResult(found, b"", at)
    if operation.kind is OperationKind.DELETE:
        state[operation.key] = (at, None)
        return OperationResult(found, b"", at)
    try:
        total = int(value if value is not None else b"0") + operation.delta
    except ValueError:
        return None
    if not -(1 << 63) <= total < 1 << 63:
        return None
    state[operation.key] = (at, b"%d" % total)
    return OperationResult(found, b"%d" % total, at)


def same_request(one: Command, other: Command) -> bool:
    """Whether two commands under one id ask for the same."""
    if type(one) is not type(other) or not isinstance(one, Put | Delete | Transact):
        return False
    assert isinstance(other, Put | Delete | Transact)
    return other == one._replace(id=other.id)
