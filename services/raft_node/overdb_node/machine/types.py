"""The values that the state machine works on. No protobuf here: ``codec.py`` beside the node converts."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class RequestId(NamedTuple):
    """Names a request for exactly-once execution (PROTOCOL 2.2, 2.10)."""

    client_id: bytes  # 16 bytes, UUIDv7
    request_number: int  # from 1
    started_at: int  # microseconds since the epoch by the client's clock
    acknowledged_below: int  # every number below this has its answer


class Put(NamedTuple):
    key: bytes
    value: bytes
    id: RequestId


class Delete(NamedTuple):
    key: bytes
    id: RequestId


class Operator(IntEnum):
    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    GREATER = 4


class Target(IntEnum):
    """What of a key is compared."""

    VALUE = 1
    VERSION = 2
    EXISTS = 3


class Compare(NamedTuple):
    key: bytes
    operator: Operator
    target: Target
    operand: bytes | int | bool  # bytes for VALUE, int for VERSION, bool for EXISTS


class OperationKind(IntEnum):
    GET = 1
    PUT = 2
    DELETE = 3
    ADD = 4


class Operation(NamedTuple):
    kind: OperationKind
    key: bytes
    value: bytes = b""  # of a PUT
    delta: int = 0  # of an ADD, signed 64 bits


class Transact(NamedTuple):
    id: RequestId
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]


class Advance(NamedTuple):
    """Raise the clock to at least ``version`` (PROTOCOL 2.7)."""

    version: int


Command = Put | Delete | Transact | Advance


class Code(IntEnum):
    """gRPC status codes that the state machine answers with."""

    INVALID_ARGUMENT = 3
    FAILED_PRECONDITION = 9
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11
    DATA_LOSS = 15


class Written(NamedTuple):
    """Result of a Put."""

    version: int


class Deleted(NamedTuple):
    version: int
    existed: bool


class OperationResult(NamedTuple):
    found: bool
    value: bytes
    version: int


class Transacted(NamedTuple):
    succeeded: bool
    results: tuple[OperationResult, ...]
    version: int


class Advanced(NamedTuple):
    clock: int


class Refused(NamedTuple):
    """The request did nothing. ``message`` names the thing and the limit."""

    code: Code
    message: str


class WrongGroup(NamedTuple):
    """A key's slot is not owned by this group; nothing was done."""

    epoch: int


Result = Written | Deleted | Transacted | Advanced | Refused | WrongGroup


class Behind(NamedTuple):
    """A version was asked for that this group's clock has not reached."""

    clock: int


ReadRefusal = Behind | Refused | WrongGroup


class Batch(NamedTuple):
    """What the host writes to disk as one, along with the applied index."""

    versions: list[tuple[bytes, int, bytes | None]]  # key, version, value or None for a tombstone
    records: list[tuple[bytes, bytes | None]]  # name, content or None to delete
