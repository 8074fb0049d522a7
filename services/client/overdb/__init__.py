"""OverDB: a distributed, sharded key-value store with strictly serializable transactions.

``Client`` is for asyncio; ``overdb.sync.Client`` is the same for threads. What is imported here is
loaded at its first use, so that parts which need no gRPC start quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overdb._limits import Limits as Limits
    from overdb.client import Client as Client
    from overdb.errors import Aborted as Aborted
    from overdb.errors import ClientClosed as ClientClosed
    from overdb.errors import Code as Code
    from overdb.errors import DataLoss as DataLoss
    from overdb.errors import DeadlineExceeded as DeadlineExceeded
    from overdb.errors import FailedPrecondition as FailedPrecondition
    from overdb.errors import Internal as Internal
    from overdb.errors import InvalidArgument as InvalidArgument
    from overdb.errors import NotFound as NotFound
    from overdb.errors import OutcomeUnknown as OutcomeUnknown
    from overdb.errors import OutOfRange as OutOfRange
    from overdb.errors import OverDBError as OverDBError
    from overdb.errors import ResourceExhausted as ResourceExhausted
    from overdb.errors import TransactionConflict as TransactionConflict
    from overdb.errors import Unavailable as Unavailable
    from overdb.errors import Unimplemented as Unimplemented
    from overdb.ids import RequestId as RequestId
    from overdb.operations import Add as Add
    from overdb.operations import Compare as Compare
    from overdb.operations import Consistency as Consistency
    from overdb.operations import Delete as Delete
    from overdb.operations import Deleted as Deleted
    from overdb.operations import Get as Get
    from overdb.operations import KeyValue as KeyValue
    from overdb.operations import Operation as Operation
    from overdb.operations import OperationResult as OperationResult
    from overdb.operations import Put as Put
    from overdb.operations import TransactResult as TransactResult
    from overdb.operations import Value as Value
    from overdb.status import GroupTransactions as GroupTransactions
    from overdb.status import LockState as LockState
    from overdb.status import OpenTransaction as OpenTransaction
    from overdb.status import TransactionState as TransactionState
    from overdb.status import TransactionStatus as TransactionStatus
    from overdb.transaction import Transaction as Transaction

_HOMES = {
    "overdb._limits": ("Limits",),
    "overdb.client": ("Client",),
    "overdb.errors": (
        "Aborted",
        "ClientClosed",
        "Code",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "Internal",
        "InvalidArgument",
        "NotFound",
        "OutOfRange",
        "OutcomeUnknown",
        "OverDBError",
        "ResourceExhausted",
        "TransactionConflict",
        "Unavailable",
        "Unimplemented",
    ),
    "overdb.ids": ("RequestId",),
    "overdb.operations": (
        "Add",
        "Compare",
        "Consistency",
        "Delete",
        "Deleted",
        "Get",
        "KeyValue",
        "Operation",
        "OperationResult",
        "Put",
        "TransactResult",
        "Value",
    ),
    "overdb.status": (
        "GroupTransactions",
        "LockState",
        "OpenTransaction",
        "TransactionState",
        "TransactionStatus",
    ),
    "overdb.transaction": ("Transaction",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'overdb' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
