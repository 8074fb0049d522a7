"""What can go wrong, as exceptions that say whether the request may have run.

The classes follow the gRPC status codes of the contract (``protos/overdb/v1/kv.proto``). One rule is
above all others: a write is reported as *not run* only where that is certain. Everything else is
:class:`OutcomeUnknown`, which carries the id that makes a retry exactly-once (PROTOCOL 2.2, 2.10).
"""

# ruff: noqa: N818  (named after the status codes, which everybody knows)

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from overdb.ids import RequestId


class Code(IntEnum):
    """The gRPC status codes, so that callers need no grpc import to look at ``error.code``."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class OverDBError(Exception):
    """Base of everything that a client raises about a request.

    ``code`` is the status code, ``details`` the ``google.rpc`` messages that came with it (an
    ``Any`` where the type is not known here), empty when there are none.
    """

    default_code = Code.UNKNOWN

    def __init__(
        self, message: str, *, code: Code | None = None, details: Iterable[Message] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.details: tuple[Message, ...] = tuple(details)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.message, self.code, {})


class InvalidArgument(OverDBError):
    """The request itself is wrong (names the field, the limit, the actual size). Not run."""

    default_code = Code.INVALID_ARGUMENT


class Unavailable(OverDBError):
    """No router, or no leader of the key's group, could be reached in time. Not run; try again."""

    default_code = Code.UNAVAILABLE


class Aborted(OverDBError):
    """A rival transaction was in the way (details name it). Not run; try again as a new request."""

    default_code = Code.ABORTED


class TransactionConflict(Aborted):
    """A key that a transaction read was changed by another before its commit. Nothing was written.

    ``key``: the first one that changed, None where that is not known. Run the transaction again, on
    new reads; :meth:`overdb.Client.run` does that.
    """

    def __init__(
        self,
        message: str,
        *,
        key: bytes | None = None,
        code: Code | None = None,
        details: Iterable[Message] = (),
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.message, self.code, {"key": self.key})


class DeadlineExceeded(OverDBError):
    """No answer in time for something that changes nothing, or that was never sent. Not run."""

    default_code = Code.DEADLINE_EXCEEDED


class OutcomeUnknown(OverDBError):
    """A write was sent and its answer did not come: it ran, or runs later, or never will.

    Calling the same method again with the same arguments and ``request_id=error.request_id`` is
    safe for most of an hour: the write runs once, whichever copy arrives first (PROTOCOL 2.10).
    ``client.transaction_status(error.request_id)`` asks what became of it without running anything.
    """

    default_code = Code.DEADLINE_EXCEEDED

    def __init__(
        self,
        message: str,
        *,
        request_id: RequestId,
        code: Code | None = None,
        details: Iterable[Message] = (),
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        extra = {"request_id": self.request_id}
        return _restored, (type(self), self.message, self.code, extra)


class ResourceExhausted(OverDBError):
    """A queue or a disk is full (the message names it). Not run; try again later."""

    default_code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(OverDBError):
    """Refused in the present state: an expired or stale id, a version below retention. Not run."""

    default_code = Code.FAILED_PRECONDITION


class OutOfRange(OverDBError):
    """A counter would leave the range of signed 64-bit numbers. Not run."""

    default_code = Code.OUT_OF_RANGE


class NotFound(OverDBError):
    """There is no such group. (A missing *key* is no error: ``get`` returns None.)"""

    default_code = Code.NOT_FOUND


class DataLoss(OverDBError):
    """A checksum did not match: stored data is damaged. Tell the operator."""

    default_code = Code.DATA_LOSS


class Unimplemented(OverDBError):
    """The server does not do this, or it is no OverDB router. Not run."""

    default_code = Code.UNIMPLEMENTED


class Internal(OverDBError):
    """A bug, or an answer that breaks the contract."""

    default_code = Code.INTERNAL


class ClientClosed(OverDBError):
    """The client was closed before the request was sent. Not run."""

    default_code = Code.CANCELLED


_CLASSES: dict[int, type[OverDBError]] = {
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.UNAVAILABLE: Unavailable,
    Code.ABORTED: Aborted,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    Code.FAILED_PRECONDITION: FailedPrecondition,
    Code.OUT_OF_RANGE: OutOfRange,
    Code.NOT_FOUND: NotFound,
    Code.DATA_LOSS: DataLoss,
    Code.UNIMPLEMENTED: Unimplemented,
    Code.INTERNAL: Internal,
}


def from_status(code: int, message: str, details: Iterable[bytes] = ()) -> OverDBError:
    """Return the exception for a status code; ``details`` are serialized ``google.protobuf.Any``."""
    known = Code(code) if code in Code.__members__.values() else Code.UNKNOWN
    error = _CLASSES.get(known, OverDBError)
    text = message or f"the server answered {known.name} without a message"
    return error(text, code=known, details=_decoded(details))


def _decoded(details: Iterable[bytes]) -> list[Message]:
    """Unpack what is known of ``google.rpc``; a detail that cannot be read is left out."""
    from google.protobuf.any_pb2 import Any as AnyMessage  # noqa: PLC0415  (only errors pay for it)
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    error_details: Any = import_module("google.rpc.error_details_pb2")  # it has no type stubs
    messages: list[Message] = []
    for raw in details:
        try:
            packed = AnyMessage.FromString(raw)
            name = packed.TypeName().rpartition(".")[2]
            known = getattr(error_details, name, None)
            messages.append(packed if known is None else known.FromString(packed.value))
        except DecodeError:
            continue
    return messages


def _restored(
    kind: type[OverDBError], message: str, code: Code, extra: dict[str, Any]
) -> OverDBError:
    """Rebuild an unpickled error (its details stay behind: messages do not pickle everywhere)."""
    return kind(message, code=code, **extra)
