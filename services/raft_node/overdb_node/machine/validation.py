"""What a command may be. Routers check the same before; a replica trusts none of them."""

from __future__ import annotations

from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import (
    Code,
    Compare,
    OperationKind,
    Operator,
    Refused,
    Target,
    Transact,
)

_OPERATORS, _KINDS = frozenset(Operator), frozenset(OperationKind)
_OPERAND_TYPES = {Target.VALUE: bytes, Target.VERSION: int, Target.EXISTS: bool}


def _refuse(message: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, message)


def refuse_key(key: bytes, settings: MachineSettings) -> Refused | None:
    if 0 < len(key) <= settings.key_bytes_max:
        return None
    if not key:
        return _refuse("the key is empty")
    return _refuse(f"the key has {len(key)} bytes, the limit is {settings.key_bytes_max}")


def refuse_value(value: bytes, settings: MachineSettings) -> Refused | None:
    if len(value) <= settings.value_bytes_max:
        return None
    return _refuse(f"the value has {len(value)} bytes, the limit is {settings.value_bytes_max}")


def refuse_transact(request: Transact, settings: MachineSettings) -> Refused | None:
    """Why a transaction is malformed, by its first flaw."""
    operations = (*request.then, *request.otherwise)
    count = len(request.compares) + len(operations)
    if not count:
        return _refuse("the transaction has no compares and no operations")
    if count > settings.operations_max:
        return _refuse(
            f"the transaction has {count} compares and operations, the limit is {settings.operations_max}"
        )
    size = 0
    for compare in request.compares:
        refusal = refuse_key(compare.key, settings) or _refuse_compare(compare)
        if refusal is not None:
            return refusal
        size += len(compare.key)
        size += len(compare.operand) if isinstance(compare.operand, bytes) else 8
    for operation in operations:
        refusal = refuse_key(operation.key, settings) or refuse_value(operation.value, settings)
        if refusal is not None:
            return refusal
        if operation.kind not in _KINDS:
            return _refuse(f"the operation on key {operation.key[:64]!r} is not known")
        size += len(operation.key) + len(operation.value)
    if size > settings.request_bytes_max:
        return _refuse(f"the request has {size} bytes, the limit is {settings.request_bytes_max}")
    return None


def _refuse_compare(compare: Compare) -> Refused | None:
    key, operator, target, operand = compare
    if operator not in _OPERATORS or type(operand) is not _OPERAND_TYPES.get(target):
        return _refuse(
            f"the compare of key {key[:64]!r} has no target or no operator that is known"
        )
    if target is Target.EXISTS and operator not in (Operator.EQUAL, Operator.NOT_EQUAL):
        return _refuse(
            f"the compare of key {key[:64]!r} is on existence: it can only be EQUAL or NOT_EQUAL"
        )
    return None
