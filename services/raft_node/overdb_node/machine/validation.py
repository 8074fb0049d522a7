"""What a command may be. Routers check the same before; a replica trusts none of them."""

from __future__ import annotations

from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import Code, Operator, Refused, Target, Transact


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
        refusal = refuse_key(compare.key, settings)
        if refusal is not None:
            return refusal
        if compare.target is Target.EXISTS and compare.operator not in (
            Operator.EQUAL,
            Operator.NOT_EQUAL,
        ):
            return _refuse("a compare on existence can only be EQUAL or NOT_EQUAL")
        size += len(compare.key)
        size += len(compare.operand) if isinstance(compare.operand, bytes) else 8
    for operation in operations:
        refusal = refuse_key(operation.key, settings) or refuse_value(operation.value, settings)
        if refusal is not None:
            return refusal
        size += len(operation.key) + len(operation.value)
    if size > settings.request_bytes_max:
        return _refuse(f"the request has {size} bytes, the limit is {settings.request_bytes_max}")
    return None
