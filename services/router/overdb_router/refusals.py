"""What a request is refused with: a gRPC status code, one line for people, and google.rpc details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from overdb.v1 import kv_pb2

_CODES = {code.value[0]: code for code in grpc.StatusCode}

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
ABORTED = grpc.StatusCode.ABORTED.value[0]
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION.value[0]
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]
INTERNAL = grpc.StatusCode.INTERNAL.value[0]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


class Refusal(NamedTuple):
    """Why a request was not answered. ``details`` are serialized ``google.protobuf.Any``."""

    code: int
    message: str
    details: tuple[bytes, ...] = ()

    def fill(self, error: kv_pb2.Error) -> None:
        """Write this into the error of a Batch entry."""
        error.code = self.code
        error.message = self.message
        error.details.extend(self.details)


class Refused(Exception):  # noqa: N818 - it says what happened to the request
    """Carries a Refusal to the RPC that answers it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def invalid(field: str, description: str) -> Refusal:
    """Return INVALID_ARGUMENT with a ``google.rpc.BadRequest`` that names the field."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    return _with_detail(
        INVALID_ARGUMENT,
        f"{field}: {description}",
        error_details_pb2.BadRequest(field_violations=[violation]),
    )


def resource_exhausted(subject: str, description: str) -> Refusal:
    """Return RESOURCE_EXHAUSTED with a ``google.rpc.QuotaFailure`` that names what is full."""
    violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    return _with_detail(
        RESOURCE_EXHAUSTED,
        f"{subject}: {description}",
        error_details_pb2.QuotaFailure(violations=[violation]),
    )


def with_reason(code: int, message: str, reason: str, metadata: Mapping[str, str]) -> Refusal:
    """Return a refusal with a ``google.rpc.ErrorInfo``, for programs to read."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="overdb", metadata=metadata)
    return _with_detail(code, message, info)


def from_error(error: kv_pb2.Error) -> Refusal:
    """Return what a replica said."""
    return Refusal(error.code, error.message, tuple(error.details))


def code_name(code: int) -> str:
    """Return the name of a gRPC status code."""
    known = _CODES.get(code)
    return known.name if known is not None else str(code)


async def abort(context: grpc.aio.ServicerContext, refusal: Refusal) -> NoReturn:  # type: ignore[type-arg]
    """End the call with this refusal, its details in ``grpc-status-details-bin``."""
    metadata: Sequence[tuple[str, bytes]] = ()
    if refusal.details:
        status = status_pb2.Status(code=refusal.code, message=refusal.message)
        for detail in refusal.details:
            status.details.add().ParseFromString(detail)
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    code = _CODES.get(refusal.code, grpc.StatusCode.UNKNOWN)
    await context.abort(code, refusal.message, metadata)
    raise AssertionError("abort returned")


def _with_detail(
    code: int,
    message: str,
    detail: Message,
) -> Refusal:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return Refusal(code, message, (packed.SerializeToString(),))
